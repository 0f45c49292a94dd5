/**
 * What the standalone server says when it listens: where, and what is not safe.
 *
 * @module
 */

import { isLocalName, isPrivate } from "../core/places.ts";
import { credentialsOf } from "../core/keys.ts";
import type { AppOptions, Credentials } from "../mod.ts";
import { FLAGS } from "./flags.ts";
import type { Log } from "./log.ts";
import { mayRead, type Settings } from "./settings.ts";

/** Where a server listens. */
export interface Place {
  readonly hostname: string;
  readonly port: number;
}

/** Says where to connect and with which key, and what is not safe. */
export function announce(place: Place, settings: Settings, log: Log): void {
  const warn = (message: string) => log.say("warning", { message }, message);
  const { pusher } = settings;
  const { host, path } = addressOf(place, settings);
  const keys = keysOf(settings);
  const apps: { forceTLS?: boolean | undefined }[] = pusher.apps ?? [{}];
  const wantsTls = apps.some((app) => app.forceTLS ?? pusher.forceTLS);
  if (wantsTls && !pusher.trustProxy) {
    warn(
      "No --trust-proxy is given, so apps that force TLS refuse everybody: " +
        "this server has no TLS of its own",
    );
  }
  const url = `ws://${host}${path}/app/${keys.join(", ")}`;
  const started = { url: `ws://${host}${path}`, keys, pid: Deno.pid };
  log.say("started", started, `Pusher server on ${url}`);
  sayConsole(place, settings, log);
  if (!log.isJson && Deno.stdout.isTerminal()) {
    console.log(details(place, settings, !Deno.noColor));
  }
  if (pusher.apps === undefined && pusher.secret === undefined) {
    const hint = mayRead(FLAGS.secret.variable)
      ? ""
      : `; ${FLAGS.secret.variable} is not read without --allow-env`;
    warn(`No --secret is given, so nobody can publish or authorize${hint}`);
  }
  for (const message of warningsOf(place, settings)) warn(message);
  log.say("ready", {}, null);
}

/** Says where the debug console is. */
function sayConsole(
  place: Place,
  settings: Settings,
  log: Log,
): void {
  const { console: debug } = settings;
  if (debug === null) return;
  const { host, path } = addressOf(place, settings);
  const url = `http://${host}${path}/console`;
  const isOpen = debug.password !== undefined;
  const whose = isOpen
    ? ""
    : ", for browsers on this machine: no --console-password is given";
  const who = isOpen ? "password" : "loopback";
  log.say("console", { url, for: who }, `Debug console on ${url}${whose}`);
}

/** What else there is, as lines for a terminal, which lets URLs be clicked. */
export function details(
  place: Place,
  settings: Settings,
  isColoured: boolean,
): string {
  const { host, path } = addressOf(place, settings);
  const origin = `http://${host}`;
  const rows = [
    ["Client", `${origin}${path}/pusher.js`],
    ["Health", `${origin}/readyz`],
    ...settings.metrics === null
      ? []
      : [["Metrics", `${origin}${settings.metrics.path}`]],
    ...settings.redis === null ? [] : [["Backplane", "Redis"]],
    ["Stop", `Ctrl+C, then within ${settings.drainMs / 1000} s`],
  ];
  const dim = (text: string) => isColoured ? `\x1b[2m${text}\x1b[22m` : text;
  return rows.map(([name = "", value]) => `  ${dim(name.padEnd(10))} ${value}`)
    .join("\n");
}

/** What strangers could use against this server; no message has a secret. */
export function warningsOf(
  { hostname }: Place,
  { pusher, redis, webhooks }: Settings,
): string[] {
  const warnings: string[] = [];
  const secrets = pusher.apps?.flatMap(credentialsOf)
    .map(({ secret }) => secret) ?? (pusher.secret ? [pusher.secret] : []);
  const old = pusher.keys?.map(({ secret }) => secret) ?? [];
  const weak = secrets.filter(isShort);
  if (!isLocalName(hostname) && weak.length > 0) {
    const what = pusher.apps === undefined
      ? "--secret"
      : `The secret of ${weak.length} of ${secrets.length} keys`;
    warnings.push(
      `${what} has less than ${MIN_SECRET_LENGTH} characters, and can be ` +
        "guessed: then anybody can publish and join any channel. Take a " +
        "random one, such as that of: openssl rand -hex 32",
    );
  }
  if (!isLocalName(hostname) && old.some(isShort)) {
    warnings.push(
      `--old-key has a secret of less than ${MIN_SECRET_LENGTH} characters, ` +
        "which can be guessed as long as the server accepts it: start the " +
        "server without it as soon as nobody needs it",
    );
  }
  const url = redis && URL.parse(redis.url.split(",", 1)[0]!);
  if (url && url.password === "" && !isLocalName(url.hostname)) {
    warnings.push(
      "--redis has no password, and Redis is on another machine: whoever " +
        "reaches it reads and publishes everything",
    );
  }
  const open = webhooks.filter((text) => {
    const target = URL.parse(text);
    return target?.protocol === "http:" && !isNear(target.hostname);
  });
  if (open.length > 0) {
    warnings.push(
      "--webhook has an address without TLS: everybody on the way can read " +
        "what happens on the channels",
    );
  }
  return warnings;
}

/** Shorter ones are those of documentation, or words. */
const MIN_SECRET_LENGTH = 16;

const isShort = (secret: string) => secret.length < MIN_SECRET_LENGTH;

/** Whether a host is this machine, or in a private network or cluster. */
function isNear(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, "");
  return isLocalName(host) || isPrivate(name) || !name.includes(".") ||
    /\.(local|internal|localhost)$/.test(name);
}

function addressOf(
  { hostname, port }: Place,
  { pusher }: Settings,
): { host: string; path: string } {
  const isAny = hostname === "0.0.0.0" || hostname === "::";
  const host = isAny ? "localhost" : hostOf(hostname);
  return { host: `${host}:${port}`, path: pusher.path ?? "" };
}

function keysOf({ pusher }: Settings): string[] {
  return pusher.apps?.map((app) => newestOf(app).key) ??
    [pusher.key ?? "app-key"];
}

/** The key that signs, of an app that has been checked. */
export function newestOf(app: AppOptions): Credentials {
  return credentialsOf(app)[0]!;
}

/** A hostname as it stands in a URL. */
export function hostOf(hostname: string): string {
  return hostname.includes(":") ? `[${hostname}]` : hostname;
}
