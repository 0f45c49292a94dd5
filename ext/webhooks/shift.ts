/**
 * One turn of a server as the reader of the journal for an endpoint.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Place } from "../../core/fair_queue.ts";
import { isOwnChannel, kindOf } from "../../core/protocol.ts";
import type {
  Clock,
  JournalPage,
  JournalReader,
  ReadEntry,
} from "../../mod.ts";
import { BATCH_MS, type WebhookStatus } from "./endpoint.ts";
import { type OutgoingEvent, WIRE } from "./events.ts";
import {
  type Batch,
  decodeNotes,
  encodeItem,
  Ledger,
  type NotedItem,
  type NotedPart,
  NOTES,
} from "./ledger.ts";
import {
  type EndpointSettings,
  heardFor,
  type Settings,
  wants,
} from "./options.ts";
import { EndpointQueue, type Item } from "./queue.ts";
import type { Failure, Reporter, WebhookFailure } from "./reports.ts";
import { encodeBody, type Sender } from "./request.ts";
import { Settler } from "./settler.ts";

/** What an endpoint has got and not got, through this server. */
export type Totals = Pick<WebhookStatus, "delivered" | "dropped" | "lost">;

/** What a {@linkcode Shift} works with. */
export interface ShiftOptions {
  readonly app: string;
  readonly endpoint: EndpointSettings;
  readonly settings: Settings;
  readonly clock: Clock;
  readonly reader: JournalReader;
  /** How many parts the journal has. */
  readonly parts: number;
  readonly sender: Sender;
  readonly reporter: Reporter;
  readonly totals: Totals;
  /** The notes of the turn before, if no other server was the reader since. */
  readonly former: ReadonlyMap<string, string> | null;
}

/** How far one part of the journal was read, and what follows from that. */
interface Part {
  readonly settler: Settler<EndpointQueue<NotedItem>>;
  position: string | undefined;
  /** For how many rounds something may still happen. */
  activity: number;
}

/** How often the journal is read, in milliseconds. */
const POLL_MS = 250;

// A part in which nothing happens is read in every second round only.
const ACTIVE_ROUNDS = 20;

/** Channels of one part whose cache miss is remembered, at most. */
const MAX_MISSED = 10_000;

/** A pause, which ends early when its condition holds. */
interface Pause {
  readonly isOver: () => boolean;
  readonly end: () => void;
}

/**
 * One turn of this server as the reader. Everything that a successor needs is noted
 * before it counts: how far the journal was read, the departures that are held back,
 * the events that wait, and the webhook under way with its id.
 *
 * It ends when the journal cannot be reached, or another server has become the
 * reader: what it knows may not be true any more, and is thrown away.
 */
export class Shift {
  /** Resolves when it has ended; rejects if the journal cannot be reached. */
  readonly done: Promise<void>;
  readonly #options: ShiftOptions;
  readonly #ledger: Ledger;
  readonly #queue: EndpointQueue<NotedItem>;
  readonly #parts: Part[];
  readonly #heard: ReadonlySet<string>;
  #batch: Batch | null = null;
  #nextId = 0;
  #state: "open" | "stopping" | "over" = "open";
  /** Whether the outcome of the request under way counts no more. */
  #isAbandoned = false;
  readonly #pauses = new Set<Pause>();

