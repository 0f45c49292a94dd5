/**
 * Users: how they sign in, the events sent to them, and how their connections are
 * terminated. Each rule is tested with every kind of backplane.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { eachBackplane, lateJoin } from "../support/backplanes.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { type Client, leave, serve, TWO_APPS } from "../support/server.ts";
import {
  authenticatedBy,
  sdk,
  signedIn,
  StockClient,
  type StockOptions,
  stockSignIn,
} from "../support/stock.ts";
import {
  assertReached,
  notSignedIn,
  signIn,
  watched,
} from "../support/users.ts";
import {
  type App,
  channelAuth,
  dataOf,
  hmac,
  userAuth,
} from "../support/wire.ts";

const SIGNED_IN = "pusher:signin_success";
const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";

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
      journal.calls().filter((entry) =>
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
    assertEquals(server.journal.calls("client_event"), []);
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

// ---- Stock client -----------------------------------------------------------

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
