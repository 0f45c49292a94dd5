/**
 * `docs/troubleshooting.md` as a reader follows it: each symptom brought about, what the
 * guide quotes, and then the remedy. In memory, as a socket would add nothing; causes
 * in proxies and browsers are in `server/` and `client/`.
 */
import { Pusher } from "@glitz/pusher";
import { Pusher as Client } from "@glitz/pusher/client";
import { RefusedError, TestClock, testPusher } from "@glitz/pusher/testing";
import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { heard } from "./support/client.ts";
import { within } from "./support/deadline.ts";

const GUIDE = (await Deno.readTextFile(
  new URL("../docs/troubleshooting.md", import.meta.url),
)).replaceAll(/\s+/g, " ");

const DEADLINE = { deadlineMs: 20_000 };

/** What the guide quotes; an ellipsis stands for a value. */
function assertQuoted(said: string, quote: string): void {
  assertStringIncludes(GUIDE, `"${quote}`);
  for (const part of quote.split("…")) assertStringIncludes(said, part.trim());
}

/** Asks the auth endpoint as a client does. */
async function ask(
  { handler }: Pusher,
  { path = "/pusher/auth", channel = "private-a", headers = {} } = {},
): Promise<[number, string]> {
  const response = await handler(
    new Request(`http://localhost${path}`, {
      method: "POST",
      headers,
      body: new URLSearchParams({ socket_id: "1.1", channel_name: channel }),
    }),
  );
  return [response.status, await response.text()];
}

// ---- Nothing in the console --------------------------------------------------

Deno.test("nothing in the console: 404 for the script where another handler or path is first", async () => {
  await using pusher = new Pusher({ path: "/realtime" });
  const app = () => new Response("<h1>Mine</h1>", { status: 200 });
  const statusOf = async (
    handler: (request: Request) => Response | Promise<Response>,
    path: string,
  ) => {
    const response = await handler(new Request(`http://localhost${path}`));
    const text = await response.text();
    return text.includes("app-key") ? "script" : response.status;
  };
  assertEquals(await statusOf(pusher.handler, "/pusher.js"), 404);
  const late = Pusher.cascade(app, pusher.handler);
  assertEquals(await statusOf(late, "/realtime/pusher.js"), 200);
  const first = Pusher.cascade(pusher.handler, app);
  assertEquals(await statusOf(first, "/realtime/pusher.js"), "script");
});

Deno.test("nothing in the console: an instance that is not mounted publishes to nobody", async () => {
  await using test = testPusher({}, DEADLINE);
  const news = await (await test.connect()).subscribe("news");
  await using other = new Pusher();
  await other.trigger("news", "create", 1);
  await news.expectNothing();
  await test.pusher.trigger("news", "create", 2);
  assertEquals(await news.next("create"), 2);
});

Deno.test("nothing in the console: a client whose join was refused is connected, and not subscribed", async () => {
  await using test = testPusher({ authorize: () => false }, DEADLINE);
  test.stubGlobals();
  const pusher = new Client("app-key", { url: "http://localhost" });
  const channel = pusher.subscribe("private-a");
  await heard(channel, "pusher:subscription_error");
  assertEquals([pusher.connection.state, channel.subscribed], [
    "connected",
    false,
  ]);
  pusher.disconnect();
});

// ---- 403 from /pusher/auth ---------------------------------------------------

Deno.test("403 from /pusher/auth: what authorize returns, and what it should", async () => {
  const answers: unknown[] = [];
  await using pusher = new Pusher({
    // A program without types returns anything.
    authorize: () => answers.pop() as boolean,
  });
  answers.push(undefined);
  const [status, text] = await ask(pusher);
  assertEquals(status, 403);
  assertQuoted(text, "authorize returned undefined");
  for (const refused of [false, Promise.resolve(false)]) {
    answers.push(refused);
    assertEquals((await ask(pusher))[0], 403);
  }
  answers.push(true);
  assertEquals((await ask(pusher))[0], 200);
  answers.push(Promise.resolve({ user_id: "7", user_info: { name: "Ann" } }));
  assertEquals((await ask(pusher, { channel: "presence-a" }))[0], 200);
});

