/**
 * The client against a server that follows each test's script, over real
 * sockets. Where time matters it is fake, so that nothing waits for it.
 */
import {
  assert,
  assertEquals,
  assertExists,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  type Channel,
  type ConnectionError,
  Emitter,
  type Frame,
  Members,
  PresenceChannel,
  preset,
  Pusher,
  type PusherOptions,
  type SubscriptionError,
  type UserAuthentication,
} from "@glitz/pusher/client";
import nacl from "npm:tweetnacl@1.0.3";
import { CLIENT_BUNDLE, CLIENT_ETAG } from "./client_bundle.ts";
import {
  Client,
  heard,
  Inbox,
  join,
  Listeners,
  open,
  optionsFor,
  type Peer,
  reconnect,
  record,
  Server,
  settled,
  Uncaught,
  until,
  within,
} from "./tests/support/client.ts";

// ---- Construction -----------------------------------------------------------

Deno.test("Pusher refuses what it cannot work with", () => {
  const host = { wsHost: "127.0.0.1", enabledTransports: [] };
  for (const key of [undefined, null, "", 7]) {
    // The types forbid it, scripts do it.
    assertThrows(() => new Pusher(key as string, host), TypeError, '"key"');
  }
  assertThrows(() => new Pusher("app-key"), TypeError, '"wsHost"');
  for (const ms of [0, -1, NaN, Infinity, 2 ** 31]) {
    const options = { ...host, pongTimeout: ms };
    const make = () => new Pusher("app-key", options);
    assertThrows(make, RangeError, `"pongTimeout" is ${ms}`);
  }
});

Deno.test("Pusher takes the server from options, cluster or page", () => {
  const server = (page: string | undefined, options: PusherOptions) => {
    const { config } = atPage(
      page,
      () => new Pusher("app-key", { ...options, enabledTransports: [] }),
    );
    const { wsHost, wsPort, wssPort, useTLS } = config;
    return [wsHost, wsPort, wssPort, useTLS];
  };
  const http = "http://page.example:9292";
  const https = "https://page.example";
  const host = { wsHost: "ws.example" };

  assertEquals(server(undefined, host), ["ws.example", 80, 443, true]);
  assertEquals(server(undefined, { ...host, forceTLS: false }).at(-1), false);
  assertEquals(
    server(undefined, { ...host, wsPort: 1, wssPort: 2 }).slice(1, 3),
    [1, 2],
  );
  assertEquals(server(http, { ...host, cluster: "x" })[0], "ws.example");
  assertEquals(server(http, { cluster: "eu" }), [
    "ws-eu.pusher.com",
    80,
    443,
    true,
  ]);
  assertEquals(server(http, {}), ["page.example", 9292, 9292, false]);
  assertEquals(server(http, { wsHost: "", cluster: "" })[0], "page.example");
  assertEquals(server(http, { forceTLS: true }).at(-1), true);
  assertEquals(server(https, {}), ["page.example", 80, 443, true]);
  assertEquals(server(https, { forceTLS: false }).at(-1), true);
  for (const page of ["null", "file://", "capacitor://localhost"]) {
    assertThrows(() => server(page, {}), TypeError, '"wsHost"');
  }
});

/** Runs as if a page of that origin did. */
function atPage<T>(origin: string | undefined, run: () => T): T {
  const before = Object.getOwnPropertyDescriptor(globalThis, "location")!;
  Object.defineProperty(globalThis, "location", {
    value: origin && { origin },
    configurable: true,
  });
  try {
    return run();
  } finally {
    Object.defineProperty(globalThis, "location", before);
  }
}

Deno.test("Pusher without a transport is failed", () => {
  for (
    const transports of [
      { enabledTransports: ["wss"] },
      { enabledTransports: ["ws"], disabledTransports: ["ws"] },
    ]
  ) {
    const options = { wsHost: "127.0.0.1", ...transports };
    assertEquals(new Pusher("app-key", options).connection.state, "failed");
  }
});

Deno.test("Pusher says so where the runtime has no WebSocket", () => {
  const { WebSocket } = globalThis;
  // deno-lint-ignore no-explicit-any -- older runtimes are like this
  (globalThis as any).WebSocket = undefined;
  try {
    const make = () => new Pusher("app-key", { wsHost: "127.0.0.1" });
    assertThrows(make, Error, "no WebSocket");
  } finally {
    globalThis.WebSocket = WebSocket;
  }
});

Deno.test("Pusher keeps what it was made with", () => {
  const options = { wsHost: "127.0.0.1", enabledTransports: [] };
  const pusher = new Pusher("app-key", options);
  assertEquals(pusher.key, "app-key");
  assertStrictEquals(pusher.options, options);
  assertStrictEquals(Pusher.instances.at(-1), pusher);
  assert(Number.isInteger(pusher.sessionID));
  assertStrictEquals(pusher.global_emitter, pusher);
  Pusher.ready();
  assertEquals(Pusher.isReady, true);
  const { activityTimeout, pongTimeout, unavailableTimeout } = pusher.config;
  assertEquals(
    [activityTimeout, pongTimeout, unavailableTimeout],
    [120_000, 30_000, 10_000],
  );
});

Deno.test("Pusher.log hears of states and frames", async () => {
  const lines: string[] = [];
  Pusher.log = (line) => lines.push(line);
  try {
    await using server = new Server();
    using connection = await open(server);
    await join(connection, "a");
  } finally {
    Pusher.log = null;
  }
  assertEquals(
    lines[0],
    'Pusher : : ["State changed","initialized -> connecting"]',
  );
  assert(lines.some((line) => line.includes("Event recd")));
  assert(lines.some((line) => line.includes("Event sent")));
});

// ---- Connection -------------------------------------------------------------

Deno.test("Pusher connects to the app's path with the protocol version", async () => {
  await using server = new Server();
  const pusher = new Pusher("a/key", optionsFor(server, { wsPath: "/x" }));
  const { request } = await server.accept();
  const { pathname, searchParams } = new URL(request.url);
  pusher.disconnect();
  assertEquals(pathname, "/x/app/a%2Fkey");
  assertEquals(searchParams.get("protocol"), "7");
});

Deno.test("connection goes through its states, each with an event", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  assertEquals(client.pusher.connection.state, "connected");
  assertEquals(client.pusher.connection.socket_id, "1.1");
  client.pusher.disconnect();
  assertEquals(client.events, [
    ["state_change", { previous: "connecting", current: "connected" }],
    ["connected", { socket_id: "1.1" }],
    ["state_change", { previous: "connected", current: "disconnected" }],
    ["disconnected", undefined],
  ]);
  assertEquals(client.pusher.connection.socket_id, undefined);
  await within("close", peer.closed);

  client.events.length = 0;
  client.pusher.connect();
  client.pusher.connect();
  const again = client.heard("connected");
  await server.establish("2.2");
  await again;
  assertEquals(client.events.map(([event]) => event), [
    "state_change",
    "connecting",
    "state_change",
    "connected",
  ]);
  assertEquals(client.pusher.connection.socket_id, "2.2");
});

/** How the ends of a socket are reported once it was greeted. */
const REPORTS = {
  none: [],
  once: ["PusherError"],
  twice: ["PusherError", "WebSocketError"],
};

/** Close codes, what is reported, and what the client does next. */
const CLOSES: [number, keyof typeof REPORTS, "wait" | "at once" | "stop"][] = [
  [1000, "none", "wait"],
  [1001, "none", "wait"],
  [1002, "twice", "wait"],
  [1003, "twice", "wait"],
  [1006, "once", "wait"],
  [1011, "once", "wait"],
  [3000, "once", "wait"],
  [4001, "twice", "stop"],
  [4009, "twice", "stop"],
  [4099, "twice", "stop"],
  [4100, "twice", "wait"],
  [4199, "twice", "wait"],
  [4200, "twice", "at once"],
  [4299, "twice", "at once"],
  [4300, "twice", "stop"],
  [4999, "twice", "stop"],
];

for (const [code, report, next] of CLOSES) {
  Deno.test(`close ${code} of a connection: ${next}, reported ${report}`, async () => {
    using time = new FakeTime();
    using server = new RawServer();
    using client = new Client(server);
    const connected = client.heard("connected");
    const peer = await server.accept();
    await peer.establish();
    await connected;
    client.events.length = 0;

    const left = client.heard("state_change");
    await peer.close(code);
    await left;
    const current = next === "stop" ? "disconnected" : "connecting";
    assertEquals(
      client.dataOf("error").map((error) => (error as ConnectionError).type),
      REPORTS[report],
    );
    assertEquals(client.dataOf("state_change"), [
      { previous: "connected", current },
    ]);
    assertEquals(client.dataOf("connecting_in"), next === "wait" ? [1] : []);
    if (next === "stop") {
      assertEquals(time.next(), false);
    } else {
      time.tick(next === "wait" ? 1_500 : 0);
      await server.accept();
    }
  });
}

Deno.test("close code and reason are in both forms of the error", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  const disconnected = client.heard("disconnected");
  peer.close(4004, "full");
  await disconnected;
  const error = {
    type: "PusherError",
    data: { code: 4004, message: "full" },
  };
  assertEquals(client.dataOf("error"), [
    error,
    { type: "WebSocketError", error },
  ]);
});

