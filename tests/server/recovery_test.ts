/**
 * Recovery, as a client on the wire sees it: what the client asks for, which
 * positions it gets, which messages it gets when it reconnects, and the event that
 * says when messages cannot be recovered. A plain client must see the same as from
 * a server without a history.
 */
import type { Encryption, PusherOptions } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertGreater,
  assertLessOrEqual,
  assertNotEquals,
} from "@std/assert";
import { lateJoin, SlowBackplane } from "../support/backplanes.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { Random } from "../support/random.ts";
import {
  BATCH,
  BOTH,
  failure,
  missed,
  names,
  PLAIN,
  publish,
  range,
  RECOVER,
  recoveryTest,
  rest,
  rewound,
  take,
  visit,
} from "../support/recovering.ts";
import {
  APP,
  type Client,
  type ConnectInit,
  serveInMemory,
  type TestServer,
} from "../support/server.ts";
import { channelAuth, dataOf, type Position } from "../support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const FAILED = "pusher:recovery_failed";
const ADDED = "pusher_internal:member_added";
const MISS = "pusher:cache_miss";

// ---- Asking -----------------------------------------------------------------

Deno.test("connection_established names the extensions that were asked for and are there", async () => {
  const authorize = () => true;
  const none = undefined;
  for (
    const [query, options, granted] of [
      ["?protocol=7", {}, none],
      ["?protocol=7", { authorize }, none],
      ["?protocol=7&client=js&version=8.6.0&flash=false", { authorize }, none],
      ["?protocol=7&client=glitz", { authorize }, none],
      ["?protocol=7&batch=0&recover=0", {}, none],
      ["?protocol=7&batch&recover=", {}, none],
      ["?protocol=7&was=1.1,2.2", {}, none],
      [BATCH, {}, ["batch"]],
      [RECOVER, {}, ["recover"]],
      [BOTH, {}, ["batch", "recover"]],
      [BOTH, { authorize }, ["/pusher/auth", "auth", "batch", "recover"]],
      [BATCH, { authorize }, ["/pusher/auth", "auth", "batch"]],
      [BOTH, { history: {} }, ["batch", "recover"]],
      [BOTH, { history: false }, ["batch"]],
      [BOTH, { history: false, authorize }, ["/pusher/auth", "auth", "batch"]],
    ] satisfies [string, PusherOptions, string[] | undefined][]
  ) {
    const label = `${query} ${JSON.stringify(options)}`;
    await using server = serveInMemory(options);
    await using client = server.dial({ query });
    const { socket_id: _, activity_timeout, extensions, ...more } = dataOf(
      await client.established(),
    );
    assertEquals(extensions?.toSorted(), granted, label);
    assertEquals([activity_timeout, more], [120, {}], label);
  }
});

Deno.test("extensions say whether the auth endpoints answer the client's page", async () => {
  const authorize = () => true;
  const authenticate = () => null;
  const both = ["/pusher/auth", "/pusher/user-auth"];
  const listed = "https://listed.example";
  for (
    const [origin, options, granted] of [
      [undefined, {}, both],
      ["own", {}, both],
      ["own", { origins: listed }, both],
      ["https://other.example", {}, []],
      ["https://other.example", { origins: "*" }, both],
      // Only these answers may be read by a page that sends cookies.
      [listed, { origins: listed }, [...both, "credentials"]],
      [listed, { origins: [listed, "*"] }, [...both, "credentials"]],
    ] satisfies [string | undefined, PusherOptions, string[]][]
  ) {
    await using server = serveInMemory({ authorize, authenticate, ...options });
    const own = new URL(server.url).origin;
    const headers = origin && { origin: origin === "own" ? own : origin };
    await using client = server.dial({
      query: BATCH,
      ...headers && { headers },
    });
    const { extensions } = dataOf(await client.established());
    assertEquals(extensions, ["batch", "auth", ...granted], `${origin}`);
  }
});

Deno.test("a client that asks to recover where nothing is kept is served as a plain one", async () => {
  await using server = serveInMemory({ history: false });
  await using client = await server.connect({ query: RECOVER });
  const recover = { epoch: "e", offset: 0 };
  await client.enter("news", { recover, rewind: 5 });
  await publish(server, "news", 1);
  assertEquals(await client.framesUntilPong(), [
    { event: "n", channel: "news", data: "1 " },
  ]);
  await client.signIn({ id: "7" }, { recover });
  await client.silence();
});

