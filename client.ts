/**
 * The Pusher Channels client: subscribes to channels and hears their events, in
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
import type { Nacl, Opener } from "./client/encrypted.ts";
import type { Socket } from "./client/http.ts";

export type { Nacl } from "./client/encrypted.ts";

// ---- Types ------------------------------------------------------------------
// What a program passes in and is told. Names and shapes are those of pusher-js,
// so durations are milliseconds without saying so in their names.

/** Options of {@linkcode Pusher}. Unknown ones are ignored. */
export interface PusherOptions extends IgnoredOptions {
  /** Host of the server. @default {the page's host and port} */
  wsHost?: string;
  /** Port without TLS. @default {80} */
  wsPort?: number;
  /** Port with TLS. @default {443} */
  wssPort?: number;
  /** Prefix of the server's routes, such as `/realtime`. @default {""} */
  wsPath?: string;
  /** Cluster of the hosted service, which names the host if nothing else does. */
  cluster?: string;
  /**
   * Whether to use TLS. A page loaded over https always does, and one that is
   * its own server's page does as the page does. @default {true}
   */
  forceTLS?: boolean;
  /**
   * Host for HTTP, which is used where no WebSocket can open.
   * @default {the host of WebSocket}
   */
  httpHost?: string;
  /** Port for HTTP without TLS. @default {the port of WebSocket} */
  httpPort?: number;
  /** Port for HTTP with TLS. @default {the port of WebSocket} */
  httpsPort?: number;
  /** Prefix of the routes for HTTP. @default {"/pusher" after `wsPath`} */
  httpPath?: string;
  /**
   * Transports to use, of {@linkcode TransportName}. It is `ws` that stands for
   * WebSocket, with TLS or without.
   * @default {all of them}
   */
  enabledTransports?: string[];
  /**
   * Transports not to use; wins over the enabled ones. Without `wss` there is no
   * WebSocket with TLS.
   * @default {[]}
   */
  disabledTransports?: string[];
  /**
   * Silence after which the server is asked for a sign of life; the server may
   * demand a shorter one. @default {120000}
   */
  activityTimeout?: number;
  /** How long that sign may take. @default {30000} */
  pongTimeout?: number;
  /** How long to be `connecting` before `unavailable`. @default {10000} */
  unavailableTimeout?: number;
  /** How to be let into private and presence channels. */
  channelAuthorization?: ChannelAuthorization;
  /** How to sign in. */
  userAuthentication?: UserAuthentication;
  /** What decrypts the events of encrypted channels, such as `tweetnacl`. */
  nacl?: Nacl;
  /**
   * Endpoint that lets into private and presence channels.
   * @deprecated Use `channelAuthorization.endpoint`.
   */
  authEndpoint?: string;
  /**
   * What to send to that endpoint.
   * @deprecated Use `channelAuthorization`.
   */
  auth?: Pick<ChannelAuthorization, "params" | "headers">;
  /**
   * Makes what asks for the permission to join one channel.
   * @deprecated Use `channelAuthorization.customHandler`.
   */
  authorizer?: (channel: Channel, options: PusherOptions) => {
    authorize(socketId: string, callback: AuthCallback): void;
  };
}

/**
 * Options of pusher-js that are accepted and ignored: requests are made by
 * `fetch`, and nothing is measured.
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

/** How to ask for the permission to join private and presence channels. */
export type ChannelAuthorization = AuthOptions<AuthRequest, ChannelAuth>;

/** How to ask for the permission to sign in. */
export type UserAuthentication = AuthOptions<UserAuthRequest, UserAuth>;

/** How to ask for a permission. */
export interface AuthOptions<Request, Answer> {
  /**
   * Where to post the question.
   * @default {"/pusher/auth" for channels, "/pusher/user-auth" for users}
   */
  endpoint?: string;
  /** Accepted as pusher-js has it, and ignored: requests are made by `fetch`. */
  transport?: string | undefined;
  /** Fields to post besides `socket_id` and, for channels, `channel_name`. */
  params?: Record<string, unknown> | undefined;
  /** Headers to post. */
  headers?: Record<string, string> | undefined;
  /** Makes further fields for each request. */
  paramsProvider?: (() => Record<string, unknown>) | undefined;
  /** Makes further headers for each request. */
  headersProvider?: (() => Record<string, string>) | undefined;
  /** Answers in place of the endpoint. */
  customHandler?:
    | ((request: Request, callback: AuthCallback<Answer>) => void)
    | undefined;
}

/** Who asks to sign in. */
export interface UserAuthRequest {
  /** The connection. */
  socketId: string;
}

/** Who asks to join what. */
export interface AuthRequest extends UserAuthRequest {
  /** The channel. */
  channelName: string;
}

/** Takes the answer of a `customHandler`: an error, or null and a permission. */
export type AuthCallback<Answer = ChannelAuth> = (
  error: unknown,
  answer?: Answer | null,
) => void;

/** A signed permission to join a channel. */
export interface ChannelAuth {
  /** `key:signature`. */
  auth: string;
  /**
   * On presence channels the member, as the JSON text that was signed. One that
   * is signed in joins as that user without it.
   */
  channel_data?: string;
  /** On encrypted channels the secret, in base64. It is not sent to the server. */
  shared_secret?: string;
}

/** A signed permission to sign in. */
export interface UserAuth {
  /** `key:signature`. */
  auth: string;
  /** The user, as the JSON text that was signed. */
  user_data: string;
}

/** What an instance made of its options. */
export interface PusherConfig {
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
  /** Longest silence before the server is asked for a sign of life. */
  readonly activityTimeout: number;
  /** How long that sign may take. */
  readonly pongTimeout: number;
  /** How long to be `connecting` before `unavailable`. */
  readonly unavailableTimeout: number;
  /** Asks for the permission to join a channel; rejects when refused. */
  readonly channelAuthorizer: (request: AuthRequest) => Promise<ChannelAuth>;
  /** Asks for the permission to sign in; rejects when refused. */
  readonly userAuthenticator: (request: UserAuthRequest) => Promise<UserAuth>;
}

/** A message of the server, its data decoded. */
export interface Frame {
  /** The name of the event. */
  event: string;
  /** The channel, where one is concerned. */
  channel?: string;
  /** The data: the value of its JSON, or the text where it is none. */
  // deno-lint-ignore no-explicit-any -- peers send any JSON
  data?: any;
  /** The sending member, for client events on presence channels. */
  user_id?: string;
  /** Where the event is in its channel, where the server keeps a log of it. */
  offset?: number;
  /** Where the channel goes on from: sent when that cannot be known otherwise. */
  position?: Position;
  /** Whether all that was missed follows, where that was asked for. */
  recovered?: boolean;
}

/** A place in what a channel has been told. */
export interface Position {
  /** Tells logs apart: in another one the offset means nothing. */
  epoch: string;
  /** Grows with every event of the channel, with gaps. */
  offset: number;
}

/** How to subscribe to a channel. */
export interface SubscribeOptions {
  /**
   * Number of events to be told first, the last ones before the subscription.
   * After a reconnect what was missed is told instead, as far as the server has
   * it. Nothing of the kind happens with servers that keep no log.
   * @default {0}
   */
  rewind?: number;
}

/** Second argument of the handlers of channel events. */
export interface EventMetadata {
  /** The sending member, for client events on presence channels. */
  user_id?: string;
}

/** Hears an event. The metadata comes with the events of channels only. */
export type Handler<Data> = (data: Data, metadata: EventMetadata) => void;

/** The event names of a map from event to data. */
export type EventName<Events> = Extract<keyof Events, string>;

