/**
 * The flags of the standalone server, its environment variables and its help text.
 *
 * @module
 */

// ---- Flags ------------------------------------------------------------------
// One table for the parser, the environment and the help text.

/** The parts of the help text, in their order. */
const GROUPS = Object.freeze(
  [
    "Address",
    "App",
    "Clients",
    "History",
    "Several servers",
    "Limits",
    "Operation",
  ] as const,
);

export interface Flag {
  readonly group: typeof GROUPS[number];
  readonly type: "string" | "boolean";
  readonly variable?: string;
  readonly value?: string;
  readonly help: string;
  readonly short?: string;
  readonly multiple?: boolean;
  /** The value of a flag that is given without one; its values are paths. */
  readonly fallback?: string;
}

export const METRICS_PATH = "/metrics";

export const FLAGS = {
  "port": {
    group: "Address",
    type: "string",
    variable: "PUSHER_PORT",
    value: "number",
    help: "port to listen on, 0 for any free port (default 6001)",
  },
  "hostname": {
    group: "Address",
    type: "string",
    variable: "PUSHER_HOSTNAME",
    value: "address",
    help: "address to listen on (default 0.0.0.0)",
  },
  "reuse-port": {
    group: "Address",
    type: "boolean",
    variable: "PUSHER_REUSE_PORT",
    help: "let several processes listen on the port, on Linux: the kernel " +
      "spreads connections over them; Deno needs --unstable-net",
  },
  "no-listen": {
    group: "Address",
    type: "boolean",
    variable: "PUSHER_NO_LISTEN",
    help:
      "open no port, for deno serve --parallel: only its first thread can " +
      "see that Deno opens it",
  },
  "app-id": {
    group: "App",
    type: "string",
    variable: "PUSHER_APP_ID",
    value: "id",
    help: "the app's id, in HTTP API paths (default 1)",
  },
  "key": {
    group: "App",
    type: "string",
    variable: "PUSHER_APP_KEY",
    value: "key",
    help: "the app's key, by which clients name it (default app-key)",
  },
  "secret": {
    group: "App",
    type: "string",
    variable: "PUSHER_APP_SECRET",
    value: "secret",
    help: "the app's secret; without it nobody can publish",
  },
  "old-key": {
    group: "App",
    type: "string",
    variable: "PUSHER_OLD_KEYS",
    value: "key:secret",
    multiple: true,
    help: "a key of the app that --key and --secret replace, and that the " +
      "server still accepts; may be repeated, and the variable takes a comma list",
  },
  "apps": {
    group: "App",
    type: "string",
    variable: "PUSHER_APPS",
    value: "file",
    help: "JSON file with several apps, instead of the app above: " +
      '[{ "id", "key", "secret", "keys"?, "clientEvents"?, "limits"? }]',
  },
  "force-tls": {
    group: "Address",
    type: "boolean",
    variable: "PUSHER_FORCE_TLS",
    help: "refuse clients and requests that do not use TLS; behind a proxy " +
      "that ends TLS, with --trust-proxy",
  },
  "trust-proxy": {
    group: "Address",
    type: "boolean",
    variable: "PUSHER_TRUST_PROXY",
    help: "believe the header x-forwarded-proto, which the proxy must set",
  },
  "client-events": {
    group: "Clients",
    type: "boolean",
    variable: "PUSHER_CLIENT_EVENTS",
    help: "let clients send events to each other",
  },
  "subscription-counts": {
    group: "Clients",
    type: "boolean",
    variable: "PUSHER_SUBSCRIPTION_COUNTS",
    help: "send subscribers the number of subscriptions to their channel",
  },
  "cache-ttl": {
    group: "History",
    type: "string",
    variable: "PUSHER_CACHE_TTL",
    value: "seconds",
    help: "how long cache channels keep their last event (default 1800)",
  },
  "history-events": {
    group: "History",
    type: "string",
    variable: "PUSHER_HISTORY_EVENTS",
    value: "number",
    help: "events of a channel to keep for clients that lose their " +
      "connection (default 5000)",
  },
  "history-seconds": {
    group: "History",
    type: "string",
    variable: "PUSHER_HISTORY_SECONDS",
    value: "seconds",
    help: "how long to keep an event (default 300)",
  },
  "history-bytes": {
    group: "History",
    type: "string",
    variable: "PUSHER_HISTORY_BYTES",
    value: "bytes",
    help: "bytes of the events of all channels (default 67108864)",
  },
  "no-history": {
    group: "History",
    type: "boolean",
    variable: "PUSHER_NO_HISTORY",
    help: "keep no events: a client loses the events that it misses",
  },
  "webhook": {
    group: "App",
    type: "string",
    variable: "PUSHER_WEBHOOKS",
    value: "url",
    multiple: true,
    help: "URL that gets the events of channels, members and clients, signed " +
      "by the app; may be repeated, and the variable takes a comma list",
  },
  "console": {
    group: "Operation",
    type: "boolean",
    variable: "PUSHER_CONSOLE",
    help: "serve the debug console at /console: connections, channels, " +
      "events and problems; without a password for this machine only",
  },
  "console-password": {
    group: "Operation",
    type: "string",
    variable: "PUSHER_CONSOLE_PASSWORD",
    value: "password",
    help: "password of the console, of 12 characters at least; the variable " +
      "is the better place, since other users of the machine can see flags",
  },
  "redis": {
    group: "Several servers",
    type: "string",
    variable: "PUSHER_REDIS_URL",
    value: "url",
    help: "Redis by which several servers are one, such as " +
      "redis://:password@localhost:6379; the variable is the better place for a " +
      "password, since other users of the machine can see flags",
  },
  "redis-prefix": {
    group: "Several servers",
    type: "string",
    variable: "PUSHER_REDIS_PREFIX",
    value: "prefix",
    help:
      "begins all keys in Redis, so that systems can share it (default pusher)",
  },
  "path": {
    group: "Address",
    type: "string",
    variable: "PUSHER_PATH",
    value: "prefix",
    help: "prefix of every route, such as /realtime",
  },
  "origin": {
    group: "Clients",
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
    group: "Clients",
    type: "string",
    variable: "PUSHER_ACTIVITY_TIMEOUT",
    value: "seconds",
    help: "what clients are told: silence after which a client pings the " +
      "server (default 120)",
  },
  "ping-after": {
    group: "Clients",
    type: "string",
    variable: "PUSHER_PING_AFTER",
    value: "seconds",
    help: "silence after which the server pings a client (default 60, or " +
      "--activity-timeout if that is less)",
  },
  "pong-timeout": {
    group: "Clients",
    type: "string",
    variable: "PUSHER_PONG_TIMEOUT",
    value: "seconds",
    help: "how long the client may take to answer (default 15)",
  },
  "authorization-timeout": {
    group: "Clients",
    type: "string",
    variable: "PUSHER_AUTHORIZATION_TIMEOUT",
    value: "seconds",
    help: "how long a connection may stay without signing in or joining a " +
      "private or presence channel (default: no limit)",
  },
  "max-connections": {
    group: "Limits",
    type: "string",
    variable: "PUSHER_MAX_CONNECTIONS",
    value: "number",
    help: "connections of one app; with --authorization-timeout only " +
      "those that have authorized count (default: no limit)",
  },
  "max-unauthorized": {
    group: "Limits",
    type: "string",
    variable: "PUSHER_MAX_UNAUTHORIZED",
    value: "number",
    help: "connections of one app that have not authorized yet, with " +
      "--authorization-timeout (default 1000)",
  },
  "max-sockets": {
    group: "Limits",
    type: "string",
    variable: "PUSHER_MAX_SOCKETS",
    value: "number",
    help:
      "sockets of all apps; each takes a file descriptor (default 100000, " +
      "or with -A on Linux less than the process may open)",
  },
  "metrics": {
    group: "Operation",
    type: "string",
    variable: "PUSHER_METRICS",
    value: "path",
    fallback: METRICS_PATH,
    help:
      "serve metrics for Prometheus at the path (default /metrics), to this " +
      "machine only unless one of the next two flags is given",
  },
  "metrics-from": {
    group: "Operation",
    type: "string",
    variable: "PUSHER_METRICS_FROM",
    value: "where",
    help: "who may read them: loopback, or private for private networks, too",
  },
  "metrics-token": {
    group: "Operation",
    type: "string",
    variable: "PUSHER_METRICS_TOKEN",
    value: "token",
    help: "let whoever sends the token read them, from anywhere: " +
      "authorization: Bearer token",
  },
  "log": {
    group: "Operation",
    type: "string",
    variable: "PUSHER_LOG",
    value: "format",
    help: "text for people, or json: one line for each state that matters " +
      "(default text)",
  },
  "drain": {
    group: "Operation",
    type: "string",
    variable: "PUSHER_DRAIN",
    value: "seconds",
    help: "time over which SIGTERM, SIGINT and SIGQUIT close the " +
      "connections; a second signal exits at once (default 5)",
  },
  "help": {
    group: "Operation",
    type: "boolean",
    short: "h",
    help: "print this text",
  },
} as const satisfies Record<string, Flag>;

