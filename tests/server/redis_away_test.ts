/**
 * What several servers and their clients go through while Redis is away, and that all
 * is as it should be when it is back. `away_test.ts` has what every backplane shares.
 */
import { BackplaneUnavailable } from "@glitz/pusher";
import { redis as backplaneOn } from "@glitz/pusher/redis";
import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  eventually,
  framesUpTo,
  RedisDeployment,
} from "../support/redis_deployment.ts";
import { start } from "../support/program.ts";
import { publish, RECOVER, take } from "../support/recovering.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { APP, Client, Journal, serve } from "../support/server.ts";
import { RedisServer, testWithRedis } from "../support/redis.ts";
import { authorizedBy, sdk, StockClient } from "../support/stock.ts";
import { dataOf, type Frame } from "../support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";
const FAILED = "pusher:recovery_failed";

/** One way in which Redis goes away. */
interface Fault {
  readonly title: string;
  fail(redis: RedisServer): Promise<unknown> | void;
  mend(redis: RedisServer): Promise<unknown> | void;
  /** Whether Redis has forgotten everything when it is back. */
  readonly forgets?: boolean;
}

const FAULTS: readonly Fault[] = [
  {
    title: "Redis is stopped and started again",
    fail: (redis) => redis.stop(),
    mend: (redis) => redis.restart(),
  },
  {
    title: "Redis is killed and started again empty",
    fail: (redis) => redis.kill(),
    mend: (redis) => redis.restart({ keepsData: false }),
    forgets: true,
  },
  {
    title: "Redis is frozen and goes on",
    fail: (redis) => redis.pause(),
    mend: (redis) => redis.resume(),
  },
  {
    title: "Redis is paused by CLIENT PAUSE",
    fail: (redis) => redis.command("CLIENT", "PAUSE", 7_000, "ALL"),
    mend: () => {},
  },
  {
    title: "Redis becomes a read-only replica for a time",
    fail: (redis) => redis.command("REPLICAOF", "127.0.0.1", 1),
    mend: (redis) => redis.command("REPLICAOF", "NO", "ONE"),
  },
  {
    title: "Redis has another password for a time",
    async fail(redis) {
      await redis.command("CONFIG", "SET", "requirepass", "other");
      redis.password = "other";
      await redis.command("CLIENT", "KILL", "TYPE", "pubsub");
    },
    async mend(redis) {
      await redis.command("CONFIG", "SET", "requirepass", "");
      redis.password = undefined;
    },
  },
  {
    title: "Redis reaches maxmemory for a time",
    fail: (redis) => redis.command("CONFIG", "SET", "maxmemory", 1),
    mend: (redis) => redis.command("CONFIG", "SET", "maxmemory", 0),
  },
];

/** What a client has got on a channel: numbers, and losses as F. */
function numbersOf(frames: readonly Frame[], channel: string): string {
  return frames.filter((frame) => frame.channel === channel)
    .flatMap(({ event, data }) =>
      event === FAILED ? "F" : event === "n" ? `${parseInt(String(data))}` : []
    ).join(" ");
}

/** The members of a presence channel, by all that a client was told. */
function membersOf(log: readonly Frame[], channel: string): string[] {
  let members = new Set<string>();
  for (const frame of log) {
    if (frame.channel !== channel) continue;
    if (frame.event === SUCCEEDED) {
      members = new Set(dataOf(frame).presence.ids);
    } else if (frame.event === ADDED) members.add(dataOf(frame).user_id);
    else if (frame.event === REMOVED) members.delete(dataOf(frame).user_id);
  }
  return [...members].sort();
}

