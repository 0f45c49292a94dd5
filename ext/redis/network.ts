/**
 * The connections to Redis: which there are, what is reached over which, and when to
 * try again. Nothing waits here for Redis to come back.
 *
 * @module
 */

import { parseLocation, showAddress } from "./address.ts";
import type { Address, Credentials, RedisTls } from "./client.ts";
import { explain, RedisRefused, RedisUnavailable } from "./failures.ts";
import { type Connection, Link, type Script } from "./link.ts";
import { Topology } from "./topology.ts";

export { type Connection, RedisUnavailable, type Script };
export type { Credentials, RedisTls };

/** What uses a {@linkcode Network}. */
export interface NetworkOwner {
  /**
   * Buckets have become reachable over a connection: it is new, or their slots have
   * moved. Nothing of them is subscribed to on it yet. Until it resolves
   * {@linkcode Network.connection} throws for them. If it rejects, the connection
   * ends, and there is another attempt later.
   */
  restore(buckets: readonly number[], connection: Connection): Promise<void>;
  /** A message on a topic. */
  message(topic: string, text: string): void;
  /** All buckets are reachable, or some are not. Comes once for each change. */
  health(isUp: boolean, cause?: unknown): void;
}

/** Options of a {@linkcode Network}. */
export interface NetworkOptions {
  /** One server, Sentinels or nodes of a cluster: see {@linkcode parseLocation}. */
  readonly url: string;
  /** The hash tag of each bucket, braces included. */
  readonly tags: readonly string[];
  readonly scripts: readonly Script[];
  /** How long Redis may take to answer. @default {3000} */
  readonly answerMs?: number | undefined;
  /** Options of TLS, for URLs that begin with `rediss`. */
  readonly tls?: RedisTls | undefined;
  /** How to log in at the Sentinels, where they want that. */
  readonly sentinel?: Credentials | undefined;
}

const ANSWER_MS = 3_000;
/** How long a connection may take to be made. */
const CONNECT_MS = 3_000;
/** How long a start may take, so that a mistake is known within 5 s. */
const START_MS = 4_500;
const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 1_000;
/** A connection that has lasted so long is no part of the trouble before it. */
const STABLE_MS = 5_000;

/** A master, and the connection to it that is, or is being, made. */
interface Master {
  readonly where: string;
  readonly link: Link;
  isOpen: boolean;
}

