/**
 * The browsers that docs/client.md promises: what the server serves needs no newer
 * browser. MDN's data says which browser has what.
 */
import { Pusher } from "@glitz/pusher";
import { assert, assertArrayIncludes, assertEquals } from "@std/assert";
import {
  definedMembers,
  missingFeatures,
  type Versions,
} from "../support/browser_needs.ts";

const SCRIPTS = [
  "/pusher.js",
  "/pusher.mjs",
  "/pusher.js?full",
  "/pusher.mjs?full",
  "/pusher-fallback.mjs",
];

/** Names of built-in members that messages of the protocol also have. */
const FIELDS = ["nonce"];

/** Names without which the client does less, as a test of each says. */
const OPTIONAL = ["BroadcastChannel"];

/** The versions in docs/client.md, by the names of the browsers in MDN's data. */
async function promisedVersions(): Promise<Versions> {
  const document = await Deno.readTextFile(
    new URL("../../docs/client.md", import.meta.url),
  );
  const [, chrome, firefox, safari] =
    /Chrome\s+and\s+Edge\s+(\d+),\s+Firefox\s+(\d+)\s+and\s+Safari\s+(\d+)/
      .exec(document) ?? [];
  assert(chrome && firefox && safari, "docs/client.md names versions");
  return {
    chrome: Number(chrome),
    chrome_android: Number(chrome),
    edge: Number(chrome),
    firefox: Number(firefox),
    firefox_android: Number(firefox),
    safari: Number(safari),
    safari_ios: Number(safari),
  };
}

/** What the server serves, by path. */
async function servedScripts(): Promise<Map<string, string>> {
  await using pusher = new Pusher();
  const scripts = new Map<string, string>();
  for (const path of SCRIPTS) {
    const request = new Request(`http://a.example${path}`);
    const response = await pusher.handler(request);
    assertEquals(response.status, 200, path);
    scripts.set(path, await response.text());
  }
  return scripts;
}

Deno.test("served scripts need no newer browsers than docs/client.md promises", async () => {
  const versions = await promisedVersions();
  const scripts = await servedScripts();
  // The scripts call each other.
  const known = [...scripts.values()].flatMap((script) => [
    ...definedMembers(script),
  ]);
  for (const [path, script] of scripts) {
    const accepted = [...known, ...FIELDS, ...OPTIONAL];
    const missing = missingFeatures(script, versions, accepted);
    assertEquals(missing, [], path);
  }
});

Deno.test("docs/client.md promises the oldest browsers in which served scripts run", async () => {
  const versions = await promisedVersions();
  const scripts = [...(await servedScripts()).values()];
  for (const browser of ["chrome", "firefox", "safari"]) {
    const older = { ...versions, [browser]: versions[browser]! - 1 };
    const missing = scripts.flatMap((script) => missingFeatures(script, older));
    const found = missing.filter((name) => name.includes("/"));
    assert(found.length > 0, `the scripts run in an older ${browser}`);
  }
});

Deno.test("syntax and built-in names newer than the promised browsers are found", async () => {
  const versions = await promisedVersions();
  const table: [script: string, missing: string][] = [
    ["class A { static {} }", "classes/static/initialization_blocks"],
    ["class A { #b; c(d) { #b in d } }", "classes/private_class_fields_in"],
    ["class A { b = c[(0)] }", "classes/public_class_fields"],
    ["import 'a'; await b;", "operators/await/top_level"],
    ["/(?<=a)b/", "regular_expressions/lookbehind_assertion"],
    ["/a/d", "builtins/RegExp/hasIndices"],
    ["a.at(-1)", "at"],
    ["Object.hasOwn(a, 'b')", "hasOwn"],
    ["AbortSignal.timeout(1)", "timeout"],
    ["crypto.randomUUID()", "randomUUID"],
    ["structuredClone(a)", "structuredClone"],
    ["globalThis.structuredClone(a)", "structuredClone"],
    ["globalThis['structuredClone'](a)", "structuredClone"],
  ];
  for (const [script, missing] of table) {
    assertArrayIncludes(missingFeatures(script, versions), [missing], script);
  }
  const old = "class A { static #b = () => (1); c(d) { d?.e ?? d; d ??= 1 } }";
  assertEquals(
    missingFeatures(old.replace("(1)", "1"), versions),
    [],
  );
  // A name that the script itself declares or defines is not the built-in name.
  const own = "const structuredClone = { at() {} }; structuredClone.at(1)";
  assertEquals(missingFeatures(own, versions), []);
});
