/** Frames that clients send over HTTP: bodies, their limits, and retries. */
import { setImmediate } from "node:timers";
import {
  assertEquals,
  assertFalse,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Pusher } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import {
  clientIn,
  clientOf,
  type HttpClient,
  openPuppet,
  serveHttp,
} from "../../tests/support/fallback.ts";

/** What is on the wire for a frame. */
const lineOf = (...frames: string[]) => `a${JSON.stringify(frames)}`;

/** Lets everything happen that needs no time. */
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

/** The same in real time, whatever the clock says. */
const realTurn = () => new Promise<void>((resolve) => setImmediate(resolve));

// ---- Sending ----------------------------------------------------------------

Deno.test("xhr_send serves the frames of a request in their order", async () => {
  await using server = serveHttp();
  await using client = clientOf(server);
  await client.open("xhr_streaming");
  const subscribe = (channel: string) => ({
    event: "pusher:subscribe",
    data: { channel },
  });
  await client.send(
    subscribe("a"),
    { event: "pusher:unsubscribe", data: { channel: "a" } },
    subscribe("b"),
  );
  for (const channel of ["a", "b"]) {
    assertEquals((await client.frame()).channel, channel);
  }
  assertEquals(Object.keys((await server.pusher.channels()).channels), ["b"]);
});

Deno.test("xhr_send serves requests in the order in which they arrive", async () => {
  await using server = serveHttp();
  await using client = clientOf(server);
  await client.open("xhr_streaming");
  const names = Array.from({ length: 30 }, (_, n) => `channel-${n}`);
  for (const name of names) await client.subscribe(name);
  for (const name of names) {
    assertEquals((await client.frame()).channel, name);
  }
});

Deno.test("xhr_send serves what has come whole before what is on its way", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  await using _ = puppet;
  const first = slowly(client);
  assertEquals((await client.post(`["second"]`)).status, 204);
  await first.write(`["first"]`);
  await first.close();
  assertEquals((await first.post).status, 204);
  assertEquals(puppet.received, ["second", "first"]);
  await client.abort();
});

Deno.test("xhr_send answers 204 with nothing, readable by any page", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  const response = await client.post(`["frame"]`);
  assertEquals([response.status, response.body], [204, null]);
  assertEquals(response.headers.get("access-control-allow-origin"), "*");
  assertEquals(puppet.received, ["frame"]);
});

/** Expects a refusal, which says why in JSON and may be read by any page. */
async function assertRefused(
  response: Response,
  status: number,
  text: string,
): Promise<void> {
  const { error, ...more } = await response.json();
  assertEquals([response.status, more], [status, {}]);
  assertStringIncludes(error, text);
  assertEquals(response.headers.get("access-control-allow-origin"), "*");
  assertEquals(response.headers.get("content-type"), "application/json");
}

for (
  const [body, text] of [
    [null, "not JSON"],
    ["", "not JSON"],
    ["[", "not JSON"],
    [new Uint8Array([0x5b, 0x22, 0xff, 0x22, 0x5d]), "not JSON"],
    ["null", "not an array of strings"],
    [`"frame"`, "not an array of strings"],
    [`{"0":"frame"}`, "not an array of strings"],
    [`["frame",1]`, "not an array of strings"],
    [`[{"event":"pusher:ping"}]`, "not an array of strings"],
  ] as const
) {
  Deno.test(`xhr_send refuses the body ${body} with 400, and serves none of it`, async () => {
    const { puppet, client } = await openPuppet("xhr");
    await using _ = puppet;
    await assertRefused(await client.post(body), 400, text);
    assertEquals(puppet.received, []);
    assertEquals((await client.post(`["frame"]`)).status, 204);
  });
}

Deno.test("xhr_send takes 1,000 frames in a request, and none of 1,001", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  const bodyOf = (count: number) => JSON.stringify(Array(count).fill("f"));
  await assertRefused(await client.post(bodyOf(1001)), 400, "1001 frames");
  assertEquals(puppet.received, []);
  assertEquals((await client.post(bodyOf(1000))).status, 204);
  assertEquals(puppet.received.length, 1000);
});

