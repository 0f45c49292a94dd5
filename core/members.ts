/**
 * The members of a presence channel, as they are handed out and as clients get them.
 *
 * @module
 */

/** A user's id, and the `user_info` as JSON text. */
type Entry = readonly [id: string, info: string];

/**
 * The members of a channel at one moment. Each client that joins gets the whole list,
 * so a list with one more member is made from the last one, at a cost that does not
 * depend on its length: many join one after the other.
 */
export class MemberList implements ReadonlyMap<string, string> {
  readonly size: number;
  /** The first of them are this list's own: the lists that come of it add theirs. */
  readonly #entries: Entry[];
  /** The elements of `ids`, as they stand in a JSON text within a JSON string. */
  readonly #ids: string;
  /** The fields of `hash`, likewise. */
  readonly #hash: string;
  #map: ReadonlyMap<string, string> | null = null;

  private constructor(entries: Entry[], ids: string, hash: string) {
    this.size = entries.length;
    this.#entries = entries;
    this.#ids = ids;
    this.#hash = hash;
  }

  /** A list of all members, which costs as much as it is long. */
  static of(members: ReadonlyMap<string, string>): MemberList {
    const entries = [...members];
    const ids = JSON.stringify([...members.keys()]).slice(1, -1);
    const hash = entries
      .map(([id, info]) => `${JSON.stringify(id)}:${info}`)
      .join(",");
    return new MemberList(entries, escape(ids), escape(hash));
  }

  /** The list with one more member, who must not be in it. */
  with(id: string, info: string): MemberList {
    const isLatest = this.#entries.length === this.size;
    const entries = isLatest
      ? this.#entries
      : this.#entries.slice(0, this.size);
    entries.push([id, info]);
    const comma = this.size > 0 ? "," : "";
    const name = escape(JSON.stringify(id));
    return new MemberList(
      entries,
      `${this.#ids}${comma}${name}`,
      `${this.#hash}${comma}${name}:${escape(info)}`,
    );
  }

  /** The `data` of a confirmation: JSON within a JSON string. */
  get encoded(): string {
    const { size } = this;
    return `"{\\"presence\\":{\\"ids\\":[${this.#ids}],\\"hash\\":{${this.#hash}},\\"count\\":${size}}}"`;
  }

  get #own(): ReadonlyMap<string, string> {
    return this.#map ??= new Map(this.#entries.slice(0, this.size));
  }

  get(id: string): string | undefined {
    return this.#own.get(id);
  }

  has(id: string): boolean {
    return this.#own.has(id);
  }

  forEach(
    run: (info: string, id: string, all: ReadonlyMap<string, string>) => void,
  ): void {
    for (const [id, info] of this) run(info, id, this);
  }

  entries(): MapIterator<[string, string]> {
    return this.#own.entries();
  }

  keys(): MapIterator<string> {
    return this.#own.keys();
  }

  values(): MapIterator<string> {
    return this.#own.values();
  }

  [Symbol.iterator](): MapIterator<[string, string]> {
    return this.entries();
  }
}

/** A part of a text, as it stands in a JSON string that has the whole text. */
function escape(part: string): string {
  return JSON.stringify(part).slice(1, -1);
}

// A list that does not come from the memory of this process is encoded once, too.
const lists = new WeakMap<ReadonlyMap<string, string>, string>();

/** Encodes members, whose infos are JSON texts already, as a JSON string. */
export function encodeMembers(members: ReadonlyMap<string, string>): string {
  if (members instanceof MemberList) return members.encoded;
  const known = lists.get(members);
  if (known !== undefined) return known;
  const { encoded } = MemberList.of(members);
  lists.set(members, encoded);
  return encoded;
}
