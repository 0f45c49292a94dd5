/**
 * The standalone server: a Pusher server that owns its port. It serves clients
 * over WebSocket and, where their network allows no other, over HTTP.
 *
 * ```sh
 * deno run --allow-net --allow-env jsr:@glitz/pusher/cli --port 6001 --key app-key --secret app-secret
 * deno serve --port 6001 --allow-env jsr:@glitz/pusher/cli
 * ```
 *
 * `--help` lists the flags. Each has an environment variable of the same meaning;
 * a flag wins over its variable. Under `deno serve` the port and the hostname are
 * Deno's own flags, and the rest comes from flags after the file, or the
 * environment. There it is Deno that answers signals, and it closes all
 * connections at once: clients come back after a second.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { fallback } from "./ext/fallback.ts";
import { type Webhooks, webhooks } from "./ext/webhooks.ts";
import {
  type AppOptions,
  type History,
  Pusher,
  type PusherOptions,
} from "./mod.ts";

// ---- Flags ------------------------------------------------------------------
// One table is what is parsed, what the environment may say, and the help text.

interface Flag {
  readonly type: "string" | "boolean";
  readonly variable?: string;
  readonly value?: string;
  readonly help: string;
  readonly short?: string;
  readonly multiple?: boolean;
}

const FLAGS = {
  "port": {
    type: "string",
    variable: "PUSHER_PORT",
    value: "number",
    help: "port to listen on, 0 for any that is free (default 6001)",
  },
  "hostname": {
    type: "string",
    variable: "PUSHER_HOSTNAME",
    value: "address",
    help: "address to listen on (default 0.0.0.0)",
  },
  "app-id": {
    type: "string",
    variable: "PUSHER_APP_ID",
    value: "id",
    help: "the app's id, in HTTP API paths (default app-id)",
  },
  "key": {
    type: "string",
    variable: "PUSHER_APP_KEY",
    value: "key",
    help: "the app's key, which clients name (default app-key)",
  },
  "secret": {
    type: "string",
    variable: "PUSHER_APP_SECRET",
    value: "secret",
    help: "the app's secret; without one nobody can publish",
  },
  "apps": {
    type: "string",
    variable: "PUSHER_APPS",
    value: "file",
    help: "JSON file with an array of several apps instead: " +
      '[{ "id", "key", "secret", "clientEvents"?, "limits"? }]',
  },
  "client-events": {
    type: "boolean",
    variable: "PUSHER_CLIENT_EVENTS",
    help: "let clients send events to each other",
  },
  "subscription-counts": {
    type: "boolean",
    variable: "PUSHER_SUBSCRIPTION_COUNTS",
    help: "tell subscribers how many they are",
  },
  "cache-ttl": {
    type: "string",
    variable: "PUSHER_CACHE_TTL",
    value: "seconds",
    help: "how long cache channels keep their last event (default 1800)",
  },
  "history-events": {
    type: "string",
    variable: "PUSHER_HISTORY_EVENTS",
    value: "number",
    help: "events of a channel that are kept for clients which lose their " +
      "connection (default 5000)",
  },
  "history-seconds": {
    type: "string",
    variable: "PUSHER_HISTORY_SECONDS",
    value: "seconds",
    help: "how long they are kept (default 300)",
  },
  "history-bytes": {
    type: "string",
    variable: "PUSHER_HISTORY_BYTES",
    value: "bytes",
    help: "what all of them may take (default 67108864)",
  },
  "no-history": {
    type: "boolean",
    variable: "PUSHER_NO_HISTORY",
    help: "keep no events: what a client misses is lost",
  },
  "webhook": {
    type: "string",
    variable: "PUSHER_WEBHOOKS",
    value: "url",
    multiple: true,
    help: "address that is told of channels, members and client events, " +
      "signed by the app; may be repeated, and the variable takes a comma list",
  },
  "path": {
    type: "string",
    variable: "PUSHER_PATH",
    value: "prefix",
    help: "prefix of every route, such as /realtime",
  },
  "origin": {
    type: "string",
    variable: "PUSHER_ORIGINS",
    value: "origin",
    multiple: true,
    help: "page that may open sockets, such as https://example.com or " +
      "https://*.example.com; may be repeated, and the variable takes " +
      "a comma list (default: any)",
  },
  "activity-timeout": {
    type: "string",
    variable: "PUSHER_ACTIVITY_TIMEOUT",
    value: "seconds",
    help: "silence after which a client is pinged (default 120)",
  },
  "pong-timeout": {
    type: "string",
    variable: "PUSHER_PONG_TIMEOUT",
    value: "seconds",
    help: "how long it may take to answer (default 30)",
  },
  "authorization-timeout": {
    type: "string",
    variable: "PUSHER_AUTHORIZATION_TIMEOUT",
    value: "seconds",
    help: "close connections that by then have neither signed in nor joined " +
      "a private or presence channel (default: they may stay)",
  },
  "max-connections": {
    type: "string",
    variable: "PUSHER_MAX_CONNECTIONS",
    value: "number",
    help: "connections of one app (default: no limit)",
  },
  "drain": {
    type: "string",
    variable: "PUSHER_DRAIN",
    value: "seconds",
    help: "on SIGTERM and SIGINT, spread the closing of connections over " +
      "this long; a second signal stops at once (default 5)",
  },
  "help": { type: "boolean", short: "h", help: "show this text" },
} as const satisfies Record<string, Flag>;

const HELP_COLUMN = 36;
const HELP_WIDTH = 80;

/** The text of `--help`. */
function help(): string {
  const flags = Object.entries(FLAGS as Record<string, Flag>).map(
    ([name, { help, value, variable, short }]) => {
      const flag = `${short ? `-${short}, ` : ""}--${name}${
        value ? ` <${value}>` : ""
      }`;
      const text = variable ? `${help} [${variable}]` : help;
      return `  ${flag}`.padEnd(HELP_COLUMN) + wrap(text);
    },
  );
  return `A Pusher Channels server.

Usage: deno run --allow-net [--allow-env] [--allow-read] cli.ts [flags]
       deno serve --port 6001 [--allow-env] cli.ts [flags]

${flags.join("\n")}

The name in brackets is the environment variable of the flag, which is read
where --allow-env permits it.`;
}

