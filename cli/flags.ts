/**
 * The flags of the standalone server, its environment variables and its help text.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { isObject } from "../core/protocol.ts";
import type {
  AppOptions,
  Credentials,
  History,
  PusherOptions,
} from "../mod.ts";

// ---- Flags ------------------------------------------------------------------
// One table for the parser, the environment and the help text.

interface Flag {
  readonly type: "string" | "boolean";
  readonly variable?: string;
  readonly value?: string;
  readonly help: string;
  readonly short?: string;
  readonly multiple?: boolean;
}

export const FLAGS = {
  "port": {
    type: "string",
    variable: "PUSHER_PORT",
    value: "number",
    help: "port to listen on, 0 for any free port (default 6001)",
  },
  "hostname": {
    type: "string",
    variable: "PUSHER_HOSTNAME",
    value: "address",
    help: "address to listen on (default 0.0.0.0)",
  },
  "reuse-port": {
    type: "boolean",
    variable: "PUSHER_REUSE_PORT",
    help: "let several processes listen on the port, on Linux: the kernel " +
      "spreads connections over them; Deno needs --unstable-net",
  },
  "no-listen": {
    type: "boolean",
    variable: "PUSHER_NO_LISTEN",
    help:
      "open no port, for deno serve --parallel: only its first thread can " +
      "see that Deno opens it",
  },
  "app-id": {
    type: "string",
    variable: "PUSHER_APP_ID",
    value: "id",
    help: "the app's id, in HTTP API paths (default 1)",
  },
  "key": {
    type: "string",
    variable: "PUSHER_APP_KEY",
    value: "key",
    help: "the app's key, by which clients name it (default app-key)",
  },
  "secret": {
    type: "string",
    variable: "PUSHER_APP_SECRET",
    value: "secret",
    help: "the app's secret; without it nobody can publish",
  },
  "old-key": {
    type: "string",
    variable: "PUSHER_OLD_KEYS",
    value: "key:secret",
    multiple: true,
    help: "a key of the app that --key and --secret replace, and that the " +
      "server still accepts; may be repeated, and the variable takes a comma list",
  },
  "apps": {
    type: "string",
    variable: "PUSHER_APPS",
    value: "file",
    help: "JSON file with several apps, instead of the app above: " +
      '[{ "id", "key", "secret", "keys"?, "clientEvents"?, "limits"? }]',
  },
  "force-tls": {
    type: "boolean",
    variable: "PUSHER_FORCE_TLS",
    help: "refuse clients and requests that do not use TLS; behind a proxy " +
      "that ends TLS, with --trust-proxy",
  },
  "trust-proxy": {
    type: "boolean",
    variable: "PUSHER_TRUST_PROXY",
    help: "believe the header x-forwarded-proto, which the proxy must set",
  },
  "client-events": {
    type: "boolean",
    variable: "PUSHER_CLIENT_EVENTS",
    help: "let clients send events to each other",
  },
  "subscription-counts": {
    type: "boolean",
    variable: "PUSHER_SUBSCRIPTION_COUNTS",
    help: "send subscribers the number of subscriptions to their channel",
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
    help: "events of a channel to keep for clients that lose their " +
      "connection (default 5000)",
  },
  "history-seconds": {
    type: "string",
    variable: "PUSHER_HISTORY_SECONDS",
    value: "seconds",
    help: "how long to keep an event (default 300)",
  },
  "history-bytes": {
    type: "string",
    variable: "PUSHER_HISTORY_BYTES",
    value: "bytes",
    help: "bytes of the events of all channels (default 67108864)",
  },
  "no-history": {
    type: "boolean",
    variable: "PUSHER_NO_HISTORY",
    help: "keep no events: a client loses the events that it misses",
  },
  "webhook": {
    type: "string",
    variable: "PUSHER_WEBHOOKS",
    value: "url",
    multiple: true,
    help: "URL that gets the events of channels, members and clients, signed " +
      "by the app; may be repeated, and the variable takes a comma list",
  },
  "console": {
    type: "boolean",
    variable: "PUSHER_CONSOLE",
    help: "serve the debug console at /console: connections, channels, " +
      "events and problems; without a password for this machine only",
  },
  "console-password": {
    type: "string",
    variable: "PUSHER_CONSOLE_PASSWORD",
    value: "password",
    help: "password of the console, of 12 characters at least; the variable " +
      "is the better place, since other users of the machine can see flags",
  },
  "redis": {
    type: "string",
    variable: "PUSHER_REDIS_URL",
    value: "url",
    help: "Redis by which several servers are one, such as " +
      "redis://:password@localhost:6379; the variable is the better place for a " +
      "password, since other users of the machine can see flags",
  },
  "redis-prefix": {
    type: "string",
    variable: "PUSHER_REDIS_PREFIX",
    value: "prefix",
    help:
      "begins all keys in Redis, so that systems can share it (default pusher)",
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
    help: "origin whose pages may open sockets, such as " +
      "https://example.com or " +
      "https://*.example.com; may be repeated, and the variable takes " +
      "a comma list (default: any)",
  },
  "activity-timeout": {
    type: "string",
    variable: "PUSHER_ACTIVITY_TIMEOUT",
    value: "seconds",
    help: "what clients are told: silence after which a client pings the " +
      "server (default 120)",
  },
  "ping-after": {
    type: "string",
    variable: "PUSHER_PING_AFTER",
    value: "seconds",
    help: "silence after which the server pings a client (default 60, or " +
      "--activity-timeout if that is less)",
  },
  "pong-timeout": {
    type: "string",
    variable: "PUSHER_PONG_TIMEOUT",
    value: "seconds",
    help: "how long the client may take to answer (default 15)",
  },
  "authorization-timeout": {
    type: "string",
    variable: "PUSHER_AUTHORIZATION_TIMEOUT",
    value: "seconds",
    help: "how long a connection may stay without signing in or joining a " +
      "private or presence channel (default: no limit)",
  },
  "max-connections": {
    type: "string",
    variable: "PUSHER_MAX_CONNECTIONS",
    value: "number",
    help: "connections of one app; with --authorization-timeout only " +
      "those that have authorized count (default: no limit)",
  },
  "max-unauthorized": {
    type: "string",
    variable: "PUSHER_MAX_UNAUTHORIZED",
    value: "number",
    help: "connections of one app that have not authorized yet, with " +
      "--authorization-timeout (default 1000)",
  },
  "max-sockets": {
    type: "string",
    variable: "PUSHER_MAX_SOCKETS",
    value: "number",
    help:
      "sockets of all apps; each takes a file descriptor (default 100000, " +
      "or with -A on Linux less than the process may open)",
  },
  "drain": {
    type: "string",
    variable: "PUSHER_DRAIN",
    value: "seconds",
    help: "time over which SIGTERM, SIGINT and SIGQUIT close the " +
      "connections; a second signal exits at once (default 5)",
  },
  "help": { type: "boolean", short: "h", help: "print this text" },
} as const satisfies Record<string, Flag>;

const HELP_COLUMN = 36;
const HELP_WIDTH = 80;

/** The text of `--help`. */
export function helpText(): string {
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

The name in brackets is the flag's environment variable. It is read if
--allow-env permits that.`;
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
// What the flags and the environment ask for.

type FlagName = keyof typeof FLAGS;

// No deployment waits for a day.
const MAX_DRAIN_MS = 86_400_000;

export interface Settings {
  readonly port: number;
  readonly hostname: string;
  readonly reusePort: boolean;
  /** Whether it is known that Deno opens the port. */
  readonly isServed: boolean;
  /** Whether the flags or the environment name a port or a hostname. */
  readonly ownAddress: boolean;
  readonly drainMs: number;
  readonly webhooks: readonly string[];
  /** The debug console; null if nobody has asked for it. */
  readonly console: { readonly password?: string } | null;
  /** Where Redis is, password included. */
  readonly redis: { readonly url: string; readonly prefix?: string } | null;
  readonly pusher: PusherOptions;
}

/** A mistake in the arguments: printed without a stack. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** The values of the flags, or of their environment variables. */
class Flags {
  readonly #values: Readonly<Record<string, unknown>>;

  constructor(args: string[]) {
    try {
      this.#values = parseArgs({ args, options: FLAGS, strict: true }).values;
    } catch (error) {
      // It goes on about arguments that start with "-", which there are none of.
      const message = messageOf(error).replace(/\. To specify .*/s, "");
      throw new UsageError(withoutLogin(message));
    }
  }

  /** What the user gave a value by: the flag, or its variable. */
  #source(name: FlagName): string {
    const { variable }: Flag = FLAGS[name];
    const isFlag = this.#values[name] !== undefined || variable === undefined;
    return isFlag ? `--${name}` : variable;
  }

  /** The text of a flag or of its variable; undefined if neither is given. */
  text(name: FlagName): string | undefined {
    const value = this.#values[name];
    if (Array.isArray(value)) return value.join(",");
    return value === undefined ? readVariable(name) : String(value);
  }

  list(name: FlagName): string[] | undefined {
    return this.text(name)?.split(",").map((item) => item.trim());
  }

  boolean(name: FlagName): boolean {
    const text = this.text(name);
    if (text === undefined || text === "false" || text === "0") return false;
    if (text === "true" || text === "1" || text === "") return true;
    throw new UsageError(
      `${this.#source(name)} is "${text}", and must be true or false`,
    );
  }

  /** A number from 0; undefined if it is not given. */
  number(name: FlagName): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = Number(text);
    if (text !== "" && value >= 0) return value;
    throw new UsageError(
      `${this.#source(name)} is "${text}", and must be a number from 0`,
    );
  }

  /** A time in seconds, as milliseconds; undefined if it is not given. */
  ms(name: FlagName): number | undefined {
    const seconds = this.number(name);
    return seconds === undefined ? undefined : seconds * 1000;
  }
}

