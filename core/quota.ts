/**
 * How many connections an app may have: those that have authorized, and those that
 * have not done so yet.
 *
 * @module
 */

import { type Limits, overLimit } from "./limits.ts";
import { CLOSE, type Close } from "./protocol.ts";

/** Whether a connection has authorized, or need not. */
export interface Authorizing {
  readonly isAuthorized: boolean;
  authorize(): void;
}

/**
 * The connections of one app on one server. Where clients have to authorize in time,
 * anybody can open a connection that never does. So these have a bound of their own,
 * and take no place from the others.
 */
export class Quota {
  readonly #limits: Readonly<Limits>;
  readonly #demandsAuthorization: boolean;
  #connections = 0;
  #unauthorized = 0;

  constructor(limits: Readonly<Limits>, authorizationTimeoutMs: number) {
    this.#limits = limits;
    this.#demandsAuthorization = authorizationTimeoutMs < Infinity;
  }

  /** Connections that have not authorized yet, and have to. */
  get unauthorized(): number {
    return this.#unauthorized;
  }

  /** Why there is no place for a new connection, or null. */
  checkNew(): Close | null {
    if (!this.#demandsAuthorization) {
      return this.#isFull ? CLOSE.AppFull : null;
    }
    const { unauthorizedConnections: most } = this.#limits;
    if (this.#unauthorized < most) return null;
    const found = "Too many connections have not authorized yet";
    return tryAgain("unauthorizedConnections", this.#limits, found);
  }

  /** Why there is no place for a connection once it has authorized, or null. */
  check({ isAuthorized }: Authorizing): Close | null {
    if (isAuthorized || !this.#isFull) return null;
    const found = "The app has too many authorized connections";
    return tryAgain("connections", this.#limits, found);
  }

  get #isFull(): boolean {
    return this.#connections >= this.#limits.connections;
  }

  enter({ isAuthorized }: Authorizing): void {
    if (isAuthorized) this.#connections++;
    else this.#unauthorized++;
  }

  leave({ isAuthorized }: Authorizing): void {
    if (isAuthorized) this.#connections--;
    else this.#unauthorized--;
  }

  /** Gives a connection a place among the authorized, or says why not. */
  authorize(connection: Authorizing): Close | null {
    const full = this.check(connection);
    if (full !== null) return full;
    this.leave(connection);
    connection.authorize();
    this.enter(connection);
    return null;
  }
}

// Stock clients never come back after 4004. A place may be free in a second.
function tryAgain(limit: keyof Limits, limits: Limits, found: string): Close {
  const { error } = overLimit(limit, limits, found);
  return { code: CLOSE.ServerFull.code, message: `${error}, try again later` };
}
