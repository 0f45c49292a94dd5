/**
 * Users: who signs in, what is sent to them, who watches whom, and how they are
 * made to leave. Each rule is held against the backplane in memory and against
 * one that answers later.
 */
import { Pusher, type PusherOptions, type UserData } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  eachBackplane,
  lateJoin,
  SlowBackplane,
} from "../support/backplanes.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import {
  type Answer,
  APP,
  type Client,
  read,
  serve,
  type TestServer,
} from "../support/server.ts";
import {
  type App,
  channelAuth,
  dataOf,
  type Frame,
  hmac,
  type SignInUser,
  userAuth,
} from "../support/wire.ts";
import { Inbox } from "../support/queue.ts";
import {
  authorizedBy,
  sdk,
  StockClient,
  type StockOptions,
} from "../support/stock.ts";

const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";
const SIGNED_IN = "pusher:signin_success";
const WATCHLIST = "pusher_internal:watchlist_events";

/** The credentials that the published examples of signatures are made with. */
const DOCS: App = {
  id: "3",
  key: "278d425bdf160c739803",
  secret: "7ad3773142a6692b25b8",
};

const TWO_APPS: App[] = [
  { id: "a", key: "key-a", secret: "secret-a" },
  { id: "b", key: "key-b", secret: "secret-b" },
];

/** Ids that a careless server takes apart, escapes or mistakes for something else. */
const ODD_IDS = [
  "12345",
  "zoë ✓ 😀",
  "a b",
  "a/b?c#d%20e",
  "7:presence-a",
  "__proto__",
  "constructor",
  "#server-to-user-7",
  "-1",
  " ",
  "x".repeat(128),
];

/** Signs in, which has to succeed. */
async function signIn(client: Client, user: SignInUser): Promise<void> {
  client.requestSignIn(user);
  const frame = await client.next(SIGNED_IN);
  const user_data = typeof user === "string" ? user : JSON.stringify(user);
  assertEquals(frame, {
    event: SIGNED_IN,
    data: JSON.stringify({ user_data }),
  });
}

/** Takes the refusal of a sign-in. */
async function notSignedIn(client: Client, label?: string): Promise<void> {
  const frame = await client.next("pusher:error");
  assertEquals(Object.keys(frame).sort(), ["data", "event"], label);
  assertEquals(dataOf(frame).code, 4009, label);
}

/** Checks which clients a user's events reach, each once. */
async function assertReached(
  { pusher }: Pick<TestServer, "pusher">,
  userId: string,
  reached: Client[],
  others: Client[] = [],
): Promise<void> {
  await pusher.sendToUser(userId, "are you there", {});
  for (const [clients, count] of [[reached, 1], [others, 0]] as const) {
    for (const client of clients) {
      const frames = await client.framesUntilPong();
      const events = frames.map(({ event }) => event);
      const expected = Array(count).fill("are you there");
      assertEquals(events, expected, `${userId} ${client.socketId}`);
    }
  }
}

/** Takes one watchlist frame: who it says is online and who is offline. */
async function watched(
  client: Client,
): Promise<{ online?: string[]; offline?: string[] }> {
  const frame = await client.next(WATCHLIST);
  return listsOf(frame);
}

function listsOf(frame: Frame): { online?: string[]; offline?: string[] } {
  // Without a channel, or stock clients overlook it.
  assertEquals(Object.keys(frame).sort(), ["data", "event"]);
  const { events, ...rest } = dataOf(frame);
  assertEquals(rest, {});
  const lists: Record<string, string[]> = {};
  for (const { name, user_ids, ...more } of events) {
    assertEquals(more, {});
    assert(name === "online" || name === "offline", name);
    assert(user_ids.length > 0 && !(name in lists), JSON.stringify(events));
    lists[name] = user_ids.toSorted();
  }
  return lists;
}

/** Closes a client's connection and waits until the server has seen it. */
async function leave(server: TestServer, client: Client): Promise<void> {
  await client.close();
  for (;;) {
    const { socketId } = await server.journal.next("disconnected");
    if (socketId === client.socketId) return;
  }
}

// ---- Signatures -------------------------------------------------------------

Deno.test("authenticateUser reproduces the published signatures", async () => {
  const { id: appId, key, secret } = DOCS;
  await using pusher = new Pusher({ appId, key, secret });
  for (
    const [user, digest] of [
      [
        { id: "12345" },
        "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
      ],
      [
        { id: "zoë", user_info: { name: "Zoë ✓" } },
        "92bf549edd4942eebac85d148fcc9e2746a1be2af20e737ec51653e9d85eafd4",
      ],
    ] as const
  ) {
    assertEquals(pusher.authenticateUser("1234.1234", user), {
      auth: `${key}:${digest}`,
      user_data: JSON.stringify(user),
    });
  }
});

Deno.test("authenticateUser signs all of the user as it is given", async () => {
  await using server = serve();
  const user = {
    id: "7",
    roles: ["admin"],
    user_info: { name: "Änn" },
    watchlist: Array.from({ length: 101 }, (_, index) => `${index}`),
  };
  const { auth, user_data } = server.pusher.authenticateUser("1.1", user);
  assertEquals(user_data, JSON.stringify(user));
  assertEquals(auth, userAuth(APP, "1.1", user_data));
  const official = sdk(server).authenticateUser("1.1", user);
  assertEquals({ auth, user_data }, official);
});

Deno.test("authenticateUser refuses socket ids and users that could be anything else", async () => {
  await using pusher = new Pusher();
  const user = { id: "7" };
  for (
    const id of ["", "1", "1.", ".1", "1.1:x", "1.1::user", "1.1\n", 1.1, null]
  ) {
    assertThrows(
      () => pusher.authenticateUser(id as string, user),
      TypeError,
      undefined,
      JSON.stringify(id),
    );
  }
  for (
    const wrong of [
      null,
      undefined,
      "7",
      7,
      [],
      {},
      { id: "" },
      { id: 7 },
      { id: null },
      { id: "x".repeat(129) },
      { id: "7", n: 1n },
    ]
  ) {
    const error = assertThrows(
      () => pusher.authenticateUser("1.1", wrong as UserData),
      Error,
    );
    assert(error instanceof TypeError || error instanceof RangeError);
  }
});

Deno.test("sendToUser and terminateUserConnections throw at once for arguments that are wrong", async () => {
  await using pusher = new Pusher();
  for (const id of ["", "x".repeat(129), 7, null, undefined, {}]) {
    const userId = id as string;
    for (
      const call of [
        () => pusher.sendToUser(userId, "e", {}),
        () => pusher.terminateUserConnections(userId),
      ]
    ) {
      const error = assertThrows(call, Error, undefined, JSON.stringify(id));
      assert(error instanceof TypeError || error instanceof RangeError);
    }
  }
  assertThrows(() => pusher.sendToUser("7", "", {}), Error);
  assertThrows(() => pusher.sendToUser("7", "pusher:x", {}), Error);
  assertThrows(() => pusher.sendToUser("7", "x".repeat(201), {}), RangeError);
  assertThrows(() => pusher.sendToUser("7", "e", undefined), TypeError);
  assertThrows(
    () => pusher.sendToUser("7", "e", "x".repeat(10_241)),
    RangeError,
  );
});

Deno.test("the members for users are statics of Pusher, too", async () => {
  const { auth, user_data } = Pusher.authenticateUser("1.1", { id: "7" });
  assertMatch(auth, /^[^:]+:[0-9a-f]{64}$/);
  assertEquals(user_data, '{"id":"7"}');
  for (
    const response of [
      await Pusher.sendToUser("7", "e", {}),
      await Pusher.terminateUserConnections("7"),
    ]
  ) {
    assertEquals([response.status, await response.json()], [200, {}]);
  }
  await Pusher.close();
});

// ---- Sign-in ----------------------------------------------------------------

eachBackplane("pusher:signin echoes user_data to the byte", async (start) => {
  await using server = start();
  for (
    const text of [
      '{"id":"12345"}',
      '{ "user_info" : {"n": 1.0},  "id":"z\\u006fë ✓", "more":[null] }',
      '{"id":"a","id":"b"}',
    ]
  ) {
    await using client = await server.connect();
    await signIn(client, text);
    await client.silence();
  }
});

