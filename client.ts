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
  /** Transports to use; there is one, `ws`. @default {["ws"]} */
  enabledTransports?: string[];
  /** Transports not to use; wins over the enabled ones. @default {[]} */
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
 * Options of pusher-js that are accepted and ignored: there are no transports
 * over HTTP, requests are made by `fetch`, and nothing is measured.
 */
export type IgnoredOptions = Partial<
  Record<
    | "authTransport"
    | "disableStats"
    | "enableStats"
    | "httpHost"
    | "httpPath"
    | "httpPort"
    | "httpsPort"
    | "ignoreNullOrigin"
    | "statsHost"
    | "timelineParams",
    unknown
  >
>;

/** The part of `tweetnacl` that encrypted channels need. */
export interface Nacl {
  /** XSalsa20-Poly1305. */
  readonly secretbox: {
    /** Decrypts; null when the secret or the box is another one. */
    open(box: Uint8Array, nonce: Uint8Array, key: Uint8Array):
      | Uint8Array
      | null;
    /** Bytes of a secret. */
    readonly keyLength: number;
    /** Bytes of a nonce. */
    readonly nonceLength: number;
    /** Bytes that a box has more than its content. */
    readonly overheadLength: number;
  };
}

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
  transport?: string;
  /** Fields to post besides `socket_id` and, for channels, `channel_name`. */
  params?: Record<string, unknown>;
  /** Headers to post. */
  headers?: Record<string, string>;
  /** Makes further fields for each request. */
  paramsProvider?: () => Record<string, unknown>;
  /** Makes further headers for each request. */
  headersProvider?: () => Record<string, string>;
  /** Answers in place of the endpoint. */
  customHandler?: (request: Request, callback: AuthCallback<Answer>) => void;
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
  & { [N in NameIn<Events[keyof Events]>]: DataIn<Events[keyof Events], N> }
  & PusherEvents;

/** Events of the protocol that {@linkcode Pusher.bind} hears. */
export interface PusherEvents {
  /** The server complains. */
  "pusher:error": ErrorData;
  /** The server refused a subscription. */
  "pusher:subscription_error": SubscriptionError;
  /** A cache channel has nothing in its cache. */
  "pusher:cache_miss": undefined;
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
  /** The server complains about something done on this channel. */
  "pusher:error": ErrorData;
}

