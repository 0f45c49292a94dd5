/**
 * The lists of the console: connections, channels, and what is seen of each.
 */
import {
  assert,
  assertEquals,
  assertFalse,
  assertStringIncludes,
} from "@std/assert";
import { Stage } from "../../tests/support/console.ts";
import { APP, TWO_APPS } from "../../tests/support/server.ts";
import { encryption } from "../encryption.ts";

Deno.test("connections come in pages, sorted and searched", async () => {
  await using stage = new Stage();
  const clients = Array.from({ length: 120 }, (_, n) => {
    const client = stage.connect(n % 2 ? "&client=js&version=8.6.0" : "");
    client.bufferedAmount = n;
    client.subscribe("news");
    if (n === 77) client.subscribe("presence-room", "zoë");
    return client;
  });
  const first = (await stage.get("connections")).body;
  assertEquals([first.rows.length, first.found, first.total], [50, 120, 120]);
  assertEquals(first.rows[0].socketId, clients[0]?.socketId);
  const last = (await stage.get("connections?page=2")).body;
  assertEquals(last.rows.length, 20);
  const newest = (await stage.get("connections?order=up&size=1")).body;
  assertEquals(newest.rows[0].socketId, clients[119]?.socketId);
  const most =
    (await stage.get("connections?sort=buffered&order=down&size=1")).body;
  assertEquals(most.rows[0].socketId, clients[119]?.socketId);
  for (const search of ["ZOË", "presence-room", clients[77]!.socketId]) {
    const query = `connections?search=${encodeURIComponent(search)}`;
    const { found, rows: [row] } = (await stage.get(query)).body;
    assertEquals(found, 1, search);
    assertEquals([row.userId, row.library], ["zoë", "js 8.6.0"]);
    assertEquals(row.channels, ["news", "presence-room"]);
  }
  for (
    const query of ["page=-1", "page=x&size=0", "sort=__proto__", "size=9e9"]
  ) {
    const { status, body } = await stage.get(`connections?${query}`);
    assertEquals([status, body.total], [200, 120], query);
    assert(body.rows.length <= 100);
  }
  for (const client of clients) client.leave();
  stage.clock.pass(60_000);
  const after = (await stage.get("connections")).body;
  assertEquals([after.rows, after.total], [[], 0]);
});

Deno.test("a list is made once a second, however many pages ask", async () => {
  await using stage = new Stage();
  const client = stage.connect();
  const total = async () => (await stage.get("connections")).body.total;
  assertEquals(await total(), 1);
  client.leave();
  assertEquals(await total(), 1);
  stage.clock.pass(1_000);
  assertEquals(await total(), 0);
});

Deno.test("the console serves fifty requests a second, and says so", async () => {
  await using stage = new Stage();
  for (let n = 0; n < 50; n++) {
    assertEquals((await stage.get("session")).status, 200);
  }
  const refused = await stage.get("session");
  assertEquals(refused.status, 429);
  assertStringIncludes(refused.body.error, "50 requests a second");
  stage.clock.pass(1_000);
  assertEquals((await stage.get("session")).status, 200);
});

Deno.test("channels are listed with kind and counts, and one of them with its members", async () => {
  await using stage = new Stage();
  const [ann, bob] = [stage.connect(), stage.connect()];
  for (const name of ["news", "__proto__", "private-cache-x"]) {
    ann.subscribe(name);
  }
  ann.subscribe("presence-room", "ann");
  bob.subscribe("presence-room", "bob");
  const { rows } = (await stage.get("channels?sort=name&order=up")).body;
  assertEquals(rows, [
    { app: APP.id, name: "__proto__", kinds: ["public"], subscriptions: 1 },
    { app: APP.id, name: "news", kinds: ["public"], subscriptions: 1 },
    {
      ...{ app: APP.id, name: "presence-room", kinds: ["presence"] },
      ...{ subscriptions: 2, users: 2 },
    },
    {
      ...{ app: APP.id, name: "private-cache-x" },
      ...{ kinds: ["private", "cache"], subscriptions: 1 },
    },
  ]);
  const cached = (await stage.get("channels?kind=cache&search=X")).body;
  assertEquals([cached.found, cached.total], [1, 4]);
  const room = (await stage.get("channel?name=presence-room")).body;
  assertEquals([room.users, room.subscriptions], [2, 2]);
  assertEquals(room.members, ["ann", "bob"]);
  const { node } = stage.pusher.inspect();
  assertEquals(
    room.subscribers,
    [ann, bob].map(({ socketId }) => ({ node, socketId })),
  );
  await stage.pusher.trigger("private-cache-x", "x", "y".repeat(5_000));
  const { cache } = (await stage.get("channel?name=private-cache-x")).body;
  assertEquals([cache.data.length, cache.ttl], [2_049, 1_800]);
  for (const name of ["", "a b", "<script>"]) {
    const query = `channel?name=${encodeURIComponent(name)}`;
    assertEquals((await stage.get(query)).status, 400);
  }
  ann.leave();
  bob.leave();
});

