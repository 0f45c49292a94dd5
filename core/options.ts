/**
 * The options of a server and of its apps, their defaults and how they are checked.
 *
 * @module
 */

import type { Backplane, History } from "./backplane.ts";
import type {
  AnyEvents,
  Authenticate,
  Authorize,
  Encryption,
} from "./calls.ts";
import {
  CANNOT_CREATE,
  type Check,
  checkBoolean,
  checkDuration,
  checkFields,
  checkFunction,
  checkIdentifier,
  checkLimit,
  checkNothing,
  checkPath,
  checkSecret,
  failOption,
} from "./checks.ts";
import { ORIGIN_RULE, type OriginRule } from "./http.ts";
import { DEFAULT_LIMITS, type Limits } from "./limits.ts";
import { isObject } from "./protocol.ts";

/** One of several applications in {@linkcode PusherOptions.apps}. */
export interface AppOptions {
  /** Names the app in HTTP API paths. */
  id: string;
  /** Names the app to clients; public. */
  key: string;
  /** Signs; never leaves the server. */
  secret: string;
  /** Whether the app takes connections and requests. @default {true} */
  enabled?: boolean | undefined;
  /** Overrides {@linkcode PusherOptions.clientEvents}. */
  clientEvents?: boolean | undefined;
  /** Overrides {@linkcode PusherOptions.subscriptionCounts}. */
  subscriptionCounts?: boolean | undefined;
  /** Overrides {@linkcode PusherOptions.encryption}. */
  encryption?: Encryption | undefined;
  /** Overrides {@linkcode PusherOptions.origins} for this app's sockets. */
  origins?: OriginRule | OriginRule[] | undefined;
  /** Overrides single entries of {@linkcode PusherOptions.limits}. */
  limits?: Partial<Omit<Limits, "sockets">> | undefined;
}

/**
 * Options of {@linkcode Pusher}. All of them may be left out.
 *
 * @typeParam Events As for {@linkcode Pusher}.
 */
export interface PusherOptions<Events = AnyEvents> {
  /** Names the app in HTTP API paths. @default {"app-id"} */
  appId?: string | undefined;
  /** Names the app to clients; public. @default {"app-key"} */
  key?: string | undefined;
  /** Signs. Without one a random secret is made, so nobody outside can sign. */
  secret?: string | undefined;
  /** Several apps instead of the one named by the three fields above. */
  apps?: AppOptions[] | undefined;
  /** Prefix of every route, such as `/realtime`. @default {""} */
  path?: string | undefined;
  /** Whether clients may send events to each other. @default {false} */
  clientEvents?: boolean | undefined;
  /**
   * Answers `POST {path}/pusher/auth`, the endpoint that clients ask by default.
   * Without it that route is 404 and the program may serve its own.
   */
  authorize?: Authorize<Events> | undefined;
  /**
   * Answers `POST {path}/pusher/user-auth`, which clients ask when they sign in.
   * Without it that route is 404 and the program may serve its own.
   */
  authenticate?: Authenticate | undefined;
  /**
   * Encrypts what the program triggers on `private-encrypted-` channels. Without
   * it such a trigger throws.
   */
  encryption?: Encryption | undefined;
  /** Whether subscribers are told how many they are. @default {false} */
  subscriptionCounts?: boolean | undefined;
  /**
   * How long cache channels keep their last event, in milliseconds.
   * @default {1800000}
   */
  cacheTtlMs?: number | undefined;
  /**
   * Closes connections that by then have neither signed in nor joined a private
   * or presence channel, in milliseconds; the hosted service's is 30 seconds.
   * Without it any connection may stay.
   */
  authorizationTimeoutMs?: number | undefined;
  /**
   * Pages of other origins that may open sockets and call the auth endpoints.
   * Without it sockets may come from anywhere, as a socket alone gives nothing
   * private, and the auth endpoints answer their own origin only.
   */
  origins?: OriginRule | OriginRule[] | undefined;
  /** Limits that differ from the defaults. */
  limits?: Partial<Limits> | undefined;
  /**
   * Silence after which a connection is asked for a sign of life, in
   * milliseconds; clients are told the same figure. @default {120000}
   */
  activityTimeoutMs?: number | undefined;
  /** How long that sign may take, in milliseconds. @default {30000} */
  pongTimeoutMs?: number | undefined;
  /** Refuse clients that name no protocol version. @default {false} */
  strictProtocol?: boolean | undefined;
  /**
   * What is kept for clients that lose their connection, so that they miss
   * nothing; false for nothing. See {@linkcode History} for the defaults.
   *
   * Our own client needs nothing more. An unmodified `pusher-js` names a session
   * of its own in its path: `wsPath: "/r/" + crypto.randomUUID()`, 16 to 128
   * characters of `A-Z a-z 0-9 _ -` that nobody else knows or uses.
   */
  history?: Partial<History> | false | undefined;
  /** Where shared state lives and events fan out. @default {MemoryBackplane} */
  backplane?: Backplane | undefined;
  /** The wall clock in milliseconds, for signed timestamps. @default {Date.now} */
  now?: (() => number) | undefined;
  /** Accepted as the official SDK has it, and ignored: there is no host to call. */
  cluster?: string | undefined;
  /** Ignored, see `cluster`. */
  host?: string | undefined;
  /** Ignored, see `cluster`. */
  port?: string | number | undefined;
  /** Ignored, see `cluster`. */
  scheme?: string | undefined;
  /** Ignored, see `cluster`. */
  useTLS?: boolean | undefined;
  /** Ignored, see `cluster`. */
  encrypted?: boolean | undefined;
  /** Ignored, see `cluster`. */
  timeout?: number | undefined;
  /** Ignored, see `cluster`. */
  agent?: unknown | undefined;
}

