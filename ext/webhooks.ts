/**
 * Webhooks: tells other programs over HTTP what happens on the channels of an
 * app, signed so that every official server SDK can verify it.
 *
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { webhooks } from "@glitz/pusher/webhooks";
 *
 * const app = { key: "app-key", secret: "app-secret" };
 * await using pusher = new Pusher(app);
 * await using hooks = webhooks(pusher, {
 *   ...app,
 *   endpoints: [{
 *     url: "https://example.com/pusher",
 *     events: ["channel_occupied", "channel_vacated"],
 *     channelPrefix: "presence-",
 *   }],
 * });
 * console.assert(hooks.status[0]?.queued === 0);
 * ```
 *
 * What is promised:
 * - An endpoint gets its webhooks one after the other, in the order in which
 *   things happened. One that is slow or down holds up nobody but itself.
 * - Success is any 2xx. All else, redirects included, is tried again 1, 2, 4, …
 *   128 seconds after it failed, with the same body and signature, before the
 *   webhook is given up and the next one has its turn. An endpoint that was down
 *   for less than that misses nothing.
 * - Delivery is at least once: an answer can be lost on its way. The header
 *   `X-Pusher-Webhook-Id` is the same on each try of a webhook and on no other
 *   one, so that a receiver can leave out what it has seen.
 * - `channel_vacated` and `member_removed` wait for 3 seconds. If the channel or
 *   the user comes back within them, neither that nor the opposite is sent.
 * - What waits is bounded, see {@linkcode WebhookOptions.queueBytes}. It is kept
 *   in memory, so it ends with the process.
 *
 * Each server tells of what happens on itself. Where several share their
 * channels, a client that goes from one to another is not settled: there may be a
 * `channel_vacated` after the `channel_occupied` of the other server.
 *
 * It costs a listener on the hooks that some endpoint wants, and the JSON of an
 * event once, however many endpoints get it.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createHmac } from "node:crypto";
import {
  checkBoolean,
  checkDelay,
  checkDuration,
  checkFunction,
  checkNothing,
  checkSecret,
  checkSize,
  checkString,
  checkText,
  fail,
  type Field,
  itemOf,
  listOf,
  objectOf,
  optionOf,
} from "../core/checks.ts";
import type { AppEvent, Hooks, Pusher, WebhookEvent } from "../mod.ts";

// ---- Public types -----------------------------------------------------------

/** What an endpoint can be told of. */
export type WebhookName =
  | "channel_occupied"
  | "channel_vacated"
  | "member_added"
  | "member_removed"
  | "client_event"
  | "cache_miss"
  | "subscription_count";

/** An event as receivers see it. */
export interface OutgoingEvent extends WebhookEvent {
  /** What happened. */
  name: WebhookName;
  /** Where. */
  channel: string;
}

/** Who is told, and of what. */
export interface WebhookEndpoint {
  /** Where webhooks are posted: http or https, without user and password. */
  url: string | URL;
  /**
   * Events that it gets. `cache_miss` is told once per channel, until something
   * is published there or the channel is vacated. @default {all}
   */
  events?: readonly WebhookName[] | undefined;
  /** Only of channels whose name starts so. @default {""} */
  channelPrefix?: string | undefined;
  /** Sent along with each webhook, such as `authorization`. */
  headers?: HeadersInit | undefined;
}

