/**
 * Whole clients over HTTP streaming and polling: stock clients, in Deno and in a
 * browser, and our own client, behind networks that lose requests and answers.
 */
import {
  assert,
  assertArrayIncludes,
  assertEquals,
  assertLess,
  assertMatch,
  assertObjectMatch,
} from "@std/assert";
import type { PusherOptions } from "@glitz/pusher";
import { Pusher as OwnClient } from "@glitz/pusher/client";
import webBuild from "npm:pusher-js@8.6.0/dist/web/pusher.js" with {
  type: "text",
};
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { browserTest, openPage } from "../support/browser.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { serveHttp } from "../support/fallback.ts";
import { APP, type Client, type TestServer } from "../support/server.ts";
import { channelAuth, dataOf } from "../support/wire.ts";
import { FaultProxy } from "../support/proxy.ts";
import { Inbox } from "../support/queue.ts";
import {
  authorizedBy,
  sdk,
  StockClient,
  type StockMember,
  type StockOptions,
} from "../support/stock.ts";

// ---- Stock clients ----------------------------------------------------------

const TRANSPORTS = ["xhr_streaming", "xhr_polling"] as const;

/** How pusher-js is told of a server whose WebSockets it cannot reach. */
function over(
  { port }: Pick<TestServer, "port">,
  transport: typeof TRANSPORTS[number],
  options: StockOptions = {},
): StockOptions {
  return {
    httpHost: "127.0.0.1",
    httpPort: port,
    enabledTransports: [transport],
    ...options,
  };
}

/** Everything that a stock client needs of a server, and short absences. */
function serveStock(options: PusherOptions = {}): TestServer {
  return serveHttp({ clientEvents: true, ...options }, { absenceMs: 500 });
}

const ANN: StockMember = { user_id: "ann", user_info: { name: "Ann" } };
const BOB: StockMember = { user_id: "bob", user_info: { name: "Bob" } };

