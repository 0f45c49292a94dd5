/**
 * What the smallest servers have in common, whatever they send with: the few
 * frames of the protocol that a subscriber of a public channel meets, without
 * signatures, limits or names to check.
 *
 * @module
 */

/** Where clients connect and where publishers post. */
export const SOCKETS = "/app/bench-key";
export const EVENTS = "/apps/bench/events";

export const PONG = '{"event":"pusher:pong","data":"{}"}';

let sockets = 0;

/** The first frame of a connection. */
export function established() {
  const data = { socket_id: `1.${++sockets}`, activity_timeout: 120 };
  return JSON.stringify({
    event: "pusher:connection_established",
    data: JSON.stringify(data),
  });
}

/**
 * @param {string} channel
 */
export function succeeded(channel) {
  const event = "pusher_internal:subscription_succeeded";
  return JSON.stringify({ event, channel, data: "{}" });
}

/**
 * Reads the body of a publish.
 *
 * @param {string} body
 */
export function readPublish(body) {
  const { name, channel, data } = JSON.parse(body);
  return {
    channel,
    data,
    frame: JSON.stringify({ event: name, channel, data }),
  };
}