/** The channel names of a map from channel to event to data. */
export type ChannelName<Events> = Extract<keyof Events, string>;

/** A map from event to data without the names that are the protocol's. */
export type ProgramEvents<Events> = unknown extends Events
  // deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
  ? any
  : { [N in keyof Events as Exclude<N, ProtocolName>]: Events[N] };

/** Names that no event of a program has. */
export type ProtocolName = `pusher:${string}` | `pusher_internal:${string}`;

/** The events of a map from event to data that clients may send each other. */
export type ClientEventName<Events> = unknown extends Events ? string
  : string extends keyof Events ? `client-${string}`
  : Extract<keyof Events, `client-${string}`>;

/** The data of an event as arguments: none is needed where it may be undefined. */
export type DataArgs<Data> = undefined extends Data ? [data?: Data]
  : [data: Data];

/**
 * What members of a presence channel say of themselves: in a map from event to
 * data this is under the reserved name `pusher:user_info`.
 */
export type UserInfo<Events> = Events extends { "pusher:user_info": infer Info }
  ? Info
  // deno-lint-ignore no-explicit-any -- without a declaration it may be anything
  : any;

/** The channel object that belongs to a name. */
export type ChannelOf<Events, Name extends keyof Events> = Name extends
  `presence-${string}` ? PresenceChannel<Events[Name]>
  : Channel<Events[Name]>;

/** The event names of any of several maps from event to data. */
export type NameIn<Maps> = Maps extends unknown ? keyof Maps : never;

/** The data of an event in any of several maps from event to data. */
export type DataIn<Maps, Name> = Maps extends unknown
  ? Name extends keyof Maps ? Maps[Name] : never
  : never;

/** What {@linkcode Pusher.bind} hears: the events of all channels. */
export type AllEvents<Events> =
  & {
    [N in Exclude<NameIn<Events[keyof Events]>, ProtocolName>]: DataIn<
      Events[keyof Events],
      N
    >;
  }
  & PusherEvents;

/** Events of the protocol that {@linkcode Pusher.bind} hears. */
export interface PusherEvents {
  /** The server complains. */
  "pusher:error": ErrorData;
  /** The server refused a subscription. */
  "pusher:subscription_error": SubscriptionError;
  /** A cache channel has nothing in its cache. */
  "pusher:cache_miss": undefined;
  /** Events of a channel were missed and cannot be replayed. */
  "pusher:recovery_failed": { channel: string };
}

/** Events of the protocol on every channel. */
export interface ChannelEvents {
  /** The channel is subscribed. */
  "pusher:subscription_succeeded": unknown;
  /** The auth endpoint or the server refused the subscription. */
  "pusher:subscription_error": SubscriptionError;
  /** The number of subscribers changed. */
  "pusher:subscription_count": { subscription_count: number };
  /** The cache channel has nothing in its cache. */
  "pusher:cache_miss": undefined;
  /** Events were missed and cannot be replayed. Later events follow as ever. */
  "pusher:recovery_failed": { channel: string };
  /** The server complains about something done on this channel. */
  "pusher:error": ErrorData;
}

/** Events of the protocol on presence channels. */
// deno-lint-ignore no-explicit-any -- without a declaration it may be anything
export interface PresenceEvents<Info = any>
  extends Omit<ChannelEvents, "pusher:subscription_succeeded"> {
  /** The channel is subscribed, and these are its members. */
  "pusher:subscription_succeeded": Members<Info>;
  /** A member joined. */
  "pusher:member_added": Member<Info>;
  /** A member left. */
  "pusher:member_removed": Member<Info>;
}

/** Why a subscription or a sign-in was refused. */
export interface SubscriptionError {
  /** `AuthError` where the permission was missing or wrong. */
  type: string;
  /** A sentence for people. */
  error: string;
  /** HTTP status, or 0 when the auth endpoint could not be reached. */
  status?: number;
}

/** What the server says of an error, or why a connection ended. */
export interface ErrorData {
  /** A code of the protocol or of WebSocket. */
  code: number | null;
  /** A sentence for people. */
  message: string;
}

/** An error reported by the server, or the end of an established connection. */
export interface PusherError {
  /** Tells the errors of a connection apart. */
  type: "PusherError";
  /** What the server said. */
  data: ErrorData;
}

/** Any error of a connection. */
export type ConnectionError =
  | PusherError
  | { type: "WebSocketError"; error: PusherError }
  | { type: "HandshakeError"; error: Error }
  | { type: "MessageParseError"; error: Error; data: unknown };

/** What carries the frames of a connection: WebSocket, or HTTP in two ways. */
export type TransportName = "ws" | "wss" | "xhr_streaming" | "xhr_polling";

/** State of a connection; {@linkcode Connection} says how they follow. */
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
  /** An attempt is under way, or waited for. */
  connecting: undefined;
  /** Connected, under a new id. */
  connected: { socket_id: string };
  /** Attempts have been failing for a while, and go on. */
  unavailable: undefined;
  /** There is no transport to connect with. */
  failed: undefined;
  /** Not connected, and not trying. */
  disconnected: undefined;
  /** The next attempt is this many seconds away. */
  connecting_in: number;
  /** Something went wrong. */
  error: ConnectionError;
  /** A message arrived, whatever it is about. */
  message: Frame;
}

// ---- Emitter ----------------------------------------------------------------
// Handlers by event name. Names come from the network, so they key a Map. Lists
// are replaced and never edited: handlers may bind and unbind while being called.

/** One registration of a handler. */
interface Binding {
  handler: Handler<never>;
  context: unknown;
}

/** What handlers are bound to: clients, connections and channels. */
// deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
export class Emitter<Events = any> {
  readonly #bindings = new Map<string, Binding[]>();
  // deno-lint-ignore no-explicit-any -- hears every event
  #globals: ((event: string, data: any) => void)[] = [];

  /** Adds a handler. One that is bound twice is called twice. */
  bind<N extends EventName<Events>>(
    event: N,
    handler: Handler<Events[N]>,
    context?: unknown,
  ): this {
    const bound = this.#bindings.get(event) ?? [];
    this.#bindings.set(event, [...bound, { handler, context }]);
    return this;
  }

