/**
 * The proof that a cluster on one Redis loses nothing and invents nothing, in its short
 * form: everything that can fail does so once. The long one is
 * `deno run -A tests/programs/cluster.ts`.
 */
import { assert, assertEquals } from "@std/assert";
import { testWithRedis } from "../support/redis.ts";
import { BLOWS, planActs } from "./cluster/plan.ts";
import { run } from "./cluster/run.ts";
import { show, verdict } from "./cluster/verdict.ts";

const seed = Number(Deno.env.get("CLUSTER_SEED") || Date.now() >>> 0);

testWithRedis(
  "three servers on one Redis lose and invent nothing, whatever fails",
  async () => {
    console.info(`CLUSTER_SEED=${seed}`);
    const report = await run({
      ...{ seed, nodes: 3, isInMemory: false, tabs: 12, rate: 20, crowd: 0 },
      ...{ seconds: 0, blows: BLOWS.length, blowsPerAct: 7 },
      ...{ leaseMs: 1_000, historyMs: 15_000, settleMs: 500, drainMs: 500 },
      measures: false,
      log: (line) => console.info(line),
    });
    console.info(show(report));
    // How soon a member leaves says nothing on a busy machine.
    const faults = verdict(report, { leaseMs: Infinity });
    assertEquals(faults, [], faults.join("\n"));
    assert(report.messages > 0);
  },
);

Deno.test("a seed of the cluster's proof repeats what happens, each kind of it once", () => {
  const options = { seed, nodes: 3, leaseMs: 1_000, blows: BLOWS.length };
  const [first, second] = [planActs(options), planActs(options)];
  assertEquals(first, second);
  const kinds = first.flatMap(({ blows }) => blows.map(({ kind }) => kind));
  assertEquals(kinds.sort(), [...BLOWS].sort());
});
