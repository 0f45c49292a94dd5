/**
 * What servers say to each other, over topics of Redis. Nothing is kept.
 *
 * @module
 */

import { checkSaid, type Intercom, Listeners } from "../../core/intercom.ts";
import type { Keys } from "./keys.ts";
import type { Connection, Network } from "./network.ts";
import { SAY } from "./message_scripts.ts";

/** What it needs of its backplane once that has started. */
export interface IntercomServices {
  readonly network: Network;
  /** Reports what a listener throws. */
  failed(error: unknown): void;
}

/** The intercom of one server. */
export class RedisIntercom implements Intercom {
  readonly #keys: Keys;
  readonly #services: () => IntercomServices;
  readonly #listeners = new Listeners();
  /** By topic, the label that is listened for. */
  readonly #labels = new Map<string, string>();
  /** By bucket, the connection that has its topics, also while it is being restored. */
  readonly #connections = new Map<number, Connection>();

  constructor(keys: Keys, services: () => IntercomServices) {
    this.#keys = keys;
    this.#services = services;
  }

  /** See {@linkcode Intercom.listen}. */
  listen(label: string, hear: (text: string) => void): () => void {
    const { topic, bucket } = this.#keys.label(label);
    const isFirst = !this.#listeners.has(label);
    const remove = this.#listeners.add(label, hear);
    if (isFirst) {
      this.#labels.set(topic, label);
      // If it fails, the connection has ended, and the next one subscribes.
      this.#connections.get(bucket)?.subscribe([topic]).catch(() => {});
    }
    return () => {
      if (!remove()) return;
      this.#labels.delete(topic);
      // If it fails, the connection has ended, and with it the subscription.
      this.#connections.get(bucket)?.unsubscribe([topic]).catch(() => {});
    };
  }

  /** See {@linkcode Intercom.say}. */
  async say(label: string, text: string): Promise<number> {
    checkSaid(text);
    const { topic, bucket } = this.#keys.label(label);
    const connection = this.#services().network.connection(bucket);
    return await connection.call(SAY, [topic], [text]) as number;
  }

  /** Listens over another connection; see {@linkcode NetworkOwner.restore}. */
  async restore(
    buckets: readonly number[],
    connection: Connection,
  ): Promise<void> {
    // First of all: whoever begins to listen meanwhile subscribes there as well.
    for (const bucket of buckets) this.#connections.set(bucket, connection);
    const own = new Set(buckets);
    const topics = [...this.#labels].flatMap(([topic, label]) =>
      own.has(this.#keys.label(label).bucket) ? [topic] : []
    );
    if (topics.length > 0) await connection.subscribe(topics);
  }

  /** Takes what was said; returns whether the topic is a label's. */
  take(topic: string, text: string): boolean {
    const label = this.#labels.get(topic);
    if (label === undefined) return false;
    this.#listeners.hear(label, text, this.#services().failed);
    return true;
  }
}