eachBackplane("pusher:signin takes a signature of the SDK", async (start) => {
  await using server = start();
  await using client = await server.connect();
  const signed = sdk(server).authenticateUser(client.socketId, { id: "zoë" });
  client.send({ event: "pusher:signin", data: signed });
  assertEquals(dataOf(await client.next(SIGNED_IN)), {
    user_data: signed.user_data,
  });
  await assertReached(server, "zoë", [client]);
});

eachBackplane(
  "pusher:signin takes its data as a string of JSON",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    const signed = server.pusher.authenticateUser(client.socketId, { id: "7" });
    client.send({ event: "pusher:signin", data: JSON.stringify(signed) });
    await client.next(SIGNED_IN);
    await assertReached(server, "7", [client]);
  },
);

eachBackplane(
  "pusher:signin takes any id of 1 to 128 characters",
  async (start) => {
    await using server = start();
    for (const id of ODD_IDS) {
      await using client = await server.connect();
      await using other = await server.connect();
      await signIn(other, { id: `${id.slice(0, 100)}.` });
      await signIn(client, { id });
      await assertReached(server, id, [client], [other]);
      assertEquals(await client.join(`#server-to-user-${id}`), {});
      await assertReached(server, id, [client], [other]);
      await server.pusher.terminateUserConnections(id);
      assertEquals((await client.turnedAway()).code, 4009);
      await other.silence();
    }
  },
);

eachBackplane(
  "pusher:signin that fails is answered with 4009 and nothing else happens",
  async (start) => {
    await using server = start({ apps: TWO_APPS });
    const [own, foreign] = TWO_APPS as [App, App];
    await using client = await server.connect();
    await using bystander = await server.connect();
    await using watcher = await server.connect();
    await signIn(watcher, { id: "watcher", watchlist: ["7"] });
    assertEquals(await watched(watcher), { offline: ["7"] });
    const { socketId } = client;
    const right = '{"id":"7"}';
    const digest = hmac(own.secret, `${socketId}::user::${right}`);
    const wrongAuths = [
      "",
      "wrong",
      `${own.key}:`,
      `${own.key}`,
      `:${digest}`,
      digest,
      `${own.key}:${digest.toUpperCase()}`,
      `${own.key}:${digest.slice(0, -1)}`,
      `${own.key}:${digest}0`,
      `${own.key}:${digest} `,
      `${foreign.key}:${digest}`,
      userAuth(foreign, socketId, right),
      `${own.key}:${hmac(foreign.secret, `${socketId}::user::${right}`)}`,
      userAuth(own, bystander.socketId, right),
      userAuth(own, socketId, '{"id":"8"}'),
      userAuth(own, socketId, right + " "),
      // Signatures that were given for channels.
      channelAuth(own, socketId, "private-a", right),
      channelAuth(own, socketId, right),
      channelAuth(own, socketId, "user", right),
      null,
      7,
      {},
      [`${own.key}:${digest}`],
    ];
    for (const auth of wrongAuths) {
      client.send({ event: "pusher:signin", data: { auth, user_data: right } });
      await notSignedIn(client, JSON.stringify(auth));
    }
    client.send({ event: "pusher:signin", data: { user_data: right } });
    await notSignedIn(client, "no auth");
    // Rightly signed, and no user all the same.
    const wrongUsers = [
      "",
      "7",
      "null",
      "true",
      '"7"',
      "[]",
      '["7"]',
      '[{"id":"7"}]',
      "{}",
      "{",
      '{"id":"7"',
      `{'id':'7'}`,
      '{"id":""}',
      '{"id":7}',
      '{"id":null}',
      '{"id":true}',
      '{"id":["7"]}',
      '{"id":{}}',
      '{"ID":"7"}',
      '{"user_id":"7"}',
      '{"__proto__":{"id":"7"}}',
      JSON.stringify({ id: "x".repeat(129) }),
    ];
    for (const text of wrongUsers) {
      client.requestSignIn(text);
      await notSignedIn(client, text);
    }
    for (const user_data of [undefined, null, 7, {}, { id: "7" }, [right]]) {
      const signedText = typeof user_data === "object"
        ? JSON.stringify(user_data)
        : String(user_data);
      const auth = userAuth(own, socketId, signedText);
      client.send({ event: "pusher:signin", data: { auth, user_data } });
      await notSignedIn(client, signedText);
    }
    await assertReached(server, "7", [], [client, bystander]);
    assertEquals(await client.refused("#server-to-user-7"), "AuthError 401");
    const joining = client.refused("presence-a");
    assertEquals(await joining, "AuthError 401");
    await server.pusher.terminateUserConnections("7");
    for (const one of [client, bystander, watcher]) await one.silence();
    // Nothing of all that is held against the connection.
    await signIn(client, right);
    assertEquals(await watched(watcher), { online: ["7"] });
    await assertReached(server, "7", [client], [bystander]);
  },
);

eachBackplane(
  "pusher:signin with no data at all is refused and harmless",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    for (const data of [undefined, null, 7, "", "{", "null", [], "[]", {}]) {
      client.send({ event: "pusher:signin", data });
      const { code } = dataOf(await client.next("pusher:error"));
      assert(code === 4009 || code === 4300, `${code}`);
    }
    await client.silence();
    await signIn(client, { id: "7" });
  },
);

eachBackplane(
  "pusher:signin as the same user again succeeds, as another it fails",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    await using tab = await server.connect();
    await signIn(client, { id: "7", user_info: { n: 1 } });
    await signIn(client, { id: "7", user_info: { n: 2 } });
    await client.silence();
    client.requestSignIn({ id: "8", user_info: { n: 3 } });
    await notSignedIn(client);
    client.requestSignIn({ id: "7" }, { auth: "wrong" });
    await notSignedIn(client);
    await assertReached(server, "8", [], [client]);
    await assertReached(server, "7", [client], [tab]);
    assertEquals(await client.refused("#server-to-user-8"), "AuthError 401");
    // What was signed last counts, of what was accepted.
    const { presence } = await client.join("presence-a");
    assertEquals(presence.hash, { "7": { n: 2 } });
    await server.pusher.terminateUserConnections("8");
    await client.silence();
    await server.pusher.terminateUserConnections("7");
    assertEquals((await client.turnedAway()).code, 4009);
  },
);

eachBackplane("users of one app are nobody in another", async (start) => {
  await using server = start({ apps: TWO_APPS });
  const [a, b] = TWO_APPS as [App, App];
  await using one = await server.connect({ app: a });
  await using other = await server.connect({ app: b });
  await using watcher = await server.connect({ app: b });
  await signIn(watcher, { id: "watcher", watchlist: ["7", "8"] });
  assertEquals(await watched(watcher), { offline: ["7", "8"] });
  await signIn(one, { id: "7" });
  await watcher.silence();
  await signIn(other, { id: "7", watchlist: ["8"] });
  assertEquals(await watched(other), { offline: ["8"] });
  assertEquals(await watched(watcher), { online: ["7"] });
  await assertReached({ pusher: server.pusher.app("a") }, "7", [one], [other]);
  await assertReached({ pusher: server.pusher.app("b") }, "7", [other], [one]);
  await server.api("POST", "/users/7/terminate_connections", {
    app: a,
    body: {},
  });
  assertEquals((await one.turnedAway()).code, 4009);
  await watcher.silence();
  await other.silence();
});

eachBackplane(
  "frames after pusher:signin are handled as the user's",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    const fence = await client.framesUntilPong();
    assertEquals(fence, []);
    client.requestSignIn({ id: "7" });
    client.requestSubscribe("#server-to-user-7");
    client.requestSubscribe("presence-a");
    client.requestSignIn({ id: "8" });
    const frames = await client.framesUntilPong();
    assertEquals(frames.map(({ event }) => event), [
      SIGNED_IN,
      "pusher_internal:subscription_succeeded",
      "pusher_internal:subscription_succeeded",
      "pusher:error",
    ]);
  },
);

Deno.test("a connection that goes away while it signs in leaves no user behind", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({ backplane });
  await using client = await server.connect();
  client.requestSignIn({ id: "7", watchlist: ["8"] });
  await joining();
  await client.close();
  answer();
  await server.journal.next("disconnected");
  await using watcher = await server.connect();
  // A round through the server lets everything end that has begun.
  for (let round = 0; round < 20; round++) await watcher.silence();
  await signIn(watcher, { id: "watcher", watchlist: ["7"] });
  const lists = await watched(watcher);
  if (lists.online) assertEquals(await watched(watcher), { offline: ["7"] });
  else assertEquals(lists, { offline: ["7"] });
  await watcher.silence();
});

