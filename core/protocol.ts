/**
 * The protocol on the wire: names, codes, kinds of channels, and frames in and out.
 *
 * @module
 */

import type {
  Announcement,
  JoiningMember,
  KnownMember,
  Message,
  Position,
} from "./backplane.ts";
import { quote, Refusal } from "./limits.ts";
import { encodeMembers } from "./members.ts";

// ---- Names, close codes and refusals -----------------------------------------

/** Events that a client may send, besides `client-…` events. */
export const INBOUND = Object.freeze({
  Ping: "pusher:ping",
  Pong: "pusher:pong",
  Subscribe: "pusher:subscribe",
  Unsubscribe: "pusher:unsubscribe",
  SignIn: "pusher:signin",
});

/** Events that only the server sends. */
export const OUTBOUND = Object.freeze({
  Established: "pusher:connection_established",
  Error: "pusher:error",
  SubscriptionError: "pusher:subscription_error",
  Subscribed: "pusher_internal:subscription_succeeded",
  MemberAdded: "pusher_internal:member_added",
  MemberRemoved: "pusher_internal:member_removed",
  SubscriptionCount: "pusher_internal:subscription_count",
  CacheMiss: "pusher:cache_miss",
  SignedIn: "pusher:signin_success",
  RecoveryFailed: "pusher:recovery_failed",
  Watchlist: "pusher_internal:watchlist_events",
});

/** Prefixes of the server's own channels; a user id follows. */
export const OWN_CHANNEL = Object.freeze({
  User: "#server-to-user-",
  Watchers: "#watchers-of-",
});

export const CLIENT_EVENT_PREFIX = "client-";

export const RESERVED_EVENT = /^pusher(_internal)?:/;

// The documentation of Pusher ends the support of 1 to 3 only. Version 4 has what
// version 7 has, but its clients need not answer pings; see `Pulse`.
const PROTOCOL_VERSIONS = Object.freeze({ oldest: 4, newest: 7 });

/** A close code and the text that goes with it. */
export interface Close {
  readonly code: number;
  readonly message: string;
}

// The range of a code decides what a client does next: after 4000 to 4099 it stays
// away, after 4100 to 4199 it comes back in a second, after 4200 to 4299 at once.
export const CLOSE = Object.freeze({
  SendFailed: { code: 1011, message: "Frames cannot be sent" },
  BinaryFrame: { code: 1003, message: "Binary frames are not supported" },
  TlsOnly: { code: 4000, message: "The app accepts connections over TLS only" },
  UnknownApp: {
    code: 4001,
    message: "No app has this key: is it the option `key` of the server?",
  },
  AppDisabled: { code: 4003, message: "The app is disabled" },
  AppFull: { code: 4004, message: "The app is over its connection limit" },
  VersionMalformed: { code: 4006, message: "Protocol version is not a number" },
  VersionUnsupported: {
    code: 4007,
    message: "Protocol version is not supported, use 7",
  },
  VersionMissing: { code: 4008, message: "Protocol version is missing" },
  OriginRefused: { code: 4009, message: "The page's origin is not allowed" },
  Terminated: { code: 4009, message: "The user's connections were terminated" },
  NotAuthorized: { code: 4009, message: "The connection did not authorize" },
  ServerFull: { code: 4100, message: "The server is over capacity" },
  ShuttingDown: { code: 4100, message: "The server is shutting down" },
  SlowPeer: { code: 4100, message: "Frames are not read fast enough" },
  BackplaneAway: {
    code: 4100,
    message: "The server's backplane is away, reconnect",
  },
  Flood: { code: 4100, message: "Frames come faster than they are served" },
  Reconnect: { code: 4200, message: "The server is going away, reconnect" },
  NoPong: { code: 4201, message: "No pong within the timeout" },
});

/** A reason that a close frame has room for: a longer one would leave it open. */
export function clipReason(reason: string): string {
  const room = new Uint8Array(REASON_BYTES);
  return reason.slice(0, new TextEncoder().encodeInto(reason, room).read);
}

