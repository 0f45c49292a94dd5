/**
 * Conformance with the stock clients: pusher-js and the official server SDK,
 * unmodified, over real sockets.
 */
import {
  assertArrayIncludes,
  assertEquals,
  assertMatch,
  assertNotEquals,
  assertObjectMatch,
  assertRejects,
} from "@std/assert";
import { Pusher, type PusherOptions } from "@glitz/pusher";
import StockServerSdk from "pusher";
import echoBuild from "npm:laravel-echo@2.5.0" with {
  type: "text",
};
import webBuild from "npm:pusher-js@8.6.0/dist/web/pusher.js" with {
  type: "text",
};
import { browserTest, openPage } from "../support/browser.ts";
import { APP, serve } from "../support/server.ts";
import {
  authorizedBy,
  type Host,
  MASTER_KEY,
  runCli,
  sdk,
  StockClient,
  type StockMember,
} from "../support/stock.ts";

const HOSTS: Record<string, () => Host | Promise<Host>> = {
  "Pusher.cascade": () => serve({ clientEvents: true }),
  "cli.ts": runCli,
};

/** Registers a test against each kind of host. */
function stockTest(
  name: string,
  fn: (host: Host, server: StockServerSdk) => Promise<void>,
): void {
  for (const [kind, open] of Object.entries(HOSTS)) {
    Deno.test(`${kind}: ${name}`, async () => {
      await using host = await open();
      await fn(host, sdk(host));
    });
  }
}

/** A member as the SDK takes it; its types leave out that ids may be numbers. */
const member = (user_id: string | number, user_info = {}): StockMember => ({
  user_id: user_id as string,
  user_info,
});

// ---- Connection -------------------------------------------------------------

stockTest("pusher-js connects and is given a socket id", async (host) => {
  using client = new StockClient(host);
  await client.connection.until("connected");
  assertMatch(client.socketId, /^\d+\.\d+$/);
});

stockTest(
  "pusher-js is disconnected for good for an unknown key",
  async (host) => {
    using client = new StockClient(host, {}, "no-such-key");
    assertObjectMatch(await client.connection.data("error") as object, {
      type: "WebSocketError",
      error: { type: "PusherError", data: { code: 4001 } },
    });
    await client.connection.until("disconnected");
    assertEquals(client.pusher.connection.state, "disconnected");
  },
);

// ---- Public channels and publishing -----------------------------------------

stockTest(
  "trigger reaches what was bound before the connection",
  async (host, server) => {
    using client = new StockClient(host);
    const news = client.subscribe("news");
    assertNotEquals(client.pusher.connection.state, "connected");
    await news.until("pusher:subscription_succeeded");
    const values = [{ a: [1, "zoë ✓"] }, "text", "", 12, true, null];
    for (const value of values) {
      const response = await server.trigger("news", "create", value);
      assertEquals([response.status, await response.json()], [200, {}]);
      assertEquals(await news.until("create"), [["create", value]]);
    }
  },
);

stockTest(
  "trigger reaches each of several channels once",
  async (host, server) => {
    using client = new StockClient(host);
    const [a, b] = [await client.join("a"), await client.join("b")];
    await server.trigger(["a", "b"], "first", {});
    await server.trigger(["a", "b"], "second", {});
    const expected = [["first", {}], ["second", {}]];
    assertEquals<unknown>(await a.until("second"), expected);
    assertEquals<unknown>(await b.until("second"), expected);
  },
);

stockTest("triggerBatch arrives in order", async (host, server) => {
  using client = new StockClient(host);
  const news = await client.join("news");
  const numbers = Array.from({ length: 10 }, (_, index) => index);
  const response = await server.triggerBatch(numbers.map((data) => ({
    channel: "news",
    name: data === 9 ? "last" : "next",
    data,
  })));
  assertEquals(response.status, 200);
  const events = await news.until("last");
  assertEquals(events.map(([, data]) => data), numbers);
});

stockTest(
  "trigger leaves out the socket it is told to",
  async (host, server) => {
    using sender = new StockClient(host);
    using other = new StockClient(host);
    const own = await sender.join("news");
    const others = await other.join("news");
    const { socketId: socket_id } = sender;
    await server.trigger("news", "one", {}, { socket_id });
    await server.triggerBatch([
      { channel: "news", name: "two", data: {}, socket_id },
      { channel: "news", name: "end", data: {} },
    ]);
    assertEquals(await own.until("end"), [["end", {}]]);
    const names = (await others.until("end")).map(([name]) => name);
    assertEquals(names, ["one", "two", "end"]);
  },
);

