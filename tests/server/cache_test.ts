/**
 * Cache channels, which give every subscriber the last event.
 */
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLessOrEqual,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  eachBackplane,
  lateJoin,
  SlowBackplane,
} from "../support/backplanes.ts";
import {
  type Client,
  serve,
  type TestServer,
  TWO_APPS,
} from "../support/server.ts";
import { authorizedBy, sdk, StockClient } from "../support/stock.ts";
import {
  type App,
  dataOf,
  type Frame,
  type SubscribeInit,
} from "../support/wire.ts";

const MISS = "pusher:cache_miss";
const SUCCEEDED = "pusher_internal:subscription_succeeded";
const COUNT = "pusher_internal:subscription_count";

// ---- Cache channels ---------------------------------------------------------

/** One channel of every class that caches, with who subscribes to it. */
const CACHES: [channel: string, init: SubscribeInit][] = [
  ["cache-a", {}],
  ["private-cache-a", {}],
  ["presence-cache-a", { member: { user_id: "ann" } }],
  ["private-encrypted-cache-a", {}],
];

/** Joins a cache channel and takes what it gives: an event, or that it has none. */
async function joinCache(
  client: Client,
  channel: string,
  init?: SubscribeInit,
): Promise<Frame> {
  await client.join(channel, init);
  const frame = await client.next();
  assertEquals(frame.channel, channel);
  return frame;
}

eachBackplane(
  "a cache channel without an event says pusher:cache_miss",
  async (start) => {
    await using server = start();
    for (const [channel, init] of CACHES) {
      await using client = await server.connect();
      assertEquals(await joinCache(client, channel, init), {
        event: MISS,
        channel,
      });
      await client.silence();
      const { app, channel: told, ...rest } = await server.journal.next(
        "cache_miss",
      );
      assertEquals({ app, told, rest }, {
        app: "app-id",
        told: channel,
        rest: { hook: "cache_miss" },
      });
    }
  },
);

/** What a new subscriber of a cache channel is given. */
async function givenBy(
  server: TestServer,
  channel: string,
  init?: SubscribeInit,
): Promise<Frame> {
  await using client = await server.connect();
  const frame = await joinCache(client, channel, init);
  await client.silence();
  return frame;
}

/** Publishes over the HTTP API. */
async function post(
  server: TestServer,
  channel: string,
  data: string,
  more = {},
): Promise<void> {
  const body = { name: "e", channel, data, ...more };
  const { status } = await server.api("POST", "/events", { body });
  assertEquals(status, 200);
}

eachBackplane(
  "a cache channel gives a new subscriber the last event, to the byte",
  async (start) => {
    await using server = start();
    for (const [channel, init] of CACHES) {
      for (
        const data of [
          '{"n": 1.0}',
          "",
          "no JSON",
          "zoë ✓ 😀",
          "null",
          '"\\u0000"',
        ]
      ) {
        await post(server, channel, "earlier", { name: "earlier" });
        await post(server, channel, data, { name: "App\\Events\\Last one" });
        const frame = { event: "App\\Events\\Last one", channel, data };
        assertEquals(await givenBy(server, channel, init), frame);
        assertEquals(await givenBy(server, channel, init), frame);
      }
    }
    assertEquals(server.journal.calls("cache_miss"), []);
  },
);

/** Takes the next frames, which have to be these events. */
async function nextAll(client: Client, ...events: string[]): Promise<void> {
  for (const event of events) await client.next(event);
  await client.silence();
}

eachBackplane(
  "the cached event goes to the new subscriber only, after its success",
  async (start) => {
    await using server = start({ subscriptionCounts: true });
    const channel = "private-cache-a";
    await using first = await server.connect();
    await using second = await server.connect();
    first.requestSubscribe(channel);
    await nextAll(first, SUCCEEDED, MISS, COUNT);
    await post(server, channel, "1");
    await nextAll(first, "e");
    second.requestSubscribe(channel);
    await nextAll(second, SUCCEEDED, "e", COUNT);
    await nextAll(first, COUNT);
  },
);

