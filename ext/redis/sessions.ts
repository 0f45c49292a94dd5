/**
 * Sessions of stock clients in Redis, so that any server can go on with one.
 *
 * @module
 */

import type {
  Position,
  SessionState,
  SessionStore,
} from "../../core/backplane.ts";
import type { Keys } from "./keys.ts";
import type { Network } from "./network.ts";
import { FORGET, KEEP, TAKE, TOUCH } from "./scripts.ts";

/** How long a session with an owner is kept without a word from it. */
export const OWNED_MS = 3 * 3_600_000;
// How long it is remembered that there was a session.
const TOMBSTONE_MS = 24 * 3_600_000;
const PAGE = 256;

/** What sessions need of their backplane. */
export interface SessionServices {
  readonly keys: Keys;
  readonly network: Network;
  /** Names the server that owns sessions. */
  readonly server: string;
  /** How long a client may be away, in milliseconds. */
  readonly ageMs: number;
}

/** See {@linkcode SessionStore}. */
export class RedisSessions implements SessionStore {
  readonly #services: () => SessionServices;
  /** Sessions that this server owns, as far as it knows. */
  readonly #owned = new Set<string>();

  constructor(services: () => SessionServices) {
    this.#services = services;
  }

  async take(
    app: string,
    id: string,
  ): Promise<SessionState | "forgotten" | null> {
    const { keys, network, server, ageMs } = this.#services();
    const { bucket, name, state, tombstone } = keys.session(app, id);
    const answer = await network.connection(bucket).call(
      TAKE,
      [state, tombstone, keys.meta(bucket)],
      [server, keys.serverTopic(bucket, ""), name, OWNED_MS, ageMs],
    );
    this.#owned.add(name);
    const [code, text] = answer as [number, string?];
    if (text !== undefined) return decodeState(text);
    return code === 2 ? "forgotten" : null;
  }

  async keep(
    app: string,
    id: string,
    state: SessionState,
    isAway: boolean,
  ): Promise<void> {
    const { keys, network, server, ageMs } = this.#services();
    const { bucket, name, state: key, tombstone } = keys.session(app, id);
    const text = encodeState(state);
    if (isAway) this.#owned.delete(name);
    else this.#owned.add(name);
    const away = Number(isAway);
    const lifeMs = OWNED_MS + TOMBSTONE_MS;
    await network.connection(bucket).call(
      KEEP,
      [key, tombstone],
      [server, text, away, ageMs, OWNED_MS, lifeMs],
    );
  }

  async forget(app: string, id: string): Promise<void> {
    const { keys, network, server } = this.#services();
    const { bucket, name, state, tombstone } = keys.session(app, id);
    this.#owned.delete(name);
    const call = network.connection(bucket);
    await call.call(FORGET, [state, tombstone], [server]);
  }

  /** Takes the word that another server owns a session now. */
  lose(name: string): { app: string; id: string } {
    this.#owned.delete(name);
    const end = name.indexOf(" ");
    return { app: name.slice(0, end), id: name.slice(end + 1) };
  }

  /**
   * Has the sessions live on that this server owns.
   *
   * @param isAway Whether their clients are gone, as the server closes.
   */
  async touch(isAway = false): Promise<void> {
    const { keys, network, server, ageMs } = this.#services();
    const byBucket = new Map<number, string[]>();
    for (const name of this.#owned) {
      const end = name.indexOf(" ");
      const { bucket, state } = keys.session(
        name.slice(0, end),
        name.slice(end + 1),
      );
      const states = byBucket.get(bucket) ?? [];
      states.push(state);
      byBucket.set(bucket, states);
    }
    const lifeMs = isAway ? ageMs : OWNED_MS;
    for (const [bucket, states] of byBucket) {
      for (let from = 0; from < states.length; from += PAGE) {
        const page = states.slice(from, from + PAGE);
        const connection = network.connection(bucket);
        await connection.call(TOUCH, page, [server, lifeMs, Number(isAway)]);
      }
    }
  }
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
