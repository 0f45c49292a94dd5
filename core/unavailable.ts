/**
 * What the server says and does when its backplane is away.
 *
 * @module
 */

import { Refusal } from "./limits.ts";
import { all, type Awaitable } from "./time.ts";

/**
 * The backplane cannot be reached at the moment, so a call could not be carried out.
 * Calls of a {@linkcode Backplane} reject with it, or with an error that has the same
 * field, and the calls of a `Pusher` that need the backplane then do, too.
 *
 * @example
 * ```ts
 * import { BackplaneUnavailable, Pusher } from "@glitz/pusher";
 *
 * const pusher = new Pusher();
 * try {
 *   await pusher.trigger("news", "headline", { text: "Hello" });
 * } catch (error) {
 *   if (!(error instanceof BackplaneUnavailable)) throw error;
 *   console.warn(error.wasSent ? "Perhaps published" : "Not published");
 * }
 * ```
 */
export class BackplaneUnavailable extends Error {
  /** Names the class. */
  override readonly name: string = "BackplaneUnavailable";
  /**
   * Whether the call may have been carried out. If it is false, nothing was done,
   * and the call can be repeated; if it is true, to repeat it may do it twice.
   */
  readonly wasSent: boolean;

  /** Made where a call fails. */
  constructor(reason: string, options: ErrorOptions & { wasSent: boolean }) {
    super(reason, options);
    this.wasSent = options.wasSent;
  }
}

/** Whether a call has failed because the backplane is away. */
export function isUnavailable(error: unknown): error is BackplaneUnavailable {
  // The class may be that of another copy of this package.
  return error instanceof Error && "wasSent" in error &&
    typeof error.wasSent === "boolean";
}

const NOT_DONE = new Refusal(
  503,
  "The request was not served, and nothing was changed: the server's backplane is away. Try again later",
);
const PERHAPS_DONE = new Refusal(
  503,
  "The request may have been served: the server's backplane went away before it answered. To repeat it may publish twice",
);
const FAILED = new Refusal(503, "The request could not be served right now");

/** How the HTTP API refuses a call that has failed. */
export function refusalOf(error: unknown, method: string): Refusal {
  if (!isUnavailable(error)) return FAILED;
  return error.wasSent && method !== "GET" ? PERHAPS_DONE : NOT_DONE;
}

/** Why a client event is not relayed. */
export function relayFailure({ wasSent }: BackplaneUnavailable): string {
  return wasSent
    ? "The event may not have been relayed: the server's backplane went away"
    : "The event was not relayed: the server's backplane is away";
}

/**
 * Waits for the parts of one call. If only some of them fail, the error says that the
 * call may have been carried out: to repeat it would repeat the others.
 */
export function together<T>(parts: readonly Awaitable<T>[]): Awaitable<T[]> {
  const whole = all(parts);
  if (!(whole instanceof Promise)) return whole;
  return whole.catch(async (error) => {
    if (!isUnavailable(error) || error.wasSent) throw error;
    const results = await Promise.allSettled(parts);
    if (results.every(isNotDone)) throw error;
    const what = "Only a part of the call was carried out";
    throw new BackplaneUnavailable(`${what}: ${error.message}`, {
      wasSent: true,
      cause: error,
    });
  });
}

function isNotDone(result: PromiseSettledResult<unknown>): boolean {
  if (result.status === "fulfilled") return false;
  return isUnavailable(result.reason) && !result.reason.wasSent;
}

/** Waits for what follows a publish, which has been accepted whatever comes of it. */
export function afterPublish<T>(value: Awaitable<T>): Awaitable<T> {
  if (!(value instanceof Promise)) return value;
  return value.catch((error) => {
    if (!isUnavailable(error) || error.wasSent) throw error;
    const what = "The event was published, but its channels cannot be counted";
    throw new BackplaneUnavailable(`${what}: ${error.message}`, {
      wasSent: true,
      cause: error,
    });
  });
}
