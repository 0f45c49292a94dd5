/**
 * Webhooks: reports what happens on the channels of an app to other programs, over
 * HTTP, and signed so that every official server SDK can verify it.
 *
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { webhooks } from "@glitz/pusher/webhooks";
 *
 * const app = { key: "app-key", secret: "app-secret" };
 * const pusher = new Pusher(app);
 * const hooks = webhooks(pusher, {
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
 * - An endpoint gets its webhooks one after the other, and the events of each channel
 *   in their order. An endpoint that is slow or down delays no other.
 * - Events that wait take turns: between channels that need authorization and public
 *   channels, then between the connections that caused the events, then between
 *   channels. So a client that causes any number of events, on any number of
 *   channels, delays another client's event by one event per turn. Where several
 *   servers share channels, some events cannot be assigned to a connection, and these
 *   share one turn.
 * - Any 2xx is a success. After any other result the server retries 1, 2, 4, … 128
 *   and at last 45 seconds later, with the same body and signature. A redirect is such
 *   a result: the server does not send a signed body to another address. After the last
 *   retry it gives the webhook up, reports that, and sends the next. An endpoint that
 *   was down for less than that, five minutes, misses nothing, as long as there is room
 *   in its queue.
 * - Of an answer the server reads 65,536 bytes at most, within the timeout of the try.
 *   A longer or slower answer counts by its status.
 * - Delivery is at least once: an answer can be lost on its way. The header
 *   `X-Pusher-Webhook-Id` is the same on each try of a webhook and differs between
 *   webhooks, so a receiver can drop duplicates.
 * - `channel_vacated` and `member_removed` are held back for 3 seconds. If the
 *   channel or the user comes back in that time, the server sends neither that
 *   event nor its opposite. Nor does it send the two events if the first still waits
 *   in the queue when the second happens, unless a client event or a cache miss of
 *   the channel waits behind it. Of several `subscription_count` of a channel that
 *   wait, only the last is sent.
 * - The queue of an endpoint is bounded, see {@linkcode WebhookOptions.queueBytes} and
 *   {@linkcode WebhookOptions.queueEvents}. It is in memory, and ends with the process.
 *
 * Each server reports what happens on itself. Where several servers share
 * channels, a client that moves from one to another is not settled: the
 * `channel_vacated` of the first may follow the `channel_occupied` of the second.
 *
 * Webhooks cost a listener on each hook that some endpoint wants, and one JSON
 * encoding per event, however many endpoints get it.
 *
 * @module
 */

import { Buffer } from "node:buffer";
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
} from "../core/checks.ts";
import { type Entry, FairQueue, type Place } from "../core/fair_queue.ts";
import { kindOf } from "../core/protocol.ts";
import { channelText, hmac } from "../core/signatures.ts";
import type {
  AppEvent,
  Clock,
  Hooks,
  Pusher,
  SubscriptionEvent,
  WebhookEvent,
} from "../mod.ts";

// ---- Public types -----------------------------------------------------------

/** The name of an event that endpoints can get. */
export type WebhookName =
  | "channel_occupied"
  | "channel_vacated"
  | "member_added"
  | "member_removed"
  | "client_event"
  | "cache_miss"
  | "subscription_count";

/** An event in the body of a webhook. */
export interface OutgoingEvent extends WebhookEvent {
  /** The name of the event. */
  name: WebhookName;
  /** The channel that it is about. */
  channel: string;
}

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

/** Running webhooks; made by {@linkcode webhooks}. */
export interface Webhooks extends AsyncDisposable {
  /** The state of each endpoint, in the order of the options. */
  readonly status: WebhookStatus[];
  /**
   * Stops listening, and delivers what has happened so far. Events that are held
   * back, or wait for a retry, are sent at once. To report that the clients leave
   * as the server closes, close the server first. Events that are not delivered in
   * time go to {@linkcode WebhookOptions.onError}.
   *
   * @param options `timeoutMs`: how long delivery may take, 5,000 by default.
   * @returns Resolves when no request is under way any more.
   * @throws {RangeError} At once, if `timeoutMs` is out of range.
   */
  close(options?: { timeoutMs?: number }): Promise<void>;
}

