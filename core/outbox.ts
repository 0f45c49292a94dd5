/**
 * What is on its way to clients: messages that are encoded once, what a client has
 * missed, and frames that go together.
 *
 * @module
 */

import type { LoggedMessage, Message } from "./backplane.ts";
import { encodeMessage } from "./protocol.ts";

/** A message on its way to the subscribers of a channel; encoded once at most. */
export class Delivery {
  readonly channel: string;
  readonly offset: number;
  readonly #message: Message;
  #frame: string | undefined;
  #positioned: string | undefined;

  constructor(channel: string, message: Message, offset: number) {
    this.channel = channel;
    this.#message = message;
    this.offset = offset;
  }

  /** Whether a log keeps it, so that a client may come back for it. */
  get isLogged(): boolean {
    return this.#message.logged === true;
  }

  /** The connection that does not get it; "" if it is for all. */
  get exceptSocketId(): string {
    return this.#message.exceptSocketId ?? "";
  }

  /** As stock clients know it. */
  get frame(): string {
    return this.#frame ??= encodeMessage(this.channel, this.#message);
  }

  /** For a client that is told positions. */
  get positioned(): string {
    if (!this.isLogged) return this.frame;
    return this.#positioned ??= `${
      this.frame.slice(0, -1)
    },"offset":${this.offset}}`;
  }
}

// Many clients come back at once and miss the same, which is to be encoded once.
// Nothing is kept for it: what nobody is waiting for any more may go.
const deliveries = new WeakMap<LoggedMessage, WeakRef<Delivery>>();

/** A message of a log, on its way to those who have missed it. */
export function deliveryOf(channel: string, logged: LoggedMessage): Delivery {
  const known = deliveries.get(logged)?.deref();
  if (known !== undefined) return known;
  const delivery = new Delivery(channel, logged.message, logged.offset);
  deliveries.set(logged, new WeakRef(delivery));
  return delivery;
}

/** What a client has missed and, behind that, what was delivered meanwhile. */
export class ReplayQueue {
  /** UTF-16 units of what would be nowhere else: what was delivered meanwhile. */
  units = 0;
  #items: { delivery: Delivery; units: number }[] = [];
  #taken = 0;

  addMissed(missed: readonly Delivery[]): void {
    for (const delivery of missed) this.#items.push({ delivery, units: 0 });
  }

  add(delivery: Delivery): void {
    const units = delivery.frame.length;
    this.#items.push({ delivery, units });
    this.units += units;
  }

  /** The next one, or null at the end. */
  take(): Delivery | null {
    const next = this.#items[this.#taken];
    if (next === undefined) return null;
    this.#taken++;
    this.units -= next.units;
    return next.delivery;
  }

  /** Forgets what is for a channel that the client has left. */
  drop(channel: string): void {
    this.#items = this.#items.slice(this.#taken).filter((item) => {
      if (item.delivery.channel !== channel) return true;
      this.units -= item.units;
      return false;
    });
    this.#taken = 0;
  }
}

/**
 * Frames that a client gets in one. Clients that get the same ones share it, and
 * so the text that is made of them.
 */
export class Batch {
  /** UTF-16 units. */
  readonly units: number;
  readonly #frames: string;
  readonly #isSingle: boolean;
  #text: string | undefined;
  /** What somebody has added to it last, and what came of that. */
  #lastFrame: string | undefined;
  #last: Batch | undefined;

  constructor(frames: string, isSingle: boolean) {
    this.#frames = frames;
    this.#isSingle = isSingle;
    this.units = frames.length;
  }

  /** The batch with one more frame. */
  with(frame: string): Batch {
    if (this.#last !== undefined && this.#lastFrame === frame) {
      return this.#last;
    }
    this.#lastFrame = frame;
    return this.#last = this === EMPTY_BATCH
      ? new Batch(frame, true)
      : new Batch(`${this.#frames},${frame}`, false);
  }

  /** The one frame that all of them make. */
  get frame(): string {
    return this.#text ??= this.#isSingle ? this.#frames : `[${this.#frames}]`;
  }

  /** Forgets what has been added to it. */
  forget(): void {
    this.#last = this.#lastFrame = undefined;
  }
}

/** Where every batch begins. */
export const EMPTY_BATCH = new Batch("", true);
