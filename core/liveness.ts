/**
 * Signs of life: when a client is asked for one, and when it is given up.
 *
 * @module
 */

import type { PusherOptions } from "./options.ts";
import { CLOSE, type Close } from "./protocol.ts";
import { type Clock, type Ticking, TickWheel } from "./time.ts";

/** A second is precise enough; short timeouts get a tenth of themselves. */
const MAX_TICK_MS = 1_000;

/** How long clients of a server may be silent, and the wheel that visits them. */
export class Liveness {
  readonly wheel: TickWheel;
  /** Silence after which a client is pinged. */
  readonly idleTicks: number;
  /** How long its answer may take. */
  readonly pongTicks: number;
  /** How long a connection may stay without being authorized. */
  readonly authorizationTicks: number;

  constructor(clock: Clock, options: PusherOptions) {
    const {
      activityTimeoutMs = 120_000,
      pingAfterMs = Math.min(60_000, activityTimeoutMs),
      pongTimeoutMs = 15_000,
      authorizationTimeoutMs = Infinity,
    } = options;
    const times = [pingAfterMs, pongTimeoutMs, authorizationTimeoutMs];
    this.wheel = new TickWheel(clock, Math.min(...times), MAX_TICK_MS);
    this.idleTicks = this.wheel.ticks(pingAfterMs);
    this.pongTicks = this.wheel.ticks(pongTimeoutMs);
    // A connection opens during a tick, and the rest of that tick does not count.
    this.authorizationTicks = this.wheel.ticks(authorizationTimeoutMs) + 1;
  }

  /** Watches over a connection from now on. */
  watch(pulse: Pulse): void {
    const { idleTicks, authorizationTicks } = this;
    this.wheel.add(pulse, Math.min(idleTicks, authorizationTicks));
  }
}

/** The connection that a pulse belongs to. */
export interface PulseOwner {
  /** Asks the client for a sign of life. */
  askForLife(): void;
  close(close: Close): void;
}

/** The signs of life of one client. */
export class Pulse implements Ticking {
  slot: Set<Ticking> | null = null;
  /** Whether the client has signed in, or joined a private or presence channel. */
  isAuthorized = false;
  readonly #liveness: Liveness;
  readonly #owner: PulseOwner;
  readonly #bornAt: number;
  /** Tick of the last incoming frame. */
  #heardAt: number;
  /** Tick of a ping that has not been answered, or -1. */
  #pingedAt = -1;

  constructor(liveness: Liveness, owner: PulseOwner) {
    this.#liveness = liveness;
    this.#owner = owner;
    this.#bornAt = this.#heardAt = liveness.wheel.tick;
  }

  /** Takes a sign of life. */
  heard(): void {
    this.#heardAt = this.#liveness.wheel.tick;
  }

  /**
   * Pings a silent client, and closes a client that has not answered, or that has
   * not authorized in time.
   */
  visit(): number {
    const { wheel: { tick }, idleTicks, pongTicks } = this.#liveness;
    const leftTicks = this.isAuthorized
      ? Infinity
      : this.#bornAt + this.#liveness.authorizationTicks - tick;
    if (leftTicks <= 0) return this.#close(CLOSE.NotAuthorized);
    if (this.#heardAt < this.#pingedAt) {
      // The time to authorize may end before the time to answer.
      const waitedTicks = tick - this.#pingedAt;
      if (waitedTicks >= pongTicks) return this.#close(CLOSE.NoPong);
      return Math.min(leftTicks, pongTicks - waitedTicks);
    }
    this.#pingedAt = -1;
    const silentTicks = tick - this.#heardAt;
    if (silentTicks < idleTicks) {
      return Math.min(leftTicks, idleTicks - silentTicks);
    }
    this.#pingedAt = tick;
    this.#owner.askForLife();
    return Math.min(leftTicks, pongTicks, idleTicks);
  }

  #close(close: Close): 0 {
    this.#owner.close(close);
    return 0;
  }
}
