/**
 * The types of a program's calls and of their answers: typed channels and events, and
 * the shapes that the official Node SDK has.
 *
 * @module
 */

import type { Awaitable } from "./time.ts";

// ---- Typed channels ---------------------------------------------------------

/**
 * Channels, their events and the data of each, when nothing is declared: every
 * name and every value is allowed.
 */
export type AnyEvents = Record<string, Record<string, unknown>>;

/** The channel names that `Events` allows. */
export type ChannelName<Events> = Extract<keyof Events, string>;

/**
 * The event names that `Events` allows on channel `C`. Protocol events cannot be
 * triggered.
 */
export type EventName<Events, C extends ChannelName<Events>> = Exclude<
  Extract<keyof Events[C], string>,
  `pusher:${string}` | `pusher_internal:${string}`
>;

/**
 * The `user_info` of the members of a presence channel, as `Events` declares it
 * under the reserved name `pusher:user_info`; `never` without a declaration.
 */
export type DeclaredUserInfo<Events, C> = C extends keyof Events
  ? Events[C] extends { "pusher:user_info": infer Info extends object } ? Info
  : never
  : never;

/** A member as `Events` wants it on channel `C`, or on any of its channels. */
export type MemberOf<Events, C = ChannelName<Events>> =
  [DeclaredUserInfo<Events, C>] extends [never] ? Member
    : Member & { user_info: DeclaredUserInfo<Events, C> };

/** The data of event `N`: for several channels, what suits all of them. */
export type EventData<
  Events,
  C extends ChannelName<Events>,
  N extends EventName<Events, C>,
> = (C extends unknown ? (data: Events[C][N]) => void : never) extends (
  data: infer Data,
) => void ? Data
  : never;

/** One event of {@linkcode Pusher.triggerBatch}. */
export type BatchEvent<Events = AnyEvents> = {
  [C in ChannelName<Events>]: {
    [N in EventName<Events, C>]: {
      /** The one channel that gets the event. */
      channel: C;
      /** The name of the event. */
      name: N;
      /** Its data: a string as it is, anything else as JSON. */
      data: Events[C][N];
    } & TriggerParams;
  }[EventName<Events, C>];
}[ChannelName<Events>];

// ---- Calls and answers ------------------------------------------------------

/** What {@linkcode Pusher.trigger} takes besides channel, event and data. */
export interface TriggerParams {
  /** The connection that does not get the event: usually the one that caused it. */
  socket_id?: string | undefined;
  /** Comma list of the counts in the answer: `subscription_count`, `user_count`. */
  info?: string | undefined;
}

/** Parameters of a request to the HTTP API, without those that sign it. */
export type RequestParams = Record<
  string,
  string | number | boolean | null | undefined
>;

/** What {@linkcode Pusher.get} asks for. */
export interface GetOptions {
  /** The path behind `/apps/{id}`, such as `/channels`. */
  path: string;
  /** Parameters of the query, such as `{ info: "user_count" }`. */
  params?: RequestParams | undefined;
}

/** What {@linkcode Pusher.post} sends. */
export interface PostOptions extends GetOptions {
  /** An object, which is sent as JSON, or JSON text. */
  body?: object | string | null | undefined;
}

/** What {@linkcode Pusher.createSignedQueryString} signs. */
export interface SignedQueryOptions extends PostOptions {
  /** The method of the request. */
  method: string;
  /** The whole path of the request, such as `/apps/3/events`. */
  path: string;
}

/**
 * What a publish resolves to. It has the parts of a `fetch` response that code
 * written for the official SDK uses.
 */
export interface TriggerResponse {
  /** Always true: a call that is refused throws. */
  readonly ok: true;
  /** Always 200. */
  readonly status: 200;
  /** The body that the HTTP API answers with. */
  json(): Promise<PublishResult>;
  /** The same body as JSON text. */
  text(): Promise<string>;
}

