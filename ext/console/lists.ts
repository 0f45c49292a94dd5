/**
 * Lists that may be long, in pages: live connections of this server, and channels of
 * all servers.
 *
 * @module
 */

import { isObject, kindOf } from "../../core/protocol.ts";
import type { Clock } from "../../core/time.ts";
import type { ChannelCounts, LiveConnection, Pusher } from "../../mod.ts";
import { cut } from "./text.ts";

// ---- Pages ------------------------------------------------------------------

/** What part of a list is asked for. */
export interface PageQuery {
  /** Part of any text of a row, in lower case. */
  readonly search: string;
  readonly sort: string;
  readonly isDescending: boolean;
  /** From 0. */
  readonly page: number;
  readonly size: number;
}

/** A part of a list. */
export interface ListPage<Row> {
  readonly rows: readonly Row[];
  /** How many rows fit the search. */
  readonly found: number;
  /** How many rows there are. */
  readonly total: number;
}

const MAX_SIZE = 100;

/**
 * Reads what part of a list is asked for; nonsense becomes a default.
 *
 * @param maxSize How many rows may be asked for.
 */
export function readPageQuery(
  query: URLSearchParams,
  maxSize = MAX_SIZE,
): PageQuery {
  const whole = (name: string, otherwise: number) => {
    const value = Number(query.get(name) ?? otherwise);
    return Number.isSafeInteger(value) && value >= 0 ? value : otherwise;
  };
  return {
    search: (query.get("search") ?? "").slice(0, 200).toLowerCase(),
    sort: query.get("sort") ?? "",
    isDescending: query.get("order") !== "up",
    page: whole("page", 0),
    size: Math.max(1, Math.min(whole("size", 50), maxSize)),
  };
}

/** The query that reads as a part of the connections of an app. */
export function connectionsQuery(
  app: string,
  { isDescending, search, sort, page, size }: PageQuery,
): string {
  return String(
    new URLSearchParams({
      ...{ app, search, sort: sort.slice(0, 50) },
      order: isDescending ? "down" : "up",
      ...{ page: String(page), size: String(size) },
    }),
  );
}

/** Picks a page of items, which are in descending order where no key is given. */
function pick<Item, Row>(
  items: readonly Item[],
  { page, size, isDescending }: PageQuery,
  keyOf: ((item: Item) => number | string) | undefined,
  rowOf: (item: Item) => Row,
): Row[] {
  const sorted = keyOf === undefined
    ? isDescending ? items : items.toReversed()
    : sortBy(items, keyOf, isDescending);
  return sorted.slice(page * size, (page + 1) * size).map(rowOf);
}

function sortBy<Item>(
  items: readonly Item[],
  keyOf: (item: Item) => number | string,
  isDescending: boolean,
): Item[] {
  const sign = isDescending ? -1 : 1;
  // Each key is read once: it may be costly, and may change meanwhile.
  return items.map((item) => [keyOf(item), item] as const)
    .sort(([a], [b]) => a < b ? -sign : a > b ? sign : 0)
    .map(([, item]) => item);
}

// ---- Answers that are kept --------------------------------------------------

/** An answer is kept for at least so long. */
const FRESH_MS = 1_000;
/** And for so many times the time that it took: at most 1/30 of a core goes there. */
const SHARE = 30;
const MAX_KEPT = 20;

/**
 * Keeps answers for a moment, so that pages that ask often, and many pages, cost no
 * more than one.
 */
export class Answers {
  readonly #clock: Clock;
  readonly #kept = new Map<
    string,
    { until: number; answer: Promise<unknown> }
  >();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async get<T>(name: string, make: () => T | Promise<T>): Promise<T> {
    const begun = this.#clock.elapsed();
    const known = this.#kept.get(name);
    // The same name always has an answer of the same type.
    if (known !== undefined && known.until > begun) {
      return await (known.answer as Promise<T>);
    }
    const kept = { until: Infinity, answer: Promise.resolve().then(make) };
    this.#kept.delete(name);
    this.#kept.set(name, kept);
    if (this.#kept.size > MAX_KEPT) {
      const [oldest = ""] = this.#kept.keys();
      this.#kept.delete(oldest);
    }
    try {
      return await kept.answer;
    } finally {
      const now = this.#clock.elapsed();
      kept.until = now + Math.max(FRESH_MS, (now - begun) * SHARE);
    }
  }
}

