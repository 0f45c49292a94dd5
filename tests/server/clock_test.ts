/**
 * What a server goes by: silence, a wall clock that somebody sets, and a process
 * that was frozen. Each test turns the server's clock.
 */
import { MemoryBackplane, Pusher, type PusherOptions } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertLessOrEqual,
} from "@std/assert";
import { until } from "../support/client.ts";
import { type Cluster, eachCluster } from "../support/cluster.ts";
import { ManualClock, turn } from "../support/clock.ts";
import {
  publish,
  RECOVER,
  recoveryTest,
  rest,
  take,
} from "../support/recovering.ts";
import {
  APP,
  type Client,
  leave,
  MemoryTransport,
  serve,
  type TestServer,
} from "../support/server.ts";
import { signIn } from "../support/users.ts";
import { channelAuth, dataOf, type Frame } from "../support/wire.ts";

const PING = "pusher:ping";
const SECOND = 1_000;
const HOUR = 3_600 * SECOND;
const DAY = 24 * HOUR;

const newPath = (): string => `/r/${crypto.randomUUID()}`;

/** A server and its clock. */
function serveTurned(options: PusherOptions = {}) {
  const clock = new ManualClock();
  return { clock, server: serve({ clock, ...options }) };
}

/** A client in memory, which is silent. */
function open(server: TestServer, query = "?protocol=7") {
  const url = `http://a/app/app-key${query}`;
  const transport = new MemoryTransport(url);
  const peer = server.pusher.open(transport, APP.key, new Request(url));
  const say = (event: string, data: unknown = {}) =>
    peer.receive(JSON.stringify({ event, data }));
  return { transport, peer, say };
}

const eventsOf = ({ frames }: { frames: Frame[] }): string[] =>
  frames.map(({ event }) => event);

// ---- Silence ----------------------------------------------------------------

Deno.test("a client that goes silent is pinged after 60 s and gone within 75 s, whatever it is told", async () => {
  const { clock, server } = serveTurned();
  await using _ = server;
  const { transport, peer } = open(server);
  const [established] = transport.frames;
  assertEquals(dataOf(established!).activity_timeout, 120);
  let pingedAt = -1;
  let closedAt = -1;
  for (let second = 1; second <= 200; second++) {
    clock.pass(SECOND);
    if (pingedAt < 0 && eventsOf(transport).includes(PING)) pingedAt = second;
    if (closedAt < 0 && transport.closing !== undefined) closedAt = second;
  }
  assertGreaterOrEqual(pingedAt, 59);
  assertLessOrEqual(pingedAt, 60);
  assertGreaterOrEqual(closedAt - pingedAt, 14);
  assertLessOrEqual(closedAt, 75);
  assertEquals(transport.closing?.[0], 4201);
  assertEquals(server.pusher.stats().connections, 0);
  peer.closed(4201);
});

Deno.test("a client that was active before is gone within 75 s of its last frame", async () => {
  const { clock, server } = serveTurned();
  await using _ = server;
  for (const quietMs of [300, 30_700, 59_100]) {
    const { transport, peer, say } = open(server);
    clock.pass(quietMs);
    say("pusher:ping");
    clock.pass(58 * SECOND);
    assertEquals(eventsOf(transport).includes(PING), false);
    clock.pass(17 * SECOND);
    assertEquals(transport.closing?.[0], 4201);
    peer.closed(4201);
  }
});

Deno.test("a client that answers its pings stays for days", async () => {
  const { clock, server } = serveTurned();
  await using _ = server;
  const { transport, peer, say } = open(server);
  let pings = 0;
  for (let minutes = 0; minutes < 2 * 24 * 60; minutes++) {
    clock.pass(60 * SECOND);
    const seen = eventsOf(transport).filter((event) => event === PING).length;
    if (seen > pings) say("pusher:pong");
    pings = seen;
  }
  assertEquals(transport.closing, undefined);
  assertGreaterOrEqual(pings, 24 * 60);
  peer.closed(1000);
});

Deno.test("pingAfterMs and pongTimeoutMs say when a silent client is gone", async () => {
  const { clock, server } = serveTurned({
    activityTimeoutMs: 300_000,
    pingAfterMs: 5_000,
    pongTimeoutMs: 2_000,
  });
  await using _ = server;
  const { transport, peer } = open(server);
  assertEquals(dataOf(transport.frames[0]!).activity_timeout, 300);
  clock.pass(4_700);
  assertEquals(eventsOf(transport).includes(PING), false);
  clock.pass(300);
  assert(eventsOf(transport).includes(PING));
  assertEquals(transport.closing, undefined);
  clock.pass(2_000);
  assertEquals(transport.closing?.[0], 4201);
  peer.closed(4201);
});

