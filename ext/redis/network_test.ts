import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { RedisServer, testWithRedis } from "../../tests/support/redis.ts";
import {
  COUNT,
  outcomeOf,
  script,
  TAGS,
  TestNetwork,
} from "../../tests/support/redis_network.ts";
import { until } from "../../tests/support/redis_servers.ts";
import { RedisUnavailable } from "./network.ts";

// ---- Calls and topics -------------------------------------------------------

testWithRedis(
  "Network calls scripts and hears topics over one connection",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    const [topic = ""] = await made.subscribe(3, "news");
    assertEquals(await made.count("hello", 3), 1);
    assertEquals(await made.count("hello", 3), 2);
    // Redis says both on one connection, so no message is later than its answer.
    assertEquals(made.messages.drain(), [`${topic} hello`, `${topic} hello`]);
    assertEquals(made.restorations.length, 1);
    assertEquals(made.restorations[0]?.buckets.length, TAGS.length);
    const [info] = [String(await server.command("INFO", "server"))];
    assertStringIncludes(info, `run_id:${made.connection().runId}`);
    const clients = String(await server.command("CLIENT", "LIST"));
    assertEquals(clients.match(/name=glitz-pusher /g)?.length, 1);
    assertEquals(made.changes, []);
  },
);

testWithRedis(
  "Connection does everything in the order in which it was asked for",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    const connection = made.connection();
    const topic = `${TAGS[0]}:t:news`;
    const count = (word: string) =>
      connection.call(COUNT, [`${TAGS[0]}:n`, topic], [word]);
    await Promise.all([
      count("a"),
      connection.subscribe([topic]),
      count("b"),
      connection.unsubscribe([topic]),
      count("c"),
      connection.subscribe([topic]),
      count("d"),
      connection.unsubscribe([topic]),
      connection.subscribe([topic]),
      count("e"),
    ]);
    const heard = made.messages.drain().map((message) => message.split(" ")[1]);
    assertEquals(heard, ["b", "d", "e"]);
  },
);

testWithRedis(
  "Connection hears a topic that was subscribed to again before the answers",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    const connection = made.connection();
    const topic = `${TAGS[0]}:t:news`;
    let count = 0;
    for (const calls of ["+", "+-+", "+-+-+", "-+", "-+-+"]) {
      // Each of the calls in turn is answered before the next one, and none is.
      for (let answered = -1; answered < calls.length; answered++) {
        const answers: Promise<void>[] = [];
        for (const [i, call] of [...calls].entries()) {
          const answer = call === "+"
            ? connection.subscribe([topic])
            : connection.unsubscribe([topic]);
          answers.push(answer);
          if (i === answered) await answer;
        }
        const word = `w${++count}`;
        await made.count(word);
        await made.hears(word);
        await Promise.all(answers);
      }
    }
  },
);

testWithRedis(
  "Connection.subscribe takes no topics, many and the same again",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    const connection = made.connection();
    await connection.subscribe([]);
    await connection.unsubscribe([]);
    const topics = Array.from(
      { length: 10_000 },
      (_, i) => `{test:${i % 64}}:t:${i}`,
    );
    await connection.subscribe(topics);
    await connection.subscribe(topics.slice(0, 700));
    assertEquals(await subscriptions(server), 10_000);
    await connection.unsubscribe(topics.slice(0, 600));
    assertEquals(await subscriptions(server), 9_400);
    const calls = String(await server.command("INFO", "commandstats"));
    // A command has up to 500 topics.
    assert(Number(/ssubscribe:calls=(\d+)/.exec(calls)?.[1]) <= 40);
  },
);

testWithRedis(
  "Connection.call rejects with what a script says, and goes on",
  async () => {
    await using server = await RedisServer.start();
    const failing = script(
      "failing",
      "return redis.error_reply('LATE too late')",
    );
    const broken = script("broken", "return redis.call('LPUSH', KEYS[1])");
    await using made = await TestNetwork.start({
      url: server.url,
      scripts: [failing, broken],
    });
    const connection = made.connection();
    for (
      const [its, message] of [[failing, "LATE too late"], [
        broken,
        "ERR",
      ]] as const
    ) {
      const error = await assertRejects(
        () => connection.call(its, [`${TAGS[0]}:x`], []),
        Error,
        message,
      );
      assert(!(error instanceof RedisUnavailable));
    }
    assertEquals(await made.count("after"), 1);
    assertEquals(made.connection(), connection);
    assertEquals(made.changes, []);
  },
);

