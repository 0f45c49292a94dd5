/**
 * Servers on a cluster and on a master with Sentinels: what they agree on while a slot
 * moves, and after another Redis has taken over.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type Backplane, BackplaneUnavailable } from "@glitz/pusher";
import { redis, type RedisOptions } from "@glitz/pusher/redis";
import { SYSTEM_CLOCK } from "../../core/time.ts";
import { Bell, FakeServer } from "../../tests/support/contract/server.ts";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { RedisServer, testWithRedis } from "../../tests/support/redis.ts";
import {
  RedisCluster,
  RedisSentinels,
  until,
} from "../../tests/support/redis_groups.ts";
import { Keys } from "./keys.ts";

const HISTORY = {
  events: 5_000,
  ageMs: 300_000,
  bytes: 67_108_864,
  sessions: 10_000,
};

/** No server is taken for dead, however long it takes until another Redis is there. */
const LEASE_MS = 600_000;

/** How long a server tries again; what takes over may take seconds. */
const PATIENCE_MS = 3 * DEADLINE_MS;

/** Three servers that share what is behind a URL. */
class Servers implements AsyncDisposable {
  readonly all: FakeServer[] = [];
  readonly #backplanes: Backplane[] = [];

  static async start(url: string): Promise<Servers> {
    const servers = new Servers();
    for (let i = 0; i < 3; i++) {
      const backplane = redis(url, { leaseMs: LEASE_MS });
      const server = new FakeServer(
        ...[
          backplane,
          { history: HISTORY, clock: SYSTEM_CLOCK },
          new Bell(),
        ] as const,
      );
      await within(
        DEADLINE_MS,
        "start",
        Promise.resolve(backplane.start(server)),
      );
      servers.#backplanes.push(backplane);
      servers.all.push(server);
    }
    return servers;
  }

  /** Resolves when all have heard a text on a channel. */
  async hear(channel: string, text: string): Promise<void> {
    await until(
      `all servers hearing ${text}`,
      () =>
        this.all.every((server) => server.texts(channel).includes(`e ${text}`)),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const backplane of this.#backplanes) await backplane.close();
  }
}

/** Publishes on every server all the time; remembers what was accepted. */
class Publisher {
  /** Texts that the backplane has accepted. */
  readonly accepted: string[] = [];
  /** Texts that were surely not published. */
  readonly refused: string[] = [];
  readonly #loops: Promise<void>[];
  #isStopped = false;

