/**
 * The samples of the official Node SDK, each run twice: by the SDK over HTTP, and in
 * process by Pusher, which has the same methods. What differs on purpose is in
 * docs/protocol.md, under "Deliberate differences".
 */
import {
  Pusher,
  type PusherOptions,
  RequestError,
  type SignedQueryOptions,
  WebHookError,
} from "@glitz/pusher";
import { encryption } from "@glitz/pusher/encryption";
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import StockServerSdk from "pusher";
import { APP, serve, type TestServer } from "../support/server.ts";
import { MASTER_KEY, sdk } from "../support/stock.ts";
import { DOCS, hmac } from "../support/wire.ts";

/** What the samples need of either class. */
type Either = Pick<
  StockServerSdk,
  | "trigger"
  | "triggerBatch"
  | "sendToUser"
  | "terminateUserConnections"
  | "get"
  | "post"
  | "authenticate"
  | "authorizeChannel"
  | "authenticateUser"
  | "createSignedQueryString"
  | "webhook"
>;

/** A server whose own methods encrypt with the key of the SDK. */
function serveBoth(options: PusherOptions = {}): TestServer {
  const masterKeyBase64 = MASTER_KEY;
  return serve({ encryption: encryption({ masterKeyBase64 }), ...options });
}

/** Runs the same with the SDK and with the class in process. */
async function both<T>(
  server: TestServer,
  run: (pusher: Either) => T | Promise<T>,
): Promise<[byHttp: T, inProcess: T]> {
  const own = server.pusher as unknown as Either;
  return [await run(sdk(server)), await run(own)];
}

// ---- Surface ----------------------------------------------------------------

/** Neither in the SDK's types nor in its documentation. */
const INTERNAL = ["constructor", "channelSharedSecret", "Token"];

Deno.test("Pusher has every method and static of the official SDK", async () => {
  const standard = Object.getOwnPropertyNames(class {}).concat(
    "arguments",
    "caller",
  );
  const names = (holder: object) =>
    Object.getOwnPropertyNames(holder).filter((name) =>
      !standard.includes(name) && !INTERNAL.includes(name)
    );
  await using pusher = new Pusher();
  const missing = names(StockServerSdk.prototype).filter((name) =>
    !(name in pusher)
  ).concat(names(StockServerSdk).filter((name) => !(name in Pusher)));
  assertEquals(missing, []);
  assert(names(StockServerSdk.prototype).length >= 11);
  // Each method is a static of the default instance, too.
  const own = names(StockServerSdk.prototype).filter((name) =>
    !(name in Pusher)
  );
  assertEquals(own, []);
});

// ---- Samples ----------------------------------------------------------------

/** The samples of the SDK's README that return a promise. */
const SAMPLES: Record<string, (pusher: Either) => Promise<unknown>> = {
  "one channel": (pusher) =>
    pusher.trigger("channel-1", "test_event", { message: "hello world" }),
  "several channels": (pusher) =>
    pusher.trigger(["channel-1", "channel-2"], "test_event", {
      message: "hello world",
    }),
  "a batch": (pusher) =>
    pusher.triggerBatch([
      { channel: "channel-1", name: "test-event-1", data: { message: "a" } },
      { channel: "channel-2", name: "test-event-2", data: { message: "b" } },
    ]),
  "to a user": (pusher) =>
    pusher.sendToUser("user-1", "test_event", { message: "hello world" }),
  "without a recipient": (pusher) =>
    pusher.trigger("channel", "event", {}, { socket_id: "1302.1081607" }),
  "a batch without a recipient": (pusher) =>
    pusher.triggerBatch([
      { channel: "channel", name: "n", data: {}, socket_id: "1302.1081607" },
    ]),
  "counts of a trigger": (pusher) =>
    pusher.trigger("presence-my-channel", "event", "test", {
      info: "user_count,subscription_count",
    }),
  "counts of a batch": (pusher) =>
    pusher.triggerBatch([
      {
        channel: "my-channel",
        name: "event",
        data: "test1",
        info: "subscription_count",
      },
      {
        channel: "presence-my-channel",
        name: "event",
        data: "test2",
        info: "user_count,subscription_count",
      },
    ]),
  "an encrypted channel": (pusher) =>
    pusher.trigger("private-encrypted-news", "event", { n: 1 }),
  "terminating connections": (pusher) =>
    pusher.terminateUserConnections("user-1"),
  "the channels": (pusher) => pusher.get({ path: "/channels", params: {} }),
  "the channels without params": (pusher) => pusher.get({ path: "/channels" }),
  "some channels": (pusher) =>
    pusher.get({
      path: "/channels",
      params: { filter_by_prefix: "presence-", info: "user_count" },
    }),
  "a channel": (pusher) =>
    pusher.get({
      path: "/channels/presence-my-channel",
      params: { info: "user_count,subscription_count" },
    }),
  "the users of a channel": (pusher) =>
    pusher.get({ path: "/channels/presence-my-channel/users" }),
  "an event by post": (pusher) =>
    pusher.post({
      path: "/events",
      // The SDK's types say string, and the SDK wants an object.
      body: { name: "e", channel: "my-channel", data: "{}" } as never,
    }),
  "an event in the parameters": (pusher) =>
    pusher.post({
      path: "/events",
      params: { name: "e", channel: "my-channel", data: "zoë ✓" },
    } as never),
};

