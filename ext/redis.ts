/**
 * Several servers as one: a backplane on Redis. What one server does with its clients,
 * all servers do with theirs, through any of them.
 *
 * ```ts ignore
 * import { Pusher } from "@glitz/pusher";
 * import { redis } from "@glitz/pusher/redis";
 *
 * const pusher = new Pusher({
 *   backplane: redis("redis://:password@localhost:6379", { prefix: "shop" }),
 * });
 * Deno.serve(pusher.handler);
 * ```
 *
 * What is promised:
 * - Each channel has one order of messages, the same on every server.
 * - Every join, leave and publish is one atomic step in Redis, and takes one call,
 *   however many servers and subscribers there are. A server hears only the channels
 *   that it has subscribers on.
 * - If a server dies, the others release what it held within the lease and an eighth of
 *   it: each member leaves once. A server that was only frozen registers what it holds
 *   again, and reads what it missed.
 * - While Redis is away, connections stay. A publish fails at once, with a
 *   {@linkcode RedisUnavailable} that says whether it was sent. When Redis is back, each server
 *   registers what it holds, and reads from the history what it missed. Where that
 *   does not reach back, its clients get `pusher:recovery_failed`.
 * - A Redis that was flushed, or that lost its last writes in a failover, is noticed,
 *   and clients that are ahead of it get `pusher:recovery_failed`.
 *
 * It needs Redis 7, or a Valkey, with `maxmemory-policy noeviction`, and no permission
 * but `--allow-net`. Its library, `@redis/client`, is loaded only with this module.
 *
 * ## Keys
 *
 * Channels are spread over 64 buckets. `T` stands for `{prefix:bucket}`, `C` for `app
 * channel`. Every key expires: what servers hold is stated again every six hours.
 *
 * | key | kind | what | how long | written by |
 * | --- | --- | --- | --- | --- |
 * | `T:meta` | hash | the run of Redis, and when it was flushed | 24 h, renewed every 90 minutes | `hello` |
 * | `T:n:I` | hash | what incarnation `I` of a server holds | 24 h, renewed every 90 minutes; 10 min after its death | `hello`, `hold`, `fence` |
 * | `T:h:C` | hash | positions and counts of a channel, and how much history it keeps: the most that a server there wants | 24 h; `history.ageMs` after the last leave of a client that can recover | `hold`, `publish` |
 * | `T:c:C` | hash | connections by user | while somebody is there, 24 h | `hold` |
 * | `T:m:C` | hash | `user_info` by user | while somebody is there, 24 h | `hold` |
 * | `T:s:C` | stream | history, about `history.events` entries | `history.ageMs` after the last | `publish` |
 * | `T:l:C` | string | last event of a cache channel | `cacheTtlMs` | `publish` |
 * | `T:occ` | sorted set | occupied channels | while there are any, 24 h | `hold` |
 * | `T:gone` | hash | departures that were announced after a flush | 10 min | `depart`, `hold` |
 * | `T:x:A S` | hash | state, owner, its term, call and connection of session `S` of app `A` | `history.ageMs` while away, else twice that, renewed | `take`, `keep` |
 * | `T:y` | sorted set | digests of at most 4,096 sessions that there were | 27 h after the last | `keep` |
 * | `T:z` | sorted set | sessions whose clients are away, a 64th of `history.sessions` | `history.ageMs` after the last | `keep` |
 * | `T:w` | stream | transitions for webhooks, about 10,000 | 24 h, while they are wanted | `hold`, `publish`, `append` |
 * | `T:r:N` | hash | lease and notes of reader `N` of them, such as an endpoint | 24 h, renewed | `claim`, `commit` |
 * | `{prefix:0}:nodes` | sorted set | leases by their end, and the last renewal | 24 h, renewed | `beat` |
 * | `{prefix:0}:dead` | sorted set | incarnations to release | 24 h | `beat` |
 *
 * Topics, all of sharded pub/sub: `T:t:C` for a channel, `T:@S` for server `S`,
 * `T:i:L` for what servers say to each other under label `L`.
 *
 * The least rights that a user of Redis needs:
 *
 * ```text
 * ACL SETUSER pusher on >password resetkeys resetchannels -@all
 *   ~{prefix:?}:* ~{prefix:??}:* &{prefix:?}:* &{prefix:??}:*
 *   +del +evalsha +exists +get +hdel +hexists +hget +hgetall +hlen +hmget +hscan
 *   +hset +hsetnx +info +pexpire +ping +pttl +script|load +set +spublish
 *   +ssubscribe +sunsubscribe +time +xadd +xinfo|stream +xrange +xrevrange +xtrim
 *   +zadd +zcard +zpopmin +zrange +zrangebyscore +zrem
 *   +zremrangebyscore +zscore
 * ```
 *
 * In a prefix a backslash goes before each of `* ? [ ] \`. On Redis Cluster every node
 * needs the rule, with `+client|info +cluster|info +cluster|keyslot +cluster|slots`
 * besides. A right that is missing is named when the server starts.
 *
 * @module
 */