/** The state of an endpoint. All numbers count events. */
export interface WebhookStatus {
  /** The endpoint's URL. */
  url: string;
  /** Events that wait, including those of the request under way. */
  queued: number;
  /** Events that the endpoint has accepted. */
  delivered: number;
  /** Events that were dropped, because the queue was full. */
  dropped: number;
  /** Events that were lost after the last retry, or at the close. */
  lost: number;
}

/** What has failed, in a {@linkcode WebhookError}. */
export type WebhookFailure =
  /** A try failed, and a retry follows. */
  | "retrying"
  /** The last try failed. */
  | "gave_up"
  /** The queue was full. */
  | "dropped"
  /** The events were not delivered before the close. */
  | "closed";

/** An endpoint did not get its events. Only after `retrying` it still may. */
export class WebhookError extends Error {
  /** What has failed. */
  readonly failure: WebhookFailure;
  /** The endpoint's URL with its query, which the message leaves out. */
  readonly url: string;
  /** The events. */
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
 * Reports to the endpoints what happens in one app, from now on. On a server with
 * several apps, each app has its own webhooks: `webhooks(server.app("shop"), …)`.
 *
 * @example With a receiver
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { webhooks } from "@glitz/pusher/webhooks";
 * import { assertEquals } from "@std/assert";
 *
 * const app = { key: "app-key", secret: "app-secret" };
 * await using pusher = new Pusher(app);
 *
 * const received = Promise.withResolvers<unknown>();
 * await using receiver = Deno.serve({ port: 0 }, async (request) => {
 *   const { headers } = request;
 *   const webhook = pusher.webhook({ headers, rawBody: await request.text() });
 *   if (!webhook.isValid()) return new Response(null, { status: 401 });
 *   received.resolve(webhook.getEvents());
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
 * assertEquals(await received.promise, [
 *   { name: "channel_occupied", channel: "news" },
 * ]);
 * client.closed(1000);
 * ```
 *
 * @param pusher The app.
 * @param options Its credentials and the endpoints; checked at once.
 * @returns The running webhooks; close them before the program ends.
 * @throws {TypeError} If an option is unknown or of the wrong type, or the
 * credentials are not those of the app.
 * @throws {RangeError} If a number is outside its range.
 */
export function webhooks<Events extends object>(
  pusher: Pusher<Events>,
  options: WebhookOptions,
): Webhooks {
  return new Dispatcher(pusher, options);
}

// ---- Dispatcher -------------------------------------------------------------
// From hooks to endpoints. Decides which events are reported, and holds departures
// back. It knows nothing of requests.

/** Each event as the protocol writes it, with its fields in that order. */
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

/** Events that a later one of the second list can undo. */
const ARRIVALS: ReadonlySet<string> = new Set<WebhookName>(
  ["channel_occupied", "member_added"],
);

const DEPARTURES: ReadonlySet<string> = new Set<WebhookName>(
  ["channel_vacated", "member_removed"],
);

/** Signed to compare credentials; no client has this socket id. */
const PROBE = { socketId: "0.0", channel: "private-webhooks" };

/** A departure that is held back. */
interface Departure {
  readonly event: OutgoingEvent;
  /** Cancels the report. */
  readonly cancel: () => void;
  /** Endpoints that never got the arrival, as it still waited. */
  readonly withdrawn: Set<Endpoint>;
}

/** An event on its way into the queues. */
interface Report {
  readonly item: Item;
  readonly channel: string;
  /** The connection that has caused it, where the event says so. */
  readonly source: string | undefined;
  readonly wanted: readonly Endpoint[];
}

class Dispatcher<Events extends object> implements Webhooks {
  readonly #pusher: Pusher<Events>;
  readonly #endpoints: Endpoint[];
  readonly #settleMs: number;
  /** The signature of {@linkcode PROBE} by the app. */
  readonly #proof: string;
  /** Whether an app, by its id, is the app of these webhooks. */
  readonly #known = new Map<string, boolean>();
  readonly #unlisten: (() => void)[] = [];
  /**
   * Departures by channel, or by channel and user, in their order. There are at
   * most as many as there were channels and members.
   */
  readonly #departures = new Map<string, Departure>();
  /** Channels whose cache miss was reported. */
  readonly #missed = new Set<string>();
  /** The connection that has joined or left a channel last, of the latest channels. */
  readonly #sources = new Map<string, string>();
  /** Events whose source may still come. */
  readonly #reports: Report[] = [];
  #closing: Promise<void> | null = null;

  constructor(pusher: Pusher<Events>, options: WebhookOptions) {
    checkPusher(pusher, optionOf(OPTIONS, "pusher"));
    const settings = parseOptions(options);
    this.#pusher = pusher;
    this.#settleMs = settings.settleMs;
    this.#endpoints = settings.endpoints.map((endpoint) =>
      new Endpoint(endpoint, settings, pusher.clock)
    );
    const { auth } = pusher.authorizeChannel(PROBE.socketId, PROBE.channel);
    const signature = hmac(
      settings.secret,
      channelText(PROBE.socketId, PROBE.channel, undefined),
    );
    this.#proof = `${settings.key}:${signature}`;
    if (auth !== this.#proof) {
      throw new TypeError(
        `${OPTIONS.subject}: key and secret are not those of the app, or not ` +
          "its newest; where a server has several apps, pass the view that its " +
          "app method returns",
      );
    }
    this.#listen();
  }

  get status(): WebhookStatus[] {
    return this.#endpoints.map((endpoint) => endpoint.status);
  }

  close(options: { timeoutMs?: number } = {}): Promise<void> {
    const subject = "Cannot close webhooks";
    checkClose(options, { subject, name: "" });
    const { timeoutMs = CLOSE_TIMEOUT_MS } = options;
    return this.#closing ??= this.#close(timeoutMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Listens to the hooks that some endpoint wants: other hooks then cost nothing. */
  #listen(): void {
    // Before a leave and after a join, both in the same turn as what they cause.
    for (const name of ["subscribed", "unsubscribed"] as const) {
      this.#unlisten.push(this.#pusher.on(name, (event) => {
        if (this.#isOurs(event)) this.#claim(event);
      }));
    }
    const wants = (...names: WebhookName[]) =>
      this.#endpoints.some((endpoint) =>
        names.some((name) => endpoint.names.has(name))
      );
    // Each event of a pair can undo the other, so both are needed. And a vacated
    // channel may report a cache miss again.
    if (wants("channel_occupied", "channel_vacated", "cache_miss")) {
      this.#on("channel_occupied", (e) => this.#arrive(e.channel, e));
      this.#on("channel_vacated", (e) => this.#depart(e.channel, e));
    }
    if (wants("member_added", "member_removed")) {
      this.#on("member_added", (e) => this.#arrive(memberKey(e), e));
      this.#on("member_removed", (e) => this.#depart(memberKey(e), e));
    }
    if (wants("client_event")) {
      this.#on("client_event", (e) => this.#enqueue(e, null));
    }
    if (wants("subscription_count")) {
      this.#on("subscription_count", (e) => this.#enqueue(e, countKey(e)));
    }
    if (wants("cache_miss")) {
      this.#on("cache_miss", (e) => {
        if (this.#missed.has(e.channel)) return;
        this.#missed.add(e.channel);
        this.#enqueue(e, null);
      });
      this.#unlisten.push(this.#pusher.on("published", ({ app, channel }) => {
        // Most publishes are to other channels, so that check comes first.
        if (this.#missed.has(channel) && this.#isOurs({ app })) {
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
      if (this.#isOurs(event)) take(WIRE[name](event));
    }));
  }

  /**
   * Whether an event is of the app of these webhooks. The main instance of several
   * apps hears the events of all, and must not report one app's in another's name.
   */
  #isOurs({ app }: AppEvent): boolean {
    let isOurs = this.#known.get(app);
    if (isOurs === undefined) {
      const { auth } = this.#pusher.app(app)
        .authorizeChannel(PROBE.socketId, PROBE.channel);
      isOurs = auth === this.#proof;
      this.#known.set(app, isOurs);
    }
    return isOurs;
  }

  /** Remembers who has joined or left a channel: the source of its events. */
  #claim({ channel, socketId }: SubscriptionEvent): void {
    this.#sources.delete(channel);
    this.#sources.set(channel, socketId);
    if (this.#sources.size > MAX_SOURCES) {
      for (const oldest of this.#sources.keys()) {
        this.#sources.delete(oldest);
        break;
      }
    }
    this.#push(channel);
    for (const endpoint of this.#endpoints) endpoint.claim(channel, socketId);
  }

  /** Reports that a channel or member came, unless that undoes a departure. */
  #arrive(key: string, event: OutgoingEvent): void {
    const departure = this.#departures.get(key);
    if (departure === undefined) {
      const told = this.#endpoints.filter((endpoint) =>
        !endpoint.withdraw(key, DEPARTURES)
      );
      return this.#enqueue(event, key, told);
    }
    departure.cancel();
    this.#departures.delete(key);
    this.#enqueue(event, key, [...departure.withdrawn]);
  }

  /** Reports later that a channel or member has gone, unless it comes back. */
  #depart(key: string, event: OutgoingEvent): void {
    this.#push();
    // On another server it may have come back between two departures from here.
    const earlier = this.#departures.get(key);
    earlier?.cancel();
    this.#departures.delete(key);
    const withdrawn = earlier?.withdrawn ?? new Set<Endpoint>();
    for (const endpoint of this.#endpoints) {
      if (endpoint.withdraw(key, ARRIVALS)) withdrawn.add(endpoint);
    }
    const departure = { event, cancel: () => {}, withdrawn };
    departure.cancel = this.#pusher.clock.after(
      this.#settleMs,
      () => this.#settle(key, departure),
    );
    this.#departures.set(key, departure);
  }

  #settle(key: string, { event, withdrawn }: Departure): void {
    this.#departures.delete(key);
    if (event.name === "channel_vacated") this.#missed.delete(event.channel);
    const told = this.#endpoints.filter((endpoint) => !withdrawn.has(endpoint));
    this.#enqueue(event, key, told);
  }

  /**
   * Reports an event, once its source is known: the hooks of a join come together,
   * and the one that names the connection comes last.
   *
   * @param key What the event is the state of, if it is a state.
   * @param endpoints Who may want it.
   */
  #enqueue(
    event: OutgoingEvent,
    key: string | null,
    endpoints: readonly Endpoint[] = this.#endpoints,
  ): void {
    const wanted = endpoints.filter((endpoint) => endpoint.wants(event));
    if (wanted.length === 0) return;
    const { name, channel } = event;
    const json = JSON.stringify(event);
    const bytes = Buffer.byteLength(json);
    const timeMs = this.#pusher.clock.now();
    const item: Item = { name, key, json, bytes, timeMs };
    const report = { item, channel, source: event.socket_id, wanted };
    if (this.#reports.push(report) === 1) queueMicrotask(() => this.#push());
  }

  /**
   * Puts the events that have come so far into the queues.
   *
   * @param claimed The channel whose join is over.
   */
  #push(claimed?: string): void {
    for (const { item, channel, source, wanted } of this.#reports.splice(0)) {
      // Who joined this channel before is not the source of an arrival.
      const isKnown = channel === claimed || !ARRIVALS.has(item.name);
      const place: Place = {
        stream: channel,
        // What strangers do is not to delay what admitted clients do.
        group: kindOf(channel).auth ? 0 : 1,
        source: source ?? (isKnown && this.#sources.get(channel) || ""),
      };
      for (const endpoint of wanted) endpoint.push(item, place);
    }
  }

  async #close(timeoutMs: number): Promise<void> {
    // Hooks run in a microtask after the change: wait for those of past changes.
    await Promise.resolve();
    for (const unlisten of this.#unlisten) unlisten();
    for (const [key, departure] of this.#departures) {
      departure.cancel();
      this.#settle(key, departure);
    }
    this.#push();
    await Promise.all(
      this.#endpoints.map((endpoint) => endpoint.close(timeoutMs)),
    );
  }
}

/** A key unlike every channel, as no channel name has a line break. */
function memberKey({ channel, user_id }: OutgoingEvent): string {
  return `${channel}\n${user_id}`;
}

/** A key unlike every channel and member. */
function countKey({ channel }: OutgoingEvent): string {
  return `\n${channel}`;
}

/** Channels whose last connection is remembered; each takes about 200 bytes. */
const MAX_SOURCES = 10_000;

// ---- Endpoint ---------------------------------------------------------------
// One queue, and one request at a time that empties it. Nothing here throws: errors
// are reported.

/** An event that waits. Endpoints share it. */
interface Item {
  readonly name: WebhookName;
  /** What it is the state of: a channel, a member or a count; else null. */
  readonly key: string | null;
  readonly json: string;
  readonly bytes: number;
  /** When it was queued. */
  readonly timeMs: number;
}

/** Why a try failed. */
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
  readonly #clock: Clock;
  readonly #queue = new FairQueue<Item>(2);
  /** The state that waits, by its key. */
  readonly #states = new Map<string, Entry<Item>>();
  /** The last event of a channel that waits and is no state, by channel. */
  readonly #fixed = new Map<string, Entry<Item>>();
  /** Events of the request under way. */
  #sending: readonly Item[] = [];
  #delivered = 0;
  #dropped = 0;
  #lost = 0;
  /** The kinds of errors that were printed since the queue was last empty. */
  readonly #printed = new Set<WebhookFailure>();
  /** Empties the queue; null while the queue is empty. */
  #worker: Promise<void> | null = null;
  /** Whether it waits for a batch to fill. */
  #isGathering = false;
  /** Ends the current pause. */
  #wake: (() => void) | null = null;
  /** Aborts the current try. */
  #abort: (() => void) | null = null;
  #state: "open" | "closing" | "closed" = "open";

  constructor(
    endpoint: EndpointSettings,
    settings: Settings,
    clock: Clock,
  ) {
    this.#clock = clock;
    this.names = endpoint.names;
    this.#url = endpoint.url;
    this.#prefix = endpoint.prefix;
    this.#headers = endpoint.headers;
    this.#settings = settings;
  }

  get status(): WebhookStatus {
    return {
      url: this.#url,
      queued: this.#queue.size + this.#sending.length,
      delivered: this.#delivered,
      dropped: this.#dropped,
      lost: this.#lost,
    };
  }

  wants({ name, channel }: OutgoingEvent): boolean {
    return this.names.has(name) && channel.startsWith(this.#prefix);
  }

  push(item: Item, place: Place): void {
    if (item.name === "subscription_count") this.withdraw(item.key, null);
    if (!this.#makeRoom(item, place)) return this.#drop(item);
    const entry = this.#queue.push(item, item.bytes, place);
    if (item.key !== null) this.#states.set(item.key, entry);
    else this.#fixed.set(place.stream, entry);
    if (this.#isGathering && this.#isBatchFull) this.#wake?.();
    this.#worker ??= this.#work();
  }

  /** See {@linkcode FairQueue.claim}. */
  claim(channel: string, socketId: string): void {
    this.#queue.claim(channel, socketId);
  }

  /**
   * Removes a state that waits, unless its channel's later events depend on it.
   *
   * @param names Only if its name is among these; null for any.
   */
  withdraw(key: string | null, names: ReadonlySet<string> | null): boolean {
    const entry = key === null ? undefined : this.#states.get(key);
    if (entry === undefined) return false;
    const { item, order, stream } = entry;
    if (names !== null && !names.has(item.name)) return false;
    const fixed = this.#fixed.get(stream.name);
    // A count may go: the next count says what is true now.
    if (names !== null && fixed !== undefined && fixed.order > order) {
      return false;
    }
    this.#remove(entry);
    return true;
  }

  /** Drops events that wait until there is room for another; false if none are. */
  #makeRoom({ bytes }: Item, place: Place): boolean {
    const { queueBytes, queueEvents } = this.#settings;
    const sending = this.#sending.length;
    // What is being sent cannot be dropped.
    if (this.#bytesOf(this.#sending) + bytes > queueBytes) return false;
    if (sending + 1 > queueEvents) return false;
    while (
      this.#queuedBytes + bytes > queueBytes ||
      this.#queue.size + sending + 1 > queueEvents
    ) {
      const victim = this.#queue.victim(place);
      if (victim === undefined) return false;
      this.#drop(victim.item);
      this.#remove(victim);
    }
    return true;
  }

  #drop(item: Item): void {
    this.#dropped++;
    const { queueBytes, queueEvents } = this.#settings;
    const { queued } = this.status;
    const reason = queued >= queueEvents
      ? `${queued} of ${queueEvents} events are waiting`
      : `${this.#queuedBytes} of ${queueBytes} bytes are waiting`;
    this.#report("dropped", [item], { reason });
  }

  #remove(entry: Entry<Item>): void {
    this.#queue.remove(entry);
    this.#forget(entry);
  }

  /** Forgets what was known of an entry that waits no longer. */
  #forget(entry: Entry<Item>): void {
    const { item: { key }, stream: { name } } = entry;
    if (key !== null && this.#states.get(key) === entry) {
      this.#states.delete(key);
    }
    if (this.#fixed.get(name) === entry) this.#fixed.delete(name);
  }

  get #queuedBytes(): number {
    return this.#queue.bytes + this.#bytesOf(this.#sending);
  }

