/**
 * The upgrade from HTTP to a WebSocket: the runtime's own or one in memory,
 * subprotocols, and sockets that open or do not.
 *
 * @module
 */

import type { Extensions } from "./extensions.ts";
import type { OriginVerdict } from "./http.ts";
import type { Client } from "./inspection.ts";
import { closeCodeOf } from "./liveness.ts";
import { parameterOf } from "./parameters.ts";
import { type Close, encodeError } from "./protocol.ts";
import type { Clock } from "./time.ts";
import { closeTransport, type Peer, type Transport } from "./transport.ts";

// ---- The upgrade ------------------------------------------------------------

/** A socket, and the answer to the request that it was made of. */
export interface Upgrade {
  readonly socket: WebSocket;
  readonly response: Response;
}

/** Requests that were made in memory, and what upgrades them. */
const inMemory = new WeakMap<Request, () => Upgrade>();

/** Says how a request is upgraded that the runtime has not received. */
export function upgradeInMemory(
  request: Request,
  upgrade: () => Upgrade,
): void {
  inMemory.set(request, upgrade);
}

/**
 * Upgrades a request.
 *
 * @param idleTimeout Seconds of silence after which the runtime gives the client up.
 * @throws {TypeError} If the request cannot be upgraded.
 */
export function upgradeSocket(request: Request, idleTimeout: number): Upgrade {
  const upgrade = inMemory.get(request);
  if (upgrade !== undefined) return upgrade();
  return Deno.upgradeWebSocket(request, { idleTimeout });
}

// ---- Subprotocols -----------------------------------------------------------
// Most clients name the protocol version in the query and offer no subprotocol. A
// client that does offer some, such as the official Swift SDK, may end a connection
// whose answer names none of them, as browsers do.

/** The subprotocols that the server speaks, with the version that each names. */
const VERSIONS: ReadonlyMap<string, string> = new Map([
  ["pusher-channels-protocol-5", "5"],
  ["pusher-channels-protocol-6", "6"],
  ["pusher-channels-protocol-7", "7"],
]);

/**
 * The first subprotocol that a client offers and the server speaks, or null. After
 * the upgrade the headers of the request can no longer be read.
 */
export function chooseSubprotocol({ headers }: Request): string | null {
  const offers = headers.get("sec-websocket-protocol");
  if (offers === null) return null;
  const names = offers.split(",").map((name) => name.trim());
  return names.find((name) => VERSIONS.has(name)) ?? null;
}

/**
 * Names the chosen subprotocol in the answer to an upgrade. The runtime's own option
 * for it throws at lists without a space after each comma.
 */
export function answerSubprotocol(
  response: Response,
  subprotocol: string | null,
): void {
  // Most clients offer none, and a response makes its headers when they are read.
  if (subprotocol === null) return;
  response.headers.set("sec-websocket-protocol", subprotocol);
}

/**
 * The protocol version that a client names: in its query, or else by a subprotocol
 * that the server speaks. Null if it names none.
 */
export function namedVersion(
  url: URL,
  request: Request,
): string | null {
  const version = parameterOf(url, "protocol");
  if (version !== null) return version;
  const subprotocol = chooseSubprotocol(request);
  return subprotocol === null ? null : VERSIONS.get(subprotocol) ?? null;
}

// ---- Sockets that do not open -----------------------------------------------
// The runtime opens a socket once the answer to the upgrade has been sent. It never
// does so, and reports nothing, if the upgraded request was a copy, if the program
// returned another answer, or if the client had gone by then.

/** How long a socket may take to open after its upgrade. */
export const OPEN_WAIT_MS = 5_000;

/** Clients that go too early are no news each time. */
const QUIET_MS = 60_000;

/** A socket that has been upgraded and has not opened yet. */
export interface Opening {
  readonly request: Request;
}

/** Finds the sockets that do not open. They are counted nowhere else. */
export class Openings<Item extends Opening> {
  readonly #clock: Clock;
  readonly #report: (error: Error, item: Item) => void;
  /** When each is overdue. All may take the same time, so the first is due first. */
  readonly #dueAt = new Map<Item, number>();
  #cancel = () => {};
  #quietUntil = -Infinity;
  #hasEnded = false;

  constructor(clock: Clock, report: (error: Error, item: Item) => void) {
    this.#clock = clock;
    this.#report = report;
  }

  /** How many sockets are opening. */
  get size(): number {
    return this.#dueAt.size;
  }

