/**
 * The standalone server: a Pusher server with a port of its own. It serves clients
 * over WebSocket and, where their network blocks that, over HTTP.
 *
 * ```sh
 * deno run --allow-net --allow-env jsr:@glitz/pusher/cli --port 6001 --key app-key --secret app-secret
 * deno serve --port 6001 --allow-env jsr:@glitz/pusher/cli
 * ```
 *
 * `--help` lists the flags. Each has an environment variable of the same meaning;
 * a flag wins over its variable. Under `deno serve`, Deno's own flags set the port
 * and the hostname, and flags after the file or the environment set the rest. Add
 * `--parallel` only with `--redis`, without which each thread is a server of its own,
 * and with `--no-listen`.
 *
 * SIGTERM, SIGINT and SIGQUIT close the connections over `--drain` seconds, and the
 * program exits. Under `deno serve` only SIGQUIT does: at the others Deno closes all
 * connections at once, and clients reconnect after a second.
 *
 * `--metrics` adds `GET /metrics`, and `--log json` writes a log for programs.
 *
 * The exit code is 0 after a signal, 1 if it cannot listen or use Redis at the start, and
 * 2 if a flag, a variable or a file is wrong.
 *
 * `GET /healthz` answers 200 as long as the process lives, and `GET /readyz` answers
 * 503 while the server is closing or its backplane is away.
 *
 * @module
 */

import process from "node:process";
import { announce } from "./cli/announce.ts";
import { helpText } from "./cli/flags.ts";
import { standalone } from "./cli/handler.ts";
import { messageOf } from "./cli/log.ts";
import { exitUnheard, isListenError, Port } from "./cli/port.ts";
import { readSettings, UsageError } from "./cli/settings.ts";
import { type Standalone, standUp } from "./cli/standalone.ts";
import { requireDeno } from "./core/runtime.ts";
import { delay, SYSTEM_CLOCK, withinMs } from "./core/time.ts";

// ---- Server -----------------------------------------------------------------
// From the settings to a server that listens, and to the end of the process.

/** Listens until a signal. */
async function listen(started: Standalone): Promise<void> {
  const { settings, up, log } = started;
  if (up !== null) await up;
  const port = new Port(standalone(started), settings, log);
  // Windows has no SIGTERM, and no SIGQUIT.
  const signals = Deno.build.os === "windows"
    ? ["SIGINT"] as const
    : ["SIGINT", "SIGTERM", "SIGQUIT"] as const;
  // Before anybody can see that the server is there.
  stopAt(signals, started, () => port.close());
  try {
    port.open((address) => announce(address, settings, log));
  } catch (error) {
    // If this is `deno serve` whose port failed, it reports that in this turn.
    setTimeout(() => exitUnheard(error, log, settings), 0);
  }
}

/** Closes and exits at a signal; a second signal exits at once. */
function stopAt(
  signals: readonly Deno.Signal[],
  started: Standalone,
  end: () => Promise<void>,
): void {
  const { pusher, settings: { drainMs }, log } = started;
  const stop = async () => {
    if (pusher.meter.isClosing) Deno.exit(1);
    const { connections } = pusher.stats();
    log.say("draining", { connections, overSeconds: drainMs / 1000 }, null);
    // Nobody who waits for the end of the process waits for longer.
    const isDone = await withinMs(
      SYSTEM_CLOCK,
      drainMs + SETTLE_MS,
      close(started, end).then(() => true, (error) => {
        const message = messageOf(error);
        const text = `Pusher: failed while closing: ${message}`;
        log.say("error", { during: "closing", message }, text);
        return true;
      }),
    );
    if (!isDone) {
      const message = "exits before everything has been closed";
      log.say("error", { during: "closing", message }, `Pusher: ${message}`);
    }
    log.say("closed", {}, null);
    Deno.exit(0);
  };
  for (const signal of signals) Deno.addSignalListener(signal, stop);
}

