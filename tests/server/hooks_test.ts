/**
 * Hooks about subscriptions, recovery, refusals and the backplane, and what
 * `stats` says.
 */
import {
  type BackplaneNode,
  MemoryBackplane,
  type Transport,
} from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
} from "@std/assert";
import { eachBackplane, lateJoin } from "../support/backplanes.ts";
import { until } from "../support/client.ts";
import { ManualClock } from "../support/clock.ts";
import { failure, publish, recoveryTest, take } from "../support/recovering.ts";
import {
  APP,
  type Client,
  type Entry,
  leave,
  MemoryTransport,
  serve,
  serveInMemory,
  type TestServer,
  TWO_APPS,
} from "../support/server.ts";
import { signIn } from "../support/users.ts";
import { channelAuth, dataOf, type Frame } from "../support/wire.ts";

const newPath = (): string => `/r/${crypto.randomUUID()}`;

/** The calls of a hook so far, without its name and the app. */
function told(server: TestServer, hook: Entry["hook"]): object[] {
  return server.journal.entries.filter((entry) => entry.hook === hook)
    .map(({ hook: _, ...event }) => event);
}

// ---- Subscriptions ----------------------------------------------------------

eachBackplane(
  "subscribed and unsubscribed are told of each connection and channel, in turns",
  async (start) => {
    await using server = start();
    const ann = await server.connect();
    await using bob = await server.connect();
    for (const client of [ann, bob]) await client.join("news");
    await ann.join("private-a");
    const member = { user_id: "ann" };
    await ann.join("presence-a", { member });
    // It is there already.
    await ann.join("news");
    await ann.join("presence-a", { member });
    await ann.refused("private-b", { auth: "wrong" });
    // Channels of the servers' own are nobody's business.
    await signIn(ann, { id: "ann", watchlist: ["bob"] });
    await ann.next("pusher_internal:watchlist_events");
    ann.unsubscribe("news");
    ann.unsubscribe("nowhere");
    await ann.framesUntilPong();
    await leave(server, ann);
    const [a, b] = [ann, bob].map(({ socketId }) => ({
      app: APP.id,
      socketId,
    }));
    const presence = { ...a, channel: "presence-a", userId: "ann" };
    assertEquals(told(server, "subscribed"), [
      { ...a, channel: "news" },
      { ...b, channel: "news" },
      { ...a, channel: "private-a" },
      presence,
    ]);
    assertEquals(told(server, "unsubscribed"), [
      { ...a, channel: "news" },
      { ...a, channel: "private-a" },
      presence,
    ]);
    const last = server.journal.calls("unsubscribed", "disconnected").at(-1);
    assertEquals(last, "disconnected");
  },
);

Deno.test("a connection that goes while it joins was never subscribed", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serveInMemory({ backplane });
  await using client = await server.connect();
  client.requestSubscribe("news");
  await joining();
  await leave(server, client);
  answer();
  await until(() => server.pusher.stats().channels === 0);
  const calls = server.journal.calls("subscribed", "unsubscribed");
  assertEquals(calls, []);
});

Deno.test("connections that the server ends are unsubscribed", async () => {
  await using server = serveInMemory();
  await using ann = await server.connect();
  await using bob = await server.connect();
  for (const client of [ann, bob]) await client.join("news");
  await signIn(ann, { id: "ann" });
  await server.pusher.terminateUserConnections("ann");
  await ann.turnedAway();
  await server.pusher.close();
  assertEquals(
    told(server, "unsubscribed"),
    [ann, bob].map(({ socketId }) => ({
      ...{ app: APP.id, socketId },
      channel: "news",
    })),
  );
});

// ---- Recovery ---------------------------------------------------------------

recoveryTest(
  "recovered tells whether a client that was there before gets what it has missed",
  async (lane) => {
    await using server = lane.start({ history: { events: 2 } });
    const first = await lane.connect(server);
    await first.enter("news");
    await first.enter("other");
    const [news, other] = ["news", "other"].map((name) =>
      first.positionOn(name)
    );
    await leave(server, first);
    await publish(server, "news", 1, 2);
    await publish(server, "other", 1, 3);
    assertEquals(told(server, "recovered"), []);
    await using back = await lane.connect(server);
    await back.enter("news", { recover: news });
    await take(back, 1, 2);
    await back.enter("other", { recover: other });
    await failure(back, "other");
    // It is new to this one, and to rewind is not to recover.
    await back.enter("third");
    await back.enter("fourth", { rewind: 5 });
    const { socketId } = back;
    assertEquals(told(server, "recovered"), [
      { app: APP.id, socketId, channel: "news", recovered: true },
      { app: APP.id, socketId, channel: "other", recovered: false },
    ]);
  },
);

