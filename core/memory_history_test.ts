import { assert, assertEquals } from "@std/assert";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { ManualClock, turn } from "../tests/support/clock.ts";
import { Random } from "../tests/support/random.ts";
import type {
  BackplaneNode,
  History,
  HistoryRequest,
  Message,
  PageRequest,
  SessionState,
} from "./backplane.ts";
import {
  ChannelLog,
  type LogOwner,
  MemoryHistory,
  MemorySessions,
} from "./memory_history.ts";
import { DEFAULT_HISTORY } from "./options.ts";

const EPOCH = "e";

function message(units = 0): Message {
  return { event: "a", data: "d".repeat(units), logged: true };
}

/** A page request for a log, of which only these parts matter. */
function pageAfter(
  offset: number,
  rest: Partial<PageRequest> = {},
): PageRequest {
  const after = { epoch: EPOCH, offset };
  return { after, until: Infinity, events: 100, bytes: Infinity, ...rest };
}

/** The offsets of a page, and how far it reaches. */
function offsets(page: ReturnType<ChannelLog["read"]> | null) {
  return page && [page.messages.map(({ offset }) => offset), page.reaches];
}

// ---- The log of one channel -------------------------------------------------

/** A log with messages at these offsets, one a millisecond. */
function logOf(from: number, ...list: number[]): ChannelLog {
  const log = new ChannelLog("c", from);
  for (const [i, offset] of list.entries()) log.add(message(), offset, i);
  return log;
}

Deno.test("a log reads what is later than an offset, wherever that lies", () => {
  // Offsets of messages that are not logged are missing.
  const log = logOf(3, 4, 7, 8, 12);
  const all = [4, 7, 8, 12];
  for (let offset = 3; offset <= 14; offset++) {
    assertEquals(
      offsets(log.read(pageAfter(offset, { until: 20 }))),
      [all.filter((one) => one > offset), 20],
      `after ${offset}`,
    );
  }
  const none = logOf(3).read(pageAfter(3, { until: 5 }));
  assertEquals(offsets(none), [[], 5]);
});

Deno.test("a log finds an offset by binary search, at any length and after dropping", () => {
  for (let length = 1; length <= 40; length++) {
    const list = Array.from({ length }, (_, i) => 10 + 3 * i);
    for (const dropped of [0, 1, length - 1]) {
      const log = logOf(9, ...list);
      for (let i = 0; i < dropped; i++) log.dropFirst();
      for (let offset = log.from; offset <= 12 + 3 * length; offset++) {
        const [found] = offsets(log.read(pageAfter(offset)))!;
        const later = list.slice(dropped).filter((one) => one > offset);
        assertEquals(found, later, `${length} ${dropped} ${offset}`);
      }
    }
  }
});

Deno.test("a page ends at its until, its number of events or its bytes, and has one message at least", () => {
  const log = logOf(0, 1, 2, 3, 4, 5);
  const cases: [rest: Partial<PageRequest>, found: unknown][] = [
    [{ until: 3 }, [[1, 2, 3], 3]],
    [{ until: 0 }, [[], 0]],
    [{ until: 9, events: 5 }, [[1, 2, 3, 4, 5], 9]],
    [{ until: 9, events: 4 }, [[1, 2, 3, 4], 4]],
    // A page that ends with the last message covers all up to its until.
    [{ until: 4, events: 4 }, [[1, 2, 3, 4], 4]],
    [{ until: 9, bytes: 0 }, [[1], 1]],
    [{ until: 9, bytes: 1 }, [[1], 1]],
    [{ until: 9, bytes: 258 }, [[1, 2], 2]],
  ];
  for (const [rest, found] of cases) {
    assertEquals(offsets(log.read(pageAfter(0, rest))), found);
  }
});

Deno.test("before says behind which offset the last messages begin", () => {
  const log = logOf(3, 4, 7, 8, 12);
  const cases: [count: number, offset: number | undefined][] = [
    [1, 11],
    [2, 7],
    [4, 3],
    [5, 3],
    [Number.MAX_SAFE_INTEGER, 3],
    [0, undefined],
    [-1, undefined],
  ];
  for (const [count, offset] of cases) assertEquals(log.before(count), offset);
  log.dropFirst();
  assertEquals([log.before(3), log.before(4)], [6, 6]);
  assertEquals(new ChannelLog("c", 3).before(1), undefined);
});

