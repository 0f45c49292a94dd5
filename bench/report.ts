/**
 * Results for people: tables for the terminal and the README, and a chart.
 *
 * @module
 */
import type { Peer } from "./peer.ts";
import {
  faultsOf,
  LOAD_WARNING,
  medianOf,
  ratioOf,
  type Result,
  type Results,
  SERVER_WARNING,
  shareOf,
  subjectsOf,
} from "./results.ts";
import type { Metric, Scenario } from "./scenarios.ts";
import { type Verdict, verdictsOf } from "./targets.ts";

/** What a report is about. */
export interface Subjects {
  scenarios: Readonly<Record<string, Scenario>>;
  peers: readonly Peer[];
}

// ---- Numbers ----------------------------------------------------------------

/** A figure in few characters, with its unit unless that is "a second". */
export function format(value: number, unit: Metric["unit"]): string {
  if (unit !== "/s") {
    const digits = value >= 100 ? 0 : value >= 1 ? 1 : 2;
    return `${value.toFixed(digits)} ${unit}`;
  }
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e5) return `${(value / 1e3).toFixed(0)} k`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value.toFixed(0);
}

function times(ratio: number | null): string {
  return ratio === null ? "" : `${ratio.toFixed(2)} ×`;
}

// ---- The terminal -----------------------------------------------------------

/** All figures of a scenario, whether its targets are met, and what is doubtful. */
export function terminalReport(
  name: string,
  scenario: Scenario,
  result: Result,
): string {
  const lines = [`\n${scenario.title}`];
  for (const [metric, about] of Object.entries(scenario.metrics)) {
    const cpu = `${metric} cpu`;
    // The processor time of a rate stands beside it.
    const isBeside = metric.endsWith(" cpu") &&
      Object.hasOwn(scenario.metrics, metric.replace(/ cpu$/, ""));
    if (isBeside) continue;
    lines.push("", `  ${about.title}`);
    for (const subject of subjectsOf(result)) {
      const cells = [metric, cpu].map((metric) =>
        terminalCell(scenario, result, metric, subject)
      );
      if (cells.join("").trim() === "") continue;
      lines.push(`    ${subject.padEnd(24)}${cells.join("")}`.trimEnd());
    }
  }
  lines.push("", "  × says how many times better ours is, by its plain way.");
  const verdicts = verdictsOf(name, result).map((verdict) =>
    `  ${verdictOf(verdict)}: ${verdict.title}: ${found(verdict)}`
  );
  if (verdicts.length > 0) lines.push("", ...verdicts);
  return [...lines, ...warnings(scenario, result), ""].join("\n");
}

function verdictOf({ isMet }: Verdict): string {
  return isMet ? "met" : "MISSED";
}

function found({ value, most, unit }: Verdict): string {
  return `${format(value, unit)}, at most ${format(most, unit)}`;
}

function terminalCell(
  { metrics }: Scenario,
  result: Result,
  metric: string,
  subject: string,
): string {
  const about = metrics[metric];
  const value = medianOf(result, subject, metric);
  if (about === undefined || value === null) return "";
  const ratio = subject === "ours"
    ? null
    : ratioOf(result, metric, about, "ours", subject);
  return format(value, about.unit).padStart(14) + times(ratio).padStart(10);
}

function warnings(scenario: Scenario, result: Result): string[] {
  return subjectsOf(result).flatMap((subject) => [
    ...faultsOf(result, subject).map((fault) =>
      `  NO RESULT for ${subject}: ${fault}`
    ),
    ...Object.keys(scenario.metrics).flatMap((metric) =>
      doubts(result, subject, metric).map((doubt) => `  WARNING: ${doubt}`)
    ),
  ]);
}

