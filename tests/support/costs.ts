/**
 * Counts what an operation of a server costs. Time cannot be asserted on a machine
 * that does other things, too; counts can.
 *
 * The clients have no sockets: their transports count what a socket would be given.
 * The clock stands still, so that no timer of the server runs meanwhile.
 *
 * @module
 */
import {
  MemoryBackplane,
  type Peer,
  Pusher,
  type PusherOptions,
  type Transport,
} from "@glitz/pusher";
import { createHook } from "node:async_hooks";
import { createHash } from "node:crypto";
import { setImmediate } from "node:timers";
import { ManualClock } from "./clock.ts";
import { APP, signedRequest } from "./server.ts";
import { channelAuth, userAuth } from "./wire.ts";

/** What an operation has cost. */
export interface Costs {
  /** Calls of `JSON.stringify`. */
  encodings: number;
  /** Digests of any text. An HMAC takes two, however it is made. */
  digests: number;
  /** Regular expressions that were run over the name of the channel. */
  matches: number;
  /** Promises, also those that `await` and async functions make. */
  promises: number;
  /** Timers, and calls for the end of this turn of the event loop. */
  timers: number;
  /** Calls of the backplane, and of its sessions. */
  calls: number;
  /** Frames that were given to transports. Each is one write to a socket. */
  frames: number;
  /** Bytes of these frames. */
  bytes: number;
  /** Frames of the client that was given most of them. */
  writes: number;
}

const NOTHING: Costs = Object.freeze({
  ...{ encodings: 0, digests: 0, matches: 0 },
  ...{ promises: 0, timers: 0, calls: 0, frames: 0, bytes: 0, writes: 0 },
});

/** Compares all costs; those that are not expected have to be 0. */
export function assertCosts(
  what: string,
  costs: Costs,
  expected: Partial<Costs>,
): void {
  const wrong = Object.entries({ ...NOTHING, ...expected }).flatMap(
    ([name, count]) => {
      const found = costs[name as keyof Costs];
      return found === count ? [] : [`${found} ${name}, expected ${count}`];
    },
  );
  if (wrong.length === 0) return;
  throw new Error(`Cannot accept the costs of ${what}: ${wrong.join("; ")}`);
}

// ---- What is counted --------------------------------------------------------

let counts: Costs | null = null;

function count(name: keyof Costs, more = 1): void {
  if (counts !== null) counts[name] += more;
}

/** Replaces a method by one that also counts; returns what undoes that. */
function watch<Name extends string>(
  target: Record<Name, unknown>,
  name: Name,
  seen: (given: unknown[]) => void,
): () => void {
  const method = target[name] as (...given: unknown[]) => unknown;
  target[name] = function (this: unknown, ...given: unknown[]): unknown {
    seen(given);
    return Reflect.apply(method, this, given);
  };
  return () => void (target[name] = method);
}

/** Runs something that is not counted. */
function apart<T>(run: () => T): T {
  const paused = counts;
  counts = null;
  try {
    return run();
  } finally {
    counts = paused;
  }
}

/** Counts promises from now on: the runtime takes no such hook back. */
function watchPromises(): void {
  // deno-lint-ignore no-explicit-any -- only the engine sees the promises of async functions, and what the runtime has for its own tests has no types
  const { core } = (Deno as any)[(Deno as any).internal];
  const nothing = () => {};
  core.setPromiseHooks(() => count("promises"), nothing, nothing, nothing);
}

watchPromises();

/** Counts what waits for a timer of the runtime, or for the end of a turn. */
function watchTimers(): () => void {
  const hook = createHook({
    init: (_id, type) => {
      if (type === "Timeout" || type === "Immediate") count("timers");
    },
  });
  hook.enable();
  return () => void hook.disable();
}

// Those of the runtime's HMACs are made with it, too.
const HASH = Object.getPrototypeOf(createHash("sha256"));

/** Counts from now on what is made outside of a server's joints. */
function watchAll(channel: string): Disposable {
  const undo = [
    watch(JSON, "stringify", () => count("encodings")),
    watch(RegExp.prototype, "exec", ([text]) => {
      if (text === channel) count("matches");
    }),
    watch(HASH, "digest", () => count("digests")),
    watchTimers(),
  ];
  return { [Symbol.dispose]: () => undo.reverse().forEach((step) => step()) };
}

/** A clock whose timers count. */
class MeteredClock extends ManualClock {
  override after(delayMs: number, run: () => void): () => void {
    count("timers");
    return super.after(delayMs, run);
  }
}

/** The same object, whose calls and those of its parts count. */
function metered<T extends object>(target: T): T {
  return new Proxy(target, {
    get(_, name) {
      const value = Reflect.get(target, name);
      if (typeof value !== "function") {
        return typeof value === "object" && value !== null
          ? metered(value)
          : value;
      }
      return (...given: unknown[]) => {
        count("calls");
        return Reflect.apply(value, target, given);
      };
    },
  });
}

