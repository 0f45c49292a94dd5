import { assertEquals } from "@std/assert";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisServers, until } from "../../tests/support/redis_servers.ts";
import { MAX_PENDING } from "./link.ts";

/** A busy machine may take long, which is nothing that these tests are about. */
const PATIENT = { leaseMs: 60_000, answerTimeoutMs: 20_000 };

/** More than may wait for an answer at once. */
const MANY = MAX_PENDING + 904;

testWithRedis(
  "more clients than Redis can answer at once come and go at once, and none is refused or left over",
  async () => {
    await using servers = await RedisServers.start();
    const [one, two] = [
      await servers.server(PATIENT),
      await servers.server(PATIENT),
    ];
    const names = Array.from({ length: MANY }, (_, i) => `n${i}`);
    await Promise.all(names.map((name) => one.enter(name)));
    const occupied = await two.backplane.occupied("app", "n");
    assertEquals(occupied.size, MANY);
    for (const name of ["n0", names.at(-1)!]) {
      await two.publish(name, "hello");
      await until("hello", () => one.heard(name).length === 1);
    }
    await Promise.all(names.map((name) => one.leave(name)));
    assertEquals((await two.backplane.occupied("app", "n")).size, 0);
  },
);

testWithRedis(
  "a server with more members than Redis can answer for at once is registered again",
  async () => {
    await using servers = await RedisServers.start();
    const [one, two] = [
      await servers.server(PATIENT),
      await servers.server(PATIENT),
    ];
    const channels = Array.from({ length: 100 }, (_, i) => `presence-${i}`);
    const users = Array.from({ length: MANY / 100 }, (_, i) => `user ${i}`);
    await Promise.all(
      channels.map((channel) =>
        Promise.all(users.map((user) => one.enter(channel, { user })))
      ),
    );
    one.strait.shut();
    await until("being down", () => one.healths.length === 1);
    one.strait.open();
    await until("being up", () => one.healths.length === 2);
    const all = await two.backplane.occupied("app", "presence-");
    const expected = { subscriptions: users.length, users: users.length };
    assertEquals(all.size, channels.length);
    for (const counts of all.values()) assertEquals(counts, expected);
    assertEquals(one.failures, []);
  },
);
