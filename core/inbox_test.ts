import { assert, assertEquals } from "@std/assert";
import { ManualClock, turn } from "../tests/support/clock.ts";
import { PostponedQueue } from "./postponed.ts";
import { Inbox } from "./inbox.ts";
import { DEFAULT_LIMITS, type Limits } from "./limits.ts";
import { Traffic } from "./meter.ts";
import { CLOSE, type Close, type Frame } from "./protocol.ts";
import type { Awaitable } from "./time.ts";

const tooFast = (framesPerSecond: number) =>
  `Frames come too fast: the limit framesPerSecond is ${framesPerSecond}`;

/** A client's inbox, and what has become of the frames. */
class Reader {
  readonly clock = new ManualClock();
  readonly app: { id: string; limits: Limits; traffic: Traffic };
  readonly inbox: Inbox;
  readonly isOpen = true;
  readonly postponed: PostponedQueue;
  droppedFrames = 0;
  /** The events that were served, the errors and the closes, in order. */
  readonly log: string[] = [];
  readonly hooks = {
    fail: (error: unknown, during: string, appId: string) => {
      this.log.push(`${(error as Error).message} while ${during} of ${appId}`);
    },
  };
  /** What serving a frame does; overridden by tests. */
  serve: (frame: Frame) => Awaitable<void> = () => {};

  constructor(limits: Partial<Limits> = {}) {
    this.app = {
      id: "a",
      limits: { ...DEFAULT_LIMITS, ...limits },
      traffic: new Traffic(),
    };
    this.postponed = new PostponedQueue(this.clock);
    this.inbox = new Inbox(this, this);
  }

  dispatch(frame: Frame): Awaitable<void> {
    this.log.push(frame.event);
    return this.serve(frame);
  }

  sendError(message: string, channel?: unknown): void {
    const where = channel === undefined ? "" : ` on ${channel}`;
    this.log.push(`error: ${message}${where}`);
  }

  close({ code }: Close): void {
    this.log.push(`close ${code}`);
    this.inbox.clear();
  }

  /** Sends an event of each name. */
  send(...events: string[]): this {
    for (const event of events) this.inbox.receive(JSON.stringify({ event }));
    return this;
  }

  /** Takes what has happened since the last look. */
  take(): string[] {
    return this.log.splice(0);
  }
}

/** Answers frames by hand, in the order in which they are served. */
function byHand(reader: Reader) {
  const pending: PromiseWithResolvers<void>[] = [];
  reader.serve = () => {
    const answer = Promise.withResolvers<void>();
    pending.push(answer);
    return answer.promise;
  };
  return {
    async answer() {
      pending.shift()?.resolve();
      await turn();
    },
    async fail(error: Error) {
      pending.shift()?.reject(error);
      await turn();
    },
    get waiting() {
      return pending.length;
    },
  };
}

// ---- Order ------------------------------------------------------------------

Deno.test("Inbox serves frames in the same turn, while each is served at once", () => {
  const reader = new Reader().send("a", "b");
  assertEquals(reader.take(), ["a", "b"]);
});

Deno.test("Inbox hands on a frame's event, channel and data", () => {
  const reader = new Reader();
  const frames: Frame[] = [];
  reader.serve = (frame) => void frames.push(frame);
  reader.inbox.receive('{"event":"a","channel":"b","data":{"c":1},"d":2}');
  assertEquals(frames, [{ event: "a", channel: "b", data: { c: 1 } }]);
});

Deno.test("Inbox serves one frame at a time, in order, behind one that takes its time", async () => {
  const reader = new Reader();
  const hand = byHand(reader);
  reader.send("a", "b", "c");
  assertEquals(reader.take(), ["a"]);
  await hand.answer();
  assertEquals(reader.take(), ["b"]);
  reader.send("d");
  await hand.answer();
  await hand.answer();
  assertEquals(reader.take(), ["c", "d"]);
  await hand.answer();
  // Nothing waits any more: the next is served in the same turn.
  reader.serve = () => {};
  assertEquals(reader.send("e", "f").take(), ["e", "f"]);
});

