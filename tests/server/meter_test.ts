/**
 * What `pusher.meter` says of a server, for extensions such as the metrics.
 */
import { type Measurement, MemoryBackplane, Pusher } from "@glitz/pusher";
import { assert, assertEquals } from "@std/assert";
import { turn } from "../support/clock.ts";
import {
  APP,
  leave,
  MemoryTransport,
  serve,
  SlowTransport,
  TWO_APPS,
} from "../support/server.ts";

const OPTIONS = { appId: APP.id, key: APP.key, secret: APP.secret };

const request = (query = "") =>
  new Request(`http://localhost/app/${APP.key}?protocol=7${query}`);

/** What a measurement says, without its time. */
function shown({ tookMs, ...rest }: Measurement): string {
  assert(tookMs >= 0);
  return Object.values(rest).join(" ");
}

/** The figures of the first app. */
function figuresOf(pusher: Pusher) {
  const [app] = pusher.meter.figures().apps;
  assert(app !== undefined);
  return app;
}

Deno.test("meter counts messages and their bytes, in and out, once per client", () => {
  const pusher = new Pusher(OPTIONS);
  const transports = [new MemoryTransport(), new MemoryTransport()];
  const lengths: number[] = [];
  const bytes = (text: string) => new TextEncoder().encode(text).length;
  const peers = transports.map((transport) => {
    const { send } = transport;
    transport.send = (frame) => {
      lengths.push(bytes(frame));
      send.call(transport, frame);
    };
    return pusher.open(transport, APP.key, request());
  });
  const subscribe = '{"event":"pusher:subscribe","data":{"channel":"news"}}';
  const odd = '{"event":"client-é","channel":"news"}';
  for (const peer of peers) peer.receive(subscribe);
  peers[0]!.receive(odd);
  pusher.trigger("news", "geänderte 語", "ä");
  const { counts } = figuresOf(pusher);
  assertEquals(counts.messagesReceived, 3);
  assertEquals(counts.bytesReceived, 2 * bytes(subscribe) + bytes(odd));
  // Two greetings, two confirmations, a refusal, and the event for each of the two.
  assertEquals(counts.messagesSent, 7);
  assertEquals(counts.messagesSent, lengths.length);
  assertEquals(counts.bytesSent, lengths.reduce((a, b) => a + b));
  for (const peer of peers) peer.closed(1000);
});

Deno.test("meter counts each message of a batch, and the bytes of the batch", async () => {
  const pusher = new Pusher(OPTIONS);
  const transport = new MemoryTransport();
  const texts: string[] = [];
  transport.send = (frame) => void texts.push(frame);
  const peer = pusher.open(transport, APP.key, request("&batch=1"));
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  for (let i = 0; i < 3; i++) pusher.trigger("news", "tick", i);
  await turn();
  assertEquals(texts.length, 2);
  const { counts } = figuresOf(pusher);
  assertEquals(counts.messagesSent, 5);
  assertEquals(counts.bytesSent, texts.join("").length);
  peer.closed(1000);
});

Deno.test("meter lists channels and subscriptions by kind, and each member once per channel, until the clients have gone", async () => {
  await using server = serve({ apps: TWO_APPS });
  const { pusher } = server;
  const nothing = { kinds: [], members: 0, transports: {}, bufferedBytes: 0 };
  const shownFigures = () =>
    pusher.meter.figures().apps.map((
      { kinds, members, transports, bufferedBytes },
    ) => ({ kinds: [...kinds], members, transports, bufferedBytes }));
  assertEquals(shownFigures(), [nothing, nothing]);
  const clients = [];
  for (let i = 0; i < 3; i++) clients.push(await server.connect());
  for (const client of clients) await client.subscribe("news");
  const member = { user_id: "ann" };
  for (const client of clients) {
    await client.subscribe("presence-a", { member });
  }
  await clients[0]!.subscribe("presence-cache-b", { member });
  await clients[0]!.next("pusher:cache_miss");
  await clients[0]!.subscribe("private-x");
  await clients[1]!.subscribe("private-y");
  assertEquals(shownFigures(), [{
    kinds: [
      ["", { channels: 1, subscriptions: 3 }],
      ["presence-", { channels: 1, subscriptions: 3 }],
      ["presence-cache-", { channels: 1, subscriptions: 1 }],
      ["private-", { channels: 2, subscriptions: 2 }],
    ],
    members: 2,
    transports: { ws: 3 },
    bufferedBytes: 0,
  }, nothing]);
  for (const client of clients) await leave(server, client);
  assertEquals(shownFigures(), [nothing, nothing]);
});

