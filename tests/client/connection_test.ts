/**
 * How the client's connection ends and starts again: close codes, attempts and their
 * delays, networks that come and go. Where time matters it is fake.
 */
import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import type { ConnectionError } from "@glitz/pusher/client";
import {
  Client,
  heard,
  open,
  Server,
  settled,
  Sockets,
  until,
} from "../support/client.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";

// ---- Closes -----------------------------------------------------------------

/** Types of the errors that report the end of an established connection. */
const REPORTS = {
  none: [],
  once: ["PusherError"],
  twice: ["PusherError", "WebSocketError"],
};

/**
 * Close codes, the report, and the next action of the client. It waits in silence
 * where the page may be the one that goes away.
 */
const CLOSES: [
  number,
  keyof typeof REPORTS,
  "wait" | "wait in silence" | "at once" | "stop",
][] = [
  [1000, "none", "wait"],
  [1001, "none", "wait in silence"],
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
    using sockets = new Sockets();
    using client = new Client(server);
    const connected = client.heard("connected");
    const peer = await server.accept();
    await peer.establish();
    await connected;
    client.events.length = 0;

    const left = client.heard("state_change");
    await peer.close(code);
    if (next === "wait in silence") {
      await sockets.close();
      assertEquals(client.events, []);
      assertEquals(client.pusher.connection.state, "connected");
      time.tick(1_000);
    }
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
      if (next === "wait") {
        // A code of the server asks for a second or more, and jitter adds half.
        if (code >= 4000) {
          time.tick(999);
          assertEquals(client.pusher.connection.state, "connecting");
          assertEquals(sockets.urls.length, 1);
        }
        time.tick(code >= 4000 ? 501 : 1_000);
      } else if (next === "at once") time.tick(0);
      await server.accept();
    }
  });
}

Deno.test("close 4000 switches to TLS at once, and for good", async () => {
  await using server = new Server();
  using tls = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using client = new Client(server, { wssPort: tls.addr.port });
  (await server.establish()).close(4000);
  for (let attempt = 0; attempt < 2; attempt++) {
    using tcp = await within(DEADLINE_MS, "connection", tls.accept());
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

// ---- Attempts ---------------------------------------------------------------

/**
 * Delays after failures in a row, in seconds, with and without all jitter. After a
 * close code of the server jitter adds to the delay.
 */
const DELAYS = [[0.5, 1], [1, 2], [2, 4], [4, 8], [8, 16], [15, 30], [15, 30]]
  .map(([least = 0, most = 0]) => ({ least, most }));

Deno.test("delays grow to 30 seconds, until a connection lasts", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using client = new Client(server);
  for (const least of DELAYS.map(({ most }) => most)) {
    const most = least * 1.5;
    const delayed = client.heard("connecting_in");
    (await server.establish()).close(4100);
    const seconds = await delayed as number;
    // The event rounds the number of seconds.
    assert(seconds >= least && seconds <= Math.round(most), `${seconds} s`);
    time.tick(most * 1_000);
  }
  const connected = client.heard("connected");
  const peer = await server.establish();
  await connected;
  time.tick(10_000);
  const delayedAgain = client.heard("connecting_in");
  peer.close(4100);
  assertEquals(await delayedAgain, 1);
});

for (const transport of ["ws", undefined]) {
  const title = transport ? "an attempt" : "a round through all transports";

  Deno.test(`delays grow to 30 seconds with ${title} that fails`, async () => {
    using time = new FakeTime();
    await using server = new Server();
    server.isDown = true;
    using client = new Client(
      server,
      transport ? { enabledTransports: [transport] } : {},
    );
    for (const [i, { least, most }] of DELAYS.entries()) {
      await until(() => {
        // Within a round the next transport follows at once.
        const isRoundOver = client.dataOf("connecting_in").length > i;
        if (!isRoundOver) time.tick(0);
        return isRoundOver;
      });
      const seconds = client.dataOf("connecting_in")[i] as number;
      assert(seconds >= Math.round(least) && seconds <= most, `${seconds} s`);
      time.tick(most * 1_000);
    }
  });
}

Deno.test("a connection that is cut is no failure, however often that happens", async () => {
  using time = new FakeTime();
  using server = new RawServer();
  using client = new Client(server);
  for (let cuts = 0; cuts < 20; cuts++) {
    const connected = client.heard("connected");
    const peer = await server.accept();
    await peer.establish();
    await connected;
    const delayed = client.heard("connecting_in");
    await peer.close(cuts % 2 === 0 ? 1006 : 1011);
    assertEquals(await delayed, 1);
    time.tick(1_000);
  }
  await server.accept();
});

Deno.test("delays start over with connect() after disconnect()", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using client = new Client(server);
  const delays: unknown[] = [];
  client.pusher.connection.bind("connecting_in", (s) => delays.push(s));
  for (const { most } of DELAYS.slice(0, 4)) {
    const delayed = client.heard("connecting_in");
    (await server.establish()).close(4100);
    await delayed;
    time.tick(most * 1_500);
  }
  assert(delays.at(-1) as number > 1);
  client.pusher.disconnect();
  client.pusher.connect();
  const delayedAgain = client.heard("connecting_in");
  (await server.establish()).close(4100);
  assertEquals(await delayedAgain, 1);
});

Deno.test("an attempt that hangs is given up, before and after it opens", async () => {
  using time = new FakeTime();
  using tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const options = { enabledTransports: ["ws"] };
  using silent = new Client(tcp.addr, options);
  using _connection = await within(DEADLINE_MS, "connection", tcp.accept());
  const late = silent.heard("connecting_in");
  time.tick(15_000);
  await late;

  await using server = new Server();
  using client = new Client(server, options);
  await server.accept();
  const delayed = client.heard("connecting_in");
  time.tick(15_000);
  await delayed;
  time.tick(1_000);
  const connected = client.heard("connected");
  await server.establish();
  await connected;
});

/** First frames that do not greet the client. */
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
    using client = new Client(server, { enabledTransports: ["ws"] });
    const delayed = client.heard("connecting_in");
    (await server.accept()).sendText(text);
    await delayed;
    const [error] = client.dataOf("error") as ConnectionError[];
    assertEquals(error?.type, "HandshakeError");
    time.tick(1_000);
    const connected = client.heard("connected");
    await server.establish();
    await connected;
  });
}

