/**
 * A clock that a test turns, and the real time by which a test waits.
 *
 * @module
 */

import { setImmediate } from "node:timers";
import type { Clock } from "../../core/time.ts";

// ---- Real time --------------------------------------------------------------
// Taken before a test can fake the globals: a deadline passes in real time.

const { setTimeout: startTimer, clearTimeout: stopTimer } = globalThis;

/** Calls once after a delay in real time; returns a function that cancels it. */
export function inRealTime(ms: number, run: () => void): () => void {
  const timer = startTimer(run, ms);
  return () => stopTimer(timer);
}

/** Lets everything run that is ready to run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

// ---- The clock --------------------------------------------------------------

/** A call that waits for its time. */
interface Timer {
  /** When it is due, by the clock that does not jump. */
  readonly dueAt: number;
  readonly run: () => void;
}

/**
 * A clock that stands still until the test turns it. As the option `clock` of a
 * server it decides about every timeout, age and rate of that server. It starts no
 * timer of the runtime, so no test leaks one.
 *
 * @example A client that goes silent is closed after `pingAfterMs` and `pongTimeoutMs`
 * ```ts
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher();
 * const ann = await test.connect();
 * ann.network.drop();
 * await test.clock.tickAsync(80_000);
 * assertEquals(test.pusher.stats().connections, 0);
 * ```
 */
export class TestClock implements Clock {
  #wallMs: number;
  // A process has run for a while when a server is made.
  #elapsedMs = 5_000;
  readonly #timers = new Set<Timer>();

  /**
   * Makes a clock.
   *
   * @param now What {@linkcode TestClock.now} begins with, in milliseconds since
   * 1970. By default the time of the machine.
   */
  constructor(now: number = Date.now()) {
    this.#wallMs = now;
  }

  /** See {@linkcode Clock.now}. */
  now(): number {
    return this.#wallMs;
  }

  /** See {@linkcode Clock.elapsed}. */
  elapsed(): number {
    return this.#elapsedMs;
  }

  /** See {@linkcode Clock.after}. */
  after(delayMs: number, run: () => void): () => void {
    // As the runtime does, so that a timer that starts itself again takes time.
    const dueAt = this.#elapsedMs + Math.max(1, delayMs);
    const timer = { dueAt, run };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  /** How many calls wait for their time. */
  get waiting(): number {
    return this.#timers.size;
  }

  /**
   * Lets time pass: each call runs when it is due. Promises get no turn in between.
   *
   * @param ms Milliseconds.
   * @throws {RangeError} If `ms` is below 0 or not a number.
   */
  tick(ms: number): void {
    const end = this.#endOf(ms);
    for (let timer; (timer = this.#first()) && timer.dueAt <= end;) {
      this.#moveTo(timer.dueAt);
      this.#run(timer);
    }
    this.#moveTo(end);
  }

  /**
   * Lets time pass, and lets frames and promises get their turn after each call.
   * Use it where one timer waits for what another one has caused.
   *
   * @param ms Milliseconds.
   * @throws {RangeError} As {@linkcode tick}.
   */
  async tickAsync(ms: number): Promise<void> {
    const end = this.#endOf(ms);
    await turn();
    for (let timer; (timer = this.#first()) && timer.dueAt <= end;) {
      this.#moveTo(timer.dueAt);
      this.#run(timer);
      await turn();
    }
    this.#moveTo(end);
  }

  /**
   * Lets time pass as in a process that is frozen and wakes: each call that was due
   * meanwhile runs now, once, however often it would have run.
   *
   * @param ms Milliseconds.
   * @throws {RangeError} As {@linkcode tick}.
   */
  freeze(ms: number): void {
    this.#moveTo(this.#endOf(ms));
    const due = [...this.#timers]
      .filter(({ dueAt }) => dueAt <= this.#elapsedMs);
    for (const timer of due.sort((a, b) => a.dueAt - b.dueAt)) {
      if (this.#timers.has(timer)) this.#run(timer);
    }
  }

  /**
   * Sets the wall clock on or back, as somebody may do. No time passes.
   *
   * @param ms Milliseconds; below 0 to set it back.
   */
  jump(ms: number): void {
    this.#wallMs += ms;
  }

  #endOf(ms: number): number {
    if (ms >= 0) return this.#elapsedMs + ms;
    throw new RangeError(
      `Cannot turn the clock: ms is ${ms}, and must be a number from 0`,
    );
  }

  /** The first to be due; of several, the one that was started first. */
  #first(): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.#timers) {
      if (first === undefined || timer.dueAt < first.dueAt) first = timer;
    }
    return first;
  }

  #moveTo(elapsedMs: number): void {
    // A call that is due may itself have turned the clock.
    const ms = Math.max(0, elapsedMs - this.#elapsedMs);
    this.#elapsedMs += ms;
    this.#wallMs += ms;
  }

  #run(timer: Timer): void {
    this.#timers.delete(timer);
    timer.run();
  }
}
