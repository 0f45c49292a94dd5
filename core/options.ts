/**
 * The options of a server and of its apps, and their defaults.
 *
 * @module
 */

import type { Backplane, History } from "./backplane.ts";
import type {
  AnyEvents,
  Authenticate,
  Authorize,
  Encryption,
  ReviewClientEvent,
} from "./calls.ts";
import type { OriginRule } from "./http.ts";
import type { Limits } from "./limits.ts";
import { requireDeno } from "./runtime.ts";
import type { Credentials } from "./signatures.ts";
import { type Clock, SYSTEM_CLOCK } from "./time.ts";

/** One of several applications in {@linkcode PusherOptions.apps}. */
export interface AppOptions {
  /** The app's id, in HTTP API paths. The SDK for Python takes digits only. */
  id: string;
  /** The app's key, by which clients name it; public. Needed unless there are `keys`. */
  key?: string | undefined;
  /** The app's secret, for signatures; it never leaves the server. */
  secret?: string | undefined;
  /** More keys of the app, see {@linkcode PusherOptions.keys}. */
  keys?: Credentials[] | undefined;
  /** Whether the app accepts connections and requests. @default {true} */
  enabled?: boolean | undefined;
  /** Overrides {@linkcode PusherOptions.clientEvents}. */
  clientEvents?: boolean | ReviewClientEvent | undefined;
  /** Overrides {@linkcode PusherOptions.subscriptionCounts}. */
  subscriptionCounts?: boolean | undefined;
  /** Overrides {@linkcode PusherOptions.forceTLS}. */
  forceTLS?: boolean | undefined;
  /** Overrides {@linkcode PusherOptions.encryption}. */
  encryption?: Encryption | undefined;
  /** Overrides {@linkcode PusherOptions.authorizationTimeoutMs}. */
  authorizationTimeoutMs?: number | undefined;
  /** Overrides {@linkcode PusherOptions.origins} for this app's sockets. */
  origins?: OriginRule | OriginRule[] | undefined;
  /** Overrides some entries of {@linkcode PusherOptions.limits}. */
  limits?: Partial<Omit<Limits, "sockets">> | undefined;
}

/**
 * Options of {@linkcode Pusher}, all of them optional.
 *
 * @typeParam Events As for {@linkcode Pusher}.
 */