// ---- A wall clock that jumps ------------------------------------------------

/** Clients of every kind, and what is kept for others that are away. */
interface Crowd extends AsyncDisposable {
  /** Checks that nobody has lost anything. */
  check(): Promise<void>;
}

async function crowd(server: TestServer): Promise<Crowd> {
  const plain = await server.connect();
  const path = newPath();
  const session = await server.connect({ path });
  const recovering = await server.connect({ query: RECOVER });
  const clients = [plain, session, recovering];
  for (const client of clients) await client.enter("news");
  const member = { user_id: "ann" };
  await plain.join("presence-a", { member });
  await signIn(plain, { id: "ann" });
  await server.pusher.trigger("cache-a", "kept", 1);
  // Two are away when the clock jumps.
  const awayPath = newPath();
  const awaySession = await server.connect({ path: awayPath });
  const awayClient = await server.connect({ query: RECOVER });
  for (const client of [awaySession, awayClient]) await client.enter("away");
  await publish(server, "away", 1);
  for (const client of [awaySession, awayClient]) await take(client, 1);
  const recover = awayClient.positionOn("away");
  for (const client of [awaySession, awayClient]) await leave(server, client);
  await publish(server, "away", 2, 3);
  let n = 0;
  return {
    async check() {
      await publish(server, "news", ++n);
      for (const client of clients) {
        assertEquals((await client.next("n")).data, `${n} `);
      }
      await publish(server, "away", n + 10);
      const { cache } = await server.pusher.channel("cache-a", {
        info: "cache",
      });
      assertEquals(cache?.data, "1");
      await using cached = await server.connect();
      await cached.join("cache-a");
      assertEquals((await cached.next("kept")).data, "1");
      const missed = [2, 3, ...Array.from({ length: n }, (_, i) => i + 11)];
      await using back = await server.connect({ query: RECOVER });
      assertEquals((await back.enter("away", { recover })).recovered, true);
      assertEquals(await rest(back), missed);
      await using resumed = await server.connect({ path: awayPath });
      await resumed.enter("away");
      const replayed = await rest(resumed);
      // Its last acknowledgement may not have been kept.
      assertEquals(replayed.slice(-missed.length), missed);
      await leave(server, resumed);
      assertEquals(await server.pusher.users("presence-a"), {
        users: [{ id: "ann" }],
      });
    },
    async [Symbol.asyncDispose]() {
      for (const client of clients) await client.close();
    },
  };
}

Deno.test("a wall clock that jumps takes nothing from anybody", async () => {
  const { clock, server } = serveTurned({ authorizationTimeoutMs: 60_000 });
  await using _ = server;
  await using all = await crowd(server);
  await all.check();
  for (const jump of [DAY, -2 * DAY, DAY, 365 * DAY, -400 * DAY]) {
    clock.jump(jump);
    // Whatever goes by time has a chance to be wrong.
    await clock.passInSteps(5 * SECOND);
    await all.check();
  }
});

Deno.test("a wall clock that jumps drops no frames, and lets no flood through", async () => {
  const { clock, server } = serveTurned({
    clientEvents: true,
    limits: { framesPerSecond: 10, framesBurst: 20, clientEventsPerSecond: 5 },
  });
  await using _ = server;
  await using client = await server.connect();
  await client.join("private-a");
  // What is there is taken up, so that a wrong time would show.
  const events = async (count: number) => {
    for (let n = 0; n < count; n++) {
      client.send({ event: "client-x", channel: "private-a" });
    }
    const frames = await client.framesUntilPong();
    return count -
      frames.filter(({ event }) => event === "pusher:error").length;
  };
  assertEquals(await events(7), 5);
  for (const jump of [DAY, -2 * DAY, DAY]) {
    clock.jump(jump);
    assertEquals(await events(1), 0);
    clock.pass(SECOND);
    assertEquals(await events(6), 5);
  }
  assertEquals(server.pusher.stats().droppedFrames, 0);
});

