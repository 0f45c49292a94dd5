/**
 * The joint of backplanes: a backplane keeps what all servers share, and carries
 * events between them.
 *
 * @module
 */

import type { Intercom } from "./intercom.ts";
import type { Journal } from "./journal.ts";
import type { Awaitable, Clock } from "./time.ts";

// ---- Messages and positions -------------------------------------------------

/** An event on its way from a publisher to the subscribers of a channel. */
export interface Message {
  /** The name of the event. */
  readonly event: string;
  /** Its data as a string; absent only where a client sent none. */
  readonly data?: string;
  /** The sender's user, for client events on presence channels. */
  readonly userId?: string;
  /** The connection that does not get it. */
  readonly exceptSocketId?: string;
  /** How long it stays the channel's last event, in milliseconds. */
  readonly cacheMs?: number;
  /** Whether the history keeps it, as it does events of programs and clients. */
  readonly logged?: boolean;
  /**
   * Whether a client sent it, the connection that does not get it: the journal has an
   * entry for it. It need not be delivered with the message.
   */
  readonly fromClient?: boolean;
  /** What servers say to each other in this way; clients do not see it. */
  readonly control?: "terminate" | "online" | "offline";
}

/** A place in the messages of a channel. */
export interface Position {
  /**
   * Positions of different epochs cannot be compared. A new epoch begins where
   * positions that clients know were forgotten.
   */
  readonly epoch: string;
  /**
   * Grows with each message of the channel. Clients are given the offsets of
   * logged messages only, and the history holds no others.
   */
  readonly offset: number;
}

/** A message that a channel's history has kept. */
export interface LoggedMessage {
  /** The message. */
  readonly message: Message;
  /** Its offset. */
  readonly offset: number;
}

/** The last event of a cache channel. */
export interface CachedMessage {
  /** The event. */
  readonly message: Message;
  /** How long it will still be kept, in milliseconds. */
  readonly ttlMs: number;
  /** Where it stands; absent where the channel had no positions at that time. */
  readonly position?: Position | undefined;
}

/**
 * How much is kept so that clients lose nothing while they are away. The history
 * of a channel is kept while a client that can recover is subscribed to it, and
 * for `ageMs` after the last of them has left.
 */
export interface History {
  /** Events of one channel. @default {5000} */
  events: number;
  /**
   * How long an event is kept, and how long a client may be away, in
   * milliseconds. @default {300000}
   */
  ageMs: number;
  /**
   * Bytes of all events of all channels, bookkeeping included, and of the sessions
   * of stock clients that are away. Above it the least recently used channel loses
   * its history. Sessions take up to a quarter of it; above that the session that
   * has been away for longest is forgotten. @default {67108864}
   */
  bytes: number;
  /**
   * Sessions of stock clients that are away. Above it the session that has been
   * away for longest is forgotten; its client gets `pusher:recovery_failed` when
   * it returns. @default {10000}
   */
  sessions: number;
}

// ---- Membership -------------------------------------------------------------

/** A member as it is kept and announced. */
export interface KnownMember {
  /** The user. */
  readonly userId: string;
  /** The user's `user_info` as JSON text. */
  readonly userInfo: string;
}

/** A user about to join a presence channel. */
export interface JoiningMember extends KnownMember {
  /** How many distinct users the channel may have. */
  readonly maxMembers: number;
  /** What to publish to the channel if the user was not there before. */
  readonly added: Message;
}

/** A message that goes with a transition, perhaps to another channel. */
export interface Announcement {
  /** Where it is published. */
  readonly channel: string;
  /** What is published. */
  readonly message: Message;
}

/**
 * What a server holds on a channel from now on. The figures are absolute: to say
 * the same again changes nothing, and a later call mends one that failed.
 */
export interface Holding {
  /**
   * Connections of this server that are subscribed: those of one user on a
   * presence channel, all of them elsewhere.
   */
  readonly connections: number;
  /** Connections of this server on the channel that can recover, of any user. */
  readonly recovering: number;
}

/** What a client that can recover wants of a channel's history. */
export interface HistoryRequest {
  /** The last position that it knows: everything later is wanted. */
  readonly since?: Position | undefined;
  /** How many of the last messages are wanted where there is no `since`. */
  readonly rewind: number;
}

