/**
 * What goes wrong with a connection to Redis, in words that say what to do. No
 * message ever has a password.
 *
 * @module
 */

import { BackplaneUnavailable } from "../../core/unavailable.ts";
import { isReply } from "./client.ts";

/**
 * Redis is not there at the moment.
 *
 * @example
 * ```ts
 * import type { Pusher } from "@glitz/pusher";
 * import { RedisUnavailable } from "@glitz/pusher/redis";
 *
 * // Returns whether it was published, if that is certain.
 * async function publish(pusher: Pusher): Promise<boolean> {
 *   try {
 *     await pusher.trigger("news", "headline", { text: "Hello" });
 *     return true;
 *   } catch (error) {
 *     if (!(error instanceof RedisUnavailable) || error.wasSent) throw error;
 *     return false; // nothing was done: try again later
 *   }
 * }
 * console.log(typeof publish);
 * ```
 */
export class RedisUnavailable extends BackplaneUnavailable {
  /** Always `RedisUnavailable`. */
  override readonly name = "RedisUnavailable";
}

/** A reason in our own words, which ends with what to do where that helps. */
export class Fault extends Error {
  override readonly name = "Fault";
  /** Whether it lasts until somebody changes a setting. */
  readonly isLasting: boolean;

  constructor(
    reason: string,
    { isLasting = false, ...options }: ErrorOptions & { isLasting?: boolean } =
      {},
  ) {
    super(reason, options);
    this.isLasting = isLasting;
  }
}

/** Answers of a server that comes back by itself. */
const PASSING = new Set([
  ...["LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOSCRIPT"],
  ...["MOVED", "ASK", "TRYAGAIN"],
]);

/**
 * Whether Redis is there, and cannot be used until somebody changes a setting, as far
 * as it can be known.
 */
export function isLasting(error: unknown): boolean {
  if (error instanceof RedisUnavailable) return isLasting(error.cause);
  if (error instanceof Fault) return error.isLasting;
  if (isReply(error)) return !PASSING.has(error.message.split(" ", 1)[0] ?? "");
  return isOfCertificate(String(error), codeOf(error));
}

/**
 * Answers by which a server says that it cannot do its work at the moment. Each comes
 * before anything is changed.
 */
const AWAY = new Set([
  ...["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS"],
  ...["OOM", "MISCONF", "BUSY", "NOAUTH", "UNKILLABLE"],
]);

/** Answers that say something about the slot of a command, which was not executed. */
const SLOT = new Set(["MOVED", "ASK", "TRYAGAIN"]);

/** What an answer says about the connection on which it came. */
export type Verdict =
  /** The command's own affair. */
  | "command"
  /** The slot is on its way to another server. */
  | "migrating"
  /** The slot is on another server. */
  | "moved"
  /** The server is no good, and the command has changed nothing. */
  | "away"
  /** The server is no good, and the command may have changed something. */
  | "broken";

/** Judges an error of a command. */
export function judge(error: unknown): Verdict {
  if (!isReply(error)) return "broken";
  const [code = ""] = error.message.split(" ", 1);
  if (code === "MOVED") return "moved";
  if (SLOT.has(code)) return "migrating";
  // Calls have an order that a script must not lose, so a new connection loads it.
  if (AWAY.has(code) || code === "NOSCRIPT") return "away";
  // A script may have been stopped in the middle of its work.
  return isForbidden(error) ? "broken" : "command";
}

/** The slot that a MOVED or ASK names, or NaN. */
export function slotOf(error: Error): number {
  return Number(error.message.split(" ")[1] ?? NaN);
}

/** Whether a right is missing, for a command or for one within a script. */
function isForbidden({ message }: Error): boolean {
  return /^NOPERM|ACL failure|user executing the script can't/i.test(message);
}

/**
 * Why there is no connection, in words that follow a colon.
 *
 * @param phase Whether there was a connection before.
 */
export function explain(
  error: unknown,
  phase: "connecting" | "connected",
  isSecure: boolean,
): string {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof Fault) return message;
  if (error instanceof RedisUnavailable) {
    return error.cause === undefined
      ? message
      : explain(error.cause, phase, isSecure);
  }
  if (isReply(error)) return explainReply(error);
  const code = codeOf(error);
  const known = CAUSES[code];
  if (known !== undefined) return known;
  if (/EPERM|NotCapable|Requires net access/.test(`${code} ${message}`)) {
    return "Deno does not let this program connect: add the host to --allow-net";
  }
  const isEnd = /closed unexpectedly|has ended/.test(message) ||
    ["ECONNRESET", "EPIPE", "ECONNABORTED"].includes(code);
  if (phase === "connected") {
    return isEnd ? "the connection has ended" : message.slice(0, MAX_SHOWN);
  }
  return isSecure ? explainTls(message, code) : explainPlain(message, isEnd);
}