Deno.test("close before the greeting is reported once, and acted upon alike", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using client = new Client(server);
  const waiting = client.heard("connecting_in");
  (await server.accept()).close(4100, "later");
  assertEquals(await waiting, 1);
  assertEquals(client.dataOf("error"), [{
    type: "WebSocketError",
    error: { type: "PusherError", data: { code: 4100, message: "later" } },
  }]);
  time.tick(1_500);
  const disconnected = client.heard("disconnected");
  (await server.accept()).close(4001);
  await disconnected;
});

Deno.test("close 4000 switches to TLS at once, and for good", async () => {
  await using server = new Server();
  using tls = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using client = new Client(server, { wssPort: tls.addr.port });
  (await server.establish()).close(4000);
  for (let attempt = 0; attempt < 2; attempt++) {
    using tcp = await within("connection", tls.accept());
    const firstByte = new Uint8Array(1);
    await tcp.read(firstByte);
    // The type of a TLS handshake record.
    assertEquals(firstByte[0], 0x16);
  }
  assertEquals(client.pusher.connection.state, "connecting");
});

Deno.test("close 4200 again and again is not answered by a hot loop", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using client = new Client(server);
  (await server.establish()).close(4200);
  await until(() => client.dataOf("state_change").length === 2);
  assertEquals(client.dataOf("connecting_in"), []);
  time.tick(0);
  const delayed = client.heard("connecting_in");
  (await server.establish()).close(4200);
  assert(await delayed as number >= 1);
});

Deno.test("delays grow to 30 seconds, until a connection lasts", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using client = new Client(server);
  const ranges = [[1, 1], [2, 3], [4, 6], [8, 12], [16, 24], [20, 30], [
    20,
    30,
  ]];
  for (const [least, most] of ranges) {
    const delayed = client.heard("connecting_in");
    (await server.establish()).close(4100);
    const seconds = await delayed as number;
    assert(seconds >= least! && seconds <= most!, `${seconds} s`);
    // The number of seconds was rounded.
    time.tick(most! * 1_000 + 500);
  }
  const connected = client.heard("connected");
  const peer = await server.establish();
  await connected;
  time.tick(10_000);
  const delayed = client.heard("connecting_in");
  peer.close(4100);
  assertEquals(await delayed, 1);
});

Deno.test("delays start over with connect() after disconnect()", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using client = new Client(server);
  for (const isRetry of [false, true]) {
    const delayed = client.heard("connecting_in");
    (await server.establish()).close(4100);
    assertEquals(await delayed as number > 1, isRetry);
    time.tick(1_500);
  }
  client.pusher.disconnect();
  client.pusher.connect();
  const delayed = client.heard("connecting_in");
  (await server.establish()).close(4100);
  assertEquals(await delayed, 1);
});

Deno.test("connection becomes unavailable while attempts go on", async () => {
  using time = new FakeTime();
  await using server = new Server();
  server.isDown = true;
  using client = new Client(server, { enabledTransports: ["ws"] });
  assertEquals(await client.heard("connecting_in"), 1);
  const [error] = client.dataOf("error") as ConnectionError[];
  assertEquals(error?.type, "WebSocketError");
  const failedAgain = client.heard("connecting_in");
  time.tick(9_999);
  assertEquals(client.pusher.connection.state, "connecting");
  time.tick(1);
  assertEquals(client.pusher.connection.state, "unavailable");
  await failedAgain;
  assertEquals(client.pusher.connection.state, "unavailable");

  server.isDown = false;
  time.tick(3_000);
  const connected = client.heard("connected");
  await server.establish();
  await connected;
  assertEquals(client.dataOf("state_change"), [
    { previous: "connecting", current: "unavailable" },
    { previous: "unavailable", current: "connected" },
  ]);
});

Deno.test("an attempt that hangs is given up, before and after it opens", async () => {
  using time = new FakeTime();
  using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using silent = new Client(tcp.addr);
  using _connection = await within("connection", tcp.accept());
  const late = silent.heard("connecting_in");
  time.tick(15_000);
  await late;

  await using server = new Server();
  using client = new Client(server);
  await server.accept();
  const delayed = client.heard("connecting_in");
  time.tick(15_000);
  await delayed;
  time.tick(1_500);
  const connected = client.heard("connected");
  await server.establish();
  await connected;
});

/** First frames that are no greeting. */
const BAD_GREETINGS = [
  "not JSON",
  "null",
  "[]",
  "{}",
  '{"event":7}',
  '{"event":"pusher:ping","data":"{}"}',
  '{"event":"pusher:connection_established"}',
  '{"event":"pusher:connection_established","data":"{}"}',
  '{"event":"pusher:error","data":{"code":null,"message":"odd"}}',
  '{"event":"pusher:error"}',
];

for (const text of BAD_GREETINGS) {
  Deno.test(`first frame ${text} leads to another attempt`, async () => {
    using time = new FakeTime();
    await using server = new Server();
    using client = new Client(server);
    const delayed = client.heard("connecting_in");
    (await server.accept()).sendText(text);
    await delayed;
    const [error] = client.dataOf("error") as ConnectionError[];
    assertEquals(error?.type, "HandshakeError");
    time.tick(1_500);
    const connected = client.heard("connected");
    await server.establish();
    await connected;
  });
}

Deno.test("pusher:error with a code instead of a greeting is like a close", async () => {
  await using server = new Server();
  using client = new Client(server);
  const disconnected = client.heard("disconnected");
  (await server.accept()).sendText(
    '{"event":"pusher:error","data":{"code":4001,"message":"no such app"}}',
  );
  await disconnected;
  assertEquals(client.dataOf("error").length, 1);
});

Deno.test("pusher:ping is sent after the shorter activity timeout", async () => {
  using time = new FakeTime();
  await using server = new Server();
  for (
    const { option, told, ms } of [
      { option: 120_000, told: 30, ms: 30_000 },
      { option: 5_000, told: 120, ms: 5_000 },
      { option: 7_000, told: 0, ms: 7_000 },
    ]
  ) {
    using client = new Client(server, { activityTimeout: option });
    const connected = client.heard("connected");
    const peer = await server.accept();
    peer.establish("1.1", told);
    await connected;
    time.tick(ms - 1);
    // What arrives starts the time anew, and the answer shows that it has.
    await settled(peer);
    time.tick(ms - 1);
    await settled(peer);
    time.tick(ms);
    assertEquals(await peer.next(), { event: "pusher:ping", data: {} });
  }
});

Deno.test("pusher:ping without an answer ends in a reconnect at once", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  time.tick(120_000);
  assertEquals((await peer.next()).event, "pusher:ping");
  const pong = heard(client.pusher.connection, "message");
  peer.send("pusher:pong", {});
  assertEquals((await pong).event, "pusher:pong");
  time.tick(120_000);
  assertEquals((await peer.next()).event, "pusher:ping");
  time.tick(29_999);
  assertEquals(client.pusher.connection.state, "connected");
  time.tick(1);
  assertEquals(client.pusher.connection.state, "connecting");
  assertEquals(client.dataOf("connecting_in"), []);
  time.tick(0);
  const connected = client.heard("connected");
  await server.establish();
  await connected;
});

Deno.test("frames that cannot be read are reported, and not the end", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  const bad = ["{", "null", "[]", '"text"', "{}", '{"event":{}}'];
  for (const text of bad) peer.sendText(text);
  await settled(peer);
  const errors = client.dataOf("error") as ConnectionError[];
  assertEquals(
    errors.map((error) =>
      error.type === "MessageParseError" ? error.data : null
    ),
    bad,
  );
});

Deno.test("message carries every frame, its data decoded", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  const seen: Frame[] = [];
  client.pusher.connection.bind("message", (frame) => seen.push(frame));
  peer.sendText('{"event":"a","channel":"c","data":"12","user_id":"u"}');
  peer.sendText('{"event":"a","data":"plain"}');
  peer.sendText('{"event":"a","data":"null"}');
  peer.sendText('{"event":"pusher_internal:a","data":{"b":1}}');
  await settled(peer);
  assertEquals(seen.slice(0, 4), [
    { event: "a", channel: "c", data: 12, user_id: "u" },
    { event: "a", data: "plain" },
    { event: "a", data: null },
    { event: "pusher_internal:a", data: { b: 1 } },
  ]);
});

Deno.test("pusher:error is heard on connection, client and channel", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  const channel = await join(connection, "a");
  const data = { code: 4301, message: "no" };
  const all = [
    heard(client.pusher.connection, "error"),
    heard(client.pusher, "pusher:error"),
    heard(channel, "pusher:error"),
  ];
  peer.sendText(JSON.stringify({ event: "pusher:error", channel: "a", data }));
  assertEquals(await Promise.all(all), [
    { type: "PusherError", data },
    data,
    data,
  ]);
  assertEquals(client.pusher.connection.state, "connected");
});

for (const event of ["online", "pageshow", "visibilitychange"]) {
  Deno.test(`${event} makes an attempt at once, or asks for a quick sign of life`, async () => {
    using time = new FakeTime();
    await using server = new Server();
    using client = new Client(server);
    const waiting = client.heard("connecting_in");
    (await server.accept()).close(4100);
    await waiting;
    globalThis.dispatchEvent(new Event(event));
    const connected = client.heard("connected");
    const peer = await server.establish();
    await connected;
    globalThis.dispatchEvent(new Event(event));
    assertEquals((await peer.next()).event, "pusher:ping");
    time.tick(4_999);
    assertEquals(client.pusher.connection.state, "connected");
    time.tick(1);
    assertEquals(client.pusher.connection.state, "connecting");
  });
}

