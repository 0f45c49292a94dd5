// deno-lint-ignore-file no-explicit-any -- React's types differ from version to
// version, and peers send any JSON
/**
 * React hooks for the client: `useChannel`, `useEvent`, `usePresence`,
 * `useSubscription` and `useConnectionState`, for React 18 and 19.
 *
 * ```ts ignore
 * // realtime.ts: the hooks of the program, typed by its events
 * import * as React from "react";
 * import { Pusher } from "@glitz/pusher/client";
 * import { pusherHooks } from "@glitz/pusher/react";
 *
 * export type Events = {
 *   messages: { create: { text: string } };
 *   "presence-lobby": { "pusher:user_info": { name: string } };
 * };
 *
 * export const { useConnectionState, useEvent, usePresence } = pusherHooks(
 *   React,
 *   () => new Pusher<Events>("app-key", { url: "http://localhost:8000" }),
 * );
 * ```
 *
 * ```tsx ignore
 * // chat.tsx
 * import { useState } from "react";
 * import { useConnectionState, useEvent, usePresence } from "./realtime.ts";
 *
 * export function Chat() {
 *   const [texts, setTexts] = useState<string[]>([]);
 *   const { count } = usePresence("presence-lobby");
 *   const state = useConnectionState();
 *   useEvent("messages", "create", ({ text }) => setTexts((all) => [...all, text]));
 *   return <p title={state}>{count} here: {texts.join(", ")}</p>;
 * }
 * ```
 *
 * - Subscriptions are counted. Any number of components share a channel, also with
 *   code outside React that calls `subscribe` and `unsubscribe` of the client: the
 *   channel is left when the last of them has left it.
 * - Components subscribe after they are shown, never while they render, and a
 *   component that React mounts again in the same turn keeps its subscription. So
 *   strict mode and hot updates neither subscribe twice nor lose an event.
 * - On a server the hooks give their initial values and open no socket, if the client
 *   is a function. The page starts with the same values, as hydration needs it.
 * - After a reconnect the client recovers what its channels missed; components need
 *   not do anything.
 *
 * The program passes its React as an argument, and this module imports nothing. An
 * import would be a dependency on one major version, because a specifier of Deno and
 * JSR cannot name two, and JSR has no peer dependencies: programs with the other
 * version would get a second React, whose hooks fail. So there is one React in every
 * installation, and Preact's `preact/compat` works, too.
 *
 * @module
 */
