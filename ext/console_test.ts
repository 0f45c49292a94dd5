/**
 * The server side of the debug console: its options and routes, the problems that it
 * lists, and what it does. Most tests call the handler in memory; the page itself is
 * tested in Chromium.
 */
import { type AnyEvents, Pusher } from "@glitz/pusher";
import { type ConsoleOptions, debugConsole } from "@glitz/pusher/console";
import {
  assert,
  assertEquals,
  assertFalse,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { turn } from "../tests/support/clock.ts";
import { HERE, MemoryClient, Stage } from "../tests/support/console.ts";
import { DEADLINE_MS, within } from "../tests/support/deadline.ts";
import { RedisServer, testWithRedis } from "../tests/support/redis.ts";
import { APP } from "../tests/support/server.ts";
import { redis } from "./redis.ts";

const PASSWORD = "correct horse battery";

// ---- Options ----------------------------------------------------------------

Deno.test("debugConsole refuses what it cannot use, and quotes no password", () => {
  const pusher = new Pusher({ key: "k", secret: "s" });
  const cases: [unknown, string][] = [
    [{ pasword: "x" }, "pasword"],
    [{ password: "short" }, "a string of 5 characters"],
    [{ password: 123 }, "must have 12 characters at least"],
    [{ authorize: true }, "must be a function"],
    [{ path: "console" }, 'must be "" or like'],
    [{ pages: -1 }, "must be a whole number from 0"],
    [{ password: PASSWORD, authorize: () => true }, "one of them must decide"],
  ];
  for (const [options, message] of cases) {
    const error = assertThrows(() =>
      debugConsole(pusher, options as ConsoleOptions)
    );
    assert(error instanceof TypeError || error instanceof RangeError);
    assertStringIncludes(error.message, "Cannot create a debug console");
    assertStringIncludes(error.message, message);
    assertFalse(error.message.includes(PASSWORD));
  }
  // deno-lint-ignore no-explicit-any -- a mistake that the compiler would find
  assertThrows(() => debugConsole({} as any), TypeError, "must be a Pusher");
});

Deno.test("debugConsole takes a Pusher whatever its events are", async () => {
  await using pusher = new Pusher<{ news: { created: { id: number } } }>();
  using served = debugConsole(pusher);
  await using other: Pusher<AnyEvents> = new Pusher();
  using _ = debugConsole(other.app("1"));
  assertEquals(served.pages, 0);
});

// ---- Routes -----------------------------------------------------------------

Deno.test("the console serves its own routes below its path, and 404 to all others", async () => {
  await using stage = new Stage({ path: "/ops/look" });
  const redirect = await stage.ask("/ops/look");
  assertEquals(redirect.status, 307);
  assertEquals(redirect.headers.get("location"), "look/");
  assertEquals((await stage.ask("/ops/look/")).status, 200);
  assertEquals((await stage.ask("/ops/look/api/session")).status, 200);
  for (
    const path of ["/", "/ops", "/ops/lookout", "/console/", "/ops/look/x"]
  ) {
    assertEquals((await stage.ask(path)).status, 404, path);
  }
  assertEquals((await stage.ask("/ops/look/api/constructor")).status, 404);
  const post = await stage.ask("/ops/look/", { method: "POST", body: {} });
  assertEquals(post.status, 405);
  const get = await stage.ask("/ops/look/api/trigger");
  assertEquals([get.status, get.headers.get("allow")], [405, "POST"]);
});

Deno.test("the console stands below the server's own path", async () => {
  await using stage = new Stage({}, { path: "/realtime" });
  assertEquals((await stage.ask("/realtime/console/")).status, 200);
  assertEquals((await stage.ask("/console/")).status, 404);
});

Deno.test("the page needs nothing from elsewhere, and forbids it", async () => {
  await using stage = new Stage();
  const page = await stage.ask("/console/");
  const policy = page.headers.get("content-security-policy") ?? "";
  for (
    const rule of [
      "default-src 'none'",
      "script-src 'self'",
      "frame-ancestors 'none'",
      "require-trusted-types-for 'script'",
    ]
  ) {
    assertStringIncludes(policy, rule);
  }
  assertFalse(policy.includes("unsafe"));
  assertEquals(page.headers.get("cache-control"), "no-store, no-transform");
  assertEquals(page.headers.get("x-content-type-options"), "nosniff");
  assertFalse(/<script>|<style|https?:|\son\w+=/.test(
    page.text.replace(/data:image[^"]+/, ""),
  ));
  for (const name of ["console.js", "console.css"]) {
    const part = await stage.ask(`/console/${name}`);
    assertEquals(part.status, 200);
    assert(part.text.length > 1_000);
    const etag = part.headers.get("etag") ?? "";
    const headers = { "if-none-match": etag };
    const again = await stage.ask(`/console/${name}`, { headers });
    assertEquals([again.status, again.text], [304, ""]);
  }
});

// ---- Problems ---------------------------------------------------------------

Deno.test("problems are counted, the latest first, with what to do about them", async () => {
  await using stage = new Stage();
  stage.connect("", "unknown-key");
  stage.connect("", "unknown-key");
  const ann = stage.connect();
  ann.emit("pusher:subscribe", { channel: "private-x", auth: "wrong" });
  await turn();
  const { problems: [first, second, ...more] } =
    (await stage.get("problems")).body;
  assertEquals(more, []);
  assertEquals([first.what, first.code, first.count], ["subscription", 401, 1]);
  assertEquals([first.channel, first.socketId], ["private-x", ann.socketId]);
  assertStringIncludes(first.remedy, "Sign with the secret");
  assertEquals([second.what, second.code, second.count], [
    ...["connection", 4001, 2],
  ]);
  assertStringIncludes(second.remedy, "compare `key`");
  ann.leave();
});

Deno.test("a hundred different problems are kept, and no secrets of errors", async () => {
  await using stage = new Stage();
  const { error } = console;
  console.error = () => {};
  try {
    for (let n = 0; n < 150; n++) {
      const unlisten = stage.pusher.on("published", () => {
        throw new Error(
          `no. ${n}: redis://:hunter2@host/0 auth_signature=abc ${
            "x".repeat(900)
          }`,
        );
      });
      await stage.pusher.trigger("news", "x", "1");
      await turn();
      unlisten();
    }
  } finally {
    console.error = error;
  }
  const { text, body: { problems } } = await stage.get("problems");
  assertEquals(problems.length, 100);
  assertStringIncludes(problems[0].reason, "no. 149");
  assertFalse(/hunter2|=abc/.test(text));
  assert(text.length < 100_000);
});

// ---- Acting -----------------------------------------------------------------

Deno.test("trigger publishes, and says what is wrong with an event", async () => {
  await using stage = new Stage();
  const published: unknown[] = [];
  stage.pusher.on("published", ({ channel, event, data }) => {
    published.push([channel, event, data]);
  });
  const event = { channel: "news", event: "created" };
  for (const data of ['{"id":1}', "not JSON", { id: 2 }, undefined]) {
    const answer = await stage.post("trigger", { ...event, data });
    assertEquals([answer.status, answer.body], [200, { triggered: true }]);
  }
  await turn();
  assertEquals(published, [
    ["news", "created", '{"id":1}'],
    ["news", "created", "not JSON"],
    ["news", "created", '{"id":2}'],
    ["news", "created", "null"],
  ]);
  const wrong: [unknown, string][] = [
    [{}, "takes a channel and an event"],
    [{ ...event, channel: "a b" }, "a b"],
    [{ ...event, event: "pusher:error" }, "pusher:error"],
    [{ ...event, data: "x".repeat(20_000) }, "eventDataBytes"],
    [{ ...event, app: "other" }, "no app has that id"],
    ["[]", "no object"],
    ["{", "no object"],
  ];
  for (const [body, reason] of wrong) {
    const answer = await stage.post("trigger", body);
    assertEquals(answer.status, 400, reason);
    assertStringIncludes(answer.body.error, reason);
  }
  const huge = await stage.post("trigger", { data: "x".repeat(300_000) });
  assertEquals(huge.status, 413);
});

Deno.test("disconnect ends a connection, for good or for a moment", async () => {
  await using stage = new Stage();
  for (const [reconnects, code] of [[false, 4009], [true, 4200]] as const) {
    const client = stage.connect();
    const body = { socketId: client.socketId, reconnects };
    assertEquals((await stage.post("disconnect", body)).status, 200);
    assertEquals(client.closing, code);
    assertEquals((await stage.post("disconnect", body)).status, 404);
  }
  for (const body of [{}, { socketId: { toString: null } }]) {
    const answer = await stage.post("disconnect", body);
    assert([400, 404].includes(answer.status));
  }
});

Deno.test("disconnect-user ends all connections of a user", async () => {
  await using stage = new Stage();
  const clients = [stage.connect(), stage.connect()];
  const other = stage.connect();
  for (const client of clients) client.signIn("ann");
  const answer = await stage.post("disconnect-user", { userId: "ann" });
  assertEquals(answer.status, 200);
  for (const { closing } of clients) assertEquals(closing, 4009);
  assertEquals(other.closing, undefined);
  for (const userId of [undefined, "", 7]) {
    const { status } = await stage.post("disconnect-user", { userId });
    assertEquals(status, 400, String(userId));
  }
  other.leave();
});

// ---- Several servers --------------------------------------------------------

/** Asks until the answer is as expected. */
async function eventually(
  ask: () => Promise<unknown>,
  expected: unknown,
): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  for (;;) {
    const answer = await ask();
    if (JSON.stringify(answer) === JSON.stringify(expected)) return;
    if (performance.now() > deadline) return assertEquals(answer, expected);
    // Nothing announces it, and a console answers fifty times a second.
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

testWithRedis(
  "with Redis the console has channels, connections and problems of all servers, and disconnects everywhere",
  async () => {
    await using store = await RedisServer.start();
    const start = () => {
      const backplane = redis(`redis://127.0.0.1:${store.port}`);
      const { id: appId, key, secret } = APP;
      const pusher = new Pusher({ appId, key, secret, backplane });
      const served = debugConsole(pusher);
      const happened = (name: "subscribed" | "disconnected") =>
        within(
          DEADLINE_MS,
          name,
          new Promise<void>((resolve) => {
            const unlisten = pusher.on(name, () => {
              unlisten();
              resolve();
            });
          }),
        );
      const ask = async (name: string, body?: object) => {
        const request = new Request(`http://localhost/console/api/${name}`, {
          method: body === undefined ? "GET" : "POST",
          headers: { host: "localhost", "content-type": "application/json" },
          body: body === undefined ? null : JSON.stringify(body),
        });
        const remoteAddr = {
          transport: "tcp",
          hostname: HERE,
          port: 1,
        } as const;
        const completed = Promise.resolve();
        return await (await served(request, { remoteAddr, completed })).json();
      };
      return { pusher, ask, happened };
    };
    const [one, two] = [start(), start()];
    await using _one = one.pusher;
    await using _two = two.pusher;
    for (const [node, user] of [[one, "ann"], [two, "bob"]] as const) {
      const subscribed = node.happened("subscribed");
      const client = new MemoryClient(node.pusher, APP.key, "");
      client.signIn(user);
      client.subscribe("presence-room", user);
      await subscribed;
    }
    for (const node of [one, two]) {
      assertEquals((await node.ask("session")).isShared, true);
      const { rows } = await node.ask("channels");
      assertEquals(rows, [{
        ...{ app: APP.id, name: "presence-room", kinds: ["presence"] },
        ...{ subscriptions: 2, users: 2 },
      }]);
      const room = () => node.ask("channel?name=presence-room");
      assertEquals((await room()).members.toSorted(), ["ann", "bob"]);
      await eventually(async () => (await room()).subscribers.length, 2);
    }
    // A server that is busy may answer too late, and does with the next question.
    const nodes = [one, two].map(({ pusher }) => pusher.inspect().node);
    const list = async (query = "") =>
      (await one.ask(`connections?${query}`)).rows
        .map(({ node, userId }: { node: string; userId: string }) => [
          ...[node, userId],
        ]);
    const both = [[nodes[0], "ann"], [nodes[1], "bob"]];
    await eventually(() => list("sort=user&order=up"), both);
    await eventually(() => list(`node=${nodes[1]}`), [both[1]]);
    const guest = new MemoryClient(two.pusher, APP.key, "");
    new MemoryClient(two.pusher, "unknown", "");
    const { socketId } = guest;
    await eventually(
      async () => (await one.ask("problems")).problems.length,
      1,
    );
    let gone = two.happened("disconnected");
    await one.ask("disconnect", { socketId, node: nodes[1] });
    await gone;
    assertEquals(guest.closing, 4009);
    gone = two.happened("disconnected");
    await one.ask("disconnect-user", { userId: "bob" });
    await gone;
    await eventually(() => list("size=2"), [both[0]]);
  },
);
