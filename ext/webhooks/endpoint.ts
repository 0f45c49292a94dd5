/**
 * An endpoint: one queue, and one request at a time that empties it. Nothing here
 * throws: errors are reported.
 *
 * @module
 */

import { type Entry, FairQueue, type Place } from "../../core/fair_queue.ts";
import { hmac } from "../../core/signatures.ts";
import type { Clock } from "../../mod.ts";
import type { OutgoingEvent, WebhookName } from "./events.ts";
import type { EndpointSettings, Settings } from "./options.ts";
import { WebhookError, type WebhookFailure } from "./reports.ts";

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

/** An event that waits. Endpoints share it. */
export interface Item {
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

export class Endpoint {
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
