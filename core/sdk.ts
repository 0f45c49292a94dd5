/**
 * What the official Node SDK has besides publishing and signing: its requests by
 * path, signed query strings, an app as a URL, and its errors.
 *
 * @module
 */

import { createHash } from "node:crypto";
import type {
  GetOptions,
  PostOptions,
  RequestParams,
  SignedQueryOptions,
  TriggerParams,
} from "./calls.ts";
import {
  checkWellFormed,
  fail,
  type Field,
  fieldsOf,
  optionOf,
} from "./checks.ts";
import { parseUrl } from "./http.ts";
import type { PusherOptions } from "./options.ts";
import { isObject, parseJson } from "./protocol.ts";
import { type Credentials, hmac } from "./signatures.ts";
import type { Awaitable } from "./time.ts";

// ---- Fields of calls --------------------------------------------------------

/**
 * What a trigger takes besides channel, event and data. Old releases of the official
 * SDK take the socket id alone.
 *
 * @throws {TypeError} If a field is unknown: a misspelt `socket_id` would let the
 * sender get its own event.
 */
export function readTriggerParams(
  params: unknown,
  subject: () => string,
): TriggerParams {
  if (params === undefined || params === null) return {};
  if (typeof params === "string") return { socket_id: params };
  const field = { subject: subject(), name: "params" };
  if (typeof params === "function") {
    fail(
      params,
      field,
      "be an object: await the promise, there is no callback",
    );
  }
  checkTriggerParams(params, field);
  // It is an object, with these fields only.
  return params as TriggerParams;
}

const TRIGGER_PARAMS = ["socket_id", "info"];
const checkTriggerParams = fieldsOf(TRIGGER_PARAMS);
const checkBatchEvent = fieldsOf([
  "channel",
  "name",
  "data",
  ...TRIGGER_PARAMS,
]);

/**
 * Checks that events of a batch have no unknown fields; their other faults are
 * found where the batch is parsed.
 */
export function checkBatchFields(batch: unknown, subject: string): void {
  if (!Array.isArray(batch)) return;
  for (const [i, event] of batch.entries()) {
    const field = { subject, name: `batch[${i}]` };
    if (isObject(event)) checkBatchEvent(event, field);
  }
}

// ---- Requests ---------------------------------------------------------------

/** The app that signs a request, and where its server is. */
export interface Signing extends Credentials {
  readonly id: string;
  readonly server: {
    readonly path: string;
    readonly clock: { now(): number };
  };
}

const SIGNING_PARAMS = [
  "auth_key",
  "auth_timestamp",
  "auth_version",
  "auth_signature",
  "body_md5",
];

const checkGet = fieldsOf(["path", "params"]);
const checkPost = fieldsOf(["path", "params", "body"]);
const checkSignedQuery = fieldsOf(["method", "path", "params", "body"]);

/**
 * A request to the HTTP API, signed by the app.
 *
 * @throws {TypeError} If an option is unknown or of the wrong kind.
 */
export function apiRequest(
  app: Signing,
  method: "GET" | "POST",
  options: GetOptions | PostOptions,
): Request {
  const subject = `Cannot make a ${method} request`;
  const field = { subject, name: "" };
  (method === "GET" ? checkGet : checkPost)(options, field);
  const { path, params, body }: PostOptions = options;
  checkRequestPath(path, optionOf(field, "path"));
  const text = encodeBody(body, optionOf(field, "body"));
  const fullPath = `${app.server.path}/apps/${app.id}${path}`;
  const url = new URL(fullPath, "https://localhost");
  // A name in it that is somebody else's could lead to another route by "..". A URL
  // takes a backslash for a slash, and leaves control characters and a last space out.
  if (
    /[\\\p{Cc}]| $/u.test(path) ||
    url.pathname.split("/").length !== fullPath.split("/").length
  ) {
    const rule =
      "have no dots for a name, no backslash, no control character and no space at its end";
    fail(path, optionOf(field, "path"), rule);
  }
  const signed = { method, path: url.pathname, params, body: text };
  url.search = signQuery(app, signed, subject);
  const hasBody = text !== "";
  return new Request(url, {
    method,
    ...(hasBody && {
      body: text,
      headers: { "content-type": "application/json" },
    }),
  });
}

