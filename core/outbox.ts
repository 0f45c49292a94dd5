/**
 * What is on its way to one client: deliveries, replays that go on as the client reads,
 * and back-pressure.
 *
 * @module
 */

import type {
  Backplane,
  HistoryRequest,
  JoinResult,
  Page,
  Position,
  ReplayStart,
  Transport,
} from "./backplane.ts";
import {
  type Delivery,
  deliveryOf,
  EMPTY_BATCH,
  type FrameBatch,
} from "./deliveries.ts";
import type { OriginVerdict } from "./http.ts";
import type { Limits } from "./limits.ts";
import {
  CLOSE,
  type Close,
  encodeRecoveryFailed,
  type ReplayFields,
} from "./protocol.ts";
import { hasGap, type Session } from "./sessions.ts";
import { afterThisTurn, type Awaitable, type Clock, Later } from "./time.ts";

// ---- Replays ----------------------------------------------------------------

/** A cursor into the history of one channel, for one client. */
interface Replay {
  readonly channel: string;
  readonly epoch: string;
  /** Every logged message later than this is still to be sent. */
  after: number;
  /** Later messages are delivered as they come. */
  until: number;
  /** Messages that have been read, and how many of them are sent. */
  page: Page;
  taken: number;
  /** Whether the next page has been asked for. */
  isReading: boolean;
  /** Deliveries that the history does not hold, to be sent in between. */
  waiting: Delivery[];
  /** Resolves what {@linkcode Outbox.replay} has returned. */
  settle: () => void;
}

const EMPTY_PAGE: Page = Object.freeze({ messages: [], reaches: -1 });

// How far a replay may be ahead of what the client has read.
const REPLAY_BYTES = 262_144;
// A client that reads nothing of a replay for so long is disconnected.
const REPLAY_STALL_MS = 10_000;
// More time at once has passed in a process that was frozen: nobody could read.
const MAX_LOOK_MS = 1_000;
/** How large a page of the history is; a backplane may keep one for each client. */
const PAGE = Object.freeze({ events: 100, bytes: 65_536 });

/** Visits the outboxes of a server later, all together. */
export class OutboxSchedule {
  /** Flushes batches at the end of this turn of the event loop. */
  readonly flushing: Later<Outbox>;
  /**
   * Disconnects clients that do not read. Not at once: frames of this turn cannot
   * be written before the next, so a burst of the program says nothing about the
   * client. And nobody may leave a channel in the middle of a fan-out.
   */
  readonly judging: Later<Outbox>;
  /** Goes on with replays. No event of a socket says that the client has read. */
  readonly replaying: Later<Outbox>;

  constructor(clock: Clock) {
    const flush = (run: () => void) => () => {
      run();
      // The clients of this turn's batches have got them.
      EMPTY_BATCH.forget();
    };
    this.flushing = new Later(
      (run) => afterThisTurn(flush(run)),
      (outbox) => outbox.flush(),
    );
    this.judging = new Later(
      (run) => clock.after(0, run),
      (outbox) => outbox.judge(),
    );
    this.replaying = new Later(
      (run) => clock.after(REPLAY_TICK_MS, run),
      (outbox) => outbox.continueReplays(),
    );
  }
}

/** How often a replay checks whether the client has read. */
const REPLAY_TICK_MS = 10;

// ---- The outbox -------------------------------------------------------------

/** What all outboxes of a server share. */
export interface OutboxServices {
  readonly clock: Clock;
  readonly schedule: OutboxSchedule;
  /** Calls the backplane. */
  ask<T>(call: (backplane: Backplane) => Awaitable<T>): Awaitable<T>;
  readonly hooks: {
    fail(error: unknown, during: string, appId: string): void;
  };
}

/** The connection that an outbox belongs to. */
export interface OutboxOwner {
  readonly app: { readonly id: string; readonly limits: Readonly<Limits> };
  /** Tells the client why, and ends the connection. */
  close(close: Close): void;
  /** Ends the connection without an error frame, which the client would not read. */
  giveUp(close: Close): void;
}

