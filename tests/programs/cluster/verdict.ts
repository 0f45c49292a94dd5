/**
 * What has to hold for a run, and how its results are shown.
 *
 * @module
 */
import type { Tally } from "../loss/ledger.ts";
import { GHOST_GRACE_MS } from "./blows.ts";
import type { Report, RunOptions } from "./run.ts";

/** What a run has that it must not have, in sentences; nothing if all is well. */
export function verdict(
  { problems, kinds, figures }: Report,
  { leaseMs }: Pick<RunOptions, "leaseMs">,
): string[] {
  const faults = [...problems];
  for (const { kind, tally } of kinds) {
    const mustBeZero = (name: keyof Tally, why: string) => {
      if (tally[name] > 0) faults.push(`${kind}: ${tally[name]} ${why}`);
    };
    mustBeZero("invented", "messages came that nobody had published there");
    if (kind === "stock") continue;
    mustBeZero("lost", "messages were lost, and nobody was told");
    mustBeZero("outOfOrder", "messages came after later ones");
    mustBeZero("echoed", "messages came to whom they were not for");
    if (kind === "ours") mustBeZero("duplicated", "messages came twice");
  }
  const slow = figures.ghostsMs.filter((ms) => ms > leaseMs + GHOST_GRACE_MS);
  if (slow.length > 0) {
    faults.push(`members of a dead node left after ${slow.map(Math.round)} ms`);
  }
  return faults;
}

const COLUMNS = [
  "expected",
  "delivered",
  "lost",
  "duplicated",
  "outOfOrder",
  "echoed",
  "invented",
  "reported",
] as const;

/** The results, for people. */
export function show(report: Report): string {
  const { kinds, traffic, webhooks, figures } = report;
  const { memory, one, all } = figures.perSecond;
  const ratio = (rate: number) => `${rate} (${(rate / memory).toFixed(2)})`;
  const lines = [
    `seed ${report.seed}: ${report.acts} acts in ${report.seconds} s, ` +
    `${report.messages} messages, ${report.transitions} changes of members, ` +
    `${report.reconnects} reconnects, ${webhooks.count} webhooks ` +
    `(${webhooks.repeats} repeats)`,
    `published: ${traffic.accepted} accepted, ${traffic.refused} refused ` +
    `(the slowest after ${Math.round(traffic.slowestRefusalMs)} ms), ` +
    `${traffic.unanswered} unanswered`,
    ...kinds.map(({ kind, tally, reports }) =>
      `${kind}: ` +
      COLUMNS.map((name) => `${tally[name]} ${name}`).join(", ") +
      ` in ${reports} reports`
    ),
    `delivery: ${spread(figures.latenciesMs)}`,
    `last ghost after SIGKILL: ${spread(figures.ghostsMs)}`,
    `nodes ready after Redis is back: ${spread(figures.recoveriesMs)}`,
    `timers of this program were late by: ${spread(figures.lagsMs)}`,
    `agreement after each act: ${spread(figures.agreementMs)}`,
    `memory at the end: ${
      figures.rssBytes.map((bytes) => Math.round(bytes / 2 ** 20)).join(", ")
    } MiB; keys: ${figures.keys}`,
  ];
  if (figures.peaks.length > 0) {
    const peaks = figures.peaks.map((peak) => peak.toFixed(2)).join(", ");
    lines.push(`peaks of a rolling restart against an even pace: ${peaks}`);
  }
  if (memory > 0) {
    lines.push(
      `publishes/s: ${memory} in memory, ${ratio(one)} by one node, ` +
        `${ratio(all)} by all`,
    );
  }
  return lines.join("\n");
}

function spread(values: readonly number[]): string {
  if (values.length === 0) return "not measured";
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => {
    const index = Math.min(
      sorted.length - 1,
      Math.floor(share * sorted.length),
    );
    return Math.round((sorted[index] ?? 0) * 10) / 10;
  };
  return `p50 ${at(0.5)}, p99 ${at(0.99)}, most ${at(1)} ms (${sorted.length})`;
}
