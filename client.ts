/**
 * The Pusher Channels client: subscribes to channels and receives their events, in
 * browsers, workers, Deno, Node.js (22 or later) and Bun.
 *
 * It has the names and shapes of `pusher-js` and works with any server that
 * speaks version 7 of the protocol. `mod.ts` serves it to browsers at
 * `/pusher.js` and `/pusher.mjs`, configured and ready to use.
 *
 * ```ts
 * import { Pusher as Server } from "@glitz/pusher";
 * import { Pusher } from "@glitz/pusher/client";
 * import { assertEquals } from "@std/assert";
 *
 * const server = new Server({ key: "app-key" });
 * const http = Deno.serve({ port: 0, onListen() {} }, server.handler);
 *
 * const pusher = new Pusher("app-key", {
 *   wsHost: "localhost",
 *   wsPort: http.addr.port,
 *   forceTLS: false,
 * });
 * const channel = pusher.subscribe("messages");
 * channel.bind("pusher:subscription_succeeded", () => {
 *   server.trigger("messages", "create", { text: "hello" });
 * });
 * const message = await new Promise((resolve) => {
 *   channel.bind("create", resolve);
 * });
 * assertEquals(message, { text: "hello" });
 *
 * pusher.disconnect();
 * await server.close();
 * await http.shutdown();
 * ```
 *
 * @module
 */
import type { Nacl } from "./client/encrypted.ts";
import type { Socket } from "./client/http.ts";

export type { Nacl } from "./client/encrypted.ts";

// ---- Types ------------------------------------------------------------------
// Options, frames and event data. Names and shapes are those of pusher-js, so
// durations are milliseconds although their names do not say it.

/** Options of {@linkcode Pusher}. Unknown options are ignored. */
export interface PusherOptions extends IgnoredOptions {
  /**
   * Address of the server, with the prefix of its routes:
   * `https://example.com/realtime`. It stands for `wsHost`, the ports, `wsPath` and
   * `forceTLS`, which override it, and makes the server's own auth endpoints the
   * default.
   */
  url?: string;
  /** Host of the server. @default {the page's} */
  wsHost?: string;
  /** Port without TLS. @default {that of `url` or the page, or 80} */
  wsPort?: number;
  /** Port with TLS. @default {that of `url` or the page, or 443} */
  wssPort?: number;
  /** Prefix of the server's routes, such as `/realtime`. @default {""} */
  wsPath?: string;
  /** Cluster of the hosted service; gives the host where `wsHost` does not. */
  cluster?: string;
  /**
   * Whether to use TLS. A page loaded over https always uses TLS.
   * @default {true, or without `wsHost` and `cluster` whether the page uses TLS}
   */
  forceTLS?: boolean;
  /**
   * Host of the HTTP transports, for networks where no WebSocket can open.
   * @default {the host of WebSocket}
   */
  httpHost?: string;
  /** Port of the HTTP transports without TLS. @default {the port of WebSocket} */
  httpPort?: number;
  /** Port of the HTTP transports with TLS. @default {the port of WebSocket} */
  httpsPort?: number;
  /**
   * Prefix of the routes of the HTTP transports.
   * @default {"/pusher" after `wsPath`}
   */
  httpPath?: string;
  /**
   * Whether requests of the HTTP transports to another origin have cookies: a load
   * balancer with sticky sessions may need its own. The server has to allow it.
   * @default {"same-origin"}
   */
  httpCredentials?: Credentials;
  /**
   * Transports to use, from {@linkcode TransportName}. `ws` means WebSocket with
   * TLS or without.
   * @default {all of them}
   */
  enabledTransports?: string[];
  /**
   * Transports not to use, even if they are enabled. `wss` disables WebSocket
   * with TLS only.
   * @default {[]}
   */
  disabledTransports?: string[];
  /**
   * Silence of the server after which the client sends a ping; the server may ask
   * for a shorter time. @default {120000}
   */
  activityTimeout?: number;
  /** How long the pong may take. @default {30000} */
  pongTimeout?: number;
  /** How long the state is `connecting` before `unavailable`. @default {10000} */
  unavailableTimeout?: number;
  /** How to authorize private and presence channels. */
  channelAuthorization?: ChannelAuthorization;
  /** How to sign in. */
  userAuthentication?: UserAuthentication;
  /** Decrypts the events of encrypted channels: `tweetnacl`, for example. */
  nacl?: Nacl;
  /**
   * Endpoint that authorizes private and presence channels.
   * @deprecated Use `channelAuthorization.endpoint`.
   */
  authEndpoint?: string;
  /**
   * Fields and headers for that endpoint.
   * @deprecated Use `channelAuthorization`.
   */
  auth?: Pick<ChannelAuthorization, "params" | "headers">;
  /**
   * Makes the object that authorizes a channel.
   * @deprecated Use `channelAuthorization.customHandler`.
   */
  authorizer?: (channel: Channel, options: PusherOptions) => {
    authorize(socketId: string, callback: AuthCallback): void;
  };
}

/**
 * Options of pusher-js that are accepted and ignored: the client uses `fetch` and
 * sends no statistics.
 */
export type IgnoredOptions = Partial<
  Record<
    | "authTransport"
    | "disableStats"
    | "enableStats"
    | "ignoreNullOrigin"
    | "statsHost"
    | "timelineParams",
    unknown
  >
>;

/** Whether requests to another origin have cookies, as for `fetch`. */
export type Credentials = "omit" | "same-origin" | "include";

/** How to authorize private and presence channels. */
export type ChannelAuthorization = AuthOptions<AuthRequest, ChannelAuth>;

/** How to authenticate the user. */
export type UserAuthentication = AuthOptions<UserAuthRequest, UserAuth>;

/** How to get an authorization from the program's own server. */
export interface AuthOptions<Params, Answer> {
  /**
   * URL of the endpoint. By default it is `/pusher/auth` for channels, and
   * `/pusher/user-auth` for users: of the server that the client is connected to if
   * that server answers the client's page, if the option `url` is set, or if there
   * is no page; otherwise of the page, as with pusher-js.
   */
  endpoint?: string;
  /**
   * Whether the request has cookies if the endpoint is of another origin, which
   * has to allow it.
   * @default {"include" for an endpoint of the server that allows it, else
   * "same-origin"}
   */
  credentials?: Credentials | undefined;
  /**
   * Whether one request may name several channels, as `channel_name[]`. The endpoint
   * answers with `channels`: the answers, by the names of the channels.
   * @default {true for the server's own endpoint, else false}
   */
  batch?: boolean | undefined;
  /** Accepted for pusher-js and ignored: the client uses `fetch`. */
  transport?: string | undefined;
  /** Fields to post besides `socket_id` and, for channels, `channel_name`. */
  params?: Record<string, unknown> | undefined;
  /** Headers to send. */
  headers?: Record<string, string> | undefined;
  /** Makes further fields for each request. */
  paramsProvider?: (() => Record<string, unknown>) | undefined;
  /** Makes further headers for each request. */
  headersProvider?: (() => Record<string, string>) | undefined;
  /** Answers in place of the endpoint. */
  customHandler?: Authorizer<Params, Answer> | undefined;
}

/** A request to authenticate the user. */
export interface UserAuthRequest {
  /** Id of the connection. */
  socketId: string;
}

/** A request to authorize a channel. */
export interface AuthRequest extends UserAuthRequest {
  /** Name of the channel. */
  channelName: string;
}

/** Takes the answer of a `customHandler`: an error, or null and the answer. */
export type AuthCallback<Answer = ChannelAuth> = (
  error: unknown,
  answer?: Answer | null,
) => void;

/** A signed authorization for a channel. */
export interface ChannelAuth {
  /** `key:signature`. */
  auth: string;
  /**
   * On presence channels the member, as the JSON text that was signed. Without it
   * a signed-in user joins as that user.
   */
  channel_data?: string;
  /** On encrypted channels the secret, in base64. The client keeps it. */
  shared_secret?: string;
}

/** A signed authentication of a user. */
export interface UserAuth {
  /** `key:signature`. */
  auth: string;
  /** The user, as the JSON text that was signed. */
  user_data: string;
}

/** Gets an authorization, and passes an error or the answer to a function. */
export type Authorizer<Request, Answer> = (
  request: Request,
  callback: AuthCallback<Answer>,
) => void;

/** The options of an instance, with defaults filled in. */
export interface PusherConfig extends PusherOptions {
  /** Host of the server. */
  readonly wsHost: string;
  /** Port without TLS. */
  readonly wsPort: number;
  /** Port with TLS. */
  readonly wssPort: number;
  /** Prefix of the server's routes. */
  readonly wsPath: string;
  /** Whether connections begin with TLS. */
  readonly useTLS: boolean;
  /** Longest silence of the server before the client sends a ping. */
  readonly activityTimeout: number;
  /** How long the pong may take. */
  readonly pongTimeout: number;
  /** How long the state is `connecting` before `unavailable`. */
  readonly unavailableTimeout: number;
  /** Authorizes a channel. */
  readonly channelAuthorizer: Authorizer<AuthRequest, ChannelAuth>;
  /** Authenticates the user. */
  readonly userAuthenticator: Authorizer<UserAuthRequest, UserAuth>;
}

/** A message from the server, its data decoded. */
export interface Frame {
  /** The name of the event. */
  event: string;
  /** The channel, unless the frame is about the connection. */
  channel?: string;
  /** The data: its value if it is JSON, else the text. */
  // deno-lint-ignore no-explicit-any -- peers send any JSON
  data?: any;
  /** The sending member, for client events on presence channels. */
  user_id?: string;
  /** Offset of the event in the channel's history, if the server keeps it. */
  offset?: number;
  /** Position from which the channel continues, if the client cannot know it. */
  position?: Position;
  /** Whether the server replays every missed event; present if asked for. */
  recovered?: boolean;
}

/** A position in the history of a channel. */
export interface Position {
  /** Id of the history. Offsets of different epochs cannot be compared. */
  epoch: string;
  /** Grows with every event of the channel, not always by 1. */
  offset: number;
}