  /**
   * Removes the handlers that match all that is given: event, handler, context.
   * Without arguments it removes all but the global ones.
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

  /** Adds a handler for every event. It is called before those of the event. */
  // deno-lint-ignore no-explicit-any -- hears every event
  bind_global(handler: (event: string, data: any) => void): this {
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
   * Calls the handlers of an event. What one of them throws is reported as an
   * uncaught error, and the others are called all the same.
   */
  emit(event: string, data?: unknown, metadata?: EventMetadata): this {
    for (const handler of this.#globals) callSafely(() => handler(event, data));
    const args = metadata ? [data, metadata] : data ? [data] : [];
    for (const { handler, context } of this.#bindings.get(event) ?? []) {
      // What there is to be told, handlers are told.
      const told = args as Parameters<typeof handler>;
      callSafely(() => handler.apply(context ?? globalThis, told));
    }
    return this;
  }
}

/** Calls a function; what it throws becomes an uncaught error of its own. */
function callSafely(call: () => void): void {
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
// frames from the connection to them. It queues nothing: what is to happen after
// a reconnect follows from the set of channels.

/** The first two are the protocol's, the last is that of pusher-js. */
const DEFAULT_TIMEOUTS = {
  activityTimeout: 120_000,
  pongTimeout: 30_000,
  unavailableTimeout: 10_000,
};

/** Longer timers overflow in every runtime, and fire at once. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Marks the options of an instance that connects when it is first used. */
const LAZY = Symbol("lazy");

/**
 * A client of one app. It connects when it is constructed.
 *
 * - Channels and handlers outlive the connection: after a reconnect every channel
 *   is subscribed again.
 * - Where the server keeps a log, what a channel missed meanwhile is told then, in
 *   order and once, and `pusher:recovery_failed` where the log does not reach back.
 * - Nothing else is kept while there is no connection: what cannot be sent now
 *   is not sent later, and `trigger` says so by returning false.
 * - `Events` maps channel names to event names to data; names may be template
 *   literals. With it the compiler checks `subscribe`, `bind` and `trigger`,
 *   without it everything is allowed. On presence channels the name
 *   `pusher:user_info` is what members say of themselves.
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
  /** Every instance made so far. */
  static readonly instances: Pusher[] = [];
  /** Always true: instances connect as soon as they may. */
  static readonly isReady: boolean = true;
  /** Whether to log to the console. */
  static logToConsole = false;
  /** Where a served script loads from what few pages need; not set elsewhere. */
  static fallbackUrl: string | undefined;
  /** Gets the log in place of the console. */
  static log: ((message: string) => void) | null = null;

  /** The app's key. */
  readonly key: string;
  /** The options as they were passed in. */
  readonly options: PusherOptions;
  /** What they came to. */
  readonly config: PusherConfig;
  /** Tells this instance from others. */
  readonly sessionID: number = Math.floor(Math.random() * 1e9);
  /** Who is signed in, and what that user is told. */
  readonly user: User = new User(this);

  /**
   * Where each channel is, the user's own one included. A reconnect goes on from
   * there, so that nothing is missed and nothing is told twice.
   */
  readonly positions: Map<string, Position> = new Map();

  readonly #channels = new Map<string, Channel>();
  readonly #connection: Connection;
  /** Ends the requests that were made for a connection. */
  #requests = new AbortController();
  /** The channels to ask for at the end of this turn, and what comes of it. */
  #names: string[] = [];
  #answers: Promise<ChannelAnswers | undefined> | undefined;

  /**
   * Connects to the app with a key.
   *
   * @throws {TypeError} without a key, or when no option nor a page says where
   * the server is.
   * @throws {RangeError} for a timeout that no timer can have.
   */
  constructor(key: string, options: PusherOptions = {}) {
    super();
    if (!isText(key) || key === "") {
      throw new TypeError(
        `Cannot create Pusher: "key" is ${key}, and must be a key`,
      );
    }
    this.key = key;
    this.options = options;
    this.config = {
      ...resolveServer(options),
      ...resolveTimeouts(options),
      channelAuthorizer: (request) => this.#authorize(request),
      userAuthenticator: (request) =>
        askAuth(request, {
          endpoint: "/pusher/user-auth",
          ...options.userAuthentication,
          signal: this.#requests.signal,
        }),
    };
    this.#connection = new Connection({
      ...this.config,
      key,
      options,
      onConnected: () => this.#handleConnected(),
      onDisconnected: () => this.#handleDisconnected(),
      onFrame: (frame) => this.#deliver(frame),
    });
    Pusher.instances.push(this);
    if (!(LAZY in options)) this.connect();
  }

  /** Does nothing, as instances do not wait for it. */
  static ready(): void {}

  /** What hears the events of all channels: the instance itself. */
  get global_emitter(): this {
    return this;
  }

  /** The connection: its state, its id and its events. */
  get connection(): Connection {
    this.#wake();
    return this.#connection;
  }

  /** The channels by name. */
  get channels(): ReadonlyMap<string, Channel> {
    return this.#channels;
  }

  /** Connects, unless connected: at once, where the next attempt is waited for. */
  connect(): void {
    this.#connection.connect();
  }

  /** Disconnects. The channels stay, and are subscribed after `connect()`. */
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
    const channel = this.#channels.get(name) ?? createChannel(name, this);
    this.#channels.set(name, channel);
    channel.rewind = options?.rewind ?? channel.rewind;
    // One that is about to be left only has to change its mind.
    channel.subscriptionCancelled = false;
    this.#wake();
    if (this.#connection.state === "connected") channel.subscribe();
    // The name decides the class, which is what the type says.
    return channel as ChannelOf<Events, C>;
  }

  /** Leaves a channel and forgets it, a pending one once the server has answered. */
  unsubscribe(name: ChannelName<Events>): void {
    const channel = this.#channels.get(name);
    if (channel?.subscriptionPending) {
      channel.subscriptionCancelled = true;
      return;
    }
    this.#forget(name);
    if (channel?.subscribed) channel.unsubscribe();
  }

  /** The channel of a name, if it was subscribed to. */
  channel<C extends ChannelName<Events>>(
    name: C,
  ): ChannelOf<Events, C> | undefined {
    // As in `subscribe`.
    return this.#channels.get(name) as ChannelOf<Events, C> | undefined;
  }

  /** All channels. */
  allChannels(): Channel[] {
    return [...this.#channels.values()];
  }

  /** Adds a handler for an event of any channel. It gets no metadata. */
  override bind<N extends EventName<AllEvents<Events>>>(
    event: N,
    handler: Handler<AllEvents<Events>[N]>,
    context?: unknown,
  ): this {
    this.#wake();
    return super.bind(event, handler, context);
  }

  /** Adds a handler for every event of every channel. */
  // deno-lint-ignore no-explicit-any -- hears every event
  override bind_global(handler: (event: string, data: any) => void): this {
    this.#wake();
    return super.bind_global(handler);
  }

  /** Sends a frame; false when not connected. */
  send_event(event: string, data?: unknown, channel?: string): boolean {
    return this.connection.send_event(event, data, channel);
  }

  /** Connects an instance that has waited to be used. */
  #wake(): void {
    if (this.#connection.state === "initialized") this.connect();
  }

  #forget(name: string): void {
    this.#channels.delete(name);
    this.positions.delete(name);
  }

  #handleConnected(): void {
    // Without a log what has been told meanwhile is not to be had any more.
    if (!this.#connection.extensions.has("recover")) this.positions.clear();
    this.user.connect();
    for (const channel of this.allChannels()) channel.subscribe();
  }