/** All connections to Redis. */
export class Network {
  readonly #options: NetworkOptions;
  readonly #owner: NetworkOwner;
  readonly #topology: Topology;
  readonly #answerMs: number;
  /** By host and port. */
  readonly #masters = new Map<string, Master>();
  /** By bucket, host and port of its master; "" as long as that is unknown. */
  readonly #homes: string[];
  /** By bucket, the connection over which it is reachable. */
  readonly #routes: (Link | null)[];
  /** Buckets that are being restored, with the connection over which they are. */
  readonly #restoring = new Map<number, Link>();
  #state: "new" | "starting" | "up" | "down" | "closed" = "new";
  #started: PromiseWithResolvers<void> | null = null;
  #isLooking = false;
  #tries = 0;
  /** When every bucket became reachable. */
  #roseMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /**
   * Does nothing until {@linkcode start}.
   *
   * @throws {TypeError} If the URL cannot be used.
   */
  constructor(options: NetworkOptions, owner: NetworkOwner) {
    this.#options = options;
    this.#owner = owner;
    this.#answerMs = options.answerMs ?? ANSWER_MS;
    this.#topology = new Topology(parseLocation(options.url), {
      tags: options.tags,
      tls: options.tls ?? {},
      sentinel: options.sentinel ?? {},
      answerMs: this.#answerMs,
    });
    this.#homes = options.tags.map(() => "");
    this.#routes = options.tags.map(() => null);
  }

  /**
   * Connects. Resolves when every bucket is reachable.
   *
   * @throws {Error} With the first reason why not, within 5 s. Nothing goes on then.
   */
  async start(): Promise<void> {
    if (this.#state !== "new") throw new Error("Cannot start a network twice");
    this.#state = "starting";
    const started = this.#started = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      this.#fail(
        this.#topology.where,
        new RedisRefused("it is not ready in time"),
      );
    }, START_MS);
    this.#look();
    try {
      await started.promise;
    } finally {
      this.#started = null;
      clearTimeout(timer);
    }
  }

  /**
   * The connection over which a bucket is reachable.
   *
   * @throws {RedisUnavailable} While there is none.
   */
  connection(bucket: number): Connection {
    const route = this.#routes[bucket];
    if (route) return route;
    throw new RedisUnavailable(
      "Redis is away: it is being connected to again",
      {
        wasSent: false,
      },
    );
  }

  /** Ends every connection but that one, and makes others, which are restored. */
  reset(reason: string, except?: Connection): void {
    for (const { link } of [...this.#masters.values()]) {
      if (link !== except) link.end(new Error(reason));
    }
  }

  /** Ends everything. What waits for an answer may have been executed. */
  // deno-lint-ignore require-await -- it is asynchronous for its callers
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    clearTimeout(this.#timer);
    this.#topology.close();
    const reason = "The connection to Redis was closed";
    for (const { link } of [...this.#masters.values()]) {
      link.end(new Error(reason));
    }
    this.#masters.clear();
    this.#routes.fill(null);
    this.#started?.reject(new RedisUnavailable(reason, { wasSent: false }));
  }

  // ---- Looking ----------------------------------------------------------------

  /** Finds out who has which bucket, and connects to each. */
  async #look(): Promise<void> {
    if (this.#isLooking || this.#isClosed()) return;
    this.#isLooking = true;
    clearTimeout(this.#timer);
    try {
      const homes = await this.#topology.locate();
      if (!this.#isClosed()) this.#settle(homes);
    } catch (error) {
      this.#fail(this.#topology.where, error);
    } finally {
      this.#isLooking = false;
    }
    if (!this.#isClosed() && !this.#isComplete()) this.#lookLater();
  }

  #lookLater(): void {
    clearTimeout(this.#timer);
    const limitMs = Math.min(FIRST_RETRY_MS * 2 ** this.#tries, MAX_RETRY_MS);
    if (limitMs < MAX_RETRY_MS) this.#tries++;
    // Servers that have lost Redis at once do not return at once.
    const delayMs = limitMs * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.#look(), delayMs);
  }

  /** Keeps, ends and makes connections, so that each master has one. */
  #settle(homes: readonly Address[]): void {
    homes.forEach((address, bucket) => {
      this.#homes[bucket] = showAddress(address);
    });
    for (const { where, link } of [...this.#masters.values()]) {
      if (!this.#homes.includes(where)) {
        link.end(new Error("Its buckets are elsewhere"));
        this.#masters.delete(where);
      }
    }
    const addresses = new Map(homes.map((home) => [showAddress(home), home]));
    for (const [where, address] of addresses) {
      const master = this.#masters.get(where);
      if (master === undefined) this.#connect(where, address);
      else if (master.isOpen) this.#restore(master);
    }
  }

  async #connect(where: string, address: Address): Promise<void> {
    const link = new Link({
      ...this.#topology.clientOptions(address),
      scripts: this.#options.scripts,
      answerMs: this.#answerMs,
      connectMs: CONNECT_MS,
      isStrict: this.#state === "starting",
    }, {
      message: (topic, text) => this.#owner.message(topic, text),
      lost: (lost, cause) => this.#lose(lost, cause),
      migrating: (source, key, cause) => this.#migrate(source, key, cause),
    });
    const master: Master = { where, link, isOpen: false };
    this.#masters.set(where, master);
    try {
      await link.open();
    } catch (error) {
      if (this.#masters.get(where) === master) this.#masters.delete(where);
      this.#fail(where, error);
      return;
    }
    master.isOpen = true;
    this.#restore(master);
  }

  // ---- Buckets ----------------------------------------------------------------

  /** Makes the buckets of a master reachable that are not yet. */
  async #restore({ where, link }: Master): Promise<void> {
    const buckets = this.#homes.flatMap((home, bucket) =>
      home === where && this.#routes[bucket] !== link &&
        this.#restoring.get(bucket) !== link
        ? [bucket]
        : []
    );
    if (buckets.length === 0 || link.isOver) return;
    for (const bucket of buckets) {
      this.#routes[bucket] = null;
      this.#restoring.set(bucket, link);
    }
    try {
      await this.#forget(buckets, link);
      await this.#owner.restore(buckets, link);
    } catch (error) {
      link.end(error);
    }
    for (const bucket of buckets) {
      if (this.#restoring.get(bucket) !== link) continue;
      this.#restoring.delete(bucket);
      if (!link.isOver && this.#homes[bucket] === where) {
        this.#routes[bucket] = link;
      }
    }
    if (this.#isComplete()) this.#rise();
  }

  /** Nothing of a bucket may be subscribed to when it is restored. */
  async #forget(buckets: readonly number[], link: Link): Promise<void> {
    const topics = buckets.flatMap((bucket) =>
      link.topicsOf(this.#options.tags[bucket] ?? "")
    );
    if (topics.length > 0) await link.unsubscribe(topics);
  }

  /** The slot of a bucket is moving: it is away until it has arrived. */
  #migrate(link: Link, key: string, cause: unknown): void {
    const bucket = this.#options.tags.findIndex((tag) => key.startsWith(tag));
    if (this.#routes[bucket] === link) this.#routes[bucket] = null;
    this.#sink(link.where, cause);
    this.#lookLater();
  }

  #lose(link: Link, cause: unknown): void {
    for (const [where, master] of this.#masters) {
      if (master.link === link) this.#masters.delete(where);
    }
    for (const [bucket, route] of this.#routes.entries()) {
      if (route === link) this.#routes[bucket] = null;
    }
    if (this.#isClosed()) return;
    if (this.#state === "up" && performance.now() - this.#roseMs > STABLE_MS) {
      this.#tries = 0;
    }
    this.#fail(link.where, cause);
    this.#lookLater();
  }

  // ---- State ------------------------------------------------------------------

  #isClosed(): boolean {
    return this.#state === "closed";
  }

  #isComplete(): boolean {
    return !this.#routes.includes(null);
  }

  #rise(): void {
    clearTimeout(this.#timer);
    const before = this.#state;
    if (before === "up" || before === "closed") return;
    this.#state = "up";
    this.#roseMs = performance.now();
    if (before === "starting") this.#started?.resolve();
    else this.#owner.health(true);
  }

  /** Notes that something does not work; ends a start. */
  #fail(where: string, error: unknown): void {
    if (this.#state !== "starting") return this.#sink(where, error);
    const reason = this.#describe(where, error);
    this.#started?.reject(reason);
    this.close();
  }

  #sink(where: string, error: unknown): void {
    if (this.#state !== "up") return;
    this.#state = "down";
    this.#owner.health(false, this.#describe(where, error));
  }

  #describe(where: string, error: unknown): RedisUnavailable {
    const why = explain(error, this.#topology.isSecure);
    return new RedisUnavailable(`Cannot connect to Redis at ${where}: ${why}`, {
      wasSent: false,
      cause: error,
    });
  }
}