/** How to subscribe to a channel. */
export interface SubscribeOptions {
  /**
   * Number of past events that the server replays to a new subscriber. After a
   * reconnect it replays the missed events instead, as far as its history reaches
   * back. Servers without a history ignore it, and a server gives at most the
   * last `limits.rewindEvents`, 1,000 by default.
   * @default {0}
   */
  rewind?: number;
}

/** Second argument of the handlers of channel events. */
export interface EventMetadata {
  /** The sending member, for client events on presence channels. */
  user_id?: string;
}

/** Handles an event. Only handlers of a channel get metadata. */
export type Handler<Data> = (data: Data, metadata: EventMetadata) => void;

/** The event names of a map from event to data. */
export type EventName<Events> = Extract<keyof Events, string>;

/** The channel names of a map from channel to event to data. */
export type ChannelName<Events> = Extract<keyof Events, string>;

/** A map from event to data without the names of the protocol. */
export type ProgramEvents<Events> = unknown extends Events
  // deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
  ? any
  : { [N in keyof Events as Exclude<N, ProtocolName>]: Events[N] };

/** Names that are reserved for the protocol. */
export type ProtocolName = `pusher:${string}` | `pusher_internal:${string}`;

/** The events of a map from event to data that clients may trigger. */
export type ClientEventName<Events> = unknown extends Events ? string
  : string extends keyof Events ? `client-${string}`
  : Extract<keyof Events, `client-${string}`>;

/** The data of an event as arguments, optional where it may be undefined. */
export type DataArgs<Data> = undefined extends Data ? [data?: Data]
  : [data: Data];

/**
 * The `user_info` of the members of a presence channel: a map from event to data
 * declares it under the reserved name `pusher:user_info`.
 */
export type UserInfo<Events> = Events extends { "pusher:user_info": infer Info }
  ? Info
  // deno-lint-ignore no-explicit-any -- without a declaration it may be anything
  : any;

/** Events that a channel has because of its kind, which its name decides. */
export type EventsOfKind<Events, Name> = Name extends `presence-${string}`
  ? PresenceEvents<UserInfo<Events>>
  : unknown;

/**
 * All events of a channel, of the program and of the protocol: for code that takes
 * the channel's name as a type parameter.
 *
 * @example
 * ```ts
 * import type { EventsOf } from "@glitz/pusher/client";
 * import { assertEquals } from "@std/assert";
 *
 * interface Events {
 *   news: { create: { text: string } };
 *   sport: { create: { text: string }; goal: { minute: number } };
 * }
 *
 * // The name of any event of a channel, checked by the compiler.
 * const name = <C extends keyof Events>(
 *   _channel: C,
 *   event: keyof EventsOf<Events, C>,
 * ) => event;
 *
 * assertEquals(name("sport", "goal"), "goal");
 * assertEquals(name("news", "pusher:cache_miss"), "pusher:cache_miss");
 * // @ts-expect-error "news" has no such event.
 * name("news", "goal");
 * ```
 */
export type EventsOf<Events, Name extends keyof Events> =
  & ProgramEvents<Events[Name]>
  & ChannelEvents
  & EventsOfKind<Events[Name], Name>;

/**
 * The class of a channel, which its name decides. The first part is there for every
 * name, so that code for any channel can call its methods.
 */
export type ChannelOf<Events, Name extends keyof Events> =
  & Channel<Events[Name], EventsOfKind<Events[Name], Name>>
  & (Name extends `presence-${string}` ? PresenceChannel<Events[Name]>
    : unknown);

/** The event names of any of several maps from event to data. */
export type NameIn<Maps> = Maps extends unknown ? keyof Maps : never;

/** The data of an event in any of several maps from event to data. */
export type DataIn<Maps, Name> = Maps extends unknown
  ? Name extends keyof Maps ? Maps[Name] : never
  : never;

/** Events for {@linkcode Pusher.bind}: the events of all channels. */
export type AllEvents<Events> =
  & {
    [N in Exclude<NameIn<Events[keyof Events]>, ProtocolName>]: DataIn<
      Events[keyof Events],
      N
    >;
  }
  & PusherEvents;

/** Events of the protocol for {@linkcode Pusher.bind}. */
export interface PusherEvents {
  /** The server reports an error. */
  "pusher:error": ErrorData;
  /** The server refused a subscription. */
  "pusher:subscription_error": SubscriptionError;
  /** A cache channel has no cached event. */
  "pusher:cache_miss": undefined;
  /** Events of a channel were missed and cannot be replayed. */
  "pusher:recovery_failed": { channel: string };
}

/** Events of the protocol on every channel. */
export interface ChannelEvents {
  /** The server confirmed the subscription. */
  "pusher:subscription_succeeded": unknown;
  /** The auth endpoint or the server refused the subscription. */
  "pusher:subscription_error": SubscriptionError;
  /** The number of subscribers changed. */
  "pusher:subscription_count": { subscription_count: number };
  /** The cache channel has no cached event. */
  "pusher:cache_miss": undefined;
  /** Events were missed and cannot be replayed. Later events follow. */
  "pusher:recovery_failed": { channel: string };
  /** The server reports an error about this channel. */
  "pusher:error": ErrorData;
}

/** Events of the protocol on presence channels. */
// deno-lint-ignore no-explicit-any -- without a declaration it may be anything
export interface PresenceEvents<Info = any> extends ChannelEvents {
  /** The server confirmed the subscription; the data is the members. */
  "pusher:subscription_succeeded": Members<Info>;
  /** A member joined. */
  "pusher:member_added": Member<Info>;
  /** A member left. */
  "pusher:member_removed": Member<Info>;
}

/** Why a subscription or a sign-in was refused. */
export interface SubscriptionError {
  /**
   * `AuthError` if the authorization is missing or wrong, `LoadError` if a part of
   * the client could not be loaded.
   */
  type: string;
  /** A message for people. */
  error: string;
  /** HTTP status, or 0 when the auth endpoint could not be reached. */
  status?: number;
}

/** An error that the server reports, or the reason why a connection ended. */
export interface ErrorData {
  /** A code of the protocol or of WebSocket. */
  code: number | null;
  /** A message for people. */
  message: string;
}

/** An error reported by the server, or the end of an established connection. */
export interface PusherError {
  /** Distinguishes the errors of a connection. */
  type: "PusherError";
  /** Code and message. */
  data: ErrorData;
}

/** Any error of a connection. */
export type ConnectionError =
  | PusherError
  | { type: "WebSocketError"; error: PusherError }
  | { type: "HandshakeError"; error: Error }
  | { type: "MessageParseError"; error: Error; data: unknown };

/** Transports: WebSocket without TLS and with it, HTTP streaming and polling. */
export type TransportName = "ws" | "wss" | "xhr_streaming" | "xhr_polling";

/** State of a connection; {@linkcode Connection} draws the transitions. */
export type ConnectionState =
  | "initialized"
  | "connecting"
  | "connected"
  | "unavailable"
  | "failed"
  | "disconnected";

/** Events of a connection. */
export interface ConnectionEvents {
  /** The state changed; an event named after the new one follows. */
  state_change: { previous: ConnectionState; current: ConnectionState };
  /** The client is connecting, or waits for the next attempt. */
  connecting: undefined;
  /** Connected, with a new socket id. */
  connected: { socket_id: string };
  /** Attempts have failed for a while, and continue. */
  unavailable: undefined;
  /** There is no transport to connect with. */
  failed: undefined;
  /** Not connected, and no attempt is planned. */
  disconnected: undefined;
  /** Seconds until the next attempt. */
  connecting_in: number;
  /** Something went wrong. */
  error: ConnectionError;
  /** A message arrived: every frame that can be read. */
  message: Frame;
}

// ---- Emitter ----------------------------------------------------------------
// Handlers by event name. Names come from the network, so they key a Map. Lists
// are replaced and never changed: handlers may bind and unbind while they run.

/** One registration of a handler. */
interface Binding {
  handler: Handler<never>;
  context: unknown;
}

/**
 * Base class of clients, connections, channels and users: calls event handlers.
 *
 * @example
 * ```ts
 * import { Emitter } from "@glitz/pusher/client";
 * import { assertEquals } from "@std/assert";
 *
 * const heard: string[] = [];
 * const emitter = new Emitter<{ create: { text: string } }>();
 * const handler = ({ text }: { text: string }) => void heard.push(text);
 * emitter.bind("create", handler).emit("create", { text: "hello" });
 * emitter.unbind("create", handler).emit("create", { text: "unheard" });
 * assertEquals(heard, ["hello"]);
 * ```
 */
// deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
export class Emitter<Events = any> {
  readonly #bindings = new Map<string, Binding[]>();
  // deno-lint-ignore no-explicit-any -- receives every event
  #globals: ((event: string, data: any) => void)[] = [];
  /** What the debug log calls it; undefined if it need not say what has no handler. */
  declare readonly name: string | undefined;

  /** Called when a handler is added. */
  wake?(): void;

  /** Made by {@linkcode Pusher}, and by subclasses. */
  constructor(name?: string) {
    this.name = name;
  }

  /** Adds a handler. A handler that is bound twice is called twice. */
  bind<N extends EventName<Events>>(
    event: N,
    handler: Handler<Events[N]>,
    context?: unknown,
  ): this {
    this.wake?.();
    const bound = this.#bindings.get(event) ?? [];
    this.#bindings.set(event, [...bound, { handler, context }]);
    return this;
  }

  /**
   * Removes the handlers that match every argument: event, handler, context.
   * Without arguments it removes all handlers except global handlers.
   */
  unbind(
    event?: EventName<Events> | null,
    handler?: Handler<never> | null,
    context?: unknown,
  ): this {
    for (const [name, bound] of this.#bindings) {
      if (event && event !== name) continue;
      const rest = bound.filter((binding) =>
        (handler && handler !== binding.handler) ||
        (context && context !== binding.context)
      );
      if (rest.length > 0) this.#bindings.set(name, rest);
      else this.#bindings.delete(name);
    }
    return this;
  }

