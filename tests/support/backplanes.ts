/**
 * The backplanes under test, and a way to run a test against each of them.
 *
 * @module
 */
import {
  type Awaitable,
  type Backplane,
  type BackplaneNode,
  type Intercom,
  MemoryBackplane,
  type Message,
  type PusherOptions,
  type SessionStore,
} from "@glitz/pusher";
import { DEADLINE_MS, within } from "./deadline.ts";
import { serve, type TestServer } from "./server.ts";

/** What is delivered to a server, in the order in which it happened. */
type Lag = (task: () => void) => void;

/**
 * A backplane as behind a network: every answer comes later, after what is
 * delivered with it.
 */
export class SlowBackplane implements Backplane {
  readonly #inner: Backplane;
  /** Methods that were called when it had been closed. */
  readonly afterClose: string[] = [];
  /** How often it has been closed. */
  closes = 0;
  readonly #pending = new Set<Promise<unknown>>();
  /** Awaited before and after each call, with its name. */
  turn: (method: string, isAfter: boolean) => Promise<void> = () =>
    new Promise((resolve) => setTimeout(resolve, 1));
  readonly sessions: SessionStore;
  readonly intercom: Intercom | undefined;

  constructor(inner: Backplane = new MemoryBackplane()) {
    this.#inner = inner;
    const { sessions, intercom } = inner;
    this.intercom = intercom && {
      listen: (...given) => intercom.listen(...given),
      say: (...given) => this.#later("say", () => intercom.say(...given)),
    };
    this.sessions = {
      take: (...given) => this.#later("take", () => sessions.take(...given)),
      keep: (...given) => this.#later("keep", () => sessions.keep(...given)),
      forget: (...given) =>
        this.#later("forget", () => sessions.forget(...given)),
    };
  }

  start(node: BackplaneNode): Awaitable<void> {
    return this.#inner.start(node);
  }
  publish(...given: [string, string, Message]): Promise<void> {
    return this.#later("publish", () => this.#inner.publish(...given));
  }
  join(...given: Parameters<Backplane["join"]>) {
    return this.#later("join", async () => {
      const joined = await this.#inner.join(...given);
      // What has come over a network does not change any more.
      return joined && { ...joined, members: new Map(joined.members) };
    });
  }
  leave(...given: Parameters<Backplane["leave"]>) {
    return this.#later("leave", () => this.#inner.leave(...given));
  }
  read(...given: Parameters<Backplane["read"]>) {
    return this.#later("read", () => this.#inner.read(...given));
  }
  members(...given: Parameters<Backplane["members"]>) {
    return this.#later(
      "members",
      async () => new Map(await this.#inner.members(...given)),
    );
  }
  cached(...given: Parameters<Backplane["cached"]>) {
    return this.#later("cached", () => this.#inner.cached(...given));
  }
  occupancy(...given: Parameters<Backplane["occupancy"]>) {
    return this.#later("occupancy", () => this.#inner.occupancy(...given));
  }
  occupied(...given: Parameters<Backplane["occupied"]>) {
    return this.#later("occupied", () => this.#inner.occupied(...given));
  }
  async close(): Promise<void> {
    this.closes++;
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    await this.#inner.close();
  }

  #later<T>(method: string, call: () => T | Promise<T>): Promise<T> {
    if (this.closes > 0) this.afterClose.push(method);
    const answer = (async () => {
      await this.turn(method, false);
      const result = await call();
      await this.turn(method, true);
      return result;
    })();
    this.#pending.add(answer);
    const done = () => this.#pending.delete(answer);
    answer.then(done, done);
    return answer;
  }
}

/**
 * A backplane whose answers come over one connection and whose deliveries come
 * over another that lags behind: what is delivered comes after the answer.
 */
export class LaggingBackplane implements Backplane {
  readonly #inner: Backplane;
  readonly #lagging: (() => void)[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #drained = Promise.withResolvers<void>();
  #isClosed = false;
  /** How far deliveries lag behind, in milliseconds. */
  lagMs = 2;
  readonly sessions: SessionStore;
  readonly intercom: Intercom | undefined;

