/**
 * The server side of the debug console: who may see it, what it tells, and what it does.
 * Most tests call the handler in memory; the page itself is tested in Chromium.
 */
import { type AnyEvents, Pusher } from "@glitz/pusher";
import { type ConsoleOptions, debugConsole } from "@glitz/pusher/console";
import {
  assert,
  assertEquals,
  assertFalse,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { turn } from "../tests/support/clock.ts";
import {
  HERE,
  type Init,
  MemoryClient,
  Stage,
  Stream,
} from "../tests/support/console.ts";
import { DEADLINE_MS, within } from "../tests/support/deadline.ts";
import { RedisServer, testWithRedis } from "../tests/support/redis.ts";
import { APP, TWO_APPS } from "../tests/support/server.ts";
import { encryption } from "./encryption.ts";
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

// ---- Who may see it ---------------------------------------------------------

Deno.test("without an option only a browser on the same machine gets in", async () => {
  await using stage = new Stage();
  const cases: [Init, number, string][] = [
    [{}, 200, ""],
    [{ from: "127.8.8.8", headers: { host: "127.0.0.1:80" } }, 200, ""],
    [{ from: "::1", headers: { host: "[::1]:8000" } }, 200, ""],
    [{ from: "::ffff:127.0.0.1" }, 200, ""],
    [{ headers: { host: "app.localhost:1" } }, 200, ""],
    [{ from: null }, 403, "was not given where"],
    [{ from: "10.0.0.7" }, 403, "comes from another one"],
    [{ from: "1270.0.0.1" }, 403, "comes from another one"],
    [{ headers: { "x-forwarded-for": "1.2.3.4" } }, 403, "x-forwarded-for"],
    [{ headers: { forwarded: "for=1.2.3.4" } }, 403, "forwarded"],
    [{ headers: { via: "1.1 proxy" } }, 403, "via"],
    [{ headers: { host: "evil.example" } }, 403, "not localhost"],
    [{ headers: { host: "127.0.0.1.evil.example" } }, 403, "not localhost"],
    [{ headers: { host: "localhost.evil.example" } }, 403, "not localhost"],
    [{ headers: { host: "" } }, 403, "not localhost"],
  ];
  for (const [init, status, reason] of cases) {
    const label = JSON.stringify(init);
    const answer = await stage.get("session", init);
    assertEquals(answer.status, status, label);
    const page = await stage.ask("/console/", init);
    assertEquals(page.status, status, label);
    if (status === 200) continue;
    assertStringIncludes(answer.body.error, reason, label);
    assertStringIncludes(answer.body.error, "Give the console a `password`");
    assertStringIncludes(page.text, reason.replaceAll("'", "&#39;"), label);
  }
});

Deno.test("authorize lets in with true and nothing else; if it fails, nobody gets in", async () => {
  let answer: unknown = true;
  const authorize = () => {
    if (answer instanceof Error) throw answer;
    return answer as boolean;
  };
  await using stage = new Stage({ authorize });
  const far = { from: "8.8.8.8", headers: { host: "example.com" } };
  const status = async () => (await stage.get("session", far)).status;
  assertEquals(await status(), 200);
  answer = Promise.resolve(true);
  assertEquals(await status(), 200);
  for (const refusal of [false, "yes", 1, null, Promise.resolve(1)]) {
    answer = refusal;
    assertEquals(await status(), 403);
  }
  const { error } = console;
  const printed: unknown[] = [];
  console.error = (...args) => void printed.push(...args);
  try {
    answer = new Error("the database is away");
    assertEquals(await status(), 500);
    assertEquals((await stage.ask("/console/", far)).status, 500);
  } finally {
    console.error = error;
  }
  assertEquals(printed.length, 4);
});

Deno.test("a password opens the console for 12 hours, on all servers that have the same", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const far = { from: "8.8.8.8", headers: { host: "example.com" } };
  assertEquals((await stage.ask("/console/", far)).status, 200);
  const before = await stage.get("session", far);
  assertEquals([before.status, before.body.takesPassword], [401, true]);
  const wrongs = ["", "wrong", null, 7, `${PASSWORD} `, "\ud800".repeat(12)];
  for (const password of wrongs.slice(0, 4)) {
    const wrong = await stage.post("login", { password }, far);
    assertEquals(wrong.status, 401);
    assertEquals(wrong.headers.get("set-cookie"), null);
  }
  const right = await stage.post("login", { password: PASSWORD }, far);
  const cookie = right.headers.get("set-cookie") ?? "";
  assertMatch(cookie, /; Path=\/console\/; .*HttpOnly; SameSite=Strict$/);
  const headers = { host: "example.com", cookie: `a=b; ${cookie}` };
  const inside = { from: "8.8.8.8", headers };
  assertEquals((await stage.get("session", inside)).status, 200);
  await using other = new Stage({ password: PASSWORD });
  assertEquals((await other.get("session", inside)).status, 200);
  await using foreign = new Stage({ password: `another ${PASSWORD}` });
  assertEquals((await foreign.get("session", inside)).status, 401);
  const [, expires = "", signature = ""] =
    /=(\d+)\.([0-9a-f]+);/.exec(cookie) ?? [];
  for (
    const forged of [`${expires}9.${signature}`, `.${signature}`, expires, "x"]
  ) {
    const cookie = `pusher_console=${forged}`;
    const headers = { host: "example.com", cookie };
    assertEquals((await stage.get("session", { headers })).status, 401);
  }
  const out = await stage.post("logout", {}, inside);
  assertStringIncludes(out.headers.get("set-cookie") ?? "", "Max-Age=0");
  stage.clock.pass(12 * 3_600_000);
  assertEquals((await stage.get("session", inside)).status, 401);
});