  /** Adds a handler for every event, called before the handlers of the event. */
  // deno-lint-ignore no-explicit-any -- receives every event
  bind_global(handler: (event: string, data: any) => void): this {
    this.wake?.();
    this.#globals = [...this.#globals, handler];
    return this;
  }

  /** Removes a handler for every event, or all of them. */
  unbind_global(handler?: (event: string, data: never) => void): this {
    this.#globals = handler
      ? this.#globals.filter((bound) => bound !== handler)
      : [];
    return this;
  }

  /** Removes all handlers. */
  unbind_all(): this {
    return this.unbind().unbind_global();
  }

  /**
   * Calls the handlers of an event. An error that a handler throws is reported as
   * uncaught, and the other handlers still run.
   */
  emit(event: string, data?: unknown, metadata?: EventMetadata): this {
    for (const handler of this.#globals) callSafely(() => handler(event, data));
    const args = metadata ? [data, metadata] : data ? [data] : [];
    const bound = this.#bindings.get(event);
    if (!bound && this.name) log(`No callbacks on ${this.name} for ${event}`);
    for (const { handler, context } of bound ?? []) {
      // A handler takes as many arguments as it wants.
      const passed = args as Parameters<typeof handler>;
      callSafely(() => handler.apply(context ?? globalThis, passed));
    }
    return this;
  }
}

/** Whether a handler was called since this was false: then somebody knows. */
let isHeard = false;

/** Calls a handler; reports an error that it throws as uncaught. */
function callSafely(call: () => void): void {
  isHeard = true;
  try {
    call();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

// ---- Pusher -----------------------------------------------------------------
// The public object: reads the options, owns the set of channels and passes
// frames from the connection to them. It queues nothing: after a reconnect it
// subscribes to every channel of the set.

/** Longer timers overflow in every runtime, and fire at once. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/**
 * A client of one app. It connects when it is constructed.
 *
 * - Channels and handlers outlive the connection: after a reconnect every channel
 *   is subscribed again.
 * - If the server keeps a history, it replays the events that a channel missed, in
 *   order and exactly once. If the history does not reach back far enough, the
 *   channel emits `pusher:recovery_failed`.
 * - Nothing is queued: without a connection `trigger` returns false, and the event
 *   is not sent later.
 * - `Events` maps channel names to event names to data; names may be template
 *   literals. With it the compiler checks `subscribe`, `bind` and `trigger`,
 *   without it everything is allowed. On presence channels the name
 *   `pusher:user_info` declares the `user_info` of the members.
 *
 * @example Typed events
 * ```ts ignore
 * import { Pusher } from "@glitz/pusher/client";
 *
 * interface Events {
 *   messages: { create: { text: string } };
 *   [room: `presence-${string}`]: {
 *     "pusher:user_info": { name: string };
 *     "client-typing": { since: number };
 *   };
 * }
 *
 * const pusher = new Pusher<Events>("app-key", { wsHost: "example.com" });
 * pusher.subscribe("messages").bind("create", ({ text }) => console.log(text));
 * const lobby = pusher.subscribe("presence-lobby");
 * lobby.bind("client-typing", ({ since }, { user_id = "" }) => {
 *   console.log(lobby.members.get(user_id)?.info.name, since);
 * });
 * ```
 */
// deno-lint-ignore no-explicit-any -- without a declaration every channel is allowed
export class Pusher<Events = any> extends Emitter<AllEvents<Events>> {
  /** The instances, except instances that are disconnected. */
  static instances: Pusher[] = [];
  /** Whether instances connect when they are made. They need not wait for the page. */
  static isReady = true;
  /** Whether to log to the console. */
  static logToConsole = false;
  /** URL from which a served script loads its lazy part; else undefined. */
  static fallbackUrl: string | undefined;
  /** Receives log messages in place of the console. */
  static log: ((message: string) => void) | null = null;

  // The constructor sets these fields: `declare` adds no code for them.
  /** The app's key. */
  declare readonly key: string;
  /** The options as they were passed in. */
  declare readonly options: PusherOptions;
  /** The options with defaults filled in. */
  declare readonly config: PusherConfig;
  /** The user that is signed in, and the user's events. */
  readonly user: User = new User(this);

  /**
   * Position of each channel, including the user's own channel. After a reconnect
   * the channel continues from there, so that no event is missed or repeated.
   */
  readonly positions: Map<string, Position> = new Map();

  /** The channels. */
  readonly channels: Channels = new Channels();
  readonly #connection: Connection;
  /** Aborts the auth requests of the current connection. */
  #requests = new AbortController();
  /** Channels to authorize together at the end of this turn, and the answers. */
  #names: string[] = [];
  #answers: Promise<ChannelAnswers | undefined> | undefined;

  /**
   * Connects to the app with a key.
   *
   * @throws {TypeError} without a key, or if neither the options nor a page give
   * the host of the server. An empty or malformed key or address does not throw: it
   * is an error of the connection.
   */
  constructor(key: string, options: PusherOptions = {}) {
    super();
    if ((key ?? null) === null) {
      throw new TypeError('Cannot create Pusher: "key" is missing');
    }
    this.key = key;
    this.options = options;
    const { channelAuthorization, userAuthentication, authorizer } = options;
    this.config = {
      ...options,
      ...resolveConfig(options),
      channelAuthorizer:
        (channelAuthorization
          ? channelAuthorization.customHandler
          : authorizer && (({ channelName, socketId }, callback) =>
            // The channel asks, so it is there.
            authorizer(this.channels.find(channelName)!, options)
              .authorize(socketId, callback))) ??
          toAuthorizer((request) => this.#authorize(request)),
      userAuthenticator: userAuthentication?.customHandler ??
        toAuthorizer((request) =>
          askAuth(
            request,
            this.#endpoint("/pusher/user-auth", userAuthentication),
          )
        ),
    };
    this.#connection = new Connection(this);
    Pusher.instances.push(this);
    if (Pusher.isReady) this.connect();
  }

  /** Does nothing: instances do not wait for the page to load. */
  static ready(): void {}

  /** Emitter of the events of all channels: the instance itself. */
  get global_emitter(): this {
    return this;
  }

  /** The connection: its state, its id and its events. */
  get connection(): Connection {
    this.wake();
    return this.#connection;
  }

  /** Connects, unless connected: at once, even if an attempt is planned for later. */
  connect(): void {
    this.#connection.connect();
  }

  /** Disconnects. The channels stay; `connect()` subscribes to them again. */
  disconnect(): void {
    this.#connection.disconnect();
  }

  /** Signs in, now or once connected, and again after every reconnect. */
  signin(): void {
    this.user.signin();
  }

  /**
   * Subscribes to a channel, now or once connected, and returns it.
   *
   * @throws for a name that starts with `#` (`BadChannelName`) and, without the
   * option `nacl`, for encrypted channels (`UnsupportedFeature`).
   */
  subscribe<C extends ChannelName<Events>>(
    name: C,
    options?: SubscribeOptions,
  ): ChannelOf<Events, C> {
    const channel = this.channels.find(name) ?? createChannel(name, this);
    setOwn(this.channels.channels, name, channel);
    channel.rewind = options?.rewind ?? channel.rewind;
    // If an unsubscription waits for the server's answer, it is withdrawn.
    channel.reinstateSubscription();
    this.wake();
    if (this.#connection.state === "connected") channel.subscribe();
    // The name decides the class, as the type says.
    return channel as ChannelOf<Events, C>;
  }

  /**
   * Unsubscribes from a channel and forgets it. While a subscription is pending,
   * that waits for the server's answer.
   */
  unsubscribe(name: ChannelName<Events>): void {
    const channel = this.channels.find(name);
    if (channel?.subscriptionPending) return channel.cancelSubscription();
    this.#forget(name);
    if (channel?.subscribed) channel.unsubscribe();
  }

  /** Subscribes again to every channel that is not subscribed. */
  subscribeAll(): void {
    // These names are of declared channels.
    for (const { name } of this.allChannels()) this.subscribe(name as never);
  }

  /** The channel with a name, if the client has subscribed to it. */
  channel<C extends ChannelName<Events>>(
    name: C,
  ): ChannelOf<Events, C> | undefined {
    // As in `subscribe`.
    return this.channels.find(name) as ChannelOf<Events, C> | undefined;
  }

  /** All channels. */
  allChannels(): Channel[] {
    return this.channels.all();
  }

  /** Sends a frame; false when not connected. */
  send_event(event: string, data?: unknown, channel?: string): boolean {
    return this.connection.send_event(event, data, channel);
  }

  /** Whether connections begin with TLS. */
  shouldUseTLS(): boolean {
    return this.config.useTLS;
  }

  /** Connects an instance that waits for its first use. */
  override wake(): void {
    if (this.#connection.state === "initialized") this.connect();
  }

  #forget(name: string): void {
    delete this.channels.channels[name];
    this.positions.delete(name);
  }

  /** Handles a new state, before its events; called by {@linkcode Connection}. */
  onState(current: ConnectionState, previous: ConnectionState): void {
    // Only instances in use are listed: the others may be garbage.
    if (current === "disconnected") {
      Pusher.instances = Pusher.instances.filter((one) => one !== this);
    } else if (previous === "disconnected") {
      Pusher.instances.push(this);
    }
    if (previous === "connected") {
      this.#requests.abort();
      this.#requests = new AbortController();
      this.user.disconnect();
      for (const channel of this.allChannels()) {
        channel.disconnect();
        // Without a connection a cancelled subscription needs no answer: it is gone.
        if (channel.subscriptionCancelled) this.#forget(channel.name);
      }
    } else if (current === "connected") {
      // Without a history the server cannot continue from these positions.
      if (!this.#connection.extensions.has("recover")) this.positions.clear();
      this.user.connect();
      this.subscribeAll();
    }
  }

  /** Passes a frame on, before the event `message`; called by {@linkcode Connection}. */
  onFrame(frame: Frame): void {
    const { event, channel = "", data, offset } = frame;
    const position = this.positions.get(channel);
    if (position && offset !== undefined) {
      // A replay repeats what arrived before the connection was lost.
      if (offset <= position.offset) return;
      this.positions.set(channel, { ...position, offset });
    }
    this.channels.find(channel)?.handleEvent(frame);
    this.user.handleEvent?.(frame);
    if (!isInternal(event)) this.emit(event, data);
  }

  /** Authorizes a channel at the endpoint, if possible together with others. */
  async #authorize(request: AuthRequest): Promise<ChannelAuth> {
    const { options } = this;
    const { channelName } = request;
    const given: AuthOptions<AuthRequest, ChannelAuth> = {
      endpoint: options.authEndpoint || "",
      ...options.channelAuthorization ?? options.auth,
    };
    const endpoint = this.#endpoint("/pusher/auth", given);
    const takesSeveral = given.batch ??
      (this.#connection.extensions.has("auth") &&
        endpoint.endpoint === this.#connection.routeUrl("/pusher/auth"));
    const isAlone = !takesSeveral || takeOne.has(endpoint.endpoint) ||
      this.channels.find(channelName)?.subscribed;
    let answers: ChannelAnswers | undefined;
    if (!isAlone) {
      this.#names.push(channelName);
      answers = await (this.#answers ??= this.#askTogether(request, endpoint));
    }
    if (!answers) return askAuth(request, endpoint);
    const answer = answers[channelName];
    if (isAuth<ChannelAuth>(answer)) return answer;
    const { error = NO_AUTH, status } = answer ?? {};
    throw failure(error, { status });
  }

  /** Fills in the URL of an auth endpoint, and whether it gets cookies. */
  #endpoint<Params, Answer>(
    path: "/pusher/auth" | "/pusher/user-auth",
    given?: AuthOptions<Params, Answer>,
  ): Endpoint<Params, Answer> {
    const { extensions } = this.#connection;
    // The option may be null, as with pusher-js.
    const { endpoint, credentials } = given ?? {};
    // The path means nothing where there is no page.
    const isOwn = this.options.url || extensions.has(path) ||
      !pageOrigin();
    return {
      ...given,
      endpoint: endpoint || (isOwn ? this.#connection.routeUrl(path) : path),
      credentials: credentials ||
        (!endpoint && extensions.has("credentials") ? "include" : undefined),
      signal: this.#requests.signal,
    };
  }

  /**
   * Authorizes all channels of this turn by one request. Returns undefined if each
   * channel needs a request of its own: because there is only one channel, or
   * because the endpoint cannot authorize several.
   */
  async #askTogether(
    { socketId }: AuthRequest,
    endpoint: Endpoint<AuthRequest, ChannelAuth>,
  ): Promise<ChannelAnswers | undefined> {
    // The rest of the turn adds to the names.
    await null;
    const names = this.#names;
    this.#names = [];
    this.#answers = undefined;
    if (!names[1]) return;
    try {
      // The list of names replaces the name.
      const request = { socketId } as AuthRequest;
      const answer: unknown = await askAuth(request, endpoint, names);
      const { channels }: { channels?: ChannelAnswers } = Object(answer);
      if (channels) return channels;
    } catch (cause) {
      // The endpoint has not answered, or a function of the program has thrown.
      if (!(cause as { status?: number }).status) throw cause;
    }
    takeOne.add(endpoint.endpoint);
  }
}

/** Auth endpoints that have refused a request for several channels. */
const takeOne = new Set<string>();

/**
 * Fills in defaults. An option that is empty or zero has its default, as with
 * pusher-js; a timeout that is too long for a timer is as long as possible. The address
 * of the server is in the options, else that of the page.
 */
function resolveConfig(
  options: PusherOptions,
): Omit<PusherConfig, "channelAuthorizer" | "userAuthenticator"> {
  const { url, cluster } = options;
  if (url && !isHttpUrl(url)) {
    throw new TypeError('Cannot create Pusher: "url" is no HTTP URL');
  }
  const page = pageOrigin();
  // A build may fill in an empty text for a variable that is not set.
  const named = options.wsHost ||
    (cluster && !url ? `ws-${cluster}.pusher.com` : "");
  const base = url ? new URL(url) : named ? null : page;
  const wsHost = named || base?.hostname || "";
  // An empty text fails later, as it does with pusher-js.
  if (!wsHost && (cluster ?? null) === null) {
    throw new TypeError(
      'Cannot create Pusher: "url", "wsHost" or "cluster" is missing outside a page',
    );
  }
  // Without an option nothing is greater than 0.
  const timeout = (ms: number | undefined, defaultMs: number) =>
    ms! > 0 ? Math.min(ms!, MAX_TIMEOUT_MS) : defaultMs;
  // The default port is empty.
  const port = Number(base?.port);
  return {
    // The protocol recommends the first two; pusher-js has the last.
    activityTimeout: timeout(options.activityTimeout, 120_000),
    pongTimeout: timeout(options.pongTimeout, 30_000),
    unavailableTimeout: timeout(options.unavailableTimeout, 10_000),
    wsHost,
    wsPort: options.wsPort || port || 80,
    wssPort: options.wssPort || port || 443,
    wsPath: options.wsPath || (base?.pathname ?? "").replace(/\/$/, ""),
    // Browsers refuse connections without TLS on pages that were loaded with TLS.
    useTLS: page?.protocol === "https:" ||
      (options.forceTLS ?? base?.protocol !== "http:") !== false,
  };
}

/** The transports that the options allow, in the order of attempts. */
function resolveTransports(config: PusherConfig): Transport[] {
  const enabled: readonly string[] = config.enabledTransports ?? TRANSPORTS;
  const disabled = config.disabledTransports ?? [];
  return TRANSPORTS.filter((name) =>
    enabled.includes(name) &&
    !disabled.includes(name) &&
    !disabled.includes(protocolOf(name, config.useTLS))
  );
}

/** The origin of the page or worker; null if it was not loaded over HTTP. */
function pageOrigin(): URL | null {
  const origin = globalThis.location?.origin;
  return isHttpUrl(origin) ? new URL(origin) : null;
}

function isHttpUrl(url: string | undefined): url is string {
  return /^https?:\/\//.test(url ?? "");
}

/** An instance of a served script, whose class is that of the script. */
type Served = Pusher & { constructor: typeof Pusher };

/** Configuration that the server writes into the served script. */
export interface PresetConfig {
  /** The app's key. */
  key: string;
  /**
   * Host and port that the script was requested from, and the prefix of the server's
   * routes, as the server sees them: `localhost:8000/realtime`.
   */
  host: string;
}

/**
 * Makes the instance of a served script. It connects when it is first used, to where
 * the script came from: a proxy may have put a prefix in front of the routes. If a
 * bundler or a program has taken the script's text, and the script does not know where
 * it came from, it connects to the configured host with the protocol of the page.
 *
 * @param script The script's URL, or text that contains it.
 * @param full The lazy module, if the script contains it.
 */
export function preset(
  config: PresetConfig,
  script = "",
  full?: typeof import("./client/lazy.ts"),
): Pusher {
  lazy ??= full;
  const { key, host } = config;
  const [, url = `${pageOrigin()?.protocol ?? "http:"}//${host}`] =
    /(http[^\s?#]*)\/pusher\.m?js/.exec(script) ?? [];
  Pusher.fallbackUrl = `${url}/pusher-fallback.mjs`;
  // Behind a load balancer the server of this request may not have the socket.
  const params = { app_key: key };
  const options: PusherOptions = {
    url,
    channelAuthorization: { params },
    userAuthentication: { params },
    httpCredentials: "include",
  };
  // A script that is evaluated again, as some libraries do, finds its instance.
  const slot = Symbol.for(`${key} ${url}`);
  const slots = globalThis as unknown as Record<symbol, Served | undefined>;
  const made = slots[slot];
  // The list leaves out an instance that was disconnected.
  if (made?.constructor.instances.includes(made)) return made;
  Pusher.isReady = false;
  slots[slot] = new Pusher(key, options) as Served;
  Pusher.isReady = true;
  return slots[slot];
}

// ---- Connection -------------------------------------------------------------
// One logical connection over a series of sockets. Invariants: `#socket` is the
// only socket with listeners; `#timer` is the only pending action: the next
// attempt, its deadline, the next ping or the deadline of a pong.

/** The version of the client, for the server. */
const VERSION = "0.1.0";

/** Transports in the order of attempts, which starts over at the end. */
const TRANSPORTS = ["ws", "xhr_streaming", "xhr_polling"] as const;

type Transport = typeof TRANSPORTS[number];

/** Says why a connection fails at once. */
const NO_TRANSPORT = '"enabledTransports" leaves none';

/** Number of earlier socket ids that a client sends to the server. */
const MAX_SOCKET_IDS = 10;

/** Deadline for a socket to open and to receive the server's greeting. */
const ATTEMPT_TIMEOUT_MS = 15_000;

/**
 * Patience with WebSocket, without TLS and with it, before HTTP is tried beside it.
 * Proxies may swallow its requests, and Firefox holds them back after failures.
 */
const PATIENCE_MS = 4_000;
const TLS_PATIENCE_MS = 2_000;

/** Delay after the first round that failed; it doubles with each further round. */
const RETRY_BASE_MS = 1_000;

/** Longest delay without jitter, see {@linkcode backoffMs}. */
const RETRY_MAX_MS = 30_000;

/** After a connection that lasted this long, delays start over. */
const STABLE_MS = 10_000;

/**
 * Browsers fire these when the network or the page comes back, or the network is
 * lost. `visibilitychange` bubbles from the document to the window.
 */
const WAKE_EVENTS = ["online", "offline", "pageshow", "visibilitychange"];

/**
 * How long a pong may take after such an event. The user is waiting, and a socket
 * that has not survived sleep reports nothing; but mobile networks take seconds to
 * wake up.
 */
const WAKE_PONG_TIMEOUT_MS = 5_000;

/** Close code of a page that is being left, or of a server that stops. */
const GOING_AWAY = 1001;

/** Close code of a connection that ended without a close frame. */
const ABNORMAL_CLOSURE = 1006;

/** Close code of a connection whose ping was not answered. */
const PONG_MISSING = 4201;

/**
 * The connection of a {@linkcode Pusher}.
 *
 * ```text
 * initialized ──> connecting ──> connected
 *                  │  ^   ^          │ lost
 *         a while  v  │   └──────────┘
 *           unavailable ──> connected
 * any ──> disconnected   by `disconnect()`, or refused by the server for good
 * any ──> failed         no transport to connect with
 * ```
 *
 * - After a connection is lost, the next attempt follows at once if the server asks
 *   for that, else after about a second. When the network or the page comes back, the
 *   next attempt follows at once.
 * - An attempt is a round: WebSocket, then HTTP streaming and polling, without a
 *   pause. HTTP starts beside a WebSocket that takes longer than 4 seconds, 2 with
 *   TLS, and polling beside streaming after another 4; the first that the server
 *   greets wins. Only after a whole round has failed, or after a refusal, does the
 *   client wait: about a second, and up to 30 seconds after many failures.
 * - While the client uses HTTP, it probes WebSocket in the background and switches
 *   to it, by a reconnect without a pause.
 * - A browser opens few connections to a host, so of many tabs that use HTTP only some
 *   stay connected. The others are hidden: their state does not change, `send_event`
 *   returns false, and they connect when they are shown.
 * - After close code 1001 the state changes with the next attempt, not before:
 *   browsers close with it when a page is left, which is no news for handlers.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher();
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * await new Promise((resolve) => pusher.connection.bind("connected", resolve));
 * assertEquals(pusher.connection.state, "connected");
 * console.log(pusher.connection.socket_id);
 * pusher.disconnect();
 * ```
 */
export class Connection extends Emitter<ConnectionEvents> {
  /**
   * Extensions of the protocol that the server grants on this connection: `batch`,
   * `recover`, `auth`.
   */
  extensions: Set<string> = new Set();

  /** The options with defaults filled in. */
  declare readonly options: PusherConfig;
  readonly #owner: Pusher;
  #state: ConnectionState = "initialized";
  /** Socket ids of the last connections, the newest first. */
  #socketIds: string[] = [];
  #socket: Socket | undefined;
  readonly #transports: Transport[];
  /** Index of the transport in use. */
  #transportIndex = 0;
  #socketId: string | undefined;
  /** Whether the current or next attempt uses TLS. */
  declare usingTLS: boolean;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Ends the patience with a state. */
  #stateTimer: ReturnType<typeof setTimeout> | undefined;
  #activityTimeoutMs = 0;
  /** Whether only a pong proves that the connection lives, see `#handleWake`. */
  #isDoubtful = false;
  #failures = 0;

  /** Made by {@linkcode Pusher}. */
  constructor(owner: Pusher) {
    super();
    this.#owner = owner;
    const { config } = owner;
    this.options = config;
    this.usingTLS = config.useTLS;
    this.#transports = resolveTransports(config);
  }

  /** The state. */
  get state(): ConnectionState {
    return this.#state;
  }

  /** The id that the server gave to this connection, while connected. */
  get socket_id(): string | undefined {
    return this.#socketId;
  }

  /**
   * The transport in use or, while not connected, with which the current or the next
   * attempt goes on. The name is undefined if the options allow no transport.
   */
  get transport(): { readonly name: TransportName | undefined } {
    const transport = this.#transports[this.#transportIndex];
    return { name: transport && protocolOf(transport, this.usingTLS) };
  }

  /**
   * Connects, unless connected: at once, even if an attempt is planned for later.
   */
  connect(): void {
    if (this.#socket) return;
    if (!this.#transports.length) {
      isHeard = false;
      this.#transition("failed");
      return warn("failed", NO_TRANSPORT);
    }
    // If this attempt fails, the next attempt must follow soon.
    this.#failures = 0;
    this.#openSocket();
  }

  /** Disconnects, until the next `connect()`. */
  disconnect(): void {
    this.#dropSocket();
    this.#watchNetwork("removeEventListener");
    this.#transition("disconnected");
  }

  /** Sends a text as it is; false when not connected. */
  send(text: string): boolean {
    if (!this.#isOpen()) return false;
    this.#socket?.send(text);
    return true;
  }

  /** Sends a frame; false when not connected. */
  send_event(event: string, data?: unknown, channel?: string): boolean {
    const frame = { event, data, channel };
    const isSent = this.send(JSON.stringify(frame));
    if (isSent) log("Event sent", frame);
    return isSent;
  }

  /** The only writer of the state. */
  #transition(current: ConnectionState): void {
    const previous = this.#state;
    if (current === previous) return;
    this.#state = current;
    log("State changed", `${previous} -> ${current}`);
    clearTimeout(this.#stateTimer);
    if (current === "connecting") {
      this.#stateTimer = setTimeout(
        () => this.#transition("unavailable"),
        this.options.unavailableTimeout,
      );
    }
    if (current === "connected") {
      this.#stateTimer = setTimeout(() => {
        this.#failures = 0;
      }, STABLE_MS);
    }
    if (previous === "connected") this.#socketId = undefined;
    const socket_id = this.#socketId;
    this.#owner.onState(current, previous);
    const wasHeard = isHeard;
    this.emit("state_change", { previous, current });
    // It gives no reason.
    isHeard = wasHeard;
    // A handler may have changed the state again.
    if (this.#state === current) this.emit(current, socket_id && { socket_id });
  }

  /** URL of a route of the server; called by {@linkcode Pusher}. */
  routeUrl(route: string, protocol = "http"): string {
    const { wsHost, wsPort, wssPort, wsPath } = this.options;
    const [s, port] = this.usingTLS ? ["s", wssPort] : ["", wsPort];
    return `${protocol}${s}://${wsHost}:${port}${wsPath}${route}`;
  }

  #url(): string {
    const app = encodeURIComponent(this.#owner.key);
    const was = this.#socketIds[0] ? `&was=${this.#socketIds}` : "";
    return this.routeUrl(
      `/app/${app}?protocol=7&client=js-glitz&version=${VERSION}&batch=1&recover=1${was}`,
      "ws",
    );
  }

  #isRetrying(): boolean {
    return this.#state === "connecting" || this.#state === "unavailable";
  }

  /** Whether frames can be sent; not after a close that the state does not show. */
  #isOpen(): boolean {
    return this.#state === "connected" && !!this.#socket;
  }

  /** Starts an attempt, in place of the current socket and plan. */
  #openSocket(): void {
    this.#dropSocket();
    this.#watchNetwork("addEventListener");
    const isWs = this.#transports[this.#transportIndex] === "ws";
    // Stands for HTTP while that is loaded.
    let socket: Socket = { send() {}, close() {} };
    try {
      if (isWs) {
        const url = this.#url();
        log("Connecting", { transport: "ws", url });
        const rival = socket = new WebSocket(url);
        if (this.#transports[1]) {
          this.#schedule(
            this.usingTLS ? TLS_PATIENCE_MS : PATIENCE_MS,
            () => this.#openHttp(rival),
          );
        } else {
          this.#scheduleDeadline();
        }
      }
    } catch (error) {
      // The URL is malformed, or there is no WebSocket. Handlers can be bound before
      // this is reported.
      const hint = globalThis.WebSocket ? "" : ", Node.js 22 has it";
      this.#schedule(0, () => this.#giveUp(error + hint));
    }
    this.#listen(socket);
    // A handler may have disconnected.
    if (!isWs && socket === this.#socket) this.#openHttp();
  }

  /** Connects over HTTP, after loading it, beside a WebSocket that takes long. */
  async #openHttp(rival?: WebSocket): Promise<void> {
    this.#scheduleDeadline();
    const socket = this.#socket;
    if (rival) this.#transportIndex = 1;
    try {
      const { HttpRace } = await loadLazy();
      // Meanwhile the attempt may have been given up, or have succeeded.
      if (socket !== this.#socket || this.#socketId) return;
      this.#listen(
        // Without an object of names: each name counts in the first script.
        new HttpRace(
          this.#transports,
          this.#transportIndex,
          () => this.#url(),
          this.options,
          this.#switchTo,
          rival,
          log,
        ),
      );
    } catch (error) {
      // WebSocket may still open, or the attempt was given up.
      if (!rival && socket === this.#socket) this.#giveUp(String(error));
    }
  }

  /** Ends an attempt that the program or the page makes impossible. */
  #giveUp(reason: string): void {
    this.#handleClose(ABNORMAL_CLOSURE, reason);
    warn("connecting", reason);
  }

  /** Switches to a WebSocket that was greeted before HTTP, or while HTTP was used. */
  readonly #switchTo = (socket: Socket, greeting: string): void => {
    this.#dropSocket();
    this.#listen(socket);
    // A handler may have disconnected.
    if (socket === this.#socket) this.#handleMessage(greeting);
  };

  #listen(socket: Socket): void {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#handleMessage(data);
    socket.onclose = ({ code, reason }) => this.#handleClose(code, reason);
    if (!this.#isRetrying()) this.#transition("connecting");
  }

  /** Closes the socket, ignores its later events, and cancels the plan. */
  #dropSocket(): void {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #schedule(delayMs: number, action: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, delayMs);
  }

  #scheduleDeadline(): void {
    this.#schedule(
      ATTEMPT_TIMEOUT_MS,
      () => this.#handleClose(ABNORMAL_CLOSURE, "No greeting in time"),
    );
  }

  /** Accepts a frame or, with the extension `batch`, an array of frames. */
  #handleMessage(text: unknown): void {
    const socket = this.#socket;
    const content = decodeJson(text);
    const items = this.extensions.has("batch") ? [content].flat() : [content];
    for (const item of items) {
      // A handler may have disconnected: the server replays the rest later.
      if (socket !== this.#socket) return;
      const frame = toFrame(item);
      if (frame) log("Event recd", frame);
      if (this.#state === "connected") this.#handleFrame(frame, text);
      else this.#handleGreeting(frame);
    }
  }

  #handleFrame(frame: Frame | null, text: unknown): void {
    this.#isDoubtful &&= frame?.event !== "pusher:pong";
    if (!this.#isDoubtful) this.#schedulePing();
    if (!frame) {
      const error = new TypeError("Cannot read message: no event");
      return this.#fail({ type: "MessageParseError", error, data: text });
    }
    const { event, channel = "", data } = frame;
    if (event === "pusher:ping") this.send_event("pusher:pong", {});
    isHeard = false;
    if (event === "pusher:error") this.#fail({ type: "PusherError", data });
    this.#owner.onFrame(frame);
    if (/^pusher:.*error/.test(event)) {
      warn(`${event} ${channel}`, data?.error ?? data?.message);
    }
    this.emit("message", frame);
  }

  #fail(error: ConnectionError): void {
    log(error);
    this.emit("error", error);
  }

  /**
   * Accepts `pusher:connection_established` with `socket_id` and
   * `activity_timeout`, and `pusher:error` with `code`, which is handled like the
   * close that follows. After any other frame the client tries again later.
   */
  #handleGreeting(frame: Frame | null): void {
    const socket = this.#socket;
    const { event, data } = frame ?? {};
    const { socket_id, activity_timeout, code, message } = data ?? {};
    if (event === "pusher:connection_established" && isText(socket_id)) {
      const { activityTimeout } = this.options;
      this.#activityTimeoutMs = activity_timeout > 0
        ? Math.min(activityTimeout, activity_timeout * 1000)
        : activityTimeout;
      this.#transportIndex = this.#transports.indexOf(
        socket?.transport ?? "ws",
      );
      this.#socketId = socket_id;
      this.#socketIds = [encodeURIComponent(socket_id), ...this.#socketIds]
        .slice(0, MAX_SOCKET_IDS);
      this.extensions = new Set([data.extensions].flat());
      this.#schedulePing();
      this.#transition("connected");
    } else if (event === "pusher:error" && code > 0) {
      this.#handleClose(code, message);
    } else {
      const error = new TypeError("Cannot read message: no greeting");
      this.#fail({ type: "HandshakeError", error });
      if (socket === this.#socket) this.#retry(ABNORMAL_CLOSURE);
    }
  }

