/**
 * Sessions of stock clients in Redis, so that any server can go on with one.
 *
 * @module
 */

import { createHash } from "node:crypto";
import type {
  History,
  Position,
  SessionState,
  SessionStore,
} from "../../core/backplane.ts";
import type { Clock } from "../../core/time.ts";
import { BUCKETS, type Keys } from "./keys.ts";
import type { Connection, Network } from "./network.ts";
import { DROP, FORGET, KEEP, TAKE, TOUCH } from "./session_scripts.ts";

// How long a session with an owner is kept at most without a word from it, and how
// often the owner has its sessions live on.
const MAX_OWNED_MS = 3 * 3_600_000;
const MAX_TOUCH_MS = 3_600_000;
// How long it is known that there was a session after it was kept last.
const KNOWN_MS = 27 * 3_600_000;
// The clocks of servers differ by less. A call that takes longer may come after later
// ones: what a server sent to a Redis that stood still is carried out when that goes on,
// even if the server has given up long ago.
const LATE_MS = 250;
// A connection is older than another one if it came so much earlier. A subscription may
// wait until Redis is back, and by then its client may have gone to another server.
const OLDER_MS = 1_000;
// Sessions of which that is known. A digest takes some 90 bytes.
const MAX_KNOWN = 262_144;
const PAGE = 256;

/** What sessions need of their backplane. */
export interface SessionServices {
  readonly keys: Keys;
  readonly network: Network;
  /** Names the server that owns sessions. */
  readonly server: string;
  /** How long clients may be away, and how many. */
  readonly history: Readonly<History>;
  /** What the clock of a connection's Redis says. */
  now(connection: Connection): number;
  /** See {@linkcode BackplaneNode.taken}. */
  taken(app: string, id: string): void;
}

/** Calls to take a session that have not been answered yet. */
interface Taking {
  calls: number;
  /** The latest term at which another server has taken it meanwhile; 0 for none. */
  lostTerm: number;
}

/** See {@linkcode SessionStore}. */
export class RedisSessions implements SessionStore {
  readonly #services: () => SessionServices;
  /** Sessions that this server owns, as far as it knows, with the terms of that. */
  readonly #owned = new Map<string, number>();
  /** Sessions that it is about to take. */
  readonly #taking = new Map<string, Taking>();
  #cancel = () => {};
  #isClosed = false;

  constructor(services: () => SessionServices) {
    this.#services = services;
  }

