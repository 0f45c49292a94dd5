/**
 * The pages that are open: each has a stream on which it gets figures every second and
 * events twice a second. Without pages there is no timer.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";
import type { Stats } from "../../mod.ts";
import {
  type Feed,
  type FeedEvent,
  filterQuery,
  readFilter,
  Selection,
} from "./feed.ts";
import { type Sample, type Sampler, sumTicks, type Tick } from "./figures.ts";
import type { Peers } from "./peers.ts";

/** A server, as the pages list it. */
export interface NodeState {
  readonly node: string;
  readonly connections: number;
  /** Whether it has said nothing for some seconds; its figures are left out. */
  readonly isSilent: boolean;
}

/** What a page hears, by the name of the server-sent event. */
export interface Updates {
  /** First of all: the samples so far of the server that is wanted, or of all. */
  hello: { readonly samples: readonly Sample[] };
  /** Each second. */
  tick: {
    /** Of the server that is wanted, or of all together; null if it is silent. */
    readonly sample: Sample | null;
    readonly stats: Stats | null;
    /** Changes when there are new problems. */
    readonly problems: number;
    /** How many pages are open. */
    readonly pages: number;
    /** All servers, this one first. */
    readonly nodes: readonly NodeState[];
    /** How many more servers have a console, and have said nothing. */
    readonly unheard: number;
  };
  /** When there were events, and how many more there were. */
  events: { readonly events: readonly FeedEvent[]; readonly skipped: number };
}

/** What the streams show. */
export interface Sources {
  readonly node: string;
  readonly feed: Feed;
  readonly clock: Clock;
  readonly sampler: Sampler;
  readonly peers: Peers;
}

const EVENTS_MS = 500;
/** Updates of events for one of figures. */
const EVENTS_PER_TICK = 2;
/** By then the other servers have told their figures, or do not at all. */
const SETTLING_UPDATES = 6;
/** Five minutes. */
const MAX_SAMPLES = 300;
// A page asks again then, and may not be let in any more.
const STREAM_MS = 600_000;
/** A page that has not read for so long is gone. */
const UNREAD_MS = 30_000;

/** All open streams. */
export class Streams {
  readonly #sources: Sources;
  /** By id. */
  readonly #streams = new Map<string, Stream>();
  /** By server, and under "" of all together. */
  readonly #samples = new Map<string, Sample[]>();
  #count = 0;
  #opened = 0;
  #cancel = () => {};

  constructor(sources: Sources) {
    this.#sources = sources;
  }

  get size(): number {
    return this.#streams.size;
  }

  /** Opens a stream of server-sent events. */
  open(query: URLSearchParams): ReadableStream<Uint8Array<ArrayBuffer>> {
    const { clock, feed } = this.#sources;
    const id = String(++this.#opened);
    const stream = new Stream(query, clock.elapsed(), () => {
      if (!this.#streams.delete(id)) return;
      feed.delete(stream.selection);
      if (this.#streams.size === 0) this.#cancel();
      this.#follow();
    });
    this.#streams.set(id, stream);
    feed.add(stream.selection);
    if (this.#streams.size === 1) this.#begin();
    this.#follow();
    stream.send("hello", { samples: this.#samples.get(stream.node) ?? [] });
    return stream.body;
  }

  /** Has the other servers tell what the pages want. */
  #follow(): void {
    this.#sources.peers.follow(
      Array.from(this.#streams, ([id, { query }]) => ({ id, query })),
    );
  }

  /** Takes events of another server for a page. */
  receive(id: string, events: readonly FeedEvent[], skipped: number): void {
    this.#streams.get(id)?.selection.receive(events, skipped);
  }

  /** Forgets the samples of a server that has gone. */
  forget(node: string): void {
    this.#samples.delete(node);
  }

  /** Ends all streams. */
  close(): void {
    for (const stream of [...this.#streams.values()]) stream.end();
  }

  #begin(): void {
    this.#sources.sampler.begin();
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
    const tickOf = ++this.#count % EVENTS_PER_TICK === 0 ? this.#tick() : null;
    for (const stream of this.#streams.values()) {
      stream.update(tickOf && tickOf(stream.node), elapsed);
    }
  }

  /** Takes samples, once for all pages; returns what a page gets. */
  #tick(): (node: string) => Updates["tick"] {
    const { node: own, clock, peers, sampler } = this.#sources;
    peers.review();
    const ticks = new Map<string, Tick>([[own, sampler.take()]]);
    for (const peer of peers.known) {
      const { node, tick, isSilent, isFresh } = peer;
      if (tick === null || isSilent) continue;
      ticks.set(node, tick);
      // Each word of a server is one point of its chart, by the clock of this one.
      if (isFresh) this.#keep(node, { ...tick.sample, at: clock.now() });
      peer.isFresh = false;
    }
    const all = sumTicks([...ticks.values()], clock.now());
    const unheard = Math.max(0, peers.listening - peers.known.length);
    // Without servers that are about to say something the sum would be a step.
    const isWhole = unheard === 0 && peers.known.every(({ tick }) => tick) ||
      this.#count > SETTLING_UPDATES;
    if (isWhole) this.#keep("", all.sample);
    this.#keep(own, ticks.get(own)?.sample ?? all.sample);
    const nodes = [
      { node: own, isSilent: false },
      ...peers.known,
    ].map(({ node, isSilent }) => ({
      ...{ node, isSilent },
      connections: ticks.get(node)?.sample.connections ?? 0,
    }));
    const shared = {
      ...{ problems: all.problems, pages: this.#streams.size, nodes },
      unheard,
    };
    return (node) => {
      const tick = node === "" ? all : ticks.get(node);
      const { stats = null } = tick ?? {};
      const sample = tick === undefined || (node === "" && !isWhole)
        ? null
        : { ...tick.sample, at: clock.now() };
      return { sample, stats, ...shared };
    };
  }

  #keep(node: string, sample: Sample): void {
    const samples = this.#samples.get(node) ?? [];
    this.#samples.set(node, samples);
    samples.push(sample);
    if (samples.length > MAX_SAMPLES) samples.shift();
  }
}

const ENCODER = new TextEncoder();

/** The stream of one page. */
class Stream {
  /** The filter, as other servers get it. */
  readonly query: string;
  /** The server that is wanted; "" for all. */
  readonly node: string;
  readonly selection: Selection;
  readonly body: ReadableStream<Uint8Array<ArrayBuffer>>;
  readonly #endsAt: number;
  readonly #onEnd: () => void;
  #readAt: number;
  #controller!: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;

  constructor(query: URLSearchParams, elapsed: number, onEnd: () => void) {
    const filter = readFilter(query);
    this.query = filterQuery(filter);
    this.node = filter.node;
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
