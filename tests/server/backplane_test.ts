/**
 * What the server does with a backplane that is slow, or fails.
 */
import { Pusher } from "@glitz/pusher";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { lateJoin, SlowBackplane } from "../support/backplanes.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { MemoryTransport, serve } from "../support/server.ts";
import { dataOf } from "../support/wire.ts";

const SUCCEEDED = "pusher_internal:subscription_succeeded";
const ADDED = "pusher_internal:member_added";
const REMOVED = "pusher_internal:member_removed";
const REFUSED = "pusher:subscription_error";

// ---- Order ------------------------------------------------------------------

Deno.test("a backplane that answers later keeps the frames of one socket in order", async () => {
  await using server = serve({
    backplane: new SlowBackplane(),
    clientEvents: true,
  });
  await using ann = await server.connect();
  await using bob = await server.connect();
  const member = { user_id: "bob" };
  await bob.join("presence-a", { member });
  await bob.join("news");
  const answers: string[] = [];
  for (let i = 0; i < 5; i++) {
    ann.requestSubscribe("news");
    ann.requestSubscribe("private-a", { auth: "wrong" });
    ann.requestSubscribe("presence-a", { member: { user_id: `ann${i}` } });
    ann.send({ event: "client-x", channel: "presence-a", data: i });
    ann.unsubscribe("presence-a");
    ann.unsubscribe("news");
    ann.send({ event: "pusher:nonsense" });
    answers.push(SUCCEEDED, REFUSED, SUCCEEDED, "pusher:error");
  }
  const frames = await ann.framesUntilPong();
  assertEquals(frames.map(({ event }) => event), answers);
  const told: string[] = [];
  while (told.length < 15) {
    const { event, data, user_id } = await bob.next();
    told.push([event, user_id ?? JSON.parse(data as string).user_id].join(" "));
  }
  assertEquals(
    told,
    [0, 1, 2, 3, 4].flatMap((i) => [
      `${ADDED} ann${i}`,
      `client-x ann${i}`,
      `${REMOVED} ann${i}`,
    ]),
  );
});

Deno.test("a backplane that answers later serves the whole API", async () => {
  await using server = serve({ backplane: new SlowBackplane() });
  await using ann = await server.connect();
  await using tab = await server.connect();
  const member = { user_id: "ann" };
  await ann.join("presence-a", { member });
  await tab.join("presence-a", { member });
  const { body } = await server.api("POST", "/events", {
    body: {
      name: "e",
      channels: ["presence-a", "x"],
      data: "1",
      info: "user_count,subscription_count",
    },
  });
  assertEquals(body, {
    channels: {
      "presence-a": { user_count: 1, subscription_count: 2 },
      x: { subscription_count: 0 },
    },
  });
  for (const client of [ann, tab]) await client.next("e");
  for (let i = 0; i < 20; i++) {
    server.pusher.trigger("presence-a", "n", i);
  }
  for (let i = 0; i < 20; i++) assertEquals((await tab.next("n")).data, `${i}`);
  assertEquals(await server.pusher.channels(), {
    channels: { "presence-a": {} },
  });
  assertEquals(await server.pusher.users("presence-a"), {
    users: [{ id: "ann" }],
  });
  await tab.close();
  await server.journal.next("disconnected");
  assertEquals(server.journal.calls("member_removed"), []);
});

Deno.test("close lets go of the backplane last", async () => {
  const backplane = new SlowBackplane();
  await using server = serve({ backplane });
  await using clients = await server.connectAll(4);
  for (const [index, client] of clients.entries()) {
    client.requestSubscribe("presence-a", { member: { user_id: index } });
  }
  await clients[3]?.framesUntilPong();
  await Promise.all([server.pusher.close(), server.pusher.close()]);
  await server.journal.settled();
  assertEquals(backplane.afterClose, []);
  assertEquals(backplane.closes, 1);
});

// ---- Late answers -----------------------------------------------------------

Deno.test("an event published while a join is on its way does not come before its answer", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({ backplane });
  await using client = await server.connect();
  client.requestSubscribe("news");
  await joining();
  await server.pusher.trigger("news", "e", 1);
  answer();
  await client.next(SUCCEEDED);
  await server.pusher.trigger("news", "last", 1);
  const frames = await client.framesUntilPong();
  assertEquals(frames.at(-1)?.event, "last");
});

Deno.test("members who come and go while a join is on its way are not missed", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({ backplane });
  await using ann = await server.connect();
  await using bob = await server.connect();
  await using eve = await server.connect();
  ann.requestSubscribe("presence-a", { member: { user_id: "ann" } });
  await joining();
  for (const [client, user_id] of [[bob, "bob"], [eve, "eve"]] as const) {
    await client.join("presence-a", { member: { user_id } });
  }
  await eve.close();
  await server.journal.next("member_removed");
  answer();
  const seen = new Set<string>(dataOf(await ann.next(SUCCEEDED)).presence.ids);
  await bob.framesUntilPong();
  for (const frame of await ann.framesUntilPong()) {
    const { user_id } = dataOf(frame);
    if (frame.event === ADDED) seen.add(user_id);
    if (frame.event === REMOVED) seen.delete(user_id);
  }
  assertEquals([...seen].sort(), ["ann", "bob"]);
});

