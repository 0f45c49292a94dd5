import { assert, assertEquals, assertRejects } from "@std/assert";
import { ManualClock, turn } from "../tests/support/clock.ts";
import type {
  BackplaneNode,
  History,
  HistoryRequest,
  Position,
  SessionStore,
} from "./backplane.ts";
import { MemorySessions } from "./memory_history.ts";
import { DEFAULT_HISTORY } from "./options.ts";
import {
  hasGap,
  NO_HISTORY,
  readHistoryRequest,
  type Resumable,
  type Session,
  sessionChannels,
  Sessions,
} from "./sessions.ts";
import type { Awaitable } from "./time.ts";

const ID = "0123456789abcdef";

// ---- Requests ---------------------------------------------------------------

Deno.test("readHistoryRequest reads a position and a count, and takes a malformed position for one that is lost", () => {
  const nowhere = { epoch: "", offset: 0 };
  const cases: [data: Record<string, unknown>, request: HistoryRequest][] = [
    [{}, { since: undefined, rewind: 0 }],
    [{ recover: null }, { since: undefined, rewind: 0 }],
    [
      { recover: { epoch: "e", offset: 7, more: 1 }, rewind: 3 },
      { since: { epoch: "e", offset: 7 }, rewind: 3 },
    ],
  ];
  for (
    const recover of [
      true,
      "e:7",
      [],
      {},
      { epoch: "e" },
      { epoch: 1, offset: 7 },
      { epoch: "e", offset: "7" },
      { epoch: "e", offset: 1.5 },
      { epoch: "e", offset: 2 ** 53 },
    ]
  ) cases.push([{ recover }, { since: nowhere, rewind: 0 }]);
  for (const rewind of [0, -1, 1.5, "3", null, true, 2 ** 53, NaN]) {
    cases.push([{ rewind }, { since: undefined, rewind: 0 }]);
  }
  const most = Number.MAX_SAFE_INTEGER;
  cases.push([{ rewind: most }, { since: undefined, rewind: most }]);
  for (const [data, request] of cases) {
    assertEquals(readHistoryRequest(data), request, JSON.stringify(data));
  }
  for (const [rewind, allowed] of [[4, 4], [5, 5], [6, 5], [most, 5]]) {
    assertEquals(readHistoryRequest({ rewind }, 5).rewind, allowed);
  }
});

Deno.test("hasGap is for a client that was there before and is not recovered", () => {
  const from = { epoch: "e", offset: 1 };
  const since = { since: from, rewind: 0 };
  assertEquals(hasGap({ recovered: false, from }, since), true);
  assertEquals(hasGap(undefined, since), true);
  assertEquals(hasGap({ recovered: true, from }, since), false);
  assertEquals(hasGap({ recovered: false, from }, { rewind: 5 }), false);
  assertEquals(hasGap({ recovered: false, from }, undefined), false);
});

Deno.test("a session remembers twice as many channels as the largest app allows", () => {
  const app = (channelsPerConnection: number) => ({
    limits: { channelsPerConnection },
  });
  assertEquals(sessionChannels([app(200)]), 400);
  assertEquals(sessionChannels([app(10), app(30), app(20)]), 60);
  assertEquals(sessionChannels([app(Infinity)]), Infinity);
});

// ---- Sessions ---------------------------------------------------------------

/** A client's connection, with the pings that it has got. */
class Connection implements Resumable {
  readonly socketId: string;
  pings = 0;
  session: Session | null = null;

  constructor(socketId: string) {
    this.socketId = socketId;
  }

  ping(): void {
    this.pings++;
  }

  dropSession(): void {
    this.session = null;
  }
}

/** What several servers share. */
class Cluster {
  readonly clock = new ManualClock();
  readonly bounds: History;
  readonly memory: MemorySessions;

  constructor(bounds: Partial<History> = {}) {
    this.bounds = { ...DEFAULT_HISTORY, ...bounds };
    this.memory = new MemorySessions(this.bounds, this.clock);
  }
}

/** A server with its sessions. */
class Server {
  readonly clock: ManualClock;
  readonly sessions: Sessions;
  /** What the store was asked for. */
  readonly calls: string[] = [];
  /** For how long connections had been there that took a session. */
  readonly agesMs: (number | undefined)[] = [];
  readonly errors: string[] = [];
  readonly cluster: Cluster;
  /** Answers the store's calls, which have been carried out; overridden by tests. */
  answer: <T>(value: T) => Awaitable<T> = (value) => value;

