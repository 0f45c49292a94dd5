/**
 * Several servers that share a backplane: what clients of different servers have
 * of each other, and what they hear when the backplane loses something.
 */
import type { BackplaneNode } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
} from "@std/assert";
import { Client as ServedClient, heard, until } from "../support/client.ts";
import { type Cluster, eachCluster } from "../support/cluster.ts";
import { FaultProxy } from "../support/proxy.ts";
import { Inbox } from "../support/queue.ts";
import {
  failure,
  numberOf,
  publish,
  range,
  RECOVER,
  rest,
  take,
} from "../support/recovering.ts";
import {
  type Answer,
  APP,
  checked,
  type Client,
  leave,
  read,
  serve,
  type TestServer,
  TWO_APPS,
} from "../support/server.ts";
import { StockClient } from "../support/stock.ts";
import { assertReached, signIn, watched } from "../support/users.ts";
import { channelAuth, dataOf, userAuth } from "../support/wire.ts";

const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";
const SUCCEEDED = "pusher_internal:subscription_succeeded";
const FAILED = "pusher:recovery_failed";
const PING = "pusher:ping";

/** The path of a session that nobody has had before. */
const newPath = (): string => `/r/${crypto.randomUUID()}`;

/** Takes the names of all frames that servers have sent so far. */
async function events(cluster: Cluster, client: Client): Promise<string[]> {
  await cluster.drained();
  const frames = await client.framesUntilPong();
  return frames.map(({ event }) => event).filter((event) => event !== PING);
}

// ---- What clients of two servers have of each other -------------------------

eachCluster(
  "an event reaches the subscribers of every server",
  async (cluster) => {
    const [one, two] = cluster.two({ clientEvents: true });
    await using ann = await one.connect();
    await using bob = await two.connect();
    await using eve = await two.connect();
    for (const client of [ann, bob]) await client.join("private-a");
    for (const [index, server] of [one, two].entries()) {
      await server.pusher.trigger(["private-a", "other"], "e", index);
      for (const client of [ann, bob]) {
        assertEquals((await client.next("e")).data, `${index}`);
      }
      const body = { name: "api", channel: "private-a", data: "1" };
      await server.api("POST", "/events", { body });
      for (const client of [ann, bob]) await client.next("api");
    }
    ann.send({ event: "client-x", channel: "private-a", data: 1 });
    assertEquals((await bob.next("client-x")).data, "1");
    for (const client of [ann, bob, eve]) {
      assertEquals(await events(cluster, client), []);
    }
  },
);

eachCluster(
  "events of every server come to all in one order",
  async (cluster) => {
    const servers = cluster.two();
    const clients = [await servers[0].connect(), await servers[1].connect()];
    for (const client of clients) await client.join("news");
    await Promise.all(
      servers.map((server, index) =>
        publish(server, "news", 100 * index + 1, 100 * index + 50)
      ),
    );
    const [mine, others] = await Promise.all(clients.map(async (client) => {
      const numbers: number[] = [];
      while (numbers.length < 100) {
        numbers.push(numberOf(await client.next("n")));
      }
      return numbers;
    }));
    assertEquals(mine, others);
    for (const base of [0, 100]) {
      const own = mine!.filter((n) => n > base && n <= base + 50);
      assertEquals(own, range(base + 1, base + 50));
    }
    for (const client of clients) await client.close();
  },
);

eachCluster(
  "an event leaves out a socket_id of another server",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using ann = await one.connect();
    await using bob = await two.connect();
    for (const client of [ann, bob]) await client.join("news");
    const { socketId: socket_id } = bob;
    await one.pusher.trigger("news", "e", 1, { socket_id });
    await ann.next("e");
    assertEquals(await events(cluster, bob), []);
  },
);

