/**
 * Several handlers behind one address: two servers, the program's own sockets, and
 * who answers a client that names no app of any of them.
 */
import { type Handler, Pusher, type PusherOptions } from "@glitz/pusher";
import {
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Hono } from "hono";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { Client, read, signedRequest } from "../support/server.ts";
import { type App, channelAuth } from "../support/wire.ts";

const A: App = { id: "1", key: "key-a", secret: "secret-a" };
const B: App = { id: "2", key: "key-b", secret: "secret-b" };

/** A server of one app, for a cascade. */
function serverOf({ id, key, secret }: App, options: PusherOptions = {}) {
  const authorize = () => true;
  return new Pusher({ appId: id, key, secret, authorize, ...options });
}

/** Serves a handler on a port of its own. */
function listen(handler: ReturnType<typeof Pusher.cascade>) {
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    handler,
  );
  const host = `127.0.0.1:${server.addr.port}`;
  return {
    host,
    dial: (app: App) =>
      new Client(`ws://${host}/app/${app.key}?protocol=7`, app),
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** Echoes on a socket of the program's own. */
const echo: Handler = (request) => {
  if (new URL(request.url).pathname !== "/app/echo") return null;
  const { socket, response } = Deno.upgradeWebSocket(request);
  socket.onmessage = ({ data }) => socket.send(data);
  return response;
};

/** The status with which a socket is refused before it opens. */
async function refusedStatus(host: string, path: string): Promise<string> {
  const [hostname = "", port] = host.split(":");
  const connection = await Deno.connect({ hostname, port: Number(port) });
  const lines = [
    `GET ${path} HTTP/1.1`,
    `Host: ${host}`,
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
  ];
  await connection.write(
    new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`),
  );
  const buffer = new Uint8Array(4096);
  const count = await within(DEADLINE_MS, "head", connection.read(buffer));
  connection.close();
  return new TextDecoder().decode(buffer.subarray(0, count ?? 0));
}

// ---- Two servers ------------------------------------------------------------

Deno.test("two servers in one cascade serve the sockets of their own keys", async () => {
  await using a = serverOf(A);
  await using b = serverOf(B);
  for (
    const handler of [
      Pusher.cascade(a.handler, b.handler),
      a.cascade(a.handler, a.cascade(b.handler)),
      a.cascade(a.cascade(a.handler), b.handler, () => new Response("page")),
    ]
  ) {
    await using server = listen(handler);
    for (const [app, pusher] of [[A, a], [B, b]] as const) {
      await using client = server.dial(app);
      await client.established();
      await client.join("news");
      await pusher.trigger("news", "hello", app.id);
      assertEquals((await client.next("hello")).data, app.id);
    }
  }
});

Deno.test("two servers in one cascade serve the requests of their own apps", async () => {
  await using a = serverOf(A);
  await using b = serverOf(B);
  const handler = Pusher.cascade(a.handler, b.handler);
  const refused: unknown[] = [];
  for (const pusher of [a, b]) {
    pusher.on("refused", (event) => refused.push(event));
  }
  for (const app of [A, B]) {
    const request = signedRequest("http://a", "POST", "/events", {
      app,
      body: { name: "e", channel: "news", data: "" },
    });
    assertEquals((await read(await handler(request))).status, 200);
    for (const name of [app.key, app.id]) {
      const answer = await read(
        await handler(
          new Request(`http://a/pusher/auth/${name}`, {
            method: "POST",
            body: new URLSearchParams({
              socket_id: "1.1",
              channel_name: "private-a",
            }),
          }),
        ),
      );
      assertEquals(answer.body, { auth: channelAuth(app, "1.1", "private-a") });
    }
  }
  await new Promise((resolve) => setTimeout(resolve, 0));
  assertEquals(refused, []);
  const nobody = signedRequest("http://a", "POST", "/events", {
    app: { ...A, id: "3" },
    body: { name: "e", channel: "news", data: "" },
  });
  assertEquals((await read(await handler(nobody))).status, 404);
});

// ---- Keys that nobody has ---------------------------------------------------

