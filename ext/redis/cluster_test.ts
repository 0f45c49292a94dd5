/**
 * Redis Cluster: a connection to each master, slots that move and masters that die.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import type { RedisServer } from "../../tests/support/redis.ts";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisCluster, until } from "../../tests/support/redis_groups.ts";
import {
  type Outcome,
  outcomeOf,
  TAGS,
  TestNetwork,
  Traffic,
} from "../../tests/support/redis_network.ts";
import { RedisUnavailable } from "./network.ts";

const BUCKETS = TAGS.map((_tag, bucket) => bucket);

testWithRedis(
  "Network in a cluster has a connection to each master, and finds all by one",
  async () => {
    await using cluster = await RedisCluster.start();
    await using made = await TestNetwork.start({
      url: cluster.url(cluster.masters.slice(1, 2)),
    });
    const connections = new Set(
      BUCKETS.map((bucket) => made.connection(bucket)),
    );
    assertEquals(connections.size, 3);
    const runIds = new Set([...connections].map(({ runId }) => runId));
    assertEquals(runIds.size, 3);
    const restored = made.restorations.flatMap(({ buckets }) => buckets);
    assertEquals(restored.sort((a, b) => a - b), BUCKETS);
    for (const bucket of BUCKETS) {
      await made.subscribe(bucket, "news");
      assertEquals(await made.count("hello", bucket), 1);
      await made.hears("hello", bucket);
    }
    for (const server of cluster.masters) {
      const clients = String(await server.command("CLIENT", "LIST"));
      assertEquals(clients.match(/name=glitz-pusher /g)?.length, 1);
    }
  },
);

testWithRedis(
  "Connection.subscribe in a cluster takes topics of several slots",
  async () => {
    await using cluster = await RedisCluster.start();
    await using made = await TestNetwork.start({ url: cluster.url() });
    const connection = made.connection(0);
    const buckets = BUCKETS.filter((bucket) =>
      made.connection(bucket) === connection
    );
    assert(buckets.length > 10);
    await connection.subscribe(
      buckets.map((bucket) => `${TAGS[bucket]}:t:news`),
    );
    for (const bucket of buckets) await made.count("hello", bucket);
    for (const bucket of buckets) await made.hears("hello", bucket);
  },
);

testWithRedis(
  "Network in a cluster hears 2,500 topics of a master again after a cut, and the others meanwhile",
  async () => {
    await using cluster = await RedisCluster.start();
    await using made = await TestNetwork.start({ url: cluster.url() });
    const names = Array.from({ length: 2_500 }, (_, i) => `n${i}`);
    const home = await cluster.masterOf(await cluster.slotOf(TAGS[0] ?? ""));
    const other = BUCKETS.find((bucket) =>
      made.connection(bucket) !== made.connection(0)
    );
    assert(other !== undefined);
    await made.subscribe(0, ...names);
    await made.subscribe(other, "news");
    const untouched = made.connection(other);
    home.pause();
    const lost = within(DEADLINE_MS, "down", made.becomes("down"));
    await made.count("meanwhile", other);
    await made.hears("meanwhile", other);
    await lost;
    assertThrows(() => made.connection(0), RedisUnavailable, "away");
    assertEquals(made.connection(other), untouched);
    home.resume();
    await made.becomes("up");
    for (const name of ["n0", "n499", "n500", "n2499"]) {
      await made.count(name, 0, name);
      await made.hears(name, 0, name);
    }
    assertEquals(made.connection(other), untouched);
    assertEquals(made.changes, [false, true]);
  },
);

testWithRedis(
  "Network in a cluster needs few rights, and says that one is missing",
  async () => {
    await using cluster = await RedisCluster.start();
    const give = async (...rights: string[]) => {
      for (const server of cluster.masters) {
        await server.command("ACL", "SETUSER", "few", ...rights);
      }
    };
    await give(
      ...[
        "on",
        ">s3cret",
        "~{test:*",
        "&{test:*",
        "+hello",
        "+info",
        "+evalsha",
      ],
      ...["+script|load", "+ssubscribe", "+sunsubscribe", "+client|info"],
      ...["+cluster|info", "+cluster|slots", "+cluster|keyslot"],
      ...["+hincrby", "+spublish", "+set"],
    );
    const url = cluster.url().replace("//", "//few:s3cret@");
    {
      await using made = await TestNetwork.start({ url });
      await made.subscribe(0, "news");
      await made.count("hello");
      await made.hears("hello");
    }
    for (const right of ["client|info", "cluster|slots"]) {
      await give(`-${right}`);
      await using made = new TestNetwork({ url });
      await assertRejects(
        () => made.network.start(),
        RedisUnavailable,
        "lacks a right",
      );
      await give(`+${right}`);
    }
  },
);

/** More topics than the library subscribes to again by itself. */
const MANY = Array.from({ length: 2_500 }, (_, i) => `many ${i}`);
const LAST = "many 2499";