/** Body of the answer to a publish; empty unless `info` was asked for. */
export interface PublishResult {
  /** Counts per distinct channel of a single event. */
  channels?: Record<string, ChannelCounts>;
  /** Counts per item of a batch, at the same index. */
  batch?: ChannelCounts[];
}

/** The counts of a channel that were asked for and that apply to it. */
export interface ChannelCounts {
  /** Connections subscribed. */
  subscription_count?: number;
  /** Distinct users, on presence channels only. */
  user_count?: number;
}

/** What {@linkcode Pusher.channel} says of a channel. */
export interface ChannelDescription extends ChannelCounts {
  /** Whether anybody is subscribed. */
  occupied: boolean;
  /** The last event of a cache channel, and how many seconds it has left. */
  cache?: { data: string; ttl: number } | null;
}

/** What {@linkcode Pusher.stats} says of the whole server. */
export interface Stats {
  /** Whether it can serve: its backplane is up, and it is not closing. */
  ready: boolean;
  /** Live connections. */
  connections: number;
  /**
   * How many of them have not authorized yet, in apps with
   * `authorizationTimeoutMs`.
   */
  unauthorizedConnections: number;
  /** The same by transport: `ws`, `xhr_streaming`, `xhr_polling`, …. */
  transports: Record<string, number>;
  /** Channels that a connection of this server is on. */
  channels: number;
  /** Sessions of stock clients that are connected to this server. */
  sessions: number;
  /** Sessions whose client is away, where the backplane keeps them here. */
  sessionsAway: number;
  /** Bytes of the history, where the backplane keeps it here. */
  historyBytes: number;
  /** Events in the history, where the backplane keeps it here. */
  historyEvents: number;
  /** Bytes that were sent, and that clients have not taken yet. */
  bufferedBytes: number;
  /** Incoming frames that were dropped for their size or rate, since the start. */
  droppedFrames: number;
}

/** Which channels {@linkcode Pusher.channels} lists, and what it says of each. */
export interface ChannelsFilter {
  /** Only channels with this name prefix. */
  filter_by_prefix?: string;
  /** Comma list of `subscription_count` and `user_count`. */
  info?: string;
}

// ---- Members and users ------------------------------------------------------

/** A member of a presence channel, as the program names it. */
export interface Member {
  /** 1 to 128 characters, or an integer, which becomes its decimal text. */
  user_id: string | number;
  /** An object whose JSON has at most 1,024 bytes; other members see it. */
  user_info?: object;
}

/** A signed permission to subscribe, as clients expect it from an auth endpoint. */
export interface ChannelAuth {
  /** `key:signature`. */
  auth: string;
  /** The member as JSON text, exactly as it was signed. */
  channel_data?: string;
  /** On encrypted channels, the key with which the client decrypts, in base64. */
  shared_secret?: string;
}

/** A user who signs in. */
export interface UserData {
  /** 1 to 128 characters. */
  id: string;
  /** What the members of a presence channel see of the user. */
  user_info?: object;
  /** Users whose online and offline events the client gets; at most 100. */
  watchlist?: string[];
  /** Other fields, which the client gets as they are. */
  [field: string]: unknown;
}

/** A signed statement of who a user is, as clients expect it. */
export interface UserAuth {
  /** `key:signature`. */
  auth: string;
  /** The user as JSON text, exactly as it was signed. */
  user_data: string;
}

/** What {@linkcode PusherOptions.authorize} has to decide. */
export interface AuthorizeContext {
  /** Id of the app that the client is connected to. */
  app: string;
  /** The channel that the client wants to join. */
  channel: string;
  /** The client's connection. */
  socketId: string;
  /**
   * The whole form that the client posted, its own parameters included. JSON is
   * turned into a form: the items of an array `name` are called `name[]`, and an
   * object stays JSON text.
   */
  params: URLSearchParams;
  /**
   * Aborts when nobody waits for the answer any more: after
   * {@linkcode PusherOptions.answerTimeoutMs}, or when the server has closed.
   */
  signal: AbortSignal;
}