// ---- The server -------------------------------------------------------------

/** A server whose operations can be measured. */
export class MeteredServer implements AsyncDisposable {
  readonly pusher: Pusher;
  readonly #clock = new MeteredClock();

  constructor(options: PusherOptions = {}) {
    const { id: appId, key, secret } = APP;
    this.pusher = new Pusher({
      ...{ appId, key, secret },
      clock: this.#clock,
      backplane: metered(new MemoryBackplane()),
      ...options,
    });
  }

  /**
   * Connects clients that are on no channel.
   *
   * @param query What stands behind `?protocol=7`, such as `&batch=1`.
   * @param path What stands before `/app/`, for each of them.
   */
  connect(
    clients: number,
    query = "",
    path: (i: number) => string = () => "",
  ): MeteredClient[] {
    return Array.from({ length: clients }, (_, i) => {
      const place = `${path(i)}/app/${APP.key}?protocol=7${query}`;
      return new MeteredClient(this.pusher, `http://localhost${place}`);
    });
  }

  /** Connects clients that are on a channel, each as a user of its own. */
  join(channel: string, clients: number, query?: string): MeteredClient[] {
    const all = this.connect(clients, query);
    for (const [i, client] of all.entries()) {
      client.subscribe(channel, `user-${i}`);
    }
    return all;
  }

  /** Lets turns of the event loop pass, for what the server does in several. */
  passTurns(turns: number): void {
    for (let i = 0; i < turns; i++) this.#clock.pass(1);
  }

  /** A signed request to the HTTP API. */
  request(path: string, body: unknown): Request {
    const url = "http://localhost";
    const request = signedRequest(url, "POST", path, { body });
    // As every backend sends it.
    const length = new TextEncoder().encode(JSON.stringify(body)).length;
    request.headers.set("content-length", `${length}`);
    return request;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pusher.close();
  }
}

/**
 * Measures an operation, with all that it causes up to the end of the turn of the
 * event loop in which it is done.
 *
 * @param channel Whose name is looked for.
 * @param turns How many turns it takes, as what was done before it, until all is done.
 */
export async function measure(
  channel: string,
  operate: () => unknown,
  turns = 1,
): Promise<Costs> {
  using _watching = watchAll(channel);
  const costs = { ...NOTHING };
  await new Promise<void>((resolve, reject) => {
    const end = () => {
      counts = null;
      resolve();
    };
    // What is made here in order to wait must not count: the promises of this
    // function are made before it counts, and others apart.
    const wait = (left: number, run: () => void) => {
      if (left === 0) return run();
      apart(() => setImmediate(wait, left - 1, run));
    };
    // What came before has to be done, too.
    wait(turns, () => {
      counts = costs;
      try {
        const result = operate();
        const settle = () => wait(turns, end);
        apart(() => Promise.resolve(result).then(settle, reject));
      } catch (error) {
        reject(error);
      }
    });
  }).finally(() => counts = null);
  return costs;
}

/** A client without a socket, which reads everything at once. */
export class MeteredClient implements Transport {
  readonly bufferedAmount = 0;
  readonly socketId: string;
  /** The last frame that it got. */
  last = "";
  readonly #peer: Peer;
  /** What it got during this measurement. */
  #writes = 0;
  #measured: Costs | null = null;

  constructor(pusher: Pusher, url: string) {
    this.#peer = pusher.open(
      ...[this, APP.key, apart(() => new Request(url))] as const,
    );
    this.socketId = JSON.parse(JSON.parse(this.last).data).socket_id;
  }

  send(frame: string): void {
    this.last = frame;
    if (counts === null) return;
    if (this.#measured !== counts) this.#writes = 0;
    this.#measured = counts;
    counts.writes = Math.max(counts.writes, ++this.#writes);
    count("frames");
    count("bytes", frame.length);
  }

  close(code = 1006): void {
    this.#peer.closed(code);
  }

  /** Sends a frame to the server. */
  say(event: string, data: unknown = {}, channel?: string): void {
    this.#peer.receive(apart(() => JSON.stringify({ event, data, channel })));
  }

  /** Subscribes; on a presence channel as a member. */
  subscribe(channel: string, userId?: string, more: object = {}): void {
    const channel_data = userId && `{"user_id":"${userId}"}`;
    const auth = apart(() =>
      channelAuth(APP, this.socketId, channel, channel_data)
    );
    this.say("pusher:subscribe", { channel, auth, channel_data, ...more });
  }

  /** Signs in. */
  signIn(id: string): void {
    const user_data = `{"id":"${id}"}`;
    const auth = apart(() => userAuth(APP, this.socketId, user_data));
    this.say("pusher:signin", { auth, user_data });
  }

  unsubscribe(channel: string): void {
    this.say("pusher:unsubscribe", { channel });
  }
}