  async take(
    app: string,
    id: string,
    ageMs = 0,
  ): Promise<SessionState | "forgotten" | null> {
    const { keys, network, server, now, taken } = this.#services();
    const { bucket, name, state, known, away } = keys.session(app, id);
    const taking = this.#taking.get(name) ?? { calls: 0, lostTerm: 0 };
    this.#taking.set(name, taking);
    taking.calls++;
    try {
      const connection = network.connection(bucket);
      const [term, code, text] = await connection.call(
        TAKE,
        [state, known, away, keys.meta(bucket)],
        [
          ...[server, keys.serverTopic(bucket, ""), name, digestOf(name)],
          ...[this.#ownedMs, this.#ageMs, KNOWN_MS],
          ...[now(connection), LATE_MS, Math.ceil(ageMs), OLDER_MS],
        ],
      ) as [string, number, string?];
      if (code === 3) {
        taken(app, id);
        return null;
      }
      this.#owned.set(name, Number(term));
      this.#compare(name, taking.lostTerm);
      if (text !== undefined) return decodeState(text);
      return code === 2 ? "forgotten" : null;
    } finally {
      if (--taking.calls === 0) this.#taking.delete(name);
    }
  }

  async keep(
    app: string,
    id: string,
    state: SessionState,
    isAway: boolean,
  ): Promise<void> {
    const { keys, network, server, history } = this.#services();
    const own = keys.session(app, id);
    if (isAway) this.#owned.delete(own.name);
    else this.#owned.set(own.name, this.#owned.get(own.name) ?? 0);
    const connection = network.connection(own.bucket);
    const tooMany = await connection.call(
      KEEP,
      [own.state, own.known, own.away],
      [
        ...[server, encodeState(state), Number(isAway)],
        ...[this.#ageMs, this.#ownedMs, KNOWN_MS],
        ...[own.name, digestOf(own.name)],
        ...[MAX_KNOWN / BUCKETS, Math.ceil(history.sessions / BUCKETS)],
      ],
    ) as string[];
    if (tooMany.length === 0) return;
    await connection.call(
      DROP,
      tooMany.map((name) => keys.sessionNamed(name).state),
      [],
    );
  }

  async forget(app: string, id: string): Promise<void> {
    const { keys, network, server } = this.#services();
    const { bucket, name, state, known } = keys.session(app, id);
    this.#owned.delete(name);
    const connection = network.connection(bucket);
    await connection.call(FORGET, [state, known], [server, digestOf(name)]);
  }

  get #ageMs(): number {
    return Math.ceil(this.#services().history.ageMs);
  }

  /** A session whose owner has died ends about as soon as that of a client away. */
  get #ownedMs(): number {
    return Math.min(2 * this.#ageMs, MAX_OWNED_MS);
  }

  /** Has the sessions of this server live on, until it closes. */
  keepUp(clock: Clock): void {
    const delayMs = Math.min(this.#ageMs / 2, MAX_TOUCH_MS);
    this.#cancel = clock.after(delayMs, () => {
      this.touch().catch(() => {
        // Redis is away. What has ended by then is kept anew by its owner.
      }).finally(() => {
        if (!this.#isClosed) this.keepUp(clock);
      });
    });
  }

  /** Says that the clients of all sessions are gone. */
  async close(): Promise<void> {
    this.stop();
    await this.touch(true);
  }

  /** Ends the upkeep. */
  stop(): void {
    this.#isClosed = true;
    this.#cancel();
  }

  /** Takes the word that another server has made a session its own, at a term. */
  lose(text: string): void {
    const end = text.indexOf(" ");
    const [term, name] = [Number(text.slice(0, end)), text.slice(end + 1)];
    const taking = this.#taking.get(name);
    if (taking === undefined) return this.#compare(name, term);
    // The client may be on its way back: the answer tells who was later.
    taking.lostTerm = Math.max(taking.lostTerm, term);
  }

  /** Lets go of a session if another server has taken it since this one did. */
  #compare(name: string, lostTerm: number): void {
    const term = this.#owned.get(name);
    if (term === undefined || lostTerm <= term) return;
    this.#owned.delete(name);
    const end = name.indexOf(" ");
    this.#services().taken(name.slice(0, end), name.slice(end + 1));
  }

  /**
   * Has the sessions live on that this server owns.
   *
   * @param isAway Whether their clients are gone, as the server closes.
   */
  async touch(isAway = false): Promise<void> {
    const { keys, network, server } = this.#services();
    const byBucket = new Map<number, string[]>();
    for (const name of this.#owned.keys()) {
      const { bucket, state } = keys.sessionNamed(name);
      const states = byBucket.get(bucket) ?? [];
      states.push(state);
      byBucket.set(bucket, states);
    }
    const lifeMs = isAway ? this.#ageMs : this.#ownedMs;
    for (const [bucket, states] of byBucket) {
      for (let from = 0; from < states.length; from += PAGE) {
        const page = states.slice(from, from + PAGE);
        const connection = network.connection(bucket);
        await connection.call(TOUCH, page, [server, lifeMs, Number(isAway)]);
      }
    }
  }
}

/** Stands for the name of a session, whose length its client chooses. */
function digestOf(name: string): string {
  return createHash("sha256").update(name).digest("base64").slice(0, 10);
}

type PositionFields = [channel: string, epoch: string, offset: number];

function encodeState(
  { formerIds, positions, hasLost = false }: SessionState,
): string {
  const list: PositionFields[] = Array.from(
    positions,
    ([channel, { epoch, offset }]) => [channel, epoch, offset],
  );
  return JSON.stringify([formerIds, list, hasLost]);
}

function decodeState(text: string): SessionState {
  const [formerIds, list, hasLost]: [string[], PositionFields[], boolean] = JSON
    .parse(text);
  const positions = new Map<string, Position>();
  for (const [channel, epoch, offset] of list) {
    positions.set(channel, { epoch, offset });
  }
  return { formerIds, positions, ...(hasLost && { hasLost }) };
}