Deno.test("each sample of the official SDK has the same answer over HTTP and in process", async () => {
  await using server = serveBoth();
  await using client = await server.connect();
  await client.join("presence-my-channel", { member: { user_id: "ann" } });
  await client.join("my-channel");
  for (const [name, run] of Object.entries(SAMPLES)) {
    const [byHttp, inProcess] = await both(server, async (pusher) => {
      // Both have these parts of a response.
      const response = await run(pusher) as Response;
      return { status: response.status, body: await response.json() };
    });
    assertEquals(inProcess, byHttp, name);
    assertEquals(inProcess.status, 200, name);
  }
});

Deno.test("get and post reject for what the HTTP API refuses, like the official SDK", async () => {
  await using server = serveBoth();
  const requests: [number, (pusher: Either) => Promise<unknown>][] = [
    [404, (pusher) => pusher.get({ path: "/no-such-route" })],
    [405, (pusher) => pusher.get({ path: "/events" })],
    [400, (pusher) => pusher.get({ path: "/channels/a b" })],
    [
      400,
      (pusher) =>
        pusher.get({ path: "/channels/news", params: { info: "user_count" } }),
    ],
    [400, (pusher) => pusher.get({ path: "/channels/news/users" })],
    [400, (pusher) => pusher.post({ path: "/events", body: {} as never })],
  ];
  for (const [status, run] of requests) {
    const [byHttp, inProcess] = await both(server, (pusher) =>
      run(pusher).then(
        () => assert(false, `no error for ${status}`),
        ({ name, status, body }) => ({ name, status, body }),
      ));
    assertEquals(inProcess, byHttp);
    assertEquals(Object(inProcess).status, status);
  }
  const { pusher } = server;
  const error = await assertRejects(
    () => pusher.get({ path: "/channels/news/users" }),
    RequestError,
    "Cannot GET /apps/app-id/channels/news/users: Only presence channels have users, status 400",
  );
  assert(error instanceof Pusher.RequestError);
  assert(!`${error.stack}${error.url}`.includes("auth_signature"));
  await pusher.close();
  const closed = await assertRejects(() => pusher.get({ path: "/channels" }));
  assertEquals((closed as RequestError).status, 503);
});

/** Parameters that have no text, or would be left out without a word. */
const UNSENDABLE: [params: unknown, part: string][] = [
  [new URLSearchParams("info=user_count"), "an object of names and values"],
  [new Map([["info", "user_count"]]), "an object of names and values"],
  [{ info: {} }, "params.info is an object, and must be a string, a number"],
  [{ info: [{}] }, "params.info is an array"],
  [{ info: Object.create(null) }, "params.info is an object"],
  [{ info: Symbol("a") }, "params.info is Symbol(a)"],
  [{ info: () => 1 }, "params.info is a function"],
  [{ info: "\ud800" }, "must be well-formed Unicode"],
  [{ "\udc00": "a" }, "must be well-formed Unicode"],
];

