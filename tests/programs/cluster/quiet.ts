/**
 * The end of an act: everything bad ends, everybody comes back, and then everything
 * has to be as the model says.
 *
 * @module
 */
import { within } from "../../support/deadline.ts";
import { differences, type Model, surplus } from "./audit.ts";
import { pause } from "./blows.ts";
import { CHANNELS, PREFIX, PRESENCE, type Stage } from "./stage.ts";

/** For everybody to be back. */
const SETTLING_MS = 60_000;
/** For the last messages to be there. */
const MARK_MS = 30_000;
/** For what is known to be what is so, past the lease. */
const AGREEMENT_MS = 30_000;
/** For a node to end, past its drain. */
const END_MS = 20_000;
/** For a page to be told what was so when it came. */
const EXTRA_MS = 30_000;
const POLL_MS = 250;

/** Looks at a stage on which nothing happens. */
export class Quiet {
  readonly #stage: Stage;
  /** When Redis may have forgotten everything the last time, at the latest. */
  #forgottenAt = -Infinity;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  /**
   * Waits until everybody is back, and looks at everything. Returns what is wrong.
   *
   * @param mayForget Whether Redis may have forgotten what it had.
   * @param wasAway Whether a node could not reach Redis.
   */
  async settle(mayForget: boolean, wasAway = mayForget): Promise<string[]> {
    const { health, traffic, receiver, tabs, probes, truth, redis } =
      this.#stage;
    return await this.#found(async (problems) => {
      await this.#until(
        SETTLING_MS,
        "node that is ready",
        () => health.isReady ? [] : health.report,
      );
      await this.#cutAll();
      traffic.isCalm = true;
      if (mayForget) receiver.forget();
      await this.#until(SETTLING_MS, "client that is back", () => {
        tabs.reloadStuck();
        return this.#missing;
      });
      // The second says that nothing came after the first either.
      for (let i = 0; i < 2; i++) await this.#mark();
      await this.#agree();
      const gaps = [tabs, ...probes].flatMap(({ gaps }) => gaps.splice(0));
      gaps.push(...truth.takeUnheard());
      const firstGaps = tabs.firstGaps.splice(0);
      if (!mayForget) problems.push(...gaps);
      const { historyMs } = this.#stage.options;
      for (const { gap, toldAt } of firstGaps) {
        const isForgotten = toldAt - this.#forgottenAt < historyMs;
        if (!wasAway && !isForgotten) problems.push(gap);
      }
      if (mayForget) this.#forgottenAt = performance.now() + EXTRA_MS;
      if (redis) problems.push(...await surplus(redis, PREFIX, false));
    });
  }

  /** Has everybody leave, and nodes end. Returns what is left, and must not be. */
  async leave(): Promise<string[]> {
    const stage = this.#stage;
    const { nodes, redis, figures, options } = stage;
    stage.leave();
    return await this.#found(async (problems) => {
      await this.#agree();
      if (redis) {
        await this.#until(
          // A session has an owner for so long if Redis was paused while it was taken,
          // and nobody heard the answer.
          2 * options.historyMs + AGREEMENT_MS,
          "end of all keys",
          () => surplus(redis, PREFIX, true),
        );
        figures.keys = await redis.command("DBSIZE") as number;
      }
      for (const node of nodes) {
        const { rssBytes, ...kept } = await node.stats();
        figures.rssBytes.push(rssBytes);
        if (Object.values(kept).every((count) => count === 0)) continue;
        problems.push(`node ${node.index} keeps ${JSON.stringify(kept)}`);
      }
      stage.health.stop();
      await Promise.all(
        nodes.map((node) => node.stop(options.drainMs + END_MS)),
      );
    });
  }

  /** Does something, and returns what was found meanwhile, by whomever. */
  async #found(
    look: (problems: string[]) => Promise<void>,
  ): Promise<string[]> {
    const problems: string[] = [];
    try {
      await look(problems);
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
    this.#stage.traffic.isCalm = false;
    return [...problems, ...this.#stage.takeProblems()];
  }

  /**
   * Cuts all connections of pages, and lets none through until each page knows: a
   * page that polls has none at times, and pusher-js never repeats a request over
   * HTTP that has failed.
   */
  async #cutAll(): Promise<void> {
    const { tabs, proxy } = this.#stage;
    const before = new Map(tabs.open.map((tab) => [tab, tab.socketId]));
    const cleared = proxy.clear("close", Infinity);
    await within(MARK_MS, "end of connections", cleared);
    await this.#until(
      SETTLING_MS,
      "page that knows that it was cut",
      () =>
        tabs.open
          .filter((tab) => tab.isConnected && tab.socketId === before.get(tab))
          .map(({ wants }) => wants),
    );
    proxy.admit();
  }

  get #missing(): string[] {
    const { tabs, probes } = this.#stage;
    return [
      ...tabs.open.filter((tab) => !tab.isSettled())
        .map((tab) => `${tab.wants} [${tabs.trail(tab.name)}]`),
      ...probes.filter((probe) => !probe.isSettled)
        .map(({ name, trail }) => `${name} [${trail}]`),
    ];
  }

  /** Publishes to all channels at all nodes, and waits until everybody has heard. */
  async #mark(): Promise<void> {
    const { traffic, tabs } = this.#stage;
    const marks = await traffic.mark();
    await this.#until(
      MARK_MS,
      "last message",
      () =>
        tabs.open.flatMap((tab) =>
          tab.wanted.flatMap((channel) => {
            const lacks = (marks.get(channel) ?? [])
              .filter((n) => !tab.account.hasHeard(channel, n));
            return lacks.length === 0
              ? []
              : `${tab.name} lacks ${lacks} of ${channel} [${
                tabs.trail(tab.name)
              }]`;
          })
        ),
    );
  }

  /** Waits until everything is what the model says. */
  async #agree(): Promise<void> {
    const start = performance.now();
    const { figures, options: { leaseMs } } = this.#stage;
    await this.#until(
      leaseMs + AGREEMENT_MS,
      "agreement with the model",
      () => differences(this.#model, this.#stage),
    );
    figures.agreementMs.push(performance.now() - start);
  }

  get #model(): Model {
    const { probes, tabs, isOver } = this.#stage;
    if (isOver) return { subscriptions: new Map(), members: new Map() };
    const clients = probes.length + tabs.open.length;
    const users = new Set([
      ...tabs.members,
      ...probes.map(({ member }) => member),
    ]);
    return {
      subscriptions: new Map(CHANNELS.map((channel) => [channel, clients])),
      members: new Map(PRESENCE.map((channel) => [channel, users])),
    };
  }

  /** Waits until nothing is missing. */
  async #until(
    ms: number,
    what: string,
    missing: () => string[] | Promise<string[]>,
  ): Promise<void> {
    const start = performance.now();
    for (;;) {
      const found = await missing();
      if (found.length === 0) return;
      if (performance.now() - start > ms) {
        throw new Error(`no ${what} within ${ms} ms: ${found.join(" || ")}`);
      }
      const changed = Promise.withResolvers<void>();
      this.#stage.onChange = changed.resolve;
      await Promise.race([changed.promise, pause(POLL_MS)]);
    }
  }
}
