import {
  type Backplane,
  type OriginRule,
  Pusher,
  type PusherOptions,
} from "@glitz/pusher";
import * as exported from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { lateJoin, SlowBackplane } from "./tests/support/backplanes.ts";
import { DEADLINE_MS, within } from "./tests/support/deadline.ts";
import {
  type Answer,
  APP,
  type Client,
  MemoryTransport,
  read,
  serve,
  signedRequest,
} from "./tests/support/server.ts";
import {
  type App,
  channelAuth,
  dataOf,
  type Frame,
  hmac,
  wireFrame,
} from "./tests/support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";
const REFUSED = "pusher:subscription_error";

/** The credentials that the published examples of signatures are made with. */
const DOCS: App = {
  id: "3",
  key: "278d425bdf160c739803",
  secret: "7ad3773142a6692b25b8",
};

/** An object whose JSON has so many bytes. */
function objectOf(bytes: number): { x: string } {
  return { x: "x".repeat(bytes - '{"x":""}'.length) };
}

// ---- Public types -----------------------------------------------------------

Deno.test("the package exports these names and no others", () => {
  assertEquals(Object.keys(exported).sort(), [
    "MemoryBackplane",
    "Pusher",
    "Webhook",
  ]);
});

Deno.test("Pusher<Events> has the compiler check channel, event and data", async () => {
  type Events = {
    messages: { create: { text: string }; remove: { id: number } };
    [channel: `private-user-${string}`]: { paid: { order: number } };
  };
  await using pusher = new Pusher<Events>();
  await pusher.trigger("messages", "create", { text: "hello" });
  await pusher.trigger("private-user-7", "paid", { order: 1 });
  await pusher.trigger(["private-user-7", "private-user-8"], "paid", {
    order: 1,
  });
  await pusher.triggerBatch([
    { channel: "messages", name: "remove", data: { id: 1 } },
    { channel: "private-user-7", name: "paid", data: { order: 1 } },
  ]);
  // @ts-expect-error There is no such channel.
  await pusher.trigger("message", "create", { text: "hello" });
  // @ts-expect-error There is no such event on this channel.
  await pusher.trigger("messages", "paid", { order: 1 });
  // @ts-expect-error The data belongs to another event.
  await pusher.trigger("messages", "create", { id: 1 });
  // @ts-expect-error One of the channels has no such event.
  await pusher.trigger(["private-user-7", "messages"], "paid", { order: 1 });
  await pusher.triggerBatch([
    // @ts-expect-error The data belongs to another event.
    { channel: "messages", name: "remove", data: { text: "hello" } },
  ]);
  await using open = new Pusher();
  await open.trigger("anything", "at all", [1, "two", { three: null }]);
});

// ---- Options ----------------------------------------------------------------

Deno.test("Pusher refuses a wrong option by name, with the value and the rule", () => {
  const other = { id: "b", key: "b", secret: "b" };
  const table: [options: Record<string, unknown>, ...told: string[]][] = [
    [{ appID: "a" }, "appID"],
    [{ appId: 3 }, "appId", "3"],
    [{ appId: "" }, "appId"],
    [{ key: "" }, "key"],
    [{ key: null }, "key", "null"],
    [{ secret: "" }, "secret"],
    [{ apps: [other], key: "a" }, "apps", "key"],
    [{ apps: "b" }, "apps"],
    [{ apps: [{ ...other, id: undefined }] }, "id"],
    [{ apps: [{ ...other, secret: 5 }] }, "secret"],
    [{ apps: [{ ...other, name: "b" }] }, "name"],
    [{ apps: [other, { ...other, key: "c" }] }, "id", '"b"'],
    [{ apps: [other, { ...other, id: "c" }] }, "key", '"b"'],
    [{ apps: [{ ...other, enabled: "yes" }] }, "enabled", '"yes"'],
    [{ apps: [{ ...other, limits: { sockets: 1 } }] }, "sockets"],
    [{ path: "realtime" }, "path", '"realtime"'],
    [{ path: "/realtime/" }, "path", '"/realtime/"'],
    [{ path: 7 }, "path", "7"],
    [{ clientEvents: "yes" }, "clientEvents", '"yes"'],
    [{ strictProtocol: 1 }, "strictProtocol", "1"],
    [{ authorize: "everybody" }, "authorize", '"everybody"'],
    [{ origins: 5 }, "origins", "5"],
    [{ origins: ["https://a.example", null] }, "origins", "null"],
    [{ limits: 5 }, "limits", "5"],
    [{ limits: { frames: 5 } }, "frames"],
    [{ activityTimeoutMs: 0 }, "activityTimeoutMs", "0"],
    [{ activityTimeoutMs: "120" }, "activityTimeoutMs", '"120"'],
    [{ pongTimeoutMs: -1 }, "pongTimeoutMs", "-1"],
    [{ pongTimeoutMs: 2 ** 31 }, "pongTimeoutMs", `${2 ** 31}`],
    [{ activityTimeoutMs: NaN }, "activityTimeoutMs", "NaN"],
    [{ backplane: {} }, "backplane"],
    [{ now: 5 }, "now", "5"],
  ];
  for (const name of Object.keys(LIMITS)) {
    for (const value of [-1, NaN, 1.5, "10", null]) {
      table.push([
        { limits: { [name]: value } },
        name,
        JSON.stringify(value).replace("null", String(value)),
      ]);
    }
  }
  for (const [options, ...told] of table) {
    const label = JSON.stringify(options);
    const error = assertThrows(
      () => new Pusher(options as PusherOptions),
      Error,
      undefined,
      label,
    );
    assert(error instanceof TypeError || error instanceof RangeError, label);
    for (const part of told) assertStringIncludes(error.message, part, label);
  }
});

/** Every limit, with its default. */
const LIMITS = {
  connections: Infinity,
  sockets: 100_000,
  channelsPerConnection: 200,
  bufferedBytes: 1_048_576,
  frameBytes: 65_536,
  framesPerSecond: 100,
  framesBurst: 1_000,
  channelNameLength: 200,
  eventNameLength: 200,
  eventDataBytes: 10_240,
  channelsPerEvent: 100,
  eventsPerBatch: 10,
  bodyBytes: 1_048_576,
  presenceMembers: 100,
  userIdLength: 128,
  userInfoBytes: 1_024,
  clientEventsPerSecond: 10,
};

Deno.test("Pusher never tells the secret when it refuses an option", () => {
  const secret = "tell nobody";
  for (
    const wrong of [{ key: "" }, { path: "x" }, { unknown: 1 }, {
      apps: [{ id: "a", key: "a", secret }, { id: "a", key: "b", secret }],
      secret: undefined,
    }]
  ) {
    const { message } = assertThrows(
      () => new Pusher({ secret, ...wrong } as PusherOptions),
      Error,
    );
    assert(!message.includes(secret), message);
  }
});

Deno.test("Pusher accepts the connection options of the official SDK and its own defaults", async () => {
  await using _sdk = new Pusher({
    appId: "a",
    key: "b",
    secret: "c",
    cluster: "eu",
    host: "api.example",
    port: "443",
    scheme: "https",
    useTLS: true,
    encrypted: true,
    timeout: 1000,
    agent: {},
  });
  await using _defaults = new Pusher({ limits: LIMITS, path: "" });
  await using _empty = new Pusher({ limits: {} });
});

Deno.test("Pusher without a secret makes one that nobody can guess", async () => {
  await using one = new Pusher();
  await using two = new Pusher();
  const [first, second] = [one, two].map((pusher) =>
    pusher.authorizeChannel("1.1", "private-a").auth
  );
  assertMatch(first as string, /^app-key:[0-9a-f]{64}$/);
  assertNotEquals(first, second);
});

/** Runs a program with the default instance and returns what it prints. */
async function runProgram(
  code: string,
  flags: string[] = [],
  env: Record<string, string> = {},
): Promise<string> {
  const mod = new URL("./mod.ts", import.meta.url);
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-config", "--no-lock", ...flags, "-"],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1", ...env },
  }).spawn();
  await new Blob([`import { Pusher } from "${mod}";\n${code}`]).stream()
    .pipeTo(child.stdin);
  const { stdout, stderr } = await within(
    60_000,
    "end of the program",
    child.output(),
  );
  const decoder = new TextDecoder();
  assertEquals(decoder.decode(stderr), "");
  return decoder.decode(stdout).trim();
}

Deno.test("Pusher has the members of an instance as statics on one default instance", async () => {
  const printed = await runProgram(
    `
    const server = Deno.serve(
      { port: 0, onListen() {} },
      Pusher.cascade(Pusher.handler, () => new Response("mine")),
    );
    const base = "localhost:" + server.addr.port;
    const told = [];
    Pusher.on("published", ({ channel, event }) => told.push(channel, event));
    const socket = new WebSocket("ws://" + base + "/app/app-key?protocol=7");
    const messages = [];
    socket.onmessage = async ({ data }) => {
      const frame = JSON.parse(data);
      messages.push(frame.event);
      if (messages.length === 1) {
        socket.send('{"event":"pusher:subscribe","data":{"channel":"news"}}');
      } else if (messages.length === 2) {
        Pusher.trigger("news", "one", {});
        Pusher.triggerBatch([{ channel: "news", name: "two", data: {} }]);
      } else if (messages.length === 4) {
        told.push((await Pusher.channels()).channels, await Pusher.channel("x"));
        told.push(await Pusher.users("presence-x"));
        told.push(Pusher.authorizeChannel("1.1", "private-a").auth.length);
        told.push(Pusher.webhook({ headers: {}, rawBody: "" }).isValid());
        told.push(await (await fetch("http://" + base + "/x")).text());
        await Pusher.close();
      }
    };
    socket.onclose = async ({ code }) => {
      await server.shutdown();
      console.log(JSON.stringify([...messages.slice(1), ...told, code]));
    };`,
    ["--allow-net"],
  );
  assertEquals(JSON.parse(printed), [
    SUCCEEDED,
    "one",
    "two",
    "pusher:error",
    "news",
    "one",
    "news",
    "two",
    { news: {} },
    { occupied: false },
    { users: [] },
    "app-key:".length + 64,
    false,
    "mine",
    4200,
  ]);
});

Deno.test("Pusher reads the environment for its default instance only where that is permitted", async () => {
  const code = `
    const { auth } = Pusher.authorizeChannel("1234.1234", "private-foobar");
    const app = await Pusher.handler(new Request("http://a/apps/3/events"));
    const at = await Pusher.handler(new Request("http://a/rt/pusher.js"));
    console.log(auth, app.status, at.status);`;
  const env = {
    PUSHER_APP_ID: "3",
    PUSHER_APP_KEY: DOCS.key,
    PUSHER_APP_SECRET: DOCS.secret,
    PUSHER_PATH: "/rt",
  };
  const [plain, permitted] = await Promise.all([
    runProgram(code, [], env),
    runProgram(
      code.replace("/apps/3", "/rt/apps/3"),
      ["--allow-env"],
      env,
    ),
  ]);
  assertMatch(plain, /^app-key:[0-9a-f]{64} 404 404$/);
  assert(!plain.includes(VECTORS[0]?.[3] as string));
  // Known app, and a method that its route does not take.
  assertMatch(permitted, / (401|405) 200$/);
  assertEquals(permitted.split(" ")[0], `${DOCS.key}:${VECTORS[0]?.[3]}`);
});

// ---- Pusher -----------------------------------------------------------------

Deno.test("trigger delivers to every subscriber of every channel, once per distinct channel", async () => {
  await using server = serve();
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("news");
  await ann.join("sports");
  await bob.join("news");
  const { pusher } = server;
  const response = await pusher.trigger(
    ["news", "sports", "news"],
    "create",
    { text: "hello" },
  );
  assertEquals([response.status, response.ok], [200, true]);
  assertEquals(await response.json(), {});
  assertEquals(await response.text(), "{}");
  const data = '{"text":"hello"}';
  assertEquals(await ann.framesUntilPong(), [
    { event: "create", channel: "news", data },
    { event: "create", channel: "sports", data },
  ]);
  assertEquals(await bob.framesUntilPong(), [
    { event: "create", channel: "news", data },
  ]);
});

Deno.test("trigger sends a string as it is and anything else as JSON", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("news");
  for (
    const [data, sent] of [
      ["plain text", "plain text"],
      ["", ""],
      ['{"a":1}', '{"a":1}'],
      [12, "12"],
      [null, "null"],
      [false, "false"],
      [["ü", "\u2028"], '["ü","\u2028"]'],
    ]
  ) {
    await server.pusher.trigger("news", "create", data);
    assertEquals((await client.next("create")).data, sent);
  }
});

Deno.test("trigger leaves out socket_id and tells the counts that info asks for", async () => {
  await using server = serve();
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("presence-a", { member: { user_id: "ann" } });
  await bob.join("news");
  await ann.join("news");
  const response = await server.pusher.trigger(
    ["news", "presence-a", "x"],
    "create",
    1,
    { socket_id: ann.socketId, info: "user_count,subscription_count" },
  );
  assertEquals(await response.json(), {
    channels: {
      news: { subscription_count: 2 },
      "presence-a": { subscription_count: 1, user_count: 1 },
      x: { subscription_count: 0 },
    },
  });
  await ann.silence();
  assertEquals((await bob.framesUntilPong()).length, 1);
});

Deno.test("trigger and triggerBatch throw at once for arguments that are wrong", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("news");
  const { pusher } = server;
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;
  const wrong: [
    channels: unknown,
    event: unknown,
    data: unknown,
    params?: unknown,
  ][] = [
    [[], "e", 1],
    [["news", 5], "e", 1],
    [undefined, "e", 1],
    ["", "e", 1],
    ["a b", "e", 1],
    ["a:b", "e", 1],
    ["a".repeat(201), "e", 1],
    [Array.from({ length: 101 }, (_, i) => `news${i}`), "e", 1],
    ["news", "", 1],
    ["news", 5, 1],
    ["news", undefined, 1],
    ["news", "e".repeat(201), 1],
    ["news", "pusher:e", 1],
    ["news", "pusher_internal:e", 1],
    ["news", "e", undefined],
    ["news", "e", () => {}],
    ["news", "e", cyclic],
    ["news", "e", 1n],
    ["news", "e", "x".repeat(10_241)],
    ["news", "e", "ü".repeat(5_121)],
    ["news", "e", 1, { socket_id: "1234" }],
    ["news", "e", 1, { socket_id: "1.1:private-a" }],
    ["news", "e", 1, { socket_id: 1.5 }],
    ["news", "e", 1, { info: "cache" }],
    ["news", "e", 1, { info: "nonsense" }],
  ];
  for (const [channel, name, data, params] of wrong) {
    const call = [channel, name, data, params] as Parameters<
      typeof pusher.trigger
    >;
    const items = [
      { channel: "news", name: "first", data: 1 },
      { channel, name, data, ...(params as object) },
    ] as Parameters<typeof pusher.triggerBatch>[0];
    for (
      const attempt of [
        () => pusher.trigger(...call),
        () => pusher.triggerBatch(items),
      ]
    ) {
      const error = assertThrows(attempt, Error, undefined, String(call));
      assert(
        error instanceof TypeError || error instanceof RangeError,
        `${error}`,
      );
    }
  }
  assertThrows(() => pusher.triggerBatch([]), Error);
  await client.silence();
  await pusher.trigger(
    ["news", ...Array.from({ length: 99 }, (_, i) => `news${i}`)],
    "e".repeat(200),
    "ü".repeat(5_120),
  );
  assertEquals((await client.framesUntilPong()).length, 1);
});

