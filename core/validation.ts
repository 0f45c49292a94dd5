/**
 * Checks of what peers and programs say: names, members, users, events to publish.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { KnownMember, Message } from "./backplane.ts";
import {
  exceedsBytes,
  isRefusal,
  type Limits,
  overLimit,
  quote,
  Refusal,
} from "./limits.ts";
import { checkInfo, type InfoName } from "./queries.ts";
import {
  type ChannelKind,
  isObject,
  isSocketId,
  kindOf,
  type NamedChannel,
  OWN_CHANNEL,
  parseChannelName,
  RESERVED_EVENT,
} from "./protocol.ts";

// ---- Names and ids ----------------------------------------------------------

/** The kind of a channel, or why its name is refused. */
export function checkChannelName(
  name: unknown,
  limits: Limits,
): ChannelKind | Refusal {
  const kind = typeof name === "string" ? parseChannelName(name) : null;
  if (typeof name !== "string" || kind === null) {
    return new Refusal(
      400,
      `Channel name is ${
        quote(name)
      }, and may only have the characters A-Z a-z 0-9 _ - = @ , . ;`,
    );
  }
  if (name.length <= limits.channelNameLength) return kind;
  const found = `Channel name has ${name.length} characters`;
  return overLimit("channelNameLength", limits, found);
}

/** The kind of a presence channel, or why its name is refused. */
export function checkPresenceName(
  name: unknown,
  limits: Limits,
): ChannelKind | Refusal {
  const kind = checkChannelName(name, limits);
  if (isRefusal(kind) || kind.presence) return kind;
  return new Refusal(400, "Only presence channels have users");
}

export function checkUserId(id: unknown, limits: Limits): string | Refusal {
  if (typeof id !== "string" || id === "") {
    return new Refusal(400, "The user id is not a string with characters");
  }
  if (id.length <= limits.userIdLength) return id;
  const found = `The user id has ${id.length} characters`;
  return overLimit("userIdLength", limits, found);
}

export function checkSocketId(id: unknown): string | Refusal {
  if (isSocketId(id)) return id;
  const rule = "must be two numbers joined by a dot";
  return new Refusal(400, `socket_id is ${quote(id)}, and ${rule}`);
}

// ---- Members and users ------------------------------------------------------

/** Checks a member, whom the program or signed channel data names. */
export function checkMember(
  value: unknown,
  limits: Limits,
): KnownMember | Refusal {
  if (!isObject(value)) {
    return new Refusal(400, "Channel data is not a JSON object");
  }
  const { user_id: id, user_info: info } = value;
  const userId = Number.isSafeInteger(id) ? String(id) : id;
  if (typeof userId !== "string" || userId === "") {
    return new Refusal(
      400,
      "user_id is neither a string with characters nor an integer",
    );
  }
  if (userId.length > limits.userIdLength) {
    const found = `user_id has ${userId.length} characters`;
    return overLimit("userIdLength", limits, found, 413);
  }
  const userInfo = checkUserInfo(info);
  if (isRefusal(userInfo)) return userInfo;
  return checkUserInfoSize(userInfo, limits) ?? { userId, userInfo };
}

/** A user's `user_info` as JSON text. */
function checkUserInfo(info: unknown): string | Refusal {
  // PHP encodes an object without fields as an empty array.
  const isEmpty = info === undefined || info === null ||
    (Array.isArray(info) && info.length === 0);
  if (isEmpty) return "{}";
  return isObject(info)
    ? JSON.stringify(info)
    : new Refusal(400, "user_info is not an object");
}

export function checkUserInfoSize(
  userInfo: string,
  limits: Limits,
): Refusal | null {
  if (!exceedsBytes(userInfo, limits.userInfoBytes)) return null;
  const found = `user_info has ${Buffer.byteLength(userInfo)} bytes`;
  return overLimit("userInfoBytes", limits, found, 413);
}

/** A user as a connection remembers it. */
export interface KnownUser {
  readonly id: string;
  /** As JSON text. */
  readonly userInfo: string;
  /** Distinct ids; how many of them may be watched is checked later. */
  readonly watchlist: readonly string[];
}

/** Checks a user who signs in, whom the program or signed user data names. */
export function checkUser(value: unknown, limits: Limits): KnownUser | Refusal {
  if (!isObject(value)) {
    return new Refusal(400, "user_data is not a JSON object");
  }
  const id = checkUserId(value.id, limits);
  if (isRefusal(id)) return id;
  const userInfo = checkUserInfo(value.user_info);
  if (isRefusal(userInfo)) return userInfo;
  const watchlist = value.watchlist ?? [];
  if (!Array.isArray(watchlist)) {
    return new Refusal(400, "watchlist is not an array");
  }
  const watched = watchlist.filter((item) =>
    !isRefusal(checkUserId(item, limits))
  );
  return { id, userInfo, watchlist: [...new Set<string>(watched)] };
}

// ---- Events -----------------------------------------------------------------

/** One event to publish, checked. */
export interface Publish {
  readonly channels: readonly NamedChannel[];
  readonly message: Message & { readonly data: string };
  readonly info: readonly InfoName[];
}

