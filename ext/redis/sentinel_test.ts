/**
 * Sentinels: who the master is, and who is when it is gone.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertNotEquals,
  assertRejects,
} from "@std/assert";
import { FaultProxy } from "../../tests/support/proxy.ts";
import { RedisServer, testWithRedis } from "../../tests/support/redis.ts";
import { RedisSentinels, until } from "../../tests/support/redis_groups.ts";
import { TestNetwork, Traffic } from "../../tests/support/redis_network.ts";
import { RedisUnavailable } from "./network.ts";

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
      watchMs: 500,
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

testWithRedis(
  "Network logs in at Sentinels and at the master, each with its own password",
  async () => {
    await using master = await RedisServer.start({ password: "s3cret" });
    await using sentinel = await RedisServer.start({
      config: (port, directory) =>
        `port ${port}\nbind 127.0.0.1\ndir ${directory}\nrequirepass s3ntinel\n` +
        `sentinel monitor main 127.0.0.1 ${master.port} 1\n` +
        "sentinel auth-pass main s3cret\n",
      args: ["--sentinel"],
      ready: /\+monitor master/,
    });
    const url = `redis+sentinel://:s3cret@127.0.0.1:${sentinel.port}/main`;
    for (const password of [undefined, "wr0ng"]) {
      await using refused = new TestNetwork({ url, sentinel: { password } });
      const { message } = await assertRejects(
        () => refused.network.start(),
        RedisUnavailable,
        "give its user and password in the option sentinel",
      );
      assert(!/s3|wr0ng/.test(message));
    }
    await using made = await TestNetwork.start({
      url,
      sentinel: { password: "s3ntinel" },
    });
    assertEquals(await made.count("hello"), 1);
  },
);
