/**
 * A server whose cascade ends with HTTP streaming and polling.
 *
 * @module
 */
import type { Handler, PusherOptions } from "@glitz/pusher";
import { fallback, type FallbackOptions } from "@glitz/pusher/fallback";
import { serve, type TestServer } from "./server.ts";

/** Starts a server that clients reach over HTTP, too. */
export function serveHttp(
  options: PusherOptions = {},
  fallbackOptions?: FallbackOptions,
  before: Handler[] = [],
): TestServer {
  // The fallback needs the server, and the server its handlers.
  let handler: Handler = () => null;
  const late: Handler = (request, info) => handler(request, info);
  const server = serve(options, { before, after: [late] });
  handler = fallback(server.pusher, fallbackOptions);
  return server;
}