function doubts(result: Result, subject: string, metric: string): string[] {
  const load = shareOf(result, subject, metric, "loadShare") ?? 0;
  const server = shareOf(result, subject, metric, "serverShare") ?? 1;
  const which = `of a core for ${subject}, ${metric}`;
  return [
    load > LOAD_WARNING
      ? `the load generator took ${
        percent(load)
      } ${which}: the server may be ` +
        "faster than that"
      : "",
    server < SERVER_WARNING
      ? `the server had only ${percent(server)} ${which}: it, or the load ` +
        "generator, had to wait for something else"
      : "",
  ].filter(Boolean);
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

// ---- The README -------------------------------------------------------------

/** A row of the README's table: one of our ways, against the peers' plain one. */
interface Row {
  title: string;
  scenario: string;
  metric: string;
  ours: string;
}

const ROWS: Row[] = [
  ...[1, 4, 16, 64].map((count) =>
    row(`deliveries/s, ${publishers(count)}`, "fanout", `fanout ${count}`)
  ),
  ...[1, 4, 16, 64].map((count) =>
    row(
      `the same, served client (batches), ${publishers(count)}`,
      ...["fanout", `fanout ${count}`, "ours+batch"] as const,
    )
  ),
  row("CPU for a delivery, 16 publishers", "fanout", "fanout 16 cpu"),
  row(
    "the same, batches",
    ...["fanout", "fanout 16 cpu", "ours+batch"] as const,
  ),
  row(
    "deliveries/s, the program publishes in 16 loops",
    ...["in-process", "in-process", "ours+in-process"] as const,
  ),
  row(
    "the same, batches",
    ...["in-process", "in-process", "ours+batch+in-process"] as const,
  ),
  row("deliveries/s, 2,000 on 1,000 channels", "channels", "channels"),
  row("HTTP publishes/s", "publishes", "publishes"),
  row("latency p50 at 20 messages/s", "latency", "latency p50"),
  row("latency p99", "latency", "latency p99"),
  row(
    "the same, batches",
    ...["latency", "latency p99", "ours+batch"] as const,
  ),
  row("connect and subscribe 3,000", "connect", "connect"),
  row("the same, presence channels", "connect", "connect presence"),
  row("1,000 users join one presence channel", "storm", "storm 1000"),
  row(
    "the same, batches",
    ...["storm", "storm 1000", "ours+batch"] as const,
  ),
  row("memory of an idle connection, 5,000", "memory", "memory 5000"),
  row("the same, 10,000", "memory", "memory 10000"),
  row("p99 while 50 of 1,000 do not read", "unread", "unread p99"),
  row("deliveries/s with Redis, one server", "redis", "redis 1"),
  row("deliveries/s with Redis, three servers", "redis", "redis 3"),
];

function row(
  title: string,
  scenario: string,
  metric: string,
  ours = "ours",
): Row {
  return { title, scenario, metric, ours };
}

function publishers(count: number): string {
  return `${count} publisher${count > 1 ? "s" : ""}`;
}

/** The table for the README: figures, and how many times better ours are. */
export function markdownTable(
  results: Results,
  { scenarios, peers }: Subjects,
): string {
  const others = peers.filter(({ role }) => role !== "ours");
  const lines = [
    ["", "ours", ...others.map(({ label }) => label)],
    ["---", "---:", ...others.map(() => "---:")],
  ];
  for (const { title, scenario, metric, ours } of ROWS) {
    const result = results[scenario], about = scenarios[scenario]?.metrics;
    const { [metric]: kind } = about ?? {};
    if (!result || !kind) continue;
    const own = medianOf(result, ours, metric);
    if (own === null && faultsOf(result, ours).length === 0) continue;
    const cell = (subject: string) => {
      const value = medianOf(result, subject, metric);
      if (value !== null) return format(value, kind.unit);
      return faultsOf(result, subject).length > 0 ? "no result" : "–";
    };
    lines.push([
      title,
      cell(ours),
      ...others.map(({ name }) => {
        const ratio = ratioOf(result, metric, kind, ours, name);
        return `${cell(name)}${ratio === null ? "" : ` (${ratio.toFixed(2)})`}`;
      }),
    ]);
  }
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** The table of targets, or nothing where none was measured. */
export function targetTable(results: Results): string[] {
  const verdicts = Object.entries(results)
    .flatMap(([name, result]) => verdictsOf(name, result));
  if (verdicts.length === 0) return [];
  return [
    "What this server promises of itself:",
    "",
    "|  | at most | measured |  |",
    "| --- | ---: | ---: | --- |",
    ...verdicts.map((verdict) => {
      const { title, most, value, unit } = verdict;
      const cells = [title, format(most, unit), format(value, unit)];
      const is = verdict.isMet ? "met" : "**missed**";
      return `| ${[...cells, is].join(" | ")} |`;
    }),
    "",
  ];
}

/** The tables, when and where they were measured, and what is doubtful about them. */
export function markdownReport(results: Results, subjects: Subjects): string {
  const kept = Object.entries(results).flatMap(([name, result]) =>
    ROWS.some(({ scenario }) => scenario === name) ||
      verdictsOf(name, result).length > 0
      ? [result]
      : []
  );
  const list = (values: string[]) => [...new Set(values)].join(", ");
  const runs = list(
    kept.map(({ command, rounds }) =>
      `\`${command}\` (${rounds.length} round${rounds.length > 1 ? "s" : ""})`
    ),
  );
  const doubts = doubtsOf(results, subjects);
  return [
    "![This server and others, measured side by side](docs/bench.svg)",
    "",
    markdownTable(results, subjects),
    "",
    "The number in brackets says how many times better ours is; below 1 the " +
    "other server is the better one. Rows without a word on the client have " +
    "stock clients, which take a frame for each event; the served client " +
    "takes several in a frame, a batch. Bun's publish is the ceiling and the " +
    "bare loop the floor: minimal servers, which check no signature. Where " +
    "publishes come over HTTP there is a second bare loop, which checks the " +
    "signature and the digest of each, as a server on the internet must.",
    "",
    ...targetTable(results),
    `Measured on ${list(kept.map(({ date }) => date))}, by ` +
    `${list(kept.map(({ machine }) => machine))}: medians of ${runs}.`,
    ...(doubts.length > 0 ? [""] : []),
    ...doubts.map((doubt) => `- ${doubt}`),
  ].join("\n");
}

/** What is doubtful about the rows of the table, in a sentence for each kind. */
function doubtsOf(results: Results, { peers }: Subjects): string[] {
  const others = peers.filter(({ role }) => role !== "ours");
  const cells = ROWS.flatMap(({ scenario, metric, ours }) => {
    const result = results[scenario];
    const subjects = [ours, ...others.map(({ name }) => name)];
    return result
      ? subjects.map((subject) => ({ result, subject, metric }))
      : [];
  });
  const shares = (whose: "loadShare" | "serverShare", test: Test) =>
    [
      ...new Set(cells.flatMap(({ result, subject, metric }) => {
        const share = shareOf(result, subject, metric, whose);
        return share !== null && test(share)
          ? `${subject}, ${metric} (${percent(share)})`
          : [];
      })),
    ].join("; ");
  const load = shares("loadShare", (share) => share > LOAD_WARNING);
  const server = shares("serverShare", (share) => share < SERVER_WARNING);
  const faults = cells.flatMap(({ result, subject }) =>
    faultsOf(result, subject).map((fault) => `${subject}: ${fault}`)
  );
  return [
    ...new Set(faults),
    load && "The load generator was busy, so the server may be faster: " + load,
    server && "The server had less than its core, as it, or the load " +
      "generator, had to wait for something else: " + server,
  ].filter(Boolean);
}

type Test = (share: number) => boolean;

const BEGIN = "<!-- bench: written by deno task bench --readme -->";
const END = "<!-- end of bench -->";

/**
 * Replaces what is between the two marks.
 *
 * @throws {Error} If the text does not have both.
 */
export function insertReport(text: string, report: string): string {
  const begin = text.indexOf(BEGIN), end = text.indexOf(END);
  if (begin < 0 || end < begin) {
    throw new Error(`Cannot write the table: README.md has no "${BEGIN}"`);
  }
  return `${text.slice(0, begin)}${BEGIN}\n\n${report}\n\n${text.slice(end)}`;
}