/** All that a plain client is sent while another one is there. */
async function story(
  server: TestServer,
  other: ConnectInit,
): Promise<string[]> {
  await using plain = await server.connect();
  await using friend = await server.connect(other);
  const recover = { epoch: "e", offset: 0 };
  for (const channel of ["news", "cache-a", "private-a", "presence-a"]) {
    const memberOf = (user_id: string) =>
      channel.startsWith("presence-") ? { member: { user_id } } : {};
    await friend.enter(channel, memberOf("friend"));
    await friend.framesUntilPong();
    await publish(server, channel, 1, 3);
    // It may say so, but it has not asked to be one that recovers.
    const init = { ...memberOf("plain"), recover, rewind: 5 };
    await plain.enter(channel, init);
    await plain.framesUntilPong();
    await publish(server, channel, 4, 6);
    friend.send({ event: "client-x", channel, data: { channel } });
    for (const client of [friend, plain]) await client.framesUntilPong();
  }
  await plain.signIn({ id: "7" }, { recover });
  await server.pusher.sendToUser("7", "hello", { n: 1 });
  friend.unsubscribe("presence-a");
  friend.unsubscribe("news");
  await friend.framesUntilPong();
  await plain.framesUntilPong();
  return plain.texts.map((text) => text.replaceAll(plain.socketId, "SOCKET"));
}

Deno.test("a plain client is sent the same bytes whoever is beside it and whatever is kept", async () => {
  const options = { clientEvents: true, subscriptionCounts: true };
  await using old = serveInMemory({ ...options, history: false });
  const expected = await story(old, {});
  assertGreater(expected.length, 30);
  for (
    const other of [
      {},
      { query: RECOVER },
      { query: BOTH },
      { path: `/r/${crypto.randomUUID()}` },
    ]
  ) {
    await using server = serveInMemory(options);
    const label = JSON.stringify(other);
    assertEquals(await story(server, other), expected, label);
  }
});

// ---- Positions --------------------------------------------------------------

recoveryTest(
  "events of every kind carry offsets, other frames carry none",
  async ({ start, connect }) => {
    await using server = start({
      clientEvents: true,
      subscriptionCounts: true,
    });
    await using ann = await connect(server);
    await using bob = await connect(server);
    const channels = ["news", "private-a", "presence-a", "cache-a"];
    for (const client of [bob, ann]) {
      const user = { id: "7", watchlist: ["8"] };
      const { position, recovered } = await client.signIn(user);
      assert(position !== undefined);
      assertEquals(recovered, undefined);
      await client.framesUntilPong();
      for (const channel of channels) {
        const member = { user_id: client === ann ? "ann" : "bob" };
        const init = channel === "presence-a" ? { member } : {};
        client.requestSubscribe(channel, init);
        // Others are still being told how many they are.
        const frames = await client.framesUntilPong();
        const confirmation = frames.find(({ event }) => event === SUCCEEDED);
        assert(confirmation?.position !== undefined, channel);
        assertEquals(confirmation.recovered, undefined);
      }
    }
    // The harness has found fault with any frame that has no offset and should.
    const body = { name: "n", channels, data: "1" };
    await server.api("POST", "/events", { body });
    await server.pusher.trigger(channels, "n", 2);
    const batch = channels.map((channel) => ({
      channel,
      name: "n",
      data: "3",
    }));
    await server.api("POST", "/batch_events", { body: { batch } });
    await server.pusher.triggerBatch(
      channels.map((channel) => ({ channel, name: "n", data: 4 })),
    );
    for (const channel of ["private-a", "presence-a"]) {
      bob.send({ event: "client-n", channel, data: 5 });
    }
    await bob.framesUntilPong();
    await server.pusher.sendToUser("7", "hello", 1);
    const user = "#server-to-user-7";
    const toUser = { name: "hello", channel: user, data: "2" };
    await server.api("POST", "/events", { body: toUser });
    const frames = (await ann.framesUntilPong())
      .filter(({ event }) => !event.startsWith("pusher"));
    for (const channel of [...channels, user]) {
      const got = frames.filter((frame) => frame.channel === channel);
      const byClient = /^(private|presence)-/.test(channel) ? ["5"] : [];
      const expected = channel === user
        ? ["1", "2"]
        : ["1", "2", "3", "4", ...byClient];
      assertEquals(got.map(({ data }) => data), expected, channel);
      for (const { offset } of got) assertEquals(typeof offset, "number");
    }
    const own = frames.filter(({ event }) => event === "client-n");
    assertEquals(own.map(({ user_id }) => user_id), [undefined, "bob"]);
  },
);

recoveryTest(
  "offsets are those of the channel, the same for everybody",
  async ({ start, connect }) => {
    await using server = start();
    await using ann = await connect(server);
    await ann.enter("news");
    await publish(server, "news", 1, 3);
    await using bob = await connect(server);
    const { position } = await bob.enter("news");
    await publish(server, "news", 4, 6);
    const frames = await take(ann, 1, 6);
    assertEquals(await take(bob, 4, 6), frames.slice(3));
    assertEquals(position, {
      epoch: ann.positionOn("news").epoch,
      offset: frames[2]?.offset,
    });
  },
);

// ---- Coming back ------------------------------------------------------------

