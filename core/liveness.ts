/**
 * The checks for signs of life, of all connections on one timer.
 *
 * @module
 */

/** What {@linkcode Liveness} looks after. */
export interface Watched {
  /** When it is due; only {@linkcode Liveness} writes it. */
  due: Set<Watched> | null;
  /** Does what is due; returns ticks until it is due again, 0 for never. */
  checkLife(liveness: Liveness): number;
}

/** Liveness checks of all connections on one timer, in slots of ticks. */
export class Liveness {
  /** Ticks so far. It stands still while there is nothing to watch. */
  tick = 0;
  /** Silence after which a connection is pinged. */
  readonly idleTicks: number;
  /** How long an answer may take. */
  readonly pongTicks: number;
  /** How long a connection may stay without being authorized. */
  readonly authorizationTicks: number;
  readonly #tickMs: number;
  readonly #slots = new Map<number, Set<Watched>>();
  #watched = 0;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(
    activityTimeoutMs: number,
    pongTimeoutMs: number,
    authorizationTimeoutMs: number,
  ) {
    // A second is precise enough for the defaults; short timeouts get a tenth.
    const shortest = Math.min(
      activityTimeoutMs,
      pongTimeoutMs,
      authorizationTimeoutMs,
    );
    this.#tickMs = Math.max(1, Math.min(1000, shortest / 10));
    // A frame is heard during a tick, and the rest of that one does not count.
    this.idleTicks = Math.ceil(activityTimeoutMs / this.#tickMs) + 1;
    this.pongTicks = Math.ceil(pongTimeoutMs / this.#tickMs);
    this.authorizationTicks = Math.ceil(authorizationTimeoutMs / this.#tickMs) +
      1;
  }

  watch(connection: Watched): void {
    this.#watched++;
    this.#place(connection, Math.min(this.idleTicks, this.authorizationTicks));
    this.#timer ??= setInterval(() => this.#advance(), this.#tickMs);
  }

  forget(connection: Watched): void {
    connection.due?.delete(connection);
    connection.due = null;
    this.#watched--;
    if (this.#watched > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#slots.clear();
  }

  #place(connection: Watched, ticks: number): void {
    const at = this.tick + ticks;
    const slot = this.#slots.get(at) ?? new Set();
    this.#slots.set(at, slot);
    slot.add(connection);
    connection.due = slot;
  }

  #advance(): void {
    const slot = this.#slots.get(++this.tick);
    this.#slots.delete(this.tick);
    for (const connection of slot ?? []) {
      const ticks = connection.checkLife(this);
      if (ticks > 0) this.#place(connection, ticks);
    }
  }
}