  /**
   * Reports why a socket was closed or given up, in two events where pusher-js
   * does so, and acts on the code.
   */
  #handleClose(code: number, message: string): void {
    // A hidden tab has given way to others, and connects when it is shown.
    if (code < 0) return this.#dropSocket();
    const socket = this.#socket;
    isHeard = false;
    if (code !== 1000 && code !== 1001) {
      const data = { code, message };
      const error: PusherError = { type: "PusherError", data };
      const wasConnected = this.#state === "connected";
      const asksForAction = code >= 4000 || (code >= 1002 && code <= 1004);
      if (wasConnected) this.#fail(error);
      if (!wasConnected || asksForAction) {
        this.#fail({ type: "WebSocketError", error });
      }
    }
    // A handler of the error may have disconnected.
    if (socket !== this.#socket) return;
    const isRefused = (code > 4000 && code < 4100) || code >= 4300;
    if (isRefused) {
      this.disconnect();
      return warn("disconnected", `${code} ${message}`);
    }
    if (code === 4000) this.usingTLS = true;
    this.#retry(code);
  }

  /**
   * Plans the next attempt: at once over the next transport of the round, else after
   * a delay that grows with the failures. Only the first attempt in a row that the
   * server asks for is made at once: a server that keeps asking would cause a hot
   * loop. A connection that was cut is no failure: the network passes data again.
   */
  #retry(code: number): void {
    const wasConnected = this.#state === "connected";
    // A server that refuses was reached: the transport works.
    const isBlocked = !wasConnected && code < 4000;
    const isMidway = isBlocked &&
      this.#transports[this.#transportIndex] === "ws" && !!this.#transports[1];
    if (isBlocked) this.#transportIndex = isMidway ? 1 : 0;
    if (wasConnected && code < 4000) this.#failures = 0;
    const isAsked = code === 4000 || code >= 4200;
    const delayMs =
      isMidway || this.#isDoubtful || (isAsked && this.#failures === 0)
        ? 0
        : backoffMs(this.#failures, code);
    if (!isMidway) this.#failures++;
    this.#isDoubtful = false;
    this.#dropSocket();
    this.#schedule(delayMs, () => this.#openSocket());
    // The state stays `unavailable` until an attempt succeeds.
    if (wasConnected && code !== GOING_AWAY) this.#transition("connecting");
    // A handler may have disconnected.
    if (delayMs > 0 && this.#isRetrying()) {
      this.emit("connecting_in", Math.round(delayMs / 1000));
    }
  }