eachCluster(
  "a user on two servers is one member, and announced once",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using eve = await one.connect();
    await eve.join("presence-a", { member: { user_id: "eve" } });
    const member = { user_id: "ann", user_info: { name: "Änn" } };
    const tabs: Client[] = [];
    for (const server of [two, one, two]) {
      const tab = await server.connect();
      tabs.push(tab);
      const { presence } = await tab.join("presence-a", { member });
      assertEquals(presence.count, 2);
      assertEquals(presence.hash.ann, { name: "Änn" });
    }
    assertEquals(dataOf(await eve.next(ADDED)), {
      user_id: "ann",
      user_info: { name: "Änn" },
    });
    for (const server of [one, two]) {
      assertEquals(await server.pusher.users("presence-a"), {
        users: [{ id: "eve" }, { id: "ann" }],
      });
      const info = "user_count,subscription_count";
      assertEquals(await server.pusher.channel("presence-a", { info }), {
        ...{ occupied: true, user_count: 2, subscription_count: 4 },
      });
    }
    for (const tab of tabs) {
      assertEquals(await events(cluster, eve), []);
      await tab.close();
      await cluster.journal.next("disconnected");
    }
    assertEquals(dataOf(await eve.next(REMOVED)), { user_id: "ann" });
    const told = cluster.journal.calls("member_added", "member_removed");
    assertEquals(told.toSorted(), [
      "member_added presence-a ann",
      "member_added presence-a eve",
      "member_removed presence-a ann",
    ]);
  },
);

eachCluster(
  "every server lists and counts the channels of all",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using ann = await one.connect();
    await using bob = await two.connect();
    for (const client of [ann, bob]) await client.join("news");
    await bob.join("private-b");
    await ann.join("presence-a", { member: { user_id: "ann" } });
    for (const server of [one, two]) {
      const info = "subscription_count";
      assertEquals(await server.pusher.channels({ info }), {
        channels: {
          news: { subscription_count: 2 },
          "presence-a": { subscription_count: 1 },
          "private-b": { subscription_count: 1 },
        },
      });
      const { body } = await server.api("GET", "/channels", {
        query: { filter_by_prefix: "presence-", info: "user_count" },
      });
      assertEquals(body, { channels: { "presence-a": { user_count: 1 } } });
      const response = await server.pusher.trigger("news", "e", 1, { info });
      assertEquals(await response.json(), {
        channels: { news: { subscription_count: 2 } },
      });
    }
  },
);

eachCluster(
  "a channel is occupied and vacated once for all servers",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using ann = await one.connect();
    await using bob = await two.connect();
    await ann.join("news");
    await bob.join("news");
    await leave(one, ann);
    assertEquals(cluster.journal.calls("channel_vacated"), []);
    await leave(two, bob);
    await cluster.journal.next("channel_vacated");
    assertEquals(
      cluster.journal.calls("channel_occupied", "channel_vacated"),
      ["channel_occupied news", "channel_vacated news"],
    );
  },
);

eachCluster("the limit of members holds over all servers", async (cluster) => {
  const [one, two] = cluster.two({ limits: { presenceMembers: 2 } });
  await using ann = await one.connect();
  await using bob = await two.connect();
  await using eve = await two.connect();
  await ann.join("presence-a", { member: { user_id: "ann" } });
  await bob.join("presence-a", { member: { user_id: "bob" } });
  const member = { user_id: "eve" };
  assertEquals(await eve.refused("presence-a", { member }), "LimitReached 403");
  await leave(one, ann);
  await eve.join("presence-a", { member });
});

eachCluster("subscription counts are those of all servers", async (cluster) => {
  const [one, two] = cluster.two({ subscriptionCounts: true });
  await using ann = await one.connect();
  await using bob = await two.connect();
  const count = async (client: Client) =>
    dataOf(await client.next("pusher_internal:subscription_count"));
  await ann.join("news");
  assertEquals(await count(ann), { subscription_count: 1 });
  await bob.join("news");
  for (const client of [ann, bob]) {
    assertEquals(await count(client), { subscription_count: 2 });
  }
});

eachCluster(
  "a cache channel keeps its last event for every server",
  async (cluster) => {
    const [one, two] = cluster.two();
    await one.pusher.trigger("cache-a", "e", 1);
    await using bob = await two.connect();
    await bob.join("cache-a");
    assertEquals((await bob.next("e")).data, "1");
    const { cache } = await two.pusher.channel("cache-a", { info: "cache" });
    assertEquals(cache?.data, "1");
  },
);

eachCluster(
  "a user's events and its end reach the connections on every server",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using ann = await one.connect();
    await using tab = await two.connect();
    await using bob = await two.connect();
    for (const client of [ann, tab]) await signIn(client, { id: "a\nb" });
    await signIn(bob, { id: "bob" });
    for (const server of [one, two]) {
      await assertReached(server, "a\nb", [ann, tab], [bob]);
    }
    await two.pusher.terminateUserConnections("a\nb");
    for (const client of [ann, tab]) {
      assertEquals((await client.turnedAway()).code, 4009);
    }
    assertEquals(await events(cluster, bob), []);
  },
);

