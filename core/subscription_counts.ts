/**
 * What subscribers of a channel hear of how many they are.
 *
 * @module
 */

import type { Message } from "./backplane.ts";
import { OUTBOUND, parseJson } from "./protocol.ts";
import type { Asking } from "./queries.ts";
import { type Clock, CountThrottle } from "./time.ts";

/** Tells the subscribers of a channel how many they are. */
export function countMessage(count: number): Message {
  return {
    event: OUTBOUND.SubscriptionCount,
    data: JSON.stringify({ subscription_count: count }),
  };
}

/** The counts of an app, which its servers announce by turns. */
export class SubscriptionCounts {
  readonly #throttle: CountThrottle;

  /** @param ask Asks the backplane, as other servers may have changed a count. */
  constructor(
    clock: Clock,
    announce: (channel: string, count: number) => void,
    ask: Asking,
  ) {
    const current = (channel: string, latest: number) => {
      const asked = ask((backplane, app) => backplane.occupancy(app, channel));
      if (!(asked instanceof Promise)) return asked.subscriptions;
      return asked.then(({ subscriptions }) => subscriptions, () => latest);
    };
    this.#throttle = new CountThrottle(clock, announce, current);
  }

  /** Takes the count that a join or a leave on this server has caused. */
  change(channel: string, count: number): void {
    this.#throttle.change(channel, count);
  }

  /** Takes a message of any kind; what a server has announced is of interest. */
  heard(channel: string, { event, data = "" }: Message): void {
    if (event !== OUTBOUND.SubscriptionCount) return;
    const { subscription_count: count } = Object(parseJson(data));
    if (typeof count === "number") this.#throttle.heard(channel, count);
  }

  /** Announces what still waits, and waits no more. */
  close(): void {
    this.#throttle.close();
  }
}
