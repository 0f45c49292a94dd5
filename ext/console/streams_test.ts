/**
 * What the stream of the console tells its pages.
 */
import { Pusher } from "@glitz/pusher";
import { debugConsole } from "@glitz/pusher/console";
import {
  assert,
  assertEquals,
  assertFalse,
  assertStringIncludes,
} from "@std/assert";
import { turn } from "../../tests/support/clock.ts";
import { HERE, Stage, Stream } from "../../tests/support/console.ts";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { APP } from "../../tests/support/server.ts";
import { encryption } from "../encryption.ts";

Deno.test("the stream tells events of all kinds, in their order", async () => {
  await using stage = new Stage({}, { clientEvents: true });
  const stream = await stage.open();
  const ann = stage.connect();
  const bob = stage.connect();
  ann.subscribe("presence-room", "ann");
  bob.subscribe("presence-room", "bob");
  ann.emit("client-typing", { on: true }, "presence-room");
  await stage.pusher.trigger("presence-room", "said", { text: "hi" });
  stage.connect("", "unknown-key");
  ann.leave();
  await stage.pass();
  const { events, skipped } = await stream.next("events");
  assertEquals(skipped, 0);
  assertEquals(
    events.map((event: { what: string }) => event.what),
    [
      ...["connected", "connected"],
      ...["channel_occupied", "member_added", "subscribed"],
      ...["member_added", "subscribed"],
      ...["client_event", "published", "refused"],
      ...["unsubscribed", "member_removed", "disconnected"],
    ],
  );
  const typing = events.find((one: { kind: string }) => one.kind === "client");
  assertEquals(typing, {
    node: stage.pusher.inspect().node,
    ...{ n: 8, at: typing.at, kind: "client", what: "client_event" },
    ...{ app: APP.id, socketId: ann.socketId, userId: "ann" },
    ...{ channel: "presence-room", event: "client-typing" },
    ...{ data: '{"on":true}', units: 11 },
  });
  bob.leave();
  await stream.close();
});

Deno.test("the stream tells what its filters let through", async () => {
  await using stage = new Stage();
  const cases: [string, string[]][] = [
    ["channel=NEWS", ["news a 1", "news b 2"]],
    ["event=B", ["news b 2", "prices b 3"]],
    ["search=3", ["prices b 3"]],
    ["kinds=published&channel=ws&event=a", ["news a 1"]],
    ["kinds=client,members", []],
    ["kinds=", []],
    ["kinds=published,nonsense,__proto__&search=2", ["news b 2"]],
  ];
  for (const [query, expected] of cases) {
    const stream = await stage.open(query);
    await stage.pusher.trigger("news", "a", "1");
    await stage.pusher.trigger("news", "b", "2");
    await stage.pusher.trigger("prices", "b", "3");
    await stage.pass(500);
    await stage.pass(500);
    // Events are told before the second's figures, if there are any.
    if (expected.length > 0) {
      const { events } = await stream.next("events");
      type Told = { channel: string; event: string; data: string };
      assertEquals(
        events.map(({ channel, event, data }: Told) =>
          `${channel} ${event} ${data}`
        ),
        expected,
        query,
      );
    }
    const { sample } = await stream.next("tick");
    assertEquals(sample.connections, 0);
    await stream.close();
  }
});

Deno.test("the stream tells 40 events in half a second, and counts the others", async () => {
  await using stage = new Stage();
  const stream = await stage.open("kinds=published");
  for (let n = 0; n < 1_000; n++) {
    await stage.pusher.trigger("news", "tick", String(n));
  }
  await stage.pass();
  const { events, skipped } = await stream.next("events");
  assertEquals([events.length, skipped], [40, 960]);
  await stage.pusher.trigger("news", "tick", "last");
  await stage.pass();
  assertEquals((await stream.next("events")).skipped, 0);
  await stream.close();
});

Deno.test("the stream shows hostile names and data as they are, and cuts long ones", async () => {
  await using stage = new Stage({}, { limits: { eventDataBytes: 20_000 } });
  const stream = await stage.open();
  const name = "<script>alert(1)</script>\u202egnp.exe";
  const data = "<img onerror=x>" + "\u{1f600}".repeat(4_000);
  await stage.pusher.trigger("news", name, data);
  await stage.pusher.trigger("__proto__", "constructor", "__proto__");
  await stage.pass();
  const { events: [first, second] } = await stream.next("events");
  assertEquals(first.event, name);
  assertEquals(first.units, data.length);
  // A character is cut in two at most once, and is replaced then.
  assert(first.data.startsWith("<img onerror=x>"));
  assertEquals(first.data.length, 2_049);
  assert(first.data.isWellFormed());
  assertEquals(second.channel, "__proto__");
  await stream.close();
});

