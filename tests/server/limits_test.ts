/**
 * Limits, each at its figure and one past it, and clients that are silent, too
 * slow or gone.
 */
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { SlowBackplane } from "../support/backplanes.ts";
import { ManualClock, REAL_CLOCK } from "../support/clock.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { clientOf, serveHttp } from "../support/fallback.ts";
import {
  APP,
  type Client,
  leave,
  MemoryTransport,
  serve,
  TWO_APPS,
} from "../support/server.ts";
import { authorizedBy, sdk, StockClient } from "../support/stock.ts";
import { signIn } from "../support/users.ts";
import {
  type App,
  channelAuth,
  dataOf,
  type Frame,
  wireFrame,
} from "../support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";

// ---- Connections ------------------------------------------------------------

Deno.test("limits.connections counts the live connections of an app", async () => {
  const apps = [APP, {
    id: "b",
    key: "b",
    secret: "b",
    limits: { connections: 1 },
  }];
  await using server = serve({ apps, limits: { connections: 2 } });
  const [a, b] = apps as [App, App];
  await using one = await server.connect();
  await using _two = await server.connect();
  assertEquals((await server.turnsAway()).code, 4004);
  await using _other = await server.connect({ app: b });
  assertEquals((await server.turnsAway({ app: b })).code, 4004);
  await one.close();
  await server.journal.next("disconnected");
  await using _three = await server.connect({ app: a });
  assertEquals((await server.turnsAway()).code, 4004);
});

Deno.test("limits.connections holds for sockets that open at the same time", async () => {
  await using server = serve({ limits: { connections: 5 } });
  const clients = Array.from({ length: 20 }, () => server.dial());
  const first = await Promise.all(clients.map((client) => client.next()));
  const established = first.filter(({ event }) =>
    event === "pusher:connection_established"
  );
  assertEquals(established.length, 5);
  await Promise.all(clients.map((client) => client.close()));
  await using _again = await server.connect();
});

// ---- Connections that have to authorize --------------------------------------

const PATIENT = { authorizationTimeoutMs: 3_600_000 };

/** How a client may authorize, and whether that counts. */
const WAYS: [way: string, authorizes: boolean, ask: (c: Client) => void][] = [
  ["private", true, (client) => client.requestSubscribe("private-a")],
  ["encrypted", true, (client) => {
    client.requestSubscribe("private-encrypted-a");
  }],
  ["private cache", true, (client) => {
    client.requestSubscribe("private-cache-a");
  }],
  ["presence", true, (client) => {
    client.requestSubscribe("presence-a", { member: { user_id: "ann" } });
  }],
  ["sign-in", true, (client) => client.requestSignIn({ id: "ann" })],
  ["public", false, (client) => client.requestSubscribe("news")],
  ["cache", false, (client) => client.requestSubscribe("cache-a")],
  ["wrong signature", false, (client) => {
    client.requestSubscribe("private-a", { auth: "app-key:0" });
  }],
  ["no member", false, (client) => client.requestSubscribe("presence-a")],
  ["wrong sign-in", false, (client) => {
    client.requestSignIn({ id: "ann" }, { auth: "app-key:0" });
  }],
  ["own channel", false, (client) => {
    client.requestSubscribe("#server-to-user-ann");
  }],
];

Deno.test("strangers who do not authorize take no place of limits.connections", async () => {
  await using server = serve({ ...PATIENT, limits: { connections: 2 } });
  await using strangers = await server.connectAll(5);
  for (const stranger of strangers) await stranger.join("news");
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("private-a");
  await signIn(bob, { id: "bob" });
  // Authorizing twice takes one place.
  await signIn(ann, { id: "ann" });
  await ann.join("presence-a", { member: { user_id: "ann" } });
  const { connections, unauthorizedConnections } = server.pusher.stats();
  assertEquals([connections, unauthorizedConnections], [7, 5]);
  // Nobody gives the place back while the connection lives.
  ann.unsubscribe("private-a");
  ann.unsubscribe("presence-a");
  await using third = await server.connect();
  third.requestSubscribe("private-a");
  assertEquals((await third.turnedAway()).code, 4100);
  await server.journal.next("disconnected");
  await leave(server, ann);
  await using fourth = await server.connect();
  await fourth.join("private-a");
  for (const stranger of strangers) await stranger.silence();
});