function checkRequestPath(path: unknown, field: Field): void {
  const isRight = typeof path === "string" && /^\/[^?#]*$/.test(path) &&
    path.isWellFormed();
  if (isRight) return;
  const rule = 'be like "/channels", with its query in params';
  fail(path, field, rule);
}

function encodeBody(body: unknown, field: Field): string {
  if (body === undefined || body === null) return "";
  checkWellFormed(body, field);
  if (typeof body === "string") return body;
  if (!isObject(body)) fail(body, field, "be an object or its JSON");
  return encodeObject(body) ??
    fail(body, field, "be an object that JSON can hold");
}

/** An object as JSON; undefined if it has none. */
function encodeObject(value: object): string | undefined {
  try {
    return JSON.stringify(value);
  } catch (error) {
    // A `toJSON` of the program may throw an error of its own.
    if (error instanceof TypeError) return undefined;
    throw error;
  }
}

/**
 * The query of a request, signed, for a program that sends it on its own.
 *
 * @throws {TypeError} If an option is unknown or of the wrong kind.
 */
export function signedQuery(app: Signing, options: SignedQueryOptions): string {
  const subject = "Cannot sign a query";
  const field = { subject, name: "" };
  checkSignedQuery(options, field);
  for (const name of ["method", "path"] as const) {
    if (typeof options[name] === "string") continue;
    fail(options[name], optionOf(field, name), "be a string");
  }
  const body = encodeBody(options.body, optionOf(field, "body"));
  return signQuery(app, { ...options, body }, subject);
}

interface Unsigned {
  readonly method: string;
  readonly path: string;
  readonly params?: RequestParams | undefined;
  readonly body: string;
}

function signQuery(
  { key, secret, server }: Signing,
  { method, path, params = {}, body }: Unsigned,
  subject: string,
): string {
  const field = { subject, name: "params" };
  if (!isObject(params)) fail(params, field, "be an object");
  // Those of a URLSearchParams or a Map would be ignored without a word.
  if (Symbol.iterator in params) {
    fail(params, field, "be an object of names and values");
  }
  const all = new Map<string, string>([
    ["auth_key", key],
    ["auth_timestamp", `${Math.floor(server.clock.now() / 1000)}`],
    ["auth_version", "1.0"],
  ]);
  if (body !== "") {
    all.set("body_md5", createHash("md5").update(body).digest("hex"));
  }
  for (const [name, value] of Object.entries(params)) {
    if (SIGNING_PARAMS.includes(name.toLowerCase())) {
      fail(value, optionOf(field, name), "be left to the signature");
    }
    if (value === undefined || value === null) continue;
    all.set(name, textOf(value, optionOf(field, name)));
    checkWellFormed(name, field);
  }
  const sorted = [...all].sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0);
  const join = (encode: (text: string) => string) =>
    sorted.map(([name, value]) => `${encode(name)}=${encode(value)}`).join("&");
  const text = `${method.toUpperCase()}\n${path}\n${join((text) => text)}`;
  return `${join(encodeQuery)}&auth_signature=${hmac(secret, text)}`;
}

/** The value of a parameter as text; that of a list is joined by commas. */
function textOf(value: unknown, field: Field): string {
  if ([value].flat().some((item) => !TEXTUAL.has(typeof item))) {
    fail(value, field, "be a string, a number, a boolean or a list of them");
  }
  const text = String(value);
  checkWellFormed(text, field);
  return text;
}

/** The types of values that are texts, or have one. */
const TEXTUAL: ReadonlySet<string> = new Set(
  ["string", "number", "boolean", "bigint"],
);

/** Escapes what would end a value; lists stay readable. */
function encodeQuery(text: string): string {
  return encodeURIComponent(text).replaceAll("%2C", ",");
}

/**
 * The answer to a request of the program.
 *
 * @throws {RequestError} If the status is 400 or above.
 */
export async function expectSuccess(
  request: Request,
  answer: Awaitable<Response>,
): Promise<Response> {
  const response = await answer;
  const { status } = response;
  if (status < 400) return response;
  const body = await response.text();
  const { pathname } = new URL(request.url);
  const { error } = Object(parseJson(body));
  const reason = typeof error === "string" ? error : body;
  const message =
    `Cannot ${request.method} ${pathname}: ${reason}, status ${status}`;
  throw new RequestError(message, pathname, undefined, status, body);
}

// ---- An app as a URL --------------------------------------------------------

/**
 * The app of a URL such as `PUSHER_URL`.
 *
 * @throws {TypeError} If the URL has no key, secret or app.
 */
export function readUrl(
  url: unknown,
): Pick<Required<PusherOptions>, "appId" | "key" | "secret"> {
  const parsed = typeof url === "string" ? parseUrl(url) : null;
  const appId = /\/apps\/([^/]+)\/?$/.exec(parsed?.pathname ?? "")?.[1];
  if (!parsed?.username || !parsed.password || appId === undefined) {
    // The URL has a secret, and does not belong in a message.
    throw new TypeError(
      "Cannot create a Pusher: the URL must be like https://key:secret@host/apps/id",
    );
  }
  const decode = decodeURIComponent;
  return {
    appId: decode(appId),
    key: decode(parsed.username),
    secret: decode(parsed.password),
  };
}

// ---- Errors -----------------------------------------------------------------

/**
 * A request of {@linkcode Pusher.get} or {@linkcode Pusher.post} was refused.
 *
 * @example
 * ```ts
 * import { Pusher, RequestError } from "@glitz/pusher";
 * import { assertEquals } from "@std/assert";
 *
 * const pusher = new Pusher();
 * try {
 *   await pusher.get({ path: "/channels/news/users" });
 * } catch (error) {
 *   if (!(error instanceof RequestError)) throw error;
 *   assertEquals(error.status, 400); // "news" is no presence channel
 * }
 * ```
 */
export class RequestError extends Error {
  /** Always `PusherRequestError`, as in the official SDK. */
  override readonly name = "PusherRequestError";
  /** The path of the request, without its signature. */
  readonly url: string;
  /** What went wrong, if there was no answer. */
  readonly error: unknown;
  /** The status of the answer. */
  readonly status: number | undefined;
  /** The body of the answer. */
  readonly body: string | undefined;

  /** Made by the methods that throw it. */
  constructor(
    message: string,
    url: string,
    error?: unknown,
    status?: number,
    body?: string,
  ) {
    super(message, { cause: error });
    this.url = url;
    this.error = error;
    this.status = status;
    this.body = body;
  }
}
