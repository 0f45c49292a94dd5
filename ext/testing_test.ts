/**
 * The test helper as a user meets it: programs without a port, real clients, faults,
 * and the errors that a failing test shows.
 */
import {
  BackplaneUnavailable,
  MemoryBackplane,
  Pusher,
  type PusherOptions,
} from "@glitz/pusher";
import { Pusher as Client } from "@glitz/pusher/client";
import {
  ExpectationError,
  RefusedError,
  TestBackplane,
  TestClock,
  testPusher,
} from "@glitz/pusher/testing";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { route } from "@std/http/unstable-route";
import { FakeTime } from "@std/testing/time";
import { Hono } from "hono";
import { heard, until } from "../tests/support/client.ts";
import { PusherJs } from "../tests/support/stock.ts";

/** Time for what has to happen, on a busy machine; and for what never does. */
const AMPLE = { deadlineMs: 20_000 };
const SHORT = { deadlineMs: 20 };

type Events = {
  messages: { create: { text: string }; remove: { id: number } };
  [channel: `private-order-${string}`]: { paid: { order: number } };
  [channel: `presence-${string}`]: {
    "pusher:user_info": { name: string };
    "client-typing": { since: number };
  };
};

/** Who sends a request: the header `x-user` says so. */
const userOf = ({ headers }: Request) => headers.get("x-user");

const OPTIONS: PusherOptions<Events> = {
  clientEvents: true,
  authorize(request, { channel }) {
    const user = userOf(request);
    if (user === null) return false;
    if (channel === "private-order-broken") throw new Error("No database");
    return channel.startsWith("presence-")
      ? { user_id: user, user_info: { name: user.toUpperCase() } }
      : channel.endsWith(user);
  },
  authenticate(request) {
    const user = userOf(request);
    return user === null ? null : { id: user };
  },
};

const as = (user: string) => ({ headers: { "x-user": user } });

// ---- Programs ---------------------------------------------------------------

/** A program that publishes what is posted to it, in several frameworks. */
const PROGRAMS: Record<string, (pusher: Pusher<Events>) => Deno.ServeHandler> =
  {
    "Pusher.cascade": (pusher) =>
      Pusher.cascade(pusher.handler, async (request) => {
        await pusher.trigger("messages", "create", await request.json());
        return new Response("created", { status: 201 });
      }),
    "Hono": (pusher) => {
      const app = new Hono();
      app.post("/", async (c) => {
        await pusher.trigger("messages", "create", await c.req.json());
        return c.text("created", 201);
      });
      app.all("*", (c) => pusher.handler(c.req.raw));
      return (request) => app.fetch(request);
    },
    "route of @std/http": (pusher) =>
      route([{
        method: ["POST"],
        pattern: new URLPattern({ pathname: "/" }),
        async handler(request: Request) {
          await pusher.trigger("messages", "create", await request.json());
          return new Response("created", { status: 201 });
        },
      }], pusher.handler),
  };

for (const [name, make] of Object.entries(PROGRAMS)) {
  Deno.test(`testPusher tests a program of ${name} without a port`, async () => {
    await using pusher = new Pusher<Events>(OPTIONS);
    await using test = testPusher(pusher, { handler: make(pusher), ...AMPLE });
    const messages = await (await test.connect()).subscribe("messages");
    const body = '{"text":"hello"}';
    const response = await test.fetch("/", { method: "POST", body });
    assertEquals([response.status, await response.text()], [201, "created"]);
    assertEquals(await messages.next("create"), { text: "hello" });
    await test.expectPublished("messages", "create", { text: "hello" });
  });
}

Deno.test("testPusher makes the server for a program that takes one, with a clock that the test turns", async () => {
  /** A program that closes an auction a minute after the first bid. */
  const auction = (pusher: Pusher<Events>) =>
    Pusher.cascade(pusher.handler, () => {
      pusher.clock.after(60_000, () => {
        void pusher.trigger("messages", "create", { text: "closed" });
      });
      return new Response("bid");
    });
  await using test = testPusher(OPTIONS, { program: auction, ...AMPLE });
  const messages = await (await test.connect()).subscribe("messages");
  await test.fetch("/bids", { method: "POST" });
  await test.clock.tickAsync(59_999);
  await messages.expectNothing();
  await test.clock.tickAsync(1);
  assertEquals(await messages.next("create"), { text: "closed" });
});

Deno.test("testPusher(Pusher) tests the default instance, which stays open", async () => {
  {
    await using test = testPusher(Pusher, AMPLE);
    const ann = await test.connect();
    await ann.subscribe("news");
    await Pusher.trigger("news", "create", 1);
    assertEquals(await ann.next("create"), 1);
    assert(test.pusher === Pusher);
  }
  assertEquals(Pusher.stats().ready, true);
  await Pusher.close();
});

Deno.test("testPusher leaves a server open that was passed in, and closes one that it has made", async () => {
  const pusher = new Pusher();
  const first = testPusher(pusher);
  await first.connect();
  await first.close();
  assertEquals([pusher.stats().ready, pusher.stats().connections], [true, 0]);
  // A second test of the same server.
  await using second = testPusher(pusher);
  await second.connect();
  await second.close();
  await pusher.close();

  const own = testPusher();
  await own.connect();
  await Promise.all([own.close(), own.close()]);
  assertEquals(own.pusher.stats().ready, false);
});

