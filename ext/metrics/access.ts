/**
 * Who may read the metrics.
 *
 * @module
 */

import { having } from "../../core/checks.ts";
import { equalsInConstantTime } from "../../core/signatures.ts";
import type { Awaitable } from "../../mod.ts";

/** Such as a handler, or the options, in its place. */
export const checkPusher = having(["meter", "stats"], "be a Pusher");

/** Who may read, as the options say. */
export interface Access {
  readonly from: "loopback" | "private";
  readonly token: string | undefined;
  readonly authorize:
    | ((
      request: Request,
      info: Deno.ServeHandlerInfo | undefined,
    ) => Awaitable<boolean>)
    | undefined;
}

/** Why a request is refused, and what to do; null if it is permitted. */
export async function refusalOf(
  request: Request,
  info: Deno.ServeHandlerInfo | undefined,
  { from, token, authorize }: Access,
): Promise<Response | null> {
  if (authorize !== undefined) {
    // Only the boolean: an object, such as a response, is no permission.
    if (await authorize(request, info) === true) return null;
    return say(403, "The program does not let you read the metrics\n");
  }
  if (token !== undefined) {
    const given = /^Bearer +(\S+)$/i.exec(
      request.headers.get("authorization") ?? "",
    );
    if (equalsInConstantTime(token, given?.[1] ?? "")) return null;
    return say(401, "Send the token: authorization: Bearer TOKEN\n", {
      "www-authenticate": "Bearer",
    });
  }
  const problem = problemOf(request, info, from);
  return problem === null ? null : say(403, `${problem}\n`);
}

/** What is wrong with where a request comes from. */
function problemOf(
  { headers, url }: Request,
  info: Deno.ServeHandlerInfo | undefined,
  from: "loopback" | "private",
): string | null {
  const address = info?.remoteAddr;
  if (address === undefined) {
    return "Where the request comes from is not known: pass the `info` of " +
      "Deno.serve on to the handler, or give metrics() a token";
  }
  const forwarded = FORWARDING.find((name) => headers.has(name));
  if (forwarded !== undefined) {
    return `A proxy has forwarded the request, as ${forwarded} says: ask the ` +
      "server itself, or give metrics() a token";
  }
  // Whoever can open the file of a Unix socket is on this machine.
  if (!("hostname" in address)) return null;
  if (isLoopback(address.hostname)) {
    const host = URL.parse(url)?.hostname ?? "";
    // A proxy on this machine may say nothing of itself, and a page may have its
    // name resolved to this machine. In both, the name is that of a host elsewhere.
    if (isLocalName(host)) return null;
    return "The request has another host than this machine: ask localhost, or " +
      "give metrics() a token";
  }
  if (from === "private" && isPrivate(address.hostname)) return null;
  return from === "private"
    ? "Metrics are for private networks: give metrics() a token for others"
    : "Metrics are for this machine: give metrics() a token, or let private " +
      'networks read them, with from: "private"';
}

/** Headers that proxies add. */
const FORWARDING = Object.freeze([
  "forwarded",
  "via",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-proto",
  "x-real-ip",
]);

/** Whether a host, as it stands in a URL, is this machine. */
function isLocalName(host: string): boolean {
  const name = host.replace(/\.$/, "");
  return name === "localhost" || name.endsWith(".localhost") ||
    isLoopback(name.replace(/^\[|\]$/g, ""));
}

/** An IPv4 address as it is or inside an IPv6 address; else undefined. */
function ipv4Of(address: string): number[] | undefined {
  const text = address.replace(/^::ffff:/i, "");
  if (!/^\d+\.\d+\.\d+\.\d+$/.test(text)) return undefined;
  return text.split(".").map(Number);
}

export function isLoopback(address: string): boolean {
  return address === "::1" || ipv4Of(address)?.[0] === 127;
}

/** Whether an address is of a private network, such as that of a cluster. */
export function isPrivate(address: string): boolean {
  const [a = 0, b = 0] = ipv4Of(address) ?? [];
  return isLoopback(address) || a === 10 ||
    (a === 172 && b >= 16 && b < 32) || (a === 192 && b === 168) ||
    (a === 169 && b === 254) || (a === 100 && b >= 64 && b < 128) ||
    /^f[cd][0-9a-f]{2}:|^fe[89ab][0-9a-f]:/i.test(address);
}

/** An answer in text. */
export function say(
  status: number,
  text: string,
  headers: Record<string, string> = {},
): Response {
  return new Response(text, {
    status,
    headers: {
      "content-type": "text/plain; charset=utf-8",
      "cache-control": "no-store",
      ...headers,
    },
  });
}