import type {
  Backplane,
  BackplaneNode,
  CachedMessage,
  JoinOptions,
  JoinResult,
  LeaveOptions,
  Message,
  Occupancy,
  Page,
  PageRequest,
  SessionStore,
} from "../core/backplane.ts";
import {
  type Check,
  checkDuration,
  checkSecret,
  checkText,
  copyOptions,
  type Field,
  listOf,
  matching,
  objectOf,
} from "../core/checks.ts";
import { REACHING_AGAIN } from "../core/hooks.ts";
import { DEFAULT_HISTORY } from "../core/options.ts";
import { parseLocation } from "./redis/address.ts";
import { RedisIntercom } from "./redis/intercom.ts";
import { RedisJournal } from "./redis/journal.ts";
import { Keys, LEASE_BUCKET } from "./redis/keys.ts";
import { Lease } from "./redis/lease.ts";
import { Membership } from "./redis/membership.ts";
import { encodeSent } from "./redis/messages.ts";
import {
  Network,
  type RedisCredentials,
  type RedisTls,
  RedisUnavailable,
} from "./redis/network.ts";
import { Rights } from "./redis/rights.ts";
import { COUNTS, MEMBERS, OCCUPIED } from "./redis/membership_scripts.ts";
import { LAST, PUBLISH } from "./redis/message_scripts.ts";
import { SCRIPTS } from "./redis/scripts.ts";
import { RedisSessions } from "./redis/sessions.ts";
import { cachedOf, LIFE_MS, pairs, readPage } from "./redis/statements.ts";

export { RedisUnavailable };

// ---- Options ----------------------------------------------------------------

/** Options of {@linkcode redis}. */
export interface RedisOptions {
  /**
   * Begins the name of each key and topic. Systems with different prefixes share a
   * Redis without hearing each other. @default {"pusher"}
   */
  prefix?: string | undefined;
  /**
   * After how long without a word a server counts as dead, in milliseconds: then
   * others release what it held. @default {10000}
   */
  leaseMs?: number | undefined;
  /**
   * How long Redis may take to answer, in milliseconds. A connection that takes
   * longer is given up and made anew. @default {3000}
   */
  answerTimeoutMs?: number | undefined;
  /**
   * Certificates and key, as texts in PEM, for URLs that begin with `rediss`.
   * @default {the system's authorities}
   */
  tls?: RedisTls | undefined;
  /** How to log in at Sentinels; the URL has the login of the master. */
  sentinel?: RedisCredentials | undefined;
}

export type { RedisCredentials, RedisTls };

const OPTIONS: Field = Object.freeze({ subject: "Cannot use Redis", name: "" });

