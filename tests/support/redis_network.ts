/**
 * A network of connections to Redis, with an owner that remembers what it is called
 * with and restores the topics that it wants.
 *
 * @module
 */
import { createHash } from "node:crypto";
import {
  type Connection,
  Network,
  type NetworkOptions,
  type NetworkOwner,
  RedisUnavailable,
  type Script,
} from "../../ext/redis/network.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { Queue } from "./queue.ts";

/** The tags of the buckets, as many as the backplane has. */
export const TAGS: readonly string[] = Array.from(
  { length: 64 },
  (_, bucket) => `{test:${bucket}}`,
);

/** Makes a script of its text. */
export function script(name: string, text: string): Script {
  return { name, text, digest: createHash("sha1").update(text).digest("hex") };
}

/** `n[ARGV[1]] += 1`, and a message on a topic: how often was a call done? */
export const COUNT: Script = script(
  "count",
  `local n = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
  redis.call('SPUBLISH', KEYS[2], ARGV[1])
  return n`,
);

/** Writes, as an owner does that makes itself known. */
export const GREET: Script = script(
  "greet",
  "return redis.call('SET', KEYS[1], ARGV[1], 'EX', 600)",
);

/** A call of `restore`. */
export interface Restoration {
  readonly buckets: readonly number[];
  readonly connection: Connection;
}

/** A network that is closed at the end of the test. */
export class TestNetwork implements NetworkOwner, AsyncDisposable {
  readonly network: Network;
  /** Messages that have come, as `topic text`. */
  readonly messages: Queue<string> = new Queue(2 * DEADLINE_MS);
  readonly #unseen = new Queue<{ isUp: boolean; cause: unknown }>(
    3 * DEADLINE_MS,
  );
  /** All changes of health. */
  readonly changes: boolean[] = [];
  /** Why it stayed down, as it was told. */
  readonly reasons: Queue<Error> = new Queue(3 * DEADLINE_MS);
  /** Calls of `restore`. */
  readonly restorations: Restoration[] = [];
  /** What is subscribed to, by bucket. */
  readonly topics: Map<number, Set<string>> = new Map();
  /** Done first in each restoration. */
  onRestore: (restoration: Restoration) => Promise<void> | void = () => {};

  constructor(options: Partial<NetworkOptions> & { url: string }) {
    const { scripts = [], ...others } = options;
    this.network = new Network(
      { tags: TAGS, scripts: [COUNT, GREET, ...scripts], ...others },
      this,
    );
  }

  /** Makes one that has started. */
  static async start(
    options: Partial<NetworkOptions> & { url: string },
  ): Promise<TestNetwork> {
    const made = new TestNetwork(options);
    await within(DEADLINE_MS, "start", made.network.start());
    return made;
  }

  async restore(
    buckets: readonly number[],
    connection: Connection,
  ): Promise<void> {
    this.restorations.push({ buckets, connection });
    await this.onRestore({ buckets, connection });
    const topics = buckets.flatMap((
      bucket,
    ) => [...this.topics.get(bucket) ?? []]);
    await Promise.all([
      connection.subscribe(topics),
      ...buckets.map((bucket) =>
        connection.call(GREET, [`${TAGS[bucket]}:meta`], [connection.runId])
      ),
    ]);
  }

  message(topic: string, text: string): void {
    this.messages.push(`${topic} ${text}`);
  }

  health(isUp: boolean, cause?: unknown): void {
    this.changes.push(isUp);
    this.#unseen.push({ isUp, cause });
  }

  stays(cause: Error): void {
    this.reasons.push(cause);
  }

  /** Waits for the next change of health, which must be this one; returns its cause. */
  async becomes(state: "up" | "down"): Promise<unknown> {
    const { isUp, cause } = await this.#unseen.next(`health: ${state}`);
    if (isUp !== (state === "up")) {
      throw new Error(`Cannot be ${state}: it has become the opposite`);
    }
    return cause;
  }

  /** Subscribes to a topic of a bucket, now and after each restoration. */
  async subscribe(bucket: number, ...names: string[]): Promise<string[]> {
    const topics = names.map((name) => `${TAGS[bucket]}:t:${name}`);
    const all = this.topics.get(bucket) ?? new Set();
    this.topics.set(bucket, all);
    for (const topic of topics) all.add(topic);
    await this.network.connection(bucket).subscribe(topics);
    return topics;
  }

  /** Counts a word, which is then heard on a topic of that bucket. */
  count(word: string, bucket = 0, topic = "news"): Promise<unknown> {
    const keys = [`${TAGS[bucket]}:n`, `${TAGS[bucket]}:t:${topic}`];
    return this.network.connection(bucket).call(COUNT, keys, [word]);
  }

  /** Waits until a word is heard on a topic of a bucket. */
  async hears(word: string, bucket = 0, topic = "news"): Promise<void> {
    const message = `${TAGS[bucket]}:t:${topic} ${word}`;
    await this.messages.upTo((heard) => heard === message, message);
  }

  /** The only connection that can be used now. */
  connection(bucket = 0): Connection {
    return this.network.connection(bucket);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.network.close();
  }
}

/** What became of a call. */
export type Outcome = "done" | "not sent" | "unknown";

/** How a call ends. Anything but Redis being away is an error of the test. */
export async function outcomeOf(call: Promise<unknown>): Promise<Outcome> {
  try {
    await call;
    return "done";
  } catch (error) {
    if (!(error instanceof RedisUnavailable)) throw error;
    return error.wasSent ? "unknown" : "not sent";
  }
}

/** Calls without a break, each with a word of its own, as a busy server does. */
export class Traffic {
  readonly outcomes: Map<string, Outcome> = new Map();
  readonly #network: TestNetwork;
  readonly #buckets: readonly number[];
  readonly #open = new Set<Promise<void>>();
  readonly #running: Promise<void>;
  #isStopped = false;
  #stop = (): void => {};
  /** The most calls that waited for an answer at once. */
  mostPending = 0;

  /** @param everyMs Between two calls, which do not wait for each other. */
  constructor(
    network: TestNetwork,
    buckets: readonly number[] = [0],
    everyMs = 10,
  ) {
    this.#network = network;
    this.#buckets = buckets;
    this.#running = this.#run(everyMs);
  }

  /** Ends it. Resolves when every call has an outcome. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#stop();
    await this.#running;
    await within(DEADLINE_MS, "the end of each call", Promise.all(this.#open));
  }

  /** The words whose calls ended so. */
  words(outcome: Outcome): string[] {
    return [...this.outcomes].flatMap(([word, its]) =>
      its === outcome ? [word] : []
    );
  }

  async #run(everyMs: number): Promise<void> {
    for (let i = 0; !this.#isStopped; i++) {
      const word = `w${i}`;
      const bucket = this.#buckets[i % this.#buckets.length] ?? 0;
      const call = this.#call(word, bucket).finally(() =>
        this.#open.delete(call)
      );
      this.#open.add(call);
      this.mostPending = Math.max(this.mostPending, this.#open.size);
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, everyMs);
      this.#stop = resolve;
      await promise;
      clearTimeout(timer);
    }
  }

  async #call(word: string, bucket: number): Promise<void> {
    // What is thrown at once is an outcome, too.
    const call = (async () => await this.#network.count(word, bucket))();
    this.outcomes.set(word, await outcomeOf(call));
  }
}