Deno.test("triggerBatch publishes in order and tells counts at the index of their item", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("a");
  await client.join("b");
  const { pusher } = server;
  const batch = Array.from({ length: 10 }, (_, i) => ({
    channel: i % 3 === 0 ? "b" : "a",
    name: `e${i}`,
    data: i,
    ...(i === 7 ? { info: "subscription_count" } : {}),
    ...(i === 4 ? { socket_id: client.socketId } : {}),
  }));
  const response = await pusher.triggerBatch(batch);
  assertEquals(await response.json(), {
    batch: batch.map((_, i) => i === 7 ? { subscription_count: 1 } : {}),
  });
  assertEquals(
    (await client.framesUntilPong()).map(({ event }) => event),
    ["e0", "e1", "e2", "e3", "e5", "e6", "e7", "e8", "e9"],
  );
  const plain = await pusher.triggerBatch(batch.slice(0, 3));
  assertEquals(await plain.json(), {});
  const item = { channel: "a", name: "e", data: 1 };
  assertThrows(() => pusher.triggerBatch(Array(11).fill(item)), Error, "11");
});

Deno.test("channels, channel and users answer in the shapes of the HTTP API", async () => {
  await using server = serve();
  const { pusher } = server;
  assertEquals(await pusher.channels(), { channels: {} });
  await using ann = await server.connect();
  await using tab = await server.connect();
  await ann.join("news");
  await ann.join("presence-a", { member: { user_id: 10 } });
  await tab.join("presence-a", { member: { user_id: "10" } });
  assertEquals(await pusher.channels(), {
    channels: { news: {}, "presence-a": {} },
  });
  assertEquals(
    await pusher.channels({
      filter_by_prefix: "presence-",
      info: "user_count,subscription_count",
    }),
    { channels: { "presence-a": { user_count: 1, subscription_count: 2 } } },
  );
  assertEquals(await pusher.channel("news"), { occupied: true });
  assertEquals(await pusher.channel("x", { info: "subscription_count" }), {
    occupied: false,
    subscription_count: 0,
  });
  assertEquals(await pusher.users("presence-a"), { users: [{ id: "10" }] });
  assertEquals(await pusher.users("presence-x"), { users: [] });
  for (
    const wrong of [
      () => pusher.users("news"),
      () => pusher.users("presence- "),
      () => pusher.channel("a b"),
      () => pusher.channel("news", { info: "user_count" }),
      () => pusher.channel("news", { info: "nonsense" }),
      () => pusher.channels({ info: "user_count" }),
      () => pusher.channels({ info: "nonsense" }),
    ]
  ) {
    await assertRejects(async () => await wrong(), Error);
  }
});

Deno.test("app sees one of several apps, whose channels never meet", async () => {
  const one = { id: "1", key: "k1", secret: "s1", clientEvents: true };
  const two = { id: "2", key: "k2", secret: "s2" };
  await using server = serve({ apps: [one, two] });
  const { pusher } = server;
  await using ann = await server.connect({ app: one });
  await using bob = await server.connect({ app: two });
  for (const client of [ann, bob]) {
    await client.join("news");
    await client.join("presence-a", { member: { user_id: "u" } });
  }
  await pusher.app("1").trigger("news", "from-1", {});
  await server.api("POST", "/events", {
    app: two,
    body: { name: "from-2", channel: "news", data: "" },
  });
  ann.send({ event: "client-x", channel: "presence-a" });
  bob.send({ event: "client-x", channel: "presence-a" });
  const events = async (client: Client) =>
    (await client.framesUntilPong()).map(({ event }) => event);
  assertEquals(await events(ann), ["from-1"]);
  // Client events are a switch of each app.
  assertEquals(await events(bob), ["from-2", "pusher:error"]);
  assertEquals(await pusher.app("2").users("presence-a"), {
    users: [{ id: "u" }],
  });
  assertEquals(
    pusher.app("2").authorizeChannel("1.1", "private-a").auth,
    channelAuth(two, "1.1", "private-a"),
  );
  assertEquals(
    await bob.refused("private-a", {
      auth: channelAuth({ ...one, key: "k2" }, bob.socketId, "private-a"),
    }),
    "AuthError 401",
  );
  const crossed = await server.api("GET", "/channels", {
    app: { ...two, id: "1" },
  });
  assertEquals(crossed.status, 401);
  assertThrows(() => pusher.app("3"), RangeError, '"3"');
});

Deno.test("path puts every route under a prefix and leaves the rest to others", async () => {
  await using server = serve({
    path: "/real/time",
    authorize: () => true,
  }, { after: [() => new Response("mine")] });
  await using client = await server.connect();
  await client.join("news");
  const published = await server.api("POST", "/events", {
    body: { name: "e", channel: "news", data: "1" },
  });
  assertEquals(published.status, 200);
  await client.next("e");
  const root = new URL(server.url).origin;
  for (
    const route of [
      "/pusher.js",
      "/pusher.mjs",
      "/pusher/auth",
      "/apps/app-id/channels",
      "/app/app-key",
    ]
  ) {
    const text = async (base: string) =>
      await (await fetch(base + route)).text();
    assertNotEquals(await text(server.url), "mine", route);
    assertEquals(await text(root), "mine", route);
    assertEquals(await text(`${root}/real`), "mine", route);
    assertEquals(await text(`${root}/real/times`), "mine", route);
  }
});

Deno.test("cascade takes the first answer that is not 404 and keeps the body for it", async () => {
  await using pusher = new Pusher();
  const seen: string[] = [];
  const pass = (name: string, response: Response | null | undefined) => () => {
    seen.push(name);
    return response;
  };
  const info = { remoteAddr: {} };
  const handler = Pusher.cascade(
    pusher.handler,
    pass("null", null),
    pass("undefined", undefined),
    pass("404", new Response("not here", { status: 404 })),
    async (request: Request, given: unknown) => {
      assertEquals(given, info);
      return new Response(await request.text());
    },
    pass("late", new Response("late")),
  );
  const request = () =>
    new Request("http://a/pusher/auth", { method: "POST", body: "a body" });
  const response = await handler(request(), info as never);
  assertEquals(await response.text(), "a body");
  assertEquals(seen, ["null", "undefined", "404"]);
  const nobody = await Pusher.cascade(
    pusher.handler,
    pass("last", new Response("not here either", { status: 404 })),
  )(request(), info as never);
  assertEquals(nobody.status, 404);
  await nobody.body?.cancel();
  const nothing = await Pusher.cascade()(request(), info as never);
  assertEquals(nothing.status, 404);
  await nothing.body?.cancel();
});

Deno.test("cascade lets the next handler upgrade what is not a route of ours", async () => {
  await using server = serve({}, {
    after: [(request) => {
      const { socket, response } = Deno.upgradeWebSocket(request);
      socket.onmessage = ({ data }) => socket.send(data);
      return response;
    }],
  });
  for (const path of ["/elsewhere", "/app", "/app/", "/app/app-key/more"]) {
    const echo = new WebSocket(server.wsUrl + path);
    const { promise, resolve } = Promise.withResolvers<unknown>();
    echo.onopen = () => echo.send(path);
    echo.onmessage = ({ data }) => {
      echo.onclose = () => resolve(data);
      echo.close();
    };
    assertEquals(await within(DEADLINE_MS, "echo", promise), path);
  }
});

Deno.test("handler answers an upgrade elsewhere and anything unknown with 404", async () => {
  await using server = serve();
  for (
    const path of ["/", "/app", "/apps", "/apps/", "/pusher", "/PUSHER.JS"]
  ) {
    const response = await fetch(server.url + path);
    assertEquals(response.status, 404, path);
    await response.body?.cancel();
  }
  using raw = await server.raw();
  assertMatch(await raw.upgrade("/elsewhere"), /^HTTP\/1.1 404 /);
});

/** Published examples of channel signatures. */
const VECTORS: [
  socketId: string,
  channel: string,
  data: unknown,
  hex: string,
][] = [
  [
    "1234.1234",
    "private-foobar",
    undefined,
    "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
  ],
  ["1234.1234", "presence-foobar", {
    user_id: 10,
    user_info: { name: "Mr. Channels" },
  }, "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"],
  ["1234.1234", "presence-foobar", {
    user_id: 10,
    user_info: { name: "Mr. Pusher" },
  }, "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c"],
  [
    "1234.1234",
    "private-foobar",
    { user_id: "10" },
    "bf9f2eda99b88b670aedd071792d41c2796fda040476f39b46f89a28ccc69a9c",
  ],
  [
    "1234.1234",
    "private-encrypted-foobar",
    undefined,
    "e6a18892d037c5d5e76a2265df4f086ffc38631605530dfd214aa5bff495f533",
  ],
  [
    "1234.1234",
    "private-cache-foobar",
    undefined,
    "395f4a03f06e17b74af8d9c58386cf386e70176f58452420f042b6e1bddefa43",
  ],
];

Deno.test("authorizeChannel reproduces the published signatures", async () => {
  await using pusher = new Pusher({
    appId: DOCS.id,
    key: DOCS.key,
    secret: DOCS.secret,
  });
  for (const [socketId, channel, data, hex] of VECTORS) {
    assertEquals(
      pusher.authorizeChannel(socketId, channel, data as never),
      {
        auth: `${DOCS.key}:${hex}`,
        ...(data === undefined ? {} : { channel_data: JSON.stringify(data) }),
      },
      channel,
    );
  }
});

Deno.test("authorizeChannel signs a presence channel for a user who has signed in", async () => {
  await using pusher = new Pusher({ key: DOCS.key, secret: DOCS.secret });
  assertEquals(pusher.authorizeChannel("1234.1234", "presence-foobar"), {
    auth:
      `${DOCS.key}:71506e66e7fdca106571b8999a849ad34245bc653772e51e0026c1a2475b92ba`,
  });
});

Deno.test("authorizeChannel signs whatever data it is given", async () => {
  await using pusher = new Pusher({ key: "12345", secret: "tofu" });
  assertEquals(
    pusher.authorizeChannel("123.456", "private-encrypted-bla", "foo" as never),
    {
      auth:
        "12345:962c48b78bf93d98ff4c92ee7dff04865821455b7b401e9d60a9e0a90af2c105",
      channel_data: '"foo"',
    },
  );
});

Deno.test("authorizeChannel refuses socket ids and channels that could be anything else", async () => {
  await using pusher = new Pusher();
  for (
    const [socketId, channel] of [
      ["1234", "private-a"],
      ["", "private-a"],
      ["1.1:private-b", "private-a"],
      ["1.1\n", "private-a"],
      [" 1.1", "private-a"],
      ["a.b", "private-a"],
      [1.1, "private-a"],
      [undefined, "private-a"],
      ["1.1", ""],
      ["1.1", "private-a:b"],
      ["1.1", "private-a b"],
      ["1.1", `private-${"a".repeat(200)}`],
      ["1.1", undefined],
    ] as [string, string][]
  ) {
    assertThrows(
      () => pusher.authorizeChannel(socketId, channel),
      Error,
      undefined,
      `${socketId} ${channel}`,
    );
  }
});

// ---- Connection -------------------------------------------------------------

Deno.test("connection_established comes first and names the socket", async () => {
  await using server = serve();
  await using client = server.dial();
  const frame = await client.established();
  assertEquals(Object.keys(frame).sort(), ["data", "event"]);
  const { socket_id, activity_timeout, ...rest } = dataOf(frame);
  assertMatch(socket_id, /^[1-9]\d*\.[1-9]\d*$/);
  assertEquals(activity_timeout, 120);
  assertEquals(rest, {});
  assertEquals((await server.journal.next("connected")).socketId, socket_id);
});

Deno.test("connection_established tells the configured activity_timeout in seconds", async () => {
  await using server = serve({ activityTimeoutMs: 30_000 });
  await using client = server.dial();
  assertEquals(dataOf(await client.established()).activity_timeout, 30);
});

Deno.test("protocol decides whether a client is accepted", async () => {
  await using server = serve();
  for (
    const query of [
      "",
      "?protocol=5",
      "?protocol=6",
      "?protocol=7",
      "?protocol=7&client=js&version=8.6.0&flash=false",
      "?client=%00%ff&x&protocol=7",
    ]
  ) {
    await using _accepted = await server.connect({ query });
  }
  for (
    const [query, code] of [
      ["?protocol=3", 4007],
      ["?protocol=8", 4007],
      ["?protocol=abc", 4006],
      ["?protocol=7.5", 4006],
      ["?protocol=7abc", 4006],
    ] as const
  ) {
    assertEquals((await server.turnsAway({ query })).code, code, query);
  }
});

Deno.test("strictProtocol refuses a client that names no protocol", async () => {
  await using server = serve({ strictProtocol: true });
  assertEquals((await server.turnsAway({ query: "" })).code, 4008);
  await using _named = await server.connect();
});

Deno.test("an unknown key is refused with 4001 and a disabled app with 4003", async () => {
  const off = { id: "off", key: "off", secret: "off", enabled: false };
  const odd = { id: "odd", key: "kéy+&=", secret: "odd" };
  await using server = serve({ apps: [off, odd] });
  for (const key of ["nobody", "__proto__", "constructor"]) {
    const app = { ...APP, key };
    assertEquals((await server.turnsAway({ app })).code, 4001, key);
  }
  assertEquals((await server.turnsAway({ app: off })).code, 4003);
  await using _odd = await server.connect({ app: odd });
});

Deno.test("GET of an app's address without an upgrade is answered 426", async () => {
  await using server = serve();
  for (const [key, status] of [["app-key", 426], ["nobody", 404]]) {
    const response = await fetch(`${server.url}/app/${key}?protocol=7`);
    assertEquals(response.status, status);
    await response.body?.cancel();
  }
});

Deno.test("pusher:ping is answered whatever its data is", async () => {
  await using server = serve();
  await using client = await server.connect();
  for (const data of [{}, "{}", undefined, null, { a: [1] }]) {
    client.send({ event: "pusher:ping", data });
    assertEquals(await client.next(), { event: "pusher:pong", data: "{}" });
  }
});

Deno.test("a frame that is not a known event is answered with 4300 and nothing else happens", async () => {
  await using server = serve();
  await using client = await server.connect();
  for (
    const frame of [
      "not json",
      "null",
      "[]",
      "{}",
      { event: 5 },
      { event: "pusher:nonsense" },
      { event: "xclient-a", channel: "private-a" },
      { event: "pusher:subscribe", data: {} },
      { event: "pusher:subscribe", data: { channel: 5 } },
    ]
  ) {
    client.send(frame);
    const { channel, data } = await client.next("pusher:error");
    assertEquals([channel, (data as { code: number }).code], [undefined, 4300]);
  }
  await client.join("news");
});