eachBackplane(
  "a repeated subscription is given the cached event again",
  async (start) => {
    await using server = start({ subscriptionCounts: true });
    await using client = await server.connect();
    const again = async (...events: string[]) => {
      client.requestSubscribe("cache-a");
      await nextAll(client, ...events);
    };
    await again(SUCCEEDED, MISS, COUNT);
    await again(SUCCEEDED, MISS);
    assertEquals(server.journal.drain("cache_miss").length, 2);
    await post(server, "cache-a", "1");
    await nextAll(client, "e");
    await again(SUCCEEDED, "e");
    assertEquals(server.journal.drain("cache_miss"), []);
  },
);

eachBackplane(
  "an event is cached however it was published, whoever is there",
  async (start) => {
    await using server = start();
    const { pusher } = server;
    const stock = sdk(server);
    const ways: [name: string, publish: () => Promise<unknown>][] = [
      ["trigger", () => pusher.trigger("cache-a", "trigger", { n: 1 })],
      [
        "several",
        () => pusher.trigger(["news", "cache-a"], "several", { n: 1 }),
      ],
      ["batch", () =>
        pusher.triggerBatch([
          { channel: "cache-a", name: "first", data: {} },
          { channel: "cache-a", name: "batch", data: { n: 1 } },
        ])],
      ["http", () => post(server, "cache-a", '{"n":1}', { name: "http" })],
      ["http batch", () =>
        server.api("POST", "/batch_events", {
          body: {
            batch: [
              { channel: "cache-a", name: "first", data: "" },
              { channel: "cache-a", name: "http batch", data: '{"n":1}' },
            ],
          },
        })],
      ["SDK", () => stock.trigger("cache-a", "SDK", { n: 1 })],
    ];
    for (const isOccupied of [false, true]) {
      await using client = await server.connect();
      if (isOccupied) await joinCache(client, "cache-a");
      for (const [event, publish] of ways) {
        await publish();
        assertEquals(await givenBy(server, "cache-a"), {
          event,
          channel: "cache-a",
          data: '{"n":1}',
        });
      }
    }
  },
);

eachBackplane(
  "an event is cached for the connection that it left out, too",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    await joinCache(client, "cache-a");
    const socket_id = client.socketId;
    await post(server, "cache-a", "1", { socket_id });
    await client.silence();
    const expected = { event: "e", channel: "cache-a", data: "1" };
    assertEquals(await givenBy(server, "cache-a"), expected);
    assertEquals(await joinCache(client, "cache-a"), expected);
  },
);

/** `cache` of a channel, as the HTTP API tells it. */
async function cacheOf(
  server: TestServer,
  channel: string,
): Promise<{ data: string; ttl: number } | null> {
  const { status, body } = await server.api("GET", `/channels/${channel}`, {
    query: { info: "cache" },
  });
  assertEquals([status, Object.keys(body).sort()], [200, [
    "cache",
    "occupied",
  ]]);
  return body.cache;
}

eachBackplane("a refused publish leaves the cache as it was", async (start) => {
  await using server = start();
  await post(server, "cache-a", "1");
  const item = { name: "e", channel: "cache-a", data: "2" };
  for (
    const [path, body] of [
      ["/events", { ...item, name: "pusher:e" }],
      ["/events", { ...item, data: "x".repeat(10_241) }],
      ["/events", { ...item, channels: ["cache-a", "a b"] }],
      ["/events", { ...item, info: "nonsense" }],
      ["/batch_events", { batch: [item, { ...item, name: "" }] }],
    ] as const
  ) {
    const { status } = await server.api("POST", path, { body });
    assert(status === 400 || status === 413, `${status}`);
  }
  assertEquals((await cacheOf(server, "cache-a"))?.data, "1");
});

