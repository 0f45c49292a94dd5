/**
 * Time in tests. A server goes by a clock that never jumps, which `FakeTime` does
 * not replace; in a test that fakes time it has to go by the faked one.
 *
 * @module
 */
import type { Clock } from "@glitz/pusher";

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