/** Sends to one client. */
export class Outbox {
  readonly transport: Transport;
  /** Whether the client gets positions, and so can say where it was. */
  readonly hasPositions: boolean;
  /** Whether the client takes several frames in one. */
  readonly takesBatches: boolean;
  /** Socket ids of the client: messages that leave out one of them are skipped. */
  ownIds: readonly string[];
  /** What a stock client acknowledges, where it asked for that. */
  session: Session | null = null;
  readonly #services: OutboxServices;
  readonly #owner: OutboxOwner;
  /** Frames for the end of this turn; null for a client that takes no batches. */
  #batch: FrameBatch | null;
  /** By channel. */
  #replays: Map<string, Replay> | null = null;
  /** For how long no replay has gone on. */
  #stalledMs = 0;
  /** When that was looked at last, see {@linkcode Clock.elapsed}. */
  #lookedAt = 0;
  /** UTF-16 units of deliveries that wait for this client alone. */
  #heldUnits = 0;
  #isOpen = true;
  /** Whether the transport has failed to send. */
  #hasFailed = false;

  constructor(
    transport: Transport,
    services: OutboxServices,
    owner: OutboxOwner,
    extensions: { batch: boolean; recover: boolean; ids: readonly string[] },
  ) {
    this.transport = transport;
    this.#services = services;
    this.#owner = owner;
    this.hasPositions = extensions.recover;
    this.takesBatches = extensions.batch;
    this.ownIds = extensions.ids;
    this.#batch = extensions.batch ? EMPTY_BATCH : null;
  }

  /**
   * The extensions that the client gets, of those that it asked for. And, for a client
   * that asked for any: `auth` and `user-auth` if these endpoints answer its page,
   * `credentials` if they take cookies from a page of another origin.
   */
  grants(
    { authorize, authenticate }: {
      authorize?: unknown;
      authenticate?: unknown;
    },
    page: OriginVerdict,
  ): { extensions?: string[] } {
    const { takesBatches: batch, hasPositions: recover } = this;
    if (!batch && !recover) return {};
    const list = Object.entries({
      batch,
      recover,
      auth: page !== false && authorize !== undefined,
      "user-auth": page !== false && authenticate !== undefined,
      credentials: page === "listed",
    });
    return { extensions: list.filter(([, is]) => is).map(([name]) => name) };
  }

