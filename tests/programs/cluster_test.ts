/**
 * The proof that a cluster on one Redis loses nothing and invents nothing, in its short
 * form: everything that can fail does so once. The long one is
 * `deno run -A tests/programs/cluster.ts`.
 */
import { assert, assertEquals } from "@std/assert";
import { testWithRedis } from "../support/redis.ts";
import { BLOWS, planActs } from "./cluster/plan.ts";
import { type Report, run } from "./cluster/run.ts";
import { show, verdict } from "./cluster/verdict.ts";

const seed = Number(Deno.env.get("CLUSTER_SEED") || Date.now() >>> 0);

const LEASE_MS = 2_000;
const MOST_ATTEMPTS = 3;

/**
 * Whether the machine did not run for most of a lease: then servers rightly count
 * each other as dead without a cause that the plan knows of, and all is tried again.
 */
function stoodStill({ figures }: Report): boolean {
  return Math.max(...figures.lagsMs) > LEASE_MS / 2;
}

testWithRedis(
  "three servers on one Redis lose and invent nothing, whatever fails",
  async () => {
    console.info(`CLUSTER_SEED=${seed}`);
    let report: Report;
    let faults: string[];
    let attempts = 0;
    do {
      report = await run({
        ...{ seed, nodes: 3, isInMemory: false, tabs: 12, rate: 20, crowd: 0 },
        ...{ seconds: 0, blows: BLOWS.length, blowsPerAct: 7 },
        ...{ historyMs: 15_000, settleMs: 500, drainMs: 500 },
        ...{ leaseMs: LEASE_MS, measures: false },
        log: (line) => console.info(line),
      });
      console.info(show(report));
      // How soon a member leaves says nothing on a busy machine.
      faults = verdict(report, { leaseMs: Infinity });
    } while (
      faults.length > 0 && stoodStill(report) && ++attempts < MOST_ATTEMPTS
    );
    assertEquals(faults, [], faults.join("\n"));
    assert(report.messages > 0);
  },
);

Deno.test("a seed of the cluster's proof repeats what happens, each kind of it once", () => {
  const options = { seed, nodes: 3, leaseMs: LEASE_MS, blows: BLOWS.length };
  const [first, second] = [planActs(options), planActs(options)];
  assertEquals(first, second);
  const kinds = first.flatMap(({ blows }) => blows.map(({ kind }) => kind));
  assertEquals(kinds.sort(), [...BLOWS].sort());
});
