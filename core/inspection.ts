/**
 * What an extension may see of a running server: its apps and its live connections.
 *
 * @module
 */

import type { Backplane } from "./backplane.ts";
import { type Intercom, scoped } from "./intercom.ts";
import { parameterOf } from "./parameters.ts";
import { CLOSE, type Close, isOwnChannel } from "./protocol.ts";
import type { Awaitable, Clock } from "./time.ts";
import type { Transport } from "./transport.ts";

// ---- Clients ----------------------------------------------------------------

/** What a client says of itself when it connects, and where it connects from. */
export interface Client {
  /** Its library, such as `js`; stock clients and ours name it. */
  readonly library?: string | undefined;
  /** The version of the library. */
  readonly version?: string | undefined;
  /** The address that it connects from, where the handler was told. */
  readonly address?: string | undefined;
  /** When it connected, by the clock's `elapsed`. */
  readonly since: number;
}

/** What is known of a request's connection, beside the request. */
type Info = Pick<Deno.ServeHandlerInfo, "remoteAddr">;

const INFOS = new WeakMap<Request, Info>();

/** Remembers with a request where it came from; returns the request. */
export function noteInfo(request: Request, info: Info | undefined): Request {
  // Some frameworks pass other things than a request, which is refused later. The
  // address is not read here: that takes time, and few requests need it.
  if (info instanceof Object && request instanceof Request) {
    INFOS.set(request, info);
  }
  return request;
}

/** Reads what a client says of itself. */
export function clientOf(
  url: URL,
  request: Request,
  { clock, trustProxy }: { clock: Clock; trustProxy: boolean },
): Client {
  return {
    library: clip(parameterOf(url, "client")),
    version: clip(parameterOf(url, "version")),
    address: addressOf(request, INFOS.get(request), trustProxy),
    since: clock.elapsed(),
  };
}

/**
 * The address that a request comes from: that of the connection, or what the
 * nearest proxy says if it is trusted. Undefined if it is not known.
 */
export function addressOf(
  { headers }: Request,
  info: Info | undefined,
  trustsProxy: boolean,
): string | undefined {
  // The nearest proxy adds its peer at the end. Earlier values are anybody's word.
  const forwarded = trustsProxy
    ? headers.get("x-forwarded-for")?.split(",").at(-1)?.trim()
    : undefined;
  if (forwarded) return clip(forwarded);
  const address = info?.remoteAddr;
  return address && "hostname" in address ? address.hostname : undefined;
}

/** The client chooses it, and each connection keeps it. */
function clip(text: string | null): string | undefined {
  return text?.slice(0, MAX_CLIENT_UNITS);
}

/** More than any library's name or version has. */
const MAX_CLIENT_UNITS = 45;

// ---- Live connections -------------------------------------------------------

/** A live connection of this server. Its fields say what is true when they are read. */
export interface LiveConnection extends Omit<Client, "since"> {
  /** Id of the app. */
  readonly app: string;
  /** The connection. */
  readonly socketId: string;
  /** Its transport, as in {@linkcode Stats.transports}. */
  readonly transport: string;
  /** Milliseconds since it connected. */
  readonly ageMs: number;
  /** The user who has signed in, or as whom it has joined a presence channel. */
  readonly userId: string | undefined;
  /** The channels that it is subscribed to. */
  readonly channels: readonly string[];
  /** Bytes that were sent, and that the client has not taken yet. */
  readonly bufferedBytes: number;
  /**
   * Closes it.
   *
   * @param reconnects Whether the client may come back at once: code 4200, else 4009.
   */
  close(reconnects?: boolean): void;
}

