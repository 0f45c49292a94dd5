/**
 * What a server knows of the channels that it holds: where it stands in the messages
 * of each, and who is a member. It finds gaps and fills them.
 *
 * @module
 */

import type {
  BackplaneNode,
  LoggedMessage,
  Message,
  Position,
} from "../../core/backplane.ts";
import type { ChannelKeys } from "./keys.ts";
import type { Placed } from "./messages.ts";
import type { Connection, Network } from "./network.ts";

/** What servers tell each other, see {@linkcode Message.control}. */
export type Control = NonNullable<Message["control"]>;

/** A part of a channel's history, or null where that does not reach back. */
export type Gap = readonly LoggedMessage[] | null;

// Messages of one channel that may wait while earlier ones are read. Above it the gap
// counts as lost.
const MAX_WAITING = 10_000;

/** A channel that this server holds, or may hold after a call without an answer. */
export class HeldChannel {
  readonly keys: ChannelKeys;
  /**
   * For each user, the connections that Redis may know of this server; under "" those
   * of no user.
   */
  readonly stated = new Map<string, number>();
  /** The same for connections that can recover. */
  recovering = 0;
  /** Calls that have not been answered. */
  calls = 0;
  /** Where it stands; null before the first answer or message. */
  position: Position | null = null;
  /** The members that its subscribers know, on a presence channel, and `user_info`. */
  members: Map<string, string> | null = null;
  readonly #node: BackplaneNode;
  /** Messages that wait until earlier ones have been read. */
  #waiting: Placed[] | null = null;
  #hasOverflowed = false;
  /** Who came and went before the first join was answered. */
  readonly #early: Placed[] = [];

  constructor(keys: ChannelKeys, node: BackplaneNode) {
    this.keys = keys;
    this.#node = node;
  }

  /** Whether Redis knows nothing of it, and no call can change that. */
  get isDone(): boolean {
    return this.calls === 0 && this.stated.size === 0;
  }

  /** Whether messages wait for earlier ones. */
  get isWaiting(): boolean {
    return this.#waiting !== null;
  }

  /** Notes where a join begins. What is on its way to earlier ones is not skipped. */
  begin(
    position: Position,
    members: ReadonlyMap<string, string> | null,
  ): void {
    this.position ??= position;
    if (members === null) return;
    if (this.members !== null) {
      // Who left and came back in a gap is no news to earlier subscribers. To the new
      // one it is, who has seen the list between: all have to begin with that list.
      if (this.isWaiting) this.#correct(members, position);
      return;
    }
    this.members = new Map(members);
    for (const placed of this.#early.splice(0)) {
      if (placed.position.offset > position.offset) this.#count(placed);
    }
  }

  /** Lets messages wait from now on. */
  wait(): void {
    this.#waiting ??= [];
  }

  /**
   * Takes a message from its topic.
   *
   * @returns Whether messages before it are missing. It waits then.
   */
  take(placed: Placed): boolean {
    if (this.#waiting !== null) {
      this.#keep(this.#waiting, placed);
      return false;
    }
    const { position } = this;
    const { epoch, offset } = placed.position;
    if (position !== null && epoch === position.epoch) {
      if (offset <= position.offset) return false;
      if (offset > position.offset + 1) {
        this.#waiting = [placed];
        return true;
      }
    }
    this.#deliver(placed);
    return false;
  }