stockTest(
  "trigger, triggerBatch and get tell who is there",
  async (host, server) => {
    const presence = member("ann");
    using client = new StockClient(host, authorizedBy(server, presence));
    using tab = new StockClient(host, authorizedBy(server, presence));
    await client.join("news");
    await client.join("presence-room");
    await tab.join("presence-room");
    const get = async (path: string, params = {}) =>
      await (await server.get({ path, params })).json();

    const info = "subscription_count,user_count";
    const room = { subscription_count: 2, user_count: 1 };
    const triggered = await server.trigger(
      ["news", "presence-room", "empty"],
      "create",
      {},
      { info },
    );
    assertEquals(await triggered.json(), {
      channels: {
        news: { subscription_count: 1 },
        "presence-room": room,
        empty: { subscription_count: 0 },
      },
    });
    const batch = await server.triggerBatch([
      { channel: "news", name: "a", data: {} },
      { channel: "presence-room", name: "a", data: {}, info },
    ]);
    assertEquals(await batch.json(), { batch: [{}, room] });
    assertEquals(await get("/channels"), {
      channels: { news: {}, "presence-room": {} },
    });
    assertEquals(
      await get("/channels", {
        filter_by_prefix: "presence-",
        info: "user_count",
      }),
      { channels: { "presence-room": { user_count: 1 } } },
    );
    assertEquals(await get("/channels/presence-room", { info }), {
      occupied: true,
      ...room,
    });
    assertEquals(await get("/channels/empty"), { occupied: false });
    assertEquals(await get("/channels/presence-room/users"), {
      users: [{ id: "ann" }],
    });
  },
);

stockTest("an SDK with another secret is refused", async (host) => {
  const stranger = sdk(host, "another secret");
  const refused = () => stranger.trigger("news", "create", {});
  const error = await assertRejects(refused, StockServerSdk.RequestError);
  assertEquals(error.status, 401);
});

// ---- Private and encrypted channels -----------------------------------------

stockTest(
  "a private channel opens to a signature of the SDK",
  async (host, server) => {
    using client = new StockClient(host, authorizedBy(server));
    const news = await client.join("private-news");
    await server.trigger("private-news", "create", { n: 1 });
    assertEquals(await news.until("create"), [["create", { n: 1 }]]);
  },
);

stockTest(
  "a wrong signature is a subscription_error of the channel",
  async (host, server) => {
    const forger = sdk(host, "another secret");
    using client = new StockClient(host, authorizedBy(forger));
    const news = client.subscribe("private-news");
    const error = await news.data("pusher:subscription_error") as {
      error: unknown;
    };
    assertEquals<unknown>(error, {
      type: "AuthError",
      error: error.error,
      status: 401,
    });
    assertEquals(typeof error.error, "string");
    // The connection has not suffered.
    const open = await client.join("news");
    await server.trigger(["private-news", "news"], "create", 1);
    await open.until("create");
    assertEquals(client.pusher.channel("private-news").subscribed, false);
  },
);

stockTest(
  "an encrypted channel is relayed as it is, and pusher-js decrypts it",
  async (host, server) => {
    using client = new StockClient(host, authorizedBy(server));
    const secrets = await client.join("private-encrypted-news");
    const frames: { event: string; data: unknown }[] = [];
    client.pusher.connection.bind(
      "message",
      (frame: typeof frames[number]) => frames.push(frame),
    );
    await server.trigger("private-encrypted-news", "create", { clear: "text" });
    // The box is authenticated: it opens only if not a byte has changed.
    assertEquals(await secrets.until("create"), [["create", {
      clear: "text",
    }]]);
    const [relayed] = frames;
    assertEquals(Object.keys(relayed!.data as object).sort(), [
      "ciphertext",
      "nonce",
    ]);
  },
);

// ---- Presence channels ------------------------------------------------------

