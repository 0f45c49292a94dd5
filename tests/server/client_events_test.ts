/**
 * Client events that the server has to refuse, their rate, and what a program may
 * make of them.
 */
import type {
  PusherOptions,
  ReviewClientEvent,
  SentClientEvent,
} from "@glitz/pusher";
import { assert, assertEquals, assertFalse, assertMatch } from "@std/assert";
import { eachBackplane } from "../support/backplanes.ts";
import { ManualClock, turn } from "../support/clock.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { Inbox } from "../support/queue.ts";
import { APP, objectOf, serve, TWO_APPS } from "../support/server.ts";
import { authorizedBy, sdk, StockClient } from "../support/stock.ts";
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

// ---- Events that the program reviews ----------------------------------------

/** Two clients on a presence channel, and a server that reviews what they send. */
async function room(
  clientEvents: ReviewClientEvent,
  options: PusherOptions = {},
) {
  const server = serve({ clientEvents, ...options });
  const [ann, bob] = [await server.connect(), await server.connect()];
  for (const [client, user_id] of [[ann, "ann"], [bob, "bob"]] as const) {
    await client.join("presence-a", { member: { user_id } });
    await client.join("private-a");
  }
  await ann.next("pusher_internal:member_added");
  const say = (data?: unknown, channel = "presence-a", event = "client-x") =>
    ann.send({ event, channel, data });
  return {
    ...{ server, ann, bob, say },
    /** Takes the refusal of an event. */
    async refusal(channel = "presence-a"): Promise<string> {
      const frame = await ann.next("pusher:error");
      const { code, message } = dataOf(frame);
      assertEquals([frame.channel, code], [channel, 4301]);
      return message;
    },
    async [Symbol.asyncDispose]() {
      for (const client of [ann, bob]) await client.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** An answer that comes when the test says so. */
class LateAnswers {
  readonly asked: SentClientEvent[] = [];
  readonly #answers: PromiseWithResolvers<ReviewAnswer>[] = [];
  #wake = () => {};

  readonly review: ReviewClientEvent = (event) => {
    const answer = Promise.withResolvers<ReviewAnswer>();
    this.asked.push(event);
    this.#answers.push(answer);
    this.#wake();
    return answer.promise;
  };

  /** Resolves when so many events have been asked about. */
  async count(count: number): Promise<void> {
    while (this.asked.length < count) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await within(DEADLINE_MS, `question ${count}`, promise);
    }
  }

  /** Answers about an event, by its number. */
  answer(index: number, answer: ReviewAnswer): void {
    this.#answers[index]?.resolve(answer);
  }
}

type ReviewAnswer = Awaited<ReturnType<ReviewClientEvent>>;

const NOT_REVIEWED = "The server could not review the event";

const RELAYED: [answer: ReviewAnswer, data: string | undefined][] = [
  [true, '{"text":"hi"}'],
  [{ data: "other" }, "other"],
  [{ data: { text: "****", by: [1, null] } }, '{"text":"****","by":[1,null]}'],
  [{ data: null }, "null"],
  [{ data: undefined }, undefined],
  [{ data: "d".repeat(10_240) }, "d".repeat(10_240)],
];

const NOT_RELAYED: [answer: ReviewAnswer, reason: string | null][] = [
  [false, "The server does not allow this event"],
  ["", "The server does not allow this event"],
  ["You are muted for a minute", "You are muted for a minute"],
  [null, null],
];

/** An answer that throws when its property is read. */
function throwing(name: string): object {
  return Object.defineProperty({}, name, {
    enumerable: true,
    get() {
      throw new Error(`no ${name}`);
    },
  });
}

/** An answer that throws when anything of it is looked at. */
function revoked(): object {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
}

/** A function that answers at once, and others that do so later. */
const REVIEWS: [
  when: string,
  review: (answer: ReviewAnswer) => ReviewClientEvent,
][] = [
  ["at once", (answer) => () => answer],
  ["later", (answer) => async () => {
    await turn();
    return answer;
  }],
  ["by something like a promise", (answer) => () =>
    // As clients of databases have them.
    // deno-lint-ignore no-explicit-any -- it has no other method of a promise
    ({ then: (resolve: any) => resolve(answer) }) as any],
];

for (const [when, review] of REVIEWS) {
  Deno.test(`clientEvents relays what it answers ${when}, and hooks see that`, async () => {
    for (const [answer, data] of RELAYED) {
      await using all = await room(review(answer));
      const { server, bob, ann, say } = all;
      say({ text: "hi" });
      const event = "client-x";
      const channel = "presence-a";
      const some = data === undefined ? {} : { data };
      assertEquals(await bob.next(), {
        ...{ event, channel, user_id: "ann" },
        ...some,
      });
      assertEquals(await server.journal.next("client_event"), {
        ...{ hook: "client_event", app: APP.id, socketId: ann.socketId },
        ...{ channel, event, userId: "ann" },
        ...some,
      });
      await ann.silence();
    }
  });

  Deno.test(`clientEvents refuses or drops what it does not want, ${when}`, async () => {
    for (const [answer, reason] of NOT_RELAYED) {
      await using all = await room((event) =>
        event.data === "fence" || review(answer)(event)
      );
      const { server, ann, bob, say } = all;
      say({ text: "hi" });
      if (reason !== null) assertEquals(await all.refusal(), reason);
      // Comes after whatever is relayed before it.
      say("fence");
      assertEquals((await bob.next()).data, "fence");
      await ann.silence();
      assertEquals(server.journal.drain("client_event").length, 1);
      const refused = server.journal.drain("refused");
      assertEquals(
        refused.map((entry) => entry.reason),
        reason ? [reason] : [],
      );
    }
  });

  Deno.test(`clientEvents refuses an event after a wrong answer ${when}, and reports it`, async () => {
    const cyclic: Record<string, unknown> = {};
    cyclic.self = cyclic;
    const wrong: [answer: unknown, error: RegExp][] = [
      [undefined, /returned undefined, and must return true, false/],
      [1, /returned 1/],
      [["true"], /returned/],
      [{}, /returned an object/],
      [{ text: "hi" }, /returned an object/],
      [{ data: 1, event: "client-y" }, /returned an object/],
      [() => true, /returned a function/],
      [{ data: 1n }, /BigInt/],
      [{ data: cyclic }, /circular/],
      [{ data: "d".repeat(10_241) }, /eventDataBytes is 10240/],
      [{ data: () => 1 }, /data is a function, and must be a value that JSON/],
      [{ data: Symbol("d") }, /data is Symbol\(d\), and must be a value/],
      [throwing("data"), /no data/],
      [throwing("then"), /no then/],
      [revoked(), /revoked/],
    ];
    for (const [answer, error] of wrong) {
      await using all = await room(review(answer as ReviewAnswer));
      const { server, bob, say } = all;
      say({ text: "secret" });
      assertEquals(await all.refusal(), NOT_REVIEWED);
      await bob.silence();
      const entry = await server.journal.next("error");
      assertEquals(entry.during, "reviewing a client event");
      assertMatch(`${entry.error}`, error);
      assertFalse(`${entry.error}`.includes("secret"));
      assertEquals(server.journal.drain("client_event"), []);
    }
  });
}

Deno.test("clientEvents refuses an event when it fails, and the next is judged by itself", async () => {
  const failures: ReviewClientEvent[] = [
    () => {
      throw new Error("boom");
    },
    () => Promise.reject(new Error("boom")),
    async () => {
      await turn();
      throw new Error("boom");
    },
    // What a peer sends is not what the types say.
    ({ data }) => (data as { text: string }).text.length > 0,
  ];
  for (const fail of failures) {
    let fails = true;
    await using all = await room((event) => fails ? fail(event) : true);
    const { server, bob, say } = all;
    say(5);
    assertEquals(await all.refusal(), NOT_REVIEWED);
    const { during, app } = await server.journal.next("error");
    assertEquals([during, app], ["reviewing a client event", APP.id]);
    await bob.silence();
    fails = false;
    say(6);
    assertEquals((await bob.next("client-x")).data, "6");
  }
});

Deno.test("clientEvents sees who sends what, as subscribers see it", async () => {
  const seen: Omit<SentClientEvent, "signal">[] = [];
  await using all = await room(({ signal, ...event }) => {
    assertFalse(signal.aborted);
    seen.push(event);
    return true;
  });
  const { ann, bob, say } = all;
  const about = { app: APP.id, event: "client-x", socketId: ann.socketId };
  const cases: [sent: unknown, data: unknown][] = [
    [{ a: [1] }, { a: [1] }],
    ['{"a":[1]}', { a: [1] }],
    ["null", null],
    ["plain text", "plain text"],
    [undefined, undefined],
    [{ __proto__: null, constructor: 1 }, { constructor: 1 }],
  ];
  for (const [sent, data] of cases) {
    say(sent);
    await bob.next("client-x");
    const channel = "presence-a";
    assertEquals(seen.pop(), { ...about, channel, data, userId: "ann" });
  }
  say(1, "private-a");
  await bob.next("client-x");
  const channel = "private-a";
  assertEquals(seen.pop(), { ...about, channel, data: 1 });
  // Elsewhere than on presence channels it is the user who has signed in.
  await ann.signIn({ id: "user-7" });
  say(1, "private-a");
  assertEquals((await bob.next("client-x")).user_id, undefined);
  assertEquals(seen.pop(), { ...about, channel, data: 1, userId: "user-7" });
  say(1);
  assertEquals((await bob.next("client-x")).user_id, "ann");
  assertEquals(seen.pop()?.userId, "ann");
});

Deno.test("clientEvents that changes the data in place changes nothing that is relayed", async () => {
  await using all = await room(({ data }) => {
    (data as { text: string }).text = "changed";
    return true;
  });
  all.say({ text: "hi" });
  assertEquals((await all.bob.next()).data, '{"text":"hi"}');
});

Deno.test("clientEvents is not asked about an event that a client may not send", async () => {
  let asked = 0;
  await using all = await room(() => {
    asked++;
    return true;
  }, { limits: { clientEventsPerSecond: 2 }, clock: new ManualClock() });
  const { ann, bob, say } = all;
  await ann.join("news");
  for (const channel of ["news", "private-b"]) {
    say(1, channel);
    await all.refusal(channel);
  }
  say(1, "private-a", `client-${"x".repeat(194)}`);
  await all.refusal("private-a");
  say("d".repeat(10_241));
  assertMatch(await all.refusal(), /eventDataBytes/);
  say(1);
  await bob.next("client-x");
  say(2);
  assertMatch(await all.refusal(), /clientEventsPerSecond/);
  assertEquals(asked, 1);
});

Deno.test("clientEvents cannot change what is encrypted, and sees what the client has encrypted", async () => {
  const channel = "private-encrypted-a";
  const sealed = { nonce: "n", ciphertext: "c" };
  const seen: unknown[] = [];
  let answer: ReviewAnswer = true;
  await using all = await room(({ data }) => {
    seen.push(data);
    return answer;
  });
  const { server, ann, bob, say } = all;
  for (const client of [ann, bob]) await client.join(channel);
  say(sealed, channel);
  assertEquals((await bob.next()).data, JSON.stringify(sealed));
  answer = { data: "open" };
  say(sealed, channel);
  assertEquals(await all.refusal(channel), NOT_REVIEWED);
  assertMatch(`${(await server.journal.next("error")).error}`, /encrypted/);
  answer = false;
  say(sealed, channel);
  await all.refusal(channel);
  assertEquals(seen, [sealed, sealed, sealed]);
  await bob.silence();
});

/** What a server says that does not allow client events. */
const DISABLED =
  "Client events are not enabled: give the server the option `clientEvents: true`";

Deno.test("apps[].clientEvents reviews that app's events alone", async () => {
  const [one, two] = TWO_APPS;
  const asked: string[] = [];
  const apps = [
    { ...one, clientEvents: () => "reviewed by one" },
    { ...two, clientEvents: true },
    { id: "c", key: "key-c", secret: "secret-c" },
    { id: "d", key: "key-d", secret: "secret-d", clientEvents: false },
  ];
  const clientEvents: ReviewClientEvent = ({ app }) => {
    asked.push(app);
    return "reviewed by all";
  };
  await using server = serve({ apps, clientEvents });
  const told: unknown[] = [];
  for (const app of apps) {
    await using client = await server.connect({ app });
    await client.join("private-a");
    client.send({ event: "client-x", channel: "private-a" });
    const frames = await client.framesUntilPong();
    told.push(...frames.map((frame) => dataOf(frame).message), "–");
  }
  assertEquals(told, [
    ...["reviewed by one", "–", "–"],
    ...["reviewed by all", "–", DISABLED, "–"],
  ]);
  assertEquals(asked, ["c"]);
});

Deno.test("clientEvents that takes longer than answerTimeoutMs refuses the event", async () => {
  const clock = new ManualClock();
  const late = new LateAnswers();
  await using all = await room(late.review, { clock, answerTimeoutMs: 5_000 });
  const { server, bob, say } = all;
  say("slow");
  await late.count(1);
  const { signal } = late.asked[0]!;
  clock.pass(4_999);
  assertFalse(signal.aborted);
  clock.pass(1);
  assert(signal.aborted);
  assertMatch(await all.refusal(), /has not answered in time/);
  const { during, error } = await server.journal.next("error");
  assertEquals(during, "reviewing a client event");
  assertMatch(`${error}`, /answerTimeoutMs is 5000/);
  late.answer(0, true);
  await bob.silence();
  say("quick");
  await late.count(2);
  late.answer(1, true);
  assertEquals((await bob.next()).data, "quick");
});

Deno.test("a client that waits for a review is served otherwise, and its pings are answered", async () => {
  const late = new LateAnswers();
  await using all = await room(late.review);
  const { ann, bob, say } = all;
  say("slow");
  await late.count(1);
  await ann.silence();
  await ann.join("news");
  // Another channel does not wait either.
  say("other", "private-a");
  await late.count(2);
  late.answer(1, true);
  assertEquals((await bob.next()).channel, "private-a");
  late.answer(0, true);
  assertEquals((await bob.next()).channel, "presence-a");
});

eachBackplane(
  "client events keep their order on a channel, whichever answer comes first",
  async (start) => {
    const late = new LateAnswers();
    const isLate = (data: unknown) => Number(data) % 3 !== 2;
    await using server = start({
      limits: { clientEventsPerSecond: 100, pendingClientEvents: 100 },
      clientEvents: (event) =>
        isLate(event.data) ? late.review(event) : Number(event.data) !== 5,
    });
    await using ann = await server.connect();
    await using bob = await server.connect();
    for (const client of [ann, bob]) await client.join("private-a");
    const numbers = Array.from({ length: 30 }, (_, n) => n);
    for (const data of numbers) {
      ann.send({ event: "client-x", channel: "private-a", data });
    }
    const lateOnes = numbers.filter(isLate);
    await late.count(lateOnes.length);
    // The last answer comes first.
    for (const index of lateOnes.keys().toArray().reverse()) {
      const n = lateOnes[index]!;
      late.answer(index, n === 7 ? false : n === 10 ? { data: "ten" } : true);
    }
    const relayed: unknown[] = [];
    while (relayed.length < 28) relayed.push((await bob.next()).data);
    const expected = numbers.filter((n) => n !== 5 && n !== 7)
      .map((n) => n === 10 ? "ten" : `${n}`);
    assertEquals(relayed, expected);
    await bob.silence();
    assertEquals((await ann.framesUntilPong()).length, 2);
    // Nothing waits any more: a sync answer is carried out at once.
    ann.send({ event: "client-x", channel: "private-a", data: 2 });
    assertEquals((await bob.next()).data, "2");
  },
);

Deno.test("a client that leaves before its event is relayed relays nothing", async () => {
  const leaves: [
    how: string,
    leave: (all: Awaited<ReturnType<typeof room>>) => Promise<unknown>,
    told: number,
  ][] = [
    ["unsubscribes", ({ ann }) => {
      ann.unsubscribe("presence-a");
      return ann.silence();
    }, 1],
    ["joins again as another member", async ({ ann, bob }) => {
      ann.unsubscribe("presence-a");
      await ann.join("presence-a", { member: { user_id: "eve" } });
      await bob.next("pusher_internal:member_removed");
      await bob.next("pusher_internal:member_added");
    }, 1],
    ["closes", ({ ann }) => ann.close(), 0],
    ["is terminated", async ({ server, ann }) => {
      await ann.signIn({ id: "ann" });
      await server.pusher.terminateUserConnections("ann");
      await ann.turnedAway();
    }, 0],
  ];
  for (const [how, leave, told] of leaves) {
    const late = new LateAnswers();
    await using all = await room(late.review);
    const { server, ann, bob, say } = all;
    say("first");
    say("second");
    say("bye");
    await late.count(3);
    late.answer(1, true);
    await leave(all);
    if (told === 0) await server.journal.next("disconnected");
    late.answer(0, true);
    late.answer(2, false);
    if (told > 0) {
      for (let n = 0; n < 2; n++) {
        assertMatch(await all.refusal(), /left the channel before/, how);
      }
      await all.refusal();
      await ann.silence();
    }
    // Another member's event comes after whatever is wrong.
    bob.send({ event: "client-x", channel: "private-a" });
    await late.count(4);
    late.answer(3, null);
    const frames = await bob.framesUntilPong();
    const events = frames.map(({ event }) => event);
    assertEquals(events.filter((event) => event.startsWith("client-")), []);
    assertEquals(server.journal.drain("client_event"), [], how);
    assertEquals(server.journal.drain("refused").length, told * 3, how);
  }
});

Deno.test("a member whom the review itself throws out sends nothing", async () => {
  await using all = await room(({ userId = "", app }) => {
    const { pusher } = all.server;
    assertEquals(app, APP.id);
    pusher.terminateUserConnections(userId);
    return true;
  });
  await all.ann.signIn({ id: "ann" });
  all.say("rude");
  await all.ann.turnedAway();
  await all.bob.next("pusher_internal:member_removed");
  await all.bob.silence();
});

Deno.test("limits.pendingClientEvents bounds the events of a connection that wait", async () => {
  const late = new LateAnswers();
  const limits = { pendingClientEvents: 3, clientEventsPerSecond: 100 };
  await using all = await room(late.review, { limits });
  const { ann, bob, say } = all;
  say(0);
  say(1, "private-a");
  say(2);
  say(3);
  assertMatch(await all.refusal(), /the limit pendingClientEvents is 3/);
  await ann.silence();
  assertEquals(late.asked.length, 3);
  // Another connection has places of its own.
  bob.send({ event: "client-x", channel: "private-a", data: 4 });
  await late.count(4);
  late.answer(3, true);
  assertEquals((await ann.next()).data, "4");
  late.answer(1, true);
  assertEquals((await bob.next()).data, "1");
  say(5);
  await late.count(5);
  say(6);
  assertMatch(await all.refusal(), /the limit pendingClientEvents is 3/);
  for (const index of [0, 2, 4]) late.answer(index, true);
  for (const data of ["0", "2", "5"]) {
    assertEquals((await bob.next()).data, data);
  }
});

Deno.test("a server that closes does not wait for a review", async () => {
  const late = new LateAnswers();
  const all = await room(late.review, { clock: new ManualClock() });
  all.say("slow");
  await late.count(1);
  await all[Symbol.asyncDispose]();
  assert(late.asked[0]!.signal.aborted);
});

Deno.test("pusher-js gets what clientEvents makes of an event, and hears why it is refused", async () => {
  await using server = serve({
    clientEvents: ({ data }) =>
      data === "rude" ? "Be kind" : { data: { text: `${data}`.toUpperCase() } },
  });
  const signer = sdk(server);
  using ann = new StockClient(server, authorizedBy(signer, { user_id: "ann" }));
  using bob = new StockClient(server, authorizedBy(signer, { user_id: "bob" }));
  await ann.join("presence-a");
  const heard = await bob.join("presence-a");
  const errors = new Inbox(ann.pusher.channel("presence-a"));
  ann.pusher.channel("presence-a").trigger("client-said", "hello");
  assertEquals(await heard.data("client-said"), { text: "HELLO" });
  ann.pusher.channel("presence-a").trigger("client-said", "rude");
  assertEquals(await errors.data("pusher:error"), {
    code: 4301,
    message: "Be kind",
  });
});