/** The same text without users and passwords of URLs in it. */
function withoutLogin(text: string): string {
  return text.replace(/\/\/\S*@/g, "//…@");
}

/** Reads a flag's environment variable, if that is permitted. */
function readVariable(name: FlagName): string | undefined {
  const { variable }: Flag = FLAGS[name];
  return mayRead(variable) ? Deno.env.get(variable) : undefined;
}

/** Whether an environment variable may be read, without a prompt. */
export function mayRead(variable: string | undefined): variable is string {
  if (variable === undefined) return false;
  const permission = { name: "env", variable } as const;
  return Deno.permissions.querySync(permission).state === "granted";
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Reads flags and environment; null if only help is wanted. */
export function readSettings(args: string[]): Settings | null {
  const flags = new Flags(args);
  if (flags.boolean("help")) return null;
  const port = flags.number("port");
  if (port !== undefined && (!Number.isInteger(port) || port > 65_535)) {
    throw new UsageError(`--port is ${port}, and must be from 0 to 65535`);
  }
  const reusePort = flags.boolean("reuse-port");
  // Without its own flag Deno ends the process when the port is opened.
  if (reusePort && !("listenDatagram" in Deno)) {
    throw new UsageError(
      "--reuse-port needs a flag of Deno's: deno run --unstable-net",
    );
  }
  const drainMs = flags.ms("drain") ?? 5_000;
  if (drainMs > MAX_DRAIN_MS) {
    const [given, most] = [drainMs / 1000, MAX_DRAIN_MS / 1000];
    throw new UsageError(`--drain is ${given}, and must be at most ${most}`);
  }
  const hostname = flags.text("hostname");
  const sockets = flags.number("max-sockets");
  const unauthorizedConnections = flags.number("max-unauthorized");
  return {
    port: port ?? 6001,
    hostname: hostname ?? "0.0.0.0",
    reusePort,
    isServed: flags.boolean("no-listen"),
    ownAddress: port !== undefined || hostname !== undefined,
    drainMs,
    webhooks: flags.list("webhook") ?? [],
    console: readConsole(flags),
    redis: readRedis(flags),
    pusher: {
      ...readApps(flags),
      forceTLS: flags.boolean("force-tls"),
      trustProxy: flags.boolean("trust-proxy"),
      clientEvents: flags.boolean("client-events"),
      subscriptionCounts: flags.boolean("subscription-counts"),
      cacheTtlMs: flags.ms("cache-ttl"),
      history: flags.boolean("no-history") ? false : readHistory(flags),
      authorizationTimeoutMs: flags.ms("authorization-timeout"),
      activityTimeoutMs: flags.ms("activity-timeout"),
      pingAfterMs: flags.ms("ping-after"),
      pongTimeoutMs: flags.ms("pong-timeout"),
      limits: {
        connections: flags.number("max-connections") ?? Infinity,
        ...(sockets !== undefined && { sockets }),
        ...(unauthorizedConnections !== undefined &&
          { unauthorizedConnections }),
      },
      path: flags.text("path"),
      origins: flags.list("origin"),
    },
  };
}

function readConsole(flags: Flags): Settings["console"] {
  const password = flags.text("console-password");
  if (flags.boolean("console")) {
    return password === undefined ? {} : { password };
  }
  if (password === undefined) return null;
  throw new UsageError("--console-password needs --console, which it opens");
}

function readRedis(flags: Flags): Settings["redis"] {
  const url = flags.text("redis");
  const prefix = flags.text("redis-prefix");
  if (url !== undefined) {
    return { url, ...(prefix !== undefined && { prefix }) };
  }
  if (prefix === undefined) return null;
  throw new UsageError("--redis-prefix needs --redis, whose keys it begins");
}

/** The one app of the flags, or the several apps of a file. */
function readApps(flags: Flags): PusherOptions {
  const [appId, key, secret] = (["app-id", "key", "secret"] as const)
    .map((name) => flags.text(name));
  const file = flags.text("apps");
  const apps = file === undefined ? undefined : readAppsFile(file);
  const keys = flags.list("old-key")?.map(parseOldKey);
  if (keys !== undefined && (key === undefined || secret === undefined)) {
    throw new UsageError(
      "--old-key needs --key and --secret, which sign in its place; " +
        "apps of --apps have their own keys",
    );
  }
  return { apps, appId, key, secret, keys };
}

/** No message quotes it: it holds a secret. */
function parseOldKey(text: string): Credentials {
  const colon = text.indexOf(":");
  if (colon > 0) {
    return { key: text.slice(0, colon), secret: text.slice(colon + 1) };
  }
  throw new UsageError("--old-key must be a key and its secret: key:secret");
}

function readAppsFile(file: string): AppOptions[] {
  const unusable = (why: string) =>
    new UsageError(`--apps "${file}" cannot be used: ${why}`);
  let text: string;
  try {
    text = Deno.readTextFileSync(file);
  } catch (error) {
    throw unusable(messageOf(error));
  }
  let apps: unknown;
  try {
    apps = JSON.parse(text);
  } catch (error) {
    // The file holds secrets, so no message quotes it.
    const [, place] = /\((line \d+ column \d+)\)$/.exec(messageOf(error)) ?? [];
    throw unusable(`it is not JSON${place ? `, see ${place}` : ""}`);
  }
  if (!Array.isArray(apps) || !apps.every(isObject)) {
    throw unusable("it is not an array of objects");
  }
  // Pusher checks the fields of the objects.
  return apps as unknown[] as AppOptions[];
}

/** The bounds that the flags name; the others keep their defaults. */
function readHistory(flags: Flags): Partial<History> {
  const events = flags.number("history-events");
  const ageMs = flags.ms("history-seconds");
  const bytes = flags.number("history-bytes");
  return {
    ...(events !== undefined && { events }),
    ...(ageMs !== undefined && { ageMs }),
    ...(bytes !== undefined && { bytes }),
  };
}
