/**
 * What the server does while its backplane is away, and when it is back. Redis itself
 * goes away in `redis_away_test.ts`.
 */
import {
  type BackplaneNode,
  BackplaneUnavailable,
  MemoryBackplane,
  Pusher,
  type PusherOptions,
} from "@glitz/pusher";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { AwayBackplane } from "../support/away.ts";
import { SlowBackplane } from "../support/backplanes.ts";
import { until } from "../support/client.ts";
import { ManualClock, turn } from "../support/clock.ts";
import { Pusher as OwnClient } from "@glitz/pusher/client";
import { serveHttp } from "../support/fallback.ts";
import { Inbox } from "../support/queue.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import {
  PATIENT,
  publish,
  range,
  RECOVER,
  rest,
  take,
} from "../support/recovering.ts";
import {
  APP,
  type Around,
  type Client,
  Journal,
  serve,
  type TestServer,
} from "../support/server.ts";
import { authorizedBy, sdk, StockClient } from "../support/stock.ts";
import { dataOf } from "../support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const BODY = { name: "e", channel: "news", data: "1" };

/** A server whose backplane can go away. */
function serveAway(options: PusherOptions = {}, around: Around = {}) {
  const backplane = new AwayBackplane();
  const given = { backplane, clientEvents: true, ...options };
  const server = serve(given, around);
  return { server, backplane, pusher: server.pusher, journal: server.journal };
}

/** Has the backplane go away, and takes the news of that. */
async function goAway(
  { server, backplane }: { server: TestServer; backplane: AwayBackplane },
  wasSent = false,
): Promise<void> {
  const cause = backplane.goAway(wasSent);
  const { error, during } = await server.journal.next("error");
  assertEquals([error, during], [cause, "reaching the backplane"]);
}

// ---- The program and the HTTP API -------------------------------------------

for (const wasSent of [false, true]) {
  const outcome = wasSent ? "may have been" : "was not";
  Deno.test(`a call that ${outcome} carried out rejects with BackplaneUnavailable, and over HTTP with 503`, async () => {
    const stage = serveAway();
    await using server = stage.server;
    const { pusher } = stage;
    await goAway(stage, wasSent);
    const calls: (() => Promise<unknown>)[] = [
      () => pusher.trigger("news", "e", 1),
      () => pusher.triggerBatch([{ channel: "news", name: "e", data: "1" }]),
      () => pusher.sendToUser("ann", "e", 1),
      () => pusher.terminateUserConnections("ann"),
      () => pusher.channels(),
      () => pusher.channel("news"),
      () => pusher.users("presence-a"),
    ];
    for (const call of calls) {
      const error = await assertRejects(call, BackplaneUnavailable);
      assertEquals(error.wasSent, wasSent);
    }
    for (
      const [method, path, body] of [
        ["POST", "/events", BODY],
        ["POST", "/batch_events", { batch: [BODY] }],
        ["POST", "/users/ann/terminate_connections", {}],
        ["GET", "/channels", undefined],
        ["GET", "/channels/news", undefined],
        ["GET", "/channels/presence-a/users", undefined],
      ] as const
    ) {
      const answer = await server.api(method, path, body ? { body } : {});
      assertEquals(answer.status, 503, path);
      assertEquals(answer.headers.get("retry-after"), "1");
      const isUnsure = wasSent && method === "POST";
      assertMatch(answer.body.error, isUnsure ? /twice/ : /Try again later/);
      assert(!answer.text.includes("Nobody is there"), answer.text);
    }
    // Each of these calls has said so itself.
    assertEquals(stage.journal.drain("error"), []);
    stage.backplane.comeBack();
    await pusher.trigger("news", "e", 1);
  });
}

