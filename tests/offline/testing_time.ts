/**
 * Stand-in for `@std/testing/time` on machines that cannot reach JSR:
 * `FakeTime`, with the behaviour of `@std/testing` 1, for `Date` and the four
 * timer functions.
 *
 * @module
 */

/** What using `FakeTime` wrongly throws. */
export class TimeError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "TimeError";
  }
}

interface Timer {
  id: number;
  due: number;
  /** Null for a timeout. */
  everyMs: number | null;
  run: () => void;
}

const real = {
  Date: globalThis.Date,
  setTimeout: globalThis.setTimeout,
  clearTimeout: globalThis.clearTimeout,
  setInterval: globalThis.setInterval,
  clearInterval: globalThis.clearInterval,
};

/** The one instance that has taken over the globals. */
let active: FakeTime | undefined;

/** Time that only moves when it is told to. */
export class FakeTime {
  readonly #start: number;
  readonly #timers = new Map<number, Timer>();
  #now: number;
  #lastId = 0;

  constructor(start?: number | string | Date | null) {
    if (active) {
      throw new TimeError("Cannot construct FakeTime: time is already faked");
    }
    this.#start = Math.floor(Number(new real.Date(start ?? real.Date.now())));
    if (Number.isNaN(this.#start)) {
      throw new TypeError(
        `Cannot construct FakeTime: invalid start time ${this.#start}`,
      );
    }
    this.#now = this.#start;
    this.#takeOver();
    active = this;
  }

  /** Milliseconds since 1970; setting it runs what is due until then. */
  get now(): number {
    return this.#now;
  }
  set now(value: number) {
    if (value < this.#now) {
      throw new RangeError(
        `Cannot set current time in the past, time must be >= ${this.#now}: received ${value}`,
      );
    }
    for (;;) {
      const timer = this.#earliest();
      if (!timer || timer.due > value) break;
      this.#now = timer.due;
      this.#timers.delete(timer.id);
      if (timer.everyMs !== null) {
        const due = timer.due + timer.everyMs;
        this.#timers.set(timer.id, { ...timer, due });
      }
      timer.run();
    }
    this.#now = value;
  }

  /** The time at construction. */
  get start(): number {
    return this.#start;
  }

  /** Moves time on, running what falls due. */
  tick(ms = 0): void {
    this.now += ms;
  }

  /** Like `tick`, after all pending microtasks. */
  async tickAsync(ms = 0): Promise<void> {
    await this.runMicrotasks();
    this.now += ms;
  }

  /** Moves time to the next timer; false when there is none. */
  next(): boolean {
    const timer = this.#earliest();
    if (timer) this.now = timer.due;
    return timer !== undefined;
  }

  /** Like `next`, after all pending microtasks. */
  async nextAsync(): Promise<boolean> {
    await this.runMicrotasks();
    return this.next();
  }

  /** Lets all pending microtasks run. */
  async runMicrotasks(): Promise<void> {
    await this.delay(0);
  }

  /** Resolves after a real delay, while fake time stands still. */
  delay(ms: number): Promise<void> {
    return new Promise((resolve) => {
      real.setTimeout.call(globalThis, resolve, ms);
    });
  }

  /** Gives the globals back. */
  restore(): void {
    if (active !== this) {
      throw new TimeError("Cannot restore time: time is already restored");
    }
    active = undefined;
    Object.assign(globalThis, real);
  }

  [Symbol.dispose](): void {
    this.restore();
  }

  /** The timer that is due first; of several due at once the oldest. */
  #earliest(): Timer | undefined {
    let earliest: Timer | undefined;
    for (const timer of this.#timers.values()) {
      if (!earliest || timer.due < earliest.due) earliest = timer;
    }
    return earliest;
  }

  #takeOver(): void {
    // deno-lint-ignore no-this-alias -- the class below has a `this` of its own
    const time = this;
    class FakeDate extends real.Date {
      constructor(...args: unknown[]) {
        // The overloads of Date cannot be told apart from a rest argument.
        super(...(args.length === 0 ? [time.#now] : args) as [number]);
      }
      static override now(): number {
        return time.#now;
      }
    }
    const schedule = (repeats: boolean) =>
    (
      callback: (...args: unknown[]) => void,
      delayMs = 0,
      ...args: unknown[]
    ): number => {
      const id = ++time.#lastId;
      // An interval of zero would never let time pass.
      const ms = Math.max(repeats ? 1 : 0, Math.floor(delayMs));
      time.#timers.set(id, {
        id,
        due: time.#now + ms,
        everyMs: repeats ? ms : null,
        run: () => callback(...args),
      });
      return id;
    };
    const clear = (id?: number) => time.#timers.delete(id ?? 0);
    Object.assign(globalThis, {
      Date: FakeDate,
      setTimeout: schedule(false),
      clearTimeout: clear,
      setInterval: schedule(true),
      clearInterval: clear,
    });
  }
}