Deno.test("testPusher serves below a path, at an origin, and with the first key of the app", async () => {
  const urls: string[] = [];
  await using pusher = new Pusher({
    path: "/realtime",
    keys: [{ key: "new", secret: "a" }, { key: "old", secret: "b" }],
    authorize: () => true,
  });
  await using test = testPusher(pusher, {
    origin: "https://example.com:8443",
    handler(request: Request) {
      urls.push(request.url.replace(/\?.*/, ""));
      return pusher.handler(request);
    },
    ...AMPLE,
  });
  const ann = await test.connect();
  await ann.subscribe("private-news");
  await test.connect({ key: "old" });
  assertEquals(urls, [
    "https://example.com:8443/realtime/app/new",
    "https://example.com:8443/realtime/pusher/auth",
    "https://example.com:8443/realtime/app/old",
  ]);
});

Deno.test("testPusher refuses options that it does not know, and no server, by name", async () => {
  await using pusher = new Pusher();
  const { handler } = pusher;
  const failures: [run: () => unknown, message: string][] = [
    [
      // @ts-expect-error There is no such option.
      () => testPusher(pusher, { handlers: pusher.handler }),
      'Cannot test a Pusher: unknown option "handlers"',
    ],
    [
      () => testPusher(pusher, { origin: "https://example.com/chat" }),
      'Cannot test a Pusher: origin is "https://example.com/chat", and must be like "https://example.com", without a path',
    ],
    [
      () => testPusher({}, { program: () => handler, handler }),
      "Cannot test a Pusher: both `handler` and `program` are given; pass one of them",
    ],
    [
      // @ts-expect-error It makes no handler.
      () => testPusher({}, { program: () => {} }),
      "Cannot test a Pusher: the result of program is undefined, and must be a function",
    ],
    [
      () => testPusher(pusher, { deadlineMs: 0 }),
      "Cannot test a Pusher: deadlineMs is 0, and must be above 0 and at most 2147483647 milliseconds",
    ],
    [
      // @ts-expect-error It is neither a server nor options.
      () => testPusher(null),
      "Cannot test a Pusher: pusher is null, and must be a Pusher, or its options",
    ],
    [
      // @ts-expect-error A handler is no server.
      () => testPusher(pusher.handler),
      "Cannot test a Pusher: pusher is a function, and must be a Pusher, or its options",
    ],
    [
      // @ts-expect-error There is no such option.
      () => testPusher({ authorise: () => true }),
      'Cannot create a Pusher: unknown option "authorise"',
    ],
  ];
  for (const [run, message] of failures) {
    const error = assertThrows(run, Error);
    assert(error.message.startsWith(message), error.message);
  }
});

// ---- Clients: events --------------------------------------------------------

Deno.test("next(event) takes the first event of that name and leaves the others, and next() takes the first of all", async () => {
  await using test = testPusher<Events>({}, AMPLE);
  const ann = await test.connect();
  const messages = await ann.subscribe("messages");
  for (const text of ["one", "two"]) {
    await test.pusher.trigger("messages", "create", { text });
  }
  await test.pusher.trigger("messages", "remove", { id: 7 });
  assertEquals(await messages.next("remove"), { id: 7 });
  assertEquals(await ann.next("create"), { text: "one" });
  const event = { event: "create", channel: "messages", data: { text: "two" } };
  assertEquals(await ann.next(), event);
  await ann.expectNothing();
  assertEquals(ann.received.map(({ event }) => event), [
    "create",
    "create",
    "remove",
  ]);
});

Deno.test("next waits for an event that comes later, and several calls take turns", async () => {
  await using test = testPusher<Events>({}, AMPLE);
  const messages = await (await test.connect()).subscribe("messages");
  const both = [messages.next("create"), messages.next("create")];
  await test.pusher.trigger("messages", "create", { text: "one" });
  await test.pusher.trigger("messages", "create", { text: "two" });
  assertEquals(await Promise.all(both), [{ text: "one" }, { text: "two" }]);
});

Deno.test("next rejects after its deadline, in the line of the test, and says what came instead", async () => {
  await using test = testPusher<Events>({}, SHORT);
  const ann = await test.connect();
  const early = await assertRejects(() => ann.next("create"), ExpectationError);
  assertEquals(
    early.message,
    'Cannot take "create": it has not come within 20 ms. Nothing else came\n' +
      "The client is subscribed to no channel",
  );
  assert(early.stack?.includes("testing_test.ts"), early.stack);

  const messages = await ann.subscribe("messages");
  await test.pusher.trigger("messages", "remove", { id: 7 });
  const late = await assertRejects(
    () => messages.next("create"),
    ExpectationError,
  );
  assertEquals(
    late.message,
    'Cannot take "create" on "messages": it has not come within 20 ms. ' +
      'Instead there is\n  "remove" on "messages": {"id":7}\n' +
      'The client is subscribed to "messages"',
  );
});

Deno.test("the error of next names no channel that the client has left", async () => {
  await using test = testPusher<Events>({}, SHORT);
  const ann = await test.connect();
  const messages = await ann.subscribe("messages");
  await messages.unsubscribe();
  const error = await assertRejects(() => ann.next("create"), ExpectationError);
  assert(error.message.endsWith("subscribed to no channel"), error.message);
});