Deno.test("Inbox answers a malformed frame in its turn, behind one that takes its time", async () => {
  const reader = new Reader();
  const hand = byHand(reader);
  reader.send("a");
  reader.inbox.receive("{");
  reader.inbox.receive("[]");
  reader.inbox.receive("{}");
  reader.send("b");
  assertEquals(reader.take(), ["a"]);
  await hand.answer();
  assertEquals(reader.take(), [
    "error: Frame is not a JSON object",
    "error: Frame is not a JSON object",
    "error: Frame has no event that is a string",
    "b",
  ]);
});

Deno.test("clear drops frames that wait, and the frame that is being served ends", async () => {
  const reader = new Reader();
  const hand = byHand(reader);
  reader.send("a", "b", "c");
  reader.inbox.clear();
  await hand.answer();
  assertEquals([reader.take(), hand.waiting], [["a"], 0]);
  reader.send("d");
  assertEquals(reader.take(), ["d"]);
});

// ---- Failures ---------------------------------------------------------------

Deno.test("Inbox answers an exception with an error on the frame's channel, reports it and goes on", async () => {
  const reader = new Reader();
  reader.serve = ({ event }) => {
    if (event === "throw") throw new Error("thrown");
    if (event === "reject") return Promise.reject(new Error("rejected"));
  };
  reader.inbox.receive('{"event":"throw","channel":"c"}');
  reader.send("reject", "c");
  await turn();
  assertEquals(reader.take(), [
    "throw",
    "thrown while serving a frame of a",
    "error: The server could not serve the frame on c",
    "reject",
    "rejected while serving a frame of a",
    "error: The server could not serve the frame",
    "c",
  ]);
});

Deno.test("Inbox goes on after a frame that waited has failed", async () => {
  const reader = new Reader();
  const hand = byHand(reader);
  reader.send("a", "b", "c");
  await hand.answer();
  await hand.fail(new Error("late"));
  assertEquals(reader.take(), [
    "a",
    "b",
    "late while serving a frame of a",
    "error: The server could not serve the frame",
    "c",
  ]);
});

// ---- Size -------------------------------------------------------------------

Deno.test("Inbox drops a frame above frameBytes unread, with an error", () => {
  const frame = (bytes: number) =>
    JSON.stringify({ event: "ü" }).padEnd(bytes - 1);
  const reader = new Reader({ frameBytes: 100 });
  reader.inbox.receive(frame(100));
  assertEquals([reader.take(), reader.droppedFrames], [["ü"], 0]);
  reader.inbox.receive(frame(101));
  const error = "error: Frame is too large: the limit frameBytes is 100";
  assertEquals([reader.take(), reader.droppedFrames], [[error], 1]);
  const free = new Reader({ frameBytes: Infinity });
  free.inbox.receive(frame(1_000_000));
  assertEquals(free.take(), ["ü"]);
});

Deno.test("Inbox closes a client whose frames wait with more units than it may leave unread", async () => {
  const frame = JSON.stringify({ event: "a" }).padEnd(1_000);
  const reader = new Reader({ bufferedBytes: 10_500 });
  const hand = byHand(reader);
  // The first is being served, and ten wait.
  for (let i = 0; i < 11; i++) reader.inbox.receive(frame);
  assertEquals(reader.take(), ["a"]);
  reader.inbox.receive(frame);
  assertEquals(reader.take(), [`close ${CLOSE.Flood.code}`]);
  await hand.answer();
  assertEquals([reader.take(), hand.waiting], [[], 0]);
});

Deno.test("Inbox counts frames that wait, and none that was served", async () => {
  const frame = JSON.stringify({ event: "a" }).padEnd(1_000);
  const reader = new Reader({ bufferedBytes: 2_500, framesBurst: 100 });
  const hand = byHand(reader);
  for (let i = 0; i < 50; i++) {
    reader.inbox.receive(frame);
    if (i > 1) await hand.answer();
  }
  assertEquals(new Set(reader.take()), new Set(["a"]));
});