Deno.test("what is old is forgotten, whatever the wall clock says", async () => {
  const { clock, server } = serveTurned({
    history: { ageMs: 60_000 },
    cacheTtlMs: 60_000,
  });
  await using _ = server;
  const client = await server.connect({ query: RECOVER });
  await client.enter("news");
  const recover = client.positionOn("news");
  await leave(server, client);
  await server.pusher.trigger("news", "n", 1);
  await server.pusher.trigger("cache-a", "kept", 1);
  clock.pass(61 * SECOND);
  // As if no time had passed.
  clock.jump(-61 * SECOND);
  const { cache } = await server.pusher.channel("cache-a", { info: "cache" });
  assertEquals(cache, null);
  await publish(server, "news", 2);
  await using back = await server.connect({ query: RECOVER });
  const { recovered } = await back.enter("news", { recover });
  assertEquals(recovered, false);
  await back.next("pusher:recovery_failed");
});

Deno.test("timestamps of requests go by the wall clock: that of `clock`, or `now`", async () => {
  const clock = new ManualClock();
  let now = Date.UTC(2040, 0);
  await using server = serve({ clock });
  await using other = serve({ clock, now: () => now });
  const status = async (one: TestServer, at: number) => {
    const query = { auth_timestamp: `${Math.floor(at / SECOND)}` };
    return (await one.api("GET", "/channels", { query })).status;
  };
  for (const [one, time] of [[server, clock.now()], [other, now]] as const) {
    for (
      const [offMs, expected] of [
        [0, 200],
        [-599 * SECOND, 200],
        [599 * SECOND, 200],
        [-602 * SECOND, 401],
        [602 * SECOND, 401],
      ] as const
    ) {
      assertEquals(await status(one, time + offMs), expected, `${offMs}`);
    }
  }
  const before = clock.now();
  clock.jump(DAY);
  now -= DAY;
  assertEquals(await status(server, before), 401);
  assertEquals(await status(server, before + DAY), 200);
  assertEquals(await status(other, now), 200);
  assertEquals(await status(other, now + DAY), 401);
  clock.pass(HOUR);
  assertEquals(await status(server, before + DAY + HOUR), 200);
  // Only the wall clock is replaced.
  assertEquals(other.pusher.clock.now(), now);
  assertEquals(other.pusher.clock.elapsed(), clock.elapsed());
});

// ---- A process that was frozen ----------------------------------------------

Deno.test("clients that were silent only because the process was frozen stay", async () => {
  const { clock, server } = serveTurned();
  await using _ = server;
  const clients = [0, 20, 30].map((seconds) => {
    const client = open(server);
    clock.pass(seconds * SECOND);
    return client;
  });
  for (const frozenMs of [5 * 60 * SECOND, HOUR, DAY]) {
    clock.freeze(frozenMs);
    for (const { transport } of clients) {
      assertEquals(transport.closing, undefined);
    }
    // They get as long to answer as ever.
    clock.pass(13 * SECOND);
    for (const { transport, say } of clients) {
      assertEquals(transport.closing, undefined);
      say("pusher:pong");
    }
  }
  // Who is gone is found out as ever.
  clock.pass(75 * SECOND);
  for (const { transport, peer } of clients) {
    assertEquals(transport.closing?.[0], 4201);
    peer.closed(4201);
  }
});

Deno.test("a frozen process cuts no connection for being nobody", async () => {
  const { clock, server } = serveTurned({ authorizationTimeoutMs: 30_000 });
  await using _ = server;
  const { transport, peer, say } = open(server);
  clock.pass(10 * SECOND);
  clock.freeze(HOUR);
  assertEquals(transport.closing, undefined);
  const { socket_id } = dataOf(transport.frames[0]!);
  const auth = channelAuth(APP, socket_id, "private-a");
  say("pusher:subscribe", { channel: "private-a", auth });
  for (let n = 0; n < 10; n++) {
    clock.pass(10 * SECOND);
    say("pusher:pong");
  }
  assertEquals(transport.closing, undefined);
  peer.closed(1000);
});

Deno.test("a replay goes on after the process was frozen, to a client that reads", async () => {
  const { clock, server } = serveTurned({ limits: { bufferedBytes: 65_536 } });
  await using _ = server;
  const client = await server.connect({ query: RECOVER });
  await client.enter("news");
  const recover = client.positionOn("news");
  await leave(server, client);
  await publish(server, "news", 1, 50, 5_000);
  const { transport, peer, say } = open(server, RECOVER);
  // It has not read what it has got, and has no chance to.
  transport.bufferedAmount = 50_000;
  say("pusher:subscribe", { channel: "news", recover });
  clock.pass(50);
  assertEquals(eventsOf(transport).includes("n"), false);
  // Shorter than the history is kept.
  clock.freeze(60 * SECOND);
  assertEquals(transport.closing, undefined);
  transport.bufferedAmount = 0;
  clock.pass(SECOND);
  await turn();
  assertEquals(transport.closing, undefined);
  const numbers = eventsOf(transport).filter((event) => event === "n").length;
  assertEquals(numbers, 50);
  peer.closed(1000);
});

