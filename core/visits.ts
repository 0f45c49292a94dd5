/**
 * When the outboxes of a server are visited: what waits for a client is sent as the
 * client reads.
 *
 * @module
 */

import { EMPTY_BATCH } from "./deliveries.ts";
import {
  afterThisTurn,
  type Clock,
  Later,
  type RunLimit,
  TickWheel,
  TimeLimit,
} from "./time.ts";

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

// ---- Clients that catch up --------------------------------------------------

// What clients that catch up are sent in a turn of the event loop, all together. A
// frame costs the program 2 µs, and the runtime, which writes it after the program's
// turn, 10 to 25 µs. Nothing else is served before the last frame is written.
const TURN_COST = 750;
/** So many UTF-16 units cost as much as a frame. */
const COST_UNITS = 2_048;
/** No turn takes so long: what was sent before says nothing about the last turn. */
const MAX_TURN_MS = 1_000;

/**
 * What clients that get a replay may be sent in this turn of the event loop. Many may
 * come back at once, and each has room for many frames: together they would hold up
 * all other clients.
 */
export class CatchUpBudget implements RunLimit {
  readonly #clock: Clock;
  readonly #time: TimeLimit;
  #limit = TURN_COST;
  #spent = 0;
  /** When the first of it was spent. */
  #spentAt = 0;
  /** What all other clients were sent since then. */
  #others = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#time = new TimeLimit(clock, LOOK_MS);
  }

  /** Whether clients that catch up have to wait for the next turn. */
  get isSpent(): boolean {
    return this.#spent >= this.#limit;
  }

  /** Takes note of a frame. */
  sent(units: number, isCatchingUp: boolean): void {
    const cost = 1 + units / COST_UNITS;
    if (!isCatchingUp) {
      this.#others += cost;
      return;
    }
    if (this.#spent === 0) {
      this.#spentAt = this.#clock.elapsed();
      this.#others = 0;
    }
    this.#spent += cost;
  }

  /** See {@linkcode RunLimit.begin}. */
  begin(): void {
    const elapsedMs = this.#clock.elapsed() - this.#spentAt;
    // Where others are sent more, clients that catch up are sent as much. They would
    // never be done otherwise: what others are sent now is missing to them, too.
    const others = elapsedMs < MAX_TURN_MS ? this.#others : 0;
    this.#limit = Math.max(TURN_COST, others);
    this.#spent = this.#others = 0;
    this.#time.begin();
  }

  /** See {@linkcode RunLimit.isReached}. */
  isReached(): boolean {
    // Clients that come next must not be served before those that are left.
    if (this.#time.isReached()) this.#spent = Infinity;
    return this.isSpent;
  }
}

// ---- Clients that take batches ----------------------------------------------

// In so many turns of the event loop all clients get their batches. In one turn, all
// else would wait until the last batch is written. In several, the server takes more
// messages meanwhile, and they join the batches that still wait: a frame costs the
// runtime 13 µs or more, and a message in a frame less than 1 µs. More turns make
// larger batches, but a client waits longer for its own.
const FLUSH_TURNS = 4;
/** So few clients get their batches in one turn: they hold up nobody. */
const MIN_FLUSHED = 64;

/** How many clients get their batches in a turn. */
export class FlushShare implements RunLimit {
  #share = 0;
  /** How many more may get theirs in this turn. */
  #left = 0;
  /** Whether others wait for the next turn. */
  #goesOn = false;

  /** See {@linkcode RunLimit.begin}. */
  begin(items: number): void {
    // The share does not shrink with what is left, or the last would wait for longer.
    const least = this.#goesOn ? this.#share : MIN_FLUSHED;
    this.#share = Math.max(least, Math.ceil(items / FLUSH_TURNS));
    this.#goesOn = items > this.#share;
    this.#left = this.#share;
  }

  /** See {@linkcode RunLimit.isReached}. */
  isReached(): boolean {
    return --this.#left <= 0;
  }
}

// ---- The schedule -----------------------------------------------------------

/** Visits the outboxes of a server later, all together. */
export class OutboxSchedule {
  /** Flushes batches at the end of this turn of the event loop, or of the next ones. */
  readonly flushing: Later<Visited>;
  /**
   * Sends what waits, and disconnects clients that do not read. Not at once: frames
   * of this turn cannot be written before the next, so a burst of the program says
   * nothing about the client. And nobody may leave a channel in the middle of a
   * fan-out.
   */
  readonly looking: Later<Visited>;
  /** The same for clients that get a replay, in turns. */
  readonly catchingUp: Later<Visited>;
  /** What they may be sent in this turn. */
  readonly budget: CatchUpBudget;
  /** The same for clients that read nothing. No event says that they have read. */
  readonly wheel: TickWheel;
  /** Outboxes that are closed, and whose last frames wait for their clients. */
  readonly lingering = new Set<Visited>();

  constructor(clock: Clock) {
    const flush = (run: () => void) => () => {
      run();
      // Clients that still wait hold their batches themselves.
      EMPTY_BATCH.forget();
    };
    this.flushing = new Later(
      (run) => afterThisTurn(flush(run)),
      (outbox) => outbox.flush(),
      new FlushShare(),
    );
    const soon = (run: () => void) => clock.after(0, run);
    const look = (outbox: Visited) => outbox.look();
    this.looking = new Later(soon, look, new TimeLimit(clock, LOOK_MS));
    this.budget = new CatchUpBudget(clock);
    this.catchingUp = new Later(soon, look, this.budget);
    this.wheel = new TickWheel(clock, 10 * STALL_TICK_MS, STALL_TICK_MS);
  }

  /** Waits no longer for clients that have not read their last frames. */
  endAll(): void {
    for (const outbox of this.lingering) outbox.drop();
  }
}
