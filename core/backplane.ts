/**
 * The two joints of the server. A backplane keeps what all servers share and carries
 * events between them; a transport carries frames to one client.
 *
 * @module
 */

import type { Awaitable } from "./time.ts";

// ---- Messages and positions

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
  /** Whether logs keep it: they do so with events of programs and clients. */
  readonly logged?: boolean;
  /** What the servers tell each other in this way; clients do not see it. */
  readonly control?: "terminate" | "online" | "offline";
}

/** The last event of a cache channel. */
export interface CachedMessage {
  /** The event. */
  readonly message: Message;
  /** How long it will still be kept, in milliseconds. */
  readonly ttlMs: number;
}

/** A place in the messages of a channel. */
export interface Position {
  /** Positions of different epochs cannot be compared: something was forgotten. */
  readonly epoch: string;
  /** Grows with each message of the channel; not every one is there. */
  readonly offset: number;
}

/** A message that a channel's log has kept. */
export interface LoggedMessage {
  /** The message. */
  readonly message: Message;
  /** Its offset. */
  readonly offset: number;
}

/** What a client that can recover wants of a channel's log as it joins. */
export interface LogRequest {
  /** The last position it knows: everything later is wanted. */
  readonly since?: Position | undefined;
  /** How many of the last messages are wanted where `since` is of no use. */
  readonly rewind: number;
}

/** What a channel's log had for a client that joins. */
export interface Replay {
  /** Whether everything later than `since` is here; false without a `since`. */
  readonly recovered: boolean;
  /** Where the messages begin: whatever is later follows, here or delivered. */
  readonly position: Position;
  /** In their order. */
  readonly messages: readonly LoggedMessage[];
}

/**
 * How much is kept so that clients lose nothing while they are away. It is kept
 * for channels that a client which can recover has subscribed to, and for no
 * others.
 */
export interface History {
  /** Events of one channel. @default {5000} */
  events: number;
  /**
   * How long an event is kept, and so how long a client may be away, in
   * milliseconds. @default {300000}
   */
  ageMs: number;
  /**
   * Bytes of all events of all channels, with what their keeping takes. Past it
   * the channel that was not used for longest loses its own. @default {67108864}
   */
  bytes: number;
  /**
   * Sessions of stock clients that are away. Past it the one that has been away
   * for longest is forgotten, and told so if it comes back. @default {10000}
   */
  sessions: number;
}

export const DEFAULT_HISTORY: Readonly<History> = Object.freeze({
  events: 5_000,
  ageMs: 300_000,
  bytes: 67_108_864,
  sessions: 10_000,
});

// ---- Membership

/** A user about to join a presence channel. */
export interface JoiningMember {
  /** The user. */
  readonly userId: string;
  /** The user's `user_info` as JSON text. */
  readonly userInfo: string;
  /** How many distinct users the channel may have. */
  readonly maxMembers: number;
  /** What to publish to the channel if the user was not there before. */
  readonly added: Message;
}

/** A member as it is kept and announced. */
export type KnownMember = Pick<JoiningMember, "userId" | "userInfo">;

/** A user about to leave a presence channel. */
export interface LeavingMember {
  /** The user. */
  readonly userId: string;
  /** What to publish to the channel if it was the user's last connection. */
  readonly removed: Message;
}

/** A message that goes with a transition, perhaps to another channel. */
export interface Announcement {
  /** Where it is published. */
  readonly channel: string;
  /** What is published. */
  readonly message: Message;
}

/** What goes with a join. */
export interface JoinOptions {
  /** Who joins, on a presence channel. */
  readonly member?: JoiningMember | undefined;
  /** What is published if nobody was there. */
  readonly first?: Announcement | undefined;
  /**
   * Given by clients that can recover: has the channel's log kept from now on,
   * and asks for what is in it.
   */
  readonly log?: LogRequest | undefined;
}

/** What goes with a leave. */
export interface LeaveOptions {
  /** Who leaves, on a presence channel. */
  readonly member?: LeavingMember | undefined;
  /** What is published if nobody is there any more. */
  readonly last?: Announcement | undefined;
  /** Whether the join that is undone had a `log`. */
  readonly log?: boolean | undefined;
}

