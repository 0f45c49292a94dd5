/**
 * What the standalone server says of itself: text for people, or lines of JSON for
 * programs that collect logs.
 *
 * @module
 */

import { SYSTEM_CLOCK } from "../core/time.ts";
import { REACHING } from "../core/hooks.ts";
import type { Clock, Hooks, Pusher } from "../mod.ts";

/** How much somebody should care. */
type Level = "info" | "warn" | "error";

/** States that a line of JSON may say. */
export type LogEvent =
  | "started"
  | "console"
  | "ready"
  | "warning"
  | "backplane_away"
  | "backplane_back"
  | "refused"
  | "slow_client"
  | "error"
  | "webhook_failed"
  | "draining"
  | "closed";

const LEVELS: Readonly<Record<LogEvent, Level>> = Object.freeze({
  started: "info",
  console: "info",
  ready: "info",
  warning: "warn",
  backplane_away: "error",
  backplane_back: "info",
  refused: "warn",
  slow_client: "warn",
  error: "error",
  webhook_failed: "error",
  draining: "info",
  closed: "info",
});

/** Writes the log. */
export class Log {
  readonly isJson: boolean;

  constructor(format: "text" | "json") {
    this.isJson = format === "json";
  }

  /**
   * Says something.
   *
   * @param text How it is said to people; null if they are not told.
   */
  say(
    event: LogEvent,
    fields: Readonly<Record<string, unknown>>,
    text: string | null,
  ): void {
    const level = LEVELS[event];
    if (this.isJson) {
      const time = new Date().toISOString();
      console.log(JSON.stringify({ time, level, event, ...fields }));
    } else if (text !== null) {
      if (level === "info") console.log(text);
      else if (level === "warn") console.warn(text);
      else console.error(text);
    }
  }
}

// ---- What happens on the server ----------------------------------------------

/** How long the same thing is said once only. */
const QUIET_MS = 10_000;

/** More different things than these at a time are counted together. */
const MAX_KEYS = 50;

/**
 * Says the same thing at once, and then once in ten seconds, with how often it was.
 * A flood of refusals must not become a flood of lines.
 */
export class Bulk {
  readonly #clock: Clock;
  readonly #counts = new Map<string, { count: number; say: Saying }>();

  constructor(clock: Clock = SYSTEM_CLOCK) {
    this.#clock = clock;
  }

  /** @param say Called with how often it was since it was said last. */
  note(key: string, say: Saying): void {
    const name = this.#counts.size < MAX_KEYS ? key : "others";
    const known = this.#counts.get(name);
    if (known !== undefined) {
      known.count++;
      known.say = say;
      return;
    }
    this.#counts.set(name, { count: 0, say });
    say(1);
    this.#clock.after(QUIET_MS, () => this.#repeat(name));
  }

  #repeat(name: string): void {
    const known = this.#counts.get(name);
    if (known === undefined || known.count === 0) {
      this.#counts.delete(name);
      return;
    }
    const { count, say } = known;
    known.count = 0;
    say(count);
    this.#clock.after(QUIET_MS, () => this.#repeat(name));
  }
}

type Saying = (count: number) => void;

/** Writes what happens on a server as lines of JSON; people are told by the server. */
export function follow(
  pusher: Pusher,
  log: Log,
  bulk: Bulk = new Bulk(pusher.clock),
): void {
  if (!log.isJson) return;
  let wasAway = false;
  pusher.on("backplane", ({ up, error }) => {
    if (!up) {
      const why = error === undefined ? {} : { reason: messageOf(error) };
      log.say("backplane_away", why, null);
    } else if (wasAway) {
      log.say("backplane_back", {}, null);
      log.say("ready", {}, null);
    }
    wasAway = !up;
  });
  pusher.on("error", ({ app, during, error }) => {
    // The hook above says it.
    if (during === REACHING) return;
    const fields = { app, during, message: messageOf(error) };
    bulk.note(
      `error ${during} ${fields.message}`,
      (count) => log.say("error", { ...fields, count }, null),
    );
  });
  pusher.on("refused", ({ app, what, code, reason }) => {
    bulk.note(`refused ${app} ${what} ${code}`, (count) => {
      log.say("refused", { app, what, code, reason, count }, null);
    });
  });
  followSlow(pusher, log, bulk);
}

/** Says how many clients were cut, as they did not read. */
function followSlow(pusher: Pusher, log: Log, bulk: Bulk): void {
  const slowClients = () =>
    pusher.meter.figures().apps
      .reduce((sum, { counts }) => sum + counts.slowClients, 0);
  let told = 0;
  const say = () => {
    const count = slowClients() - told;
    told += count;
    if (count > 0) log.say("slow_client", { count }, null);
  };
  pusher.on("disconnected", ({ code }: Hooks["disconnected"]) => {
    // The code of other ends, too, which the count tells apart.
    if (code === SLOW_CODE) bulk.note("slow", say);
  });
}

const SLOW_CODE = 4100;

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
