/**
 * HTTP streaming and polling in raw requests: what is on the wire, when a session
 * ends, and what is refused.
 */
import {
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Pusher, type PusherOptions } from "@glitz/pusher";
import { fallback, type FallbackOptions } from "@glitz/pusher/fallback";
import {
  clientIn,
  type ClientInit,
  clientOf,
  type HttpClient,
  type Kind,
  KINDS,
  openPuppet,
  POLL_UNITS,
  PRELUDE,
  Puppet,
  serveHttp,
  STREAM_UNITS,
} from "../tests/support/fallback.ts";
import { ManualClock } from "../tests/support/clock.ts";
import { APP, parseFrame } from "../tests/support/server.ts";
import { dataOf, hmac } from "../tests/support/wire.ts";

/** What is on the wire for a frame. */
const lineOf = (...frames: string[]) => `a${JSON.stringify(frames)}`;

/** Lets everything happen that needs no time. */
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

// ---- Framing ----------------------------------------------------------------

Deno.test("xhr_streaming begins with a prelude, o and the established frame", async () => {
  await using server = serveHttp();
  await using client = clientOf(server);
  await client.receive("xhr_streaming");
  assertEquals(await client.line(), "h".repeat(2048));
  assertEquals(await client.line(), "o");
  const frame = await client.frame("pusher:connection_established");
  assertMatch(dataOf(frame).socket_id, /^\d+\.\d+$/);
  assertEquals(dataOf(frame).activity_timeout, 120);
});

Deno.test("xhr answers at once with o and the established frame, and ends", async () => {
  await using server = serveHttp();
  await using client = clientOf(server);
  await client.receive("xhr");
  const [o, frames, ...more] = await client.rest();
  assertEquals([o, more], ["o", []]);
  const [text] = JSON.parse(frames!.slice(1));
  assertEquals(parseFrame(text).event, "pusher:connection_established");
});

for (const kind of KINDS) {
  Deno.test(`${kind} answers with headers that keep proxies from gathering`, async () => {
    await using server = serveHttp();
    await using client = clientOf(server);
    const { headers } = await client.receive(kind);
    const read = (name: string) => headers.get(name);
    assertEquals(
      read("content-type"),
      "application/javascript; charset=UTF-8",
    );
    assertEquals(read("cache-control"), "no-store, no-transform");
    assertEquals(read("x-accel-buffering"), "no");
    assertEquals(read("access-control-allow-origin"), "*");
    assertEquals(read("content-encoding"), null);
  });

  Deno.test(`${kind} says o once in a session, whatever is asked later`, async () => {
    await using server = serveHttp();
    await using client = clientOf(server);
    await client.open(kind);
    for (const next of KINDS) {
      await client.receive(next);
      if (next === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
      await client.join(`channel-of-${next}`);
    }
  });

  Deno.test(`${kind} delivers what is published and what clients send`, async () => {
    await using server = serveHttp({ clientEvents: true });
    await using client = clientOf(server);
    await using socket = await server.connect();
    await client.open(kind);
    await client.receive(kind);
    if (kind === "xhr_streaming") await client.line();
    const receive = () => kind === "xhr" ? client.receive("xhr") : null;

    await client.join("private-room");
    await socket.join("private-room");
    await receive();
    await server.pusher.trigger("private-room", "create", { text: "zoë ✓" });
    const frame = await client.frame("create");
    assertEquals(dataOf(frame), { text: "zoë ✓" });
    assertEquals((await socket.next("create")).data, frame.data);

    await client.send({
      event: "client-hi",
      channel: "private-room",
      data: { n: 1 },
    });
    assertEquals(dataOf(await socket.next("client-hi")), { n: 1 });
  });
}

Deno.test("FallbackOptions.hostname is said in o, for all further requests", async () => {
  await using server = serveHttp({}, { hostname: "node-2.example.com" });
  await using client = clientOf(server);
  await client.receive("xhr");
  assertEquals(await client.line(), `o{"hostname":"node-2.example.com"}`);
});

Deno.test("frames of one turn come in one line, in their order", async () => {
  await using server = serveHttp();
  await using client = clientOf(server);
  await client.open("xhr");
  await client.receive("xhr");
  await client.join("news");
  await client.receive("xhr");
  for (let n = 0; n < 3; n++) server.pusher.trigger("news", "next", n);
  const [line, ...more] = await client.rest();
  assertEquals(more, []);
  const frames = JSON.parse(line!.slice(1)).map(parseFrame);
  assertEquals(frames.map(dataOf), [0, 1, 2]);
});

// ---- Asking anew ------------------------------------------------------------

Deno.test("xhr_streaming writes up to 262,144 units, and begins no line after them", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  await using _ = puppet;
  // One line that fills the answer to the last unit, its newline included.
  const left = STREAM_UNITS - PRELUDE.length - "\no\n".length;
  const filling = "é".repeat(left - `a[""]\n`.length);
  puppet.transport.send(filling);
  assertEquals(await client.line(), lineOf(filling));
  assertEquals(client.units, STREAM_UNITS);
  puppet.transport.send("one more");
  assertEquals(await client.line(), lineOf("one more"));

  const more = client.line();
  puppet.transport.send("held");
  await client.beat();
  await turn();
  assertEquals(puppet.transport.bufferedAmount, "held".length);
  await client.receive("xhr_streaming");
  assertEquals(await more, null);
  assertEquals(await client.line(), PRELUDE);
  assertEquals(await client.line(), lineOf("held"));
  await client.abort();
});

