import { assert, assertEquals, assertFalse, assertRejects } from "@std/assert";
import { ManualClock, turn } from "../tests/support/clock.ts";
import {
  afterThisTurn,
  all,
  attempt,
  chain,
  CountThrottle,
  deferred,
  delay,
  Later,
  SYSTEM_CLOCK,
  type Ticking,
  TickWheel,
  TimeLimit,
  TokenBucket,
  withinMs,
} from "./time.ts";

// ---- At once or later -------------------------------------------------------

Deno.test("chain goes on in the same turn with a value, and later with a promise", async () => {
  assertEquals(chain(1, (n) => n + 1), 2);
  const next = chain(1, (n) => Promise.resolve(n + 1));
  assert(next instanceof Promise);
  assertEquals(await next, 2);
  const later = chain(Promise.resolve(1), (n) => n + 1);
  assert(later instanceof Promise);
  assertEquals(await later, 2);
});

Deno.test("chain passes a rejection on, and does not go on", async () => {
  const fault = Promise.reject(new Error("late"));
  let hasGoneOn = false;
  const chained = chain(fault, () => {
    hasGoneOn = true;
  });
  await assertRejects(() => chained as Promise<void>, Error, "late");
  assertFalse(hasGoneOn);
});

Deno.test("all waits only where a value is promised, and keeps the order", async () => {
  assertEquals(all([1, 2]), [1, 2]);
  assertEquals(all([]), []);
  const late = all([Promise.resolve(1), 2, Promise.resolve(3)]);
  assert(late instanceof Promise);
  assertEquals(await late, [1, 2, 3]);
  // Of two values, each keeps its own type.
  const [text, count]: [string, number] = await all(["a", Promise.resolve(1)]);
  assertEquals([text.length, count.toFixed(1)], [1, "1.0"]);
});

Deno.test("all rejects with the first failure, and no other failure is left unhandled", async () => {
  const values = [Promise.reject(new Error("a")), Promise.reject(new Error())];
  await assertRejects(() => all(values) as Promise<unknown>, Error, "a");
});

Deno.test("attempt returns values and promises as they are, and turns an exception into a rejection", async () => {
  const promise = Promise.resolve(1);
  assertEquals(attempt(() => 1), 1);
  assertEquals(attempt(() => promise), promise);
  const failed = attempt(() => {
    throw new Error("at once");
  });
  await assertRejects(() => failed as Promise<void>, Error, "at once");
});

Deno.test("deferred is a promise with its ends", async () => {
  const { promise, resolve } = deferred<number>();
  resolve(1);
  assertEquals(await promise, 1);
  const failed = deferred<number>();
  failed.reject(new TypeError("No"));
  await assertRejects(() => failed.promise, TypeError, "No");
});

// ---- The clock --------------------------------------------------------------

Deno.test("SYSTEM_CLOCK has the time of the machine, and one that does not jump", () => {
  const before = Date.now();
  const now = SYSTEM_CLOCK.now();
  assert(before <= now && now <= Date.now());
  const start = performance.now();
  const elapsed = SYSTEM_CLOCK.elapsed();
  assert(start <= elapsed && elapsed <= performance.now());
});

Deno.test("SYSTEM_CLOCK calls after a delay, unless that is cancelled", async () => {
  const called: string[] = [];
  const cancel = SYSTEM_CLOCK.after(0, () => called.push("cancelled"));
  const { promise, resolve } = Promise.withResolvers<void>();
  const cancelLate = SYSTEM_CLOCK.after(1, () => {
    called.push("called");
    resolve();
  });
  cancel();
  await promise;
  cancelLate();
  assertEquals(called, ["called"]);
});

Deno.test("delay resolves when the time has passed", async () => {
  const clock = new ManualClock();
  let isOver = false;
  const over = delay(clock, 1_000).then(() => {
    isOver = true;
  });
  clock.pass(999);
  await turn();
  assertFalse(isOver);
  clock.pass(1);
  await over;
});

Deno.test("withinMs waits no longer than it may, and leaves no timer", async () => {
  const clock = new ManualClock();
  assertEquals(await withinMs(clock, 10, Promise.resolve(1)), 1);
  const fault = Promise.reject(new Error("broken"));
  await assertRejects(() => withinMs(clock, 10, fault), Error, "broken");
  assertEquals(clock.waiting, 0);
  const { promise, reject } = Promise.withResolvers<number>();
  const late = withinMs(clock, 10, promise);
  clock.pass(10);
  assertEquals(await late, undefined);
  // Nobody waits for it any more, and it is not left unhandled.
  reject(new Error("too late"));
  await turn();
});

// ---- Visits that are put off ------------------------------------------------