// ---- Events -----------------------------------------------------------------

eachBackplane(
  "sendToUser reaches every connection of the user once, subscribed or not",
  async (start) => {
    await using server = start();
    await using subscribed = await server.connect();
    await using plain = await server.connect();
    await using other = await server.connect();
    await using member = await server.connect();
    await using nobody = await server.connect();
    await signIn(subscribed, { id: "7" });
    await signIn(plain, { id: "7" });
    await signIn(other, { id: "77" });
    await subscribed.join("#server-to-user-7");
    await subscribed.join("#server-to-user-7");
    await member.join("presence-a", { member: { user_id: "7" } });
    const channel = "#server-to-user-7";
    const { pusher } = server;
    const stock = sdk(server);
    const ways: [what: string, send: (data: unknown) => Promise<unknown>][] = [
      ["sendToUser", (data) => pusher.sendToUser("7", "hi", data)],
      ["SDK", (data) => stock.sendToUser("7", "hi", data)],
      ["trigger", (data) => pusher.trigger(channel, "hi", data)],
      [
        "triggerBatch",
        (data) => pusher.triggerBatch([{ channel, name: "hi", data }]),
      ],
      [
        "SDK's triggerBatch",
        (data) => stock.triggerBatch([{ channel, name: "hi", data }]),
      ],
    ];
    for (const [what, send] of ways) {
      for (const data of [{ x: 1 }, "text", "", [1], null]) {
        await send(data);
        const text = typeof data === "string" ? data : JSON.stringify(data);
        const frame = { event: "hi", channel, data: text };
        for (const client of [subscribed, plain]) {
          assertEquals(await client.next(), frame, what);
          await client.silence();
        }
      }
    }
    const { status, body } = await server.api("POST", "/events", {
      body: { name: "hi", channels: [channel, channel], data: "1" },
    });
    assertEquals([status, body], [200, {}]);
    for (const client of [subscribed, plain]) {
      assertEquals(await client.next(), { event: "hi", channel, data: "1" });
    }
    for (const client of [subscribed, plain, other, member, nobody]) {
      await client.silence();
    }
    for (const userId of ["8", "zoë"]) {
      const response = await pusher.sendToUser(userId, "hi", {});
      assertEquals([response.status, await response.json()], [200, {}]);
    }
  },
);

eachBackplane(
  "sendToUser keeps its order, and unsubscribing does not end it",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    await signIn(client, { id: "7" });
    await client.join("#server-to-user-7");
    client.unsubscribe("#server-to-user-7");
    await client.silence();
    for (let i = 0; i < 20; i++) server.pusher.sendToUser("7", "n", i);
    for (let i = 0; i < 20; i++) {
      assertEquals((await client.next("n")).data, `${i}`);
    }
  },
);

eachBackplane("an event to a user leaves out socket_id", async (start) => {
  await using server = start();
  await using one = await server.connect();
  await using two = await server.connect();
  for (const client of [one, two]) await signIn(client, { id: "7" });
  await one.join("#server-to-user-7");
  const channel = "#server-to-user-7";
  const socket_id = one.socketId;
  await server.pusher.trigger(channel, "a", 1, { socket_id });
  await server.api("POST", "/events", {
    body: { name: "b", channel, data: "1", socket_id },
  });
  await server.pusher.triggerBatch([{
    channel,
    name: "c",
    data: 1,
    socket_id,
  }]);
  await one.silence();
  const events = (await two.framesUntilPong()).map(({ event }) => event);
  assertEquals(events, ["a", "b", "c"]);
});

eachBackplane("one publish may go to users and channels", async (start) => {
  await using server = start();
  await using ann = await server.connect();
  await using bob = await server.connect();
  await signIn(ann, { id: "ann" });
  await signIn(bob, { id: "bob" });
  await bob.join("news");
  const channels = ["#server-to-user-ann", "#server-to-user-bob", "news"];
  const { status, body } = await server.api("POST", "/events", {
    body: {
      name: "e",
      channels,
      data: "1",
      info: "subscription_count,user_count",
    },
  });
  // There is nothing to be told of who a user is connected with.
  assertEquals([status, body], [200, {
    channels: {
      "#server-to-user-ann": {},
      "#server-to-user-bob": {},
      news: { subscription_count: 1 },
    },
  }]);
  const told = async (client: Client) =>
    (await client.framesUntilPong()).map(({ channel }) => channel);
  assertEquals(await told(ann), ["#server-to-user-ann"]);
  assertEquals((await told(bob)).sort(), ["#server-to-user-bob", "news"]);
});

eachBackplane(
  "nothing is published to a user when the request is wrong",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    await signIn(client, { id: "7" });
    const channel = "#server-to-user-7";
    for (
      const body of [
        { name: "pusher:e", channel, data: "1" },
        { name: "pusher_internal:e", channel, data: "1" },
        { name: "e", channel },
        { name: "e", channels: [channel, "a b"], data: "1" },
        { name: "e", channels: [channel, "#server-to-user-"], data: "1" },
        { name: "e", channels: [channel, "#watchers-of-7"], data: "1" },
        { name: "e", channels: [channel, "#other"], data: "1" },
        {
          name: "e",
          channels: [channel, `#server-to-user-${"x".repeat(129)}`],
          data: "1",
        },
      ]
    ) {
      const { status } = await server.api("POST", "/events", { body });
      assertEquals(status, 400, JSON.stringify(body));
    }
    const large = { name: "e", channel, data: "x".repeat(10_241) };
    const { status } = await server.api("POST", "/events", { body: large });
    assertEquals(status, 413);
    await client.silence();
  },
);

// ---- User channels ----------------------------------------------------------

eachBackplane(
  "a user channel opens to its user and to nobody else",
  async (start) => {
    await using server = start();
    await using ann = await server.connect();
    await using eve = await server.connect();
    const channel = "#server-to-user-ann";
    assertEquals(await ann.refused(channel), "AuthError 401");
    await signIn(ann, { id: "ann" });
    for (let i = 0; i < 2; i++) {
      ann.requestSubscribe(channel, i === 0 ? {} : { auth: null });
      assertEquals(await ann.next(), {
        event: "pusher_internal:subscription_succeeded",
        channel,
        data: "{}",
      });
    }
    const member = { user_id: "ann" };
    for (const id of ["", "eve"]) {
      if (id !== "") await signIn(eve, { id });
      const { app, socketId } = eve;
      const channelData = JSON.stringify(member);
      for (
        const init of [
          {},
          { auth: null },
          // A signature does not help.
          { auth: channelAuth(app, socketId, channel) },
          {
            auth: channelAuth(app, socketId, channel, channelData),
            channelData,
          },
          { auth: userAuth(app, socketId, '{"id":"ann"}') },
        ]
      ) {
        assertEquals(await eve.refused(channel, init), "AuthError 401");
      }
    }
    await assertReached(server, "ann", [ann], [eve]);
  },
);

eachBackplane(
  "names that start with # are channels of no other kind",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    await signIn(client, { id: "7", watchlist: ["8"] });
    await watched(client);
    for (
      const channel of [
        "#",
        "#news",
        "#server-to-user",
        "#Server-to-user-7",
        "#watchers-of-7",
        "#watchers-of-8",
        "##server-to-user-7",
      ]
    ) {
      assertEquals(
        await client.refused(channel),
        "InvalidChannel 400",
        channel,
      );
    }
    const kind = await client.refused("#server-to-user-");
    assertMatch(kind, /^(InvalidChannel 400|AuthError 401)$/);
    for (const prefix of [" ", "x", "private-", "presence-"]) {
      const channel = `${prefix}#server-to-user-7`;

      assertEquals(
        await client.refused(channel),
        "InvalidChannel 400",
        channel,
      );
    }
  },
);