Deno.test("a binary frame closes with 1003", async () => {
  await using server = serve();
  await using client = await server.connect();
  client.send(new TextEncoder().encode('{"event":"pusher:ping"}'));
  assertEquals((await within(DEADLINE_MS, "close", client.closed)).code, 1003);
  assertEquals((await server.journal.next("disconnected")).code, 1003);
});

Deno.test("a silent client is pinged and then closed with 4201", async () => {
  await using server = serve({ activityTimeoutMs: 100, pongTimeoutMs: 100 });
  await using client = await server.connect();
  assertEquals(await client.next(), { event: "pusher:ping", data: "{}" });
  assertEquals((await client.turnedAway()).code, 4201);
});

Deno.test("a client that says anything at all within the time stays", async () => {
  await using server = serve({ activityTimeoutMs: 800, pongTimeoutMs: 800 });
  await using client = await server.connect();
  await client.next("pusher:ping");
  client.send({ event: "pusher:pong", data: {} });
  await client.next("pusher:ping");
  client.send("nonsense is a sign of life too");
  await client.next("pusher:error");
  await client.next("pusher:ping");
});

Deno.test("a client that only receives is pinged and closed all the same", async () => {
  await using server = serve({ activityTimeoutMs: 200, pongTimeoutMs: 200 });
  await using client = await server.connect();
  await client.join("news");
  const events: string[] = [];
  for (;;) {
    await server.pusher.trigger("news", "tick", {});
    const { event, data } = await client.next();
    if (event !== "tick") events.push(event);
    if (event !== "pusher:error") continue;
    assertEquals((data as { code: number }).code, 4201);
    break;
  }
  assertEquals(events, ["pusher:ping", "pusher:error"]);
});

Deno.test("frames of one socket are handled strictly in order", async () => {
  await using server = serve();
  await using client = await server.connect();
  for (let i = 0; i < 3; i++) {
    client.requestSubscribe("a");
    client.unsubscribe("a");
    client.requestSubscribe("private-a");
    client.requestSubscribe("presence-a", { member: { user_id: `u${i}` } });
    client.unsubscribe("presence-a");
    client.requestSubscribe("a b");
  }
  const frames = await client.framesUntilPong();
  assertEquals(
    frames.map(({ channel }) => channel),
    [1, 2, 3].flatMap(() => ["a", "private-a", "presence-a", "a b"]),
  );
  assertEquals((await server.pusher.channels()).channels, { "private-a": {} });
});

// ---- Channels ---------------------------------------------------------------

Deno.test("pusher:subscribe to a public channel is answered with {} and brings its events", async () => {
  await using server = serve();
  await using client = await server.connect();
  assertEquals(await client.subscribe("news"), {
    event: SUCCEEDED,
    channel: "news",
    data: "{}",
  });
  for (const data of ['{"n":1}', "plain text", "", '"', "\u2028 ü 😀"]) {
    const body = { name: "an event", channels: ["news"], data };
    await server.api("POST", "/events", { body });
    assertEquals(await client.next(), {
      event: "an event",
      channel: "news",
      data,
    });
  }
  client.unsubscribe("news");
  await client.silence();
  await server.pusher.trigger("news", "e", {});
  await client.silence();
});

Deno.test("pusher:subscribe takes its data as a string of JSON", async () => {
  await using server = serve();
  await using client = await server.connect();
  const data = JSON.stringify({ channel: "news" });
  client.send({ event: "pusher:subscribe", data });
  assertEquals((await client.next(SUCCEEDED)).channel, "news");
  client.send({ event: "pusher:unsubscribe", data });
  await client.silence();
  assertEquals(await server.pusher.channels(), { channels: {} });
});

Deno.test("pusher:unsubscribe of a channel that is not subscribed is ignored", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("news");
  client.unsubscribe("sports");
  client.unsubscribe("private-a");
  await client.silence();
  await server.pusher.trigger("news", "e", {});
  await client.next("e");
});

Deno.test("pusher:subscribe a second time succeeds again and changes nothing", async () => {
  await using server = serve();
  await using ann = await server.connect();
  await using bob = await server.connect();
  await bob.join("presence-a", { member: { user_id: "bob" } });
  const first = { user_id: "ann", user_info: { n: 1 } };
  const told = await ann.join("presence-a", { member: first });
  const second = { user_id: "eve", user_info: { n: 2 } };
  assertEquals(await ann.join("presence-a", { member: second }), told);
  assertEquals(await ann.refused("presence-a", { auth: "" }), "AuthError 401");
  await ann.join("news");
  await ann.join("news");
  await server.pusher.trigger(["news", "presence-a"], "e", {});
  assertEquals((await ann.framesUntilPong()).length, 2);
  assertEquals((await bob.framesUntilPong()).map((frame) => frame.event), [
    ADDED,
    "e",
  ]);
  assertEquals(server.journal.told("channel_occupied", "member_added"), [
    "channel_occupied presence-a",
    "member_added presence-a bob",
    "member_added presence-a ann",
    "channel_occupied news",
  ]);
});

Deno.test("a channel's class follows from the start of its name", async () => {
  await using server = serve();
  await using client = await server.connect();
  const member = { user_id: "u" };
  for (
    const [channel, kind] of [
      ["news", "public"],
      ["cache-a", "public"],
      ["encrypted-a", "public"],
      ["Private-a", "public"],
      ["my-private-a", "public"],
      ["privatea", "public"],
      ["private-a", "private"],
      ["private-cache-a", "private"],
      ["private-encrypted-a", "private"],
      ["private-encrypted-cache-a", "private"],
      ["private-presence-a", "private"],
      ["presence-a", "presence"],
      ["presence-cache-a", "presence"],
      ["presence-encrypted-a", "presence"],
    ] as const
  ) {
    if (kind !== "public") {
      assertEquals(
        await client.refused(channel, { auth: null }),
        "AuthError 401",
      );
    }
    if (kind === "presence") {
      // Signed, but it says nothing of who joins.
      assertEquals(await client.refused(channel), "AuthError 401", channel);
      const { presence } = await client.join(channel, { member });
      assertEquals(presence.count, 1, channel);
    } else {
      const init = kind === "public" ? { auth: null } : {};
      assertEquals(await client.join(channel, init), {}, channel);
    }
    const keepsLast = /^((private|presence|private-encrypted)-)?cache-/;
    if (keepsLast.test(channel)) {
      assertEquals((await client.next("pusher:cache_miss")).channel, channel);
    }
  }
});

Deno.test("a channel name may have every allowed character and up to 200 of them", async () => {
  await using server = serve();
  await using client = await server.connect();
  const letters = "abcdefghijklmnopqrstuvwxyz";
  const all = `${letters}${letters.toUpperCase()}0123456789_-=@,.;`;
  for (const name of [all, "a", "-", "a".repeat(164), "a".repeat(200)]) {
    await client.join(name);
    await server.pusher.trigger(name, "e", {});
    assertEquals((await client.next("e")).channel, name);
  }
  for (const prefix of ["", "private-", "presence-"]) {
    const name = prefix.padEnd(201, "a");
    assertEquals(await client.refused(name), "LimitReached 400");
  }
  for (
    const name of ["", "a b", "a/b", "a:b", "#a", "a#", "ä"]
  ) {
    assertEquals(await client.refused(name), "InvalidChannel 400", name);
  }
});

Deno.test("a private channel takes the right signature and no other", async () => {
  await using server = serve();
  await using client = await server.connect();
  const { app, socketId } = client;
  const right = channelAuth(app, socketId, "private-a");
  const digest = right.slice(app.key.length + 1);
  const wrong: unknown[] = [
    null,
    "",
    5,
    {},
    [right],
    digest,
    `:${digest}`,
    `${app.key}:`,
    `${app.key}:${digest.toUpperCase()}`,
    `${app.key}:${digest.slice(1)}`,
    `${app.key}:${digest}0`,
    `${app.key}: ${digest}`,
    `${right}\n`,
    `${app.key}:${"0".repeat(64)}`,
    `${app.key}:${"é".repeat(64)}`,
    `${app.key}:${"é".repeat(32)}`,
    `other:${digest}`,
    `${app.key}x:${digest}`,
    channelAuth({ ...app, secret: "other" }, socketId, "private-a"),
    channelAuth(app, "1.1", "private-a"),
    channelAuth(app, socketId, "private-b"),
    channelAuth(app, socketId, "private-a", "{}"),
  ];
  for (const auth of wrong) {
    assertEquals(
      await client.refused("private-a", { auth: auth as string }),
      "AuthError 401",
      String(auth),
    );
  }
  await server.pusher.trigger("private-a", "e", {});
  await client.silence();
  assertEquals(await client.subscribe("private-a", { auth: right }), {
    event: SUCCEEDED,
    channel: "private-a",
    data: "{}",
  });
  await server.pusher.trigger("private-a", "e", {});
  await client.next("e");
});

Deno.test("channel_data is part of the signature on every class that has one", async () => {
  await using server = serve();
  await using client = await server.connect();
  const { app, socketId } = client;
  const channelData = '{"user_id":"10"}';
  for (const channel of ["private-a", "presence-a"]) {
    const unsigned = channelAuth(app, socketId, channel);
    const respelled = channelAuth(app, socketId, channel, '{"user_id": "10"}');
    for (const auth of [unsigned, respelled]) {
      assertEquals(
        await client.refused(channel, { channelData, auth }),
        "AuthError 401",
      );
    }
    await client.join(channel, { channelData });
  }
  // On a private channel it need not mean anything.
  await client.join("private-b", { channelData: "not json" });
  // The digest of one text does not do for another.
  const texts = ["Mr. Channels", "Mr. Pusher"].map((name) =>
    JSON.stringify({ user_id: 10, user_info: { name } })
  ) as [string, string];
  const auth = channelAuth(app, socketId, "presence-foobar", texts[1]);
  assertEquals(
    await client.refused("presence-foobar", { channelData: texts[0], auth }),
    "AuthError 401",
  );
  await client.join("presence-foobar", { channelData: texts[1], auth });
});

// ---- Presence ---------------------------------------------------------------

Deno.test("a presence channel lists the members, the joining one included", async () => {
  await using server = serve();
  await using ann = await server.connect();
  await using bob = await server.connect();
  const frame = await ann.subscribe("presence-a", {
    member: { user_id: 10, user_info: { n: 1 } },
  });
  assertEquals(frame, {
    event: SUCCEEDED,
    channel: "presence-a",
    data: '{"presence":{"ids":["10"],"hash":{"10":{"n":1}},"count":1}}',
  });
  assertEquals(await bob.join("presence-a", { member: { user_id: "x" } }), {
    presence: { ids: ["10", "x"], hash: { "10": { n: 1 }, x: {} }, count: 2 },
  });
  await bob.silence();
  assertEquals(await ann.framesUntilPong(), [{
    event: ADDED,
    channel: "presence-a",
    data: '{"user_id":"x","user_info":{}}',
  }]);
  ann.unsubscribe("presence-a");
  await ann.silence();
  assertEquals(await bob.framesUntilPong(), [{
    event: REMOVED,
    channel: "presence-a",
    data: '{"user_id":"10"}',
  }]);
});

Deno.test("a user with several sockets joins and leaves once", async () => {
  await using server = serve();
  await using bob = await server.connect();
  await using one = await server.connect();
  await using two = await server.connect();
  await bob.join("presence-a", { member: { user_id: "bob" } });
  const ann = { user_id: "7", user_info: { name: "Ann" } };
  await one.join("presence-a", { member: ann });
  assertEquals((await bob.next(ADDED)).data, JSON.stringify(ann));
  // The same user by a number, who would like to be somebody else now.
  const { presence } = await two.join("presence-a", {
    member: { user_id: 7, user_info: { name: "Eve" } },
  });
  assertEquals(presence.count, 2);
  assertEquals(presence.hash["7"], { name: "Ann" });
  await one.close();
  await server.journal.next("disconnected");
  await bob.silence();
  await using late = await server.connect();
  const told = await late.join("presence-a", { member: { user_id: "late" } });
  assertEquals(told.presence.hash["7"], { name: "Ann" });
  await bob.next(ADDED);
  await two.close();
  assertEquals(await bob.next(), {
    event: REMOVED,
    channel: "presence-a",
    data: '{"user_id":"7"}',
  });
  await bob.silence();
  assertEquals(server.journal.told("member_added", "member_removed"), [
    "member_added presence-a bob",
    "member_added presence-a 7",
    "member_added presence-a late",
    "member_removed presence-a 7",
  ]);
});

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

// ---- Client events ----------------------------------------------------------

Deno.test("client events are refused with 4301 unless the app allows them", async () => {
  await using server = serve();
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("private-a");
  await bob.join("private-a");
  ann.send({ event: "client-x", channel: "private-a", data: {} });
  const { channel, data } = await ann.next("pusher:error");
  assertEquals([channel, (data as { code: number }).code], ["private-a", 4301]);
  await bob.silence();
});

Deno.test("a client event reaches the other sockets on private and presence channels", async () => {
  await using server = serve({ clientEvents: true });
  await using ann = await server.connect();
  await using bob = await server.connect();
  for (
    const channel of [
      "private-a",
      "private-cache-a",
      "private-encrypted-a",
      "presence-a",
    ]
  ) {
    const presence = channel === "presence-a";
    // Another socket of the same user gets it too.
    const init = presence ? { member: { user_id: 10 } } : {};
    for (const client of [ann, bob]) {
      await client.join(channel, init);
      if (channel === "private-cache-a") await client.next("pusher:cache_miss");
    }
    ann.send({
      event: "client-x",
      channel,
      data: { a: 1 },
      user_id: "forged",
      extra: "dropped",
    });
    assertEquals(await bob.next(), {
      event: "client-x",
      channel,
      data: '{"a":1}',
      ...(presence ? { user_id: "10" } : {}),
    });
    await ann.silence();
    assertEquals(await server.journal.next("client_event"), {
      hook: "client_event",
      app: APP.id,
      channel,
      event: "client-x",
      data: '{"a":1}',
      socketId: ann.socketId,
      ...(presence ? { userId: "10" } : {}),
    });
  }
});

Deno.test("a client event's data arrives as the string that stands for it", async () => {
  await using server = serve({ clientEvents: true });
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("private-a");
  await bob.join("private-a");
  for (
    const [data, relayed] of [
      ['{"a":1}', '{"a":1}'],
      ["plain text", "plain text"],
      ["", ""],
      [{ a: [null] }, '{"a":[null]}'],
      [12, "12"],
      [null, "null"],
      [undefined, undefined],
    ]
  ) {
    ann.send({ event: "client-x", channel: "private-a", data });
    assertEquals(await bob.next(), {
      event: "client-x",
      channel: "private-a",
      ...(relayed === undefined ? {} : { data: relayed }),
    });
  }
});

