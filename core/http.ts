/**
 * HTTP without a server: origins and answers.
 *
 * @module
 */

import { quote, Refusal } from "./limits.ts";
import { CLOSE, type Close, REFUSAL } from "./protocol.ts";
import { type Awaitable, type Clock, withinMs } from "./time.ts";

// ---- Origins ----------------------------------------------------------------

/**
 * An origin whose pages may use the server: exact (`https://example.com`), with a
 * wildcard host (`https://*.example.com`, or `*.example.com` for http and https),
 * `*` for any, a pattern that matches the whole origin, such as
 * `/https:\/\/pr-\d+\.example\.com/`, or a function that returns true.
 */
export type OriginRule =
  | string
  | RegExp
  | ((origin: string, request: Request) => boolean);

/**
 * Why a request is allowed: a rule lists its origin, it is from no page or from a
 * page of the server's own host, or `*` allows any. False if it is refused.
 */
export type OriginVerdict = "own" | "listed" | "any" | false;

export type OriginCheck = (request: Request) => OriginVerdict;

/** Compiles the rules into one check. */
export function compileOrigins(
  rules: OriginRule | OriginRule[] = [],
): OriginCheck {
  const list = Array.isArray(rules) ? rules : [rules];
  const patterns: RegExp[] = [];
  const judges: Exclude<OriginRule, string | RegExp>[] = [];
  for (const rule of list) {
    if (typeof rule === "function") judges.push(rule);
    else if (rule !== "*") patterns.push(compileOrigin(rule));
  }
  return (request) => {
    const origin = request.headers.get("origin");
    if (origin === null) return "own";
    // Before the own host, whose port and scheme may not be known for certain.
    if (patterns.some((pattern) => pattern.test(origin))) return "listed";
    if (isOwnOrigin(origin, request)) return "own";
    if (judges.some((judge) => isAllowed(judge(origin, request)))) {
      return "listed";
    }
    return list.includes("*") && "any";
  };
}

/** Makes the pattern of whole origins. */
function compileOrigin(rule: string | RegExp): RegExp {
  if (rule instanceof RegExp) {
    // A pattern with the flag g or y would remember its last match.
    return new RegExp(`^(?:${rule.source})$`, rule.flags.replace(/[gy]/g, ""));
  }
  const [, scheme, wildcard, host = "", port] = ORIGIN_RULE.exec(rule) ?? [];
  const labels = wildcard === undefined ? "" : "([a-z0-9_-]+\\.)+";
  const origins = Object.entries(DEFAULT_PORTS)
    .filter(([name]) => name === (scheme?.toLowerCase() ?? name))
    .map(([name, standard]) => {
      // Browsers leave a default port out.
      const end = host + (port === standard ? "" : port ?? "");
      return `${name}://${labels}${escapePattern(end)}`;
    });
  return new RegExp(`^(?:${origins.join("|")})$`, "i");
}

const DEFAULT_PORTS = Object.freeze({ http: ":80", https: ":443" });

/** Whether a rule returned true. A promise is a mistake: any condition holds for it. */
function isAllowed(verdict: unknown): boolean {
  if (!(verdict instanceof Promise)) return verdict === true;
  // The origin is refused, so nobody else handles a rejection.
  verdict.catch(() => {});
  throw new TypeError("Cannot check an origin: the rule returned a promise");
}

/** Scheme, wildcard, host and port of a rule; the scheme is optional. */
export const ORIGIN_RULE =
  /^(?:(https?):\/\/)?(\*\.)?([A-Za-z0-9._-]+|\[[0-9a-f:.]+\])(:\d+)?$/i;

/**
 * Whether the page was loaded from the host that the request goes to. Headers such
 * as `x-forwarded-host` do not count, as any client can send them.
 */
function isOwnOrigin(origin: string, request: Request): boolean {
  const host = request.headers.get("host") ?? parseUrl(request.url)?.host;
  const page = ORIGIN.exec(origin.toLowerCase());
  const target = HOST.exec(host?.toLowerCase() ?? "");
  if (page === null || target === null || page[2] !== target[1]) return false;
  // A proxy may leave the port out, as nginx does with `$host`. Then the port is
  // unknown. The scheme is unknown as well: a proxy may end TLS.
  const asked = target[2];
  const port = page[3] ?? (page[1] === "https" ? ":443" : ":80");
  return asked === undefined || asked === port;
}

