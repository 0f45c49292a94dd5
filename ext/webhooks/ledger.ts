/**
 * What a server notes in the journal while it is the reader, and for how long it is.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Place } from "../../core/fair_queue.ts";
import { isObject, parseJson } from "../../core/protocol.ts";
import type { Clock, JournalReader } from "../../mod.ts";
import type { OutgoingEvent } from "./events.ts";
import type { Item } from "./queue.ts";

// ---- Ledger -----------------------------------------------------------------

/**
 * Stores notes in commits that each leave a whole state behind. After a commit that
 * was refused or has failed nobody knows what is stored, so it stores nothing more.
 */
export class Ledger {
  readonly #reader: JournalReader;
  readonly #clock: Clock;
  readonly #onLost: () => void;
  /** All notes, as they are to be. */
  readonly #notes = new Map<string, string>();
  /** Notes that have changed since the last commit; null for those to forget. */
  #changes = new Map<string, string | null>();
  #length = 0;
  /** The commits so far, one after the other. */
  #committed: Promise<void> = Promise.resolve();
  #isLost = false;
  /** When the last commit was sent that has succeeded, by the clock. */
  #renewedMs: number;
  /** How much the clock of the lease is ahead of this server's. */
  #aheadMs: number;

  /** @param onLost Called once, when this server is the reader no more. */
  constructor(reader: JournalReader, clock: Clock, onLost: () => void) {
    this.#reader = reader;
    this.#clock = clock;
    this.#onLost = onLost;
    this.#renewedMs = clock.elapsed();
    this.#aheadMs = reader.timeMs - clock.elapsed();
  }

  /** The time by the clock of the lease, on which all servers agree. */
  get nowMs(): number {
    return this.#clock.elapsed() + this.#aheadMs;
  }

  /** Whether there is so much to store that it should be stored soon. */
  get isFull(): boolean {
    return this.#length > MAX_COMMIT_LENGTH;
  }

  /**
   * All notes of this server and its predecessors.
   *
   * @param former What this server had noted in its last turn. It is noted again if
   * there is nothing, as Redis was flushed.
   */
  async load(
    former: ReadonlyMap<string, string> | null,
  ): Promise<ReadonlyMap<string, string>> {
    for (const [name, text] of await this.#reader.notes()) {
      this.#notes.set(name, text);
    }
    if (this.#notes.size > 0) return this.#notes;
    for (const [name, text] of former ?? []) {
      this.#change(name, text);
      if (this.isFull) await this.commit();
    }
    return this.#notes;
  }

  /** All notes, stored or not. */
  get notes(): ReadonlyMap<string, string> {
    return this.#notes;
  }

  /** Changes a note, with the next commit. */
  note(name: string, value: unknown): void {
    this.#change(name, value === null ? null : JSON.stringify(value));
  }

  #change(name: string, text: string | null): void {
    if (text === null) this.#notes.delete(name);
    else this.#notes.set(name, text);
    this.#changes.set(name, text);
    this.#length += name.length + (text?.length ?? 0);
  }

  /** Commits what has changed, or so that the lease does not end. */
  async keep(): Promise<void> {
    const ageMs = this.#clock.elapsed() - this.#renewedMs;
    if (this.#changes.size > 0 || ageMs > this.#reader.leaseMs / 4) {
      await this.commit();
    }
  }

  /**
   * Stores all that has changed up to now, and goes on being the reader. Rejects
   * if the journal cannot be reached.
   */
  async commit(): Promise<void> {
    const stored = this.#committed.then(() => this.#store());
    this.#committed = stored.catch(() => {});
    await stored;
  }

  async #store(): Promise<void> {
    if (this.#isLost) return;
    const changes = this.#changes;
    this.#changes = new Map();
    this.#length = 0;
    const sentMs = this.#clock.elapsed();
    try {
      const timeMs = await this.#reader.commit(changes);
      // Another server has taken over, as this one was frozen, say.
      if (timeMs === null) return this.#lose();
      this.#renewedMs = sentMs;
      this.#aheadMs = timeMs - this.#clock.elapsed();
    } catch (error) {
      this.#lose();
      throw error;
    }
  }

  #lose(): void {
    this.#isLost = true;
    this.#onLost();
  }
}

/** Characters of notes that one commit stores, about. */
const MAX_COMMIT_LENGTH = 524_288;

// ---- Notes ------------------------------------------------------------------
// Servers of different versions read each other's notes during a deploy: a note of
// another kind is left alone, and one that cannot be read is passed over.

/** An event that waits, and is noted. */
export interface NotedItem extends Item {
  /** Grows from event to event. */
  readonly id: number;
}

/** A webhook under way. */
export interface Batch {
  readonly id: string;
  readonly items: readonly Item[];
  /** Tries that have failed. */
  readonly tries: number;
  /** When the next try is due, by the clock of the lease. */
  readonly dueMs: number;
}

/** A departure that is held back, as it is noted. */
export interface NotedDeparture {
  readonly event: OutgoingEvent;
  readonly timeMs: number;
  /** Whether the endpoint never got the arrival. */
  readonly isWithdrawn: boolean;
}

/** The names of notes. */
export const NOTES = Object.freeze({
  batch: "b",
  item: (id: number) => `q${id}`,
  position: (part: number) => `p${part}`,
  departure: (part: number, key: string) => `d${part}:${key}`,
  missed: (part: number, channel: string) => `m${part}:${channel}`,
});

/** What the notes say of one part of the journal. */
export interface NotedPart {
  position?: string;
  readonly departures: Map<string, NotedDeparture>;
  readonly missed: Set<string>;
}

/** What all notes say. */
export interface Noted {
  batch: Batch | null;
  /** In their order. */
  readonly items: { readonly item: NotedItem; readonly place: Place }[];
  readonly parts: readonly NotedPart[];
}

/** The note of an event that waits. */
export function encodeItem(
  { name, key, json, timeMs }: Item,
  { stream, group, source }: Place,
): unknown {
  return [name, key, json, timeMs, stream, group, source];
}

export function decodeNotes(
  notes: ReadonlyMap<string, string>,
  parts: number,
): Noted {
  const noted: Noted = {
    batch: null,
    items: [],
    parts: Array.from(
      { length: parts },
      () => ({ departures: new Map(), missed: new Set() }),
    ),
  };
  for (const [name, text] of notes) {
    const [, number = "", key = ""] = /^.(\d*):?([^]*)$/.exec(name) ?? [];
    decodeNote(noted, { kind: name[0], number: Number(number), key }, text);
  }
  noted.items.sort((a, b) => a.item.id - b.item.id);
  return noted;
}

function decodeNote(
  noted: Noted,
  { kind, number, key }: {
    kind: string | undefined;
    number: number;
    key: string;
  },
  text: string,
): void {
  const value = parseJson(text);
  if (kind === "b") {
    if (isObject(value)) noted.batch = value as unknown as Batch;
    return;
  }
  if (kind === "q") {
    if (!Array.isArray(value)) return;
    const [name, own, json, timeMs, stream, group, source] = value;
    const bytes = Buffer.byteLength(json);
    const item = { id: number, name, key: own, json, bytes, timeMs };
    return void noted.items.push({ item, place: { stream, group, source } });
  }
  const part = noted.parts[number];
  if (part === undefined) return;
  if (kind === "p" && typeof value === "string") part.position = value;
  if (kind === "m") part.missed.add(key);
  if (kind === "d" && isObject(value)) {
    part.departures.set(key, value as unknown as NotedDeparture);
  }
}
