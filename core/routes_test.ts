import { assertEquals } from "@std/assert";
import { mergeSlashes, routePath, signedPaths } from "./routes.ts";

Deno.test("mergeSlashes merges slashes that were doubled where paths are joined", () => {
  const cases: [path: string, merged: string][] = [
    ["/app/key", "/app/key"],
    ["//app/key", "/app/key"],
    ["///rt//app////key", "/rt/app/key"],
    ["/r/0123456789abcdef//app/key", "/r/0123456789abcdef/app/key"],
    ["//rt//apps//3/events", "/rt/apps/3/events"],
    ["/pusher//auth", "/pusher/auth"],
    ["/", "/"],
    ["//", "/"],
  ];
  for (const [path, merged] of cases) assertEquals(mergeSlashes(path), merged);
});

Deno.test("mergeSlashes keeps a missing name of the HTTP API missing", () => {
  for (
    const rest of [
      "3/channels//users",
      "3/users//terminate_connections",
      "3//events",
    ]
  ) {
    assertEquals(mergeSlashes(`//apps//${rest}`), `/apps/${rest}`);
  }
});

Deno.test("mergeSlashes takes a time that grows with the path, and no faster", () => {
  const long = "/a//".repeat(250_000);
  assertEquals(mergeSlashes(long), `${"/a".repeat(250_000)}/`);
  const slashes = "/".repeat(1_000_000);
  assertEquals(mergeSlashes(`${slashes}apps${slashes}x`), "/apps/x");
});

Deno.test("routePath is the path behind the server's own", () => {
  assertEquals(routePath("/app/key", ""), "/app/key");
  assertEquals(routePath("/rt/app/key", "/rt"), "/app/key");
  assertEquals(routePath("//rt//app/key", "/rt"), "/app/key");
  assertEquals(routePath("/apps/rt//app//key", "/apps/rt"), "/app/key");
  assertEquals(routePath("/a/apps//pusher.js", "/a/apps"), "/pusher.js");
  assertEquals(
    routePath("/apps//rt//apps//3/channels//users", "/apps/rt"),
    "/apps/3/channels//users",
  );
  assertEquals(
    routePath("//apps//apps//3//events", "/apps"),
    "/apps/3//events",
  );
  assertEquals(routePath("/rt", "/rt"), null);
  assertEquals(routePath("/rtx/app/key", "/rt"), null);
  assertEquals(routePath("/app/key", "/rt"), null);
});

Deno.test("a request may be signed with the server's own path or without it", () => {
  assertEquals(
    signedPaths("/rt/apps/3/events", "/rt"),
    new Set(["/rt/apps/3/events", "/apps/3/events"]),
  );
  assertEquals(
    signedPaths("/rt//apps/3/events", "/rt"),
    new Set([
      "/rt//apps/3/events",
      "//apps/3/events",
      "/rt/apps/3/events",
      "/apps/3/events",
    ]),
  );
  assertEquals(
    signedPaths("/apps/3/events", ""),
    new Set(["/apps/3/events"]),
  );
});

Deno.test("a request may be signed before or after escaping, but not for another path as sent", () => {
  const users = "/apps/3/users/";
  const cases: [name: string, signed: string[]][] = [
    ["a%20b", ["a%20b", "a b"]],
    ["a%40b", ["a%40b", "a@b"]],
    ["100%25", ["100%25", "100%"]],
    // Unescaped once, it is the path that was sent for the user "a b".
    ["a%2520b", ["a%2520b"]],
    ["a%252520b", ["a%252520b"]],
    ["%ff", ["%ff"]],
    ["a%0Ab", ["a%0Ab"]],
  ];
  for (const [name, signed] of cases) {
    const paths = signedPaths(`${users}${name}`, "");
    assertEquals(paths, new Set(signed.map((one) => users + one)));
  }
});
