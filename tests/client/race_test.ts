/**
 * How the client finds a transport: the race between WebSocket, streaming and polling,
 * and how soon it is connected, in comparison with the stock client in the same run.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  Client,
  heard,
  joinReal,
  type Peer,
  RealServer,
  settled,
  Sockets,
  until,
} from "../support/client.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import {
  type Exchange,
  greeting,
  HttpServer,
  line,
  PRELUDE,
} from "../support/http_server.ts";
import { FaultProxy } from "../support/proxy.ts";
import { StockClient } from "../support/stock.ts";

// ---- Race -------------------------------------------------------------------

/** A client whose WebSocket opens and is not greeted, with HTTP beside it. */
async function race(
  http: HttpServer,
  time: FakeTime,
): Promise<{ client: Client; peer: Peer; streaming: Exchange } & Disposable> {
  const client = new Client(http);
  const peer = await http.server.accept();
  time.tick(4_000);
  const streaming = await http.receive();
  const dispose = () => client[Symbol.dispose]();
  return { client, peer, streaming, [Symbol.dispose]: dispose };
}

/** What a client says that connects without trouble. */
const NO_TROUBLE: [event: string, data: unknown][] = [
  ["state_change", { previous: "connecting", current: "connected" }],
  ["connected", { socket_id: "1.1" }],
];

Deno.test("HTTP starts beside a WebSocket that takes 4 seconds, and not before", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using client = new Client(http);
  const { connection } = client.pusher;
  const peer = await http.server.accept();
  time.tick(3_999);
  assertEquals(connection.transport.name, "ws");
  time.tick(1);
  assertEquals(connection.transport.name, "xhr_streaming");
  assertMatch((await http.receive()).url.pathname, /xhr_streaming$/);
  // WebSocket is still open.
  peer.establish();
  await client.heard("connected");
});

Deno.test("HTTP starts beside a WebSocket with TLS after 2 seconds", async () => {
  using time = new FakeTime();
  using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = tcp.addr;
  using client = new Client({ port }, { forceTLS: true, wssPort: port });
  const { connection } = client.pusher;
  using _socket = await within(DEADLINE_MS, "connection", tcp.accept());
  time.tick(1_999);
  assertEquals(connection.transport.name, "wss");
  time.tick(1);
  assertEquals(connection.transport.name, "xhr_streaming");
  using _request = await within(DEADLINE_MS, "connection", tcp.accept());
});

Deno.test("HTTP that is greeted first wins, and WebSocket is closed", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using sockets = new Sockets();
  using racing = await race(http, time);
  const { client, peer, streaming } = racing;
  client.events.length = 0;
  const connected = client.heard("connected");
  streaming.write(`${PRELUDE}o\n${line(greeting("1.1"))}`);
  await connected;
  await within(DEADLINE_MS, "close", peer.closed);
  assertEquals(client.events, NO_TROUBLE);
  assertEquals(client.pusher.connection.transport.name, "xhr_streaming");
  assertEquals(sockets.urls.length, 1);
  // What uses HTTP probes WebSocket later.
  time.tick(7_500);
  const connectedAgain = client.heard("connected");
  (await http.server.accept()).establish("2.2");
  await connectedAgain;
  assertEquals(client.pusher.connection.transport.name, "ws");
});

Deno.test("WebSocket that is greeted first wins, and HTTP is given up", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using racing = await race(http, time);
  const { client, peer, streaming } = racing;
  streaming.write(PRELUDE);
  time.tick(4_000);
  const polling = await http.receive();
  assertMatch(polling.url.pathname, /xhr$/);
  client.events.length = 0;
  const connected = client.heard("connected");
  peer.establish();
  await connected;
  await within(DEADLINE_MS, "end of streaming", streaming.givenUp);
  await until(() => polling.request.signal.aborted);
  assertEquals(client.events, NO_TROUBLE);
  assertEquals(client.pusher.connection.transport.name, "ws");
  const channel = client.pusher.subscribe("a");
  assertEquals((await peer.next()).event, "pusher:subscribe");
  const created = heard(channel, "create");
  peer.send("create", 1, { channel: "a" });
  assertEquals(await created, 1);
  await settled(peer);
});

Deno.test("WebSocket may win after HTTP has failed", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using racing = await race(http, time);
  const { client, peer, streaming } = racing;
  client.events.length = 0;
  streaming.answer("not found", 404);
  (await http.receive()).answer("not found", 404);
  const connected = client.heard("connected");
  time.tick(5_000);
  peer.establish();
  await connected;
  assertEquals(client.events.slice(-2), NO_TROUBLE);
  assertEquals(client.dataOf("error"), []);
});

Deno.test("HTTP may win after WebSocket has failed", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using sockets = new Sockets();
  using racing = await race(http, time);
  const { client, peer, streaming } = racing;
  client.events.length = 0;
  peer.close(1011);
  await sockets.close();
  const connected = client.heard("connected");
  streaming.write(`o\n${line(greeting("1.1"))}`);
  await connected;
  assertEquals(client.events, NO_TROUBLE);
});

Deno.test("a race that all transports lose is followed by a delay", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using racing = await race(http, time);
  const { client, peer, streaming } = racing;
  streaming.answer("not found", 404);
  (await http.receive()).answer("not found", 404);
  const delayed = client.heard("connecting_in");
  peer.close(1011);
  assertEquals(await delayed, 1);
  time.tick(1_000);
  await http.server.establish();
  await client.heard("connected");
});

