/**
 * Scripts as browsers get them.
 *
 * @module
 */

import { refuseMethod } from "./http.ts";

/** Serves a script, which browsers cache for five minutes and then revalidate. */
export function serveScript(
  request: Request,
  script: string,
  tag: string,
): Response {
  if (request.method !== "GET" && request.method !== "HEAD") {
    return refuseMethod("GET, HEAD");
  }
  const etag = `"${tag}"`;
  const headers = {
    "content-type": "text/javascript; charset=utf-8",
    "cache-control": "public, max-age=300",
    "etag": etag,
    "x-content-type-options": "nosniff",
    // Browsers fetch module scripts of other origins with CORS.
    "access-control-allow-origin": "*",
  };
  if (matchesEtag(request.headers.get("if-none-match"), etag)) {
    return new Response(null, { status: 304, headers });
  }
  const body = new TextEncoder().encode(script);
  return new Response(request.method === "HEAD" ? null : body, {
    headers: { ...headers, "content-length": String(body.length) },
  });
}

/** Whether an `if-none-match` header names the version that is served. */
function matchesEtag(header: string | null, etag: string): boolean {
  return header !== null && header.split(",").some((candidate) => {
    const tag = candidate.trim().replace(/^W\//, "");
    return tag === "*" || tag === etag;
  });
}
