/** What the HTTP API says of channels of several servers. */
import { assertEquals } from "@std/assert";
import { redis } from "@glitz/pusher/redis";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisStage } from "../../tests/support/redis_stage.ts";
import { Journal, serve } from "../../tests/support/server.ts";
import { Keys } from "./keys.ts";

testWithRedis(
  "A user on two servers counts once, whichever server is asked",
  async () => {
    await using stage = await RedisStage.open();
    const journal = new Journal({ isShared: true });
    const start = () =>
      serve({ backplane: redis(stage.redis.url) }, { journal });
    await using one = start();
    await using two = start();
    await using ann = await one.connect();
    await using tab = await two.connect();
    await using bob = await two.connect();
    const room = "presence-room";
    await ann.enter(room, { member: { user_id: "ann" } });
    await tab.enter(room, { member: { user_id: "ann" } });
    await bob.enter(room, { member: { user_id: "bob" } });

    const info = "user_count,subscription_count";
    const counts = { user_count: 2, subscription_count: 3 };
    for (const server of [one, two]) {
      const ask = async (path: string, query: Record<string, string> = {}) =>
        (await server.api("GET", path, { query })).body;
      const prefix = { filter_by_prefix: "presence-" };
      assertEquals(await ask("/channels", { info, ...prefix }), {
        channels: { [room]: counts },
      });
      assertEquals(await ask(`/channels/${room}`, { info }), {
        occupied: true,
        ...counts,
      });
      const { users } = await ask(`/channels/${room}/users`);
      const ids = users.map(({ id }: { id: string }) => id).sort();
      assertEquals(ids, ["ann", "bob"]);
      const event = { name: "e", data: "x", channels: [room], info };
      const { body } = await server.api("POST", "/events", { body: event });
      assertEquals(body, { channels: { [room]: counts } });
      assertEquals(await server.pusher.channel(room, { info }), {
        occupied: true,
        ...counts,
      });
    }
  },
);

testWithRedis(
  "GET /channels reads the index in pages of 200 names, of one bucket each",
  async () => {
    await using stage = await RedisStage.open();
    const server = await stage.server();
    // Half are of one bucket, the others of any; a third has another prefix.
    const keys = new Keys("pusher");
    const names: string[] = [];
    for (let i = 0; names.length < 1_000; i++) {
      const name = `room-${i}`;
      if (keys.channel("app", name).bucket === 9) names.push(name);
    }
    for (let i = 0; i < 500; i++) names.push(`hall-${i}`);
    await Promise.all(names.map((name) => server.enter(name)));

    const { backplane } = server;
    const counts = { subscriptions: 1, users: 0 };
    const pages = await stage.commands(async () => {
      const found = await backplane.occupied("app", "");
      assertEquals([...found.keys()].sort(), [...names].sort());
      for (const one of found.values()) assertEquals(one, counts);
    });
    const sizes = new Map<number, number>();
    for (const name of names) {
      const { bucket } = keys.channel("app", name);
      sizes.set(bucket, (sizes.get(bucket) ?? 0) + 1);
    }
    let [reads, full] = [0, 0];
    for (let bucket = 0; bucket < 64; bucket++) {
      const size = sizes.get(bucket) ?? 0;
      reads += Math.floor(size / 200) + 1;
      full += Math.ceil(size / 200);
    }
    assertEquals(pages, {
      zrange: reads,
      evalsha: reads + full,
      hmget: names.length,
    });

    const some = await stage.commands(async () => {
      const found = await backplane.occupied("app", "hall-");
      assertEquals([...found.keys()].sort(), names.slice(1_000).sort());
    });
    // The others are not read at all.
    assertEquals(some.hmget, 500);
    assertEquals((await backplane.occupied("other", "")).size, 0);
  },
);
