/**
 * The lease of a server, and the release of what dead servers held.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";
import { type Keys, LEASE_BUCKET } from "./keys.ts";
import { type Connection, type Network, RedisUnavailable } from "./network.ts";
import { BEAT, FENCE_OFF, PROBE, QUIT } from "./lease_scripts.ts";

// How often a lease is renewed, as a share of it.
const BEATS = 8;
/** How long it is remembered that an incarnation is dead. */
const TOMBSTONE_MS = 600_000;
// Holdings that are released at a time.
const PAGE = 256;
/** Buckets in which holdings are released at a time. */
const WORKERS = 8;

/** A server of which nothing is known any more. */
export interface LeaseOwner {
  /** Releases what an incarnation held, by the fields of its holdings. */
  release(
    connection: Connection,
    incarnation: string,
    fields: readonly string[],
  ): Promise<void>;
  /** The lease has ended, and others have released what was held under it. */
  expired(incarnation: string): void;
  /** Reports a failure that is tried again by itself. */
  failed(error: unknown): void;
}

/** One server's lease, renewed for as long as the server lives. */
export class Lease {
  /** Names what this server holds. A server that was taken for dead gets a new one. */
  incarnation: string = crypto.randomUUID();
  readonly leaseMs: number;
  readonly #keys: Keys;
  readonly #clock: Clock;
  readonly #owner: LeaseOwner;
  readonly #lifeMs: number;
  /** Whether Redis has been told of the incarnation. */
  #isBegun = false;
  /** Earlier incarnations, under which something may be held. */
  readonly #former: string[] = [];
  /** Those of them that others need not hold back any more. */
  readonly #releasable: string[] = [];
  /** Over which this server is being registered, which may take longer than a lease. */
  #beginning: Connection | null = null;
  /** By connection, the clock of its Redis minus this server's. */
  readonly #aheadMs = new WeakMap<Connection, number>();
  #cancel = () => {};
  #isClosed = false;
  readonly #releasing = new Set<string>();
  #work: Promise<unknown> = Promise.resolve();

  constructor(
    options: { keys: Keys; clock: Clock; leaseMs: number; lifeMs: number },
    owner: LeaseOwner,
  ) {
    this.#keys = options.keys;
    this.#clock = options.clock;
    this.leaseMs = options.leaseMs;
    this.#lifeMs = options.lifeMs;
    this.#owner = owner;
  }

  /**
   * What the clock of a connection's Redis says `delayMs` from now; never reached
   * before it is known. The masters of a cluster have clocks of their own.
   */
  after(connection: Connection, delayMs: number): number {
    const aheadMs = this.#aheadMs.get(connection);
    if (aheadMs === undefined) return Number.MAX_SAFE_INTEGER;
    return Math.ceil(this.#clock.elapsed() + aheadMs + delayMs);
  }

  /**
   * Notes what the clock of a connection's Redis said in answer to a call.
   *
   * @param sentAt When it was called, by the clock of this server.
   */
  read(connection: Connection, now: number, sentAt: number): void {
    const elapsed = this.#clock.elapsed();
    // An answer that took long says little.
    const isVague = elapsed - sentAt > this.leaseMs / BEATS;
    if (isVague && this.#aheadMs.has(connection)) return;
    this.#aheadMs.set(connection, now - (sentAt + elapsed) / 2);
  }

  /** Takes a new name, under which nothing is held. */
  renew(): void {
    this.#former.push(this.incarnation);
    this.incarnation = crypto.randomUUID();
    this.#isBegun = false;
  }

  /**
   * Says that all is registered under the new name. What is still held under earlier
   * names can be released now: nobody leaves by it.
   */
  registered(): void {
    this.#releasable.push(...this.#former.splice(0));
  }

  /**
   * Begins or goes on over a new connection, until {@linkcode begun}.
   *
   * @returns Whether the incarnation lives.
   */
  async begin(connection: Connection): Promise<boolean> {
    const isFirst = !this.#isBegun;
    this.#isBegun = true;
    this.#beginning = connection;
    return await this.#beat(connection, isFirst);
  }

  /** Says that the registration over a connection has ended, whether well or not. */
  begun(connection: Connection): void {
    if (this.#beginning === connection) this.#beginning = null;
  }

  /** Renews the lease from now on. */
  keep(network: Network): void {
    const beat = async () => {
      try {
        const connection = this.#beginning ?? network.connection(LEASE_BUCKET);
        const { incarnation } = this;
        const isAlive = await this.#beat(connection, false, network);
        if (!isAlive || !await this.#isKnown(network, connection)) {
          this.#owner.expired(incarnation);
        }
      } catch (error) {
        // The connection is made again, and begins with the lease. Without a lease the
        // server is away: others must not wait for one that nobody can renew.
        if (error instanceof RedisUnavailable) return;
        network.reset(error instanceof Error ? error.message : String(error));
      }
    };
    const next = () => {
      this.#cancel = this.#clock.after(this.leaseMs / BEATS, () => {
        this.#work = beat().finally(() => {
          if (!this.#isClosed) next();
        });
      });
    };
    next();
  }

