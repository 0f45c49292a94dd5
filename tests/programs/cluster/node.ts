/**
 * One server of a cluster, as a process: what a program of a user would be, with a
 * few routes for the one that tries it.
 *
 * It takes its settings as JSON in its only argument, and prints a line of JSON for
 * whatever happens to it.
 *
 * @module
 */
import { Pusher } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { redis } from "@glitz/pusher/redis";
import { webhooks } from "@glitz/pusher/webhooks";
import { delay, SYSTEM_CLOCK } from "../../../core/time.ts";
import type { App } from "../../support/wire.ts";

/** What the server is to be. */
export interface NodeSettings {
  readonly app: App;
  readonly port: number;
  /** Where its Redis is; null to keep everything in memory. */
  readonly redis: string | null;
  readonly prefix: string;
  readonly leaseMs: number;
  readonly historyMs: number;
  readonly cacheMs: number;
  /** Where webhooks go. */
  readonly webhookUrl: string;
  /** For how long they are held back. */
  readonly settleMs: number;
  /** How long it closes its connections at SIGTERM. */
  readonly drainMs: number;
}

/** What it prints. */
export type NodeLine =
  | { readonly ready: true }
  | { readonly up: boolean }
  | { readonly error: string; readonly during: string }
  | { readonly webhook: string };

/** What `GET /control/stats` answers. */
export interface NodeStats {
  readonly connections: number;
  readonly channels: number;
  readonly sessions: number;
  readonly bufferedBytes: number;
  readonly rssBytes: number;
}

/** The exit code of a server that did not reach Redis at its start. */
export const START_FAILED = 3;

/** Silence after which a client is asked whether it is still there. */
const PING_AFTER_MS = 3_000;
const PONG_TIMEOUT_MS = 3_000;
/** How long the process may take to end after its last connection. */
const END_MS = 5_000;
/** How long a measurement of publishing may take at most. */
const MAX_BENCH_MS = 20_000;

function print(line: NodeLine): void {
  console.log(JSON.stringify(line));
}

async function main(settings: NodeSettings): Promise<void> {
  const { app: { id, key, secret }, leaseMs, prefix, cacheMs } = settings;
  const pusher = new Pusher({
    ...{ appId: id, key, secret },
    clientEvents: true,
    cacheTtlMs: cacheMs,
    pingAfterMs: PING_AFTER_MS,
    pongTimeoutMs: PONG_TIMEOUT_MS,
    history: { events: 50_000, ageMs: settings.historyMs },
    ...settings.redis === null
      ? {}
      : { backplane: redis(settings.redis, { prefix, leaseMs }) },
    // Clients say with their form who they are: nobody else is here. A user has
    // several tabs, and each of them a number after a dot.
    authorize: (_request, { params }) => {
      const [user_id] = params.get("name")?.split(".") ?? [];
      return user_id === undefined ? false : { user_id };
    },
    authenticate: (_request, { params }) => {
      const id = params.get("user");
      return id === null ? null : { id };
    },
  });
  pusher.on("error", ({ error, during }) => {
    print({ error: String(error), during });
  });
  pusher.on("backplane", ({ up }) => {
    print({ up });
  });
  const hooks = webhooks(pusher, {
    ...{ key, secret },
    settleMs: settings.settleMs,
    endpoints: [{ url: settings.webhookUrl }],
    onError: (error) => print({ webhook: String(error) }),
  });
  let isClosing = false;
  const control = (request: Request) => answer(pusher, request, isClosing);
  const server = Deno.serve(
    {
      port: settings.port,
      hostname: "127.0.0.1",
      onListen() {},
    },
    Pusher.cascade(control, pusher.handler, fallback(pusher)),
  );
  Deno.addSignalListener("SIGTERM", async () => {
    if (isClosing) return;
    isClosing = true;
    await pusher.close({ over: settings.drainMs });
    await hooks.close();
    await Promise.race([server.shutdown(), delay(SYSTEM_CLOCK, END_MS)]);
    Deno.exit(0);
  });
  await started(pusher);
}

/** Serves what is not for clients; 404 for all else. */
async function answer(
  pusher: Pusher,
  request: Request,
  isClosing: boolean,
): Promise<Response> {
  const url = URL.parse(request.url);
  switch (url?.pathname) {
    case "/readyz": {
      const isReady = !isClosing && pusher.stats().ready;
      return new Response(isClosing ? "closing" : isReady ? "ready" : "away", {
        status: isReady ? 200 : 503,
      });
    }
    case "/control/stats": {
      const { connections, channels, sessions, bufferedBytes } = pusher.stats();
      const { rss: rssBytes } = Deno.memoryUsage();
      const stats: NodeStats = {
        ...{ connections, channels, sessions, bufferedBytes, rssBytes },
      };
      return Response.json(stats);
    }
    case "/control/bench": {
      const ms = Number(url.searchParams.get("ms"));
      const inFlight = Number(url.searchParams.get("inFlight"));
      return Response.json({
        perSecond: await bench(pusher, Math.min(ms, MAX_BENCH_MS), inFlight),
      });
    }
    default:
      return new Response(null, { status: 404 });
  }
}

/** Publishes to channels without subscribers; returns how many a second. */
export async function bench(
  pusher: Pick<Pusher, "trigger">,
  ms: number,
  inFlight: number,
): Promise<number> {
  const data = "x".repeat(200);
  const start = performance.now();
  let count = 0;
  await Promise.all(Array.from({ length: inFlight }, async (_, i) => {
    while (performance.now() - start < ms) {
      await pusher.trigger(`bench-${i % 16}`, "message", data);
      count++;
      // In memory nothing else would ever have its turn.
      if (count % 256 === 0) await delay(SYSTEM_CLOCK, 0);
    }
  }));
  return Math.round(count / (performance.now() - start) * 1_000);
}

/** Waits until the server can serve; it never will if it cannot reach Redis now. */
async function started(pusher: Pusher): Promise<void> {
  try {
    await pusher.channels();
    print({ ready: true });
  } catch (error) {
    print({ error: String(error), during: "start" });
    Deno.exit(START_FAILED);
  }
}

/** Ends with the program that has started it, however that ends. */
async function endWithParent(): Promise<void> {
  for await (const _ of Deno.stdin.readable);
  Deno.exit(1);
}

if (import.meta.main) endWithParent();
if (import.meta.main) await main(JSON.parse(Deno.args[0] ?? ""));
