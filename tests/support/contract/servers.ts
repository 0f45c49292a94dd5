/**
 * What servers ask, and what happens when they come and go: names, apps, closing,
 * death, a flush and deafness.
 *
 * @module
 */
import type { Position } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertExists,
  assertGreater,
  assertGreaterOrEqual,
  assertNotEquals,
} from "@std/assert";
import { type FakeServer, SOME_APP, USER, WATCHERS } from "./server.ts";
import { keep, shown, stateOf, take } from "./sessions.ts";
import {
  AGE_MS,
  assertAscending,
  countsOf,
  dataOf,
  membersOf,
  numbers,
  publishAll,
  type Register,
  type Stage,
  textsOf,
} from "./stage.ts";

// ---- Queries ----------------------------------------------------------------

/** The channels that somebody is on, with their counts, by name. */
async function occupiedBy(
  { backplane }: FakeServer,
  prefix: string,
  app = SOME_APP,
): Promise<[string, number, number][]> {
  const occupied = await backplane.occupied(app, prefix);
  return Array.from(
    occupied,
    ([name, { subscriptions, users }]): [string, number, number] => [
      name,
      subscriptions,
      users,
    ],
  ).sort();
}

/** Names that the protocol allows, and some that need care in a database. */
const CHANNELS = [
  "a",
  "A",
  "0",
  "-",
  "constructor",
  "__proto__",
  "a=@,.;_-",
  "x".repeat(200),
];

/** User ids may have every character. */
const USERS = [
  "ann",
  "0",
  " ",
  "{}",
  "a:b",
  "a\nb",
  "\n",
  "\0",
  "a\0b",
  "*?[]\\",
  "#",
  "__proto__",
  "Änn € 😀",
  "😀".repeat(64),
];

/** Ids of apps have no space, and none of / : ? # %. */
const APPS = ["app", "APP", "0", "a{b}", "{app", "ä€😀", "__proto__", "*"];

