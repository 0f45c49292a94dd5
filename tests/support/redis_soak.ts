/**
 * Channels of all kinds that come and go, by the thousand, and what they leave behind
 * in Redis.
 *
 * @module
 */
import { assert } from "@std/assert";
import type { FakeServer } from "./contract/server.ts";
import type { RedisStage } from "./redis_stage.ts";

/** Channels that are there at a time. */
const BATCH = 250;

/** What a {@linkcode soak} has seen. */
export interface Soaked {
  /** Kinds of keys that there were, by the letter or word after the tag. */
  readonly kinds: ReadonlySet<string>;
  /** The most keys at a time. */
  readonly most: number;
}

/**
 * Has channels come and go on several servers, and looks at all keys meanwhile: each
 * must have the prefix and an expiry.
 */
export async function soak(
  stage: RedisStage,
  servers: readonly FakeServer[],
  { channels, prefix }: { channels: number; prefix: string },
): Promise<Soaked> {
  const kinds = new Set<string>();
  let most = 0;
  const look = async () => {
    const keys = await stage.keys();
    most = Math.max(most, keys.size);
    for (const [key, ttlMs] of keys) {
      const kind = kindOf(key, prefix);
      assert(kind !== undefined, `${key} has no prefix`);
      assert(ttlMs >= 0, `${key} has no expiry`);
      assert(ttlMs <= 27 * 3_600_000, `${key} is kept for ${ttlMs} ms`);
      kinds.add(kind);
    }
  };
  for (let from = 0; from < channels; from += BATCH) {
    const count = Math.min(BATCH, channels - from);
    const numbers = Array.from({ length: count }, (_, i) => from + i);
    const pick = (n: number) => servers[n % servers.length]!;
    await Promise.all(numbers.map((n) => come(pick(n), pick(n + 1), n)));
    await look();
    await Promise.all(numbers.map((n) => go(pick(n), pick(n + 1), n)));
  }
  await look();
  return { kinds, most };
}

/** The kind of a key: what follows the tag of its bucket. */
export function kindOf(key: string, prefix: string): string | undefined {
  const start = `{${prefix}:`;
  if (!key.startsWith(start)) return undefined;
  return /^\d{1,2}}:(\w+)/.exec(key.slice(start.length))?.[1];
}

/** What each channel is like, by its number. */
const SHAPES = [
  { name: "public", init: {} },
  { name: "recovering", init: { recovers: true } },
  { name: "presence-room", init: { user: "ann" } },
  { name: "presence-recovering", init: { user: "ann", recovers: true } },
  { name: "cache", init: {} },
] as const;

function shapeOf(n: number): { channel: string; init: object } {
  const { name, init } = SHAPES[n % SHAPES.length]!;
  return { channel: `${name}-${n}`, init };
}

async function come(
  one: FakeServer,
  two: FakeServer,
  n: number,
): Promise<void> {
  const { channel, init } = shapeOf(n);
  await one.enter(channel, init);
  if (n % 3 === 0) await two.enter(channel, init);
  await one.publish(channel, "x", channel.startsWith("cache") ? CACHED : {});
  await one.publish(channel, "y", {
    ...{ fromClient: true, exceptSocketId: "1.1" },
  });
  const miss = { kind: "cache_miss", app: "app", channel } as const;
  if (channel.startsWith("cache")) await one.backplane.journal?.append(miss);
  if (n % 4 === 0) {
    const { sessions } = one.backplane;
    await sessions.take("app", sessionOf(n));
    await sessions.keep("app", sessionOf(n), STATE, false);
  }
}

async function go(one: FakeServer, two: FakeServer, n: number): Promise<void> {
  const { channel, init } = shapeOf(n);
  await one.leave(channel, init);
  if (n % 3 === 0) await two.leave(channel, init);
  const { sessions } = one.backplane;
  if (n % 8 === 0) await sessions.keep("app", sessionOf(n), STATE, true);
  else if (n % 4 === 0) await sessions.forget("app", sessionOf(n));
}

const CACHED = { cacheMs: 1_000 };

const STATE = {
  formerIds: ["1.1"],
  positions: new Map([["news", { epoch: "e", offset: 1 }]]),
};

function sessionOf(n: number): string {
  return `session-${String(n).padStart(16, "0")}`;
}
