/**
 * What pages ask the handler for: the client that it serves, and signatures from
 * the auth endpoints, for pages of the origins that are allowed.
 */
import { type OriginRule, Pusher, type UserData } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { Hono } from "hono";
import { compress } from "hono/compress";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import {
  type Answer,
  APP,
  objectOf,
  read,
  serve,
  TWO_APPS,
} from "../support/server.ts";
import { watched } from "../support/users.ts";
import {
  type App,
  channelAuth,
  dataOf,
  RawClient,
  userAuth,
} from "../support/wire.ts";

const SIGNED_IN = "pusher:signin_success";

// ---- Served client ----------------------------------------------------------

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
  await using server = serve({ key: "k'\"`${alert(1)}<script><!--" });
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

/** What is promised for the script that every page loads. */
const MAX_SCRIPT_BYTES = 6_656;

/** The head of an answer, and its body as it came over the wire. */
async function readAnswer(
  port: number,
  path: string,
  codings: string,
  host = `localhost:${port}`,
): Promise<{ head: string; body: Uint8Array }> {
  using raw = await RawClient.connect(port);
  const lines = [
    `GET ${path} HTTP/1.1`,
    `Host: ${host}`,
    `Accept-Encoding: ${codings}`,
    "Connection: close",
  ];
  await raw.write(`${lines.join("\r\n")}\r\n\r\n`);
  return { head: await raw.readHead(), body: await raw.readBytes() };
}

function decompress(body: Uint8Array, coding: string): string {
  const plain = coding === "br" ? brotliDecompressSync(body) : gunzipSync(body);
  return plain.toString();
}

Deno.test("the scripts are compressed on the wire, and pusher.js keeps its size", async () => {
  await using server = serve();
  const paths = [
    "/pusher.js",
    "/pusher.mjs",
    "/pusher.js?full",
    "/pusher.mjs?full",
    "/pusher-fallback.mjs",
  ];
  for (const path of paths) {
    const plain = await readAnswer(server.port, path, "identity");
    assertEquals(/^content-encoding/im.exec(plain.head), null);
    const script = new TextDecoder().decode(plain.body);
    for (const coding of ["gzip", "br"]) {
      const { head, body } = await readAnswer(server.port, path, coding);
      assertMatch(head, /^HTTP\/1\.1 200 /);
      assertMatch(head, new RegExp(`^content-encoding: ${coding}\r?$`, "im"));
      assertMatch(head, /^vary: accept-encoding\r?$/im);
      assertMatch(
        head,
        new RegExp(`^content-length: ${body.length}\r?$`, "im"),
      );
      assertEquals(decompress(body, coding), script);
      assert(body.length < script.length * 0.45, `${path}: ${body.length}`);
      if (path !== "/pusher.js") continue;
      assert(body.length <= MAX_SCRIPT_BYTES, `${body.length}`);
    }
  }
});

Deno.test("hosts that take turns each get their own script, compressed", async () => {
  await using server = serve();
  const hosts = Array.from({ length: 50 }, (_, i) => `host-${i}.example`);
  const bodies = await Promise.all(hosts.map(async (host, i) => {
    const coding = i % 2 === 0 ? "br" : "gzip";
    const { port } = server;
    const { body } = await readAnswer(port, "/pusher.js", coding, host);
    return decompress(body, coding);
  }));
  bodies.forEach((script, i) =>
    assertStringIncludes(script, JSON.stringify(hosts[i]))
  );
});

Deno.test("a runtime or a framework that compresses leaves the scripts as they are", async () => {
  await using pusher = new Pusher();
  const app = new Hono();
  app.use(compress({ threshold: 0 }));
  app.all("*", (c) => pusher.handler(c.req.raw));
  const handlers: Record<string, Pusher["handler"]> = {
    "automaticCompression": pusher.handler,
    "Hono's compress()": (request) => app.fetch(request),
  };
  for (const [name, handler] of Object.entries(handlers)) {
    const options = { port: 0, automaticCompression: true, onListen() {} };
    await using server = Deno.serve(options, handler);
    const { port } = server.addr;
    for (const path of ["/pusher.js", "/pusher-fallback.mjs"]) {
      for (const coding of ["gzip", "br"]) {
        const { head, body } = await readAnswer(port, path, coding);
        const codings = head.match(/^content-encoding:.*$/gim);
        assertEquals(codings?.map((line) => line.trim().toLowerCase()), [
          `content-encoding: ${coding}`,
        ], name);
        // The tag stays a strong one of this coding.
        assertMatch(head, new RegExp(`^etag: "[^"]+-${coding}"\r?$`, "im"));
        assertStringIncludes(decompress(body, coding), "pusher", name);
      }
    }
  }
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
    [["https://a.example", /.*b.*/], [
      "https://a.example",
      "https://b.example",
    ], ["https://c.example"]],
    // A pattern without anchors is for the whole origin, too.
    [/https:\/\/a\.example/, ["https://a.example"], [
      "https://a.example.evil.test",
      "https://evil.test/https://a.example",
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
      const frame = await client.next();
      assertEquals(frame.event, "pusher:error", `${rule} ${origin}`);
      const { code } = await within(DEADLINE_MS, "close", client.closed);
      assertEquals(code, 4009, `${rule} ${origin}`);
      assertEquals(dataOf(frame).message, refusedOrigin(origin, server));
    }
  }
});