export function testQueries(test: Register): void {
  test("the occupied channels are those of all servers, by prefix", async (stage) => {
    const [one, two] = await stage.two();
    assertEquals(await occupiedBy(one, ""), []);
    await one.enter("news");
    await two.enter("news");
    await one.enter("newspaper");
    await two.enter("presence-a", { user: "ann" });
    await one.enter("presence-a", { user: "ann" });
    await one.enter("presence-a", { user: "bob" });
    await two.enter("presence-b", { user: "ann" });
    await two.enter("gone");
    await two.leave("gone");
    // A history does not make a channel occupied.
    await two.enter("kept", { recovers: true });
    await two.publish("kept", "1");
    await two.leave("kept", { recovers: true });
    await two.publish("cache-a", "1", { cacheMs: 60_000 });
    for (const server of [one, two]) {
      assertEquals(await occupiedBy(server, ""), [
        ["news", 2, 0],
        ["newspaper", 1, 0],
        ["presence-a", 3, 2],
        ["presence-b", 1, 1],
      ]);
      assertEquals(await occupiedBy(server, "presence-"), [
        ["presence-a", 3, 2],
        ["presence-b", 1, 1],
      ]);
      assertEquals(await occupiedBy(server, "newsp"), [["newspaper", 1, 0]]);
      assertEquals(await occupiedBy(server, "NEWS"), []);
      assertEquals(await occupiedBy(server, "*"), []);
      assertEquals(await occupiedBy(server, "", "other"), []);
      assertEquals(await countsOf(server, "nobody"), [0, 0]);
      assertEquals(await membersOf(server, "nobody"), []);
    }
  });

  test("hundreds of channels are listed", async (stage) => {
    const [one, two] = await stage.two();
    const names = numbers(1, 500).map((n) => `many-${n}`);
    await Promise.all(
      names.map((name, index) => (index % 2 > 0 ? one : two).enter(name)),
    );
    const expected = names.map((name) => [name, 1, 0]).sort();
    assertEquals(await occupiedBy(one, "many-"), expected);
  });

  test("names may have every character that is allowed", async (stage) => {
    const [one, two] = await stage.two();
    const channels = [
      ...CHANNELS.flatMap((name) => [name, `presence-${name}`.slice(0, 200)]),
      ...USERS.map((user) => USER + user),
    ];
    for (const channel of channels) {
      const isPresence = channel.startsWith("presence-");
      const users = isPresence ? USERS : [undefined];
      for (const user of users) {
        const init = { rewind: 0, ...(user !== undefined && { user }) };
        await one.enter(channel, init);
      }
      const data = `on ${channel}`;
      const cacheMs = 60_000;
      await two.publish(channel, data, { cacheMs });
      const last = users.at(-1);
      const init = { rewind: 1, ...(last !== undefined && { user: last }) };
      const result = await two.enter(channel, init);
      assertEquals(await two.replay(channel, result), [data]);
      assertEquals(result.cached?.message.data, data);
      if (isPresence) {
        assertEquals([...result.members.keys()].sort(), USERS.toSorted());
      }
    }
    for (const channel of channels) {
      const isPresence = channel.startsWith("presence-");
      const users = isPresence ? USERS.length : 0;
      const subscriptions = isPresence ? USERS.length + 1 : 2;
      assertEquals(await countsOf(one, channel), [subscriptions, users]);
    }
    const listed = channels.filter((name) => !name.startsWith("#"));
    const occupied = await occupiedBy(two, "");
    assertEquals(
      occupied.map(([name]) => name).filter((name) => !name.startsWith("#")),
      listed.toSorted(),
    );
    // And all of it is let go of.
    await stage.close(one);
    for (const channel of channels) {
      const isPresence = channel.startsWith("presence-");
      const counts = [1, isPresence ? 1 : 0];
      const ask = () => countsOf(two, channel);
      await stage.eventually<number[]>(ask, counts);
    }
  });

  test("apps never meet, whatever their ids are", async (stage) => {
    const [one, two] = await stage.two();
    for (const app of APPS) {
      await one.enter("presence-a", { app, user: `of ${app}`, rewind: 0 });
      await two.publish("presence-a", `in ${app}`, { app, cacheMs: 60_000 });
      await two.backplane.sessions.take(app, "0123456789abcdef");
      const state = { formerIds: [app], positions: new Map() };
      await two.backplane.sessions.keep(app, "0123456789abcdef", state, true);
    }
    for (const app of APPS) {
      const user = `of ${app}`;
      assertEquals(await countsOf(two, "presence-a", app), [1, 1]);
      assertEquals(await membersOf(two, "presence-a", app), [[user, "{}"]]);
      assertEquals(await occupiedBy(two, "", app), [["presence-a", 1, 1]]);
      const result = await two.enter("presence-a", { app, user, rewind: 10 });
      const replayed = await two.replay("presence-a", result, app);
      assertEquals(replayed, [`in ${app}`]);
      assertEquals(result.cached?.message.data, `in ${app}`);
      assertEquals(
        await take(one, "0123456789abcdef", app),
        { formerIds: [app], positions: [], hasLost: false },
      );
    }
    await stage.toldAll(one);
    for (const app of APPS) {
      const told = one.told("presence-a", app);
      assertEquals(told, [`1 occupied +of ${app}`]);
      const heard = one.heard("presence-a", undefined, app);
      const data = dataOf(heard).filter((text) => text.startsWith("in "));
      assertEquals(data, [`in ${app}`]);
    }
  });
}

// ---- Starting and closing ---------------------------------------------------

/** What the servers of these tests hold when they go. */
async function holdMuch(server: FakeServer): Promise<void> {
  await server.enter("news", { recovers: true });
  await server.enter("news");
  await server.enter("shared", { recovers: true });
  await server.enter("presence-a", { user: "ann", recovers: true });
  await server.enter("presence-a", { user: "ann" });
  await server.enter("presence-a", { user: "bob" });
  await server.enter("presence-b", { user: "a\nb" });
  await server.enter(`${USER}ann`);
  await server.enter(`${USER}a\nb:{}`);
  await take(server, SESSION);
  await keep(server, SESSION, stateOf(1));
}

const SESSION = "0123456789abcdef-0";

/** Has a server watch what {@linkcode holdMuch} holds, and hold a part of it. */
async function watchMuch(server: FakeServer): Promise<Position> {
  await server.enter("shared");
  await server.enter(`${WATCHERS}ann`);
  await server.enter(`${WATCHERS}a\nb:{}`);
  await server.enter("presence-a", { user: "bob" });
  const { position } = await server.enter("presence-a", { user: "eve" });
  return position;
}

