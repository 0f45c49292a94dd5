/**
 * What the tests of the contract have: a deployment of the backplane under test,
 * and servers that share it.
 *
 * @module
 */
import type {
  Awaitable,
  Backplane,
  Clock,
  History,
  Position,
} from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertGreater,
  assertLessOrEqual,
} from "@std/assert";
import { turn } from "../clock.ts";
import { DEADLINE_MS } from "../deadline.ts";
import { Bell, type Delivered, FakeServer, SOME_APP } from "./server.ts";

/**
 * What a deployment can have happen to it:
 * - `death`: a server dies without a word;
 * - `flush`: all that the servers share is forgotten;
 * - `deafness`: for a time nothing reaches a server.
 */
export type Fault = "death" | "flush" | "deafness";

/** A kind of backplane under test. */
export interface ContractKind {
  /** Begins the title of each test. */
  readonly title: string;
  /** Sets up what servers share; it has to be empty. */
  open(): Awaitable<Deployment>;
  /** Faults that the deployment can have. @default {[]} */
  readonly faults?: readonly Fault[];
  /**
   * Bounds of the history that the backplane leaves to others, such as the bytes
   * to the memory limit of a database. @default {[]}
   */
  readonly unbounded?: readonly (keyof History)[];
  /** Whether the backplane has an intercom. @default {true} */
  readonly hasIntercom?: boolean;
  /** Repeats the randomised test. */
  readonly seed?: number;
}

/** What servers share, and their way to it. */
export interface Deployment {
  /** What the servers go by. */
  readonly clock: Clock;
  /** Makes the backplane of one more server. */
  connect(): Backplane;
  /** Lets time pass as the backplane measures it. */
  pass(ms: number): Awaitable<void>;
  /** Has a server die without a word. The others see it after some time. */
  kill?(backplane: Backplane): Awaitable<void>;
  /** Has all that is shared forgotten, as by a flushed database. */
  flush?(): Awaitable<void>;
  /** Has nothing reach a server while `during` runs, and then things again. */
  deafen?(backplane: Backplane, during: () => Promise<void>): Promise<void>;
  /** Releases everything. The servers have been closed. */
  close?(): Awaitable<void>;
}

/** How long histories and sessions are kept where a test waits for their end. */
export const AGE_MS = 2_000;

const HISTORY: History = {
  events: 5_000,
  // Longer than any test takes, also in real time on a busy machine.
  ageMs: 600_000,
  bytes: 16_777_216,
  sessions: 1_000,
};

/** What a test has: servers that share the state of one deployment. */
export class Stage implements AsyncDisposable {
  readonly deployment: Deployment;
  readonly #bell = new Bell();
  readonly #servers = new Set<FakeServer>();
  #fences = 0;

  constructor(deployment: Deployment) {
    this.deployment = deployment;
  }

  /** Starts one more server. */
  async server(history: Partial<History> | null = {}): Promise<FakeServer> {
    const server = this.connect(history);
    await server.backplane.start(server);
    this.#servers.add(server);
    return server;
  }

  /** Makes one more server, whose backplane the test has to start and to close. */
  connect(history: Partial<History> | null = {}): FakeServer {
    const { clock } = this.deployment;
    const bounds = history && { ...HISTORY, ...history };
    const options = { history: bounds, clock };
    const backplane = this.deployment.connect();
    return new FakeServer(backplane, options, this.#bell);
  }

  /** Starts two servers. */
  async two(
    history?: Partial<History> | null,
  ): Promise<[FakeServer, FakeServer]> {
    return [await this.server(history), await this.server(history)];
  }

  /** Closes a server in good order. */
  async close(server: FakeServer): Promise<void> {
    this.#servers.delete(server);
    await server.backplane.close();
  }

  /** Has a server die without a word. */
  async kill(server: FakeServer): Promise<void> {
    this.#servers.delete(server);
    await this.deployment.kill?.(server.backplane);
  }

  /** Waits until a condition holds, which follows something that servers hear. */
  until(isTrue: () => boolean, what?: string): Promise<void> {
    return this.#bell.until(isTrue, what);
  }

  /** Asks until the answer is as expected, where nothing announces that. */
  async eventually<T>(ask: () => Awaitable<T>, expected: T): Promise<void> {
    const deadline = performance.now() + DEADLINE_MS;
    const text = JSON.stringify(expected);
    for (;;) {
      const answer = await ask();
      if (JSON.stringify(answer) === text) return;
      if (performance.now() > deadline) return assertEquals(answer, expected);
      await turn();
    }
  }

  /** Waits until servers have heard all messages of a channel so far. */
  async heardAll(channel: string, ...servers: FakeServer[]): Promise<void> {
    const [from] = servers;
    const fence = `fence ${++this.#fences}`;
    await from?.publish(channel, fence, { logged: false });
    await this.until(
      () =>
        servers.every((server) =>
          server.heard(channel).some(({ message }) => message.data === fence)
        ),
      fence,
    );
  }

  /** Waits until servers have been told all changes so far. */
  async toldAll(...servers: FakeServer[]): Promise<void> {
    for (const server of servers) {
      const fence = `fence-${++this.#fences}`;
      await server.enter(fence);
      await server.leave(fence);
      await this.until(() => server.told(fence).length === 2, fence);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#servers) await server.backplane.close();
    await this.deployment.close?.();
  }
}

/** The data of messages that were delivered, without those of fences. */
export function dataOf(delivered: readonly Delivered[]): string[] {
  return delivered.map(({ message }) => message.data ?? "")
    .filter((data) => !data.startsWith("fence"));
}

/** What a server has heard of a channel, as `event data`, without fences. */
export function textsOf(server: FakeServer, channel: string, after?: Position) {
  return server.texts(channel, after).filter((text) => !/ fence/.test(text));
}

/** All whole numbers between two, both included, as texts. */
export function numbers(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, i) => String(from + i));
}

/** Publishes several messages, each before the one before is answered. */
export async function publishAll(
  server: FakeServer,
  channel: string,
  data: readonly string[],
): Promise<void> {
  await Promise.all(data.map((one) => server.publish(channel, one)));
}

/** Registers one test. */
export type Register = (
  title: string,
  run: (stage: Stage) => Promise<void>,
) => void;

/** Checks that messages have ascending offsets, in one epoch. */
export function assertAscending(heard: readonly Delivered[]): void {
  const epochs = new Set(heard.map(({ position }) => position.epoch));
  assertLessOrEqual(epochs.size, 1, "There are several epochs");
  for (const [index, { position: { offset } }] of heard.entries()) {
    assert(Number.isSafeInteger(offset));
    const before = heard[index - 1]?.position.offset ?? -1;
    assertGreater(offset, before, "Offsets do not ascend");
  }
}

/** Members of a channel, in a fixed order. */
export async function membersOf(
  { backplane }: FakeServer,
  channel: string,
  app = SOME_APP,
): Promise<[string, string][]> {
  return [...await backplane.members(app, channel)].sort();
}

/** How many are on a channel. */
export async function countsOf(
  { backplane }: FakeServer,
  channel: string,
  app = SOME_APP,
): Promise<[subscriptions: number, users: number]> {
  const { subscriptions, users } = await backplane.occupancy(app, channel);
  return [subscriptions, users];
}
