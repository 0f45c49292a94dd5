/**
 * HTTP without a server: which pages may come in, bodies, answers, and the client
 * scripts.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { Refusal } from "./limits.ts";

// ---- Origins

/**
 * Pages that may use the server from another origin: an exact origin
 * (`https://example.com`), one with a wildcard host (`https://*.example.com`, or
 * `*.example.com` for http and https), `*` for all, a pattern that is tested
 * against the origin, or a function.
 */
export type OriginRule =
  | string
  | RegExp
  | ((origin: string, request: Request) => boolean);

/**
 * Why a request may come in: from no page or one of the server's own host, from
 * a listed origin, or because any may. False if it may not.
 */
export type OriginVerdict = "own" | "listed" | "any" | false;

export type OriginCheck = (request: Request) => OriginVerdict;

/** Makes one check out of the rules. */
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
    return (origin, request) => isYes(rule(origin, request));
  }
  // Unlike `test`, `search` does not remember where a pattern matched last.
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

/** Only true is a yes; a promise would be one to a careless check. */
function isYes(verdict: unknown): boolean {
  if (!(verdict instanceof Promise)) return verdict === true;
  // It is refused whatever comes of it.
  verdict.catch(() => {});
  throw new TypeError("Cannot check an origin: the rule returned a promise");
}

// Scheme, wildcard, host and port of a rule; the scheme may be left out.
export const ORIGIN_RULE =
  /^(?:(https?):\/\/)?(\*\.)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:\d+)?$/;

/** Whether a page was loaded from where the request goes. */
function isOwnOrigin(origin: string, request: Request): boolean {
  // The scheme is left out: behind a proxy that ends TLS it is not ours.
  const host = request.headers.get("host") ?? new URL(request.url).host;
  return origin.split("://")[1]?.toLowerCase() === host.toLowerCase();
}

/** What lets a page of another origin read the answer. */
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
    // Where all origins are allowed, none of them gets to send cookies.
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

// ---- Requests

/** Reads a body, but never more of it than is allowed. */
export async function readBody(
  request: Request,
  maxBytes: number,
): Promise<Uint8Array | "too large" | "broken off"> {
  const declared = request.headers.get("content-length");
  if (Number(declared) > maxBytes) return "too large";
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    // The runtime sees to it that no more comes than was declared.
    if (declared !== null) return await request.bytes();
    for await (const chunk of request.body ?? []) {
      bytes += chunk.length;
      if (bytes > maxBytes) return "too large";
      chunks.push(chunk);
    }
  } catch {
    // The client has gone away in the middle of it.
    return "broken off";
  }
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
}

/** The text of bytes, or null if they are no UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** The same parameters, their names in lower case. */
export function lowerCaseNames(params: URLSearchParams): URLSearchParams {
  return new URLSearchParams(
    Array.from(params, ([name, value]) => [name.toLowerCase(), value]),
  );
}

// ---- Answers

/** The answer that lets the next handler of a cascade have the request. */
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

/** A script, which a browser may keep for a while and then ask for again. */
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
    // Module scripts of other origins are fetched with CORS.
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

export function escapeUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** Whether a client holds this version already. */
function matchesEtag(header: string | null, etag: string): boolean {
  return header !== null && header.split(",").some((candidate) => {
    const held = candidate.trim().replace(/^W\//, "");
    return held === "*" || held === etag;
  });
}
