/**
 * Who is on which channel: the joins and leaves of one server, and the messages that
 * come to it.
 *
 * @module
 */

import type {
  BackplaneNode,
  JoinOptions,
  JoinResult,
  LeaveOptions,
} from "../../core/backplane.ts";
import { type HeldChannel, HeldChannels } from "./channels.ts";
import type { RedisJournal } from "./journal.ts";
import type { ChannelKeys, Keys } from "./keys.ts";
import type { Lease } from "./lease.ts";
import { decodePlaced } from "./messages.ts";
import type { Connection, Network } from "./network.ts";
import { Registration } from "./registration.ts";
import {
  type Answer,
  cachedOf,
  pairs,
  Statements,
  Unregistered,
} from "./statements.ts";

/** A leave that Redis has not got. */
interface LateLeave {
  readonly keys: ChannelKeys;
  readonly options: LeaveOptions;
}

/** What membership needs of its backplane. */
export interface MembershipServices {
  readonly node: BackplaneNode;
  readonly keys: Keys;
  readonly network: Network;
  readonly lease: Lease;
  readonly journal: RedisJournal;
  failed(error: unknown): void;
}

/** What this server holds. */
export class Membership {
  readonly statements: Statements;
  readonly registration: Registration;
  readonly #services: MembershipServices;
  readonly #channels: HeldChannels;
  /** Leaves that Redis has not got, the latest of each user. */
  readonly #late = new Map<string, LateLeave>();
  /** While this server is registered again under a new name. */
  #renewing: Promise<void> | null = null;
  #isClosed = false;

  constructor(services: MembershipServices) {
    const { node, network } = services;
    this.#services = services;
    this.statements = new Statements(services);
    this.#channels = new HeldChannels(node, network);
    this.registration = new Registration({
      ...services,
      channels: this.#channels,
      statements: this.statements,
      collecting: (buckets) => this.#forgetLate(buckets),
      registered: () => void node.clock.after(0, () => this.#sendLate()),
    });
  }

  // ---- Joining and leaving

  /** See {@linkcode Backplane.join}. */
  async join(
    keys: ChannelKeys,
    options: JoinOptions,
  ): Promise<JoinResult | null> {
    const { userId = "" } = options.member ?? {};
    this.#late.delete(lateKey(keys, userId));
    return await this.#callInTurn(
      keys,
      (connection) => this.#join(connection, keys, options),
    );
  }

  async #join(
    connection: Connection,
    keys: ChannelKeys,
    options: JoinOptions,
  ): Promise<JoinResult | null> {
    const held = this.#channels.hold(keys, connection);
    const user = options.member?.userId ?? "";
    held.calls++;
    try {
      const answer = await this.statements.state(
        connection,
        held,
        user,
        "join",
        options,
      );
      if (answer === null) return null;
      return this.#joined(held, user, options, answer);
    } finally {
      held.calls--;
      this.#channels.dropIfDone(held);
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
    const members = this.complete(held.keys, pairs(list));
    const { position } = answer;
    held.begin(position, user === "" ? null : members);
    this.statements.tell(held.keys, user, answer);
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
    const { userId = "" } = options;
    this.#late.delete(lateKey(keys, userId));
    try {
      await this.#callInTurn(
        keys,
        (connection) => this.#leave(connection, keys, options),
      );
    } catch {
      // If it was not sent, or not carried out, it is sent when Redis is back.
      if (!this.#isClosed) {
        this.#late.set(lateKey(keys, userId), { keys, options });
      }
    }
  }

  async #leave(
    connection: Connection,
    keys: ChannelKeys,
    options: LeaveOptions,
  ): Promise<void> {
    const held = this.#channels.get(keys);
    // Nothing was stated of it.
    if (held === undefined) return;
    const { userId: user = "" } = options;
    held.calls++;
    try {
      const answer = await this.statements.state(
        ...[connection, held, user, "leave", options] as const,
      );
      if (answer === null) return;
      if (options.connections === 0 && held.stated.get(user) === 0) {
        held.stated.delete(user);
      }
      this.statements.tell(keys, user, answer);
    } finally {
      held.calls--;
      this.#channels.dropIfDone(held);
    }
  }

  /** What is about to be stated says the same, or is newer. */
  #forgetLate(buckets: ReadonlySet<number>): void {
    for (const [key, { keys }] of this.#late) {
      if (buckets.has(keys.bucket)) this.#late.delete(key);
    }
  }

  #sendLate(): void {
    if (this.#isClosed) return;
    for (const { keys, options } of [...this.#late.values()]) {
      // It is late again if its bucket is still away.
      this.leave(keys, options);
    }
  }

  /**
   * Adds to the members that Redis knows those that this server knows besides, while
   * others may yet have to register them.
   */
  complete(
    keys: ChannelKeys,
    members: Map<string, string>,
  ): ReadonlyMap<string, string> {
    if (!this.registration.isSettling(keys.bucket)) return members;
    const { members: known } = this.#channels.get(keys) ?? {};
    for (const [user, info] of known ?? []) {
      if (!members.has(user)) members.set(user, info);
    }
    return members;
  }

  // ---- Calling

  /** Calls as soon as not too many statements are under way. */
  #callInTurn<T>(
    { bucket }: ChannelKeys,
    run: (connection: Connection) => Promise<T>,
  ): Promise<T> {
    return this.call(
      bucket,
      (connection) => this.statements.turns.run(() => run(connection)),
    );
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
      ([connection, list]) => this.registration.restore(list, connection),
    );
    await Promise.all(restored);
  }

  // ---- Messages

  /** Takes a message from a topic; false if the topic is not a channel's. */
  take(topic: string, text: string): boolean {
    const held = this.#channels.of(topic);
    if (held === undefined) return false;
    if (held.take(decodePlaced(text))) this.#catchUp(held);
    return true;
  }

  /** Reads what is missing in the middle of a connection. */
  #catchUp(held: HeldChannel): void {
    this.call(
      held.keys.bucket,
      (connection) =>
        this.registration.register(connection, held, "state", null),
    ).catch((error) => {
      // A new connection reads it.
      if (held.isWaiting) this.#services.network.reset(String(error));
    });
  }

  /** Stops, and releases what is held. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.registration.close();
  }
}

function lateKey({ name }: ChannelKeys, user: string): string {
  return `${name}\n${user}`;
}