for (const transport of TRANSPORTS) {
  Deno.test(`pusher-js over ${transport} connects and hears of what is published`, async () => {
    await using server = serveStock();
    using client = new StockClient(server, over(server, transport));
    const news = await client.join("news");
    assertMatch(client.socketId, /^\d+\.\d+$/);
    for (const value of [{ a: [1, "zoë ✓"] }, "text", 12]) {
      await sdk(server).trigger("news", "create", value);
      assertEquals(await news.until("create"), [["create", value]]);
    }
  });

  Deno.test(`pusher-js over ${transport} joins private and presence channels, and sends`, async () => {
    await using server = serveStock();
    const signer = sdk(server);
    using ann = new StockClient(
      server,
      over(server, transport, authorizedBy(signer, ANN)),
    );
    using bob = new StockClient(server, authorizedBy(signer, BOB));
    const room = await ann.join("presence-room");
    assertEquals(ann.presence("presence-room").members.myID, "ann");
    const other = await bob.join("presence-room");
    assertEquals(await room.data("pusher:member_added"), {
      id: "bob",
      info: { name: "Bob" },
    });
    for (const { pusher } of [ann, bob]) {
      pusher.channel("presence-room").trigger("client-hi", { n: 1 });
    }
    assertEquals(await room.data("client-hi"), { n: 1 });
    assertEquals(await other.data("client-hi"), { n: 1 });
    await ann.join("private-room");
    await signer.trigger("private-room", "create", 1);

    ann.pusher.disconnect();
    assertObjectMatch(
      await other.data("pusher:member_removed") as object,
      { id: "ann" },
    );
  });

  Deno.test(`pusher-js over ${transport} signs in and hears what its user is told`, async () => {
    await using server = serveStock();
    const signer = sdk(server);
    using client = new StockClient(
      server,
      over(server, transport, {
        userAuthentication: {
          customHandler: ({ socketId }, callback) =>
            callback(null, signer.authenticateUser(socketId, { id: "ann" })),
        },
      }),
    );
    const told = Promise.withResolvers<unknown>();
    client.pusher.user.bind("hi", told.resolve);
    client.pusher.signin();
    await within(
      DEADLINE_MS,
      "sign-in",
      client.pusher.user.signinDonePromise ?? Promise.resolve(),
    );
    await signer.sendToUser("ann", "hi", { x: 1 });
    assertEquals(await within(DEADLINE_MS, "hi", told.promise), { x: 1 });
  });

  Deno.test(`pusher-js over ${transport} gets 200 frames of 9 kB at once, in order`, async () => {
    await using server = serveStock({ limits: { bufferedBytes: 4_000_000 } });
    using client = new StockClient(server, over(server, transport));
    const news = await client.join("news");
    const pad = "x".repeat(9_000);
    for (let n = 0; n < 200; n++) {
      server.pusher.trigger("news", "next", { n, pad });
    }
    await server.pusher.trigger("news", "last", 1);
    const events = await news.until("last");
    assertEquals(
      events.slice(0, -1).map(([, data]) => Object(data).n),
      Array.from({ length: 200 }, (_, n) => n),
    );
    assertEquals(server.journal.calls("disconnected"), []);
  });

  Deno.test(`pusher-js over ${transport} sends 100 frames at once, and all arrive`, async () => {
    await using server = serveStock();
    using client = new StockClient(server, over(server, transport));
    await client.connection.until("connected");
    const names = Array.from({ length: 100 }, (_, n) => `channel-${n}`);
    const inboxes = names.map((name) => client.subscribe(name));
    for (const inbox of inboxes) {
      await inbox.until("pusher:subscription_succeeded");
    }
  });

  Deno.test(`pusher-js over ${transport} is disconnected with 4001 for an unknown key, at once`, async () => {
    await using server = serveStock();
    using client = new StockClient(server, over(server, transport), "no-key");
    const events = await client.connection.until("disconnected");
    assertObjectMatch(Object.fromEntries(events).error as object, {
      type: "WebSocketError",
      error: { type: "PusherError", data: { code: 4001 } },
    });
    assertEquals(client.retryDelays, []);
  });

  Deno.test(`pusher-js over ${transport} comes back at once after 4200, subscribed`, async () => {
    await using server = serveStock();
    await using successor = serveStock();
    let target: TestServer = server;
    await using front = proxy(() => target);
    using client = new StockClient(front, over(front, transport));
    const news = await client.join("news");
    await client.connection.until("connected");
    target = successor;
    await server.pusher.close();
    await client.connection.until("connected");
    // Otherwise it waits a second.
    assertEquals(client.retryDelays[0], 0);
    await news.until("pusher:subscription_succeeded");
    await successor.pusher.trigger("news", "create", 1);
    assertEquals(await news.data("create"), 1);
  });

  Deno.test(`pusher-js over ${transport} with a session path is told all it has missed`, async () => {
    await using server = serveStock();
    await using front = await FaultProxy.open({ port: server.port });
    using client = new StockClient(
      front,
      over(front, transport, { httpPath: `/r/${crypto.randomUUID()}/pusher` }),
    );
    const numbers: number[] = [];
    client.pusher.bind("next", (n: number) => {
      // It may be told again what it has not acknowledged.
      if (!numbers.includes(n)) numbers.push(n);
    });
    const news = await client.join("news");
    await server.pusher.trigger("news", "next", 1);
    await news.until("next");
    await front.clear("reset");
    for (let n = 2; n < 6; n++) await server.pusher.trigger("news", "next", n);
    await until(() => numbers.length === 5);
    assertEquals(numbers, [1, 2, 3, 4, 5]);
  });

  Deno.test(`pusher-js over ${transport} asks for a line, and does not go on asking`, async () => {
    const actions: string[] = [];
    const note = ({ url }: Request) => {
      const action = url.split(/[/?]/).find((part) => part.startsWith("xhr"));
      if (action !== undefined) actions.push(action);
      return null;
    };
    await using server = serveHttp({ activityTimeoutMs: 1_000 }, {}, [note]);
    using client = new StockClient(server, over(server, transport));
    await client.connection.until("connected");
    const pinged = () => actions.filter((name) => name === "xhr_send").length;
    await until(() => pinged() === 3);
    const state = client.pusher.connection.state;
    assertEquals(state, "connected");
    // One request for each ping and one for its answer, and the first two.
    assertLess(actions.length, 2 + 2 * 3 + 1);
  });
}