  /** Without a connection nothing is subscribed, and nothing has to be left. */
  #handleDisconnected(): void {
    this.#requests.abort();
    this.#requests = new AbortController();
    this.user.disconnect();
    for (const channel of this.allChannels()) {
      channel.disconnect();
      if (channel.subscriptionCancelled) this.#forget(channel.name);
    }
  }

  #deliver(frame: Frame): void {
    const { event, channel = "", data, offset } = frame;
    const position = this.positions.get(channel);
    if (position && offset !== undefined) {
      // A replay repeats what arrived before the connection was lost.
      if (offset <= position.offset) return;
      this.positions.set(channel, { ...position, offset });
    }
    this.#channels.get(channel)?.handleEvent(frame);
    this.user.handleEvent(frame);
    if (!isInternal(event)) this.emit(event, data);
  }

  /** Asks whoever the options name for the permission to join a channel. */
  async #authorize(request: AuthRequest): Promise<ChannelAuth> {
    const { options } = this;
    const { authorizer } = options;
    const { channelName, socketId } = request;
    const channel = this.#channels.get(channelName);
    const how: Endpoint<AuthRequest, ChannelAuth> = {
      endpoint: options.authEndpoint ?? "/pusher/auth",
      ...options.channelAuthorization ?? {
        ...options.auth,
        customHandler: authorizer && channel &&
          ((_request, callback) =>
            authorizer(channel, options).authorize(socketId, callback)),
      },
      signal: this.#requests.signal,
    };
    const isAlone = how.customHandler || channel?.subscribed ||
      !this.#connection.extensions.has("auth");
    if (isAlone) return askAuth(request, how);
    this.#names.push(channelName);
    this.#answers ??= this.#askTogether(request, how);
    const answers = await this.#answers;
    if (!answers) return askAuth(request, how);
    const answer = answers[channelName];
    if (isAuth<ChannelAuth>(answer)) return answer;
    const { error = NO_AUTH, status } = answer ?? {};
    throw failure(error, { status });
  }

  /**
   * Asks for all channels of this turn. Returns nothing where each is to be asked
   * for alone: because it is the only one, or the endpoint knows no such question.
   */
  async #askTogether(
    { socketId }: AuthRequest,
    how: Endpoint<AuthRequest, ChannelAuth>,
  ): Promise<ChannelAnswers | undefined> {
    // The rest of the turn adds to the names.
    await null;
    const names = this.#names;
    this.#names = [];
    this.#answers = undefined;
    if (names.length < 2) return;
    try {
      // The names are in place of the one.
      const request = { socketId } as AuthRequest;
      const answer: unknown = await askAuth(request, how, names);
      const { channels } = answer as { channels?: ChannelAnswers };
      if (channels) return channels;
    } catch (cause) {
      // What a function of the program throws has none.
      if ((cause as { status?: number }).status === 0) throw cause;
    }
    this.#connection.extensions.delete("auth");
  }
}

/** Where the server is: said by the options, or else by the page. */
function resolveServer(
  options: PusherOptions,
): Pick<PusherConfig, "wsHost" | "wsPort" | "wssPort" | "wsPath" | "useTLS"> {
  const { cluster, wsPath = "", forceTLS } = options;
  // Configurations made from the environment leave empty text where nothing is.
  const named = options.wsHost || (cluster ? `ws-${cluster}.pusher.com` : "");
  const page = pageOrigin();
  const wsHost = named || page?.hostname;
  if (!wsHost) {
    throw new TypeError(
      'Cannot create Pusher: there must be "wsHost" or "cluster"',
    );
  }
  const onHttps = page?.protocol === "https:";
  const pagePort = named ? 0 : Number(page?.port);
  return {
    wsHost,
    wsPort: options.wsPort ?? (pagePort || 80),
    wssPort: options.wssPort ?? (pagePort || 443),
    wsPath,
    // Browsers refuse connections without TLS to pages that have it.
    useTLS: onHttps || (forceTLS ?? named !== ""),
  };
}

function resolveTimeouts(options: PusherOptions): typeof DEFAULT_TIMEOUTS {
  const timeouts = { ...DEFAULT_TIMEOUTS };
  // The keys of an object literal are known; the type of Object.keys is not.
  for (const name of Object.keys(timeouts) as (keyof typeof timeouts)[]) {
    const ms = options[name] ?? timeouts[name];
    if (!(ms > 0 && ms <= MAX_TIMEOUT_MS)) {
      throw new RangeError(
        `Cannot create Pusher: "${name}" is ${ms}, and must be above 0 and at most ${MAX_TIMEOUT_MS}`,
      );
    }
    timeouts[name] = ms;
  }
  return timeouts;
}

/** The transports that the options leave, in the order they are tried in. */
function resolveTransports({ options, useTLS }: ConnectionOwner): Transport[] {
  const enabled: readonly string[] = options.enabledTransports ?? TRANSPORTS;
  const { disabledTransports = [] } = options;
  return TRANSPORTS.filter((name) =>
    enabled.includes(name) &&
    !disabledTransports.includes(name) &&
    !disabledTransports.includes(protocolOf(name, useTLS))
  );
}

/** The origin of the page or worker, where there is one that was served. */
function pageOrigin(): URL | null {
  const origin = globalThis.location?.origin;
  return isHttpUrl(origin) ? new URL(origin) : null;
}

function isHttpUrl(url: string | undefined): url is string {
  return /^https?:\/\//.test(url ?? "");
}

/** What the server fills in when it serves the script. */
export interface PresetConfig {
  /** The app's key. */
  key: string;
  /** Host and port that the script was asked from. */
  host: string;
  /** Prefix of the server's routes. */
  path: string;
}

/**
 * The ready instance of a served script. It connects when it is first used, to
 * where the script came from: its own URL where that is known, else the
 * configured host in the manner of the page.
 */
export function preset(config: PresetConfig, scriptUrl?: string): Pusher {
  const { key, host, path } = config;
  const server = new URL(
    isHttpUrl(scriptUrl)
      ? scriptUrl
      : `${pageOrigin()?.protocol ?? "http:"}//${host}`,
  );
  const port = Number(server.port);
  const routes = `${server.origin}${path}/pusher`;
  Pusher.fallbackUrl = `${routes}-fallback.mjs`;
  const options: PusherOptions & { [LAZY]: true } = {
    wsHost: server.hostname,
    wsPort: port || 80,
    wssPort: port || 443,
    wsPath: path,
    forceTLS: server.protocol === "https:",
    channelAuthorization: { endpoint: `${routes}/auth` },
    userAuthentication: { endpoint: `${routes}/user-auth` },
    [LAZY]: true,
  };
  return new Pusher(key, options);
}

// ---- Connection -------------------------------------------------------------
// One logical connection over a series of sockets. Invariants: `#socket` is the
// only socket that is listened to; `#timer` is the one thing that happens if
// nothing else does: the next attempt, its timeout, a ping or a missing pong.

/**
 * What is tried one after the other until there is a greeting, and then again from
 * the start. The first failure of WebSocket may be the server's.
 */
const TRANSPORTS = ["ws", "ws", "xhr_streaming", "xhr_polling"] as const;

type Transport = typeof TRANSPORTS[number];

/** How many of its former connections a client names to the server. */
const MAX_SOCKET_IDS = 10;

/** Time that a socket has to open and to be greeted by the server. */
const ATTEMPT_TIMEOUT_MS = 15_000;

/** Delay before the first attempt after a failure; it doubles with each. */
const RETRY_BASE_MS = 1_000;

/** Longest delay before jitter, which adds up to half: 30 seconds in all. */
const RETRY_MAX_MS = 20_000;

/** A connection that lasted this long was no failure: delays start over. */
const STABLE_MS = 10_000;

/**
 * What browsers tell when the network or the page comes back, or the network goes.
 * The page's own event bubbles up to where the others are.
 */
const WAKE_EVENTS = ["online", "offline", "pageshow", "visibilitychange"];

/**
 * How long a pong may take then. The user is looking, and a socket that has not
 * survived sleep says nothing by itself; mobile networks take seconds to wake up.
 */
const WAKE_PONG_TIMEOUT_MS = 5_000;

/** Code of a connection that ended without saying why. */
const ABNORMAL_CLOSURE = 1006;

/** Code of a peer that left a ping unanswered. */
const PONG_MISSING = 4201;

/** What the owner of a {@linkcode Connection} provides. */
export interface ConnectionOwner extends PusherConfig {
  /** The app's key. */
  key: string;
  /** The options of which the configuration is made. */
  options: PusherOptions;
  /** Called before the event `connected`. */
  onConnected(): void;
  /** Called before the event that ends the state `connected`. */
  onDisconnected(): void;
  /** Called with each message, before the event `message`. */
  onFrame(frame: Frame): void;
}

