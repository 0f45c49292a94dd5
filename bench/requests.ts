/**
 * Publishes for the load generator, signed beforehand: its clock runs for the
 * server alone.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { Pusher } from "../mod.ts";
import { APP, FOLDER } from "./peer.ts";

/** Requests for the events `0` to `count`, event `k` on channel `c{k % channels}`. */
export interface RequestSet {
  count: number;
  channels: number;
  /** The size of an event's data. */
  bytes: number;
}

/** Servers accept a signature for ten minutes; a set is in use for less than one. */
const AGE_MS = 300_000;

const made = new Map<string, { file: string; at: number }>();

const signer = new Pusher({ appId: APP.id, key: APP.key, secret: APP.secret });

/** Writes the requests, each with its length in front, and returns the file. */
export async function signRequests(set: RequestSet): Promise<string> {
  const name = `requests-${Deno.pid}-${set.count}-${set.channels}-${set.bytes}`;
  const known = made.get(name);
  if (known && Date.now() - known.at < AGE_MS) return known.file;
  const folder = new URL("requests/", FOLDER);
  await Deno.mkdir(folder, { recursive: true });
  const file = fileURLToPath(new URL(name, folder));
  const parts = Array.from({ length: set.count }, (_, k) => request(set, k));
  const size = parts.reduce((sum, part) => sum + 4 + part.length, 0);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  const encoder = new TextEncoder();
  let at = 0;
  for (const part of parts) {
    view.setUint32(at, part.length, true);
    encoder.encodeInto(part, bytes.subarray(at + 4));
    at += 4 + part.length;
  }
  await Deno.writeFile(file, bytes);
  made.set(name, { file, at: Date.now() });
  return file;
}

/** Removes all files of this process. */
export async function removeRequests(): Promise<void> {
  for (const { file } of made.values()) await Deno.remove(file);
  made.clear();
}

/** All in ASCII, so that its length is that of its bytes. */
function request({ channels, bytes }: RequestSet, k: number): string {
  const mark = `@t${String(k).padStart(8, "0")} `;
  const channel = `c${k % channels}`;
  const body = JSON.stringify({
    name: "m",
    channel,
    data: mark.padEnd(bytes, "x"),
  });
  const path = `/apps/${APP.id}/events`;
  const query = signer.createSignedQueryString({ method: "POST", path, body });
  return [
    `POST ${path}?${query} HTTP/1.1`,
    "Host: 127.0.0.1",
    "Connection: keep-alive",
    "Content-Type: application/json",
    `Content-Length: ${body.length}`,
    "",
    body,
  ].join("\r\n");
}