eachCluster(
  "watchers on every server are told of a user's first sign-in and last leave, once",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using eve = await one.connect();
    await signIn(eve, { id: "eve", watchlist: ["ann"] });
    assertEquals(await watched(eve), { offline: ["ann"] });
    await using bob = await two.connect();
    await using ann = await two.connect();
    await signIn(ann, { id: "ann" });
    await signIn(bob, { id: "bob", watchlist: ["ann"] });
    assertEquals(await watched(bob), { online: ["ann"] });
    assertEquals(await watched(eve), { online: ["ann"] });
    await using tab = await one.connect();
    await signIn(tab, { id: "ann" });
    await leave(two, ann);
    for (const client of [eve, bob]) {
      assertEquals(await events(cluster, client), []);
    }
    await leave(one, tab);
    for (const client of [eve, bob]) {
      assertEquals(await watched(client), { offline: ["ann"] });
    }
  },
);

// ---- Joins beside deliveries ------------------------------------------------

eachCluster(
  "a subscriber that joins while events are on their way gets each of them once",
  async (cluster) => {
    const [one, two] = cluster.two({ limits: { framesPerSecond: Infinity } });
    await using keeper = await one.connect({ query: RECOVER });
    await keeper.enter("news");
    await using late = await two.connect({ query: RECOVER });
    let recover = keeper.positionOn("news");
    let published = 0;
    let got = 0;
    for (const n of range(1, 15)) {
      // Some are accepted before the join, some after it, some meanwhile.
      const publishing = publish(one, "news", published + 1, published + 4);
      published += 4;
      if (n % 3 === 0) await publishing;
      late.requestSubscribe("news", { recover });
      const more = publish(one, "news", published + 1, published + 3);
      published += 3;
      const { recovered } = await late.next(SUCCEEDED);
      assertEquals(recovered, true);
      await Promise.all([publishing, more]);
      await cluster.drained();
      await take(late, got + 1, published);
      got = published;
      recover = late.positionOn("news");
      late.unsubscribe("news");
      await late.silence();
    }
  },
);

eachCluster(
  "a subscriber that joins with rewind gets no event twice",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using keeper = await one.connect({ query: RECOVER });
    await keeper.enter("news");
    for (const n of range(1, 10)) {
      // Not awaited: they may be delivered after the answer to the join.
      const publishing = publish(one, "news", 2 * n - 1, 2 * n);
      await using late = await two.connect({ query: RECOVER });
      const { recovered } = await late.enter("news", { rewind: 1_000 });
      assertEquals(recovered, undefined);
      await publishing;
      await cluster.drained();
      assertEquals(await rest(late), range(1, 2 * n));
    }
  },
);

// ---- Losses -----------------------------------------------------------------

/** Loses messages: everything, or those of one server and one channel. */
const LOSSES: [
  what: string,
  lose: (cluster: Cluster, server: TestServer) => Promise<void>,
][] = [
  [
    "everything is flushed",
    (cluster) => Promise.resolve(cluster.flush()),
  ],
  [
    "a server is deaf for a time",
    async (cluster, server) => {
      const memory = cluster.memoryOf(server);
      memory.deafen();
      await server.pusher.trigger("news", "n", "lost");
      await cluster.drained();
      memory.hear();
      await cluster.drained();
    },
  ],
];

