/**
 * Time: values that come at once or later, the clock, postponed visits, and rates.
 *
 * @module
 */

import { clearImmediate, setImmediate } from "node:timers";

// ---- At once or later -------------------------------------------------------

/** A value, or a promise of it. An available value is not wrapped in a promise. */
export type Awaitable<T> = T | Promise<T>;

/**
 * Calls `next` with a value: in the same turn if the value is available, else when
 * its promise resolves.
 */
export function chain<T, R>(
  value: Awaitable<T>,
  next: (value: T) => Awaitable<R>,
): Awaitable<R> {
  return value instanceof Promise ? value.then(next) : next(value);
}

/** Collects all values: in the same turn if none of them is a promise. */
export function all<A, B>(
  values: readonly [Awaitable<A>, Awaitable<B>],
): Awaitable<[A, B]>;
export function all<T>(values: readonly Awaitable<T>[]): Awaitable<T[]>;
export function all(values: readonly unknown[]): Awaitable<unknown[]> {
  const isLate = values.some((value) => value instanceof Promise);
  return isLate ? Promise.all(values) : [...values];
}

/** Turns a synchronous exception into a rejection. */
export function attempt<T>(run: () => Awaitable<T>): Awaitable<T> {
  try {
    return run();
  } catch (error) {
    return Promise.reject(error);
  }
}

/** A promise and its ends, as `Promise.withResolvers`, which Node 20 lacks. */
export function deferred<T>(): PromiseWithResolvers<T> {
  // The executor runs at once.
  let resolve!: PromiseWithResolvers<T>["resolve"];
  let reject!: PromiseWithResolvers<T>["reject"];
  const promise = new Promise<T>((...ends) => [resolve, reject] = ends);
  return { promise, resolve, reject };
}

// ---- The clock --------------------------------------------------------------

/** A longer delay overflows the runtime's timer, which then fires at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/** The source of every timestamp, age, rate and timer of a server. */
export interface Clock {
  /**
   * Milliseconds since 1970, for timestamps that are signed. This clock may jump,
   * as the clock of a machine does when somebody sets it.
   */
  now(): number;
  /**
   * Milliseconds since some fixed moment, for ages, rates and timeouts. This clock
   * never jumps.
   */
  elapsed(): number;
  /**
   * Calls `run` once, after a delay.
   *
   * @param delayMs Milliseconds, from 0 to 2,147,483,647.
   * @returns A function that cancels the call. After the call it does nothing.
   */
  after(delayMs: number, run: () => void): () => void;
}

/** The clocks and timers of the runtime. */
export const SYSTEM_CLOCK: Clock = Object.freeze({
  now: () => Date.now(),
  elapsed: () => performance.now(),
  after(delayMs: number, run: () => void) {
    const timer = setTimeout(run, delayMs);
    return () => clearTimeout(timer);
  },
});

/** Resolves after a delay. */
export function delay(clock: Clock, delayMs: number): Promise<void> {
  return new Promise((resolve) => void clock.after(delayMs, resolve));
}

/** Waits for a value; undefined if that takes longer than `delayMs`. */
export async function withinMs<T>(
  clock: Clock,
  delayMs: number,
  value: Promise<T>,
): Promise<T | undefined> {
  let cancel = () => {};
  const late = new Promise<undefined>((resolve) => {
    cancel = clock.after(delayMs, () => resolve(undefined));
  });
  try {
    return await Promise.race([value, late]);
  } finally {
    cancel();
  }
}

// ---- Postponed visits -------------------------------------------------------

/** Schedules a run; returns a function that cancels it. */
export type Schedule = (run: () => void) => () => void;

/** Schedules a run for the end of this turn of the event loop. */
export const afterThisTurn: Schedule = (run) => {
  const immediate = setImmediate(run);
  return () => clearImmediate(immediate);
};

/** Ends runs of visits, so that other things get their turn. */
export interface RunLimit {
  /** Takes note that a run begins, for which so many items wait. */
  begin(items: number): void;
  /** Whether the items that are left have to wait for the next run. */
  isReached(): boolean;
}

/** Ends runs that take too long. */
export class TimeLimit implements RunLimit {
  readonly #clock: Clock;
  readonly #ms: number;
  #start = 0;

  constructor(clock: Clock, ms: number) {
    this.#clock = clock;
    this.#ms = ms;
  }

  begin(): void {
    this.#start = this.#clock.elapsed();
  }

