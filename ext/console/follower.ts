/**
 * What a console does for those of other servers: it answers them, and tells them its
 * figures and events while they have a page open.
 *
 * @module
 */

import { isObject } from "../../core/protocol.ts";
import { type Awaitable, type Clock, TokenBucket } from "../../core/time.ts";
import { type Feed, readFilter, Selection } from "./feed.ts";
import type { Tick } from "./figures.ts";
import { type Call, fitting, type Line, LIST_UNITS } from "./line.ts";
import { FOLLOW_MS } from "./peers.ts";

/** What it answers with, by the name of the call. */
export type Answers = Readonly<
  Record<
    string,
    (args: Record<string, unknown>) => Awaitable<Record<string, unknown>>
  >
>;

/** What it tells of. */
export interface FollowedServer {
  readonly line: Line;
  readonly feed: Feed;
  readonly clock: Clock;
  readonly answers: Answers;
  /** Takes the figures of the last second, once for all who follow. */
  tick(): Tick;
  /** It is followed from now on. */
  begin(): void;
}

const UPDATE_MS = 500;
const UPDATES_PER_TICK = 2;
/** Calls of all consoles together. */
const CALLS_PER_S = 50;
/** Consoles that are told of this server at a time, and pages of each. */
const MAX_CONSOLES = 16;
const MAX_PAGES = 32;

/** A console that follows this server. */
interface Following {
  readonly reply: string;
  /** By id, what the pages want. */
  readonly pages: Map<string, { query: string; selection: Selection }>;
  until: number;
  /** Whether what it was told last has not arrived yet. */
  isBusy: boolean;
}

/** Tells other servers' consoles of this server. */
export class Follower {
  readonly #server: FollowedServer;
  readonly #following = new Map<string, Following>();
  readonly #rate: TokenBucket;
  #cancel = () => {};
  #count = 0;

  constructor(server: FollowedServer) {
    this.#server = server;
    this.#rate = new TokenBucket(CALLS_PER_S, server.clock.elapsed());
  }

  /** Takes a call. Too many of them are not answered. */
  hear(call: Call): void {
    const { clock } = this.#server;
    if (!this.#rate.take(clock.elapsed(), CALLS_PER_S, CALLS_PER_S)) return;
    if (call.what === "follow") return this.#follow(call);
    this.#answer(call);
  }

  async #answer({ id, reply, what, args }: Call): Promise<void> {
    const { answers, line } = this.#server;
    const make = Object.hasOwn(answers, what) ? answers[what] : undefined;
    if (make === undefined) return;
    let body: Record<string, unknown>;
    try {
      body = await make(args);
    } catch {
      // Such as an app that this server does not have: it has nothing of it.
      body = {};
    }
    await line.tell(reply, { id, what: "answer", body });
  }

  #follow({ reply, args: { pages } }: Call): void {
    const wanted = readPages(pages);
    const known = this.#following.get(reply);
    if (wanted.size === 0) return this.#drop(reply);
    if (known === undefined && this.#following.size >= MAX_CONSOLES) return;
    const following = known ??
      { reply, pages: new Map(), until: 0, isBusy: false };
    const { clock, feed } = this.#server;
    following.until = clock.elapsed() + FOLLOW_MS;
    for (const [id, page] of following.pages) {
      if (wanted.get(id) === page.query) continue;
      feed.delete(page.selection);
      following.pages.delete(id);
    }
    for (const [id, query] of wanted) {
      if (following.pages.has(id)) continue;
      const filter = readFilter(new URLSearchParams(query));
      const selection = new Selection(filter);
      following.pages.set(id, { query, selection });
      feed.add(selection);
    }
    this.#following.set(reply, following);
    if (this.#following.size === 1 && known === undefined) {
      this.#server.begin();
      this.#count = 0;
      this.#schedule();
    }
  }

  #drop(reply: string): void {
    for (
      const { selection } of this.#following.get(reply)?.pages.values() ?? []
    ) {
      this.#server.feed.delete(selection);
    }
    this.#following.delete(reply);
    if (this.#following.size === 0) this.#cancel();
  }

  #schedule(): void {
    this.#cancel = this.#server.clock.after(UPDATE_MS, () => {
      this.#schedule();
      this.#update();
    });
  }

  #update(): void {
    const isTick = ++this.#count % UPDATES_PER_TICK === 0;
    const tick = isTick ? this.#server.tick() : undefined;
    const elapsed = this.#server.clock.elapsed();
    for (const following of [...this.#following.values()]) {
      if (elapsed >= following.until) this.#drop(following.reply);
      else this.#tell(following, tick);
    }
  }

  async #tell(following: Following, tick: Tick | undefined): Promise<void> {
    // The selections go on counting, within their bounds.
    if (following.isBusy) return;
    const pages = this.#gather(following);
    if (tick === undefined && pages.length === 0) return;
    following.isBusy = true;
    const { reply } = following;
    const body = { tick, pages };
    const isHeard = await this.#server.line.tell(reply, {
      what: "update",
      body,
    });
    following.isBusy = false;
    // Its server has ended, or has died.
    if (isHeard === false) this.#drop(reply);
  }

  /** The events of each page, as many as have room; the others are counted. */
  #gather({ pages }: Following): unknown[] {
    const gathered: unknown[] = [];
    let units = LIST_UNITS / 2;
    for (const [id, { selection }] of pages) {
      const { events, skipped } = selection.flush();
      if (events.length === 0 && skipped === 0) continue;
      const fits = fitting(events, units);
      units -= JSON.stringify(fits).length;
      gathered.push([id, fits, skipped + events.length - fits.length]);
    }
    return gathered;
  }

  /** Tells all who follow that this server tells nothing any more. */
  close(): void {
    for (const { reply } of [...this.#following.values()]) {
      this.#drop(reply);
      this.#server.line.tell(reply, { what: "gone", body: {} });
    }
  }
}

/** By id, the filters of pages. */
function readPages(pages: unknown): Map<string, string> {
  const read = new Map<string, string>();
  for (const page of Array.isArray(pages) ? pages.slice(0, MAX_PAGES) : []) {
    if (!isObject(page)) continue;
    const { id, query } = page;
    if (typeof id === "string" && typeof query === "string") {
      read.set(id, query);
    }
  }
  return read;
}
