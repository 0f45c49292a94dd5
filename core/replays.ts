/**
 * The replays of one client: cursors into the histories of its channels, which are
 * read as the client reads.
 *
 * @module
 */

import type { Backplane, Page, Position } from "./backplane.ts";
import { type Delivery, deliveryOf } from "./deliveries.ts";
import type { Awaitable } from "./time.ts";
import { isUnavailable } from "./unavailable.ts";

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
  /** Whether the next page has been asked for, or will be. */
  isReading: boolean;
  /** Cancels the next attempt to read. */
  cancel: () => void;
  /** Deliveries that the history does not hold, to be sent in between. */
  waiting: Delivery[];
  /** Resolves what {@linkcode Replays.start} has returned. */
  settle: () => void;
}

// How soon a page is asked for again that could not be read as the backplane was away.
const RETRY_MS = 1_000;

const EMPTY_PAGE: Page = Object.freeze({ messages: [], reaches: -1 });

/** How large a page of the history is; a backplane may keep one for each client. */
const PAGE = Object.freeze({ events: 100, bytes: 65_536 });

/** The client of some replays. */
export interface ReplayReader {
  /** Whether it is there, and gets what is sent. */
  readonly isOpen: boolean;
  /** Whether it has read enough for more of a replay. */
  readonly hasRoom: boolean;
  readonly appId: string;
  /** Says that no replay is left. */
  replayed(): void;
  /** Calls {@linkcode Replays.goOn} once the client has had time to read. */
  awaitRoom(): void;
  sendDelivery(delivery: Delivery): void;
  /** Tells the client that it has lost messages before a position. */
  tellLost(channel: string, now: Position): void;
  /** Stops counting deliveries that no longer wait. */
  unhold(waiting: readonly Delivery[]): void;
  /** Calls the backplane. */
  ask<T>(call: (backplane: Backplane) => Awaitable<T>): Awaitable<T>;
  /** Calls something later; returns how to cancel that. */
  after(delayMs: number, run: () => void): () => void;
  /** Reports a failure. */
  fail(error: unknown, during: string): void;
}

/** The replays of one client, of which each has its channel. */
export class Replays {
  readonly #reader: ReplayReader;
  readonly #byChannel = new Map<string, Replay>();

  constructor(reader: ReplayReader) {
    this.#reader = reader;
  }

  /** See {@linkcode Outbox.replay}. */
  start(channel: string, from: Position, until: number): Awaitable<void> {
    const replay: Replay = {
      ...{ channel, epoch: from.epoch, after: from.offset, until },
      ...{ page: EMPTY_PAGE, taken: 0, isReading: false, waiting: [] },
      ...{ cancel: () => {}, settle: () => {} },
    };
    this.#byChannel.set(channel, replay);
    this.goOn();
    if (!replay.isReading) return;
    return new Promise((resolve) => replay.settle = resolve);
  }

  /**
   * Takes a message of a channel that is being replayed.
   *
   * @returns Where it has to wait; null if the replay will read it from the
   * history, undefined if the channel is not being replayed.
   */
  take(delivery: Delivery): Delivery[] | null | undefined {
    const replay = this.#byChannel.get(delivery.channel);
    if (replay === undefined) return undefined;
    if (!delivery.isLogged) return replay.waiting;
    replay.until = delivery.offset;
    return null;
  }

  /** Ends the replay of a channel. */
  end(channel: string): void {
    const replay = this.#byChannel.get(channel);
    if (replay === undefined) return;
    this.#reader.unhold(replay.waiting);
    this.#remove(replay);
  }

  /** Ends all replays. */
  endAll(): void {
    this.#settle();
    for (const { cancel } of this.#byChannel.values()) cancel();
    this.#byChannel.clear();
  }

  #settle(): void {
    for (const { settle } of this.#byChannel.values()) settle();
  }

  #remove({ channel, cancel, settle }: Replay): void {
    cancel();
    this.#byChannel.delete(channel);
    if (this.#byChannel.size === 0) this.#reader.replayed();
    settle();
  }

  /** Goes on with the replays, as far as the client has read. */
  goOn(): void {
    for (const replay of this.#byChannel.values()) {
      if (this.#advance(replay)) continue;
      // The other replays cannot go on either before the client has read.
      this.#settle();
      return this.#reader.awaitRoom();
    }
  }

  /** Goes on with one replay; false if the client has to read first. */
  #advance(replay: Replay): boolean {
    const reader = this.#reader;
    for (;;) {
      if (!reader.isOpen) return true;
      const next = replay.page.messages[replay.taken];
      if (next === undefined && replay.after >= replay.until) {
        this.#sendWaiting(replay, Infinity);
        this.#remove(replay);
        return true;
      }
      if (!reader.hasRoom) return false;
      if (next !== undefined) {
        this.#sendWaiting(replay, next.offset);
        reader.sendDelivery(deliveryOf(replay.channel, next));
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
    const { appId } = this.#reader;
    const page = this.#reader.ask((one) => one.read(appId, channel, request));
    if (!(page instanceof Promise)) {
      this.#takePage(replay, page);
      return true;
    }
    replay.isReading = true;
    page.catch((error) => {
      this.#reader.fail(error, "reading a channel's history");
      return isUnavailable(error) ? "away" : null;
    }).then((answer) => {
      // The client may have left the channel by now.
      if (this.#byChannel.get(channel) !== replay) return;
      if (answer === "away") return this.#readLater(replay);
      replay.isReading = false;
      this.#takePage(replay, answer);
      this.goOn();
    });
    return false;
  }

  /** Reads on when the backplane may be back: it may still have everything. */
  #readLater(replay: Replay): void {
    replay.settle();
    replay.cancel = this.#reader.after(RETRY_MS, () => {
      replay.isReading = false;
      this.goOn();
    });
  }

  #takePage(replay: Replay, page: Page | null): void {
    const { channel, epoch, after, until } = replay;
    const isGone = page === null ||
      (page.messages.length === 0 && page.reaches <= after);
    if (isGone) {
      // The history no longer reaches back to what the client has missed.
      replay.after = until;
      return this.#reader.tellLost(channel, { epoch, offset: until });
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
    this.#reader.unhold(first);
    for (const delivery of first) this.#reader.sendDelivery(delivery);
  }
}
