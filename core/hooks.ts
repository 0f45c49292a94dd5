/**
 * The queue that runs the listeners of lifecycle events.
 *
 * @module
 */

import type { Message } from "./backplane.ts";
import type { Hooks } from "./calls.ts";
import { quote, type Refusal } from "./limits.ts";
import { isOwnChannel } from "./protocol.ts";
import { type Clock, SYSTEM_CLOCK } from "./time.ts";
import { isUnavailable } from "./unavailable.ts";

/** Keeps the listeners of lifecycle events, and runs them after each event. */
export class HookQueue {
  readonly #listeners = new Map<keyof Hooks, Set<HookListener>>();
  #queue: (() => void)[] = [];
  readonly #clock: Clock;
  /** Whether it was told that the backplane is away. */
  #isAway = false;
  /** When it was told of a call that the backplane has not carried out. */
  #toldAt = -Infinity;
  /** How many failures it has told of. */
  failures = 0;

  /** @param clock How much time has passed between two failures. */
  constructor(clock: Clock = SYSTEM_CLOCK) {
    this.#clock = clock;
  }

  /**
   * Adds a listener.
   *
   * @param appId The app whose events it hears, or null for all.
   * @returns Removes the listener.
   */
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
        `Cannot listen to "${name}": listener is ${
          quote(run)
        }, and must be a function`,
      );
    }
    const set = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, set);
    // The name has been checked, so the event is of the listener's own type.
    const listener: HookListener = { run: run as HookListener["run"], appId };
    set.add(listener);
    return () => void set.delete(listener);
  }

  /** Whether anybody listens to an event, of any app. */
  has(name: keyof Hooks): boolean {
    return (this.#listeners.get(name)?.size ?? 0) > 0;
  }

  /** Whether a listener other than an {@linkcode onlooker} hears an event. */
  #isHeard(name: keyof Hooks): boolean {
    return [...this.#listeners.get(name) ?? []].some(({ run }) =>
      !ONLOOKERS.has(run)
    );
  }

  /** Has the listeners of an event run, in a microtask. */
  emit<Name extends keyof Hooks>(name: Name, event: Hooks[Name]): void {
    if (!this.has(name)) return;
    if (this.#queue.length === 0) queueMicrotask(() => this.#flush());
    this.#queue.push(() => this.#run(name, event));
  }

  /** Tells of an event that the program or the HTTP API has published. */
  published(app: string, channel: string, message: Message): void {
    if (!this.has("published") || isOwnChannel(channel)) return;
    const { event, data = "", exceptSocketId } = message;
    this.emit("published", {
      app,
      channel,
      event,
      data,
      ...(exceptSocketId !== undefined && { socketId: exceptSocketId }),
    });
  }

  /** Tells of an HTTP request that was refused, of an app if one is known. */
  refusedRequest({ error: reason, status: code }: Refusal, app?: string): void {
    const known = app === undefined ? {} : { app };
    this.emit("refused", { ...known, what: "request", reason, code });
  }

  /**
   * Tells the `error` listeners of a failure, or prints it if there are none. While
   * the backplane is away each call fails, of which nobody is told: that it is away
   * was told already.
   */
  fail(error: unknown, during: string, app?: string): void {
    if (isUnavailable(error) && !this.#isNews()) return;
    this.#tell(error, during, app);
  }

  /** Whether to tell of a call that the backplane has not carried out. */
  #isNews(): boolean {
    if (this.#isAway) return false;
    const now = this.#clock.elapsed();
    if (now - this.#toldAt < QUIET_MS) return false;
    this.#toldAt = now;
    return true;
  }

  /** Tells that the backplane has not started. */
  notStarted(error: unknown): void {
    this.#isAway = isUnavailable(error);
    this.#tell(error, STARTING);
  }

  /** Tells that the backplane went down or came up, or prints it as an error. */
  backplane(isUp: boolean, error?: unknown): void {
    if (!isUp) this.#tell(error, REACHING);
    else if (this.#isAway && !this.#isHeard("error")) {
      console.error("Pusher: the backplane is back");
    }
    this.#isAway = !isUp;
    const cause = error === undefined ? {} : { error };
    this.emit("backplane", { up: isUp, ...cause });
  }

  #tell(error: unknown, during: string, app?: string): void {
    this.failures++;
    if (!this.has("error")) return printError(error, during);
    this.emit("error", { error, during, ...(app !== undefined && { app }) });
  }

  #flush(): void {
    // A listener may cause further events, which join the end of the queue.
    for (let i = 0; i < this.#queue.length; i++) this.#queue[i]!();
    this.#queue = [];
  }

  #run(name: keyof Hooks, event: Hooks[keyof Hooks]): void {
    const listeners = this.#listeners.get(name) ?? new Set();
    let isHeard = false;
    // A copy: a listener that this event adds hears only the next one.
    for (const listener of [...listeners]) {
      const { run, appId } = listener;
      if (!listeners.has(listener)) continue;
      if (appId !== null && event.app !== appId) continue;
      isHeard ||= !ONLOOKERS.has(run);
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
    // Only now: a listener may be removed before its turn comes.
    if (!isHeard && "during" in event) printError(event.error, event.during);
  }
}

const ONLOOKERS = new WeakSet<object>();

/**
 * Makes an onlooker of a listener: errors that only onlookers hear are printed, as
 * without a listener. Extensions that show errors do not take them from the log.
 */
export function onlooker<Event>(
  run: (event: Event) => unknown,
): (event: Event) => unknown {
  ONLOOKERS.add(run);
  return run;
}

// Calls may fail in large numbers though the backplane is up, as when it is too slow.
const QUIET_MS = 10_000;

/** What has failed when the backplane was not there from the beginning. */
export const STARTING = "starting the backplane";

const HOOK_NAMES: ReadonlySet<string> = new Set(
  Object.keys(
    {
      connected: true,
      disconnected: true,
      channel_occupied: true,
      channel_vacated: true,
      member_added: true,
      member_removed: true,
      subscribed: true,
      unsubscribed: true,
      recovered: true,
      refused: true,
      backplane: true,
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
  /** The app whose events it hears, or null for all. */
  readonly appId: string | null;
}

/** What has failed when the backplane is away. */
export const REACHING = "reaching the backplane";
/** What has failed when it stays away for another reason. */
export const REACHING_AGAIN = "reaching the backplane again";

/** Prints an error that no listener hears. */
function printError(error: unknown, during: string): void {
  const what = `Pusher: failed while ${during}:`;
  // Where it was noticed that the backplane is away helps nobody.
  if (isUnavailable(error)) console.error(`${what} ${error.message}`);
  else console.error(what, error);
}
