/**
 * A channel as a client of a test has it.
 *
 * @module
 */

import type { AnyEvents } from "../../mod.ts";
import type {
  InfoOf,
  ReceivedEvents,
  ReceivedName,
  SentName,
  TestEvent,
} from "./events.ts";

/** How a client subscribes. */
export interface TestSubscribeOptions<Member = unknown> {
  /**
   * What `authorize` would answer, in its place: `true`, or the member. The program
   * is not asked then.
   */
  authorized?: true | Member | undefined;
  /** Number of past events that the server replays. @default {0} */
  rewind?: number | undefined;
}

/** What a channel needs of its client. */
export interface ChannelOwner {
  take(event: string | undefined, channel?: string): Promise<TestEvent>;
  expectNothing(event: string | undefined, channel?: string): Promise<void>;
  send(frame: object): void;
  fence(): Promise<void>;
  left(channel: string): void;
}

/**
 * A channel that a client of a test is subscribed to.
 *
 * @example
 * ```ts
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher();
 * const news = await (await test.connect()).subscribe("news");
 * await test.pusher.trigger("news", "create", { text: "hello" });
 * assertEquals(await news.next("create"), { text: "hello" });
 * await news.expectNothing();
 * ```
 *
 * @typeParam Map Event to data.
 */
export class TestChannel<Map = AnyEvents[string]> {
  /** The name of the channel. */
  readonly name: string;
  /** The members of a presence channel with their `user_info`, by user id. */
  readonly members: ReadonlyMap<string, InfoOf<Map>>;
  readonly #owner: ChannelOwner;

  /** Made by {@linkcode TestClient.subscribe}. */
  constructor(
    name: string,
    members: ReadonlyMap<string, InfoOf<Map>>,
    owner: ChannelOwner,
  ) {
    this.name = name;
    this.members = members;
    this.#owner = owner;
  }

  /** Takes the next event of the channel, or waits for it. */
  next(): Promise<TestEvent>;
  /**
   * Takes the next event of that name, or waits for it. Events of other names stay.
   *
   * @returns Its data.
   * @throws {ExpectationError} If it does not come; the message says what came.
   */
  next<N extends ReceivedName<Map>>(event: N): Promise<ReceivedEvents<Map>[N]>;
  async next(event?: string): Promise<unknown> {
    const taken = await this.#owner.take(event, this.name);
    return event === undefined ? taken : taken.data;
  }

  /**
   * Expects that no event of the channel is left that the test has not taken.
   *
   * @param event Only events of that name.
   * @throws {ExpectationError} If there is one.
   */
  expectNothing(event?: ReceivedName<Map>): Promise<void> {
    return this.#owner.expectNothing(event, this.name);
  }

  /**
   * Sends a client event to the other subscribers. If the server refuses it, the
   * client gets `pusher:error`.
   */
  trigger<N extends SentName<Map>>(
    event: N,
    data: N extends keyof Map ? Map[N] : unknown,
  ): void {
    this.#owner.send({ event, channel: this.name, data });
  }

  /** Leaves the channel. */
  async unsubscribe(): Promise<void> {
    const data = { channel: this.name };
    this.#owner.send({ event: "pusher:unsubscribe", data });
    await this.#owner.fence();
    this.#owner.left(this.name);
  }
}