/** Options of {@linkcode webhooks}. */
export interface WebhookOptions {
  /** The app's key, which webhooks name. */
  key: string;
  /** The app's secret, which signs them. */
  secret: string;
  /** At least one. */
  endpoints: readonly WebhookEndpoint[];
  /**
   * Whether a webhook may tell of several events: those of 200 milliseconds, or
   * 50. Otherwise it tells of one. @default {false}
   */
  batch?: boolean | undefined;
  /**
   * How long a channel stays vacated, or a member removed, before it is told, in
   * milliseconds. @default {3000}
   */
  settleMs?: number | undefined;
  /** How long one try may take, in milliseconds. @default {5000} */
  timeoutMs?: number | undefined;
  /**
   * Pauses between the tries of a webhook, in milliseconds; one try more than
   * there are pauses. @default {[1000,2000,4000,8000,16000,32000,64000,128000]}
   */
  retryDelaysMs?: readonly number[] | undefined;
  /**
   * What may wait for one endpoint, in bytes of JSON; an occupied channel has
   * about 60, a client event up to 11,000. An event that finds no room is
   * dropped, and those that wait stay. @default {16777216}
   */
  queueBytes?: number | undefined;
  /**
   * Told of each try that failed and of each event that an endpoint will not
   * get. Without it that is printed, the first of a kind until the endpoint has
   * caught up.
   */
  onError?: ((error: WebhookError) => unknown) | undefined;
}

/** Webhooks at work; made by {@linkcode webhooks}. */
export interface Webhooks extends AsyncDisposable {
  /** How each endpoint is doing, in the order of the options. */
  readonly status: WebhookStatus[];
  /**
   * Stops listening, and waits until what has happened so far is delivered: what
   * waits to settle is told at once, and so is what waits to be tried again. To
   * tell that clients leave as the server closes, close the server first. What is
   * left at the end goes to {@linkcode WebhookOptions.onError}.
   *
   * @param options `timeoutMs`: how long that may take. 5,000 by default.
   * @returns Resolves when nothing is under way any more.
   * @throws {RangeError} At once, if `timeoutMs` is not a duration.
   */
  close(options?: { timeoutMs?: number }): Promise<void>;
}

/** How an endpoint is doing; all figures count events. */
export interface WebhookStatus {
  /** The endpoint's URL. */
  url: string;
  /** Waiting, the ones on their way included. */
  queued: number;
  /** Taken by the endpoint. */
  delivered: number;
  /** Dropped, because too many were waiting. */
  dropped: number;
  /** Lost with webhooks that were given up, or at the close. */
  lost: number;
}

/** Why a {@linkcode WebhookError} is told. */
export type WebhookFailure =
  /** A try failed, and another one follows. */
  | "retrying"
  /** The last try failed. */
  | "gave_up"
  /** There was no room in the queue. */
  | "dropped"
  /** It was not delivered before the close. */
  | "closed";

/** An endpoint did not get something. Only `retrying` leaves it a chance. */
export class WebhookError extends Error {
  /** What has become of the events. */
  readonly failure: WebhookFailure;
  /** The endpoint's URL, query included, which the message leaves out. */
  readonly url: string;
  /** What it is about. */
  readonly events: readonly OutgoingEvent[];

  /** Made by {@linkcode webhooks}, for {@linkcode WebhookOptions.onError}. */
  constructor(
    message: string,
    options: ErrorOptions & {
      failure: WebhookFailure;
      url: string;
      events: readonly OutgoingEvent[];
    },
  ) {
    super(message, options);
    this.name = "WebhookError";
    this.failure = options.failure;
    this.url = options.url;
    this.events = options.events;
  }
}

/**
 * Has the endpoints told of what happens in one app, from now on. Where a server
 * has several apps, each has its own: `webhooks(server.app("shop"), …)`.
 *
 * @example What a receiver does
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { webhooks } from "@glitz/pusher/webhooks";
 * import { assertEquals } from "@std/assert";
 *
 * const app = { key: "app-key", secret: "app-secret" };
 * await using pusher = new Pusher(app);
 *
 * const told = Promise.withResolvers<unknown>();
 * await using receiver = Deno.serve({ port: 0 }, async (request) => {
 *   const { headers } = request;
 *   const webhook = pusher.webhook({ headers, rawBody: await request.text() });
 *   if (!webhook.isValid()) return new Response(null, { status: 401 });
 *   told.resolve(webhook.getEvents());
 *   return new Response();
 * });
 *
 * await using _hooks = webhooks(pusher, {
 *   ...app,
 *   endpoints: [{ url: `http://localhost:${receiver.addr.port}` }],
 * });
 *
 * const client = pusher.open(
 *   { bufferedAmount: 0, send() {}, close() {} },
 *   "app-key",
 *   new Request("http://localhost/app/app-key?protocol=7"),
 * );
 * const data = { channel: "news" };
 * client.receive(JSON.stringify({ event: "pusher:subscribe", data }));
 * assertEquals(await told.promise, [
 *   { name: "channel_occupied", channel: "news" },
 * ]);
 * client.closed(1000);
 * ```
 *
 * @param pusher The app.
 * @param options Its credentials and the endpoints; checked at once.
 * @returns To be closed before the program ends.
 * @throws {TypeError} If an option is unknown or of the wrong kind, or the
 * credentials are not those of the app.
 * @throws {RangeError} If a figure is outside its range.
 */