eachBackplane("recovered tells it of sessions, too", async (start) => {
  await using server = start({ history: { events: 2 } });
  const path = newPath();
  const first = await server.connect({ path });
  for (const channel of ["news", "other"]) {
    await first.enter(channel);
    await publish(server, channel, 1);
    await take(first, 1);
  }
  await first.acknowledge();
  await leave(server, first);
  await publish(server, "other", 2, 4);
  await using back = await server.connect({ path });
  await back.enter("news");
  await back.enter("third");
  await back.enter("other");
  await failure(back, "other");
  const { socketId } = back;
  assertEquals(told(server, "recovered"), [
    { app: APP.id, socketId, channel: "news", recovered: true },
    { app: APP.id, socketId, channel: "other", recovered: false },
  ]);
});

// ---- Refusals ---------------------------------------------------------------

/** Takes the one refusal that has been told since. */
function refusal(server: TestServer): object {
  const [entry, ...more] = server.journal.drain("refused");
  assertEquals(more, []);
  assert(entry !== undefined, "No refusal was told");
  const { hook: _, ...event } = entry;
  return event;
}

Deno.test("refused tells of connections, as the client is told", async () => {
  const off = { id: "off", key: "off", secret: "off", enabled: false };
  const full = {
    ...{ id: "full", key: "full", secret: "full" },
    limits: { connections: 0 },
  };
  await using server = serveInMemory({
    apps: [APP, off, full],
    strictProtocol: true,
    origins: "https://example.com",
  });
  const origin = { headers: { origin: "https://evil.example" } };
  for (
    const [init, app, code] of [
      [{ app: { ...APP, key: "nobody" } }, undefined, 4001],
      [{ app: off }, "off", 4003],
      [{ app: full }, "full", 4004],
      [{ query: "?protocol=3" }, APP.id, 4007],
      [{ query: "?protocol=x" }, APP.id, 4006],
      [{ query: "" }, APP.id, 4008],
      [{ path: newPath(), query: "?protocol=3" }, APP.id, 4007],
      [origin, APP.id, 4009],
    ] as const
  ) {
    const closing = await server.turnsAway(init);
    assertEquals(closing.code, code);
    assertEquals(refusal(server), {
      ...(app !== undefined && { app }),
      ...{ what: "connection", reason: closing.reason, code },
    });
  }
  const closed = server.pusher.close();
  const transport = new MemoryTransport();
  const request = new Request("http://a/app/app-key?protocol=7");
  server.pusher.open(transport, APP.key, request).closed(1000);
  await closed;
  const { code, reason } = refusal(server) as { code: number; reason: string };
  assertEquals(transport.closing, [code, reason]);
});

Deno.test("refused tells of subscriptions, as the client is told", async () => {
  await using server = serveInMemory({
    limits: { channelsPerConnection: 3, presenceMembers: 1 },
  });
  await using ann = await server.connect();
  await using bob = await server.connect();
  await bob.join("presence-a", { member: { user_id: "bob" } });
  const long = "x".repeat(3_000);
  for (
    const [channel, init, code] of [
      ["a b", {}, 400],
      [long, {}, 400],
      ["private-a", { auth: "app-key:0" }, 401],
      ["private-a", { auth: null }, 401],
      ["presence-a", { auth: null }, 401],
      ["presence-a", { channelData: "{}" }, 400],
      ["presence-a", { member: { user_id: "ann" } }, 403],
      ["#server-to-user-bob", {}, 401],
    ] as const
  ) {
    const { status, error } = await refusedOn(ann, channel, init);
    assertEquals(status, code, channel);
    assertEquals(refusal(server), {
      ...{ app: APP.id, socketId: ann.socketId, what: "subscription" },
      ...{ reason: error, code, channel: channel.slice(0, 1_000) },
    });
  }
  for (const channel of ["a", "b", "c"]) await ann.join(channel);
  const { error } = await refusedOn(ann, "d", {});
  assertEquals(refusal(server), {
    ...{ app: APP.id, socketId: ann.socketId, what: "subscription" },
    ...{ reason: error, code: 403, channel: "d" },
  });
});