/** What goes with a join. */
export interface JoinOptions extends Holding {
  /** Who joins, on a presence channel. */
  readonly member?: JoiningMember | undefined;
  /** What is published if nobody was subscribed. */
  readonly first?: Announcement | undefined;
  /** What the client wants of the history, where it can recover. */
  readonly history?: HistoryRequest | undefined;
}

/** What goes with a leave. */
export interface LeaveOptions extends Holding {
  /** Who leaves, on a presence channel. */
  readonly userId?: string | undefined;
}

/** What a client finds on a channel that it joins. */
export interface JoinResult {
  /**
   * User ids and their `user_info` as JSON text, the joining user included. A map
   * that was handed out does not change any more.
   */
  readonly members: ReadonlyMap<string, string>;
  /** The last event, if the channel has kept one. */
  readonly cached?: CachedMessage | undefined;
  /**
   * Where the subscription begins. This result covers the messages up to here;
   * later messages are delivered.
   */
  readonly position: Position;
  /** What the history has for the client; absent where none is kept. */
  readonly replay?: ReplayStart | undefined;
}

/** Where the replay of a client begins that joins. */
export interface ReplayStart {
  /** Whether the history reaches back to `since`; false where there was none. */
  readonly recovered: boolean;
  /**
   * The client gets the logged messages later than this, up to the position of
   * the {@linkcode JoinResult}, with {@linkcode Backplane.read}.
   */
  readonly from: Position;
}

/** Which part of a channel's history is wanted. */
export interface PageRequest {
  /** Only messages later than this. */
  readonly after: Position;
  /** Only messages up to this offset. */
  readonly until: number;
  /** At most so many messages. */
  readonly events: number;
  /** At most so many bytes of data, about; a page has at least one message. */
  readonly bytes: number;
}

/** A part of a channel's history. */
export interface Page {
  /** In their order. */
  readonly messages: readonly LoggedMessage[];
  /** The page covers everything up to this offset; the next one begins here. */
  readonly reaches: number;
}

/**
 * A change in who is subscribed to a channel. Each change is told to one server,
 * once: to the server that caused it, or to another one where that has died.
 */
export interface Transition {
  /** Connections that are subscribed now, of all servers. */
  readonly subscriptions: number;
  /** The channel got its first subscriber, or lost its last. */
  readonly occupancy?: "occupied" | "vacated" | undefined;
  /** The user whose first connection came. */
  readonly memberAdded?: string | undefined;
  /** The user whose last connection left. */
  readonly memberRemoved?: string | undefined;
}

/** How many are on a channel. */
export interface Occupancy {
  /** Connections subscribed. */
  readonly subscriptions: number;
  /** Distinct users; 0 unless it is a presence channel. */
  readonly users: number;
}

// ---- Sessions ---------------------------------------------------------------

/** What a stock client has acknowledged, over all of its connections. */
export interface SessionState {
  /** Socket ids that the client has had, the latest first. */
  readonly formerIds: readonly string[];
  /** By channel, the last position that the client is known to have got. */
  readonly positions: ReadonlyMap<string, Position>;
  /**
   * Whether the session was forgotten before, and the client may still come back to
   * channels that have no position: it has lost messages of these. @default {false}
   */
  readonly hasLost?: boolean;
}

/**
 * Sessions of stock clients, so that any server can go on with one. One server
 * owns a session at a time.
 */
export interface SessionStore {
  /**
   * Makes this server the owner of a session. The server that owned it until now
   * gets {@linkcode BackplaneNode.taken}; so does this one if the call is carried out
   * late, and another server has taken the session since it was made, or if it is for
   * a connection that the client has left for another.
   *
   * @param ageMs For how long the client's connection has been there.
   * @returns What was kept of the session last; `"forgotten"` if there was
   * something once, but it has been forgotten; `null` if the session is new.
   */
  take(
    app: string,
    id: string,
    ageMs?: number,
  ): Awaitable<SessionState | "forgotten" | null>;
  /**
   * Keeps the state of a session that this server owns. A session of which nothing
   * is known becomes this server's, as everything may have been forgotten since it
   * took the session.
   *
   * @param isAway Whether the client is gone. The session ages from then on, and
   * nobody owns it.
   */
  keep(
    app: string,
    id: string,
    state: SessionState,
    isAway: boolean,
  ): Awaitable<void>;
  /** Drops a session that this server owns and that has nothing to remember. */
  forget(app: string, id: string): Awaitable<void>;
}

