/**
 * How a client that comes back loses no messages. Our own client names the position
 * up to which it has got them. A stock client cannot, so its session remembers what
 * the client has acknowledged. A session holds positions, and no messages.
 *
 * @module
 */

import type {
  History,
  HistoryRequest,
  Position,
  ReplayStart,
  SessionState,
  SessionStore,
} from "./backplane.ts";
import { MAX_FORMER_IDS } from "./extensions.ts";
import { isObject } from "./protocol.ts";
import {
  afterThisTurn,
  attempt,
  type Awaitable,
  chain,
  type Clock,
  Later,
} from "./time.ts";
import { isUnavailable } from "./unavailable.ts";
import { Unkept } from "./unkept.ts";

// ---- Requests ---------------------------------------------------------------

/**
 * Reads what our own client wants of a channel's history.
 *
 * @param rewindEvents See {@linkcode Limits.rewindEvents}.
 */
export function readHistoryRequest(
  { recover, rewind }: Record<string, unknown>,
  rewindEvents = Infinity,
): HistoryRequest {
  const isCount = Number.isSafeInteger(rewind) && Number(rewind) > 0;
  const count = isCount ? Math.min(Number(rewind), rewindEvents) : 0;
  return { since: readPosition(recover), rewind: count };
}

/** Reads a position that a client names; {@linkcode NOWHERE} if it is malformed. */
function readPosition(value: unknown): Position | undefined {
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) return NOWHERE;
  const { epoch, offset } = value;
  const fits = typeof epoch === "string" && Number.isSafeInteger(offset);
  return fits ? { epoch, offset: Number(offset) } : NOWHERE;
}

/** A position that no history reaches back to. */
const NOWHERE: Position = Object.freeze({ epoch: "", offset: 0 });

/** The request of a client that is new to a channel. */
export const NO_HISTORY: HistoryRequest = Object.freeze({ rewind: 0 });

/** Whether a client that was there before has lost messages. */
export function hasGap(
  replay: ReplayStart | undefined,
  request: HistoryRequest | undefined,
): boolean {
  return request?.since !== undefined && !replay?.recovered;
}

// ---- Sessions ---------------------------------------------------------------

/** A connection that can go on with a session. */
export interface Resumable {
  readonly socketId: string;
  /** Sends a ping, whose answer says what the client has got. */
  ping(): void;
  /** Forgets the session: another connection has it now. */
  dropSession(): void;
}

/**
 * What a stock client has got, over all of its connections.
 *
 * A session learns it from pings: frames arrive in order, so a client that answers
 * a ping has got everything that was sent before it.
 */
export class Session {
  readonly appId: string;
  readonly id: string;
  /** Connections that came with its id, and when; one of them may go on with it. */
  readonly holders = new Map<Resumable, number>();
  /** The connection that goes on with it: the last one that subscribed. */
  connection: Resumable | null = null;
  readonly #sessions: Sessions;
  /** Socket ids that the client has had, the latest first. */
  #formerIds: readonly string[] = [];
  /** Whether this server owns it, and so knows what was kept. */
  #isOwned = false;
  /** Settles when the store has answered. */
  #owning: Promise<void> | null = null;
  /** By channel, the last position that the client is known to have got. */
  #acknowledged = new Map<string, Position>();
  /** By channel, the last offset that was sent after the last ping. */
  #sent = new Map<string, number>();
  /** For each ping without an answer, what had been sent before it. */
  #pings: Map<string, number>[] = [];
  /** When it was last pinged, see {@linkcode Clock.elapsed}. */
  #pingedAt = 0;
  /** Whether no answer has come since. */
  #isWaiting = false;
  /** When its client was last back. */
  #attachedAt = 0;
  /** Until then every resubscription fails recovery; 0 for never. */
  #lostUntil = 0;

  constructor(
    sessions: Sessions,
    appId: string,
    id: string,
    formerIds: readonly string[] = [],
  ) {
    this.#sessions = sessions;
    this.appId = appId;
    this.id = id;
    this.#formerIds = formerIds;
  }