Deno.test("the deadline of next passes in real time where time is faked", async () => {
  await using test = testPusher({}, SHORT);
  const ann = await test.connect();
  using _time = new FakeTime();
  await assertRejects(() => ann.next("create"), ExpectationError);
});

Deno.test("next rejects at once when the connection closes, and says how", async () => {
  await using test = testPusher({}, AMPLE);
  const ann = await test.connect();
  await ann.signin({ id: "ann" });
  const waiting = ann.next("create");
  await test.pusher.terminateUserConnections("ann");
  const error = await assertRejects(() => waiting, ExpectationError);
  assert(
    error.message.includes("the connection was closed with 4009"),
    error.message,
  );
  assertEquals((await ann.closed).code, 4009);
  const sent = await assertRejects(() => ann.subscribe("news"), Error);
  assert(sent.message.startsWith("Cannot send: the connection was closed"));
});

Deno.test("expectNothing waits for all that the server has to say, and names what came", async () => {
  await using test = testPusher<Events>({}, AMPLE);
  const ann = await test.connect();
  const messages = await ann.subscribe("messages");
  await messages.expectNothing();
  await test.pusher.trigger("messages", "create", { text: "hello" });
  await messages.expectNothing("remove");
  const error = await assertRejects(
    () => messages.expectNothing(),
    ExpectationError,
  );
  assertEquals(
    error.message,
    "Cannot expect nothing: the client has got\n" +
      '  "create" on "messages": {"text":"hello"}',
  );
});

// ---- Clients: channels ------------------------------------------------------

Deno.test("subscribe asks authorize through the handler, with the headers of the client", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  const ann = await test.connect(as("ann"));
  const orders = await ann.subscribe("private-order-ann");
  await test.pusher.trigger("private-order-ann", "paid", { order: 1 });
  assertEquals(await orders.next("paid"), { order: 1 });

  const refused = await assertRejects(
    () => ann.subscribe("private-order-bob"),
    RefusedError,
  );
  assertEquals([refused.what, refused.code], ["subscription", 403]);
  assertEquals(
    refused.message,
    'Cannot subscribe to "private-order-bob": /pusher/auth answered 403: ' +
      'Joining "private-order-bob" is not allowed',
  );
});

Deno.test("subscribe has the error of the program as its cause", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  const ann = await test.connect(as("ann"));
  const error = await assertRejects(
    () => ann.subscribe("private-order-broken"),
    RefusedError,
  );
  assertEquals(error.code, 500);
  assertEquals((error.cause as Error).message, "No database");
  const [first] = test.errors;
  assertEquals(first?.during, "authorizing a channel");
});

Deno.test("subscribe says what is missing where the program has no auth endpoint", async () => {
  await using test = testPusher({}, AMPLE);
  const ann = await test.connect();
  const error = await assertRejects(
    () => ann.subscribe("private-notes"),
    RefusedError,
  );
  assertEquals(error.code, 404);
  assert(error.message.includes("authorize"), error.message);
});

Deno.test("subscribe asks an auth endpoint of the program's own", async () => {
  await using pusher = new Pusher();
  const handler = Pusher.cascade(pusher.handler, async (request: Request) => {
    if (new URL(request.url).pathname !== "/login") return null;
    const form = await request.formData();
    const [socketId, channel] = [
      form.get("socket_id"),
      form.get("channel_name"),
    ];
    const auth = pusher.authorizeChannel(String(socketId), String(channel));
    return Response.json(auth);
  });
  const options = { handler, authEndpoint: "/login", ...AMPLE };
  await using test = testPusher(pusher, options);
  const ann = await test.connect();
  const notes = await ann.subscribe("private-notes");
  await pusher.trigger("private-notes", "create", "text");
  assertEquals(await notes.next("create"), "text");
});

Deno.test("subscribe asks nobody where the test says what is authorized", async () => {
  await using test = testPusher<Events>({}, AMPLE);
  const ann = await test.connect();
  await ann.subscribe("private-order-1", { authorized: true });
  const member = { user_id: "ann", user_info: { name: "Ann" } };
  const room = await ann.subscribe("presence-room", { authorized: member });
  assertEquals([...room.members], [["ann", { name: "Ann" }]]);
});

Deno.test("a presence channel has its members, and tells who comes and goes", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  const ann = await test.connect(as("ann"));
  const bob = await test.connect(as("bob"));
  const room = await ann.subscribe("presence-room");
  assertEquals([...room.members.keys()], ["ann"]);
  const others = await bob.subscribe("presence-room");
  const added = await room.next("pusher:member_added");
  assertEquals(added, { id: "bob", info: { name: "BOB" } });
  assertEquals(room.members.get("bob"), { name: "BOB" });
  assertEquals([...others.members.keys()].sort(), ["ann", "bob"]);
  await others.unsubscribe();
  const removed = await room.next("pusher:member_removed");
  assertEquals(removed, { id: "bob", info: { name: "BOB" } });
  assertEquals([...room.members.keys()], ["ann"]);
});

Deno.test("trigger sends a client event to the others, and the sender gets a refusal", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  const ann = await test.connect(as("ann"));
  const bob = await test.connect(as("bob"));
  const mine = await ann.subscribe("presence-room");
  const his = await bob.subscribe("presence-room");
  mine.trigger("client-typing", { since: 3 });
  assertEquals(await his.next(), {
    event: "client-typing",
    channel: "presence-room",
    data: { since: 3 },
    userId: "ann",
  });
  await mine.unsubscribe();
  await his.next("pusher:member_removed");
  mine.trigger("client-typing", { since: 4 });
  const { code } = await ann.next("pusher:error");
  assertEquals(code, 4301);
  await bob.expectNothing();
});

