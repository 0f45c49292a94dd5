/**
 * The backplane of one process: who is on which channel, last events and history, all
 * in memory.
 *
 * @module
 */

import type {
  Backplane,
  BackplaneNode,
  BackplaneUsage,
  CachedMessage,
  Holding,
  JoinOptions,
  JoinResult,
  LeaveOptions,
  Message,
  Occupancy,
  Page,
  PageRequest,
  SessionStore,
} from "./backplane.ts";
import { type Intercom, Listeners } from "./intercom.ts";
import { type ChannelState, Memory, NO_MEMBERS } from "./memory.ts";

/**
 * The backplane of one process: everything in memory, every answer at once.
 *
 * Several servers of one process can share what it keeps, see
 * {@linkcode MemoryBackplane.peer}.
 *
 * @example
 * ```ts
 * import { MemoryBackplane, Pusher } from "@glitz/pusher";
 *
 * const pusher = new Pusher({ backplane: new MemoryBackplane() });
 * ```
 */
export class MemoryBackplane implements Backplane {
  /** See {@linkcode Backplane.sessions}. */
  readonly sessions: SessionStore;
  /** See {@linkcode Backplane.intercom}. */
  readonly intercom: Intercom;
  readonly #listeners = new Listeners();
  #node: BackplaneNode | null = null;
  #memory: Memory;
  /** What this server holds. */
  readonly #held = new Map<ChannelState, Held>();

  /**
   * Makes an empty backplane.
   *
   * @param options `maxCached`: how many cache channels keep their last event;
   * above it the channel whose event is oldest forgets it. 10,000 by default.
   * `maxCachedBytes`: the same for the bytes of these events, 67,108,864 by default.
   */
  constructor(options: { maxCached?: number; maxCachedBytes?: number } = {}) {
    const { maxCached = 10_000, maxCachedBytes = 67_108_864 } = options;
    this.#memory = new Memory(maxCached, maxCachedBytes);
    this.intercom = {
      listen: (label, hear) => this.#listeners.add(label, hear),
      say: (label, text) => this.#memory.say(label, text),
    };
    this.sessions = {
      take: (app, id) => this.#memory.sessions.take(this.#own, app, id),
      keep: (app, id, state, isAway) =>
        this.#memory.sessions.keep(this.#own, app, id, state, isAway),
      forget: (app, id) => this.#memory.sessions.forget(this.#own, app, id),
    };
  }

  /**
   * Makes a backplane for another server on the same memory, so that several servers
   * can run in one process, as tests of a cluster need. When a server closes its
   * backplane, what it held is released, and another server hears of the changes.
   */
  peer(): MemoryBackplane {
    const peer = new MemoryBackplane();
    peer.#memory = this.#memory;
    return peer;
  }

  /** See {@linkcode Backplane.start}. */
  start(node: BackplaneNode): void {
    if (this.#node !== null) {
      throw new TypeError(
        "Cannot start: the backplane serves a Pusher already; for a second " +
          "server use its peer()",
      );
    }
    this.#node = node;
    this.#memory.addServer(node, this.#listeners);
  }

