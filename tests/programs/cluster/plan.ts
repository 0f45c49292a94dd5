/**
 * What happens to a cluster, and when: all of it is decided by a seed before it
 * begins.
 *
 * @module
 */
import { Random } from "../../support/random.ts";

/** What can happen to nodes, to Redis, and to the ways between them. */
export const BLOWS = [
  "kill",
  "freeze",
  "doze",
  "sever",
  "mute",
  "drop",
  "redis-stop",
  "redis-kill",
  "redis-pause",
  "redis-doze",
  "redis-clients",
  "redis-empty",
  "flush",
  "rolling",
] as const;

/**
 * - `kill`: SIGKILL of a node, which is started again later.
 * - `freeze`, `doze`: SIGSTOP of a node for longer than its lease, or for less.
 * - `sever`, `mute`: the way of a node to Redis is reset, or silent, for a time.
 * - `drop`: the balancer cuts all connections to a node.
 * - `redis-stop`, `redis-kill`: Redis ends, by SIGTERM or SIGKILL, and comes back
 *   later with its data.
 * - `redis-pause`, `redis-doze`: SIGSTOP of Redis for longer than the lease, or less.
 * - `redis-clients`: Redis closes all connections of clients.
 * - `redis-empty`: Redis comes back without its data.
 * - `flush`: FLUSHALL.
 * - `rolling`: SIGTERM of each node, one after the other, and its start.
 */
export type BlowKind = typeof BLOWS[number];

/** One thing that happens. */
export interface Blow {
  readonly kind: BlowKind;
  /** Which node, where it is one. */
  readonly node: number;
  /** How long it lasts, where it lasts. */
  readonly forMs: number;
  /** How long nothing else happens afterwards. */
  readonly restMs: number;
}

/** Several things that happen one after the other, and an audit after them. */
export interface Act {
  readonly blows: readonly Blow[];
  /** How many connections of clients are treated badly meanwhile, see `loss.ts`. */
  readonly gusts: number;
  readonly seed: number;
}

/** What {@linkcode planActs} takes. */
export interface PlanOptions {
  readonly seed: number;
  readonly nodes: number;
  readonly leaseMs: number;
  /** How often something happens at least. */
  readonly blows: number;
  /** Kinds to choose from. @default {BLOWS} */
  readonly kinds?: readonly BlowKind[] | undefined;
  /** At most how many come between two audits, and at least half as many. @default {3} */
  readonly blowsPerAct?: number | undefined;
}

/** Blows after which messages may be lost that clients are told of. */
export function forgets({ kind }: Blow): boolean {
  return kind === "redis-empty" || kind === "flush";
}

/** Blows that take Redis away from a node. */
export function isolates({ kind }: Blow): boolean {
  return kind.startsWith("redis-") || kind === "sever" || kind === "mute";
}

/** Plans acts: each kind comes once in each round of all kinds. */
export function planActs(options: PlanOptions): Act[] {
  const { seed, nodes, leaseMs, blows, kinds = BLOWS } = options;
  const random = new Random(seed, 3);
  const acts: Act[] = [];
  let left: BlowKind[] = [];
  for (let count = 0; count < blows;) {
    const most = options.blowsPerAct ?? 3;
    const own: Blow[] = [];
    const least = Math.ceil(most / 2);
    const some = least + random.below(most - least + 1);
    const number = Math.min(some, blows - count);
    for (let i = 0; i < number; i++) {
      if (left.length === 0) left = shuffled(kinds, random);
      const kind = left.pop()!; // Filled just before; no list of kinds is empty.
      own.push({
        kind,
        node: random.below(nodes),
        forMs: Math.round(lasts(kind, random.next(), leaseMs)),
        restMs: Math.round(100 + leaseMs * random.next() / 2),
      });
      count++;
    }
    acts.push({
      blows: own,
      gusts: 2 + random.below(4) * own.length,
      seed: random.below(2 ** 31),
    });
  }
  return acts;
}

function lasts(kind: BlowKind, share: number, leaseMs: number): number {
  switch (kind) {
    case "freeze":
    case "redis-pause":
      return leaseMs * (1.5 + 1.5 * share);
    case "sever":
    case "mute":
      return leaseMs * (0.2 + 1.8 * share);
    case "kill":
      return leaseMs * (0.1 + 1.9 * share);
    case "doze":
    case "redis-doze":
      return leaseMs * (0.1 + 0.4 * share);
    case "redis-stop":
    case "redis-kill":
    case "redis-empty":
      return 100 + leaseMs * 1.5 * share ** 2;
    default:
      return 0;
  }
}

function shuffled<T>(values: readonly T[], random: Random): T[] {
  return values
    .map((value) => ({ value, key: random.next() }))
    .sort((a, b) => a.key - b.key)
    .map(({ value }) => value);
}

/** An act in words. */
export function describe({ blows, gusts }: Act): string {
  const words = blows.map(({ kind, node, forMs }) =>
    [
      kind,
      /^redis|flush|rolling/.test(kind) ? "" : `node ${node}`,
      forMs > 0 ? `for ${forMs} ms` : "",
    ].filter(Boolean).join(" ")
  );
  return `${words.join(", ")}; ${gusts} gusts`;
}
