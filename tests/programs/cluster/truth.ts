/**
 * What is true of a run: which messages there were on each channel, and in which
 * order. Observers say it, each with the position at which a message came; what two of
 * them say of one position has to be the same.
 *
 * @module
 */
import type { Position } from "../../support/wire.ts";
import { Ledger } from "../loss/ledger.ts";

/** What is known of one channel. */
interface Log {
  /** In the order in which they were first heard of. */
  readonly epochs: string[];
  /** By epoch, which message came at which offset. */
  readonly entries: Map<string, Map<number, number>>;
  /** By message, where it came. */
  readonly places: Map<number, string>;
}

/** The truth, as observers at all nodes hear it. */
export class Truth extends Ledger {
  readonly #logs = new Map<string, Log>();
  readonly #sent = new Map<string, Set<number>>();
  readonly #accepted = new Map<string, Set<number>>();
  readonly #oddities: string[] = [];
  readonly #told = new Set<string>();
  readonly #orders = new Map<string, Map<number, number>>();
  /** When each message was sent. */
  readonly #sentAt = new Map<number, number>();
  /** How long messages took, of those that were sent while that was asked for. */
  readonly latencies: number[] = [];
  isMeasuring = false;

  /** See {@linkcode Ledger.number}. */
  override number(exempt?: string): number {
    const n = super.number(exempt);
    if (this.isMeasuring) this.#sentAt.set(n, performance.now());
    return n;
  }

  /** Takes down that a message is on its way to a channel. */
  sent(channel: string, message: number): void {
    entry(this.#sent, channel, () => new Set()).add(message);
  }

  /** Observers miss what only others hear when Redis forgets everything. */
  override invents(channel: string, message: number): boolean {
    return !this.#sent.get(channel)?.has(message);
  }

  /** Where a message came, for people. */
  place(channel: string, message: number): string {
    return this.#log(channel).places.get(message) ?? "nowhere";
  }

  override published(channel: string, message: number): void {
    entry(this.#accepted, channel, () => new Set()).add(message);
  }

  /** Takes down how long a message took to one of its subscribers. */
  arrived(message: number): void {
    const sentAt = this.#sentAt.get(message);
    if (sentAt !== undefined) this.latencies.push(performance.now() - sentAt);
  }

  /** Takes down which message an observer has heard at a position. */
  observe(channel: string, at: Position, message: number): void {
    const log = this.#log(channel);
    const entries = entry(log.entries, at.epoch, () => {
      log.epochs.push(at.epoch);
      return new Map<number, number>();
    });
    const known = entries.get(at.offset);
    if (known === message) return;
    if (known !== undefined) {
      this.#oddities.push(
        `${channel} has ${known} and ${message} at ${at.offset}`,
      );
      return;
    }
    entries.set(at.offset, message);
    this.#orders.delete(channel);
    const place = `${at.epoch} ${at.offset}`;
    const before = log.places.get(message);
    if (before !== undefined) {
      this.#oddities.push(
        `${channel} ${message} was published at ${before} and ${place}`,
      );
    }
    log.places.set(message, place);
  }

  override order(channel: string): ReadonlyMap<number, number> {
    return entry(this.#orders, channel, () => {
      const order = new Map<number, number>();
      const { epochs, entries } = this.#log(channel);
      for (const epoch of epochs) {
        const own = [...entries.get(epoch) ?? []].sort(([a], [b]) => a - b);
        for (const [, message] of own) {
          if (!order.has(message)) order.set(message, order.size);
        }
      }
      return order;
    });
  }

  /** What was accepted, and no observer has ever heard; each once. */
  takeUnheard(): string[] {
    return this.#fresh(this.#unheard);
  }

  get #unheard(): string[] {
    return [...this.#accepted].flatMap(([channel, messages]) =>
      [...messages].filter((n) => !this.#log(channel).places.has(n))
        .map((n) => `no observer has heard ${n} on ${channel}`)
    );
  }

  override get size(): number {
    return [...this.#logs.values()].reduce(
      (sum, { places }) => sum + places.size,
      0,
    );
  }

  /** What cannot be: one message at two positions, or two at one. */
  override get problems(): string[] {
    return [...this.#oddities];
  }

  /** The problems that were not taken before. */
  takeProblems(): string[] {
    return this.#fresh(this.problems);
  }

  #fresh(all: readonly string[]): string[] {
    const fresh = all.filter((problem) => !this.#told.has(problem));
    for (const problem of fresh) this.#told.add(problem);
    return fresh;
  }

  #log(channel: string): Log {
    return entry(this.#logs, channel, () => ({
      epochs: [],
      entries: new Map(),
      places: new Map(),
    }));
  }
}

/** The value of a map, made where there is none. */
export function entry<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const found = map.get(key);
  if (found !== undefined) return found;
  const made = make();
  map.set(key, made);
  return made;
}
