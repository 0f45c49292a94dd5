/**
 * The proof that a cluster of servers on one Redis loses nothing and invents nothing:
 * nodes as processes of their own behind a balancer, clients of every kind, publishers
 * at every node and a receiver of webhooks, while nodes, Redis and the network fail on
 * a seed. After each act everything is compared with a model.
 *
 * ```sh
 * deno run -A tests/programs/cluster.ts --seed 1
 * deno run -A tests/programs/cluster.ts --seed 1 --seconds 1200 --crowd 600
 * deno run -A tests/programs/cluster.ts --seed 1 --only kill,freeze
 * ```
 *
 * @module
 */
import { parseArgs } from "node:util";
import { HAS_REDIS } from "../support/redis.ts";
import { type BlowKind, BLOWS, describe, planActs } from "./cluster/plan.ts";
import { run, type RunOptions } from "./cluster/run.ts";
import { show, verdict } from "./cluster/verdict.ts";

const HELP = `Tries whether a cluster on one Redis loses or invents anything.

Usage: deno run -A tests/programs/cluster.ts [flags]

  --seed <n>       repeats what happens, and in which order (default: random)
  --seconds <n>    for how long things happen (default 300); after each round of
                   all kinds it is looked at whether the time is over
  --nodes <n>      servers (default 3)
  --memory         one server, with everything in memory: only the network fails
  --tabs <n>       pages that are open (default 24)
  --rate <n>       messages a second (default 40)
  --crowd <n>      idle clients besides, to see how even a drain is (default 0)
  --lease <ms>     after how long a silent server counts as dead (default 10000)
  --history <ms>   for how long Redis keeps messages (default 120000)
  --drain <ms>     how long a server takes to close its connections (default 5000)
  --only <kinds>   only these things happen: ${BLOWS.join(", ")}
  --single         an audit after each thing that happens
  --no-measure     does not measure how fast servers publish
  --plan           prints what would happen, and ends
  --json           prints the results as JSON
  -h, --help       shows this text

Nodes are processes; each reaches Redis through a proxy of its own. Clients are
ours with recovery, pusher-js with a session and pusher-js without, over WebSocket
and over HTTP, behind a proxy that treats connections badly and a balancer.
Observers are at each node: what they hear at which position is the truth, and two
observers must never hear different things at one position.

After each act, which is up to three of the things above, it has to be so that
  - our client has each message exactly once, pusher-js with a session at least
    once, in order; and nobody was told of a gap unless Redis was emptied,
  - each member came and left in turn, by what was published and by what each
    observer was told; who was there all the time has never left,
  - counts, channels and users at each node, the members that each client sees and
    what the webhooks have said are those of the model,
  - no node has ended by itself, and each key has a prefix and an end.
At the end everybody leaves, and nothing may stay in Redis or in a node.

Exit status: 0 if all that holds, 1 if not, 2 for a mistake in the flags.`;

/** A mistake in the arguments: printed without a stack. */
class UsageError extends Error {
  override name = "UsageError";
}

const OPTIONS = {
  "seed": { type: "string" },
  "seconds": { type: "string", default: "300" },
  "nodes": { type: "string", default: "3" },
  "memory": { type: "boolean", default: false },
  "tabs": { type: "string", default: "24" },
  "rate": { type: "string", default: "40" },
  "crowd": { type: "string", default: "0" },
  "lease": { type: "string", default: "10000" },
  "history": { type: "string", default: "120000" },
  "drain": { type: "string", default: "5000" },
  "only": { type: "string" },
  "single": { type: "boolean", default: false },
  "measure": { type: "boolean", default: true },
  "plan": { type: "boolean", default: false },
  "json": { type: "boolean", default: false },
  "help": { type: "boolean", default: false, short: "h" },
} as const;

function parseFlags(args: string[]) {
  try {
    return parseArgs({
      args,
      options: OPTIONS,
      strict: true,
      allowNegative: true,
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : `${error}`);
  }
}

function readNumber(name: string, text: string, least = 0): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= least && text !== "") return value;
  throw new UsageError(`--${name} is "${text}", and must be ${least} or more`);
}

function readKinds(text: string | undefined): BlowKind[] | undefined {
  return text?.split(",").map((name) => {
    const kind = BLOWS.find((one) => one === name);
    if (kind !== undefined) return kind;
    throw new UsageError(`--only has "${name}", and knows ${BLOWS.join(", ")}`);
  });
}

async function main(args: string[]): Promise<number> {
  const flags = parseFlags(args);
  if (flags.help) {
    console.log(HELP);
    return 0;
  }
  const { memory: isInMemory } = flags;
  if (!isInMemory && !HAS_REDIS) {
    throw new UsageError("redis-server is not installed; see --memory");
  }
  const kinds = readKinds(flags.only) ?? (isInMemory ? ["drop"] : BLOWS);
  const options: RunOptions = {
    seed: flags.seed === undefined
      ? Date.now() >>> 0
      : readNumber("seed", flags.seed),
    nodes: isInMemory ? 1 : readNumber("nodes", flags.nodes, 1),
    isInMemory,
    tabs: readNumber("tabs", flags.tabs, 1),
    rate: readNumber("rate", flags.rate, 1),
    seconds: readNumber("seconds", flags.seconds),
    blows: kinds.length,
    blowsPerAct: flags.single ? 1 : 3,
    kinds,
    leaseMs: readNumber("lease", flags.lease, 500),
    historyMs: readNumber("history", flags.history, 1_000),
    settleMs: 3_000,
    drainMs: readNumber("drain", flags.drain),
    crowd: readNumber("crowd", flags.crowd),
    measures: flags.measure && !isInMemory,
    log: flags.json ? console.error : console.log,
  };
  if (!flags.json) console.log(`seed ${options.seed}`);
  if (flags.plan) {
    for (const act of planActs(options)) console.log(describe(act));
    return 0;
  }
  const report = await run(options);
  const faults = verdict(report, options);
  if (flags.json) console.log(JSON.stringify({ report, faults }, null, 2));
  else console.log(`\n${show(report)}\n${faults.join("\n") || "\nAll holds."}`);
  return faults.length === 0 ? 0 : 1;
}

if (import.meta.main) {
  try {
    // A client that has lost its server goes on trying: say it is enough.
    Deno.exit(await main(Deno.args));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(`${error.message}\nTry --help`);
    Deno.exit(2);
  }
}
