/**
 * A backplane that takes time to start, or cannot start: what waits for it, for
 * how long, and what is told.
 */
import {
  type BackplaneNode,
  MemoryBackplane,
  Pusher,
  type PusherOptions,
} from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertThrows,
} from "@std/assert";
import { until } from "../support/client.ts";
import { ManualClock, turn } from "../support/clock.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { publish, RECOVER, rest } from "../support/recovering.ts";
import {
  APP,
  MemoryTransport,
  serve,
  type TestServer,
} from "../support/server.ts";
import { dataOf } from "../support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";

/** Memory that starts, or fails to start, when the test says so. */
class LateBackplane extends MemoryBackplane {
  readonly #ready = Promise.withResolvers<void>();
  /** How many calls came before it had started. */
  early = 0;
  closes = 0;
  #isReady = false;

  override async start(node: BackplaneNode): Promise<void> {
    await this.#ready.promise;
    super.start(node);
    this.#isReady = true;
  }

  readonly succeed = (): void => this.#ready.resolve();
  readonly fail = (error: unknown): void => this.#ready.reject(error);

  override publish(...given: Parameters<MemoryBackplane["publish"]>): void {
    this.#count();
    super.publish(...given);
  }
  override join(...given: Parameters<MemoryBackplane["join"]>) {
    this.#count();
    return super.join(...given);
  }
  override occupied(...given: Parameters<MemoryBackplane["occupied"]>) {
    this.#count();
    return super.occupied(...given);
  }
  override close(): void {
    this.closes++;
    super.close();
  }

  #count(): void {
    if (!this.#isReady) this.early++;
  }
}

function serveLate(options: PusherOptions = {}) {
  const backplane = new LateBackplane();
  const clock = new ManualClock();
  const server = serve({ backplane, clock, ...options });
  return { server, backplane, clock };
}

/** Whether a promise is still pending when everything else has run. */
async function isPending(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol();
  for (let turns = 0; turns < 3; turns++) await turn();
  return await Promise.race([promise, pending]) === pending;
}

const BODY = { name: "e", channel: "news", data: "1" };

// ---- Waiting ----------------------------------------------------------------

Deno.test("requests, sockets and trigger wait until the backplane has started", async () => {
  const { server, backplane } = serveLate();
  await using _ = server;
  const { pusher } = server;
  const triggered = pusher.trigger("news", "e", 1);
  const listed = pusher.channels();
  const client = server.dial();
  const established = client.established();
  const answers = [
    server.api("POST", "/events", { body: BODY }),
    server.api("GET", "/channels"),
  ];
  assertEquals(pusher.stats().ready, false);
  for (const promise of [triggered, listed, established, ...answers]) {
    assert(await isPending(promise));
  }
  backplane.succeed();
  assertEquals((await triggered).status, 200);
  assertEquals(await listed, { channels: {} });
  for (const answer of answers) assertEquals((await answer).status, 200);
  await established;
  await client.join("news");
  await publish(server, "news", 1);
  await client.next("n");
  assertEquals(backplane.early, 0);
  assertEquals(pusher.stats().ready, true);
  await client.close();
});

Deno.test("what needs no backplane is served while it starts", async () => {
  const { server, backplane } = serveLate({ authorize: () => true });
  await using _ = server;
  for (
    const [path, status] of [
      ["/pusher.js", 200],
      ["/pusher.mjs", 200],
      ["/app/app-key", 426],
      ["/app/nobody", 404],
      ["/elsewhere", 404],
      ["/apps/app-id/nothing", 404],
    ] as const
  ) {
    const response = await fetch(server.url + path);
    assertEquals(response.status, status, path);
    await response.body?.cancel();
  }
  const form = { socket_id: "1.1", channel_name: "private-a" };
  const body = new URLSearchParams(form);
  const url = `${server.url}/pusher/auth`;
  const signed = await fetch(url, { method: "POST", body });
  assertEquals(signed.status, 200);
  await signed.body?.cancel();
  backplane.succeed();
});

Deno.test("events are published in the order in which they were triggered, started or not", async () => {
  const { server, backplane } = serveLate();
  await using _ = server;
  const { pusher } = server;
  const request = new Request(`http://a/app/app-key${RECOVER}`);
  const transport = new MemoryTransport(request.url);
  const peer = pusher.open(transport, APP.key, request);
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  // The first chance to trigger after the start.
  pusher.on("backplane", () => pusher.trigger("news", "n", 4));
  for (const n of [1, 2, 3]) pusher.trigger("news", "n", n);
  backplane.succeed();
  await server.journal.next("backplane");
  for (const n of [5, 6]) await pusher.trigger("news", "n", n);
  await until(() => transport.frames.length >= 8);
  const numbers = transport.frames.filter(({ event }) => event === "n")
    .map((frame) => frame.data);
  assertEquals(numbers, ["1", "2", "3", "4", "5", "6"]);
  assertEquals(transport.frames[1]?.event, SUCCEEDED);
  peer.closed(1000);
});

Deno.test("a start that succeeds is told, and none of the events before it is lost", async () => {
  const { server, backplane } = serveLate();
  await using _ = server;
  const client = server.dial({ query: RECOVER });
  const triggered = publish(server, "news", 1, 3);
  assertEquals(server.journal.calls("backplane"), []);
  backplane.succeed();
  await triggered;
  assertEquals(await server.journal.next("backplane"), {
    ...{ hook: "backplane", up: true },
  });
  await client.established();
  await client.enter("news");
  await publish(server, "news", 4);
  assertEquals(await rest(client), [4]);
  await client.close();
});

