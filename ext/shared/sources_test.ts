/**
 * Subscriptions that frameworks share, without a framework: a server that the test
 * scripts sees every frame of the client.
 */
import { type Channel, Pusher } from "@glitz/pusher/client";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { heard, open, optionsFor, Server } from "../../tests/support/client.ts";
import {
  channelSource,
  listen,
  NOBODY,
  presenceSource,
  stateSource,
  subscriptionSource,
  toLazy,
} from "./sources.ts";

/** What the client has sent, without the data of a subscription that is no name. */
async function sent(peer: { framesUntilPong(): Promise<unknown[]> }) {
  // Releases end with the turn.
  await null;
  const frames = await peer.framesUntilPong() as {
    event: string;
    data: { channel: string };
  }[];
  return frames.map(({ event, data }) =>
    `${event.replace("pusher:", "")} ${data.channel}`
  );
}

const ignore = () => {};

// ---- Subscriptions ----------------------------------------------------------

Deno.test("components share one subscription, which ends with the last of them", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const lazy = toLazy(pusher);
  const first = channelSource(lazy, "news").watch(ignore);
  const second = listen(lazy, "news", "create", ignore);
  assertEquals(await sent(peer), ["subscribe news"]);
  first();
  // A function that was called does nothing more.
  first();
  assertEquals(await sent(peer), []);
  second();
  assertEquals(pusher.channel("news")?.name, "news");
  await null;
  // The server has not answered yet: the client leaves the channel then.
  assertEquals(pusher.channel("news")?.subscriptionCancelled, true);
});

Deno.test("a component that is mounted again in the same turn keeps its subscription", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const source = channelSource(toLazy(pusher), "news");
  source.watch(ignore)();
  const stop = source.watch(ignore);
  peer.send("pusher_internal:subscription_succeeded", {}, { channel: "news" });
  assertEquals(await sent(peer), ["subscribe news"]);
  stop();
  const again = source.watch(ignore);
  assertEquals(await sent(peer), []);
  again();
  assertEquals(await sent(peer), ["unsubscribe news"]);
  source.watch(ignore);
  assertEquals(await sent(peer), ["subscribe news"]);
});

for (const order of ["before", "after"]) {
  Deno.test(`the program keeps a channel to which it has subscribed ${order} a component`, async () => {
    await using server = new Server();
    using connection = await open(server);
    const { client: { pusher }, peer } = connection;
    if (order === "before") pusher.subscribe("news");
    const stop = channelSource(toLazy(pusher), "news").watch(ignore);
    if (order === "after") pusher.subscribe("news");
    peer.send("pusher_internal:subscription_succeeded", {}, {
      channel: "news",
    });
    assertEquals(await sent(peer), ["subscribe news"]);
    stop();
    assertEquals(await sent(peer), []);
    const channel = pusher.channel("news");
    assertEquals(channel?.subscribed, true);
    pusher.unsubscribe("news");
    assertEquals(await sent(peer), ["unsubscribe news"]);
  });
}

Deno.test("a component keeps a channel that the program unsubscribes from", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const channel = pusher.subscribe("news");
  const stop = listen(toLazy(pusher), "news", "create", ignore);
  peer.send("pusher_internal:subscription_succeeded", {}, { channel: "news" });
  assertEquals(await sent(peer), ["subscribe news"]);
  pusher.unsubscribe("news");
  assertEquals(await sent(peer), []);
  assertEquals(pusher.channel("news"), channel);
  stop();
  assertEquals(await sent(peer), ["unsubscribe news"]);
  assertEquals(pusher.channel("news"), undefined);
});

Deno.test("a reconnect takes no channel over from components to the program", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  const stop = channelSource(toLazy(client.pusher), "news").watch(ignore);
  assertEquals(await sent(peer), ["subscribe news"]);
  const connected = client.heard("connected");
  peer.close(4200);
  const next = await server.establish("2.2");
  await connected;
  next.send("pusher_internal:subscription_succeeded", {}, { channel: "news" });
  assertEquals(await sent(next), ["subscribe news"]);
  stop();
  assertEquals(await sent(next), ["unsubscribe news"]);
});

Deno.test("a handler that is bound twice is unbound once at a time", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const lazy = toLazy(pusher);
  const calls: unknown[] = [];
  const handler = (data: unknown) => calls.push(data);
  const stops = ["news", "news", pusher, pusher].map((target) =>
    listen(lazy, target, "create", handler)
  );
  peer.send("create", 1, { channel: "news" });
  assertEquals(await sent(peer), ["subscribe news"]);
  stops[0]!();
  stops[2]!();
  peer.send("create", 2, { channel: "news" });
  await peer.framesUntilPong();
  assertEquals(calls, [1, 1, 1, 1, 2, 2]);
});

