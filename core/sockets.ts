/**
 * How many sockets a server has open, and when there is room for no more.
 *
 * @module
 */

import { socketsWithRefused } from "./open_files.ts";

// Up to so many sockets, refused clients get a close code; above, a plain HTTP
// refusal.
const MAX_REFUSED_SOCKETS = 1_000;

/**
 * The sockets of one server, with those of refused clients that have not closed
 * yet. A client that does not answer a close frame keeps its socket, and the
 * runtime cannot end it.
 */
export class SocketCount {
  readonly #limit: number;
  #open = 0;
  #refused = 0;
  #onEmpty: (() => void) | null = null;

  /** Takes `limits.sockets`. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Counts a socket that has opened. */
  enter(): void {
    this.#open++;
  }

  /** Counts one of the open sockets as that of a refused client. */
  refuse(): void {
    this.#refused++;
  }

  /** Counts a socket that has closed for good; called once for each. */
  release(wasRefused: boolean): void {
    this.#open--;
    if (wasRefused) this.#refused--;
    if (this.#open === 0) this.#onEmpty?.();
  }

  /** Whether more sockets are open than served. */
  get isAboveLimit(): boolean {
    return this.#open > this.#limit;
  }

  /** Whether there is no room for a socket, not even to say why it is refused. */
  isOverrun(isRefused: boolean): boolean {
    return this.#open >= socketsWithRefused(this.#limit) ||
      (isRefused && this.#refused >= MAX_REFUSED_SOCKETS);
  }

  /** Resolves when no socket is open. */
  async empty(): Promise<void> {
    if (this.#open === 0) return;
    await new Promise<void>((resolve) => this.#onEmpty = resolve);
  }
}