Deno.test("403 from /pusher/auth: the origin, or a Host that a proxy has changed", async () => {
  const authorize = () => true;
  const headers = { origin: "https://example.com", host: "10.0.0.1:6001" };
  await using pusher = new Pusher({ authorize });
  const [status, text] = await ask(pusher, { headers });
  assertEquals(status, 403);
  assertQuoted(
    JSON.parse(text).error.replaceAll('"', ""),
    "Origin … is not that of host …",
  );
  const passed = { ...headers, host: "example.com" };
  assertEquals((await ask(pusher, { headers: passed }))[0], 200);
  await using listed = new Pusher({ authorize, origins: headers.origin });
  assertEquals((await ask(listed, { headers }))[0], 200);
});

Deno.test("403 from /pusher/auth: a socket of another server, unless the path names the app", async () => {
  const apps = ["a", "b"].map((id) => ({ id, key: `key-${id}`, secret: id }));
  await using pusher = new Pusher({ apps, authorize: () => true });
  const [status, text] = await ask(pusher);
  assertEquals(status, 403);
  assertQuoted(text, "No connection has this socket_id here");
  const [named, answer] = await ask(pusher, { path: "/pusher/auth/key-b" });
  assertEquals(named, 200);
  assertStringIncludes(answer, '"key-b:');
});

Deno.test("404 in place of 403 without authorize, and 500 if it throws", async () => {
  await using none = new Pusher();
  const [missing, text] = await ask(none);
  assertEquals(missing, 404);
  assertQuoted(text, "Nothing authorizes channels here");
  await using failing = new Pusher({
    authorize() {
      throw new Error("no database");
    },
  });
  const during: string[] = [];
  failing.on("error", (event) => void during.push(event.during));
  const [status, why] = await ask(failing);
  assertEquals([status, during.length], [500, 1]);
  assertQuoted(why, "the log of the server says why");
});

Deno.test("200 from an endpoint of one's own that signs with another secret, and a refused subscription", async () => {
  const app = { key: "app-key", secret: "right" };
  await using other = new Pusher({ ...app, secret: "wrong" });
  const endpoint = async (request: Request) => {
    const form = await request.formData();
    const [id, channel] = [form.get("socket_id"), form.get("channel_name")];
    return Response.json(other.authorizeChannel(`${id}`, `${channel}`));
  };
  await using pusher = new Pusher(app);
  const handler = Pusher.cascade(pusher.handler, endpoint);
  await using test = testPusher(pusher, {
    ...DEADLINE,
    handler,
    authEndpoint: "/own/auth",
  });
  const client = await test.connect();
  const refused = await assertRejects(
    () => client.subscribe("private-a"),
    RefusedError,
  );
  assertQuoted(
    refused.message,
    "The signature is missing, or not made for this connection and channel",
  );
});

// ---- 4201 --------------------------------------------------------------------

Deno.test("4201: a client that says nothing in time, and not one that answers", async () => {
  const clock = new TestClock();
  await using test = testPusher({ clock, pingAfterMs: 10_000 }, DEADLINE);
  const silent = await test.connect();
  const fine = await test.connect();
  silent.network.delay(3_600_000);
  await clock.tickAsync(60_000);
  assertEquals(test.pusher.stats().connections, 1);
  // It comes late, as the network holds it back.
  silent.network.restore();
  const { code, reason } = await within(20_000, "close", silent.closed);
  assertEquals(code, 4201);
  assertQuoted(reason, "No pong within the timeout");
  const news = await fine.subscribe("news");
  await test.pusher.trigger("news", "create", 1);
  assertEquals(await news.next("create"), 1);
});

// ---- Events twice ------------------------------------------------------------

Deno.test("events twice: a handler that is bound twice, until it is unbound", async () => {
  await using test = testPusher({}, DEADLINE);
  test.stubGlobals();
  const pusher = new Client("app-key", { url: "http://localhost" });
  const news = pusher.subscribe("news");
  await heard(news, "pusher:subscription_succeeded");
  let count = 0;
  const handler = () => void count++;
  news.bind("create", handler).bind("create", handler);
  const publish = async () => {
    count = 0;
    const done = heard(news, "done");
    await test.pusher.trigger("news", "create", {});
    await test.pusher.trigger("news", "done", {});
    await done;
    return count;
  };
  assertEquals(await publish(), 2);
  news.unbind("create", handler);
  assertEquals(await publish(), 0);
  // The one of the client hears all channels.
  pusher.bind("create", handler);
  news.bind("create", handler);
  assertEquals(await publish(), 2);
  const instances = Client.instances.length;
  const second = new Client("app-key", { url: "http://localhost" });
  assertEquals(Client.instances.length, instances + 1);
  second.disconnect();
  pusher.disconnect();
});

