/**
 * Presence channels: who may be a member, how many, and when a member is gone.
 */
import { assert, assertEquals } from "@std/assert";
import { eachBackplane } from "../support/backplanes.ts";
import { APP, type Client, leave, objectOf, serve } from "../support/server.ts";
import { assertReached, signIn } from "../support/users.ts";
import { channelAuth, dataOf, userAuth, wireFrame } from "../support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const REMOVED = "pusher_internal:member_removed";
const ADDED = "pusher_internal:member_added";

// ---- Members ----------------------------------------------------------------

Deno.test("a member needs a user_id and user_info of the right kind and size", async () => {
  await using server = serve();
  await using client = await server.connect();
  const invalid = "InvalidChannelData 400";
  const table: [channelData: string, answer: string | object][] = [
    ["not json", invalid],
    ["", invalid],
    ["null", invalid],
    ["[]", invalid],
    ['"x"', invalid],
    ["{}", invalid],
    ['{"user_info":{}}', invalid],
    ['{"user_id":null}', invalid],
    ['{"user_id":true}', invalid],
    ['{"user_id":1.5}', invalid],
    ['{"user_id":9007199254740992}', invalid],
    ['{"user_id":1e400}', invalid],
    ['{"user_id":["x"]}', invalid],
    ['{"user_id":{}}', invalid],
    ['{"user_id":""}', invalid],
    ['{"user_id":"x","user_info":true}', invalid],
    ['{"user_id":"x","user_info":"text"}', invalid],
    ['{"user_id":"x","user_info":5}', invalid],
    ['{"user_id":"x","user_info":[1]}', invalid],
    [JSON.stringify({ user_id: "x".repeat(129) }), "LimitReached 413"],
    [
      JSON.stringify({ user_id: "x", user_info: objectOf(1_025) }),
      "LimitReached 413",
    ],
    [
      JSON.stringify({ user_id: "x", user_info: { x: "ü".repeat(509) } }),
      "LimitReached 413",
    ],
    ['{"user_id":"x"}', { x: {} }],
    ['{"user_id":"x","user_info":null}', { x: {} }],
    ['{"user_id":"x","user_info":[]}', { x: {} }],
    ['{"user_id":0}', { "0": {} }],
    ['{"user_id":9007199254740991}', { "9007199254740991": {} }],
    ['{"user_id":"zoë ✓ :"}', { "zoë ✓ :": {} }],
    [JSON.stringify({ user_id: "ü".repeat(128) }), { ["ü".repeat(128)]: {} }],
    [
      JSON.stringify({ user_id: "x", user_info: objectOf(1_024) }),
      { x: objectOf(1_024) },
    ],
    [
      JSON.stringify({ user_id: "x", user_info: { x: "ü".repeat(508) } }),
      { x: { x: "ü".repeat(508) } },
    ],
    ['{"user_id":"x","user_info":{},"more":1}', { x: {} }],
  ];
  for (const [channelData, answer] of table) {
    if (typeof answer === "string") {
      const refused = await client.refused("presence-a", { channelData });
      assertEquals(refused, answer, channelData.slice(0, 99));
    } else {
      const { presence } = await client.join("presence-a", { channelData });
      assertEquals(presence.hash, answer);
      client.unsubscribe("presence-a");
    }
  }
});

Deno.test("a presence channel takes 100 users, and any number of their sockets", async () => {
  await using server = serve();
  await using clients = await server.connectAll(102);
  const [last, again] = clients.splice(100) as Client[];
  for (const [index, client] of clients.entries()) {
    const member = { user_id: index };
    client.requestSubscribe("presence-a", { member });
    await client.next(SUCCEEDED);
  }
  assert(last && again);
  assertEquals(
    await last.refused("presence-a", { member: { user_id: "one more" } }),
    "LimitReached 403",
  );
  const { presence } = await again.join("presence-a", {
    member: { user_id: 99 },
  });
  assertEquals(presence.count, 100);
  assertEquals((await server.pusher.users("presence-a")).users.length, 100);
  await clients[0]?.close();
  assertEquals((await again.next(REMOVED)).data, '{"user_id":"0"}');
  await last.join("presence-a", { member: { user_id: "one more" } });
  await Promise.all([last.close(), again.close()]);
});

// ---- Leaving ----------------------------------------------------------------

Deno.test("a connection that breaks off takes its member with it", async () => {
  await using server = serve();
  await using bob = await server.connect();
  await bob.join("presence-a", { member: { user_id: "bob" } });
  using raw = await server.raw();
  await raw.upgrade("/app/app-key?protocol=7");
  const { socket_id } = dataOf(await raw.readText());
  const channel_data = '{"user_id":"ann"}';
  const auth = channelAuth(APP, socket_id, "presence-a", channel_data);
  const data = { channel: "presence-a", auth, channel_data };
  const frame = { event: "pusher:subscribe", data };
  await raw.write(wireFrame(JSON.stringify(frame)));
  await bob.next(ADDED);
  raw.drop();
  await bob.next(REMOVED);
  assertEquals((await server.journal.next("disconnected")).code, 1006);
});

// ---- Signed-in users --------------------------------------------------------

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
    const added = server.journal.calls("member_added");
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
