/**
 * What runs have found, and how it compares.
 *
 * @module
 */
import { FOLDER } from "./peer.ts";
import type { Figure, Figures, Metric } from "./scenarios.ts";

/** What one subject did in one round. */
export type Outcome = { figures: Figures } | { fault: string };

/** All rounds of a scenario, in one run of the bench. */
export interface Result {
  /** As `2026-11-26`. */
  date: string;
  machine: string;
  command: string;
  /** Each with the outcomes by the names of the subjects, such as `ours+batch`. */
  rounds: Record<string, Outcome>[];
}

/** Results by the names of the scenarios. */
export type Results = Record<string, Result>;

/** Above this share of a core the load generator may have been the limit. */
export const LOAD_WARNING = 0.8;
/** Below this one, something else took the server's time. */
export const SERVER_WARNING = 0.8;

// ---- Figures ----------------------------------------------------------------

/** The names of all subjects, in the order of their runs. */
export function subjectsOf({ rounds }: Result): string[] {
  return [...new Set(rounds.flatMap((round) => Object.keys(round)))];
}

/** A subject's figure of a round; undefined if it has none. */
export function figureOf(
  round: Record<string, Outcome>,
  subject: string,
  metric: string,
): Figure | undefined {
  const outcome = round[subject];
  return outcome && "figures" in outcome ? outcome.figures[metric] : undefined;
}

/** The median of a subject's figures, or null if it has none. */
export function medianOf(
  { rounds }: Result,
  subject: string,
  metric: string,
): number | null {
  return median(
    rounds.flatMap((round) => figureOf(round, subject, metric)?.value ?? []),
  );
}

/**
 * How many times better `ours` is than `theirs`: the median of the ratios of each
 * round, as the machine may be slower in another round. Null without figures.
 */
export function ratioOf(
  { rounds }: Result,
  metric: string,
  { better }: Metric,
  ours: string,
  theirs: string,
): number | null {
  return median(rounds.flatMap((round) => {
    const a = figureOf(round, ours, metric)?.value;
    const b = figureOf(round, theirs, metric)?.value;
    if (a === undefined || b === undefined) return [];
    return better === "more" ? a / b : b / a;
  }));
}

/** The median share of a core that the load generator, or the server, took. */
export function shareOf(
  { rounds }: Result,
  subject: string,
  metric: string,
  whose: "loadShare" | "serverShare",
): number | null {
  return median(
    rounds.flatMap((round) => figureOf(round, subject, metric)?.[whose] ?? []),
  );
}

/** Why runs of a subject are no result. */
export function faultsOf({ rounds }: Result, subject: string): string[] {
  return rounds.flatMap((round) => {
    const outcome = round[subject];
    return outcome && "fault" in outcome ? [outcome.fault] : [];
  });
}

/** The value in the middle, or the mean of the two there; null if there is none. */
export function median(values: number[]): number | null {
  if (values.length === 0) return null;
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2;
}

// ---- The file ---------------------------------------------------------------

const FILE = new URL("results.json", FOLDER);

/** The results of earlier runs. */
export async function readResults(): Promise<Results> {
  try {
    return JSON.parse(await Deno.readTextFile(FILE));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return {};
    throw error;
  }
}

/** Keeps results, in place of older ones of the same scenarios. */
export async function keepResults(results: Results): Promise<void> {
  const all = { ...await readResults(), ...results };
  await Deno.mkdir(FOLDER, { recursive: true });
  await Deno.writeTextFile(FILE, JSON.stringify(all, null, 1));
}