export interface PusherOptions<Events = AnyEvents> {
  /**
   * The app's id, in HTTP API paths. The SDK for Python takes digits only.
   * @default {"1"}
   */
  appId?: string | undefined;
  /** The app's key, by which clients name it; public. @default {"app-key"} */
  key?: string | undefined;
  /**
   * The app's secret, for signatures. The default is random, so nobody outside
   * this process can sign.
   */
  secret?: string | undefined;
  /**
   * Several keys of the app, each with its secret, the newest first; with `key` and
   * `secret`, the older keys. The newest signs, and is the key of the served client.
   * Clients and backends may use any of them, so that a secret can be replaced: add
   * the new one in front, give it to everybody, and remove the old one.
   */
  keys?: Credentials[] | undefined;
  /** Several apps, instead of the app that the four options above describe. */
  apps?: AppOptions[] | undefined;
  /**
   * The prefix of every route, such as `/realtime`. Backends may sign their
   * requests with or without it. @default {""}
   */
  path?: string | undefined;
  /**
   * Whether clients may send events to each other, on private and presence channels
   * that they have joined. A function reviews each event before it is relayed, see
   * {@linkcode ReviewClientEvent}. If it throws, rejects, or takes longer than
   * `answerTimeoutMs`, the event is refused, and the `error` hook gets the reason.
   *
   * The events of one connection on one channel keep their order, even if a later
   * answer comes first. A connection that has left the channel by then, or is gone,
   * sends nothing. At most `limits.pendingClientEvents` of them wait.
   *
   * @default {false}
   *
   * @example Words that nobody has to read
   * ```ts
   * import { Pusher } from "@glitz/pusher";
   *
   * type Events = {
   *   [room: `presence-${string}`]: { "client-said": { text: string } };
   * };
   *
   * await using pusher = new Pusher<Events>({
   *   clientEvents({ event, data }) {
   *     if (event !== "client-said") return false;
   *     const text = Object(data).text;
   *     if (typeof text !== "string") return "A message needs a text";
   *     return { data: { text: text.replaceAll(/darn/gi, "****") } };
   *   },
   * });
   * ```
   */
  clientEvents?: boolean | ReviewClientEvent<Events> | undefined;
  /**
   * Answers `POST {path}/pusher/auth`, the default endpoint of clients that
   * subscribe to private and presence channels. Without it the route answers 404,
   * and the program may serve its own.
   */
  authorize?: Authorize<Events> | undefined;
  /**
   * Answers `POST {path}/pusher/user-auth`, the default endpoint of clients that
   * sign in. Without it the route answers 404, and the program may serve its own.
   */
  authenticate?: Authenticate | undefined;
  /**
   * Encrypts the events that the program triggers on `private-encrypted-`
   * channels. Without it such a trigger throws.
   */
  encryption?: Encryption | undefined;
  /**
   * Whether the server sends subscribers the number of subscriptions to their
   * channel when it changes. @default {false}
   */
  subscriptionCounts?: boolean | undefined;
  /**
   * How long a cache channel keeps its last event, in milliseconds.
   * @default {1800000}
   */
  cacheTtlMs?: number | undefined;
  /**
   * How long a connection may stay without signing in or joining a private or
   * presence channel, in milliseconds; then the server closes it with 4009. The
   * hosted service allows 30 seconds. Without this option there is no such limit.
   *
   * With it, a connection counts towards `limits.connections` from the moment at
   * which it authorizes, and before that towards `limits.unauthorizedConnections`.
   */
  authorizationTimeoutMs?: number | undefined;
  /**
   * Whether clients and backends must use TLS. The server closes other connections
   * with 4000, after which `pusher-js` comes back over TLS, and answers other requests
   * to the HTTP API and the auth endpoints with 403. Behind a proxy that ends TLS it
   * needs `trustProxy`. @default {false}
   */
  forceTLS?: boolean | undefined;
  /**
   * Whether to believe the header `x-forwarded-proto`, for `forceTLS`, and the last
   * address in `x-forwarded-for`, which `inspect` shows. Only for a server that every
   * client reaches through a proxy that sets these headers: anybody else can send
   * them, too. @default {false}
   */
  trustProxy?: boolean | undefined;
  /**
   * How long `authorize` and `authenticate` may take to answer, in milliseconds.
   * Then the client gets a 503, and `signal` of their context aborts. A function
   * in `clientEvents` has as long: then the event is refused.
   * @default {10000}
   */
  answerTimeoutMs?: number | undefined;
  /**
   * How long the whole body of a request may take to arrive, in milliseconds. Then
   * the client gets a 408 and its connection is closed. @default {10000}
   */
  bodyTimeoutMs?: number | undefined;
  /**
   * The origins whose pages may open sockets and call the auth endpoints, besides
   * the server's own. Without it any page may open a socket, as a socket alone
   * reveals nothing private, and the auth endpoints answer only pages of the
   * server's own origin.
   */
  origins?: OriginRule | OriginRule[] | undefined;
  /** Limits that differ from the defaults. */
  limits?: Partial<Limits> | undefined;
  /**
   * Silence after which a client pings the server, in milliseconds. The server
   * announces it when a client connects. @default {120000}
   */
  activityTimeoutMs?: number | undefined;
  /**
   * Silence after which the server sends `pusher:ping` to a client, in milliseconds.
   * Clients that may not answer that get a WebSocket ping, too, after half of this
   * and `pongTimeoutMs`.
   * @default {60000, or activityTimeoutMs if that is less}
   */
  pingAfterMs?: number | undefined;
  /**
   * How long a client may take to answer a ping, in milliseconds. A client that
   * disappears without a word leaves its channels after this and `pingAfterMs`.
   * @default {15000}
   */
  pongTimeoutMs?: number | undefined;
  /**
   * Whether clients that name no protocol version, neither in the query nor by a
   * subprotocol, are refused. @default {false}
   */
  strictProtocol?: boolean | undefined;
  /**
   * The events that the server keeps for clients which lose their connection, to
   * replay them on reconnect; false for none. See {@linkcode History} for the
   * defaults.
   *
   * Our own client needs nothing more. An unmodified `pusher-js` names a recovery
   * session in its path: `wsPath: "/r/" + id`. The id has 16 to 128 characters of
   * `A-Z a-z 0-9 _ -`, and no other client may know or use it. On pages of any kind
   * `crypto.getRandomValues(new Uint32Array(4)).join("-")` makes one.
   */
  history?: Partial<History> | false | undefined;
  /**
   * Holds the state that several servers share, and fans events out to them.
   * @default {MemoryBackplane}
   */
  backplane?: Backplane | undefined;
  /**
   * The source of every timestamp, age, rate and timer, for tests that set the time.
   * @default {the clocks and timers of the runtime}
   */
  clock?: Clock | undefined;
  /**
   * Replaces {@linkcode Clock.now} of `clock`: the time in milliseconds that signed
   * timestamps are checked against. @default {Date.now}
   */
  now?: (() => number) | undefined;
  /** Ignored: an option of the official SDK, which has a host to call. */
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
  /** Ignored, see `cluster`. */
  proxy?: string | undefined;
}

/** Opens every message about these options. */
export const SUBJECT = "Cannot create a Pusher";

// ---- Defaults ---------------------------------------------------------------

export const DEFAULT_HISTORY: Readonly<History> = Object.freeze({
  events: 5_000,
  ageMs: 300_000,
  bytes: 67_108_864,
  sessions: 10_000,
});

/** The clock of a server. */
export function clockOf({ clock = SYSTEM_CLOCK, now }: PusherOptions): Clock {
  if (now === undefined) return clock;
  return {
    now,
    elapsed: () => clock.elapsed(),
    after: (delayMs, run) => clock.after(delayMs, run),
  };
}

// ---- Default app and environment --------------------------------------------

/** The app of options that have no `apps`. */
export function defaultAppOptions(options: PusherOptions): AppOptions {
  const { appId: id = "1", key, secret, keys } = options;
  if (keys !== undefined) return { id, key, secret, keys };
  return {
    id,
    key: options.key ?? "app-key",
    // Nobody outside can sign with a secret that never leaves this process.
    secret: options.secret ?? crypto.randomUUID(),
  };
}

/** The options of the default instance, from the variables that may be read. */
export function readEnvironment(): PusherOptions {
  requireDeno(SUBJECT);
  const read = (variable: string) => {
    const permission = { name: "env", variable } as const;
    // To request the permission could stop the program at a prompt.
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
