/** Nothing stays in Redis: each key has the prefix, and an end. */
import { assert, assertEquals } from "@std/assert";
import { testWithRedis } from "../../tests/support/redis.ts";
import { kindOf, soak } from "../../tests/support/redis_soak.ts";
import { RedisStage } from "../../tests/support/redis_stage.ts";

const AGE_MS = 1_500;

/** The kinds of keys in the table at the head of `ext/redis.ts`. */
async function documented(): Promise<string[]> {
  const head = await Deno.readTextFile(new URL("../redis.ts", import.meta.url));
  const rows = head.matchAll(/^ \* \| `(?:T|\{prefix:0\}):(\w+)/gm);
  return Array.from(rows, ([, kind = ""]) => kind).sort();
}

testWithRedis(
  "Channels of all kinds come and go, and leave nothing behind",
  async () => {
    await using stage = await RedisStage.open();
    const prefix = "soak";
    const options = { prefix, history: { ageMs: AGE_MS } };
    const one = await stage.server(options);
    const two = await stage.server(options);
    const { journal } = one.backplane;
    journal?.want();
    const kept = { ageMs: 1, yield: () => Promise.resolve() };
    const reader = await journal?.claim("reader", kept);
    await reader?.commit(new Map([["note", "1"]]));

    const { kinds } = await soak(stage, [one, two], {
      channels: 1_000,
      prefix,
    });
    // Only a dead server, and a flush with departures, leave other kinds.
    const all = await documented();
    assertEquals(
      all.filter((kind) => !kinds.has(kind)),
      ["dead", "gone"],
    );
    assertEquals([...kinds].filter((kind) => !all.includes(kind)), []);

    // What clients left is gone with its age.
    await eventually(
      stage,
      (found) => !/^[hcmslxz]$|^occ$/.test(found),
      prefix,
    );
    const left = await stage.keys();
    for (const [key, ttlMs] of left) assert(ttlMs > 0, key);
    // By bucket: the run of Redis, two servers, the journal, sessions; and the leases
    // and the reader.
    assert(left.size <= 64 * 5 + 2, `${left.size}`);
    await stage.close(one);
    await stage.close(two);
    const kindsLeft = [...(await stage.keys()).keys()]
      .map((key) => kindOf(key, prefix));
    assertEquals([...new Set(kindsLeft)].sort(), ["meta", "r", "w", "y"]);
  },
);

/** Waits until only keys of some kinds are there. */
async function eventually(
  stage: RedisStage,
  isFine: (kind: string) => boolean,
  prefix: string,
): Promise<void> {
  for (let i = 0;; i++) {
    const kinds = [...(await stage.keys()).keys()]
      .map((key) => kindOf(key, prefix) ?? key);
    const others = new Set(kinds.filter((kind) => !isFine(kind)));
    if (others.size === 0) return;
    assert(i < 200, `Still there: ${[...others]}`);
    await new Promise((resolve) => setTimeout(resolve, AGE_MS / 10));
  }
}
