/**
 * What a server states to Redis about one channel, and what Redis answers.
 *
 * @module
 */

import type {
  BackplaneNode,
  CachedMessage,
  JoiningMember,
  JoinOptions,
  LeaveOptions,
  LoggedMessage,
  Page,
  PageRequest,
  Position,
  Transition,
} from "../../core/backplane.ts";
import type { HeldChannel } from "./channels.ts";
import type { ChannelKeys, Keys } from "./keys.ts";
import type { Lease } from "./lease.ts";
import { decodePlaced, decodeSent, encodeSent, type Sent } from "./messages.ts";
import { type Connection, RedisUnavailable } from "./network.ts";
import { DEPART, HOLD } from "./membership_scripts.ts";
import { READ } from "./message_scripts.ts";
import { Turns } from "./turns.ts";

/** How long Redis keeps what nobody touches. */
export const LIFE_MS = 24 * 3_600_000;
/** Statements under way at a time while much is stated. */
export const PIPELINE = 256;
// Redis answers some 20,000 a second, and the members of a channel go with each.
const MAX_STATEMENTS = 128;

/** How figures are stated, see {@linkcode HOLD}. */
export type Kind = "join" | "leave" | "state" | "quiet";

/** A user who has gone; or under "" the last connection of a channel. */
export interface Departed {
  readonly keys: ChannelKeys;
  readonly user: string;
}

/** What HOLD answers where it has been carried out. */
export interface Answer {
  readonly position: Position;
  readonly subscriptions: number;
  readonly member: string;
  readonly occupancy: string;
  readonly hasChanged: boolean;
  /** The offset of the last message that a history would keep. */
  readonly loggable: number;
  /** The offset of the last order to close a user's connections; 0 for none. */
  readonly terminated: number;
  readonly rest: readonly unknown[];
}

/** The announcement of a member who has come. */
function announcementOf({ userId, userInfo, added }: JoiningMember): Sent {
  return { message: added, added: userId, userInfo };
}

/** Redis knows nothing of this server. Nothing was changed. */
export class Unregistered extends RedisUnavailable {
  readonly incarnation: string;

  constructor(incarnation: string) {
    const reason = "Redis took this server for dead, or was flushed";
    super(reason, { wasSent: false });
    this.incarnation = incarnation;
  }
}

/** What statements need of their backplane. */
export interface StatementServices {
  readonly node: BackplaneNode;
  readonly keys: Keys;
  readonly lease: Lease;
}

/** States figures in the name of a server. */
export class Statements {
  /**
   * Statements that are under way. All clients of a server may come or go at once,
   * and Redis has to answer in time what is sent.
   */
  readonly turns: Turns = new Turns(MAX_STATEMENTS);
  readonly #services: StatementServices;

  constructor(services: StatementServices) {
    this.#services = services;
  }

  /** States figures; null where the channel is full. */
  async state(
    connection: Connection,
    held: HeldChannel,
    user: string,
    kind: Kind,
    options: Partial<JoinOptions> & LeaveOptions,
    wants: "members" | "" = "",
  ): Promise<Answer | null> {
    const { connections, recovering, member, history } = options;
    held.stated.set(user, connections);
    held.recovering = recovering;
    const incarnation = this.#services.lease.incarnation;
    const answer = await connection.call(
      HOLD,
      this.#keysOf(held.keys, incarnation),
      [
        connection.generation,
        ...this.#argumentsOf(held.keys, user, connections, recovering, kind),
        member?.userInfo ?? "",
        Number.isFinite(member?.maxMembers) ? member!.maxMembers : "inf",
        ...this.#announcements(held.keys, user, kind, options),
        this.#history.ageMs,
        history === undefined ? wants : history.since ? "since" : "rewind",
        history?.since?.epoch ?? "",
        history?.since?.offset ?? 0,
        history?.rewind ?? 0,
        LIFE_MS,
        this.#history.events,
      ],
    ) as unknown[];
    if (answer[0] === "FULL") {
      held.stated.delete(user);
      return null;
    }
    return this.#check(answer, incarnation);
  }

