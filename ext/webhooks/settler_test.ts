/**
 * What is held back before it is reported, in case it is undone.
 */
import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { inShort, Receiver } from "../../tests/support/receiver.ts";
import {
  Client,
  OCCUPANCY,
  pass,
  setUp,
  turn,
} from "../../tests/support/webhooks.ts";

Deno.test("channel_vacated is told 3 s after the last one left, by unsubscribe or close", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { events: OCCUPANCY });
  using fence = new Client(server.pusher);
  const client = new Client(server.pusher).join("a").join("b");
  assertEquals(await receiver.toldAll(2), [
    "channel_occupied a",
    "channel_occupied b",
  ]);
  client.leave("a");
  await pass(server, time, 1_000);
  client.close();
  await pass(server, time, 1_999);
  fence.join("c");
  assertEquals(await receiver.told(), "channel_occupied c");
  await pass(server, time, 1);
  assertEquals(await receiver.told(), "channel_vacated a");
  await pass(server, time, 999);
  fence.join("d");
  assertEquals(await receiver.told(), "channel_occupied d");
  await pass(server, time, 1);
  const { events, timeMs } = await receiver.take();
  assertEquals(events.map(inShort), ["channel_vacated b"]);
  assertEquals(timeMs, time.now);
});

Deno.test("a channel that is back within 3 s is told neither as vacated nor as occupied", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { events: OCCUPANCY });
  using client = new Client(server.pusher).join("a");
  assertEquals(await receiver.told(), "channel_occupied a");
  // It flaps for a while, never away for long, and stays.
  for (let i = 0; i < 5; i++) {
    client.leave("a");
    await pass(server, time, 2_999);
    client.join("a");
    await turn();
  }
  await pass(server, time, 10_000);
  client.join("fence-1");
  assertEquals(await receiver.told(), "channel_occupied fence-1");
  // It flaps again, and ends up vacated: once, 3 s after the last departure.
  for (let i = 0; i < 5; i++) {
    client.leave("a");
    await pass(server, time, 1_000);
    client.join("a");
    await turn();
  }
  client.leave("a");
  await pass(server, time, 2_999);
  client.join("fence-2");
  assertEquals(await receiver.told(), "channel_occupied fence-2");
  await pass(server, time, 1);
  assertEquals(await receiver.told(), "channel_vacated a");
  // From there on it is news again.
  client.join("a").join("fence-3");
  assertEquals(await receiver.toldAll(2), [
    "channel_occupied a",
    "channel_occupied fence-3",
  ]);
});

Deno.test("a member who is back within 3 s is told neither as removed nor as added", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url);
  const ann = new Client(server.pusher).join("presence-a", "ann");
  await receiver.toldAll(2);
  // All leave; another user comes, then the first on another connection.
  ann.close();
  await pass(server, time, 1_000);
  using bob = new Client(server.pusher).join("presence-a", "bob");
  assertEquals(await receiver.told(), "member_added presence-a bob");
  using ann2 = new Client(server.pusher).join("presence-a", "ann");
  await pass(server, time, 10_000);
  // One of the two goes for good, and the channel stays occupied.
  bob.close();
  await pass(server, time, 3_000);
  assertEquals(await receiver.told(), "member_removed presence-a bob");
  // The last one goes: the member first, then the channel.
  ann2.close();
  await pass(server, time, 3_000);
  assertEquals(await receiver.toldAll(2), [
    "member_removed presence-a ann",
    "channel_vacated presence-a",
  ]);
});

Deno.test("an endpoint that wants only occupied is not told of one that was not really vacated", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, { events: ["channel_occupied"] });
  using client = new Client(server.pusher).join("a");
  assertEquals(await receiver.told(), "channel_occupied a");
  client.leave("a");
  await pass(server, time, 2_999);
  client.join("a").join("fence");
  assertEquals(await receiver.told(), "channel_occupied fence");
});

Deno.test("settleMs is how long they wait, and they stay in order", async () => {
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    settleMs: 20,
    events: ["channel_vacated"],
  });
  const client = new Client(server.pusher);
  const expected = [];
  for (let i = 0; i < 100; i++) {
    client.join(`news-${i}`);
    expected.push(`channel_vacated news-${i}`);
  }
  client.close();
  assertEquals(await receiver.toldAll(100), expected);
});

Deno.test("cache_miss is told once, until something is published or the channel is vacated", async () => {
  using time = new FakeTime();
  await using receiver = new Receiver();
  await using server = setUp(receiver.url, {
    pusher: { cacheTtlMs: 60_000 },
    events: ["cache_miss"],
  });
  const channel = "cache-a";
  using ann = new Client(server.pusher).join(channel);
  using bob = new Client(server.pusher).join(channel);
  assertEquals(await receiver.told(), "cache_miss cache-a");
  bob.join("cache-fence-1");
  assertEquals(await receiver.told(), "cache_miss cache-fence-1");

  // Published, and expired.
  await server.pusher.trigger(channel, "create", {});
  await pass(server, time, 60_001);
  bob.leave(channel).join(channel);
  assertEquals(await receiver.told(), "cache_miss cache-a");

  // Away for less than it takes to be vacated.
  bob.leave(channel);
  ann.leave(channel);
  await pass(server, time, 2_999);
  ann.join(channel);
  ann.join("cache-fence-2");
  assertEquals(await receiver.told(), "cache_miss cache-fence-2");

  ann.leave(channel);
  await pass(server, time, 3_000);
  ann.join(channel);
  assertEquals(await receiver.told(), "cache_miss cache-a");
});