Deno.test("online makes another attempt in place of one that hangs", async () => {
  await using server = new Server();
  using client = new Client(server);
  const hanging = await server.accept();
  // A page that is shown has nothing to do with it.
  globalThis.dispatchEvent(new Event("pageshow"));
  globalThis.dispatchEvent(new Event("online"));
  await within("close", hanging.closed);
  const connected = client.heard("connected");
  const peer = await server.establish();
  await connected;
  await settled(peer);
  assertEquals(client.dataOf("error"), []);
});

Deno.test("a pong in time after waking keeps the connection", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using connection = await open(server, { pongTimeout: 2_000 });
  const { client, peer } = connection;
  globalThis.dispatchEvent(new Event("online"));
  assertEquals((await peer.next()).event, "pusher:ping");
  // No longer than the program itself would wait.
  time.tick(1_999);
  const pong = heard(client.pusher.connection, "message");
  peer.send("pusher:pong", {});
  await pong;
  time.tick(5_000);
  assertEquals(client.pusher.connection.state, "connected");
});

Deno.test("waking too early makes the next attempts early, too", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using client = new Client(server, { enabledTransports: ["ws"] });
  for (let failures = 0; failures < 4; failures++) {
    const waiting = client.heard("connecting_in");
    (await server.accept()).close(4100);
    await waiting;
    if (failures < 3) time.tick(1_500 * 2 ** failures);
  }
  globalThis.dispatchEvent(new Event("online"));
  const waiting = client.heard("connecting_in");
  (await server.accept()).close(4100);
  await waiting;
  // Not after the delay of the fifth failure, which is above 16 seconds.
  time.tick(1_500);
  const connected = client.heard("connected");
  await server.establish();
  await connected;
});

Deno.test("what may have arrived before waking is no sign of life", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  globalThis.dispatchEvent(new Event("offline"));
  assertEquals((await peer.next()).event, "pusher:ping");
  const message = heard(client.pusher.connection, "message");
  peer.send("news", {});
  await message;
  time.tick(5_000);
  assertEquals(client.pusher.connection.state, "connecting");
});

Deno.test("offline asks for a sign of life, and makes no attempt", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  globalThis.dispatchEvent(new Event("offline"));
  assertEquals((await peer.next()).event, "pusher:ping");
  time.tick(5_000);
  assertEquals(client.pusher.connection.state, "connecting");
  time.tick(0);
  (await server.accept()).close(4100);
  await client.heard("connecting_in");
  globalThis.dispatchEvent(new Event("offline"));
  time.tick(3_000);
  const connected = client.heard("connected");
  await server.establish();
  await connected;
});

Deno.test("a page that is hidden neither retries nor asks for a sign of life", async () => {
  using _time = new FakeTime();
  await using server = new Server();
  using connection = await open(server);
  // What listens here is told of documents, which are the targets then.
  const event = new Event("visibilitychange");
  Object.defineProperty(event, "target", { value: { hidden: true } });
  globalThis.dispatchEvent(event);
  await settled(connection.peer);
});

Deno.test("connect() does not wait for the next attempt", async () => {
  using _time = new FakeTime();
  await using server = new Server();
  using client = new Client(server);
  const waiting = client.heard("connecting_in");
  (await server.accept()).close(4100);
  await waiting;
  client.pusher.connect();
  const connected = client.heard("connected");
  const peer = await server.establish();
  await connected;
  // There is nothing to do for it now.
  client.pusher.connect();
  await settled(peer);
});

Deno.test("disconnect() in a handler of the end is the end", async () => {
  using time = new FakeTime();
  await using server = new Server();
  for (const event of ["error", "state_change", "connecting"] as const) {
    using connection = await open(server);
    const { client, peer } = connection;
    client.pusher.connection.bind(event, () => client.pusher.disconnect());
    const disconnected = client.heard("disconnected");
    peer.close(4100);
    await disconnected;
    assertEquals(client.dataOf("connecting_in"), []);
    assertEquals(client.pusher.connection.state, "disconnected");
    const announced = client.dataOf("connecting").length;
    assertEquals(announced, event === "connecting" ? 1 : 0);
    assertEquals(time.next(), false);
  }
});

Deno.test("disconnect() leaves no timer and no listener", async () => {
  using time = new FakeTime();
  using listeners = new Listeners();
  await using server = new Server();
  using waiting = new Client(server);
  const delayed = waiting.heard("connecting_in");
  (await server.accept()).close(4100);
  await delayed;
  using connection = await open(server);
  assertNotEquals(listeners.names.size, 0);
  for (const client of [waiting, connection.client]) {
    client.pusher.disconnect();
    client.pusher.disconnect();
  }
  await within("close", connection.peer.closed);
  assertEquals([...listeners.names.values()], []);
  assertEquals(time.next(), false);
});

// ---- Channels ---------------------------------------------------------------

Deno.test("subscribe() before the connection, with handlers that survive a reconnect", async () => {
  await using server = new Server();
  using client = new Client(server);
  const texts: unknown[] = [];
  const channel = client.pusher.subscribe("messages");
  assertStrictEquals(
    channel.bind("create", ({ text }) => texts.push(text)),
    channel,
  );
  assertStrictEquals(client.pusher.subscribe("messages"), channel);

  for (const socketId of ["1.1", "2.2"]) {
    const peer = await server.establish(socketId);
    assertEquals(await peer.next(), {
      event: "pusher:subscribe",
      data: { auth: "", channel: "messages" },
    });
    assertEquals(channel.subscriptionPending, true);
    const named = { channel: "messages" };
    peer.send("pusher_internal:subscription_succeeded", {}, named);
    peer.send("create", { text: socketId }, named);
    await settled(peer);
    assertEquals([channel.subscribed, channel.subscriptionPending], [
      true,
      false,
    ]);
    const lost = client.heard("connecting");
    peer.close(4200);
    await lost;
    assertEquals(channel.subscribed, false);
    if (socketId === "1.1") assertEquals(texts, ["1.1"]);
  }
  assertEquals(texts, ["1.1", "2.2"]);
});

Deno.test("channel() and allChannels() know what was subscribed to", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { pusher } = connection.client;
  const a = await join(connection, "a");
  const b = pusher.subscribe("private-b");
  assertStrictEquals(pusher.channel("a"), a);
  assertEquals(pusher.channel("__proto__"), undefined);
  assertEquals(pusher.allChannels(), [a, b]);
  assertEquals([...pusher.channels.keys()], ["a", "private-b"]);
  assertStrictEquals(a.pusher, pusher);
});

Deno.test("unsubscribe() tells the server and forgets the channel", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const channel = await join(connection, "a");
  pusher.unsubscribe("a");
  pusher.unsubscribe("never-known");
  assertEquals(await peer.framesUntilPong(), [
    { event: "pusher:unsubscribe", data: { channel: "a" } },
  ]);
  assertEquals([channel.subscribed, pusher.channel("a")], [false, undefined]);
  assertNotEquals(pusher.subscribe("a"), channel);
});

Deno.test("unsubscribe() while pending takes effect once the server has answered", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const heardEvents: string[] = [];
  const cancel = async (name: string) => {
    const channel = pusher.subscribe(name);
    channel.bind_global((event) => heardEvents.push(event));
    await peer.next();
    pusher.unsubscribe(name);
    assertEquals(channel.subscriptionCancelled, true);
  };
  await cancel("a");
  peer.send("pusher_internal:subscription_succeeded", {}, { channel: "a" });
  assertEquals(await peer.framesUntilPong(), [
    { event: "pusher:unsubscribe", data: { channel: "a" } },
  ]);
  await cancel("b");
  const refusal = { type: "AuthError", error: "no", status: 401 };
  peer.send("pusher:subscription_error", refusal, { channel: "b" });
  await settled(peer);
  await cancel("c");
  const changed = heard(pusher.connection, "connecting");
  peer.close(4200);
  await changed;
  assertEquals(pusher.allChannels(), []);
  assertEquals(heardEvents, []);

  const next = await server.establish("2.2");
  await settled(next);
});

Deno.test("subscribe() after unsubscribe() while pending keeps the subscription", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const channel = pusher.subscribe("a");
  await peer.next();
  pusher.unsubscribe("a");
  assertStrictEquals(pusher.subscribe("a"), channel);
  peer.send("pusher_internal:subscription_succeeded", {}, { channel: "a" });
  await settled(peer);
  assertEquals(channel.subscribed, true);
});

Deno.test("pusher:subscription_error of the server leaves the way free for another try", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const channel = pusher.subscribe("a");
  await peer.next();
  const error = { type: "LimitReached", error: "too many", status: 403 };
  const both = [channel, pusher].map((emitter) =>
    heard(emitter, "pusher:subscription_error")
  );
  peer.send("pusher:subscription_error", error, { channel: "a" });
  assertEquals(await Promise.all(both), [error, error]);
  assertEquals(channel.subscriptionPending, false);
  assertStrictEquals(pusher.subscribe("a"), channel);
  assertEquals((await peer.next()).event, "pusher:subscribe");
});

Deno.test("subscribe() refuses names that cannot be subscribed to", () => {
  const pusher = new Pusher("app-key", {
    wsHost: "127.0.0.1",
    enabledTransports: [],
  });
  const nameOf = (channel: string) =>
    assertThrows(() => pusher.subscribe(channel), Error).name;
  assertEquals(nameOf("#server-to-user-1"), "BadChannelName");
  assertEquals(nameOf("private-encrypted-a"), "UnsupportedFeature");
  assertEquals(pusher.allChannels(), []);
});

