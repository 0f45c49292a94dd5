/**
 * What a client asks for besides the protocol so that it loses nothing, and what a
 * stock client has acknowledged.
 *
 * @module
 */

import { createHash } from "node:crypto";
import type { History, LogRequest, Position, Replay } from "./backplane.ts";
import type { Delivery } from "./outbox.ts";
import { isObject, isSocketId } from "./protocol.ts";

// ---- Extensions

/** What a client has asked for in the URL it connects to. */
export interface Extensions {
  /** Whether a frame may be an array of frames. */
  readonly batch: boolean;
  /** Whether it wants positions. */
  readonly recover: boolean;
  /** Ids that it has had before. */
  readonly formerIds: readonly string[];
  /** Names the session of a stock client. */
  readonly sessionId: string | null;
}

/**
 * Reads `batch=1`, `recover=1` and `was=1.2,3.4` of the query, and `/r/{id}` in
 * front of the route.
 */
export function readExtensions(
  { pathname, searchParams }: URL,
  path: string,
  hasHistory: boolean,
): Extensions {
  const recover = hasHistory && searchParams.get("recover") === "1";
  const [, prefix, id = ""] = pathname.slice(path.length).split("/", 3);
  const hasSession = prefix === SESSION_PREFIX && SESSION_ID.test(id) &&
    hasHistory && !recover;
  const was = searchParams.get("was")?.split(",", MAX_FORMER_IDS) ?? [];
  return {
    batch: searchParams.get("batch") === "1",
    recover,
    formerIds: was.filter(isSocketId),
    sessionId: hasSession ? id : null,
  };
}

export const SESSION_PREFIX = "r";

// Long enough that nobody guesses it: a UUID has 36 characters.
export const SESSION_ID = /^[A-Za-z0-9_-]{16,128}$/;

// What leaves out one of them is rarely older than the last few connections.
const MAX_FORMER_IDS = 10;

/** The position that a client names; one of nowhere if it is none. */
export function readPosition(value: unknown): Position | undefined {
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) return NOWHERE;
  const { epoch, offset } = value;
  const fits = typeof epoch === "string" && Number.isSafeInteger(offset);
  return fits ? { epoch, offset: Number(offset) } : NOWHERE;
}

/** A number of events that a client names; 0 if it is none. */
export function readCount(value: unknown): number {
  return Number.isSafeInteger(value) && Number(value) > 0 ? Number(value) : 0;
}

/** A position that no log reaches back to. */
const NOWHERE: Position = Object.freeze({ epoch: "", offset: 0 });

export const NO_WISHES: LogRequest = Object.freeze({ rewind: 0 });

/** Whether a client that was there before has missed what cannot be had. */
export function hasGap(
  replay: Replay | undefined,
  log: LogRequest | undefined,
): boolean {
  return log?.since !== undefined && !replay?.recovered;
}

// ---- Sessions

/** The connection of a client that a session goes on with. */
export interface Resumable {
  readonly socketId: string;
  /** Asks the client for what it has got. */
  ping(): void;
  /** Forgets the session: another connection has it now. */
  dropSession(): void;
}

/**
 * What a stock client has got, over all of its connections.
 *
 * It is learned from pings: frames arrive in order, so whoever answers one has
 * got all that was sent before it.
 */
export class Session {
  /** Names it among those of all apps. */
  readonly key: string;
  /** Ids that the client has had, the latest first. */
  #formerIds: readonly string[] = [];
  /** When the client was last there, in milliseconds. */
  leftAt = 0;
  /** Connections that have come with its id, and may be the one to go on with. */
  readonly holders = new Set<Resumable>();
  /** The one that has subscribed to something last. */
  connection: Resumable | null = null;
  readonly #sessions: Sessions;
  /** By channel, what the client is known to have got. */
  readonly #acknowledged = new Map<string, Position>();
  /** By channel, the last that was sent after the last ping. */
  #sent = new Map<string, number>();
  /** The same as it was at each ping that has not been answered. */
  #pings: Map<string, number>[] = [];
  /** When it was last pinged, in milliseconds. */
  #pingedAt = 0;
  /** Whether no answer has come since. */
  #isWaiting = false;
  /** When its client was last back, in milliseconds. */
  #attachedAt = 0;
  /** Until when whatever the client asks for has been forgotten; or 0. */
  readonly #lostUntil: number;