Deno.test("the cookie is for TLS alone where the request came over TLS", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const headers = { "x-forwarded-proto": "https" };
  const { headers: answer } = await stage.post(
    "login",
    { password: PASSWORD },
    { headers },
  );
  assertStringIncludes(answer.get("set-cookie") ?? "", "; Secure");
});

Deno.test("an address has five tries at the password, and then one each 12 seconds", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const log = async (password: string, from: string) =>
    (await stage.post("login", { password }, { from })).status;
  for (let n = 0; n < 5; n++) {
    assertEquals(await log("wrong password", "1.1.1.1"), 401);
  }
  // Even the right one, as a guess must not be told from a try.
  const answer = await stage.post("login", { password: PASSWORD }, {
    from: "1.1.1.1",
  });
  assertEquals([answer.status, answer.headers.get("retry-after")], [429, "12"]);
  assertEquals(await log(PASSWORD, "2.2.2.2"), 200);
  stage.clock.pass(12_000);
  assertEquals(await log(PASSWORD, "1.1.1.1"), 200);
  assertEquals(await log(PASSWORD, "1.1.1.1"), 429);
});

Deno.test("strangers use up nothing that operators need, and send little", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const { headers } = await stage.post("login", { password: PASSWORD });
  const cookie = headers.get("set-cookie") ?? "";
  for (let n = 0; n < 200; n++) {
    assertEquals((await stage.get("session")).status, 401);
  }
  const inside = await stage.get("session", { headers: { cookie } });
  assertEquals(inside.status, 200);
  const long = { password: "x".repeat(5_000) };
  const refused = await stage.post("login", long, { from: "3.3.3.3" });
  assertEquals(refused.status, 413);
});

Deno.test("all addresses together have a hundred tries a minute", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const log = async (n: number) => {
    const from = `10.0.${n >> 8}.${n & 255}`;
    return (await stage.post("login", { password: "wrong" }, { from })).status;
  };
  for (let n = 0; n < 100; n++) assertEquals(await log(n), 401);
  let refused = 0;
  for (let n = 100; n < 110; n++) if (await log(n) === 429) refused++;
  assert(refused >= 5, `${refused} of 10 tries were refused`);
});