testWithRedis(
  "Connection.call says where something else has taken a key, and not under which name",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    const connection = made.connection();
    const [key, topic] = [`${TAGS[0]}:s3cret`, `${TAGS[0]}:t:news`];
    await server.command("SET", key, "something else");
    const { message } = await assertRejects(
      () => connection.call(COUNT, [key, topic], ["word"]),
      Error,
      `something else under a key that begins with ${TAGS[0]}: delete it`,
    );
    assert(!message.includes("s3cret"));
    await server.command("DEL", key);
    assertEquals(await connection.call(COUNT, [key, topic], ["word"]), 1);
    // A server that cannot register what it holds says the same.
    await server.command("DEL", `${TAGS[0]}:meta`);
    await server.command("LPUSH", `${TAGS[0]}:meta`, "something else");
    made.onRestore = async ({ connection }) => {
      await connection.call(COUNT, [`${TAGS[0]}:meta`, topic], ["word"]);
    };
    made.network.reset("try it");
    await made.becomes("down");
    await until("the reason", () => {
      const error = assertThrows(() => made.connection(), RedisUnavailable);
      return String(error.cause).includes("Redis has something else under a");
    });
    await server.command("DEL", `${TAGS[0]}:meta`);
    await made.becomes("up");
  },
);

testWithRedis(
  "Connection.call passes on numbers, empty texts and any Unicode",
  async () => {
    await using server = await RedisServer.start();
    const echo = script("echo", "return ARGV");
    await using made = await TestNetwork.start({
      url: server.url,
      scripts: [echo],
    });
    const args = ["", "a b\r\n", "ÄÖ 🦕 \u0000", 1, -2.5, 2 ** 53];
    assertEquals(
      await made.connection().call(echo, [`${TAGS[0]}:x`], args),
      args.map(String),
    );
    const nothing = script("nothing", "return nil");
    await using other = await TestNetwork.start({
      url: server.url,
      scripts: [nothing],
    });
    assertEquals(await other.connection().call(nothing, [], []), null);
  },
);

// ---- Bounds -----------------------------------------------------------------

testWithRedis(
  "Connection.call refuses at once what is more than 4,096 calls without an answer",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    server.pause();
    const calls = Array.from(
      { length: 4_100 },
      (_, i) => outcomeOf(made.count(`w${i}`)),
    );
    const error = await assertRejects(
      () => made.count("more"),
      RedisUnavailable,
    );
    assertEquals(error.wasSent, false);
    assertStringIncludes(error.message, "has not answered 4096 commands yet");
    const outcomes = await within(
      2 * DEADLINE_MS,
      "outcomes",
      Promise.all(calls),
    );
    // The question of each second, whether Redis is there, is one of them.
    const unknown = outcomes.filter((outcome) => outcome === "unknown").length;
    assert(unknown === 4_096 || unknown === 4_095, `${unknown} of 4,096`);
    assertEquals(outcomes.lastIndexOf("unknown"), unknown - 1);
    await made.becomes("down");
    assertThrows(() => made.connection(), RedisUnavailable, "away");
    server.resume();
    await made.becomes("up");
    // What was given up may still have been done, but not twice.
    const counts = await server.command("HVALS", `${TAGS[0]}:n`) as string[];
    assert(counts.every((count) => count === "1"));
  },
);

// ---- Ends -------------------------------------------------------------------

testWithRedis(
  "Network.close rejects what waits, and nothing is left",
  async () => {
    await using server = await RedisServer.start();
    const made = await TestNetwork.start({ url: server.url });
    const connection = made.connection();
    server.pause();
    const calls = [made.count("a"), connection.subscribe([`${TAGS[0]}:t:x`])]
      .map(outcomeOf);
    await made.network.close();
    await made.network.close();
    assertEquals(await Promise.all(calls), ["unknown", "unknown"]);
    assertThrows(() => made.connection(), RedisUnavailable);
    assertEquals(await outcomeOf(connection.call(COUNT, [], [])), "not sent");
    assertEquals(
      await outcomeOf(connection.subscribe([`${TAGS[0]}:t:x`])),
      "not sent",
    );
    assertEquals(made.changes, []);
  },
);