  constructor(cluster = new Cluster(), maxChannels = 100) {
    const { clock, bounds, memory } = cluster;
    const node: Pick<BackplaneNode, "taken"> = {
      taken: (app, id) => this.sessions.taken(app, id),
    };
    // The sessions of a backplane call nothing else.
    const own = node as BackplaneNode;
    const store: SessionStore = {
      take: (app, id, ageMs) => {
        this.calls.push("take");
        this.agesMs.push(ageMs);
        return this.answer(memory.take(own, app, id));
      },
      keep: (app, id, state, isAway) => {
        this.calls.push(isAway ? "keep away" : "keep");
        return this.answer(memory.keep(own, app, id, state, isAway));
      },
      forget: (app, id) => {
        this.calls.push("forget");
        return this.answer(memory.forget(own, app, id));
      },
    };
    this.cluster = cluster;
    this.clock = clock;
    this.sessions = new Sessions({
      ...{ store, clock, history: bounds, maxChannels },
      onCall: (call) =>
        void call.catch((error) => this.errors.push(error.message)),
    });
  }

  /** A connection that has come with the session's id. */
  connect(socketId: string, id = ID): Connection {
    const connection = new Connection(socketId);
    connection.session = this.sessions.join("a", id, connection);
    return connection;
  }

  disconnect(connection: Connection): void {
    const { session } = connection;
    if (session !== null) this.sessions.release(session, connection);
    connection.session = null;
  }
}

function at(offset: number, epoch = "e"): Position {
  return { epoch, offset };
}

/** Claims the session, which is the connection's afterwards. */
function claimed(connection: Connection): Session {
  const { session } = connection;
  assert(session !== null);
  assertEquals(session.claim(connection), undefined);
  return session;
}

/** Since when a session asks for messages of a channel; null for a new client. */
function since(session: Session, channel = "c"): Position | null {
  return session.request(channel).since ?? null;
}

/** A server with one client that is subscribed at offset 10. */
function subscribed(cluster?: Cluster) {
  const server = new Server(cluster);
  const connection = server.connect("1.1");
  const session = claimed(connection);
  session.begin("c", at(10), false);
  return { server, connection, session };
}

// ---- Acknowledgements -------------------------------------------------------

Deno.test("a session has the ids of clients that were cut before they claimed it, of as many as there are sessions", () => {
  const { sessions } = new Server(new Cluster({ sessions: 2 }));
  const cut = (id: string, socketId: string) => {
    const connection = new Connection(socketId);
    const session = sessions.join("1", id, connection);
    sessions.release(session, connection);
    return session.ids;
  };
  cut("a", "1.1");
  cut("b", "2.1");
  assertEquals(cut("b", "2.2"), ["2.2", "2.1"]);
  cut("c", "3.1");
  assertEquals(cut("a", "1.2"), ["1.2"]);
  assertEquals(cut("c", "3.2"), ["3.2", "3.1"]);
  assertEquals(sessions.size, 0);
});

Deno.test("a client that answers a ping has got what was sent before it, and no more", () => {
  const { server, connection, session } = subscribed();
  session.sent("c", 11);
  session.sent("c", 12);
  server.clock.pass(200);
  assertEquals(connection.pings, 1);
  session.sent("c", 13);
  assertEquals(since(session), at(10));
  session.acknowledge();
  assertEquals(since(session), at(12));
  server.clock.pass(200);
  session.acknowledge();
  assertEquals(since(session), at(13));
});

Deno.test("a session is pinged only while something is unacknowledged, once at a time", () => {
  const { server, connection, session } = subscribed();
  server.clock.pass(60_000);
  assertEquals(connection.pings, 0);
  session.sent("c", 11);
  server.clock.pass(199);
  assertEquals(connection.pings, 0);
  server.clock.pass(1);
  assertEquals(connection.pings, 1);
  session.sent("c", 12);
  server.clock.pass(9_000);
  assertEquals(connection.pings, 1);
  session.acknowledge();
  server.clock.pass(200);
  assertEquals(connection.pings, 2);
  session.acknowledge();
  server.clock.pass(60_000);
  assertEquals([connection.pings, server.clock.waiting], [2, 0]);
});

Deno.test("an answer that nobody asked for acknowledges nothing", () => {
  const { server, session } = subscribed();
  session.sent("c", 11);
  session.acknowledge();
  assertEquals(since(session), at(10));
  server.clock.pass(200);
  session.acknowledge();
  assertEquals(since(session), at(11));
});

