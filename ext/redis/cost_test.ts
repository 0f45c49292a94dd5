/**
 * What Redis has to do: counted by Redis itself, for one call of the backplane, on
 * channels of every size and with any number of servers.
 */
import { assert, assertEquals, assertLess } from "@std/assert";
import type { FakeServer } from "../../tests/support/contract/server.ts";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisStage, sumOf } from "../../tests/support/redis_stage.ts";

type Counts = Record<string, number>;

/** Who is there already: servers with so many connections of so many users each. */
interface Crowd {
  readonly servers: number;
  readonly connections: number;
  readonly users: number;
  /** Servers without anybody on the channel. */
  readonly bystanders: number;
}

const CROWDS: readonly Crowd[] = [
  { servers: 1, connections: 1, users: 1, bystanders: 0 },
  { servers: 1, connections: 60, users: 30, bystanders: 2 },
  { servers: 3, connections: 60, users: 30, bystanders: 2 },
];

/** The cost of a call, which must not depend on the crowd. */
function testCost(
  title: string,
  expected: Counts,
  channel: string,
  /** `server` is on the channel, and `other` is not. */
  run: (server: FakeServer, other: FakeServer) => Promise<unknown>,
  prepare: (server: FakeServer) => Promise<unknown> = () => Promise.resolve(),
): void {
  testWithRedis(`${title}, however many are there`, async () => {
    for (const crowd of CROWDS) {
      await using stage = await RedisStage.open();
      const [server] = await fill(stage, channel, crowd);
      assert(server !== undefined);
      const other = await stage.server();
      await prepare(server);
      const counts = await stage.commands(() => run(server, other));
      assertEquals(counts, expected, JSON.stringify(crowd));
    }
  });
}

async function fill(
  stage: RedisStage,
  channel: string,
  { servers, connections, users, bystanders }: Crowd,
): Promise<FakeServer[]> {
  const all: FakeServer[] = [];
  for (let i = 0; i < servers; i++) all.push(await stage.server());
  for (let i = 0; i < bystanders; i++) {
    const bystander = await stage.server();
    await bystander.enter("elsewhere");
  }
  for (const [i, server] of all.entries()) {
    for (let n = 0; n < connections; n++) {
      const user = `user-${i}-${n % users}`;
      await server.enter(
        channel,
        channel.startsWith("presence-") ? { user } : {},
      );
    }
  }
  return all;
}

// ---- Publishing -------------------------------------------------------------

/** Checks who asks, where the channel stands, and publishes. */
const PUBLISH = {
  evalsha: 1,
  hget: 2,
  time: 1,
  hmget: 1,
  hset: 1,
  spublish: 1,
};

testCost(
  "A publish is one call, of six commands",
  PUBLISH,
  "news",
  (server) => server.publish("news", "x"),
);

testCost(
  "A publish that the history keeps is one call, of eight commands",
  { ...PUBLISH, xadd: 1, pexpire: 1 },
  "news",
  (server) => server.publish("news", "x"),
  (server) => server.enter("news", { recovers: true }),
);

testCost(
  "A publish that becomes the last event is one call, of seven commands",
  { ...PUBLISH, set: 1 },
  "cache-news",
  (server) => server.publish("cache-news", "x", { cacheMs: 1_000 }),
);

testCost(
  "A publish to nobody is one call, of four commands",
  { evalsha: 1, hget: 2, time: 1, hmget: 1 },
  "news",
  (server) => server.publish("others", "x"),
);

// ---- Joining and leaving ----------------------------------------------------

/** Checks who asks, where the channel stands, and the last event. */
const JOIN = { evalsha: 1, time: 1, hmget: 3, hset: 2, get: 1 };

testCost(
  "A join is one call, of seven commands",
  JOIN,
  "news",
  (server) => server.enter("news"),
);

testCost(
  "A join that can recover costs the same",
  JOIN,
  "news",
  (server) => server.enter("news", { recovers: true }),
  (server) => server.enter("news", { recovers: true }),
);

testCost(
  "A server's first join of a channel costs a subscription more",
  { ...JOIN, ssubscribe: 1 },
  "news",
  (_server, other) => other.enter("news"),
);

