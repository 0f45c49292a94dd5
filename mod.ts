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
 * const app = () => new Response("my own program");
 * // For `Deno.serve(handler)`.
 * const handler = Pusher.cascade(Pusher.handler, app);
 * await Pusher.trigger("messages", "create", { text: "hello" });
 *
 * const script = await handler(new Request("http://localhost/pusher.js"));
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
 * - A client that loses its connection gets the events that it has missed when
 *   it returns: exactly once with our own client, at least once with a stock
 *   client that names a session. See {@linkcode PusherOptions.history}. If an
 *   event can no longer be recovered, the client gets `pusher:recovery_failed`.
 *
 * @module
 */

import {
  API_ROUTES,
  type ApiRoute,
  apiRouteName,
  refuseCall,
  triggerResponse,
} from "./core/api_calls.ts";
import { checkRequestSignature, readApiBody } from "./core/api_requests.ts";
import { authenticateForm, authorizeForm } from "./core/auth_answers.ts";
import {
  type AnswerRules,
  type AuthApps,
  type AuthForm,
  findApp,
  readAuthForm,
  unknownApp,
} from "./core/auth_requests.ts";
import type {
  Backplane,
  BackplaneNode,
  Departure,
  Held,
  History,
  HistoryRequest,
  JoiningMember,
  JoinResult,
  KnownMember,
  Message,
  Position,
  Transition,
} from "./core/backplane.ts";
import type {
  AnyEvents,
  Authenticate,
  Authorize,
  BatchEvent,
  ChannelAuth,
  ChannelCounts,
  ChannelDescription,
  ChannelName,
  ChannelsFilter,
  Encryption,
  EventData,
  EventName,
  GetOptions,
  Hooks,
  Member,
  MemberOf,
  PostOptions,
  PublishResult,
  ReviewClientEvent,
  SignedQueryOptions,
  Stats,
  TriggerParams,
  TriggerResponse,
  UserAuth,
  UserData,
} from "./core/calls.ts";
import {
  cascade,
  type Handler,
  preferred,
  serveAtLast,
} from "./core/cascade.ts";
import {
  ClientEvents,
  type ClientEventsOwner,
  type Relayed,
} from "./core/client_events.ts";
import { Delivery } from "./core/deliveries.ts";
import { Drain, DRAIN_TICK_MS } from "./core/drain.ts";
import { readExtensions, splitSession } from "./core/extensions.ts";
import type { Meter, PublishSource } from "./core/figures.ts";
import { Holdings } from "./core/holdings.ts";
import { HookQueue } from "./core/hooks.ts";
import type { AppJournal, NotedKind } from "./core/journal.ts";
import {
  checkRequest,
  closeOrigin,
  compileOrigins,
  corsHeaders,
  isSecure,
  notFound,
  type OriginCheck,
  type OriginVerdict,
  parseUrl,
  refuse,
  refuseMethod,
  refuseOrigin,
  whenStarted,
} from "./core/http.ts";
import { Inbox, type InboxOwner, type InboxServices } from "./core/inbox.ts";
import {
  type Client,
  clientOf,
  inspect,
  type Inspection,
  noteInfo,
} from "./core/inspection.ts";
import {
  accepted,
  DEFAULT_LIMITS,
  isRefusal,
  type Limits,
  overLimit,
  quote,
  type Refusal,
} from "./core/limits.ts";
import {
  isClosing,
  Liveness,
  Pulse,
  type PulseOwner,
} from "./core/liveness.ts";
import { NO_MEMBERS } from "./core/memory.ts";
import { MemoryBackplane } from "./core/memory_backplane.ts";
import { type MeasuredServer, ServerMeter, Traffic } from "./core/meter.ts";
import { defaultSockets } from "./core/open_files.ts";
import { lowerCaseNames } from "./core/parameters.ts";
import {
  checkCloseOptions,
  checkFilter,
  checkInfoParams,
  readOptions,
} from "./core/option_checks.ts";
import {
  type AppOptions,
  clockOf,
  DEFAULT_HISTORY,
  defaultAppOptions,
  type PusherOptions,
  readEnvironment,
} from "./core/options.ts";
import { credentialsOf } from "./core/keys.ts";
import {
  Outbox,
  type OutboxOwner,
  type OutboxServices,
} from "./core/outbox.ts";
import {
  announceUser,
  AUTH_NOT_SERVED,
  type ChannelKind,
  checkVersion,
  CLIENT_EVENT_PREFIX,
  CLOSE,
  type Close,
  decodeData,
  encodeError,
  encodeFrame,
  encodeMessage,
  encodeSubscribed,
  ERROR,
  type Frame,
  INBOUND,
  isOwnChannel,
  joiningMember,
  kindOf,
  memberAddedMessage,
  memberRemovedMessage,
  type NamedChannel,
  OUTBOUND,
  OWN_CHANNEL,
  parseJson,
  PING_FRAME,
  PONG_FRAME,
  randomSocketId,
  REFUSAL,
  type ReplayFields,
} from "./core/protocol.ts";
import {
  type Asking,
  checkChannelInfo,
  checkListInfo,
  countChannels,
  describeChannel,
  listChannels,
  listUsers,
  statsOf,
} from "./core/queries.ts";
import { PostponedQueue } from "./core/postponed.ts";
import { Quota } from "./core/quota.ts";
import { routePath } from "./core/routes.ts";
import {
  apiRequest,
  checkBatchFields,
  expectSuccess,
  readTriggerParams,
  readUrl,
  RequestError,
  signedQuery,
} from "./core/sdk.ts";
import { serveClient, serveFallback } from "./core/served_client.ts";
import {
  hasGap,
  NO_HISTORY,
  readHistoryRequest,
  type Resumable,
  type Session,
  sessionChannels,
  Sessions,
} from "./core/sessions.ts";
import { SocketCount } from "./core/sockets.ts";
import {
  channelText,
  decodePart,
  Signer,
  userText,
  Webhook,
  WebHookError,
  type WebhookRequest,
} from "./core/signatures.ts";
import { Start } from "./core/start.ts";
import {
  countMessage,
  SubscriptionCounts,
} from "./core/subscription_counts.ts";
import {
  all,
  attempt,
  type Awaitable,
  chain,
  type Clock,
  delay,
  withinMs,
} from "./core/time.ts";
import type { Peer, Transport } from "./core/transport.ts";
import {
  afterPublish,
  isUnavailable,
  refusalOf,
  together,
} from "./core/unavailable.ts";
import { Unsettled } from "./core/unsettled.ts";
import {
  type Admission,
  type Admitted,
  answerSubprotocol,
  chooseSubprotocol,
  connectSocket,
  namedVersion,
  Openings,
  RefusedPeer,
  upgradeSocket,
} from "./core/upgrade.ts";
import {
  checkChannelName,
  checkMember,
  checkPresenceName,
  checkSocketId,
  checkUser,
  checkUserId,
  checkUserInfoSize,
  encodeMember,
  encodeUser,
  type KnownUser,
  parseBatch,
  parsePublish,
  type Publish,
  type Seal,
  sealWith,
  sharedSecretOf,
} from "./core/validation.ts";
import { warnOf } from "./core/warnings.ts";
import { OutboxSchedule } from "./core/visits.ts";
import { Watchlist, type WatchlistOwner } from "./core/watchlist.ts";

export type * from "./core/backplane.ts";
export type * from "./core/calls.ts";
export type * from "./core/figures.ts";
export type { Intercom } from "./core/intercom.ts";
export type * from "./core/journal.ts";
export type { Handler } from "./core/cascade.ts";
export type { OriginRule } from "./core/http.ts";
export type { Client, Inspection, LiveConnection } from "./core/inspection.ts";
export type { Limits } from "./core/limits.ts";
export { MemoryBackplane } from "./core/memory_backplane.ts";
export type { AppOptions, PusherOptions } from "./core/options.ts";
export { RequestError } from "./core/sdk.ts";
export {
  type Credentials,
  Webhook,
  type WebhookData,
  WebHookError,
  type WebhookEvent,
  type WebhookRequest,
} from "./core/signatures.ts";
export type { Awaitable, Clock } from "./core/time.ts";
export type { Peer, Transport } from "./core/transport.ts";
export { BackplaneUnavailable } from "./core/unavailable.ts";

// ---- Pusher -----------------------------------------------------------------
// The public face: it checks the program's arguments and passes them on. A Pusher
// is the view of one app of a Server.

/**
 * A Pusher server, or the view of one of its apps. Its members, by task:
 * - Serve clients: `handler`, `cascade`, `path`; over other transports: `open`.
 * - Publish: `trigger`, `triggerBatch`, `sendToUser`.
 * - Sign permissions: `authorizeChannel`, `authenticateUser`, `authenticate`.
 * - Look up: `channels`, `channel`, `users`, `stats`.
 * - Listen: `on`; read webhooks of another server: `webhook`.
 * - Disconnect: `terminateUserConnections`, `close`, `[Symbol.asyncDispose]`.
 * - Use the HTTP API without HTTP: `get`, `post`, `createSignedQueryString`.
 * - See another app: `app`; extend it: `clock`, `inspect`, `journal`, `meter`.
 *
 * All except `app`, `journal` and `[Symbol.asyncDispose]` exist as statics, too,
 * on one default instance. It is made on first use and reads `PUSHER_APP_ID`,
 * `PUSHER_APP_KEY`, `PUSHER_APP_SECRET` and `PUSHER_PATH` where reading the environment is
 * permitted already. Statics only: `forURL`, `forCluster`, `RequestError`, `WebHookError`.
 *
 * The command `deno doc --filter Pusher.trigger jsr:@glitz/pusher` prints one member.
 *
 * @example Private channels, answered in the same program
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { assertEquals } from "@std/assert";
 *
 * const pusher = new Pusher({
 *   authorize: (request, { channel }) =>
 *     channel === "private-news" && request.headers.has("cookie"),
 * });
 *
 * const headers = { cookie: "session=1" };
 * const form = { socket_id: "123.456", channel_name: "private-news" };
 * const body = new URLSearchParams(form);
 * const url = "http://localhost/pusher/auth";
 * const request = new Request(url, { method: "POST", headers, body });
 * const { status } = await pusher.handler(request);
 * assertEquals(status, 200);
 * ```
 *
 * @typeParam Events Channel to event to data; without it everything is allowed.
 */
