/**
 * What could not be kept while the backplane was away.
 *
 * @module
 */

import { attempt, type Awaitable } from "./time.ts";

// Calls at a time when the backplane is back.
const WORKERS = 64;

/** Items that are to be kept when the backplane is back, each with its latest fate. */
export class Unkept<Item> {
  readonly #max: number;
  readonly #items = new Map<Item, boolean>();

  /** @param max How many there may be; above it the oldest is forgotten. */
  constructor(max: number) {
    this.#max = max;
  }

  /** Remembers an item, and whether its client is away. */
  add(item: Item, isAway: boolean): void {
    this.#items.delete(item);
    this.#items.set(item, isAway);
    if (this.#items.size <= this.#max) return;
    for (const [oldest] of this.#items) return void this.#items.delete(oldest);
  }

  /** Has every item kept; a failure may add it again. */
  goOn(keep: (item: Item, isAway: boolean) => Awaitable<void>): void {
    const round = [...this.#items].values();
    this.#items.clear();
    const work = async () => {
      for (const [item, isAway] of round) {
        // Whoever keeps it has reported a failure.
        await Promise.resolve(attempt(() => keep(item, isAway))).catch(
          () => {},
        );
      }
    };
    for (let i = 0; i < WORKERS; i++) work();
  }
}
