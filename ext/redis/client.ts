/**
 * The only file that knows the library. It makes a client of `@redis/client` do one
 * thing: to be one connection, from its making to its end.
 *
 * - The library never reconnects, never queues while it is away, and never subscribes
 *   again: with 2,000 topics its own attempt to do so never ends.
 * - It has no deadline for an answer. {@linkcode Link} has one.
 * - An `error` event without a listener would end the process, also after the end.
 *
 * @module
 */

import { createClient, ErrorReply } from "npm:@redis/client@6.3.1";

/** Where a server is. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** Options of TLS, as texts in PEM where they are keys or certificates. */
export interface RedisTls {
  /** Certificates of authorities to trust instead of the system's. */
  readonly ca?: string | readonly string[] | undefined;
  /** The client's certificate, where the server wants one. */
  readonly cert?: string | undefined;
  /** The key of the client's certificate. */
  readonly key?: string | undefined;
  /** The name that the server's certificate must have. @default {the host} */
  readonly servername?: string | undefined;
}

/** How to log in. */
export interface RedisCredentials {
  /** The user; without one it is Redis' default user. */
  readonly username?: string | undefined;
  /** The password. */
  readonly password?: string | undefined;
}

/** What {@linkcode Client.open} needs to know. */
export interface ClientOptions extends Address {
  readonly credentials: RedisCredentials;
  /** Null for a connection without TLS. */
  readonly tls: RedisTls | null;
}

/** What happens to a client by itself. */
export interface ClientEvents {
  /** A message on a topic. */
  message(topic: string, text: string): void;
  /** Redis has ended a subscription: its slot has moved to another server. */
  moved(): void;
  /** The connection has failed or ended. May come several times. */
  failed(cause: unknown): void;
}

/** How long the library itself waits for a connection. The link's own limit is shorter. */
const CONNECT_MS = 10_000;

/** What shows in Redis' list of clients. */
const CLIENT_NAME = "glitz-pusher";

/** Whether Redis itself said that it did not do what a command asked for. */
export function isReply(error: unknown): error is Error {
  return error instanceof ErrorReply;
}

/** One connection of the library. */
export class Client {
  readonly #client: ReturnType<typeof create>;
  readonly #events: ClientEvents;
  /** One function for all topics, by which the library also finds them again. */
  readonly #hear = (text: string, topic: string): void =>
    this.#events.message(topic, text);

  /** Does nothing until {@linkcode open}. */
  constructor(options: ClientOptions, events: ClientEvents) {
    this.#events = events;
    const client = this.#client = create(options);
    client.on("error", (error: unknown) => events.failed(error));
    client.on("terminated", (error: unknown) => events.failed(error));
    client.on(
      "end",
      () => events.failed(new Error("The connection has ended")),
    );
    client.on("sharded-channel-moved", () => events.moved());
  }

  /** Connects and logs in. Rejects with the first reason. */
  async open(): Promise<void> {
    await this.#client.connect();
  }

  /** Sends a command; resolves with its answer. */
  send(args: readonly string[]): Promise<unknown> {
    return this.#client.sendCommand(args);
  }

  /** Subscribes to topics of one slot. */
  subscribe(topics: readonly string[]): Promise<void> {
    return this.#client.sSubscribe([...topics], this.#hear);
  }

  /**
   * Ends subscriptions. Without the listener the library would take the topics for
   * subscribed until the answer, and would not subscribe to them again.
   */
  unsubscribe(topics: readonly string[]): Promise<void> {
    return this.#client.sUnsubscribe([...topics], this.#hear);
  }

  /** Ends the connection at once, also while it is being made. */
  destroy(): void {
    // A client that has ended may still report errors.
    this.#client.removeAllListeners();
    this.#client.on("error", () => {});
    this.#client.destroy();
  }
}

function create({ host, port, credentials, tls }: ClientOptions) {
  const { username, password } = credentials;
  const shared = {
    connectTimeout: CONNECT_MS,
    reconnectStrategy: false,
  } as const;
  return createClient({
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    name: CLIENT_NAME,
    RESP: 3,
    socket: tls === null
      ? { ...shared, host, port }
      : { ...shared, ...secure(tls), host, port, tls: true },
    disableOfflineQueue: true,
    // It would list the network interfaces, which needs a permission.
    maintNotifications: "disabled",
    // Needs a right of its own, and nothing depends on it.
    disableClientInfo: true,
    // Zero is none. It only covers what is not written yet, with a timer for each.
    commandOptions: { timeout: 0 },
  });
}

/** The same without what is not given. */
function secure({ ca, cert, key, servername }: RedisTls) {
  return {
    ...(ca === undefined ? {} : { ca: typeof ca === "string" ? ca : [...ca] }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(servername === undefined ? {} : { servername }),
  };
}