Deno.test("a race that nothing wins in 15 seconds is given up", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using racing = await race(http, time);
  const { client, peer, streaming } = racing;
  streaming.write(PRELUDE);
  const delayed = client.heard("connecting_in");
  time.tick(4_000);
  await http.receive();
  // A stream that does not begin gives its connection to the browser back.
  time.tick(4_000);
  await within(DEADLINE_MS, "end of streaming", streaming.givenUp);
  assertEquals(client.dataOf("connecting_in"), []);
  time.tick(7_000);
  await delayed;
  await within(DEADLINE_MS, "close", peer.closed);
});

Deno.test("a server that refuses over one transport is not asked over the others", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using racing = await race(http, time);
  const { client, peer, streaming } = racing;
  const disconnected = client.heard("disconnected");
  streaming.write('o\nc[4001,"no such app"]\n');
  await disconnected;
  await within(DEADLINE_MS, "close", peer.closed);
  assertEquals(time.next(), false);
});

Deno.test("disconnect() during a race leaves nothing", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  using racing = await race(http, time);
  const { client, peer, streaming } = racing;
  streaming.write(PRELUDE);
  client.pusher.disconnect();
  await within(DEADLINE_MS, "close", peer.closed);
  await within(DEADLINE_MS, "end of streaming", streaming.givenUp);
  assertEquals(time.next(), false);
});

Deno.test("a delay that an outage has left is not carried over to other transports", async () => {
  using time = new FakeTime();
  await using http = new HttpServer();
  const { server } = http;
  using client = new Client(http);
  const peer = await server.establish();
  await client.heard("connected");
  server.isDown = true;
  const { onRequest } = server;
  server.onRequest = () => new Response("down", { status: 503 });
  const lost = client.heard("connecting_in");
  peer.close(1011);
  await lost;
  for (let rounds = 1; rounds < 6; rounds++) {
    await until(() => {
      const isOver = client.dataOf("connecting_in").length > rounds;
      if (!isOver) time.tick(1_000);
      return isOver;
    });
  }
  // The network is back, and WebSocket is blocked.
  server.onRequest = onRequest;
  const announced = client.dataOf("connecting_in").length;
  const failed = client.heard("error");
  using sockets = new Sockets();
  while (sockets.urls.length === 0) time.next();
  await failed;
  time.tick(0);
  const streaming = await http.receive();
  streaming.answer("not found", 404);
  const connected = client.heard("connected");
  (await http.receive()).answer(`o\n${line(greeting("2.2"))}`);
  await connected;
  assertEquals(client.dataOf("connecting_in").length, announced);
});

// ---- Our own server ---------------------------------------------------------

Deno.test("the losers of a race leave no connection and no gap", async () => {
  await using server = new RealServer();
  server.isSwallowing = server.isBuffering = true;
  using client = await server.connect();
  assertEquals(client.pusher.connection.transport.name, "xhr_polling");
  const channel = await joinReal(client, "a");
  const received: unknown[] = [];
  channel.bind("x", (data) => received.push(data));
  // The stream that was held back has been greeted by the server.
  await until(() => server.connections === 1);
  for (let i = 0; i < 20; i++) {
    await server.pusher.trigger("a", "x", i);
    if (i !== 10) continue;
    const again = heard(channel, "pusher:subscription_succeeded");
    client.pusher.disconnect();
    client.pusher.connect();
    await again;
  }
  await until(() => received.length === 20);
  assertEquals(received, Array.from({ length: 20 }, (_, i) => i));
});

// ---- The stock client in the same run ---------------------------------------

/** Waits until the stock client is connected, or connected again. */
function connected({ pusher: { connection } }: StockClient): Promise<void> {
  const promise = new Promise<void>((resolve) =>
    connection.bind("connected", () => resolve())
  );
  return within(DEADLINE_MS, "connection of the stock client", promise);
}

/** What a network may do to WebSocket and to streaming. */
const NETWORKS = [
  { isBlocking: true },
  { isSwallowing: true },
  { isBlocking: true, isBuffering: true },
  { isSwallowing: true, isBuffering: true },
];

Deno.test("the client is connected before the stock client, whatever a network blocks", async () => {
  const winners = NETWORKS.map(async (network) => {
    await using server = new RealServer();
    Object.assign(server, network);
    const { port } = server;
    using stock = new StockClient(server, {
      enabledTransports: ["ws", "xhr_streaming", "xhr_polling"],
      httpHost: "127.0.0.1",
      httpPort: port,
    }, "app-key");
    using client = new Client(server);
    const order: string[] = [];
    await Promise.all([
      client.heard("connected").then(() => order.push("ours")),
      connected(stock).then(() => order.push("stock")),
    ]);
    return { ...network, winner: order[0] };
  });
  assertEquals(
    await Promise.all(winners),
    NETWORKS.map((network) => ({ ...network, winner: "ours" })),
  );
});

/** How often both clients are cut: each time the stock client is back. */
const CUTS = 8;

Deno.test("the client is back when the stock client is, cut after cut", async () => {
  await using server = new RealServer();
  await using proxy = await FaultProxy.open({ port: server.port });
  using client = new Client(proxy);
  using stock = new StockClient(proxy, {}, "app-key");
  await Promise.all([client.heard("connected"), connected(stock)]);
  let present = 0;
  for (let cuts = 0; cuts < CUTS; cuts++) {
    const back = connected(stock);
    await proxy.clear("reset");
    await back;
    if (client.pusher.connection.state === "connected") present++;
  }
  // Jitter may make it as late as the stock client now and then.
  assert(present > CUTS / 2, `back ${present} times of ${CUTS}`);
});