  constructor(options: ShiftOptions) {
    this.#options = options;
    const { settings, endpoint, clock, reader, totals } = options;
    this.#heard = heardFor([endpoint]);
    this.#ledger = new Ledger(reader, clock, () => this.#end());
    this.#queue = new EndpointQueue(settings, {
      removed: ({ id }) => this.#ledger.note(NOTES.item(id), null),
      dropped: (item, reason) => {
        totals.dropped++;
        this.#report("dropped", [item], { reason });
      },
    });
    this.#parts = Array.from(
      { length: options.parts },
      (_, i) => this.#newPart(i),
    );
    this.done = this.#work();
  }

  /** Events that wait, those under way included. */
  get queued(): number {
    return this.#queue.queued;
  }

  /** Its notes, which are lost if Redis was flushed. */
  get notes(): ReadonlyMap<string, string> {
    return this.#ledger.notes;
  }

  /** Ends after the request that is under way, and lets another server go on. */
  async stop(): Promise<void> {
    if (this.#state === "open") this.#state = "stopping";
    this.#wake();
    await this.done.catch(() => {});
  }

  /** Ends the request under way as well: the next server sends it again. */
  abandon(): void {
    this.#isAbandoned = true;
    this.#options.sender.abort();
  }

  async #work(): Promise<void> {
    await this.#load();
    const ends = [this.#follow(), this.#send()].map(async (end) => {
      try {
        await end;
      } finally {
        // The other one cannot go on alone.
        if (this.#state === "open") this.#end();
      }
    });
    const [followed, sent] = await Promise.allSettled(ends);
    if (followed?.status === "rejected") throw followed.reason;
    if (sent?.status === "rejected") throw sent.reason;
    if (this.#state === "over") return;
    await this.#ledger.commit();
    if (!this.#isOver) await this.#options.reader.release();
  }

  get #isOpen(): boolean {
    return this.#state === "open";
  }

  get #isOver(): boolean {
    return this.#state === "over";
  }

  /** Throws away what it knows. */
  #end(): void {
    this.#state = "over";
    this.abandon();
    this.#wake();
  }

  /** Takes over what its predecessors have noted. */
  async #load(): Promise<void> {
    const notes = await this.#ledger.load(this.#options.former);
    const { batch, items, parts } = decodeNotes(notes, this.#parts.length);
    for (const { item, place } of items) {
      this.#nextId = item.id + 1;
      this.#queue.restore(item, place);
    }
    this.#batch = batch;
    this.#queue.sending = batch?.items ?? [];
    for (const [i, part] of this.#parts.entries()) {
      this.#restore(part, parts[i]!);
    }
  }

  #restore(part: Part, { position, departures, missed }: NotedPart): void {
    part.position = position;
    const held = [...departures].map(([key, { isWithdrawn, ...rest }]) => {
      const withdrawn = new Set(isWithdrawn ? [this.#queue] : []);
      return [key, { ...rest, withdrawn }] as const;
    });
    part.settler.restore(held, missed);
    part.activity = ACTIVE_ROUNDS;
  }

  // ---- From the journal to the queue

  #newPart(i: number): Part {
    const { settings: { settleMs } } = this.#options;
    const settler = new Settler([this.#queue], settleMs, {
      report: (event, key, told, timeMs) => {
        if (told.length > 0) this.#push(event, key, timeMs);
      },
      held: (key, departure) => {
        const { withdrawn, ...rest } = departure ?? {};
        const isWithdrawn = (withdrawn?.size ?? 0) > 0;
        const note = departure && { ...rest, isWithdrawn };
        this.#ledger.note(NOTES.departure(i, key), note);
      },
      missed: (channel, isMissed) =>
        this.#ledger.note(NOTES.missed(i, channel), isMissed || null),
    }, MAX_MISSED);
    return { settler, position: undefined, activity: 0 };
  }

  /** Reads the journal until the end of the turn. */
  async #follow(): Promise<void> {
    for (let round = 0; this.#isOpen; round++) {
      const hasMore = await this.#readOn(round);
      await this.#ledger.keep();
      if (!hasMore) await this.#pause(() => false, POLL_MS);
    }
  }

  /** Reads a page of each part; returns whether there was more. */
  async #readOn(round: number): Promise<boolean> {
    const { reader } = this.#options;
    const due = [...this.#parts.entries()].filter(([i, { activity }]) =>
      activity > 0 || i % 2 === round % 2
    );
    const pages = await Promise.all(due.map(async ([i, { position }]) => {
      return [i, await reader.read(i, position)] as const;
    }));
    for (const [i, page] of pages) {
      if (this.#isOver) return false;
      this.#take(i, page);
      if (this.#ledger.isFull) await this.#ledger.commit();
    }
    return pages.some(([, { hasMore }]) => hasMore);
  }

  #take(i: number, page: JournalPage): void {
    const part = this.#parts[i]!;
    const { settler } = part;
    if (page.position !== part.position) {
      part.position = page.position;
      this.#ledger.note(NOTES.position(i), page.position);
    }
    if (page.dropped > 0) this.#countDropped(page.dropped);
    for (const entry of page.entries) {
      // First what was due before it.
      settler.settle(entry.timeMs);
      this.#takeEntry(entry, settler);
    }
    if (!page.hasMore) settler.settle(page.timeMs);
    const isActive = page.entries.length > 0 || settler.isHolding;
    part.activity = isActive ? ACTIVE_ROUNDS : Math.max(0, part.activity - 1);
  }

  #takeEntry(entry: ReadEntry, settler: Part["settler"]): void {
    const { app, channel, kind, timeMs } = entry;
    const { app: own, endpoint } = this.#options;
    if (app !== own || isOwnChannel(channel)) return;
    if (!channel.startsWith(endpoint.prefix)) return;
    if (kind === "published") return settler.published(channel);
    const event = this.#heard.has(kind) ? toEvent(entry) : null;
    if (event !== null) settler.take(event, timeMs);
  }

  #countDropped(count: number): void {
    this.#options.totals.dropped += count;
    const reason = `${count} events of all endpoints were not read in time`;
    this.#report("dropped", [], { reason });
  }

  #push(event: OutgoingEvent, key: string | null, timeMs: number): void {
    if (!wants(this.#options.endpoint, event)) return;
    const { name, channel } = event;
    const json = JSON.stringify(event);
    const bytes = Buffer.byteLength(json);
    const id = this.#nextId++;
    const place: Place = {
      stream: channel,
      // What strangers do is not to delay what admitted clients do.
      group: kindOf(channel).auth ? 0 : 1,
      source: event.socket_id ?? "",
    };
    const item = { id, name, key, json, bytes, timeMs };
    if (!this.#queue.push(item, place)) return;
    this.#ledger.note(NOTES.item(id), encodeItem(item, place));
    this.#wake();
  }

  // ---- From the queue to the endpoint

  /** Delivers until the end of the turn. */
  async #send(): Promise<void> {
    while (this.#isOpen) {
      const batch = this.#batch ?? await this.#gather();
      if (batch === null) continue;
      const waitMs = batch.dueMs - this.#ledger.nowMs;
      if (batch.tries > 0 && waitMs > 0) {
        await this.#pause(() => false, waitMs);
        continue;
      }
      // It is noted before the first try, and each try needs the lease.
      await this.#ledger.commit();
      if (this.#isOpen) await this.#try(batch);
    }
  }

  /** Makes the next webhook; null if there is none yet. */
  async #gather(): Promise<Batch | null> {
    if (this.#queue.size === 0) {
      this.#options.reporter.reset();
      await this.#pause(() => this.#queue.size > 0);
    }
    if (this.#options.settings.batch) {
      await this.#pause(() => this.#queue.isBatchFull, BATCH_MS);
    }
    const items = this.#isOpen ? this.#queue.takeBatch() : [];
    // Everything may have been withdrawn in the meantime.
    if (items.length === 0) return null;
    const batch = { id: crypto.randomUUID(), items, tries: 0, dueMs: 0 };
    this.#setBatch(batch);
    return batch;
  }

  #setBatch(batch: Batch | null): void {
    this.#batch = batch;
    this.#queue.sending = batch?.items ?? [];
    this.#ledger.note(NOTES.batch, batch);
  }

  async #try(batch: Batch): Promise<void> {
    const { sender, settings: { retryDelaysMs }, totals } = this.#options;
    const { id, items, tries } = batch;
    const failure = await sender.post(id, encodeBody(items));
    // Its successor tries again, under the same id.
    if (this.#isAbandoned && failure !== null) return;
    const delayMs = retryDelaysMs[tries];
    if (failure === null) {
      totals.delivered += items.length;
      this.#setBatch(null);
    } else if (delayMs === undefined) {
      totals.lost += items.length;
      this.#report("gave_up", items, failure);
      this.#setBatch(null);
    } else {
      this.#report("retrying", items, failure);
      const dueMs = this.#ledger.nowMs + delayMs;
      this.#setBatch({ ...batch, tries: tries + 1, dueMs });
    }
    await this.#ledger.commit();
  }

  #report(
    failure: WebhookFailure,
    items: readonly Item[],
    reason: Failure,
  ): void {
    const events = items.map(({ json }) => json);
    this.#options.reporter.report(failure, events, reason);
  }

  // ---- Pauses

  /** Waits until a condition holds, for so long at most, or for the end. */
  #pause(isOver: () => boolean, ms?: number): Promise<void> {
    if (isOver() || !this.#isOpen) return Promise.resolve();
    return new Promise((resolve) => {
      const end = () => {
        cancel?.();
        this.#pauses.delete(pause);
        resolve();
      };
      const pause: Pause = { isOver, end };
      this.#pauses.add(pause);
      const cancel = ms === undefined
        ? undefined
        : this.#options.clock.after(ms, end);
    });
  }

  /** Ends the pauses whose time has come. */
  #wake(): void {
    for (const { isOver, end } of this.#pauses) {
      if (!this.#isOpen || isOver()) end();
    }
  }
}

/** What an entry reports; null where a part of it is missing. */
function toEvent(entry: ReadEntry): OutgoingEvent | null {
  const { kind, userId, subscriptionCount, clientEvent, ...event } = entry;
  switch (kind) {
    case "member_added":
    case "member_removed":
      return userId === undefined ? null : WIRE[kind]({ ...event, userId });
    case "client_event":
      return clientEvent === undefined
        ? null
        : WIRE[kind]({ ...event, ...clientEvent });
    case "subscription_count":
      return WIRE[kind]({
        ...event,
        subscriptionCount: subscriptionCount ?? 0,
      });
    case "published":
      return null;
    default:
      return WIRE[kind](event);
  }
}
