/**
 * The pace at which a server that is going away closes its connections.
 *
 * @module
 */

import type { Clock } from "./time.ts";

/** Closing every twentieth of a second is even enough for clients, and cheap. */
export const DRAIN_TICK_MS = 50;

/**
 * Says at each tick how many connections to close, so that an even share is closed
 * in each span of time, whatever the number of connections. It goes by the clock
 * and does not count ticks: a drain with late timers is as long, and as even.
 */
export class Drain {
  readonly #clock: Clock;
  /** When it is over, see {@linkcode Clock.elapsed}. */
  #endsAt = Infinity;
  /** Until when connections have been closed: the next tick, if it is on time. */
  #closedUntil: number | null = null;
  /** The part of a connection that was due at earlier ticks, below 1. */
  #owed = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Has the drain end after a time; a drain that has begun can only end earlier. */
  endWithin(overMs: number): void {
    this.#endsAt = Math.min(this.#endsAt, this.#clock.elapsed() + overMs);
  }

  /** How many of the connections that are left to close now: at the end all. */
  share(connections: number): number {
    const now = this.#clock.elapsed();
    const leftMs = this.#endsAt - (this.#closedUntil ?? now);
    this.#closedUntil = now + DRAIN_TICK_MS;
    const leftAfterwardsMs = this.#endsAt - this.#closedUntil;
    if (leftAfterwardsMs <= 0) return connections;
    // Connections that are due already are among those that are left.
    const left = (connections - this.#owed) * leftAfterwardsMs / leftMs;
    const due = connections - left;
    // Ten tenths are a little less than 1.
    const share = Math.max(0, Math.floor(due + 1e-6));
    this.#owed = Math.max(0, due - share);
    return share;
  }
}
