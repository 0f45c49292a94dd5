/**
 * The port of the standalone server.
 *
 * @module
 */

import { SYSTEM_CLOCK, withinMs } from "../core/time.ts";
import { hostOf } from "./announce.ts";
import { type Log, messageOf } from "./log.ts";

// ---- Port -------------------------------------------------------------------
// The runtime gives a port up for good when it cannot accept a connection, mostly
// because the process has no file descriptor left. Open connections are not affected.

/** How long to wait before the port is opened again. */
const REOPEN_MS = 1_000;

/** How long the port has to be open before another failure is news. */
const STEADY_MS = 60_000;

/** How long the last requests may take when the port is closed. */
const LAST_MS = 1_000;

/** The process, or the whole machine, has no file descriptor left. */
const TOO_MANY_FILES = /\(os error 2[34]\)/;

/** Where to listen. */
export interface Address {
  readonly hostname: string;
  readonly port: number;
  /** Whether other processes or threads may have the same port. */
  readonly reusePort: boolean;
}

/** A port that is opened again when the runtime gives it up. */
export class Port {
  readonly #handler: Deno.ServeHandler;
  readonly #hostname: string;
  readonly #reusePort: boolean;
  readonly #log: Log;
  #port: number;
  #server: Deno.HttpServer | undefined;
  #isClosed = false;
  /** The failure that was printed; null while the port is steady. */
  #failure: string | null = null;
  #steadyTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    handler: Deno.ServeHandler,
    { hostname, port, reusePort }: Address,
    log: Log,
  ) {
    this.#handler = handler;
    this.#hostname = hostname;
    this.#port = port;
    this.#reusePort = reusePort;
    this.#log = log;
  }

  /** Opens the port; throws if that fails at the first attempt. */
  open(onListen: (address: Deno.NetAddr) => void): void {
    const server = Deno.serve({
      hostname: this.#hostname,
      port: this.#port,
      reusePort: this.#reusePort,
      onListen,
    }, this.#handler);
    this.#server = server;
    // The port may have been 0, for any.
    this.#port = server.addr.port;
    const ended = new Error("The runtime has stopped listening");
    server.finished.then(
      () => this.reopen(ended),
      (error) => this.reopen(error),
    );
  }

  /**
   * Closes the port once the requests that are under way have been answered, and does
   * not wait for clients that neither end theirs nor read the answer.
   */
  async close(): Promise<void> {
    this.#isClosed = true;
    const closed = this.#server?.shutdown();
    if (closed !== undefined) await withinMs(SYSTEM_CLOCK, LAST_MS, closed);
  }

  /** Opens the port a second after a failure, and again until it is open. */
  reopen(error: unknown): void {
    if (this.#isClosed) return;
    clearTimeout(this.#steadyTimer);
    this.#print(error);
    setTimeout(() => {
      if (this.#isClosed) return;
      try {
        this.open(() => {});
      } catch (failure) {
        return this.reopen(failure);
      }
      this.#steadyTimer = setTimeout(() => {
        this.#failure = null;
        const again = "Connections are accepted again";
        this.#log.say("ready", {}, again);
      }, STEADY_MS);
    }, REOPEN_MS);
  }

  /** Prints a failure in one line, unless it is the same as before. */
  #print(error: unknown): void {
    // The runtime wraps the error of the system in one of its own.
    const failure = messageOf(error).replace(/^Error: /, "");
    if (failure === this.#failure) return;
    this.#failure = failure;
    const remedy = TOO_MANY_FILES.test(failure)
      ? ". Raise the limit on open files, or lower --max-sockets"
      : "";
    const during = "accepting connections";
    this.#log.say(
      "error",
      { during, message: failure + remedy },
      `Pusher: failed while ${during}, trying again every second: ` +
        failure + remedy,
    );
  }
}

// ---- Failures at the start ---------------------------------------------------
// The port does not open at all: in use, not permitted, no such address.

/** Prints in one line why there is no port to listen on, and exits. */
export function exitUnheard(
  error: unknown,
  log: Log,
  address?: { readonly hostname: string; readonly port: number },
): never {
  const where = address === undefined
    ? "on the port of deno serve"
    : `on ${hostOf(address.hostname)}:${address.port}`;
  const message = `cannot listen ${where}: ${explain(error)}`;
  log.say("error", { during: "listening", message }, `Pusher: ${message}`);
  Deno.exit(1);
}

/** Why a port does not open, and what to do. */
function explain(error: unknown): string {
  const message = messageOf(error).split("\n", 1)[0];
  const remedy = error instanceof Deno.errors.AddrInUse
    ? "end the program that has the port, or choose another port with --port"
    : error instanceof Deno.errors.NotCapable
    ? "the program needs --allow-net"
    : error instanceof Deno.errors.PermissionDenied
    ? "ports below 1024 may be for administrators, choose another with --port"
    : "choose another address with --hostname, such as 0.0.0.0 or 127.0.0.1";
  return `${message}. Remedy: ${remedy}`;
}

/** Whether `deno serve` has failed to open its port. */
export function isListenError(reason: unknown): boolean {
  const { AddrInUse, AddrNotAvailable, PermissionDenied } = Deno.errors;
  return [AddrInUse, AddrNotAvailable, PermissionDenied].some((kind) =>
    reason instanceof kind
  );
}
