/**
 * The events that webhooks report, as the protocol writes them.
 *
 * @module
 */

import type { Hooks, WebhookEvent } from "../../mod.ts";

/** The name of an event that endpoints can get. */
export type WebhookName =
  | "channel_occupied"
  | "channel_vacated"
  | "member_added"
  | "member_removed"
  | "client_event"
  | "cache_miss"
  | "subscription_count";

/** An event in the body of a webhook. */
export interface OutgoingEvent extends WebhookEvent {
  /** The name of the event. */
  name: WebhookName;
  /** The channel that it is about. */
  channel: string;
}

/** Each event as the protocol writes it, with its fields in that order. */
export const WIRE: {
  [Name in WebhookName]: (event: Hooks[Name]) => OutgoingEvent;
} = {
  channel_occupied: ({ channel }) => ({ name: "channel_occupied", channel }),
  channel_vacated: ({ channel }) => ({ name: "channel_vacated", channel }),
  member_added: ({ channel, userId }) => (
    { name: "member_added", channel, user_id: userId }
  ),
  member_removed: ({ channel, userId }) => (
    { name: "member_removed", channel, user_id: userId }
  ),
  client_event: ({ channel, event, data, socketId, userId }) => ({
    name: "client_event",
    channel,
    event,
    ...(data !== undefined && { data }),
    socket_id: socketId,
    ...(userId !== undefined && { user_id: userId }),
  }),
  cache_miss: ({ channel }) => ({ name: "cache_miss", channel }),
  subscription_count: ({ channel, subscriptionCount }) => ({
    name: "subscription_count",
    channel,
    subscription_count: subscriptionCount,
  }),
};

export const NAMES = Object.keys(WIRE) as WebhookName[];

/** Events that a later one of the second list can undo. */
export const ARRIVALS: ReadonlySet<string> = new Set<WebhookName>(
  ["channel_occupied", "member_added"],
);

export const DEPARTURES: ReadonlySet<string> = new Set<WebhookName>(
  ["channel_vacated", "member_removed"],
);

/** A key unlike every channel, as no channel name has a line break. */
export function memberKey({ channel, user_id }: OutgoingEvent): string {
  return `${channel}\n${user_id}`;
}
