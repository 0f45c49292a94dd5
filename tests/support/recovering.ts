/**
 * What the tests of recovery, history, replays and sessions have in common: kinds
 * of servers and clients, and events that are numbers, which show at once what is
 * missing, delivered twice or out of order.
 *
 * @module
 */
import type { PusherOptions } from "@glitz/pusher";
import { assertEquals } from "@std/assert";
import { type BackplaneKind, BACKPLANES, serveWith } from "./backplanes.ts";
import type { Client, ConnectInit, TestServer } from "./server.ts";
import type { Frame, Position } from "./wire.ts";

/** The query of a client that recovers. */
export const RECOVER = "?protocol=7&client=glitz&recover=1";

/** The query of a client that takes batches. */
export const BATCH = "?protocol=7&client=glitz&batch=1";

/** The query of a client that does both. */
export const BOTH = `${BATCH}&recover=1`;

/** For tests in which time is moved on: nobody is pinged for being silent. */
export const PATIENT = { pingAfterMs: 2_000_000_000 };

/** A kind of server, and of client that recovers. */
export interface Lane {
  /** Starts a server; `options` come on top of its own. */
  start(options?: PusherOptions): TestServer;
  /** Connects a client that has had these socket ids before. */
  connect(
    server: TestServer,
    init?: ConnectInit & { was?: string[] },
  ): Promise<Client>;
}

function lane(
  query: string,
  backplane: BackplaneKind = BACKPLANES[0]!, // The list is never empty.
): Lane {
  return {
    start: (options) => serveWith(backplane, options),
    connect: (server, { was = [], ...init } = {}) => {
      const former = was.length > 0 ? `&was=${was.join()}` : "";
      return server.connect({ query: query + former, ...init });
    },
  };
}

/** The plainest kind. */
export const PLAIN: Lane = lane(RECOVER);

const LANES: [suffix: string, lane: Lane][] = [
  ["", PLAIN],
  [", in batches", lane(BOTH)],
  ...BACKPLANES.slice(1).map((kind): [string, Lane] => [
    kind.suffix,
    lane(BOTH, kind),
  ]),
];

/** Registers a test for each kind of server and client. */
export function recoveryTest(
  title: string,
  run: (lane: Lane) => Promise<void>,
): void {
  for (const [suffix, lane] of LANES) {
    Deno.test(title + suffix, () => run(lane));
  }
}

/** All whole numbers between two, both included. */
export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

/** Publishes numbers, one event each, whose data may be made larger. */
export async function publish(
  { pusher }: Pick<TestServer, "pusher">,
  channel: string,
  from: number,
  to = from,
  bytes = 0,
): Promise<void> {
  await Promise.all(
    range(from, to).map((n) =>
      pusher.trigger(channel, "n", `${n} `.padEnd(bytes, "x"))
    ),
  );
}

/** The number that an event carries. */
export function numberOf({ data }: Frame): number {
  return parseInt(String(data));
}

/** Takes events, which have to carry these numbers in order. */
export async function take(
  client: Client,
  from: number,
  to = from,
): Promise<Frame[]> {
  const frames: Frame[] = [];
  for (const n of range(from, to)) {
    const frame = await client.next("n");
    assertEquals(numberOf(frame), n);
    frames.push(frame);
  }
  return frames;
}

/** Takes all events that the server has sent so far. */
export async function rest(client: Client): Promise<number[]> {
  const frames = (await client.framesUntilPong()).filter(isNoPing);
  for (const { event } of frames) assertEquals(event, "n");
  return frames.map(numberOf);
}

// The server pings a session while events are unacknowledged.
const isNoPing = ({ event }: Frame): boolean => event !== "pusher:ping";

/** Takes the names of all frames that the server has sent so far. */
export async function names(client: Client): Promise<string[]> {
  const frames = (await client.framesUntilPong()).filter(isNoPing);
  return frames.map(({ event }) => event);
}

/** Subscribes a recovering client to channels and disconnects it; its positions. */
export async function visit(
  { connect }: Lane,
  server: TestServer,
  ...channels: string[]
): Promise<Position[]> {
  await using client = await connect(server);
  for (const channel of channels) await client.enter(channel);
  return channels.map((channel) => client.positionOn(channel));
}

const FAILED = "pusher:recovery_failed";

/** Takes the event which says that messages cannot be recovered. */
export async function failure(client: Client, channel: string): Promise<void> {
  const data = JSON.stringify({ channel });
  const { position: _, ...frame } = await client.next(FAILED);
  assertEquals(frame, { event: FAILED, channel, data });
}

/** The last events of a channel, as a new subscriber gets them by `rewind`. */
export async function rewound(
  { connect }: Lane,
  server: TestServer,
  channel: string,
  rewind: unknown = 1_000,
): Promise<number[]> {
  await using client = await connect(server);
  const { recovered } = await client.enter(channel, { rewind });
  assertEquals(recovered, undefined);
  return await rest(client);
}

/** Subscribes again: returns what the client missed, or null for a failure. */
export async function missed(
  { connect }: Lane,
  server: TestServer,
  channel: string,
  recover: Position,
): Promise<number[] | null> {
  await using client = await connect(server);
  const { recovered } = await client.enter(channel, { recover });
  if (!recovered) await failure(client, channel);
  const numbers = await rest(client);
  if (recovered) return numbers;
  assertEquals(numbers, []);
  return null;
}