Deno.test("rates are no higher after the process was frozen", async () => {
  const { clock, server } = serveTurned({
    limits: { framesPerSecond: 1, framesBurst: 5 },
  });
  await using _ = server;
  const { transport, peer, say } = open(server);
  for (let n = 0; n < 5; n++) say(PING);
  clock.freeze(HOUR);
  for (let n = 0; n < 6; n++) say(PING);
  assertEquals(eventsOf(transport).slice(1), [
    ...Array(10).fill("pusher:pong"),
    "pusher:error",
  ]);
  peer.closed(1000);
});

// ---- The clocks of the runtime ----------------------------------------------

Deno.test("a server goes by no other clock than its own", () => {
  const clock = new ManualClock();
  const pusher = new Pusher({
    ...{ appId: APP.id, key: APP.key, secret: APP.secret, clock },
    backplane: new MemoryBackplane(),
    subscriptionCounts: true,
    clientEvents: true,
  });
  const forbid = (name: string) => () => {
    throw new Error(`Cannot use ${name}: the server has a clock`);
  };
  const { setTimeout, setInterval } = globalThis;
  const dateNow = Date.now;
  const performanceNow = performance.now;
  Object.assign(globalThis, {
    setTimeout: forbid("setTimeout"),
    setInterval: forbid("setInterval"),
  });
  Date.now = forbid("Date.now");
  performance.now = forbid("performance.now");
  try {
    const path = newPath();
    for (const query of ["?protocol=7", RECOVER]) {
      for (const prefix of ["", path]) {
        const url = `http://a${prefix}/app/app-key${query}`;
        const transport = new MemoryTransport(url);
        const peer = pusher.open(transport, APP.key, new Request(url));
        for (const channel of ["news", "cache-a"]) {
          const data = { channel, rewind: 5 };
          peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
        }
        pusher.trigger(["news", "cache-a"], "e", "x".repeat(1_000));
        peer.receive(JSON.stringify({ event: "pusher:ping" }));
        clock.pass(70 * SECOND);
        peer.receive(JSON.stringify({ event: "pusher:pong" }));
        clock.pass(HOUR);
        assert(eventsOf(transport).includes("e"));
        assertEquals(transport.closing?.[0], 4201);
        peer.closed(4201);
      }
    }
    pusher.close({ over: 1_000 });
    clock.pass(2_000);
  } finally {
    Object.assign(globalThis, { setTimeout, setInterval });
    Date.now = dateNow;
    performance.now = performanceNow;
  }
  assertEquals(pusher.stats().connections, 0);
});

// ---- Several servers --------------------------------------------------------

eachCluster(
  "servers whose wall clocks differ share what they keep",
  async (cluster: Cluster) => {
    const clock = new ManualClock();
    const one = cluster.serve({ clock });
    const two = cluster.serve({ clock, now: () => clock.now() - 30 * DAY });
    const path = newPath();
    const client = await one.connect({ path });
    await client.enter("news");
    await publish(two, "news", 1);
    await take(client, 1);
    clock.pass(1_000);
    await client.acknowledge();
    await client.framesUntilPong();
    await leave(one, client);
    await publish(one, "news", 2, 3);
    await one.pusher.trigger("cache-a", "kept", 1);
    await using back: Client = await two.connect({ path });
    await back.enter("news");
    await take(back, 2, 3);
    await back.join("cache-a");
    assertEquals((await back.next("kept")).data, "1");
  },
);

recoveryTest(
  "a client that was away for less than ageMs recovers, and for longer it does not",
  async (lane) => {
    const clock = new ManualClock();
    await using server = lane.start({ clock, history: { ageMs: 60_000 } });
    const client = await lane.connect(server);
    await client.enter("news");
    const recover = client.positionOn("news");
    await leave(server, client);
    await publish(server, "news", 1, 2);
    clock.pass(59 * SECOND);
    {
      await using back = await lane.connect(server);
      assertEquals((await back.enter("news", { recover })).recovered, true);
      await take(back, 1, 2);
      await leave(server, back);
    }
    clock.pass(2 * SECOND);
    await using late = await lane.connect(server);
    assertEquals((await late.enter("news", { recover })).recovered, false);
    await until(() => late.log.some(({ event }) => /failed$/.test(event)));
  },
);
