/**
 * Cache channels, which give every subscriber the last event, and subscription
 * counts.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
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
  MemoryTransport,
  serve,
  type TestServer,
} from "../support/server.ts";
import {
  type App,
  dataOf,
  type Frame,
  type SubscribeInit,
} from "../support/wire.ts";
import { authorizedBy, sdk, StockClient } from "../support/stock.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const MISS = "pusher:cache_miss";
const COUNT = "pusher_internal:subscription_count";

const TWO_APPS: App[] = [
  { id: "a", key: "key-a", secret: "secret-a" },
  { id: "b", key: "key-b", secret: "secret-b" },
];

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

// ---- Cache channels ---------------------------------------------------------

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
    assertEquals(server.journal.told("cache_miss"), []);
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
    assertEquals(server.journal.told("cache_miss"), []);
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
  await using server = serve({ activityTimeoutMs: 2_000_000_000 });
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
    activityTimeoutMs: 2_000_000_000,
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

// ---- Subscription counts ----------------------------------------------------

/** Takes one frame with a number of subscribers. */
async function count(client: Client, channel: string): Promise<number> {
  const frame = await client.next(COUNT);
  const { subscription_count } = dataOf(frame);
  assertEquals(frame, {
    event: COUNT,
    channel,
    data: JSON.stringify({ subscription_count }),
  });
  return subscription_count;
}

eachBackplane(
  "nobody is told a count unless subscriptionCounts is on",
  async (start) => {
    for (const options of [{}, { subscriptionCounts: false }]) {
      await using server = start(options);
      await using ann = await server.connect();
      await using bob = await server.connect();
      await ann.join("news");
      await bob.join("news");
      bob.unsubscribe("news");
      await bob.silence();
      await ann.silence();
      assertEquals(server.journal.told("subscription_count"), []);
    }
  },
);

eachBackplane(
  "subscriptionCounts tells every subscriber of every change",
  async (start) => {
    await using server = start({ subscriptionCounts: true });
    const channels = ["news", "private-a", "private-encrypted-a"];
    for (const channel of channels) {
      await using ann = await server.connect();
      await using bob = await server.connect();
      await using eve = await server.connect();
      const all = [ann, bob, eve];
      const counts = (clients: Client[]) =>
        Promise.all(clients.map((client) => count(client, channel)));
      for (const [index, client] of all.entries()) {
        await client.join(channel);
        const there = all.slice(0, index + 1);
        assertEquals(await counts(there), there.map(() => index + 1));
      }
      // No change, no count.
      await bob.join(channel);
      await bob.refused(channel, { auth: "wrong" }).catch(() => {});
      for (const client of [ann, eve]) await client.silence();
      await bob.framesUntilPong();
      eve.unsubscribe(channel);
      assertEquals(await counts([ann, bob]), [2, 2]);
      await eve.silence();
      await bob.close();
      assertEquals(await counts([ann]), [1]);
      await ann.silence();
      const told = server.journal.drain("subscription_count");
      assertEquals(
        told.slice(0, 5),
        [1, 2, 3, 2, 1].map((subscriptionCount) => ({
          hook: "subscription_count",
          app: "app-id",
          channel,
          subscriptionCount,
        })),
      );
      ann.unsubscribe(channel);
      await ann.silence();
      await server.journal.next("channel_vacated");
      // Whether the way to zero is told or not, it is told as zero.
      for (const last of server.journal.drain("subscription_count")) {
        assertEquals(last.subscriptionCount, 0);
      }
    }
  },
);

eachBackplane("counts are of connections", async (start) => {
  await using server = start({ subscriptionCounts: true });
  await using ann = await server.connect();
  await using tab = await server.connect();
  const channelData = '{"user_id":"ann"}';
  await ann.join("private-a", { channelData });
  assertEquals(await count(ann, "private-a"), 1);
  await tab.join("private-a", { channelData });
  assertEquals(await count(ann, "private-a"), 2);
});

eachBackplane("presence channels send no counts", async (start) => {
  await using server = start({ subscriptionCounts: true });
  for (const channel of ["presence-a", "presence-cache-a"]) {
    await using ann = await server.connect();
    await using tab = await server.connect();
    await using bob = await server.connect();
    for (
      const [client, user_id] of [[ann, "a"], [tab, "a"], [bob, "b"]] as const
    ) {
      await client.join(channel, { member: { user_id } });
    }
    await bob.close();
    await tab.close();
    let frames: Frame[] = [];
    while (frames.at(-1)?.event !== "pusher_internal:member_removed") {
      frames = [...frames, await ann.next()];
    }
    assert(frames.every(({ event }) => event !== COUNT));
    await ann.silence();
  }
  assertEquals(server.journal.told("subscription_count"), []);
});

