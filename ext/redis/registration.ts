/**
 * Registers what a server holds: after an outage of Redis, after others have taken
 * the server for dead, and from time to time, so that Redis goes on to keep it.
 *
 * @module
 */

import type {
  BackplaneNode,
  Held,
  LeaveOptions,
  LoggedMessage,
  Position,
} from "../../core/backplane.ts";
import { OWN_CHANNEL } from "../../core/protocol.ts";
import type { Control, Gap, HeldChannel, HeldChannels } from "./channels.ts";
import type { RedisJournal } from "./journal.ts";
import { type ChannelKeys, type Keys, LEASE_BUCKET } from "./keys.ts";
import type { Lease } from "./lease.ts";
import { type Connection, type Network, RedisUnavailable } from "./network.ts";
import { HELLO, HOLDINGS, RELEASE } from "./lease_scripts.ts";
import { COUNTS, MEMBERS } from "./membership_scripts.ts";
import { JUMP } from "./script.ts";
import {
  type Answer,
  type Departed,
  inParallel,
  LIFE_MS,
  pairs,
  parseField,
  PIPELINE,
  readPage,
  type Statements,
  Unregistered,
} from "./statements.ts";

// How often all that is held is stated again: it must be well within its life.
const AUDIT_MS = LIFE_MS / 4;
const AUDIT_TICKS = 360;
// What a server reads of a channel that it has missed messages of.
const GAP_EVENTS = 10_000;
// How soon departures are announced again that Redis has not got.
const SETTLE_RETRY_MS = 1_000;
const GAP_PAGE = Object.freeze({ events: 100, bytes: 1_048_576 });

/** What registering needs of its backplane. */
export interface RegistrationServices {
  readonly node: BackplaneNode;
  readonly keys: Keys;
  readonly network: Network;
  readonly lease: Lease;
  readonly journal: RedisJournal;
  readonly channels: HeldChannels;
  readonly statements: Statements;
  /** Says that what the server holds in some buckets is about to be stated. */
  collecting(buckets: ReadonlySet<number>): void;
  /** Says that buckets are registered, and about to be reachable. */
  registered(): void;
  failed(error: unknown): void;
}

/** Registers what one server holds. */
export class Registration {
  readonly #services: RegistrationServices;
  /** Who has gone while Redis was away, and came back empty. */
  readonly #departed: Departed[] = [];
  /** Buckets that are being registered after a flush. */
  readonly #settling = new Set<number>();
  /** By bucket, the birth of what Redis knew when this server was registered. */
  readonly #births = new Map<number, string>();
  /** By bucket, the run of Redis that has it. */
  readonly #runs = new Map<number, string>();
  #isClosed = false;
  /** Cancels timers. */
  readonly #cancel = new Set<() => void>();
  #audited = 0;

  constructor(services: RegistrationServices) {
    this.#services = services;
  }

  // ---- Registering