/** What a page reads whose origin is refused. */
function refusedOrigin(origin: string, { port }: { port: number }): string {
  const host = `127.0.0.1:${port}`;
  return `Origin "${origin}" is not that of host "${host}", and origins does not list it`;
}

Deno.test("a refused origin is quoted and cut, and the socket is closed whatever its length", async () => {
  await using server = serve({ origins: [], authorize: () => true });
  const cases: [origin: string, shown: string][] = [
    [`https://${"a".repeat(4_000)}.example`, `https://${"a".repeat(92)}…`],
    ['https://a.example" is fine', 'https://a.example\\" is fine'],
    ["https://\u009b2J.example", "https://\\u009b2J.example"],
    [`https://${"é".repeat(80)}`, `https://${"é".repeat(80)}`],
  ];
  for (const [origin, shown] of cases) {
    const message = refusedOrigin(shown, server);
    await using client = server.dial({ headers: { origin } });
    assertEquals(dataOf(await client.next()), { code: 4009, message });
    const closed = await within(DEADLINE_MS, "close", client.closed);
    assertEquals(closed.code, 4009);
    // A close frame has room for so many bytes.
    assert(message.startsWith(closed.reason), closed.reason);
    const { length } = new TextEncoder().encode(closed.reason);
    assert(length > 100 && length <= 123 || closed.reason === message);
    const form = { socket_id: "1.1", channel_name: "private-a" };
    const answer = await ask(server.url, form, { origin });
    assertEquals([answer.status, answer.body], [403, { error: message }]);
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

// ---- Channel auth -----------------------------------------------------------

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

Deno.test("the auth endpoints take JSON and multipart forms as they take forms", async () => {
  const seen: unknown[] = [];
  await using server = serve({
    authorize(_request, { channel, params }) {
      seen.push(params.get("extra"));
      return channel !== "private-no";
    },
    authenticate(_request, { params }) {
      seen.push(params.get("extra"));
      return { id: "ann" };
    },
  });
  const fields = {
    socket_id: "1.1",
    channel_name: "private-a",
    extra: "1",
  };
  const multipart = () => {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) form.set(name, value);
    return form;
  };
  const json = JSON.stringify(fields);
  const type = "application/json";
  const bodies: [what: string, init: RequestInit][] = [
    ["form", { body: new URLSearchParams(fields) }],
    ["JSON", { body: json, headers: { "content-type": type } }],
    ["JSON, charset", {
      body: json,
      headers: { "content-type": `${type}; charset=utf-8` },
    }],
    ["JSON as text/plain", { body: json }],
    ["JSON without a type", { body: new TextEncoder().encode(json) }],
    ["form as JSON", {
      body: `${new URLSearchParams(fields)}`,
      headers: { "content-type": type },
    }],
    ["multipart", { body: multipart() }],
  ];
  const auth = channelAuth(APP, "1.1", "private-a");
  const userData = '{"id":"ann"}';
  const user = { auth: userAuth(APP, "1.1", userData), user_data: userData };
  for (const [what, init] of bodies) {
    for (const [route, answer] of [["auth", { auth }], ["user-auth", user]]) {
      const url = `${server.url}/pusher/${route}`;
      const { status, body } = await read(
        await fetch(url, { method: "POST", ...init }),
      );
      assertEquals([status, body], [200, answer], `${what}: ${route}`);
    }
  }
  assertEquals(seen, bodies.flatMap(() => ["1", "1"]));
});

Deno.test("POST /pusher/auth takes several channels as JSON, and refuses names of other types", async () => {
  await using server = serve({
    authorize: (_request, { channel }) => channel !== "private-no",
  });
  const post = async (value: unknown) =>
    await read(
      await fetch(`${server.url}/pusher/auth`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(value),
      }),
    );
  const socket_id = "1.1";
  const names = ["private-a", "private-no"];
  for (const name of ["channel_name", "channel_name[]"]) {
    const { status, body } = await post({ socket_id, [name]: names });
    assertEquals(status, 200);
    assertEquals(Object.keys(body.channels), names);
    assertEquals(body.channels["private-no"].status, 403);
  }
  for (
    const [value, error] of [
      [{ socket_id: 1.1, channel_name: "private-a" }, "socket_id is not"],
      [{ socket_id, channel_name: 7 }, "channel_name is neither"],
      [{ socket_id, channel_name: [7] }, "channel_name is neither"],
      [{ socket_id, channel_name: [] }, "lacks a socket_id or channel_name"],
      [{ socket_id }, "lacks a socket_id or channel_name"],
      [{}, "lacks a socket_id or channel_name"],
      [[], "lacks a socket_id or channel_name"],
      ["x", "lacks a socket_id or channel_name"],
    ] as const
  ) {
    const { status, body } = await post(value);
    assertEquals(status, 400, JSON.stringify(value));
    assertStringIncludes(body.error, error);
  }
  const most = Array.from({ length: 201 }, (_, i) => `private-${i}`);
  const { status, body } = await post({ socket_id, channel_name: most });
  assertEquals(status, 400);
  assertStringIncludes(body.error, "channelsPerConnection is 200");
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

Deno.test("authorize that returns true on a presence channel says what to return instead", async () => {
  await using server = serve({ authorize: () => true });
  const form = { socket_id: "1.1", channel_name: "presence-a" };
  const answer = await ask(server.url, form);
  assertEquals([answer.status, answer.body], [500, {
    error:
      "The channel could not be authorized: the log of the server says why",
  }]);
  const { during, error } = await server.journal.next("error");
  assertEquals(during, "authorizing a channel");
  assertStringIncludes(
    String(error),
    'Cannot authorize "presence-a": authorize returned true, and on a ' +
      'presence channel must return the member who joins, such as { user_id: "1" }',
  );
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
      const { status, headers, body } = await ask(server.url, form, given);
      assertEquals(status, isAllowed ? 200 : 403, origin);
      if (!isAllowed && origin !== undefined) {
        assertEquals(body, { error: refusedOrigin(origin, server) });
      }
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

/** Who may read an answer, and whether with cookies, by its headers. */
function readersOf({ headers }: { headers: Headers }): string {
  const origin = headers.get("access-control-allow-origin");
  const withCookies = headers.get("access-control-allow-credentials");
  return `${origin} ${withCookies}`;
}

Deno.test("each answer of an auth endpoint says the same to a page that sends cookies", async () => {
  const listed = "http://localhost:8041";
  const cases: [origins: OriginRule | OriginRule[], readers: string][] = [
    [listed, `${listed} true`],
    [[listed, "*"], `${listed} true`],
    [/http:\/\/localhost:\d+/, `${listed} true`],
    [(origin) => origin === listed, `${listed} true`],
    // A browser shows no page an answer for * and cookies.
    ["*", "* null"],
    ["http://localhost:8042", "null null"],
  ];
  for (const [origins, readers] of cases) {
    await using server = serve({
      origins,
      authorize: (_request, { channel }) => channel === "private-a",
      authenticate: () => null,
    });
    const isRefused = readers === "null null";
    const right = { socket_id: "1.1", channel_name: "private-a" };
    for (
      const [route, init, status] of [
        ["auth", { body: new URLSearchParams(right) }, 200],
        [`auth/${APP.key}`, { body: JSON.stringify(right) }, 200],
        ["auth/nobody", { body: new URLSearchParams(right) }, 404],
        ["auth", { body: "socket_id=1.1&channel_name=private-b" }, 403],
        ["auth", { body: "" }, 400],
        ["auth", { body: "x".repeat(65_537) }, 413],
        ["auth", { method: "PUT", body: "" }, 405],
        ["user-auth", { body: "socket_id=1.1" }, 403],
        ["auth", { method: "OPTIONS" }, 204],
        [`auth/${APP.id}`, { method: "OPTIONS" }, 204],
        ["user-auth", { method: "OPTIONS" }, 204],
      ] as [string, RequestInit, number][]
    ) {
      const url = `${server.url}/pusher/${route}`;
      const headers = { origin: listed, cookie: "session=1" };
      const answer = await read(
        await fetch(url, { method: "POST", headers, ...init }),
      );
      const label = `${origins}: ${init.method ?? "POST"} ${route} ${status}`;
      assertEquals(readersOf(answer), readers, label);
      const expected = isRefused && status !== 404 ? 403 : status;
      assertEquals(answer.status, expected, label);
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

// ---- User auth --------------------------------------------------------------

/** Asks the endpoint for users as clients do. */
async function askForUser(
  url: string,
  form: Record<string, string>,
  headers: Record<string, string> = {},
): Promise<Answer> {
  return await read(
    await fetch(`${url}/pusher/user-auth`, {
      method: "POST",
      headers,
      body: new URLSearchParams(form),
    }),
  );
}

Deno.test("POST /pusher/user-auth is not ours without authenticate", async () => {
  await using server = serve({ authorize: () => true }, {
    after: [async (request) => new Response(await request.text())],
  });
  const { text } = await askForUser(server.url, { socket_id: "1.1" });
  assertEquals(text, "socket_id=1.1");
  await using alone = serve({ authorize: () => true });
  assertEquals((await askForUser(alone.url, { socket_id: "1.1" })).status, 404);
});

Deno.test("authenticate alone does not open POST /pusher/auth", async () => {
  await using server = serve({ authenticate: () => ({ id: "7" }) });
  const response = await fetch(`${server.url}/pusher/auth`, {
    method: "POST",
    body: new URLSearchParams({ socket_id: "1.1", channel_name: "private-a" }),
  });
  await response.body?.cancel();
  assertEquals(response.status, 404);
});

Deno.test("POST /pusher/user-auth signs whom authenticate names", async () => {
  const user = { id: "zoë", user_info: { n: "ë" }, watchlist: ["7"], more: 1 };
  for (const path of ["", "/realtime"]) {
    await using server = serve({
      path,
      authenticate(request, { app, socketId, params }) {
        assertEquals(request.headers.get("cookie"), "session=1");
        assertEquals(app, APP.id);
        assertMatch(socketId, /^\d+\.\d+$/);
        switch (params.get("as")) {
          case "now":
            return user;
          case "later":
            return Promise.resolve(user);
          case "nobody":
            return null;
          default:
            return Promise.resolve(null);
        }
      },
    });
    const asking = (socket_id: string, as: string) =>
      askForUser(server.url, { socket_id, as }, { cookie: "session=1" });
    for (const as of ["now", "later"]) {
      await using client = await server.connect();
      const { socketId } = client;
      const { status, body, headers } = await asking(socketId, as);
      assertEquals(status, 200);
      assertMatch(headers.get("content-type") ?? "", /^application\/json/);
      assertEquals(headers.get("cache-control") ?? "no-store", "no-store");
      const user_data = JSON.stringify(user);
      assertEquals(body, {
        auth: userAuth(APP, socketId, user_data),
        user_data,
      });
      client.requestSignIn(body.user_data, { auth: body.auth });
      await client.next(SIGNED_IN);
      assertEquals(await watched(client), { offline: ["7"] });
    }
    for (const as of ["nobody", "nobody later"]) {
      const { status, body, headers } = await asking("1.1", as);
      assertEquals([status, Object.keys(body)], [403, ["error"]]);
      assertEquals(headers.get("content-type"), "application/json");
    }
    assertEquals(server.journal.calls("error"), []);
  }
});

Deno.test("POST /pusher/user-auth signs for the app that the socket belongs to", async () => {
  const asked: string[] = [];
  await using server = serve({
    apps: TWO_APPS,
    authenticate(_request, { app }) {
      asked.push(app);
      return { id: "7" };
    },
  });
  for (const app of TWO_APPS) {
    await using client = await server.connect({ app });
    const form = { socket_id: client.socketId };
    const { status, body } = await askForUser(server.url, form);
    assertEquals([status, body], [200, {
      auth: userAuth(app, client.socketId, '{"id":"7"}'),
      user_data: '{"id":"7"}',
    }]);
    client.requestSignIn(body.user_data, { auth: body.auth });
    await client.next(SIGNED_IN);
  }
  assertEquals(asked, ["a", "b"]);
  // Nobody can say whose a socket is that is not there.
  const { status, body } = await askForUser(server.url, { socket_id: "1.1" });
  assert(status >= 400 && status < 500, `${status}`);
  assertEquals(Object.keys(body), ["error"]);
  assertEquals(asked.length, 2);
});

Deno.test("POST /pusher/user-auth refuses what it cannot sign, without asking authenticate", async () => {
  let asked = 0;
  await using server = serve({
    authenticate() {
      asked++;
      return { id: "7" };
    },
  });
  for (
    const form of [
      {},
      { user_id: "7" },
      { socket_id: "" },
      { socket_id: "1" },
      { socket_id: "1.1:private-a" },
      { socket_id: "1.1::user::{}" },
      { socket_id: "1.1\n" },
      { socket_id: "1.1", filler: "x".repeat(1_048_577) },
    ] as Record<string, string>[]
  ) {
    const { status, body } = await askForUser(server.url, form);
    const label = JSON.stringify(form).slice(0, 80);
    assert(status >= 400 && status < 500, `${status} ${label}`);
    assertEquals(Object.keys(body), ["error"], label);
  }
  assertEquals(asked, 0);
  for (const method of ["GET", "PUT", "DELETE"]) {
    const url = `${server.url}/pusher/user-auth?socket_id=1.1`;
    const response = await fetch(url, { method });
    await response.body?.cancel();
    assert([404, 405].includes(response.status), method);
  }
  assertEquals(asked, 0);
  assertEquals(
    (await askForUser(server.url, { socket_id: "1.1" })).status,
    200,
  );
  assertEquals(asked, 1);
});

Deno.test("POST /pusher/user-auth is refused when authenticate fails, and the failure is reported", async () => {
  const answers: (() => unknown)[] = [
    () => {
      throw new Error("a detail");
    },
    () => Promise.reject(new Error("a detail")),
    () => ({}),
    () => ({ id: 7 }),
    () => ({ id: "" }),
    () => ({ id: "x".repeat(129) }),
    () => ({ user_id: "7" }),
    () => ({ id: "7", user_info: "text" }),
    () => ({ id: "7", n: 1n }),
    // These are merely no user; the others are faults of the program.
    () => "7",
    () => 7,
    () => true,
    () => undefined,
  ];
  await using server = serve({
    authenticate: (_request, { params }) =>
      answers[Number(params.get("which"))]?.() as UserData,
  });
  for (const which of answers.keys()) {
    const form = { socket_id: "1.1", which: String(which) };
    const { status, text, body } = await askForUser(server.url, form);
    assert(status === 403 || status === 500, `${which}: ${status} ${text}`);
    assertEquals(Object.keys(body), ["error"]);
    assert(!text.includes("a detail"), text);
    if (which >= answers.length - 4) continue;
    const { during } = await server.journal.next("error");
    assertMatch(during, /authenticat/);
  }
});

Deno.test("POST /pusher/user-auth answers pages of its own origin only, unless origins allows more", async () => {
  for (const isOpen of [false, true]) {
    await using server = serve({
      authenticate: () => ({ id: "7" }),
      ...(isOpen ? { origins: "https://a.example" } : {}),
    });
    const host = `127.0.0.1:${server.port}`;
    for (
      const [origin, isAllowed] of [
        [undefined, true],
        [`http://${host}`, true],
        ["https://a.example", isOpen],
        ["https://b.example", false],
        [`http://${host}.evil.test`, false],
        ["null", false],
      ] as const
    ) {
      const given = origin === undefined ? {} : { origin };
      const { status, headers } = await askForUser(
        server.url,
        { socket_id: "1.1" },
        given,
      );
      assertEquals(status, isAllowed ? 200 : 403, origin);
      const isCross = origin === "https://a.example" && isOpen;
      if (isCross) {
        assertEquals(headers.get("access-control-allow-origin"), origin);
        assertMatch(headers.get("vary") ?? "", /origin/i);
      } else if (!isAllowed) {
        assertEquals(headers.get("access-control-allow-origin"), null);
      }
      if (origin === undefined) continue;
      const preflight = await fetch(`${server.url}/pusher/user-auth`, {
        method: "OPTIONS",
        headers: {
          origin,
          "access-control-request-method": "POST",
          "access-control-request-headers": "content-type,x-csrf-token",
        },
      });
      await preflight.body?.cancel();
      const told = (name: string) =>
        preflight.headers.get(`access-control-allow-${name}`);
      if (!isCross) {
        if (!isAllowed) assertEquals(told("origin"), null, origin);
        continue;
      }
      assert(preflight.ok);
      assertEquals(told("origin"), origin);
      assertMatch(told("methods") ?? "", /POST/);
      assertMatch(told("headers") ?? "", /content-type/i);
      assertMatch(told("headers") ?? "", /x-csrf-token/i);
    }
  }
});
