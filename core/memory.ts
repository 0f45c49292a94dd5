/**
 * What several servers of one process share: channels and who is on them, last events.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type {
  BackplaneNode,
  CachedMessage,
  Message,
  Occupancy,
  Position,
} from "./backplane.ts";
import { checkSaid, type Listeners } from "./intercom.ts";
import { MemberList } from "./members.ts";
import {
  type ChannelLog,
  type LogOwner,
  MemoryHistory,
  MemorySessions,
} from "./memory_history.ts";
import { DEFAULT_HISTORY } from "./options.ts";
import { type Clock, SYSTEM_CLOCK } from "./time.ts";

export const NO_MEMBERS: ReadonlyMap<string, string> = new Map();

/** What several backplanes of one process share. */
export class Memory {
  /** By app and name: channels that have subscribers or a history. */
  readonly channels = new Map<string, Map<string, ChannelState>>();
  /** Positions of another process, or from before a clear, are in another epoch. */
  epoch: string = crypto.randomUUID();
  clock: Clock = SYSTEM_CLOCK;
  history: MemoryHistory<ChannelState> | null = null;
  sessions = new MemorySessions(DEFAULT_HISTORY, SYSTEM_CLOCK);
  readonly #servers = new Set<BackplaneNode>();
  readonly #maxCached: number;
  readonly #maxCachedBytes: number;
  /** What the last events take, about. */
  #cachedBytes = 0;
  /** Last events by app and channel, the oldest first. */
  readonly #cache = new Map<string, Cached>();
  /** Above the offsets of all channels that were forgotten. */
  #firstOffset = 0;
  /** What servers listen for, and where a listener's failure is reported. */
  readonly #listening = new Map<BackplaneNode, Listeners>();
  readonly #unsaid: (() => void)[] = [];
  readonly #undelivered: Parameters<BackplaneNode["deliver"]>[] = [];
  #isDelivering = false;

  constructor(maxCached: number, maxCachedBytes = Infinity) {
    this.#maxCached = maxCached;
    this.#maxCachedBytes = maxCachedBytes;
  }

  addServer(node: BackplaneNode, listeners: Listeners): void {
    // The bounds and the clock are those of the first server.
    if (this.#servers.size === 0) {
      const { clock, history } = node;
      this.clock = clock;
      this.history = history &&
        new MemoryHistory(
          history,
          clock,
          this.epoch,
          (state) => this.forgetIfEmpty(state),
          () => this.sessions.bytes,
        );
      this.sessions = new MemorySessions(history ?? DEFAULT_HISTORY, clock);
    }
    this.#servers.add(node);
    this.#listening.set(node, listeners);
  }

  /** Removes a server; returns whether it was there. */
  removeServer(node: BackplaneNode): boolean {
    this.#listening.delete(node);
    return this.#servers.delete(node);
  }

  anyServer(): BackplaneNode | undefined {
    return this.#servers.values().next().value;
  }

