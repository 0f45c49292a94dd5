/**
 * Who is on which channel: what this server states to Redis, registers again after
 * an outage, and releases for servers that are dead.
 *
 * @module
 */

import type {
  BackplaneNode,
  CachedMessage,
  Held,
  JoinOptions,
  JoinResult,
  LeaveOptions,
  LoggedMessage,
  Page,
  PageRequest,
  Position,
  Transition,
} from "../../core/backplane.ts";
import { OWN_CHANNEL } from "../../core/protocol.ts";
import { type Control, type Gap, HeldChannel } from "./channels.ts";
import { type ChannelKeys, type Keys, LEASE_BUCKET } from "./keys.ts";
import type { Lease } from "./lease.ts";
import { decodePlaced, decodeSent, encodeSent } from "./messages.ts";
import { type Connection, type Network, RedisUnavailable } from "./network.ts";
import {
  COUNTS,
  DEPART,
  HELLO,
  HOLD,
  MEMBERS,
  READ,
  RELEASE,
} from "./scripts.ts";

/** How long Redis keeps what nobody touches. */
export const LIFE_MS = 24 * 3_600_000;
// How often all that is held is stated again: it must be well within its life.
const AUDIT_MS = LIFE_MS / 4;
const AUDIT_TICKS = 360;
// Statements under way at a time while much is registered.
const PIPELINE = 256;
// What a server reads of a channel that it has missed messages of.
const GAP_EVENTS = 10_000;
const GAP_PAGE = Object.freeze({ events: 100, bytes: 1_048_576 });
// How long it is remembered that a departure was announced.
const ANNOUNCED_MS = 600_000;

/** How HOLD states figures. */
type Kind = "join" | "leave" | "state" | "quiet";

/** What HOLD answers where it has been carried out. */
interface Answer {
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

/** A leave that came while Redis was away. */
interface LateLeave {
  readonly app: string;
  readonly channel: string;
  readonly options: LeaveOptions;
}

/** A user, or a channel, of which a flushed Redis cannot know that it has gone. */
interface Vanished {
  readonly keys: ChannelKeys;
  readonly user: string;
}

/** What membership needs of its backplane. */
export interface MembershipServices {
  readonly node: BackplaneNode;
  readonly keys: Keys;
  readonly network: Network;
  readonly lease: Lease;
  failed(error: unknown): void;
}

/** Redis knows nothing of this server. Nothing was changed. */
class Unregistered extends RedisUnavailable {
  readonly incarnation: string;

  constructor(incarnation: string) {
    const reason = "Redis took this server for dead, or was flushed";
    super(reason, { wasSent: false });
    this.incarnation = incarnation;
  }
}

/** What this server holds, and what becomes of it. */
export class Membership {
  readonly #services: MembershipServices;
  /** Channels that Redis may know of this server, by name. */
  readonly #channels = new Map<string, HeldChannel>();
  readonly #byTopic = new Map<string, HeldChannel>();
  /** Subscriptions to topics that are being ended. */
  readonly #ending = new Map<string, Promise<void>>();
  /** Leaves that wait for their bucket, the latest of each user. */
  readonly #late = new Map<string, LateLeave>();
  readonly #vanished: Vanished[] = [];
  /** Until when each bucket is being registered after a flush. */
  readonly #settling = new Map<number, number>();
  #isRegistered = false;
  #isClosed = false;
  /** While this server is registered again under a new name. */
  #renewing: Promise<void> | null = null;
  /** Cancels timers. */
  readonly #cancel = new Set<() => void>();
  #audited = 0;

  constructor(services: MembershipServices) {
    this.#services = services;
  }

  // ---- Joining and leaving

  /** See {@linkcode Backplane.join}. */
  async join(
    keys: ChannelKeys,
    options: JoinOptions,
  ): Promise<JoinResult | null> {
    // A topic cannot be subscribed to while that is being ended.
    for (let ending; (ending = this.#ending.get(keys.topic)) !== undefined;) {
      await ending;
    }
    return await this.call(
      keys.bucket,
      (connection) => this.#join(connection, keys, options),
    );
  }

  async #join(
    connection: Connection,
    keys: ChannelKeys,
    options: JoinOptions,
  ): Promise<JoinResult | null> {
    const held = this.#hold(keys, connection);
    const user = options.member?.userId ?? "";
    held.calls++;
    try {
      const answer = await this.#state(connection, held, user, "join", options);
      if (answer === null) return null;
      return this.#joined(held, user, options, answer);
    } finally {
      held.calls--;
      this.#dropIfDone(held);
    }
  }

