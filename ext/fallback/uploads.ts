/**
 * The requests that carry frames of a client.
 *
 * @module
 */

import { decodeUtf8 } from "../../core/http.ts";
import { Refusal } from "../../core/limits.ts";
import { parseJson } from "../../core/protocol.ts";

/**
 * Uploads of a session that are read at once. A client that joins as many channels
 * as it may at once sends 200.
 */
export const MAX_UPLOADS = 256;
// As many as may be on their way, and may come again.
const MAX_REMEMBERED = MAX_UPLOADS;
// As many as the server takes at once; see `limits.framesBurst`.
const MAX_FRAMES = 1_000;

/** Why an upload is refused. */
export const REFUSAL = Object.freeze({
  NotJson: new Refusal(400, "The body is not JSON"),
  NotStrings: new Refusal(400, "The body is not an array of strings"),
  UnknownSession: new Refusal(404, "There is no such session"),
  TooManyUploads: new Refusal(
    429,
    `The session is sending ${MAX_UPLOADS} requests already`,
  ),
});

/** The frames in the body of an upload. */
export function parseFrames(body: Uint8Array): string[] | Refusal {
  const frames = parseJson(decodeUtf8(body) ?? "");
  if (frames === undefined) return REFUSAL.NotJson;
  if (!isStrings(frames)) return REFUSAL.NotStrings;
  if (frames.length <= MAX_FRAMES) return frames;
  const error =
    `The body has ${frames.length} frames, at most ${MAX_FRAMES} fit`;
  return new Refusal(400, error);
}

function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) &&
    value.every((item) => typeof item === "string");
}

/** The numbers of the last uploads of a session, by which retries are recognized. */
export class SeenUploads {
  readonly #numbers = new Set<number>();

  /** Remembers an upload; returns whether it is new. */
  add(number: number): boolean {
    if (this.#numbers.has(number)) return false;
    this.#numbers.add(number);
    if (this.#numbers.size > MAX_REMEMBERED) {
      const [oldest = number] = this.#numbers;
      this.#numbers.delete(oldest);
    }
    return true;
  }
}
