/**
 * The lease of a server, against a Redis that answers when the test says so.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ManualClock } from "../../tests/support/clock.ts";
import { RedisServer, testWithRedis } from "../../tests/support/redis.ts";
import { TAGS, TestNetwork } from "../../tests/support/redis_network.ts";
import { RedisServers, until } from "../../tests/support/redis_servers.ts";
import { Keys } from "./keys.ts";
import { Lease } from "./lease.ts";
import type { Connection, Network } from "./network.ts";
import { BEAT, FENCE_OFF, QUIT } from "./lease_scripts.ts";
import type { Script } from "./script.ts";

/** A call that waits for its answer. */
interface Call {
  readonly script: Script;
  answer(value: unknown): void;
}

Deno.test("Lease releases what a dead server held in several buckets at a time", async () => {
  const calls: Call[] = [];
  const call = (script: Script) =>
    new Promise((answer) => calls.push({ script, answer }));
  // The lease calls scripts, and nothing else.
  const connection = { call } as unknown as Connection;
  const network = { connection: () => connection } as unknown as Network;
  const clock = new ManualClock();
  const lease = new Lease({
    ...{ keys: new Keys("test"), clock, leaseMs: 4_000, lifeMs: 60_000 },
  }, {
    release: () => Promise.resolve(),
    expired: () => {},
    failed: (error) => {
      throw error;
    },
  });
  lease.keep(network);
  clock.pass(1_000);
  assertEquals(calls.map(({ script }) => script), [BEAT]);
  calls.pop()?.answer([1, "0", "dead"]);
  let rounds = 0;
  for (; calls[0]?.script !== QUIT; rounds++) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    for (const { script, answer } of calls.splice(0)) {
      if (script === FENCE_OFF) answer([]);
      else calls.push({ script, answer });
    }
  }
  // One after the other they would be 64 rounds.
  assert(rounds <= 16, `${rounds} rounds`);
  lease.stop();
});

Deno.test("Lease is renewed over the connection that is being registered, and only meanwhile", async () => {
  const beats: string[] = [];
  const connectionNamed = (name: string) => {
    const call = ({ name: script }: Script) => {
      if (script === BEAT.name) beats.push(name);
      return Promise.resolve(script === BEAT.name ? [1, "0"] : ["OK", "0"]);
    };
    // The lease calls scripts, and nothing else.
    return { call } as unknown as Connection;
  };
  const [old, fresh] = [connectionNamed("old"), connectionNamed("fresh")];
  const network = { connection: () => old } as unknown as Network;
  const { lease, clock } = makeLease();
  lease.keep(network);
  const pass = async () => {
    clock.pass(1_000);
    await new Promise((resolve) => setTimeout(resolve, 0));
    return beats.splice(0);
  };
  assertEquals(await pass(), ["old"]);
  assert(await lease.begin(fresh));
  beats.splice(0);
  assertEquals(await pass(), ["fresh"]);
  assertEquals(await pass(), ["fresh"]);
  // Not the one that is being registered.
  lease.begun(old);
  assertEquals(await pass(), ["fresh"]);
  lease.begun(fresh);
  assertEquals(await pass(), ["old"]);
  lease.stop();
});

testWithRedis(
  "a lease ends while others are renewed, and not because Redis was away",
  async () => {
    await using server = await RedisServer.start();
    const leaseMs = 8_000;
    const beat = async (sinceLastMs: number) => {
      await server.command("FLUSHALL");
      const [seconds] = await server.command("TIME") as [string];
      const now = Number(seconds) * 1_000;
      const leases = [now - sinceLastMs, "", now - 1_000, "other"];
      await server.command("ZADD", "nodes", ...leases);
      const given = ["own", leaseMs, 1, 60_000];
      const answer = await server.command(
        ...["EVAL", BEAT.text, 2, "nodes", "dead", ...given],
      );
      const [isAlive, , ...lapsed] = answer as [number, string, ...string[]];
      assertEquals(isAlive, 1);
      const left = await server.command(
        "ZRANGE",
        "nodes",
        "0",
        "-1",
      ) as string[];
      return { lapsed, left: left.sort() };
    };
    assertEquals(await beat(1_000), { lapsed: ["other"], left: ["", "own"] });
    assertEquals(await beat(3_600_000), {
      lapsed: [],
      left: ["", "other", "own"],
    });
    // The last server leaves nothing behind.
    for (const one of ["own", "other"]) {
      await server.command("EVAL", QUIT.text, 2, "nodes", "dead", one);
    }
    assertEquals(await server.command("KEYS", "*"), []);
  },
);

