/**
 * What the protocol says of a frame or a request, written down a second time. The
 * model hears what is sent, in the order of each connection, and says what has to
 * come back. Channels are known by app and name, as `keyOf` has it.
 *
 * @module
 */
import { assert } from "@std/assert";
import { type App, channelAuth, type Frame, hmac } from "../../support/wire.ts";
import type { Wire } from "./wires.ts";
import { LIMITS, USER_CHANNEL } from "./world.ts";

interface Kind {
  auth: boolean;
  presence: boolean;
  cache: boolean;
}

export function kindOf(name: string): Kind {
  const presence = name.startsWith("presence-");
  return {
    presence,
    auth: presence || name.startsWith("private-"),
    cache: /^(cache-|(private|presence|private-encrypted)-cache-)/.test(name),
  };
}

export function isName(name: unknown): name is string {
  return typeof name === "string" && /^[A-Za-z0-9_\-=@,.;]+$/.test(name);
}

function bytesOf(text: string): number {
  return new TextEncoder().encode(text).length;
}

// deno-lint-ignore no-explicit-any -- whatever JSON has, or undefined
export function parse(text: unknown): any {
  try {
    return typeof text === "string" ? JSON.parse(text) : undefined;
  } catch {
    return undefined; // Most texts are no JSON on purpose.
  }
}

// deno-lint-ignore no-explicit-any -- its fields are looked at one by one
function isObject(value: unknown): value is Record<string, any> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export const keyOf = (app: App, channel: string) => `${app.id} ${channel}`;

/** What a connection has to be sent, in order; `left` is no frame. */
export type Expected =
  | { is: "pong" }
  | { is: "error"; code: number; channel?: string | undefined }
  | { is: "refused"; channel: string; why: string }
  | { is: "joined"; channel: string; isNew: boolean; userId?: string }
  | { is: "left"; channel: string }
  | { is: "signed in"; userData: string; id: string; watched: string[] }
  | { is: "watched"; ids: string[] };

/** An event that subscribers of a channel have to be sent. */
export interface Publication {
  event: string;
  data?: string | undefined;
  userId?: string | undefined;
  except?: string | undefined;
}

/** How a connection ends in a batch. */
type End =
  /**
   * The server closes it, having served all that came before. If it is sent
   * still more, the network may lose what it said last.
   */
  | { by: "server"; code: number; isCut: boolean }
  /** It closes itself; what it was sent last may be lost. */
  | { by: "client" }
  /** It breaks off; what it sent last may be lost as well. */
  | { by: "network" };

interface User {
  id: string;
  info: string;
}

/** One connection, as it is and as the model knows it. */
export class Peer {
  readonly channels = new Map<string, string | undefined>();
  user: User | null = null;
  end: End | null = null;
  /** Who is watched and whether they were told to be online. */
  known = new Map<string, boolean>();
  /** What is to be done in this batch. */
  script: (() => Promise<unknown> | void)[] = [];
  expected: Expected[] = [];
  frames: Frame[] = [];
  hasEnded = false;
  #pongs = 0;
  before = new Map<string, string | undefined>();
  userBefore: User | null = null;

  constructor(
    readonly name: string,
    readonly app: App,
    readonly wire: Wire,
    readonly isWitness: boolean,
  ) {}

  get isOpen(): boolean {
    return this.end === null;
  }

  /** Whether all that it was sent has been read. */
  get isWhole(): boolean {
    return this.end === null || (this.end.by === "server" && !this.end.isCut);
  }

  startBatch(): void {
    this.script = [];
    this.expected = [];
    this.frames = [];
    this.#pongs = 0;
    this.before = new Map(this.channels);
    this.userBefore = this.user;
  }

  /** Pings that have to be answered by now. */
  get pings(): number {
    return this.expected.filter(({ is }) => is === "pong").length;
  }

  /** Reads up to the answer of so many pings of the batch, or to the end. */
  async readTo(pings: number): Promise<void> {
    while (this.#pongs < pings && !this.hasEnded) {
      const frame = await this.wire.next();
      if (frame === null) this.hasEnded = true;
      else this.frames.push(frame);
      if (frame?.event === "pusher:pong") this.#pongs++;
    }
  }
}