  /** Watches a socket until it opens or is overdue. */
  add(item: Item): void {
    if (this.#hasEnded) return;
    this.#dueAt.set(item, this.#clock.elapsed() + OPEN_WAIT_MS);
    if (this.#dueAt.size === 1) this.#wait(OPEN_WAIT_MS);
  }

  /** Stops watching a socket that has opened. */
  delete(item: Item): void {
    if (this.#dueAt.delete(item) && this.#dueAt.size === 0) this.#cancel();
  }

  /** Watches no socket any more. */
  end(): void {
    this.#hasEnded = true;
    this.#dueAt.clear();
    this.#cancel();
  }

  #wait(delayMs: number): void {
    this.#cancel = this.#clock.after(delayMs, () => this.#visit());
  }

  #visit(): void {
    const now = this.#clock.elapsed();
    for (const [item, dueAt] of this.#dueAt) {
      if (dueAt > now) return this.#wait(dueAt - now);
      this.#dueAt.delete(item);
      this.#judge(item, now);
    }
  }

  #judge(item: Item, now: number): void {
    if (isCopy(item.request)) return this.#report(new Error(COPIED), item);
    if (now < this.#quietUntil) return;
    this.#quietUntil = now + QUIET_MS;
    this.#report(new Error(UNANSWERED), item);
  }
}

/** Whether a request that was upgraded is a copy. An original is upgraded once only. */
function isCopy(request: Request): boolean {
  try {
    Deno.upgradeWebSocket(request);
    return true;
  } catch {
    return false;
  }
}

const COPIED =
  "Cannot open a socket: the handler got a copy of the request, and the runtime opens sockets for original requests only. " +
  "Pass on the request of Deno.serve, which is c.req.raw in Hono, " +
  "instead of new Request(request), request.clone() or what hono.mount() makes without replaceRequest: false";

const UNANSWERED =
  "Cannot open a socket: the runtime has not sent the handler's answer within 5 seconds. " +
  "Either the client had gone by then, or the program has thrown or returned another answer after the handler's own. " +
  "Return the answer of the handler as it is: Deno.serve stops listening when it gets another one";

// ---- Sockets that open ------------------------------------------------------

/** What is known of a client before its transport is open. */
export interface Admission<App> {
  readonly app: App | null;
  readonly refusal: Close | null;
  readonly extensions: Extensions;
  /** Whether the auth endpoints answer the page of the client, and why. */
  readonly page: OriginVerdict;
  /** Seconds after which the runtime gives it up; 0 if it does not. */
  readonly idleTimeout: number;
  readonly client: Client;
}

/** A client whose socket has not opened yet. */
export interface Admitted extends Opening {
  readonly appId: string | undefined;
  /** Called once, when it has. */
  open(socket: WebSocket): Peer;
}

const ADMITTED = Symbol("admitted");

const PEER = Symbol("peer");

/**
 * A socket knows its connection, so that all sockets share their listeners. Its fields
 * are emptied and never deleted: after a deletion the engine keeps all fields of the
 * socket in a hash table, which takes four times the memory and more time at each send.
 */
interface PusherSocket extends WebSocket {
  [ADMITTED]?: Admitted | null;
  [PEER]?: Peer | null;
}

/** Connects a socket with its peer once it opens. */
export function connectSocket(
  socket: PusherSocket,
  admitted: Admitted,
): void {
  socket[ADMITTED] = admitted;
  socket.addEventListener("open", socketOnOpen);
}

function socketOnOpen(this: PusherSocket): void {
  const admitted = this[ADMITTED] ?? null;
  if (admitted === null) return;
  this[ADMITTED] = null;
  this.addEventListener("message", socketOnMessage);
  this.addEventListener("close", socketOnClose);
  this[PEER] = admitted.open(this);
}

function socketOnMessage(this: PusherSocket, event: MessageEvent): void {
  this[PEER]?.receive(event.data);
}

function socketOnClose(this: PusherSocket, event: CloseEvent): void {
  const peer = this[PEER];
  // A timer of the runtime can keep the socket in memory for a while.
  this[PEER] = null;
  peer?.closed(closeCodeOf(event));
}

// ---- Refused clients --------------------------------------------------------

/** Counts transports that have closed. */
interface Releasing {
  release(wasRefused: boolean): void;
}

/** A client that was refused, until its transport has closed. */
export class RefusedPeer implements Peer {
  readonly #sockets: Releasing;
  #released = false;

  constructor(sockets: Releasing, transport: Transport, close: Close) {
    this.#sockets = sockets;
    try {
      transport.send(encodeError(close.code, close.message));
    } catch {
      // It is closed anyway, and the close code says the same.
    }
    closeTransport(transport, close.code, close.message);
  }

  receive(): void {
    // Frames that the client sent before it read the refusal are not served.
  }

  heard(): void {
    // A refused client is not pinged.
  }

  closed(): void {
    if (this.#released) return;
    this.#released = true;
    this.#sockets.release(true);
  }
}
