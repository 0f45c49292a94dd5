/**
 * The history of a channel: what it holds, for how long, and how it is read.
 *
 * @module
 */
import type { History, JoinResult, Page, Position } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertExists,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertLessOrEqual,
} from "@std/assert";
import { type Delivered, type FakeServer, SOME_APP, USER } from "./server.ts";
import { AGE_MS, dataOf, numbers, publishAll, type Register } from "./stage.ts";

/** What a client gets that comes back, or null if it cannot recover. */
async function missed(
  server: FakeServer,
  channel: string,
  since: Position,
): Promise<string[] | null> {
  const result = await server.enter(channel, { since });
  const messages = await server.replay(channel, result);
  await server.leave(channel, { since });
  return isRecovered(result) ? messages : null;
}

/** What a new client gets that wants the last messages. */
async function rewound(
  server: FakeServer,
  channel: string,
  rewind = 1_000,
): Promise<string[] | null> {
  const result = await server.enter(channel, { rewind });
  const messages = await server.replay(channel, result);
  await server.leave(channel, { rewind });
  assertEquals(isRecovered(result), false);
  return messages;
}

function isRecovered({ replay }: JoinResult): boolean {
  assertExists(replay, "There is no replay");
  return replay.recovered;
}

/** The position of a message that was delivered. */
function positionOf(
  server: FakeServer,
  channel: string,
  data: string,
): Position {
  const found = server.heard(channel).find(({ message }) =>
    message.data === data
  );
  assertExists(found, `${data} has not been delivered on ${channel}`);
  return found.position;
}

