/**
 * HTTP streaming and polling, as stock `pusher-js` speaks them: a way to the server
 * for clients whose network blocks WebSockets.
 *
 * ```ts ignore
 * import { Pusher } from "@glitz/pusher";
 * import { fallback } from "@glitz/pusher/fallback";
 *
 * const pusher = new Pusher();
 * Deno.serve(pusher.cascade(pusher.handler, fallback(pusher), app));
 * ```
 *
 * The routes are `{path}/app/{key}/…`, where `path` is `/pusher` behind the
 * server's own path. Stock clients need to know the host:
 * `{ httpHost: "example.com", httpPath: "/pusher" }`.
 *
 * A client has a connection like any other: the same frames, limits, `origins`,
 * hooks and close codes. It differs from a socket in this:
 * - A *session* takes the place of the socket. It ends with code 1006 when the
 *   client has not asked for frames for 5 seconds.
 * - An answer ends when it has reached a certain size, and the client asks for the
 *   next. Frames that wait meanwhile count as unread: more than
 *   `limits.bufferedBytes` of them close the session with 4100, as with sockets.
 * - Clients send frames in requests of their own. The server serves the frames in
 *   the order in which these requests have arrived.
 * - Browsers and Deno retry a request on their own when a connection that they
 *   reuse breaks without an answer. Clients number their requests, as `n` in the
 *   query, so the server recognizes a retry: it serves no frames twice, and gives
 *   a poll the same answer as before. It keeps no copy of a stream: a stream that
 *   has lost lines ends with 1006, or opens a new session if the lost lines had
 *   opened this one.
 * - Any page may send the requests, as sessions need no cookies.
 *
 * A session lives in one process, so several servers behind one address need
 * sticky sessions: balance by client address or by the two path segments after the
 * key, or give each server a name of its own, see
 * {@linkcode FallbackOptions.hostname}. Proxies must have response buffering off;
 * the answers ask for that, in headers that nginx and most others understand.
 *
 * Requests that cannot be served are answered in JSON, `{ "error": "…" }`:
 *
 * | Status | When |
 * |---|---|
 * | 400 | the body of `xhr_send` is not a JSON array of strings, or has over 1,000 |
 * | 404 | no session has this id, or no route this path; a cascade goes on |
 * | 408 | the body of `xhr_send` has not arrived within {@linkcode FallbackOptions.bodyTimeoutMs} |
 * | 413 | the body of `xhr_send` is larger than {@linkcode FallbackOptions.sendBytes} |
 * | 429 | the server is reading over 256 requests of this session at once |
 *
 * Connection refusals, such as for an unknown key or by a full server, are sent in
 * a 200 response, as clients do not read a refusal in any other. Requests for other
 * routes are answered with 404, their body unread.
 *
 * The fallback costs one request per message of a client, one per answer, and
 * memory for the frames that wait. All sessions share one timer; without sessions
 * there is none.
 *
 * @module
 */

import { type Awaitable, Pusher } from "../mod.ts";
import {
  checkServer,
  type FallbackOptions,
  type FallbackServer,
  parseOptions,
  SUBJECT,
} from "./fallback/options.ts";
import { openTo } from "./fallback/responses.ts";
import { Sessions } from "./fallback/sessions.ts";

export type { FallbackOptions, FallbackServer } from "./fallback/options.ts";

// The course of a request through the files of ext/fallback/: `routes` reads which
// session it is for, `sessions` finds or opens that session, and `session` takes the
// frames of an upload, or starts an `answer` for the `lines` that wait. A session that
// the server has closed leaves its last lines among the `farewells`.

/**
 * Makes a handler for a cascade, behind the server's own handler.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { fallback } from "@glitz/pusher/fallback";
 * import { assertStringIncludes } from "@std/assert";
 *
 * await using pusher = new Pusher({ key: "app-key" });
 * const handler = pusher.cascade(pusher.handler, fallback(pusher));
 *
 * const poll = await handler(
 *   new Request("http://localhost/pusher/app/app-key/7/abcdefgh/xhr", {
 *     method: "POST",
 *   }),
 * );
 * assertStringIncludes(await poll.text(), "pusher:connection_established");
 * ```
 *
 * @param pusher The server; by default the default instance, which is made when
 * the first request arrives.
 * @param options See {@linkcode FallbackOptions}; checked at once.
 * @returns Serves its own routes, and answers 404 to all others. It uses the `info`
 * that `Deno.serve` and cascades pass on.
 * @throws {TypeError} If an option is unknown or of the wrong type, or `pusher` is
 * no Pusher.
 * @throws {RangeError} If a number is outside its range.
 */
export function fallback(
  pusher: FallbackServer = Pusher,
  options: FallbackOptions = {},
): (request: Request, info?: Deno.ServeHandlerInfo) => Awaitable<Response> {
  checkServer(pusher, { subject: SUBJECT, name: "pusher" });
  const settings = parseOptions(options);
  // The default instance must not be made before the first request.
  let sessions: Sessions | undefined;
  return (request, info) => {
    sessions ??= new Sessions(pusher, settings);
    const response = sessions.handle(request, info);
    return response instanceof Promise
      ? response.then((late) => openTo(request, late))
      : openTo(request, response);
  };
}