Deno.test("pusher:subscription_count and pusher:cache_miss are heard", async () => {
  await using server = new Server();
  using connection = await open(server);
  const channel = await join(connection, "cache-a");
  const { peer } = connection;
  const calls: unknown[][] = [];
  const record = (...args: unknown[]) => calls.push(args);
  channel.bind("pusher:subscription_count", record);
  channel.bind("pusher:cache_miss", record);
  const named = { channel: "cache-a" };
  for (const subscription_count of [3, 0]) {
    peer.send("pusher_internal:subscription_count", {
      subscription_count,
    }, named);
    await settled(peer);
    assertEquals(channel.subscriptionCount, subscription_count);
  }
  peer.send("pusher:cache_miss", undefined, named);
  await settled(peer);
  assertEquals(calls, [
    [{ subscription_count: 3 }],
    [{ subscription_count: 0 }],
    [undefined, {}],
  ]);
});

Deno.test("Pusher.bind hears the events of all channels but internal ones", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  await join(connection, "a");
  const calls: unknown[][] = [];
  pusher.bind("create", (...args: unknown[]) => calls.push(args));
  pusher.bind_global((...args: unknown[]) => calls.push(args));
  peer.send("create", 1, { channel: "a" });
  peer.send("create", 2, { channel: "not-subscribed" });
  peer.send("pusher_internal:other", 3, { channel: "a" });
  await settled(peer);
  assertEquals(calls.slice(0, 4), [["create", 1], [1], ["create", 2], [2]]);
  assertEquals(calls.slice(4), [["pusher:ping", {}]]);
});

Deno.test("trigger() sends client events, and says when it does not", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const channel = await join(connection, "a");
  assertEquals(channel.trigger("client-a", { b: 1 }), true);
  assertEquals(channel.trigger("client-a"), true);
  assertEquals(pusher.send_event("x", 1, "c"), true);
  assertEquals(await peer.framesUntilPong(), [
    { event: "client-a", data: { b: 1 }, channel: "a" },
    { event: "client-a", channel: "a" },
    { event: "x", data: 1, channel: "c" },
  ]);
  const error = assertThrows(() => channel.trigger("xclient-a"), Error);
  assertEquals(error.name, "BadEventName");
  pusher.disconnect();
  assertEquals(channel.trigger("client-a"), false);
  assertEquals(pusher.send_event("x"), false);
});

// ---- Authorization ----------------------------------------------------------

Deno.test("private channels ask the endpoint with a form", async () => {
  await using server = new Server();
  const asked: [string, string | null, string][] = [];
  server.onRequest = async (request) => {
    const { method, headers } = request;
    asked.push([method, headers.get("x-token"), await request.text()]);
    assertMatch(headers.get("content-type")!, /^application\/x-www-form-/);
    return Response.json({ auth: "app-key:signature" });
  };
  const endpoint = server.url("/auth");
  const expected = (rest: string): [string, string, string] => [
    "POST",
    "t",
    `socket_id=1.1&channel_name=private-a${rest}`,
  ];
  const headers = { "x-token": "t" };
  const params = { a: 1 };
  for (
    const options of [
      { channelAuthorization: { endpoint, params, headers } },
      {
        channelAuthorization: {
          endpoint,
          paramsProvider: () => params,
          headersProvider: () => headers,
        },
        authEndpoint: "/not-this-one",
      },
      { authEndpoint: endpoint, auth: { params, headers } },
    ]
  ) {
    using connection = await open(server, options);
    connection.client.pusher.subscribe("private-a");
    assertEquals(await connection.peer.next(), {
      event: "pusher:subscribe",
      data: { auth: "app-key:signature", channel: "private-a" },
    });
    assertEquals(asked.pop(), expected("&a=1"));
  }
});

Deno.test("private channels ask the program's function instead", async () => {
  await using server = new Server();
  const answer = { auth: "app-key:signature", channel_data: '{"user_id":"1"}' };
  for (
    const options of [
      {
        channelAuthorization: {
          customHandler: ({ socketId, channelName }, callback) => {
            assertEquals([socketId, channelName], ["1.1", "presence-a"]);
            callback(null, answer);
          },
        },
      },
      {
        authorizer: (channel, { wsHost }) => ({
          authorize(socketId, callback) {
            assertInstanceOf(channel, PresenceChannel);
            assertEquals([socketId, wsHost], ["1.1", "127.0.0.1"]);
            callback(null, answer);
          },
        }),
      },
    ] satisfies PusherOptions[]
  ) {
    using connection = await open(server, options);
    connection.client.pusher.subscribe("presence-a");
    assertEquals((await connection.peer.next()).data, {
      ...answer,
      channel: "presence-a",
    });
  }
});

Deno.test("a refused permission is an error of the channel, and may be asked for again", async () => {
  await using server = new Server();
  using connection = await open(server, { authEndpoint: server.url("/auth") });
  const { client: { pusher }, peer } = connection;
  const answers: [Response, number | undefined, string][] = [
    [new Response("no", { status: 403 }), 403, "status is 403"],
    [Response.json({ auth: "a" }, { status: 201 }), 201, "status is 201"],
    [new Response("{"), 200, "JSON"],
    [Response.json(null), 200, "no auth in answer"],
    [Response.json({ auth: 7 }), 200, "no auth in answer"],
    [Response.json({ auth: "a" }), undefined, "no channel_data in answer"],
  ];
  for (const [response, status, text] of answers) {
    server.onRequest = () => response;
    const channel = pusher.subscribe("presence-a");
    const error: SubscriptionError = await heard(
      channel,
      "pusher:subscription_error",
    );
    assertEquals([error.type, error.status], ["AuthError", status]);
    assertStringIncludes(error.error, text);
    assertEquals(channel.subscriptionPending, false);
  }
  await settled(peer);
});

Deno.test("an endpoint that cannot be reached is an error with status 0", async () => {
  await using server = new Server();
  // Without a page there is nothing that this could be relative to.
  using connection = await open(server, { authEndpoint: "/auth" });
  const channel = connection.client.pusher.subscribe("private-a");
  const error = await heard(channel, "pusher:subscription_error");
  assertEquals([error.type, error.status], ["AuthError", 0]);
});

Deno.test("errors of the program's function are told as they are", async () => {
  await using server = new Server();
  for (
    const customHandler of [
      (_request, callback) => callback(new Error("no")),
      (_request, callback) => callback("no"),
      (_request, callback) => callback("no", { auth: "app-key:signature" }),
      () => {
        throw new Error("no");
      },
    ] satisfies NonNullable<
      PusherOptions["channelAuthorization"]
    >["customHandler"][]
  ) {
    using connection = await open(server, {
      channelAuthorization: { customHandler },
    });
    const channel = connection.client.pusher.subscribe("private-a");
    const error = await heard(channel, "pusher:subscription_error");
    assertEquals(error, { type: "AuthError", error: "no" });
  }
});

Deno.test("a permission that comes late is not used", async () => {
  await using server = new Server();
  const requests = new Inbox<[string, (auth: string) => void]>();
  using connection = await open(server, {
    channelAuthorization: {
      customHandler({ socketId }, callback) {
        requests.push([socketId, (auth) => callback(null, { auth })]);
      },
    },
  });
  const { client: { pusher }, peer } = connection;
  pusher.subscribe("private-a");
  const [firstId, answerFirst] = await requests.next("request");
  const lost = heard(pusher.connection, "connecting");
  peer.close(4200);
  await lost;
  const next = await server.establish("2.2");
  const [secondId, answerSecond] = await requests.next("request");
  assertEquals([firstId, secondId], ["1.1", "2.2"]);
  answerFirst("first");
  await settled(next);
  answerSecond("second");
  assertEquals((await next.next()).data.auth, "second");

  pusher.subscribe("private-b");
  const [, answer] = await requests.next("request");
  pusher.unsubscribe("private-b");
  answer("cancelled");
  await settled(next);
  assertEquals(pusher.channel("private-b"), undefined);

  pusher.subscribe("private-c");
  const [, answerLast] = await requests.next("request");
  pusher.disconnect();
  answerLast("too late");
  assertEquals(pusher.channel("private-c")?.subscriptionPending, false);
});

// ---- Presence ---------------------------------------------------------------

/** Says who the client is, on any presence channel. */
const asUser = (user_id: unknown): PusherOptions => ({
  channelAuthorization: {
    customHandler: (_request, callback) =>
      callback(null, {
        auth: "app-key:signature",
        channel_data: JSON.stringify({ user_id }),
      }),
  },
});

const presence = (hash: Record<string, unknown>) => ({
  presence: { ids: Object.keys(hash), hash, count: Object.keys(hash).length },
});

