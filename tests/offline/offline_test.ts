/**
 * The stand-ins judge as `@std` does: each assertion passes what it should and
 * fails what it should. Where JSR answers, these tests run against `@std`
 * itself, which shows that both agree.
 */
import * as std from "@std/assert";
import { route } from "@std/http/unstable-route";
import { FakeTime } from "@std/testing/time";
import manifest from "../../deno.json" with { type: "json" };
import map from "./import_map.json" with { type: "json" };
import { deepStrictEqual, ok, throws } from "node:assert/strict";

/** Whether a call ends in an assertion error; any other error is passed on. */
async function failure(run: () => unknown): Promise<string | null> {
  try {
    await run();
    return null;
  } catch (error) {
    if (error instanceof std.AssertionError) return error.message;
    throw error;
  }
}

const cyclic = (): unknown[] => {
  const list: unknown[] = [];
  list.push(list);
  return list;
};
const bare = (fields: object) => Object.assign(Object.create(null), fields);
const broken = () => {
  throw new RangeError("out of range");
};
const refused = () => Promise.reject(new RangeError("out of range"));

const PASSING: [string, () => unknown][] = [
  ["assert", () => std.assert(1)],
  ["assertFalse", () => std.assertFalse(0)],
  ["assertEquals of nested values", () => {
    std.assertEquals({ a: [1, { b: "c" }] }, { a: [1, { b: "c" }] });
  }],
  ["assertEquals of keys in another order", () => {
    std.assertEquals({ a: 1, b: 2 }, { b: 2, a: 1 });
  }],
  ["assertEquals of NaN", () => std.assertEquals(NaN, NaN)],
  ["assertEquals of zeros", () => std.assertEquals(0, -0)],
  ["assertEquals without a prototype", () => {
    std.assertEquals(bare({ a: 1 }), { a: 1 });
  }],
  ["assertEquals of dates", () => {
    std.assertEquals(new Date(5), new Date(5));
  }],
  ["assertEquals of maps", () => {
    std.assertEquals(new Map([["a", [1]]]), new Map([["a", [1]]]));
  }],
  ["assertEquals of sets in another order", () => {
    std.assertEquals(new Set([1, 2]), new Set([2, 1]));
  }],
  ["assertEquals of bytes", () => {
    std.assertEquals(new Uint8Array([1, 2]), new Uint8Array([1, 2]));
  }],
  ["assertEquals of cycles", () => std.assertEquals(cyclic(), cyclic())],
  ["assertNotEquals", () => std.assertNotEquals({ a: 1 }, { a: 2 })],
  ["assertStrictEquals", () => std.assertStrictEquals("a", "a")],
  ["assertExists", () => std.assertExists(0)],
  ["assertInstanceOf", () => std.assertInstanceOf(new URL("a:b"), URL)],
  ["assertMatch", () => std.assertMatch("12.34", /^\d+\.\d+$/)],
  ["assertStringIncludes", () => std.assertStringIncludes("abc", "bc")],
  ["assertArrayIncludes", () => {
    std.assertArrayIncludes([{ a: 1 }, { a: 2 }], [{ a: 2 }]);
  }],
  ["assertObjectMatch", () => {
    std.assertObjectMatch(
      { a: { b: 1, c: 2 }, d: [{ e: 1, f: 2 }, 3] },
      { a: { b: 1 }, d: [{ e: 1 }] },
    );
  }],
  ["assertGreater", () => std.assertGreater(2, 1)],
  ["assertGreaterOrEqual", () => std.assertGreaterOrEqual(1, 1)],
  ["assertLess", () => std.assertLess(1, 2)],
  ["assertLessOrEqual", () => std.assertLessOrEqual(1, 1)],
  ["assertThrows", () => std.assertThrows(broken)],
  ["assertThrows of a class", () => std.assertThrows(broken, RangeError)],
  ["assertThrows of a superclass", () => std.assertThrows(broken, Error)],
  [
    "assertThrows of a message",
    () => std.assertThrows(broken, RangeError, "out"),
  ],
  ["assertRejects", () => std.assertRejects(refused)],
  ["assertRejects of a class", () => std.assertRejects(refused, RangeError)],
  ["assertRejects of a message", () => {
    return std.assertRejects(refused, RangeError, "out");
  }],
];

