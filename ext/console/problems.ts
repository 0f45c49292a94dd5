/**
 * The last refusals and errors, and what to do about them.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";
import type { ErrorEvent, RefusedEvent } from "../../mod.ts";
import { isObject } from "../../core/protocol.ts";
import { cut, withoutSecrets } from "./text.ts";

/** Something that went wrong, perhaps several times. */
export interface Problem {
  /** The server on which it went wrong. */
  readonly node: string;
  /** `error`, or what was refused. */
  readonly what: string;
  readonly app?: string | undefined;
  readonly reason: string;
  /** What to do; absent where nothing better than the reason is known. */
  readonly remedy?: string | undefined;
  readonly code?: number | undefined;
  /** The last one that it happened to. */
  socketId?: string | undefined;
  channel?: string | undefined;
  /** How often it has happened. */
  count: number;
  /** When it happened first and last, in milliseconds since 1970. */
  readonly firstAt: number;
  lastAt: number;
}

/** How many different problems are kept. */
const MAX_PROBLEMS = 100;

/** Remembers problems; the same again is counted. */
export class Problems {
  readonly #node: string;
  readonly #clock: Clock;
  /** The latest last. */
  readonly #known = new Map<string, Problem>();
  /** Grows with each problem. */
  version = 0;

  /** @param node The id of the server. */
  constructor(node: string, clock: Clock) {
    this.#node = node;
    this.#clock = clock;
  }

