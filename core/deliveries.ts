/**
 * Messages on their way to clients, encoded once for all of them, and batches of
 * frames that are sent as one.
 *
 * @module
 */

import type { LoggedMessage, Message } from "./backplane.ts";
import { encodeMessage } from "./protocol.ts";

/** A message on its way to the subscribers of a channel; encoded once at most. */
export class Delivery {
  readonly channel: string;
  readonly offset: number;
  /** The epoch of the offset; "" for a message of the history. */
  readonly epoch: string;
  readonly #message: Message;
  #frame: string | undefined;
  #positioned: string | undefined;

  constructor(channel: string, message: Message, offset: number, epoch = "") {
    this.channel = channel;
    this.#message = message;
    this.offset = offset;
    this.epoch = epoch;
  }

  /** Whether the history keeps it for clients that come back. */
  get isLogged(): boolean {
    return this.#message.logged === true;
  }

  /** What it says to the server itself; undefined if it is for clients. */
  get control(): Message["control"] {
    return this.#message.control;
  }

  /** The connection that does not get it; "" if all do. */
  get exceptSocketId(): string {
    return this.#message.exceptSocketId ?? "";
  }

  /** The frame for stock clients. */
  get frame(): string {
    return this.#frame ??= encodeMessage(this.channel, this.#message);
  }

  /**
   * For a client that gets positions. The field is added to the text, as encoding
   * the data a second time would double the cost of an event.
   */
  get positioned(): string {
    if (!this.isLogged) return this.frame;
    return this.#positioned ??= `${
      this.frame.slice(0, -1)
    },"offset":${this.offset}}`;
  }
}

// Many clients may come back at once and have missed the same messages. Each message
// is encoded once for all of them, and its text is freed when no client waits for it.
const deliveries = new WeakMap<LoggedMessage, WeakRef<Delivery>>();

/** A message of the history, on its way to clients that have missed it. */
export function deliveryOf(channel: string, logged: LoggedMessage): Delivery {
  const known = deliveries.get(logged)?.deref();
  if (known !== undefined) return known;
  const delivery = new Delivery(channel, logged.message, logged.offset);
  deliveries.set(logged, new WeakRef(delivery));
  return delivery;
}

/**
 * Frames that are sent to a client as one. Clients that get the same frames share the
 * batch, and so its text.
 */
export class FrameBatch {
  /** UTF-16 units. */
  readonly units: number;
  readonly #frames: string;
  readonly #isSingle: boolean;
  #text: string | undefined;
  /** The frame that was added last, and the batch that came of it. */
  #lastFrame: string | undefined;
  #last: FrameBatch | undefined;

  constructor(frames: string, isSingle: boolean) {
    this.#frames = frames;
    this.#isSingle = isSingle;
    this.units = frames.length;
  }

  /** The batch with one more frame. */
  with(frame: string): FrameBatch {
    if (this.#last !== undefined && this.#lastFrame === frame) {
      return this.#last;
    }
    this.#lastFrame = frame;
    return this.#last = this === EMPTY_BATCH
      ? new FrameBatch(frame, true)
      : new FrameBatch(`${this.#frames},${frame}`, false);
  }

  /** The one frame that has all of them. */
  get frame(): string {
    return this.#text ??= this.#isSingle ? this.#frames : `[${this.#frames}]`;
  }

  /** Forgets the batches that begin with it. */
  forget(): void {
    this.#last = this.#lastFrame = undefined;
  }
}

/** The batch without frames, from which all others are made. */
export const EMPTY_BATCH = new FrameBatch("", true);
