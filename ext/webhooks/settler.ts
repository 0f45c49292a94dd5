/**
 * Decides which events are reported: a departure is held back, and an arrival that
 * undoes it is not reported either.
 *
 * @module
 */

import {
  ARRIVALS,
  DEPARTURES,
  memberKey,
  type OutgoingEvent,
} from "./events.ts";

/** Where events wait after they were reported. */
export interface Target {
  /** Removes a state that waits, if its name is among these and nothing depends on it. */
  withdraw(key: string, names: ReadonlySet<string>): boolean;
}

/** A departure that is held back. */
export interface Departure<To extends Target> {
  readonly event: OutgoingEvent;
  /** When it happened. */
  readonly timeMs: number;
  /** Targets that never got the arrival, as it still waited. */
  readonly withdrawn: ReadonlySet<To>;
}

/** What a {@linkcode Settler} does with its decisions. */
export interface SettlerOwner<To extends Target> {
  /**
   * Reports an event.
   *
   * @param key What the event is the state of, if it is a state.
   * @param targets Who may want it.
   * @param timeMs When it counts as happened.
   */
  report(
    event: OutgoingEvent,
    key: string | null,
    targets: readonly To[],
    timeMs: number,
  ): void;
  /** A departure is held back from now on, or, without one, no more. */
  held?(key: string, departure: Departure<To> | null): void;
  /** The cache miss of a channel was reported, or may be reported again. */
  missed?(channel: string, isMissed: boolean): void;
}

/**
 * Decides which events are reported. Times are milliseconds of any one clock; what
 * is reported keeps the order of the calls.
 */
export class Settler<To extends Target> {
  readonly #targets: readonly To[];
  readonly #settleMs: number;
  readonly #owner: SettlerOwner<To>;
  readonly #maxMissed: number;
  /**
   * Departures by channel, or by channel and user, in their order. There are at
   * most as many as there were channels and members.
   */
  readonly #departures = new Map<string, Departure<To>>();
  /** Channels whose cache miss was reported. */
  readonly #missed = new Set<string>();

  /**
   * @param maxMissed Of so many channels it remembers that their cache miss was
   * reported. Each is forgotten when the channel is vacated.
   */
  constructor(
    targets: readonly To[],
    settleMs: number,
    owner: SettlerOwner<To>,
    maxMissed = Infinity,
  ) {
    this.#maxMissed = maxMissed;
    this.#targets = targets;
    this.#settleMs = settleMs;
    this.#owner = owner;
  }

  /** Whether a departure is held back. */
  get isHolding(): boolean {
    return this.#departures.size > 0;
  }

  /** When the next departure is due; `Infinity` if none is held back. */
  get dueMs(): number {
    for (const { timeMs } of this.#departures.values()) {
      return timeMs + this.#settleMs;
    }
    return Infinity;
  }

  /** Whether the cache miss of a channel was reported. */
  hasMissed(channel: string): boolean {
    return this.#missed.has(channel);
  }

  /** Takes what an earlier settler has decided. */
  restore(
    departures: Iterable<readonly [key: string, departure: Departure<To>]>,
    missed: Iterable<string>,
  ): void {
    const inOrder = [...departures].sort(([, a], [, b]) => a.timeMs - b.timeMs);
    for (const [key, departure] of inOrder) {
      this.#departures.set(key, departure);
    }
    for (const channel of missed) this.#missed.add(channel);
  }

  /** Takes an event, of a channel or member that came or left, or a cache miss. */
  take(event: OutgoingEvent, timeMs: number): void {
    switch (event.name) {
      case "channel_occupied":
        return this.#arrive(event.channel, event, timeMs);
      case "channel_vacated":
        return this.#depart(event.channel, event, timeMs);
      case "member_added":
        return this.#arrive(memberKey(event), event, timeMs);
      case "member_removed":
        return this.#depart(memberKey(event), event, timeMs);
      case "cache_miss":
        return this.#miss(event, timeMs);
      case "client_event":
        return this.#owner.report(event, null, this.#targets, timeMs);
      case "subscription_count":
        return this.#owner.report(
          event,
          countKey(event),
          this.#targets,
          timeMs,
        );
    }
  }

  /** Says that something was published: a cache miss may be reported again. */
  published(channel: string): void {
    if (!this.#missed.delete(channel)) return;
    this.#owner.missed?.(channel, false);
  }

  /** Reports the departures that were held back long enough. */
  settle(nowMs: number): void {
    for (const [key, departure] of this.#departures) {
      const dueMs = departure.timeMs + this.#settleMs;
      if (dueMs > nowMs) return;
      this.#settle(key, departure, dueMs);
    }
  }

  /** Reports all departures. */
  settleAll(): void {
    for (const [key, departure] of this.#departures) {
      this.#settle(key, departure, departure.timeMs + this.#settleMs);
    }
  }

  /** Reports that a channel or member came, unless that undoes a departure. */
  #arrive(key: string, event: OutgoingEvent, timeMs: number): void {
    const departure = this.#departures.get(key);
    if (departure === undefined) {
      const told = this.#targets.filter((target) =>
        !target.withdraw(key, DEPARTURES)
      );
      return this.#owner.report(event, key, told, timeMs);
    }
    this.#release(key);
    this.#owner.report(event, key, [...departure.withdrawn], timeMs);
  }

  /** Reports later that a channel or member has gone, unless it comes back. */
  #depart(key: string, event: OutgoingEvent, timeMs: number): void {
    // On another server it may have come back between two departures from here.
    const earlier = this.#departures.get(key);
    const withdrawn = new Set(earlier?.withdrawn);
    for (const target of this.#targets) {
      if (target.withdraw(key, ARRIVALS)) withdrawn.add(target);
    }
    const departure = { event, timeMs, withdrawn };
    // At the end, as the order is that of the times.
    this.#departures.delete(key);
    this.#departures.set(key, departure);
    this.#owner.held?.(key, departure);
  }

  #settle(
    key: string,
    { event, withdrawn }: Departure<To>,
    dueMs: number,
  ): void {
    this.#release(key);
    if (event.name === "channel_vacated") this.published(event.channel);
    const told = this.#targets.filter((target) => !withdrawn.has(target));
    this.#owner.report(event, key, told, dueMs);
  }

  #release(key: string): void {
    this.#departures.delete(key);
    this.#owner.held?.(key, null);
  }

  #miss(event: OutgoingEvent, timeMs: number): void {
    const { channel } = event;
    if (this.#missed.has(channel)) return;
    const [oldest] = this.#missed;
    if (oldest !== undefined && this.#missed.size >= this.#maxMissed) {
      this.published(oldest);
    }
    this.#missed.add(channel);
    this.#owner.missed?.(channel, true);
    this.#owner.report(event, null, this.#targets, timeMs);
  }
}

/** A key unlike every channel and member. */
function countKey({ channel }: OutgoingEvent): string {
  return `\n${channel}`;
}
