/**
 * What waits for an endpoint: whose turn it is, what is not reported after all,
 * and what finds no room.
 */
import type { WebhookOptions } from "@glitz/pusher/webhooks";
import {
  assert,
  assertEquals,
  assertFalse,
  assertStringIncludes,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { inShort, Receiver } from "../../tests/support/receiver.ts";
import {
  Client,
  OCCUPANCY,
  setUp,
  turn,
  untilQueued,
} from "../../tests/support/webhooks.ts";

// ---- Fairness ---------------------------------------------------------------

/** What a client may do without being held back. */
const UNLIMITED = {
  limits: {
    framesPerSecond: Infinity,
    channelsPerConnection: Infinity,
    clientEventsPerSecond: Infinity,
  },
};

/** A receiver that answers only when it is told to. */
function hold(receiver: Receiver): () => void {
  const { promise, resolve } = Promise.withResolvers<void>();
  receiver.answer = async () => {
    await promise;
    return new Response();
  };
  return resolve;
}

Deno.test("a client that causes any number of events delays another's by one per turn", async () => {
  const noises: [
    what: string,
    make: (noisy: Client, i: number) => void,
    options?: Partial<WebhookOptions>,
  ][] = [
    ["fresh channels", (noisy, i) => noisy.join(`news-${i}`)],
    [
      "channels that come and go, with a cache miss",
      (noisy, i) => noisy.join(`cache-${i}`).leave(`cache-${i}`),
      { settleMs: 0 },
    ],
    ["client events", (noisy, i) => {
      if (i === 0) noisy.join("private-noise");
      noisy.send("client-x", i, "private-noise");
    }],
    ["members", (noisy, i) => noisy.join(`presence-${i}`, i)],
  ];
  for (const batch of [true, false]) {
    for (const [what, make, options] of noises) {
      await using receiver = new Receiver();
      const release = hold(receiver);
      await using server = setUp(receiver.url, {
        batch,
        pusher: UNLIMITED,
        ...options,
      });
      using noisy = new Client(server.pusher);
      using quiet = new Client(server.pusher);
      noisy.join("first");
      await receiver.take();
      for (let i = 0; i < 400; i++) make(noisy, i);
      await turn();
      quiet.join("quiet").join("presence-quiet", "ann");
      await turn();
      assert(server.hooks.status[0]!.queued > 400, what);
      release();
      receiver.answer = () => new Response();
      // A turn of two groups with two clients takes four webhooks at most.
      const told: string[] = [];
      for (let i = 0; i < (batch ? 1 : 8); i++) {
        told.push(...(await receiver.take()).events.map(inShort));
      }
      const quietly = told.filter((text) => text.includes("quiet"));
      assertEquals(quietly.sort(), [
        "channel_occupied presence-quiet",
        "channel_occupied quiet",
        "member_added presence-quiet ann",
      ], what);
      // The rest is only noise.
      receiver.mostAtOnce = 0;
      server.hooks.close({ timeoutMs: 0 });
    }
  }
});

Deno.test("events of public channels do not delay those of private channels, whoever causes them", async () => {
  await using receiver = new Receiver();
  const release = hold(receiver);
  await using server = setUp(receiver.url, { pusher: UNLIMITED });
  const strangers = Array.from({ length: 300 }, (_, i) => {
    const client = new Client(server.pusher);
    return client.join(`news-${i}`).join(`more-${i}`);
  });
  await receiver.take();
  using client = new Client(server.pusher).join("private-a").join("private-b");
  await turn();
  release();
  receiver.answer = () => new Response();
  const told = await receiver.toldAll(4);
  assertEquals(
    told.filter((text) => text.includes("private")),
    ["channel_occupied private-a", "channel_occupied private-b"],
  );
  await within(DEADLINE_MS, "end", server.hooks.close({ timeoutMs: 0 }));
  client.close();
  for (const stranger of strangers) stranger.close();
});

Deno.test("the events of a channel keep their order, whoever causes them", async () => {
  await using receiver = new Receiver();
  const release = hold(receiver);
  await using server = setUp(receiver.url, {
    pusher: UNLIMITED,
    events: ["channel_occupied", "client_event", "member_added"],
  });
  using noisy = new Client(server.pusher).join("first");
  await receiver.take();
  for (let i = 0; i < 50; i++) noisy.join(`news-${i}`);
  using ann = new Client(server.pusher);
  using bob = new Client(server.pusher);
  const expected = ["channel_occupied presence-a"];
  for (const [i, client] of [noisy, ann, bob].entries()) {
    client.join("presence-a", `${i}`);
    expected.push(`member_added presence-a ${i}`);
    for (let n = 0; n < 5; n++) {
      client.send("client-x", n, "presence-a");
      expected.push(`client_event presence-a ${i}`);
    }
    await turn();
  }
  release();
  receiver.answer = () => new Response();
  const told = await receiver.toldAll(50 + expected.length);
  assertEquals(told.filter((text) => text.includes("presence-a")), expected);
});

// ---- Events that undo each other while they wait ----------------------------

Deno.test("what comes and goes while it waits is not reported, and takes no room", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  const release = hold(receiver);
  await using server = setUp(receiver.url, { pusher: UNLIMITED });
  using client = new Client(server.pusher).join("first");
  await receiver.take();
  for (let i = 0; i < 500; i++) {
    client.join(`news-${i}`).leave(`news-${i}`);
    client.join("one").leave("one");
    client.join("presence-a", "ann").leave("presence-a");
    client.join(`presence-${i}`, "ann").leave(`presence-${i}`);
    await turn();
    assertEquals(server.hooks.status[0]?.queued, 1);
  }
  time.tick(3_000);
  client.join("last");
  await turn();
  release();
  receiver.answer = () => new Response();
  assertEquals(await receiver.told(), "channel_occupied last");
  await untilQueued(server.hooks, 0);
  assertEquals(receiver.deliveries.size, 0);
  // What it has left is as if it had never been there.
  client.join("one");
  assertEquals(await receiver.told(), "channel_occupied one");
});