  get #own(): BackplaneNode {
    if (this.#node === null) {
      throw new TypeError("Cannot use the backplane: it has not been started");
    }
    return this.#node;
  }

  /** See {@linkcode Backplane.publish}. */
  publish(app: string, channel: string, message: Message): void {
    this.#memory.publish(app, channel, message);
  }

  /** See {@linkcode Backplane.join}. */
  join(
    app: string,
    channel: string,
    options: JoinOptions,
  ): JoinResult | null {
    const memory = this.#memory;
    const { member, first, history } = options;
    const state = memory.get(app, channel) ?? memory.make(app, channel);
    const isNew = member !== undefined && !state.hasUser(member.userId);
    if (isNew && state.users >= member.maxMembers) {
      memory.forgetIfEmpty(state);
      return null;
    }
    const wasEmpty = state.subscriptions === 0;
    const hasChanged = this.#hold(state, member?.userId, options);
    if (isNew) state.addMember(member.userId, member.userInfo);
    if (isNew) memory.publish(app, channel, member.added);
    if (wasEmpty && first) memory.publish(app, first.channel, first.message);
    const { epoch } = memory;
    const replay = history && memory.history?.begin(state, history);
    const result = {
      members: state.snapshot(),
      cached: memory.cached(app, channel) ?? undefined,
      position: { epoch, offset: state.offset },
      replay: replay && {
        recovered: replay.recovered,
        from: { epoch, offset: replay.offset },
      },
    };
    if (hasChanged) {
      this.#own.changed(app, channel, {
        subscriptions: state.subscriptions,
        occupancy: wasEmpty ? "occupied" : undefined,
        memberAdded: isNew ? member.userId : undefined,
      });
    }
    return result;
  }

  /** See {@linkcode Backplane.leave}. */
  leave(app: string, channel: string, options: LeaveOptions): void {
    this.#leave(app, channel, options, this.#own);
  }

  /** Leaves, and tells this server, or another one if this one is gone. */
  #leave(
    app: string,
    channel: string,
    options: LeaveOptions,
    told: BackplaneNode,
  ): void {
    const memory = this.#memory;
    const state = memory.get(app, channel);
    if (state === undefined) return;
    const { userId } = options;
    const held = this.#held.get(state);
    // It may follow a join that was not carried out.
    const fewer = {
      connections: Math.min(options.connections, held?.of(userId) ?? 0),
      recovering: Math.min(options.recovering, held?.recovering ?? 0),
    };
    if (!this.#hold(state, userId, fewer)) return;
    const isGone = userId !== undefined && !state.hasUser(userId);
    const isEmpty = state.subscriptions === 0;
    if (isGone) state.removeMember(userId);
    if (isGone || isEmpty) {
      const { removed, last } = told.departure(channel, userId);
      if (isGone && removed) memory.publish(app, channel, removed);
      if (isEmpty && last) memory.publish(app, last.channel, last.message);
    }
    memory.forgetIfEmpty(state);
    told.changed(app, channel, {
      subscriptions: state.subscriptions,
      occupancy: isEmpty ? "vacated" : undefined,
      memberRemoved: isGone ? userId : undefined,
    });
  }

  /** Sets what this server holds; returns whether that changes anything. */
  #hold(
    state: ChannelState,
    userId: string | undefined,
    { connections, recovering }: Holding,
  ): boolean {
    const held = this.#held.get(state) ?? new Held();
    const more = connections - held.of(userId);
    const moreRecovering = recovering - held.recovering;
    held.set(userId, connections);
    held.recovering = recovering;
    if (held.isNothing) this.#held.delete(state);
    else this.#held.set(state, held);
    state.add(userId, more);
    if (moreRecovering !== 0) {
      state.addRecovering(moreRecovering, this.#memory.clock.elapsed());
    }
    return more !== 0;
  }

  /** See {@linkcode Backplane.read}. */
  read(app: string, channel: string, request: PageRequest): Page | null {
    const state = this.#memory.get(app, channel);
    return state && this.#memory.history?.read(state, request) || null;
  }

  /** See {@linkcode Backplane.members}. */
  members(app: string, channel: string): ReadonlyMap<string, string> {
    return this.#memory.get(app, channel)?.snapshot() ?? NO_MEMBERS;
  }

  /** See {@linkcode Backplane.cached}. */
  cached(app: string, channel: string): CachedMessage | null {
    return this.#memory.cached(app, channel);
  }

  /** See {@linkcode Backplane.occupancy}. */
  occupancy(app: string, channel: string): Occupancy {
    return this.#memory.get(app, channel)?.occupancy ?? NOBODY;
  }

  /** See {@linkcode Backplane.occupied}. */
  occupied(app: string, prefix: string): ReadonlyMap<string, Occupancy> {
    const occupied = new Map<string, Occupancy>();
    for (const [name, state] of this.#memory.channels.get(app) ?? []) {
      if (state.subscriptions > 0 && name.startsWith(prefix)) {
        occupied.set(name, state.occupancy);
      }
    }
    return occupied;
  }

  /** See {@linkcode Backplane.usage}. */
  usage(): BackplaneUsage {
    return {
      historyBytes: this.#memory.history?.bytes ?? 0,
      historyEvents: this.#memory.history?.events ?? 0,
      sessionsAway: this.#memory.sessions.away,
    };
  }

  /** See {@linkcode Backplane.close}. */
  close(): void {
    const node = this.#node;
    if (node === null || !this.#memory.removeServer(node)) return;
    const survivor = this.#memory.anyServer();
    if (survivor === undefined) return this.#memory.clear();
    for (const [{ app, channel }, held] of [...this.#held]) {
      for (const userId of held.users) {
        const nothing = { connections: 0, recovering: 0, userId };
        this.#leave(app, channel, nothing, survivor);
      }
    }
    this.#memory.sessions.releaseAll(node);
  }
}

const NOBODY: Occupancy = Object.freeze({ subscriptions: 0, users: 0 });

/** What one server holds on one channel. */
class Held {
  /** How many of its connections can recover. */
  recovering = 0;
  /** Connections of no user. */
  #others = 0;
  /** Connections by user, on a presence channel. */
  #byUser: Map<string, number> | null = null;

  /** How many connections of a user there are, or of no user. */
  of(userId: string | undefined): number {
    if (userId === undefined) return this.#others;
    return this.#byUser?.get(userId) ?? 0;
  }

  set(userId: string | undefined, connections: number): void {
    if (userId === undefined) {
      this.#others = connections;
      return;
    }
    this.#byUser ??= new Map();
    if (connections > 0) this.#byUser.set(userId, connections);
    else this.#byUser.delete(userId);
  }

  get isNothing(): boolean {
    return this.recovering === 0 && this.#others === 0 &&
      (this.#byUser?.size ?? 0) === 0;
  }

  /** All users with connections; undefined for connections of no user. */
  get users(): (string | undefined)[] {
    const users: (string | undefined)[] = [...this.#byUser?.keys() ?? []];
    if (this.#others > 0) users.push(undefined);
    return users;
  }
}