Deno.test("a lost answer is not waited for, and the next one is taken for that of the ping before", () => {
  const { server, connection, session } = subscribed();
  session.sent("c", 11);
  server.clock.pass(200);
  session.sent("c", 12);
  // The answer to the first ping is lost.
  server.clock.pass(10_000);
  assertEquals(connection.pings, 2);
  session.acknowledge();
  assertEquals(since(session), at(11));
  session.sent("c", 13);
  server.clock.pass(200);
  assertEquals(connection.pings, 3);
  session.acknowledge();
  assertEquals(since(session), at(12));
});

Deno.test("a client that answers nothing is pinged every 10 seconds, ten times at most", () => {
  const { server, connection, session } = subscribed();
  session.sent("c", 11);
  server.clock.pass(200_000);
  assertEquals([connection.pings, server.clock.waiting], [10, 0]);
  assertEquals(since(session), at(10));
});

Deno.test("a client that never answers is not pinged for life after ten pings", () => {
  const { server, session } = subscribed();
  let pings = 0;
  for (let minute = 0; minute < 600; minute++) {
    server.clock.pass(60_000);
    if (session.startPing()) pings++;
  }
  assertEquals(pings, 10);
});

Deno.test("a ping for life acknowledges, too, and is not sent while another waits", () => {
  const { server, connection, session } = subscribed();
  session.sent("c", 11);
  assertEquals(session.startPing(), true);
  assertEquals(session.startPing(), false);
  server.clock.pass(200);
  assertEquals(connection.pings, 0);
  session.acknowledge();
  assertEquals(since(session), at(11));
});

Deno.test("what is sent on a channel that the client has left, or never joined, is not remembered", () => {
  const { server, session } = subscribed();
  session.sent("c", 11);
  session.sent("other", 5);
  server.clock.pass(200);
  session.sent("c", 12);
  session.end("c");
  session.acknowledge();
  assertEquals([since(session), since(session, "other")], [null, null]);
});

Deno.test("a client that has lost messages is told so again until it has answered a ping", () => {
  const { server, session } = subscribed();
  session.begin("c", at(20), true);
  // No history reaches back to that.
  assertEquals(since(session), at(-1));
  server.clock.pass(200);
  session.acknowledge();
  assertEquals(since(session), at(20));
});

Deno.test("an answer to a ping from before a new epoch acknowledges nothing of it", () => {
  const { server, session } = subscribed();
  session.sent("c", 5_000);
  server.clock.pass(200);
  // The backplane has lost all positions, and begins with small ones again.
  session.begin("c", at(3, "f"), true);
  session.acknowledge();
  assertEquals(since(session), at(-1, "f"));
  server.clock.pass(200);
  session.acknowledge();
  assertEquals(since(session), at(3, "f"));
});

Deno.test("a session remembers so many channels, and forgets the one that began first", () => {
  const server = new Server(undefined, 3);
  const session = claimed(server.connect("1.1"));
  for (const channel of ["a", "b", "c"]) session.begin(channel, at(1), false);
  session.begin("a", at(2), false);
  session.begin("d", at(1), false);
  const kept = ["a", "b", "c", "d"].map((channel) => since(session, channel));
  assertEquals(kept, [at(2), null, at(1), at(1)]);
});

// ---- Coming back ------------------------------------------------------------

Deno.test("a client that comes back asks for what it has not acknowledged, and a new channel asks for nothing", () => {
  const { server, connection, session } = subscribed();
  session.sent("c", 11);
  server.clock.pass(200);
  session.acknowledge();
  session.sent("c", 12);
  server.disconnect(connection);
  server.clock.pass(60_000);
  const back = server.connect("2.2");
  assert(back.session !== session);
  const next = claimed(back);
  assertEquals(next.request("c"), { since: at(11), rewind: 0 });
  assertEquals(next.request("new"), NO_HISTORY);
  assertEquals(next.ids, ["2.2", "1.1"]);
});

Deno.test("a session remembers ten socket ids of its client, the latest first", () => {
  const server = new Server();
  for (let i = 1; i <= 15; i++) {
    const connection = server.connect(`${i}.1`);
    const session = claimed(connection);
    session.begin("c", at(i), false);
    if (i === 15) {
      const ids = Array.from({ length: 10 }, (_, n) => `${14 - n}.1`);
      assertEquals(session.ids, ["15.1", ...ids]);
    }
    server.disconnect(connection);
  }
});