/** Events of the protocol on presence channels. */
export interface PresenceEvents
  extends Omit<ChannelEvents, "pusher:subscription_succeeded"> {
  /** The channel is subscribed, and these are its members. */
  "pusher:subscription_succeeded": Members;
  /** A member joined. */
  "pusher:member_added": Member;
  /** A member left. */
  "pusher:member_removed": Member;
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
    for (const name of event ? [event] : [...this.#bindings.keys()]) {
      const rest = (this.#bindings.get(name) ?? []).filter((binding) =>
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
      callSafely(() => Reflect.apply(handler, context ?? globalThis, args));
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
 * - Nothing else is kept while there is no connection: what cannot be sent now
 *   is not sent later, and `trigger` says so by returning false.
 * - `Events` maps channel names to event names to data; names may be template
 *   literals. With it the compiler checks `subscribe`, `bind` and `trigger`,
 *   without it everything is allowed.
 *
 * @example Typed events
 * ```ts ignore
 * import { Pusher } from "@glitz/pusher/client";
 *
 * interface Events {
 *   messages: { create: { text: string } };
 *   [room: `presence-${string}`]: { "client-typing": { since: number } };
 * }
 *
 * const pusher = new Pusher<Events>("app-key", { wsHost: "example.com" });
 * pusher.subscribe("messages").bind("create", ({ text }) => console.log(text));
 * pusher.subscribe("presence-lobby").bind("client-typing", (data, metadata) => {
 *   console.log(metadata.user_id, data.since);
 * });
 * ```
 */
// deno-lint-ignore no-explicit-any -- without a declaration every channel is allowed
export class Pusher<Events = any> extends Emitter<AllEvents<Events>> {
  /** Every instance made so far. */
  static readonly instances: Pusher[] = [];
  /** Whether to log to the console. */
  static logToConsole = false;
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

  readonly #channels = new Map<string, Channel>();
  readonly #connection: Connection;

  /**
   * Connects to the app with a key.
   *
   * @throws {TypeError} without a key, or when no option nor a page says where
   * the server is.
   * @throws {RangeError} for a timeout that no timer can have.
   */
  constructor(key: string, options: PusherOptions = {}) {
    super();
    if (typeof key !== "string" || key === "") {
      throw new TypeError(
        `Cannot create Pusher: "key" is ${key}, and must be an app's key`,
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
        }),
    };
    this.#connection = new Connection(this.config, {
      url: (useTLS) => this.#url(useTLS),
      isSupported: supportsWebSocket(options),
      onConnected: () => {
        this.user.connect();
        this.#eachChannel((channel) => channel.subscribe());
      },
      onDisconnected: () => {
        this.user.disconnect();
        this.#eachChannel((channel) => this.#reset(channel));
      },
      onFrame: (frame) => this.#deliver(frame),
    });
    Pusher.instances.push(this);
    if (!(LAZY in options)) this.connect();
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
  subscribe<C extends ChannelName<Events>>(name: C): ChannelOf<Events, C> {
    const channel = this.#channels.get(name) ?? this.#addChannel(name);
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
    this.#channels.delete(name);
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

  #url(useTLS: boolean): string {
    const { wsHost, wsPort, wssPort, wsPath } = this.config;
    const scheme = useTLS ? "wss" : "ws";
    const port = useTLS ? wssPort : wsPort;
    const key = encodeURIComponent(this.key);
    return `${scheme}://${wsHost}:${port}${wsPath}/app/${key}?protocol=7&client=glitz`;
  }

  #addChannel(name: string): Channel {
    const channel = createChannel(name, this);
    this.#channels.set(name, channel);
    return channel;
  }

  #eachChannel(visit: (channel: Channel) => void): void {
    for (const channel of this.allChannels()) visit(channel);
  }

  /** Without a connection nothing is subscribed, and nothing has to be left. */
  #reset(channel: Channel): void {
    channel.disconnect();
    if (channel.subscriptionCancelled) this.#channels.delete(channel.name);
  }

  #deliver(frame: Frame): void {
    const { event, channel = "", data } = frame;
    this.#channels.get(channel)?.handleEvent(frame);
    this.user.handleEvent(frame);
    if (!isInternal(event)) this.emit(event, data);
  }

  /** Asks whoever the options name for the permission to join a channel. */
  #authorize(request: AuthRequest): Promise<ChannelAuth> {
    const { options } = this;
    const { channelAuthorization, authorizer } = options;
    const channel = this.#channels.get(request.channelName);
    if (!channelAuthorization && authorizer && channel) {
      return promised((callback) =>
        authorizer(channel, options).authorize(request.socketId, callback)
      );
    }
    return askAuth(request, {
      endpoint: options.authEndpoint ?? "/pusher/auth",
      ...channelAuthorization ?? options.auth,
    });
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
      'Cannot create Pusher: there is no page to take the host from, so "wsHost" or "cluster" must be given',
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