/** A lease of 8 s, with nobody else. */
function makeLease(): { lease: Lease; clock: ManualClock } {
  const clock = new ManualClock();
  const lease = new Lease(
    { keys: new Keys("test"), clock, leaseMs: 8_000, lifeMs: 60_000 },
    { release: () => Promise.resolve(), expired: () => {}, failed: () => {} },
  );
  return { lease, clock };
}

/** A connection that only has to be another one. */
function fakeConnection(): Connection {
  return {} as unknown as Connection;
}

Deno.test("Lease.after goes by the clock of the Redis that is asked", () => {
  const { lease, clock } = makeLease();
  const [one, two] = [fakeConnection(), fakeConnection()];
  const now = clock.elapsed();
  lease.read(one, 1_000_000, now);
  lease.read(two, 5_000_000, now);
  assertEquals(lease.after(one, 10), 1_000_010);
  assertEquals(lease.after(two, 10), 5_000_010);
  assertEquals(lease.after(fakeConnection(), 10), Number.MAX_SAFE_INTEGER);
});

Deno.test("Lease.after does not go by an answer that took long", () => {
  const { lease, clock } = makeLease();
  const connection = fakeConnection();
  // Better than nothing.
  let sentAt = clock.elapsed();
  clock.pass(4_000);
  lease.read(connection, 1_000_000, sentAt);
  assertEquals(lease.after(connection, 0), 1_002_000);
  sentAt = clock.elapsed();
  clock.pass(100);
  lease.read(connection, 1_004_050, sentAt);
  assertEquals(lease.after(connection, 0), 1_004_100);
  sentAt = clock.elapsed();
  clock.pass(6_000);
  lease.read(connection, 1_004_101, sentAt);
  assertEquals(lease.after(connection, 0), 1_010_100);
});

testWithRedis(
  "what a dead incarnation holds outlives a release that is given up",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({
      url: server.url,
      scripts: [FENCE_OFF],
    });
    const key = `${TAGS[0]}:n:dead`;
    const fence = () =>
      made.connection().call(FENCE_OFF, [key], [600_000, 256, 86_400_000]);
    await server.command("HSET", key, "", 1, "capp news\n", 1);
    assertEquals(await fence(), ["capp news\n"]);
    assert(Number(await server.command("PTTL", key)) > 600_000);
    await server.command("HDEL", key, "capp news\n");
    assertEquals(await fence(), []);
    assertEquals(await server.command("HGETALL", key), { "": "dead" });
    assert(Number(await server.command("PTTL", key)) <= 600_000);
  },
);

testWithRedis(
  "a server whose lease cannot be renewed is away, says why, and comes back",
  async () => {
    await using servers = await RedisServers.start();
    const server = await servers.server({ leaseMs: 4_000 });
    await server.enter("news");
    const key = new Keys("pusher").leases;
    await servers.redis.command("DEL", key);
    await servers.redis.command("SET", key, "something else");
    await until("being down", () => server.healths.length === 1);
    assertStringIncludes(String(server.cause), "Redis has something else");
    await servers.redis.command("DEL", key);
    await until("being up", () => server.healths.length === 2);
    assertEquals(server.healths, [false, true]);
    // What it held under its former name is released.
    await until("one subscription", async () => {
      const news = await server.backplane.occupancy("app", "news");
      return news.subscriptions === 1;
    });
  },
);
