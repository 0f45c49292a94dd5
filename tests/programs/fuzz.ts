/**
 * A seeded fuzzer for the whole server: `deno run -A tests/programs/fuzz.ts`. Many
 * connections and the HTTP API send it traffic, valid, nearly valid and broken
 * off, while two well-behaved clients look on and a model of the state says
 * what has to come of it.
 *
 * What a connection is answered depends on its own frames alone, so the model
 * knows it when the frames are made. What happens between connections has an
 * order that only the server decides: its hooks tell one, and everything that
 * anybody receives has to agree with it. Nothing that is checked depends on how
 * fast the network is.
 *
 * In every third round the server is under attack meanwhile, in one of the ways of
 * `fuzz/attacks.ts`, and nobody else may notice.
 *
 * One seed makes one sequence of steps. Every round has a server of its own and
 * can be repeated alone: `--seed N --from ROUND`.
 *
 * @module
 */
import { ManualClock } from "../support/clock.ts";
import { serveHttp } from "../support/fallback.ts";
import { Random } from "../support/random.ts";
import { serve } from "../support/server.ts";
import { ATTACKS } from "./fuzz/attacks.ts";
import { Model } from "./fuzz/model.ts";
import { type FuzzReport, Round } from "./fuzz/round.ts";
import { Siege, siegeOptions } from "./fuzz/siege.ts";
import { APPS, LIMITS } from "./fuzz/world.ts";

/** What to run. */
export interface FuzzOptions {
  seed: number;
  seconds: number;
  /** The first round. @default {0} */
  from?: number;
  /** How all rounds are attacked. @default {every third round, each time otherwise} */
  attack?: string;
  /** Where a line now and then tells of progress. */
  log?: (line: string) => void;
}

/** Fuzzes until the time is over or something is found. */
export async function fuzz(options: FuzzOptions): Promise<FuzzReport> {
  const { seed, seconds, from = 0, log = () => {} } = options;
  const report: FuzzReport = {
    seed,
    rounds: 0,
    steps: 0,
    checks: 0,
    trace: "",
  };
  const end = performance.now() + seconds * 1000;
  const steps: string[] = [];
  let crash: unknown;
  const crashed = (event: ErrorEvent | PromiseRejectionEvent) => {
    event.preventDefault();
    crash ??= "reason" in event ? event.reason : event.error;
  };
  addEventListener("error", crashed);
  addEventListener("unhandledrejection", crashed);
  let logAt = performance.now() + 60_000;
  try {
    do {
      const round = from + report.rounds;
      const attack = options.attack ?? attackIn(round);
      steps.splice(0);
      try {
        await runRound(seed, round, attack, report, steps);
        if (crash !== undefined) throw crash;
      } catch (error) {
        report.finding = [
          `seed ${seed}, round ${round}, step ${report.steps}; again with:`,
          `  deno run -A tests/programs/fuzz.ts --seed ${seed} --from ${round}` +
          (options.attack === undefined ? "" : ` --attack ${options.attack}`),
          "last steps:",
          ...steps.map((step) => `  ${step}`),
          "found:",
          Deno.inspect(crash ?? error),
        ].join("\n");
        return report;
      }
      report.rounds++;
      if (performance.now() >= logAt) {
        log(`${summary(report)} so far`);
        logAt += 60_000;
      }
    } while (performance.now() < end);
    return report;
  } finally {
    removeEventListener("error", crashed);
    removeEventListener("unhandledrejection", crashed);
  }
}

/** The attack of a round, if there is one: they take turns. */
function attackIn(round: number): string | undefined {
  const names = [...ATTACKS.keys()];
  return round % 3 === 2
    ? names[Math.floor(round / 3) % names.length]
    : undefined;
}

/** Runs one round on a server of its own. */
async function runRound(
  seed: number,
  number: number,
  attack: string | undefined,
  report: FuzzReport,
  steps: string[],
): Promise<void> {
  const random = new Random(seed, number);
  const model = new Model(random.chance(0.85), random.chance(0.5));
  const options = {
    path: random.of(["", "/realtime"]),
    clientEvents: model.clientEvents,
    subscriptionCounts: model.counts,
    limits: LIMITS,
  };
  const kind = attack === undefined ? undefined : ATTACKS.get(attack);
  if (kind === undefined) {
    await using server = serve({ ...options, apps: APPS });
    await new Round(server, model, random, report, steps).run();
    return;
  }
  const clock = new ManualClock();
  await using server = serveHttp({
    ...options,
    ...siegeOptions(APPS, kind, clock),
  });
  const round = new Round(server, model, random, report, steps);
  round.note(`the server is attacked with ${attack}`);
  await using scope = new AsyncDisposableStack();
  const siege = await Siege.begin(kind, {
    server,
    clock,
    // Of its own, as it draws while others act.
    random: new Random(seed, number, 1),
    chronicle: round,
    scope,
  });
  await round.run(siege);
}

/** One line about a run. */
export function summary({ seed, rounds, steps, checks }: FuzzReport): string {
  return `seed ${seed}: ${rounds} rounds, ${steps} steps, ${checks} checks`;
}

/** Reads the options of the command. */
function readArgs(args: string[]): FuzzOptions {
  const options: FuzzOptions = { seed: Date.now() >>> 0, seconds: 60 };
  for (let i = 0; i < args.length; i += 2) {
    const name = args[i]?.replace(/^--/, "");
    const attack = args[i + 1] ?? "";
    if (name === "attack" && ATTACKS.has(attack)) {
      options.attack = attack;
      continue;
    }
    const value = Number(args[i + 1]);
    const isKnown = name === "seed" || name === "seconds" || name === "from";
    if (!isKnown || !(value >= 0)) {
      console.error(
        "Usage: fuzz.ts [--seed N] [--seconds S] [--from ROUND] [--attack " +
          `${[...ATTACKS.keys()].join("|")}]`,
      );
      Deno.exit(2);
    }
    options[name] = value;
  }
  return options;
}

if (import.meta.main) {
  const options = readArgs(Deno.args);
  console.log(`seed ${options.seed}`);
  const report = await fuzz({ ...options, log: console.log });
  if (report.finding !== undefined) console.error(report.finding);
  console.log(summary(report));
  Deno.exit(report.finding === undefined ? 0 : 1);
}