eachBackplane(
  "subscriptionCounts of an app overrides that of the server",
  async (start) => {
    const [a, b] = TWO_APPS as [App, App];
    for (const isOn of [false, true]) {
      await using server = start({
        subscriptionCounts: isOn,
        apps: [{ ...a, subscriptionCounts: !isOn }, b],
      });
      const [counting, quiet] = isOn ? [b, a] : [a, b];
      await using first = await server.connect({ app: counting });
      await using second = await server.connect({ app: quiet });
      await second.join("news");
      await first.join("news");
      assertEquals(await count(first, "news"), 1);
      await second.silence();
      await using third = await server.connect({ app: counting });
      await third.join("news");
      assertEquals(await count(first, "news"), 2);
      await second.silence();
      const apps = server.journal.drain("subscription_count")
        .map(({ app }) => app);
      assertEquals(apps, [counting.id, counting.id]);
    }
  },
);

/** Subscribers in memory, with what they are told of the count, and when. */
class Crowd {
  readonly pusher: Pusher;
  readonly told: [at: number, count: number][] = [];
  readonly hooked: [at: number, count: number][] = [];
  readonly #members: Member[] = [];

  constructor(options: PusherOptions = {}) {
    this.pusher = new Pusher({ subscriptionCounts: true, ...options });
    this.pusher.on("subscription_count", ({ subscriptionCount }) => {
      this.hooked.push([Date.now(), subscriptionCount]);
    });
  }

  get size(): number {
    return this.#members.length;
  }

  /** Adds subscribers, or takes the latest away, until there are so many. */
  async resize(size: number): Promise<void> {
    while (this.size < size) {
      const isFirst = this.size === 0;
      const transport = new WatchedTransport(
        isFirst ? (count) => this.told.push([Date.now(), count]) : undefined,
      );
      const request = new Request("http://a/app/app-key?protocol=7");
      const peer = this.pusher.open(transport, "app-key", request);
      const data = { channel: "news" };
      peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
      this.#members.push({ peer, transport });
      await Promise.resolve();
    }
    while (this.size > size) {
      this.#members.pop()?.peer.closed(1000);
      await Promise.resolve();
    }
    for (let turn = 0; turn < 50; turn++) await Promise.resolve();
  }

  /** Closes the server; everybody closes in return. */
  async close(): Promise<void> {
    const closing = this.pusher.close();
    await this.resize(0);
    await closing;
  }

  /** What each subscriber was told last. */
  get last(): (number | undefined)[] {
    return this.#members.map(({ transport }) => transport.counts.at(-1));
  }
}

interface Member {
  peer: ReturnType<Pusher["open"]>;
  transport: WatchedTransport;
}

class WatchedTransport extends MemoryTransport {
  readonly counts: number[] = [];

  constructor(readonly onCount: (count: number) => void = () => {}) {
    super();
  }

  override send(text: string): void {
    super.send(text);
    const frame = this.frames.at(-1) as Frame;
    if (frame.event !== COUNT) return;
    const { subscription_count } = dataOf(frame);
    this.counts.push(subscription_count);
    this.onCount(subscription_count);
  }
}

/** Checks that counts above 100 come at most every 5 s. */
function assertThrottled(told: [at: number, count: number][]): void {
  const above = told.filter(([, count]) => count > 100);
  for (const [index, [at]] of above.entries()) {
    const [earlier] = above[index - 1] ?? [-Infinity];
    assertGreaterOrEqual(at - earlier, 5_000, JSON.stringify(above));
  }
}

Deno.test("up to 100 subscribers every change is told", async () => {
  using _time = new FakeTime();
  const crowd = new Crowd();
  await crowd.resize(100);
  const upwards = Array.from({ length: 100 }, (_, index) => index + 1);
  assertEquals(crowd.told.map(([, count]) => count), upwards);
  assertEquals(crowd.hooked.map(([, count]) => count), upwards);
  await crowd.resize(98);
  assertEquals(crowd.told.map(([, count]) => count), [...upwards, 99, 98]);
  await crowd.close();
});

