/**
 * The checks of the options of a server and of its apps, and of some calls.
 *
 * @module
 */

import type { History } from "./backplane.ts";
import {
  type Check,
  checkBoolean,
  checkDelay,
  checkDuration,
  checkFunction,
  checkIdentifier,
  checkKey,
  checkLimit,
  checkNothing,
  checkPath,
  checkSecret,
  copyOptions,
  fail,
  failSecret,
  type Field,
  fieldsOf,
  having,
  itemOf,
  listOf,
  objectOf,
} from "./checks.ts";
import { ORIGIN_RULE } from "./http.ts";
import {
  checkKeys,
  checkPair,
  copyKeys,
  noteKeys,
  noteUnique,
} from "./keys.ts";
import { DEFAULT_LIMITS } from "./limits.ts";
import { isObject } from "./protocol.ts";
import { requireDeno } from "./runtime.ts";
import {
  type AppOptions,
  DEFAULT_HISTORY,
  type PusherOptions,
  SUBJECT,
} from "./options.ts";

// ---- Checks -----------------------------------------------------------------

const LIMITS: Record<string, Check> = Object.fromEntries(
  Object.keys(DEFAULT_LIMITS).map((name) => [name, checkLimit]),
);

const checkEncryption = having(["encrypt", "sharedSecret"], "be an Encryption");

/** Options of the official SDK that are not ignored, as events would leave in clear. */
const HINTS = Object.freeze({
  encryptionMasterKeyBase64:
    'pass it as encryption: encryption({ masterKeyBase64 }), which is from "@glitz/pusher/encryption"',
  encryptionMasterKey:
    'pass it in base64 as encryption: encryption({ masterKeyBase64 }), which is from "@glitz/pusher/encryption"',
});

function checkClientEvents(value: unknown, field: Field): void {
  if (typeof value === "boolean" || typeof value === "function") return;
  fail(value, field, "be a boolean or a function");
}

const APP_CHECKS: Record<keyof AppOptions, Check> = {
  id: checkIdentifier,
  key: checkKey,
  secret: checkSecret,
  keys: checkKeys,
  enabled: checkBoolean,
  clientEvents: checkClientEvents,
  subscriptionCounts: checkBoolean,
  forceTLS: checkBoolean,
  encryption: checkEncryption,
  authorizationTimeoutMs: checkDuration,
  origins: checkOrigins,
  limits: objectOf({ ...LIMITS, sockets: failSockets }),
};

const checkAppFields = objectOf<AppOptions>(APP_CHECKS, ["id"], HINTS);

function checkApp(app: unknown, field: Field): void {
  checkAppFields(app, field);
  // It has just been found to be an app, perhaps without a key.
  checkPair(app as AppOptions, field);
}

const checkHistoryFields = objectOf<History>({
  events: checkLimit,
  ageMs: checkDuration,
  bytes: checkLimit,
  sessions: checkLimit,
});

const CHECKS: Record<keyof PusherOptions, Check> = {
  appId: checkIdentifier,
  key: checkIdentifier,
  secret: checkSecret,
  keys: checkKeys,
  apps: checkApps,
  path: checkPath,
  clientEvents: checkClientEvents,
  authorize: checkFunction,
  authenticate: checkFunction,
  encryption: checkEncryption,
  subscriptionCounts: checkBoolean,
  forceTLS: checkBoolean,
  trustProxy: checkBoolean,
  cacheTtlMs: checkDuration,
  authorizationTimeoutMs: checkDuration,
  answerTimeoutMs: checkDuration,
  bodyTimeoutMs: checkDuration,
  origins: checkOrigins,
  limits: objectOf(LIMITS),
  activityTimeoutMs: checkDuration,
  pingAfterMs: checkDuration,
  pongTimeoutMs: checkDuration,
  strictProtocol: checkBoolean,
  history: checkHistory,
  backplane: having(["publish", "read", "sessions"], "be a Backplane"),
  clock: having(["now", "elapsed", "after"], "be a Clock"),
  now: checkFunction,
  cluster: checkNothing,
  host: checkNothing,
  port: checkNothing,
  scheme: checkNothing,
  useTLS: checkNothing,
  encrypted: checkNothing,
  timeout: checkNothing,
  agent: checkNothing,
  proxy: checkNothing,
};