Deno.test("trim drops what is too many or too old, and the log says from where it is whole", () => {
  const bounds = { ...DEFAULT_HISTORY, events: 3, ageMs: 100 };
  const log = logOf(0, 1, 2, 3, 4);
  log.trim(0, bounds);
  assertEquals([log.length, log.from], [3, 1]);
  // The second message came at 1 ms.
  log.trim(101, bounds);
  assertEquals([log.length, log.from], [3, 1]);
  log.trim(102, bounds);
  assertEquals([log.length, log.from], [2, 2]);
  log.trim(200, bounds);
  assertEquals([log.length, log.from], [0, 4]);
  assertEquals(log.trim(300, bounds), 0);
});

Deno.test("the bytes of a log are those of what it keeps, in UTF-8", () => {
  const log = new ChannelLog("c", 0);
  const empty = log.bytes;
  const sizes = [
    log.add({ event: "event", data: "ü" }, 1, 0),
    log.add({ event: "event", data: "uu" }, 2, 0),
    log.add({ event: "event", userId: "user" }, 3, 0),
  ];
  assertEquals(sizes[0], sizes[1]);
  assertEquals(sizes[2], sizes[0]! - 2 + 4);
  assertEquals(log.bytes, empty + sizes.reduce((a, b) => a + b));
  for (const size of sizes) assertEquals(log.dropFirst(), size);
  assertEquals([log.bytes, log.length, log.dropFirst()], [empty, 0, 0]);
});

Deno.test("a log of thousands of messages that come and go keeps their order", () => {
  const log = new ChannelLog("c", 0);
  for (let offset = 1; offset <= 5_000; offset++) {
    log.add(message(), offset, offset);
    if (log.length > 10) log.dropFirst();
    if (offset % 500 !== 0) continue;
    const [found] = offsets(log.read(pageAfter(log.from)))!;
    const kept = Array.from({ length: 10 }, (_, i) => offset - 9 + i);
    assertEquals([found, log.from], [kept, offset - 10]);
  }
});

/** Frees what nothing refers to. */
async function collectGarbage(): Promise<void> {
  setFlagsFromString("--expose-gc");
  // A value is kept until the end of the turn in which it was looked at.
  await turn();
  runInNewContext("gc")();
}

Deno.test("a log does not hold on to messages that it has dropped", async () => {
  const log = new ChannelLog("c", 0);
  const refs = [1, 2, 3].map((offset) => {
    const added = message();
    log.add(added, offset, 0);
    return new WeakRef(added);
  });
  log.dropFirst();
  log.dropFirst();
  await collectGarbage();
  const kept = refs.map((ref) => ref.deref() !== undefined);
  assertEquals([kept, log.length], [[false, false, true], 1]);
});

// ---- The history of all channels --------------------------------------------

/** A channel as the backplane knows it. */
class Channel implements LogOwner {
  readonly channel: string;
  offset = 0;
  loggable = 0;
  recovering = 1;
  recoveringLeftAt = -Infinity;
  log: ChannelLog | null = null;

  constructor(channel: string) {
    this.channel = channel;
  }
}

/** A history with channels that clients can recover on. */
function startHistory(bounds: Partial<History> = {}) {
  const clock = new ManualClock();
  const dropped: string[] = [];
  const history = new MemoryHistory<Channel>(
    { ...DEFAULT_HISTORY, ...bounds },
    clock,
    EPOCH,
    ({ channel }) => dropped.push(channel),
  );
  const channels = new Map<string, Channel>();
  const get = (name: string) => {
    const channel = channels.get(name) ?? new Channel(name);
    channels.set(name, channel);
    return channel;
  };
  return {
    clock,
    history,
    get,
    /** Channels that have lost their log since the last look. */
    dropped: () => dropped.splice(0),
    publish(name: string, { units = 0, isLogged = true } = {}) {
      const channel = get(name);
      channel.offset++;
      if (isLogged) history.add(channel, message(units));
    },
    begin: (name: string, request: Partial<HistoryRequest> = {}) =>
      history.begin(get(name), { rewind: 0, ...request }),
    read: (name: string, offset: number, epoch = EPOCH) =>
      offsets(history.read(get(name), {
        ...pageAfter(offset, { until: get(name).offset }),
        after: { epoch, offset },
      })),
    /** What all logs of the channels take. */
    sum: () =>
      [...channels.values()].reduce(
        (sum, { log }) => sum + (log?.bytes ?? 0),
        0,
      ),
  };
}

