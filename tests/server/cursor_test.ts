/**
 * A replay as a cursor into the history: it reads as the client reads, and keeps
 * no copy of what the client has not taken.
 */
import {
  type Backplane,
  MemoryBackplane,
  type PageRequest,
} from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertLessOrEqual,
} from "@std/assert";
import { type BackplaneKind, BACKPLANES } from "../support/backplanes.ts";
import { until } from "../support/client.ts";
import { ManualClock, turn } from "../support/clock.ts";
import {
  BOTH,
  failure,
  numberOf,
  publish,
  range,
  RECOVER,
  rest,
  take,
} from "../support/recovering.ts";
import {
  APP,
  leave,
  serve,
  SlowTransport,
  type TestServer,
} from "../support/server.ts";
import { channelAuth, dataOf, type Position } from "../support/wire.ts";

const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";
const SUCCEEDED = "pusher_internal:subscription_succeeded";
const FAILED = "pusher:recovery_failed";

/** What was read of a history. */
interface Reading {
  readonly channel: string;
  readonly request: PageRequest;
  /** How many messages the answer had; null if the history did not reach back. */
  messages: number | null | undefined;
}

/** Has the reads of a backplane recorded. */
function recorded(backplane: Backplane) {
  const readings: Reading[] = [];
  const proxy = new Proxy(backplane, {
    get(target, name) {
      const value = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      if (name !== "read") return value.bind(target);
      return (app: string, channel: string, request: PageRequest) => {
        const reading: Reading = { channel, request, messages: undefined };
        readings.push(reading);
        const answer = target.read(app, channel, request);
        const note = <T extends Awaited<typeof answer>>(page: T) => {
          reading.messages = page && page.messages.length;
          return page;
        };
        return answer instanceof Promise ? answer.then(note) : note(answer);
      };
    },
  });
  return { backplane: proxy, readings };
}

/** A server whose time is the test's, and a client that reads when it is told to. */
class Bench implements AsyncDisposable {
  readonly clock = new ManualClock();
  readonly readings: Reading[];
  readonly server: TestServer;
  readonly #backplane: Backplane;

