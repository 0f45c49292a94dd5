/**
 * The options of the fallback, checked by name, once.
 *
 * @module
 */

import {
  checkDuration,
  checkPath,
  checkSize,
  copyOptions,
  having,
  matching,
  objectOf,
} from "../../core/checks.ts";
import type { Pusher } from "../../mod.ts";

/** The server: a {@linkcode Pusher}, or the class for its default instance. */
export type FallbackServer =
  & Pick<Pusher, "open" | "path">
  & Partial<Pick<Pusher, "clock">>;

/** Options of {@linkcode fallback}. */
export interface FallbackOptions {
  /**
   * The prefix of the routes, which clients call `httpPath`. If it begins with the
   * server's own path, the routes also serve stock clients with a recovery
   * session, whose `/r/{id}` stands after that path.
   * @default {`${pusher.path}/pusher`}
   */
  path?: string | undefined;
  /**
   * A name, without a port, under which clients reach this server and no other.
   * They use it for all further requests of a session.
   * @default {the name that the client used}
   */
  hostname?: string | undefined;
  /**
   * Bytes of one body of frames. Quotation marks take two bytes there, so it
   * should be at least twice `limits.frameBytes`. @default {262144}
   */
  sendBytes?: number | undefined;
  /**
   * How long a whole body of frames may take to arrive, in milliseconds. Then the
   * client gets a 408 and the connection of the request is closed.
   * @default {10000}
   */
  bodyTimeoutMs?: number | undefined;
  /**
   * Silence after which the server sends a heartbeat, in milliseconds. Proxies
   * must allow more. @default {25000}
   */
  heartbeatMs?: number | undefined;
  /**
   * How long a client may take to ask for the next answer, in milliseconds; then
   * its session ends. @default {5000}
   */
  absenceMs?: number | undefined;
}

/** Options, checked. */
export interface Settings {
  readonly path: string | undefined;
  readonly hostname: string | undefined;
  readonly sendBytes: number;
  readonly bodyTimeoutMs: number;
  readonly heartbeatMs: number;
  readonly absenceMs: number;
}

const CHECKS = {
  path: checkPath,
  hostname: matching(/^[A-Za-z0-9.-]+$/, "be a host without a port"),
  sendBytes: checkSize,
  bodyTimeoutMs: checkDuration,
  heartbeatMs: checkDuration,
  absenceMs: checkDuration,
};
const checkOptions = objectOf<FallbackOptions>(CHECKS);
// The keys of an object literal are known; the type of Object.keys is not.
const OPTION_NAMES = Object.keys(CHECKS) as (keyof FallbackOptions)[];

/** How errors of options begin. */
export const SUBJECT = "Cannot create a fallback";

/** Such as a handler in its place, which would fail at the first request. */
export const checkServer = having(["open", "clock"], "be a Pusher");

/** Checks the options, and fills in the defaults. */
export function parseOptions(given: FallbackOptions): Settings {
  const options = copyOptions(given, OPTION_NAMES);
  checkOptions(options, { subject: SUBJECT, name: "" });
  const {
    path,
    hostname,
    sendBytes = 262_144,
    bodyTimeoutMs = 10_000,
    heartbeatMs = 25_000,
    absenceMs = 5_000,
  } = options;
  return { path, hostname, sendBytes, bodyTimeoutMs, heartbeatMs, absenceMs };
}