const checkAll = objectOf<PusherOptions>(CHECKS, [], HINTS);

const FIELD: Field = { subject: SUBJECT, name: "" };

/** A key in the place of the options is meant for the client. */
const SERVER_OPTIONS =
  "be an object such as { appId, key, secret }: new Pusher(key, options) makes a client, which is in @glitz/pusher/client";

/**
 * Copies and checks the options. What is used later is what was checked, whatever
 * the program does with its own objects; and an undefined option is a missing one.
 *
 * @throws {TypeError} At the first option that breaks its rule; a RangeError if it
 * is a number.
 */
export function readOptions(given: PusherOptions): PusherOptions {
  requireDeno(SUBJECT);
  if (typeof given === "string") failSecret(given, FIELD, SERVER_OPTIONS);
  const options = copyWith(given, keysOf(CHECKS));
  if (isObject(options)) {
    const { apps, history } = options;
    if (Array.isArray(apps)) {
      options.apps = Array.from(
        apps,
        (app) => copyWith(app, keysOf(APP_CHECKS)),
      );
    }
    if (isObject(history)) {
      options.history = copyOptions(history, keysOf(DEFAULT_HISTORY));
    }
  }
  checkAll(options, FIELD);
  const { apps, appId, key, secret, keys } = options;
  if (apps === undefined) {
    if (keys !== undefined) {
      checkPair(options, FIELD);
      noteKeys(new Map(), options, FIELD);
    }
    return options;
  }
  if ([appId, key, secret, keys].every((option) => option === undefined)) {
    return options;
  }
  throw new TypeError(
    `${SUBJECT}: apps excludes appId, key, secret and keys, and both are given`,
  );
}

/** Copies the options of a server or an app, with their limits and origins. */
function copyWith<Options extends AppOptions | PusherOptions>(
  given: Options,
  names: readonly (keyof Options)[],
): Options {
  const options = copyOptions(given, names);
  if (!isObject(options)) return options;
  const { limits, origins, keys } = options;
  if (Array.isArray(keys)) {
    options.keys = copyKeys(keys);
  }
  if (isObject(limits)) {
    options.limits = copyOptions(limits, keysOf(DEFAULT_LIMITS));
  }
  if (Array.isArray(origins)) options.origins = [...origins];
  return options;
}

function keysOf<Key extends string>(record: Readonly<Record<Key, unknown>>) {
  // It has these properties and no others.
  return Object.keys(record) as Key[];
}

function checkApps(apps: unknown, field: Field): void {
  listOf(checkApp, "app")(apps, field);
  // listOf has just found an array of apps.
  const list = apps as AppOptions[];
  const ids = new Map<string, string>();
  const keys = new Map<string, string>();
  for (const [i, app] of list.entries()) {
    const item = itemOf(field, i);
    noteUnique(ids, app.id, item, "id");
    noteKeys(keys, app, item);
  }
}

function checkHistory(history: unknown, field: Field): void {
  if (history === false) return;
  if (history === null || typeof history !== "object") {
    fail(history, field, "be false or an object");
  }
  checkHistoryFields(history, field);
}

function failSockets(value: unknown, field: Field): never {
  fail(value, field, "be set for the whole server");
}

function checkOrigins(origins: unknown, field: Field): void {
  for (const rule of Array.isArray(origins) ? origins : [origins]) {
    if (typeof rule === "function" || rule instanceof RegExp) continue;
    if (rule === "*") continue;
    const isOrigin = typeof rule === "string" && ORIGIN_RULE.test(rule);
    // Sandboxed pages of any site send "null".
    if (isOrigin && rule.toLowerCase() !== "null") continue;
    fail(
      rule,
      field,
      'be "*", an origin such as "https://example.com" or "https://*.example.com", a RegExp or a function',
    );
  }
}

// ---- Fields of calls --------------------------------------------------------

/** The check of the options of {@linkcode Pusher.close}. */
export const checkCloseOptions: Check = objectOf({ over: checkDelay });
/** The check of the filter of {@linkcode Pusher.channels}. */
export const checkFilter: Check = fieldsOf(["filter_by_prefix", "info"]);
/** The check of the parameters of {@linkcode Pusher.channel}. */
export const checkInfoParams: Check = fieldsOf(["info"]);