/** Waits until a condition holds that no event tells of. */
async function until(holds: () => boolean): Promise<void> {
  const startedAt = performance.now();
  while (!holds()) {
    assertLess(performance.now() - startedAt, DEADLINE_MS);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/**
 * A proxy as there are many: it knows nothing of upgrades, and requests that have
 * all but the last part of their path in common go to one server.
 */
function proxy(
  target: () => Pick<TestServer, "port">,
  requests: string[] = [],
) {
  const ports = new Map<string, number>();
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    async (request) => {
      const { pathname, search } = new URL(request.url);
      requests.push(pathname);
      if (request.headers.has("upgrade")) {
        return new Response("Bad request", { status: 400 });
      }
      const session = pathname.replace(/[^/]+$/, "");
      const port = ports.get(session) ?? target().port;
      ports.set(session, port);
      const { method, headers, body } = request;
      const url = `http://127.0.0.1:${port}${pathname}${search}`;
      return await fetch(url, { method, headers, body });
    },
  );
  return {
    port: server.addr.port,
    async [Symbol.asyncDispose]() {
      await server.shutdown();
    },
  };
}

Deno.test("pusher-js behind a proxy that refuses Upgrade falls back by itself", async () => {
  await using server = serveStock();
  const requests: string[] = [];
  await using front = proxy(() => server, requests);
  using client = new StockClient(front, {
    wssPort: front.port,
    httpHost: "127.0.0.1",
    httpPort: front.port,
    enabledTransports: ["ws", "xhr_streaming", "xhr_polling"],
  });
  const news = await client.join("news");
  await server.pusher.trigger("news", "create", 1);
  assertEquals(await news.data("create"), 1);
  assertArrayIncludes(requests, ["/app/app-key"]);
  assert(requests.some((path) => path.endsWith("/xhr_streaming")));
});

// ---- Our own client ---------------------------------------------------------

/** Resolves when an emitter says something, with its data. */
function told(
  emitter: ConstructorParameters<typeof Inbox>[0],
  event: string,
): Promise<unknown> {
  return new Inbox(emitter).data(event);
}

/** A client of our own that uses some transports. */
function ownClient(
  { port }: Pick<TestServer, "port">,
  enabledTransports: string[],
) {
  const endpoint = (name: string) => `http://127.0.0.1:${port}/pusher/${name}`;
  const pusher = new OwnClient(APP.key, {
    wsHost: "127.0.0.1",
    wsPort: port,
    forceTLS: false,
    enabledTransports,
    channelAuthorization: { endpoint: endpoint("auth") },
    userAuthentication: { endpoint: endpoint("user-auth") },
  });
  return {
    pusher,
    [Symbol.dispose]: () => pusher.disconnect(),
  };
}

for (const transport of TRANSPORTS) {
  Deno.test(`client.ts over ${transport} joins, hears, sends and signs in`, async () => {
    await using server = serveStock({
      authorize: () => ({ user_id: "ann" }),
      authenticate: () => ({ id: "ann" }),
    });
    using client = ownClient(server, [transport]);
    const { pusher } = client;
    const room = pusher.subscribe("presence-room");
    await told(room, "pusher:subscription_succeeded");
    assertEquals(pusher.connection.transport.name, transport);
    assertEquals(room.members.myID, "ann");

    await using socket = await server.connect();
    await socket.join("presence-room", { member: { user_id: "bob" } });
    const hi = told(room, "client-hi");
    socket.send({ event: "client-hi", channel: "presence-room", data: 1 });
    assertEquals(await hi, 1);
    room.trigger("client-ho", { n: 2 });
    assertEquals(dataOf(await socket.next("client-ho")), { n: 2 });

    const order = told(pusher.user, "order");
    const signedIn = told(pusher, "pusher:signin_success");
    pusher.signin();
    await signedIn;
    await server.pusher.sendToUser("ann", "order", 7);
    assertEquals(await order, 7);
  });

  Deno.test(`client.ts over ${transport} gets 200 frames of 9 kB at once, in order`, async () => {
    await using server = serveStock({ limits: { bufferedBytes: 4_000_000 } });
    using client = ownClient(server, [transport]);
    const news = client.pusher.subscribe("news");
    const numbers: number[] = [];
    news.bind("next", ({ n }) => numbers.push(n));
    await told(news, "pusher:subscription_succeeded");
    const pad = "x".repeat(9_000);
    for (let n = 0; n < 200; n++) {
      server.pusher.trigger("news", "next", { n, pad });
    }
    const last = told(news, "last");
    server.pusher.trigger("news", "last", 1);
    await last;
    assertEquals(numbers, Array.from({ length: 200 }, (_, n) => n));
    assertEquals(server.journal.calls("disconnected"), []);
  });

  Deno.test(`client.ts over ${transport} misses nothing that is sent while its network is gone`, async () => {
    await using server = serveStock();
    await using front = await FaultProxy.open({ port: server.port });
    using client = ownClient(front, [transport]);
    const news = client.pusher.subscribe("news");
    const numbers: number[] = [];
    news.bind("next", (n) => numbers.push(n));
    await told(news, "pusher:subscription_succeeded");
    await server.pusher.trigger("news", "next", 0);
    await until(() => numbers.length === 1);
    await front.clear("reset");
    for (let n = 1; n < 5; n++) await server.pusher.trigger("news", "next", n);
    await until(() => numbers.length >= 5);
    assertEquals(numbers, [0, 1, 2, 3, 4]);
  });
}

Deno.test("client.ts behind a proxy that refuses Upgrade falls back by itself", async () => {
  await using server = serveStock();
  await using front = proxy(() => server);
  using client = ownClient(front, ["ws", "xhr_streaming", "xhr_polling"]);
  const news = client.pusher.subscribe("news");
  await told(news, "pusher:subscription_succeeded");
  assertEquals(client.pusher.connection.transport.name, "xhr_streaming");
  const created = told(news, "create");
  await server.pusher.trigger("news", "create", 1);
  assertEquals(await created, 1);
});

Deno.test("client.ts over HTTP is stopped for good by 4009, whatever it is sending", async () => {
  await using server = serveStock({ authenticate: () => ({ id: "ann" }) });
  using client = ownClient(server, ["xhr_streaming"]);
  const { pusher } = client;
  pusher.signin();
  await told(pusher, "pusher:signin_success");
  const stopped = told(pusher.connection, "disconnected");
  await server.pusher.terminateUserConnections("ann");
  for (let n = 0; n < 5; n++) pusher.send_event("pusher:ping", {});
  await stopped;
  assertEquals(pusher.connection.state, "disconnected");
});

// ---- Answers that get lost --------------------------------------------------
// Deno and browsers send a request again by themselves when its connection breaks
// that they have used before. Node does not, and stock clients in Deno open another
// connection for each request: so these are put to the test in a browser.

/**
 * A network that passes on requests and loses answers: those to each first POST of
 * an address on a connection that was used before, which ends with a reset.
 */
class LossyFront implements AsyncDisposable {
  /** What the requests asked for whose answers were lost. */
  readonly lost: string[] = [];
  readonly #target: number;
  readonly #seen = new Set<string>();
  readonly #sockets = new Set<Socket>();
  readonly #listener: Server;

  private constructor(listener: Server, target: number) {
    this.#listener = listener;
    this.#target = target;
    listener.on("connection", (socket) => this.#accept(socket));
  }

  static async open({ port }: Pick<TestServer, "port">): Promise<LossyFront> {
    const listener = createServer();
    const front = new LossyFront(listener, port);
    listener.listen(0, "127.0.0.1");
    await once(listener, "listening");
    return front;
  }

  get port(): number {
    // A listener on a port has an address that is no path.
    return (this.#listener.address() as { port: number }).port;
  }

  #accept(client: Socket): void {
    const server = connect({ host: "127.0.0.1", port: this.#target });
    let requests = 0;
    let url: string | undefined;
    client.on("data", (chunk) => {
      // A client begins no request before the last one has been answered.
      const [, method, target] = /^([A-Z]+) (\S+) HTTP/.exec(`${chunk}`) ?? [];
      if (method !== undefined) requests++;
      if (method === "POST") url = target;
      server.write(chunk);
    });
    server.on("data", (chunk) => {
      if (requests > 1 && this.#takes(url)) client.resetAndDestroy();
      else client.write(chunk);
    });
    for (const [socket, other] of [[client, server], [server, client]]) {
      if (socket === undefined || other === undefined) continue;
      this.#sockets.add(socket);
      // What has failed is closed next.
      socket.on("error", () => {});
      socket.on("close", () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
  }

  #takes(url = ""): boolean {
    const [, action] = /\/(xhr\w*)\?/.exec(url) ?? [];
    if (action === undefined || this.#seen.has(url)) return false;
    this.#seen.add(url);
    this.lost.push(action);
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#listener, "close");
    this.#listener.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

/**
 * Tells a channel one number after the other, each of which a client has to repeat
 * there once, and to have got once for that. Its connection has to last.
 */
async function converse(
  server: TestServer,
  listener: Client,
  count: number,
): Promise<void> {
  const turns = () => server.journal.calls("connected", "disconnected");
  const before = turns();
  for (let n = 0; n < count; n++) {
    await server.pusher.trigger("private-room", "next", n);
    assertEquals(dataOf(await listener.next("next")), n);
    assertEquals(dataOf(await listener.next("client-got")), n);
  }
  await listener.silence();
  assertEquals(turns(), before);
}

const UNHURRIED = { clientEventsPerSecond: 1_000 };

/** How often an answer has to get lost over each transport for a test to count. */
const LOSSES = {
  xhr_streaming: ["xhr_send"],
  xhr_polling: ["xhr", "xhr_send"],
};

function assertLost(front: LossyFront, transport: keyof typeof LOSSES): void {
  for (const action of LOSSES[transport]) {
    const count = front.lost.filter((lost) => lost === action).length;
    assertLess(4, count, action);
  }
}

for (const transport of TRANSPORTS) {
  Deno.test(`client.ts over ${transport} gets and sends once what answers held that got lost`, async () => {
    await using server = serveStock({
      authorize: () => true,
      limits: UNHURRIED,
    });
    await using front = await LossyFront.open(server);
    await using listener = await server.connect();
    await listener.join("private-room");
    using client = ownClient(front, [transport]);
    const room = client.pusher.subscribe("private-room");
    room.bind("next", (n) => room.trigger("client-got", n));
    await told(room, "pusher:subscription_succeeded");
    await converse(server, listener, 20);
    assertLost(front, transport);
  });

  browserTest(
    `the web build of pusher-js over ${transport} with a session path gets and sends once what answers held that got lost`,
    async (browser) => {
      await using server = serveStock({ limits: UNHURRIED });
      await using front = await LossyFront.open(server);
      await using listener = await server.connect();
      await listener.join("private-room");
      await using site = Deno.serve(
        { hostname: "127.0.0.1", port: 0, onListen() {} },
        sessionPage(front.port, transport),
      );
      const window = await openPage(
        browser,
        `http://127.0.0.1:${site.addr.port}/`,
      );
      await window.logs("subscribed");
      await converse(server, listener, 20);
      assertLost(front, transport);
      await window.page.close();
      await server.journal.next("disconnected");
    },
  );
}

/** A page of a stock client that repeats what it is told. */
function sessionPage(port: number, transport: string) {
  const page = pageOf(`
    const room = new Pusher("${APP.key}", {
      cluster: "none",
      httpHost: "127.0.0.1",
      httpPort: ${port},
      httpPath: "/r/${crypto.randomUUID()}/pusher",
      forceTLS: false,
      enabledTransports: ["${transport}"],
      channelAuthorization: { endpoint: "/auth" },
    }).subscribe("private-room");
    room.bind("pusher:subscription_succeeded", () => console.log("subscribed"))
      .bind("next", (n) => room.trigger("client-got", n));`);
  return async (request: Request) => {
    if (new URL(request.url).pathname !== "/auth") return page(request);
    const form = new URLSearchParams(await request.text());
    const asked = (name: string) => form.get(name) ?? "";
    const [id, channel] = [asked("socket_id"), asked("channel_name")];
    return Response.json({ auth: channelAuth(APP, id, channel) });
  };
}

Deno.test("client.ts over xhr_streaming begins anew where the greeting was lost", async () => {
  await using server = serveStock();
  await using front = await LossyFront.open(server);
  // So that the first request comes over a connection that was used before.
  await (await fetch(`http://127.0.0.1:${front.port}/`)).body?.cancel();
  const startedAt = performance.now();
  using client = ownClient(front, ["xhr_streaming"]);
  const news = client.pusher.subscribe("news");
  await told(news, "pusher:subscription_succeeded");
  // What hears of no greeting is given up after 5 s.
  assertLess(performance.now() - startedAt, 4_000);
  assertEquals(front.lost[0], "xhr_streaming");
  const turns = server.journal.calls("connected", "disconnected");
  assertEquals(turns, ["connected", "disconnected", "connected"]);
  const created = told(news, "create");
  await server.pusher.trigger("news", "create", 1);
  assertEquals(await created, 1);
});

Deno.test("client.ts over xhr_streaming misses nothing where the lines of a further answer were lost", async () => {
  await using server = serveStock({ limits: { bufferedBytes: 4_000_000 } });
  await using front = await LossyFront.open(server);
  using client = ownClient(front, ["xhr_streaming"]);
  const news = client.pusher.subscribe("news");
  const numbers: number[] = [];
  news.bind("next", ({ n }) => numbers.push(n));
  await told(news, "pusher:subscription_succeeded");
  const last = told(news, "last");
  const pad = "x".repeat(9_000);
  const tell = (from: number) => {
    for (let n = from; n < from + 30; n++) {
      server.pusher.trigger("news", "next", { n, pad });
    }
  };
  tell(0);
  // These fill an answer as one line. The others wait when the next one begins.
  await new Promise((resolve) => setTimeout(resolve, 0));
  tell(30);
  server.pusher.trigger("news", "last", 1);
  await last;
  assertEquals(numbers, Array.from({ length: 60 }, (_, n) => n));
  assertArrayIncludes(front.lost, ["xhr_streaming"]);
  assertArrayIncludes(server.journal.calls("disconnected"), ["disconnected"]);
});

// ---- Browsers ---------------------------------------------------------------

for (const transport of TRANSPORTS) {
  browserTest(
    `the web build of pusher-js over ${transport}, on a page of another origin, gets 200 frames of 9 kB`,
    async (browser) => {
      await using server = serveStock({ limits: { bufferedBytes: 4_000_000 } });
      await using site = Deno.serve(
        { hostname: "127.0.0.1", port: 0, onListen() {} },
        stockPage(server.port, transport),
      );
      const window = await openPage(
        browser,
        `http://127.0.0.1:${site.addr.port}/`,
      );
      await window.logs("subscribed");
      const pad = "x".repeat(9_000);
      for (let n = 0; n < 200; n++) {
        server.pusher.trigger("news", "next", { n, pad });
      }
      await window.logs(`["got",200,true]`);
      assertEquals(server.journal.calls("disconnected"), []);
      await window.page.close();
      await server.journal.next("disconnected");
    },
  );
}

/** A page that says when it has got 200 events, and whether in order. */
function stockPage(port: number, transport: string) {
  return pageOf(`
    const pusher = new Pusher("${APP.key}", {
      cluster: "none",
      httpHost: "127.0.0.1",
      httpPort: ${port},
      forceTLS: false,
      enabledTransports: ["${transport}"],
    });
    const numbers = [];
    pusher.subscribe("news")
      .bind("pusher:subscription_succeeded", () => console.log("subscribed"))
      .bind("next", ({ n }) => {
        numbers.push(n);
        if (numbers.length < 200) return;
        console.log("got", numbers.length, numbers.every((n, i) => n === i));
      });`);
}

/** Serves a page that runs a script beside the web build of pusher-js. */
function pageOf(script: string) {
  const page = `<!doctype html>
    <script src="/stock.js"></script><script>${script}</script>`;
  return (request: Request) => {
    const isScript = new URL(request.url).pathname === "/stock.js";
    const type = isScript ? "text/javascript" : "text/html";
    const headers = { "content-type": type };
    return new Response(isScript ? webBuild : page, { headers });
  };
}
