import { assert, assertEquals, assertThrows } from "@std/assert";
import { parseLocation, showAddress } from "./address.ts";

Deno.test("parseLocation reads one server, Sentinels and clusters", () => {
  const rows: [url: string, kind: string, hosts: string, isSecure: boolean][] =
    [
      ["redis://localhost", "server", "localhost:6379", false],
      ["redis://10.0.0.1:7000", "server", "10.0.0.1:7000", false],
      ["redis://10.0.0.1:7000/", "server", "10.0.0.1:7000", false],
      ["redis://10.0.0.1:7000/0", "server", "10.0.0.1:7000", false],
      ["rediss://redis.test", "server", "redis.test:6379", true],
      ["redis://[::1]:6380", "server", "[::1]:6380", false],
      [
        "redis+sentinel://a,b:1,c/main",
        "sentinel",
        "a:26379 b:1 c:26379",
        false,
      ],
      ["rediss+sentinel://a/ma%20in", "sentinel", "a:26379", true],
      ["redis+cluster://a:1,[fe80::1]:2", "cluster", "a:1 [fe80::1]:2", false],
      ["rediss+cluster://a", "cluster", "a:6379", true],
    ];
  for (const [url, kind, hosts, isSecure] of rows) {
    const location = parseLocation(url);
    assertEquals(location.kind, kind);
    assertEquals(location.addresses.map(showAddress).join(" "), hosts);
    assertEquals(location.isSecure, isSecure);
    assertEquals(location.credentials, {});
  }
  assertEquals(
    parseLocation("rediss+sentinel://a/ma%20in").masterName,
    "ma in",
  );
});

Deno.test("parseLocation reads users and passwords of any characters", () => {
  const rows: [
    login: string,
    username: string | undefined,
    password: string,
  ][] = [
    [":pass", undefined, "pass"],
    ["user:pass", "user", "pass"],
    ["us%3Aer:p%40s:s%2F%25", "us:er", "p@s:s/%"],
  ];
  for (const [login, username, password] of rows) {
    for (const start of ["redis://", "redis+cluster://"]) {
      const { credentials } = parseLocation(`${start}${login}@host:1`);
      assertEquals(credentials.username, username);
      assertEquals(credentials.password, password);
    }
  }
});

Deno.test("parseLocation refuses what it cannot use, and never shows the password", () => {
  const login = "user:s3cret@";
  const rows: [url: string, message: string][] = [
    ["", "must look like redis://"],
    ["localhost:6379", "must look like redis://"],
    [`http://${login}host`, "must look like redis://"],
    [`redis+other://${login}host`, "must look like redis://"],
    [`redis://${login}`, "must look like redis://"],
    [`redis://${login}host?db=1`, "must look like redis://"],
    [`redis://${login}host#1`, "must look like redis://"],
    ["redis://user:s3@cret@host", "must look like redis://"],
    [`redis://${login}host:0`, "port from 1 to 65535"],
    [`redis://${login}host:65536`, "port from 1 to 65535"],
    [`redis://${login}ho st`, "each host must be a name or an address"],
    [`redis+cluster://${login}a,,b`, "each host must be a name or an address"],
    [`redis://${login}a,b`, "begin with redis+cluster:// or redis+sentinel://"],
    [`redis://${login}host/1`, "separate systems by the option prefix"],
    [
      `redis+cluster://${login}host/main`,
      "separate systems by the option prefix",
    ],
    [`redis+sentinel://${login}host`, "end with the name by which"],
    [`redis+sentinel://${login}host/a/b`, "end with the name by which"],
    ["redis://s3cret@host", "a user and no password"],
    ["redis://user:@host", "a user and no password"],
    ["redis://user:s3cret%zz@host", "the password has a %"],
  ];
  for (const [url, message] of rows) {
    const error = assertThrows(() => parseLocation(url), TypeError, message);
    assert(error.message.startsWith("Cannot use the URL of Redis: "));
    assert(
      !/s3cret|user:/.test(error.message.replace("redis://user:password", "")),
    );
  }
});
