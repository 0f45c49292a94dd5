import { assert, assertEquals } from "@std/assert";
import {
  defaultSockets,
  parseOpenFiles,
  socketsWithin,
  socketsWithRefused,
} from "./open_files.ts";

Deno.test("socketsWithin leaves a tenth of the descriptors free, and at least 64", () => {
  for (
    const [openFiles, sockets] of [
      [1, 1],
      [64, 1],
      [65, 1],
      [66, 2],
      [200, 136],
      [256, 192],
      [640, 576],
      [1_024, 921],
      [65_536, 58_982],
      [111_111, 99_999],
      [111_112, 100_000],
      [1_048_576, 100_000],
      [Infinity, 100_000],
    ] as const
  ) {
    assertEquals(socketsWithin(openFiles), sockets, `${openFiles}`);
  }
});

Deno.test("socketsWithRefused fits into the descriptors", () => {
  // The runtime needs about 30 for itself.
  for (let openFiles = 110; openFiles < 200_000; openFiles += 97) {
    const most = socketsWithRefused(socketsWithin(openFiles));
    assert(most + 30 <= openFiles, `${most} of ${openFiles}`);
  }
  assertEquals(socketsWithRefused(0), 0);
  assertEquals(socketsWithRefused(1), 2);
  assertEquals(socketsWithRefused(Infinity), Infinity);
});

Deno.test("parseOpenFiles reads the limit that holds, of a process of Linux", () => {
  const limits = (soft: string) =>
    [
      "Limit                     Soft Limit           Hard Limit           Units     ",
      "Max cpu time              unlimited            unlimited            seconds   ",
      `Max open files            ${
        soft.padEnd(20)
      } 1048576              files     `,
      "Max locked memory         8388608              8388608              bytes     ",
    ].join("\n");
  assertEquals(parseOpenFiles(limits("1024")), 1_024);
  assertEquals(parseOpenFiles(limits("unlimited")), Infinity);
  assertEquals(parseOpenFiles(""), Infinity);
  assertEquals(parseOpenFiles("\0\xff"), Infinity);
});

Deno.test({
  name: "defaultSockets is the former default without the permission to read",
  permissions: { read: false },
  fn: () => assertEquals(defaultSockets(), 100_000),
});

Deno.test({
  name: "defaultSockets is the former default where reading alone is permitted",
  permissions: { read: true },
  fn: () => assertEquals(defaultSockets(), 100_000),
});
