/**
 * Webhooks against receivers on real sockets. Clients are in memory, so that what
 * they do has happened when the call returns.
 */
import { Pusher, type PusherOptions, type Transport } from "@glitz/pusher";
import {
  WebhookError,
  type WebhookFailure,
  type WebhookName,
  type WebhookOptions,
  type Webhooks,
  webhooks,
} from "@glitz/pusher/webhooks";
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
import StockServerSdk from "pusher";
import { clockOption, ManualClock } from "../tests/support/clock.ts";
import { DEADLINE_MS, within } from "../tests/support/deadline.ts";
import { Queue } from "../tests/support/queue.ts";
import { APP, inShort, Receiver } from "../tests/support/receiver.ts";

// Turns of the event loop are real where a test fakes time.
const { setTimeout: startTimer } = globalThis;

/** Lets everything run that is due in this turn of the event loop: hooks, say. */
function turn(): Promise<void> {
  return new Promise((next) => startTimer(next, 0));
}

/** A client in memory. */
class Client {
  readonly frames: { event: string; channel?: string; data?: string }[] = [];
  readonly socketId: string;
  readonly #pusher: Pusher;
  readonly #peer: ReturnType<Pusher["open"]>;

  constructor(pusher: Pusher, key = APP.key) {
    const transport: Transport = {
      bufferedAmount: 0,
      send: (frame) => void this.frames.push(JSON.parse(frame)),
      close: () => queueMicrotask(() => this.close()),
    };
    this.#pusher = pusher;
    const request = new Request(`http://localhost/app/${key}?protocol=7`);
    this.#peer = pusher.open(transport, key, request);
    this.socketId = JSON.parse(this.frames[0]?.data ?? "{}").socket_id;
  }

  send(event: string, data: unknown, channel?: string): void {
    this.#peer.receive(JSON.stringify({ event, channel, data }));
  }

  join(channel: string, user_id?: string | number): this {
    const member = user_id === undefined ? undefined : { user_id };
    const auth = /^(private|presence)-/.test(channel)
      ? this.#pusher.authorizeChannel(this.socketId, channel, member)
      : {};
    this.send("pusher:subscribe", { channel, ...auth });
    const succeeded = this.frames.some((frame) =>
      frame.event === "pusher_internal:subscription_succeeded" &&
      frame.channel === channel
    );
    assert(succeeded, JSON.stringify(this.frames));
    return this;
  }

  leave(channel: string): this {
    this.send("pusher:unsubscribe", { channel });
    return this;
  }

  close(): void {
    this.#peer.closed(1000);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** What {@linkcode setUp} takes besides what webhooks take. */
interface SetUp extends Partial<WebhookOptions> {
  pusher?: PusherOptions;
  /** Filters of the one endpoint. */
  events?: readonly WebhookName[];
  channelPrefix?: string;
  headers?: HeadersInit;
}

/** A server with webhooks for a receiver; what goes wrong is in `errors`. */
function setUp(url: string, { pusher: own, ...rest }: SetUp = {}) {
  const { events, channelPrefix, headers, ...options } = rest;
  const pusher = new Pusher({
    ...APP,
    ...clockOption(),
    clientEvents: true,
    ...own,
  });
  const errors = new Queue<WebhookError>();
  const hooks = webhooks(pusher, {
    key: APP.key,
    secret: APP.secret,
    endpoints: [{ url, events, channelPrefix, headers }],
    onError: errors.push,
    // One by one, so that each event can be awaited.
    batch: false,
    ...options,
  });
  return {
    pusher,
    hooks,
    errors,
    async [Symbol.asyncDispose]() {
      await within(DEADLINE_MS, "end of the server", pusher.close());
      await within(DEADLINE_MS, "end of webhooks", hooks.close());
    },
  };
}

/**
 * Moves time on, when all is delivered that can be: what is under way would be
 * taken for late.
 */
async function pass(
  { hooks }: ReturnType<typeof setUp>,
  time: FakeTime,
  ms: number,
): Promise<void> {
  do await turn(); while (hooks.status.some(({ queued }) => queued > 0));
  time.tick(ms);
}

/** Waits until so many events are left in the queues. */
async function untilQueued(hooks: Webhooks, count: number): Promise<void> {
  const left = () => hooks.status.reduce((sum, { queued }) => sum + queued, 0);
  for (let turns = 0; left() !== count; turns++) {
    assert(turns < DEADLINE_MS, `Queued are ${left()}, not ${count}`);
    await turn();
  }
}

const OCCUPANCY = ["channel_occupied", "channel_vacated"] as const;

/** Takes the next error and says what it is in short. */
async function failed(errors: Queue<WebhookError>): Promise<WebhookFailure> {
  const error = await errors.next("error");
  assert(error instanceof WebhookError);
  assertFalse(error.message.includes(APP.secret));
  return error.failure;
}

// ---- Bodies -----------------------------------------------------------------

Deno.test("webhooks sends client events as the program has changed them, and no others", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    events: ["client_event"],
    pusher: {
      clientEvents: async ({ data }) =>
        data === "rude" ? null : await { data: `${data}!` },
    },
  });
  using ann = new Client(server.pusher).join("presence-a", 10);
  for (const data of ["hello", "rude", "bye"]) {
    ann.send("client-x", data, "presence-a");
  }
  for (const data of ["hello!", "bye!"]) {
    const { events } = JSON.parse((await receiver.take()).rawBody);
    assertEquals(events, [{
      name: "client_event",
      channel: "presence-a",
      event: "client-x",
      data,
      socket_id: ann.socketId,
      user_id: "10",
    }]);
  }
});