/** Subscribes, which has to fail; what the client is told. */
async function refusedOn(
  client: Client,
  channel: string,
  init: Parameters<Client["requestSubscribe"]>[1],
): Promise<{ status: number; error: string }> {
  client.requestSubscribe(channel, init);
  return dataOf(await client.next("pusher:subscription_error"));
}

Deno.test("refused tells of sign-ins and client events, as the client is told", async () => {
  await using server = serveInMemory();
  await using client = await server.connect();
  await client.join("private-a");
  const { socketId } = client;
  const errorOf = (frame: Frame) => dataOf(frame) as { message: string };
  for (const data of [{}, { user_data: "{}", auth: "app-key:0" }]) {
    client.send({ event: "pusher:signin", data });
    const { message } = errorOf(await client.next("pusher:error"));
    assertEquals(refusal(server), {
      ...{ app: APP.id, socketId, what: "signin" },
      ...{ reason: message, code: 4009 },
    });
  }
  for (const channel of ["private-a", "news", "a b"]) {
    client.send({ event: "client-x", channel, data: "private words" });
    const { message } = errorOf(await client.next("pusher:error"));
    assertEquals(refusal(server), {
      ...{ app: APP.id, socketId, what: "client_event" },
      ...{ reason: message, code: 4301, channel },
    });
  }
});

Deno.test("refused tells of requests, as the sender is told", async () => {
  const off = { id: "off", key: "off", secret: "off", enabled: false };
  await using server = serve({
    apps: [...TWO_APPS, off],
    authorize: (_request, { channel }) => channel !== "private-no",
    limits: { bodyBytes: 1_000 },
  });
  const [app] = TWO_APPS;
  const body = { name: "e", channel: "news", data: "1" };
  for (
    const [method, path, init, id, code] of [
      ["POST", "/events", { body, app: off }, "off", 403],
      ["POST", "/events", { body, tamper: { auth_signature: "0" } }, "a", 401],
      ["POST", "/events", { body: "[]" }, "a", 400],
      ["POST", "/events", { body: { ...body, name: "" } }, "a", 400],
      ["POST", "/events", { body: "x".repeat(2_000) }, "a", 413],
      ["GET", "/channels/a%20b", {}, "a", 400],
      ["GET", "/channels/news/users", {}, "a", 400],
    ] as const
  ) {
    const answer = await server.api(method, path, init);
    assertEquals(answer.status, code, path);
    const { error: reason } = answer.body;
    assertEquals(refusal(server), { app: id, what: "request", reason, code });
  }
  const socket_id = "1.1";
  for (
    const [form, id, code] of [
      [{ socket_id, channel_name: "private-no", app_key: app.key }, "a", 403],
      [{ socket_id, channel_name: "news", app_id: app.id }, "a", 403],
      [{ socket_id, app_id: app.id }, "a", 400],
      [{ socket_id, channel_name: "private-a" }, undefined, 403],
      [{ socket_id, channel_name: "private-a", app_id: "x" }, undefined, 404],
      [{ channel_name: "private-a" }, undefined, 400],
    ] as [Record<string, string>, string | undefined, number][]
  ) {
    const response = await fetch(`${server.url}/pusher/auth`, {
      method: "POST",
      body: new URLSearchParams(form),
    });
    const { error: reason } = await response.json();
    assertEquals(refusal(server), {
      ...(id !== undefined && { app: id }),
      ...{ what: "request", reason, code },
    });
  }
  // What is no request of an app is nobody's refusal.
  for (const path of ["/apps/a/nothing", "/apps/nobody/events", "/elsewhere"]) {
    const response = await fetch(server.url + path);
    await response.body?.cancel();
  }
  assertEquals(server.journal.drain("refused"), []);
});

Deno.test("no refusal tells a secret, a signature or the id of a session", async () => {
  await using server = serveInMemory({ authorize: () => false });
  const path = newPath();
  const session = path.slice("/r/".length);
  await server.turnsAway({ path, query: "?protocol=3" });
  await using client = await server.connect({ path });
  const auth = channelAuth(APP, client.socketId, "private-other");
  await client.refused("private-a", { auth });
  const user_data = JSON.stringify({ id: "ann", password: "of a user" });
  client.send({ event: "pusher:signin", data: { auth, user_data } });
  await client.next("pusher:error");
  client.send({ event: "client-x", channel: "private-a", data: "words" });
  await client.next("pusher:error");
  const { status } = await server.api("POST", "/events", {
    body: { name: "e", channel: "a b", data: "data of an event" },
    tamper: { auth_signature: auth },
  });
  assertEquals(status, 401);
  const refused = server.journal.entries.filter(({ hook }) =>
    hook === "refused"
  );
  assertEquals(refused.length, 5);
  const text = Deno.inspect(refused, { depth: 10 });
  const [, signature = ""] = auth.split(":");
  for (
    const secret of [
      APP.secret,
      signature,
      session,
      "of a user",
      "words",
      "data of an event",
    ]
  ) {
    assertEquals(text.includes(secret), false, secret);
  }
});