Deno.test("meter counts the clients that were cut, as they did not read", async () => {
  const limits = { bufferedBytes: 5_000 };
  const pusher = new Pusher({ ...OPTIONS, limits });
  const transport = new SlowTransport();
  const closed = Promise.withResolvers<number>();
  transport.close = (code) => closed.resolve(code);
  const peer = pusher.open(transport, APP.key, request());
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  for (let i = 0; i < 10; i++) pusher.trigger("news", "tick", "x".repeat(1000));
  assertEquals(await closed.promise, 4100);
  assertEquals(figuresOf(pusher).counts.slowClients, 1);
  peer.closed(1006);
});

Deno.test("meter counts replays, and clients that were told of a loss", async () => {
  await using server = serve();
  const query = "?protocol=7&recover=1";
  await using first = await server.connect({ query });
  await first.subscribe("news");
  const from = first.positionOn("news");
  await server.pusher.trigger("news", "goal", 1);
  await using second = await server.connect({ query });
  await using third = await server.connect({ query });
  const ask = (recover: object) => ({
    event: "pusher:subscribe",
    data: { channel: "news", recover },
  });
  second.send(ask(from));
  await second.next("pusher_internal:subscription_succeeded");
  await second.next("goal");
  third.send(ask({ ...from, epoch: "another" }));
  await third.next("pusher_internal:subscription_succeeded");
  await third.next("pusher:recovery_failed");
  const { counts } = figuresOf(server.pusher);
  assertEquals([counts.replays, counts.losses], [1, 1]);
});

Deno.test("meter tells an observer of publishes by source, of requests by route and status, and of nothing later", async () => {
  await using server = serve({
    clientEvents: true,
    authorize: (_request, { channel }) => channel === "private-a",
  });
  const { pusher } = server;
  const told: string[] = [];
  const stop = pusher.meter.observe((measurement) => {
    // Calls of the backplane have a test of their own.
    if (measurement.what !== "backplane") told.push(shown(measurement));
  });
  const take = () => told.splice(0).sort();
  await pusher.trigger(["news", "sport"], "goal", 1);
  await pusher.triggerBatch([
    { channel: "news", name: "a", data: 1 },
    { channel: "news", name: "b", data: 1 },
  ]);
  assertEquals(take(), Array(3).fill("publish app-id program true"));
  const event = { name: "goal", channel: "news", data: "1" };
  await server.api("POST", "/events", { body: event });
  await server.api("GET", "/channels/presence-a/users");
  await server.api("GET", "/nothing");
  assertEquals(take(), [
    "publish app-id http_api true",
    "request channels/*/users 200 true",
    "request events 200 true",
    "request unknown 404 true",
  ]);
  await using ann = await server.connect();
  await using bob = await server.connect();
  for (const client of [ann, bob]) await client.subscribe("private-a");
  const typing = { event: "client-typing", channel: "private-a", data: {} };
  ann.send(typing);
  await bob.next("client-typing");
  for (const channel_name of ["private-a", "private-b"]) {
    const body = new URLSearchParams({ socket_id: ann.socketId, channel_name });
    const answer = await fetch(`${server.url}/pusher/auth`, {
      method: "POST",
      body,
    });
    await answer.body?.cancel();
  }
  assertEquals(take(), [
    "publish app-id client true",
    "request pusher/auth 200 true",
    "request pusher/auth 403 true",
  ]);
  stop();
  await pusher.trigger("news", "goal", 2);
  assertEquals(take(), []);
});

Deno.test("meter tells an observer of calls that the backplane answers later, and of those that fail", async () => {
  const backplane = new MemoryBackplane();
  const { promise, reject } = Promise.withResolvers<void>();
  const answers = [Promise.resolve(), promise, undefined];
  backplane.publish = () => answers.shift();
  const pusher = new Pusher({ ...OPTIONS, backplane });
  pusher.on("error", () => {});
  const told: string[] = [];
  pusher.meter.observe((measurement) => told.push(shown(measurement)));
  await pusher.trigger("news", "goal", 1);
  const failing = pusher.trigger("news", "goal", 2);
  reject(new Error("away"));
  await failing.catch(() => {});
  await pusher.trigger("news", "goal", 3);
  assertEquals(told, [
    "backplane true",
    "publish app-id program true",
    "backplane false",
    "publish app-id program false",
    "publish app-id program true",
  ]);
});

Deno.test("an observer of the meter that throws is an error, and disturbs nothing", async () => {
  await using server = serve();
  const { pusher } = server;
  const stop = pusher.meter.observe(() => {
    throw new Error("broken");
  });
  await using client = await server.connect();
  await client.subscribe("news");
  await pusher.trigger("news", "goal", 1);
  assertEquals((await client.next("goal")).data, "1");
  const { during } = await server.journal.next("error");
  assertEquals(during, "measuring");
  server.journal.drain("error");
  assert(pusher.meter.figures().errors > 0);
  stop();
});

Deno.test("meter says that the server is closing", async () => {
  const pusher = new Pusher();
  const { meter } = pusher;
  assertEquals([meter.isBackplaneUp, meter.isClosing], [true, false]);
  const closed = pusher.close();
  assertEquals(meter.isClosing, true);
  await closed;
});
