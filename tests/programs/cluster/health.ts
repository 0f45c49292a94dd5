/**
 * The health checks of the balancer: new clients go to nodes that are ready, and to
 * any node that answers where none is ready, as balancers do.
 *
 * @module
 */
import type { Balancer } from "../../support/balancer.ts";
import type { ClusterNode } from "./nodes.ts";

const EVERY_MS = 200;
const ANSWER_MS = 1_000;
/** After so many checks without an answer connections to a node are cut. */
const MISSES = 2;

/** What is known of a node. */
type State = "ready" | "unready" | "gone";

/** Checks nodes from time to time. */
export class Health {
  readonly #nodes: readonly ClusterNode[];
  readonly #balancer: Balancer;
  readonly #states = new Map<ClusterNode, State>();
  readonly #misses = new Map<ClusterNode, number>();
  #timers: ReturnType<typeof setInterval>[] = [];

  constructor(nodes: readonly ClusterNode[], balancer: Balancer) {
    this.#nodes = nodes;
    this.#balancer = balancer;
  }

  /** Whether all nodes are ready. */
  get isReady(): boolean {
    return this.#nodes.every((node) => this.#states.get(node) === "ready");
  }

  /** What each node is, for people. */
  get report(): string[] {
    return this.#nodes.map((node) =>
      `node ${node.index} is ${this.#states.get(node)}: ` +
      node.lines.slice(-4).join(" | ")
    );
  }

  start(): void {
    this.#timers = this.#nodes.map((node) =>
      setInterval(async () => {
        const isReady = await node.readiness(ANSWER_MS);
        const misses = isReady === null ? (this.#misses.get(node) ?? 0) + 1 : 0;
        this.#misses.set(node, misses);
        if (misses > 0 && misses < MISSES) return;
        if (misses === MISSES) this.#balancer.cut("close", node.port);
        this.#states.set(
          node,
          isReady ? "ready" : isReady === false ? "unready" : "gone",
        );
        this.#choose();
      }, EVERY_MS)
    );
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer);
  }

  #choose(): void {
    const by = (state: State) =>
      this.#nodes.filter((node) => this.#states.get(node) === state);
    const ready = by("ready");
    const chosen = ready.length > 0 ? ready : by("unready");
    for (const node of this.#nodes) {
      if (chosen.includes(node)) this.#balancer.add(node.port);
      else this.#balancer.remove(node.port);
    }
  }
}