// ---- Connections ------------------------------------------------------------

/** A connection as a page gets it. */
export interface ConnectionRow {
  /** The server that it is connected to. */
  readonly node: string;
  readonly socketId: string;
  readonly app: string;
  readonly transport: string;
  readonly library: string;
  readonly address: string;
  readonly userId: string;
  /** The first of its channels. */
  readonly channels: readonly string[];
  readonly channelCount: number;
  readonly bufferedBytes: number;
  readonly ageMs: number;
}

/** Names of channels that a row shows. */
const SHOWN_CHANNELS = 20;

const CONNECTION_KEYS: Readonly<
  Record<string, (one: LiveConnection) => number | string>
> = Object.freeze({
  user: (one) => one.userId ?? "",
  buffered: (one) => one.bufferedBytes,
  channels: (one) => one.channels.length,
  library: libraryOf,
  address: (one) => one.address ?? "",
});

/** Lists live connections; those of `app`, or of all apps for "". */
export function listConnections(
  pusher: Pick<Pusher, "inspect">,
  app: string,
  query: PageQuery,
): ListPage<ConnectionRow> {
  const { node, connections } = pusher.inspect();
  const all = [...connections()];
  const own = app === "" ? all : all.filter((one) => one.app === app);
  const { search } = query;
  const found = search === ""
    ? own
    : own.filter((one) => textsOf(one).some((text) => text.includes(search)));
  const keyOf = Object.hasOwn(CONNECTION_KEYS, query.sort)
    ? CONNECTION_KEYS[query.sort]
    : undefined;
  const rows = pick(found, query, keyOf, (one) => connectionRow(one, node));
  return { rows, found: found.length, total: own.length };
}

function libraryOf({ library = "", version = "" }: LiveConnection): string {
  return cut(`${library} ${version}`.trim());
}

function textsOf(one: LiveConnection): string[] {
  const { socketId, transport, address = "", userId = "", channels } = one;
  return [socketId, transport, libraryOf(one), address, userId, ...channels]
    .map((text) => text.toLowerCase());
}

function connectionRow(one: LiveConnection, node: string): ConnectionRow {
  const { socketId, app, transport, address = "", userId = "" } = one;
  const { channels } = one;
  return {
    ...{ node, socketId, app, transport, address, library: libraryOf(one) },
    userId: cut(userId),
    channels: channels.slice(0, SHOWN_CHANNELS).map((name) => cut(name)),
    channelCount: channels.length,
    bufferedBytes: one.bufferedBytes,
    ageMs: Math.round(one.ageMs),
  };
}

// ---- Connections of several servers -----------------------------------------

/** A page of connections of several servers. */
export interface MergedPage extends ListPage<ConnectionRow> {
  /** How many rows can be shown; the others take a search or one server. */
  readonly reach: number;
}

/** Rows that can be listed over several servers. */
export const MERGED_ROWS = 500;

const ROW_KEYS: Readonly<
  Record<string, (row: ConnectionRow) => number | string>
> = Object.freeze({
  user: (row) => row.userId,
  buffered: (row) => row.bufferedBytes,
  channels: (row) => row.channelCount,
  library: (row) => row.library,
  address: (row) => row.address,
});

/** Picks a page of what each server has as its first rows. */
export function mergeConnections(
  lists: readonly ListPage<ConnectionRow>[],
  query: PageQuery,
): MergedPage {
  const total = (of: "found" | "total") =>
    lists.reduce((sum, list) => sum + list[of], 0);
  const rows = lists.flatMap((list) => list.rows);
  const keyOf = Object.hasOwn(ROW_KEYS, query.sort)
    ? ROW_KEYS[query.sort]
    : undefined;
  const { page, size } = query;
  // Beyond the rows of a server that were left out the order is not known.
  const wanted = Math.min((page + 1) * size, MERGED_ROWS);
  const known = lists.map(({ rows: some, found }) =>
    some.length < Math.min(found, wanted) ? some.length : Infinity
  );
  const reach = Math.min(total("found"), MERGED_ROWS, ...known);
  const sorted = sortBy(
    rows,
    keyOf ?? ((row) => row.ageMs),
    query.isDescending,
  ).slice(0, reach);
  return {
    rows: sorted.slice(page * size, (page + 1) * size),
    ...{ found: total("found"), total: total("total"), reach },
  };
}

