/**
 * A server without sockets: it uses a backplane as the real one does, and records
 * what the backplane calls.
 *
 * @module
 */
import type {
  Announcement,
  Backplane,
  BackplaneNode,
  Clock,
  Departure,
  Held,
  History,
  JoiningMember,
  JoinOptions,
  JoinResult,
  KnownMember,
  LoggedMessage,
  Message,
  PageRequest,
  Position,
  Transition,
} from "@glitz/pusher";
import { assert, assertEquals, assertExists } from "@std/assert";
import { REACHING_AGAIN } from "../../../core/hooks.ts";
import { DEADLINE_MS, within } from "../deadline.ts";

/** The app of calls that name none. */
export const SOME_APP = "app";

/** A message as it was delivered. */
export interface Delivered {
  readonly app: string;
  readonly channel: string;
  readonly message: Message;
  readonly position: Position;
}

/** A change as it was told. */
export interface Changed {
  readonly app: string;
  readonly channel: string;
  readonly transition: Transition;
}

/** How a connection joins, and which one leaves. */
export interface JoinInit {
  readonly app?: string;
  /** The user, on a presence channel. */
  readonly user?: string;
  /** The `user_info` as JSON text. @default {"{}"} */
  readonly info?: string;
  readonly maxMembers?: number;
  /** Whether the connection can recover. `since` and `rewind` say so, too. */
  readonly recovers?: boolean;
  readonly since?: Position | undefined;
  readonly rewind?: number;
}

/** What goes with a message. */
export type MessageInit = Partial<Message> & { readonly app?: string };

/** What a server holds on one channel. */
interface Holding {
  readonly app: string;
  readonly channel: string;
  /** By user; under "" on a channel without users. */
  readonly connections: Map<string, number>;
  readonly members: Map<string, JoiningMember>;
  recovering: number;
}

/** Wakes those who wait for something to happen. */
export class Bell {
  #rung = Promise.withResolvers<void>();

  readonly ring = (): void => {
    this.#rung.resolve();
    this.#rung = Promise.withResolvers();
  };

  /** Waits until a condition holds, which has to be after a ring. */
  async until(isTrue: () => boolean, what = String(isTrue)): Promise<void> {
    const deadline = performance.now() + DEADLINE_MS;
    while (!isTrue()) {
      const leftMs = Math.max(1, deadline - performance.now());
      await within(leftMs, what, this.#rung.promise);
    }
  }
}

/** A server without sockets. */
export class FakeServer implements BackplaneNode {
  readonly id = crypto.randomUUID();
  readonly history: Readonly<History> | null;
  readonly clock: Clock;
  readonly backplane: Backplane;
  /** All messages that were delivered to it. */
  readonly deliveries: Delivered[] = [];
  /** All changes that it was told. */
  readonly changes: Changed[] = [];
  /** All losses that it was told. */
  readonly losses: { app: string; channel: string; now: Position }[] = [];
  /** Ids of sessions that other servers have taken from it. */
  readonly lostSessions: string[] = [];
  /** What it was told of the backplane's health. */
  readonly healths: boolean[] = [];
  /** Is given each message when it is delivered. */
  onDelivery: (delivered: Delivered) => void = () => {};
  readonly #bell: Bell;
  readonly #holdings = new Map<string, Holding>();

  constructor(
    backplane: Backplane,
    { history, clock }: { history: Readonly<History> | null; clock: Clock },
    bell: Bell,
  ) {
    this.backplane = backplane;
    this.history = history;
    this.clock = clock;
    this.#bell = bell;
  }

  // ---- Calls of the backplane

  deliver(
    app: string,
    channel: string,
    message: Message,
    position: Position,
  ): void {
    const delivered = { app, channel, message, position };
    this.deliveries.push(delivered);
    this.onDelivery(delivered);
    this.#bell.ring();
  }

  changed(app: string, channel: string, transition: Transition): void {
    this.changes.push({ app, channel, transition });
    this.#bell.ring();
  }

