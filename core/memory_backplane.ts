/**
 * The backplane of a single server: channels, members, last events and history in
 * memory.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type {
  Backplane,
  BackplaneNode,
  CachedMessage,
  History,
  JoiningMember,
  JoinOptions,
  JoinResult,
  LeaveOptions,
  LeaveResult,
  LoggedMessage,
  LogRequest,
  Message,
  Occupancy,
  Replay,
} from "./backplane.ts";

/**
 * The backplane of a single server: everything in memory, every answer at once.
 *
 * @example
 * ```ts
 * import { MemoryBackplane, Pusher } from "@glitz/pusher";
 *
 * await using pusher = new Pusher({ backplane: new MemoryBackplane() });
 * ```
 */
export class MemoryBackplane implements Backplane {
  #node: BackplaneNode | undefined;
  /** By app and channel; channels that somebody is on or that have a log. */
  readonly #apps = new Map<string, Map<string, ChannelState>>();
  /** Last events by app and channel, the one that was kept longest first. */
  readonly #cache = new Map<string, { message: Message; until: number }>();
  readonly #maxCached: number;
  /** Positions of another process are none of ours. */
  readonly #epoch: string = crypto.randomUUID();
  /** Channels that have a log, the one that was not used for longest first. */
  readonly #logged = new Set<ChannelState>();
  #logBytes = 0;
  /** Above the offsets of all channels that were forgotten. */
  #firstOffset = 0;

  /**
   * Makes an empty one.
   *
   * @param options `maxCached`: how many cache channels keep their last event;
   * past it the one that has kept its event longest forgets it. 10,000 by
   * default.
   */
  constructor(options: { maxCached?: number } = {}) {
    this.#maxCached = options.maxCached ?? 10_000;
  }

  /** See {@linkcode Backplane.start}. */
  start(node: BackplaneNode): void {
    if (this.#node !== undefined) {
      throw new TypeError(
        "Cannot start: the backplane serves a Pusher already",
      );
    }
    this.#node = node;
  }

  /** See {@linkcode Backplane.publish}. */
  publish(app: string, channel: string, message: Message): void {
    if (message.cacheMs !== undefined) this.#keep(app, channel, message);
    const state = this.#apps.get(app)?.get(channel);
    if (state === undefined) return;
    const offset = ++state.offset;
    if (message.logged) this.#log(state, { message, offset });
    this.#node?.deliver(app, channel, message, offset);
  }

  #keep(app: string, channel: string, message: Message): void {
    const key = cacheKey(app, channel);
    const now = Date.now();
    this.#cache.delete(key);
    this.#cache.set(key, { message, until: now + (message.cacheMs ?? 0) });
    for (const [oldest, { until }] of this.#cache) {
      if (until > now && this.#cache.size <= this.#maxCached) break;
      this.#cache.delete(oldest);
    }
  }

  /** See {@linkcode Backplane.join}. */
  join(
    app: string,
    channel: string,
    { member, first, log }: JoinOptions = {},
  ): JoinResult | null {
    const channels = this.#apps.get(app) ?? new Map<string, ChannelState>();
    const state = channels.get(channel) ??
      new ChannelState(app, channel, this.#firstOffset);
    const added = member === undefined ? false : state.addMember(member);
    if (added === null) return null;
    state.subscriptions++;
    this.#apps.set(app, channels.set(channel, state));
    if (added && member !== undefined) this.publish(app, channel, member.added);
    const { subscriptions, members } = state;
    if (first !== undefined && subscriptions === 1) {
      this.publish(app, first.channel, first.message);
    }
    return {
      subscriptions,
      memberAdded: added,
      members,
      cached: this.cached(app, channel)?.message,
      offset: state.offset,
      replay: log && this.#replay(state, log),
    };
  }

  /** See {@linkcode Backplane.leave}. */
  leave(
    app: string,
    channel: string,
    { member, last, log }: LeaveOptions = {},
  ): LeaveResult {
    const state = this.#apps.get(app)?.get(channel);
    if (state === undefined || state.subscriptions === 0) {
      return { subscriptions: 0, memberRemoved: false };
    }
    const removed = member !== undefined && state.removeMember(member.userId);
    const subscriptions = --state.subscriptions;
    if (log) state.lostRecovering(Date.now());
    if (state.isForgettable) this.#forget(state);
    if (removed) this.publish(app, channel, member.removed);
    if (last !== undefined && subscriptions === 0) {
      this.publish(app, last.channel, last.message);
    }
    return { subscriptions, memberRemoved: removed };
  }

  #forget({ app, channel, offset }: ChannelState): void {
    const channels = this.#apps.get(app);
    channels?.delete(channel);
    if (channels?.size === 0) this.#apps.delete(app);
    // A later channel of the same name begins where no position has been.
    this.#firstOffset = Math.max(this.#firstOffset, offset + 1);
  }

