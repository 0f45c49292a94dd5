/** What a dead server held is released by the others, all of it. */
import { assertEquals } from "@std/assert";
import type { FakeServer } from "../../tests/support/contract/server.ts";
import { Gate } from "../../tests/support/gate.ts";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisStage } from "../../tests/support/redis_stage.ts";
import { Keys } from "./keys.ts";

testWithRedis(
  "A dead server's holdings are released to the last, thousands of a bucket as well",
  async () => {
    await using stage = await RedisStage.open();
    await using gate = new Gate(stage.redis.port);
    const url = `redis://127.0.0.1:${gate.port}`;
    const dying = await stage.server({ url, leaseMs: 3_000 });
    const living = await stage.server({ leaseMs: 3_000 });
    const keys = new Keys("pusher");
    const names = new Set<string>();
    for (let i = 0; names.size < 4_000; i++) {
      if (keys.channel("app", `room-${i}`).bucket === 7) names.add(`room-${i}`);
    }
    for (const some of chunks([...names], 500)) {
      await Promise.all(some.map((name) => dying.enter(name)));
    }
    gate.shut();
    const released = () =>
      new Set(living.changes.map(({ channel }) => channel));
    for (let some = 500; some <= names.size; some += 500) {
      await stage.bell.until(() => released().size >= some, `${some} releases`);
    }
    assertEquals(released(), names);
    assertEquals((await living.backplane.occupied("app", "")).size, 0);
  },
);

testWithRedis(
  "After a flush a departure is announced once, also where one server has missed it",
  async () => {
    await using stage = await RedisStage.open();
    await using gate = new Gate(stage.redis.port);
    const url = `redis://127.0.0.1:${gate.port}`;
    const one = await stage.server({ leaseMs: 2_000 });
    const two = await stage.server({ leaseMs: 2_000, url });
    const room = "presence-room";
    await one.enter(room, { user: "ann" });
    await one.enter("news");
    for (const user of ["bob", "eve"]) await two.enter(room, { user });
    gate.shut();
    await two.leave(room, { user: "eve" });
    await stage.redis.command("FLUSHALL");
    // The first server is registered again, and the second one is not.
    while (await countOf(one, room) !== 1) await pause();
    await one.leave(room, { user: "ann" });
    await one.leave("news");
    gate.open();
    // The second one announces what it alone knows when all others are back.
    const removed = (user: string) =>
      [...one.changes, ...two.changes].filter(({ transition }) =>
        transition.memberRemoved === user
      ).length;
    await stage.bell.until(() => removed("eve") > 0);
    for (let i = 0; i < 10; i++) await countOf(two, room);
    assertEquals(["ann", "eve", "bob"].map(removed), [1, 1, 0]);
    const vacated = [...one.changes, ...two.changes]
      .filter(({ transition }) => transition.occupancy === "vacated")
      .map(({ channel }) => channel);
    assertEquals(vacated.filter((channel) => channel === "news"), ["news"]);
  },
);

/** The subscriptions of a channel, as a server is told; 0 while Redis is away. */
async function countOf(server: FakeServer, channel: string): Promise<number> {
  try {
    const found = await server.backplane.occupancy("app", channel);
    return found.subscriptions;
  } catch {
    return 0;
  }
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 10));

function chunks<Item>(list: readonly Item[], size: number): Item[][] {
  return Array.from(
    { length: Math.ceil(list.length / size) },
    (_, i) => list.slice(i * size, (i + 1) * size),
  );
}
