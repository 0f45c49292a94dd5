/**
 * The fuzzer, for a short time: long enough for a few rounds of every kind of
 * step, and to notice when it has fallen out of step with the server.
 */
import { assert, assertEquals } from "@std/assert";
import { fuzz, summary } from "./fuzz.ts";
import { ATTACKS } from "./fuzz/attacks.ts";

Deno.test("mutated traffic of many connections is answered as the model says", async () => {
  const seconds = Number(Deno.env.get("FUZZ_SECONDS") || 5);
  const seed = Number(Deno.env.get("FUZZ_SEED") || Date.now() >>> 0);
  console.info(`FUZZ_SEED=${seed}`);
  const report = await fuzz({ seed, seconds });
  console.info(summary(report));
  assert(report.finding === undefined, report.finding);
});

Deno.test("a seed of the fuzzer repeats its steps", async () => {
  const [first, second] = [
    await fuzz({ seed: 1, seconds: 0 }),
    await fuzz({ seed: 1, seconds: 0 }),
  ];
  for (const { finding } of [first, second]) {
    assert(finding === undefined, finding);
  }
  assert(first.steps > 0);
  assertEquals(first.trace, second.trace);
});

for (const attack of ATTACKS.keys()) {
  Deno.test(`nobody notices an attack by ${attack}, and a seed repeats it`, async () => {
    const seed = Number(Deno.env.get("FUZZ_SEED") || Date.now() >>> 0);
    console.info(`FUZZ_SEED=${seed}`);
    const [first, second] = [
      await fuzz({ seed, seconds: 0, attack }),
      await fuzz({ seed, seconds: 0, attack }),
    ];
    for (const { finding } of [first, second]) {
      assert(finding === undefined, finding);
    }
    assertEquals(first.trace, second.trace);
  });
}
