/**
 * Messages on their way: their order, what a join finds of them, and last events.
 *
 * @module
 */
import {
  assertEquals,
  assertExists,
  assertGreater,
  assertLess,
  assertLessOrEqual,
} from "@std/assert";
import { turn } from "../clock.ts";
import { type Delivered, type FakeServer, SOME_APP } from "./server.ts";
import {
  AGE_MS,
  assertAscending,
  dataOf,
  numbers,
  type Register,
  textsOf,
} from "./stage.ts";

// ---- Order ------------------------------------------------------------------

export function testOrder(test: Register): void {
  test("every server delivers the messages of a channel in one order", async (stage) => {
    const servers = [...await stage.two(), await stage.server()];
    const joins = servers.map((server) => server.enter("news"));
    const positions = (await Promise.all(joins)).map(({ position }) =>
      position
    );
    await Promise.all(servers.map(async (server, index) => {
      const published: Promise<void>[] = [];
      for (let n = 0; n < 60; n++) {
        // Most calls are made before the one before has been answered.
        const sent = server.publish("news", `${index} ${n}`);
        published.push(sent);
        if (n % 20 === 0) await sent;
      }
      await Promise.all(published);
    }));
    await stage.heardAll("news", ...servers);
    const [first] = servers as [FakeServer];
    const latest = positions.reduce((a, b) => a.offset > b.offset ? a : b);
    const order = first.heard("news", latest);
    assertEquals(dataOf(order).length, 180);
    for (const server of servers) {
      const heard = server.heard("news", latest);
      assertEquals(heard, order);
      assertAscending(heard);
    }
    for (const index of [0, 1, 2]) {
      const own = dataOf(order).filter((data) => data.startsWith(`${index} `));
      assertEquals(own, Array.from({ length: 60 }, (_, n) => `${index} ${n}`));
    }
  });

  test("joins, messages and leaves of one server keep the order of its calls", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await two.enter("presence-a", { user: "eve" });
    const calls = [0, 1, 2].flatMap((n) => [
      one.join("presence-a", { user: "ann" }),
      one.publish("presence-a", `in ${n}`),
      one.leave("presence-a", { user: "ann" }),
      one.publish("presence-a", `out ${n}`),
    ]);
    await Promise.all(calls);
    await stage.heardAll("presence-a", two);
    assertEquals(
      textsOf(two, "presence-a", position),
      [0, 1, 2].flatMap((n) => [
        "added ann",
        `e in ${n}`,
        "removed ann",
        `e out ${n}`,
      ]),
    );
  });

  test("a message that a server publishes while it hears another follows that one everywhere", async (stage) => {
    const servers = await stage.two();
    const [one, two] = servers;
    const after = [];
    for (const server of servers) after.push(await server.enter("news"));
    for (const server of servers) {
      server.onDelivery = ({ message }) => {
        if (message.data !== "question" || server !== one) return;
        server.publish("news", "answer");
      };
    }
    await two.publish("news", "question");
    await stage.until(() =>
      servers.every((server) => dataOf(server.heard("news")).length === 2)
    );
    for (const server of servers) {
      const heard = server.heard("news");
      assertEquals(dataOf(heard), ["question", "answer"]);
      assertAscending(heard);
    }
  });

  test("a message comes with all of its fields", async (stage) => {
    const [one, two] = await stage.two();
    const data = '{"a":"\\u0000 Ä € 😀 \\" \\\\ %25 \\r\\n","b":" "}'.repeat(
      100,
    );
    await two.enter("news", { recovers: true });
    const messages = [
      { event: "plain", data: "", logged: true },
      { event: "none" },
      { event: "Ä € 😀 : {} \n", data, logged: true },
      { event: "to", data: "1", userId: "ann {}\n:", exceptSocketId: "1.2" },
      ...(["terminate", "online", "offline"] as const).map((control) => ({
        event: control,
        control,
      })),
    ];
    for (const message of messages) {
      await one.backplane.publish(SOME_APP, "news", message);
    }
    await stage.until(() => two.heard("news").length === messages.length);
    const heard = two.heard("news").map(({ message }) => fieldsOf(message));
    assertEquals(heard, messages.map(fieldsOf));
  });
}

/** What of a message matters to servers; absent and undefined are the same. */
function fieldsOf(message: Partial<Delivered["message"]>): unknown[] {
  const { event, data, userId, exceptSocketId, logged = false, control } =
    message;
  return [event, data, userId, exceptSocketId, logged, control];
}

// ---- Joins and messages -----------------------------------------------------

/** Has a server publish numbers until it is stopped. */
function publisher(server: FakeServer, channel: string, name: string) {
  let n = 0;
  let isRunning = true;
  const done = (async () => {
    while (isRunning) {
      await Promise.all(
        [1, 2, 3].map(() => server.publish(channel, `${name} ${++n}`)),
      );
      await turn();
    }
  })();
  return () => {
    isRunning = false;
    return done;
  };
}