eachBackplane(
  "user channels are in no list, no count and no hook",
  async (start) => {
    await using server = start({ subscriptionCounts: true });
    const { pusher, journal } = server;
    await using ann = await server.connect();
    await using tab = await server.connect();
    for (const client of [ann, tab]) {
      await signIn(client, { id: "7", watchlist: ["8"] });
      await watched(client);
      assertEquals(await client.join("#server-to-user-7"), {});
    }
    await assertReached(server, "7", [ann, tab]);
    const empty = { channels: {} };
    assertEquals(await pusher.channels(), empty);
    assertEquals(await pusher.channels({ info: "subscription_count" }), empty);
    for (
      const query of [
        {},
        { filter_by_prefix: "#" },
        { filter_by_prefix: "#server-to-user-" },
        { filter_by_prefix: "#watchers" },
        { info: "subscription_count" },
      ] as Record<string, string>[]
    ) {
      const { status, body } = await server.api("GET", "/channels", { query });
      assertEquals([status, body], [200, empty]);
    }
    for (const name of ["server-to-user-7", "watchers-of-8", "watchers-of-7"]) {
      for (const tail of ["", "/users"]) {
        const path = `/channels/%23${name}${tail}`;
        const { status, text } = await server.api("GET", path);
        assertEquals(status, 400, `${path} ${text}`);
      }
    }
    await leave(server, tab);
    await leave(server, ann);
    await using _fence = await server.connect();
    assertEquals(
      journal.told().filter((entry) =>
        /channel|member|count|cache/.test(entry)
      ),
      [],
    );
  },
);

eachBackplane(
  "client events on user channels are refused with 4301",
  async (start) => {
    await using server = start({ clientEvents: true });
    await using ann = await server.connect();
    await using tab = await server.connect();
    for (const client of [ann, tab]) {
      await signIn(client, { id: "7", watchlist: ["8"] });
      await watched(client);
      await client.join("#server-to-user-7");
    }
    for (const channel of ["#server-to-user-7", "#server-to-user-8"]) {
      ann.send({ event: "client-x", channel, data: {} });
      const frame = await ann.next("pusher:error");
      assertEquals([dataOf(frame).code, frame.channel], [4301, channel]);
    }
    await ann.silence();
    await tab.silence();
    assertEquals(server.journal.told("client_event"), []);
  },
);

// ---- Termination ------------------------------------------------------------

eachBackplane(
  "terminateUserConnections closes whoever is signed in as the user, and nobody else",
  async (start) => {
    await using server = start();
    const stock = sdk(server);
    const path = "/users/7/terminate_connections";
    const ways: (() => Promise<unknown>)[] = [
      () => server.pusher.terminateUserConnections("7").then((r) => r.json()),
      () => server.api("POST", path, { body: "{}" }).then(({ body }) => body),
      () => server.api("POST", path).then(({ body }) => body),
      () => stock.terminateUserConnections("7").then((r) => r.json()),
    ];
    await using member = await server.connect();
    await using other = await server.connect();
    await using nobody = await server.connect();
    await member.join("presence-a", { member: { user_id: "7" } });
    await signIn(other, { id: "77" });
    for (const terminate of ways) {
      await using one = await server.connect();
      await using two = await server.connect();
      for (const client of [one, two]) await signIn(client, { id: "7" });
      await one.join("presence-a", { member: { user_id: "seven" } });
      await member.next(ADDED);
      assertEquals(await terminate(), {});
      for (const client of [one, two]) {
        assertEquals((await client.turnedAway()).code, 4009);
        const { code } = await server.journal.next("disconnected");
        assertEquals(code, 4009);
      }
      assertEquals(dataOf(await member.next(REMOVED)), { user_id: "seven" });
      // Nobody is left, which is as good.
      assertEquals(await terminate(), {});
      for (const client of [member, other, nobody]) await client.silence();
    }
    await assertReached(server, "7", [], [member, other, nobody]);
  },
);

eachBackplane(
  "a user whose connections were terminated may come back",
  async (start) => {
    await using server = start();
    await using first = await server.connect();
    await signIn(first, { id: "7" });
    await server.pusher.terminateUserConnections("7");
    await first.turnedAway();
    await using second = await server.connect();
    await signIn(second, { id: "7" });
    await assertReached(server, "7", [second]);
  },
);

eachBackplane(
  "terminate_connections takes ids as URLs write them",
  async (start) => {
    await using server = start();
    for (const id of ["a b", "a/b?c#d%20e", "zoë ✓", "%41"]) {
      await using client = await server.connect();
      await using lookalike = await server.connect();
      await signIn(client, { id });
      await signIn(lookalike, { id: decodeURIComponent(encodeURI("A")) });
      const escaped = encodeURIComponent(id);
      const { status, body } = await server.api(
        "POST",
        `/users/${escaped}/terminate_connections`,
        { body: {} },
      );
      assertEquals([status, body], [200, {}], id);
      assertEquals((await client.turnedAway()).code, 4009);
      await lookalike.silence();
    }
  },
);

eachBackplane(
  "terminate_connections refuses what is not signed, and other methods",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    await signIn(client, { id: "7" });
    const path = "/users/7/terminate_connections";
    for (
      const [init, status] of [
        [{ tamper: { auth_signature: null } }, 401],
        [{ tamper: { auth_signature: "0".repeat(64) } }, 401],
        [{ signedPath: "/apps/app-id/users/8/terminate_connections" }, 401],
        [{ tamperedBody: "[]" }, 401],
      ] as const
    ) {
      const answer = await server.api("POST", path, { body: {}, ...init });
      assertEquals(answer.status, status, JSON.stringify(init));
    }
    assertEquals((await server.api("GET", path)).status, 405);
    for (const other of ["/users/7", "/users", "/users/7/x", `${path}/x`]) {
      assertEquals((await server.api("POST", other, { body: {} })).status, 404);
    }
    const anonymous = await server.api(
      "POST",
      "/users//terminate_connections",
      {
        body: {},
      },
    );
    assert(anonymous.status === 404 || anonymous.status === 400);
    const tooLong = `/users/${"x".repeat(129)}/terminate_connections`;
    const { status } = await server.api("POST", tooLong, { body: {} });
    assert(status === 200 || status === 400, `${status}`);
    await client.silence();
    await assertReached(server, "7", [client]);
  },
);

