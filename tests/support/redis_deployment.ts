/**
 * Several servers on one real Redis, whose failures the test causes.
 *
 * @module
 */
import type { PusherOptions } from "@glitz/pusher";
import { redis, type RedisOptions } from "@glitz/pusher/redis";
import { assertEquals } from "@std/assert";
import { DEADLINE_MS } from "./deadline.ts";
import { Gate } from "./gate.ts";
import { RedisServer } from "./redis.ts";
import {
  cleanUp,
  type Client,
  Journal,
  serve,
  type TestServer,
} from "./server.ts";

/** One server, and its own way to Redis. */
export interface Node {
  readonly server: TestServer;
  readonly gate: Gate;
  /** What its own hooks have said. */
  readonly journal: Journal;
}

/** Servers that share a Redis, each behind a gate. */
export class RedisDeployment implements AsyncDisposable {
  readonly redis: RedisServer;
  readonly nodes: Node[] = [];

  private constructor(server: RedisServer) {
    this.redis = server;
  }

  /** Starts Redis, and so many servers. */
  static async start(
    count: number,
    options: PusherOptions = {},
    redisOptions: RedisOptions = {},
    serverOptions: Parameters<typeof RedisServer.start>[0] = {},
  ): Promise<RedisDeployment> {
    const made = new RedisDeployment(await RedisServer.start(serverOptions));
    for (let i = 0; i < count; i++) await made.add(options, redisOptions);
    return made;
  }

  /** Starts one more server. */
  async add(
    options: PusherOptions = {},
    redisOptions: RedisOptions = {},
  ): Promise<Node> {
    const gate = new Gate(this.redis.port);
    const url = new URL(this.redis.url);
    url.port = String(gate.port);
    const backplane = redis(url, redisOptions);
    // Not each change that a failure causes ends before the test does.
    const journal = new Journal({ isShared: true });
    const given = { backplane, clientEvents: true, ...options };
    const server = serve(given, { journal });
    const node = { server, gate, journal };
    this.nodes.push(node);
    await server.pusher.channels();
    return node;
  }

  /** Waits until every server has said that Redis is away, or back. */
  async changed(isUp: boolean, nodes = this.nodes): Promise<void> {
    for (const { journal } of nodes) {
      for (;;) {
        const { up } = await journal.next("backplane");
        if (up === isUp) break;
      }
    }
  }

  /** Takes the errors of all servers: none but that Redis was away so many times. */
  expectErrors(times: number, nodes = this.nodes): void {
    for (const { journal } of nodes) {
      const errors = journal.drain("error").map(({ during, error }) =>
        during === "reaching the backplane" ? during : `${during}: ${error}`
      );
      assertEquals(errors, Array(times).fill("reaching the backplane"));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(async () => {
      for (const { server } of this.nodes) {
        await server[Symbol.asyncDispose]();
      }
      for (const { gate } of this.nodes) await gate[Symbol.asyncDispose]();
      await this.redis[Symbol.asyncDispose]();
    });
  }
}

/** Asks until the answer is as expected, where nothing announces that. */
export async function eventually<T>(
  ask: () => Promise<T>,
  expected: T,
): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  for (;;) {
    let last: unknown;
    try {
      last = await ask();
    } catch (error) {
      last = error;
    }
    if (JSON.stringify(last) === JSON.stringify(expected)) return;
    if (performance.now() > deadline) {
      const texts = [expected, last].map((one) => Deno.inspect(one));
      throw new Error(`Cannot wait longer for ${texts.join(": it is ")}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Takes frames of a client up to one that fits; returns all of them. */
export async function framesUpTo(
  client: Client,
  fits: (frame: Awaited<ReturnType<Client["next"]>>) => boolean,
): Promise<Awaited<ReturnType<Client["next"]>>[]> {
  const frames: Awaited<ReturnType<Client["next"]>>[] = [];
  for (;;) {
    const frame = await client.next();
    frames.push(frame);
    if (fits(frame)) return frames;
  }
}