/** How the socket of a page is closed whose origin is not allowed. */
export function closeOrigin(request: Request): Close {
  return { ...CLOSE.OriginRefused, message: describeOrigin(request) };
}

/** How the request of a page is refused whose origin is not allowed. */
export function refuseOrigin(request: Request): Refusal {
  return new Refusal(403, describeOrigin(request));
}

/** Why the page of a request is refused: its origin, and what it was compared with. */
function describeOrigin({ headers, url }: Request): string {
  const origin = quote(headers.get("origin") ?? "");
  const host = quote(headers.get("host") ?? parseUrl(url)?.host ?? "");
  // A close frame has room for 123 bytes.
  return `Origin ${origin} is not that of host ${host}, and origins does not list it`;
}

/** Scheme, host and port of a page: no other scheme is a server's. */
const ORIGIN = /^(https?):\/\/([^/:@]+|\[[0-9a-f:.]+\])(:\d+)?$/;
/** Host and port of a `Host` header. */
const HOST = /^([^/:@]+|\[[0-9a-f:.]+\])(:\d+)?$/;

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

// ---- Transport security -----------------------------------------------------

/**
 * Whether a request came over TLS.
 *
 * @param trustsProxy Whether the header `x-forwarded-proto` is believed, whose first
 * value is how the client reached the first proxy. Any client can send it.
 */
export function isSecure(request: Request, trustsProxy: boolean): boolean {
  const forwarded = trustsProxy
    ? request.headers.get("x-forwarded-proto")
    : null;
  if (forwarded === null) return /^(?:https|wss):/.test(request.url);
  return /^\s*(?:https|wss)\s*(?:,|$)/i.test(forwarded);
}

// ---- Requests ---------------------------------------------------------------

/**
 * Throws for anything but a request: other frameworks call a handler with a context,
 * or with the request of Node.
 */
export function checkRequest(request: Request): Request {
  const given: unknown = request;
  if (given instanceof Request) return request;
  const { url, method, headers, req } = Object(given);
  // A program may have put a class of its own in the place of Request.
  if (url && method && typeof headers?.get === "function") return request;
  const advice = req === undefined ? "" : ", which is c.req.raw in Hono";
  throw new TypeError(
    `Cannot handle a request: the handler got ${
      quote(given)
    }, and must get the Request of Deno.serve${advice}`,
  );
}

/** A URL, as `URL.parse` makes it; Node has had that since version 22. */
export function parseUrl(text: string): URL | null {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}

/** As `RegExp.escape`, for paths and hosts; Node has had that since version 24. */
export function escapePattern(text: string): string {
  return text.replaceAll(/[^\w/-]/g, "\\$&");
}

const UTF8 = new TextDecoder("utf-8", { fatal: true });

/** Decodes a text; null if the bytes are not UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string | null {
  try {
    return UTF8.decode(bytes);
  } catch {
    return null;
  }
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
  return Response.json({ error }, {
    status,
    headers: { ...ADVICE.get(status), ...headers },
  });
}

/** What goes with a status, so that clients and proxies know what to do. */
const ADVICE = new Map<number, Record<string, string>>([
  // The rest of a body that is late is not read, so no request can follow it.
  [408, { connection: "close" }],
  // It passes: another server, or this one in a moment, can serve the request.
  [503, { "retry-after": "1" }],
]);

export function refuseMethod(
  allow: string,
  headers: Record<string, string> = {},
): Response {
  const error = `The method is not one of ${allow}`;
  return refuse(new Refusal(405, error), { ...headers, allow });
}

/** How long a request may wait for the backplane to start. */
const START_WAIT_MS = 10_000;

/** A server whose backplane may not have started yet. */
export interface Startable {
  readonly clock: Clock;
  /** Settles when the backplane has started; null once it has. */
  readonly starting: Promise<void> | null;
}

/** Serves a request at once, or when the backplane has started, or refuses it. */
export function whenStarted(
  server: Startable,
  serve: () => Awaitable<Response>,
): Awaitable<Response> {
  if (server.starting === null) return serve();
  const started = server.starting.then(() => null, () => REFUSAL.NotStarted);
  const judged = withinMs(server.clock, START_WAIT_MS, started);
  return judged.then((refusal = REFUSAL.Starting) => {
    if (refusal === null) return serve();
    return refuse(refusal);
  });
}

/** Escapes a UTF-16 unit for a string of JSON or JavaScript. */
export function escapeUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