/** Thrown at a step whose outcome depends on the order of connections. */
export const AMBIGUOUS = Symbol("ambiguous");

/** Publications by who sends them: in order for each sender. */
class Outbox {
  readonly #lanes = new Map<string, Map<string, Publication[]>>();

  add(key: string, lane: string, publication: Publication): void {
    const lanes = this.#lanes.get(key) ?? new Map<string, Publication[]>();
    this.#lanes.set(key, lanes);
    lanes.set(lane, [...lanes.get(lane) ?? [], publication]);
  }

  /** A copy of what was sent to a channel. */
  to(key: string): Map<string, Publication[]> {
    return new Map(
      [...this.#lanes.get(key) ?? []].map(([lane, list]) => [lane, [...list]]),
    );
  }

  get keys(): string[] {
    return [...this.#lanes.keys()];
  }
}

export class Model {
  readonly peers: Peer[] = [];
  /** Users who were on a channel or came in this batch. */
  readonly #seen = new Map<string, Set<string>>();
  /** By channel and user: how often joined in this batch, and with which info. */
  joins = new Map<string, { count: number; infos: Set<string> }>();
  /** Joins and leaves of a channel in this batch. */
  changes = new Map<string, number>();
  outbox = new Outbox();
  /** Whether one step is all that happens. */
  isSingle = false;

  constructor(
    readonly clientEvents: boolean,
    readonly counts: boolean,
  ) {}

  startBatch(isSingle: boolean): void {
    this.isSingle = isSingle;
    this.#seen.clear();
    this.joins = new Map();
    this.changes = new Map();
    this.outbox = new Outbox();
  }

  get open(): Peer[] {
    return this.peers.filter(({ isOpen }) => isOpen);
  }

  subscribers(app: App, channel: string): Peer[] {
    return this.open.filter((peer) =>
      peer.app === app && peer.channels.has(channel)
    );
  }

  /** Distinct users on a presence channel. */
  members(app: App, channel: string): Set<string> {
    return new Set(
      this.subscribers(app, channel).flatMap((peer) =>
        peer.channels.get(channel) ?? []
      ),
    );
  }

  isOnline(app: App, id: string): boolean {
    return this.open.some((peer) => peer.app === app && peer.user?.id === id);
  }

  /** Names and subscribers of the channels that somebody is on. */
  occupied(app: App): Map<string, number> {
    const occupied = new Map<string, number>();
    for (const peer of this.open) {
      if (peer.app !== app) continue;
      for (const name of peer.channels.keys()) {
        occupied.set(name, (occupied.get(name) ?? 0) + 1);
      }
    }
    return occupied;
  }

  /** A connection ends; it leaves what it was on. */
  ends(peer: Peer, end: End): void {
    for (const channel of [...peer.channels.keys()]) this.#leave(peer, channel);
    peer.end = end;
  }

  /** What has to come of a frame; a connection that has ended gets nothing. */
  receives(peer: Peer, text: string): void {
    if (!peer.isOpen) return;
    peer.expected.push(...this.#receives(peer, text));
  }

  #receives(peer: Peer, text: string): Expected[] {
    const malformed: Expected[] = [{ is: "error", code: 4300 }];
    if (bytesOf(text) > LIMITS.frameBytes) return malformed;
    const frame = parse(text);
    if (!isObject(frame) || typeof frame.event !== "string") return malformed;
    const data = typeof frame.data === "string"
      ? parse(frame.data)
      : frame.data;
    switch (frame.event) {
      case "pusher:ping":
        return [{ is: "pong" }];
      case "pusher:pong":
        return [];
      case "pusher:subscribe":
        if (!isObject(data) || typeof data.channel !== "string") {
          return malformed;
        }
        return this.#subscribes(peer, data);
      case "pusher:unsubscribe":
        if (!isObject(data) || typeof data.channel !== "string") {
          return malformed;
        }
        if (!peer.channels.has(data.channel)) return [];
        this.#leave(peer, data.channel);
        return [{ is: "left", channel: data.channel }];
      case "pusher:signin":
        return this.#signsIn(peer, isObject(data) ? data : {});
    }
    if (!frame.event.startsWith("client-")) return malformed;
    if (typeof frame.channel !== "string") return malformed;
    return this.#sends(peer, frame.event, frame.channel, frame.data);
  }

  #subscribes(
    peer: Peer,
    { channel, auth, channel_data }: Record<string, unknown>,
  ): Expected[] {
    const { app } = peer;
    assert(typeof channel === "string");
    const refused = (why: string): Expected[] => [
      { is: "refused", channel, why },
    ];
    if (channel.startsWith(USER_CHANNEL)) {
      return peer.user?.id === channel.slice(USER_CHANNEL.length)
        ? [{ is: "joined", channel, isNew: false }]
        : refused("AuthError 401");
    }
    if (!isName(channel)) return refused("InvalidChannel 400");
    if (channel.length > LIMITS.channelNameLength) {
      return refused("LimitReached 400");
    }
    const isRepeated = peer.channels.has(channel);
    if (!isRepeated && peer.channels.size >= LIMITS.channelsPerConnection) {
      return refused("LimitReached 403");
    }
    const kind = kindOf(channel);
    const given = typeof channel_data === "string" ? channel_data : undefined;
    const right = channelAuth(app, peer.wire.socketId, channel, given);
    const isSigned = auth === right && (given?.isWellFormed() ?? true);
    if (kind.auth && !isSigned) return refused("AuthError 401");
    let member: User | undefined;
    if (kind.presence) {
      const found = given === undefined ? peer.user : memberOf(parse(given));
      if (found === null) return refused("AuthError 401");
      if (typeof found === "string") return refused(found);
      member = found;
    }
    if (isRepeated) return [{ is: "joined", channel, isNew: false }];
    const key = keyOf(app, channel);
    if (member !== undefined) {
      const seen = this.#seenOn(app, channel);
      if (!seen.has(member.id) && seen.size >= LIMITS.presenceMembers) {
        if (!this.isSingle) throw AMBIGUOUS;
        return refused("LimitReached 403");
      }
      seen.add(member.id);
      const which = `${key} ${member.id}`;
      const join = this.joins.get(which) ?? { count: 0, infos: new Set() };
      join.count++;
      join.infos.add(member.info);
      this.joins.set(which, join);
    }
    peer.channels.set(channel, member?.id);
    this.changes.set(key, (this.changes.get(key) ?? 0) + 1);
    return [{
      is: "joined",
      channel,
      isNew: true,
      ...(member && { userId: member.id }),
    }];
  }

  #seenOn(app: App, channel: string): Set<string> {
    const key = keyOf(app, channel);
    const found = this.#seen.get(key);
    if (found) return found;
    // Those who have left in this batch were on it when it began.
    const seen = this.members(app, channel);
    for (const peer of this.peers) {
      if (peer.app !== app) continue;
      const userId = peer.before.get(channel);
      if (userId !== undefined) seen.add(userId);
    }
    this.#seen.set(key, seen);
    return seen;
  }

