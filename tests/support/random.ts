/**
 * Random numbers for tests that a seed repeats.
 *
 * @module
 */

/** Random numbers, and choices by them; the algorithm is known as splitmix32. */
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

  /** True in this share of the calls. */
  chance(share: number): boolean {
    return this.next() < share;
  }

  /** One of a list, which must not be empty. */
  of<T>(values: readonly T[]): T {
    if (values.length === 0) throw new RangeError("Cannot choose: empty list");
    return values[this.below(values.length)] as T;
  }

  /** One of several things, each as often as its weight says. */
  weighted<T>(table: readonly (readonly [weight: number, what: T])[]): T {
    let left = this.next() * table.reduce((sum, [weight]) => sum + weight, 0);
    for (const [weight, what] of table) if ((left -= weight) < 0) return what;
    return table.at(-1)![1]; // Only rounding gets here; no table is empty.
  }

  /** Random bytes. */
  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.below(256));
  }

  /** Cuts, repeats or changes a few characters of a text. */
  damage(text: string, spice: readonly string[]): string {
    const at = this.below(text.length + 1);
    const end = at + this.below(8);
    const put = this.of(spice);
    return this.of([
      text.slice(0, at),
      text.slice(at),
      text.slice(0, at) + text.slice(end),
      text.slice(0, end) + text.slice(at),
      text.slice(0, at) + put + text.slice(at),
      text.slice(0, at) + put + text.slice(end),
    ]);
  }
}