/**
 * The connection of a {@linkcode Pusher}.
 *
 * ```text
 * initialized ──> connecting ──> connected
 *                  │  ^   ^          │ lost
 *         a while  v  │   └──────────┘
 *           unavailable ──> connected
 * any ──> disconnected   asked to, or refused by the server for good
 * any ──> failed         nothing to connect with
 * ```
 *
 * - A lost connection is attempted again at once where the server asked for that,
 *   else after a second. The delay grows up to 30 seconds with every failure, until
 *   a connection lasts. It ends when the network or the page comes back.
 * - Where WebSocket fails twice in a row, HTTP streaming is tried, then polling,
 *   then WebSocket again. While HTTP is in use WebSocket is tried in the background,
 *   and takes over: that is a reconnect without a pause.
 */
export class Connection extends Emitter<ConnectionEvents> {
  /**
   * What this connection's server does beyond the protocol: `batch`, `recover`,
   * `auth`. Nothing, if it does not say.
   */
  extensions: Set<string> = new Set();

  readonly #owner: ConnectionOwner;
  #state: ConnectionState = "initialized";
  /** Ids of the connections so far, the newest first. */
  #socketIds: string[] = [];
  #socket: Socket | undefined;
  readonly #transports: Transport[];
  /** Index of the transport in use. */
  #turn = 0;
  #socketId: string | undefined;
  #useTLS: boolean;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #unavailableTimer: ReturnType<typeof setTimeout> | undefined;
  #activityTimeoutMs = 0;
  /** Whether only a pong says that it lives: the rest may have arrived before. */
  #isDoubtful = false;
  #connectedAt = 0;
  #failures = 0;

  /** Made by {@linkcode Pusher}. */
  constructor(owner: ConnectionOwner) {
    super();
    this.#owner = owner;
    this.#useTLS = owner.useTLS;
    this.#transports = resolveTransports(owner);
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
   * What carries the frames; while not connected, what is tried now or next. The
   * name is undefined where the options leave nothing to connect with.
   */
  get transport(): { readonly name: TransportName | undefined } {
    const transport = this.#transports[this.#turn];
    return { name: transport && protocolOf(transport, this.#useTLS) };
  }

  /**
   * Connects, unless connected: at once, where the next attempt is waited for.
   *
   * @throws when the runtime has no WebSocket.
   */
  connect(): void {
    if (this.#socket) return;
    if (!this.#transports.length) return this.#transition("failed");
    // Should it be too early, the next attempt is not to be late.
    this.#failures = 0;
    this.#openSocket();
    if (!this.#isRetrying()) this.#transition("connecting");
  }

  /** Disconnects and stays so until `connect()`. */
  disconnect(): void {
    this.#dropSocket();
    this.#watchNetwork("removeEventListener");
    this.#transition("disconnected");
  }

  /** Sends a frame; false when not connected. */
  send_event(event: string, data?: unknown, channel?: string): boolean {
    if (this.#state !== "connected") return false;
    const frame = { event, data, channel };
    log("Event sent", frame);
    this.#socket?.send(JSON.stringify(frame));
    return true;
  }

  /** The only writer of the state. */
  #transition(current: ConnectionState): void {
    const previous = this.#state;
    if (current === previous) return;
    this.#state = current;
    log("State changed", `${previous} -> ${current}`);
    clearTimeout(this.#unavailableTimer);
    if (current === "connecting") {
      this.#unavailableTimer = setTimeout(
        () => this.#transition("unavailable"),
        this.#owner.unavailableTimeout,
      );
    }
    if (previous === "connected") {
      this.#socketId = undefined;
      this.#owner.onDisconnected();
    }
    const socket_id = this.#socketId;
    if (socket_id) this.#owner.onConnected();
    this.emit("state_change", { previous, current });
    // A handler may have changed the state again.
    if (this.#state === current) this.emit(current, socket_id && { socket_id });
  }

  #url(): string {
    const { wsHost, wsPort, wssPort, wsPath, key } = this.#owner;
    const origin = this.#useTLS
      ? `wss://${wsHost}:${wssPort}`
      : `ws://${wsHost}:${wsPort}`;
    const app = encodeURIComponent(key);
    const was = this.#socketIds[0] ? `&was=${this.#socketIds}` : "";
    return `${origin}${wsPath}/app/${app}?protocol=7&client=glitz&batch=1&recover=1${was}`;
  }

  #isRetrying(): boolean {
    return this.#state === "connecting" || this.#state === "unavailable";
  }

  /** Makes one attempt in place of whatever was going on. */
  #openSocket(): void {
    this.#dropSocket();
    const transport = this.#transports[this.#turn]!;
    if (typeof WebSocket === "undefined") {
      this.#transition("failed");
      throw new Error("Cannot connect: this runtime has no WebSocket");
    }
    this.#watchNetwork("addEventListener");
    if (transport === "ws") this.#listen(new WebSocket(this.#url()));
    else this.#openFallback(transport);
    this.#schedule(
      ATTEMPT_TIMEOUT_MS,
      () => this.#handleClose(ABNORMAL_CLOSURE, "No greeting in time"),
    );
  }

  /** Connects over HTTP, once what does that is loaded. */
  async #openFallback(
    transport: "xhr_streaming" | "xhr_polling",
  ): Promise<void> {
    const loading: Socket = { send() {}, close() {} };
    this.#listen(loading);
    try {
      const { HttpSocket } = await loadMore();
      // It may have been given up.
      if (!loading.onclose) return;
      this.#listen(
        new HttpSocket(
          transport,
          () => this.#url(),
          this.#owner.options,
          this.#transports[0] === "ws" ? this.#switchTo : null,
        ),
      );
    } catch (error) {
      loading.onclose?.({ code: ABNORMAL_CLOSURE, reason: String(error) });
    }
  }

  /** Goes on with a WebSocket that was opened while HTTP was in use. */
  readonly #switchTo = (socket: Socket, greeting: string): void => {
    this.#dropSocket();
    this.#turn = 0;
    this.#listen(socket);
    this.#transition("connecting");
    // A handler may have disconnected.
    if (socket === this.#socket) this.#handleMessage(greeting);
  };

  #listen(socket: Socket): void {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#handleMessage(data);
    socket.onclose = ({ code, reason }) => this.#handleClose(code, reason);
  }

  /** Closes the socket, which is not heard of again, and cancels all plans. */
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