/** Encrypts the data of an event if one of its channels is encrypted. */
export type Seal = (
  channels: readonly NamedChannel[],
  data: unknown,
  event: string,
) => unknown;

/**
 * Checks the fields of one event.
 *
 * @param seal Given for events of the program, whose data is not encrypted yet.
 */
export function parsePublish(
  fields: Record<string, unknown>,
  limits: Limits,
  seal: Seal = (_, data) => data,
): Publish | Refusal {
  const { name, channel } = fields;
  if (typeof name !== "string" || name === "") {
    return new Refusal(400, "The event has no name that is a string");
  }
  const badName = checkEventName(name, limits);
  if (badName !== null) return badName;
  if (RESERVED_EVENT.test(name)) {
    return new Refusal(400, `Event name ${quote(name)} is reserved`);
  }
  const channels = checkChannelNames(
    fields.channels ?? (channel === undefined ? undefined : [channel]),
    limits,
  );
  const sealed = isRefusal(channels) || fields.data === undefined
    ? fields.data
    : seal(channels, fields.data, name);
  const data = typeof sealed === "string" ? sealed : JSON.stringify(sealed);
  if (data === undefined) return new Refusal(400, "The event has no data");
  const badData = checkEventData(data, limits);
  if (badData !== null) return badData;
  if (isRefusal(channels)) return channels;
  const socketId = fields.socket_id === undefined || fields.socket_id === null
    ? undefined
    : checkSocketId(fields.socket_id);
  if (isRefusal(socketId)) return socketId;
  const info = checkInfo(fields.info);
  if (isRefusal(info)) return info;
  const except = socketId === undefined ? {} : { exceptSocketId: socketId };
  const message = { event: name, data, ...except, logged: true };
  return { channels, message, info };
}

/** Refuses an event name that is too long. */
export function checkEventName(name: string, limits: Limits): Refusal | null {
  if (name.length <= limits.eventNameLength) return null;
  const found = `Event name has ${name.length} characters`;
  return overLimit("eventNameLength", limits, found);
}

/** Refuses data of an event that is too large. */
export function checkEventData(data: string, limits: Limits): Refusal | null {
  if (!exceedsBytes(data, limits.eventDataBytes)) return null;
  const found = `Data has ${Buffer.byteLength(data)} bytes`;
  return overLimit("eventDataBytes", limits, found, 413);
}

/** The distinct channels of one event. */
function checkChannelNames(
  value: unknown,
  limits: Limits,
): NamedChannel[] | Refusal {
  if (!Array.isArray(value) || value.length === 0) {
    return new Refusal(400, "The event has no channels");
  }
  if (value.length > limits.channelsPerEvent) {
    const found = `The event has ${value.length} channels`;
    return overLimit("channelsPerEvent", limits, found);
  }
  const channels: NamedChannel[] = [];
  for (const name of new Set<unknown>(value)) {
    const kind = checkTarget(name, limits);
    if (isRefusal(kind)) return kind;
    // checkTarget has refused a name that is not a string.
    channels.push({ name: name as string, kind });
  }
  return channels;
}

/** The kind of a channel that events are published to: any client's, or a user's. */
function checkTarget(name: unknown, limits: Limits): ChannelKind | Refusal {
  if (typeof name !== "string" || !name.startsWith(OWN_CHANNEL.User)) {
    return checkChannelName(name, limits);
  }
  const id = checkUserId(name.slice(OWN_CHANNEL.User.length), limits);
  return isRefusal(id) ? id : kindOf(name);
}

/** Checks the events of a batch. If one is refused, the whole batch is refused. */
export function parseBatch(
  value: unknown,
  limits: Limits,
  seal?: Seal,
): Publish[] | Refusal {
  if (!Array.isArray(value) || value.length === 0) {
    return new Refusal(400, "The batch is not an array with events");
  }
  if (value.length > limits.eventsPerBatch) {
    const found = `The batch has ${value.length} events`;
    return overLimit("eventsPerBatch", limits, found);
  }
  const publishes: Publish[] = [];
  for (const item of value) {
    const publish = isObject(item)
      ? parsePublish({ ...item, channels: undefined }, limits, seal)
      : new Refusal(400, "An event of the batch is not an object");
    if (isRefusal(publish)) return publish;
    publishes.push(publish);
  }
  return publishes;
}

/** Why a client event is not relayed, or null. The rate is checked elsewhere. */
export function checkClientEvent(
  { name, data, isSubscribed }: {
    name: string;
    data: string | undefined;
    isSubscribed: boolean;
  },
  kind: ChannelKind | null,
  { clientEvents, limits }: { clientEvents: boolean; limits: Limits },
): string | null {
  if (!clientEvents) return "Client events are not enabled";
  if (!kind?.auth) return "Client events are for private and presence channels";
  if (!isSubscribed) return "Client events are for subscribers of the channel";
  const refusal = checkEventName(name, limits) ??
    (data === undefined ? null : checkEventData(data, limits));
  return refusal?.error ?? null;
}