/** A schedule whose run the test starts. */
function handSchedule() {
  const runs = new Set<() => void>();
  return {
    schedule: (run: () => void) => {
      runs.add(run);
      return () => void runs.delete(run);
    },
    /** How many runs are scheduled. */
    get pending() {
      return runs.size;
    },
    run() {
      const due = [...runs];
      runs.clear();
      for (const run of due) run();
    },
  };
}

Deno.test("Later visits each item once, in order, all of them in one run", () => {
  const hand = handSchedule();
  const visited: string[] = [];
  const later = new Later<string>(hand.schedule, (item) => visited.push(item));
  for (const item of ["a", "b", "a"]) later.add(item);
  assertEquals([hand.pending, visited], [1, []]);
  hand.run();
  assertEquals([hand.pending, visited], [0, ["a", "b"]]);
  hand.run();
  assertEquals(visited, ["a", "b"]);
});

Deno.test("Later visits what is left of a long run in the next, before what was added", () => {
  const hand = handSchedule();
  const clock = new ManualClock();
  const visited: string[] = [];
  const later: Later<string> = new Later(hand.schedule, (item) => {
    visited.push(item);
    clock.pass(10);
    if (item === "a" || item === "b") later.add(`${item}2`);
  }, new TimeLimit(clock, 20));
  for (const item of ["a", "b", "c", "d"]) later.add(item);
  hand.run();
  assertEquals([visited, hand.pending], [["a", "b"], 1]);
  later.delete("d");
  hand.run();
  assertEquals([visited, hand.pending], [["a", "b", "c", "a2"], 1]);
  hand.run();
  assertEquals([visited.slice(4), hand.pending], [["b2"], 0]);
});

Deno.test("Later does not visit an item that was deleted, and ends a run without items", () => {
  const hand = handSchedule();
  const visited: string[] = [];
  const later = new Later<string>(hand.schedule, (item) => visited.push(item));
  later.add("a");
  later.add("b");
  later.delete("a");
  later.delete("unknown");
  assertEquals(hand.pending, 1);
  later.delete("b");
  assertEquals(hand.pending, 0);
  later.add("c");
  hand.run();
  assertEquals(visited, ["c"]);
});

Deno.test("Later puts an item that a visit adds into the next run", () => {
  const hand = handSchedule();
  const visited: number[] = [];
  const later: Later<number> = new Later(hand.schedule, (n) => {
    visited.push(n);
    if (n < 3) later.add(n + 1);
  });
  later.add(1);
  for (const expected of [[1], [1, 2], [1, 2, 3], [1, 2, 3]]) {
    hand.run();
    assertEquals(visited, expected);
  }
});

Deno.test("Later does not visit an item that an earlier visit of the same run deletes", () => {
  const hand = handSchedule();
  const visited: string[] = [];
  const later: Later<string> = new Later(hand.schedule, (item) => {
    visited.push(item);
    if (item === "a") later.delete("b");
  });
  for (const item of ["a", "b", "c"]) later.add(item);
  hand.run();
  assertEquals([visited, hand.pending], [["a", "c"], 0]);
});

Deno.test("afterThisTurn runs after all microtasks, unless it is cancelled", async () => {
  const order: string[] = [];
  const cancel = afterThisTurn(() => order.push("cancelled"));
  const { promise, resolve } = Promise.withResolvers<void>();
  afterThisTurn(() => {
    order.push("later");
    resolve();
  });
  cancel();
  await Promise.resolve().then(() => order.push("microtask"));
  await promise;
  assertEquals(order, ["microtask", "later"]);
});

// ---- The tick wheel ---------------------------------------------------------

/** An item that writes down the ticks of its visits. */
class Item implements Ticking {
  slot: Set<Ticking> | null = null;
  readonly visits: number[] = [];
  readonly #wheel: TickWheel;
  readonly #next: (item: Item) => number;

  constructor(wheel: TickWheel, next: (item: Item) => number = () => 0) {
    this.#wheel = wheel;
    this.#next = next;
  }