Deno.test("webhooks sends each event as the protocol writes it", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    pusher: { subscriptionCounts: true },
  });
  const body = async () =>
    (await receiver.take()).rawBody
      .replace(/^\{"time_ms":\d{13},"events":(.*)\}$/, "$1");

  using ann = new Client(server.pusher).join("presence-a", 10);
  assertEquals(
    await body(),
    '[{"name":"channel_occupied","channel":"presence-a"}]',
  );
  assertEquals(
    await body(),
    '[{"name":"member_added","channel":"presence-a","user_id":"10"}]',
  );
  ann.send("client-x", { a: "ü" }, "presence-a");
  assertEquals(
    await body(),
    '[{"name":"client_event","channel":"presence-a","event":"client-x",' +
      `"data":"{\\"a\\":\\"ü\\"}","socket_id":"${ann.socketId}","user_id":"10"}]`,
  );
  ann.join("private-b");
  assertEquals(
    await body(),
    '[{"name":"channel_occupied","channel":"private-b"}]',
  );
  assertEquals(
    await body(),
    '[{"name":"subscription_count","channel":"private-b","subscription_count":1}]',
  );
  ann.send("client-y", undefined, "private-b");
  assertEquals(
    await body(),
    '[{"name":"client_event","channel":"private-b","event":"client-y",' +
      `"socket_id":"${ann.socketId}"}]`,
  );
  ann.join("cache-c");
  assertEquals(
    await body(),
    '[{"name":"channel_occupied","channel":"cache-c"}]',
  );
  assertEquals(
    [await body(), await body()].sort(),
    [
      '[{"name":"cache_miss","channel":"cache-c"}]',
      '[{"name":"subscription_count","channel":"cache-c","subscription_count":1}]',
    ],
  );
});

Deno.test("webhooks sends the protocol's headers and the endpoint's own", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    headers: { authorization: "Bearer 1", "x-tenant": "a" },
  });
  using client = new Client(server.pusher).join("one");
  const { headers, id } = await receiver.take();
  assertEquals(headers.get("content-type"), "application/json");
  assertEquals(headers.get("x-pusher-key"), APP.key);
  assertMatch(headers.get("x-pusher-signature") ?? "", /^[0-9a-f]{64}$/);
  assertMatch(id, /^[0-9a-f-]{36}$/);
  assertEquals(headers.get("authorization"), "Bearer 1");
  assertEquals(headers.get("x-tenant"), "a");
  client.join("two");
  assertNotEquals((await receiver.take()).id, id);
});

