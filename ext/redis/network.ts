/**
 * The connections to Redis: which there are, what is reached over which, and when to
 * try again. Nothing waits here for Redis to come back.
 *
 * @module
 */

import { parseLocation, showAddress } from "./address.ts";
import type { Address, RedisCredentials, RedisTls } from "./client.ts";
import { explain, Fault, isLasting, RedisUnavailable } from "./failures.ts";
import { type Connection, Link, type Script, tagOf } from "./link.ts";
import { Topology } from "./topology.ts";

export { type Connection, RedisUnavailable, type Script };
export type { RedisCredentials, RedisTls };

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
  /**
   * Why it stays down, where that is another reason, and one that somebody has to do
   * something about. Each comes once in an outage.
   */
  stays(cause: Error): void;
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
  readonly sentinel?: RedisCredentials | undefined;
  /** How often Sentinels are asked though all is well. @default {5000} */
  readonly watchMs?: number | undefined;
}

const ANSWER_MS = 3_000;
/** How long a connection may take to be made. */
const CONNECT_MS = 3_000;
/** How long a start may take, so that a mistake is known within 5 s. */
const START_MS = 4_500;
const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 1_000;
/** A reason that so many attempts of an outage have met is told: some five seconds. */
const TELLING_TRIES = 8;
/** Reasons of one outage that are counted. */
const MAX_REASONS = 16;
/** A connection that has lasted so long is no part of the trouble before it. */
const STABLE_MS = 5_000;