Deno.test("a call that is carried out in part says that it may have been carried out", async () => {
  const backplane = new SlowBackplane();
  await using server = serve({ backplane });
  const { pusher } = server;
  const inner = backplane.publish.bind(backplane);
  const away = new BackplaneUnavailable("Nobody is there", { wasSent: false });
  backplane.publish = (app, channel, message) =>
    channel === "far" ? Promise.reject(away) : inner(app, channel, message);
  backplane.occupancy = () => Promise.reject(away);
  const batch = ["far", "near"].map((channel) => ({
    ...{ channel, name: "e", data: "1" },
  }));
  for (
    const [call, wasSent] of [
      [() => pusher.trigger("far", "e", 1), false],
      [() => pusher.trigger(["far", "near"], "e", 1), true],
      [() => pusher.trigger(["near", "far"], "e", 1), true],
      [() => pusher.triggerBatch(batch), true],
      // It is published, only its channel cannot be counted.
      [
        () => pusher.trigger("near", "e", 1, { info: "subscription_count" }),
        true,
      ],
    ] as const
  ) {
    const error = await assertRejects(call, BackplaneUnavailable);
    assertEquals(error.wasSent, wasSent, String(call));
  }
  server.journal.drain("error");
});

Deno.test("readiness follows the backplane, and each change is told once", async () => {
  const stage = serveAway();
  await using server = stage.server;
  const { pusher, journal } = stage;
  await using client = await server.connect();
  await client.join("news");
  for (let round = 0; round < 3; round++) {
    await goAway(stage);
    assertEquals(pusher.stats().ready, false);
    // All that fails now fails because of that.
    for (let i = 0; i < 20; i++) {
      pusher.trigger("news", "e", i).catch(() => {});
      await using visitor = await server.connect();
      visitor.requestSubscribe("news");
      await visitor.framesUntilPong();
    }
    await client.silence();
    stage.backplane.comeBack();
    assertEquals(pusher.stats().ready, true);
    await publish(server, "news", round);
    await take(client, round);
  }
  assertEquals(journal.drain("error"), []);
  const changes = journal.drain("backplane").map(({ up }) => up);
  assertEquals(changes, [false, true, false, true, false, true]);
});

Deno.test("of calls that fail though the backplane is up, few are told", async () => {
  const stage = serveAway({ clock: new ManualClock() });
  await using server = stage.server;
  stage.backplane.choke();
  for (let i = 0; i < 100; i++) {
    await assertRejects(() => stage.pusher.trigger("news", "e", i));
  }
  assertEquals(stage.journal.drain("error").length, 1);
  stage.backplane.clear();
  await using client = await server.connect();
  await client.silence();
});

// ---- Clients ----------------------------------------------------------------

Deno.test("subscriptions and sign-ins wait for the backplane, and the connection goes on", async () => {
  const stage = serveAway();
  await using server = stage.server;
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("private-a");
  await bob.join("private-a");
  await goAway(stage);
  ann.requestSubscribe("news");
  ann.requestSubscribe("presence-a", { member: { user_id: "ann" } });
  ann.requestSignIn({ id: "ann", watchlist: ["bob"] });
  // Pings are answered meanwhile, and nothing else is said.
  await ann.silence();
  await bob.silence();
  stage.backplane.comeBack();
  assertEquals((await ann.next(SUCCEEDED)).channel, "news");
  assertEquals((await ann.next(SUCCEEDED)).channel, "presence-a");
  await ann.next("pusher:signin_success");
  await ann.next("pusher_internal:watchlist_events");
  await stage.pusher.trigger("news", "e", 1);
  await stage.pusher.sendToUser("ann", "e", 2);
  for (const n of [1, 2]) assertEquals((await ann.next("e")).data, `${n}`);
  await ann.silence();
  assertEquals(stage.journal.drain("refused"), []);
});

