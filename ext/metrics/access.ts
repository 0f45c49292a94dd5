/**
 * Who may read the metrics.
 *
 * @module
 */

import { having } from "../../core/checks.ts";
import { equalsInConstantTime } from "../../core/signatures.ts";
import type { Awaitable } from "../../mod.ts";
import { placeOf } from "../../core/places.ts";

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
  request: Request,
  info: Deno.ServeHandlerInfo | undefined,
  from: "loopback" | "private",
): string | null {
  const place = placeOf(request, info);
  switch (place.kind) {
    case "here":
    // Whoever can open the file of a Unix socket is on this machine.
    case "file":
      return null;
    case "unknown":
      return "Where the request comes from is not known: pass the `info` of " +
        "Deno.serve on to the handler, or give metrics() a token";
    case "forwarded":
      return `A proxy has forwarded the request, as ${place.header} says: ask ` +
        "the server itself, or give metrics() a token";
    case "renamed":
      return "The request has another host than this machine: ask localhost, " +
        "or give metrics() a token";
    case "private":
    case "elsewhere":
      if (from === "loopback") {
        return "Metrics are for this machine: give metrics() a token, or let " +
          'private networks read them, with from: "private"';
      }
      return place.kind === "private"
        ? null
        : "Metrics are for private networks: give metrics() a token for others";
  }
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