  /** Sends a ping when no message has arrived for the activity timeout. */
  #schedulePing(): void {
    this.#schedule(this.#activityTimeoutMs, () => this.#sendPing());
  }

  /** Sends a ping. In doubt only a pong is an answer, and it has to come soon. */
  #sendPing(isDoubtful = false): void {
    this.#isDoubtful = isDoubtful;
    if (!this.send_event("pusher:ping", {})) return;
    this.#schedule(
      isDoubtful ? WAKE_PONG_TIMEOUT_MS : this.options.pongTimeout,
      () => {
        this.#isDoubtful = true;
        this.#handleClose(PONG_MISSING, "No pong in time");
      },
    );
  }

  /** Adds or removes the listeners for the network and the page. */
  #watchNetwork(method: "addEventListener" | "removeEventListener"): void {
    for (const event of WAKE_EVENTS) {
      // Node.js has no such method.
      globalThis[method]?.(event, this.#handleWake);
    }
  }

  /**
   * Checks a connection that may have been lost in sleep, or connects at once.
   * Frames that arrive now may have been received before the sleep: only a pong
   * proves that the connection lives.
   */
  readonly #handleWake = ({ type, target }: WakeEvent): void => {
    // Only documents have `hidden`, and nobody waits for a hidden page.
    if ((target as { hidden?: boolean } | null)?.hidden) return;
    if (this.#isOpen()) return this.#sendPing(true);
    // An attempt that began earlier may hang.
    if (type === "online") this.#dropSocket();
    if (type !== "offline") this.connect();
  };
}