function supportsWebSocket(options: PusherOptions): boolean {
  const { enabledTransports = ["ws"], disabledTransports = [] } = options;
  return enabledTransports.includes("ws") && !disabledTransports.includes("ws");
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

/** Time that a socket has to open and to be greeted by the server. */
const ATTEMPT_TIMEOUT_MS = 15_000;

/** Delay before the first attempt after a failure; it doubles with each. */
const RETRY_BASE_MS = 1_000;

/** Longest delay before jitter, which adds up to half: 30 seconds in all. */
const RETRY_MAX_MS = 20_000;

/** A connection that lasted this long was no failure: delays start over. */
const STABLE_MS = 10_000;

/** Code of a connection that ended without saying why. */
const ABNORMAL_CLOSURE = 1006;

/** Code of a peer that left a ping unanswered. */
const PONG_MISSING = 4201;

/** What the owner of a {@linkcode Connection} provides. */
export interface ConnectionOwner {
  /** Where to connect, with TLS or without. */
  url(useTLS: boolean): string;
  /** Whether the options leave a transport to connect with. */
  isSupported: boolean;
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
 * A lost connection is attempted again at once where the server asked for that,
 * else after a second. The delay grows up to 30 seconds with every failure, until
 * a connection lasts.
 */
export class Connection extends Emitter<ConnectionEvents> {
  readonly #config: PusherConfig;
  readonly #owner: ConnectionOwner;
  #state: ConnectionState = "initialized";
  #socket: WebSocket | undefined;
  #socketId: string | undefined;
  #useTLS: boolean;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #unavailableTimer: ReturnType<typeof setTimeout> | undefined;
  #activityTimeoutMs = 0;
  #connectedAt = 0;
  #failures = 0;

  /** Made by {@linkcode Pusher}. */
  constructor(config: PusherConfig, owner: ConnectionOwner) {
    super();
    this.#config = config;
    this.#owner = owner;
    this.#useTLS = config.useTLS;
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
   * Connects, unless connected: at once, where the next attempt is waited for.
   *
   * @throws when the runtime has no WebSocket.
   */
  connect(): void {
    if (this.#socket) return;
    if (!this.#owner.isSupported) return this.#transition("failed");
    const isRetrying = this.#isRetrying();
    if (!isRetrying) this.#failures = 0;
    this.#openSocket();
    if (!isRetrying) this.#transition("connecting");
  }

  /** Disconnects and stays so until `connect()`. */
  disconnect(): void {
    this.#dropSocket();
    this.#transition("disconnected");
  }

  /** Sends a frame; false when not connected. */
  send_event(event: string, data?: unknown, channel?: string): boolean {
    if (this.#state !== "connected" || !this.#socket) return false;
    const frame = { event, data, channel };
    log("Event sent", frame);
    this.#socket.send(JSON.stringify(frame));
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
        this.#config.unavailableTimeout,
      );
    }
    this.#watchNetwork(current !== "disconnected" && current !== "failed");
    if (previous === "connected") {
      this.#socketId = undefined;
      this.#owner.onDisconnected();
    }
    if (current === "connected") this.#owner.onConnected();
    this.emit("state_change", { previous, current });
    // A handler may have changed the state again.
    if (this.#state !== current) return;
    const socket_id = this.#socketId;
    this.emit(current, socket_id && { socket_id });
  }

  #isRetrying(): boolean {
    return this.#state === "connecting" || this.#state === "unavailable";
  }

  /** Makes one attempt in place of whatever was going on. */
  #openSocket(): void {
    this.#dropSocket();
    if (typeof WebSocket === "undefined") {
      this.#transition("failed");
      throw new Error(
        "Cannot connect: this runtime has no WebSocket (Node.js has it from version 22 on)",
      );
    }
    const socket = new WebSocket(this.#owner.url(this.#useTLS));
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#handleMessage(socket, data);
    socket.onclose = ({ code, reason }) =>
      this.#handleClose(socket, code, reason);
    this.#schedule(ATTEMPT_TIMEOUT_MS, () => {
      const message = `No handshake in ${ATTEMPT_TIMEOUT_MS} ms`;
      this.#handleClose(socket, ABNORMAL_CLOSURE, message);
    });
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

  #handleMessage(socket: WebSocket, text: unknown): void {
    const frame = parseFrame(text);
    if (frame) log("Event recd", frame);
    if (this.#state !== "connected") return this.#handleGreeting(socket, frame);
    this.#awaitSilence();
    if (!frame) {
      const error = new TypeError(
        "Cannot read message: not JSON with an event",
      );
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
  #handleGreeting(socket: WebSocket, frame: Frame | null): void {
    const { event, data } = frame ?? {};
    const { socket_id, activity_timeout, code, message } = data ?? {};
    if (event === "pusher:connection_established" && isText(socket_id)) {
      const { activityTimeout } = this.#config;
      this.#activityTimeoutMs = activity_timeout > 0
        ? Math.min(activityTimeout, activity_timeout * 1000)
        : activityTimeout;
      this.#connectedAt = Date.now();
      this.#socketId = socket_id;
      this.#awaitSilence();
      this.#transition("connected");
    } else if (event === "pusher:error" && typeof code === "number") {
      this.#handleClose(socket, code, message);
    } else {
      const error = new Error("Cannot connect: the server did not greet");
      this.emit("error", { type: "HandshakeError", error });
      if (socket === this.#socket) this.#retry(this.#nextDelayMs());
    }
  }

  /** Acts on a close code, of a socket that is closed or that is given up. */
  #handleClose(socket: WebSocket, code: number, message: string): void {
    const reaction = reactionTo(code);
    this.#reportClose(code, message);
    // A handler of the error may have disconnected.
    if (socket !== this.#socket) return;
    if (reaction === "stop") return this.disconnect();
    if (reaction === "secure") this.#useTLS = true;
    this.#retry(this.#nextDelayMs(reaction !== "back off"));
  }

  /** Emits the errors for a close, twice over where pusher-js does. */
  #reportClose(code: number, message: string): void {
    const isExpected = code === 1000 || code === 1001;
    if (isExpected) return;
    const error: PusherError = { type: "PusherError", data: { code, message } };
    const wasConnected = this.#state === "connected";
    const asksForAction = code >= 4000 || (code >= 1002 && code <= 1004);
    if (wasConnected) this.emit("error", error);
    if (!wasConnected || asksForAction) {
      this.emit("error", { type: "WebSocketError", error });
    }
  }

  /** Plans the next attempt. */
  #retry(delayMs: number): void {
    this.#dropSocket();
    this.#schedule(delayMs, () => this.#openSocket());
    // An unavailable server stays so until it is connected to.
    if (this.#state === "connected") this.#transition("connecting");
    // A handler may have disconnected.
    if (delayMs > 0 && this.#isRetrying()) {
      this.emit("connecting_in", Math.round(delayMs / 1000));
    }
  }

  /**
   * Counts a failure. Only the first in a row is retried at once: a server that
   * keeps asking for it would be attempted in a hot loop.
   */
  #nextDelayMs(isAtOnce = false): number {
    const isStable = this.#state === "connected" &&
      Date.now() - this.#connectedAt >= STABLE_MS;
    if (isStable) this.#failures = 0;
    const failures = this.#failures++;
    return isAtOnce && failures === 0 ? 0 : backoffMs(failures);
  }

  /** Asks for a sign of life once nothing has arrived for a while. */
  #awaitSilence(): void {
    this.#schedule(this.#activityTimeoutMs, () => this.#demandPong());
  }

  #demandPong(): void {
    const socket = this.#socket;
    if (!socket || !this.send_event("pusher:ping", {})) return;
    const { pongTimeout } = this.#config;
    this.#schedule(pongTimeout, () => {
      const message = `No pong in ${pongTimeout} ms`;
      this.#handleClose(socket, PONG_MISSING, message);
    });
  }

  /** Listens to what browsers tell about the network, or no longer does. */
  #watchNetwork(isWatching: boolean): void {
    const method = isWatching ? "addEventListener" : "removeEventListener";
    // Node.js has neither.
    globalThis[method]?.("online", this.#handleOnline);
    globalThis[method]?.("offline", this.#handleOffline);
  }

  readonly #handleOnline = (): void => {
    if (this.#isRetrying()) this.#openSocket();
  };

  /** A connection that went with the network is found out by a ping. */
  readonly #handleOffline = (): void => this.#demandPong();
}

