/**
 * Counts what an app's clients do, sums up what is there, and measures how long calls
 * take.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type {
  AppCounts,
  Figures,
  KindFigures,
  Measurement,
  Meter,
  PublishSource,
} from "./figures.ts";
import { isOwnChannel } from "./protocol.ts";
import type { Awaitable, Clock } from "./time.ts";
import type { Transport } from "./transport.ts";

// ---- Counting ---------------------------------------------------------------

/** Counts the messages of one app. To count costs an addition. */
export class Traffic implements AppCounts {
  messagesReceived = 0;
  bytesReceived = 0;
  messagesSent = 0;
  bytesSent = 0;
  replays = 0;
  losses = 0;
  slowClients = 0;
  #lastFrame = "";
  #lastBytes = 0;

  /** Counts what a client has sent. */
  received(frame: string): void {
    this.messagesReceived++;
    this.bytesReceived += Buffer.byteLength(frame);
  }

  /** Counts what a transport was given. */
  handed(frame: string): void {
    // All subscribers of a channel get the same frame, one after the other.
    if (frame !== this.#lastFrame) {
      this.#lastFrame = frame;
      this.#lastBytes = Buffer.byteLength(frame);
    }
    this.bytesSent += this.#lastBytes;
  }
}

// ---- The meter --------------------------------------------------------------

/** An app, as far as it is measured. */
interface Measured {
  readonly id: string;
  readonly traffic: Traffic;
  readonly quota: { readonly unauthorized: number };
  readonly channels: ReadonlyMap<string, {
    readonly name: string;
    readonly kind: { readonly prefix: string; readonly presence: boolean };
    readonly subscriptions: ReadonlySet<{
      readonly member: { readonly userId: string } | undefined;
    }>;
  }>;
}

/** The server of a meter. */
export interface MeasuredServer {
  readonly clock: Clock;
  readonly appsById: ReadonlyMap<string, Measured>;
  readonly connections: ReadonlyMap<string, {
    readonly app: { readonly id: string };
    readonly outbox: {
      readonly transport: Transport;
      readonly pendingBytes: number;
    };
  }>;
  readonly hooks: {
    readonly failures: number;
    fail(error: unknown, during: string): void;
  };
  readonly isBackplaneUp: boolean;
  readonly isClosing: boolean;
}

/** What is noted of a call besides how it went. */
type Noted = Measurement extends infer Each
  ? Each extends Measurement ? Omit<Each, "tookMs" | "isDone"> : never
  : never;

/** The meter of a server. */
export class ServerMeter implements Meter {
  readonly #server: MeasuredServer;
  readonly #observers = new Set<(measurement: Measurement) => void>();

  constructor(server: MeasuredServer) {
    this.#server = server;
  }

  get isBackplaneUp(): boolean {
    return this.#server.isBackplaneUp;
  }

  get isClosing(): boolean {
    return this.#server.isClosing;
  }

  figures(): Figures {
    const { appsById, connections, hooks } = this.#server;
    const apps = new Map(
      Array.from(appsById.values(), (app) => [app.id, figuresOf(app)]),
    );
    for (const { app, outbox } of connections.values()) {
      const figures = apps.get(app.id);
      if (figures === undefined) continue;
      const name = outbox.transport.name ?? "ws";
      figures.transports[name] = (figures.transports[name] ?? 0) + 1;
      figures.bufferedBytes += outbox.pendingBytes;
    }
    return { errors: hooks.failures, apps: [...apps.values()] };
  }

  observe(observer: (measurement: Measurement) => void): () => void {
    // One function may be given twice.
    const own = (measurement: Measurement) => observer(measurement);
    this.#observers.add(own);
    return () => void this.#observers.delete(own);
  }

  /** Publishes, and measures it. */
  publish<T>(
    app: string,
    source: PublishSource,
    call: () => Awaitable<T>,
  ): Awaitable<T> {
    return this.#time(() => ({ what: "publish", app, source }), call);
  }

  /** Calls the backplane, and measures it unless it answers in the same turn. */
  backplane<B, T>(
    call: (backplane: B) => Awaitable<T>,
    backplane: B,
  ): Awaitable<T> {
    if (this.#observers.size === 0) return call(backplane);
    const note = () => ({ what: "backplane" }) as const;
    return this.#time(note, () => call(backplane), true);
  }

  /** Answers a request, and measures it. */
  request(
    route: string,
    call: () => Awaitable<Response>,
  ): Awaitable<Response> {
    return this.#time(
      (answer) => ({ what: "request", route, status: answer?.status ?? 500 }),
      call,
    );
  }

  /**
   * @param note What it was, by the answer; null if the call has failed.
   * @param isRemote Whether an answer in the same turn is none to measure.
   */
  #time<T>(
    note: (answer: T | null) => Noted,
    call: () => Awaitable<T>,
    isRemote = false,
  ): Awaitable<T> {
    if (this.#observers.size === 0) return call();
    const { clock } = this.#server;
    const since = clock.elapsed();
    const tell = (answer: T | null, isDone: boolean) => {
      const tookMs = clock.elapsed() - since;
      this.#tell({ ...note(answer), tookMs, isDone });
    };
    let answer: Awaitable<T>;
    try {
      answer = call();
    } catch (error) {
      tell(null, false);
      throw error;
    }
    if (answer instanceof Promise) {
      // The caller gets the promise itself: to measure it makes nothing later.
      answer.then((value) => tell(value, true), () => tell(null, false));
    } else if (!isRemote) tell(answer, true);
    return answer;
  }

  #tell(measurement: Measurement): void {
    for (const observe of this.#observers) {
      try {
        observe(measurement);
      } catch (error) {
        this.#server.hooks.fail(error, "measuring");
      }
    }
  }
}

/** The figures of an app, but for those of its connections. */
function figuresOf(app: Measured) {
  const kinds = new Map<string, KindFigures>();
  let members = 0;
  for (const { name, kind, subscriptions } of app.channels.values()) {
    // Somebody may still be joining it.
    if (isOwnChannel(name) || subscriptions.size === 0) continue;
    const figures = kinds.get(kind.prefix) ?? { channels: 0, subscriptions: 0 };
    figures.channels++;
    figures.subscriptions += subscriptions.size;
    kinds.set(kind.prefix, figures);
    if (kind.presence) members += usersOf(subscriptions);
  }
  const { id, traffic: counts, quota: { unauthorized } } = app;
  const transports: Record<string, number> = {};
  return {
    ...{ app: id, counts, transports, bufferedBytes: 0, kinds, members },
    unauthorizedConnections: unauthorized,
  };
}

/** How many distinct users have subscribed. */
function usersOf(
  subscriptions: Iterable<{
    readonly member: { readonly userId: string } | undefined;
  }>,
): number {
  const users = new Set<string>();
  for (const { member } of subscriptions) {
    if (member !== undefined) users.add(member.userId);
  }
  return users.size;
}
