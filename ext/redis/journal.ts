/**
 * The journal in Redis: what happens on the channels of all servers, and how far its
 * readers are.
 *
 * - A stream per bucket holds the entries. The scripts of transitions and publishes
 *   write to it while somebody wants that.
 * - A hash per reader holds its lease and its notes. It is in one bucket, so that a
 *   commit is one step, whatever part of the journal it is about.
 *
 * @module
 */

import { createHash } from "node:crypto";
import type {
  Journal,
  JournalEntry,
  JournalKind,
  JournalPage,
  JournalReader,
  ReadEntry,
} from "../../core/journal.ts";
import { type Clock, delay, withinMs } from "../../core/time.ts";
import {
  APPEND,
  CLAIM,
  COMMIT,
  FOLLOW,
  NOTES,
  RELEASE,
  WANT,
} from "./journal_scripts.ts";
import { RedisUnavailable } from "./failures.ts";
import type { Keys } from "./keys.ts";
import { decodeSent } from "./messages.ts";
import type { Script } from "./script.ts";

/** Entries of one stream, about; above it the oldest are dropped. */
export const JOURNAL_ENTRIES = 10_000;

/**
 * How long everything lives that nobody uses, and for how long a reader wants
 * entries: all servers may be gone for so long.
 */
const LIFE_MS = 86_400_000;

// What one page holds. Redis does nothing else meanwhile, so it is little.
const PAGE_ENTRIES = 100;
const PAGE_BYTES = 65_536;
const NOTES_PAGE = 200;

/** For how long a server that knows of no reader believes that there is none. */
const UNWANTED_MS = 10_000;

// How often an entry is written again where Redis is away, and how many entries may
// wait for that.
const APPEND_TRIES = 50;
const APPEND_MS = 100;
const MAX_APPENDING = 1_000;

/** How long the close waits for readers. */
const CLOSE_MS = 500;

/** The entry kinds as they are written. */
const KINDS: Readonly<Record<string, JournalKind>> = Object.freeze({
  "o": "channel_occupied",
  "v": "channel_vacated",
  "+": "member_added",
  "-": "member_removed",
  "c": "client_event",
  "m": "cache_miss",
  "n": "subscription_count",
  "p": "published",
});

/** A connection to Redis. */
interface Caller {
  call(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
  ): Promise<unknown>;
}

/** What a {@linkcode RedisJournal} works with. */
export interface JournalServices {
  /** Throws where the bucket cannot be reached. */
  readonly network: { connection(bucket: number): Caller };
  readonly clock: Clock;
}

/** See the head of this file. */
export class RedisJournal implements Journal {
  readonly #keys: Keys;
  readonly #services: () => JournalServices;
  readonly #leaseMs: number;
  /** Names this journal among those of all servers. */
  readonly #server = crypto.randomUUID();
  /** How many want to read. */
  #wanting = 0;
  /** Buckets in which nobody seems to read, and until when that is believed. */
  readonly #unwanted = new Map<number, number>();
  /** What ends the readers that were claimed, by their names. */
  readonly #yields = new Map<string, () => Promise<void>>();
  /** Entries that wait for Redis. */
  #appending = 0;
  #isClosed = false;

  /**
   * @param services What it works with, once the backplane has it.
   * @param leaseMs How long one server is the reader without a word.
   */
  constructor(
    keys: Keys,
    services: () => JournalServices,
    leaseMs: number,
  ) {
    this.#keys = keys;
    this.#services = services;
    this.#leaseMs = leaseMs;
  }

  /** See {@linkcode Journal.parts}. */
  get parts(): number {
    return this.#keys.tags.length;
  }

  /** See {@linkcode Journal.want}. */
  want(): () => void {
    this.#wanting++;
    const { network } = this.#services();
    for (const bucket of this.#keys.tags.keys()) {
      try {
        // Where it fails, the connection does, and restoring says the same.
        this.#want(bucket, network.connection(bucket)).catch(() => {});
      } catch {
        // It cannot be reached yet, and is restored later.
      }
    }
    let isWanted = true;
    return () => {
      if (isWanted) this.#wanting--;
      isWanted = false;
    };
  }

