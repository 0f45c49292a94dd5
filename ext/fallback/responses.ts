/**
 * The responses of the fallback, which pages of any origin may read.
 *
 * @module
 */

/** Pages of any origin may read an answer, and no cache may keep it. */
export const HEADERS = Object.freeze({
  "access-control-allow-origin": "*",
  "cache-control": "no-store, no-transform",
});

/**
 * Lets the page that sent a request read the answer, even if the request had cookies:
 * a load balancer may need its cookie to find the server of a session. Nothing here
 * depends on cookies, and a WebSocket sends them wherever its page is from.
 */
export function openTo(request: Request, response: Response): Response {
  const origin = request.headers.get("origin");
  if (origin === null) return response;
  const { headers } = response;
  headers.set("access-control-allow-origin", origin);
  headers.set("access-control-allow-credentials", "true");
  headers.append("vary", "origin");
  return response;
}

/** An answer of lines, which proxies must pass on as they come. */
export function lineResponse(body: BodyInit): Response {
  return new Response(body, {
    headers: {
      ...HEADERS,
      "content-type": "application/javascript; charset=UTF-8",
      "x-accel-buffering": "no",
    },
  });
}

/** Says that the frames of an upload are taken. */
export function emptyResponse(): Response {
  return new Response(null, { status: 204, headers: HEADERS });
}

/** Permits a page of another origin to send requests. */
export function preflightResponse(): Response {
  return new Response(null, {
    status: 204,
    headers: {
      ...HEADERS,
      "access-control-allow-methods": "POST, OPTIONS",
      "access-control-allow-headers": "Content-Type",
      "access-control-max-age": "86400",
    },
  });
}