for (const [what, lose] of LOSSES) {
  eachCluster(
    `when ${what}, a client that recovers is told, and goes on from there`,
    async (cluster) => {
      const [one, two] = cluster.two();
      await using ann = await one.connect({ query: RECOVER });
      await ann.enter("news");
      await publish(two, "news", 1, 5);
      await take(ann, 1, 5);
      const before = ann.positionOn("news");
      await lose(cluster, one);
      await cluster.drained();
      await failure(ann, "news");
      await publish(two, "news", 6, 10);
      await take(ann, 6, 10);
      const recover = ann.positionOn("news");
      await leave(one, ann);
      await publish(two, "news", 11, 12);
      for (const server of [one, two]) {
        await using back = await server.connect({ query: RECOVER });
        const { recovered } = await back.enter("news", { recover });
        assertEquals(recovered, true);
        assertEquals(await rest(back), [11, 12]);
      }
      if (before.epoch === recover.epoch) return;
      await using old = await two.connect({ query: RECOVER });
      const { recovered } = await old.enter("news", { recover: before });
      assertEquals(recovered, false);
      await failure(old, "news");
    },
  );

  eachCluster(
    `when ${what}, a plain client hears of it, too, and all later events`,
    async (cluster) => {
      const [one, two] = cluster.two();
      await using ann = await one.connect();
      ann.allowLoss();
      await ann.join("news");
      await publish(two, "news", 1, 3);
      await take(ann, 1, 3);
      await lose(cluster, one);
      await publish(two, "news", 4, 6);
      await cluster.drained();
      // It cannot know positions, so it is given none.
      const data = JSON.stringify({ channel: "news" });
      const frame = { event: FAILED, channel: "news", data };
      assertEquals(await ann.next(FAILED), frame);
      await take(ann, 4, 6);
      assertEquals(await events(cluster, ann), []);
    },
  );

  eachCluster(
    `when ${what}, a session is told, and goes on from there on any server`,
    async (cluster) => {
      const [one, two] = cluster.two();
      const path = newPath();
      await using ann = await one.connect({ path });
      await ann.enter("news");
      await publish(two, "news", 1, 5);
      await take(ann, 1, 5);
      await ann.acknowledge();
      await lose(cluster, one);
      await cluster.drained();
      await failure(ann, "news");
      await publish(two, "news", 6, 10);
      await take(ann, 6, 10);
      await ann.acknowledge();
      await leave(one, ann);
      await publish(two, "news", 11, 12);
      await using back = await two.connect({ path });
      await back.enter("news");
      await take(back, 11, 12);
      assertEquals(await events(cluster, back), []);
    },
  );

  eachCluster(
    `when ${what}, a session that has not heard of it is told when it comes back`,
    async (cluster) => {
      const [one, two] = cluster.two();
      const path = newPath();
      await using ann = await one.connect({ path });
      await ann.enter("news");
      await publish(two, "news", 1, 3);
      await take(ann, 1, 3);
      await ann.acknowledge();
      await lose(cluster, one);
      await cluster.drained();
      await leave(one, ann);
      await using back = await two.connect({ path });
      await back.enter("news");
      await failure(back, "news");
      await publish(one, "news", 4);
      await take(back, 4);
    },
  );

  eachCluster(
    `when ${what}, our own client is told, and recovers later from where it is then`,
    async (cluster) => {
      const [one, two] = cluster.two();
      await using proxy = await FaultProxy.open(one);
      using client = new ServedClient(proxy);
      const news = client.pusher.subscribe("news");
      const inbox = new Inbox(news);
      await inbox.until("pusher:subscription_succeeded");
      await publish(two, "news", 1, 5);
      for (const n of range(1, 5)) assertEquals(await inbox.data("n"), n);
      await lose(cluster, one);
      assertEquals(await inbox.data(FAILED), { channel: "news" });
      await publish(two, "news", 6, 10);
      for (const n of range(6, 10)) assertEquals(await inbox.data("n"), n);
      // To the other server, as a load balancer may choose.
      proxy.target = two.port;
      const back = heard(client.pusher.connection, "connected");
      const lost = heard(client.pusher.connection, "connecting");
      await proxy.clear("reset");
      await lost;
      client.pusher.connect();
      await publish(one, "news", 11, 12);
      await back;
      const names = await inbox.until("n");
      assertEquals(names.map(([name]) => name).includes(FAILED), false);
      assertEquals(names.at(-1)?.[1], 11);
      assertEquals(await inbox.data("n"), 12);
    },
  );
}

eachCluster(
  "an answer to a ping before a loss does not acknowledge the loss",
  async (cluster) => {
    const [one, two] = cluster.two();
    const path = newPath();
    await using ann = await one.connect({ path });
    await ann.enter("news");
    await publish(two, "news", 1, 3);
    await take(ann, 1, 3);
    await ann.next(PING);
    cluster.flush();
    await cluster.drained();
    ann.pong();
    await ann.framesUntilPong();
    await leave(one, ann);
    await publish(two, "news", 4, 9);
    await using back = await two.connect({ path });
    await back.enter("news");
    await failure(back, "news");
  },
);

