/**
 * Subscription counts: which clients get them, and how often.
 */
import { MemoryBackplane, Pusher, type PusherOptions } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLessOrEqual,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { eachBackplane } from "../support/backplanes.ts";
import { type Client, MemoryTransport, TWO_APPS } from "../support/server.ts";
import { StockClient } from "../support/stock.ts";
import { type App, dataOf, type Frame } from "../support/wire.ts";

const COUNT = "pusher_internal:subscription_count";

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

// ---- Subscription counts ----------------------------------------------------

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
      assertEquals(server.journal.calls("subscription_count"), []);
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
  assertEquals(server.journal.calls("subscription_count"), []);
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

// ---- Crowds -----------------------------------------------------------------

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

/** Checks that counts above 100 come at most every 5 s. */
function assertThrottled(told: [at: number, count: number][]): void {
  const above = told.filter(([, count]) => count > 100);
  for (const [index, [at]] of above.entries()) {
    const [earlier] = above[index - 1] ?? [-Infinity];
    assertGreaterOrEqual(at - earlier, 5_000, JSON.stringify(above));
  }
}

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

Deno.test("close tells a count that is due to the subscribers of other servers", async () => {
  const backplane = new MemoryBackplane();
  const staying = new Crowd({ backplane });
  const leaving = new Crowd({ backplane: backplane.peer() });
  await staying.resize(150);
  await leaving.resize(3);
  // The servers take turns, so the one that joins last has to wait.
  assertEquals(staying.told.at(-1)?.[1], 101);
  // The timer sanitizer fails the test if one is left.
  await leaving.close();
  assertEquals(staying.told.at(-1)?.[1], 150);
  await staying.close();
});

// ---- Stock client -----------------------------------------------------------

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
