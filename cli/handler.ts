/**
 * What the standalone server answers. It owns its port, so it also answers requests
 * that no route takes.
 *
 * @module
 */

import { answerSubprotocol, chooseSubprotocol } from "../core/upgrade.ts";
import { fallback } from "../ext/fallback.ts";
import { health } from "../ext/metrics/health.ts";
import type { Handler, Pusher } from "../mod.ts";

/** The handler of a server that owns its port. */
export function standalone(
  { pusher, debug, metrics }: {
    readonly pusher: Pusher;
    readonly debug: Handler | null;
    readonly metrics: Handler | null;
  },
): (request: Request, info?: Deno.ServeHandlerInfo) => Promise<Response> {
  // The fallback is last: for all other routes it answers a 404 in JSON.
  const own = [debug, metrics].filter((handler) => handler !== null);
  const serve = pusher.cascade(pusher.handler, ...own, fallback(pusher));
  const check = health(pusher);
  return async (request, info) => {
    const answer = check(request) ?? await serve(request, info);
    // The headers of a request that was upgraded cannot be read any more.
    if (answer.status === 101) return answer;
    // A proxy must not send the next request into the end of the process.
    if (pusher.meter.isClosing) answer.headers.set("connection", "close");
    if (answer.status !== 404) return answer;
    const upgrade = request.headers.get("upgrade")?.toLowerCase();
    if (upgrade !== "websocket") return answer;
    await answer.body?.cancel();
    return refuseSocket(request);
  };
}

/**
 * Closes a socket on an unknown path with 4005: a browser sees no HTTP status of a
 * failed upgrade, so a client would retry for ever.
 */
function refuseSocket(request: Request): Response {
  const subprotocol = chooseSubprotocol(request);
  try {
    const { socket, response } = Deno.upgradeWebSocket(request);
    answerSubprotocol(response, subprotocol);
    socket.addEventListener("open", () => {
      const message = "There is no such path";
      const data = { code: 4005, message };
      socket.send(JSON.stringify({ event: "pusher:error", data }));
      socket.close(data.code, message);
    });
    return response;
  } catch {
    const error = "The upgrade request is not valid";
    return Response.json({ error }, { status: 400 });
  }
}