Deno.test("get and post refuse at once what is no request of the HTTP API", async () => {
  await using pusher = new Pusher({ path: "/realtime" });
  const wrong: [options: unknown, part: string][] = [
    [undefined, "options is undefined"],
    ["/channels", "options is a string of 9 characters"],
    [{ path: "channels" }, 'path is "channels"'],
    [{ path: "/channels?info=user_count" }, "with its query in params"],
    [{ path: "/channels/#x" }, "must be like"],
    [{ path: "/channels/../../other/events" }, "have no dots for a name"],
    [{ path: "/users/%2e%2e/events" }, "have no dots for a name"],
    [{ path: String.raw`/users\x\..\events` }, "have no dots for a name"],
    [{ path: String.raw`/channels/a\..\b` }, "no backslash"],
    [{ path: String.raw`/channels/..\..\2\channels\a` }, "no backslash"],
    [{ path: "/chan\tnels" }, "no control character"],
    [{ path: "/channels/a\n" }, "no control character"],
    [{ path: "/channels/a " }, "no space at its end"],
    [{ path: "/channels", query: {} }, 'unknown option "query"'],
    [{ path: "/channels", params: "info" }, 'params is "info"'],
    [
      { path: "/channels", params: { auth_key: "key" } },
      'params.auth_key is "key", and must be left to the signature',
    ],
    ...UNSENDABLE.map(([params, part]): [unknown, string] => [
      { path: "/channels", params },
      part,
    ]),
  ];
  for (const [options, part] of wrong) {
    for (const method of ["get", "post"] as const) {
      const call = () => pusher[method](options as { path: string });
      assertStringIncludes(assertThrows(call, TypeError).message, part);
    }
  }
  const body = { path: "/events", body: 5 as unknown as string };
  assertThrows(() => pusher.post(body), TypeError, "body is 5");
  assertThrows(() => pusher.get(body), TypeError, 'unknown option "body"');
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;
  for (const unsendable of [cyclic, { n: 1n }, { toJSON() {} }]) {
    const post = () => pusher.post({ path: "/events", body: unsendable });
    const rule = "body is an object, and must be an object that JSON can hold";
    assertThrows(post, TypeError, rule);
  }
  const post = () => pusher.post({ path: "/events", body: '{"a":"\ud800"}' });
  assertThrows(post, TypeError, "must be well-formed Unicode");
});

Deno.test("createSignedQueryString refuses parameters that it could not send", async () => {
  await using pusher = new Pusher();
  for (const [params, part] of UNSENDABLE) {
    const options = { method: "GET", path: "/apps/1/channels", params };
    const sign = () =>
      pusher.createSignedQueryString(options as SignedQueryOptions);
    assertThrows(sign, TypeError, part);
  }
});

Deno.test("parameters are texts, numbers, booleans and lists of them, or missing", async () => {
  await using pusher = new Pusher();
  const params: Record<string, unknown> = {
    ...{ b: true, l: ["user_count", 1], m: null, n: 5, t: "a&b", u: undefined },
  };
  const query = pusher.createSignedQueryString(
    { method: "GET", path: "/apps/1/channels", params } as SignedQueryOptions,
  );
  const sent = [...new URLSearchParams(query)]
    .filter(([name]) => !name.startsWith("auth_"));
  assertEquals(Object.fromEntries(sent), {
    ...{ b: "true", l: "user_count,1", n: "5", t: "a&b" },
  });
});

Deno.test("get and post ask the view's own app, below the server's path", async () => {
  const apps = ["a", "b"].map((id) => ({ id, key: `key-${id}`, secret: id }));
  await using pusher = new Pusher({ apps, path: "/realtime" });
  const events: unknown[] = [];
  const heard = Promise.withResolvers<void>();
  pusher.on("published", ({ app, channel, data }) => {
    events.push([app, channel, data]);
    if (events.length === 2) heard.resolve();
  });
  const event = { name: "e", channel: "news", data: "ä" };
  await pusher.post({ path: "/events", body: event });
  await pusher.app("b").post({ path: "/events", body: JSON.stringify(event) });
  await heard.promise;
  assertEquals(events, [["a", "news", "ä"], ["b", "news", "ä"]]);
  // The SDK does not escape its parameters.
  const params = { name: "e", channel: "news", data: "a=1&b #%+ä" };
  await pusher.post({ path: "/events", params });
});

