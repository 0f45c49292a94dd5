/**
 * Several servers that share the state of one backplane, each on a port of its
 * own.
 *
 * @module
 */
import type { PusherOptions } from "@glitz/pusher";
import { type BackplaneKind, BACKPLANES } from "./backplanes.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { type FaultyBackplane, FaultyMemory } from "./faulty_backplane.ts";
import {
  cleanUp,
  type Client,
  Journal,
  serve,
  type TestServer,
} from "./server.ts";

/** Servers that share memory, behind a backplane of one kind. */
export class Cluster implements AsyncDisposable {
  /** The hooks of all servers. */
  readonly journal: Journal = new Journal({ isShared: true });
  readonly #kind: BackplaneKind;
  readonly #memory = new FaultyMemory();
  /** Servers that live, with what their backplanes are made of. */
  readonly #servers = new Map<TestServer, FaultyBackplane>();

  constructor(kind: BackplaneKind) {
    this.#kind = kind;
  }

  /** Starts one more server. */
  serve(options: PusherOptions = {}): TestServer {
    const memory = this.#memory.connect();
    // Every kind takes the memory that it is given.
    const backplane = this.#kind.create(memory)!;
    const { journal } = this;
    const server = serve({ backplane, ...options }, { journal });
    this.#servers.set(server, memory);
    return server;
  }

  /** Starts two servers that are alike. */
  two(options?: PusherOptions): [TestServer, TestServer] {
    return [this.serve(options), this.serve(options)];
  }

  /** The memory of a server, which can tell it of losses. */
  memoryOf(server: TestServer): FaultyBackplane {
    const memory = this.#servers.get(server);
    if (memory === undefined) throw new Error("Cannot tell: it is dead");
    return memory;
  }

  /** Has everything forgotten that the servers share. */
  flush(): void {
    this.#memory.flush();
  }

  /** Waits until every server has delivered what its backplane has accepted. */
  async drained(): Promise<void> {
    for (const server of this.#servers.keys()) await server.drained();
  }

  /** Has a server die: its sockets are cut, and the others find out. */
  async kill(server: TestServer): Promise<void> {
    this.memoryOf(server).die();
    this.#servers.delete(server);
    await server[Symbol.asyncDispose]();
  }

  /** Asks until the answer is as expected, where nothing announces that. */
  async eventually<T>(ask: () => Promise<T>, expected: T): Promise<void> {
    const text = JSON.stringify(expected);
    const settle = async () => {
      while (JSON.stringify(await ask()) !== text) {
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    };
    await within(DEADLINE_MS, text, settle());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(async () => {
      for (const server of this.#servers.keys()) {
        await server[Symbol.asyncDispose]();
      }
      await this.journal.settled();
    });
  }
}

/** Registers a test against servers behind each kind of backplane. */
export function eachCluster(
  title: string,
  run: (cluster: Cluster) => Promise<void>,
): void {
  for (const kind of BACKPLANES) {
    Deno.test(title + kind.suffix, async () => {
      await using cluster = new Cluster(kind);
      await run(cluster);
    });
  }
}

/** Takes all frames of clients up to now, one list for each. */
export async function framesOf(...clients: Client[]): Promise<string[][]> {
  const lists: string[][] = [];
  for (const client of clients) {
    const frames = await client.framesUntilPong();
    lists.push(frames.map(({ event }) => event));
  }
  return lists;
}
