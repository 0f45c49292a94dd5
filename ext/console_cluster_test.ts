/**
 * The debug console of several servers: each console shows all of them, and says which
 * connection, event and problem is whose. The servers share memory and a clock that the
 * test turns; one test has them on Redis.
 */
import {
  type Intercom,
  MemoryBackplane,
  Pusher,
  type PusherOptions,
} from "@glitz/pusher";
import { debugConsole } from "@glitz/pusher/console";
import {
  assert,
  assertEquals,
  assertFalse,
  assertLessOrEqual,
  assertStringIncludes,
} from "@std/assert";
import { INTERCOM_UNITS } from "../core/intercom.ts";
import { ManualClock, turn } from "../tests/support/clock.ts";
import { DEADLINE_MS } from "../tests/support/deadline.ts";
import { type MemoryClient, Stage } from "../tests/support/console.ts";
import { APP, TWO_APPS } from "../tests/support/server.ts";
import { encryption } from "./encryption.ts";

/** Servers that share memory, each with a console. */
class Group implements AsyncDisposable {
  readonly clock = new ManualClock();
  readonly #memory = new MemoryBackplane();
  readonly #servers: AsyncDisposable[] = [];

  server(settings: PusherOptions = {}, app?: string): Stage {
    const backplane = this.#memory.peer();
    const { clock } = this;
    const stage = new Stage({}, { ...settings, backplane, clock }, app);
    this.#servers.push(stage);
    return stage;
  }

  two(settings: PusherOptions = {}): [Stage, Stage] {
    return [this.server(settings), this.server(settings)];
  }

  /** The intercom of one more server, which has no console. */
  stranger(settings: PusherOptions = {}): Intercom {
    const backplane = this.#memory.peer();
    const { clock } = this;
    const pusher = new Pusher({
      key: "k",
      secret: "s",
      ...settings,
      backplane,
      clock,
    });
    this.#servers.push(pusher);
    const { intercom } = pusher.inspect();
    assert(intercom !== undefined);
    return intercom;
  }

  /** Lets the next update come, and what follows from it. */
  async pass(ms = 500): Promise<void> {
    await turn();
    this.clock.pass(ms);
    await turn();
  }

  /** Lets time pass until something has come. */
  async until<T>(coming: Promise<T>): Promise<T> {
    let isThere = false;
    const settled = () => void (isThere = true);
    coming.then(settled, settled);
    const deadline = performance.now() + DEADLINE_MS;
    while (!isThere && performance.now() < deadline) await this.pass();
    return await coming;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers.toReversed()) {
      const closed = server[Symbol.asyncDispose]();
      this.clock.pass(10_000);
      await closed;
    }
  }
}

function nodeOf({ pusher }: Stage): string {
  return pusher.inspect().node;
}

/** What is said between consoles, whoever says it. */
function overhear(intercom: Intercom): string[] {
  const texts: string[] = [];
  const replies = new Set<string>();
  intercom.listen("console", (text) => {
    texts.push(text);
    const { reply } = JSON.parse(text);
    if (replies.has(reply)) return;
    replies.add(reply);
    intercom.listen(reply, (word) => texts.push(word));
  });
  return texts;
}

/** Calls as a console of another server does. */
function callOf(what: string, args: object, more: object = {}): string {
  const reply = "console stranger";
  return JSON.stringify({
    ...{ v: 1, id: 1, from: "stranger", reply, what, args },
    ...more,
  });
}

// ---- Connections ------------------------------------------------------------

