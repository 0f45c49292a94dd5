// deno-lint-ignore-file no-explicit-any -- without a declaration everything is allowed
/**
 * Svelte stores for the client: `channel`, `presence`, `subscription` and
 * `connectionState`, and
 * `onEvent` for effects. They need no library, and work wherever the contract of
 * Svelte's stores is known.
 *
 * ```svelte
 * <script lang="ts">
 *   import { onMount } from "svelte";
 *   import { connectionState, onEvent, presence } from "@glitz/pusher/svelte";
 *   import { pusher } from "./realtime.ts";
 *
 *   const lobby = presence(pusher, "presence-lobby");
 *   const state = connectionState(pusher);
 *   let texts: string[] = $state([]);
 *   onMount(() =>
 *     onEvent(pusher, "messages", "create", ({ text }) => texts.push(text))
 *   );
 * </script>
 *
 * <p title={$state}>{$lobby.count} here: {texts.join(", ")}</p>
 * ```
 *
 * Subscriptions are counted, as for React: any number of stores share a channel, also
 * with code that calls the client itself. A store is subscribed to its channel while
 * the store has subscribers. On a server there is no client: pass `undefined`, and
 * the stores keep their initial values.
 *
 * @module
 */
import type {
  Channel,
  ChannelName,
  ChannelOf,
  ConnectionState,
  EventName,
  EventsOf,
  Handler,
  Pusher,
  SubscribeOptions,
  UserInfo,
} from "../client.ts";
import {
  type AnyHandler,
  channelSource,
  type LazyClient,
  listen,
  NOBODY,
  NOT_CONNECTED,
  NOT_SUBSCRIBED,
  type Presence,
  type PresenceName,
  presenceSource,
  type Source,
  stateSource,
  type Subscription,
  subscriptionSource,
  toLazy,
} from "./shared/sources.ts";

export type { Presence, PresenceName, Subscription } from "./shared/sources.ts";

/** A store, as Svelte's `Readable`. */
export interface PusherStore<Value> {
  /** Calls a function with the value, now and after each change, until stopped. */
  subscribe(run: (value: Value) => void): () => void;
}

function store<Value>(
  client: Pusher | undefined,
  make: (lazy: LazyClient) => Source<Value>,
  initial: Value,
): PusherStore<Value> {
  return {
    subscribe(run) {
      const source = client && make(toLazy(client));
      let shown = source ? source.read() : initial;
      run(shown);
      return source?.watch(() => {
        const value = source.read();
        if (value !== shown) run(shown = value);
      }) ?? (() => {});
    },
  };
}

/** A channel, which is subscribed while the store has subscribers. */
export function channel<
  Events = any,
  C extends ChannelName<Events> = ChannelName<Events>,
>(
  client: Pusher<Events> | undefined,
  name: C,
  options?: SubscribeOptions,
): PusherStore<ChannelOf<Events, C> | undefined> {
  const found = store<Channel | undefined>(
    client,
    (lazy) => channelSource(lazy, name, options),
    undefined,
  );
  // The name decides the class, as the type says.
  return found as PusherStore<ChannelOf<Events, C> | undefined>;
}

/** The members of a presence channel, subscribed while the store has subscribers. */
export function presence<
  Events = any,
  C extends PresenceName<Events> = PresenceName<Events>,
>(
  client: Pusher<Events> | undefined,
  name: C,
): PusherStore<Presence<UserInfo<Events[C]>>> {
  return store(client, (lazy) => presenceSource(lazy, name), NOBODY);
}

/**
 * What became of a subscription, which lasts while the store has subscribers.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { subscription } from "@glitz/pusher/svelte";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher({ authorize: () => false });
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * const status = await new Promise((resolve) => {
 *   subscription(pusher, "private-orders").subscribe(({ state, error }) => {
 *     if (state === "refused") resolve(error.status);
 *   });
 * });
 * assertEquals(status, 403);
 * pusher.disconnect();
 * ```
 */
export function subscription<Events = any>(
  client: Pusher<Events> | undefined,
  name: ChannelName<Events>,
  options?: SubscribeOptions,
): PusherStore<Subscription> {
  return store(
    client,
    (lazy) => subscriptionSource(lazy, name, options),
    NOT_SUBSCRIBED,
  );
}

/**
 * The state of the connection.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { connectionState } from "@glitz/pusher/svelte";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher();
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * await new Promise<void>((resolve) => {
 *   connectionState(pusher).subscribe((state) => {
 *     if (state === "connected") resolve();
 *   });
 * });
 * assertEquals(pusher.connection.state, "connected");
 * pusher.disconnect();
 * ```
 */
export function connectionState<Events>(
  client: Pusher<Events> | undefined,
): PusherStore<ConnectionState> {
  return store(client, stateSource, NOT_CONNECTED);
}

/**
 * Subscribes to a channel and handles an event, for `onMount` and `$effect`.
 *
 * @returns A function that ends it.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { onEvent } from "@glitz/pusher/svelte";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher();
 * test.stubGlobals(); // clients connect in memory
 * const pusher = new Pusher("app-key", { url: "http://localhost" });
 * const texts = new Promise<string>((resolve) => {
 *   onEvent(pusher, "messages", "create", ({ text }) => resolve(text));
 * });
 * test.pusher.on("subscribed", ({ channel }) => {
 *   test.pusher.trigger(channel, "create", { text: "hello" });
 * });
 * assertEquals(await texts, "hello");
 * pusher.disconnect();
 * ```
 */
export function onEvent<
  Events = any,
  C extends ChannelName<Events> = ChannelName<Events>,
  N extends EventName<EventsOf<Events, C>> = EventName<EventsOf<Events, C>>,
>(
  client: Pusher<Events> | undefined,
  name: C,
  event: N,
  handler: Handler<EventsOf<Events, C>[N]>,
  options?: SubscribeOptions,
): () => void {
  if (!client) return () => {};
  // The types say which data this event has.
  const any = handler as AnyHandler;
  return listen(toLazy(client), name, event, any, options);
}
