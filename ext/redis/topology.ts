/**
 * Where the masters are, and which bucket each of them has. Sentinels and nodes of a
 * cluster are asked over connections of their own, each time: what they said before
 * may be over.
 *
 * @module
 */

import { type Location, showAddress } from "./address.ts";
import {
  type Address,
  Client,
  type ClientOptions,
  isReply,
  type RedisCredentials,
  type RedisTls,
} from "./client.ts";
import { Fault } from "./failures.ts";
import { tagOf } from "./link.ts";
import { parseInfo, type ServerKind } from "./server.ts";

/** What a {@linkcode Topology} needs to know besides the URL. */
export interface TopologyOptions {
  readonly tags: readonly string[];
  readonly tls: RedisTls;
  readonly sentinel: RedisCredentials;
  /** How often Sentinels are asked though all is well. @default {5000} */
  readonly watchMs?: number | undefined;
}

/** How long a Sentinel or a node may take to say where the masters are. */
const ANSWER_MS = 2_500;

/**
 * How often Sentinels are asked though all is well. A master that only they have lost
 * would otherwise go on, and what it accepts would be gone in the end.
 */
const SENTINEL_WATCH_MS = 5_000;

/** Nodes that are asked; each knows all of the cluster. */
const MAX_NODES = 9;

/** Knows how to find the master of each bucket. */
export class Topology {
  readonly #location: Location;
  readonly #options: TopologyOptions;
  /** What ends each question that is still open. */
  readonly #questions = new Set<(reason: Error) => void>();
  /** Nodes that the cluster had when it was asked last. */
  #nodes: readonly Address[] = [];
  /** Of each tag, in a cluster. */
  #slots: ReadonlyMap<string, number> = new Map();

  constructor(location: Location, options: TopologyOptions) {
    this.#location = location;
    this.#options = options;
  }

  /** The hosts and ports of the URL, for errors. */
  get where(): string {
    return this.#location.addresses.map(showAddress).join(", ");
  }

  /** Whether it is TLS by which everything is reached. */
  get isSecure(): boolean {
    return this.#location.isSecure;
  }

  /** How often to look again though all is well; null for never. */
  get watchMs(): number | null {
    const { watchMs = SENTINEL_WATCH_MS } = this.#options;
    return this.#location.kind === "sentinel" ? watchMs : null;
  }

  /** What a connection to a master needs to know. */
  linkOptions(
    address: Address,
  ): ClientOptions & { kind: ServerKind; slotOf(key: string): number } {
    const { kind, credentials } = this.#location;
    return {
      ...this.#clientOptions(address, credentials),
      kind: kind === "cluster" ? "node" : "master",
      slotOf: (key) => this.#slots.get(tagOf(key)) ?? NaN,
    };
  }