/** Uses up all tries that strangers have together. */
async function exhaust(stage: Stage): Promise<void> {
  for (let n = 0; n < 120; n++) {
    const from = `10.0.${n >> 8}.${n & 255}`;
    await stage.post("login", { password: "wrong" }, { from });
  }
  const { status } = await stage.post("login", { password: PASSWORD }, {
    from: "9.9.9.9",
  });
  assertEquals(status, 429);
}

/** The cookies that an answer sets, by name. */
function cookiesOf({ headers }: { headers: Headers }): Map<string, string> {
  return new Map(
    headers.getSetCookie().map((cookie) => {
      const [name = "", value = ""] = cookie.split(";")[0]?.split("=") ?? [];
      return [name, value];
    }),
  );
}

Deno.test("strangers keep nobody out who has logged in with the browser before", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const first = await stage.post("login", { password: PASSWORD });
  const known = cookiesOf(first).get("pusher_console_known") ?? "";
  const session = cookiesOf(first).get("pusher_console") ?? "";
  await exhaust(stage);
  const inside = { headers: { cookie: `pusher_console=${session}` } };
  assertEquals((await stage.get("session", inside)).status, 200);

  // The log-in has ended long ago, and the strangers go on.
  stage.clock.pass(89 * 86_400_000);
  await exhaust(stage);
  const log = async (password: string, value = known) => {
    const headers = { cookie: `pusher_console_known=${value}` };
    return await stage.post("login", { password }, {
      headers,
      from: "9.9.9.9",
    });
  };
  for (let n = 0; n < 3; n++) assertEquals((await log("wrong")).status, 401);
  const again = await log(PASSWORD);
  assertEquals(again.status, 200);
  // It goes on to be the same browser, with the tries of one.
  const renewed = cookiesOf(again).get("pusher_console_known") ?? "";
  assertEquals((await log(PASSWORD, renewed)).status, 200);
  assertEquals((await log(PASSWORD, renewed)).status, 429);

  const [expires = "", id = "", signature = ""] = renewed.split(".");
  const other = new Stage({ password: `another ${PASSWORD}` });
  await using _other = other;
  const foreign = cookiesOf(
    await other.post("login", { password: `another ${PASSWORD}` }),
  ).get("pusher_console_known");
  const forged = [
    `${expires}.${crypto.randomUUID()}.${signature}`,
    `${Number(expires) + 1}.${id}.${signature}`,
    ...[`${expires}.${signature}`, session, "x", "", foreign ?? ""],
  ];
  for (const value of forged) {
    assertEquals((await log(PASSWORD, value)).status, 429, value);
  }
  // It is no log-in.
  const headers = { cookie: `pusher_console=${renewed}` };
  assertEquals((await stage.get("session", { headers })).status, 401);
});

Deno.test("tries are counted by the address that is known, and by half of an IPv6 address", async () => {
  const log = async (
    stage: Stage,
    from: string,
    headers: Record<string, string> = {},
  ) =>
    (await stage.post("login", { password: "wrong" }, { from, headers }))
      .status;
  await using direct = new Stage({ password: PASSWORD });
  for (let n = 0; n < 5; n++) {
    assertEquals(await log(direct, `2001:db8:0:1::${n}`), 401);
  }
  assertEquals(await log(direct, "2001:db8:0:1:2:3:4:5"), 429);
  assertEquals(await log(direct, "2001:db8:0:2::1"), 401);

  await using trusting = new Stage({ password: PASSWORD }, {
    trustProxy: true,
  });
  const via = (address: string) => ({
    "x-forwarded-for": `6.6.6.6, ${address}`,
  });
  for (let n = 0; n < 5; n++) {
    assertEquals(await log(trusting, HERE, via("1.1.1.1")), 401);
  }
  assertEquals(await log(trusting, HERE, via("1.1.1.1")), 429);
  assertEquals(await log(trusting, HERE, via("2.2.2.2")), 401);
});

Deno.test("a proxy that is not trusted has fifty tries, so a stranger who seems to be one leaves half", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const log = async (n: number) => {
    const headers = { "x-forwarded-for": `1.1.1.${n}` };
    const from = "7.7.7.7";
    const answer = await stage.post("login", { password: "wrong" }, {
      ...{ from, headers },
    });
    return answer.status;
  };
  for (let n = 0; n < 50; n++) assertEquals(await log(n), 401);
  assertEquals(await log(50), 429);
  const owner = await stage.post("login", { password: PASSWORD }, {
    from: "8.8.8.8",
  });
  assertEquals(owner.status, 200);
});

