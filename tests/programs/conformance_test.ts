/**
 * The conformance command, run against the standalone server.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";

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

Deno.test("conformance.ts: every item of the checklist is held", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    // What it downloads is its own affair: no change of deno.lock.
    args: ["run", "-A", "--no-lock", "tests/programs/conformance.ts", "--json"],
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
  assertEquals(results.map(({ item }) => item), ITEMS);
  assertEquals(code, 0);
  const readme = await Deno.readTextFile(new URL("README.md", ROOT));
  assertStringIncludes(readme, `${ITEMS.length} numbered items`);
});
