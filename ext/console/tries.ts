/**
 * Who may try the password, and how often. Strangers must not guess it, and must not
 * keep its owner out either: whoever has logged in before, and each address, has tries
 * of its own.
 *
 * @module
 */

import { addressOf } from "../../core/inspection.ts";
import { type Clock, TokenBucket } from "../../core/time.ts";
import { forwardingHeader, type Info, networkOf } from "../../core/places.ts";

/** How many tries there are at once, and how many more each minute. */
// A person mistypes a password a few times. A program that guesses gets nowhere with
// so few tries, from whatever number of addresses.
const OF_ONE = 5;
// Behind a proxy that is not trusted all people have one address.
const OF_PROXY = 50;
const OF_ALL = 100;
/** Those whose tries are counted one by one; whoever has tried least lately goes first. */
const MAX_COUNTED = 1_000;

/** Counts tries at the password. */
export class Tries {
  readonly #clock: Clock;
  readonly #trustsProxy: boolean;
  readonly #strangers = new Map<string, TokenBucket>();
  /** Browsers that have logged in before: nobody else can add to them. */
  readonly #known = new Map<string, TokenBucket>();
  readonly #all: TokenBucket;

  constructor(clock: Clock, trustsProxy: boolean) {
    this.#clock = clock;
    this.#trustsProxy = trustsProxy;
    this.#all = new TokenBucket(OF_ALL, clock.elapsed());
  }

  /**
   * Takes one try; returns the seconds until there is another.
   *
   * @param browser Names the browser, if it has logged in before.
   */
  take(request: Request, info: Info, browser: string | undefined): number {
    if (browser !== undefined) {
      return this.#takeOf(this.#known, browser, OF_ONE);
    }
    const { name, tries } = this.#sourceOf(request, info);
    const waitS = this.#takeOf(this.#strangers, name, tries);
    if (waitS > 0) return waitS;
    const elapsed = this.#clock.elapsed();
    return this.#all.take(elapsed, OF_ALL, OF_ALL / 60) ? 0 : 1;
  }

  /** Who is counted, and how many tries there are. */
  #sourceOf(request: Request, info: Info): { name: string; tries: number } {
    const address = addressOf(request, info, this.#trustsProxy);
    const isProxy = !this.#trustsProxy &&
      forwardingHeader(request) !== undefined;
    if (address === undefined || isProxy) {
      // A stranger may add the header, which gives it the tries of a proxy.
      return { name: `by ${address}`, tries: OF_PROXY };
    }
    return { name: networkOf(address), tries: OF_ONE };
  }

  #takeOf(
    counted: Map<string, TokenBucket>,
    name: string,
    tries: number,
  ): number {
    const elapsed = this.#clock.elapsed();
    const own = counted.get(name) ?? new TokenBucket(tries, elapsed);
    counted.delete(name);
    counted.set(name, own);
    if (counted.size > MAX_COUNTED) {
      const [oldest = ""] = counted.keys();
      counted.delete(oldest);
    }
    return own.take(elapsed, tries, tries / 60) ? 0 : Math.ceil(60 / tries);
  }
}
