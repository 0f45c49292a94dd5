import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../tests/support/clock.ts";
import type {
  Backplane,
  LoggedMessage,
  Message,
  PageRequest,
} from "./backplane.ts";
import { Delivery } from "./deliveries.ts";
import { DEFAULT_LIMITS } from "./limits.ts";
import { Traffic } from "./meter.ts";
import { Outbox } from "./outbox.ts";
import type { Awaitable } from "./time.ts";
import { CatchUpBudget, OutboxSchedule } from "./visits.ts";

/** What all clients that catch up may be sent in a turn. */
const FRAMES_A_TURN = 750;
/** The last frame may be larger than what is left. */
const MOST = FRAMES_A_TURN + 1;

/** Many clients of one server, which read in each turn all that they got before. */
class Crowd {
  readonly clock = new ManualClock();
  readonly schedule = new OutboxSchedule(this.clock);
  readonly hooks = {
    fail(error: unknown) {
      throw error;
    },
  };
  readonly #app = {
    id: "a",
    limits: DEFAULT_LIMITS,
    traffic: new Traffic(),
  };
  readonly #log: LoggedMessage[] = [];
  readonly #transports: { bufferedAmount: number }[] = [];
  #frames = 0;

  ask<T>(call: (backplane: Backplane) => Awaitable<T>): Awaitable<T> {
    const read = (_: string, __: string, request: PageRequest) => {
      const { after, until, events } = request;
      const first = after.offset;
      const messages = this.#log.slice(first, Math.min(until, first + events));
      return { messages, reaches: messages.at(-1)?.offset ?? until };
    };
    // An outbox only reads.
    return call({ read } as Partial<Backplane> as Backplane);
  }

  /** Logs so many messages more, and returns the last of them. */
  log(count: number, bytes = 0): Delivery {
    for (let i = 0; i < count; i++) {
      const offset = this.#log.length + 1;
      this.#log.push({ message: logged(offset, bytes), offset });
    }
    const { message, offset } = this.#log.at(-1)!;
    return new Delivery("c", message, offset, "e");
  }

  /** A client, and the frames that it has got. */
  join({ batch = false }: { batch?: boolean } = {}) {
    const frames: string[] = [];
    const transport = {
      bufferedAmount: 0,
      send: (frame: string) => {
        frames.push(frame);
        transport.bufferedAmount += frame.length;
        this.#frames++;
      },
      close() {},
    };
    this.#transports.push(transport);
    const owner = {
      ...{ socketId: `1.${this.#frames}`, app: this.#app },
      close({ message }: { message: string }) {
        throw new Error(message);
      },
      giveUp({ message }: { message: string }) {
        throw new Error(message);
      },
    };
    const outbox = new Outbox(transport, this, owner, {
      ...{ batch, recover: false, formerIds: [] },
    });
    const got = () =>
      frames.flatMap((frame) => JSON.parse(frame)).map(({ event }) =>
        Number(event)
      );
    return { outbox, transport, frames, got };
  }

  /** So many clients, which all get a replay of the whole log. */
  returning(count: number, options?: { batch: boolean }) {
    return Array.from({ length: count }, () => {
      const client = this.join(options);
      client.outbox.replay("c", { epoch: "e", offset: 0 }, this.#log.length);
      return client;
    });
  }

  /** Clients that get no replay; the function sends 5,000 frames to them. */
  present(): () => void {
    const clients = Array.from({ length: 100 }, () => this.join());
    return () => {
      for (let i = 0; i < 50; i++) {
        for (const { outbox } of clients) outbox.send("{}");
      }
    };
  }

  /** How many frames clients have got since the last call. */
  sent(): number {
    const frames = this.#frames;
    this.#frames = 0;
    return frames;
  }

  /** Lets a turn of the event loop pass. */
  turn(): void {
    for (const transport of this.#transports) transport.bufferedAmount = 0;
    this.clock.pass(1);
  }

  /** Lets turns pass until nothing waits; returns the frames of each. */
  turns(): number[] {
    const list = [];
    while (this.clock.waiting > 0) {
      this.turn();
      list.push(this.sent());
    }
    return list;
  }
}

/** A message whose event is its offset. */
function logged(offset: number, bytes: number): Message {
  const data = "d".repeat(bytes);
  return { event: `${offset}`, data, logged: true };
}

function range(to: number): number[] {
  return Array.from({ length: to }, (_, i) => i + 1);
}

const BATCH = { batch: true };
const BOTH = '[{"event":"1"},{"event":"2"}]';

// ---- Many clients that return -----------------------------------------------

Deno.test("clients that return together are sent 750 frames in a turn, and all get all in order", () => {
  const crowd = new Crowd();
  crowd.log(300);
  const clients = crowd.returning(200);
  const first = crowd.sent();
  assert(first <= MOST, `${first} frames where they come`);
  // They also get what comes meanwhile, after what they have missed.
  const live = crowd.log(1);
  for (const { outbox } of clients) outbox.deliver(live);
  assert(crowd.sent() <= MOST);
  const turns = crowd.turns();
  assert(Math.max(...turns) <= MOST, `turns of ${turns} frames`);
  for (const { got } of clients) assertEquals(got(), range(301));
  // Turns are not wasted either.
  assert(turns.length < 2 * 200 * 301 / FRAMES_A_TURN, `${turns.length} turns`);
});

Deno.test("clients that return together take turns: nobody waits for another's whole replay", () => {
  const crowd = new Crowd();
  crowd.log(1_000);
  const clients = crowd.returning(50);
  // Each has been visited when these turns are over, and nobody has all.
  for (let turn = 0; turn < 10; turn++) crowd.turn();
  const counts = clients.map(({ frames }) => frames.length);
  assert(Math.min(...counts) > 0, `${counts}`);
  assert(Math.max(...counts) < 1_000, `${counts}`);
});

Deno.test("of batches, which are larger than other frames, clients that return are sent fewer in a turn", () => {
  const crowd = new Crowd();
  crowd.log(300, 1_000);
  const clients = crowd.returning(200, { batch: true });
  const bytes = () => {
    let sum = 0;
    for (const { frames } of clients) {
      for (const frame of frames) sum += frame.length;
    }
    return sum;
  };
  let before = 0;
  for (let turn = 0; turn < 20; turn++) {
    const sum = bytes();
    // 750 frames' worth of 2 KiB, and one batch more.
    assert(sum - before <= FRAMES_A_TURN * 2_048 + 100_000, `${sum - before}`);
    before = sum;
    crowd.turn();
  }
  assert(before > 0);
});

Deno.test("a client that is there is served in the same turn, however many return", () => {
  const crowd = new Crowd();
  crowd.log(300);
  const present = crowd.join(), slow = crowd.join();
  // The slow one leaves so much unread that frames wait for it.
  slow.transport.bufferedAmount = 100_000;
  for (let i = 0; i < 2; i++) slow.outbox.send('{"event":"1"}');
  assertEquals(slow.frames.length, 1);
  crowd.returning(200);
  present.outbox.send('{"event":"1"}');
  assertEquals(present.frames.length, 1);
  crowd.turn();
  assertEquals(slow.frames.length, 2);
});

Deno.test("a client that returns alone gets what it has missed in the turn in which it returns", () => {
  const crowd = new Crowd();
  crowd.log(60);
  const clients = [];
  // One in each turn, for so long that all together were too many for one.
  for (let i = 0; i < 50; i++) {
    clients.push(...crowd.returning(1));
    crowd.turn();
  }
  for (const { got } of clients) assertEquals(got(), range(60));
});

Deno.test("where others are sent more than 750 frames in a turn, clients that return are sent as many", () => {
  const crowd = new Crowd();
  crowd.log(1_000);
  crowd.returning(200);
  const sendOthers = crowd.present();
  crowd.turn();
  sendOthers();
  crowd.sent();
  crowd.turn();
  const busy = crowd.sent();
  assert(busy > 4_500 && busy < 5_500, `${busy} frames`);
  crowd.turn();
  assert(crowd.sent() <= MOST);
});

Deno.test("what others were sent long ago does not count as this turn's", () => {
  const crowd = new Crowd();
  crowd.log(1_000);
  crowd.returning(1);
  const sendOthers = crowd.present();
  crowd.turns();
  sendOthers();
  crowd.clock.pass(60_000);
  crowd.sent();
  crowd.returning(200);
  assert(crowd.sent() <= MOST);
  assert(Math.max(...crowd.turns()) <= MOST);
});

// ---- Many clients with batches ----------------------------------------------

/** Sends frames of these numbers to all clients, as a channel does. */
function sendAll(clients: ReturnType<Crowd["join"]>[], ...events: number[]) {
  for (const event of events) {
    const frame = JSON.stringify({ event: `${event}` });
    for (const { outbox } of clients) outbox.send(frame);
  }
}

/** Lets so many turns pass; returns the frames of each. */
async function flushed(crowd: Crowd, turns: number): Promise<number[]> {
  const list = [];
  for (let i = 0; i < turns; i++) {
    await new Promise((resolve) => setImmediate(resolve));
    list.push(crowd.sent());
  }
  return list;
}

Deno.test("many clients get their batches in four turns, in equal parts", async () => {
  const crowd = new Crowd();
  const clients = Array.from({ length: 1_000 }, () => crowd.join(BATCH));
  sendAll(clients, 1, 2);
  assertEquals(await flushed(crowd, 6), [250, 250, 250, 250, 0, 0]);
  for (const { frames } of clients) assertEquals(frames, [BOTH]);
});

Deno.test("up to 64 clients get their batches in one turn, and no part is smaller", async () => {
  const crowd = new Crowd();
  const clients = Array.from({ length: 65 }, () => crowd.join(BATCH));
  sendAll(clients.slice(1), 1, 2);
  assertEquals(await flushed(crowd, 2), [64, 0]);
  sendAll(clients, 1, 2);
  assertEquals(await flushed(crowd, 3), [64, 1, 0]);
});

Deno.test("a message joins the batches that still wait: 16 messages in 4 turns take 7 frames a client, not 16", async () => {
  const crowd = new Crowd();
  const clients = Array.from({ length: 400 }, () => crowd.join(BATCH));
  let frames = 0;
  for (const event of range(16)) {
    sendAll(clients, event);
    for (const sent of await flushed(crowd, 1)) frames += sent;
  }
  for (const sent of await flushed(crowd, 4)) frames += sent;
  assertEquals(crowd.sent(), 0);
  for (const { got } of clients) assertEquals(got(), range(16));
  // In each of 16 turns a quarter of the clients, and then those that are left.
  assertEquals(frames, 16 * 100 + 300);
});

Deno.test("clients that are sent more and more do not keep others waiting for a fifth turn", async () => {
  const crowd = new Crowd();
  const clients = Array.from({ length: 400 }, () => crowd.join(BATCH));
  const [busy, others] = [clients.slice(0, 100), clients.slice(100)];
  sendAll(clients, 0);
  for (const event of range(3)) {
    await flushed(crowd, 1);
    sendAll(busy, event);
  }
  await flushed(crowd, 1);
  for (const { got } of others) assertEquals(got(), [0]);
});

Deno.test("a client that is gone takes no part", async () => {
  const crowd = new Crowd();
  const clients = Array.from({ length: 256 }, () => crowd.join(BATCH));
  sendAll(clients, 1, 2);
  assertEquals(await flushed(crowd, 1), [64]);
  // Of 192 that wait, half go.
  for (const { outbox } of clients.slice(128, 224)) outbox.close();
  assertEquals(await flushed(crowd, 3), [64, 32, 0]);
});

// ---- The budget -------------------------------------------------------------

Deno.test("a turn that has taken too long leaves nothing for clients that come next", () => {
  const clock = new ManualClock();
  const budget = new CatchUpBudget(clock);
  budget.begin();
  budget.sent(100, true);
  assertEquals([budget.isReached(), budget.isSpent], [false, false]);
  clock.pass(20);
  assertEquals(budget.isSpent, false);
  assertEquals([budget.isReached(), budget.isSpent], [true, true]);
  budget.begin();
  assertEquals([budget.isReached(), budget.isSpent], [false, false]);
});