Deno.test("members follow additions, removals and reconnects", async () => {
  await using server = new Server();
  using connection = await open(server, asUser(10));
  const { client: { pusher }, peer } = connection;
  const channel = pusher.subscribe("presence-a");
  assertInstanceOf(channel, PresenceChannel);
  assertEquals([channel.members.count, channel.members.me], [0, null]);

  const succeeded = heard(channel, "pusher:subscription_succeeded");
  await peer.next();
  const named = { channel: "presence-a" };
  peer.send(
    "pusher_internal:subscription_succeeded",
    presence({ "10": { name: "Ann" }, x: {} }),
    named,
  );
  const members = await succeeded;
  assertInstanceOf(members, Members);
  assertStrictEquals(members, channel.members);
  assertEquals([members.count, members.myID], [2, "10"]);
  assertEquals(members.me, { id: "10", info: { name: "Ann" } });
  assertEquals(members.get(10), members.me);
  assertEquals([members.get("y"), members.get("constructor")], [null, null]);

  const events: unknown[] = [];
  channel.bind("pusher:member_added", (member) => events.push(["+", member]));
  channel.bind("pusher:member_removed", (member) => events.push(["-", member]));
  const added = { user_id: "__proto__", user_info: { name: "Bob" } };
  peer.send("pusher_internal:member_added", added, named);
  peer.send("pusher_internal:member_removed", { user_id: "x" }, named);
  peer.send("pusher_internal:member_removed", { user_id: "unknown" }, named);
  await settled(peer);
  assertEquals(events, [
    ["+", { id: "__proto__", info: { name: "Bob" } }],
    ["-", { id: "x", info: {} }],
  ]);
  const ids: string[] = [];
  members.each(({ id }) => ids.push(id));
  assertEquals(ids, ["10", "__proto__"]);

  const lost = heard(pusher.connection, "connecting");
  peer.close(4200);
  await lost;
  assertEquals([members.count, members.me, members.myID], [0, null, null]);
  const next = await server.establish("2.2");
  await next.next();
  next.send(
    "pusher_internal:subscription_succeeded",
    presence({ "10": {} }),
    named,
  );
  await settled(next);
  assertEquals([members.count, members.me], [1, { id: "10", info: {} }]);
  next.send(
    "pusher_internal:subscription_succeeded",
    presence({ x: {} }),
    named,
  );
  await settled(next);
  assertEquals([members.count, members.me], [1, null]);
});

Deno.test("client events on presence channels name their sender", async () => {
  await using server = new Server();
  using connection = await open(server, asUser("ann"));
  const channel = await join(connection, "presence-a", presence({ ann: {} }));
  const calls: unknown[][] = [];
  channel.bind("client-a", (...args: unknown[]) => calls.push(args));
  const { peer } = connection;
  peer.send("client-a", 1, { channel: "presence-a", user_id: "bob" });
  peer.send("client-a", undefined, { channel: "presence-a" });
  await settled(peer);
  assertEquals(calls, [[1, { user_id: "bob" }], [undefined, {}]]);
});

Deno.test("presence frames without their content do no harm", async () => {
  await using server = new Server();
  using connection = await open(server, asUser("ann"));
  const channel = await join(connection, "presence-a", null);
  assertInstanceOf(channel, PresenceChannel);
  for (const data of [undefined, null, 7, "text", {}]) {
    for (const event of ["subscription_succeeded", "member_removed"]) {
      const named = { channel: "presence-a" };
      connection.peer.send(`pusher_internal:${event}`, data, named);
    }
  }
  await settled(connection.peer);
  assertEquals(connection.client.dataOf("error"), []);
});

// ---- User -------------------------------------------------------------------

const PERMISSION = "app-key:signature";

/** Lets into every channel, and says nothing else. */
const PERMITTED: PusherOptions = {
  channelAuthorization: {
    customHandler: (_request, callback) => callback(null, { auth: PERMISSION }),
  },
};

const ANN = '{"id":"ann","user_info":{"name":"Ann"}}';

/** Signs in as Ann. */
const asAnn = (): PusherOptions => ({
  userAuthentication: {
    customHandler: (_request, callback) =>
      callback(null, { auth: PERMISSION, user_data: ANN }),
  },
});

const subscribed = (channel: string, auth = ""): Frame => ({
  event: "pusher:subscribe",
  data: { auth, channel },
});

async function expectSignin(peer: Peer): Promise<void> {
  assertEquals(await peer.next(), {
    event: "pusher:signin",
    data: { auth: PERMISSION, user_data: ANN },
  });
}

/** Signs in with the server's consent. */
async function signIn(
  { client: { pusher }, peer }: { client: Client; peer: Peer },
): Promise<void> {
  pusher.signin();
  await expectSignin(peer);
  peer.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await peer.next(), subscribed("#server-to-user-ann"));
}

Deno.test("signin() asks the endpoint with a form, and signs in", async () => {
  await using server = new Server();
  const asked: [string, string | null, string][] = [];
  server.onRequest = async (request) => {
    const { method, headers } = request;
    asked.push([method, headers.get("x-token"), await request.text()]);
    assertMatch(headers.get("content-type")!, /^application\/x-www-form-/);
    return Response.json({ auth: PERMISSION, user_data: ANN, more: 1 });
  };
  const endpoint = server.url("/user-auth");
  const headers = { "x-token": "t" };
  const params = { a: 1, b: undefined };
  for (
    const userAuthentication of [
      { endpoint, params, headers },
      {
        endpoint,
        paramsProvider: () => params,
        headersProvider: () => headers,
      },
    ]
  ) {
    using connection = await open(server, { userAuthentication });
    await signIn(connection);
    assertEquals(asked.pop(), ["POST", "t", "socket_id=1.1&a=1"]);
  }
});

Deno.test("signin() before the connection, twice, is done once and anew after a reconnect", async () => {
  await using server = new Server();
  using client = new Client(server, asAnn());
  const { user } = client.pusher;
  assertEquals([user.signin_requested, user.signinDonePromise], [false, null]);
  client.pusher.signin();
  client.pusher.signin();
  const done = user.signinDonePromise;
  assertExists(done);
  assertEquals([user.signin_requested, user.user_data], [true, null]);

  const peer = await server.establish();
  await expectSignin(peer);
  client.pusher.signin();
  await settled(peer);
  assertEquals(user.user_data, null);
  peer.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await within("sign-in", done), undefined);
  assertStrictEquals(user.signinDonePromise, done);
  assertEquals(user.user_data, JSON.parse(ANN));
  assertEquals(await peer.framesUntilPong(), [
    subscribed("#server-to-user-ann"),
  ]);
  assertEquals(client.pusher.allChannels(), []);

  const next = await reconnect(server, { client, peer });
  assertEquals(user.user_data, null);
  assert(user.signinDonePromise !== done);
  await expectSignin(next);
  next.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await next.next(), subscribed("#server-to-user-ann"));
  await within("sign-in", user.signinDonePromise!);

  client.pusher.disconnect();
  assertEquals([user.user_data, user.signin_requested], [null, true]);
  client.pusher.connect();
  await expectSignin(await server.establish("3.3"));
});

Deno.test("pusher:signin_success may carry its data as an object", async () => {
  await using server = new Server();
  using connection = await open(server, asAnn());
  const { client: { pusher }, peer } = connection;
  const data = { user_data: ANN };
  peer.sendText(JSON.stringify({ event: "pusher:signin_success", data }));
  assertEquals(await peer.next(), subscribed("#server-to-user-ann"));
  assertEquals(pusher.user.user_data?.user_info, { name: "Ann" });
  // Once more is no news, another user is.
  peer.send("pusher:signin_success", data);
  await settled(peer);
  peer.send("pusher:signin_success", { user_data: '{"id":"bob"}' });
  assertEquals(await peer.next(), subscribed("#server-to-user-bob"));
  const events = record(pusher.user);
  for (const id of ["ann", "bob"]) {
    peer.send("hi", id, { channel: `#server-to-user-${id}` });
  }
  await settled(peer);
  assertEquals(events, [["hi", "bob"]]);
});

/** What is no user, or no answer at all. */
const NO_USERS = [
  { user_data: '{"id":7}' },
  { user_data: '{"id":""}' },
  { user_data: '{"user_info":{}}' },
  { user_data: "null" },
  { user_data: "{" },
  { user_data: 7 },
  {},
  null,
  undefined,
  "text",
];

for (const data of NO_USERS) {
  Deno.test(`pusher:signin_success with ${JSON.stringify(data)} signs nobody in`, async () => {
    await using server = new Server();
    using connection = await open(server, asAnn());
    const { client: { pusher }, peer } = connection;
    await signIn(connection);
    peer.send("pusher:signin_success", data);
    await settled(peer);
    assertEquals(pusher.user.user_data, null);
    await within("sign-in", pusher.user.signinDonePromise!);
    const heardByUser = record(pusher.user);
    for (const channel of ["#server-to-user-ann", ""]) {
      peer.send("hi", 1, { channel });
    }
    await settled(peer);
    assertEquals(heardByUser, []);
  });
}

Deno.test("a refused sign-in is pusher:signin_error, and the next connection's to repeat", async () => {
  await using server = new Server();
  const endpoint = server.url("/user-auth");
  const answers: [() => Response, number, string][] = [
    [() => new Response("no", { status: 403 }), 403, "status is 403"],
    [() => Response.json({}, { status: 201 }), 201, "status is 201"],
    [() => new Response("{"), 200, "JSON"],
    [() => Response.json(null), 200, "no auth in answer"],
    [() => Response.json({ user_data: ANN }), 200, "no auth in answer"],
  ];
  for (const [answer, status, text] of answers) {
    server.onRequest = answer;
    using connection = await open(server, { userAuthentication: { endpoint } });
    const { client: { pusher }, peer } = connection;
    const refused = heard(pusher.user, "pusher:signin_error");
    pusher.signin();
    const error: SubscriptionError = await refused;
    assertEquals([error.type, error.status], ["AuthError", status]);
    assertStringIncludes(error.error, text);
    await within("sign-in", pusher.user.signinDonePromise!);
    assertEquals(pusher.user.user_data, null);
    pusher.signin();
    await settled(peer);

    server.onRequest = () =>
      Response.json({ auth: PERMISSION, user_data: ANN });
    const next = await reconnect(server, connection);
    await expectSignin(next);
  }
});