Deno.test("what was sent to an earlier connection is acknowledged by no answer of a later one", () => {
  const { server, connection, session } = subscribed();
  session.sent("c", 11);
  server.clock.pass(200);
  assertEquals(connection.pings, 1);
  // The client is back before the server knows that it was gone.
  const back = server.connect("2.2");
  claimed(back);
  assertEquals(connection.session, null);
  session.begin("c", at(10), false);
  session.acknowledge();
  assertEquals(since(session), at(10));
  assertEquals(session.ids, ["2.2", "1.1"]);
});

Deno.test("of connections that come with one session, the one that subscribes goes on with it", () => {
  const server = new Server();
  const [first, second] = [server.connect("1.1"), server.connect("2.2")];
  const session = claimed(first);
  assertEquals([session.connection, server.sessions.size], [first, 1]);
  assertEquals(session.claim(first), undefined);
  // A client may try several ways to the server, and take the later.
  claimed(second);
  assertEquals([session.connection, first.session], [second, null]);
  assertEquals(server.calls, ["take"]);
  server.disconnect(first);
  assertEquals(session.ids, ["2.2", "1.1"]);
  server.disconnect(second);
  assertEquals(server.sessions.size, 0);
});

Deno.test("a claim says for how long the connection that claims has been there", () => {
  const server = new Server();
  const first = server.connect("1.1");
  server.clock.pass(3_000);
  server.connect("2.2");
  server.clock.pass(500);
  claimed(first);
  assertEquals(server.agesMs, [3_500]);
});

Deno.test("of more than ten connections that come with one session, the first go on without it", () => {
  const server = new Server();
  const owner = server.connect("1.1");
  const session = claimed(owner);
  const others = Array.from(
    { length: 1_000 },
    (_, i) => server.connect(`${i + 2}.1`),
  );
  assertEquals(session.connection, owner);
  const holders = [owner, ...others].filter((one) => one.session !== null);
  assertEquals(holders, [owner, ...others.slice(-9)]);
  // Ten that it has, and ten that it has had.
  assertEquals(session.ids.length, 20);
  const [first] = others.slice(-9);
  claimed(first!);
  assertEquals([session.connection, owner.session], [first, null]);
  for (const connection of others) server.disconnect(connection);
  assertEquals(server.sessions.size, 0);
});

Deno.test("sessions of different ids, and of different apps, know nothing of each other", () => {
  const server = new Server();
  const session = claimed(server.connect("1.1"));
  session.begin("c", at(10), false);
  const other = claimed(server.connect("2.2", `${ID}x`));
  assertEquals(since(other), null);
  const connection = new Connection("3.3");
  const ofApp = server.sessions.join("b", ID, connection);
  assertEquals(ofApp.claim(connection), undefined);
  assertEquals(since(ofApp), null);
});

Deno.test("a channel that is not subscribed within history.ageMs of the return is a new one", () => {
  const { server, connection } = subscribed(new Cluster({ ageMs: 60_000 }));
  server.disconnect(connection);
  const session = claimed(server.connect("2.2"));
  server.clock.pass(60_000);
  assertEquals(since(session), at(10));
  server.clock.pass(1);
  assertEquals(since(session), null);
});

Deno.test("a client whose session was forgotten has lost what it asks for within 30 seconds", () => {
  const { server, connection } = subscribed(new Cluster({ ageMs: 60_000 }));
  server.disconnect(connection);
  server.clock.pass(60_001);
  const session = claimed(server.connect("2.2"));
  const nowhere = { since: { epoch: "", offset: 0 }, rewind: 0 };
  assertEquals(session.request("c"), nowhere);
  server.clock.pass(29_999);
  assertEquals(session.request("new"), nowhere);
  server.clock.pass(1);
  assertEquals(session.request("c"), NO_HISTORY);
});

Deno.test("a client that is cut before it is back on all of its channels has lost the others, too", () => {
  const { server, connection } = subscribed(new Cluster({ ageMs: 60_000 }));
  server.disconnect(connection);
  server.clock.pass(60_001);
  const back = server.connect("2.2");
  claimed(back).begin("c", at(10), true);
  server.disconnect(back);
  const again = server.connect("3.3");
  const session = claimed(again);
  const nowhere = { since: { epoch: "", offset: 0 }, rewind: 0 };
  assertEquals(session.request("d"), nowhere);
  // It has had the time to come back to all of them.
  server.clock.pass(30_000);
  assertEquals(session.request("d"), NO_HISTORY);
  server.disconnect(again);
  assertEquals(claimed(server.connect("4.4")).request("d"), NO_HISTORY);
});

