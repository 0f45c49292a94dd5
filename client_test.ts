/**
 * A tour of the client, in the order of `client.ts`: against a fake server that each
 * test scripts, over real sockets. Where time matters it is fake. More than a tour is
 * in `tests/client/`.
 */
import {
  assert,
  assertEquals,
  assertExists,
  assertFalse,
  assertInstanceOf,
  assertMatch,
  assertNotEquals,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
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
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { CLIENT_BUNDLE, CLIENT_ETAG } from "./client_bundle.ts";
import {
  ANN,
  asAnn,
  asUser,
  AUTH,
  Client,
  expectSignin,
  heard,
  join,
  Listeners,
  open,
  optionsFor,
  RealServer,
  reconnect,
  record,
  Server,
  settled,
  signIn,
  subscription,
  Uncaught,
  until,
} from "./tests/support/client.ts";
import { DEADLINE_MS, within } from "./tests/support/deadline.ts";
import { Queue } from "./tests/support/queue.ts";

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

Deno.test("Emitter logs events without a handler of their own, if it has a name", () => {
  const lines: string[] = [];
  Pusher.log = (line) => lines.push(line);
  try {
    new Emitter().emit("a", 1);
    const emitter = new Emitter("x");
    const handle = () => {};
    emitter.bind("b", handle).bind_global(handle);
    for (const event of ["a", "b"]) emitter.emit(event, 1);
    emitter.unbind("b", handle).emit("b", 2);
  } finally {
    Pusher.log = null;
  }
  assertEquals(lines, [
    'Pusher :  : ["No callbacks on x for a"]',
    'Pusher :  : ["No callbacks on x for b"]',
  ]);
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

// ---- Pusher -----------------------------------------------------------------

Deno.test("Pusher refuses to be without a key or a host", () => {
  const host = { wsHost: "127.0.0.1", enabledTransports: [] };
  for (const key of [undefined, null]) {
    // The types forbid it, but scripts may pass it.
    assertThrows(() => new Pusher(key as never, host), TypeError, '"key"');
  }
  assertThrows(() => new Pusher("app-key"), TypeError, '"wsHost"');
});

Deno.test("timeouts are within the range of timers, by default where they are not above zero", () => {
  const timeouts = (ms: number): number[] => {
    const { config } = new Pusher("app-key", {
      wsHost: "127.0.0.1",
      enabledTransports: [],
      activityTimeout: ms,
      pongTimeout: ms,
      unavailableTimeout: ms,
    });
    return [
      config.activityTimeout,
      config.pongTimeout,
      config.unavailableTimeout,
    ];
  };
  for (const ms of [0, -1, NaN, -Infinity]) {
    assertEquals(timeouts(ms), [120_000, 30_000, 10_000]);
  }
  // A longer timer would fire at once.
  const max = 2 ** 31 - 1;
  for (const ms of [max, max + 1, Infinity]) {
    assertEquals(timeouts(ms), [max, max, max]);
  }
  assertEquals(timeouts(1), [1, 1, 1]);
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

/** Runs a function as in a page of that origin. */
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

Deno.test("Pusher uses HTTP where the runtime has no WebSocket, and says so", async () => {
  await using server = new RealServer();
  const { WebSocket } = globalThis;
  // deno-lint-ignore no-explicit-any -- older runtimes are like this
  delete (globalThis as any).WebSocket;
  try {
    using client = await server.connect();
    assertEquals(client.pusher.connection.transport.name, "xhr_streaming");
    const [error] = client.dataOf("error") as ConnectionError[];
    assertStringIncludes(JSON.stringify(error), "WebSocket is not defined");
  } finally {
    globalThis.WebSocket = WebSocket;
  }
});

Deno.test("Pusher keeps its key and options", () => {
  const options = { wsHost: "127.0.0.1", enabledTransports: [] };
  const pusher = new Pusher("app-key", options);
  assertEquals(pusher.key, "app-key");
  assertStrictEquals(pusher.options, options);
  assertStrictEquals(Pusher.instances.at(-1), pusher);
  assertStrictEquals(pusher.global_emitter, pusher);
  Pusher.ready();
  assertEquals(Pusher.isReady, true);
  const { activityTimeout, pongTimeout, unavailableTimeout } = pusher.config;
  assertEquals(
    [activityTimeout, pongTimeout, unavailableTimeout],
    [120_000, 30_000, 10_000],
  );
});

Deno.test("Pusher.instances has the instances that are not disconnected, in their order", async () => {
  await using server = new Server();
  const others = Pusher.instances.length;
  const listed = () => Pusher.instances.slice(others);
  const clients = [1, 2, 3].map(() => new Client(server));
  const [a, b, c] = clients.map(({ pusher }) => pusher);
  assertEquals(listed(), [a, b, c]);
  // Also without `Pusher.disconnect`, and where the server refuses the client.
  b!.connection.disconnect();
  assertEquals(listed(), [a, c]);
  const peers = [await server.accept(), await server.accept()];
  const refused = [a, c].map((one) => heard(one!.connection, "disconnected"));
  for (const peer of peers) peer.close(4001);
  await Promise.all(refused);
  assertEquals(listed(), []);
  c!.connect();
  a!.connect();
  assertEquals(listed(), [c, a]);
  for (const peer of [await server.establish(), await server.establish()]) {
    await settled(peer);
  }
  assertEquals(listed(), [c, a]);
  c!.disconnect();
  a!.disconnect();
  a!.disconnect();
  assertEquals(listed(), []);
});

Deno.test("a disconnected instance is garbage", async () => {
  await using server = new Server();
  const use = async (): Promise<WeakRef<object>[]> => {
    using connection = await open(server, asUser("ann"));
    const { pusher } = connection.client;
    const channel = await join(connection, "presence-a", presence({ ann: {} }));
    pusher.disconnect();
    await within(DEADLINE_MS, "close", connection.peer.closed);
    return [pusher, pusher.connection, channel].map((one) => new WeakRef(one));
  };
  const refs = await use();
  setFlagsFromString("--expose-gc");
  // A value is kept until the end of the turn in which it was looked at.
  await new Promise((resolve) => setTimeout(resolve));
  runInNewContext("gc")();
  assertEquals(refs.map((ref) => ref.deref()), [
    undefined,
    undefined,
    undefined,
  ]);
});

Deno.test("Pusher.log hears of states and frames", async () => {
  const lines: string[] = [];
  Pusher.log = (line) => lines.push(line);
  try {
    await using server = new Server();
    using connection = await open(server);
    await join(connection, "a");
    connection.peer.send("create", 1, { channel: "a" });
    await settled(connection.peer);
  } finally {
    Pusher.log = null;
  }
  assertStringIncludes(
    lines[0] ?? "",
    'Pusher :  : ["Connecting",{"transport":"ws","url":"ws://',
  );
  assertEquals(
    lines[1],
    'Pusher :  : ["State changed","initialized -> connecting"]',
  );
  assert(lines.some((line) => line.includes("Event recd")));
  assert(lines.some((line) => line.includes("Event sent")));
  const unhandled = "No callbacks on a for pusher:subscription_succeeded";
  assertFalse(lines.some((line) => line.includes(unhandled)));
  assert(lines.some((line) => line.includes("No callbacks on a for create")));
});

Deno.test("preset() connects when it is first used, and not before", async () => {
  using time = new FakeTime();
  using listeners = new Listeners();
  await using server = new Server();
  const config = { key: "app-key", host: "unused.example/x" };
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

Deno.test("preset() connects to where the script came from, else to host and page", () => {
  const config = { key: "app-key", host: "host.example:8080/x" };
  const server = (page?: string, script?: string) => {
    const pusher = atPage(page, () => preset(config, script));
    const { wsHost, wsPort, wssPort, wsPath, useTLS } = pusher.config;
    const { channelAuthorization, userAuthentication } = pusher.options;
    // With several apps the server may not know whose socket it is.
    for (const { params } of [channelAuthorization!, userAuthentication!]) {
      assertEquals(params, { app_key: "app-key" });
    }
    return [wsHost, useTLS ? wssPort : wsPort, wsPath, useTLS];
  };
  const cases: [page: string | undefined, script: string, server: unknown[]][] =
    [
      [undefined, "https://a.example/x/pusher.js", [443, "/x", true]],
      ["http://p.example", "http://a.example:81/pusher.js", [81, "", false]],
      [undefined, "http://a.example/a/b/pusher.mjs?v=1", [80, "/a/b", false]],
      [undefined, "https://a.example/y/pusher.js?/x/pusher.js#", [
        ...[443, "/y", true],
      ]],
      // As stacks of Chromium and Firefox say it.
      [undefined, "Error\n    at http://a.example/x/pusher.js:1:9\n    at b", [
        ...[80, "/x", false],
      ]],
      [undefined, "f@http://a.example/x/pusher.js?full:1:9\n", [
        ...[80, "/x", false],
      ]],
      // A page with TLS opens nothing without.
      ["https://p.example", "http://a.example/pusher.js", [443, "", true]],
    ];
  for (const [page, script, found] of cases) {
    assertEquals(server(page, script), ["a.example", ...found], script);
  }
  for (
    const script of [
      undefined,
      "",
      "blob:https://a.example/1",
      "https://a.example/assets/app.js",
      "file:///pusher.mjs",
    ]
  ) {
    assertEquals(server("https://page.example", script), [
      "host.example",
      8080,
      "/x",
      true,
    ]);
    assertEquals(server(undefined, script).at(-1), false);
  }
});

Deno.test("preset() returns the instance of an earlier script for the same app and server", async () => {
  await using server = new Server();
  const evaluate: () => typeof preset = new Function(
    `"use strict";${CLIENT_BUNDLE} return preset;`,
  ) as never;
  const config = { key: "again", host: "unused.example/x" };
  const url = server.url("/x/pusher.js");
  const first = evaluate()(config, url);
  assertStrictEquals(evaluate()(config, url), first);
  assertStrictEquals(evaluate()(config, `${url}?version=2`), first);
  // It was not used yet, and asking for it does not connect it.
  const created = heard(first.subscribe("a"), "create");
  const peer = await server.establish();
  assertStrictEquals(evaluate()(config, url), first);
  assertEquals((await peer.next()).data.channel, "a");
  peer.send("create", 1, { channel: "a" });
  assertEquals(await created, 1);
  await settled(peer);

  // Another app, path or host has an instance of its own, and so has the program.
  const others = [
    evaluate()({ ...config, key: "other" }, url),
    evaluate()(config, server.url("/y/pusher.js")),
    evaluate()(config, "http://other.example/x/pusher.js"),
  ];
  assertEquals(new Set([first, ...others]).size, 4);
  const { Pusher: Class } = new Function(
    `"use strict";${CLIENT_BUNDLE} return { Pusher };`,
  )();
  const options = { ...first.options, enabledTransports: [] };
  assert(new Class(first.key, options) !== first);

  // A disconnected instance is of no more use to a script that was evaluated again.
  first.disconnect();
  const next = evaluate()(config, url);
  assert(next !== first);
  assertEquals(next.allChannels(), []);
  next.subscribe("b");
  assertEquals((await (await server.establish()).next()).data.channel, "b");
  assertStrictEquals(evaluate()(config, url), next);
  for (const pusher of [next, ...others]) pusher.disconnect();
});

Deno.test("CLIENT_BUNDLE declares Pusher and preset, and they work", async () => {
  const run = new Function(`"use strict";${CLIENT_BUNDLE}
    return { Pusher, preset };`);
  const script: { Pusher: typeof Pusher; preset: typeof preset } = run();
  await using server = new Server();
  const config = { key: "app-key", host: "unused.example" };
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
  await within(DEADLINE_MS, "close", peer.closed);

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
    const { option, seconds, ms } of [
      { option: 120_000, seconds: 30, ms: 30_000 },
      { option: 5_000, seconds: 120, ms: 5_000 },
      { option: 7_000, seconds: 0, ms: 7_000 },
    ]
  ) {
    using client = new Client(server, { activityTimeout: option });
    const connected = client.heard("connected");
    const peer = await server.accept();
    peer.establish("1.1", seconds);
    await connected;
    time.tick(ms - 1);
    // Any frame restarts the time; the pong shows that the frame has arrived.
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
  // While connected it does nothing.
  client.pusher.connect();
  await settled(peer);
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
  await within(DEADLINE_MS, "close", connection.peer.closed);
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
  assertEquals(pusher.channels.channels, { a, "private-b": b });
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
  const push = (...args: unknown[]) => calls.push(args);
  channel.bind("pusher:subscription_count", push);
  channel.bind("pusher:cache_miss", push);
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

Deno.test("trigger() throws on encrypted channels, also before they are joined", () => {
  const options = { wsHost: "127.0.0.1", enabledTransports: [], nacl };
  const channel = new Pusher("app-key", options).subscribe(
    "private-encrypted-a",
  );
  const error = assertThrows(() => channel.trigger("client-a"), Error);
  assertEquals(error.name, "UnsupportedFeature");
});

// ---- User -------------------------------------------------------------------

Deno.test("signin() asks the endpoint with a form, and signs in", async () => {
  await using server = new Server();
  const asked: [string, string | null, string][] = [];
  server.onRequest = async (request) => {
    const token = request.headers.get("x-token");
    asked.push([request.method, token, await request.text()]);
    const type = request.headers.get("content-type") ?? "";
    assertMatch(type, /^application\/x-www-form-/);
    return Response.json({ auth: AUTH, user_data: ANN, more: 1 });
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

Deno.test("signin() twice before the connection signs in once, and again after a reconnect", async () => {
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
  assertEquals(await within(DEADLINE_MS, "sign-in", done), undefined);
  assertStrictEquals(user.signinDonePromise, done);
  assertEquals(user.user_data, JSON.parse(ANN));
  assertEquals(await peer.framesUntilPong(), [
    subscription("#server-to-user-ann"),
  ]);
  assertEquals(client.pusher.allChannels(), []);

  const next = await reconnect(server, { client, peer });
  assertEquals(user.user_data, null);
  assert(user.signinDonePromise !== done);
  await expectSignin(next);
  next.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await next.next(), subscription("#server-to-user-ann"));
  await within(DEADLINE_MS, "sign-in", user.signinDonePromise!);

  client.pusher.disconnect();
  assertEquals([user.user_data, user.signin_requested], [null, true]);
  client.pusher.connect();
  await expectSignin(await server.establish("3.3"));
});

Deno.test("pusher:signin_success may carry its data as an object", async () => {
  await using server = new Server();
  using connection = await open(server, asAnn());
  const { client: { pusher }, peer } = connection;
  pusher.signin();
  assertEquals((await peer.next()).event, "pusher:signin");
  const data = { user_data: ANN };
  peer.sendText(JSON.stringify({ event: "pusher:signin_success", data }));
  assertEquals(await peer.next(), subscription("#server-to-user-ann"));
  assertEquals(pusher.user.user_data?.user_info, { name: "Ann" });
  // The same user again changes nothing; another user does.
  peer.send("pusher:signin_success", data);
  await settled(peer);
  peer.send("pusher:signin_success", { user_data: '{"id":"bob"}' });
  assertEquals(await peer.next(), subscription("#server-to-user-bob"));
  const events = record(pusher.user);
  for (const id of ["ann", "bob"]) {
    peer.send("hi", id, { channel: `#server-to-user-${id}` });
  }
  await settled(peer);
  assertEquals(events, [["hi", "bob"]]);
});

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
    await within(DEADLINE_MS, "sign-in", pusher.user.signinDonePromise!);
    assertEquals(pusher.user.user_data, null);
    pusher.signin();
    await settled(peer);

    server.onRequest = () => Response.json({ auth: AUTH, user_data: ANN });
    const next = await reconnect(server, connection);
    await expectSignin(next);
  }
});

Deno.test("pusher:signin_error has the error of the program's function, or status 0 without an answer", async () => {
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
  const nowhere = { endpoint: "http://127.0.0.1:1/" };
  using connection = await open(server, { userAuthentication: nowhere });
  const { user: lastUser } = connection.client.pusher;
  const failed = heard(lastUser, "pusher:signin_error");
  lastUser.signin();
  assertEquals((await failed).status, 0);
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

Deno.test("user hears the events sent to the user, and no event of the protocol", async () => {
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

Deno.test("user.serverToUserChannel has the user's events, while the user is signed in", async () => {
  await using server = new Server();
  using connection = await open(server, asAnn());
  const { client: { pusher }, peer } = connection;
  assertEquals(pusher.user.serverToUserChannel, null);
  await signIn(connection);
  const own = pusher.user.serverToUserChannel;
  assertEquals(own?.name, "#server-to-user-ann");
  const channel = own?.name ?? "";
  const events = record(own!);
  peer.send("pusher_internal:subscription_succeeded", {}, { channel });
  peer.send("hi", 1, { channel });
  await settled(peer);
  assertEquals(events, [["pusher:subscription_succeeded", {}], ["hi", 1]]);
  assertEquals(own?.subscribed, true);
  // It is none of the program's channels.
  assertEquals(pusher.allChannels(), []);
  pusher.disconnect();
  assertEquals(pusher.user.serverToUserChannel, null);
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

// ---- Authorization ----------------------------------------------------------

Deno.test("private channels ask the endpoint with a form", async () => {
  await using server = new Server();
  const asked: [string, string | null, string][] = [];
  server.onRequest = async (request) => {
    const token = request.headers.get("x-token");
    asked.push([request.method, token, await request.text()]);
    const type = request.headers.get("content-type") ?? "";
    assertMatch(type, /^application\/x-www-form-/);
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
  // Without a page the relative URL of the endpoint is invalid.
  using connection = await open(server, { authEndpoint: "/auth" });
  const channel = connection.client.pusher.subscribe("private-a");
  const error = await heard(channel, "pusher:subscription_error");
  assertEquals([error.type, error.status], ["AuthError", 0]);
});

Deno.test("errors of the program's function are passed on as they are", async () => {
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
  const requests = new Queue<[string, (auth: string) => void]>();
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
