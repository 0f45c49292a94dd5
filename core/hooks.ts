/**
 * Lifecycle events, and the queue that runs their listeners.
 *
 * @module
 */

import { quote } from "./limits.ts";

/** What every lifecycle event says. */
export interface AppEvent {
  /** Id of the app. */
  app: string;
}

/** A lifecycle event of one connection. */
export interface ConnectionEvent extends AppEvent {
  /** The connection. */
  socketId: string;
}

/** A connection is gone. */
export interface DisconnectedEvent extends ConnectionEvent {
  /** The WebSocket close code; 1006 for a connection that was lost. */
  code: number;
}

/** A lifecycle event of one channel. */
export interface ChannelEvent extends AppEvent {
  /** The channel. */
  channel: string;
}

/** A lifecycle event of one member of a presence channel. */
export interface MemberEvent extends ChannelEvent {
  /** The user. */
  userId: string;
}

/** An event that the program or the HTTP API published to one channel. */
export interface PublishedEvent extends ChannelEvent {
  /** The name of the event. */
  event: string;
  /** Its data as a string. */
  data: string;
  /** The connection that was left out. */
  socketId?: string;
}

/** How many are subscribed to a channel now. */
export interface SubscriptionCountEvent extends ChannelEvent {
  /** Connections subscribed. */
  subscriptionCount: number;
}

/** An event that one client sent to the others. */
export interface ClientEvent extends ChannelEvent {
  /** The name of the event. */
  event: string;
  /** Its data as relayed, if it has any. */
  data?: string;
  /** The sender. */
  socketId: string;
  /** The sender's user, on presence channels. */
  userId?: string;
}

/** Something of the program's failed. */
export interface ErrorEvent {
  /** Id of the app, where one is concerned. */
  app?: string;
  /** What was thrown. */
  error: unknown;
  /** What was being done. */
  during: string;
}

/** Lifecycle events, by the name that {@linkcode Pusher.on} takes. */
export interface Hooks {
  /** A connection was established. */
  connected: ConnectionEvent;
  /** A connection is gone, and out of all of its channels. */
  disconnected: DisconnectedEvent;
  /** A channel got its first subscriber. */
  channel_occupied: ChannelEvent;
  /** A channel lost its last subscriber. */
  channel_vacated: ChannelEvent;
  /** A user's first connection joined a presence channel. */
  member_added: MemberEvent;
  /** A user's last connection left a presence channel. */
  member_removed: MemberEvent;
  /** A client sent an event, and it was relayed. */
  client_event: ClientEvent;
  /** The program or the HTTP API published an event: once per channel. */
  published: PublishedEvent;
  /** Somebody subscribed to a cache channel that had nothing to give. */
  cache_miss: ChannelEvent;
  /**
   * The number of subscribers changed, where `subscriptionCounts` is on: at most
   * once in five seconds while there are more than a hundred.
   */
  subscription_count: SubscriptionCountEvent;
  /**
   * A listener, `authorize`, an origin rule or the backplane failed. While
   * nobody listens it is printed.
   */
  error: ErrorEvent;
}

// ---- Listeners

/** Keeps listeners, and runs them after the change that they are told of. */
export class HookQueue {
  readonly #listeners = new Map<keyof Hooks, Set<HookListener>>();
  #queue: (() => void)[] = [];

  add<Name extends keyof Hooks>(
    name: Name,
    run: (event: Hooks[Name]) => unknown,
    appId: string | null,
  ): () => void {
    if (!HOOK_NAMES.has(name)) {
      throw new TypeError(
        `Cannot listen: there is no event ${quote(name)}, only ${
          [...HOOK_NAMES].join(", ")
        }`,
      );
    }
    if (typeof run !== "function") {
      throw new TypeError(
        `Cannot listen to "${name}": listener is no function`,
      );
    }
    const set = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, set);
    // The name has been checked, so the event is of the listener's own type.
    const listener: HookListener = { run: run as HookListener["run"], appId };
    set.add(listener);
    return () => void set.delete(listener);
  }

  has(name: keyof Hooks): boolean {
    return (this.#listeners.get(name)?.size ?? 0) > 0;
  }

  emit<Name extends keyof Hooks>(name: Name, event: Hooks[Name]): void {
    if (!this.has(name)) return;
    if (this.#queue.length === 0) queueMicrotask(() => this.#flush());
    this.#queue.push(() => this.#run(name, event));
  }

  fail(error: unknown, during: string, app?: string): void {
    const heard = [...this.#listeners.get("error") ?? []]
      .some(({ appId }) => appId === null || appId === app);
    if (!heard) return printError(error, during);
    this.emit("error", { error, during, ...(app !== undefined && { app }) });
  }

  #flush(): void {
    // A listener may cause further events: they join the end of the same queue.
    for (let i = 0; i < this.#queue.length; i++) this.#queue[i]!();
    this.#queue = [];
  }

  #run(name: keyof Hooks, event: Hooks[keyof Hooks]): void {
    for (const { run, appId } of this.#listeners.get(name) ?? []) {
      if (appId !== null && event.app !== appId) continue;
      const failed = (error: unknown) => {
        if (name === "error") printError(error, 'running an "error" listener');
        else this.fail(error, `running a "${name}" listener`, event.app);
      };
      try {
        const result = run(event);
        if (result instanceof Promise) result.catch(failed);
      } catch (error) {
        failed(error);
      }
    }
  }
}

const HOOK_NAMES: ReadonlySet<string> = new Set(
  Object.keys(
    {
      connected: true,
      disconnected: true,
      channel_occupied: true,
      channel_vacated: true,
      member_added: true,
      member_removed: true,
      client_event: true,
      published: true,
      cache_miss: true,
      subscription_count: true,
      error: true,
    } satisfies Record<keyof Hooks, true>,
  ),
);

interface HookListener {
  readonly run: (event: Hooks[keyof Hooks]) => unknown;
  /** The app whose events are wanted, or null for all. */
  readonly appId: string | null;
}

/** The last resort for a fault of the program's own that nobody listens for. */
function printError(error: unknown, during: string): void {
  console.error(`Pusher: failed while ${during}:`, error);
}
