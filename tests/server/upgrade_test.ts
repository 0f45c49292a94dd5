/**
 * The upgrade from HTTP to a WebSocket: the subprotocols that clients offer, and
 * sockets that never open because of what is around the handler.
 */
import { type Handler, Pusher } from "@glitz/pusher";
import { assertEquals, assertMatch } from "@std/assert";
import { Hono } from "hono";
import { browserTest, openPage } from "../support/browser.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { ManualClock, turn } from "../support/clock.ts";
import { APP, Journal, serve, type TestServer } from "../support/server.ts";
import { RawClient } from "../support/wire.ts";

const PREFIX = "pusher-channels-protocol-";

// ---- Subprotocols -----------------------------------------------------------

/** The subprotocol of an answer's head; null if it names none. */
function subprotocolOf(head: string): string | null {
  const names = head.matchAll(/^sec-websocket-protocol: *(.*)\r$/gim);
  const [first, ...more] = Array.from(names, ([, name = ""]) => name);
  assertEquals(more, [], "The answer names one subprotocol at most");
  return first ?? null;
}

Deno.test("the answer to an upgrade names the first offered subprotocol that the server speaks", async () => {
  await using server = serve();
  const table: [offers: string, answer: string | null][] = [
    [`${PREFIX}7`, `${PREFIX}7`],
    [`${PREFIX}6`, `${PREFIX}6`],
    [`${PREFIX}5`, `${PREFIX}5`],
    [`chat, ${PREFIX}6, ${PREFIX}7`, `${PREFIX}6`],
    [`chat,${PREFIX}7,other`, `${PREFIX}7`],
    [` \t${PREFIX}7 \t ,chat`, `${PREFIX}7`],
    [`${PREFIX}7, ${PREFIX}7`, `${PREFIX}7`],
    [`chat\r\nSec-WebSocket-Protocol: ${PREFIX}7`, `${PREFIX}7`],
    // Names that the server does not speak are ignored.
    ["chat", null],
    [`${PREFIX}4`, null],
    [`${PREFIX}8`, null],
    [`${PREFIX}70`, null],
    [`${PREFIX}7x`, null],
    [`X-${PREFIX}7`, null],
    [`${PREFIX.toUpperCase()}7`, null],
    [`${PREFIX}7 ${PREFIX}6`, null],
    // Malformed headers.
    [",", null],
    [", ,,\t,", null],
    [`,,${PREFIX}7`, `${PREFIX}7`],
    [`"${PREFIX}7"`, null],
    [`${PREFIX}7;q=1`, null],
    ["(){}[]<>@:/=?", null],
    ["\xff\xfe\x80", null],
    ["__proto__, constructor", null],
    [`chat,${" ".repeat(20_000)}x`, null],
    [`${",".repeat(20_000)}${PREFIX}7`, `${PREFIX}7`],
  ];
  for (const [offers, answer] of table) {
    const what = JSON.stringify(offers.slice(0, 100));
    using raw = await server.raw();
    // As bytes, so that a name may be no text.
    const request = [
      "GET /app/app-key?protocol=7 HTTP/1.1",
      "Host: a",
      "Upgrade: websocket",
      "Connection: Upgrade",
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
      `Sec-WebSocket-Protocol: ${offers}`,
    ].join("\r\n") + "\r\n\r\n";
    await raw.write(Uint8Array.from(request, (char) => char.charCodeAt(0)));
    const head = await raw.readHead();
    assertEquals(head.split(" ")[1], "101", what);
    assertEquals(subprotocolOf(head), answer, what);
    const { event } = await raw.readText();
    assertEquals(event, "pusher:connection_established", what);
  }
});

/** Connects with subprotocols; resolves with the chosen one and the first event. */
function open(url: string, offers: string | string[]): Promise<unknown[]> {
  const socket = new WebSocket(url, offers);
  const opened = new Promise<unknown[]>((resolve) => {
    socket.onmessage = ({ data }) => {
      const seen = [socket.protocol, JSON.parse(data).event];
      socket.onclose = () => resolve(seen);
      socket.close();
    };
    socket.onclose = ({ code }) => resolve([code]);
  });
  return within(DEADLINE_MS, "first frame", opened);
}

Deno.test("a client of Deno connects with a subprotocol, alone or in a list", async () => {
  await using server = serve();
  const url = `${server.wsUrl}/app/app-key?protocol=7`;
  const established = "pusher:connection_established";
  assertEquals(await open(url, `${PREFIX}7`), [`${PREFIX}7`, established]);
  assertEquals(
    await open(url, ["chat", `${PREFIX}5`, `${PREFIX}7`]),
    [`${PREFIX}5`, established],
  );
});

