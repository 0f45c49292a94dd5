/**
 * The figures that the page shows: those of the whole server, or of one app where the
 * console is that of one app.
 *
 * @module
 */

import type { AppFigures, Pusher, Stats } from "../../mod.ts";

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
    ...{ bufferedBytes: 0, sessions: 0, sessionsAway: 0, historyBytes: 0 },
    droppedFrames: 0,
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