  /** Keeps a message, where somebody may come back for it. */
  #log(state: ChannelState, logged: LoggedMessage): void {
    const history = this.#node?.history;
    if (!history) return;
    const now = Date.now();
    const log = state.isWorthLogging(now, history)
      ? this.#use(state, now)
      : this.#dropLog(state);
    state.loggable = logged.offset;
    if (log === null) return;
    this.#logBytes += log.add(logged, now) - log.trim(now, history);
    this.#makeRoom(state, log, now, history);
  }

  /** The log of a channel, made where there is none, as the one used last. */
  #use(state: ChannelState, now: number): ChannelLog {
    if (state.log === null) {
      state.log = new ChannelLog(state.channel, state.loggable);
      this.#logBytes += state.log.bytes;
    }
    state.log.usedAt = now;
    this.#logged.delete(state);
    this.#logged.add(state);
    return state.log;
  }

  /** Brings the logs back into their bounds; `current` loses last. */
  #makeRoom(
    current: ChannelState,
    log: ChannelLog,
    now: number,
    { bytes, ageMs }: History,
  ): void {
    for (const state of this.#logged) {
      const isOver = this.#logBytes > bytes;
      const isOld = now - (state.log?.usedAt ?? 0) > ageMs;
      if (state === current || !(isOver || isOld)) break;
      this.#dropLog(state);
    }
    while (this.#logBytes > bytes && !log.isEmpty) {
      this.#logBytes -= log.dropFirst();
    }
    if (this.#logBytes > bytes) this.#dropLog(current);
  }

  #dropLog(state: ChannelState): null {
    this.#logBytes -= state.log?.bytes ?? 0;
    this.#logged.delete(state);
    state.log = null;
    if (state.isForgettable) this.#forget(state);
    return null;
  }

  /** Has a channel logged from now on, and finds what was missed. */
  #replay(state: ChannelState, request: LogRequest): Replay | undefined {
    const history = this.#node?.history;
    if (!history) return undefined;
    const now = Date.now();
    state.recovering++;
    const { since, rewind } = request;
    const log = this.#use(state, now);
    this.#logBytes -= log.trim(now, history);
    const recovered = since?.epoch === this.#epoch &&
      since.offset >= log.from && since.offset <= state.offset;
    const messages = recovered ? log.after(since.offset) : log.last(rewind);
    const offset = messages[0] ? messages[0].offset - 1 : state.offset;
    const position = recovered ? since : { epoch: this.#epoch, offset };
    this.#makeRoom(state, log, now, history);
    return { recovered, position, messages };
  }

  /** See {@linkcode Backplane.members}. */
  members(app: string, channel: string): ReadonlyMap<string, string> {
    return this.#apps.get(app)?.get(channel)?.members ?? NO_MEMBERS;
  }

  /** See {@linkcode Backplane.cached}. */
  cached(app: string, channel: string): CachedMessage | null {
    const kept = this.#cache.get(cacheKey(app, channel));
    const ttlMs = (kept?.until ?? 0) - Date.now();
    return kept === undefined || ttlMs <= 0
      ? null
      : { message: kept.message, ttlMs };
  }

  /** See {@linkcode Backplane.occupancy}. */
  occupancy(app: string, channel: string): Occupancy {
    return this.#apps.get(app)?.get(channel)?.occupancy ?? NOBODY;
  }

  /** See {@linkcode Backplane.occupied}. */
  occupied(app: string, prefix: string): ReadonlyMap<string, Occupancy> {
    const occupied = new Map<string, Occupancy>();
    for (const [name, state] of this.#apps.get(app) ?? []) {
      const isOccupied = state.subscriptions > 0;
      if (isOccupied && name.startsWith(prefix)) {
        occupied.set(name, state.occupancy);
      }
    }
    return occupied;
  }

  /** See {@linkcode Backplane.close}. */
  close(): void {
    this.#apps.clear();
    this.#cache.clear();
    this.#logged.clear();
  }
}

/** One text for app and channel: no channel's name has a line break. */
function cacheKey(app: string, channel: string): string {
  return `${app}\n${channel}`;
}

const NOBODY: Occupancy = Object.freeze({ subscriptions: 0, users: 0 });

export const NO_MEMBERS: ReadonlyMap<string, string> = new Map();

/** The last events of one channel of {@linkcode MemoryBackplane}. */
class ChannelLog {
  /** Everything later than this is here. */
  from: number;
  /** What it takes up, about. */
  bytes: number;
  /** When something was added to it or read of it, in milliseconds. */
  usedAt = 0;
  readonly #entries: LogEntry[] = [];