Deno.test("what waits is what the client asked for last", async () => {
  const stage = serveAway();
  await using server = stage.server;
  await using client = await server.connect();
  await goAway(stage);
  client.requestSubscribe("one");
  client.requestSubscribe("two");
  client.requestSubscribe("presence-a", { member: { user_id: "1" } });
  client.unsubscribe("two");
  client.requestSubscribe("presence-a", { member: { user_id: "2" } });
  client.requestSubscribe("two");
  client.unsubscribe("one");
  await client.silence();
  stage.backplane.comeBack();
  const first = await client.next(SUCCEEDED);
  assertEquals(first.channel, "presence-a");
  assertEquals(dataOf(first).presence.ids, ["2"]);
  assertEquals((await client.next(SUCCEEDED)).channel, "two");
  await client.silence();
  assertEquals(
    Object.keys((await stage.pusher.channels()).channels).sort(),
    ["presence-a", "two"],
  );
});

Deno.test("a subscription that needs the user waits for the sign-in before it", async () => {
  const stage = serveAway();
  await using server = stage.server;
  await using client = await server.connect();
  await goAway(stage);
  client.requestSignIn({ id: "ann" });
  const data = {
    auth: await authFor(client, "presence-a"),
    channel: "presence-a",
  };
  client.send({ event: "pusher:subscribe", data });
  await client.silence();
  stage.backplane.comeBack();
  await client.next("pusher:signin_success");
  assertEquals(dataOf(await client.next(SUCCEEDED)).presence.ids, ["ann"]);
});

/** A signature for a presence channel that names no member. */
function authFor(client: Client, channel: string): string {
  const signer = new Pusher({ key: client.app.key, secret: client.app.secret });
  return signer.authorizeChannel(client.socketId, channel).auth;
}

Deno.test("a subscription that fails while the backplane is up is tried again", async () => {
  const clock = new ManualClock();
  const stage = serveAway({ clock });
  await using server = stage.server;
  await using client = await server.connect();
  stage.backplane.choke();
  client.requestSubscribe("news");
  await client.silence();
  stage.backplane.clear();
  clock.pass(1_000);
  await client.next(SUCCEEDED);
  assertEquals(stage.journal.drain("error").length, 1);
});

Deno.test("a client that waits for long is sent elsewhere with a code after which it returns", async () => {
  const clock = new ManualClock();
  const stage = serveAway({ clock, ...PATIENT });
  await using server = stage.server;
  await using waiting = await server.connect();
  await using content = await server.connect();
  await content.join("news");
  await goAway(stage);
  waiting.requestSubscribe("news");
  await waiting.silence();
  clock.pass(29_999);
  await waiting.silence();
  clock.pass(30_001);
  const { code, reason } = await waiting.turnedAway();
  assertEquals(code, 4100);
  assertMatch(reason, /backplane/);
  // Nobody is closed who wants nothing.
  await content.silence();
  stage.backplane.comeBack();
  await publish(server, "news", 1);
  await take(content, 1);
});

Deno.test("clients that wait are sent elsewhere one by one", async () => {
  const clock = new ManualClock();
  const stage = serveAway({ clock, ...PATIENT });
  await using server = stage.server;
  await goAway(stage);
  await using clients = await server.connectAll(60);
  await Promise.all([...clients].map((client) => {
    client.requestSubscribe("news");
    return client.framesUntilPong();
  }));
  const closed: number[] = [];
  clock.pass(30_000);
  for (let second = 30; second < 60; second++) {
    clock.pass(1_000);
    closed.push(stage.journal.drain("disconnected").length);
    await turn();
  }
  for (const client of clients) await client.turnedAway();
  // An even pace is two each second.
  const most = Math.max(...closed);
  assert(most <= 12, `${closed}`);
});

Deno.test("a client that waits is not closed for good for want of time to authorize", async () => {
  const clock = new ManualClock();
  const stage = serveAway({ clock, authorizationTimeoutMs: 5_000 });
  await using server = stage.server;
  await using client = await server.connect();
  await using idle = await server.connect();
  await goAway(stage);
  client.requestSubscribe("private-a");
  await client.silence();
  for (let i = 0; i < 20; i++) clock.pass(500);
  assertEquals((await client.turnedAway()).code, 4100);
  assertEquals((await idle.turnedAway()).code, 4009);
});