/** What a join changed. */
export interface JoinResult {
  /** Connections subscribed, this one included: 1 says that the channel was empty. */
  readonly subscriptions: number;
  /** Whether the user was not there before. */
  readonly memberAdded: boolean;
  /**
   * User ids and their `user_info` as JSON text, this one included. A map that
   * was handed out does not change any more.
   */
  readonly members: ReadonlyMap<string, string>;
  /** The last event, if the channel has kept one. */
  readonly cached?: Message | undefined;
  /** Offset of the last message that this result knows of. */
  readonly offset: number;
  /** What was asked of the log, where one is kept. */
  readonly replay?: Replay | undefined;
}

/** What a leave changed. */
export interface LeaveResult {
  /** Connections still subscribed: 0 says that the channel is empty now. */
  readonly subscriptions: number;
  /** Whether it was the user's last connection. */
  readonly memberRemoved: boolean;
}

/** How many are on a channel. */
export interface Occupancy {
  /** Connections subscribed. */
  readonly subscriptions: number;
  /** Distinct users; 0 unless it is a presence channel. */
  readonly users: number;
}

// ---- The joints

/** What a {@linkcode Backplane} is told by, and calls on, the server that uses it. */
export interface BackplaneNode {
  /** The bounds of the logs; null where none are to be kept. */
  readonly history: Readonly<History> | null;
  /**
   * Hands a message to this server's own subscribers of a channel. Offsets grow
   * with each message of a channel that somebody is on, or that has a log.
   */
  deliver(
    app: string,
    channel: string,
    message: Message,
    offset: number,
  ): void;
}

/**
 * Keeps what all servers of a deployment share, and carries every event from
 * its publisher to each server. A method that answers without a promise is
 * taken at once, in the same turn of the event loop.
 *
 * - Each join and leave reports its transition to exactly one caller, and
 *   publishes the announcement that goes with it in the same step: whoever sees
 *   the member lists and the announcements sees them agree.
 * - Messages of one server reach a channel in the order of its calls, answered
 *   or not.
 * - Channels whose name starts with `#` are the server's own: who is signed in,
 *   and who watches whom.
 * - A leave that fails is not tried again: a backplane that can fail lets what a
 *   server holds run out.
 * - A log holds the messages that say they are to be `logged`. What a join gets
 *   of it and what is delivered from then on have nothing in common and nothing
 *   between them.
 */
export interface Backplane {
  /** Called once, before anything else. */
  start(node: BackplaneNode): void;
  /**
   * Accepts a message and has every server deliver it, in one order a channel.
   * One with `cacheMs` becomes the channel's last event, whether or not anybody
   * is there.
   */
  publish(app: string, channel: string, message: Message): Awaitable<void>;
  /**
   * Adds one connection to a channel; `null` when a new user would be one more
   * than the channel may have, and then nothing has changed.
   */
  join(
    app: string,
    channel: string,
    options?: JoinOptions,
  ): Awaitable<JoinResult | null>;
  /** Takes one connection off a channel again. */
  leave(
    app: string,
    channel: string,
    options?: LeaveOptions,
  ): Awaitable<LeaveResult>;
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
  /** Lets go of everything. */
  close(): Awaitable<void>;
}

/**
 * How frames reach a client. A native `WebSocket` is one as it stands; other
 * ways to a client come with {@linkcode Pusher.open}.
 */
export interface Transport {
  /** Bytes handed to `send` that the peer has not taken yet. */
  readonly bufferedAmount: number;
  /** Sends one text frame. */
  send(frame: string): void;
  /**
   * Ends the connection with a close code and a reason of at most 123 bytes. The
   * {@linkcode Peer} is told afterwards, when it has ended.
   */
  close(code: number, reason: string): void;
}

/** The server's end of a {@linkcode Transport}: what came from the client goes here. */
export interface Peer {
  /** Takes one frame: text, or anything else for a binary one. */
  receive(frame: unknown): void;
  /** Says that the client is alive, where that is known without a frame. */
  heard(): void;
  /** Says that the transport has closed. More than once does no harm. */
  closed(code: number): void;
}
