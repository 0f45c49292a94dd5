/**
 * The options of webhooks, checked by name, once.
 *
 * @module
 */

import {
  type Check,
  checkBoolean,
  checkDelay,
  checkDuration,
  checkFunction,
  checkNothing,
  checkSecret,
  checkSize,
  checkString,
  checkText,
  copyOptions,
  fail,
  failSecret,
  type Field,
  having,
  itemOf,
  listOf,
  objectOf,
  optionOf,
} from "../../core/checks.ts";
import { NAMES, type OutgoingEvent, type WebhookName } from "./events.ts";
import type { WebhookError } from "./reports.ts";

// ---- Options ----------------------------------------------------------------

/** A receiver of webhooks, and the events that it gets. */
export interface WebhookEndpoint {
  /** The address, with http or https and without user and password. */
  url: string | URL;
  /**
   * The events that it gets. It gets `cache_miss` once per channel, and again after
   * a publish to the channel or after the channel was vacated. @default {all}
   */
  events?: readonly WebhookName[] | undefined;
  /** Only events of channels with this name prefix. @default {""} */
  channelPrefix?: string | undefined;
  /** Headers of each webhook, such as `authorization`. */
  headers?: HeadersInit | undefined;
}

/** Options of {@linkcode webhooks}. */
export interface WebhookOptions {
  /** The app's key, by which webhooks name the app. */
  key: string;
  /** The app's secret, which signs webhooks. */
  secret: string;
  /** The receivers, at least one. */
  endpoints: readonly WebhookEndpoint[];
  /**
   * Whether a webhook may report several events, as those of the hosted service do:
   * the events of 250 milliseconds, at most 20, and at most 65,536 bytes of them.
   * Otherwise it reports one, and a client that causes many events fills the queue
   * sooner. @default {true}
   */
  batch?: boolean | undefined;
  /**
   * How long `channel_vacated` and `member_removed` are held back, in
   * milliseconds. @default {3000}
   */
  settleMs?: number | undefined;
  /**
   * How long one try may take, in milliseconds. The hosted service waits 4 seconds.
   * @default {5000}
   */
  timeoutMs?: number | undefined;
  /**
   * The pauses between the tries of a webhook, in milliseconds. There is one try
   * more than there are pauses.
   * @default {[1000,2000,4000,8000,16000,32000,64000,128000,45000]}
   */
  retryDelaysMs?: readonly number[] | undefined;
  /**
   * Bytes of JSON that may wait for one endpoint. `channel_occupied` has about 60,
   * a client event up to 11,000. If a new event exceeds them, the server drops events
   * of the connection that has the most bytes in the queue: the oldest, or the new
   * event if it is from the same connection. @default {16777216}
   */
  queueBytes?: number | undefined;
  /**
   * Events that may wait for one endpoint, whatever their size; each takes about 500
   * bytes besides its JSON. What is dropped is the same. @default {65536}
   */
  queueEvents?: number | undefined;
  /**
   * Called for each try that failed, and for each event that an endpoint will not
   * get. Without it the errors are printed: the first of each kind, and again
   * after the endpoint has caught up.
   */
  onError?: ((error: WebhookError) => unknown) | undefined;
}

// ---- Checks -----------------------------------------------------------------

/** The options, checked and with their defaults. */
export interface Settings {
  readonly key: string;
  readonly secret: string;
  readonly endpoints: readonly EndpointSettings[];
  readonly batch: boolean;
  readonly settleMs: number;
  readonly timeoutMs: number;
  readonly retryDelaysMs: readonly number[];
  readonly queueBytes: number;
  readonly queueEvents: number;
  readonly onError: WebhookOptions["onError"];
}

export interface EndpointSettings {
  readonly url: string;
  readonly names: ReadonlySet<WebhookName>;
  readonly prefix: string;
  /** The headers that all webhooks to the endpoint share. */
  readonly headers: Headers;
}

/** Whether an endpoint gets an event. */
export function wants(
  { names, prefix }: EndpointSettings,
  { name, channel }: OutgoingEvent,
): boolean {
  return names.has(name) && channel.startsWith(prefix);
}

/**
 * The events that a server has to hear of for its endpoints. Each event of a pair can
 * undo the other, so both are needed. And a vacated channel may report a cache miss
 * again.
 */
export function heardFor(
  endpoints: readonly Pick<EndpointSettings, "names">[],
): ReadonlySet<WebhookName> {
  const heard = new Set(endpoints.flatMap(({ names }) => [...names]));
  const add = (pair: readonly WebhookName[], because = pair) => {
    if (because.some((name) => heard.has(name))) {
      for (const name of pair) heard.add(name);
    }
  };
  const occupancy = ["channel_occupied", "channel_vacated"] as const;
  add(occupancy, [...occupancy, "cache_miss"]);
  add(["member_added", "member_removed"]);
  return heard;
}

/** Five minutes in all, as with the hosted service. */
const RETRY_DELAYS_MS = Object.freeze(
  [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 45_000],
);

export const CLOSE_TIMEOUT_MS = 5_000;

export const checkClose = objectOf({ timeoutMs: checkDelay });