Deno.test("the stream shows no data of encrypted channels, and search does not find it", async () => {
  const masterKeyBase64 = btoa("k".repeat(32));
  await using stage = new Stage({}, {
    clientEvents: true,
    encryption: encryption({ masterKeyBase64 }),
  });
  const all = await stage.open("kinds=published,client");
  const searching = await stage.open("search=cipher");
  const ann = stage.connect();
  ann.subscribe("private-encrypted-notes");
  ann.emit("client-x", { ciphertext: "c" }, "private-encrypted-notes");
  const data = { text: "for you alone" };
  await stage.pusher.trigger("private-encrypted-notes", "note", data);
  await stage.pusher.trigger("news", "about", "cipher machines");
  await stage.pass();
  const { events } = await all.next("events");
  assertEquals(events.length, 3);
  for (const event of events.slice(0, 2)) {
    assertEquals(event.isEncrypted, true);
    assertFalse("data" in event || "units" in event);
  }
  const found = await searching.next("events");
  assertEquals(found.events.length, 1);
  assertEquals(found.events[0].event, "about");
  await all.close();
  await searching.close();
  ann.leave();
});

Deno.test("without a page that is open the console hears refusals and errors only", async () => {
  await using stage = new Stage();
  assertEquals([stage.listeners, stage.console.pages], [2, 0]);
  const first = await stage.open();
  const second = await stage.open();
  assertEquals([stage.listeners, stage.console.pages], [2 + 16, 2]);
  await first.close();
  assertEquals([stage.listeners, stage.console.pages], [2 + 16, 1]);
  await second.close();
  assertEquals([stage.listeners, stage.console.pages], [2, 0]);
  stage.console.close();
  assertEquals(stage.listeners, 0);
  assertEquals((await stage.ask("/console/")).status, 404);
});

Deno.test("the figures of each second are the rates since the last, and are kept for the next page", async () => {
  await using stage = new Stage();
  const client = stage.connect();
  client.subscribe("news");
  const stream = await stage.open("kinds=client");
  for (let n = 0; n < 6; n++) await stage.pusher.trigger("news", "tick", "1");
  client.emit("pusher:ping", {});
  await stage.pass(500);
  // The timer is late.
  stage.clock.freeze(1_500);
  await stage.pass(0);
  const { sample, stats, pages } = await stream.next("tick");
  assertEquals([sample.connections, pages], [1, 1]);
  assertEquals([sample.received, sample.sent], [7 / 2, 7 / 2].map(Math.round));
  assertEquals(stats.connections, 1);
  await stream.close();
  const response = await stage.send("/console/api/stream");
  const again = new Stream(response);
  assertEquals((await again.next("hello")).samples, [sample]);
  await again.close();
  client.leave();
});

Deno.test("no more pages are open at once than `pages`", async () => {
  await using stage = new Stage({ pages: 2 });
  const [first, second] = [await stage.open(), await stage.open()];
  const third = await stage.get("stream");
  assertEquals(third.status, 429);
  assertStringIncludes(third.body.error, "`pages` is 2");
  await first.close();
  const again = await stage.open();
  await again.close();
  await second.close();
});

Deno.test("a stream ends after ten minutes, so that the page is judged again", async () => {
  await using stage = new Stage();
  const stream = await stage.open();
  for (let n = 0; n < 23; n++) {
    // It reads now and then, or it would be given up.
    await stage.pass(25_000);
    await stream.next("tick");
  }
  assertEquals(stage.console.pages, 1);
  await stage.pass(25_000);
  assert(await stream.ended());
  assertEquals(stage.console.pages, 0);
});

Deno.test("a page that reads nothing is given up, and little waits for it", async () => {
  await using stage = new Stage();
  const response = await stage.send("/console/api/stream");
  for (let n = 0; n < 120 && stage.console.pages > 0; n++) {
    await stage.pusher.trigger("news", "tick", "x".repeat(5_000));
    await stage.pass(500);
  }
  assertEquals(stage.console.pages, 0);
  const { length } = await response.text();
  assert(length < 50_000, `${length} characters have waited`);
});

Deno.test("the end of the server ends the streams", async () => {
  await using stage = new Stage();
  const stream = await stage.open();
  await stage.pusher.close();
  assert(await stream.ended());
  assertEquals(stage.console.pages, 0);
});

Deno.test("a page that is closed in the browser leaves nothing behind", async () => {
  await using pusher = new Pusher({ key: "k", secret: "s" });
  using served = debugConsole(pusher);
  await using server = Deno.serve(
    { hostname: HERE, port: 0, onListen() {} },
    pusher.cascade(pusher.handler, served),
  );
  const ending = new AbortController();
  const url = `http://${HERE}:${server.addr.port}/console/api/stream`;
  const { body } = await fetch(url, { signal: ending.signal });
  const reader = body!.getReader();
  await reader.read();
  assertEquals(served.pages, 1);
  ending.abort();
  await reader.read().catch(() => {});
  // The runtime says it, at the latest, with the next update.
  await within(
    DEADLINE_MS,
    "end of the page",
    (async () => {
      while (served.pages > 0) await new Promise((go) => setTimeout(go, 20));
    })(),
  );
});

Deno.test("errors are printed as without a console", async () => {
  await using stage = new Stage();
  const stream = await stage.open();
  const { error } = console;
  const printed: unknown[] = [];
  console.error = (...args) => void printed.push(args[0]);
  try {
    stage.pusher.on("published", () => {
      throw new Error("out of order");
    });
    await stage.pusher.trigger("news", "x", "1");
    await turn();
  } finally {
    console.error = error;
  }
  assertEquals(printed.length, 1);
  await stage.pass();
  const { events } = await stream.next("events");
  assertStringIncludes(events.at(-1).detail, "out of order");
  await stream.close();
});
