/**
 * The conformance command, run against the standalone server.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { testWithRedis } from "../support/redis.ts";

const ROOT = new URL("../..", import.meta.url);

/** The whole checklist: the server, and this repository's own client. */
const ITEMS = Array.from({ length: 108 }, (_, index) => index + 1);

/** What the command prints of an item. */
interface Result {
  item: number;
  title: string;
  result: string;
  seen: string;
  ms: number;
}

/** An item that is not held, as one line. */
function line({ item, title, result, seen, ms }: Result): string {
  return `${item} ${result} after ${ms} ms: ${seen} (${title})`;
}

/** Runs the command; all that it runs has to hold. */
async function conformance(...flags: string[]): Promise<Result[]> {
  const command = "tests/programs/conformance.ts";
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    // What it downloads is its own affair: no change of deno.lock.
    args: ["run", "-A", "--no-lock", command, "--json", ...flags],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).output();
  const [text, errors] = [stdout, stderr].map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  assert(text !== "", `It printed no results:\n${errors}`);
  const results: Result[] = JSON.parse(text!);
  const failed = results.filter(({ result }) => result !== "held").map(line);
  // A message of its own, as the difference of two lists would be cut.
  assert(failed.length === 0, `Not held:\n${failed.join("\n")}\n${errors}`);
  assertEquals(code, 0);
  assertMatch(errors!, RegExp(`^\\d+ of ${results.length}: item \\d+, `, "m"));
  return results;
}

Deno.test("conformance.ts: every item of the checklist is held", async () => {
  const results = await conformance();
  assertEquals(results.map(({ item }) => item), ITEMS);
  const coverage = await Deno.readTextFile(
    new URL("docs/protocol.md", ROOT),
  );
  assertStringIncludes(coverage, `${ITEMS.length} numbered items`);
});

// What several servers have to know of each other; all items take a minute more.
const SHARED = "15,19-26,35-43,47-61,63-72,80-92,96,102,107";

testWithRedis(
  "conformance.ts: what servers share is held by three of them behind a balancer",
  async () => {
    const results = await conformance("--nodes", "3", "--only", SHARED);
    assert(results.length > 50, `${results.length}`);
  },
);