/** What to do after a close. */
type Reaction = "back off" | "at once" | "secure" | "stop";

/** Ranges of close codes, as the protocol documentation has them. */
function reactionTo(code: number): Reaction {
  if (code < 4000) return "back off";
  if (code === 4000) return "secure";
  if (code < 4100) return "stop";
  if (code < 4200) return "back off";
  if (code < 4300) return "at once";
  return "stop";
}

/** Doubles with each failure; jitter keeps clients from returning together. */
function backoffMs(failures: number): number {
  const delayMs = Math.min(RETRY_BASE_MS * 2 ** failures, RETRY_MAX_MS);
  return delayMs * (1 + Math.random() / 2);
}

/** Reads a message of the server; null when it is no frame. */
function parseFrame(text: unknown): Frame | null {
  const frame = decodeJson(text);
  if (!isText(frame?.event)) return null;
  return { ...frame, data: decodeJson(frame.data) };
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
  extends Emitter<Events & Own> {
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
  trigger<N extends EventName<Events>>(event: N, data?: Events[N]): boolean {
    if (!event.startsWith("client-")) {
      throw named(
        "BadEventName",
        `Cannot trigger "${event}": names of client events start with "client-"`,
      );
    }
    if (!this.subscribed) log("Client event before subscription", this.name);
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
    const { event, data, user_id } = frame;
    if (event === "pusher_internal:subscription_succeeded") {
      this.subscribed = true;
      this.subscriptionPending = false;
      if (this.#leaveIfCancelled()) return;
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

  /** Asks for the permission, and reads it; null when that comes too late. */
  protected async authorize(): Promise<ChannelAuth | null> {
    const { name, pusher } = this;
    const socketId = pusher.connection.socket_id ?? "";
    const isLate = () =>
      socketId !== pusher.connection.socket_id ||
      !(this.subscriptionPending || this.subscribed);
    try {
      const request = { socketId, channelName: name };
      const answer = await pusher.config.channelAuthorizer(request);
      if (isLate()) return null;
      await this.acceptAuth(answer);
      return answer;
    } catch (cause) {
      if (isLate()) return null;
      throw cause;
    }
  }

  async #subscribeWithAuth(): Promise<void> {
    try {
      const answer = await this.authorize();
      if (!answer) return;
      if (!this.subscriptionCancelled) return this.#sendSubscribe(answer);
      this.subscriptionPending = false;
      this.#leaveIfCancelled();
    } catch (cause) {
      this.#fail(authError(cause));
    }
  }

  #sendSubscribe({ auth, channel_data }: ChannelAuth): void {
    const data = { auth, channel_data, channel: this.name };
    this.pusher.send_event("pusher:subscribe", data);
  }

  /** Ends the attempt, so that `subscribe` makes another. */
  #fail(error: SubscriptionError): void {
    this.subscriptionPending = false;
    if (this.#leaveIfCancelled()) return;
    this.emit("pusher:subscription_error", error);
  }

  #leaveIfCancelled(): boolean {
    if (this.subscriptionCancelled) this.pusher.unsubscribe(this.name);
    return this.subscriptionCancelled;
  }
}

/** A channel that knows who is on it. */
// deno-lint-ignore no-explicit-any -- without a declaration every event is allowed
export class PresenceChannel<Events = any>
  extends Channel<Events, PresenceEvents> {
  readonly #infos = new Map<string, unknown>();
  /** Who is on the channel; nobody while it is not subscribed. */
  readonly members: Members = new Members(this.#infos);

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
  protected override confirm(data: any): Members {
    this.#infos.clear();
    for (const [id, info] of Object.entries(data?.presence?.hash ?? {})) {
      this.#infos.set(id, info);
    }
    return this.members;
  }
}

/** A member of a presence channel. */
export interface Member {
  /** The user. */
  id: string;
  /** What the server's program tells of the user. */
  // deno-lint-ignore no-explicit-any -- the server's program decides
  info: any;
}

/** The members of a presence channel, as they are now. */
export class Members {
  /** The id of the program's own user, while it is known. */
  myID: string | null = null;
  readonly #infos: ReadonlyMap<string, unknown>;

  /** Made by {@linkcode PresenceChannel}. */
  constructor(infos: ReadonlyMap<string, unknown>) {
    this.#infos = infos;
  }

  /** Number of members. */
  get count(): number {
    return this.#infos.size;
  }

  /** The program's own user, while it is a member. */
  get me(): Member | null {
    return this.myID === null ? null : this.get(this.myID);
  }

  /** The member with an id, if there is one. */
  get(id: string | number): Member | null {
    const key = String(id);
    return this.#infos.has(key)
      ? { id: key, info: this.#infos.get(key) }
      : null;
  }

  /** Calls a function with every member. */
  each(visit: (member: Member) => void): void {
    for (const [id, info] of this.#infos) visit({ id, info });
  }
}

/** Events of a channel that may wait for a new secret; more are dropped. */
const MAX_HELD_EVENTS = 1_000;

/** A channel whose events the server cannot read. */
class EncryptedChannel extends Channel {
  // `createChannel` makes none without it.
  readonly #secretbox = this.pusher.options.nacl!.secretbox;
  #secret = new Uint8Array();
  /** Events that the secret did not open. A new one is asked for meanwhile. */
  #held: Frame[] = [];

  override trigger(event: string): never {
    throw named(
      "UnsupportedFeature",
      `Cannot trigger "${event}": client events are not encrypted`,
    );
  }

  /** Accepts, besides the protocol's events, data that has been encrypted. */
  override handleEvent(frame: Frame): void {
    if (isProtocol(frame.event)) super.handleEvent(frame);
    else if (!this.#emitOpened(frame)) this.#retry(frame);
  }

  override disconnect(): void {
    super.disconnect();
    this.#held = [];
  }

  protected override acceptAuth({ shared_secret = "" }: ChannelAuth): void {
    try {
      this.#secret = decodeBase64(shared_secret, this.#secretbox.keyLength);
    } catch (cause) {
      throw new TypeError(
        `Cannot subscribe to "${this.name}": no shared_secret in answer`,
        { cause },
      );
    }
  }

  /**
   * Accepts data with `ciphertext` and `nonce`, and drops what is anything else.
   * Returns false where another secret is needed.
   */
  #emitOpened(frame: Frame): boolean {
    const { data } = frame;
    const { nonceLength, overheadLength } = this.#secretbox;
    try {
      const content = this.#secretbox.open(
        decodeBase64(data.ciphertext, overheadLength),
        decodeBase64(data.nonce, nonceLength),
        this.#secret,
      );
      if (!content) return false;
      const text = new TextDecoder().decode(content);
      super.handleEvent({ ...frame, data: decodeJson(text) });
    } catch (error) {
      log("Event dropped", this.name, String(error));
    }
    return true;
  }

  /** Gives an event one more try, with a new secret. They stay in order. */
  async #retry(frame: Frame): Promise<void> {
    const held = this.#held;
    if (held.length < MAX_HELD_EVENTS) held.push(frame);
    if (held.length > 1) return;
    await this.authorize().catch((error) => log(String(error)));
    if (held !== this.#held) return;
    for (const waiting of held.splice(0)) {
      // A handler of the event before may have left the channel.
      if (!this.subscribed || !this.#emitOpened(waiting)) {
        log("Event dropped", this.name);
      }
    }
  }
}

/** The bytes of a base64 text. Throws when there are fewer than needed. */
function decodeBase64(text: string, minBytes: number): Uint8Array<ArrayBuffer> {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  if (bytes.length >= minBytes) return bytes;
  throw new TypeError("too short");
}

function createChannel(name: string, pusher: Pusher): Channel {
  if (name.startsWith("#")) {
    throw named(
      "BadChannelName",
      `Cannot subscribe to "${name}": names must not start with "#"`,
    );
  }
  if (name.startsWith("private-encrypted-")) {
    if (pusher.options.nacl) return new EncryptedChannel(name, pusher);
    throw named(
      "UnsupportedFeature",
      `Cannot subscribe to "${name}": encrypted channels need the option "nacl"`,
    );
  }
  return name.startsWith("presence-")
    ? new PresenceChannel(name, pusher)
    : new Channel(name, pusher);
}

/** An error with the name that pusher-js gives it. */
function named(name: string, message: string): Error {
  return Object.assign(new Error(message), { name });
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
      connection.send_event("pusher:signin", { auth, user_data });
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
  handleEvent({ event, channel, data }: Frame): void {
    if (event === "pusher:signin_success") {
      const user = decodeJson(data?.user_data);
      this.#finish(isText(user?.id) && user.id !== "" ? user : null);
    } else if (event === "pusher_internal:watchlist_events") {
      data?.events?.forEach?.((change: WatchlistEvent | null) =>
        this.watchlist.emit(change?.name ?? "", change)
      );
    } else if (this.user_data && channel === this.#channelName) {
      if (!isProtocol(event)) this.emit(event, data);
    }
  }

  /** Changes the user, and goes to hear what it is told. */
  #finish(user: UserData | null): void {
    this.user_data = user;
    const name = user ? `#server-to-user-${user.id}` : "";
    if (user && name !== this.#channelName) {
      const data = { auth: "", channel: name };
      this.pusher.send_event("pusher:subscribe", data);
    }
    this.#channelName = name;
    this.#resolveDone();
  }
}

// ---- Authorization ----------------------------------------------------------
// How a permission to join or to sign in is asked for: of an endpoint, by a form
// as pusher-js posts it, or of a function of the program.

/** What is wrong with an answer that is no permission. */
const NO_AUTH = "no auth in answer";

/** Asks. Rejects, with the HTTP `status` of an endpoint, unless it says yes. */
async function askAuth<
  Request extends UserAuthRequest,
  Answer extends { auth: string },
>(
  request: Request,
  options: AuthOptions<Request, Answer> & { endpoint: string },
): Promise<Answer> {
  const { endpoint, customHandler, paramsProvider, headersProvider } = options;
  if (customHandler) {
    return promised((callback) => customHandler(request, callback));
  }
  const { socketId, channelName }: UserAuthRequest & Partial<AuthRequest> =
    request;
  const body = new URLSearchParams();
  const params = {
    socket_id: socketId,
    channel_name: channelName,
    ...options.params,
    ...paramsProvider?.(),
  };
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined) body.append(name, String(value));
  }
  const headers = { ...options.headers, ...headersProvider?.() };
  let status = 0;
  try {
    // Without `credentials` cookies go to the page's own origin only.
    const response = await fetch(endpoint, { method: "POST", headers, body });
    const text = await response.text();
    status = response.status;
    if (status !== 200) throw new Error(`status is ${status}, and must be 200`);
    const answer = JSON.parse(text);
    if (!isText(answer?.auth)) throw new TypeError(NO_AUTH);
    return answer;
  } catch (cause) {
    // Whatever is thrown above is one.
    const { message } = cause as Error;
    throw Object.assign(
      new Error(`Cannot be authorized by ${endpoint}: ${message}`),
      { status },
    );
  }
}

/** Makes a promise of what a callback is told. */
function promised<Answer extends { auth: string }>(
  ask: (callback: AuthCallback<Answer>) => void,
): Promise<Answer> {
  return new Promise((resolve, reject) =>
    ask((error, answer) => {
      if (!error && isText(answer?.auth)) return resolve(answer);
      reject(
        error instanceof Error ? error : new Error(String(error ?? NO_AUTH)),
      );
    })
  );
}

/** What handlers are told when there was no permission, whatever was thrown. */
function authError(cause: unknown): SubscriptionError {
  const { message, status } = cause as Error & { status?: number };
  const error = { type: "AuthError", error: message };
  return status === undefined ? error : { ...error, status };
}