const REASON_BYTES = 123;

/** Codes of `pusher:error` frames that leave the connection open. */
export const ERROR = Object.freeze({
  SignIn: 4009,
  Generic: 4300,
  ClientEvent: 4301,
  Watchlist: 4302,
});

/** Checks the version that a client names; returns how it is closed, or null. */
export function checkVersion(
  version: string | null,
  strict: boolean,
): Close | null {
  if (version === null) return strict ? CLOSE.VersionMissing : null;
  if (!/^-?\d+$/.test(version)) return CLOSE.VersionMalformed;
  const { oldest, newest } = PROTOCOL_VERSIONS;
  const spoken = Number(version) >= oldest && Number(version) <= newest;
  if (spoken) return null;
  const named = `Protocol version ${quote(version.slice(0, MAX_DIGITS))}`;
  const message = `${named} is not supported, use ${newest}`;
  return { ...CLOSE.VersionUnsupported, message };
}

/** Digits of a version that are worth showing. */
const MAX_DIGITS = 20;

// Refusals whose text is always the same.
export const REFUSAL = Object.freeze({
  BadUpgrade: new Refusal(400, "The upgrade request is not valid"),
  BadPath: new Refusal(400, "The path is not escaped properly"),
  BadAuthForm: new Refusal(
    400,
    "The body lacks a socket_id or channel_name, as a form or JSON",
  ),
  BrokenBody: new Refusal(400, "The body did not arrive whole"),
  BadSignature: new Refusal(
    401,
    "The signature is missing, or not made for this connection and channel",
  ),
  IllFormedData: new Refusal(
    401,
    "The channel_data is not well-formed Unicode: it has a lone surrogate",
  ),
  NoChannelData: new Refusal(
    401,
    "A presence channel needs channel_data, or a user who has signed in",
  ),
  ForeignUser: new Refusal(401, "The channel belongs to another user"),
  AppDisabled: new Refusal(403, "The app is disabled"),
  TlsOnly: new Refusal(
    403,
    "The app accepts requests over TLS only: use https://. Behind a proxy that ends TLS the server needs trustProxy",
  ),
  UnknownSocket: new Refusal(
    403,
    "No connection has this socket_id here, and the form names no app_key",
  ),
  PublicChannel: new Refusal(
    403,
    "Only private and presence channels are authorized",
  ),
  PostOnly: new Refusal(405, "The method is not one of POST"),
  AuthBodyTooLarge: new Refusal(413, "The form is too large"),
  UpgradeRequired: new Refusal(426, "This is a WebSocket endpoint"),
  AuthenticateFailed: new Refusal(
    500,
    "The user could not be authenticated: the log of the server says why",
  ),
  AuthorizeFailed: new Refusal(
    500,
    "The channel could not be authorized: the log of the server says why",
  ),
  SubscribeFailed: new Refusal(500, "The subscription could not be served"),
  Crashed: new Refusal(500, "The request could not be served"),
  OverCapacity: new Refusal(503, "The server is over capacity"),
  ShuttingDown: new Refusal(503, "The server is shutting down"),
  Starting: new Refusal(
    503,
    "The server is starting: its backplane has not answered yet",
  ),
  NotStarted: new Refusal(
    503,
    "The server cannot serve: its backplane could not be started",
  ),
  LateAnswer: new Refusal(503, "The program has not answered in time"),
});

/** Answers of the auth endpoints of a server that does not serve them. */
export const AUTH_NOT_SERVED: ReadonlyMap<string | undefined, Refusal> =
  new Map([
    [
      "auth",
      new Refusal(
        404,
        'Nothing authorizes channels here: give the server the option "authorize", or the client the address of your own endpoint',
      ),
    ],
    [
      "user-auth",
      new Refusal(
        404,
        'Nothing authenticates users here: give the server the option "authenticate", or the client the address of your own endpoint',
      ),
    ],
  ]);

