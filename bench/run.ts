/**
 * The bench: starts each server in turn on this machine, drives all of them with
 * the same load generator, and prints how they compare. This is `deno task bench`.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chart } from "./chart.ts";
import { checkPeer } from "./check.ts";
import { compileLoad } from "./load.ts";
import type { Peer } from "./peer.ts";
import { PEERS } from "./peers.ts";
import { Progress } from "./progress.ts";
import { insertReport, markdownReport, terminalReport } from "./report.ts";
import { removeRequests } from "./requests.ts";
import {
  keepResults,
  type Outcome,
  readResults,
  type Result,
  type Results,
} from "./results.ts";
import { type Scenario, SCENARIOS } from "./scenarios.ts";
import { nameOf, type Settings, type Subject } from "./stage.ts";

/** The scenarios of the README's tables: 40 minutes on two slow cores. */
const DEFAULTS = [
  ...["fanout", "channels", "publishes", "latency", "connect"],
  ...["in-process", "memory", "storm"],
  ...["unread", "history", "return", "cycles"],
];

/** How many rounds make a median, unless a scenario has fewer. */
const ROUNDS = 5;

const HELP = `Measures this server beside others on this machine.

Usage: deno task bench [scenario…] [flags]

${
  Object.entries(SCENARIOS).map(([name, { title }]) =>
    `  ${name.padEnd(16)} ${title}`
  ).join("\n")
}

Without a name: ${DEFAULTS.join(", ")}. "all" stands for all.

  --rounds <n>      how often each server is measured, in turn (default 5; 3
                    where that takes long, and 1 where figures hardly vary)
  --peers <list>    some of ${PEERS.map(({ name }) => name).join(", ")}
  --only <list>     some of the ways to use a peer, such as ours,ours+batch
  --seconds <n>     how long a rate is measured (default 1.2)
  --quick           a tenth of the clients, a round, a moment: to try the bench
  --no-pin          let the system choose the cores
  --port <n>        the first of 1,000 ports to use (default 16000)
  --json            print the results as JSON
  --readme          write the table of README.md and docs/bench.svg, from the
                    results of this run and of the last run of other scenarios
  --report          do so without measuring anything
  --check           try what each server can do, without measuring anything
  -h, --help        show this text

The first run installs the other servers from npm, and compiles the load
generator with cc, both into bench/.peers/. A run in which a message was lost, or
came twice, is no result. If taskset is there, the server has one core and the
load generator another. Results of all peers are kept for --readme, in
bench/.peers/results.json.
`;

const FLAGS = {
  "rounds": { type: "string" },
  "peers": { type: "string" },
  "only": { type: "string" },
  "seconds": { type: "string" },
  "quick": { type: "boolean", default: false },
  "no-pin": { type: "boolean", default: false },
  "port": { type: "string", default: "16000" },
  "json": { type: "boolean", default: false },
  "readme": { type: "boolean", default: false },
  "report": { type: "boolean", default: false },
  "check": { type: "boolean", default: false },
  "help": { type: "boolean", short: "h", default: false },
} as const;

/** Runs the bench, and returns its exit code: 1 if a run is no result. */
export async function main(
  args: string[],
  peers: readonly Peer[] = PEERS,
): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    options: FLAGS,
    allowPositionals: true,
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  if (values.report) {
    await writeReadme(peers);
    return 0;
  }
  const chosen = choose(peers, values.peers);
  const port = number("port", values.port, 16_000);
  const names = scenarioNames(positionals);
  const rounds = values.rounds === undefined && !values.quick
    ? null
    : number("rounds", values.rounds, 1);
  const seconds = number("seconds", values.seconds, values.quick ? 0.3 : 1.2);
  // Only now, as this takes a minute: a mistake is named at once.
  for (const peer of chosen) await peer.install();
  if (values.check) {
    await check(chosen, port);
    return 0;
  }
  const settings: Settings = {
    seconds,
    warmUpSeconds: values.quick ? 0.1 : 0.5,
    scale: values.quick ? 0.1 : 1,
    program: await compileLoad(),
    pin: values["no-pin"] ? { server: [], load: [] } : await findPin(),
    port,
  };
  const results = await measure(names, chosen, settings, {
    rounds,
    only: values.only?.split(","),
    command: ["deno task bench", ...args].join(" "),
  });
  print(results, values.json);
  const isPartial = values.quick || values.peers || values.only;
  if (!isPartial) await keepResults(results);
  if (values.readme) await writeReadme(peers);
  return hasFaults(results) ? 1 : 0;
}

async function check(peers: Peer[], port: number): Promise<void> {
  for (const peer of peers) {
    await checkPeer(peer, port);
    console.log(`${peer.label}: ${[...peer.can].join(", ")}`);
  }
}

/** Puts another at the front in each round: nobody is always the first. */
function rotate<T>(list: T[], by: number): T[] {
  const at = by % Math.max(1, list.length);
  return [...list.slice(at), ...list.slice(0, at)];
}