Deno.test("pusher:signin_error tells what the program's function said, or that nobody answered", async () => {
  await using server = new Server();
  const refusals: [UserAuthentication, string][] = [
    [{ customHandler: (_, callback) => callback(new Error("no")) }, "no"],
    [{ customHandler: (_, callback) => callback("no") }, "no"],
    [{
      customHandler: () => {
        throw new Error("no");
      },
    }, "no"],
    [
      { customHandler: (_, callback) => callback(null) },
      "no auth in answer",
    ],
  ];
  for (const [userAuthentication, error] of refusals) {
    using connection = await open(server, { userAuthentication });
    const { user } = connection.client.pusher;
    const refused = heard(user, "pusher:signin_error");
    user.signin();
    assertEquals(await refused, { type: "AuthError", error });
  }
  // Without a page there is nothing that the endpoint could be relative to.
  using connection = await open(server);
  const { user } = connection.client.pusher;
  const refused = heard(user, "pusher:signin_error");
  user.signin();
  assertEquals((await refused).status, 0);
});

Deno.test("a sign-in that the server refuses is an error of the connection", async () => {
  await using server = new Server();
  using connection = await open(server, asAnn());
  const { client, peer } = connection;
  const events = record(client.pusher.user);
  client.pusher.signin();
  await expectSignin(peer);
  const data = { code: 4009, message: "no" };
  peer.sendText(JSON.stringify({ event: "pusher:error", data }));
  await settled(peer);
  assertEquals(client.dataOf("error"), [{ type: "PusherError", data }]);
  assertEquals([client.pusher.user.user_data, events], [null, []]);
});

Deno.test("permissions and refusals that come late sign nobody in or out", async () => {
  await using server = new Server();
  type Answer = (error: unknown, auth?: string) => void;
  const requests = new Inbox<[string, Answer]>();
  using connection = await open(server, {
    userAuthentication: {
      customHandler({ socketId }, callback) {
        requests.push([
          socketId,
          (error, auth = "") => callback(error, { auth, user_data: ANN }),
        ]);
      },
    },
  });
  const { client: { pusher } } = connection;
  const events = record(pusher.user);
  pusher.signin();
  const done = pusher.user.signinDonePromise!;
  const [firstId, answerFirst] = await requests.next("request");
  const peer = await reconnect(server, connection);
  await within("end of the sign-in", done);
  const [secondId, answerSecond] = await requests.next("request");
  assertEquals([firstId, secondId], ["1.1", "2.2"]);
  answerFirst(null, "late");
  await settled(peer);
  answerSecond(null, PERMISSION);
  await expectSignin(peer);
  peer.send("pusher:signin_success", { user_data: ANN });
  await peer.next();

  const again = await reconnect(server, { ...connection, peer }, "3.3");
  const [, refuseThird] = await requests.next("request");
  const last = await reconnect(server, { ...connection, peer: again }, "4.4");
  const [, answerLast] = await requests.next("request");
  answerLast(null, PERMISSION);
  await expectSignin(last);
  last.send("pusher:signin_success", { user_data: ANN });
  await last.next();
  refuseThird(new Error("late"));
  await settled(last);
  assertEquals(pusher.user.user_data?.id, "ann");
  assertEquals(events, []);
});

Deno.test("user hears what is sent to the user, and nothing of the protocol", async () => {
  await using server = new Server();
  using connection = await open(server, asAnn());
  const { client: { pusher }, peer } = connection;
  const ofUser = record(pusher.user);
  const hi: unknown[][] = [];
  pusher.user.bind("hi", (...args: unknown[]) => hi.push(args));
  await signIn(connection);
  const ofAll = record(pusher);
  const channel = "#server-to-user-ann";
  peer.send("pusher_internal:subscription_succeeded", {}, { channel });
  peer.send("pusher:any", 1, { channel });
  peer.send("hi", { a: 1 }, { channel });
  peer.send("hi", undefined, { channel });
  peer.send("hi", 2, { channel: "#server-to-user-bob" });
  peer.send("hi", 3, { channel: "" });
  peer.send("hi", 4);
  await settled(peer);
  assertEquals(ofUser, [["hi", { a: 1 }], ["hi", undefined]]);
  assertEquals(hi, [[{ a: 1 }], []]);
  assertEquals(ofAll.filter(([event]) => event === "hi").length, 5);
  assertEquals(ofAll.filter(([event]) => event === "pusher:any").length, 1);
});

Deno.test("user hears the same after a reconnect, once signed in", async () => {
  await using server = new Server();
  using connection = await open(server, asAnn());
  const { client: { pusher } } = connection;
  await signIn(connection);
  const events = record(pusher.user);
  const next = await reconnect(server, connection);
  await expectSignin(next);
  next.send("hi", 1, { channel: "#server-to-user-ann" });
  await settled(next);
  assertEquals(events, []);
  next.send("pusher:signin_success", { user_data: ANN });
  await next.next();
  next.send("hi", 2, { channel: "#server-to-user-ann" });
  await settled(next);
  assertEquals(events, [["hi", 2]]);
});

Deno.test("user.watchlist hears who is online and who is not", async () => {
  await using server = new Server();
  using connection = await open(server, asAnn());
  const { client: { pusher }, peer } = connection;
  await signIn(connection);
  const [events, ofUser] = [record(pusher.user.watchlist), record(pusher.user)];
  const online = { name: "online", user_ids: ["7"] };
  const offline = { name: "offline", user_ids: ["8", "9"] };
  const event = "pusher_internal:watchlist_events";
  peer.send(event, { events: [online, offline] });
  peer.sendText(JSON.stringify({ event, data: { events: [online] } }));
  peer.send(event, { events: [] });
  await settled(peer);
  assertEquals(events, [
    ["online", online],
    ["offline", offline],
    ["online", online],
  ]);
  for (const data of [undefined, null, 7, "text", {}, { events: "text" }]) {
    peer.send(event, data);
  }
  peer.send(event, { events: [null, 7, "text", {}] });
  await settled(peer);
  assertEquals(events.filter(([name]) => name === "online").length, 2);
  assertEquals(ofUser, []);
  assertEquals(connection.client.dataOf("error"), []);
});

Deno.test("presence channels take the user who is signed in, once that is so", async () => {
  await using server = new Server();
  using connection = await open(server, { ...PERMITTED, ...asAnn() });
  const { client: { pusher }, peer } = connection;
  pusher.signin();
  await expectSignin(peer);
  const channel = pusher.subscribe("presence-a");
  assertInstanceOf(channel, PresenceChannel);
  await settled(peer);
  peer.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await peer.next(), subscribed("#server-to-user-ann"));
  assertEquals(await peer.next(), subscribed("presence-a", PERMISSION));
  assertEquals(channel.members.myID, "ann");
});

Deno.test("presence channels follow the permission rather than the sign-in", async () => {
  await using server = new Server();
  using connection = await open(server, { ...asUser("bob"), ...asAnn() });
  const { client: { pusher }, peer } = connection;
  pusher.signin();
  await expectSignin(peer);
  const channel = pusher.subscribe("presence-a");
  assertInstanceOf(channel, PresenceChannel);
  assertEquals((await peer.next()).event, "pusher:subscribe");
  peer.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await peer.next(), subscribed("#server-to-user-ann"));
  assertEquals(channel.members.myID, "bob");
});

Deno.test("presence channels are refused to who is not signed in after all", async () => {
  await using server = new Server();
  const userData = ['{"id":7}', "no JSON", "null", undefined];
  for (const user_data of userData) {
    using connection = await open(server, { ...PERMITTED, ...asAnn() });
    const { client: { pusher }, peer } = connection;
    pusher.signin();
    await expectSignin(peer);
    const channel = pusher.subscribe("presence-a");
    const refused = heard(channel, "pusher:subscription_error");
    await settled(peer);
    peer.send("pusher:signin_success", { user_data });
    const { type, error } = await refused;
    assertEquals(type, "AuthError");
    assertStringIncludes(error, "no channel_data in answer");
    assertEquals(channel.subscriptionPending, false);
  }
});

Deno.test("presence channels that wait for a sign-in wait anew after a reconnect", async () => {
  await using server = new Server();
  using connection = await open(server, { ...PERMITTED, ...asAnn() });
  const { client: { pusher }, peer } = connection;
  pusher.signin();
  await expectSignin(peer);
  const errors: unknown[] = [];
  const channel = pusher.subscribe("presence-a");
  channel.bind("pusher:subscription_error", (error) => errors.push(error));
  await settled(peer);
  const next = await reconnect(server, connection);
  await expectSignin(next);
  await settled(next);
  next.send("pusher:signin_success", { user_data: ANN });
  await next.next();
  assertEquals(await next.next(), subscribed("presence-a", PERMISSION));
  assertEquals(errors, []);
});

// ---- Encrypted channels -----------------------------------------------------

/** Vector E1 of the protocol. */
const E1 = {
  channel: "private-encrypted-foobar",
  shared_secret: "g3Au6SZ+UCU+IMfFsFva0rq+Gi4tzSHR6WCcWZbS9sY=",
  box: {
    nonce: "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZX",
    ciphertext: "3px9F2rmDj9/a0O15483opw5S9pIl2OLUKMD1kF3Ye8D4hsgyAt8F08=",
  },
  data: { message: "hello world" },
};

/** Another secret for that channel. */
const NEW_SECRET = toBase64(new Uint8Array(32).fill(7));

function toBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}

