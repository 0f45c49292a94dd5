/**
 * HTTP without a server: origins, bodies, answers and the client scripts.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { Refusal } from "./limits.ts";

// ---- Origins ----------------------------------------------------------------

/**
 * An origin whose pages may use the server: exact (`https://example.com`), with a
 * wildcard host (`https://*.example.com`, or `*.example.com` for http and https),
 * `*` for any, a pattern that the origin matches, or a function that returns true.
 */
export type OriginRule =
  | string
  | RegExp
  | ((origin: string, request: Request) => boolean);

/**
 * Why a request is allowed: it is from no page or from a page of the server's own
 * host, a rule lists its origin, or `*` allows any. False if it is refused.
 */
export type OriginVerdict = "own" | "listed" | "any" | false;

export type OriginCheck = (request: Request) => OriginVerdict;

/** Compiles the rules into one check. */
export function compileOrigins(
  rules: OriginRule | OriginRule[] = [],
): OriginCheck {
  const list = Array.isArray(rules) ? rules : [rules];
  const matchers = list.map(compileOrigin);
  return (request) => {
    const origin = request.headers.get("origin");
    if (origin === null || isOwnOrigin(origin, request)) return "own";
    if (list.includes("*")) return "any";
    const listed = matchers.some((matches) => matches(origin, request));
    return listed && "listed";
  };
}

function compileOrigin(
  rule: OriginRule,
): (origin: string, request: Request) => boolean {
  if (typeof rule === "function") {
    return (origin, request) => isAllowed(rule(origin, request));
  }
  // Unlike `test`, `search` always starts at the beginning.
  if (rule instanceof RegExp) return (origin) => origin.search(rule) >= 0;
  const [, scheme, wildcard, host = "", port] = ORIGIN_RULE.exec(rule) ?? [];
  const labels = wildcard === undefined ? "" : "[a-z0-9-]+(\\.[a-z0-9-]+)*\\.";
  // Browsers leave a default port out.
  const isDefault = port === (scheme === "https" ? ":443" : ":80");
  const end = RegExp.escape(host + (isDefault ? "" : port ?? ""));
  const start = scheme ?? "https?";
  const pattern = new RegExp(`^${start}://${labels}${end}$`, "i");
  return (origin) => pattern.test(origin);
}

/** Whether a rule returned true. A promise is a mistake: any condition holds for it. */
function isAllowed(verdict: unknown): boolean {
  if (!(verdict instanceof Promise)) return verdict === true;
  // The origin is refused, so nobody else handles a rejection.
  verdict.catch(() => {});
  throw new TypeError("Cannot check an origin: the rule returned a promise");
}

/** Scheme, wildcard, host and port of a rule; the scheme is optional. */
export const ORIGIN_RULE =
  /^(?:(https?):\/\/)?(\*\.)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d+)?$/;

/** Whether the page was loaded from the host that the request goes to. */
function isOwnOrigin(origin: string, request: Request): boolean {
  // Not the scheme: behind a proxy that ends TLS, it is not the server's.
  const host = request.headers.get("host") ?? new URL(request.url).host;
  return origin.split("://")[1]?.toLowerCase() === host.toLowerCase();
}

/** The headers by which a page of another origin may read the answer. */
export function corsHeaders(
  request: Request,
  verdict: OriginVerdict,
): Record<string, string> {
  const headers: Record<string, string> = {
    "cache-control": "no-store",
    "vary": "origin",
  };
  if (verdict === false || verdict === "own") return headers;
  if (verdict === "any") {
    // Any page may call, so none may use the cookies of the user.
    headers["access-control-allow-origin"] = "*";
  } else {
    headers["access-control-allow-origin"] = request.headers.get("origin") ??
      "";
    headers["access-control-allow-credentials"] = "true";
  }
  if (request.method !== "OPTIONS") return headers;
  headers["access-control-allow-methods"] = "POST";
  headers["access-control-max-age"] = "600";
  const asked = request.headers.get("access-control-request-headers");
  if (asked !== null) headers["access-control-allow-headers"] = asked;
  return headers;
}

// ---- Requests ---------------------------------------------------------------

/**
 * Reads a body, but never more of it than is allowed.
 *
 * @param signal Ends the reading: then the body counts as broken off.
 */
export async function readBody(
  request: Request,
  maxBytes: number,
  signal?: AbortSignal,
): Promise<Uint8Array | "too large" | "broken off"> {
  const declared = request.headers.get("content-length");
  if (Number(declared) > maxBytes) return "too large";
  try {
    // In half the time. The runtime takes no more bytes than were declared.
    if (declared !== null && signal === undefined) return await request.bytes();
    const chunks = await readChunks(request, maxBytes, signal);
    if (chunks === null) return "too large";
    if (signal?.aborted) return "broken off";
    return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
  } catch {
    // The client has gone in the middle of it, or somebody has read it before.
    return "broken off";
  }
}

/** Reads until the end or the signal; null if there are more bytes. */
async function readChunks(
  { body }: Request,
  maxBytes: number,
  signal: AbortSignal | undefined,
): Promise<Uint8Array[] | null> {
  const chunks: Uint8Array[] = [];
  if (body === null) return chunks;
  const reader = body.getReader();
  const cancel = () => {
    reader.cancel().catch(() => {});
  };
  if (signal?.aborted) cancel();
  signal?.addEventListener("abort", cancel);
  try {
    let bytes = 0;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return chunks;
      bytes += value.length;
      if (bytes > maxBytes) {
        cancel();
        return null;
      }
      chunks.push(value);
    }
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

/** Decodes a text; null if the bytes are not UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** The same parameters, with their names in lower case. */
export function lowerCaseNames(params: URLSearchParams): URLSearchParams {
  return new URLSearchParams(
    Array.from(params, ([name, value]) => [name.toLowerCase(), value]),
  );
}

// ---- Answers ----------------------------------------------------------------

/** The answer after which a cascade tries its next handler. */
export function notFound(): Response {
  return new Response("Not found\n", {
    status: 404,
    headers: { "content-type": "text/plain; charset=utf-8" },
  });
}

export function refuse(
  { status, error }: Refusal,
  headers: Record<string, string> = {},
): Response {
  return Response.json({ error }, { status, headers });
}

export function refuseMethod(
  allow: string,
  headers: Record<string, string> = {},
): Response {
  const error = `The method is not one of ${allow}`;
  return refuse(new Refusal(405, error), { ...headers, allow });
}

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

/** Escapes a UTF-16 unit for a string of JSON or JavaScript. */
export function escapeUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** Whether an `if-none-match` header names the version that is served. */
function matchesEtag(header: string | null, etag: string): boolean {
  return header !== null && header.split(",").some((candidate) => {
    const tag = candidate.trim().replace(/^W\//, "");
    return tag === "*" || tag === etag;
  });
}
