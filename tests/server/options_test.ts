/**
 * Options: which are refused, with which message, and the default instance, which
 * has none.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { within } from "../support/deadline.ts";
import { signedRequest, TWO_APPS } from "../support/server.ts";
import { channelAuth, DOCS } from "../support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";

// ---- Options ----------------------------------------------------------------

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

Deno.test("Pusher with a key in the place of the options names the client", () => {
  const Untyped = Pusher as unknown as new (...args: unknown[]) => Pusher;
  const error = assertThrows(
    () => new Untyped("the-key", { cluster: "eu" }),
    TypeError,
    "options is a string of 7 characters, and must be an object such as " +
      "{ appId, key, secret }: new Pusher(key, options) makes a client, which is in " +
      "@glitz/pusher/client",
  );
  assert(!error.message.includes("the-key"), error.message);
});

Deno.test("an option that is undefined has its default, also as a limit or a bound of the history", async () => {
  // Types do not always forbid it: a program may pass on what it was not given.
  const nothing = Object.fromEntries(
    [...Object.keys(LIMITS), "events", "ageMs", "bytes", "sessions"]
      .map((name) => [name, undefined]),
  );
  const { events, ageMs, bytes, sessions, ...limits } = nothing;
  const history = { events, ageMs, bytes, sessions };
  await using pusher = new Pusher(
    { key: "k", limits, history, path: undefined } as unknown as PusherOptions,
  );
  const frames: string[] = [];
  const client = pusher.open(
    { bufferedAmount: 0, send: (frame) => frames.push(frame), close() {} },
    "k",
    new Request("http://localhost/app/k?protocol=7&recover=1"),
  );
  client.receive("x".repeat(65_537));
  assertStringIncludes(frames.at(-1) ?? "", "the limit frameBytes is 65536");
  const subscribe = (channel: string) => {
    const frame = { event: "pusher:subscribe", data: { channel } };
    client.receive(JSON.stringify(frame));
    return frames.at(-1) ?? "";
  };
  assertStringIncludes(
    subscribe("a".repeat(201)),
    "the limit channelNameLength is 200",
  );
  assertStringIncludes(subscribe("news"), SUCCEEDED);
  await pusher.trigger("news", "e", "x".repeat(1_000));
  assert(pusher.stats().historyBytes > 1_000);
  client.closed(1000);
});

Deno.test("a Pusher goes by its options as they were checked", async () => {
  const rules: string[] = ["https://a.example"];
  const app = { id: "1", key: "key", secret: "secret", origins: rules };
  const limits = Object.create({ channelNameLength: 3 });
  await using pusher = new Pusher({ apps: [app], limits });
  let reads = 0;
  await using getting = new Pusher({
    key: "key",
    get secret() {
      return reads++ === 0 ? "secret" : "another";
    },
  });
  app.key = "other";
  app.secret = "other";
  rules.push("*");
  const { auth } = pusher.authorizeChannel("1.1", "pri");
  assertEquals(auth, getting.authorizeChannel("1.1", "pri").auth);
  assertEquals(
    auth,
    channelAuth({ id: "1", key: "key", secret: "secret" }, "1.1", "pri"),
  );
  // Inherited limits count, as they are checked, too.
  assertThrows(() => pusher.trigger("news", "e", ""), RangeError, "is 3");
  const frames: string[] = [];
  const headers = { origin: "https://b.example" };
  pusher.open(
    { bufferedAmount: 0, send: (frame) => frames.push(frame), close() {} },
    "key",
    new Request("http://localhost/app/key?protocol=7", { headers }),
  ).closed(1000);
  assertStringIncludes(frames.join(), '"code":4009');
});

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

Deno.test("Pusher without an app id has one of digits, which every SDK takes", async () => {
  const app = { id: "1", key: "app-key", secret: "the-app-secret" };
  await using pusher = new Pusher({ secret: app.secret });
  const ask = (id: string) =>
    pusher.handler(
      signedRequest("http://localhost", "GET", "/channels", {
        app: { ...app, id },
      }),
    );
  assertEquals((await ask("1")).status, 200);
  assertEquals((await ask("app-id")).status, 404);
});

Deno.test("Pusher refuses wrong options for users, caches, counts and encryption by name", () => {
  const table: [options: Record<string, unknown>, name: string][] = [
    [{ authenticate: "everybody" }, "authenticate"],
    [{ authenticate: {} }, "authenticate"],
    [{ authorizationTimeoutMs: 0 }, "authorizationTimeoutMs"],
    [{ authorizationTimeoutMs: -1 }, "authorizationTimeoutMs"],
    [{ authorizationTimeoutMs: NaN }, "authorizationTimeoutMs"],
    [{ authorizationTimeoutMs: "30" }, "authorizationTimeoutMs"],
    [{ authorizationTimeoutMs: 2 ** 31 }, "authorizationTimeoutMs"],
    [{ clientEvents: "yes" }, "clientEvents"],
    [{ clientEvents: {} }, "clientEvents"],
    [{ apps: [{ ...TWO_APPS[0], clientEvents: 1 }] }, "clientEvents"],
    [{ limits: { pendingClientEvents: -1 } }, "pendingClientEvents"],
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
    [{ limits: { unauthorizedConnections: -1 } }, "unauthorizedConnections"],
    [
      { apps: [{ ...TWO_APPS[0], authorizationTimeoutMs: 0 }] },
      "authorizationTimeoutMs",
    ],
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

// ---- Default instance -------------------------------------------------------

/** Runs a program with the default instance and returns what it prints. */
async function runProgram(
  code: string,
  flags: string[] = [],
  env: Record<string, string> = {},
): Promise<string> {
  const mod = new URL("../../mod.ts", import.meta.url);
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