/** What the server's program makes of a text. */
function encrypted(text: string, secret = E1.shared_secret): typeof E1.box {
  const nonce = nacl.randomBytes(nacl.secretbox.nonceLength);
  const box = nacl.secretbox(
    new TextEncoder().encode(text),
    nonce,
    Uint8Array.from(atob(secret), (char) => char.charCodeAt(0)),
  );
  return { nonce: toBase64(nonce), ciphertext: toBase64(box) };
}

/** Flips one bit. */
function tampered({ nonce, ciphertext }: typeof E1.box): typeof E1.box {
  const first = ciphertext.startsWith("3") ? "2" : "3";
  return { nonce, ciphertext: first + ciphertext.slice(1) };
}

/** A client on the channel of the vector, and who is asked for its secret. */
class Encrypted implements AsyncDisposable {
  readonly server = new Server();
  readonly questions = new Inbox<AuthCallbackOf>();
  /** Names of the channels that were asked for. */
  readonly asked: string[] = [];
  readonly events: [event: string, data: unknown][] = [];
  client!: Client;
  peer!: Peer;
  channel!: Channel;

  static async join(): Promise<Encrypted> {
    const self = new Encrypted();
    const { client, peer } = await open(self.server, {
      nacl,
      channelAuthorization: {
        customHandler({ channelName }, callback) {
          self.asked.push(channelName);
          self.questions.push((shared_secret, error = null) =>
            callback(error, { auth: PERMISSION, shared_secret })
          );
        },
      },
    });
    Object.assign(self, { client, peer });
    self.channel = client.pusher.subscribe(E1.channel);
    await self.admit();
    self.channel.bind_global((event, data) => self.events.push([event, data]));
    return self;
  }

  /** Lets in, with a secret. */
  async admit(peer = this.peer, secret = E1.shared_secret): Promise<void> {
    const answer = await this.questions.next("question");
    answer(secret);
    assertEquals(await peer.next(), subscribed(E1.channel, PERMISSION));
    const { channel } = E1;
    peer.send("pusher_internal:subscription_succeeded", {}, { channel });
    await settled(peer);
  }

  send(event: string, data: unknown): void {
    this.peer.send(event, data, { channel: E1.channel });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.pusher.disconnect();
    await this.server[Symbol.asyncDispose]();
  }
}

type AuthCallbackOf = (secret: string, error?: unknown) => void;

Deno.test("encrypted channels keep the secret from the server, and decrypt", async () => {
  await using joined = await Encrypted.join();
  const { channel, client, events, peer } = joined;
  const [calls, ofAll] = [[] as unknown[][], record(client.pusher)];
  channel.bind("e1", (...args: unknown[]) => calls.push(args));
  joined.send("e1", E1.box);
  const texts = ['"text"', "no JSON", "0", "null", '"\u00fc \u{1f600}"', ""];
  for (const text of texts) joined.send("x", encrypted(text));
  await settled(peer);
  assertEquals(calls, [[E1.data, {}]]);
  assertEquals(events, [
    ["e1", E1.data],
    ["x", "text"],
    ["x", "no JSON"],
    ["x", 0],
    ["x", null],
    ["x", "\u00fc \u{1f600}"],
    ["x", ""],
  ]);
  assertEquals(ofAll[0], ["e1", E1.box]);
  assertEquals(joined.asked, [E1.channel]);
});

Deno.test("encrypted channels pass the protocol's own events as they are", async () => {
  await using joined = await Encrypted.join();
  const { events, peer } = joined;
  joined.send("pusher:cache_miss", undefined);
  joined.send("pusher:any", E1.box);
  joined.send("pusher_internal:any", E1.box);
  await settled(peer);
  assertEquals(events, [["pusher:cache_miss", undefined], [
    "pusher:any",
    E1.box,
  ]]);
});

Deno.test("encrypted channels drop what cannot have been encrypted", async () => {
  await using joined = await Encrypted.join();
  const { nonce, ciphertext } = E1.box;
  const lines: string[] = [];
  Pusher.log = (line) => lines.push(line);
  const bad = [
    { nonce },
    { ciphertext },
    { nonce, ciphertext: null },
    { nonce: 7, ciphertext: {} },
    { nonce: "AAAA", ciphertext },
    { nonce, ciphertext: "AAAA" },
    { nonce, ciphertext: "" },
    { nonce, ciphertext: "*" },
    {},
    [],
    null,
    undefined,
    "text",
    7,
  ];
  try {
    for (const data of bad) joined.send("x", data);
    await settled(joined.peer);
  } finally {
    Pusher.log = null;
  }
  assertEquals(joined.events, []);
  assertEquals(joined.asked.length, 1);
  const dropped = lines.filter((line) => line.includes("Event dropped"));
  assertEquals(dropped.length, bad.length);
});

Deno.test("an event that does not open is tried once more with a new secret", async () => {
  await using joined = await Encrypted.join();
  const { events, peer, questions } = joined;
  joined.send("a", encrypted("1", NEW_SECRET));
  const answer = await questions.next("question");
  assertEquals(joined.asked, [E1.channel, E1.channel]);
  joined.send("b", encrypted("2", NEW_SECRET));
  joined.send("c", encrypted("3"));
  await settled(peer);
  assertEquals(events, [["c", 3]]);
  answer(NEW_SECRET);
  await settled(peer);
  assertEquals(events, [["c", 3], ["a", 1], ["b", 2]]);

  joined.send("d", encrypted("4", NEW_SECRET));
  await settled(peer);
  assertEquals(events.at(-1), ["d", 4]);
  assertEquals(joined.asked.length, 2);
});

Deno.test("an event that the new secret does not open either is dropped", async () => {
  await using joined = await Encrypted.join();
  const { events, peer, questions } = joined;
  const answers: ((answer: AuthCallbackOf) => void)[] = [
    (answer) => answer(E1.shared_secret),
    (answer) => answer(E1.shared_secret, new Error("no")),
    (answer) => answer(""),
    (answer) => answer("AAAA"),
  ];
  for (const reply of answers) {
    joined.send("a", tampered(E1.box));
    reply(await questions.next("question"));
    await settled(peer);
    assertEquals(events, []);
  }
  joined.send("b", E1.box);
  await settled(peer);
  assertEquals(events, [["b", E1.data]]);
  assertEquals(joined.asked.length, 1 + answers.length);
});

Deno.test("events that wait for a secret go with the channel, and do not outlive it", async () => {
  for (const leave of ["before", "within"] as const) {
    await using joined = await Encrypted.join();
    const { client: { pusher }, events, peer, questions } = joined;
    joined.send("a", encrypted("1", NEW_SECRET));
    joined.send("b", encrypted("2", NEW_SECRET));
    const answer = await questions.next("question");
    await settled(peer);
    if (leave === "before") pusher.unsubscribe(E1.channel);
    else joined.channel.bind("a", () => pusher.unsubscribe(E1.channel));
    answer(NEW_SECRET);
    assertEquals((await peer.next()).event, "pusher:unsubscribe");
    await settled(peer);
    assertEquals(events, leave === "before" ? [] : [["a", 1]]);
  }
});

Deno.test("events that wait for a secret are not heard on the next connection", async () => {
  await using joined = await Encrypted.join();
  const { events, peer, questions, server } = joined;
  joined.send("a", encrypted("1", NEW_SECRET));
  const answer = await questions.next("question");
  await settled(peer);
  const next = await reconnect(server, joined);
  await joined.admit(next, NEW_SECRET);
  const named = { channel: E1.channel };
  next.send("b", encrypted("2"), named);
  const answerNext = await questions.next("question");
  // What comes late, for the connection before, changes nothing.
  answer("AAAA");
  await settled(next);
  next.send("c", encrypted("3", NEW_SECRET), named);
  await settled(next);
  answerNext(E1.shared_secret);
  await settled(next);
  assertEquals(events, [
    ["pusher:subscription_succeeded", {}],
    ["c", 3],
    ["b", 2],
  ]);
});

Deno.test("events that wait for a secret are limited in number", async () => {
  await using joined = await Encrypted.join();
  const { events, peer, questions } = joined;
  const sent = encrypted("1", NEW_SECRET);
  for (let count = 0; count < 1_001; count++) joined.send("a", sent);
  await settled(peer);
  const answer = await questions.next("question");
  answer(NEW_SECRET);
  await settled(peer);
  assertEquals(events.length, 1_000);
});

Deno.test("encrypted channels are refused without their secret", async () => {
  await using server = new Server();
  for (const shared_secret of [undefined, null, 7, "", "*", "AAAA"]) {
    using connection = await open(server, {
      nacl,
      authEndpoint: server.url("/auth"),
    });
    let requests = 0;
    server.onRequest = () => {
      requests++;
      return Response.json({ auth: PERMISSION, shared_secret });
    };
    const { client: { pusher }, peer } = connection;
    const channel = pusher.subscribe(E1.channel);
    const error = await heard(channel, "pusher:subscription_error");
    assertEquals(error.type, "AuthError");
    assertStringIncludes(error.error, "no shared_secret in answer");
    await settled(peer);
    peer.send("a", E1.box, { channel: E1.channel });
    await settled(peer);
    assertEquals(requests, 1);
  }
});

Deno.test("trigger() throws on encrypted channels, also before they are joined", () => {
  const options = { wsHost: "127.0.0.1", enabledTransports: [], nacl };
  const channel = new Pusher("app-key", options).subscribe(E1.channel);
  const error = assertThrows(() => channel.trigger("client-a"), Error);
  assertEquals(error.name, "UnsupportedFeature");
});