Deno.test("the published requests to terminate connections are accepted in their time", async () => {
  const at = 1_353_088_179;
  const T = `auth_key=${DOCS.key}&auth_timestamp=${at}&auth_version=1.0`;
  const md5 = "99914b932bd37a50b983c5e7c90ae93b";
  await using server = serve({
    appId: DOCS.id,
    key: DOCS.key,
    secret: DOCS.secret,
    now: () => at * 1000,
  });
  const replay = async (id: string, signature: string) => {
    const path = `/apps/3/users/${id}/terminate_connections`;
    const query = `${T}&body_md5=${md5}&auth_signature=${signature}`;
    const request = new Request(`${server.url}${path}?${query}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    return await read(await server.pusher.handler(request));
  };
  for (
    const [id, escaped, signature] of [
      [
        "12345",
        "12345",
        "01fa634edeb0cae84115307cad5c23f65a46cd286461b1c89637a3b5871a8f0e",
      ],
      // As the SDK signs it, over the path before it is escaped.
      [
        "a b",
        "a%20b",
        "018c597f71190b3e4f5381914f679b0f7d94ae5ea73ac404395bbf4ab6507989",
      ],
      [
        "a b",
        "a%20b",
        "a5b7d417f5f468b138e97c20e3c36da6f4f738f40dfa0a63523c968046baa9a5",
      ],
    ] as const
  ) {
    await using client = await server.connect();
    await signIn(client, { id });
    const forged = signature.replace(/.$/, (d) => d === "0" ? "1" : "0");
    assertEquals((await replay(escaped, forged)).status, 401);
    assertEquals((await replay("other", signature)).status, 401);
    await client.silence();
    const { status, body } = await replay(escaped, signature);
    assertEquals([status, body], [200, {}]);
    assertEquals((await client.turnedAway()).code, 4009);
  }
});

eachBackplane(
  "the SDK's calls for users work with ids that URLs escape",
  async (start) => {
    await using server = start();
    const stock = sdk(server);
    for (const id of ["a b", "zoë", "7"]) {
      await using client = await server.connect();
      await signIn(client, { id });
      const sent = await stock.sendToUser(id, "hi", { x: 1 });
      assertEquals([sent.status, await sent.json()], [200, {}]);
      assertEquals(dataOf(await client.next("hi")), { x: 1 });
      const response = await stock.terminateUserConnections(id);
      assertEquals([response.status, await response.json()], [200, {}]);
      assertEquals((await client.turnedAway()).code, 4009);
    }
  },
);

// ---- Watchlist --------------------------------------------------------------

eachBackplane(
  "a watchlist is answered with who is there and who is not",
  async (start) => {
    await using server = start();
    await using seven = await server.connect();
    await using member = await server.connect();
    await signIn(seven, { id: "7" });
    await seven.silence();
    await member.join("presence-a", { member: { user_id: "8" } });
    for (
      const [watchlist, lists] of [
        [["7"], { online: ["7"] }],
        // On a presence channel is not signed in.
        [["8"], { offline: ["8"] }],
        [["9", "7", "8"], { online: ["7"], offline: ["8", "9"] }],
        [["7", "7", "8", "7"], { online: ["7"], offline: ["8"] }],
        [["7", 7, null, {}, ["8"], true, "8"], {
          online: ["7"],
          offline: ["8"],
        }],
        [["__proto__", "constructor"], {
          offline: ["__proto__", "constructor"],
        }],
      ] as const
    ) {
      await using watcher = await server.connect();
      await signIn(watcher, { id: "watcher", watchlist });
      assertEquals<unknown>(await watched(watcher), lists);
      await watcher.silence();
    }
    for (const user of [{}, { watchlist: [] }, { watchlist: [7, null] }]) {
      await using watcher = await server.connect();
      await signIn(watcher, { id: "watcher", ...user });
      await watcher.silence();
    }
  },
);

eachBackplane("a watchlist that is no list is harmless", async (start) => {
  await using server = start();
  for (
    const watchlist of [null, "7", 7, true, { length: 1e9 }, { 0: "7" }]
  ) {
    await using client = await server.connect();
    client.requestSignIn({ id: "watcher", watchlist });
    const frames = await client.framesUntilPong();
    const [frame] = frames;
    assertEquals(frames.length, 1, JSON.stringify(frames));
    assertMatch(frame?.event ?? "", /^pusher:(signin_success|error)$/);
  }
});

eachBackplane(
  "watchers are told of a user's first sign-in and last leave, once",
  async (start) => {
    await using server = start();
    await using watcher = await server.connect();
    await using tab = await server.connect();
    await using twin = await server.connect();
    await using other = await server.connect();
    const watchers = [watcher, tab, twin];
    await signIn(watcher, { id: "watcher", watchlist: ["7", "8"] });
    await signIn(tab, { id: "watcher", watchlist: ["7"] });
    await signIn(twin, { id: "twin", watchlist: ["7"] });
    await signIn(other, { id: "other", watchlist: ["9"] });
    for (const client of [...watchers, other]) await watched(client);
    for (let round = 0; round < 3; round++) {
      await using first = await server.connect();
      await using second = await server.connect();
      for (const client of watchers) await client.silence();
      await signIn(first, { id: "7" });
      for (const client of watchers) {
        assertEquals(await watched(client), { online: ["7"] });
      }
      await signIn(second, { id: "7" });
      await signIn(first, { id: "7" });
      for (const client of watchers) await client.silence();
      await leave(server, first);
      for (const client of watchers) await client.silence();
      await assertReached(server, "7", [second], watchers);
      await leave(server, second);
      for (const client of watchers) {
        assertEquals(await watched(client), { offline: ["7"] });
      }
      for (const client of [...watchers, other]) await client.silence();
    }
  },
);

eachBackplane(
  "who signs in later is told what is so by then",
  async (start) => {
    await using server = start();
    await using seven = await server.connect();
    await signIn(seven, { id: "7" });
    await using first = await server.connect();
    await signIn(first, { id: "first", watchlist: ["7"] });
    assertEquals(await watched(first), { online: ["7"] });
    await leave(server, seven);
    assertEquals(await watched(first), { offline: ["7"] });
    await using second = await server.connect();
    await signIn(second, { id: "second", watchlist: ["7", "first"] });
    assertEquals(await watched(second), { online: ["first"], offline: ["7"] });
  },
);

eachBackplane(
  "a terminated user and one whose connection breaks off go offline",
  async (start) => {
    await using server = start();
    await using watcher = await server.connect();
    await signIn(watcher, { id: "watcher", watchlist: ["7"] });
    await watched(watcher);
    await using seven = await server.connect();
    await signIn(seven, { id: "7" });
    assertEquals(await watched(watcher), { online: ["7"] });
    await server.pusher.terminateUserConnections("7");
    assertEquals(await watched(watcher), { offline: ["7"] });

    using raw = await server.raw();
    await raw.upgrade("/app/app-key?protocol=7");
    const { socket_id } = dataOf(await raw.readText());
    const signed = server.pusher.authenticateUser(socket_id, { id: "7" });
    const text = JSON.stringify({ event: "pusher:signin", data: signed });
    await raw.write(frameOf(text));
    assertEquals((await raw.readText()).event, SIGNED_IN);
    assertEquals(await watched(watcher), { online: ["7"] });
    raw.drop();
    assertEquals(await watched(watcher), { offline: ["7"] });
    await watcher.silence();
  },
);

eachBackplane(
  "a watchlist belongs to the connection that signed in with it",
  async (start) => {
    await using server = start();
    await using one = await server.connect();
    await using two = await server.connect();
    await using plain = await server.connect();
    await signIn(one, { id: "watcher", watchlist: ["7"] });
    await signIn(two, { id: "watcher", watchlist: ["8"] });
    await signIn(plain, { id: "watcher" });
    for (const client of [one, two]) await watched(client);
    await using seven = await server.connect();
    await signIn(seven, { id: "7" });
    assertEquals(await watched(one), { online: ["7"] });
    await leave(server, one);
    await leave(server, seven);
    for (const client of [two, plain]) await client.silence();
  },
);

eachBackplane("signing in again replaces the watchlist", async (start) => {
  await using server = start();
  await using watcher = await server.connect();
  await using seven = await server.connect();
  await using eight = await server.connect();
  await using nine = await server.connect();
  await signIn(watcher, { id: "watcher", watchlist: ["7", "8"] });
  assertEquals(await watched(watcher), { offline: ["7", "8"] });
  await signIn(eight, { id: "8" });
  assertEquals(await watched(watcher), { online: ["8"] });
  await signIn(watcher, { id: "watcher", watchlist: ["8", "9"] });
  assertEquals(await watched(watcher), { online: ["8"], offline: ["9"] });
  await signIn(seven, { id: "7" });
  await watcher.silence();
  await signIn(nine, { id: "9" });
  assertEquals(await watched(watcher), { online: ["9"] });
  // A refused one replaces nothing.
  watcher.requestSignIn({ id: "watcher", watchlist: ["7"] }, { auth: "wrong" });
  await notSignedIn(watcher);
  watcher.requestSignIn({ id: "someone", watchlist: ["7"] });
  await notSignedIn(watcher);
  await leave(server, seven);
  await watcher.silence();
  await leave(server, nine);
  assertEquals(await watched(watcher), { offline: ["9"] });
  await signIn(watcher, { id: "watcher" });
  await leave(server, eight);
  await watcher.silence();
});

eachBackplane("a user may watch itself", async (start) => {
  await using server = start();
  await using one = await server.connect();
  await using two = await server.connect();
  await signIn(one, { id: "7", watchlist: ["7"] });
  assertEquals(await watched(one), { online: ["7"] });
  await one.silence();
  await signIn(two, { id: "7", watchlist: ["7", "8"] });
  assertEquals(await watched(two), { online: ["7"], offline: ["8"] });
  await one.silence();
  await leave(server, two);
  await one.silence();
});

eachBackplane(
  "the first 100 of a watchlist are watched, and more are told with 4302",
  async (start) => {
    await using server = start();
    const ids = Array.from({ length: 101 }, (_, index) => `w${1000 + index}`);
    const hundred = ids.slice(0, 100);
    await using exact = await server.connect();
    await using over = await server.connect();
    // What is removed does not count.
    const padded = hundred.flatMap((id, index) => [id, index, id, null]);
    await signIn(exact, { id: "exact", watchlist: padded });
    assertEquals(await watched(exact), { offline: hundred });
    await exact.silence();

    await signIn(over, { id: "over", watchlist: ids });
    const frames = await over.framesUntilPong();
    const cut = frames.find(({ event }) => event === "pusher:error");
    const lists = frames.filter(({ event }) => event === WATCHLIST);
    assertEquals(frames.length, 2, JSON.stringify(frames));
    assertEquals(lists.map(listsOf), [{ offline: hundred }]);
    assert(cut !== undefined && cut.channel === undefined);
    const { code, message } = dataOf(cut);
    assertEquals(code, 4302);
    for (const id of hundred) assertStringIncludes(message, id);
    assert(!message.includes("w1100"), message);

    await using beyond = await server.connect();
    await using last = await server.connect();
    await signIn(beyond, { id: "w1100" });
    await signIn(last, { id: "w1099" });
    for (const client of [exact, over]) {
      assertEquals(await watched(client), { online: ["w1099"] });
      await client.silence();
    }
  },
);

eachBackplane(
  "limits.watchedUsers says how many are watched",
  async (start) => {
    await using server = start({ limits: { watchedUsers: 1 } });
    await using client = await server.connect();
    await signIn(client, { id: "watcher", watchlist: ["7", "8"] });
    const frames = await client.framesUntilPong();
    const codes = frames.filter(({ event }) => event === "pusher:error")
      .map((frame) => dataOf(frame).code);
    assertEquals(codes, [4302]);
    const lists = frames.filter(({ event }) => event === WATCHLIST).map(
      listsOf,
    );
    assertEquals(lists, [{ offline: ["7"] }]);
  },
);

Deno.test("a watchlist and what happens meanwhile add up to what is so", async () => {
  await using server = serve({ backplane: new SlowBackplane() });
  for (let round = 0; round < 20; round++) {
    const watcher = await server.connect();
    const seven = await server.connect();
    seven.requestSignIn({ id: "7" });
    watcher.requestSignIn({ id: "watcher", watchlist: ["7"] });
    await seven.next(SIGNED_IN);
    await watcher.next(SIGNED_IN);
    const stays = round % 2 === 1;
    if (!stays) await seven.close();
    const states = [await stateOfSeven(watcher)];
    while (states.at(-1) !== stays) states.push(await stateOfSeven(watcher));
    for (const frame of await watcher.framesUntilPong()) {
      states.push(stateIn(frame));
    }
    assertEquals(states.at(-1), stays);
    // Nothing is said twice.
    const changes = states.filter((state, index) =>
      state !== states[index - 1]
    );
    assertEquals(states, changes, `round ${round}`);
    await seven.close();
    await watcher.close();
    for (let i = 0; i < 2; i++) await server.journal.next("disconnected");
  }
});

Deno.test("a user who comes back while the leave is on its way is not taken for gone", async () => {
  const backplane = new SlowBackplane();
  const left = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  await using server = serve({ backplane });
  await using watcher = await server.connect();
  await using first = await server.connect();
  await using second = await server.connect();
  await signIn(watcher, { id: "watcher", watchlist: ["7"] });
  assertEquals(await stateOfSeven(watcher), false);
  await signIn(first, { id: "7" });
  assertEquals(await stateOfSeven(watcher), true);
  backplane.turn = async (method, isAfter) => {
    if (method !== "leave" || !isAfter) return;
    left.resolve();
    await answer.promise;
  };
  await first.close();
  await within(DEADLINE_MS, "leave", left.promise);
  await signIn(second, { id: "7" });
  answer.resolve();
  await server.journal.next("disconnected");
  // A round through the server lets everything end that has begun.
  let isOnline = true;
  for (let round = 0; round < 20; round++) {
    for (const frame of await watcher.framesUntilPong()) {
      isOnline = stateIn(frame);
    }
  }
  assertEquals(isOnline, true);
  await assertReached(server, "7", [second], [watcher]);
});

/** Takes one watchlist frame: whether it says that 7 is online. */
async function stateOfSeven(client: Client): Promise<boolean> {
  return stateIn(await client.next(WATCHLIST));
}

function stateIn(frame: Frame): boolean {
  const { online = [], offline = [] } = listsOf(frame);
  assertEquals([...online, ...offline], ["7"]);
  return online.length > 0;
}

/** The bytes of a text frame that a client sends, with a mask of zeros. */
function frameOf(text: string): Uint8Array {
  const payload = new TextEncoder().encode(text);
  const head = payload.length < 126
    ? [0x81, 0x80 | payload.length]
    : [0x81, 0xfe, payload.length >> 8, payload.length & 255];
  return new Uint8Array([...head, 0, 0, 0, 0, ...payload]);
}

// ---- Presence ---------------------------------------------------------------

eachBackplane(
  "a signed-in connection joins a presence channel as the user",
  async (start) => {
    await using server = start({ clientEvents: true });
    await using ann = await server.connect();
    await using bob = await server.connect();
    await signIn(ann, { id: "zoë", user_info: { name: "Zoë ✓" } });
    await bob.join("presence-a", { member: { user_id: "bob" } });
    const { presence } = await ann.join("presence-a");
    assertEquals(presence.ids.sort(), ["bob", "zoë"]);
    assertEquals(presence.hash, { bob: {}, "zoë": { name: "Zoë ✓" } });
    assertEquals(presence.count, 2);
    assertEquals(dataOf(await bob.next(ADDED)), {
      user_id: "zoë",
      user_info: { name: "Zoë ✓" },
    });
    ann.send({ event: "client-x", channel: "presence-a" });
    assertEquals((await bob.next("client-x")).user_id, "zoë");
    assertEquals(
      new Set((await server.pusher.users("presence-a")).users.map((u) => u.id)),
      new Set(["bob", "zoë"]),
    );
    const added = server.journal.told("member_added");
    assertEquals(added.at(-1), "member_added presence-a zoë");
    await leave(server, ann);
    assertEquals(dataOf(await bob.next(REMOVED)), { user_id: "zoë" });
  },
);

eachBackplane(
  "a presence channel without channel_data needs a sign-in and the signature",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    const { app, socketId } = client;
    const channel = "presence-a";
    const auth = channelAuth(app, socketId, channel);
    assertEquals(await client.refused(channel, { auth }), "AuthError 401");
    await signIn(client, { id: "7" });
    for (
      const wrong of [
        null,
        "",
        "wrong",
        channelAuth(app, socketId, "presence-b"),
        channelAuth(app, socketId, channel, ""),
        userAuth(app, socketId, '{"id":"7"}'),
        auth.toUpperCase(),
      ]
    ) {
      assertEquals(
        await client.refused(channel, { auth: wrong }),
        "AuthError 401",
      );
    }
    const { presence } = await client.join(channel, { auth });
    assertEquals(presence, { ids: ["7"], hash: { "7": {} }, count: 1 });
    await client.join("presence-cache-a");
    await client.next("pusher:cache_miss");
  },
);

eachBackplane(
  "channel_data counts for more than the sign-in",
  async (start) => {
    await using server = start();
    await using client = await server.connect();
    await signIn(client, { id: "7", user_info: { n: 1 } });
    const member = { user_id: "seven", user_info: { n: 2 } };
    const { presence } = await client.join("presence-a", { member });
    assertEquals(presence.hash, { seven: { n: 2 } });
    // A presence member is not who is signed in, nor the other way round.
    await assertReached(server, "seven", [], [client]);
    await server.pusher.terminateUserConnections("seven");
    await assertReached(server, "7", [client]);
    assertEquals(
      await client.refused("presence-b", { channelData: "{}" }),
      "InvalidChannelData 400",
    );
  },
);

eachBackplane(
  "user_info of a sign-in keeps to the rules of presence channels",
  async (start) => {
    await using server = start();
    const wrong: unknown[] = [];
    for (
      const [user_info, expected] of [
        [undefined, "{}"],
        [null, "{}"],
        [[], "{}"],
        [{ n: 1 }, '{"n":1}'],
        // Whether the sign-in fails or the subscription, nobody is told of it.
        ["text", "refused"],
        [true, "refused"],
        [[1], "refused"],
        [{ x: "x".repeat(1_024) }, "refused"],
      ] as const
    ) {
      await using client = await server.connect();
      client.requestSignIn({ id: "7", user_info });
      await client.next();
      const frame = await client.subscribe("presence-a");
      const told = frame.event === "pusher:subscription_error"
        ? "refused"
        : JSON.stringify(dataOf(frame).presence.hash["7"]);
      if (told !== expected) wrong.push([user_info, told]);
      await leave(server, client);
    }
    assertEquals(wrong, []);
  },
);

// ---- Auth endpoint ----------------------------------------------------------

/** Asks the endpoint for users as clients do. */
async function ask(
  url: string,
  form: Record<string, string>,
  headers: Record<string, string> = {},
): Promise<Answer> {
  return await read(
    await fetch(`${url}/pusher/user-auth`, {
      method: "POST",
      headers,
      body: new URLSearchParams(form),
    }),
  );
}

Deno.test("POST /pusher/user-auth is not ours without authenticate", async () => {
  await using server = serve({ authorize: () => true }, {
    after: [async (request) => new Response(await request.text())],
  });
  const { text } = await ask(server.url, { socket_id: "1.1" });
  assertEquals(text, "socket_id=1.1");
  await using alone = serve({ authorize: () => true });
  assertEquals((await ask(alone.url, { socket_id: "1.1" })).status, 404);
});

Deno.test("authenticate alone does not open POST /pusher/auth", async () => {
  await using server = serve({ authenticate: () => ({ id: "7" }) });
  const response = await fetch(`${server.url}/pusher/auth`, {
    method: "POST",
    body: new URLSearchParams({ socket_id: "1.1", channel_name: "private-a" }),
  });
  await response.body?.cancel();
  assertEquals(response.status, 404);
});

Deno.test("POST /pusher/user-auth signs whom authenticate names", async () => {
  const user = { id: "zoë", user_info: { n: "ë" }, watchlist: ["7"], more: 1 };
  for (const path of ["", "/realtime"]) {
    await using server = serve({
      path,
      authenticate(request, { app, socketId, params }) {
        assertEquals(request.headers.get("cookie"), "session=1");
        assertEquals(app, APP.id);
        assertMatch(socketId, /^\d+\.\d+$/);
        switch (params.get("as")) {
          case "now":
            return user;
          case "later":
            return Promise.resolve(user);
          case "nobody":
            return null;
          default:
            return Promise.resolve(null);
        }
      },
    });
    const asking = (socket_id: string, as: string) =>
      ask(server.url, { socket_id, as }, { cookie: "session=1" });
    for (const as of ["now", "later"]) {
      await using client = await server.connect();
      const { socketId } = client;
      const { status, body, headers } = await asking(socketId, as);
      assertEquals(status, 200);
      assertMatch(headers.get("content-type") ?? "", /^application\/json/);
      assertEquals(headers.get("cache-control") ?? "no-store", "no-store");
      const user_data = JSON.stringify(user);
      assertEquals(body, {
        auth: userAuth(APP, socketId, user_data),
        user_data,
      });
      client.requestSignIn(body.user_data, { auth: body.auth });
      await client.next(SIGNED_IN);
      assertEquals(await watched(client), { offline: ["7"] });
    }
    for (const as of ["nobody", "nobody later"]) {
      const { status, body, headers } = await asking("1.1", as);
      assertEquals([status, Object.keys(body)], [403, ["error"]]);
      assertEquals(headers.get("content-type"), "application/json");
    }
    assertEquals(server.journal.told("error"), []);
  }
});

Deno.test("POST /pusher/user-auth signs for the app that the socket belongs to", async () => {
  const asked: string[] = [];
  await using server = serve({
    apps: TWO_APPS,
    authenticate(_request, { app }) {
      asked.push(app);
      return { id: "7" };
    },
  });
  for (const app of TWO_APPS) {
    await using client = await server.connect({ app });
    const form = { socket_id: client.socketId };
    const { status, body } = await ask(server.url, form);
    assertEquals([status, body], [200, {
      auth: userAuth(app, client.socketId, '{"id":"7"}'),
      user_data: '{"id":"7"}',
    }]);
    client.requestSignIn(body.user_data, { auth: body.auth });
    await client.next(SIGNED_IN);
  }
  assertEquals(asked, ["a", "b"]);
  // Nobody can say whose a socket is that is not there.
  const { status, body } = await ask(server.url, { socket_id: "1.1" });
  assert(status >= 400 && status < 500, `${status}`);
  assertEquals(Object.keys(body), ["error"]);
  assertEquals(asked.length, 2);
});

Deno.test("POST /pusher/user-auth refuses what it cannot sign, without asking authenticate", async () => {
  let asked = 0;
  await using server = serve({
    authenticate() {
      asked++;
      return { id: "7" };
    },
  });
  for (
    const form of [
      {},
      { user_id: "7" },
      { socket_id: "" },
      { socket_id: "1" },
      { socket_id: "1.1:private-a" },
      { socket_id: "1.1::user::{}" },
      { socket_id: "1.1\n" },
      { socket_id: "1.1", filler: "x".repeat(1_048_577) },
    ] as Record<string, string>[]
  ) {
    const { status, body } = await ask(server.url, form);
    const label = JSON.stringify(form).slice(0, 80);
    assert(status >= 400 && status < 500, `${status} ${label}`);
    assertEquals(Object.keys(body), ["error"], label);
  }
  assertEquals(asked, 0);
  for (const method of ["GET", "PUT", "DELETE"]) {
    const url = `${server.url}/pusher/user-auth?socket_id=1.1`;
    const response = await fetch(url, { method });
    await response.body?.cancel();
    assert([404, 405].includes(response.status), method);
  }
  assertEquals(asked, 0);
  assertEquals((await ask(server.url, { socket_id: "1.1" })).status, 200);
  assertEquals(asked, 1);
});

Deno.test("POST /pusher/user-auth is refused when authenticate fails, and the failure is reported", async () => {
  const answers: (() => unknown)[] = [
    () => {
      throw new Error("a detail");
    },
    () => Promise.reject(new Error("a detail")),
    () => ({}),
    () => ({ id: 7 }),
    () => ({ id: "" }),
    () => ({ id: "x".repeat(129) }),
    () => ({ user_id: "7" }),
    () => ({ id: "7", user_info: "text" }),
    () => ({ id: "7", n: 1n }),
    // These are merely no user; the others are faults of the program.
    () => "7",
    () => 7,
    () => true,
    () => undefined,
  ];
  await using server = serve({
    authenticate: (_request, { params }) =>
      answers[Number(params.get("which"))]?.() as UserData,
  });
  for (const which of answers.keys()) {
    const form = { socket_id: "1.1", which: String(which) };
    const { status, text, body } = await ask(server.url, form);
    assert(status === 403 || status === 500, `${which}: ${status} ${text}`);
    assertEquals(Object.keys(body), ["error"]);
    assert(!text.includes("a detail"), text);
    if (which >= answers.length - 4) continue;
    const { during } = await server.journal.next("error");
    assertMatch(during, /authenticat/);
  }
});

Deno.test("POST /pusher/user-auth answers pages of its own origin only, unless origins allows more", async () => {
  for (const isOpen of [false, true]) {
    await using server = serve({
      authenticate: () => ({ id: "7" }),
      ...(isOpen ? { origins: "https://a.example" } : {}),
    });
    const host = `127.0.0.1:${server.port}`;
    for (
      const [origin, isAllowed] of [
        [undefined, true],
        [`http://${host}`, true],
        ["https://a.example", isOpen],
        ["https://b.example", false],
        [`http://${host}.evil.test`, false],
        ["null", false],
      ] as const
    ) {
      const given = origin === undefined ? {} : { origin };
      const { status, headers } = await ask(
        server.url,
        { socket_id: "1.1" },
        given,
      );
      assertEquals(status, isAllowed ? 200 : 403, origin);
      const isCross = origin === "https://a.example" && isOpen;
      if (isCross) {
        assertEquals(headers.get("access-control-allow-origin"), origin);
        assertMatch(headers.get("vary") ?? "", /origin/i);
      } else if (!isAllowed) {
        assertEquals(headers.get("access-control-allow-origin"), null);
      }
      if (origin === undefined) continue;
      const preflight = await fetch(`${server.url}/pusher/user-auth`, {
        method: "OPTIONS",
        headers: {
          origin,
          "access-control-request-method": "POST",
          "access-control-request-headers": "content-type,x-csrf-token",
        },
      });
      await preflight.body?.cancel();
      const told = (name: string) =>
        preflight.headers.get(`access-control-allow-${name}`);
      if (!isCross) {
        if (!isAllowed) assertEquals(told("origin"), null, origin);
        continue;
      }
      assert(preflight.ok);
      assertEquals(told("origin"), origin);
      assertMatch(told("methods") ?? "", /POST/);
      assertMatch(told("headers") ?? "", /content-type/i);
      assertMatch(told("headers") ?? "", /x-csrf-token/i);
    }
  }
});

