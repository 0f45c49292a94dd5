/**
 * Tries a Pusher Channels server against the numbered checklist of the protocol,
 * with raw sockets and with the stock clients, and prints what holds. Items 98 to
 * 100 try the clients themselves, this repository's own among them, and need no
 * server.
 *
 * ```sh
 * deno run -A tests/programs/conformance.ts
 * deno run -A tests/programs/conformance.ts --nodes 3
 * deno run -A tests/programs/conformance.ts --url http://127.0.0.1:6001 \
 *   --app-id 1 --key app-key --secret app-secret
 * ```
 *
 * @module
 */
import { parseArgs, stripVTControlCharacters } from "node:util";
import {
  Bench,
  type Cluster,
  ForeignHost,
  type Hosts,
  type Item,
  OwnHosts,
  type Sections,
  type Settings,
} from "./conformance/bench.ts";
import { CHANNELS } from "./conformance/channels.ts";
import { CLIENT } from "./conformance/client.ts";
import { CONNECTION } from "./conformance/connection.ts";
import { HTTP_API } from "./conformance/http_api.ts";
import { HTTP_TRANSPORTS } from "./conformance/http_transports.ts";
import { USERS } from "./conformance/users.ts";
import { WEBHOOKS } from "./conformance/webhooks.ts";
import { type App, NotHeld } from "./conformance/wire.ts";
import { within } from "../support/deadline.ts";
import { Progress } from "../support/progress.ts";
import { HAS_REDIS, RedisServer } from "../support/redis.ts";

const SECTIONS: Sections = [
  ...CONNECTION,
  ...CHANNELS,
  ...USERS,
  ...HTTP_API,
  ...WEBHOOKS,
  ...HTTP_TRANSPORTS,
  ...CLIENT,
];

const HELP = `Tries a Pusher Channels server against the protocol's checklist.

Usage: deno run -A tests/programs/conformance.ts [flags]

  --url <url>          server to try, such as http://127.0.0.1:6001; without it
                       cli.ts is started with whatever the items need
  --app-id <id>        the app at that server (default 1)
  --key <key>          (default app-key)
  --secret <secret>    (default app-secret)
  --assume <settings>  how that server is set up, in the words of cli.ts's flags:
                       client-events, subscription-counts, max-connections=3,
                       activity-timeout=30, pong-timeout=30, cache-ttl=3600,
                       apps=file.json (as for cli.ts; the first app is used for
                       all items, and one has "enabled": false),
                       webhook=http://127.0.0.1:9000/hooks (where it delivers:
                       the items listen there); items that need more are skipped
  --nodes <number>     try so many servers behind a balancer, which Redis makes
                       one; without --url
  --redis <url>        the Redis for that; without it redis-server is started
  --only <numbers>     such as 1,5,17-23
  --json               print the results as JSON; how far it is, is on stderr
  -h, --help           show this text

Exit status: 0 if all that was run holds, 1 if not, 2 for a mistake in the flags.`;

/** Ample for the slowest item on a busy machine; liveness comes on top. */
const ITEM_DEADLINE_MS = 240_000;
/** How often an item sits out the time after which a server gives clients up. */
const LIVENESS_PERIODS = 4;

/** Items at a time: they mostly wait. */
const CONCURRENCY = 16;

/** What became of an item. */
interface Result {
  readonly item: number;
  readonly title: string;
  readonly result: "held" | "not held" | "skipped";
  /** What was seen, or why it was skipped. */
  readonly seen: string;
  readonly ms: number;
}

/** A mistake in the arguments: printed without a stack. */
class UsageError extends Error {
  override name = "UsageError";
}

// ---- Running ----------------------------------------------------------------

/** Runs items: those that can be together, then the others one by one. */
async function runAll(items: Item[], hosts: Hosts): Promise<Result[]> {
  const isLater = ({ isAlone, isLast }: Item) =>
    isLast === true || (isAlone === true && !hosts.separates);
  const queue = items.filter((item) => !isLater(item))
    .sort(by((item) => !item.isSlow));
  const results: Result[] = [];
  using progress = new Progress(items.length);
  const work = async () => {
    for (let item = queue.shift(); item; item = queue.shift()) {
      progress.show(results.length, `item ${item.number}, ${item.title}`);
      results.push(await runOne(item, hosts));
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, work));
  queue.push(...items.filter(isLater).sort(by((item) => item.isLast)));
  await work();
  return results.sort((a, b) => a.item - b.item);
}

/** Sorts what has a property behind what has not. */
function by(has: (item: Item) => boolean | undefined) {
  return (a: Item, b: Item) =>
    Number(has(a) ?? false) - Number(has(b) ?? false);
}

async function runOne(item: Item, hosts: Hosts): Promise<Result> {
  const { number, title } = item;
  const startedAt = performance.now();
  const result = (result: Result["result"], seen: string): Result => {
    const ms = Math.round(performance.now() - startedAt);
    return { item: number, title, result, seen, ms };
  };
  const refusal = hosts.refuse(item);
  if (refusal !== null) return result("skipped", refusal);
  try {
    await using bench = new Bench(number, await hosts.open(item), hosts);
    const liveness = bench.milliseconds("activity-timeout") +
      bench.milliseconds("pong-timeout");
    const ms = ITEM_DEADLINE_MS + LIVENESS_PERIODS * liveness;
    const seen = within(ms, "end of the item", item.run(bench));
    return result("held", await seen);
  } catch (error) {
    const message = error instanceof NotHeld
      ? error.message
      : error instanceof Error
      ? `${error.name}: ${error.message}`
      : String(error);
    return result("not held", stripVTControlCharacters(message));
  }
}

