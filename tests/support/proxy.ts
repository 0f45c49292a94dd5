/**
 * A TCP proxy that treats connections as bad networks do: it resets them,
 * closes them, leaves them hanging, slows them down and ends them in the middle
 * of a message, on a seed.
 *
 * Resets are real ones, by `SO_LINGER`, which only `node:net` gives access to.
 * Everything it does is bounded in number and time, and ends with it.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { Random } from "./random.ts";

const HOST = "127.0.0.1";

/** How long a truncation waits for something to truncate before it cuts. */
const TRUNCATION_WAIT_MS = 500;
/** How long an end of a link may take to end after the last bytes to it. */
const FAREWELL_MS = 1_000;

/** How long a storm waits for a link when there is none. */
const ARRIVAL_MS = 1_000;

/** What can happen to a link. */
export const FAULTS = [
  "reset",
  "close",
  "stall",
  "ghost",
  "slow",
  "truncate",
  "refuse",
] as const;

/**
 * What happens to a link:
 * - `reset`: both ends get a reset.
 * - `close`: both ends get an orderly end.
 * - `stall`: nothing passes either way for a time, not even the end of one
 *   side; then it goes on, or is cut.
 * - `ghost`: the client gets a reset, the server hears nothing of it for a time.
 * - `slow`: whatever passes is late, for a time.
 * - `truncate`: a part of the next chunk passes, then both ends are cut.
 * - `refuse`: a reset, and for a time one for all new connections.
 */
export type Fault = typeof FAULTS[number];

/** One fault of a storm. All of it is decided before the storm begins. */
export interface Gust {
  /** When it comes, after the beginning. */
  readonly atMs: number;
  readonly fault: Fault;
  /** Which of the links, from 0 up to 1. */
  readonly pick: number;
  /** How long it lasts, where it lasts. */
  readonly forMs: number;
  /** How late `slow` makes a chunk. */
  readonly delayMs: number;
  /** How much of a chunk `truncate` lets through, and further choices. */
  readonly share: number;
}

/** What {@linkcode planStorm} plans. */
export interface StormOptions {
  readonly seed: number;
  /** How many faults. */
  readonly cuts: number;
  /** Over which time they are spread. */
  readonly seconds: number;
  /** Kinds to choose from. @default {FAULTS} */
  readonly faults?: readonly Fault[];
  /** The longest that a fault may last. @default {3000} */
  readonly longestMs?: number;
}

/** What {@linkcode FaultProxy.open} takes. */
export interface ProxyOptions {
  /** The server's port, on 127.0.0.1. */
  readonly port: number;
  /** An HTTP status for requests to upgrade, none of which then pass. */
  readonly upgradeStatus?: number | undefined;
}

/** The faults of a storm, in their order. */
export function planStorm(options: StormOptions): Gust[] {
  const { seed, cuts, seconds, faults = FAULTS, longestMs = 3_000 } = options;
  const random = new Random(seed);
  return Array.from({ length: cuts }, () => ({
    atMs: random.next() * seconds * 1000,
    fault: random.of(faults),
    pick: random.next(),
    // Short ones come more often, as in life.
    forMs: 50 + random.next() ** 2 * (longestMs - 50),
    delayMs: 5 + random.below(45),
    share: random.next(),
  })).sort((a, b) => a.atMs - b.atMs);
}

// ---- Links ------------------------------------------------------------------

/** A connection through the proxy. */
class Link {
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  /** While it is there nothing passes. */
  #gate: PromiseWithResolvers<void> | null = null;
  #delayMs = 0;
  /** How much of the next chunk of one side is let through, as the last one. */
  #truncation: { source: Socket; share: number } | null = null;
  #isCut = false;
  #isAnswered = false;
  /** Resolves when both ends are gone. */
  readonly closed: Promise<void>;

  constructor(client: Socket, server: Socket, private status: number | null) {
    this.#client = client;
    this.#server = server;
    this.closed = this.#run();
  }

