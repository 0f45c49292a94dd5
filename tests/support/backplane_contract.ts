/**
 * The contract of a {@linkcode Backplane}, as tests. Each backplane has to pass
 * them: the memory of one process, the kinds of `backplanes.ts`, and yours.
 *
 * `core/backplane.ts` says what a backplane promises, with the rules for its
 * author. To test a backplane, write a file like this and run it with `deno test`:
 *
 * ```ts ignore
 * import { SYSTEM_CLOCK } from "../../core/time.ts";
 * import { testBackplane } from "../support/backplane_contract.ts";
 *
 * testBackplane({
 *   title: "my backplane",
 *   async open() {
 *     const store = await MyStore.start();
 *     return {
 *       clock: SYSTEM_CLOCK,
 *       connect: () => new MyBackplane(store.url),
 *       pass: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
 *       kill: (backplane) => backplane.link.destroy(),
 *       flush: () => store.flushAll(),
 *       close: () => store.stop(),
 *     };
 *   },
 *   faults: ["death", "flush"],
 * });
 * ```
 *
 * - `open` is called once a test, and its {@linkcode Deployment} is closed after
 *   it. The deployment must be empty: a database of its own, or a fresh prefix.
 * - `connect` makes the backplane of one more server. The suite calls `start` and,
 *   at the end, `close`. No test has more than four servers at a time.
 * - `pass` lets time pass as the backplane measures it: by the clock of the test,
 *   where it uses {@linkcode BackplaneNode.clock}, or in real time. What a
 *   test waits for ages in {@linkcode AGE_MS}, so real time is bearable.
 * - `faults` lists what else the deployment can do, see {@linkcode Fault}. Tests
 *   of other faults are left out.
 *
 * The tests use the backplane through {@linkcode FakeServer}, which states figures
 * as the real server does, and records what it is told. They wait for what has to
 * happen, up to a deadline, and use a fence where nothing must happen: something
 * later that does. So they assume about the order no more than the contract says:
 * - what is delivered or told may come before or after the answer to the call;
 * - messages may be delivered to servers that hold nothing on their channel;
 * - changes of one server are told in the order of its calls;
 * - offsets grow, and need not be consecutive.
 *
 * The randomised test prints its seed when it fails; `seed` of
 * {@linkcode ContractKind} repeats it. Timing differs between runs, so for a
 * backplane that answers later a seed is a hint and not an exact replay.
 *
 * @module
 */
import { testCache, testJoins, testOrder } from "./contract/messages.ts";
import { testHoldings, testTransitions } from "./contract/membership.ts";
import { testHistory } from "./contract/history.ts";
import { testSessions } from "./contract/sessions.ts";
import {
  testDeafness,
  testDeath,
  testEnds,
  testFlush,
  testQueries,
  testUsage,
} from "./contract/servers.ts";
import { testIntercom } from "./contract/intercom.ts";
import { testAtRandom } from "./contract/random.ts";
import type { History } from "@glitz/pusher";
import { type ContractKind, Stage } from "./contract/stage.ts";

export type { ContractKind, Deployment, Fault } from "./contract/stage.ts";

/** Registers the tests of a kind of backplane. */
export function testBackplane(kind: ContractKind): void {
  const test = (title: string, run: (stage: Stage) => Promise<void>) =>
    Deno.test(`${kind.title}: ${title}`, async () => {
      await using stage = new Stage(await kind.open());
      await run(stage);
    });
  const keeps = (bound: keyof History) => !kind.unbounded?.includes(bound);
  const faults = new Set(kind.faults);
  testOrder(test);
  testHoldings(test);
  testTransitions(test);
  testJoins(test);
  testCache(test);
  testHistory(test, keeps);
  testSessions(test, keeps);
  testQueries(test);
  testEnds(test);
  testUsage(test);
  if (kind.hasIntercom ?? true) testIntercom(test, faults);
  if (faults.has("death")) testDeath(test);
  if (faults.has("flush")) testFlush(test);
  if (faults.has("deafness")) testDeafness(test);
  testAtRandom(test, faults.has("death"), kind.seed);
}
