/**
 * What becomes of calls and topics when Redis, or the way to it, fails in each way that
 * it can: calls go on all the time, and afterwards Redis is asked what it has done.
 *
 * @module
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { FaultProxy } from "../../tests/support/proxy.ts";
import { start } from "../../tests/support/program.ts";
import { RedisServer, testWithRedis } from "../../tests/support/redis.ts";
import {
  TAGS,
  TestNetwork,
  Traffic,
} from "../../tests/support/redis_network.ts";
import { MAX_PENDING } from "./link.ts";

/** One way to fail. */
interface Fault {
  readonly title: string;
  /** What the owner gets to read: a part of the cause's message. */
  readonly cause: RegExp;
  fail(server: RedisServer, proxy: FaultProxy): Promise<unknown> | void;
  /** Is called when the network is down. */
  mend(server: RedisServer, proxy: FaultProxy): Promise<unknown> | void;
  /** Whether Redis forgets what it has accepted. */
  readonly forgets?: boolean;
}

const FAULTS: readonly Fault[] = [
  {
    title: "Redis is stopped and started again",
    cause: /connection has ended/,
    fail: (server) => server.stop(),
    mend: (server) => server.restart(),
  },
  {
    title: "Redis is killed and started again",
    cause: /connection has ended/,
    fail: (server) => server.kill(),
    mend: (server) => server.restart(),
  },
  {
    title: "Redis is killed and started again empty",
    cause: /connection has ended/,
    fail: (server) => server.kill(),
    mend: (server) => server.restart({ keepsData: false }),
    forgets: true,
  },
  {
    title: "Redis is frozen and goes on",
    cause: /did not answer in 3000 ms/,
    fail: (server) => server.pause(),
    mend: (server) => server.resume(),
  },
  {
    title: "Redis is paused by CLIENT PAUSE",
    cause: /did not answer in 3000 ms/,
    fail: (server) => server.command("CLIENT", "PAUSE", 9_000, "ALL"),
    mend: () => {},
  },
  {
    title: "nothing passes any more, and nobody says so",
    cause: /did not answer in 3000 ms/,
    fail: (_server, proxy) => stall(proxy),
    mend: () => {},
  },
  {
    title: "the connection is reset",
    cause: /connection has ended/,
    fail: (_server, proxy) => proxy.clear("reset"),
    mend: () => {},
  },
  {
    title: "connections are refused for a time",
    cause: /connection has ended/,
    fail: (_server, proxy) => proxy.clear("close", 3_600_000),
    mend: (_server, proxy) => proxy.admit(),
  },
  {
    title: "Redis ends the connection by CLIENT KILL",
    cause: /connection has ended/,
    fail: (server) => server.command("CLIENT", "KILL", "TYPE", "pubsub"),
    mend: () => {},
  },
  {
    title: "Redis ends the connection because messages wait in it",
    cause: /connection has ended/,
    fail: async (server) => {
      const limits = ["client-output-buffer-limit", "pubsub 1mb 1mb 1"];
      await server.command("CONFIG", "SET", ...limits);
      const text =
        "for i = 1, 100 do redis.call('SPUBLISH', KEYS[1], ARGV[1]) end";
      const topic = `${TAGS[0]}:t:big`;
      await server.command("EVAL", text, 1, topic, "x".repeat(100_000));
    },
    mend: () => {},
  },
  {
    title: "Redis becomes a read-only replica",
    cause: /read-only replica: connect to its master/,
    fail: (server) => server.command("REPLICAOF", "127.0.0.1", 1),
    mend: (server) => server.command("REPLICAOF", "NO", "ONE"),
  },
  {
    title: "Redis gets another password",
    cause: /connection has ended/,
    fail: async (server) => {
      await server.command("CONFIG", "SET", "requirepass", "s3cret");
      server.password = "s3cret";
      await server.command("CLIENT", "KILL", "TYPE", "pubsub");
    },
    mend: async (server) => {
      await server.command("CONFIG", "SET", "requirepass", "");
      server.password = undefined;
    },
  },
  {
    title: "the user loses a right",
    cause: /lacks a right/,
    fail: (server) => server.command("ACL", "SETUSER", "default", "-evalsha"),
    mend: (server) => server.command("ACL", "SETUSER", "default", "+evalsha"),
  },
  {
    title: "Redis has reached maxmemory",
    cause: /reached maxmemory: raise it, or free memory/,
    fail: (server) => server.command("CONFIG", "SET", "maxmemory", 1),
    mend: (server) => server.command("CONFIG", "SET", "maxmemory", 0),
  },
  {
    title: "Redis wants more replicas",
    cause: /too few replicas/,
    fail: (server) =>
      server.command("CONFIG", "SET", "min-replicas-to-write", 1),
    mend: (server) =>
      server.command("CONFIG", "SET", "min-replicas-to-write", 0),
  },
  {
    title: "a foreign script keeps Redis busy",
    cause: /keeps it busy: end the script with SCRIPT KILL/,
    fail: async (server) => {
      await server.command("CONFIG", "SET", "busy-reply-threshold", 100);
      // Its answer is that it was killed.
      server.command("EVAL", "while true do end", 0).catch(() => {});
    },
    mend: (server) => server.command("SCRIPT", "KILL"),
  },
  {
    title: "the scripts are flushed",
    cause: /scripts were flushed/,
    fail: (server) => server.command("SCRIPT", "FLUSH"),
    mend: () => {},
  },
];

