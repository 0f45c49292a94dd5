/**
 * All that takes part in a run: a Redis, nodes, a balancer and a bad network in front
 * of them, observers, pages, publishers and a receiver of webhooks.
 *
 * @module
 */
import { Balancer } from "../../support/balancer.ts";
import { FaultProxy } from "../../support/proxy.ts";
import { RedisServer } from "../../support/redis.ts";
import { APP } from "../../support/server.ts";
import { Blows, type Figures, noFigures } from "./blows.ts";
import { Health } from "./health.ts";
import { ClusterNode, type CommonSettings } from "./nodes.ts";
import type { BlowKind } from "./plan.ts";
import { Probe } from "./probe.ts";
import { WebhookReceiver } from "./receiver.ts";
import { Tabs } from "./tabs.ts";
import { Traffic } from "./traffic.ts";
import { Truth } from "./truth.ts";

/** Of each class that has rules of its own. */
export const CHANNELS = [
  "news",
  "private-desk",
  "presence-room",
  "cache-board",
];
/** Those that have members. */
export const PRESENCE = ["presence-room"];
/** As whom clients sign in. */
const USERS = ["p0", "p1", "p2"];
/** Of all keys in Redis. */
export const PREFIX = "proof";

const CACHE_MS = 5_000;
const LAG_MS = 100;
const BENCH_MS = 2_000;
const BENCH_IN_FLIGHT = 64;

/** What a run takes. */
export interface RunOptions {
  readonly seed: number;
  readonly nodes: number;
  /** Whether there is no Redis: then there can be one node, and few things happen. */
  readonly isInMemory: boolean;
  readonly tabs: number;
  /** Messages a second. */
  readonly rate: number;
  /** For how long things go on happening, past the first round. */
  readonly seconds: number;
  /** How many things happen in a round. */
  readonly blows: number;
  readonly blowsPerAct?: number;
  readonly kinds?: readonly BlowKind[] | undefined;
  readonly leaseMs: number;
  readonly historyMs: number;
  readonly settleMs: number;
  readonly drainMs: number;
  /** Idle clients besides. */
  readonly crowd: number;
  /** Whether to measure how fast nodes publish. */
  readonly measures: boolean;
  readonly log: (line: string) => void;
}

/** What runs by itself. */
interface Parts {
  readonly redis: RedisServer | null;
  readonly nodes: readonly ClusterNode[];
  readonly balancer: Balancer;
  readonly proxy: FaultProxy;
  readonly receiver: WebhookReceiver;
}

/** All that takes part. Disposal ends it. */
export class Stage implements AsyncDisposable {
  readonly options: RunOptions;
  readonly redis: RedisServer | null;
  readonly nodes: readonly ClusterNode[];
  /** The network in front of the balancer. */
  readonly proxy: FaultProxy;
  readonly receiver: WebhookReceiver;
  readonly truth = new Truth();
  readonly probes: readonly Probe[];
  readonly tabs: Tabs;
  readonly traffic: Traffic;
  readonly health: Health;
  readonly blows: Blows;
  readonly figures: Figures = noFigures();
  /** What an observer has noticed that must not be. */
  readonly flickers: string[] = [];
  /** Whether everybody leaves. */
  isOver = false;
  /** Is called when something has changed. */
  onChange: () => void = () => {};
  /** Ends what runs by itself. */
  readonly #closers: (() => unknown)[];
  #ghosts = 0;

  private constructor(
    options: RunOptions,
    { redis, nodes, balancer, proxy, receiver }: Parts,
    closers: (() => unknown)[],
  ) {
    this.options = options;
    this.redis = redis;
    this.nodes = nodes;
    this.proxy = proxy;
    this.receiver = receiver;
    this.#closers = closers;
    const { seed, rate, leaseMs, drainMs, historyMs } = options;
    const { truth } = this;
    const onChange = () => this.onChange();
    const everywhere = { channels: CHANNELS, users: USERS, truth };
    receiver.onChange = onChange;
    this.health = new Health(nodes, balancer);
    this.tabs = new Tabs({
      ...{ ...everywhere, seed, historyMs, onChange },
      ...{ count: options.tabs, port: proxy.port },
    });
    this.traffic = new Traffic({
      ...{ ...everywhere, seed, rate },
      ports: [...nodes.map(({ port }) => port), balancer.port],
      subjects: () => this.tabs.open,
    });
    this.blows = new Blows({
      ...{ redis, nodes, balancer, receiver, leaseMs, drainMs },
      figures: this.figures,
      isReady: () => this.health.isReady,
      ghost: (node) => this.#probe(`ghost-${++this.#ghosts}`, node, false),
      log: (line) => this.log(line),
    });
    // At least two at each node, and for each user at two nodes: so one of them hears
    // what another one misses.
    const count = Math.max(2 * nodes.length, USERS.length);
    this.probes = Array.from({ length: count }, (_, i) => {
      const round = Math.floor(i / nodes.length);
      const node = nodes[i % nodes.length]!; // Below its length.
      const user = USERS[(i + round) % USERS.length];
      return this.#probe(`steady-${round}`, node, true, user);
    });
  }

