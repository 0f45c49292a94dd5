/**
 * What the backplane of one process remembers: the history of channels within its
 * bounds, and the sessions of stock clients.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import type {
  BackplaneNode,
  History,
  HistoryRequest,
  LoggedMessage,
  Page,
  PageRequest,
  Position,
  SessionState,
} from "./backplane.ts";
import type { Clock } from "./time.ts";

// ---- The log of one channel -------------------------------------------------

// What an empty log and a message take besides their texts, about.
const LOG_BYTES = 512;
const ENTRY_BYTES = 256;
// The places of dropped entries are cut off together, as cutting moves the others.
const MAX_DROPPED_ENTRIES = 1_024;

interface LogEntry extends LoggedMessage {
  /** When it came, see {@linkcode Clock.elapsed}. */
  readonly at: number;
  readonly bytes: number;
}

/** The last logged messages of one channel. */
export class ChannelLog {
  /** Every logged message later than this is here. */
  from: number;
  /** What the log takes, about. */
  bytes: number;
  /** When a message was added or read last, see {@linkcode Clock.elapsed}. */
  usedAt = 0;
  #entries: (LogEntry | undefined)[] = [];
  /** How many entries at the front have been dropped, and are undefined. */
  #dropped = 0;

  constructor(channel: string, from: number) {
    this.from = from;
    this.bytes = LOG_BYTES + channel.length;
  }

  get length(): number {
    return this.#entries.length - this.#dropped;
  }

  /** Adds a message; returns the bytes that it takes. */
  add(message: LoggedMessage["message"], offset: number, at: number): number {
    const { event, data = "", userId = "" } = message;
    const bytes = ENTRY_BYTES + event.length + userId.length +
      Buffer.byteLength(data);
    this.#entries.push({ message, offset, at, bytes });
    this.bytes += bytes;
    return bytes;
  }

  /** Drops the first message; returns the bytes that it took. */
  dropFirst(): number {
    const entry = this.#entries[this.#dropped];
    if (entry === undefined) return 0;
    this.#entries[this.#dropped++] = undefined;
    if (this.#dropped >= MAX_DROPPED_ENTRIES || this.length === 0) {
      this.#entries = this.#entries.slice(this.#dropped);
      this.#dropped = 0;
    }
    this.from = entry.offset;
    this.bytes -= entry.bytes;
    return entry.bytes;
  }