const OPTION_CHECKS: Record<keyof RedisOptions, Check> = {
  prefix: matching(/^[^{}\s]+$/, "be text without braces and white space"),
  leaseMs: checkDuration,
  answerTimeoutMs: checkDuration,
  tls: objectOf<RedisTls>({
    ca: (value, field) => {
      if (Array.isArray(value)) {
        listOf(checkSecret, "certificate")(value, field);
      } else checkSecret(value, field);
    },
    ...{ cert: checkSecret, key: checkSecret, servername: checkText },
  }),
  sentinel: objectOf<RedisCredentials>({
    ...{ username: checkText, password: checkSecret },
  }),
};

const OPTION_NAMES = Object.keys(OPTION_CHECKS) as (keyof RedisOptions)[];

const checkOptions = objectOf<RedisOptions>(OPTION_CHECKS);

/**
 * Makes a backplane on Redis 7 or later. It connects when the server is made: until
 * then, and if that fails, nothing is sent.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { redis } from "@glitz/pusher/redis";
 *
 * const backplane = redis("redis://localhost:6379", { prefix: "shop" });
 *
 * // It connects as soon as there is a server.
 * function serve(): Deno.HttpServer {
 *   const pusher = new Pusher({ backplane });
 *   return Deno.serve(pusher.handler);
 * }
 * console.log(typeof serve);
 * ```
 *
 * @param url Such as `redis://user:password@localhost:6379`.
 * @throws {TypeError} If the URL cannot be used, or an option is unknown or of the
 * wrong type.
 */
export function redis(
  url: string | URL,
  options: RedisOptions = {},
): Backplane {
  const own = copyOptions(options, OPTION_NAMES);
  checkOptions(own, OPTIONS);
  parseLocation(String(url));
  return new RedisBackplane(String(url), own);
}

// ---- The backplane ----------------------------------------------------------

// Channels of a page of the index, and buckets that are listed at a time.
const INDEX_PAGE = 200;
const INDEX_WORKERS = 4;

/** What several servers share in one Redis. Made by {@linkcode redis}. */
class RedisBackplane implements Backplane {
  /** See {@linkcode Backplane.sessions}. */
  readonly sessions: SessionStore;
  /** See {@linkcode Backplane.journal}. */
  readonly journal: RedisJournal;
  /** See {@linkcode Backplane.intercom}. */
  readonly intercom: RedisIntercom;
  readonly #sessions: RedisSessions;
  readonly #url: string;
  readonly #keys: Keys;
  readonly #leaseMs: number;
  readonly #answerTimeoutMs: number;
  readonly #security: Pick<RedisOptions, "tls" | "sentinel">;
  #running: Running | null = null;
  #isClosed = false;