  /** Takes one frame or, where the server sends them in batches, several. */
  #handleMessage(text: unknown): void {
    const socket = this.#socket;
    const content = decodeJson(text);
    const items = this.extensions.has("batch") ? [content].flat() : [content];
    for (const item of items) {
      // A handler may have disconnected: what it has not heard is not over.
      if (socket !== this.#socket) return;
      const frame = toFrame(item);
      if (frame) log("Event recd", frame);
      if (this.#state === "connected") this.#handleFrame(frame, text);
      else this.#handleGreeting(frame);
    }
  }

  #handleFrame(frame: Frame | null, text: unknown): void {
    this.#isDoubtful &&= frame?.event !== "pusher:pong";
    if (!this.#isDoubtful) this.#awaitSilence();
    if (!frame) {
      const error = new TypeError("Cannot read message: no event");
      this.emit("error", { type: "MessageParseError", error, data: text });
      return;
    }
    const { event, data } = frame;
    if (event === "pusher:ping") this.send_event("pusher:pong", {});
    if (event === "pusher:error") {
      this.emit("error", { type: "PusherError", data });
    }
    this.#owner.onFrame(frame);
    this.emit("message", frame);
  }

  /**
   * Accepts `pusher:connection_established` with `socket_id` and
   * `activity_timeout`, and `pusher:error` with `code`, which counts as the close
   * that follows. Anything else is no server to stay with, for now.
   */
  #handleGreeting(frame: Frame | null): void {
    const socket = this.#socket;
    const { event, data } = frame ?? {};
    const { socket_id, activity_timeout, code, message } = data ?? {};
    if (event === "pusher:connection_established" && isText(socket_id)) {
      const { activityTimeout } = this.#owner;
      this.#activityTimeoutMs = activity_timeout > 0
        ? Math.min(activityTimeout, activity_timeout * 1000)
        : activityTimeout;
      this.#connectedAt = Date.now();
      // Two failures are two in a row.
      if (this.#transports[this.#turn] === "ws") this.#turn = 0;
      this.#socketId = socket_id;
      this.#socketIds = [encodeURIComponent(socket_id), ...this.#socketIds]
        .slice(0, MAX_SOCKET_IDS);
      this.extensions = new Set([data.extensions].flat());
      this.#awaitSilence();
      this.#transition("connected");
    } else if (event === "pusher:error" && typeof code === "number") {
      this.#handleClose(code, message);
    } else {
      const error = new Error("Cannot connect: no greeting");
      this.emit("error", { type: "HandshakeError", error });
      if (socket === this.#socket) this.#retry(ABNORMAL_CLOSURE);
    }
  }

  /**
   * Reports the close of a socket that is closed or given up, twice over where
   * pusher-js does, and acts on its code.
   */
  #handleClose(code: number, message: string): void {
    const socket = this.#socket;
    if (code !== 1000 && code !== 1001) {
      const data = { code, message };
      const error: PusherError = { type: "PusherError", data };
      const wasConnected = this.#state === "connected";
      const asksForAction = code >= 4000 || (code >= 1002 && code <= 1004);
      if (wasConnected) this.emit("error", error);
      if (!wasConnected || asksForAction) {
        this.emit("error", { type: "WebSocketError", error });
      }
    }
    // A handler of the error may have disconnected.
    if (socket !== this.#socket) return;
    const isRefused = (code > 4000 && code < 4100) || code >= 4300;
    if (isRefused) return this.disconnect();
    if (code === 4000) this.#useTLS = true;
    this.#retry(code);
  }

  /**
   * Counts a failure and plans the next attempt. Only the first in a row is made at
   * once: a server that keeps asking for it would be attempted in a hot loop.
   */
  #retry(code: number): void {
    const wasConnected = this.#state === "connected";
    // Who refuses has been reached.
    const isBlocked = !wasConnected && code < 4000;
    if (isBlocked) this.#turn = (this.#turn + 1) % this.#transports.length;
    const isStable = wasConnected &&
      Date.now() - this.#connectedAt >= STABLE_MS;
    if (isStable) this.#failures = 0;
    const failures = this.#failures++;
    const isAsked = code === 4000 || code >= 4200;
    const delayMs = isAsked && failures === 0 ? 0 : backoffMs(failures);
    this.#dropSocket();
    this.#schedule(delayMs, () => this.#openSocket());
    // An unavailable server stays so until it is connected to.
    if (wasConnected) this.#transition("connecting");
    // A handler may have disconnected.
    if (delayMs > 0 && this.#isRetrying()) {
      this.emit("connecting_in", Math.round(delayMs / 1000));
    }
  }

  /** Asks for a sign of life once nothing has arrived for a while. */
  #awaitSilence(): void {
    this.#schedule(this.#activityTimeoutMs, () => this.#demandPong());
  }

  /** Asks for a sign of life. In doubt that is a pong, and has to come soon. */
  #demandPong(isDoubtful = false): void {
    this.#isDoubtful = isDoubtful;
    if (!this.send_event("pusher:ping", {})) return;
    this.#schedule(
      isDoubtful ? WAKE_PONG_TIMEOUT_MS : this.#owner.pongTimeout,
      () => this.#handleClose(PONG_MISSING, "No pong in time"),
    );
  }

  /** Listens to what browsers tell about the network, or no longer does. */
  #watchNetwork(method: "addEventListener" | "removeEventListener"): void {
    for (const event of WAKE_EVENTS) {
      // Node.js has neither.
      globalThis[method]?.(event, this.#handleWake);
    }
  }

  /**
   * Finds out about a connection that may have been lost in sleep, and ends the
   * waiting for the next attempt.
   */
  readonly #handleWake = ({ type, target }: WakeEvent): void => {
    // Of all targets only documents have it; while they do nobody waits for them.
    if ((target as { hidden?: boolean } | null)?.hidden) return;
    if (this.#state === "connected") return this.#demandPong(true);
    // An attempt from before may hang.
    if (type === "online") this.#dropSocket();
    if (type !== "offline") this.connect();
  };
}

/** What few pages need, once one does. */
let more: typeof import("./client/lazy.ts") | undefined;

async function loadMore(): Promise<NonNullable<typeof more>> {
  // Kept, because a served script imports under a new name each time.
  return more ??= await import("./client/lazy.ts");
}

/** The part of an event that matters. */
interface WakeEvent {
  type: string;
  target: unknown;
}

/** The name of a transport as it is used, with TLS or without. */
function protocolOf(transport: Transport, useTLS: boolean): TransportName {
  return transport === "ws" && useTLS ? "wss" : transport;
}

/** Doubles with each failure; jitter keeps clients from returning together. */
function backoffMs(failures: number): number {
  const delayMs = Math.min(RETRY_BASE_MS * 2 ** failures, RETRY_MAX_MS);
  return delayMs * (1 + Math.random() / 2);
}

/** Reads a message of the server; null when it is no frame. */
// deno-lint-ignore no-explicit-any -- peers send any JSON
function toFrame(content: any): Frame | null {
  if (!isText(content?.event)) return null;
  return { ...content, data: decodeJson(content.data) };
}

/** The value of a JSON text; anything else is data as it is. */
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

/** Whether an event is for the client itself and not for its handlers. */
function isInternal(event: string): boolean {
  return event.startsWith("pusher_internal:");
}

/** Whether an event is the protocol's, and not a program's. */
function isProtocol(event: string): boolean {
  return isInternal(event) || event.startsWith("pusher:");
}

/** Logs the way the program wants it, if it does. */
function log(...message: unknown[]): void {
  const write = Pusher.log ?? (Pusher.logToConsole ? console.log : null);
  write?.(`Pusher : : ${JSON.stringify(message)}`);
}

// ---- Channels ---------------------------------------------------------------
// A subscription as one state per connection: none, pending, subscribed. What
// arrives late, for an earlier connection or after a change of mind, is ignored.

/** Channels that need a permission. */
const NEEDS_AUTH = /^(private|presence)-/;