// ---- Signatures -------------------------------------------------------------

Deno.test("signatures are those of the official SDK, under the old name, too", async () => {
  await using server = serveBoth();
  const user = { id: "unique_user_id", name: "John Doe", image: "https://…" };
  const member = {
    user_id: "unique_user_id",
    user_info: { name: "Phil Leggetter", twitter_id: "@leggetter" },
  };
  const [byHttp, inProcess] = await both(server, (pusher) => [
    pusher.authenticateUser("1234.1234", user),
    pusher.authorizeChannel("1234.1234", "private-foobar"),
    pusher.authorizeChannel("1234.1234", "private-encrypted-foobar"),
    pusher.authorizeChannel("1234.1234", "presence-foobar", member),
    pusher.authenticate("1234.1234", "private-foobar"),
    pusher.authenticate("1234.1234", "presence-foobar", member),
  ]);
  assertEquals(inProcess, byHttp);
  await using pusher = new Pusher();
  assertEquals(pusher.authenticate("1.1", "private-a").auth.length, 72);
});

Deno.test("createSignedQueryString signs like the official SDK", async () => {
  await using server = serveBoth();
  const body = '{"name":"foo","channel":"donuts","data":"2-for-1"}';
  const samples = [
    { method: "POST", path: `/apps/${APP.id}/events`, body, params: {} },
    { method: "POST", path: `/apps/${APP.id}/events`, body },
    {
      method: "get",
      path: `/apps/${APP.id}/channels`,
      params: {
        info: "user_count,subscription_count",
        filter_by_prefix: "presence-",
      },
    },
  ];
  for (const sample of samples) {
    const queries = await both(
      server,
      (pusher) => pusher.createSignedQueryString(sample as never),
    );
    const [byHttp, inProcess] = queries.map((query) =>
      query.replace(/(timestamp|signature)=\w+/g, "$1")
    );
    assertEquals(inProcess, byHttp);
    for (const query of queries) {
      const { method } = sample;
      const init = {
        method,
        ...("body" in sample ? { body: sample.body } : {}),
      };
      const response = await fetch(
        `${server.url}${sample.path}?${query}`,
        init,
      );
      await response.body?.cancel();
      assertEquals(response.status, 200);
    }
  }
  const { pusher } = server;
  const wrong: [options: object, part: string][] = [
    [{ method: "GET" }, "path is undefined"],
    [{ path: "/x" }, "method is undefined"],
    [{ method: "GET", path: "/x", parameters: {} }, '"parameters"'],
    [{ method: "GET", path: "/x", params: { body_md5: "" } }, "left to the"],
  ];
  for (const [options, part] of wrong) {
    const call = () => pusher.createSignedQueryString(options as never);
    assertStringIncludes(assertThrows(call, TypeError).message, part);
  }
});

// ---- Options ----------------------------------------------------------------

Deno.test("options of the official SDK are ignored, where a host has no use for them", async () => {
  await using pusher = new Pusher({
    appId: "1",
    key: "key",
    secret: "secret",
    useTLS: true,
    encrypted: true,
    scheme: "https",
    cluster: "eu",
    host: "example.com",
    port: 443,
    proxy: "http://example.com",
    timeout: 1,
    agent: {},
  });
  assertMatch(pusher.authorizeChannel("1.1", "private-a").auth, /^key:/);
});