export function testJoins(test: Register): void {
  test("around a join nothing is lost and nothing comes twice, while others publish", async (stage) => {
    const [one, two] = await stage.two();
    const joiner = await stage.server();
    // It has the history kept.
    const { position } = await one.enter("news", { recovers: true });
    const stops = [publisher(one, "news", "1"), publisher(two, "news", "2")];
    const got: string[] = [];
    let since = position;
    for (let round = 0; round < 40; round++) {
      const before = joiner.deliveries.length;
      const result = await joiner.enter("news", { since });
      assertEquals(result.replay?.recovered, true);
      const replayed = await joiner.replay("news", result);
      assertExists(replayed);
      const later = () =>
        joiner.deliveries.slice(before).filter(({ position: { offset } }) =>
          offset > result.position.offset
        );
      await stage.until(() => later().length > round % 5);
      const live = later();
      await joiner.leave("news", { since });
      assertAscending(live);
      got.push(...replayed, ...dataOf(live));
      since = live.at(-1)?.position ?? result.position;
    }
    for (const stop of stops) await stop();
    for (const name of ["1", "2"]) {
      const own = got.filter((data) => data.startsWith(`${name} `));
      assertEquals(own, numbers(1, own.length).map((n) => `${name} ${n}`));
    }
  });

  test("a join for a repeated figure answers with what is so by then", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("presence-cache-a", { user: "ann" });
    await two.enter("presence-cache-a", { user: "bob" });
    await two.publish("presence-cache-a", "1", { cacheMs: 60_000 });
    const options = {
      ...{ connections: 1, recovering: 0 },
      member: {
        ...{ userId: "ann", userInfo: "{}", maxMembers: 10 },
        added: { event: "added" },
      },
    };
    const result = await one.backplane.join(
      ...[SOME_APP, "presence-cache-a", options] as const,
    );
    assertEquals([...result!.members.keys()].sort(), ["ann", "bob"]);
    assertEquals(result!.cached?.message.data, "1");
  });

  test("a message reaches servers whose last subscriber has just left, or not, and harms nobody", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("news");
    await two.enter("news");
    await one.leave("news");
    await two.publish("news", "1");
    const { position } = await one.enter("news");
    await two.publish("news", "2");
    await stage.heardAll("news", two);
    await stage.until(() => textsOf(one, "news", position).length === 1);
    assertEquals(textsOf(one, "news", position), ["e 2"]);
    assertEquals(textsOf(two, "news"), ["e 1", "e 2"]);
  });
}

// ---- Last events ------------------------------------------------------------

export function testCache(test: Register): void {
  const cachedBy = async (
    { backplane }: FakeServer,
    channel = "cache-a",
    app = SOME_APP,
  ) => (await backplane.cached(app, channel))?.message.data ?? null;

  test("the last event is kept whether or not anybody is there", async (stage) => {
    const [one, two] = await stage.two();
    assertEquals(await cachedBy(one), null);
    await one.publish("cache-a", "1", { cacheMs: 60_000 });
    assertEquals(await cachedBy(two), "1");
    const { cached } = await two.enter("cache-a");
    assertEquals(cached?.message.data, "1");
    assertEquals(cached?.message.event, "e");
    assertExists(cached);
    assertGreater(cached.ttlMs, 0);
    assertLessOrEqual(cached.ttlMs, 60_000);
    await one.publish("cache-a", "2", { cacheMs: 60_000 });
    await two.leave("cache-a");
    assertEquals(await cachedBy(one), "2");
    // Other messages, such as those about members, take no part in it.
    await one.publish("cache-a", "3");
    assertEquals(await cachedBy(two), "2");
    assertEquals(await cachedBy(two, "cache-b"), null);
    assertEquals(await cachedBy(two, "cache-a", "other"), null);
  });

  test("the last event stands where it was delivered", async (stage) => {
    const [one, two] = await stage.two();
    const { cached: none } = await two.enter("cache-a", { recovers: true });
    assertEquals(none, undefined);
    await one.publish("cache-a", "1", { cacheMs: 60_000 });
    await one.publish("cache-a", "2", { logged: false });
    await stage.heardAll("cache-a", two);
    const [{ position }] = two.heard("cache-a") as [Delivered];
    const { cached } = await one.enter("cache-a");
    assertEquals(cached?.position, position);
    const asked = await two.backplane.cached(SOME_APP, "cache-a");
    assertEquals(asked?.position, position);
  });

  test("the last event expires, and the channel goes on", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("cache-a");
    await one.publish("cache-a", "long", { cacheMs: 600_000 });
    await one.publish("cache-b", "short", { cacheMs: AGE_MS });
    assertEquals(await cachedBy(two, "cache-b"), "short");
    await stage.deployment.pass(AGE_MS / 4);
    const kept = await two.backplane.cached(SOME_APP, "cache-b");
    assertExists(kept);
    assertLess(kept.ttlMs, AGE_MS * 0.8);
    await stage.deployment.pass(AGE_MS);
    assertEquals(await cachedBy(two, "cache-b"), null);
    assertEquals((await two.enter("cache-b")).cached, undefined);
    assertEquals(await cachedBy(two), "long");
    // A later event that expires sooner takes the place of an earlier one.
    await one.publish("cache-a", "short", { cacheMs: AGE_MS });
    await stage.deployment.pass(1.5 * AGE_MS);
    assertEquals(await cachedBy(two), null);
    await one.publish("cache-b", "again", { cacheMs: 60_000 });
    assertEquals(await cachedBy(two, "cache-b"), "again");
  });
}