/** A channel, subscribed to for as long as the {@linkcode Pusher} knows it. */
// deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
export class Channel<Events = any, Own = ChannelEvents>
  extends Emitter<ProgramEvents<Events> & Own> {
  /** The name. */
  readonly name: string;
  /** The client it belongs to. */
  readonly pusher: Pusher;
  /** Whether the server has confirmed the subscription. */
  subscribed = false;
  /** Whether that is being waited for. */
  subscriptionPending = false;
  /** Whether the channel is to be left once the server has answered. */
  subscriptionCancelled = false;
  /** Number of subscribers, where the server tells. */
  subscriptionCount: number | null = null;
  /** See {@linkcode SubscribeOptions.rewind}. */
  rewind: number | undefined;

  /** Made by {@linkcode Pusher.subscribe}. */
  constructor(name: string, pusher: Pusher) {
    super();
    this.name = name;
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
        `Cannot trigger "${event}": names of client events start with "client-"`,
        { name: "BadEventName" },
      );
    }
    if (!this.subscribed) log("Not subscribed", this.name);
    return this.pusher.send_event(event, data, this.name);
  }

  /** Asks to be subscribed, once; called by {@linkcode Pusher}. */
  subscribe(): void {
    if (this.subscribed || this.subscriptionPending) return;
    this.subscriptionPending = true;
    if (NEEDS_AUTH.test(this.name)) this.#subscribeWithAuth();
    else this.#sendSubscribe({ auth: "" });
  }

  /** Leaves the channel; {@linkcode Pusher.unsubscribe} also forgets it. */
  unsubscribe(): void {
    this.subscribed = false;
    this.pusher.send_event("pusher:unsubscribe", { channel: this.name });
  }

  /** Forgets what the lost connection meant; called by {@linkcode Pusher}. */
  disconnect(): void {
    this.subscribed = false;
    this.subscriptionPending = false;
  }

  /** Takes a frame of this channel; called by {@linkcode Pusher}. */
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
    } else if (event === "pusher:subscription_error") {
      this.#fail(data);
    } else if (!isInternal(event)) {
      this.emit(event, data, user_id === undefined ? {} : { user_id });
    }
  }

  /** Reads the permission before it is used. */
  protected acceptAuth(_answer: ChannelAuth): void | Promise<void> {}

  /** Reads the server's confirmation, and returns what handlers get for it. */
  protected confirm(data: unknown): unknown {
    return data;
  }

  /** Asks for the permission, and reads it; nothing when that comes too late. */
  protected async authorize(): Promise<ChannelAuth | void> {
    const { name, pusher } = this;
    const socketId = pusher.connection.socket_id ?? "";
    const isLate = () =>
      socketId !== pusher.connection.socket_id ||
      !(this.subscriptionPending || this.subscribed);
    try {
      const request = { socketId, channelName: name };
      const answer = await pusher.config.channelAuthorizer(request);
      if (!isLate()) await this.acceptAuth(answer);
      if (!isLate()) return answer;
    } catch (cause) {
      if (!isLate()) throw cause;
    }
  }

  async #subscribeWithAuth(): Promise<void> {
    try {
      const answer = await this.authorize();
      if (!answer) return;
      if (this.subscriptionCancelled) this.#settle();
      else this.#sendSubscribe(answer);
    } catch (cause) {
      this.#fail(authError(cause));
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

  #fail(error: SubscriptionError): void {
    if (!this.#settle()) this.emit("pusher:subscription_error", error);
  }

  /** Ends the attempt to subscribe. Returns whether the channel was to be left. */
  #settle(): boolean {
    this.subscriptionPending = false;
    if (this.subscriptionCancelled) this.pusher.unsubscribe(this.name);
    return this.subscriptionCancelled;
  }
}

/** A channel that knows who is on it. */
// deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
export class PresenceChannel<Events = any>
  extends Channel<Events, PresenceEvents<UserInfo<Events>>> {
  readonly #infos = new Map<string, UserInfo<Events>>();
  /** Who is on the channel; nobody while it is not subscribed. */
  readonly members: Members<UserInfo<Events>> = new Members(this.#infos);

  /** Takes a frame of this channel; called by {@linkcode Pusher}. */
  override handleEvent(frame: Frame): void {
    const { event, data } = frame;
    const id = String(data?.user_id);
    if (event === "pusher_internal:member_added") {
      this.#infos.set(id, data?.user_info);
      this.emit("pusher:member_added", this.members.get(id));
    } else if (event === "pusher_internal:member_removed") {
      const member = this.members.get(id);
      this.#infos.delete(id);
      if (member) this.emit("pusher:member_removed", member);
    } else {
      super.handleEvent(frame);
    }
  }

  /** Forgets the members; called by {@linkcode Pusher}. */
  override disconnect(): void {
    super.disconnect();
    this.#infos.clear();
    this.members.myID = null;
  }

  /** Learns who the program itself is: from the permission, or by the sign-in. */
  protected override async acceptAuth(
    { channel_data }: ChannelAuth,
  ): Promise<void> {
    const { user } = this.pusher;
    if (!channel_data) await user.signinDonePromise;
    const id = channel_data
      ? decodeJson(channel_data)?.user_id
      : user.user_data?.id;
    // Either may be null.
    if ((id ?? null) === null) {
      throw new TypeError(
        `Cannot subscribe to "${this.name}": no channel_data in answer`,
      );
    }
    this.members.myID = String(id);
  }

  /** Takes over the members who are there. */
  // deno-lint-ignore no-explicit-any -- peers send any JSON
  protected override confirm(data: any): Members<UserInfo<Events>> {
    this.#infos.clear();
    const hash: Record<string, UserInfo<Events>> = data?.presence?.hash ?? {};
    for (const [id, info] of Object.entries(hash)) {
      this.#infos.set(id, info);
    }
    return this.members;
  }
}

/** A member of a presence channel. */
// deno-lint-ignore no-explicit-any -- without a declaration it may be anything
export interface Member<Info = any> {
  /** The user. */
  id: string;
  /** What the server's program tells of the user. */
  info: Info;
}

/** The members of a presence channel, as they are now. */
// deno-lint-ignore no-explicit-any -- without a declaration it may be anything
export class Members<Info = any> {
  /** The id of the program's own user, while it is known. */
  myID: string | null = null;
  readonly #infos: ReadonlyMap<string, Info>;

  /** Made by {@linkcode PresenceChannel}. */
  constructor(infos: ReadonlyMap<string, Info>) {
    this.#infos = infos;
  }

  /** Number of members. */
  get count(): number {
    return this.#infos.size;
  }

  /** The program's own user, while it is a member. */
  get me(): Member<Info> | null {
    // Nobody's id is empty.
    return this.get(this.myID ?? "");
  }

  /** The member with an id, if there is one. */
  get(id: string | number): Member<Info> | null {
    const key = String(id);
    if (!this.#infos.has(key)) return null;
    // As it has it.
    return { id: key, info: this.#infos.get(key) as Info };
  }

  /** Calls a function with every member. */
  each(visit: (member: Member<Info>) => void): void {
    for (const [id, info] of this.#infos) visit({ id, info });
  }
}

/** A channel whose events the server cannot read. */
class EncryptedChannel extends Channel {
  #opener: Opener<Frame> | undefined;

  override trigger(event: string, _data?: unknown): never {
    throw failure(
      `Cannot trigger "${event}": client events are not encrypted`,
      { name: "UnsupportedFeature" },
    );
  }

  /** Accepts, besides the protocol's events, data that has been encrypted. */
  override handleEvent(frame: Frame): void {
    if (isProtocol(frame.event)) super.handleEvent(frame);
    else this.#opener?.take(frame);
  }

  override disconnect(): void {
    super.disconnect();
    this.#opener?.reset();
  }

  /** Takes the secret, once what opens events with it is loaded. */
  protected override async acceptAuth(answer: ChannelAuth): Promise<void> {
    const { Opener } = await loadMore();
    this.#opener ??= new Opener({
      channel: this,
      emit: (frame) => super.handleEvent(frame),
      authorize: () => this.authorize(),
      log,
    });
    this.#opener.accept(answer);
  }
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
      `Cannot subscribe to "${name}": the option "nacl" is missing`,
      { name: "UnsupportedFeature" },
    );
  }
  return name.startsWith("presence-")
    ? new PresenceChannel(name, pusher)
    : new Channel(name, pusher);
}