/** Checks that what a server held is let go of, each of it once. */
async function assertLetGo(
  stage: Stage,
  after: Position,
  [watcher, ...others]: [FakeServer, ...FakeServer[]],
  gone: readonly FakeServer[],
): Promise<void> {
  const survivors = [watcher, ...others];
  for (
    const [channel, counts] of [
      ["news", [0, 0]],
      ["shared", [1, 0]],
      ["presence-a", [2, 2]],
      ["presence-b", [0, 0]],
      [`${USER}ann`, [0, 0]],
      [`${USER}a\nb:{}`, [0, 0]],
    ] as const
  ) {
    await stage.eventually<readonly number[]>(
      () => countsOf(watcher, channel),
      counts,
    );
  }
  assertEquals(await membersOf(watcher, "presence-a"), [
    ["bob", "{}"],
    ["eve", "{}"],
  ]);
  assertEquals(await occupiedBy(watcher, "presence-"), [["presence-a", 2, 2]]);
  // Whoever closes may tell itself; whoever is dead cannot.
  const servers = [...survivors, ...gone];
  const all = (channel: string, part: string) =>
    servers.flatMap((server) => server.told(channel)).filter((text) =>
      text.includes(part)
    );
  await stage.until(() => all("news", "vacated").length > 0);
  await stage.until(() => all("presence-b", "vacated").length > 0);
  await stage.until(() => all("presence-a", "-ann").length > 0);
  await stage.toldAll(...survivors);
  assertEquals(all("news", "vacated").length, 1);
  assertEquals(all("shared", "vacated").length, 0);
  assertEquals(all("presence-a", "-").length, 1);
  assertEquals(all("presence-a", "-ann").length, 1);
  assertEquals(all("presence-b", "-a\nb").length, 1);
  await stage.heardAll("presence-a", watcher);
  const removed = textsOf(watcher, "presence-a", after)
    .filter((text) => text.startsWith("removed"));
  assertEquals(removed, ["removed ann"]);
  for (const user of ["ann", "a\nb:{}"]) {
    const channel = WATCHERS + user;
    await stage.heardAll(channel, watcher);
    const heard = watcher.heard(channel);
    const controls = heard.flatMap(({ message }) => message.control ?? []);
    assertEquals(controls.filter((one) => one === "offline").length, 1);
  }
  await stage.eventually(() => take(watcher, SESSION), shown(stateOf(1)));
  assertEquals(servers.flatMap(({ lostSessions }) => lostSessions), []);
}