Deno.test("xhr writes up to 65,536 units and a line into an answer", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  assertEquals(await client.rest(), []);
  const frame = "x".repeat(POLL_UNITS / 4);
  for (let n = 0; n < 8; n++) puppet.transport.send(frame);
  for (const expected of [4, 4]) {
    await client.receive("xhr");
    const [line] = await client.rest();
    assertEquals(JSON.parse(line!.slice(1)).length, expected);
  }
  assertEquals(puppet.transport.bufferedAmount, 0);
});

/** Reads as stock clients do: at the end of a line, they abort what is long. */
async function readCycling(client: HttpClient, count: number) {
  const numbers: number[] = [];
  let cycles = 0;
  while (numbers.length < count) {
    if (client.units > STREAM_UNITS && client.isAtEnd) {
      // It opens the new request before the old one is gone.
      cycles++;
      await client.receive("xhr_streaming");
      assertEquals(await client.line(), PRELUDE);
      await client.beat();
    }
    const line = await client.line();
    for (const text of JSON.parse(line!.slice(1))) {
      numbers.push(dataOf(parseFrame(text)).n);
    }
  }
  return { numbers, cycles };
}

Deno.test("200 frames of 9 kB at once arrive in order over xhr_streaming, across answers", async () => {
  await using server = serveHttp({ limits: { bufferedBytes: 4_000_000 } });
  await using client = clientOf(server);
  await client.open("xhr_streaming");
  await client.join("news");
  const pad = "x".repeat(9_000);
  for (let n = 0; n < 200; n++) server.pusher.trigger("news", "e", { n, pad });
  const { numbers, cycles } = await readCycling(client, 200);
  assertEquals(numbers, Array.from({ length: 200 }, (_, n) => n));
  assertEquals(cycles, 6);
});

Deno.test("a session goes on after an answer that was broken off", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  await using _ = puppet;
  await client.abort();
  for (const frame of ["one", "two"]) puppet.transport.send(frame);
  await client.receive("xhr_streaming");
  assertEquals(await client.line(), PRELUDE);
  assertEquals(await client.line(), lineOf("one", "two"));
  assertEquals(puppet.closes, []);
  await client.abort();
});

for (const kind of KINDS) {
  Deno.test(`${kind} in place of one that waits ends that with nothing`, async () => {
    const { puppet, client } = await openPuppet("xhr_streaming");
    await using _ = puppet;
    await client.receive(kind);
    if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
    const replaced = client.rest();
    await client.receive("xhr");
    assertEquals(await replaced, []);
    puppet.transport.send("frame");
    assertEquals(await client.rest(), [lineOf("frame")]);
  });
}

// ---- Requests that come again -----------------------------------------------

/** Asks for all lines of an answer to xhr. */
async function poll(client: HttpClient, number?: number | string) {
  await client.receive("xhr", number);
  return await client.rest();
}

Deno.test("xhr that comes again is answered as before, until another one comes", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  puppet.transport.send("one");
  assertEquals(await poll(client, 7), [lineOf("one")]);
  puppet.transport.send("two");
  for (let n = 0; n < 3; n++) {
    assertEquals(await poll(client, 7), [lineOf("one")]);
    // What it holds for now has not been taken off the queue again.
    assertEquals(puppet.transport.bufferedAmount, "two".length);
  }
  assertEquals(await poll(client, 8), [lineOf("two")]);
  puppet.transport.send("three");
  assertEquals(await poll(client, 7), [lineOf("three")]);
});

Deno.test("xhr that comes again opens the session as before, and no other", async () => {
  await using server = serveHttp();
  await using client = clientOf(server);
  const opening = await poll(client, 1);
  assertEquals(opening[0], "o");
  assertEquals(await poll(client, 1), opening);
  assertEquals(server.journal.drain("connected").length, 1);
});

for (
  const number of [undefined, "", "one", "-1", "1.5", "1e3", "1".repeat(16)]
) {
  Deno.test(`xhr with the number ${number} is never taken for one that comes again`, async () => {
    const { puppet, client } = await openPuppet("xhr");
    await using _ = puppet;
    for (const frame of ["one", "two"]) {
      puppet.transport.send(frame);
      assertEquals(await poll(client, number), [lineOf(frame)]);
    }
    for (let n = 0; n < 2; n++) await client.post(`["frame"]`, {}, number);
    assertEquals(puppet.received, ["frame", "frame"]);
  });
}

