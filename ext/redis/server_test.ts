import { assertEquals, assertThrows } from "@std/assert";
import { checkServer, parseInfo } from "./server.ts";

/** What Valkey says of itself: it is no Redis 7.2.4, but works like it. */
const VALKEY = [
  "# Server",
  "redis_version:7.2.4",
  "server_name:valkey",
  "valkey_version:9.1.1",
  "server_mode:standalone",
  "run_id:e0abe2248cad0c6d9cb2445d8e6b73448f567f74",
  "executable:/data/a:b",
  "# Memory",
  "maxmemory:0",
  "maxmemory_policy:noeviction",
  "# Replication",
  "role:master",
  "",
].join("\r\n");

Deno.test("parseInfo reads the fields of INFO", () => {
  const info = parseInfo(VALKEY);
  assertEquals(info.get("valkey_version"), "9.1.1");
  assertEquals(info.get("executable"), "/data/a:b");
  assertEquals(info.get("# Server"), undefined);
  assertEquals(parseInfo(null).size, 0);
});

Deno.test("checkServer accepts Redis 7 and later, and Valkey", () => {
  checkServer(parseInfo(VALKEY), "master", true);
  const node = VALKEY.replace("standalone", "cluster");
  checkServer(parseInfo(node), "node", true);
  for (const version of ["7.0.0", "7.4.1", "8.6.0", "10.0.0"]) {
    const redis = `redis_version:${version}\r\nredis_mode:standalone`;
    checkServer(parseInfo(redis), "master", true);
  }
});

Deno.test("checkServer refuses what will not do", () => {
  const rows: [from: string, to: string, message: string][] = [
    ["7.2.4", "6.2.14", "its version is 6.2.14"],
    ["redis_version:7.2.4", "", "not Redis"],
    ["standalone", "cluster", "redis+cluster://"],
    ["standalone", "sentinel", "redis+sentinel://"],
    ["role:master", "role:slave", "read-only replica"],
    ["# Memory", "loading:1", "still loading"],
    [
      "maxmemory:0\r\nmaxmemory_policy:noeviction",
      "maxmemory:9\r\nmaxmemory_policy:allkeys-lfu",
      "its maxmemory-policy is allkeys-lfu",
    ],
  ];
  for (const [from, to, message] of rows) {
    const info = parseInfo(VALKEY.replace(from, to));
    assertThrows(() => checkServer(info, "master", true), Error, message);
  }
  const info = parseInfo(VALKEY);
  assertThrows(
    () => checkServer(info, "node", true),
    Error,
    "no node of a cluster",
  );
});
