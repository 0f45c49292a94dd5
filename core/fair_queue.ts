/**
 * A queue that is shared fairly: nobody's entries wait behind all of another's.
 *
 * @module
 */

/** Where an entry of a {@linkcode FairQueue} belongs. */
export interface Place {
  /** Entries of one stream keep their order. */
  readonly stream: string;
  /** The group of the stream, from 0; always the same for one stream. */
  readonly group: number;
  /** Who has caused the entry; "" if that is not known. */
  readonly source: string;
}

/** What stands in a {@linkcode Line}, which alone writes these fields. */
interface Standing<Self> {
  before: Self | null;
  after: Self | null;
}

/**
 * A line, whose first is found in the same time however many have left it. The first
 * of a Set is not: what was deleted is skipped each time.
 */
class Line<One extends Standing<One>> {
  first: One | null = null;
  #last: One | null = null;

  /** Adds one that stands in no line, at the end. */
  add(one: One): void {
    one.before = this.#last;
    if (this.#last === null) this.first = one;
    else this.#last.after = one;
    this.#last = one;
  }

  /** Removes one that stands in this line. */
  remove(one: One): void {
    const { before, after } = one;
    if (before === null) this.first = after;
    else before.after = after;
    if (after === null) this.#last = before;
    else after.before = before;
    one.before = one.after = null;
  }

  /** Puts one to the end. */
  rotate(one: One): void {
    this.remove(one);
    this.add(one);
  }
}

/** An entry that waits in a {@linkcode FairQueue}. */
export interface Entry<Item> extends Standing<Entry<Item>> {
  readonly item: Item;
  readonly bytes: number;
  /** Grows from entry to entry. */
  readonly order: number;
  readonly stream: Stream<Item>;
}

/** The entries that must keep their order; never empty. */
interface Stream<Item> extends Standing<Stream<Item>> {
  readonly name: string;
  readonly group: number;
  readonly entries: Line<Entry<Item>>;
  bytes: number;
  source: Source<Item>;
}

/** The streams of one source in one group; never empty. */
interface Source<Item> extends Standing<Source<Item>> {
  readonly name: string;
  readonly streams: Line<Stream<Item>>;
  bytes: number;
}

/** Sources that take turns. */
interface Group<Item> {
  readonly byName: Map<string, Source<Item>>;
  readonly line: Line<Source<Item>>;
}

/**
 * Takes turns between groups, in a group between sources, and in a source between
 * streams. What waits behind what:
 * - An entry waits for earlier entries of its stream, for one entry of each other
 *   stream of its source per turn of the source, and for one entry of each other
 *   source per turn of the group.
 * - So a source with any number of entries and streams delays another source's by
 *   one entry per turn.
 *
 * A stream is in one place only. If several sources have caused its entries, it
 * waits with the source that has the least to wait for.
 */
export class FairQueue<Item> {
  /** Entries that wait. */
  size = 0;
  /** Their bytes. */
  bytes = 0;
  readonly #streams = new Map<string, Stream<Item>>();
  readonly #groups: Group<Item>[];
  /** The group whose turn it is. */
  #turn = 0;
  #order = 0;
  /** A source that had the most bytes when it last grew. */
  #heaviest: Source<Item> | null = null;

  constructor(groups: number) {
    this.#groups = Array.from(
      { length: groups },
      () => ({ byName: new Map(), line: new Line() }),
    );
  }

  /** Adds an entry at the end of its stream. */
  push(
    item: Item,
    bytes: number,
    { stream, group, source }: Place,
  ): Entry<Item> {
    const known = this.#streams.get(stream);
    const waiting = known ?? this.#open(stream, group, source);
    const order = this.#order++;
    const entry = { item, bytes, order, stream: waiting, ...ALONE };
    waiting.entries.add(entry);
    this.#grow(waiting, bytes);
    this.size++;
    if (known !== undefined) this.claim(stream, source);
    return entry;
  }

  /** Names another source of a stream, which moves there if it then waits less. */
  claim(streamName: string, sourceName: string): void {
    const stream = this.#streams.get(streamName);
    if (stream === undefined || sourceName === "") return;
    const { source, group, bytes } = stream;
    if (source.name === sourceName) return;
    const waits = this.#groups[group]!.byName.get(sourceName)?.bytes ?? 0;
    if (source.name !== "" && waits >= source.bytes - bytes) return;
    this.#leave(stream);
    stream.source = this.#source(group, sourceName);
    stream.source.streams.add(stream);
    this.#weigh(stream.source, bytes);
  }