// ---- Authorised connections -------------------------------------------------

eachBackplane(
  "authorizationTimeoutMs closes connections that are nobody by then",
  async (start) => {
    await using server = start({ authorizationTimeoutMs: 1_000 });
    await using signedIn = await server.connect();
    await using onPrivate = await server.connect();
    await using onPresence = await server.connect();
    await using onEncrypted = await server.connect();
    await using onCache = await server.connect();
    const authorized = [signedIn, onPrivate, onPresence, onEncrypted, onCache];
    await signIn(signedIn, { id: "7" });
    await onPrivate.join("private-a");
    await onPresence.join("presence-a", { member: { user_id: "8" } });
    await onEncrypted.join("private-encrypted-a");
    await onCache.join("private-cache-a");
    await onCache.next("pusher:cache_miss");

    await using idle = await server.connect();
    await using onPublic = await server.connect();
    await using refused = await server.connect();
    await onPublic.join("news");
    await onPublic.join("cache-a");
    await onPublic.next("pusher:cache_miss");
    refused.requestSignIn({ id: "7" }, { auth: "wrong" });
    await notSignedIn(refused);
    assertEquals(
      await refused.refused("private-a", { auth: "wrong" }),
      "AuthError 401",
    );
    assertEquals(await refused.refused("#server-to-user-7"), "AuthError 401");
    for (const client of [idle, onPublic, refused]) {
      assertEquals((await client.turnedAway()).code, 4009);
      assertEquals((await server.journal.next("disconnected")).code, 4009);
    }
    // They have been there for longer.
    for (const client of authorized) await client.silence();
  },
);