Deno.test("other pages can neither read nor act, whatever cookies go with them", async () => {
  await using stage = new Stage();
  const body = { channel: "news", event: "x", data: "1" };
  const foreign: Record<string, string>[] = [
    { "sec-fetch-site": "cross-site" },
    { "sec-fetch-site": "same-site" },
    { origin: "http://evil.example" },
    { origin: "null" },
  ];
  for (const headers of foreign) {
    const label = JSON.stringify(headers);
    assertEquals((await stage.post("trigger", body, { headers })).status, 403);
    assertEquals((await stage.get("session", { headers })).status, 403, label);
    assertEquals((await stage.post("login", {}, { headers })).status, 403);
  }
  // A form of another page, in a browser that sends neither header.
  for (
    const type of ["text/plain", "application/x-www-form-urlencoded", ""]
  ) {
    const headers = { "content-type": type };
    const answer = await stage.post("trigger", body, { headers });
    assertEquals(answer.status, 415, type);
  }
  const own = { "sec-fetch-site": "same-origin", origin: "http://localhost" };
  const answer = await stage.post("trigger", body, { headers: own });
  assertEquals(answer.status, 200);
  assertEquals(answer.headers.get("access-control-allow-origin"), null);
  // A proxy that ends TLS may name another host than the browser has asked.
  const proxied = { ...own, origin: "https://console.example" };
  const late = await stage.post("trigger", body, { headers: proxied });
  assertEquals(late.status, 200);
});

// ---- The stream -------------------------------------------------------------

Deno.test("the stream tells events of all kinds, in their order", async () => {
  await using stage = new Stage({}, { clientEvents: true });
  const stream = await stage.open();
  const ann = stage.connect();
  const bob = stage.connect();
  ann.subscribe("presence-room", "ann");
  bob.subscribe("presence-room", "bob");
  ann.emit("client-typing", { on: true }, "presence-room");
  await stage.pusher.trigger("presence-room", "said", { text: "hi" });
  stage.connect("", "unknown-key");
  ann.leave();
  await stage.pass();
  const { events, skipped } = await stream.next("events");
  assertEquals(skipped, 0);
  assertEquals(
    events.map((event: { what: string }) => event.what),
    [
      ...["connected", "connected"],
      ...["channel_occupied", "member_added", "subscribed"],
      ...["member_added", "subscribed"],
      ...["client_event", "published", "refused"],
      ...["unsubscribed", "member_removed", "disconnected"],
    ],
  );
  const typing = events.find((one: { kind: string }) => one.kind === "client");
  assertEquals(typing, {
    node: stage.pusher.inspect().node,
    ...{ n: 8, at: typing.at, kind: "client", what: "client_event" },
    ...{ app: APP.id, socketId: ann.socketId, userId: "ann" },
    ...{ channel: "presence-room", event: "client-typing" },
    ...{ data: '{"on":true}', units: 11 },
  });
  bob.leave();
  await stream.close();
});

Deno.test("the stream tells what its filters let through", async () => {
  await using stage = new Stage();
  const cases: [string, string[]][] = [
    ["channel=NEWS", ["news a 1", "news b 2"]],
    ["event=B", ["news b 2", "prices b 3"]],
    ["search=3", ["prices b 3"]],
    ["kinds=published&channel=ws&event=a", ["news a 1"]],
    ["kinds=client,members", []],
    ["kinds=", []],
    ["kinds=published,nonsense,__proto__&search=2", ["news b 2"]],
  ];
  for (const [query, expected] of cases) {
    const stream = await stage.open(query);
    await stage.pusher.trigger("news", "a", "1");
    await stage.pusher.trigger("news", "b", "2");
    await stage.pusher.trigger("prices", "b", "3");
    await stage.pass(500);
    await stage.pass(500);
    // Events are told before the second's figures, if there are any.
    if (expected.length > 0) {
      const { events } = await stream.next("events");
      type Told = { channel: string; event: string; data: string };
      assertEquals(
        events.map(({ channel, event, data }: Told) =>
          `${channel} ${event} ${data}`
        ),
        expected,
        query,
      );
    }
    const { sample } = await stream.next("tick");
    assertEquals(sample.connections, 0);
    await stream.close();
  }
});

