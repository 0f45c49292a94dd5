/**
 * What this server promises of itself, beside no other server, and whether a run has
 * found it so.
 *
 * @module
 */
import { figureOf, median, type Outcome, type Result } from "./results.ts";
import type { Metric } from "./scenarios.ts";

/** A figure that must not be above another. */
interface Target {
  title: string;
  scenario: string;
  most: number;
  unit: Metric["unit"];
  /** The figure of a round; undefined if the round has none. */
  figure(round: Record<string, Outcome>): number | undefined;
}

/** A target, and what a run has found. */
export interface Verdict extends Pick<Target, "title" | "most" | "unit"> {
  /** The median of the rounds. */
  value: number;
  isMet: boolean;
}

/** The value of one metric of one of our ways. */
function value(subject: string, metric: string): Target["figure"] {
  return (round) => figureOf(round, subject, metric)?.value;
}

/** How many percent the first is of the second; in `scale` times as much work. */
function percentOf(
  first: Target["figure"],
  second: Target["figure"],
  scale = 1,
): Target["figure"] {
  return (round) => {
    const a = first(round), b = second(round);
    return a === undefined || b === undefined ? undefined : 100 * a / b / scale;
  };
}

const unread = { "ours": "stock frames", "ours+batch": "batches" };

const returning = {
  "ours+recover": "recovery",
  "ours+batch+recover": "recovery and batches",
  "ours+session": "stock clients with sessions",
};

const TARGETS: readonly Target[] = Object.freeze<Target[]>([
  ...Object.entries(unread).flatMap(([subject, way]): Target[] => [
    {
      title: `p99 while 50 of 1,000 do not read, over that before, ${way}`,
      scenario: "unread",
      ...{ most: 115, unit: "%" },
      figure: percentOf(
        value(subject, "unread p99"),
        value(subject, "unread p99 before"),
      ),
    },
    {
      // `limits.bufferedBytes`, and what the runtime is given.
      title: `memory for each client that does not read, ${way}`,
      scenario: "unread",
      ...{ most: 1_024 + 64, unit: "KiB" },
      figure: value(subject, "unread memory"),
    },
  ]),
  ...["ours", "ours+recover"].map((subject): Target => ({
    title:
      "server CPU for a delivery with history on, over that with history " +
      (subject === "ours" ? "off, stock clients" : "off, clients that recover"),
    scenario: "history",
    ...{ most: 110, unit: "%" },
    figure: percentOf(
      value(subject, "history cpu"),
      value("ours+no history", "history cpu"),
    ),
  })),
  ...Object.entries(returning).flatMap(([subject, way]): Target[] => [
    {
      title: `longest turn while 1,000 return that missed 1,000, ${way}`,
      scenario: "return",
      ...{ most: 50, unit: "ms" },
      figure: value(subject, "return 1000 turn"),
    },
    {
      title: `time for a missed message of 1,000, over one of 500, ${way}`,
      scenario: "return",
      ...{ most: 120, unit: "%" },
      figure: percentOf(
        value(subject, "return 1000"),
        value(subject, "return 500"),
        1_000 / 500,
      ),
    },
  ]),
  {
    title: "memory in the tenth cycle of 5,000 clients, over the third",
    scenario: "cycles",
    ...{ most: 110, unit: "%" },
    figure: value("ours", "cycles growth"),
  },
]);

/** The verdicts of a scenario, for all figures that there are. */
export function verdictsOf(name: string, { rounds }: Result): Verdict[] {
  return TARGETS.flatMap(({ title, scenario, most, unit, figure }) => {
    if (scenario !== name) return [];
    const found = median(rounds.flatMap((round) => figure(round) ?? []));
    if (found === null) return [];
    return [{ title, most, unit, value: found, isMet: found <= most }];
  });
}