  #leave(peer: Peer, channel: string): void {
    const key = keyOf(peer.app, channel);
    if (kindOf(channel).presence) this.#seenOn(peer.app, channel);
    peer.channels.delete(channel);
    this.changes.set(key, (this.changes.get(key) ?? 0) + 1);
  }

  #signsIn(peer: Peer, data: Record<string, unknown>): Expected[] {
    const refused: Expected[] = [{ is: "error", code: 4009 }];
    const { user_data: text, auth } = data;
    if (typeof text !== "string" || !text.isWellFormed()) return refused;
    const { app, wire: { socketId } } = peer;
    const signed = hmac(app.secret, `${socketId}::user::${text}`);
    if (auth !== `${app.key}:${signed}`) return refused;
    const user = parse(text);
    if (!isObject(user) || !isUserId(user.id)) return refused;
    const info = infoJson(user.user_info);
    const watchlist = user.watchlist ?? [];
    if (info === null || !Array.isArray(watchlist)) return refused;
    if (peer.user !== null && peer.user.id !== user.id) return refused;
    peer.user = { id: user.id, info };
    const wanted = [...new Set(watchlist.filter(isUserId))];
    const ids = wanted.slice(0, LIMITS.watchedUsers);
    const expected: Expected[] = [
      { is: "signed in", userData: text, id: user.id, watched: ids },
    ];
    if (ids.length > 0) expected.push({ is: "watched", ids });
    if (wanted.length > ids.length) expected.push({ is: "error", code: 4302 });
    return expected;
  }

  #sends(
    peer: Peer,
    event: string,
    channel: string,
    value: unknown,
  ): Expected[] {
    const data = value === undefined || typeof value === "string"
      ? value
      : JSON.stringify(value);
    const isRelayed = this.clientEvents && isName(channel) &&
      kindOf(channel).auth && peer.channels.has(channel) &&
      event.length <= LIMITS.eventNameLength &&
      (data === undefined || bytesOf(data) <= LIMITS.eventDataBytes);
    if (!isRelayed) return [{ is: "error", code: 4301, channel }];
    this.outbox.add(keyOf(peer.app, channel), peer.name, {
      event,
      data,
      userId: peer.channels.get(channel),
      except: peer.wire.socketId,
    });
    return [];
  }
}