Deno.test("what is back while it waits is reported as it is in the end", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url);
  using client = new Client(server.pusher).join("told").join("presence-a", "b");
  await receiver.toldAll(3);
  const release = hold(receiver);
  client.join("first");
  await receiver.take();
  // Never reported: comes, goes, and comes again, soon and late.
  client.join("soon").leave("soon").join("soon");
  client.join("late").leave("late");
  client.join("presence-c", "ann").leave("presence-c");
  client.join("presence-c", "ann");
  // Reported before: goes for more than 3 seconds, and is back.
  client.leave("told").leave("presence-a");
  await turn();
  time.tick(3_000);
  await turn();
  client.join("late").join("told").join("presence-a", "b");
  await turn();
  release();
  receiver.answer = () => new Response();
  assertEquals((await receiver.toldAll(4)).sort(), [
    "channel_occupied late",
    "channel_occupied presence-c",
    "channel_occupied soon",
    "member_added presence-c ann",
  ]);
  await untilQueued(server.hooks, 0);
  assertEquals(receiver.deliveries.size, 0);
});

Deno.test("what was sent already is followed by its opposite, at each endpoint by itself", async () => {
  using time = new FakeTime();
  await using slow = new Receiver();
  await using fast = new Receiver();
  const release = hold(slow);
  await using server = setUp("", {
    timeoutMs: 600_000,
    endpoints: [
      { url: slow.url, events: OCCUPANCY },
      { url: fast.url, events: OCCUPANCY },
    ],
  });
  using client = new Client(server.pusher).join("first");
  await slow.take();
  assertEquals(await fast.told(), "channel_occupied first");
  client.join("news");
  assertEquals(await fast.told(), "channel_occupied news");
  client.leave("news");
  await turn();
  time.tick(3_000);
  assertEquals(await fast.told(), "channel_vacated news");
  client.join("news").leave("first");
  assertEquals(await fast.told(), "channel_occupied news");
  await turn();
  time.tick(3_000);
  assertEquals(await fast.told(), "channel_vacated first");
  release();
  slow.answer = () => new Response();
  // The request under way cannot be taken back.
  assertEquals(await slow.toldAll(2), [
    "channel_occupied news",
    "channel_vacated first",
  ]);
});

Deno.test("an arrival stays that a later event of the channel depends on", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  const release = hold(receiver);
  await using server = setUp(receiver.url, { pusher: UNLIMITED });
  using client = new Client(server.pusher).join("first");
  await receiver.take();
  client.join("cache-a").leave("cache-a");
  client.join("presence-b", "ann");
  client.send("client-x", 1, "presence-b");
  client.leave("presence-b");
  await turn();
  time.tick(3_000);
  await turn();
  release();
  receiver.answer = () => new Response();
  const told = await receiver.toldAll(8);
  assertEquals(told.filter((text) => text.includes("cache-a")), [
    "channel_occupied cache-a",
    "cache_miss cache-a",
    "channel_vacated cache-a",
  ]);
  assertEquals(told.filter((text) => text.includes("presence-b")), [
    "channel_occupied presence-b",
    "member_added presence-b ann",
    "client_event presence-b ann",
    "member_removed presence-b ann",
    "channel_vacated presence-b",
  ]);
});

Deno.test("of the counts of a channel that wait only the last is reported", async () => {
  await using receiver = new Receiver();
  const release = hold(receiver);
  await using server = setUp(receiver.url, {
    pusher: { subscriptionCounts: true },
    events: ["subscription_count"],
  });
  using client = new Client(server.pusher).join("first");
  await receiver.take();
  const others = [1, 2, 3].map(() => new Client(server.pusher).join("news"));
  client.join("other");
  await turn();
  release();
  receiver.answer = () => new Response();
  const counts = [];
  for (let i = 0; i < 2; i++) {
    const { events } = await receiver.take();
    counts.push(`${events[0]?.channel} ${events[0]?.subscription_count}`);
  }
  assertEquals(counts.sort(), ["news 3", "other 1"]);
  for (const other of others) other.close();
});

