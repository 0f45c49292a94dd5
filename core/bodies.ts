/**
 * Bodies of requests: how much of them is read, and for how long.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { Refusal } from "./limits.ts";
import { REFUSAL } from "./protocol.ts";
import { afterThisTurn, type Clock, Later } from "./time.ts";

/** How bodies are read. */
export interface BodyRules {
  readonly clock: Clock;
  /** How long the whole body may take to arrive, in milliseconds. */
  readonly bodyTimeoutMs: number;
  /** Aborts when nobody needs the body any more. */
  readonly ended: AbortSignal;
}

// The runtime reads a body of a declared length at a third of the cost of reading it
// chunk by chunk, but cannot be stopped then. So much may stay in memory until a client
// that is too slow has sent the rest, or has gone.
const SMALL_BYTES = 16 * 1_024;

/** Why there is no body. */
export type BodyFault = "too large" | "too late" | "broken off" | "ended";

/** Reads a body, but never more of it, nor for longer, than is allowed. */
export function readBody(
  request: Request,
  maxBytes: number,
  rules: BodyRules,
): Promise<Uint8Array<ArrayBuffer> | BodyFault> {
  return new Promise((resolve) => {
    // Before anything looks at the body: the runtime closes a connection with an
    // untouched body after the answer.
    const declared = request.headers.get("content-length");
    const length = declared === null ? Infinity : Number(declared);
    if (declared !== null && length > maxBytes) return resolve("too large");
    const isSmall = length > 0 && length <= SMALL_BYTES;
    const body = isSmall ? undefined : request.body;
    if (body === null) return resolve(new Uint8Array());
    // Somebody has read it before.
    if (request.bodyUsed || body?.locked) return resolve("broken off");
    const arrival = new Arrival(maxBytes, rules, resolve);
    if (rules.ended.aborted) arrival.watch();
    else arrivals.add(arrival);
    if (body === undefined) arrival.readWhole(request);
    else arrival.readAll(body.getReader());
  });
}

/** A body that is being read. */
class Arrival {
  readonly #maxBytes: number;
  readonly #rules: BodyRules;
  readonly #resolve: (result: Uint8Array<ArrayBuffer> | BodyFault) => void;
  readonly #chunks: Uint8Array<ArrayBuffer>[] = [];
  #bytes = 0;
  #hasFailed = false;
  #isLate = false;
  #cancelTimer: (() => void) | null = null;
  readonly #end = () => this.#fail("ended");

  constructor(
    maxBytes: number,
    rules: BodyRules,
    resolve: (result: Uint8Array<ArrayBuffer> | BodyFault) => void,
  ) {
    this.#maxBytes = maxBytes;
    this.#rules = rules;
    this.#resolve = resolve;
  }

  /** Reads a small body as a whole. After the deadline nobody takes it. */
  async readWhole(request: Request): Promise<void> {
    try {
      this.#take(await request.bytes());
      this.#resolve(this.#chunks[0] ?? new Uint8Array());
    } catch {
      // The client has gone in the middle of it, or somebody reads it already.
      this.#fail("broken off");
    } finally {
      this.#unwatch();
    }
  }

  /**
   * Reads until the end. After a fault it discards the rest, because some clients
   * read no answer before they have sent everything; after the deadline the next chunk
   * ends the body. The stream must not be cancelled while a chunk is awaited: the
   * runtime would then take in the rest, however long it is, and wait for it at a
   * shutdown.
   */
  async readAll(
    reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>,
  ): Promise<void> {
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        if (this.#isLate) return void reader.cancel().catch(() => {});
        this.#take(value);
      }
      const [first = new Uint8Array(), ...more] = this.#chunks;
      this.#resolve(more.length === 0 ? first : Buffer.concat(this.#chunks));
    } catch {
      // The client has gone in the middle of it.
      this.#fail("broken off");
    } finally {
      this.#unwatch();
    }
  }

  #take(chunk: Uint8Array<ArrayBuffer>): void {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#maxBytes) this.#fail("too large");
    if (!this.#hasFailed) this.#chunks.push(chunk);
  }

  #fail(fault: BodyFault): void {
    this.#hasFailed = true;
    this.#chunks.length = 0;
    this.#resolve(fault);
  }

  /** Waits no longer for the body than is allowed. */
  watch(): void {
    const { clock, bodyTimeoutMs, ended } = this.#rules;
    this.#cancelTimer = clock.after(bodyTimeoutMs, () => {
      this.#isLate = true;
      this.#fail("too late");
    });
    if (ended.aborted) this.#end();
    else ended.addEventListener("abort", this.#end);
  }

  #unwatch(): void {
    arrivals.delete(this);
    if (this.#cancelTimer === null) return;
    this.#cancelTimer();
    this.#rules.ended.removeEventListener("abort", this.#end);
  }
}

/**
 * Bodies that have just begun. Most of them are there at the end of this turn of the
 * event loop, and need neither a timer nor a listener.
 */
const arrivals = new Later<Arrival>(
  afterThisTurn,
  (arrival) => arrival.watch(),
);

/** Why a request is refused whose body has not arrived; its size is checked elsewhere. */
export function refuseBody(
  fault: Exclude<BodyFault, "too large">,
  { bodyTimeoutMs }: BodyRules,
): Refusal {
  if (fault === "ended") return REFUSAL.ShuttingDown;
  if (fault === "broken off") return REFUSAL.BrokenBody;
  const error =
    `The body has not arrived in time: bodyTimeoutMs is ${bodyTimeoutMs}`;
  return new Refusal(408, error);
}