/**
 * Decides whether the sender of `request` may join a channel: `false` or `true`, or
 * for a presence channel the member. There `true` is for users who have signed in,
 * see {@linkcode PusherOptions.authenticate}. The body of `request` has been read
 * already; its fields are in `params`.
 */
export type Authorize<Events = AnyEvents> = (
  request: Request,
  context: AuthorizeContext,
) => Awaitable<boolean | MemberOf<Events>>;

/** What {@linkcode PusherOptions.authenticate} has to answer. */
export type AuthenticateContext = Omit<AuthorizeContext, "channel">;

/**
 * Says who the sender of `request` is: a user, or null for nobody. The body of
 * `request` has been read already; its fields are in `params`.
 */
export type Authenticate = (
  request: Request,
  context: AuthenticateContext,
) => Awaitable<UserData | null>;

/** A client event that {@linkcode PusherOptions.clientEvents} reviews. */
export interface SentClientEvent {
  /** Id of the app. */
  app: string;
  /** The channel, private or presence, which the sender is subscribed to. */
  channel: string;
  /** The name of the event, which begins with `client-`. */
  event: string;
  /**
   * Its data as subscribers see it: JSON is parsed. A client may send anything, so
   * check it whatever `Events` declares. On `private-encrypted-` channels it is
   * what the client has encrypted, and the server cannot see what that is.
   */
  data: unknown;
  /** The sender's connection. */
  socketId: string;
  /**
   * The sender: on a presence channel the member that it has joined as, elsewhere
   * the user that it has signed in as.
   */
  userId?: string;
  /** As {@linkcode AuthorizeContext.signal}. */
  signal: AbortSignal;
}

/** The data of all client events that `Events` declares. */
export type ClientEventData<Events> = {
  [C in ChannelName<Events>]: {
    [N in EventName<Events, C>]: string extends N ? Events[C][N]
      : N extends `client-${string}` ? Events[C][N]
      : never;
  }[EventName<Events, C>];
}[ChannelName<Events>];

/**
 * Decides what becomes of a client event, before anybody gets it:
 *
 * - `true` relays it as it is, and `{ data }` with other data.
 * - `false`, or a text that says why, refuses it: the sender gets `pusher:error`
 *   4301.
 * - `null` drops it, and the sender hears nothing.
 *
 * Any other answer refuses the event and is an error, as an exception is.
 */
export type ReviewClientEvent<Events = AnyEvents> = (
  event: SentClientEvent,
) => Awaitable<boolean | string | null | { data: ClientEventData<Events> }>;

/**
 * Encrypts events that the program triggers on `private-encrypted-` channels; see
 * `@glitz/pusher/encryption`.
 */
export interface Encryption {
  /** The event data that goes on the wire for data as JSON text. */
  encrypt(channel: string, json: string): string;
  /** The key with which clients of a channel decrypt, in base64. */
  sharedSecret(channel: string): string;
}

// ---- Lifecycle events -------------------------------------------------------

/** What every lifecycle event has. */
export interface AppEvent {
  /** Id of the app. */
  app: string;
}

/** A lifecycle event of one connection. */
export interface ConnectionEvent extends AppEvent {
  /** The connection. */
  socketId: string;
}

/** A connection is gone. */
export interface DisconnectedEvent extends ConnectionEvent {
  /** The WebSocket close code; 1006 for a connection that was lost. */
  code: number;
}

/** A lifecycle event of one channel. */
export interface ChannelEvent extends AppEvent {
  /** The channel. */
  channel: string;
}

/** A lifecycle event of one member of a presence channel. */
export interface MemberEvent extends ChannelEvent {
  /** The user. */
  userId: string;
}

