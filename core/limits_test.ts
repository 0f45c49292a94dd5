import {
  assert,
  assertEquals,
  assertFalse,
  assertInstanceOf,
  assertThrows,
} from "@std/assert";
import {
  accepted,
  DEFAULT_LIMITS,
  exceedsBytes,
  isRefusal,
  overLimit,
  quote,
  Refusal,
} from "./limits.ts";

Deno.test("the default limits are numbers of their own, and nobody can change them", () => {
  for (const limit of Object.values(DEFAULT_LIMITS)) {
    assert(limit === Infinity || Number.isSafeInteger(limit) && limit > 0);
  }
  assert(Object.isFrozen(DEFAULT_LIMITS));
});

Deno.test("overLimit names what was found, the limit and its figure", () => {
  const limits = { ...DEFAULT_LIMITS, eventsPerBatch: 3 };
  const refusal = overLimit("eventsPerBatch", limits, "It has 4 events");
  assertEquals(
    { ...refusal },
    {
      status: 400,
      error: "It has 4 events: the limit eventsPerBatch is 3",
      limit: "eventsPerBatch",
    },
  );
  assertEquals(overLimit("bodyBytes", limits, "Large", 413).status, 413);
});

Deno.test("isRefusal knows a refusal, and nothing that looks like it", () => {
  const refusal = new Refusal(400, "No");
  assert(isRefusal(refusal));
  for (const value of [{ ...refusal }, null, undefined, "No", 400]) {
    assertFalse(isRefusal(value));
  }
});

Deno.test("accepted returns a value, and throws a refusal as the error of its kind", () => {
  assertEquals(accepted("a" as string | Refusal, "Cannot do it"), "a");
  assertEquals(accepted(null, "Cannot do it"), null);
  assertThrows(
    () => accepted(new Refusal(400, "it is red"), "Cannot do it"),
    TypeError,
    "Cannot do it: it is red",
  );
  const tooMuch = overLimit("bodyBytes", DEFAULT_LIMITS, "Too large");
  assertThrows(
    () => accepted(tooMuch, "Cannot do it"),
    RangeError,
    "Cannot do it: Too large: the limit bodyBytes is 1048576",
  );
});

Deno.test("quote shows a value in short, and nothing of what is inside an object", () => {
  const long = "a".repeat(100);
  const cases: [value: unknown, shown: string][] = [
    ["a", '"a"'],
    ['a"\n', '"a\\"\\n"'],
    ["", '""'],
    [long, `"${long}"`],
    [`${long}b`, `"${long}…"`],
    // Half of a pair is escaped, so the message stays valid UTF-8.
    [`${"a".repeat(99)}😀`, `"${"a".repeat(99)}\\ud83d…"`],
    // Nothing acts on the terminal of a log, or turns its text around.
    ["\x1b[2J\x7f\x9b2J", '"\\u001b[2J\\u007f\\u009b2J"'],
    ["a\u202eb\u2066\u2028", '"a\\u202eb\\u2066\\u2028"'],
    [1, "1"],
    [NaN, "NaN"],
    [10n, "10"],
    [null, "null"],
    [undefined, "undefined"],
    [Symbol("s"), "Symbol(s)"],
    [{ secret: "tofu" }, "an object"],
    [["tofu"], "an object"],
    [() => "tofu", "a function"],
  ];
  for (const [value, shown] of cases) assertEquals(quote(value), shown);
});

Deno.test("exceedsBytes counts UTF-8, and is exact at the limit", () => {
  const cases: [text: string, bytes: number][] = [
    ["", 0],
    ["abc", 3],
    ["aü", 3],
    ["✓", 3],
    ["😀", 4],
    // Half of a pair is written as the replacement character.
    ["\ud83d", 3],
  ];
  for (const [text, bytes] of cases) {
    assertEquals(new TextEncoder().encode(text).length, bytes);
    for (const max of [bytes, bytes + 1, 3 * bytes, Infinity]) {
      assertFalse(exceedsBytes(text, max), `${text} ${max}`);
    }
    if (bytes > 0) assert(exceedsBytes(text, bytes - 1), text);
  }
});

Deno.test("a Refusal without a limit has none", () => {
  const refusal = new Refusal(404, "Nowhere");
  assertInstanceOf(refusal, Refusal);
  assertEquals(refusal.limit, undefined);
});