Deno.test("a client event that breaks a rule is answered with 4301 and not relayed", async () => {
  await using server = serve({ clientEvents: true });
  await using ann = await server.connect();
  await using bob = await server.connect();
  for (const client of [ann, bob]) {
    for (const channel of ["news", "private-a", "cache-a"]) {
      await client.join(channel);
    }
    await client.next("pusher:cache_miss");
  }
  await bob.join("private-b");
  const refused: [channel: string, event?: string, data?: unknown][] = [
    ["news"],
    ["cache-a"],
    ["private-b"],
    ["private-c"],
    ["presence-a"],
    ["#server-to-user-1"],
    ["a b"],
    ["private-a", `client-${"x".repeat(194)}`],
    ["private-a", "client-x", "x".repeat(10_241)],
    ["private-a", "client-x", "ü".repeat(5_121)],
    ["private-a", "client-x", objectOf(10_241)],
  ];
  for (const [channel, event = "client-x", data = {}] of refused) {
    ann.send({ event, channel, data });
    const frame = await ann.next("pusher:error");
    assertEquals(frame.channel, channel);
    assertEquals((frame.data as { code: number }).code, 4301, channel);
  }
  for (const channel of [undefined, null, 5, ["private-a"], {}]) {
    ann.send({ event: "client-x", channel });
    const { channel: told, data } = await ann.next("pusher:error");
    assertEquals([told, (data as { code: number }).code], [undefined, 4300]);
  }
  ann.send({ event: "xclient-a", channel: "private-a" });
  assertEquals(dataOf(await ann.next("pusher:error")).code, 4300);
  await bob.silence();
  for (
    const [event, data] of [
      [`client-${"x".repeat(193)}`, 1],
      ["client-", "x".repeat(10_240)],
      ["client-x", objectOf(10_240)],
    ] as const
  ) {
    ann.send({ event, channel: "private-a", data });
    assertEquals((await bob.next()).event, event);
  }
  ann.unsubscribe("private-a");
  ann.send({ event: "client-x", channel: "private-a" });
  await ann.next("pusher:error");
});

Deno.test("client events are limited to 10 a second, of those that pass every other rule", async () => {
  await using server = serve({
    clientEvents: true,
    limits: { framesPerSecond: Infinity },
  });
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("private-a");
  await bob.join("private-a");
  for (let i = 0; i < 20; i++) {
    ann.send({ event: "client-x", channel: "private-none" });
  }
  assertEquals((await ann.framesUntilPong()).length, 20);
  const start = performance.now();
  for (let i = 0; i < 30; i++) {
    ann.send({ event: "client-x", channel: "private-a", data: i });
  }
  const refusals = await ann.framesUntilPong();
  const refilled = Math.ceil((performance.now() - start) / 100);
  const relayed = await bob.framesUntilPong();
  const count = relayed.length;
  assert(count >= 10 && count <= 10 + refilled, `${count} of ${refilled}`);
  assertEquals(refusals.length, 30 - count);
  assertEquals(
    relayed.slice(0, 10).map(({ data }) => data),
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
  );
  for (const frame of refusals) {
    assertEquals(frame.channel, "private-a");
    assertEquals(dataOf(frame).code, 4301);
  }
  // In time there is room again, on a connection that has stayed open.
  for (;;) {
    ann.send({ event: "client-x", channel: "private-a", data: "again" });
    if ((await ann.framesUntilPong()).length === 0) break;
  }
  assertEquals((await bob.next()).data, "again");
});

// ---- HTTP API ---------------------------------------------------------------

Deno.test("POST events publishes and answers {}", async () => {
  await using server = serve();
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("news");
  await bob.join("news");
  await ann.join("presence-a", { member: { user_id: "ann" } });
  const publish = async (body: object) => {
    const answer = await server.api("POST", "/events", { body });
    assertEquals(answer.status, 200, answer.text);
    return answer.body;
  };
  const frames = async (client: Client) =>
    (await client.framesUntilPong()).map(({ channel, event, data }) =>
      [channel, event, data].join(" ")
    );
  const e = { name: "e", data: "1" };
  assertEquals(await publish({ ...e, channel: "news" }), {});
  assertEquals(await publish({ ...e, channels: ["nobody"] }), {});
  assertEquals(await frames(ann), ["news e 1"]);
  // The list wins, and a channel counts once.
  await publish({
    ...e,
    channel: "news",
    channels: ["presence-a", "presence-a"],
  });
  assertEquals(await frames(ann), ["presence-a e 1"]);
  await publish({ name: "client-e", data: { a: [1] }, channels: ["news"] });
  assertEquals(await frames(ann), ['news client-e {"a":[1]}']);
  const inQuery = await server.api("POST", "/events", {
    query: { name: "e", data: "1", "channels[]": ["news", "x"] },
  });
  assertEquals([inQuery.status, inQuery.body], [200, {}]);
  const { status } = await server.api("POST", "/events", {
    query: { name: "e", data: "1", channel: "x", body_md5: "0".repeat(32) },
  });
  assertEquals(status, 401);
  // The digest of nothing is that of an empty body.
  const body_md5 = "d41d8cd98f00b204e9800998ecf8427e";
  await server.api("POST", "/events", {
    query: { name: "e", data: "2", channel: "news", body_md5 },
  });
  assertEquals(await frames(ann), ["news e 1", "news e 2"]);
  await publish({ name: "App\\Events\\a.b", data: "", channel: "news" });
  assertEquals(await frames(ann), ["news App\\Events\\a.b "]);
  await bob.framesUntilPong();
  // Everybody but the named socket, and an unknown one is nobody.
  await publish({ ...e, channel: "news", socket_id: ann.socketId });
  await publish({ ...e, channel: "news", socket_id: "1.1" });
  assertEquals((await frames(ann)).length, 1);
  assertEquals((await frames(bob)).length, 2);
  assertEquals(
    await publish({
      ...e,
      channels: ["presence-a", "news", "x", "news"],
      info: "user_count,subscription_count",
    }),
    {
      channels: {
        "presence-a": { user_count: 1, subscription_count: 1 },
        news: { subscription_count: 2 },
        x: { subscription_count: 0 },
      },
    },
  );
  assertEquals(
    await publish({ ...e, channels: ["presence-a", "x"], info: "user_count" }),
    { channels: { "presence-a": { user_count: 1 }, x: {} } },
  );
});

/** Bodies of `POST events` that are refused, with the status. */
const WRONG_EVENTS: [status: number, body: unknown][] = [
  [400, ""],
  [400, "not json"],
  [400, "null"],
  [400, "[]"],
  [400, {}],
  [400, { channel: "news", data: "1" }],
  [400, { name: "", channel: "news", data: "1" }],
  [400, { name: 5, channel: "news", data: "1" }],
  [400, { name: "e".repeat(201), channel: "news", data: "1" }],
  [400, { name: "pusher:e", channel: "news", data: "1" }],
  [400, { name: "pusher_internal:e", channel: "news", data: "1" }],
  [400, { name: "e", channel: "news" }],
  [400, { name: "e", data: "1" }],
  [400, { name: "e", channels: [], data: "1" }],
  [400, { name: "e", channels: "news", data: "1" }],
  [400, { name: "e", channels: ["news", 5], data: "1" }],
  [400, { name: "e", channels: ["news", "a b"], data: "1" }],
  [400, { name: "e", channels: ["news", ""], data: "1" }],
  [400, { name: "e", channels: ["news", "a".repeat(201)], data: "1" }],
  [400, {
    name: "e",
    channels: Array.from({ length: 101 }, (_, i) => `news${i || ""}`),
    data: "1",
  }],
  [400, { name: "e", channel: "news", data: "1", socket_id: "1234" }],
  [400, { name: "e", channel: "news", data: "1", socket_id: "1.1:x" }],
  [400, { name: "e", channel: "news", data: "1", socket_id: 1.1 }],
  [400, { name: "e", channel: "news", data: "1", info: "cache" }],
  [400, { name: "e", channel: "news", data: "1", info: "nonsense" }],
  [413, { name: "e", channel: "news", data: "x".repeat(10_241) }],
  [413, { name: "e", channel: "news", data: "ü".repeat(5_121) }],
  [413, { name: "e", channel: "news", data: objectOf(10_241) }],
];

Deno.test("POST events and batch_events refuse what is wrong and publish nothing", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("news");
  const right = { name: "e", channel: "news", data: "1" };
  for (const [status, body] of WRONG_EVENTS) {
    const single = await server.api("POST", "/events", { body });
    assertEquals(single.status, status, JSON.stringify(body).slice(0, 99));
    const batch = await server.api("POST", "/batch_events", {
      body: typeof body === "string" ? body : { batch: [right, body] },
    });
    assertEquals(batch.status, status, JSON.stringify(body).slice(0, 99));
  }
  for (
    const batch of [undefined, [], {}, "x", [null], Array(11).fill(right), [
      right,
      { name: "e", channels: ["news"], data: "1" },
    ]]
  ) {
    const body = { batch };
    const answer = await server.api("POST", "/batch_events", { body });
    assertEquals(answer.status, 400, JSON.stringify(body));
  }
  await client.silence();
  const longest = { ...right, name: "e".repeat(200), data: "x".repeat(10_240) };
  for (
    const body of [
      longest,
      { ...right, data: objectOf(10_240) },
      { ...right, data: null },
      { ...right, channels: Array.from({ length: 100 }, (_, i) => `c${i}`) },
    ]
  ) {
    const answer = await server.api("POST", "/events", { body });
    assertEquals(answer.status, 200);
  }
});

Deno.test("POST batch_events publishes in order and tells counts by index", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("news");
  const batch = Array.from({ length: 10 }, (_, i) => ({
    channel: i === 5 ? "presence-a" : "news",
    name: `e${i}`,
    data: "",
    ...(i >= 4 && i <= 5 ? { info: "user_count,subscription_count" } : {}),
  }));
  const { body } = await server.api("POST", "/batch_events", {
    body: { batch },
  });
  assertEquals(body, {
    batch: batch.map((_, i) =>
      i === 4
        ? { subscription_count: 1 }
        : i === 5
        ? { subscription_count: 0, user_count: 0 }
        : {}
    ),
  });
  assertEquals(
    (await client.framesUntilPong()).map(({ event }) => event),
    ["e0", "e1", "e2", "e3", "e4", "e6", "e7", "e8", "e9"],
  );
  const plain = await server.api("POST", "/batch_events", {
    body: { batch: batch.slice(0, 4) },
  });
  assertEquals(plain.body, {});
});

Deno.test("GET channels, a channel and its users tell who is there", async () => {
  await using server = serve();
  const get = async (path: string, query = {}) => {
    const { status, body } = await server.api("GET", path, { query });
    return status === 200 ? body : status;
  };
  assertEquals(await get("/channels"), { channels: {} });
  await using ann = await server.connect();
  await using tab = await server.connect();
  await ann.join("news");
  await ann.join("presence-a", { member: { user_id: 10 } });
  await tab.join("presence-a", { member: { user_id: "10" } });
  await tab.join("presence-b", { member: { user_id: "x" } });
  const prefix = { filter_by_prefix: "presence-a" };
  const a = { user_count: 1, subscription_count: 2 };
  const b = { user_count: 1, subscription_count: 1 };
  const table: [
    path: string,
    query: Record<string, string>,
    answer: unknown,
  ][] = [
    ["/channels", {}, {
      channels: { news: {}, "presence-a": {}, "presence-b": {} },
    }],
    ["/channels", prefix, { channels: { "presence-a": {} } }],
    ["/channels", { filter_by_prefix: "none" }, { channels: {} }],
    ["/channels", { ...prefix, info: "user_count" }, {
      channels: { "presence-a": { user_count: 1 } },
    }],
    ["/channels", {
      filter_by_prefix: "presence-",
      info: "subscription_count,user_count",
    }, { channels: { "presence-a": a, "presence-b": b } }],
    ["/channels", { filter_by_prefix: "n", info: "subscription_count" }, {
      channels: { news: { subscription_count: 1 } },
    }],
    ["/channels", { info: "user_count" }, 400],
    ["/channels", { filter_by_prefix: "pre", info: "user_count" }, 400],
    ["/channels", { info: "nonsense" }, 400],
    ["/channels", { unknown: "ignored", filter_by_prefix: "x" }, {
      channels: {},
    }],
    ["/channels/news", {}, { occupied: true }],
    ["/channels/news", { info: "subscription_count" }, {
      occupied: true,
      subscription_count: 1,
    }],
    ["/channels/presence-a", { info: "user_count,subscription_count" }, {
      occupied: true,
      ...a,
    }],
    ["/channels/x", { info: "subscription_count" }, {
      occupied: false,
      subscription_count: 0,
    }],
    ["/channels/presence-x", { info: "user_count" }, {
      occupied: false,
      user_count: 0,
    }],
    ["/channels/news", { info: "user_count" }, 400],
    ["/channels/news", { info: "cache" }, 400],
    ["/channels/news", { info: "nonsense" }, 400],
    ["/channels/a%20b", {}, 400],
    ["/channels/presence-a/users", {}, { users: [{ id: "10" }] }],
    ["/channels/presence-x/users", {}, { users: [] }],
    ["/channels/news/users", {}, 400],
    ["/channels/presence-%2F/users", {}, 400],
  ];
  for (const [path, query, answer] of table) {
    const label = `${path} ${JSON.stringify(query)}`;
    assertEquals(await get(path, query), answer, label);
  }
});

Deno.test("the HTTP API refuses a request that is not signed for what it says", async () => {
  const off = { id: "off", key: "off", secret: "off", enabled: false };
  const seconds = Math.floor(Date.now() / 1000);
  await using server = serve({
    apps: [{ ...APP }, off],
    now: () => seconds * 1000,
  });
  await using client = await server.connect();
  await client.join("news");
  const body = { name: "e", channel: "news", data: "1" };
  const at = (offset: number) => ({ auth_timestamp: String(seconds + offset) });
  const table: [status: number, init: Parameters<typeof server.api>[2]][] = [
    [404, { app: { ...APP, id: "nobody" } }],
    [404, { app: { ...APP, id: "__proto__", key: "wrong" } }],
    [403, { app: off }],
    [401, { app: { ...APP, key: "wrong" } }],
    [401, { app: { ...APP, secret: "wrong" } }],
    [401, { query: { auth_key: null } }],
    [401, { query: { auth_version: "2.0" } }],
    [401, { query: { auth_version: "1" } }],
    [401, { query: { auth_version: null } }],
    [401, { query: { auth_timestamp: null } }],
    [401, { query: { auth_timestamp: "soon" } }],
    [401, { query: { auth_timestamp: "" } }],
    [401, { query: { auth_timestamp: `${seconds}.5` } }],
    [401, { query: { auth_timestamp: `${seconds}e0` } }],
    [401, { query: at(-601) }],
    [401, { query: at(601) }],
    [401, { query: { body_md5: null } }],
    [401, { query: { body_md5: "0".repeat(32) } }],
    [401, { query: { body_md5: "" } }],
    [401, { tamper: { auth_signature: null } }],
    [401, { tamper: { auth_signature: "" } }],
    [401, { tamper: { auth_signature: "0".repeat(64) } }],
    [401, { tamper: { auth_signature: "é".repeat(64) } }],
    [401, { tamper: at(100) }],
    [401, { tamper: { more: "x" } }],
    [401, { tamperedBody: JSON.stringify({ ...body, data: "2" }) }],
    [401, { tamperedBody: JSON.stringify(body) + " " }],
    [401, { signedPath: "/apps/app-id/batch_events" }],
    [401, { signedPath: "" }],
    // The signature comes before what the body says.
    [401, { body: "not json", tamper: { auth_key: "wrong" } }],
  ];
  for (const [status, init] of table) {
    const answer = await server.api("POST", "/events", { body, ...init });
    assertEquals(answer.status, status, JSON.stringify(init));
    assert(!/[0-9a-f]{32}/.test(answer.text), answer.text);
  }
  await client.silence();
  for (
    const query of [
      at(-600),
      at(600),
      { more: "& = + % ü" },
      { Upper: "case" },
      { "channels[]": ["b", "a"] },
    ]
  ) {
    const answer = await server.api("POST", "/events", { body, query });
    assertEquals(answer.status, 200, JSON.stringify(query) + answer.text);
    await client.next("e");
  }
  // An upper-case signature is another one.
  const request = signedRequest(server.url, "POST", "/events", { body });
  const url = new URL(request.url);
  const signature = url.searchParams.get("auth_signature") as string;
  url.searchParams.set("auth_signature", signature.toUpperCase());
  const { status } = await read(await fetch(new Request(url, request)));
  assertEquals(status, 401);
});