for (const [way, authorizes, ask] of WAYS) {
  const what = authorizes ? "takes a place of" : "does not touch";
  Deno.test(`authorizing by ${way} ${what} limits.connections`, async () => {
    await using server = serve({
      ...PATIENT,
      limits: { connections: 1 },
      authenticate: () => null,
    });
    await using first = await server.connect();
    await using second = await server.connect();
    ask(first);
    await first.next();
    const unauthorized = server.pusher.stats().unauthorizedConnections;
    assertEquals(unauthorized, authorizes ? 1 : 2);
    second.requestSubscribe("private-b");
    if (authorizes) assertEquals((await second.turnedAway()).code, 4100);
    else await second.next("pusher_internal:subscription_succeeded");
  });
}

Deno.test("a client that authorizes above limits.connections is closed with 4100, and nobody hears of it", async () => {
  for (const [way, authorizes, ask] of WAYS) {
    await using server = serve({ ...PATIENT, limits: { connections: 1 } });
    await using member = await server.connect();
    await member.join("presence-a", { member: { user_id: "zoë" } });
    await using late = await server.connect();
    ask(late);
    if (!authorizes) {
      await late.next();
      continue;
    }
    const { code, reason } = await late.turnedAway();
    assertEquals(code, 4100, way);
    assertMatch(reason, /limit connections is 1, try again/);
    const { hook: _, ...refused } = await server.journal.next("refused");
    assertEquals(refused, {
      app: APP.id,
      what: "connection",
      reason,
      code,
      socketId: late.socketId,
    });
    await member.silence();
    assertEquals(server.journal.calls("member_added", "subscribed"), [
      "member_added presence-a zoë",
      "subscribed presence-a zoë",
    ]);
  }
});

Deno.test("limits.unauthorizedConnections closes further connections with 4100", async () => {
  await using server = serve({
    ...PATIENT,
    limits: { unauthorizedConnections: 2 },
  });
  await using one = await server.connect();
  await using two = await server.connect();
  const { code, reason } = await server.turnsAway();
  assertEquals(code, 4100);
  assertMatch(reason, /limit unauthorizedConnections is 2, try again/);
  assertEquals((await server.journal.next("refused")).what, "connection");
  // One authorizes, and one goes: each makes room.
  await one.join("private-a");
  await using _three = await server.connect();
  assertEquals((await server.turnsAway()).code, 4100);
  await leave(server, two);
  await using _four = await server.connect();
  assertEquals((await server.turnsAway()).code, 4100);
  await one.join("private-b");
});

Deno.test("without authorizationTimeoutMs no connection is unauthorized", async () => {
  const demanding = { ...TWO_APPS[0], ...PATIENT };
  const open = { ...TWO_APPS[1], limits: { connections: 1 } };
  const limits = { unauthorizedConnections: 0 };
  await using server = serve({ apps: [demanding, open], limits });
  assertEquals((await server.turnsAway({ app: demanding })).code, 4100);
  await using _one = await server.connect({ app: open });
  assertEquals(server.pusher.stats().unauthorizedConnections, 0);
  assertEquals((await server.turnsAway({ app: open })).code, 4004);
});

Deno.test("places are those of one app", async () => {
  const apps = TWO_APPS.map((app) => ({
    ...app,
    limits: { connections: 1, unauthorizedConnections: 1 },
  }));
  await using server = serve({ ...PATIENT, apps });
  for (const app of apps) {
    await using client = await server.connect({ app });
    assertEquals((await server.turnsAway({ app })).code, 4100);
    await client.join("private-a");
    await using late = await server.connect({ app });
    late.requestSubscribe("private-a");
    assertEquals((await late.turnedAway()).code, 4100);
    await client.join("private-b");
    await leave(server, client);
  }
});

Deno.test("the last place goes to one of the clients that authorize at the same time", async () => {
  const backplane = new SlowBackplane();
  await using server = serve({
    ...PATIENT,
    backplane,
    limits: { connections: 3 },
  });
  await using clients = await server.connectAll(10);
  const outcomes = clients.map(async (client, i) => {
    if (i % 2 === 0) client.requestSubscribe(`private-${i}`);
    else client.requestSignIn({ id: `user-${i}` });
    const frame = await client.next();
    return frame.event === "pusher:error" ? dataOf(frame).code : "in";
  });
  const told = (await Promise.all(outcomes)).sort();
  assertEquals(told, [...Array(7).fill(4100), "in", "in", "in"]);
  const { connections, unauthorizedConnections } = server.pusher.stats();
  assertEquals([connections, unauthorizedConnections], [3, 0]);
});