eachBackplane(
  "client events and member frames are not cached",
  async (start) => {
    await using server = start({ clientEvents: true });
    for (const channel of ["private-cache-a", "presence-cache-a"]) {
      const as = (user_id: string) =>
        channel.startsWith("presence") ? { member: { user_id } } : {};
      await using ann = await server.connect();
      await using bob = await server.connect();
      await joinCache(ann, channel, as("ann"));
      await joinCache(bob, channel, as("bob"));
      const relay = async () => {
        ann.send({ event: "client-x", channel, data: "from a client" });
        await ann.framesUntilPong();
        const frames = await bob.framesUntilPong();
        assertEquals(frames.at(-1)?.event, "client-x");
      };
      await relay();
      assertEquals((await givenBy(server, channel, as("eve"))).event, MISS);
      assertEquals(await cacheOf(server, channel), null);
      await post(server, channel, "1");
      await bob.framesUntilPong();
      await relay();
      assertEquals((await givenBy(server, channel, as("eve"))).data, "1");
    }
  },
);

eachBackplane(
  "a cached event outlives everybody who was there",
  async (start) => {
    await using server = start();
    for (const [channel, init] of CACHES) {
      await using client = await server.connect();
      await joinCache(client, channel, init);
      await post(server, channel, "1");
      await client.next("e");
      client.unsubscribe(channel);
      await client.silence();
      const left = await server.journal.next("channel_vacated");
      assertEquals(left.channel, channel);
      assertEquals((await givenBy(server, channel, init)).data, "1");
      const gone = await server.journal.next("channel_vacated");
      assertEquals(gone.channel, channel);
      assertEquals((await cacheOf(server, channel))?.data, "1");
    }
    // Whoever has an event is not there for that.
    assertEquals(await server.pusher.channels(), { channels: {} });
  },
);

eachBackplane(
  "a channel caches by the start of its name only",
  async (start) => {
    await using server = start();
    for (
      const channel of [
        "mycache-x",
        "news-cache-x",
        "cache",
        "cachex",
        "Cache-x",
        "private-cache",
        "private-mycache-x",
        "presence-mycache-x",
        "private-encrypted-mycache-x",
        "private-private-cache-x",
      ]
    ) {
      const init = channel.startsWith("presence-")
        ? { member: { user_id: "ann" } }
        : {};
      await using client = await server.connect();
      await post(server, channel, "1");
      await client.join(channel, init);
      await client.silence();
      const { status } = await server.api("GET", `/channels/${channel}`, {
        query: { info: "cache" },
      });
      assertEquals(status, 400, channel);
    }
    // As short as they can be, these do.
    for (const channel of ["cache-", "private-cache-"]) {
      assertEquals((await givenBy(server, channel)).event, MISS);
    }
  },
);

eachBackplane(
  "a refused subscription is given nothing of the cache",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    await post(server, "private-cache-a", "1");
    for (const auth of [null, "", "wrong"]) {
      const reason = await client.refused("private-cache-a", { auth });
      assertEquals(reason, "AuthError 401");
    }
    const reason = await client.refused("presence-cache-a", {
      channelData: "{}",
    });
    assertEquals(reason, "InvalidChannelData 400");
    await client.silence();
    assertEquals(server.journal.calls("cache_miss"), []);
  },
);

eachBackplane("apps have caches of their own", async (start) => {
  await using server = start({ apps: TWO_APPS });
  const [a, b] = TWO_APPS as [App, App];
  await server.pusher.app("a").trigger("cache-x", "e", "of a");
  await using first = await server.connect({ app: a });
  await using second = await server.connect({ app: b });
  assertEquals((await joinCache(first, "cache-x")).data, "of a");
  assertEquals((await joinCache(second, "cache-x")).event, MISS);
  assertEquals((await server.journal.next("cache_miss")).app, "b");
  await server.pusher.app("b").trigger("cache-x", "e", "of b");
  await second.next("e");
  await first.silence();
  for (const [app, data] of [[a, "of a"], [b, "of b"]] as const) {
    const { body } = await server.api("GET", "/channels/cache-x", {
      app,
      query: { info: "cache" },
    });
    assertEquals(body.cache.data, data);
  }
});