const HELP_COLUMN = 36;
const HELP_WIDTH = 80;

/**
 * The text of `--help`.
 *
 * @param isColoured Whether headings are bold.
 */
export function helpText(isColoured = false): string {
  const heading = (text: string) =>
    isColoured ? `\x1b[1m${text}\x1b[22m` : text;
  const all = Object.entries<Flag>(FLAGS);
  const groups = GROUPS.map((group) => {
    const lines = all.filter(([, flag]) => flag.group === group).map(helpLine);
    return `${heading(`${group}:`)}\n${lines.join("\n")}`;
  });
  return `A Pusher Channels server.

${heading("Usage:")}
  deno run --allow-net [--allow-env] [--allow-read] cli.ts [flags]
  deno serve --port 6001 [--allow-env] cli.ts [flags]

${groups.join("\n\n")}

The name in brackets is the flag's environment variable. It is read if
--allow-env permits that.

${heading("Exit codes:")}
  0  a signal has stopped it, and all connections are closed; or --help
  1  it could not listen, or not use Redis at the start; or a second signal
  2  a flag, a variable or a file is wrong: the message says which`;
}

function helpLine(
  [name, { help, value, variable, short, fallback }]: [string, Flag],
): string {
  const shown = value && (fallback ? ` [${value}]` : ` <${value}>`);
  const flag = `${short ? `-${short}, ` : ""}--${name}${shown ?? ""}`;
  const text = variable ? `${help} [${variable}]` : help;
  return `  ${flag}`.padEnd(HELP_COLUMN) + wrap(text);
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

export type FlagName = keyof typeof FLAGS;
