/**
 * The clients whose messages are counted: our own and pusher-js, with a session
 * in its path and without. They have the same names and shapes, so that one
 * driver drives them all.
 *
 * @module
 */
import pusherJs from "pusher-js";
import { Pusher as OwnPusher } from "@glitz/pusher/client";
import { APP } from "../../support/server.ts";
import type { Account } from "./ledger.ts";

// The package's types describe an ES module, but under Deno it is CommonJS.
const StockPusher = pusherJs as unknown as typeof pusherJs.default;

/** Kinds of clients. */
export const KINDS = ["ours", "stock-session", "stock"] as const;
/** `stock-session` and `stock` are pusher-js, with a session and without. */
export type Kind = typeof KINDS[number];

/** Transports. */
export const TRANSPORTS = ["ws", "xhr_streaming", "xhr_polling"] as const;
/** As both clients name them. */
export type Transport = typeof TRANSPORTS[number];

/** The event that the program publishes. */
export const EVENT = "message";
/** The event that clients send each other. */
export const CLIENT_EVENT = "client-message";

/** Silence after which a client asks whether the server is still there. */
const ACTIVITY_TIMEOUT_MS = 500;
/** How long a client waits for the answer. */
const PONG_TIMEOUT_MS = 1_000;

/** How long a stock client may try before it is told that it is online. */
const CONNECTING_MS = 2_500;
const NUDGE_INTERVAL_MS = 500;

/** The part of an emitter that both clients have. */
interface Emitter {
  // deno-lint-ignore no-explicit-any -- data of events
  bind(event: string, handler: (data: any) => void): unknown;
}

/** The part of a client that both have. */
interface AnyPusher {
  readonly connection: Emitter & {
    readonly state: string;
    readonly socket_id?: string | null;
  };
  readonly user: Emitter;
  subscribe(name: string): Emitter & {
    /** On presence channels. */
    readonly members?: { readonly members: Record<string, unknown> };
    trigger(event: string, data: unknown): boolean;
  };
  signin(): void;
  disconnect(): void;
}

/** What {@linkcode Subject} takes. */
export interface SubjectOptions {
  readonly kind: Kind;
  readonly transport: Transport;
  /** Of the proxy, or of the server. */
  readonly port: number;
  /** Its name, which is its member's name too. */
  readonly name: string;
  /** The user that it signs in as. */
  readonly user: string;
  readonly channels: readonly string[];
  readonly account: Account;
  /** Is called after whatever happens to it. */
  readonly onChange?: () => void;
  /** Is told, in words, whatever the client is told. */
  readonly trace?: ((line: string) => void) | undefined;
}

/** The channel on which the events of a user are. */
export function userChannel(user: string): string {
  return `#server-to-user-${user}`;
}

/** A client under test. */
export class Subject {
  readonly name: string;
  readonly account: Account;
  /** What should not have happened to it, whatever its kind. */
  readonly problems: string[] = [];
  /** How often it was connected. */
  connections = 0;
  /** How often it gave up, and was started anew as a page is that is reloaded. */
  restarts = 0;
  /** How often a subscription was refused, by the network for the most part. */
  refusals = 0;

  readonly #options: SubjectOptions;
  readonly #session = crypto.randomUUID();
  readonly #channels = new Map<
    string,
    ReturnType<AnyPusher["subscribe"]>
  >();
  #pusher: AnyPusher | null = null;
  /** What it is on, by its present connection. */
  readonly #joined = new Set<string>();
  #joinedAs: string | undefined;
  #connectingSince: number | null = null;

  constructor(options: SubjectOptions) {
    this.#options = options;
    this.name = options.name;
    this.account = options.account;
  }

  /** Its connection, the present or the last one. */
  get socketId(): string | undefined {
    return this.#pusher?.connection.socket_id ?? undefined;
  }

  /**
   * The last connection by which it was on a channel. Of several servers, only one
   * knows of a connection of pusher-js that was cut before.
   */
  get joinedAs(): string | undefined {
    return this.#joinedAs;
  }

  get isConnected(): boolean {
    return this.#pusher?.connection.state === "connected";
  }