  #keysOf(keys: ChannelKeys, incarnation: string): string[] {
    const { bucket, state, users, members, history, last, topic } = keys;
    const all = this.#services.keys;
    const own = [
      all.meta(bucket),
      all.holdings(bucket, incarnation),
      ...[state, users, members, history, last],
      all.occupied(bucket),
      all.journal(bucket),
      topic,
      all.announced(bucket),
    ];
    const other = this.#other(keys);
    return other === null ? own : [...own, other.state, other.topic];
  }

  /** The channel to which a channel's first and last connections are announced. */
  #other({ app, channel }: ChannelKeys): ChannelKeys | null {
    const { last } = this.#services.node.departure(channel, undefined);
    return last === undefined
      ? null
      : this.#services.keys.channel(app, last.channel);
  }

  #argumentsOf(
    { name }: ChannelKeys,
    user: string,
    connections: number,
    recovering: number,
    kind: Kind,
  ): (string | number)[] {
    return [name, user, connections, recovering, kind];
  }

  /** What is published if a member, or the first or last connection, comes or goes. */
  #announcements(
    { channel }: ChannelKeys,
    user: string,
    kind: Kind,
    { connections, member, first }: Partial<JoinOptions> & LeaveOptions,
  ): [member: string, occupancy: string] {
    const { node } = this.#services;
    const isLeaving = kind === "leave" || connections === 0;
    const { removed, last } = node.departure(channel, user || undefined);
    const occupancy = isLeaving ? last : first;
    const change = isLeaving
      ? removed && { message: removed, removed: user }
      : member && announcementOf(member);
    return [
      change === undefined ? "" : encodeSent(change),
      occupancy === undefined ? "" : encodeSent(occupancy),
    ];
  }

  #check(answer: unknown[], incarnation: string): Answer {
    const [code, epoch, offset, subscriptions, , member, occupancy, ...rest] =
      answer as [string, string, string, number, number, string, string];
    if (code !== "OK") throw this.refused(code, incarnation);
    const [hasChanged, loggable, terminated, ...more] = rest as unknown as [
      number,
      string,
      string,
    ];
    return {
      position: { epoch, offset: Number(offset) },
      ...{ subscriptions, member, occupancy },
      hasChanged: hasChanged === 1,
      loggable: Number(loggable),
      terminated: Number(terminated),
      rest: more,
    };
  }

  /** Why a script has changed nothing. */
  refused(code: string, incarnation: string): RedisUnavailable {
    if (code === "DEAD") return new Unregistered(incarnation);
    const reason = code === "LATE"
      ? "Redis got the call too late"
      : "Redis got the call over an earlier connection";
    return new RedisUnavailable(reason, { wasSent: false });
  }

  /** Tells the server what has changed by a statement. */
  tell(keys: ChannelKeys, user: string, answer: Answer): void {
    const { hasChanged, subscriptions, member, occupancy } = answer;
    if (!hasChanged) return;
    const transition: Transition = {
      subscriptions,
      occupancy: occupancy === "o"
        ? "occupied"
        : occupancy === "v"
        ? "vacated"
        : undefined,
      memberAdded: member === "+" ? user : undefined,
      memberRemoved: member === "-" ? user : undefined,
    };
    this.#services.node.changed(keys.app, keys.channel, transition);
  }

  /** What this server wants of the history of a channel, in whole numbers. */
  get #history(): { ageMs: number; events: number } {
    const { ageMs = 0, events = 0 } = this.#services.node.history ?? {};
    return {
      ageMs: Math.ceil(ageMs),
      events: Math.min(events, Number.MAX_SAFE_INTEGER),
    };
  }

  // ---- Of others

  /** Releases what a dead incarnation held. See {@linkcode Lease}. */
  async release(
    connection: Connection,
    incarnation: string,
    fields: readonly string[],
  ): Promise<void> {
    const { keys } = this.#services;
    await inParallel(PIPELINE, fields, async (field) => {
      const { name, user } = parseField(field);
      const channel = keys.named(name);
      const nothing = { connections: 0, recovering: 0 };
      const answer = await this.turns.run(() =>
        connection.call(
          HOLD,
          this.#keysOf(channel, incarnation),
          [
            ...["reap", name, user, 0, 0, "state", "", 0],
            ...this.#announcements(channel, user, "leave", nothing),
            ...[0, "", "", 0, 0, LIFE_MS, 0],
          ],
        )
      ) as unknown[];
      // Redis was flushed, and nothing is held any more.
      if (answer[0] === "DEAD") return;
      this.tell(channel, user, this.#check(answer, incarnation));
    });
  }

  /** Announces a departure that a flushed Redis knows nothing of, unless another has. */
  async depart(
    connection: Connection,
    { keys, user }: Departed,
  ): Promise<void> {
    const { node, keys: all } = this.#services;
    const { name, bucket, app, channel } = keys;
    const { removed, last } = node.departure(channel, user || undefined);
    const other = this.#other(keys);
    const left = await connection.call(
      DEPART,
      [
        all.meta(bucket),
        ...[keys.state, keys.users],
        all.journal(bucket),
        all.announced(bucket),
        keys.topic,
        ...(other === null ? [] : [other.state, other.topic]),
      ],
      [
        ...[name, user],
        removed ? encodeSent({ message: removed, removed: user }) : "",
        last ? encodeSent(last) : "",
        LIFE_MS,
      ],
    ) as number;
    if (left < 0) return;
    const change = user === ""
      ? { occupancy: "vacated" } as const
      : { memberRemoved: user };
    node.changed(app, channel, { subscriptions: left, ...change });
  }
}

