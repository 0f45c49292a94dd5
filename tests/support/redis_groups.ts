/**
 * Several Redis servers that belong together: a cluster, and a master with a replica
 * and Sentinels.
 *
 * @module
 */
import { DEADLINE_MS } from "./deadline.ts";
import { freePort } from "./ports.ts";
import { RedisServer } from "./redis.ts";

const SLOTS = 16_384;

/**
 * How soon a dead master is noticed by the others. A live one on a busy machine must
 * not be taken for it, least of all where there is nobody to take over.
 */
const DOWN_MS = 2_000;
const NEVER_DOWN_MS = 60_000;

/**
 * How often Sentinels do what a failover waits for; otherwise a look at the servers
 * comes every 10 s. After a pause, as on a busy machine, they do nothing for a time,
 * which is 30 s otherwise.
 */
const SENTINEL_PERIODS_MS = {
  "INFO-PERIOD": 500,
  "ASK-PERIOD": 250,
  "PUBLISH-PERIOD": 250,
  "TILT-PERIOD": 1_000,
};

/** Between two looks at servers that cannot say when they are ready. */
const POLL_MS = 50;

/**
 * Resolves when a condition holds; what is looked at has no events. A look that fails
 * is repeated: servers that change their parts cut those who ask.
 */
export async function until(
  what: string,
  holds: () => Promise<boolean> | boolean,
  deadlineMs = 3 * DEADLINE_MS,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    let cause: unknown;
    try {
      if (await holds()) return;
    } catch (error) {
      cause = error;
    }
    if (performance.now() > end) {
      const reason = `${what} has not happened`;
      throw new Error(`Cannot wait longer: ${reason}`, { cause });
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

// ---- Cluster ----------------------------------------------------------------

/** A cluster whose masters share the slots evenly; disposal ends all of it. */
export class RedisCluster implements AsyncDisposable {
  /** The masters as it was made, in the order of their slots. */
  readonly masters: readonly RedisServer[];
  /** A replica of each master, in the same order, if there are any. */
  readonly replicas: readonly RedisServer[];

  private constructor(masters: RedisServer[], replicas: RedisServer[]) {
    this.masters = masters;
    this.replicas = replicas;
  }

  /** Starts three masters, with a replica of each if wanted. */
  static async start(
    { hasReplicas = false }: { hasReplicas?: boolean } = {},
  ): Promise<RedisCluster> {
    const started = await Promise.allSettled(
      Array.from({ length: hasReplicas ? 6 : 3 }, () =>
        RedisServer.start({
          args: () => [
            ...["--cluster-enabled", "yes", "--cluster-port", `${freePort()}`],
            "--cluster-node-timeout",
            `${hasReplicas ? DOWN_MS : NEVER_DOWN_MS}`,
            // Each would fork, which takes long on a busy machine.
            ...["--auto-aof-rewrite-percentage", "0"],
          ],
        })),
    );
    const servers = started.flatMap((result) =>
      result.status === "fulfilled" ? [result.value] : []
    );
    const cluster = new RedisCluster(servers.slice(0, 3), servers.slice(3));
    try {
      for (const result of started) {
        if (result.status === "rejected") throw result.reason;
      }
      await cluster.#join();
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Its URL, with all masters or with some. */
  url(masters: readonly RedisServer[] = this.masters): string {
    const hosts = masters.map(({ port }) => `127.0.0.1:${port}`);
    return `redis+cluster://${hosts.join()}`;
  }

  /** The slot of a key. */
  async slotOf(key: string): Promise<number> {
    return Number(await this.masters[0]?.command("CLUSTER", "KEYSLOT", key));
  }

  /** The master that has a slot, as the one that has it says itself. */
  async masterOf(slot: number): Promise<RedisServer> {
    for (const server of [...this.masters, ...this.replicas]) {
      if (server.pid === null) continue;
      const nodes = String(await server.command("CLUSTER", "NODES"));
      const own = nodes.split("\n").find((line) =>
        line.includes("myself,master")
      );
      const ranges = own?.trim().split(" ").slice(8) ?? [];
      const hasSlot = ranges.some((range) => {
        const [first = NaN, last = first] = range.split("-").map(Number);
        return first <= slot && slot <= last;
      });
      if (hasSlot) return server;
    }
    throw new Error(`Cannot find the master of slot ${slot}: no node has it`);
  }

  /** Begins to move a slot: some of its keys may already be on the other server. */
  async beginMove(slot: number, to: RedisServer): Promise<void> {
    const from = await this.masterOf(slot);
    const [source, target] = [await nodeId(from), await nodeId(to)];
    await to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source);
    await from.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target);
  }

  /** Moves the keys of a slot. */
  async moveKeys(slot: number, to: RedisServer): Promise<void> {
    const from = await this.masterOf(slot);
    const keys = await from.command("CLUSTER", "GETKEYSINSLOT", slot, 10_000);
    for (const key of keys as string[]) {
      await from.command("MIGRATE", "127.0.0.1", to.port, key, 0, 5_000);
    }
  }

  /** Ends a move: the other server has the slot from then on. */
  async endMove(slot: number, to: RedisServer): Promise<void> {
    const from = await this.masterOf(slot);
    const id = await nodeId(to);
    const others = this.masters.filter((server) =>
      server !== to && server !== from
    );
    for (const server of [to, from, ...others]) {
      await server.command("CLUSTER", "SETSLOT", slot, "NODE", id);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      [...this.masters, ...this.replicas].map((server) =>
        server[Symbol.asyncDispose]()
      ),
    );
  }

  async #join(): Promise<void> {
    const all = [...this.masters, ...this.replicas];
    const share = Math.ceil(SLOTS / this.masters.length);
    const [first] = all;
    if (!first) throw new Error("Cannot make a cluster of no servers");
    for (const [i, server] of this.masters.entries()) {
      await server.command("CLUSTER", "SET-CONFIG-EPOCH", i + 1);
      const end = Math.min(SLOTS, (i + 1) * share) - 1;
      await server.command("CLUSTER", "ADDSLOTSRANGE", i * share, end);
    }
    for (const server of all.slice(1)) {
      const [, busPort = ""] = /@(\d+)/.exec(
        String(await server.command("CLUSTER", "NODES")),
      ) ?? [];
      await first.command("CLUSTER", "MEET", "127.0.0.1", server.port, busPort);
    }
    await until("every node knowing all others", async () => {
      const answers = await Promise.all(
        all.map((server) => clusterInfo(server)),
      );
      return answers.every((info) =>
        info.includes(`cluster_known_nodes:${all.length}`) &&
        info.includes("cluster_state:ok")
      );
    });
    for (const [i, replica] of this.replicas.entries()) {
      const id = await nodeId(this.masters[i] ?? first);
      await replica.command("CLUSTER", "REPLICATE", id);
    }
    await until("every replica having its data", async () => {
      const answers = await Promise.all(
        this.replicas.map((server) => server.command("INFO", "replication")),
      );
      return answers.every((info) =>
        String(info).includes("master_link_status:up")
      );
    });
  }
}

async function nodeId(server: RedisServer): Promise<string> {
  return String(await server.command("CLUSTER", "MYID"));
}

async function clusterInfo(server: RedisServer): Promise<string> {
  return String(await server.command("CLUSTER", "INFO"));
}

// ---- Sentinels --------------------------------------------------------------

/** A master with a replica, and three Sentinels; disposal ends all of it. */
export class RedisSentinels implements AsyncDisposable {
  static readonly NAME = "mymaster";

  private constructor(
    /** The master as it was made. */
    readonly master: RedisServer,
    /** Its replica. */
    readonly replica: RedisServer,
    readonly sentinels: RedisServer[],
  ) {}

  /** Starts them, and waits until the Sentinels know each other and the replica. */
  static async start(): Promise<RedisSentinels> {
    const master = await RedisServer.start();
    const replica = await RedisServer.start({
      args: ["--replicaof", "127.0.0.1", `${master.port}`],
    });
    const group = new RedisSentinels(master, replica, []);
    try {
      // The Sentinels look for replicas at once, and then only from time to time.
      await until(
        "the replica having its data",
        async () =>
          String(await replica.command("INFO", "replication"))
            .includes("master_link_status:up"),
      );
      for (let i = 0; i < 3; i++) {
        const sentinel = await RedisServer.start({
          config: (port, directory) => sentinelConfig(port, directory, master),
          args: ["--sentinel"],
          ready: /\+monitor master/,
        });
        group.sentinels.push(sentinel);
        const periods = Object.entries(SENTINEL_PERIODS_MS).flat();
        await sentinel.command("SENTINEL", "DEBUG", ...periods);
      }
      await group.#know();
      return group;
    } catch (error) {
      await group[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Their URL. */
  get url(): string {
    const hosts = this.sentinels.map(({ port }) => `127.0.0.1:${port}`);
    return `redis+sentinel://${hosts.join()}/${RedisSentinels.NAME}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      [...this.sentinels, this.replica, this.master].map((server) =>
        server[Symbol.asyncDispose]()
      ),
    );
  }

  async #know(): Promise<void> {
    await until("every Sentinel knowing all others", async () => {
      const answers = await Promise.all(
        this.sentinels.map((server) =>
          server.command("SENTINEL", "MASTER", RedisSentinels.NAME)
        ),
      );
      return answers.every((answer) => {
        const text = JSON.stringify(answer);
        return /"num-other-sentinels"\W+2\b/.test(text) &&
          /"num-slaves"\W+1\b/.test(text);
      });
    });
  }
}

function sentinelConfig(
  port: number,
  directory: string,
  master: RedisServer,
): string {
  const name = RedisSentinels.NAME;
  return [
    `port ${port}`,
    "bind 127.0.0.1",
    `dir ${directory}`,
    `sentinel monitor ${name} 127.0.0.1 ${master.port} 2`,
    `sentinel down-after-milliseconds ${name} ${DOWN_MS}`,
    `sentinel failover-timeout ${name} 5000`,
    "",
  ].join("\n");
}