Deno.test("xhr_send takes FallbackOptions.sendBytes, and answers 413 to more", async () => {
  const { puppet, client } = await openPuppet("xhr", { sendBytes: 20 });
  await using _ = puppet;
  const bodyOf = (bytes: number) => JSON.stringify(["f".repeat(bytes - 4)]);
  const streamOf = (text: string) => new Blob([text]).stream();
  for (const make of [(text: string) => text, streamOf]) {
    assertEquals((await client.post(make(bodyOf(20)))).status, 204);
    const refused = await client.post(make(bodyOf(21)));
    await assertRefused(refused, 413, "larger than 20 bytes");
  }
  assertEquals(puppet.received.length, 2);
});

Deno.test("xhr_send answers 413 for a length alone, and reads nothing", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  let isRead = false;
  const body = new ReadableStream({
    pull() {
      isRead = true;
    },
  }, { highWaterMark: 0 });
  const headers = { "content-length": "262145" };
  await assertRefused(await client.post(body, { headers }), 413, "262144");
  assertFalse(isRead);
});

Deno.test("xhr_send reads 256 requests of a session at once, and answers 429 to more", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  const bodies = Array.from({ length: 256 }, () => slowly(client));
  await assertRefused(await client.post("[]"), 429, "256 requests");
  for (const { post, write, close } of bodies) {
    await write("[]");
    await close();
    assertEquals((await post).status, 204);
  }
  assertEquals((await client.post("[]")).status, 204);
});

Deno.test("xhr_send without a session answers 404, its body unread", async () => {
  await using server = serveHttp();
  await using client = clientOf(server);
  await assertRefused(await client.post(`["frame"]`), 404, "no such session");
  const handler = Pusher.cascade(
    fallback(server.pusher),
    async (request) => new Response(await request.text()),
  );
  const response = await clientIn(handler).post("for the next one");
  assertEquals(await response.text(), "for the next one");
});

Deno.test("xhr_send serves nothing when its session is gone, and is soon read no further", async () => {
  using time = new FakeTime();
  const { puppet, client } = await openPuppet("xhr");
  assertEquals(await client.rest(), []);
  const { post, write } = slowly(client);
  await write(`["fra`);
  // A body is timed from the end of the turn in which it begins.
  await realTurn();
  await time.tickAsync(6_000);
  await assertRefused(await post, 404, "no such session");
  // Some clients read no answer before they have sent everything.
  await write(`me"]`);
  await time.tickAsync(4_000);
  await write(" ");
  await assertRejects(() => write(" "));
  assertEquals(puppet.received, []);
  assertEquals(puppet.closes, [1006]);
});

for (const bodyTimeoutMs of [undefined, 2_000]) {
  Deno.test(`xhr_send waits for the whole body, but no longer than ${bodyTimeoutMs ?? "ten seconds"}`, async () => {
    using time = new FakeTime();
    const { puppet, client } = await openPuppet("xhr", {
      bodyTimeoutMs,
      absenceMs: 60_000,
    });
    const { post, write } = slowly(client);
    const ms = bodyTimeoutMs ?? 10_000;
    // Bytes on the way win no time.
    for (let passed = 0; passed < ms; passed += 1_000) {
      await write(" ");
      // A body is timed from the end of the turn in which it begins.
      await realTurn();
      await time.tickAsync(1_000);
    }
    const response = await post;
    assertEquals(response.headers.get("connection"), "close");
    await assertRefused(response, 408, `bodyTimeoutMs is ${ms}`);
    // The session goes on, and has no more to do with that request.
    assertEquals((await client.post(`["frame"]`)).status, 204);
    assertEquals(puppet.received, ["frame"]);
    await write(`["late"]`);
    await assertRejects(() => write(" "));
    await client.rest();
    puppet.transport.close(4009, "");
    assertEquals(puppet.received, ["frame"]);
    await time.tickAsync(60_000);
  });
}