export function isUserId(id: unknown): id is string {
  return typeof id === "string" && id !== "" && id.isWellFormed() &&
    id.length <= LIMITS.userIdLength;
}

/** What is known of a user as JSON text; null if it is no object. */
function infoJson(info: unknown): string | null {
  const isEmpty = info === undefined || info === null ||
    (Array.isArray(info) && info.length === 0);
  if (isEmpty) return "{}";
  return isObject(info) ? JSON.stringify(info) : null;
}

/** A member by its channel data, or why it is refused. */
function memberOf(value: unknown): User | string {
  if (!isObject(value)) return "InvalidChannelData 400";
  const { user_id, user_info } = value;
  const id = Number.isSafeInteger(user_id) ? String(user_id) : user_id;
  if (typeof id !== "string" || id === "" || !id.isWellFormed()) {
    return "InvalidChannelData 400";
  }
  if (id.length > LIMITS.userIdLength) return "LimitReached 413";
  const info = infoJson(user_info);
  if (info === null) return "InvalidChannelData 400";
  return bytesOf(info) > LIMITS.userInfoBytes
    ? "LimitReached 413"
    : { id, info };
}

/** What has to come of a request to publish. */
export interface Verdict {
  /** Every status that is right: which of several faults is told is open. */
  statuses: number[];
  channels: string[];
  publication: Publication;
  info: string[];
}

export function judgePublish(
  value: unknown,
  channelsOf: (fields: Record<string, unknown>) => unknown,
): Verdict {
  const faults: number[] = [];
  const fields = isObject(value) ? value : {};
  const { name, data, socket_id, info } = fields;
  if (
    typeof name !== "string" || name === "" ||
    name.length > LIMITS.eventNameLength ||
    /^pusher(_internal)?:/.test(name)
  ) faults.push(400);
  const text = typeof data === "string" ? data : JSON.stringify(data);
  if (text === undefined) faults.push(400);
  else if (bytesOf(text) > LIMITS.eventDataBytes) faults.push(413);
  const channels = channelsOf(fields);
  const areNames = Array.isArray(channels) && channels.length > 0 &&
    channels.length <= LIMITS.channelsPerEvent &&
    channels.every((name) =>
      typeof name === "string" && name.startsWith(USER_CHANNEL)
        ? isUserId(name.slice(USER_CHANNEL.length))
        : isName(name) && name.length <= LIMITS.channelNameLength
    );
  if (!areNames) faults.push(400);
  const isExcept = socket_id === undefined || socket_id === null ||
    (typeof socket_id === "string" && /^\d+\.\d+$/.test(socket_id));
  if (!isExcept) faults.push(400);
  const asked = infoOf(info, ["subscription_count", "user_count"]);
  if (asked === null) faults.push(400);
  return {
    statuses: faults.length > 0 ? faults : [200],
    channels: areNames ? [...new Set(channels as string[])] : [],
    publication: {
      event: String(name),
      data: text,
      except: socket_id ?? undefined,
    },
    info: asked ?? [],
  };
}

export function infoOf(info: unknown, known: string[]): string[] | null {
  if (info === undefined || info === null || info === "") return [];
  if (Array.isArray(info) && info.every((name) => typeof name === "string")) {
    return infoOf(info.join(","), known);
  }
  const names = typeof info === "string" ? info.split(",") : [""];
  return names.every((name) => known.includes(name)) ? names : null;
}