Deno.test("a channel's history is kept while a client can recover, and for ageMs after the last has left", () => {
  const { history, get, clock, publish, read, dropped } = startHistory({
    ageMs: 1_000,
  });
  const channel = get("c");
  channel.recovering = 0;
  publish("c");
  assertEquals([read("c", 0), history.bytes], [null, 0]);
  channel.recovering = 1;
  publish("c");
  assertEquals(read("c", 1), [[2], 2]);
  // What came before it was wanted is lost.
  assertEquals(read("c", 0), null);
  channel.recovering = 0;
  channel.recoveringLeftAt = clock.elapsed();
  clock.pass(1_000);
  publish("c");
  assertEquals(read("c", 2), [[3], 3]);
  clock.pass(1);
  publish("c");
  assertEquals([read("c", 2), dropped(), history.bytes], [null, ["c"], 0]);
});

Deno.test("begin recovers a client whose position the history reaches back to, and rewinds a new one", () => {
  const { publish, begin, get } = startHistory({ events: 5 });
  for (let i = 0; i < 8; i++) publish("c");
  const at = (offset: number, epoch = EPOCH) => ({ since: { epoch, offset } });
  const cases: [Partial<HistoryRequest>, recovered: boolean, offset: number][] =
    [
      [at(8), true, 8],
      [at(3), true, 3],
      [at(2), false, 8],
      [at(9), false, 8],
      [at(-1), false, 8],
      [at(5, "other"), false, 8],
      [{}, false, 8],
      [{ rewind: 2 }, false, 6],
      [{ rewind: 99 }, false, 3],
      // A client that was not recovered gets what it asks for besides.
      [{ ...at(2), rewind: 1 }, false, 7],
      [{ ...at(6), rewind: 1 }, true, 6],
    ];
  for (const [request, recovered, offset] of cases) {
    assertEquals(begin("c", request), { recovered, offset });
  }
  assertEquals(get("c").offset, 8);
});

Deno.test("a client on a quiet channel has missed nothing, whatever was not logged or was dropped since", () => {
  const { clock, publish, begin, dropped } = startHistory({ ageMs: 1_000 });
  publish("c");
  publish("c", { isLogged: false });
  const since = { epoch: EPOCH, offset: 1 };
  assertEquals(begin("c", { since }), { recovered: true, offset: 1 });
  // Another channel is in use meanwhile, and the log of this one is too old.
  clock.pass(1_001);
  publish("other");
  assertEquals(dropped(), ["c"]);
  assertEquals(begin("c", { since }), { recovered: true, offset: 1 });
  // But a message that was logged meanwhile is lost with the log.
  publish("c");
  clock.pass(1_001);
  publish("other");
  assertEquals(begin("c", { since }), { recovered: false, offset: 3 });
});

Deno.test("events are dropped when they are older than ageMs, also where they are only read", () => {
  const { clock, publish, read, history, sum } = startHistory({ ageMs: 1_000 });
  publish("c");
  clock.pass(600);
  publish("c");
  clock.pass(400);
  assertEquals(read("c", 0), [[1, 2], 2]);
  clock.pass(1);
  assertEquals([read("c", 0), read("c", 1)], [null, [[2], 2]]);
  assertEquals(history.bytes, sum());
});

Deno.test("a read of another epoch, or of a channel without a log, finds nothing", () => {
  const { publish, read } = startHistory();
  publish("c");
  assertEquals([read("c", 0), read("c", 0, "other")], [[[1], 1], null]);
  assertEquals(read("unknown", 0), null);
});

Deno.test("above bytes the least recently used channel loses its log", () => {
  const { publish, read, begin, history, dropped } = startHistory({
    bytes: 3_000,
  });
  for (const name of ["a", "b", "c"]) publish(name, { units: 200 });
  assertEquals(dropped(), []);
  // It is read, and so used.
  read("a", 0);
  publish("d", { units: 200 });
  assertEquals(dropped(), ["b"]);
  begin("c");
  publish("e", { units: 200 });
  assertEquals(dropped(), ["a"]);
  assert(history.bytes <= 3_000);
});

Deno.test("a channel that is too large alone loses its first messages, and its log if that is too large empty", () => {
  const { publish, read, history } = startHistory({ bytes: 4_000 });
  for (let i = 0; i < 10; i++) publish("c", { units: 700 });
  assertEquals(read("c", 7), [[8, 9, 10], 10]);
  assertEquals(read("c", 6), null);
  publish("c", { units: 5_000 });
  assertEquals(read("c", 10), null);
  assert(history.bytes <= 4_000);
  const tiny = startHistory({ bytes: 100 });
  tiny.publish("c");
  assertEquals([tiny.dropped(), tiny.history.bytes], [["c"], 0]);
  assertEquals(tiny.begin("c").offset, 1);
  assertEquals([tiny.dropped(), tiny.history.bytes], [["c"], 0]);
});