for (const fault of FAULTS) {
  testWithRedis(
    `servers and clients get over it when ${fault.title}`,
    async () => {
      await using deployment = await RedisDeployment.start(2, {}, {
        leaseMs: 5_000,
      });
      const { redis, nodes } = deployment;
      const [{ server: one }, { server: two }] = nodes as [
        typeof nodes[0],
        typeof nodes[0],
      ];
      await using ours = await one.connect({ query: RECOVER });
      await using other = await two.connect({ query: RECOVER });
      for (const client of [ours, other]) await client.enter("news");
      const path = `/r/${crypto.randomUUID()}`;
      await using session = await two.connect({ path });
      await session.enter("news");
      await using ann = await one.connect();
      const leaver = await one.connect();
      await using bob = await two.connect();
      for (
        const [client, user_id] of [[ann, "ann"], [leaver, "eve"], [
          bob,
          "bob",
        ]] as const
      ) {
        client.allowLoss();
        await client.join("presence-a", { member: { user_id } });
        await client.signIn({ id: user_id, watchlist: ["eve"] });
      }
      await publish(one, "news", 1, 3);
      for (const client of [ours, other, session]) await take(client, 1, 3);

      await fault.fail(redis);
      // What fails without a word is noticed by what is not answered.
      const first = one.pusher.trigger("news", "n", "0 ").catch(() => {});
      await deployment.changed(false);
      await first;
      for (const { server } of nodes) {
        const error = await assertRejects(
          () => server.pusher.trigger("news", "n", "0"),
          BackplaneUnavailable,
        );
        assertEquals(error.wasSent, false);
        const body = { name: "n", channel: "news", data: "0" };
        const answer = await server.api("POST", "/events", { body });
        assertEquals(answer.status, 503);
        assertEquals(answer.headers.get("retry-after"), "1");
        assertEquals(server.pusher.stats().ready, false);
      }
      await leaver.close();
      await using late = await two.connect();
      late.allowLoss();
      late.requestSubscribe("presence-a", { member: { user_id: "zoe" } });
      late.requestSignIn({ id: "zoe", watchlist: ["ann", "eve"] });
      await late.silence();
      using stock = new StockClient(one, authorizedBy(sdk(one)));
      const stockNews = stock.subscribe("news");

      await fault.mend(redis);
      await deployment.changed(true);
      await stockNews.until("pusher:subscription_succeeded");
      await framesUpTo(late, ({ event }) => event === "pusher:signin_success");
      // A publish whose answer never came may have been accepted.
      await publish(two, "news", 4, 5);
      await stockNews.until("n");
      const clients = [ours, other, session];
      for (const client of clients) {
        const isLast = ({ event, data }: Frame) =>
          event === "n" && parseInt(String(data)) === 5;
        await framesUpTo(client, isLast);
        const got = numbersOf(client.log, "news");
        const maybe = fault.forgets ? " F 4 5" : " 4 5";
        assert(
          got === "1 2 3" + maybe || got === "1 2 3 0" + maybe,
          `${got} of ${client === session ? "the session" : "a client"}`,
        );
      }
      const members = ["ann", "bob", "zoe"];
      for (const client of [ann, bob, late]) {
        await eventually(async () => {
          await client.framesUntilPong();
          return membersOf(client.log, "presence-a");
        }, members);
      }
      for (const { server } of nodes) {
        await eventually(
          async () =>
            (await server.pusher.users("presence-a")).users
              .map(({ id }) => id).sort(),
          members,
        );
        assertEquals(server.pusher.stats().ready, true);
      }
      // Nobody has come or gone but they.
      const told = nodes.flatMap(({ journal }) =>
        journal.calls("member_added", "member_removed")
      ).sort();
      assertEquals(told, [
        ...["ann", "bob", "eve", "zoe"].map((id) =>
          `member_added presence-a ${id}`
        ),
        "member_removed presence-a eve",
      ]);
      const online = (log: readonly Frame[]) => {
        const states = new Map<string, string>();
        for (const frame of log) {
          if (frame.event !== "pusher_internal:watchlist_events") continue;
          for (const { name, user_ids } of dataOf(frame).events) {
            for (const id of user_ids) states.set(id, name);
          }
        }
        return states.get("eve");
      };
      for (const client of [ann, bob, late]) {
        await eventually(async () => {
          await client.framesUntilPong();
          return online(client.log);
        }, "offline");
      }
      deployment.expectErrors(1);
    },
  );
}

// ---- Leases -----------------------------------------------------------------

testWithRedis(
  "nobody comes or goes because Redis was away for longer than a lease",
  async () => {
    const leaseMs = 4_000;
    await using deployment = await RedisDeployment.start(2, {}, { leaseMs });
    const { redis, nodes: [one, two] } = deployment;
    assert(one !== undefined && two !== undefined);
    await using ann = await one.server.connect();
    await using bob = await two.server.connect();
    await ann.join("presence-a", { member: { user_id: "ann" } });
    await bob.join("presence-a", { member: { user_id: "bob" } });
    await ann.next("pusher_internal:member_added");
    await redis.stop();
    await deployment.changed(false);
    await pass(leaseMs * 1.5);
    // One server is back before the other.
    two.gate.shut();
    await redis.restart();
    await deployment.changed(true, [one]);
    two.gate.open();
    await deployment.changed(true, [two]);
    // Until what was held under leases that have ended would have been released.
    await pass(leaseMs * 1.5);
    for (const client of [ann, bob]) await client.silence();
    assertEquals(
      deployment.nodes.flatMap(({ journal }) =>
        journal.calls("member_removed", "channel_vacated")
      ),
      [],
    );
    assertEquals((await two.server.pusher.users("presence-a")).users.length, 2);
    deployment.expectErrors(1);
  },
);