Deno.test("subscribe rewinds to the last events of a channel", async () => {
  await using test = testPusher<Events>({}, AMPLE);
  const ann = await test.connect();
  await ann.subscribe("messages");
  for (const text of ["one", "two", "three"]) {
    await test.pusher.trigger("messages", "create", { text });
  }
  const bob = await test.connect();
  const messages = await bob.subscribe("messages", { rewind: 2 });
  assertEquals(await messages.next("create"), { text: "two" });
  assertEquals(await messages.next("create"), { text: "three" });
  await bob.expectNothing();
});

Deno.test("a cache channel gives its last event, or says that there is none", async () => {
  await using test = testPusher({}, AMPLE);
  const ann = await test.connect();
  const first = await ann.subscribe("cache-news");
  await first.next("pusher:cache_miss");
  await test.pusher.trigger("cache-news", "create", 1);
  await test.pusher.trigger("cache-news", "create", 2);
  const bob = await test.connect();
  const news = await bob.subscribe("cache-news");
  assertEquals(await news.next("create"), 2);
});

Deno.test("signin asks authenticate, and events to the user come like others", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  const ann = await test.connect(as("ann"));
  await ann.signin();
  assertEquals(ann.userId, "ann");
  await test.pusher.sendToUser("ann", "notice", { text: "hello" });
  const notice = await ann.next();
  assertEquals(notice, {
    event: "notice",
    channel: "#server-to-user-ann",
    data: { text: "hello" },
  });

  const stranger = await test.connect();
  const refused = await assertRejects(() => stranger.signin(), RefusedError);
  assertEquals([refused.what, refused.code], ["signin", 403]);
  await stranger.signin({ id: "bob", watchlist: ["ann"] });
  assertEquals(await stranger.next(), {
    event: "online",
    data: { user_ids: ["ann"] },
  });
  const other = await assertRejects(
    () => stranger.signin({ id: "carl" }),
    RefusedError,
  );
  assertEquals([other.what, other.code], ["signin", 4009]);
});

Deno.test("fetch of a client has its headers, and may add others", async () => {
  await using pusher = new Pusher();
  await using test = testPusher(pusher, {
    handler: Pusher.cascade(
      pusher.handler,
      ({ headers }: Request) =>
        Response.json([headers.get("x-user"), headers.get("x-more")]),
    ),
  });
  const ann = await test.connect(as("ann"));
  const plain = await ann.fetch("/");
  assertEquals(await plain.json(), ["ann", null]);
  const more = await ann.fetch(
    new Request("http://localhost/", { headers: { "x-more": "1" } }),
  );
  assertEquals(await more.json(), ["ann", "1"]);
  const other = await ann.fetch("/", { headers: { "x-user": "bob" } });
  assertEquals(await other.json(), ["bob", null]);
});

// ---- Clients: connections ---------------------------------------------------

Deno.test("connect is refused as the program and the server refuse, and says why", async () => {
  await using pusher = new Pusher({
    limits: { connections: 1 },
    origins: "https://example.com",
  });
  await using test = testPusher(pusher, {
    handler(request: Request) {
      const user = userOf(request);
      if (user === "throws") throw new Error("No database");
      if (user === "stopped") return new Response("Go away", { status: 403 });
      if (user === "copied") return pusher.handler(new Request(request));
      const answer = pusher.handler(request);
      return user === "replaced" ? new Response("Welcome") : answer;
    },
    ...AMPLE,
  });
  const origin = "https://elsewhere.example";
  await test.connect();
  const cases: [Parameters<typeof test.connect>[0], number, string][] = [
    [as("stopped"), 1006, "the handler answered 403: Go away"],
    [as("throws"), 1006, "the handler has thrown"],
    [as("replaced"), 1006, "the handler returned another answer"],
    [as("copied"), 1006, "the handler answered 101. The server must"],
    [{ key: "unknown" }, 4001, "No app has this key"],
    [{ headers: { origin } }, 4009, "Origin"],
    [{}, 4004, "The app is over its connection limit"],
  ];
  for (const [init, code, reason] of cases) {
    const error = await assertRejects(() => test.connect(init), RefusedError);
    const found = [error.what, error.code];
    assertEquals(found, ["connection", code], error.message);
    assert(error.reason.startsWith(reason), error.reason);
  }
  assertEquals(pusher.stats().connections, 1);
});

Deno.test("a client answers the pings of the server, and others can be closed by it", async () => {
  await using test = testPusher({}, AMPLE);
  const ann = await test.connect();
  await test.clock.tickAsync(600_000);
  await ann.expectNothing();
  assertEquals(test.pusher.stats().connections, 1);
  await test.pusher.close();
  assertEquals((await ann.closed).code, 4200);
});

Deno.test("send sends frames as they are, for what no client does", async () => {
  await using test = testPusher({}, AMPLE);
  const ann = await test.connect();
  ann.send("no JSON");
  assertEquals((await ann.next("pusher:error")).code !== 0, true);
  ann.send({ event: "pusher:subscribe", data: { channel: "news" } });
  await ann.expectNothing();
  const { subscription_count } = await test.pusher.channel("news", {
    info: "subscription_count",
  });
  assertEquals(subscription_count, 1);
});

