/**
 * What several servers and their clients go through while Redis is away, and that all
 * is as it should be when it is back. `away_test.ts` has what every backplane shares.
 */
import { BackplaneUnavailable } from "@glitz/pusher";
import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  eventually,
  framesUpTo,
  RedisDeployment,
} from "../support/redis_deployment.ts";
import { publish, RECOVER, take } from "../support/recovering.ts";
import { type RedisServer, testWithRedis } from "../support/redis.ts";
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
    await ann.framesUntilPong();
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

/** Lets time pass in which something happens that must not, or that nobody announces. */
function pass(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
