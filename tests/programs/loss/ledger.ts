/**
 * Who should have heard what, and who did. The truth about a channel, its
 * messages and their order, is what a witness has heard: a subscriber whose
 * connection nothing happens to.
 *
 * @module
 */

/** The messages of a run. */
export class Ledger {
  #last = 0;
  readonly #published = new Map<string, Set<number>>();
  readonly #order = new Map<string, Map<number, number>>();
  readonly #exempt = new Map<number, string>();
  readonly #oddities: string[] = [];

  /**
   * Numbers a message that is about to be sent. `exempt` is the client that must
   * not get it: the one that sends it, or that a publisher leaves out.
   */
  number(exempt?: string): number {
    this.#last++;
    if (exempt !== undefined) this.#exempt.set(this.#last, exempt);
    return this.#last;
  }

  /** The last number that was given away. */
  get last(): number {
    return this.#last;
  }

  /** Takes down that a server accepted a message. */
  published(channel: string, message: number): void {
    entry(this.#published, channel, () => new Set()).add(message);
  }

  /** Takes down what the witness of a channel hears. */
  witnessed(channel: string, message: number): void {
    const order = entry(this.#order, channel, () => new Map());
    if (order.has(message)) {
      this.#oddities.push(`the witness heard ${message} twice on ${channel}`);
    } else {
      order.set(message, order.size);
    }
  }

  /** Messages and their places on a channel. */
  order(channel: string): ReadonlyMap<number, number> {
    return entry(this.#order, channel, () => new Map());
  }

  /** Whether a message was never published on a channel. */
  invents(channel: string, message: number): boolean {
    return !this.order(channel).has(message);
  }

  /** Whether a client is the one that must not get a message. */
  exempts(message: number, client: string): boolean {
    return this.#exempt.get(message) === client;
  }

  /** How many messages there were, over all channels. */
  get size(): number {
    return [...this.#order.values()].reduce((sum, { size }) => sum + size, 0);
  }

  /** What makes the truth itself doubtful; nothing, unless the server is broken. */
  get problems(): string[] {
    const missing = [...this.#published].flatMap(([channel, messages]) =>
      [...messages]
        .filter((message) => !this.order(channel).has(message))
        .map((message) => `the witness missed ${message} on ${channel}`)
    );
    return [...this.#oddities, ...missing];
  }
}

/** What became of the messages of one client, or of several. */
export interface Tally {
  /** Messages that were for it. */
  expected: number;
  /** Those of them that it got. */
  delivered: number;
  /** Those of them that it did not get, and was not told of. */
  lost: number;
  /** Those of them that it did not get, and was told of. */
  reported: number;
  /** Deliveries of what it had got before. */
  duplicated: number;
  /** First deliveries of what should have come before another one. */
  outOfOrder: number;
  /** Deliveries of what it must not get. */
  echoed: number;
  /** Deliveries of what nobody published there. */
  invented: number;
}

/** What a client was told of a gap in a channel. */
interface Report {
  /** How many messages it had heard there by then. */
  readonly heard: number;
  /** The last message that was on its way anywhere. */
  readonly last: number;
}

/** What a client has heard on one channel. */
interface Hearing {
  /** The last message that was on its way when the client had joined. */
  readonly since: number;
  readonly first: number[];
  readonly seen: Set<number>;
  readonly reports: Report[];
  /** Deliveries of what it had heard before. */
  readonly again: number[];
}

/** What one client has heard. */
export class Account {
  readonly #client: string;
  readonly #ledger: Ledger;
  readonly #channels = new Map<string, Hearing>();
  /** What it heard on channels that it had not joined yet. */
  #early = 0;
  /** How often it was told of a gap. */
  reports = 0;
  #hasLeft = false;

  constructor(client: string, ledger: Ledger) {
    this.#client = client;
    this.#ledger = ledger;
  }

  /** Whether it has ever been on a channel. */
  has(channel: string): boolean {
    return this.#channels.has(channel);
  }

  /** It has joined a channel, perhaps again: from the first time on all counts. */
  joined(channel: string): void {
    entry(this.#channels, channel, () => ({
      since: this.#ledger.last,
      first: [],
      seen: new Set<number>(),
      reports: [],
      again: [],
    }));
  }

  /** It leaves for good: what comes after the last that it has heard is not for it. */
  leave(): void {
    this.#hasLeft = true;
  }

  /** It was given a message. */
  heard(channel: string, message: number): void {
    const hearing = this.#channels.get(channel);
    if (!hearing) this.#early++;
    else if (hearing.seen.has(message)) hearing.again.push(message);
    else {
      hearing.seen.add(message);
      hearing.first.push(message);
    }
  }

  /** It was told that something of a channel is gone. */
  toldOfGap(channel: string): void {
    this.reports++;
    const hearing = this.#channels.get(channel);
    const last = this.#ledger.last;
    hearing?.reports.push({ heard: hearing.first.length, last });
  }

  /** What it heard on a channel, in order, each once. */
  heardOn(channel: string): readonly number[] {
    return this.#channels.get(channel)?.first ?? [];
  }

  /** Whether a message has come. */
  hasHeard(channel: string, message: number): boolean {
    return this.#channels.get(channel)?.seen.has(message) ?? false;
  }

  /** Counts. */
  tally(): Tally {
    const total = noTally();
    total.invented = this.#early;
    for (const [channel, hearing] of this.#channels) {
      add(total, this.#count(channel, hearing));
    }
    return total;
  }

  /**
   * What went wrong, message by message, for people.
   */
  examples(): string[] {
    return [...this.#channels].flatMap(([channel, hearing]) => [
      ...this.#missing(channel, hearing).lost.map((n) =>
        `lost ${channel} ${n}`
      ),
      ...this.#late(channel, hearing).map((n) => `late ${channel} ${n}`),
      ...this.#echoes(hearing).map((n) => `echo ${channel} ${n}`),
      ...hearing.again.map((n) => `twice ${channel} ${n}`),
    ]);
  }

  #count(channel: string, hearing: Hearing): Tally {
    const { lost, reported, expected } = this.#missing(channel, hearing);
    return {
      expected,
      delivered: expected - lost.length - reported.length,
      lost: lost.length,
      reported: reported.length,
      duplicated: hearing.again.length,
      outOfOrder: this.#late(channel, hearing).length,
      echoed: this.#echoes(hearing).length,
      invented:
        hearing.first.filter((message) =>
          this.#ledger.invents(channel, message)
        ).length,
    };
  }

  /** First deliveries that came after one that should have come after them. */
  #late(channel: string, { first }: Hearing): number[] {
    const order = this.#ledger.order(channel);
    let furthest = -1;
    return first.filter((message) => {
      const place = order.get(message) ?? furthest;
      furthest = Math.max(furthest, place);
      return place < furthest;
    });
  }

