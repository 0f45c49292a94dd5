/**
 * Replays larger than the buffer that a client may leave unread, and batches,
 * which put several frames into one.
 */
import { assertEquals, assertGreater, assertLess } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  APP,
  MemoryTransport,
  serve,
  SlowTransport,
  type TestServer,
} from "../support/server.ts";
import { dataOf, type Position } from "../support/wire.ts";
import {
  BATCH,
  BOTH,
  type Lane,
  numberOf,
  PATIENT,
  PLAIN,
  publish,
  range,
  RECOVER,
  recoveryTest,
  take,
  visit,
} from "../support/recovering.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const MISS = "pusher:cache_miss";

// As many bytes as the data of an event may nearly have.
const LARGE = 10_000;

// ---- Large replays ----------------------------------------------------------

const SMALL_BUFFER = { limits: { bufferedBytes: 65_536 } };

/** Has sixty times as much to replay as a client may leave unread. */
async function muchToReplay(
  lane: Lane,
  server: TestServer,
  channel = "news",
): Promise<Position> {
  const [position] = await visit(lane, server, channel) as [Position];
  await publish(server, channel, 1, 400, LARGE);
  return position;
}

recoveryTest(
  "a replay larger than limits.bufferedBytes reaches a client that reads",
  async (lane) => {
    await using server = lane.start(SMALL_BUFFER);
    const recover = await muchToReplay(lane, server);
    await using back = await lane.connect(server);
    await back.enter("news", { recover });
    // Live events come all the while, and have to wait for their turn.
    for (const n of range(1, 200)) {
      await take(back, n);
      await publish(server, "news", 400 + n);
    }
    await take(back, 201, 600);
    await publish(server, "news", 601);
    await take(back, 601);
    await back.silence();
  },
);

recoveryTest(
  "several large replays at once keep the order of each channel",
  async (lane) => {
    await using server = lane.start(SMALL_BUFFER);
    const channels = ["a", "b", "private-c"];
    const positions = new Map<string, Position>();
    for (const channel of channels) {
      positions.set(channel, await muchToReplay(lane, server, channel));
    }
    await using back = await lane.connect(server);
    for (const [channel, recover] of positions) {
      back.requestSubscribe(channel, { recover });
    }
    const got = new Map(channels.map((channel) => [channel, [] as number[]]));
    for (let n = 0; n < 3 * 401; n++) {
      const frame = await back.next();
      const list = got.get(frame.channel as string);
      if (frame.event === SUCCEEDED) {
        assertEquals([frame.recovered, list], [true, []]);
        await publish(server, frame.channel as string, 401);
        n--;
      } else list?.push(numberOf(frame));
    }
    for (const [channel, numbers] of got) {
      assertEquals(numbers, range(1, 401), channel);
    }
    await back.silence();
  },
);

recoveryTest(
  "after unsubscribe nothing more comes of a replay",
  async (lane) => {
    await using server = lane.start(SMALL_BUFFER);
    const recover = await muchToReplay(lane, server);
    await using back = await lane.connect(server);
    back.requestSubscribe("news", { recover });
    back.unsubscribe("news");
    await back.framesUntilPong();
    for (let i = 0; i < 5; i++) await back.silence();
    // The same in the middle of it, and it can be begun anew at once.
    await back.enter("news", { recover });
    await take(back, 1, 3);
    back.unsubscribe("news");
    back.requestSubscribe("news");
    await publish(server, "news", 401);
    while ((await back.next()).event !== SUCCEEDED);
    await publish(server, "news", 402);
    const first = numberOf(await back.next("n"));
    // Whether the one before belongs to the new subscription is a race.
    if (first === 401) await take(back, 402);
    else assertEquals(first, 402);
    await back.silence();
  },
);

recoveryTest(
  "a client that goes away during a replay leaves nothing behind",
  async (lane) => {
    await using server = lane.start(SMALL_BUFFER);
    const recover = await muchToReplay(lane, server);
    await server.journal.next("disconnected");
    for (let round = 0; round < 3; round++) {
      await using back = await lane.connect(server);
      await back.enter("news", { recover });
      await take(back, 1, 3);
      await back.close();
      await server.journal.next("disconnected");
    }
    assertEquals(await server.pusher.channel("news"), { occupied: false });
  },
);