Deno.test("bounds of zero keep nothing, and count nothing", () => {
  for (const bounds of [{ events: 0 }, { bytes: 0 }]) {
    const { publish, read, history, sum } = startHistory(bounds);
    for (let i = 0; i < 3; i++) publish("c", { units: 10 });
    assertEquals([read("c", 2), history.bytes], [null, sum()]);
    assertEquals(history.bytes < 1_000, true);
  }
});

Deno.test("the bytes of the history are those of its logs, whatever happens, and zero in the end", () => {
  const seed = Date.now() % 2 ** 31;
  const random = new Random(seed);
  const { clock, publish, begin, read, get, history, sum } = startHistory({
    events: 20,
    ageMs: 1_000,
    bytes: 20_000,
  });
  const names = ["a", "b", "c", "d", "e", "f"];
  for (let step = 0; step < 3_000; step++) {
    const name = names[random.below(names.length)]!;
    const channel = get(name);
    const action = random.below(8);
    if (action < 4) publish(name, { units: random.below(2_000) });
    else if (action === 4) publish(name, { isLogged: false });
    else if (action === 5) {
      begin(name, {
        since: { epoch: EPOCH, offset: random.below(channel.offset + 2) },
      });
    } else if (action === 6) read(name, random.below(channel.offset + 1));
    else {
      clock.pass(random.below(400));
      channel.recovering = random.below(2);
      if (channel.recovering === 0) channel.recoveringLeftAt = clock.elapsed();
    }
    assertEquals(history.bytes, sum(), `seed ${seed}, step ${step}`);
    assert(history.bytes >= 0 && history.bytes <= 20_000, `seed ${seed}`);
  }
  clock.pass(10_000);
  for (const name of names) {
    get(name).recovering = 0;
    publish(name);
  }
  assertEquals(history.bytes, 0);
});

// ---- Sessions ---------------------------------------------------------------

/** A server, and the sessions that were taken from it. */
function startNode() {
  const taken: string[] = [];
  const node: Pick<BackplaneNode, "taken"> = {
    taken: (app, id) => taken.push(`${app} ${id}`),
  };
  // The sessions call nothing else.
  return { node: node as BackplaneNode, taken };
}

function startSessions(bounds: Partial<History> = {}) {
  const clock = new ManualClock();
  const full = { ...DEFAULT_HISTORY, ...bounds };
  const sessions = new MemorySessions(full, clock);
  return { clock, sessions, ...startNode() };
}

function stateAt(offset: number): SessionState {
  const positions = new Map([["c", { epoch: EPOCH, offset }]]);
  return { formerIds: ["1.1"], positions };
}

/** A state with positions on so many channels. */
function stateOf(channels: number): SessionState {
  const positions = new Map(
    Array.from(
      { length: channels },
      (_, n) => [`${n}`.padEnd(200, "c"), { epoch: EPOCH, offset: n }] as const,
    ),
  );
  return { formerIds: ["1.1"], positions };
}

Deno.test("sessions of clients that are away take a quarter of history.bytes, and the one that is away longest goes first", () => {
  const { sessions, node } = startSessions({ bytes: 1_000_000 });
  for (let n = 0; n < 2_000; n++) {
    sessions.take(node, "a", `${n}`);
    sessions.keep(node, "a", `${n}`, stateOf(100), false);
    // In use it is not counted, and cannot be forgotten.
    assertEquals(sessions.away, Math.min(n, 6));
    sessions.keep(node, "a", `${n}`, stateOf(100), true);
    assert(sessions.bytes <= 250_000);
  }
  assertEquals(sessions.take(node, "a", "1993"), "forgotten");
  assertEquals(sessions.take(node, "a", "1994"), stateOf(100));
  assertEquals(sessions.away, 5);
  sessions.keep(node, "a", "1994", stateOf(1), true);
  const before = sessions.bytes;
  // A session that is larger than all may be goes at once.
  sessions.take(node, "a", "large");
  sessions.keep(node, "a", "large", stateOf(1_000), true);
  assertEquals(sessions.take(node, "a", "large"), "forgotten");
  assert(sessions.bytes <= before);
});

Deno.test("sessions that return, expire or are forgotten are no longer counted", () => {
  const { clock, sessions, node } = startSessions({ ageMs: 1_000 });
  const leave = (id: string) => {
    sessions.take(node, "a", id);
    sessions.keep(node, "a", id, stateOf(10), true);
  };
  leave("1");
  const one = sessions.bytes;
  assert(one > 2_000);
  leave("2");
  assertEquals(sessions.bytes, 2 * one);
  sessions.take(node, "a", "1");
  assertEquals(sessions.bytes, one);
  sessions.forget(node, "a", "1");
  clock.pass(1_001);
  leave("3");
  assertEquals([sessions.away, sessions.bytes], [1, one]);
});

