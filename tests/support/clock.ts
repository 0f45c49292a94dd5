/**
 * Time in tests. A server goes by a clock that never jumps, which `FakeTime` does
 * not replace; in a test that fakes time it has to go by the faked one. A test
 * that needs the server's time alone turns a {@linkcode ManualClock}.
 *
 * @module
 */
import type { Clock } from "@glitz/pusher";
import { setImmediate } from "node:timers";

const realDate = Date;

/** The clock of the globals, whatever has replaced them. */
export const GLOBAL_CLOCK: Clock = {
  now: () => Date.now(),
  elapsed: () => Date.now(),
  after(delayMs, run) {
    const timer = setTimeout(run, delayMs);
    return () => clearTimeout(timer);
  },
};

/** The option for a server: the faked clock where time is faked. */
export function clockOption(): { clock?: Clock } {
  return Date === realDate ? {} : { clock: GLOBAL_CLOCK };
}

/** Lets everything run that is ready to run. */
export function turn(): Promise<void> {
  // A timer that is overdue runs before what waits for the end of its turn.
  return new Promise((resolve) =>
    realSetTimeout(() => setImmediate(resolve), 0)
  );
}

const { setTimeout: realSetTimeout, clearTimeout: realClearTimeout } =
  globalThis;

/** The clock of a server whose time goes on in a test that fakes time. */
export const REAL_CLOCK: Clock = {
  now: () => realDate.now(),
  elapsed: () => performance.now(),
  after(delayMs, run) {
    const timer = realSetTimeout(run, delayMs);
    return () => realClearTimeout(timer);
  },
};

interface Timer {
  /** When it is due, by the clock that does not jump. */
  readonly at: number;
  readonly run: () => void;
}

/**
 * A clock that stands still until the test turns it. Sockets go on in real time;
 * whatever a server does after a delay waits for the test.
 */
export class ManualClock implements Clock {
  #wallMs = Date.now();
  // A process has run for a while when a server is made.
  #elapsedMs = 5_000;
  readonly #timers = new Set<Timer>();

  now(): number {
    return this.#wallMs;
  }

  elapsed(): number {
    return this.#elapsedMs;
  }

  after(delayMs: number, run: () => void): () => void {
    // As the runtime does, so that a timer that starts itself again takes time.
    const timer = { at: this.#elapsedMs + Math.max(1, delayMs), run };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  /** How many calls are waiting to be due. */
  get waiting(): number {
    return this.#timers.size;
  }

  /** Lets time pass: each call runs when it is due. */
  pass(ms: number): void {
    const end = this.#elapsedMs + ms;
    for (let timer; (timer = this.#first()) && timer.at <= end;) {
      this.#move(Math.max(0, timer.at - this.#elapsedMs));
      this.#run(timer);
    }
    this.#move(end - this.#elapsedMs);
  }

  /** The same in steps, between which sockets and promises get their turn. */
  async passInSteps(ms: number, stepMs = 1_000): Promise<void> {
    for (let leftMs = ms; leftMs > 0; leftMs -= stepMs) {
      this.pass(Math.min(leftMs, stepMs));
      await turn();
    }
  }

  /**
   * Lets time pass as in a process that is frozen and wakes: each call that was
   * due meanwhile runs now, once, however often it would have run.
   */
  freeze(ms: number): void {
    this.#move(ms);
    const due = [...this.#timers].filter(({ at }) => at <= this.#elapsedMs);
    for (const timer of due.sort((a, b) => a.at - b.at)) {
      if (this.#timers.has(timer)) this.#run(timer);
    }
  }

  /** Sets the wall clock on or back, as somebody may do. No time passes. */
  jump(ms: number): void {
    this.#wallMs += ms;
  }

  /** The first to be due; of several, the one that was started first. */
  #first(): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.#timers) {
      if (first === undefined || timer.at < first.at) first = timer;
    }
    return first;
  }

  #move(ms: number): void {
    this.#elapsedMs += ms;
    this.#wallMs += ms;
  }

  #run(timer: Timer): void {
    this.#timers.delete(timer);
    timer.run();
  }
}