  constructor(inner: Backplane = new MemoryBackplane()) {
    this.#inner = inner;
    this.sessions = inner.sessions;
    const { intercom } = inner;
    this.intercom = intercom && {
      listen: (label, hear) =>
        intercom.listen(label, (text) => this.#lag(() => hear(text))),
      say: async (...given) => await intercom.say(...given),
    };
  }

  async start(node: BackplaneNode): Promise<void> {
    // Starting takes time, too.
    await new Promise((resolve) => setTimeout(resolve, 1));
    if (this.#isClosed) throw new Error("Cannot start: it has been closed");
    const lag: Lag = (task) => this.#lag(task);
    await this.#inner.start({
      id: node.id,
      history: node.history,
      clock: node.clock,
      deliver: (...given) => lag(() => node.deliver(...given)),
      changed: (...given) => lag(() => node.changed(...given)),
      lost: (...given) => lag(() => node.lost(...given)),
      taken: (...given) => lag(() => node.taken(...given)),
      held: () => node.held(),
      departure: (...given) => node.departure(...given),
      arrival: (...given) => node.arrival(...given),
      failed: (...given) => node.failed(...given),
      health: (...given) => node.health(...given),
    });
  }

  #lag(task: () => void): void {
    this.#lagging.push(task);
    this.#timer ??= setTimeout(() => this.flush(), this.lagMs);
  }

  /** Delivers all that lags behind. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const task of this.#lagging.splice(0)) task();
    if (this.#lagging.length > 0) return;
    this.#drained.resolve();
    this.#drained = Promise.withResolvers();
  }

  /** Waits until nothing lags behind any more. */
  async drained(): Promise<void> {
    if (this.#lagging.length > 0) await this.#drained.promise;
  }

  async publish(...given: [string, string, Message]): Promise<void> {
    await this.#inner.publish(...given);
  }
  async join(...given: Parameters<Backplane["join"]>) {
    return await this.#inner.join(...given);
  }
  async leave(...given: Parameters<Backplane["leave"]>) {
    return await this.#inner.leave(...given);
  }
  async read(...given: Parameters<Backplane["read"]>) {
    return await this.#inner.read(...given);
  }
  async members(...given: Parameters<Backplane["members"]>) {
    return await this.#inner.members(...given);
  }
  async cached(...given: Parameters<Backplane["cached"]>) {
    return await this.#inner.cached(...given);
  }
  async occupancy(...given: Parameters<Backplane["occupancy"]>) {
    return await this.#inner.occupancy(...given);
  }
  async occupied(...given: Parameters<Backplane["occupied"]>) {
    return await this.#inner.occupied(...given);
  }
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#inner.close();
    await this.drained();
  }
}

/** A backplane whose first answer to a join waits for `answer`. */
export function lateJoin() {
  const backplane = new SlowBackplane();
  const joined = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  let isFirst = true;
  backplane.turn = async (method, isAfter) => {
    if (method !== "join" || !isAfter || !isFirst) return;
    isFirst = false;
    joined.resolve();
    await answer.promise;
  };
  const joining = () => within(DEADLINE_MS, "join", joined.promise);
  return { backplane, joining, answer: answer.resolve };
}

// ---- Kinds ------------------------------------------------------------------

/** A kind of backplane that a server may have. */
export interface BackplaneKind {
  /** What it adds to the title of a test. */
  readonly suffix: string;
  /** Makes a backplane on some memory, or on its own; undefined is the server's. */
  readonly create: (memory?: Backplane) => Backplane | undefined;
}

/** Every kind of backplane under test; the first is what a server has by default. */
export const BACKPLANES: readonly BackplaneKind[] = [
  { suffix: "", create: (memory) => memory },
  {
    suffix: ", behind a backplane that answers later",
    create: (memory) => new SlowBackplane(memory),
  },
  {
    suffix: ", behind a backplane whose deliveries lag",
    create: (memory) => new LaggingBackplane(memory),
  },
];

/** Starts a server with a backplane of a kind, unless the options have another. */
export function serveWith(
  { create }: BackplaneKind,
  options: PusherOptions = {},
): TestServer {
  const backplane = create();
  return serve({ ...(backplane && { backplane }), ...options });
}

/** Registers a test against each kind of backplane. */
export function eachBackplane(
  title: string,
  run: (start: (options?: PusherOptions) => TestServer) => Promise<void>,
): void {
  for (const kind of BACKPLANES) {
    Deno.test(
      title + kind.suffix,
      () => run((options) => serveWith(kind, options)),
    );
  }
}
