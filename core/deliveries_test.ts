import {
  assert,
  assertEquals,
  assertNotEquals,
  assertStrictEquals,
} from "@std/assert";
import type { LoggedMessage, Message } from "./backplane.ts";
import {
  Delivery,
  deliveryOf,
  EMPTY_BATCH,
  type FrameBatch,
} from "./deliveries.ts";

/** A message that counts how often its data is read, and so encoded. */
function countedMessage(fields: Partial<Message> = {}) {
  let reads = 0;
  const message: Message = {
    event: "a",
    logged: true,
    ...fields,
    get data() {
      reads++;
      return "{}";
    },
  };
  return { message, reads: () => reads };
}

// ---- Deliveries -------------------------------------------------------------

Deno.test("a Delivery is the frame of its message, encoded once for all clients", () => {
  const { message, reads } = countedMessage();
  const delivery = new Delivery("news", message, 7);
  assertEquals(reads(), 0);
  const frames = [delivery.frame, delivery.frame, delivery.positioned];
  assertEquals(frames[0], '{"event":"a","channel":"news","data":"{}"}');
  assertStrictEquals(frames[0], frames[1]);
  assertEquals(reads(), 1);
});

Deno.test("a Delivery for a client that gets positions has its offset, where the history keeps it", () => {
  const logged = new Delivery("news", { event: "a", logged: true }, 7);
  assertEquals(logged.positioned, '{"event":"a","channel":"news","offset":7}');
  const event = { event: "client-a", data: '"}"', userId: "x", logged: true };
  assertEquals(
    new Delivery("presence-a", event, 12).positioned,
    '{"event":"client-a","channel":"presence-a","data":"\\"}\\"","user_id":"x","offset":12}',
  );
  const unlogged = new Delivery("news", { event: "a" }, 7);
  assertEquals(unlogged.positioned, unlogged.frame);
});

Deno.test("a Delivery says what the server has to know of it", () => {
  const plain = new Delivery("news", { event: "a" }, 7);
  const { isLogged, control, exceptSocketId } = plain;
  assertEquals([isLogged, control, exceptSocketId], [false, undefined, ""]);
  const message = { event: "a", exceptSocketId: "1.2", logged: true };
  const logged = new Delivery("news", message, 7);
  assertEquals([logged.isLogged, logged.exceptSocketId], [true, "1.2"]);
  const own = { event: "online", control: "online" } as const;
  assertEquals(new Delivery("#watchers-of-7", own, 1).control, "online");
});

Deno.test("a message of the history is encoded once for all clients that have missed it", () => {
  const { message, reads } = countedMessage();
  const logged: LoggedMessage = { message, offset: 7 };
  const delivery = deliveryOf("news", logged);
  assertEquals([delivery.channel, delivery.offset], ["news", 7]);
  assertEquals(delivery.frame, '{"event":"a","channel":"news","data":"{}"}');
  assertEquals(reads(), 1);
  assertStrictEquals(deliveryOf("news", logged), delivery);
  assertEquals(deliveryOf("news", logged).positioned, delivery.positioned);
  assertEquals(reads(), 1);
  // The same message at another place is another delivery.
  assertNotEquals(deliveryOf("news", { message, offset: 8 }), delivery);
});

// ---- Batches ----------------------------------------------------------------

/** The batch of some frames. */
function batchOf(...frames: string[]): FrameBatch {
  return frames.reduce((batch, frame) => batch.with(frame), EMPTY_BATCH);
}

Deno.test("a batch of one frame is that frame, and a batch of several is an array of them", () => {
  assertEquals(batchOf('{"event":"a"}').frame, '{"event":"a"}');
  assertEquals(
    batchOf('{"event":"a"}', '{"event":"b"}', '{"event":"a"}').frame,
    '[{"event":"a"},{"event":"b"},{"event":"a"}]',
  );
  EMPTY_BATCH.forget();
});

Deno.test("a batch counts the units of its frames and the commas between them", () => {
  assertEquals(EMPTY_BATCH.units, 0);
  assertEquals(batchOf("12").units, 2);
  assertEquals(batchOf("12", "345").units, 6);
  EMPTY_BATCH.forget();
});

Deno.test("clients that get the same frames share a batch and its text", () => {
  const frames = ['{"event":"a"}', '{"event":"b"}'];
  const first = batchOf(...frames);
  assertStrictEquals(batchOf(...frames), first);
  // Equal frames that were encoded apart are the same, too.
  assertStrictEquals(batchOf(...frames.map((frame) => `${frame}`)), first);
  assertStrictEquals(batchOf(frames[0]!), batchOf(frames[0]!));
  const other = batchOf(frames[0]!, '{"event":"c"}');
  assertNotEquals(other.frame, first.frame);
  EMPTY_BATCH.forget();
});

Deno.test("clients of two channels do not get each other's frames", () => {
  // In the order in which a server adds them: turn and turn about.
  const a = batchOf("a1");
  const b = batchOf("b1");
  const a2 = a.with("a2");
  const b2 = b.with("b2");
  assertEquals([a2.frame, b2.frame], ["[a1,a2]", "[b1,b2]"]);
  assertEquals([a.frame, b.frame], ["a1", "b1"]);
  EMPTY_BATCH.forget();
});

Deno.test("a batch that was forgotten is made again", () => {
  const first = batchOf("a");
  EMPTY_BATCH.forget();
  const second = batchOf("a");
  assert(first !== second);
  assertEquals(first.frame, second.frame);
  EMPTY_BATCH.forget();
});
