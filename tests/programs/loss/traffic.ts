/**
 * Who publishes in a run: the program, the official SDK over HTTP, and the
 * clients under test among themselves.
 *
 * @module
 */
import type { Pusher } from "@glitz/pusher";
import type StockServerSdk from "pusher";
import { Random } from "../../support/random.ts";
import { EVENT, type Subject, userChannel } from "./clients.ts";
import type { Ledger } from "./ledger.ts";

/** How often what is due is published; timers are not more exact than that. */
const TICK_MS = 5;
/** Of the messages, how many go over HTTP, as client events, and to users. */
const HTTP_SHARE = 0.2;
const CLIENT_SHARE = 0.05;
const USER_SHARE = 0.2;
/** Of those of the program and the SDK, how many leave a client out. */
const EXEMPT_SHARE = 0.05;
/** How often several come at once, and how many at most. */
const BURST_CHANCE = 0.01;
const BURST = 40;
/** How long the padding may be; a tenth is ten times as long. */
const PADDING = 250;

/** What {@linkcode Traffic} takes. */
export interface TrafficOptions {
  readonly seed: number;
  /** The program publishes through each of them in turn. */
  readonly servers: readonly Pusher[];
  readonly sdk: StockServerSdk;
  readonly ledger: Ledger;
  readonly channels: readonly string[];
  readonly users: readonly string[];
  readonly subjects: readonly Subject[];
  /** Messages a second. */
  readonly rate: number;
}

/** Publishes numbered messages until it is told to stop. */
export class Traffic {
  readonly #options: TrafficOptions;
  readonly #random: Random;
  readonly #pending = new Set<Promise<unknown>>();
  #areClientsHushed = false;
  /** What publishers were told that is not as it should be. */
  readonly problems: string[] = [];

  constructor(options: TrafficOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
  }

  /** Starts. The promise that is returned stops it. */
  start(): () => Promise<void> {
    const start = performance.now();
    let sent = 0;
    const timer = setInterval(() => {
      const due = (performance.now() - start) / 1000 * this.#options.rate;
      while (sent < due) {
        const burst = this.#random.next() < BURST_CHANCE;
        const times = burst ? this.#random.below(BURST) : 1;
        for (let i = 0; i < times; i++) this.#publish();
        sent += times;
      }
    }, TICK_MS);
    return async () => {
      clearInterval(timer);
      await Promise.all(this.#pending);
    };
  }

  /**
   * Has no client say anything any more: how long that takes to arrive nobody
   * knows, and it must not be after the last message.
   */
  hushClients(): void {
    this.#areClientsHushed = true;
  }

  /** Publishes one message to every channel, and returns them by channel. */
  async mark(): Promise<Map<string, number>> {
    const { channels, users } = this.#options;
    const marks = new Map<string, number>();
    for (const channel of [...channels, ...users.map(userChannel)]) {
      marks.set(channel, this.#toChannel(channel, false));
    }
    await Promise.all(this.#pending);
    return marks;
  }

  #publish(): void {
    const { channels, users, subjects } = this.#options;
    const random = this.#random;
    const isOverHttp = random.next() < HTTP_SHARE;
    const kind = random.next();
    const subject = random.of(subjects);
    const user = random.of(users);
    const channel = random.of(channels);
    if (kind < CLIENT_SHARE) this.#fromClient(subject);
    else if (kind < CLIENT_SHARE + USER_SHARE) {
      this.#toChannel(userChannel(user), isOverHttp);
    } else {
      // Who joins a cache channel gets its last event, be it who it may.
      const isExempt = random.next() < EXEMPT_SHARE &&
        !channel.startsWith("cache-");
      this.#toChannel(channel, isOverHttp, isExempt ? subject : undefined);
    }
  }

  #toChannel(channel: string, isOverHttp: boolean, exempt?: Subject): number {
    const { ledger, servers, sdk } = this.#options;
    // One that has never been connected has nothing to be left out by.
    const socketId = servers.length > 1 ? exempt?.joinedAs : exempt?.socketId;
    const n = ledger.number(socketId && exempt?.name);
    const data = this.#data(n);
    const params = socketId === undefined ? {} : { socket_id: socketId };
    const user = channel.startsWith(userChannel(""))
      ? channel.slice(userChannel("").length)
      : undefined;
    // There is at least one.
    const publisher = isOverHttp ? sdk : servers[n % servers.length]!;
    this.#await(
      user === undefined
        ? publisher.trigger(channel, EVENT, data, params)
        : publisher.sendToUser(user, EVENT, data),
      () => ledger.published(channel, n),
    );
    return n;
  }

  /** What a client sends may be lost on its way to the server: the witness knows. */
  #fromClient(subject: Subject): void {
    const channel = this.#random.of(
      this.#options.channels.filter((name) =>
        /^(private|presence)-/.test(name)
      ),
    );
    if (this.#areClientsHushed) return;
    const n = this.#options.ledger.number(subject.name);
    subject.say(channel, this.#data(n));
  }

  #data(n: number) {
    const random = this.#random;
    const length = random.below(PADDING) * (random.next() < 0.1 ? 10 : 1);
    return { n, padding: "x".repeat(length) };
  }

  #await(answer: Promise<unknown>, then: () => void): void {
    const pending = answer.then(then, (error) => {
      this.problems.push(`a publisher was told: ${error}`);
    }).finally(() => this.#pending.delete(pending));
    this.#pending.add(pending);
  }
}
