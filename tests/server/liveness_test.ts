/**
 * Who is taken for gone, over real sockets: clients that answer `pusher:ping`, and
 * clients that keep alive with WebSocket pings, which no script sees.
 */
import { assert, assertEquals } from "@std/assert";
import { NativeClient, type NativeInit } from "../support/native.ts";
import { serve, type TestServer } from "../support/server.ts";

/** Short, and still longer than anything takes on a busy machine. */
const LIVELY = { pingAfterMs: 500, pongTimeoutMs: 500 };

const REMOVED = "pusher_internal:member_removed";

/** A native client on a presence channel, for others to see whether it leaves. */
async function joined(
  server: TestServer,
  init?: NativeInit,
): Promise<NativeClient> {
  const client = await NativeClient.connect(server, init);
  await client.join("presence-room", { user_id: "native" });
  return client;
}

const session = () => `/r/${crypto.randomUUID()}`;

Deno.test("a client that answers WebSocket pings alone stays, and nobody sees it leave", async () => {
  await using server = serve(LIVELY);
  await using ann = await server.connect({ query: "?protocol=7&client=js" });
  await ann.join("presence-room", { member: { user_id: "ann" } });
  const answering = (async () => {
    for (;;) {
      const { event } = await ann.next();
      if (event === REMOVED) return;
      if (event === "pusher:ping") ann.pong();
    }
  })();
  const inits: NativeInit[] = [
    { client: "pusher-websocket-swift" },
    { client: "java-client", path: session() },
    { client: "" },
  ];
  const natives = await Promise.all(inits.map((init) => joined(server, init)));
  // As the Java client does, which answers no pusher:ping either.
  await natives[1]?.raw.send({ event: "pusher:ping" });
  // Two WebSocket pings are one period.
  await Promise.all(
    natives.map((native) => native.until(() => native.pings >= 6)),
  );
  for (const native of natives) {
    assertEquals([native.isOver, native.code], [false, null]);
    assert(native.count("pusher:ping") >= 1);
    await native.raw.send({ event: "pusher:ping" });
    await native.next("pusher:pong");
  }
  assertEquals(server.journal.drain("disconnected"), []);
  assertEquals(server.journal.drain("member_removed"), []);
  for (const native of natives) native.raw.drop();
  await answering;
});

Deno.test("a client that answers nothing is gone with 4201, whether it reads or not", async () => {
  await using server = serve(LIVELY);
  for (const reads of [true, false]) {
    using native = await joined(server, { answers: false });
    if (reads) await native.until(() => native.isOver);
    const { socketId, code } = await server.journal.next("disconnected");
    assertEquals([socketId, code], [native.socketId, 4201]);
    const { channel, userId } = await server.journal.next("member_removed");
    assertEquals([channel, userId], ["presence-room", "native"]);
    // The runtime has ended it, so that nothing is left of it.
    if (reads) assertEquals([native.pings, native.code], [1, 1001]);
    assertEquals(server.pusher.stats().connections, 0);
  }
});

Deno.test("a client is gone with 4201 when the runtime's ping waits behind what it does not read", async () => {
  const limits = { bufferedBytes: 1_000_000_000 };
  await using server = serve({ ...LIVELY, limits });
  using native = await joined(server);
  await native.join("news");
  // More than the network takes by itself.
  while (server.pusher.stats().bufferedBytes < 12_000_000) {
    await server.pusher.trigger("news", "e", "x".repeat(10_000));
  }
  const { socketId, code } = await server.journal.next("disconnected");
  assertEquals([socketId, code], [native.socketId, 4201]);
});

Deno.test("a client that sends stays, though it answers no ping", async () => {
  await using server = serve(LIVELY);
  using native = await joined(server, { answers: false });
  // Another client, for the time.
  using clock = await NativeClient.connect(server);
  while (clock.pings < 6) {
    const pings = clock.pings + 1;
    await clock.until(() => clock.pings === pings);
    await native.raw.send({ event: "pusher:unsubscribe", data: {} });
  }
  await native.raw.send({ event: "pusher:ping" });
  await native.next("pusher:pong");
});

Deno.test("a client that has said pusher:pong is closed with 4201 when it stops", async () => {
  await using server = serve(LIVELY);
  using native = await joined(server);
  await native.next("pusher:ping");
  await native.raw.send({ event: "pusher:pong", data: {} });
  await native.until(() => native.isOver);
  assertEquals([native.code, native.count("pusher:error")], [4201, 1]);
  assertEquals(native.count("pusher:ping"), 2);
});

Deno.test("client=js and our own client have to answer pusher:ping from the start", async () => {
  await using server = serve(LIVELY);
  for (const client of ["js", "js-glitz", "glitz"]) {
    using native = await joined(server, { client });
    await native.until(() => native.isOver);
    assertEquals([native.code, native.pings], [4201, 0]);
    assertEquals(native.count("pusher:ping"), 1);
  }
});
