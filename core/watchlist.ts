/**
 * The users that a client watches, and what it has heard of them.
 *
 * @module
 */

import { type Limits, overLimit } from "./limits.ts";
import {
  encodeError,
  encodeWatchlist,
  ERROR,
  type WatchlistEvent,
} from "./protocol.ts";
import { all, type Awaitable, chain } from "./time.ts";

/** The connection that a watchlist belongs to. */
export interface WatchlistOwner {
  readonly app: { readonly limits: Readonly<Limits> };
  readonly outbox: { send(frame: string): void };
  /** Has {@linkcode Watchlist.change} called when a user comes or goes. */
  joinWatchers(userId: string): Awaitable<void>;
  leaveWatchers(userId: string): void;
  /** Whether a user has a connection that is signed in. */
  isOnline(userId: string): Awaitable<boolean>;
}

/** The users that one client watches, and whether they are online as far as it knows. */
export class Watchlist {
  readonly #owner: WatchlistOwner;
  /** Undefined for a user of whom the client has heard nothing. */
  #states = new Map<string, boolean | undefined>();
  /** Whether the backplane is being asked who is online. */
  #isAsking = false;

  constructor(owner: WatchlistOwner) {
    this.#owner = owner;
  }

  /** Watches these users and no others, and tells the client who of them is online. */
  watch(watchlist: readonly string[]): Awaitable<void> {
    const owner = this.#owner;
    const ids = watchlist.slice(0, owner.app.limits.watchedUsers);
    for (const id of this.#states.keys()) {
      if (!ids.includes(id)) owner.leaveWatchers(id);
    }
    this.#states = new Map(ids.map((id) => [id, undefined]));
    this.#isAsking = true;
    const joined = all(ids.map((id) => owner.joinWatchers(id)));
    // Asked when all changes are heard already, so that none is missed.
    const asked = chain(joined, () => all(ids.map((id) => owner.isOnline(id))));
    const answered = chain(asked, (online) => {
      this.#answer(ids, online);
      if (watchlist.length > ids.length) this.#refuse(watchlist.length, ids);
    });
    if (!(answered instanceof Promise)) return;
    return answered.catch((error) => {
      this.#goOn(new Map(ids.map((id) => [id, undefined])));
      throw error;
    });
  }

  /** Takes a change, and tells the client unless it knows of it. */
  change(userId: string, isOnline: boolean): void {
    if (!this.#states.has(userId)) return;
    if (this.#states.get(userId) === isOnline) return;
    this.#states.set(userId, isOnline);
    if (this.#isAsking) return;
    const name = isOnline ? "online" : "offline";
    this.#send([{ name, user_ids: [userId] }]);
  }

  #answer(ids: readonly string[], online: readonly boolean[]): void {
    const events: WatchlistEvent[] = [
      { name: "online", user_ids: ids.filter((_, i) => online[i]) },
      { name: "offline", user_ids: ids.filter((_, i) => !online[i]) },
    ];
    this.#send(events.filter(({ user_ids }) => user_ids.length > 0));
    // A change that came in the meantime may be newer than the answer.
    this.#goOn(new Map(ids.map((id, i) => [id, online[i]])));
  }

  /** Passes changes on from now on, beginning with those of the meantime. */
  #goOn(states: Map<string, boolean | undefined>): void {
    const changed = this.#states;
    this.#states = states;
    this.#isAsking = false;
    for (const [id, isOnline] of changed) {
      if (isOnline !== undefined) this.change(id, isOnline);
    }
  }

  #send(events: readonly WatchlistEvent[]): void {
    if (events.length > 0) this.#owner.outbox.send(encodeWatchlist(events));
  }

  #refuse(wanted: number, ids: readonly string[]): void {
    const found = `The watchlist has ${wanted} users`;
    const { error } = overLimit("watchedUsers", this.#owner.app.limits, found);
    const reason = `${error}, watched are ${ids.join(", ")}`;
    this.#owner.outbox.send(encodeError(ERROR.Watchlist, reason));
  }
}
