/**
 * Calls that the HTTP API, and the methods of the same names, have to refuse.
 */
import { Pusher } from "@glitz/pusher";
import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { createHash } from "node:crypto";
import {
  APP,
  objectOf,
  read,
  serve,
  signedRequest,
} from "../support/server.ts";

// ---- Arguments --------------------------------------------------------------

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

Deno.test("an argument that is wrong is shown with its rule, and never as an error of JSON or JavaScript", async () => {
  await using pusher = new Pusher();
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;
  const noName = "and must be a string that is not empty";
  const noJson = "and must be a string, or a value that JSON can hold";
  // deno-lint-ignore no-explicit-any -- as a program without types calls it
  const untyped: any = pusher;
  const cases: [call: () => unknown, message: string][] = [
    [
      () => untyped.trigger(),
      `Cannot trigger undefined: The event's name is undefined, ${noName}`,
    ],
    [
      () => untyped.trigger("a", Symbol("e"), 1),
      `Cannot trigger Symbol(e): The event's name is Symbol(e), ${noName}`,
    ],
    [
      () => untyped.trigger(5, "e", 1),
      'Cannot trigger "e": channels is 5, and must be an array with at least one channel name',
    ],
    [
      () => untyped.trigger("a", "e"),
      `Cannot trigger "e": The event's data is undefined, ${noJson}`,
    ],
    [
      () => untyped.trigger("a", "e", 1n),
      `Cannot trigger "e": The event's data is 1, ${noJson}: Do not know how to serialize a BigInt`,
    ],
    [
      () => untyped.trigger("a", "e", cyclic),
      `Cannot trigger "e": The event's data is an object, ${noJson}: Converting circular structure to JSON`,
    ],
    [
      () => untyped.triggerBatch([{ channel: "a", name: "e", data: 1 }, {}]),
      `Cannot trigger a batch: batch[1]: The event's name is undefined, ${noName}`,
    ],
    [
      () => untyped.sendToUser("7", Symbol("e"), 1),
      `Cannot send Symbol(e) to a user: The event's name is Symbol(e), ${noName}`,
    ],
    [
      () => untyped.sendToUser(7, "e", 1),
      `Cannot send "e" to a user: The user id is 7, ${noName}`,
    ],
    [
      () => untyped.authorizeChannel("1.1", "presence-a", true),
      'Cannot authorize "presence-a": channel_data must be a JSON object such as {"user_id":"1"}',
    ],
    [
      () => untyped.authenticateUser("1.1", { id: 7 }),
      `Cannot authenticate a user: The user id is 7, ${noName}`,
    ],
    [
      () => untyped.webhook(),
      "Cannot read a webhook: headers is undefined, and no object",
    ],
  ];
  for (const [call, message] of cases) {
    const error = assertThrows(call, TypeError);
    assertEquals(error.message, message);
  }
  // What the program throws on purpose stays what it is.
  const failure = new Error("toJSON of the program");
  const toJSON = () => {
    throw failure;
  };
  const thrown = assertThrows(
    () => untyped.trigger("a", "e", { toJSON }),
    Error,
  );
  assertEquals(thrown, failure);
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

// ---- Bodies -----------------------------------------------------------------

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

// ---- Paths ------------------------------------------------------------------

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

Deno.test("the HTTP API names the app id or the call that it does not have", async () => {
  await using server = serve();
  const app = { ...APP, id: 'no "body"' };
  const body = { name: "e", channel: "news", data: "1" };
  const answer = await server.api("POST", "/events", { app, body });
  assertEquals(answer.status, 404);
  assertEquals(answer.body, {
    error: 'No app has the id "no \\"body\\"": ' +
      "the backend must name the app_id that this server has",
  });
  const call = await server.api("POST", "/event", { body });
  assertEquals(call.status, 404);
  assertMatch(
    call.body.error,
    /^The HTTP API has no POST "\/apps\/app-id\/event", only POST events, POST batch_events, GET channels, /,
  );
  const long = await server.api("GET", `/${"x".repeat(5_000)}`);
  assert(long.text.length < 500, long.text);
});

Deno.test("an event may come in the query beside the body {}, with blanks in info", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("news");
  const event = { name: "e", data: "1", channel: "news" };
  const lists = [
    "subscription_count, user_count",
    " user_count ,subscription_count",
  ];
  for (const info of lists) {
    const query = { ...event, info };
    const answer = await server.api("POST", "/events", { body: {}, query });
    assertEquals([answer.status, answer.body], [
      200,
      { channels: { news: { subscription_count: 1 } } },
    ]);
    assertEquals((await client.next("e")).data, "1");
  }
  const query = { info: "subscription_count, cache" };
  const { body } = await server.api("GET", "/channels/cache-a", { query });
  assertEquals(body, { occupied: false, subscription_count: 0, cache: null });
});

// ---- Signatures -------------------------------------------------------------

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
  const md5 = createHash("md5").update(JSON.stringify(body)).digest("hex");
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
    // It tells no digest that the request did not say, and no signature at all.
    assert(!/[0-9a-f]{64}/.test(answer.text), answer.text);
    const said = [init?.query?.body_md5, md5];
    for (const [digest] of answer.text.matchAll(/[0-9a-f]{32}/g)) {
      assert(said.includes(digest), answer.text);
    }
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