Deno.test("a lone surrogate in a client event is escaped, so that every verifier agrees", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { events: ["client_event"] });
  using client = new Client(server.pusher).join("private-a");
  client.send("client-\ud800", "\udc00", "private-a");
  const { rawBody, events } = await receiver.take();
  assert(rawBody.includes(String.raw`"client-\ud800"`), rawBody);
  assertEquals([events[0]?.event, events[0]?.data], [
    "client-\ud800",
    "\udc00",
  ]);
});

Deno.test("webhooks reproduces W1, byte for byte", async () => {
  using time = new FakeTime(1327078148132);
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { batch: true });
  using _client = new Client(server.pusher).join("presence-foobar", 10);
  await turn();
  time.tick(250);
  const { rawBody, headers } = await receiver.take();
  assertEquals(
    rawBody,
    '{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"presence-foobar"},{"name":"member_added","channel":"presence-foobar","user_id":"10"}]}',
  );
  assertEquals(
    headers.get("x-pusher-signature"),
    "25af8e638a8074c9d01c99baa709a42a5de62c3629a78a9fee6181a5b3873655",
  );
});

Deno.test("Pusher.webhook and the SDK accept W2, and not with another body", () => {
  const credentials = { key: "123456789", secret: "tofu" };
  const rawBody =
    '{"time_ms":1403175510755,"events":[{"channel":"test_channel","name":"channel_vacated"}]}';
  const headers = {
    "content-type": "application/json",
    "x-pusher-key": credentials.key,
    "x-pusher-signature":
      "c17257e92037cd7de407ebc1ed174ceb7b2e518db127f44411b9ffc4f5b28cc5",
  };
  const other = rawBody.replace("vacated", "occupied");
  for (
    const verifier of [
      new Pusher(credentials),
      new StockServerSdk({ ...credentials, appId: "1", cluster: "none" }),
    ]
  ) {
    assert(verifier.webhook({ headers, rawBody }).isValid());
    assertFalse(verifier.webhook({ headers, rawBody: other }).isValid());
  }
});

Deno.test("webhooks sends events of one moment one by one, in order", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url);
  using client = new Client(server.pusher);
  const expected = [];
  for (let i = 0; i < 60; i++) {
    client.join(`news-${i}`);
    expected.push(`channel_occupied news-${i}`);
  }
  assertEquals(await receiver.toldAll(60), expected);
  assertEquals(receiver.mostAtOnce, 1);
});

Deno.test("webhooks reports what comes in 250 ms, or 20 events, unless batch is false", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    batch: undefined,
    events: OCCUPANCY,
  });
  using client = new Client(server.pusher);
  const join = (from: number, to: number) => {
    for (let i = from; i < to; i++) client.join(`news-${i}`);
  };
  const channels = async () =>
    (await receiver.take()).events.map(({ channel }) => channel);

  // Twenty do not wait, and what is left of them does.
  join(0, 41);
  for (const start of [0, 20]) {
    assertEquals(
      await channels(),
      Array.from({ length: 20 }, (_, i) => `news-${start + i}`),
    );
  }
  await untilQueued(server.hooks, 1);
  time.tick(249);
  join(41, 43);
  await turn();
  assertEquals(receiver.deliveries.size, 0);
  time.tick(1);
  assertEquals(await channels(), ["news-40", "news-41", "news-42"]);
});

Deno.test("webhooks reports several events at once by default, 64 KiB of them at most", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    batch: undefined,
    events: ["client_event"],
    pusher: { limits: { clientEventsPerSecond: Infinity } },
  });
  using client = new Client(server.pusher).join("private-a");
  // An escaped character takes more bytes in JSON than in the event.
  for (const size of [10, 10_000, 10_000, 1_000]) {
    client.send("client-x", "\0".repeat(size), "private-a");
  }
  client.send("client-y", "y", "private-a");
  const sizes = async () =>
    (await receiver.take()).events.map(({ data }) => data?.length);
  assertEquals(await sizes(), [10, 10_000]);
  assertEquals(await sizes(), [10_000]);
  assertEquals(await sizes(), [1_000, 1]);
});

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

// ---- Filters ----------------------------------------------------------------