for (const kind of KINDS) {
  Deno.test(`${kind} that comes again while it waits takes the place of the first`, async () => {
    const { puppet, client } = await openPuppet("xhr");
    await using _ = puppet;
    const replaced: Promise<string[]>[] = [];
    for (let n = 0; n < 3; n++) {
      await client.receive(kind, 7);
      if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
      if (n < 2) replaced.push(client.rest());
      await turn();
    }
    assertEquals(await Promise.all(replaced), [[], []]);
    puppet.transport.send("frame");
    assertEquals(await client.line(), lineOf("frame"));
    await client.abort();
  });
}

Deno.test("xhr that comes again and is not read leaves the next one alone", async () => {
  await using puppet = new Puppet();
  const handler = fallback(puppet);
  const ask = (number: number) => {
    const url = `http://localhost/pusher/app/k/0/abcdefgh/xhr?n=${number}`;
    return handler(new Request(url, { method: "POST" }));
  };
  assertEquals(await (await ask(1)).text(), "o\n");
  const unread = await ask(1);
  puppet.transport.send("frame");
  assertEquals(await (await ask(2)).text(), `${lineOf("frame")}\n`);
  assertEquals(await unread.text(), "");
});

Deno.test("xhr that comes again after the close is answered as before, and then the rest is told", async () => {
  const { puppet, client } = await openPuppet("xhr");
  puppet.transport.send("one");
  assertEquals(await poll(client, 7), [lineOf("one")]);
  puppet.transport.send("two");
  puppet.transport.close(4009, "go");
  for (let n = 0; n < 2; n++) {
    assertEquals(await poll(client, 7), [lineOf("one")]);
  }
  for (let n = 0; n < 2; n++) {
    assertEquals(await poll(client, 8), [lineOf("two"), `c[4009,"go"]`]);
  }
  assertEquals([puppet.closes, puppet.opened.length], [[4009], 1]);
});

Deno.test("xhr that comes again tells a close as before, with the last frames", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await client.receive("xhr", 7);
  puppet.transport.send("last");
  puppet.transport.close(4200, "");
  const told = [lineOf("last"), `c[4200,""]`];
  assertEquals(await client.rest(), told);
  assertEquals(await poll(client, 7), told);
  assertEquals(await poll(client, 8), [`c[4200,""]`]);
});

Deno.test("xhr that comes again while a close waits for the client changes nothing", async () => {
  const { puppet, client, deliver } = delivering();
  await client.receive("xhr", 1);
  assertEquals(await client.rest(), ["o"]);
  for (let n = 0; n < 6; n++) puppet.transport.send("x".repeat(POLL_UNITS / 4));
  const [first, ...more] = await poll(client, 2);
  assertEquals([JSON.parse(first!.slice(1)).length, more], [4, []]);
  puppet.transport.close(4200, "");
  for (let n = 0; n < 2; n++) assertEquals(await poll(client, 2), [first]);
  const [rest, close] = await poll(client, 3);
  assertEquals(JSON.parse(rest!.slice(1)).length, 2);
  assertEquals(close, `c[4200,""]`);
  deliver();
  assertEquals(await puppet.closed(), [4200]);
});

Deno.test("xhr_streaming that comes again goes on, where it had said nothing", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  await using _ = puppet;
  for (let n = 0; n < 2; n++) {
    await client.receive("xhr_streaming", 7);
    assertEquals(await client.line(), PRELUDE);
  }
  puppet.transport.send("frame");
  assertEquals(await client.line(), lineOf("frame"));
  await client.abort();
});

for (const end of ["waits", "was broken off"]) {
  Deno.test(`xhr_streaming that comes again closes with 1006, and no frames, where a line was in an answer that ${end}`, async () => {
    const { puppet, client } = await openPuppet("xhr_streaming");
    await client.receive("xhr_streaming", 7);
    puppet.transport.send("one");
    assertEquals(await client.line(), PRELUDE);
    assertEquals(await client.line(), lineOf("one"));
    if (end === "was broken off") await client.abort();
    const lost = end === "waits" ? client.rest() : [];
    // Whoever is told this would believe to have everything up to it.
    if (end === "was broken off") puppet.transport.send("two");
    await client.receive("xhr_streaming", 7);
    const close = `c[1006,"An answer was lost"]`;
    assertEquals(await client.rest(), [PRELUDE, close]);
    assertEquals(await lost, []);
    assertEquals(puppet.transport.bufferedAmount, 0);
    assertEquals(await puppet.closed(), [1006]);
    await client.receive("xhr_streaming", 7);
    assertEquals(await client.rest(), [PRELUDE, close]);
    assertEquals(puppet.opened.length, 1);
  });
}