export function webhooks<Events extends object>(
  pusher: Pusher<Events>,
  options: WebhookOptions,
): Webhooks {
  return new Dispatcher(pusher, options);
}

// ---- Dispatcher -------------------------------------------------------------
// From hooks to endpoints: what is told at all. It owns what waits to settle, and
// knows nothing of requests.

/** How the protocol writes each event; the order of the fields is part of it. */
const WIRE: { [Name in WebhookName]: (event: Hooks[Name]) => OutgoingEvent } = {
  channel_occupied: ({ channel }) => ({ name: "channel_occupied", channel }),
  channel_vacated: ({ channel }) => ({ name: "channel_vacated", channel }),
  member_added: ({ channel, userId }) => (
    { name: "member_added", channel, user_id: userId }
  ),
  member_removed: ({ channel, userId }) => (
    { name: "member_removed", channel, user_id: userId }
  ),
  client_event: ({ channel, event, data, socketId, userId }) => ({
    name: "client_event",
    channel,
    event,
    ...(data !== undefined && { data }),
    socket_id: socketId,
    ...(userId !== undefined && { user_id: userId }),
  }),
  cache_miss: ({ channel }) => ({ name: "cache_miss", channel }),
  subscription_count: ({ channel, subscriptionCount }) => ({
    name: "subscription_count",
    channel,
    subscription_count: subscriptionCount,
  }),
};

const NAMES = Object.keys(WIRE) as WebhookName[];

/** What is signed to find out whose credentials there are; no client has it. */
const PROBE = { socketId: "0.0", channel: "private-webhooks" };

/** A departure that may still be undone. */
interface Departure {
  readonly event: OutgoingEvent;
  readonly timer: ReturnType<typeof setTimeout>;
}

class Dispatcher<Events extends object> implements Webhooks {
  readonly #pusher: Pusher<Events>;
  readonly #endpoints: Endpoint[];
  readonly #settleMs: number;
  /** What only the holder of the app's credentials can sign. */
  readonly #proof: string;
  /** Whether an app is the one that is told of, by its id. */
  readonly #isOurs = new Map<string, boolean>();
  readonly #unlisten: (() => void)[] = [];
  /**
   * Departures by channel, or channel and user, in their order. There are as
   * many at most as there were channels and members to leave.
   */
  readonly #settling = new Map<string, Departure>();
  /** Channels whose cache miss has been told. */
  readonly #missed = new Set<string>();
  #closing: Promise<void> | null = null;

