/**
 * When the outboxes of a server are visited: what waits for a client is sent as the
 * client reads.
 *
 * @module
 */

import { EMPTY_BATCH } from "./deliveries.ts";
import { afterThisTurn, type Clock, Later, TickWheel } from "./time.ts";

/** How long clients that read are given frames before other things get their turn. */
const LOOK_MS = 20;
/** How often the server checks whether a client that read nothing has read. */
const STALL_TICK_MS = 10;

/** An outbox, as far as its visits are concerned. */
export interface Visited {
  /** Sends the frames of this turn. */
  flush(): void;
  /** Sends what waits, as far as the client has read, and judges the client. */
  look(): void;
  /** Drops what waits for the client. */
  drop(): void;
}

/** Visits the outboxes of a server later, all together. */
export class OutboxSchedule {
  /** Flushes batches at the end of this turn of the event loop. */
  readonly flushing: Later<Visited>;
  /**
   * Sends what waits, and disconnects clients that do not read. Not at once: frames
   * of this turn cannot be written before the next, so a burst of the program says
   * nothing about the client. And nobody may leave a channel in the middle of a
   * fan-out.
   */
  readonly looking: Later<Visited>;
  /** The same for clients that read nothing. No event says that they have read. */
  readonly wheel: TickWheel;
  /** Outboxes that are closed, and whose last frames wait for their clients. */
  readonly lingering = new Set<Visited>();

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
    this.looking = new Later(
      (run) => clock.after(0, run),
      (outbox) => outbox.look(),
      // Many clients that come back at once must not hold up all others.
      { clock, ms: LOOK_MS },
    );
    this.wheel = new TickWheel(clock, 10 * STALL_TICK_MS, STALL_TICK_MS);
  }

  /** Waits no longer for clients that have not read their last frames. */
  endAll(): void {
    for (const outbox of this.lingering) outbox.drop();
  }
}