Deno.test("apps[].authorizationTimeoutMs is that app's own, or the server's", async () => {
  const clock = new ManualClock();
  const [hasty, ordinary] = TWO_APPS;
  const apps = [{ ...hasty, authorizationTimeoutMs: 5_000 }, ordinary];
  await using server = serve({ clock, apps, authorizationTimeoutMs: 30_000 });
  await using early = await server.connect({ app: hasty });
  await using late = await server.connect({ app: ordinary });
  await using staying = await server.connect({ app: hasty });
  await staying.join("private-a");
  clock.pass(4_000);
  await early.silence();
  clock.pass(3_000);
  assertEquals((await early.turnedAway()).code, 4009);
  await late.silence();
  clock.pass(25_000);
  assertEquals((await late.turnedAway()).code, 4009);
  assertEquals(server.pusher.stats().unauthorizedConnections, 0);
  await staying.silence();
});

Deno.test("clients over HTTP count as those with sockets do", async () => {
  await using server = serveHttp({
    ...PATIENT,
    limits: { connections: 1, unauthorizedConnections: 1 },
  });
  await using first = clientOf(server);
  await first.open("xhr_streaming");
  assertEquals((await server.turnsAway()).code, 4100);
  await using refused = clientOf(server);
  await refused.receive("xhr");
  assertEquals(await refused.line(), "o");
  assertEquals(dataOf(await refused.frame("pusher:error")).code, 4100);
  await first.join("private-a");
  await using late = clientOf(server);
  await late.open("xhr_streaming");
  await late.subscribe("private-a");
  assertEquals(dataOf(await late.frame("pusher:error")).code, 4100);
  await first.join("private-b");
});

Deno.test("pusher-js waits for a place of limits.connections, and gets it", async () => {
  await using server = serve({ ...PATIENT, limits: { connections: 1 } });
  const options = authorizedBy(sdk(server));
  await using ann = await server.connect();
  await ann.join("private-a");
  using stock = new StockClient(server, options);
  const channel = stock.subscribe("private-a");
  const { code } = await server.journal.next("refused");
  assertEquals(code, 4100);
  await ann.close();
  await channel.until("pusher:subscription_succeeded");
});

Deno.test("a session that finds no place loses nothing by that", async () => {
  await using server = serve({ ...PATIENT, limits: { connections: 1 } });
  const path = `/r/${crypto.randomUUID()}`;
  const away = await server.connect({ path });
  await away.enter("private-a");
  await leave(server, away);
  await using other = await server.connect();
  await other.join("private-b");
  await server.pusher.trigger("private-a", "n", 1);
  await using refused = await server.connect({ path });
  refused.requestSubscribe("private-a");
  assertEquals((await refused.turnedAway()).code, 4100);
  await server.journal.next("disconnected");
  await leave(server, other);
  await using back = await server.connect({ path });
  await back.enter("private-a");
  assertEquals((await back.next("n")).data, "1");
});

// ---- Sockets ----------------------------------------------------------------

Deno.test("limits.sockets counts all sockets of the server", async () => {
  const apps = [APP, { id: "b", key: "b", secret: "b" }];
  await using server = serve({ apps, limits: { sockets: 2 } });
  await using one = await server.connect();
  await using _two = await server.connect({ app: apps[1] as App });
  assertEquals((await server.turnsAway()).code, 4100);
  await one.close();
  await server.journal.next("disconnected");
  // The refused socket counts until it is closed, which may be a moment yet.
  for (;;) {
    await using client = server.dial();
    const { event } = await client.next();
    if (event === "pusher:connection_established") break;
  }
});