recoveryTest(
  "recover gives what was missed, in order and with the offsets it had",
  async ({ start, connect }) => {
    await using server = start();
    await using witness = await connect(server);
    await witness.enter("news");
    await using ann = await connect(server);
    await ann.enter("news");
    await publish(server, "news", 1, 2);
    await take(ann, 1, 2);
    const recover = ann.positionOn("news");
    await ann.close();
    await publish(server, "news", 3, 10);
    const all = await take(witness, 1, 10);

    await using back = await connect(server);
    const { position, recovered } = await back.enter("news", { recover });
    assertEquals([position, recovered], [recover, true]);
    assertEquals(await take(back, 3, 10), all.slice(2));
    await publish(server, "news", 11);
    await take(back, 11);
    await back.silence();
  },
);

recoveryTest(
  "recover says so when nothing was missed",
  async ({ start, connect }) => {
    await using server = start();
    await using ann = await connect(server);
    await ann.enter("news");
    await publish(server, "news", 1);
    await take(ann, 1);
    const recover = ann.positionOn("news");
    await ann.close();
    await using back = await connect(server);
    const { position, recovered } = await back.enter("news", { recover });
    assertEquals([position, recovered], [recover, true]);
    await back.silence();
  },
);

recoveryTest(
  "recover works time and again, from every position",
  async (lane) => {
    await using server = lane.start();
    const [start] = await visit(lane, server, "news") as [Position];
    await publish(server, "news", 1, 5);
    await using ann = await lane.connect(server);
    await ann.enter("news", { recover: start });
    const frames = await take(ann, 1, 5);
    await ann.close();
    const { epoch } = start;
    for (const [index, { offset = -1 }] of frames.entries()) {
      const expected = range(index + 2, 5);
      const recover = { epoch, offset };
      assertEquals(await missed(lane, server, "news", recover), expected);
    }
  },
);

recoveryTest(
  "what comes while a client joins comes once, after what it missed",
  async ({ start, connect }) => {
    await using server = start();
    let n = 0;
    let recover: Position | undefined;
    const seen: number[] = [];
    for (let round = 0; round < 20; round++) {
      await using client = await connect(server);
      const publishing = [
        publish(server, "news", ++n),
        publish(server, "news", ++n),
      ];
      client.requestSubscribe("news", recover && { recover });
      publishing.push(publish(server, "news", ++n));
      await Promise.all(publishing);
      const { recovered } = await client.next(SUCCEEDED);
      assertEquals(recovered, recover && true, `round ${round}`);
      seen.push(...await rest(client));
      recover = client.positionOn("news");
      await client.close();
      await publish(server, "news", ++n);
    }
    assertEquals(seen, range(seen[0] ?? 0, n - 1));
  },
);

Deno.test("what comes while a join is on its way comes once, after what was missed", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serveInMemory({ backplane });
  // The first join is the one that waits, so it has to be another's.
  await using first = await server.connect({ query: RECOVER });
  first.requestSubscribe("news");
  await joining();
  answer();
  await first.next(SUCCEEDED);
  const recover = first.positionOn("news");
  await publish(server, "news", 1, 2);
  await using back = await server.connect({ query: RECOVER });
  const late = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  backplane.turn = async (method, isAfter) => {
    if (method !== "join" || !isAfter) return;
    reached.resolve();
    await late.promise;
  };
  back.requestSubscribe("news", { recover });
  await within(DEADLINE_MS, "join", reached.promise);
  await publish(server, "news", 3, 4);
  late.resolve();
  assertEquals((await back.next(SUCCEEDED)).recovered, true);
  await take(back, 1, 4);
  await back.silence();
});

/** Positions that are none, or that the server has never had. */
function badPositions({ epoch, offset }: Position): unknown[] {
  return [
    { epoch: `${epoch}x`, offset },
    { epoch: epoch.slice(1), offset },
    { epoch: "", offset },
    { epoch: "__proto__", offset },
    { epoch: "x".repeat(60_000), offset },
    { epoch: 1, offset },
    { epoch: null, offset },
    { epoch: [epoch], offset },
    { epoch: { epoch }, offset },
    { offset },
    { epoch, offset: offset + 1 },
    { epoch, offset: Number.MAX_SAFE_INTEGER },
    { epoch, offset: 1e300 },
    { epoch, offset: -1 },
    { epoch, offset: offset - 0.5 },
    { epoch, offset: String(offset) },
    { epoch, offset: `${offset}x` },
    { epoch, offset: null },
    { epoch, offset: true },
    { epoch, offset: [offset] },
    { epoch, offset: {} },
    { epoch },
    {},
    [],
    [epoch, offset],
    "",
    `${epoch}:${offset}`,
    0,
    offset,
    true,
    false,
  ];
}

recoveryTest(
  "recover from what is no position of the channel fails, and no more than that",
  async ({ start, connect }) => {
    await using server = start();
    await using ann = await connect(server);
    await ann.enter("news");
    await publish(server, "news", 1, 3);
    await take(ann, 1, 3);
    const here = ann.positionOn("news");
    let n = 3;
    for (const index of badPositions(here).keys()) {
      const recover = badPositions(ann.positionOn("news"))[index];
      const label = JSON.stringify(recover).slice(0, 100);
      await using back = await connect(server);
      const { recovered, position } = await back.enter("news", { recover });
      const { offset } = ann.positionOn("news");
      assertEquals(recovered, false, label);
      assertEquals(position, { epoch: here.epoch, offset }, label);
      await failure(back, "news");
      await back.silence();
      await publish(server, "news", ++n);
      await take(ann, n);
      await take(back, n);
      await back.silence();
    }
  },
);

