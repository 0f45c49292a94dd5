/**
 * A server that closes, as in a deploy: which connections end when, what it still
 * serves, and what it hands over.
 */
import { type Backplane, MemoryBackplane, Pusher } from "@glitz/pusher";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { SlowBackplane } from "../support/backplanes.ts";
import { ManualClock, turn } from "../support/clock.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { clientOf, serveHttp } from "../support/fallback.ts";
import {
  APP,
  MemoryTransport,
  serve,
  signedRequest,
  type TestServer,
} from "../support/server.ts";

const { id: appId, key, secret } = APP;
const SECOND = 1_000;
const OVER_MS = 5 * SECOND;

/** A clock under which closing takes as long as the test says. */
function closing(options = {}): [server: TestServer, clock: ManualClock] {
  const clock = new ManualClock();
  return [serve({ clock, ...options }), clock];
}

/** Ends a server whose clock stands still. */
async function end(closed: Promise<void>, clock: ManualClock): Promise<void> {
  let isClosed = false;
  const ended = closed.then(() => isClosed = true);
  const pass = async () => {
    while (!isClosed) {
      clock.pass(100);
      await turn();
    }
  };
  await within(DEADLINE_MS, "end of close", Promise.all([ended, pass()]));
}

// ---- Connections ------------------------------------------------------------

Deno.test("close closes an even share of ten thousand connections in each tenth of a second", async () => {
  const clock = new ManualClock();
  const pusher = new Pusher({ appId, key, secret, clock });
  const request = new Request("http://a/app/app-key?protocol=7");
  const transports = Array.from({ length: 10_000 }, () => {
    const transport = new MemoryTransport(request.url);
    const peer = pusher.open(transport, APP.key, request);
    return { transport, peer };
  });
  const closed = pusher.close({ over: OVER_MS });
  assertEquals(pusher.stats().ready, false);
  const counts: number[] = [];
  let before = 10_000;
  while (pusher.stats().connections > 0) {
    const { connections } = pusher.stats();
    counts.push(before - connections);
    before = connections;
    // The clients answer.
    for (const { transport, peer } of transports) {
      if (transport.closing !== undefined) peer.closed(4200);
    }
    clock.pass(100);
    await turn();
  }
  for (const { transport } of transports) {
    assertEquals(transport.closing?.[0], 4200);
  }
  for (const { peer } of transports) peer.closed(4200);
  await end(closed, clock);
  assert(counts.length >= 45 && counts.length <= 51, `${counts.length}`);
  const even = 10_000 * 100 / OVER_MS;
  for (const count of counts) assert(count <= 1.3 * even, `${counts}`);
});

Deno.test("close at once ends a close that takes its time", async () => {
  const [server, clock] = closing();
  await using clients = await server.connectAll(4);
  const slowly = server.pusher.close({ over: 3_600 * SECOND });
  assertEquals(server.pusher.stats().connections, 4);
  const atOnce = server.pusher.close();
  await end(atOnce, clock);
  await within(DEADLINE_MS, "end of close", slowly);
  for (const client of clients) {
    assertEquals((await client.closed).code, 4200);
  }
  await server[Symbol.asyncDispose]();
});

Deno.test("close refuses new clients, also those that are about to open, and keeps the others until their turn", async () => {
  const [server, clock] = closing();
  await using kept = await server.connect();
  using early = await server.raw();
  const path = `/app/${APP.key}?protocol=7`;
  // Half of an upgrade: the request ends when the server is closing.
  await early.write(
    `GET ${path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n`,
  );
  const closed = server.pusher.close({ over: OVER_MS });
  await early.write(
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
  );
  assertMatch(await early.readHead(), /^HTTP\/1.1 101/);
  assertEquals(await early.readClose(), 4100);
  assertEquals((await server.turnsAway()).code, 4100);
  assertEquals(server.pusher.stats().connections, 1);
  assertEquals(await kept.framesUntilPong(), []);
  await end(closed, clock);
  assertEquals((await kept.closed).code, 4200);
  await server[Symbol.asyncDispose]();
});