Deno.test("limits.urlLength bounds the URL of a WebSocket, which the runtime keeps", async () => {
  const apps = [APP, {
    id: "b",
    key: "b",
    secret: "b",
    limits: { urlLength: 100 },
  }];
  await using server = serve({ apps });
  const head = async (key: string, length: number) => {
    using raw = await server.raw();
    const path = `/app/${key}?was=`;
    const url = `http://127.0.0.1${path}`;
    return await raw.upgrade(path + "1".repeat(length - url.length));
  };
  assertMatch(await head(APP.key, 8_192), /^HTTP\/1.1 101 /);
  const refused = await head(APP.key, 8_193);
  assertMatch(refused, /^HTTP\/1.1 414 /);
  assertMatch(await head("b", 100), /^HTTP\/1.1 101 /);
  assertMatch(await head("b", 101), /^HTTP\/1.1 414 /);
  await using _client = await server.connect();
});

Deno.test("sockets of refused clients that do not close count, up to a 503", async () => {
  await using server = serve({ limits: { sockets: 1 } });
  await using one = await server.connect();
  using refused = await server.raw();
  assertMatch(await refused.upgrade("/app/app-key"), /^HTTP\/1.1 101 /);
  assertEquals(dataOf(await refused.readText()).code, 4100);
  using further = await server.raw();
  const head = await further.upgrade("/app/app-key");
  assertMatch(head, /^HTTP\/1.1 503 .*^connection: close\r$/ims);
  refused.drop();
  await one.close();
  for (;;) {
    await using client = server.dial();
    const { event } = await client.next().catch(() => ({ event: "" }));
    if (event === "pusher:connection_established") break;
  }
});

Deno.test("limits.channelsPerConnection counts what is subscribed now", async () => {
  await using server = serve({ limits: { channelsPerConnection: 2 } });
  await using client = await server.connect();
  await client.join("a");
  await client.join("presence-b", { member: { user_id: "u" } });
  assertEquals(await client.refused("c"), "LimitReached 403");
  assertEquals(await client.refused("private-c"), "LimitReached 403");
  // The signature, which costs more to check, comes after the limit.
  const unsigned = { auth: "app-key:0" };
  assertEquals(
    await client.refused("private-c", unsigned),
    "LimitReached 403",
  );
  await client.join("a");
  client.unsubscribe("a");
  await client.join("c");
  await using other = await server.connect();
  await other.join("a");
  await using defaults = serve();
  await using eager = await defaults.connect();
  for (let i = 0; i < 200; i++) eager.requestSubscribe(`c${i}`);
  assertEquals((await eager.framesUntilPong()).at(-1)?.event, SUCCEEDED);
  assertEquals(await eager.refused("c200"), "LimitReached 403");
});

// ---- Frames -----------------------------------------------------------------

Deno.test("limits.frameBytes drops a larger frame with 4300", async () => {
  await using server = serve();
  await using client = await server.connect();
  const ping = (bytes: number, filler: string) => {
    const [head, tail] = ['{"event":"pusher:ping","data":"', '"}'];
    const each = new TextEncoder().encode(filler).length;
    const count = Math.floor((bytes - head.length - tail.length) / each);
    const rest = bytes - head.length - tail.length - count * each;
    return head + filler.repeat(count) + tail + " ".repeat(rest);
  };
  for (const filler of ["x", "ü", "✓", "😀"]) {
    client.send(ping(65_536, filler));
    await client.next("pusher:pong");
    client.send(ping(65_537, filler));
    assertEquals(dataOf(await client.next("pusher:error")).code, 4300);
  }
  client.send(JSON.stringify({ event: "pusher:ping" }).padEnd(65_537));
  assertEquals(dataOf(await client.next("pusher:error")).code, 4300);
  await client.silence();
});

Deno.test("limits.framesBurst and framesPerSecond drop frames, with 4300 for the first", async () => {
  const limits = { framesBurst: 20, framesPerSecond: 10 };
  await using server = serve({ limits });
  await using client = await server.connect();
  const start = performance.now();
  for (let i = 0; i < 35; i++) client.send({ event: "pusher:ping" });
  let pongs = 0;
  while ((await client.next()).event === "pusher:pong") pongs++;
  const refilled = Math.ceil((performance.now() - start) / 100);
  assert(pongs >= 20 && pongs <= 20 + refilled, `${pongs} of ${refilled}`);
  // In time there is room again, on a connection that has stayed open.
  while (performance.now() - start < 600) {
    await (await fetch(server.url)).body?.cancel();
  }
  client.send({ event: "pusher:subscribe", data: { channel: "news" } });
  while ((await client.next()).event !== SUCCEEDED);
});