// ---- What was published -----------------------------------------------------

Deno.test("expectPublished finds what trigger, triggerBatch and the HTTP API publish, each once", async () => {
  await using test = testPusher<Events>({}, { ...AMPLE });
  const { pusher } = test;
  await pusher.trigger("messages", "create", { text: "one" });
  await pusher.triggerBatch([
    { channel: "messages", name: "create", data: { text: "two" } },
  ]);
  const body = { name: "remove", channel: "messages", data: '{"id":3}' };
  await pusher.post({ path: "/events", body });
  assertEquals(
    await test.expectPublished("messages", "create", { text: "two" }),
    { text: "two" },
  );
  await test.expectPublished("messages", "remove", ({ id }) => id === 3);
  assertEquals(await test.expectPublished("messages", "create"), {
    text: "one",
  });
  await test.expectNothingPublished();
  assertEquals(test.published.length, 3);
});

Deno.test("expectPublished waits for what is published later", async () => {
  await using test = testPusher<Events>({}, AMPLE);
  const found = test.expectPublished("messages", "create");
  await test.pusher.trigger("messages", "create", { text: "late" });
  assertEquals(await found, { text: "late" });
});

Deno.test("expectPublished compares data as it is on the way", async () => {
  await using test = testPusher({}, SHORT);
  const { pusher } = test;
  const date = new Date(0);
  await pusher.trigger("news", "create", { date, more: undefined });
  await test.expectPublished("news", "create", { date });
  await pusher.trigger("news", "text", "plain");
  await test.expectPublished("news", "text", "plain");
  await pusher.trigger("news", "text", '{"a":1}');
  await test.expectPublished("news", "text", { a: 1 });
  await pusher.trigger("news", "order", { b: 1, a: [2] });
  await test.expectPublished("news", "order", { a: [2], b: 1 });
  await pusher.trigger("news", "create", [1, 2]);
  await assertRejects(() => test.expectPublished("news", "create", [2, 1]));
});

Deno.test("expectPublished says what was published instead", async () => {
  await using test = testPusher<Events>({}, SHORT);
  await test.pusher.trigger("messages", "create", { text: "one" });
  const error = await assertRejects(
    () => test.expectPublished("messages", "create", { text: "two" }),
    ExpectationError,
  );
  assertEquals(
    error.message,
    'Cannot find a published "create" on "messages" with {"text":"two"}: ' +
      "it has not come within 20 ms. Instead there is\n" +
      '  "create" on "messages": {"text":"one"}',
  );
});

Deno.test("expectNothingPublished names what was, of a channel or an event if asked", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  test.pusher.trigger("messages", "create", { text: "one" });
  await test.expectNothingPublished("private-order-1");
  await test.expectNothingPublished("messages", "remove");
  const error = await assertRejects(
    () => test.expectNothingPublished("messages"),
    ExpectationError,
  );
  assertEquals(
    error.message,
    "Cannot expect nothing: the program has published\n" +
      '  "create" on "messages": {"text":"one"}',
  );
});

Deno.test("expectPublished has the latest error of the program as its cause", async () => {
  await using pusher = new Pusher({ clock: new TestClock() });
  pusher.on("connected", () => {
    throw new Error("No database");
  });
  await using test = testPusher(pusher, SHORT);
  await test.connect();
  const error = await assertRejects(
    () => test.expectPublished("news", "create"),
    ExpectationError,
  );
  assertEquals((error.cause as Error).message, "No database");
});

// ---- Faults -----------------------------------------------------------------

Deno.test("network.drop lets nothing through: the server gives the client up, and restore resets it", async () => {
  await using test = testPusher({}, AMPLE);
  const ann = await test.connect();
  const bob = await test.connect();
  const news = await ann.subscribe("news");
  await bob.subscribe("news");
  ann.network.drop();
  await test.pusher.trigger("news", "create", 1);
  assertEquals(await bob.next("create"), 1);
  await test.clock.tickAsync(70_000);
  assertEquals(test.pusher.stats().connections, 2);
  await test.clock.tickAsync(10_000);
  assertEquals(test.pusher.stats().connections, 1);
  const missing = news.next("create");
  ann.network.restore();
  await assertRejects(() => missing, ExpectationError);
  assertEquals((await ann.closed).code, 1006);
  await bob.expectNothing();
});

Deno.test("network.delay holds frames back by the server's clock, in order, both ways", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  const ann = await test.connect(as("ann"));
  const bob = await test.connect(as("bob"));
  const mine = await ann.subscribe("presence-room");
  const his = await bob.subscribe("presence-room");
  bob.network.delay(1_000);
  mine.trigger("client-typing", { since: 1 });
  mine.trigger("client-typing", { since: 2 });
  await ann.expectNothing("client-typing");
  await test.clock.tickAsync(999);
  assertEquals(bob.received.length, 0);
  await test.clock.tickAsync(1);
  assertEquals(await his.next("client-typing"), { since: 1 });
  assertEquals(await his.next("client-typing"), { since: 2 });

  his.trigger("client-typing", { since: 3 });
  await test.clock.tickAsync(999);
  await ann.expectNothing("client-typing");
  await test.clock.tickAsync(1);
  assertEquals(await mine.next("client-typing"), { since: 3 });
});