/** Headers that the protocol sets. */
const OWN_HEADERS = Object.freeze([
  "content-type",
  "x-pusher-key",
  "x-pusher-signature",
  "x-pusher-webhook-id",
]);

export const OPTIONS: Field = Object.freeze({
  subject: "Cannot send webhooks",
  name: "",
});

/** Such as a handler, or the options, in its place. */
export const checkPusher = having(["authorizeChannel", "clock"], "be a Pusher");

const ENDPOINT_CHECKS: Record<keyof WebhookEndpoint, Check> = {
  url: checkUrl,
  events: listOf(checkName, "name"),
  channelPrefix: checkString,
  // An iterator can be read once, so `parseHeaders` checks what it reads.
  headers: checkNothing,
};

const OPTION_CHECKS: Record<keyof WebhookOptions, Check> = {
  key: checkText,
  secret: checkSecret,
  endpoints: checkEndpoints,
  batch: checkBoolean,
  settleMs: checkDelay,
  timeoutMs: checkDuration,
  retryDelaysMs: listOf(checkDelay),
  queueBytes: checkSize,
  queueEvents: checkSize,
  onError: checkFunction,
};

const checkOptions = objectOf<WebhookOptions>(
  OPTION_CHECKS,
  ["key", "secret", "endpoints"],
);

const ENDPOINT_NAMES = Object.keys(
  ENDPOINT_CHECKS,
) as (keyof WebhookEndpoint)[];

const OPTION_NAMES = Object.keys(OPTION_CHECKS) as (keyof WebhookOptions)[];

const checkList = listOf(
  objectOf<WebhookEndpoint>(ENDPOINT_CHECKS, ["url"]),
  "endpoint",
);

function checkEndpoints(value: unknown, field: Field): void {
  // It may be a URL with a secret in its query.
  if (typeof value === "string") failSecret(value, field, "be an array");
  checkList(value, field);
}

function checkUrl(value: unknown, field: Field): void {
  const url = URL.parse(String(value));
  if (url !== null && (url.username !== "" || url.password !== "")) {
    throw new TypeError(
      `${field.subject}: ${field.name} has a user or password, and must have ` +
        "none: say them in the authorization header",
    );
  }
  if (url !== null && /^https?:$/.test(url.protocol)) return;
  const rule = "be a URL with http or https";
  // A query may hold a secret, and what is no URL may be one.
  if (url !== null) fail(String(value).split(/[?#]/)[0], field, rule);
  if (typeof value === "string") failSecret(value, field, rule);
  fail(value, field, rule);
}

function checkName(value: unknown, field: Field): void {
  const names: readonly unknown[] = NAMES;
  if (!names.includes(value)) {
    fail(value, field, `be one of ${NAMES.join(", ")}`);
  }
}

export function parseOptions(given: WebhookOptions): Settings {
  const options = copyOptions(given, OPTION_NAMES);
  if (Array.isArray(options?.endpoints)) {
    options.endpoints = options.endpoints.map((endpoint) =>
      copyOptions(endpoint, ENDPOINT_NAMES)
    );
  }
  checkOptions(options, OPTIONS);
  const {
    key,
    secret,
    endpoints,
    batch = true,
    settleMs = 3_000,
    timeoutMs = 5_000,
    retryDelaysMs = RETRY_DELAYS_MS,
    queueBytes = 16_777_216,
    queueEvents = 65_536,
    onError,
  } = options;
  const list = optionOf(OPTIONS, "endpoints");
  return {
    key,
    secret,
    endpoints: endpoints.map((endpoint, i) =>
      parseEndpoint(endpoint, itemOf(list, i), key)
    ),
    batch,
    settleMs,
    timeoutMs,
    retryDelaysMs: [...retryDelaysMs],
    queueBytes,
    queueEvents,
    onError,
  };
}

function parseEndpoint(
  { url, events = NAMES, channelPrefix = "", headers }: WebhookEndpoint,
  field: Field,
  key: string,
): EndpointSettings {
  const target = new URL(url);
  // A fragment is never sent.
  target.hash = "";
  return {
    url: target.href,
    names: new Set(events),
    prefix: channelPrefix,
    headers: parseHeaders(headers, optionOf(field, "headers"), key),
  };
}

/** The headers of every webhook to an endpoint. */
function parseHeaders(
  given: HeadersInit | undefined,
  field: Field,
  key: string,
): Headers {
  const headers = readHeaders(given, field);
  for (const name of OWN_HEADERS) {
    if (!headers.has(name)) continue;
    throw new TypeError(
      `${field.subject}: ${field.name} has ${name}, which is set for it`,
    );
  }
  // Official SDKs accept nothing else as JSON, not even with a charset.
  headers.set("content-type", "application/json");
  headers.set("x-pusher-key", key);
  return headers;
}

function readHeaders(given: HeadersInit | undefined, field: Field): Headers {
  try {
    return new Headers(given);
  } catch {
    // The runtime's error quotes the value, which may be a secret.
    throw new TypeError(
      `${field.subject}: ${field.name} are not valid, and must be what a Headers ` +
        "is made of: names, and values without a line break",
    );
  }
}