// ---- Options ----------------------------------------------------------------

Deno.test("Pusher refuses wrong options for users, caches, counts and encryption by name", () => {
  const table: [options: Record<string, unknown>, name: string][] = [
    [{ authenticate: "everybody" }, "authenticate"],
    [{ authenticate: {} }, "authenticate"],
    [{ authorizationTimeoutMs: 0 }, "authorizationTimeoutMs"],
    [{ authorizationTimeoutMs: -1 }, "authorizationTimeoutMs"],
    [{ authorizationTimeoutMs: NaN }, "authorizationTimeoutMs"],
    [{ authorizationTimeoutMs: "30" }, "authorizationTimeoutMs"],
    [{ authorizationTimeoutMs: 2 ** 31 }, "authorizationTimeoutMs"],
    [{ cacheTtlMs: 0 }, "cacheTtlMs"],
    [{ cacheTtlMs: -1 }, "cacheTtlMs"],
    [{ cacheTtlMs: "1" }, "cacheTtlMs"],
    [{ subscriptionCounts: "yes" }, "subscriptionCounts"],
    [{ subscriptionCounts: 1 }, "subscriptionCounts"],
    [{ encryption: true }, "encryption"],
    [{ encryption: {} }, "encryption"],
    [{ encryption: { encrypt() {} } }, "encryption"],
    [{ limits: { watchedUsers: -1 } }, "watchedUsers"],
    [{ limits: { watchedUsers: 1.5 } }, "watchedUsers"],
    [
      { apps: [{ ...TWO_APPS[0], subscriptionCounts: "yes" }] },
      "subscriptionCounts",
    ],
    [{ apps: [{ ...TWO_APPS[0], encryption: 5 }] }, "encryption"],
    [{ apps: [{ ...TWO_APPS[0], authenticate() {} }] }, "authenticate"],
  ];
  const accepted = table.filter(([options, name]) => {
    try {
      new Pusher(options as PusherOptions);
      return true;
    } catch (error) {
      assert(error instanceof TypeError || error instanceof RangeError, name);
      assertStringIncludes(error.message, name);
      return false;
    }
  });
  assertEquals(accepted, []);
});

