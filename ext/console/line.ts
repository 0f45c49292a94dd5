/**
 * How the consoles of several servers talk to each other: calls to all of them, and
 * words to the one that has called. Whatever is lost or not understood is left out.
 *
 * @module
 */

import type { Intercom } from "../../core/intercom.ts";
import { isObject, parseJson } from "../../core/protocol.ts";

/** A question, or an order, to the consoles of all servers. */
export interface Call {
  /** Numbers the calls of a console. */
  readonly id: number;
  /** The server that calls. */
  readonly from: string;
  /** Where the console listens that has called. */
  readonly reply: string;
  /** The server that is meant; absent for all. */
  readonly to?: string | undefined;
  readonly what: string;
  readonly args: Record<string, unknown>;
}

/** What a console says to the one that has called. */
export interface Word {
  /** The server that says it. */
  readonly node: string;
  /** The console that says it: a server may have several. */
  readonly console: string;
  /** The call that it answers; absent where nobody has asked just now. */
  readonly id?: number | undefined;
  readonly what: "answer" | "update" | "gone";
  readonly body: Record<string, unknown>;
}

/** What becomes of what is heard. */
export interface Hearer {
  call(call: Call): void;
  word(word: Word): void;
}

/** Consoles of another version are not understood: their servers seem silent. */
const VERSION = 1;
const ALL = "console";

/** Room for lists in a text, with some for what goes around them. */
export const LIST_UNITS = 200_000;

/** The end of a console at the wire between all servers. */
export class Line {
  readonly #intercom: Intercom | undefined;
  readonly #node: string;
  /** There may be several consoles on a server. */
  readonly #reply = `${ALL} ${crypto.randomUUID()}`;
  #unlisten: (() => void)[] = [];

  constructor(intercom: Intercom | undefined, node: string) {
    this.#intercom = intercom;
    this.#node = node;
  }

  listen(hearer: Hearer): void {
    const { node, reply } = { node: this.#node, reply: this.#reply };
    const listen = (label: string, hear: (fields: Fields) => void) =>
      this.#intercom?.listen(label, (text) => {
        const fields = parseJson(text);
        if (isObject(fields) && fields.v === VERSION) hear(fields);
      }) ?? (() => {});
    this.#unlisten = [
      listen(ALL, (fields) => {
        const call = readCall(fields);
        const isForUs = call?.to === undefined || call.to === node;
        // This console has what its own server has.
        if (call !== null && call.from !== node && isForUs) hearer.call(call);
      }),
      listen(reply, (fields) => {
        const word = readWord(fields);
        if (word !== null && word.node !== node) hearer.word(word);
      }),
    ];
  }

  /** Calls all servers, or one; returns how many others have heard it, or null. */
  async call(call: Omit<Call, "from" | "reply">): Promise<number | null> {
    const from = this.#node;
    const heard = await this.#say(ALL, { from, reply: this.#reply, ...call });
    return heard === null ? null : Math.max(0, heard - 1);
  }

  /** Says something to a console; returns whether it has heard it, or null. */
  async tell(
    reply: string,
    word: Omit<Word, "node" | "console">,
  ): Promise<boolean | null> {
    const from = { node: this.#node, console: this.#reply };
    const heard = await this.#say(reply, { ...from, ...word });
    return heard === null ? null : heard > 0;
  }

  async #say(label: string, fields: object): Promise<number | null> {
    const text = JSON.stringify({ v: VERSION, ...fields });
    try {
      return await this.#intercom?.say(label, text) ?? null;
    } catch {
      // The backplane is away, and its server says so.
      return null;
    }
  }

  close(): void {
    for (const unlisten of this.#unlisten.splice(0)) unlisten();
  }
}

type Fields = Record<string, unknown>;

function readCall({ id, from, reply, to, what, args }: Fields): Call | null {
  if (typeof id !== "number" || typeof from !== "string") return null;
  if (typeof reply !== "string" || typeof what !== "string") return null;
  if (to !== undefined && typeof to !== "string") return null;
  if (!isObject(args)) return null;
  return { id, from, reply, to, what, args };
}

function readWord(
  { node, console, id, what, body }: Fields,
): Word | null {
  if (typeof node !== "string" || node.length > MAX_NODE_UNITS) return null;
  if (typeof console !== "string") return null;
  if (id !== undefined && typeof id !== "number") return null;
  if (what !== "answer" && what !== "update" && what !== "gone") return null;
  return isObject(body) ? { node, console, id, what, body } : null;
}

/** More than any server's id has. */
const MAX_NODE_UNITS = 100;

/** The first items of a list that have room in a text. */
export function fitting<Item>(items: readonly Item[], units: number): Item[] {
  const fits: Item[] = [];
  let left = units;
  for (const item of items) {
    left -= JSON.stringify(item).length + 1;
    if (left < 0) break;
    fits.push(item);
  }
  return fits;
}