Deno.test("the stream tells 40 events in half a second, and counts the others", async () => {
  await using stage = new Stage();
  const stream = await stage.open("kinds=published");
  for (let n = 0; n < 1_000; n++) {
    await stage.pusher.trigger("news", "tick", String(n));
  }
  await stage.pass();
  const { events, skipped } = await stream.next("events");
  assertEquals([events.length, skipped], [40, 960]);
  await stage.pusher.trigger("news", "tick", "last");
  await stage.pass();
  assertEquals((await stream.next("events")).skipped, 0);
  await stream.close();
});

Deno.test("the stream shows hostile names and data as they are, and cuts long ones", async () => {
  await using stage = new Stage({}, { limits: { eventDataBytes: 20_000 } });
  const stream = await stage.open();
  const name = "<script>alert(1)</script>\u202egnp.exe";
  const data = "<img onerror=x>" + "\u{1f600}".repeat(4_000);
  await stage.pusher.trigger("news", name, data);
  await stage.pusher.trigger("__proto__", "constructor", "__proto__");
  await stage.pass();
  const { events: [first, second] } = await stream.next("events");
  assertEquals(first.event, name);
  assertEquals(first.units, data.length);
  // A character is cut in two at most once, and is replaced then.
  assert(first.data.startsWith("<img onerror=x>"));
  assertEquals(first.data.length, 2_049);
  assert(first.data.isWellFormed());
  assertEquals(second.channel, "__proto__");
  await stream.close();
});

Deno.test("the stream shows no data of encrypted channels, and search does not find it", async () => {
  const masterKeyBase64 = btoa("k".repeat(32));
  await using stage = new Stage({}, {
    clientEvents: true,
    encryption: encryption({ masterKeyBase64 }),
  });
  const all = await stage.open("kinds=published,client");
  const searching = await stage.open("search=cipher");
  const ann = stage.connect();
  ann.subscribe("private-encrypted-notes");
  ann.emit("client-x", { ciphertext: "c" }, "private-encrypted-notes");
  const data = { text: "for you alone" };
  await stage.pusher.trigger("private-encrypted-notes", "note", data);
  await stage.pusher.trigger("news", "about", "cipher machines");
  await stage.pass();
  const { events } = await all.next("events");
  assertEquals(events.length, 3);
  for (const event of events.slice(0, 2)) {
    assertEquals(event.isEncrypted, true);
    assertFalse("data" in event || "units" in event);
  }
  const found = await searching.next("events");
  assertEquals(found.events.length, 1);
  assertEquals(found.events[0].event, "about");
  await all.close();
  await searching.close();
  ann.leave();
});

Deno.test("without a page that is open the console hears refusals and errors only", async () => {
  await using stage = new Stage();
  assertEquals([stage.listeners, stage.console.pages], [2, 0]);
  const first = await stage.open();
  const second = await stage.open();
  assertEquals([stage.listeners, stage.console.pages], [2 + 16, 2]);
  await first.close();
  assertEquals([stage.listeners, stage.console.pages], [2 + 16, 1]);
  await second.close();
  assertEquals([stage.listeners, stage.console.pages], [2, 0]);
  stage.console.close();
  assertEquals(stage.listeners, 0);
  assertEquals((await stage.ask("/console/")).status, 404);
});

