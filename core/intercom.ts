/**
 * What servers say to each other beside events: short texts under labels, of which
 * nothing is kept. Extensions use it that show or do something on all servers, such
 * as the debug console.
 *
 * @module
 */

import type { Awaitable } from "./time.ts";

/**
 * Lets servers that share a backplane talk to each other. A text reaches each server
 * that listens for its label at that moment, or is lost: whoever says it cannot rely on
 * it, and bounds how much is said. While nobody listens or talks it costs nothing.
 */
export interface Intercom {
  /**
   * Listens for a label until the function is called that is returned. It may be called
   * before the backplane has started, and goes on after the backplane was away: what
   * was said meanwhile is lost. Texts of one server come in the order in which it said
   * them.
   */
  listen(label: string, hear: (text: string) => void): () => void;
  /**
   * Says a text to all servers that listen for a label, also to this one.
   *
   * @param text Well-formed, of at most 262,144 UTF-16 units.
   * @returns How many servers listen.
   * @throws {RangeError} If the text is longer.
   */
  say(label: string, text: string): Awaitable<number>;
}

/** The longest text that {@linkcode Intercom.say} takes, in UTF-16 units. */
export const INTERCOM_UNITS = 262_144;

/** Refuses a text that no intercom carries. */
export function checkSaid(text: string): void {
  if (text.length <= INTERCOM_UNITS) return;
  throw new RangeError(
    `Cannot say it to other servers: the text has ${text.length} UTF-16 units, ` +
      `and at most ${INTERCOM_UNITS} are carried`,
  );
}

/** The listeners of one server, by label. */
export class Listeners {
  readonly #byLabel = new Map<string, Set<(text: string) => void>>();

  /** Adds a listener; returns what removes it, and says whether the label is left. */
  add(label: string, hear: (text: string) => void): () => boolean {
    // The same function may listen twice.
    const own = (text: string) => hear(text);
    const all = this.#byLabel.get(label) ?? new Set();
    this.#byLabel.set(label, all.add(own));
    return () => {
      if (!all.delete(own) || all.size > 0) return false;
      return this.#byLabel.delete(label);
    };
  }

  has(label: string): boolean {
    return this.#byLabel.has(label);
  }

  labels(): Iterable<string> {
    return this.#byLabel.keys();
  }

  /** Hands a text to all listeners of a label, whatever one of them does with it. */
  hear(label: string, text: string, failed: (error: unknown) => void): void {
    for (const hear of [...this.#byLabel.get(label) ?? []]) {
      try {
        hear(text);
      } catch (error) {
        failed(error);
      }
    }
  }
}

/** The same intercom, of which each scope has labels of its own. */
export function scoped(
  intercom: Pick<Intercom, "listen">,
  say: Intercom["say"],
  scope: string | null,
): Intercom {
  // No id of an app has white space.
  const named = (label: string) => `${scope ?? ""} ${label}`;
  return {
    listen: (label, hear) => intercom.listen(named(label), hear),
    say: (label, text) => say(named(label), text),
  };
}
