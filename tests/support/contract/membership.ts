/**
 * Who is on a channel: absolute figures, members, their limit, and transitions.
 *
 * @module
 */
import { assertEquals, assertExists, assertLessOrEqual } from "@std/assert";
import { type FakeServer, SOME_APP, USER, WATCHERS } from "./server.ts";
import {
  assertAscending,
  countsOf,
  membersOf,
  type Register,
  textsOf,
} from "./stage.ts";

// ---- Holdings ---------------------------------------------------------------

export function testHoldings(test: Register): void {
  test("the figures of all servers add up", async (stage) => {
    const [one, two] = await stage.two();
    for (const server of [one, two, two]) await server.enter("news");
    assertEquals(await countsOf(one, "news"), [3, 0]);
    assertEquals(await countsOf(two, "news"), [3, 0]);
    await one.leave("news");
    assertEquals(await countsOf(one, "news"), [2, 0]);
    await two.leave("news");
    await two.leave("news");
    assertEquals(await countsOf(two, "news"), [0, 0]);
  });

  test("to say the same again changes nothing", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await two.enter("presence-a", { user: "eve" });
    await two.enter("news");
    await one.enter("news");
    await one.enter("presence-a", { user: "ann", recovers: true });
    for (let round = 0; round < 3; round++) {
      await one.repeat("news");
      await one.repeat("presence-a", { user: "ann" });
    }
    assertEquals(await countsOf(two, "news"), [2, 0]);
    assertEquals(await countsOf(two, "presence-a"), [2, 2]);
    await one.leave("news");
    await one.leave("presence-a", { user: "ann", recovers: true });
    for (let round = 0; round < 3; round++) {
      await one.repeat("news");
      await one.repeat("presence-a", { user: "ann" });
    }
    assertEquals(await countsOf(two, "news"), [1, 0]);
    assertEquals(await countsOf(two, "presence-a"), [1, 1]);
    await stage.toldAll(one);
    assertEquals(one.told("news"), ["2", "1"]);
    assertEquals(one.told("presence-a"), ["2 +ann", "1 -ann"]);
    await stage.heardAll("presence-a", two);
    const texts = textsOf(two, "presence-a", position);
    assertEquals(texts, ["added ann", "removed ann"]);
  });

  test("calls that are carried out twice at once count once", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await two.enter("presence-a", { user: "eve" });
    await Promise.all([
      one.join("presence-a", { user: "ann" }),
      one.repeat("presence-a", { user: "ann" }),
      one.join("presence-a", { user: "ann" }),
      one.repeat("presence-a", { user: "ann" }),
    ]);
    assertEquals(await countsOf(two, "presence-a"), [3, 2]);
    await Promise.all([
      one.leave("presence-a", { user: "ann" }),
      one.repeat("presence-a", { user: "ann" }),
      one.leave("presence-a", { user: "ann" }),
      one.repeat("presence-a", { user: "ann" }),
    ]);
    assertEquals(await countsOf(two, "presence-a"), [1, 1]);
    await stage.heardAll("presence-a", two);
    const texts = textsOf(two, "presence-a", position);
    assertEquals(texts, ["added ann", "removed ann"]);
  });

  test("a later call mends the figures of calls that were not carried out", async (stage) => {
    const [one, two] = await stage.two();
    const { backplane } = one;
    const say = (connections: number, userId?: string) => {
      const member = userId === undefined ? undefined : {
        ...{ userId, userInfo: "{}", maxMembers: 100 },
        added: { event: "added", data: userId },
      };
      const options = { connections, recovering: 0, member };
      const channel = userId === undefined ? "news" : "presence-a";
      return backplane.join(SOME_APP, channel, options);
    };
    await two.enter("news");
    await say(3);
    assertEquals(await countsOf(two, "news"), [4, 0]);
    const leaving = { connections: 1, recovering: 0 };
    await backplane.leave(SOME_APP, "news", leaving);
    assertEquals(await countsOf(two, "news"), [2, 0]);
    // A join can mend a leave, too.
    await say(5);
    await say(2);
    assertEquals(await countsOf(two, "news"), [3, 0]);
    await say(3, "ann");
    assertEquals(await countsOf(two, "presence-a"), [3, 1]);
    const gone = { ...leaving, connections: 0, userId: "ann" };
    await backplane.leave(SOME_APP, "presence-a", gone);
    assertEquals(await countsOf(two, "presence-a"), [0, 0]);
    await stage.toldAll(one);
    assertEquals(one.told("presence-a"), ["3 occupied +ann", "0 vacated -ann"]);
  });

  test("a leave never raises the figures", async (stage) => {
    const [one, two] = await stage.two();
    // As after a join that was counted, and was not carried out.
    const more = { connections: 2, recovering: 2 };
    const { backplane } = one;
    await backplane.leave(SOME_APP, "news", more);
    await backplane.leave(SOME_APP, "presence-a", { ...more, userId: "ann" });
    assertEquals(await countsOf(two, "news"), [0, 0]);
    assertEquals(await countsOf(two, "presence-a"), [0, 0]);
    await one.enter("news");
    await backplane.leave(SOME_APP, "news", more);
    assertEquals(await countsOf(two, "news"), [1, 0]);
    await one.leave("news");
    await stage.toldAll(one);
    assertEquals(one.told("news"), ["1 occupied", "0 vacated"]);
    assertEquals(one.told("presence-a"), []);
  });

  test("a leave from a channel that nobody is on is fine", async (stage) => {
    const [one] = await stage.two();
    const nothing = { connections: 0, recovering: 0 };
    await one.backplane.leave(SOME_APP, "news", nothing);
    const ann = { ...nothing, userId: "ann" };
    await one.backplane.leave(SOME_APP, "presence-a", ann);
    await stage.toldAll(one);
    assertEquals([one.told("news"), one.told("presence-a")], [[], []]);
  });

  test("a user is a member once, however many connections on however many servers", async (stage) => {
    const [one, two] = await stage.two();
    const info = '{"name":"Änn 😀","x":"\\u0000 {}"}';
    const ann = { user: "ann", info };
    for (const server of [one, two, one, two]) {
      const { members } = await server.enter("presence-a", ann);
      assertEquals([...members], [["ann", info]]);
    }
    await two.enter("presence-a", { user: "bob" });
    assertEquals(await countsOf(one, "presence-a"), [5, 2]);
    const both = [["ann", info], ["bob", "{}"]];
    assertEquals(await membersOf(one, "presence-a"), both);
    for (const server of [one, one, two]) {
      await server.leave("presence-a", { user: "ann" });
    }
    assertEquals(await countsOf(one, "presence-a"), [2, 2]);
    assertEquals(await membersOf(two, "presence-a"), both);
    await two.leave("presence-a", { user: "ann" });
    assertEquals(await membersOf(one, "presence-a"), [["bob", "{}"]]);
  });

  test("a map of members that was handed out does not change any more", async (stage) => {
    const [one, two] = await stage.two();
    const { members } = await one.enter("presence-a", { user: "ann" });
    const asked = await two.backplane.members(SOME_APP, "presence-a");
    await two.enter("presence-a", { user: "bob" });
    await one.leave("presence-a", { user: "ann" });
    for (const map of [members, asked]) assertEquals([...map], [["ann", "{}"]]);
  });

  test("the limit of members holds over all servers", async (stage) => {
    const [one, two] = await stage.two();
    const join = (server: FakeServer, user: string, maxMembers = 2) =>
      server.join("presence-a", { user, maxMembers });
    const nobody = join(one, "ann", 0);
    assertEquals(await nobody, null);
    assertEquals(await countsOf(two, "presence-a"), [0, 0]);
    assertExists(await join(one, "ann"));
    const { position } = (await join(two, "bob"))!;
    for (const server of [one, two]) {
      assertEquals(await join(server, "eve"), null);
      // As the server does, which cannot know whether that was carried out.
      const leaving = { connections: 0, recovering: 0, userId: "eve" };
      await server.backplane.leave(SOME_APP, "presence-a", leaving);
    }
    assertEquals(await countsOf(two, "presence-a"), [2, 2]);
    // A member is no further one.
    assertExists(await join(two, "ann"));
    assertExists(await join(one, "eve", 3));
    await one.leave("presence-a", { user: "eve" });
    await one.leave("presence-a", { user: "ann" });
    assertEquals(await join(one, "eve"), null);
    await two.leave("presence-a", { user: "ann" });
    assertExists(await join(one, "eve"));
    await stage.toldAll(one, two);
    assertEquals(one.told("presence-a"), [
      "1 occupied +ann",
      "4 +eve",
      "3 -eve",
      "2",
      "2 +eve",
    ]);
    assertEquals(two.told("presence-a"), ["2 +bob", "3", "1 -ann"]);
    await stage.heardAll("presence-a", two);
    assertEquals(
      textsOf(two, "presence-a", position),
      ["added eve", "removed eve", "removed ann", "added eve"],
    );
  });

  test("of two who want the last place at once, one gets it", async (stage) => {
    const [one, two] = await stage.two();
    for (let round = 0; round < 10; round++) {
      const channel = `presence-${round}`;
      const joins = await Promise.all([
        one.join(channel, { user: "ann", maxMembers: 1 }),
        two.join(channel, { user: "bob", maxMembers: 1 }),
      ]);
      assertEquals(joins.filter((result) => result === null).length, 1);
      assertEquals(await countsOf(one, channel), [1, 1]);
    }
  });
}