// ---- Emitter ----------------------------------------------------------------

Deno.test("Emitter.unbind takes event, handler and context", () => {
  const [a, b] = [() => calls.push("a"), () => calls.push("b")];
  const calls: string[] = [];
  const [here, there] = [{}, {}];
  const emitted = (unbind: (emitter: Emitter) => Emitter) => {
    const emitter = new Emitter();
    emitter.bind("x", a, here).bind("x", b, there).bind("y", a, there)
      .bind_global((event) => calls.push(`*${event}`));
    calls.length = 0;
    assertStrictEquals(unbind(emitter), emitter);
    emitter.emit("x").emit("y");
    return calls.join(" ");
  };
  assertEquals(emitted((e) => e), "*x a b *y a");
  assertEquals(emitted((e) => e.unbind("x", a)), "*x b *y a");
  assertEquals(emitted((e) => e.unbind("x", a, there)), "*x a b *y a");
  assertEquals(emitted((e) => e.unbind("x")), "*x *y a");
  assertEquals(emitted((e) => e.unbind("z")), "*x a b *y a");
  assertEquals(emitted((e) => e.unbind(null, a)), "*x b *y");
  assertEquals(emitted((e) => e.unbind(null, null, there)), "*x a *y");
  assertEquals(emitted((e) => e.unbind()), "*x *y");
  assertEquals(emitted((e) => e.unbind_global(() => {})), "*x a b *y a");
  assertEquals(emitted((e) => e.unbind_global()), "a b a");
  assertEquals(emitted((e) => e.unbind_all()), "");
});

Deno.test("Emitter.unbind_global takes one handler", () => {
  const calls: string[] = [];
  const handler = (event: string) => calls.push(event);
  new Emitter().bind_global(handler).bind_global((event) => calls.push(event))
    .unbind_global(handler).emit("x");
  assertEquals(calls, ["x"]);
});

Deno.test("Emitter calls a handler as often as it is bound, with its context", () => {
  const contexts: unknown[] = [];
  function handler(this: unknown): void {
    contexts.push(this);
  }
  const context = {};
  new Emitter().bind("x", handler).bind("x", handler, context).emit("x");
  assertEquals(contexts.length, 2);
  assertStrictEquals(contexts[0], globalThis);
  assertStrictEquals(contexts[1], context);
});

Deno.test("Emitter passes metadata always, data alone only if it says something", () => {
  const calls: unknown[][] = [];
  const emitter = new Emitter().bind("x", (...args) => calls.push(args));
  emitter.emit("x", 1).emit("x", 0).emit("x");
  emitter.emit("x", 0, {}).emit("x", undefined, { user_id: "a" });
  assertEquals(calls, [[1], [], [], [0, {}], [undefined, { user_id: "a" }]]);
});

Deno.test("Emitter survives names of object properties and changes while it emits", () => {
  const calls: string[] = [];
  const emitter = new Emitter();
  emitter.emit("constructor").emit("__proto__");
  const second = () => calls.push("second");
  emitter.bind("__proto__", () => {
    calls.push("first");
    emitter.unbind("__proto__", second);
    emitter.bind("__proto__", () => calls.push("third"));
  });
  emitter.bind("__proto__", second).emit("__proto__");
  assertEquals(calls, ["first", "second"]);
});

Deno.test("Emitter calls the other handlers when one throws, and reports it", async () => {
  using uncaught = new Uncaught();
  const calls: string[] = [];
  const error = new Error("of a handler");
  const fail = () => {
    throw error;
  };
  new Emitter().bind_global(fail).bind_global(() => calls.push("global"))
    .bind("x", fail).bind("x", () => calls.push("x")).emit("x");
  assertEquals(calls, ["global", "x"]);
  await until(() => uncaught.errors.length === 2);
  assertEquals(uncaught.errors, [error, error]);
});

// ---- Served script ----------------------------------------------------------

Deno.test("preset() connects when it is first used, and not before", async () => {
  using time = new FakeTime();
  using listeners = new Listeners();
  await using server = new Server();
  const config = { key: "app-key", host: "unused.example", path: "/x" };
  for (
    const use of [
      (pusher: Pusher) => pusher.subscribe("a"),
      (pusher: Pusher) => pusher.bind("a", () => {}),
      (pusher: Pusher) => pusher.bind_global(() => {}),
      (pusher: Pusher) => pusher.connection,
      (pusher: Pusher) => pusher.connect(),
      (pusher: Pusher) => pusher.send_event("a"),
      (pusher: Pusher) => pusher.signin(),
    ]
  ) {
    const pusher = preset(config, server.url("/x/pusher.js"));
    assertEquals(pusher.allChannels(), []);
    assertEquals(time.next(), false);
    assertEquals(listeners.names.size, 0);
    use(pusher);
    const { request } = await server.accept();
    assertEquals(new URL(request.url).pathname, "/x/app/app-key");
    pusher.disconnect();
  }
  const unused = preset(config, server.url("/x/pusher.js"));
  unused.disconnect();
  assertEquals(unused.connection.state, "disconnected");
});

Deno.test("preset() finds the server by the script's URL, else by host and page", () => {
  const config = { key: "app-key", host: "host.example:8080", path: "/x" };
  const server = (page?: string, scriptUrl?: string) => {
    const pusher = atPage(page, () => preset(config, scriptUrl));
    const { wsHost, wsPort, wssPort, useTLS } = pusher.config;
    const { channelAuthorization, userAuthentication } = pusher.options;
    const { endpoint } = channelAuthorization!;
    assertEquals(
      userAuthentication?.endpoint,
      endpoint?.replace(/auth$/, "user-auth"),
    );
    return [wsHost, useTLS ? wssPort : wsPort, useTLS, endpoint];
  };
  assertEquals(server(undefined, "https://cdn.example/x/pusher.js"), [
    "cdn.example",
    443,
    true,
    "https://cdn.example/x/pusher/auth",
  ]);
  assertEquals(
    server("http://page.example", "http://cdn.example:81/pusher.js"),
    [
      "cdn.example",
      81,
      false,
      "http://cdn.example:81/x/pusher/auth",
    ],
  );
  for (const scriptUrl of [undefined, "blob:https://a.example/1", ""]) {
    assertEquals(server("https://page.example", scriptUrl).slice(0, 3), [
      "host.example",
      8080,
      true,
    ]);
    assertEquals(server(undefined, scriptUrl)[2], false);
  }
});

Deno.test("CLIENT_BUNDLE declares Pusher and preset, and they work", async () => {
  const run = new Function(`"use strict";${CLIENT_BUNDLE}
    return { Pusher, preset };`);
  const script: { Pusher: typeof Pusher; preset: typeof preset } = run();
  await using server = new Server();
  const config = { key: "app-key", host: "unused.example", path: "" };
  const pusher = script.preset(config, server.url("/pusher.js"));
  assertInstanceOf(pusher, script.Pusher);
  const created = heard(pusher.subscribe("messages"), "create");
  const peer = await server.establish();
  assertEquals((await peer.next()).data.channel, "messages");
  peer.send("create", { text: "hello" }, { channel: "messages" });
  assertEquals(await created, { text: "hello" });
  pusher.disconnect();
  assertExists(CLIENT_ETAG);
  assertMatch(CLIENT_ETAG, /^[0-9a-f]{16}$/);
});

// ---- Raw sockets ------------------------------------------------------------
// A server with control over every byte: close codes that the WebSocket API does
// not let a program send, and sockets that end without a close.

class RawServer implements Disposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #peers: RawPeer[] = [];

  get port(): number {
    return this.#listener.addr.port;
  }

  async accept(): Promise<RawPeer> {
    const tcp = await within("connection", this.#listener.accept());
    const peer = new RawPeer(tcp);
    this.#peers.push(peer);
    await peer.upgrade();
    return peer;
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    for (const peer of this.#peers) peer[Symbol.dispose]();
  }
}

class RawPeer implements Disposable {
  readonly #tcp: Deno.TcpConn;
  #isOpen = true;

  constructor(tcp: Deno.TcpConn) {
    this.#tcp = tcp;
  }

  async upgrade(): Promise<void> {
    const head = new Uint8Array(4096);
    const length = await this.#tcp.read(head) ?? 0;
    const request = new TextDecoder().decode(head.subarray(0, length));
    const key = /sec-websocket-key: (\S+)/i.exec(request)?.[1];
    // RFC 6455, section 4.2.2.
    const text = `${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
    const digest = await crypto.subtle.digest(
      "SHA-1",
      new TextEncoder().encode(text),
    );
    const accept = btoa(String.fromCharCode(...new Uint8Array(digest)));
    await this.#write(new TextEncoder().encode(
      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" +
        `Upgrade: websocket\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    ));
  }

  async establish(): Promise<void> {
    const text = new TextEncoder().encode(JSON.stringify({
      event: "pusher:connection_established",
      data: { socket_id: "1.1", activity_timeout: 120 },
    }));
    await this.#write(new Uint8Array([0x81, text.length, ...text]));
  }

  /** Closes with a code; 1006 is what clients say of a close without a frame. */
  async close(code: number): Promise<void> {
    if (code !== 1006) {
      await this.#write(new Uint8Array([0x88, 2, code >> 8, code & 255]));
    }
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    if (this.#isOpen) this.#tcp.close();
    this.#isOpen = false;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    let written = 0;
    while (written < bytes.length) {
      written += await this.#tcp.write(bytes.subarray(written));
    }
  }
}