Deno.test("what waits for one client is bounded", async () => {
  const stage = serveAway({
    limits: { bufferedBytes: 20_000, frameBytes: 8_000 },
  });
  await using server = stage.server;
  await using client = await server.connect();
  await goAway(stage);
  const auth = "x".repeat(5_000);
  for (const channel of ["a", "b", "c"]) {
    client.send({ event: "pusher:subscribe", data: { channel, auth } });
  }
  await client.silence();
  // The same again takes no more room.
  for (let i = 0; i < 10; i++) {
    client.send({ event: "pusher:subscribe", data: { channel: "a", auth } });
    await client.silence();
  }
  client.send({ event: "pusher:subscribe", data: { channel: "d", auth } });
  assertEquals((await client.turnedAway()).code, 4100);
});

Deno.test("when the backplane is back, few clients are served at a time", async () => {
  const stage = serveAway();
  await using server = stage.server;
  await goAway(stage);
  await using clients = await server.connectAll(150);
  await Promise.all([...clients].map((client) => {
    client.requestSubscribe("one");
    client.requestSubscribe("two");
    return client.framesUntilPong();
  }));
  stage.backplane.mostPending = 0;
  stage.backplane.comeBack();
  for (const client of clients) {
    for (const channel of ["one", "two"]) {
      assertEquals((await client.next(SUCCEEDED)).channel, channel);
    }
  }
  assert(stage.backplane.mostPending <= 64, `${stage.backplane.mostPending}`);
});

Deno.test("a client that goes while it waits leaves nothing behind", async () => {
  const clock = new ManualClock();
  const stage = serveAway({ clock });
  await using server = stage.server;
  const before = clock.waiting;
  await goAway(stage);
  const client = await server.connect();
  client.requestSubscribe("news");
  await client.silence();
  await client.close();
  await stage.journal.next("disconnected");
  await until(() => clock.waiting === before);
  stage.backplane.comeBack();
  assertEquals((await stage.pusher.channels()).channels, {});
});

Deno.test("a client event meanwhile is refused with 4301, and its sender stays", async () => {
  for (const wasSent of [false, true]) {
    for (
      const clientEvents of [true, () => true, () => Promise.resolve(true)]
    ) {
      const stage = serveAway({ clientEvents });
      await using server = stage.server;
      await using ann = await server.connect();
      await ann.join("private-a");
      await goAway(stage, wasSent);
      ann.send({ event: "client-x", channel: "private-a", data: 1 });
      const { channel, data } = await ann.next("pusher:error");
      const { code, message } = data as { code: number; message: string };
      assertEquals([channel, code], ["private-a", 4301]);
      assertMatch(message, wasSent ? /may not/ : /was not relayed/);
      await ann.silence();
      stage.backplane.comeBack();
    }
  }
});

Deno.test("a recovering client that subscribes meanwhile gets what it has missed", async () => {
  const stage = serveAway();
  await using server = stage.server;
  const first = await server.connect({ query: RECOVER });
  await first.enter("news");
  await publish(server, "news", 1, 3);
  await take(first, 1, 3);
  const recover = first.positionOn("news");
  await first.close();
  await publish(server, "news", 4, 6);
  await goAway(stage);
  await using back = await server.connect({ query: RECOVER });
  back.send({ event: "pusher:subscribe", data: { channel: "news", recover } });
  await back.silence();
  stage.backplane.comeBack();
  assertEquals((await back.next(SUCCEEDED)).recovered, true);
  await take(back, 4, 6);
});

Deno.test("the stock client is subscribed and signed in when the backplane is back, without a reconnect", async () => {
  const stage = serveAway();
  await using server = stage.server;
  await goAway(stage);
  using stock = new StockClient(server, authorizedBy(sdk(server)));
  await stock.connection.until("connected");
  const news = stock.subscribe("news");
  const secret = stock.subscribe("private-a");
  await stock.fence();
  stage.backplane.comeBack();
  await news.until("pusher:subscription_succeeded");
  await secret.until("pusher:subscription_succeeded");
  await stage.pusher.trigger("private-a", "e", { n: 1 });
  assertEquals(await secret.data("e"), { n: 1 });
  assertEquals(stage.journal.drain("disconnected"), []);
});

