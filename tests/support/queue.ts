/**
 * Values that arrive one by one and are taken in order.
 *
 * @module
 */
import { DEADLINE_MS, within } from "./deadline.ts";

/** How much of a value fits into a message. */
const SHOWN_LENGTH = 300;

/** A value as short text. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > SHOWN_LENGTH ? `${text.slice(0, SHOWN_LENGTH)}…` : text;
}

/** Something that was expected of the other side and did not happen. */
export class NotHeld extends Error {
  override name = "NotHeld";
}

/** Expects a condition. */
export function hold(condition: boolean, what: string): asserts condition {
  if (!condition) throw new NotHeld(what);
}

/** Values that arrive one by one and are taken in order. */
export class Queue<T> {
  readonly #values: T[] = [];
  readonly #ms: number;
  #end: string | undefined;
  #fault: { error: unknown } | undefined;
  #wake = () => {};

  /** @param ms How long a value may take to arrive, unless a call says. */
  constructor(ms = DEADLINE_MS) {
    this.#ms = ms;
  }

  /** Adds a value. */
  readonly push = (value: T): void => {
    this.#values.push(value);
    this.#wake();
  };

  /** Says that no value will follow, and why. */
  end(reason: string): void {
    this.#end ??= reason;
    this.#wake();
  }

  /** Makes every further call fail with this error, values left or not. */
  fail(error: unknown): void {
    this.#fault ??= { error };
    this.#wake();
  }

  /** How many values have not been taken yet. */
  get size(): number {
    return this.#values.length;
  }

  /** Takes all values that have arrived. */
  drain(): T[] {
    return this.#values.splice(0);
  }

  /** Takes the next value. */
  async next(what: string, ms?: number): Promise<T> {
    const [value] = await this.upTo(() => true, what, ms);
    return value as T; // A value is there, or the call above has thrown.
  }

  /** Takes all values up to the first that fits, and that value. */
  async upTo(
    fits: (value: T) => boolean,
    what: string,
    ms = this.#ms,
  ): Promise<T[]> {
    const deadline = performance.now() + ms;
    for (;;) {
      this.check();
      const index = this.#values.findIndex(fits);
      // Shifting keeps a long queue cheap; splicing would move all of it.
      if (index === 0) return [this.#values.shift() as T];
      if (index > 0) return this.#values.splice(0, index + 1);
      await this.arrival(what, deadline - performance.now());
    }
  }

  /** Waits for a value, the end or a failure. */
  async arrival(what: string, ms = this.#ms): Promise<void> {
    hold(
      this.#end === undefined,
      `Cannot take ${what}: ${this.#end}; saw ${show(this.#values)}`,
    );
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await within(Math.max(1, ms), what, promise).catch(({ message }) => {
      throw new NotHeld(`${message}; saw ${show(this.#values)}`);
    });
  }

  /** Throws the failure, if there was one. */
  check(): void {
    if (this.#fault) throw this.#fault.error;
  }
}

/** What emits events in pusher-js: a client, a connection, a channel. */
export interface Emitter {
  bind_global(callback: (event: string, data: unknown) => void): unknown;
}

/** What an emitter emits from now on, to be taken in order. */
export class Inbox {
  readonly #events: Queue<[name: string, data: unknown]>;

  /** @param ms How long an event may take, unless a call says. */
  constructor(emitter: Emitter, ms?: number) {
    this.#events = new Queue(ms);
    emitter.bind_global((name, data) => this.#events.push([name, data]));
  }

  /** Takes all events up to the named one, that one included. */
  until(name: string, ms?: number): Promise<[name: string, data: unknown][]> {
    return this.#events.upTo(([event]) => event === name, name, ms);
  }

  /** Takes the same events, and returns the data of the last one. */
  // deno-lint-ignore no-explicit-any -- every test knows what it waits for
  async data(name: string, ms?: number): Promise<any> {
    return (await this.until(name, ms)).at(-1)?.[1];
  }
}
