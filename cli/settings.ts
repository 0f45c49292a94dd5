/**
 * The settings of the standalone server: what its flags and its environment ask for.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { isObject } from "../core/protocol.ts";
import type { MetricsOptions } from "../ext/metrics.ts";
import type {
  AppOptions,
  Credentials,
  History,
  PusherOptions,
} from "../mod.ts";
import { type Flag, type FlagName, FLAGS, METRICS_PATH } from "./flags.ts";
import { messageOf } from "./log.ts";
import { nearest } from "./suggest.ts";

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
  readonly log: "text" | "json";
  /** Where metrics are, and for whom; null if there are none. */
  readonly metrics:
    | Pick<MetricsOptions, "path" | "from" | "token">
    | null;
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
      const given = { args: args.map(withDefault), options: FLAGS };
      this.#values = parseArgs({ ...given, strict: true }).values;
    } catch (error) {
      // It goes on about arguments that start with "-", which there are none of.
      const message = messageOf(error).replace(/\. To specify .*/s, "");
      throw new UsageError(withoutLogin(message) + hintFor(message));
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

  /** One of several words; undefined if it is not given. */
  word<Word extends string>(
    name: FlagName,
    words: readonly Word[],
  ): Word | undefined {
    const text = this.text(name);
    const word = words.find((one) => one === text);
    if (text === undefined || word !== undefined) return word;
    const meant = nearest(text, words);
    throw new UsageError(
      `${this.#source(name)} is "${text}", and must be ${words.join(" or ")}` +
        (meant ? `. Did you mean ${meant}?` : ""),
    );
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

/** Gives a flag that may have no value its default, if it has none. */
function withDefault(arg: string, i: number, args: string[]): string {
  const { fallback }: Flag = FLAGS[arg.slice(2) as FlagName] ?? {};
  if (!arg.startsWith("--") || fallback === undefined) return arg;
  // The value of such a flag is a path.
  return args[i + 1]?.startsWith("/") ? arg : `${arg}=${fallback}`;
}

/** What the user may have meant by a flag that there is not. */
function hintFor(message: string): string {
  const [, name] = /^Unknown option '--?([^'=]+)/.exec(message) ?? [];
  const meant = name && nearest(name, Object.keys(FLAGS));
  return meant ? `. Did you mean --${meant}?` : "";
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
    log: flags.word("log", ["text", "json"] as const) ?? "text",
    metrics: readMetrics(flags),
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

function readMetrics(flags: Flags): Settings["metrics"] {
  const text = flags.text("metrics");
  const from = flags.word("metrics-from", ["loopback", "private"] as const);
  const token = flags.text("metrics-token");
  if (text === undefined || text === "false" || text === "0") {
    if (from === undefined && token === undefined) return null;
    const name = token === undefined ? "from" : "token";
    throw new UsageError(`--metrics-${name} needs --metrics`);
  }
  const path = ["true", "1", ""].includes(text) ? METRICS_PATH : text;
  return { path, from, token };
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