Deno.test("webhooks filters by event and channel before it signs", async () => {
  await using all = new Receiver();
  await using members = new Receiver();
  await using privates = new Receiver();
  await using server = setUp("", {
    batch: true,
    endpoints: [
      { url: all.url },
      { url: members.url, events: ["member_added"] },
      { url: new URL(privates.url), channelPrefix: "private-" },
    ],
  });
  using _client = new Client(server.pusher).join("news").join("private-a")
    .join("presence-b", "ann");
  const told = async (receiver: Receiver) =>
    (await receiver.take()).events.map(inShort);
  assertEquals(await told(all), [
    "channel_occupied news",
    "channel_occupied private-a",
    "channel_occupied presence-b",
    "member_added presence-b ann",
  ]);
  assertEquals(await told(members), ["member_added presence-b ann"]);
  assertEquals(await told(privates), ["channel_occupied private-a"]);
});

Deno.test("webhooks tells nothing of the channels of users", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    pusher: { subscriptionCounts: true },
  });
  using client = new Client(server.pusher);
  const user = server.pusher.authenticateUser(client.socketId, { id: "ann" });
  client.send("pusher:signin", user);
  client.send("pusher:subscribe", {
    channel: "#server-to-user-ann",
    auth: "",
  });
  await server.pusher.sendToUser("ann", "hello", {});
  assertEquals(client.frames.at(-1)?.event, "hello");
  client.join("fence");
  assertEquals(await receiver.told(), "channel_occupied fence");
});

Deno.test("webhooks of one app tells nothing of another, whoever is asked", async () => {
  await using one = new Receiver();
  await using main = new Pusher({
    apps: [
      { id: "3", key: APP.key, secret: APP.secret },
      { id: "4", key: "other", secret: APP.secret },
    ],
  });
  // The main instance hears both.
  await using _hooks = webhooks(main, {
    ...{ key: APP.key, secret: APP.secret },
    endpoints: [{ url: one.url }],
  });
  using _other = new Client(main.app("4"), "other").join("cache-other");
  using _own = new Client(main).join("own");
  assertEquals(await one.told(), "channel_occupied own");
  for (
    const [pusher, credentials] of [
      [main.app("4"), { key: APP.key, secret: APP.secret }],
      [main, { key: "other", secret: APP.secret }],
      [main, { key: APP.key, secret: "a-wrong-secret" }],
    ] as const
  ) {
    const { message } = assertThrows(
      () => webhooks(pusher, { ...credentials, endpoints: [{ url: one.url }] }),
      TypeError,
      "key and secret are not those of the app",
    );
    assertFalse(message.includes(credentials.secret));
  }
});

Deno.test("webhooks wants the newest key of an app, and says that it got another", async () => {
  const old = { key: "old", secret: "tofu-old" };
  const keys = [{ key: "new", secret: "tofu-new" }, old];
  await using pusher = new Pusher({ keys });
  const endpoints = [{ url: "http://127.0.0.1:9" }];
  const { message } = assertThrows(
    () => webhooks(pusher, { ...old, endpoints }),
    TypeError,
    "or not its newest",
  );
  assertFalse(message.includes("tofu"), message);
  await using _newest = webhooks(pusher, { ...keys[0]!, endpoints });
});

// ---- Settling ---------------------------------------------------------------

Deno.test("channel_vacated is told 3 s after the last one left, by unsubscribe or close", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { events: OCCUPANCY });
  using fence = new Client(server.pusher);
  const client = new Client(server.pusher).join("a").join("b");
  assertEquals(await receiver.toldAll(2), [
    "channel_occupied a",
    "channel_occupied b",
  ]);
  client.leave("a");
  await pass(server, time, 1_000);
  client.close();
  await pass(server, time, 1_999);
  fence.join("c");
  assertEquals(await receiver.told(), "channel_occupied c");
  await pass(server, time, 1);
  assertEquals(await receiver.told(), "channel_vacated a");
  await pass(server, time, 999);
  fence.join("d");
  assertEquals(await receiver.told(), "channel_occupied d");
  await pass(server, time, 1);
  const { events, timeMs } = await receiver.take();
  assertEquals(events.map(inShort), ["channel_vacated b"]);
  assertEquals(timeMs, time.now);
});