// ---- The store --------------------------------------------------------------

Deno.test("a session is kept at the end of the turn in which it changes, and a second after acknowledgements", async () => {
  const { server, session } = subscribed();
  session.begin("d", at(1), false);
  assertEquals(server.calls, ["take"]);
  await turn();
  assertEquals(server.calls.splice(0), ["take", "keep"]);
  session.sent("c", 11);
  server.clock.pass(200);
  session.acknowledge();
  server.clock.pass(999);
  assertEquals(server.calls, []);
  server.clock.pass(1);
  assertEquals(server.calls.splice(0), ["keep"]);
  session.end("d");
  await turn();
  assertEquals(server.calls, ["keep"]);
});

Deno.test("a session whose client has left is kept, unless there is nothing to remember", async () => {
  const { server, connection, session } = subscribed();
  server.disconnect(connection);
  await turn();
  assertEquals(server.calls.splice(0), ["take", "keep away"]);
  assertEquals(server.cluster.memory.away, 1);
  const back = server.connect("2.2");
  claimed(back).end("c");
  server.disconnect(back);
  await turn();
  assertEquals(server.calls.splice(0), ["take", "forget"]);
  assertEquals(server.cluster.memory.away, 0);
  // A connection that has not subscribed has not claimed it.
  server.disconnect(server.connect("3.3"));
  assertEquals([server.calls, server.clock.waiting], [[], 0]);
  assertEquals(session.connection, null);
});

Deno.test("a store that fails to keep is reported, and the session goes on", async () => {
  const { server, connection, session } = subscribed();
  server.answer = () => Promise.reject(new Error("The store is down"));
  await turn();
  assertEquals(server.errors.splice(0), ["The store is down"]);
  server.answer = () => {
    throw new Error("The store throws");
  };
  session.begin("d", at(1), false);
  await turn();
  assertEquals(server.errors.splice(0), ["The store throws"]);
  server.disconnect(connection);
  await turn();
  assertEquals(server.errors, ["The store throws"]);
});

Deno.test("a client goes on with its session on another server, and the first lets go of it", () => {
  const cluster = new Cluster();
  const { server, connection, session } = subscribed(cluster);
  session.sent("c", 11);
  server.clock.pass(200);
  session.acknowledge();
  server.clock.pass(1_000);
  const other = new Server(cluster);
  const next = claimed(other.connect("2.2"));
  assertEquals(since(next), at(11));
  assertEquals(next.ids, ["2.2", "1.1"]);
  assertEquals([connection.session, server.sessions.size], [null, 0]);
  // Nothing of the first server reaches the store any more.
  server.calls.length = 0;
  session.sent("c", 12);
  session.begin("d", at(1), false);
  server.clock.pass(5_000);
  assertEquals(session.keep(true), undefined);
  assertEquals([server.calls, connection.pings], [[], 1]);
});

Deno.test("taken of a session that is not here does nothing", () => {
  const server = new Server();
  server.sessions.taken("a", ID);
  assertEquals(server.sessions.size, 0);
});

// ---- Slow stores ------------------------------------------------------------

/** A server whose store answers by hand. */
function slowServer(cluster = new Cluster()) {
  const server = new Server(cluster);
  const answers: (() => void)[] = [];
  server.answer = (value) =>
    new Promise((resolve) => answers.push(() => resolve(value)));
  return {
    server,
    /** Answers all calls so far. */
    async answer(): Promise<void> {
      for (const run of answers.splice(0)) run();
      await turn();
    },
  };
}

/** Claims a session, which takes its time. */
function claim({ session }: Connection, connection: Connection): Promise<void> {
  const claiming = session?.claim(connection);
  assert(claiming instanceof Promise);
  return claiming;
}

/** Whether the store has the session, owned or not. */
function isKnown({ memory }: Cluster): boolean {
  const probe: Pick<BackplaneNode, "taken"> = { taken: () => {} };
  return memory.take(probe as BackplaneNode, "a", ID) !== null;
}

Deno.test("a claim waits for the store, which is asked once", async () => {
  const { server, answer } = slowServer();
  const [first, second] = [server.connect("1.1"), server.connect("2.2")];
  const session = first.session;
  const claims = [
    claim(first, first),
    claim(first, first),
    claim(second, second),
  ];
  assertEquals([server.calls, session?.connection], [["take"], null]);
  await answer();
  await Promise.all(claims);
  assertEquals(session?.connection, second);
  assertEquals(first.session, null);
});

