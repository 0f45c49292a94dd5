/**
 * Frames that cannot be served while the backplane is away, and that clients send only
 * once: subscriptions and sign-ins. They wait until it is back.
 *
 * @module
 */

import type { Limits } from "./limits.ts";
import {
  CLOSE,
  type Close,
  decodeData,
  type Frame,
  INBOUND,
} from "./protocol.ts";
import type { Clock } from "./time.ts";

/** A client whose frames wait. */
export interface PostponedOwner {
  readonly app: { readonly limits: Readonly<Limits> };
  close(close: Close): void;
}

// After so long, and up to as long again, a client is sent elsewhere: another server
// may reach the backplane. The spread bounds how many clients reconnect at a time.
const WAIT_MS = 30_000;
// How soon calls are tried again that have failed though the backplane is up.
const RETRY_MS = 1_000;
// Clients that are served at a time when the backplane is back.
const WORKERS = 64;
// What a waiting frame counts at least, in UTF-16 units.
const MIN_UNITS = 100;

/** The frames of one client that wait for the backplane. */
export class Postponed {
  readonly #owner: PostponedOwner;
  readonly #queue: PostponedQueue;
  readonly #serve: (texts: readonly string[]) => Promise<void>;
  /** The text of each frame by what it asks for: the last one counts. */
  readonly #texts = new Map<string, string>();
  #units = 0;
  #cancel: (() => void) | null = null;

  /** @param serve Serves frames, and resolves when that is done. */
  constructor(
    owner: PostponedOwner,
    queue: PostponedQueue,
    serve: (texts: readonly string[]) => Promise<void>,
  ) {
    this.#owner = owner;
    this.#queue = queue;
    this.#serve = serve;
  }

  get isEmpty(): boolean {
    return this.#texts.size === 0;
  }

  /** Whether a frame has to wait for an earlier one: who the client is decides on it. */
  holdsBack({ event }: Frame): boolean {
    return event === INBOUND.Subscribe && this.#texts.has(INBOUND.SignIn);
  }

  /** Takes a frame that may wait. */
  add(frame: Frame, text: string): void {
    const key = keyOf(frame) ?? "";
    this.#drop(key);
    this.#texts.set(key, text);
    this.#units += unitsOf(text);
    if (this.#units > this.#owner.app.limits.bufferedBytes) {
      return this.#owner.close(CLOSE.BackplaneAway);
    }
    this.#cancel ??= this.#queue.add(
      this,
      () => this.#owner.close(CLOSE.BackplaneAway),
    );
  }

  /** Takes note of a frame that is served: it stands for an earlier one. */
  replace(frame: Frame): void {
    const key = keyOf(frame);
    if (key !== null) this.#drop(key);
    if (this.isEmpty) this.clear();
  }

  #drop(key: string): void {
    const text = this.#texts.get(key);
    if (text === undefined) return;
    this.#texts.delete(key);
    this.#units -= unitsOf(text);
  }

  /** Has the frames served, in their order. */
  async goOn(): Promise<void> {
    const texts = [...this.#texts.values()];
    this.clear();
    await this.#serve(texts);
  }

  /** Forgets the frames. */
  clear(): void {
    this.#texts.clear();
    this.#units = 0;
    this.#cancel?.();
    this.#cancel = null;
    this.#queue.delete(this);
  }
}

/** Whether a frame may wait for the backplane. */
export function canWait({ event }: Frame): boolean {
  return event === INBOUND.SignIn || event === INBOUND.Subscribe;
}

/** What a frame asks for, or ends, if it may wait. */
function keyOf({ event, data }: Frame): string | null {
  if (event === INBOUND.SignIn) return event;
  const isOfChannel = event === INBOUND.Subscribe ||
    event === INBOUND.Unsubscribe;
  const channel = isOfChannel ? decodeData(data)?.channel : undefined;
  return typeof channel === "string" ? `${INBOUND.Subscribe} ${channel}` : null;
}

function unitsOf(text: string): number {
  return Math.max(text.length, MIN_UNITS);
}

/** All clients of a server whose frames wait. */
export class PostponedQueue {
  readonly #clock: Clock;
  readonly #waiting = new Set<Postponed>();
  #isUp = false;
  #cancelRetry: (() => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Adds a client, which `giveUp` is called for when it has waited for too long. */
  add(postponed: Postponed, giveUp: () => void): () => void {
    this.#waiting.add(postponed);
    if (this.#isUp) {
      this.#cancelRetry ??= this.#clock.after(RETRY_MS, () => {
        this.#cancelRetry = null;
        this.#goOn();
      });
    }
    return this.#clock.after(WAIT_MS * (1 + Math.random()), giveUp);
  }

  /** Removes a client. */
  delete(postponed: Postponed): void {
    this.#waiting.delete(postponed);
    if (this.#waiting.size > 0) return;
    this.#cancelRetry?.();
    this.#cancelRetry = null;
  }

  /** Takes the word that the backplane went down or came up. */
  change(isUp: boolean): void {
    this.#isUp = isUp;
    if (isUp) this.#goOn();
  }

  #goOn(): void {
    // A client whose frames fail again waits for the next round.
    const round = [...this.#waiting].values();
    for (let i = 0; i < WORKERS; i++) this.#work(round);
  }

  async #work(round: Iterator<Postponed> & Iterable<Postponed>): Promise<void> {
    for (const postponed of round) {
      if (!this.#isUp) return;
      if (this.#waiting.has(postponed)) await postponed.goOn();
    }
  }
}
