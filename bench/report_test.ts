/** Tables and the chart of the bench, on fixed results. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { chart } from "./chart.ts";
import type { Peer } from "./peer.ts";
import {
  format,
  insertReport,
  markdownReport,
  markdownTable,
  terminalReport,
} from "./report.ts";
import { median, ratioOf, type Result, type Results } from "./results.ts";
import { type Figures, type Scenario, SCENARIOS } from "./scenarios.ts";

// ---- Fixed results ----------------------------------------------------------

const PEERS = [
  peer("ours", "ours", "ours"),
  peer("them", "Them & <us> 1.0", "peer"),
  peer("bare", "bare loop", "floor"),
];

function peer(name: string, label: string, role: Peer["role"]): Peer {
  return {
    ...{ name, label, role, dialect: "pusher", can: new Set(["fanout"]) },
    install: async () => {},
    command: () => ({ command: "true", args: [] }),
  };
}

function figures(
  value: number,
  loadShare = 0.5,
  serverShare = 1,
): { figures: Figures } {
  return { figures: { "publishes": { value, loadShare, serverShare } } };
}

/** Ours is twice as fast as the others by the median of the rounds' ratios. */
const PUBLISHES: Result = {
  date: "2026-11-26",
  machine: "a machine",
  command: "deno task bench publishes",
  rounds: [
    { ours: figures(2_000), them: figures(1_000), bare: figures(900, 0.9) },
    { ours: figures(9_000), them: figures(3_000), bare: figures(900, 0.9) },
    { ours: figures(4_000), them: figures(4_000), bare: { fault: "lost 1" } },
  ],
};

const RESULTS: Results = { publishes: PUBLISHES };
const SUBJECTS = { scenarios: SCENARIOS, peers: PEERS };
const METRIC = SCENARIOS["publishes"]!.metrics["publishes"]!;

// ---- Figures ----------------------------------------------------------------

Deno.test("median is the value in the middle, or the mean of two", () => {
  assertEquals(median([]), null);
  assertEquals(median([5]), 5);
  assertEquals(median([9, 1, 5]), 5);
  assertEquals(median([9, 1, 5, 6]), 5.5);
});

Deno.test("ratioOf is the median of the ratios of each round", () => {
  // 2, 3 and 1: not the ratio of the medians, which is 4,000 to 3,000.
  assertEquals(ratioOf(PUBLISHES, "publishes", METRIC, "ours", "them"), 2);
  const less = { ...METRIC, better: "less" } as const;
  assertEquals(ratioOf(PUBLISHES, "publishes", less, "them", "ours"), 2);
  assertEquals(ratioOf(PUBLISHES, "publishes", METRIC, "ours", "nobody"), null);
});

Deno.test("format keeps three digits, and leaves out the unit of rates", () => {
  assertEquals(format(1_234_567, "/s"), "1.23 M");
  assertEquals(format(123_456, "/s"), "123 k");
  assertEquals(format(12_345, "/s"), "12.3 k");
  assertEquals(format(1_234.5, "/s"), "1235");
  assertEquals(format(12.345, "ms"), "12.3 ms");
  assertEquals(format(0.123, "µs"), "0.12 µs");
  assertEquals(format(123.4, "KiB"), "123 KiB");
});

// ---- Reports ----------------------------------------------------------------

Deno.test("terminalReport has medians, ratios, faults, and a busy load generator", () => {
  const report = terminalReport(
    ...["publishes", SCENARIOS["publishes"] as Scenario, PUBLISHES] as const,
  );
  assert(/ours +4000\n/.test(report), report);
  assert(/them +3000 +2\.00 ×\n/.test(report), report);
  assert(report.includes("NO RESULT for bare: lost 1"), report);
  assert(
    /WARNING: the load .* took 90 % of a core for bare/.test(report),
    report,
  );
  assert(!/WARNING: .* for ours/.test(report), report);
});

Deno.test("terminalReport says that a server had less than its core", () => {
  const rounds = [{ ours: figures(1_000, 0.5, 0.6) }];
  const scenario = SCENARIOS["publishes"] as Scenario;
  const report = terminalReport("publishes", scenario, {
    ...PUBLISHES,
    rounds,
  });
  assert(/WARNING: the server had only 60 % of a core for ours/.test(report));
});

Deno.test("markdownTable has a column for each peer, and only measured rows", () => {
  assertEquals(
    markdownTable(RESULTS, SUBJECTS),
    [
      "|  | ours | Them & <us> 1.0 | bare loop |",
      "| --- | ---: | ---: | ---: |",
      "| HTTP publishes/s | 4000 | 3000 (2.00) | 900 (6.11) |",
    ].join("\n"),
  );
});

Deno.test("markdownTable says where a peer has no result, and where nobody tried", () => {
  const rounds = [{ ours: figures(2_000), them: { fault: "lost 1" } }];
  const table = markdownTable(
    { publishes: { ...PUBLISHES, rounds } },
    SUBJECTS,
  );
  assert(table.endsWith("| 2000 | no result | – |"), table);
});

Deno.test("markdownReport names date, machine, command, rounds and doubts", () => {
  const report = markdownReport(RESULTS, SUBJECTS);
  for (
    const part of [
      "(docs/bench.svg)",
      "2026-11-26",
      "a machine",
      "`deno task bench publishes` (3 rounds)",
      "- bare: lost 1",
      "so the server may be faster: bare, publishes (90 %)",
    ]
  ) assert(report.includes(part), report);
});

Deno.test("insertReport replaces what is between its marks, also a second time", () => {
  const begin = "<!-- bench: written by deno task bench --readme -->";
  const text = `# A\n\n${begin}\n\nold\n\n<!-- end of bench -->\n\n# B\n`;
  const once = insertReport(text, "new");
  assertEquals(once, text.replace("old", "new"));
  assertEquals(insertReport(once, "new"), once);
  assertThrows(() => insertReport("# A\n", "new"), Error, "README.md has no");
});

Deno.test("chart draws a bar for each figure, in proportion, for light and dark", () => {
  const svg = chart(RESULTS, SUBJECTS);
  const widths = [...svg.matchAll(/class="(\w+)" .*width="([\d.]+)"/g)]
    .map(([, role, width]) => [role, Number(width)]);
  assertEquals(widths, [["ours", 200], ["peer", 150], ["floor", 45]]);
  assert(svg.includes("Them &amp; &lt;us> 1.0"), svg);
  assert(svg.includes("prefers-color-scheme: dark"), svg);
  assert(!svg.includes("NaN"), svg);
});
