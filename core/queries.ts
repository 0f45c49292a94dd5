/**
 * Queries about channels: how many subscribers, which users, and the last event.
 *
 * @module
 */

import type { Backplane, Occupancy } from "./backplane.ts";
import type {
  ChannelCounts,
  ChannelDescription,
  PublishResult,
  Stats,
} from "./calls.ts";
import { isRefusal, quote, Refusal } from "./limits.ts";
import type { Query } from "./parameters.ts";
import {
  type ChannelKind,
  isOwnChannel,
  kindOf,
  type NamedChannel,
} from "./protocol.ts";
import { all, type Awaitable, chain } from "./time.ts";
import type { Transport } from "./transport.ts";

// ---- The info parameter -----------------------------------------------------

export type InfoName = typeof INFO_NAMES[number];

const INFO_NAMES = Object.freeze(
  ["subscription_count", "user_count"] as const,
);

export type ChannelInfoName = InfoName | "cache";

/**
 * The query with the items of an `info` list joined by commas. The PHP SDK sends an
 * array as `info[0]`, `info[1]`, …, and signs it as `info` with commas.
 */
export function joinInfo(query: Query): Query {
  const items = [...query].filter(([name]) => INFO_ITEM.test(name));
  if (items.length === 0) return query;
  const joined = new URLSearchParams(
    [...query].filter(([name]) => !INFO_ITEM.test(name)),
  );
  const values = items.map(([, value]) => value);
  joined.set("info", [...joined.getAll("info"), ...values].join(","));
  return joined;
}

const INFO_ITEM = /^info\[\d*\]$/;

/**
 * Parses `info`: the figures that an answer has of a channel, as a comma list, or as
 * an array, which the PHP SDK passes on.
 */
export function checkInfo<Name extends string = InfoName>(
  value: unknown,
  known: readonly string[] = INFO_NAMES,
): Name[] | Refusal {
  if (Array.isArray(value) && value.every((name) => typeof name === "string")) {
    return checkInfo(value.join(","), known);
  }
  if (value === undefined || value === null || value === "") return [];
  const names = typeof value === "string"
    ? value.split(",").map((name) => name.trim())
    : [];
  const asked = known.filter((name) => names.includes(name));
  if (names.length > 0 && asked.length === new Set(names).size) {
    // `known` is the list of the names of this type.
    return asked as Name[];
  }
  return new Refusal(
    400,
    `info is ${quote(value)}, and must be a comma list of ${known.join(", ")}`,
  );
}

/** Checks `info` for a list of channels: users only where all of them have users. */
export function checkListInfo(
  prefix: unknown,
  value: unknown,
): InfoName[] | Refusal {
  if (typeof prefix !== "string") {
    const found = quote(prefix);
    return new Refusal(
      400,
      `filter_by_prefix is ${found}, and must be a string`,
    );
  }
  const info = checkInfo(value);
  if (isRefusal(info) || !info.includes("user_count")) return info;
  return prefix.startsWith("presence-") ? info : new Refusal(
    400,
    "user_count needs a filter_by_prefix that starts with presence-",
  );
}

/** Checks `info` for one channel: users and last event where it has them. */
export function checkChannelInfo(
  kind: ChannelKind,
  value: unknown,
): ChannelInfoName[] | Refusal {
  const known = [...INFO_NAMES, "cache"];
  const info = checkInfo<ChannelInfoName>(value, known);
  if (isRefusal(info)) return info;
  if (info.includes("user_count") && !kind.presence) {
    return new Refusal(400, "Only presence channels have a user_count");
  }
  if (info.includes("cache") && !kind.cache) {
    return new Refusal(400, "Only cache channels have a cache");
  }
  return info;
}

/** The counts that `info` asks for and that a channel has. */
export function countsOf(
  { name, kind }: NamedChannel,
  occupancy: Occupancy,
  info: readonly ChannelInfoName[],
): ChannelCounts {
  if (isOwnChannel(name)) return {};
  return {
    ...(info.includes("subscription_count") &&
      { subscription_count: occupancy.subscriptions }),
    ...(info.includes("user_count") && kind.presence &&
      { user_count: occupancy.users }),
  };
}

// ---- Answers ----------------------------------------------------------------

/** Asks the backplane about the channels of one app. */
export type Asking = <Answer>(
  question: (backplane: Backplane, appId: string) => Awaitable<Answer>,
) => Awaitable<Answer>;