export function testEnds(test: Register): void {
  test("a server that starts later finds what there is", async (stage) => {
    const one = await stage.server();
    await one.enter("presence-a", { user: "ann" });
    const { position } = await one.enter("news", { recovers: true });
    await one.publish("news", "1", { cacheMs: 60_000 });
    const two = await stage.server();
    assertEquals(await membersOf(two, "presence-a"), [["ann", "{}"]]);
    const result = await two.enter("news", { since: position });
    assertEquals(await two.replay("news", result), ["1"]);
    assertEquals(result.cached?.message.data, "1");
    await two.publish("news", "2");
    await stage.heardAll("news", one, two);
    assertEquals(dataOf(one.heard("news", position)), ["1", "2"]);
  });

  test("a server that closes lets go of all that it holds, each of it once", async (stage) => {
    const [one, two] = await stage.two();
    const after = await watchMuch(two);
    await holdMuch(one);
    await stage.close(one);
    await assertLetGo(stage, after, [two], [one]);
  });

  test("one of several servers is told of what another lets go of", async (stage) => {
    const [one, two] = await stage.two();
    const three = await stage.server();
    const after = await watchMuch(two);
    await holdMuch(one);
    await stage.close(one);
    await assertLetGo(stage, after, [two, three], [one]);
  });

  test("a server that has closed hears nothing any more", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("news");
    await two.enter("news");
    await stage.toldAll(one);
    await stage.close(one);
    const records = () => [one.deliveries.length, one.changes.length];
    const before = records();
    await two.publish("news", "1");
    await two.enter("other");
    await stage.heardAll("news", two);
    await stage.toldAll(two);
    assertEquals(records(), before);
  });

  test("a backplane that is closed while it starts serves nobody", async (stage) => {
    const [one, two] = await stage.two();
    const late = stage.connect();
    const started = Promise.resolve(late.backplane.start(late));
    await late.backplane.close();
    // It may succeed, fail, or never be done.
    started.catch(() => {});
    await one.enter("news");
    await two.publish("news", "1");
    await stage.heardAll("news", one);
    await stage.close(one);
    const told = () => [...one.told("news"), ...two.told("news")];
    await stage.until(() => told().length === 2);
    assertEquals(told(), ["1 occupied", "0 vacated"]);
    assertEquals([late.deliveries, late.changes], [[], []]);
    assertEquals(await countsOf(two, "news"), [0, 0]);
  });

  test("the history ends ageMs after the server with the last client that can recover", async (stage) => {
    const [one, two] = await stage.two({ ageMs: AGE_MS });
    const { position } = await one.enter("news", { recovers: true });
    await one.enter("presence-a", { user: "ann", recovers: true });
    await two.enter("news");
    await stage.close(one);
    await two.publish("news", "1");
    const back = await two.enter("news", { since: position });
    assertEquals(await two.replay("news", back), ["1"]);
    await two.leave("news", { recovers: true });
    await stage.deployment.pass(1.5 * AGE_MS);
    for (const channel of ["news", "presence-a"]) {
      await two.publish(channel, "late");
      const { replay } = await two.enter(channel, {
        rewind: 10,
        ...(channel === "presence-a" && { user: "bob" }),
      });
      assertExists(replay);
      const { position } = await two.enter(channel, {
        ...(channel === "presence-a" && { user: "bob" }),
      });
      const request = { after: replay.from, until: position.offset };
      assertEquals(await two.read(channel, request) ?? [], []);
    }
  });

  test("after all servers have closed nobody is there, and no old position leads astray", async (stage) => {
    const one = await stage.server();
    const { position } = await one.enter("news", { recovers: true });
    await one.enter("presence-a", { user: "ann" });
    await publishAll(one, "news", numbers(1, 5));
    await stage.heardAll("news", one);
    const known = [position, ...one.heard("news").map((one) => one.position)];
    await stage.close(one);
    const two = await stage.server();
    assertEquals(await countsOf(two, "news"), [0, 0]);
    assertEquals(await occupiedBy(two, ""), []);
    const { position: later } = await two.enter("news", { recovers: true });
    await publishAll(two, "news", numbers(6, 20));
    for (const [index, since] of known.entries()) {
      const result = await two.enter("news", { since });
      if (!result.replay?.recovered) continue;
      const replayed = await two.replay("news", result);
      assertEquals(replayed, numbers(Math.min(index, 5) + 1, 20));
    }
    const result = await two.enter("news", { since: later });
    assertEquals(result.replay?.recovered, true);
    assertEquals(await two.replay("news", result), numbers(6, 20));
  });
}

// ---- Usage ------------------------------------------------------------------

export function testUsage(test: Register): void {
  test("what the usage says grows and goes back, where it is known", async (stage) => {
    const [one] = await stage.two({ ageMs: AGE_MS });
    const { backplane } = one;
    if (backplane.usage === undefined) return;
    const usage = () => backplane.usage!();
    const nothing = { historyBytes: 0, historyEvents: 0, sessionsAway: 0 };
    assertEquals(usage(), nothing);
    await one.enter("news", { recovers: true });
    await publishAll(one, "news", numbers(1, 10).map((n) => n.padEnd(1_000)));
    assertGreaterOrEqual(usage().historyBytes, 10_000);
    assertEquals(usage().historyEvents, 10);
    await take(one, SESSION);
    assertEquals(usage().sessionsAway, 0);
    await keep(one, SESSION, stateOf(1), true);
    assertEquals(usage().sessionsAway, 1);
    await take(one, SESSION);
    assertEquals(usage().sessionsAway, 0);
    await one.leave("news", { recovers: true });
    await stage.deployment.pass(1.5 * AGE_MS);
    // A channel is looked after when a message comes.
    await one.publish("news", "1");
    assertEquals(usage(), nothing);
  });
}

// ---- Death ------------------------------------------------------------------

