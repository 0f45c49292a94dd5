/**
 * A backplane that goes away and comes back when a test says so.
 *
 * @module
 */

import {
  type Awaitable,
  type Backplane,
  type BackplaneNode,
  BackplaneUnavailable,
  type BackplaneUsage,
  type CachedMessage,
  type Intercom,
  type JoinOptions,
  type JoinResult,
  type Journal,
  type LeaveOptions,
  MemoryBackplane,
  type Message,
  type Occupancy,
  type Page,
  type PageRequest,
  type SessionStore,
} from "../../mod.ts";

/** Errors that tests have caused. */
const staged = new WeakSet<object>();

/** Whether an error is there because a test has a backplane away. */
export function isStaged(error: unknown): boolean {
  return staged.has(Object(error));
}

/**
 * Memory, or another backplane, behind a way that a test can cut. As the option
 * `backplane` of a server it shows what the program does while Redis is away.
 *
 * @example
 * ```ts
 * import { BackplaneUnavailable } from "@glitz/pusher";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertRejects } from "@std/assert";
 *
 * await using test = testPusher();
 * test.backplane.goAway();
 * await assertRejects(
 *   () => test.pusher.trigger("news", "create", 1),
 *   BackplaneUnavailable,
 * );
 * test.backplane.comeBack();
 * await test.pusher.trigger("news", "create", 1);
 * ```
 */
export class TestBackplane implements Backplane {
  readonly #inner: Backplane;
  #node: BackplaneNode | null = null;
  #error: BackplaneUnavailable | null = null;
  /** Leaves that the backplane has not heard of. */
  #left: [app: string, channel: string, options: LeaveOptions][] = [];
  /** See {@linkcode Backplane.sessions}. */
  readonly sessions: SessionStore = {
    take: (...given) => this.#call((inner) => inner.sessions.take(...given)),
    keep: (...given) => this.#call((inner) => inner.sessions.keep(...given)),
    forget: (...given) =>
      this.#call((inner) => inner.sessions.forget(...given)),
  };

  /**
   * Makes a backplane that is there.
   *
   * @param inner Holds the state. By default it is in memory.
   */
  constructor(inner: Backplane = new MemoryBackplane()) {
    this.#inner = inner;
  }

  /** See {@linkcode Backplane.journal}. */
  get journal(): Journal | undefined {
    return this.#inner.journal;
  }

  /** See {@linkcode Backplane.intercom}. */
  get intercom(): Intercom | undefined {
    const { intercom } = this.#inner;
    return intercom && {
      listen: (...given) => intercom.listen(...given),
      say: (...given) => this.#call(() => intercom.say(...given)),
    };
  }

  /** Whether it is away. */
  get isAway(): boolean {
    return this.#error !== null;
  }

  /**
   * Has every call fail from now on with a {@linkcode BackplaneUnavailable}, and
   * tells the server.
   */
  goAway(): void {
    if (this.#error !== null) return;
    const reason = "The backplane is away, because the test says so";
    this.#error = new BackplaneUnavailable(reason, { wasSent: false });
    staged.add(this.#error);
    this.#node?.health(false, this.#error);
  }

  /**
   * Has every call succeed again, and tells the server. Connections that have left
   * a channel meanwhile leave it now, as when a server registers what it holds.
   */
  comeBack(): void {
    if (this.#error === null) return;
    this.#error = null;
    for (const given of this.#left.splice(0)) this.#inner.leave(...given);
    this.#node?.health(true);
  }

  /** See {@linkcode Backplane.start}. */
  start(node: BackplaneNode): Awaitable<void> {
    this.#node = node;
    return this.#call((inner) => inner.start(node));
  }

  /** See {@linkcode Backplane.publish}. */
  publish(app: string, channel: string, message: Message): Awaitable<void> {
    return this.#call((inner) => inner.publish(app, channel, message));
  }

  /** See {@linkcode Backplane.join}. */
  join(
    app: string,
    channel: string,
    options: JoinOptions,
  ): Awaitable<JoinResult | null> {
    return this.#call((inner) => inner.join(app, channel, options));
  }

  /** See {@linkcode Backplane.leave}. */
  leave(app: string, channel: string, options: LeaveOptions): Awaitable<void> {
    if (this.#error === null) return this.#inner.leave(app, channel, options);
    this.#left.push([app, channel, options]);
  }

  /** See {@linkcode Backplane.read}. */
  read(
    app: string,
    channel: string,
    request: PageRequest,
  ): Awaitable<Page | null> {
    return this.#call((inner) => inner.read(app, channel, request));
  }

  /** See {@linkcode Backplane.members}. */
  members(
    app: string,
    channel: string,
  ): Awaitable<ReadonlyMap<string, string>> {
    return this.#call((inner) => inner.members(app, channel));
  }

  /** See {@linkcode Backplane.cached}. */
  cached(app: string, channel: string): Awaitable<CachedMessage | null> {
    return this.#call((inner) => inner.cached(app, channel));
  }

  /** See {@linkcode Backplane.occupancy}. */
  occupancy(app: string, channel: string): Awaitable<Occupancy> {
    return this.#call((inner) => inner.occupancy(app, channel));
  }

  /** See {@linkcode Backplane.occupied}. */
  occupied(
    app: string,
    prefix: string,
  ): Awaitable<ReadonlyMap<string, Occupancy>> {
    return this.#call((inner) => inner.occupied(app, prefix));
  }

  /** See {@linkcode Backplane.usage}. */
  usage(): BackplaneUsage {
    return this.#inner.usage?.() ??
      { historyBytes: 0, historyEvents: 0, sessionsAway: 0 };
  }

  /** See {@linkcode Backplane.close}. It succeeds while the backplane is away, too. */
  close(): Awaitable<void> {
    return this.#inner.close();
  }

  #call<T>(run: (inner: Backplane) => Awaitable<T>): Awaitable<T> {
    if (this.#error !== null) return Promise.reject(this.#error);
    return run(this.#inner);
  }
}