Deno.test("recover that is null asks for nothing", async () => {
  await using server = serveInMemory();
  await using client = await server.connect({ query: RECOVER });
  const { recovered } = await client.enter("news", { recover: null });
  assertNotEquals(recovered, true);
  if (recovered === false) await failure(client, "news");
  await publish(server, "news", 1);
  await take(client, 1);
});

recoveryTest(
  "sign-in from what is no position of the user fails, and no more than that",
  async ({ start, connect }) => {
    await using server = start();
    await using ann = await connect(server);
    await ann.signIn({ id: "7" });
    await server.pusher.sendToUser("7", "n", 1);
    await take(ann, 1);
    const here = ann.positionOn("#server-to-user-7");
    for (const recover of badPositions(here)) {
      await using back = await connect(server);
      const { recovered } = await back.signIn({ id: "7" }, { recover });
      assertEquals(recovered, false, JSON.stringify(recover).slice(0, 100));
      await failure(back, "#server-to-user-7");
      await back.silence();
    }
  },
);

recoveryTest(
  "a position of another server is told to be of no use",
  async (lane) => {
    const [away] = await (async () => {
      await using old = lane.start();
      return await visit(lane, old, "news");
    })() as [Position];
    await using server = lane.start();
    await visit(lane, server, "news");
    await publish(server, "news", 1, 3);
    assertEquals(await missed(lane, server, "news", away), null);
  },
);

// ---- Rewind -----------------------------------------------------------------

recoveryTest(
  "rewind gives the last events, as many as are wanted and there",
  async (lane) => {
    await using server = lane.start();
    await visit(lane, server, "news");
    assertEquals(await rewound(lane, server, "news", 3), []);
    await publish(server, "news", 1, 5);
    for (
      const [rewind, count] of [
        [0, 0],
        [1, 1],
        [4, 4],
        [5, 5],
        [6, 5],
        [1e9, 5],
        [Number.MAX_SAFE_INTEGER, 5],
        [1e300, undefined],
        [-1, 0],
        [-1e300, 0],
        [1.5, undefined],
        ["3", undefined],
        ["", undefined],
        [null, 0],
        [true, undefined],
        [[2], undefined],
        [{}, undefined],
      ] as const
    ) {
      const numbers = await rewound(lane, server, "news", rewind);
      // What is no number may count for nothing or be taken for one.
      const from = 6 - (count ?? numbers.length);
      assertEquals(numbers, range(from, 5), JSON.stringify(rewind));
    }
  },
);

recoveryTest(
  "rewind gives the last limits.rewindEvents at most, and recovery all that was missed",
  async (lane) => {
    await using server = lane.start({ limits: { rewindEvents: 3 } });
    const [recover] = await visit(lane, server, "news") as [Position];
    await publish(server, "news", 1, 9);
    assertEquals(await rewound(lane, server, "news", 2), [8, 9]);
    assertEquals(await rewound(lane, server, "news", 3), [7, 8, 9]);
    assertEquals(await rewound(lane, server, "news", 4), [7, 8, 9]);
    assertEquals(await rewound(lane, server, "news", 1e15), [7, 8, 9]);
    assertEquals(await missed(lane, server, "news", recover), range(1, 9));
  },
);

Deno.test("rewind by more than a number can say does no harm", async () => {
  await using server = serveInMemory();
  await visit(PLAIN, server, "news");
  await publish(server, "news", 1, 5);
  await using client = await server.connect({ query: RECOVER });
  for (const rewind of ["1e400", "-1e400", "-0"]) {
    client.send(
      `{"event":"pusher:subscribe","data":{"channel":"news","rewind":${rewind}}}`,
    );
    await client.next(SUCCEEDED);
    assertLessOrEqual((await rest(client)).length, 5);
    client.unsubscribe("news");
  }
});

recoveryTest(
  "rewound events are followed by live ones, and can be recovered from",
  async (lane) => {
    await using server = lane.start();
    await visit(lane, server, "news");
    await publish(server, "news", 1, 5);
    await using late = await lane.connect(server);
    await late.enter("news", { rewind: 2 });
    await take(late, 4, 5);
    await publish(server, "news", 6);
    await take(late, 6);
    const recover = late.positionOn("news");
    await late.close();
    await publish(server, "news", 7);
    assertEquals(await missed(lane, server, "news", recover), [7]);
  },
);

