/**
 * Signatures: the texts that are signed, how they are signed and compared, and
 * webhooks from elsewhere, whose signature is checked.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createHash, createHmac, type Hash } from "node:crypto";
import type { ChannelAuth, UserAuth } from "./calls.ts";
import { quote } from "./limits.ts";
import { isObject, parseJson } from "./protocol.ts";
import { joinInfo } from "./queries.ts";

// ---- Signing ----------------------------------------------------------------

/**
 * HMAC-SHA256 in lower-case hex, the only signature of the protocol.
 *
 * @throws {TypeError} If either text is not well-formed Unicode. As bytes, all lone
 * surrogates become the same character, so that two texts would have one signature.
 */
export function hmac(secret: string, text: string): string {
  requireWellFormed(secret, "secret");
  requireWellFormed(text, "text");
  return createHmac("sha256", secret).update(text).digest("hex");
}

function requireWellFormed(text: string, what: string): void {
  if (text.isWellFormed()) return;
  throw new TypeError(
    `Cannot sign: the ${what} is not well-formed Unicode, it has a lone surrogate`,
  );
}

/** The same as {@linkcode hmac}, for credentials that sign again and again. */
export function signWith(credentials: Credentials, text: string): string {
  const keyed = keyedHashes.get(credentials) ??
    new KeyedHash(credentials.secret);
  keyedHashes.set(credentials, keyed);
  return keyed.sign(text);
}

const keyedHashes = new WeakMap<Credentials, KeyedHash>();

/**
 * HMAC-SHA256 with one secret, as RFC 2104 makes it out of two hashes. Both begin
 * with a block that has the secret, so each text goes on with copies of hashes that
 * have taken it: for the runtime's HMAC the key is prepared each time, which takes
 * three times as long as the text of a request.
 */
class KeyedHash {
  readonly #inner: Hash;
  readonly #outer: Hash;

  constructor(secret: string) {
    requireWellFormed(secret, "secret");
    const bytes = Buffer.from(secret);
    const key = bytes.length > BLOCK_BYTES
      ? createHash("sha256").update(bytes).digest()
      : bytes;
    this.#inner = beginWith(key, 0x36);
    this.#outer = beginWith(key, 0x5c);
  }

  sign(text: string): string {
    requireWellFormed(text, "text");
    const digest = this.#inner.copy().update(text).digest();
    return this.#outer.copy().update(digest).digest("hex");
  }
}

/** The block size of SHA-256. */
const BLOCK_BYTES = 64;

/** A hash that has taken the block of a key. */
function beginWith(key: Uint8Array, pad: number): Hash {
  const block = Buffer.alloc(BLOCK_BYTES, pad);
  for (const [i, byte] of key.entries()) block[i] = byte ^ pad;
  return createHash("sha256").update(block);
}

/**
 * Compares in a time that does not depend on where the texts differ. It does what
 * `timingSafeEqual` of the runtime does, without a copy of each text.
 */
export function equalsInConstantTime(expected: string, given: string): boolean {
  if (expected.length !== given.length) return false;
  let difference = 0;
  for (let i = 0; i < expected.length; i++) {
    difference |= expected.charCodeAt(i) ^ given.charCodeAt(i);
  }
  return difference === 0;
}

/** The length of a signature. For another length no text is hashed. */
const SIGNATURE_UNITS = 64;

/** The text whose signature permits a subscription. */
export function channelText(
  socketId: string,
  channel: string,
  channelData: string | undefined,
): string {
  const text = `${socketId}:${channel}`;
  return channelData === undefined ? text : `${text}:${channelData}`;
}

/** The text whose signature permits a sign-in. */
export function userText(socketId: string, userData: string): string {
  return `${socketId}::user::${userData}`;
}

/**
 * The texts that an SDK may have signed for a request, the likeliest first. SDKs
 * differ in the path, see `signedPaths`, and they sign names of parameters as sent or
 * in lower case, and an `info` list as sent or joined. Each text needs the secret and
 * means the same, so accepting all of them is as safe.
 *
 * @param sent The parameters as they were sent.
 */
export function* requestTexts(
  method: string,
  paths: readonly string[],
  sent: URLSearchParams,
): Generator<string> {
  const texts = new Set<string>();
  for (const params of signedParams(sent)) {
    for (const path of paths) {
      const text = `${method}\n${path}\n${params}`;
      if (texts.has(text)) continue;
      texts.add(text);
      yield text;
    }
  }
}

/**
 * The text of a request whose parameters came sorted and without escapes, and whose
 * signature came last, as most SDKs send them. It is one of those that
 * {@linkcode requestTexts} makes of such a request, and takes much less time; null for
 * any other request.
 */