export function testHistory(
  test: Register,
  keeps: (bound: keyof History) => boolean,
): void {
  // ---- What it holds

  test("the history holds what is logged, as it was delivered", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await one.enter("news", { recovers: true });
    for (const n of numbers(1, 30)) {
      const userId = "ann {}\n€";
      await two.publish("news", n, { logged: Number(n) % 3 > 0, userId });
      if (n === "10") await two.enter("news");
      if (n === "20") await two.leave("news");
    }
    await stage.heardAll("news", one);
    const heard = one.heard("news", position);
    const logged = heard.filter(({ message }) => message.logged);
    assertEquals(logged.length, 20);
    const until = heard.at(-1)!.position.offset;
    for (const server of [one, two]) {
      const read = await server.read("news", { after: position, until });
      assertEquals(
        read?.map(({ message: { event, data, userId }, offset }) =>
          [event, data, userId, offset] as const
        ),
        logged.map(({ message: { event, data, userId }, position }) =>
          [event, data, userId, position.offset] as const
        ),
      );
    }
  });

  test("a client that comes back finds what it has missed, from any position", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await one.enter("news", { recovers: true });
    assertEquals(await missed(two, "news", position), []);
    await publishAll(one, "news", numbers(1, 10));
    await two.publish("news", "not logged", { logged: false });
    await stage.heardAll("news", one);
    assertEquals(await missed(two, "news", position), numbers(1, 10));
    for (const n of [1, 5, 9, 10]) {
      const since = positionOf(one, "news", `${n}`);
      assertEquals(await missed(two, "news", since), numbers(n + 1, 10));
    }
    // A client may stand at a message that is not logged.
    const since = positionOf(one, "news", "not logged");
    assertEquals(await missed(two, "news", since), []);
    await one.publish("news", "11");
    assertEquals(await missed(two, "news", since), ["11"]);
  });

  test("a position of nowhere is not recovered", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await one.enter("news", { recovers: true });
    await publishAll(one, "news", numbers(1, 5));
    await stage.heardAll("news", one);
    const { epoch, offset } = one.heard("news").at(-1)!.position;
    for (
      const since of [
        { epoch: "", offset: 0 },
        { epoch: crypto.randomUUID(), offset: position.offset },
        { epoch, offset: offset + 1 },
        { epoch, offset: -1 },
        { epoch, offset: Number.MAX_SAFE_INTEGER },
        { epoch: `${epoch}:} \n`, offset },
      ]
    ) {
      assertEquals(await missed(two, "news", since), null, `${since.offset}`);
    }
    assertEquals(await missed(two, "news", position), numbers(1, 5));
  });

  test("a new client may have the last messages replayed", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await one.enter("news", { recovers: true });
    assertEquals(await rewound(two, "news"), []);
    await publishAll(one, "news", numbers(1, 10));
    await one.publish("news", "not logged", { logged: false });
    for (const [rewind, from] of [[0, 11], [1, 10], [3, 8], [10, 1]] as const) {
      assertEquals(await rewound(two, "news", rewind), numbers(from, 10));
    }
    assertEquals(await rewound(two, "news"), numbers(1, 10));
    assertEquals(await missed(two, "news", position), numbers(1, 10));
  });

  test("a replay ends where the subscription begins", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("news", { recovers: true });
    await publishAll(one, "news", numbers(1, 5));
    const result = await two.enter("news", { rewind: 10 });
    await publishAll(one, "news", numbers(6, 10));
    await stage.heardAll("news", two);
    assertEquals(await two.replay("news", result), numbers(1, 5));
    const live = dataOf(two.heard("news", result.position));
    assertEquals(live, numbers(6, 10));
  });

  test("without a history no join has a replay", async (stage) => {
    const [one, two] = await stage.two(null);
    const { position, replay } = await one.enter("news", { rewind: 5 });
    assertEquals(replay, undefined);
    await publishAll(two, "news", numbers(1, 3));
    await stage.heardAll("news", one);
    const back = await two.enter("news", { since: position });
    assertEquals(back.replay, undefined);
    const request = { after: position, until: back.position.offset };
    assertEquals(await one.read("news", request), null);
    assertEquals(dataOf(one.heard("news")), numbers(1, 3));
  });

  test("the servers' own channels have a history, too", async (stage) => {
    const [one, two] = await stage.two();
    const channel = `${USER}ann {}\n:€`;
    const { position } = await one.enter(channel, { recovers: true });
    await publishAll(two, channel, numbers(1, 3));
    assertEquals(await missed(two, channel, position), numbers(1, 3));
  });

  // ---- How long

  test("without a client that can recover no history is kept", async (stage) => {
    const [one, two] = await stage.two();
    await one.enter("news");
    await publishAll(two, "news", numbers(1, 3));
    assertEquals(await rewound(two, "news"), []);
  });

  test("the history is kept for ageMs after the last client that can recover", async (stage) => {
    const [one, two] = await stage.two({ ageMs: AGE_MS });
    const positions: Position[] = [];
    for (const channel of ["a", "b"]) {
      positions.push((await one.enter(channel, { rewind: 0 })).position);
      await two.publish(channel, "1");
      await one.leave(channel, { rewind: 0 });
      // Nobody is there at all.
      await two.publish(channel, "2");
    }
    const [a, b] = positions as [Position, Position];
    await stage.deployment.pass(AGE_MS / 2);
    await two.publish("a", "3");
    assertEquals(await missed(two, "a", a), numbers(1, 3));
    await stage.deployment.pass(AGE_MS);
    await two.enter("b");
    await two.publish("b", "3");
    assertEquals(await missed(two, "b", b), null);
    await two.leave("b");
  });

  test("the history is kept as long as one client of any server can recover", async (stage) => {
    const [one, two] = await stage.two({ ageMs: AGE_MS });
    const ann = { user: "ann", recovers: true };
    await one.enter("presence-a", ann);
    await two.enter("presence-a", { user: "bob", recovers: true });
    await one.leave("presence-a", ann);
    // Others come and go who cannot recover.
    await two.enter("presence-a", { user: "eve" });
    await two.leave("presence-a", { user: "eve" });
    await stage.deployment.pass(1.5 * AGE_MS);
    await one.publish("presence-a", "1");
    assertEquals(await rewound(one, "presence-a"), ["1"]);
  });

  test("messages older than ageMs are gone", async (stage) => {
    const [one, two] = await stage.two({ ageMs: AGE_MS });
    const { position } = await one.enter("news", { recovers: true });
    await two.publish("news", "1");
    await stage.deployment.pass(AGE_MS / 2);
    await two.publish("news", "2");
    await stage.heardAll("news", one);
    assertEquals(await missed(two, "news", position), ["1", "2"]);
    await stage.deployment.pass(0.75 * AGE_MS);
    assertEquals(await missed(two, "news", position), null);
    assertEquals(await rewound(two, "news"), ["2"]);
    const since = positionOf(one, "news", "1");
    assertEquals(await missed(two, "news", since), ["2"]);
    const until = positionOf(one, "news", "2").offset;
    assertEquals(await two.read("news", { after: position, until }), null);
  });

  test("a position from before a channel was forgotten is never taken for a later one", async (stage) => {
    const [one, two] = await stage.two();
    // Nobody can recover, so the channel is forgotten each time.
    const known: { position: Position; next: number }[] = [];
    for (const n of [1, 4, 7]) {
      const { position } = await one.enter("news");
      known.push({ position, next: n });
      await publishAll(two, "news", numbers(n, n + 2));
      await stage.heardAll("news", one);
      for (const { message, position } of one.heard("news")) {
        if (!message.logged) continue;
        known.push({ position, next: Number(message.data) + 1 });
      }
      await one.leave("news");
    }
    await one.enter("news", { recovers: true });
    await publishAll(two, "news", numbers(10, 30));
    for (const { position, next } of known) {
      const messages = await missed(two, "news", position);
      // To know more than the contract asks for is fine.
      if (messages !== null) assertEquals(messages, numbers(next, 30));
    }
  });

  // ---- How much

  if (keeps("events")) {
    test("history.events bounds the messages of a channel", async (stage) => {
      const [one, two] = await stage.two({ events: 20 });
      const { position } = await one.enter("news", { recovers: true });
      await one.enter("other", { recovers: true });
      await two.publish("other", "1");
      await publishAll(two, "news", numbers(1, 400));
      await stage.heardAll("news", one);
      assertEquals(await missed(two, "news", position), null);
      const since = positionOf(one, "news", "380");
      assertEquals(await missed(two, "news", since), numbers(381, 400));
      const messages = await rewound(two, "news");
      // A store may forget messages in batches.
      assertGreaterOrEqual(messages!.length, 20);
      assertLess(messages!.length, 350);
      const from = 401 - messages!.length;
      assertEquals(messages, numbers(from, 400));
      assertEquals(await rewound(two, "other"), ["1"]);
    });
  }

  if (keeps("bytes")) {
    test("history.bytes bounds all channels, of which the least recently used goes first", async (stage) => {
      const [one, two] = await stage.two({ bytes: 300_000 });
      const large = (n: string) => `${n} `.padEnd(1_000, "x");
      const positions: Position[] = [];
      for (const channel of ["a", "b"]) {
        const { position } = await one.enter(channel, { recovers: true });
        positions.push(position);
        await publishAll(two, channel, numbers(1, 150).map(large));
      }
      const [a, b] = positions as [Position, Position];
      assertEquals(await missed(two, "a", a), null);
      const messages = await missed(two, "b", b);
      assertEquals(messages?.map((data) => parseInt(data)).length, 150);
      // A channel that is too large by itself loses its oldest messages.
      await publishAll(two, "b", numbers(151, 500).map(large));
      assertEquals(await missed(two, "b", b), null);
      const rest = (await rewound(two, "b"))!.map((data) => parseInt(data));
      assertGreater(rest.length, 50);
      assertLess(rest.length, 350);
      assertEquals(rest.map(String), numbers(501 - rest.length, 500));
    });
  }

  // ---- Pages

  test("a page has no more messages and bytes than were asked for", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await one.enter("news", { recovers: true });
    const large = (n: string) => `${n} `.padEnd(1_000, "x");
    await publishAll(two, "news", numbers(1, 250).map(large));
    await stage.heardAll("news", one);
    const until = one.heard("news").at(-1)!.position.offset;
    for (
      const [events, bytes] of [
        [100, 1_000_000],
        [1, 1_000_000],
        [1_000, 10_000],
        [1_000, 1],
        [1_000, 1_000_000],
      ] as const
    ) {
      const pages = await pagesOf(two, {
        after: position,
        until,
        events,
        bytes,
      });
      const data = pages.flatMap(({ messages }) =>
        messages.map(({ message }) => message.data!)
      );
      assertEquals(
        data.map((one) => parseInt(one)).map(String),
        numbers(1, 250),
      );
      for (const { messages } of pages) {
        assertLessOrEqual(messages.length, events);
        // Its last message may be past the bytes.
        const before = messages.slice(0, -1);
        const size = before.reduce(
          (sum, { message }) => sum + message.data!.length,
          0,
        );
        assertLessOrEqual(size, bytes);
      }
    }
  });

  test("a page ends at until, and the next one begins where it ends", async (stage) => {
    const [one, two] = await stage.two();
    const { position: start } = await one.enter("news", { recovers: true });
    for (const n of numbers(1, 20)) {
      await two.publish("news", n, { logged: Number(n) % 5 > 0 });
    }
    await stage.heardAll("news", one);
    const heard = one.heard("news", start);
    const { epoch } = start;
    for (const [from, to] of [[0, 20], [3, 4], [4, 5], [5, 5], [7, 16]]) {
      const after = from === 0 ? start : heard[from! - 1]!.position;
      const until = heard[to! - 1]!.position.offset;
      if (until <= after.offset) continue;
      const read = await two.read("news", { after, until, events: 3 });
      const expected = heard.slice(from, to).filter(isLogged);
      assertEquals(
        read?.map(({ offset }) => offset),
        expected.map(({ position }) => position.offset),
      );
    }
    // Nothing is there yet that comes later.
    const after = { epoch, offset: heard.at(-1)!.position.offset };
    const until = after.offset + 10;
    const request = { after, until, events: 10, bytes: 1_000 };
    const page = await two.backplane.read(SOME_APP, "news", request);
    assertEquals(page?.messages ?? [], []);
  });

  test("a page is of use while others publish", async (stage) => {
    const [one, two] = await stage.two();
    const { position } = await one.enter("news", { recovers: true });
    const published = publishAll(one, "news", numbers(1, 300));
    const result = await two.enter("news", { since: position });
    const reading = two.replay("news", result);
    await publishAll(one, "news", numbers(301, 400));
    const replayed = await reading;
    await published;
    await stage.heardAll("news", two);
    const live = dataOf(two.heard("news", result.position));
    assertEquals([...replayed!, ...live], numbers(1, 400));
  });

  test("a page that the history does not reach back to is null", async (stage) => {
    const [one, two] = await stage.two({ ageMs: AGE_MS });
    const { position } = await one.enter("news", { recovers: true });
    await publishAll(one, "news", numbers(1, 3));
    await stage.heardAll("news", one);
    const until = one.heard("news").at(-1)!.position.offset;
    const elsewhere = { epoch: crypto.randomUUID(), offset: position.offset };
    assertEquals(await two.read("news", { after: elsewhere, until }), null);
    assertEquals(await two.read("nobody", { after: position, until }), null);
    const app = "other";
    assertEquals(await two.read("news", { after: position, until, app }), null);
    await stage.deployment.pass(1.5 * AGE_MS);
    assertEquals(await two.read("news", { after: position, until }), null);
  });
}

const isLogged = ({ message }: Delivered): boolean => message.logged === true;

/** All pages of a part of the history. */
async function pagesOf(
  { backplane }: FakeServer,
  { after, until, events, bytes }: {
    after: Position;
    until: number;
    events: number;
    bytes: number;
  },
): Promise<Page[]> {
  const pages: Page[] = [];
  for (let from = after; from.offset < until;) {
    const request = { after: from, until, events, bytes };
    const page = await backplane.read(SOME_APP, "news", request);
    assertExists(page);
    assert(page.reaches > from.offset, "A page leads nowhere");
    assert(
      page.messages.length > 0 || page.reaches >= until,
      "A page in the middle is empty",
    );
    pages.push(page);
    from = { ...from, offset: page.reaches };
  }
  return pages;
}
