/**
 * Sentinels: who the master is, and who is when it is gone.
 *
 * @module
 */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { FaultProxy } from "../../tests/support/proxy.ts";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisSentinels, until } from "../../tests/support/redis_groups.ts";
import { TestNetwork, Traffic } from "../../tests/support/redis_network.ts";

testWithRedis(
  "Network asks Sentinels for the master, and goes to the next when it is killed",
  async () => {
    await using group = await RedisSentinels.start();
    await using made = await TestNetwork.start({ url: group.url });
    await made.subscribe(0, "news");
    await made.count("before");
    await made.hears("before");
    assertEquals(made.restorations.length, 1);
    const { runId } = made.connection();
    const traffic = new Traffic(made);
    await group.master.kill();
    await made.becomes("down");
    await made.becomes("up");
    await made.count("after");
    await made.hears("after");
    await traffic.stop();
    assertNotEquals(made.connection().runId, runId);
    assertEquals(made.changes, [false, true]);
    const counts = await group.replica.command(
      "HVALS",
      "{test:0}:n",
    ) as string[];
    assert(counts.every((count) => count === "1"));

    // The dead one comes back as a master, until the Sentinels make it a replica.
    await group.master.restart();
    await until(
      "the old master being a replica",
      async () =>
        String(await group.master.command("INFO", "replication")).includes(
          "role:slave",
        ),
    );
    await made.count("at the end");
    await made.hears("at the end");
    assertEquals(made.changes, [false, true]);
  },
);

testWithRedis(
  "Network goes to the next master when the first is frozen, and stays there",
  async () => {
    await using group = await RedisSentinels.start();
    await using made = await TestNetwork.start({ url: group.url });
    await made.subscribe(0, "news");
    const { runId } = made.connection();
    group.master.pause();
    await made.becomes("down");
    await made.becomes("up");
    assertNotEquals(made.connection().runId, runId);
    group.master.resume();
    await until(
      "the old master being a replica",
      async () =>
        String(await group.master.command("INFO", "replication")).includes(
          "role:slave",
        ),
    );
    await made.count("after");
    await made.hears("after");
    assertEquals(made.changes, [false, true]);
  },
);

testWithRedis(
  "Network follows Sentinels that change the master though it answers",
  async () => {
    await using group = await RedisSentinels.start();
    await using made = await TestNetwork.start({ url: group.url });
    await made.subscribe(0, "news");
    const { runId } = made.connection();
    await group.sentinels[0]?.command(
      "SENTINEL",
      "FAILOVER",
      RedisSentinels.NAME,
    );
    await made.becomes("down");
    await made.becomes("up");
    assertNotEquals(made.connection().runId, runId);
    await made.count("after");
    await made.hears("after");
  },
);

testWithRedis(
  "Network needs one Sentinel to start, and none while its master works",
  async () => {
    await using group = await RedisSentinels.start();
    const [first, second, third] = group.sentinels;
    await using proxy = await FaultProxy.open({ port: third?.port ?? 0 });
    await first?.kill();
    second?.pause();
    await using made = await TestNetwork.start({
      url: group.url.replace(`:${third?.port}`, `:${proxy.port}`),
    });
    const connection = made.connection();
    await third?.kill();
    const { accepted } = proxy;
    await until("another look", () => proxy.accepted > accepted + 1);
    await made.count("alone");
    assertEquals(made.connection(), connection);
    assertEquals(made.changes, []);
  },
);
