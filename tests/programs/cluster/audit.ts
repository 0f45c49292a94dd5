/**
 * What has to be so when nothing happens: what each node says over the HTTP API, what
 * each client sees, what the webhooks have said, and what Redis keeps.
 *
 * @module
 */
import type { RedisServer } from "../../support/redis.ts";
import { signedRequest } from "../../support/server.ts";
import type { ClusterNode } from "./nodes.ts";
import type { Stage } from "./stage.ts";

/** How long a node may take to answer. */
const ANSWER_MS = 10_000;

/** What has to be so. */
export interface Model {
  /** Subscriptions of each channel that somebody is on. */
  readonly subscriptions: ReadonlyMap<string, number>;
  /** Who is on each presence channel. */
  readonly members: ReadonlyMap<string, ReadonlySet<string>>;
}

/** What differs from the model, in sentences; nothing if all is well. */
export async function differences(
  model: Model,
  { nodes, probes, tabs, receiver }: Stage,
): Promise<string[]> {
  const ofNodes = await Promise.all(
    nodes.map((node) => differencesAt(node, model)),
  );
  const ofRosters = [...model.members].flatMap(([channel, users]) => {
    const expected = [...users].sort().join();
    return [
      ...probes.map((probe) =>
        [`${probe.name} [${probe.trail}]`, probe.roster(channel)] as const
      ),
      ...tabs.open.map((tab) =>
        [
          `${tab.name} [${tabs.trail(tab.name)}]`,
          tab.members(channel),
        ] as const
      ),
    ].flatMap(([name, seen]) =>
      seen.join() === expected
        ? []
        : [`${name} sees [${seen}] on ${channel}, not [${expected}]`]
    );
  });
  return [
    ...ofNodes.flat(),
    ...ofRosters,
    ...receiver.differences(model.members, new Set(model.subscriptions.keys())),
  ];
}

async function differencesAt(
  node: ClusterNode,
  { subscriptions, members }: Model,
): Promise<string[]> {
  const differences: string[] = [];
  const check = (what: string, seen: unknown, expected: unknown) => {
    const [a, b] = [JSON.stringify(seen), JSON.stringify(expected)];
    if (a !== b) {
      differences.push(`node ${node.index} says ${what} ${a}, not ${b}`);
    }
  };
  try {
    const { channels } = await ask(node, "/channels");
    check(
      "channels",
      Object.keys(channels).sort(),
      [...subscriptions.keys()].sort(),
    );
    const counts = await ask(node, "/channels", {
      filter_by_prefix: "presence-",
      info: "user_count",
    });
    for (const [channel, users] of members) {
      check(
        `user_count of ${channel}`,
        counts.channels[channel]?.user_count ?? 0,
        users.size,
      );
      const answer = await ask(node, `/channels/${channel}/users`);
      check(
        `users of ${channel}`,
        answer.users.map(({ id }: { id: string }) => id).sort(),
        [...users].sort(),
      );
    }
    for (const [channel, count] of subscriptions) {
      const answer = await ask(node, `/channels/${channel}`, {
        info: "subscription_count",
      });
      check(
        `subscription_count of ${channel}`,
        answer.subscription_count,
        count,
      );
    }
  } catch (error) {
    differences.push(`node ${node.index} cannot be asked: ${error}`);
  }
  return differences;
}

async function ask(
  { origin }: ClusterNode,
  path: string,
  query: Record<string, string> = {},
  // deno-lint-ignore no-explicit-any -- what the API says
): Promise<any> {
  const response = await fetch(signedRequest(origin, "GET", path, { query }), {
    signal: AbortSignal.timeout(ANSWER_MS),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.status} ${text}`);
  return JSON.parse(text);
}

/** Keys that may stay when nobody is there and the history is over; see ext/redis.ts. */
const BOOKKEEPING =
  /^\{[^}]+\}:(meta|nodes|dead|gone|w|y|r:[0-9a-f]+|n:[^:]+)$/;

/**
 * What Redis keeps that nobody needs any more, or for ever.
 *
 * @param isEmpty Whether nobody is there, and the history is over.
 */
export async function surplus(
  redis: RedisServer,
  prefix: string,
  isEmpty: boolean,
): Promise<string[]> {
  const script = "local found = {} " +
    "for _, k in ipairs(redis.call('KEYS', '*')) do " +
    "found[#found + 1] = { k, redis.call('PTTL', k) } end return found";
  const keys = await redis.command("EVAL", script, 0) as [string, number][];
  return keys.flatMap(([key, ttl]) => {
    if (!key.startsWith(`{${prefix}:`)) return [`${key} has no prefix`];
    if (ttl === -1) return [`${key} never expires`];
    return isEmpty && !BOOKKEEPING.test(key) ? [`${key} is still there`] : [];
  });
}