  /** Removes an entry, which must be waiting. */
  remove(entry: Entry<Item>): void {
    const { stream, bytes } = entry;
    stream.entries.remove(entry);
    this.#grow(stream, -bytes);
    this.size--;
    if (stream.entries.first !== null) return;
    this.#leave(stream);
    this.#streams.delete(stream.name);
  }

  /**
   * Removes the next entries: at least one, if there is any. They are taken in turns,
   * and returned in the order in which they came.
   */
  take(most: { entries: number; bytes: number }): Entry<Item>[] {
    const taken: Entry<Item>[] = [];
    let bytes = 0;
    while (taken.length < most.entries) {
      const entry = this.#next();
      if (entry === undefined) break;
      bytes += entry.bytes;
      if (taken.length > 0 && bytes > most.bytes) break;
      this.#rotate(entry.stream);
      this.remove(entry);
      taken.push(entry);
    }
    return taken.sort((a, b) => a.order - b.order);
  }

  /**
   * An entry to drop in favour of a new one: the next entry of the source with the
   * most bytes. Undefined if the new entry is of that source, too.
   */
  victim({ stream, group, source }: Place): Entry<Item> | undefined {
    const heaviest = this.#findHeaviest();
    const own = this.#streams.get(stream)?.source ??
      this.#groups[group]!.byName.get(source);
    return heaviest === null || heaviest === own ? undefined : first(heaviest);
  }

  #open(name: string, group: number, sourceName: string): Stream<Item> {
    const source = this.#source(group, sourceName);
    const entries = new Line<Entry<Item>>();
    const stream = { name, group, entries, bytes: 0, source, ...ALONE };
    this.#streams.set(name, stream);
    source.streams.add(stream);
    return stream;
  }

  #source(group: number, name: string): Source<Item> {
    const { byName, line } = this.#groups[group]!;
    const known = byName.get(name);
    if (known !== undefined) return known;
    const streams = new Line<Stream<Item>>();
    const source = { name, streams, bytes: 0, ...ALONE };
    byName.set(name, source);
    line.add(source);
    return source;
  }

  /** Takes a stream out of its source. */
  #leave(stream: Stream<Item>): void {
    const { source, group, bytes } = stream;
    source.streams.remove(stream);
    source.bytes -= bytes;
    if (source.streams.first !== null) return;
    const { byName, line } = this.#groups[group]!;
    byName.delete(source.name);
    line.remove(source);
  }

  #grow(stream: Stream<Item>, bytes: number): void {
    stream.bytes += bytes;
    this.bytes += bytes;
    this.#weigh(stream.source, bytes);
  }

  #weigh(source: Source<Item>, bytes: number): void {
    source.bytes += bytes;
    if (source.bytes > (this.#heaviest?.bytes ?? 0)) this.#heaviest = source;
  }

  #findHeaviest(): Source<Item> | null {
    if (this.#heaviest !== null && this.#heaviest.streams.first !== null) {
      return this.#heaviest;
    }
    this.#heaviest = null;
    // Where all sources are light, some of them tell enough, and cost little.
    for (const { line } of this.#groups) {
      let source = line.first;
      for (let i = 0; i < MAX_COMPARED && source !== null; i++) {
        this.#weigh(source, 0);
        source = source.after;
      }
    }
    return this.#heaviest;
  }

  #next(): Entry<Item> | undefined {
    for (let i = 0; i < this.#groups.length; i++) {
      const group = (this.#turn + i) % this.#groups.length;
      const source = this.#groups[group]!.line.first;
      if (source !== null) return first(source);
    }
    return undefined;
  }

  /** Puts a stream, its source and its group at the end of their turns. */
  #rotate(stream: Stream<Item>): void {
    const { source, group } = stream;
    source.streams.rotate(stream);
    this.#groups[group]!.line.rotate(source);
    this.#turn = (group + 1) % this.#groups.length;
  }
}

/** The fields of what stands in no line yet. */
const ALONE = Object.freeze({ before: null, after: null });

/** Sources that are compared to find a heavy one. */
const MAX_COMPARED = 100;

/** The next entry of a source; sources and streams are never empty. */
function first<Item>({ streams }: Source<Item>): Entry<Item> | undefined {
  return streams.first?.entries.first ?? undefined;
}