Deno.test("a client that goes on after limits.framesBurst is closed with 4100", async () => {
  const limits = { framesBurst: 20, framesPerSecond: 0 };
  await using server = serve({ limits });
  await using client = await server.connect();
  for (let i = 0; i < 41; i++) client.send({ event: "pusher:ping" });
  for (let i = 0; i < 20; i++) await client.next("pusher:pong");
  assertEquals(dataOf(await client.next("pusher:error")).code, 4300);
  assertEquals((await client.turnedAway()).code, 4100);
});

// ---- Sizes and counts -------------------------------------------------------

Deno.test("limits of sizes and counts hold at the figure that is set", async () => {
  const limits = {
    channelNameLength: 10,
    eventNameLength: 8,
    eventDataBytes: 6,
    channelsPerEvent: 2,
    eventsPerBatch: 2,
    bodyBytes: 300,
    presenceMembers: 1,
    userIdLength: 3,
    userInfoBytes: 9,
    clientEventsPerSecond: 2,
  };
  await using server = serve({ limits, clientEvents: true });
  const e = { name: "e", channel: "news", data: "1" };
  for (
    const [status, path, body] of [
      [200, "/events", { ...e, channel: "a".repeat(10) }],
      [400, "/events", { ...e, channel: "a".repeat(11) }],
      [200, "/events", { ...e, name: "a".repeat(8) }],
      [400, "/events", { ...e, name: "a".repeat(9) }],
      [200, "/events", { ...e, data: "üüü" }],
      [413, "/events", { ...e, data: "üüüx" }],
      [200, "/events", { ...e, channels: ["a", "b"] }],
      [400, "/events", { ...e, channels: ["a", "b", "c"] }],
      [200, "/batch_events", { batch: [e, e] }],
      [400, "/batch_events", { batch: [e, e, e] }],
      [200, "/events", JSON.stringify(e).padEnd(300)],
      [413, "/events", JSON.stringify(e).padEnd(301)],
    ] as const
  ) {
    const answer = await server.api("POST", path, { body });
    const told = JSON.stringify(body);
    assertEquals(answer.status, status, told);
    if (status === 200) continue;
    // The error names the limit and the figure.
    assertMatch(answer.body.error, /\b(10|8|6|2|300)\b/, told);
  }
  const long = "a".repeat(11);
  assertThrows(() => server.pusher.trigger(long, "e", 1), Error, "10");
  assertThrows(() => server.pusher.trigger("a", "e", "1234567"), Error, "6");
  await using ann = await server.connect();
  await using bob = await server.connect();
  const join = (client: Client, user_id: string, user_info = {}) =>
    client.subscribe("presence-a".slice(0, 10), {
      member: { user_id, user_info },
    });
  const status = async (frame: Promise<Frame>) => dataOf(await frame).status;
  assertEquals(await status(join(ann, "1234")), 413);
  assertEquals(await status(join(ann, "123", { x: "1234" })), 413);
  assertEquals((await join(ann, "123", { x: "1" })).event, SUCCEEDED);
  assertEquals(await status(join(bob, "456")), 403);
  assertEquals((await join(bob, "123")).event, SUCCEEDED);
  assertEquals(await bob.refused("private-abc"), "LimitReached 400");
  const send = (event: string, data: string) =>
    ann.send({ event, channel: "presence-a", data });
  send("client-", "1234567");
  send("client-xx", "1");
  assertEquals((await ann.framesUntilPong()).length, 2);
  await bob.silence();
  send("client-x", "123456");
  await bob.next("client-x");
});

/** Every limit, with its default. */
const LIMITS = {
  connections: Infinity,
  sockets: 100_000,
  channelsPerConnection: 200,
  bufferedBytes: 1_048_576,
  frameBytes: 65_536,
  framesPerSecond: 100,
  framesBurst: 1_000,
  channelNameLength: 200,
  eventNameLength: 200,
  eventDataBytes: 10_240,
  channelsPerEvent: 100,
  eventsPerBatch: 10,
  bodyBytes: 1_048_576,
  presenceMembers: 100,
  userIdLength: 128,
  userInfoBytes: 1_024,
  clientEventsPerSecond: 10,
};

