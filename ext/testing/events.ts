/**
 * Events as a client of a test gets them, and their types.
 *
 * @module
 */

import { show } from "./mailbox.ts";

/** An event as a client gets it, with the name that `pusher-js` gives it. */
export interface TestEvent {
  /** Its name. */
  event: string;
  /** The channel, unless the event is about the connection or the user. */
  channel?: string;
  /** Its data: the value if it is JSON, else the text. */
  // deno-lint-ignore no-explicit-any -- a test knows what it waits for
  data: any;
  /** The sending member, for client events on presence channels. */
  userId?: string;
}

/** An event as short text, for messages. */
export function describeEvent({ event, channel, data }: TestEvent): string {
  const on = channel === undefined ? "" : ` on "${channel}"`;
  return `"${event}"${on}: ${show(data)}`;
}

/** The value of JSON, and any other text as it is. */
// deno-lint-ignore no-explicit-any -- each event has data of its own
export function decode(data: unknown): any {
  if (typeof data !== "string") return data;
  try {
    return JSON.parse(data);
  } catch {
    return data;
  }
}

/** Names that are reserved for the protocol. */
export type ProtocolName = `pusher:${string}` | `pusher_internal:${string}`;

/** The data of an event: anything where it is not declared. */
// deno-lint-ignore no-explicit-any -- without a declaration the data may be anything
export type Declared<Data> = unknown extends Data ? any : Data;

/** The `user_info` of the members of a channel with these events. */
export type InfoOf<Map> = Map extends { "pusher:user_info": infer Info } ? Info
  // deno-lint-ignore no-explicit-any -- without a declaration it may be anything
  : any;

/** Events of the protocol that a client of a test gets. */
// deno-lint-ignore no-explicit-any -- without a declaration it may be anything
export interface ProtocolEvents<Info = any> {
  /** A member joined. */
  "pusher:member_added": { id: string; info: Info };
  /** A member left. */
  "pusher:member_removed": { id: string; info: Info };
  /** The number of subscribers changed. */
  "pusher:subscription_count": { subscription_count: number };
  /** The cache channel has no cached event. */
  "pusher:cache_miss": undefined;
  /** Events were missed and cannot be replayed. */
  "pusher:recovery_failed": { channel: string };
  /** The server reports an error. */
  "pusher:error": { code: number | null; message: string };
}

/** The events that a client gets on a channel, with the data of each. */
export type ReceivedEvents<Map> =
  & {
    [N in Exclude<Extract<keyof Map, string>, ProtocolName>]: Declared<Map[N]>;
  }
  & ProtocolEvents<InfoOf<Map>>;

/** The names of these events. */
export type ReceivedName<Map> = Extract<keyof ReceivedEvents<Map>, string>;

/** The event names of any of several maps from event to data. */
export type NameIn<Maps> = Maps extends unknown ? keyof Maps : never;

/** The data of an event in any of several maps from event to data. */
export type DataIn<Maps, Name> = Maps extends unknown
  ? Name extends keyof Maps ? Maps[Name] : never
  : never;

/** The events of all channels: where several have one, its data is of any of them. */
export type AllEvents<Events> = {
  [N in NameIn<Events[keyof Events]>]: DataIn<Events[keyof Events], N>;
};

/** The events that clients may send on a channel. */
export type SentName<Map> = string extends keyof Map ? `client-${string}`
  : Extract<keyof Map, `client-${string}`>;