eachBackplane("the HTTP API tells what is cached", async (start) => {
  await using server = start();
  for (const [channel, init] of CACHES) {
    assertEquals(await cacheOf(server, channel), null);
    await post(server, channel, '{"n":1}');
    const cache = await cacheOf(server, channel);
    assertEquals(Object.keys(cache ?? {}).sort(), ["data", "ttl"]);
    assertEquals(cache?.data, '{"n":1}');
    const ttl = cache?.ttl ?? 0;
    assert(Number.isInteger(ttl), `${ttl}`);
    assertGreaterOrEqual(ttl, 1_790);
    assertLessOrEqual(ttl, 1_800);
    await using client = await server.connect();
    await joinCache(client, channel, init);
    const isPresence = init.member !== undefined;
    const info = `subscription_count,cache${isPresence ? ",user_count" : ""}`;
    const { body } = await server.api("GET", `/channels/${channel}`, {
      query: { info },
    });
    assertEquals(body, {
      occupied: true,
      subscription_count: 1,
      ...(isPresence ? { user_count: 1 } : {}),
      cache: { data: '{"n":1}', ttl: body.cache.ttl },
    });
    const told = await server.pusher.channel(channel, { info: "cache" });
    assertEquals(told.occupied, true);
    assertEquals(told.cache?.data, '{"n":1}');
  }
  const { body } = await server.api("GET", "/channels/cache-a");
  assertEquals(body, { occupied: false });
});

eachBackplane(
  "the HTTP API refuses info=cache where there is none",
  async (start) => {
    await using server = start();
    for (const channel of ["news", "private-a", "presence-a"]) {
      const { status } = await server.api("GET", `/channels/${channel}`, {
        query: { info: "cache" },
      });
      assertEquals(status, 400, channel);
    }
    const event = { name: "e", channel: "cache-a", data: "1", info: "cache" };
    for (
      const { status } of [
        await server.api("POST", "/events", { body: event }),
        await server.api("POST", "/batch_events", { body: { batch: [event] } }),
        await server.api("GET", "/channels", { query: { info: "cache" } }),
      ]
    ) {
      assertEquals(status, 400);
    }
    assertEquals(await cacheOf(server, "cache-a"), null);
  },
);

Deno.test("an event is cached for half an hour from its publish", async () => {
  using time = new FakeTime();
  await using server = serve({ pingAfterMs: 2_000_000_000 });
  const ttl = async () => (await cacheOf(server, "cache-a"))?.ttl;
  await post(server, "cache-a", "1");
  assertEquals(await ttl(), 1_800);
  time.tick(1_000);
  assertEquals(await ttl(), 1_799);
  time.tick(1_798_000 - 1);
  assertEquals((await givenBy(server, "cache-a")).data, "1");
  // A publish begins the time anew; that somebody subscribes does not.
  await post(server, "cache-a", "2");
  assertEquals(await ttl(), 1_800);
  time.tick(900_000);
  assertEquals((await givenBy(server, "cache-a")).data, "2");
  assertEquals(await ttl(), 900);
  time.tick(900_000 - 1);
  assertEquals((await givenBy(server, "cache-a")).data, "2");
  time.tick(2);
  assertEquals((await givenBy(server, "cache-a")).event, MISS);
  assertEquals(await ttl(), undefined);
  await server.journal.next("cache_miss");
  await post(server, "cache-a", "3");
  assertEquals((await givenBy(server, "cache-a")).data, "3");
});