testWithRedis(
  "a server that dies while Redis is away leaves nobody behind",
  async () => {
    const leaseMs = 1_500;
    await using deployment = await RedisDeployment.start(2, {}, { leaseMs });
    const { redis, nodes: [one, two] } = deployment;
    assert(one !== undefined && two !== undefined);
    await using ann = await one.server.connect();
    await ann.join("presence-a", { member: { user_id: "ann" } });
    await using bob = await two.server.connect();
    await bob.join("presence-a", { member: { user_id: "bob" } });
    await redis.stop();
    await deployment.changed(false);
    two.gate.shut();
    await redis.restart();
    await deployment.changed(true, [one]);
    await framesUpTo(ann, ({ event }) => event === REMOVED);
    await eventually(
      async () => (await one.server.pusher.users("presence-a")).users,
      [{ id: "ann" }],
    );
    assertEquals(one.journal.calls("member_removed"), [
      "member_removed presence-a bob",
    ]);
  },
);

// ---- What Redis has forgotten -----------------------------------------------

testWithRedis(
  "a flush is told to every subscriber, once, and nobody is taken for gone",
  async () => {
    const leaseMs = 2_000;
    await using deployment = await RedisDeployment.start(2, {}, { leaseMs });
    const { redis, nodes: [one, two] } = deployment;
    assert(one !== undefined && two !== undefined);
    await using ann = await one.server.connect({ query: RECOVER });
    await using bob = await two.server.connect({ query: RECOVER });
    for (const [client, user_id] of [[ann, "ann"], [bob, "bob"]] as const) {
      await client.enter("news");
      await client.enter("presence-a", { member: { user_id } });
    }
    await publish(one.server, "news", 1, 2);
    for (const client of [ann, bob]) {
      await framesUpTo(client, ({ data }) => data === "2 ");
    }
    await redis.command("FLUSHALL");
    for (const client of [ann, bob]) {
      for (let failures = 0; failures < 2;) {
        const { event } = await client.next();
        if (event === FAILED) failures++;
      }
    }
    await publish(two.server, "news", 3);
    // Until both have registered, and told who is gone.
    await pass(leaseMs * 2);
    for (const client of [ann, bob]) {
      const frames = await client.framesUntilPong();
      assertEquals(frames.map(({ event }) => event), ["n"]);
      assertEquals(numbersOf(client.log, "news"), "1 2 F 3");
    }
    for (const { server, journal } of deployment.nodes) {
      const { users } = await server.pusher.users("presence-a");
      assertEquals(users.map(({ id }) => id).sort(), ["ann", "bob"]);
      assertEquals(journal.calls("member_removed", "channel_vacated"), []);
      // It was never away.
      assertEquals(journal.drain("backplane").map(({ up }) => up), [true]);
    }
    deployment.expectErrors(0);
  },
);

testWithRedis(
  "a failover to a replica without the last messages is told where it lost some, and nowhere else",
  async () => {
    await using replica = await RedisServer.start();
    await using deployment = await RedisDeployment.start(2);
    const { redis, nodes } = deployment;
    const [one, two] = nodes;
    assert(one !== undefined && two !== undefined);
    await using ann = await one.server.connect({ query: RECOVER });
    await using bob = await two.server.connect({ query: RECOVER });
    for (const client of [ann, bob]) {
      for (const channel of ["news", "calm"]) await client.enter(channel);
    }
    for (const channel of ["news", "calm"]) {
      await publish(one.server, channel, 1, 2);
    }
    await replica.command("REPLICAOF", "127.0.0.1", redis.port);
    await eventually(async () => {
      const info = String(await replica.command("INFO", "replication"));
      return /master_link_status:up/.test(info);
    }, true);
    await redis.command("WAIT", 1, 5_000);
    await replica.command("REPLICAOF", "NO", "ONE");
    // The replica has none of these.
    await publish(two.server, "news", 3, 5);
    for (const client of [ann, bob]) {
      await framesUpTo(client, ({ data }) => data === "5 ");
    }
    for (const { gate } of nodes) gate.shut();
    await deployment.changed(false);
    for (const { gate } of nodes) gate.open(replica.port);
    await deployment.changed(true);
    for (const channel of ["news", "calm"]) {
      await publish(one.server, channel, 6, 7);
    }
    for (const client of [ann, bob]) {
      for (const channel of ["news", "calm"]) {
        await eventually(async () => {
          await client.framesUntilPong();
          return numbersOf(client.log, channel);
        }, channel === "news" ? "1 2 3 4 5 F 6 7" : "1 2 6 7");
      }
    }
    deployment.expectErrors(1);
  },
);

