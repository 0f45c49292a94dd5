/**
 * The figures that the page shows: those of the whole server, or of one app where the
 * console is that of one app.
 *
 * @module
 */

import { isObject } from "../../core/protocol.ts";
import type { Clock } from "../../core/time.ts";
import type { AppFigures, Pusher, Stats } from "../../mod.ts";
import { cut } from "./text.ts";

/** The figures of a moment. */
export interface ServerFigures {
  readonly stats: Stats;
  /** Messages since the start: what clients have sent, and what was sent to them. */
  readonly received: number;
  readonly sent: number;
}

/** Reads the figures. */
export function readFigures(
  pusher: Pick<Pusher, "inspect" | "meter" | "stats">,
): ServerFigures {
  const stats = pusher.stats();
  const all = pusher.meter.figures().apps;
  const { apps } = pusher.inspect();
  const own = all.filter(({ app }) => apps.includes(app));
  const total = (of: (figures: AppFigures) => number) =>
    own.reduce((sum, figures) => sum + of(figures), 0);
  return {
    // Other apps may be other people's.
    stats: own.length === all.length ? stats : { ...stats, ...statsOf(own) },
    received: total(({ counts }) => counts.messagesReceived),
    sent: total(({ counts }) => counts.messagesSent),
  };
}

/** What is known of some apps, and 0 for what is known of the whole server only. */
function statsOf(apps: readonly AppFigures[]): Omit<Stats, "ready"> {
  const stats = {
    ...{ connections: 0, unauthorizedConnections: 0, channels: 0 },
    ...{ bufferedBytes: 0, sessions: 0, sessionsAway: 0 },
    ...{ historyBytes: 0, historyEvents: 0, droppedFrames: 0 },
    transports: {} as Record<string, number>,
  };
  for (const app of apps) {
    for (const [name, count] of Object.entries(app.transports)) {
      stats.transports[name] = (stats.transports[name] ?? 0) + count;
      stats.connections += count;
    }
    for (const kind of app.kinds.values()) stats.channels += kind.channels;
    stats.unauthorizedConnections += app.unauthorizedConnections;
    stats.bufferedBytes += app.bufferedBytes;
  }
  return stats;
}

// ---- Each second ------------------------------------------------------------

/** The figures of one second. */
export interface Sample {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly connections: number;
  /** Messages in this second: what came in, and what was sent to clients. */
  readonly received: number;
  readonly sent: number;
}

/** What a server says of itself each second. */
export interface Tick {
  readonly sample: Sample;
  readonly stats: Stats;
  /** Changes when there are new problems. */
  readonly problems: number;
}

/** What figures come from. */
export interface FigureSources {
  readonly clock: Clock;
  figures(): ServerFigures;
  /** Events that programs and backends have published. */
  published(): number;
  /** The version of the list of problems. */
  problems(): number;
}

/** Takes the figures of each second: rates since the last time. */
export class Sampler {
  readonly #sources: FigureSources;
  #received = 0;
  #sent = 0;
  #elapsed = 0;

  constructor(sources: FigureSources) {
    this.#sources = sources;
  }

  /** Counts from now on. */
  begin(): void {
    const { clock } = this.#sources;
    const { received, sent } = this.#sources.figures();
    this.#received = received + this.#sources.published();
    this.#sent = sent;
    this.#elapsed = clock.elapsed();
  }

  take(): Tick {
    const { clock } = this.#sources;
    const elapsed = clock.elapsed();
    const { stats, ...messages } = this.#sources.figures();
    const received = messages.received + this.#sources.published();
    // A timer may be late; the rates are still right.
    const seconds = Math.max((elapsed - this.#elapsed) / 1000, 0.001);
    const sample = {
      at: clock.now(),
      connections: stats.connections,
      received: Math.round((received - this.#received) / seconds),
      sent: Math.round((messages.sent - this.#sent) / seconds),
    };
    this.#received = received;
    this.#sent = messages.sent;
    this.#elapsed = elapsed;
    return { sample, stats, problems: this.#sources.problems() };
  }
}

/** The figures of several servers together, at this moment. */
export function sumTicks(ticks: readonly Tick[], at: number): Tick {
  const total = (of: (tick: Tick) => number) =>
    ticks.reduce((sum, tick) => sum + of(tick), 0);
  const stat = (name: Exclude<keyof Stats, "ready" | "transports">) =>
    total(({ stats }) => stats[name]);
  const transports: Record<string, number> = {};
  for (const { stats } of ticks) {
    for (const [name, count] of Object.entries(stats.transports)) {
      transports[name] = (transports[name] ?? 0) + count;
    }
  }
  return {
    sample: {
      at,
      connections: total(({ sample }) => sample.connections),
      received: total(({ sample }) => sample.received),
      sent: total(({ sample }) => sample.sent),
    },
    stats: {
      ready: ticks.every(({ stats }) => stats.ready),
      ...{ connections: stat("connections"), channels: stat("channels") },
      unauthorizedConnections: stat("unauthorizedConnections"),
      ...{ sessions: stat("sessions"), sessionsAway: stat("sessionsAway") },
      ...{ historyBytes: stat("historyBytes"), transports },
      historyEvents: stat("historyEvents"),
      bufferedBytes: stat("bufferedBytes"),
      droppedFrames: stat("droppedFrames"),
    },
    problems: total(({ problems }) => problems),
  };
}

/** Reads what another server says of itself; null if it cannot be used. */
export function readTick(value: unknown): Tick | null {
  if (!isObject(value) || !isObject(value.stats)) return null;
  const { sample, stats, problems } = value;
  if (!isObject(sample)) return null;
  const count = (from: Record<string, unknown>, name: string) =>
    Number.isFinite(from[name]) ? Number(from[name]) : 0;
  const transports = isObject(stats.transports)
    ? Object.entries(stats.transports).slice(0, MAX_TRANSPORTS)
    : [];
  return {
    sample: {
      at: count(sample, "at"),
      connections: count(sample, "connections"),
      received: count(sample, "received"),
      sent: count(sample, "sent"),
    },
    stats: {
      ready: stats.ready === true,
      connections: count(stats, "connections"),
      unauthorizedConnections: count(stats, "unauthorizedConnections"),
      channels: count(stats, "channels"),
      sessions: count(stats, "sessions"),
      sessionsAway: count(stats, "sessionsAway"),
      historyBytes: count(stats, "historyBytes"),
      historyEvents: count(stats, "historyEvents"),
      bufferedBytes: count(stats, "bufferedBytes"),
      droppedFrames: count(stats, "droppedFrames"),
      transports: Object.fromEntries(
        transports.map(([name, number]) => [cut(name), Number(number) || 0]),
      ),
    },
    problems: Number(problems) || 0,
  };
}

/** A server has about three. */
const MAX_TRANSPORTS = 20;