Deno.test("xhr_send to a session that was closed is taken, and served no more", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  const { post, write, close } = slowly(client);
  await write(`["fra`);
  puppet.transport.close(4009, "");
  // The reason is in the answer that waits, and here is nothing that hides it.
  assertEquals((await client.post(`["frame"]`)).status, 204);
  assertEquals(await client.rest(), [`c[4009,""]`]);
  assertEquals((await post).status, 204);
  assertEquals((await client.post(`["frame"]`)).status, 204);
  await write(`me"]`);
  await close();
  await turn();
  assertEquals(puppet.received, []);
});

/** Sends a body piece by piece. */
function slowly(client: HttpClient, number?: number) {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const writer = writable.getWriter();
  return {
    post: client.post(readable, {}, number),
    write: (text: string) => writer.write(new TextEncoder().encode(text)),
    close: () => writer.close(),
  };
}

Deno.test("xhr_send with a body that breaks off serves nothing", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  const body = new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode(`["frame"]`));
    },
    pull(controller) {
      controller.error(new Error("connection lost"));
    },
  });
  assertEquals((await client.post(body)).status, 400);
  assertEquals(puppet.received, []);
});

// ---- Requests that come again -----------------------------------------------

Deno.test("xhr_send that comes again is taken, and served once", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  for (const number of [3, 1, 3, 2, 1, 2]) {
    const response = await client.post(`["frame ${number}"]`, {}, number);
    assertEquals(response.status, 204);
  }
  assertEquals(puppet.received, ["frame 3", "frame 1", "frame 2"]);
});

Deno.test("an empty xhr_send that comes again is answered by one line", async () => {
  const { puppet, client } = await openPuppet("xhr_streaming");
  await using _ = puppet;
  await client.post("[]", {}, 1);
  assertEquals(await client.line(), "a[]");
  await client.post("[]", {}, 1);
  await turn();
  puppet.transport.send("frame");
  assertEquals(await client.line(), lineOf("frame"));
  await client.abort();
});

for (
  const [what, body, status] of [
    ["broke off", "", 400],
    ["was too large", `["${"x".repeat(30)}"]`, 413],
  ] as const
) {
  Deno.test(`xhr_send that comes again is served, where the first body ${what}`, async () => {
    const { puppet, client } = await openPuppet("xhr", { sendBytes: 20 });
    await using _ = puppet;
    const broken = new ReadableStream({
      start: (controller) => controller.error(new Error("connection lost")),
    });
    const first = await client.post(body === "" ? broken : body, {}, 1);
    assertEquals(first.status, status);
    assertEquals((await client.post(`["frame"]`, {}, 1)).status, 204);
    assertEquals(puppet.received, ["frame"]);
  });
}

Deno.test("xhr_send that comes again while the first is read is served, and that is not", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  const first = slowly(client, 1);
  await first.write(`["fra`);
  assertEquals((await client.post(`["frame"]`, {}, 1)).status, 204);
  assertEquals(puppet.received, ["frame"]);
  await first.write(`me"]`);
  await first.close();
  assertEquals((await first.post).status, 204);
  assertEquals(puppet.received, ["frame"]);
});

Deno.test("xhr_send is known again among the last 256 requests, and not beyond", async () => {
  const { puppet, client } = await openPuppet("xhr");
  await using _ = puppet;
  const send = (number: number) => client.post(`["${number}"]`, {}, number);
  for (let number = 0; number < 256; number++) await send(number);
  for (let number = 0; number < 256; number++) await send(number);
  assertEquals(puppet.received.length, 256);
  await send(256);
  await send(1);
  assertEquals(puppet.received.slice(256), ["256"]);
  await send(0);
  assertEquals(puppet.received.slice(256), ["256", "0"]);
});
