import { assertEquals } from "@std/assert";
import { type Extensions, readExtensions, splitSession } from "./extensions.ts";

const ID = "0123456789abcdef";

const NONE: Extensions = {
  batch: false,
  recover: false,
  formerIds: [],
  sessionId: null,
};

Deno.test("readExtensions reads what a client asks for, and nothing of what looks like it", () => {
  const twelve = Array.from({ length: 12 }, (_, i) => `${i}.1`);
  const cases: [target: string, extensions: Partial<Extensions>][] = [
    ["/app/k", {}],
    ["/app/k?batch=1", { batch: true }],
    ["/app/k?recover=1", { recover: true }],
    ["/app/k?batch=1&recover=1", { batch: true, recover: true }],
    ["/app/k?batch=true&recover=2", {}],
    ["/app/k?Batch=1&batch=", {}],
    ["/app/k?was=1.2,3.4", { formerIds: ["1.2", "3.4"] }],
    ["/app/k?was=", {}],
    ["/app/k?was=x,1.2,1.2.3,,5.6", { formerIds: ["1.2", "5.6"] }],
    [`/app/k?was=${twelve}`, { formerIds: twelve.slice(0, 10) }],
    [`/r/${ID}/app/k`, { sessionId: ID }],
    [`/r/${ID}/app/k?batch=1`, { batch: true, sessionId: ID }],
    // A client that names positions needs nobody to remember them.
    [`/r/${ID}/app/k?recover=1`, { recover: true }],
    [`/app/k/r/${ID}/`, {}],
  ];
  for (const [target, extensions] of cases) {
    const url = new URL(`http://example.com${target}`);
    const expected = { ...NONE, ...extensions };
    assertEquals(readExtensions(url, "", true), expected, target);
    const { batch, formerIds } = expected;
    const withoutHistory = { ...NONE, batch, formerIds };
    assertEquals(readExtensions(url, "", false), withoutHistory, target);
  }
});

Deno.test("readExtensions finds a session behind the server's path", () => {
  const read = (pathname: string, path: string) =>
    readExtensions(new URL(`http://example.com${pathname}`), path, true)
      .sessionId;
  assertEquals(read(`/a/b/r/${ID}/app/k`, "/a/b"), ID);
  assertEquals(read(`/a/b/r/${ID}/app/k`, ""), null);
  assertEquals(read("/a/b/app/k", "/a/b"), null);
  // Another path of the same length, as a transport of the program may have.
  assertEquals(read(`/x/y/r/${ID}/app/k`, "/a/b"), null);
});

Deno.test("splitSession takes 16 to 128 letters, digits, _ and - off the start of a path", () => {
  const split = (id: string, rest = "/app/k") =>
    splitSession(`/r/${id}${rest}`);
  for (
    const id of [ID, crypto.randomUUID(), "_-".repeat(64), "A".repeat(128)]
  ) {
    assertEquals(split(id), { sessionId: id, rest: "/app/k" });
    assertEquals(split(id, "/"), { sessionId: id, rest: "/" });
  }
  const wrong = [
    `/r/${"a".repeat(15)}/app/k`,
    `/r/${"a".repeat(129)}/app/k`,
    `/r/${"a".repeat(16)}.b/app/k`,
    `/r/${ID}%20/app/k`,
    `/r/${ID}`,
    `/R/${ID}/app/k`,
    `r/${ID}/app/k`,
    `/x/r/${ID}/app/k`,
    "/app/k",
    "",
  ];
  for (const path of wrong) {
    assertEquals(splitSession(path), { sessionId: null, rest: path });
  }
});