const MOVES = [
  {
    when: "while nothing is called",
    callsIt: false,
    callsOther: false,
    hearsOther: true,
  },
  {
    when: "while it is called",
    callsIt: true,
    callsOther: false,
    hearsOther: true,
  },
  // The library takes the end of a subscription for an answer then.
  {
    when: "while something else on the connection is called",
    callsIt: false,
    callsOther: true,
    hearsOther: true,
  },
  {
    when: "and with it all topics of a busy connection",
    callsIt: false,
    callsOther: true,
    hearsOther: false,
  },
  {
    when: "while all is called",
    callsIt: true,
    callsOther: true,
    hearsOther: true,
  },
];

for (const { when, callsIt, callsOther, hearsOther } of MOVES) {
  testWithRedis(
    `Network follows a slot that moves to another master and back, ${when}`,
    async () => {
      await using cluster = await RedisCluster.start();
      await using made = await TestNetwork.start({ url: cluster.url() });
      const slot = await cluster.slotOf(TAGS[0] ?? "");
      const home = await cluster.masterOf(slot);
      const target = cluster.masters.find((server) => server !== home) ?? home;
      const near = BUCKETS.filter((bucket) => bucket !== 0)
        .find((bucket) => made.connection(bucket) === made.connection(0)) ?? 0;
      await made.subscribe(0, "news", "more", "most", ...MANY);
      if (hearsOther) await made.subscribe(near, "news");
      const traffic = callsIt ? new Traffic(made, [0, near], 2) : null;
      const load = callsOther ? new Load(made, near) : null;
      const heard = [[0, "news"], [0, "most"], [0, LAST]] as const;
      for (const to of [target, home]) {
        const { runId } = made.connection();
        await cluster.beginMove(slot, to);
        await cluster.moveKeys(slot, to);
        await cluster.endMove(slot, to);
        await until(
          "a connection to the other master",
          () => hasMoved(made, runId),
        );
        for (
          const [bucket, topic] of [
            ...heard,
            ...hearsOther ? [[near, "news"] as const] : [],
          ]
        ) {
          const word = `to ${to.port} on ${topic}`;
          await reach(() => made.count(word, bucket, topic));
          await made.hears(word, bucket, topic);
        }
      }
      await traffic?.stop();
      await load?.stop();
      const outcomes = [...traffic?.outcomes ?? [], ...load?.outcomes ?? []];
      const counts = await countsOf(cluster.masters, [0, near]);
      for (const [word, outcome] of outcomes) {
        const count = counts.get(word) ?? 0;
        if (outcome === "done") assertEquals(count, 1, `${word}: done`);
        if (outcome === "not sent") assertEquals(count, 0, `${word}: not sent`);
        assert(count <= 1, `${word}: done more often than once`);
      }
    },
  );
}

testWithRedis(
  "Network does without a bucket whose slot is on its way, and keeps the others",
  async () => {
    await using cluster = await RedisCluster.start();
    await using made = await TestNetwork.start({ url: cluster.url() });
    const slot = await cluster.slotOf(TAGS[0] ?? "");
    const home = await cluster.masterOf(slot);
    const target = cluster.masters.find((server) => server !== home) ?? home;
    const near = BUCKETS.filter((bucket) => bucket !== 0)
      .find((bucket) => made.connection(bucket) === made.connection(0)) ?? 0;
    const connection = made.connection(near);
    await made.subscribe(0, "news");
    await made.subscribe(near, "news");
    await made.count("before");
    await cluster.beginMove(slot, target);
    await cluster.moveKeys(slot, target);
    // All keys are there already, and the slot is not.
    const call = await made.count("during").catch((error) => error);
    assert(call instanceof RedisUnavailable);
    assertEquals(call.wasSent, false);
    await made.becomes("down");
    assertThrows(() => made.connection(0), RedisUnavailable);
    assertEquals(made.connection(near), connection);
    await made.count("meanwhile", near);
    await made.hears("meanwhile", near);
    await cluster.endMove(slot, target);
    await made.becomes("up");
    await made.count("after");
    await made.hears("after");
    assertEquals(made.connection(0).runId === connection.runId, false);
  },
);