Deno.test("a channel that is back within 3 s is told neither as vacated nor as occupied", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { events: OCCUPANCY });
  using client = new Client(server.pusher).join("a");
  assertEquals(await receiver.told(), "channel_occupied a");
  // It flaps for a while, never away for long, and stays.
  for (let i = 0; i < 5; i++) {
    client.leave("a");
    await pass(server, time, 2_999);
    client.join("a");
    await turn();
  }
  await pass(server, time, 10_000);
  client.join("fence-1");
  assertEquals(await receiver.told(), "channel_occupied fence-1");
  // It flaps again, and ends up vacated: once, 3 s after the last departure.
  for (let i = 0; i < 5; i++) {
    client.leave("a");
    await pass(server, time, 1_000);
    client.join("a");
    await turn();
  }
  client.leave("a");
  await pass(server, time, 2_999);
  client.join("fence-2");
  assertEquals(await receiver.told(), "channel_occupied fence-2");
  await pass(server, time, 1);
  assertEquals(await receiver.told(), "channel_vacated a");
  // From there on it is news again.
  client.join("a").join("fence-3");
  assertEquals(await receiver.toldAll(2), [
    "channel_occupied a",
    "channel_occupied fence-3",
  ]);
});

Deno.test("a member who is back within 3 s is told neither as removed nor as added", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url);
  const ann = new Client(server.pusher).join("presence-a", "ann");
  await receiver.toldAll(2);
  // All leave; another user comes, then the first on another connection.
  ann.close();
  await pass(server, time, 1_000);
  using bob = new Client(server.pusher).join("presence-a", "bob");
  assertEquals(await receiver.told(), "member_added presence-a bob");
  using ann2 = new Client(server.pusher).join("presence-a", "ann");
  await pass(server, time, 10_000);
  // One of the two goes for good, and the channel stays occupied.
  bob.close();
  await pass(server, time, 3_000);
  assertEquals(await receiver.told(), "member_removed presence-a bob");
  // The last one goes: the member first, then the channel.
  ann2.close();
  await pass(server, time, 3_000);
  assertEquals(await receiver.toldAll(2), [
    "member_removed presence-a ann",
    "channel_vacated presence-a",
  ]);
});

Deno.test("an endpoint that wants only occupied is not told of one that was not really vacated", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { events: ["channel_occupied"] });
  using client = new Client(server.pusher).join("a");
  assertEquals(await receiver.told(), "channel_occupied a");
  client.leave("a");
  await pass(server, time, 2_999);
  client.join("a").join("fence");
  assertEquals(await receiver.told(), "channel_occupied fence");
});

Deno.test("settleMs is how long they wait, and they stay in order", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    settleMs: 20,
    events: ["channel_vacated"],
  });
  const client = new Client(server.pusher);
  const expected = [];
  for (let i = 0; i < 100; i++) {
    client.join(`news-${i}`);
    expected.push(`channel_vacated news-${i}`);
  }
  client.close();
  assertEquals(await receiver.toldAll(100), expected);
});

Deno.test("cache_miss is told once, until something is published or the channel is vacated", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    pusher: { cacheTtlMs: 60_000 },
    events: ["cache_miss"],
  });
  const channel = "cache-a";
  using ann = new Client(server.pusher).join(channel);
  using bob = new Client(server.pusher).join(channel);
  assertEquals(await receiver.told(), "cache_miss cache-a");
  bob.join("cache-fence-1");
  assertEquals(await receiver.told(), "cache_miss cache-fence-1");

  // Published, and expired.
  await server.pusher.trigger(channel, "create", {});
  await pass(server, time, 60_001);
  bob.leave(channel).join(channel);
  assertEquals(await receiver.told(), "cache_miss cache-a");

  // Away for less than it takes to be vacated.
  bob.leave(channel);
  ann.leave(channel);
  await pass(server, time, 2_999);
  ann.join(channel);
  ann.join("cache-fence-2");
  assertEquals(await receiver.told(), "cache_miss cache-fence-2");

  ann.leave(channel);
  await pass(server, time, 3_000);
  ann.join(channel);
  assertEquals(await receiver.told(), "cache_miss cache-a");
});

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

// ---- Options ----------------------------------------------------------------