/** How long the process may take to end, once all connections are closed. */
const SETTLE_MS = 10_000;

async function close(
  { pusher, settings, senders }: Standalone,
  end: () => Promise<void>,
): Promise<void> {
  await pusher.close({ over: settings.drainMs });
  await Promise.all(senders.map((sender) => sender.close()));
  await end();
}

/**
 * Listens again when the port of `deno serve` fails, which would end the process.
 * From then on the program listens, and stops, as under `deno run`.
 */
function survive(started: Standalone, port: Port): void {
  // The runtime panics if it adds its first listener without a descriptor left.
  const ignore = () => {};
  Deno.addSignalListener("SIGINT", ignore);
  Deno.removeSignalListener("SIGINT", ignore);
  let isOwn = false;
  addEventListener("unhandledrejection", (event) => {
    if (isOwn || !(event.reason instanceof Deno.errors.Http)) return;
    isOwn = true;
    event.preventDefault();
    const own = ["SIGINT", "SIGTERM"] as const;
    const signals = Deno.build.os === "windows" ? own.slice(0, 1) : own;
    stopAt(signals, started, () => port.close());
    port.reopen(event.reason);
  });
}

/** How long the other threads of `deno serve --parallel` may take to close, too. */
const THREADS_MS = 2_000;

/** Makes the server of the settings; exits if they are wrong. */
async function start(): Promise<Standalone> {
  try {
    const settings = readSettings(Deno.args);
    if (settings === null) {
      const isColoured = Deno.stdout.isTerminal() && !Deno.noColor;
      console.log(helpText(isColoured));
      Deno.exit(0);
    }
    return await standUp(settings);
  } catch (error) {
    const isMistake = error instanceof UsageError ||
      error instanceof TypeError || error instanceof RangeError;
    if (!isMistake) throw error;
    console.error(`${error.message}\nTry --help`);
    Deno.exit(2);
  }
}

/** Whether there is a Deno to run on. If not, prints what to run in one line. */
function isDeno(): boolean {
  try {
    requireDeno("Cannot start the server");
    return true;
  } catch (error) {
    console.error(messageOf(error));
    process.exitCode = 1;
    return false;
  }
}

/**
 * Starts the server, and returns what `deno serve` looks for.
 *
 * A program cannot see whether `deno run` or `deno serve` runs it. If it names a
 * port or a hostname of its own, it is `deno run`. Otherwise `deno serve` would call
 * `onListen` before the next turn of the event loop; if that has not happened by
 * then, the program listens on its own.
 */
async function main(): Promise<Partial<Deno.ServeDefaultExport>> {
  const started = await start();
  const { settings, log } = started;
  if (settings.ownAddress && !settings.isServed) {
    listen(started);
    return {};
  }
  const timer = settings.isServed
    ? undefined
    : setTimeout(() => listen(started), 0);
  const handler = standalone(started);
  const unheard = ({ reason }: PromiseRejectionEvent) => {
    if (isListenError(reason)) exitUnheard(reason, log);
  };
  addEventListener("unhandledrejection", unheard);
  const drain = () => {
    if (Deno.build.os === "windows") return;
    stopAt(["SIGQUIT"], started, () => delay(SYSTEM_CLOCK, THREADS_MS));
  };
  if (settings.isServed) drain();
  return {
    fetch: handler,
    onListen: (address) => {
      removeEventListener("unhandledrejection", unheard);
      clearTimeout(timer);
      announce(address as Deno.NetAddr, settings, log);
      if (!settings.isServed) drain();
      const own = { ...address as Deno.NetAddr, reusePort: false };
      survive(started, new Port(handler, own, log));
    },
  };
}

/** For `deno serve`; empty under `deno run`, and when the file is imported. */
const server: Partial<Deno.ServeDefaultExport> = isDeno()
  ? import.meta.main ? await main() : {}
  : {};

export default server;