Deno.test("the HTTP API answers unknown paths with 404 and wrong methods with 405", async () => {
  await using server = serve();
  for (
    const [status, method, path] of [
      [404, "GET", ""],
      [404, "GET", "/nonsense"],
      [404, "POST", "/events/more"],
      [404, "GET", "/channels/news/nonsense"],
      [404, "POST", "/channels/news/events"],
      [405, "GET", "/events"],
      [405, "PUT", "/events"],
      [405, "DELETE", "/batch_events"],
      [405, "POST", "/channels"],
      [405, "POST", "/channels/news"],
      [405, "POST", "/channels/presence-a/users"],
    ] as const
  ) {
    const request = signedRequest(server.url, method, path);
    const answer = await read(await fetch(request));
    assertEquals(answer.status, status, `${method} ${path}`);
    if (status === 405) assertEquals(Object.keys(answer.body), ["error"]);
  }
});

Deno.test("the HTTP API takes a body of 1 MiB and no more", async () => {
  await using server = serve();
  const event = JSON.stringify({ name: "e", channel: "news", data: "1" });
  for (const [bytes, status] of [[1_048_576, 200], [1_048_577, 413]] as const) {
    const body = event.padEnd(bytes, " ");
    assertEquals(
      (await server.api("POST", "/events", { body })).status,
      status,
    );
  }
});

// ---- Signatures -------------------------------------------------------------

/** A handler for the published examples, at the time they were made. */
function pusherOf2012(at = 1_353_088_179_000): Pusher {
  const { id: appId, key, secret } = DOCS;
  return new Pusher({ appId, key, secret, now: () => at });
}

const T =
  "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0";

/** Published examples of signed requests. */
const REQUESTS: [
  path: string,
  query: string,
  signature: string,
  body?: string,
][] = [
  [
    "POST /apps/3/events",
    "body_md5=ec365a775a4cd0599faeb73354201b6f",
    "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c",
    String
      .raw`{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`,
  ],
  [
    "GET /apps/3/channels",
    "filter_by_prefix=presence-&info=user_count",
    "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
  ],
  [
    "GET /apps/3/channels/presence-foobar/users",
    "",
    "5567dd30e7f8575e66be615d2aac3f608a0c311c31ddab8513a278b022e9597e",
  ],
  [
    "POST /apps/3/batch_events",
    "body_md5=39e691c1f6a83daf77df2397111bfd98",
    "9df3472fb01f5d693bc9bd922118eb51e8268ac59841d3c6e3c37d488a837534",
    String
      .raw`{"batch":[{"channel":"project-3","name":"foo","data":"{\"some\":\"data\"}"}]}`,
  ],
  [
    "POST /apps/3/events",
    "body_md5=b0b4b56df6f085784dc45076c4e15121",
    "7fe5453ea1ccb94fd6f8d9badede69d136452e4f285ce0d40b643c83dfe34a2e",
    String
      .raw`{"name":"foo","channel":"project-3","data":"{\"text\":\"zoë ✓\"}","socket_id":"1234.1234","info":"subscription_count"}`,
  ],
  [
    "POST /apps/3/events",
    `name=foo&channel=project-3&data=${encodeURIComponent('{"some":"data"}')}`,
    "b8e8339118f4f0727e88cab8876ae94418f1074a8cb162c3f7496be079aaf4e5",
  ],
];

/** Sends one of them. */
async function replay(
  pusher: Pusher,
  [call, query, signature, body]: (typeof REQUESTS)[number],
  order: (parameters: string[]) => string[] = (same) => same,
): Promise<Answer> {
  const [method, path] = call.split(" ") as [string, string];
  const parameters = [
    ...T.split("&"),
    ...query.split("&"),
    `auth_signature=${signature}`,
  ];
  const search = order(parameters.filter(Boolean)).join("&");
  const url = `http://localhost${path}?${search}`;
  return await read(
    await pusher.handler(new Request(url, { method, body: body ?? null })),
  );
}

Deno.test("the published signed requests are accepted, in their time and unchanged", async () => {
  await using pusher = pusherOf2012();
  await using last = pusherOf2012(1_353_088_779_000);
  await using late = pusherOf2012(1_353_088_780_000);
  await using today = new Pusher({
    appId: DOCS.id,
    key: DOCS.key,
    secret: DOCS.secret,
  });
  for (const request of REQUESTS) {
    assertEquals((await replay(pusher, request)).status, 200, request[0]);
    assertEquals((await replay(last, request)).status, 200);
    assertEquals((await replay(late, request)).status, 401);
    assertEquals((await replay(today, request)).status, 401);
    // Order and spelling of the parameters do not matter.
    const respelled = await replay(
      pusher,
      request,
      (parameters) =>
        parameters.reverse().map((parameter) =>
          parameter.replace("_version=1.0", "_version=%31%2E0")
            .replace("presence-", "pre%73ence%2D")
        ),
    );
    assertEquals(respelled.status, 200, request[0]);
    const [call, query, signature, body] = request;
    const changed = signature.replace(
      /^./,
      (digit) => digit === "0" ? "1" : "0",
    );
    const forged = await replay(
      pusher,
      body === undefined
        ? [call, query, changed]
        : [call, query, changed, body],
    );
    assertEquals(forged.status, 401);
  }
});

Deno.test("a published request with no body means its query", async () => {
  await using pusher = pusherOf2012();
  const published: unknown[] = [];
  pusher.on("published", (event) => published.push(event));
  await replay(pusher, REQUESTS.at(-1) as (typeof REQUESTS)[number]);
  await replay(pusher, REQUESTS[0] as (typeof REQUESTS)[number]);
  assertEquals(
    published,
    [1, 2].map(() => ({
      app: "3",
      channel: "project-3",
      event: "foo",
      data: '{"some":"data"}',
    })),
  );
});

Deno.test("a published request with a parameter in capitals is accepted in both spellings", async () => {
  await using pusher = pusherOf2012();
  const info = "subscription_count,cache";
  const path = "/apps/3/channels/project-3";
  const asSent = hmac(DOCS.secret, `GET\n${path}\nInfo=${info}&${T}`);
  for (
    const signature of [
      "ba39a9abed534249e41fc501b533868469875035b1f64187c2b010a76f54d0c9",
      asSent,
    ]
  ) {
    const call = [`GET ${path}`, `Info=${info}`, signature] as const;
    // The signature is right; the channel is none that caches.
    assertEquals((await replay(pusher, [...call])).status, 400);
  }
});

Deno.test("a path may be signed as it is sent or decoded", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("a@b,c;d=e");
  for (
    const signedPath of [
      "/apps/app-id/channels/a@b,c;d=e",
      "/apps/app-id/channels/a%40b%2Cc%3Bd%3De",
    ]
  ) {
    const { body } = await server.api(
      "GET",
      "/channels/a%40b%2Cc%3Bd%3De",
      { signedPath },
    );
    assertEquals(body, { occupied: true });
  }
});

Deno.test("webhook verifies and reads what was signed", async () => {
  await using pusher = new Pusher({ key: DOCS.key, secret: DOCS.secret });
  const rawBody =
    '{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"presence-foobar"},{"name":"member_added","channel":"presence-foobar","user_id":"10"}]}';
  const headers = {
    "content-type": "application/json",
    "x-pusher-key": DOCS.key,
    "x-pusher-signature":
      "25af8e638a8074c9d01c99baa709a42a5de62c3629a78a9fee6181a5b3873655",
  };
  for (const given of [headers, new Headers(headers)]) {
    const webhook = pusher.webhook({ headers: given, rawBody });
    assert(webhook.isValid());
    assert(webhook.isContentTypeValid() && webhook.isBodyValid());
    assertEquals(webhook.getTime(), new Date(1_327_078_148_132));
    assertEquals(webhook.getEvents(), [
      { name: "channel_occupied", channel: "presence-foobar" },
      { name: "member_added", channel: "presence-foobar", user_id: "10" },
    ]);
    assertEquals(webhook.getData(), JSON.parse(rawBody));
  }
  // Signed by another app, whose credentials are at hand.
  const tofu = {
    headers: {
      "content-type": "application/json",
      "x-pusher-key": "123456789",
      "x-pusher-signature":
        "c17257e92037cd7de407ebc1ed174ceb7b2e518db127f44411b9ffc4f5b28cc5",
    },
    rawBody:
      '{"time_ms":1403175510755,"events":[{"channel":"test_channel","name":"channel_vacated"}]}',
  };
  const extra = { key: "123456789", secret: "tofu" };
  assertEquals(pusher.webhook(tofu).isValid(), false);
  assertEquals(pusher.webhook(tofu).isValid(extra), true);
  assertEquals(pusher.webhook(tofu).isValid([extra]), true);
  assertEquals(
    pusher.webhook(tofu).isValid({ ...extra, secret: "x" }),
    false,
  );
  await using own = new Pusher(extra);
  assert(own.webhook(tofu).isValid());
  const type = "application/json; charset=utf-8";
  for (
    const [changed, body = rawBody] of [
      [{ "content-type": type }],
      [{ "content-type": undefined }],
      [{ "x-pusher-key": "other" }],
      [{ "x-pusher-key": undefined }],
      [{ "x-pusher-signature": undefined }],
      [{ "x-pusher-signature": "" }],
      [{ "x-pusher-signature": headers["x-pusher-signature"].toUpperCase() }],
      [{}, rawBody + " "],
      [{ "x-pusher-signature": hmac(DOCS.secret, "[]") }, "[]"],
      [{ "x-pusher-signature": hmac(DOCS.secret, "not json") }, "not json"],
    ] as [Record<string, string>, string?][]
  ) {
    const webhook = pusher.webhook({
      headers: { ...headers, ...changed },
      rawBody: body,
    });
    assertEquals(webhook.isValid(), false, JSON.stringify(changed));
  }
  const broken = pusher.webhook({ headers, rawBody: "not json" });
  assertEquals(broken.isBodyValid(), false);
  assertThrows(() => broken.getData(), Error);
  assertThrows(() => broken.getEvents(), Error);
  assertThrows(() => broken.getTime(), Error);
});

// ---- Served client ----------------------------------------------------------

Deno.test("pusher.js and pusher.mjs are served configured, with a type and an ETag", async () => {
  await using server = serve({ path: "/rt", key: "a-key" });
  for (const name of ["pusher.js", "pusher.mjs"]) {
    const url = `${server.url}/${name}`;
    const get = await fetch(url);
    const script = await get.text();
    assertEquals(get.status, 200);
    assertMatch(
      get.headers.get("content-type") ?? "",
      /^(text|application)\/javascript(; ?charset=utf-8)?$/i,
    );
    const etag = get.headers.get("etag") ?? "";
    assertMatch(etag, /^"[^"]+"$/);
    const age = /max-age=(\d+)/.exec(get.headers.get("cache-control") ?? "");
    assert(age && Number(age[1]) <= 3600, "cache-control");
    for (const told of ["a-key", `127.0.0.1:${server.port}`, "/rt"]) {
      assertStringIncludes(script, JSON.stringify(told));
    }
    const head = await fetch(url, { method: "HEAD" });
    assertEquals(await head.text(), "");
    assertEquals(head.status, 200);
    for (const header of ["etag", "content-type", "cache-control"]) {
      assertEquals(head.headers.get(header), get.headers.get(header));
    }
    for (
      const [match, status] of [
        [etag, 304],
        [`W/${etag}`, 304],
        [`"other", ${etag}`, 304],
        ["*", 304],
        ['"other"', 200],
      ] as const
    ) {
      for (const method of ["GET", "HEAD"]) {
        const headers = { "if-none-match": match };
        const again = await fetch(url, { method, headers });
        const text = await again.text();
        assertEquals(again.status, status, match);
        assertEquals(text === "", status === 304 || method === "HEAD");
        assertEquals(again.headers.get("etag"), etag);
      }
    }
  }
});

Deno.test("the ETag of pusher.js changes with the key, the host and the path", async () => {
  const etags = new Set<string | null>();
  for (
    const [options, host, route] of [
      [{}, "a.example", ""],
      [{}, "b.example", ""],
      [{ key: "other" }, "a.example", ""],
      [{ path: "/rt" }, "a.example", "/rt"],
    ] as const
  ) {
    await using pusher = new Pusher(options);
    for (const name of ["pusher.js", "pusher.mjs"]) {
      const url = `http://${host}${route}/${name}`;
      const response = await pusher.handler(new Request(url));
      await response.body?.cancel();
      etags.add(response.headers.get("etag"));
    }
  }
  assertEquals(etags.size, 8);
});

Deno.test("pusher.js and pusher.mjs run nothing of a Host header or a key", async () => {
  await using server = serve({ key: "k\\'\"`${alert(1)}<script><!--" });
  for (
    const host of [
      "a.example",
      "a'+alert(1)+'",
      'a"</script><script>alert(1)//',
      "a`${alert(1)}`",
      "a\\",
      "*/alert(1)/*",
      "",
    ]
  ) {
    for (const name of ["pusher.js", "pusher.mjs"]) {
      using raw = await server.raw();
      await raw.write(
        `GET /${name} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`,
      );
      const [, status] = (await raw.readHead()).split(" ");
      const script = await raw.readAll();
      // Such a host may be refused, but it is no fault of the program.
      if (status !== "200") {
        assertMatch(status ?? "", /^40[04]$/, host);
        continue;
      }
      assert(!/<\/?script|<!--/i.test(script), `${host} in ${name}`);
      const statements = name === "pusher.js"
        ? script
        : script.replace(/export\s*\{[^}]*\};?/, "")
          .replace(/export const/g, "const")
          .replaceAll("import.meta.url", '"http://a.example/pusher.mjs"');
      const alerts: unknown[] = [];
      const scope: Record<string, unknown> = {};
      const names = ["alert", "globalThis", "window", "self"];
      // Not to be parsed would be an error here and now.
      const run = new Function(...names, statements);
      try {
        run((what: unknown) => alerts.push(what), scope, scope, scope);
      } catch (error) {
        // A host that is none may be of no use to the client.
        assert(error instanceof TypeError && host !== "a.example", `${error}`);
      }
      assertEquals(alerts, []);
    }
  }
});