/** Breaks a text into the lines of the right-hand column. */
function wrap(text: string): string {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1);
    if (HELP_COLUMN + `${line} ${word}`.length > HELP_WIDTH) lines.push(word);
    else lines[lines.length - 1] = line ? `${line} ${word}` : word;
  }
  return lines.join("\n" + " ".repeat(HELP_COLUMN));
}

// ---- Settings ---------------------------------------------------------------
// What the flags and the environment come to.

// No deployment waits for a day.
const MAX_DRAIN_MS = 86_400_000;

interface Settings {
  readonly port: number;
  readonly hostname: string;
  /** Whether a port or a hostname was asked for. */
  readonly ownAddress: boolean;
  readonly drainMs: number;
  readonly webhooks: readonly string[];
  readonly pusher: PusherOptions;
}

/** A mistake in the arguments: printed without a stack. */
class UsageError extends Error {
  override name = "UsageError";
}

/** Reads flags and environment; `null` if only help is wanted. */
function readSettings(args: string[]): Settings | null {
  const values = parseFlags(args);
  if (values.help) return null;
  const read = (name: keyof typeof FLAGS): string | undefined => {
    const value = values[name];
    if (Array.isArray(value)) return value.join(",");
    return value === undefined ? environment(name) : String(value);
  };
  const number = (name: keyof typeof FLAGS, standard: number): number => {
    const text = read(name);
    const value = text === undefined ? standard : Number(text);
    if (text === "" || !(value >= 0)) {
      throw new UsageError(
        `--${name} is "${text}", and must be a number from 0`,
      );
    }
    return value;
  };
  const port = number("port", 6001);
  if (!Number.isInteger(port) || port > 65_535) {
    throw new UsageError(`--port is ${port}, and must be from 0 to 65535`);
  }
  const drainMs = number("drain", 5) * 1000;
  if (drainMs > MAX_DRAIN_MS) {
    throw new UsageError(
      `--drain is ${drainMs / 1000}, and must be at most ${
        MAX_DRAIN_MS / 1000
      }`,
    );
  }
  const list = (name: keyof typeof FLAGS) =>
    read(name)?.split(",").map((item) => item.trim());
  const hostname = read("hostname");
  return {
    port,
    hostname: hostname ?? "0.0.0.0",
    ownAddress: read("port") !== undefined || hostname !== undefined,
    drainMs,
    webhooks: list("webhook") ?? [],
    pusher: {
      ...readApps(read),
      clientEvents: readBoolean("client-events", read("client-events")),
      subscriptionCounts: readBoolean(
        "subscription-counts",
        read("subscription-counts"),
      ),
      cacheTtlMs: number("cache-ttl", 1800) * 1000,
      history: readBoolean("no-history", read("no-history"))
        ? false
        : readHistory((name) =>
          read(name) === undefined ? undefined : number(name, 0)
        ),
      authorizationTimeoutMs: read("authorization-timeout") === undefined
        ? undefined
        : number("authorization-timeout", 0) * 1000,
      activityTimeoutMs: number("activity-timeout", 120) * 1000,
      pongTimeoutMs: number("pong-timeout", 30) * 1000,
      limits: { connections: number("max-connections", Infinity) },
      path: read("path"),
      origins: list("origin"),
    },
  };
}