  /** Whether it has all that it wants, by another connection than one of before. */
  isSettled(before?: string): boolean {
    return this.isConnected &&
      this.socketId !== before &&
      this.wanted.every((channel) => this.#joined.has(channel));
  }

  /** What it still waits for, for people. */
  get wants(): string {
    const missing = this.wanted.filter((name) => !this.#joined.has(name));
    return `${this.name} is ${this.#pusher?.connection.state} as ` +
      `${this.socketId} without [${missing}]`;
  }

  /** Whether it has been trying to connect for longer than a stock client should. */
  get isStuck(): boolean {
    return this.#options.kind !== "ours" && this.#connectingSince !== null &&
      performance.now() - this.#connectingSince > CONNECTING_MS;
  }

  /** All channels that it is meant to be on, its user's included. */
  get wanted(): string[] {
    return [...this.#options.channels, userChannel(this.#options.user)];
  }

  /** Connects, subscribes and signs in, once and for all. */
  start(): void {
    const pusher = connect(this.#options, this.#session);
    this.#pusher = pusher;
    this.#joined.clear();
    this.#joinedAs = undefined;
    this.#connectingSince = performance.now();
    const { account, onChange = () => {}, trace = () => {} } = this.#options;
    const own = userChannel(this.#options.user);
    // deno-lint-ignore no-explicit-any -- what clients say
    const on = (emitter: Emitter, event: string, then: (data: any) => void) =>
      emitter.bind(event, (data) => {
        // One that was replaced has nothing to say any more.
        if (this.#pusher !== pusher) return;
        then(data);
        onChange();
      });
    on(pusher.connection, "state_change", ({ current }) => {
      trace(`${current} ${this.socketId}`);
      this.#enter(current);
    });
    on(pusher.connection, "message", ({ event, channel, data }) => {
      trace(`${event} ${channel ?? ""} ${data?.n ?? ""}`);
      if (event === "pusher:signin_success") this.#join(own);
      // The user's channel has no object to bind to.
      if (event === "pusher:recovery_failed" && channel === own) {
        account.toldOfGap(own);
      }
    });
    on(pusher.user, EVENT, ({ n }) => account.heard(own, n));
    for (const name of this.#options.channels) {
      const channel = pusher.subscribe(name);
      this.#channels.set(name, channel);
      on(channel, "pusher:subscription_succeeded", () => this.#join(name));
      on(channel, "pusher:subscription_error", () => this.refusals++);
      on(channel, "pusher:recovery_failed", () => account.toldOfGap(name));
      for (const event of [EVENT, CLIENT_EVENT]) {
        on(channel, event, ({ n }) => account.heard(name, n));
      }
    }
    pusher.signin();
  }

  /** Sends the others of a channel an event, if it can. */
  say(channel: string, data: unknown): boolean {
    return this.#joined.has(channel) &&
      (this.#channels.get(channel)?.trigger(CLIENT_EVENT, data) ?? false);
  }

  /** Whom it sees on a presence channel, in order. */
  members(channel: string): string[] {
    const { members } = this.#channels.get(channel) ?? {};
    return Object.keys(members?.members ?? {}).sort();
  }

  /** Disconnects for good. */
  stop(): void {
    const pusher = this.#pusher;
    this.#pusher = null;
    pusher?.disconnect();
  }

  #join(channel: string): void {
    this.#joined.add(channel);
    this.#joinedAs = this.socketId;
    this.account.joined(channel);
  }

  #enter(state: string): void {
    this.#joined.clear();
    const isTrying = state === "connecting" || state === "unavailable";
    if (!isTrying) this.#connectingSince = null;
    else this.#connectingSince ??= performance.now();
    if (state === "connected") this.connections++;
    if (state === "disconnected") this.problems.push(`${this.name} is out`);
    if (state !== "failed") return;
    if (this.#options.kind === "ours") {
      this.problems.push(`${this.name} has failed`);
      return;
    }
    // pusher-js takes leave of a transport that has broken twice in a row.
    this.restarts++;
    this.stop();
    this.start();
  }
}

/**
 * Tells the stock clients among some that the machine is online, as a browser
 * does, whenever one has been trying for long: of itself it waits for fifteen
 * seconds after an attempt that did not come through.
 */
export function nudge(subjects: () => readonly Subject[]): Disposable {
  const timer = setInterval(() => {
    if (!subjects().some(({ isStuck }) => isStuck)) return;
    // The types leave out what emitters inherit.
    const network = StockPusher.Runtime.getNetwork() as unknown as {
      emit(event: string): void;
    };
    network.emit("online");
  }, NUDGE_INTERVAL_MS);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

function connect(
  { kind, transport, port, name, user }: SubjectOptions,
  session: string,
): AnyPusher {
  const base = `http://127.0.0.1:${port}/pusher`;
  const options = {
    wsHost: "127.0.0.1",
    wsPort: port,
    forceTLS: false,
    enabledTransports: [transport],
    activityTimeout: ACTIVITY_TIMEOUT_MS,
    pongTimeout: PONG_TIMEOUT_MS,
    channelAuthorization: {
      endpoint: `${base}/auth`,
      transport: "ajax" as const,
      params: { name },
    },
    userAuthentication: {
      endpoint: `${base}/user-auth`,
      transport: "ajax" as const,
      params: { user },
    },
  };
  if (kind === "ours") return new OwnPusher(APP.key, options) as AnyPusher;
  const prefix = kind === "stock-session" ? `/r/${session}` : "";
  const stock = new StockPusher(APP.key, {
    ...options,
    // Required, and without effect next to a host.
    cluster: "none",
    wsPath: prefix,
    httpHost: "127.0.0.1",
    httpPort: port,
    httpPath: `${prefix}/pusher`,
  });
  // Its types name the events that it knows.
  return stock as unknown as AnyPusher;
}