// ---- One server alone -------------------------------------------------------

testWithRedis(
  "a server that was cut off reads what it missed, and obeys",
  async () => {
    await using deployment = await RedisDeployment.start(2);
    const { nodes: [one, two] } = deployment;
    assert(one !== undefined && two !== undefined);
    await using ours = await one.server.connect({ query: RECOVER });
    await ours.enter("news");
    const path = `/r/${crypto.randomUUID()}`;
    await using session = await one.server.connect({ path });
    await session.enter("news");
    await using ann = await one.server.connect();
    ann.allowLoss();
    await ann.signIn({ id: "ann", watchlist: ["bob"] });
    await ann.next("pusher_internal:watchlist_events");
    await using eve = await one.server.connect();
    await eve.signIn({ id: "eve" });
    one.gate.shut();
    await deployment.changed(false, [one]);
    await publish(two.server, "news", 1, 5);
    await two.server.pusher.terminateUserConnections("eve");
    await using bob = await two.server.connect();
    await bob.signIn({ id: "bob" });
    one.gate.open();
    await deployment.changed(true, [one]);
    for (const client of [ours, session]) await take(client, 1, 5);
    assertEquals((await eve.turnedAway()).code, 4009);
    const { events } = dataOf(
      await ann.next("pusher_internal:watchlist_events"),
    );
    assertEquals(events, [{ name: "online", user_ids: ["bob"] }]);
    for (const client of [ours, session, ann]) {
      const frames = await client.framesUntilPong();
      assertEquals(frames.filter(({ event }) => event !== "pusher:ping"), []);
    }
    deployment.expectErrors(1, [one]);
    deployment.expectErrors(0, [two]);
  },
);

testWithRedis(
  "a session that leaves a server without Redis goes on elsewhere, and loses nothing",
  async () => {
    await using deployment = await RedisDeployment.start(2);
    const { nodes: [one, two] } = deployment;
    assert(one !== undefined && two !== undefined);
    const path = `/r/${crypto.randomUUID()}`;
    const first = await one.server.connect({ path });
    await first.enter("news");
    await publish(one.server, "news", 1, 3);
    await take(first, 1, 3);
    await first.acknowledge();
    one.gate.shut();
    await deployment.changed(false, [one]);
    await first.close();
    await publish(two.server, "news", 4, 6);
    await using second = await two.server.connect({ path });
    await second.enter("news");
    const frames = await framesUpTo(second, ({ data }) => data === "6 ");
    const numbers = numbersOf(frames, "news");
    assert("1 2 3 4 5 6".endsWith(numbers), numbers);
    assert(numbers.endsWith("4 5 6"), numbers);
    one.gate.open();
    await deployment.changed(true, [one]);
    await publish(one.server, "news", 7);
    await take(second, 7);
    await second.acknowledge();
  },
);

testWithRedis(
  "a server that was frozen for longer than its lease comes back to the truth",
  async () => {
    const leaseMs = 2_000;
    await using deployment = await RedisDeployment.start(1, {}, { leaseMs });
    const { redis, nodes: [node] } = deployment;
    assert(node !== undefined);
    const two = node.server;
    await using frozen = await start([
      ...["run", "--no-prompt", "--no-lock", "--no-check", "--allow-net"],
      "tests/support/redis_server_program.ts",
      ...[redis.url, `${leaseMs}`, APP.id, APP.key, APP.secret],
    ], /port (\d+)\n/);
    const url = `ws://127.0.0.1:${frozen.ready[1]}`;
    await using ours = new Client(`${url}/app/${APP.key}${RECOVER}`);
    await using ann = new Client(`${url}/app/${APP.key}?protocol=7`);
    for (const client of [ours, ann]) await client.established();
    await ours.enter("news");
    await ann.join("presence-a", { member: { user_id: "ann" } });
    await using bob = await two.connect();
    const eve = await two.connect();
    await bob.join("presence-a", { member: { user_id: "bob" } });
    await eve.join("presence-a", { member: { user_id: "eve" } });
    await framesUpTo(ann, ({ data }) => String(data).includes("eve"));
    await bob.framesUntilPong();

    frozen.signal("SIGSTOP");
    try {
      // Others take it for dead.
      const { data } = await bob.next(REMOVED);
      assertEquals(JSON.parse(String(data)), { user_id: "ann" });
      await publish(two, "news", 1, 5);
      await eve.close();
      await bob.next(REMOVED);
      await using zoe = await two.connect();
      await zoe.join("presence-a", { member: { user_id: "zoe" } });
      await bob.next(ADDED);
      frozen.signal("SIGCONT");
      await take(ours, 1, 5);
      assertEquals(dataOf(await bob.next(ADDED)).user_id, "ann");
      for (const client of [ann, bob, zoe]) {
        await eventually(async () => {
          await client.framesUntilPong();
          return membersOf(client.log, "presence-a");
        }, ["ann", "bob", "zoe"]);
      }
      await publish(two, "news", 6);
      await take(ours, 6);
      const { users } = await two.pusher.users("presence-a");
      assertEquals(users.map(({ id }) => id).sort(), ["ann", "bob", "zoe"]);
    } finally {
      frozen.signal("SIGCONT");
    }
    deployment.expectErrors(0);
  },
);