import type {
  ChannelName,
  ChannelOf,
  ConnectionState,
  Emitter,
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
  type ClientSource,
  clientSource,
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

// ---- Types ------------------------------------------------------------------

/**
 * The functions of React that the hooks use. `import * as React from "react"` has
 * them, and so has the default import.
 */
export interface ReactFunctions {
  /** Makes a context. */
  createContext(value: any): any;
  /** Makes an element. */
  createElement(type: any, props: any, ...children: any[]): any;
  /** Reads a context. */
  useContext(context: any): any;
  /** Runs an effect after the component is shown. */
  useEffect(effect: () => (() => void) | undefined, inputs?: any): void;
  /** Runs an effect before all others. */
  useInsertionEffect(effect: () => void): void;
  /** Keeps a value until its inputs change. */
  useMemo(make: () => any, inputs: any): any;
  /** Keeps a value. */
  useRef(value: any): any;
  /** Subscribes to a value outside React. */
  useSyncExternalStore(
    subscribe: (onChange: () => void) => () => void,
    read: () => any,
    readOnServer: () => any,
  ): any;
}

/** An element of React. */
export interface PusherElement {
  /** What it shows. */
  type: any;
  /** The properties. */
  props: any;
  /** The key. */
  key: string | null;
}

/** Properties of {@linkcode PusherHooks.PusherProvider}. */
export interface PusherProviderProps<Events = any> {
  /**
   * The client, or a function that makes it: once, in the browser. The provider
   * disconnects only a client that it has made.
   */
  client: ClientSource<Events>;
  /** The components that use the client. */
  children?: any;
}

/** A name that is missing stands for no channel: hooks cannot be left out. */
export type OrNone<Name> = Name | null | undefined;

/** The hooks for a declaration of events; made by {@linkcode pusherHooks}. */
export interface PusherHooks<Events = any> {
  /**
   * Gives the components within it a client, in place of the client that
   * {@linkcode pusherHooks} was given.
   */
  PusherProvider(props: PusherProviderProps<Events>): PusherElement;

  /**
   * The client: for `trigger`, `signin` and all that has no hook. It is undefined on
   * a server, and until the component is shown if a function makes the client.
   */
  usePusher(): Pusher<Events> | undefined;

  /**
   * Subscribes to a channel while the component is shown, and returns the channel. It
   * is undefined on a server, and until the component is shown.
   */
  useChannel<C extends ChannelName<Events>>(
    name: OrNone<C>,
    options?: SubscribeOptions,
  ): ChannelOf<Events, C> | undefined;

  /**
   * Handles an event of an object that the program has: the client itself, its
   * `user`, or its `connection`.
   */
  useEvent<Own = any, N extends EventName<Own> = EventName<Own>>(
    emitter: OrNone<Emitter<Own>>,
    event: N,
    handler: Handler<Own[N]>,
  ): void;
  /**
   * Subscribes to a channel while the component is shown, and handles an event of the
   * program or of the protocol: `pusher:subscription_error`, for example. Each event
   * calls the handler of the last render, so it may use state and need not be kept.
   */
  useEvent<
    C extends ChannelName<Events>,
    N extends EventName<EventsOf<Events, C>>,
  >(
    name: OrNone<C>,
    event: N,
    handler: Handler<EventsOf<Events, C>[N]>,
    options?: SubscribeOptions,
  ): void;

  /**
   * Subscribes to a presence channel while the component is shown, and returns the
   * members as they are now. Without a connection there are none.
   */
  usePresence<C extends PresenceName<Events>>(
    name: OrNone<C>,
  ): Presence<UserInfo<Events[C]>>;

  /**
   * Subscribes to a channel while the component is shown, and returns what became of
   * that: whether it is subscribed, or why it was refused.
   */
  useSubscription<C extends ChannelName<Events>>(
    name: OrNone<C>,
    options?: SubscribeOptions,
  ): Subscription;

  /** The state of the connection; `initialized` on a server. */
  useConnectionState(): ConnectionState;
}

// ---- Hooks ------------------------------------------------------------------

/** Functions that the hooks need and React 17 does not have. */
const OF_REACT_18 = ["useInsertionEffect", "useSyncExternalStore"] as const;

/**
 * Makes the hooks of a program. Call it once, in a module of its own.
 *
 * @example On a server, which opens no socket
 * ```ts
 * import * as React from "npm:react@19.3.1";
 * import { renderToString } from "npm:react-dom@19.3.1/server.browser";
 * import { Pusher } from "@glitz/pusher/client";
 * import { pusherHooks } from "@glitz/pusher/react";
 * import { assertEquals } from "@std/assert";
 *
 * const { usePresence } = pusherHooks(React, () => new Pusher("app-key"));
 *
 * function Count() {
 *   const { count } = usePresence("presence-lobby");
 *   return React.createElement("p", null, count);
 * }
 *
 * const html = renderToString(React.createElement(Count));
 * assertEquals(html, "<p>0</p>");
 * ```
 *
 * @example With a provider, for tests or for several clients
 * ```tsx ignore
 * import * as React from "react";
 * import { Pusher } from "@glitz/pusher/client";
 * import { pusherHooks } from "@glitz/pusher/react";
 *
 * type Events = { messages: { create: { text: string } } };
 * const { PusherProvider, useEvent } = pusherHooks<Events>(React);
 *
 * function Log() {
 *   useEvent("messages", "create", ({ text }) => console.log(text));
 *   return null;
 * }
 *
 * const connect = () => new Pusher<Events>("app-key", { wsHost: "localhost" });
 * export const app = <PusherProvider client={connect}><Log /></PusherProvider>;
 * ```
 *
 * @param react The program's React, version 18 or later.
 * @param client The client of components that have no `PusherProvider` around them.
 * A function connects when the first component needs the client; the client is
 * disconnected when the last has gone.
 * @throws {TypeError} If a function of React is missing. A hook throws if there is
 * neither a client nor a provider.
 */
export function pusherHooks<Events = any>(
  react: ReactFunctions,
  client?: ClientSource<Events>,
): PusherHooks<Events> {
  const missing = OF_REACT_18.find((name) => !react?.[name]);
  if (missing) {
    throw new TypeError(
      `Cannot make hooks: "react" has no ${missing}; pass React 18 or later`,
    );
  }
  const Context = react.createContext(client && toLazy(client));

  function useLazyClient(): LazyClient {
    const lazy: LazyClient | undefined = react.useContext(Context);
    if (lazy) return lazy;
    throw new TypeError(
      "Cannot use a hook of pusherHooks: there is no client; wrap the component in PusherProvider, or pass a client to pusherHooks",
    );
  }

  function useSource<Value>(
    make: (lazy: LazyClient) => Source<Value>,
    initial: Value,
    ...inputs: unknown[]
  ): Value {
    const lazy = useLazyClient();
    const source: Source<Value> = react.useMemo(
      () => make(lazy),
      [lazy, ...inputs],
    );
    const readOnServer = () => initial;
    return react.useSyncExternalStore(source.watch, source.read, readOnServer);
  }

  const hooks = {
    PusherProvider({ client, children }: PusherProviderProps): PusherElement {
      // Another function is the same client: programs write it where it is used.
      const isMade = typeof client === "function";
      const lazy: LazyClient = react.useMemo(
        () => toLazy(client),
        [isMade || client],
      );
      react.useEffect(() => lazy.hold().release, [lazy]);
      return react.createElement(Context.Provider, { value: lazy }, children);
    },

    usePusher: () => useSource(clientSource, undefined),

    useChannel: (name: OrNone<string>, options?: SubscribeOptions) =>
      useSource(
        (lazy) => channelSource(lazy, name, options),
        undefined,
        name,
        options?.rewind,
      ),

    useEvent(
      target: OrNone<string | Emitter>,
      event: string,
      handler: AnyHandler,
      options?: SubscribeOptions,
    ): void {
      const lazy = useLazyClient();
      const latest: { current: AnyHandler } = react.useRef(handler);
      react.useInsertionEffect(() => {
        latest.current = handler;
      });
      react.useEffect(() => {
        if (!target) return;
        const callLatest: AnyHandler = (data, metadata) =>
          latest.current(data, metadata);
        return listen(lazy, target, event, callLatest, options);
      }, [lazy, target, event, options?.rewind]);
    },

    usePresence: (name: OrNone<string>) =>
      useSource((lazy) => presenceSource(lazy, name), NOBODY, name),

    useSubscription: (name: OrNone<string>, options?: SubscribeOptions) =>
      useSource(
        (lazy) => subscriptionSource(lazy, name, options),
        NOT_SUBSCRIBED,
        name,
        options?.rewind,
      ),

    useConnectionState: () => useSource(stateSource, NOT_CONNECTED),
  };
  // One code for every declaration: the types say what it does with these events.
  return hooks as unknown as PusherHooks<Events>;
}