Deno.test("above 100 subscribers a count is told every 5 seconds at most, and the last one always", async () => {
  using time = new FakeTime();
  const crowd = new Crowd();
  await crowd.resize(150);
  time.tick(5_000);
  await crowd.resize(150);
  assertEquals(new Set(crowd.last), new Set([150]));
  assertThrottled(crowd.told);
  assertThrottled(crowd.hooked);
  assertEquals(crowd.hooked.at(-1)?.[1], 150);

  // Nothing changes, nothing is told.
  const before = crowd.told.length;
  time.tick(30_000);
  await crowd.resize(150);
  assertEquals(crowd.told.length, before);

  // Small changes over half a minute.
  for (let second = 0; second < 30; second++) {
    await crowd.resize(second % 2 === 0 ? 160 + second : 150 + second);
    time.tick(1_000);
  }
  await crowd.resize(155);
  time.tick(5_000);
  await crowd.resize(155);
  assertThrottled(crowd.told);
  assertThrottled(crowd.hooked);
  assertLessOrEqual(crowd.told.length - before, 8);
  assertGreaterOrEqual(crowd.told.length - before, 5);
  assertEquals(new Set(crowd.last), new Set([155]));
  assertEquals(crowd.hooked.at(-1)?.[1], 155);
  await crowd.close();
});

Deno.test("a count that is told late is the one of then", async () => {
  using time = new FakeTime();
  const crowd = new Crowd();
  await crowd.resize(120);
  time.tick(5_000);
  await crowd.resize(130);
  await crowd.resize(90);
  time.tick(5_000);
  await crowd.resize(90);
  assertEquals(new Set(crowd.last), new Set([90]));
  assertEquals(crowd.hooked.at(-1)?.[1], 90);
  const before = crowd.told.length;
  time.tick(30_000);
  await crowd.resize(90);
  assertEquals(crowd.told.length, before);
  assertThrottled(crowd.told);

  await crowd.resize(120);
  await crowd.resize(0);
  const { length } = crowd.hooked;
  time.tick(30_000);
  await crowd.resize(0);
  // Nobody is there to be told.
  for (const [, count] of crowd.hooked.slice(length)) assertEquals(count, 0);
  await crowd.resize(1);
  assertEquals(crowd.last, [1]);
  await crowd.close();
});

Deno.test("from 100 subscribers down every change is told at once again", async () => {
  using time = new FakeTime();
  const crowd = new Crowd();
  await crowd.resize(120);
  time.tick(5_000);
  await crowd.resize(121);
  await crowd.resize(99);
  assertEquals(new Set(crowd.last), new Set([99]));
  await crowd.resize(98);
  assertEquals(new Set(crowd.last), new Set([98]));
  assertEquals(crowd.hooked.at(-1)?.[1], 98);
  await crowd.close();
});

Deno.test("whoever joins a crowd is told the count, even if it is what it was", async () => {
  using time = new FakeTime();
  const crowd = new Crowd();
  await crowd.resize(150);
  time.tick(30_000);
  await crowd.resize(149);
  await crowd.resize(150);
  time.tick(10_000);
  await crowd.resize(150);
  assertEquals(new Set(crowd.last), new Set([150]));
  assertThrottled(crowd.told);
  // The same while one number has just been told and comes back.
  await crowd.resize(151);
  await crowd.resize(150);
  await crowd.resize(151);
  time.tick(5_000);
  await crowd.resize(151);
  assertEquals(new Set(crowd.last), new Set([151]));
  await crowd.close();
});

Deno.test("close does not wait for a count that is due", async () => {
  const crowd = new Crowd();
  await crowd.resize(105);
  await crowd.resize(110);
  // The timer sanitizer fails the test if one is left.
  await crowd.close();
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

eachBackplane("pusher-js tells the subscription count", async (start) => {
  await using server = start({ subscriptionCounts: true });
  using first = new StockClient(server);
  using second = new StockClient(server);
  const name = "pusher:subscription_count";
  const news = first.subscribe("news");
  assertEquals(await news.data(name), { subscription_count: 1 });
  second.subscribe("news");
  assertEquals(await news.data(name), { subscription_count: 2 });
  assertEquals(first.pusher.channel("news").subscriptionCount, 2);
  second.pusher.unsubscribe("news");
  second.pusher.disconnect();
  assertEquals(await news.data(name), { subscription_count: 1 });
  assertEquals(first.pusher.channel("news").subscriptionCount, 1);
});