Deno.test("the figures of each second are the rates since the last, and are kept for the next page", async () => {
  await using stage = new Stage();
  const client = stage.connect();
  client.subscribe("news");
  const stream = await stage.open("kinds=client");
  for (let n = 0; n < 6; n++) await stage.pusher.trigger("news", "tick", "1");
  client.emit("pusher:ping", {});
  await stage.pass(500);
  // The timer is late.
  stage.clock.freeze(1_500);
  await stage.pass(0);
  const { sample, stats, pages } = await stream.next("tick");
  assertEquals([sample.connections, pages], [1, 1]);
  assertEquals([sample.received, sample.sent], [7 / 2, 7 / 2].map(Math.round));
  assertEquals(stats.connections, 1);
  await stream.close();
  const response = await stage.send("/console/api/stream");
  const again = new Stream(response);
  assertEquals((await again.next("hello")).samples, [sample]);
  await again.close();
  client.leave();
});

Deno.test("no more pages are open at once than `pages`", async () => {
  await using stage = new Stage({ pages: 2 });
  const [first, second] = [await stage.open(), await stage.open()];
  const third = await stage.get("stream");
  assertEquals(third.status, 429);
  assertStringIncludes(third.body.error, "`pages` is 2");
  await first.close();
  const again = await stage.open();
  await again.close();
  await second.close();
});

Deno.test("a stream ends after ten minutes, so that the page is judged again", async () => {
  await using stage = new Stage();
  const stream = await stage.open();
  for (let n = 0; n < 23; n++) {
    // It reads now and then, or it would be given up.
    await stage.pass(25_000);
    await stream.next("tick");
  }
  assertEquals(stage.console.pages, 1);
  await stage.pass(25_000);
  assert(await stream.ended());
  assertEquals(stage.console.pages, 0);
});

Deno.test("a page that reads nothing is given up, and little waits for it", async () => {
  await using stage = new Stage();
  const response = await stage.send("/console/api/stream");
  for (let n = 0; n < 120 && stage.console.pages > 0; n++) {
    await stage.pusher.trigger("news", "tick", "x".repeat(5_000));
    await stage.pass(500);
  }
  assertEquals(stage.console.pages, 0);
  const { length } = await response.text();
  assert(length < 50_000, `${length} characters have waited`);
});

Deno.test("the end of the server ends the streams", async () => {
  await using stage = new Stage();
  const stream = await stage.open();
  await stage.pusher.close();
  assert(await stream.ended());
  assertEquals(stage.console.pages, 0);
});

Deno.test("a page that is closed in the browser leaves nothing behind", async () => {
  await using pusher = new Pusher({ key: "k", secret: "s" });
  using served = debugConsole(pusher);
  await using server = Deno.serve(
    { hostname: HERE, port: 0, onListen() {} },
    pusher.cascade(pusher.handler, served),
  );
  const ending = new AbortController();
  const url = `http://${HERE}:${server.addr.port}/console/api/stream`;
  const { body } = await fetch(url, { signal: ending.signal });
  const reader = body!.getReader();
  await reader.read();
  assertEquals(served.pages, 1);
  ending.abort();
  await reader.read().catch(() => {});
  // The runtime says it, at the latest, with the next update.
  await within(
    DEADLINE_MS,
    "end of the page",
    (async () => {
      while (served.pages > 0) await new Promise((go) => setTimeout(go, 20));
    })(),
  );
});

Deno.test("errors are printed as without a console", async () => {
  await using stage = new Stage();
  const stream = await stage.open();
  const { error } = console;
  const printed: unknown[] = [];
  console.error = (...args) => void printed.push(args[0]);
  try {
    stage.pusher.on("published", () => {
      throw new Error("out of order");
    });
    await stage.pusher.trigger("news", "x", "1");
    await turn();
  } finally {
    console.error = error;
  }
  assertEquals(printed.length, 1);
  await stage.pass();
  const { events } = await stream.next("events");
  assertStringIncludes(events.at(-1).detail, "out of order");
  await stream.close();
});

// ---- Lists ------------------------------------------------------------------