Deno.test("a console lists the connections of all servers, each with its server", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const clients: MemoryClient[] = [];
  for (let n = 0; n < 120; n++) {
    const client = (n % 3 === 0 ? one : two).connect("&client=js");
    client.subscribe(n % 2 === 0 ? "news" : "prices");
    if (n === 77) client.signIn("zoë");
    clients.push(client);
    group.clock.pass(10);
  }
  await turn();
  for (const stage of [one, two]) {
    const list = async (query = "") =>
      (await stage.get(`connections?${query}`)).body;
    const { rows, found, total, reach, silent } = await list("size=100");
    assertEquals([found, total, reach, silent], [120, 120, 120, 0]);
    assertEquals(
      rows.map((row: { socketId: string }) => row.socketId),
      clients.slice(0, 100).map(({ socketId }) => socketId),
    );
    for (const [n, { node }] of rows.entries()) {
      assertEquals(node, nodeOf(n % 3 === 0 ? one : two), `row ${n}`);
    }
    const rest = await list("size=50&page=2");
    assertEquals(rest.rows.length, 20);
    assertEquals(rest.rows.at(-1).socketId, clients.at(-1)?.socketId);
    const youngest = await list("size=1&order=up");
    assertEquals(youngest.rows[0].socketId, clients.at(-1)?.socketId);
    const user = await list("sort=user&order=down&size=1");
    assertEquals(user.rows[0].userId, "zoë");
    const searched = await list("search=zo");
    assertEquals([searched.found, searched.total], [1, 120]);
    assertEquals(searched.rows[0].node, nodeOf(two));
    const ofTwo = await list(`node=${nodeOf(two)}&size=100`);
    assertEquals([ofTwo.rows.length, ofTwo.total, ofTwo.reach], [80, 80, 80]);
    assert(
      ofTwo.rows.every(({ node }: { node: string }) => node === nodeOf(two)),
    );
    const ofOne = await list(`node=${nodeOf(one)}&size=30&page=1`);
    assertEquals([ofOne.rows.length, ofOne.total], [10, 40]);
  }
  const details = await one.get("channel?name=news");
  assertEquals(details.body.subscriptions, 60);
  assertEquals(details.body.subscribers.length, 50);
  const few = { node: nodeOf(two), socketId: clients[77]?.socketId };
  for (const [n, client] of clients.entries()) if (n !== 77) client.leave();
  const prices = await one.get("channel?name=prices");
  assertEquals(prices.body.subscribers, [few]);
  clients[77]?.leave();
});

Deno.test("over all servers a list reaches 500 rows, and of one server all", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const clients = Array.from({ length: 520 }, () => two.connect());
  clients.push(one.connect());
  const last = (await one.get("connections?size=100&page=4")).body;
  assertEquals([last.found, last.reach, last.rows.length], [521, 500, 100]);
  const beyond = (await one.get("connections?size=100&page=5")).body;
  assertEquals([beyond.reach, beyond.rows], [500, []]);
  const own = await one.get(`connections?size=100&page=5&node=${nodeOf(two)}`);
  assertEquals([own.body.reach, own.body.rows.length], [520, 20]);
  for (const client of clients) client.leave();
});

Deno.test("a server whose rows have no room in one answer is listed as far as they do", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const clients = Array.from({ length: 400 }, () => {
    const client = two.connect();
    for (let n = 0; n < 3; n++) client.subscribe(`${n}`.repeat(200));
    return client;
  });
  const heard = overhear(group.stranger());
  // The servers count the one that overhears, and do not wait for it for ever.
  const asked = one.get("connections?size=100&page=3");
  await group.pass(1_500);
  const { body } = await asked;
  assertEquals(body.found, 400);
  assert(body.reach > 100 && body.reach < 400, `${body.reach}`);
  assertEquals(body.silent, 1);
  for (const text of heard) assertLessOrEqual(text.length, INTERCOM_UNITS);
  for (const client of clients) client.leave();
});

Deno.test("a console disconnects connections and users of other servers", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const [ann, bob, cyd] = [two.connect(), two.connect(), two.connect()];
  cyd.signIn("cyd");
  await turn();
  const node = nodeOf(two);
  await one.post("disconnect", { socketId: ann.socketId, node });
  assertEquals(ann.closing, 4009);
  const again = await one.post("disconnect", { socketId: ann.socketId, node });
  assertEquals(again.status, 404);
  // Without the server all of them are asked.
  await one.post("disconnect", { socketId: bob.socketId, reconnects: true });
  assertEquals(bob.closing, 4200);
  await one.post("disconnect-user", { userId: "cyd" });
  await turn();
  assertEquals(cyd.closing, 4009);
  const nobody = await one.post("disconnect", { socketId: "1.1" });
  assertEquals(nobody.status, 404);
  const unknown = one.post("disconnect", { socketId: "1.1", node: "other" });
  await group.pass(1_500);
  assertEquals((await unknown).status, 504);
});

// ---- Events -----------------------------------------------------------------

