/** What a dead server held is released by the others, all of it. */
import { assertEquals } from "@std/assert";
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

function chunks<Item>(list: readonly Item[], size: number): Item[][] {
  return Array.from(
    { length: Math.ceil(list.length / size) },
    (_, i) => list.slice(i * size, (i + 1) * size),
  );
}