recoveryTest(
  "rewind is for when there is nothing to recover from",
  async (lane) => {
    await using server = lane.start();
    await using ann = await lane.connect(server);
    await ann.enter("news");
    await publish(server, "news", 1, 5);
    await take(ann, 1, 5);
    const recover = ann.positionOn("news");
    await ann.close();
    await publish(server, "news", 6);

    await using back = await lane.connect(server);
    assertEquals(
      (await back.enter("news", { recover, rewind: 4 })).recovered,
      true,
    );
    assertEquals(await rest(back), [6]);

    await using lost = await lane.connect(server);
    const bad = { ...recover, epoch: "gone" };
    const { recovered } = await lost.enter("news", { recover: bad, rewind: 4 });
    assertEquals(recovered, false);
    await failure(lost, "news");
    assertEquals(await rest(lost), range(3, 6));
    await publish(server, "news", 7);
    await take(lost, 7);
  },
);

// ---- Private and presence channels ------------------------------------------

recoveryTest(
  "nothing is replayed without a signature for the new socket",
  async ({ start, connect }) => {
    await using server = start();
    for (const channel of ["private-a", "private-encrypted-a", "presence-a"]) {
      const member = channel.startsWith("presence-")
        ? { user_id: "ann" }
        : null;
      const init = member ? { member } : {};
      await using ann = await connect(server);
      await ann.enter(channel, init);
      const recover = ann.positionOn(channel);
      const data = member ? JSON.stringify(member) : undefined;
      const old = channelAuth(APP, ann.socketId, channel, data);
      await ann.close();
      await server.pusher.trigger("news", "n", 0);
      const body = { name: "n", channel, data: "1" };
      await server.api("POST", "/events", { body });
      await using back = await connect(server, { was: [ann.socketId] });
      const wrong = [
        old,
        null,
        "",
        channelAuth(APP, back.socketId, "private-b", data),
      ];
      for (const auth of wrong) {
        const asked = { ...init, auth, recover, rewind: 10 };
        assertEquals(await back.refused(channel, asked), "AuthError 401");
        await back.silence();
      }
      const { recovered } = await back.enter(channel, { ...init, recover });
      assertEquals(recovered, true);
      await take(back, 1);
      await back.silence();
    }
  },
);

recoveryTest(
  "members who come and go are not replayed, the list is fresh",
  async ({ start, connect }) => {
    await using server = start();
    const channel = "presence-a";
    const as = (user_id: string) => ({ member: { user_id } });
    await using ann = await connect(server);
    await ann.enter(channel, as("ann"));
    await using bob = await connect(server);
    await bob.enter(channel, as("bob"));
    await ann.next(ADDED);
    const recover = ann.positionOn(channel);
    await ann.close();
    await using carl = await connect(server);
    await carl.enter(channel, as("carl"));
    await publish(server, channel, 1);
    bob.unsubscribe(channel);
    await bob.framesUntilPong();
    await publish(server, channel, 2);
    await carl.framesUntilPong();

    await using back = await connect(server);
    const frame = await back.enter(channel, { ...as("ann"), recover });
    assertEquals(frame.recovered, true);
    assertEquals(dataOf(frame).presence.ids.toSorted(), ["ann", "carl"]);
    assertEquals(await rest(back), [1, 2]);
    assertEquals(await names(carl), [ADDED]);
  },
);

recoveryTest(
  "encrypted events are replayed as they were",
  async ({ start, connect }) => {
    let n = 0;
    const encryption: Encryption = {
      encrypt: (_channel, json) =>
        JSON.stringify({ nonce: btoa(`${++n}`), ciphertext: btoa(json) }),
      sharedSecret: () => btoa("secret"),
    };
    await using server = start({ encryption });
    const channel = "private-encrypted-a";
    await using witness = await connect(server);
    await witness.enter(channel);
    const recover = witness.positionOn(channel);
    await server.pusher.trigger(channel, "e", { clear: "text" });
    const seen = await witness.next("e");
    assert(!String(seen.data).includes("clear"));
    await using back = await connect(server);
    await back.enter(channel, { recover });
    assertEquals(await back.next("e"), seen);
    assertEquals(n, 1);
  },
);

// ---- Who is left out --------------------------------------------------------

recoveryTest(
  "what an earlier connection causes later does not come to the client either",
  async ({ start, connect }) => {
    await using server = start({ clientEvents: true });
    const channel = "private-a";
    await using first = await connect(server);
    await first.enter(channel);
    await using second = await connect(server, { was: [first.socketId] });
    await second.enter(channel);
    first.send({ event: "client-own", channel });
    await server.journal.next("client_event");
    await server.pusher.trigger(channel, "all", 1);
    assertEquals(await names(second), ["all"]);
  },
);

recoveryTest(
  "what leaves a client out before it subscribes is not replayed to it",
  async ({ start, connect }) => {
    await using server = start();
    await using first = await connect(server);
    await first.enter("news");
    const recover = first.positionOn("news");
    await using second = await connect(server, { was: [first.socketId] });
    const own = { socket_id: second.socketId };
    await server.pusher.trigger("news", "own", 1, own);
    await server.pusher.trigger("news", "all", 1);
    await second.enter("news", { recover });
    assertEquals(await names(second), ["all"]);
  },
);