eachCluster(
  "when everything is flushed, pusher-js with a session is told, and loses nothing later",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using proxy = await FaultProxy.open(one);
    using client = new StockClient(proxy, { wsPath: newPath() });
    const news = await client.join("news");
    await publish(two, "news", 1, 3);
    for (const n of range(1, 3)) assertEquals(await news.data("n"), n);
    cluster.flush();
    assertEquals(await news.data(FAILED), { channel: "news" });
    await publish(two, "news", 4, 6);
    for (const n of range(4, 6)) assertEquals(await news.data("n"), n);
    // It has answered a ping that came after all of them.
    const { connection } = client.pusher;
    const pinged = Promise.withResolvers<void>();
    connection.bind("message", ({ event }: { event: string }) => {
      if (event === PING) pinged.resolve();
    });
    await pinged.promise;
    await client.fence();
    proxy.target = two.port;
    await proxy.clear("close");
    await publish(one, "news", 7, 8);
    const missed: unknown[] = [];
    while (missed.at(-1) !== 8) {
      for (const [name, data] of await news.until("n")) {
        assertNotEquals(name, FAILED);
        if (name === "n") missed.push(data);
      }
    }
    assertEquals(missed.filter((n) => Number(n) > 6), [7, 8]);
  },
);

eachCluster(
  "when everything is flushed, a user is told on its own channel, and recovers later",
  async (cluster) => {
    const [one, two] = cluster.two();
    const user = "#server-to-user-ann";
    await using ann = await one.connect({ query: RECOVER });
    await ann.signIn({ id: "ann" });
    await two.pusher.sendToUser("ann", "n", 1);
    await take(ann, 1);
    cluster.flush();
    await cluster.drained();
    await failure(ann, user);
    await two.pusher.sendToUser("ann", "n", 2);
    await take(ann, 2);
    const recover = ann.positionOn(user);
    await leave(one, ann);
    await one.pusher.sendToUser("ann", "n", 3);
    await using back = await two.connect({ query: RECOVER });
    const { recovered } = await back.signIn({ id: "ann" }, { recover });
    assertEquals(recovered, true);
    await take(back, 3);
  },
);

eachCluster(
  "after a flush members, users and watchlists are as they were",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using ann = await one.connect();
    await using bob = await two.connect();
    await signIn(ann, { id: "ann" });
    await signIn(bob, { id: "bob", watchlist: ["ann"] });
    assertEquals(await watched(bob), { online: ["ann"] });
    for (const client of [ann, bob]) client.allowLoss();
    for (const [client, user_id] of [[ann, "ann"], [bob, "bob"]] as const) {
      await client.join("presence-a", { member: { user_id } });
    }
    await ann.next(ADDED);
    cluster.flush();
    for (const server of [one, two]) {
      assertEquals(await server.pusher.users("presence-a"), {
        users: [{ id: "ann" }, { id: "bob" }],
      });
    }
    for (const client of [ann, bob]) {
      // Nobody has come or gone; that messages may be lost is said once a channel.
      const seen = new Set(await events(cluster, client));
      seen.delete(FAILED);
      assertEquals([...seen], []);
    }
    for (const server of [one, two]) {
      await assertReached(server, "ann", [ann], [bob]);
    }
    await leave(one, ann);
    const ends = [await bob.next(), await bob.next()].map(({ event }) => event);
    assertEquals(ends.sort(), [
      REMOVED,
      "pusher_internal:watchlist_events",
    ]);
    assertEquals(await two.pusher.users("presence-a"), {
      users: [{ id: "bob" }],
    });
  },
);

// ---- Deliveries of another epoch than the join's ------------------------------

/** A server on a backplane whose every word is the test's. */
function scripted() {
  let node: BackplaneNode | undefined;
  const joins: ((position: { epoch: string; offset: number }) => void)[] = [];
  const nothing = () => {};
  const server = serve({
    backplane: {
      sessions: { take: () => null, keep: nothing, forget: nothing },
      start: (started) => void (node = started),
      publish: nothing,
      join: (_app, _channel, { history }) =>
        new Promise((resolve) =>
          joins.push((position) =>
            resolve({
              ...{ members: new Map(), position },
              replay: history && { recovered: false, from: position },
            })
          )
        ),
      leave: nothing,
      read: () => null,
      members: () => new Map(),
      cached: () => null,
      occupancy: () => ({ subscriptions: 0, users: 0 }),
      occupied: () => new Map(),
      close: nothing,
    },
  });
  return {
    server,
    /** Waits for a join, and returns what answers it. */
    async joining() {
      await until(() => joins.length > 0);
      return joins.shift()!;
    },
    deliver(n: number, epoch: string, offset: number) {
      const message = { event: "n", data: `${n}`, logged: true };
      node?.deliver(APP.id, "news", message, { epoch, offset });
    },
  };
}

