/**
 * Webhooks against receivers on real sockets. Clients are in memory, so that what
 * they do has happened when the call returns.
 */
import { Pusher } from "@glitz/pusher";
import { webhooks } from "@glitz/pusher/webhooks";
import {
  assert,
  assertEquals,
  assertFalse,
  assertMatch,
  assertNotEquals,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import StockServerSdk from "pusher";
import { APP, inShort, Receiver } from "../tests/support/receiver.ts";
import {
  Client,
  OCCUPANCY,
  setUp,
  turn,
  untilQueued,
} from "../tests/support/webhooks.ts";

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
