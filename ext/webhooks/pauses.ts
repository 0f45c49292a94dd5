/**
 * Waiting, for a time that can be cut short.
 *
 * @module
 */

import type { Clock } from "../../mod.ts";

/** The pauses of a worker, one after the other. */
export class Pauses {
  readonly #clock: Clock;
  #end: (() => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Waits for so long, or until {@linkcode Pauses.end}. */
  wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        cancel();
        this.#end = null;
        resolve();
      };
      const cancel = this.#clock.after(ms, end);
      this.#end = end;
    });
  }

  /** Ends the current pause, if there is one. */
  end(): void {
    this.#end?.();
  }
}