Deno.test("what was delivered before a flush is none of the epoch that a join begins in", async () => {
  const { server, joining, deliver } = scripted();
  await using _ = server;
  await using client = await server.connect({ query: RECOVER });
  client.requestSubscribe("news");
  const answer = await joining();
  deliver(1, "old", 100);
  answer({ epoch: "new", offset: 0 });
  await client.next(SUCCEEDED);
  deliver(2, "new", 1);
  deliver(3, "new", 2);
  const frames = await client.framesUntilPong();
  assertEquals(
    frames.filter(({ event }) => event === "n").slice(-2).map(numberOf),
    [2, 3],
  );
  assertEquals(client.positionOn("news"), { epoch: "new", offset: 2 });
});

Deno.test("what is delivered after a flush is not taken for what a join before it has covered", async () => {
  const { server, joining, deliver } = scripted();
  await using _ = server;
  await using client = await server.connect({ query: RECOVER });
  client.requestSubscribe("news");
  const answer = await joining();
  deliver(1, "new", 1);
  deliver(2, "new", 2);
  answer({ epoch: "old", offset: 100 });
  await client.next(SUCCEEDED);
  deliver(3, "new", 3);
  const frames = await client.framesUntilPong();
  const numbers = frames.filter(({ event }) => event === "n").map(numberOf);
  assertEquals(numbers, [1, 2, 3]);
  assert(frames.some(({ event }) => event === FAILED));
  assertEquals(client.positionOn("news"), { epoch: "new", offset: 3 });
});

// ---- Sessions over several servers ------------------------------------------

eachCluster(
  "a session that comes back to another server gets what it has missed",
  async (cluster) => {
    const [one, two] = cluster.two();
    const path = newPath();
    let from = 1;
    for (const server of [one, two, two, one]) {
      await using client = await server.connect({ path });
      await client.enter("news");
      if (from > 1) await take(client, from - 2, from - 1);
      await publish(server, "news", from, from + 2);
      await take(client, from, from + 2);
      await client.acknowledge();
      await leave(server, client);
      await publish(server, "news", from + 3, from + 4);
      from += 5;
    }
  },
);

eachCluster(
  "what a session's earlier connection on another server has caused does not come to it",
  async (cluster) => {
    const [one, two] = cluster.two();
    const path = newPath();
    const first = await one.connect({ path });
    await first.enter("news");
    await publish(one, "news", 1);
    await take(first, 1);
    await first.acknowledge();
    await leave(one, first);
    await one.pusher.trigger("news", "n", 2, { socket_id: first.socketId });
    await one.pusher.trigger("news", "n", 3);
    await using second = await two.connect({ path });
    await second.enter("news");
    const numbers = [numberOf(await second.next("n"))];
    while (numbers.at(-1) !== 3) numbers.push(numberOf(await second.next("n")));
    assertEquals(numbers.includes(2), false);
    await one.pusher.trigger("news", "n", 4, { socket_id: first.socketId });
    assertEquals(await events(cluster, second), []);
  },
);

eachCluster("one server at a time owns a session", async (cluster) => {
  const [one, two] = cluster.two();
  const path = newPath();
  await using first = await one.connect({ path });
  await first.enter("news");
  await publish(one, "news", 1);
  await take(first, 1);
  await first.acknowledge();
  // The client has come back; the first server has not seen yet that it is gone.
  await using second = await two.connect({ path });
  await second.enter("news");
  assertEquals(two.pusher.stats().sessions, 1);
  await until(() => one.pusher.stats().sessions === 0);
  await publish(one, "news", 2, 4);
  await take(first, 2, 4);
  // What was acknowledged last may not have been kept yet.
  const numbers = [numberOf(await second.next("n"))];
  while (numbers.at(-1) !== 4) numbers.push(numberOf(await second.next("n")));
  assertEquals(numbers.slice(-3), range(2, 4));
  await second.acknowledge();
  // What the former connection acknowledges from now on is nobody's.
  first.pong();
  await first.silence();
  await publish(one, "news", 5, 6);
  for (const client of [first, second]) await take(client, 5, 6);
  first.pong();
  await first.silence();
  await leave(one, first);
  await leave(two, second);
  await using third = await one.connect({ path });
  await third.enter("news");
  await take(third, 5, 6);
  assertEquals(await events(cluster, third), []);
});