/** What {@linkcode Pusher.inspect} shows of a server. */
export interface Inspection {
  /** Names this run of the server among all that share its backplane. */
  readonly node: string;
  /** Whether other servers may share its channels. */
  readonly isShared: boolean;
  /** Ids of the apps. */
  readonly apps: readonly string[];
  /** Aborts when the server has closed. */
  readonly ended: AbortSignal;
  /** Whether it believes a proxy about where requests come from: `trustProxy`. */
  readonly trustsProxy: boolean;
  /** Lists the live connections of this server, the oldest first. */
  connections(): Iterable<LiveConnection>;
  /** Finds a live connection. */
  connection(socketId: string): LiveConnection | undefined;
  /**
   * How extensions of this server talk to theirs on other servers; absent where the
   * backplane has none. Labels are those of what is inspected: the inspection of one
   * app hears nothing of others.
   */
  readonly intercom?: Intercom | undefined;
}

/** A connection as the server has it. */
interface Inspected {
  readonly app: { readonly id: string };
  readonly socketId: string;
  readonly userId: string | undefined;
  readonly client: Client;
  readonly outbox: {
    readonly transport: Transport;
    readonly pendingBytes: number;
  };
  readonly subscriptions: Iterable<{
    readonly channel: { readonly name: string };
    readonly member: { readonly userId: string } | undefined;
  }>;
  close(close: Close): void;
}

/** A server as it is inspected. */
interface InspectedServer {
  readonly id: string;
  readonly clock: Clock;
  readonly isShared: boolean;
  readonly ended: AbortSignal;
  readonly trustProxy: boolean;
  readonly backplane: Backplane;
  readonly appsById: ReadonlyMap<string, unknown>;
  readonly connections: ReadonlyMap<string, Inspected>;
  /** Calls the backplane, once it has started. */
  ask<T>(call: (backplane: Backplane) => Awaitable<T>): Awaitable<T>;
}

/**
 * Makes the inspection of a server.
 *
 * @param appId The app that is seen, or null for all.
 */
export function inspect(
  server: InspectedServer,
  appId: string | null,
): Inspection {
  const { clock, connections, backplane: { intercom } } = server;
  const say: Intercom["say"] = (...given) =>
    server.ask(() => intercom?.say(...given) ?? 0);
  const isSeen = (app: string) => appId === null || app === appId;
  return {
    node: server.id,
    isShared: server.isShared,
    ended: server.ended,
    trustsProxy: server.trustProxy,
    apps: [...server.appsById.keys()].filter(isSeen),
    intercom: intercom && scoped(intercom, say, appId),
    *connections() {
      for (const one of connections.values()) {
        if (isSeen(one.app.id)) yield new Live(one, clock);
      }
    },
    connection(socketId) {
      const one = connections.get(socketId);
      if (one !== undefined && isSeen(one.app.id)) return new Live(one, clock);
    },
  };
}

class Live implements LiveConnection {
  readonly #of: Inspected;
  readonly #clock: Clock;

  constructor(of: Inspected, clock: Clock) {
    this.#of = of;
    this.#clock = clock;
  }

  get app(): string {
    return this.#of.app.id;
  }

  get socketId(): string {
    return this.#of.socketId;
  }

  get transport(): string {
    return this.#of.outbox.transport.name ?? "ws";
  }

  get library(): string | undefined {
    return this.#of.client.library;
  }

  get version(): string | undefined {
    return this.#of.client.version;
  }

  get address(): string | undefined {
    return this.#of.client.address;
  }

  get ageMs(): number {
    return this.#clock.elapsed() - this.#of.client.since;
  }

  get userId(): string | undefined {
    if (this.#of.userId !== undefined) return this.#of.userId;
    for (const { member } of this.#of.subscriptions) {
      if (member !== undefined) return member.userId;
    }
    return undefined;
  }

  get channels(): readonly string[] {
    return Array.from(this.#of.subscriptions, ({ channel }) => channel.name)
      .filter((name) => !isOwnChannel(name));
  }

  get bufferedBytes(): number {
    return this.#of.outbox.pendingBytes;
  }

  close(reconnects = false): void {
    this.#of.close({
      code: reconnects ? CLOSE.Reconnect.code : CLOSE.Terminated.code,
      message: "An operator has closed the connection",
    });
  }
}