Deno.test("events twice: the sender gets its own event, unless its socket_id is left out", async () => {
  await using test = testPusher({}, DEADLINE);
  const client = await test.connect();
  const news = await client.subscribe("news");
  const { socketId: socket_id } = client;
  await test.pusher.trigger("news", "create", 1);
  assertEquals(await news.next("create"), 1);
  await test.pusher.trigger("news", "create", 2, { socket_id });
  await news.expectNothing();
});

// ---- The others --------------------------------------------------------------

Deno.test("events are missing: rewind brings those before the subscription", async () => {
  await using test = testPusher({}, DEADLINE);
  // History is kept while a client that can recover is there.
  const early = await test.connect();
  await early.subscribe("news", { rewind: 1 });
  await test.pusher.trigger("news", "create", 1);
  const late = await test.connect();
  const news = await late.subscribe("news", { rewind: 5 });
  assertEquals(await news.next("create"), 1);
});

Deno.test("client events do nothing: the guide's causes, and what the sender hears", async () => {
  const authorize = () => true;
  await using off = testPusher({ authorize }, DEADLINE);
  const event = { event: "client-a", channel: "private-a", data: {} };
  const sender = await off.connect();
  await sender.subscribe("private-a");
  sender.send(event);
  const { message } = await sender.next("pusher:error") as { message: string };
  assertQuoted(message, "Client events are not enabled");

  await using on = testPusher({ authorize, clientEvents: true }, DEADLINE);
  const [ann, bob] = [await on.connect(), await on.connect()];
  const hers = await ann.subscribe("private-a");
  const his = await bob.subscribe("private-a");
  await ann.subscribe("public");
  ann.send({ ...event, channel: "public" });
  await ann.next("pusher:error");
  hers.trigger("client-a", 1);
  assertEquals(await his.next("client-a"), 1);
  await hers.expectNothing();
});

Deno.test("401 when a backend publishes: the guide names what the body says", async () => {
  await using pusher = new Pusher({ secret: "right" });
  await using wrong = new Pusher({ secret: "wrong" });
  await using slow = new Pusher({
    secret: "right",
    now: () => Date.now() - 3_600_000,
  });
  const publish = async (signer: Pusher, path: string) => {
    const body = JSON.stringify({ name: "a", channels: ["b"], data: "c" });
    const query = signer.createSignedQueryString({
      method: "POST",
      path,
      body,
    });
    const url = `http://localhost${path}?${query}`;
    const response = await pusher.handler(
      new Request(url, { method: "POST", body }),
    );
    return [response.status, await response.text()] as const;
  };
  const path = "/apps/1/events";
  assertEquals((await publish(pusher, path))[0], 200);
  const [status, said] = await publish(wrong, path);
  assertEquals(status, 401);
  assertStringIncludes(said, "auth_signature");
  assertStringIncludes(GUIDE, "`auth_signature`: the secret is another one.");
  const [late, when] = await publish(slow, path);
  assertEquals(late, 401);
  assertStringIncludes(when, "auth_timestamp");
  assertStringIncludes(GUIDE, "`auth_timestamp`: the clocks differ");
  const [unknown, why] = await publish(pusher, "/apps/app-id/events");
  assertEquals(unknown, 404);
  assertQuoted(why, "No app has the id");
});

Deno.test("close codes: what the guide lists is what the server closes with", async () => {
  await using test = testPusher({ limits: { connections: 1 } }, DEADLINE);
  await using _one = await test.connect();
  const closes: [code: number, connect: () => Promise<unknown>][] = [
    [4001, () => test.connect({ key: "unknown" })],
    [4004, () => test.connect()],
  ];
  for (const [code, connect] of closes) {
    const error = await assertRejects(connect, RefusedError);
    assertEquals(error.code, code);
    const [, quote = ""] = RegExp(`\\| ${code} \\| \`([^\`]+)`).exec(GUIDE) ??
      [];
    assert(quote !== "", `${code}`);
    assertStringIncludes(error.message, quote);
  }
});