  #joined(
    held: HeldChannel,
    user: string,
    { history }: JoinOptions,
    answer: Answer,
  ): JoinResult {
    const [list, last, ttlMs, recovered, from] = answer.rest as [
      string[],
      string,
      number,
      string,
      string,
    ];
    const members = pairs(list);
    const { position } = answer;
    held.begin(position, user === "" ? null : members.keys());
    this.#tell(held.keys, user, answer);
    const replay = history !== undefined && recovered !== ""
      ? {
        recovered: recovered === "1",
        from: { epoch: position.epoch, offset: Number(from) },
      }
      : undefined;
    return { members, position, replay, cached: cachedOf(last, ttlMs) };
  }

  /** See {@linkcode Backplane.leave}. It never fails: figures are stated again. */
  async leave(keys: ChannelKeys, options: LeaveOptions): Promise<void> {
    const held = this.#channels.get(keys.name);
    // Nothing was stated of it.
    if (held === undefined) return;
    const { userId: user = "" } = options;
    held.calls++;
    try {
      const answer = await this.call(
        keys.bucket,
        (connection) => this.#state(connection, held, user, "leave", options),
      );
      if (answer === null) return;
      if (options.connections === 0 && held.stated.get(user) === 0) {
        held.stated.delete(user);
      }
      this.#tell(keys, user, answer);
    } catch {
      // Unless it was sent, and then the next connection states what is held.
      const { app, channel } = keys;
      this.#late.set(`${keys.name}\n${user}`, { app, channel, options });
    } finally {
      held.calls--;
      this.#dropIfDone(held);
    }
  }

  /** A channel with its topic, which is subscribed to before anything is stated. */
  #hold(keys: ChannelKeys, connection: Connection | null): HeldChannel {
    const known = this.#channels.get(keys.name);
    if (known !== undefined) return known;
    const held = new HeldChannel(keys, this.#services.node);
    this.#channels.set(keys.name, held);
    this.#byTopic.set(keys.topic, held);
    // If it fails, the connection has ended, and what follows fails, too.
    connection?.subscribe([keys.topic]).catch(() => {});
    return held;
  }

