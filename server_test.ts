/**
 * The tour of the server, in the order of the sections of mod.ts: what it does,
 * on real sockets. Refusals, limits and failures are tested in tests/server/.
 */
import { Pusher } from "@glitz/pusher";
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
import { ManualClock } from "./tests/support/clock.ts";
import { DEADLINE_MS, within } from "./tests/support/deadline.ts";
import {
  type Answer,
  APP,
  type Client,
  MemoryTransport,
  read,
  serve,
} from "./tests/support/server.ts";
import { channelAuth, dataOf, type Frame } from "./tests/support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";

// ---- Pusher -----------------------------------------------------------------

Deno.test("the package exports these names and no others", () => {
  assertEquals(Object.keys(exported).sort(), [
    "BackplaneUnavailable",
    "MemoryBackplane",
    "Pusher",
    "RequestError",
    "WebHookError",
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

// ---- HTTP: routes -----------------------------------------------------------

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

Deno.test("GET of an app's address without an upgrade is answered 426", async () => {
  await using server = serve();
  for (const [key, status] of [["app-key", 426], ["nobody", 404]]) {
    const response = await fetch(`${server.url}/app/${key}?protocol=7`);
    assertEquals(response.status, status);
    await response.body?.cancel();
  }
});

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
    for (const told of ["a-key", `127.0.0.1:${server.port}/rt`]) {
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

// ---- HTTP: API --------------------------------------------------------------

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

// ---- HTTP: auth endpoints ---------------------------------------------------

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

Deno.test("a server without authorize or authenticate says which option is missing", async () => {
  await using pusher = new Pusher({ origins: ["https://page.example"] });
  const options = { auth: "authorize", "user-auth": "authenticate" };
  for (const [name, option] of Object.entries(options)) {
    const request = new Request(`http://a.example/pusher/${name}`, {
      method: "POST",
      body: "a body",
      headers: { origin: "https://page.example" },
    });
    const response = await pusher.handler(request);
    assertEquals(response.status, 404);
    // Else the page could not read it.
    assertEquals(
      response.headers.get("access-control-allow-origin"),
      "https://page.example",
    );
    assertStringIncludes((await response.json()).error, `option "${option}"`);
    // The program may have its own endpoint.
    assertEquals(await request.text(), "a body");
  }
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

// ---- Server -----------------------------------------------------------------

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
  assertEquals(journal.calls(), [
    "connected",
    "connected",
    "channel_occupied news",
    "subscribed news",
    "subscribed news",
    "channel_occupied presence-a",
    "member_added presence-a ann",
    "subscribed presence-a ann",
    "unsubscribed news",
    "unsubscribed presence-a ann",
    "member_removed presence-a ann",
    "channel_vacated presence-a",
    "channel_occupied presence-a",
    "member_added presence-a ann",
    "subscribed presence-a ann",
    "client_event presence-a ann",
    "published news",
    "published presence-a",
    "unsubscribed presence-a ann",
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
  assertEquals(
    server.journal.calls("member_removed", "disconnected").length,
    4,
  );
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
  const clock = new ManualClock();
  await using server = serve({ clock });
  await using clients = await server.connectAll(16);
  const over = 800;
  const closing = server.pusher.close({ over });
  for (const quarter of [1, 2, 3]) {
    clock.pass(over / 4);
    // Those that are not closed answer a ping.
    const left = (await Promise.all([...clients].map(isOpen)))
      .filter(Boolean).length;
    assert(Math.abs(left - (16 - 4 * quarter)) <= 3, `${left} at ${quarter}/4`);
  }
  clock.pass(over / 4);
  for (const client of clients) assertEquals((await client.closed).code, 4200);
  await within(DEADLINE_MS, "end of close", closing);
});

/** Whether a client can still ask, or else is closed. */
function isOpen(client: Client): Promise<boolean> {
  return Promise.race([
    client.closed.then(() => false),
    client.framesUntilPong().then(() => true, () => false),
  ]);
}

Deno.test("close refuses an over that is no duration", async () => {
  await using pusher = new Pusher();
  for (const over of [-1, NaN]) {
    assertThrows(() => pusher.close({ over }), RangeError, "over");
  }
  await pusher.trigger("news", "e", 1);
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
  const query = "?protocol=7&client=js";
  await using client = await server.connect({ query });
  assertEquals(await client.next(), { event: "pusher:ping", data: "{}" });
  assertEquals((await client.turnedAway()).code, 4201);
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

// ---- Channel ----------------------------------------------------------------

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
  assertEquals(server.journal.calls("channel_occupied", "member_added"), [
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
  assertEquals(server.journal.calls("member_added", "member_removed"), [
    "member_added presence-a bob",
    "member_added presence-a 7",
    "member_added presence-a late",
    "member_removed presence-a 7",
  ]);
});

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

Deno.test("the program may change, refuse or drop a client event before it is relayed", async () => {
  await using server = serve({
    clientEvents: ({ event, data, userId }) =>
      event === "client-shout"
        ? { data: `${data}!` }
        : event === "client-spam"
        ? `Not from you, ${userId}`
        : event === "client-ignored"
        ? null
        : event === "client-said",
  });
  await using ann = await server.connect();
  await using bob = await server.connect();
  const channel = "presence-a";
  await ann.join(channel, { member: { user_id: "ann" } });
  await bob.join(channel, { member: { user_id: "bob" } });
  await ann.next("pusher_internal:member_added");
  const said = ["said", "shout", "spam", "ignored", "other", "said"];
  for (const name of said) {
    ann.send({ event: `client-${name}`, channel, data: name });
  }
  for (const relayed of ["said", "shout!", "said"]) {
    const { data, user_id } = await bob.next();
    assertEquals([data, user_id], [relayed, "ann"]);
    const heard = await server.journal.next("client_event");
    assertEquals([heard.data, heard.userId], [relayed, "ann"]);
  }
  for (const reason of ["Not from you, ann", "The server does not allow"]) {
    const { code, message } = dataOf(await ann.next("pusher:error"));
    assertEquals([code, message.startsWith(reason)], [4301, true]);
  }
  for (const client of [ann, bob]) await client.silence();
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