// ---- Rate -------------------------------------------------------------------

Deno.test("Inbox serves framesBurst frames at once, and framesPerSecond after that", () => {
  const reader = new Reader({ framesBurst: 3, framesPerSecond: 2 });
  reader.send("a", "b", "c", "d");
  assertEquals(reader.take(), ["a", "b", "c", `error: ${tooFast(2)}`]);
  assertEquals(reader.droppedFrames, 1);
  reader.clock.pass(500);
  assertEquals(reader.send("e", "f").take(), ["e"]);
  reader.clock.pass(60_000);
  assertEquals(reader.send("g", "h", "i").take(), ["g", "h", "i"]);
  const free = new Reader({ framesBurst: 1, framesPerSecond: Infinity });
  for (let i = 0; i < 1_000; i++) free.send("a");
  assertEquals(free.take().length, 1_000);
});

Deno.test("Inbox says once a second that frames come too fast", () => {
  const reader = new Reader({ framesBurst: 100, framesPerSecond: 1 });
  for (let i = 0; i < 100; i++) reader.send("a");
  reader.take();
  const error = `error: ${tooFast(1)}`;
  assertEquals(reader.send("b", "c").take(), [error]);
  reader.clock.pass(999);
  assertEquals(reader.send("d").take(), []);
  reader.clock.pass(1);
  // The bucket has one token again.
  assertEquals(reader.send("e", "f", "g").take(), ["e", error]);
  assertEquals(reader.droppedFrames, 5);
});

Deno.test("Inbox closes a client of which framesBurst frames have been dropped already", () => {
  const reader = new Reader({ framesBurst: 3, framesPerSecond: 1 });
  reader.send("a", "b", "c", "d", "e", "f");
  assertEquals(reader.take(), ["a", "b", "c", `error: ${tooFast(1)}`]);
  assertEquals(reader.send("g").take(), [`close ${CLOSE.Flood.code}`]);
  assertEquals(reader.droppedFrames, 4);
});

Deno.test("Inbox forgives dropped frames at the same rate", () => {
  const reader = new Reader({ framesBurst: 3, framesPerSecond: 1 });
  reader.send("a", "b", "c", "d", "e", "f");
  reader.clock.pass(3_000);
  reader.send("a", "b", "c", "d", "e", "f");
  assert(!reader.take().some((line) => line.startsWith("close")));
});

Deno.test("Inbox judges the rate before the size, and the size before what waits", async () => {
  const reader = new Reader({
    framesBurst: 2,
    framesPerSecond: 1,
    frameBytes: 20,
  });
  const hand = byHand(reader);
  reader.send("a");
  const large = JSON.stringify({ event: "large" }).padEnd(21);
  reader.inbox.receive(large);
  assertEquals(reader.take(), [
    "a",
    "error: Frame is too large: the limit frameBytes is 20",
  ]);
  reader.inbox.receive(large);
  assertEquals(reader.take(), [`error: ${tooFast(1)}`]);
  await hand.answer();
});

Deno.test("Inbox bounds how many frames wait, however small they are", () => {
  const reader = new Reader({
    framesPerSecond: Infinity,
    bufferedBytes: 10_000,
  });
  byHand(reader);
  reader.send("a");
  for (let i = 0; i < 10_000; i++) reader.inbox.receive("");
  assertEquals(reader.take().slice(0, 2), ["a", `close ${CLOSE.Flood.code}`]);
});

Deno.test("Inbox counts from zero after clear", () => {
  const frame = JSON.stringify({ event: "a" }).padEnd(1_000);
  const reader = new Reader({ bufferedBytes: 2_500 });
  byHand(reader);
  reader.send("a");
  for (let i = 0; i < 5; i++) {
    reader.inbox.receive(frame);
    reader.inbox.receive(frame);
    reader.inbox.clear();
  }
  assertEquals(reader.take(), ["a"]);
});