export function testDeath(test: Register): void {
  test("what a dead server held is let go of, each of it once", async (stage) => {
    const [one, two] = await stage.two();
    const after = await watchMuch(two);
    await holdMuch(one);
    await stage.toldAll(one);
    await stage.kill(one);
    await assertLetGo(stage, after, [two], []);
  });

  test("one of several servers is told of what a dead one held", async (stage) => {
    const [one, two] = await stage.two();
    const three = await stage.server();
    const after = await watchMuch(two);
    await holdMuch(one);
    await stage.toldAll(one);
    await stage.kill(one);
    await assertLetGo(stage, after, [two, three], []);
  });

  test("a user who is on a living server as well does not leave with the dead one", async (stage) => {
    const [one, two] = await stage.two();
    const ann = { user: "ann" };
    const { position } = await two.enter("presence-a", ann);
    await one.enter("presence-a", ann);
    await one.enter("presence-a", { user: "bob" });
    await stage.kill(one);
    await stage.eventually(() => countsOf(two, "presence-a"), [1, 1]);
    await stage.toldAll(two);
    assertEquals(two.told("presence-a").at(0), "1 occupied +ann");
    const gone = two.told("presence-a").filter((text) => text.includes("-"));
    assertEquals(gone.map((text) => text.split(" ").at(-1)), ["-bob"]);
    await stage.heardAll("presence-a", two);
    assertEquals(
      textsOf(two, "presence-a", position),
      ["added bob", "removed bob"],
    );
  });

  test("a server may take the place of a dead one at once", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await two.enter("presence-a", { user: "eve" });
    await one.enter("presence-a", { user: "ann" });
    await stage.kill(one);
    const three = await stage.server();
    await three.enter("presence-a", { user: "ann" });
    await stage.eventually(() => countsOf(two, "presence-a"), [2, 2]);
    await stage.heardAll("presence-a", two);
    // She has either been there all the time, or come back.
    const texts = textsOf(two, "presence-a", position);
    assert(
      [["added ann"], ["added ann", "removed ann", "added ann"]].some((one) =>
        one.join() === texts.join()
      ),
      texts.join(),
    );
  });

  test("two servers that die together leave no ghosts", async (stage) => {
    const [one, two] = await stage.two();
    const three = await stage.server();
    const { position } = await three.enter("presence-a", { user: "eve" });
    for (const server of [one, two]) {
      await server.enter("presence-a", { user: "ann" });
      await server.enter("news");
    }
    await Promise.all([stage.kill(one), stage.kill(two)]);
    await stage.eventually(() => countsOf(three, "presence-a"), [1, 1]);
    await stage.eventually(() => countsOf(three, "news"), [0, 0]);
    await stage.until(() =>
      three.told("news").some((text) => text.includes("vacated"))
    );
    await stage.toldAll(three);
    await stage.heardAll("presence-a", three);
    assertEquals(
      textsOf(three, "presence-a", position),
      ["added ann", "removed ann"],
    );
    const vacated = three.told("news").filter((text) => /vacated/.test(text));
    assertEquals(vacated.length, 1);
  });
}

// ---- Flush ------------------------------------------------------------------