  constructor(pusher: Pusher<Events>, options: WebhookOptions) {
    const settings = parseOptions(options);
    this.#pusher = pusher;
    this.#settleMs = settings.settleMs;
    this.#endpoints = settings.endpoints.map((endpoint) =>
      new Endpoint(endpoint, settings)
    );
    const { auth } = pusher.authorizeChannel(PROBE.socketId, PROBE.channel);
    const signature = hmac(
      settings.secret,
      `${PROBE.socketId}:${PROBE.channel}`,
    );
    this.#proof = `${settings.key}:${signature}`;
    if (auth !== this.#proof) {
      throw new TypeError(
        `${OPTIONS.subject}: key and secret are not those of the app; where a ` +
          "server has several, pass the view that its app method returns",
      );
    }
    this.#listen();
  }

  get status(): WebhookStatus[] {
    return this.#endpoints.map((endpoint) => endpoint.status);
  }

  close({ timeoutMs = CLOSE_TIMEOUT_MS } = {}): Promise<void> {
    const subject = "Cannot close webhooks";
    checkDelay(timeoutMs, { subject, name: "timeoutMs" });
    return this.#closing ??= this.#close(timeoutMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Listens to no more than some endpoint wants: hooks that nobody hears are free. */
  #listen(): void {
    const wants = (...names: WebhookName[]) =>
      this.#endpoints.some((endpoint) =>
        names.some((name) => endpoint.names.has(name))
      );
    // Of each pair both are needed even if one is wanted, for what they undo; and
    // a channel that is vacated may miss its cache again.
    if (wants("channel_occupied", "channel_vacated", "cache_miss")) {
      this.#on("channel_occupied", (e) => this.#came(e.channel, e));
      this.#on("channel_vacated", (e) => this.#left(e.channel, e));
    }
    if (wants("member_added", "member_removed")) {
      this.#on("member_added", (e) => this.#came(memberKey(e), e));
      this.#on("member_removed", (e) => this.#left(memberKey(e), e));
    }
    if (wants("client_event")) this.#on("client_event", (e) => this.#tell(e));
    if (wants("subscription_count")) {
      this.#on("subscription_count", (e) => this.#tell(e));
    }
    if (wants("cache_miss")) {
      this.#on("cache_miss", (e) => {
        if (this.#missed.has(e.channel)) return;
        this.#missed.add(e.channel);
        this.#tell(e);
      });
      this.#unlisten.push(this.#pusher.on("published", ({ app, channel }) => {
        // Most publishes are not to such a channel: look there first.
        if (this.#missed.has(channel) && this.#concerns({ app })) {
          this.#missed.delete(channel);
        }
      }));
    }
  }

  #on<Name extends WebhookName>(
    name: Name,
    take: (event: OutgoingEvent) => void,
  ): void {
    this.#unlisten.push(this.#pusher.on(name, (event) => {
      if (this.#concerns(event)) take(WIRE[name](event));
    }));
  }

  /**
   * Whether an event is of the app: the main instance of several apps hears all
   * of them, and what happens in one must not be told in the name of another.
   */
  #concerns({ app }: AppEvent): boolean {
    let isOurs = this.#isOurs.get(app);
    if (isOurs === undefined) {
      const { auth } = this.#pusher.app(app)
        .authorizeChannel(PROBE.socketId, PROBE.channel);
      isOurs = auth === this.#proof;
      this.#isOurs.set(app, isOurs);
    }
    return isOurs;
  }

  /** A channel or member is there: no news if it was about to be told as gone. */
  #came(key: string, event: OutgoingEvent): void {
    const departure = this.#settling.get(key);
    if (departure === undefined) return this.#tell(event);
    clearTimeout(departure.timer);
    this.#settling.delete(key);
  }

  /** A channel or member is gone, if it does not come back. */
  #left(key: string, event: OutgoingEvent): void {
    // On another server it may have come back between two departures from here.
    clearTimeout(this.#settling.get(key)?.timer);
    this.#settling.delete(key);
    const timer = setTimeout(() => this.#settle(key, event), this.#settleMs);
    this.#settling.set(key, { event, timer });
  }

  #settle(key: string, event: OutgoingEvent): void {
    this.#settling.delete(key);
    if (event.name === "channel_vacated") this.#missed.delete(event.channel);
    this.#tell(event);
  }

  #tell(event: OutgoingEvent): void {
    const takers = this.#endpoints.filter((one) => one.wants(event));
    if (takers.length === 0) return;
    const json = JSON.stringify(event);
    const bytes = Buffer.byteLength(json);
    const item: Item = { json, bytes, timeMs: Date.now() };
    for (const endpoint of takers) endpoint.push(item);
  }

  async #close(timeoutMs: number): Promise<void> {
    // Hooks run in a microtask after the change: hear those of changes so far.
    await Promise.resolve();
    for (const unlisten of this.#unlisten) unlisten();
    for (const [key, { event, timer }] of this.#settling) {
      clearTimeout(timer);
      this.#settle(key, event);
    }
    await Promise.all(this.#endpoints.map((one) => one.close(timeoutMs)));
  }
}