Deno.test("a socket that goes away while it joins is not left on the channel", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({ backplane });
  await using client = await server.connect();
  for (const channel of ["presence-a", "presence-b"]) {
    client.requestSubscribe(channel, { member: { user_id: "ann" } });
  }
  await joining();
  await client.close();
  answer();
  await server.journal.next("disconnected");
  await using fence = await server.connect();
  for (;;) {
    const { channels } = await server.pusher.channels();
    if (Object.keys(channels).length === 0) break;
    await fence.silence();
  }
  assertEquals(await server.pusher.users("presence-a"), { users: [] });
});

Deno.test("frames that wait behind a slow answer are limited", async () => {
  const { backplane, joining, answer } = lateJoin();
  await using server = serve({
    backplane,
    limits: { framesPerSecond: Infinity, bufferedBytes: 100_000 },
  });
  await using client = await server.connect();
  client.requestSubscribe("news");
  await joining();
  const ping = JSON.stringify({ event: "pusher:ping" }).padEnd(10_000);
  for (let i = 0; i < 11; i++) client.send(ping);
  assertEquals((await client.turnedAway()).code, 4100);
  answer();
  assertEquals((await server.journal.next("disconnected")).code, 4100);
});

// ---- Failures ---------------------------------------------------------------

Deno.test("a backplane that cannot take a leave does not keep the connection", async () => {
  const backplane = new SlowBackplane();
  backplane.turn = (method) =>
    method === "leave"
      ? Promise.reject(new Error("leave is down"))
      : Promise.resolve();
  await using pusher = new Pusher({ backplane });
  const error = Promise.withResolvers<string>();
  const gone = Promise.withResolvers<number>();
  pusher.on("error", ({ error: failure }) => {
    error.resolve((failure as Error).message);
  });
  pusher.on("disconnected", ({ code }) => gone.resolve(code));
  const transport = new MemoryTransport();
  const request = new Request("http://a/app/app-key?protocol=7");
  const peer = pusher.open(transport, "app-key", request);
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  peer.receive(JSON.stringify({ event: "pusher:unsubscribe", data }));
  assertEquals(
    await within(DEADLINE_MS, "error", error.promise),
    "leave is down",
  );
  peer.closed(1000);
  assertEquals(await within(DEADLINE_MS, "hook", gone.promise), 1000);
});

Deno.test("a backplane that fails is told to those who asked, and reported", async () => {
  const backplane = new SlowBackplane();
  let failing: string[] = [];
  backplane.turn = (method) =>
    failing.includes(method)
      ? Promise.reject(new Error(`${method} is down`))
      : Promise.resolve();
  await using server = serve({ backplane, clientEvents: true });
  const { pusher, journal } = server;
  await using ann = await server.connect();
  await using bob = await server.connect();
  await ann.join("private-a");
  await bob.join("private-a");
  failing = ["publish", "join", "occupancy", "occupied", "members"];
  await assertRejects(async () => await pusher.trigger("news", "e", 1), Error);
  await assertRejects(async () => await pusher.channels(), Error);
  const body = { name: "e", channel: "news", data: "1" };
  for (
    const answer of [
      await server.api("POST", "/events", { body }),
      await server.api("GET", "/channels"),
      await server.api("GET", "/channels/news"),
      await server.api("GET", "/channels/presence-a/users"),
    ]
  ) {
    assertEquals(answer.status, 503);
    assert(!answer.text.includes("is down"), answer.text);
  }
  assertEquals(await ann.refused("news"), "ServerError 500");
  ann.send({ event: "client-x", channel: "private-a" });
  assertEquals((await ann.framesUntilPong()).length <= 1, true);
  await bob.silence();
  failing = [];
  // Everything works again.
  await pusher.trigger("private-a", "e", 1);
  for (const client of [ann, bob]) await client.next("e");
  await ann.join("news");
  const errors = journal.drain("error");
  assert(errors.length > 0);
  for (const { error } of errors) assertMatch(error.message, /is down$/);
});

Deno.test("a repeated subscription that the backplane cannot answer ends nothing", async () => {
  const backplane = new SlowBackplane();
  let isDown = false;
  backplane.turn = (method) =>
    isDown && (method === "members" || method === "cached")
      ? Promise.reject(new Error(`${method} is down`))
      : Promise.resolve();
  await using server = serve({ backplane });
  await using ann = await server.connect();
  const member = { user_id: "ann" };
  await ann.join("presence-cache-a", { member });
  await ann.next("pusher:cache_miss");
  isDown = true;
  // Both calls fail: a rejection that nothing handles would end the process.
  ann.requestSubscribe("presence-cache-a", { member });
  const { data } = await ann.next("pusher:error");
  assertEquals((data as { code: number }).code, 4300);
  const { error, during } = await server.journal.next("error");
  assertEquals((error as Error).message, "members is down");
  assertEquals(during, "serving a frame");
  await ann.silence();
});