  /** Starts all of it, without clients. */
  static async open(options: RunOptions): Promise<Stage> {
    const closers: (() => unknown)[] = [];
    const keep = <T extends AsyncDisposable>(one: T): T => {
      closers.push(() => one[Symbol.asyncDispose]());
      return one;
    };
    try {
      const { seed, leaseMs, historyMs, settleMs, drainMs } = options;
      const receiver = keep(new WebhookReceiver(seed));
      const redis = options.isInMemory ? null : keep(await RedisServer.start());
      const settings: CommonSettings = {
        ...{ app: APP, prefix: PREFIX, leaseMs, historyMs, settleMs, drainMs },
        ...{ cacheMs: CACHE_MS, webhookUrl: receiver.url },
      };
      const nodes = Array.from(
        { length: options.nodes },
        (_, index) => new ClusterNode(index, settings),
      );
      for (const node of nodes) keep(node);
      await Promise.all(nodes.map((node) => node.open(redis?.port ?? null)));
      const balancer = keep(await Balancer.open(nodes.map(({ port }) => port)));
      const proxy = keep(await FaultProxy.open({ port: balancer.port }));
      const parts = { redis, nodes, balancer, proxy, receiver };
      const stage = new Stage(options, parts, closers);
      if (options.measures) await stage.#measure(settings);
      return stage;
    } catch (error) {
      for (const end of closers.reverse()) await end();
      throw error;
    }
  }

  /** Has all clients come. */
  enter(): void {
    this.#closers.push(this.#watchLag());
    this.health.start();
    for (const probe of this.probes) probe.start();
    this.tabs.openAll();
    this.blows.crowd.start(this.options.crowd);
  }

  /** Has all clients leave. */
  leave(): void {
    this.isOver = true;
    this.tabs.closeAll();
    for (const probe of this.probes) probe.stop();
    this.blows.crowd.stop();
  }

  /** What everybody has noticed that must not be, since the last time. */
  takeProblems(): string[] {
    this.tabs.count();
    return unique([
      ...this.truth.takeProblems(),
      ...this.flickers.splice(0),
      ...this.nodes.flatMap(({ problems }) => problems.splice(0)),
      ...this.probes.flatMap(({ problems }) => problems.splice(0)),
      ...this.tabs.problems.splice(0),
      ...this.receiver.problems.splice(0),
      ...this.traffic.problems.splice(0),
      ...this.blows.problems.splice(0),
    ]);
  }

  /** Says how far the run is. */
  log(line: string): void {
    const seconds = performance.now() / 1_000;
    this.options.log(`${seconds.toFixed(1).padStart(7)} ${line}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.health.stop();
    this.leave();
    this.traffic[Symbol.dispose]();
    for (const end of this.#closers.reverse()) await end();
  }

  /** Measures how fast nodes publish: in memory, one of them, and all at once. */
  async #measure(settings: CommonSettings): Promise<void> {
    const { nodes, figures: { perSecond } } = this;
    const lone = new ClusterNode(-1, settings);
    await lone.open(null);
    perSecond.memory = await lone.bench(BENCH_MS, BENCH_IN_FLIGHT);
    await lone[Symbol.asyncDispose]();
    const [first] = nodes;
    perSecond.one = await first?.bench(BENCH_MS, BENCH_IN_FLIGHT) ?? 0;
    const rates = await Promise.all(
      nodes.map((node) => node.bench(BENCH_MS, BENCH_IN_FLIGHT)),
    );
    perSecond.all = rates.reduce((sum, rate) => sum + rate, 0);
  }

  /** Measures how late timers of this process are: figures are no better than that. */
  #watchLag(): () => void {
    let due = performance.now() + LAG_MS;
    const timer = setInterval(() => {
      const now = performance.now();
      this.figures.lagsMs.push(Math.max(0, now - due));
      due = now + LAG_MS;
    }, LAG_MS);
    return () => clearInterval(timer);
  }

  #probe(
    member: string,
    node: ClusterNode,
    returns: boolean,
    user?: string,
  ): Probe {
    return new Probe({
      ...{ name: `${member} at node ${node.index}`, port: node.port, member },
      ...user !== undefined && { user },
      ...{ channels: CHANNELS, truth: this.truth, returns },
      historyMs: this.options.historyMs,
      onChange: () => this.onChange(),
      onMember: (_channel, who, isThere) => {
        this.blows.heard(who, isThere);
        // Each of these users is at several nodes all the time.
        if (!who.startsWith("steady-") || isThere || this.isOver) return;
        this.flickers.push(`${who} left by what node ${node.index} says`);
      },
    });
  }
}

/** What was said, each once and with how often. */
function unique(lines: string[]): string[] {
  const counts = new Map<string, number>();
  for (const line of lines) counts.set(line, (counts.get(line) ?? 0) + 1);
  return [...counts].map(([line, count]) =>
    count === 1 ? line : `${line} (${count} times)`
  );
}
