/**
 * The apps, channels, users and limits that the fuzzer draws from.
 *
 * @module
 */
import type { App } from "../../support/wire.ts";

export const APPS: [App, App] = [
  { id: "one", key: "key-one", secret: "secret-of-one" },
  { id: "two", key: "key-two", secret: "secret-of-two" },
];

export function otherThan(app: App): App {
  return app === APPS[0] ? APPS[1] : APPS[0];
}

/** Small, so that they are met; rates are off, as they depend on time. */
export const LIMITS = Object.freeze({
  channelsPerConnection: 8,
  channelNameLength: 60,
  eventNameLength: 40,
  eventDataBytes: 300,
  channelsPerEvent: 5,
  eventsPerBatch: 4,
  frameBytes: 4_000,
  bodyBytes: 8_000,
  presenceMembers: 6,
  userIdLength: 20,
  userInfoBytes: 100,
  watchedUsers: 3,
  framesPerSecond: Infinity,
  framesBurst: Infinity,
  clientEventsPerSecond: Infinity,
  bufferedBytes: Infinity,
});

export const BATCHES_PER_ROUND = 40;
export const BATCHES_PER_SIEGE = 8;
export const MAX_PEERS = 12;

/** Channels that both witnesses are on all the time. */
export const WATCHED = [
  "news",
  "cache-c",
  "private-p",
  "private-cache-p",
  "presence-x",
  "presence-cache-x",
];
/** Channels that come and go. */
const UNWATCHED = [
  "side",
  "mycache-x",
  "private-s",
  "presence-y",
  "private-encrypted-e",
  "private-encrypted-cache-e",
];
export const POOL = [...WATCHED, ...UNWATCHED];
export const ODD_CHANNELS = [
  "",
  "a b",
  "#server-to-user-u1",
  "#server-to-user-w1",
  "#watchers-of-u1",
  "__proto__",
  "presence-",
  "ünïcode",
  "n".repeat(60),
  "n".repeat(61),
];
export const USERS = ["u1", "u2", "u3", "10", "__proto__", "zoë ✓"];
export const INFOS: unknown[] = [
  undefined,
  {},
  { n: 1 },
  { n: "two" },
  null,
  [],
];
export const ODD_VALUES: unknown[] = [
  null,
  true,
  -1,
  1.5,
  2 ** 53,
  "",
  "x",
  "ü😀\u2028",
  "a".repeat(400),
  [],
  ["news"],
  {},
  { channel: "news" },
  { __proto__x: 1 },
];
export const SPICE = [
  '"',
  "\\",
  "{",
  "}",
  "[",
  ",",
  ":",
  "null",
  "\ud800",
  "0",
  "é",
];
export const INTERNAL = "pusher_internal:";
export const WATCHLIST = `${INTERNAL}watchlist_events`;
export const MISS = "pusher:cache_miss";
export const USER_CHANNEL = "#server-to-user-";
export const PING = '{"event":"pusher:ping","data":{}}';

/** Stands for what differs from run to run, so that damage does not. */
export const AUTH = "@@auth@@";
