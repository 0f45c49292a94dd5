/**
 * A Pusher Channels server that lives inside your own Deno program.
 *
 * The same handler speaks the whole WebSocket protocol (version 7) and the HTTP
 * API, so unmodified `pusher-js`, Laravel Echo and every official server SDK
 * work against it, and it serves its own small browser client, already
 * configured, at `/pusher.js`.
 *
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 *
 * await using server = Deno.serve(
 *   { port: 0 },
 *   Pusher.cascade(Pusher.handler, () => new Response("my own program")),
 * );
 * await Pusher.trigger("messages", "create", { text: "hello" });
 *
 * const script = await fetch(`http://localhost:${server.addr.port}/pusher.js`);
 * console.assert((await script.text()).includes("pusher"));
 * ```
 *
 * What is promised:
 * - A request that is not ours is answered 404 with its body unread, so the
 *   handler can stand first in a cascade.
 * - Events of one channel reach every subscriber in the order in which they
 *   were published.
 * - Bad input is answered on the connection or request that brought it. It never
 *   throws out of the handler and no other connection notices.
 * - Every size, count, rate and queue that a peer can grow has a limit, see
 *   {@linkcode Limits}.
 * - A client that loses its connection gets what it has missed when it comes
 *   back: exactly once with our own client, at least once with a stock one that
 *   names a session, see {@linkcode PusherOptions.history}. Whatever is past the
 *   bounds of that is told to the client as `pusher:recovery_failed`.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { setImmediate } from "node:timers";
import {
  CLIENT_BUNDLE,
  CLIENT_ETAG,
  CLIENT_FALLBACK_BUNDLE,
  CLIENT_FALLBACK_ETAG,
} from "./client_bundle.ts";
import {
  type Backplane,
  DEFAULT_HISTORY,
  type History,
  type JoiningMember,
  type JoinResult,
  type KnownMember,
  type LogRequest,
  type Message,
  type Peer,
  type Replay,
  type Transport,
} from "./core/backplane.ts";
import type {
  AnyEvents,
  Authenticate,
  Authorize,
  AuthorizeContext,
  BatchEvent,
  ChannelAuth,
  ChannelCounts,
  ChannelDescription,
  ChannelInfoName,
  ChannelName,
  ChannelsFilter,
  Encryption,
  EventData,
  EventName,
  InfoName,
  Member,
  MemberOf,
  PublishResult,
  TriggerParams,
  TriggerResponse,
  UserAuth,
  UserData,
} from "./core/calls.ts";
import { HookQueue, type Hooks } from "./core/hooks.ts";
import {
  compileOrigins,
  corsHeaders,
  decodeUtf8,
  escapeUnit,
  lowerCaseNames,
  notFound,
  type OriginCheck,
  type OriginVerdict,
  readBody,
  refuse,
  refuseMethod,
  serveScript,
} from "./core/http.ts";
import {
  accepted,
  DEFAULT_LIMITS,
  exceedsBytes,
  isRefusal,
  type Limits,
  overLimit,
  quote,
  Refusal,
} from "./core/limits.ts";
import { Liveness, type Watched } from "./core/liveness.ts";
import { MemoryBackplane, NO_MEMBERS } from "./core/memory_backplane.ts";
import {
  type AppOptions,
  checkOptions,
  defaultApp,
  type PusherOptions,
  readEnvironment,
} from "./core/options.ts";
import {
  type Batch,
  Delivery,
  deliveryOf,
  EMPTY_BATCH,
  ReplayQueue,
} from "./core/outbox.ts";
import {
  type ChannelKind,
  checkVersion,
  CLIENT_EVENT_PREFIX,
  CLOSE,
  type Close,
  decodeData,
  decodeFrame,
  encodeError,
  encodeFrame,
  encodeMessage,
  encodeSubscribed,
  encodeWatchlist,
  ERROR,
  type Frame,
  INBOUND,
  isObject,
  isOwnChannel,
  isSocketId,
  memberAdded,
  memberRemoved,
  OUTBOUND,
  OWN_CHANNEL,
  parseChannelName,
  parseJson,
  PING_FRAME,
  PONG_FRAME,
  REFUSAL,
  type ReplayFields,
  transitionOf,
} from "./core/protocol.ts";
import {
  type Extensions,
  hasGap,
  NO_WISHES,
  readCount,
  readExtensions,
  readPosition,
  type Resumable,
  type Session,
  SESSION_ID,
  SESSION_PREFIX,
  Sessions,
} from "./core/sessions.ts";
import {
  channelText,
  decodePart,
  equalsInConstantTime,
  hmac,
  requestTexts,
  userText,
  Webhook,
  type WebhookRequest,
} from "./core/signatures.ts";
import {
  all,
  attempt,
  type Awaitable,
  chain,
  MAX_TIMER_MS,
  TokenBucket,
} from "./core/time.ts";
import {
  checkChannelInfo,
  checkChannelName,
  checkEventData,
  checkEventName,
  checkListInfo,
  checkMember,
  checkPresenceName,
  checkSocketId,
  checkUser,
  checkUserId,
  checkUserInfoSize,
  countsOf,
  type KnownUser,
  parseBatch,
  parsePublish,
  type Publish,
} from "./core/validation.ts";
export type {
  Announcement,
  Backplane,
  BackplaneNode,
  CachedMessage,
  History,
  JoiningMember,
  JoinOptions,
  JoinResult,
  LeaveOptions,
  LeaveResult,
  LeavingMember,
  LoggedMessage,
  LogRequest,
  Message,
  Occupancy,
  Peer,
  Position,
  Replay,
  Transport,
} from "./core/backplane.ts";
export type {
  AnyEvents,
  Authenticate,
  AuthenticateContext,
  Authorize,
  AuthorizeContext,
  BatchEvent,
  ChannelAuth,
  ChannelCounts,
  ChannelDescription,
  ChannelName,
  ChannelsFilter,
  DeclaredUserInfo,
  Encryption,
  EventData,
  EventName,
  Member,
  MemberOf,
  PublishResult,
  TriggerParams,
  TriggerResponse,
  UserAuth,
  UserData,
} from "./core/calls.ts";
export type {
  AppEvent,
  ChannelEvent,
  ClientEvent,
  ConnectionEvent,
  DisconnectedEvent,
  ErrorEvent,
  Hooks,
  MemberEvent,
  PublishedEvent,
  SubscriptionCountEvent,
} from "./core/hooks.ts";
export type { OriginRule } from "./core/http.ts";
export type { Limits } from "./core/limits.ts";
export { MemoryBackplane } from "./core/memory_backplane.ts";
export type { AppOptions, PusherOptions } from "./core/options.ts";
export {
  type Credentials,
  Webhook,
  type WebhookData,
  type WebhookEvent,
  type WebhookRequest,
} from "./core/signatures.ts";
export type { Awaitable } from "./core/time.ts";

/** A request handler; one that answers `undefined` or `null` passes. */
export type Handler = (
  request: Request,
  // deno-lint-ignore no-explicit-any -- handlers differ in what they ask of `info`, and it is only passed on
  info: any,
) => Awaitable<Response | null | undefined>;

// ---- Pusher -----------------------------------------------------------------
// The public face: it checks what the program says and hands it on. A Pusher
// looks at one app of a Server.

/**
 * A Pusher server, or the view of one of its apps.
 *
 * The same members exist as statics on one default instance, which is made on
 * first use and reads `PUSHER_APP_ID`, `PUSHER_APP_KEY`, `PUSHER_APP_SECRET` and
 * `PUSHER_PATH` where reading the environment is permitted already.
 *
 * @example Private channels, answered in the same program
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { assertEquals } from "@std/assert";
 *
 * await using pusher = new Pusher({
 *   authorize: (request, { channel }) =>
 *     channel === "private-news" && request.headers.has("cookie"),
 * });
 *
 * const response = await pusher.handler(
 *   new Request("http://localhost/pusher/auth", {
 *     method: "POST",
 *     headers: { cookie: "session=1" },
 *     body: new URLSearchParams({
 *       socket_id: "123.456",
 *       channel_name: "private-news",
 *     }),
 *   }),
 * );
 * assertEquals(response.status, 200);
 * ```
 *
 * @example Typed channels
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 *
 * type Events = {
 *   messages: { create: { text: string } };
 *   [channel: `private-user-${string}`]: { paid: { order: number } };
 * };
 * await using pusher = new Pusher<Events>();
 * await pusher.trigger("messages", "create", { text: "hello" });
 * await pusher.trigger("private-user-7", "paid", { order: 1 });
 * ```
 *
 * @typeParam Events Channel to event to data; without it everything is allowed.
 */
export class Pusher<Events extends object = AnyEvents> {
  static #default: Pusher | undefined;
  #app: App;
  /** The app whose hooks are heard, or null for all. */
  #hears: string | null = null;

  /**
   * Answers what belongs to Pusher, and everything else with 404 and its body
   * unread. It may be passed around without its object.
   */
  readonly handler: (
    request: Request,
    info?: Deno.ServeHandlerInfo,
  ) => Awaitable<Response>;

  /**
   * Makes a server. It takes up nothing until the first request.
   *
   * @param options See {@linkcode PusherOptions}; checked at once.
   * @throws {TypeError} If an option is unknown or of the wrong kind.
   * @throws {RangeError} If a figure is outside its range.
   */
  constructor(options?: PusherOptions<Events>);
  // `app()` passes an app of a server that is there already.
  constructor(options: PusherOptions<Events> | App = {}) {
    if (options instanceof App) {
      this.#app = options;
      this.#hears = options.id;
    } else {
      // What `authorize` answers is checked as it comes, whatever `Events` says.
      const untyped = options as unknown as PusherOptions;
      this.#app = new Server(untyped).defaultApp;
    }
    this.handler = (request) => this.#app.server.handle(request);
  }

  /** The prefix of every route, see {@linkcode PusherOptions.path}. */
  get path(): string {
    return this.#app.server.path;
  }

  /**
   * One handler out of several: the first answer that is not 404 wins, and if
   * there is none the last one is given.
   *
   * @param handlers Asked in order.
   * @returns A handler for `Deno.serve`.
   */
  cascade(
    ...handlers: Handler[]
  ): (request: Request, info?: Deno.ServeHandlerInfo) => Promise<Response> {
    return cascade(handlers);
  }