testWithRedis(
  "Network in a cluster goes to the replica that takes over from a dead master",
  async () => {
    await using cluster = await RedisCluster.start({ hasReplicas: true });
    await using made = await TestNetwork.start({ url: cluster.url() });
    const home = await cluster.masterOf(await cluster.slotOf(TAGS[0] ?? ""));
    await made.subscribe(0, "news", ...MANY);
    await made.count("before");
    await made.hears("before");
    const runId = made.connection().runId;
    await home.kill();
    await made.becomes("down");
    await made.becomes("up");
    assert(made.connection().runId !== runId);
    for (const topic of ["news", LAST]) {
      await made.count(`after on ${topic}`, 0, topic);
      await made.hears(`after on ${topic}`, 0, topic);
    }
    // The dead one returns as a replica, which changes nothing.
    await home.restart();
    await made.count("at the end");
    await made.hears("at the end");
  },
);

testWithRedis(
  "Network in a cluster goes to the replica that takes over from a frozen master",
  async () => {
    await using cluster = await RedisCluster.start({ hasReplicas: true });
    await using made = await TestNetwork.start({ url: cluster.url() });
    const home = await cluster.masterOf(await cluster.slotOf(TAGS[0] ?? ""));
    await made.subscribe(0, "news");
    const runId = made.connection().runId;
    home.pause();
    await made.becomes("down");
    await made.becomes("up");
    assert(made.connection().runId !== runId);
    await made.count("after");
    await made.hears("after");
    home.resume();
    await until(
      "the old master being a replica",
      async () =>
        String(await home.command("INFO", "replication")).includes(
          "role:slave",
        ),
    );
    await made.count("at the end");
    await made.hears("at the end");
  },
);

testWithRedis(
  "Network in a cluster follows a master that steps down by itself",
  async () => {
    await using cluster = await RedisCluster.start({ hasReplicas: true });
    await using made = await TestNetwork.start({ url: cluster.url() });
    await made.subscribe(0, "news");
    const home = await cluster.masterOf(await cluster.slotOf(TAGS[0] ?? ""));
    const replica = cluster.replicas[cluster.masters.indexOf(home)] ?? home;
    const runId = made.connection().runId;
    // Redis gives a failover up where the other masters do not vote in time.
    await until("a master that has stepped down", async () => {
      const [role] = await replica.command("ROLE") as string[];
      if (role === "master") return true;
      await replica.command("CLUSTER", "FAILOVER");
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      return false;
    });
    // Nobody calls anything: only the subscriptions end.
    await until("a connection to the new master", () => hasMoved(made, runId));
    await reach(() => made.count("after"));
    await made.hears("after");
  },
);

/** Calls without a pause: there is always an answer to come. */
class Load {
  readonly outcomes: Map<string, Outcome> = new Map();
  readonly #loops: Promise<void>[];
  #isStopped = false;

  constructor(made: TestNetwork, bucket: number) {
    this.#loops = Array.from({ length: 8 }, async (_, loop) => {
      for (let i = 0; !this.#isStopped; i++) {
        const word = `load${loop}-${i}`;
        const call = (async () => await made.count(word, bucket))();
        const outcome = await outcomeOf(call);
        this.outcomes.set(word, outcome);
        // Nothing would wait for the network otherwise, and nothing else would run.
        if (outcome !== "done") {
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      }
    });
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all(this.#loops);
  }
}

/** Whether bucket 0 is reachable over a connection to another server. */
function hasMoved(made: TestNetwork, runId: string): boolean {
  try {
    return made.connection().runId !== runId;
  } catch {
    return false;
  }
}

/** Does it again while Redis is away. */
async function reach<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof RedisUnavailable)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

async function countsOf(
  servers: readonly RedisServer[],
  buckets: readonly number[],
): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const server of servers) {
    for (const bucket of buckets) {
      const answer = await server.command("HGETALL", `${TAGS[bucket]}:n`)
        .catch((error) => {
          // Another server has the slot.
          if (!String(error).includes("MOVED")) throw error;
        });
      for (const [word, count] of Object.entries(answer ?? {})) {
        counts.set(word, (counts.get(word) ?? 0) + Number(count));
      }
    }
  }
  return counts;
}