Deno.test("webhooks refuses anything but a Pusher, by its kind", async () => {
  await using pusher = new Pusher(APP);
  const endpoints = [{ url: "http://localhost" }];
  const cases: [value: unknown, shown: string][] = [
    [undefined, "undefined"],
    [{ ...APP, endpoints }, "an object"],
    [pusher.handler, "a function"],
    ["a secret", "a string of 8 characters"],
  ];
  for (const [value, shown] of cases) {
    assertThrows(
      () => webhooks(value as Pusher, { ...APP, endpoints }),
      TypeError,
      `Cannot send webhooks: pusher is ${shown}, and must be a Pusher`,
    );
  }
});

Deno.test("webhooks refuses options that are not right, by name", async () => {
  await using pusher = new Pusher(APP);
  const url = "http://localhost";
  const cases: [object, string][] = [
    [{ endpoint: url }, 'unknown option "endpoint"'],
    [{ key: "" }, 'key is "", and must'],
    [{ secret: 1 }, "secret is of type number, and must be a string"],
    [
      { endpoints: [] },
      "endpoints is an empty array, and must be an array with",
    ],
    [
      { endpoints: [url] },
      "endpoints[0] is a string of 16 characters, and must be an",
    ],
    [{ endpoints: [{}] }, "endpoints[0].url is undefined, and must be a URL"],
    [{ endpoints: [{ url, filter: 1 }] }, '"endpoints[0].filter"'],
    [{ endpoints: [{ url: "ftp://a" }] }, 'url is "ftp://a", and must'],
    [{ endpoints: [{ url: "ftp://a/b?pw" }] }, 'url is "ftp://a/b", and must'],
    [{ endpoints: [{ url: "pw" }] }, "url is a string of 2 characters, and"],
    [{ endpoints: "pw" }, "endpoints is a string of 2 characters, and must"],
    [{ endpoints: [{ url: "http://a:pw@b" }] }, "has a user or password"],
    [
      { endpoints: [{ url, events: [] }] },
      "events is an empty array, and must",
    ],
    [
      { endpoints: [{ url, events: ["published"] }] },
      'events[0] is "published"',
    ],
    [{ endpoints: [{ url, channelPrefix: 1 }] }, "channelPrefix is 1"],
    [
      { endpoints: [{ url, headers: { "Content-Type": "text/plain" } }] },
      "headers has content-type",
    ],
    [
      { endpoints: [{ url, headers: { "a b": "pw" } }] },
      "endpoints[0].headers are not valid",
    ],
    [
      { endpoints: [{ url, headers: { authorization: "pw\n1" } }] },
      "endpoints[0].headers are not valid",
    ],
    [{ batch: 1 }, "batch is 1, and must be a boolean"],
    [{ settleMs: -1 }, "settleMs is -1, and must be from 0"],
    [{ timeoutMs: 2 ** 31 }, "timeoutMs is 2147483648, and must"],
    [{ timeoutMs: 0 }, "timeoutMs is 0, and must be above 0"],
    [{ retryDelaysMs: 5 }, "retryDelaysMs is 5, and must be an array"],
    [{ retryDelaysMs: [1, NaN] }, "retryDelaysMs[1] is NaN"],
    [{ queueBytes: 0 }, "queueBytes is 0, and must be"],
    [{ queueEvents: NaN }, "queueEvents is NaN, and must be"],
    [{ onError: "x" }, 'onError is "x", and must be a function'],
  ];
  for (const [wrong, expected] of cases) {
    const { message, cause } = assertThrows(
      () =>
        webhooks(pusher, {
          ...{ key: APP.key, secret: APP.secret },
          endpoints: [{ url }],
          ...wrong,
        }),
      Error,
      expected,
    );
    assertMatch(message, /^Cannot send webhooks: /);
    assertFalse(message.includes(APP.secret));
    assertFalse(`${message} ${cause}`.includes("pw"));
  }
});

Deno.test("webhooks takes a server with typed events", async () => {
  await using pusher = new Pusher<{ messages: { create: { text: string } } }>(
    APP,
  );
  await using hooks = webhooks(pusher, {
    key: APP.key,
    secret: APP.secret,
    endpoints: [{ url: "http://localhost" }],
  });
  assertEquals(hooks.status.length, 1);
});
