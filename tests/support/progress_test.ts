import { assertEquals } from "@std/assert";
import { Progress, type Screen } from "./progress.ts";

/** A screen, what is written to it, and a clock. */
function stage(isTerminal: boolean) {
  const written: string[] = [];
  const screen: Screen = {
    writeSync: (bytes) => {
      written.push(new TextDecoder().decode(bytes));
      return bytes.length;
    },
    isTerminal: () => isTerminal,
    columns: () => 20,
  };
  const clock = { now: 0 };
  return { progress: new Progress(3, screen, () => clock.now), written, clock };
}

Deno.test("progress on a terminal is one line, which ends before the results", () => {
  const { progress, written } = stage(true);
  progress.show(1, "first");
  progress.show(2, "a step with a long name");
  progress.clear();
  assertEquals(written, [
    "\r\x1b[K1 of 3: first",
    "\r\x1b[K2 of 3: a step with",
    "\r\x1b[K",
  ]);
});

Deno.test("progress in a log is a line at once, and then one in ten seconds", () => {
  const { progress, written, clock } = stage(false);
  progress.show(1, "first");
  clock.now = 9_999;
  progress.show(2, "second");
  clock.now = 10_000;
  progress.show(3, "third");
  progress.clear();
  assertEquals(written, ["1 of 3: first\n", "3 of 3: third\n"]);
});