  /** See {@linkcode Intercom.say}. */
  say(label: string, text: string): number {
    checkSaid(text);
    const all = [...this.#listening].filter(([, one]) => one.has(label));
    // A listener that says something must not have that come to the next one first.
    const isSaying = this.#unsaid.length > 0;
    this.#unsaid.push(() => {
      for (const [node, listeners] of all) {
        listeners.hear(label, text, (error) => {
          node.failed(error, "listening to other servers");
        });
      }
    });
    while (!isSaying && this.#unsaid.length > 0) {
      this.#unsaid[0]?.();
      this.#unsaid.shift();
    }
    return all.length;
  }

  get(app: string, channel: string): ChannelState | undefined {
    return this.channels.get(app)?.get(channel);
  }

  make(app: string, channel: string): ChannelState {
    const channels = this.channels.get(app) ?? new Map();
    this.channels.set(app, channels);
    const state = new ChannelState(app, channel, this.#firstOffset);
    channels.set(channel, state);
    return state;
  }

  /** Forgets a channel without subscribers and without a history. */
  forgetIfEmpty({ app, channel, subscriptions, log, offset }: ChannelState) {
    if (subscriptions > 0 || log !== null) return;
    const channels = this.channels.get(app);
    channels?.delete(channel);
    if (channels?.size === 0) this.channels.delete(app);
    // A later channel of the same name begins where no position has been.
    this.#firstOffset = Math.max(this.#firstOffset, offset + 1);
  }

  publish(app: string, channel: string, message: Message): void {
    const state = this.get(app, channel);
    if (state === undefined) return this.#cacheIfAsked(app, channel, message);
    state.offset++;
    const position = { epoch: this.epoch, offset: state.offset };
    this.#cacheIfAsked(app, channel, message, position);
    if (message.logged) this.history?.add(state, message);
    this.#deliver(app, channel, message, position);
  }

  /** Delivers to all servers, one message after the other. */
  #deliver(...message: Parameters<BackplaneNode["deliver"]>): void {
    // A server that publishes while it is delivered to must not have that come
    // to the next server before the message at hand.
    if (this.#isDelivering) {
      this.#undelivered.push(message);
      return;
    }
    this.#isDelivering = true;
    try {
      for (const server of this.#servers) server.deliver(...message);
      for (let next; (next = this.#undelivered.shift()) !== undefined;) {
        for (const server of this.#servers) server.deliver(...next);
      }
    } finally {
      this.#isDelivering = false;
    }
  }

  #cacheIfAsked(
    app: string,
    channel: string,
    message: Message,
    position?: Position,
  ): void {
    if (message.cacheMs === undefined) return;
    const key = `${app}\n${channel}`;
    const now = this.clock.elapsed();
    this.#uncache(key);
    const bytes = CACHED_BYTES + key.length + message.event.length +
      Buffer.byteLength(message.data ?? "");
    const until = now + message.cacheMs;
    this.#cache.set(key, { message, position, until, bytes });
    this.#cachedBytes += bytes;
    for (const [oldest, { until }] of this.#cache) {
      const isTooMuch = this.#cache.size > this.#maxCached ||
        this.#cachedBytes > this.#maxCachedBytes;
      if (until > now && !isTooMuch) break;
      this.#uncache(oldest);
    }
  }

  #uncache(key: string): void {
    this.#cachedBytes -= this.#cache.get(key)?.bytes ?? 0;
    this.#cache.delete(key);
  }

  cached(app: string, channel: string): CachedMessage | null {
    if (this.#cache.size === 0) return null;
    const kept = this.#cache.get(`${app}\n${channel}`);
    if (kept === undefined) return null;
    const { message, position, until } = kept;
    const ttlMs = until - this.clock.elapsed();
    return ttlMs > 0 ? { message, ttlMs, position } : null;
  }

  /** Forgets everything; the next server begins with its own bounds and clock. */
  clear(): void {
    this.epoch = crypto.randomUUID();
    this.channels.clear();
    this.#cache.clear();
    this.#cachedBytes = 0;
    this.history = null;
    this.sessions = new MemorySessions(DEFAULT_HISTORY, this.clock);
  }
}

// What a last event takes besides its texts, about.
const CACHED_BYTES = 256;

interface Cached {
  readonly message: Message;
  readonly position: Position | undefined;
  /** When it expires, see {@linkcode Clock.elapsed}. */
  readonly until: number;
  /** What it takes, about. */
  readonly bytes: number;
}

/** Who is on one channel, of all servers. */
export class ChannelState implements LogOwner {
  readonly app: string;
  readonly channel: string;
  subscriptions = 0;
  offset: number;
  loggable: number;
  recovering = 0;
  recoveringLeftAt = -Infinity;
  log: ChannelLog | null = null;
  /** User id to `user_info` as JSON text, once there was a member. */
  #members: Map<string, string> | null = null;
  /** User id to the number of the user's connections. */
  #connections: Map<string, number> | null = null;
  /** What was handed out of the members last; null once somebody has left. */
  #list: MemberList | null = null;

  constructor(app: string, channel: string, offset: number) {
    this.app = app;
    this.channel = channel;
    this.offset = this.loggable = offset;
  }

  get users(): number {
    return this.#members?.size ?? 0;
  }

  get occupancy(): Occupancy {
    return { subscriptions: this.subscriptions, users: this.users };
  }

  hasUser(userId: string): boolean {
    return this.#connections?.has(userId) ?? false;
  }

  /** The members, in a map that no longer changes. */
  snapshot(): ReadonlyMap<string, string> {
    if (this.#members === null) return NO_MEMBERS;
    return this.#list ??= MemberList.of(this.#members);
  }

  /** Adds to the connections; a negative number takes away. */
  add(userId: string | undefined, connections: number): void {
    this.subscriptions += connections;
    if (userId === undefined) return;
    this.#connections ??= new Map();
    const count = (this.#connections.get(userId) ?? 0) + connections;
    if (count > 0) this.#connections.set(userId, count);
    else this.#connections.delete(userId);
  }

  /** The info of a user's first connection stays until the user is gone. */
  addMember(userId: string, userInfo: string): void {
    this.#members ??= new Map();
    this.#members.set(userId, userInfo);
    this.#list = this.#list?.with(userId, userInfo) ?? null;
  }

  removeMember(userId: string): void {
    this.#members?.delete(userId);
    this.#list = null;
  }

  addRecovering(connections: number, now: number): void {
    this.recovering += connections;
    if (connections < 0) this.recoveringLeftAt = now;
  }
}