Deno.test("limits may be Infinity", async () => {
  const limits = Object.fromEntries(
    Object.keys(LIMITS).map((name) => [name, Infinity]),
  );
  await using server = serve({ limits, clientEvents: true });
  await using ann = await server.connect();
  await using bob = await server.connect();
  await bob.join("private-a");
  await ann.join("private-a");
  for (let i = 0; i < 50; i++) {
    ann.send({
      event: "client-x",
      channel: "private-a",
      data: "x".repeat(2e4),
    });
  }
  await ann.silence();
  assertEquals((await bob.framesUntilPong()).length, 50);
  const body = { name: "e".repeat(201), data: "x".repeat(2e6), channel: "a" };
  assertEquals((await server.api("POST", "/events", { body })).status, 200);
});

// ---- Slow readers -----------------------------------------------------------

Deno.test("limits.bufferedBytes parts with a transport that is past it", async () => {
  await using server = serve({ limits: { bufferedBytes: 1_000 } });
  const { pusher, journal } = server;
  const request = new Request("http://a/app/app-key?protocol=7");
  const [full, over, late] = [0, 1, 2].map(() => new MemoryTransport()) as [
    MemoryTransport,
    MemoryTransport,
    MemoryTransport,
  ];
  const peers = [full, over, late].map((transport) => {
    const peer = pusher.open(transport, APP.key, request);
    const data = { channel: "news" };
    peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
    return peer;
  });
  const events = ({ frames }: MemoryTransport) =>
    frames.map(({ event }) => event).slice(1);
  full.bufferedAmount = 1_000;
  over.bufferedAmount = 1_001;
  await pusher.trigger("news", "one", {});
  assertEquals((await journal.next("disconnected")).code, 4100);
  assertEquals(over.closing?.[0], 4100);
  await pusher.trigger("news", "two", {});
  assertEquals(events(over), [SUCCEEDED, "one"]);
  // It is judged a turn later, when much may have been taken.
  full.bufferedAmount = 5_000;
  late.bufferedAmount = 5_000;
  await pusher.trigger("news", "three", {});
  full.bufferedAmount = 0;
  assertEquals((await journal.next("disconnected")).code, 4100);
  assertEquals(late.closing?.[0], 4100);
  assertEquals(full.closing, undefined);
  assertEquals(events(full), [SUCCEEDED, "one", "two", "three"]);
  assertEquals(await pusher.channel("news", { info: "subscription_count" }), {
    occupied: true,
    subscription_count: 1,
  });
  for (const peer of peers) {
    peer.closed(1000);
    peer.closed(1000);
  }
});

Deno.test("a peer that stops reading is gone once, and the others miss nothing", async () => {
  await using server = serve();
  await using ann = await server.connect();
  await ann.join("presence-a", { member: { user_id: "ann" } });
  using slow = await server.raw();
  await slow.upgrade("/app/app-key?protocol=7");
  const { socket_id } = dataOf(await slow.readText());
  const channel_data = '{"user_id":"slow"}';
  const auth = channelAuth(APP, socket_id, "presence-a", channel_data);
  const data = { channel: "presence-a", auth, channel_data };
  await slow.write(
    wireFrame(JSON.stringify({ event: "pusher:subscribe", data })),
  );
  await slow.readText();
  await ann.next(ADDED);
  const filler = "x".repeat(10_000);
  let next = 0;
  let removed = 0;
  for (let sent = 0; removed === 0 || sent % 50 > 0; sent++) {
    assert(sent < 20_000, "Nobody minds that it has stopped reading");
    await server.pusher.trigger("presence-a", "e", `${sent} ${filler}`);
    for (;;) {
      const frame = await ann.next();
      if (frame.event === REMOVED) {
        assertEquals(frame.data, '{"user_id":"slow"}');
        removed++;
        continue;
      }
      assertEquals(parseInt(frame.data as string), next++);
      break;
    }
  }
  assertEquals(removed, 1);
  const gone = await server.journal.next("disconnected");
  assertEquals([gone.socketId, gone.code], [socket_id, 4100]);
  assertEquals(await server.pusher.users("presence-a"), {
    users: [{ id: "ann" }],
  });
  slow.drop();
  await ann.silence();
});

