/**
 * Events that clients send to each other: their checks and their rate.
 *
 * @module
 */

import type { KnownMember, Message } from "./backplane.ts";
import { isRefusal, type Limits, overLimit } from "./limits.ts";
import { type Awaitable, type Clock, TokenBucket } from "./time.ts";
import { checkClientEvent, encodeClientData } from "./validation.ts";

/** What is relayed of a client event, besides its channel. */
export type Relayed = Pick<Message, "event" | "data" | "userId">;

/** The connection that client events come from. */
export interface ClientEventsOwner {
  readonly app: {
    readonly limits: Readonly<Limits>;
    readonly clientEvents: boolean;
  };
  /** Its subscription to a channel, if it has one. */
  subscriptionTo(
    channel: string,
  ): { readonly member: KnownMember | undefined } | undefined;
  /** Hands an event to the other subscribers. */
  relay(channel: string, event: Relayed): Awaitable<void>;
  /** Tells the client why an event is not relayed. */
  refuseClientEvent(channel: string, reason: string): void;
}

/** The client events of one connection. */
export class ClientEvents {
  readonly #owner: ClientEventsOwner;
  readonly #clock: Clock;
  readonly #rate: TokenBucket;

  constructor(owner: ClientEventsOwner, clock: Clock) {
    this.#owner = owner;
    this.#clock = clock;
    const { clientEventsPerSecond } = owner.app.limits;
    this.#rate = new TokenBucket(clientEventsPerSecond, clock.elapsed());
  }

  /** Relays or refuses an event. */
  take(channel: string, event: string, value: unknown): Awaitable<void> {
    const { app } = this.#owner;
    const subscription = this.#owner.subscriptionTo(channel);
    const isSubscribed = subscription !== undefined;
    const refusal = checkClientEvent(event, channel, isSubscribed, app) ??
      this.#checkRate();
    if (refusal !== null) {
      return this.#owner.refuseClientEvent(channel, refusal);
    }
    const data = encodeClientData(value, app.limits);
    if (isRefusal(data)) {
      return this.#owner.refuseClientEvent(channel, data.error);
    }
    const userId = subscription?.member?.userId;
    return this.#owner.relay(channel, {
      event,
      ...(data !== undefined && { data }),
      ...(userId !== undefined && { userId }),
    });
  }

  #checkRate(): string | null {
    const { limits } = this.#owner.app;
    const rate = limits.clientEventsPerSecond;
    if (this.#rate.take(this.#clock.elapsed(), rate, rate)) return null;
    const found = "Client events come too fast";
    return overLimit("clientEventsPerSecond", limits, found).error;
  }
}
