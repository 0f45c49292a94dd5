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

/**
 * Clients that answer `pusher:ping` wherever they run: pusher-js and our own, also
 * under its name of earlier versions.
 */
const ANSWERING: ReadonlySet<string> = new Set(["js", "js-glitz", "glitz"]);

/** How long clients of a server may be silent, and the wheel that visits them. */
export class Liveness {
  readonly wheel: TickWheel;
  /** Silence after which a client is pinged. */
  readonly idleTicks: number;
  /** How long its answer may take. */
  readonly pongTicks: number;
  readonly #goneAfterMs: number;

  constructor(clock: Clock, options: PusherOptions) {
    const {
      activityTimeoutMs = 120_000,
      pingAfterMs = Math.min(60_000, activityTimeoutMs),
      pongTimeoutMs = 15_000,
      apps = [],
    } = options;
    this.#goneAfterMs = pingAfterMs + pongTimeoutMs;
    const times = [pingAfterMs, pongTimeoutMs];
    for (const { authorizationTimeoutMs = Infinity } of [options, ...apps]) {
      times.push(authorizationTimeoutMs);
    }
    this.wheel = new TickWheel(clock, Math.min(...times), MAX_TICK_MS);
    this.idleTicks = this.wheel.ticks(pingAfterMs);
    this.pongTicks = this.wheel.ticks(pongTimeoutMs);
  }

  /**
   * Seconds of silence after which the runtime gives up a client, for
   * `Deno.upgradeWebSocket`. Before that it sends a WebSocket ping, after half of the
   * time. 0, for never, if the client is known to answer `pusher:ping`.
   *
   * @param client What the client calls itself in the query.
   */
  idleTimeoutS(client: string | null): number {
    // The runtime's timer takes about 4 KiB for each connection.
    return ANSWERING.has(client ?? "") ? 0 : this.#goneAfterMs / 1000;
  }

  /** Watches over a connection from now on. */
  watch(pulse: Pulse): void {
    this.wheel.add(pulse, Math.min(this.idleTicks, pulse.ticksToAuthorize));
  }
}

/** The connection that a pulse belongs to. */
export interface PulseOwner {
  /** How much was sent that the client has not read yet. */
  readonly unreadBytes: number;
  /** Whether the runtime is closing the client's socket. */
  readonly isClosing: boolean;
  /** Whether the client has asked for something that the server has not done yet. */
  readonly isBusy: boolean;
  /** Asks the client for a sign of life. */
  askForLife(): void;
  close(close: Close): void;
}

/**
 * The signs of life of one client. A client that has answered `pusher:ping` has to go
 * on answering. Others may keep alive with WebSocket pings and pongs alone, which no
 * script sees: the runtime gives up those that do not answer its own pings. But its
 * pings wait behind what a client leaves unread, and so does its close, so both are
 * looked at here.
 */
export class Pulse implements Ticking {
  slot: Set<Ticking> | null = null;
  /** Whether the client answers `pusher:ping`, so that its silence means that it is gone. */
  answers: boolean;
  readonly #liveness: Liveness;
  readonly #owner: PulseOwner;
  /** Tick until which it has to authorize; null if it has, or need not. */
  #authorizeBy: number | null;
  /** Tick of the last sign of life. */
  #heardAt: number;
  /** Tick of a ping that has not been answered, or -1. */
  #pingedAt = -1;
  /** What was unread when it was looked at last. */
  #unreadBytes = 0;

  /**
   * @param answers Whether the client is known to answer `pusher:ping`.
   * @param authorizationTimeoutMs How long it may take to authorize.
   */
  constructor(
    liveness: Liveness,
    owner: PulseOwner,
    answers: boolean,
    authorizationTimeoutMs = Infinity,
  ) {
    const { wheel } = liveness;
    this.#liveness = liveness;
    this.#owner = owner;
    this.answers = answers;
    this.#heardAt = wheel.tick;
    // A connection opens during a tick, and the rest of that tick does not count.
    this.#authorizeBy = authorizationTimeoutMs === Infinity
      ? null
      : wheel.tick + wheel.ticks(authorizationTimeoutMs) + 1;
  }

  /**
   * Whether the client has signed in, or joined a private or presence channel, or
   * need not do so.
   */
  get isAuthorized(): boolean {
    return this.#authorizeBy === null;
  }

  authorize(): void {
    this.#authorizeBy = null;
  }

  /** How much of its time to authorize is left. */
  get ticksToAuthorize(): number {
    if (this.#authorizeBy === null) return Infinity;
    return this.#authorizeBy - this.#liveness.wheel.tick;
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
    const leftTicks = this.ticksToAuthorize;
    if (leftTicks <= 0) {
      // It may have tried, and is to come back then.
      return this.#close(
        this.#owner.isBusy ? CLOSE.BackplaneAway : CLOSE.NotAuthorized,
      );
    }
    if (this.#owner.isClosing) return this.#close(CLOSE.NoPong);
    if (this.#heardAt < this.#pingedAt && !this.answers) this.#lookForReading();
    if (this.#heardAt < this.#pingedAt) {
      // The time to authorize may end before the time to answer.
      const waitedTicks = tick - this.#pingedAt;
      if (waitedTicks >= pongTicks) return this.#close(CLOSE.NoPong);
      if (!this.answers) return 1;
      return Math.min(leftTicks, pongTicks - waitedTicks);
    }
    this.#pingedAt = -1;
    const silentTicks = tick - this.#heardAt;
    if (silentTicks < idleTicks) {
      // The runtime may give it up at any time.
      const lookTicks = this.answers ? Infinity : pongTicks;
      return Math.min(leftTicks, idleTicks - silentTicks, lookTicks);
    }
    this.#pingedAt = tick;
    this.#owner.askForLife();
    if (!this.answers) {
      this.#unreadBytes = this.#owner.unreadBytes;
      return 1;
    }
    return Math.min(leftTicks, pongTicks, idleTicks);
  }

  /** Takes it for a sign of life if nothing is unread, or less than before. */
  #lookForReading(): void {
    const { unreadBytes } = this.#owner;
    if (unreadBytes === 0 || unreadBytes < this.#unreadBytes) this.heard();
    this.#unreadBytes = unreadBytes;
  }

  #close(close: Close): 0 {
    this.#owner.close(close);
    return 0;
  }
}

/** Whether a transport is a socket that is closing, or has closed. */
export function isClosing(transport: object): boolean {
  return "readyState" in transport && Number(transport.readyState) > OPEN;
}

/** `WebSocket.OPEN`, which not every runtime has. */
const OPEN = 1;

/** The code with which a socket has closed. */
export function closeCodeOf({ code, wasClean }: CloseEvent): number {
  // That is how the runtime gives up a client that does not answer its pings.
  if (code === 1001 && !wasClean) return CLOSE.NoPong.code;
  return code || 1006;
}
