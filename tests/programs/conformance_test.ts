/**
 * The conformance command, run against the standalone server.
 */
import { assertEquals } from "@std/assert";

/** The whole checklist: the server, and this repository's own client. */
const ITEMS = Array.from({ length: 100 }, (_, index) => index + 1);

Deno.test("conformance.ts: every item of the checklist is held", async () => {
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    // What it downloads is its own affair: no change of deno.lock.
    args: ["run", "-A", "--no-lock", "tests/programs/conformance.ts", "--json"],
    cwd: new URL("../..", import.meta.url),
    stdout: "piped",
  }).output();
  const results: { item: number; result: string; seen: string }[] = JSON.parse(
    new TextDecoder().decode(stdout),
  );
  const failed = results.filter(({ result }) => result !== "held");
  assertEquals(failed, []);
  assertEquals(results.map(({ item }) => item), ITEMS);
  assertEquals(code, 0);
});