Deno.test("network.delay(Infinity) makes a slow reader, which the server closes with 4100", async () => {
  await using test = testPusher(
    { limits: { bufferedBytes: 100_000 } },
    AMPLE,
  );
  const ann = await test.connect();
  await ann.subscribe("news");
  ann.network.delay(Infinity);
  const gone = new Promise((resolve) =>
    test.pusher.on("disconnected", resolve)
  );
  for (let i = 0; i < 40; i++) {
    await test.pusher.trigger("news", "create", "x".repeat(9_000));
  }
  await test.clock.tickAsync(60_000);
  const { code } = await gone as { code: number };
  assertEquals(code, 4100);
  ann.network.restore();
  await ann.closed;
});

Deno.test("network.reset ends connections with 1006 on both sides", async () => {
  await using test = testPusher({}, AMPLE);
  const ann = await test.connect();
  const bob = await test.connect();
  const codes: number[] = [];
  test.pusher.on("disconnected", ({ code }) => codes.push(code));
  ann.network.reset();
  assertEquals((await ann.closed).code, 1006);
  await bob.expectNothing();
  test.network.reset();
  assertEquals((await bob.closed).code, 1006);
  await until(() => codes.length === 2);
  assertEquals(codes, [1006, 1006]);
  await test.connect();
});

Deno.test("network.refuse refuses new connections, and restore lets them in", async () => {
  await using test = testPusher({}, AMPLE);
  const ann = await test.connect();
  test.network.refuse();
  const error = await assertRejects(() => test.connect(), RefusedError);
  assertEquals(
    error.message,
    "Cannot connect: the network refuses connections",
  );
  await ann.expectNothing();
  test.network.restore();
  await test.connect();
});

Deno.test("network.delay refuses what is no duration", async () => {
  await using test = testPusher();
  for (const ms of [-1, NaN]) {
    assertThrows(() => test.network.delay(ms), RangeError, `ms is ${ms}`);
  }
});

Deno.test("backplane.goAway has publishing fail, and comeBack has the server go on", async () => {
  await using test = testPusher({}, AMPLE);
  const changes: boolean[] = [];
  test.pusher.on("backplane", ({ up }) => changes.push(up));
  const ann = await test.connect();
  const bob = await test.connect();
  const news = await ann.subscribe("news");
  await bob.subscribe("news");
  test.backplane.goAway();
  assertEquals(test.pusher.stats().ready, false);
  await assertRejects(
    () => test.pusher.trigger("news", "create", 1),
    BackplaneUnavailable,
  );
  // Somebody leaves meanwhile.
  await bob.close();
  test.backplane.comeBack();
  await test.pusher.trigger("news", "create", 2);
  assertEquals(await news.next("create"), 2);
  const info = "subscription_count";
  const { subscription_count } = await test.pusher.channel("news", { info });
  assertEquals(subscription_count, 1);
  assertEquals(changes, [false, true]);
  assertEquals(test.errors.length, 1);
});

Deno.test("TestBackplane goes before any backplane, and is found in the options", async () => {
  const memory = new MemoryBackplane();
  await using wrapped = testPusher({ backplane: memory }, AMPLE);
  assertEquals(wrapped.backplane.isAway, false);
  const backplane = new TestBackplane();
  await using test = testPusher({ backplane }, AMPLE);
  assert(test.backplane === backplane);
  await using pusher = new Pusher({ backplane: new TestBackplane() });
  await using other = testPusher(pusher);
  assertThrows(() => other.backplane, TypeError, "new TestBackplane()");
  assertThrows(() => other.clock, TypeError, "new TestClock()");
});

// ---- The clock --------------------------------------------------------------

Deno.test("TestClock.tick runs each call when it is due, also those that calls start", () => {
  const clock = new TestClock(1_000);
  const seen: [string, number][] = [];
  const note = (name: string) => () => seen.push([name, clock.now()]);
  clock.after(20, note("b"));
  clock.after(10, () => {
    note("a")();
    clock.after(5, note("c"));
  });
  const cancel = clock.after(15, note("cancelled"));
  cancel();
  clock.after(31, note("later"));
  clock.tick(30);
  assertEquals(seen, [["a", 1_010], ["c", 1_015], ["b", 1_020]]);
  assertEquals([clock.now(), clock.waiting], [1_030, 1]);
});

Deno.test("TestClock.tickAsync gives promises their turn between two calls", async () => {
  const clock = new TestClock();
  const seen: string[] = [];
  clock.after(10, async () => {
    await null;
    clock.after(10, () => seen.push("started by a promise"));
  });
  await clock.tickAsync(20);
  assertEquals(seen, ["started by a promise"]);
});

Deno.test("TestClock.freeze runs a call that starts itself again once", () => {
  const clock = new TestClock();
  let runs = 0;
  const run = () => {
    runs++;
    clock.after(10, run);
  };
  clock.after(10, run);
  clock.freeze(100);
  assertEquals(runs, 1);
  clock.tick(100);
  assertEquals(runs, 11);
});

Deno.test("TestClock.jump moves the wall clock, and no time passes", () => {
  const clock = new TestClock(1_000);
  const elapsed = clock.elapsed();
  let runs = 0;
  clock.after(1, () => runs++);
  clock.jump(-500);
  assertEquals([clock.now(), clock.elapsed(), runs], [500, elapsed, 0]);
});

Deno.test("TestClock refuses to go back", () => {
  for (const ms of [-1, NaN]) {
    assertThrows(() => new TestClock().tick(ms), RangeError, `ms is ${ms}`);
  }
});