  isReached(): boolean {
    return this.#clock.elapsed() - this.#start >= this.#ms;
  }
}

/** Visits items later, each once, all of them in one run up to a limit. */
export class Later<Item> {
  readonly #schedule: Schedule;
  readonly #visit: (item: Item) => void;
  readonly #limit: RunLimit | null;
  #items = new Set<Item>();
  /** Items of the run that has begun. */
  #visiting: Set<Item> | null = null;
  #cancel: (() => void) | undefined;

  constructor(
    schedule: Schedule,
    visit: (item: Item) => void,
    limit: RunLimit | null = null,
  ) {
    this.#schedule = schedule;
    this.#visit = visit;
    this.#limit = limit;
  }

  /** Adds an item to the next run. An item that waits already is visited once. */
  add(item: Item): void {
    if (this.#items.size === 0) {
      this.#cancel = this.#schedule(() => this.#run());
    }
    this.#items.add(item);
  }

  /** Cancels the visit of an item, also in a run that has begun. */
  delete(item: Item): void {
    this.#visiting?.delete(item);
    if (this.#items.delete(item) && this.#items.size === 0) this.#cancel?.();
  }

  #run(): void {
    // A visit may add the same item again, to the next run.
    this.#visiting = this.#items;
    this.#items = new Set();
    this.#limit?.begin(this.#visiting.size);
    for (const item of this.#visiting) {
      this.#visiting.delete(item);
      this.#visit(item);
      if (this.#limit?.isReached()) break;
    }
    this.#postpone(this.#visiting);
    this.#visiting = null;
  }

  /** Leaves items for the next run, before those that were added in the meantime. */
  #postpone(items: Set<Item>): void {
    if (items.size === 0) return;
    const added = this.#items;
    for (const item of added) items.add(item);
    this.#items = items;
    if (added.size > 0) return;
    this.#cancel = this.#schedule(() => this.#run());
  }
}

/** What a {@linkcode TickWheel} visits. */
export interface Ticking {
  /** The slot that it waits in; only the wheel writes it. */
  slot: Set<Ticking> | null;
  /**
   * Does what is due.
   *
   * @returns Ticks until the next visit, or 0 for none.
   */
  visit(): number;
}

/**
 * Visits items when they are due, all of them on one timer. Time is counted in
 * ticks. No ticks pass while there is nothing to visit, nor while the process is
 * frozen, so no item is overdue when the process wakes.
 */
export class TickWheel {
  /** Ticks so far. */
  tick = 0;
  /** Length of a tick in milliseconds. */
  readonly tickMs: number;
  readonly #clock: Clock;
  readonly #slots = new Map<number, Set<Ticking>>();
  #count = 0;
  #cancel: (() => void) | null = null;

  /**
   * Makes a wheel whose ticks last a tenth of the shortest time that matters.
   *
   * @param clock Whose timer it uses.
   * @param shortestMs The shortest time, in milliseconds.
   * @param maxTickMs The longest tick, in milliseconds.
   */
  constructor(clock: Clock, shortestMs: number, maxTickMs: number) {
    this.#clock = clock;
    this.tickMs = Math.max(1, Math.min(maxTickMs, shortestMs / 10));
  }

  /** How many ticks last at least so many milliseconds. */
  ticks(ms: number): number {
    return Math.ceil(ms / this.tickMs);
  }

  /** Adds an item, whose first visit is after so many ticks. */
  add(item: Ticking, ticks: number): void {
    this.#count++;
    this.#place(item, ticks);
    this.#cancel ??= this.#start();
  }

  /** Removes an item, which is not visited any more. */
  remove(item: Ticking): void {
    if (item.slot === null) return;
    item.slot.delete(item);
    item.slot = null;
    this.#count--;
    if (this.#count > 0) return;
    this.#cancel?.();
    this.#cancel = null;
    this.#slots.clear();
  }

  #start(): () => void {
    return this.#clock.after(this.tickMs, () => this.#advance());
  }

  #place(item: Ticking, ticks: number): void {
    // The slot of the current tick has been visited already.
    const at = this.tick + Math.max(1, ticks);
    const slot = this.#slots.get(at) ?? new Set();
    this.#slots.set(at, slot);
    slot.add(item);
    item.slot = slot;
  }

  #advance(): void {
    // Before the visits, as they may remove the last item and so stop the timer.
    this.#cancel = this.#start();
    const slot = this.#slots.get(++this.tick);
    this.#slots.delete(this.tick);
    for (const item of slot ?? []) {
      const ticks = item.visit();
      // A visit may have removed its own item.
      if (item.slot !== slot) continue;
      if (ticks > 0) this.#place(item, ticks);
      else this.remove(item);
    }
  }
}