browserTest(
  "a page connects with a subprotocol, and reads why it is refused",
  async (browser) => {
    const page = () =>
      new Response("<!doctype html>", {
        headers: { "content-type": "text/html" },
      });
    await using server = serve({}, { after: [page] });
    const window = await openPage(browser, `${server.url}/`);
    const visit = async (path: string, offers: unknown) => {
      const seen = await window.page.evaluate(`new Promise((resolve) => {
        const socket = new WebSocket(
          "${server.wsUrl}${path}",
          ${JSON.stringify(offers)},
        );
        const seen = [];
        socket.onopen = () => seen.push(socket.protocol);
        socket.onmessage = ({ data }) => {
          seen.push(JSON.parse(data).event);
          socket.close();
        };
        socket.onclose = () => resolve(seen);
      })`);
      return seen as unknown[];
    };
    const path = "/app/app-key?protocol=7";
    const established = "pusher:connection_established";
    for (const offers of [`${PREFIX}7`, ["chat", `${PREFIX}6`, `${PREFIX}7`]]) {
      const chosen = typeof offers === "string" ? offers : `${PREFIX}6`;
      assertEquals(await visit(path, offers), [chosen, established]);
    }
    // No answer would be right: the page has asked for what the server cannot speak.
    assertEquals(await visit(path, "chat"), []);
    const refused = await visit("/app/nobody", `${PREFIX}7`);
    assertEquals(refused, [`${PREFIX}7`, "pusher:error"]);
    await window.page.close();
  },
);

Deno.test("a subprotocol names the protocol version where the query names none", async () => {
  await using server = serve({ strictProtocol: true });
  const established = "pusher:connection_established";
  const visit = (query: string, offers: string[]) =>
    open(`${server.wsUrl}/app/app-key${query}`, offers);
  assertEquals(await visit("", [`${PREFIX}5`]), [`${PREFIX}5`, established]);
  assertEquals(
    await visit("", ["chat", `${PREFIX}7`]),
    [`${PREFIX}7`, established],
  );
  // The query has the last word.
  assertEquals(
    await visit("?protocol=6", [`${PREFIX}7`]),
    [`${PREFIX}7`, established],
  );
  for (
    const [query, headers, code] of [
      ["", {}, 4008],
      ["", { "sec-websocket-protocol": `chat, ${PREFIX}8` }, 4008],
      ["?protocol=3", { "sec-websocket-protocol": `${PREFIX}7` }, 4007],
      ["?protocol=x", { "sec-websocket-protocol": `${PREFIX}7` }, 4006],
    ] as const
  ) {
    assertEquals((await server.turnsAway({ query, headers })).code, code);
  }
});

// ---- Sockets that never open ------------------------------------------------

const PATH = "/app/app-key?protocol=7";

const APP_OPTIONS = { appId: APP.id, key: APP.key, secret: APP.secret };

/** What hands the handler a request that is not the runtime's own. */
const COPIES: Record<string, (handler: Handler) => Handler> = {
  "request.clone()": (handler) => (request) => handler(request.clone(), {}),
  "new Request(request)": (handler) => (request) =>
    handler(new Request(request), {}),
  "new Request(url, request)": (handler) => (request) =>
    handler(new Request(request.url, request), {}),
  "hono.mount()": (handler) => {
    // Handlers differ in what they pass on, and this one never returns null.
    const mounted = handler as (request: Request) => Promise<Response>;
    return new Hono().mount("/", mounted).fetch;
  },
};

for (const [what, wrap] of Object.entries(COPIES)) {
  Deno.test(`a socket of ${what} is reported after 5 seconds, and counts nowhere`, async () => {
    const clock = new ManualClock();
    const wrapped: Handler = (request) =>
      new URL(request.url).searchParams.has("copied")
        ? wrap(server.pusher.handler)(request, {})
        : null;
    const server: TestServer = serve({ clock, limits: { sockets: 1 } }, {
      before: [wrapped],
    });
    await using _server = server;
    const { journal, pusher } = server;
    using raw = await server.raw();
    assertMatch(await raw.upgrade(`${PATH}&copied`), /^HTTP\/1.1 101 /);
    await clock.passInSteps(4_999);
    assertEquals(journal.drain("error"), []);
    clock.pass(1);
    const { app, during, error } = await journal.next("error");
    assertEquals([app, during], [APP.id, "opening a socket"]);
    assertMatch(error.message, /copy of the request.*c\.req\.raw.*hono\.mount/);
    assertEquals(journal.calls(), ["error"]);
    assertEquals(pusher.stats().connections, 0);
    assertEquals(clock.waiting, 0);
    // There is still room for a socket. And another copy is reported, too.
    await using client = await server.connect();
    using other = await server.raw();
    await other.upgrade(`${PATH}&copied`);
    await clock.passInSteps(5_000);
    await journal.next("error");
    await client.silence();
  });
}