Deno.test("xhr_streaming that comes again after the close is told it, and no frames", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  await client.receive("xhr_streaming", 7);
  puppet.transport.send("one");
  assertEquals(await client.line(), PRELUDE);
  assertEquals(await client.line(), lineOf("one"));
  await client.abort();
  puppet.transport.send("two");
  puppet.transport.close(4009, "go");
  await client.receive("xhr_streaming", 7);
  assertEquals(await client.rest(), [PRELUDE, `c[4009,"go"]`]);
  await client.receive("xhr_streaming", 8);
  assertEquals(await client.rest(), [PRELUDE, lineOf("two"), `c[4009,"go"]`]);
});

Deno.test("xhr_streaming that comes again begins anew where the greeting was lost, in the same place", async () => {
  await using server = serveHttp({ limits: { connections: 1, sockets: 1 } });
  await using client = clientOf(server);
  const ids = new Set<string>();
  for (let n = 0; n < 3; n++) {
    await client.receive("xhr_streaming", 1);
    assertEquals(await client.line(), PRELUDE);
    assertEquals(await client.line(), "o");
    const frame = await client.frame("pusher:connection_established");
    ids.add(dataOf(frame).socket_id);
  }
  assertEquals(ids.size, 3);
  const codes = server.journal.drain("disconnected").map(({ code }) => code);
  assertEquals(codes, [1006, 1006]);
});

Deno.test("xhr_streaming that comes again begins anew where the greeting was lost, even after a close", async () => {
  const puppet = new Puppet();
  const client = clientIn(fallback(puppet));
  for (let n = 1; n < 4; n++) {
    await client.receive("xhr_streaming", 1);
    assertEquals(await client.line(), PRELUDE);
    assertEquals(await client.line(), "o");
    assertEquals(puppet.opened.length, n);
    await client.abort();
    puppet.transport.close(4200, "");
  }
  await client.receive("xhr_streaming", 2);
  assertEquals(await client.rest(), [PRELUDE, `c[4200,""]`]);
});

Deno.test("a client whose every answer is lost is closed with 4100 like any other", async () => {
  await using server = serveHttp({ limits: { bufferedBytes: 10_000 } });
  await using client = clientOf(server);
  await client.open("xhr");
  await client.subscribe("news");
  const lost = await poll(client, 1);
  for (let n = 0; n < 12; n++) {
    server.pusher.trigger("news", "e", "x".repeat(1_000));
    if (n < 5) assertEquals(await poll(client, 1), lost);
  }
  assertEquals((await server.journal.next("disconnected")).code, 4100);
});

// ---- Heartbeats -------------------------------------------------------------

Deno.test("an empty xhr_send is answered by a line on xhr, each time", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  for (let n = 0; n < 3; n++) {
    await client.beat();
    await client.receive("xhr");
    assertEquals(await client.rest(), ["a[]"]);
  }
});

Deno.test("an empty xhr_send is answered by a line on xhr_streaming, each time", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  await using _ = puppet;
  for (let n = 0; n < 3; n++) {
    await client.beat();
    assertEquals(await client.line(), "a[]");
  }
  await client.abort();
});

Deno.test("an empty xhr_send that many are waiting for is answered by one line", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  await Promise.all(Array.from({ length: 100 }, () => client.beat()));
  assertEquals(puppet.transport.bufferedAmount, 0);
  await client.receive("xhr");
  assertEquals(await client.rest(), ["a[]"]);
});

for (const kind of KINDS) {
  Deno.test(`${kind} says h after 25 s of silence, and not before`, async () => {
    using time = new FakeTime();
    const { puppet, client } = await openPuppet(kind);
    await client.receive(kind);
    if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
    await time.tickAsync(24_000);
    puppet.transport.send("news");
    assertEquals(await client.line(), lineOf("news"));
    if (kind === "xhr") await client.receive("xhr");
    const next = client.line();
    await time.tickAsync(24_000);
    await client.beat();
    // On streaming it answered the prelude, which is a heartbeat by itself.
    if (kind === "xhr") {
      assertEquals(await next, "a[]");
      await client.receive("xhr");
      await time.tickAsync(26_000);
      assertEquals(await client.rest(), ["h"]);
      // It answers a heartbeat by asking again, so this is a question.
      await client.beat();
      await client.receive("xhr");
      assertEquals(await client.rest(), ["a[]"]);
    } else {
      await time.tickAsync(2_000);
      assertEquals(await next, "h");
      await client.beat();
      puppet.transport.send("nothing before");
      assertEquals(await client.line(), lineOf("nothing before"));
    }
    puppet.transport.close(1000, "");
    await client.abort();
  });
}

Deno.test("FallbackOptions.heartbeatMs is when h is said", async () => {
  using time = new FakeTime();
  const { puppet, client } = await openPuppet("xhr", { heartbeatMs: 3_000 });
  await client.receive("xhr");
  await time.tickAsync(3_000);
  assertEquals(await client.rest(), ["h"]);
  puppet.transport.close(1000, "");
});

Deno.test("Peer.heard is told of every request that brings no frame", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  const before = puppet.heards;
  await client.receive("xhr");
  assertEquals(puppet.heards, before + 1);
  await client.beat();
  assertEquals(puppet.heards, before + 2);
});