  get #isBatchFull(): boolean {
    const { size, bytes } = this.#queue;
    return size >= BATCH.entries || bytes >= BATCH.bytes;
  }

  #bytesOf(items: readonly Item[]): number {
    return items.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async close(timeoutMs: number): Promise<void> {
    this.#state = "closing";
    this.#wake?.();
    const cancel = this.#clock.after(timeoutMs, () => {
      this.#state = "closed";
      this.#abort?.();
      this.#wake?.();
    });
    await this.#worker;
    cancel();
  }

  async #work(): Promise<void> {
    while (this.#queue.size > 0) {
      await this.#gather();
      const items = this.#take(this.#settings.batch ? BATCH : SINGLE);
      // Everything may have been withdrawn in the meantime.
      if (items.length === 0) break;
      this.#sending = items;
      const isDelivered = await this.#deliver(items);
      if (this.#state === "closed" && !isDelivered) break;
      this.#sending = [];
      if (isDelivered) this.#delivered += items.length;
      else this.#lost += items.length;
    }
    const left = [...this.#sending, ...this.#take(EVERYTHING)];
    this.#sending = [];
    if (left.length > 0) {
      const reason = "it was not delivered before the close";
      this.#report("closed", left, { reason });
      this.#lost += left.length;
    }
    this.#printed.clear();
    this.#worker = null;
  }

  #take(most: Most): Item[] {
    const entries = this.#queue.take(most);
    for (const entry of entries) this.#forget(entry);
    return entries.map(({ item }) => item);
  }

  /** Waits until a batch is full, or its time is up. */
  async #gather(): Promise<void> {
    const { batch } = this.#settings;
    if (!batch || this.#isBatchFull || this.#state !== "open") return;
    this.#isGathering = true;
    await this.#pause(BATCH_MS);
    this.#isGathering = false;
  }

  /** Tries until success, the last retry or the close. */
  async #deliver(items: Item[]): Promise<boolean> {
    const body = encodeBody(items);
    const headers = new Headers(this.#headers);
    headers.set("x-pusher-signature", hmac(this.#settings.secret, body));
    headers.set("x-pusher-webhook-id", crypto.randomUUID());
    for (const delayMs of [...this.#settings.retryDelaysMs, null]) {
      const failure = await this.#post(body, headers);
      if (failure === null) return true;
      // The close reports all events that are left, these included.
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
    const cancel = this.#clock.after(timeoutMs, () => {
      isLate = true;
      controller.abort();
    });
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
      cancel();
      this.#abort = null;
    }
  }

  /** Why a request failed, by the runtime. */
  #explain(error: unknown): string {
    // Often only the cause of fetch's error says more than that it failed.
    const { cause = error } = Object(error);
    const text = cause instanceof Error ? cause.message : String(cause);
    // Errors quote the whole URL, and its query is often a secret.
    return text.replaceAll(this.#url, this.#shownUrl());
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        cancel();
        this.#wake = null;
        resolve();
      };
      const cancel = this.#clock.after(ms, end);
      this.#wake = end;
    });
  }

  /** The URL without its query. */
  #shownUrl(): string {
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
      `Cannot deliver a webhook to "${this.#shownUrl()}", ${
        OUTCOME[failure]
      }: ` +
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