Deno.test("pusher.js defines window.pusher and pusher.mjs exports it", async () => {
  await using server = serve({ key: "a-key" });
  const script = await (await fetch(`${server.url}/pusher.js`)).text();
  const scope: Record<string, { key?: string }> = {};
  new Function("globalThis", script)(scope);
  assertEquals(Object.keys(scope).sort(), ["Pusher", "pusher"]);
  assertEquals(scope.pusher?.key, "a-key");
  const served = await (await fetch(`${server.url}/pusher.mjs`)).blob();
  const url = URL.createObjectURL(served);
  const module = await import(url);
  URL.revokeObjectURL(url);
  assertEquals(Object.keys(module).sort(), ["Pusher", "default", "pusher"]);
  assertEquals(module.default, module.Pusher);
  assertEquals(module.pusher.key, "a-key");
  // Nobody has used it yet.
  assertEquals(server.journal.entries, []);
});

// ---- Origins ----------------------------------------------------------------

Deno.test("origins decides which pages may open a socket", async () => {
  const table: [
    rule: OriginRule | OriginRule[] | undefined,
    allowed: string[],
    refused: string[],
  ][] = [
    [undefined, ["https://any.example", "null"], []],
    ["*", ["https://any.example", "http://localhost:1"], []],
    ["https://a.example", ["https://a.example"], [
      "http://a.example",
      "https://a.example:8443",
      "https://a.example.evil.test",
      "https://b.a.example",
      "https://evila.example",
      "null",
      "nonsense",
    ]],
    ["https://*.a.example", ["https://b.a.example", "https://c.b.a.example"], [
      "http://b.a.example",
      "https://evila.example",
      "https://b.a.example.evil.test",
      "https://b.a.example:8443",
    ]],
    ["*.a.example", ["https://b.a.example", "http://b.a.example"], [
      "https://evila.example",
      "https://evil.test/.a.example",
      "ftp://b.a.example",
    ]],
    // A pattern that remembers where it was still gives the same answer.
    [/^https:\/\/[ab]\.example$/g, ["https://a.example", "https://b.example"], [
      "https://c.example",
    ]],
    [
      (origin, request) =>
        origin.endsWith(":1") && request.headers.has("origin"),
      [
        "http://localhost:1",
      ],
      ["http://localhost:2"],
    ],
    [["https://a.example", /b/], ["https://a.example", "https://b.example"], [
      "https://c.example",
    ]],
    [[], [], ["https://a.example"]],
  ];
  for (const [rule, allowed, refused] of table) {
    await using server = serve(rule === undefined ? {} : { origins: rule });
    for (const origin of [...allowed, ...allowed]) {
      await using _client = await server.connect({ headers: { origin } });
    }
    for (const origin of refused) {
      await using client = server.dial({ headers: { origin } });
      const { event } = await client.next();
      assertEquals(event, "pusher:error", `${rule} ${origin}`);
      const { code } = await within(DEADLINE_MS, "close", client.closed);
      assertEquals(code, 4009, `${rule} ${origin}`);
    }
  }
});

Deno.test("origins of an app override those of the server for its sockets", async () => {
  const apps = [APP, {
    ...APP,
    id: "b",
    key: "b",
    origins: "https://b.example",
  }];
  await using server = serve({ apps, origins: "https://a.example" });
  const [a, b] = apps as [App, App];
  for (
    const [app, origin, isIn] of [
      [a, "https://a.example", true],
      [a, "https://b.example", false],
      [b, "https://b.example", true],
      [b, "https://a.example", false],
    ] as const
  ) {
    const init = { app, headers: { origin } };
    if (isIn) await (await server.connect(init)).close();
    else assertEquals((await server.turnsAway(init)).code, 4009);
  }
});

Deno.test("an origin rule that fails refuses and is reported", async () => {
  const rules: OriginRule[] = [
    () => {
      throw new Error("the rule is broken");
    },
    // A promise is no answer, least of all a yes.
    (() => Promise.resolve(false)) as never,
  ];
  for (const origins of rules) {
    await using server = serve({ origins });
    const headers = { origin: "https://a.example" };
    const { code, reason } = await server.turnsAway({ headers });
    assertEquals(code, 4009);
    assert(!reason.includes("broken"));
    const { error, during } = await server.journal.next("error");
    assert(error instanceof Error);
    assertStringIncludes(during, "origin");
  }
});

// ---- Auth endpoint ----------------------------------------------------------

/** Asks the auth endpoint as clients do. */
async function ask(
  url: string,
  form: Record<string, string | string[]>,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const pairs = Object.entries(form).flatMap(([name, value]) =>
    [value].flat().map((one) => [name, one])
  );
  return await read(
    await fetch(`${url}/pusher/auth`, {
      method: "POST",
      headers,
      body: new URLSearchParams(pairs),
    }),
  );
}

Deno.test("POST /pusher/auth is not ours without authorize", async () => {
  await using server = serve({}, {
    after: [async (request) => new Response(await request.text())],
  });
  const form = { socket_id: "1.1", channel_name: "private-a" };
  const { text } = await ask(server.url, form);
  assertEquals(text, "socket_id=1.1&channel_name=private-a");
});

Deno.test("POST /pusher/auth signs what authorize allows", async () => {
  const member = { user_id: 10, user_info: { name: "Änn" } };
  await using server = serve({
    authorize(request, { channel, socketId, params }) {
      assertEquals(request.headers.get("cookie"), "session=1");
      assertMatch(socketId, /^\d+\.\d+$/);
      assertEquals(params.get("extra"), "1");
      switch (channel) {
        case "private-yes":
          return true;
        case "private-later":
          return Promise.resolve(true);
        case "presence-a":
        case "private-member":
          return Promise.resolve(member);
        default:
          return Promise.resolve(false);
      }
    },
  });
  await using client = await server.connect();
  const headers = { cookie: "session=1" };
  const sign = (channel_name: string) =>
    ask(
      server.url,
      { socket_id: client.socketId, channel_name, extra: "1" },
      headers,
    );
  for (const channel of ["private-yes", "private-later"]) {
    const { status, body } = await sign(channel);
    assertEquals(status, 200);
    assertEquals(body, {
      auth: channelAuth(client.app, client.socketId, channel),
    });
    await client.join(channel, body);
  }
  for (const channel of ["presence-a", "private-member"]) {
    const { status, body } = await sign(channel);
    assertEquals(status, 200);
    const { auth, channel_data: channelData } = body;
    const told = await client.join(channel, { auth, channelData });
    if (channel === "private-member") continue;
    assertEquals(Object.keys(body).sort(), ["auth", "channel_data"]);
    assertEquals(told.presence.hash, { "10": { name: "Änn" } });
  }
  const { status, body, headers: given } = await sign("private-no");
  assertEquals([status, Object.keys(body)], [403, ["error"]]);
  assertEquals(given.get("content-type"), "application/json");
  assertEquals(given.get("cache-control") ?? "no-store", "no-store");
});

Deno.test("POST /pusher/auth answers for several channels at once", async () => {
  await using server = serve({
    authorize(_request, { channel }) {
      if (channel === "private-broken") throw new Error("broken inside");
      return channel === "presence-b"
        ? { user_id: "b" }
        : channel !== "private-c";
    },
  });
  await using client = await server.connect();
  const { app, socketId } = client;
  const names = [
    "private-a",
    "presence-b",
    "private-c",
    "a b",
    "private-broken",
  ];
  const { status, body } = await ask(server.url, {
    socket_id: socketId,
    "channel_name[]": names,
  });
  assertEquals(status, 200);
  assertEquals(Object.keys(body), ["channels"]);
  assertEquals(Object.keys(body.channels), names);
  const [a, b, ...refused] = names.map((name) => body.channels[name]);
  assertEquals(a, { auth: channelAuth(app, socketId, "private-a") });
  assertEquals(b, {
    auth: channelAuth(app, socketId, "presence-b", '{"user_id":"b"}'),
    channel_data: '{"user_id":"b"}',
  });
  for (const one of refused) {
    assertEquals(Object.keys(one).sort(), ["error", "status"]);
    assert(one.status >= 400 && typeof one.error === "string");
    assert(!one.error.includes("broken inside"));
  }
  assertEquals(refused[0].status, 403);
  await server.journal.next("error");
});

Deno.test("POST /pusher/auth refuses what it cannot sign, without asking authorize", async () => {
  const asked: string[] = [];
  await using server = serve({
    authorize: (_request, { channel }) => asked.push(channel) > 0,
  });
  const right = { socket_id: "1.1", channel_name: "private-a" };
  for (
    const form of [
      {},
      { socket_id: "1.1" },
      { channel_name: "private-a" },
      { ...right, socket_id: "1" },
      { ...right, socket_id: "" },
      { ...right, socket_id: "1.1:private-b" },
      { ...right, socket_id: "1.1\n" },
      { ...right, channel_name: "" },
      { ...right, channel_name: "private-a b" },
      { ...right, channel_name: "private-a:{}" },
      { ...right, channel_name: "#server-to-user-1" },
      { ...right, channel_name: "private-".padEnd(201, "a") },
    ]
  ) {
    const { status, body } = await ask(server.url, form);
    assert(status >= 400 && status < 500, JSON.stringify(form));
    assertEquals(Object.keys(body), ["error"]);
  }
  assertEquals(asked, []);
  assertEquals((await ask(server.url, right)).status, 200);
});

Deno.test("POST /pusher/auth is refused when authorize fails, and the failure is reported", async () => {
  const answers: unknown[] = [
    () => {
      throw new Error("a detail");
    },
    () => Promise.reject(new Error("a detail")),
    () => ({}),
    () => ({ user_id: 1.5 }),
    () => ({ user_id: "x".repeat(129) }),
    () => ({ user_id: "x", user_info: "text" }),
    () => ({ user_id: "x", user_info: objectOf(1_025) }),
    () => ({ user_id: "x", user_info: { n: 1n } }),
    () => "yes",
    () => 1,
  ];
  await using server = serve({
    authorize: (_request, { params }) =>
      (answers[Number(params.get("which"))] as () => boolean)(),
  });
  for (const which of answers.keys()) {
    const { status, text } = await ask(server.url, {
      socket_id: "1.1",
      channel_name: "presence-a",
      which: String(which),
    });
    // These are merely no member; the others are faults of the program.
    if (which >= answers.length - 2) continue;
    assert(status === 403 || status === 500, `${which}: ${status} ${text}`);
    assert(!text.includes("a detail"), text);
    const { during } = await server.journal.next("error");
    assertMatch(during, /authoriz/);
  }
});

Deno.test("POST /pusher/auth may take its time while the socket goes away", async () => {
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<boolean>();
  await using server = serve({
    authorize() {
      asked.resolve();
      return answer.promise;
    },
  });
  await using client = await server.connect();
  const reply = ask(server.url, {
    socket_id: client.socketId,
    channel_name: "private-a",
  });
  await within(DEADLINE_MS, "authorize", asked.promise);
  await client.close();
  await server.journal.next("disconnected");
  answer.resolve(true);
  assertEquals((await reply).status, 200);
  assertEquals(await server.pusher.channels(), { channels: {} });
});

Deno.test("POST /pusher/auth answers pages of its own origin only, unless origins allows more", async () => {
  const form = { socket_id: "1.1", channel_name: "private-a" };
  for (const isOpen of [false, true]) {
    await using server = serve({
      authorize: () => true,
      ...(isOpen ? { origins: "https://a.example" } : {}),
    });
    const host = `127.0.0.1:${server.port}`;
    for (
      const [origin, isAllowed] of [
        [undefined, true],
        [`http://${host}`, true],
        // Behind something that ends TLS the scheme is another one.
        [`https://${host}`, true],
        ["https://a.example", isOpen],
        ["https://b.example", false],
        [`http://127.0.0.1:${server.port + 1}`, false],
        [`http://${host}.evil.test`, false],
        ["null", false],
      ] as const
    ) {
      const given = origin === undefined ? {} : { origin };
      const { status, headers } = await ask(server.url, form, given);
      assertEquals(status, isAllowed ? 200 : 403, origin);
      const isCross = origin === "https://a.example" && isOpen;
      if (isCross) {
        // A page that is named may send its cookies.
        const credentials = headers.get("access-control-allow-credentials");
        assertEquals(credentials, "true");
        assertEquals(headers.get("access-control-allow-origin"), origin);
        assertMatch(headers.get("vary") ?? "", /origin/i);
      } else if (!isAllowed) {
        assertEquals(headers.get("access-control-allow-origin"), null);
      }
      if (origin === undefined) continue;
      const preflight = await fetch(`${server.url}/pusher/auth`, {
        method: "OPTIONS",
        headers: {
          origin,
          "access-control-request-method": "POST",
          "access-control-request-headers": "content-type,x-csrf-token",
        },
      });
      await preflight.body?.cancel();
      const allowed = preflight.headers.get("access-control-allow-origin");
      if (!isCross) {
        if (!isAllowed) assertEquals(allowed, null, origin);
        continue;
      }
      assert(preflight.ok);
      assertEquals(allowed, origin);
      const told = (name: string) =>
        preflight.headers.get(`access-control-allow-${name}`) ?? "";
      assertMatch(told("methods"), /POST/);
      assertMatch(told("headers"), /content-type/i);
      assertMatch(told("headers"), /x-csrf-token/i);
    }
  }
});

Deno.test("POST /pusher/auth answers any page without cookies where origins is *", async () => {
  await using server = serve({ authorize: () => true, origins: "*" });
  const form = { socket_id: "1.1", channel_name: "private-a" };
  const origin = "https://a.example";
  const { status, headers } = await ask(server.url, form, { origin });
  assertEquals(status, 200);
  assertMatch(
    headers.get("access-control-allow-origin") ?? "",
    /^(\*|https:\/\/a\.example)$/,
  );
  assertEquals(headers.get("access-control-allow-credentials"), null);
});

// ---- Limits -----------------------------------------------------------------

Deno.test("limits.connections counts the live connections of an app", async () => {
  const apps = [APP, {
    id: "b",
    key: "b",
    secret: "b",
    limits: { connections: 1 },
  }];
  await using server = serve({ apps, limits: { connections: 2 } });
  const [a, b] = apps as [App, App];
  await using one = await server.connect();
  await using _two = await server.connect();
  assertEquals((await server.turnsAway()).code, 4004);
  await using _other = await server.connect({ app: b });
  assertEquals((await server.turnsAway({ app: b })).code, 4004);
  await one.close();
  await server.journal.next("disconnected");
  await using _three = await server.connect({ app: a });
  assertEquals((await server.turnsAway()).code, 4004);
});