/** Told apart from every channel, whose names have no such character. */
function memberKey({ channel, user_id }: OutgoingEvent): string {
  return `${channel}\n${user_id}`;
}

// ---- Endpoint ---------------------------------------------------------------
// One queue and the one request at a time that empties it. Nothing here throws:
// what goes wrong is reported.

/** An event that waits; endpoints share it. */
interface Item {
  readonly json: string;
  readonly bytes: number;
  /** When it was told. */
  readonly timeMs: number;
}

/** A try that did not succeed, and why. */
interface Failure {
  readonly reason: string;
  readonly cause?: unknown;
}

class Endpoint {
  readonly names: ReadonlySet<string>;
  readonly #url: string;
  readonly #prefix: string;
  readonly #headers: Headers;
  readonly #settings: Settings;
  /** In order; what is on its way stays at the front until it is decided. */
  readonly #queue: Item[] = [];
  #queuedBytes = 0;
  #delivered = 0;
  #dropped = 0;
  #lost = 0;
  /** What has been printed since the queue was last empty. */
  readonly #printed = new Set<WebhookFailure>();
  /** Empties the queue; null while it is empty. */
  #worker: Promise<void> | null = null;
  #isGathering = false;
  /** Ends the pause at hand. */
  #wake: (() => void) | null = null;
  /** Ends the try at hand. */
  #abort: (() => void) | null = null;
  #state: "open" | "closing" | "closed" = "open";

  constructor(endpoint: EndpointSettings, settings: Settings) {
    this.names = endpoint.names;
    this.#url = endpoint.url;
    this.#prefix = endpoint.prefix;
    this.#headers = endpoint.headers;
    this.#settings = settings;
  }

  get status(): WebhookStatus {
    return {
      url: this.#url,
      queued: this.#queue.length,
      delivered: this.#delivered,
      dropped: this.#dropped,
      lost: this.#lost,
    };
  }

  wants({ name, channel }: OutgoingEvent): boolean {
    return this.names.has(name) && channel.startsWith(this.#prefix);
  }

  push(item: Item): void {
    const { queueBytes } = this.#settings;
    if (this.#queuedBytes + item.bytes > queueBytes) {
      this.#dropped++;
      const waiting = `${this.#queuedBytes} of ${queueBytes} bytes are waiting`;
      return this.#report("dropped", [item], { reason: waiting });
    }
    this.#queue.push(item);
    this.#queuedBytes += item.bytes;
    if (this.#isGathering && this.#queue.length >= BATCH.events) this.#wake?.();
    this.#worker ??= this.#work();
  }

  async close(timeoutMs: number): Promise<void> {
    this.#state = "closing";
    this.#wake?.();
    const timer = setTimeout(() => {
      this.#state = "closed";
      this.#abort?.();
      this.#wake?.();
    }, timeoutMs);
    await this.#worker;
    clearTimeout(timer);
  }

  async #work(): Promise<void> {
    while (this.#queue.length > 0) {
      await this.#gather();
      const items = this.#queue.slice(
        0,
        this.#settings.batch ? BATCH.events : 1,
      );
      const isDelivered = await this.#deliver(items);
      if (this.#state === "closed" && !isDelivered) break;
      this.#remove(items.length);
      if (isDelivered) this.#delivered += items.length;
      else this.#lost += items.length;
    }
    if (this.#queue.length > 0) {
      const reason = "it was not delivered before the close";
      this.#report("closed", this.#queue, { reason });
      this.#lost += this.#queue.length;
      this.#remove(this.#queue.length);
    }
    this.#printed.clear();
    this.#worker = null;
  }

  /** Gives events the time to come together, if they may. */
  async #gather(): Promise<void> {
    const isFull = this.#queue.length >= BATCH.events;
    if (!this.#settings.batch || isFull || this.#state !== "open") return;
    this.#isGathering = true;
    await this.#pause(BATCH.ms);
    this.#isGathering = false;
  }

  #remove(count: number): void {
    for (const { bytes } of this.#queue.splice(0, count)) {
      this.#queuedBytes -= bytes;
    }
  }