// ---- Channels ---------------------------------------------------------------

const CHANNEL_NAME = /^[A-Za-z0-9_\-=@,.;]+$/;

const SOCKET_ID = /^\d+\.\d+$/;

export function isSocketId(value: unknown): value is string {
  return typeof value === "string" && SOCKET_ID.test(value);
}

/** A socket id that nobody can guess. */
export function randomSocketId(): string {
  return `${randomHalf()}.${randomHalf()}`;
}

// Drawn for many ids at once: a call of the runtime takes longer than the rest of an id.
const drawn = new Uint32Array(512);
let left = 0;

/** 1 to 2^31 - 1: some clients read the halves as signed integers. */
function randomHalf(): number {
  if (left === 0) {
    crypto.getRandomValues(drawn);
    left = drawn.length;
  }
  return drawn[--left]! % 0x7fff_ffff + 1;
}

/** What the prefix of a channel's name means. */
export interface ChannelKind {
  readonly prefix: string;
  /** Joining needs a signature, and subscribers may send client events. */
  readonly auth: boolean;
  readonly presence: boolean;
  /** The data of its events is cipher text, which only clients can read. */
  readonly encrypted: boolean;
  /** The channel keeps its last event for later subscribers. */
  readonly cache: boolean;
}

const PLAIN = { auth: false, presence: false, encrypted: false, cache: false };

const PRIVATE = { ...PLAIN, auth: true };

const ENCRYPTED = { ...PRIVATE, encrypted: true };

const PRESENCE = { ...PRIVATE, presence: true };

/** Channels between servers: clients cannot join them, programs do not see them. */
const OWN_KIND: ChannelKind = Object.freeze({ prefix: "#", ...PLAIN });

// Longest prefix first.
const CHANNEL_KINDS: readonly ChannelKind[] = Object.freeze([
  { prefix: "private-encrypted-cache-", ...ENCRYPTED, cache: true },
  { prefix: "private-encrypted-", ...ENCRYPTED },
  { prefix: "private-cache-", ...PRIVATE, cache: true },
  { prefix: "private-", ...PRIVATE },
  { prefix: "presence-cache-", ...PRESENCE, cache: true },
  { prefix: "presence-", ...PRESENCE },
  { prefix: "cache-", ...PLAIN, cache: true },
  { prefix: "", ...PLAIN },
]);

/** A channel's name and kind, so that the name is parsed once. */
export interface NamedChannel {
  readonly name: string;
  readonly kind: ChannelKind;
}

/** Whether servers use a channel among themselves. */
export function isOwnChannel(name: string): boolean {
  return name.startsWith("#");
}

/** The kind of a channel, or null if its name has other characters or none. */
export function parseChannelName(name: string): ChannelKind | null {
  if (!CHANNEL_NAME.test(name)) return null;
  return CHANNEL_KINDS.find(({ prefix }) => name.startsWith(prefix)) ?? null;
}

/** The kind of a channel. Its name has been checked, or the server has made it. */
export function kindOf(name: string): ChannelKind {
  if (isOwnChannel(name)) return OWN_KIND;
  return CHANNEL_KINDS.find(({ prefix }) => name.startsWith(prefix))!;
}

/**
 * Tells a user's watchers that the user's first connection came, or the last left.
 * Undefined if the channel is not that of a user.
 */
export function announceUser(
  channel: string,
  control: "online" | "offline",
): Announcement | undefined {
  if (!channel.startsWith(OWN_CHANNEL.User)) return undefined;
  const userId = channel.slice(OWN_CHANNEL.User.length);
  return {
    channel: OWN_CHANNEL.Watchers + userId,
    message: { event: control, control },
  };
}