recoveryTest(
  "close ends a connection in the middle of a replay",
  async (lane) => {
    await using server = lane.start(SMALL_BUFFER);
    const recover = await muchToReplay(lane, server);
    await using back = await lane.connect(server);
    await back.enter("news", { recover });
    const closing = server.pusher.close();
    for (let n = 1;; n++) {
      const frame = await back.next();
      if (frame.event === "pusher:error") {
        assertEquals(dataOf(frame).code, 4200);
        break;
      }
      assertEquals(numberOf(frame), n);
    }
    assertEquals((await back.closed).code, 4200);
    await closing;
  },
);

/** A client in memory that has asked for a large replay. */
async function slowClient(
  server: TestServer,
  query: string,
  recover: Position,
): Promise<SlowTransport> {
  const url = `http://a/app/app-key${query}`;
  const transport = new SlowTransport(url);
  const peer = server.pusher.open(transport, APP.key, new Request(url));
  const closed = transport.close.bind(transport);
  transport.close = (code, reason) => {
    closed(code, reason);
    peer.closed(code);
  };
  const data = { channel: "news", recover };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  await server.pusher.channels();
  return transport;
}

for (const query of [RECOVER, BOTH]) {
  Deno.test(`a client that does not read is not sent a whole replay: ${query}`, async () => {
    using time = new FakeTime();
    const lane = PLAIN;
    await using server = serve({ ...PATIENT, ...SMALL_BUFFER });
    const recover = await muchToReplay(lane, server);
    const transport = await slowClient(server, query, recover);
    const { bufferedBytes } = SMALL_BUFFER.limits;
    const wait = async (seconds: number) => {
      for (let i = 0; i < seconds; i++) {
        time.tick(1_000);
        await time.delay(1);
      }
    };
    await wait(5);
    assertGreater(transport.frames.length, 2);
    assertLess(transport.bufferedAmount, bufferedBytes + 2 * LARGE);
    assertEquals(transport.closing, undefined);
    // Later events are read when the replay comes to them, so nothing grows; and a
    // client that reads nothing for ten seconds is given up.
    await publish(server, "news", 401, 600, LARGE);
    await wait(1);
    assertEquals(transport.closing, undefined);
    await wait(6);
    assertLess(transport.bufferedAmount, bufferedBytes + 2 * LARGE);
    assertEquals(transport.closing?.[0], 4100);
  });

  Deno.test(`a client that reads slowly gets a whole replay: ${query}`, async () => {
    using time = new FakeTime();
    const lane = PLAIN;
    await using server = serve({ ...PATIENT, ...SMALL_BUFFER });
    const recover = await muchToReplay(lane, server);
    const transport = await slowClient(server, query, recover);
    for (let i = 0; i < 1_000 && transport.frames.length < 402; i++) {
      transport.bufferedAmount = Math.max(0, transport.bufferedAmount - LARGE);
      time.tick(100);
      await time.delay(0);
    }
    const [, succeeded, ...events] = transport.frames;
    assertEquals(succeeded?.recovered, true);
    assertEquals(events.map(numberOf), range(1, 400));
    assertEquals(transport.closing, undefined);
  });
}

// ---- Batches ----------------------------------------------------------------

Deno.test("the events of one turn come in one frame to a client that asked for batches", async () => {
  await using server = serve();
  await using client = await server.connect({ query: BATCH });
  await using plain = await server.connect();
  for (const each of [client, plain]) await each.join("news");
  const [before, plainly] = [client.texts.length, plain.texts.length];
  await publish(server, "news", 1, 100);
  await take(client, 1, 100);
  await take(plain, 1, 100);
  assertEquals(client.texts.length - before, 1);
  assertEquals(plain.texts.length - plainly, 100);
  const batch = range(101, 110).map((n) => ({
    name: "n",
    channel: "news",
    data: String(n),
  }));
  await server.api("POST", "/batch_events", { body: { batch } });
  await take(client, 101, 110);
  assertEquals(client.texts.length - before, 2);
});

