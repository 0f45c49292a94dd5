/**
 * From hooks to endpoints. Decides which events are reported, and holds departures
 * back. It knows nothing of requests.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Place } from "../../core/fair_queue.ts";
import { kindOf } from "../../core/protocol.ts";
import { channelText, hmac } from "../../core/signatures.ts";
import type { AppEvent, Pusher, SubscriptionEvent } from "../../mod.ts";
import { Endpoint, type WebhookStatus } from "./endpoint.ts";
import {
  ARRIVALS,
  DEPARTURES,
  type OutgoingEvent,
  type WebhookName,
  WIRE,
} from "./events.ts";
import {
  checkClose,
  CLOSE_TIMEOUT_MS,
  heardFor,
  OPTIONS,
  type Settings,
} from "./options.ts";
import type { Item } from "./queue.ts";
import { Settler } from "./settler.ts";

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
   * Where several servers share a journal, the close only waits for the request that
   * is under way. What is left is for the next server, or for the next start.
   *
   * @param options `timeoutMs`: how long delivery may take, 5,000 by default.
   * @returns Resolves when no request is under way any more.
   * @throws {RangeError} At once, if `timeoutMs` is out of range.
   */
  close(options?: { timeoutMs?: number }): Promise<void>;
}

/** An event on its way into the queues. */
interface Report {
  readonly item: Item;
  readonly channel: string;
  /** The connection that has caused it, where the event says so. */
  readonly source: string | undefined;
  readonly wanted: readonly Endpoint[];
}

export class Dispatcher<Events extends object> implements Webhooks {
  readonly #pusher: Pusher<Events>;
  readonly #endpoints: Endpoint[];
  readonly #settler: Settler<Endpoint>;
  /** Cancels the timer that settles departures; null while none runs. */
  #cancelSettling: (() => void) | null = null;
  /** The signature of {@linkcode PROBE} by the app. */
  readonly #proof: string;
  /** Whether an app, by its id, is the app of these webhooks. */
  readonly #known = new Map<string, boolean>();
  readonly #unlisten: (() => void)[] = [];
  /** The connection that has joined or left a channel last, of the latest channels. */
  readonly #sources = new Map<string, string>();
  /** Events whose source may still come. */
  readonly #reports: Report[] = [];
  #closing: Promise<void> | null = null;

  constructor(pusher: Pusher<Events>, settings: Settings) {
    this.#pusher = pusher;
    this.#endpoints = settings.endpoints.map((endpoint) =>
      new Endpoint(endpoint, settings, pusher.clock)
    );
    this.#settler = new Settler(this.#endpoints, settings.settleMs, {
      report: (event, key, told) => this.#enqueue(event, key, told),
    });
    this.#proof = prove(pusher, settings);
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
    const heard = heardFor(this.#endpoints);
    for (const name of heard) this.#on(name);
    if (heard.has("cache_miss")) {
      this.#unlisten.push(this.#pusher.on("published", ({ app, channel }) => {
        // Most publishes are to other channels, so that check comes first.
        if (this.#settler.hasMissed(channel) && this.#isOurs({ app })) {
          this.#settler.published(channel);
        }
      }));
    }
  }

  #on<Name extends WebhookName>(name: Name): void {
    this.#unlisten.push(this.#pusher.on(name, (event) => {
      if (this.#isOurs(event)) this.#take(WIRE[name](event));
    }));
  }

  #take(event: OutgoingEvent): void {
    // What has happened before gets its source, if it is known, before it may go.
    if (DEPARTURES.has(event.name)) this.#push();
    this.#settler.take(event, this.#pusher.clock.elapsed());
    this.#cancelSettling ??= this.#settleLater();
  }

  /** Sets a timer for the next departure that is held back, if there is any. */
  #settleLater(): (() => void) | null {
    const { clock } = this.#pusher;
    const { dueMs } = this.#settler;
    if (dueMs === Infinity) return null;
    return clock.after(Math.max(0, dueMs - clock.elapsed()), () => {
      this.#settler.settle(clock.elapsed());
      this.#cancelSettling = this.#settleLater();
    });
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
    endpoints: readonly Endpoint[],
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
    this.#cancelSettling?.();
    this.#settler.settleAll();
    this.#push();
    await Promise.all(
      this.#endpoints.map((endpoint) => endpoint.close(timeoutMs)),
    );
  }
}

// ---- Credentials ------------------------------------------------------------

/** Signed to compare credentials; no client has this socket id. */
const PROBE = { socketId: "0.0", channel: "private-webhooks" };

/**
 * What proves that key and secret are those of an app: a signature that the app would
 * make.
 *
 * @throws {TypeError} If they are not.
 */
export function prove<Events extends object>(
  pusher: Pusher<Events>,
  { key, secret }: Settings,
): string {
  const text = channelText(PROBE.socketId, PROBE.channel, undefined);
  const proof = `${key}:${hmac(secret, text)}`;
  const { auth } = pusher.authorizeChannel(PROBE.socketId, PROBE.channel);
  if (auth === proof) return proof;
  throw new TypeError(
    `${OPTIONS.subject}: key and secret are not those of the app, or not ` +
      "its newest; where a server has several apps, pass the view that its " +
      "app method returns",
  );
}

/** Channels whose last connection is remembered; each takes about 200 bytes. */
const MAX_SOURCES = 10_000;