/** The lazy module, once loaded. */
let lazy: typeof import("./client/lazy.ts") | undefined;

/** Name of the error of a part that cannot be loaded. */
const LOAD_ERROR = "LoadError";

/** Loads the lazy module; rejects in service workers, which may not import it. */
async function loadLazy(): Promise<NonNullable<typeof lazy>> {
  try {
    // Kept, because a served script imports it by a new URL each time.
    return lazy ??= await import("./client/lazy.ts");
  } catch (cause) {
    throw failure(
      `Cannot load ${Pusher.fallbackUrl}: does the content security policy allow it? See "/pusher.js?full": ${cause}`,
      { name: LOAD_ERROR },
    );
  }
}

/** The part of an event that `#handleWake` reads. */
interface WakeEvent {
  type: string;
  target: unknown;
}

/** The public name of a transport, with TLS or without. */
function protocolOf(transport: Transport, useTLS: boolean): TransportName {
  return transport === "ws" && useTLS ? "wss" : transport;
}

/**
 * Doubles with each failure; jitter keeps clients from returning together. It takes
 * off up to a tenth: a client is back as soon as pusher-js. After a code of the
 * server, which asks for a second or more, it adds up to half.
 */
function backoffMs(failures: number, code: number): number {
  const delayMs = Math.min(RETRY_BASE_MS * 2 ** failures, RETRY_MAX_MS);
  return delayMs * (1 + Math.random() / (code < 4000 ? -10 : 2));
}

/** Reads a message from the server; null if it is no frame. */
// deno-lint-ignore no-explicit-any -- peers send any JSON
function toFrame(content: any): Frame | null {
  if (!isText(content?.event)) return null;
  return { ...content, data: decodeJson(content.data) };
}

