/**
 * Systems that share a Redis and have nothing to do with each other, and servers of
 * one system whose options differ.
 */
import { assertEquals } from "@std/assert";
import type { FakeServer } from "../../tests/support/contract/server.ts";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisStage } from "../../tests/support/redis_stage.ts";

const names = (map: ReadonlyMap<string, unknown>) => [...map.keys()].sort();

// ---- Systems ----------------------------------------------------------------

/** Prefixes that are alike, or have characters that mean something to somebody. */
const PREFIXES = [
  ...["app", "app2", "app:1", "ap", "APP", "app:", ":app"],
  ...["a*", "a?", "[ab]", "a\\b", "a'b\"c", "%s", "$1", "a,b", "#app", "@app"],
  ...["größe", "商店", "🛒", "\u0000", "x".repeat(200)],
];

testWithRedis(
  "Systems with different prefixes share a Redis, and nothing else",
  async () => {
    await using stage = await RedisStage.open();
    const systems = new Map<string, [FakeServer, FakeServer]>();
    for (const prefix of PREFIXES) {
      const pair = [
        await stage.server({ prefix }),
        await stage.server({ prefix }),
      ] as [FakeServer, FakeServer];
      systems.set(prefix, pair);
    }
    for (const [prefix, [one, two]] of systems) {
      await one.enter("news");
      await two.enter("news", { recovers: true });
      await two.enter("presence-room", { user: `user of ${prefix}` });
      await one.backplane.sessions.take("app", "0123456789abcdef");
    }
    for (const [prefix, [one]] of systems) {
      await one.publish("news", prefix, { cacheMs: 60_000 });
    }
    for (const [prefix, [one, two]] of systems) {
      const { backplane } = two;
      await stage.bell.until(
        () => one.heard("news").length > 0 && two.heard("news").length > 0,
      );
      assertEquals(one.texts("news"), [`e ${prefix}`]);
      assertEquals(two.texts("news"), [`e ${prefix}`]);
      const counts = await backplane.occupancy("app", "news");
      assertEquals(counts, { subscriptions: 2, users: 0 });
      const users = await backplane.members("app", "presence-room");
      assertEquals(names(users), [`user of ${prefix}`]);
      const cached = await backplane.cached("app", "news");
      assertEquals(cached?.message.data, prefix);
      const occupied = await backplane.occupied("app", "");
      assertEquals(names(occupied), ["news", "presence-room"]);
      assertEquals(one.lostSessions, []);
    }
    for (const key of (await stage.keys()).keys()) {
      const owners = PREFIXES.filter((prefix) =>
        [...Array(64).keys()].some((bucket) =>
          key.startsWith(`{${prefix}:${bucket}}:`)
        )
      );
      assertEquals(owners.length, 1, key);
    }
    // The end of a system is nobody else's.
    for (const server of systems.get(PREFIXES[0]!)!) await stage.close(server);
    for (const [prefix, [other]] of systems) {
      if (prefix === PREFIXES[0]) continue;
      const counts = await other.backplane.occupancy("app", "news");
      assertEquals(counts, { subscriptions: 2, users: 0 }, prefix);
    }
  },
);

// ---- Servers ----------------------------------------------------------------

testWithRedis(
  "A server without a history writes to the one that others keep",
  async () => {
    await using stage = await RedisStage.open();
    const keeper = await stage.server();
    const plain = await stage.server({ history: null });
    const { position } = await keeper.enter("news", { recovers: true });
    await plain.enter("news");
    await keeper.publish("news", "1");
    await plain.publish("news", "2");
    await keeper.publish("news", "3");
    await stage.bell.until(() => plain.heard("news").length === 3);
    await keeper.leave("news", { recovers: true });
    await plain.publish("news", "4");
    // The last to leave keeps no history, and the client of the other may come back.
    await plain.leave("news");
    await plain.publish("news", "5");
    const back = await keeper.enter("news", { since: position });
    assertEquals(back.replay?.recovered, true);
    assertEquals(await keeper.replay("news", back), ["1", "2", "3", "4", "5"]);
  },
);

testWithRedis(
  "Of servers with different histories, the longest and largest is kept",
  async () => {
    await using stage = await RedisStage.open();
    const small = await stage.server({ history: { ageMs: 40, events: 1 } });
    const large = await stage.server();
    const { position } = await large.enter("news", { recovers: true });
    await small.enter("news", { recovers: true });
    const data = Array.from({ length: 500 }, (_, i) => `${i}`);
    for (const one of data) await small.publish("news", one);
    await large.leave("news", { recovers: true });
    await small.leave("news", { recovers: true });
    await new Promise((resolve) => setTimeout(resolve, 80));
    const back = await large.enter("news", { since: position });
    assertEquals(back.replay?.recovered, true);
    assertEquals(await large.replay("news", back), data);
    const elsewhere = await small.enter("news", { since: position });
    assertEquals(await small.replay("news", elsewhere), data);
  },
);

testWithRedis(
  "A history may have no limit of events, and times a fraction of a millisecond",
  async () => {
    await using stage = await RedisStage.open();
    const history = { events: Infinity, ageMs: 60_000.5 };
    const times = { leaseMs: 3_600_000.5, answerTimeoutMs: 3_000.5 };
    const server = await stage.server({ history, ...times });
    const { position } = await server.enter("news", { recovers: true });
    await server.publish("news", "1", { cacheMs: 60_000.5 });
    await server.leave("news", { recovers: true });
    const state = { formerIds: [], positions: new Map([["news", position]]) };
    const { sessions } = server.backplane;
    await sessions.take("app", "0123456789abcdef");
    await sessions.keep("app", "0123456789abcdef", state, true);
    const back = await server.enter("news", { since: position });
    assertEquals(await server.replay("news", back), ["1"]);
    assertEquals(await sessions.take("app", "0123456789abcdef"), state);
  },
);
