/**
 * The events that wait for one endpoint: in fair order, within bounds, and without
 * states that another one has overtaken.
 *
 * @module
 */

import { type Entry, FairQueue, type Place } from "../../core/fair_queue.ts";
import type { WebhookName } from "./events.ts";
import type { Settings } from "./options.ts";

/** An event that waits. Endpoints may share it. */
export interface Item {
  readonly name: WebhookName;
  /** What it is the state of: a channel, a member or a count; else null. */
  readonly key: string | null;
  readonly json: string;
  readonly bytes: number;
  /** When it was queued. */
  readonly timeMs: number;
}

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

/** Hears of what becomes of the items of an {@linkcode EndpointQueue}. */
export interface QueueOwner<Waiting extends Item> {
  /** An item waits no more: it was taken, withdrawn or dropped. */
  removed?(item: Waiting): void;
  /** An item was dropped for a reason. */
  dropped(item: Waiting, reason: string): void;
}

/** The events that wait for one endpoint. */
export class EndpointQueue<Waiting extends Item = Item> {
  /** Events of the request under way, which count as well. */
  sending: readonly Item[] = [];
  readonly #settings: Settings;
  readonly #owner: QueueOwner<Waiting>;
  readonly #queue = new FairQueue<Waiting>(2);
  /** The state that waits, by its key. */
  readonly #states = new Map<string, Entry<Waiting>>();
  /** The last event of a channel that waits and is no state, by channel. */
  readonly #fixed = new Map<string, Entry<Waiting>>();

  constructor(settings: Settings, owner: QueueOwner<Waiting>) {
    this.#settings = settings;
    this.#owner = owner;
  }

  /** Events that wait, without those of the request under way. */
  get size(): number {
    return this.#queue.size;
  }

  /** Events that wait, with those of the request under way. */
  get queued(): number {
    return this.#queue.size + this.sending.length;
  }

  /** Adds an event, if there is room; returns whether there is. */
  push(item: Waiting, place: Place): boolean {
    if (item.name === "subscription_count") this.withdraw(item.key, null);
    if (!this.#makeRoom(item, place)) {
      this.#owner.dropped(item, this.#fullness());
      return false;
    }
    this.restore(item, place);
    return true;
  }

  /** Adds an event that was in a queue before, and has its room. */
  restore(item: Waiting, place: Place): void {
    const entry = this.#queue.push(item, item.bytes, place);
    if (item.key !== null) this.#states.set(item.key, entry);
    else this.#fixed.set(place.stream, entry);
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

  /** Whether the next webhook is as large as it may be. */
  get isBatchFull(): boolean {
    const { size, bytes } = this.#queue;
    return size >= BATCH.entries || bytes >= BATCH.bytes;
  }

  /** Takes the events of the next webhook. */
  takeBatch(): Waiting[] {
    return this.#take(this.#settings.batch ? BATCH : SINGLE);
  }

  /** Takes all events that wait. */
  takeAll(): Waiting[] {
    return this.#take(EVERYTHING);
  }

  #take(most: Most): Waiting[] {
    const entries = this.#queue.take(most);
    for (const entry of entries) this.#forget(entry);
    return entries.map(({ item }) => item);
  }

  /** Drops events that wait until there is room for another; false if none are. */
  #makeRoom({ bytes }: Item, place: Place): boolean {
    const { queueBytes, queueEvents } = this.#settings;
    const sending = this.sending.length;
    // What is being sent cannot be dropped.
    if (bytesOf(this.sending) + bytes > queueBytes) return false;
    if (sending + 1 > queueEvents) return false;
    while (
      this.#queuedBytes + bytes > queueBytes ||
      this.#queue.size + sending + 1 > queueEvents
    ) {
      const victim = this.#queue.victim(place);
      if (victim === undefined) return false;
      this.#owner.dropped(victim.item, this.#fullness());
      this.#remove(victim);
    }
    return true;
  }

  /** Why there is no room. */
  #fullness(): string {
    const { queueBytes, queueEvents } = this.#settings;
    return this.queued >= queueEvents
      ? `${this.queued} of ${queueEvents} events are waiting`
      : `${this.#queuedBytes} of ${queueBytes} bytes are waiting`;
  }

  #remove(entry: Entry<Waiting>): void {
    this.#queue.remove(entry);
    this.#forget(entry);
  }

  /** Forgets what was known of an entry that waits no longer. */
  #forget(entry: Entry<Waiting>): void {
    const { item, stream: { name } } = entry;
    const { key } = item;
    if (key !== null && this.#states.get(key) === entry) {
      this.#states.delete(key);
    }
    if (this.#fixed.get(name) === entry) this.#fixed.delete(name);
    this.#owner.removed?.(item);
  }

  get #queuedBytes(): number {
    return this.#queue.bytes + bytesOf(this.sending);
  }
}

function bytesOf(items: readonly Item[]): number {
  return items.reduce((sum, { bytes }) => sum + bytes, 0);
}