const FAILING: [string, () => unknown][] = [
  ["assert", () => std.assert("")],
  ["assertFalse", () => std.assertFalse("a")],
  ["assertEquals of other values", () => std.assertEquals([1, 2], [1, 3])],
  ["assertEquals of another length", () => std.assertEquals([1], [1, 2])],
  ["assertEquals of a number and a string", () => {
    std.assertEquals<unknown>(1, "1");
  }],
  ["assertEquals of null and undefined", () => {
    std.assertEquals<unknown>(null, undefined);
  }],
  ["assertEquals of a missing key", () => {
    std.assertEquals<unknown>({ a: undefined }, {});
  }],
  ["assertEquals of an array and an object", () => {
    std.assertEquals<unknown>([], {});
  }],
  ["assertEquals of another class", () => {
    std.assertEquals<unknown>(new (class A {})(), {});
  }],
  ["assertEquals of dates", () => {
    std.assertEquals(new Date(5), new Date(6));
  }],
  ["assertEquals of maps", () => {
    std.assertEquals(new Map([["a", 1]]), new Map([["a", 2]]));
  }],
  ["assertEquals of sets", () => {
    std.assertEquals(new Set([1]), new Set([2]));
  }],
  ["assertEquals of bytes", () => {
    std.assertEquals(new Uint8Array([1]), new Uint8Array([2]));
  }],
  ["assertEquals of errors", () => {
    std.assertEquals(new Error("a"), new Error("b"));
  }],
  ["assertNotEquals", () => std.assertNotEquals({ a: 1 }, { a: 1 })],
  ["assertStrictEquals", () => std.assertStrictEquals({}, {})],
  ["assertExists", () => std.assertExists(null)],
  ["assertInstanceOf", () => std.assertInstanceOf({}, URL)],
  ["assertMatch", () => std.assertMatch("12", /^\d+\.\d+$/)],
  ["assertStringIncludes", () => std.assertStringIncludes("abc", "d")],
  ["assertArrayIncludes", () => std.assertArrayIncludes([1, 2], [2, 3])],
  ["assertObjectMatch of a value", () => {
    std.assertObjectMatch({ a: { b: 1 } }, { a: { b: 2 } });
  }],
  ["assertObjectMatch of a missing key", () => {
    std.assertObjectMatch({ a: 1 }, { a: 1, b: undefined });
  }],
  ["assertObjectMatch of a short array", () => {
    std.assertObjectMatch({ a: [1] }, { a: [1, 2] });
  }],
  ["assertGreater", () => std.assertGreater(1, 1)],
  ["assertGreaterOrEqual", () => std.assertGreaterOrEqual(0, 1)],
  ["assertLess", () => std.assertLess(1, 1)],
  ["assertLessOrEqual", () => std.assertLessOrEqual(2, 1)],
  ["assertThrows of nothing", () => std.assertThrows(() => {})],
  ["assertThrows of another class", () => std.assertThrows(broken, TypeError)],
  ["assertThrows of another message", () => {
    std.assertThrows(broken, RangeError, "within");
  }],
  ["assertThrows of no error", () => {
    std.assertThrows(() => {
      // deno-lint-ignore no-throw-literal -- that is what is tested
      throw "text";
    }, Error);
  }],
  ["assertRejects of a resolved promise", () => {
    return std.assertRejects(() => Promise.resolve());
  }],
  ["assertRejects of a synchronous throw", () => {
    return std.assertRejects(broken as () => Promise<void>);
  }],
  [
    "assertRejects of another class",
    () => std.assertRejects(refused, TypeError),
  ],
  ["assertRejects of another message", () => {
    return std.assertRejects(refused, RangeError, "within");
  }],
  ["fail", () => std.fail()],
];