/** Publishes events, each of which leaves somebody out. */
async function exclude(
  server: TestServer,
  ann: Client,
  bob: Client,
): Promise<void> {
  const { pusher } = server;
  const channel = "private-a";
  ann.send({ event: "client-by-ann", channel });
  await server.journal.next("client_event");
  const [byAnn, byBob] = [ann, bob].map(({ socketId }) => ({
    socket_id: socketId,
  }));
  await pusher.trigger(channel, "not-ann", 1, byAnn);
  await pusher.trigger(channel, "not-bob", 1, byBob);
  await pusher.trigger(channel, "not-nobody", 1, { socket_id: "99.99" });
  await pusher.trigger(channel, "all", 1);
}

recoveryTest(
  "what left a client out is not replayed to it, but to all others",
  async ({ start, connect }) => {
    await using server = start({ clientEvents: true });
    const channel = "private-a";
    await using ann = await connect(server);
    await using bob = await connect(server);
    await ann.enter(channel);
    await bob.enter(channel);
    const recover = ann.positionOn(channel);
    await exclude(server, ann, bob);
    const forAnn = ["not-bob", "not-nobody", "all"];
    const forBob = ["client-by-ann", "not-ann", "not-nobody", "all"];
    const forAll = forBob.toSpliced(2, 0, "not-bob");
    assertEquals(await names(ann), forAnn);
    assertEquals(await names(bob), forBob);
    const others = range(1, 9).map((n) => `${n}.${n}`);
    for (
      const [was, expected] of [
        [[ann.socketId], forAnn],
        [[bob.socketId], forBob],
        [[...others, ann.socketId], forAnn],
        [[ann.socketId, bob.socketId], ["not-nobody", "all"]],
        [[], forAll],
      ] as const
    ) {
      for (const init of [{ recover }, { rewind: 100 }]) {
        await using back = await connect(server, { was: [...was] });
        await back.enter(channel, init);
        assertEquals(
          await names(back),
          expected,
          `${was} ${Object.keys(init)}`,
        );
      }
    }
    // Of whoever is gone it can be said, too.
    const gone = { socket_id: ann.socketId };
    await ann.close();
    await server.pusher.trigger(channel, "not-ann-again", 1, gone);
    await using back = await connect(server, { was: [ann.socketId] });
    await back.enter(channel, { recover });
    assertEquals(await names(back), forAnn);
  },
);

recoveryTest(
  "a position among events that left the client out is one to come back from",
  async ({ start, connect }) => {
    await using server = start();
    await using ann = await connect(server);
    await ann.enter("news");
    const mine = { socket_id: ann.socketId };
    await server.pusher.trigger("news", "own", 1, mine);
    await publish(server, "news", 1);
    await server.pusher.trigger("news", "own", 1, mine);
    await take(ann, 1);
    const recover = ann.positionOn("news");
    await ann.close();
    await publish(server, "news", 2);
    await using back = await connect(server, { was: [ann.socketId] });
    await back.enter("news", { recover });
    assertEquals(await rest(back), [2]);
  },
);

Deno.test("was that is nonsense does no harm", async () => {
  const lane = PLAIN;
  await using server = serveInMemory({ limits: { urlLength: 100_000 } });
  const [recover] = await visit(lane, server, "news") as [Position];
  await publish(server, "news", 1);
  for (
    const was of [
      "",
      ",",
      ",,,,",
      "abc",
      "1",
      "1.",
      ".1",
      "1.1,",
      "1.1;2.2",
      "%00",
      "%F0%9F%98%80",
      "__proto__,constructor",
      "-1.-1",
      "1.1,1.1,1.1",
      range(1, 11).map((n) => `${n}.${n}`).join(),
      range(1, 3_000).map((n) => `${n}.${n}`).join(),
      "1".repeat(20_000),
    ]
  ) {
    await using back = await server.connect({
      query: `${RECOVER}&was=${was}`,
    });
    const { recovered } = await back.enter("news", { recover });
    assertEquals(recovered, true, was.slice(0, 100));
    assertEquals(await rest(back), [1], was.slice(0, 100));
  }
});

// ---- Cache channels ---------------------------------------------------------

recoveryTest(
  "a cache channel that is recovered gives neither its last event again nor a miss",
  async ({ start, connect }) => {
    await using server = start();
    await using ann = await connect(server);
    await ann.enter("cache-a");
    await ann.next(MISS);
    const empty = ann.positionOn("cache-a");
    await using before = await connect(server);
    await before.enter("cache-a", { recover: empty });
    await before.silence();

    await publish(server, "cache-a", 1, 2);
    await take(ann, 1, 2);
    const here = ann.positionOn("cache-a");
    await using back = await connect(server);
    await back.enter("cache-a", { recover: empty });
    assertEquals(await rest(back), [1, 2]);
    await using same = await connect(server);
    assertEquals(
      (await same.enter("cache-a", { recover: here })).recovered,
      true,
    );
    await same.silence();
    assertEquals(server.journal.drain("cache_miss").length, 1);
  },
);

