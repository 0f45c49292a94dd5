/**
 * The pages that are open: each has a stream on which it gets figures every second and
 * events twice a second. Without pages there is no timer.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";
import type { Stats } from "../../mod.ts";
import { type Feed, type FeedEvent, type Filter, Selection } from "./feed.ts";
import type { ServerFigures } from "./figures.ts";

/** The figures of one second. */
export interface Sample {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly connections: number;
  /** Messages in this second: what came in, and what was sent to clients. */
  readonly received: number;
  readonly sent: number;
}

/** What a page hears, by the name of the server-sent event. */
export interface Updates {
  /** First of all: the samples so far. */
  hello: { readonly samples: readonly Sample[] };
  /** Each second. */
  tick: {
    readonly sample: Sample;
    readonly stats: Stats;
    /** Changes when there are new problems. */
    readonly problems: number;
    /** How many pages are open. */
    readonly pages: number;
  };
  /** When there were events, and how many more there were. */
  events: { readonly events: readonly FeedEvent[]; readonly skipped: number };
}

/** What the streams show. */
export interface Sources {
  readonly feed: Feed;
  readonly clock: Clock;
  figures(): ServerFigures;
  /** The version of the list of problems. */
  problems(): number;
}

const EVENTS_MS = 500;
/** Updates of events for one of figures. */
const EVENTS_PER_TICK = 2;
/** Five minutes. */
const MAX_SAMPLES = 300;
// A page asks again then, and may not be let in any more.
const STREAM_MS = 600_000;
/** A page that has not read for so long is gone. */
const UNREAD_MS = 30_000;

/** All open streams. */
export class Streams {
  readonly #sources: Sources;
  readonly #streams = new Set<Stream>();
  readonly #samples: Sample[] = [];
  #traffic = { received: 0, sent: 0 };
  #tickedAt = 0;
  #count = 0;
  #cancel = () => {};

  constructor(sources: Sources) {
    this.#sources = sources;
  }

  get size(): number {
    return this.#streams.size;
  }

  /** Opens a stream of server-sent events. */
  open(filter: Filter): ReadableStream<Uint8Array<ArrayBuffer>> {
    const { clock, feed } = this.#sources;
    const stream = new Stream(filter, clock.elapsed(), () => {
      if (!this.#streams.delete(stream)) return;
      feed.delete(stream.selection);
      if (this.#streams.size === 0) this.#cancel();
    });
    this.#streams.add(stream);
    feed.add(stream.selection);
    if (this.#streams.size === 1) this.#begin();
    stream.send("hello", { samples: this.#samples });
    return stream.body;
  }

  /** Ends all streams. */
  close(): void {
    for (const stream of this.#streams) stream.end();
  }

  /** Messages so far, the events of programs and backends included. */
  #messages({ received, sent }: ServerFigures): {
    received: number;
    sent: number;
  } {
    return { received: received + this.#sources.feed.published, sent };
  }

  #begin(): void {
    const { clock } = this.#sources;
    this.#traffic = this.#messages(this.#sources.figures());
    this.#tickedAt = clock.elapsed();
    this.#count = 0;
    this.#schedule();
  }

  #schedule(): void {
    this.#cancel = this.#sources.clock.after(EVENTS_MS, () => {
      this.#schedule();
      this.#update();
    });
  }

  #update(): void {
    const elapsed = this.#sources.clock.elapsed();
    const tick = ++this.#count % EVENTS_PER_TICK === 0
      ? this.#tick(elapsed)
      : null;
    for (const stream of this.#streams) stream.update(tick, elapsed);
  }

  /** Takes a sample, once for all pages. */
  #tick(elapsed: number): Updates["tick"] {
    const { clock } = this.#sources;
    const figures = this.#sources.figures();
    const { stats } = figures;
    const traffic = this.#messages(figures);
    // A timer may be late; the rates are still right.
    const seconds = Math.max((elapsed - this.#tickedAt) / 1000, 0.001);
    const rate = (name: "received" | "sent") =>
      Math.round((traffic[name] - this.#traffic[name]) / seconds);
    const sample = {
      at: clock.now(),
      connections: stats.connections,
      received: rate("received"),
      sent: rate("sent"),
    };
    this.#traffic = traffic;
    this.#tickedAt = elapsed;
    this.#samples.push(sample);
    if (this.#samples.length > MAX_SAMPLES) this.#samples.shift();
    const problems = this.#sources.problems();
    return { sample, stats, problems, pages: this.#streams.size };
  }
}

const ENCODER = new TextEncoder();

/** The stream of one page. */
class Stream {
  readonly selection: Selection;
  readonly body: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly #endsAt: number;
  readonly #onEnd: () => void;
  #readAt: number;
  #controller!: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;

  constructor(filter: Filter, elapsed: number, onEnd: () => void) {
    this.selection = new Selection(filter);
    this.#readAt = elapsed;
    this.#endsAt = elapsed + STREAM_MS;
    this.#onEnd = onEnd;
    this.body = new ReadableStream({
      // It is called before the constructor returns.
      start: (controller) => void (this.#controller = controller),
      cancel: onEnd,
    }, { highWaterMark: MAX_UNREAD });
  }

  /** Sends what is new, unless the page does not read. */
  update(tick: Updates["tick"] | null, elapsed: number): void {
    if (elapsed >= this.#endsAt) return this.end();
    if ((this.#controller.desiredSize ?? 0) <= 0) {
      if (elapsed - this.#readAt > UNREAD_MS) this.end();
      // The selection goes on counting, within its bounds.
      return;
    }
    this.#readAt = elapsed;
    if (tick !== null) this.send("tick", tick);
    const gathered = this.selection.flush();
    if (gathered.events.length > 0 || gathered.skipped > 0) {
      this.send("events", gathered);
    }
  }

  send<Name extends keyof Updates>(name: Name, update: Updates[Name]): void {
    const text = `event: ${name}\ndata: ${JSON.stringify(update)}\n\n`;
    this.#controller.enqueue(ENCODER.encode(text));
  }

  end(): void {
    this.#onEnd();
    try {
      this.#controller.close();
    } catch {
      // The page has gone in this moment.
    }
  }
}

/** Updates that may wait for a page. */
const MAX_UNREAD = 4;