  /**
   * Publishes an event.
   *
   * @param channels One channel or several.
   * @param event The name of the event.
   * @param data A string as it is, anything else as JSON.
   * @param params Who is left out, and what to be told.
   * @returns Resolves once the event is accepted, which does not wait for
   * clients; rejects if the backplane fails. It need not be awaited: a failure
   * goes to the `error` listeners as well.
   * @throws {TypeError} At once, if an argument is of the wrong kind.
   * @throws {RangeError} At once, if a limit is passed.
   */
  trigger<C extends ChannelName<Events>, N extends EventName<Events, C>>(
    channels: C | readonly C[],
    event: N,
    data: EventData<Events, C, N>,
    params: TriggerParams = {},
  ): Promise<TriggerResponse> {
    const list = typeof channels === "string" ? [channels] : channels;
    const fields = { ...params, channels: list, name: event, data };
    const publish = accepted(
      parsePublish(encrypted(fields, this.#app), this.#app.limits),
      `Cannot trigger "${event}"`,
    );
    return respond(this.#app, this.#app.server.publish(this.#app, publish));
  }

  /**
   * Publishes up to ten events in order. If one is refused, none is published.
   *
   * @param batch The events.
   * @returns As {@linkcode trigger}.
   * @throws {TypeError} At once, if an item is of the wrong kind.
   * @throws {RangeError} At once, if a limit is passed.
   */
  triggerBatch(
    batch: readonly BatchEvent<Events>[],
  ): Promise<TriggerResponse> {
    const fields = Array.isArray(batch)
      ? batch.map((item) => encrypted(item, this.#app))
      : batch;
    const publishes = accepted(
      parseBatch(fields, this.#app.limits),
      "Cannot trigger a batch",
    );
    return respond(
      this.#app,
      this.#app.server.publishBatch(this.#app, publishes),
    );
  }

  /**
   * Publishes an event to every connection that is signed in as a user.
   *
   * @param userId The user.
   * @param event The name of the event.
   * @param data A string as it is, anything else as JSON.
   * @returns As {@linkcode trigger}.
   * @throws {TypeError} At once, if an argument is of the wrong kind.
   * @throws {RangeError} At once, if a limit is passed.
   */
  sendToUser(
    userId: string,
    event: string,
    data: unknown,
  ): Promise<TriggerResponse> {
    const what = `Cannot send "${event}" to a user`;
    const id = accepted(checkUserId(userId, this.#app.limits), what);
    const channels = [OWN_CHANNEL.User + id];
    const publish = accepted(
      parsePublish({ channels, name: event, data }, this.#app.limits),
      what,
    );
    return respond(this.#app, this.#app.server.publish(this.#app, publish));
  }

  /**
   * Closes every connection that is signed in as a user, for good: clients do
   * not come back by themselves.
   *
   * @param userId The user; one who is not there is fine.
   * @returns As {@linkcode trigger}.
   * @throws {TypeError} At once, if it is not a user id.
   */
  terminateUserConnections(userId: string): Promise<TriggerResponse> {
    const id = accepted(
      checkUserId(userId, this.#app.limits),
      "Cannot terminate connections",
    );
    return respond(this.#app, this.#app.server.terminate(this.#app, id));
  }

  /**
   * Signs who a user is, for programs with an auth endpoint of their own.
   *
   * @param socketId The client's connection.
   * @param user Who signs in.
   * @returns What the client expects as JSON.
   * @throws {TypeError} If the socket id or the user is not valid.
   */
  authenticateUser(socketId: string, user: UserData): UserAuth {
    const what = "Cannot authenticate a user";
    accepted(checkSocketId(socketId), what);
    accepted(checkUser(user, this.#app.limits), what);
    return this.#app.authenticate(socketId, user);
  }

  /**
   * Signs a permission to subscribe, for programs with an auth endpoint of their
   * own.
   *
   * @param socketId The client's connection.
   * @param channel The channel.
   * @param member Who joins, on presence channels.
   * @returns What the client expects as JSON.
   * @throws {TypeError} If the socket id, the channel or the member is not valid.
   *
   * @example
   * ```ts
   * import { Pusher } from "@glitz/pusher";
   * import { assertEquals } from "@std/assert";
   *
   * const pusher = new Pusher({ key: "key", secret: "secret" });
   * const { auth } = pusher.authorizeChannel("123.456", "private-news");
   * assertEquals(auth.split(":")[0], "key");
   * ```
   */
  authorizeChannel<C extends string>(
    socketId: string,
    channel: C,
    member?: MemberOf<Events, string extends C ? ChannelName<Events> : C>,
  ): ChannelAuth {
    const { limits } = this.#app;
    const what = `Cannot authorize ${quote(channel)}`;
    accepted(checkSocketId(socketId), what);
    const kind = accepted(checkChannelName(channel, limits), what);
    // A client that has signed in may join a presence channel as who it is.
    if (kind.presence && member !== undefined) {
      accepted(checkMember(member, limits), what);
    }
    return this.#app.authorize(socketId, channel, member);
  }

  /**
   * Reads a webhook that some Pusher server sent to this program.
   *
   * @param request Its headers, names in lower case or a `Headers`, and its body
   * as the text that came.
   * @returns The webhook, to be trusted only if `isValid()`.
   *
   * @example
   * ```ts ignore
   * const webhook = pusher.webhook({
   *   headers: request.headers,
   *   rawBody: await request.text(),
   * });
   * if (!webhook.isValid()) return new Response(null, { status: 401 });
   * for (const event of webhook.getEvents()) console.log(event.name);
   * ```
   */
  webhook(request: WebhookRequest): Webhook {
    return new Webhook(this.#app, request);
  }

  /**
   * Lists the channels that somebody is subscribed to.
   *
   * @param filter Which, and what to say of each.
   * @returns The body of `GET /apps/{id}/channels`.
   * @throws {TypeError} If the filter is not valid.
   */
  async channels(
    filter: ChannelsFilter = {},
  ): Promise<{ channels: Record<string, ChannelCounts> }> {
    return await this.#app.server.listChannels(
      this.#app,
      filter.filter_by_prefix ?? "",
      accepted(
        checkListInfo(filter.filter_by_prefix ?? "", filter.info),
        "Cannot list channels",
      ),
    );
  }

  /**
   * Says whether anybody is subscribed to a channel, and how many.
   *
   * @param name The channel.
   * @param params `info`: comma list of `subscription_count`, `user_count` and
   * `cache`.
   * @returns The body of `GET /apps/{id}/channels/{name}`.
   * @throws {TypeError} If the name or the info is not valid.
   */
  async channel(
    name: string,
    params: { info?: string } = {},
  ): Promise<ChannelDescription> {
    const what = `Cannot look up channel ${quote(name)}`;
    const kind = accepted(checkChannelName(name, this.#app.limits), what);
    return await this.#app.server.describeChannel(
      this.#app,
      name,
      accepted(checkChannelInfo(kind, params.info), what),
    );
  }

  /**
   * Lists the distinct users on a presence channel.
   *
   * @param name The channel.
   * @returns The body of `GET /apps/{id}/channels/{name}/users`.
   * @throws {TypeError} If it is not a presence channel.
   */
  async users(name: string): Promise<{ users: { id: string }[] }> {
    accepted(
      checkPresenceName(name, this.#app.limits),
      `Cannot list users of ${quote(name)}`,
    );
    return await this.#app.server.listUsers(this.#app, name);
  }

  /**
   * Listens to the server's life. Listeners run after the change, in order, in a
   * microtask of their own: one that throws, rejects or is slow harms nobody,
   * and what it throws goes to the `error` listeners.
   *
   * With several apps, the main instance hears all of them and the view of one
   * app hears that one; `event.app` tells which.
   *
   * @param name See {@linkcode Hooks}.
   * @param listener Called with the event.
   * @returns Stops listening.
   */
  on<Name extends keyof Hooks>(
    name: Name,
    listener: (event: Hooks[Name]) => unknown,
  ): () => void {
    return this.#app.server.hooks.add(name, listener, this.#hears);
  }

  /**
   * The same server, seen from another one of its apps: `trigger`, queries,
   * signatures and hooks are that app's.
   *
   * @param id The app's id.
   * @returns A view that shares everything else.
   * @throws {RangeError} If there is no such app.
   */
  app<Others extends object = AnyEvents>(id: string): Pusher<Others> {
    const app = this.#app.server.appsById.get(id);
    if (app === undefined) {
      throw new RangeError(`Cannot find app ${quote(id)}: no app has that id`);
    }
    // The constructor's second, private form.
    return new Pusher<Others>(app as unknown as PusherOptions<Others>);
  }

  /**
   * Connects a client over a transport that is ready to send. Sockets need no
   * such call, {@linkcode handler} opens them.
   *
   * @param transport Where frames go.
   * @param key The app key that the client named.
   * @param request The request that asked for the connection: its query says the
   * protocol version, its headers the origin.
   * @returns Where the client's frames go. A refused client has been told and
   * closed already.
   */
  open(transport: Transport, key: string, request: Request): Peer {
    return this.#app.server.open(
      transport,
      this.#app.server.admit(key, request),
    );
  }

  /**
   * Goes away in good order: refuses new sockets, closes the ones there are with
   * 4200, so that clients reconnect elsewhere, an even share per tenth of a
   * second, and lets go of the backplane. Stop the HTTP server afterwards. A
   * view of one app closes the whole server, too.
   *
   * @param options `over`: milliseconds to spread the closes over, so that the
   * clients do not all come back at once. 0 by default.
   * @returns Resolves when the clients are gone, or have had a second to go.
   * @throws {RangeError} At once, if `over` is not a duration.
   */
  close(options: { over?: number } = {}): Promise<void> {
    const over = options.over ?? 0;
    if (!(over >= 0 && over <= MAX_TIMER_MS)) {
      throw new RangeError(
        `Cannot close: over is ${
          quote(over)
        }, and must be from 0 to ${MAX_TIMER_MS} milliseconds`,
      );
    }
    return this.#app.server.close(over);
  }

  /** Closes at once, see {@linkcode close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  static get #instance(): Pusher {
    return Pusher.#default ??= new Pusher(readEnvironment());
  }

  /** {@linkcode Pusher.path} of the default instance. */
  static get path(): string {
    return Pusher.#instance.path;
  }

  /** {@linkcode Pusher.open} of the default instance. */
  static open(transport: Transport, key: string, request: Request): Peer {
    return Pusher.#instance.open(transport, key, request);
  }

  /** {@linkcode Pusher.handler} of the default instance. */
  static get handler(): Pusher["handler"] {
    return Pusher.#instance.handler;
  }

  /** See {@linkcode Pusher.cascade}; it concerns no instance. */
  static cascade(
    ...handlers: Handler[]
  ): (request: Request, info?: Deno.ServeHandlerInfo) => Promise<Response> {
    return cascade(handlers);
  }

  /** {@linkcode Pusher.trigger} of the default instance. */
  static trigger(
    channels: string | readonly string[],
    event: string,
    data: unknown,
    params?: TriggerParams,
  ): Promise<TriggerResponse> {
    return Pusher.#instance.trigger(channels, event, data, params);
  }

  /** {@linkcode Pusher.triggerBatch} of the default instance. */
  static triggerBatch(
    batch: readonly BatchEvent<AnyEvents>[],
  ): Promise<TriggerResponse> {
    return Pusher.#instance.triggerBatch(batch);
  }

  /** {@linkcode Pusher.sendToUser} of the default instance. */
  static sendToUser(
    userId: string,
    event: string,
    data: unknown,
  ): Promise<TriggerResponse> {
    return Pusher.#instance.sendToUser(userId, event, data);
  }

  /** {@linkcode Pusher.terminateUserConnections} of the default instance. */
  static terminateUserConnections(userId: string): Promise<TriggerResponse> {
    return Pusher.#instance.terminateUserConnections(userId);
  }

  /** {@linkcode Pusher.authenticateUser} of the default instance. */
  static authenticateUser(socketId: string, user: UserData): UserAuth {
    return Pusher.#instance.authenticateUser(socketId, user);
  }

  /** {@linkcode Pusher.authorizeChannel} of the default instance. */
  static authorizeChannel(
    socketId: string,
    channel: string,
    member?: Member,
  ): ChannelAuth {
    return Pusher.#instance.authorizeChannel(socketId, channel, member);
  }

  /** {@linkcode Pusher.webhook} of the default instance. */
  static webhook(request: WebhookRequest): Webhook {
    return Pusher.#instance.webhook(request);
  }

  /** {@linkcode Pusher.channels} of the default instance. */
  static channels(
    filter?: ChannelsFilter,
  ): Promise<{ channels: Record<string, ChannelCounts> }> {
    return Pusher.#instance.channels(filter);
  }

  /** {@linkcode Pusher.channel} of the default instance. */
  static channel(
    name: string,
    params?: { info?: string },
  ): Promise<ChannelDescription> {
    return Pusher.#instance.channel(name, params);
  }

  /** {@linkcode Pusher.users} of the default instance. */
  static users(name: string): Promise<{ users: { id: string }[] }> {
    return Pusher.#instance.users(name);
  }

  /** {@linkcode Pusher.on} of the default instance. */
  static on<Name extends keyof Hooks>(
    name: Name,
    listener: (event: Hooks[Name]) => unknown,
  ): () => void {
    return Pusher.#instance.on(name, listener);
  }

  /**
   * {@linkcode Pusher.close} of the default instance. The next use of a static
   * member makes a new one.
   */
  static close(options?: { over?: number }): Promise<void> {
    const instance = Pusher.#default;
    Pusher.#default = undefined;
    return instance?.close(options) ?? Promise.resolve();
  }
}

/**
 * The fields of an event that the program triggers, encrypted where its channel
 * promises that. What would go out in the clear is a mistake to be told of.
 */
function encrypted(
  fields: Record<string, unknown>,
  app: App,
): Record<string, unknown> {
  const channels = [fields.channels ?? fields.channel].flat();
  const channel = channels.find((name): name is string =>
    typeof name === "string" && parseChannelName(name)?.encrypted === true
  );
  if (channel === undefined) return fields;
  const what = `Cannot trigger ${quote(fields.name)} on "${channel}"`;
  if (app.encryption === undefined) {
    throw new TypeError(
      `${what}: its data must be encrypted, and there is no encryption option`,
    );
  }
  if (channels.length > 1) {
    throw new TypeError(
      `${what}: an event for an encrypted channel is for that channel alone`,
    );
  }
  const json = JSON.stringify(fields.data);
  // What is missing is refused later on.
  if (json === undefined) return fields;
  return { ...fields, data: app.encryption.encrypt(channel, json) };
}

/** Makes the answer of a publish out of the body that the API would send. */
function respond(
  app: App,
  result: Awaitable<PublishResult>,
): Promise<TriggerResponse> {
  const response = Promise.resolve(result).then(
    (body): TriggerResponse => ({
      ok: true,
      status: 200,
      json: () => Promise.resolve(body),
      text: () => Promise.resolve(JSON.stringify(body)),
    }),
  );
  // Nobody has to wait for it, so a failure must not end the program; whoever
  // does wait is told, too.
  response.catch((error) =>
    app.server.hooks.fail(error, "publishing an event", app.id)
  );
  return response;
}

/** See {@linkcode Pusher.cascade}. */
function cascade(
  handlers: Handler[],
): (request: Request, info?: Deno.ServeHandlerInfo) => Promise<Response> {
  return async (request, info) => {
    let last: Response | null = null;
    for (const handler of handlers) {
      const response = await handler(request, info);
      if (response === null || response === undefined) continue;
      // A body that nobody will read must not be kept waiting.
      await last?.body?.cancel();
      last = response;
      if (response.status !== 404) return response;
    }
    return last ?? notFound();
  };
}

// ---- HTTP: routes --------------------------------------------------------
// Which request is whose, the upgrade to a WebSocket, and the client that is
// served to browsers.

/** Answers a request, or says with 404 that it is not ours. */
function route(server: Server, request: Request): Awaitable<Response> {
  // The host in it is the client's word, and may be none.
  const url = URL.parse(request.url);
  if (url === null || !url.pathname.startsWith(`${server.path}/`)) {
    return notFound();
  }
  const path = url.pathname.slice(server.path.length);
  const [, first, second, ...rest] = path.split("/");
  if (first === "app" && second && rest.length === 0) {
    return serveSocket(server, request, decodePart(second));
  }
  // The session itself is read where the connection is opened.
  if (first === SESSION_PREFIX && second && SESSION_ID.test(second)) {
    const [app, key, ...more] = rest;
    if (app === "app" && key && more.length === 0) {
      return serveSocket(server, request, decodePart(key));
    }
  }
  if (first === "apps" && second) {
    return serveApi(server, request, url, decodePart(second), rest);
  }
  if (path === "/pusher/auth" && server.authorize !== undefined) {
    return serveAuth(server, server.authorize, request);
  }
  if (path === "/pusher/user-auth" && server.authenticate !== undefined) {
    return serveUserAuth(server, server.authenticate, request);
  }
  if (path === "/pusher.js" || path === "/pusher.mjs") {
    return serveClient(server, request, url, path === "/pusher.mjs");
  }
  if (path === "/pusher-fallback.mjs") {
    return serveScript(request, CLIENT_FALLBACK_BUNDLE, CLIENT_FALLBACK_ETAG);
  }
  return notFound();
}

/** `GET /app/{key}`: upgrades to a WebSocket. */
function serveSocket(
  server: Server,
  request: Request,
  key: string | null,
): Response {
  if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
    const known = key !== null && server.appsByKey.has(key);
    return known && request.method === "GET"
      ? refuse(REFUSAL.UpgradeRequired, { upgrade: "websocket" })
      : notFound();
  }
  const admission = server.admit(key ?? "", request);
  if (server.isOverrun(admission)) return refuse(REFUSAL.OverCapacity);
  let upgraded;
  try {
    // One mechanism decides on liveness, and it is not the runtime's.
    upgraded = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
  } catch {
    return refuse(REFUSAL.BadUpgrade);
  }
  const socket: PusherSocket = upgraded.socket;
  socket[ADMITTED] = { server, admission };
  socket.addEventListener("open", socketOnOpen);
  return upgraded.response;
}

const ADMITTED = Symbol("admitted");

const PEER = Symbol("peer");

/** A socket knows its connection, so that all sockets share their listeners. */
interface PusherSocket extends WebSocket {
  [ADMITTED]?: { server: Server; admission: Admission };
  [PEER]?: Peer;
}

function socketOnOpen(this: PusherSocket): void {
  const admitted = this[ADMITTED];
  if (admitted === undefined) return;
  delete this[ADMITTED];
  this.addEventListener("message", socketOnMessage);
  this.addEventListener("close", socketOnClose);
  this[PEER] = admitted.server.open(this, admitted.admission);
}

function socketOnMessage(this: PusherSocket, event: MessageEvent): void {
  this[PEER]?.receive(event.data);
}

function socketOnClose(this: PusherSocket, event: CloseEvent): void {
  this[PEER]?.closed(event.code || 1006);
}

/** `GET /pusher.js` and `/pusher.mjs`: the client, ready to use. */
function serveClient(
  server: Server,
  request: Request,
  url: URL,
  asModule: boolean,
): Response {
  const config = {
    key: server.defaultApp.key,
    host: url.host,
    path: server.path,
  };
  // The host is the sender's word: nothing of it may end the string or a tag.
  const json = JSON.stringify(config).replace(/[<>\u2028\u2029]/g, escapeUnit);
  const script = asModule
    ? `${CLIENT_BUNDLE}export{Pusher,Pusher as default};export const pusher=preset(${json},import.meta.url);`
    : `(()=>{${CLIENT_BUNDLE}globalThis.Pusher=Pusher;globalThis.pusher=preset(${json},globalThis.document?.currentScript?.src)})();`;
  const variant = createHash("sha256").update(`${asModule}${json}`)
    .digest("hex").slice(0, 16);
  return serveScript(request, script, `${CLIENT_ETAG}-${variant}`);
}

// ---- HTTP: API -----------------------------------------------------------
// What backends call. A request is judged in a fixed order: route, app, key,
// version, time, signature, size, digest, JSON. The signature covers the digest
// of the body, so a body is read only for somebody who knows the secret.

/** An authenticated call. */
interface ApiCall {
  readonly server: Server;
  readonly app: App;
  /** The second part of the route: a channel's name or a user's id. */
  readonly name: string;
  /** Names in lower case. */
  readonly query: URLSearchParams;
  readonly body: Record<string, unknown>;
}

interface ApiRoute {
  readonly method: "GET" | "POST";
  readonly serve: (call: ApiCall) => Awaitable<object | Refusal>;
}

/** Routes below `/apps/{id}/`; `*` stands for a name. */
const API_ROUTES: ReadonlyMap<string, ApiRoute> = new Map<string, ApiRoute>([
  ["events", { method: "POST", serve: serveEvents }],
  ["batch_events", { method: "POST", serve: serveBatchEvents }],
  ["channels", { method: "GET", serve: serveChannels }],
  ["channels/*", { method: "GET", serve: serveChannel }],
  ["channels/*/users", { method: "GET", serve: serveUsers }],
  ["users/*/terminate_connections", { method: "POST", serve: serveTerminate }],
]);

/** Answers a request below `/apps/`. */
async function serveApi(
  server: Server,
  request: Request,
  url: URL,
  appId: string | null,
  rest: string[],
): Promise<Response> {
  const pattern = rest.map((part, i) => i === 1 ? "*" : part).join("/");
  const apiRoute = API_ROUTES.get(pattern);
  const app = server.appsById.get(appId ?? "");
  if (apiRoute === undefined) return refuse(REFUSAL.UnknownRoute);
  if (app === undefined) return refuse(REFUSAL.UnknownApp);
  if (request.method !== apiRoute.method) {
    return refuseMethod(apiRoute.method);
  }
  if (server.closed) return refuse(REFUSAL.ShuttingDown);
  if (!app.enabled) return refuse(REFUSAL.AppDisabled);
  const query = lowerCaseNames(url.searchParams);
  const unsigned = checkRequestSignature(app, request.method, url, query);
  if (unsigned !== null) return refuse(unsigned);
  const body = await readApiBody(app, request, query);
  if (isRefusal(body)) return refuse(body);
  const name = decodePart(rest[1] ?? "");
  if (name === null) return refuse(REFUSAL.BadPath);
  try {
    const answer = await apiRoute.serve({ server, app, name, query, body });
    return isRefusal(answer) ? refuse(answer) : Response.json(answer);
  } catch (error) {
    server.hooks.fail(error, `serving ${request.method} ${pattern}`, app.id);
    return refuse(REFUSAL.Unavailable);
  }
}

/** `POST /apps/{id}/events`: publishes to one channel or several. */
function serveEvents({ server, app, body }: ApiCall): Awaitable<object> {
  const publish = parsePublish(body, app.limits);
  return isRefusal(publish) ? publish : server.publish(app, publish);
}

/** `POST /apps/{id}/batch_events`: publishes all of several events or none. */
function serveBatchEvents({ server, app, body }: ApiCall): Awaitable<object> {
  const publishes = parseBatch(body.batch, app.limits);
  if (isRefusal(publishes)) return publishes;
  return server.publishBatch(app, publishes);
}

/** `GET /apps/{id}/channels`: the channels that somebody is on. */
function serveChannels({ server, app, query }: ApiCall): Awaitable<object> {
  const prefix = query.get("filter_by_prefix") ?? "";
  const info = checkListInfo(prefix, query.get("info"));
  return isRefusal(info) ? info : server.listChannels(app, prefix, info);
}

/** `GET /apps/{id}/channels/{name}`: how many are on a channel, if anybody. */
function serveChannel(
  { server, app, name, query }: ApiCall,
): Awaitable<object> {
  const kind = checkChannelName(name, app.limits);
  if (isRefusal(kind)) return kind;
  const info = checkChannelInfo(kind, query.get("info"));
  return isRefusal(info) ? info : server.describeChannel(app, name, info);
}

/** `GET /apps/{id}/channels/{name}/users`: who is on a presence channel. */
function serveUsers({ server, app, name }: ApiCall): Awaitable<object> {
  const kind = checkPresenceName(name, app.limits);
  return isRefusal(kind) ? kind : server.listUsers(app, name);
}

/** `POST /apps/{id}/users/{id}/terminate_connections`. */
function serveTerminate({ server, app, name }: ApiCall): Awaitable<object> {
  const id = checkUserId(name, app.limits);
  return isRefusal(id) ? id : server.terminate(app, id);
}

/** Checks everything about a request that its body does not say. */
function checkRequestSignature(
  app: App,
  method: string,
  url: URL,
  query: URLSearchParams,
): Refusal | null {
  if (query.get("auth_key") !== app.key) {
    return new Refusal(401, "auth_key is not the key of the app");
  }
  if (query.get("auth_version") !== "1.0") {
    return new Refusal(401, "auth_version is not 1.0");
  }
  const timestamp = query.get("auth_timestamp") ?? "";
  const now = Math.floor(app.server.now() / 1000);
  if (
    !/^\d{1,15}$/.test(timestamp) ||
    Math.abs(now - Number(timestamp)) > TIMESTAMP_TOLERANCE_S
  ) {
    return new Refusal(
      401,
      `auth_timestamp is not within ${TIMESTAMP_TOLERANCE_S} s of the server's time, ${now}`,
    );
  }
  const signature = query.get("auth_signature") ?? "";
  for (const text of requestTexts(method, url, query)) {
    if (app.verifies(text, signature)) return null;
  }
  return new Refusal(401, "auth_signature does not match the request");
}

const TIMESTAMP_TOLERANCE_S = 600;

/** Reads the body, checks it against the signed digest and parses it. */
async function readApiBody(
  app: App,
  request: Request,
  query: URLSearchParams,
): Promise<Record<string, unknown> | Refusal> {
  const { limits } = app;
  const bytes = await readBody(request, limits.bodyBytes);
  if (bytes === "too large") {
    return overLimit("bodyBytes", limits, "The body is too large", 413);
  }
  if (bytes === "broken off") {
    return new Refusal(400, "The body did not arrive whole");
  }
  const digest = query.get("body_md5");
  if (bytes.length === 0) {
    return digest === null || digest === EMPTY_MD5
      ? bodyFromQuery(query)
      : new Refusal(401, "body_md5 is not that of an empty body");
  }
  if (digest !== createHash("md5").update(bytes).digest("hex")) {
    return new Refusal(401, "body_md5 is not that of the body");
  }
  const body = parseJson(decodeUtf8(bytes) ?? "");
  return isObject(body)
    ? body
    : new Refusal(400, "The body is not a JSON object");
}

const EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e";

/** Without a body, its fields may come in the query. */
function bodyFromQuery(query: URLSearchParams): Record<string, unknown> {
  const channels = query.getAll("channels[]");
  return {
    ...Object.fromEntries(query),
    channels: channels.length > 0 ? channels : undefined,
  };
}

// ---- HTTP: auth endpoints -------------------------------------------------
// Where clients ask the program for permission to join a channel, and for who
// they are.

/** What a client has posted to an auth endpoint. */
interface AuthForm {
  readonly app: App;
  readonly socketId: string;
  readonly params: URLSearchParams;
  readonly cors: Record<string, string>;
}

// A form with a socket id and as many channel names as a connection may have.
const AUTH_BODY_BYTES = 65_536;

/** Reads the form that clients post to the auth endpoints, or refuses it. */
async function readAuthForm(
  server: Server,
  request: Request,
): Promise<AuthForm | Response> {
  const verdict = server.judgeOrigin(server.origins, request);
  if (verdict === false) return refuse(REFUSAL.Origin);
  const cors = corsHeaders(request, verdict);
  if (request.method === "OPTIONS") {
    return new Response(null, { status: 204, headers: cors });
  }
  if (request.method !== "POST") return refuseMethod("POST", cors);
  const body = await readBody(request, AUTH_BODY_BYTES);
  if (body === "too large") return refuse(REFUSAL.AuthBodyTooLarge, cors);
  const text = body === "broken off" ? null : decodeUtf8(body);
  const params = new URLSearchParams(text ?? "");
  const socketId = params.get("socket_id");
  if (!isSocketId(socketId)) return refuse(REFUSAL.BadAuthForm, cors);
  // Whose socket it is says whose secret signs.
  const app = server.connections.get(socketId)?.app ??
    (server.appsById.size === 1 ? server.defaultApp : undefined);
  if (app === undefined) return refuse(REFUSAL.UnknownSocket, cors);
  return { app, socketId, params, cors };
}

/** `POST /pusher/user-auth`: has the program say who a client is. */
async function serveUserAuth(
  server: Server,
  authenticate: Authenticate,
  request: Request,
): Promise<Response> {
  const form = await readAuthForm(server, request);
  if (form instanceof Response) return form;
  const { app, socketId, params, cors } = form;
  try {
    const context = { app: app.id, socketId, params };
    const user = await authenticate(request, context);
    // As with `authorize`, only a clear answer is one.
    if (!isObject(user)) return refuse(REFUSAL.UnknownUser, cors);
    const checked = checkUser(user, app.limits);
    if (isRefusal(checked)) {
      throw new TypeError(
        `Cannot authenticate: what authenticate returned is no user, ${checked.error}`,
      );
    }
    const answer = app.authenticate(socketId, user);
    return Response.json(answer, { headers: cors });
  } catch (error) {
    server.hooks.fail(error, "authenticating a user", app.id);
    return refuse(REFUSAL.AuthenticateFailed, cors);
  }
}

/**
 * `POST /pusher/auth`: has the program decide whether a client may join the
 * channel that its form names as `channel_name`, or each of several named as
 * `channel_name[]`.
 */
async function serveAuth(
  server: Server,
  authorize: Authorize,
  request: Request,
): Promise<Response> {
  const form = await readAuthForm(server, request);
  if (form instanceof Response) return form;
  const { app, socketId, params, cors } = form;
  const several = params.getAll("channel_name[]");
  const single = params.get("channel_name");
  if (single === null && several.length === 0) {
    return refuse(REFUSAL.BadAuthForm, cors);
  }
  const context = { app: app.id, socketId, params };
  const decide = (channel: string) =>
    authorizeOne(app, authorize, request, { ...context, channel });
  if (single !== null) {
    const answer = await decide(single);
    return isRefusal(answer)
      ? refuse(answer, cors)
      : Response.json(answer, { headers: cors });
  }
  if (several.length > app.limits.channelsPerConnection) {
    const found = `The form names ${several.length} channels`;
    return refuse(overLimit("channelsPerConnection", app.limits, found), cors);
  }
  const channels = await Promise.all(several.map(async (channel) => {
    const answer = await decide(channel);
    if (!isRefusal(answer)) return [channel, answer] as const;
    const { error, status } = answer;
    return [channel, { error, status }] as const;
  }));
  return Response.json(
    { channels: Object.fromEntries(channels) },
    { headers: cors },
  );
}

/** Asks the program about one channel. */
async function authorizeOne(
  app: App,
  authorize: Authorize,
  request: Request,
  context: AuthorizeContext,
): Promise<ChannelAuth | Refusal> {
  const { channel, socketId } = context;
  const kind = checkChannelName(channel, app.limits);
  if (isRefusal(kind)) return kind;
  if (!kind.auth) return REFUSAL.PublicChannel;
  try {
    const decision = await authorize(request, context);
    // Where users sign in, one may join a presence channel as who it is.
    const { authenticate } = app.server;
    if (decision === true && (!kind.presence || authenticate !== undefined)) {
      return app.authorize(socketId, channel);
    }
    // Only a clear yes is one: a function that forgot to return says no.
    if (decision !== true && !isObject(decision)) {
      return new Refusal(403, `Joining ${quote(channel)} is not allowed`);
    }
    const member = checkMember(decision, app.limits);
    if (isRefusal(member)) {
      throw new TypeError(
        `Cannot authorize "${channel}": what authorize returned is no member, ${member.error}`,
      );
    }
    // As checkMember has just found.
    const data = kind.presence ? decision as unknown as Member : undefined;
    return app.authorize(socketId, channel, data);
  } catch (error) {
    app.server.hooks.fail(error, "authorizing a channel", app.id);
    return REFUSAL.AuthorizeFailed;
  }
}

// ---- Server -----------------------------------------------------------------
// What all apps share: connections, backplane, hooks, liveness and the way down.
// Every event goes out through publish and comes back through #deliver; every
// join and leave goes through one function that also tells the others of it.

/** A Pusher server without its public face. */
class Server {
  readonly appsById = new Map<string, App>();
  readonly appsByKey = new Map<string, App>();
  readonly defaultApp: App;
  /** Live connections of all apps by socket id. */
  readonly connections = new Map<string, Connection>();
  readonly hooks = new HookQueue();
  readonly liveness: Liveness;
  readonly backplane: Backplane;
  readonly limits: Readonly<Limits>;
  readonly now: () => number;
  readonly authorize: Authorize | undefined;
  readonly authenticate: Authenticate | undefined;
  readonly cacheTtlMs: number;
  readonly origins: OriginCheck;
  readonly path: string;
  readonly activityTimeoutS: number;
  /** The bounds of what is kept for clients that are away; null for nothing. */
  readonly history: Readonly<History> | null;
  /** Sessions of stock clients, where something is kept for them. */
  readonly sessions: Sessions | null;
  readonly #strictProtocol: boolean;
  /** Connections to be judged in the next turn of the event loop. */
  readonly #suspects = new Set<Connection>();
  #judgeTimer: ReturnType<typeof setTimeout> | undefined;
  /** Connections that have a batch for the end of this turn. */
  #batching: Connection[] = [];
  /** Connections that get what they have missed bit by bit. */
  readonly #replaying = new Set<Connection>();
  #replayTimer: ReturnType<typeof setTimeout> | undefined;
  /** Joins and leaves that the backplane has not answered yet. */
  readonly #unsettled = new Set<Promise<unknown>>();
  #sockets = 0;
  /** Sockets of clients that were turned away and have not gone yet. */
  #refused = 0;
  #onEmpty: (() => void) | null = null;
  #closing: Promise<void> | null = null;
  #closed = false;

  constructor(options: PusherOptions) {
    checkOptions(options);
    const activityTimeoutMs = options.activityTimeoutMs ?? 120_000;
    const pongTimeoutMs = options.pongTimeoutMs ?? 30_000;
    this.path = options.path ?? "";
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.now = options.now ?? (() => Date.now());
    this.authorize = options.authorize;
    this.authenticate = options.authenticate;
    this.cacheTtlMs = options.cacheTtlMs ?? 1_800_000;
    this.origins = compileOrigins(options.origins);
    this.activityTimeoutS = activityTimeoutMs / 1000;
    this.liveness = new Liveness(
      activityTimeoutMs,
      pongTimeoutMs,
      options.authorizationTimeoutMs ?? Infinity,
    );
    this.#strictProtocol = options.strictProtocol ?? false;
    for (const app of options.apps ?? [defaultApp(options)]) {
      const made = new App(this, app, options);
      this.appsById.set(made.id, made);
      this.appsByKey.set(made.key, made);
    }
    // checkOptions has made sure that `apps` is not empty.
    this.defaultApp = this.appsById.values().next().value!;
    this.history = options.history === false
      ? null
      : { ...DEFAULT_HISTORY, ...options.history };
    this.sessions = this.history && new Sessions(this.history);
    this.backplane = options.backplane ?? new MemoryBackplane();
    this.backplane.start({
      history: this.history,
      deliver: (appId, channel, message, offset) =>
        this.#deliver(appId, channel, message, offset),
    });
  }

  /** Whether {@linkcode close} has finished. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Answers any request; what goes wrong inside is a 500 and an `error`. */
  handle(request: Request): Awaitable<Response> {
    const response = attempt(() => route(this, request));
    if (!(response instanceof Promise)) return response;
    return response.catch((error) => {
      this.hooks.fail(error, "serving a request");
      return refuse(REFUSAL.Crashed);
    });
  }

  /** Judges what can be judged before the transport is open. */
  admit(key: string, request: Request): Admission {
    const app = this.appsByKey.get(key) ?? null;
    const url = new URL(request.url);
    const refusal = app === null
      ? CLOSE.UnknownApp
      : !app.enabled
      ? CLOSE.AppDisabled
      : checkVersion(url.searchParams.get("protocol"), this.#strictProtocol) ??
        (this.judgeOrigin(app.origins, request) ? null : CLOSE.OriginRefused);
    return {
      app,
      refusal,
      extensions: readExtensions(url, this.path, this.history !== null),
    };
  }

  /** Opens an admitted connection on a transport that is ready to send. */
  open(transport: Transport, admission: Admission): Peer {
    const { app, refusal, extensions } = admission;
    this.#sockets++;
    const close = refusal ?? this.#capacity(app);
    if (app === null || close !== null) {
      this.#refused++;
      return new RefusedPeer(this, transport, close ?? CLOSE.UnknownApp);
    }
    const socketId = this.#socketId();
    const connection = new Connection(
      ...[this, app, transport, socketId, extensions] as const,
    );
    this.connections.set(connection.socketId, connection);
    app.connectionCount++;
    this.liveness.watch(connection);
    connection.establish();
    return connection;
  }

  /**
   * Whether even a polite refusal would be too much. A peer that does not answer
   * a close frame keeps its socket, and the runtime cannot end it.
   */
  isOverrun({ refusal }: Admission): boolean {
    return this.#sockets >= 2 * this.limits.sockets ||
      (refusal !== null && this.#refused >= MAX_REFUSED_SOCKETS);
  }

  #capacity(app: App | null): Close | null {
    if (this.#closing !== null) return CLOSE.ShuttingDown;
    if (this.#sockets > this.limits.sockets) return CLOSE.ServerFull;
    const full = app !== null && app.connectionCount >= app.limits.connections;
    return full ? CLOSE.AppFull : null;
  }

  #socketId(): string {
    const halves = new Uint32Array(2);
    for (;;) {
      crypto.getRandomValues(halves);
      // 1 to 2^31 - 1 each: some clients read the halves as signed integers.
      const [a = 0, b = 0] = halves.map((half) => half % 0x7fff_ffff + 1);
      const socketId = `${a}.${b}`;
      if (!this.connections.has(socketId)) return socketId;
    }
  }

  /** Takes a connection that is gone out of every index. */
  forget(connection: Connection): void {
    this.connections.delete(connection.socketId);
    connection.app.connectionCount--;
    this.liveness.forget(connection);
    this.#suspects.delete(connection);
    if (this.#suspects.size === 0) clearTimeout(this.#judgeTimer);
    this.#replaying.delete(connection);
    if (this.#replaying.size === 0) clearTimeout(this.#replayTimer);
  }

  /**
   * Has a batch sent when the event loop turns, with all that has come until
   * then: the events of several requests that arrive together, for one.
   */
  flushSoon(connection: Connection): void {
    if (this.#batching.length === 0) setImmediate(() => this.#flush());
    this.#batching.push(connection);
  }

  #flush(): void {
    const connections = this.#batching;
    this.#batching = [];
    for (const connection of connections) connection.flush();
    EMPTY_BATCH.forget();
  }

  /** Has a connection go on with what it has missed, once it had time to read. */
  replaySoon(connection: Connection): void {
    if (this.#replaying.size === 0) {
      this.#replayTimer = setTimeout(() => this.#replay(), REPLAY_TICK_MS);
    }
    this.#replaying.add(connection);
  }

  #replay(): void {
    const connections = [...this.#replaying];
    this.#replaying.clear();
    for (const connection of connections) connection.continueReplay();
  }

  /** A transport has closed for good; called once for each. */
  released(wasRefused: boolean): void {
    this.#sockets--;
    if (wasRefused) this.#refused--;
    if (this.#sockets === 0) this.#onEmpty?.();
  }

  /**
   * Has a connection judged that does not take its frames. Not at once: what is
   * sent in one turn of the event loop cannot be written before the next, so a
   * burst of the program's own says nothing about the peer; and a fan-out must
   * not be interrupted by leaves.
   */
  suspect(connection: Connection): void {
    if (this.#suspects.size === 0) {
      this.#judgeTimer = setTimeout(() => this.#judge(), 0);
    }
    this.#suspects.add(connection);
  }

  #judge(): void {
    const suspects = [...this.#suspects];
    this.#suspects.clear();
    for (const connection of suspects) connection.endIfStuck();
  }

  /** Whether a page may come in; a rule that throws says no. */
  judgeOrigin(check: OriginCheck, request: Request): OriginVerdict {
    try {
      return check(request);
    } catch (error) {
      this.hooks.fail(error, "checking an origin");
      return false;
    }
  }

  #deliver(
    appId: string,
    channelName: string,
    message: Message,
    offset: number,
  ): void {
    const channel = this.appsById.get(appId)?.channels.get(channelName);
    if (channel === undefined) return;
    if (message.control !== undefined) {
      return this.#obey(message.control, channel, channelName);
    }
    channel.deliver(new Delivery(channelName, message, offset));
  }

  /** Does what another server, or this one, has said. */
  #obey(
    control: NonNullable<Message["control"]>,
    channel: Channel,
    channelName: string,
  ): void {
    for (const connection of channel.connections) {
      if (control === "terminate") {
        connection.close(CLOSE.Terminated);
      } else {
        const userId = channelName.slice(OWN_CHANNEL.Watchers.length);
        connection.tellTransition(userId, control === "online");
      }
    }
  }

  /** Closes what is signed in as a user. */
  terminate(app: App, userId: string): Awaitable<PublishResult> {
    const channel = OWN_CHANNEL.User + userId;
    const message = { event: "terminate", control: "terminate" } as const;
    const told = attempt(() =>
      this.backplane.publish(app.id, channel, message)
    );
    return chain(told, () => ({}));
  }

  /** Publishes one event to each of its channels. */
  publish(app: App, publish: Publish): Awaitable<PublishResult> {
    const accepted = publish.channels.map((channel) => {
      const message = parseChannelName(channel)?.cache
        ? { ...publish.message, cacheMs: this.cacheTtlMs }
        : publish.message;
      return chain(
        attempt(() => this.backplane.publish(app.id, channel, message)),
        () => this.#published(app, channel, message),
      );
    });
    return chain(all(accepted), () => this.#publishResult(app, publish));
  }

  /** Publishes several events in order. */
  publishBatch(app: App, publishes: Publish[]): Awaitable<PublishResult> {
    const results = all(publishes.map((item) => this.publish(app, item)));
    if (publishes.every((item) => item.info.length === 0)) {
      return chain(results, () => ({}));
    }
    return chain(results, (list) => ({
      batch: list.map(({ channels = {} }) => Object.values(channels)[0] ?? {}),
    }));
  }

  #published(app: App, channel: string, message: Message): void {
    if (!this.hooks.has("published") || isOwnChannel(channel)) return;
    const { event, data = "", exceptSocketId } = message;
    this.hooks.emit("published", {
      app: app.id,
      channel,
      event,
      data,
      ...(exceptSocketId !== undefined && { socketId: exceptSocketId }),
    });
  }

  #publishResult(app: App, publish: Publish): Awaitable<PublishResult> {
    if (publish.info.length === 0) return {};
    const entries = publish.channels.map((name) =>
      chain(
        this.backplane.occupancy(app.id, name),
        (occupancy) => [name, countsOf(name, occupancy, publish.info)] as const,
      )
    );
    return chain(
      all(entries),
      (list) => ({ channels: Object.fromEntries(list) }),
    );
  }

  /** Body of `GET /channels`. */
  listChannels(
    app: App,
    prefix: string,
    info: readonly InfoName[],
  ): Awaitable<{ channels: Record<string, ChannelCounts> }> {
    return chain(this.backplane.occupied(app.id, prefix), (occupied) => ({
      channels: Object.fromEntries(
        [...occupied].filter(([name]) => !isOwnChannel(name)).map(
          ([name, occupancy]) => [name, countsOf(name, occupancy, info)],
        ),
      ),
    }));
  }

  /** Body of `GET /channels/{name}`. */
  describeChannel(
    app: App,
    name: string,
    info: readonly ChannelInfoName[],
  ): Awaitable<ChannelDescription> {
    const described = chain(
      this.backplane.occupancy(app.id, name),
      (occupancy) => ({
        occupied: occupancy.subscriptions > 0,
        ...countsOf(name, occupancy, info),
      }),
    );
    if (!info.includes("cache")) return described;
    return chain(
      described,
      (body) =>
        chain(this.backplane.cached(app.id, name), (cached) => ({
          ...body,
          cache: cached && {
            data: cached.message.data ?? "",
            ttl: Math.floor(cached.ttlMs / 1000),
          },
        })),
    );
  }

  /** Body of `GET /channels/{name}/users`. */
  listUsers(app: App, name: string): Awaitable<{ users: { id: string }[] }> {
    return chain(this.backplane.members(app.id, name), (members) => ({
      users: Array.from(members.keys(), (id) => ({ id })),
    }));
  }

  /**
   * Joins a channel for one connection; the others on it are told of a new user.
   * `null` when the channel has no room for the user.
   */
  join(
    app: App,
    channel: string,
    member: JoiningMember | undefined,
    log: LogRequest | undefined,
  ): Awaitable<JoinResult | null> {
    const first = transitionOf(channel, "online");
    const joining = attempt(() =>
      this.backplane.join(app.id, channel, { member, first, log })
    );
    return this.#settling(chain(joining, (joined) => {
      if (isOwnChannel(channel)) return joined;
      if (joined?.subscriptions === 1) {
        this.hooks.emit("channel_occupied", { app: app.id, channel });
      }
      if (joined?.memberAdded && member !== undefined) {
        const { userId } = member;
        this.hooks.emit("member_added", { app: app.id, channel, userId });
      }
      return joined;
    }));
  }

  /** Leaves a channel for one connection; failing is the backplane's affair. */
  leave(
    app: App,
    channel: string,
    userId: string | undefined,
    log: boolean,
  ): void {
    const member = userId === undefined
      ? undefined
      : { userId, removed: memberRemoved(userId) };
    const last = transitionOf(channel, "offline");
    const leaving = attempt(() =>
      this.backplane.leave(app.id, channel, { member, last, log })
    );
    const left = chain(leaving, ({ subscriptions, memberRemoved }) => {
      if (isOwnChannel(channel)) return;
      if (memberRemoved && userId !== undefined) {
        this.hooks.emit("member_removed", { app: app.id, channel, userId });
      }
      this.counted(app, channel, subscriptions);
      if (subscriptions === 0) {
        this.hooks.emit("channel_vacated", { app: app.id, channel });
      }
    });
    this.#unawaited(left, "leaving a channel", app);
  }

  /**
   * Tells the subscribers of a channel how many they are now. With many of them
   * not each time, but the last change is always told.
   */
  counted(app: App, channel: string, count: number): void {
    if (!app.subscriptionCounts || parseChannelName(channel)?.presence) return;
    const waiting = app.waitingCounts.get(channel);
    if (waiting !== undefined && count > COUNT_THROTTLE.above) {
      waiting.latest = count;
      return;
    }
    clearTimeout(waiting?.timer);
    app.waitingCounts.delete(channel);
    this.#tellCount(app, channel, count);
    if (count <= COUNT_THROTTLE.above) return;
    const timer = setTimeout(() => {
      const { latest } = app.waitingCounts.get(channel) ?? {};
      app.waitingCounts.delete(channel);
      // Whoever came meanwhile has not heard even of the number told before.
      if (latest !== undefined) this.counted(app, channel, latest);
    }, COUNT_THROTTLE.everyMs);
    app.waitingCounts.set(channel, { latest: undefined, timer });
  }

  #tellCount(app: App, channel: string, subscriptionCount: number): void {
    this.hooks.emit("subscription_count", {
      app: app.id,
      channel,
      subscriptionCount,
    });
    const told = attempt(() =>
      this.backplane.publish(app.id, channel, {
        event: OUTBOUND.SubscriptionCount,
        data: JSON.stringify({ subscription_count: subscriptionCount }),
      })
    );
    this.#unawaited(told, "counting subscribers", app);
  }

  /** Lets something end that nobody waits for but {@linkcode close}. */
  #unawaited(value: Awaitable<void>, during: string, app: App): void {
    if (!(value instanceof Promise)) return;
    this.#settling(
      value.catch((error) => this.hooks.fail(error, during, app.id)),
    );
  }

  /** Remembers what {@linkcode close} has to wait for. */
  #settling<T>(value: Awaitable<T>): Awaitable<T> {
    if (!(value instanceof Promise)) return value;
    this.#unsettled.add(value);
    const settled = () => this.#unsettled.delete(value);
    value.then(settled, settled);
    return value;
  }

  /** See {@linkcode Pusher.close}. A second call joins the first. */
  close(overMs: number): Promise<void> {
    return this.#closing ??= this.#drain(overMs);
  }

  async #drain(overMs: number): Promise<void> {
    const ticks = Math.max(1, Math.ceil(overMs / DRAIN_TICK_MS));
    for (let left = ticks; left > 0 && this.connections.size > 0; left--) {
      let share = Math.ceil(this.connections.size / left);
      for (const connection of this.connections.values()) {
        if (share-- === 0) break;
        connection.close(CLOSE.Reconnect);
      }
      if (left > 1) {
        await new Promise((next) => setTimeout(next, DRAIN_TICK_MS));
      }
    }
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, CLOSE_GRACE_MS);
    });
    await Promise.race([this.#settled(), late]);
    clearTimeout(timer);
    this.#closed = true;
    await this.backplane.close();
  }

  /** Waits for the peers to answer the close, and for the backplane. */
  async #settled(): Promise<void> {
    if (this.#sockets > 0) {
      await new Promise<void>((resolve) => this.#onEmpty = resolve);
    }
    // A join that comes too late is followed by its leave.
    while (this.#unsettled.size > 0) {
      await Promise.allSettled(this.#unsettled);
    }
  }
}

// Above so many subscribers, counts are sent this often at most.
const COUNT_THROTTLE = Object.freeze({ above: 100, everyMs: 5_000 });

// Clients that were turned away are told why as long as there are fewer sockets
// of theirs; beyond it they get a plain HTTP refusal.
const MAX_REFUSED_SOCKETS = 1_000;

// Closing every tenth of a second is even enough for clients, and cheap.
const DRAIN_TICK_MS = 100;

// How long peers and backplane may take on close; dead ones never answer.
const CLOSE_GRACE_MS = 1000;

// A socket has no event for having been written to, so it is looked after.
const REPLAY_TICK_MS = 10;

/** Credentials, limits and channels of one app. */
class App {
  readonly server: Server;
  readonly id: string;
  readonly key: string;
  readonly enabled: boolean;
  readonly clientEvents: boolean;
  readonly subscriptionCounts: boolean;
  readonly encryption: Encryption | undefined;
  readonly limits: Readonly<Limits>;
  readonly origins: OriginCheck;
  /** Counts of large channels that were told a short while ago. */
  readonly waitingCounts = new Map<
    string,
    { latest: number | undefined; timer: ReturnType<typeof setTimeout> }
  >();
  /** Channels that a connection of this server is subscribed to. */
  readonly channels = new Map<string, Channel>();
  /** Live connections of this server. */
  connectionCount = 0;
  readonly secret: string;

  constructor(server: Server, own: AppOptions, shared: PusherOptions) {
    this.server = server;
    this.id = own.id;
    this.key = own.key;
    this.secret = own.secret;
    this.enabled = own.enabled ?? true;
    this.clientEvents = own.clientEvents ?? shared.clientEvents ?? false;
    this.subscriptionCounts = own.subscriptionCounts ??
      shared.subscriptionCounts ?? false;
    this.encryption = own.encryption ?? shared.encryption;
    this.limits = { ...DEFAULT_LIMITS, ...shared.limits, ...own.limits };
    // Sockets may come from anywhere unless something was said of origins.
    this.origins = compileOrigins(own.origins ?? shared.origins ?? "*");
  }

  /** The channel of a name, made where there is none. */
  channel(name: string): Channel {
    const channel = this.channels.get(name) ?? new Channel();
    this.channels.set(name, channel);
    return channel;
  }

  /** Forgets a channel that nobody is on. */
  dropIfEmpty(name: string): void {
    if (this.channels.get(name)?.isEmpty) this.channels.delete(name);
  }

  /** HMAC-SHA256 of a text with the app's secret, in lower-case hex. */
  sign(text: string): string {
    return hmac(this.secret, text);
  }

  /** Checks a webhook or request signature without telling how it differs. */
  verifies(text: string, signature: string): boolean {
    return equalsInConstantTime(this.sign(text), signature);
  }

  /** Signs a permission to subscribe. The arguments have been checked. */
  authorize(socketId: string, channel: string, member?: Member): ChannelAuth {
    const data = member && JSON.stringify(member);
    const signature = this.sign(channelText(socketId, channel, data));
    const encrypted = parseChannelName(channel)?.encrypted;
    const secret = encrypted
      ? this.encryption?.sharedSecret(channel)
      : undefined;
    return {
      auth: `${this.key}:${signature}`,
      ...(data !== undefined && { channel_data: data }),
      ...(secret !== undefined && { shared_secret: secret }),
    };
  }

  /** Signs who a user is. The arguments have been checked. */
  authenticate(socketId: string, user: UserData): UserAuth {
    const data = JSON.stringify(user);
    const signature = this.sign(userText(socketId, data));
    return { auth: `${this.key}:${signature}`, user_data: data };
  }

  /** Whether `auth` is the app's signature of a text. */
  permits(auth: unknown, text: string): boolean {
    const prefix = `${this.key}:`;
    return typeof auth === "string" && auth.startsWith(prefix) &&
      this.verifies(text, auth.slice(prefix.length));
  }
}

// ---- Connection -------------------------------------------------------------
// One client, from the established frame to its last. Owns its state and its
// subscriptions and knows nothing of HTTP. Invariant: `#channels` names exactly
// the channels that hold this connection, as #enter and #exit change both sides.

/** What is known of a client before its transport is open. */
interface Admission {
  readonly app: App | null;
  readonly refusal: Close | null;
  readonly extensions: Extensions;
}

/**
 * A client's connection.
 *
 * ```text
 * open ──> gone ──> released
 *   gone: out of every channel and count, told to close, nothing more is sent
 *   released: the transport has closed, which a dead peer can put off for long
 * ```
 */
class Connection implements Peer, Watched, Resumable {
  readonly app: App;
  readonly socketId: string;
  /** When it is due, in {@linkcode Liveness}; only that one writes it. */
  due: Set<Watched> | null = null;
  readonly #server: Server;
  readonly #transport: Transport;
  #state: "open" | "gone" | "released" = "open";
  /** Tick of the last incoming frame. */
  #heardAt: number;
  /** Tick of a ping that has not been answered, or -1. */
  #pingedAt = -1;
  /** Whether it is told positions, and so can say where it was. */
  readonly #hasPositions: boolean;
  /** Frames for the end of this turn; null for a client that takes no batches. */
  #batch: Batch | null;
  /** What a stock client has got, where it asked for that to be remembered. */
  #session: Session | null = null;
  /** Ids that this client has and has had: what leaves out one of them. */
  #ownIds: readonly string[];
  /** What it has missed, while it is getting that. */
  #replay: ReplayQueue | null = null;
  /** Whether the logs of its channels are kept, as it may come back for them. */
  readonly #canRecover: boolean;
  /** Channel name to the user id on a presence channel; own channels, too. */
  #channels: Map<string, string | undefined> | null = null;
  /** How many of them are the server's own. */
  #ownChannels = 0;
  /** Who has signed in. */
  #user: KnownUser | null = null;
  /** Users it watches, and whether they were online when it last heard. */
  #watched: Map<string, boolean | undefined> | null = null;
  /** Whether it is still to be told how they all are. */
  #isAskingWatched = false;
  /** Whether it has signed in or joined a private or presence channel. */
  #authorized = false;
  readonly #bornAt: number;
  readonly #frames: TokenBucket;
  #clientEvents: TokenBucket | null = null;
  /** How many more frames may be dropped for coming too fast. */
  #drops: TokenBucket | null = null;
  /** When it was last told of that. */
  #warnedAt = 0;
  /** Whether the transport has failed to send. */
  #failed = false;
  /** Incoming frames that wait for one that is being served. */
  #backlog: string[] | null = null;
  /** UTF-16 units of all frames that wait for the backplane, either way. */
  #waitingUnits = 0;

  constructor(
    server: Server,
    app: App,
    transport: Transport,
    socketId: string,
    extensions: Extensions,
  ) {
    const { batch, recover, formerIds, sessionId } = extensions;
    this.#server = server;
    this.app = app;
    this.#transport = transport;
    this.socketId = socketId;
    this.#hasPositions = recover;
    this.#batch = batch ? EMPTY_BATCH : null;
    if (sessionId !== null && server.sessions !== null) {
      this.#session = server.sessions.join(app.id, sessionId, this);
    }
    this.#canRecover = recover || this.#session !== null;
    this.#ownIds = [socketId, ...formerIds];
    this.#heardAt = server.liveness.tick;
    this.#bornAt = this.#heardAt;
    this.#frames = new TokenBucket(app.limits.framesBurst);
  }

  /** Sends the first frame that a client waits for. */
  establish(): void {
    // By itself: it is what says whether there will be batches.
    this.#write(encodeFrame({
      event: OUTBOUND.Established,
      data: JSON.stringify({
        socket_id: this.socketId,
        activity_timeout: this.#server.activityTimeoutS,
        ...this.#grants(),
      }),
    }));
    const { app, socketId } = this;
    this.#server.hooks.emit("connected", { app: app.id, socketId });
  }

  /** What a client that asked for extensions is told of them. */
  #grants(): { extensions?: string[] } {
    const granted = {
      batch: this.#batch !== null,
      recover: this.#hasPositions,
    };
    if (!granted.batch && !granted.recover) return {};
    const auth = this.#server.authorize !== undefined;
    const list = Object.entries({ ...granted, auth });
    return { extensions: list.filter(([, is]) => is).map(([name]) => name) };
  }

  /** Sends one encoded frame, unless the connection is gone. */
  send(frame: string): void {
    if (this.#state !== "open" || this.#failed) return;
    if (this.#batch === null) return this.#write(frame);
    if (this.#batch === EMPTY_BATCH) this.#server.flushSoon(this);
    this.#batch = this.#batch.with(frame);
  }

  /** Sends what has come together. */
  flush(): void {
    const batch = this.#batch;
    if (batch === null || batch === EMPTY_BATCH) return;
    this.#batch = EMPTY_BATCH;
    if (this.#state === "open" && !this.#failed) this.#write(batch.frame);
  }

  #write(frame: string): void {
    try {
      this.#transport.send(frame);
      if (!this.#isBehind()) return;
    } catch (error) {
      this.#failed = true;
      this.#server.hooks.fail(error, "sending a frame", this.app.id);
    }
    this.#server.suspect(this);
  }

  /** Takes a message of a channel, in its order. */
  deliver(delivery: Delivery): void {
    if (this.#replay === null) return this.#sendDelivery(delivery);
    this.#replay.add(delivery);
    const isTooMuch = this.#replay.units > this.app.limits.bufferedBytes;
    if (isTooMuch) this.close(CLOSE.SlowPeer);
  }

  #sendDelivery(delivery: Delivery): void {
    // What the client has caused may be served on an earlier connection of its
    // own, may come late from there, or may be replayed.
    const { exceptSocketId } = delivery;
    if (exceptSocketId !== "" && this.#ownIds.includes(exceptSocketId)) return;
    if (this.#hasPositions) return this.send(delivery.positioned);
    this.send(delivery.frame);
    if (delivery.isLogged) this.#ownSession?.sent(delivery);
  }

  /** Keeps a delivery for after a join, among those that are kept already. */
  keep(delivery: Delivery, waiting: Delivery[]): void {
    waiting.push(delivery);
    this.#waitingUnits += delivery.frame.length;
    if (this.#waitingUnits <= this.app.limits.bufferedBytes) return;
    this.close(CLOSE.ServerFull);
    waiting.length = 0;
  }

  /**
   * Sends what the client has missed. Not all at once: a client that reads as
   * fast as it can is not to be taken for one that does not read.
   */
  #follow(
    channel: string,
    replay: Replay | undefined,
    log: LogRequest | undefined,
  ): void {
    if (replay === undefined || this.#state !== "open") return;
    // Twice as many: it has not said yet which of the former ones it still wants.
    const max = 2 * this.app.limits.channelsPerConnection;
    const { position } = replay;
    this.#ownSession?.begin(channel, position, hasGap(replay, log), max);
    if (replay.messages.length === 0) return;
    this.#replay ??= new ReplayQueue();
    this.#replay.addMissed(
      replay.messages.map((logged) => deliveryOf(channel, logged)),
    );
    this.continueReplay();
  }

  /** Goes on with what the client has missed, as far as it has read. */
  continueReplay(): void {
    const replay = this.#replay;
    if (replay === null) return;
    const roomBytes = Math.min(REPLAY_BYTES, this.app.limits.bufferedBytes / 2);
    while (this.#pendingBytes() <= roomBytes) {
      const delivery = replay.take();
      if (delivery === null) {
        this.#replay = null;
        return;
      }
      this.#sendDelivery(delivery);
    }
    this.#server.replaySoon(this);
  }

  /** What the client is told of its position, where it is told any. */
  #replayFields(
    replay: Replay | undefined,
    log: LogRequest | undefined,
  ): ReplayFields {
    if (!this.#hasPositions || replay === undefined) return {};
    const { position, recovered } = replay;
    return log?.since === undefined ? { position } : { position, recovered };
  }

  /** Never leaves a client in the belief that it has missed nothing. */
  #tellFailure(
    channel: string,
    replay: Replay | undefined,
    log: LogRequest | undefined,
  ): void {
    if (!hasGap(replay, log)) return;
    const data = JSON.stringify({ channel });
    this.send(encodeFrame({ event: OUTBOUND.RecoveryFailed, channel, data }));
  }

  /** Whether the peer has left too much unread. */
  #isBehind(): boolean {
    return this.#transport.bufferedAmount > this.app.limits.bufferedBytes;
  }

  /** What has been sent to the client, and is still here. */
  #pendingBytes(): number {
    return this.#transport.bufferedAmount + (this.#batch?.units ?? 0);
  }

  /** Tells the client why, and closes. */
  close(close: Close): void {
    if (this.#state !== "open") return;
    if (close.code >= 4000) this.send(encodeError(close.code, close.message));
    this.flush();
    this.#end(close);
  }

  /** Gives up on a peer that does not take what it is sent. */
  endIfStuck(): void {
    // No error frame: it would wait behind what is not being read.
    if (this.#failed) this.#end(CLOSE.SendFailed);
    else if (this.#isBehind()) this.#end(CLOSE.SlowPeer);
  }

  closed(code: number): void {
    if (this.#state === "released") return;
    this.#leaveAll(code);
    this.#state = "released";
    this.#server.released(false);
  }

  heard(): void {
    this.#heardAt = this.#server.liveness.tick;
  }

  receive(frame: unknown): void {
    if (this.#state !== "open") return;
    this.heard();
    // A peer that does not read the answers gets no more of them.
    this.endIfStuck();
    if (this.#state !== "open") return;
    if (typeof frame !== "string") return this.close(CLOSE.BinaryFrame);
    const { limits } = this.app;
    if (!this.#frames.take(limits.framesBurst, limits.framesPerSecond)) {
      return this.#dropFrame();
    }
    if (exceedsBytes(frame, limits.frameBytes)) {
      const found = "Frame is too large";
      return this.#sendError(overLimit("frameBytes", limits, found).error);
    }
    if (this.#backlog !== null) return this.#queue(frame);
    const served = this.#serve(frame);
    if (served instanceof Promise) {
      this.#backlog = [];
      this.#serveBacklog(served);
    }
  }

  /** An error for each frame of a flood would be a flood of our own. */
  #dropFrame(): void {
    const { limits } = this.app;
    const { framesBurst, framesPerSecond } = limits;
    this.#drops ??= new TokenBucket(framesBurst);
    if (!this.#drops.take(framesBurst, framesPerSecond)) {
      return this.close(CLOSE.Flood);
    }
    const now = Date.now();
    if (Math.abs(now - this.#warnedAt) < FLOOD_WARNING_MS) return;
    this.#warnedAt = now;
    const found = "Frames come too fast";
    this.#sendError(overLimit("framesPerSecond", limits, found).error);
  }

  /** Frames of one connection are served strictly in order. */
  #queue(frame: string): void {
    this.#waitingUnits += frame.length;
    if (this.#waitingUnits > this.app.limits.bufferedBytes) {
      return this.close(CLOSE.Flood);
    }
    this.#backlog?.push(frame);
  }

  async #serveBacklog(first: Promise<void>): Promise<void> {
    await first;
    for (let frame; (frame = this.#backlog?.shift()) !== undefined;) {
      this.#waitingUnits -= frame.length;
      await this.#serve(frame);
    }
    this.#backlog = null;
  }

  /** Serves one frame; whatever fails inside is answered on this connection. */
  #serve(text: string): Awaitable<void> {
    const frame = decodeFrame(text);
    if (isRefusal(frame)) return this.#sendError(frame.error);
    const served = attempt(() => this.#dispatch(frame));
    if (!(served instanceof Promise)) return served;
    return served.catch((error) => {
      this.#server.hooks.fail(error, "serving a frame", this.app.id);
      this.#sendError("The server could not serve the frame", frame.channel);
    });
  }

  #dispatch(frame: Frame): Awaitable<void> {
    switch (frame.event) {
      case INBOUND.Ping:
        return this.send(PONG_FRAME);
      case INBOUND.Pong:
        // Any frame is a sign of life. This one says what has arrived, too.
        return this.#ownSession?.acknowledge();
      case INBOUND.Subscribe:
        return this.#handleSubscribe(decodeData(frame.data));
      case INBOUND.Unsubscribe:
        return this.#handleUnsubscribe(decodeData(frame.data));
      case INBOUND.SignIn:
        return this.#handleSignIn(decodeData(frame.data));
    }
    if (frame.event.startsWith(CLIENT_EVENT_PREFIX)) {
      return this.#handleClientEvent(frame);
    }
    this.#sendError("Event is not supported");
  }

  /**
   * Accepts `pusher:subscribe` with `channel`, and `auth` and `channel_data`
   * where the channel asks for them. Answers `subscription_succeeded` or
   * `subscription_error`.
   */
  #handleSubscribe(data: Record<string, unknown> | null): Awaitable<void> {
    const name = data?.channel;
    if (data === null || typeof name !== "string") {
      return this.#sendError("Subscribing takes data with a channel");
    }
    if (name.startsWith(OWN_CHANNEL.User)) return this.#confirmUser(name);
    const { limits } = this.app;
    const kind = checkChannelName(name, limits);
    if (isRefusal(kind)) return this.#refuse(name, "InvalidChannel", kind);
    const channelData = typeof data.channel_data === "string"
      ? data.channel_data
      : undefined;
    const text = channelText(this.socketId, name, channelData);
    if (kind.auth && !this.app.permits(data.auth, text)) {
      return this.#refuse(name, "AuthError", REFUSAL.BadSignature);
    }
    const member = kind.presence ? this.#memberFor(channelData) : undefined;
    if (isRefusal(member)) {
      const type = member.status === 401 ? "AuthError" : "InvalidChannelData";
      return this.#refuse(name, type, member);
    }
    if (this.#channels?.has(name)) return this.#confirmAgain(name, kind);
    const count = (this.#channels?.size ?? 0) - this.#ownChannels;
    if (count >= limits.channelsPerConnection) {
      return this.#refuse(
        name,
        "LimitReached",
        overLimit("channelsPerConnection", limits, "Too many channels", 403),
      );
    }
    return this.#subscribe(name, kind, member, this.#logRequest(name, data));
  }

  /** What the client wants of a channel's log, if it can recover. */
  #logRequest(
    channel: string,
    { recover, rewind }: Record<string, unknown>,
  ): LogRequest | undefined {
    if (!this.#canRecover) return undefined;
    if (this.#hasPositions) {
      return { since: readPosition(recover), rewind: readCount(rewind) };
    }
    if (this.#session === null) return NO_WISHES;
    this.#session.claim(this);
    this.#ownIds = this.#session.ids;
    return this.#session.request(channel);
  }

  /** The session, if it is this connection that it goes on with. */
  get #ownSession(): Session | null {
    return this.#session?.connection === this ? this.#session : null;
  }

  /** Who joins a presence channel: who the data says, or who has signed in. */
  #memberFor(channelData: string | undefined): KnownMember | Refusal {
    const { limits } = this.app;
    if (channelData !== undefined) {
      return checkMember(parseJson(channelData), limits);
    }
    if (this.#user === null) return REFUSAL.NoChannelData;
    const { id, userInfo } = this.#user;
    return checkUserInfoSize(userInfo, limits) ?? { userId: id, userInfo };
  }

  #subscribe(
    name: string,
    kind: ChannelKind,
    member: KnownMember | undefined,
    log: LogRequest | undefined,
  ): Awaitable<void> {
    const { limits } = this.app;
    const joining = member && {
      ...member,
      maxMembers: limits.presenceMembers,
      added: memberAdded(member, this.socketId),
    };
    const joined = this.#join(name, joining, log, (result) => {
      if (result === null) {
        const full = "The channel is full";
        const refusal = overLimit("presenceMembers", limits, full, 403);
        return this.#refuse(name, "LimitReached", refusal);
      }
      this.#authorized ||= kind.auth;
      this.#confirm(name, kind, result, log);
      this.#server.counted(this.app, name, result.subscriptions);
    });
    if (!(joined instanceof Promise)) return;
    return joined.catch((error) => {
      this.#server.hooks.fail(error, "joining a channel", this.app.id);
      this.#refuse(name, "ServerError", REFUSAL.SubscribeFailed);
    });
  }

  /**
   * Joins a channel. `answer` is told what came of it, unless the client is gone
   * by then, and before the client gets what was published meanwhile.
   */
  #join(
    name: string,
    member: JoiningMember | undefined,
    log: LogRequest | undefined,
    answer: (joined: JoinResult | null) => void,
  ): Awaitable<void> {
    const joined = this.#server.join(this.app, name, member, log);
    const enter = (result: JoinResult | null) => {
      if (this.#state === "open") {
        if (result !== null) this.#enter(name, member?.userId);
        answer(result);
        this.#follow(name, result?.replay, log);
      } else if (result !== null) {
        const hasLog = log !== undefined;
        this.#server.leave(this.app, name, member?.userId, hasLog);
      }
    };
    if (!(joined instanceof Promise)) return enter(joined);
    const channel = this.app.channel(name);
    channel.hold(this);
    const release = () => {
      const held = channel.release(this);
      this.app.dropIfEmpty(name);
      for (const { frame } of held) this.#waitingUnits -= frame.length;
      return held;
    };
    return joined.then((result) => {
      const held = release();
      enter(result);
      if (result === null || !this.#channels?.has(name)) return;
      // What came before the join is in its result, if anywhere.
      for (const delivery of held) {
        if (delivery.offset > result.offset) this.deliver(delivery);
      }
    }, (error) => {
      release();
      throw error;
    });
  }

  /** A repeated subscription is confirmed, and nothing else happens. */
  #confirmAgain(name: string, kind: ChannelKind): Awaitable<void> {
    const { backplane } = this.#server;
    const members = kind.presence
      ? backplane.members(this.app.id, name)
      : NO_MEMBERS;
    const cached = kind.cache ? backplane.cached(this.app.id, name) : null;
    return chain(members, (list) =>
      chain(
        cached,
        (last) =>
          this.#confirm(name, kind, { members: list, cached: last?.message }),
      ));
  }

  #confirm(
    channel: string,
    kind: ChannelKind,
    { members, cached, replay }: Pick<
      JoinResult,
      "members" | "cached" | "replay"
    >,
    log?: LogRequest,
  ): void {
    const list = kind.presence ? members : null;
    this.send(encodeSubscribed(channel, list, this.#replayFields(replay, log)));
    this.#tellFailure(channel, replay, log);
    // Whoever has recovered has had the last event, or is about to get it.
    const hasLast = replay?.recovered ||
      replay?.messages.some(({ message }) => message.cacheMs !== undefined);
    if (!kind.cache || hasLast) return;
    if (cached !== undefined) return this.send(encodeMessage(channel, cached));
    this.send(encodeFrame({ event: OUTBOUND.CacheMiss, channel }));
    this.#server.hooks.emit("cache_miss", { app: this.app.id, channel });
  }

  /** Events for a user come without a subscription; one to ask for is fine. */
  #confirmUser(channel: string): void {
    if (this.#user !== null && channel === OWN_CHANNEL.User + this.#user.id) {
      return this.send(encodeSubscribed(channel, null));
    }
    this.#refuse(channel, "AuthError", REFUSAL.ForeignUser);
  }

  /**
   * Accepts `pusher:signin` with `auth` and `user_data`. Answers
   * `signin_success`, and the state of the users on the watchlist; or an error,
   * after which the connection is who it was.
   */
  #handleSignIn(data: Record<string, unknown> | null): Awaitable<void> {
    const userData = data?.user_data;
    const refuse = (why: string) =>
      this.send(encodeError(ERROR.SignIn, `Signing in failed: ${why}`));
    if (typeof userData !== "string") return refuse("there is no user_data");
    if (!this.app.permits(data?.auth, userText(this.socketId, userData))) {
      return refuse("the signature is not made for this connection and user");
    }
    const user = checkUser(parseJson(userData), this.app.limits);
    if (isRefusal(user)) return refuse(user.error);
    const channel = OWN_CHANNEL.User + user.id;
    const succeed = (replay?: Replay, log?: LogRequest) => {
      this.#user = user;
      this.#authorized = true;
      this.send(encodeFrame({
        event: OUTBOUND.SignedIn,
        data: JSON.stringify({ user_data: userData }),
        ...this.#replayFields(replay, log),
      }));
      this.#tellFailure(channel, replay, log);
    };
    if (this.#user === null) {
      const log = this.#logRequest(channel, data ?? {});
      const joined = this.#join(
        channel,
        undefined,
        log,
        (result) => succeed(result?.replay, log),
      );
      return chain(joined, () => {
        if (this.#state === "open") return this.#watch(user.watchlist);
      });
    }
    if (this.#user.id !== user.id) {
      return refuse("the connection is signed in as another user");
    }
    succeed();
    return this.#watch(user.watchlist);
  }

  /** Watches these users and no others, and tells the client how they are. */
  #watch(watchlist: readonly string[]): Awaitable<void> {
    const { app } = this;
    const ids = watchlist.slice(0, app.limits.watchedUsers);
    for (const id of this.#watched?.keys() ?? []) {
      if (!ids.includes(id)) this.#leave(OWN_CHANNEL.Watchers + id);
    }
    this.#watched = new Map(ids.map((id) => [id, undefined]));
    this.#isAskingWatched = true;
    const joined = ids.map((id) => OWN_CHANNEL.Watchers + id)
      .filter((name) => !this.#channels?.has(name))
      .map((name) => this.#join(name, undefined, undefined, () => {}));
    // Asked for once it would hear of a change.
    return chain(all(joined), () => {
      const states = ids.map((id) =>
        this.#server.backplane.occupancy(app.id, OWN_CHANNEL.User + id)
      );
      return chain(all(states), (list) => {
        const online = list.map(({ subscriptions }) => subscriptions > 0);
        this.#tellWatched(ids, online, watchlist.length);
      });
    });
  }

  #tellWatched(
    ids: readonly string[],
    online: readonly boolean[],
    wanted: number,
  ): void {
    const events = [
      { name: "online", user_ids: ids.filter((_, i) => online[i]) },
      { name: "offline", user_ids: ids.filter((_, i) => !online[i]) },
    ].filter(({ user_ids }) => user_ids.length > 0);
    if (events.length > 0) this.send(encodeWatchlist(events));
    const changed = this.#watched;
    this.#watched = new Map(ids.map((id, i) => [id, online[i]]));
    this.#isAskingWatched = false;
    // What has changed while they were asked for may be newer than the answer.
    for (const [id, isOnline] of changed ?? []) {
      if (isOnline !== undefined) this.tellTransition(id, isOnline);
    }
    if (wanted <= ids.length) return;
    const found = `The watchlist has ${wanted} users`;
    const { error } = overLimit("watchedUsers", this.app.limits, found);
    const accepted = `watched are ${ids.join(", ")}`;
    this.send(encodeError(ERROR.Watchlist, `${error}, ${accepted}`));
  }

  /** Tells the client that a user came or went, unless it knows. */
  tellTransition(userId: string, isOnline: boolean): void {
    if (!this.#watched?.has(userId)) return;
    if (this.#watched.get(userId) === isOnline) return;
    this.#watched.set(userId, isOnline);
    if (this.#isAskingWatched) return;
    const name = isOnline ? "online" : "offline";
    this.send(encodeWatchlist([{ name, user_ids: [userId] }]));
  }

  /** Accepts `pusher:unsubscribe` with `channel`. Answers nothing. */
  #handleUnsubscribe(data: Record<string, unknown> | null): void {
    const name = data?.channel;
    if (typeof name !== "string") {
      return this.#sendError("Unsubscribing takes data with a channel");
    }
    if (!this.#channels?.has(name) || isOwnChannel(name)) return;
    this.#leave(name);
    this.#ownSession?.left(name);
    this.#replay?.drop(name);
  }

  /**
   * Accepts `client-…` with `channel`, and `data` of any kind. It is relayed to
   * the channel's other subscribers, as a frame of our own making: nothing of
   * the sender's is passed on but name and data.
   */
  #handleClientEvent(frame: Frame): Awaitable<void> {
    const { channel, event } = frame;
    if (typeof channel !== "string") {
      return this.#sendError("Client events take a channel");
    }
    const data = frame.data === undefined || typeof frame.data === "string"
      ? frame.data
      : JSON.stringify(frame.data);
    const refusal = this.#checkClientEvent(channel, event, data);
    if (refusal !== null) {
      const { ClientEvent } = ERROR;
      return this.send(encodeError(ClientEvent, refusal, channel));
    }
    const userId = this.#channels?.get(channel);
    const details = {
      event,
      ...(data !== undefined && { data }),
      ...(userId !== undefined && { userId }),
    };
    const { app, socketId } = this;
    return chain(
      this.#server.backplane.publish(app.id, channel, {
        ...details,
        exceptSocketId: socketId,
        logged: true,
      }),
      () =>
        this.#server.hooks.emit("client_event", {
          app: app.id,
          channel,
          socketId,
          ...details,
        }),
    );
  }

  /** Why a client event is not relayed, or null. Takes from the rate last. */
  #checkClientEvent(
    channel: string,
    event: string,
    data: string | undefined,
  ): string | null {
    const { limits } = this.app;
    if (!this.app.clientEvents) return "Client events are not enabled";
    if (!parseChannelName(channel)?.auth) {
      return "Client events are for private and presence channels";
    }
    if (!this.#channels?.has(channel)) {
      return "Client events are for subscribers of the channel";
    }
    const refusal = checkEventName(event, limits) ??
      (data === undefined ? null : checkEventData(data, limits));
    if (refusal !== null) return refusal.error;
    const rate = limits.clientEventsPerSecond;
    this.#clientEvents ??= new TokenBucket(rate);
    if (this.#clientEvents.take(rate, rate)) return null;
    const found = "Client events come too fast";
    return overLimit("clientEventsPerSecond", limits, found).error;
  }

  /**
   * Looks after a connection that is due: asks a silent one for a sign of life,
   * and closes one that gave none, or that has not authorized in time.
   *
   * @returns Ticks until it is due again; 0 once it is gone.
   */
  checkLife(liveness: Liveness): number {
    const { tick, idleTicks, pongTicks, authorizationTicks } = liveness;
    const leftTicks = this.#authorized
      ? Infinity
      : this.#bornAt + authorizationTicks - tick;
    if (leftTicks <= 0) this.close(CLOSE.NotAuthorized);
    if (this.#heardAt < this.#pingedAt) {
      // It may be due for the other reason before the answer is.
      const waitedTicks = tick - this.#pingedAt;
      if (waitedTicks >= pongTicks) this.close(CLOSE.NoPong);
      if (this.#state !== "open") return 0;
      return Math.min(leftTicks, pongTicks - waitedTicks);
    }
    if (this.#state !== "open") return 0;
    this.#pingedAt = -1;
    const silentTicks = tick - this.#heardAt;
    if (silentTicks < idleTicks) {
      return Math.min(leftTicks, idleTicks - silentTicks);
    }
    this.#pingedAt = tick;
    // One that a session waits for the answer to is as good.
    if (this.#ownSession?.startPing() ?? true) this.send(PING_FRAME);
    return Math.min(leftTicks, pongTicks, idleTicks);
  }

  /** Asks a session's client for what it has got. */
  ping(): void {
    this.send(PING_FRAME);
  }

  /** Forgets the session: another connection has it now. */
  dropSession(): void {
    this.#session = null;
  }

  #leave(name: string): void {
    const userId = this.#exit(name);
    const hadLog = this.#canRecover && !name.startsWith(OWN_CHANNEL.Watchers);
    this.#server.leave(this.app, name, userId, hadLog);
  }

  /** Changes both indexes. */
  #enter(name: string, userId: string | undefined): void {
    this.#channels ??= new Map();
    this.#channels.set(name, userId);
    if (isOwnChannel(name)) this.#ownChannels++;
    this.app.channel(name).connections.add(this);
  }

  /** Changes both indexes; returns the user id on a presence channel. */
  #exit(name: string): string | undefined {
    const userId = this.#channels?.get(name);
    this.#channels?.delete(name);
    if (isOwnChannel(name)) this.#ownChannels--;
    this.app.channels.get(name)?.connections.delete(this);
    this.app.dropIfEmpty(name);
    return userId;
  }

  #end({ code, message }: Close): void {
    this.#leaveAll(code);
    closeTransport(this.#transport, code, message);
  }

  #leaveAll(code: number): void {
    if (this.#state !== "open") return;
    this.#state = "gone";
    this.#server.forget(this);
    for (const name of this.#channels?.keys() ?? []) this.#leave(name);
    if (this.#session !== null) {
      this.#server.sessions?.release(this.#session, this);
    }
    this.#session = null;
    this.#replay = null;
    this.#backlog = this.#backlog && [];
    const { app, socketId } = this;
    this.#server.hooks.emit("disconnected", { app: app.id, socketId, code });
  }

  #sendError(message: string, channel?: unknown): void {
    const named = typeof channel === "string" ? channel : undefined;
    this.send(encodeError(ERROR.Generic, message, named));
  }

  /** A refused subscription, in the shape that clients know per channel. */
  #refuse(channel: string, type: string, refusal: Refusal): void {
    this.send(encodeFrame({
      event: OUTBOUND.SubscriptionError,
      channel: channel.slice(0, MAX_ECHOED_UNITS),
      data: {
        type: refusal.limit === undefined ? type : "LimitReached",
        error: refusal.error,
        status: refusal.status,
      },
    }));
  }
}

// How often a client is told that its frames come too fast.
const FLOOD_WARNING_MS = 1_000;

// How far a replay may be ahead of what the client has read.
const REPLAY_BYTES = 262_144;

// Nobody waits for a longer channel, and a large name is not to be sent back.
const MAX_ECHOED_UNITS = 1_000;

/** A client that was turned away, until its transport has closed. */
class RefusedPeer implements Peer {
  readonly #server: Server;
  #released = false;

  constructor(server: Server, transport: Transport, close: Close) {
    this.#server = server;
    try {
      transport.send(encodeError(close.code, close.message));
    } catch {
      // It was to be closed anyway; the close code says the same.
    }
    closeTransport(transport, close.code, close.message);
  }

  receive(): void {
    // What it may have sent before it heard of the refusal is not served.
  }

  heard(): void {
    // Nobody is waiting for it to say something.
  }

  closed(): void {
    if (this.#released) return;
    this.#released = true;
    this.#server.released(true);
  }
}

/** Closes a transport, which may be closed already. */
function closeTransport(
  transport: Transport,
  code: number,
  reason: string,
): void {
  try {
    transport.close(code, reason);
  } catch {
    // There is nothing left to close.
  }
}

// ---- Channel --------------------------------------------------------------
// Who on this server is subscribed to a channel.

/** The subscribers of a channel on this server; there is none without any. */
class Channel {
  readonly connections = new Set<Connection>();
  /** For connections whose join the backplane has not answered yet. */
  #held: Map<Connection, Delivery[]> | null = null;

  get isEmpty(): boolean {
    return this.connections.size === 0 && this.#held === null;
  }

  /** Hands a message to all of them. */
  deliver(delivery: Delivery): void {
    for (const connection of this.connections) connection.deliver(delivery);
    if (this.#held === null) return;
    for (const [connection, waiting] of this.#held) {
      connection.keep(delivery, waiting);
    }
  }

  /** Keeps what is delivered for a connection that is joining. */
  hold(connection: Connection): void {
    this.#held ??= new Map();
    this.#held.set(connection, []);
  }

  /** Hands over what was kept, and keeps no more. */
  release(connection: Connection): Delivery[] {
    const waiting = this.#held?.get(connection) ?? [];
    this.#held?.delete(connection);
    if (this.#held?.size === 0) this.#held = null;
    return waiting;
  }
}