/** Measures all scenarios in each round, and in each scenario all peers in turn. */
async function measure(
  names: string[],
  peers: Peer[],
  settings: Settings,
  { rounds, only, command }: {
    /** Null for as many as suits each scenario. */
    rounds: number | null;
    only: string[] | undefined;
    command: string;
  },
): Promise<Results> {
  const about = { date: today(), machine: await machine(settings), command };
  const results: Results = Object.fromEntries(
    names.map((name) => [name, { ...about, rounds: [] }]),
  );
  const plans = names.map((name) => {
    const scenario = SCENARIOS[name]!;
    const subjects = scenario.subjects(peers)
      .filter((subject) => only?.includes(nameOf(subject)) ?? true);
    const count = rounds ?? scenario.rounds ?? ROUNDS;
    return { name, scenario, subjects, rounds: count };
  });
  const progress = new Progress(
    plans.reduce(
      (sum, { subjects, rounds }) => sum + subjects.length * rounds,
      0,
    ),
  );
  try {
    for (let round = 0; round < (rounds ?? ROUNDS); round++) {
      for (const plan of plans) {
        if (round >= plan.rounds) continue;
        const subjects = rotate(plan.subjects, round);
        results[plan.name]!.rounds.push(
          await runRound({ ...plan, subjects, round }, settings, progress),
        );
      }
    }
  } finally {
    await removeRequests();
  }
  return results;
}

/** A round of a scenario, of `rounds`. */
interface Round {
  name: string;
  scenario: Scenario;
  subjects: Subject[];
  /** From 0. */
  round: number;
  rounds: number;
}

/** Measures each subject once, one after the other. */
async function runRound(
  { name, scenario, subjects, round, rounds }: Round,
  settings: Settings,
  progress: Progress,
): Promise<Record<string, Outcome>> {
  const outcomes: Record<string, Outcome> = {};
  for (const one of subjects) {
    const subject = nameOf(one);
    const started = performance.now();
    progress.begin({ scenario: name, subject, round: round + 1, rounds });
    let fault: string | undefined;
    try {
      const figures = await scenario.measure(one, settings);
      outcomes[subject] = { figures };
    } catch (error) {
      // One server that fails is no reason not to measure the others.
      fault = error instanceof Error ? error.message : String(error);
      outcomes[subject] = { fault };
    }
    progress.end((performance.now() - started) / 1_000, fault);
  }
  return outcomes;
}

function print(results: Results, json: boolean): void {
  if (json) return console.log(JSON.stringify(results, null, 1));
  for (const [name, result] of Object.entries(results)) {
    console.log(terminalReport(name, SCENARIOS[name]!, result));
  }
}

function hasFaults(results: Results): boolean {
  return Object.values(results).some(({ rounds }: Result) =>
    rounds.some((round) =>
      Object.values(round).some((outcome) => "fault" in outcome)
    )
  );
}

// ---- The README -------------------------------------------------------------

const README = new URL("../README.md", import.meta.url);
const CHART = new URL("../docs/bench.svg", import.meta.url);

async function writeReadme(peers: readonly Peer[]): Promise<void> {
  const results = await readResults();
  const subjects = { scenarios: SCENARIOS, peers };
  const text = await Deno.readTextFile(README);
  const report = markdownReport(results, subjects);
  await Deno.writeTextFile(README, insertReport(text, report));
  await Deno.writeTextFile(CHART, chart(results, subjects));
  await formatFiles([README, CHART]);
}

/**
 * Formats files as all others of this repository.
 *
 * @throws {Error} If that fails. The message has the reason.
 */
export async function formatFiles(files: URL[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--quiet", ...files.map((file) => fileURLToPath(file))],
    cwd: new URL("..", import.meta.url),
  }).output();
  if (success) return;
  const reason = new TextDecoder().decode(stderr);
  throw new Error(`Cannot format what --readme has written: ${reason}`);
}

// ---- Arguments --------------------------------------------------------------

function scenarioNames(names: string[]): string[] {
  if (names.length === 0) return DEFAULTS;
  if (names.includes("all")) return Object.keys(SCENARIOS);
  for (const name of names) {
    if (!Object.hasOwn(SCENARIOS, name)) {
      const known = Object.keys(SCENARIOS).join(", ");
      throw new Error(`Cannot measure "${name}": there are ${known}`);
    }
  }
  return names;
}

function choose(peers: readonly Peer[], list: string | undefined): Peer[] {
  if (list === undefined) return [...peers];
  return list.split(",").map((name) => {
    const peer = peers.find((peer) => peer.name === name);
    if (peer) return peer;
    const known = peers.map(({ name }) => name).join(", ");
    throw new Error(`Cannot measure the peer "${name}": there are ${known}`);
  });
}

function number(
  flag: string,
  text: string | undefined,
  otherwise: number,
): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new Error(`Cannot use --${flag} ${text}: it has to be above 0`);
}

// ---- The machine ------------------------------------------------------------

/** A core for the server and another for the load, if there are two and taskset. */
async function findPin(): Promise<Settings["pin"]> {
  const none = { server: [], load: [] };
  if (navigator.hardwareConcurrency < 2) return none;
  try {
    const { success } = await new Deno.Command("taskset", {
      args: ["-c", "0,1", "true"],
    }).output();
    if (!success) return none;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return none;
    throw error;
  }
  return { server: ["taskset", "-c", "0"], load: ["taskset", "-c", "1"] };
}

async function machine({ pin }: Settings): Promise<string> {
  const cpu = await Deno.readTextFile("/proc/cpuinfo");
  const model = /^model name\s*:\s*(.*)$/m.exec(cpu)?.[1] ??
    "unknown processor";
  const node = await new Deno.Command("node", { args: ["--version"] }).output()
    .then(({ stdout }) => `, Node ${new TextDecoder().decode(stdout).trim()}`)
    .catch(() => "");
  const cores = navigator.hardwareConcurrency;
  const shared = pin.server.length > 0
    ? ", the server on one core and the load on another"
    : "";
  return `${model} with ${cores} cores${shared}, ${Deno.build.os}, Deno ` +
    `${Deno.version.deno}${node}`;
}

function today(): string {
  return new Date().toISOString().slice(0, 10);
}

if (import.meta.main) {
  try {
    Deno.exit(await main(Deno.args));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}
