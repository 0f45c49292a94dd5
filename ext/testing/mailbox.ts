/**
 * What has come and has not been taken yet, and what a test says when the expected
 * has not come.
 *
 * @module
 */

import { inRealTime } from "./clock.ts";

/**
 * Something that a test expected, and that has not happened.
 *
 * @example
 * ```ts
 * import { ExpectationError, testPusher } from "@glitz/pusher/testing";
 * import { assertRejects, assertStringIncludes } from "@std/assert";
 *
 * await using test = testPusher({}, { deadlineMs: 50 });
 * const error = await assertRejects(
 *   () => test.expectPublished("news", "create"),
 *   ExpectationError,
 * );
 * assertStringIncludes(error.message, "news");
 * ```
 */
export class ExpectationError extends Error {
  /** Names the class. */
  override readonly name: string = "ExpectationError";

  /** Made where an expectation fails. */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** How much of a value fits into a message. */
const SHOWN_LENGTH = 200;

/** How many items a message lists. */
const SHOWN_ITEMS = 20;

/** A value as short text. */
export function show(value: unknown): string {
  const text = value === undefined ? "no data" : JSON.stringify(value);
  return text.length > SHOWN_LENGTH ? `${text.slice(0, SHOWN_LENGTH)}…` : text;
}

/** Several texts, each on a line of its own. */
export function list(items: readonly string[]): string {
  const more = items.length - SHOWN_ITEMS;
  const lines = items.slice(0, SHOWN_ITEMS).map((item) => `\n  ${item}`);
  if (more > 0) lines.push(`\n  and ${more} more`);
  return lines.join("");
}

/** How to wait for an item. */
interface Wait<Item> {
  readonly fits: (item: Item) => boolean;
  readonly take: (item: Item) => void;
  readonly fail: (why: string) => void;
}

/** Items that come one by one. Each is taken once, by the first that wants it. */
export class Mailbox<Item> {
  readonly #items: Item[] = [];
  readonly #waits = new Set<Wait<Item>>();
  readonly #deadlineMs: number;
  #end: string | null = null;

  constructor(deadlineMs: number) {
    this.#deadlineMs = deadlineMs;
  }

  /** Items that nobody has taken, oldest first. */
  get items(): readonly Item[] {
    return this.#items;
  }

  push(item: Item): void {
    for (const wait of this.#waits) {
      if (wait.fits(item)) return wait.take(item);
    }
    this.#items.push(item);
  }

  /** Says that no item will follow, and why. */
  end(why: string): void {
    this.#end ??= why;
    for (const wait of this.#waits) wait.fail(this.#end);
  }

  /**
   * Takes the first item that fits, or waits for it.
   *
   * @param describe Makes the error, out of why the item does not come.
   */
  take(
    fits: (item: Item) => boolean,
    describe: (why: string) => Error,
  ): Promise<Item> {
    const index = this.#items.findIndex(fits);
    if (index >= 0) return Promise.resolve(this.#items.splice(index, 1)[0]!);
    if (this.#end !== null) return Promise.reject(describe(this.#end));
    const here = new Error();
    const taken = new Promise<Item>((resolve, reject) => {
      const late = `it has not come within ${this.#deadlineMs} ms`;
      const cancel = inRealTime(this.#deadlineMs, () => wait.fail(late));
      const settle = () => {
        cancel();
        this.#waits.delete(wait);
      };
      const wait: Wait<Item> = {
        fits,
        take(item) {
          settle();
          resolve(item);
        },
        fail(why) {
          settle();
          reject(movedTo(here, describe(why)));
        },
      };
      this.#waits.add(wait);
    });
    // A test that fails earlier never awaits it.
    taken.catch(() => {});
    return taken;
  }
}

/** An error as if it had been made where another one was: in the line of the test. */
function movedTo({ stack }: Error, error: Error): Error {
  const frames = stack?.slice(stack.indexOf("\n")) ?? "";
  error.stack = `${error.name}: ${error.message}${frames}`;
  return error;
}