Deno.test("a client that leaves before the store has answered leaves nothing behind", async () => {
  const { server, answer } = slowServer();
  const connection = server.connect("1.1");
  const claiming = claim(connection, connection);
  const { session } = connection;
  server.disconnect(connection);
  await answer();
  await claiming;
  assertEquals(server.calls, ["take", "forget"]);
  assertEquals(session?.connection, null);
  assertEquals([server.sessions.size, isKnown(server.cluster)], [0, false]);
});

Deno.test("of two connections the one that is left goes on when the store answers", async () => {
  const { server, answer } = slowServer();
  const [first, second] = [server.connect("1.1"), server.connect("2.2")];
  const claims = [claim(first, first), claim(second, second)];
  const { session } = second;
  server.disconnect(first);
  await answer();
  await Promise.all(claims);
  assertEquals([session?.connection, server.calls], [second, ["take"]]);
});

Deno.test("a session that another server takes before the store has answered is that server's", async () => {
  const cluster = new Cluster();
  const { server, answer } = slowServer(cluster);
  const connection = server.connect("1.1");
  const claiming = claim(connection, connection);
  const other = new Server(cluster);
  const next = claimed(other.connect("2.2"));
  next.begin("c", at(5), false);
  assertEquals(connection.session, null);
  await answer();
  await claiming;
  await answer();
  assertEquals(server.sessions.size, 0);
  // It is still the other's: what that keeps is found again.
  await turn();
  const third = claimed(new Server(cluster).connect("3.3"));
  assertEquals(since(third), at(5));
});

Deno.test("a store that fails to take rejects the claim, and the next claim asks again", async () => {
  const server = new Server();
  const connection = server.connect("1.1");
  const { session } = connection;
  const answers: ((value: never) => Promise<never>)[] = [
    () => Promise.reject(new Error("The store is down")),
    () => {
      throw new Error("The store throws");
    },
  ];
  for (const [i, message] of ["is down", "throws"].entries()) {
    server.answer = answers[i]! as typeof server.answer;
    await assertRejects(() => claim(connection, connection), Error, message);
    assertEquals(session?.connection, null);
  }
  server.answer = (value) => value;
  claimed(connection);
  assertEquals([session?.connection, server.errors], [connection, []]);
  assertEquals(server.calls, ["take", "take", "take"]);
});

Deno.test("a client that comes back is a new one until the store has answered", async () => {
  const { server, connection } = subscribed();
  server.disconnect(connection);
  let resolve: ((value: never) => void) | undefined;
  server.answer = (value) =>
    new Promise((settle) => resolve = () => settle(value));
  const back = server.connect("2.2");
  const claiming = claim(back, back);
  const session = back.session!;
  assertEquals(session.request("c"), NO_HISTORY);
  resolve?.(undefined as never);
  await claiming;
  assertEquals(since(session), at(10));
});

Deno.test("a client that is back before the store has answered, and leaves without subscribing, is away", async () => {
  const { server, connection } = subscribed();
  server.disconnect(connection);
  const { memory } = server.cluster;
  assertEquals(memory.away, 1);
  const answers: (() => void)[] = [];
  server.answer = (value) =>
    new Promise((resolve) => answers.push(() => resolve(value)));
  const first = server.connect("2.2");
  const claiming = claim(first, first);
  server.disconnect(first);
  const second = server.connect("3.3");
  answers[0]?.();
  await claiming;
  server.disconnect(second);
  assertEquals([memory.away, server.sessions.size], [1, 0]);
  server.answer = (value) => value;
  assertEquals(since(claimed(server.connect("4.4"))), at(10));
});

Deno.test("a client that is back before the store has answered, and subscribes, keeps its session", async () => {
  const { server, answer } = slowServer();
  const first = server.connect("1.1");
  const claims = [claim(first, first)];
  server.disconnect(first);
  const second = server.connect("2.2");
  claims.push(claim(second, second));
  await answer();
  await Promise.all(claims);
  assertEquals(server.calls, ["take", "take"]);
  const { session } = second;
  assertEquals(session?.connection, second);
  session?.begin("c", at(10), false);
  await turn();
  server.disconnect(second);
  assertEquals(server.cluster.memory.away, 1);
});
