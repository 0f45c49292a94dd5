/**
 * The delivery to an endpoint: retries, answers, errors, and the close.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { ManualClock } from "../../tests/support/clock.ts";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { APP, inShort, Receiver } from "../../tests/support/receiver.ts";
import {
  Client,
  failed,
  setUp,
  turn,
  untilQueued,
} from "../../tests/support/webhooks.ts";

// ---- Delivery ---------------------------------------------------------------

Deno.test("a webhook that fails is tried after 1, 2, 4, … 128 and 45 s, the same each time", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver(() => new Response("", { status: 503 }));
  await using server = setUp(receiver.url, { events: ["client_event"] });
  const client = new Client(server.pusher).join("private-a");
  client.send("client-1", "x", "private-a");
  client.send("client-2", "x", "private-a");
  // A connection has timers of its own.
  client.close();
  const startMs = time.now;
  const first = await receiver.take();
  const triesAtS = [0];
  for (;;) {
    const failure = await failed(server.errors);
    if (failure === "gave_up") break;
    assertEquals(failure, "retrying");
    await turn();
    assert(time.next());
    triesAtS.push((time.now - startMs) / 1000);
    const again = await receiver.take();
    assertEquals(again.rawBody, first.rawBody);
    assertEquals([...again.headers], [...first.headers]);
  }
  assertEquals(triesAtS, [0, 1, 3, 7, 15, 31, 63, 127, 255, 300]);

  // Only then the next one has its turn; it succeeds the second time.
  const next = await receiver.take();
  assertEquals(next.events[0]?.event, "client-2");
  assertNotEquals(next.id, first.id);
  assertEquals(await failed(server.errors), "retrying");
  receiver.answer = () => new Response(null, { status: 204 });
  await turn();
  time.tick(1_000);
  assertEquals((await receiver.take()).id, next.id);
  await server.hooks.close();
  assertEquals(server.hooks.status, [{
    url: receiver.url,
    queued: 0,
    delivered: 1,
    dropped: 0,
    lost: 1,
  }]);
  assertEquals(receiver.deliveries.size, 0);
});

Deno.test("an endpoint that is back within five minutes misses nothing, after that it is given up", async () => {
  for (const isBack of [true, false]) {
    const clock = new ManualClock();
    await using receiver = new Receiver(() =>
      new Response("", { status: 500 })
    );
    await using server = setUp(receiver.url, {
      events: ["client_event"],
      pusher: { clock },
    });
    const client = new Client(server.pusher).join("private-a");
    client.send("client-1", "x", "private-a");
    // A connection has timers of its own.
    client.close();
    for (const pauseS of [1, 2, 4, 8, 16, 32, 64, 128]) {
      await receiver.take();
      assertEquals(await failed(server.errors), "retrying");
      await turn();
      clock.pass(pauseS * 1_000);
    }
    // The try at 255 seconds, and the last, at 300.
    await receiver.take();
    assertEquals(await failed(server.errors), "retrying");
    await turn();
    if (isBack) receiver.answer = () => new Response();
    clock.pass(44_999);
    await turn();
    assertEquals(receiver.deliveries.size, 0);
    clock.pass(1);
    await receiver.take();
    await untilQueued(server.hooks, 0);
    const { delivered, lost } = server.hooks.status[0]!;
    assertEquals(
      { delivered, lost },
      isBack ? { delivered: 1, lost: 0 } : { delivered: 0, lost: 1 },
    );
    const left = server.errors.drain().map(({ failure }) => failure);
    assertEquals(left, isBack ? [] : ["gave_up"]);
  }
});

Deno.test("an answer that does not come in 5 s is a failure", async () => {
  using time = new FakeTime();
  const { promise: never, resolve } = Promise.withResolvers<Response>();
  await using receiver = new Receiver(() => never);
  await using server = setUp(receiver.url, { events: ["client_event"] });
  const client = new Client(server.pusher).join("private-a");
  client.send("client-1", "x", "private-a");
  client.close();
  const { id } = await receiver.take();
  time.tick(4_999);
  await turn();
  assertEquals(server.errors.size, 0);
  time.tick(1);
  const error = await server.errors.next("error");
  assertEquals(error.failure, "retrying");
  assertStringIncludes(error.message, "no answer in 5000 ms");
  receiver.answer = () => new Response();
  await turn();
  time.tick(1_000);
  assertEquals((await receiver.take()).id, id);
  resolve(new Response());
});

Deno.test("only 2xx is success, and a redirect is not followed", async () => {
  await using receiver = new Receiver();
  const statuses = [301, 302, 307, 308, 304, 400, 401, 404, 410, 500, 299];
  let tries = 0;
  receiver.answer = () =>
    new Response(null, {
      status: statuses[tries++]!,
      headers: { location: receiver.url },
    });
  await using server = setUp(receiver.url, {
    retryDelaysMs: statuses.map(() => 1),
  });
  using _client = new Client(server.pusher).join("a");
  for (const status of statuses) {
    await receiver.take();
    if (status === 299) break;
    const error = await server.errors.next("error");
    assertEquals(error.failure, "retrying");
    assertStringIncludes(error.message, `it answered ${status}`);
  }
  await server.hooks.close();
  assertEquals(tries, statuses.length);
  assertEquals(server.hooks.status[0]?.delivered, 1);
});

Deno.test("a receiver that is killed and started again misses nothing", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    events: ["client_event"],
    retryDelaysMs: Array(1_000).fill(5),
  });
  using client = new Client(server.pusher, APP.key).join("private-a");
  const TOTAL = 200;
  const publish = (from: number, to: number) => {
    for (let i = from; i < to; i++) {
      // The limit of client events is per connection.
      using sender = new Client(server.pusher).join("private-a");
      sender.send(`client-${i}`, i, "private-a");
    }
  };
  publish(0, 100);
  const seen = new Map<string, string>();
  const receive = async (until: number) => {
    while (seen.size < until) {
      const { id, events } = await receiver.take();
      seen.set(id, events[0]!.event!);
    }
  };
  await receive(30);
  await receiver.kill();
  publish(100, 150);
  assertEquals(await failed(server.errors), "retrying");
  receiver.start();
  await receive(90);
  await receiver.kill();
  publish(150, TOTAL);
  receiver.start();
  await receive(TOTAL);
  // By the id each is there once, and in order.
  assertEquals(
    [...seen.values()],
    Array.from({ length: TOTAL }, (_, i) => `client-${i}`),
  );
  await server.hooks.close();
  const [status] = server.hooks.status;
  assertEquals([status?.delivered, status?.lost], [TOTAL, 0]);
  assert(client.frames.length > TOTAL);
});

Deno.test("a webhook whose answer is lost comes again with the same id", async () => {
  await using receiver = new Receiver();
  const { promise: never, resolve } = Promise.withResolvers<Response>();
  receiver.answer = () => never;
  await using server = setUp(receiver.url, {
    retryDelaysMs: Array(99).fill(5),
  });
  using _client = new Client(server.pusher).join("a");
  const { id, rawBody } = await receiver.take();
  await receiver.kill();
  resolve(new Response());
  receiver.answer = () => new Response();
  receiver.start();
  const again = await receiver.take();
  assertEquals([again.id, again.rawBody], [id, rawBody]);
});

Deno.test("an endpoint that hangs holds up neither clients nor other endpoints", async () => {
  const { promise: never, resolve } = Promise.withResolvers<Response>();
  await using slow = new Receiver(() => never);
  await using fast = new Receiver();
  await using server = setUp("", {
    endpoints: [{ url: slow.url }, { url: fast.url }],
  });
  using client = new Client(server.pusher);
  const expected = [];
  for (let i = 0; i < 50; i++) {
    // The answer is there before any request could have been made.
    client.join(`news-${i}`);
    expected.push(`channel_occupied news-${i}`);
  }
  assertEquals(await fast.toldAll(50), expected);
  assertEquals(slow.mostAtOnce, 1);
  assertEquals(server.hooks.status.map(({ queued }) => queued)[0], 50);
  resolve(new Response());
  slow.answer = () => new Response();
  assertEquals(await slow.toldAll(50), expected);
});

Deno.test("an answer with a body, endless or not, is read and counts by its status", async () => {
  let mode = "short";
  await using receiver = new Receiver(() => {
    if (mode === "short") return new Response("x".repeat(100_000));
    const start = (controller: ReadableStreamDefaultController) =>
      controller.enqueue(new Uint8Array(1_000));
    return new Response(new ReadableStream({ start }));
  });
  // Ample for the head of an answer on a busy machine; the endless body takes it all.
  await using server = setUp(receiver.url, { timeoutMs: 1_500 });
  using client = new Client(server.pusher).join("a");
  await receiver.take();
  await turn();
  mode = "endless";
  client.join("b").join("c");
  await receiver.toldAll(2);
  assertEquals(server.errors.size, 0);
});

Deno.test("a long answer is not read to its end, and its connection is closed", async () => {
  let sent = 0;
  const ended = Promise.withResolvers<void>();
  await using receiver = new Receiver(() => {
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 16_384;
        controller.enqueue(new Uint8Array(16_384));
      },
      cancel: () => ended.resolve(),
    });
    return new Response(body);
  });
  await using server = setUp(receiver.url, { timeoutMs: 600_000 });
  using client = new Client(server.pusher).join("a");
  await receiver.take();
  await within(DEADLINE_MS, "end of the answer", ended.promise);
  // What the network takes in before it hears of the end is not much.
  assert(sent < 64 * 1_048_576, `${sent}`);
  receiver.answer = () => new Response();
  client.join("b");
  assertEquals(await receiver.told(), "channel_occupied b");
  assertEquals(server.errors.size, 0);
});

Deno.test("an answer that comes byte by byte ends with its try, and counts by its status", async () => {
  let status = 200;
  let ended = Promise.withResolvers<void>();
  await using receiver = new Receiver(() => {
    let timer: ReturnType<typeof setInterval> | undefined;
    const { resolve } = ended;
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        timer = setInterval(() => controller.enqueue(new Uint8Array(1)), 20);
      },
      cancel() {
        clearInterval(timer);
        resolve();
      },
    });
    return new Response(body, { status });
  });
  await using server = setUp(receiver.url, {
    timeoutMs: 1_000,
    retryDelaysMs: [],
  });
  using client = new Client(server.pusher).join("a");
  await within(DEADLINE_MS, "end of the answer", ended.promise);
  await untilQueued(server.hooks, 0);
  assertEquals(server.hooks.status[0]?.delivered, 1);
  status = 500;
  ended = Promise.withResolvers();
  client.join("b");
  await within(DEADLINE_MS, "end of the answer", ended.promise);
  const error = await server.errors.next("error");
  assertEquals(error.failure, "gave_up");
  assertStringIncludes(error.message, "it answered 500");
});

Deno.test("onError may throw or reject", async () => {
  await using receiver = new Receiver(() => new Response("", { status: 500 }));
  using printed = printing();
  let isFirst = true;
  await using server = setUp(receiver.url, {
    retryDelaysMs: [1, 1],
    onError() {
      if (!isFirst) return Promise.reject(new Error("rejected"));
      isFirst = false;
      throw new Error("thrown");
    },
  });
  using _client = new Client(server.pusher).join("a");
  for (let i = 0; i < 3; i++) await receiver.take();
  await untilQueued(server.hooks, 0);
  assertMatch(printed.lines.join(), /onError.*thrown.*onError.*rejected/);
});

Deno.test("the query of an endpoint's URL is in no message", async () => {
  await using receiver = new Receiver(() => new Response("", { status: 500 }));
  await using server = setUp(`${receiver.url}?token=s3cret`, {
    retryDelaysMs: [1],
  });
  using client = new Client(server.pusher).join("a");
  for (let i = 0; i < 2; i++) await receiver.take();
  await untilQueued(server.hooks, 0);
  // It cannot be reached, which the runtime tells with the whole URL.
  await receiver.kill();
  client.join("b");
  await turn();
  await untilQueued(server.hooks, 0);
  const messages = [];
  for (const failure of ["retrying", "gave_up", "retrying", "gave_up"]) {
    const error = await server.errors.next("error");
    assertEquals(error.failure, failure);
    assertStringIncludes(error.url, "?token=s3cret");
    messages.push(error.message);
  }
  assertFalse(messages.join().includes("s3cret"), messages.join());
  assertMatch(messages[3]!, /refused/i);
});

Deno.test("without onError the first failure of a kind is printed, until all is delivered", async () => {
  await using receiver = new Receiver(() => new Response("", { status: 500 }));
  using printed = printing();
  await using server = setUp(receiver.url, {
    retryDelaysMs: [1, 1, 1],
    onError: undefined,
  });
  using client = new Client(server.pusher).join("a").join("b");
  for (let i = 0; i < 8; i++) await receiver.take();
  await untilQueued(server.hooks, 0);
  const name = `Pusher: Cannot deliver a webhook to "${receiver.url}"`;
  const both = [
    `${name}, and will try again: it answered 500`,
    `${name}, and gave up: it answered 500`,
  ];
  assertEquals(printed.lines, both);
  client.join("c");
  for (let i = 0; i < 4; i++) await receiver.take();
  await untilQueued(server.hooks, 0);
  assertEquals(printed.lines, [...both, ...both]);
});

/** Takes what is printed as errors, until it is disposed of. */
function printing() {
  const original = console.error;
  const lines: string[] = [];
  console.error = (...args) => void lines.push(args.join(" "));
  return {
    lines,
    [Symbol.dispose]() {
      console.error = original;
    },
  };
}