stockTest(
  "a numeric user id is its decimal text everywhere",
  async (host, server) => {
    using bob = new StockClient(host, authorizedBy(server, member("bob")));
    using ann = new StockClient(
      host,
      authorizedBy(server, member(10, { n: 1 })),
    );
    const room = await bob.join("presence-room");
    await ann.join("presence-room");
    assertEquals(await room.until("pusher:member_added"), [
      ["pusher:member_added", { id: "10", info: { n: 1 } }],
    ]);
    const { members } = ann.presence("presence-room");
    assertEquals(members.members, { "10": { n: 1 }, bob: {} });
    assertEquals(members.count, 2);
    // The client takes its own id from what was signed, which is the number.
    assertEquals(members.me, { id: 10, info: { n: 1 } });

    const senders = bob.sendersOf("presence-room", "client-say");
    ann.pusher.channel("presence-room").trigger("client-say", {});
    await room.until("client-say");
    assertEquals(senders, [{ user_id: "10" }]);
    const response = await server.get({
      path: "/channels/presence-room/users",
    });
    const { users } = await response.json();
    assertEquals(users.length, 2);
    assertArrayIncludes(users, [{ id: "bob" }, { id: "10" }]);

    ann.pusher.disconnect();
    assertEquals(await room.until("pusher:member_removed"), [
      ["pusher:member_removed", { id: "10", info: { n: 1 } }],
    ]);
  },
);

stockTest(
  "two tabs of a user come and go as one member",
  async (host, server) => {
    using bob = new StockClient(host, authorizedBy(server, member("bob")));
    const room = await bob.join("presence-room");
    const ann = authorizedBy(server, member("ann"));
    using first = new StockClient(host, ann);
    using second = new StockClient(host, ann);
    await first.join("presence-room");
    await second.join("presence-room");
    // An event after each step shows that no member frame came before it.
    await server.trigger("presence-room", "both here", {});
    assertEquals((await room.until("both here")).map(([name]) => name), [
      "pusher:member_added",
      "both here",
    ]);

    first.pusher.unsubscribe("presence-room");
    await first.fence();
    await server.trigger("presence-room", "one left", {});
    assertEquals((await room.until("one left")).map(([name]) => name), [
      "one left",
    ]);

    second.pusher.disconnect();
    assertEquals(await room.until("pusher:member_removed"), [
      ["pusher:member_removed", { id: "ann", info: {} }],
    ]);
  },
);

// ---- Client events ----------------------------------------------------------

stockTest(
  "a client event reaches the others on a private channel as it was sent",
  async (host, server) => {
    using ann = new StockClient(host, authorizedBy(server));
    using bob = new StockClient(host, authorizedBy(server));
    const own = await ann.join("private-room");
    const others = await bob.join("private-room");
    const senders = bob.sendersOf("private-room", "client-say");
    const channel = ann.pusher.channel("private-room");
    const values = [{ a: 1 }, "text", 12, undefined];
    for (const value of values) channel.trigger("client-say", value);
    channel.trigger("client-end", {});
    assertEquals<unknown>(await others.until("client-end"), [
      ...values.map((value) => ["client-say", value]),
      ["client-end", {}],
    ]);
    // A private channel knows no users.
    assertEquals(senders, [{}, {}, {}, {}]);

    await server.trigger("private-room", "end", {});
    assertEquals(await own.until("end"), [["end", {}]]);
  },
);

stockTest(
  "a client event on a presence channel names its sender, whatever that claims",
  async (host, server) => {
    using ann = new StockClient(host, authorizedBy(server, member("ann")));
    using bob = new StockClient(host, authorizedBy(server, member("bob")));
    await ann.join("presence-room");
    const room = await bob.join("presence-room");
    const senders = bob.sendersOf("presence-room", "client-say");
    ann.pusher.channel("presence-room").trigger("client-say", {});
    await room.until("client-say");
    ann.pusher.connection.send(JSON.stringify({
      event: "client-say",
      channel: "presence-room",
      data: {},
      user_id: "bob",
    }));
    await room.until("client-say");
    assertEquals(senders, [{ user_id: "ann" }, { user_id: "ann" }]);
  },
);

// ---- The handler's auth endpoint --------------------------------------------

/** Ann is at the keyboard, and secrets are nobody's business. */
const AUTHORIZING: PusherOptions = {
  clientEvents: true,
  authorize(_request, { channel }) {
    if (channel.startsWith("presence-")) return { user_id: "ann" };
    return channel !== "private-secret";
  },
};

