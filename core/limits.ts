/**
 * Limits on everything that a peer can make grow, and refusals.
 *
 * @module
 */

import { Buffer } from "node:buffer";

/**
 * Limits on everything that a peer can make grow. `Infinity` switches a limit off.
 *
 * The defaults for sizes and counts of events, channels and members are those of
 * the hosted service.
 */
export interface Limits {
  /**
   * Live connections of one app; further connections are closed with 4004, which
   * stops stock clients for good. Where `authorizationTimeoutMs` is set, only
   * connections that have authorized count, and a connection that authorizes above
   * the limit is closed with 4100: its client tries again after a second.
   * @default {Infinity}
   */
  connections: number;
  /**
   * Live connections of one app that have not authorized yet, where
   * `authorizationTimeoutMs` is set; further connections are closed with 4100.
   * @default {1000}
   */
  unauthorizedConnections: number;
  /**
   * Sockets that this server holds, of all apps and including those that are
   * still closing; further sockets are closed with 4100, and a few per cent above it
   * refused with 503. By default 100,000. On Linux, if the program has all
   * permissions, it is less where the process may open fewer files: a tenth of
   * them, and at least 64, stay free for all else. @default {100000}
   */
  sockets: number;
  /** Channels that one connection may be subscribed to. @default {200} */
  channelsPerConnection: number;
  /**
   * Bytes that a client has left unread; of frames that wait in this process their
   * UTF-16 units. A client that is still above it one turn of the event loop later,
   * and has not read all that was handed to its socket, leaves all channels and is
   * closed with 4100. The runtime holds about 64 KiB of a client's unread frames.
   * The rest waits in memory that all clients share. @default {1048576}
   */
  bufferedBytes: number;
  /**
   * Bytes of one incoming frame; larger ones are dropped with an error. The
   * runtime has taken in the whole frame by then, up to 64 MiB of it.
   * @default {65536}
   */
  frameBytes: number;
  /** Incoming frames per second, refilling `framesBurst`. @default {100} */
  framesPerSecond: number;
  /**
   * Incoming frames at once. Further frames are dropped, with one error a second.
   * After another `framesBurst` dropped frames the client is closed with 4100.
   * @default {1000}
   */
  framesBurst: number;
  /** UTF-16 units of a channel name. @default {200} */
  channelNameLength: number;
  /** UTF-16 units of an event name. @default {200} */
  eventNameLength: number;
  /** Bytes of an event's data as a string. @default {10240} */
  eventDataBytes: number;
  /** Channels of one publish. @default {100} */
  channelsPerEvent: number;
  /** Events of one batch. @default {10} */
  eventsPerBatch: number;
  /** Bytes of an HTTP API request body. @default {1048576} */
  bodyBytes: number;
  /** Distinct users on one presence channel. @default {100} */
  presenceMembers: number;
  /** UTF-16 units of a user id. @default {128} */
  userIdLength: number;
  /** Bytes of a member's `user_info` as JSON. @default {1024} */
  userInfoBytes: number;
  /** Client events per second and connection. @default {10} */
  clientEventsPerSecond: number;
  /**
   * Client events of one connection that wait for the answer of a function in
   * `clientEvents`; further events are refused with 4301. @default {20}
   */
  pendingClientEvents: number;
  /**
   * Users that one connection may watch; further users are not watched.
   * @default {100}
   */
  watchedUsers: number;
  /**
   * Past events that a new subscriber may ask for with `rewind`. A client that asks
   * for more gets the last so many, as where the history has no more.
   * @default {1000}
   */
  rewindEvents: number;
  /**
   * UTF-16 units of the URL of a WebSocket. The runtime keeps it as long as the
   * socket. @default {8192}
   */
  urlLength: number;
}

export const DEFAULT_LIMITS: Readonly<Limits> = Object.freeze({
  connections: Infinity,
  unauthorizedConnections: 1_000,
  sockets: 100_000,
  channelsPerConnection: 200,
  bufferedBytes: 1_048_576,
  frameBytes: 65_536,
  framesPerSecond: 100,
  framesBurst: 1_000,
  channelNameLength: 200,
  eventNameLength: 200,
  eventDataBytes: 10_240,
  channelsPerEvent: 100,
  eventsPerBatch: 10,
  bodyBytes: 1_048_576,
  presenceMembers: 100,
  userIdLength: 128,
  userInfoBytes: 1_024,
  clientEventsPerSecond: 10,
  pendingClientEvents: 20,
  watchedUsers: 100,
  rewindEvents: 1_000,
  urlLength: 8_192,
});

/** Why something is refused, and the HTTP status that says so. */
export class Refusal {
  readonly status: number;
  readonly error: string;
  /** The limit that was exceeded, where that is the reason. */
  readonly limit: keyof Limits | undefined;

  constructor(status: number, error: string, limit?: keyof Limits) {
    this.status = status;
    this.error = error;
    this.limit = limit;
  }
}

export function isRefusal(value: unknown): value is Refusal {
  return value instanceof Refusal;
}

/**
 * Refuses something for a limit that it exceeds.
 *
 * @param found What exceeds it, such as "The event has 101 channels".
 */
export function overLimit(
  limit: keyof Limits,
  limits: Limits,
  found: string,
  status = 400,
): Refusal {
  const error = `${found}: the limit ${limit} is ${limits[limit]}`;
  return new Refusal(status, error, limit);
}

/**
 * Returns a value, or throws a refusal: to the program it is an exception.
 *
 * @param what Opens the message; a function where to write it costs something.
 */
export function accepted<T>(
  value: T | Refusal,
  what: string | (() => string),
): T {
  if (!isRefusal(value)) return value as T;
  const subject = typeof what === "string" ? what : what();
  const message = `${subject}: ${value.error}`;
  throw value.limit === undefined
    ? new TypeError(message)
    : new RangeError(message);
}

/** Shows a value in a message: in short, and never what is inside an object. */
export function quote(value: unknown): string {
  if (typeof value === "string") {
    const shown = value.length > 100 ? `${value.slice(0, 100)}…` : value;
    return JSON.stringify(shown).replace(
      UNPRINTABLE,
      (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
  }
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "function" ? "a function" : String(value);
}

/**
 * Characters that JSON leaves as they are, and that act on a terminal or turn the
 * direction of a text.
 */
const UNPRINTABLE = /[\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g;

/** Whether a text has more than `max` bytes in UTF-8. */
export function exceedsBytes(text: string, max: number): boolean {
  // A UTF-16 unit is one to three bytes, so most texts need no counting.
  if (text.length > max) return true;
  if (text.length * 3 <= max) return false;
  return Buffer.byteLength(text) > max;
}
