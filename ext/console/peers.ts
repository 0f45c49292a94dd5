/**
 * The other servers, as a console sees them: it asks them, and follows them while a
 * page is open.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";
import { type FeedEvent, readEvents } from "./feed.ts";
import { readTick, type Tick } from "./figures.ts";
import type { Line, Word } from "./line.ts";

/** What the other servers have answered. */
export interface Collected {
  /** By server. */
  readonly answers: ReadonlyMap<string, Record<string, unknown>>;
  /** How many have not answered. */
  readonly silent: number;
}

/** Another server. */
export interface Peer {
  readonly node: string;
  /** Its console that tells: another one of the same server would tell it again. */
  readonly console: string;
  /** What it has said last of its figures; null before it has. */
  tick: Tick | null;
  /** Whether the figures have come since they were last looked at. */
  isFresh: boolean;
  /** Whether it has said nothing for a while. */
  isSilent: boolean;
  /** When it said something last. */
  readonly heardAt: number;
}

/** A page that is open, and the events that it wants. */
export interface OpenPage {
  readonly id: string;
  /** The filter, in the form of a query. */
  readonly query: string;
}

/** What a console does with what other servers tell of themselves. */
export interface PeersOwner {
  /** Events for a page, and how many more there were. */
  events(page: string, events: readonly FeedEvent[], skipped: number): void;
  /** A server has gone. */
  gone(node: string): void;
}

/** How long servers may take to answer. */
const ANSWER_MS = 1_500;
/** How often they hear that pages are still open. */
const RENEW_MS = 5_000;
/** For so long they follow without hearing that. */
export const FOLLOW_MS = 3 * RENEW_MS;
/** They tell their figures each second. */
const SILENT_MS = 5_000;
const GONE_MS = 60_000;
/** A page that changes its filter opens its stream again. */
const LINGER_MS = 5_000;
/** More servers than a page could show. */
const MAX_PEERS = 64;

interface Pending {
  readonly to: string | undefined;
  readonly answers: Map<string, Record<string, unknown>>;
  readonly done: PromiseWithResolvers<void>;
  /** How many have heard the call; null while that is not known. */
  heard: number | null;
}

/** The other servers. */
export class Peers {
  readonly #line: Line;
  readonly #clock: Clock;
  readonly #owner: PeersOwner;
  readonly #known = new Map<string, Peer>();
  readonly #pending = new Map<number, Pending>();
  #calls = 0;
  #pages: readonly OpenPage[] = [];
  #isFollowing = false;
  #cancel = () => {};
  /** How many other servers have a console, as far as is known. */
  listening = 0;

  constructor(line: Line, clock: Clock, owner: PeersOwner) {
    this.#line = line;
    this.#clock = clock;
    this.#owner = owner;
  }

  /** The other servers that have said something of themselves, by their names. */
  get known(): Peer[] {
    return [...this.#known.values()]
      .sort((a, b) => a.node < b.node ? -1 : 1);
  }

  // ---- Asking

  /** Asks all other servers, or one of them; waits until they have answered. */
  async ask(
    what: string,
    args: Record<string, unknown>,
    to?: string,
  ): Promise<Collected> {
    const id = ++this.#calls;
    const done = Promise.withResolvers<void>();
    const pending: Pending = { to, answers: new Map(), done, heard: null };
    this.#pending.set(id, pending);
    const cancel = this.#clock.after(ANSWER_MS, done.resolve);
    this.#line.call({ id, to, what, args }).then((heard) => {
      pending.heard = heard;
      if (heard !== null) this.listening = heard;
      // Without the others there is nothing to wait for.
      if (heard === null || heard === 0) done.resolve();
      this.#settle(pending);
    });
    await done.promise;
    cancel();
    this.#pending.delete(id);
    const { answers, heard } = pending;
    const expected = to !== undefined ? 1 : heard ?? this.#known.size;
    return { answers, silent: Math.max(0, expected - answers.size) };
  }

  #settle({ to, heard, answers, done }: Pending): void {
    if (heard === null) return;
    const expected = to === undefined ? heard : Math.min(heard, 1);
    if (answers.size >= expected) done.resolve();
  }

  /** Takes what another server says. */
  hear({ node, console, id, what, body }: Word): void {
    const known = this.#known.get(node);
    if (what === "gone") {
      if (known?.console !== console) return;
      this.listening = Math.max(0, this.listening - 1);
      return this.#forget(node);
    }
    const pending = id === undefined ? undefined : this.#pending.get(id);
    if (what === "answer" && pending !== undefined) {
      pending.answers.set(node, body);
      this.#settle(pending);
    }
    if (what !== "update" || !this.#isFollowing) return;
    if (known !== undefined && known.console !== console) return;
    if (known === undefined && this.#known.size >= MAX_PEERS) return;
    this.#update({
      ...{ node, console, tick: null, isFresh: false, isSilent: false },
      ...known,
      heardAt: this.#clock.elapsed(),
    }, body);
  }

  // ---- Following

  /** Says which pages are open. */
  follow(pages: readonly OpenPage[]): void {
    this.#pages = pages;
    this.#cancel();
    if (pages.length > 0) {
      this.#isFollowing = true;
      return this.#renew();
    }
    if (!this.#isFollowing) return;
    this.#cancel = this.#clock.after(LINGER_MS, () => this.#end());
  }

  #renew(): void {
    this.#cancel = this.#clock.after(RENEW_MS, () => this.#renew());
    const call = { id: 0, what: "follow", args: { pages: this.#pages } };
    this.#line.call(call).then((heard) => {
      if (heard !== null) this.listening = heard;
    });
  }

  #end(): void {
    this.#cancel();
    if (!this.#isFollowing) return;
    this.#isFollowing = false;
    for (const { node } of this.known) this.#forget(node);
    this.#line.call({ id: 0, what: "follow", args: { pages: [] } });
  }

  #update(peer: Peer, { tick, pages }: Record<string, unknown>): void {
    const { node } = peer;
    this.#known.set(node, peer);
    peer.isSilent = false;
    const read = readTick(tick);
    if (read !== null) {
      peer.tick = read;
      peer.isFresh = true;
    }
    if (!Array.isArray(pages)) return;
    for (const [page, events, skipped] of pages) {
      if (typeof page !== "string") continue;
      const count = Number.isSafeInteger(skipped) ? skipped : 0;
      this.#owner.events(page, readEvents(events, node), count);
    }
  }

  /** Notes which servers are silent, and forgets those that have been for long. */
  review(): void {
    const elapsed = this.#clock.elapsed();
    for (const peer of this.known) {
      const quietMs = elapsed - peer.heardAt;
      peer.isSilent = quietMs > SILENT_MS;
      if (quietMs > GONE_MS) this.#forget(peer.node);
    }
  }

  #forget(node: string): void {
    if (this.#known.delete(node)) this.#owner.gone(node);
  }

  close(): void {
    this.#end();
    for (const { done } of this.#pending.values()) done.resolve();
  }
}