Deno.test("the last event of an encrypted cache channel is not shown", async () => {
  const masterKeyBase64 = btoa("k".repeat(32));
  const name = "private-encrypted-cache-x";
  await using stage = new Stage({}, {
    encryption: encryption({ masterKeyBase64 }),
  });
  await stage.pusher.trigger(name, "x", { text: "for you alone" });
  const { text } = await stage.get(`channel?name=${name}`);
  assertFalse(/cipher|nonce|alone/.test(text), text);
});

Deno.test("recovery sessions, which open something, are nowhere in the answers", async () => {
  await using stage = new Stage();
  const id = crypto.randomUUID();
  const stream = await stage.open();
  const url = `http://localhost/r/${id}/app/${APP.key}?protocol=7`;
  const transport = { bufferedAmount: 0, send() {}, close() {} };
  const peer = stage.pusher.open(transport, APP.key, new Request(url));
  await stage.pass();
  const texts = [
    JSON.stringify(await stream.next("events")),
    (await stage.get("connections")).text,
    (await stage.get("problems")).text,
  ];
  assertFalse(texts.join().includes(id));
  peer.closed(1000);
  await stream.close();
});

Deno.test("with several apps the page sees all of them, or one", async () => {
  await using stage = new Stage({}, { apps: TWO_APPS });
  const [a, b] = TWO_APPS;
  const ann = stage.connect("", a.key);
  const bob = stage.connect("", b.key);
  ann.emit("pusher:subscribe", { channel: "news" });
  bob.emit("pusher:subscribe", { channel: "other" });
  assertEquals((await stage.get("session")).body.apps, ["a", "b"]);
  assertEquals((await stage.get("connections")).body.total, 2);
  assertEquals((await stage.get("connections?app=b")).body.total, 1);
  const channels = (await stage.get("channels?app=b")).body.rows;
  assertEquals(channels.map(({ name }: { name: string }) => name), ["other"]);
  const unknown = await stage.get("channels?app=c");
  assertEquals(unknown.status, 400);
  const stream = await stage.open("app=b&kinds=published");
  await stage.pusher.app("a").trigger("news", "x", "1");
  const body = { app: "b", channel: "other", event: "y", data: "2" };
  assertEquals((await stage.post("trigger", body)).status, 200);
  await stage.pass();
  const { events } = await stream.next("events");
  assertEquals(events.map(({ app }: { app: string }) => app), ["b"]);
  await stream.close();
  ann.leave();
  bob.leave();
});

Deno.test("the console of one app shows that app, and no figures of others", async () => {
  await using stage = new Stage({}, { apps: TWO_APPS }, "a");
  const [a, b] = TWO_APPS;
  const ann = stage.connect("", a.key);
  const others = [stage.connect("", b.key), stage.connect("", b.key)];
  others[0]?.emit("pusher:subscribe", { channel: "other" });
  const stream = await stage.open();
  await stage.pusher.app("b").trigger("other", "x", "1");
  await stage.pusher.app("a").trigger("news", "y", "2");
  await stage.pass(500);
  const { events } = await stream.next("events");
  assertEquals(events.map(({ event }: { event: string }) => event), ["y"]);
  await stage.pass(500);
  const { sample, stats } = await stream.next("tick");
  assertEquals([sample.connections, stats.connections], [1, 1]);
  assertEquals([stats.channels, stats.transports], [0, { ws: 1 }]);
  assertEquals([sample.received, sample.sent], [1, 0]);
  assertEquals((await stage.get("session")).body.apps, ["a"]);
  const socketId = others[0]?.socketId;
  assertEquals((await stage.post("disconnect", { socketId })).status, 404);
  const foreign = { app: "b", channel: "other", event: "x" };
  assertEquals((await stage.post("trigger", foreign)).status, 400);
  await stream.close();
  for (const client of [ann, ...others]) client.leave();
});
