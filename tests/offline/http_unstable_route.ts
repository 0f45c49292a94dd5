/**
 * Stand-in for `@std/http/unstable-route` on machines that cannot reach JSR:
 * `route`, with the signature and behaviour of `@std/http` 1.
 *
 * @module
 */

/** A handler for HTTP requests. */
export type RequestHandler = (
  request: Request,
  info?: Deno.ServeHandlerInfo,
) => Response | Promise<Response>;

/** A handler of one route: it is told what its pattern matched. */
export type Handler = (
  request: Request,
  params: URLPatternResult,
  info?: Deno.ServeHandlerInfo,
) => Response | Promise<Response>;

/** What `route` chooses from. */
export interface Route {
  pattern: URLPattern;
  /** In any case; without it every method fits. */
  method?: string | string[];
  handler: Handler;
}

/** A handler that passes each request to the first route that fits. */
export function route(
  routes: Route[],
  defaultHandler: RequestHandler,
): RequestHandler {
  return (request, info) => {
    for (const { pattern, method, handler } of routes) {
      const fits = !method ||
        [method].flat().some((name) => name.toUpperCase() === request.method);
      const params = fits && pattern.exec(request.url);
      if (params) return handler(request, params, info);
    }
    return defaultHandler(request, info);
  };
}