eachCluster(
  "pusher-js with a session loses nothing from server to server",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using proxy = await FaultProxy.open(one);
    using client = new StockClient(proxy, { wsPath: newPath() });
    const news = await client.join("news");
    const got = new Set<unknown>();
    let n = 0;
    for (const next of [two, one]) {
      await publish(one, "news", n + 1, n + 5);
      n += 5;
      while (!got.has(n)) got.add(await news.data("n"));
      proxy.target = next.port;
      await proxy.clear("close");
      await publish(two, "news", n + 1, n + 5);
      n += 5;
      while (!got.has(n)) got.add(await news.data("n"));
    }
    assertEquals([...got], range(1, n));
  },
);

// ---- Servers that go --------------------------------------------------------

/** Waits until a server has heard that a user is gone from presence-a. */
async function assertLeft(cluster: Cluster, server: TestServer): Promise<void> {
  const users = () => server.pusher.users("presence-a");
  await cluster.eventually(users, { users: [{ id: "eve" }] });
  const channels = () => server.pusher.channels();
  await cluster.eventually(channels, { channels: { "presence-a": {} } });
}

for (const how of ["dies", "closes"] as const) {
  eachCluster(`a server that ${how} leaves no ghosts`, async (cluster) => {
    const [one, two] = cluster.two();
    await using eve = await two.connect();
    await eve.join("presence-a", { member: { user_id: "eve" } });
    await signIn(eve, { id: "eve", watchlist: ["ann", "b\nb"] });
    assertEquals(await watched(eve), { offline: ["ann", "b\nb"] });
    const path = newPath();
    await using ann = await one.connect({ path });
    await using bob = await one.connect();
    await signIn(ann, { id: "ann" });
    await signIn(bob, { id: "b\nb" });
    for (const user_id of ["ann", "b\nb"]) {
      assertEquals(await watched(eve), { online: [user_id] });
    }
    await ann.join("presence-a", { member: { user_id: "ann" } });
    await eve.next(ADDED);
    await ann.join("news");
    await publish(two, "news", 1);
    await take(ann, 1);
    await ann.acknowledge();
    if (how === "dies") await cluster.kill(one);
    else await one.pusher.close();
    await assertLeft(cluster, two);
    await cluster.journal.next("channel_vacated");
    const frames = [await eve.next(), await eve.next(), await eve.next()];
    assertEquals(frames.map(({ event }) => event).sort(), [
      REMOVED,
      "pusher_internal:watchlist_events",
      "pusher_internal:watchlist_events",
    ]);
    assertEquals(await events(cluster, eve), []);
    // The others hear of each end once, and the session goes on elsewhere.
    assertEquals(
      cluster.journal.calls("member_removed", "channel_vacated").sort(),
      ["channel_vacated news", "member_removed presence-a ann"],
    );
    await publish(two, "news", 2);
    await using back = await two.connect({ path });
    await back.enter("news");
    const numbers: number[] = [];
    while (numbers.at(-1) !== 2) numbers.push(numberOf(await back.next("n")));
    // The server may not have kept, or not even got, the last acknowledgement.
    assertEquals(numbers, numbers.length === 1 ? [2] : [1, 2]);
  });
}

eachCluster(
  "a server that starts again takes no part in what it was before",
  async (cluster) => {
    const [one, two] = cluster.two();
    await using ann = await one.connect({ query: RECOVER });
    await ann.enter("news");
    await publish(two, "news", 1, 3);
    await take(ann, 1, 3);
    const recover = ann.positionOn("news");
    await cluster.kill(one);
    await cluster.eventually(() => two.pusher.channels(), { channels: {} });
    await publish(two, "news", 4, 5);
    const again = cluster.serve();
    await using back = await again.connect({ query: RECOVER });
    const { recovered } = await back.enter("news", { recover });
    assertEquals(recovered, true);
    assertEquals(await rest(back), [4, 5]);
    assertEquals(await two.pusher.channels(), { channels: { news: {} } });
  },
);

// ---- Auth endpoints that know no socket --------------------------------------

/** Posts a form to an auth endpoint. */
async function ask(
  server: TestServer,
  path: string,
  form: Record<string, string>,
): Promise<Answer> {
  const body = new URLSearchParams(form);
  const url = `${server.url}${path}`;
  return checked(await read(await fetch(url, { method: "POST", body })));
}

const AUTH_OPTIONS = {
  apps: TWO_APPS,
  authorize: () => true,
  authenticate: () => ({ id: "ann" }),
};

