/**
 * A bound on calls that are under way, for calls that must not be refused: thousands
 * of clients may come or go at once.
 *
 * @module
 */

/** Runs so many tasks at a time; the others wait, in their order. */
export class Turns {
  readonly #most: number;
  readonly #waiting = new Set<() => void>();
  #running = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** Runs a task, at once where that is possible. */
  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running < this.#most) this.#running++;
    else {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.add(resolve);
      await promise;
    }
    try {
      return await task();
    } finally {
      // The turn passes on, so that nobody comes in between.
      const [next] = this.#waiting;
      if (next === undefined) this.#running--;
      else {
        this.#waiting.delete(next);
        next();
      }
    }
  }
}