for (const [name, run] of PASSING) {
  Deno.test(`${name} passes`, async () => {
    deepStrictEqual(await failure(run), null);
  });
}

for (const [name, run] of FAILING) {
  Deno.test(`${name} fails`, async () => {
    ok(await failure(run) !== null);
  });
}

Deno.test("a failed assertEquals shows both values and the note", async () => {
  const message = await failure(() => {
    std.assertEquals({ kept: 1, is: "one" }, { kept: 1, is: "two" }, "a note");
  });
  for (const text of ["Values are not equal: a note", "one", "two"]) {
    ok(message?.includes(text), `${text} is missing from ${message}`);
  }
});

Deno.test("assertThrows and assertRejects hand the error over", async () => {
  std.assertInstanceOf(std.assertThrows(broken), RangeError);
  std.assertInstanceOf(await std.assertRejects(refused), RangeError);
});

Deno.test("FakeTime runs timers in the order in which they fall due", () => {
  const log: string[] = [];
  using time = new FakeTime(1000);
  setTimeout(() => log.push(`timeout ${Date.now()}`), 250);
  const interval = setInterval(() => log.push(`interval ${Date.now()}`), 100);
  const cleared = setTimeout(() => log.push("never"), 150);
  clearTimeout(cleared);
  time.tick(300);
  clearInterval(interval);
  time.tick(1000);
  deepStrictEqual(log, [
    "interval 1100",
    "interval 1200",
    "timeout 1250",
    "interval 1300",
  ]);
  deepStrictEqual([time.start, time.now, Date.now()], [1000, 2300, 2300]);
  deepStrictEqual(new Date().getTime(), 2300);
  ok(new Date(5) instanceof Date);
});

Deno.test("FakeTime moves to the next timer, and gives the globals back", async () => {
  const { setTimeout, Date } = globalThis;
  {
    using time = new FakeTime(0);
    let ran = false;
    Promise.resolve().then(() => globalThis.setTimeout(() => ran = true, 70));
    deepStrictEqual([await time.nextAsync(), ran, time.now], [true, true, 70]);
    deepStrictEqual(time.next(), false);
    await time.tickAsync(30);
    deepStrictEqual(time.now, 100);
    throws(() => new FakeTime(), /already faked/);
    throws(() => time.now = 99, RangeError);
  }
  ok(globalThis.setTimeout === setTimeout && globalThis.Date === Date);
});

Deno.test("route passes a request to the first route that fits", async () => {
  const handler = route([
    {
      pattern: new URLPattern({ pathname: "/users/:id" }),
      method: ["get", "HEAD"],
      handler: (_request, params) => new Response(params.pathname.groups.id),
    },
    {
      pattern: new URLPattern({ pathname: "/users/*" }),
      handler: (request) => new Response(request.method),
    },
  ], () => new Response("default", { status: 404 }));
  const text = async (path: string, method = "GET") => {
    const url = new URL(path, "http://localhost");
    return await (await handler(new Request(url, { method }))).text();
  };
  deepStrictEqual(await text("/users/7?x=1"), "7");
  deepStrictEqual(await text("/users/7", "POST"), "POST");
  deepStrictEqual(await text("/other"), "default");
});

Deno.test("the offline import map covers what deno.json maps", () => {
  const offline: Record<string, string> = map.imports;
  for (const [name, target] of Object.entries(manifest.imports)) {
    if (target.startsWith("npm:")) {
      deepStrictEqual(offline[name], target);
    } else {
      ok(
        Object.keys(offline).some((key) => `${key}/`.startsWith(`${name}/`)),
        `${name} has no stand-in`,
      );
    }
  }
  for (const [path, file] of Object.entries(manifest.exports)) {
    deepStrictEqual(
      offline[manifest.name + path.slice(1)],
      file.replace(/^\./, "../.."),
    );
  }
});
