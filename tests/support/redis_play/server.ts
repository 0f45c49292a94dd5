/**
 * A server of the play: it uses its backplane as the real one does, and has clients.
 *
 * @module
 */
import type { Backplane, Message, Position } from "@glitz/pusher";
import { SYSTEM_CLOCK } from "../../../core/time.ts";
import { Bell, type Delivered, FakeServer } from "../contract/server.ts";
import type { Strait } from "../strait.ts";
import type { Client } from "./client.ts";

const HISTORY = {
  events: 5_000,
  ageMs: 600_000,
  bytes: 16_777_216,
  sessions: 1_000,
};

/** A server with clients, whose way to Redis can fail. */
export class PlayServer extends FakeServer {
  readonly name: string;
  readonly strait: Strait;
  readonly clients = new Set<Client>();
  /** Calls that have not been answered. */
  readonly calls = new Set<Promise<unknown>>();
  /** What it reported. */
  readonly failures: string[] = [];
  isDead = false;
  isUp = true;
  readonly #joining = new Map<Client, Delivered[]>();

  constructor(name: string, backplane: Backplane, strait: Strait) {
    super(backplane, { history: HISTORY, clock: SYSTEM_CLOCK }, new Bell());
    this.name = name;
    this.strait = strait;
  }

  override deliver(
    app: string,
    channel: string,
    message: Message,
    position: Position,
  ): void {
    super.deliver(app, channel, message, position);
    const delivered = { app, channel, message, position };
    for (const client of this.clients) {
      if (client.channel === channel) client.take(delivered);
    }
    for (const [client, waiting] of this.#joining) {
      if (client.channel === channel) waiting.push(delivered);
    }
  }

  override lost(app: string, channel: string, now: Position): void {
    super.lost(app, channel, now);
    for (const client of this.clients) {
      if (client.channel === channel) client.lose(now);
    }
  }

  override health(isUp: boolean): void {
    super.health(isUp);
    this.isUp = isUp;
  }

  override failed(error: unknown, during: string): void {
    this.failures.push(`${during}: ${error}`);
  }

  /**
   * Joins for a client, which is back if it was there before.
   *
   * @returns Whether it is on the channel now.
   */
  async admit(client: Client, maxMembers: number): Promise<boolean> {
    const { channel, user, recovers, position } = client;
    const init = {
      ...(user !== undefined && { user, maxMembers }),
      ...(recovers && { recovers, since: position ?? undefined, rewind: 0 }),
    };
    const waiting: Delivered[] = [];
    this.#joining.set(client, waiting);
    let result;
    try {
      result = await this.join(channel, init);
    } catch {
      this.#joining.delete(client);
      // What has failed may have been carried out.
      await this.leave(channel, init);
      return false;
    }
    this.#joining.delete(client);
    if (result === null) {
      // The server also leaves after a join that was refused.
      await this.repeat(channel, user === undefined ? {} : { user });
      return false;
    }
    client.enter(result);
    this.clients.add(client);
    for (const delivered of waiting) client.take(delivered);
    if (result.replay?.recovered) {
      client.replay(await this.replay(channel, result).catch(() => null));
    }
    return true;
  }

  /** Has a client leave. */
  async dismiss(client: Client): Promise<void> {
    this.clients.delete(client);
    const { channel, user, recovers } = client;
    await this.leave(channel, {
      ...(user !== undefined && { user }),
      recovers,
    });
  }

  /** Runs a call beside others. */
  start<T>(call: Promise<T>): Promise<T> {
    const settled = call.catch(() => {});
    this.calls.add(settled);
    settled.finally(() => this.calls.delete(settled));
    return call;
  }
}