  /** By bucket, where its master is. Rejects with the first reason if nobody knows. */
  async locate(): Promise<readonly Address[]> {
    const { kind, addresses, masterName } = this.#location;
    switch (kind) {
      case "server":
        return this.#options.tags.map(() => addresses[0]);
      case "sentinel": {
        const master = await this.#vote(
          addresses,
          this.#options.sentinel,
          (client) => askSentinel(client, masterName),
        );
        return this.#options.tags.map(() => master);
      }
      case "cluster": {
        const nodes = [...this.#nodes, ...addresses];
        const byName = new Map(nodes.map((node) => [showAddress(node), node]));
        const map = await this.#vote(
          [...byName.values()].slice(0, MAX_NODES),
          this.#location.credentials,
          (client, address) => this.#askNode(client, address),
        );
        this.#nodes = map.nodes;
        return map.homes;
      }
    }
  }

  /** Ends what is still being asked. */
  close(): void {
    for (const end of this.#questions) end(new Error("Nobody asks any more"));
  }

  #clientOptions(
    { host, port }: Address,
    credentials: RedisCredentials,
  ): ClientOptions {
    const tls = this.#location.isSecure ? this.#options.tls : null;
    return { host, port, credentials, tls };
  }

  /**
   * Asks several servers for the same. What most of them say is true; where only one
   * answers, it is believed.
   */
  async #vote<T>(
    addresses: readonly Address[],
    credentials: RedisCredentials,
    ask: (client: Client, address: Address) => Promise<T>,
  ): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const votes = new Map<string, { answer: T; count: number }>();
    let failure: unknown;
    let open = addresses.length;
    const count = (answer: T) => {
      const key = JSON.stringify(answer);
      const vote = votes.get(key) ?? { answer, count: 0 };
      votes.set(key, vote);
      vote.count++;
      if (vote.count * 2 > addresses.length) resolve(answer);
    };
    for (const address of addresses) {
      this.#ask(address, credentials, ask)
        .then(count, (error) => failure ??= error)
        .finally(() => {
          if (--open > 0) return;
          const [best] = [...votes.values()].sort((a, b) => b.count - a.count);
          if (best) resolve(best.answer);
          else reject(failure);
        });
    }
    try {
      return await promise;
    } finally {
      // Who has not answered yet need not any more.
      this.close();
    }
  }

  async #ask<T>(
    address: Address,
    credentials: RedisCredentials,
    ask: (client: Client, address: Address) => Promise<T>,
  ): Promise<T> {
    const { promise: failed, reject } = Promise.withResolvers<never>();
    const client = new Client(this.#clientOptions(address, credentials), {
      message: () => {},
      moved: () => {},
      failed: reject,
    });
    this.#questions.add(reject);
    const late = new Fault(`it did not answer in ${ANSWER_MS} ms`);
    const timer = setTimeout(() => reject(late), ANSWER_MS);
    const answer = client.open().then(() => ask(client, address));
    try {
      return await Promise.race([answer, failed]);
    } catch (error) {
      throw this.#location.kind === "sentinel" ? toSentinelFault(error) : error;
    } finally {
      clearTimeout(timer);
      this.#questions.delete(reject);
      client.destroy();
    }
  }

  // ---- Cluster ----------------------------------------------------------------

  async #askNode(
    client: Client,
    { host }: Address,
  ): Promise<{ homes: Address[]; nodes: Address[] }> {
    const info = parseInfo(
      await client.send(["CLUSTER", "INFO"]).catch(toRefusal),
    );
    // Such a node may be cut off from all others, and not know what they do.
    if (info.get("cluster_state") !== "ok") {
      throw new Fault("the cluster is down: see CLUSTER INFO");
    }
    if (this.#slots.size === 0) {
      const { tags } = this.#options;
      const slots = await Promise.all(
        tags.map((tag) => client.send(["CLUSTER", "KEYSLOT", tag])),
      );
      this.#slots = new Map(tags.map((tag, i) => [tag, Number(slots[i])]));
    }
    const ranges = readSlots(await client.send(["CLUSTER", "SLOTS"]), host);
    const homes = [...this.#slots.values()].map((slot) => {
      const range = ranges.find(({ first, last }) =>
        first <= slot && slot <= last
      );
      if (range?.nodes[0]) return range.nodes[0];
      throw new Fault(`no node has slot ${slot}: see CLUSTER SLOTS`);
    });
    const nodes = ranges.flatMap((range) => range.nodes);
    return {
      homes,
      nodes: [...new Map(nodes.map((n) => [showAddress(n), n])).values()],
    };
  }
}

/** Slots that one master has, with its replicas after it. */
interface Range {
  readonly first: number;
  readonly last: number;
  readonly nodes: readonly Address[];
}

/**
 * Reads the answer of `CLUSTER SLOTS`.
 *
 * @param asked The host that answers: a node that does not know its own says none.
 */
function readSlots(answer: unknown, asked: string): Range[] {
  if (!Array.isArray(answer)) {
    throw new Fault("it does not say its slots");
  }
  return answer.map(([first, last, ...nodes]) => ({
    first: Number(first),
    last: Number(last),
    nodes: nodes.map(([host, port]: unknown[]) => ({
      host: host && host !== "?" ? String(host) : asked,
      port: Number(port),
    })),
  }));
}

async function askSentinel(client: Client, name: string): Promise<Address> {
  const answer = await client.send([
    "SENTINEL",
    "GET-MASTER-ADDR-BY-NAME",
    name,
  ])
    .catch(toRefusal);
  if (!Array.isArray(answer)) {
    throw new Fault(
      "it knows no master of that name: correct the name at the end of the URL",
    );
  }
  return { host: String(answer[0]), port: Number(answer[1]) };
}

/** Says what a server is not that does not know a command. */
function toRefusal(error: unknown): never {
  if (isReply(error) && /unknown command/i.test(error.message)) {
    throw new Fault("it is no Sentinel: begin the URL with redis://");
  }
  if (isReply(error) && /cluster support disabled/i.test(error.message)) {
    throw new Fault(
      "it is no node of a cluster: begin the URL with redis://",
    );
  }
  throw error;
}

/** Says which login is meant: the URL has the one of the master. */
function toSentinelFault(error: unknown): unknown {
  return isReply(error) && /^(?:NOAUTH|WRONGPASS)\b/.test(error.message)
    ? new Fault(
      "the Sentinel refuses to log in: give its user and password in the option " +
        "sentinel",
      { isLasting: true },
    )
    : error;
}
