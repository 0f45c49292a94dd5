import { Pusher } from "@glitz/pusher";
import { assertEquals, assertStringIncludes } from "@std/assert";
import type { PusherOptions } from "./options.ts";
import { warningsOf } from "./warnings.ts";

const authorize = () => true;
const authenticate = () => null;

type Origins = PusherOptions["origins"];

Deno.test("origins that accept pages of strangers are warned of beside authorize, with what to do", () => {
  const withCookies: Origins[] = [
    /.*/,
    /https?:\/\/.+/gi,
    /https:\/\/[^.]+\.com/,
    "https://*.com",
    "*.dev",
    "http://*.net",
    "https://*.vercel.app",
    ["https://app.example.com", /.*/],
    ["*", /.*/],
  ];
  for (const origins of withCookies) {
    const [warning = "", ...others] = warningsOf({ authorize, origins });
    assertStringIncludes(warning, "may call authorize with the cookies");
    assertStringIncludes(warning, "list the origins of your pages instead");
    assertEquals(others, [], `${origins}`);
  }
  for (const origins of ["*", ["https://app.example.com", "*"]]) {
    const [warning = "", ...others] = warningsOf({ authenticate, origins });
    assertStringIncludes(warning, "may call authenticate, without cookies");
    assertStringIncludes(warning, "list the origins of your pages instead");
    assertEquals(others, [], `${origins}`);
  }
  const [both = ""] = warningsOf({ authorize, authenticate, origins: "*" });
  assertStringIncludes(both, "may call authorize and authenticate");
});

Deno.test("origins of a program's own pages are not warned of, nor any without authorize", () => {
  const own: Origins[] = [
    undefined,
    [],
    "https://app.example.com",
    "https://*.example.com",
    "localhost:3000",
    "https://my-app.vercel.app",
    /https:\/\/my-app-[a-z0-9]+\.vercel\.app/,
    /https:\/\/pr-\d+\.example\.com/,
  ];
  for (const origins of own) {
    assertEquals(warningsOf({ authorize, origins }), [], `${origins}`);
  }
  for (const origins of ["*", /.*/]) {
    assertEquals(warningsOf({ origins }), []);
  }
});

Deno.test("a function in origins is not asked before there is a request", () => {
  let asked = 0;
  const origins = () => ++asked > 0;
  assertEquals(warningsOf({ authorize, origins }), []);
  assertEquals(warningsOf({ authorize, origins: [origins, "*"] }).length, 1);
  assertEquals(asked, 0);
});

Deno.test("a program that makes many servers reads a warning once, in a line", async () => {
  const { warn } = console;
  const lines: unknown[][] = [];
  console.warn = (...args) => void lines.push(args);
  try {
    // A rule that no other test of this process has.
    const origins = ["https://once.example.com", "https://*.org"];
    for (let i = 0; i < 3; i++) {
      await using _pusher = new Pusher({ authorize, origins });
    }
  } finally {
    console.warn = warn;
  }
  const [[line = ""] = [], ...others] = lines;
  assertEquals(others, []);
  assertStringIncludes(`${line}`, "Pusher: origins accepts pages of strangers");
  assertEquals(`${line}`.split("\n").length, 1);
});