/** Tells the other subscribers of a channel that a member has come. */
export function memberAddedMessage(
  { userId, userInfo }: KnownMember,
  exceptSocketId: string,
): Message {
  const id = JSON.stringify(userId);
  return {
    event: OUTBOUND.MemberAdded,
    data: `{"user_id":${id},"user_info":${userInfo}}`,
    exceptSocketId,
  };
}

/** A member, with the announcement for the other members. */
export function joiningMember(
  member: KnownMember,
  maxMembers: number,
  socketId: string,
): JoiningMember {
  return { ...member, maxMembers, added: memberAddedMessage(member, socketId) };
}

/** Tells the other subscribers of a channel that a member is gone. */
export function memberRemovedMessage(userId: string): Message {
  return {
    event: OUTBOUND.MemberRemoved,
    data: JSON.stringify({ user_id: userId }),
  };
}

// ---- Frames in --------------------------------------------------------------

/** A client's frame. Only its event has been checked. */
export interface Frame {
  readonly event: string;
  readonly channel: unknown;
  readonly data: unknown;
}

export function decodeFrame(text: string): Frame | Refusal {
  const frame = parseJson(text);
  if (!isObject(frame)) return new Refusal(400, "Frame is not a JSON object");
  const { event, channel, data } = frame;
  if (typeof event === "string") return { event, channel, data };
  return new Refusal(400, "Frame has no event that is a string");
}

/** Decodes the data of a client's frame: an object, or JSON text of an object. */
export function decodeData(data: unknown): Record<string, unknown> | null {
  const value = typeof data === "string" ? parseJson(data) : data;
  return isObject(value) ? value : null;
}

/** Parses JSON; undefined if the text is not JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// ---- Frames out -------------------------------------------------------------

export const PING_FRAME = '{"event":"pusher:ping","data":"{}"}';

export const PONG_FRAME = '{"event":"pusher:pong","data":"{}"}';

/** A frame to a client. Except for errors, `data` is a string. */
interface OutboundFrame {
  event: string;
  channel?: string;
  data?: string | object;
  user_id?: string;
  position?: Position;
  recovered?: boolean;
}

/** What a confirmation tells a client that can recover. */
export type ReplayFields = Pick<OutboundFrame, "position" | "recovered">;

export function encodeFrame(frame: OutboundFrame): string {
  return JSON.stringify(frame);
}

export function encodeError(
  code: number,
  message: string,
  channel?: string,
): string {
  return encodeFrame({
    event: OUTBOUND.Error,
    ...(channel !== undefined && { channel }),
    data: { code, message },
  });
}

export function encodeMessage(channel: string, message: Message): string {
  const { event, data, userId } = message;
  return encodeFrame({
    event,
    channel,
    ...(data !== undefined && { data }),
    ...(userId !== undefined && { user_id: userId }),
  });
}

/** Confirms a subscription; with the members on a presence channel. */
export function encodeSubscribed(
  channel: string,
  members: ReadonlyMap<string, string> | null,
  fields: ReplayFields = {},
): string {
  const event = OUTBOUND.Subscribed;
  if (members === null) {
    return encodeFrame({ event, channel, data: "{}", ...fields });
  }
  const start = encodeFrame({ event, channel, ...fields }).slice(0, -1);
  return `${start},"data":${encodeMembers(members)}}`;
}

/** Tells a client that it has lost messages of a channel, and where it goes on. */
export function encodeRecoveryFailed(
  channel: string,
  position: Position | undefined,
): string {
  return encodeFrame({
    event: OUTBOUND.RecoveryFailed,
    channel,
    data: JSON.stringify({ channel }),
    ...(position !== undefined && { position }),
  });
}

/** Watched users who have come, or who have gone. */
export interface WatchlistEvent {
  readonly name: "online" | "offline";
  readonly user_ids: string[];
}

/** Tells a client about the users that it watches. The frame has no channel. */
export function encodeWatchlist(events: readonly WatchlistEvent[]): string {
  const data = JSON.stringify({ events });
  return encodeFrame({ event: OUTBOUND.Watchlist, data });
}
