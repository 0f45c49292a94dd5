import { assertEquals } from "@std/assert";
import { stripVTControlCharacters } from "node:util";
import { Progress } from "./progress.ts";

function written(isTerminal: boolean): string {
  let text = "";
  const write = (more: string) => void (text += more);
  const progress = new Progress(3, { isTerminal, write });
  const step = { scenario: "fanout", subject: "ours", rounds: 2 };
  progress.begin({ ...step, round: 1 });
  progress.end(1.25);
  progress.begin({ ...step, round: 2, subject: "bare" });
  progress.end(2, "lost 1 of 9 deliveries");
  progress.begin({ ...step, round: 2 });
  progress.end(3);
  return text;
}

Deno.test("Progress has a plain line for each step where its output is no terminal", () => {
  assertEquals(
    written(false),
    [
      "[1/3] fanout, round 1 of 2: ours took 1.3 s",
      "[2/3] fanout, round 2 of 2: bare: no result: lost 1 of 9 deliveries, took 2.0 s",
      "[3/3] fanout, round 2 of 2: ours took 3.0 s",
      "",
    ].join("\n"),
  );
});

Deno.test("Progress writes over its line on a terminal, where faults stay and nothing else", () => {
  // What a terminal shows.
  const lines = written(true).split("\n").map((line) =>
    stripVTControlCharacters(line.split("\x1b[K").at(-1)!)
  );
  assertEquals(lines, [
    "[2/3] fanout, round 2 of 2: bare: no result: lost 1 of 9 deliveries",
    "",
  ]);
});