  constructor(servers: Servers, channel: string) {
    this.#loops = servers.all.map(async (server, number) => {
      for (let i = 0; !this.#isStopped; i++) {
        const text = `${number}-${i}`;
        try {
          await server.publish(channel, text);
          this.accepted.push(text);
        } catch (error) {
          if (!(error instanceof BackplaneUnavailable)) throw error;
          if (!error.wasSent) this.refused.push(text);
        }
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    });
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await Promise.all(this.#loops);
  }
}

/** Does it again while the backplane is away. */
async function insist<T>(call: () => Promise<T>): Promise<T> {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof BackplaneUnavailable)) throw error;
      if (performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

testWithRedis(
  "Servers lose nothing and keep one order while the slot of a channel moves",
  async () => {
    await using cluster = await RedisCluster.start();
    await using servers = await Servers.start(cluster.url());
    for (const server of servers.all) {
      await server.enter("news", { recovers: true });
    }
    const { state } = new Keys("pusher").channel("app", "news");
    const slot = await cluster.slotOf(state);
    const home = await cluster.masterOf(slot);
    const target = cluster.masters.find((server) => server !== home) ?? home;
    const publisher = new Publisher(servers, "news");
    for (const to of [target, home]) {
      const before = publisher.accepted.length;
      await until("messages", () => publisher.accepted.length > before + 20);
      await cluster.beginMove(slot, to);
      await cluster.moveKeys(slot, to);
      await cluster.endMove(slot, to);
    }
    const before = publisher.accepted.length;
    await until("messages", () => publisher.accepted.length > before + 20);
    await publisher.stop();
    const [first] = servers.all;
    assert(first);
    await insist(() => first.publish("news", "last"));
    await servers.hear("news", "last");

    const texts = first.texts("news");
    for (const server of servers.all) {
      assertEquals(server.texts("news"), texts);
      assertEquals(server.losses, []);
    }
    const heard = new Set(texts);
    assertEquals(heard.size, texts.length, "heard twice");
    const lost = publisher.accepted.filter((text) => !heard.has(`e ${text}`));
    assertEquals(lost, [], "accepted, and not heard");
    const wrong = publisher.refused.filter((text) => heard.has(`e ${text}`));
    assertEquals(wrong, [], "refused, and heard");
  },
);

testWithRedis(
  "Servers agree on who is there when a replica has taken over a master of a cluster",
  async () => {
    await using cluster = await RedisCluster.start({ hasReplicas: true });
    await using servers = await Servers.start(cluster.url());
    const { state } = new Keys("pusher").channel("app", "presence-room");
    const home = await cluster.masterOf(await cluster.slotOf(state));
    await agree(servers, () => home.kill());
  },
);

testWithRedis(
  "Servers agree on who is there when Sentinels have chosen another master",
  async () => {
    await using group = await RedisSentinels.start();
    await using servers = await Servers.start(group.url);
    await agree(servers, () => group.master.kill());
  },
);

testWithRedis(
  "Servers need no more rights than the head of ext/redis.ts names",
  async () => {
    const head = await Deno.readTextFile(
      new URL("../redis.ts", import.meta.url),
    );
    const [, rule = ""] = /ACL SETUSER pusher ([^`]+)/.exec(head) ?? [];
    const words = rule.replaceAll(/^ \*/gm, "").replaceAll("prefix", "pusher")
      .replace(">password", ">s3cret").trim().split(/\s+/);
    await using server = await RedisServer.start();
    await using cluster = await RedisCluster.start();
    const [, more = ""] = /with `([^`]+)`\s+\* besides/.exec(head) ?? [];
    assert(more.includes("+cluster|slots"));
    await server.command("ACL", "SETUSER", "pusher", ...words);
    for (const node of cluster.masters) {
      await node.command(
        "ACL",
        "SETUSER",
        "pusher",
        ...words,
        ...more.split(" "),
      );
    }
    for (const url of [server.url, cluster.url()]) {
      await using servers = await Servers.start(
        url.replace("//", "//pusher:s3cret@"),
      );
      const [first, second] = servers.all;
      assert(first && second);
      for (const it of servers.all) await it.enter("news", { recovers: true });
      await first.enter("presence-room", { user: "ann" });
      await first.publish("news", "hello", { cacheMs: 60_000 });
      await servers.hear("news", "hello");
      await second.backplane.sessions.take("app", "0123456789abcdef");
      assertEquals(
        (await second.backplane.members("app", "presence-room")).size,
        1,
      );
      assertEquals((await second.backplane.occupied("app", "")).size, 2);
      await first.leave("presence-room", { user: "ann" });
    }
  },
);

testWithRedis(
  "redis refuses options of TLS and of Sentinels that cannot be, and shows no secret",
  () => {
    const rows: [options: unknown, message: string][] = [
      [{ tls: "s3cret" }, "tls is a string of 6 characters"],
      [{ tls: { ca: [] } }, "tls.ca"],
      [{ tls: { key: "" } }, "tls.key"],
      [{ tls: { pfx: "s3cret" } }, "unknown option"],
      [{ sentinel: { password: 5 } }, "sentinel.password"],
      [{ sentinel: { passwort: "s3cret" } }, "unknown option"],
    ];
    for (const [options, message] of rows) {
      const error = assertThrows(
        // Options of a program without types.
        () => redis("redis://localhost", options as RedisOptions),
        TypeError,
        message,
      );
      assert(!error.message.includes("s3cret"));
    }
    redis("rediss://localhost", {
      tls: { ca: ["a", "b"], servername: "redis.test" },
    });
    return Promise.resolve();
  },
);

/** Kills the master of a channel, and expects the same members and messages of all. */
async function agree(
  servers: Servers,
  kill: () => Promise<void>,
): Promise<void> {
  const room = "presence-room";
  const [first, second] = servers.all;
  assert(first && second);
  for (const [i, server] of servers.all.entries()) {
    await server.enter(room, { user: `user ${i}`, recovers: true });
  }
  const publisher = new Publisher(servers, room);
  await until("messages", () => publisher.accepted.length > 20);
  await kill();
  const refused = publisher.refused.length;
  await until(
    "a message that is refused",
    () => publisher.refused.length > refused,
  );
  const accepted = publisher.accepted.length;
  await until("messages", () => publisher.accepted.length > accepted + 20);
  await publisher.stop();
  await insist(() => second.publish(room, "last"));
  await servers.hear(room, "last");
  await until("all members", async () => {
    const members = await insist(async () =>
      await first.backplane.members("app", room)
    );
    return members.size === 3;
  });
  assertEquals(
    await insist(async () => await second.backplane.occupancy("app", room)),
    { subscriptions: 3, users: 3 },
  );
  // Nobody has come or gone.
  for (const server of servers.all) {
    const told = server.told(room).filter((change) => change.includes("-"));
    assertEquals(told, []);
    const heard = server.texts(room);
    assertEquals(new Set(heard).size, heard.length, "heard twice");
  }
}