Deno.test("a name that the client refuses throws, and leaves nothing behind", async () => {
  await using server = new Server();
  const made: Pusher[] = [];
  const lazy = toLazy(() => {
    const pusher = new Pusher("app-key", optionsFor(server));
    made.push(pusher);
    return pusher;
  });
  assertThrows(
    () => channelSource(lazy, "#news").watch(ignore),
    Error,
    "#news",
  );
  await null;
  assertEquals(made.map(({ connection }) => connection.state), [
    "disconnected",
  ]);
  assertEquals(lazy.peek(), undefined);
});

// ---- Clients ----------------------------------------------------------------

Deno.test("a function makes the client when it is needed, and again when it is needed again", async () => {
  await using server = new Server();
  const made: Pusher[] = [];
  const lazy = toLazy(() => {
    const pusher = new Pusher("app-key", optionsFor(server));
    made.push(pusher);
    return pusher;
  });
  const sources = [stateSource(lazy), channelSource(lazy, "news")];
  assertEquals(sources.map((source) => source.read()), [
    "initialized",
    undefined,
  ]);
  assertEquals(made, []);
  const stops = sources.map((source) => source.watch(ignore));
  assertEquals(made.length, 1);
  const connected = heard(made[0]!.connection, "connected");
  await server.establish();
  await connected;
  assertEquals(sources[0]!.read(), "connected");
  assertEquals((sources[1]!.read() as Channel).name, "news");
  stops[0]!();
  await null;
  assertEquals(made[0]!.connection.state, "connected");
  stops[1]!();
  await null;
  assertEquals(made[0]!.connection.state, "disconnected");
  assertEquals(sources[0]!.read(), "initialized");
  const stop = sources[0]!.watch(ignore);
  assertEquals(made.length, 2);
  await server.accept();
  stop();
});

// ---- Values -----------------------------------------------------------------

Deno.test("a subscription is pending, refused, pending again with the next connection, and subscribed", async () => {
  await using server = new Server();
  using connection = await open(server);
  const { client, peer } = connection;
  const source = subscriptionSource(toLazy(client.pusher), "news");
  const seen: string[] = [];
  const note = () => {
    const { state, error } = source.read();
    const text = error === null ? state : `${state}: ${error.error}`;
    if (seen.at(-1) !== text) seen.push(text);
  };
  note();
  const stop = source.watch(note);
  const error = { type: "AuthError", error: "Not for you", status: 403 };
  peer.send("pusher:subscription_error", error, { channel: "news" });
  await sent(peer);
  assertEquals(source.read(), { state: "refused", error });
  assert(source.read() === source.read());
  const connected = client.heard("connected");
  peer.close(4200);
  const next = await server.establish("2.2");
  await connected;
  next.send("pusher_internal:subscription_succeeded", {}, { channel: "news" });
  await sent(next);
  stop();
  const wanted = ["pending", "refused: Not for you", "pending", "subscribed"];
  assertEquals(seen, wanted);
  const none = subscriptionSource(toLazy(client.pusher), null);
  assertEquals(none.read().state, "none");
});

Deno.test("members are the same object until they change", async () => {
  await using server = new Server();
  const customHandler = (
    _request: unknown,
    callback: (
      error: null,
      answer: { auth: string; channel_data: string },
    ) => void,
  ) => callback(null, { auth: "a:b", channel_data: `{"user_id":"1"}` });
  using connection = await open(server, {
    channelAuthorization: { customHandler },
  });
  const { client, peer } = connection;
  const channel = "presence-lobby";
  const source = presenceSource(toLazy(client.pusher), channel);
  const counts: number[] = [];
  const stop = source.watch(() => counts.push(source.read().count));
  assertEquals(
    await peer.next().then(({ event }) => event),
    "pusher:subscribe",
  );
  assertEquals(source.read(), NOBODY);
  const presence = { hash: { 1: { name: "Ann" }, 2: { name: "Bob" } } };
  const send = (event: string, data: unknown) =>
    peer.send(`pusher_internal:${event}`, data, { channel });
  send("subscription_succeeded", { presence });
  await peer.framesUntilPong();
  const before = source.read();
  assertEquals(before, {
    members: [{ id: "1", info: { name: "Ann" } }, {
      id: "2",
      info: { name: "Bob" },
    }],
    count: 2,
    me: { id: "1", info: { name: "Ann" } },
  });
  assertEquals(source.read() === before, true);
  send("member_added", { user_id: "3", user_info: { name: "Eve" } });
  send("member_removed", { user_id: "2" });
  send("member_added", { user_id: "3", user_info: { name: "Eva" } });
  peer.send("create", 1, { channel });
  await peer.framesUntilPong();
  assertEquals(source.read().members.map(({ info }) => info.name), [
    "Ann",
    "Eva",
  ]);
  // The first is from the beginning: a framework may have read the value before it.
  assertEquals(counts, [0, 2, 3, 2, 2]);
  const lost = client.heard("connecting");
  peer.close(4200);
  await lost;
  assertEquals(source.read(), NOBODY);
  assertEquals(counts.at(-1), 0);
  stop();
});