/** The value of a JSON text; anything else is returned as it is. */
// deno-lint-ignore no-explicit-any -- peers send any JSON
function decodeJson(text: unknown): any {
  if (!isText(text)) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function isText(value: unknown): value is string {
  return typeof value === "string";
}

/** Whether an event is for the client itself and not for handlers. */
function isInternal(event: string): boolean {
  return event.startsWith("pusher_internal:");
}

/** Whether an event belongs to the protocol and not to a program. */
function isProtocol(event: string): boolean {
  return isInternal(event) || event.startsWith("pusher:");
}

/** Logs a message if the program wants a log. */
function log(...message: unknown[]): void {
  const write = Pusher.log ?? (Pusher.logToConsole ? console.log : null);
  write?.(`Pusher :  : ${JSON.stringify(message)}`);
}

/** Warns of an error that no handler was called for. */
function warn(what: string, text: string): void {
  const warning = `Pusher: ${what}: ${text}`;
  if (isHeard || warnings.has(warning)) return;
  warnings.add(warning);
  console.warn(warning);
}

/** The warnings that were given: each is given once. */
const warnings = new Set<string>();

// ---- Channels ---------------------------------------------------------------
// A subscription as one state per connection: none, pending, subscribed. Answers
// that come late, for an earlier connection or after `unsubscribe`, are ignored.

/** The event of a channel that the server or the auth endpoint refuses. */
const SUBSCRIPTION_ERROR = "pusher:subscription_error";

/** Names of channels that need an authorization. */
const NEEDS_AUTH = /^(private|presence)-/;

/**
 * A channel that the client is subscribed to, or is about to be.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher();
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * const news = pusher.subscribe("news");
 * news.bind("pusher:subscription_succeeded", () => {
 *   test.pusher.trigger("news", "create", { text: "hello" });
 * });
 * const data = await new Promise((resolve) => news.bind("create", resolve));
 * assertEquals(data, { text: "hello" });
 * pusher.disconnect();
 * ```
 */
// deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
export class Channel<Events = any, OfKind = unknown>
  extends Emitter<ProgramEvents<Events> & ChannelEvents & OfKind> {
  /** The name. */
  declare readonly name: string;
  /** The client it belongs to. */
  declare readonly pusher: Pusher;
  /** Whether the server has confirmed the subscription. */
  subscribed = false;
  /** Whether the client waits for that confirmation, or for an authorization. */
  subscriptionPending = false;
  /** Whether to unsubscribe when the server has answered. */
  subscriptionCancelled = false;
  /** Number of subscribers, if the server sends it. */
  declare subscriptionCount: number | null | undefined;
  /** See {@linkcode SubscribeOptions.rewind}. */
  declare rewind: number | undefined;

  /** Made by {@linkcode Pusher.subscribe}. */
  constructor(name: string, pusher: Pusher) {
    super(name);
    this.pusher = pusher;
  }

  /**
   * Sends an event to the other subscribers; false when not connected.
   *
   * @throws for a name without the prefix `client-` (`BadEventName`).
   */
  trigger<N extends ClientEventName<Events>>(
    event: N,
    ...[data]: DataArgs<DataIn<ProgramEvents<Events>, N>>
  ): boolean {
    if (!event.startsWith("client-")) {
      throw failure(
        `Cannot trigger "${event}": names must start with "client-"`,
        { name: "BadEventName" },
      );
    }
    if (!this.subscribed) {
      log("Not subscribed", this.name);
    }
    return this.pusher.send_event(event, data, this.name);
  }

  /**
   * Gets an authorization for a connection, and passes an error or the answer to a
   * function. Public channels need none: the answer is empty.
   */
  authorize(socketId: string, callback: AuthCallback): void {
    const channelName = this.name;
    if (!NEEDS_AUTH.test(channelName)) return callback(null, { auth: "" });
    this.pusher.config.channelAuthorizer({ socketId, channelName }, callback);
  }

  /** Unsubscribes when the server has answered. */
  cancelSubscription(): void {
    this.subscriptionCancelled = true;
  }

  /** Withdraws {@linkcode Channel.cancelSubscription}. */
  reinstateSubscription(): void {
    this.subscriptionCancelled = false;
  }

  /** Subscribes, unless that is done or pending; called by {@linkcode Pusher}. */
  subscribe(): void {
    if (this.subscribed || this.subscriptionPending) return;
    this.subscriptionPending = true;
    if (NEEDS_AUTH.test(this.name)) this.#subscribeWithAuth();
    else this.#sendSubscribe({ auth: "" });
  }

  /** Unsubscribes; {@linkcode Pusher.unsubscribe} also forgets the channel. */
  unsubscribe(): void {
    this.subscribed = false;
    this.pusher.send_event("pusher:unsubscribe", { channel: this.name });
  }

  /** Handles the loss of the connection; called by {@linkcode Pusher}. */
  disconnect(): void {
    this.subscribed = false;
    this.subscriptionPending = false;
  }

  /** Handles a frame of this channel; called by {@linkcode Pusher}. */
  handleEvent(frame: Frame): void {
    const { event, data, user_id, position } = frame;
    if (position) this.pusher.positions.set(this.name, position);
    if (event === "pusher_internal:subscription_succeeded") {
      this.subscribed = true;
      if (this.#settle()) return;
      this.emit("pusher:subscription_succeeded", this.confirm(data));
    } else if (event === "pusher_internal:subscription_count") {
      this.subscriptionCount = data?.subscription_count ?? null;
      this.emit("pusher:subscription_count", data);
    } else if (event === SUBSCRIPTION_ERROR) {
      // A program that has unsubscribed does not want to know.
      if (this.#settle()) isHeard = true;
      else this.emit(SUBSCRIPTION_ERROR, data);
    } else if (!isInternal(event)) {
      this.emit(event, data, user_id === undefined ? {} : { user_id });
    }
  }

  /** Reads an authorization before it is used. */
  protected acceptAuth(_answer: ChannelAuth): void | Promise<void> {}

  /** Reads the server's confirmation and returns the data for handlers. */
  protected confirm(data: unknown): unknown {
    return data;
  }

  /** Gets and reads an authorization; undefined if it comes too late. */
  protected async getAuth(): Promise<ChannelAuth | void> {
    const { pusher } = this;
    const socketId = pusher.connection.socket_id ?? "";
    const isLate = () =>
      socketId !== pusher.connection.socket_id ||
      !(this.subscriptionPending || this.subscribed);
    try {
      const answer = await answerOf<ChannelAuth>((callback) =>
        this.authorize(socketId, callback)
      );
      if (!isLate()) await this.acceptAuth(answer);
      if (!isLate()) return answer;
    } catch (cause) {
      if (!isLate()) throw cause;
    }
  }

  async #subscribeWithAuth(): Promise<void> {
    try {
      const answer = await this.getAuth();
      if (!answer) return;
      if (this.subscriptionCancelled) this.#settle();
      else this.#sendSubscribe(answer);
    } catch (cause) {
      if (!this.#settle()) reportRefusal(this, SUBSCRIPTION_ERROR, cause);
    }
  }

  #sendSubscribe({ auth, channel_data }: ChannelAuth): void {
    const { name, pusher } = this;
    const { connection, positions } = pusher;
    pusher.send_event("pusher:subscribe", {
      auth,
      channel_data,
      channel: name,
      recover: positions.get(name),
      rewind: connection.extensions.has("recover") ? this.rewind : undefined,
    });
  }

  /** Ends the pending subscription. Returns whether it was cancelled. */
  #settle(): boolean {
    this.subscriptionPending = false;
    if (this.subscriptionCancelled) this.pusher.unsubscribe(this.name);
    return this.subscriptionCancelled;
  }
}

/**
 * A channel that knows its members.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher({
 *   authorize: () => ({ user_id: "ann", user_info: { name: "Ann" } }),
 * });
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * const lobby = pusher.subscribe("presence-lobby");
 * await new Promise((resolve) => {
 *   lobby.bind("pusher:subscription_succeeded", resolve);
 * });
 * assertEquals(lobby.members.me, { id: "ann", info: { name: "Ann" } });
 * pusher.disconnect();
 * ```
 */
// deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
export class PresenceChannel<Events = any>
  extends Channel<Events, PresenceEvents<UserInfo<Events>>> {
  /** The members; empty while the channel is not subscribed. */
  readonly members: Members<UserInfo<Events>> = new Members();

  /** Handles a frame of this channel; called by {@linkcode Pusher}. */
  override handleEvent(frame: Frame): void {
    const { members } = this;
    const { event, data } = frame;
    const id = String(data?.user_id);
    const member = members.get(id);
    if (event === "pusher_internal:member_added") {
      setOwn(members.members, id, data?.user_info);
      members.update();
      this.emit("pusher:member_added", members.get(id));
    } else if (event === "pusher_internal:member_removed") {
      delete members.members[id];
      members.update();
      if (member) this.emit("pusher:member_removed", member);
    } else {
      super.handleEvent(frame);
    }
  }

  /** Handles the loss of the connection; called by {@linkcode Pusher}. */
  override disconnect(): void {
    super.disconnect();
    this.members.myID = null;
    this.members.update({});
  }

  /** Reads the program's own user id: from the authorization or the sign-in. */
  protected override async acceptAuth(
    { channel_data }: ChannelAuth,
  ): Promise<void> {
    const { user } = this.pusher;
    if (!channel_data) await user.signinDonePromise;
    const id = channel_data
      ? decodeJson(channel_data)?.user_id
      : user.user_data?.id;
    // Both ids may be null.
    if ((id ?? null) === null) {
      throw new TypeError(
        `Cannot subscribe to "${this.name}": no channel_data in answer`,
      );
    }
    this.members.myID = String(id);
  }

  /** Reads the members. */
  // deno-lint-ignore no-explicit-any -- peers send any JSON
  protected override confirm(data: any): Members<UserInfo<Events>> {
    return this.members.update({ ...data?.presence?.hash });
  }
}

/** A member of a presence channel. */
// deno-lint-ignore no-explicit-any -- without a declaration it may be anything
export interface Member<Info = any> {
  /** The user. */
  id: string;
  /** The `user_info` of the user. */
  info: Info;
}

/**
 * The members of a presence channel, as they are now.
 *
 * @example
 * ```ts
 * import { type PresenceChannel, Pusher } from "@glitz/pusher/client";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher({ authorize: () => ({ user_id: "ann" }) });
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * const { members } = await new Promise<PresenceChannel>((resolve) => {
 *   const lobby = pusher.subscribe("presence-lobby");
 *   lobby.bind("pusher:subscription_succeeded", () => resolve(lobby));
 * });
 * const ids: string[] = [];
 * members.each(({ id }) => ids.push(id));
 * assertEquals([members.count, ids], [1, ["ann"]]);
 * pusher.disconnect();
 * ```
 */
// deno-lint-ignore no-explicit-any -- without a declaration it may be anything
export class Members<Info = any> {
  /** The `user_info` of each user, by the id of the user. */
  members: Record<string, Info> = {};
  /** Number of members. */
  count = 0;
  /** The id of the program's own user, while it is known. */
  myID: string | null = null;
  /** The program's own user, while it is a member. */
  me: Member<Info> | null = null;

  /** The member with an id, if there is one. */
  get(id: string | number): Member<Info> | null {
    const key = String(id);
    const info = own(this.members, key);
    return info ? { id: key, info: info.value } : null;
  }

  /** Calls a function with every member. */
  each(visit: (member: Member<Info>) => void): void {
    // The object has the keys.
    for (const id of Object.keys(this.members)) visit(this.get(id)!);
  }

  /** Takes other members, or changed members; called by {@linkcode PresenceChannel}. */
  update(members: Record<string, Info> = this.members): this {
    this.members = members;
    this.count = Object.keys(members).length;
    // No id is empty.
    this.me = this.get(this.myID ?? "");
    return this;
  }
}

/** A channel whose events the server cannot read. */
class EncryptedChannel extends Channel {
  override trigger(event: string, _data?: unknown): never {
    throw failure(
      `Cannot trigger "${event}": client events are not encrypted`,
      { name: "UnsupportedFeature" },
    );
  }

  /** Handles events of the protocol alone, until the secret decrypts the others. */
  override handleEvent(frame: Frame): void {
    if (isProtocol(frame.event)) super.handleEvent(frame);
  }

  /** Loads the decryptor and gives it the secret. */
  protected override async acceptAuth(answer: ChannelAuth): Promise<void> {
    const { decrypt } = await loadLazy();
    decrypt(this, answer, () => this.getAuth(), log);
  }
}

/**
 * The channels of a {@linkcode Pusher}.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher();
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * pusher.subscribe("news");
 * pusher.subscribe("sport");
 * assertEquals(pusher.channels.all().map(({ name }) => name), ["news", "sport"]);
 * assertEquals(pusher.channels.find("weather"), undefined);
 * pusher.disconnect();
 * ```
 */
export class Channels {
  /** The channels by name. */
  readonly channels: Record<string, Channel> = {};

  /** All channels. */
  all(): Channel[] {
    return Object.values(this.channels);
  }

  /** The channel with a name, if there is one. */
  find(name: string): Channel | undefined {
    return own(this.channels, name)?.value;
  }
}

/**
 * A property of an object that has names from the network as keys. Reading and
 * writing such a property directly would reach the object's prototype.
 */
function own<T>(
  object: Record<string, T>,
  key: string,
): { value: T } | undefined {
  // There are no getters.
  return Object.getOwnPropertyDescriptor(object, key) as { value: T };
}

/** Sets such a property. */
function setOwn<T>(object: Record<string, T>, key: string, value: T): void {
  Object.defineProperty(object, key, own({ [key]: value }, key)!);
}

function createChannel(name: string, pusher: Pusher): Channel {
  if (name.startsWith("#")) {
    throw failure(
      `Cannot subscribe to "${name}": names must not start with "#"`,
      { name: "BadChannelName" },
    );
  }
  if (name.startsWith("private-encrypted-")) {
    if (pusher.options.nacl) return new EncryptedChannel(name, pusher);
    throw failure(
      `Cannot subscribe to "${name}": "nacl" is missing`,
      { name: "UnsupportedFeature" },
    );
  }
  return name.startsWith("presence-")
    ? new PresenceChannel(name, pusher)
    : new Channel(name, pusher);
}

/** An error with details: the name that pusher-js gives it, or an HTTP status. */
function failure(message: string, details: object): Error {
  return Object.assign(new Error(message), details);
}

// ---- User -------------------------------------------------------------------
// The user of the connection. The program calls `signin` once, and the client signs
// in on each connection: authentication, `pusher:signin`, then a subscription to
// the user's own channel, which the program does not see.

/** The user that is signed in, as the server's program describes it. */
export interface UserData {
  /** Id of the user. */
  id: string;
  /** The `user_info` of the user on presence channels. */
  // deno-lint-ignore no-explicit-any -- the server's program decides
  user_info?: any;
  /** Ids of the users whose status this user watches. */
  watchlist?: string[];
}

/** Users of the watchlist went online or offline. */
export interface WatchlistEvent {
  /** `online` or `offline`. */
  name: string;
  /** Ids of the users. */
  user_ids: string[];
}

/** Events of {@linkcode User.watchlist}. */
export interface WatchlistEvents {
  /** These users are online: at the sign-in, or from now on. */
  online: WatchlistEvent;
  /** These users are offline. */
  offline: WatchlistEvent;
}

/**
 * The user of a {@linkcode Pusher}. Handlers receive the events that the server
 * sends to the user, and `pusher:signin_error` with a {@linkcode SubscriptionError}
 * if the authentication failed. A sign-in that the server refuses is an `error` of
 * the connection.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher({ authenticate: () => ({ id: "ann" }) });
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * pusher.signin();
 * await pusher.user.signinDonePromise;
 * const invited = new Promise((resolve) => pusher.user.bind("invited", resolve));
 * await test.pusher.sendToUser("ann", "invited", { by: "bob" });
 * assertEquals(await invited, { by: "bob" });
 * pusher.disconnect();
 * ```
 */
export class User extends Emitter {
  /** The client it belongs to. */
  declare readonly pusher: Pusher;
  /** Emits the status of the users on the user's watchlist. */
  readonly watchlist: Emitter<WatchlistEvents> = new Emitter(
    "watchlist events",
  );
  /** The user; null while not signed in. */
  user_data: UserData | null = null;
  /** Whether `signin` was called. */
  signin_requested = false;
  /**
   * Resolves when the sign-in of this connection has ended: then `user_data` is the
   * user, or null if it failed or the connection was lost. Null before `signin` is
   * called.
   */
  signinDonePromise: Promise<void> | null = null;
  /** The user's own channel; null while not signed in. */
  serverToUserChannel: Channel | null = null;
  #resolveDone = () => {};
  /** Handles any frame, once a sign-in was begun; called by {@linkcode Pusher}. */
  declare handleEvent?: (frame: Frame) => void;

  /** Made by {@linkcode Pusher}. */
  constructor(pusher: Pusher) {
    super("user");
    this.pusher = pusher;
  }

  /** The same as {@linkcode Pusher.signin}. */
  signin(): void {
    if (this.signin_requested) return;
    this.signin_requested = true;
    this.disconnect();
    this.connect();
  }

  /** Signs in if `signin` was called; called by {@linkcode Pusher}. */
  async connect(): Promise<void> {
    const { connection, config } = this.pusher;
    const socketId = connection.socket_id;
    if (!this.signin_requested || !socketId) return;
    const isLate = () => socketId !== connection.socket_id;
    try {
      const { signIn } = await loadLazy();
      if (isLate()) return;
      const answer = await answerOf<UserAuth>((callback) =>
        config.userAuthenticator({ socketId }, callback)
      );
      if (!isLate()) signIn<Pusher, Channel>(this, answer, Channel);
    } catch (cause) {
      if (isLate()) return;
      this.endSignin();
      reportRefusal(this, "pusher:signin_error", cause);
    }
  }

  /** Handles the loss of the connection; called by {@linkcode Pusher}. */
  disconnect(): void {
    this.endSignin();
    if (!this.signin_requested) return;
    this.signinDonePromise = new Promise((resolve) => {
      this.#resolveDone = resolve;
    });
  }

  /** Ends the sign-in, with the user or without. */
  endSignin(
    data: UserData | null = null,
    channel: Channel | null = null,
  ): void {
    this.user_data = data;
    this.serverToUserChannel = channel;
    this.#resolveDone();
  }
}

// ---- Authorization ----------------------------------------------------------
// Authorizes channels and authenticates users: at an endpoint, by a form as
// pusher-js posts it, or by a function of the program.

/** Says that an answer has no signature. */
const NO_AUTH = "no auth in answer";

/** How to authorize, with the URL and a signal that aborts the request. */
type Endpoint<Params, Answer> = AuthOptions<Params, Answer> & {
  endpoint: string;
  signal: AbortSignal;
};

/** The answers of an endpoint for several channels, by name. */
type ChannelAnswers = Record<
  string,
  Partial<ChannelAuth> & { error?: string; status?: number }
>;

/**
 * Asks for an authorization. Rejects, with the HTTP `status` of an endpoint, unless
 * the answer is signed. For several channels, at an endpoint that can authorize
 * several, the names replace that of the request, and the answer is not checked.
 */
async function askAuth<
  Params extends UserAuthRequest,
  Answer extends { auth: string },
>(
  request: Params,
  options: Endpoint<Params, Answer>,
  names: string[] = [],
): Promise<Answer> {
  const { endpoint, credentials, signal, paramsProvider } = options;
  const { socketId, channelName }: UserAuthRequest & Partial<AuthRequest> =
    request;
  const body = new URLSearchParams(
    names.map((name) => ["channel_name[]", name]),
  );
  const params = {
    socket_id: socketId,
    channel_name: channelName,
    ...options.params,
    ...paramsProvider?.(),
  };
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined) body.append(name, String(value));
  }
  const headers = { ...options.headers, ...options.headersProvider?.() };
  let status = 0;
  try {
    const response = await fetch(endpoint, {
      method: "POST",
      headers,
      body,
      // Without it cookies go to the page's own origin only.
      // Undefined is allowed, although the type of `fetch` says otherwise.
      credentials: credentials!,
      signal,
    });
    const text = await response.text();
    status = response.status;
    if (status !== 200) {
      const { error } = Object(decodeJson(text));
      const own = isText(error) ? error : text.slice(0, 99);
      throw new Error(
        `status is ${status}` + (status === 404
          ? `, does the server have "${
            channelName ? "authorize" : "authenticate"
          }"? `
          : ": ") +
          own,
      );
    }
    const answer = JSON.parse(text);
    if (!names[0] && !isAuth(answer)) throw new TypeError(NO_AUTH);
    return answer;
  } catch (cause) {
    // Only errors are thrown above.
    const { message } = cause as Error;
    throw failure(`Cannot be authorized by ${endpoint}: ${message}`, {
      status,
    });
  }
}