  /** Sends one encoded frame, unless the connection is gone. */
  send(frame: string): void {
    if (!this.#isOpen || this.#hasFailed) return;
    if (this.#batch === null) return this.#write(frame);
    if (this.#batch === EMPTY_BATCH) this.#services.schedule.flushing.add(this);
    this.#batch = this.#batch.with(frame);
  }

  /** Sends one encoded frame by itself and at once. */
  sendAlone(frame: string): void {
    this.flush();
    if (this.#isOpen && !this.#hasFailed) this.#write(frame);
  }

  /** Sends the frames of this turn. */
  flush(): void {
    const batch = this.#batch;
    if (batch === null || batch === EMPTY_BATCH) return;
    this.#batch = EMPTY_BATCH;
    if (this.#isOpen && !this.#hasFailed) this.#write(batch.frame);
  }

  #write(frame: string): void {
    try {
      this.transport.send(frame);
      if (!this.#isBehind) return;
    } catch (error) {
      this.#hasFailed = true;
      this.#services.hooks.fail(error, "sending a frame", this.#owner.app.id);
    }
    this.#services.schedule.judging.add(this);
  }

  /** Takes a message of a channel, in its order. */
  deliver(delivery: Delivery): void {
    const replay = this.#replays?.get(delivery.channel);
    if (replay === undefined) return this.#sendDelivery(delivery);
    // The replay will read it from the history.
    if (delivery.isLogged) replay.until = delivery.offset;
    else this.hold(delivery, replay.waiting, CLOSE.SlowPeer);
  }

  /**
   * Keeps a delivery until something earlier has been sent.
   *
   * @param ifTooMuch Why the connection ends if too much waits.
   */
  hold(delivery: Delivery, waiting: Delivery[], ifTooMuch: Close): void {
    waiting.push(delivery);
    this.#heldUnits += delivery.frame.length;
    if (this.#heldUnits <= this.#owner.app.limits.bufferedBytes) return;
    this.unhold(waiting.splice(0));
    this.#owner.close(ifTooMuch);
  }

  /** Stops counting deliveries that no longer wait. */
  unhold(waiting: readonly Delivery[]): void {
    for (const { frame } of waiting) this.#heldUnits -= frame.length;
  }

  #sendDelivery(delivery: Delivery): void {
    // The client may have caused it, also on an earlier connection.
    const { exceptSocketId } = delivery;
    if (exceptSocketId !== "" && this.ownIds.includes(exceptSocketId)) return;
    if (this.hasPositions) return this.send(delivery.positioned);
    this.send(delivery.frame);
    if (this.session !== null && delivery.isLogged) {
      this.session.sent(delivery.channel, delivery.offset);
    }
  }

  // ---- Positions

  /** What a confirmation says of the position, if the client takes positions. */
  positionFields(
    replay: ReplayStart | undefined,
    request: HistoryRequest | undefined,
  ): ReplayFields {
    if (!this.hasPositions || replay === undefined) return {};
    const { from: position, recovered } = replay;
    return request?.since === undefined
      ? { position }
      : { position, recovered };
  }

  /** Notes where a subscription begins, and tells the client if messages are lost. */
  begin(
    channel: string,
    { replay, position }: Partial<JoinResult>,
    request: HistoryRequest,
  ): void {
    const from = replay?.from ?? position;
    if (from === undefined) return;
    if (hasGap(replay, request)) this.tellLost(channel, from);
    else this.session?.begin(channel, from, false);
  }

  // ---- Replaying

  /**
   * Sends the logged messages of a channel that are later than `from`, up to
   * `until`, before everything that is delivered from now on. Not all at once: a
   * client that reads as fast as it can must not be taken for a slow one.
   *
   * @returns Resolves when all is sent, or when the client has to read first.
   */
  replay(channel: string, from: Position, until: number): Awaitable<void> {
    if (from.offset >= until) return;
    const replay: Replay = {
      ...{ channel, epoch: from.epoch, after: from.offset, until },
      ...{ page: EMPTY_PAGE, taken: 0, isReading: false, waiting: [] },
      settle: () => {},
    };
    if (this.#replays === null) {
      this.#replays = new Map();
      this.#noteProgress();
    }
    this.#replays.set(channel, replay);
    this.continueReplays();
    if (!replay.isReading) return;
    return new Promise((resolve) => replay.settle = resolve);
  }

  /** Ends the replay of a channel. */
  endReplay(channel: string): void {
    const replay = this.#replays?.get(channel);
    if (replay === undefined) return;
    this.unhold(replay.waiting);
    this.#remove(replay);
  }

  #remove({ channel, settle }: Replay): void {
    this.#replays?.delete(channel);
    if (this.#replays?.size === 0) this.#replays = null;
    settle();
  }

  /** Goes on with the replays, as far as the client has read. */
  continueReplays(): void {
    for (const replay of this.#replays?.values() ?? []) {
      if (this.#advance(replay)) continue;
      // The other replays cannot go on either before the client has read.
      for (const { settle } of this.#replays?.values() ?? []) settle();
      return this.#waitForRoom();
    }
  }

  /** Goes on when the client has had time to read; gives up if it does not read. */
  #waitForRoom(): void {
    const now = this.#services.clock.elapsed();
    this.#stalledMs += Math.min(now - this.#lookedAt, MAX_LOOK_MS);
    this.#lookedAt = now;
    if (this.#stalledMs > REPLAY_STALL_MS) {
      return this.#owner.giveUp(CLOSE.SlowPeer);
    }
    this.#services.schedule.replaying.add(this);
  }

  #noteProgress(): void {
    this.#stalledMs = 0;
    this.#lookedAt = this.#services.clock.elapsed();
  }

  /** Goes on with one replay; false if the client has to read first. */
  #advance(replay: Replay): boolean {
    for (;;) {
      if (!this.#isOpen) return true;
      const next = replay.page.messages[replay.taken];
      if (next === undefined && replay.after >= replay.until) {
        this.#sendWaiting(replay, Infinity);
        this.#remove(replay);
        return true;
      }
      if (!this.#hasRoom) return false;
      if (next !== undefined) {
        this.#sendWaiting(replay, next.offset);
        this.#sendDelivery(deliveryOf(replay.channel, next));
        this.#noteProgress();
        replay.taken++;
        replay.after = replay.taken < replay.page.messages.length
          ? next.offset
          : replay.page.reaches;
      } else if (replay.isReading || !this.#readPage(replay)) {
        return true;
      }
    }
  }

  /** Reads the next page; false if it comes later. */
  #readPage(replay: Replay): boolean {
    const { channel, epoch, after, until } = replay;
    const request = { after: { epoch, offset: after }, until, ...PAGE };
    const { id } = this.#owner.app;
    const page = this.#services.ask((one) => one.read(id, channel, request));
    if (!(page instanceof Promise)) {
      this.#takePage(replay, page);
      return true;
    }
    replay.isReading = true;
    page.catch((error) => {
      this.#services.hooks.fail(error, "reading a channel's history", id);
      return null;
    }).then((answer) => {
      replay.isReading = false;
      // The client may have left the channel by now.
      if (this.#replays?.get(channel) !== replay) return;
      this.#takePage(replay, answer);
      this.continueReplays();
    });
    return false;
  }

  #takePage(replay: Replay, page: Page | null): void {
    // How long the history took says nothing about the client.
    this.#noteProgress();
    const { channel, epoch, after, until } = replay;
    const isGone = page === null ||
      (page.messages.length === 0 && page.reaches <= after);
    if (isGone) {
      // The history no longer reaches back to what the client has missed.
      replay.after = until;
      return this.tellLost(channel, { epoch, offset: until });
    }
    replay.page = page;
    replay.taken = 0;
    if (page.messages.length === 0) replay.after = page.reaches;
  }

  /** Sends the waiting deliveries that come before an offset. */
  #sendWaiting(replay: Replay, offset: number): void {
    if (replay.waiting.length === 0) return;
    const count = replay.waiting.findIndex((one) => one.offset >= offset);
    const first = replay.waiting.splice(
      0,
      count < 0 ? replay.waiting.length : count,
    );
    this.unhold(first);
    for (const delivery of first) this.#sendDelivery(delivery);
  }

  /** Tells the client that it has lost messages before a position. */
  tellLost(channel: string, now: Position): void {
    const position = this.hasPositions ? now : undefined;
    this.send(encodeRecoveryFailed(channel, position));
    this.session?.begin(channel, now, true);
  }

  // ---- Back-pressure

  /** Whether the client has left too much unread. */
  get #isBehind(): boolean {
    const { bufferedBytes } = this.#owner.app.limits;
    return this.transport.bufferedAmount > bufferedBytes;
  }

  /** Whether the client has read enough for more of a replay. */
  get #hasRoom(): boolean {
    const { bufferedBytes } = this.#owner.app.limits;
    return this.pendingBytes <= Math.min(REPLAY_BYTES, bufferedBytes / 2);
  }

  /** How much was sent that the client has not taken yet. */
  get pendingBytes(): number {
    return this.transport.bufferedAmount + (this.#batch?.units ?? 0);
  }

  /**
   * Gives up on a client that does not read, or whose transport fails. It gets no
   * error frame, which would wait behind what the client does not read.
   */
  judge(): void {
    if (this.#hasFailed) this.#owner.giveUp(CLOSE.SendFailed);
    else if (this.#isBehind) this.#owner.giveUp(CLOSE.SlowPeer);
  }

  /** Closes the transport. */
  end(code: number, reason: string): void {
    closeTransport(this.transport, code, reason);
  }

  /** Sends nothing more. */
  close(): void {
    this.#isOpen = false;
    for (const { settle } of this.#replays?.values() ?? []) settle();
    this.#replays = null;
    this.#services.schedule.judging.delete(this);
    this.#services.schedule.replaying.delete(this);
  }
}

/** Closes a transport, which may be closed already. */
export function closeTransport(
  transport: Transport,
  code: number,
  reason: string,
): void {
  try {
    transport.close(code, reason);
  } catch {
    // There is nothing left to close.
  }
}
