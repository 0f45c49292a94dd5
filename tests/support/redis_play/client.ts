/**
 * What a client of a server notices: the messages and the members of one channel, and
 * what it was told to have lost.
 *
 * @module
 */
import type { JoinResult, Position } from "@glitz/pusher";
import type { Delivered } from "../contract/server.ts";

/** Counts what happens, so that one can say what came before what. */
export class Count {
  #count = 0;

  get now(): number {
    return this.#count;
  }

  next(): number {
    return ++this.#count;
  }
}

/** A subscriber of one channel, which takes messages as the real server's does. */
export class Client {
  readonly channel: string;
  /** Its user, on a presence channel. */
  readonly user: string | undefined;
  /** Whether it comes back for what it has missed. */
  readonly recovers: boolean;
  /** Whether it only leaves with its server. */
  readonly stays: boolean;
  /** Data of all messages that it has got. */
  readonly heard = new Set<string>();
  /** The members that it knows, on a presence channel. */
  members: Set<string> | null = null;
  /** What it was told last of the user whom its channel watches. */
  online: boolean | null = null;
  /** When it was on the channel for the first time; Infinity before that. */
  joinedAt = Infinity;
  /** When it was last told of a loss. */
  lostAt = -1;
  /** Where it stands. */
  position: Position | null = null;
  /** Messages that wait for what the history has for it. */
  #waiting: Delivered[] | null = null;
  /** Its join covers everything up to here. */
  #from: Position = { epoch: "", offset: 0 };
  readonly #count: Count;
  readonly #complain: (what: string) => void;

  constructor(
    init: {
      channel: string;
      user: string | undefined;
      recovers: boolean;
      stays: boolean;
    },
    count: Count,
    complain: (what: string) => void,
  ) {
    this.channel = init.channel;
    this.user = init.user;
    this.recovers = init.recovers;
    this.stays = init.stays;
    this.#count = count;
    this.#complain = (what) =>
      complain(`${init.channel}, client of ${init.user ?? "nobody"}: ${what}`);
  }

  /** Begins, or goes on after it was away. */
  enter(result: JoinResult): void {
    const { position, members } = result;
    const isBack = this.position !== null;
    if (isBack && result.replay?.recovered !== true) this.#noteLoss();
    if (!isBack) this.joinedAt = this.#count.next();
    this.#from = this.position = position;
    if (this.user !== undefined) {
      this.members = new Set(members.keys());
      if (!this.members.has(this.user)) {
        this.#complain("it is no member after its join");
      }
    }
    if (isBack && result.replay?.recovered) this.#waiting = [];
  }

  /** Takes what the history had for it, null if that does not reach back. */
  replay(data: readonly string[] | null): void {
    const waiting = this.#waiting;
    // It was told of a loss, and has gone on.
    if (waiting === null) return;
    this.#waiting = null;
    if (data === null) this.#noteLoss();
    for (const one of data ?? []) this.#hear(one);
    for (const delivered of waiting) this.take(delivered);
  }

  /** Takes a message, unless its join covers it. */
  take(delivered: Delivered): void {
    if (this.#waiting !== null) return void this.#waiting.push(delivered);
    const { message, position } = delivered;
    const { epoch, offset } = position;
    if (epoch !== this.#from.epoch) this.lose({ epoch, offset: offset - 1 });
    if (offset <= this.#from.offset) return;
    const { control } = message;
    if (control !== undefined) {
      if (control !== "terminate") this.online = control === "online";
      return;
    }
    const { event, data = "" } = message;
    if (event === "added") this.#add(data);
    else if (event === "removed") this.#remove(data);
    else if (event === "e") {
      if (message.logged) this.#ascend(position, data);
      this.#hear(data);
    }
  }

  /** Goes on from a position; it is told that something before it is lost. */
  lose(now: Position): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = null;
    this.#from = this.position = now;
    this.#noteLoss();
    for (const delivered of waiting) this.take(delivered);
  }

  #noteLoss(): void {
    this.lostAt = this.#count.next();
  }

  #ascend(position: Position, data: string): void {
    const before = this.position;
    if (
      before !== null && before.epoch === position.epoch &&
      before.offset >= position.offset
    ) {
      this.#complain(
        `${data} at ${position.offset} comes after ${before.offset}`,
      );
    }
    this.position = position;
  }

  #hear(data: string): void {
    if (this.heard.has(data) && !data.startsWith("fence")) {
      this.#complain(`${data} comes twice`);
    }
    this.heard.add(data);
  }

  #add(user: string): void {
    if (this.members?.has(user)) this.#complain(`${user} is added twice`);
    this.members?.add(user);
  }

  #remove(user: string): void {
    if (this.members?.has(user) === false) {
      this.#complain(`${user} is removed twice`);
    }
    this.members?.delete(user);
  }
}