Deno.test("the stock client comes back by itself when it was sent elsewhere", async () => {
  const clock = new ManualClock();
  const stage = serveAway({ clock });
  await using server = stage.server;
  await goAway(stage);
  using stock = new StockClient(server, authorizedBy(sdk(server)));
  await stock.connection.until("connected");
  const inbox = stock.subscribe("private-a");
  await stock.fence();
  clock.pass(60_000);
  await stock.connection.until("connecting");
  await stock.connection.until("connected");
  await stock.fence();
  stage.backplane.comeBack();
  await inbox.until("pusher:subscription_succeeded");
  await stage.pusher.trigger("private-a", "e", { n: 1 });
  assertEquals(await inbox.data("e"), { n: 1 });
});

for (const transport of ["xhr_streaming", "xhr_polling"] as const) {
  Deno.test(`pusher-js over ${transport} is subscribed when the backplane is back`, async () => {
    const backplane = new AwayBackplane();
    await using server = serveHttp({ backplane });
    await goAway({ server, backplane });
    using stock = new StockClient(server, {
      ...authorizedBy(sdk(server)),
      httpHost: "127.0.0.1",
      httpPort: server.port,
      enabledTransports: [transport],
    });
    await stock.connection.until("connected");
    const inbox = stock.subscribe("private-a");
    await backplane.asked("join");
    backplane.comeBack();
    await inbox.until("pusher:subscription_succeeded");
    await server.pusher.trigger("private-a", "e", { n: 1 });
    assertEquals(await inbox.data("e"), { n: 1 });
  });
}

for (const transport of ["ws", "xhr_streaming", "xhr_polling"] as const) {
  Deno.test(`our client over ${transport} is subscribed and signed in when the backplane is back`, async () => {
    const backplane = new AwayBackplane();
    await using server = serveHttp({
      backplane,
      authorize: () => true,
      authenticate: () => ({ id: "ann" }),
    });
    await goAway({ server, backplane });
    const endpoint = (name: string) => `${server.url}/pusher/${name}`;
    const client = new OwnClient(APP.key, {
      wsHost: "127.0.0.1",
      wsPort: server.port,
      forceTLS: false,
      enabledTransports: [transport],
      channelAuthorization: { endpoint: endpoint("auth") },
      userAuthentication: { endpoint: endpoint("user-auth") },
    });
    try {
      const inbox = new Inbox(client.subscribe("private-a"));
      client.signin();
      // For the user; what follows waits for that.
      await backplane.asked("join");
      backplane.comeBack();
      await inbox.until("pusher:subscription_succeeded");
      await client.user.signinDonePromise;
      const mine = new Inbox(client.user);
      await server.pusher.sendToUser("ann", "e", { n: 2 });
      assertEquals(await mine.data("e"), { n: 2 });
      await server.pusher.trigger("private-a", "e", { n: 1 });
      assertEquals(await inbox.data("e"), { n: 1 });
    } finally {
      client.disconnect();
    }
  });
}

Deno.test("our client comes back by itself when it was sent elsewhere", async () => {
  const clock = new ManualClock();
  const stage = serveAway({ clock, ...PATIENT, authorize: () => true });
  await using server = stage.server;
  await goAway(stage);
  const client = new OwnClient(APP.key, {
    wsHost: "127.0.0.1",
    wsPort: server.port,
    forceTLS: false,
    channelAuthorization: { endpoint: `${server.url}/pusher/auth` },
  });
  try {
    const connection = new Inbox(client.connection);
    const inbox = new Inbox(client.subscribe("private-a"));
    await stage.backplane.asked("join");
    clock.pass(60_000);
    await connection.until("connecting");
    await stage.backplane.asked("join", 2);
    stage.backplane.comeBack();
    await inbox.until("pusher:subscription_succeeded");
    await stage.pusher.trigger("private-a", "e", { n: 1 });
    assertEquals(await inbox.data("e"), { n: 1 });
  } finally {
    client.disconnect();
  }
});