  /** Drops messages that are too many or too old; returns their bytes. */
  trim(now: number, { events, ageMs }: History): number {
    let bytes = 0;
    for (let first; (first = this.#entries[this.#dropped]) !== undefined;) {
      if (this.length <= events && now - first.at <= ageMs) break;
      bytes += this.dropFirst();
    }
    return bytes;
  }

  /** The offset after which the last `count` messages come. */
  before(count: number): number | undefined {
    if (count <= 0 || this.length === 0) return undefined;
    const index = Math.max(this.#dropped, this.#entries.length - count);
    return this.#entries[index]!.offset - 1;
  }

  /** Reads messages, which must not have been dropped. */
  read({ after, until, events, bytes }: PageRequest): Page {
    const messages: LogEntry[] = [];
    let room = bytes;
    for (let i = this.#indexAfter(after.offset);; i++) {
      const entry = this.#entries[i];
      if (entry === undefined || entry.offset > until) break;
      if (messages.length >= events || (room <= 0 && messages.length > 0)) {
        return { messages, reaches: messages.at(-1)!.offset };
      }
      messages.push(entry);
      room -= entry.bytes;
    }
    return { messages, reaches: until };
  }

  /** Index of the first entry later than an offset, by binary search. */
  #indexAfter(offset: number): number {
    let low = this.#dropped;
    let high = this.#entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#entries[middle]!.offset <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

// ---- The history of all channels --------------------------------------------

/** A channel that may have a log. */
export interface LogOwner {
  readonly channel: string;
  /** Offset of the last message, logged or not. */
  readonly offset: number;
  /** Offset of the last message that a log would keep. */
  loggable: number;
  /** How many of its subscribers can recover. */
  readonly recovering: number;
  /** When the last of them left; `-Infinity` if none did. */
  readonly recoveringLeftAt: number;
  log: ChannelLog | null;
}

/** Keeps the logs of all channels within the bounds. */
export class MemoryHistory<Owner extends LogOwner> {
  /** What all logs take, about. */
  bytes = 0;
  readonly #bounds: Readonly<History>;
  readonly #clock: Clock;
  readonly #epoch: string;
  readonly #onDrop: (owner: Owner) => void;
  /** What sessions take of the same bytes. */
  readonly #reserved: () => number;
  /** Channels that have a log, the least recently used first. */
  readonly #owners = new Set<Owner>();

  /**
   * Makes an empty history.
   *
   * @param onDrop Hears of a channel that has lost its log.
   * @param reserved Bytes that the logs leave to sessions.
   */
  constructor(
    bounds: Readonly<History>,
    clock: Clock,
    epoch: string,
    onDrop: (owner: Owner) => void,
    reserved: () => number = () => 0,
  ) {
    this.#bounds = bounds;
    this.#clock = clock;
    this.#epoch = epoch;
    this.#onDrop = onDrop;
    this.#reserved = reserved;
  }

  /** How many messages all logs have. It visits each channel that has a log. */
  get events(): number {
    let events = 0;
    for (const { log } of this.#owners) events += log?.length ?? 0;
    return events;
  }

  /** Keeps a message, if a client may come back for it. */
  add(owner: Owner, message: LoggedMessage["message"]): void {
    const now = this.#clock.elapsed();
    const { offset, recovering, recoveringLeftAt } = owner;
    const isWanted = recovering > 0 ||
      now - recoveringLeftAt <= this.#bounds.ageMs;
    const log = isWanted ? this.#use(owner, now) : this.#drop(owner);
    owner.loggable = offset;
    if (log === null) return;
    this.bytes += log.add(message, offset, now);
    this.bytes -= log.trim(now, this.#bounds);
    this.#makeRoom(owner, log, now);
  }

  /** Keeps a log from now on; returns the offset after which a replay begins. */
  begin(
    owner: Owner,
    { since, rewind }: HistoryRequest,
  ): { recovered: boolean; offset: number } {
    const now = this.#clock.elapsed();
    const log = this.#use(owner, now);
    this.bytes -= log.trim(now, this.#bounds);
    const recovered = since !== undefined && this.#reaches(log, since) &&
      since.offset <= owner.offset;
    const offset = recovered
      ? since.offset
      : log.before(rewind) ?? owner.offset;
    this.#makeRoom(owner, log, now);
    return { recovered, offset };
  }

  /** Reads a page, or null if the log does not reach back. */
  read(owner: Owner, request: PageRequest): Page | null {
    const now = this.#clock.elapsed();
    const { log } = owner;
    if (log === null) return null;
    this.bytes -= log.trim(now, this.#bounds);
    if (!this.#reaches(log, request.after)) return null;
    this.#use(owner, now);
    return log.read(request);
  }

  #reaches(log: ChannelLog, { epoch, offset }: Position): boolean {
    return epoch === this.#epoch && offset >= log.from;
  }

  /** The log of a channel, made where there is none, as the latest used. */
  #use(owner: Owner, now: number): ChannelLog {
    if (owner.log === null) {
      owner.log = new ChannelLog(owner.channel, owner.loggable);
      this.bytes += owner.log.bytes;
    }
    owner.log.usedAt = now;
    this.#owners.delete(owner);
    this.#owners.add(owner);
    return owner.log;
  }

  /** Trims the logs to the bounds; the one in use comes last. */
  #makeRoom(current: Owner, log: ChannelLog, now: number): void {
    const { ageMs } = this.#bounds;
    const bytes = this.#bounds.bytes - this.#reserved();
    for (const owner of this.#owners) {
      const isOld = now - (owner.log?.usedAt ?? 0) > ageMs;
      if (owner === current || !(this.bytes > bytes || isOld)) break;
      this.#drop(owner);
    }
    while (this.bytes > bytes && log.length > 0) this.bytes -= log.dropFirst();
    if (this.bytes > bytes) this.#drop(current);
  }

  #drop(owner: Owner): null {
    if (owner.log === null) return null;
    this.bytes -= owner.log.bytes;
    this.#owners.delete(owner);
    owner.log = null;
    this.#onDrop(owner);
    return null;
  }
}

// ---- Sessions ---------------------------------------------------------------

// Of each only a digest of six bytes is kept, which is enough to tell a client that
// comes back from a new one.
const MAX_FORGOTTEN = 100_000;

// Sessions of clients that are away take at most this share of `history.bytes`. Logs
// alone could fill all of it, and no session would be kept.
const SESSIONS_SHARE = 1 / 4;
// What a session and a position take besides their texts, about.
const SESSION_BYTES = 768;
const POSITION_BYTES = 192;

interface SessionEntry {
  state: SessionState;
  /** What it takes while its client is away, about; 0 before. */
  bytes: number;
  /** The server that owns it; null while its client is away. */
  owner: BackplaneNode | null;
  /** When the client left, see {@linkcode Clock.elapsed}. */
  leftAt: number;
  /** Whether an earlier session of the same id was forgotten. */
  wasForgotten: boolean;
}

const NEW_SESSION: SessionState = Object.freeze({
  formerIds: [],
  positions: new Map<string, Position>(),
});

/** The sessions of all servers that share the memory of this process. */
export class MemorySessions {
  /** What the sessions of clients that are away take, about. */
  bytes = 0;
  readonly #bounds: Readonly<History>;
  readonly #clock: Clock;
  readonly #entries = new Map<string, SessionEntry>();
  /** Keys of sessions whose client is away, the longest first. */
  readonly #away = new Set<string>();
  /** Digests of the keys of forgotten sessions, the longest first. */
  readonly #forgotten = new Set<number>();

  constructor(bounds: Readonly<History>, clock: Clock) {
    this.#bounds = bounds;
    this.#clock = clock;
  }

  /** How many clients are away. */
  get away(): number {
    return this.#away.size;
  }

  /** See {@linkcode SessionStore.take}. */
  take(
    node: BackplaneNode,
    app: string,
    id: string,
  ): SessionState | "forgotten" | null {
    this.#forgetOld();
    const key = sessionKey(app, id);
    const entry = this.#entries.get(key);
    if (entry === undefined) {
      const wasForgotten = this.#forgotten.has(digest(key));
      const fresh = { state: NEW_SESSION, bytes: 0, owner: node, leftAt: 0 };
      this.#entries.set(key, { ...fresh, wasForgotten });
      return wasForgotten ? "forgotten" : null;
    }
    const { owner } = entry;
    entry.owner = node;
    this.#return(key, entry);
    if (owner !== null && owner !== node) owner.taken(app, id);
    return entry.state;
  }

  /** See {@linkcode SessionStore.keep}. */
  keep(
    node: BackplaneNode,
    app: string,
    id: string,
    state: SessionState,
    isAway: boolean,
  ): void {
    const key = sessionKey(app, id);
    const fresh = { state, bytes: 0, owner: node, leftAt: 0 };
    const entry = this.#entries.get(key) ?? { ...fresh, wasForgotten: false };
    if (entry.owner !== node) return;
    entry.state = state;
    this.#entries.set(key, entry);
    if (entry.wasForgotten && state.positions.size > 0) {
      // From here on the state says what its client has lost.
      entry.wasForgotten = false;
      this.#forgotten.delete(digest(key));
    }
    if (isAway) this.#release(key, entry);
    this.#forgetOld();
  }

  /** See {@linkcode SessionStore.forget}. */
  forget(node: BackplaneNode, app: string, id: string): void {
    const key = sessionKey(app, id);
    if (this.#entries.get(key)?.owner === node) this.#entries.delete(key);
  }

  /** Releases all sessions of a server that is gone. */
  releaseAll(node: BackplaneNode): void {
    for (const [key, entry] of this.#entries) {
      if (entry.owner === node) this.#release(key, entry);
    }
    this.#forgetOld();
  }

  #release(key: string, entry: SessionEntry): void {
    entry.owner = null;
    entry.leftAt = this.#clock.elapsed();
    entry.bytes = sessionBytes(key, entry.state);
    this.bytes += entry.bytes;
    this.#away.add(key);
  }

  /** Counts a client no longer as away. */
  #return(key: string, entry: SessionEntry): void {
    if (!this.#away.delete(key)) return;
    this.bytes -= entry.bytes;
    entry.bytes = 0;
  }

  #forgetOld(): void {
    const { ageMs, sessions, bytes } = this.#bounds;
    const now = this.#clock.elapsed();
    for (const key of this.#away) {
      // Who is away is in both.
      const entry = this.#entries.get(key)!;
      const isTooMuch = this.#away.size > sessions ||
        this.bytes > bytes * SESSIONS_SHARE;
      if (!isTooMuch && now - entry.leftAt <= ageMs) break;
      this.#return(key, entry);
      this.#entries.delete(key);
      // It becomes the latest if it is there already.
      const forgotten = digest(key);
      this.#forgotten.delete(forgotten);
      this.#forgotten.add(forgotten);
    }
    for (const oldest of this.#forgotten) {
      if (this.#forgotten.size <= MAX_FORGOTTEN) break;
      this.#forgotten.delete(oldest);
    }
  }
}

/** What a session takes whose client is away, about. */
function sessionBytes(key: string, { positions }: SessionState): number {
  let bytes = SESSION_BYTES + key.length;
  for (const channel of positions.keys()) {
    bytes += POSITION_BYTES + channel.length;
  }
  return bytes;
}

/** No app's id has a line break. */
function sessionKey(app: string, id: string): string {
  return `${app}\n${id}`;
}

/** A number that stands for a text, so that the text need not be kept. */
function digest(text: string): number {
  return createHash("sha256").update(text).digest().readUIntBE(0, 6);
}