// ---- Close ------------------------------------------------------------------

Deno.test("close delivers what is queued and what waits to settle, and then hears nothing", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url);
  using client = new Client(server.pusher).join("a").join("presence-b", "ann");
  assertEquals((await receiver.toldAll(3)).sort(), [
    "channel_occupied a",
    "channel_occupied presence-b",
    "member_added presence-b ann",
  ]);
  client.join("private-d").leave("presence-b");
  // Nothing has been heard of yet: hooks run in a microtask.
  const closed = server.hooks.close();
  assertEquals(await receiver.toldAll(3), [
    "channel_occupied private-d",
    "member_removed presence-b ann",
    "channel_vacated presence-b",
  ]);
  await within(DEADLINE_MS, "end of close", closed);
  client.leave("a").join("c");
  await turn();
  await server.hooks.close();
  assertEquals(receiver.deliveries.size, 0);
});

Deno.test("close after the server's tells that its clients have left", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { events: ["channel_vacated"] });
  using _client = new Client(server.pusher).join("a");
  await server.pusher.close();
  await server.hooks.close();
  assertEquals(await receiver.told(), "channel_vacated a");
});

Deno.test("close does not wait out a pause between tries", async () => {
  await using receiver = new Receiver(() => new Response("", { status: 500 }));
  await using server = setUp(receiver.url, { retryDelaysMs: [600_000] });
  using _client = new Client(server.pusher).join("a");
  await receiver.take();
  assertEquals(await failed(server.errors), "retrying");
  receiver.answer = () => new Response();
  await within(DEADLINE_MS, "end of close", server.hooks.close());
  assertEquals(server.hooks.status[0]?.delivered, 1);
});