// ---- The joints -------------------------------------------------------------

/** What a server holds on one channel, to be registered again. */
export interface Held extends JoinOptions {
  /** Id of the app. */
  readonly app: string;
  /** The channel. */
  readonly channel: string;
}

/** What is published when a user's, or the channel's, last connection is gone. */
export interface Departure {
  /** To the channel itself, when a user's last connection has left it. */
  readonly removed?: Message | undefined;
  /** When the channel has lost its last subscriber. */
  readonly last?: Announcement | undefined;
}

/** What a {@linkcode Backplane} calls: the server that uses it. */
export interface BackplaneNode {
  /** Names this run of the server among all that share the backplane. */
  readonly id: string;
  /** The bounds of the history; null where none is to be kept. */
  readonly history: Readonly<History> | null;
  /** What ages and timers go by. */
  readonly clock: Clock;
  /**
   * Hands a message to this server's own subscribers of a channel: each message
   * once, in the order of their offsets. The server drops what a subscriber has
   * from its join, so messages may come before or after the answer to a join.
   */
  deliver(
    app: string,
    channel: string,
    message: Message,
    position: Position,
  ): void;
  /** Says that somebody came or left. Hooks and webhooks are fed by this alone. */
  changed(app: string, channel: string, transition: Transition): void;
  /**
   * Says that messages of a channel before `now` are lost to this server. Its
   * subscribers get `pusher:recovery_failed` and go on from there. A delivery of
   * another epoch than the one before says the same.
   *
   * @param until Up to which offset messages are lost: one past that of `now` where
   * subscribers hear yet, in this turn of the event loop, what is said at that offset.
   * @default {now.offset}
   */
  lost(app: string, channel: string, now: Position, until?: number): void;
  /**
   * Says that another server has taken a session that this one owned, and has not
   * taken again since.
   */
  taken(app: string, sessionId: string): void;
  /** What this server holds, for a backplane that has forgotten it. */
  held(): Iterable<Held>;
  /**
   * What to publish when the last connection of a user, or of a channel, is gone.
   * It is the same on each server, so that one can speak for another that died.
   */
  departure(channel: string, userId: string | undefined): Departure;
  /** What to publish of a member that this server has missed the coming of. */
  arrival(channel: string, member: KnownMember): Message;
  /**
   * Says whether the backplane can be reached: once at each change, after
   * {@linkcode Backplane.start} has succeeded, when it is up.
   */
  health(isUp: boolean, cause?: unknown): void;
  /** Reports a failure that no call rejects with. */
  failed(error: unknown, during: string): void;
}