  constructor(sessions: Sessions, key: string, lostUntil: number) {
    this.#sessions = sessions;
    this.key = key;
    this.#lostUntil = lostUntil;
  }

  /** Whether there is nothing that it would be a loss to forget. */
  get isEmpty(): boolean {
    return this.#acknowledged.size === 0;
  }

  /**
   * Goes on with a connection, once that subscribes to something: a client may try
   * several ways to the server side by side, and uses one of them.
   */
  claim(connection: Resumable): void {
    if (connection === this.connection) return;
    if (this.connection !== null) {
      this.connection.dropSession();
      this.release(this.connection);
    }
    this.connection = connection;
    this.#attachedAt = Date.now();
    this.#sent.clear();
    this.#pings = [];
    this.#isWaiting = false;
  }

  /** One of the connections is gone, or of no interest any more. */
  release(connection: Resumable): void {
    this.holders.delete(connection);
    if (this.connection === connection) this.connection = null;
    this.#formerIds = [connection.socketId, ...this.#formerIds]
      .slice(0, MAX_FORMER_IDS);
  }

  /** Ids that the client has, and has had. */
  get ids(): readonly string[] {
    const own = Array.from(this.holders, ({ socketId }) => socketId);
    return [...own, ...this.#formerIds];
  }

  /** What its client has missed of a channel, if it was there before. */
  request(channel: string): LogRequest {
    const now = Date.now();
    const since = this.#acknowledged.get(channel);
    // One that it did not come back to in all that time is a new one to it.
    const isClaimed = now - this.#attachedAt <= this.#sessions.history.ageMs;
    if (since !== undefined && isClaimed) return { since, rewind: 0 };
    return now < this.#lostUntil ? { since: NOWHERE, rewind: 0 } : NO_WISHES;
  }

  /** From here on the client gets everything of a channel. */
  begin(
    channel: string,
    position: Position,
    isFailed: boolean,
    maxChannels: number,
  ): void {
    this.#acknowledged.delete(channel);
    // That something is lost is told again until the client is known to have heard.
    const offset = isFailed ? -1 : position.offset;
    this.#acknowledged.set(channel, { epoch: position.epoch, offset });
    if (isFailed) {
      this.#sent.set(channel, position.offset);
      this.#sessions.pingSoon(this);
    }
    // Those that the client did not come back to are the first.
    for (const [oldest] of this.#acknowledged) {
      if (this.#acknowledged.size <= maxChannels) break;
      this.#acknowledged.delete(oldest);
    }
  }

  /** The client has left a channel, and wants nothing of it any more. */
  left(channel: string): void {
    for (const map of [this.#acknowledged, this.#sent, ...this.#pings]) {
      map.delete(channel);
    }
  }

  /** Something has been sent that is to be acknowledged. */
  sent({ channel, offset }: Delivery): void {
    this.#sent.set(channel, offset);
    this.#sessions.pingSoon(this);
  }

  /** Whether a ping is to be sent: only if there is none to be answered. */
  startPing(): boolean {
    const now = Date.now();
    // Over HTTP an answer can be lost. From then on each answer is taken for that of
    // the ping before, so that nothing is acknowledged too early.
    const isWaiting = this.#isWaiting && now - this.#pingedAt < LOST_PONG_MS;
    if (isWaiting) return false;
    this.#isWaiting = true;
    this.#pings.push(this.#sent);
    this.#sent = new Map();
    this.#pingedAt = now;
    return true;
  }

  /** Asks for what has arrived; false if there is nothing to ask for. */
  ping(): boolean {
    if (this.#sent.size === 0 && !this.#isWaiting) return false;
    const isHopeless = this.#pings.length >= MAX_PINGS;
    if (!isHopeless && this.startPing()) this.connection?.ping();
    return !isHopeless;
  }

  /** The client has answered a ping. */
  acknowledge(): void {
    this.#isWaiting = false;
    for (const [channel, offset] of this.#pings.shift() ?? []) {
      const known = this.#acknowledged.get(channel);
      if (known === undefined) continue;
      this.#acknowledged.set(channel, { epoch: known.epoch, offset });
    }
  }
}

// A client that has not answered for so long never will: its answer was lost.
const LOST_PONG_MS = 10_000;

const MAX_PINGS = 10;

/** Sessions of stock clients that are here, or have not been away for long. */
export class Sessions {
  readonly history: Readonly<History>;
  readonly #byKey = new Map<string, Session>();
  /** Those whose client is away, the longest first. */
  readonly #away = new Set<Session>();
  /** Digests of the keys of those that were forgotten, the longest first. */
  readonly #forgotten = new Set<number>();
  /** Those that wait for a ping or its answer. */
  readonly #due = new Set<Session>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(history: Readonly<History>) {
    this.history = history;
  }

  /** The session of an id, which a new connection has come with. */
  join(appId: string, id: string, connection: Resumable): Session {
    this.#forgetOld();
    const key = `${appId}\n${id}`;
    const session = this.#byKey.get(key) ?? this.#make(key);
    this.#byKey.set(key, session);
    this.#away.delete(session);
    session.holders.add(connection);
    return session;
  }

  #make(key: string): Session {
    const wasForgotten = this.#forgotten.has(digest(key));
    return new Session(this, key, wasForgotten ? Date.now() + RETURN_MS : 0);
  }

  /** A connection of a session is gone; without any its client is away. */
  release(session: Session, connection: Resumable): void {
    session.release(connection);
    if (session.connection === null) this.#due.delete(session);
    if (this.#due.size === 0) this.#stop();
    if (session.holders.size > 0) return;
    session.leftAt = Date.now();
    // Of one that has not got anywhere there is nothing to remember.
    if (session.isEmpty) this.#byKey.delete(session.key);
    else this.#away.add(session);
    this.#forgetOld();
  }

  #forgetOld(): void {
    const { ageMs, sessions } = this.history;
    for (const session of this.#away) {
      const isOld = Date.now() - session.leftAt > ageMs;
      if (!isOld && this.#away.size <= sessions) break;
      this.#away.delete(session);
      this.#byKey.delete(session.key);
      // Again as the last one, where it is there already.
      const forgotten = digest(session.key);
      this.#forgotten.delete(forgotten);
      this.#forgotten.add(forgotten);
    }
    for (const oldest of this.#forgotten) {
      if (this.#forgotten.size <= MAX_FORGOTTEN) break;
      this.#forgotten.delete(oldest);
    }
  }

  /** Has a session ask its client, among all others that are to. */
  pingSoon(session: Session): void {
    this.#due.add(session);
    this.#timer ??= setInterval(() => this.#ping(), ACKNOWLEDGE_MS);
  }

  #ping(): void {
    for (const session of this.#due) {
      if (!session.ping()) this.#due.delete(session);
    }
    if (this.#due.size === 0) this.#stop();
  }

  #stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

// How often a stock client is asked. What it gets again after a reconnect is what
// came since: rarer is less traffic, and more that comes twice.
const ACKNOWLEDGE_MS = 200;

// How long a client that comes back may take to subscribe to its channels again.
const RETURN_MS = 30_000;

// Six bytes each: enough to tell a client that comes back from a new one.
const MAX_FORGOTTEN = 100_000;

/** Tells texts apart without keeping them. */
export function digest(text: string): number {
  return createHash("sha256").update(text).digest().readUIntBE(0, 6);
}