  #echoes({ first }: Hearing): number[] {
    return first.filter((n) => this.#ledger.exempts(n, this.#client));
  }

  /**
   * What has not come, divided by whether the client was told: a report covers
   * what lies between the last message before it and what was on its way by then.
   */
  #missing(channel: string, hearing: Hearing) {
    const order = this.#ledger.order(channel);
    const reports = hearing.reports.map(({ heard, last }) => ({
      after: furthest(order, hearing.first.slice(0, heard)),
      last,
    }));
    const end = this.#hasLeft ? furthest(order, hearing.first) : Infinity;
    const expected = [...order].filter(([message, place]) =>
      message > hearing.since && place <= end &&
      !this.#ledger.exempts(message, this.#client)
    );
    const lost: number[] = [];
    const reported: number[] = [];
    for (const [message, place] of expected) {
      if (hearing.seen.has(message)) continue;
      const isReported = reports.some(({ after, last }) =>
        place > after && message <= last
      );
      (isReported ? reported : lost).push(message);
    }
    return { lost, reported, expected: expected.length };
  }
}

/** The last place of some messages; -1 if there are none. */
function furthest(
  order: ReadonlyMap<number, number>,
  messages: readonly number[],
): number {
  return messages.reduce(
    (last, message) => Math.max(last, order.get(message) ?? -1),
    -1,
  );
}

/** Nothing happened. */
export function noTally(): Tally {
  return {
    expected: 0,
    delivered: 0,
    lost: 0,
    reported: 0,
    duplicated: 0,
    outOfOrder: 0,
    echoed: 0,
    invented: 0,
  };
}

/** Adds what became of other messages. */
export function add(total: Tally, more: Tally): void {
  for (const name of Object.keys(total) as (keyof Tally)[]) {
    total[name] += more[name];
  }
}

function entry<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const found = map.get(key);
  if (found !== undefined) return found;
  const made = make();
  map.set(key, made);
  return made;
}