function parseFlags(args: string[]): Record<string, unknown> {
  try {
    return parseArgs({ args, options: FLAGS, strict: true }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : `${error}`);
  }
}

/** One app, or the several of a file. */
function readApps(
  read: (name: keyof typeof FLAGS) => string | undefined,
): PusherOptions {
  const file = read("apps");
  const [appId, key, secret] = [read("app-id"), read("key"), read("secret")];
  if (file === undefined) return { appId, key, secret };
  const refuse = (why: string) =>
    new UsageError(`--apps "${file}" cannot be used: ${why}`);
  let apps: unknown;
  try {
    apps = JSON.parse(Deno.readTextFileSync(file));
  } catch (error) {
    // The file holds secrets, and a JSON error quotes what it stumbled over.
    throw refuse(error instanceof SyntaxError ? "it is not JSON" : `${error}`);
  }
  const fits = Array.isArray(apps) &&
    apps.every((app) => typeof app === "object" && app !== null);
  if (!fits) throw refuse("it is not an array of objects");
  // What the objects hold is checked by Pusher.
  return { apps: apps as AppOptions[], appId, key, secret };
}

/** What is kept, as far as something was said of it. */
function readHistory(
  number: (name: keyof typeof FLAGS) => number | undefined,
): Partial<History> {
  const events = number("history-events");
  const seconds = number("history-seconds");
  const bytes = number("history-bytes");
  return {
    ...(events !== undefined && { events }),
    ...(seconds !== undefined && { ageMs: seconds * 1000 }),
    ...(bytes !== undefined && { bytes }),
  };
}

function readBoolean(name: string, text: string | undefined): boolean {
  if (text === undefined || text === "false" || text === "0") return false;
  if (text === "true" || text === "1" || text === "") return true;
  throw new UsageError(`--${name} is "${text}", and must be true or false`);
}

/** A flag's environment variable, where reading it is permitted. */
function environment(name: keyof typeof FLAGS): string | undefined {
  const { variable }: Flag = FLAGS[name];
  if (variable === undefined) return undefined;
  const permission = { name: "env", variable } as const;
  const granted = Deno.permissions.querySync(permission).state === "granted";
  return granted ? Deno.env.get(variable) : undefined;
}

// ---- Server -----------------------------------------------------------------
// The port is ours alone, so what is nobody's is answered here.

/** Makes the handler of a server that owns its port. */
function standalone(
  pusher: Pusher,
): (request: Request) => Promise<Response> {
  const refuseSockets = (request: Request) =>
    request.headers.get("upgrade")?.toLowerCase() === "websocket"
      ? refuseSocket(request)
      : null;
  // The last one tells of all routes that there are not, in JSON.
  return pusher.cascade(pusher.handler, refuseSockets, fallback(pusher));
}

/**
 * Closes a socket on an unknown path with 4005: a browser sees no HTTP status on
 * a failed upgrade, and would try again for ever.
 */