export function testFlush(test: Register): void {
  test("after a flush the servers are registered again, and nobody comes or goes by it", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("news");
    await two.enter("news");
    await one.enter("presence-a", { user: "ann" });
    await two.enter("presence-a", { user: "ann" });
    await two.enter("presence-a", { user: "bob" });
    await one.enter(`${USER}ann`);
    await one.enter(`${WATCHERS}ann`);
    await stage.heardAll("presence-a", one, two);
    await stage.deployment.flush?.();
    for (
      const [channel, counts] of [
        ["news", [2, 0]],
        ["presence-a", [3, 2]],
        [`${USER}ann`, [1, 0]],
      ] as const
    ) {
      await stage.eventually<readonly number[]>(
        () => countsOf(two, channel),
        counts,
      );
    }
    assertEquals(await membersOf(one, "presence-a"), [
      ["ann", "{}"],
      ["bob", "{}"],
    ]);
    await one.leave("news");
    await two.leave("news");
    for (const server of [one, two]) {
      await server.leave("presence-a", { user: "ann" });
    }
    await stage.heardAll("presence-a", two);
    assertEquals(
      textsOf(two, "presence-a").filter((text) => text !== "added ann"),
      ["added bob", "removed ann"],
    );
    await stage.heardAll(`${WATCHERS}ann`, one);
    const watchers = one.heard(`${WATCHERS}ann`);
    assertEquals(watchers.flatMap(({ message }) => message.control ?? []), []);
    await stage.toldAll(one, two);
    const told = (channel: string) =>
      [one, two].flatMap((server) => server.told(channel));
    const count = (channel: string, part: string) =>
      told(channel).filter((text) => text.split(" ").includes(part)).length;
    assertEquals(count("news", "occupied"), 1);
    assertEquals(count("news", "vacated"), 1);
    for (const part of ["+ann", "-ann", "+bob"]) {
      assertEquals(count("presence-a", part), 1, part);
    }
    assertEquals(count("presence-a", "-bob"), 0);
  });

  test("after a flush every server hears of the loss, and of all that comes later", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await one.enter("news", { recovers: true });
    await two.enter("news", { recovers: true });
    await publishAll(one, "news", numbers(1, 50));
    await stage.heardAll("news", one, two);
    await stage.deployment.flush?.();
    await stage.eventually(() => countsOf(two, "news"), [2, 0]);
    await publishAll(two, "news", numbers(51, 60));
    await stage.heardAll("news", one, two);
    for (const server of [one, two]) {
      const heard = server.heard("news");
      const before = heard.filter((one) =>
        one.position.epoch === position.epoch
      );
      const after = heard.filter((one) =>
        one.position.epoch !== position.epoch
      );
      assertEquals(dataOf(before), numbers(1, 50));
      assertEquals(dataOf(after), numbers(51, 60));
      for (const part of [before, after]) assertAscending(part);
      for (const { channel, now } of server.losses) {
        if (channel === "news") assertNotEquals(now.epoch, position.epoch);
      }
    }
    // Nothing of the old epoch is taken for something of the new one.
    for (const since of [position, one.heard("news")[0]!.position]) {
      const { replay } = await two.enter("news", { since });
      assertEquals(replay?.recovered, false);
    }
  });

  test("after a flush a client that can recover does so from its new position", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("news", { recovers: true });
    await one.publish("news", "1");
    await stage.heardAll("news", one);
    await stage.deployment.flush?.();
    await stage.eventually(() => countsOf(two, "news"), [1, 0]);
    await one.publish("news", "2");
    await stage.until(() => dataOf(one.heard("news")).length === 2);
    const since = one.heard("news").at(-1)!.position;
    await publishAll(two, "news", numbers(3, 5));
    const result = await two.enter("news", { since });
    assertEquals(result.replay?.recovered, true);
    assertEquals(await two.replay("news", result), numbers(3, 5));
  });

  test("after a flush a session is kept by the server that has its client", async (stage) => {
    const [one, two] = await stage.two();
    await take(one, SESSION);
    await keep(one, SESSION, stateOf(1));
    await stage.deployment.flush?.();
    await keep(one, SESSION, stateOf(2));
    assertEquals(await take(two, SESSION), shown(stateOf(2)));
    await stage.until(() => one.lostSessions.length > 0);
    await keep(one, SESSION, stateOf(3), true);
    await keep(two, SESSION, stateOf(4), true);
    assertEquals(await take(one, SESSION), shown(stateOf(4)));
  });
}

// ---- Deafness ---------------------------------------------------------------

export function testDeafness(test: Register): void {
  test("what does not reach a server is told to it as a loss, or delivered later", async (stage) => {
    const [one, two] = await stage.two();
    for (const server of [one, two]) {
      await server.enter("news", { recovers: true });
      await server.enter("quiet");
    }
    await publishAll(one, "news", numbers(1, 5));
    await stage.heardAll("news", one, two);
    await stage.deployment.deafen?.(two.backplane, async () => {
      await publishAll(one, "news", numbers(6, 10));
      await stage.heardAll("news", one);
    });
    await publishAll(one, "news", numbers(11, 15));
    await stage.heardAll("news", two);
    const heard = two.heard("news");
    assertAscending(heard);
    const losses = two.losses.filter(({ channel }) => channel === "news");
    for (const { message, position } of one.heard("news")) {
      // What no history keeps may be made good in other ways.
      if (!message.logged) continue;
      const isHeard = heard.some((one) =>
        one.position.offset === position.offset
      );
      const isTold = losses.some(({ now }) => now.offset >= position.offset);
      assert(isHeard || isTold, `${message.data} is passed over`);
    }
    const last = dataOf(heard).slice(-5);
    assertEquals(last, numbers(11, 15));
    assertEquals(two.losses.filter(({ channel }) => channel === "quiet"), []);
    assertEquals(one.losses, []);
    for (const { now } of losses) {
      assertGreater(now.offset, heard[0]!.position.offset);
    }
  });
}
