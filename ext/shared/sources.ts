/**
 * What the parts for frameworks have in common: subscriptions that are counted, and
 * values of a client that change. It knows no framework.
 *
 * @module
 */
import type {
  Channel,
  ChannelName,
  ConnectionState,
  Emitter,
  EventMetadata,
  Member,
  PresenceChannel,
  Pusher,
  SubscribeOptions,
  SubscriptionError,
} from "../../client.ts";

/**
 * A client, or a function that makes it. The function is called when the client is
 * first needed, in a browser and never on a server, and the client that it makes is
 * disconnected when nothing needs it any more.
 */
// deno-lint-ignore no-explicit-any -- without a declaration every channel is allowed
export type ClientSource<Events = any> =
  | Pusher<Events>
  | (() => Pusher<Events>);

/** The names of presence channels. */
export type PresenceName<Events> =
  & ChannelName<Events>
  & `presence-${string}`;

/** The members of a presence channel. A change makes another object. */
// deno-lint-ignore no-explicit-any -- without a declaration it may be anything
export interface Presence<Info = any> {
  /** The members; empty while the channel is not subscribed. */
  readonly members: readonly Member<Info>[];
  /** Number of members. */
  readonly count: number;
  /** The program's own user, while it is a member. */
  readonly me: Member<Info> | null;
}

/** No members: on a server, and while the channel is not subscribed. */
export const NOBODY: Presence = Object.freeze({
  members: Object.freeze([]),
  count: 0,
  me: null,
});

/** What became of a subscription. A change makes another object. */
export type Subscription =
  | {
    /**
     * `none` on a server and without a name; `pending` until the server has answered,
     * and while there is no connection.
     */
    readonly state: "none" | "pending" | "subscribed";
    /** There is no error. */
    readonly error: null;
  }
  | {
    /** The auth endpoint or the server has refused it. */
    readonly state: "refused";
    /** Why. */
    readonly error: SubscriptionError;
  };

/** No subscription: on a server, and without a name. */
export const NOT_SUBSCRIBED: Subscription = Object.freeze({
  state: "none",
  error: null,
});
const PENDING: Subscription = Object.freeze({ state: "pending", error: null });
const SUBSCRIBED: Subscription = Object.freeze({
  state: "subscribed",
  error: null,
});

/** The state of a connection on a server, and before there is a client. */
export const NOT_CONNECTED: ConnectionState = "initialized";

/** A value that changes. */
export interface Source<Value> {
  /** The value now. It is the same object until the value changes. */
  read(): Value;
  /** Calls a function after each change; returns a function that ends this. */
  watch(onChange: () => void): () => void;
}

/** Any handler of an event. */
// deno-lint-ignore no-explicit-any -- peers send any JSON
export type AnyHandler = (data: any, metadata: EventMetadata) => void;

// ---- Clients ----------------------------------------------------------------

/** A client that is made when it is first needed. */
export interface LazyClient {
  /** The client, if it has been made. */
  peek(): Pusher | undefined;
  /** Needs the client; returns it, and a function that ends the need. */
  hold(): Held<Pusher>;
}

/** Something that is needed until it is released. */
export interface Held<Value> {
  value: Value;
  release(): void;
}

/** The same object for the same client. */
const lazies = new WeakMap<Pusher, LazyClient>();

/** Makes a client lazy. A client that exists belongs to the program and stays. */
export function toLazy(source: ClientSource): LazyClient {
  if (typeof source === "function") return lazyClient(source);
  const lazy = lazies.get(source) ?? {
    peek: () => source,
    hold: () => ({ value: source, release() {} }),
  };
  lazies.set(source, lazy);
  return lazy;
}

function lazyClient(make: () => Pusher): LazyClient {
  let client: Pusher | undefined;
  let count = 0;
  return {
    peek: () => client,
    hold() {
      const value = client ??= make();
      count++;
      const release = once(() => {
        count--;
        soon(() => {
          if (count > 0 || client !== value) return;
          client = undefined;
          value.disconnect();
        });
      });
      return { value, release };
    },
  };
}

