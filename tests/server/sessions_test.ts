/**
 * Sessions: what a stock client gets that puts `/r/<id>` in front of its path. The
 * clients are raw sockets, so that a test decides which pings they answer, and
 * when.
 */
import type { Encryption } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotEquals,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { eachBackplane, SlowBackplane } from "../support/backplanes.ts";
import { FaultyMemory } from "../support/faulty_backplane.ts";
import {
  APP,
  type Client,
  type ConnectInit,
  leave,
  serve,
  type TestServer,
  TWO_APPS,
} from "../support/server.ts";
import { channelAuth, dataOf, type Frame } from "../support/wire.ts";
import {
  numberOf,
  PATIENT,
  publish,
  range,
  rest,
  take,
} from "../support/recovering.ts";

const ADDED = "pusher_internal:member_added";
const SUCCEEDED = "pusher_internal:subscription_succeeded";
const MISS = "pusher:cache_miss";
const FAILED = "pusher:recovery_failed";
const PING = "pusher:ping";

/** The path of a session that nobody has had before. */
const newPath = (): string => `/r/${crypto.randomUUID()}`;

/** Takes all that the server has to say, without its pings. */
async function frames(client: Client): Promise<Frame[]> {
  const all = await client.framesUntilPong();
  return all.filter(({ event }) => event !== PING);
}

/** How often the server has pinged a client. */
function pingsOf({ log }: Client): number {
  return log.filter(({ event }) => event === PING).length;
}

/** Comes to a channel in a session, and goes without a word. */
async function visit(
  server: TestServer,
  init: ConnectInit,
  channel = "news",
): Promise<void> {
  await using client = await server.connect(init);
  await client.enter(channel);
  await leave(server, client);
}

/** Comes back to a channel: what is replayed, or null for a failure. */
async function missed(
  server: TestServer,
  init: ConnectInit,
  channel = "news",
): Promise<number[] | null> {
  await using client = await server.connect(init);
  await client.enter(channel);
  const all = await frames(client);
  await leave(server, client);
  if (all[0]?.event !== FAILED) return all.map(numberOf);
  assertEquals(all.slice(1), []);
  return null;
}

// ---- Paths ------------------------------------------------------------------

const UPGRADE = /^HTTP\/1\.1 101 /;
const UNKNOWN = /^HTTP\/1\.1 404 /;

Deno.test("a session has 16 to 128 letters, digits, _ and -, or there is no such route", async () => {
  const letters = "abcXYZ0189_-abcdefghijklmnop";
  const cases: [id: string, status: RegExp][] = [
    ["x".repeat(16), UPGRADE],
    ["x".repeat(128), UPGRADE],
    [letters, UPGRADE],
    [crypto.randomUUID(), UPGRADE],
    ["_".repeat(16), UPGRADE],
    ["", UNKNOWN],
    ["x", UNKNOWN],
    ["x".repeat(15), UNKNOWN],
    ["x".repeat(129), UNKNOWN],
    ["x".repeat(5_000), UNKNOWN],
    ..." .~!*'(),;:@&=+$%/?#[]\\\"<>^`{|}é\n".split("").map((character) =>
      [
        encodeURIComponent(character) + letters,
        UNKNOWN,
      ] satisfies [string, RegExp]
    ),
    [`.${letters}`, UNKNOWN],
    [`${letters}.`, UNKNOWN],
    [`${letters}~`, UNKNOWN],
    // Slashes that are doubled where paths are joined are merged.
    [`${letters}/`, UPGRADE],
    [`${letters}/${letters}`, UNKNOWN],
    [`${letters}%00`, UNKNOWN],
    [`${letters}%0A`, UNKNOWN],
    [`${letters}%`, /^HTTP\/1\.1 40[04] /],
  ];
  for (const path of ["", "/real/time"]) {
    await using server = serve({ path });
    for (const [id, status] of cases) {
      using raw = await server.raw();
      const head = await raw.upgrade(
        `${path}/r/${id}/app/app-key?protocol=7`,
      );
      assertMatch(head, status, `${path} ${id.slice(0, 200)}`);
    }
    using raw = await server.raw();
    const elsewhere = `/r/${letters}${path}/app/app-key?protocol=7`;
    if (path !== "") assertMatch(await raw.upgrade(elsewhere), UNKNOWN);
  }
});

