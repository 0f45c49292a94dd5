import { assert, assertEquals, assertFalse } from "@std/assert";
import { ManualClock, turn } from "../tests/support/clock.ts";
import type {
  Backplane,
  HistoryRequest,
  LoggedMessage,
  Message,
  Page,
  PageRequest,
  Position,
  ReplayStart,
} from "./backplane.ts";
import { Delivery, EMPTY_BATCH } from "./deliveries.ts";
import type { OriginVerdict } from "./http.ts";
import { DEFAULT_LIMITS, type Limits } from "./limits.ts";
import { Traffic } from "./meter.ts";
import { Outbox } from "./outbox.ts";
import { CLOSE, type Close, OUTBOUND } from "./protocol.ts";
import type { Session } from "./sessions.ts";
import type { Awaitable } from "./time.ts";
import type { Transport } from "./transport.ts";
import { BackplaneUnavailable } from "./unavailable.ts";
import { OutboxSchedule } from "./visits.ts";

const EPOCH = "e";

/** A client, and what it has got. */
class Client implements Transport {
  readonly frames: string[] = [];
  /** What the client has not read. */
  bufferedAmount = 0;
  /** Whether sent frames stay unread. */
  isStuck = false;

  send(frame: string): void {
    this.frames.push(frame);
    if (this.isStuck) this.bufferedAmount += frame.length;
  }

  close(): void {}
}

/** What an outbox is tried on: its client, the server and the history around it. */
class Bench {
  readonly client = new Client();
  readonly clock = new ManualClock();
  readonly schedule = new OutboxSchedule(this.clock);
  readonly app: { id: string; limits: Limits; traffic: Traffic };
  readonly socketId: string;
  readonly outbox: Outbox;
  /** Closes and failures. */
  readonly log: string[] = [];
  readonly hooks = {
    fail: (error: unknown, during: string, appId: string) => {
      this.log.push(`${(error as Error).message} while ${during} of ${appId}`);
    },
  };
  /** The history of each channel, in the order of its offsets. */
  readonly history = new Map<string, LoggedMessage[]>();
  readonly requests: [channel: string, request: PageRequest][] = [];
  /** Answers a read; overridden by tests. */
  read: (channel: string, request: PageRequest) => Awaitable<Page | null> = (
    ...args
  ) => this.page(...args);

  constructor(
    { batch = false, recover = false, ids = ["1.1"], limits = {} }: {
      batch?: boolean;
      recover?: boolean;
      ids?: string[];
      limits?: Partial<Limits>;
    } = {},
  ) {
    this.app = {
      id: "a",
      limits: { ...DEFAULT_LIMITS, ...limits },
      traffic: new Traffic(),
    };
    const [socketId = "", ...formerIds] = ids;
    this.socketId = socketId;
    const extensions = { batch, recover, formerIds };
    this.outbox = new Outbox(this.client, this, this, extensions);
  }

  // ---- The server and the connection

  ask<T>(call: (backplane: Backplane) => Awaitable<T>): Awaitable<T> {
    const backplane: Partial<Backplane> = {
      read: (app, channel, request) => {
        assertEquals(app, "a");
        this.requests.push([channel, request]);
        return this.read(channel, request);
      },
    };
    // An outbox only reads.
    return call(backplane as Backplane);
  }

  close({ code }: Close): void {
    this.log.push(`close ${code}`);
    this.outbox.close();
  }

  giveUp({ code }: Close): void {
    this.log.push(`give up ${code}`);
    this.outbox.close();
  }

  // ---- The history

  /** Logs messages with these offsets, and so many units of data. */
  logMessages(channel: string, offsets: number[], units = 0): void {
    const list = this.history.get(channel) ?? [];
    this.history.set(channel, list);
    for (const offset of offsets) {
      list.push({ message: logged(offset, units), offset });
    }
  }

  page(channel: string, { after, until, events }: PageRequest): Page {
    const messages = (this.history.get(channel) ?? [])
      .filter(({ offset }) => offset > after.offset && offset <= until);
    const isLast = messages.length <= events;
    const page = messages.slice(0, events);
    return { messages: page, reaches: isLast ? until : page.at(-1)!.offset };
  }

  /** Takes the events that the client has got since the last look. */
  got(): string[] {
    return this.client.frames.splice(0).flatMap((frame) => JSON.parse(frame))
      .map(({ event, channel }) =>
        channel === "c" ? event : `${channel}:${event}`
      );
  }
}

/** A message whose event is its offset. */
function logged(offset: number, units = 0, except?: string): Message {
  return {
    event: `${offset}`,
    data: "d".repeat(units),
    logged: true,
    ...(except !== undefined && { exceptSocketId: except }),
  };
}