  /** See {@linkcode redis}. */
  constructor(url: string, options: RedisOptions) {
    this.#url = url;
    this.#keys = new Keys(options.prefix ?? "pusher");
    this.#leaseMs = options.leaseMs ?? 10_000;
    this.#answerTimeoutMs = options.answerTimeoutMs ?? 3_000;
    this.#security = { tls: options.tls, sentinel: options.sentinel };
    this.journal = new RedisJournal(this.#keys, () => {
      const { network, node: { clock } } = this.#own;
      return { network, clock };
    }, this.#leaseMs);
    this.intercom = new RedisIntercom(this.#keys, () => {
      const { network, node } = this.#own;
      const failed = (error: unknown) =>
        node.failed(error, "listening to other servers");
      return { network, failed };
    });
    this.sessions = this.#sessions = new RedisSessions(() => {
      const { network, node, lease } = this.#own;
      return {
        ...{ keys: this.#keys, network, server: node.id },
        now: (connection) => lease.after(connection, 0),
        history: node.history ?? DEFAULT_HISTORY,
        taken: (app, id) => node.taken(app, id),
      };
    });
  }

  get #own(): Running {
    if (this.#running === null) {
      throw new TypeError("Cannot use the backplane: it has not been started");
    }
    return this.#running;
  }

  /** See {@linkcode Backplane.start}. */
  async start(node: BackplaneNode): Promise<void> {
    if (this.#running !== null) {
      throw new TypeError(
        "Cannot start: the backplane serves a Pusher already; call redis() again " +
          "for a second one",
      );
    }
    const keys = this.#keys;
    const failed = (error: unknown) => {
      // That Redis is away is said already.
      if (error instanceof RedisUnavailable) return;
      node.failed(error, "releasing what a dead server held");
    };
    const isCluster = parseLocation(this.#url).kind === "cluster";
    const rights = new Rights(keys, isCluster);
    const network: Network = new Network({
      url: this.#url,
      tags: keys.tags,
      scripts: [...SCRIPTS, ...rights.scripts],
      answerMs: this.#answerTimeoutMs,
      ...this.#security,
    }, {
      restore: async (buckets, connection) => {
        await rights.check(buckets[0] ?? LEASE_BUCKET, connection);
        await this.intercom.restore(buckets, connection);
        await membership.registration.restore(buckets, connection);
      },
      message: (topic, text) => {
        if (!membership.take(topic, text)) this.#take(topic, text);
      },
      health: (isUp, cause) => node.health(isUp, cause),
      stays: (cause) => node.failed(cause, REACHING_AGAIN),
    });
    const lease: Lease = new Lease({
      ...{ keys, clock: node.clock, leaseMs: this.#leaseMs, lifeMs: LIFE_MS },
    }, {
      release: (...given) => membership.statements.release(...given),
      expired: (incarnation) => membership.expired(incarnation),
      failed,
    });
    const { journal } = this;
    const services = { node, keys, network, lease, journal, failed };
    const membership: Membership = new Membership(services);
    this.#running = { node, network, lease, membership };
    try {
      await network.start();
    } catch (error) {
      // The next attempt begins from nothing.
      this.#running = null;
      throw error;
    }
    if (this.#isClosed) throw new Error("Cannot start: it has been closed");
    lease.keep(network);
    membership.registration.keepUp();
    this.#sessions.keepUp(node.clock);
  }

  /** Takes what is of no channel: said to all servers, or to this one alone. */
  #take(topic: string, text: string): void {
    if (this.intercom.take(topic, text)) return;
    if (!topic.includes("}:@")) return;
    this.#sessions.lose(text);
  }

  /** See {@linkcode Backplane.publish}. */
  async publish(app: string, channel: string, message: Message): Promise<void> {
    const { lease, membership } = this.#own;
    const keys = this.#keys.channel(app, channel);
    const { bucket, state, history, last, topic } = keys;
    const { cacheMs, fromClient = false } = message;
    const text = encodeSent({ message });
    await membership.call(bucket, async (connection) => {
      const { incarnation } = lease;
      const code = await connection.call(
        PUBLISH,
        [
          this.#keys.meta(bucket),
          this.#keys.holdings(bucket, incarnation),
          ...[state, history, last, topic],
          this.#keys.journal(bucket),
        ],
        [
          ...[connection.generation, keys.name, text],
          ...[kindOf(message), cacheMs === undefined ? "" : Math.ceil(cacheMs)],
          ...[
            lease.after(connection, this.#answerTimeoutMs),
            Number(fromClient),
            LIFE_MS,
          ],
        ],
      ) as string;
      if (code !== "OK") throw membership.statements.refused(code, incarnation);
    });
  }

  /** See {@linkcode Backplane.join}. */
  async join(
    app: string,
    channel: string,
    options: JoinOptions,
  ): Promise<JoinResult | null> {
    const keys = this.#keys.channel(app, channel);
    return await this.#own.membership.join(keys, options);
  }

  /** See {@linkcode Backplane.leave}. */
  async leave(
    app: string,
    channel: string,
    options: LeaveOptions,
  ): Promise<void> {
    const keys = this.#keys.channel(app, channel);
    await this.#own.membership.leave(keys, options);
  }

  /** See {@linkcode Backplane.read}. */
  async read(
    app: string,
    channel: string,
    request: PageRequest,
  ): Promise<Page | null> {
    const keys = this.#keys.channel(app, channel);
    const connection = this.#own.network.connection(keys.bucket);
    return await readPage(connection, this.#keys, keys, request);
  }

  /** See {@linkcode Backplane.members}. */
  async members(
    app: string,
    channel: string,
  ): Promise<ReadonlyMap<string, string>> {
    const keys = this.#keys.channel(app, channel);
    const { network, membership } = this.#own;
    const connection = network.connection(keys.bucket);
    const answer = await connection.call(MEMBERS, [keys.members], []);
    return membership.complete(keys, pairs(answer as string[]));
  }

  /** See {@linkcode Backplane.cached}. */
  async cached(app: string, channel: string): Promise<CachedMessage | null> {
    const { bucket, last } = this.#keys.channel(app, channel);
    const connection = this.#own.network.connection(bucket);
    const answer = await connection.call(LAST, [last], []);
    return cachedOf(...answer as [string, number]) ?? null;
  }

  /** See {@linkcode Backplane.occupancy}. */
  async occupancy(app: string, channel: string): Promise<Occupancy> {
    const { bucket, state } = this.#keys.channel(app, channel);
    const connection = this.#own.network.connection(bucket);
    const answer = await connection.call(COUNTS, [state], []);
    const [subscriptions = 0, users = 0] = answer as number[];
    return { subscriptions, users };
  }

  /** See {@linkcode Backplane.occupied}. Reads the index page by page. */
  async occupied(
    app: string,
    prefix: string,
  ): Promise<ReadonlyMap<string, Occupancy>> {
    const found = new Map<string, Occupancy>();
    const buckets = this.#keys.tags.keys();
    const worker = async () => {
      for (const bucket of buckets) {
        await this.#list(bucket, `${app} ${prefix}`, found);
      }
    };
    await Promise.all(Array.from({ length: INDEX_WORKERS }, worker));
    return found;
  }

  async #list(
    bucket: number,
    prefix: string,
    found: Map<string, Occupancy>,
  ): Promise<void> {
    const index = this.#keys.occupied(bucket);
    let names: string[] = [];
    do {
      const connection = this.#own.network.connection(bucket);
      const after = names.at(-1) ?? "";
      names = await connection.call(
        ...[OCCUPIED, [index], [prefix, after, INDEX_PAGE]] as const,
      ) as string[];
      if (names.length === 0) return;
      const channels = names.map((name) => this.#keys.named(name));
      const states = channels.map(({ state }) => state);
      const counts = await connection.call(COUNTS, states, []) as number[];
      for (const [i, { channel }] of channels.entries()) {
        const [subscriptions = 0, users = 0] = counts.slice(2 * i, 2 * i + 2);
        if (subscriptions > 0) found.set(channel, { subscriptions, users });
      }
    } while (names.length === INDEX_PAGE);
  }

  /** See {@linkcode Backplane.close}. */
  async close(): Promise<void> {
    if (this.#running === null || this.#isClosed) return;
    this.#isClosed = true;
    const { network, lease, membership } = this.#running;
    lease.stop();
    this.#sessions.stop();
    try {
      await Promise.all([this.journal.close(), membership.close()]);
      await this.#sessions.close();
      await lease.end(network);
    } catch {
      // Redis is away. The lease ends, and then others release what is held.
    }
    await network.close();
  }
}

/** What becomes of a message besides its publication. */
function kindOf({ logged, control }: Message): string | number {
  return control === "terminate" ? control : Number(logged ?? false);
}

/** What a started backplane has. */
interface Running {
  readonly node: BackplaneNode;
  readonly network: Network;
  readonly lease: Lease;
  readonly membership: Membership;
}
