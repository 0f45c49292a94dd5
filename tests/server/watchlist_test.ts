/**
 * Watchlists: a client hears when the users on its list sign in and leave. Each
 * rule is tested with every kind of backplane.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { eachBackplane, SlowBackplane } from "../support/backplanes.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { Inbox } from "../support/queue.ts";
import { type Client, leave, serve } from "../support/server.ts";
import { authenticatedBy, StockClient, stockSignIn } from "../support/stock.ts";
import {
  assertReached,
  listsOf,
  notSignedIn,
  signIn,
  watched,
} from "../support/users.ts";
import { dataOf, type Frame } from "../support/wire.ts";

const WATCHLIST = "pusher_internal:watchlist_events";
const SIGNED_IN = "pusher:signin_success";

// ---- Watchlist --------------------------------------------------------------

eachBackplane(
  "a watchlist is answered with who is there and who is not",
  async (start) => {
    await using server = start();
    await using seven = await server.connect();
    await using member = await server.connect();
    await signIn(seven, { id: "7" });
    await seven.silence();
    await member.join("presence-a", { member: { user_id: "8" } });
    for (
      const [watchlist, lists] of [
        [["7"], { online: ["7"] }],
        // On a presence channel is not signed in.
        [["8"], { offline: ["8"] }],
        [["9", "7", "8"], { online: ["7"], offline: ["8", "9"] }],
        [["7", "7", "8", "7"], { online: ["7"], offline: ["8"] }],
        [["7", 7, null, {}, ["8"], true, "8"], {
          online: ["7"],
          offline: ["8"],
        }],
        [["__proto__", "constructor"], {
          offline: ["__proto__", "constructor"],
        }],
      ] as const
    ) {
      await using watcher = await server.connect();
      await signIn(watcher, { id: "watcher", watchlist });
      assertEquals<unknown>(await watched(watcher), lists);
      await watcher.silence();
    }
    for (const user of [{}, { watchlist: [] }, { watchlist: [7, null] }]) {
      await using watcher = await server.connect();
      await signIn(watcher, { id: "watcher", ...user });
      await watcher.silence();
    }
  },
);

eachBackplane("a watchlist that is no list is harmless", async (start) => {
  await using server = start();
  for (
    const watchlist of [null, "7", 7, true, { length: 1e9 }, { 0: "7" }]
  ) {
    await using client = await server.connect();
    client.requestSignIn({ id: "watcher", watchlist });
    const frames = await client.framesUntilPong();
    const [frame] = frames;
    assertEquals(frames.length, 1, JSON.stringify(frames));
    assertMatch(frame?.event ?? "", /^pusher:(signin_success|error)$/);
  }
});

eachBackplane(
  "watchers are told of a user's first sign-in and last leave, once",
  async (start) => {
    await using server = start();
    await using watcher = await server.connect();
    await using tab = await server.connect();
    await using twin = await server.connect();
    await using other = await server.connect();
    const watchers = [watcher, tab, twin];
    await signIn(watcher, { id: "watcher", watchlist: ["7", "8"] });
    await signIn(tab, { id: "watcher", watchlist: ["7"] });
    await signIn(twin, { id: "twin", watchlist: ["7"] });
    await signIn(other, { id: "other", watchlist: ["9"] });
    for (const client of [...watchers, other]) await watched(client);
    for (let round = 0; round < 3; round++) {
      await using first = await server.connect();
      await using second = await server.connect();
      for (const client of watchers) await client.silence();
      await signIn(first, { id: "7" });
      for (const client of watchers) {
        assertEquals(await watched(client), { online: ["7"] });
      }
      await signIn(second, { id: "7" });
      await signIn(first, { id: "7" });
      for (const client of watchers) await client.silence();
      await leave(server, first);
      for (const client of watchers) await client.silence();
      await assertReached(server, "7", [second], watchers);
      await leave(server, second);
      for (const client of watchers) {
        assertEquals(await watched(client), { offline: ["7"] });
      }
      for (const client of [...watchers, other]) await client.silence();
    }
  },
);

eachBackplane(
  "who signs in later is told what is so by then",
  async (start) => {
    await using server = start();
    await using seven = await server.connect();
    await signIn(seven, { id: "7" });
    await using first = await server.connect();
    await signIn(first, { id: "first", watchlist: ["7"] });
    assertEquals(await watched(first), { online: ["7"] });
    await leave(server, seven);
    assertEquals(await watched(first), { offline: ["7"] });
    await using second = await server.connect();
    await signIn(second, { id: "second", watchlist: ["7", "first"] });
    assertEquals(await watched(second), { online: ["first"], offline: ["7"] });
  },
);

/** The bytes of a text frame that a client sends, with a mask of zeros. */
function frameOf(text: string): Uint8Array {
  const payload = new TextEncoder().encode(text);
  const head = payload.length < 126
    ? [0x81, 0x80 | payload.length]
    : [0x81, 0xfe, payload.length >> 8, payload.length & 255];
  return new Uint8Array([...head, 0, 0, 0, 0, ...payload]);
}