  /** Takes a connection that has come with its id. */
  hold(connection: Resumable): void {
    this.holders.set(connection, this.#now);
    if (this.holders.size <= MAX_HOLDERS) return;
    for (const oldest of this.holders.keys()) {
      if (oldest === this.connection) continue;
      oldest.dropSession();
      return this.release(oldest);
    }
  }

  /**
   * Goes on with a connection. It claims the session when it subscribes to a
   * channel, as a client may connect in several ways at once and then use only one.
   */
  claim(connection: Resumable): Awaitable<void> {
    if (connection === this.connection) return;
    const heldAt = this.holders.get(connection) ?? this.#now;
    return chain(this.#own(heldAt), () => {
      // The connection may be gone by now, or another server may have the session.
      if (this.holders.has(connection)) this.#attach(connection);
      else if (this.holders.size === 0) this.#sessions.abandon(this);
    });
  }

  /** Whether this server owns it, or has asked the store for it. */
  get isTaken(): boolean {
    return this.#isOwned || this.#owning !== null;
  }

  /** @param heldAt When the connection came that goes on with it. */
  #own(heldAt: number): Awaitable<void> {
    if (this.#isOwned) return;
    if (this.#owning !== null) return this.#owning;
    const { store } = this.#sessions;
    const ageMs = this.#now - heldAt;
    const taken = attempt(() => store.take(this.appId, this.id, ageMs));
    const owned = chain(taken, (kept) => this.#restore(kept));
    if (!(owned instanceof Promise)) return;
    const settle = () => {
      this.#owning = null;
    };
    owned.then(settle, settle);
    return this.#owning = owned;
  }

  #restore(kept: SessionState | "forgotten" | null): void {
    this.#isOwned = true;
    if (kept === null) return;
    if (kept === "forgotten" || kept.hasLost) {
      this.#lostUntil = this.#now + RETURN_MS;
    }
    if (kept === "forgotten") return;
    this.#formerIds = [...this.#formerIds, ...kept.formerIds]
      .slice(0, MAX_FORMER_IDS);
    this.#acknowledged = new Map(kept.positions);
  }

  #attach(connection: Resumable): void {
    if (this.connection !== null) {
      this.connection.dropSession();
      this.release(this.connection);
    }
    this.connection = connection;
    this.#attachedAt = this.#now;
    this.#sent.clear();
    this.#pings = [];
    this.#isWaiting = false;
  }

  /** Removes a connection that is gone, or that has lost the session. */
  release(connection: Resumable): void {
    this.holders.delete(connection);
    if (this.connection === connection) this.connection = null;
    this.#formerIds = [connection.socketId, ...this.#formerIds]
      .slice(0, MAX_FORMER_IDS);
  }

  /** Lets go of all connections: another server owns the session now. */
  lose(): void {
    this.#isOwned = false;
    this.connection = null;
    for (const holder of this.holders.keys()) holder.dropSession();
    this.holders.clear();
  }

