/**
 * What the conformance items are written with: raw sockets that speak frame by
 * frame, the HTTP API, and expectations. It knows no server in particular.
 *
 * @module
 */
import { within } from "../../support/deadline.ts";
import {
  hold,
  NotHeld,
  Queue as SupportQueue,
  show,
} from "../../support/queue.ts";
import {
  type App as AnyApp,
  dataOf,
  type Frame,
  type Query,
  sign,
  type Signed,
  type SignInit,
  Socket as SupportSocket,
} from "../../support/wire.ts";

export { hold, NotHeld, show } from "../../support/queue.ts";
export {
  channelAuth,
  dataOf,
  type Frame,
  hmac,
  type Query,
  RawClient,
  type Signed,
  type SubscribeInit,
  userAuth,
} from "../../support/wire.ts";

/** For everything that is awaited: ample on a busy machine. */
export const DEADLINE_MS = 30_000;

/** Who an app is. */
export interface App extends Readonly<AnyApp> {
  readonly enabled?: boolean;
}

// ---- Expectations -----------------------------------------------------------

/** Expects a value equal to another, whatever the order of its keys. */
export function same(seen: unknown, expected: unknown, what: string): void {
  if (canonical(seen) === canonical(expected)) return;
  throw new NotHeld(`${what}: expected ${show(expected)}, saw ${show(seen)}`);
}

function canonical(value: unknown): string | undefined {
  return JSON.stringify(
    value,
    (_key, part) =>
      typeof part === "object" && part !== null && !Array.isArray(part)
        ? Object.fromEntries(Object.entries(part).sort())
        : part,
  );
}

/** Values that arrive one by one and are taken in order. */
export class Queue<T> extends SupportQueue<T> {
  constructor() {
    super(DEADLINE_MS);
  }
}

/** How often {@linkcode inTime} tries. */
const TRIES = 10;

/** Says from when to when the time counts, where it is not all of it. */
export interface Watch {
  begin(): void;
  end(): void;
}

/**
 * Runs something that shows nothing if it takes so long, as it may on a busy
 * machine. Then it is run again, whether it has failed or not.
 */
export async function inTime<T>(
  ms: number,
  run: (watch: Watch) => Promise<T>,
): Promise<T> {
  for (let tries = 1;; tries++) {
    let beganAt = performance.now();
    let endedAt = Infinity;
    const [result] = await Promise.allSettled([run({
      begin: () => beganAt = performance.now(),
      end: () => endedAt = performance.now(),
    })]);
    const took = Math.round(Math.min(endedAt, performance.now()) - beganAt);
    if (took < ms) {
      if (result.status === "fulfilled") return result.value;
      throw result.reason;
    }
    hold(tries < TRIES, `${TRIES} tries took over ${ms} ms, the last ${took}`);
  }
}

/** Waits; only for what the protocol measures in time. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// ---- HTTP API ---------------------------------------------------------------

/** A response, read. */
export interface Answer {
  readonly status: number;
  readonly text: string;
  /** The body, where it is JSON. */
  // deno-lint-ignore no-explicit-any -- every item knows what it asked for
  readonly body: any;
}

/** The HTTP API of an app. */
export class Api {
  readonly #origin: string;
  readonly app: App;

  constructor(origin: string, app: App) {
    this.#origin = origin;
    this.app = app;
  }

  /** Signs a request; its path, and the path to sign, follow `/apps/{id}`. */
  sign(
    method: string,
    path: string,
    { signedPath = path, ...init }: SignInit = {},
  ): Signed {
    const base = `/apps/${this.app.id}`;
    const signed = { ...init, signedPath: base + signedPath };
    return sign(this.app, method, base + path, signed);
  }

  /** Sends a signed request, with its query written as given. */
  async send(
    { method, path, params, body }: Signed,
    search = `${new URLSearchParams(params)}`,
  ): Promise<Answer> {
    const response = await within(
      DEADLINE_MS,
      `answer to ${method} ${path}`,
      fetch(`${this.#origin}${path}?${search}`, {
        method,
        headers: { "content-type": "application/json" },
        body: body.length === 0 ? null : body,
      }),
    );
    const text = await response.text();
    return { status: response.status, text, body: parseJson(text) };
  }

  get(path: string, query: Query = {}): Promise<Answer> {
    return this.send(this.sign("GET", path, { query }));
  }

  post(path: string, body: unknown): Promise<Answer> {
    return this.send(this.sign("POST", path, { body }));
  }

  /** Publishes one event, which has to be accepted. */
  async publish(
    channel: string | string[],
    name: string,
    data: string,
    more: Record<string, unknown> = {},
  ): Promise<Answer> {
    const channels = [channel].flat();
    const answer = await this.post("/events", {
      name,
      channels,
      data,
      ...more,
    });
    same(answer.status, 200, `publish answers ${answer.text.slice(0, 80)}`);
    return answer;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// ---- Sockets ----------------------------------------------------------------

/** All frames that came to any socket, and those of them without an event. */
export const traffic = { frames: 0, faults: [] as string[] };

/** A connection that speaks the protocol frame by frame. */
export class Socket extends SupportSocket {
  protected override readonly deadlineMs = DEADLINE_MS;

  protected override decode(text: unknown): Frame[] {
    traffic.frames++;
    const frame = parseJson(String(text)) as Frame | undefined;
    if (typeof frame?.event === "string") return [frame];
    traffic.faults.push(String(text));
    return [];
  }

  /**
   * Takes the next frame, which has to be the named event. A server may ping at
   * any time, so a ping is passed over by all that do not wait for it.
   */
  override async next(event?: string, ms?: number): Promise<Frame> {
    for (;;) {
      const frame = await super.next(undefined, ms);
      if (frame.event === "pusher:ping" && event !== frame.event) continue;
      hold(
        event === undefined || frame.event === event,
        `expected ${event}, saw ${show(frame)}`,
      );
      return frame;
    }
  }

  /** Expects `pusher:error` with a code, and returns the frame. */
  async error(code?: number): Promise<Frame> {
    const frame = await this.next("pusher:error");
    const seen = dataOf(frame)?.code;
    if (code !== undefined) same(seen, code, `code of ${show(frame)}`);
    return frame;
  }

  /** Leaves a channel, and waits until the server knows. */
  async leave(channel: string): Promise<void> {
    this.unsubscribe(channel);
    this.ping();
    await this.upTo("pusher:pong");
  }

  /** Sends a client event. */
  trigger(channel: string, event: string, data?: unknown): void {
    this.send({ event, channel, data });
  }

  /** Expects the server to close, and returns the code. */
  async closing(ms = DEADLINE_MS): Promise<number> {
    const { code } = await within(ms, "close", this.closed).catch(() => {
      throw new NotHeld(`not closed in ${ms} ms; saw ${show(this.drain())}`);
    });
    return code;
  }
}
