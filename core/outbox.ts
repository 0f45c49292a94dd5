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
  Position,
  ReplayStart,
} from "./backplane.ts";
import { Backlog, HANDED_BYTES, HANDED_FRAMES } from "./backlog.ts";
import { type Delivery, EMPTY_BATCH, type FrameBatch } from "./deliveries.ts";
import type { OriginVerdict } from "./http.ts";
import type { Limits } from "./limits.ts";
import type { Traffic } from "./meter.ts";
import {
  CLOSE,
  type Close,
  encodeRecoveryFailed,
  type ReplayFields,
} from "./protocol.ts";
import { type ReplayReader, Replays } from "./replays.ts";
import { hasGap, type Session } from "./sessions.ts";
import type { Awaitable, Clock } from "./time.ts";
import { closeTransport, type Transport } from "./transport.ts";
import type { OutboxSchedule } from "./visits.ts";

// How far a replay may be ahead of what the client has read: a quarter more than the
// transport is given, so that something waits when the client has read.
const REPLAY_BYTES = HANDED_BYTES * 5 / 4;
// A client that reads nothing of a replay for so long is disconnected.
const REPLAY_STALL_MS = 10_000;

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
  readonly socketId: string;
  readonly app: {
    readonly id: string;
    readonly limits: Readonly<Limits>;
    readonly traffic: Traffic;
  };
  /** Tells the client why, and ends the connection. */
  close(close: Close): void;
  /** Ends the connection without an error frame, which the client would not read. */
  giveUp(close: Close): void;
}

/** Sends to one client. */
export class Outbox implements ReplayReader {
  readonly transport: Transport;
  /** Whether the client gets positions, and so can say where it was. */
  readonly hasPositions: boolean;
  /** Whether the client takes several frames in one. */
  readonly takesBatches: boolean;
  /** Socket ids that the client has had before, of which some may be its own now. */
  formerIds: readonly string[];
  /** What a stock client acknowledges, where it asked for that. */
  session: Session | null = null;
  readonly #services: OutboxServices;
  readonly #owner: OutboxOwner;
  readonly #traffic: Traffic;
  /** Frames for the end of this turn; null for a client that takes no batches. */
  #batch: FrameBatch | null;
  /** What waits for a client that does not read as fast; null for all others. */
  #backlog: Backlog | null = null;
  #replays: Replays | null = null;
  /** Whether the client gets a replay, or has not been given all of the last one. */
  #isCatchingUp = false;
  /** Whether a replay waits for the client to read. */
  #isAwaited = false;
  /** Frames that the transport was given since the client had read everything. */
  #frames = 0;
  /** UTF-16 units of deliveries that wait for this client alone. */
  #heldUnits = 0;
  #isOpen = true;
  /** Whether the transport has failed to send. */
  #hasFailed = false;

  constructor(
    transport: Transport,
    services: OutboxServices,
    owner: OutboxOwner,
    { batch, recover, formerIds }: {
      batch: boolean;
      recover: boolean;
      formerIds: readonly string[];
    },
  ) {
    this.transport = transport;
    this.#services = services;
    this.#owner = owner;
    this.#traffic = owner.app.traffic;
    this.hasPositions = recover;
    this.takesBatches = batch;
    this.formerIds = formerIds;
    this.#batch = batch ? EMPTY_BATCH : null;
  }