Deno.test("close ends within its time, and reports what was not delivered", async () => {
  for (const answers of [true, false]) {
    const { promise: never, resolve } = Promise.withResolvers<Response>();
    await using receiver = new Receiver(() =>
      answers ? new Response("", { status: 500 }) : never
    );
    await using server = setUp(receiver.url, { timeoutMs: 60_000 });
    using _client = new Client(server.pusher).join("a").join("b");
    await receiver.take();
    await within(
      DEADLINE_MS,
      "end of close",
      server.hooks.close({ timeoutMs: 30 }),
    );
    let error;
    do error = await server.errors.next("error"); while (
      error.failure === "retrying"
    );
    assertEquals(error.failure, "closed");
    assertEquals(error.events.map(inShort), [
      "channel_occupied a",
      "channel_occupied b",
    ]);
    assertEquals(server.hooks.status[0]?.lost, 2);
    assertEquals(server.hooks.status[0]?.queued, 0);
    resolve(new Response());
  }
});

Deno.test("close refuses what is no duration", async () => {
  await using server = setUp("http://localhost");
  for (const timeoutMs of [-1, NaN, 2 ** 31]) {
    assertThrows(
      () => server.hooks.close({ timeoutMs }),
      RangeError,
      `Cannot close webhooks: timeoutMs is ${timeoutMs}, and must be from 0`,
    );
  }
  const misspelt = { timeout: 5 } as object;
  const known = 'unknown option "timeout", known is timeoutMs';
  assertThrows(() => server.hooks.close(misspelt), TypeError, known);
});
