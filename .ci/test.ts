/**
 * Runs the tests of the whole repository, documentation included: this is
 * `deno task test`. Arguments go to `deno test`: a file, a `--filter`, …
 *
 * @module
 */
import { tmpdir } from "node:os";
import { stripVTControlCharacters } from "node:util";
import { EVERY_BROWSER, findBrowser } from "../tests/support/browsers.ts";
import { findInstalled } from "../tests/support/installed.ts";
import { findPackages, scratchLock } from "./packages.ts";

/** The last line of `deno test`; where there are steps, they follow a number. */
const SUMMARY =
  /^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed(?:.*? \| (\d+) ignored)?/gm;

/**
 * Files that run after all others, one at a time: in them servers that are programs
 * of their own count each other as dead after seconds of silence, which a machine
 * that also runs browsers may cause.
 */
const ALONE = ["tests/programs/cluster_test.ts", "tests/scaling_test.ts"];

/** Returns 0, or the exit code of what failed first: 1 when there is no summary. */
async function runTests(args: string[]): Promise<number> {
  const { source, flags } = await findPackages();
  console.log(source);
  const common = ["--doc", ...flags, await scratchLock(), ...args];
  // A file for each core at a time, or for each of DENO_JOBS. Deno would take this
  // file for a test by its name.
  const together = ["--parallel", ...common];
  const runs = namesFiles(args)
    ? [["--ignore=.ci", ...together]]
    : [[`--ignore=.ci,${ALONE}`, ...together], [...common, ...ALONE]];
  const total = { passed: 0, failed: 0, skipped: 0 };
  let exitCode = 0;
  for (const run of runs) {
    const { code, output } = await denoTest(run);
    const summary = [...stripVTControlCharacters(output).matchAll(SUMMARY)];
    const [, passed, failed, skipped = "0"] = summary.at(-1) ?? [];
    if (passed === undefined) {
      console.error("deno test printed no summary: no test has run");
      exitCode ||= 1;
    }
    total.passed += Number(passed ?? 0);
    total.failed += Number(failed ?? 0);
    total.skipped += Number(skipped);
    exitCode ||= code;
  }
  const { passed, failed, skipped } = total;
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
  return exitCode;
}

/** Whether arguments of `deno test` have a path, besides flags and a `--filter`. */
function namesFiles(args: string[]): boolean {
  return args.some((arg, i) =>
    !arg.startsWith("-") && args[i - 1] !== "--filter"
  );
}

/** Runs `deno test`, showing its output while keeping a copy. */
async function denoTest(
  args: string[],
): Promise<{ code: number; output: string }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", ...permissions(), ...args],
    cwd: new URL("..", import.meta.url),
    // A pipe is no terminal, but its output is shown on a terminal.
    env: Deno.stdout.isTerminal() ? { FORCE_COLOR: "1" } : {},
    stdout: "piped",
  }).spawn();
  const [shown, kept] = child.stdout.tee();
  const [output] = await Promise.all([
    new Response(kept).text(),
    shown.pipeTo(Deno.stdout.writable, { preventClose: true }),
  ]);
  return { code: (await child.status).code, output };
}

/** What the tests need, and no more. */
function permissions(): string[] {
  const programs = [
    Deno.execPath(),
    ...EVERY_BROWSER.flatMap(findBrowser),
    ...["bash", "nginx", "caddy", "node", "npm", "bun", "openssl", "python3"]
      .map((name) => findInstalled(name)),
    ...["redis-server", "redis-cli", "valkey-server", "valkey-cli"]
      .map((name) => findInstalled(name)),
  ].filter(Boolean);
  return [
    "--no-prompt",
    // The files of packages from npm, wherever they are cached.
    "--allow-read",
    // Browser profiles and screenshots.
    `--allow-write=${tmpdir()},.artifacts`,
    // Packages from npm read variables of their own choice.
    "--allow-env",
    // Servers on this machine, and listeners on all of its addresses.
    "--allow-net=localhost,127.0.0.1,[::1],0.0.0.0",
    // The client, as a module that one of those servers has.
    "--allow-import=127.0.0.1",
    // Servers as a user starts them, browsers, a proxy, Redis, other runtimes, and npm.
    `--allow-run=${programs.join()}`,
  ];
}

if (import.meta.main) Deno.exit(await runTests(Deno.args));