for (const fault of FAULTS) {
  testWithRedis(
    `Network is away once and back once when ${fault.title}`,
    async () => {
      await using server = await RedisServer.start();
      await using proxy = await FaultProxy.open({ port: server.port });
      await using made = await TestNetwork.start({
        url: `redis://127.0.0.1:${proxy.port}`,
      });
      await made.subscribe(0, "news", "big");
      await made.subscribe(40, "news");
      const generation = made.connection().generation;
      const traffic = new Traffic(made, [0, 40]);
      await made.count("before");
      await made.hears("before");
      await fault.fail(server, proxy);
      const cause = await made.becomes("down");
      assert(cause instanceof Error);
      assert(fault.cause.test(cause.message), cause.message);
      assertStringIncludes(cause.message, `127.0.0.1:${proxy.port}`);
      assert(!cause.message.includes("s3cret"));
      await fault.mend(server, proxy);
      await made.becomes("up");
      await made.count("after", 40);
      await made.hears("after", 40);
      await traffic.stop();
      assert(made.connection().generation > generation);
      assertEquals(made.changes, [false, true]);
      assert(traffic.mostPending <= MAX_PENDING);

      const counts = await countsOf(server);
      const often = [...counts].filter(([, count]) => count !== 1);
      assertEquals(often, [], "done more often than once");
      const refused = traffic.words("not sent").filter((word) =>
        counts.has(word)
      );
      assertEquals(refused, [], "done, though it was said not to be sent");
      const lost = traffic.words("done").filter((word) => !counts.has(word));
      if (!fault.forgets) {
        assertEquals(lost, [], "not done, though Redis said so");
      }
      assert(traffic.words("done").length > 0);
    },
  );
}

testWithRedis("Network hears 10,000 topics again after a cut", async () => {
  await using server = await RedisServer.start();
  await using made = await TestNetwork.start({ url: server.url });
  const names = Array.from({ length: 5_000 }, (_, i) => `n${i}`);
  await made.subscribe(0, ...names);
  await made.subscribe(1, ...names);
  await server.command("CLIENT", "KILL", "TYPE", "pubsub");
  await made.becomes("down");
  await made.becomes("up");
  for (const bucket of [0, 1]) {
    for (const name of ["n0", "n499", "n500", "n4999"]) {
      await made.count(name, bucket, name);
      await made.hears(name, bucket, name);
    }
  }
});

testWithRedis(
  "Network in a program with network permission only outlives Redis",
  async () => {
    await using server = await RedisServer.start();
    await using program = await start([
      ...[
        "run",
        "--no-prompt",
        "--no-lock",
        "--allow-net=127.0.0.1",
        "--no-check",
      ],
      ...["tests/support/redis_program.ts", server.url],
    ], /up\n/);
    await server.kill();
    await server.restart();
    // It has no listeners of its own, and would have ended by now.
    await within(DEADLINE_MS, "the program", outlives(server));
    assertStringIncludes(await program.stop(), "down\nup\n");
  },
);

/** Resolves when a client is there again. */
async function outlives(server: RedisServer): Promise<void> {
  const isThere = async () =>
    String(await server.command("CLIENT", "LIST")).includes("glitz-pusher");
  while (!await isThere()) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Lets nothing pass on the connections that there are. */
function stall(proxy: FaultProxy): void {
  const forMs = 3_600_000;
  proxy.strike({ fault: "stall", pick: 0, forMs, delayMs: 0, share: 1 });
}

/** How often Redis has done each call. */
async function countsOf(server: RedisServer): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const bucket of [0, 40]) {
    const answer = await server.command("HGETALL", `${TAGS[bucket]}:n`);
    for (const [word, count] of Object.entries(answer ?? {})) {
      counts.set(word, (counts.get(word) ?? 0) + Number(count));
    }
  }
  return counts;
}