Deno.test("close does not wait for sockets that do not open, and keeps no timer for them", async () => {
  const clock = new ManualClock();
  const copy: Handler = (request) => server.pusher.handler(request.clone());
  const server: TestServer = serve({ clock }, { before: [copy] });
  await using _server = server;
  using raw = await server.raw();
  assertMatch(await raw.upgrade(PATH), /^HTTP\/1.1 101 /);
  // Any wait would be one by this clock, which stands still.
  await within(DEADLINE_MS, "end of close", server.pusher.close());
  assertEquals(clock.waiting, 0);
  using late = await server.raw();
  assertMatch(await late.upgrade(PATH), /^HTTP\/1.1 101 /);
  assertEquals(clock.waiting, 0);
});

Deno.test("a socket whose answer is late is reported, and opens all the same", async () => {
  const clock = new ManualClock();
  const { promise, resolve } = Promise.withResolvers<void>();
  const upgraded = Promise.withResolvers<void>();
  const slow: Handler = async (request) => {
    const response = await server.pusher.handler(request);
    upgraded.resolve();
    await promise;
    return response;
  };
  const server: TestServer = serve({ clock }, { before: [slow] });
  await using _server = server;
  await using client = server.dial();
  await within(DEADLINE_MS, "upgrade", upgraded.promise);
  await clock.passInSteps(5_000);
  const { error } = await server.journal.next("error");
  assertMatch(error.message, /client had gone.*thrown or returned another/);
  resolve();
  await client.established();
  await client.silence();
});

/** What spoils the answer of the handler. */
const SPOILERS: Record<string, (answer: Response) => Response> = {
  "is replaced": () => new Response("another answer"),
  "is lost in an exception": () => {
    throw new Error("after the handler");
  },
};

for (const [what, spoil] of Object.entries(SPOILERS)) {
  const name = `a socket whose answer ${what} is reported after 5 seconds`;
  // The runtime itself never completes such an upgrade.
  Deno.test({ name, sanitizeOps: false }, async () => {
    const clock = new ManualClock();
    await using pusher = new Pusher({ ...APP_OPTIONS, clock });
    const journal = new Journal();
    journal.listen(pusher);
    const served = Promise.withResolvers<void>();
    await using server = Deno.serve({
      hostname: "127.0.0.1",
      port: 0,
      onListen() {},
      onError: () => new Response("failed", { status: 500 }),
    }, async (request) => {
      const answer = await pusher.handler(request);
      served.resolve();
      return spoil(answer);
    });
    using raw = await RawClient.connect(server.addr.port);
    const head = raw.upgrade(PATH).catch(() => "");
    await within(DEADLINE_MS, "answer", served.promise);
    await clock.passInSteps(5_000);
    const { app, during, error } = await journal.next("error");
    assertEquals([app, during], [APP.id, "opening a socket"]);
    assertMatch(error.message, /another answer.*Deno\.serve stops listening/);
    assertEquals(pusher.stats().connections, 0);
    assertEquals(clock.waiting, 0);
    raw.drop();
    await head;
  });
}

Deno.test("a socket that opens in time is never reported", async () => {
  const clock = new ManualClock();
  await using server = serve({ clock });
  await using client = await server.connect();
  assertEquals((await server.turnsAway({ query: "?protocol=3" })).code, 4007);
  await clock.passInSteps(6_000);
  await turn();
  assertEquals(server.journal.drain("error"), []);
  await client.silence();
});

// ---- Hono -------------------------------------------------------------------

/** Ways to serve Pusher in a program of Hono. */
const IN_HONO: Record<string, (pusher: Pusher) => Handler> = {
  "all and c.req.raw": (pusher) =>
    new Hono().all("/app/*", (c) => pusher.handler(c.req.raw)).fetch,
  "mount with replaceRequest: false": (pusher) =>
    new Hono().mount("/", pusher.handler, { replaceRequest: false }).fetch,
  "a cascade": (pusher) =>
    pusher.cascade(
      pusher.handler,
      new Hono().get("/", (c) => c.text("x")).fetch,
    ),
  "middleware that adds a header": (pusher) =>
    new Hono().use(async (c, next) => {
      await next();
      c.header("x-powered-by", "us");
    }).all("/app/*", (c) => pusher.handler(c.req.raw)).fetch,
  "middleware that copies the answer": (pusher) =>
    new Hono().all("/app/*", async (c) => {
      const answer = await pusher.handler(c.req.raw);
      return new Response(answer.body, answer);
    }).fetch,
};

for (const [what, handlerOf] of Object.entries(IN_HONO)) {
  Deno.test(`Hono opens sockets with ${what}`, async () => {
    const clock = new ManualClock();
    const inHono: Handler = (request) => handlerOf(server.pusher)(request, {});
    const server: TestServer = serve({ clock }, { before: [inHono] });
    await using _server = server;
    await using client = await server.connect();
    await client.join("news");
    await clock.passInSteps(6_000);
    assertEquals(server.journal.drain("error"), []);
    await client.silence();
  });
}