Deno.test("a socket whose key no handler knows is closed with 4001, once", async () => {
  await using a = serverOf(A);
  await using b = serverOf(B);
  const refused: unknown[] = [];
  for (const pusher of [a, b]) {
    pusher.on("refused", ({ code }) => refused.push(code));
  }
  const page: Handler = () => new Response("page");
  const moved: Handler = (request) => Response.redirect(request.url);
  const nothing: Handler = () => new Response("nothing", { status: 404 });
  const handlers = [
    a.handler,
    Pusher.cascade(a.handler),
    Pusher.cascade(a.handler, b.handler),
    Pusher.cascade(a.handler, echo),
    // A program that has a page for every path.
    Pusher.cascade(a.handler, page),
    Pusher.cascade(a.handler, moved, nothing, b.handler),
    Pusher.cascade(Pusher.cascade(a.handler, page), nothing),
  ];
  for (const handler of handlers) {
    await using server = listen((request) => Promise.resolve(handler(request)));
    await using client = server.dial({ ...A, key: "nobody" });
    assertEquals((await client.turnedAway()).code, 4001);
  }
  assertEquals(refused, handlers.map(() => 4001));
});

Deno.test("a program has sockets of its own below /app/, behind the server", async () => {
  await using a = serverOf(A);
  for (
    const handler of [
      Pusher.cascade(a.handler, echo),
      Pusher.cascade(a.handler, () => new Response("page"), echo),
    ]
  ) {
    await using server = listen(handler);
    const socket = new WebSocket(`ws://${server.host}/app/echo`);
    const { promise, resolve } = Promise.withResolvers<unknown>();
    socket.onopen = () => socket.send("hello");
    socket.onmessage = ({ data }) => {
      socket.onclose = () => resolve(data);
      socket.close();
    };
    assertEquals(await within(DEADLINE_MS, "echo", promise), "hello");
  }
});

Deno.test("a program may refuse a socket of its own below /app/", async () => {
  await using a = serverOf(A);
  const refuse: Handler = () => new Response("log in first", { status: 401 });
  await using server = listen(Pusher.cascade(a.handler, refuse));
  const head = await refusedStatus(server.host, "/app/echo");
  assertMatch(head, /^HTTP\/1.1 401 /);
  assertStringIncludes(head, "log in first");
});

Deno.test("an answer that is passed over may have a body that cannot be cancelled", async () => {
  await using a = serverOf(A);
  const missing = { status: 404 };
  const failing: Handler = () => {
    const cancel = () => Promise.reject(new Error("it does not stop"));
    return new Response(new ReadableStream({ cancel }), missing);
  };
  const read404: Handler = async () => {
    const answer = new Response("logged", missing);
    await answer.text();
    return answer;
  };
  const locked: Handler = () => {
    const answer = new Response("kept", missing);
    answer.body?.getReader();
    return answer;
  };
  for (const handler of [failing, read404, locked]) {
    const served = Pusher.cascade(
      a.handler,
      handler,
      () => new Response("mine"),
    );
    const answer = await read(await served(new Request("http://a/elsewhere")));
    assertEquals([answer.status, answer.text], [200, "mine"], handler.name);
    await using server = listen(Pusher.cascade(a.handler, handler));
    await using client = server.dial({ ...A, key: "nobody" });
    assertEquals((await client.turnedAway()).code, 4001, handler.name);
  }
});

Deno.test("a request that is handed to one cascade after the other is served by the last", async () => {
  await using a = serverOf(A);
  await using b = serverOf(B);
  const [first, second] = [a, b].map(({ handler }) => Pusher.cascade(handler));
  const page = new Request("http://a/elsewhere");
  assertEquals((await read(await first!(page))).status, 404);
  assertEquals((await read(await second!(page))).status, 404);
});

Deno.test("a call of the HTTP API that no handler serves says why, whatever follows", async () => {
  await using a = serverOf(A);
  await using b = serverOf(B);
  const page: Handler = () => new Response("no such page", { status: 404 });
  for (
    const handler of [
      Pusher.cascade(a.handler, b.handler, page),
      Pusher.cascade(Pusher.cascade(a.handler, b.handler), page),
      Pusher.cascade(page, a.handler, b.handler, page),
    ]
  ) {
    await using server = listen(handler);
    const call = (app: App, path: string) =>
      fetch(signedRequest(`http://${server.host}`, "GET", path, { app }))
        .then(read);
    const answer = await call({ ...A, id: "3" }, "/channels");
    assertEquals(answer.status, 404);
    assertMatch(answer.body.error, /^No app has the id "3"/);
    for (const app of [A, B]) {
      assertEquals((await call(app, "/channels")).status, 200);
    }
    // A page of the program's own may be there, and its 404 is its own.
    const own = await read(
      await fetch(`http://${server.host}/apps/3/channels`),
    );
    assertEquals([own.status, own.text], [404, "no such page"]);
  }
  const named = Pusher.cascade(
    a.handler,
    (request) => new Response(new URL(request.url).pathname),
  );
  const path = "/apps/3/channels?auth_key=key";
  const served = await read(await named(new Request(`http://a${path}`)));
  assertEquals([served.status, served.text], [200, "/apps/3/channels"]);
});