function explainReply(error: Error): string {
  const { message } = error;
  const [code = ""] = message.split(" ", 1);
  if (code === "NOPERM") return explainPermission(message);
  if (isForbidden(error)) {
    return "its user lacks a right, which ACL LOG names: give it with ACL SETUSER";
  }
  return REPLIES[code] ??
    (/unknown command|NOPROTO/i.test(message)
      ? "its version is too old: use Redis 7 or later, or Valkey"
      : `it answered "${message.slice(0, MAX_SHOWN)}"`);
}

/** Which right a user lacks, as far as Redis says it. */
function explainPermission(message: string): string {
  const command = /'([\w|-]+)' command/.exec(message)?.[1];
  const right = command !== undefined
    ? `+${command}`
    : /\bchannels?\b/.test(message)
    ? "that to its topics, such as &{pusher:?}:* &{pusher:??}:*"
    : "that to its keys, such as ~{pusher:?}:* ~{pusher:??}:*";
  return `its user lacks a right, ${right}: give it with ACL SETUSER, as the ` +
    "documentation of @glitz/pusher/redis says";
}

/** Enough of a foreign message to recognise it. */
const MAX_SHOWN = 120;

const REPLIES: Readonly<Record<string, string>> = {
  WRONGPASS: "it refuses the user or the password: correct them in the URL",
  NOAUTH:
    "it wants a password: add it to the URL, as in redis://:password@host",
  LOADING: "it is still loading its data: wait until it has",
  READONLY: "it is a read-only replica: connect to its master",
  MASTERDOWN: "it is a replica that has lost its master: connect to the master",
  CLUSTERDOWN: "the cluster is down: see CLUSTER INFO",
  OOM: "it has reached maxmemory: raise it, or free memory",
  MISCONF: "it cannot save its data and so refuses to write: see its log",
  NOREPLICAS:
    "it has too few replicas to accept writes: see min-replicas-to-write",
  BUSY: "a script keeps it busy: end the script with SCRIPT KILL",
  NOSCRIPT: "its scripts were flushed",
  MOVED: "a slot has moved to another node",
  ASK: "a slot is on its way to another node",
  TRYAGAIN: "a slot is on its way to another node",
  DENIED:
    "it is in protected mode: set a password, or bind it to the right interface",
};

const CAUSES: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nobody listens there: start Redis, or correct host and port",
  ENOTFOUND: "no such host is known: correct the host in the URL",
  EAI_AGAIN: "no such host is known: correct the host in the URL",
  EHOSTUNREACH:
    "there is no way to that host: correct the host, or the network",
  ENETUNREACH: "there is no way to that host: correct the host, or the network",
  ETIMEDOUT:
    "it did not answer in time: correct host and port, or the firewall",
};

function explainTls(message: string, code: string): string {
  if (isOfCertificate(message, code)) {
    return `its certificate is not accepted (${
      message.slice(0, MAX_SHOWN)
    }): ` +
      "give the authority's certificate as tls.ca, or the certificate's name as " +
      "tls.servername";
  }
  return `there is no connection with TLS (${
    message.slice(0, MAX_SHOWN)
  }): use ` +
    "redis:// if the port is one without TLS";
}

function isOfCertificate(message: string, code: string): boolean {
  return /certificate|cert_|issuer|not valid for name|altname/i
    .test(message + code);
}

function explainPlain(message: string, isEnd: boolean): string {
  if (/RESP type/i.test(message)) {
    return "what answers there is not Redis: correct host and port";
  }
  return isEnd
    ? "it closed the connection: use rediss:// if the port is one with TLS, and " +
      "compare CLIENT LIST with maxclients"
    : message.slice(0, MAX_SHOWN);
}

function codeOf(error: unknown): string {
  if (typeof error !== "object" || error === null) return "";
  if (error instanceof AggregateError && error.errors.length > 0) {
    return codeOf(error.errors[0]);
  }
  return "code" in error && typeof error.code === "string" ? error.code : "";
}