Deno.test("the stream tells the events of all servers, or of one, each with its server", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const all = await one.open("kinds=published");
  const ofTwo = await one.open(`kinds=published&node=${nodeOf(two)}`);
  const searching = await one.open("search=needle&kinds=published");
  await turn();
  await one.pusher.trigger("news", "first", "1");
  await two.pusher.trigger("news", "second", "needle");
  await two.connect().leave();
  const read = async (stream: typeof all, count: number) => {
    const events: { node: string; event: string }[] = [];
    while (events.length < count) {
      const update = await group.until(stream.next("events"));
      events.push(...update.events);
    }
    return events.map(({ node, event }) => `${event} ${node}`).sort();
  };
  const [first, second] = [`first ${nodeOf(one)}`, `second ${nodeOf(two)}`];
  assertEquals(await read(all, 2), [first, second]);
  assertEquals(await read(ofTwo, 1), [second]);
  assertEquals(await read(searching, 1), [second]);
  for (const stream of [all, ofTwo, searching]) await stream.close();
});

Deno.test("of many events of another server the stream tells some, and counts the others", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const heard = overhear(group.stranger());
  const stream = await one.open("kinds=published");
  await turn();
  for (let n = 0; n < 1_000; n++) {
    await two.pusher.trigger("news", "tick", `${n} ${"x".repeat(8_000)}`);
  }
  let [shown, skipped] = [0, 0];
  while (shown + skipped < 1_000) {
    const update = await group.until(stream.next("events"));
    assertLessOrEqual(update.events.length, 40);
    shown += update.events.length;
    skipped += update.skipped;
  }
  assertEquals(shown + skipped, 1_000);
  for (const text of heard) assertLessOrEqual(text.length, INTERCOM_UNITS);
  await stream.close();
});

Deno.test("no data of encrypted channels and no secret goes from one server to another", async () => {
  await using group = new Group();
  const masterKeyBase64 = btoa("k".repeat(32));
  const [one, two] = group.two({
    clientEvents: true,
    encryption: encryption({ masterKeyBase64 }),
  });
  const heard = overhear(group.stranger());
  const stream = await one.open();
  await turn();
  const ann = two.connect();
  ann.subscribe("private-encrypted-notes");
  ann.emit("client-x", { ciphertext: "cipher" }, "private-encrypted-notes");
  const data = { text: "for you alone" };
  await two.pusher.trigger("private-encrypted-notes", "note", data);
  ann.emit("pusher:subscribe", {
    channel: "private-x",
    auth: `${APP.key}:${"a".repeat(64)}`,
  });
  for (let n = 0; n < 4; n++) await group.pass();
  const asked = one.get("connections");
  await group.pass(1_500);
  await asked;
  const all = heard.join("\n");
  assertStringIncludes(all, "private-encrypted-notes");
  assertStringIncludes(all, '"isEncrypted":true');
  const secrets = [APP.secret, "cipher", "for you alone", "a".repeat(64)];
  for (const secret of secrets) assertFalse(all.includes(secret), secret);
  await stream.close();
  ann.leave();
});

// ---- Figures ----------------------------------------------------------------

Deno.test("figures are those of all servers together, or of one", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const clients = [one.connect(), two.connect(), two.connect()];
  const all = await one.open("kinds=client");
  await turn();
  // The other server tells its figures after its own second.
  const next = () => group.until(all.next("tick"));
  let tick = await next();
  while (tick.nodes.length < 2) tick = await next();
  const [first, second] = tick.nodes;
  assertEquals(first, {
    ...{ node: nodeOf(one), connections: 1, isSilent: false },
  });
  assertEquals(second, {
    ...{ node: nodeOf(two), connections: 2, isSilent: false },
  });
  assertEquals(tick.sample.connections, 3);
  assertEquals([tick.stats.connections, tick.unheard], [3, 0]);
  const stream = await one.open(`node=${nodeOf(two)}`);
  const own = await group.until(stream.next("tick"));
  assertEquals([own.sample.connections, own.stats.connections], [2, 2]);
  await stream.close();
  await all.close();
  for (const client of clients) client.leave();
});

Deno.test("problems are those of all servers, the latest first, each with its server", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  one.connect("", "unknown-here");
  await turn();
  group.clock.pass(1_000);
  two.connect("", "unknown-there");
  await turn();
  const { problems, silent } = (await one.get("problems")).body;
  assertEquals(silent, 0);
  assertEquals(
    problems.map(({ node, code }: { node: string; code: number }) => [
      ...[node, code],
    ]),
    [[nodeOf(two), 4001], [nodeOf(one), 4001]],
  );
  const of = async (stage: Stage) =>
    (await one.get(`problems?node=${nodeOf(stage)}`)).body.problems.length;
  assertEquals([await of(one), await of(two)], [1, 1]);
});

