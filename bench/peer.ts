/**
 * What the bench and a server under test agree on.
 *
 * A peer is a process of its own that listens on `127.0.0.1` and prints a line
 * `ready` as soon as it does. It serves the app below. Clients reach it in the
 * peer's own dialect, see {@linkcode Dialect}. Publishers reach every peer,
 * whatever its dialect, in the same way: over HTTP connections that are kept
 * alive, with requests as the HTTP API of Pusher has them.
 *
 * ```http
 * POST /apps/bench/events?auth_key=bench-key&…&auth_signature=… HTTP/1.1
 * content-type: application/json
 *
 * {"name":"m","channel":"c0","data":"@t00000042 xxxx…"}
 * ```
 *
 * The answer is any `200` with a `content-length`. `data` is a string, which the
 * subscribers of the channel have to get unchanged, once: the load generator finds
 * each delivery by its mark `@t` and eight digits, wherever in a frame it is.
 *
 * @module
 */

/** The app that every peer serves. */
export const APP = Object.freeze({
  id: "bench",
  key: "bench-key",
  secret: "bench-secret",
});

/** Everything that a bench installs, builds and remembers; git ignores it. */
export const FOLDER: URL = new URL(".peers/", import.meta.url);

/**
 * How a client connects and joins a channel.
 *
 * - `pusher`: a WebSocket at `/app/bench-key?protocol=7&…`. The server sends
 *   `pusher:connection_established`, the client `pusher:subscribe`, the server
 *   `pusher_internal:subscription_succeeded`. Presence channels have names that
 *   begin with `presence-`, and the client sends a signed `auth` and
 *   `channel_data`, which a minimal peer may leave unchecked. Any `pusher:ping` of
 *   either side gets a `pusher:pong`.
 * - `faye`: Bayeux over a WebSocket at `/bayeux`; the channel `c0` is `/c0`. The
 *   client sends `/meta/subscribe` in a frame without `/meta/connect`: Faye answers
 *   all that one frame asks at once, and a connect late.
 * - `socketio`: Socket.IO 4 over a WebSocket at `/socket.io/?EIO=4`. The client
 *   emits `subscribe` with the channel's name and waits for the acknowledgement; the
 *   server emits `m` with the data to the room of that name.
 */
export type Dialect = "pusher" | "faye" | "socketio";

/** What a peer can be measured for. */
export type Ability =
  /** Subscribers of public channels get what is published. */
  | "fanout"
  /** Clients that connect, that are idle and that do not read. */
  | "connections"
  /** A publish whose signature is wrong is refused with 401. */
  | "signatures"
  /** The same with `batch=1`: several events in one frame, as a JSON array. */
  | "batch"
  /** The same with `recover=1`: each event with its position. */
  | "recover"
  /** The same with `/r/{session}` in front of the path. */
  | "session"
  /** The server program publishes by itself, see {@linkcode TriggerRequest}. */
  | "in-process"
  /** Presence channels with the members that {@linkcode PeerOptions} allows. */
  | "presence"
  /** The option `history`. */
  | "history"
  /** The option `turns`. */
  | "turns"
  /** Several processes that share the Redis of the option `redis`. */
  | "redis";

/** How to start a peer. */
export interface PeerOptions {
  /** The port to listen on, at `127.0.0.1`. */
  port: number;
  /** Distinct users that a presence channel has to take. @default {100} */
  presenceMembers?: number;
  /** False: keep no events for clients that come back. @default {true} */
  history?: boolean;
  /**
   * True: measure the longest turn of the event loop, and answer
   * `GET /bench/turn` with a {@linkcode Turn}. It costs time, hence an option.
   * @default {false}
   */
  turns?: boolean;
  /** True: the bare loop checks signatures. @default {false} */
  signed?: boolean;
  /** The Redis that several processes share, such as `redis://127.0.0.1:6379`. */
  redis?: string;
}

/** A command line, and variables that the process gets besides those of the bench. */
export interface PeerCommand {
  /**
   * The program that is the server itself: its process id is the one whose time and
   * memory are measured, so no `npx` and no shell that waits for a child.
   */
  command: string;
  args: string[];
  env?: Record<string, string>;
  cwd?: string;
}

/**
 * The body of `POST /bench/trigger`, which only peers with `in-process` answer,
 * with `200` and `{ "ms": … }` when the last event has been published. The event
 * number `k` goes to channel `c{k % channels}`, its data is `@t`, `first + k` with
 * eight digits, a blank, and `x` up to `bytes`. `concurrency` loops take turns and
 * each awaits its publish before its next.
 */
export interface TriggerRequest {
  first: number;
  count: number;
  channels: number;
  bytes: number;
  concurrency: number;
}

/** The body of the answer to `GET /bench/turn`, which also starts over. */
export interface Turn {
  /** How long the event loop was busy at most since the last request. */
  longestMs: number;
}

/** A server that is measured. */
export interface Peer {
  /** How flags name it, such as `soketi`. */
  name: string;
  /** How tables name it, with its version, such as `soketi 1.6.1`. */
  label: string;
  dialect: Dialect;
  /**
   * `ours` is compared with all others; a `ceiling` does what no server written in
   * JavaScript can do, and a `floor` as little as possible.
   */
  role: "ours" | "peer" | "ceiling" | "floor";
  can: ReadonlySet<Ability>;
  /** Installs pinned versions below {@linkcode FOLDER}, unless they are there. */
  install(): Promise<void>;
  command(options: PeerOptions): PeerCommand;
}