function refuseSocket(request: Request): Response {
  try {
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.addEventListener("open", () => {
      const message = "There is no such path";
      const data = { code: 4005, message };
      socket.send(JSON.stringify({ event: "pusher:error", data }));
      socket.close(data.code, message);
    });
    return response;
  } catch {
    const error = "The upgrade request is not valid";
    return Response.json({ error }, { status: 400 });
  }
}

/** Listens until a signal says to stop; a second one stops at once. */
function listen({ pusher, settings, senders }: Standalone): void {
  const { port, hostname, drainMs } = settings;
  const onListen = (address: Deno.NetAddr) => announce(address, settings);
  Deno.serve({ port, hostname, onListen }, standalone(pusher));
  let stopping = false;
  const stop = async () => {
    if (stopping) Deno.exit(1);
    stopping = true;
    await pusher.close({ over: drainMs });
    await Promise.all(senders.map((sender) => sender.close()));
    Deno.exit(0);
  };
  // Windows has no SIGTERM.
  const signals = Deno.build.os === "windows"
    ? ["SIGINT"] as const
    : ["SIGINT", "SIGTERM"] as const;
  for (const signal of signals) Deno.addSignalListener(signal, stop);
}

/** Says where to connect, and with which key. */
function announce(address: Deno.NetAddr, { pusher }: Settings): void {
  const { hostname, port } = address;
  const host = hostname === "0.0.0.0" || hostname === "::"
    ? "localhost"
    : hostname.includes(":")
    ? `[${hostname}]`
    : hostname;
  const keys = pusher.apps?.map(({ key }) => key) ?? [pusher.key ?? "app-key"];
  const path = pusher.path ?? "";
  console.log(
    `Pusher server on ws://${host}:${port}${path}/app/${keys.join(", ")}`,
  );
  if (pusher.apps === undefined && pusher.secret === undefined) {
    console.warn("No --secret is given, so nobody can publish or authorize");
  }
}

/** A server and what belongs to it. */
interface Standalone {
  readonly pusher: Pusher;
  readonly settings: Settings;
  readonly senders: readonly Webhooks[];
}

/** Makes the server out of the settings; exits where they are wrong. */
function start(): Standalone {
  try {
    const settings = readSettings(Deno.args);
    if (settings === null) {
      console.log(help());
      Deno.exit(0);
    }
    const pusher = new Pusher(settings.pusher);
    return { pusher, settings, senders: startWebhooks(pusher, settings) };
  } catch (error) {
    const known = error instanceof UsageError || error instanceof TypeError ||
      error instanceof RangeError;
    if (!known) throw error;
    console.error(`${error.message}\nTry --help`);
    Deno.exit(2);
  }
}

/** Tells the addresses of `--webhook` of each app. */
function startWebhooks(
  pusher: Pusher,
  { webhooks: urls, pusher: options }: Settings,
): Webhooks[] {
  if (urls.length === 0) return [];
  const endpoints = urls.map((url) => ({ url }));
  const { apps, key = "app-key", secret } = options;
  if (apps !== undefined) {
    return apps.map(({ id, key, secret }) =>
      webhooks(pusher.app(id), { key, secret, endpoints })
    );
  }
  if (secret === undefined) {
    throw new UsageError("--webhook needs a --secret to sign with");
  }
  return [webhooks(pusher, { key, secret, endpoints })];
}

/**
 * Starts the server, and returns what `deno serve` looks for.
 *
 * Deno does not say which of its commands runs a program. A port or a hostname
 * of our own says `deno run`; otherwise `deno serve` has called `onListen` by the
 * next turn of the event loop, and if it has not we listen ourselves.
 */
function main(): Partial<Deno.ServeDefaultExport> {
  const started = start();
  const { pusher, settings } = started;
  if (settings.ownAddress) {
    listen(started);
    return {};
  }
  const fallback = setTimeout(() => listen(started), 0);
  return {
    fetch: standalone(pusher),
    onListen: (address) => {
      clearTimeout(fallback);
      announce(address as Deno.NetAddr, settings);
    },
  };
}

/** What `deno serve` runs; empty when Deno runs or imports the file. */
const server: Partial<Deno.ServeDefaultExport> = import.meta.main ? main() : {};

export default server;
