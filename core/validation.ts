/**
 * Checks of what peers and programs say: names, members, users, events to publish.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { KnownMember, Message } from "./backplane.ts";
import type { Encryption } from "./calls.ts";
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
  parseJson,
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
    const rule = "must be a string that is not empty";
    return new Refusal(400, `The user id is ${quote(id)}, and ${rule}`);
  }
  // It becomes part of a channel's name, where lone surrogates would be mixed up.
  if (!id.isWellFormed()) {
    return new Refusal(400, "The user id has a lone surrogate");
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
    const rule = 'must be a JSON object such as {"user_id":"1"}';
    return new Refusal(400, `channel_data ${rule}`);
  }
  const { user_id: id, user_info: info } = value;
  const userId = Number.isSafeInteger(id) ? String(id) : id;
  if (typeof userId !== "string" || userId === "") {
    const rule = "must be a string that is not empty, or an integer";
    return new Refusal(400, `user_id is ${quote(id)}, and ${rule}`);
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
  // Its `toJSON` may return anything.
  const json = isObject(info) ? JSON.stringify(info) : undefined;
  if (json?.startsWith("{")) return json;
  const found = quote(isObject(info) ? parseJson(json ?? "") : info);
  return new Refusal(400, `user_info is ${found}, and must be an object`);
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
    const rule = 'must be a JSON object such as {"id":"1"}';
    return new Refusal(400, `user_data ${rule}`);
  }
  const id = checkUserId(value.id, limits);
  if (isRefusal(id)) return id;
  const userInfo = checkUserInfo(value.user_info);
  if (isRefusal(userInfo)) return userInfo;
  const watchlist = value.watchlist ?? [];
  if (!Array.isArray(watchlist)) {
    const found = quote(watchlist);
    return new Refusal(400, `watchlist is ${found}, and must be an array`);
  }
  const watched = watchlist.filter((item) =>
    !isRefusal(checkUserId(item, limits))
  );
  return { id, userInfo, watchlist: [...new Set<string>(watched)] };
}

/**
 * The JSON text of a member whom the program names. The text is what is checked and
 * signed: the object itself may read differently the next time, by a getter, a proxy
 * or `toJSON`.
 */
export function encodeMember(value: unknown, limits: Limits): string | Refusal {
  return encodeChecked(
    value,
    (plain) => checkFields(plain) ?? checkMember(plain, limits),
  );
}

/** Refuses a field that would get lost, such as a misspelt `user_info`. */
function checkFields(member: unknown): Refusal | null {
  if (!isObject(member)) return null;
  const extra = Object.keys(member).find((name) =>
    name !== "user_id" && name !== "user_info"
  );
  if (extra === undefined) return null;
  const rule = "a member has user_id and user_info only";
  return new Refusal(400, `Unknown field ${quote(extra)}, ${rule}`);
}

/** The JSON text of a user whom the program names; see {@linkcode encodeMember}. */
export function encodeUser(value: unknown, limits: Limits): string | Refusal {
  return encodeChecked(value, (plain) => checkUser(plain, limits));
}

function encodeChecked(
  value: unknown,
  check: (plain: unknown) => object | Refusal,
): string | Refusal {
  const json = JSON.stringify(value) ?? "";
  const checked = check(parseJson(json));
  return isRefusal(checked) ? checked : json;
}

// ---- Events -----------------------------------------------------------------

/** One event to publish, checked. */
export interface Publish {
  readonly channels: readonly NamedChannel[];
  readonly message: Message & { readonly data: string };
  readonly info: readonly InfoName[];
}

/**
 * Encrypts the data of an event if one of its channels is encrypted. Returns a
 * refusal for data that has no JSON.
 */
export type Seal = (
  channels: readonly NamedChannel[],
  data: unknown,
  event: string,
) => unknown;

/**
 * Encrypts the data of the program's events on encrypted channels. It throws where
 * the data would leave unencrypted.
 */
export function sealWith(encryption: Encryption | undefined): Seal {
  return (channels, data, event) => {
    const channel = channels.find(({ kind }) => kind.encrypted);
    if (channel === undefined) return data;
    const what = `Cannot trigger ${quote(event)} on "${channel.name}"`;
    if (encryption === undefined) {
      throw new TypeError(
        `${what}: its data must be encrypted, and there is no encryption option; encryption() is in "@glitz/pusher/encryption"`,
      );
    }
    if (channels.length > 1) {
      throw new TypeError(
        `${what}: an event for an encrypted channel is for that channel alone`,
      );
    }
    const json = encodeJson(data);
    if (isRefusal(json)) return json;
    const sealed: unknown = encryption.encrypt(channel.name, json);
    if (typeof sealed === "string") return sealed;
    throw new TypeError(
      `${what}: encrypt of the encryption option did not return a string`,
    );
  };
}

/**
 * The secret of an encrypted channel, for those who may join it; undefined without
 * the encryption option.
 *
 * @throws {TypeError} If the option returns anything but a string.
 */
export function sharedSecretOf(
  encryption: Encryption | undefined,
  channel: string,
): string | undefined {
  if (encryption === undefined) return undefined;
  const secret: unknown = encryption.sharedSecret(channel);
  if (typeof secret === "string") return secret;
  throw new TypeError(
    `Cannot authorize ${
      quote(channel)
    }: sharedSecret of the encryption option ` +
      "did not return a string",
  );
}