Deno.test("what is no route of a session is left to others", async () => {
  await using server = serve(
    { authorize: () => true, authenticate: () => null },
    { after: [() => new Response("mine")] },
  );
  const path = newPath();
  for (
    const route of [
      "",
      "/",
      "/app",
      "/app/",
      "/app/app-key/more",
      "/apps/app-id/channels",
      "/pusher/auth/app-key/more",
      "/pusher.js",
      "/pusher.mjs",
      path,
      `${path}/app/app-key`,
    ]
  ) {
    const response = await fetch(server.url + path + route);
    assertEquals(await response.text(), "mine", route);
  }
  // A client that has the path of a session asks for them there, too.
  for (const route of ["/pusher/auth", "/pusher/user-auth"]) {
    const url = server.url + path + route;
    const response = await fetch(url, { method: "POST" });
    assertEquals(response.status, 400, await response.text());
  }
  const plain = await fetch(`${server.url}/app/app-key`);
  const known = await fetch(`${server.url}${path}/app/app-key`);
  assertEquals(known.status, plain.status);
  await Promise.all([plain, known].map(({ body }) => body?.cancel()));
});

Deno.test("a session is refused as any connection is", async () => {
  await using server = serve({ limits: { connections: 1 } });
  const path = newPath();
  const nobody = { ...APP, key: "nobody" };
  assertEquals((await server.turnsAway({ path, app: nobody })).code, 4001);
  const query = "?protocol=3";
  assertEquals((await server.turnsAway({ path, query })).code, 4007);
  await using first = await server.connect({ path });
  assertEquals((await server.turnsAway({ path })).code, 4004);
  await first.silence();
});

// ---- Pings ------------------------------------------------------------------

Deno.test("a session is pinged only while something is unacknowledged, once at a time", async () => {
  using time = new FakeTime();
  await using server = serve(PATIENT);
  await using client = await server.connect({ path: newPath() });
  const pass = async (ms: number, stepMs = 100) => {
    for (let passed = 0; passed < ms; passed += stepMs) {
      time.tick(stepMs);
      await time.delay(0);
    }
    await client.framesUntilPong();
  };
  await client.enter("news");
  // The subscription may count as something to be acknowledged.
  await pass(1_000);
  if (pingsOf(client) > 0) client.pong();
  const idle = pingsOf(client);
  assertLessOrEqual(idle, 1);
  await pass(60_000, 1_000);
  assertEquals(pingsOf(client), idle);

  await publish(server, "news", 1);
  await pass(1_000);
  assertEquals(pingsOf(client), idle + 1);
  for (const n of range(2, 15)) {
    await publish(server, "news", n);
    await pass(500);
  }
  assertEquals(pingsOf(client), idle + 1, "The first one is unanswered");
  client.pong();
  await pass(1_000);
  assertEquals(pingsOf(client), idle + 2);
  client.pong();
  await pass(60_000, 1_000);
  assertEquals(pingsOf(client), idle + 2, "There is nothing to acknowledge");
});

Deno.test("a pong that was lost is not waited for, and acknowledges nothing too early", async () => {
  using time = new FakeTime();
  await using server = serve(PATIENT);
  const path = newPath();
  {
    await using client = await server.connect({ path });
    const pass = async (ms: number) => {
      for (let passed = 0; passed < ms; passed += 100) time.tick(100);
      await client.framesUntilPong();
    };
    await client.enter("news");
    await publish(server, "news", 1);
    await pass(300);
    assertEquals(pingsOf(client), 1);
    // As over HTTP, where the answer is a request of its own: it gets lost.
    await publish(server, "news", 2);
    await pass(11_000);
    assertEquals(pingsOf(client), 2);
    for (const n of range(3, 5)) {
      client.pong();
      await client.framesUntilPong();
      await publish(server, "news", n);
      await pass(300);
      assertEquals(pingsOf(client), n);
    }
    client.pong();
    await client.framesUntilPong();
  }
  // The last answer is taken for that of the ping before.
  assertEquals(await missed(server, { path }), [5]);
});

Deno.test("a busy session is pinged about five times a second", async () => {
  using time = new FakeTime();
  await using server = serve(PATIENT);
  await using client = await server.connect({ path: newPath() });
  await client.enter("news");
  for (const n of range(1, 200)) {
    await publish(server, "news", n);
    time.tick(50);
    const before = pingsOf(client);
    await client.framesUntilPong();
    if (pingsOf(client) > before) client.pong();
  }
  // In ten seconds.
  assertGreater(pingsOf(client), 20);
  assertLess(pingsOf(client), 80);
});

Deno.test("a session that is gone is not pinged, and leaves no timer", async () => {
  await using server = serve();
  for (let round = 0; round < 3; round++) {
    await using client = await server.connect({ path: newPath() });
    await client.enter("news");
    await publish(server, "news", 1);
    await take(client, 1);
    await leave(server, client);
  }
  // The sanitizers fail the test if something is left.
});

