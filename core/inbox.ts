/**
 * The frames of one client on their way in: how fast, how large, and in which order.
 *
 * @module
 */

import { exceedsBytes, isRefusal, type Limits, overLimit } from "./limits.ts";
import type { Traffic } from "./meter.ts";
import { canWait, Postponed, type PostponedQueue } from "./postponed.ts";
import { CLOSE, type Close, decodeFrame, type Frame } from "./protocol.ts";
import { isUnavailable } from "./unavailable.ts";
import { attempt, type Awaitable, type Clock, TokenBucket } from "./time.ts";

/** What all inboxes of a server share. */
export interface InboxServices {
  readonly clock: Clock;
  /** How many frames have been dropped for a limit. */
  droppedFrames: number;
  /** Clients that wait for the backplane. */
  readonly postponed: PostponedQueue;
  readonly hooks: {
    fail(error: unknown, during: string, appId: string): void;
  };
}

/** The connection that an inbox belongs to. */
export interface InboxOwner {
  readonly app: {
    readonly id: string;
    readonly limits: Readonly<Limits>;
    readonly traffic: Traffic;
  };
  readonly isOpen: boolean;
  /** Serves one frame. The next frame is served when this one is done. */
  dispatch(frame: Frame): Awaitable<void>;
  /** Answers a frame that is not served, with an error. */
  sendError(message: string, channel?: unknown): void;
  close(close: Close): void;
}

// How often a client hears that its frames come too fast.
const FLOOD_WARNING_MS = 1_000;
// What a frame in the backlog counts at least: an empty one takes memory, too.
const MIN_FRAME_UNITS = 16;

/** A client whose frames come too fast. */
interface Flood {
  /** How many more frames may be dropped. */
  readonly drops: TokenBucket;
  /** When the client heard of it last. */
  warnedAt: number;
}

/**
 * Takes the frames of one client, and has them served strictly in order. The checks
 * of rate, size, JSON and shape come before everything else.
 */
export class Inbox {
  readonly #owner: InboxOwner;
  readonly #services: InboxServices;
  readonly #rate: TokenBucket;
  /** Null until a frame comes too fast. */
  #flood: Flood | null = null;
  /** Frames that wait for the one that is being served; null if none is. */
  #backlog: string[] | null = null;
  /** Resolves when the backlog has been served; null if there has been none. */
  #serving: Promise<void> | null = null;
  /** UTF-16 units that the backlog takes, about. */
  #waitingUnits = 0;
  /** Frames that wait for the backplane. */
  #postponed: Postponed | null = null;

  constructor(owner: InboxOwner, services: InboxServices) {
    this.#owner = owner;
    this.#services = services;
    const { framesBurst } = owner.app.limits;
    this.#rate = new TokenBucket(framesBurst, services.clock.elapsed());
  }

  /** Takes one frame. */
  receive(text: string): void {
    const { limits, traffic } = this.#owner.app;
    traffic.received(text);
    const { framesBurst, framesPerSecond } = limits;
    const elapsed = this.#services.clock.elapsed();
    if (!this.#rate.take(elapsed, framesBurst, framesPerSecond)) {
      return this.#drop(elapsed);
    }
    if (exceedsBytes(text, limits.frameBytes)) {
      this.#services.droppedFrames++;
      const { error } = overLimit("frameBytes", limits, "Frame is too large");
      return this.#owner.sendError(error);
    }
    if (this.#backlog !== null) return this.#queue(text);
    const served = this.#serve(text);
    if (served instanceof Promise) {
      this.#backlog = [];
      this.#serving = this.#serveBacklog(served);
    }
  }

  /** Whether a frame is being served, or waits for the backplane. */
  get isBusy(): boolean {
    return this.#backlog !== null || this.#postponed?.isEmpty === false;
  }

  /** Drops the frames that still wait. */
  clear(): void {
    this.#postponed?.clear();
    if (this.#backlog !== null) this.#backlog = [];
    this.#waitingUnits = 0;
  }

  /** Drops a frame that came too fast. An error for each would be another flood. */
  #drop(elapsed: number): void {
    const { limits } = this.#owner.app;
    const { framesBurst, framesPerSecond } = limits;
    this.#services.droppedFrames++;
    this.#flood ??= {
      drops: new TokenBucket(framesBurst, elapsed),
      warnedAt: -Infinity,
    };
    if (!this.#flood.drops.take(elapsed, framesBurst, framesPerSecond)) {
      return this.#owner.close(CLOSE.Flood);
    }
    if (elapsed - this.#flood.warnedAt < FLOOD_WARNING_MS) return;
    this.#flood.warnedAt = elapsed;
    const found = "Frames come too fast";
    this.#owner.sendError(overLimit("framesPerSecond", limits, found).error);
  }

  #queue(text: string): void {
    const units = this.#waitingUnits + unitsOf(text);
    if (units > this.#owner.app.limits.bufferedBytes) {
      return this.#owner.close(CLOSE.Flood);
    }
    this.#waitingUnits = units;
    this.#backlog?.push(text);
  }

  async #serveBacklog(first: Promise<void>): Promise<void> {
    await first;
    for (let text; (text = this.#backlog?.shift()) !== undefined;) {
      this.#waitingUnits -= unitsOf(text);
      await this.#serve(text);
    }
    this.#backlog = null;
  }

  /** Serves one frame. An exception is answered on this connection. */
  #serve(text: string): Awaitable<void> {
    const frame = decodeFrame(text);
    if (isRefusal(frame)) return this.#owner.sendError(frame.error);
    if (this.#postponed?.isEmpty === false) {
      if (this.#postponed.holdsBack(frame)) return this.#postpone(frame, text);
      this.#postponed.replace(frame);
    }
    const served = attempt(() => this.#owner.dispatch(frame));
    if (!(served instanceof Promise)) return served;
    return served.catch((error) => {
      if (isUnavailable(error) && canWait(frame)) {
        return this.#postpone(frame, text);
      }
      const { id } = this.#owner.app;
      this.#services.hooks.fail(error, "serving a frame", id);
      const message = "The server could not serve the frame";
      this.#owner.sendError(message, frame.channel);
    });
  }

  /** Lets a frame wait for the backplane. */
  #postpone(frame: Frame, text: string): void {
    if (!this.#owner.isOpen) return;
    this.#postponed ??= new Postponed(
      ...[this.#owner, this.#services.postponed] as const,
      (texts) => this.#serveAgain(texts),
    );
    this.#postponed.add(frame, text);
  }

  /** Serves frames that have waited: they came before all that wait now. */
  async #serveAgain(texts: readonly string[]): Promise<void> {
    for (const text of texts) this.#waitingUnits += unitsOf(text);
    if (this.#backlog === null) {
      this.#backlog = [...texts];
      this.#serving = this.#serveBacklog(Promise.resolve());
    } else this.#backlog.unshift(...texts);
    await this.#serving;
  }
}

function unitsOf(frame: string): number {
  return Math.max(frame.length, MIN_FRAME_UNITS);
}