export function sentText(
  method: string,
  { pathname, search }: URL,
): string | null {
  const end = search.indexOf("&auth_signature=");
  if (end < 0 || search.includes("&", end + 1)) return null;
  const text = `${method}\n${pathname}\n${search.slice(1, end)}`;
  if (/[%+]|auth_signature=/i.test(text)) return null;
  let last = "";
  for (let start = 1; start <= end; start = search.indexOf("&", start) + 1) {
    const equals = search.indexOf("=", start);
    const name = search.slice(start, equals);
    if (name.includes("&") || name < last) return null;
    last = name;
  }
  return text;
}

/** `name=value` of all parameters but the signature, sorted, unescaped. */
function* signedParams(sent: URLSearchParams): Generator<string> {
  const params = [...sent];
  yield joinSigned(params.map(([name, value]) => [name.toLowerCase(), value]));
  yield joinSigned(params);
  yield joinSigned([...joinInfo(sent)]);
}

function joinSigned(params: [name: string, value: string][]): string {
  return params
    .filter(([name]) => name.toLowerCase() !== "auth_signature")
    .sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
    .map(([name, value]) => `${name}=${value}`)
    .join("&");
}

/** Unescapes a part of a path; null if it is not escaped properly. */
export function decodePart(part: string): string | null {
  if (!part.includes("%")) return part;
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}

// ---- The signer -------------------------------------------------------------

/** Signs for one app with its newest key, and checks what is signed with any of them. */
export class Signer {
  /** The newest key comes first. */
  readonly credentials: readonly Credentials[];
  readonly #newest: Credentials;

  /** @param credentials The keys of the app, the newest first; at least one. */
  constructor(credentials: readonly Credentials[]) {
    this.credentials = credentials;
    this.#newest = credentials[0]!;
  }

  /** `key:signature` of a text. */
  #sign(text: string): string {
    return `${this.#newest.key}:${signWith(this.#newest, text)}`;
  }

  /** Whether `auth` is `key:signature` of a text, for a key of the app. */
  permits(auth: unknown, text: string): boolean {
    if (typeof auth !== "string" || !text.isWellFormed()) return false;
    return this.credentials.some((own) => {
      const prefix = `${own.key}:`;
      return auth.startsWith(prefix) &&
        auth.length === prefix.length + SIGNATURE_UNITS &&
        equalsInConstantTime(signWith(own, text), auth.slice(prefix.length));
    });
  }

  /**
   * Signs a permission to subscribe. The arguments have been checked.
   *
   * @param data The member as JSON text.
   */
  authorize(socketId: string, channel: string, data?: string): ChannelAuth {
    const auth = this.#sign(channelText(socketId, channel, data));
    return data === undefined ? { auth } : { auth, channel_data: data };
  }

  /**
   * Signs who a user is. The arguments have been checked.
   *
   * @param data The user as JSON text.
   */
  authenticate(socketId: string, data: string): UserAuth {
    const auth = this.#sign(userText(socketId, data));
    return { auth, user_data: data };
  }
}

// ---- Webhooks ---------------------------------------------------------------

/** A webhook as it arrived. Requests of frameworks that have these fields fit. */
export interface WebhookRequest {
  /** A `Headers`, or an object with names in any case. */
  headers: Headers | Record<string, string | string[] | undefined>;
  /** The body, as the text that arrived. */
  rawBody: string;
}

/** An event that a webhook reports. Its name decides which other fields it has. */
export interface WebhookEvent {
  /** The name, such as `channel_occupied`. */
  name: string;
  /** The channel, if it is about one. */
  channel?: string;
  /** The user, if it is about a member. */
  user_id?: string;
  /** The name of a client event. */
  event?: string;
  /** The data of a client event. */
  data?: string;
  /** The sender of a client event. */
  socket_id?: string;
  /** The number of subscriptions to the channel. */
  subscription_count?: number;
}

/** The body of a webhook. */
export interface WebhookData {
  /** When the webhook was made, in milliseconds since 1970. */
  time_ms: number;
  /** The events, in order. */
  events: WebhookEvent[];
}

/** A key and its secret. */
export interface Credentials {
  /** The app key. */
  key: string;
  /** The app secret. */
  secret: string;
}

/**
 * A webhook that arrived, with the checks of the official SDK. Made by
 * {@linkcode Pusher.webhook}.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { assertEquals } from "@std/assert";
 *
 * const pusher = new Pusher({ key: "app-key", secret: "app-secret" });
 *
 * async function receive(request: Request): Promise<Response> {
 *   const webhook = pusher.webhook({
 *     headers: request.headers,
 *     rawBody: await request.text(),
 *   });
 *   if (!webhook.isValid()) return new Response(null, { status: 401 });
 *   for (const event of webhook.getEvents()) console.log(event.name);
 *   return new Response();
 * }
 *
 * const unsigned = new Request("http://localhost", { method: "POST", body: "{}" });
 * assertEquals((await receive(unsigned)).status, 401);
 * ```
 */
