/**
 * The start of a backplane, which is tried again until it succeeds: a server may be
 * up before what its backplane connects to.
 *
 * @module
 */

import { attempt, type Awaitable, type Clock, deferred } from "./time.ts";

/** The server whose backplane starts. */
export interface StartOwner {
  readonly clock: Clock;
  /** Starts the backplane. */
  begin(): Awaitable<void>;
  /** The backplane has started after some time. */
  started(): void;
  /** It has not. Comes once for each reason. */
  failed(error: unknown): void;
}

// How long after a failure the next attempt begins. Someone may be mending a setting.
const RETRY_MS = 5_000;

/** Starts a backplane. */
export class Start {
  /**
   * Settles with the first attempt; after a failure it is one that has rejected with
   * the latest reason. Null once the backplane has started.
   */
  pending: Promise<void> | null = null;
  readonly #owner: StartOwner;
  /** Rejects what waits for the first attempt. */
  #refuse: (reason: unknown) => void = () => {};
  #cancel: () => void = () => {};
  #isOver = false;
  #reason: string | null = null;

  /**
   * Begins.
   *
   * @throws {Error} What the backplane throws, if it does so at once.
   */
  constructor(owner: StartOwner) {
    this.#owner = owner;
    const started = owner.begin();
    if (!(started instanceof Promise)) return;
    const { promise, resolve, reject } = deferred<void>();
    this.pending = promise;
    this.#refuse = reject;
    // Before all calls that wait, and before a listener could overtake them.
    promise.then(() => this.#succeed(), () => {});
    started.then(resolve, (error) => this.#fail(error));
  }

  #succeed(): void {
    if (this.#isOver) return;
    this.pending = null;
    this.#owner.started();
  }

  #fail(error: unknown): void {
    if (this.#isOver) return;
    const reason = String(error);
    if (reason !== this.#reason) this.#owner.failed(error);
    this.#reason = reason;
    this.#refuse(error);
    this.pending = Promise.reject(error);
    this.pending.catch(() => {});
    this.#cancel = this.#owner.clock.after(RETRY_MS, () => this.#again());
  }

  async #again(): Promise<void> {
    try {
      await attempt(() => this.#owner.begin());
    } catch (error) {
      return this.#fail(error);
    }
    this.#succeed();
  }

  /** Lets nothing wait for it any more. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#cancel();
    this.#refuse(new Error("Cannot start: the server is closing"));
  }
}