// ---- Rates ------------------------------------------------------------------

/** A rate limit that allows bursts. */
export class TokenBucket {
  #tokens: number;
  #filledAt: number;

  /** Makes a full bucket. Times are those of {@linkcode Clock.elapsed}. */
  constructor(tokens: number, elapsed: number) {
    this.#tokens = tokens;
    this.#filledAt = elapsed;
  }

  /** Takes one token; false if there is none. */
  take(elapsed: number, capacity: number, perSecond: number): boolean {
    if (perSecond === Infinity) return true;
    const filled = (elapsed - this.#filledAt) / 1000 * perSecond;
    this.#tokens = Math.min(capacity, this.#tokens + filled);
    this.#filledAt = elapsed;
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }
}

/** Counts above this change often; up to this each change is worth a message. */
const THROTTLE_ABOVE = 100;
const THROTTLE_MS = 5_000;

// How far servers may be apart that have heard of a count together. Whoever is the
// first announces the next one for all.
const THROTTLE_SPREAD_MS = 500;

/** A count that was announced a short while ago. */
interface AnnouncedCount {
  /** The last change since; undefined if there was none. */
  latest: number | undefined;
  /** What was announced from here, and has not been heard yet. */
  own: number | undefined;
  readonly cancel: () => void;
}

/**
 * Announces counts that change: each change of a small one at once, those of a
 * large one at most every five seconds, and the last one always. Servers that share
 * a channel take turns: each hears what the others announce.
 */
export class CountThrottle {
  readonly #clock: Clock;
  readonly #announce: (key: string, count: number) => void;
  readonly #current: (key: string, latest: number) => Awaitable<number>;
  readonly #waiting = new Map<string, AnnouncedCount>();
  #isClosed = false;

  /**
   * @param current What a count is by now, as another server may have changed it
   * since `latest`.
   */
  constructor(
    clock: Clock,
    announce: (key: string, count: number) => void,
    current: (key: string, latest: number) => Awaitable<number> = (_, latest) =>
      latest,
  ) {
    this.#clock = clock;
    this.#announce = announce;
    this.#current = current;
  }

  /** Takes a new count. */
  change(key: string, count: number): void {
    const waiting = this.#waiting.get(key);
    if (waiting !== undefined && count > THROTTLE_ABOVE) {
      waiting.latest = count;
      return;
    }
    waiting?.cancel();
    this.#waiting.delete(key);
    const isThrottled = count > THROTTLE_ABOVE && !this.#isClosed;
    // Before it is announced, as it may be heard at once.
    if (isThrottled) this.#wait(key, THROTTLE_MS, { own: count });
    this.#announce(key, count);
  }

  /** Takes a count that this server or another one has announced. */
  heard(key: string, count: number): void {
    const waiting = this.#waiting.get(key);
    if (waiting?.own === count) {
      waiting.own = undefined;
      return;
    }
    if (count <= THROTTLE_ABOVE || this.#isClosed) return;
    waiting?.cancel();
    const latest = waiting?.latest === count ? undefined : waiting?.latest;
    const spreadMs = Math.random() * THROTTLE_SPREAD_MS;
    this.#wait(key, THROTTLE_MS + spreadMs, { latest });
  }

  #wait(
    key: string,
    delayMs: number,
    { latest, own }: { latest?: number | undefined; own?: number },
  ): void {
    const cancel = this.#clock.after(delayMs, () => {
      const { latest } = this.#waiting.get(key) ?? {};
      this.#waiting.delete(key);
      // Even if it is the same count: a new subscriber has not heard of it.
      if (latest === undefined) return;
      chain(this.#current(key, latest), (count) => this.change(key, count));
    });
    this.#waiting.set(key, { latest, own, cancel });
  }

  /** Announces what still waits, and waits no more. */
  close(): void {
    this.#isClosed = true;
    for (const [key, { latest, cancel }] of this.#waiting) {
      cancel();
      this.#waiting.delete(key);
      if (latest !== undefined) this.#announce(key, latest);
    }
  }
}