/**
 * Waits for the end of the turn: frameworks that mount a component again, as React
 * does in its strict mode and at hot updates, have done so by then.
 */
function soon(act: () => void): void {
  queueMicrotask(act);
}

function once(act: () => void): () => void {
  let isDone = false;
  return () => {
    if (!isDone) act();
    isDone = true;
  };
}

// ---- Subscriptions ----------------------------------------------------------

/** The subscriptions of each client. */
const registries = new WeakMap<Pusher, Subscriptions>();

/**
 * The subscriptions of a client, counted. Invariant: a channel is subscribed while a
 * component holds it or the program has subscribed to it. To know of the program the
 * methods of the client are replaced: its `unsubscribe` takes no channel from a
 * component, and the last component takes no channel from the program.
 */
class Subscriptions {
  readonly #counts = new Map<string, number>();
  /** The channels to which the program has subscribed. */
  readonly #ofProgram: Set<string>;
  readonly #subscribe: Pusher["subscribe"];
  readonly #unsubscribe: Pusher["unsubscribe"];

  constructor(client: Pusher) {
    this.#ofProgram = new Set(
      client.allChannels()
        // Such a channel is left when the server has answered.
        .filter((channel) => !channel.subscriptionCancelled)
        .map(({ name }) => name),
    );
    this.#subscribe = client.subscribe.bind(client);
    this.#unsubscribe = client.unsubscribe.bind(client);
    client.subscribe = (name, options) => {
      const channel = this.#subscribe(name, options);
      this.#ofProgram.add(name);
      return channel;
    };
    client.unsubscribe = (name) => {
      this.#ofProgram.delete(name);
      if (!this.#counts.has(name)) this.#unsubscribe(name);
    };
    // The client calls it after a reconnect, which is no wish of the program.
    client.subscribeAll = () => {
      for (const { name } of client.allChannels()) this.#subscribe(name);
    };
  }