/** A page of the history. See {@linkcode Backplane.read}. */
export async function readPage(
  connection: Connection,
  keys: Keys,
  { bucket, state, history }: ChannelKeys,
  { after, until, events, bytes }: PageRequest,
): Promise<Page | null> {
  const answer = await connection.call(
    READ,
    [keys.meta(bucket), state, history],
    [after.epoch, after.offset, until, events, bytes],
  ) as string[];
  const [reaches, ...entries] = answer;
  if (reaches === undefined) return null;
  const messages: LoggedMessage[] = [];
  for (let i = 0; i < entries.length; i += 2) {
    const { message } = decodeSent(entries[i + 1]!);
    messages.push({ message, offset: Number(entries[i]) });
  }
  return { messages, reaches: Number(reaches) };
}

/** The last event of a channel as scripts answer it. */
export function cachedOf(
  text: string,
  ttlMs: number,
): CachedMessage | undefined {
  if (text === "") return undefined;
  const { message, position } = decodePlaced(text);
  return {
    message,
    ttlMs: Math.max(0, ttlMs),
    ...(position.epoch !== "" && { position }),
  };
}

/** A hash as a script answers it. */
export function pairs(list: readonly string[]): Map<string, string> {
  const map = new Map<string, string>();
  for (let i = 0; i < list.length; i += 2) map.set(list[i]!, list[i + 1]!);
  return map;
}

/** Reads a field of holdings: `c` with channel and user, or `r` with the channel. */
export function parseField(
  field: string,
): { name: string; user: string; isRecovering: boolean } {
  const rest = field.slice(1);
  const isRecovering = field.startsWith("r");
  if (isRecovering) return { name: rest, user: "", isRecovering };
  // Only on the servers' own channels may the channel have a line break, and these
  // have no users.
  const channel = rest.indexOf(" ") + 1;
  const end = rest[channel] === "#" ? rest.length - 1 : rest.indexOf("\n");
  return { name: rest.slice(0, end), user: rest.slice(end + 1), isRecovering };
}

/** Runs a task for each item, so many at a time. */
export async function inParallel<Item>(
  most: number,
  items: readonly Item[],
  run: (item: Item) => Promise<void>,
): Promise<void> {
  const iterator = items.values();
  const worker = async () => {
    for (const item of iterator) await run(item);
  };
  const workers = Math.min(most, items.length);
  await Promise.all(Array.from({ length: workers }, worker));
}
