/**
 * Several keys of one app, while its secret is replaced: which of them signs, and
 * which are accepted where.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertFalse,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { APP, read, serve } from "../support/server.ts";
import {
  authenticatedBy,
  authorizedBy,
  sdk,
  StockClient,
  stockSignIn,
} from "../support/stock.ts";
import { channelAuth, dataOf, hmac, userAuth } from "../support/wire.ts";

const NEW = { ...APP, key: "new-key", secret: "the-new-secret" };
const OLDEST = { ...APP, key: "oldest-key", secret: "the-oldest-secret" };

/** The keys of the app, the newest first: as a list, or with the newest beside it. */
const FORMS: Record<string, PusherOptions> = {
  "keys": { appId: APP.id, keys: [NEW, APP, OLDEST].map(pairOf) },
  "key, secret and keys": {
    appId: APP.id,
    ...pairOf(NEW),
    keys: [APP, OLDEST].map(pairOf),
  },
  "apps[].keys": {
    apps: [{ id: APP.id, keys: [NEW, APP, OLDEST].map(pairOf) }],
  },
  "apps[].key, secret and keys": {
    apps: [{
      id: APP.id,
      ...pairOf(NEW),
      keys: [APP, OLDEST].map(pairOf),
    }],
  },
};

function pairOf({ key, secret }: { key: string; secret: string }) {
  return { key, secret };
}

for (const [form, options] of Object.entries(FORMS)) {
  Deno.test(`with ${form} a client may connect with each key, and is permitted by each`, async () => {
    await using server = serve({ ...options, authorize: () => true });
    for (const connecting of [NEW, APP, OLDEST]) {
      await using client = await server.connect({ app: connecting });
      for (const signing of [NEW, APP, OLDEST]) {
        const channel = `private-${signing.key}`;
        const auth = channelAuth(signing, client.socketId, channel);
        client.send({ event: "pusher:subscribe", data: { channel, auth } });
        await client.next("pusher_internal:subscription_succeeded");
      }
      const form = new URLSearchParams({
        socket_id: client.socketId,
        channel_name: "private-a",
        app_key: connecting.key,
      });
      const init = { method: "POST", body: form };
      const { body } = await read(
        await fetch(`${server.url}/pusher/auth`, init),
      );
      // The newest key signs, whatever key the client knows.
      assertEquals(body.auth, channelAuth(NEW, client.socketId, "private-a"));
    }
  });

  Deno.test(`with ${form} requests may be signed with each key`, async () => {
    await using server = serve(options);
    await using client = await server.connect({ app: OLDEST });
    client.send({ event: "pusher:subscribe", data: { channel: "a" } });
    await client.next("pusher_internal:subscription_succeeded");
    for (const app of [NEW, APP, OLDEST]) {
      const body = { name: app.key, channel: "a", data: "x" };
      const { status } = await server.api("POST", "/events", { app, body });
      assertEquals(status, 200);
      await client.next(app.key);
    }
  });
}

Deno.test("a secret signs for its own key only", async () => {
  await using server = serve(FORMS["keys"]);
  const crossed = { ...APP, secret: NEW.secret };
  const { status, body } = await server.api("GET", "/channels", {
    app: crossed,
  });
  assertEquals(status, 401);
  assertFalse(JSON.stringify(body).includes(NEW.secret));
  const unknown = { ...APP, key: "removed-key" };
  const refused = await server.api("GET", "/channels", { app: unknown });
  assertEquals(refused.status, 401);
  assertMatch(refused.body.error, /^auth_key is "removed-key", and must be a/);
  await using client = await server.connect({ app: NEW });
  for (const app of [crossed, unknown, { ...NEW, secret: APP.secret }]) {
    const auth = channelAuth(app, client.socketId, "private-a");
    const data = { channel: "private-a", auth };
    client.send({ event: "pusher:subscribe", data });
    const refusal = await client.next("pusher:subscription_error");
    assertEquals(dataOf(refusal).status, 401);
  }
  assertEquals((await server.turnsAway({ app: unknown })).code, 4001);
});