// ---- Stock client -----------------------------------------------------------

/** The option with which pusher-js signs in as a user whom the SDK names. */
function authenticatedBy(
  server: TestServer,
  user: UserData,
  member = authorizedBy(sdk(server)),
): StockOptions {
  return {
    ...member,
    userAuthentication: {
      endpoint: "",
      transport: "ajax",
      customHandler({ socketId }, callback) {
        callback(null, sdk(server).authenticateUser(socketId, user));
      },
    },
  };
}

/** Resolves when pusher-js has signed in, and subscribed to what is the user's. */
function signedIn(client: StockClient): Promise<void> {
  const done = new Promise<void>((resolve) =>
    client.pusher.connection.bind("message", ({ event }: Frame) => {
      if (event === "pusher_internal:subscription_succeeded") resolve();
    })
  );
  return within(DEADLINE_MS, "sign-in", done);
}

/** Signs pusher-js in. */
async function stockSignIn(client: StockClient): Promise<void> {
  const done = signedIn(client);
  client.pusher.signin();
  await done;
}

eachBackplane(
  "pusher-js signs in and gets what is sent to the user",
  async (start) => {
    await using server = start();
    const user = { id: "zoë", user_info: { n: 1 } };
    using client = new StockClient(server, authenticatedBy(server, user));
    const got: unknown[] = [];
    client.pusher.user.bind("hi", (data: unknown) => got.push(data));
    await stockSignIn(client);
    assertEquals(client.pusher.user.user_data, user);
    await sdk(server).sendToUser("zoë", "hi", { x: 1 });
    await server.pusher.sendToUser("zoë", "hi", "text");
    await server.pusher.sendToUser("zo", "hi", "wrong");
    await client.fence();
    assertEquals(got, [{ x: 1 }, "text"]);

    // And on its next connection, where it signs in by itself.
    client.pusher.disconnect();
    assertEquals(client.pusher.user.user_data, null);
    const back = signedIn(client);
    client.pusher.connect();
    await back;
    await server.pusher.sendToUser("zoë", "hi", "again");
    await client.fence();
    assertEquals(got, [{ x: 1 }, "text", "again"]);
  },
);

Deno.test({
  name:
    "pusher-js does not come back when its user's connections are terminated",
  // It leaves a timer that outlives the test by seconds.
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await using server = serve();
    using client = new StockClient(
      server,
      authenticatedBy(server, { id: "7" }),
    );
    await stockSignIn(client);
    await sdk(server).terminateUserConnections("7");
    await client.connection.until("disconnected");
    assertEquals(client.pusher.connection.state, "disconnected");
    assertEquals(client.pusher.user.user_data, null);
  },
});

eachBackplane(
  "pusher-js tells who of the watchlist comes and goes",
  async (start) => {
    await using server = start();
    const user = { id: "watcher", watchlist: ["7", "8"] };
    await using eight = await server.connect();
    await signIn(eight, { id: "8" });
    using client = new StockClient(server, authenticatedBy(server, user));
    const told = new Inbox(client.pusher.user.watchlist);
    await stockSignIn(client);
    const of = (id: string, name: string) => [name, { name, user_ids: [id] }];
    assertEquals<unknown>(
      (await told.until("online")).at(-1),
      of("8", "online"),
    );
    assertEquals<unknown>(await told.until("offline"), [of("7", "offline")]);
    await using seven = await server.connect();
    await signIn(seven, { id: "7" });
    assertEquals<unknown>(await told.until("online"), [of("7", "online")]);
    await seven.close();
    assertEquals<unknown>(await told.until("offline"), [of("7", "offline")]);
  },
);

eachBackplane(
  "pusher-js joins a presence channel as the user",
  async (start) => {
    await using server = start();
    const user = { id: "7", user_info: { name: "Ann" } };
    using client = new StockClient(server, authenticatedBy(server, user));
    const room = client.subscribe("presence-room");
    client.pusher.signin();
    await room.until("pusher:subscription_succeeded");
    assertEquals(client.presence("presence-room").members.me, {
      id: "7",
      info: { name: "Ann" },
    });
  },
);

Deno.test("pusher-js signs in at POST /pusher/user-auth", async () => {
  await using server = serve({
    authenticate: (_request, { params }) =>
      params.get("token") === "right" ? { id: "7" } : null,
  });
  const endpoint = `${server.url}/pusher/user-auth`;
  const options = (token: string): StockOptions => ({
    userAuthentication: { endpoint, transport: "ajax", params: { token } },
  });
  using client = new StockClient(server, options("right"));
  await stockSignIn(client);
  assertEquals(client.pusher.user.user_data, { id: "7" });
  using stranger = new StockClient(server, options("wrong"));
  const refused = new Promise<{ type: string; status: number }>((resolve) =>
    stranger.pusher.user.bind("pusher:signin_error", resolve)
  );
  stranger.pusher.signin();
  const { type, status } = await within(DEADLINE_MS, "refusal", refused);
  assertEquals([type, status], ["AuthError", 403]);
});
