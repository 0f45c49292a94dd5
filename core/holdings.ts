/**
 * What one server holds of a channel: how many connections, and whose.
 *
 * @module
 */

import type { Holding } from "./backplane.ts";

/** Counts the connections that have joined a channel or are joining it. */
export class Holdings {
  #connections = 0;
  #recovering = 0;
  /** By user, on a presence channel. */
  #users: Map<string, number> | null = null;

  /** Counts a connection that joins or leaves; returns the holding after that. */
  count(userId: string | undefined, by: 1 | -1, recovers: boolean): Holding {
    this.#connections += by;
    if (recovers) this.#recovering += by;
    if (userId === undefined) return this.all;
    this.#users ??= new Map();
    const connections = (this.#users.get(userId) ?? 0) + by;
    if (connections > 0) this.#users.set(userId, connections);
    else this.#users.delete(userId);
    return { connections, recovering: this.#recovering };
  }

  /** All connections, of whatever user. */
  get all(): Holding {
    return { connections: this.#connections, recovering: this.#recovering };
  }

  /** Connections by user, or null while no user has joined. */
  get users(): ReadonlyMap<string, number> | null {
    return this.#users;
  }
}
