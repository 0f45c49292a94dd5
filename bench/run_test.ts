/**
 * The bench as a program, on a tenth of its clients: that it counts what comes, and
 * says so when something is lost. Its figures are for people to read.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { within } from "../tests/support/deadline.ts";
import { findInstalled } from "../tests/support/installed.ts";
import { freePort } from "../tests/support/ports.ts";
import { chart } from "./chart.ts";
import { PEERS } from "./peers.ts";
import { markdownReport } from "./report.ts";
import type { Outcome, Result, Results } from "./results.ts";
import { formatFiles } from "./run.ts";
import { SCENARIOS } from "./scenarios.ts";

/** What keeps the load generator from being built here, or null. */
const reason = Deno.build.os !== "linux"
  ? "it needs Linux"
  : findInstalled("cc") === null
  ? "it needs a C compiler, cc"
  : null;

/** Ample for a few seconds of work on a busy machine. */
const DEADLINE_MS = 120_000;

/** Runs the bench with the faulty peers, and returns its exit code and output. */
async function bench(permission: "-A" | "--no-prompt", ...args: string[]) {
  const port = ["--port", String(freePort())];
  const program = ["run", permission, "--no-lock", "bench/faulty.ts"];
  const child = new Deno.Command(Deno.execPath(), {
    args: [...program, ...port, ...args],
    cwd: new URL("..", import.meta.url),
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  try {
    const { code, stdout, stderr } = await within(
      ...[DEADLINE_MS, "end of the bench", child.output()] as const,
    );
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, printed: text(stdout), errors: text(stderr) };
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  }
}

Deno.test({
  name:
    "deno task bench counts every delivery, and finds one that is lost or " +
    `repeated${reason === null ? "" : `: ignored, as ${reason}`}`,
  ignore: reason !== null,
  async fn(t) {
    const { code, printed, errors } = await bench(
      "-A",
      ...["fanout", "--quick", "--json", "--seconds", "0.1"],
      ...["--peers", "ours,bare,drops,repeats"],
      ...["--only", "ours,ours+batch,bare,drops,repeats"],
    );
    assert(printed.startsWith("{"), errors);
    const results: Results = JSON.parse(printed);
    const outcomes = results["fanout"]?.rounds[0] ?? {};

    for (const subject of ["ours", "ours+batch", "bare"]) {
      await t.step(
        `${subject} has figures for each number of publishers`,
        () => {
          const metrics = Object.entries(figuresOf(outcomes[subject]));
          assertEquals(metrics.length, 8);
          for (const [metric, { value }] of metrics) {
            assert(Number.isFinite(value) && value >= 0, `${metric}: ${value}`);
          }
        },
      );
    }
    await t.step("a run that lost a message is no result", () => {
      // Of 100 subscribers, so the other 99 got that message.
      assertMatch(faultOf(outcomes["drops"]), /^lost 1 of \d+00 deliveries$/);
    });
    await t.step("a run in which a message came twice is no result", () => {
      assertMatch(
        faultOf(outcomes["repeats"]),
        /^1 of \d+00 deliveries came twice$/,
      );
    });
    await t.step("the exit code says that there are faults", () => {
      assertEquals(code, 1);
    });
  },
});

Deno.test("deno task bench names what there is when it is asked for else, before it installs anything", async () => {
  for (
    const [args, expected] of [
      [["--help"], /^ {2}fanout .*^ {2}memory /ms],
      [["fan"], /Cannot measure "fan": there are fanout, /],
      [["--peers", "them"], /Cannot measure the peer "them": there are ours, /],
      [["--rounds", "0"], /Cannot use --rounds 0: it has to be above 0/],
      [["--seconds", "0"], /Cannot use --seconds 0: it has to be above 0/],
    ] as [string[], RegExp][]
  ) {
    // To install a peer it would need a permission.
    const { printed, errors } = await bench("--no-prompt", ...args);
    assertMatch(printed + errors, expected);
  }
});

Deno.test("what --readme writes is formatted as the repository is", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const files = ["a.md", "a.svg"].map((name) =>
      new URL(name, `file://${folder}/`)
    );
    const subjects = { scenarios: SCENARIOS, peers: PEERS };
    const results = { publishes: RESULT };
    await Deno.writeTextFile(files[0]!, markdownReport(results, subjects));
    await Deno.writeTextFile(files[1]!, chart(results, subjects));
    await formatFiles(files);
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["fmt", "--check", ...files.map((file) => file.pathname)],
      stderr: "piped",
    }).output();
    assert(success, new TextDecoder().decode(stderr));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

const RESULT: Result = {
  date: "2026-11-26",
  machine: "a machine",
  command: "deno task bench publishes",
  rounds: [{ ours: { figures: { publishes: { value: 1_000 } } } }],
};

function figuresOf(outcome: Outcome | undefined) {
  assert(outcome && "figures" in outcome, JSON.stringify(outcome));
  return outcome.figures;
}

function faultOf(outcome: Outcome | undefined): string {
  assert(outcome && "fault" in outcome, JSON.stringify(outcome));
  return outcome.fault;
}
