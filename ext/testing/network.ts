/**
 * The faults of a network between clients and a server.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";
import type { Line } from "./sockets.ts";

/** The faults of one connection, or of all connections of a {@linkcode Network}. */
export interface Faults {
  /**
   * Lets nothing get through from now on, in either direction, as when a cable is
   * pulled: neither side notices, until it runs out of patience. A connection that
   * has met this does not go on: {@linkcode restore} resets it.
   */
  drop(): void;
  /**
   * Delays each frame from now on, by the clock of the server. Frames keep their
   * order. With `Infinity` they wait for {@linkcode restore}, and the server sees a
   * client that reads nothing.
   *
   * @param ms Milliseconds, each way.
   * @throws {RangeError} If it is below 0 or not a number.
   */
  delay(ms: number): void;
  /**
   * Ends the connection at once with 1006 on both sides, as when a proxy restarts.
   * Clients may connect again.
   */
  reset(): void;
  /** Ends all faults. Frames that were delayed arrive now. */
  restore(): void;
}

/**
 * The network between all clients and the server. Its faults hold for connections
 * that are opened later, too. Requests of {@linkcode TestPusher.fetch} pass in any
 * case; those of {@linkcode TestPusher.stubGlobals} do not.
 */
export interface Network extends Faults {
  /** Refuses new connections and requests, as when nothing listens. */
  refuse(): void;
}

/** Lines, and what is wrong with them. */
export class Wires implements Network {
  readonly #lines = new Set<Line>();
  #fault: "none" | "dropped" | "refused" = "none";
  #delayMs = 0;
  /** Requests that wait for the network. */
  readonly #waiting = new Set<Waiting>();

  drop(): void {
    this.#fault = "dropped";
    for (const line of this.#lines) line.kill();
  }

  delay(ms: number): void {
    if (!(ms >= 0)) {
      throw new RangeError(
        `Cannot delay frames: ms is ${ms}, and must be a number from 0, or Infinity`,
      );
    }
    this.#delayMs = ms;
    for (const line of this.#lines) line.delay(ms);
  }

  reset(): void {
    for (const line of this.#lines) line.reset();
  }

  refuse(): void {
    this.#fault = "refused";
  }

  restore(): void {
    this.#fault = "none";
    this.#delayMs = 0;
    for (const line of this.#lines) line.restore();
    for (const { go } of this.#waiting) go();
  }

  /** Takes a new line. */
  add(line: Line): void {
    this.#lines.add(line);
    line.over.then(() => this.#lines.delete(line));
    if (this.#delayMs > 0) line.delay(this.#delayMs);
    if (this.#fault === "dropped") line.kill();
    if (this.#fault === "refused") line.fail("the network refuses connections");
  }

  /** Waits until a request may pass. */
  async pass(clock: Clock): Promise<void> {
    if (this.#fault === "refused") throw new TypeError(UNREACHABLE);
    const isHeld = this.#fault === "dropped" || this.#delayMs === Infinity;
    if (!isHeld && this.#delayMs === 0) return;
    await new Promise<void>((resolve, reject) => {
      let cancel = () => {};
      const end = (call: () => void) => () => {
        cancel();
        this.#waiting.delete(waiting);
        call();
      };
      const waiting: Waiting = {
        go: end(resolve),
        fail: end(() => reject(new TypeError(UNREACHABLE))),
      };
      this.#waiting.add(waiting);
      if (!isHeld) cancel = clock.after(this.#delayMs, waiting.go);
    });
  }

  /** Closes all lines, and refuses others. */
  async end(): Promise<void> {
    for (const { fail } of this.#waiting) fail();
    this.restore();
    this.#fault = "refused";
    const lines = [...this.#lines];
    for (const line of lines) line.near.close(1000);
    await Promise.all(lines.map((line) => line.over));
  }
}

/** A request that waits for the network. */
interface Waiting {
  go(): void;
  fail(): void;
}

const UNREACHABLE = "Cannot reach the server: the network of the test is down";