Deno.test("a session that answers nothing is closed for its silence", async () => {
  const options = { activityTimeoutMs: 200, pongTimeoutMs: 200 };
  await using server = serve(options);
  const query = "?protocol=7&client=js";
  await using idle = await server.connect({ path: newPath(), query });
  assertEquals(dataOf(await idle.next(PING)), {});
  assertEquals((await idle.turnedAway()).code, 4201);

  await using busy = await server.connect({ path: newPath(), query });
  await busy.enter("news");
  const closed = busy.closed.then(() => true);
  for (let n = 1;; n++) {
    await publish(server, "news", n);
    const tick = new Promise((resolve) => setTimeout(resolve, 20));
    await tick;
    const isClosed = await Promise.race([closed, Promise.resolve(false)]);
    if (isClosed) break;
    assertLess(n, 500, "It has never been closed");
  }
  assertEquals((await busy.closed).code, 4201);
});

Deno.test("a session that shows life in any way stays", async () => {
  const options = { activityTimeoutMs: 200, pongTimeoutMs: 400 };
  await using server = serve(options);
  await using idle = await server.connect({ path: newPath() });
  for (let round = 0; round < 5; round++) {
    await idle.next(PING);
    idle.pong();
  }
  await idle.close();

  // It never answers, but it asks.
  await using asking = await server.connect({ path: newPath() });
  await asking.enter("news");
  const until = performance.now() + 1_500;
  for (let n = 1; performance.now() < until; n++) {
    await publish(server, "news", n);
    assertEquals(await rest(asking), [n]);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await asking.close();

  // It answers, and gets events all the while.
  await using busy = await server.connect({ path: newPath() });
  await busy.enter("news");
  for (let n = 1; n <= 6; n++) {
    await publish(server, "news", n);
    await take(busy, n);
    await busy.acknowledge();
  }
  assertEquals(await rest(busy), []);
});

// ---- Acknowledgements -------------------------------------------------------

eachBackplane(
  "what was not acknowledged is replayed after the confirmation",
  async (start) => {
    await using server = start();
    const path = newPath();
    await using client = await server.connect({ path });
    await client.enter("news");
    await publish(server, "news", 1, 3);
    await take(client, 1, 3);
    await leave(server, client);
    await publish(server, "news", 4, 5);

    await using back = await server.connect({ path });
    await back.enter("news");
    assertEquals(await rest(back), range(1, 5));
    await publish(server, "news", 6);
    await take(back, 6);
    // A plain client, and another session, get nothing of it.
    await using plain = await server.connect();
    await plain.join("news");
    await plain.silence();
    assertEquals(await missed(server, { path: newPath() }), []);
  },
);

eachBackplane(
  "what was acknowledged is not replayed, on any channel",
  async (start) => {
    await using server = start();
    const path = newPath();
    await using client = await server.connect({ path });
    for (const channel of ["a", "b"]) {
      await client.enter(channel);
      await publish(server, channel, 1, 3);
      await take(client, 1, 3);
    }
    await client.acknowledge();
    await client.framesUntilPong();
    await leave(server, client);
    await publish(server, "b", 4);
    await using back = await server.connect({ path });
    await back.enter("a");
    assertEquals(await rest(back), []);
    await back.enter("b");
    assertEquals(await rest(back), [4]);
  },
);

eachBackplane(
  "a pong acknowledges what was sent before its ping, and no more",
  async (start) => {
    await using server = start();
    const path = newPath();
    await using client = await server.connect({ path });
    await client.enter("news");
    await publish(server, "news", 1);
    await take(client, 1);
    for (;;) {
      // One that was sent before the event is answered first.
      await client.next(PING);
      const [last] = client.log.slice(-1);
      const came = client.log.findIndex(({ event }) => event === "n");
      if (last?.event === PING && client.log.lastIndexOf(last) > came) break;
      client.pong();
    }
    await publish(server, "news", 2, 3);
    await take(client, 2, 3);
    client.pong();
    await client.framesUntilPong();
    await leave(server, client);
    assertEquals(await missed(server, { path }), [2, 3]);
  },
);

Deno.test("a pong that nobody asked for acknowledges nothing", async () => {
  using time = new FakeTime();
  await using server = serve(PATIENT);
  const path = newPath();
  await using client = await server.connect({ path });
  await client.enter("news");
  await publish(server, "news", 1);
  await take(client, 1);
  for (let i = 0; pingsOf(client) === 0 && i < 50; i++) {
    time.tick(100);
    await client.framesUntilPong();
  }
  client.pong();
  await client.framesUntilPong();
  // Time stands still, so there is no further ping.
  const pings = pingsOf(client);
  await publish(server, "news", 2);
  await client.framesUntilPong();
  if (pingsOf(client) === pings) {
    for (let i = 0; i < 3; i++) client.pong();
    await client.framesUntilPong();
  }
  await leave(server, client);
  const found = await missed(server, { path });
  assertEquals(found?.at(-1), 2);
});

eachBackplane(
  "what was replayed has to be acknowledged, too",
  async (start) => {
    await using server = start();
    const path = newPath();
    await visit(server, { path });
    await publish(server, "news", 1, 3);
    assertEquals(await missed(server, { path }), range(1, 3));
    await using back = await server.connect({ path });
    await back.enter("news");
    await take(back, 1, 3);
    await back.acknowledge();
    await back.framesUntilPong();
    await publish(server, "news", 4);
    await take(back, 4);
    await leave(server, back);
    assertEquals(await missed(server, { path }), [4]);
  },
);

eachBackplane(
  "cuts at any moment lose nothing and keep the order",
  async (start) => {
    await using server = start();
    const path = newPath();
    let n = 0;
    const seen: number[] = [];
    for (let round = 0; round < 15; round++) {
      await using client = await server.connect({ path });
      const publishing = [publish(server, "news", ++n)];
      client.requestSubscribe("news");
      publishing.push(publish(server, "news", ++n));
      await Promise.all(publishing);
      await client.next(SUCCEEDED);
      seen.push(...await rest(client));
      if (round % 3 === 0 && seen.length > 0) await client.acknowledge();
      await publish(server, "news", ++n);
      await client.close();
      await publish(server, "news", ++n);
    }
    seen.push(...await missed(server, { path }) ?? []);
    const first = [...new Set(seen)];
    assertEquals(first, range(first[0] ?? 0, n));
  },
);

// ---- Coming back ------------------------------------------------------------

eachBackplane(
  "a channel is replayed whenever it is subscribed to again",
  async (start) => {
    await using server = start();
    const path = newPath();
    await using client = await server.connect({ path });
    for (const channel of ["a", "b", "c"]) await client.enter(channel);
    await leave(server, client);
    for (const channel of ["a", "b", "c"]) await publish(server, channel, 1, 2);
    await using back = await server.connect({ path });
    await back.silence();
    await back.enter("b");
    await take(back, 1, 2);
    await publish(server, "b", 3);
    await take(back, 3);
    await back.acknowledge();
    await publish(server, "a", 3);
    await back.enter("a");
    await take(back, 1, 3);
    await back.framesUntilPong();
    assertEquals(back.log.filter(({ channel }) => channel === "c"), []);
  },
);

eachBackplane("a channel that was left is not replayed", async (start) => {
  await using server = start();
  const path = newPath();
  await using client = await server.connect({ path });
  for (const channel of ["a", "b"]) {
    await client.enter(channel);
    await publish(server, channel, 1);
    await take(client, 1);
  }
  client.unsubscribe("a");
  await client.framesUntilPong();
  await publish(server, "a", 2);
  await leave(server, client);
  await publish(server, "a", 3);
  await using back = await server.connect({ path });
  await back.enter("a");
  assertEquals(await rest(back), []);
  await back.enter("b");
  assertEquals(await rest(back), [1]);
});

eachBackplane(
  "a private channel is replayed only with a new signature",
  async (start) => {
    await using server = start({ clientEvents: true });
    const path = newPath();
    const channel = "private-a";
    await using client = await server.connect({ path });
    await client.enter(channel);
    const old = channelAuth(APP, client.socketId, channel);
    await leave(server, client);
    await publish(server, channel, 1, 2);
    await using back = await server.connect({ path });
    for (const auth of [old, null, "", "app-key:0"]) {
      assertEquals(await back.refused(channel, { auth }), "AuthError 401");
      await back.framesUntilPong();
    }
    assertEquals(back.log.filter(({ event }) => event === "n"), []);
    await back.enter(channel);
    assertEquals(await rest(back), [1, 2]);
  },
);

eachBackplane(
  "a presence channel is replayed without its members, who are told afresh",
  async (start) => {
    await using server = start();
    const path = newPath();
    const channel = "presence-a";
    const as = (user_id: string) => ({ member: { user_id } });
    await using ann = await server.connect({ path });
    await ann.enter(channel, as("ann"));
    await using bob = await server.connect();
    await bob.enter(channel, as("bob"));
    await ann.next(ADDED);
    await leave(server, ann);
    await using carl = await server.connect();
    await carl.enter(channel, as("carl"));
    await publish(server, channel, 1);
    await bob.close();
    await server.journal.next("disconnected");
    await publish(server, channel, 2);

    await using back = await server.connect({ path });
    const wrong = { ...as("ann"), auth: "app-key:0" };
    assertEquals(await back.refused(channel, wrong), "AuthError 401");
    const { presence } = await back.join(channel, as("ann"));
    assertEquals(presence.ids.toSorted(), ["ann", "carl"]);
    assertEquals(await rest(back), [1, 2]);
  },
);

eachBackplane("encrypted events are replayed as they were", async (start) => {
  let n = 0;
  const encryption: Encryption = {
    encrypt: (_channel, json) =>
      JSON.stringify({ nonce: btoa(`${++n}`), ciphertext: btoa(json) }),
    sharedSecret: () => btoa("secret"),
  };
  await using server = start({ encryption });
  const path = newPath();
  const channel = "private-encrypted-a";
  await using client = await server.connect({ path });
  await client.enter(channel);
  await server.pusher.trigger(channel, "e", { clear: "text" });
  const seen = await client.next("e");
  await leave(server, client);
  await using back = await server.connect({ path });
  await back.enter(channel);
  assertEquals(await back.next("e"), seen);
});

eachBackplane(
  "a cache channel gives each event once, and no miss, to who comes back",
  async (start) => {
    await using server = start();
    const path = newPath();
    await using client = await server.connect({ path });
    await client.enter("cache-a");
    await client.next(MISS);
    await leave(server, client);
    await publish(server, "cache-a", 1, 2);
    await using back = await server.connect({ path });
    await back.enter("cache-a");
    assertEquals(await rest(back), [1, 2]);
    await back.acknowledge();
    await back.framesUntilPong();
    await leave(server, back);
    // Nothing was missed now: to be told the last event again does no harm.
    const again = await missed(server, { path }, "cache-a") ?? [];
    assertEquals(again.filter((number) => number !== 2), []);
    assertLessOrEqual(again.length, 1);
  },
);

eachBackplane(
  "a user's events are replayed after the sign-in, to that user only",
  async (start) => {
    await using server = start();
    const path = newPath();
    const toUser = (n: number) => server.pusher.sendToUser("7", "n", n);
    await using client = await server.connect({ path });
    await client.signIn({ id: "7" });
    await toUser(1);
    await take(client, 1);
    await leave(server, client);
    await toUser(2);
    await using back = await server.connect({ path });
    await back.silence();
    await back.signIn({ id: "7" });
    assertEquals(await rest(back), [1, 2]);
    await toUser(3);
    await take(back, 3);
    await back.acknowledge();
    await back.framesUntilPong();
    await leave(server, back);
    await toUser(4);
    await using other = await server.connect({ path });
    await other.signIn({ id: "8" });
    assertEquals(await rest(other), []);
  },
);

eachBackplane(
  "what left a session out is not replayed to it",
  async (start) => {
    await using server = start({ clientEvents: true });
    const path = newPath();
    const channel = "private-a";
    await using client = await server.connect({ path });
    await using bob = await server.connect({ path: newPath() });
    await client.enter(channel);
    await bob.enter(channel);
    const own = { socket_id: client.socketId };
    await publish(server, channel, 1);
    client.send({ event: "client-own", channel });
    await server.journal.next("client_event");
    await server.pusher.trigger(channel, "own", 1, own);
    await take(client, 1);
    await leave(server, client);
    await server.pusher.trigger(channel, "own", 2, own);
    await publish(server, channel, 2);
    for (let round = 0; round < 3; round++) {
      assertEquals(await missed(server, { path }, channel), [1, 2]);
    }
    const events = (await frames(bob)).map(({ event }) => event);
    assertEquals(events, ["n", "client-own", "own", "own", "n"]);
  },
);

// ---- Two connections of one session -----------------------------------------

eachBackplane(
  "a second connection takes the session over, and the first one stays",
  async (start) => {
    await using server = start();
    const path = newPath();
    await using first = await server.connect({ path });
    await first.enter("news");
    await publish(server, "news", 1);
    await take(first, 1);

    await using second = await server.connect({ path });
    const pingsBefore = pingsOf(first);
    await second.enter("news");
    assertEquals(await rest(second), [1]);
    await publish(server, "news", 2);
    await take(first, 2);
    await take(second, 2);
    // What the first one says and does is no word of the session any more.
    for (let i = 0; i < 3; i++) first.pong();
    await second.next(PING);
    assertEquals(await rest(first), []);
    assertLessOrEqual(pingsOf(first), pingsBefore + 1);
    first.unsubscribe("news");
    await first.framesUntilPong();
    await leave(server, second);

    await using third = await server.connect({ path });
    await third.enter("news");
    assertEquals(await rest(third), [1, 2]);
    await third.acknowledge();
    await third.framesUntilPong();
    await first.enter("news");
    await leave(server, first);
    await publish(server, "news", 3);
    await take(third, 3);
    await leave(server, third);
    assertEquals(await missed(server, { path }), [3]);
  },
);

eachBackplane(
  "what an earlier connection caused is not replayed, though that one is still there",
  async (start) => {
    await using server = start({ clientEvents: true });
    const path = newPath();
    const channel = "private-a";
    // As when a network fails without a word: the server has not noticed.
    await using first = await server.connect({ path });
    await first.enter(channel);
    await publish(server, channel, 1);
    first.send({ event: "client-own", channel });
    await server.journal.next("client_event");
    const own = { socket_id: first.socketId };
    await server.pusher.trigger(channel, "own", 1, own);
    await using second = await server.connect({ path });
    await second.enter(channel);
    assertEquals(await rest(second), [1]);
    await leave(server, second);
    await leave(server, first);
    assertEquals(await missed(server, { path }, channel), [1]);
  },
);

eachBackplane(
  "what an earlier connection causes later does not come to the client either",
  async (start) => {
    await using server = start({ clientEvents: true });
    const path = newPath();
    const channel = "private-a";
    await using other = await server.connect();
    await other.enter(channel);
    await using first = await server.connect({ path });
    await first.enter(channel);
    await using second = await server.connect({ path });
    await second.enter(channel);
    // It has been on its way for longer than the client has waited.
    first.send({ event: "client-own", channel });
    await server.journal.next("client_event");
    const own = { socket_id: first.socketId };
    await server.pusher.trigger(channel, "own", 1, own);
    await publish(server, channel, 1);
    assertEquals(await rest(second), [1]);
    assertEquals((await other.next()).event, "client-own");
    assertEquals((await other.next()).event, "own");
  },
);

eachBackplane(
  "what a connection caused that was cut before it subscribed does not come to the client",
  async (start) => {
    await using server = start();
    const path = newPath();
    await visit(server, { path });
    const own: string[] = [];
    for (let i = 0; i < 2; i++) {
      await using cut = await server.connect({ path });
      own.push(cut.socketId);
      await leave(server, cut);
    }
    for (const socketId of own) {
      await server.pusher.trigger("news", "own", 1, { socket_id: socketId });
    }
    await publish(server, "news", 2);
    await using back = await server.connect({ path });
    await back.enter("news");
    assertEquals(await rest(back), [2]);
    for (const socketId of own) {
      await server.pusher.trigger("news", "own", 3, { socket_id: socketId });
    }
    await publish(server, "news", 4);
    await take(back, 4);
  },
);

// ---- Bounds -----------------------------------------------------------------

eachBackplane(
  "a session is told again of a gap until it has answered a ping after it",
  async (start) => {
    await using server = start({ history: { events: 2 } });
    const path = newPath();
    await visit(server, { path });
    await publish(server, "news", 1, 5);
    for (let i = 0; i < 2; i++) {
      await using back = await server.connect({ path });
      await back.enter("news");
      await back.next(FAILED);
    }
    await using back = await server.connect({ path });
    await back.enter("news");
    await back.next(FAILED);
    await back.next("pusher:ping");
    back.pong();
    await back.framesUntilPong();
    await leave(server, back);
    assertEquals(await missed(server, { path }), []);
  },
);

eachBackplane(
  "a session is told when the log does not reach back",
  async (start) => {
    await using server = start({ history: { events: 5 } });
    const path = newPath();
    await visit(server, { path });
    await publish(server, "news", 1, 5);
    assertEquals(await missed(server, { path }), range(1, 5));
    await publish(server, "news", 6);
    await using back = await server.connect({ path });
    await back.enter("news");
    const data = JSON.stringify({ channel: "news" });
    assertEquals(await back.next(FAILED), {
      event: FAILED,
      channel: "news",
      data,
    });
    assertEquals(await rest(back), []);
    await back.next("pusher:ping");
    back.pong();
    await back.framesUntilPong();
    await publish(server, "news", 7);
    await take(back, 7);
    await leave(server, back);
    // It has heard of it; from there on it can come back again.
    assertEquals(await missed(server, { path }), [7]);
  },
);

for (const goesOnEarly of [false, true]) {
  Deno.test(
    `a session never gets late what it has lost${
      goesOnEarly ? ", where something is said yet of the last" : ""
    }`,
    async () => {
      const backplane = new FaultyMemory().connect();
      await using server = serve({ backplane });
      const path = newPath();
      await using client = await server.connect({ path });
      await client.enter("news");
      await publish(server, "news", 1);
      await take(client, 1);
      backplane.deafen();
      await publish(server, "news", 2);
      backplane.hear(goesOnEarly);
      await client.upTo(FAILED);
      await client.next(PING);
      client.pong();
      await publish(server, "news", 3);
      await take(client, 3);
      await leave(server, client);
      // It has not said that it has got 3.
      assertEquals(await missed(server, { path }), [3]);
    },
  );
}

eachBackplane(
  "a session is told when its user's log does not reach back",
  async (start) => {
    await using server = start({ history: { events: 2 } });
    const path = newPath();
    await using client = await server.connect({ path });
    await client.signIn({ id: "7" });
    await leave(server, client);
    for (const n of range(1, 3)) await server.pusher.sendToUser("7", "n", n);
    await using back = await server.connect({ path });
    await back.signIn({ id: "7" });
    const { channel } = await back.next(FAILED);
    assertEquals(channel, "#server-to-user-7");
    assertEquals(await rest(back), []);
  },
);

Deno.test("a session that was away for longer than history.ageMs is told on its channels", async () => {
  using time = new FakeTime();
  await using server = serve({ ...PATIENT, history: { ageMs: 60_000 } });
  const path = newPath();
  await visit(server, { path });
  time.tick(59_000);
  assertEquals(await missed(server, { path }), []);
  time.tick(61_000);
  await using back = await server.connect({ path });
  for (const channel of ["news", "other"]) {
    await back.enter(channel);
    assertEquals((await frames(back)).map(({ event }) => event), [FAILED]);
  }
  // What it comes to much later it cannot have missed.
  time.tick(3_600_000);
  await back.framesUntilPong();
  back.pong();
  await back.enter("later");
  assertEquals(await rest(back), []);
  // A new session has missed nothing.
  assertEquals(await missed(server, { path: newPath() }), []);
});

Deno.test("a session does not grow old while it is there", async () => {
  using time = new FakeTime();
  await using server = serve({ ...PATIENT, history: { ageMs: 60_000 } });
  const path = newPath();
  await using client = await server.connect({ path });
  await client.enter("news");
  for (let minute = 0; minute < 10; minute++) {
    time.tick(60_000);
    await client.framesUntilPong();
    client.pong();
  }
  await leave(server, client);
  await publish(server, "news", 1);
  assertEquals(await missed(server, { path }), [1]);
});

eachBackplane(
  "history.sessions bounds how many are kept that are away",
  async (start) => {
    await using server = start({ history: { sessions: 2 } });
    const paths = range(1, 3).map(newPath) as [string, string, string];
    const [a, b, c] = paths;
    // Those that are there do not count.
    const clients = [];
    for (const path of [...paths, newPath(), newPath()]) {
      const client = await server.connect({ path });
      await client.enter("news");
      clients.push(client);
    }
    for (const client of clients.slice(0, 2)) await leave(server, client);
    await publish(server, "news", 1);
    assertEquals(await missed(server, { path: a }), [1]);
    assertEquals(await missed(server, { path: b }), [1]);
    // One more, and the one that has been away for longest is forgotten.
    await leave(server, clients[2] as Client);
    assertEquals(await missed(server, { path: b }), [1]);
    assertEquals(await missed(server, { path: c }), [1]);
    assertEquals(await missed(server, { path: a }), null);
    assertEquals(await missed(server, { path: newPath() }), []);
    await Promise.all(clients.map((client) => client.close()));
  },
);

Deno.test("a session that is not worth keeping takes no place", async () => {
  await using server = serve({ history: { sessions: 1 } });
  const path = newPath();
  await visit(server, { path });
  await publish(server, "news", 1);
  // Refused ones have never been a session.
  const query = "?protocol=3";
  for (let i = 0; i < 3; i++) await server.turnsAway({ path, query });
  for (let i = 0; i < 3; i++) {
    await server.turnsAway({ path: newPath(), query });
  }
  // One that was on no channel has nothing to come back for.
  await using empty = await server.connect({ path: newPath() });
  await leave(server, empty);
  assertEquals(await missed(server, { path }), [1]);
});

eachBackplane("sessions are those of an app", async (start) => {
  const [a, b] = TWO_APPS;
  await using server = start({ apps: TWO_APPS });
  const path = newPath();
  const publishTo = (id: string, from: number, to: number) =>
    publish({ pusher: server.pusher.app(id) }, "news", from, to);
  await using ofA = await server.connect({ path, app: a });
  await ofA.enter("news");
  await using ofB = await server.connect({ path, app: b });
  await ofB.enter("news");
  // Either is tracked, and what one acknowledges the other has not.
  await publishTo("a", 1, 3);
  await publishTo("b", 11, 13);
  await take(ofA, 1, 3);
  await take(ofB, 11, 13);
  await ofA.acknowledge();
  await ofA.framesUntilPong();
  await leave(server, ofA);
  await leave(server, ofB);
  await publishTo("a", 4, 4);
  await publishTo("b", 14, 14);
  for (let round = 0; round < 2; round++) {
    assertEquals(await missed(server, { path, app: a }), [4]);
    assertEquals(await missed(server, { path, app: b }), range(11, 14));
  }
});

// ---- Large replays ----------------------------------------------------------

eachBackplane(
  "a replay larger than limits.bufferedBytes reaches a session, cut or not",
  async (start) => {
    await using server = start({ limits: { bufferedBytes: 65_536 } });
    const path = newPath();
    await visit(server, { path });
    await publish(server, "news", 1, 400, 10_000);
    let next = 1;
    for (const answers of [false, true, true]) {
      await using back = await server.connect({ path });
      await back.enter("news");
      const first = numberOf(await back.next("n"));
      assertLessOrEqual(first, next);
      if (!answers) await take(back, 2, 50);
      for (let n = first + 1; answers && n < first + 100; n++) {
        await take(back, n);
        if (pingsOf(back) > 0) back.pong();
        next = n + 1;
      }
      await leave(server, back);
    }
    await using back = await server.connect({ path });
    await back.enter("news");
    const first = numberOf(await back.next("n"));
    assertLessOrEqual(first, next);
    await publish(server, "news", 401);
    await take(back, first + 1, 401);
    await back.acknowledge();
    await back.framesUntilPong();
    await leave(server, back);
    assertEquals(await missed(server, { path }), []);
  },
);

// ---- Other kinds of clients -------------------------------------------------

Deno.test("with history: false a session's path is as good as the plain one", async () => {
  using time = new FakeTime();
  await using server = serve({ ...PATIENT, history: false });
  const path = newPath();
  await using client = await server.connect({ path });
  await client.enter("news");
  await publish(server, "news", 1);
  await take(client, 1);
  for (let i = 0; i < 10; i++) {
    time.tick(1_000);
    await client.framesUntilPong();
  }
  assertEquals(pingsOf(client), 0);
  client.pong();
  await leave(server, client);
  await publish(server, "news", 2);
  assertEquals(await missed(server, { path }), []);
});

Deno.test("a client that recovers by itself is no session, whatever its path", async () => {
  using time = new FakeTime();
  await using server = serve(PATIENT);
  const path = newPath();
  const query = "?protocol=7&recover=1";
  await using client = await server.connect({ path, query });
  const { position } = await client.enter("news");
  await publish(server, "news", 1);
  await take(client, 1);
  for (let i = 0; i < 10; i++) {
    time.tick(1_000);
    await client.framesUntilPong();
  }
  assertEquals(pingsOf(client), 0);
  await leave(server, client);
  await using back = await server.connect({ path, query });
  await back.enter("news");
  await back.silence();
  await leave(server, back);
  await using again = await server.connect({ path, query });
  await again.enter("news", { recover: position });
  assertEquals(await rest(again), [1]);
  await leave(server, again);
  // There is no session of that id, so there is none to be replayed.
  assertEquals(await missed(server, { path }), []);
});

eachBackplane("a session may take batches", async (start) => {
  await using server = start();
  const init = { path: newPath(), query: "?protocol=7&batch=1" };
  await using client = await server.connect(init);
  await client.enter("news");
  await publish(server, "news", 1, 20);
  await take(client, 1, 20);
  await client.acknowledge();
  await client.framesUntilPong();
  await publish(server, "news", 21, 40);
  await take(client, 21, 40);
  await leave(server, client);
  assertEquals(await missed(server, init), range(21, 40));
});

// ---- Secrecy ----------------------------------------------------------------

Deno.test("the id of a session is told to nobody", async () => {
  const written: unknown[][] = [];
  const real = { ...console };
  for (const level of ["log", "info", "warn", "error", "debug"] as const) {
    console[level] = (...given: unknown[]) => void written.push(given);
  }
  const texts: string[] = [];
  const path = newPath();
  const id = path.slice(3);
  try {
    const backplane = new SlowBackplane();
    await using server = serve({ backplane, clientEvents: true });
    const { pusher, journal } = server;
    await using bob = await server.connect();
    await bob.join("private-a");
    await using client = await server.connect({ path });
    await client.enter("private-a");
    await client.enter("presence-a", { member: { user_id: "7" } });
    await client.signIn({ id: "7", watchlist: ["8"] });
    client.send({ event: "client-x", channel: "private-a" });
    client.send("nonsense");
    await client.framesUntilPong();
    await publish(server, "private-a", 1, 3);
    backplane.turn = (method) =>
      method === "join"
        ? Promise.reject(new Error("join is down"))
        : Promise.resolve();
    await client.framesUntilPong();
    assertEquals(await client.refused("news"), "ServerError 500");
    await using second = await server.connect({ path });
    await second.framesUntilPong();
    for (const query of ["?protocol=3", "?protocol=abc"]) {
      await using refused = server.dial({ path, query });
      texts.push(JSON.stringify(await refused.turnedAway()), ...refused.texts);
    }
    for (const route of ["/app/app-key", "/app/nobody", "/nothing", ""]) {
      const response = await fetch(server.url + path + route);
      texts.push(JSON.stringify([...response.headers]), await response.text());
    }
    const { body } = await server.api("GET", "/channels");
    texts.push(JSON.stringify(body), JSON.stringify(await pusher.channels()));
    await client.framesUntilPong();
    await leave(server, client);
    await bob.framesUntilPong();
    texts.push(...bob.texts, ...client.texts, ...second.texts);
    const errors = journal.drain("error");
    assertNotEquals(errors, []);
    texts.push(Deno.inspect(errors, { depth: 10 }));
    texts.push(Deno.inspect(journal.entries, { depth: 10 }));
  } finally {
    Object.assign(console, real);
  }
  texts.push(Deno.inspect(written, { depth: 10 }));
  assertGreater(texts.length, 20);
  for (const text of texts) assert(!text.includes(id), text);
});