Deno.test("a session that could not be kept is kept when the backplane is back", async () => {
  const memory = new MemoryBackplane();
  const backplane = new AwayBackplane(memory);
  await using one = serve({ backplane });
  await using two = serve({ backplane: memory.peer() }, {
    journal: new Journal(),
  });
  const path = `/r/${crypto.randomUUID()}`;
  const first = await one.connect({ path });
  await first.framesUntilPong();
  backplane.fails = (method) => method === "keep";
  await goAway({ server: one, backplane });
  await first.enter("news");
  await backplane.asked("keep");
  await first.close();
  await backplane.asked("keep", 2);
  await publish(two, "news", 1, 3);
  backplane.comeBack();
  await backplane.succeeded("keep");
  await using second = await two.connect({ path });
  await second.enter("news");
  await take(second, 1, 3);
  await second.acknowledge();
});

// ---- Start and close --------------------------------------------------------

Deno.test("a start that fails is tried again, and told once for each reason", async () => {
  const clock = new ManualClock();
  const backplane = new MemoryBackplane();
  const start = backplane.start.bind(backplane);
  const reasons = ["Nobody is there", "Nobody is there", "Wrong password"];
  let starts = 0;
  backplane.start = async (node: BackplaneNode) => {
    starts++;
    await turn();
    const reason = reasons.shift();
    if (reason === undefined) return start(node);
    throw new BackplaneUnavailable(reason, { wasSent: false });
  };
  await using server: TestServer = serve({ backplane, clock });
  const { pusher, journal } = server;
  const triggered = pusher.trigger("news", "e", 1);
  const waiting = server.api("POST", "/events", { body: BODY });
  await assertRejects(() => triggered, BackplaneUnavailable, "Nobody");
  assertEquals((await waiting).status, 503);
  const told = async () => {
    const { error, during } = await journal.next("error");
    assertEquals(during, "starting the backplane");
    return (error as Error).message;
  };
  assertEquals(await told(), "Nobody is there");
  for (const count of [2, 3]) {
    clock.pass(5_000);
    await until(() => starts === count);
    for (let i = 0; i < 5; i++) await turn();
    // Between two attempts nothing waits.
    await assertRejects(() => pusher.trigger("news", "e", 1));
    assertEquals(pusher.stats().ready, false);
  }
  assertEquals(await told(), "Wrong password");
  clock.pass(5_000);
  assertEquals((await journal.next("backplane")).up, true);
  assertEquals(pusher.stats().ready, true);
  await using client = await server.connect();
  await client.join("news");
  await publish(server, "news", 1);
  await take(client, 1);
  assertEquals(journal.drain("error"), []);
});

Deno.test("a server closes while its backplane is away", async () => {
  // What the backplane does not hear of does not end.
  const stage = serveAway({}, { journal: new Journal() });
  await using server = stage.server;
  await using clients = await server.connectAll(20);
  for (const client of clients) await client.join("news");
  await goAway(stage);
  for (const client of clients) client.requestSubscribe("more");
  await clients[0]?.silence();
  await within(DEADLINE_MS, "end of close", stage.pusher.close());
  assertEquals(stage.journal.drain("error"), []);
});

Deno.test("recovering clients that stay lose nothing while the backplane is away", async () => {
  const stage = serveAway();
  await using server = stage.server;
  await using client = await server.connect({ query: RECOVER });
  await client.enter("news");
  await publish(server, "news", 1, 3);
  await goAway(stage);
  await assertRejects(() => publish(server, "news", 0));
  stage.backplane.comeBack();
  await publish(server, "news", 4, 5);
  assertEquals(await rest(client), range(1, 5));
});