Deno.test("connections come in pages, sorted and searched", async () => {
  await using stage = new Stage();
  const clients = Array.from({ length: 120 }, (_, n) => {
    const client = stage.connect(n % 2 ? "&client=js&version=8.6.0" : "");
    client.bufferedAmount = n;
    client.subscribe("news");
    if (n === 77) client.subscribe("presence-room", "zoë");
    return client;
  });
  const first = (await stage.get("connections")).body;
  assertEquals([first.rows.length, first.found, first.total], [50, 120, 120]);
  assertEquals(first.rows[0].socketId, clients[0]?.socketId);
  const last = (await stage.get("connections?page=2")).body;
  assertEquals(last.rows.length, 20);
  const newest = (await stage.get("connections?order=up&size=1")).body;
  assertEquals(newest.rows[0].socketId, clients[119]?.socketId);
  const most =
    (await stage.get("connections?sort=buffered&order=down&size=1")).body;
  assertEquals(most.rows[0].socketId, clients[119]?.socketId);
  for (const search of ["ZOË", "presence-room", clients[77]!.socketId]) {
    const query = `connections?search=${encodeURIComponent(search)}`;
    const { found, rows: [row] } = (await stage.get(query)).body;
    assertEquals(found, 1, search);
    assertEquals([row.userId, row.library], ["zoë", "js 8.6.0"]);
    assertEquals(row.channels, ["news", "presence-room"]);
  }
  for (
    const query of ["page=-1", "page=x&size=0", "sort=__proto__", "size=9e9"]
  ) {
    const { status, body } = await stage.get(`connections?${query}`);
    assertEquals([status, body.total], [200, 120], query);
    assert(body.rows.length <= 100);
  }
  for (const client of clients) client.leave();
  stage.clock.pass(60_000);
  const after = (await stage.get("connections")).body;
  assertEquals([after.rows, after.total], [[], 0]);
});

Deno.test("a list is made once a second, however many pages ask", async () => {
  await using stage = new Stage();
  const client = stage.connect();
  const total = async () => (await stage.get("connections")).body.total;
  assertEquals(await total(), 1);
  client.leave();
  assertEquals(await total(), 1);
  stage.clock.pass(1_000);
  assertEquals(await total(), 0);
});

Deno.test("the console serves fifty requests a second, and says so", async () => {
  await using stage = new Stage();
  for (let n = 0; n < 50; n++) {
    assertEquals((await stage.get("session")).status, 200);
  }
  const refused = await stage.get("session");
  assertEquals(refused.status, 429);
  assertStringIncludes(refused.body.error, "50 requests a second");
  stage.clock.pass(1_000);
  assertEquals((await stage.get("session")).status, 200);
});

Deno.test("channels are listed with kind and counts, and one of them with its members", async () => {
  await using stage = new Stage();
  const [ann, bob] = [stage.connect(), stage.connect()];
  for (const name of ["news", "__proto__", "private-cache-x"]) {
    ann.subscribe(name);
  }
  ann.subscribe("presence-room", "ann");
  bob.subscribe("presence-room", "bob");
  const { rows } = (await stage.get("channels?sort=name&order=up")).body;
  assertEquals(rows, [
    { app: APP.id, name: "__proto__", kinds: ["public"], subscriptions: 1 },
    { app: APP.id, name: "news", kinds: ["public"], subscriptions: 1 },
    {
      ...{ app: APP.id, name: "presence-room", kinds: ["presence"] },
      ...{ subscriptions: 2, users: 2 },
    },
    {
      ...{ app: APP.id, name: "private-cache-x" },
      ...{ kinds: ["private", "cache"], subscriptions: 1 },
    },
  ]);
  const cached = (await stage.get("channels?kind=cache&search=X")).body;
  assertEquals([cached.found, cached.total], [1, 4]);
  const room = (await stage.get("channel?name=presence-room")).body;
  assertEquals([room.users, room.subscriptions], [2, 2]);
  assertEquals(room.members, ["ann", "bob"]);
  const { node } = stage.pusher.inspect();
  assertEquals(
    room.subscribers,
    [ann, bob].map(({ socketId }) => ({ node, socketId })),
  );
  await stage.pusher.trigger("private-cache-x", "x", "y".repeat(5_000));
  const { cache } = (await stage.get("channel?name=private-cache-x")).body;
  assertEquals([cache.data.length, cache.ttl], [2_049, 1_800]);
  for (const name of ["", "a b", "<script>"]) {
    const query = `channel?name=${encodeURIComponent(name)}`;
    assertEquals((await stage.get(query)).status, 400);
  }
  ann.leave();
  bob.leave();
});

