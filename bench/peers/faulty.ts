/**
 * The bare loop with a fault, to try the bench: one message of one client is
 * dropped, or sent twice.
 *
 * @module
 */

/** Neither the first nor the last that a client gets. */
const FAULTY = 1_234;

const fault = Deno.env.get("BENCH_FAULT");
const { send } = WebSocket.prototype;
let sent = 0;

WebSocket.prototype.send = function (frame) {
  const isFaulty = String(frame).includes("@t") && ++sent === FAULTY;
  if (isFaulty && fault === "drops") return;
  if (isFaulty && fault === "repeats") send.call(this, frame);
  send.call(this, frame);
};

await import("./bare.ts");
