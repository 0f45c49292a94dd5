import { assertEquals } from "@std/assert";
import { targetTable, terminalReport } from "./report.ts";
import type { Outcome, Result } from "./results.ts";
import { SCENARIOS } from "./scenarios.ts";
import { verdictsOf } from "./targets.ts";

function outcome(figures: Record<string, number>): Outcome {
  return {
    figures: Object.fromEntries(
      Object.entries(figures).map(([metric, value]) => [metric, { value }]),
    ),
  };
}

function result(...rounds: Record<string, Outcome>[]): Result {
  return { date: "2026-11-26", machine: "a", command: "bench", rounds };
}

/** Rounds of 10, 12 and 20 ms, before 10 ms each. */
const UNREAD = result(...[10, 12, 20].map((p99) => ({
  ours: outcome({ "unread p99": p99, "unread p99 before": 10 }),
})));

Deno.test("verdictsOf compares the median of the rounds with the target", () => {
  const verdicts = verdictsOf("unread", UNREAD);
  // Nothing was found of memory, nor of batches.
  assertEquals(verdicts.map(({ value, isMet }) => [value, isMet]), [
    [120, false],
  ]);
  const quick = result(...UNREAD.rounds.slice(0, 1));
  assertEquals(verdictsOf("unread", quick)[0]?.isMet, true);
});

Deno.test("verdictsOf compares mass returns message by message, and history with none", () => {
  const returned = result({
    "ours+session": outcome({
      ...{ "return 500": 1_000, "return 1000": 2_200 },
      "return 1000 turn": 50.1,
    }),
  });
  assertEquals(
    verdictsOf("return", returned).map(({ value, isMet }) => [value, isMet]),
    [[50.1, false], [110, true]],
  );
  const history = result({
    "ours": outcome({ "history cpu": 10.8 }),
    "ours+no history": outcome({ "history cpu": 10 }),
    "ours+recover": outcome({ "history cpu": 13.5 }),
  });
  assertEquals(
    verdictsOf("history", history).map(({ value, isMet }) => [value, isMet]),
    [[108, true], [135, false]],
  );
});

Deno.test("every scenario of a target has the metrics that the target asks for", () => {
  // A run in which each metric of each way was 1.
  const counts = { unread: 4, history: 2, return: 6, cycles: 1 };
  for (const [name, count] of Object.entries(counts)) {
    const metrics = Object.keys(SCENARIOS[name]!.metrics);
    const ones = outcome(Object.fromEntries(metrics.map((one) => [one, 1])));
    const ways = [
      ...["ours", "ours+batch", "ours+no history", "ours+recover"],
      ...["ours+batch+recover", "ours+session"],
    ];
    const round = Object.fromEntries(ways.map((way) => [way, ones]));
    assertEquals(verdictsOf(name, result(round)).length, count, name);
  }
});

Deno.test("targetTable and terminalReport say which targets were missed", () => {
  const lines = targetTable({ unread: UNREAD });
  assertEquals(
    lines.at(-2),
    "| p99 while 50 of 1,000 do not read, over that before, stock frames " +
      "| 115 % | 120 % | **missed** |",
  );
  assertEquals(targetTable({}), []);
  const report = terminalReport("unread", SCENARIOS["unread"]!, UNREAD);
  const verdict = report.split("\n").find((line) => line.includes("MISSED"));
  assertEquals(verdict?.endsWith("120 %, at most 115 %"), true, report);
});