// ---- Printing ---------------------------------------------------------------

/** Prints the matrix by section. */
function print(results: Result[], seconds: number): void {
  const byItem = new Map(results.map((result) => [result.item, result]));
  for (const [section, items] of SECTIONS) {
    const own = items.flatMap(({ number }) => byItem.get(number) ?? []);
    if (own.length > 0) console.log(`\n${section}`);
    for (const { item, title, result, seen } of own) {
      console.log(`${`${item}`.padStart(3)}  ${result.padEnd(8)}  ${title}`);
      console.log(`               ${result === "held" ? "" : "→ "}${seen}`);
    }
  }
  const { held, notHeld, skipped } = count(results);
  console.log(
    `\n${held} held, ${notHeld} not held, ${skipped} skipped, ` +
      `in ${seconds.toFixed(0)} s`,
  );
}

function count(results: Result[]) {
  const of = (kind: Result["result"]) =>
    results.filter(({ result }) => result === kind).length;
  return { held: of("held"), notHeld: of("not held"), skipped: of("skipped") };
}

// ---- Arguments --------------------------------------------------------------

const OPTIONS = {
  "url": { type: "string" },
  "app-id": { type: "string", default: "1" },
  "key": { type: "string", default: "app-key" },
  "secret": { type: "string", default: "app-secret" },
  "assume": { type: "string", multiple: true },
  "nodes": { type: "string" },
  "redis": { type: "string" },
  "only": { type: "string" },
  "json": { type: "boolean", default: false },
  "help": { type: "boolean", default: false, short: "h" },
} as const;

function parseFlags(args: string[]) {
  try {
    return parseArgs({ args, options: OPTIONS, strict: true }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : `${error}`);
  }
}

type Flags = ReturnType<typeof parseFlags>;

/** The items of `1,5,17-23`, or all. */
function selectItems(only: string | undefined): Item[] {
  const items = SECTIONS.flatMap(([, items]) => items);
  if (only === undefined) return items;
  const wanted = only.split(",").flatMap((part) => {
    const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(part) ?? [];
    const found = items.filter(({ number }) =>
      number >= Number(first) && number <= Number(last)
    );
    if (found.length > 0) return found;
    throw new UsageError(`--only has "${part}", and must have item numbers`);
  });
  return items.filter((item) => wanted.includes(item));
}

/** The server of the flags, or servers of our own. */
async function findHosts(
  flags: Flags,
  stack: AsyncDisposableStack,
): Promise<Hosts> {
  if (flags.url === undefined) {
    if (flags.assume) throw new UsageError("--assume goes with --url");
    const cluster = await findCluster(flags, stack);
    return stack.use(new OwnHosts(cluster));
  }
  if (flags.nodes !== undefined) {
    throw new UsageError("--nodes goes without --url");
  }
  const url = URL.parse(flags.url);
  if (!url || !/^https?:$/.test(url.protocol) || url.pathname !== "/") {
    throw new UsageError(
      `--url is "${flags.url}", and must be http or https and have no path`,
    );
  }
  const { "app-id": id, key, secret } = flags;
  const settings = readSettings(flags.assume ?? []);
  const apps = typeof settings.apps === "string"
    ? JSON.parse(Deno.readTextFileSync(settings.apps)) as App[]
    : [{ id, key, secret }];
  return stack.use(new ForeignHost(url.origin, apps, settings));
}

/** The servers that --nodes asks for, with a Redis that ends with the stack. */
async function findCluster(
  { nodes, redis }: Flags,
  stack: AsyncDisposableStack,
): Promise<Cluster | null> {
  if (nodes === undefined) {
    if (redis === undefined) return null;
    throw new UsageError("--redis goes with --nodes");
  }
  const count = Number(nodes);
  if (!Number.isInteger(count) || count < 1) {
    throw new UsageError(`--nodes is "${nodes}", and must be 1 or more`);
  }
  if (redis !== undefined) return { nodes: count, redis };
  if (!HAS_REDIS) {
    throw new UsageError("--nodes needs redis-server, or --redis with a URL");
  }
  const { url } = stack.use(await RedisServer.start());
  return { nodes: count, redis: url };
}

function readSettings(lists: string[]): Settings {
  return Object.fromEntries(
    lists.flatMap((list) => list.split(",")).map((part) => {
      const [name, ...value] = part.split("=");
      return [name, value.length > 0 ? value.join("=") : true];
    }),
  );
}

async function main(args: string[]): Promise<number> {
  const flags = parseFlags(args);
  if (flags.help) {
    console.log(HELP);
    return 0;
  }
  const items = selectItems(flags.only);
  await using stack = new AsyncDisposableStack();
  const hosts = await findHosts(flags, stack);
  const startedAt = performance.now();
  const results = await runAll(items, hosts);
  if (flags.json) console.log(JSON.stringify(results, null, 2));
  else print(results, (performance.now() - startedAt) / 1000);
  return count(results).notHeld > 0 ? 1 : 0;
}

/**
 * Keeps the tool alive when a stock client throws at what a server sent, or when
 * an item has failed before it came to wait for something else that fails too:
 * items say themselves what they miss.
 */
function surviveFaults(): void {
  for (const name of ["error", "unhandledrejection"]) {
    addEventListener(name, (event) => event.preventDefault());
  }
}

if (import.meta.main) {
  try {
    surviveFaults();
    // A stock client that has lost its server goes on trying: say it is enough.
    Deno.exit(await main(Deno.args));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(`${error.message}\nTry --help`);
    Deno.exit(2);
  }
}