  visit(): number {
    this.visits.push(this.#wheel.tick);
    return this.#next(this);
  }
}

function startWheel(shortestMs = 1_000, maxTickMs = 1_000) {
  const clock = new ManualClock();
  return { clock, wheel: new TickWheel(clock, shortestMs, maxTickMs) };
}

Deno.test("a tick is a tenth of the shortest time, within 1 ms and the longest tick", () => {
  const cases: [shortestMs: number, maxTickMs: number, tickMs: number][] = [
    [1_000, 1_000, 100],
    [60_000, 1_000, 1_000],
    [5, 1_000, 1],
    [Infinity, 1_000, 1_000],
    [25, 1_000, 2.5],
  ];
  for (const [shortestMs, maxTickMs, tickMs] of cases) {
    assertEquals(startWheel(shortestMs, maxTickMs).wheel.tickMs, tickMs);
  }
});

Deno.test("ticks rounds a time up", () => {
  const { wheel } = startWheel();
  const cases: [ms: number, ticks: number][] = [
    [0, 0],
    [1, 1],
    [100, 1],
    [101, 2],
    [Infinity, Infinity],
  ];
  for (const [ms, ticks] of cases) assertEquals(wheel.ticks(ms), ticks);
});

Deno.test("TickWheel visits items when they are due, and again when a visit says so", () => {
  const { clock, wheel } = startWheel();
  const once = new Item(wheel);
  const often = new Item(wheel, ({ visits }) => visits.length < 3 ? 3 : 0);
  wheel.add(once, 2);
  wheel.add(often, 1);
  clock.pass(10 * wheel.tickMs);
  assertEquals([once.visits, often.visits], [[2], [1, 4, 7]]);
  assertEquals([once.slot, often.slot], [null, null]);
});

Deno.test("TickWheel visits an item that is due after 0 ticks, or fewer, in the next tick", () => {
  const { clock, wheel } = startWheel();
  const items = [0, -5].map((ticks) => {
    const item = new Item(wheel);
    wheel.add(item, ticks);
    return item;
  });
  clock.pass(wheel.tickMs - 1);
  assertEquals(items.map(({ visits }) => visits), [[], []]);
  clock.pass(1);
  assertEquals(items.map(({ visits }) => visits), [[1], [1]]);
});

Deno.test("TickWheel has a timer only while it has items, and its ticks stand still without", () => {
  const { clock, wheel } = startWheel();
  assertEquals(clock.waiting, 0);
  const item = new Item(wheel);
  wheel.add(item, 2);
  assertEquals(clock.waiting, 1);
  clock.pass(2 * wheel.tickMs);
  assertEquals([clock.waiting, wheel.tick], [0, 2]);
  clock.pass(100 * wheel.tickMs);
  assertEquals(wheel.tick, 2);
  wheel.add(item, 1);
  clock.pass(wheel.tickMs);
  assertEquals([item.visits, clock.waiting], [[2, 3], 0]);
});

Deno.test("TickWheel does not visit an item that was removed, and ends with the last of them", () => {
  const { clock, wheel } = startWheel();
  const [first, second] = [new Item(wheel), new Item(wheel)];
  wheel.add(first, 1);
  wheel.add(second, 1);
  wheel.remove(first);
  wheel.remove(first);
  assertEquals(clock.waiting, 1);
  wheel.remove(second);
  assertEquals(clock.waiting, 0);
  clock.pass(10 * wheel.tickMs);
  assertEquals([first.visits, second.visits], [[], []]);
});

Deno.test("TickWheel allows a visit to remove its own item, and others", () => {
  const { clock, wheel } = startWheel();
  const other = new Item(wheel);
  const later = new Item(wheel);
  const remover: Item = new Item(wheel, () => {
    for (const item of [remover, other, later]) wheel.remove(item);
    return 5;
  });
  wheel.add(remover, 1);
  wheel.add(other, 1);
  wheel.add(later, 3);
  clock.pass(10 * wheel.tickMs);
  assertEquals([remover.visits, other.visits, later.visits], [[1], [], []]);
  assertEquals([clock.waiting, wheel.tick], [0, 1]);
});

Deno.test("TickWheel allows a visit to add its own item again, and others", () => {
  const { clock, wheel } = startWheel();
  const other = new Item(wheel);
  const item: Item = new Item(wheel, ({ visits }) => {
    if (visits.length > 1) return 0;
    wheel.remove(item);
    wheel.add(item, 4);
    wheel.add(other, 0);
    // The visit has placed the item itself, so this has no effect.
    return 1;
  });
  wheel.add(item, 1);
  clock.pass(10 * wheel.tickMs);
  assertEquals([item.visits, other.visits], [[1, 5], [2]]);
  assertEquals(clock.waiting, 0);
});

Deno.test("TickWheel makes up for no tick that passed while the process was frozen", () => {
  const { clock, wheel } = startWheel();
  const item = new Item(wheel);
  wheel.add(item, 3);
  clock.pass(wheel.tickMs);
  clock.freeze(1_000 * wheel.tickMs);
  assertEquals([wheel.tick, item.visits], [2, []]);
  clock.pass(wheel.tickMs);
  assertEquals(item.visits, [3]);
});

// ---- Rates ------------------------------------------------------------------

Deno.test("TokenBucket gives as many tokens as it holds, and refills at its rate up to that", () => {
  const start = 5_000;
  const bucket = new TokenBucket(3, start);
  const takeAll = (elapsed: number) => {
    let taken = 0;
    while (bucket.take(elapsed, 3, 2)) taken++;
    return taken;
  };
  assertEquals(takeAll(start), 3);
  assertEquals(takeAll(start + 499), 0);
  assertEquals(takeAll(start + 500), 1);
  assertEquals(takeAll(start + 1_500), 2);
  assertEquals(takeAll(start + 60_000), 3);
});

Deno.test("TokenBucket keeps parts of a token, however often it is asked", () => {
  const bucket = new TokenBucket(1, 0);
  const taken: number[] = [];
  for (let ms = 0; ms <= 4_000; ms += 125) {
    if (bucket.take(ms, 1, 1)) taken.push(ms);
  }
  assertEquals(taken, [0, 1_000, 2_000, 3_000, 4_000]);
});

Deno.test("TokenBucket of no rate gives its first tokens only, and of an infinite one any number", () => {
  const none = new TokenBucket(1, 0);
  assertEquals([0, 0, 1e9].map((ms) => none.take(ms, 1, 0)), [
    true,
    false,
    false,
  ]);
  const infinite = new TokenBucket(0, 0);
  assert(infinite.take(0, 0, Infinity));
  const endless = new TokenBucket(Infinity, 0);
  for (let i = 0; i < 10_000; i++) assert(endless.take(0, Infinity, 1));
});

/** A throttle, and what it has announced since the last look. */
function startThrottle() {
  const clock = new ManualClock();
  const told: [key: string, count: number][] = [];
  const throttle = new CountThrottle(
    clock,
    (key, count) => told.push([key, count]),
  );
  return { clock, throttle, told: () => told.splice(0) };
}

Deno.test("CountThrottle announces each change of a count up to 100 at once", () => {
  const { clock, throttle, told } = startThrottle();
  for (const count of [1, 2, 100, 99, 0]) throttle.change("a", count);
  assertEquals(told().map(([, count]) => count), [1, 2, 100, 99, 0]);
  assertEquals(clock.waiting, 0);
});

Deno.test("CountThrottle announces a count above 100 every 5 seconds at most, and the last one always", () => {
  const { clock, throttle, told } = startThrottle();
  throttle.change("a", 101);
  throttle.change("a", 102);
  throttle.change("b", 200);
  throttle.change("a", 103);
  assertEquals(told(), [["a", 101], ["b", 200]]);
  clock.pass(4_999);
  assertEquals(told(), []);
  clock.pass(1);
  assertEquals(told(), [["a", 103]]);
  // It was announced again, so the next change waits as long.
  throttle.change("a", 104);
  clock.pass(4_999);
  assertEquals(told(), []);
  clock.pass(1);
  assertEquals(told(), [["a", 104]]);
  clock.pass(5_000);
  assertEquals([told(), clock.waiting], [[], 0]);
  throttle.change("a", 105);
  assertEquals(told(), [["a", 105]]);
});

Deno.test("CountThrottle announces a count again that is back at what it was", () => {
  const { clock, throttle, told } = startThrottle();
  for (const count of [101, 102, 101]) throttle.change("a", count);
  clock.pass(5_000);
  // A subscriber that came in between has not heard of any count.
  assertEquals(told(), [["a", 101], ["a", 101]]);
});

Deno.test("CountThrottle waits no longer once a count is 100 or less", () => {
  const { clock, throttle, told } = startThrottle();
  for (const count of [101, 102, 100, 99, 101]) throttle.change("a", count);
  assertEquals(told().map(([, count]) => count), [101, 100, 99, 101]);
  clock.pass(5_000);
  assertEquals([told(), clock.waiting], [[], 0]);
});

Deno.test("CountThrottles that hear each other announce by turns, and the true count in the end", () => {
  const clock = new ManualClock();
  const told: number[] = [];
  let count = 300;
  const throttles: CountThrottle[] = [];
  const announce = (key: string, count: number) => {
    told.push(count);
    for (const one of throttles) one.heard(key, count);
  };
  for (let i = 0; i < 3; i++) {
    throttles.push(new CountThrottle(clock, announce, () => count));
  }
  for (const one of throttles) one.change("a", ++count);
  assertEquals(told, [301]);
  for (let round = 1; round <= 3; round++) {
    for (const one of throttles) one.change("a", ++count);
    clock.pass(5_500);
    assertEquals(told.length, 1 + round);
  }
  // Those that have not heard the last count say it again, by turns as well.
  clock.pass(20_000);
  assertEquals(told.at(-1), count);
  assert(told.length <= 1 + 3 + 3, `${told}`);
  assertEquals(clock.waiting, 0);
});

Deno.test("CountThrottle announces at its close what waits, and leaves no timer", () => {
  const { clock, throttle, told } = startThrottle();
  for (const count of [101, 102, 103]) throttle.change("a", count);
  throttle.change("b", 200);
  assertEquals(told(), [["a", 101], ["b", 200]]);
  throttle.close();
  assertEquals([told(), clock.waiting], [[["a", 103]], 0]);
  throttle.close();
  clock.pass(5_000);
  assertEquals(told(), []);
  throttle.change("a", 104);
  assertEquals([told(), clock.waiting], [[["a", 104]], 0]);
});
