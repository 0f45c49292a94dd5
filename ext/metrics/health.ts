/**
 * Health checks, for load balancers and orchestrators.
 *
 * @module
 */

import {
  type Check,
  copyOptions,
  type Field,
  matching,
  objectOf,
  optionOf,
} from "../../core/checks.ts";
import { checkPusher } from "./access.ts";
import type { MeteredServer } from "./collector.ts";

/** Options of {@linkcode health}. */
export interface HealthOptions {
  /** The path of the liveness check. @default {"/healthz"} */
  live?: string | undefined;
  /** The path of the readiness check. @default {"/readyz"} */
  ready?: string | undefined;
}

const OPTIONS: Field = Object.freeze({
  subject: "Cannot answer health checks",
  name: "",
});

export const checkPath: Check = matching(
  /^\/[^?#\s]*$/,
  "be a path that begins with /",
);

const OPTION_CHECKS: Record<keyof HealthOptions, Check> = {
  live: checkPath,
  ready: checkPath,
};

const OPTION_NAMES = Object.keys(OPTION_CHECKS) as (keyof HealthOptions)[];

const checkOptions = objectOf<HealthOptions>(OPTION_CHECKS);

/**
 * Answers health checks, with `GET` or `HEAD`, wherever the other routes are:
 * - liveness, `/healthz`: 200 as long as the process answers. Restart it if it does not.
 * - readiness, `/readyz`: 200 if clients can be served, and 503 while the backplane is
 *   away or the server is closing. Send clients elsewhere then.
 *
 * Anybody may ask, so an answer has no more than a few words, and costs next to nothing.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { health } from "@glitz/pusher/metrics";
 * import { assertEquals } from "@std/assert";
 *
 * const pusher = new Pusher();
 * const handler = pusher.cascade(pusher.handler, health(pusher));
 * const answer = await handler(new Request("http://localhost/readyz"));
 * assertEquals(answer.status, 200);
 * ```
 *
 * @param pusher The server, or the class `Pusher` for its default instance.
 * @param options Other paths.
 * @returns A handler for a cascade: null for any other request.
 * @throws {TypeError} If an option is unknown, or is not a path.
 */
export function health(
  pusher: Pick<MeteredServer, "meter">,
  options: HealthOptions = {},
): (request: Request) => Response | null {
  checkPusher(pusher, optionOf(OPTIONS, "pusher"));
  const own = copyOptions(options, OPTION_NAMES);
  checkOptions(own, OPTIONS);
  const { live = "/healthz", ready = "/readyz" } = own;
  const { meter } = pusher;
  return (request) => {
    if (request.method !== "GET" && request.method !== "HEAD") return null;
    const path = URL.parse(request.url)?.pathname;
    if (path === live) return say("ok");
    if (path !== ready) return null;
    return meter.isClosing
      ? say("closing", 503)
      : meter.isBackplaneUp
      ? say("ready")
      : say("the backplane is away", 503);
  };
}

function say(what: string, status = 200): Response {
  return new Response(`${what}\n`, {
    status,
    headers: {
      "content-type": "text/plain; charset=utf-8",
      "cache-control": "no-store",
    },
  });
}