  /** Has entries written over a new connection, before anything else happens there. */
  async restore(buckets: readonly number[], connection: Caller): Promise<void> {
    if (this.#wanting === 0) return;
    await Promise.all(buckets.map((bucket) => this.#want(bucket, connection)));
  }

  async #want(bucket: number, connection: Caller): Promise<void> {
    await connection.call(WANT, [this.#keys.meta(bucket)], [LIFE_MS]);
  }

  /** See {@linkcode Journal.append}. */
  async append(entry: JournalEntry): Promise<void> {
    const { network, clock } = this.#services();
    const keys = this.#keys;
    const { app, channel, subscriptionCount = 0 } = entry;
    const { bucket, name, state } = keys.channel(app, channel);
    const unwantedUntil = this.#unwanted.get(bucket) ?? -Infinity;
    if (this.#wanting === 0 && clock.elapsed() < unwantedUntil) return;
    const isWanted = await this.#again(() =>
      network.connection(bucket).call(
        APPEND,
        [keys.meta(bucket), keys.journal(bucket), state],
        [
          ...[this.#wanting > 0 ? 1 : 0, name],
          ...[entry.kind === "cache_miss" ? "m" : "n", subscriptionCount],
          ...[JOURNAL_ENTRIES, LIFE_MS],
        ],
      )
    );
    if (isWanted === 0) {
      this.#unwanted.set(bucket, clock.elapsed() + UNWANTED_MS);
    }
  }

  /**
   * Calls again for a while where Redis cannot be reached, as just before a bucket
   * is. An entry that is written twice says the same as one.
   */
  async #again(call: () => Promise<unknown>): Promise<unknown> {
    for (let tries = 1;; tries++) {
      try {
        return await call();
      } catch (error) {
        if (!(error instanceof RedisUnavailable) || this.#isClosed) throw error;
        if (tries === APPEND_TRIES || this.#appending >= MAX_APPENDING) {
          throw error;
        }
      }
      this.#appending++;
      await delay(this.#services().clock, APPEND_MS);
      this.#appending--;
    }
  }

  /** See {@linkcode Journal.claim}. */
  async claim(
    name: string,
    options: { ageMs: number; yield: () => Promise<void> },
  ): Promise<JournalReader | null> {
    if (this.#isClosed) return null;
    const { network, clock } = this.#services();
    // A name may hold a URL with a secret.
    const digest = createHash("sha256").update(name).digest("hex").slice(0, 32);
    const { bucket, key } = this.#keys.reader(digest);
    const token = crypto.randomUUID();
    const age = Math.round(options.ageMs);
    const sentMs = clock.elapsed();
    const [isReader, timeMs, stored, isFirst] = await network.connection(bucket)
      .call(
        CLAIM,
        [key],
        [this.#server, token, this.#leaseMs, age, LIFE_MS],
      ) as [number, string, string, number];
    if (isReader === 0) return null;
    const { yield: yieldReader } = options;
    this.#yields.set(name, yieldReader);
    const released = () => void this.#yields.delete(name);
    const home = { key, bucket, token, leaseMs: this.#leaseMs };
    const services = { keys: this.#keys, network };
    // The age has grown until Redis got the call. And an entry of that very millisecond
    // counts as well.
    const lateMs = Math.ceil(clock.elapsed() - sentMs) + 1;
    const since = isFirst === 1 ? String(Number(stored) - lateMs) : stored;
    const start = { timeMs: Number(timeMs), since };
    return new Reader(services, home, start, released);
  }

  /** Has all readers released, so that other servers go on at once. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const released = Promise.all(
      [...this.#yields.values()].map((end) => end()),
    );
    await withinMs(this.#services().clock, CLOSE_MS, released);
  }
}

/** Where a reader's lease and notes are. */
interface Home {
  readonly key: string;
  readonly bucket: number;
  readonly token: string;
  readonly leaseMs: number;
}

/** What a {@linkcode Reader} works with. */
interface ReaderServices extends Pick<JournalServices, "network"> {
  readonly keys: Keys;
}

class Reader implements JournalReader {
  readonly leaseMs: number;
  readonly timeMs: number;
  readonly #services: ReaderServices;
  readonly #home: Home;
  /** From when entries are read where none have been read yet. */
  readonly #since: string;
  readonly #released: () => void;

  constructor(
    services: ReaderServices,
    home: Home,
    { timeMs, since }: { timeMs: number; since: string },
    released: () => void,
  ) {
    this.leaseMs = home.leaseMs;
    this.timeMs = timeMs;
    this.#services = services;
    this.#home = home;
    this.#since = since;
    this.#released = released;
  }

  /** A call where the lease is. It throws where that cannot be reached. */
  #call(script: Script, args: readonly (string | number)[]): Promise<unknown> {
    const { bucket, key } = this.#home;
    return this.#services.network.connection(bucket).call(script, [key], args);
  }

  async notes(): Promise<ReadonlyMap<string, string>> {
    const notes = new Map<string, string>();
    let cursor = "0";
    do {
      const [next, fields] = await this.#call(
        NOTES,
        [cursor, NOTES_PAGE],
      ) as [string, string[]];
      for (let i = 0; i < fields.length; i += 2) {
        const [name, note] = [fields[i]!, fields[i + 1]!];
        if (name.startsWith(NOTE)) notes.set(name.slice(NOTE.length), note);
      }
      cursor = String(next);
    } while (cursor !== "0");
    return notes;
  }

  async read(part: number, position: string | undefined): Promise<JournalPage> {
    const { keys, network } = this.#services;
    const [after, seen = ""] = (position ?? `${this.#since}-0`).split(" ");
    const answer = await network.connection(part).call(
      FOLLOW,
      [keys.journal(part), keys.meta(part)],
      [after!, seen, PAGE_ENTRIES, PAGE_BYTES, LIFE_MS],
    );
    const [timeMs, last, reached, dropped, more, entries] = answer as [
      ...[time: string, last: string, reached: string],
      ...[dropped: number, more: number, entries: [string, string[]][]],
    ];
    return {
      entries: entries.flatMap(([, fields]) => decodeEntry(fields)),
      position: `${last} ${reached}`.trim(),
      timeMs: Number(timeMs),
      hasMore: more === 1,
      dropped,
    };
  }

  async commit(
    changes: ReadonlyMap<string, string | null>,
  ): Promise<number | null> {
    const forgotten: string[] = [];
    const kept: string[] = [];
    for (const [name, note] of changes) {
      if (note === null) forgotten.push(NOTE + name);
      else kept.push(NOTE + name, note);
    }
    const { token, leaseMs } = this.#home;
    const answer = await this.#call(
      COMMIT,
      [token, leaseMs, LIFE_MS, forgotten.length, ...forgotten, ...kept],
    ) as string;
    return answer === "" ? null : Number(answer);
  }

  async release(): Promise<void> {
    this.#released();
    await this.#call(RELEASE, [this.#home.token]);
  }
}

/** Begins the names of notes in the hash, which holds the lease as well. */
const NOTE = "n:";

/** An entry; none where another version has written something else. */
function decodeEntry(fields: readonly string[]): ReadEntry[] {
  const byName = new Map<string, string>();
  for (let i = 0; i < fields.length; i += 2) {
    byName.set(fields[i]!, fields[i + 1]!);
  }
  const kind = KINDS[byName.get("e") ?? ""];
  const name = byName.get("c") ?? "";
  const end = name.indexOf(" ");
  const timeMs = Number(byName.get("t"));
  if (kind === undefined || end < 0 || !Number.isFinite(timeMs)) return [];
  const clientEvent = decodeClientEvent(byName.get("d"));
  if (kind === "client_event" && clientEvent === undefined) return [];
  return [{
    kind,
    app: name.slice(0, end),
    channel: name.slice(end + 1),
    timeMs,
    userId: byName.get("u") || undefined,
    subscriptionCount: Number(byName.get("n") ?? 0),
    clientEvent,
  }];
}

/** The event of a client, from the message that it was published with. */
function decodeClientEvent(
  text: string | undefined,
): JournalEntry["clientEvent"] {
  if (text === undefined) return undefined;
  try {
    const { message } = decodeSent(text);
    const { event, data, exceptSocketId: socketId, userId } = message;
    if (typeof event !== "string" || typeof socketId !== "string") return;
    return {
      ...{ event, socketId },
      ...(data !== undefined && { data }),
      ...(userId !== undefined && { userId }),
    };
  } catch {
    // It is no message of this version.
    return undefined;
  }
}
