/**
 * A server with webhooks in one process. Clients are in memory, so that what they do
 * has happened when the call returns.
 *
 * @module
 */
import { Pusher, type PusherOptions, type Transport } from "@glitz/pusher";
import {
  WebhookError,
  type WebhookFailure,
  type WebhookName,
  type WebhookOptions,
  type Webhooks,
  webhooks,
} from "@glitz/pusher/webhooks";
import { assert, assertFalse } from "@std/assert";
import type { FakeTime } from "@std/testing/time";
import { clockOption } from "./clock.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { Queue } from "./queue.ts";
import { APP } from "./receiver.ts";

// Turns of the event loop are real where a test fakes time.
const { setTimeout: startTimer } = globalThis;

/** Lets everything run that is due in this turn of the event loop: hooks, say. */
export function turn(): Promise<void> {
  return new Promise((next) => startTimer(next, 0));
}

/** A client in memory. */
export class Client {
  readonly frames: { event: string; channel?: string; data?: string }[] = [];
  readonly socketId: string;
  readonly #pusher: Pusher;
  readonly #peer: ReturnType<Pusher["open"]>;

  constructor(pusher: Pusher, key = APP.key) {
    const transport: Transport = {
      bufferedAmount: 0,
      send: (frame) => void this.frames.push(JSON.parse(frame)),
      close: () => queueMicrotask(() => this.close()),
    };
    this.#pusher = pusher;
    const request = new Request(`http://localhost/app/${key}?protocol=7`);
    this.#peer = pusher.open(transport, key, request);
    this.socketId = JSON.parse(this.frames[0]?.data ?? "{}").socket_id;
  }

  send(event: string, data: unknown, channel?: string): void {
    this.#peer.receive(JSON.stringify({ event, channel, data }));
  }

  join(channel: string, user_id?: string | number): this {
    const member = user_id === undefined ? undefined : { user_id };
    const auth = /^(private|presence)-/.test(channel)
      ? this.#pusher.authorizeChannel(this.socketId, channel, member)
      : {};
    this.send("pusher:subscribe", { channel, ...auth });
    const succeeded = this.frames.some((frame) =>
      frame.event === "pusher_internal:subscription_succeeded" &&
      frame.channel === channel
    );
    assert(succeeded, JSON.stringify(this.frames));
    return this;
  }

  leave(channel: string): this {
    this.send("pusher:unsubscribe", { channel });
    return this;
  }

  close(): void {
    this.#peer.closed(1000);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** What {@linkcode setUp} takes besides what webhooks take. */
interface SetUp extends Partial<WebhookOptions> {
  pusher?: PusherOptions;
  /** Filters of the one endpoint. */
  events?: readonly WebhookName[];
  channelPrefix?: string;
  headers?: HeadersInit;
}

/** A server with webhooks for a receiver; what goes wrong is in `errors`. */
export function setUp(url: string, { pusher: own, ...rest }: SetUp = {}) {
  const { events, channelPrefix, headers, ...options } = rest;
  const pusher = new Pusher({
    ...APP,
    ...clockOption(),
    clientEvents: true,
    ...own,
  });
  const errors = new Queue<WebhookError>();
  const hooks = webhooks(pusher, {
    key: APP.key,
    secret: APP.secret,
    endpoints: [{ url, events, channelPrefix, headers }],
    onError: errors.push,
    // One by one, so that each event can be awaited.
    batch: false,
    ...options,
  });
  return {
    pusher,
    hooks,
    errors,
    async [Symbol.asyncDispose]() {
      await within(DEADLINE_MS, "end of the server", pusher.close());
      await within(DEADLINE_MS, "end of webhooks", hooks.close());
    },
  };
}

/**
 * Moves time on, when all is delivered that can be: what is under way would be
 * taken for late.
 */
export async function pass(
  { hooks }: ReturnType<typeof setUp>,
  time: FakeTime,
  ms: number,
): Promise<void> {
  do await turn(); while (hooks.status.some(({ queued }) => queued > 0));
  time.tick(ms);
}

/** Waits until so many events are left in the queues. */
export async function untilQueued(
  hooks: Webhooks,
  count: number,
): Promise<void> {
  const left = () => hooks.status.reduce((sum, { queued }) => sum + queued, 0);
  for (let turns = 0; left() !== count; turns++) {
    assert(turns < DEADLINE_MS, `Queued are ${left()}, not ${count}`);
    await turn();
  }
}

export const OCCUPANCY = ["channel_occupied", "channel_vacated"] as const;

/** Takes the next error and says what it is in short. */
export async function failed(
  errors: Queue<WebhookError>,
): Promise<WebhookFailure> {
  const error = await errors.next("error");
  assert(error instanceof WebhookError);
  assertFalse(error.message.includes(APP.secret));
  return error.failure;
}