  /** The problems, the latest first. */
  list(): Problem[] {
    return [...this.#known.values()].reverse();
  }

  refused({ app, what, reason, code, socketId, channel }: RefusedEvent): void {
    const text = withoutSecrets(cut(reason));
    const remedy = remedyFor(what, code, text);
    const name = channel === undefined ? undefined : cut(channel);
    this.#note({ what, app, reason: text, remedy, code }, socketId, name);
  }

  failed({ app, error, during }: Omit<ErrorEvent, "app"> & { app?: string }) {
    const reason = describeError(error, during);
    const remedy = remedyFor("error", undefined, reason);
    this.#note({ what: "error", app, reason, remedy });
  }

  #note(
    problem: Pick<Problem, "what" | "app" | "reason" | "remedy" | "code">,
    socketId?: string,
    channel?: string,
  ): void {
    const { what, app = "", reason, code = 0 } = problem;
    const key = `${what} ${code} ${app} ${reason}`;
    const now = this.#clock.now();
    const known = this.#known.get(key) ??
      { node: this.#node, ...problem, count: 0, firstAt: now, lastAt: now };
    known.count++;
    known.lastAt = now;
    known.socketId = socketId;
    known.channel = channel;
    this.#known.delete(key);
    this.#known.set(key, known);
    this.version++;
    if (this.#known.size <= MAX_PROBLEMS) return;
    const [oldest] = this.#known.keys();
    this.#known.delete(oldest ?? "");
  }
}

/** Reads problems of another server; what is none is left out. */
export function readProblems(value: unknown, node: string): Problem[] {
  if (!Array.isArray(value)) return [];
  return value.slice(0, MAX_PROBLEMS).flatMap((one) => {
    if (!isObject(one) || typeof one.reason !== "string") return [];
    const text = (name: string) =>
      typeof one[name] === "string" ? cut(one[name]) : undefined;
    const count = (name: string) => Number(one[name]) || 0;
    const { code } = one;
    return [{
      ...{ node, what: text("what") ?? "error", reason: cut(one.reason) },
      ...{ app: text("app"), remedy: text("remedy") },
      ...{ code: typeof code === "number" ? code : undefined },
      ...{ socketId: text("socketId"), channel: text("channel") },
      count: count("count"),
      ...{ firstAt: count("firstAt"), lastAt: count("lastAt") },
    }];
  });
}

/** What has failed, in one line. */
export function describeError(error: unknown, during: string): string {
  const message = error instanceof Error ? error.message : String(error);
  return withoutSecrets(cut(`Failed while ${during}: ${message}`));
}

/** What to do about a problem. */
export function remedyFor(
  what: string,
  code: number | undefined,
  reason: string,
): string | undefined {
  return REMEDIES.find((one) =>
    (one.what === undefined || one.what === what) &&
    (one.code === undefined || one.code === code) &&
    (one.reason === undefined || one.reason.test(reason))
  )?.remedy;
}

/** The first one that fits counts. */
const REMEDIES: readonly {
  what?: string;
  code?: number;
  reason?: RegExp;
  remedy: string;
}[] = [
  {
    what: "connection",
    code: 4001,
    remedy: "Connect with a key that this server has: compare `key` of the " +
      "client with `key` of the server",
  },
  {
    what: "connection",
    code: 4000,
    remedy: "Let the client connect over TLS (`forceTLS: true`). Behind a " +
      "proxy that ends TLS, give the server `trustProxy`",
  },
  { what: "connection", code: 4003, remedy: "Set `enabled` of the app" },
  {
    what: "connection",
    code: 4004,
    remedy: "Raise `limits.connections`, or find out who opens so many " +
      "connections in the list of connections",
  },
  {
    what: "connection",
    reason: /origin/i,
    remedy: "Add the page's origin to `origins`, or let the proxy pass " +
      "the header Host on",
  },
  {
    what: "connection",
    reason: /shutting down/,
    remedy: "Nothing: clients reconnect, to another server if there is one",
  },
  {
    what: "connection",
    code: 4100,
    remedy: "Raise `limits.sockets` and the number of open files, or add " +
      "a server",
  },
  {
    what: "connection",
    code: 4009,
    remedy: "Sign in or join a private channel within " +
      "`authorizationTimeoutMs`",
  },
  {
    what: "subscription",
    reason: /signature/i,
    remedy: "Sign with the secret of the key that the client connects " +
      "with, and for this socket id and channel",
  },
  {
    what: "subscription",
    reason: /needs channel_data/,
    remedy: "Let `authorize` return the member, or let the user sign in first",
  },
  {
    what: "signin",
    remedy: "Answer `/pusher/user-auth` with `authenticateUser`, signed " +
      "with the secret of the client's key",
  },
  {
    what: "client_event",
    reason: /for subscribers/,
    remedy: "Send client events after `pusher:subscription_succeeded` of " +
      "the channel",
  },
  {
    what: "client_event",
    reason: /private and presence/,
    remedy: "Send client events on a channel whose name begins with " +
      "`private-` or `presence-`",
  },
  {
    what: "client_event",
    reason: /not enabled/,
    remedy: "Set the option `clientEvents`",
  },
  {
    what: "client_event",
    reason: /clientEventsPerSecond/,
    remedy: "Send less often, or raise `limits.clientEventsPerSecond`",
  },
  {
    what: "request",
    code: 401,
    remedy: "Compare app id, key and secret of the backend with those of " +
      "the server, and their clocks: they may differ by 600 seconds",
  },
  {
    what: "request",
    code: 413,
    remedy: "Send less data, or raise the limit that the reason names",
  },
  {
    what: "request",
    code: 403,
    reason: /origin/i,
    remedy: "Add the page's origin to `origins`",
  },
  {
    what: "request",
    code: 403,
    reason: /authoriz/i,
    remedy: "`authorize` refused it, as it should for a stranger; if not, " +
      "look at the cookies that the page sends",
  },
  {
    what: "error",
    reason: /backplane|redis/i,
    remedy: "Look after Redis: is it running, reachable from here, and " +
      "is the password right?",
  },
  {
    what: "error",
    reason: /listener|authorize|authenticate|origin/,
    remedy: "Mend the function of your program that failed; the log has " +
      "the stack",
  },
  { reason: /limits?\.\w+/, remedy: "Raise the limit that the reason names" },
];