eachBackplane(
  "a terminated user and one whose connection breaks off go offline",
  async (start) => {
    await using server = start();
    await using watcher = await server.connect();
    await signIn(watcher, { id: "watcher", watchlist: ["7"] });
    await watched(watcher);
    await using seven = await server.connect();
    await signIn(seven, { id: "7" });
    assertEquals(await watched(watcher), { online: ["7"] });
    await server.pusher.terminateUserConnections("7");
    assertEquals(await watched(watcher), { offline: ["7"] });

    using raw = await server.raw();
    await raw.upgrade("/app/app-key?protocol=7");
    const { socket_id } = dataOf(await raw.readText());
    const signed = server.pusher.authenticateUser(socket_id, { id: "7" });
    const text = JSON.stringify({ event: "pusher:signin", data: signed });
    await raw.write(frameOf(text));
    assertEquals((await raw.readText()).event, SIGNED_IN);
    assertEquals(await watched(watcher), { online: ["7"] });
    raw.drop();
    assertEquals(await watched(watcher), { offline: ["7"] });
    await watcher.silence();
  },
);

eachBackplane(
  "a watchlist belongs to the connection that signed in with it",
  async (start) => {
    await using server = start();
    await using one = await server.connect();
    await using two = await server.connect();
    await using plain = await server.connect();
    await signIn(one, { id: "watcher", watchlist: ["7"] });
    await signIn(two, { id: "watcher", watchlist: ["8"] });
    await signIn(plain, { id: "watcher" });
    for (const client of [one, two]) await watched(client);
    await using seven = await server.connect();
    await signIn(seven, { id: "7" });
    assertEquals(await watched(one), { online: ["7"] });
    await leave(server, one);
    await leave(server, seven);
    for (const client of [two, plain]) await client.silence();
  },
);

eachBackplane("signing in again replaces the watchlist", async (start) => {
  await using server = start();
  await using watcher = await server.connect();
  await using seven = await server.connect();
  await using eight = await server.connect();
  await using nine = await server.connect();
  await signIn(watcher, { id: "watcher", watchlist: ["7", "8"] });
  assertEquals(await watched(watcher), { offline: ["7", "8"] });
  await signIn(eight, { id: "8" });
  assertEquals(await watched(watcher), { online: ["8"] });
  await signIn(watcher, { id: "watcher", watchlist: ["8", "9"] });
  assertEquals(await watched(watcher), { online: ["8"], offline: ["9"] });
  await signIn(seven, { id: "7" });
  await watcher.silence();
  await signIn(nine, { id: "9" });
  assertEquals(await watched(watcher), { online: ["9"] });
  // A refused one replaces nothing.
  watcher.requestSignIn({ id: "watcher", watchlist: ["7"] }, { auth: "wrong" });
  await notSignedIn(watcher);
  watcher.requestSignIn({ id: "someone", watchlist: ["7"] });
  await notSignedIn(watcher);
  await leave(server, seven);
  await watcher.silence();
  await leave(server, nine);
  assertEquals(await watched(watcher), { offline: ["9"] });
  await signIn(watcher, { id: "watcher" });
  await leave(server, eight);
  await watcher.silence();
});

eachBackplane("a user may watch itself", async (start) => {
  await using server = start();
  await using one = await server.connect();
  await using two = await server.connect();
  await signIn(one, { id: "7", watchlist: ["7"] });
  assertEquals(await watched(one), { online: ["7"] });
  await one.silence();
  await signIn(two, { id: "7", watchlist: ["7", "8"] });
  assertEquals(await watched(two), { online: ["7"], offline: ["8"] });
  await one.silence();
  await leave(server, two);
  await one.silence();
});

eachBackplane(
  "the first 100 of a watchlist are watched, and more are told with 4302",
  async (start) => {
    await using server = start();
    const ids = Array.from({ length: 101 }, (_, index) => `w${1000 + index}`);
    const hundred = ids.slice(0, 100);
    await using exact = await server.connect();
    await using over = await server.connect();
    // What is removed does not count.
    const padded = hundred.flatMap((id, index) => [id, index, id, null]);
    await signIn(exact, { id: "exact", watchlist: padded });
    assertEquals(await watched(exact), { offline: hundred });
    await exact.silence();

    await signIn(over, { id: "over", watchlist: ids });
    const frames = await over.framesUntilPong();
    const cut = frames.find(({ event }) => event === "pusher:error");
    const lists = frames.filter(({ event }) => event === WATCHLIST);
    assertEquals(frames.length, 2, JSON.stringify(frames));
    assertEquals(lists.map(listsOf), [{ offline: hundred }]);
    assert(cut !== undefined && cut.channel === undefined);
    const { code, message } = dataOf(cut);
    assertEquals(code, 4302);
    for (const id of hundred) assertStringIncludes(message, id);
    assert(!message.includes("w1100"), message);

    await using beyond = await server.connect();
    await using last = await server.connect();
    await signIn(beyond, { id: "w1100" });
    await signIn(last, { id: "w1099" });
    for (const client of [exact, over]) {
      assertEquals(await watched(client), { online: ["w1099"] });
      await client.silence();
    }
  },
);