  async #beat(
    connection: Connection,
    isFirst: boolean,
    network?: Network,
  ): Promise<boolean> {
    const sentAt = this.#clock.elapsed();
    // Redis may have been flushed since, and then no lease of theirs would end.
    const former = network === undefined ? [] : [...this.#releasable];
    const answer = await connection.call(
      BEAT,
      [this.#keys.leases, this.#keys.lapsed],
      [
        ...[this.incarnation, this.leaseMs, Number(isFirst), this.#lifeMs],
        ...former,
      ],
    );
    this.#releasable.splice(0, former.length);
    const [isAlive, now, ...lapsed] = answer as [number, string, ...string[]];
    this.read(connection, Number(now), sentAt);
    if (network !== undefined) {
      for (const one of lapsed) this.#release(network, one);
    }
    return isAlive === 1;
  }

  /** Whether the Redis of each other connection knows this server, too. */
  async #isKnown(network: Network, own: Connection): Promise<boolean> {
    const buckets = new Map<Connection, number>();
    for (const bucket of this.#keys.tags.keys()) {
      const connection = network.connection(bucket);
      if (connection !== own) buckets.set(connection, bucket);
    }
    const sentAt = this.#clock.elapsed();
    const answers = Array.from(buckets, async ([connection, bucket]) => {
      const [code, now] = await connection.call(
        PROBE,
        [
          this.#keys.meta(bucket),
          this.#keys.holdings(bucket, this.incarnation),
        ],
        [connection.generation],
      ) as [string, string];
      this.read(connection, Number(now), sentAt);
      return code !== "DEAD";
    });
    return (await Promise.all(answers)).every((isKnown) => isKnown);
  }

  #release(network: Network, incarnation: string): void {
    if (this.#releasing.has(incarnation)) return;
    this.#releasing.add(incarnation);
    this.#releaseAll(network, incarnation)
      .catch((error) => this.#owner.failed(error))
      .finally(() => this.#releasing.delete(incarnation));
  }

  /**
   * Each step can be repeated, so any number of servers may do it, and stop. Several
   * buckets at a time, as nobody may wait for a round trip of each.
   */
  async #releaseAll(network: Network, incarnation: string): Promise<void> {
    const buckets = this.#keys.tags.keys();
    const worker = async () => {
      for (const bucket of buckets) {
        await this.#releaseIn(network, bucket, incarnation);
      }
    };
    await Promise.all(Array.from({ length: WORKERS }, worker));
    if (this.#isClosed) return;
    await this.#quit(network.connection(LEASE_BUCKET), incarnation);
  }

  async #releaseIn(
    network: Network,
    bucket: number,
    incarnation: string,
  ): Promise<void> {
    while (!this.#isClosed) {
      const connection = network.connection(bucket);
      const fields = await connection.call(
        FENCE_OFF,
        [this.#keys.holdings(bucket, incarnation)],
        [TOMBSTONE_MS, PAGE, this.#lifeMs],
      ) as string[];
      if (fields.length === 0) return;
      await this.#owner.release(connection, incarnation, fields);
    }
  }

  async #quit(connection: Connection, incarnation: string): Promise<void> {
    const keys = [this.#keys.leases, this.#keys.lapsed];
    await connection.call(QUIT, keys, [incarnation]);
  }

  /** Stops renewing. */
  stop(): void {
    this.#isClosed = true;
    this.#cancel();
  }

  /** Ends the lease of a server that holds nothing any more. */
  async end(network: Network): Promise<void> {
    await this.#work;
    await this.#quit(network.connection(LEASE_BUCKET), this.incarnation);
  }
}
