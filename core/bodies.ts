/**
 * Bodies of requests: how much of them is read, and for how long.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { Refusal } from "./limits.ts";
import { REFUSAL } from "./protocol.ts";
import type { Clock } from "./time.ts";

/** How bodies are read. */
export interface BodyRules {
  readonly clock: Clock;
  /** How long the whole body may take to arrive, in milliseconds. */
  readonly bodyTimeoutMs: number;
  /** Aborts when nobody needs the body any more. */
  readonly ended: AbortSignal;
}

/** Why there is no body. */
export type BodyFault = "too large" | "too late" | "broken off" | "ended";

/** Reads a body, but never more of it, nor for longer, than is allowed. */
export async function readBody(
  request: Request,
  maxBytes: number,
  rules: BodyRules,
): Promise<Uint8Array<ArrayBuffer> | BodyFault> {
  // Before anything looks at the body: the runtime closes a connection with an
  // untouched body after the answer.
  if (Number(request.headers.get("content-length")) > maxBytes) {
    return "too large";
  }
  const { body } = request;
  if (body === null) return new Uint8Array();
  // Somebody has read it before.
  if (body.locked || request.bodyUsed) return "broken off";
  return await collect(body, maxBytes, rules);
}

/**
 * Collects the chunks of a body. After a fault it discards the rest, because some
 * clients read no answer before they have sent everything. After the deadline the
 * next chunk ends the body. The stream must not be cancelled while a chunk is
 * awaited: the runtime would then take in the rest, however long it is, and wait
 * for it at a shutdown.
 */
async function collect(
  body: ReadableStream<Uint8Array<ArrayBuffer>>,
  maxBytes: number,
  { clock, bodyTimeoutMs, ended }: BodyRules,
): Promise<Uint8Array<ArrayBuffer> | BodyFault> {
  const reader = body.getReader();
  const { promise: failed, resolve } = Promise.withResolvers<BodyFault>();
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let bytes = 0;
  let hasFailed = false;
  let isLate = false;
  const fail = (fault: BodyFault) => {
    hasFailed = true;
    chunks.length = 0;
    resolve(fault);
  };
  const end = () => fail("ended");
  const cancelTimer = clock.after(bodyTimeoutMs, () => {
    isLate = true;
    fail("too late");
  });
  const readAll = async () => {
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        if (isLate) return void reader.cancel().catch(() => {});
        bytes += value.length;
        if (bytes > maxBytes) fail("too large");
        if (!hasFailed) chunks.push(value);
      }
    } catch {
      // The client has gone in the middle of it.
      fail("broken off");
    } finally {
      cancelTimer();
      ended.removeEventListener("abort", end);
    }
  };
  if (ended.aborted) end();
  else ended.addEventListener("abort", end);
  const fault = await Promise.race([failed, readAll()]);
  if (fault !== undefined) return fault;
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
}

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