eachBackplane(
  "limits.watchedUsers says how many are watched",
  async (start) => {
    await using server = start({ limits: { watchedUsers: 1 } });
    await using client = await server.connect();
    await signIn(client, { id: "watcher", watchlist: ["7", "8"] });
    const frames = await client.framesUntilPong();
    const codes = frames.filter(({ event }) => event === "pusher:error")
      .map((frame) => dataOf(frame).code);
    assertEquals(codes, [4302]);
    const lists = frames.filter(({ event }) => event === WATCHLIST).map(
      listsOf,
    );
    assertEquals(lists, [{ offline: ["7"] }]);
  },
);

/** Takes one watchlist frame: whether it says that 7 is online. */
async function stateOfSeven(client: Client): Promise<boolean> {
  return stateIn(await client.next(WATCHLIST));
}

function stateIn(frame: Frame): boolean {
  const { online = [], offline = [] } = listsOf(frame);
  assertEquals([...online, ...offline], ["7"]);
  return online.length > 0;
}

Deno.test("a watchlist and what happens meanwhile add up to what is so", async () => {
  await using server = serve({ backplane: new SlowBackplane() });
  for (let round = 0; round < 20; round++) {
    const watcher = await server.connect();
    const seven = await server.connect();
    seven.requestSignIn({ id: "7" });
    watcher.requestSignIn({ id: "watcher", watchlist: ["7"] });
    await seven.next(SIGNED_IN);
    await watcher.next(SIGNED_IN);
    const stays = round % 2 === 1;
    if (!stays) await seven.close();
    const states = [await stateOfSeven(watcher)];
    while (states.at(-1) !== stays) states.push(await stateOfSeven(watcher));
    for (const frame of await watcher.framesUntilPong()) {
      states.push(stateIn(frame));
    }
    assertEquals(states.at(-1), stays);
    // Nothing is said twice.
    const changes = states.filter((state, index) =>
      state !== states[index - 1]
    );
    assertEquals(states, changes, `round ${round}`);
    await seven.close();
    await watcher.close();
    for (let i = 0; i < 2; i++) await server.journal.next("disconnected");
  }
});

Deno.test("a user who comes back while the leave is on its way is not taken for gone", async () => {
  const backplane = new SlowBackplane();
  const left = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  await using server = serve({ backplane });
  await using watcher = await server.connect();
  await using first = await server.connect();
  await using second = await server.connect();
  await signIn(watcher, { id: "watcher", watchlist: ["7"] });
  assertEquals(await stateOfSeven(watcher), false);
  await signIn(first, { id: "7" });
  assertEquals(await stateOfSeven(watcher), true);
  backplane.turn = async (method, isAfter) => {
    if (method !== "leave" || !isAfter) return;
    left.resolve();
    await answer.promise;
  };
  await first.close();
  await within(DEADLINE_MS, "leave", left.promise);
  await signIn(second, { id: "7" });
  answer.resolve();
  await server.journal.next("disconnected");
  // A round through the server lets everything end that has begun.
  let isOnline = true;
  for (let round = 0; round < 20; round++) {
    for (const frame of await watcher.framesUntilPong()) {
      isOnline = stateIn(frame);
    }
  }
  assertEquals(isOnline, true);
  await assertReached(server, "7", [second], [watcher]);
});

// ---- Stock client -----------------------------------------------------------

eachBackplane(
  "pusher-js tells who of the watchlist comes and goes",
  async (start) => {
    await using server = start();
    const user = { id: "watcher", watchlist: ["7", "8"] };
    await using eight = await server.connect();
    await signIn(eight, { id: "8" });
    using client = new StockClient(server, authenticatedBy(server, user));
    const told = new Inbox(client.pusher.user.watchlist);
    await stockSignIn(client);
    const of = (id: string, name: string) => [name, { name, user_ids: [id] }];
    assertEquals<unknown>(
      (await told.until("online")).at(-1),
      of("8", "online"),
    );
    assertEquals<unknown>(await told.until("offline"), [of("7", "offline")]);
    await using seven = await server.connect();
    await signIn(seven, { id: "7" });
    assertEquals<unknown>(await told.until("online"), [of("7", "online")]);
    await seven.close();
    assertEquals<unknown>(await told.until("offline"), [of("7", "offline")]);
  },
);