/** A delivery whose event is its offset, in brackets if the history has it not. */
function delivery(offset: number, isLogged = true, channel = "c"): Delivery {
  const message = isLogged ? logged(offset) : { event: `(${offset})` };
  return new Delivery(channel, message, offset);
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

function at(offset: number): Position {
  return { epoch: EPOCH, offset };
}

/** Whether a promise has settled by now; true for no promise. */
async function isSettled(value: Awaitable<void>): Promise<boolean> {
  let settled = !(value instanceof Promise);
  Promise.resolve(value).then(() => settled = true);
  await turn();
  return settled;
}

// ---- Sending ----------------------------------------------------------------

Deno.test("a client without batches gets each frame at once", () => {
  const { outbox, client: { frames } } = new Bench();
  outbox.send("a");
  outbox.sendAlone("b");
  outbox.flush();
  assertEquals(frames, ["a", "b"]);
  outbox.close();
  outbox.send("c");
  outbox.sendAlone("d");
  assertEquals(frames, ["a", "b"]);
});

Deno.test("a client with batches gets the frames of a turn in one, at its end", async () => {
  const { outbox, client: { frames } } = new Bench({ batch: true });
  outbox.send("1");
  outbox.send("2");
  assertEquals(frames, []);
  await turn();
  assertEquals(frames, ["[1,2]"]);
  outbox.send("3");
  await turn();
  assertEquals(frames, ["[1,2]", "3"]);
  await turn();
  assertEquals(frames.length, 2);
});

Deno.test("sendAlone sends the batch of the turn first", async () => {
  const { outbox, client: { frames } } = new Bench({ batch: true });
  outbox.send("1");
  outbox.send("2");
  outbox.sendAlone("3");
  assertEquals(frames, ["[1,2]", "3"]);
  outbox.send("4");
  await turn();
  assertEquals(frames, ["[1,2]", "3", "4"]);
});

Deno.test("a batch is not sent after the end, and is counted until it is sent", async () => {
  const bench = new Bench({ batch: true });
  const { outbox, client: { frames } } = bench;
  bench.client.bufferedAmount = 100;
  outbox.send("12");
  outbox.send("345");
  assertEquals(outbox.pendingBytes, 106);
  outbox.flush();
  assertEquals([outbox.pendingBytes, frames], [100, ["[12,345]"]]);
  outbox.send("6");
  outbox.close();
  await turn();
  assertEquals(frames, ["[12,345]"]);
});

Deno.test("batches are forgotten at the end of the turn", async () => {
  const { outbox } = new Bench({ batch: true });
  outbox.send("a");
  const batch = EMPTY_BATCH.with("a");
  await turn();
  assertFalse(EMPTY_BATCH.with("a") === batch);
  EMPTY_BATCH.forget();
});

Deno.test("grants lists the extensions that a client asked for, and nothing for others", () => {
  const authorize = () => true;
  const authenticate = () => null;
  const both = { authorize, authenticate };
  const cases: [
    batch: boolean,
    recover: boolean,
    server: { authorize?: unknown; authenticate?: unknown },
    page: OriginVerdict,
    list: string,
  ][] = [
    [true, false, {}, "own", "batch"],
    [false, true, {}, "any", "recover"],
    [true, true, { authorize }, "own", "batch recover auth /pusher/auth"],
    [true, false, { authenticate }, "any", "batch /pusher/user-auth"],
    [
      ...[true, false, both, "listed"] as const,
      "batch auth /pusher/auth /pusher/user-auth credentials",
    ],
    [true, false, both, false, "batch auth"],
  ];
  for (const [batch, recover, server, page, list] of cases) {
    const { outbox } = new Bench({ batch, recover });
    const { extensions = [] } = outbox.grants(server, page);
    assertEquals(extensions.join(" "), list);
  }
  assertEquals(new Bench().outbox.grants(both, "listed"), {});
});

// ---- Deliveries -------------------------------------------------------------

Deno.test("a message is encoded once for clients of all kinds", async () => {
  let reads = 0;
  const message: Message = {
    event: "a",
    logged: true,
    get data() {
      reads++;
      return "{}";
    },
  };
  const kinds = [{}, { batch: true }, { recover: true }, {
    batch: true,
    recover: true,
  }];
  const benches = [...kinds, ...kinds].map((kind) => new Bench(kind));
  const shared = new Delivery("c", message, 7);
  for (const { outbox } of benches) outbox.deliver(shared);
  await turn();
  const plain = '{"event":"a","channel":"c","data":"{}"}';
  const positioned = '{"event":"a","channel":"c","data":"{}","offset":7}';
  const expected = [plain, plain, positioned, positioned];
  assertEquals(benches.map(({ client }) => client.frames[0]), [
    ...expected,
    ...expected,
  ]);
  assertEquals(reads, 1);
});

Deno.test("a message is not delivered to the connection that it leaves out, nor to a later one of its client", () => {
  const bench = new Bench({ ids: ["1.1", "2.2"] });
  for (const [offset, except] of ["1.1", "2.2", "3.3", ""].entries()) {
    bench.outbox.deliver(new Delivery("c", logged(offset, 0, except), offset));
  }
  assertEquals(bench.got(), ["2", "3"]);
  bench.outbox.formerIds = ["3.3"];
  bench.outbox.deliver(new Delivery("c", logged(4, 0, "3.3"), 4));
  assertEquals(bench.got(), []);
});

/** A session that writes down what it hears. */
function fakeSession(log: unknown[]): Session {
  const fake: Pick<Session, "sent" | "begin"> = {
    sent: (channel, offset) => log.push(["sent", channel, offset]),
    begin: (channel, { offset }, isFailed) =>
      log.push(["begin", channel, offset, isFailed]),
  };
  // An outbox asks nothing else of it.
  return fake as Session;
}

Deno.test("the session of a stock client hears of each logged message that was sent", () => {
  const bench = new Bench();
  const log: unknown[] = [];
  bench.outbox.session = fakeSession(log);
  bench.outbox.deliver(delivery(1));
  bench.outbox.deliver(delivery(2, false));
  bench.outbox.deliver(new Delivery("c", logged(3, 0, "1.1"), 3));
  bench.outbox.deliver(delivery(4, true, "d"));
  assertEquals(log, [["sent", "c", 1], ["sent", "d", 4]]);
});

// ---- Positions --------------------------------------------------------------

Deno.test("positionFields tells a client with positions where it is, and whether it was recovered", () => {
  const replay: ReplayStart = { recovered: true, from: at(7) };
  const since = { since: at(7), rewind: 0 };
  const fresh = { rewind: 3 };
  const { outbox } = new Bench({ recover: true });
  assertEquals(outbox.positionFields(replay, since), {
    position: at(7),
    recovered: true,
  });
  assertEquals(outbox.positionFields(replay, fresh), { position: at(7) });
  assertEquals(outbox.positionFields(replay, undefined), { position: at(7) });
  assertEquals(outbox.positionFields(undefined, since), {});
  const plain = new Bench().outbox;
  assertEquals(plain.positionFields(replay, since), {});
});

Deno.test("begin tells a client that was there before what it has lost, and its session where it is", () => {
  const recovered: ReplayStart = { recovered: true, from: at(5) };
  const lost: ReplayStart = { recovered: false, from: at(9) };
  const since: HistoryRequest = { since: at(5), rewind: 0 };
  const cases: [
    replay: ReplayStart | undefined,
    request: HistoryRequest,
    began: unknown,
    told: string[],
  ][] = [
    [recovered, since, ["begin", "c", 5, false], []],
    [lost, since, ["begin", "c", 9, true], [OUTBOUND.RecoveryFailed]],
    [lost, { rewind: 3 }, ["begin", "c", 9, false], []],
    // The backplane keeps no history: it begins where the join was.
    [undefined, { rewind: 0 }, ["begin", "c", 12, false], []],
    [undefined, since, ["begin", "c", 12, true], [OUTBOUND.RecoveryFailed]],
  ];
  for (const [replay, request, began, told] of cases) {
    const bench = new Bench();
    const log: unknown[] = [];
    bench.outbox.session = fakeSession(log);
    bench.outbox.begin("c", { replay, position: at(12) }, request);
    assertEquals([log, bench.got()], [[began], told]);
  }
  const bench = new Bench();
  bench.outbox.begin("c", {}, since);
  assertEquals(bench.got(), []);
});

Deno.test("tellLost tells a client with positions where it goes on", () => {
  for (const recover of [false, true]) {
    const { outbox, client: { frames } } = new Bench({ recover });
    outbox.tellLost("c", at(7));
    assertEquals(JSON.parse(frames[0]!), {
      event: OUTBOUND.RecoveryFailed,
      channel: "c",
      data: '{"channel":"c"}',
      ...(recover && { position: at(7) }),
    });
  }
});

// ---- Replays: order ---------------------------------------------------------

Deno.test("a replay sends the messages after a position, in order and in the same turn", () => {
  const bench = new Bench({ recover: true });
  bench.logMessages("c", range(1, 9));
  assertEquals(bench.outbox.replay("c", at(4), 7), undefined);
  bench.outbox.deliver(delivery(10));
  assertEquals(bench.got(), ["5", "6", "7", "10"]);
  assertEquals(bench.clock.waiting, 0);
});

Deno.test("a replay of nothing reads nothing", () => {
  const bench = new Bench();
  for (const [from, until] of [[7, 7], [8, 7]] as const) {
    assertEquals(bench.outbox.replay("c", at(from), until), undefined);
  }
  assertEquals([bench.requests, bench.client.frames], [[], []]);
});

Deno.test("a replay is read in pages, from where the last page reaches", () => {
  const bench = new Bench();
  bench.logMessages("c", range(1, 250));
  // The history has no more logged messages, but its offsets go on.
  bench.outbox.replay("c", at(0), 300);
  assertEquals(bench.got(), range(1, 250).map(String));
  const asked = bench.requests.map(([channel, { after, until, events }]) =>
    [channel, after.epoch, after.offset, until, events].join(" ")
  );
  assertEquals(asked, [
    "c e 0 300 100",
    "c e 100 300 100",
    "c e 200 300 100",
  ]);
});

Deno.test("a replay leaves out what its client has caused on an earlier connection", () => {
  const bench = new Bench({ recover: true, ids: ["2.2", "1.1"] });
  bench.history.set("c", [
    { offset: 1, message: logged(1, 0, "1.1") },
    { offset: 2, message: logged(2, 0, "3.3") },
    { offset: 3, message: logged(3, 0, "2.2") },
  ]);
  bench.outbox.replay("c", at(0), 3);
  assertEquals(bench.got(), ["2"]);
});

Deno.test("several clients share the frames of what they have missed", () => {
  let reads = 0;
  const message: Message = {
    event: "1",
    logged: true,
    get data() {
      reads++;
      return "";
    },
  };
  const benches = Array.from({ length: 3 }, () => new Bench({ recover: true }));
  const shared = { message, offset: 1 };
  for (const bench of benches) {
    bench.history.set("c", [shared]);
    bench.outbox.replay("c", at(0), 1);
  }
  assertEquals(benches.map((bench) => bench.got()), [["1"], ["1"], ["1"]]);
  assertEquals(reads, 1);
});

/** A bench whose history answers by hand. */
function slowBench(...args: ConstructorParameters<typeof Bench>) {
  const bench = new Bench(...args);
  const answers: ((page?: Page | null | Error) => void)[] = [];
  bench.read = (channel, request) =>
    new Promise((resolve, reject) => {
      answers.push((page = bench.page(channel, request)) =>
        page instanceof Error ? reject(page) : resolve(page)
      );
    });
  return {
    bench,
    /** Answers the read that waits longest: with its page, or as said. */
    async answer(page?: Page | null | Error): Promise<void> {
      answers.shift()?.(page);
      await turn();
    },
    get reading() {
      return answers.length;
    },
  };
}

Deno.test("what is delivered during a replay comes in its place", async () => {
  const slow = slowBench({ recover: true });
  const { bench } = slow;
  bench.logMessages("c", [1, 3, 5]);
  const replayed = bench.outbox.replay("c", at(0), 5);
  // Of other channels it comes at once.
  bench.outbox.deliver(delivery(50, true, "other"));
  assertEquals(bench.got(), ["other:50"]);
  bench.outbox.deliver(delivery(6, false));
  bench.logMessages("c", [7]);
  bench.outbox.deliver(delivery(7));
  bench.outbox.deliver(delivery(8, false));
  assertEquals(await isSettled(replayed), false);
  await slow.answer();
  assertEquals(bench.got(), ["1", "3", "5"]);
  // The page was asked for before 7 was there.
  await slow.answer();
  assertEquals(bench.got(), ["(6)", "7", "(8)"]);
  assertEquals(await isSettled(replayed), true);
  bench.outbox.deliver(delivery(9));
  assertEquals([bench.got(), slow.reading], [["9"], 0]);
});

Deno.test("deliveries that the history does not hold stand between the messages of a page", async () => {
  const slow = slowBench();
  const { bench } = slow;
  bench.logMessages("c", [1, 4]);
  bench.outbox.replay("c", at(0), 2);
  bench.outbox.deliver(delivery(3, false));
  bench.outbox.deliver(delivery(4));
  bench.outbox.deliver(delivery(5, false));
  const all = { messages: bench.history.get("c")!, reaches: 4 };
  await slow.answer(all);
  assertEquals(bench.got(), ["1", "(3)", "4", "(5)"]);
});

// ---- Replays: clients that read slowly --------------------------------------

Deno.test("a replay waits while the client has more unread than it may be ahead, and goes on after that", async () => {
  for (const batch of [false, true]) {
    const bench = new Bench({ batch, limits: { bufferedBytes: 20_000 } });
    bench.client.isStuck = true;
    bench.logMessages("c", range(1, 40), 1_000);
    const replayed = bench.outbox.replay("c", at(0), 40);
    assertEquals(replayed, undefined);
    await turn();
    const first = bench.got();
    // It stops above half of what the client may leave unread.
    assertEquals(first, range(1, 10).map(String));
    bench.clock.pass(1_000);
    assertEquals(bench.got(), []);
    bench.client.bufferedAmount = 0;
    bench.clock.pass(10);
    await turn();
    assertEquals(bench.got(), range(11, 20).map(String));
    bench.client.isStuck = false;
    bench.client.bufferedAmount = 0;
    // A batch counts until the end of its turn, so it takes two.
    for (let i = 0; i < 2; i++) {
      bench.clock.pass(10);
      await turn();
    }
    assertEquals(bench.got(), range(21, 40).map(String));
    assertEquals([bench.clock.waiting, bench.log], [0, []]);
  }
});

Deno.test("a replay is ahead of its client by 80 KiB at most, whatever the client may leave unread", () => {
  const bench = new Bench({ limits: { bufferedBytes: Infinity } });
  bench.client.isStuck = true;
  bench.logMessages("c", range(1, 100), 10_000);
  bench.outbox.replay("c", at(0), 100);
  assert(bench.outbox.pendingBytes > 81_920);
  assert(bench.outbox.pendingBytes < 81_920 + 11_000);
  // The rest waits in the outbox.
  assert(bench.client.bufferedAmount < 65_536 + 11_000);
});

Deno.test("what is delivered while a replay waits for its client is replayed from the history", () => {
  const bench = new Bench({ limits: { bufferedBytes: 4_000 } });
  bench.client.isStuck = true;
  bench.logMessages("c", [1, 2, 3], 1_000);
  bench.outbox.replay("c", at(0), 3);
  assertEquals(bench.got(), ["1", "2"]);
  bench.outbox.deliver(delivery(4, false));
  bench.logMessages("c", [5], 1_000);
  bench.outbox.deliver(delivery(5));
  assertEquals(bench.got(), []);
  bench.client.isStuck = false;
  bench.client.bufferedAmount = 0;
  bench.clock.pass(10);
  assertEquals(bench.got(), ["3", "(4)", "5"]);
});

Deno.test("a promised replay resolves when the client has to read first", async () => {
  const slow = slowBench({ limits: { bufferedBytes: 4_000 } });
  const { bench } = slow;
  bench.client.isStuck = true;
  bench.logMessages("c", [1, 2, 3], 1_000);
  const replayed = bench.outbox.replay("c", at(0), 3);
  assertEquals(await isSettled(replayed), false);
  await slow.answer();
  assertEquals([bench.got(), await isSettled(replayed)], [["1", "2"], true]);
});

Deno.test("a client that reads nothing of a replay for 10 seconds is given up", () => {
  const bench = new Bench({ limits: { bufferedBytes: 4_000 } });
  bench.client.isStuck = true;
  bench.logMessages("c", range(1, 9), 1_000);
  bench.outbox.replay("c", at(0), 9);
  bench.clock.pass(10_000);
  assertEquals(bench.log, []);
  // It reads once, just in time.
  bench.client.bufferedAmount = 1_500;
  bench.clock.pass(10_000);
  assertEquals(bench.log, []);
  bench.clock.pass(20);
  assertEquals(bench.log, [`give up ${CLOSE.SlowPeer.code}`]);
  assertEquals(bench.clock.waiting, 0);
});

Deno.test("a client that reads is not given up during a replay, whatever else comes", () => {
  const bench = new Bench();
  const { outbox, client, clock } = bench;
  client.isStuck = true;
  bench.logMessages("c", range(1, 200), 10_000);
  outbox.replay("c", at(0), 200);
  // Other channels bring as much as it reads, so that the replay has no room.
  for (const frame of numbered(30, 10_000)) outbox.send(frame);
  for (let seconds = 0; seconds < 60; seconds++) {
    client.bufferedAmount = Math.max(0, client.bufferedAmount - 10_000);
    outbox.send("x".repeat(10_000));
    clock.pass(1_000);
  }
  assertEquals(bench.log, []);
  clock.pass(11_000);
  assertEquals(bench.log, [`give up ${CLOSE.SlowPeer.code}`]);
});

Deno.test("several replays go on one after the other, each in its order", () => {
  const bench = new Bench({ limits: { bufferedBytes: 4_000 } });
  bench.client.isStuck = true;
  bench.logMessages("c", [1, 2, 3], 1_000);
  bench.logMessages("d", [1, 2], 1_000);
  bench.outbox.replay("c", at(0), 3);
  bench.outbox.replay("d", at(0), 2);
  assertEquals(bench.got(), ["1", "2"]);
  bench.logMessages("d", [3], 1_000);
  bench.outbox.deliver(delivery(3, true, "d"));
  bench.client.bufferedAmount = 0;
  bench.clock.pass(10);
  assertEquals(bench.got(), ["3", "d:1"]);
  bench.client.isStuck = false;
  bench.client.bufferedAmount = 0;
  bench.clock.pass(10);
  assertEquals([bench.got(), bench.clock.waiting], [["d:2", "d:3"], 0]);
});

// ---- Replays: failures and the end ------------------------------------------

Deno.test("a history that does not reach back is told, and what is newer goes on", async () => {
  const gone: (Page | null)[] = [null, { messages: [], reaches: 0 }];
  for (const page of gone) {
    const slow = slowBench({ recover: true });
    const { bench } = slow;
    const replayed = bench.outbox.replay("c", at(0), 5);
    bench.outbox.deliver(delivery(6, false));
    bench.outbox.deliver(delivery(7));
    await slow.answer(page);
    const [frame] = bench.client.frames;
    assertEquals(JSON.parse(frame!).position, at(7));
    assertEquals(bench.got(), [OUTBOUND.RecoveryFailed, "(6)"]);
    assertEquals(await isSettled(replayed), true);
    bench.outbox.deliver(delivery(8));
    assertEquals(bench.got(), ["8"]);
  }
});

Deno.test("a history that moves on during a replay is told in the middle of it", async () => {
  const slow = slowBench();
  const { bench } = slow;
  const log: unknown[] = [];
  bench.outbox.session = fakeSession(log);
  bench.logMessages("c", range(1, 150));
  bench.outbox.replay("c", at(0), 150);
  await slow.answer();
  assertEquals(bench.got().length, 100);
  await slow.answer(null);
  assertEquals(bench.got(), [OUTBOUND.RecoveryFailed]);
  assertEquals(log.slice(-2), [["sent", "c", 100], ["begin", "c", 150, true]]);
});

Deno.test("an empty page that reaches further is no gap", async () => {
  const slow = slowBench();
  const { bench } = slow;
  bench.logMessages("c", [9]);
  bench.outbox.replay("c", at(0), 9);
  await slow.answer({ messages: [], reaches: 5 });
  assertEquals(bench.got(), []);
  await slow.answer();
  assertEquals(bench.got(), ["9"]);
  assertEquals(bench.requests.map(([, { after }]) => after.offset), [0, 5]);
});

Deno.test("a read that fails is reported, and the client is told of its loss", async () => {
  const slow = slowBench();
  const { bench } = slow;
  const replayed = bench.outbox.replay("c", at(0), 5);
  await slow.answer(new Error("The backplane is down"));
  assertEquals(bench.log, [
    "The backplane is down while reading a channel's history of a",
  ]);
  assertEquals(bench.got(), [OUTBOUND.RecoveryFailed]);
  assertEquals(await isSettled(replayed), true);
});

Deno.test("a replay goes on when the backplane is back that was away", async () => {
  const slow = slowBench();
  const { bench } = slow;
  bench.logMessages("c", range(1, 150));
  const replayed = bench.outbox.replay("c", at(0), 150);
  await slow.answer();
  assertEquals(bench.got().length, 100);
  for (let i = 0; i < 2; i++) {
    await slow.answer(new BackplaneUnavailable("away", { wasSent: true }));
    // The client may go on with something else meanwhile.
    assertEquals(await isSettled(replayed), true);
    bench.outbox.deliver(delivery(151 + i));
    assertEquals(bench.got(), []);
    bench.clock.pass(1_000);
  }
  bench.logMessages("c", [151, 152]);
  await slow.answer();
  assertEquals(bench.got(), range(101, 152).map(String));
  assertEquals(bench.clock.waiting, 0);
});

Deno.test("a replay that waits for the backplane ends with its client", async () => {
  for (const end of ["endReplay", "close"] as const) {
    const slow = slowBench();
    const { bench } = slow;
    bench.outbox.replay("c", at(0), 5);
    await slow.answer(new BackplaneUnavailable("away", { wasSent: true }));
    assertEquals(bench.clock.waiting, 1);
    if (end === "close") bench.outbox.close();
    else bench.outbox.endReplay("c");
    bench.clock.pass(60_000);
    assertEquals([bench.clock.waiting, bench.got()], [0, []]);
  }
});

Deno.test("endReplay sends no more of a replay, and what waits for it is dropped", async () => {
  const slow = slowBench({ limits: { bufferedBytes: 1_000 } });
  const { bench } = slow;
  bench.logMessages("c", [1]);
  for (let i = 0; i < 10; i++) {
    const replayed = bench.outbox.replay("c", at(0), 1);
    const waiting = new Delivery("c", { event: "x".repeat(500) }, 2);
    bench.outbox.deliver(waiting);
    bench.outbox.endReplay("c");
    assertEquals(await isSettled(replayed), true);
    await slow.answer();
  }
  bench.outbox.endReplay("c");
  assertEquals([bench.got(), bench.log], [[], []]);
  bench.outbox.deliver(delivery(3));
  assertEquals(bench.got(), ["3"]);
});

Deno.test("a page of a replay that ended is not taken for one of the next", async () => {
  const slow = slowBench();
  const { bench } = slow;
  bench.logMessages("c", [1, 2]);
  bench.outbox.replay("c", at(0), 2);
  bench.outbox.endReplay("c");
  bench.outbox.replay("c", at(1), 2);
  await slow.answer();
  assertEquals(bench.got(), []);
  await slow.answer();
  assertEquals(bench.got(), ["2"]);
});

Deno.test("close ends replays, and leaves no timer", async () => {
  const slow = slowBench({ limits: { bufferedBytes: 4_000 } });
  const { bench } = slow;
  const replayed = bench.outbox.replay("c", at(0), 5);
  bench.outbox.close();
  assertEquals(await isSettled(replayed), true);
  bench.logMessages("c", range(1, 5), 1_000);
  await slow.answer();
  assertEquals(bench.got(), []);
  const stuck = new Bench({ limits: { bufferedBytes: 4_000 } });
  stuck.client.isStuck = true;
  stuck.logMessages("c", range(1, 5), 1_000);
  stuck.outbox.replay("c", at(0), 5);
  assertEquals(stuck.clock.waiting, 1);
  stuck.outbox.close();
  stuck.clock.pass(60_000);
  assertEquals([stuck.clock.waiting, stuck.log], [0, []]);
});

// ---- Back-pressure ----------------------------------------------------------

Deno.test("deliveries that wait may have as many units as a client may leave unread", () => {
  const bench = new Bench({ limits: { bufferedBytes: 1_000 } });
  const waiting: Delivery[] = [];
  const large = new Delivery("c", { event: "x".repeat(300) }, 1);
  const { outbox } = bench;
  const hold = () => outbox.hold(large, waiting, CLOSE.ServerFull);
  for (let i = 0; i < 3; i++) hold();
  assertEquals([waiting.length, bench.log], [3, []]);
  outbox.unhold(waiting.splice(0));
  for (let i = 0; i < 3; i++) hold();
  assertEquals([waiting.length, bench.log], [3, []]);
  hold();
  assertEquals([waiting.length, bench.log], [
    0,
    [`close ${CLOSE.ServerFull.code}`],
  ]);
});

Deno.test("a client that does not read while a replay goes on is closed", async () => {
  const slow = slowBench({ limits: { bufferedBytes: 1_000 } });
  const { bench } = slow;
  const replayed = bench.outbox.replay("c", at(0), 5);
  for (let offset = 6; bench.log.length === 0; offset++) {
    bench.outbox.deliver(delivery(offset, false));
    assert(offset < 100);
  }
  assertEquals(bench.log, [`close ${CLOSE.SlowPeer.code}`]);
  assertEquals(await isSettled(replayed), true);
});

Deno.test("a client that is behind is given up in the next turn, unless it has read by then", () => {
  const bench = new Bench({ limits: { bufferedBytes: 1_000 } });
  const { outbox, clock } = bench;
  const send = (unread: number) => {
    bench.client.bufferedAmount = unread;
    outbox.send("a");
  };
  send(1_000);
  assertEquals(clock.waiting, 0);
  send(1_001);
  assertEquals([clock.waiting, bench.log], [1, []]);
  bench.client.bufferedAmount = 1_000;
  clock.pass(1);
  assertEquals(bench.log, []);
  send(1_001);
  clock.pass(1);
  assertEquals(bench.log, [`give up ${CLOSE.SlowPeer.code}`]);
});

Deno.test("a client whose transport fails is given up in the next turn, and the failure is reported once", async () => {
  for (const batch of [false, true]) {
    const bench = new Bench({ batch });
    bench.client.send = () => {
      throw new Error("The socket is closed");
    };
    bench.outbox.send("a");
    await turn();
    bench.outbox.send("b");
    bench.outbox.sendAlone("c");
    await turn();
    assertEquals(bench.log, [
      "The socket is closed while sending a frame of a",
    ]);
    bench.clock.pass(1);
    assertEquals(bench.log.slice(1), [`give up ${CLOSE.SendFailed.code}`]);
  }
});

/** Frames of a size, each with its number. */
function numbered(count: number, units: number): string[] {
  return range(1, count).map((n) => `${n}`.padEnd(units, " "));
}

Deno.test("of what a client does not read, the transport has about 64 KiB, and the rest waits in its order", async () => {
  for (const batch of [false, true]) {
    const bench = new Bench({ batch });
    const { outbox, client, clock } = bench;
    client.isStuck = true;
    const frames = numbered(90, 10_000);
    for (const frame of frames) outbox.send(frame);
    await turn();
    clock.pass(1_000);
    assert(client.bufferedAmount < 2 * (65_536 + 10_000));
    assert(outbox.pendingBytes >= 900_000);
    assertEquals(bench.log, []);
    outbox.sendAlone("alone");
    for (let reads = 0; outbox.pendingBytes > 0; reads++) {
      client.bufferedAmount = 0;
      clock.pass(20);
      assert(client.bufferedAmount < 2 * (65_536 + 10_000));
      assert(reads < 100);
    }
    const sent = client.frames.flatMap((frame) =>
      frame === "alone" ? frame : JSON.parse(`[${frame}]`).flat()
    );
    assertEquals(sent, [...range(1, 90), "alone"]);
    assertEquals([bench.log, clock.waiting], [[], 0]);
  }
});

Deno.test("of small frames that a client does not read, the transport has few", () => {
  const { outbox, client, clock } = new Bench();
  client.isStuck = true;
  for (const frame of numbered(5_000, 20)) outbox.send(frame);
  clock.pass(100);
  assert(client.frames.length < 70);
  outbox.drop();
  assertEquals(clock.waiting, 0);
});

Deno.test("a frame larger than the transport is given otherwise is sent whole", () => {
  const { outbox, client, clock } = new Bench();
  client.isStuck = true;
  for (const frame of numbered(3, 200_000)) outbox.send(frame);
  for (let n = 1; n <= 3; n++) {
    assertEquals(client.frames.length, n);
    client.bufferedAmount = 0;
    clock.pass(10);
  }
  assertEquals(clock.waiting, 0);
});

Deno.test("frames that wait are those of all clients, and no copies", () => {
  const benches = range(1, 3).map(() => new Bench());
  const message = { event: "x".repeat(1_000), logged: true };
  const taken: string[][] = benches.map(() => []);
  for (const { client } of benches) client.isStuck = true;
  for (const offset of range(1, 100)) {
    const shared = new Delivery("c", message, offset);
    for (const { outbox } of benches) outbox.deliver(shared);
  }
  for (const [i, { client, clock }] of benches.entries()) {
    for (let n = 0; n < 10; n++) {
      client.bufferedAmount = 0;
      clock.pass(10);
    }
    taken[i] = client.frames;
  }
  assertEquals(taken[0]!.length, 100);
  assertEquals(taken[1], taken[0]);
  assertEquals(taken[2], taken[0]);
});

Deno.test("a burst above limits.bufferedBytes reaches a client that reads all that it is given", () => {
  const bench = new Bench();
  const { outbox, client, clock } = bench;
  client.isStuck = true;
  for (const frame of numbered(300, 10_000)) outbox.send(frame);
  for (let turns = 0; client.frames.length < 300; turns++) {
    client.bufferedAmount = 0;
    // What the client says in the meantime is no reason to judge it.
    outbox.judge();
    clock.pass(1);
    assert(turns < 100);
  }
  assertEquals(client.frames.map(Number), range(1, 300));
  assertEquals(bench.log, []);
});

Deno.test("a client that leaves more than limits.bufferedBytes, and some of what it was given, is given up", () => {
  const bench = new Bench();
  const { outbox, client, clock } = bench;
  client.isStuck = true;
  for (const frame of numbered(200, 10_000)) outbox.send(frame);
  assertEquals(bench.log, []);
  client.bufferedAmount -= 1;
  clock.pass(1);
  assertEquals(bench.log, [`give up ${CLOSE.SlowPeer.code}`]);
  // Below the limit it may take its time.
  const patient = new Bench();
  patient.client.isStuck = true;
  for (const frame of numbered(100, 10_000)) patient.outbox.send(frame);
  patient.clock.pass(60_000);
  assertEquals(patient.log, []);
  // One frame more, and the next turn decides.
  for (const frame of numbered(5, 10_000)) patient.outbox.send(frame);
  patient.clock.pass(1);
  assertEquals(patient.log, [`give up ${CLOSE.SlowPeer.code}`]);
});

Deno.test("a client that has read much without a pause is given more at once", () => {
  const { outbox, client, clock } = new Bench({
    limits: { bufferedBytes: Infinity },
  });
  client.isStuck = true;
  for (const frame of numbered(2_000, 10_000)) outbox.send(frame);
  const most = () => {
    client.bufferedAmount = 0;
    clock.pass(1);
    return client.bufferedAmount;
  };
  for (let n = 0; n < 20; n++) assert(most() < 80_000);
  for (let n = 0; n < 40; n++) most();
  assert(most() > 100_000);
  // It pauses once.
  client.bufferedAmount = 1;
  clock.pass(10);
  assert(most() < 80_000);
});

// ---- The end ----------------------------------------------------------------

/** A client whose closes are noted. */
function ending(frames: number) {
  const bench = new Bench();
  const closes: number[] = [];
  bench.client.isStuck = true;
  bench.client.close = (code?: number) => void closes.push(code!);
  for (const frame of numbered(frames, 10_000)) bench.outbox.send(frame);
  return { bench, closes };
}

Deno.test("end closes at once where nothing waits", () => {
  const { bench, closes } = ending(3);
  bench.outbox.close();
  bench.outbox.end(CLOSE.Reconnect);
  assertEquals(closes, [CLOSE.Reconnect.code]);
  assertEquals(bench.clock.waiting, 0);
});

Deno.test("end closes after what was sent before, and not before its client has read", () => {
  const { bench: { outbox, client, clock, schedule }, closes } = ending(50);
  outbox.send("last");
  outbox.close();
  outbox.end(CLOSE.Reconnect);
  outbox.send("later");
  assertEquals(schedule.lingering.size, 1);
  while (client.frames.length < 51) {
    assertEquals(closes, []);
    client.bufferedAmount = 0;
    clock.pass(1);
  }
  assertEquals(client.frames.at(-1), "last");
  assertEquals(closes, [CLOSE.Reconnect.code]);
  assertEquals([clock.waiting, schedule.lingering.size], [0, 0]);
});

Deno.test("end waits 10 seconds for its client, or until endAll, and then drops what waits", () => {
  for (const isEnded of [false, true]) {
    const { bench: { client, clock, outbox, schedule }, closes } = ending(50);
    outbox.close();
    outbox.end(CLOSE.Reconnect);
    clock.pass(9_000);
    assertEquals(closes, []);
    if (isEnded) schedule.endAll();
    else clock.pass(2_000);
    assertEquals(closes, [CLOSE.Reconnect.code]);
    assert(client.frames.length < 9);
    assertEquals([clock.waiting, schedule.lingering.size], [0, 0]);
  }
});

Deno.test("end waits for no client that is closed because it does not read, and drop for none", () => {
  const slow = ending(50);
  slow.bench.outbox.close();
  slow.bench.outbox.end(CLOSE.SlowPeer);
  assertEquals(slow.closes, [CLOSE.SlowPeer.code]);
  const gone = ending(50);
  gone.bench.outbox.drop();
  gone.bench.outbox.close();
  gone.bench.outbox.end(CLOSE.Reconnect);
  assertEquals(gone.closes, [CLOSE.Reconnect.code]);
  for (const { bench } of [slow, gone]) assertEquals(bench.clock.waiting, 0);
});

Deno.test("a transport that fails while frames wait ends the connection, closed or not", () => {
  for (const isClosed of [false, true]) {
    const { bench, closes } = ending(50);
    const { client, clock, log, outbox } = bench;
    client.send = () => {
      throw new Error("The socket is closed");
    };
    if (isClosed) {
      outbox.close();
      outbox.end(CLOSE.Reconnect);
    }
    client.bufferedAmount = 0;
    clock.pass(50);
    assertEquals(log[0], "The socket is closed while sending a frame of a");
    if (isClosed) assertEquals(closes, [CLOSE.Reconnect.code]);
    else assertEquals(log.slice(1), [`give up ${CLOSE.SendFailed.code}`]);
    outbox.drop();
    assertEquals(clock.waiting, 0);
  }
});

Deno.test("judge says nothing against a client that reads", () => {
  const bench = new Bench({ limits: { bufferedBytes: 1_000 } });
  bench.outbox.judge();
  bench.client.bufferedAmount = 1_000;
  bench.outbox.judge();
  assertEquals(bench.log, []);
  bench.client.bufferedAmount = 1_001;
  bench.outbox.judge();
  assertEquals(bench.log, [`give up ${CLOSE.SlowPeer.code}`]);
});

Deno.test("a promised replay resolves when the client has to read another replay first", async () => {
  const slow = slowBench({ limits: { bufferedBytes: 4_000 } });
  const { bench } = slow;
  bench.client.isStuck = true;
  bench.logMessages("c", [1, 2, 3], 1_000);
  bench.logMessages("d", [1], 1_000);
  const first = bench.outbox.replay("c", at(0), 3);
  const second = bench.outbox.replay("d", at(0), 1);
  await slow.answer();
  assertEquals(bench.got(), ["1", "2"]);
  assertEquals([await isSettled(first), await isSettled(second)], [true, true]);
});

Deno.test("a client is not given up for the time that the history took to answer", async () => {
  const slow = slowBench({ limits: { bufferedBytes: 4_000 } });
  const { bench } = slow;
  bench.logMessages("c", [1]);
  bench.outbox.replay("c", at(0), 1);
  bench.clock.pass(11_000);
  // Messages of other channels came meanwhile, which the client reads now.
  bench.client.bufferedAmount = 2_001;
  await slow.answer();
  assertEquals([bench.got(), bench.log], [[], []]);
  bench.clock.pass(100);
  bench.client.bufferedAmount = 0;
  bench.clock.pass(10);
  assertEquals([bench.got(), bench.log], [["1"], []]);
});