export class Pusher<Events extends object = AnyEvents> {
  /** {@linkcode RequestError}, as the official SDK has it. */
  static readonly RequestError: typeof RequestError = RequestError;
  /** {@linkcode WebHookError}, as the official SDK has it. */
  static readonly WebHookError: typeof WebHookError = WebHookError;
  static #default: Pusher | undefined;
  readonly #app: App;
  /** The app whose hooks are heard, or null for all. */
  readonly #hears: string | null;

  /**
   * Serves the routes of Pusher, and answers every other request with 404, its
   * body unread. It may be passed around without its object.
   */
  readonly handler: (
    request: Request,
    info?: Deno.ServeHandlerInfo,
  ) => Awaitable<Response>;

  /**
   * Makes a server. It takes no resources until the first request.
   *
   * @param options See {@linkcode PusherOptions}; checked at once.
   * @throws {TypeError} If an option is unknown or of the wrong kind.
   * @throws {RangeError} If a figure is outside its range.
   */
  constructor(options: PusherOptions<Events> = {}) {
    const { [VIEWED]: viewed }: ViewOptions = Object(options);
    this.#hears = viewed?.id ?? null;
    // Answers of `authorize` are checked at run time, whatever `Events` says.
    const untyped = options as unknown as PusherOptions;
    this.#app = viewed ?? new Server(untyped).defaultApp;
    // Its `length` is 1: a handler with two arguments is taken for one of Node.
    this.handler = (request, info = undefined) =>
      handle(this.#app.server, noteInfo(request, info));
  }

  /** The clock of the server, for extensions that belong to it. */
  get clock(): Clock {
    return this.#app.server.clock;
  }

  /** What happens to the app on all servers, where the backplane keeps it. */
  get journal(): AppJournal | null {
    const { id: app, server: { backplane: { journal } } } = this.#app;
    return journal === undefined ? null : { app, journal };
  }

  /** Measures the whole server, for extensions that report its figures. */
  get meter(): Meter {
    return this.#app.server.meter;
  }

  /** The prefix of every route, see {@linkcode PusherOptions.path}. */
  get path(): string {
    return this.#app.server.path;
  }

  /**
   * One handler out of several: the first answer that is not 404 wins. If all
   * are 404, the last answer wins.
   *
   * A socket at `/app/{key}` whose key this server does not know is offered to the
   * handlers that follow: other servers, and the program's own sockets. If none of
   * them opens or refuses it, it is closed with 4001, as clients expect. Without a
   * cascade of this kind that happens at once.
   *
   * @param handlers Asked in order.
   * @returns A handler for `Deno.serve`.
   * @throws {TypeError} If one of them is no function. The message says what to pass.
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
   * @param params The connection to leave out, and the counts to return; or, as in
   * old releases of the official SDK, the id of the connection alone.
   * @returns Resolves once the event is accepted, without waiting for clients;
   * rejects if the backplane fails, with a {@linkcode BackplaneUnavailable} while it
   * is away. You need not await it: a failure also goes to the `error` listeners,
   * which hear once that the backplane is away, and not of each call.
   * @throws {TypeError} At once, if an argument is of the wrong kind.
   * @throws {RangeError} At once, if a limit is passed.
   */
  trigger<C extends ChannelName<Events>, N extends EventName<Events, C>>(
    channels: C | readonly C[],
    event: N,
    data: EventData<Events, C, N>,
    params?: TriggerParams | string,
  ): Promise<TriggerResponse> {
    const { limits, seal } = this.#app;
    const what = () => `Cannot trigger ${quote(event)}`;
    const list = typeof channels === "string" ? [channels] : channels;
    const fields = { channels: list, name: event, data };
    const all = { ...readTriggerParams(params, what), ...fields };
    const publish = accepted(parsePublish(all, limits, seal), what);
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
    const { limits, seal } = this.#app;
    const what = "Cannot trigger a batch";
    checkBatchFields(batch, what);
    const publishes = accepted(parseBatch(batch, limits, seal), what);
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
    const what = () => `Cannot send ${quote(event)} to a user`;
    const id = accepted(checkUserId(userId, this.#app.limits), what);
    const channels = [OWN_CHANNEL.User + id];
    const publish = accepted(
      parsePublish({ channels, name: event, data }, this.#app.limits),
      what,
    );
    return respond(this.#app, this.#app.server.publish(this.#app, publish));
  }

  /**
   * Closes every connection that is signed in as a user. Their clients do not
   * reconnect by themselves.
   *
   * @param userId The user, connected or not.
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
   * Signs a user's identity, for programs with an auth endpoint of their own.
   *
   * @param socketId The client's connection.
   * @param user Who signs in.
   * @returns What the client expects as JSON.
   * @throws {TypeError} If the socket id or the user is not valid.
   */
  authenticateUser(socketId: string, user: UserData): UserAuth {
    const what = "Cannot authenticate a user";
    accepted(checkSocketId(socketId), what);
    const data = accepted(encodeUser(user, this.#app.limits), what);
    return this.#app.signer.authenticate(socketId, data);
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
    const what = () => `Cannot authorize ${quote(channel)}`;
    accepted(checkSocketId(socketId), what);
    const kind = accepted(checkChannelName(channel, limits), what);
    // A client that has signed in may join a presence channel as its user.
    const data = kind.presence && member !== undefined
      ? accepted(encodeMember(member, limits), what)
      : JSON.stringify(member);
    return this.#app.authorize(socketId, { name: channel, kind }, data);
  }

  /**
   * The former name of {@linkcode authorizeChannel}.
   *
   * @deprecated As in the official SDK.
   */
  authenticate(
    ...given: Parameters<Pusher<Events>["authorizeChannel"]>
  ): ChannelAuth {
    return this.authorizeChannel(...given);
  }

  /**
   * Reads a webhook that some Pusher server sent to this program.
   *
   * @param request Its headers, as a `Headers` or an object, and its body as text,
   * unchanged.
   * @returns The webhook. Trust it only if `isValid()`.
   * @throws {TypeError} If there are no headers, or the body is not a string.
   */
  webhook(request: WebhookRequest): Webhook {
    return new Webhook(this.#app.signer.credentials, request);
  }

  /**
   * Asks the HTTP API of this server, without a network: the same routes and
   * answers, signed as the app.
   *
   * @param options The path behind `/apps/{id}`, and parameters.
   * @returns The answer, whose status is below 400.
   * @throws {TypeError} At once, if an option is unknown or of the wrong kind.
   * @throws {RequestError} Later, by rejecting, if the API refuses the request.
   *
   * @example
   * ```ts
   * import { Pusher } from "@glitz/pusher";
   * import { assertEquals } from "@std/assert";
   *
   * const pusher = new Pusher();
   * const response = await pusher.get({ path: "/channels", params: {} });
   * assertEquals(await response.json(), { channels: {} });
   * ```
   */
  get(options: GetOptions): Promise<Response> {
    const request = apiRequest(this.#app, "GET", options);
    return expectSuccess(request, this.handler(request));
  }

  /**
   * Sends a request to the HTTP API of this server, see {@linkcode get}. It encrypts
   * nothing.
   *
   * @param options The path behind `/apps/{id}`, the body, and parameters.
   * @returns As {@linkcode get}.
   * @throws {TypeError} At once, if an option is unknown or of the wrong kind.
   * @throws {RequestError} Later, by rejecting, if the API refuses the request.
   */
  post(options: PostOptions): Promise<Response> {
    const request = apiRequest(this.#app, "POST", options);
    return expectSuccess(request, this.handler(request));
  }

  /**
   * Signs a request to the HTTP API that the program sends on its own.
   *
   * @param options The method, the whole path, the body and parameters.
   * @returns The query of the request.
   * @throws {TypeError} If an option is unknown or of the wrong kind.
   */
  createSignedQueryString(options: SignedQueryOptions): string {
    return signedQuery(this.#app, options);
  }

  get #asking(): Asking {
    return this.#app.server.asking(this.#app);
  }

  /**
   * Lists the channels that somebody is subscribed to.
   *
   * @param filter Which channels, and which counts of each.
   * @returns The body of `GET /apps/{id}/channels`.
   * @throws {TypeError} If the filter is not valid.
   */
  async channels(
    filter: ChannelsFilter = {},
  ): Promise<{ channels: Record<string, ChannelCounts> }> {
    const what = "Cannot list channels";
    checkFilter(filter, { subject: what, name: "filter" });
    const { filter_by_prefix: prefix = "" } = filter;
    const info = accepted(checkListInfo(prefix, filter.info), what);
    return await listChannels(this.#asking, prefix, info);
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
    checkInfoParams(params, { subject: what, name: "params" });
    const kind = accepted(checkChannelName(name, this.#app.limits), what);
    const info = accepted(checkChannelInfo(kind, params.info), what);
    return await describeChannel(this.#asking, { name, kind }, info);
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
    return await listUsers(this.#asking, name);
  }

  /**
   * Reports figures of the whole server, all apps together. It is cheap enough to
   * be called each second with ten thousand connections.
   *
   * @returns The figures of this moment.
   */
  stats(): Stats {
    return this.#app.server.stats();
  }

  /**
   * Shows who is connected to this server: to all of its apps, or, in the view of one
   * app, to that app. It is what the debug console shows.
   *
   * @returns See {@linkcode Inspection}.
   */
  inspect(): Inspection {
    return inspect(this.#app.server, this.#hears);
  }

  /**
   * Listens to lifecycle events. Listeners run after the change, in order, in a
   * microtask of their own. A listener that throws, rejects or is slow disturbs
   * nothing else; its error goes to the `error` listeners.
   *
   * With several apps, the main instance hears all of them, and the view of one
   * app hears its own; `event.app` tells which.
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
    const view: PusherOptions<Others> & ViewOptions = { [VIEWED]: app };
    return new Pusher<Others>(view);
  }

  /**
   * Connects a client over a transport that is ready to send. Sockets need no
   * such call, {@linkcode handler} opens them.
   *
   * @param transport Where frames go.
   * @param key The app key that the client named.
   * @param request The request that asked for the connection: its query says the
   * protocol version, its headers the origin.
   * @returns Takes the client's frames. A refused client has got its error and is
   * being closed.
   */
  open(transport: Transport, key: string, request: Request): Peer {
    const url = new URL(request.url);
    const admission = this.#app.server.admit(key, request, url);
    // The runtime does not watch over such a transport.
    return this.#app.server.open(transport, { ...admission, idleTimeout: 0 });
  }

  /**
   * Drains and closes the server: it refuses new sockets, closes its connections
   * with 4200, at an even pace, so that clients reconnect elsewhere, and closes the
   * backplane. The HTTP API serves until then. Stop the HTTP server afterwards. A
   * view of one app closes the whole server, too.
   *
   * @param options `over`: milliseconds over which the closes are spread, so that
   * clients do not all reconnect at once. 0 by default. A second call with less time
   * hastens the first.
   * @returns Resolves when the clients are gone and the backplane has closed; it
   * waits a second for each of them after the last close.
   * @throws {TypeError} At once, if an option is unknown or of the wrong kind.
   * @throws {RangeError} At once, if `over` is not a duration.
   */
  close(options: { over?: number } = {}): Promise<void> {
    checkCloseOptions(options, { subject: "Cannot close", name: "" });
    return this.#app.server.close(options.over ?? 0);
  }

  /** Closes at once, see {@linkcode close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Makes a server whose app a URL names, as `PUSHER_URL` does; the host of the URL
   * is ignored.
   *
   * @param url Such as `https://key:secret@host/apps/id`.
   * @param options See {@linkcode PusherOptions}; the URL comes first.
   * @throws {TypeError} If the URL has no key, secret or app.
   */
  static forURL(url: string, options?: PusherOptions): Pusher {
    return new Pusher({ ...options, ...readUrl(url) });
  }

  /** The constructor, as the official SDK has it for a cluster, which is ignored. */
  static forCluster(cluster: string, options?: PusherOptions): Pusher {
    return new Pusher({ ...options, cluster });
  }

  static get #instance(): Pusher {
    return Pusher.#default ??= new Pusher(readEnvironment());
  }

  /** {@linkcode Pusher.clock} of the default instance. */
  static get clock(): Clock {
    return Pusher.#instance.clock;
  }

  /** {@linkcode Pusher.meter} of the default instance. */
  static get meter(): Meter {
    return Pusher.#instance.meter;
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

  /** See {@linkcode Pusher.cascade}; it needs no instance. */
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
    params?: TriggerParams | string,
  ): Promise<TriggerResponse> {
    return Pusher.#instance.trigger(channels, event, data, params);
  }

  /** {@linkcode Pusher.triggerBatch} of the default instance. */
  static triggerBatch(batch: readonly BatchEvent[]): Promise<TriggerResponse> {
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

  /**
   * {@linkcode Pusher.authenticate} of the default instance.
   *
   * @deprecated As in the official SDK.
   */
  static authenticate(
    ...given: Parameters<Pusher["authorizeChannel"]>
  ): ChannelAuth {
    return Pusher.#instance.authorizeChannel(...given);
  }

  /** {@linkcode Pusher.get} of the default instance. */
  static get(options: GetOptions): Promise<Response> {
    return Pusher.#instance.get(options);
  }

  /** {@linkcode Pusher.post} of the default instance. */
  static post(options: PostOptions): Promise<Response> {
    return Pusher.#instance.post(options);
  }

  /** {@linkcode Pusher.createSignedQueryString} of the default instance. */
  static createSignedQueryString(options: SignedQueryOptions): string {
    return Pusher.#instance.createSignedQueryString(options);
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

  /** {@linkcode Pusher.stats} of the default instance. */
  static stats(): Stats {
    return Pusher.#instance.stats();
  }

  /** {@linkcode Pusher.inspect} of the default instance. */
  static inspect(): Inspection {
    return Pusher.#instance.inspect();
  }

  /** {@linkcode Pusher.on} of the default instance. */
  static on<Name extends keyof Hooks>(
    name: Name,
    listener: (event: Hooks[Name]) => unknown,
  ): () => void {
    return Pusher.#instance.on(name, listener);
  }

  /** Closes the default instance; the next use of a static member makes a new one. */
  static close(options?: { over?: number }): Promise<void> {
    const instance = Pusher.#default;
    Pusher.#default = undefined;
    return instance?.close(options) ?? Promise.resolve();
  }
}

// Passes the app of a view to the constructor. The symbol is not exported.
const VIEWED = Symbol("viewed");

interface ViewOptions {
  [VIEWED]?: App;
}

/** Makes the answer of a publish out of the body that the API would send. */
function respond(
  app: App,
  result: Awaitable<PublishResult>,
): Promise<TriggerResponse> {
  const response = Promise.resolve(result).then(triggerResponse);
  // A caller that does not await it must not have its program ended by a failure.
  response.catch((error) =>
    app.server.hooks.fail(error, "publishing an event", app.id)
  );
  return response;
}

// ---- HTTP: routes -----------------------------------------------------------
// Which request is whose, the upgrade to a WebSocket, and the client that is
// served to browsers.

/** Answers any request; an exception inside is a 500 and an `error`. */
function handle(server: Server, request: Request): Awaitable<Response> {
  const response = attempt(() =>
    findRoute(server, checkRequest(request))?.() ?? notFound()
  );
  if (!(response instanceof Promise)) return response;
  return response.catch((error) => {
    server.hooks.fail(error, "serving a request");
    return refuse(REFUSAL.Crashed);
  });
}

/** What serves a request; null for a request that is not ours. */
function findRoute(
  server: Server,
  request: Request,
): (() => Awaitable<Response>) | null {
  // The client chooses the host in it, which may be no host at all.
  const url = parseUrl(request.url);
  const path = url && routePath(url.pathname, server.path);
  if (url === null || path === null) return null;
  const { sessionId, rest } = splitSession(path);
  const parts = rest.split("/");
  const first = parts[1], second = parts[2], more = parts.slice(3);
  if (first === "app" && second && more.length === 0) {
    const key = decodePart(second);
    return () => serveSocket(server, request, url, key);
  }
  // Our client asks beside the route that it connects to.
  if (first === "pusher" && more.length <= 1) {
    return findAuthRoute(server, request, second, more[0]);
  }
  if (sessionId !== null) return null;
  if (first === "apps" && second) {
    const appId = decodePart(second);
    const serve = () => serveApi(server, request, url, appId, more);
    return () => server.meter.request(apiRouteName(more), serve);
  }
  if (path === "/pusher.js" || path === "/pusher.mjs") {
    const { defaultApp: { key }, path: prefix } = server;
    const config = { key, host: url.host, path: prefix };
    return () => serveClient(request, config, path === "/pusher.mjs");
  }
  return path === "/pusher-fallback.mjs" ? () => serveFallback(request) : null;
}

/** `GET /app/{key}`: upgrades to a WebSocket. */
function serveSocket(
  server: Server,
  request: Request,
  url: URL,
  key: string | null,
): Awaitable<Response> {
  const known = key !== null && server.appsByKey.has(key);
  if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
    return known && request.method === "GET"
      ? refuse(REFUSAL.UpgradeRequired, { upgrade: "websocket" })
      : notFound();
  }
  const serve = () =>
    whenStarted(server, () => upgrade(server, request, url, key));
  return known ? serve() : serveAtLast(request, serve);
}

function upgrade(
  server: Server,
  request: Request,
  url: URL,
  key: string | null,
): Response {
  const { limits } = server.appsByKey.get(key ?? "") ?? server;
  if (request.url.length > limits.urlLength) {
    return refuse(overLimit("urlLength", limits, "The URL is too long", 414));
  }
  const admission = server.admit(key ?? "", request, url);
  if (server.sockets.isOverrun(admission.refusal !== null)) {
    // The client has to close it: the runtime would keep the file descriptor.
    return refuse(REFUSAL.OverCapacity, { connection: "close" });
  }
  const subprotocol = chooseSubprotocol(request);
  let upgraded;
  try {
    upgraded = upgradeSocket(request, admission.idleTimeout);
  } catch {
    return refuse(REFUSAL.BadUpgrade);
  }
  answerSubprotocol(upgraded.response, subprotocol);
  const admitted: Admitted = {
    request,
    appId: admission.app?.id,
    open(socket) {
      server.openings.delete(admitted);
      return server.open(socket, admission);
    },
  };
  server.openings.add(admitted);
  connectSocket(upgraded.socket, admitted);
  return upgraded.response;
}

// ---- HTTP: API --------------------------------------------------------------
// What backends call. A request is judged in a fixed order: route, app, key,
// version, time, signature, size, digest, JSON. The signature covers the digest
// of the body, so a body is read only for somebody who knows the secret.

/** Answers a request below `/apps/`. */
function serveApi(
  server: Server,
  request: Request,
  url: URL,
  appId: string | null,
  rest: string[],
): Awaitable<Response> {
  const apiRoute = API_ROUTES.get(apiRouteName(rest));
  const app = server.appsById.get(appId ?? "");
  if (apiRoute === undefined || app === undefined) {
    return refuseCall(request, url, appId, app);
  }
  if (request.method !== apiRoute.method) {
    return refuseMethod(apiRoute.method);
  }
  if (server.ended.aborted) return refuse(REFUSAL.ShuttingDown);
  return whenStarted(server, async () => {
    const answer = await answerCall(app, apiRoute, request, url, rest[1] ?? "");
    if (!isRefusal(answer)) return Response.json(answer);
    server.hooks.refusedRequest(answer, app.id);
    return refuse(answer);
  });
}

/** Checks a call and serves it. */
async function answerCall(
  app: App,
  { method, serve }: ApiRoute,
  request: Request,
  url: URL,
  part: string,
): Promise<object | Refusal> {
  const { server } = app;
  if (!app.enabled) return REFUSAL.AppDisabled;
  if (server.needsTls(app, request)) return REFUSAL.TlsOnly;
  const query = lowerCaseNames(url);
  const now = server.clock.now();
  const unsigned = checkRequestSignature(
    ...[app.signer.credentials, method, url, server.path, query, now] as const,
  );
  if (unsigned !== null) return unsigned;
  const body = await readApiBody(request, query, app.limits, server);
  if (isRefusal(body)) return body;
  const name = decodePart(part);
  if (name === null) return REFUSAL.BadPath;
  try {
    const answer = serve({ server, app, name, query, body });
    return answer instanceof Promise ? await answer : answer;
  } catch (error) {
    server.hooks.fail(error, `serving ${method} ${url.pathname}`, app.id);
    return refusalOf(error, method);
  }
}

// ---- HTTP: auth endpoints ---------------------------------------------------
// Where clients ask the program for permission to join a channel, and for who
// they are.

/** Answers a form, which has been checked. */
type AuthAnswer = (form: AuthForm<App>) => Promise<object | Refusal>;

/**
 * The auth endpoints, where the program answers them; null elsewhere. A last part
 * of the path may name the app by its key or id.
 */
function findAuthRoute(
  server: Server,
  request: Request,
  name: string | undefined,
  appName: string | undefined,
): (() => Awaitable<Response>) | null {
  const { authorize, authenticate } = server;
  const app = appName === undefined ? undefined : decodePart(appName) ?? "";
  if (name === "auth" && authorize !== undefined) {
    const answer: AuthAnswer = (form) => authorizeForm(form, authorize);
    const serve = () => serveAuth(server, request, app, answer);
    return () => server.meter.request("pusher/auth", serve);
  }
  if (name === "user-auth" && authenticate !== undefined) {
    const answer: AuthAnswer = (form) => authenticateForm(form, authenticate);
    const serve = () => serveAuth(server, request, app, answer);
    return () => server.meter.request("pusher/user-auth", serve);
  }
  const refusal = AUTH_NOT_SERVED.get(name);
  if (refusal === undefined) return null;
  const verdict = server.judgeOrigin(server.origins, request);
  return () => refuse(refusal, corsHeaders(request, verdict));
}

/** `POST /pusher/auth` and `/pusher/user-auth`: reads the form and answers it. */
async function serveAuth(
  server: Server,
  request: Request,
  appName: string | undefined,
  answer: AuthAnswer,
): Promise<Response> {
  const verdict = server.judgeOrigin(server.origins, request);
  const cors = corsHeaders(request, verdict);
  // The body is unread: in a cascade the app may be another server's.
  if (appName !== undefined && findApp(server, appName) === undefined) {
    const headers = verdict === false ? {} : cors;
    return preferred(refuse(unknownApp(appName), headers));
  }
  if (verdict !== false && request.method === "OPTIONS") {
    return new Response(null, { status: 204, headers: cors });
  }
  const form = verdict === false
    ? refuseOrigin(request)
    : await readAuthForm(server, request, appName);
  const answered = isRefusal(form)
    ? form
    : server.needsTls(form.app, request)
    ? REFUSAL.TlsOnly
    : await answer(form);
  if (!isRefusal(answered)) return Response.json(answered, { headers: cors });
  const appId = isRefusal(form) ? undefined : form.app.id;
  server.hooks.refusedRequest(answered, appId);
  if (answered.status === 405) {
    return refuse(answered, { ...cors, allow: "POST" });
  }
  return refuse(answered, verdict === false ? {} : cors);
}

// ---- Server and App ---------------------------------------------------------
// What all apps share: connections, backplane, hooks, liveness and the shutdown.
// Every event goes to the backplane through publish and comes back through deliver.
// Every join and leave is stated to the backplane and comes back through changed.

/** A Pusher server without its public face. */
class Server
  implements
    BackplaneNode,
    InboxServices,
    OutboxServices,
    MeasuredServer,
    AuthApps<App>,
    AnswerRules {
  readonly id: string = crypto.randomUUID();
  readonly appsById = new Map<string, App>();
  readonly appsByKey = new Map<string, App>();
  readonly defaultApp: App;
  /** Live connections of all apps by socket id. */
  readonly connections = new Map<string, Connection>();
  readonly hooks: HookQueue;
  readonly meter = new ServerMeter(this);
  readonly liveness: Liveness;
  readonly backplane: Backplane;
  readonly limits: Readonly<Limits>;
  readonly clock: Clock;
  readonly authorize: Authorize | undefined;
  readonly authenticate: Authenticate | undefined;
  readonly cacheTtlMs: number;
  readonly origins: OriginCheck;
  readonly trustProxy: boolean;
  readonly path: string;
  readonly activityTimeoutS: number;
  /** The bounds of the history; null where none is kept. */
  readonly history: Readonly<History> | null;
  /** Sessions of stock clients; null where no history is kept. */
  readonly sessions: Sessions | null;
  readonly schedule: OutboxSchedule;
  readonly openings: Openings<Admitted>;
  readonly postponed: PostponedQueue;
  /** Incoming frames that were dropped for a limit. */
  droppedFrames = 0;
  isBackplaneUp = false;
  readonly answerTimeoutMs: number;
  readonly bodyTimeoutMs: number;
  readonly #strictProtocol: boolean;
  readonly sockets: SocketCount;
  /** Calls of the backplane. */
  readonly #unsettled = new Unsettled();
  readonly #start: Start;
  #closing: Promise<void> | null = null;
  readonly #drain: Drain;
  readonly #end = new AbortController();

  constructor(given: PusherOptions) {
    const options = readOptions(given);
    warnOf(options);
    const clock = clockOf(options);
    this.clock = clock;
    this.hooks = new HookQueue(clock);
    this.#drain = new Drain(clock);
    this.path = options.path ?? "";
    const sockets = options.limits?.sockets ?? defaultSockets();
    this.limits = { ...DEFAULT_LIMITS, ...options.limits, sockets };
    this.sockets = new SocketCount(sockets);
    this.authorize = options.authorize;
    this.authenticate = options.authenticate;
    this.answerTimeoutMs = options.answerTimeoutMs ?? 10_000;
    this.bodyTimeoutMs = options.bodyTimeoutMs ?? 10_000;
    this.cacheTtlMs = options.cacheTtlMs ?? 1_800_000;
    this.origins = compileOrigins(options.origins);
    this.trustProxy = options.trustProxy ?? false;
    this.activityTimeoutS = (options.activityTimeoutMs ?? 120_000) / 1000;
    this.liveness = new Liveness(clock, options);
    this.#strictProtocol = options.strictProtocol ?? false;
    for (const app of options.apps ?? [defaultAppOptions(options)]) {
      const made = new App(this, app, options);
      this.appsById.set(made.id, made);
      for (const { key } of made.signer.credentials) {
        this.appsByKey.set(key, made);
      }
    }
    // readOptions has made sure that `apps` is not empty.
    this.defaultApp = this.appsById.values().next().value!;
    this.schedule = new OutboxSchedule(clock);
    this.postponed = new PostponedQueue(clock);
    this.openings = new Openings(
      clock,
      (error, { appId }) => this.hooks.fail(error, "opening a socket", appId),
    );
    this.history = options.history === false
      ? null
      : { ...DEFAULT_HISTORY, ...options.history };
    this.backplane = options.backplane ?? new MemoryBackplane();
    this.sessions = this.history && new Sessions({
      store: this.backplane.sessions,
      history: this.history,
      clock,
      maxChannels: sessionChannels([...this.appsById.values()]),
      onCall: (call, during) => this.#watch(call, during),
    });
    this.#start = new Start({
      clock,
      begin: () => this.backplane.start(this),
      started: () => this.health(true),
      failed: (error) => this.hooks.notStarted(error),
    });
    if (this.starting === null) this.#reach(true);
  }

  /** See {@linkcode Inspection.isShared}. */
  get isShared(): boolean {
    return !(this.backplane instanceof MemoryBackplane);
  }

  /** See {@linkcode Start.pending}. */
  get starting(): Promise<void> | null {
    return this.#start.pending;
  }

  /** Whether {@linkcode close} was called. */
  get isClosing(): boolean {
    return this.#closing !== null;
  }

  /** Aborts when {@linkcode close} has closed all connections. */
  get ended(): AbortSignal {
    return this.#end.signal;
  }

  // ---- Connections

  /** Whether a request is refused because it did not come over TLS. */
  needsTls(app: App, request: Request): boolean {
    return app.forceTLS && !isSecure(request, this.trustProxy);
  }

  /** Judges a client by its request, before its transport is open. */
  admit(key: string, request: Request, url: URL): Admission<App> {
    const app = this.appsByKey.get(key) ?? null;
    const version = namedVersion(url, request);
    const refusal = app === null
      ? CLOSE.UnknownApp
      : !app.enabled
      ? CLOSE.AppDisabled
      : this.needsTls(app, request)
      ? CLOSE.TlsOnly
      : checkVersion(version, this.#strictProtocol) ??
        (this.judgeOrigin(app.origins, request) ? null : closeOrigin(request));
    const hasHistory = this.history !== null;
    const extensions = readExtensions(url, this.path, hasHistory);
    const isOurs = extensions.batch || extensions.recover;
    const page = isOurs && this.judgeOrigin(this.origins, request);
    const client = clientOf(url, request, this);
    const idleTimeout = this.liveness.idleTimeoutS(client.library ?? null);
    return { app, refusal, extensions, page, idleTimeout, client };
  }

  /** Opens an admitted connection on a transport that is ready to send. */
  open(transport: Transport, admission: Admission<App>): Peer {
    const { app, refusal } = admission;
    this.sockets.enter();
    const close = refusal ?? this.#capacity(app);
    if (app === null || close !== null) {
      this.sockets.refuse();
      const { code, message } = close ?? CLOSE.UnknownApp;
      const known = app && { app: app.id };
      const event = { ...known, what: "connection", reason: message } as const;
      this.hooks.emit("refused", { ...event, code });
      return new RefusedPeer(this.sockets, transport, { code, message });
    }
    let socketId = randomSocketId();
    while (this.connections.has(socketId)) socketId = randomSocketId();
    const connection = new Connection(
      ...[this, app, transport, socketId, admission] as const,
    );
    this.connections.set(connection.socketId, connection);
    app.quota.enter(connection.pulse);
    this.liveness.watch(connection.pulse);
    connection.establish(admission.page);
    return connection;
  }

  #capacity(app: App | null): Close | null {
    if (this.isClosing) return CLOSE.ShuttingDown;
    if (this.sockets.isAboveLimit) return CLOSE.ServerFull;
    return app && app.quota.checkNew();
  }

  /** Removes a closed connection from every index. */
  forget(connection: Connection): void {
    this.connections.delete(connection.socketId);
    connection.app.quota.leave(connection.pulse);
    this.liveness.wheel.remove(connection.pulse);
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

  // ---- Publishing and queries

  /** Publishes one event to each of its channels. */
  publish(
    app: App,
    publish: Publish,
    source: PublishSource = "program",
  ): Awaitable<PublishResult> {
    const call = () => this.#publish(app, publish);
    return this.meter.publish(app.id, source, call);
  }

  #publish(app: App, publish: Publish): Awaitable<PublishResult> {
    const published = publish.channels.map(({ name, kind }) => {
      const message = kind.cache
        ? { ...publish.message, cacheMs: this.cacheTtlMs }
        : publish.message;
      return chain(
        this.ask((backplane) => backplane.publish(app.id, name, message)),
        () => this.hooks.published(app.id, name, message),
      );
    });
    const { channels, info } = publish;
    return chain(together(published), () => {
      if (info.length === 0) return {};
      return afterPublish(countChannels(this.asking(app), channels, info));
    });
  }

  /** Publishes several events in order. */
  publishBatch(
    app: App,
    publishes: readonly Publish[],
    source?: PublishSource,
  ): Awaitable<PublishResult> {
    const results = together(
      publishes.map((item) => this.publish(app, item, source)),
    );
    if (publishes.every((item) => item.info.length === 0)) {
      return chain(results, () => ({}));
    }
    return chain(results, (list) => ({
      batch: list.map(({ channels = {} }) => Object.values(channels)[0] ?? {}),
    }));
  }

  /** Publishes a message of the server's own, or of a client. */
  send(app: App, channel: string, message: Message): Awaitable<void> {
    return this.ask((backplane) => backplane.publish(app.id, channel, message));
  }

  /** Closes every connection that is signed in as a user. */
  terminate(app: App, userId: string): Awaitable<PublishResult> {
    const message = { event: "terminate", control: "terminate" } as const;
    const sent = this.send(app, OWN_CHANNEL.User + userId, message);
    return chain(sent, () => ({}));
  }

  /** Calls the backplane, once it has started. */
  ask<T>(call: (backplane: Backplane) => Awaitable<T>): Awaitable<T> {
    const { backplane, starting, meter } = this;
    const measured = () => meter.backplane(call, backplane);
    return starting === null ? attempt(measured) : starting.then(measured);
  }

  /** Asks about the channels of an app. */
  asking({ id }: App): Asking {
    return (question) => this.ask((backplane) => question(backplane, id));
  }

  /** See {@linkcode Pusher.stats}. */
  stats(): Stats {
    return statsOf(this);
  }

  // ---- Joining and leaving

  /** Joins a channel for one connection; null if there is no room for the user. */
  join(
    channel: Channel,
    member: JoiningMember | undefined,
    history: HistoryRequest | undefined,
  ): Awaitable<JoinResult | null> {
    const { app, name } = channel;
    const holding = channel.holdings.count(
      member?.userId,
      1,
      history !== undefined,
    );
    const first = announceUser(name, "online");
    const options = { ...holding, member, first, history };
    return this.track(
      this.ask((backplane) => backplane.join(app.id, name, options)),
    );
  }

  /**
   * Leaves a channel for one connection. It also follows a join that was refused
   * or that failed, as the backplane may have carried that out.
   */
  leave(channel: Channel, userId: string | undefined, recovers: boolean): void {
    const { app, name } = channel;
    const holding = channel.holdings.count(userId, -1, recovers);
    const left = this.ask((backplane) =>
      backplane.leave(app.id, name, { ...holding, userId })
    );
    this.#watch(left, "leaving a channel", app);
  }

  /** Announces to subscribers how many they are now. */
  announceCount(app: App, channel: string, subscriptionCount: number): void {
    const event = { app: app.id, channel, subscriptionCount };
    this.note("subscription_count", event);
    const sent = this.send(app, channel, countMessage(subscriptionCount));
    this.#watch(sent, "counting subscribers", app);
  }

  /** Tells hooks and journal of what no call of the backplane says. */
  note<Kind extends NotedKind>(kind: Kind, event: Hooks[Kind]): void {
    this.hooks.emit(kind, event);
    const noted = this.backplane.journal?.append({ kind, ...event });
    const app = this.appsById.get(event.app);
    this.#watch(noted, "writing to the journal", app);
  }

  // ---- Called by the backplane

  /** See {@linkcode BackplaneNode.deliver}. */
  deliver(
    appId: string,
    channelName: string,
    message: Message,
    position: Position,
  ): void {
    const { epoch, offset } = position;
    const app = this.appsById.get(appId);
    if (app?.subscriptionCounts) app.counts.heard(channelName, message);
    app?.channels.get(channelName)
      ?.deliver(new Delivery(channelName, message, offset, epoch));
  }

  /** See {@linkcode BackplaneNode.changed}. */
  changed(appId: string, channel: string, change: Transition): void {
    const app = this.appsById.get(appId);
    if (app === undefined || isOwnChannel(channel)) return;
    const { occupancy, memberAdded, memberRemoved, subscriptions } = change;
    const event = { app: appId, channel };
    if (occupancy === "occupied") this.hooks.emit("channel_occupied", event);
    if (memberAdded !== undefined) {
      this.hooks.emit("member_added", { ...event, userId: memberAdded });
    }
    if (memberRemoved !== undefined) {
      this.hooks.emit("member_removed", { ...event, userId: memberRemoved });
    }
    if (app.subscriptionCounts && !kindOf(channel).presence) {
      app.counts.change(channel, subscriptions);
    }
    if (occupancy === "vacated") this.hooks.emit("channel_vacated", event);
  }

  /** See {@linkcode BackplaneNode.lost}. */
  lost(
    ...[appId, channelName, now, until]: Parameters<BackplaneNode["lost"]>
  ): void {
    const channel = this.appsById.get(appId)?.channels.get(channelName);
    for (const one of channel?.subscriptions ?? []) one.lose(now, until);
  }

  /** See {@linkcode BackplaneNode.taken}. */
  taken(appId: string, sessionId: string): void {
    this.sessions?.taken(appId, sessionId);
  }

  /** See {@linkcode BackplaneNode.held}. */
  *held(): Iterable<Held> {
    for (const app of this.appsById.values()) {
      for (const channel of app.channels.values()) yield* channel.held();
    }
  }

  /** See {@linkcode BackplaneNode.departure}. */
  departure(channel: string, userId: string | undefined): Departure {
    return {
      removed: userId === undefined ? undefined : memberRemovedMessage(userId),
      last: announceUser(channel, "offline"),
    };
  }

  /** See {@linkcode BackplaneNode.arrival}. */
  arrival(_channel: string, member: KnownMember): Message {
    return memberAddedMessage(member, "");
  }

  /** See {@linkcode BackplaneNode.health}. */
  health(isUp: boolean, error?: unknown): void {
    if (isUp === this.isBackplaneUp) return;
    this.hooks.backplane(isUp, error);
    this.#reach(isUp);
  }

  #reach(isUp: boolean): void {
    this.isBackplaneUp = isUp;
    if (isUp) this.sessions?.keepAgain();
    this.postponed.change(isUp);
  }

  /** See {@linkcode BackplaneNode.failed}. */
  failed(error: unknown, during: string): void {
    this.hooks.fail(error, during);
  }

  // ---- Calls and shutdown

  /** Reports the failure of a call that only {@linkcode close} waits for. */
  #watch(value: Awaitable<void>, during: string, app?: App): Awaitable<void> {
    if (!(value instanceof Promise)) return;
    return this.track(
      value.catch((error) => this.hooks.fail(error, during, app?.id)),
    );
  }

  /** Lets {@linkcode close} wait for a call. */
  track<T>(value: Awaitable<T>): Awaitable<T> {
    return this.#unsettled.track(value);
  }

  /** See {@linkcode Pusher.close}. A second call joins the first, or hastens it. */
  close(overMs: number): Promise<void> {
    this.#drain.endWithin(overMs);
    return this.#closing ??= this.#close();
  }

  async #close(): Promise<void> {
    this.#start.end();
    while (this.connections.size > 0) {
      let share = this.#drain.share(this.connections.size);
      for (const connection of this.connections.values()) {
        if (share-- === 0) break;
        connection.close(CLOSE.Reconnect);
      }
      if (this.connections.size > 0) await delay(this.clock, DRAIN_TICK_MS);
    }
    await withinMs(this.clock, CLOSE_GRACE_MS, this.#settle());
    this.#closeCounts();
    this.#end.abort();
    this.schedule.endAll();
    this.openings.end();
    const closed = attempt(() => this.backplane.close());
    const watched = this.#watch(closed, "closing the backplane");
    await withinMs(this.clock, CLOSE_GRACE_MS, Promise.resolve(watched));
  }

  /** Waits for the clients to answer the close, and for the backplane. */
  async #settle(): Promise<void> {
    await this.sockets.empty();
    // A leave follows each join whose answer comes too late.
    await this.#unsettled.settled();
    this.#closeCounts();
    await this.#unsettled.settled();
  }

  /** Tells the last counts to subscribers that are on other servers. */
  #closeCounts(): void {
    for (const { counts } of this.appsById.values()) counts.close();
  }
}

// How long the clients, and then the backplane, may take to answer a close; dead
// ones never do.
const CLOSE_GRACE_MS = 1000;

/** Credentials, limits and channels of one app. */
class App {
  readonly server: Server;
  readonly id: string;
  /** The newest key, whose secret signs. */
  readonly key: string;
  readonly enabled: boolean;
  readonly forceTLS: boolean;
  readonly clientEvents: boolean;
  readonly reviewClientEvent: ReviewClientEvent | undefined;
  readonly subscriptionCounts: boolean;
  readonly encryption: Encryption | undefined;
  readonly limits: Readonly<Limits>;
  readonly origins: OriginCheck;
  readonly counts: SubscriptionCounts;
  /** Infinity where clients need not authorize. */
  readonly authorizationTimeoutMs: number;
  readonly quota: Quota;
  readonly traffic = new Traffic();
  /** Channels that a connection of this server is on, or is joining. */
  readonly channels = new Map<string, Channel>();
  /** How many of them are clients' channels. */
  channelCount = 0;
  readonly secret: string;
  readonly signer: Signer;
  readonly seal: Seal;

  constructor(server: Server, own: AppOptions, shared: PusherOptions) {
    this.server = server;
    this.id = own.id;
    this.signer = new Signer(credentialsOf(own));
    ({ key: this.key, secret: this.secret } = this.signer.credentials[0]!);
    this.enabled = own.enabled ?? true;
    this.forceTLS = own.forceTLS ?? shared.forceTLS ?? false;
    const clientEvents = own.clientEvents ?? shared.clientEvents ?? false;
    this.clientEvents = clientEvents !== false;
    if (typeof clientEvents === "function") {
      this.reviewClientEvent = clientEvents;
    }
    this.subscriptionCounts = own.subscriptionCounts ??
      shared.subscriptionCounts ?? false;
    this.encryption = own.encryption ?? shared.encryption;
    this.seal = sealWith(this.encryption);
    this.limits = { ...DEFAULT_LIMITS, ...shared.limits, ...own.limits };
    this.authorizationTimeoutMs = own.authorizationTimeoutMs ??
      shared.authorizationTimeoutMs ?? Infinity;
    this.quota = new Quota(this.limits, this.authorizationTimeoutMs);
    // Sockets may come from anywhere unless `origins` is given.
    this.origins = compileOrigins(own.origins ?? shared.origins ?? "*");
    this.counts = new SubscriptionCounts(
      server.clock,
      (channel, count) => server.announceCount(this, channel, count),
      server.asking(this),
    );
  }

  /** The channel of a name, made where there is none. */
  channel({ name, kind }: NamedChannel): Channel {
    const known = this.channels.get(name);
    if (known !== undefined) return known;
    const channel = new Channel(this, name, kind);
    this.channels.set(name, channel);
    if (!isOwnChannel(name)) this.channelCount++;
    return channel;
  }

  /** Forgets a channel that no connection is on, nor is joining. */
  dropIfEmpty(channel: Channel): void {
    if (!channel.isEmpty || !this.channels.delete(channel.name)) return;
    if (!isOwnChannel(channel.name)) this.channelCount--;
  }

  /** Signs a permission to subscribe. The arguments have been checked. */
  authorize(
    socketId: string,
    { name, kind }: NamedChannel,
    channelData?: string,
  ): ChannelAuth {
    const signed = this.signer.authorize(socketId, name, channelData);
    const secret = kind.encrypted
      ? sharedSecretOf(this.encryption, name)
      : undefined;
    return secret === undefined ? signed : { ...signed, shared_secret: secret };
  }
}

// ---- Connection -------------------------------------------------------------
// One client, from the established frame to its last. Owns its state and its
// subscriptions and knows nothing of HTTP. Frames come in through an Inbox and go
// out through an Outbox. Invariant: `#subscriptions` names exactly the channels
// that hold this connection: both sides change together, in Channel.

/** Takes the result of a join, and what was wanted of the history. */
type Answer = (result: JoinResult | null, request?: HistoryRequest) => void;

/**
 * A client's connection.
 *
 * ```text
 * open ──> gone ──> released
 *   gone: out of every channel and count, closing, nothing more is sent
 *   released: the transport has closed; a dead client can delay that for long
 * ```
 */
class Connection
  implements
    Peer,
    Resumable,
    InboxOwner,
    OutboxOwner,
    PulseOwner,
    WatchlistOwner,
    ClientEventsOwner {
  readonly app: App;
  readonly socketId: string;
  readonly outbox: Outbox;
  readonly #server: Server;
  readonly #inbox: Inbox;
  readonly pulse: Pulse;
  readonly client: Client;
  #state: "open" | "gone" | "released" = "open";
  /** Whether the client may come back for the history of its channels. */
  readonly #canRecover: boolean;
  /** The session that a stock client named. Its connection may claim it. */
  #session: Session | null = null;
  /** By channel; the server's own channels, too. */
  #subscriptions: Map<string, Subscription> | null = null;
  /** How many of them are the server's own. */
  #ownChannels = 0;
  /** The user who has signed in. */
  #user: KnownUser | null = null;
  #watchlist: Watchlist | null = null;
  #clientEvents: ClientEvents | null = null;

  constructor(
    server: Server,
    app: App,
    transport: Transport,
    socketId: string,
    { extensions, idleTimeout, client }: Admission<App>,
  ) {
    const { recover, sessionId } = extensions;
    this.#server = server;
    this.app = app;
    this.socketId = socketId;
    this.client = client;
    this.outbox = new Outbox(transport, server, this, extensions);
    this.#inbox = new Inbox(this, server);
    this.pulse = new Pulse(
      ...[server.liveness, this, idleTimeout === 0] as const,
      app.authorizationTimeoutMs,
    );
    if (sessionId !== null && server.sessions !== null) {
      this.#session = server.sessions.join(app.id, sessionId, this);
    }
    this.#canRecover = recover || this.#session !== null;
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** Sends the first frame, which a client waits for. */
  establish(page: OriginVerdict): void {
    // Alone: the client learns from it whether batches will come.
    this.outbox.sendAlone(encodeFrame({
      event: OUTBOUND.Established,
      data: JSON.stringify({
        socket_id: this.socketId,
        activity_timeout: this.#server.activityTimeoutS,
        ...this.outbox.grants(this.#server, page),
      }),
    }));
    this.#emit("connected", {});
  }

  // ---- Frames in

  receive(frame: unknown): void {
    if (this.#state !== "open") return;
    this.pulse.heard();
    // A client that does not read its answers gets no more of them.
    this.outbox.judge();
    if (this.#state !== "open") return;
    if (typeof frame !== "string") return this.close(CLOSE.BinaryFrame);
    this.#inbox.receive(frame);
  }

  heard(): void {
    this.pulse.heard();
  }

  dispatch(frame: Frame): Awaitable<void> {
    switch (frame.event) {
      case INBOUND.Ping:
        return this.outbox.send(PONG_FRAME);
      case INBOUND.Pong:
        this.pulse.answers = true;
        // Every frame is a sign of life. This one also acknowledges.
        return this.outbox.session?.acknowledge();
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
    this.sendError("Event is not supported");
  }

  // ---- Subscribing

  /**
   * Accepts `pusher:subscribe` with `channel`, and `auth` and `channel_data`
   * where the channel asks for them. Answers `subscription_succeeded` or
   * `subscription_error`.
   */
  #handleSubscribe(data: Record<string, unknown> | null): Awaitable<void> {
    const name = data?.channel;
    if (data === null || typeof name !== "string") {
      return this.sendError("Subscribing takes data with a channel");
    }
    if (name.startsWith(OWN_CHANNEL.User)) return this.#confirmUser(name);
    const { limits } = this.app;
    const kind = checkChannelName(name, limits);
    if (isRefusal(kind)) return this.#refuse(name, "InvalidChannel", kind);
    const isRepeated = this.#subscriptions?.has(name) ?? false;
    const count = (this.#subscriptions?.size ?? 0) - this.#ownChannels;
    // Before the signature, whose check costs more.
    if (!isRepeated && count >= limits.channelsPerConnection) {
      const found = "Too many channels";
      const refusal = overLimit("channelsPerConnection", limits, found, 403);
      return this.#refuse(name, "LimitReached", refusal);
    }
    const channel = { name, kind };
    const channelData = typeof data.channel_data === "string"
      ? data.channel_data
      : undefined;
    const text = channelText(this.socketId, name, channelData);
    if (kind.auth && !this.app.signer.permits(data.auth, text)) {
      const { BadSignature, IllFormedData } = REFUSAL;
      const refusal = text.isWellFormed() ? BadSignature : IllFormedData;
      return this.#refuse(name, "AuthError", refusal);
    }
    const member = kind.presence ? this.#memberFor(channelData) : undefined;
    if (isRefusal(member)) {
      const type = member.status === 401 ? "AuthError" : "InvalidChannelData";
      return this.#refuse(name, type, member);
    }
    return isRepeated
      ? this.#confirmAgain(channel)
      : this.#subscribe(channel, member, data);
  }

  /** Takes a place among the authorized connections; without one it is closed. */
  #authorize(): boolean {
    return this.#isPlaced(this.app.quota.authorize(this.pulse));
  }

  /** Before a join, so that no member comes and goes for want of a place. */
  #isPlaced(full: Close | null): boolean {
    if (full === null) return true;
    const { code, message: reason } = full;
    this.#emit("refused", { what: "connection", reason, code });
    this.close(full);
    return false;
  }

  /** Who joins a presence channel: the member in the data, or the user. */
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
    channel: NamedChannel,
    member: KnownMember | undefined,
    data: Record<string, unknown>,
  ): Awaitable<void> {
    const { name, kind } = channel;
    const { limits, quota } = this.app;
    if (kind.auth && !this.#isPlaced(quota.check(this.pulse))) return;
    const joining = member &&
      joiningMember(member, limits.presenceMembers, this.socketId);
    const joined = attempt(() =>
      this.#join(channel, joining, data, (result, request) => {
        if (result === null) {
          const full = "The channel is full";
          const refusal = overLimit("presenceMembers", limits, full, 403);
          return this.#refuse(name, "LimitReached", refusal);
        }
        // Another client may have taken the last place in the meantime.
        if (kind.auth && !this.#authorize()) return;
        this.#confirm(channel, result, request);
      })
    );
    if (!(joined instanceof Promise)) return;
    return joined.catch((error) => {
      if (isUnavailable(error)) throw error;
      this.#server.hooks.fail(error, "joining a channel", this.app.id);
      this.#refuse(name, "ServerError", REFUSAL.SubscribeFailed);
    });
  }

  /** What the client wants of a channel's history, if it can recover. */
  #historyRequest(
    channel: string,
    data: Record<string, unknown>,
  ): Awaitable<HistoryRequest | undefined> {
    if (!this.#canRecover) return undefined;
    if (this.outbox.hasPositions) {
      return readHistoryRequest(data, this.app.limits.rewindEvents);
    }
    const session = this.#session;
    if (session === null) return NO_HISTORY;
    return chain(this.#server.track(session.claim(this)), () => {
      // Another connection may have claimed it in the meantime.
      if (this.#session !== session) return NO_HISTORY;
      this.outbox.session = session;
      this.outbox.formerIds = session.ids;
      return session.request(channel);
    });
  }

  /** Joins a channel, once its session knows what the client has missed. */
  #join(
    named: NamedChannel,
    member: JoiningMember | undefined,
    data: Record<string, unknown> | null,
    answer: Answer,
  ): Awaitable<void> {
    const asked = data === null
      ? undefined
      : this.#historyRequest(named.name, data);
    return chain(asked, (request) => {
      if (this.#state !== "open") return;
      return this.app.channel(named).join(this, member, request, answer);
    });
  }

  /** Confirms a repeated subscription, without another join. */
  #confirmAgain(channel: NamedChannel): Awaitable<void> {
    const { name, kind } = channel;
    const members = kind.presence
      ? this.#server.ask((one) => one.members(this.app.id, name))
      : NO_MEMBERS;
    const cached = kind.cache
      ? this.#server.ask((one) => one.cached(this.app.id, name))
      : null;
    return chain(all([members, cached]), ([list, last]) => {
      this.#confirm(channel, { members: list, cached: last ?? undefined });
    });
  }

  #confirm(
    { name, kind }: NamedChannel,
    result: Pick<JoinResult, "members" | "cached"> & Partial<JoinResult>,
    request?: HistoryRequest,
  ): void {
    const { members, cached, replay } = result;
    const list = kind.presence ? members : null;
    const fields = this.outbox.positionFields(replay, request);
    this.outbox.send(encodeSubscribed(name, list, fields));
    if (request !== undefined) this.#begin(name, result, request);
    if (!kind.cache) return;
    // A client that recovers has got the last event, or gets it with the replay.
    const { position } = cached ?? {};
    const isReplayed = replay !== undefined && position !== undefined &&
      position.epoch === replay.from.epoch &&
      position.offset > replay.from.offset;
    if (replay?.recovered || isReplayed) return;
    if (cached !== undefined) {
      return this.outbox.send(encodeMessage(name, cached.message));
    }
    this.outbox.send(encodeFrame({ event: OUTBOUND.CacheMiss, channel: name }));
    this.#server.note("cache_miss", { app: this.app.id, channel: name });
  }

  #begin(
    channel: string,
    result: Partial<JoinResult>,
    request: HistoryRequest,
  ): void {
    this.outbox.begin(channel, result, request);
    if (request.since === undefined) return;
    const recovered = !hasGap(result.replay, request);
    this.#emit("recovered", { channel, recovered });
  }

  /** Accepts `pusher:unsubscribe` with `channel`. Answers nothing. */
  #handleUnsubscribe(data: Record<string, unknown> | null): void {
    const name = data?.channel;
    if (typeof name !== "string") {
      return this.sendError("Unsubscribing takes data with a channel");
    }
    const subscription = this.#subscriptions?.get(name);
    if (subscription === undefined || isOwnChannel(name)) return;
    this.#leave(subscription);
    this.outbox.session?.end(name);
  }

  // ---- Users

  /** A user's events need no subscription, but a client may ask for one. */
  #confirmUser(channel: string): void {
    if (this.#user !== null && channel === OWN_CHANNEL.User + this.#user.id) {
      return this.outbox.send(encodeSubscribed(channel, null));
    }
    this.#refuse(channel, "AuthError", REFUSAL.ForeignUser);
  }

  /**
   * Accepts `pusher:signin` with `auth` and `user_data`. Answers
   * `signin_success` and the state of the users on the watchlist; or an error,
   * and the connection keeps its user.
   */
  #handleSignIn(data: Record<string, unknown> | null): Awaitable<void> {
    const userData = data?.user_data;
    if (typeof userData !== "string") {
      return this.#refuseSignIn("there is no user_data");
    }
    const text = userText(this.socketId, userData);
    if (!this.app.signer.permits(data?.auth, text)) {
      const why = text.isWellFormed()
        ? "the signature is not made for this connection and user"
        : "user_data is not well-formed Unicode, it has a lone surrogate";
      return this.#refuseSignIn(why);
    }
    const user = checkUser(parseJson(userData), this.app.limits);
    if (isRefusal(user)) return this.#refuseSignIn(user.error);
    if (this.#user !== null) {
      if (this.#user.id !== user.id) {
        const why = "the connection is signed in as another user";
        return this.#refuseSignIn(why);
      }
      this.#confirmSignIn(user, userData);
      return this.#watch(user);
    }
    if (!this.#isPlaced(this.app.quota.check(this.pulse))) return;
    const name = OWN_CHANNEL.User + user.id;
    const channel = { name, kind: kindOf(name) };
    const joined = this.#join(channel, undefined, data, (result, request) => {
      if (!this.#authorize()) return;
      const fields = this.outbox.positionFields(result?.replay, request);
      this.#confirmSignIn(user, userData, fields);
      if (result && request) this.outbox.begin(name, result, request);
    });
    return chain(joined, () => {
      if (this.#state === "open") return this.#watch(user);
    });
  }

  #confirmSignIn(
    user: KnownUser,
    userData: string,
    fields: ReplayFields = {},
  ): void {
    this.#user = user;
    this.outbox.send(encodeFrame({
      event: OUTBOUND.SignedIn,
      data: JSON.stringify({ user_data: userData }),
      ...fields,
    }));
  }

  #refuseSignIn(why: string): void {
    const reason = `Signing in failed: ${why}`;
    this.outbox.send(encodeError(ERROR.SignIn, reason));
    this.#emit("refused", { what: "signin", reason, code: ERROR.SignIn });
  }

  #watch({ watchlist }: KnownUser): Awaitable<void> {
    this.#watchlist ??= new Watchlist(this);
    return this.#watchlist.watch(watchlist);
  }

  joinWatchers(userId: string): Awaitable<void> {
    const name = OWN_CHANNEL.Watchers + userId;
    if (this.#subscriptions?.has(name)) return;
    const channel = { name, kind: kindOf(name) };
    return this.#join(channel, undefined, null, () => {});
  }

  leaveWatchers(userId: string): void {
    const known = this.#subscriptions?.get(OWN_CHANNEL.Watchers + userId);
    if (known !== undefined) this.#leave(known);
  }

  isOnline(userId: string): Awaitable<boolean> {
    const { id } = this.app;
    const name = OWN_CHANNEL.User + userId;
    const asked = this.#server.ask((one) => one.occupancy(id, name));
    return chain(asked, ({ subscriptions }) => subscriptions > 0);
  }

  /** Obeys a message from a server, which came over one of its own channels. */
  obey(control: NonNullable<Message["control"]>, channel: string): void {
    if (control === "terminate") return this.close(CLOSE.Terminated);
    const userId = channel.slice(OWN_CHANNEL.Watchers.length);
    this.#watchlist?.change(userId, control === "online");
  }

  // ---- Client events

  /**
   * Accepts `client-…` with `channel`, and `data` of any kind. The channel's other
   * subscribers get a new frame: only name and data come from the sender.
   */
  #handleClientEvent({ channel, event, data }: Frame): Awaitable<void> {
    if (typeof channel !== "string") {
      return this.sendError("Client events take a channel");
    }
    this.#clientEvents ??= new ClientEvents(this, this.#server);
    return this.#clientEvents.take(channel, event, data);
  }

  get userId(): string | undefined {
    return this.#user?.id;
  }

  get subscriptions(): Iterable<Subscription> {
    return this.#subscriptions?.values() ?? [];
  }

  subscriptionTo(channel: string): Subscription | undefined {
    return this.#subscriptions?.get(channel);
  }

  relay(channel: string, event: Relayed): Awaitable<void> {
    const { app, socketId } = this;
    const sender = { exceptSocketId: socketId, fromClient: true };
    const message = { ...event, ...sender, logged: true };
    const send = () => this.#server.send(app, channel, message);
    return chain(this.#server.meter.publish(app.id, "client", send), () => {
      this.#emit("client_event", { channel, ...event });
    });
  }

  refuseClientEvent(name: string, reason: string): void {
    const channel = name.slice(0, MAX_ECHOED_UNITS);
    const { ClientEvent: code } = ERROR;
    this.outbox.send(encodeError(code, reason, channel));
    this.#emit("refused", { what: "client_event", reason, code, channel });
  }

  // ---- Liveness

  ping(): void {
    this.outbox.send(PING_FRAME);
  }

  get unreadBytes(): number {
    return this.outbox.pendingBytes;
  }

  get isClosing(): boolean {
    return isClosing(this.outbox.transport);
  }

  get isBusy(): boolean {
    return this.#inbox.isBusy;
  }

  askForLife(): void {
    // A session's outstanding ping doubles as the liveness ping.
    if (this.outbox.session?.startPing() ?? true) this.ping();
  }

  dropSession(): void {
    this.#session = this.outbox.session = null;
  }

  // ---- Channels and the end

  /** Called by the channel when this connection has joined it. */
  enter(subscription: Subscription): void {
    const { name } = subscription.channel;
    this.#subscriptions ??= new Map();
    this.#subscriptions.set(name, subscription);
    if (isOwnChannel(name)) this.#ownChannels++;
  }

  #leave(subscription: Subscription): void {
    const { name } = subscription.channel;
    this.#subscriptions?.delete(name);
    if (isOwnChannel(name)) this.#ownChannels--;
    this.outbox.endReplay(name);
    subscription.channel.leave(subscription);
  }

  /** Sends the reason to the client, and closes. */
  close(close: Close): void {
    if (this.#state !== "open") return;
    if (close.code >= 4000) {
      this.outbox.send(encodeError(close.code, close.message));
    }
    this.outbox.flush();
    this.giveUp(close);
  }

  /** Closes without a frame. */
  giveUp(close: Close): void {
    if (this.#state !== "open") return;
    this.#leaveAll(close.code);
    this.outbox.end(close);
  }

  closed(code: number): void {
    if (this.#state === "released") return;
    this.#leaveAll(code);
    this.outbox.drop();
    this.#state = "released";
    this.#server.sockets.release(false);
  }

  #leaveAll(code: number): void {
    if (this.#state !== "open") return;
    this.#state = "gone";
    this.#server.forget(this);
    this.#inbox.clear();
    this.outbox.close();
    for (const subscription of this.subscriptions) this.#leave(subscription);
    if (this.#session !== null) {
      this.#server.sessions?.release(this.#session, this);
    }
    this.dropSession();
    this.#emit("disconnected", { code });
  }

  sendError(message: string, channel?: unknown): void {
    const named = typeof channel === "string"
      ? channel.slice(0, MAX_ECHOED_UNITS)
      : undefined;
    this.outbox.send(encodeError(ERROR.Generic, message, named));
  }

  // ---- Refusals and hooks

  /** Refuses a subscription, in the shape that clients know per channel. */
  #refuse(name: string, type: string, refusal: Refusal): void {
    const channel = name.slice(0, MAX_ECHOED_UNITS);
    const { error, status, limit } = refusal;
    this.outbox.send(encodeFrame({
      event: OUTBOUND.SubscriptionError,
      channel,
      data: {
        type: limit === undefined ? type : "LimitReached",
        error,
        status,
      },
    }));
    const refused = { what: "subscription", reason: error, channel } as const;
    this.#emit("refused", { ...refused, code: status });
  }

  /** Emits a lifecycle event of this connection. */
  #emit<Name extends ConnectionHook>(
    name: Name,
    fields: Omit<Hooks[Name], "app" | "socketId">,
  ): void {
    const { hooks } = this.#server;
    if (!hooks.has(name)) return;
    // It is complete with the two fields; the compiler cannot infer that here.
    const event = { app: this.app.id, socketId: this.socketId, ...fields };
    hooks.emit(name, event as unknown as Hooks[Name]);
  }
}

type ConnectionHook =
  | "connected"
  | "disconnected"
  | "recovered"
  | "refused"
  | "client_event";

// No client waits for a longer channel, and a large name must not be sent back.
const MAX_ECHOED_UNITS = 1_000;

// ---- Channel ----------------------------------------------------------------
// The subscribers of a channel on this server, and what each of them gets.

/** One connection's subscription to one channel. */
class Subscription {
  readonly channel: Channel;
  readonly connection: Connection;
  /** The member that it joined as, on a presence channel. */
  readonly member: KnownMember | undefined;
  /** Whether the client may come back for events that it has missed. */
  readonly recovers: boolean;
  /** Where it began, or goes on after a loss: the join covers earlier messages. */
  #epoch: string;
  #offset: number;

  constructor(
    channel: Channel,
    connection: Connection,
    member: KnownMember | undefined,
    recovers: boolean,
    from: Position,
  ) {
    this.channel = channel;
    this.connection = connection;
    this.member = member;
    this.recovers = recovers;
    this.#epoch = from.epoch;
    this.#offset = from.offset;
  }

  /** Takes a message of the channel, unless the join covers it. */
  take(delivery: Delivery): void {
    const { epoch, offset } = delivery;
    if (epoch !== this.#epoch) this.lose({ epoch, offset: offset - 1 }, offset);
    if (offset <= this.#offset) return;
    if (delivery.control === undefined) {
      this.connection.outbox.deliver(delivery);
    } else this.connection.obey(delivery.control, this.channel.name);
  }

  /** Goes on from a position. See {@linkcode BackplaneNode.lost}. */
  lose(now: Position, until?: number): void {
    ({ epoch: this.#epoch, offset: this.#offset } = now);
    const { channel: { name }, connection: { outbox } } = this;
    outbox.endReplay(name);
    const isUser = name.startsWith(OWN_CHANNEL.User);
    // A client that cannot recover hears of it, too: nothing else would tell it.
    if (isUser || !isOwnChannel(name)) outbox.tellLost(name, now, until);
  }
}

/** A channel as far as this server's connections are concerned. */
class Channel {
  readonly app: App;
  readonly name: string;
  readonly kind: ChannelKind;
  readonly subscriptions = new Set<Subscription>();
  /** Outboxes of connections that are joining, and deliveries for afterwards. */
  #joining: Map<Outbox, Delivery[]> | null = null;
  readonly holdings = new Holdings();

  constructor(app: App, name: string, kind: ChannelKind) {
    this.app = app;
    this.name = name;
    this.kind = kind;
  }

  /**
   * Joins a connection. `answer` gets the result before the client gets messages
   * that were published in the meantime. It is not called if the client is gone.
   */
  join(
    connection: Connection,
    member: JoiningMember | undefined,
    request: HistoryRequest | undefined,
    answer: Answer,
  ): Awaitable<void> {
    const { outbox } = connection;
    const recovers = request !== undefined;
    // Before the call: messages from now on may be later than the join's position.
    const waiting: Delivery[] = [];
    this.#joining ??= new Map();
    this.#joining.set(outbox, waiting);
    const settle = () => {
      this.#joining?.delete(outbox);
      if (this.#joining?.size === 0) this.#joining = null;
      outbox.unhold(waiting);
    };
    const undo = () => this.#undo(member?.userId, recovers);
    const enter = (result: JoinResult | null): Awaitable<void> => {
      settle();
      if (result === null || !connection.isOpen) undo();
      if (!connection.isOpen) return;
      if (result === null) return answer(null);
      const { replay, position } = result;
      const subscription = new Subscription(
        ...[this, connection, member, recovers, position] as const,
      );
      this.#add(subscription);
      answer(result, request);
      if (!connection.isOpen) return;
      const replayed = replay &&
        outbox.replay(this.name, replay.from, position.offset);
      for (const delivery of waiting) subscription.take(delivery);
      return replayed;
    };
    const joined = this.app.server.join(this, member, request);
    if (!(joined instanceof Promise)) return enter(joined);
    return joined.then(enter, (error) => {
      settle();
      undo();
      throw error;
    });
  }

  /** Adds a subscription. Changes both indexes. */
  #add(subscription: Subscription): void {
    this.subscriptions.add(subscription);
    subscription.connection.enter(subscription);
    this.#emit("subscribed", subscription);
  }

  /** Ends a subscription that its connection has removed. */
  leave(subscription: Subscription): void {
    this.subscriptions.delete(subscription);
    this.#emit("unsubscribed", subscription);
    this.#undo(subscription.member?.userId, subscription.recovers);
  }

  #undo(userId: string | undefined, recovers: boolean): void {
    this.app.server.leave(this, userId, recovers);
    this.app.dropIfEmpty(this);
  }

  #emit(
    hook: "subscribed" | "unsubscribed",
    { connection: { socketId }, member }: Subscription,
  ): void {
    const { app: { id: app, server: { hooks } }, name: channel } = this;
    if (!hooks.has(hook) || isOwnChannel(channel)) return;
    const user = member === undefined ? {} : { userId: member.userId };
    hooks.emit(hook, { app, channel, socketId, ...user });
  }

  get isEmpty(): boolean {
    return this.subscriptions.size === 0 && this.#joining === null;
  }

  /** Hands a message to all subscribers. */
  deliver(delivery: Delivery): void {
    for (const subscription of this.subscriptions) subscription.take(delivery);
    if (this.#joining === null) return;
    for (const [outbox, waiting] of this.#joining) {
      outbox.hold(delivery, waiting, CLOSE.ServerFull);
    }
  }

  /** See {@linkcode BackplaneNode.held}. */
  *held(): Iterable<Held> {
    const { app: { id: app, limits }, name: channel } = this;
    const { all, users } = this.holdings;
    const about = { app, channel, ...all };
    if (users === null) {
      yield { ...about, first: announceUser(channel, "online") };
      return;
    }
    const members = new Map<string, KnownMember>();
    for (const { member } of this.subscriptions) {
      if (member !== undefined) members.set(member.userId, member);
    }
    for (const [userId, connections] of users) {
      const known = members.get(userId);
      // The join that is under way registers such a user.
      if (known === undefined) continue;
      const member = joiningMember(known, limits.presenceMembers, "");
      yield { ...about, connections, member };
    }
  }
}