Deno.test("a subscription that the backplane fails is refused without its reason", async () => {
  const backplane = new MemoryBackplane();
  backplane.join = () => {
    throw new Error("redis://user:password@host is away");
  };
  await using server = serveInMemory({ backplane });
  await using client = await server.connect();
  assertEquals(await client.refused("news"), "ServerError 500");
  const { reason, code, channel } = await server.journal.next("refused");
  assertEquals([code, channel], [500, "news"]);
  assertEquals(reason.includes("redis"), false);
  await server.journal.next("error");
});

// ---- The backplane ----------------------------------------------------------

/** A server whose backplane can be said to be away. */
function serveWithHealth() {
  const backplane = new MemoryBackplane();
  let node: BackplaneNode | undefined;
  const start = backplane.start.bind(backplane);
  backplane.start = (started) => start(node = started);
  const server = serveInMemory({ backplane });
  return { server, node: node! }; // The constructor has started it.
}

Deno.test("backplane tells of its going and coming, and stats says whether it is there", async () => {
  const { server, node } = serveWithHealth();
  await using _ = server;
  const ready = () => server.pusher.stats().ready;
  assertEquals([ready(), server.journal.calls("backplane")], [true, []]);
  const cause = new Error("cannot be reached");
  for (let round = 0; round < 2; round++) {
    // To say it again says nothing new.
    for (let again = 0; again < 3; again++) node.health(false, cause);
    assertEquals(ready(), false);
    assertEquals(await server.journal.next("backplane"), {
      ...{ hook: "backplane", up: false, error: cause },
    });
    const { error, during } = await server.journal.next("error");
    assertEquals([error, during], [cause, "reaching the backplane"]);
    for (let again = 0; again < 3; again++) node.health(true);
    assertEquals(ready(), true);
    const up = { hook: "backplane", up: true } as const;
    assertEquals(await server.journal.next("backplane"), up);
  }
  await using client = await server.connect();
  await client.silence();
  assertEquals(server.journal.drain("backplane"), []);
});

Deno.test("connections stay while the backplane is away", async () => {
  const { server, node } = serveWithHealth();
  await using _ = server;
  await using client = await server.connect();
  await client.join("news");
  node.health(false, new Error("cannot be reached"));
  await server.journal.next("error");
  await client.silence();
  await using other = await server.connect();
  await other.silence();
  node.health(true);
  await publish(server, "news", 1);
  await take(client, 1);
});

// ---- Stats ------------------------------------------------------------------

/** What `stats` says of a server that nobody is connected to. */
const NOTHING = {
  ready: true,
  connections: 0,
  unauthorizedConnections: 0,
  transports: {},
  channels: 0,
  sessions: 0,
  sessionsAway: 0,
  historyBytes: 0,
  historyEvents: 0,
  bufferedBytes: 0,
  droppedFrames: 0,
};