/** An event that the program or the HTTP API published to one channel. */
export interface PublishedEvent extends ChannelEvent {
  /** The name of the event. */
  event: string;
  /** Its data as a string. */
  data: string;
  /** The connection that was left out. */
  socketId?: string;
}

/** How many are subscribed to a channel now. */
export interface SubscriptionCountEvent extends ChannelEvent {
  /** Connections subscribed. */
  subscriptionCount: number;
}

/** An event that one client sent to the others. */
export interface ClientEvent extends ChannelEvent {
  /** The name of the event. */
  event: string;
  /** Its data as relayed, if it has any. */
  data?: string;
  /** The sender. */
  socketId: string;
  /** The sender's user, on presence channels. */
  userId?: string;
}

/** A function of the program, the backplane or the opening of a socket failed. */
export interface ErrorEvent {
  /** Id of the app, where one is concerned. */
  app?: string;
  /** What was thrown. */
  error: unknown;
  /** What the server was doing. */
  during: string;
}

/** A connection's subscription to a channel. */
export interface SubscriptionEvent extends ChannelEvent {
  /** The connection. */
  socketId: string;
  /** Its user, on presence channels. */
  userId?: string;
}

/** A client that was there before has subscribed again. */
export interface RecoveredEvent extends ChannelEvent {
  /** Its connection. */
  socketId: string;
  /** Whether it gets all messages that it has missed. */
  recovered: boolean;
}

/** Something that a client or a backend asked for was refused. */
export interface RefusedEvent {
  /** Id of the app, where it is known. */
  app?: string;
  /** What was asked for; `request` is an HTTP request. */
  what: "connection" | "subscription" | "signin" | "client_event" | "request";
  /** Why it was refused, in the words that the client gets. */
  reason: string;
  /** The close code, error code or HTTP status that says the same. */
  code: number;
  /** The connection, where there is one. */
  socketId?: string | undefined;
  /** The channel, where one was named. */
  channel?: string | undefined;
}

/** The backplane has become reachable or unreachable. */
export interface BackplaneEvent {
  /** Always absent: the backplane is that of all apps. */
  app?: undefined;
  /** Whether it can be reached. */
  up: boolean;
  /** Why it cannot. */
  error?: unknown;
}

/** Lifecycle events, by the name that {@linkcode Pusher.on} takes. */
export interface Hooks {
  /** A connection was established. */
  connected: ConnectionEvent;
  /** A connection is gone, and out of all of its channels. */
  disconnected: DisconnectedEvent;
  /** A channel got its first subscriber. */
  channel_occupied: ChannelEvent;
  /** A channel lost its last subscriber. */
  channel_vacated: ChannelEvent;
  /** A user's first connection joined a presence channel. */
  member_added: MemberEvent;
  /** A user's last connection left a presence channel. */
  member_removed: MemberEvent;
  /** A connection was subscribed to a channel. */
  subscribed: SubscriptionEvent;
  /** A connection left a channel, or is gone. */
  unsubscribed: SubscriptionEvent;
  /** A client that was there before has subscribed again, and can recover. */
  recovered: RecoveredEvent;
  /** A connection, a subscription, a sign-in, a client event or a request was refused. */
  refused: RefusedEvent;
  /** The backplane went up or down; see {@linkcode Stats.ready}. */
  backplane: BackplaneEvent;
  /** A client sent an event, and it was relayed. */
  client_event: ClientEvent;
  /** The program or the HTTP API published an event: once per channel. */
  published: PublishedEvent;
  /** A client subscribed to a cache channel that had no last event. */
  cache_miss: ChannelEvent;
  /**
   * The number of subscribers changed, where `subscriptionCounts` is on: at most
   * once in five seconds while there are more than a hundred.
   */
  subscription_count: SubscriptionCountEvent;
  /**
   * A listener, `authorize`, an origin rule or the backplane failed, or a socket did
   * not open. The error is printed while no listener hears it.
   */
  error: ErrorEvent;
}
