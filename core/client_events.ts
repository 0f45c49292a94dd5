/**
 * Events that clients send to each other: who may send them, how fast, and what of
 * them is relayed.
 *
 * @module
 */

import type { KnownMember, Message } from "./backplane.ts";
import type { ReviewClientEvent } from "./calls.ts";
import { isRefusal, type Limits, overLimit } from "./limits.ts";
import { parseJson } from "./protocol.ts";
import { Reviews, type ReviewServices } from "./reviews.ts";
import { type Awaitable, TokenBucket } from "./time.ts";
import { isUnavailable, relayFailure } from "./unavailable.ts";
import { checkClientEvent, encodeClientData } from "./validation.ts";

/** What is relayed of a client event, besides its channel. */
export type Relayed = Pick<Message, "event" | "data" | "userId">;

/** The connection that client events come from. */
export interface ClientEventsOwner {
  readonly app: {
    readonly id: string;
    readonly limits: Readonly<Limits>;
    readonly clientEvents: boolean;
    readonly reviewClientEvent: ReviewClientEvent | undefined;
  };
  readonly socketId: string;
  readonly isOpen: boolean;
  /** The user who has signed in. */
  readonly userId: string | undefined;
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
  readonly #services: ReviewServices;
  readonly #rate: TokenBucket;
  /** Null where the program reviews nothing. */
  readonly #reviews: Reviews | null;

  constructor(owner: ClientEventsOwner, services: ReviewServices) {
    const { limits, reviewClientEvent: review } = owner.app;
    this.#owner = owner;
    this.#services = services;
    const elapsed = services.clock.elapsed();
    this.#rate = new TokenBucket(limits.clientEventsPerSecond, elapsed);
    this.#reviews = review === undefined
      ? null
      : new Reviews(review, limits, services);
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
    if (this.#reviews === null) {
      return this.#relay(channel, event, data, userId);
    }
    const { socketId, userId: user } = this.#owner;
    const sender = userId ?? user;
    const sent = {
      ...{ app: app.id, channel, event, data: seenBySubscribers(value) },
      ...{ socketId, ...(sender !== undefined && { userId: sender }) },
    };
    return this.#reviews.take({ sent, data }, (verdict) => {
      if (!this.#owner.isOpen || verdict === null) return;
      if (isRefusal(verdict)) {
        return this.#owner.refuseClientEvent(channel, verdict.error);
      }
      // It may even have joined again, as another member.
      if (this.#owner.subscriptionTo(channel) !== subscription) {
        return this.#owner.refuseClientEvent(channel, HAS_LEFT);
      }
      return this.#relay(channel, event, verdict.data, userId);
    });
  }

  #relay(
    channel: string,
    event: string,
    data: string | undefined,
    userId: string | undefined,
  ): Awaitable<void> {
    const relayed = this.#owner.relay(channel, {
      event,
      ...(data !== undefined && { data }),
      ...(userId !== undefined && { userId }),
    });
    if (!(relayed instanceof Promise)) return;
    return relayed.catch((error) => {
      if (!isUnavailable(error)) throw error;
      this.#owner.refuseClientEvent(channel, relayFailure(error));
    });
  }

  #checkRate(): string | null {
    const { limits } = this.#owner.app;
    const rate = limits.clientEventsPerSecond;
    const elapsed = this.#services.clock.elapsed();
    if (this.#rate.take(elapsed, rate, rate)) return null;
    const found = "Client events come too fast";
    return overLimit("clientEventsPerSecond", limits, found).error;
  }
}

const HAS_LEFT = "The client left the channel before its event was relayed";

/** The data as clients hand it to the program of the page: parsed, if it is JSON. */
function seenBySubscribers(value: unknown): unknown {
  if (typeof value !== "string") return value;
  const parsed = parseJson(value);
  return parsed === undefined ? value : parsed;
}