Deno.test("an app that an auth endpoint does not have is named, whatever follows", async () => {
  await using a = serverOf(A);
  const served = Pusher.cascade(
    a.handler,
    () => new Response("no such page", { status: 404 }),
  );
  const request = new Request("http://a/pusher/auth/nobody", {
    method: "POST",
    body: new URLSearchParams({ socket_id: "1.1", channel_name: "private-a" }),
  });
  const { status, body } = await read(await served(request));
  assertEquals([status, body], [
    404,
    { error: 'No app has the key or id "nobody"' },
  ]);
});

// ---- Mistakes ---------------------------------------------------------------

/** Anything that looks like an application. */
const mistaken = (value: unknown) => value as Handler;

Deno.test("cascade says what is no handler, and what to pass instead", async () => {
  await using pusher = serverOf(A);
  const express = Object.assign(() => {}, { use() {}, listen() {} });
  class Page {}
  const cases: [value: unknown, message: RegExp][] = [
    [undefined, /is undefined, and must be a function that takes a Request/],
    [null, /is null, and must be a function that takes a Request/],
    ["./app.ts", /is "\.\/app\.ts", and must be a function/],
    [{}, /is an object, .* pass a function that takes a Request/],
    [new Response("page"), /is a Response, .* a function that returns it/],
    [Promise.resolve(() => null), /is a promise, .* await the promise first/],
    [[() => null], /is an array, .* as in cascade\(\.\.\.handlers\)/],
    [new Hono(), /is an object, .* cascade\(Pusher\.handler, app\.fetch\)/],
    [{ fetch: () => new Response() }, /pass its fetch method/],
    [pusher, /is an object, .* pass its handler, .*pusher\.handler/],
    [Pusher, /is the class Pusher, .* pass Pusher\.handler/],
    [Page, /is the class Page, .* pass a function that takes a Request/],
    [{ handler: () => () => null }, /pass what its handler method returns/],
    [express, /is an application for the HTTP server of Node, such as Express/],
    [{ use() {}, listen() {}, handler(_req: 1, _res: 2) {} }, /server of Node/],
  ];
  for (const [value, message] of cases) {
    for (const cascade of [Pusher.cascade, pusher.cascade]) {
      const error = assertThrows(
        () => cascade(pusher.handler, mistaken(value)),
        TypeError,
      );
      assertMatch(error.message, /^Cannot make a cascade: handler 2 is /);
      assertMatch(error.message, message);
    }
  }
  const app = new Hono().get("/", (c) => c.text("hello"));
  const served = Pusher.cascade(pusher.handler, app.fetch);
  assertEquals(await (await served(new Request("http://a/"))).text(), "hello");
});

Deno.test("cascade names the handler that returns anything but a Response", async () => {
  await using pusher = serverOf(A);
  for (const value of ["text", 5, true, { status: 200 }, () => null]) {
    const served = Pusher.cascade(pusher.handler, mistaken(() => value));
    const error = await assertRejects(
      () => served(new Request("http://a/")),
      TypeError,
    );
    assertMatch(
      error.message,
      /^Cannot answer a request: handler 2 of the cascade returned .*, and must return a Response, or null /,
    );
  }
});

Deno.test("a handler that gets no Request says so, and what to pass on from Hono", async () => {
  const app = new Hono();
  await using pusher = serverOf(A);
  const errors: string[] = [];
  pusher.on("error", ({ error }) => errors.push(String(error)));
  app.all("*", (c) => {
    const context = c as unknown as Request;
    return pusher.handler(context);
  });
  const node = { url: "/pusher.js", method: "GET", headers: {} };
  const answers = [
    await app.fetch(new Request("http://a/pusher.js")),
    await pusher.handler(node as unknown as Request),
    await pusher.handler(undefined as unknown as Request),
  ];
  for (const answer of answers) assertEquals(answer.status, 500);
  assertEquals(errors, [
    "TypeError: Cannot handle a request: the handler got an object, and must " +
    "get the Request of Deno.serve, which is c.req.raw in Hono",
    "TypeError: Cannot handle a request: the handler got an object, and must " +
    "get the Request of Deno.serve",
    "TypeError: Cannot handle a request: the handler got undefined, and must " +
    "get the Request of Deno.serve",
  ]);
});