  /** Tries until it succeeds, the tries are used up or the time is. */
  async #deliver(items: Item[]): Promise<boolean> {
    const body = encodeBody(items);
    const headers = new Headers(this.#headers);
    headers.set("x-pusher-signature", hmac(this.#settings.secret, body));
    headers.set("x-pusher-webhook-id", crypto.randomUUID());
    for (const delayMs of [...this.#settings.retryDelaysMs, null]) {
      const failure = await this.#post(body, headers);
      if (failure === null) return true;
      // The close reports all that is left, this included.
      if (this.#state === "closed") return false;
      if (delayMs === null) this.#report("gave_up", items, failure);
      else {
        this.#report("retrying", items, failure);
        await this.#pause(delayMs);
      }
    }
    return false;
  }

  /** One try. */
  async #post(body: string, headers: Headers): Promise<Failure | null> {
    if (this.#state === "closed") return { reason: "it was too late" };
    const { timeoutMs } = this.#settings;
    const controller = new AbortController();
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      controller.abort();
    }, timeoutMs);
    this.#abort = () => controller.abort();
    try {
      const { signal } = controller;
      const init = { method: "POST", redirect: "manual", signal } as const;
      const response = await fetch(this.#url, { ...init, headers, body });
      await drain(response);
      if (response.ok) return null;
      return { reason: `it answered ${response.status}` };
    } catch (cause) {
      if (isLate) return { reason: `no answer in ${timeoutMs} ms`, cause };
      return { reason: this.#explain(cause), cause };
    } finally {
      clearTimeout(timer);
      this.#abort = null;
    }
  }

  /** Why a request failed, in the words of the runtime. */
  #explain(error: unknown): string {
    // The error of fetch itself may say no more than that it failed.
    const { cause = error } = Object(error);
    const text = cause instanceof Error ? cause.message : String(cause);
    // They quote the whole URL, and its query is often a secret.
    return text.replaceAll(this.#url, this.#name());
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#wake = null;
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.#wake = end;
    });
  }

  /** The URL as it may be told. */
  #name(): string {
    const { origin, pathname } = new URL(this.#url);
    return origin + pathname;
  }

  #report(
    failure: WebhookFailure,
    items: readonly Item[],
    { reason, cause }: Failure,
  ): void {
    const { onError } = this.#settings;
    if (onError === undefined && this.#printed.has(failure)) return;
    const error = new WebhookError(
      `Cannot deliver a webhook to "${this.#name()}", ${OUTCOME[failure]}: ` +
        reason,
      {
        failure,
        url: this.#url,
        events: items.map(({ json }) => JSON.parse(json)),
        cause,
      },
    );
    if (onError === undefined) {
      this.#printed.add(failure);
      return console.error(`Pusher: ${error.message}`);
    }
    const failed = (fault: unknown) =>
      console.error("Pusher: failed while running onError of webhooks:", fault);
    try {
      const result = onError(error);
      if (result instanceof Promise) result.catch(failed);
    } catch (fault) {
      failed(fault);
    }
  }
}

/** What becomes of the webhook, for the message. */
const OUTCOME: Readonly<Record<WebhookFailure, string>> = Object.freeze({
  retrying: "and will try again",
  gave_up: "and gave up",
  dropped: "and dropped it",
  closed: "and lost it",
});

/** C39 of the protocol: how long and how many events come together. */
const BATCH = Object.freeze({ ms: 200, events: 50 });

/** The body; its time is that of the newest event, so it grows along the queue. */
function encodeBody(items: readonly Item[]): string {
  const events = items.map(({ json }) => json).join();
  return `{"time_ms":${items.at(-1)?.timeMs},"events":[${events}]}`;
}

/** Reads an answer to its end, or its connection could not be used again. */
async function drain(response: Response): Promise<void> {
  try {
    for await (const _chunk of response.body ?? []);
  } catch {
    // The status has said all there is to know.
  }
}

function hmac(secret: string, text: string): string {
  return createHmac("sha256", secret).update(text, "utf8").digest("hex");
}

// ---- Options ----------------------------------------------------------------
// What is wrong with them is told by name, with the value unless it is a secret.

/** Options, checked and complete. */
interface Settings {
  readonly key: string;
  readonly secret: string;
  readonly endpoints: readonly EndpointSettings[];
  readonly batch: boolean;
  readonly settleMs: number;
  readonly timeoutMs: number;
  readonly retryDelaysMs: readonly number[];
  readonly queueBytes: number;
  readonly onError: WebhookOptions["onError"];
}

interface EndpointSettings {
  readonly url: string;
  readonly names: ReadonlySet<string>;
  readonly prefix: string;
  /** All headers but those that differ from webhook to webhook. */
  readonly headers: Headers;
}

/** C37 of the protocol: 255 seconds in all. */
const RETRY_DELAYS_MS = Object.freeze(
  [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000],
);

const CLOSE_TIMEOUT_MS = 5_000;

/** Headers that are the protocol's. */
const OWN_HEADERS = Object.freeze([
  "content-type",
  "x-pusher-key",
  "x-pusher-signature",
  "x-pusher-webhook-id",
]);

const OPTIONS: Field = Object.freeze({
  subject: "Cannot send webhooks",
  name: "",
});

const checkOptions = objectOf<WebhookOptions>({
  key: checkText,
  secret: checkSecret,
  endpoints: listOf(
    objectOf<WebhookEndpoint>({
      url: checkUrl,
      events: listOf(checkName, "name"),
      channelPrefix: checkString,
      // An iterator can be read once, so `parseHeaders` checks what it reads.
      headers: checkNothing,
    }, ["url"]),
    "endpoint",
  ),
  batch: checkBoolean,
  settleMs: checkDelay,
  timeoutMs: checkDuration,
  retryDelaysMs: listOf(checkDelay),
  queueBytes: checkSize,
  onError: checkFunction,
}, ["key", "secret", "endpoints"]);

function checkUrl(value: unknown, field: Field): void {
  const url = URL.parse(String(value));
  if (url !== null && (url.username !== "" || url.password !== "")) {
    throw new TypeError(
      `${field.subject}: ${field.name} has a user or password, and must have ` +
        "none: say them in the authorization header",
    );
  }
  if (url !== null && /^https?:$/.test(url.protocol)) return;
  fail(value, field, "be a URL with http or https");
}

function checkName(value: unknown, field: Field): void {
  const names: readonly unknown[] = NAMES;
  if (!names.includes(value)) {
    fail(value, field, `be one of ${NAMES.join(", ")}`);
  }
}

function parseOptions(options: WebhookOptions): Settings {
  checkOptions(options, OPTIONS);
  const {
    key,
    secret,
    endpoints,
    batch = false,
    settleMs = 3_000,
    timeoutMs = 5_000,
    retryDelaysMs = RETRY_DELAYS_MS,
    queueBytes = 16_777_216,
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
    onError,
  };
}

function parseEndpoint(
  { url, events = NAMES, channelPrefix = "", headers }: WebhookEndpoint,
  field: Field,
  key: string,
): EndpointSettings {
  const target = new URL(url);
  // It is never sent.
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
  // Official SDKs take nothing else for JSON, not even with a charset.
  headers.set("content-type", "application/json");
  headers.set("x-pusher-key", key);
  return headers;
}

function readHeaders(given: HeadersInit | undefined, field: Field): Headers {
  try {
    return new Headers(given);
  } catch (cause) {
    const message = `${field.subject}: ${field.name} are not valid`;
    throw new TypeError(message, { cause });
  }
}