Deno.test("a peer that is closed while frames wait for it gets them first, in order, and then the close", async () => {
  // The server waits 10 s for a slow peer: a minute for one on a busy machine.
  const elapsed = () => performance.now() / 6;
  const clock = { ...REAL_CLOCK, elapsed };
  const limits = { bufferedBytes: Infinity };
  await using server = serve({ clock, limits });
  using slow = await server.raw();
  await slow.upgrade("/app/app-key?protocol=7");
  await slow.readText();
  const data = { channel: "news" };
  await slow.send({ event: "pusher:subscribe", data });
  assertEquals((await slow.readText()).event, SUCCEEDED);
  // More than the system buffers in its place.
  const filler = "x".repeat(10_000);
  for (let n = 0; n < 1_000; n++) {
    await server.pusher.trigger("news", "e", `${n} ${filler}`);
  }
  // A binary frame closes the connection.
  await slow.write(new Uint8Array([0x82, 0x80, 0, 0, 0, 0]));
  assertEquals((await server.journal.next("disconnected")).code, 1003);
  assertEquals(await server.pusher.channels(), { channels: {} });
  for (let n = 0; n < 1_000; n++) {
    assertEquals(parseInt(String((await slow.readText()).data)), n);
  }
  assertEquals(await slow.readClose(), 1003);
});

// ---- Silence ----------------------------------------------------------------

Deno.test("a client that says anything at all within the time stays", async () => {
  await using server = serve({ activityTimeoutMs: 800, pongTimeoutMs: 800 });
  await using client = await server.connect();
  await client.next("pusher:ping");
  client.send({ event: "pusher:pong", data: {} });
  await client.next("pusher:ping");
  client.send("nonsense is a sign of life too");
  await client.next("pusher:error");
  await client.next("pusher:ping");
});

Deno.test("a client that only receives is pinged and closed all the same", async () => {
  await using server = serve({ activityTimeoutMs: 200, pongTimeoutMs: 200 });
  const query = "?protocol=7&client=js";
  await using client = await server.connect({ query });
  await client.join("news");
  const events: string[] = [];
  for (;;) {
    await server.pusher.trigger("news", "tick", {});
    const { event, data } = await client.next();
    if (event !== "tick") events.push(event);
    if (event !== "pusher:error") continue;
    assertEquals((data as { code: number }).code, 4201);
    break;
  }
  assertEquals(events, ["pusher:ping", "pusher:error"]);
});

// ---- Release ----------------------------------------------------------------

Deno.test("close reaches sockets that are just opening", async () => {
  await using server = serve();
  const clients = Array.from({ length: 20 }, () => server.dial());
  await clients[0]?.next();
  await within(DEADLINE_MS, "end of close", server.pusher.close());
  for (const client of clients) {
    const { code } = await within(DEADLINE_MS, "close", client.closed);
    assert(code === 1006 || code >= 4100 && code < 4300, `${code}`);
  }
});

Deno.test("close does not wait for a peer that never answers", async () => {
  await using server = serve();
  using raw = await server.raw();
  await raw.upgrade("/app/app-key?protocol=7");
  await raw.readText();
  await within(DEADLINE_MS, "end of close", server.pusher.close());
  raw.drop();
});

Deno.test("a thousand connections leave nothing behind", async () => {
  await using server = serve({ limits: { connections: 100 } });
  const ids = new Set<string>();
  for (let round = 0; round < 10; round++) {
    const clients = await Promise.all(
      Array.from({ length: 100 }, () => server.connect()),
    );
    await Promise.all(clients.map(async (client, index) => {
      ids.add(client.socketId);
      client.requestSubscribe(`news-${index % 7}`);
      client.requestSubscribe("presence-a", {
        member: { user_id: `${index % 50}` },
      });
      const frames = await client.framesUntilPong();
      const answers = frames.filter(({ event }) => event === SUCCEEDED);
      assertEquals(answers.length, 2);
    }));
    await Promise.all(clients.map((client) => client.close()));
    // Only then there is room for the next hundred.
    for (let i = 0; i < 100; i++) await server.journal.next("disconnected");
    assertEquals(await server.pusher.channels(), { channels: {} });
    assertEquals(await server.pusher.users("presence-a"), { users: [] });
  }
  assertEquals(ids.size, 1_000);
});