/** Calls a function that passes an authorization to a callback. */
function answerOf<Answer extends { auth: string }>(
  ask: (callback: AuthCallback<Answer>) => void,
): Promise<Answer> {
  return new Promise((resolve, reject) =>
    ask((error, answer) => {
      if (!error && isAuth(answer)) resolve(answer);
      else reject(error ?? NO_AUTH);
    })
  );
}

/** Makes a function that passes what it gets to a callback. */
function toAuthorizer<Request, Answer>(
  ask: (request: Request) => Promise<Answer>,
): Authorizer<Request, Answer> {
  return (request, callback) => {
    ask(request).then((answer) => callback(null, answer), callback);
  };
}

/** Whether an answer has a signature. */
function isAuth<Answer extends { auth: string }>(
  answer: Partial<Answer> | null | undefined,
): answer is Answer {
  return isText(answer?.auth);
}

/** Emits that an authorization failed. */
function reportRefusal(emitter: Emitter, event: string, cause: unknown): void {
  // Functions of the program may throw text.
  const { message = String(cause), status, name } = Object(cause);
  log(message);
  const type = name === LOAD_ERROR ? name : "AuthError";
  const error: SubscriptionError = { type, error: message };
  isHeard = false;
  emitter.emit(event, status === undefined ? error : { ...error, status });
  warn(`${event} ${emitter.name}`, message);
}

export { Pusher as default };
