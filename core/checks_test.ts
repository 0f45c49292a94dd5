import { assertEquals, assertFalse, assertThrows } from "@std/assert";
import {
  type Check,
  checkBoolean,
  checkDelay,
  checkDuration,
  checkFunction,
  checkIdentifier,
  checkLimit,
  checkNothing,
  checkPath,
  checkSecret,
  checkSize,
  checkString,
  checkText,
  having,
  listOf,
  matching,
  objectOf,
} from "./checks.ts";
import { MAX_TIMER_MS } from "./time.ts";

const SUBJECT = "Cannot build a house";

/** What a check says of a value in the options object itself; "" if nothing. */
function verdict(check: Check, value: unknown, name = ""): string {
  try {
    check(value, { subject: SUBJECT, name });
    return "";
  } catch (error) {
    const { name: kind, message } = error as Error;
    return `${kind}: ${message}`;
  }
}

interface Window {
  widthMm: number;
  key?: string;
}

interface House {
  windows: Window[];
  roof?: boolean;
}

const checkHouse = objectOf<House>({
  windows: listOf(
    objectOf<Window>({ widthMm: checkSize, key: checkSecret }, ["widthMm"]),
    "window",
  ),
  roof: checkBoolean,
}, ["windows"]);

Deno.test("a failure says what cannot be done, and names the option by its path, its value and the rule", () => {
  const windows = [{ widthMm: 900 }];
  const cases: [options: unknown, expected: string][] = [
    [{ windows }, ""],
    [{ windows, roof: undefined }, ""],
    [{ windows, roof: 1 }, "TypeError: roof is 1, and must be a boolean"],
    [
      { windows: [...windows, { widthMm: 0 }] },
      "RangeError: windows[1].widthMm is 0, and must be a number above 0, or Infinity",
    ],
    [
      { windows: [{}] },
      "TypeError: windows[0].widthMm is undefined, and must be a number above 0, or Infinity",
    ],
    [
      { windows, rooof: true },
      'TypeError: unknown option "rooof", known are windows, roof',
    ],
    [
      { windows: [{ widthMm: 1, height: 1 }] },
      'TypeError: unknown option "windows[0].height", known are widthMm, key',
    ],
    [
      {},
      "TypeError: windows is undefined, and must be an array with at least one window",
    ],
    [
      { windows: [] },
      "TypeError: windows is an empty array, and must be an array with at least one window",
    ],
    [
      // deno-lint-ignore no-sparse-arrays -- A hole is an item, too.
      { windows: [, { widthMm: 1 }] },
      "TypeError: windows[0] is undefined, and must be an object",
    ],
    [null, "TypeError: options is null, and must be an object"],
    [[], "TypeError: options is an empty array, and must be an object"],
    [5, "TypeError: options is 5, and must be an object"],
  ];
  for (const [options, expected] of cases) {
    const full = expected.replace(": ", `: ${SUBJECT}: `);
    assertEquals(verdict(checkHouse, options), full);
  }
});

Deno.test("a name from outside is not mistaken for an option that every object has", () => {
  for (const name of ["constructor", "toString", "__proto__"]) {
    const options = JSON.parse(`{ "windows": [], "${name}": 1 }`);
    assertThrows(
      () => checkHouse(options, { subject: SUBJECT, name: "" }),
      TypeError,
      `unknown option "${name}"`,
    );
  }
});

Deno.test("options that an object inherits are checked, too", () => {
  class Plan {
    get windows() {
      return "none";
    }
  }
  assertThrows(
    () => checkHouse(new Plan(), { subject: SUBJECT, name: "" }),
    TypeError,
    'windows is "none"',
  );
});

Deno.test("a failure tells the kind of a secret, and nothing of the secret", () => {
  const secret = "tofu";
  const cases: [check: Check, value: unknown, found: string][] = [
    [checkSecret, "", "a string of 0 characters"],
    [checkSecret, null, "null"],
    [checkSecret, undefined, "of type undefined"],
    [checkSecret, [secret], "of type object"],
    [checkSecret, 1234, "of type number"],
    // A secret that stands where an object with it should.
    [checkHouse, secret, "a string of 4 characters"],
    [having(["lock"], "be a lock"), secret, "a string of 4 characters"],
    // Other values that may hold it.
    [checkBoolean, { secret }, "an object"],
    [checkBoolean, [secret], "an array"],
    [checkBoolean, () => secret, "a function"],
  ];
  for (const [check, value, found] of cases) {
    const told = verdict(check, value, "secret");
    assertEquals(
      told.split(", and must")[0],
      `TypeError: ${SUBJECT}: secret is ${found}`,
    );
    assertFalse(told.includes("tofu") || told.includes("1234"), told);
  }
});

Deno.test("a string with a lone surrogate is refused, and not repeated", () => {
  const field = { subject: "Cannot test", name: "key" };
  for (const check of [checkIdentifier, checkSecret, checkString, checkText]) {
    for (const value of ["tofu\ud800", "\udc00tofu"]) {
      const { message } = assertThrows(() => check(value, field), TypeError);
      assertEquals(
        message,
        "Cannot test: key is a string of 5 characters, and must be " +
          "well-formed Unicode, with no lone surrogate",
      );
    }
    check("tofu😀", field);
  }
});

Deno.test("each check takes the values of its rule, up to their bounds, and no others", () => {
  const text = matching(/^a+$/, "be some a");
  const method = having(["publish"], "publish");
  const cases: [check: Check, right: unknown[], wrong: unknown[]][] = [
    [text, ["a", "aaa"], ["", "ab", 1, null, ["a"]]],
    [method, [{ publish() {} }], [{}, null, "publish", ["publish"]]],
    [listOf(checkString), [[], ["a"]], [{ length: 0 }, "", [null]]],
    [checkString, ["", "a\nb"], [1, null, undefined, new String("a")]],
    [checkText, ["a", "\n"], ["", 1, null]],
    [
      checkIdentifier,
      ["a", "ü-1.2", "...", ".a"],
      ["", "a/b", "a:b", "a b", "a\n", "%41", "a\\b", ".", ".."],
    ],
    [checkPath, ["", "/a", "/a.b/~c"], [
      "/",
      "a",
      "/a/",
      "//a",
      "/a?b",
      "/ü",
      "/a\n",
    ]],
    [checkSecret, ["a"], ["", 1, null]],
    [checkLimit, [0, 1, Infinity], [
      -1,
      1.5,
      NaN,
      -Infinity,
      2 ** 53,
      "1",
      null,
    ]],
    [checkSize, [0.5, 1, Infinity], [0, -1, NaN, "1", null]],
    [checkDuration, [0.5, MAX_TIMER_MS], [
      0,
      -1,
      NaN,
      MAX_TIMER_MS + 1,
      Infinity,
      "1",
    ]],
    [checkDelay, [0, MAX_TIMER_MS], [-1, NaN, MAX_TIMER_MS + 1, Infinity, "1"]],
    [checkBoolean, [true, false], [0, "true", null]],
    [checkFunction, [() => {}, Map], [{}, "a", null]],
    [checkNothing, [null, "a", {}], []],
  ];
  const numeric = new Set([checkLimit, checkSize, checkDuration, checkDelay]);
  for (const [check, right, wrong] of cases) {
    for (const value of right) assertEquals(verdict(check, value), "");
    for (const value of wrong) {
      const kind = numeric.has(check) && typeof value === "number"
        ? "RangeError"
        : "TypeError";
      assertEquals(
        verdict(check, value).split(":")[0],
        kind,
        `${check} ${value}`,
      );
    }
  }
});
