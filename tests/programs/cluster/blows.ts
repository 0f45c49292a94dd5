/**
 * How things happen to nodes and to Redis, and what is measured meanwhile.
 *
 * @module
 */
import type { Balancer } from "../../support/balancer.ts";
import type { RedisServer } from "../../support/redis.ts";
import { Crowd } from "./crowd.ts";
import type { ClusterNode } from "./nodes.ts";
import type { Blow } from "./plan.ts";
import type { Probe } from "./probe.ts";
import type { WebhookReceiver } from "./receiver.ts";

/** A lease is that much longer in the eyes of others. */
export const GHOST_GRACE_MS = 2_000;
/** How long a ghost is waited for, past the lease. */
const GHOST_MS = 20_000;
const READY_MS = 60_000;
const POLL_MS = 20;
/** How long a node may take to end, past its drain. */
const END_MS = 15_000;
/** Into how many windows a drain is divided, to see how even it is. */
const WINDOWS = 5;
/** With fewer clients chance decides how even a drain is. */
const MIN_CLIENTS = 100;

/** What was measured. */
export interface Figures {
  /** From SIGKILL of a node until others have heard that its last member is gone. */
  readonly ghostsMs: number[];
  /** From the return of Redis until all nodes are ready. */
  readonly recoveriesMs: number[];
  /** The largest share of a drain's reconnects in a window, against an even pace. */
  readonly peaks: number[];
  /** From a good network until everybody says what the model says. */
  readonly agreementMs: number[];
  /** Of messages, from a backend to a client, while nothing happened. */
  readonly latenciesMs: number[];
  /** How late timers of the program were. */
  readonly lagsMs: number[];
  /** Messages that are published in a second: in memory, by one node, by all. */
  readonly perSecond: { memory: number; one: number; all: number };
  /** Resident memory of each node at the end. */
  readonly rssBytes: number[];
  /** Keys that are left at the end. */
  keys: number;
}

/** Nothing is measured yet. */
export function noFigures(): Figures {
  return {
    ghostsMs: [],
    recoveriesMs: [],
    peaks: [],
    agreementMs: [],
    latenciesMs: [],
    lagsMs: [],
    perSecond: { memory: 0, one: 0, all: 0 },
    rssBytes: [],
    keys: 0,
  };
}

/** What {@linkcode Blows} takes. */
export interface BlowsOptions {
  readonly redis: RedisServer | null;
  readonly nodes: readonly ClusterNode[];
  readonly balancer: Balancer;
  readonly receiver: WebhookReceiver;
  readonly leaseMs: number;
  readonly drainMs: number;
  readonly figures: Figures;
  /** Whether all nodes are ready. */
  readonly isReady: () => boolean;
  /** Makes a client of a node that never comes back. */
  readonly ghost: (node: ClusterNode) => Probe;
  readonly log: (line: string) => void;
}

/** Strikes. */
export class Blows {
  readonly #options: BlowsOptions;
  readonly problems: string[] = [];
  readonly crowd: Crowd;
  /** Who has left, and when, since somebody asked. */
  readonly #departures = new Map<string, number>();

  constructor(options: BlowsOptions) {
    this.#options = options;
    this.crowd = new Crowd(options.balancer.port);
  }

