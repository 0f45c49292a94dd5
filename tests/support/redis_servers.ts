/**
 * Servers without sockets that share one Redis, each with a way to it that can fail.
 *
 * @module
 */
import type { Backplane, History } from "@glitz/pusher";
import { redis, type RedisOptions } from "@glitz/pusher/redis";
import { SYSTEM_CLOCK } from "../../core/time.ts";
import { Bell, FakeServer } from "./contract/server.ts";
import { DEADLINE_MS } from "./deadline.ts";
import { RedisServer } from "./redis.ts";
import { Strait } from "./strait.ts";

const HISTORY: History = {
  events: 5_000,
  ageMs: 600_000,
  bytes: 16_777_216,
  sessions: 1_000,
};

/** A server, the way from it to Redis, and what it reported. */
export class StraitServer extends FakeServer {
  readonly strait: Strait;
  /** What it reported. */
  readonly failures: unknown[] = [];
  /** Why Redis was away last. */
  cause: unknown;

  constructor(backplane: Backplane, strait: Strait, history: History) {
    super(backplane, { history, clock: SYSTEM_CLOCK }, new Bell());
    this.strait = strait;
  }

  override health(isUp: boolean, cause?: unknown): void {
    this.cause = cause ?? this.cause;
    super.health(isUp);
  }

  override failed(error: unknown): void {
    this.failures.push(error);
  }

  /** Dies without a word. */
  async die(): Promise<void> {
    this.strait.shut();
    await this.backplane.close();
  }
}

/** A Redis with servers; disposal ends all of them. */
export class RedisServers implements AsyncDisposable {
  readonly redis: RedisServer;
  readonly #servers: StraitServer[] = [];

  private constructor(server: RedisServer) {
    this.redis = server;
  }

  static async start(): Promise<RedisServers> {
    return new RedisServers(await RedisServer.start());
  }

  /** Starts one more server. */
  async server(
    options: RedisOptions & { history?: Partial<History> } = {},
  ): Promise<StraitServer> {
    const { history, ...own } = options;
    const strait = new Strait(this.redis.port);
    const backplane = redis(`redis://127.0.0.1:${strait.port}`, own);
    const bounds = { ...HISTORY, ...history };
    const server = new StraitServer(backplane, strait, bounds);
    this.#servers.push(server);
    await backplane.start(server);
    return server;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { backplane, strait } of this.#servers) {
      await backplane.close();
      await strait[Symbol.asyncDispose]();
    }
    await this.redis[Symbol.asyncDispose]();
  }
}

/** Resolves when a condition holds; what is looked at has no events. */
export async function until(
  what: string,
  holds: () => Promise<boolean> | boolean,
  deadlineMs = 2 * DEADLINE_MS,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  while (!await holds()) {
    if (performance.now() > end) {
      throw new Error(`Cannot wait longer: ${what} has not happened`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