testWithRedis(
  "Network.close ends a start, a connection that is being made and the wait for another",
  async () => {
    await using server = await RedisServer.start();
    const starting = new TestNetwork({ url: server.url });
    const started = assertRejects(
      () => starting.network.start(),
      RedisUnavailable,
      "closed",
    );
    await starting.network.close();
    await started;
    server.pause();
    const connecting = new TestNetwork({ url: server.url });
    const connected = assertRejects(
      () => connecting.network.start(),
      RedisUnavailable,
    );
    await new Promise((resolve) => setTimeout(resolve, 50));
    await connecting.network.close();
    await connected;
    server.resume();
    const away = await TestNetwork.start({ url: server.url });
    await server.stop();
    await away.becomes("down");
    await away.network.close();
    assertEquals(away.changes, [false]);
  },
);

testWithRedis(
  "Network.reset ends every connection but that one, and restores another",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    await made.subscribe(0, "news");
    const before = made.connection();
    made.network.reset("not this one", before);
    assertEquals(made.connection(), before);
    made.network.reset("the lease has ended");
    assertStringIncludes(
      String(await made.becomes("down")),
      "the lease has ended",
    );
    await made.becomes("up");
    const after = made.connection();
    assert(after.generation > before.generation);
    assertEquals(after.runId, before.runId);
    assertEquals(await outcomeOf(before.call(COUNT, [], [])), "not sent");
    await made.count("again");
    await made.hears("again");
  },
);

testWithRedis(
  "Network tells once why it stays away, if Redis is back and refuses it",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    await server.command("CONFIG", "SET", "requirepass", "s3cret");
    server.password = "s3cret";
    await server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    const first = await made.becomes("down");
    assert(first instanceof Error);
    assertStringIncludes(first.message, "the connection has ended");
    const { message } = await made.reasons.next("another reason");
    assertStringIncludes(message, "it wants a password: add it to the URL");
    // A call says the same.
    const error = assertThrows(() => made.connection(), RedisUnavailable);
    assertStringIncludes(String(error.cause), message);
    await server.command("CONFIG", "SET", "requirepass", "");
    await made.becomes("up");
    assertEquals(made.changes, [false, true]);
    assertEquals(made.reasons.drain(), []);
  },
);

testWithRedis(
  "Network does not tell why it stays away as long as nobody answers",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    await server.kill();
    await made.becomes("down");
    // That it could have told by now is known from the reason that calls give.
    let tries = 0;
    let last: unknown;
    await until("nine attempts", () => {
      const error = assertThrows(() => made.connection(), RedisUnavailable);
      if (error.cause !== last) tries++;
      last = error.cause;
      return tries > 9;
    });
    assertStringIncludes(String(last), "nobody listens there");
    assertEquals(made.reasons.drain(), []);
  },
);

testWithRedis(
  "Network restores again where the owner fails, and is away until then",
  async () => {
    await using server = await RedisServer.start();
    await using made = await TestNetwork.start({ url: server.url });
    let failures = 0;
    const gate = Promise.withResolvers<void>();
    const entered = Promise.withResolvers<void>();
    made.onRestore = async () => {
      if (failures++ < 2) throw new Error("not today");
      entered.resolve();
      await gate.promise;
    };
    made.network.reset("try it");
    await made.becomes("down");
    await within(DEADLINE_MS, "a third attempt", entered.promise);
    assertThrows(() => made.connection(), RedisUnavailable);
    gate.resolve();
    await made.becomes("up");
    const generations = made.restorations.map(({ connection }) =>
      connection.generation
    );
    assertEquals(generations.length, 4);
    assertEquals(generations, [...new Set(generations)].sort((a, b) => a - b));
    assertEquals(made.changes, [false, true]);
  },
);

async function subscriptions(server: RedisServer): Promise<number> {
  const clients = String(await server.command("CLIENT", "LIST"));
  return Number(/name=glitz-pusher .* ssub=(\d+)/.exec(clients)?.[1]);
}