/**
 * Checks the fields of one event. Each field is read once, and the result holds only
 * what was read: what is published and encrypted is what was checked.
 *
 * @param seal Given for events of the program, whose data is not encrypted yet.
 */
export function parsePublish(
  fields: Record<string, unknown>,
  limits: Limits,
  seal: Seal = (_, data) => data,
): Publish | Refusal {
  const { name, channel, data: given } = fields;
  if (typeof name !== "string" || name === "") {
    const rule = "must be a string that is not empty";
    return new Refusal(400, `The event's name is ${quote(name)}, and ${rule}`);
  }
  const badName = checkEventName(name, limits);
  if (badName !== null) return badName;
  if (RESERVED_EVENT.test(name)) {
    const rule = "no name may start with pusher: or pusher_internal:";
    return new Refusal(400, `Event name ${quote(name)} is reserved: ${rule}`);
  }
  const channels = checkChannelNames(
    fields.channels ?? (channel === undefined ? undefined : [channel]),
    limits,
  );
  const sealed = isRefusal(channels) || given === undefined
    ? given
    : seal(channels, given, name);
  if (isRefusal(sealed)) return sealed;
  const data = typeof sealed === "string" ? sealed : encodeJson(sealed);
  if (isRefusal(data)) return data;
  const badData = checkEventData(data, limits);
  if (badData !== null) return badData;
  if (isRefusal(channels)) return channels;
  const except = fields.socket_id ?? undefined;
  const socketId = except === undefined ? undefined : checkSocketId(except);
  if (isRefusal(socketId)) return socketId;
  const info = checkInfo(fields.info);
  if (isRefusal(info)) return info;
  const excepted = socketId === undefined ? {} : { exceptSocketId: socketId };
  const message = { event: name, data, ...excepted, logged: true };
  return { channels, message, info };
}

/** The data of an event as JSON, or why it has none. */
function encodeJson(value: unknown): string | Refusal {
  const rule = "must be a string, or a value that JSON can hold";
  const refuse = (cause = "") =>
    new Refusal(
      400,
      `The event's data is ${quote(value)}, and ${rule}${cause}`,
    );
  try {
    return JSON.stringify(value) ?? refuse();
  } catch (error) {
    // A `toJSON` of the program may throw an error of its own.
    if (!(error instanceof TypeError)) throw error;
    return refuse(`: ${error.message.split("\n", 1)[0]}`);
  }
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
  const names: unknown[] = Array.isArray(value) ? [...value] : [];
  if (value === undefined) return new Refusal(400, "The event has no channel");
  if (names.length === 0) {
    const found = Array.isArray(value) ? "an empty array" : quote(value);
    const rule = "must be an array with at least one channel name";
    return new Refusal(400, `channels is ${found}, and ${rule}`);
  }
  if (names.length > limits.channelsPerEvent) {
    const found = `The event has ${names.length} channels`;
    return overLimit("channelsPerEvent", limits, found);
  }
  const channels: NamedChannel[] = [];
  for (const name of new Set(names)) {
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
  const items: unknown[] = Array.isArray(value) ? [...value] : [];
  if (items.length === 0) {
    const found = Array.isArray(value) ? "an empty array" : quote(value);
    const rule = "must be an array with at least one event";
    return new Refusal(400, `The batch is ${found}, and ${rule}`);
  }
  if (items.length > limits.eventsPerBatch) {
    const found = `The batch has ${items.length} events`;
    return overLimit("eventsPerBatch", limits, found);
  }
  const publishes: Publish[] = [];
  for (const [i, item] of items.entries()) {
    const publish = isObject(item)
      ? parsePublish({ ...item, channels: undefined }, limits, seal)
      : new Refusal(400, `The event is ${quote(item)}, and must be an object`);
    if (isRefusal(publish)) {
      const { status, error, limit } = publish;
      return new Refusal(status, `batch[${i}]: ${error}`, limit);
    }
    publishes.push(publish);
  }
  return publishes;
}

/**
 * Why a client may not send an event, or null. The rate and the data are checked
 * afterwards, so whoever may not send costs the server little.
 */
export function checkClientEvent(
  name: string,
  channel: string,
  isSubscribed: boolean,
  { clientEvents, limits }: { clientEvents: boolean; limits: Limits },
): string | null {
  if (!clientEvents) {
    return "Client events are not enabled: give the server the option `clientEvents: true`";
  }
  if (!isSubscribed) {
    return parseChannelName(channel)?.auth
      ? "Client events are for subscribers of the channel"
      : ONLY_AUTHORIZED;
  }
  if (!kindOf(channel).auth) return ONLY_AUTHORIZED;
  return checkEventName(name, limits)?.error ?? null;
}

const ONLY_AUTHORIZED = "Client events are for private and presence channels";

/** The data of a client event as text, or why it is refused. */
export function encodeClientData(
  value: unknown,
  limits: Limits,
): string | undefined | Refusal {
  const data = typeof value === "string" ? value : JSON.stringify(value);
  return data === undefined ? undefined : checkEventData(data, limits) ?? data;
}