recoveryTest(
  "a cache channel that is not recovered gives its last event, once",
  async ({ start, connect }) => {
    await using server = start();
    await using ann = await connect(server);
    await ann.enter("cache-a");
    await ann.next(MISS);
    await publish(server, "cache-a", 1, 2);
    await take(ann, 1, 2);
    const recover = { ...ann.positionOn("cache-a"), epoch: "gone" };

    await using fresh = await connect(server);
    await fresh.enter("cache-a");
    assertEquals(await rest(fresh), [2]);
    await using lost = await connect(server);
    await lost.enter("cache-a", { recover });
    await failure(lost, "cache-a");
    assertEquals(await rest(lost), [2]);
    await using rewinding = await connect(server);
    await rewinding.enter("cache-a", { rewind: 5 });
    assertEquals(await rest(rewinding), [1, 2]);
    await publish(server, "cache-a", 3);
    for (const client of [fresh, lost, rewinding]) await take(client, 3);
  },
);

recoveryTest(
  "a cache channel that nobody has recovered on gives what it has all the same",
  async ({ start, connect }) => {
    await using server = start();
    await publish(server, "cache-a", 1, 2);
    await using client = await connect(server);
    await client.enter("cache-a", { rewind: 5 });
    assertEquals(await rest(client), [2]);
    await publish(server, "cache-a", 3);
    await take(client, 3);
  },
);

recoveryTest(
  "a cache channel gives its last event, though others are wanted first",
  async ({ start, connect }) => {
    await using server = start({ clientEvents: true });
    const channel = "private-cache-a";
    await using ann = await connect(server);
    await ann.enter(channel);
    await ann.next(MISS);
    await publish(server, channel, 1);
    await take(ann, 1);
    ann.send({ event: "client-x", channel, data: 1 });
    await server.journal.next("client_event");
    // Client events are no values, and the value is what the channel is for.
    await using late = await connect(server);
    await late.enter(channel, { rewind: 1 });
    assertEquals((await names(late)).toSorted(), ["client-x", "n"]);
    await using all = await connect(server);
    await all.enter(channel, { rewind: 5 });
    assertEquals(await names(all), ["n", "client-x"]);
  },
);

// ---- Users ------------------------------------------------------------------

recoveryTest(
  "sign-in recovers what the user was sent meanwhile",
  async ({ start, connect }) => {
    await using server = start();
    const channel = "#server-to-user-7";
    const toUser = (n: number) => server.pusher.sendToUser("7", "n", n);
    await using ann = await connect(server);
    await ann.signIn({ id: "7" });
    await toUser(1);
    await take(ann, 1);
    const recover = ann.positionOn(channel);
    await ann.close();
    await toUser(2);
    const body = { name: "n", channel, data: "3" };
    await server.api("POST", "/events", { body });
    await server.pusher.sendToUser("8", "n", 4);

    await using back = await connect(server);
    const frame = await back.signIn({ id: "7" }, { recover });
    assertEquals([frame.position, frame.recovered], [recover, true]);
    await take(back, 2, 3);
    await toUser(4);
    await take(back, 4);
    await back.silence();

    // Signing in again tells nothing twice.
    await back.signIn({ id: "7" }, { recover });
    await back.silence();
    await toUser(5);
    await take(back, 5);
    await back.silence();
  },
);

recoveryTest(
  "sign-in with a bad signature replays nothing",
  async ({ start, connect }) => {
    await using server = start();
    await using ann = await connect(server);
    await ann.signIn({ id: "7" });
    const recover = ann.positionOn("#server-to-user-7");
    await ann.close();
    await server.pusher.sendToUser("7", "n", 1);
    await using back = await connect(server);
    const data = { auth: "app-key:0", user_data: '{"id":"7"}', recover };
    back.send({ event: "pusher:signin", data });
    assertEquals(dataOf(await back.next("pusher:error")).code, 4009);
    await back.silence();
  },
);

// ---- Several subscriptions --------------------------------------------------

recoveryTest("a repeated subscription gives nothing twice", async (lane) => {
  await using server = lane.start();
  const [recover] = await visit(lane, server, "news") as [Position];
  await publish(server, "news", 1, 3);
  await using client = await lane.connect(server);
  await client.enter("news", { recover });
  await take(client, 1, 3);
  for (const init of [{}, { recover }, { rewind: 5 }]) {
    client.requestSubscribe("news", init);
    assertEquals(await names(client), [SUCCEEDED], JSON.stringify(init));
  }
  await publish(server, "news", 4);
  await take(client, 4);
  await client.silence();
});

recoveryTest(
  "unsubscribing and subscribing again recovers what came between",
  async ({ start, connect }) => {
    await using server = start();
    await using client = await connect(server);
    await client.enter("news");
    await publish(server, "news", 1);
    await take(client, 1);
    const recover = client.positionOn("news");
    client.unsubscribe("news");
    await client.silence();
    await publish(server, "news", 2, 3);
    const { recovered } = await client.enter("news", { recover });
    assertEquals(recovered, true);
    assertEquals(await rest(client), [2, 3]);
    client.unsubscribe("news");
    const anew = await client.enter("news");
    assertEquals(anew.recovered, undefined);
    assertEquals(anew.position, client.positionOn("news"));
    await client.silence();
  },
);

