/**
 * Servers without sockets on a Redis of their own, and what Redis says of the work
 * that they make.
 *
 * @module
 */
import type { History } from "@glitz/pusher";
import { redis, type RedisOptions } from "@glitz/pusher/redis";
import { SYSTEM_CLOCK } from "../../core/time.ts";
import { Keys } from "../../ext/redis/keys.ts";
import { Bell, FakeServer } from "./contract/server.ts";
import { RedisServer } from "./redis.ts";

/** No lease is renewed while a test counts. */
const LEASE_MS = 3_600_000;

const HISTORY: History = {
  events: 5_000,
  ageMs: 300_000,
  bytes: 67_108_864,
  sessions: 10_000,
};

/** What a connection asks for by itself, and what these helpers ask for. */
const ASIDE = /^(ping|config|info|hello|command|auth|client|acl|pubsub)\b/;

/** How a server of a {@linkcode RedisStage} differs. */
export interface StageInit extends RedisOptions {
  readonly history?: Partial<History> | null;
  /** @default {the user that the server was started with} */
  readonly url?: string;
}

/** Servers that share a Redis. */
export class RedisStage implements AsyncDisposable {
  readonly redis: RedisServer;
  readonly bell: Bell = new Bell();
  readonly #servers = new Set<FakeServer>();

  private constructor(server: RedisServer) {
    this.redis = server;
  }

  static async open(...args: string[]): Promise<RedisStage> {
    return new RedisStage(await RedisServer.start({ args }));
  }

  /** Starts one more server. */
  async server(
    { history = {}, url = this.redis.url, ...options }: StageInit = {},
  ): Promise<FakeServer> {
    const backplane = redis(url, { leaseMs: LEASE_MS, ...options });
    const bounds = history && { ...HISTORY, ...history };
    const clock = SYSTEM_CLOCK;
    const server = new FakeServer(
      ...[backplane, { history: bounds, clock }, this.bell] as const,
    );
    await backplane.start(server);
    this.#servers.add(server);
    return server;
  }

  /** Closes a server in good order. */
  async close(server: FakeServer): Promise<void> {
    this.#servers.delete(server);
    await server.backplane.close();
  }

  /** The commands that Redis does while something runs, scripts' own included. */
  async commands(run: () => Promise<unknown>): Promise<Record<string, number>> {
    const fence = await this.#commands(async () => {});
    const all = await this.#commands(run);
    const counts: Record<string, number> = {};
    for (const [name, calls] of all) {
      const count = calls - (fence.get(name) ?? 0);
      if (count !== 0) counts[name] = count;
    }
    return counts;
  }

  async #commands(run: () => Promise<unknown>): Promise<Map<string, number>> {
    await this.#fence();
    await this.redis.command("CONFIG", "RESETSTAT");
    await run();
    await this.#fence();
    const text = String(await this.redis.command("INFO", "commandstats"));
    const counts = new Map<string, number>();
    for (
      const [, name = "", calls] of text.matchAll(
        /^cmdstat_(\S+?):calls=(\d+)/gm,
      )
    ) {
      if (!ASIDE.test(name)) counts.set(name, Number(calls));
    }
    return counts;
  }

  /** Waits until Redis has done what the servers have sent, and what follows that. */
  async #fence(): Promise<void> {
    for (const { backplane } of this.#servers) {
      for (let i = 0; i < 3; i++) await backplane.occupancy("fence", "fence");
    }
  }

  /** All keys, with how long each is kept, in milliseconds; -1 for ever. */
  async keys(): Promise<Map<string, number>> {
    const [, ...answer] = await this.redis.command(
      ...["EVAL", KEYS, 0] as const,
    ) as [number, ...(string | number)[]];
    const found = new Map<string, number>();
    for (let i = 0; i < answer.length; i += 2) {
      found.set(String(answer[i]), Number(answer[i + 1]));
    }
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server.backplane.close();
    await this.redis[Symbol.asyncDispose]();
  }
}

/** Reads all keys in one step, so that none comes or goes meanwhile. */
const KEYS = `
local found = { 0 }
for _, key in ipairs(redis.call('KEYS', '*')) do
  found[#found + 1] = key
  found[#found + 1] = redis.call('PTTL', key)
end
return found`;

/** Ids of sessions that are in one bucket. */
export function sessionsOf(bucket: number, count: number): string[] {
  const keys = new Keys("pusher");
  const ids: string[] = [];
  for (let i = 0; ids.length < count; i++) {
    const id = `session-${String(i).padStart(10, "0")}`;
    if (keys.session("app", id).bucket === bucket) ids.push(id);
  }
  return ids;
}

/** The sum of counts. */
export function sumOf(counts: Record<string, number>): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0);
}
