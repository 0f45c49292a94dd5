/**
 * Several handlers behind one address: two servers, the program's own sockets, and
 * who answers a client that names no app of any of them.
 */
import { type Handler, Pusher, type PusherOptions } from "@glitz/pusher";
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
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