Deno.test("a server with two consoles tells what happens once, and goes on with one of them", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const second = debugConsole(two.pusher, { path: "/second" });
  const stream = await one.open("kinds=published");
  await turn();
  const publish = async (event: string) => {
    await two.pusher.trigger("news", event, 1);
    const events = await group.until(stream.next("events"));
    // Were there a second one, it would have come by now.
    for (let n = 0; n < 2; n++) await group.pass();
    await two.pusher.trigger("news", "fence", 1);
    const more = await group.until(stream.next("events"));
    return [...events.events, ...more.events]
      .map((told: { event: string }) => told.event);
  };
  assertEquals(await publish("a"), ["a", "fence"]);
  two.console.close();
  for (let n = 0; n < 4; n++) await group.pass();
  assertEquals(await publish("b"), ["b", "fence"]);
  second.close();
  await stream.close();
});

Deno.test("however much is asked of a console, what servers say to each other is short", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const heard = overhear(group.stranger());
  const long = "x".repeat(30_000);
  const fields = ["app", "node", "channel", "event", "search", "sort", "size"];
  const query = fields.map((name) => `${name}=${long}`).join("&");
  const stream = await one.open(query);
  const asked = [
    one.get(`connections?${query}`),
    one.get(`connections?search=${long}&other=${long}`),
    one.get(`problems?node=${long}`),
    one.post("disconnect", { socketId: long, node: long }),
  ];
  await group.until(Promise.all(asked));
  assert(heard.length >= 5, `${heard.length}`);
  for (const text of heard) assertLessOrEqual(text.length, 5_000);
  await stream.close();
  assertEquals(two.console.pages, 0);
});

// ---- Servers that come and go -----------------------------------------------

Deno.test("without an open page servers say nothing to each other, and soon nothing again after the last", async () => {
  await using group = new Group();
  const [one, two] = group.two();
  const heard = overhear(group.stranger());
  const client = two.connect();
  client.subscribe("news");
  await one.pusher.trigger("news", "tick", 1);
  await group.pass(60_000);
  assertEquals([heard, two.listeners], [[], 2]);
  const stream = await one.open();
  await turn();
  assertEquals(two.listeners, 2 + 16);
  await stream.close();
  // A page that changes its filter opens its stream again.
  const again = await one.open();
  await group.pass(4_000);
  assertEquals(two.listeners, 2 + 16);
  await again.close();
  await group.pass(5_000);
  assertEquals(two.listeners, 2);
  heard.length = 0;
  await group.pass(60_000);
  assertEquals(heard, []);
  client.leave();
});

Deno.test("a server that is asked no more stops telling, also where the one that asked has died", async () => {
  await using group = new Group();
  const one = group.server();
  const stranger = group.stranger();
  const words: string[] = [];
  const unlisten = stranger.listen("console stranger", (text) => {
    words.push(text);
  });
  const pages = [{ id: "1", query: "kinds=published" }];
  await stranger.say("console", callOf("follow", { pages }));
  for (let n = 0; n < 4; n++) await group.pass();
  assertEquals(words.length, 2);
  assertEquals(one.listeners, 2 + 16);
  // It is not asked again.
  for (let n = 0; n < 30; n++) await group.pass();
  const { length } = words;
  assertEquals(one.listeners, 2);
  await group.pass(10_000);
  assertEquals(words.length, length);

  await stranger.say("console", callOf("follow", { pages }));
  await turn();
  assertEquals(one.listeners, 2 + 16);
  unlisten();
  for (let n = 0; n < 2; n++) await group.pass();
  assertEquals(one.listeners, 2);
});

Deno.test("a server that does not answer is left out after a moment, and shown as silent", async () => {
  await using group = new Group();
  const one = group.server();
  const client = one.connect();
  const stranger = group.stranger();
  let reply = "";
  stranger.listen("console", (text) => reply = JSON.parse(text).reply);
  const asked = one.get("connections");
  await group.pass(1_500);
  const { body } = await asked;
  assertEquals([body.total, body.silent], [1, 1]);

  const stream = await one.open();
  const before = await group.until(stream.next("tick"));
  assertEquals([before.nodes.length, before.unheard], [1, 1]);
  const sample = { at: 1, connections: 7, received: 1, sent: 2 };
  const stats = { ready: true, connections: 7, transports: { ws: 7 } };
  const update = { tick: { sample, stats, problems: 0 }, pages: [] };
  await stranger.say(
    reply,
    JSON.stringify({
      v: 1,
      node: "stranger",
      console: "c",
      what: "update",
      body: update,
    }),
  );
  const tickWhere = async (is: (tick: Ticked) => boolean) => {
    for (;;) {
      const tick: Ticked = await group.until(stream.next("tick"));
      if (is(tick)) return tick;
    }
  };
  const fresh = await tickWhere(({ nodes }) => nodes.length === 2);
  assertEquals([fresh.sample.connections, fresh.unheard], [8, 0]);
  const silent = await tickWhere(({ nodes }) => nodes[1]?.isSilent === true);
  assertEquals(silent.sample.connections, 1);
  const gone = await tickWhere(({ nodes }) => nodes.length === 1);
  assertEquals(gone.sample.connections, 1);
  await stream.close();
  client.leave();
});