  /**
   * The extensions that the client gets, of those that it asked for. And, for a client
   * that asked for any: the auth endpoints that answer its page, `auth` if they
   * authorize several channels together, and `credentials` if they take cookies from
   * a page of another origin.
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
      auth: authorize !== undefined,
      "/pusher/auth": page !== false && authorize !== undefined,
      "/pusher/user-auth": page !== false && authenticate !== undefined,
      credentials: page === "listed",
    });
    return { extensions: list.filter(([, is]) => is).map(([name]) => name) };
  }

  /** Sends one encoded frame, unless the connection is gone. */
  send(frame: string): void {
    if (!this.#isOpen || this.#hasFailed) return;
    this.#traffic.messagesSent++;
    if (this.#batch === null) return this.#write(frame);
    if (this.#batch === EMPTY_BATCH) this.#services.schedule.flushing.add(this);
    this.#batch = this.#batch.with(frame);
    // A client reads a frame as a whole, so a larger batch is no better.
    if (this.#batch.units >= HANDED_BYTES) this.flush();
  }

  /** Sends one encoded frame by itself and at once. */
  sendAlone(frame: string): void {
    this.flush();
    if (!this.#isOpen || this.#hasFailed) return;
    this.#traffic.messagesSent++;
    this.#write(frame);
  }

  /** Sends the frames of this turn. */
  flush(): void {
    const batch = this.#batch;
    if (batch === null || batch === EMPTY_BATCH) return;
    this.#batch = EMPTY_BATCH;
    if (this.#isOpen && !this.#hasFailed) this.#write(batch.frame);
  }

  #write(frame: string): void {
    const backlog = this.#backlog;
    if (backlog === null) {
      if (this.#isFull(this.#hand(frame))) this.#holdBack();
    } else if (backlog.isEmpty && !this.#isFull(backlog.unread)) {
      // It was made for a replay, and there is room for other frames.
      backlog.read(this.transport.bufferedAmount);
      backlog.unread = this.#hand(frame);
    } else this.#wait(backlog, frame);
  }

  /** Gives a frame to the transport; returns what the client has unread of all. */
  #hand(frame: string): number {
    try {
      this.transport.send(frame);
      this.#traffic.handed(frame);
      const { budget } = this.#services.schedule;
      budget.sent(frame.length, this.#isCatchingUp);
      const unread = this.transport.bufferedAmount;
      // If there is only this frame, the client has read all others.
      if (unread <= frame.length) this.#frames = 0;
      this.#frames++;
      return unread;
    } catch (error) {
      this.#hasFailed = true;
      this.fail(error, "sending a frame");
      return Infinity;
    }
  }

  /** Whether the transport has so much unread that further frames wait here. */
  #isFull(unread: number): boolean {
    const { bufferedBytes } = this.#owner.app.limits;
    return this.#frames > HANDED_FRAMES ||
      unread > Math.min(HANDED_BYTES, bufferedBytes);
  }

  /** Takes a message of a channel, in its order. */
  deliver(delivery: Delivery): void {
    const waiting = this.#replays?.take(delivery);
    if (waiting === undefined) return this.sendDelivery(delivery);
    if (waiting !== null) this.hold(delivery, waiting, CLOSE.SlowPeer);
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

  sendDelivery(delivery: Delivery): void {
    const { exceptSocketId } = delivery;
    if (exceptSocketId !== "" && this.#isOwn(exceptSocketId)) return;
    if (this.hasPositions) return this.send(delivery.positioned);
    this.send(delivery.frame);
    if (this.session !== null && delivery.isLogged) {
      this.session.sent(delivery.channel, delivery.offset);
    }
  }

  /** Whether the client has caused a message, also on an earlier connection. */
  #isOwn(socketId: string): boolean {
    return socketId === this.#owner.socketId ||
      this.formerIds.includes(socketId);
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
    this.#traffic.replays++;
    if (this.#replays === null) {
      this.#replays = new Replays(this);
      this.#isCatchingUp = true;
      this.#backlog?.forgive();
    }
    return this.#replays.start(channel, from, until);
  }

  /** Ends the replay of a channel. */
  endReplay(channel: string): void {
    this.#replays?.end(channel);
  }

  /** See {@linkcode ReplayReader.replayed}. */
  replayed(): void {
    this.#replays = null;
    if (this.#backlog === null) this.#isCatchingUp = false;
  }

  /** See {@linkcode ReplayReader.awaitRoom}. */
  awaitRoom(): void {
    this.#isAwaited = true;
    // All frames wait, so that less unread means that the client has read.
    this.#holdBack();
  }

  /** See {@linkcode ReplayReader.hasRoom}. */
  get hasRoom(): boolean {
    // Clients that come back together take turns.
    if (this.#services.schedule.budget.isSpent) return false;
    const { bufferedBytes } = this.#owner.app.limits;
    return this.pendingBytes <= Math.min(REPLAY_BYTES, bufferedBytes / 2);
  }

  /**
   * Tells the client that it has lost messages before a position. See
   * {@linkcode BackplaneNode.lost}.
   */
  tellLost(channel: string, now: Position, until = now.offset): void {
    this.#traffic.losses++;
    const position = this.hasPositions ? now : undefined;
    this.send(encodeRecoveryFailed(channel, position));
    // What is lost must not come after what follows now.
    this.session?.begin(channel, { ...now, offset: until }, true);
  }

  // ---- Back-pressure

  /** About how many bytes were sent that the client has not taken yet. */
  get pendingBytes(): number {
    return this.transport.bufferedAmount + (this.#backlog?.units ?? 0) +
      (this.#batch?.units ?? 0);
  }

  /** Lets frames wait from now on. */
  #holdBack(): void {
    // A client with a backlog is visited already.
    if (this.#backlog !== null) return;
    this.#visitSoon();
    const { bufferedAmount } = this.transport;
    const now = this.#services.clock.elapsed();
    this.#backlog = new Backlog(bufferedAmount, now, () => this.#visit());
  }

  /** Has the client visited, in its turn if it catches up. */
  #visitSoon(): void {
    const { catchingUp, looking } = this.#services.schedule;
    (this.#isCatchingUp ? catchingUp : looking).add(this);
  }

  /** Visits a client that had read nothing. */
  #visit(): void {
    const { isSpent } = this.#services.schedule.budget;
    if (this.#isCatchingUp && isSpent) this.#visitSoon();
    else this.look();
  }

  #wait(backlog: Backlog, frame: string): void {
    const unread = backlog.add(frame);
    if (unread <= this.#owner.app.limits.bufferedBytes) return;
    this.#services.schedule.looking.add(this);
  }

  /** Sends what waits, as far as the client has read, and judges the client. */
  look(): void {
    const backlog = this.#backlog;
    if (backlog === null) return;
    const { clock, schedule } = this.#services;
    const now = clock.elapsed();
    const hasRead = backlog.look(this.transport.bufferedAmount, now);
    const isStalled = this.#isAwaited && backlog.stalledMs > REPLAY_STALL_MS;
    if (isStalled) this.#giveUp(CLOSE.SlowPeer);
    else if (backlog.closing === null) this.judge();
    else if (this.#hasFailed || backlog.isOverdue(now)) this.drop();
    if (this.#backlog === null) return;
    this.#isAwaited = false;
    this.#replays?.goOn();
    this.flush();
    this.#handOn(backlog);
    schedule.wheel.remove(backlog);
    if (this.#backlog === null) return;
    const isNext = hasRead && this.#isCatchingUp && schedule.budget.isSpent;
    // A replay goes on evenly: it must not fill all buffers on the way to its client.
    if (this.#isAwaited && !isNext) schedule.wheel.add(backlog, 1);
    else if (hasRead || this.#hasFailed) this.#visitSoon();
    else schedule.wheel.add(backlog, backlog.ticks);
  }

  /** Gives the transport frames that have waited. */
  #handOn(backlog: Backlog): void {
    if (backlog.keepsUp) this.#frames = 0;
    const { share } = backlog;
    const bytes = Math.min(
      HANDED_BYTES * share,
      this.#owner.app.limits.bufferedBytes,
    );
    let unread = this.transport.bufferedAmount;
    while (unread < bytes && this.#frames < HANDED_FRAMES * share) {
      if (this.#isCatchingUp && this.#services.schedule.budget.isSpent) break;
      const frame = backlog.take();
      if (frame === undefined) break;
      unread = this.#hand(frame);
    }
    backlog.unread = unread;
    if (!backlog.isEmpty || this.#isAwaited || this.#hasFailed) return;
    if (backlog.closing !== null || !this.#isFull(unread)) this.drop();
  }

  /**
   * Gives up on a client that does not read, or whose transport fails. It gets no
   * error frame, which would wait behind what the client does not read.
   */
  judge(): void {
    if (this.#hasFailed) return this.#giveUp(CLOSE.SendFailed);
    const { bufferedBytes } = this.#owner.app.limits;
    // A client that has read all that it was given waits for the server.
    if (this.#backlog?.keepsUp || this.pendingBytes <= bufferedBytes) return;
    this.#giveUp(CLOSE.SlowPeer);
  }

  #giveUp(close: Close): void {
    // It would keep the close waiting.
    this.drop();
    this.#owner.giveUp(close);
  }

  // ---- The end

  /** Sends nothing more. */
  close(): void {
    this.#isOpen = false;
    this.#services.schedule.flushing.delete(this);
    this.#replays?.endAll();
    this.#replays = null;
    this.#isAwaited = false;
  }

  /** Closes the transport, once the client has read what waits for it. */
  end(close: Close): void {
    if (close === CLOSE.SlowPeer) this.#traffic.slowClients++;
    const { clock, schedule } = this.#services;
    const backlog = this.#backlog;
    if (backlog?.isEmpty === false && close.code !== CLOSE.SlowPeer.code) {
      backlog.closeAfter(close, clock.elapsed());
      schedule.lingering.add(this);
      return;
    }
    this.drop();
    closeTransport(this.transport, close.code, close.message);
  }

  /** Drops what waits for the client. */
  drop(): void {
    const { schedule } = this.#services;
    const backlog = this.#backlog;
    if (backlog === null) return;
    this.#backlog = null;
    this.#isCatchingUp = this.#replays !== null;
    schedule.looking.delete(this);
    schedule.catchingUp.delete(this);
    schedule.wheel.remove(backlog);
    schedule.lingering.delete(this);
    if (backlog.closing === null) return;
    const { code, message } = backlog.closing;
    closeTransport(this.transport, code, message);
  }

  // ---- Services of replays

  /** See {@linkcode ReplayReader.isOpen}. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** See {@linkcode ReplayReader.appId}. */
  get appId(): string {
    return this.#owner.app.id;
  }

  /** See {@linkcode ReplayReader.ask}. */
  ask<T>(call: (backplane: Backplane) => Awaitable<T>): Awaitable<T> {
    return this.#services.ask(call);
  }

  /** See {@linkcode ReplayReader.after}. */
  after(delayMs: number, run: () => void): () => void {
    return this.#services.clock.after(delayMs, run);
  }

  /** See {@linkcode ReplayReader.fail}. */
  fail(error: unknown, during: string): void {
    this.#services.hooks.fail(error, during, this.appId);
  }
}