/** Reads a list of another server; what is no row is left out. */
export function readConnections(
  { rows, found, total }: Record<string, unknown>,
  node: string,
): ListPage<ConnectionRow> {
  const read = (Array.isArray(rows) ? rows : []).flatMap((row) => {
    if (!isObject(row) || typeof row.socketId !== "string") return [];
    const text = (name: string) =>
      typeof row[name] === "string" ? cut(row[name]) : "";
    const count = (name: string) => Number(row[name]) || 0;
    const channels = Array.isArray(row.channels) ? row.channels : [];
    const one: ConnectionRow = {
      ...{ node, socketId: text("socketId"), app: text("app") },
      ...{ transport: text("transport"), library: text("library") },
      ...{ address: text("address"), userId: text("userId") },
      channels: channels.slice(0, SHOWN_CHANNELS).map((name) => cut(`${name}`)),
      channelCount: count("channelCount"),
      ...{ bufferedBytes: count("bufferedBytes"), ageMs: count("ageMs") },
    };
    return [one];
  });
  return { rows: read, found: Number(found) || 0, total: Number(total) || 0 };
}

// ---- Channels ---------------------------------------------------------------

/** A channel as a page gets it. */
export interface ChannelRow {
  readonly app: string;
  readonly name: string;
  /** Such as `private` and `cache`. */
  readonly kinds: readonly string[];
  readonly subscriptions: number;
  /** Distinct users, on presence channels. */
  readonly users?: number | undefined;
}

/** Lists the occupied channels of one app, on all servers. */
export async function listChannels(
  pusher: Pick<Pusher, "channels">,
  app: string,
): Promise<ChannelRow[]> {
  const [all, presence] = await Promise.all([
    pusher.channels({ info: "subscription_count" }),
    pusher.channels({
      filter_by_prefix: "presence-",
      info: "user_count",
    }),
  ]);
  const users = new Map(Object.entries(presence.channels));
  return Object.entries(all.channels).map(([name, counts]) => ({
    app,
    name,
    kinds: kindsOf(name),
    subscriptions: counts.subscription_count ?? 0,
    users: (users.get(name) as ChannelCounts | undefined)?.user_count,
  }));
}

/** What is special about a channel; `public` if nothing is. */
export function kindsOf(name: string): string[] {
  const { auth, presence, encrypted, cache } = kindOf(name);
  const kinds = Object.entries({
    presence,
    encrypted,
    private: auth && !presence && !encrypted,
    public: !auth,
    cache,
  });
  return kinds.filter(([, is]) => is).map(([kind]) => kind);
}

const CHANNEL_KEYS: Readonly<
  Record<string, (row: ChannelRow) => number | string>
> = Object.freeze({
  subscriptions: (row) => row.subscriptions,
  users: (row) => row.users ?? -1,
  kind: (row) => row.kinds.join(),
});

/** A page of channels. */
export function pageOfChannels(
  rows: readonly ChannelRow[],
  query: PageQuery,
  kind: string,
): ListPage<ChannelRow> {
  const { search, sort } = query;
  const found = rows.filter(({ name, kinds }) =>
    (search === "" || name.toLowerCase().includes(search)) &&
    (kind === "" || kinds.includes(kind))
  );
  const keyOf = Object.hasOwn(CHANNEL_KEYS, sort)
    ? CHANNEL_KEYS[sort]
    : (row: ChannelRow) => row.name;
  return {
    rows: pick(found, query, keyOf, (row) => row),
    found: found.length,
    total: rows.length,
  };
}