  hold(name: string, options?: SubscribeOptions): Held<Channel> {
    const value = this.#subscribe(name, options);
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
    return { value, release: once(() => this.#release(name)) };
  }

  #release(name: string): void {
    const count = this.#counts.get(name) ?? 0;
    this.#counts.set(name, count - 1);
    soon(() => {
      if (this.#counts.get(name) !== 0) return;
      this.#counts.delete(name);
      if (!this.#ofProgram.has(name)) this.#unsubscribe(name);
    });
  }
}

/** Needs a channel; also needs the client. */
function holdChannel(
  lazy: LazyClient,
  name: string,
  options?: SubscribeOptions,
): Held<Channel> {
  const client = lazy.hold();
  try {
    let registry = registries.get(client.value);
    if (!registry) {
      registry = new Subscriptions(client.value);
      registries.set(client.value, registry);
    }
    const channel = registry.hold(name, options);
    return {
      value: channel.value,
      release() {
        channel.release();
        client.release();
      },
    };
  } catch (error) {
    // The client refuses the name.
    client.release();
    throw error;
  }
}

/**
 * Handles an event of a channel, which is subscribed until the returned function is
 * called, or of an object that the program has.
 */
export function listen(
  lazy: LazyClient,
  target: string | Emitter,
  event: string,
  handler: AnyHandler,
  options?: SubscribeOptions,
): () => void {
  // To unbind a function removes all of its bindings, so each has its own function.
  const own: AnyHandler = (data, metadata) => handler(data, metadata);
  if (typeof target !== "string") {
    target.bind(event, own);
    return () => void target.unbind(event, own);
  }
  const { value: channel, release } = holdChannel(lazy, target, options);
  channel.bind(event, own);
  return () => {
    channel.unbind(event, own);
    release();
  };
}

// ---- Values -----------------------------------------------------------------

/** The client, once it is needed. */
export function clientSource(lazy: LazyClient): Source<Pusher | undefined> {
  return {
    read: lazy.peek,
    watch(onChange) {
      const { release } = lazy.hold();
      onChange();
      return release;
    },
  };
}

/** A channel, which is subscribed while it is watched. Without a name, undefined. */
export function channelSource(
  lazy: LazyClient,
  name: string | null | undefined,
  options?: SubscribeOptions,
): Source<Channel | undefined> {
  return {
    read: () => find(lazy, name),
    watch(onChange) {
      if (!name) return () => {};
      const { release } = holdChannel(lazy, name, options);
      onChange();
      return release;
    },
  };
}

/** A channel that is subscribed, or about to be. */
function find(
  lazy: LazyClient,
  name: string | null | undefined,
): Channel | undefined {
  const channel = name ? lazy.peek()?.channel(name) : undefined;
  return channel?.subscriptionCancelled ? undefined : channel;
}

/** What becomes of a subscription, which is held while it is watched. */
export function subscriptionSource(
  lazy: LazyClient,
  name: string | null | undefined,
  options?: SubscribeOptions,
): Source<Subscription> {
  let refused: Subscription | null = null;
  return {
    read() {
      if (!name) return NOT_SUBSCRIBED;
      return find(lazy, name)?.subscribed ? SUBSCRIBED : refused ?? PENDING;
    },
    watch(onChange) {
      if (!name) return () => {};
      const { value: channel, release } = holdChannel(lazy, name, options);
      const settle = () => {
        refused = null;
        onChange();
      };
      const refuse = (error: SubscriptionError) => {
        refused = { state: "refused", error };
        onChange();
      };
      const stops = [
        listen(lazy, channel, "pusher:subscription_succeeded", settle),
        listen(lazy, channel, "pusher:subscription_error", refuse),
        // The client asks again with a new connection.
        listen(lazy, channel.pusher.connection, "state_change", settle),
      ];
      onChange();
      return () => {
        for (const stop of stops) stop();
        release();
      };
    },
  };
}

/** Events that change the members of a channel. */
const MEMBER_EVENTS = [
  "pusher:subscription_succeeded",
  "pusher:member_added",
  "pusher:member_removed",
];

/** The members of a channel, which is subscribed while they are watched. */
export function presenceSource(
  lazy: LazyClient,
  name: string | null | undefined,
): Source<Presence> {
  let presence = NOBODY;
  return {
    read() {
      const now = presenceOf(find(lazy, name));
      if (!isSame(presence, now)) presence = now;
      return presence;
    },
    watch(onChange) {
      if (!name) return () => {};
      const { value: channel, release } = holdChannel(lazy, name);
      const stops = [
        ...MEMBER_EVENTS.map((event) => listen(lazy, channel, event, onChange)),
        // Without a connection there are no members.
        listen(lazy, channel.pusher.connection, "state_change", onChange),
      ];
      onChange();
      return () => {
        for (const stop of stops) stop();
        release();
      };
    },
  };
}

function presenceOf(channel: Channel | undefined): Presence {
  // Only presence channels have members.
  const { members: known } = (channel ?? {}) as Partial<PresenceChannel>;
  if (!known?.count) return NOBODY;
  const members: Member[] = [];
  known.each((member) => members.push(member));
  const me = members.find(({ id }) => id === known.me?.id) ?? null;
  return { members, count: members.length, me };
}

function isSame(a: Presence, b: Presence): boolean {
  return a.count === b.count && a.me?.id === b.me?.id &&
    a.members.every(({ id, info }, index) =>
      id === b.members[index]?.id && info === b.members[index]?.info
    );
}

/** The state of the connection. */
export function stateSource(lazy: LazyClient): Source<ConnectionState> {
  return {
    read: () => lazy.peek()?.connection.state ?? NOT_CONNECTED,
    watch(onChange) {
      const { value: { connection }, release } = lazy.hold();
      const stop = listen(lazy, connection, "state_change", onChange);
      onChange();
      return () => {
        stop();
        release();
      };
    },
  };
}