Deno.test("an occupied channel's event expires all the same", async () => {
  using time = new FakeTime();
  await using server = serve({
    pingAfterMs: 2_000_000_000,
    cacheTtlMs: 60_000,
  });
  await using client = await server.connect();
  await joinCache(client, "cache-a");
  await post(server, "cache-a", "1");
  await client.next("e");
  assertEquals((await cacheOf(server, "cache-a"))?.ttl, 60);
  time.tick(60_001);
  assertEquals((await joinCache(client, "cache-a")).event, MISS);
  assertEquals((await givenBy(server, "cache-a")).event, MISS);
});

eachBackplane("cacheTtlMs says how long an event is cached", async (start) => {
  await using server = start({ cacheTtlMs: 300 });
  const published = Date.now();
  await post(server, "cache-a", "1");
  const frame = await givenBy(server, "cache-a");
  // On a machine that is slow enough it has expired by right.
  if (frame.event === MISS) assertGreaterOrEqual(Date.now() - published, 300);
  else assertEquals(frame.data, "1");
  await new Promise((resolve) => setTimeout(resolve, 400));
  assertEquals((await givenBy(server, "cache-a")).event, MISS);
  assertEquals(await cacheOf(server, "cache-a"), null);
});

Deno.test("what is published while a join is on its way comes once, after what was cached", async () => {
  for (const isCached of [false, true]) {
    const { backplane, joining, answer } = lateJoin();
    await using server = serve({ backplane });
    if (isCached) await post(server, "cache-a", "old", { name: "old" });
    await using client = await server.connect();
    client.requestSubscribe("cache-a");
    await joining();
    await post(server, "cache-a", "new", { name: "new" });
    answer();
    await client.next(SUCCEEDED);
    const frames: Frame[] = [];
    while (frames.at(-1)?.event !== "new") frames.push(await client.next());
    await client.silence();
    const events = frames.map(({ event }) => event);
    assertEquals(events, [isCached ? "old" : MISS, "new"]);
  }
});

Deno.test("joins and publishes at the same time lose and repeat nothing", async () => {
  await using server = serve({ backplane: new SlowBackplane() });
  let n = 0;
  for (let round = 0; round < 20; round++) {
    await using client = await server.connect();
    const publishing = [
      server.pusher.trigger("cache-a", "n", ++n),
      server.pusher.trigger("cache-a", "n", ++n),
    ];
    client.requestSubscribe("cache-a");
    publishing.push(server.pusher.trigger("cache-a", "n", ++n));
    await Promise.all(publishing);
    await client.next(SUCCEEDED);
    const frames = await client.framesUntilPong();
    const numbers = frames.filter(({ event }) => event === "n").map(dataOf);
    assertEquals(numbers.at(-1), n, `round ${round}`);
    const first = numbers[0] ?? n;
    const expected = numbers.map((_, index) => first + index);
    assertEquals(numbers, expected, `round ${round}`);
  }
});

// ---- Stock client -----------------------------------------------------------

eachBackplane(
  "pusher-js tells cache_miss and the last event",
  async (start) => {
    await using server = start();
    const stock = sdk(server);
    using first = new StockClient(server, authorizedBy(stock));
    using second = new StockClient(server, authorizedBy(stock));
    for (const channel of ["cache-a", "private-cache-a"]) {
      const empty = first.subscribe(channel);
      const events = await empty.until(MISS);
      assertEquals(events.map(([name]) => name), [
        "pusher:subscription_succeeded",
        MISS,
      ]);
      await stock.trigger(channel, "e", { n: 1 });
      await empty.until("e");
      const filled = await second.subscribe(channel).until("e");
      assertEquals(filled.at(-1), ["e", { n: 1 }]);
      assertEquals(filled.length, 2);
    }
    const secret = "private-encrypted-cache-a";
    await stock.trigger(secret, "e", { clear: "text" });
    const decrypted = await first.subscribe(secret).until("e");
    assertEquals(decrypted.at(-1), ["e", { clear: "text" }]);
    const response = await stock.get({
      path: `/channels/${secret}`,
      params: { info: "cache" },
    });
    const { cache } = await response.json();
    assert(!cache.data.includes("clear"), cache.data);
  },
);
