/**
 * Calls that have not been answered yet.
 *
 * @module
 */

import type { Awaitable } from "./time.ts";

/** Remembers calls until they settle, so that a shutdown can wait for them. */
export class Unsettled {
  readonly #calls = new Set<Promise<unknown>>();

  /** Remembers a call, and returns it. */
  track<T>(value: Awaitable<T>): Awaitable<T> {
    if (!(value instanceof Promise)) return value;
    this.#calls.add(value);
    const settle = () => this.#calls.delete(value);
    value.then(settle, settle);
    return value;
  }

  /** Resolves when no call is left; a call may lead to others. */
  async settled(): Promise<void> {
    while (this.#calls.size > 0) await Promise.allSettled(this.#calls);
  }
}
