/**
 * The server of this package, as a program of the README has it, with what the
 * bench may ask of it besides.
 *
 * @module
 */
import process from "node:process";
import { setImmediate as nextTurn } from "node:timers/promises";
import { Pusher } from "../../mod.ts";
import { APP, type PeerOptions, type TriggerRequest } from "../peer.ts";

const options: PeerOptions = JSON.parse(Deno.args[0] ?? "{}");

const pusher = new Pusher({
  appId: APP.id,
  key: APP.key,
  secret: APP.secret,
  history: options.history === false ? false : {},
  limits: { presenceMembers: options.presenceMembers ?? 100 },
  backplane: options.redis === undefined
    ? undefined
    : (await import("../../ext/redis.ts")).redis(options.redis),
});

// ---- What the bench asks ----------------------------------------------------

/** Between two looks at the clock. */
const LOOK_MS = 1;

let longestMs = 0;

/**
 * Looks at the clock in every turn of the event loop that is not a short one. Time in
 * which another process had the core is not the turn's.
 */
function measureTurns(): void {
  let last = performance.now(), used = process.cpuUsage();
  setInterval(() => {
    const now = performance.now();
    const { user, system } = process.cpuUsage(used);
    const turnMs = Math.min(now - last - LOOK_MS, (user + system) / 1_000);
    longestMs = Math.max(longestMs, turnMs);
    last = now;
    used = process.cpuUsage();
  }, LOOK_MS);
}

function longestTurn(): Response {
  const turn = Response.json({ longestMs });
  longestMs = 0;
  return turn;
}

async function trigger(request: Request): Promise<Response> {
  const { first, count, channels, bytes, concurrency }: TriggerRequest =
    await request.json();
  const start = performance.now();
  let next = 0;
  const loop = async () => {
    while (next < count) {
      const k = next++;
      const mark = `@t${String(first + k).padStart(8, "0")} `;
      await pusher.trigger(`c${k % channels}`, "m", mark.padEnd(bytes, "x"));
      // As between two requests, sockets and timers get their turn.
      await nextTurn();
    }
  };
  await Promise.all(Array.from({ length: concurrency }, loop));
  return Response.json({ ms: performance.now() - start });
}

function control(request: Request): Response | Promise<Response> | null {
  const { pathname } = new URL(request.url);
  if (pathname === "/bench/turn") return longestTurn();
  return pathname === "/bench/trigger" ? trigger(request) : null;
}

if (options.turns) measureTurns();

Deno.serve({
  port: options.port,
  hostname: "127.0.0.1",
  onListen: () => console.log("ready"),
}, pusher.cascade(pusher.handler, control));