  #dropIfDone(held: HeldChannel): void {
    const { name, topic, bucket } = held.keys;
    if (!held.isDone || this.#channels.get(name) !== held) return;
    this.#channels.delete(name);
    this.#byTopic.delete(topic);
    try {
      const connection = this.#services.network.connection(bucket);
      // If it fails the connection has ended, and with it the subscription.
      const ending = connection.unsubscribe([topic]).catch(() => {})
        .then(() => void this.#ending.delete(topic));
      this.#ending.set(topic, ending);
    } catch {
      // A new connection subscribes to what is held by then.
    }
  }

  /** States figures; null where the channel is full. */
  async #state(
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
        this.#ageMs,
        history === undefined ? wants : history.since ? "since" : "rewind",
        history?.since?.epoch ?? "",
        history?.since?.offset ?? 0,
        history?.rewind ?? 0,
        LIFE_MS,
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
      : member && { message: member.added, added: user };
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

  /**
   * Calls Redis over the connection of a bucket: again, if this server had to be
   * registered first.
   */
  async call<T>(
    bucket: number,
    run: (connection: Connection) => Promise<T>,
  ): Promise<T> {
    for (let isAgain = false;; isAgain = true) {
      if (this.#renewing !== null) await this.#renewing;
      try {
        return await run(this.#services.network.connection(bucket));
      } catch (error) {
        if (!(error instanceof Unregistered) || isAgain) throw error;
        this.expired(error.incarnation);
      }
    }
  }

  /**
   * Registers all that this server holds under a new name: others took the
   * incarnation for dead and have released what it held, or Redis was flushed.
   */
  expired(incarnation: string): void {
    const { lease, network } = this.#services;
    if (this.#isClosed || this.#renewing !== null) return;
    if (incarnation !== lease.incarnation) return;
    lease.renew();
    this.#renewing = this.#renew()
      .catch((error) => network.reset(String(error)))
      .finally(() => this.#renewing = null);
  }

  async #renew(): Promise<void> {
    const { network, keys } = this.#services;
    const buckets = new Map<Connection, number[]>();
    for (const bucket of keys.tags.keys()) {
      const connection = network.connection(bucket);
      const list = buckets.get(connection) ?? [];
      list.push(bucket);
      buckets.set(connection, list);
    }
    const restored = Array.from(
      buckets,
      ([connection, list]) => this.restore(list, connection),
    );
    await Promise.all(restored);
  }

  #tell(keys: ChannelKeys, user: string, answer: Answer): void {
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

  get #ageMs(): number {
    return this.#services.node.history?.ageMs ?? 0;
  }

  // ---- Messages

  /** Takes a message from a topic; false if the topic is not a channel's. */
  take(topic: string, text: string): boolean {
    const held = this.#byTopic.get(topic);
    if (held === undefined) return false;
    if (held.take(decodePlaced(text))) this.#catchUp(held);
    return true;
  }

  /** Reads what is missing in the middle of a connection. */
  #catchUp(held: HeldChannel): void {
    this.call(
      held.keys.bucket,
      (connection) => this.#register(connection, held, "state", null),
    ).catch(() => {
      // The connection has ended, and the next one reads it.
    });
  }

  // ---- Registering

  /** See {@linkcode NetworkOwner.restore}. */
  async restore(
    buckets: readonly number[],
    connection: Connection,
  ): Promise<void> {
    try {
      await this.#restore(buckets, connection);
    } catch (error) {
      const { lease } = this.#services;
      const isLost = error instanceof Unregistered &&
        error.incarnation === lease.incarnation;
      if (isLost) lease.renew();
      throw error;
    }
  }

  async #restore(
    buckets: readonly number[],
    connection: Connection,
  ): Promise<void> {
    const { lease, keys, node } = this.#services;
    if (buckets.includes(LEASE_BUCKET) && !await lease.begin(connection)) {
      throw new Unregistered(lease.incarnation);
    }
    const settling = await this.#greet(buckets, connection);
    await connection.subscribe(
      buckets.map((bucket) => keys.serverTopic(bucket, node.id)),
    );
    const own = new Set(buckets);
    const known = this.#collect(own);
    const all = [...this.#channels.values()]
      .filter(({ keys: { bucket } }) => own.has(bucket));
    for (const held of all) held.wait();
    await connection.subscribe(all.map(({ keys: { topic } }) => topic));
    await inParallel(PIPELINE, all, (held) => {
      const kind = settling.has(held.keys.bucket) ? "quiet" : "state";
      return this.#register(connection, held, kind, known.get(held) ?? []);
    });
    for (const held of all) this.#dropIfDone(held);
    this.#isRegistered = true;
    this.#after(0, () => this.#sendLate());
  }

  #after(delayMs: number, run: () => void): void {
    const cancel = this.#services.node.clock.after(delayMs, () => {
      this.#cancel.delete(cancel);
      run();
    });
    this.#cancel.add(cancel);
  }

  /** Says hello in buckets; returns those that are being registered after a flush. */
  async #greet(
    buckets: readonly number[],
    connection: Connection,
  ): Promise<Set<number>> {
    const { keys, lease, node } = this.#services;
    const settleMs = this.#settleMs;
    const settling = new Set<number>();
    const deadline = lease.after(lease.leaseMs);
    await Promise.all(buckets.map(async (bucket) => {
      const [code, flushedMs] = await connection.call(
        HELLO,
        [keys.meta(bucket), keys.holdings(bucket, lease.incarnation)],
        [
          ...[connection.generation, connection.runId, crypto.randomUUID()],
          ...[deadline, Number(this.#isRegistered), LIFE_MS],
        ],
      ) as [string, number];
      if (code !== "OK") throw this.refused(code, lease.incarnation);
      if (flushedMs < 0 || flushedMs >= settleMs) return;
      settling.add(bucket);
      if (this.#settling.has(bucket)) return;
      const leftMs = settleMs - flushedMs;
      this.#settling.set(bucket, node.clock.elapsed() + leftMs);
      this.#after(leftMs, () => {
        this.#settling.delete(bucket);
        this.#settle(bucket).catch((error) => this.#services.failed(error));
      });
    }));
    return settling;
  }

  /** By then every server has registered what it holds. */
  get #settleMs(): number {
    return this.#services.lease.leaseMs * 1.5;
  }

  /** What the server holds of some buckets, by channel. */
  #collect(buckets: ReadonlySet<number>): Map<HeldChannel, Held[]> {
    const known = new Map<HeldChannel, Held[]>();
    const { node, keys } = this.#services;
    for (const one of node.held()) {
      const named = keys.channel(one.app, one.channel);
      if (!buckets.has(named.bucket)) continue;
      const held = this.#hold(named, null);
      const list = known.get(held) ?? [];
      list.push(one);
      known.set(held, list);
    }
    return known;
  }

  /**
   * States all that is held of a channel, and reads what was missed of it.
   *
   * @param known What the server holds by now; null to state again what was stated.
   */
  async #register(
    connection: Connection,
    held: HeldChannel,
    kind: "state" | "quiet",
    known: readonly Held[] | null,
  ): Promise<void> {
    const statements = new Map<string, Partial<Held> & LeaveOptions>();
    for (const [user, connections] of held.stated) {
      const recovering = known?.[0]?.recovering ?? 0;
      statements.set(
        user,
        known === null
          ? { connections, recovering: held.recovering }
          : { connections: 0, recovering },
      );
    }
    for (const one of known ?? []) {
      statements.set(one.member?.userId ?? "", one);
    }
    const users = [...statements];
    const answers = await Promise.all(users.map(([user, figures], index) => {
      const wants = index === users.length - 1 ? "members" : "";
      return this.#state(connection, held, user, kind, figures, wants);
    }));
    for (const [index, answer] of answers.entries()) {
      const [user, { connections }] = users[index]!;
      if (answer === null) continue;
      if (kind === "state") this.#tell(held.keys, user, answer);
      else if (connections === 0) {
        this.#vanished.push({ keys: held.keys, user });
      }
      if (connections === 0 && held.stated.get(user) === 0) {
        held.stated.delete(user);
      }
    }
    const last = answers.at(-1) ?? null;
    if (last !== null) await this.#goOn(connection, held, last, kind);
  }

  /** Has a channel go on from an answer, with what was missed before it. */
  async #goOn(
    connection: Connection,
    held: HeldChannel,
    { position, loggable, terminated, rest }: Answer,
    kind: "state" | "quiet",
  ): Promise<void> {
    const before = held.position;
    const isBehind = held.isBehind(position);
    // After a flush others are yet to be registered.
    const members = held.members === null || kind === "quiet"
      ? null
      : pairs(rest[0] as string[]);
    const gap = isBehind
      ? await this.#readGap(connection, held, position, loggable)
      : [];
    const control = isBehind && kind === "state"
      ? await this.#userState(connection, held.keys)
      : undefined;
    held.goOn(position, gap, members, [
      ...(control === undefined ? [] : [control]),
      ...(isBehind && terminated > (before?.offset ?? 0)
        ? ["terminate" as const]
        : []),
    ]);
  }

  /** Whether the user is online whom a channel's subscribers watch. */
  async #userState(
    connection: Connection,
    { app, channel }: ChannelKeys,
  ): Promise<Control | undefined> {
    if (!channel.startsWith(OWN_CHANNEL.Watchers)) return undefined;
    const userId = channel.slice(OWN_CHANNEL.Watchers.length);
    const user = this.#services.keys.channel(app, OWN_CHANNEL.User + userId);
    const [connections] = await connection.call(
      ...[COUNTS, [user.state], []] as const,
    ) as number[];
    return connections === 0 ? "offline" : "online";
  }

  async #readGap(
    connection: Connection,
    { keys, position }: HeldChannel,
    now: Position,
    loggable: number,
  ): Promise<Gap> {
    if (position === null || position.epoch !== now.epoch) return null;
    // Only counts and the like were published.
    if (loggable <= position.offset) return [];
    const messages: LoggedMessage[] = [];
    for (let after = position.offset; after < now.offset;) {
      const request = { after: { ...position, offset: after }, ...GAP_PAGE };
      const page = await readPage(
        connection,
        this.#services.keys,
        keys,
        { ...request, until: now.offset },
        this.#ageMs,
      );
      if (page === null || messages.length > GAP_EVENTS) return null;
      messages.push(...page.messages);
      after = page.reaches;
    }
    return messages;
  }

  /** Sends leaves that came while Redis was away. */
  #sendLate(): void {
    for (const [key, { app, channel, options }] of this.#late) {
      this.#late.delete(key);
      // It waits again if its bucket is still away.
      this.leave(this.#services.keys.channel(app, channel), options);
    }
  }

  // ---- After a flush

  /**
   * Announces who has gone while Redis knew nothing. By now all servers that live
   * have registered what they hold.
   */
  async #settle(bucket: number): Promise<void> {
    if (this.#isClosed) return;
    const { network } = this.#services;
    const gone = this.#vanished.filter((one) => one.keys.bucket === bucket);
    for (const one of gone) {
      this.#vanished.splice(this.#vanished.indexOf(one), 1);
      await this.#depart(one);
      if (one.user !== "") await this.#depart({ ...one, user: "" });
    }
    for (const held of [...this.#channels.values()]) {
      if (held.keys.bucket !== bucket) continue;
      const connection = network.connection(bucket);
      held.tell(await this.#userState(connection, held.keys));
      if (held.members === null) continue;
      const answer = await connection.call(MEMBERS, [held.keys.members], []);
      const members = pairs(answer as string[]);
      for (const user of held.members) {
        if (!members.has(user)) await this.#depart({ keys: held.keys, user });
      }
      held.welcome(members);
    }
  }

  async #depart({ keys, user }: Vanished): Promise<void> {
    const { network, node, keys: all } = this.#services;
    const { name, bucket, app, channel } = keys;
    const { removed, last } = node.departure(channel, user || undefined);
    const other = this.#other(keys);
    const left = await network.connection(bucket).call(
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
        ...[ANNOUNCED_MS, LIFE_MS],
      ],
    ) as number;
    if (left < 0) return;
    const change = user === ""
      ? { occupancy: "vacated" } as const
      : { memberRemoved: user };
    node.changed(app, channel, { subscriptions: left, ...change });
  }

  // ---- Releasing

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
      const answer = await connection.call(
        HOLD,
        this.#keysOf(channel, incarnation),
        [
          ...["reap", name, user, 0, 0, "state", "", 0],
          ...this.#announcements(channel, user, "leave", nothing),
          ...[this.#ageMs, "", "", 0, 0, LIFE_MS],
        ],
      ) as unknown[];
      if (answer[0] !== "OK") throw new Error(`Redis answered ${answer[0]}`);
      this.#tell(channel, user, this.#check(answer, incarnation));
    });
  }

  // ---- Upkeep

  /** States from time to time all that is held, so that Redis goes on to keep it. */
  keepUp(touch: () => Promise<void>): void {
    this.#after(AUDIT_MS / AUDIT_TICKS, () => {
      this.#audit(touch).catch(() => {
        // Redis is away. What is left out comes with the next round.
      }).finally(() => {
        if (!this.#isClosed) this.keepUp(touch);
      });
    });
  }

  async #audit(touch: () => Promise<void>): Promise<void> {
    const { network, keys } = this.#services;
    const tick = this.#audited++ % AUDIT_TICKS;
    const channels = [...this.#channels.values()]
      .filter((_, index) => index % AUDIT_TICKS === tick);
    await inParallel(PIPELINE, channels, (held) => {
      const connection = network.connection(held.keys.bucket);
      return this.#register(connection, held, "state", null);
    });
    if (tick % (AUDIT_TICKS / 4) !== 0) return;
    for (const bucket of keys.tags.keys()) {
      await this.#greet([bucket], network.connection(bucket));
    }
    await touch();
  }

  /** Stops, and releases what is held. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const cancel of this.#cancel) cancel();
    const { network, keys, lease } = this.#services;
    await inParallel(PIPELINE, [...this.#channels.values()], async (held) => {
      const connection = network.connection(held.keys.bucket);
      const nothing = { connections: 0, recovering: 0 };
      await Promise.all([...held.stated.keys()].map(async (user) => {
        const answer = await this.#state(
          ...[connection, held, user, "leave", nothing] as const,
        );
        if (answer !== null) this.#tell(held.keys, user, answer);
      }));
    });
    await Promise.all(keys.tags.map((_, bucket) =>
      network.connection(bucket)
        .call(RELEASE, [keys.holdings(bucket, lease.incarnation)], [])
    ));
  }
}

/** A page of the history. See {@linkcode Backplane.read}. */
export async function readPage(
  connection: Connection,
  keys: Keys,
  { bucket, state, history }: ChannelKeys,
  { after, until, events, bytes }: PageRequest,
  ageMs: number,
): Promise<Page | null> {
  const answer = await connection.call(
    READ,
    [keys.meta(bucket), state, history],
    [after.epoch, after.offset, until, events, bytes, ageMs],
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
function parseField(field: string): { name: string; user: string } {
  const rest = field.slice(1);
  if (field.startsWith("r")) return { name: rest, user: "" };
  // Only on the servers' own channels may the channel have a line break, and these
  // have no users.
  const channel = rest.indexOf(" ") + 1;
  const end = rest[channel] === "#" ? rest.length - 1 : rest.indexOf("\n");
  return { name: rest.slice(0, end), user: rest.slice(end + 1) };
}

/** Runs a task for each item, so many at a time. */
async function inParallel<Item>(
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
