/**
 * The lease of a server, against a Redis that answers when the test says so.
 */
import { assert, assertEquals } from "@std/assert";
import { ManualClock } from "../../tests/support/clock.ts";
import { Keys } from "./keys.ts";
import { Lease } from "./lease.ts";
import type { Connection, Network } from "./network.ts";
import { BEAT, FENCE_OFF, QUIT, type Script } from "./scripts.ts";

/** A call that waits for its answer. */
interface Call {
  readonly script: Script;
  answer(value: unknown): void;
}

Deno.test("Lease releases what a dead server held in several buckets at a time", async () => {
  const calls: Call[] = [];
  const call = (script: Script) =>
    new Promise((answer) => calls.push({ script, answer }));
  // The lease calls scripts, and nothing else.
  const connection = { call } as unknown as Connection;
  const network = { connection: () => connection } as unknown as Network;
  const clock = new ManualClock();
  const lease = new Lease({
    ...{ keys: new Keys("test"), clock, leaseMs: 4_000, lifeMs: 60_000 },
  }, {
    release: () => Promise.resolve(),
    expired: () => {},
    failed: (error) => {
      throw error;
    },
  });
  lease.keep(network);
  clock.pass(1_000);
  assertEquals(calls.map(({ script }) => script), [BEAT]);
  calls.pop()?.answer([1, "0", "dead"]);
  let rounds = 0;
  for (; calls[0]?.script !== QUIT; rounds++) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    for (const { script, answer } of calls.splice(0)) {
      if (script === FENCE_OFF) answer([]);
      else calls.push({ script, answer });
    }
  }
  // One after the other they would be 64 rounds.
  assert(rounds <= 16, `${rounds} rounds`);
  lease.stop();
});