  /** Takes down that an observer has heard of a member. */
  heard(member: string, isThere: boolean): void {
    if (isThere || this.#departures.has(member)) return;
    this.#departures.set(member, performance.now());
  }

  /** Has something happen, and waits until it is over. */
  async strike({ kind, node: index, forMs }: Blow): Promise<void> {
    const { nodes, balancer, redis, receiver } = this.#options;
    const node = nodes[index % nodes.length]!; // Below its length.
    switch (kind) {
      case "kill":
        return await this.#kill(node, forMs);
      case "freeze":
      case "doze":
        node.freeze();
        await pause(forMs);
        return node.thaw();
      case "sever":
        await node.sever("reset", forMs);
        return await pause(forMs);
      case "mute":
        await node.sever("silence", forMs);
        return await pause(forMs);
      case "drop":
        return balancer.cut("reset", node.port);
      case "rolling":
        for (const one of nodes) await this.#replace(one);
        return;
    }
    // All others happen to Redis.
    if (redis === null) return;
    switch (kind) {
      case "redis-stop":
        await redis.stop();
        await pause(forMs);
        await redis.restart();
        break;
      case "redis-kill":
        await redis.kill();
        await pause(forMs);
        await redis.restart();
        break;
      case "redis-empty":
        await redis.stop();
        await pause(forMs);
        receiver.forget();
        await redis.restart({ keepsData: false });
        break;
      case "redis-pause":
      case "redis-doze":
        redis.pause();
        await pause(forMs);
        redis.resume();
        break;
      case "redis-clients":
        await redis.command("CLIENT", "KILL", "TYPE", "normal");
        await redis.command("CLIENT", "KILL", "TYPE", "pubsub");
        break;
      case "flush":
        receiver.forget();
        await redis.command("FLUSHALL");
        break;
    }
    await this.#recovery();
  }

  /** Measures how long nodes take after Redis is back. */
  async #recovery(): Promise<void> {
    const start = performance.now();
    const { nodes, figures } = this.#options;
    const areReady = async () => {
      const answers = await Promise.all(
        nodes.map((node) => node.readiness(5_000)),
      );
      return answers.every(Boolean);
    };
    if (await this.#until(READY_MS, areReady)) {
      figures.recoveriesMs.push(performance.now() - start);
    } else this.problems.push(`a node is not ready ${READY_MS} ms after Redis`);
  }

  async #kill(node: ClusterNode, forMs: number): Promise<void> {
    const { ghost: make, leaseMs, figures, nodes, redis } = this.#options;
    const ghost = make(node);
    ghost.start();
    // It is not there if something else is wrong with the node.
    const isThere = await this.#until(5_000, () => ghost.isSettled);
    this.#departures.delete(ghost.member);
    await node.kill();
    const start = performance.now();
    ghost.stop();
    await pause(forMs);
    await node.start();
    if (!isThere || nodes.length === 1 || redis === null) return;
    const left = () => this.#departures.has(ghost.member);
    if (!await this.#until(leaseMs + GHOST_MS, left)) {
      this.problems.push(`${ghost.member} has never left: ${ghost.trail}`);
      return;
    }
    const leftAt = this.#departures.get(ghost.member) ?? start;
    figures.ghostsMs.push(leftAt - start);
  }

  /** Stops a node as a deploy does, and starts it again. */
  async #replace(node: ClusterNode): Promise<void> {
    const { balancer, drainMs, figures, isReady } = this.#options;
    const clients = balancer.links(node.port);
    const before = balancer.arrivals.length;
    const start = performance.now();
    const ms = await node.stop(drainMs + END_MS);
    const arrivals = balancer.arrivals.slice(before);
    await node.start();
    if (!await this.#until(READY_MS, isReady)) {
      this.problems.push(`not every node is ready after that of ${node.index}`);
    }
    this.#options.log(`    node ${node.index} ended in ${Math.round(ms)} ms`);
    if (clients < MIN_CLIENTS) return;
    const counts = Array<number>(WINDOWS).fill(0);
    for (const { at } of arrivals) {
      const window = Math.floor((at - start) / drainMs * WINDOWS);
      if (window < WINDOWS) counts[window]!++;
    }
    figures.peaks.push(Math.max(...counts) / (clients / WINDOWS));
  }

  async #until(
    ms: number,
    isDone: () => boolean | Promise<boolean>,
  ): Promise<boolean> {
    const start = performance.now();
    while (!await isDone()) {
      if (performance.now() - start > ms) return false;
      await pause(POLL_MS);
    }
    return true;
  }
}

/** Waits. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