// ---- Unmodified clients -----------------------------------------------------

Deno.test("stubGlobals connects our own client in memory: private channels, members, and nothing is lost over resets", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  using _globals = test.stubGlobals();
  const client = new Client<Events>("app-key", {
    url: "http://localhost",
    channelAuthorization: as("ann"),
  });
  const room = client.subscribe("presence-room");
  await heard(room, "pusher:subscription_succeeded");
  assertEquals(room.members.me?.info, { name: "ANN" });

  const messages = client.subscribe("messages");
  await heard(messages, "pusher:subscription_succeeded");
  const got: string[] = [];
  messages.bind("create", ({ text }) => got.push(text));
  const sent: string[] = [];
  for (let i = 0; i < 20; i++) {
    sent.push(`${i}`);
    await test.pusher.trigger("messages", "create", { text: `${i}` });
    if (i !== 5 && i !== 12) continue;
    const again = heard(messages, "pusher:subscription_succeeded");
    test.network.reset();
    await until(() => client.connection.state !== "connected");
    client.connect();
    await again;
  }
  await until(() => got.length >= sent.length);
  assertEquals(got, sent);
  client.disconnect();
});

Deno.test("stubGlobals leaves other hosts alone, and the originals come back", async () => {
  const { WebSocket: socket, fetch: before } = globalThis;
  const asked: string[] = [];
  globalThis.fetch = (input) => {
    asked.push(String(input));
    return Promise.resolve(new Response("elsewhere"));
  };
  const between = globalThis.fetch;
  try {
    await using test = testPusher({}, AMPLE);
    {
      using _globals = test.stubGlobals();
      const response = await fetch("http://example.com/");
      assertEquals(await response.text(), "elsewhere");
      const own = await fetch("http://localhost/pusher.js");
      assert((await own.text()).includes("app-key"));
      assertThrows(() => new WebSocket("ftp://example.com"));
    }
    assertEquals([WebSocket, fetch], [socket, between]);
    test.stubGlobals();
    test.stubGlobals();
    await test.close();
    assertEquals([WebSocket, fetch], [socket, between]);
    assertEquals(asked, ["http://example.com/"]);
  } finally {
    globalThis.fetch = before;
  }
});

Deno.test("faults of the network hold for the requests of a page, too", async () => {
  await using test = testPusher({}, AMPLE);
  using _globals = test.stubGlobals();
  const url = "http://localhost/pusher.js";
  test.network.refuse();
  await assertRejects(() => fetch(url), TypeError, "network of the test");
  test.network.restore();
  test.network.delay(1_000);
  let isAnswered = false;
  const delayed = fetch(url).finally(() => isAnswered = true);
  await test.clock.tickAsync(999);
  assertEquals(isAnswered, false);
  await test.clock.tickAsync(1);
  await (await delayed).body?.cancel();
  test.network.drop();
  const dropped = fetch(url);
  test.network.restore();
  await (await dropped).body?.cancel();
  test.network.drop();
  const lost = assertRejects(() => fetch(url), TypeError);
  await test.close();
  await lost;
});

/** The next event of what emits events in pusher-js. */
const next = (
  emitter: { bind(event: string, handler: (data: unknown) => void): unknown },
  event: string,
) => new Promise((resolve) => void emitter.bind(event, resolve));

Deno.test("WebSocket connects unmodified pusher-js in memory", async () => {
  await using test = testPusher<Events>(OPTIONS, AMPLE);
  // deno-lint-ignore no-explicit-any -- the package does not declare it
  const { Runtime } = PusherJs as any;
  const original = Runtime.getWebSocketAPI;
  Runtime.getWebSocketAPI = () => test.WebSocket;
  const client = new PusherJs("app-key", {
    cluster: "none",
    wsHost: "localhost",
    forceTLS: false,
    enabledTransports: ["ws"],
    channelAuthorization: {
      endpoint: "",
      transport: "ajax",
      customHandler: async ({ socketId, channelName }, callback) => {
        const response = await test.fetch("/pusher/auth", {
          method: "POST",
          ...as("ann"),
          body: new URLSearchParams({
            socket_id: socketId,
            channel_name: channelName,
          }),
        });
        callback(null, await response.json());
      },
    },
  });
  try {
    const room = client.subscribe("presence-room");
    await next(room, "pusher:subscription_succeeded");
    const bob = await test.connect(as("bob"));
    const his = await bob.subscribe("presence-room");
    assertEquals([...his.members.keys()].sort(), ["ann", "bob"]);
    const typing = next(room, "client-typing");
    his.trigger("client-typing", { since: 1 });
    assertEquals(await typing, { since: 1 });
    room.trigger("client-typing", { since: 2 });
    assertEquals(await his.next("client-typing"), { since: 2 });
  } finally {
    client.disconnect();
    Runtime.getWebSocketAPI = original;
  }
});

