/**
 * What takes time: values that are there at once or later, and rates.
 *
 * @module
 */

/** A value, or a promise of it: whatever is at hand without waiting stays so. */
export type Awaitable<T> = T | Promise<T>;

/** Carries on with a value: at once if it is at hand, else when it is. */
export function chain<T, R>(
  value: Awaitable<T>,
  next: (value: T) => Awaitable<R>,
): Awaitable<R> {
  return value instanceof Promise ? value.then(next) : next(value);
}

/** All values at once: without waiting if none of them is promised. */
export function all<T>(values: readonly Awaitable<T>[]): Awaitable<T[]> {
  return values.some((value) => value instanceof Promise)
    ? Promise.all(values)
    // No promise is among them, as has just been seen.
    : values as T[];
}

/** Turns what is thrown at once into a rejection. */
export function attempt<T>(run: () => Awaitable<T>): Awaitable<T> {
  try {
    return run();
  } catch (error) {
    return Promise.reject(error);
  }
}

// A longer delay overflows the runtime's timer, which then fires at once.
export const MAX_TIMER_MS = 2 ** 31 - 1;

/** A rate with room for a burst. */
export class TokenBucket {
  #tokens: number;
  #filledAt = Date.now();

  constructor(tokens: number) {
    this.#tokens = tokens;
  }

  /** Takes one token; false if there is none. */
  take(capacity: number, perSecond: number): boolean {
    if (perSecond === Infinity) return true;
    const now = Date.now();
    // A clock that was set back fills nothing, and empties nothing.
    const elapsedS = Math.max(0, now - this.#filledAt) / 1000;
    this.#tokens = Math.min(capacity, this.#tokens + elapsedS * perSecond);
    this.#filledAt = now;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}