Deno.test("logs leave to sessions what these take of history.bytes", () => {
  let reserved = 0;
  const clock = new ManualClock();
  const bounds = { ...DEFAULT_HISTORY, bytes: 10_000 };
  const history = new MemoryHistory<Channel>(
    bounds,
    clock,
    EPOCH,
    () => {},
    () => reserved,
  );
  const owner = new Channel("c");
  const add = () => {
    owner.offset++;
    history.add(owner, { event: "e", data: "d".repeat(500), logged: true });
  };
  for (let n = 0; n < 100; n++) add();
  assert(history.bytes > 9_000);
  reserved = 2_500;
  add();
  assert(history.bytes <= 7_500);
});

Deno.test("a session is kept by its owner, and found by whoever takes it next", () => {
  const { sessions, node, taken } = startSessions();
  const other = startNode();
  assertEquals(sessions.take(node, "a", "s"), null);
  sessions.keep(node, "a", "s", stateAt(5), false);
  assertEquals(sessions.take(other.node, "a", "s"), stateAt(5));
  assertEquals(taken, ["a s"]);
  // The first owner keeps and forgets it no more.
  sessions.keep(node, "a", "s", stateAt(6), true);
  sessions.forget(node, "a", "s");
  assertEquals([sessions.away, sessions.take(other.node, "a", "s")], [
    0,
    stateAt(5),
  ]);
  assertEquals(other.taken, []);
});

Deno.test("a session of one app is not that of another", () => {
  const { sessions, node } = startSessions();
  sessions.take(node, "a", "s");
  sessions.keep(node, "a", "s", stateAt(5), true);
  assertEquals(sessions.take(node, "b", "s"), null);
});

Deno.test("a session that has nothing to remember is dropped", () => {
  const { sessions, node } = startSessions();
  sessions.take(node, "a", "s");
  sessions.forget(node, "a", "s");
  assertEquals([sessions.take(node, "a", "s"), sessions.away], [null, 0]);
});

Deno.test("a session is forgotten when its client is away for more than ageMs, and grows no older while it is there", () => {
  const { sessions, clock, node } = startSessions({ ageMs: 1_000 });
  const leave = () => sessions.keep(node, "a", "s", stateAt(5), true);
  sessions.take(node, "a", "s");
  clock.pass(10_000);
  leave();
  clock.pass(1_000);
  assertEquals(sessions.take(node, "a", "s"), stateAt(5));
  clock.pass(10_000);
  leave();
  clock.pass(1_001);
  assertEquals(sessions.take(node, "a", "s"), "forgotten");
  assertEquals(sessions.away, 0);
});

Deno.test("above the number of sessions the client that left first is forgotten", () => {
  const { sessions, node } = startSessions({ sessions: 2 });
  for (const id of ["s1", "s2", "s3"]) {
    sessions.take(node, "a", id);
    sessions.keep(node, "a", id, stateAt(5), true);
  }
  assertEquals(sessions.away, 2);
  const found = ["s1", "s2", "s3"].map((id) => sessions.take(node, "a", id));
  assertEquals(found, ["forgotten", stateAt(5), stateAt(5)]);
});

Deno.test("what a server held is away when the server is gone", () => {
  const { sessions, clock, node } = startSessions({ ageMs: 1_000 });
  const other = startNode();
  sessions.take(node, "a", "s1");
  sessions.keep(node, "a", "s1", stateAt(5), false);
  sessions.take(other.node, "a", "s2");
  sessions.releaseAll(node);
  assertEquals(sessions.away, 1);
  clock.pass(1_001);
  assertEquals(sessions.take(other.node, "a", "s1"), "forgotten");
  assertEquals(sessions.away, 0);
});

Deno.test("a session that was forgotten once is a new one when it is kept again, and then dropped", () => {
  const { sessions, clock, node } = startSessions({ ageMs: 1_000 });
  sessions.take(node, "a", "s");
  sessions.keep(node, "a", "s", stateAt(5), true);
  clock.pass(1_001);
  assertEquals(sessions.take(node, "a", "s"), "forgotten");
  // Its client has left before it heard of that.
  sessions.forget(node, "a", "s");
  assertEquals(sessions.take(node, "a", "s"), "forgotten");
  sessions.keep(node, "a", "s", stateAt(6), false);
  // Now it has heard, and has left all of its channels.
  sessions.forget(node, "a", "s");
  assertEquals(sessions.take(node, "a", "s"), null);
});