  lost(app: string, channel: string, now: Position): void {
    this.losses.push({ app, channel, now });
    this.#bell.ring();
  }

  taken(_app: string, sessionId: string): void {
    this.lostSessions.push(sessionId);
    this.#bell.ring();
  }

  *held(): Iterable<Held> {
    for (const holding of this.#holdings.values()) {
      const { app, channel } = holding;
      for (const user of holding.connections.keys()) {
        yield { app, channel, ...this.#options(holding, user) };
      }
    }
  }

  departure(channel: string, userId: string | undefined): Departure {
    return {
      removed: userId === undefined
        ? undefined
        : { event: "removed", data: userId },
      last: announce(channel, "offline"),
    };
  }

  arrival(_channel: string, { userId }: KnownMember): Message {
    return { event: "added", data: userId };
  }

  health(isUp: boolean): void {
    this.healths.push(isUp);
    this.#bell.ring();
  }

  failed(error: unknown, during: string): void {
    if (during === REACHING_AGAIN) return;
    throw new Error(`Failed while ${during}`, { cause: error });
  }

  // ---- Calls to the backplane

  /** Joins a channel with one more connection. */
  async join(channel: string, init: JoinInit = {}): Promise<JoinResult | null> {
    const { app = SOME_APP, user, info = "{}", maxMembers = Infinity } = init;
    const isRecovering = recovers(init);
    const holding = this.#holding(app, channel);
    this.#count(holding, user, 1, isRecovering);
    if (user !== undefined && !holding.members.has(user)) {
      const added = { event: "added", data: user };
      const member = { userId: user, userInfo: info, maxMembers, added };
      holding.members.set(user, member);
    }
    const { since, rewind = 0 } = init;
    const history = isRecovering ? { since, rewind } : undefined;
    const options = { ...this.#options(holding, user ?? ""), history };
    const result = await this.backplane.join(app, channel, options);
    if (result === null) this.#count(holding, user, -1, isRecovering);
    return result;
  }

  /** Joins a channel, which has to succeed. */
  async enter(channel: string, init?: JoinInit): Promise<JoinResult> {
    const result = await this.join(channel, init);
    assertExists(result, `There is no room on ${channel}`);
    return result;
  }

  /** Leaves a channel with one of its connections. */
  async leave(channel: string, init: JoinInit = {}): Promise<void> {
    const { app = SOME_APP, user } = init;
    const holding = this.#holding(app, channel);
    this.#count(holding, user, -1, recovers(init));
    const { connections, recovering } = this.#options(holding, user ?? "");
    const options = { connections, recovering, userId: user };
    await this.backplane.leave(app, channel, options);
  }

  /** Says again what it holds, as after a call whose outcome is not known. */
  async repeat(channel: string, init: JoinInit = {}): Promise<void> {
    const { app = SOME_APP, user } = init;
    const holding = this.#holding(app, channel);
    const options = this.#options(holding, user ?? "");
    if (options.connections > 0) {
      await this.backplane.join(app, channel, options);
    } else {
      const { connections, recovering } = options;
      const leaving = { connections, recovering, userId: user };
      await this.backplane.leave(app, channel, leaving);
    }
  }

  /** Publishes a message, which the history keeps unless it says otherwise. */
  async publish(
    channel: string,
    data: string,
    { app = SOME_APP, ...fields }: MessageInit = {},
  ): Promise<void> {
    const message = { event: "e", data, logged: true, ...fields };
    await this.backplane.publish(app, channel, message);
  }

  /** Reads a part of the history, page by page; null if it does not reach back. */
  async read(
    channel: string,
    { after, until, events = 100, bytes = 65_536, app = SOME_APP }:
      & Pick<PageRequest, "after" | "until">
      & Partial<PageRequest>
      & { app?: string },
  ): Promise<LoggedMessage[] | null> {
    const messages: LoggedMessage[] = [];
    for (let from = after; from.offset < until;) {
      const request = { after: from, until, events, bytes };
      const page = await this.backplane.read(app, channel, request);
      if (page === null) return null;
      const { reaches } = page;
      assert(page.messages.length <= events, "A page has too many messages");
      assert(reaches > from.offset, "A page leads nowhere");
      for (const { offset } of page.messages) {
        assert(offset > from.offset && offset <= reaches, "Out of its page");
      }
      messages.push(...page.messages);
      from = { ...from, offset: reaches };
    }
    const offsets = messages.map(({ offset }) => offset);
    assertEquals(offsets, [...new Set(offsets)].sort((a, b) => a - b));
    return messages;
  }

  /** What a client gets that has joined with a history: the data of each message. */
  async replay(
    channel: string,
    { replay, position }: JoinResult,
    app?: string,
  ): Promise<string[] | null> {
    assertExists(replay, "There is no replay");
    const request = { after: replay.from, until: position.offset };
    const messages = await this.read(channel, {
      ...request,
      ...(app !== undefined && { app }),
    });
    return messages && messages.map(({ message }) => message.data ?? "");
  }

  // ---- Records

  /** What was delivered of a channel later than a position, or all of it. */
  heard(channel: string, after?: Position, app = SOME_APP): Delivered[] {
    return this.deliveries.filter((delivered) =>
      delivered.app === app && delivered.channel === channel &&
      (after === undefined || delivered.position.offset > after.offset)
    );
  }

  /** The same, as `event data`. */
  texts(channel: string, after?: Position, app?: string): string[] {
    return this.heard(channel, after, app).map(({ message }) =>
      [message.event, message.data ?? []].flat().join(" ")
    );
  }

  /** What it was told of a channel, such as `2 occupied +ann`. */
  told(channel: string, app = SOME_APP): string[] {
    return this.changes
      .filter((one) => one.app === app && one.channel === channel)
      .map(({ transition }) => textOf(transition));
  }

  /** How many connections it holds, by user or under "". */
  holds(channel: string, app = SOME_APP): ReadonlyMap<string, number> {
    return this.#holdings.get(`${app}\n${channel}`)?.connections ?? new Map();
  }

  #holding(app: string, channel: string): Holding {
    const key = `${app}\n${channel}`;
    const known = this.#holdings.get(key);
    if (known !== undefined) return known;
    const maps = { connections: new Map(), members: new Map() };
    const holding = { app, channel, ...maps, recovering: 0 };
    this.#holdings.set(key, holding);
    return holding;
  }

  #count(
    holding: Holding,
    user = "",
    by: 1 | -1,
    isRecovering: boolean,
  ): void {
    const { connections, members } = holding;
    const count = (connections.get(user) ?? 0) + by;
    assert(count >= 0, `Nobody is left of ${user} on ${holding.channel}`);
    if (count > 0) connections.set(user, count);
    else connections.delete(user);
    if (count === 0) members.delete(user);
    if (isRecovering) holding.recovering += by;
  }

  #options(holding: Holding, user: string): JoinOptions {
    return {
      connections: holding.connections.get(user) ?? 0,
      recovering: holding.recovering,
      member: holding.members.get(user),
      first: announce(holding.channel, "online"),
    };
  }
}

function recovers({ recovers, since, rewind }: JoinInit): boolean {
  return recovers ?? (since !== undefined || rewind !== undefined);
}

/** Prefixes of channels of the servers' own, in these tests. */
export const USER = "#server-to-user-";
export const WATCHERS = "#watchers-of-";

/** What goes with the first and the last connection of a user's channel. */
function announce(
  channel: string,
  control: "online" | "offline",
): Announcement | undefined {
  if (!channel.startsWith(USER)) return undefined;
  const watchers = WATCHERS + channel.slice(USER.length);
  return { channel: watchers, message: { event: control, control } };
}

function textOf(transition: Transition): string {
  const { subscriptions, occupancy, memberAdded, memberRemoved } = transition;
  return [
    `${subscriptions}`,
    occupancy ?? [],
    memberAdded === undefined ? [] : `+${memberAdded}`,
    memberRemoved === undefined ? [] : `-${memberRemoved}`,
  ].flat().join(" ");
}