Deno.test("a subscription that fails can be asked for again, from the same position", async () => {
  const backplane = new SlowBackplane();
  await using server = serveInMemory({ backplane });
  const lane = PLAIN;
  const [recover] = await visit(lane, server, "news") as [Position];
  await publish(server, "news", 1, 2);
  await using back = await lane.connect(server);
  const { turn } = backplane;
  backplane.turn = (method) =>
    method === "join"
      ? Promise.reject(new Error("join is down"))
      : Promise.resolve();
  assertEquals(await back.refused("news", { recover }), "ServerError 500");
  await server.journal.next("error");
  backplane.turn = turn;
  await publish(server, "news", 3);
  await back.enter("news", { recover });
  assertEquals(await rest(back), [1, 2, 3]);
});

/** A client that comes and goes, and has its own account of what it has seen. */
class Follower {
  readonly #connect: (was: string[]) => Promise<Client>;
  #client: Client | undefined;
  #was: string[] = [];
  #read = 0;
  /** By channel, all numbers since it was subscribed to for the first time. */
  readonly seen = new Map<string, number[]>();
  readonly #positions = new Map<string, Position>();
  readonly #subscribed = new Set<string>();

  constructor(connect: (was: string[]) => Promise<Client>) {
    this.#connect = connect;
  }

  /** Takes notice of what has come. */
  read(): void {
    const frames = this.#client?.log.slice(this.#read) ?? [];
    this.#read += frames.length;
    for (const { event, channel = "", data, ...rest } of frames) {
      assertNotEquals(event, FAILED);
      const numbers = this.seen.get(channel);
      if (numbers === undefined) continue;
      const { position = this.#positions.get(channel) } = rest;
      if (position === undefined) continue;
      const { offset = position.offset } = rest;
      this.#positions.set(channel, { ...position, offset });
      if (event === "n") numbers.push(parseInt(String(data)));
    }
  }

  async connect(): Promise<Client> {
    if (this.#client !== undefined) return this.#client;
    this.#client = await this.#connect(this.#was);
    this.#subscribed.clear();
    this.#read = 0;
    for (const channel of this.seen.keys()) await this.subscribe(channel);
    return this.#client;
  }

  /** Comes to a channel, unless it is there. */
  async subscribe(channel: string): Promise<void> {
    const client = await this.connect();
    if (this.#subscribed.has(channel)) return;
    this.#subscribed.add(channel);
    if (!this.seen.has(channel)) this.seen.set(channel, []);
    const recover = this.#positions.get(channel);
    client.requestSubscribe(channel, recover && { recover });
  }

  /** Leaves a channel, and what is on the way is not its own any more. */
  async unsubscribe(channel: string): Promise<void> {
    const client = await this.connect();
    client.unsubscribe(channel);
    await client.framesUntilPong();
    this.read();
    this.#subscribed.delete(channel);
    this.seen.delete(channel);
    this.#positions.delete(channel);
  }

  async cut(): Promise<void> {
    await this.#client?.close();
    this.read();
    if (this.#client) this.#was = [this.#client.socketId, ...this.#was];
    this.#client = undefined;
  }
}

recoveryTest(
  "clients that come and go at random see everything once and in order",
  async ({ start, connect }) => {
    for (const seed of [1, 2, 3]) {
      const random = new Random(seed);
      await using server = start();
      const channels = ["a", "private-b", "cache-c"];
      const last = new Map(channels.map((channel) => [channel, 0]));
      const followers = range(1, 4).map(() =>
        new Follower((was) => connect(server, { was: was.slice(0, 10) }))
      );
      const publishing: Promise<void>[] = [];
      for (let step = 0; step < 300; step++) {
        const follower = followers[random.below(4)]!;
        const channel = channels[random.below(3)]!;
        const dice = random.below(20);
        if (dice < 11) {
          const n = (last.get(channel) ?? 0) + 1;
          last.set(channel, n);
          publishing.push(publish(server, channel, n));
        } else if (dice < 16) await follower.subscribe(channel);
        else if (dice < 17) await follower.unsubscribe(channel);
        else if (dice < 19) await follower.cut();
        else await Promise.all(publishing.splice(0));
      }
      await Promise.all(publishing);
      for (const follower of followers) {
        const client = await follower.connect();
        await client.framesUntilPong();
        follower.read();
        for (const [channel, numbers] of follower.seen) {
          // A cache channel begins with an event of before.
          const label = `seed ${seed}, ${channel}`;
          const to = last.get(channel) ?? 0;
          assertEquals(numbers, range(numbers[0] ?? to + 1, to), label);
        }
        await client.close();
      }
    }
  },
);