// ---- Transitions ------------------------------------------------------------

export function testTransitions(test: Register): void {
  test("the server that causes a transition is told of it, once, and no other", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("news");
    await two.enter("news");
    await one.leave("news");
    await two.leave("news");
    await two.enter("news");
    await stage.toldAll(one, two);
    assertEquals(one.told("news"), ["1 occupied", "1"]);
    assertEquals(two.told("news"), ["2", "0 vacated", "1 occupied"]);
  });

  test("members come and go once, for the server that causes it", async (stage) => {
    const [one, two] = await stage.two();
    const ann = { user: "ann" };
    await one.enter("presence-a", ann);
    await two.enter("presence-a", ann);
    await two.enter("presence-a", { user: "bob" });
    await one.leave("presence-a", ann);
    await two.leave("presence-a", ann);
    await two.leave("presence-a", { user: "bob" });
    await stage.toldAll(one, two);
    assertEquals(one.told("presence-a"), ["1 occupied +ann", "2"]);
    assertEquals(
      two.told("presence-a"),
      ["2", "3 +bob", "1 -ann", "0 vacated -bob"],
    );
  });

  test("joins and leaves of two servers at once yield each transition once", async (stage) => {
    const [one, two] = await stage.two();
    for (let round = 0; round < 20; round++) {
      await Promise.all([one.enter("news"), two.enter("news")]);
      await Promise.all([one.leave("news"), two.leave("news")]);
    }
    await stage.toldAll(one, two);
    const told = [...one.told("news"), ...two.told("news")];
    for (const [what, count] of [["occupied", 20], ["vacated", 20]] as const) {
      const those = told.filter((text) => text.includes(what));
      assertEquals(those.length, count, what);
    }
    assertEquals(told.length, 80);
  });

  test("members who come and go are announced on their channel, exactly when they do", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await two.enter("presence-a", { user: "eve" });
    const ann = { user: "ann" };
    for (const server of [one, two, one]) await server.enter("presence-a", ann);
    for (const server of [two, one, one]) await server.leave("presence-a", ann);
    await one.enter("presence-a", ann);
    await stage.heardAll("presence-a", two);
    assertEquals(
      textsOf(two, "presence-a", position),
      ["added ann", "removed ann", "added ann"],
    );
  });

  test("the first and the last connection of a channel are announced on another", async (stage) => {
    const [one, two] = await stage.two();
    const user = "ann {}\n:€";
    await two.enter(WATCHERS + user);
    for (const server of [one, two, one]) await server.enter(USER + user);
    for (const server of [one, one, two]) await server.leave(USER + user);
    await one.enter(USER + user);
    await stage.heardAll(WATCHERS + user, two);
    const heard = two.heard(WATCHERS + user);
    assertEquals(
      heard.flatMap(({ message }) => message.control ?? []),
      ["online", "offline", "online"],
    );
    assertAscending(heard);
  });

  test("the answer to a join covers what is announced with it", async (stage) => {
    const [one, two] = await stage.two();
    await two.enter("presence-a", { user: "eve" });
    const { position } = await one.enter("presence-a", { user: "ann" });
    await stage.heardAll("presence-a", two);
    const added = two.heard("presence-a").find(({ message }) =>
      message.data === "ann"
    );
    assertExists(added);
    assertLessOrEqual(added.position.offset, position.offset);
    assertEquals(added.position.epoch, position.epoch);
    assertEquals(
      textsOf(one, "presence-a", position),
      [],
      "A server hears of its own member's coming afterwards",
    );
  });
}