Deno.test("WebSocket has the interface of a browser's", async () => {
  await using test = testPusher({}, AMPLE);
  const socket = new test.WebSocket(
    "ws://anywhere.example/app/app-key?protocol=7",
    ["other", "pusher-channels-protocol-7"],
  );
  const { CONNECTING, OPEN, CLOSING, CLOSED } = test.WebSocket;
  assertEquals([CONNECTING, OPEN, CLOSING, CLOSED], [0, 1, 2, 3]);
  assertEquals(socket.readyState, CONNECTING);
  assertThrows(() => socket.send("early"), DOMException);
  const seen: string[] = [];
  socket.onopen = () => seen.push("replaced");
  socket.onopen = () => seen.push("open");
  socket.addEventListener("open", () => seen.push("listener"));
  const first = new Promise<MessageEvent>((resolve) => {
    socket.onmessage = resolve;
  });
  const { data } = await first;
  assert(data.includes("pusher:connection_established"));
  assertEquals(seen, ["open", "listener"]);
  assertEquals([socket.readyState, socket.protocol], [
    OPEN,
    "pusher-channels-protocol-7",
  ]);
  assertEquals([socket.bufferedAmount, socket.extensions], [0, ""]);
  assertThrows(() => socket.close(1001), DOMException, "code is 1001");
  const closed = new Promise<CloseEvent>((resolve) => socket.onclose = resolve);
  socket.close(4321, "bye");
  assertEquals(socket.readyState, CLOSING);
  socket.send("late");
  const { code, reason, wasClean } = await closed;
  assertEquals([code, reason, wasClean], [4321, "bye", true]);
  assertEquals(socket.readyState, CLOSED);
});

Deno.test("WebSocket sends binary data, which the server refuses, and reports a failed connection", async () => {
  await using test = testPusher({}, AMPLE);
  const url = "ws://localhost/app/app-key?protocol=7";
  const binary = new test.WebSocket(url);
  const closed = new Promise<CloseEvent>((resolve) => binary.onclose = resolve);
  binary.onopen = () => binary.send(new Uint8Array([1, 2]));
  assertEquals((await closed).code, 1003);

  const seen: string[] = [];
  const lost = new test.WebSocket("ws://localhost/nowhere");
  lost.onerror = () => seen.push("error");
  const { code, wasClean } = await new Promise<CloseEvent>((resolve) => {
    lost.onclose = resolve;
  });
  assertEquals([seen, code, wasClean], [["error"], 1006, false]);

  const given = new test.WebSocket(url);
  const up = new Promise<CloseEvent>((resolve) => given.onclose = resolve);
  given.close();
  assertEquals((await up).code, 1006);
});

// ---- The end ----------------------------------------------------------------

Deno.test("the end of a test rejects what waits", async () => {
  const test = testPusher({}, AMPLE);
  const ann = await test.connect();
  const waiting = [
    assertRejects(() => ann.next("create"), ExpectationError, "closed with"),
    assertRejects(
      () => test.expectPublished("news", "create"),
      ExpectationError,
      "the test has ended",
    ),
  ];
  await test.close();
  await Promise.all(waiting);
});

Deno.test("the end of a test closes connections, and prints errors that the test has neither seen nor caused", async () => {
  await using pusher = new Pusher({
    authorize: () => {
      throw new Error("No database");
    },
  });
  const printed: unknown[][] = [];
  const { error } = console;
  console.error = (...given) => printed.push(given);
  try {
    const away = testPusher({}, AMPLE);
    away.backplane.goAway();
    await away.close();
    assertEquals(printed, []);

    const test = testPusher(pusher, AMPLE);
    const ann = await test.connect();
    const body = new URLSearchParams({
      socket_id: ann.socketId,
      channel_name: "private-a",
    });
    await test.fetch("/pusher/auth", { method: "POST", body });
    await test.close();
    assertEquals(pusher.stats().connections, 0);
    assertEquals(printed.map(([first]) => first), [
      "Pusher: failed while authorizing a channel:",
    ]);
    await assertRejects(() => test.connect(), RefusedError);
  } finally {
    console.error = error;
  }
});

// ---- Types ------------------------------------------------------------------

Deno.test("the compiler checks channels, events and data of a test", async () => {
  await using test = testPusher<Events>(OPTIONS, SHORT);
  const ann = await test.connect(as("ann"));
  const messages = await ann.subscribe("messages");
  const room = await ann.subscribe("presence-room");
  const never = async () => {
    const created: { text: string } = await messages.next("create");
    const any: { id: number } = await ann.next("remove");
    const info: string = (await room.next("pusher:member_added")).info.name;
    const name: string | undefined = room.members.get("x")?.name;
    const published: { order: number } = await test.expectPublished(
      "private-order-7",
      "paid",
    );
    // @ts-expect-error There is no such channel.
    await ann.subscribe("message");
    // @ts-expect-error There is no such event on this channel.
    await messages.next("paid");
    // @ts-expect-error The data is another.
    const wrong: { id: number } = await messages.next("create");
    // @ts-expect-error There is no such event on any channel.
    await ann.next("nothing");
    // @ts-expect-error Only client events can be sent.
    messages.trigger("create", { text: "hello" });
    // @ts-expect-error The data is another.
    room.trigger("client-typing", { text: "hello" });
    // @ts-expect-error The data is another.
    await test.expectPublished("messages", "create", { id: 1 });
    // @ts-expect-error The member has no name.
    await ann.subscribe("presence-a", { authorized: { user_id: "ann" } });
    return [created, any, info, name, published, wrong];
  };
  void never;
  await using open = testPusher({}, AMPLE);
  const anything = await (await open.connect()).subscribe("anything");
  await open.pusher.trigger("anything", "at all", { deep: [1] });
  assertEquals((await anything.next("at all")).deep[0], 1);
});