// ---- Network ----------------------------------------------------------------

for (const event of ["online", "pageshow", "visibilitychange"]) {
  Deno.test(`${event} makes an attempt at once, or sends a ping with a short deadline`, async () => {
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

Deno.test("online makes another attempt in place of an attempt that hangs", async () => {
  await using server = new Server();
  using client = new Client(server);
  const hanging = await server.accept();
  // `pageshow` says nothing about the network.
  globalThis.dispatchEvent(new Event("pageshow"));
  globalThis.dispatchEvent(new Event("online"));
  await within(DEADLINE_MS, "close", hanging.closed);
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
  // Not longer than the option `pongTimeout`.
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
  const waitingAgain = client.heard("connecting_in");
  (await server.accept()).close(4100);
  await waitingAgain;
  // Not after the delay of the fifth failure, which is above 16 seconds.
  time.tick(1_500);
  const connected = client.heard("connected");
  await server.establish();
  await connected;
});

Deno.test("a frame that may have arrived before waking does not replace the pong", async () => {
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

for (const code of [1001, 1006]) {
  Deno.test(`a close ${code} in doubt, before the pong, is followed by an attempt at once`, async () => {
    using time = new FakeTime();
    using server = new RawServer();
    using sockets = new Sockets();
    using client = new Client(server);
    const connected = client.heard("connected");
    const peer = await server.accept();
    await peer.establish();
    await connected;
    globalThis.dispatchEvent(new Event("pageshow"));
    const lost = client.heard("connecting");
    await peer.close(code);
    await sockets.close();
    time.tick(0);
    await lost;
    await (await server.accept()).establish();
    await until(() => client.dataOf("connected").length === 2);
    assertEquals(client.dataOf("connecting_in"), []);
  });
}

Deno.test("a page that comes back after a close that it did not hear of connects at once", async () => {
  using _time = new FakeTime();
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  // A browser closes so when a page is left.
  peer.close(1001);
  await until(() => !client.pusher.send_event("client-x"));
  client.events.length = 0;
  globalThis.dispatchEvent(new Event("offline"));
  assertEquals(client.events, []);
  globalThis.dispatchEvent(new Event("pageshow"));
  const connected = client.heard("connected");
  await server.establish("2.2");
  await connected;
  assertEquals(client.dataOf("state_change"), [
    { previous: "connected", current: "connecting" },
    { previous: "connecting", current: "connected" },
  ]);
});

Deno.test("what is asked for between a close 1001 and the retry is done after it", async () => {
  using time = new FakeTime();
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  peer.close(1001);
  await until(() => !pusher.send_event("client-x"));
  assertEquals(pusher.subscribe("a").trigger("client-x", {}), false);
  time.tick(1_000);
  const next = await server.establish("2.2");
  assertEquals(await next.next(), {
    event: "pusher:subscribe",
    data: { auth: "", channel: "a" },
  });
  await settled(next);
});

Deno.test("offline sends a ping, and makes no attempt", async () => {
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

Deno.test("a page that is hidden neither retries nor sends a ping", async () => {
  using _time = new FakeTime();
  await using server = new Server();
  using connection = await open(server);
  // The event bubbles up from the document, which is its target.
  const event = new Event("visibilitychange");
  Object.defineProperty(event, "target", { value: { hidden: true } });
  globalThis.dispatchEvent(event);
  await settled(connection.peer);
});

// ---- Ends -------------------------------------------------------------------

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
    const tcp = await within(
      DEADLINE_MS,
      "connection",
      this.#listener.accept(),
    );
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

  /** Closes with a code; 1006 means a close without a close frame. */
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