Deno.test("an auth endpoint signs for the app that the form or the path names", async () => {
  await using server = serve(AUTH_OPTIONS);
  // The socket may be one of another server's.
  const socket_id = "12.34";
  const channel_name = "private-a";
  const form = { socket_id, channel_name };
  for (const app of TWO_APPS) {
    const expected = { auth: channelAuth(app, socket_id, channel_name) };
    const signedUser = userAuth(app, socket_id, '{"id":"ann"}');
    for (
      const [tail, named] of [
        ["", { app_key: app.key }],
        ["", { app_id: app.id }],
        // The path is what the page's own configuration says.
        [`/${app.key}`, {}],
        [`/${app.id}`, {}],
        [`/${app.key}`, { app_key: "nobody", app_id: "nobody" }],
      ] as [string, Record<string, string>][]
    ) {
      const label = `${tail} ${JSON.stringify(named)}`;
      const channel = await ask(server, `/pusher/auth${tail}`, {
        ...form,
        ...named,
      });
      assertEquals([channel.status, channel.body], [200, expected], label);
      const several = { socket_id, "channel_name[]": channel_name };
      const all = await ask(server, `/pusher/auth${tail}`, {
        ...several,
        ...named,
      });
      assertEquals(all.body, { channels: { "private-a": expected } }, label);
      const user = await ask(server, `/pusher/user-auth${tail}`, {
        socket_id,
        ...named,
      });
      assertEquals(user.body.auth, signedUser, label);
    }
  }
});

Deno.test("an auth endpoint refuses an app that it does not know, and a socket without one", async () => {
  await using server = serve(AUTH_OPTIONS);
  const form = { socket_id: "12.34", channel_name: "private-a" };
  for (const route of ["auth", "user-auth"]) {
    for (
      const [tail, named, status] of [
        ["", {}, 403],
        ["", { app_key: "nobody" }, 404],
        ["", { app_id: "" }, 404],
        ["/nobody", {}, 404],
        ["/%ff", {}, 404],
        // The path comes first.
        ["/nobody", { app_key: "key-a" }, 404],
      ] as [string, Record<string, string>, number][]
    ) {
      const path = `/pusher/${route}${tail}`;
      const answer = await ask(server, path, { ...form, ...named });
      assertEquals(answer.status, status, `${path} ${JSON.stringify(named)}`);
      for (const { secret } of TWO_APPS) {
        assertEquals(answer.text.includes(secret), false);
      }
    }
    const deeper = await fetch(`${server.url}/pusher/${route}/a/b`, {
      method: "POST",
      body: new URLSearchParams(form),
    });
    assertEquals(deeper.status, 404);
    await deeper.body?.cancel();
  }
});

Deno.test("an auth endpoint that no app is named to signs for the app of the socket", async () => {
  await using server = serve(AUTH_OPTIONS);
  for (const app of TWO_APPS) {
    await using client = await server.connect({ app });
    const { socketId: socket_id } = client;
    const channel_name = "private-a";
    const { body } = await ask(server, "/pusher/auth", {
      socket_id,
      channel_name,
    });
    assertEquals(body, { auth: channelAuth(app, socket_id, channel_name) });
    await client.join(channel_name, body);
    // Another app's signature is none for this socket.
    const other = TWO_APPS.find(({ id }) => id !== app.id)!;
    const foreign = await ask(server, `/pusher/auth/${other.id}`, {
      socket_id,
      channel_name: "private-b",
    });
    assertEquals(
      await client.refused("private-b", foreign.body),
      "AuthError 401",
    );
  }
});

eachCluster(
  "a client gets its signature from a server that has not its socket",
  async (cluster) => {
    const [one, two] = cluster.two(AUTH_OPTIONS);
    const [app] = TWO_APPS;
    await using client = await one.connect({ app });
    const { body } = await ask(two, `/pusher/auth/${app.key}`, {
      socket_id: client.socketId,
      channel_name: "private-a",
    });
    await client.join("private-a", body);
    const signed = await ask(two, "/pusher/user-auth", {
      socket_id: client.socketId,
      app_key: app.key,
    });
    const { auth, user_data } = signed.body;
    await client.signIn(user_data, { auth });
    assertMatch(auth, /^key-a:/);
  },
);

Deno.test("with a single app the auth endpoints need to know no socket", async () => {
  await using server = serve({
    authorize: () => true,
    authenticate: () => ({ id: "ann" }),
  });
  const socket_id = "12.34";
  const { body } = await ask(server, "/pusher/auth", {
    socket_id,
    channel_name: "private-a",
  });
  assertEquals(body, { auth: channelAuth(APP, socket_id, "private-a") });
});