/** Body of the answer to a publish that asks for `info`. */
export function countChannels(
  ask: Asking,
  channels: readonly NamedChannel[],
  info: readonly InfoName[],
): Awaitable<PublishResult> {
  const entries = channels.map((channel) =>
    chain(
      ask((backplane, app) => backplane.occupancy(app, channel.name)),
      (occupancy) =>
        [channel.name, countsOf(channel, occupancy, info)] as const,
    )
  );
  return chain(
    all(entries),
    (list) => ({ channels: Object.fromEntries(list) }),
  );
}

/** Body of `GET /channels`. */
export function listChannels(
  ask: Asking,
  prefix: string,
  info: readonly InfoName[],
): Awaitable<{ channels: Record<string, ChannelCounts> }> {
  const occupied = ask((backplane, app) => backplane.occupied(app, prefix));
  return chain(occupied, (found) => {
    const entries = [...found].filter(([name]) => !isOwnChannel(name)).map(
      ([name, occupancy]) => {
        const channel = { name, kind: kindOf(name) };
        return [name, countsOf(channel, occupancy, info)];
      },
    );
    return { channels: Object.fromEntries(entries) };
  });
}

/** Body of `GET /channels/{name}`. */
export function describeChannel(
  ask: Asking,
  channel: NamedChannel,
  info: readonly ChannelInfoName[],
): Awaitable<ChannelDescription> {
  const { name } = channel;
  const occupancy = ask((backplane, app) => backplane.occupancy(app, name));
  const cached = info.includes("cache")
    ? ask((backplane, app) => backplane.cached(app, name))
    : undefined;
  return chain(all([occupancy, cached]), ([counts, last]) => ({
    occupied: counts.subscriptions > 0,
    ...countsOf(channel, counts, info),
    ...(last !== undefined && {
      cache: last && {
        data: last.message.data ?? "",
        ttl: Math.floor(last.ttlMs / 1000),
      },
    }),
  }));
}

/** Body of `GET /channels/{name}/users`. */
export function listUsers(
  ask: Asking,
  channel: string,
): Awaitable<{ users: { id: string }[] }> {
  const members = ask((backplane, app) => backplane.members(app, channel));
  return chain(members, (found) => ({
    users: Array.from(found.keys(), (id) => ({ id })),
  }));
}

// ---- Figures ----------------------------------------------------------------

/** A server, as far as {@linkcode Stats} tell of it. */
interface Counted {
  readonly isBackplaneUp: boolean;
  readonly isClosing: boolean;
  readonly connections: ReadonlyMap<string, Sending>;
  readonly appsById: ReadonlyMap<string, Serving>;
  readonly backplane: Backplane;
  readonly sessions: { readonly size: number } | null;
  readonly droppedFrames: number;
}

/** See {@linkcode Pusher.stats}. */
export function statsOf(server: Counted): Stats {
  const usage = server.backplane.usage?.();
  return {
    ready: server.isBackplaneUp && !server.isClosing,
    connections: server.connections.size,
    ...totalsOf(server.appsById.values()),
    ...trafficOf(server.connections.values()),
    sessions: server.sessions?.size ?? 0,
    sessionsAway: usage?.sessionsAway ?? 0,
    historyBytes: usage?.historyBytes ?? 0,
    historyEvents: usage?.historyEvents ?? 0,
    droppedFrames: server.droppedFrames,
  };
}

/** What a connection tells of the frames that it sends. */
interface Sending {
  readonly outbox: {
    readonly transport: Transport;
    readonly pendingBytes: number;
  };
}

/** The figures of {@linkcode Stats} that are sums over all connections. */
function trafficOf(
  connections: Iterable<Sending>,
): Pick<Stats, "transports" | "bufferedBytes"> {
  const transports: Record<string, number> = {};
  let bufferedBytes = 0;
  for (const { outbox } of connections) {
    const name = outbox.transport.name ?? "ws";
    transports[name] = (transports[name] ?? 0) + 1;
    bufferedBytes += outbox.pendingBytes;
  }
  return { transports, bufferedBytes };
}

/** What an app tells of its clients. */
interface Serving {
  readonly channelCount: number;
  readonly quota: { readonly unauthorized: number };
}

/** The figures of {@linkcode Stats} that are sums over all apps. */
function totalsOf(
  apps: Iterable<Serving>,
): Pick<Stats, "channels" | "unauthorizedConnections"> {
  let [channels, unauthorizedConnections] = [0, 0];
  for (const { channelCount, quota } of apps) {
    channels += channelCount;
    unauthorizedConnections += quota.unauthorized;
  }
  return { channels, unauthorizedConnections };
}
