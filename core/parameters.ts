/**
 * The parameters of a request's query. Most need no unescaping, and are found in the
 * text of the query in a fraction of the time that `URLSearchParams` takes.
 *
 * @module
 */

/** Parameters by name, as `URLSearchParams` has them. */
export interface Query extends Iterable<[name: string, value: string]> {
  /** The first value of a name, or null. */
  get(name: string): string | null;
  has(name: string): boolean;
  readonly size: number;
}

/** The first value of a parameter, or null. */
export function parameterOf(url: URL, name: string): string | null {
  const { search } = url;
  return isEscaped(search) ? url.searchParams.get(name) : find(search, name);
}

/** The parameters, with their names in lower case. */
export function lowerCaseNames(url: URL): Query {
  const { search } = url;
  if (OTHER_NAME.test(search)) {
    return new URLSearchParams(
      Array.from(
        url.searchParams,
        ([name, value]) => [name.toLowerCase(), value],
      ),
    );
  }
  return isEscaped(search) ? url.searchParams : new PlainQuery(search);
}

/** The name of a parameter that may have characters other than lower case. */
const OTHER_NAME = /[?&][^=&]*[A-Z%]/;

/** Whether a query has anything but characters that stand for themselves. */
function isEscaped(search: string): boolean {
  return search.includes("%") || search.includes("+");
}

/** A query without escapes. */
class PlainQuery implements Query {
  readonly #search: string;

  constructor(search: string) {
    this.#search = search;
  }

  get(name: string): string | null {
    return find(this.#search, name);
  }

  has(name: string): boolean {
    return find(this.#search, name) !== null;
  }

  get size(): number {
    const search = this.#search;
    let size = 0;
    for (let start = 1; start < search.length;) {
      const end = endOf(search, start);
      // Nothing between two separators is no parameter.
      if (end > start) size++;
      start = end + 1;
    }
    return size;
  }

  [Symbol.iterator](): Iterator<[string, string]> {
    return new URLSearchParams(this.#search)[Symbol.iterator]();
  }
}

/** Finds the first parameter of a name in a query without escapes. */
function find(search: string, name: string): string | null {
  // In front of a name stands "?" or "&".
  for (
    let at = search.indexOf(name, 1);
    at > 0;
    at = search.indexOf(name, at + 1)
  ) {
    if (at > 1 && search[at - 1] !== "&") continue;
    const end = at + name.length;
    const next = search[end];
    if (next === "=") return search.slice(end + 1, endOf(search, end));
    if (next === undefined || next === "&") return "";
  }
  return null;
}

/** Where the parameter ends that a place of a query is in. */
function endOf(search: string, place: number): number {
  const end = search.indexOf("&", place);
  return end < 0 ? search.length : end;
}