Deno.test("the last event of an encrypted cache channel is not shown", async () => {
  const masterKeyBase64 = btoa("k".repeat(32));
  const name = "private-encrypted-cache-x";
  await using stage = new Stage({}, {
    encryption: encryption({ masterKeyBase64 }),
  });
  await stage.pusher.trigger(name, "x", { text: "for you alone" });
  const { text } = await stage.get(`channel?name=${name}`);
  assertFalse(/cipher|nonce|alone/.test(text), text);
});

Deno.test("recovery sessions, which open something, are nowhere in the answers", async () => {
  await using stage = new Stage();
  const id = crypto.randomUUID();
  const stream = await stage.open();
  const url = `http://localhost/r/${id}/app/${APP.key}?protocol=7`;
  const transport = { bufferedAmount: 0, send() {}, close() {} };
  const peer = stage.pusher.open(transport, APP.key, new Request(url));
  await stage.pass();
  const texts = [
    JSON.stringify(await stream.next("events")),
    (await stage.get("connections")).text,
    (await stage.get("problems")).text,
  ];
  assertFalse(texts.join().includes(id));
  peer.closed(1000);
  await stream.close();
});

Deno.test("with several apps the page sees all of them, or one", async () => {
  await using stage = new Stage({}, { apps: TWO_APPS });
  const [a, b] = TWO_APPS;
  const ann = stage.connect("", a.key);
  const bob = stage.connect("", b.key);
  ann.emit("pusher:subscribe", { channel: "news" });
  bob.emit("pusher:subscribe", { channel: "other" });
  assertEquals((await stage.get("session")).body.apps, ["a", "b"]);
  assertEquals((await stage.get("connections")).body.total, 2);
  assertEquals((await stage.get("connections?app=b")).body.total, 1);
  const channels = (await stage.get("channels?app=b")).body.rows;
  assertEquals(channels.map(({ name }: { name: string }) => name), ["other"]);
  const unknown = await stage.get("channels?app=c");
  assertEquals(unknown.status, 400);
  const stream = await stage.open("app=b&kinds=published");
  await stage.pusher.app("a").trigger("news", "x", "1");
  const body = { app: "b", channel: "other", event: "y", data: "2" };
  assertEquals((await stage.post("trigger", body)).status, 200);
  await stage.pass();
  const { events } = await stream.next("events");
  assertEquals(events.map(({ app }: { app: string }) => app), ["b"]);
  await stream.close();
  ann.leave();
  bob.leave();
});

Deno.test("the console of one app shows that app, and no figures of others", async () => {
  await using stage = new Stage({}, { apps: TWO_APPS }, "a");
  const [a, b] = TWO_APPS;
  const ann = stage.connect("", a.key);
  const others = [stage.connect("", b.key), stage.connect("", b.key)];
  others[0]?.emit("pusher:subscribe", { channel: "other" });
  const stream = await stage.open();
  await stage.pusher.app("b").trigger("other", "x", "1");
  await stage.pusher.app("a").trigger("news", "y", "2");
  await stage.pass(500);
  const { events } = await stream.next("events");
  assertEquals(events.map(({ event }: { event: string }) => event), ["y"]);
  await stage.pass(500);
  const { sample, stats } = await stream.next("tick");
  assertEquals([sample.connections, stats.connections], [1, 1]);
  assertEquals([stats.channels, stats.transports], [0, { ws: 1 }]);
  assertEquals([sample.received, sample.sent], [1, 0]);
  assertEquals((await stage.get("session")).body.apps, ["a"]);
  const socketId = others[0]?.socketId;
  assertEquals((await stage.post("disconnect", { socketId })).status, 404);
  const foreign = { app: "b", channel: "other", event: "x" };
  assertEquals((await stage.post("trigger", foreign)).status, 400);
  await stream.close();
  for (const client of [ann, ...others]) client.leave();
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