// ---- Too late ---------------------------------------------------------------

Deno.test("a request that has waited for ten seconds is refused with 503, and to be repeated", async () => {
  const { server, backplane, clock } = serveLate();
  await using _ = server;
  const answer = server.api("POST", "/events", { body: BODY });
  using raw = await server.raw();
  const head = raw.upgrade("/app/app-key?protocol=7");
  const triggered = server.pusher.trigger("news", "e", 1);
  await until(() => clock.waiting === 2);
  clock.pass(9_999);
  assert(await isPending(answer));
  clock.pass(1);
  const { status, headers, body } = await answer;
  assertEquals([status, headers.get("retry-after")], [503, "1"]);
  assertMatch(body.error, /starting/);
  assertMatch(await head, /^HTTP\/1\.1 503 [^]*retry-after: 1/i);
  // A later request waits for itself, and the program's own call for long.
  const later = server.api("GET", "/channels");
  await until(() => clock.waiting === 1);
  assert(await isPending(triggered));
  backplane.succeed();
  assertEquals((await later).status, 200);
  await triggered;
  assertEquals(clock.waiting, 0);
  await using client = await server.connect();
  await client.silence();
});

// ---- Failure ----------------------------------------------------------------

Deno.test("a start that fails is reported once, and everything that needs it is refused", async () => {
  const { server, backplane } = serveLate();
  await using _ = server;
  const { pusher } = server;
  const answer = server.api("POST", "/events", { body: BODY });
  const triggered = pusher.trigger("news", "e", 1);
  const cause = new Error("cannot reach redis://user:password@host");
  backplane.fail(cause);
  await assertRejects(() => triggered, Error, "cannot reach");
  const { error, during } = await server.journal.next("error");
  assertEquals([error, during], [cause, "starting the backplane"]);
  // The call that has failed is reported as any is.
  assertEquals((await server.journal.next("error")).error, cause);
  for (const later of [answer, server.api("GET", "/channels")]) {
    const { status, headers, body, text } = await later;
    assertEquals([status, headers.get("retry-after")], [503, "1"]);
    assertMatch(body.error, /could not be started/);
    assertEquals(text.includes("redis"), false);
  }
  using raw = await server.raw();
  const head = await raw.upgrade("/app/app-key?protocol=7");
  assertMatch(head, /^HTTP\/1\.1 503 [^]*retry-after: 1/i);
  await assertRejects(async () => await pusher.channels(), Error);
  await assertRejects(async () => await pusher.trigger("a", "e", 1), Error);
  await server.journal.next("error");
  assertEquals(pusher.stats().ready, false);
  assertEquals(server.journal.calls("backplane"), []);
  assertEquals(server.journal.drain("error"), []);
});

Deno.test("a client on a transport hears that its subscription cannot be served", async () => {
  const { server, backplane } = serveLate();
  await using _ = server;
  const transport = new MemoryTransport();
  const request = new Request("http://a/app/app-key?protocol=7");
  const peer = server.pusher.open(transport, APP.key, request);
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  backplane.fail(new Error("cannot be reached"));
  await until(() => transport.frames.length > 1);
  const [, refused] = transport.frames;
  assertEquals(refused?.event, "pusher:subscription_error");
  assertEquals(dataOf(refused!).type, "ServerError");
  peer.receive(JSON.stringify({ event: "pusher:ping" }));
  await until(() => transport.frames.length > 2);
  peer.closed(1000);
  await turn();
  assert(server.journal.drain("error").length > 0);
});

Deno.test("a start that throws at once fails the construction", () => {
  const backplane = new MemoryBackplane();
  backplane.start = () => {
    throw new TypeError("Cannot start: no host was given");
  };
  const create = () => new Pusher({ backplane });
  assertThrows(create, TypeError, "no host was given");
});

Deno.test("a backplane serves one server", async () => {
  const backplane = new MemoryBackplane();
  await using _one = new Pusher({ backplane });
  assertThrows(() => new Pusher({ backplane }), TypeError, "peer()");
  await using _two = new Pusher({ backplane: backplane.peer() });
});

// ---- Closing ----------------------------------------------------------------

/** Closes a server, which has to be done before long. */
async function close(server: TestServer, clock: ManualClock): Promise<void> {
  const closing = within(DEADLINE_MS, "end of close", server.pusher.close());
  // What it waits for at most.
  await turn();
  clock.pass(1_000);
  await closing;
}

Deno.test("a server can be closed before its backplane has started", async () => {
  const { server, backplane, clock } = serveLate();
  await using _ = server;
  const answer = server.api("GET", "/channels");
  const triggered = server.pusher.trigger("news", "e", 1);
  await until(() => clock.waiting === 1);
  await close(server, clock);
  assertEquals(backplane.closes, 1);
  // Nothing is kept waiting for what will not happen.
  const { status } = await within(DEADLINE_MS, "answer", answer);
  assertEquals(status, 503);
  await assertRejects(() => triggered, Error, "closing");
  const { during } = await server.journal.next("error");
  assertEquals(during, "publishing an event");
  backplane.succeed();
  await turn();
  assertEquals(server.pusher.stats().ready, false);
  assertEquals(server.journal.calls("backplane"), []);
});

Deno.test("a server can be closed whose backplane could not start", async () => {
  const { server, backplane, clock } = serveLate();
  await using _ = server;
  backplane.fail(new Error("cannot be reached"));
  await server.journal.next("error");
  await close(server, clock);
  assertEquals(backplane.closes, 1);
});