// ---- Checks

const OPTIONS: Readonly<Record<keyof PusherOptions, Check>> = Object.freeze({
  appId: checkIdentifier,
  key: checkIdentifier,
  secret: checkSecret,
  apps: checkApps,
  path: checkPath,
  clientEvents: checkBoolean,
  authorize: checkFunction,
  authenticate: checkFunction,
  encryption: checkEncryption,
  subscriptionCounts: checkBoolean,
  cacheTtlMs: checkDuration,
  authorizationTimeoutMs: checkDuration,
  origins: checkOrigins,
  limits: checkLimits,
  activityTimeoutMs: checkDuration,
  pongTimeoutMs: checkDuration,
  strictProtocol: checkBoolean,
  history: checkHistory,
  backplane: checkBackplane,
  now: checkFunction,
  cluster: checkNothing,
  host: checkNothing,
  port: checkNothing,
  scheme: checkNothing,
  useTLS: checkNothing,
  encrypted: checkNothing,
  timeout: checkNothing,
  agent: checkNothing,
});

const APP_OPTIONS: Readonly<Record<keyof AppOptions, Check>> = Object.freeze({
  id: checkIdentifier,
  key: checkIdentifier,
  secret: checkSecret,
  enabled: checkBoolean,
  clientEvents: checkBoolean,
  subscriptionCounts: checkBoolean,
  encryption: checkEncryption,
  origins: checkOrigins,
  limits: checkAppLimits,
});

/** Throws at the first option that is not right. */
export function checkOptions(options: PusherOptions): void {
  checkFields(options, OPTIONS, "");
  const { apps, appId, key, secret } = options;
  if (apps === undefined) return;
  if (appId === undefined && key === undefined && secret === undefined) return;
  throw new TypeError(
    `${CANNOT_CREATE}: apps excludes appId, key and secret, and both are given`,
  );
}

function checkApps(apps: unknown, name: string): void {
  if (!Array.isArray(apps) || apps.length === 0) {
    return failOption(name, apps, "be an array with at least one app");
  }
  apps.forEach((app, i) => {
    const at = `${name}[${i}]`;
    if (!isObject(app)) return failOption(at, app, "be an object");
    checkFields(app, APP_OPTIONS, `${at}.`);
    for (const field of ["id", "key", "secret"] as const) {
      APP_OPTIONS[field](app[field], `${at}.${field}`);
      const twin = apps.findIndex((other) => other[field] === app[field]);
      if (field === "secret" || twin === i) continue;
      const rule = `differ from that of ${name}[${twin}]`;
      failOption(`${at}.${field}`, app[field], rule);
    }
  });
}

function checkBackplane(value: unknown, name: string): void {
  const fits = value instanceof Object && "publish" in value;
  if (!fits) failOption(name, value, "be a Backplane");
}

function checkEncryption(value: unknown, name: string): void {
  const fits = value instanceof Object && "encrypt" in value &&
    "sharedSecret" in value;
  if (!fits) failOption(name, value, "be an Encryption");
}

function checkHistory(history: unknown, name: string): void {
  if (history === false) return;
  if (!isObject(history)) {
    return failOption(name, history, "be false or an object");
  }
  checkFields(history, HISTORY_CHECKS, `${name}.`);
}

const HISTORY_CHECKS: Readonly<Record<keyof History, Check>> = Object.freeze({
  events: checkLimit,
  ageMs: checkDuration,
  bytes: checkLimit,
  sessions: checkLimit,
});

function checkLimits(limits: unknown, name: string): void {
  if (!isObject(limits)) return failOption(name, limits, "be an object");
  const checks = Object.fromEntries(
    Object.keys(DEFAULT_LIMITS).map((limit) => [limit, checkLimit]),
  );
  checkFields(limits, checks, `${name}.`);
}

function checkAppLimits(limits: unknown, name: string): void {
  checkLimits(limits, name);
  if (isObject(limits) && limits.sockets !== undefined) {
    failOption(
      `${name}.sockets`,
      limits.sockets,
      "be set for the whole server",
    );
  }
}

function checkOrigins(origins: unknown, name: string): void {
  for (const rule of Array.isArray(origins) ? origins : [origins]) {
    if (typeof rule === "function" || rule instanceof RegExp) continue;
    if (rule === "*") continue;
    const isOrigin = typeof rule === "string" && ORIGIN_RULE.test(rule);
    // "null" is what sandboxed pages of anybody send.
    if (isOrigin && rule !== "null") continue;
    failOption(
      name,
      rule,
      'be "*", an origin such as "https://example.com" or "https://*.example.com", a RegExp or a function',
    );
  }
}

/** The app that is there when none is named. */
export function defaultApp(options: PusherOptions): AppOptions {
  return {
    id: options.appId ?? "app-id",
    key: options.key ?? "app-key",
    // Nobody outside can sign with a secret that is never told.
    secret: options.secret ?? crypto.randomUUID(),
  };
}

/** Options of the default instance, as far as the environment may be read. */
export function readEnvironment(): PusherOptions {
  const read = (variable: string) => {
    const permission = { name: "env", variable } as const;
    // Asking for the permission could stop the program at a prompt.
    const granted = Deno.permissions.querySync(permission).state === "granted";
    return granted ? Deno.env.get(variable) || undefined : undefined;
  };
  return {
    appId: read("PUSHER_APP_ID"),
    key: read("PUSHER_APP_KEY"),
    secret: read("PUSHER_APP_SECRET"),
    path: read("PUSHER_PATH"),
  };
}
