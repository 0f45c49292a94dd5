/**
 * Health checks of the standalone server, for load balancers and orchestrators.
 *
 * @module
 */

import type { Pusher } from "../mod.ts";

/**
 * Answers `GET /healthz` and `GET /readyz`, wherever the other routes are mounted:
 * - `/healthz`, liveness: 200 as long as the process answers. Restart it if not.
 * - `/readyz`, readiness: 200 if clients can be served, and 503 while the backplane
 *   is away or the server is closing. Send clients elsewhere then.
 *
 * Anybody may ask, so an answer has no more than a word, and costs next to nothing.
 */
export class Health {
  /** Whether the server is closing. */
  isClosing = false;
  #isUp: boolean;

  constructor(pusher: Pusher) {
    this.#isUp = pusher.stats().ready;
    pusher.on("backplane", ({ up }) => {
      this.#isUp = up;
    });
  }

  /** Answers a health check; null for any other request. */
  answer(request: Request): Response | null {
    if (request.method !== "GET" && request.method !== "HEAD") return null;
    switch (URL.parse(request.url)?.pathname) {
      case "/healthz":
        return say("ok");
      case "/readyz":
        return this.isClosing
          ? say("closing", 503)
          : this.#isUp
          ? say("ready")
          : say("the backplane is away", 503);
      default:
        return null;
    }
  }
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