  constructor(channel: string, from: number) {
    this.from = from;
    this.bytes = LOG_BYTES + channel.length;
  }

  get isEmpty(): boolean {
    return this.#entries.length === 0;
  }

  /** Adds a message; returns the bytes that it takes. */
  add({ message, offset }: LoggedMessage, at: number): number {
    const { event, data = "", userId = "" } = message;
    const bytes = ENTRY_BYTES + event.length + userId.length +
      Buffer.byteLength(data);
    this.#entries.push({ message, offset, at, bytes });
    this.bytes += bytes;
    return bytes;
  }

  /** Drops the first one; returns the bytes that it took. */
  dropFirst(): number {
    const entry = this.#entries.shift();
    if (entry === undefined) return 0;
    this.from = entry.offset;
    this.bytes -= entry.bytes;
    return entry.bytes;
  }

  /** Drops what is too much or too old; returns the bytes that it took. */
  trim(now: number, { events, ageMs }: History): number {
    let bytes = 0;
    for (let first; (first = this.#entries[0]) !== undefined;) {
      const isTooMuch = this.#entries.length > events;
      if (!isTooMuch && now - first.at <= ageMs) break;
      bytes += this.dropFirst();
    }
    return bytes;
  }

  /** What is later than an offset. */
  after(offset: number): readonly LoggedMessage[] {
    const known = this.#entries.findLastIndex((entry) =>
      entry.offset <= offset
    );
    return this.#entries.slice(known + 1);
  }

  /** The last ones. */
  last(count: number): readonly LoggedMessage[] {
    return count === 0 ? [] : this.#entries.slice(-count);
  }
}

interface LogEntry extends LoggedMessage {
  /** When it came, in milliseconds. */
  readonly at: number;
  readonly bytes: number;
}

// What an empty log and a message take up besides their texts, about.
const LOG_BYTES = 512;

const ENTRY_BYTES = 256;

/** Who is on one channel of {@linkcode MemoryBackplane}, and what was there. */
class ChannelState {
  readonly app: string;
  readonly channel: string;
  subscriptions = 0;
  /** How many of them can recover. */
  recovering = 0;
  /** Grows with every message. */
  offset: number;
  /** Offset of the last message that a log would keep. */
  loggable: number;
  /** What was there, for those that can recover. */
  log: ChannelLog | null = null;
  /** When the last of those left, in milliseconds; never, if none did. */
  #recoveringLeftAt = -Infinity;
  /** User id to `user_info` as JSON text, once there was a member. */
  #members: Map<string, string> | null = null;
  /** User id to the number of the user's connections. */
  #connections: Map<string, number> | null = null;
  /** A copy that was handed out and still holds. */
  #snapshot: ReadonlyMap<string, string> | null = null;

  constructor(app: string, channel: string, offset: number) {
    this.app = app;
    this.channel = channel;
    this.offset = this.loggable = offset;
  }

  /** Whether there is nothing to be remembered. */
  get isForgettable(): boolean {
    return this.subscriptions === 0 && this.log === null;
  }

  /** Whether somebody is there, or may come back, to whom a log is of use. */
  isWorthLogging(now: number, { ageMs }: History): boolean {
    return this.recovering > 0 || now - this.#recoveringLeftAt <= ageMs;
  }

  /** One of those that can recover has left. */
  lostRecovering(now: number): void {
    this.recovering--;
    this.#recoveringLeftAt = now;
  }

  get members(): ReadonlyMap<string, string> {
    if (this.#members === null) return NO_MEMBERS;
    return this.#snapshot ??= new Map(this.#members);
  }

  get occupancy(): Occupancy {
    const users = this.#members?.size ?? 0;
    return { subscriptions: this.subscriptions, users };
  }

  /** Whether the user is new; null if there is no room for one. */
  addMember({ userId, userInfo, maxMembers }: JoiningMember): boolean | null {
    this.#members ??= new Map();
    this.#connections ??= new Map();
    const count = this.#connections.get(userId) ?? 0;
    if (count === 0 && this.#members.size >= maxMembers) return null;
    // The info of a user's first connection stays until the user is gone.
    if (count === 0) {
      this.#members.set(userId, userInfo);
      this.#snapshot = null;
    }
    this.#connections.set(userId, count + 1);
    return count === 0;
  }

  /** Whether the user is gone with this connection. */
  removeMember(userId: string): boolean {
    const count = this.#connections?.get(userId) ?? 0;
    if (count > 1) {
      this.#connections?.set(userId, count - 1);
      return false;
    }
    this.#connections?.delete(userId);
    this.#snapshot = null;
    return this.#members?.delete(userId) ?? false;
  }
}