export class Webhook {
  readonly #credentials: readonly Credentials[];
  readonly #key: string | null;
  readonly #signature: string;
  readonly #contentType: string | null;
  readonly #body: string;
  readonly #data: WebhookData | null;

  /**
   * Reads a webhook, without checking it.
   *
   * @param credentials The app whose signature is expected, or its several keys.
   * @param request The webhook.
   * @throws {TypeError} If there are no headers, or the body is not a string.
   */
  constructor(
    credentials: Credentials | readonly Credentials[],
    request: WebhookRequest,
  ) {
    // Each is read once: what is returned must be what the signature covers.
    const { headers, rawBody } = readWebhook(request);
    const header = (name: string) => {
      const value = headers instanceof Headers
        ? headers.get(name)
        : headers[name] ?? headers[nameIn(headers, name)];
      return typeof value === "string" ? value : null;
    };
    this.#credentials = [credentials].flat();
    this.#key = header("x-pusher-key");
    this.#signature = header("x-pusher-signature") ?? "";
    this.#contentType = header("content-type");
    this.#body = rawBody;
    const isText = typeof rawBody === "string" && rawBody.isWellFormed();
    const data = isText ? parseJson(rawBody) : undefined;
    // A signed webhook has the fields of its type; isValid checks the signature.
    this.#data = isObject(data) ? data as unknown as WebhookData : null;
  }

  /**
   * Whether the content type, the JSON and the signature are right.
   *
   * @param extra More apps whose signature is accepted.
   */
  isValid(extra?: Credentials | Credentials[] | null): boolean {
    if (!this.isBodyValid()) return false;
    return this.#credentials.concat(extra ?? []).some(({ key, secret }) =>
      key === this.#key &&
      equalsInConstantTime(hmac(secret, this.#body), this.#signature)
    );
  }

  /** Whether the content type is `application/json`, without parameters. */
  isContentTypeValid(): boolean {
    return this.#contentType === "application/json";
  }

  /**
   * Whether the content type is right, and the body is a JSON object in well-formed
   * Unicode.
   */
  isBodyValid(): boolean {
    return this.isContentTypeValid() && this.#data !== null;
  }

  /**
   * The body.
   *
   * @throws {WebHookError} If the body is not valid.
   */
  getData(): WebhookData {
    if (!this.isBodyValid() || this.#data === null) {
      const reason = this.isContentTypeValid()
        ? "its body is no JSON object"
        : "its content type is not application/json";
      const [type, body] = [this.#contentType, this.#body];
      const message = `Cannot read the webhook: ${reason}`;
      throw new WebHookError(message, type, body, this.#signature);
    }
    return this.#data;
  }

  /**
   * The events, in order.
   *
   * @throws {WebHookError} If the body is not valid.
   */
  getEvents(): WebhookEvent[] {
    return this.getData().events;
  }

  /**
   * When the webhook was made.
   *
   * @throws {WebHookError} If the body is not valid.
   */
  getTime(): Date {
    return new Date(this.getData().time_ms);
  }
}

/** The parts of a webhook, each read once. */
function readWebhook(request: WebhookRequest): WebhookRequest {
  // A program may pass anything, such as nothing.
  const { headers, rawBody }: WebhookRequest = Object(request);
  const what = "Cannot read a webhook";
  if (!isObject(headers)) {
    throw new TypeError(`${what}: headers is ${quote(headers)}, and no object`);
  }
  if (typeof rawBody !== "string") {
    throw new TypeError(
      `${what}: rawBody is ${quote(rawBody)}, and must be the body as text, ` +
        "as await request.text() returns it",
    );
  }
  return { headers, rawBody };
}

/** A header's name as an object spells it. */
function nameIn(headers: object, name: string): string {
  return Object.keys(headers).find((other) => other.toLowerCase() === name) ??
    name;
}

/**
 * A webhook was read whose body is not valid.
 *
 * @example
 * ```ts
 * import { Pusher, WebHookError } from "@glitz/pusher";
 * import { assertThrows } from "@std/assert";
 *
 * const pusher = new Pusher();
 * const webhook = pusher.webhook({ headers: {}, rawBody: "no JSON" });
 * assertThrows(() => webhook.getEvents(), WebHookError);
 * ```
 */
export class WebHookError extends TypeError {
  /** Always `PusherWebHookError`, as in the official SDK. */
  override readonly name = "PusherWebHookError";
  /** The content type of the webhook. */
  readonly contentType: string | null;
  /** The body of the webhook. */
  readonly body: string;
  /** The signature that came with it. */
  readonly signature: string;

  /** Made by the methods that throw it. */
  constructor(
    message: string,
    contentType: string | null,
    body: string,
    signature: string,
  ) {
    super(message);
    this.contentType = contentType;
    this.body = body;
    this.signature = signature;
  }
}