testCost(
  "A member's first join is one call, of thirteen commands",
  { ...JOIN, hget: 2, hset: 4, hgetall: 1, spublish: 1 },
  "presence-room",
  (server) => server.enter("presence-room", { user: "new" }),
);

testCost(
  "A member's second connection is one call, of ten commands",
  { ...JOIN, hget: 1, hset: 3, hgetall: 1 },
  "presence-room",
  (server) => server.enter("presence-room", { user: "user-0-0" }),
);

testCost(
  "A leave is one call, of six commands",
  { evalsha: 1, time: 1, hmget: 3, hset: 2 },
  "news",
  (server) => server.leave("news"),
  (server) => server.enter("news"),
);

testCost(
  "A member's last leave is one call, of eleven commands",
  { evalsha: 1, hget: 2, time: 1, hmget: 3, hset: 1, hdel: 3, spublish: 1 },
  "presence-room",
  (server) => server.leave("presence-room", { user: "new" }),
  (server) => server.enter("presence-room", { user: "new" }),
);

testWithRedis(
  "A channel that comes and goes costs the same beside many others",
  async () => {
    await using stage = await RedisStage.open();
    const server = await stage.server();
    const costs: Counts[] = [];
    for (const others of [0, 1_000]) {
      const names = Array.from({ length: others }, (_, i) => `other-${i}`);
      await Promise.all(names.map((name) => server.enter(name)));
      costs.push(
        await stage.commands(async () => {
          await server.enter("news");
          await server.leave("news");
        }),
      );
    }
    assertEquals(costs[0], costs[1]);
    assertEquals(sumOf(costs[0]!), 24);
  },
);

// ---- Hearing ----------------------------------------------------------------

testWithRedis(
  "A server gets no bytes of channels that nobody is on there",
  async () => {
    await using stage = await RedisStage.open();
    const [one, two, three] = await fill(
      ...[stage, "elsewhere", CROWDS[2]!] as const,
    );
    await one!.enter("news");
    const hearers = async () => {
      const [topic] = await stage.redis.command(
        ...["PUBSUB", "SHARDCHANNELS", "*:t:app news"] as const,
      ) as string[];
      if (topic === undefined) return 0;
      const answer = await stage.redis.command("PUBSUB", "SHARDNUMSUB", topic);
      return (answer as [string, number])[1];
    };
    const sentBytes = async () => {
      const info = String(await stage.redis.command("INFO", "stats"));
      return Number(/total_net_output_bytes:(\d+)/.exec(info)?.[1]);
    };
    assertEquals(await hearers(), 1);
    const before = await sentBytes();
    const data = "x".repeat(10_000);
    for (let i = 0; i < 100; i++) await two!.publish("news", data);
    await stage.bell.until(() => one!.heard("news").length === 100);
    const sent = await sentBytes() - before;
    // Once each to the one server that has somebody there.
    assert(sent >= 1_000_000, `${sent}`);
    assertLess(sent, 1_500_000);
    assertEquals([two!.heard("news"), three!.heard("news")], [[], []]);

    await three!.enter("news");
    assertEquals(await hearers(), 2);
    await one!.leave("news");
    await three!.leave("news");
    await stage.commands(() => Promise.resolve());
    assertEquals(await hearers(), 0);
  },
);

// ---- Servers among themselves -----------------------------------------------

testWithRedis(
  "To listen costs one subscription, and to say something two commands, with any number of servers",
  async () => {
    for (const count of [1, 3]) {
      await using stage = await RedisStage.open();
      const servers: FakeServer[] = [];
      while (servers.length < count) servers.push(await stage.server());
      const [server] = servers;
      const listened = await stage.commands(() => {
        for (const { backplane } of servers) {
          backplane.intercom?.listen("a", () => {});
        }
        return Promise.resolve();
      });
      assertEquals(listened, { ssubscribe: count });
      const said = await stage.commands(async () => {
        assertEquals(await server?.backplane.intercom?.say("a", "x"), count);
      });
      assertEquals(said, { evalsha: 1, spublish: 1 });
      // While nobody says anything, the other calls cost what they did.
      await server?.enter("news");
      const published = await stage.commands(async () => {
        await server?.publish("news", "x");
      });
      assertEquals(published, PUBLISH);
    }
  },
);