Deno.test("the master key of the official SDK is refused with what to do, and never shown", () => {
  const key = "abcdefghijklmnopqrstuvwxyz012345";
  const master = [
    { encryptionMasterKeyBase64: btoa(key) },
    { encryptionMasterKey: key },
    // A variable that is not set.
    { encryptionMasterKeyBase64: undefined },
  ];
  const app = { id: "1", key: "key", secret: "secret" };
  for (const option of master) {
    const given: object[] = [option, { apps: [{ ...app, ...option }] }];
    for (const options of given) {
      const { message } = assertThrows(() => new Pusher(options), TypeError);
      assertStringIncludes(message, "encryption({ masterKeyBase64 })");
      assertStringIncludes(message, "@glitz/pusher/encryption");
      assert(!message.includes(key) && !message.includes(btoa(key)), message);
    }
  }
});

Deno.test("forURL and forCluster make the app that the official SDK makes", () => {
  const url = `http://${DOCS.key}:${DOCS.secret}@api-eu.pusher.com:80/apps/3`;
  const auth = (pusher: Pick<Either, "authorizeChannel">) =>
    pusher.authorizeChannel("1234.1234", "private-foobar").auth;
  const stock = auth(StockServerSdk.forURL(url));
  const own = Pusher.forURL(url);
  assertEquals(auth(own as unknown as Either), stock);
  assertEquals(own.app("3") instanceof Pusher, true);
  const { id: appId, key, secret } = DOCS;
  const cluster = Pusher.forCluster("eu", { appId, key, secret, path: "/rt" });
  assertEquals(auth(cluster as unknown as Either), stock);
  assertEquals(cluster.path, "/rt");
  const escaped = Pusher.forURL("https://k%40:s%2F@host/apps/7/", {
    secret: "the URL's comes first",
  });
  const { auth: signed } = escaped.authorizeChannel("1.1", "private-a");
  assertEquals(signed, `k@:${hmac("s/", "1.1:private-a")}`);
  for (
    const wrong of [
      "",
      "no url",
      undefined as unknown as string,
      "https://key@host/apps/1",
      "https://:sesame@host/apps/1",
      "https://key:sesame@host/",
      "https://key:sesame@host/apps/",
      "https://key:sesame@host/apps/1/events",
    ]
  ) {
    const { message } = assertThrows(() => Pusher.forURL(wrong), TypeError);
    assertStringIncludes(message, "https://key:secret@host/apps/id");
    assert(!message.includes("sesame"), message);
  }
});

// ---- Fields of calls --------------------------------------------------------

Deno.test("trigger takes the id of the sender alone, as old releases of the SDK do", async () => {
  await using server = serve();
  await using sender = await server.connect();
  await using other = await server.connect();
  for (const client of [sender, other]) await client.join("news");
  const { pusher } = server;
  await pusher.trigger("news", "e", 1, sender.socketId);
  await pusher.trigger("news", "e", 2, null as unknown as undefined);
  const seen = [];
  for (const client of [sender, other]) {
    seen.push((await client.framesUntilPong()).map(({ data }) => data));
  }
  assertEquals(seen, [["2"], ["1", "2"]]);
  for (const wrong of ["", "sender", "1", "1.2.3"]) {
    const call = () => pusher.trigger("news", "e", 3, wrong);
    assertThrows(call, TypeError, `socket_id is ${JSON.stringify(wrong)}`);
  }
  await other.silence();
});