  constructor(kind: BackplaneKind, options: Parameters<typeof serve>[0] = {}) {
    // Every kind takes the memory that it is given.
    this.#backplane = kind.create(new MemoryBackplane())!;
    const { backplane, readings } = recorded(this.#backplane);
    this.readings = readings;
    this.server = serve({ backplane, clock: this.clock, ...options });
  }

  /** Visits a channel; where the client has been. */
  async visit(channel: string): Promise<Position> {
    const client = await this.server.connect({ query: RECOVER });
    const member = channel.startsWith("presence-") && {
      member: { user_id: "eve" },
    };
    await client.enter(channel, { ...member });
    const position = client.positionOn(channel);
    await leave(this.server, client);
    return position;
  }

  /** Comes back with a client that reads nothing by itself. */
  async open(query = RECOVER): Promise<Reader> {
    const url = `http://a/app/app-key${query}`;
    const transport = new SlowTransport(url);
    const peer = this.server.pusher.open(transport, APP.key, new Request(url));
    const close = transport.close.bind(transport);
    transport.close = (code, reason) => {
      close(code, reason);
      peer.closed(code);
    };
    await until(() => transport.frames.length > 0);
    return new Reader(this, transport, peer);
  }

  /** Waits until the server has done all that it can before the client reads. */
  async settle(): Promise<void> {
    let known = -1;
    for (let still = 0; still < 4; still++) {
      await this.server.drained();
      await turn();
      this.clock.pass(20);
      const isReading = this.readings.some((one) => one.messages === undefined);
      if (!isReading && known === this.readings.length) continue;
      known = this.readings.length;
      still = -1;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closing = this.server[Symbol.asyncDispose]();
    await turn();
    this.clock.pass(1_000);
    await closing;
  }
}

/** A client that reads when it is told to. */
class Reader {
  readonly transport: SlowTransport;
  readonly peer: { receive(text: string): void; closed(code: number): void };
  readonly #bench: Bench;

  constructor(bench: Bench, transport: SlowTransport, peer: Reader["peer"]) {
    this.#bench = bench;
    this.transport = transport;
    this.peer = peer;
  }

  subscribe(channel: string, recover?: Position): void {
    const { socket_id } = dataOf(this.transport.frames[0]!);
    const channel_data = JSON.stringify({ user_id: "eve" });
    const auth = channelAuth(APP, socket_id, channel, channel_data);
    const signed = channel.startsWith("presence-") && { auth, channel_data };
    this.#say("pusher:subscribe", { channel, recover, ...signed });
  }

  unsubscribe(channel: string): void {
    this.#say("pusher:unsubscribe", { channel });
  }

  #say(event: string, data: object): void {
    this.peer.receive(JSON.stringify({ event, data }));
  }

  /** Reads all that has come, or the first bytes of it. */
  async read(bytes = Infinity): Promise<void> {
    const { transport } = this;
    transport.bufferedAmount = Math.max(0, transport.bufferedAmount - bytes);
    await this.#bench.settle();
  }

  /** Reads until a number or an event has come. */
  async readUntil(what: number | string): Promise<void> {
    for (let steps = 0; !this.events.includes(`${what}`); steps++) {
      assertLess(steps, 500, `${what} does not come`);
      await this.read();
    }
  }

  /** The numbers of the events that have come. */
  get numbers(): number[] {
    return this.numbersOn();
  }

  /** The same of one channel. */
  numbersOn(channel?: string): number[] {
    return this.transport.frames.filter((frame) =>
      frame.event === "n" && (frame.channel === channel || !channel)
    ).map(numberOf);
  }

  /** The names of all frames, with the number where there is one. */
  get events(): string[] {
    return this.transport.frames.map((frame) =>
      frame.event === "n" ? `${numberOf(frame)}` : frame.event
    );
  }
}

/** Registers a test for each kind of backplane. */
function cursorTest(
  title: string,
  run: (kind: BackplaneKind) => Promise<void>,
): void {
  for (const kind of BACKPLANES) {
    Deno.test(title + kind.suffix, () => run(kind));
  }
}

// As many bytes as a page may have, and events.
const PAGE_EVENTS = 100;
const PAGE_BYTES = 65_536;
// How far a replay may be ahead of the client.
const AHEAD_BYTES = 81_920;
// In messages of 400 bytes, with the page that has been read.
const AHEAD_EVENTS = 3 * PAGE_EVENTS;

// ---- Pages ------------------------------------------------------------------

for (const query of [RECOVER, BOTH]) {
  cursorTest(
    `a client that recovers 5,000 events has the server read them once, as it reads: ${query}`,
    async (kind) => {
      await using bench = new Bench(kind);
      const { readings, server } = bench;
      const recover = await bench.visit("news");
      await publish(server, "news", 1, 5_000, 400);
      const reader = await bench.open(query);
      reader.subscribe("news", recover);
      await bench.settle();
      // It has read nothing yet: the server is not far ahead of it.
      const count = () =>
        readings.reduce((sum, { messages }) => sum + (messages ?? 0), 0);
      const { transport } = reader;
      assertGreater(reader.numbers.length, 50);
      assertLess(transport.bufferedAmount, AHEAD_BYTES + PAGE_BYTES);
      assertLessOrEqual(count(), reader.numbers.length + AHEAD_EVENTS);
      const before = readings.length;
      await bench.settle();
      assertEquals(readings.length, before, "It reads ahead of the client");
      while (reader.numbers.length < 5_000) {
        const had = reader.numbers.length;
        await reader.read();
        assertGreater(reader.numbers.length, had);
        assertLess(transport.bufferedAmount, AHEAD_BYTES + PAGE_BYTES);
        assertLessOrEqual(count(), reader.numbers.length + AHEAD_EVENTS);
      }
      assertEquals(reader.numbers, range(1, 5_000));
      // Each was read once, and no page was large.
      assertEquals(count(), 5_000);
      assertLess(readings.length, 80);
      for (const { request, messages } of readings) {
        assertEquals(request.events, PAGE_EVENTS);
        assertEquals(request.bytes, PAGE_BYTES);
        assertLessOrEqual(messages ?? 0, PAGE_EVENTS);
      }
      reader.peer.closed(1000);
    },
  );
}

cursorTest("pages of large events have few of them", async (kind) => {
  await using bench = new Bench(kind);
  const { readings, server } = bench;
  const recover = await bench.visit("news");
  await publish(server, "news", 1, 100, 10_000);
  const reader = await bench.open();
  reader.subscribe("news", recover);
  await reader.readUntil(100);
  assertEquals(reader.numbers, range(1, 100));
  for (const { messages } of readings) assertLessOrEqual(messages ?? 0, 7);
  assertGreaterOrEqual(readings.length, 100 / 7);
  reader.peer.closed(1000);
});

cursorTest(
  "clients that have missed nothing have the server read nothing",
  async (kind) => {
    await using bench = new Bench(kind);
    const { readings, server } = bench;
    await publish(server, "news", 1, 10);
    const recover = await bench.visit("news");
    const reader = await bench.open();
    reader.subscribe("news", recover);
    await bench.settle();
    await publish(server, "news", 11, 20);
    await reader.readUntil(20);
    assertEquals(reader.numbers, range(11, 20));
    assertEquals(readings, []);
    reader.peer.closed(1000);
  },
);

// ---- Live events ------------------------------------------------------------

cursorTest(
  "live events come after the replay, once, and those that are not logged in between",
  async (kind) => {
    await using bench = new Bench(kind);
    const { server } = bench;
    const recover = await bench.visit("presence-a");
    await publish(server, "presence-a", 1, 1_500, 400);
    const reader = await bench.open();
    reader.subscribe("presence-a", recover);
    await bench.settle();
    assertLess(reader.numbers.length, 1_500);
    // While it has not read the replay, others come, publish and go.
    await using ann = await server.connect();
    const expected: string[] = [];
    for (const n of range(1, 8)) {
      await ann.join("presence-a", { member: { user_id: `ann ${n}` } });
      await publish(server, "presence-a", 1_500 + n);
      ann.unsubscribe("presence-a");
      await ann.framesUntilPong();
      expected.push(ADDED, `${1_500 + n}`, REMOVED);
      if (n % 3 === 0) await reader.read(100_000);
    }
    await publish(server, "presence-a", 1_509);
    await reader.readUntil(1_509);
    await publish(server, "presence-a", 1_510);
    await reader.readUntil(1_510);
    const [, confirmed, ...events] = reader.events;
    assertEquals(confirmed, SUCCEEDED);
    assertEquals(events, [
      ...range(1, 1_500).map(String),
      ...expected,
      "1509",
      "1510",
    ]);
    reader.peer.closed(1000);
  },
);

cursorTest(
  "a replay ends although events come faster than the client reads",
  async (kind) => {
    await using bench = new Bench(kind);
    const { server } = bench;
    const recover = await bench.visit("news");
    await publish(server, "news", 1, 1_000, 400);
    const reader = await bench.open();
    reader.subscribe("news", recover);
    let last = 1_000;
    for (let round = 0; round < 20; round++) {
      await publish(server, "news", last + 1, last + 100, 400);
      last += 100;
      await reader.read(30_000);
      assertEquals(reader.transport.closing, undefined);
    }
    await reader.readUntil(last);
    assertEquals(reader.numbers, range(1, last));
    reader.peer.closed(1000);
  },
);

// ---- A history that moves on ------------------------------------------------

cursorTest(
  "a history that moves on during a replay ends in recovery_failed, and live events follow",
  async (kind) => {
    await using bench = new Bench(kind, { history: { events: 2_000 } });
    const { server } = bench;
    const recover = await bench.visit("news");
    await publish(server, "news", 1, 2_000, 400);
    const reader = await bench.open();
    reader.subscribe("news", recover);
    await bench.settle();
    const had = reader.numbers.length;
    assertLess(had, 1_000);
    // All that it has not been sent is dropped.
    await publish(server, "news", 2_001, 4_500, 400);
    await reader.readUntil(FAILED);
    await publish(server, "news", 4_501, 4_503);
    await reader.readUntil(4_503);
    const [, , ...events] = reader.events;
    const failed = events.indexOf(FAILED);
    const before = events.slice(0, failed).map(Number);
    assertEquals(before, range(1, before.length));
    assertLess(before.length, 2_000);
    const after = events.slice(failed + 1).map(Number);
    assertEquals(after, range(4_504 - after.length, 4_503));
    assertEquals(events.filter((event) => event === FAILED).length, 1);
    // It is told where it goes on.
    const { position } = reader.transport.frames.find(({ event }) =>
      event === FAILED
    )!;
    reader.peer.closed(1006);
    await using back = await server.connect({ query: RECOVER });
    const { recovered } = await back.enter("news", { recover: position });
    assertEquals(recovered, true);
    assertEquals(await rest(back), after);
  },
);

cursorTest(
  "a session whose history moves on during a replay is told, and goes on",
  async (kind) => {
    await using bench = new Bench(kind, { history: { events: 1_000 } });
    const { server } = bench;
    const path = `/r/${crypto.randomUUID()}`;
    {
      await using client = await server.connect({ path });
      await client.enter("news");
      await publish(server, "news", 0);
      await client.next("n");
      bench.clock.pass(300);
      await client.acknowledge();
      await client.framesUntilPong();
      await leave(server, client);
    }
    await publish(server, "news", 1, 1_000, 400);
    const url = `http://a${path}/app/app-key?protocol=7`;
    const transport = new SlowTransport(url);
    const peer = server.pusher.open(transport, APP.key, new Request(url));
    const reader = new Reader(bench, transport, peer);
    reader.subscribe("news");
    await bench.settle();
    await publish(server, "news", 1_001, 3_000, 400);
    await reader.readUntil(FAILED);
    await publish(server, "news", 3_001, 3_002);
    await reader.readUntil(3_002);
    const events = reader.events.filter((event) => event !== "pusher:ping");
    assertEquals(events.slice(-2), ["3001", "3002"]);
    assertEquals(events.filter((event) => event === FAILED).length, 1);
    peer.closed(1006);
    // It has answered nothing, so it is told again.
    await using back = await server.connect({ path });
    await back.enter("news");
    await failure(back, "news");
  },
);

// ---- The end of a replay ----------------------------------------------------

cursorTest(
  "a client that unsubscribes during a replay gets no more of it",
  async (kind) => {
    await using bench = new Bench(kind);
    const { readings, server } = bench;
    const [news, other] = [
      await bench.visit("news"),
      await bench.visit("other"),
    ];
    for (const channel of ["news", "other"]) {
      await publish(server, channel, 1, 2_000, 400);
    }
    const reader = await bench.open();
    reader.subscribe("news", news);
    await bench.settle();
    reader.unsubscribe("news");
    reader.subscribe("other", other);
    await bench.settle();
    const readsOf = () =>
      readings.filter(({ channel }) => channel === "news").length;
    const read = readsOf();
    await publish(server, "news", 2_001);
    await reader.readUntil(2_000);
    assertEquals(reader.numbersOn("other"), range(1, 2_000));
    // What had been sent before is all that has come.
    const had = reader.numbersOn("news");
    assertEquals([readsOf(), had], [read, range(1, had.length)]);
    assertLessOrEqual(had.length, AHEAD_EVENTS);
    // It may come back to it.
    reader.subscribe("news", news);
    await reader.readUntil(2_001);
    assertEquals(reader.numbersOn("news").slice(had.length), range(1, 2_001));
    reader.peer.closed(1000);
  },
);

for (const query of [RECOVER, BOTH]) {
  cursorTest(
    `a client that reads nothing for ten seconds is closed with 4100: ${query}`,
    async (kind) => {
      await using bench = new Bench(kind);
      const { clock, server, readings } = bench;
      const recover = await bench.visit("news");
      await publish(server, "news", 1, 2_000, 400);
      const reader = await bench.open(query);
      reader.subscribe("news", recover);
      await bench.settle();
      // As long as it reads a little now and then, it stays.
      for (let round = 0; round < 3; round++) {
        await clock.passInSteps(9_000);
        assertEquals(reader.transport.closing, undefined);
        await reader.read(10_000);
      }
      await clock.passInSteps(9_000);
      assertEquals(reader.transport.closing, undefined);
      const read = readings.length;
      await clock.passInSteps(2_000);
      assertEquals(reader.transport.closing?.[0], 4100);
      const { code } = await server.journal.next("disconnected");
      assert(code === 1000 || code === 1005 || code === 4100);
      assertEquals(readings.length, read);
      assertEquals(server.pusher.stats().connections, 0);
      assertEquals(await server.pusher.channels(), { channels: {} });
    },
  );
}

cursorTest(
  "a client that stalls costs the server nothing, whatever is published",
  async (kind) => {
    await using bench = new Bench(kind);
    const { server, readings } = bench;
    const recover = await bench.visit("news");
    await publish(server, "news", 1, 1_000, 400);
    const reader = await bench.open();
    reader.subscribe("news", recover);
    await bench.settle();
    const [read, sent] = [readings.length, reader.transport.frames.length];
    for (const from of [1_001, 2_001]) {
      await publish(server, "news", from, from + 999, 1_000);
      await bench.settle();
    }
    assertEquals([readings.length, reader.transport.frames.length], [
      read,
      sent,
    ]);
    const { bufferedBytes } = server.pusher.stats();
    assertLess(bufferedBytes, AHEAD_BYTES + PAGE_BYTES);
    await reader.readUntil(3_000);
    assertEquals(reader.numbers, range(1, 3_000));
    reader.peer.closed(1000);
  },
);

cursorTest(
  "a client that is closed for what waits for it leaves after the message at hand",
  async (kind) => {
    await using bench = new Bench(kind, { limits: { bufferedBytes: 8_192 } });
    const { server } = bench;
    const recover = await bench.visit("presence-a");
    await publish(server, "presence-a", 1, 200, 400);
    const reader = await bench.open();
    reader.subscribe("presence-a", recover);
    await bench.settle();
    // Bob comes later, and so hears of everything later.
    await using bob = await server.connect({ query: RECOVER });
    await bob.enter("presence-a", { member: { user_id: "bob" } });
    const info = { name: "x".repeat(900) };
    await using crowd = await server.connectAll(12);
    const told: string[] = [];
    for (const [index, client] of crowd.entries()) {
      // Members' comings are not logged, so they wait for the replay.
      const member = { user_id: `member ${index}`, user_info: info };
      await client.join("presence-a", { member });
      const { event, data } = await bob.next();
      told.push(`${event} ${JSON.parse(String(data)).user_id}`);
      if (reader.transport.closing === undefined) continue;
      const gone = await bob.next(REMOVED);
      assertEquals(dataOf(gone), { user_id: "eve" });
      break;
    }
    assertEquals(told, told.map((_, index) => `${ADDED} member ${index}`));
    assertEquals(reader.transport.closing?.[0], 4100);
    await publish(server, "presence-a", 201);
    await take(bob, 201);
  },
);