// ---- Room -------------------------------------------------------------------

Deno.test("an event that finds no room is dropped, reported and counted", async () => {
  const { promise: never, resolve } = Promise.withResolvers<Response>();
  await using receiver = new Receiver(() => never);
  const bytes = '{"name":"channel_occupied","channel":"news-0"}'.length;
  await using server = setUp(receiver.url, {
    queueBytes: 5 * bytes,
    events: ["channel_occupied"],
  });
  using client = new Client(server.pusher);
  for (let i = 0; i < 8; i++) client.join(`news-${i}`);
  await receiver.take();
  for (let i = 5; i < 8; i++) {
    const { failure, events, message, url } = await server.errors.next("error");
    assertEquals(failure, "dropped");
    assertEquals(events.map(inShort), [`channel_occupied news-${i}`]);
    assertStringIncludes(message, `${5 * bytes} of ${5 * bytes} bytes`);
    assertEquals(url, receiver.url);
  }
  assertEquals(server.hooks.status, [{
    url: receiver.url,
    queued: 5,
    delivered: 0,
    dropped: 3,
    lost: 0,
  }]);
  // What waits was not touched, and there is room again.
  receiver.answer = () => new Response();
  resolve(new Response());
  assertEquals(
    await receiver.toldAll(4),
    [1, 2, 3, 4].map((i) => `channel_occupied news-${i}`),
  );
  client.join("news-8");
  assertEquals(await receiver.told(), "channel_occupied news-8");
});

Deno.test("where there is no room, events of the client that fills it are dropped", async () => {
  await using receiver = new Receiver();
  const release = hold(receiver);
  await using server = setUp(receiver.url, {
    queueBytes: 2_000,
    events: ["channel_occupied"],
    pusher: UNLIMITED,
  });
  using noisy = new Client(server.pusher).join("first");
  await receiver.take();
  for (let i = 0; i < 1_000; i++) noisy.join(`news-${i}`);
  await turn();
  using quiet = new Client(server.pusher);
  for (let i = 0; i < 10; i++) quiet.join(`quiet-${i}`);
  await turn();
  for (let i = 0; i < 1_000; i++) noisy.join(`more-${i}`);
  await turn();
  const { queued = 0, dropped = 0 } = server.hooks.status[0] ?? {};
  assertEquals(queued + dropped, 2_011);
  for (let i = 0; i < dropped; i++) {
    const { events } = await server.errors.next("error");
    assertFalse(inShort(events[0]!).includes("quiet"));
  }
  release();
  receiver.answer = () => new Response();
  const told = await receiver.toldAll(queued - 1);
  assertEquals(
    told.filter((text) => text.includes("quiet")),
    Array.from({ length: 10 }, (_, i) => `channel_occupied quiet-${i}`),
  );
});

Deno.test("queueEvents holds at its figure, and the event above it is dropped", async () => {
  await using receiver = new Receiver();
  const release = hold(receiver);
  await using server = setUp(receiver.url, { queueEvents: 5 });
  using client = new Client(server.pusher);
  for (let i = 0; i < 6; i++) client.join(`news-${i}`);
  await receiver.take();
  const { failure, message, events } = await server.errors.next("error");
  assertEquals([failure, events[0]?.channel], ["dropped", "news-5"]);
  assertStringIncludes(message, "5 of 5 events are waiting");
  // Room is made for another client.
  using other = new Client(server.pusher).join("other");
  const made = await server.errors.next("error");
  assertEquals([made.failure, made.events[0]?.channel], ["dropped", "news-1"]);
  const { queued, dropped } = server.hooks.status[0]!;
  assertEquals([queued, dropped], [5, 2]);
  release();
  receiver.answer = () => new Response();
  assertEquals((await receiver.toldAll(4)).sort(), [
    "channel_occupied news-2",
    "channel_occupied news-3",
    "channel_occupied news-4",
    "channel_occupied other",
  ]);
  other.close();
});

Deno.test("an event that is larger than the queue is dropped alone", async () => {
  await using receiver = new Receiver();
  const release = hold(receiver);
  await using server = setUp(receiver.url, { queueBytes: 2_000 });
  using client = new Client(server.pusher).join("private-a");
  await receiver.take();
  using other = new Client(server.pusher).join("b").join("private-a");
  other.send("client-x", "x".repeat(2_000), "private-a");
  const { failure, events } = await server.errors.next("error");
  assertEquals([failure, events[0]?.name], ["dropped", "client_event"]);
  release();
  receiver.answer = () => new Response();
  assertEquals(await receiver.told(), "channel_occupied b");
  client.close();
});