Deno.test("close closes sessions over HTTP with 4200, and refuses new ones with 4100", async () => {
  const clock = new ManualClock();
  await using server = serveHttp({ clock });
  await using streaming = await clientOf(server).open("xhr_streaming");
  await using polling = await clientOf(server).open("xhr");
  // Time stands still until the clients have heard.
  const closed = server.pusher.close();
  await using late = clientOf(server);
  for (const kind of ["xhr", "xhr_streaming"] as const) {
    await late.receive(kind);
    assertMatch((await late.rest()).join(), /c\[4100,/);
  }
  assertMatch((await streaming.rest()).join(), /c\[4200,/);
  await polling.receive("xhr");
  assertMatch((await polling.rest()).join(), /c\[4200,/);
  await end(closed, clock);
});

Deno.test("close waits a second for clients that never answer a close", async () => {
  const clock = new ManualClock();
  const pusher = new Pusher({ appId, key, secret, clock });
  const request = new Request("http://a/app/app-key?protocol=7");
  const transport = new MemoryTransport(request.url);
  pusher.open(transport, APP.key, request);
  let isClosed = false;
  const closed = pusher.close().then(() => isClosed = true);
  await turn();
  clock.pass(999);
  await turn();
  assertEquals([isClosed, transport.closing?.[0]], [false, 4200]);
  clock.pass(1);
  await within(DEADLINE_MS, "end of close", closed);
});

// ---- The HTTP API -----------------------------------------------------------

Deno.test("the HTTP API serves until all connections are closed, and then answers 503 with retry-after", async () => {
  const [server, clock] = closing();
  const client = await server.connect();
  await client.join("news");
  const closed = server.pusher.close({ over: OVER_MS });
  const body = { name: "e", channel: "news", data: "1" };
  assertEquals((await server.api("POST", "/events", { body })).status, 200);
  assertEquals((await client.next("e")).data, "1");
  assertEquals((await server.api("GET", "/channels")).body, {
    channels: { news: {} },
  });
  await end(closed, clock);
  assertEquals((await client.closed).code, 4200);
  const request = signedRequest(server.url, "POST", "/events", {
    app: server.app,
    body,
  });
  const refused = await fetch(request);
  assertEquals(refused.status, 503);
  assertEquals(refused.headers.get("retry-after"), "1");
  assertEquals((await refused.json()).error, "The server is shutting down");
  await server[Symbol.asyncDispose]();
});

// ---- The backplane ----------------------------------------------------------

/** A session's path. */
const newPath = () => `/r/${crypto.randomUUID()}`;

/** A backplane where one method waits for the test, from its second call on. */
function holding(method: string) {
  const backplane = new SlowBackplane();
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  let isHeld = false;
  backplane.turn = async (called, isAfter) => {
    if (!isHeld || called !== method || isAfter) return;
    asked.resolve();
    await answer.promise;
  };
  return {
    backplane,
    hold: () => isHeld = true,
    asked: within(DEADLINE_MS, method, asked.promise),
    answer: () => answer.resolve(),
  };
}

for (const method of ["keep", "take", "leave"]) {
  Deno.test(`close lets go of the backplane when ${method} has been answered`, async () => {
    const { backplane, hold, asked, answer } = holding(method);
    const [server, clock] = closing({ backplane });
    const client = await server.connect({ path: newPath() });
    if (method !== "take") await client.join("news");
    hold();
    if (method === "take") {
      client.requestSubscribe("news");
      await asked;
    }
    const closed = server.pusher.close();
    assertEquals((await client.closed).code, 4200);
    await asked;
    for (let i = 0; i < 3; i++) await turn();
    assertEquals(backplane.closes, 0);
    answer();
    await end(closed, clock);
    assertEquals([backplane.closes, backplane.afterClose], [1, []]);
    await server[Symbol.asyncDispose]();
  });
}

for (
  const [how, close] of [
    ["fails", () => Promise.reject(new Error("no way"))],
    ["throws", () => {
      throw new Error("no way");
    }],
    ["never answers", () => new Promise<void>(() => {})],
  ] as const
) {
  Deno.test(`close ends also when closing the backplane ${how}`, async () => {
    const backplane: Backplane = new MemoryBackplane();
    backplane.close = close;
    const [server, clock] = closing({ backplane });
    await using client = await server.connect();
    await end(server.pusher.close({ over: SECOND }), clock);
    assertEquals((await client.closed).code, 4200);
    if (how !== "never answers") {
      const { during, error } = await server.journal.next("error");
      assertEquals([during, error.message], [
        "closing the backplane",
        "no way",
      ]);
    }
    await server[Symbol.asyncDispose]();
  });
}