// ---- Bounds -----------------------------------------------------------------

testWithRedis(
  "publishers that go on while Redis is frozen fill no memory, and get an answer each",
  async () => {
    await using deployment = await RedisDeployment.start(1);
    const { redis, nodes: [one] } = deployment;
    assert(one !== undefined);
    const { pusher } = one.server;
    await using client = await one.server.connect({ query: RECOVER });
    await client.enter("news");
    const outcomes = { done: 0, unsure: 0, refused: 0 };
    const trigger = async () => {
      try {
        await pusher.trigger("news", "n", "0 ".padEnd(1_000, "x"));
        outcomes.done++;
      } catch (error) {
        assert(error instanceof BackplaneUnavailable);
        if (error.wasSent) outcomes.unsure++;
        else outcomes.refused++;
      }
    };
    redis.pause();
    const calls: Promise<void>[] = [];
    for (let i = 0; i < 20_000; i++) calls.push(trigger());
    await deployment.changed(false);
    for (let i = 0; i < 20_000; i++) calls.push(trigger());
    await Promise.all(calls);
    // What one connection takes; all others were refused at once.
    assert(outcomes.unsure <= 4_096, JSON.stringify(outcomes));
    assertEquals(outcomes.done, 0);
    redis.resume();
    await deployment.changed(true);
    await pusher.trigger("news", "n", "1 ");
    await framesUpTo(client, ({ data }) => data === "1 ");
    const errors = one.journal.drain("error").map(({ during }) => during);
    // The first refusal came before it was known that Redis is away.
    assertEquals(errors, ["publishing an event", "reaching the backplane"]);
  },
);

for (const how of ["stopped", "frozen"] as const) {
  testWithRedis(`close ends while Redis is ${how}`, async () => {
    await using deployment = await RedisDeployment.start(1);
    const { redis, nodes: [one] } = deployment;
    assert(one !== undefined);
    await using clients = await one.server.connectAll(20);
    for (const [i, client] of clients.entries()) {
      await client.join("presence-a", { member: { user_id: `${i}` } });
    }
    if (how === "stopped") await redis.stop();
    else redis.pause();
    await within(DEADLINE_MS, "end of close", one.server.pusher.close());
    if (how === "frozen") redis.resume();
  });
}

// ---- The beginning ----------------------------------------------------------

testWithRedis(
  "a server that starts before Redis says so, refuses with 503, and works when Redis is there",
  async () => {
    await using store = await RedisServer.start();
    await store.stop();
    const journal = new Journal({ isShared: true });
    const backplane = backplaneOn(store.url);
    await using server = serve({ backplane }, { journal });
    const { error, during } = await journal.next("error");
    assertEquals(during, "starting the backplane");
    assert(/nobody listens there/.test(error.message), error.message);
    const refused = await server.api("GET", "/channels");
    assertEquals(refused.status, 503);
    await assertRejects(
      () => server.pusher.trigger("news", "e", 1),
      BackplaneUnavailable,
    );
    await store.restart();
    assertEquals((await journal.next("backplane")).up, true);
    await using client = await server.connect();
    await client.join("news");
    await publish(server, "news", 1);
    await take(client, 1);
    assertEquals(journal.drain("error"), []);
  },
);

/** Lets time pass in which something happens that must not, or that nobody announces. */
function pass(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