/**
 * Keeps what all servers of a deployment share, and carries every event from its
 * publisher to each server. A method that answers without a promise answers in
 * the same turn of the event loop. A call that rejects may have been carried out
 * or not: the server says the truth again with its next call.
 *
 * To write one:
 * - *Order.* Messages of one channel have increasing offsets, and each server
 *   delivers them in that order. Messages of one server reach a channel in the
 *   order of its calls, answered or not. A server may call while a message is
 *   delivered to it: what comes of that follows the message on each server.
 * - *Transitions.* A join or leave changes the figures, publishes what goes with
 *   the transition, and has one server told with
 *   {@linkcode BackplaneNode.changed}, all in one atomic step.
 * - *Joins and messages.* The answer to a join covers every message up to its
 *   position. The server keeps later messages that are delivered before the
 *   answer, and drops earlier ones that are delivered after it, so no fence
 *   between the two is needed.
 * - *History.* It holds messages that are `logged`, of channels with subscribers
 *   that can recover, within the bounds of {@linkcode BackplaneNode.history}. It
 *   is read in pages: nobody holds a copy of what a slow client has not read.
 * - *Loss.* A gap that cannot be filled is told with
 *   {@linkcode BackplaneNode.lost}, never passed over. Who has come and gone in a gap
 *   is delivered afterwards, see {@linkcode BackplaneNode.arrival} and
 *   {@linkcode BackplaneNode.departure}. Where everything was
 *   forgotten, a new epoch begins, and what the servers hold is registered again,
 *   see {@linkcode BackplaneNode.held}.
 *   That is no transition: nobody has come or gone.
 * - *Away.* While it cannot be reached, calls reject at once, and wait for nothing:
 *   with a {@linkcode BackplaneUnavailable}, or an error with the same field. The
 *   server lets subscriptions and sign-ins wait, and reports no such failure, as
 *   {@linkcode BackplaneNode.health} has said it.
 * - *Death.* What a dead server held is let go as if it had left, after some
 *   time, with its transitions, which a living server is told.
 * - *Names.* Channels whose name starts with `#` are the servers' own: who is
 *   signed in, `#server-to-user-ID`, and who watches whom, `#watchers-of-ID`. A
 *   join of the one may announce to the other. User ids may have
 *   every character. Other channels have none but `A-Z a-z 0-9 _ - = @ , . ;`, and
 *   ids of apps have no white space.
 *
 * The contract suite in `tests/support/backplane_contract.ts` checks all of it, and
 * says how to run it for a backplane of your own.
 */
export interface Backplane {
  /** Where sessions of stock clients are kept. */
  readonly sessions: SessionStore;
  /**
   * What has happened on the channels of all servers; absent where everything ends
   * with this process, whose hooks say the same.
   */
  readonly journal?: Journal | undefined;
  /**
   * How servers talk to each other beside events; absent where they cannot. Then the
   * debug console shows its own server only.
   */
  readonly intercom?: Intercom | undefined;
  /**
   * Called before anything else. It may take time: until it is done, the server lets
   * requests wait. If it rejects, the server serves none, and calls it again after
   * some seconds. Where {@linkcode Backplane.close} is called in the meantime, it
   * gives up.
   */
  start(node: BackplaneNode): Awaitable<void>;
  /**
   * Accepts a message and has every server deliver it. A message with `cacheMs`
   * becomes the channel's last event, whether or not anybody is there.
   */
  publish(app: string, channel: string, message: Message): Awaitable<void>;
  /**
   * Says that one more connection of this server is subscribed.
   *
   * @returns Null when the user would be one more than the channel may have; then
   * nothing has changed.
   */
  join(
    app: string,
    channel: string,
    options: JoinOptions,
  ): Awaitable<JoinResult | null>;
  /**
   * Says that fewer connections of this server are subscribed. Figures above those
   * that are held change nothing: they count a join that was not carried out.
   */
  leave(app: string, channel: string, options: LeaveOptions): Awaitable<void>;
  /**
   * Reads logged messages of a channel.
   *
   * @returns Null if the history does not reach back to `after` any more.
   */
  read(
    app: string,
    channel: string,
    request: PageRequest,
  ): Awaitable<Page | null>;
  /** User ids and their `user_info` as JSON text. */
  members(
    app: string,
    channel: string,
  ): Awaitable<ReadonlyMap<string, string>>;
  /** The last event of a channel that keeps one; null if it has expired. */
  cached(app: string, channel: string): Awaitable<CachedMessage | null>;
  /** Zeros for a channel that nobody is on. */
  occupancy(app: string, channel: string): Awaitable<Occupancy>;
  /** All channels that somebody is on, whose names start with `prefix`. */
  occupied(
    app: string,
    prefix: string,
  ): Awaitable<ReadonlyMap<string, Occupancy>>;
  /** How much is kept in this process; absent where that is not known. */
  usage?(): BackplaneUsage;
  /** Releases everything. What this server still holds is let go. */
  close(): Awaitable<void>;
}

/** What a backplane keeps in the memory of this process. */
export interface BackplaneUsage {
  /** Bytes of the history of all channels, about. */
  readonly historyBytes: number;
  /** Events in the history of all channels. */
  readonly historyEvents: number;
  /** Sessions of clients that are away. */
  readonly sessionsAway: number;
}
