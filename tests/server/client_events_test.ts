/**
 * Client events that the server has to refuse, and their rate.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { ManualClock } from "../support/clock.ts";
import { objectOf, serve } from "../support/server.ts";
import { dataOf } from "../support/wire.ts";

Deno.test("a client event that breaks a rule is answered with 4301 and not relayed", async () => {
  await using server = serve({ clientEvents: true });
  await using ann = await server.connect();
  await using bob = await server.connect();
  for (const client of [ann, bob]) {
    for (const channel of ["news", "private-a", "cache-a"]) {
      await client.join(channel);
    }
    await client.next("pusher:cache_miss");
  }
  await bob.join("private-b");
  const refused: [channel: string, event?: string, data?: unknown][] = [
    ["news"],
    ["cache-a"],
    ["private-b"],
    ["private-c"],
    ["presence-a"],
    ["#server-to-user-1"],
    ["a b"],
    ["private-a", `client-${"x".repeat(194)}`],
    ["private-a", "client-x", "x".repeat(10_241)],
    ["private-a", "client-x", "ü".repeat(5_121)],
    ["private-a", "client-x", objectOf(10_241)],
  ];
  for (const [channel, event = "client-x", data = {}] of refused) {
    ann.send({ event, channel, data });
    const frame = await ann.next("pusher:error");
    assertEquals(frame.channel, channel);
    assertEquals((frame.data as { code: number }).code, 4301, channel);
  }
  for (const channel of [undefined, null, 5, ["private-a"], {}]) {
    ann.send({ event: "client-x", channel });
    const { channel: told, data } = await ann.next("pusher:error");
    assertEquals([told, (data as { code: number }).code], [undefined, 4300]);
  }
  ann.send({ event: "xclient-a", channel: "private-a" });
  assertEquals(dataOf(await ann.next("pusher:error")).code, 4300);
  await bob.silence();
  for (
    const [event, data] of [
      [`client-${"x".repeat(193)}`, 1],
      ["client-", "x".repeat(10_240)],
      ["client-x", objectOf(10_240)],
    ] as const
  ) {
    ann.send({ event, channel: "private-a", data });
    assertEquals((await bob.next()).event, event);
  }
  ann.unsubscribe("private-a");
  ann.send({ event: "client-x", channel: "private-a" });
  await ann.next("pusher:error");
});

Deno.test("a client that may not send is refused before its data is measured", async () => {
  const clock = new ManualClock();
  await using server = serve({ clientEvents: true, clock });
  await using ann = await server.connect();
  await using bob = await server.connect();
  for (const client of [ann, bob]) await client.join("private-a");
  const large = objectOf(10_241);
  const send = async (channel: string, data: unknown) => {
    ann.send({ event: "client-x", channel, data });
    return dataOf(await ann.next("pusher:error")).message;
  };
  // Such events are not counted.
  for (let i = 0; i < 20; i++) {
    assertMatch(await send("private-b", large), /for subscribers/);
  }
  for (let i = 0; i < 10; i++) {
    assertMatch(await send("private-a", large), /eventDataBytes is 10240/);
  }
  assertMatch(await send("private-a", large), /clientEventsPerSecond is 10/);
  assertMatch(await send("private-a", 1), /clientEventsPerSecond is 10/);
  await bob.silence();
  clock.pass(100);
  ann.send({ event: "client-x", channel: "private-a", data: 1 });
  assertEquals((await bob.next()).data, "1");
});

Deno.test("a refused client event names at most 1,000 characters of its channel", async () => {
  await using server = serve({ clientEvents: true });
  await using ann = await server.connect();
  ann.send({ event: "client-x", channel: "x".repeat(60_000) });
  const { channel } = await ann.next("pusher:error");
  assertEquals(channel, "x".repeat(1_000));
});

Deno.test("client events are limited to 10 a second, of those that a client may send", async () => {
  await using server = serve({
    clientEvents: true,
    limits: { framesPerSecond: Infinity },
  });
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("private-a");
  await bob.join("private-a");
  for (let i = 0; i < 20; i++) {
    ann.send({ event: "client-x", channel: "private-none" });
  }
  assertEquals((await ann.framesUntilPong()).length, 20);
  const start = performance.now();
  for (let i = 0; i < 30; i++) {
    ann.send({ event: "client-x", channel: "private-a", data: i });
  }
  const refusals = await ann.framesUntilPong();
  const refilled = Math.ceil((performance.now() - start) / 100);
  const relayed = await bob.framesUntilPong();
  const count = relayed.length;
  assert(count >= 10 && count <= 10 + refilled, `${count} of ${refilled}`);
  assertEquals(refusals.length, 30 - count);
  assertEquals(
    relayed.slice(0, 10).map(({ data }) => data),
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
  );
  for (const frame of refusals) {
    assertEquals(frame.channel, "private-a");
    assertEquals(dataOf(frame).code, 4301);
  }
  // In time there is room again, on a connection that has stayed open.
  for (;;) {
    ann.send({ event: "client-x", channel: "private-a", data: "again" });
    if ((await ann.framesUntilPong()).length === 0) break;
  }
  assertEquals((await bob.next()).data, "again");
});