/** An error with more to it: the name that pusher-js gives it, or a status. */
function failure(message: string, details: object): Error {
  return Object.assign(new Error(message), details);
}

// ---- User -------------------------------------------------------------------
// Who the connection is signed in as. Signing in is asked for once, and done on
// each connection: permission, `pusher:signin`, then the user's own channel,
// which is no channel of the program's.

/** The user that is signed in, as the server's program describes it. */
export interface UserData {
  /** Tells users apart. */
  id: string;
  /** What others on presence channels are told of the user. */
  // deno-lint-ignore no-explicit-any -- the server's program decides
  user_info?: any;
  /** The users whose coming and going this one is told. */
  watchlist?: string[];
}

/** Users of the watchlist came or went. */
export interface WatchlistEvent {
  /** `online` or `offline`. */
  name: string;
  /** Who. */
  user_ids: string[];
}

/** Events of {@linkcode User.watchlist}. */
export interface WatchlistEvents {
  /** These users are there: after signing in, or from now on. */
  online: WatchlistEvent;
  /** These users are not there. */
  offline: WatchlistEvent;
}

/**
 * The user of a {@linkcode Pusher}. Handlers hear the events that the server
 * sends to this user on any of its connections, and `pusher:signin_error` with a
 * {@linkcode SubscriptionError} when there was no permission to sign in. What the
 * server itself refuses is an `error` of the connection.
 */
export class User extends Emitter {
  /** The client it belongs to. */
  readonly pusher: Pusher;
  /** Who of the user's watchlist is online. */
  readonly watchlist: Emitter<WatchlistEvents> = new Emitter();
  /** The user; null while not signed in. */
  user_data: UserData | null = null;
  /** Whether `signin` was called. */
  signin_requested = false;
  /**
   * Resolves once this connection is signed in, failed to or ended; `user_data`
   * says which. Null before `signin` is called.
   */
  signinDonePromise: Promise<void> | null = null;
  #resolveDone = () => {};
  #channelName = "";

  /** Made by {@linkcode Pusher}. */
  constructor(pusher: Pusher) {
    super();
    this.pusher = pusher;
  }

  /** The same as {@linkcode Pusher.signin}. */
  signin(): void {
    if (this.signin_requested) return;
    this.signin_requested = true;
    this.disconnect();
    this.connect();
  }

  /** Signs in if that was asked for; called by {@linkcode Pusher}. */
  async connect(): Promise<void> {
    const { connection, config } = this.pusher;
    const socketId = connection.socket_id;
    if (!this.signin_requested || !socketId) return;
    const isLate = () => socketId !== connection.socket_id;
    try {
      const { auth, user_data } = await config.userAuthenticator({ socketId });
      if (isLate()) return;
      const id = decodeJson(user_data)?.id;
      const recover = this.pusher.positions.get(userChannel(id));
      connection.send_event("pusher:signin", { auth, user_data, recover });
    } catch (cause) {
      if (isLate()) return;
      this.#finish(null);
      this.emit("pusher:signin_error", authError(cause));
    }
  }

  /** Forgets what the lost connection meant; called by {@linkcode Pusher}. */
  disconnect(): void {
    this.#finish(null);
    if (!this.signin_requested) return;
    this.signinDonePromise = new Promise((resolve) => {
      this.#resolveDone = resolve;
    });
  }

  /** Takes any frame; called by {@linkcode Pusher}. */
  handleEvent({ event, channel, data, position }: Frame): void {
    const isAnswer = event === "pusher:signin_success";
    if (isAnswer) {
      const user = decodeJson(data?.user_data);
      this.#finish(isText(user?.id) && user.id ? user : null);
    }
    // The answer to signing in names no channel.
    const isOwn = this.user_data && (isAnswer || channel === this.#channelName);
    if (isOwn && position) {
      this.pusher.positions.set(this.#channelName, position);
    }
    if (event === "pusher_internal:watchlist_events") {
      data?.events?.forEach?.((change: WatchlistEvent | null) =>
        this.watchlist.emit(change?.name ?? "", change)
      );
    } else if (isOwn && !isProtocol(event)) {
      this.emit(event, data);
    }
  }

  /** Changes the user, and goes to hear what it is told. */
  #finish(user: UserData | null): void {
    this.user_data = user;
    const name = user ? userChannel(user.id) : "";
    if (user && name !== this.#channelName) {
      const data = { auth: "", channel: name };
      this.pusher.send_event("pusher:subscribe", data);
    }
    this.#channelName = name;
    this.#resolveDone();
  }
}

function userChannel(id: unknown): string {
  return `#server-to-user-${id}`;
}

// ---- Authorization ----------------------------------------------------------
// How a permission to join or to sign in is asked for: of an endpoint, by a form
// as pusher-js posts it, or of a function of the program.

/** What is wrong with an answer that is no permission. */
const NO_AUTH = "no auth in answer";

/** Where and how to post the question, and how to give it up. */
type Endpoint<Request, Answer> = AuthOptions<Request, Answer> & {
  endpoint: string;
  signal: AbortSignal;
};

/** What an endpoint says of several channels, by name. */
type ChannelAnswers = Record<
  string,
  Partial<ChannelAuth> & { error?: string; status?: number }
>;

/**
 * Asks. Rejects, with the HTTP `status` of an endpoint, unless the answer is a
 * permission. Several channels may be named in place of one, for an endpoint that
 * knows such a question: then the answer is whatever it has.
 */
async function askAuth<
  Request extends UserAuthRequest,
  Answer extends { auth: string },
>(
  request: Request,
  how: Endpoint<Request, Answer>,
  names: string[] = [],
): Promise<Answer> {
  const { endpoint, signal, customHandler, paramsProvider } = how;
  if (customHandler) {
    return await new Promise((resolve, reject) =>
      customHandler(request, (error, answer) => {
        if (!error && isAuth(answer)) resolve(answer);
        else reject(error ?? NO_AUTH);
      })
    );
  }
  const { socketId, channelName }: UserAuthRequest & Partial<AuthRequest> =
    request;
  const body = new URLSearchParams(
    names.map((name) => ["channel_name[]", name]),
  );
  const params = {
    socket_id: socketId,
    channel_name: channelName,
    ...how.params,
    ...paramsProvider?.(),
  };
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined) body.append(name, String(value));
  }
  const headers = { ...how.headers, ...how.headersProvider?.() };
  let status = 0;
  try {
    // Without `credentials` cookies go to the page's own origin only.
    const response = await fetch(endpoint, {
      method: "POST",
      headers,
      body,
      signal,
    });
    const text = await response.text();
    status = response.status;
    if (status !== 200) throw new Error(`status is ${status}, and must be 200`);
    const answer = JSON.parse(text);
    if (names.length === 0 && !isAuth(answer)) throw new TypeError(NO_AUTH);
    return answer;
  } catch (cause) {
    // Whatever is thrown above is one.
    const { message } = cause as Error;
    throw failure(`Cannot be authorized by ${endpoint}: ${message}`, {
      status,
    });
  }
}

/** Whether an answer is a permission. */
function isAuth<Answer extends { auth: string }>(
  answer: Partial<Answer> | null | undefined,
): answer is Answer {
  return isText(answer?.auth);
}

/** What handlers are told when there was no permission, whatever was thrown. */
function authError(cause: unknown): SubscriptionError {
  // Functions of the program may throw text.
  const { message = String(cause), status } = Object(cause);
  const error = { type: "AuthError", error: message };
  return status === undefined ? error : { ...error, status };
}
