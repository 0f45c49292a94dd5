/**
 * Random numbers for tests that a seed repeats.
 *
 * @module
 */

/** Random numbers that a seed repeats, by the algorithm known as splitmix32. */
export class Random {
  #state: number;

  constructor(...seeds: number[]) {
    this.#state = 0;
    for (const seed of seeds) {
      this.#state = (this.#state ^ seed) | 0;
      this.#state = Math.floor(this.next() * 2 ** 32) | 0;
    }
  }

  /** From 0 up to 1. */
  next(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let t = this.#state ^ (this.#state >>> 16);
    t = Math.imul(t, 0x21f0aaad);
    t ^= t >>> 15;
    t = Math.imul(t, 0x735a2d97);
    return ((t ^ (t >>> 15)) >>> 0) / 2 ** 32;
  }

  /** A whole number from 0 up to the limit. */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  /** One of a list, or of nothing `undefined`. */
  of<T>(values: readonly T[]): T | undefined {
    return values[this.below(values.length)];
  }
}