Deno.test("limits.connections holds for sockets that open at the same time", async () => {
  await using server = serve({ limits: { connections: 5 } });
  const clients = Array.from({ length: 20 }, () => server.dial());
  const first = await Promise.all(clients.map((client) => client.next()));
  const established = first.filter(({ event }) =>
    event === "pusher:connection_established"
  );
  assertEquals(established.length, 5);
  await Promise.all(clients.map((client) => client.close()));
  await using _again = await server.connect();
});

Deno.test("limits.sockets counts all sockets of the server", async () => {
  const apps = [APP, { id: "b", key: "b", secret: "b" }];
  await using server = serve({ apps, limits: { sockets: 2 } });
  await using one = await server.connect();
  await using _two = await server.connect({ app: apps[1] as App });
  assertEquals((await server.turnsAway()).code, 4100);
  await one.close();
  await server.journal.next("disconnected");
  // The refused socket counts until it is closed, which may be a moment yet.
  for (;;) {
    await using client = server.dial();
    const { event } = await client.next();
    if (event === "pusher:connection_established") break;
  }
});

Deno.test("limits.channelsPerConnection counts what is subscribed now", async () => {
  await using server = serve({ limits: { channelsPerConnection: 2 } });
  await using client = await server.connect();
  await client.join("a");
  await client.join("presence-b", { member: { user_id: "u" } });
  assertEquals(await client.refused("c"), "LimitReached 403");
  assertEquals(await client.refused("private-c"), "LimitReached 403");
  await client.join("a");
  client.unsubscribe("a");
  await client.join("c");
  await using other = await server.connect();
  await other.join("a");
  await using defaults = serve();
  await using eager = await defaults.connect();
  for (let i = 0; i < 200; i++) eager.requestSubscribe(`c${i}`);
  assertEquals((await eager.framesUntilPong()).at(-1)?.event, SUCCEEDED);
  assertEquals(await eager.refused("c200"), "LimitReached 403");
});

Deno.test("limits.frameBytes drops a larger frame with 4300", async () => {
  await using server = serve();
  await using client = await server.connect();
  const ping = (bytes: number, filler: string) => {
    const [head, tail] = ['{"event":"pusher:ping","data":"', '"}'];
    const each = new TextEncoder().encode(filler).length;
    const count = Math.floor((bytes - head.length - tail.length) / each);
    const rest = bytes - head.length - tail.length - count * each;
    return head + filler.repeat(count) + tail + " ".repeat(rest);
  };
  for (const filler of ["x", "ü", "✓", "😀"]) {
    client.send(ping(65_536, filler));
    await client.next("pusher:pong");
    client.send(ping(65_537, filler));
    assertEquals(dataOf(await client.next("pusher:error")).code, 4300);
  }
  client.send(JSON.stringify({ event: "pusher:ping" }).padEnd(65_537));
  assertEquals(dataOf(await client.next("pusher:error")).code, 4300);
  await client.silence();
});

Deno.test("limits.framesBurst and framesPerSecond drop frames, with 4300 for the first", async () => {
  const limits = { framesBurst: 20, framesPerSecond: 10 };
  await using server = serve({ limits });
  await using client = await server.connect();
  const start = performance.now();
  for (let i = 0; i < 35; i++) client.send({ event: "pusher:ping" });
  let pongs = 0;
  while ((await client.next()).event === "pusher:pong") pongs++;
  const refilled = Math.ceil((performance.now() - start) / 100);
  assert(pongs >= 20 && pongs <= 20 + refilled, `${pongs} of ${refilled}`);
  // In time there is room again, on a connection that has stayed open.
  while (performance.now() - start < 600) {
    await (await fetch(server.url)).body?.cancel();
  }
  client.send({ event: "pusher:subscribe", data: { channel: "news" } });
  while ((await client.next()).event !== SUCCEEDED);
});

Deno.test("a client that goes on after limits.framesBurst is closed with 4100", async () => {
  const limits = { framesBurst: 20, framesPerSecond: 0 };
  await using server = serve({ limits });
  await using client = await server.connect();
  for (let i = 0; i < 41; i++) client.send({ event: "pusher:ping" });
  for (let i = 0; i < 20; i++) await client.next("pusher:pong");
  assertEquals(dataOf(await client.next("pusher:error")).code, 4300);
  assertEquals((await client.turnedAway()).code, 4100);
});

Deno.test("limits of sizes and counts hold at the figure that is set", async () => {
  const limits = {
    channelNameLength: 10,
    eventNameLength: 8,
    eventDataBytes: 6,
    channelsPerEvent: 2,
    eventsPerBatch: 2,
    bodyBytes: 300,
    presenceMembers: 1,
    userIdLength: 3,
    userInfoBytes: 9,
    clientEventsPerSecond: 1,
  };
  await using server = serve({ limits, clientEvents: true });
  const e = { name: "e", channel: "news", data: "1" };
  for (
    const [status, path, body] of [
      [200, "/events", { ...e, channel: "a".repeat(10) }],
      [400, "/events", { ...e, channel: "a".repeat(11) }],
      [200, "/events", { ...e, name: "a".repeat(8) }],
      [400, "/events", { ...e, name: "a".repeat(9) }],
      [200, "/events", { ...e, data: "üüü" }],
      [413, "/events", { ...e, data: "üüüx" }],
      [200, "/events", { ...e, channels: ["a", "b"] }],
      [400, "/events", { ...e, channels: ["a", "b", "c"] }],
      [200, "/batch_events", { batch: [e, e] }],
      [400, "/batch_events", { batch: [e, e, e] }],
      [200, "/events", JSON.stringify(e).padEnd(300)],
      [413, "/events", JSON.stringify(e).padEnd(301)],
    ] as const
  ) {
    const answer = await server.api("POST", path, { body });
    const told = JSON.stringify(body);
    assertEquals(answer.status, status, told);
    if (status === 200) continue;
    // The error names the limit and the figure.
    assertMatch(answer.body.error, /\b(10|8|6|2|300)\b/, told);
  }
  const long = "a".repeat(11);
  assertThrows(() => server.pusher.trigger(long, "e", 1), Error, "10");
  assertThrows(() => server.pusher.trigger("a", "e", "1234567"), Error, "6");
  await using ann = await server.connect();
  await using bob = await server.connect();
  const join = (client: Client, user_id: string, user_info = {}) =>
    client.subscribe("presence-a".slice(0, 10), {
      member: { user_id, user_info },
    });
  const status = async (frame: Promise<Frame>) => dataOf(await frame).status;
  assertEquals(await status(join(ann, "1234")), 413);
  assertEquals(await status(join(ann, "123", { x: "1234" })), 413);
  assertEquals((await join(ann, "123", { x: "1" })).event, SUCCEEDED);
  assertEquals(await status(join(bob, "456")), 403);
  assertEquals((await join(bob, "123")).event, SUCCEEDED);
  assertEquals(await bob.refused("private-abc"), "LimitReached 400");
  const send = (event: string, data: string) =>
    ann.send({ event, channel: "presence-a", data });
  send("client-", "1234567");
  send("client-xx", "1");
  assertEquals((await ann.framesUntilPong()).length, 2);
  await bob.silence();
  send("client-x", "123456");
  await bob.next("client-x");
});

Deno.test("limits may be Infinity", async () => {
  const limits = Object.fromEntries(
    Object.keys(LIMITS).map((name) => [name, Infinity]),
  );
  await using server = serve({ limits, clientEvents: true });
  await using ann = await server.connect();
  await using bob = await server.connect();
  await bob.join("private-a");
  await ann.join("private-a");
  for (let i = 0; i < 50; i++) {
    ann.send({
      event: "client-x",
      channel: "private-a",
      data: "x".repeat(2e4),
    });
  }
  await ann.silence();
  assertEquals((await bob.framesUntilPong()).length, 50);
  const body = { name: "e".repeat(201), data: "x".repeat(2e6), channel: "a" };
  assertEquals((await server.api("POST", "/events", { body })).status, 200);
});

Deno.test("limits.bufferedBytes parts with a transport that is past it", async () => {
  await using server = serve({ limits: { bufferedBytes: 1_000 } });
  const { pusher, journal } = server;
  const request = new Request("http://a/app/app-key?protocol=7");
  const [full, over, late] = [0, 1, 2].map(() => new MemoryTransport()) as [
    MemoryTransport,
    MemoryTransport,
    MemoryTransport,
  ];
  const peers = [full, over, late].map((transport) => {
    const peer = pusher.open(transport, APP.key, request);
    const data = { channel: "news" };
    peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
    return peer;
  });
  const events = ({ frames }: MemoryTransport) =>
    frames.map(({ event }) => event).slice(1);
  full.bufferedAmount = 1_000;
  over.bufferedAmount = 1_001;
  await pusher.trigger("news", "one", {});
  assertEquals((await journal.next("disconnected")).code, 4100);
  assertEquals(over.closing?.[0], 4100);
  await pusher.trigger("news", "two", {});
  assertEquals(events(over), [SUCCEEDED, "one"]);
  // It is judged a turn later, when much may have been taken.
  full.bufferedAmount = 5_000;
  late.bufferedAmount = 5_000;
  await pusher.trigger("news", "three", {});
  full.bufferedAmount = 0;
  assertEquals((await journal.next("disconnected")).code, 4100);
  assertEquals(late.closing?.[0], 4100);
  assertEquals(full.closing, undefined);
  assertEquals(events(full), [SUCCEEDED, "one", "two", "three"]);
  assertEquals(await pusher.channel("news", { info: "subscription_count" }), {
    occupied: true,
    subscription_count: 1,
  });
  for (const peer of peers) {
    peer.closed(1000);
    peer.closed(1000);
  }
});

Deno.test("open connects over any transport, until it fails", async () => {
  await using server = serve();
  const { pusher, journal } = server;
  const request = new Request("http://a/app/app-key?protocol=7");
  const refused = new MemoryTransport();
  const stranger = pusher.open(refused, "nobody", request);
  assertEquals(refused.closing?.[0], 4001);
  assertEquals(dataOf(refused.frames[0] as Frame).code, 4001);
  stranger.receive('{"event":"pusher:ping"}');
  stranger.closed(1000);
  assertEquals(refused.frames.length, 1);
  const failing = new MemoryTransport();
  const peer = pusher.open(failing, APP.key, request);
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  assertEquals(failing.frames.at(-1)?.event, SUCCEEDED);
  await using ann = await server.connect();
  await ann.join("news");
  failing.send = () => {
    throw new Error("The wire is cut");
  };
  await pusher.trigger("news", "e", 1);
  await ann.next("e");
  assertEquals((await journal.next("disconnected")).code, 1011);
  assertEquals(failing.closing?.[0], 1011);
  assertEquals((await journal.next("error")).error.message, "The wire is cut");
  peer.receive('{"event":"pusher:ping"}');
  peer.closed(1006);
  assertEquals(await pusher.channel("news", { info: "subscription_count" }), {
    occupied: true,
    subscription_count: 1,
  });
});

Deno.test("a peer that stops reading is gone once, and the others miss nothing", async () => {
  await using server = serve();
  await using ann = await server.connect();
  await ann.join("presence-a", { member: { user_id: "ann" } });
  using slow = await server.raw();
  await slow.upgrade("/app/app-key?protocol=7");
  const { socket_id } = dataOf(await slow.readText());
  const channel_data = '{"user_id":"slow"}';
  const auth = channelAuth(APP, socket_id, "presence-a", channel_data);
  const data = { channel: "presence-a", auth, channel_data };
  await slow.write(
    wireFrame(JSON.stringify({ event: "pusher:subscribe", data })),
  );
  await slow.readText();
  await ann.next(ADDED);
  const filler = "x".repeat(10_000);
  let next = 0;
  let removed = 0;
  for (let sent = 0; removed === 0 || sent % 50 > 0; sent++) {
    assert(sent < 20_000, "Nobody minds that it has stopped reading");
    await server.pusher.trigger("presence-a", "e", `${sent} ${filler}`);
    for (;;) {
      const frame = await ann.next();
      if (frame.event === REMOVED) {
        assertEquals(frame.data, '{"user_id":"slow"}');
        removed++;
        continue;
      }
      assertEquals(parseInt(frame.data as string), next++);
      break;
    }
  }
  assertEquals(removed, 1);
  const gone = await server.journal.next("disconnected");
  assertEquals([gone.socketId, gone.code], [socket_id, 4100]);
  assertEquals(await server.pusher.users("presence-a"), {
    users: [{ id: "ann" }],
  });
  slow.drop();
  await ann.silence();
});

// ---- Hooks ------------------------------------------------------------------

Deno.test("on tells each change once, in order and after it has happened", async () => {
  await using server = serve({ clientEvents: true });
  const { pusher, journal } = server;
  const found: unknown[] = [];
  pusher.on("channel_occupied", async ({ channel }) => {
    found.push(await pusher.channel(channel));
  });
  pusher.on("member_added", async ({ channel }) => {
    found.push(await pusher.users(channel));
  });
  pusher.on("disconnected", async () => {
    found.push(await pusher.channels());
  });
  const ann = await server.connect();
  await using bob = await server.connect();
  const member = { user_id: "ann" };
  await ann.join("news");
  await bob.join("news");
  await ann.join("presence-a", { member });
  ann.unsubscribe("news");
  ann.unsubscribe("presence-a");
  await ann.join("presence-a", { member });
  ann.send({ event: "client-x", channel: "presence-a" });
  await ann.silence();
  await pusher.trigger(["news", "presence-a"], "e", 1, {
    socket_id: ann.socketId,
  });
  const { code } = await ann.close();
  assertEquals((await journal.next("disconnected")).code, code);
  assertEquals(journal.told(), [
    "connected",
    "connected",
    "channel_occupied news",
    "channel_occupied presence-a",
    "member_added presence-a ann",
    "member_removed presence-a ann",
    "channel_vacated presence-a",
    "channel_occupied presence-a",
    "member_added presence-a ann",
    "client_event presence-a ann",
    "published news",
    "published presence-a",
    "member_removed presence-a ann",
    "channel_vacated presence-a",
    "disconnected",
  ]);
  assertEquals(await journal.next("published"), {
    hook: "published",
    app: APP.id,
    channel: "news",
    event: "e",
    data: "1",
    socketId: ann.socketId,
  });
  const users = { users: [{ id: "ann" }] };
  const occupied = { occupied: true };
  assertEquals(found, [
    occupied,
    occupied,
    users,
    occupied,
    users,
    { channels: { news: {} } },
  ]);
});

Deno.test("on of a server with several apps hears all, and on of one app its own", async () => {
  const apps = ["a", "b"].map((id) => ({ id, key: id, secret: id }));
  await using pusher = new Pusher({ apps });
  const told: string[] = [];
  pusher.on("published", ({ app, event }) => told.push(`all ${app} ${event}`));
  pusher.app("b").on("published", ({ app, event }) => {
    told.push(`b ${app} ${event}`);
  });
  await pusher.trigger("news", "one", 1);
  await pusher.app("b").trigger("news", "two", 2);
  assertEquals(told, ["all a one", "all b two", "b b two"]);
});

