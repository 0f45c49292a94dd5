import { RedisUnavailable } from "@glitz/pusher/redis";
import { assertEquals, assertRejects } from "@std/assert";
import { testWithRedis } from "../../tests/support/redis.ts";
import {
  RedisServers,
  type StraitServer,
  until,
} from "../../tests/support/redis_servers.ts";
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

/** Resolves when a server has lost Redis, or found it again, so often. */
function changes(server: StraitServer, count: number): Promise<void> {
  return until(
    `change ${count} of health`,
    () => server.healths.length >= count,
  );
}

testWithRedis(
  "a server whose registration takes longer than its lease is not taken for dead meanwhile",
  async () => {
    await using servers = await RedisServers.start();
    const options = { leaseMs: 1_500, answerTimeoutMs: 20_000 };
    // It would release what the other one holds.
    const [one] = [
      await servers.server(options),
      await servers.server(options),
    ];
    const names = Array.from({ length: 1_500 }, (_, i) => `n${i}`);
    await Promise.all(names.map((name) => one.enter(name)));
    one.strait.delayMs = 200;
    one.strait.shut();
    await until("being down", () => one.healths.length === 1);
    one.strait.open();
    await until("being up", () => one.healths.length === 2);
    one.strait.delayMs = 0;
    const occupied = await one.backplane.occupied("app", "n");
    assertEquals(occupied.size, names.length);
  },
);

testWithRedis(
  "what was given up and arrives over an earlier connection changes nothing",
  async () => {
    await using servers = await RedisServers.start();
    // It is not taken for dead meanwhile.
    const one = await servers.server({ leaseMs: 60_000 });
    const two = await servers.server(PATIENT);
    const eve = await two.enter("presence-a", { user: "eve" });
    await one.enter("presence-a", { user: "ann" });
    one.strait.hold();
    const joining = one.join("presence-a", { user: "bob" });
    await assertRejects(() => joining, RedisUnavailable);
    // The server leaves after a join that failed, as it may have been carried out.
    await one.leave("presence-a", { user: "bob" });
    await changes(one, 2);
    await one.publish("presence-a", "1");
    one.strait.release();
    await one.leave("presence-a", { user: "ann" });
    await one.enter("presence-a", { user: "cid" });
    const members = await two.backplane.members("app", "presence-a");
    assertEquals([...members.keys()].sort(), ["cid", "eve"]);
    await until(
      "the last message",
      () => two.texts("presence-a").includes("added cid"),
    );
    assertEquals(two.texts("presence-a", eve.position), [
      ...["added ann", "e 1", "removed ann", "added cid"],
    ]);
  },
);

testWithRedis(
  "what was given up and arrives when the server has been released changes nothing",
  async () => {
    await using servers = await RedisServers.start();
    const [one, two] = [
      await servers.server({ leaseMs: 1_000 }),
      await servers.server({ ...PATIENT, leaseMs: 5_000 }),
    ];
    const eve = await two.enter("presence-a", { user: "eve" });
    await one.enter("presence-a", { user: "ann" });
    one.strait.hold(true);
    const joining = one.join("presence-a", { user: "bob" });
    const publishing = one.publish("presence-a", "1");
    await assertRejects(() => joining, RedisUnavailable);
    await assertRejects(() => publishing, RedisUnavailable);
    await one.leave("presence-a", { user: "bob" });
    await until("release", async () => {
      const members = await two.backplane.members("app", "presence-a");
      return members.size === 1;
    });
    one.strait.release();
    await changes(one, 2);
    await one.publish("presence-a", "2");
    await until(
      "the last message",
      () => two.texts("presence-a").includes("e 2"),
    );
    assertEquals(two.texts("presence-a", eve.position), [
      ...["added ann", "removed ann", "added ann", "e 2"],
    ]);
  },
);

testWithRedis(
  "a message that was refused and arrives later is not published",
  async () => {
    await using servers = await RedisServers.start();
    const one = await servers.server({ leaseMs: 60_000 });
    const two = await servers.server(PATIENT);
    await two.enter("news");
    one.strait.hold(true);
    await assertRejects(() => one.publish("news", "1"), RedisUnavailable);
    one.strait.release();
    await changes(one, 2);
    await one.publish("news", "2");
    await until("the last message", () => two.heard("news").length > 0);
    assertEquals(two.texts("news"), ["e 2"]);
  },
);

testWithRedis(
  "a flush is no transition, also if a new server comes before those that were there",
  async () => {
    await using servers = await RedisServers.start();
    const one = await servers.server(PATIENT);
    await one.enter("presence-a", { user: "ann" });
    await one.enter("news");
    assertEquals(one.changes.length, 2);
    await servers.redis.command("FLUSHALL");
    const two = await servers.server(PATIENT);
    // Only now does it find out.
    await one.publish("other", "1");
    await one.publish("presence-a", "2");
    assertEquals(await two.backplane.occupancy("app", "presence-a"), {
      subscriptions: 1,
      users: 1,
    });
    assertEquals((await two.backplane.occupied("app", "news")).size, 1);
    assertEquals(one.changes.length, 2);
    assertEquals([two.changes, two.failures, one.failures], [[], [], []]);
  },
);

testWithRedis(
  "a member who is registered late after a flush comes to those who joined before",
  async () => {
    await using servers = await RedisServers.start();
    const one = await servers.server(PATIENT);
    const two = await servers.server(PATIENT);
    await two.enter("presence-a", { user: "ann" });
    await servers.redis.command("FLUSHALL");
    const bob = await one.enter("presence-a", { user: "bob" });
    assertEquals([...bob.members.keys()], ["bob"]);
    // Only now does it find out.
    await two.publish("presence-a", "1");
    const cid = await one.enter("presence-a", { user: "cid" });
    assertEquals([...cid.members.keys()].sort(), ["ann", "bob", "cid"]);
    const heard = () => one.texts("presence-a", bob.position);
    await until("cid", () => heard().includes("added cid"));
    assertEquals(heard(), ["added ann", "e 1", "added cid"]);
    assertEquals([one.failures, two.failures], [[], []]);
  },
);
