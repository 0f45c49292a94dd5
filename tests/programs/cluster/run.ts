/**
 * One run: acts as they are planned, and after each of them a quiet time in which
 * everything has to be as the model says.
 *
 * @module
 */
import { within } from "../../support/deadline.ts";
import { planStorm } from "../../support/proxy.ts";
import { nudge } from "../loss/clients.ts";
import { type Figures, pause } from "./blows.ts";
import { type Act, describe, forgets, isolates, planActs } from "./plan.ts";
import { Quiet } from "./quiet.ts";
import { type RunOptions, Stage } from "./stage.ts";
import type { KindTally } from "./tabs.ts";
import type { TrafficReport } from "./traffic.ts";

export type { RunOptions } from "./stage.ts";

/** How long messages are timed before anything happens. */
const MEASURE_MS = 4_000;
/** Over which time the gusts of an act are spread. */
const STORM_SECONDS = 4;
/** For publishers to be answered. */
const ANSWER_MS = 30_000;

/** What came of a run. */
export interface Report {
  readonly seed: number;
  readonly seconds: number;
  readonly acts: number;
  readonly messages: number;
  /** How often an observer heard that somebody came or left. */
  readonly transitions: number;
  readonly kinds: readonly KindTally[];
  readonly reconnects: number;
  readonly traffic: TrafficReport;
  readonly webhooks: { readonly count: number; readonly repeats: number };
  readonly figures: Figures;
  /** What is wrong, in the order in which it was found. */
  readonly problems: string[];
}

/** Runs once. */
export async function run(options: RunOptions): Promise<Report> {
  const startedAt = performance.now();
  await using stage = await Stage.open(options);
  const play = new Play(stage);
  await play.run();
  const { truth, probes, tabs, traffic, receiver, figures } = stage;
  return {
    seed: options.seed,
    seconds: Math.round((performance.now() - startedAt) / 1_000),
    acts: play.acts,
    messages: truth.size,
    transitions: probes.reduce((sum, one) => sum + one.transitions, 0),
    kinds: tabs.count(),
    reconnects: tabs.reconnects,
    traffic: traffic.report,
    webhooks: { count: receiver.count, repeats: receiver.repeats },
    figures,
    problems: play.problems,
  };
}

/** What happens on a stage. */
class Play {
  readonly #stage: Stage;
  readonly #quiet: Quiet;
  readonly problems: string[] = [];
  acts = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
    this.#quiet = new Quiet(stage);
  }

  /** From the first client to the last key. */
  async run(): Promise<void> {
    const { tabs, nodes, options } = this.#stage;
    this.#stage.enter();
    using _nudge = nudge(() => tabs.open);
    this.#note("the beginning", await this.#quiet.settle(true));
    if (options.measures) await this.#time();
    const { seed, leaseMs, kinds, blows, blowsPerAct, seconds } = options;
    const start = performance.now();
    const isOver = () => performance.now() - start > seconds * 1_000;
    for (let round = 0; round === 0 || !isOver(); round++) {
      const acts = planActs({
        ...{ seed: seed + round, nodes: nodes.length, leaseMs },
        ...{ kinds, blows, blowsPerAct },
      });
      for (const act of acts) {
        if (round > 0 && isOver()) break;
        await this.#act(act);
      }
    }
    this.#stage.log("everybody leaves");
    this.#note("the end", await this.#quiet.leave());
  }

  async #act(act: Act): Promise<void> {
    const { proxy, blows, traffic, tabs } = this.#stage;
    const what = `act ${++this.acts}: ${describe(act)}`;
    this.#stage.log(what);
    traffic.areClientsHushed = false;
    const stopTraffic = traffic.start();
    const stopChurn = tabs.churn();
    const enough = new AbortController();
    const storm = proxy.storm(
      planStorm({ seed: act.seed, cuts: act.gusts, seconds: STORM_SECONDS }),
      enough.signal,
    );
    for (const blow of act.blows) {
      this.#stage.log(`  ${blow.kind}`);
      await blows.strike(blow);
      await pause(blow.restMs);
    }
    enough.abort();
    await storm;
    stopChurn();
    traffic.areClientsHushed = true;
    await within(ANSWER_MS, "answer to the publishers", stopTraffic());
    const mayForget = act.blows.some(forgets);
    const wasAway = mayForget || act.blows.some(isolates);
    this.#note(what, await this.#quiet.settle(mayForget, wasAway));
  }

  /** Times messages while nothing happens. */
  async #time(): Promise<void> {
    const { truth, traffic, figures } = this.#stage;
    truth.isMeasuring = true;
    traffic.isCalm = true;
    const stop = traffic.start();
    await pause(MEASURE_MS);
    await stop();
    truth.isMeasuring = false;
    this.#note("a calm time", await this.#quiet.settle(false));
    figures.latenciesMs.push(...truth.latencies);
  }

  #note(what: string, problems: readonly string[]): void {
    for (const problem of problems) this.#stage.log(`    FOUND ${problem}`);
    this.problems.push(...problems.map((problem) => `${what}: ${problem}`));
  }
}
