/**
 * Who publishes in a run: backends that call the HTTP API of any node or of the
 * balancer, and the clients among themselves.
 *
 * @module
 */
import { Random } from "../../support/random.ts";
import { signedRequest } from "../../support/server.ts";
import { EVENT, type Subject, userChannel } from "../loss/clients.ts";
import type { Truth } from "./truth.ts";

const TICK_MS = 10;
/** Of the messages, how many are client events, and how many go to users. */
const CLIENT_SHARE = 0.1;
const USER_SHARE = 0.2;
/** Of the other messages, how many leave a client out. */
const EXEMPT_SHARE = 0.05;
const PADDING = 250;
/** How long a backend waits for an answer: longer than a server may take for one. */
const ANSWER_MS = 15_000;

/** What {@linkcode Traffic} takes. */
export interface TrafficOptions {
  readonly seed: number;
  /** Where the HTTP API is: the nodes, and the balancer. */
  readonly ports: readonly number[];
  readonly truth: Truth;
  readonly channels: readonly string[];
  readonly users: readonly string[];
  readonly subjects: () => readonly Subject[];
  /** Messages a second. */
  readonly rate: number;
}

/** How publishing went. */
export interface TrafficReport {
  accepted: number;
  /** Answered with 503, which says that it may be tried again. */
  refused: number;
  /** Not answered: the connection broke, or nobody was there. */
  unanswered: number;
  /** The longest time until a server that was not frozen refused, in milliseconds. */
  slowestRefusalMs: number;
}

/**
 * Deno sends a request again by itself when a connection that was used before ends
 * without an answer: then a message is published twice. New connections are not.
 */
const CLIENT = { poolMaxIdlePerHost: 0 };

/** Publishes numbered messages until it is told to stop. */
export class Traffic implements Disposable {
  readonly #options: TrafficOptions;
  readonly #random: Random;
  readonly #pending = new Set<Promise<unknown>>();
  readonly #client = Deno.createHttpClient(CLIENT);
  readonly problems: string[] = [];
  readonly report: TrafficReport = {
    accepted: 0,
    refused: 0,
    unanswered: 0,
    slowestRefusalMs: 0,
  };
  /** Whether nothing bad happens, and each message has to be accepted. */
  isCalm = false;
  /** Whether clients say nothing: when that arrives nobody knows. */
  areClientsHushed = false;

  constructor(options: TrafficOptions) {
    this.#options = options;
    this.#random = new Random(options.seed, 4);
  }

  /** Starts. The function that is returned stops it, and waits for the answers. */
  start(): () => Promise<void> {
    const start = performance.now();
    let sent = 0;
    const timer = setInterval(() => {
      const due = (performance.now() - start) / 1000 * this.#options.rate;
      for (; sent < due; sent++) this.#publish();
    }, TICK_MS);
    return async () => {
      clearInterval(timer);
      await this.answered();
    };
  }

  /** Waits until all that was published has been answered. */
  async answered(): Promise<void> {
    await Promise.all(this.#pending);
  }

  /** Publishes a message to every channel at every node, and returns them. */
  async mark(): Promise<Map<string, number[]>> {
    const { channels, users, ports } = this.#options;
    const marks = new Map<string, number[]>();
    for (const channel of [...channels, ...users.map(userChannel)]) {
      marks.set(channel, ports.map((port) => this.#toChannel(channel, port)));
    }
    await this.answered();
    return marks;
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }

  #publish(): void {
    const { channels, users, ports } = this.#options;
    const subjects = this.#options.subjects();
    // At times no page is open.
    if (subjects.length === 0) return;
    const random = this.#random;
    const port = random.of(ports);
    const kind = random.next();
    const subject = random.of(subjects);
    const user = random.of(users);
    const channel = random.of(channels);
    if (kind < CLIENT_SHARE) this.#fromClient(subject);
    else if (kind < CLIENT_SHARE + USER_SHARE) {
      this.#toChannel(userChannel(user), port);
    } else {
      // Who joins a cache channel gets its last event, be it who it may.
      const isExempt = random.next() < EXEMPT_SHARE &&
        !channel.startsWith("cache-");
      this.#toChannel(channel, port, isExempt ? subject : undefined);
    }
  }

  #toChannel(channel: string, port: number, exempt?: Subject): number {
    const { truth } = this.#options;
    // One that has never been on a channel has nothing to be left out by.
    const socketId = exempt?.joinedAs;
    const n = truth.number(socketId && exempt?.name);
    truth.sent(channel, n);
    const request = signedRequest(
      `http://127.0.0.1:${port}`,
      "POST",
      "/events",
      {
        body: {
          name: EVENT,
          channel,
          data: JSON.stringify(this.#data(n)),
          ...socketId !== undefined && { socket_id: socketId },
        },
      },
    );
    const pending = this.#send(request, channel, n)
      .finally(() => this.#pending.delete(pending));
    this.#pending.add(pending);
    return n;
  }

  async #send(request: Request, channel: string, n: number): Promise<void> {
    const { report } = this;
    const wasCalm = this.isCalm;
    const start = performance.now();
    let status = 0;
    let text = "";
    let retryAfter: string | null = null;
    try {
      const response = await fetch(request, {
        client: this.#client,
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      status = response.status;
      retryAfter = response.headers.get("retry-after");
      text = await response.text();
    } catch (error) {
      text = String(error);
    }
    const ms = performance.now() - start;
    if (status === 200) {
      report.accepted++;
      this.#options.truth.published(channel, n);
      return;
    }
    if (wasCalm && this.isCalm) {
      this.problems.push(`${channel} ${n} was not accepted: ${status} ${text}`);
    }
    if (status === 503) {
      report.refused++;
      report.slowestRefusalMs = Math.max(report.slowestRefusalMs, ms);
      if (retryAfter === null) {
        this.problems.push(`${channel} ${n}: 503 without retry-after: ${text}`);
      }
    } else if (status === 0 || status === 502) report.unanswered++;
    else this.problems.push(`${channel} ${n} was answered ${status}: ${text}`);
  }

  /** What a client sends may be lost on its way: observers know. */
  #fromClient(subject: Subject): void {
    const { channels, truth } = this.#options;
    const channel = this.#random.of(
      channels.filter((name) => /^(private|presence)-/.test(name)),
    );
    if (this.areClientsHushed) return;
    const n = truth.number(subject.name);
    truth.sent(channel, n);
    subject.say(channel, this.#data(n));
  }

  #data(n: number) {
    const random = this.#random;
    const length = random.below(PADDING) * (random.next() < 0.1 ? 10 : 1);
    return { n, padding: "x".repeat(length) };
  }
}
