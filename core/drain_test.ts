import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../tests/support/clock.ts";
import { Drain, DRAIN_TICK_MS } from "./drain.ts";

/** A share of the connections, and when it was closed. */
interface Closed {
  readonly atMs: number;
  readonly count: number;
}

/** Drains; `lateMs` is how late each timer of the process is. */
function drain(
  connections: number,
  overMs: number,
  lateMs = 0,
  onTick = (_drain: Drain, _atMs: number) => {},
): Closed[] {
  const clock = new ManualClock();
  const startMs = clock.elapsed();
  const drain = new Drain(clock);
  drain.endWithin(overMs);
  const closed: Closed[] = [];
  for (let left = connections; left > 0;) {
    const atMs = clock.elapsed() - startMs;
    onTick(drain, atMs);
    const count = drain.share(left);
    left -= count;
    if (count > 0) closed.push({ atMs, count });
    clock.pass(DRAIN_TICK_MS + lateMs);
  }
  return closed;
}

function sum(list: readonly Closed[]): number {
  return list.reduce((total, { count }) => total + count, 0);
}

/** The most that was closed in any span of time of some length. */
function peak(closed: readonly Closed[], spanMs: number): number {
  return Math.max(
    ...closed.map(({ atMs: from }) =>
      sum(closed.filter(({ atMs }) => atMs >= from && atMs < from + spanMs))
    ),
  );
}

for (const overMs of [1_000, 5_000, 30_000]) {
  for (const connections of [1, 3, 10, 51, 60, 99, 101, 149, 1_000, 10_000]) {
    Deno.test(`Drain closes an even share of ${connections} connections in each second of ${overMs} ms`, () => {
      const closed = drain(connections, overMs);
      assertEquals(sum(closed), connections);
      const lastMs = closed.at(-1)?.atMs ?? 0;
      assert(lastMs < overMs, `${lastMs}`);
      // The last one may be the only one.
      assert(lastMs >= overMs - 2 * DRAIN_TICK_MS, `${lastMs}`);
      for (const spanMs of [200, 500, 1_000]) {
        const even = connections * spanMs / overMs;
        // There are no parts of connections.
        const bound = Math.max(1.3 * even, Math.ceil(even) + 1);
        const most = peak(closed, spanMs);
        assert(most <= bound, `${most} in ${spanMs} ms, and ${even} are even`);
      }
    });
  }
}

Deno.test("Drain takes no longer when timers are late, and stays even", () => {
  const closed = drain(10_000, 5_000, 13);
  assertEquals(sum(closed), 10_000);
  assert(closed.at(-1)!.atMs < 5_000);
  assert(peak(closed, 1_000) <= 1.3 * 2_000, `${peak(closed, 1_000)}`);
});

Deno.test("Drain without a time closes all at once", () => {
  assertEquals(drain(10_000, 0), [{ atMs: 0, count: 10_000 }]);
});

Deno.test("Drain can end earlier than it was to end, and not later", () => {
  const closed = drain(1_000, 10_000, 0, (drain, atMs) => {
    if (atMs === 1_000) drain.endWithin(60_000);
    if (atMs === 2_000) drain.endWithin(1_000);
  });
  assertEquals(sum(closed), 1_000);
  const lastMs = closed.at(-1)!.atMs;
  assert(lastMs >= 2_900 && lastMs < 3_000, `${lastMs}`);
  const early = sum(closed.filter(({ atMs }) => atMs < 2_000));
  assert(Math.abs(early - 200) <= 10, `${early}`);
});

Deno.test("Drain goes on with the clients that are left when some go by themselves", () => {
  const clock = new ManualClock();
  const drain = new Drain(clock);
  drain.endWithin(1_000);
  let left = 100;
  const shares: number[] = [];
  while (left > 0) {
    const share = drain.share(left);
    left -= share;
    shares.push(share);
    // Half of the clients leave.
    if (shares.length === 10) left = Math.floor(left / 2);
    clock.pass(DRAIN_TICK_MS);
  }
  assertEquals(shares.slice(0, 10), new Array(10).fill(5));
  for (const share of shares.slice(10)) assert(share === 2 || share === 3);
  assertEquals(shares.length, 20);
});
