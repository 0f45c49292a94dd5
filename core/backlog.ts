/**
 * The frames of a client that does not read as fast as they come.
 *
 * @module
 */

import type { Close } from "./protocol.ts";
import type { Ticking } from "./time.ts";

// ---- What the runtime is given ----------------------------------------------

/**
 * How many bytes a client may have unread before its further frames wait here. The
 * runtime copies each frame that it is given, and keeps it until the client has read
 * it or its connection has broken. Frames that wait here are shared by all their
 * clients, and are dropped when the connection ends.
 */
export const HANDED_BYTES = 65_536;
/** The same in frames: each takes the runtime more than 1 KiB besides its bytes. */
export const HANDED_FRAMES = 64;

// A client that has read so much, without a pause, is given more at once: a busy
// server visits it seldom, and must not be what holds it up. The system takes less
// than that for a client that reads nothing.
const READ_BYTES = 2_097_152;
// How long a frame that was sent before a close may wait for its client.
const LINGER_MS = 10_000;
// More time at once has passed in a process that was frozen: nobody could read.
const MAX_LOOK_MS = 1_000;
// A client that has read nothing for so long is visited less often.
const STUCK_MS = 2_000;
const STUCK_TICKS = 16;

/** Visited by the server's wheel while the client reads nothing. */
export class Backlog implements Ticking {
  /** See {@linkcode Ticking.slot}. */
  slot: Set<Ticking> | null = null;
  /** What the transport had after it was given the last frame. */
  unread: number;
  /** UTF-16 units of all frames. */
  units = 0;
  /** Whether the client had read everything at the last look. */
  keepsUp = true;
  /** How the connection ends after the last frame; null while it goes on. */
  closing: Close | null = null;
  #frames: string[] = [];
  /** How many frames at the front have been taken. */
  #taken = 0;
  /** For how long the client has read nothing. */
  #stalledMs = 0;
  /** Whether it has read since the last look. */
  #hasRead = false;
  /** What it has read without a pause. */
  #readBytes = 0;
  /** When that was, see {@linkcode Clock.elapsed}. */
  #lookedAt: number;
  #lingersUntil = Infinity;
  readonly #onVisit: () => void;

  constructor(unread: number, now: number, onVisit: () => void) {
    this.unread = unread;
    this.#lookedAt = now;
    this.#onVisit = onVisit;
  }

  /** Adds a frame; returns about how many bytes the client has unread. */
  add(frame: string): number {
    this.#frames.push(frame);
    this.units += frame.length;
    return this.units + this.unread;
  }

  /** For how long the client has read nothing, in milliseconds. */
  get stalledMs(): number {
    return this.#stalledMs;
  }

  /** Ticks until the next visit by the wheel. */
  get ticks(): number {
    return this.#stalledMs > STUCK_MS ? STUCK_TICKS : 1;
  }

  /** Counts from now on how long the client reads nothing. */
  forgive(): void {
    this.#stalledMs = 0;
  }

  get isEmpty(): boolean {
    return this.#taken === this.#frames.length;
  }

  /** Notes how much the transport still has, before it is given more. */
  read(unread: number): void {
    const bytes = this.unread - unread;
    if (bytes > 0) this.#hasRead = true;
    this.#readBytes += bytes;
    this.unread = unread;
  }

  /** The same, once in a turn; returns whether the client has read since then. */
  look(unread: number, now: number): boolean {
    this.read(unread);
    this.keepsUp = unread === 0;
    if (!this.keepsUp) this.#readBytes = 0;
    const hasRead = this.#hasRead || this.keepsUp;
    this.#hasRead = false;
    const elapsed = Math.min(now - this.#lookedAt, MAX_LOOK_MS);
    this.#lookedAt = now;
    this.#stalledMs = hasRead ? 0 : this.#stalledMs + elapsed;
    return hasRead;
  }

  /** How many times as much as others the client is given at once. */
  get share(): number {
    return Math.max(1, this.#readBytes / READ_BYTES);
  }

  /** Takes the first frame. */
  take(): string | undefined {
    if (this.isEmpty) return undefined;
    const frame = this.#frames[this.#taken]!;
    this.#frames[this.#taken++] = "";
    this.units -= frame.length;
    // The places of the frames that were taken are cut off together.
    if (this.#taken >= 1_024 || this.isEmpty) {
      this.#frames = this.#frames.slice(this.#taken);
      this.#taken = 0;
    }
    return frame;
  }

  /** Ends the connection after the last frame, or after some time without it. */
  closeAfter(close: Close, now: number): void {
    this.closing = close;
    this.#lingersUntil = now + LINGER_MS;
  }

  /** Whether the client has had the time to read what was sent before a close. */
  isOverdue(now: number): boolean {
    return now >= this.#lingersUntil;
  }

  /** See {@linkcode Ticking.visit}. */
  visit(): number {
    // It comes back by itself, here or with the clients that read.
    this.#onVisit();
    return 0;
  }
}