  /** Socket ids that the client has, and has had. */
  get ids(): readonly string[] {
    const own = Array.from(this.holders.keys(), ({ socketId }) => socketId);
    return [...own, ...this.#formerIds];
  }

  /** Asks for what the client has missed of a channel, if it was there before. */
  request(channel: string): HistoryRequest {
    const since = this.#acknowledged.get(channel);
    // A channel not resubscribed within `ageMs` counts as new.
    const { ageMs } = this.#sessions.history;
    const isClaimed = this.#now - this.#attachedAt <= ageMs;
    if (since !== undefined && isClaimed) return { since, rewind: 0 };
    return this.#now < this.#lostUntil
      ? { since: NOWHERE, rewind: 0 }
      : NO_HISTORY;
  }

  /**
   * Begins a subscription: the client gets all messages of a channel that are later
   * than a position.
   *
   * @param isFailed Whether it was there before, and has lost messages.
   */
  begin(channel: string, position: Position, isFailed: boolean): void {
    // Answers to earlier pings say nothing about what comes from here.
    this.#forget(channel);
    // After a loss no history reaches back that far, so that the client hears of the
    // loss again, until it has acknowledged this.
    const offset = isFailed ? -1 : position.offset;
    this.#acknowledged.set(channel, { epoch: position.epoch, offset });
    if (isFailed) this.sent(channel, position.offset);
    // The first channels are those that the client has not come back to.
    for (const [oldest] of this.#acknowledged) {
      if (this.#acknowledged.size <= this.#sessions.maxChannels) break;
      this.#acknowledged.delete(oldest);
    }
    this.#sessions.keepSoon(this);
  }

  /** Ends a subscription, so that nothing of the channel is remembered. */
  end(channel: string): void {
    this.#forget(channel);
    this.#sessions.keepSoon(this);
  }

  #forget(channel: string): void {
    for (const map of [this.#acknowledged, this.#sent, ...this.#pings]) {
      map.delete(channel);
    }
  }

  /** Notes that a message has been sent that needs an acknowledgement. */
  sent(channel: string, offset: number): void {
    this.#sent.set(channel, offset);
    this.#sessions.pingSoon(this);
  }

  /** Notes a ping; false if the last one, or too many, have not been answered yet. */
  startPing(): boolean {
    if (this.#pings.length >= MAX_PINGS) return false;
    // Over HTTP an answer can be lost. From then on each answer is taken for that of
    // the ping before, so that nothing is acknowledged too early.
    const now = this.#now;
    if (this.#isWaiting && now - this.#pingedAt < LOST_PONG_MS) return false;
    this.#isWaiting = true;
    this.#pings.push(this.#sent);
    this.#sent = new Map();
    this.#pingedAt = now;
    return true;
  }

  /** Pings the client; false if there is nothing to acknowledge. */
  ping(): boolean {
    if (this.connection === null) return false;
    if (this.#sent.size === 0 && !this.#isWaiting) return false;
    if (this.#pings.length >= MAX_PINGS) return false;
    if (this.startPing()) this.connection.ping();
    return true;
  }

  /** Takes the client's answer to a ping. */
  acknowledge(): void {
    this.#isWaiting = false;
    const sent = this.#pings.shift();
    if (sent === undefined || sent.size === 0) return;
    for (const [channel, offset] of sent) {
      const known = this.#acknowledged.get(channel);
      if (known === undefined) continue;
      this.#acknowledged.set(channel, { epoch: known.epoch, offset });
    }
    this.#sessions.keepLater(this);
  }

  /** Has the store keep the state, for a client that comes back here or elsewhere. */
  keep(isAway = false): Awaitable<void> {
    if (!this.#isOwned) return;
    const { store } = this.#sessions;
    // A client that has acknowledged nothing leaves nothing to remember.
    if (isAway && this.#acknowledged.size === 0) {
      return store.forget(this.appId, this.id);
    }
    const positions = new Map(this.#acknowledged);
    // A client that is cut again may not have come back to all of its channels.
    const hasLost = this.#now < this.#lostUntil;
    const state = {
      formerIds: this.ids,
      positions,
      ...(hasLost && { hasLost }),
    };
    return store.keep(this.appId, this.id, state, isAway);
  }

  get #now(): number {
    return this.#sessions.clock.elapsed();
  }
}

// After this time an answer counts as lost.
const LOST_PONG_MS = 10_000;
// A client that keeps alive with WebSocket pings may never answer.
const MAX_PINGS = 10;
// How often a stock client is pinged. After a reconnect it gets again what came since
// its last answer: fewer pings mean less traffic, and more duplicates.
const ACKNOWLEDGE_MS = 200;
// How often acknowledgements are stored. If the server dies, its clients get again
// what they have acknowledged since.
const KEEP_MS = 1_000;
// How long a client that comes back may take to resubscribe to its channels.
const RETURN_MS = 30_000;
// Enough for a client that tries all transports at once. Every connection that has
// claimed a session remembers the socket ids of all.
const MAX_HOLDERS = 10;

/** The sessions whose clients are connected to this server. */
export class Sessions {
  readonly store: SessionStore;
  readonly history: Readonly<History>;
  readonly clock: Clock;
  /** Channels that one session remembers. */
  readonly maxChannels: number;
  readonly #onCall: (call: Promise<void>, during: string) => void;
  readonly #byKey = new Map<string, Session>();
  readonly #pinging: Later<Session>;
  readonly #keeping: Later<Session>;
  readonly #keepingLater: Later<Session>;
  readonly #unkept: Unkept<Session>;
  /** Socket ids of clients that were cut before they subscribed to anything. */
  readonly #unclaimed = new Map<string, readonly string[]>();

  constructor(options: {
    store: SessionStore;
    history: Readonly<History>;
    clock: Clock;
    maxChannels: number;
    /** Reports the failure of a call, which a server that closes waits for. */
    onCall: (call: Promise<void>, during: string) => void;
  }) {
    const { clock } = options;
    this.store = options.store;
    this.history = options.history;
    this.clock = clock;
    this.maxChannels = options.maxChannels;
    this.#onCall = options.onCall;
    this.#unkept = new Unkept(options.history.sessions);
    this.#pinging = new Later(
      (run) => clock.after(ACKNOWLEDGE_MS, run),
      (session) => session.ping() && this.pingSoon(session),
    );
    this.#keeping = new Later(
      afterThisTurn,
      (session) => this.#keep(session),
    );
    this.#keepingLater = new Later(
      (run) => clock.after(KEEP_MS, run),
      (session) => this.#keep(session),
    );
  }

  /** How many there are. */
  get size(): number {
    return this.#byKey.size;
  }

  /** Adds a new connection to the session whose id it came with. */
  join(appId: string, id: string, connection: Resumable): Session {
    const key = keyOf(appId, id);
    const session = this.#byKey.get(key) ??
      new Session(this, appId, id, this.#unclaimed.get(key));
    this.#unclaimed.delete(key);
    this.#byKey.set(key, session);
    session.hold(connection);
    return session;
  }

  /** Removes a connection from its session. After the last one the client is away. */
  release(session: Session, connection: Resumable): void {
    session.release(connection);
    if (session.holders.size > 0) return;
    this.#drop(session);
    if (session.isTaken) this.#keep(session, true);
    else this.#noteIds(session);
  }

  /** Remembers the socket ids of a session that was not claimed. */
  #noteIds(session: Session): void {
    this.#unclaimed.set(keyOf(session.appId, session.id), session.ids);
    for (const [oldest] of this.#unclaimed) {
      if (this.#unclaimed.size <= this.history.sessions) break;
      this.#unclaimed.delete(oldest);
    }
  }

  /** Lets go of a session that another server has taken. */
  taken(appId: string, id: string): void {
    const session = this.#byKey.get(keyOf(appId, id));
    if (session === undefined) return;
    this.#drop(session);
    session.lose();
  }

  /** Lets go of a session whose client has left before it was owned. */
  abandon(session: Session): void {
    const successor = this.#byKey.get(keyOf(session.appId, session.id));
    // A newer session of the same id lets go of it by itself, if it has asked for it.
    if (successor?.isTaken !== true) this.#keep(session, true);
  }

  #drop(session: Session): void {
    this.#byKey.delete(keyOf(session.appId, session.id));
    this.#pinging.delete(session);
    this.#keeping.delete(session);
    this.#keepingLater.delete(session);
  }

  /** Pings the session's client soon, together with all others. */
  pingSoon(session: Session): void {
    this.#pinging.add(session);
  }

  /** Keeps a session at the end of this turn of the event loop. */
  keepSoon(session: Session): void {
    this.#keeping.add(session);
  }

  /** Keeps a session within a second. */
  keepLater(session: Session): void {
    this.#keepingLater.add(session);
  }

  #keep(session: Session, isAway = false): Awaitable<void> {
    const kept = attempt(() => session.keep(isAway));
    if (!(kept instanceof Promise)) return;
    const told = kept.catch((error) => {
      if (isUnavailable(error)) this.#unkept.add(session, isAway);
      throw error;
    });
    this.#onCall(told, "keeping a session");
    return told;
  }

  /** Keeps what could not be kept, when the backplane is back. */
  keepAgain(): void {
    this.#unkept.goOn((session, isAway) => {
      // The client may be back by now.
      const latest = this.#byKey.get(keyOf(session.appId, session.id));
      const isOver = isAway ? latest?.isTaken === true : latest !== session;
      return isOver ? undefined : this.#keep(session, isAway);
    });
  }
}

/**
 * How many channels a session remembers. A client that returns subscribes first,
 * and only then it is known which other channels it no longer wants.
 */
export function sessionChannels(
  apps: readonly { limits: { channelsPerConnection: number } }[],
): number {
  const all = apps.map(({ limits }) => limits.channelsPerConnection);
  return 2 * Math.max(...all);
}

/** No app's id has a line break. */
function keyOf(appId: string, id: string): string {
  return `${appId}\n${id}`;
}
