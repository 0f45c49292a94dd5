/**
 * The proof that a dropped connection costs no message: clients of three kinds
 * behind a proxy that cuts, stalls, delays and truncates their connections on a
 * seed, while a program publishes to them.
 *
 * ```sh
 * deno run -A tests/programs/loss.ts --seed 1
 * deno run -A tests/programs/loss.ts --seed 1 --kind ours --transport xhr_polling --json
 * deno run -A tests/programs/loss.ts --seed 1 --beyond
 * deno run -A tests/programs/loss.ts --seed 1 --nodes 3 --redis own
 * ```
 *
 * @module
 */
import { parseArgs } from "node:util";
import { Progress } from "../support/progress.ts";
import { RedisServer } from "../support/redis.ts";
import {
  type Kind,
  KINDS,
  type Transport,
  TRANSPORTS,
} from "./loss/clients.ts";
import { BEYOND, type Beyond, type Row, run } from "./loss/run.ts";
import { faultsOf, table } from "./loss/verdict.ts";

const HELP = `Counts the messages that clients lose over bad connections.

Usage: deno run -A tests/programs/loss.ts [flags]

  --seed <n>         repeats a run's faults and publishers (default: random)
  --clients <n>      clients of each kind (default 20)
  --rate <n>         messages a second (default 200)
  --seconds <n>      how long connections are treated badly (default 20)
  --cuts <n>         how often meanwhile (default 100)
  --transport <t>    ws, xhr_streaming, xhr_polling or all (default)
  --kind <k>         ours, stock-session, stock or all (default)
  --beyond           with logs of the server that are too small in one respect
                     after another; stock clients without a session are left out
  --nodes <n>        servers behind a balancer, which share memory (default 1)
  --redis <url>      the Redis by which they are one, instead; "own" starts a
                     redis-server for it
  --no-last-cut      see below
  --trace <client>   print all that happens to one client (c0, c1, …) or to all
  --json             print the results as JSON; how far it is, is on stderr
  -h, --help         show this text

Each kind and each transport has a run of its own: a server, a proxy in front of
it, clients that reach it through the proxy, authorisation included, on a public,
a private, a presence and a cache channel, and signed in as one of four users. A
quarter of them comes later. Publishers are the program, the official SDK over
HTTP, and the clients among themselves; their way to the server is a good one.
What was published, and in which order, is what a subscriber with a good
connection hears.

The proxy resets connections, closes them, leaves them hanging (and then cuts
them or goes on), resets the client's end only, delays, cuts in the middle of a
chunk, and refuses new connections for a time. At the end it cuts every
connection once more and is good from then on: pusher-js over HTTP never repeats
a request that has failed, so a subscription that was lost stays lost until its
next reconnect. --no-last-cut leaves that out. Two more things are done for
pusher-js as a browser and a user would: after trying for 2.5 s it is told that
the machine is online, since by itself it waits for 15 s after an attempt that
failed; and one that has given up its transport, as it does after two short-lived
streams, is started anew with the same session.

A client should get every message that was published on a channel after it had
joined for the first time. Counted are:

  expected   messages that were for a client, summed up over the clients
  delivered  those that came
  lost       those that did not come, and the client was not told
  twice      deliveries of what had come before
  disorder   first deliveries of what should have come earlier
  echoed     deliveries to the client that sent the event, or that the publisher
             had left out
  reported   those that did not come, and the client was told of the gap
  reports    how often one was: pusher:recovery_failed

Exit status: 0 if our client has none of the last five but what is reported with
--beyond; if pusher-js with a session has none but duplicates, and with --nodes
echoes of what it published before it had subscribed; and if pusher-js
without one has lost something, as otherwise the faults did nothing. 1 if not, 2
for a mistake in the flags.`;

/** A mistake in the arguments: printed without a stack. */
class UsageError extends Error {
  override name = "UsageError";
}

const OPTIONS = {
  "seed": { type: "string" },
  "clients": { type: "string", default: "20" },
  "rate": { type: "string", default: "200" },
  "seconds": { type: "string", default: "20" },
  "cuts": { type: "string", default: "100" },
  "transport": { type: "string", default: "all" },
  "kind": { type: "string", default: "all" },
  "beyond": { type: "boolean", default: false },
  "nodes": { type: "string", default: "1" },
  "redis": { type: "string" },
  "last-cut": { type: "boolean", default: true },
  "trace": { type: "string" },
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

/** A number above 0, or 0 as well. */
function readNumber(name: string, text: string, least = 1): number {
  const value = Number(text);
  if (Number.isFinite(value) && value >= least && text !== "") return value;
  throw new UsageError(`--${name} is "${text}", and must be ${least} or more`);
}

/** One of a list, or all of it. */
function readChoice<T extends string>(
  name: string,
  text: string,
  all: readonly T[],
): readonly T[] {
  if (text === "all") return all;
  const found = all.filter((one) => one === text);
  if (found.length > 0) return found;
  throw new UsageError(
    `--${name} is "${text}", and must be one of ${all.join(", ")} or all`,
  );
}

async function main(args: string[]): Promise<number> {
  const flags = parseFlags(args);
  if (flags.help) {
    console.log(HELP);
    return 0;
  }
  const seed = flags.seed === undefined
    ? Date.now() >>> 0
    : readNumber("seed", flags.seed, 0);
  const settings = {
    seed,
    clients: readNumber("clients", flags.clients),
    rate: readNumber("rate", flags.rate),
    seconds: readNumber("seconds", flags.seconds, 0),
    cuts: readNumber("cuts", flags.cuts, 0),
    lastCut: flags["last-cut"],
    trace: flags.trace,
    nodes: readNumber("nodes", flags.nodes),
  };
  await using stack = new AsyncDisposableStack();
  const redis = flags.redis === "own"
    ? stack.use(await RedisServer.start()).url
    : flags.redis;
  const transports = readChoice("transport", flags.transport, TRANSPORTS);
  const kinds = readChoice("kind", flags.kind, KINDS);
  if (!flags.json) console.log(`seed ${seed}`);
  const rows: Row[] = [];
  const all = plans(kinds, transports, flags.beyond);
  using progress = new Progress(all.length);
  for (const [i, plan] of all.entries()) {
    const name = `${plan.kind} over ${plan.transport}`;
    const log = (line: string) => progress.show(i + 1, `${name}, ${line}`);
    rows.push(await run({ ...settings, ...plan, redis, log }));
    progress.clear();
    if (!flags.json) console.log(`\n${table(rows.slice(-1))}`);
  }
  const faults = rows.flatMap(faultsOf);
  if (flags.json) console.log(JSON.stringify({ rows, faults }, null, 2));
  else print(rows, faults);
  return faults.length === 0 ? 0 : 1;
}

/** What is run, one after the other. */
function plans(
  kinds: readonly Kind[],
  transports: readonly Transport[],
  isBeyond: boolean,
) {
  const logs: (Beyond | undefined)[] = isBeyond ? BEYOND : [undefined];
  return transports.flatMap((transport) =>
    kinds.filter((kind) => !isBeyond || kind !== "stock").flatMap((kind) =>
      logs.map((beyond) => ({ transport, kind, beyond }))
    )
  );
}

function print(rows: Row[], faults: string[]): void {
  console.log(`\n${table(rows)}`);
  if (faults.length === 0) return console.log("\nAll as it should be.");
  console.log(`\n${faults.join("\n")}`);
  for (const { kind, transport, examples } of rows) {
    if (kind === "stock" || examples.length === 0) continue;
    console.log(`\nOf ${kind} over ${transport}:`);
    for (const example of examples) console.log(`  ${example}`);
  }
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
