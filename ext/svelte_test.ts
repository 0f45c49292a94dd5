import {
  channel,
  connectionState,
  onEvent,
  presence,
  subscription,
} from "@glitz/pusher/svelte";
import { assertEquals } from "@std/assert";
import { joinReal, RealServer, until } from "../tests/support/client.ts";

/** The values that a store has given, and a function that unsubscribes. */
function valuesOf<Value>(
  store: { subscribe(run: (value: Value) => void): () => void },
): { values: Value[]; stop(): void } {
  const values: Value[] = [];
  return { values, stop: store.subscribe((value) => values.push(value)) };
}

function serve(): RealServer {
  let users = 0;
  return new RealServer({
    authorize: () => ({ user_id: `${++users}`, user_info: { n: users } }),
  });
}

Deno.test("presence gives the members, and leaves the channel with its last subscriber", async () => {
  await using server = serve();
  using client = await server.connect();
  const lobby = presence(client.pusher, "presence-lobby");
  const one = valuesOf(lobby);
  const two = valuesOf(lobby);
  await until(() => one.values.at(-1)?.count === 1);
  {
    using other = await server.connect();
    await joinReal(other, "presence-lobby");
    await until(() => two.values.at(-1)?.count === 2);
  }
  await until(() => two.values.at(-1)?.count === 1);
  assertEquals(one.values.map(({ count }) => count), [0, 1, 2, 1]);
  assertEquals(two.values, one.values);
  assertEquals(one.values.at(-1)?.me, { id: "1", info: { n: 1 } });
  one.stop();
  await null;
  assertEquals(client.pusher.channel("presence-lobby")?.subscribed, true);
  two.stop();
  await null;
  assertEquals(client.pusher.channel("presence-lobby"), undefined);
});

Deno.test("subscription says why a channel was refused", async () => {
  await using server = new RealServer({ authorize: () => false });
  using client = await server.connect();
  const refused = valuesOf(subscription(client.pusher, "private-orders"));
  await until(() => refused.values.at(-1)?.state === "refused");
  assertEquals(refused.values.map(({ state }) => state), [
    "pending",
    "refused",
  ]);
  assertEquals(refused.values.at(-1)?.error?.status, 403);
  refused.stop();
});

Deno.test("channel and connectionState give values from before the connection to its end", async () => {
  await using server = serve();
  using client = await server.connect();
  const news = valuesOf(channel(client.pusher, "news"));
  const state = valuesOf(connectionState(client.pusher));
  client.pusher.disconnect();
  news.stop();
  state.stop();
  client.pusher.connect();
  assertEquals(news.values.map((value) => value?.name), [undefined, "news"]);
  assertEquals(state.values, ["connected", "disconnected"]);
});

Deno.test("onEvent handles an event until it is stopped", async () => {
  await using server = serve();
  using client = await server.connect();
  const texts: unknown[] = [];
  const listening = () =>
    onEvent(client.pusher, "news", "create", (data) => texts.push(data));
  const stop = listening();
  const stopOther = listening();
  await until(() => client.pusher.channel("news")?.subscribed === true);
  await server.pusher.trigger("news", "create", 1);
  await until(() => texts.length === 2);
  stop();
  await server.pusher.trigger("news", "create", 2);
  await until(() => texts.length === 3);
  assertEquals(texts, [1, 1, 2]);
  stopOther();
});

Deno.test("on a server, where there is no client, the stores have their initial values", () => {
  for (
    const [store, value] of [
      [channel(undefined, "news"), undefined],
      [connectionState(undefined), "initialized"],
      [presence(undefined, "presence-lobby"), {
        members: [],
        count: 0,
        me: null,
      }],
    ] as const
  ) {
    const { values, stop } = valuesOf<unknown>(store);
    stop();
    assertEquals(values, [value]);
  }
  onEvent(undefined, "news", "create", () => {})();
});