  /** See {@linkcode NetworkOwner.restore}. */
  async restore(
    buckets: readonly number[],
    connection: Connection,
  ): Promise<void> {
    const { lease } = this.#services;
    try {
      await this.#restore(buckets, connection);
    } catch (error) {
      const isLost = error instanceof Unregistered &&
        error.incarnation === lease.incarnation;
      if (isLost) lease.renew();
      throw error;
    } finally {
      if (buckets.includes(LEASE_BUCKET)) lease.begun(connection);
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
    // What is stated next may be a transition that webhooks report.
    await this.#services.journal.restore(buckets, connection);
    await connection.subscribe(
      buckets.map((bucket) => keys.serverTopic(bucket, node.id)),
    );
    const own = new Set(buckets);
    this.#services.collecting(own);
    const known = this.#collect(own);
    const all = [...this.#services.channels]
      .filter(({ keys: { bucket } }) => own.has(bucket));
    for (const held of all) held.wait();
    await connection.subscribe(all.map(({ keys: { topic } }) => topic));
    await inParallel(PIPELINE, all, (held) => {
      const kind = settling.has(held.keys.bucket) ? "quiet" : "state";
      return this.register(connection, held, kind, known.get(held) ?? []);
    });
    for (const bucket of buckets) await this.#reconcile(bucket, connection);
    for (const held of all) this.#services.channels.dropIfDone(held);
    lease.registered();
    this.#services.registered();
  }

  /**
   * Another Redis may not know what this server released last: it has taken over
   * from one that died, or has lost its last writes.
   */
  async #reconcile(bucket: number, connection: Connection): Promise<void> {
    const { keys, lease, channels, statements } = this.#services;
    const run = this.#runs.get(bucket);
    if (run !== undefined && run !== connection.runId) {
      const holdings = keys.holdings(bucket, lease.incarnation);
      let cursor = "0";
      do {
        const [next, fields] = await connection.call(
          ...[HOLDINGS, [holdings], [cursor, PIPELINE]] as const,
        ) as [string, string[]];
        cursor = next;
        await inParallel(PIPELINE, fields, async (field) => {
          const { name, user, isRecovering } = parseField(field);
          const held = channels.hold(keys.named(name), null);
          const isHeld = isRecovering
            ? held.recovering > 0
            : held.stated.has(user);
          if (!isHeld) {
            const { recovering } = held;
            const figures = { connections: 0, recovering };
            const answer = await statements.state(
              ...[connection, held, user, "leave", figures] as const,
            );
            if (answer !== null) statements.tell(held.keys, user, answer);
            if (held.stated.get(user) === 0) held.stated.delete(user);
          }
          channels.dropIfDone(held);
        });
      } while (cursor !== "0");
    }
    this.#runs.set(bucket, connection.runId);
  }

  /** Calls later, unless it has been closed by then. */
  #after(delayMs: number, run: () => void): void {
    if (this.#isClosed) return;
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
    const { keys, lease, statements } = this.#services;
    const settleMs = this.#settleMs;
    const settling = new Set<number>();
    const { clock } = this.#services.node;
    const deadline = lease.after(connection, lease.leaseMs);
    const sentAt = clock.elapsed();
    await Promise.all(buckets.map(async (bucket) => {
      const [code, flushedMs, born, now] = await connection.call(
        HELLO,
        [keys.meta(bucket), keys.holdings(bucket, lease.incarnation)],
        [
          ...[connection.generation, connection.runId, crypto.randomUUID()],
          ...[deadline, this.#births.get(bucket) ?? "", LIFE_MS],
        ],
      ) as [string, number, string, string];
      if (code !== "OK") throw statements.refused(code, lease.incarnation);
      lease.read(connection, Number(now), sentAt);
      this.#births.set(bucket, born);
      if (flushedMs < 0 || flushedMs >= settleMs) return;
      settling.add(bucket);
      if (this.#settling.has(bucket)) return;
      const leftMs = settleMs - flushedMs;
      this.#settling.add(bucket);
      this.#settleAfter(leftMs, bucket);
    }));
    return settling;
  }

  /** Whether others may yet have to register what they hold, after a flush. */
  isSettling(bucket: number): boolean {
    return this.#settling.has(bucket);
  }

  /** By then every server has registered what it holds. */
  get #settleMs(): number {
    return this.#services.lease.leaseMs * 1.5;
  }

  #settleAfter(delayMs: number, bucket: number): void {
    this.#after(delayMs, () => {
      this.#settling.delete(bucket);
      this.#settle(bucket).catch((error) => {
        // Nobody else knows who has gone, so it waits until Redis is back.
        if (error instanceof RedisUnavailable) {
          this.#settleAfter(SETTLE_RETRY_MS, bucket);
        } else this.#services.failed(error);
      });
    });
  }

  /** What the server holds of some buckets, by channel. */
  #collect(buckets: ReadonlySet<number>): Map<HeldChannel, Held[]> {
    const known = new Map<HeldChannel, Held[]>();
    const { node, keys } = this.#services;
    for (const one of node.held()) {
      const named = keys.channel(one.app, one.channel);
      if (!buckets.has(named.bucket)) continue;
      const held = this.#services.channels.hold(named, null);
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
  async register(
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
      const { statements: all } = this.#services;
      return all.turns.run(() =>
        all.state(connection, held, user, kind, figures, wants)
      );
    }));
    for (const [index, answer] of answers.entries()) {
      const [user, { connections }] = users[index]!;
      if (answer === null) continue;
      if (kind === "state") {
        this.#services.statements.tell(held.keys, user, answer);
      } else if (connections === 0) {
        this.#departed.push({ keys: held.keys, user });
      }
      if (connections === 0 && held.stated.get(user) === 0) {
        held.stated.delete(user);
      }
    }
    const last = answers.at(-1);
    // Without a position Redis knows nothing of the channel, and nobody is on it.
    if (!last || last.position.epoch === "") held.goOnHere();
    else await this.#goOn(connection, held, last, kind);
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
    const members = pairs(rest[0] as string[]);
    const gap = isBehind
      ? await this.#readGap(connection, held, position, loggable)
      : [];
    const control = isBehind && kind === "state"
      ? await this.#userState(connection, held.keys)
      : undefined;
    held.goOn(position, gap, members, kind === "quiet", [
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
    // Only counts and the like were published, unless another Redis has gone on: that
    // one may not know the position.
    const hasJumped = now.offset - position.offset > JUMP / 2;
    if (loggable <= position.offset && !hasJumped) return [];
    const messages: LoggedMessage[] = [];
    for (let after = position.offset; after < now.offset;) {
      const request = { after: { ...position, offset: after }, ...GAP_PAGE };
      const page = await readPage(
        connection,
        this.#services.keys,
        keys,
        { ...request, until: now.offset },
      );
      if (page === null || messages.length > GAP_EVENTS) return null;
      messages.push(...page.messages);
      after = page.reaches;
    }
    return messages;
  }

  // ---- After a flush

  /**
   * Announces who has gone while Redis knew nothing. By now all servers that live
   * have registered what they hold.
   */
  async #settle(bucket: number): Promise<void> {
    if (this.#isClosed) return;
    const { network, statements } = this.#services;
    const depart = (one: Departed) =>
      statements.depart(network.connection(bucket), one);
    const gone = this.#departed.filter((one) => one.keys.bucket === bucket);
    for (const one of gone) {
      await depart(one);
      if (one.user !== "") await depart({ ...one, user: "" });
      this.#departed.splice(this.#departed.indexOf(one), 1);
    }
    for (const held of [...this.#services.channels]) {
      if (held.keys.bucket !== bucket) continue;
      const connection = network.connection(bucket);
      held.tell(await this.#userState(connection, held.keys));
      if (held.members === null) continue;
      const answer = await connection.call(MEMBERS, [held.keys.members], []);
      const members = pairs(answer as string[]);
      for (const user of [...held.members.keys()]) {
        if (!members.has(user)) await depart({ keys: held.keys, user });
      }
    }
  }

  // ---- Upkeep

  /** States from time to time all that is held, so that Redis goes on to keep it. */
  keepUp(): void {
    this.#after(AUDIT_MS / AUDIT_TICKS, () => {
      this.#audit().catch(() => {
        // Redis is away. What is left out comes with the next round.
      }).finally(() => {
        if (!this.#isClosed) this.keepUp();
      });
    });
  }

  async #audit(): Promise<void> {
    const { network, keys } = this.#services;
    const tick = this.#audited++ % AUDIT_TICKS;
    const channels = [...this.#services.channels]
      .filter((_, index) => index % AUDIT_TICKS === tick);
    await inParallel(PIPELINE, channels, (held) => {
      const connection = network.connection(held.keys.bucket);
      return this.register(connection, held, "state", null);
    });
    if (tick % (AUDIT_TICKS / 4) !== 0) return;
    for (const bucket of keys.tags.keys()) {
      await this.#greet([bucket], network.connection(bucket));
    }
  }

  /** Stops, and releases what is held. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const cancel of this.#cancel) cancel();
    const { network, keys, lease } = this.#services;
    await inParallel(PIPELINE, [...this.#services.channels], async (held) => {
      const connection = network.connection(held.keys.bucket);
      const nothing = { connections: 0, recovering: 0 };
      await Promise.all([...held.stated.keys()].map(async (user) => {
        const { statements } = this.#services;
        const answer = await statements.turns.run(() =>
          statements.state(connection, held, user, "leave", nothing)
        );
        if (answer !== null) statements.tell(held.keys, user, answer);
      }));
    });
    // One bucket that is away must not leave the calls of others without a handler.
    await Promise.all(keys.tags.map(async (_, bucket) => {
      const connection = network.connection(bucket);
      const holdings = keys.holdings(bucket, lease.incarnation);
      await connection.call(RELEASE, [holdings], []);
    }));
  }
}