Deno.test("POST /pusher/auth lets pusher-js join with an endpoint and no more", async () => {
  await using host = serve(AUTHORIZING);
  const endpoint = `http://127.0.0.1:${host.port}/pusher/auth`;
  using client = new StockClient(host, {
    channelAuthorization: { endpoint, transport: "ajax" },
  });
  await client.join("private-news");
  await client.join("presence-room");
  assertEquals(client.presence("presence-room").members.me, {
    id: "ann",
    info: {},
  });
  const secret = client.subscribe("private-secret");
  assertObjectMatch(
    await secret.data("pusher:subscription_error") as object,
    { type: "AuthError", status: 403 },
  );
});

/** A page that logs what it hears, with the web build served beside it. */
function stockPage(request: Request): Response {
  if (new URL(request.url).pathname === "/stock.js") {
    const headers = { "content-type": "text/javascript" };
    return new Response(webBuild, { headers });
  }
  return new Response(
    `<!doctype html><script src="/stock.js"></script><script>
      const pusher = new Pusher("${APP.key}", {
        cluster: "none",
        wsHost: location.hostname,
        wsPort: location.port,
        forceTLS: false,
        enabledTransports: ["ws"],
      });
      const room = pusher.subscribe("presence-room");
      room.bind("pusher:subscription_succeeded", ({ me }) => {
        console.log(me.id, "joined");
      });
      room.bind("create", (data) => console.log("created", data));
      room.bind("client-say", (data, { user_id }) => {
        console.log(user_id, "says", data);
      });
    </script>`,
    { headers: { "content-type": "text/html" } },
  );
}

browserTest(
  "the web build of pusher-js needs no auth options on its own host",
  async (browser) => {
    await using host = serve(AUTHORIZING, { after: [stockPage] });
    const url = `http://127.0.0.1:${host.port}/`;
    const ann = await openPage(browser, url);
    const tab = await openPage(browser, url);
    for (const page of [ann, tab]) await page.logs(`["ann","joined"]`);
    await host.pusher.trigger("presence-room", "create", { n: 1 });
    for (const page of [ann, tab]) await page.logs(`["created",{"n":1}]`);
    await ann.page.evaluate(`room.trigger("client-say", "hello")`);
    await tab.logs(`["ann","says","hello"]`);
  },
);

/** A page of Laravel Echo on another origin than the server. */
function echoPage(port: number): (request: Request) => Response {
  const scripts: Record<string, string> = {
    "/stock.js": webBuild,
    "/echo.js": echoBuild,
  };
  return (request) => {
    const script = scripts[new URL(request.url).pathname];
    const type = script === undefined ? "text/html" : "text/javascript";
    const page = `<!doctype html>
      <script src="/stock.js"></script><script type="module">
        import Echo from "/echo.js";
        const echo = new Echo({
          broadcaster: "pusher",
          key: "${APP.key}",
          cluster: "none",
          wsHost: "127.0.0.1",
          wsPort: ${port},
          forceTLS: false,
          enabledTransports: ["ws"],
        });
        echo.channel("orders")
          .subscribed(() => console.log("subscribed"))
          .listen(".paid", (data) => console.log("paid", data));
      </script>`;
    return new Response(script ?? page, { headers: { "content-type": type } });
  };
}

browserTest(
  "a page of Laravel Echo takes cli.ts for Pusher, by host and port alone",
  async (browser) => {
    await using host = await runCli();
    await using site = Deno.serve({
      hostname: "127.0.0.1",
      port: 0,
      handler: echoPage(host.port),
      onListen() {},
    });
    const page = await openPage(browser, `http://127.0.0.1:${site.addr.port}/`);
    await page.logs("subscribed");
    const answer = await sdk(host).trigger("orders", "paid", { order: 7 });
    assertEquals(await answer.json(), {});
    await page.logs(`["paid",{"order":7}]`);
  },
);

// ---- Closing ----------------------------------------------------------------