/** What becomes of the webhook, for messages. */
const OUTCOME: Readonly<Record<WebhookFailure, string>> = Object.freeze({
  retrying: "and will try again",
  gave_up: "and gave up",
  dropped: "and dropped it",
  closed: "and lost it",
});

/** How long a batch may take to fill, as with the hosted service. */
const BATCH_MS = 250;

/** What one webhook may report. */
interface Most {
  readonly entries: number;
  readonly bytes: number;
}

// The most that one webhook reports. The entries are those of the hosted service, and
// many receivers refuse bodies above 100,000 bytes.
const BATCH: Most = Object.freeze({ entries: 20, bytes: 65_536 });
const SINGLE: Most = Object.freeze({ ...BATCH, entries: 1 });
const EVERYTHING: Most = Object.freeze({ entries: Infinity, bytes: Infinity });

/** The body. Its time is that of the newest event. */
function encodeBody(items: readonly Item[]): string {
  const timeMs = items.reduce((max, item) => Math.max(max, item.timeMs), 0);
  const events = items.map(({ json }) => json).join();
  return `{"time_ms":${timeMs},"events":[${events}]}`;
}

/** What is read of an answer. */
const MAX_ANSWER_BYTES = 65_536;

/**
 * Reads an answer, so that its connection can be reused. A longer answer is cancelled,
 * which closes the connection.
 */
async function drain(response: Response): Promise<void> {
  let bytes = 0;
  try {
    for await (const chunk of response.body ?? []) {
      bytes += chunk.byteLength;
      if (bytes > MAX_ANSWER_BYTES) break;
    }
  } catch {
    // The status is all that matters.
  }
}

// ---- Options ----------------------------------------------------------------
// Checked by name, once.

/** The options, checked and with their defaults. */
interface Settings {
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

interface EndpointSettings {
  readonly url: string;
  readonly names: ReadonlySet<string>;
  readonly prefix: string;
  /** The headers that all webhooks to the endpoint share. */
  readonly headers: Headers;
}

/** Five minutes in all, as with the hosted service. */
const RETRY_DELAYS_MS = Object.freeze(
  [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 45_000],
);

const CLOSE_TIMEOUT_MS = 5_000;

const checkClose = objectOf({ timeoutMs: checkDelay });

/** Headers that the protocol sets. */
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

/** Such as a handler, or the options, in its place. */
const checkPusher = having(["authorizeChannel", "clock"], "be a Pusher");

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

function parseOptions(given: WebhookOptions): Settings {
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