Deno.test("every call refuses a field that it does not know, and does nothing", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("news");
  // As a program without types calls it.
  // deno-lint-ignore no-explicit-any -- the arguments are wrong on purpose
  const pusher = server.pusher as any;
  const event = { channel: "news", name: "e", data: {} };
  const calls: [call: () => unknown, part: string][] = [
    [
      () => pusher.trigger("news", "e", {}, { socketId: "1.1" }),
      'Cannot trigger "e": unknown option "params.socketId", known are socket_id, info',
    ],
    [() => pusher.trigger("news", "e", {}, { socket_ids: [] }), "socket_ids"],
    [() => pusher.trigger("news", "e", {}, () => {}), "there is no callback"],
    [() => pusher.trigger("news", "e", {}, 5), "params is 5"],
    [() => pusher.trigger("news", "e", {}, ["1.1"]), "params is an array"],
    [
      () => pusher.triggerBatch([event, { ...event, socketId: "1.1" }]),
      'Cannot trigger a batch: unknown option "batch[1].socketId", known are channel, name, data, socket_id, info',
    ],
    [
      () => pusher.triggerBatch([{ ...event, event: "e" }]),
      '"batch[0].event"',
    ],
    [
      () =>
        pusher.authorizeChannel("1.1", "presence-a", {
          user_id: "1",
          userInfo: {},
        }),
      'Cannot authorize "presence-a": Unknown field "userInfo"',
    ],
    [
      () => pusher.authenticateUser("1.1", { user_id: "1" }),
      "Cannot authenticate a user",
    ],
    [() => pusher.channels({ prefix: "a" }), 'unknown option "filter.prefix"'],
    [() => pusher.channels(null), "filter is null"],
    [() => pusher.channel("a", { infos: "" }), 'unknown option "params.infos"'],
    [
      () => pusher.close({ overMs: 5 }),
      'unknown option "overMs", known is over',
    ],
    [() => pusher.close(5), "options is 5"],
    [() => pusher.webhook({ headers: {}, body: "{}" }), "rawBody is undefined"],
    [() => pusher.webhook({ rawBody: "{}" }), "headers is undefined"],
    [() => pusher.on("member_join", () => {}), "there is no event"],
  ];
  for (const [call, part] of calls) {
    // Some reject, and all others throw at once.
    const error = await assertRejects(async () => await call(), TypeError);
    assertStringIncludes(error.message, part);
  }
  await client.silence();
  assert(server.pusher.stats().ready);
});

Deno.test("a member with an unknown field is refused where authorize returns it, too", async () => {
  await using pusher = new Pusher({
    authorize: () => ({ user_id: "1", userInfo: { name: "Ann" } }),
  });
  const failed = Promise.withResolvers<string>();
  pusher.on("error", ({ error }) => failed.resolve(`${error}`));
  const body = new URLSearchParams({
    socket_id: "1.1",
    channel_name: "presence-a",
  });
  const url = "http://localhost/pusher/auth";
  const response = await pusher.handler(
    new Request(url, { method: "POST", body }),
  );
  assertEquals(response.status, 500);
  assertStringIncludes(await failed.promise, 'Unknown field "userInfo"');
});

// ---- Webhooks ---------------------------------------------------------------

Deno.test("webhook takes the request of a framework, and names of headers in any case", async () => {
  const rawBody = '{"time_ms":1,"events":[]}';
  await using pusher = new Pusher({ key: DOCS.key, secret: DOCS.secret });
  const headers = {
    "Content-Type": "application/json",
    "X-Pusher-Key": DOCS.key,
    "x-Pusher-signature": hmac(DOCS.secret, rawBody),
  };
  const request = { headers, rawBody, method: "POST", body: {} };
  assert(pusher.webhook(request).isValid());
  // One name twice: the name in lower case counts, as in the SDK.
  const twice = { ...headers, "x-pusher-key": "other" };
  assert(!pusher.webhook({ headers: twice, rawBody }).isValid());
});

Deno.test("an invalid webhook throws the error of the official SDK when it is read", async () => {
  await using server = serve();
  const { key, secret } = APP;
  const json = "application/json";
  for (
    const [type, rawBody, reason] of [
      [json, "no json", "its body is no JSON object"],
      ["text/plain", "{}", "its content type is not application/json"],
    ] as const
  ) {
    const headers = {
      "content-type": type,
      "x-pusher-key": key,
      "x-pusher-signature": hmac(secret, rawBody),
    };
    const errors = await both(server, (pusher) => {
      const webhook = pusher.webhook({ headers, rawBody });
      assert(!webhook.isValid());
      const { name, contentType, body, signature } = Object(
        assertThrows(() => webhook.getData()),
      );
      return { name, contentType, body, signature };
    });
    assertEquals(errors[1], errors[0]);
    const webhook = server.pusher.webhook({ headers, rawBody });
    for (const read of ["getData", "getEvents", "getTime"] as const) {
      const error = assertThrows(() => webhook[read](), WebHookError, reason);
      assert(error instanceof Pusher.WebHookError);
    }
  }
});