Deno.test("stats counts what there is, and goes back to zero", async () => {
  const clock = new ManualClock();
  await using server = serveInMemory({ clock, history: { ageMs: 60_000 } });
  const stats = () => server.pusher.stats();
  assertEquals(stats(), NOTHING);
  const path = newPath();
  const ann = await server.connect();
  const bob = await server.connect({ path });
  assertEquals(stats(), {
    ...NOTHING,
    ...{ connections: 2, transports: { ws: 2 }, sessions: 1 },
  });
  for (const client of [ann, bob]) await client.join("news");
  await ann.join("presence-a", { member: { user_id: "ann" } });
  // The servers' own channels do not count.
  await signIn(ann, { id: "ann", watchlist: ["bob"] });
  await ann.next("pusher_internal:watchlist_events");
  assertEquals(stats().channels, 2);
  const { historyBytes: before, historyEvents } = stats();
  await server.pusher.trigger("news", "n", "x".repeat(5_000));
  await ann.next("n");
  await bob.next("n");
  assertGreaterOrEqual(stats().historyBytes - before, 5_000);
  assertEquals(stats().historyEvents - historyEvents, 1);
  clock.pass(1_000);
  await bob.acknowledge();
  await bob.framesUntilPong();
  await leave(server, bob);
  assertEquals([stats().sessions, stats().sessionsAway], [0, 1]);
  assertEquals([stats().connections, stats().channels], [1, 2]);
  await leave(server, ann);
  const gone = stats();
  assertGreater(gone.historyBytes, 0);
  assertGreater(gone.historyEvents, 0);
  const away = { historyBytes: 0, historyEvents: 0, sessionsAway: 0 };
  assertEquals({ ...gone, ...away }, NOTHING);
  // The next message finds that nobody wants the history any more, and the next
  // session that this one is too old.
  clock.pass(61_000);
  await publish(server, "news", 1);
  assertEquals([stats().historyBytes, stats().historyEvents], [0, 0]);
  await using next = await server.connect({ path: newPath() });
  await next.join("other");
  assertEquals(stats().sessionsAway, 0);
  await server.pusher.close();
  const { connections, transports, sessions, bufferedBytes } = stats();
  assertEquals(
    [stats().ready, connections, transports, sessions, bufferedBytes],
    [false, 0, {}, 0, 0],
  );
});

Deno.test("stats counts transports by their names, and what they hold", async () => {
  await using server = serveInMemory({ limits: { frameBytes: 100 } });
  const stats = () => server.pusher.stats();
  await using client = await server.connect();
  const request = new Request("http://a/app/app-key?protocol=7");
  const open = (transport: Transport) =>
    server.pusher.open(transport, APP.key, request);
  const named = Object.assign(new MemoryTransport(), {
    name: "carrier pigeon",
  });
  const plain = new MemoryTransport();
  const peers = [open(named), open(plain)];
  assertEquals(stats().transports, { ws: 2, "carrier pigeon": 1 });
  named.bufferedAmount = 300;
  plain.bufferedAmount = 700;
  assertEquals(stats().bufferedBytes, 1_000);
  named.bufferedAmount = plain.bufferedAmount = 0;
  assertEquals(stats().bufferedBytes, 0);
  // What is refused counts among no connections.
  await server.turnsAway({ query: "?protocol=3" });
  assertEquals(stats().connections, 3);
  for (const peer of peers) peer.closed(1000);
  assertEquals(stats().transports, { ws: 1 });
  client.send("x".repeat(101));
  await client.next("pusher:error");
  assertEquals(stats().droppedFrames, 1);
});

Deno.test("stats counts frames that came too fast, since the start", async () => {
  const clock = new ManualClock();
  await using server = serveInMemory({ clock, limits: { framesBurst: 10 } });
  await using client = await server.connect();
  for (let n = 0; n < 15; n++) client.ping();
  const frames: string[] = [];
  while (frames.length < 11) frames.push((await client.next()).event);
  assertEquals(frames.filter((event) => event === "pusher:pong").length, 10);
  await leave(server, client);
  assertEquals(server.pusher.stats().droppedFrames, 5);
});

Deno.test("stats is cheap: it looks at each transport once, and asks nobody", async () => {
  const asked: string[] = [];
  const memory = new MemoryBackplane();
  const backplane = new Proxy(memory, {
    get(target, name) {
      const value = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      return (...given: unknown[]) => {
        asked.push(String(name));
        return value.apply(target, given);
      };
    },
  });
  await using server = serveInMemory({ backplane });
  const request = new Request("http://a/app/app-key?protocol=7&recover=1");
  let looks = 0;
  const peers = Array.from({ length: 100 }, () => {
    const peer = server.pusher.open(
      {
        get bufferedAmount() {
          looks++;
          return 10;
        },
        send() {},
        close() {},
      },
      ...[APP.key, request] as const,
    );
    for (let n = 0; n < 10; n++) {
      const data = { channel: `channel-${n}` };
      peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
    }
    return peer;
  });
  await publish(server, "channel-1", 1, 50);
  looks = asked.length = 0;
  const { connections, channels, bufferedBytes } = server.pusher.stats();
  assertEquals([connections, channels, bufferedBytes], [100, 10, 1_000]);
  assertEquals([looks, asked], [100, ["usage"]]);
  for (const peer of peers) peer.closed(1000);
});