Deno.test("requests are signs of life: a client that asks is never pinged", async () => {
  using time = new FakeTime();
  const pusher = new Pusher({ ...APP_OPTIONS, activityTimeoutMs: 30_000 });
  await using client = clientIn(fallback(pusher));
  await client.open("xhr_streaming");
  for (let n = 0; n < 8; n++) {
    await time.tickAsync(25_000);
    assertEquals(await client.line(), "h");
    await client.beat();
  }
  await client.receive("xhr_streaming");
  assertEquals(await client.line(), PRELUDE);
  for (let n = 0; n < 8; n++) {
    await time.tickAsync(20_000);
    await client.receive("xhr");
  }
  await client.receive("xhr_streaming");
  assertEquals(await client.line(), PRELUDE);
  const pinged = client.frame("pusher:ping");
  await time.tickAsync(24_000);
  await time.tickAsync(8_000);
  const error = await assertRejects(() => pinged, Error);
  assertStringIncludes(error.message, "no frames in h");
  await client.abort();
  await pusher.close();
});

Deno.test("pusher:ping and 4201 reach a client that only listens", async () => {
  using time = new FakeTime();
  const pusher = new Pusher({
    ...APP_OPTIONS,
    activityTimeoutMs: 10_000,
    pongTimeoutMs: 5_000,
  });
  await using client = clientIn(fallback(pusher));
  await client.open("xhr_streaming");
  await time.tickAsync(12_000);
  await client.frame("pusher:ping");
  await time.tickAsync(6_000);
  assertEquals(dataOf(await client.frame("pusher:error")).code, 4201);
  assertMatch(`${await client.rest()}`, /^c\[4201,"/);
  await pusher.close();
});

// ---- Absence ----------------------------------------------------------------

const APP_OPTIONS = { appId: APP.id, key: APP.key, secret: APP.secret };

for (const kind of KINDS) {
  Deno.test(`a client that does not ask for over 5 s after ${kind} is gone with 1006`, async () => {
    using time = new FakeTime();
    const { puppet, client } = await openPuppet(kind);
    if (kind === "xhr_streaming") await client.abort();
    else assertEquals(await client.rest(), []);
    await time.tickAsync(4_900);
    assertEquals(puppet.closes, []);
    assertEquals((await client.post("[]")).status, 204);
    await time.tickAsync(1_000);
    assertEquals(puppet.closes, [1006]);
    assertEquals((await client.post("[]")).status, 404);

    // The id is unknown again.
    await client.receive(kind);
    if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
    assertEquals(await client.line(), "o");
    assertEquals(puppet.opened.length, 2);
    puppet.transport.close(1000, "");
    await client.abort();
  });

  Deno.test(`a client that asks within 5 s after ${kind} keeps its session`, async () => {
    using time = new FakeTime();
    const { puppet, client } = await openPuppet(kind);
    for (let n = 0; n < 3; n++) {
      await client.abort();
      await time.tickAsync(4_900);
      puppet.transport.send("missed");
      await client.receive(kind);
      if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
      assertEquals(await client.line(), lineOf("missed"));
    }
    assertEquals(puppet.closes, []);
    puppet.transport.close(1000, "");
    await client.abort();
  });
}

Deno.test("a client that waits for an answer is there for as long as it takes", async () => {
  using time = new FakeTime();
  const { puppet, client } = await openPuppet("xhr_streaming");
  await time.tickAsync(3_600_000);
  assertEquals(puppet.closes, []);
  puppet.transport.close(1000, "");
  await client.abort();
});

/** A puppet whose requests come with word of when their answers are delivered. */
function delivering() {
  const puppet = new Puppet();
  const handler = fallback(puppet);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const info = { completed: promise } as Deno.ServeHandlerInfo;
  const client = clientIn((request) => handler(request, info));
  return { puppet, client, deliver: resolve, fail: reject };
}

for (const [what, how] of [["delivered", 0], ["lost", 1]] as const) {
  Deno.test(`a client is away from when an answer of xhr is ${what}`, async () => {
    using time = new FakeTime();
    const { puppet, client, ...ends } = delivering();
    await client.receive("xhr");
    assertEquals(await client.rest(), ["o"]);
    await time.tickAsync(60_000);
    assertEquals(puppet.closes, []);
    [ends.deliver, () => ends.fail(new Error("lost"))][how]!();
    await time.tickAsync(4_900);
    assertEquals(puppet.closes, []);
    await time.tickAsync(1_000);
    assertEquals(puppet.closes, [1006]);
  });
}

Deno.test("Peer.closed comes when the last answer has been delivered", async () => {
  const { puppet, client, deliver } = delivering();
  await client.receive("xhr_streaming");
  puppet.transport.close(4200, "");
  assertEquals(await client.rest(), [PRELUDE, "o", `c[4200,""]`]);
  await turn();
  assertEquals(puppet.closes, []);
  deliver();
  assertEquals(await puppet.closed(), [4200]);
});

Deno.test("member_removed follows a client that has broken off, within FallbackOptions.absenceMs", async () => {
  await using server = serveHttp({}, { absenceMs: 200 });
  await using ann = await server.connect();
  await ann.join("presence-room", { member: { user_id: "ann" } });
  await using bob = clientOf(server);
  await bob.open("xhr_streaming");
  await bob.join("presence-room", { user_id: "bob" });
  await ann.next("pusher_internal:member_added");
  await bob.abort();
  const frame = await ann.next("pusher_internal:member_removed");
  assertEquals(dataOf(frame), { user_id: "bob" });
  assertEquals((await server.journal.next("disconnected")).code, 1006);
});

Deno.test("no timer runs while there is no session", async () => {
  // The test's own sanitizer is what finds one.
  const { puppet, client } = await openPuppet("xhr_streaming", {
    absenceMs: 50,
  });
  await client.abort();
  assertEquals(await puppet.closed(), [1006]);
});

for (const kind of KINDS) {
  Deno.test(`a session whose answer to ${kind} the program loses is closed like any silent one`, async () => {
    const clock = new ManualClock();
    await using pusher = new Pusher({ clock });
    const codes: number[] = [];
    pusher.on("disconnected", ({ code }) => codes.push(code));
    const handler = fallback(pusher);
    const url = `http://localhost/pusher/app/app-key/7/abcdefgh/${kind}`;
    // A copy of a request does no harm, and nobody reads the answer.
    const request = new Request(url, { method: "POST" });
    await handler(request.clone());
    assertEquals(pusher.stats().connections, 1);
    await clock.passInSteps(76_000);
    assertEquals([pusher.stats().connections, codes], [0, [4201]]);
    // A closed session is remembered a little longer.
    await clock.passInSteps(10_000);
    assertEquals(clock.waiting, 0);
  });
}

// ---- Bounds -----------------------------------------------------------------

Deno.test("Transport.bufferedAmount is the bytes that no answer has taken", async () => {
  await using puppet = new Puppet();
  const handler = fallback(puppet);
  const poll = () => {
    const url = "http://localhost/pusher/app/k/0/bufferedAmount/xhr";
    return handler(new Request(url, { method: "POST" }));
  };
  assertEquals(await (await poll()).text(), "o\n");
  puppet.transport.send("ähm");
  puppet.transport.send("✓");
  assertEquals(puppet.transport.bufferedAmount, 7);
  const response = await poll();
  await turn();
  // Until it is read, an answer has taken nothing.
  assertEquals(puppet.transport.bufferedAmount, 7);
  assertEquals(await response.text(), `${lineOf("ähm", "✓")}\n`);
  assertEquals(puppet.transport.bufferedAmount, 0);
});

Deno.test("a client that does not ask for limits.bufferedBytes is closed with 4100", async () => {
  await using server = serveHttp({ limits: { bufferedBytes: 10_000 } });
  await using client = clientOf(server);
  await client.open("xhr");
  await client.receive("xhr");
  await client.join("news");
  const event = (bytes: number) => {
    const frame = { event: "e", channel: "news", data: "" };
    return "x".repeat(bytes - JSON.stringify(frame).length);
  };
  await server.pusher.trigger("news", "e", event(5_000));
  await server.pusher.trigger("news", "e", event(5_000));
  await turn();
  assertEquals(server.journal.calls("disconnected"), []);
  await client.receive("xhr");
  assertEquals((await client.rest()).length, 1);

  await server.pusher.trigger("news", "e", event(5_000));
  await server.pusher.trigger("news", "e", event(5_001));
  assertEquals((await server.journal.next("disconnected")).code, 4100);
  await client.receive("xhr");
  assertMatch((await client.rest()).at(-1)!, /^c\[4100,"/);
});

Deno.test("a client that does not read its answer is closed with 4100", async () => {
  await using server = serveHttp();
  using tcp = await server.raw();
  await tcp.write(
    "POST /pusher/app/app-key/1/does-not-read/xhr_streaming HTTP/1.1\r\n" +
      "Host: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",
  );
  await server.journal.next("connected");
  await using sender = clientOf(server, { session: "1/does-not-read" });
  await sender.subscribe("news");
  const data = "x".repeat(10_000);
  for (let n = 0; n < 140; n++) server.pusher.trigger("news", "e", data);
  assertEquals((await server.journal.next("disconnected")).code, 4100);
});

Deno.test("what is left for a client that was too slow is its close, and no frames", async () => {
  const { puppet, client } = await openPuppet("xhr");
  assertEquals(await client.rest(), []);
  for (let n = 0; n < 20; n++) puppet.transport.send("x".repeat(10_000));
  puppet.transport.close(4100, "too slow");
  assertEquals(puppet.transport.bufferedAmount, 0);
  await client.receive("xhr");
  assertEquals(await client.rest(), [`c[4100,"too slow"]`]);
});

for (const kind of KINDS) {
  Deno.test(`limits.sockets counts sessions over ${kind}: one more gets 4100`, async () => {
    await using server = serveHttp({ limits: { sockets: 2 } }, {
      absenceMs: 200,
    });
    await using first = clientOf(server);
    await using second = clientOf(server);
    await first.open("xhr_streaming");
    await second.open("xhr_streaming");
    assertEquals(await refusalOf(clientOf(server), kind), 4100);
    await second.abort();
    assertEquals((await server.journal.next("disconnected")).code, 1006);
    await using third = clientOf(server);
    await third.open("xhr_streaming");
  });
}

// ---- Refusals ---------------------------------------------------------------

/** Has a client refused, and returns the code. */
async function refusalOf(client: HttpClient, kind: Kind): Promise<number> {
  await client.receive(kind);
  if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
  assertEquals(await client.line(), "o");
  const { code, message } = dataOf(await client.frame("pusher:error"));
  assertEquals(await client.rest(), [`c${JSON.stringify([code, message])}`]);
  return code;
}

const REFUSALS: [
  what: string,
  code: number,
  options: PusherOptions,
  init: ClientInit,
][] = [
  ["an unknown key", 4001, {}, { key: "no-such-key" }],
  ["a key that is not escaped properly", 4001, {}, { key: "%ff" }],
  ["an app that is disabled", 4003, {
    apps: [{ ...APP, enabled: false }],
  }, {}],
  ["an app that is full", 4004, { limits: { connections: 0 } }, {}],
  ["a version that is no number", 4006, {}, { query: "?protocol=abc" }],
  ["a version that is not spoken", 4007, {}, { query: "?protocol=8" }],
  ["a page of another origin", 4009, { origins: "https://example.com" }, {
    headers: { origin: "https://evil.example" },
  }],
];

for (const [what, code, options, init] of REFUSALS) {
  for (const kind of KINDS) {
    Deno.test(`${kind} tells ${what} as o, pusher:error and c with ${code}`, async () => {
      await using server = serveHttp(options);
      const client = clientOf(server, init);
      assertEquals(await refusalOf(client, kind), code);
      // A session that never was may be tried again.
      assertEquals(await refusalOf(client, kind), code);
    });
  }
}

Deno.test("a page of an allowed origin gets its session", async () => {
  await using server = serveHttp({ origins: "https://example.com" });
  await using client = clientOf(server, {
    headers: { origin: "https://example.com" },
  });
  await client.open("xhr_streaming");
});

// ---- Closing ----------------------------------------------------------------

for (const kind of KINDS) {
  Deno.test(`a session that the server closes tells it over ${kind}, and again for 5 s`, async () => {
    using time = new FakeTime();
    const { puppet, client } = await openPuppet(kind);
    await client.receive(kind);
    if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
    puppet.transport.send("last");
    puppet.transport.close(4009, "go");
    assertEquals(await client.rest(), [lineOf("last"), `c[4009,"go"]`]);
    assertEquals(await puppet.closed(), [4009]);
    puppet.transport.send("too late");

    await time.tickAsync(4_900);
    await client.receive(kind);
    if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
    assertEquals(await client.rest(), [`c[4009,"go"]`]);

    await time.tickAsync(200);
    await client.receive(kind);
    if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
    assertEquals(await client.line(), "o");
    puppet.transport.close(1000, "");
    await client.abort();
  });

  Deno.test(`a session that is closed between two requests tells all that waits over ${kind}`, async () => {
    const { puppet, client } = await openPuppet(kind);
    await client.abort();
    puppet.transport.send("one");
    puppet.transport.send("two");
    puppet.transport.close(4200, "");
    assertEquals(await puppet.closed(), [4200]);
    for (let n = 0; n < 2; n++) {
      await client.receive(kind);
      if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
      assertEquals(await client.rest(), [lineOf("one", "two"), `c[4200,""]`]);
    }
  });
}

Deno.test("a close waits for a client that has to ask anew, and not for ever", async () => {
  using time = new FakeTime();
  const { puppet, client } = await openPuppet("xhr_streaming");
  puppet.transport.send("x".repeat(STREAM_UNITS));
  assertEquals((await client.line())?.length, STREAM_UNITS + `a[""]`.length);
  puppet.transport.close(4200, "");
  await turnOf(time);
  assertEquals(puppet.closes, []);
  await time.tickAsync(6_000);
  assertEquals(puppet.closes, [4200]);
  assertEquals(await client.rest(), []);
  await client.receive("xhr");
  assertEquals(await client.rest(), [`c[4200,""]`]);
});

Deno.test("a close is not told where the last frames fill the answer", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  puppet.transport.send("x".repeat(200_000));
  await client.line();
  puppet.transport.send("x".repeat(100_000));
  puppet.transport.close(4200, "");
  assertEquals((await client.line())?.length, 100_000 + `a[""]`.length);
  const more = client.line();
  await turn();
  await client.receive("xhr_streaming");
  assertEquals(await more, null);
  assertEquals(await client.rest(), [PRELUDE, `c[4200,""]`]);
});

Deno.test("a close that has waited for a client is told when it asks anew", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  puppet.transport.send("x".repeat(STREAM_UNITS));
  await client.line();
  puppet.transport.close(4200, "");
  await client.receive("xhr_streaming");
  assertEquals(await client.rest(), [PRELUDE, `c[4200,""]`]);
  assertEquals(await puppet.closed(), [4200]);
});

/** Lets everything happen that needs no time, where that is faked. */
const turnOf = (time: FakeTime) => time.tickAsync(0);

Deno.test("terminateUserConnections closes a session with 4009", async () => {
  await using server = serveHttp();
  await using client = clientOf(server);
  await client.open("xhr_streaming");
  const user_data = JSON.stringify({ id: "ann" });
  const signature = hmac(APP.secret, `${client.socketId}::user::${user_data}`);
  const auth = `${APP.key}:${signature}`;
  await client.send({ event: "pusher:signin", data: { auth, user_data } });
  await client.frame("pusher:signin_success");
  await server.pusher.terminateUserConnections("ann");
  assertEquals(dataOf(await client.frame("pusher:error")).code, 4009);
  assertMatch(`${await client.rest()}`, /^c\[4009,"/);
});

Deno.test("Pusher.close ends every session with 4200, and lets every answer end", async () => {
  await using server = serveHttp();
  await using streaming = clientOf(server);
  await using polling = clientOf(server);
  await using away = clientOf(server);
  await streaming.open("xhr_streaming");
  await polling.open("xhr");
  await polling.receive("xhr");
  await away.open("xhr");
  await server.pusher.close();
  await away.receive("xhr");
  for (const client of [streaming, polling, away]) {
    assertEquals(dataOf(await client.frame("pusher:error")).code, 4200);
    assertMatch(`${await client.rest()}`, /^c\[4200,"/);
  }
  assertEquals(server.journal.calls("disconnected").length, 3);
  assertEquals(await refusalOf(clientOf(server), "xhr"), 4100);
});

Deno.test("1,000 sessions that open and break off leave nothing behind", async () => {
  await using server = serveHttp({}, { absenceMs: 100 });
  for (let round = 0; round < 10; round++) {
    await Promise.all(Array.from({ length: 100 }, async () => {
      await using client = clientOf(server);
      await client.open("xhr_streaming");
      await client.join("news");
    }));
  }
  await server.journal.settled();
  assertEquals(server.journal.calls("disconnected").length, 1000);
  assertEquals((await server.pusher.channels()).channels, {});
});

// ---- Arguments --------------------------------------------------------------

Deno.test("fallback without arguments serves the default instance, made on first use", async () => {
  const handler = Pusher.cascade(Pusher.handler, fallback());
  await using client = clientIn(handler, { key: "app-key" });
  await client.open("xhr_streaming");
  const { channels } = await Pusher.channels();
  assertEquals(channels, {});
  await client.join("news");
  Pusher.trigger("news", "create", 1);
  assertEquals(dataOf(await client.frame("create")), 1);
  await Pusher.close();
});

Deno.test("fallback reads each option once, so that what is used is what was checked", async () => {
  await using pusher = new Pusher();
  let reads = 0;
  fallback(pusher, {
    get sendBytes() {
      return reads++ === 0 ? 262_144 : -1;
    },
  });
  assertEquals(reads, 1);
});

Deno.test("fallback refuses anything but a Pusher at once, by its kind", async () => {
  await using pusher = new Pusher();
  const cases: [value: unknown, shown: string][] = [
    [null, "null"],
    [{}, "an object"],
    [pusher.handler, "a function"],
    ["a secret", "a string of 8 characters"],
  ];
  for (const [value, shown] of cases) {
    assertThrows(
      () => fallback(value as Pusher),
      TypeError,
      `Cannot create a fallback: pusher is ${shown}, and must be a Pusher`,
    );
  }
});

for (
  const [options, error, text] of [
    [{ paht: "/x" }, TypeError, `unknown option "paht"`],
    [null, TypeError, "options is null, and must be an object"],
    [{ path: "pusher" }, TypeError, `path is "pusher"`],
    [{ path: "/pusher/" }, TypeError, `path is "/pusher/"`],
    [{ hostname: "h2:80" }, TypeError, `hostname is "h2:80"`],
    [{ hostname: "" }, TypeError, `hostname is ""`],
    [{ sendBytes: 0 }, RangeError, "sendBytes is 0"],
    [{ sendBytes: "1" }, TypeError, `sendBytes is "1"`],
    [{ heartbeatMs: 0 }, RangeError, "heartbeatMs is 0"],
    [{ absenceMs: 2 ** 31 }, RangeError, "absenceMs is 2147483648"],
    [{ absenceMs: NaN }, RangeError, "absenceMs is NaN"],
  ] as const
) {
  Deno.test(`fallback refuses the options ${JSON.stringify(options)}`, () => {
    const given = options as unknown as FallbackOptions;
    assertThrows(() => fallback(new Puppet(), given), error, text);
  });
}