  #keep(waiting: Placed[], placed: Placed): void {
    if (waiting.length < MAX_WAITING) {
      waiting.push(placed);
      return;
    }
    this.#hasOverflowed = true;
    waiting.splice(0, waiting.length, placed);
  }

  #deliver(placed: Placed): void {
    const { app, channel } = this.keys;
    const { message, position } = placed;
    const isNewEpoch = this.position !== null &&
      this.position.epoch !== position.epoch;
    this.position = position;
    if (this.#count(placed)) {
      this.#node.deliver(app, channel, message, position);
    } else if (isNewEpoch) {
      // A delivery would have told the subscribers of the flush.
      this.#node.lost(app, channel, position);
    }
  }

  /**
   * Notes who comes and goes with a message.
   *
   * @returns Whether that is news. After a flush it may not be: a member may come to a
   * Redis that does not know it, while the subscribers do.
   */
  #count(placed: Placed): boolean {
    const { added, removed, userInfo = "{}" } = placed;
    const { members } = this;
    const userId = added ?? removed;
    if (userId === undefined) return true;
    if (members === null) {
      this.#early.push(placed);
      return true;
    }
    if (members.has(userId) === (added !== undefined)) return false;
    if (added !== undefined) members.set(userId, userInfo);
    else members.delete(userId);
    return true;
  }

  /** Whether something before a position has not reached this server. */
  isBehind({ epoch, offset }: Position): boolean {
    const { position } = this;
    return position !== null &&
      (epoch !== position.epoch || offset > position.offset);
  }

  /** Goes on where it stands, with the messages that have waited. */
  goOnHere(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = null;
    this.#hasOverflowed = false;
    for (const placed of waiting) {
      if (this.position === null || this.isBehind(placed.position)) {
        this.#deliver(placed);
      }
    }
  }

  /**
   * Goes on from a position, and with the messages that have waited.
   *
   * @param gap What was missed before it.
   * @param members The members at that position.
   * @param isQuiet Whether others may yet have to register members.
   * @param controls What its subscribers are to hear besides.
   */
  goOn(
    now: Position,
    gap: Gap,
    members: ReadonlyMap<string, string>,
    isQuiet: boolean,
    controls: readonly Control[],
  ): void {
    const { position } = this;
    // The answer may have been overtaken by who came and went after it.
    const isStale = position !== null && position.epoch === now.epoch &&
      position.offset > now.offset;
    if (this.isBehind(now)) {
      this.#fill(now, this.#hasOverflowed ? null : gap);
    }
    // Who has come or gone is not in the history.
    if (!isStale && isQuiet) this.#welcome(members, now);
    else if (!isStale) this.#correct(members, now);
    for (const control of controls) this.tell(control);
    this.goOnHere();
  }

  #fill(now: Position, gap: Gap): void {
    const { app, channel } = this.keys;
    const { epoch } = now;
    if (gap === null) {
      // At the last offset its subscribers hear yet who has come and gone.
      const isPlain = this.members === null && !channel.startsWith("#");
      const offset = isPlain ? now.offset : now.offset - 1;
      this.#node.lost(app, channel, { epoch, offset }, now.offset);
    } else {
      for (const { message, offset } of gap) {
        this.#node.deliver(app, channel, message, { epoch, offset });
      }
    }
    this.position = now;
  }

  /** Tells the subscribers who else has come and gone before a position. */
  #correct(members: ReadonlyMap<string, string>, at: Position): void {
    const { members: known } = this;
    if (known === null) return;
    for (const userId of known.keys()) {
      if (members.has(userId)) continue;
      known.delete(userId);
      this.#tell(this.#node.departure(this.keys.channel, userId).removed, at);
    }
    this.#welcome(members, at);
  }

  /** Tells the subscribers who else has come before a position. */
  #welcome(members: ReadonlyMap<string, string>, at: Position): void {
    for (const [userId, userInfo] of members) {
      if (this.members === null || this.members.has(userId)) continue;
      this.members.set(userId, userInfo);
      const { channel } = this.keys;
      this.#tell(this.#node.arrival(channel, { userId, userInfo }), at);
    }
  }

  /** Tells the subscribers what the servers tell each other. */
  tell(control: Control | undefined): void {
    if (control === undefined || this.position === null) return;
    this.#tell({ event: control, control }, this.position);
  }

  #tell(message: Message | undefined, at: Position): void {
    if (message === undefined) return;
    const { app, channel } = this.keys;
    this.#node.deliver(app, channel, message, at);
  }
}

/** All channels that Redis may know of this server. */
export class HeldChannels implements Iterable<HeldChannel> {
  readonly #node: BackplaneNode;
  readonly #network: Network;
  readonly #byName = new Map<string, HeldChannel>();
  readonly #byTopic = new Map<string, HeldChannel>();

  constructor(node: BackplaneNode, network: Network) {
    this.#node = node;
    this.#network = network;
  }

  [Symbol.iterator](): Iterator<HeldChannel> {
    return this.#byName.values();
  }

  get({ name }: ChannelKeys): HeldChannel | undefined {
    return this.#byName.get(name);
  }

  /** The channel of a topic. */
  of(topic: string): HeldChannel | undefined {
    return this.#byTopic.get(topic);
  }

  /** A channel, whose topic is subscribed to before anything is stated of it. */
  hold(keys: ChannelKeys, connection: Connection | null): HeldChannel {
    const known = this.#byName.get(keys.name);
    if (known !== undefined) return known;
    const held = new HeldChannel(keys, this.#node);
    this.#byName.set(keys.name, held);
    this.#byTopic.set(keys.topic, held);
    // If it fails, the connection has ended, and what follows fails, too.
    connection?.subscribe([keys.topic]).catch(() => {});
    return held;
  }

  /** Forgets a channel that Redis knows nothing of. */
  dropIfDone(held: HeldChannel): void {
    const { name, topic, bucket } = held.keys;
    if (!held.isDone || this.#byName.get(name) !== held) return;
    this.#byName.delete(name);
    this.#byTopic.delete(topic);
    try {
      // If it fails, the connection has ended, and with it the subscription.
      this.#network.connection(bucket).unsubscribe([topic]).catch(() => {});
    } catch {
      // A new connection subscribes to what is held by then.
    }
  }
}