Deno.test("a batch of several channels has them in the order in which they were published", async () => {
  await using server = serve();
  await using client = await server.connect({ query: BOTH });
  for (const channel of ["a", "b", "c"]) await client.enter(channel);
  const published = range(1, 30).map((n) => ["a", "b", "c"][n * n % 3]!);
  await Promise.all(
    published.map((channel, n) => server.pusher.trigger(channel, "n", n)),
  );
  const frames = await client.framesUntilPong();
  assertEquals(frames.map(({ channel }) => channel), published);
  assertEquals(frames.map(numberOf), range(0, 29));
});

for (const query of [BATCH, BOTH]) {
  Deno.test(`in batches confirmations, pongs and events keep their order: ${query}`, async () => {
    await using server = serve({ clientEvents: true });
    const url = `http://a/app/app-key${query}`;
    const transport = new MemoryTransport(url);
    const peer = server.pusher.open(transport, APP.key, new Request(url));
    const send = (event: string, data: object = {}) =>
      peer.receive(JSON.stringify({ event, data }));
    send("pusher:subscribe", { channel: "a" });
    server.pusher.trigger("a", "one", 1);
    send("pusher:ping");
    send("pusher:subscribe", { channel: "cache-b" });
    server.pusher.trigger(["a", "cache-b"], "two", 2);
    send("pusher:unsubscribe", { channel: "a" });
    server.pusher.trigger("a", "none", 3);
    send("nonsense");
    send("pusher:ping");
    // A round trip of somebody else's, for what is sent a turn later.
    await using fence = await server.connect();
    await fence.silence();
    assertEquals(
      transport.frames.map(({ event, channel }) =>
        channel === undefined ? event : `${event} ${channel}`
      ),
      [
        "pusher:connection_established",
        `${SUCCEEDED} a`,
        "one a",
        "pusher:pong",
        `${SUCCEEDED} cache-b`,
        `${MISS} cache-b`,
        "two a",
        "two cache-b",
        "pusher:error",
        "pusher:pong",
      ],
    );
    peer.closed(1000);
  });

  Deno.test(`a batch is sent before the word of an end: ${query}`, async () => {
    await using server = serve();
    for (const end of ["terminate", "close"]) {
      await using client = await server.connect({ query });
      await client.join("news");
      await client.signIn({ id: "7" });
      const publishing = publish(server, "news", 1, 3);
      const ending = end === "close"
        ? server.pusher.close()
        : server.pusher.terminateUserConnections("7");
      await publishing;
      await take(client, 1, 3);
      const { code } = await client.turnedAway();
      assertEquals(code, end === "close" ? 4200 : 4009);
      await ending;
    }
  });

  Deno.test(`a client that does not take its batches is gone: ${query}`, async () => {
    await using server = serve(SMALL_BUFFER);
    const url = `http://a/app/app-key${query}`;
    const transport = new SlowTransport(url);
    const peer = server.pusher.open(transport, APP.key, new Request(url));
    const data = { channel: "news" };
    peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
    await using ann = await server.connect({ query });
    await ann.join("news");
    let published = 0;
    while (transport.closing === undefined) {
      assertLess(published, 1_000, "Nobody minds that it does not read");
      await publish(server, "news", ++published, published, LARGE);
      await take(ann, published);
    }
    assertEquals(transport.closing[0], 4100);
    assertEquals((await server.journal.next("disconnected")).code, 4100);
    const { bufferedAmount } = transport;
    await publish(server, "news", published + 1);
    await take(ann, published + 1);
    assertEquals(transport.bufferedAmount, bufferedAmount);
    peer.closed(1006);
  });
}

Deno.test("a connection that ends with a batch unsent disturbs nobody", async () => {
  await using server = serve();
  await using ann = await server.connect({ query: BOTH });
  await ann.enter("news");
  const url = `http://a/app/app-key${BOTH}`;
  const transport = new MemoryTransport(url);
  const peer = server.pusher.open(transport, APP.key, new Request(url));
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  const publishing = publish(server, "news", 1, 3);
  peer.closed(1006);
  await publishing;
  await take(ann, 1, 3);
  const sent = transport.frames.length;
  await ann.silence();
  assertEquals(transport.frames.length, sent);
});
