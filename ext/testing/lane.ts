/**
 * One direction of a line in memory. Frames keep their order, whatever delays them.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Clock } from "../../core/time.ts";

/** How a connection was closed. */
export interface Closing {
  /** The close code of WebSocket; 1006 for a connection that was lost. */
  readonly code: number;
  /** The reason, which may be empty. */
  readonly reason: string;
}

/** What travels on a line: a frame, a close frame, or a step of the handshake. */
export type Item =
  | { readonly data: unknown }
  | { readonly closing: Closing }
  | { readonly step: () => unknown };

/** An item on its way. */
interface Travelling {
  readonly item: Item;
  readonly bytes: number;
  /** When it arrives. Infinity while the lane holds it. */
  dueAt: number;
}

/** What is on its way from one end to the other. */
export class Lane {
  /** Bytes that have not arrived. */
  bytes = 0;
  isDead = false;
  #delayMs = 0;
  #queue: Travelling[] = [];
  #cancel: (() => void) | null = null;
  readonly #clock: Clock;
  readonly #arrive: (item: Item) => void;

  constructor(clock: Clock, arrive: (item: Item) => void) {
    this.#clock = clock;
    this.#arrive = arrive;
  }

  /**
   * Bytes that the sender sees as unsent. A lane without a fault is as fast as can
   * be: its frames arrive in this turn.
   */
  get unsent(): number {
    return this.isDead || this.#delayMs > 0 ? this.bytes : 0;
  }

  push(item: Item): void {
    const bytes = "data" in item ? sizeOf(item.data) : 0;
    this.bytes += bytes;
    if (this.isDead) return;
    const dueAt = this.#clock.elapsed() + this.#delayMs;
    this.#queue.push({ item, bytes, dueAt });
    this.#schedule();
  }

  /** Delays what is sent from now on. */
  delay(ms: number): void {
    this.#delayMs = ms;
  }

  /** Lets nothing arrive any more. */
  kill(): void {
    this.isDead = true;
    this.#queue = [];
    this.#cancel?.();
    this.#cancel = null;
  }

  /** Lets everything arrive that is on its way, in this turn. */
  restore(): void {
    this.#delayMs = 0;
    for (const travelling of this.#queue) travelling.dueAt = -Infinity;
    this.#cancel?.();
    this.#cancel = null;
    this.#schedule();
  }

  #schedule(): void {
    const [first] = this.#queue;
    if (first === undefined || this.#cancel !== null) return;
    const waitMs = first.dueAt - this.#clock.elapsed();
    if (waitMs === Infinity) return;
    const run = () => {
      this.#cancel = null;
      this.#next();
    };
    if (waitMs > 0) {
      this.#cancel = this.#clock.after(waitMs, run);
      return;
    }
    let isCancelled = false;
    this.#cancel = () => isCancelled = true;
    queueMicrotask(() => isCancelled || run());
  }

  #next(): void {
    const travelling = this.#queue.shift();
    if (travelling === undefined) return;
    this.bytes -= travelling.bytes;
    try {
      this.#arrive(travelling.item);
    } finally {
      this.#schedule();
    }
  }
}

function sizeOf(data: unknown): number {
  return typeof data === "string"
    ? Buffer.byteLength(data)
    : data instanceof Blob
    ? data.size
    : Number(Object(data).byteLength);
}