Deno.test("the newest key signs in process, is served to browsers, and old webhooks stay valid", async () => {
  await using pusher = new Pusher(FORMS["apps[].keys"]);
  assertEquals(
    pusher.authorizeChannel("1.2", "private-a").auth,
    channelAuth(NEW, "1.2", "private-a"),
  );
  const user = { id: "ann" };
  assertEquals(
    pusher.authenticateUser("1.2", user).auth,
    userAuth(NEW, "1.2", JSON.stringify(user)),
  );
  const script = await pusher.handler(
    new Request("http://localhost/pusher.js"),
  );
  const text = await script.text();
  assertStringIncludes(text, NEW.key);
  assertFalse(text.includes(APP.key));
  const rawBody = JSON.stringify({ time_ms: 1, events: [] });
  for (const { key, secret } of [NEW, APP, OLDEST]) {
    const headers = {
      "content-type": "application/json",
      "x-pusher-key": key,
      "x-pusher-signature": hmac(secret, rawBody),
    };
    assert(pusher.webhook({ headers, rawBody }).isValid());
    const other = { ...headers, "x-pusher-key": "removed-key" };
    assertFalse(pusher.webhook({ headers: other, rawBody }).isValid());
  }
});

Deno.test("pusher-js and the official SDK go on with an old key while the app has a newer one", async () => {
  await using server = serve(FORMS["key, secret and keys"]);
  // Both know the middle key only.
  const backend = sdk(server);
  using client = new StockClient(
    server,
    { ...authorizedBy(backend), ...authenticatedBy(server, { id: "ann" }) },
  );
  await stockSignIn(client);
  const inbox = await client.join("private-a");
  await backend.trigger("private-a", "news", 1);
  assertEquals((await inbox.until("news")).at(-1)?.[1], 1);
});

Deno.test("keys are refused by name, and no message holds a secret", () => {
  const b = { key: "b", secret: "tofu-b" };
  const c = { key: "c", secret: "tofu-c" };
  const table: [options: Record<string, unknown>, ...told: string[]][] = [
    [{ keys: [] }, "keys is an empty array"],
    [{ keys: "b:tofu" }, "keys"],
    [{ keys: [{ key: "b" }] }, "keys[0].secret"],
    [{ keys: [{ secret: "tofu-b" }] }, "keys[0].key"],
    [{ keys: [b, "c:tofu-c"] }, "keys[1]"],
    [{ keys: [b, { ...c, id: "c" }] }, "keys[1].id"],
    [{ keys: [{ ...b, secret: "" }] }, "keys[0].secret"],
    // The pair in one text, and the secret in place of the key.
    [{ keys: [{ ...b, key: "b:tofu" }] }, "keys[0].key", "none of / :"],
    [{ keys: [{ ...b, key: "tofu/b=" }] }, "keys[0].key", "none of / :"],
    [{ apps: [{ id: "1", ...b, key: "tofu/b=" }] }, "apps[0].key"],
    [{ keys: [b, b] }, "keys[1].key", '"b"', "keys[0]"],
    [{ ...b, keys: [b] }, "keys[0].key", '"b"', "the options"],
    [{ key: "a", keys: [b] }, "secret"],
    [{ secret: "tofu-a", keys: [b] }, "key"],
    [{ apps: [{ id: "1" }] }, "apps[0].key"],
    [{ apps: [{ id: "1", ...b }], keys: [c] }, "apps", "keys"],
    [{ apps: [{ id: "1", key: "a", keys: [b] }] }, "apps[0].secret"],
    [{ apps: [{ id: "1", keys: [] }] }, "apps[0].keys"],
    [
      { apps: [{ id: "1", keys: [b, c] }, { id: "2", ...c }] },
      "apps[1].key",
      '"c"',
      "apps[0].keys[1]",
    ],
    [
      { apps: [{ id: "1", ...b }, { id: "2", ...c, keys: [b] }] },
      "apps[1].keys[0].key",
      '"b"',
      "apps[0]",
    ],
  ];
  for (const [options, ...told] of table) {
    const { message } = assertThrows(
      () => new Pusher(options as never),
      TypeError,
    );
    for (const part of told) assertStringIncludes(message, part);
    assertFalse(message.includes("tofu"), message);
  }
});

Deno.test("a Pusher goes by its keys as they were checked", async () => {
  const keys = [pairOf(NEW)];
  await using pusher = new Pusher({ keys });
  keys[0]!.secret = "changed";
  keys.push(pairOf(OLDEST));
  assertEquals(
    pusher.authorizeChannel("1.2", "private-a").auth,
    channelAuth(NEW, "1.2", "private-a"),
  );
  const statusOf = async (key: string) =>
    (await pusher.handler(new Request(`http://localhost/app/${key}`))).status;
  assertEquals(await statusOf(NEW.key), 426);
  assertEquals(await statusOf(OLDEST.key), 404);
});