interface Ticked {
  readonly sample: { readonly connections: number };
  readonly nodes: readonly { readonly isSilent: boolean }[];
  readonly unheard: number;
}

Deno.test("a server that ends is gone at once, with its figures", async () => {
  await using group = new Group();
  const one = group.server();
  const two = group.server();
  const client = two.connect();
  const stream = await one.open();
  const next = () => group.until(stream.next("tick"));
  let tick = await next();
  while (tick.nodes.length < 2) tick = await next();
  assertEquals(tick.sample.connections, 1);
  two.console.close();
  while (tick.nodes.length > 1) tick = await next();
  assertEquals(tick.sample.connections, 0);
  await stream.close();
  client.leave();
});

Deno.test("what is no word of a console changes nothing", async () => {
  await using group = new Group();
  const one = group.server();
  const stranger = group.stranger();
  let reply = "";
  stranger.listen("console", (text) => {
    if (text.includes(nodeOf(one))) reply = JSON.parse(text).reply;
  });
  const stream = await one.open();
  await turn();
  const words = [
    ...["", "x", "[]", "null", '{"v":1}', '{"v":2,"what":"update"}'],
    callOf("unheard", {}),
    callOf("constructor", {}),
    callOf("follow", { pages: [1, null, { id: 1 }, { id: "a" }] }),
    callOf("follow", { pages: "x" }, { reply: 1 }),
    callOf("connections", { query: { a: 1 } }),
    callOf("subscribers", {}),
    callOf("disconnect", { socketId: null }),
    callOf("disconnect", {}, { to: "somebody else" }),
  ];
  for (const word of words) await stranger.say("console", word);
  const node = "x";
  const bodies = [
    ...[{}, { tick: 1 }, { tick: {} }, { tick: { stats: {}, sample: 1 } }],
    { tick: { stats: { transports: 1 }, sample: { at: "x" } } },
    { pages: 1 },
    {
      pages: [[1], ["1", 1, "x"], ["1", [1, {}, { kind: "published" }], -1e99]],
    },
    { pages: [["1", [{ kind: "constructor", what: "name", at: 1 }], 0]] },
    { pages: [["1", [{ kind: "published", what: "error", at: 1 }], 0]] },
  ];
  for (const body of bodies) {
    await stranger.say(
      reply,
      JSON.stringify({ v: 1, node, console: "c", what: "update", body }),
    );
    await stranger.say(
      reply,
      JSON.stringify({ v: 1, node, console: "c", what: "answer", id: 1, body }),
    );
  }
  const event = {
    ...{ kind: "published", what: "published", at: 1, n: 1, node: "false" },
    ...{ channel: ["x"], event: "e", data: "d".repeat(9_000), units: 9_000 },
  };
  const body = { pages: [["1", [event], 2]] };
  await stranger.say(
    reply,
    JSON.stringify({ v: 1, node: "y", console: "d", what: "update", body }),
  );
  const coming = stream.next("events");
  const { events, skipped } = await group.until(coming);
  // The server that says it is the server that it is of.
  assertEquals([events.length, skipped, events[0].node], [1, 2, "y"]);
  assertFalse("channel" in events[0]);
  assertLessOrEqual(events[0].data.length, 2_050);
  await stream.close();
});

Deno.test("the console of one app hears nothing of a console of all apps", async () => {
  await using group = new Group();
  const apps = TWO_APPS;
  const [first, second] = apps;
  const all = group.server({ apps });
  const one = group.server({ apps }, first?.id);
  const other = group.server({ apps }, first?.id);
  const client = all.connect("", second?.key);
  const own = other.connect("", first?.key);
  await turn();
  assertEquals((await one.get("connections")).body.total, 1);
  const { total, rows } = (await all.get("connections")).body;
  assertEquals([total, rows[0].socketId], [1, client.socketId]);
  client.leave();
  own.leave();
});
