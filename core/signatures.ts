/**
 * Every text that is signed, how it is signed and how signatures are compared; and
 * webhooks that came in, which are read by their signature.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createHmac, timingSafeEqual } from "node:crypto";
import { isObject, parseJson } from "./protocol.ts";

/** HMAC-SHA256 in lower-case hex, as everything here is signed. */
export function hmac(secret: string, text: string): string {
  return createHmac("sha256", secret).update(text).digest("hex");
}

/** Compares without telling by its time where the difference is. */
export function equalsInConstantTime(expected: string, given: string): boolean {
  const a = Buffer.from(expected);
  const b = Buffer.from(given);
  return a.length === b.length && timingSafeEqual(a, b);
}

/** The text that a permission to subscribe signs. */
export function channelText(
  socketId: string,
  channel: string,
  channelData: string | undefined,
): string {
  const text = `${socketId}:${channel}`;
  return channelData === undefined ? text : `${text}:${channelData}`;
}

/** The text that a sign-in signs. */
export function userText(socketId: string, userData: string): string {
  return `${socketId}::user::${userData}`;
}

/**
 * The texts that a request may have signed. SDKs differ in whether they sign the
 * path before or after escaping it, and names as sent or in lower case. Each
 * text takes the secret to sign, so accepting any of them gives nothing away.
 */
export function requestTexts(
  method: string,
  url: URL,
  query: URLSearchParams,
): Set<string> {
  const texts = new Set<string>();
  for (const path of [url.pathname, decodePart(url.pathname)]) {
    if (path === null) continue;
    for (const params of [query, url.searchParams]) {
      texts.add(`${method}\n${path}\n${signedParams(params)}`);
    }
  }
  return texts;
}

/** `key=value` of all parameters but the signature, sorted by key, unescaped. */
function signedParams(params: URLSearchParams): string {
  return [...params]
    .filter(([name]) => name.toLowerCase() !== "auth_signature")
    .sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
    .map(([name, value]) => `${name}=${value}`)
    .join("&");
}

/** The unescaped part of a path, or null if it is not escaped properly. */
export function decodePart(part: string): string | null {
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}

// ---- Webhooks

/** A webhook as it came in. */
export interface WebhookRequest {
  /** Names in lower case, or a `Headers`. */
  headers: Headers | Record<string, string | string[] | undefined>;
  /** The body as the text that came. */
  rawBody: string;
}

/** What a webhook reports. Fields besides the name depend on it. */
export interface WebhookEvent {
  /** Such as `channel_occupied`. */
  name: string;
  /** The channel, where there is one. */
  channel?: string;
  /** The user, for events about members. */
  user_id?: string;
  /** The name of a client event. */
  event?: string;
  /** The data of a client event. */
  data?: string;
  /** The sender of a client event. */
  socket_id?: string;
  /** How many are subscribed. */
  subscription_count?: number;
}

/** The body of a webhook. */
export interface WebhookData {
  /** When it was made, in milliseconds. */
  time_ms: number;
  /** What happened, in order. */
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
 * A webhook that came in, with the checks that the official SDK has. Made by
 * {@linkcode Pusher.webhook}.
 */
export class Webhook {
  readonly #credentials: Credentials;
  readonly #key: string | null;
  readonly #signature: string;
  readonly #contentType: string | null;
  readonly #body: string;
  readonly #data: WebhookData | null;

  /**
   * Takes a webhook in; nothing is checked yet.
   *
   * @param credentials Whose signature is expected.
   * @param request What came in.
   */
  constructor(credentials: Credentials, request: WebhookRequest) {
    const header = (name: string) => {
      const { headers } = request;
      const value = headers instanceof Headers
        ? headers.get(name)
        : headers[name];
      return typeof value === "string" ? value : null;
    };
    this.#credentials = credentials;
    this.#key = header("x-pusher-key");
    this.#signature = header("x-pusher-signature") ?? "";
    this.#contentType = header("content-type");
    this.#body = request.rawBody;
    const data = parseJson(request.rawBody);
    // Only the signature vouches for more than this, and it is checked apart.
    this.#data = isObject(data) ? data as unknown as WebhookData : null;
  }

  /**
   * Whether the webhook is what it says: type, JSON and signature.
   *
   * @param extra More credentials that may have signed it.
   */
  isValid(extra?: Credentials | Credentials[] | null): boolean {
    if (!this.isBodyValid()) return false;
    return [this.#credentials].concat(extra ?? []).some(({ key, secret }) =>
      key === this.#key &&
      equalsInConstantTime(hmac(secret, this.#body), this.#signature)
    );
  }

  /** Whether the content type is `application/json`, and that only. */
  isContentTypeValid(): boolean {
    return this.#contentType === "application/json";
  }

  /** Whether the type is right and the body is a JSON object. */
  isBodyValid(): boolean {
    return this.isContentTypeValid() && this.#data !== null;
  }

  /**
   * The body.
   *
   * @throws {TypeError} If it is not valid.
   */
  getData(): WebhookData {
    if (!this.isBodyValid() || this.#data === null) {
      throw new TypeError("Cannot read the webhook: its body is not valid");
    }
    return this.#data;
  }

  /**
   * What happened, in order.
   *
   * @throws {TypeError} If the body is not valid.
   */
  getEvents(): WebhookEvent[] {
    return this.getData().events;
  }

  /**
   * When it was made.
   *
   * @throws {TypeError} If the body is not valid.
   */
  getTime(): Date {
    return new Date(this.getData().time_ms);
  }
}
