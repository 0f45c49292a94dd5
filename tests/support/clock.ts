/**
 * Time in tests. A server goes by a clock that never jumps, which `FakeTime` does
 * not replace; in a test that fakes time it has to go by the faked one. A test
 * that needs the server's time alone turns a {@linkcode ManualClock}.
 *
 * @module
 */
import type { Clock } from "@glitz/pusher";
import { setImmediate } from "node:timers";
import { TestClock } from "../../ext/testing/clock.ts";

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

/**
 * A clock that stands still until the test turns it. Sockets go on in real time;
 * whatever a server does after a delay waits for the test.
 */
export class ManualClock extends TestClock {
  /** Lets time pass: each call runs when it is due. */
  pass(ms: number): void {
    this.tick(ms);
  }

  /** The same in steps, between which sockets and promises get their turn. */
  async passInSteps(ms: number, stepMs = 1_000): Promise<void> {
    for (let leftMs = ms; leftMs > 0; leftMs -= stepMs) {
      this.pass(Math.min(leftMs, stepMs));
      await turn();
    }
  }
}
