/**
 * What the program of a test has published.
 *
 * @module
 */

import { isDeepStrictEqual } from "node:util";
import { decode } from "./events.ts";

/** An event that the program has published. */
export interface TestPublished {
  /** The channel. */
  channel: string;
  /** The name of the event. */
  event: string;
  /** Its data: the value if it is JSON, else the text. */
  // deno-lint-ignore no-explicit-any -- a test knows what it looks for
  data: any;
  /** The connection that was left out. */
  socketId?: string;
}

/** Whether data is as expected. */
export function fitting(expected: unknown): (data: unknown) => boolean {
  if (expected === undefined) return () => true;
  if (typeof expected === "function") return (data) => expected(data) === true;
  // As it was on the way.
  const wanted = typeof expected === "string"
    ? decode(expected)
    : JSON.parse(JSON.stringify(expected));
  return (data) => isDeepStrictEqual(data, wanted);
}