Deno.test("close sends pusher-js to the server that has taken over, at once", async () => {
  const { key, secret } = APP;
  const old = new Pusher({ key, secret });
  const successor = new Pusher({ key, secret });
  let current = old;
  await using server = Deno.serve({
    hostname: "127.0.0.1",
    port: 0,
    handler: (request) => current.handler(request),
    onListen() {},
  });
  using client = new StockClient({ port: server.addr.port });
  const news = await client.join("news");
  await client.connection.until("connected");
  const { socketId } = client;

  current = successor;
  await old.close();
  const events = await client.connection.until("connected");
  // Otherwise it waits a second.
  assertEquals(client.retryDelays[0], 0);
  assertNotEquals(client.socketId, socketId);
  assertObjectMatch(
    Object.fromEntries(events).error as object,
    { type: "WebSocketError", error: { data: { code: 4200 } } },
  );

  // Bindings and subscriptions have survived.
  await news.until("pusher:subscription_succeeded");
  await successor.trigger("news", "create", 1);
  assertEquals(await news.until("create"), [["create", 1]]);
  client.pusher.disconnect();
  await successor.close();
});

// ---- Signatures and webhooks ------------------------------------------------

/** Credentials of the protocol's test vectors. */
const VECTORS = {
  appId: "3",
  key: "278d425bdf160c739803",
  secret: "7ad3773142a6692b25b8",
};

Deno.test("authorizeChannel signs as the SDK does", () => {
  const stock = new StockServerSdk({
    ...VECTORS,
    cluster: "none",
    encryptionMasterKeyBase64: MASTER_KEY,
  });
  const ours = new Pusher(VECTORS);
  for (
    const channel of [
      "private-foobar",
      "private-encrypted-foobar",
      "private-cache-foobar",
    ]
  ) {
    assertEquals(
      ours.authorizeChannel("1234.1234", channel).auth,
      stock.authorizeChannel("1234.1234", channel).auth,
    );
  }
  const ann = member(10, { name: "Zoë ✓" });
  assertEquals<unknown>(
    ours.authorizeChannel("1234.1234", "presence-foobar", ann),
    stock.authorizeChannel("1234.1234", "presence-foobar", ann),
  );
});

Deno.test("webhook judges and reads as the SDK does", () => {
  const w1 = {
    key: VECTORS.key,
    secret: VECTORS.secret,
    body:
      `{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"presence-foobar"},{"name":"member_added","channel":"presence-foobar","user_id":"10"}]}`,
    signature:
      "25af8e638a8074c9d01c99baa709a42a5de62c3629a78a9fee6181a5b3873655",
  };
  const w2 = {
    key: "123456789",
    secret: "tofu",
    body:
      `{"time_ms":1403175510755,"events":[{"channel":"test_channel","name":"channel_vacated"}]}`,
    signature:
      "c17257e92037cd7de407ebc1ed174ceb7b2e518db127f44411b9ffc4f5b28cc5",
  };
  for (const { key, secret, body, signature } of [w1, w2]) {
    const valid = {
      "content-type": "application/json",
      "x-pusher-key": key,
      "x-pusher-signature": signature,
    };
    const requests: [name: string, headers: typeof valid, rawBody: string][] = [
      ["valid", valid, body],
      ["another body", valid, body.replace("1", "2")],
      ["not JSON", valid, body.slice(1)],
      ["another key", { ...valid, "x-pusher-key": "other" }, body],
      ["another signature", {
        ...valid,
        "x-pusher-signature": signature.replace("c", "d"),
      }, body],
      ["a charset", {
        ...valid,
        "content-type": "application/json; charset=utf-8",
      }, body],
    ];
    const [stock, ours] = [StockServerSdk, Pusher].map((Server) =>
      new Server({ appId: "1", key, secret, cluster: "none" })
    );
    const others = { key: "other", secret };
    for (const [name, headers, rawBody] of requests) {
      const [theirs, own] = [stock, ours].map((server) => {
        const webhook = server!.webhook({ headers, rawBody });
        return {
          valid: webhook.isValid(),
          validForOthers: webhook.isValid(others),
          validForList: webhook.isValid([others]),
          type: webhook.isContentTypeValid(),
          body: webhook.isBodyValid(),
        };
      });
      assertEquals(own, theirs, name);
      assertEquals(own!.valid, name === "valid", name);
    }
    const [theirs, own] = [stock, ours].map((server) => {
      const webhook = server!.webhook({ headers: valid, rawBody: body });
      return [webhook.getData(), webhook.getEvents(), webhook.getTime()];
    });
    assertEquals(own, theirs);
  }
});
