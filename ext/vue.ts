/**
 * Vue composables for the client: `useChannel`, `useEvent`, `usePresence`,
 * `useSubscription` and `useConnectionState`, for Vue 3.3 and later.
 *
 * ```ts ignore
 * // realtime.ts: the composables of the program, typed by its events
 * import * as vue from "vue";
 * import { Pusher } from "@glitz/pusher/client";
 * import { pusherComposables } from "@glitz/pusher/vue";
 *
 * export type Events = { messages: { create: { text: string } } };
 *
 * export const { useConnectionState, useEvent } = pusherComposables(
 *   vue,
 *   () => new Pusher<Events>("app-key", { url: "http://localhost:8000" }),
 * );
 * ```
 *
 * Subscriptions are counted, as for React: any number of components share a channel,
 * also with code that calls the client itself. In a component they begin when it is
 * mounted, never on a server; in another scope at once. They end with the scope.
 *
 * The program passes its Vue as an argument, and this module imports nothing: so
 * there is one Vue in every installation.
 *
 * @module
 */
import type {
  ChannelName,
  ChannelOf,
  ConnectionState,
  EventName,
  EventsOf,
  Handler,
  SubscribeOptions,
  UserInfo,
} from "../client.ts";
import {
  type AnyHandler,
  channelSource,
  type ClientSource,
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

export type {
  ClientSource,
  Presence,
  PresenceName,
  Subscription,
} from "./shared/sources.ts";

/** The functions of Vue that are used: `import * as vue from "vue"` has them. */
export interface VueFunctions {
  /** The component that is set up. */
  getCurrentInstance(): unknown;
  /** Runs when the component is mounted. */
  onMounted(run: () => void): unknown;
  /** Makes a reference. */
  shallowRef<Value>(value: Value): { value: Value };
  /** Reads a value, a reference or a getter. */
  toValue(source: unknown): unknown;
  /** Runs when a value changes; ends with the scope. */
  watch(
    read: () => unknown,
    run: (
      value: never,
      before: never,
      onCleanup: (clean: () => void) => void,
    ) => void,
    options: { immediate: true },
  ): unknown;
}

/** A reference that can be read. */
export interface ReadonlyRef<Value> {
  /** The value. */
  readonly value: Value;
}

/** A value, a reference or a getter; a name that is missing stands for no channel. */
export type OrGetter<Name> =
  | Name
  | null
  | undefined
  | ReadonlyRef<Name | null | undefined>
  | (() => Name | null | undefined);

/** The names that a value, a reference or a getter gives. */
export type NameOf<Events, Given> =
  & ChannelName<Events>
  & (Given extends () => infer Name ? Name
    : Given extends ReadonlyRef<infer Name> ? Name
    : Given);

/** The composables for a declaration of events. */
// deno-lint-ignore no-explicit-any -- without a declaration every channel is allowed
export interface PusherComposables<Events = any> {
  /** Subscribes to a channel, and gives it. It is undefined before. */
  useChannel<Given extends OrGetter<ChannelName<Events>>>(
    name: Given,
    options?: SubscribeOptions,
  ): ReadonlyRef<ChannelOf<Events, NameOf<Events, Given>> | undefined>;
  /** Subscribes to a channel, and handles an event. */
  useEvent<
    Given extends OrGetter<ChannelName<Events>>,
    N extends EventName<EventsOf<Events, NameOf<Events, Given>>>,
  >(
    name: Given,
    event: N,
    handler: Handler<EventsOf<Events, NameOf<Events, Given>>[N]>,
    options?: SubscribeOptions,
  ): void;
  /** Subscribes to a presence channel, and gives the members. */
  usePresence<Given extends OrGetter<PresenceName<Events>>>(
    name: Given,
  ): ReadonlyRef<Presence<UserInfo<Events[NameOf<Events, Given>]>>>;
  /** Subscribes to a channel, and gives what became of that. */
  useSubscription<Given extends OrGetter<ChannelName<Events>>>(
    name: Given,
    options?: SubscribeOptions,
  ): ReadonlyRef<Subscription>;
  /** The state of the connection; `initialized` on a server. */
  useConnectionState(): ReadonlyRef<ConnectionState>;
}

/**
 * Makes the composables of a program. Call it once, in a module of its own.
 *
 * @param vue The program's Vue.
 * @param client The client, or a function that makes it when it is first needed.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher/client";
 * import { pusherComposables, type VueFunctions } from "@glitz/pusher/vue";
 *
 * // In a program: import * as vue from "vue", and pass it.
 * const composables = (vue: VueFunctions) =>
 *   pusherComposables(
 *     vue,
 *     () => new Pusher("app-key", { url: "https://example.com" }),
 *   );
 * console.log(typeof composables);
 * ```
 */
// deno-lint-ignore no-explicit-any -- without a declaration every channel is allowed
export function pusherComposables<Events = any>(
  vue: VueFunctions,
  client: ClientSource<Events>,
): PusherComposables<Events> {
  const lazy: LazyClient = toLazy(client);
  type Name = OrGetter<string>;
  const toName = (name: Name) => vue.toValue(name) as string | undefined;

  // On a server nothing is mounted.
  function keep(start: () => void): void {
    if (vue.getCurrentInstance()) vue.onMounted(start);
    else start();
  }

  function useSource<Value>(make: () => Source<Value>, initial: Value) {
    const shown = vue.shallowRef(initial);
    keep(() =>
      vue.watch(make, (source: Source<Value>, _before, onCleanup) => {
        const show = () => void (shown.value = source.read());
        onCleanup(source.watch(show));
        show();
      }, { immediate: true })
    );
    return shown;
  }

  const composables = {
    useChannel: (name: Name, options?: SubscribeOptions) =>
      useSource(() => channelSource(lazy, toName(name), options), undefined),
    useEvent(
      name: Name,
      event: string,
      handler: AnyHandler,
      options?: SubscribeOptions,
    ): void {
      keep(() =>
        vue.watch(() => toName(name), (now: string, _before, onCleanup) => {
          if (now) onCleanup(listen(lazy, now, event, handler, options));
        }, { immediate: true })
      );
    },
    usePresence: (name: Name) =>
      useSource(() => presenceSource(lazy, toName(name)), NOBODY),
    useSubscription: (name: Name, options?: SubscribeOptions) =>
      useSource(
        () => subscriptionSource(lazy, toName(name), options),
        NOT_SUBSCRIBED,
      ),
    useConnectionState: () => useSource(() => stateSource(lazy), NOT_CONNECTED),
  };
  // One code for every declaration: the types say what it does with these events.
  return composables as unknown as PusherComposables<Events>;
}
