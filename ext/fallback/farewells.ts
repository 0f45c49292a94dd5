/**
 * The last lines of closed sessions, for clients that have not read them.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";

/** The last lines of a closed session, for a client that has not read them. */
export interface Farewell {
  readonly text: string;
  /** The number of the last request, if it was answered. */
  readonly number: number | null;
  /** The lines for a retry of that request; null if the retry opens a session. */
  readonly retriedText: string | null;
}

/** The farewells of closed sessions, for as long as clients may ask for them. */
export class Farewells {
  readonly #keptMs: number;
  readonly #clock: Clock;
  /** In the order in which they expire. */
  readonly #entries = new Map<string, Farewell & { readonly until: number }>();
  #units = 0;

  constructor(clock: Clock, keptMs: number) {
    this.#clock = clock;
    this.#keptMs = keptMs;
  }

  add(id: string, farewell: Farewell): void {
    this.#expire();
    this.delete(id);
    const until = this.#clock.elapsed() + this.#keptMs;
    this.#entries.set(id, { ...farewell, until });
    this.#units += unitsOf(id, farewell);
    for (const oldest of this.#entries.keys()) {
      if (this.#units <= MAX_FAREWELL_UNITS) break;
      this.delete(oldest);
    }
  }

  has(id: string): boolean {
    this.#expire();
    return this.#entries.has(id);
  }

  /** The lines for a request with this number; undefined if there are none. */
  get(id: string, number: number | null): string | undefined {
    this.#expire();
    const entry = this.#entries.get(id);
    const isRetry = number !== null && number === entry?.number;
    return isRetry ? entry?.retriedText ?? undefined : entry?.text;
  }

  delete(id: string): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#entries.delete(id);
    this.#units -= unitsOf(id, entry);
  }

  /** Drops old entries. A timer for it would keep an idle program from exiting. */
  #expire(): void {
    const now = this.#clock.elapsed();
    for (const [id, { until }] of this.#entries) {
      if (until > now) return;
      this.delete(id);
    }
  }
}

function unitsOf(id: string, { text, retriedText }: Farewell): number {
  return id.length + text.length + (retriedText?.length ?? 0);
}

// Enough for 80,000 sessions that are closed at once. A client whose farewell was
// dropped finds no session, and opens a new one.
const MAX_FAREWELL_UNITS = 33_554_432;