  /** Ends both ends, in the middle of whatever they say. */
  cut(how: "reset" | "close"): void {
    if (this.#isCut) return;
    this.#isCut = true;
    for (const socket of [this.#client, this.#server]) {
      if (how === "reset") this.#reset(socket);
      else socket.destroy();
    }
    this.#open();
  }

  /** Lets nothing pass for a time, and then goes on or is cut. */
  stall(forMs: number, end: "reset" | "close" | "resume"): void {
    if (this.#isCut) return;
    this.#gate ??= Promise.withResolvers<void>();
    this.#after(forMs, () => {
      if (end === "resume") this.#open();
      else this.cut(end);
    });
  }

  /** Resets the client's end and leaves the server's open for a time. */
  ghost(forMs: number, end: "reset" | "close"): void {
    if (this.#isCut) return;
    this.stall(forMs, end);
    this.#reset(this.#client);
  }

  /** Makes everything late, for a time. */
  slow(forMs: number, delayMs: number): void {
    this.#delayMs = delayMs;
    this.#after(forMs, () => this.#delayMs = 0);
  }

  /** Ends in the middle of what one of both ends says next. */
  truncate(side: "client" | "server", share: number): void {
    if (this.#isCut) return;
    const source = side === "client" ? this.#client : this.#server;
    this.#truncation = { source, share };
    this.#after(TRUNCATION_WAIT_MS, () => this.cut("close"));
  }

  async #run(): Promise<void> {
    const ends = [this.#client, this.#server];
    // The reader notices a failure; without a listener it would be thrown.
    for (const socket of ends) socket.on("error", () => {});
    const gone = ends.map((socket) =>
      socket.closed ? undefined : new Promise((r) => socket.once("close", r))
    );
    await Promise.all([
      ...gone,
      this.#pump(this.#client, this.#server),
      this.#pump(this.#server, this.#client),
    ]);
    for (const timer of this.#timers) clearTimeout(timer);
  }

  async #pump(source: Socket, target: Socket): Promise<void> {
    try {
      // Otherwise an end of the iteration would be one of the socket.
      const chunks = source.iterator({ destroyOnReturn: false });
      for await (const chunk of chunks as AsyncIterable<Buffer>) {
        await this.#passage();
        if (this.#isCut) return;
        if (source === this.#server) this.#isAnswered = true;
        if (source === this.#client && this.#refuses(chunk)) return;
        if (this.#truncates(source, target, chunk)) return;
        if (!target.write(chunk)) await drained(target);
      }
      await this.#passage();
      if (this.#isCut) return;
      target.end();
      // An end that is only half one is nothing that either side relies on.
      this.#after(FAREWELL_MS, () => this.cut("close"));
    } catch {
      await this.#passage();
      this.cut("reset");
    }
  }

  /** Answers a request to upgrade, if there shall be none. */
  #refuses(chunk: Buffer): boolean {
    if (this.status === null) return false;
    if (!/^upgrade: *websocket\r$/im.test(chunk.toString("latin1"))) {
      return false;
    }
    this.#part(
      this.#client,
      Buffer.from(
        `HTTP/1.1 ${this.status} Refused\r\nContent-Length: 0\r\n` +
          "Connection: close\r\n\r\n",
      ),
    );
    return true;
  }

  #truncates(source: Socket, target: Socket, chunk: Buffer): boolean {
    if (this.#truncation?.source !== source) return false;
    const length = Math.floor(chunk.length * this.#truncation.share);
    this.#part(target, chunk.subarray(0, length));
    return true;
  }

  /** Says the last thing to one end; the other one is reset. */
  #part(target: Socket, words: Buffer): void {
    const other = target === this.#client ? this.#server : this.#client;
    target.end(words, () => this.cut("close"));
    this.#reset(other);
    this.#after(FAREWELL_MS, () => this.cut("close"));
  }

  /**
   * Resets an end. A server that has not answered yet gets an orderly end: Deno
   * 2.9.6 never reports a socket that is reset while it is being upgraded, and
   * then `shutdown()` of the server never resolves.
   */
  #reset(socket: Socket): void {
    if (socket === this.#client || this.#isAnswered) reset(socket);
    else socket.destroy();
  }

  async #passage(): Promise<void> {
    if (this.#delayMs > 0) {
      await new Promise<void>((resolve) => this.#after(this.#delayMs, resolve));
    }
    while (this.#gate) await this.#gate.promise;
  }

  #open(): void {
    this.#gate?.resolve();
    this.#gate = null;
  }

  #after(ms: number, then: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      then();
    }, ms);
    this.#timers.add(timer);
  }
}

function reset(socket: Socket): void {
  // There is nothing to reset without a connection.
  if (socket.destroyed || socket.connecting) socket.destroy();
  else socket.resetAndDestroy();
}

/** Resolves when a socket takes more, and when it takes nothing any more. */
async function drained(socket: Socket): Promise<void> {
  if (socket.destroyed) return;
  const done = new AbortController();
  const { signal } = done;
  const ends = ["drain", "close"].map((event) =>
    once(socket, event, { signal }).catch(() => {})
  );
  await Promise.race(ends);
  done.abort();
}

// ---- The proxy --------------------------------------------------------------

/** A proxy in front of a port of this machine; disposal ends all of it. */
export class FaultProxy implements AsyncDisposable {
  readonly #listener: Server;
  readonly #links = new Set<Link>();
  readonly #closing = new AbortController();
  #refusesUntil = 0;
  #arrived = () => {};
  /** The port that new connections are passed on to. */
  target: number;
  /** An HTTP status for requests to upgrade, or null to let them pass. */
  upgradeStatus: number | null;
  /** Connections accepted so far. */
  accepted = 0;
  /** Connections refused so far. */
  refused = 0;

  private constructor(listener: Server, options: ProxyOptions) {
    this.#listener = listener;
    this.target = options.port;
    this.upgradeStatus = options.upgradeStatus ?? null;
    listener.on("connection", (socket) => this.#accept(socket));
  }

  /** Starts one on a free port. */
  static async open(options: ProxyOptions): Promise<FaultProxy> {
    // The end of one side must not end the other one before its time.
    const listener = createServer({ allowHalfOpen: true });
    const proxy = new FaultProxy(listener, options);
    listener.listen(0, HOST);
    await once(listener, "listening");
    return proxy;
  }

  /** Where it listens. */
  get port(): number {
    const address = this.#listener.address();
    if (address === null || typeof address === "string") {
      throw new Error("Cannot tell the port: the proxy does not listen");
    }
    return address.port;
  }

  /** How many connections there are. */
  get links(): number {
    return this.#links.size;
  }

  /** Does one thing to one link. Returns false where there is no link. */
  strike({ fault, pick, forMs, delayMs, share }: Omit<Gust, "atMs">): boolean {
    const link = [...this.#links][Math.floor(pick * this.#links.size)];
    if (!link) return false;
    const end = share < 0.5 ? "reset" : "close";
    switch (fault) {
      case "reset":
      case "close":
        link.cut(fault);
        break;
      case "stall":
        link.stall(forMs, share < 0.3 ? "resume" : end);
        break;
      case "ghost":
        link.ghost(forMs, end);
        break;
      case "slow":
        link.slow(forMs, delayMs);
        break;
      case "truncate":
        // The client says little: most of what it says is whole or not there.
        link.truncate(pick * 97 % 1 < 0.8 ? "server" : "client", share);
        break;
      case "refuse":
        link.cut("reset");
        this.refuse(forMs);
        break;
    }
    return true;
  }

  /** Resets new connections for a time, as soon as they are there. */
  refuse(forMs: number): void {
    this.#refusesUntil = Math.max(this.#refusesUntil, Date.now() + forMs);
  }

  /**
   * Does what was planned. Resolves when all of it has begun, or when the signal
   * says that it is enough, with how often what has happened.
   */
  async storm(
    gusts: readonly Gust[],
    signal?: AbortSignal,
  ): Promise<Partial<Record<Fault, number>>> {
    const tally: Partial<Record<Fault, number>> = {};
    const signals = [this.#closing.signal];
    if (signal) signals.push(signal);
    const enough = AbortSignal.any(signals);
    const start = performance.now();
    for (const gust of gusts) {
      await pause(start + gust.atMs - performance.now(), enough);
      // Where connections are short there may be none at the moment.
      if (this.links === 0) await this.#arrival(enough);
      if (enough.aborted) break;
      if (this.strike(gust)) tally[gust.fault] = (tally[gust.fault] ?? 0) + 1;
    }
    return tally;
  }

  /** Cuts each connection, and accepts new ones: at once, or after a time. */
  async clear(how: "reset" | "close", refuseForMs = 0): Promise<void> {
    this.#refusesUntil = Date.now() + refuseForMs;
    const links = [...this.#links];
    for (const link of links) link.cut(how);
    await Promise.all(links.map(({ closed }) => closed));
  }

  /** Accepts new connections again. */
  admit(): void {
    this.#refusesUntil = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    const closed = new Promise((resolve) => this.#listener.close(resolve));
    await this.clear("reset");
    await closed;
  }

  async #arrival(signal: AbortSignal): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#arrived = resolve;
    await Promise.race([promise, pause(ARRIVAL_MS, signal)]);
  }

  #accept(client: Socket): void {
    if (this.#closing.signal.aborted || Date.now() < this.#refusesUntil) {
      this.refused++;
      client.on("error", () => {});
      reset(client);
      return;
    }
    this.accepted++;
    const server = connect({
      host: HOST,
      port: this.target,
      allowHalfOpen: true,
      noDelay: true,
    });
    client.setNoDelay(true);
    const link = new Link(client, server, this.upgradeStatus);
    this.#links.add(link);
    link.closed.finally(() => this.#links.delete(link));
    this.#arrived();
  }
}

/** Resolves after a time, or at once when there is no need to wait any more. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms <= 0 || signal.aborted) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => resolve(), { once: true });
  await promise;
  clearTimeout(timer);
}