/** Whether there was a connection when something went wrong. */
type Phase = "connecting" | "connected";

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
  /** Buckets whose slot was on its way to another server when a script came. */
  readonly #migrating = new Set<number>();
  #state: "new" | "starting" | "up" | "down" | "closed" = "new";
  #started: PromiseWithResolvers<void> | null = null;
  #isLooking = false;
  #looking: Promise<void> = Promise.resolve();
  /** Why it was down last. */
  #cause: Error | undefined;
  /** Why it stays down, with how many attempts have met that. */
  readonly #reasons = new Map<string, number>();
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
      watchMs: options.watchMs,
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
        new Fault(`it was not ready in ${START_MS} ms`),
      );
    }, START_MS);
    this.#looking = this.#look();
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
      "Redis is away: try again later, it is being connected to again",
      { wasSent: false, cause: this.#cause },
    );
  }

  /** Ends every connection but that one, and makes others, which are restored. */
  reset(reason: string, except?: Connection): void {
    for (const { link } of [...this.#masters.values()]) {
      if (link !== except) link.end(new Fault(reason));
    }
  }

  /** Ends everything. What waits for an answer may have been executed. */
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#stopTimer();
    this.#topology.close();
    const reason = "The connection to Redis was closed";
    for (const { link } of [...this.#masters.values()]) {
      link.end(new Error(reason));
    }
    this.#masters.clear();
    this.#routes.fill(null);
    this.#started?.reject(new RedisUnavailable(reason, { wasSent: false }));
    await this.#looking;
  }

  // ---- Looking ----------------------------------------------------------------

  /** Finds out who has which bucket, and connects to each. */
  async #look(): Promise<void> {
    if (this.#isLooking || this.#isClosed()) return;
    this.#isLooking = true;
    this.#stopTimer();
    try {
      const homes = await this.#topology.locate();
      if (!this.#isClosed()) this.#settle(homes);
    } catch (error) {
      // Connections that work go on working without those who know of others.
      if (!this.#isComplete()) this.#fail(this.#topology.where, error);
    } finally {
      this.#isLooking = false;
    }
    if (this.#isComplete()) this.#watch();
    else this.#lookLater();
  }

  #lookLater(): void {
    // A look that is under way, or a timer, does it.
    if (this.#timer !== undefined || this.#isLooking || this.#isClosed()) {
      return;
    }
    const limitMs = Math.min(FIRST_RETRY_MS * 2 ** this.#tries, MAX_RETRY_MS);
    if (limitMs < MAX_RETRY_MS) this.#tries++;
    // Servers that have lost Redis together do not return together.
    this.#startTimer(limitMs * (0.75 + Math.random() / 2));
  }

  /** Looks again though all is well, where that is needed. */
  #watch(): void {
    this.#stopTimer();
    const { watchMs } = this.#topology;
    if (watchMs !== null && !this.#isClosed()) this.#startTimer(watchMs);
  }

  #startTimer(delayMs: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#looking = this.#look();
    }, delayMs);
  }

  #stopTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Keeps, ends and makes connections, so that each master has one. */
  #settle(homes: readonly Address[]): void {
    homes.forEach((address, bucket) => {
      this.#homes[bucket] = showAddress(address);
    });
    for (const { where, link } of [...this.#masters.values()]) {
      if (!this.#homes.includes(where)) {
        link.end(new Fault("another server has its slots"));
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
      ...this.#topology.linkOptions(address),
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
  #restore({ where, link }: Master): void {
    const buckets = this.#homes.flatMap((home, bucket) =>
      home === where && this.#routes[bucket] !== link &&
        this.#restoring.get(bucket) !== link
        ? [bucket]
        : []
    );
    // A bucket that is still on its way does not keep the others away.
    const settled = buckets.filter((bucket) => !this.#migrating.has(bucket));
    const alone = buckets.filter((bucket) => this.#migrating.has(bucket));
    for (const group of [settled, ...alone.map((bucket) => [bucket])]) {
      if (group.length > 0 && !link.isOver) {
        this.#restoreTogether(group, where, link);
      }
    }
  }

  async #restoreTogether(
    buckets: readonly number[],
    where: string,
    link: Link,
  ): Promise<void> {
    for (const bucket of buckets) {
      this.#routes[bucket] = null;
      this.#migrating.delete(bucket);
      this.#restoring.set(bucket, link);
    }
    let isRestored = false;
    try {
      // Nothing of a bucket may be subscribed to when it is restored.
      const tags = buckets.flatMap((bucket) =>
        this.#options.tags[bucket] ?? []
      );
      await link.unsubscribe(link.topicsOf(tags));
      await this.#owner.restore(buckets, link);
      isRestored = true;
    } catch (error) {
      // A bucket that is on its way is no fault of the connection.
      if (!buckets.some((bucket) => this.#migrating.has(bucket))) {
        link.end(error);
      }
    }
    for (const bucket of buckets) {
      if (this.#restoring.get(bucket) !== link) continue;
      this.#restoring.delete(bucket);
      if (!isRestored || link.isOver || this.#homes[bucket] !== where) continue;
      if (!this.#migrating.has(bucket)) this.#routes[bucket] = link;
    }
    if (this.#isComplete()) this.#rise();
    else this.#lookLater();
  }

  /** The slot of a bucket is moving: the bucket is away until it has arrived. */
  #migrate(link: Link, key: string, cause: unknown): void {
    const bucket = this.#options.tags.indexOf(tagOf(key));
    this.#migrating.add(bucket);
    if (this.#routes[bucket] === link) this.#routes[bucket] = null;
    this.#sink(link.where, cause, "connected");
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
    this.#fail(link.where, cause, "connected");
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
    const before = this.#state;
    if (before === "closed") return;
    this.#watch();
    if (before === "up") return;
    this.#state = "up";
    this.#roseMs = performance.now();
    if (before === "starting") this.#started?.resolve();
    else this.#owner.health(true);
  }

  /** Notes that something does not work; ends a start. */
  #fail(where: string, error: unknown, phase: Phase = "connecting"): void {
    if (this.#state !== "starting") return this.#sink(where, error, phase);
    const reason = this.#describe(where, error, "connecting");
    this.#started?.reject(reason);
    this.close();
  }

  #sink(where: string, error: unknown, phase: Phase): void {
    if (this.#state === "down") return this.#stay(where, error, phase);
    if (this.#state !== "up") return;
    this.#state = "down";
    this.#cause = this.#describe(where, error, "connected");
    this.#reasons.clear();
    this.#reasons.set(this.#cause.message, TELLING_TRIES);
    this.#owner.health(false, this.#cause);
  }

  /** Notes why an attempt has failed: the reason may be another by now. */
  #stay(where: string, error: unknown, phase: Phase): void {
    const cause = this.#describe(where, error, phase);
    const { message } = this.#cause = cause;
    if (!isLasting(error)) return;
    const before = this.#reasons.get(message);
    if (before === undefined && this.#reasons.size >= MAX_REASONS) return;
    const count = (before ?? 0) + 1;
    this.#reasons.set(message, count);
    if (count !== TELLING_TRIES) return;
    this.#owner.stays(new Error(message, { cause: error }));
  }

  #describe(
    where: string,
    error: unknown,
    phase: Phase,
  ): RedisUnavailable {
    const why = explain(error, phase, this.#topology.isSecure);
    const what = phase === "connected"
      ? `Redis at ${where} is away`
      : `Cannot connect to Redis at ${where}`;
    return new RedisUnavailable(`${what}: ${why}`, {
      wasSent: false,
      cause: error,
    });
  }
}