Deno.test("on calls a listener after the call that caused it and stops when told to", async () => {
  await using pusher = new Pusher();
  const told: string[] = [];
  const listener = () => told.push("one");
  const off = pusher.on("published", listener);
  pusher.on("published", () => {
    off();
    told.push("two");
  });
  const again = pusher.on("published", listener);
  const done = pusher.trigger("news", "e", 1);
  assertEquals(told, []);
  await done;
  assertEquals(told, ["one", "two", "one"]);
  again();
  again();
  await pusher.trigger("news", "e", 1);
  assertEquals(told, ["one", "two", "one", "two"]);
  for (const [name, wrong] of [["nonsense", listener], ["error", 5]]) {
    assertThrows(
      () => pusher.on(name as "error", wrong as () => void),
      TypeError,
    );
  }
});

Deno.test("a listener that fails does no harm and is reported", async () => {
  await using server = serve();
  const { pusher, journal } = server;
  const hooks = [
    "connected",
    "channel_occupied",
    "member_added",
    "published",
    "member_removed",
    "channel_vacated",
    "disconnected",
  ] as const;
  const after: string[] = [];
  for (const [index, hook] of hooks.entries()) {
    pusher.on(hook, () => {
      if (index % 2 === 0) throw new Error(hook);
      return Promise.reject(new Error(hook));
    });
    pusher.on(hook, () => void after.push(hook));
  }
  pusher.on("error", () => {
    throw new Error("This one fails as well");
  });
  const ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("presence-a", { member: { user_id: "ann" } });
  await bob.join("news");
  await pusher.trigger("presence-a", "e", 1);
  await ann.next("e");
  await ann.close();
  await journal.next("disconnected");
  assertEquals(new Set(after), new Set(hooks));
  const errors: string[] = [];
  while (errors.length < after.length) {
    const { error, during } = await journal.next("error");
    assertStringIncludes(during, (error as Error).message);
    errors.push((error as Error).message);
  }
  assertEquals(errors.sort(), after.sort());
  await bob.silence();
  await bob.close();
  for (let i = 0; i < 2; i++) await journal.next("error");
});

// ---- Close ------------------------------------------------------------------

Deno.test("close ends every connection with 4200 and serves nothing more", async () => {
  await using server = serve({ authorize: () => true });
  const { pusher } = server;
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("presence-a", { member: { user_id: "ann" } });
  await bob.join("presence-a", { member: { user_id: "bob" } });
  await ann.next(ADDED);
  await Promise.all([pusher.close(), pusher.close()]);
  for (const client of [ann, bob]) {
    let frame = await client.next();
    while (frame.event === REMOVED) frame = await client.next();
    assertEquals(dataOf(frame).code, 4200);
    const closing = await within(DEADLINE_MS, "close", client.closed);
    assertEquals(closing, { code: 4200, reason: dataOf(frame).message });
  }
  assertEquals(server.journal.told("member_removed", "disconnected").length, 4);
  for (let i = 0; i < 2; i++) {
    assertEquals((await server.journal.next("disconnected")).code, 4200);
  }
  const body = { name: "e", channel: "news", data: "1" };
  assertEquals((await server.api("POST", "/events", { body })).status, 503);
  assertEquals((await server.api("GET", "/channels")).status, 503);
  await using late = server.dial();
  const { code } = await within(DEADLINE_MS, "close", late.closed);
  // None of the codes that keep a client from trying again elsewhere.
  assert(code === 1006 || code >= 4100 && code < 4300, `${code}`);
  await pusher.close();
});

Deno.test("close over a time closes an even share of the connections at a time", async () => {
  await using server = serve();
  await using clients = await server.connectAll(16);
  const over = 800;
  const closedAt: number[] = [];
  const start = performance.now();
  const ends = clients.map((client) =>
    client.closed.then(({ code }) => {
      assertEquals(code, 4200);
      closedAt.push(performance.now() - start);
    })
  );
  const closing = server.pusher.close({ over });
  await using late = server.dial();
  const { code } = await within(DEADLINE_MS, "close", late.closed);
  // None of the codes that keep a client from trying again elsewhere.
  assert(code === 1006 || code >= 4100 && code < 4300, `${code}`);
  await within(DEADLINE_MS, "end of close", closing);
  await Promise.all(ends);
  const [first = 0, last = 0] = [closedAt[0], closedAt.at(-1)];
  assert(last - first >= over / 2, `Closed at ${closedAt}`);
  assert(closedAt.filter((at) => at < over / 4).length <= 8, `${closedAt}`);
});

Deno.test("close reaches sockets that are just opening", async () => {
  await using server = serve();
  const clients = Array.from({ length: 20 }, () => server.dial());
  await clients[0]?.next();
  await within(DEADLINE_MS, "end of close", server.pusher.close());
  for (const client of clients) {
    const { code } = await within(DEADLINE_MS, "close", client.closed);
    assert(code === 1006 || code >= 4100 && code < 4300, `${code}`);
  }
});

Deno.test("close does not wait for a peer that never answers", async () => {
  await using server = serve();
  using raw = await server.raw();
  await raw.upgrade("/app/app-key?protocol=7");
  await raw.readText();
  await within(DEADLINE_MS, "end of close", server.pusher.close());
  raw.drop();
});

Deno.test("close refuses an over that is no duration", async () => {
  await using pusher = new Pusher();
  for (const over of [-1, NaN]) {
    assertThrows(() => pusher.close({ over }), RangeError, "over");
  }
  await pusher.trigger("news", "e", 1);
});

Deno.test("a thousand connections leave nothing behind", async () => {
  await using server = serve({ limits: { connections: 100 } });
  const ids = new Set<string>();
  for (let round = 0; round < 10; round++) {
    const clients = await Promise.all(
      Array.from({ length: 100 }, () => server.connect()),
    );
    await Promise.all(clients.map(async (client, index) => {
      ids.add(client.socketId);
      client.requestSubscribe(`news-${index % 7}`);
      client.requestSubscribe("presence-a", {
        member: { user_id: `${index % 50}` },
      });
      const frames = await client.framesUntilPong();
      const answers = frames.filter(({ event }) => event === SUCCEEDED);
      assertEquals(answers.length, 2);
    }));
    await Promise.all(clients.map((client) => client.close()));
    // Only then there is room for the next hundred.
    for (let i = 0; i < 100; i++) await server.journal.next("disconnected");
    assertEquals(await server.pusher.channels(), { channels: {} });
    assertEquals(await server.pusher.users("presence-a"), { users: [] });
  }
  assertEquals(ids.size, 1_000);
});

// ---- Backplane --------------------------------------------------------------

Deno.test("a backplane that answers later keeps the frames of one socket in order", async () => {
  await using server = serve({
    backplane: new SlowBackplane(),
    clientEvents: true,
  });
  await using ann = await server.connect();
  await using bob = await server.connect();
  const member = { user_id: "bob" };
  await bob.join("presence-a", { member });
  await bob.join("news");
  const answers: string[] = [];
  for (let i = 0; i < 5; i++) {
    ann.requestSubscribe("news");
    ann.requestSubscribe("private-a", { auth: "wrong" });
    ann.requestSubscribe("presence-a", { member: { user_id: `ann${i}` } });
    ann.send({ event: "client-x", channel: "presence-a", data: i });
    ann.unsubscribe("presence-a");
    ann.unsubscribe("news");
    ann.send({ event: "pusher:nonsense" });
    answers.push(SUCCEEDED, REFUSED, SUCCEEDED, "pusher:error");
  }
  const frames = await ann.framesUntilPong();
  assertEquals(frames.map(({ event }) => event), answers);
  const told: string[] = [];
  while (told.length < 15) {
    const { event, data, user_id } = await bob.next();
    told.push([event, user_id ?? JSON.parse(data as string).user_id].join(" "));
  }
  assertEquals(
    told,
    [0, 1, 2, 3, 4].flatMap((i) => [
      `${ADDED} ann${i}`,
      `client-x ann${i}`,
      `${REMOVED} ann${i}`,
    ]),
  );
});

Deno.test("a backplane that answers later serves the whole API", async () => {
  await using server = serve({ backplane: new SlowBackplane() });
  await using ann = await server.connect();
  await using tab = await server.connect();
  const member = { user_id: "ann" };
  await ann.join("presence-a", { member });
  await tab.join("presence-a", { member });
  const { body } = await server.api("POST", "/events", {
    body: {
      name: "e",
      channels: ["presence-a", "x"],
      data: "1",
      info: "user_count,subscription_count",
    },
  });
  assertEquals(body, {
    channels: {
      "presence-a": { user_count: 1, subscription_count: 2 },
      x: { subscription_count: 0 },
    },
  });
  for (const client of [ann, tab]) await client.next("e");
  for (let i = 0; i < 20; i++) {
    server.pusher.trigger("presence-a", "n", i);
  }
  for (let i = 0; i < 20; i++) assertEquals((await tab.next("n")).data, `${i}`);
  assertEquals(await server.pusher.channels(), {
    channels: { "presence-a": {} },
  });
  assertEquals(await server.pusher.users("presence-a"), {
    users: [{ id: "ann" }],
  });
  await tab.close();
  await server.journal.next("disconnected");
  assertEquals(server.journal.told("member_removed"), []);
});

Deno.test("close lets go of the backplane last", async () => {
  const backplane = new SlowBackplane();
  await using server = serve({ backplane });
  await using clients = await server.connectAll(4);
  for (const [index, client] of clients.entries()) {
    client.requestSubscribe("presence-a", { member: { user_id: index } });
  }
  await clients[3]?.framesUntilPong();
  await Promise.all([server.pusher.close(), server.pusher.close()]);
  await server.journal.settled();
  assertEquals(backplane.afterClose, []);
  assertEquals(backplane.closes, 1);
});

Deno.test("an event published while a join is on its way does not come before its answer", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({ backplane });
  await using client = await server.connect();
  client.requestSubscribe("news");
  await joining();
  await server.pusher.trigger("news", "e", 1);
  answer();
  await client.next(SUCCEEDED);
  await server.pusher.trigger("news", "last", 1);
  const frames = await client.framesUntilPong();
  assertEquals(frames.at(-1)?.event, "last");
});

Deno.test("members who come and go while a join is on its way are not missed", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({ backplane });
  await using ann = await server.connect();
  await using bob = await server.connect();
  await using eve = await server.connect();
  ann.requestSubscribe("presence-a", { member: { user_id: "ann" } });
  await joining();
  for (const [client, user_id] of [[bob, "bob"], [eve, "eve"]] as const) {
    await client.join("presence-a", { member: { user_id } });
  }
  await eve.close();
  await server.journal.next("member_removed");
  answer();
  const seen = new Set<string>(dataOf(await ann.next(SUCCEEDED)).presence.ids);
  await bob.framesUntilPong();
  for (const frame of await ann.framesUntilPong()) {
    const { user_id } = dataOf(frame);
    if (frame.event === ADDED) seen.add(user_id);
    if (frame.event === REMOVED) seen.delete(user_id);
  }
  assertEquals([...seen].sort(), ["ann", "bob"]);
});

Deno.test("a socket that goes away while it joins is not left on the channel", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({ backplane });
  await using client = await server.connect();
  for (const channel of ["presence-a", "presence-b"]) {
    client.requestSubscribe(channel, { member: { user_id: "ann" } });
  }
  await joining();
  await client.close();
  answer();
  await server.journal.next("disconnected");
  await using fence = await server.connect();
  for (;;) {
    const { channels } = await server.pusher.channels();
    if (Object.keys(channels).length === 0) break;
    await fence.silence();
  }
  assertEquals(await server.pusher.users("presence-a"), { users: [] });
});

Deno.test("frames that wait behind a slow answer are limited", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({
    backplane,
    limits: { framesPerSecond: Infinity, bufferedBytes: 100_000 },
  });
  await using client = await server.connect();
  client.requestSubscribe("news");
  await joining();
  const ping = JSON.stringify({ event: "pusher:ping" }).padEnd(10_000);
  for (let i = 0; i < 11; i++) client.send(ping);
  assertEquals((await client.turnedAway()).code, 4100);
  answer();
  assertEquals((await server.journal.next("disconnected")).code, 4100);
});

Deno.test("a backplane that cannot take a leave does not keep the connection", async () => {
  const backplane = new SlowBackplane();
  backplane.turn = (method) =>
    method === "leave"
      ? Promise.reject(new Error("leave is down"))
      : Promise.resolve();
  await using pusher = new Pusher({ backplane });
  const error = Promise.withResolvers<string>();
  const gone = Promise.withResolvers<number>();
  pusher.on("error", ({ error: failure }) => {
    error.resolve((failure as Error).message);
  });
  pusher.on("disconnected", ({ code }) => gone.resolve(code));
  const transport = new MemoryTransport();
  const request = new Request("http://a/app/app-key?protocol=7");
  const peer = pusher.open(transport, "app-key", request);
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  peer.receive(JSON.stringify({ event: "pusher:unsubscribe", data }));
  assertEquals(
    await within(DEADLINE_MS, "error", error.promise),
    "leave is down",
  );
  peer.closed(1000);
  assertEquals(await within(DEADLINE_MS, "hook", gone.promise), 1000);
});

Deno.test("a backplane that fails is told to those who asked, and reported", async () => {
  const backplane = new SlowBackplane();
  let failing: (keyof Backplane)[] = [];
  backplane.turn = (method) =>
    failing.includes(method)
      ? Promise.reject(new Error(`${method} is down`))
      : Promise.resolve();
  await using server = serve({ backplane, clientEvents: true });
  const { pusher, journal } = server;
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("private-a");
  await bob.join("private-a");
  failing = ["publish", "join", "occupancy", "occupied", "members"];
  await assertRejects(async () => await pusher.trigger("news", "e", 1), Error);
  await assertRejects(async () => await pusher.channels(), Error);
  const body = { name: "e", channel: "news", data: "1" };
  for (
    const answer of [
      await server.api("POST", "/events", { body }),
      await server.api("GET", "/channels"),
      await server.api("GET", "/channels/news"),
      await server.api("GET", "/channels/presence-a/users"),
    ]
  ) {
    assertEquals(answer.status, 503);
    assert(!answer.text.includes("is down"), answer.text);
  }
  assertEquals(await ann.refused("news"), "ServerError 500");
  ann.send({ event: "client-x", channel: "private-a" });
  assertEquals((await ann.framesUntilPong()).length <= 1, true);
  await bob.silence();
  failing = [];
  // Everything works again.
  await pusher.trigger("private-a", "e", 1);
  for (const client of [ann, bob]) await client.next("e");
  await ann.join("news");
  const errors = journal.drain("error");
  assert(errors.length > 0);
  for (const { error } of errors) assertMatch(error.message, /is down$/);
});
