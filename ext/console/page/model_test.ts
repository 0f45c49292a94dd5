/**
 * What the page of the console knows and how it says it. The page itself is tested in
 * Chromium.
 */
import { assertEquals } from "@std/assert";
import type { FeedEvent } from "../feed.ts";
import { readEvents } from "./api.ts";
import {
  age,
  bytes,
  EventLog,
  grouped,
  linePath,
  MAX_SHOWN,
  niceMax,
  plural,
  pretty,
  SHOWN_MS,
  visible,
  withSample,
} from "./model.ts";

const sample = (at: number, connections = 0) => (
  { at, connections, received: 0, sent: 0 }
);

const event = (n: number): FeedEvent => (
  { node: "a", n, at: n, kind: "published", what: "published" }
);

Deno.test("visible shows what is invisible, and leaves all other characters", () => {
  for (
    const [text, expected] of [
      ["gnp.\u202eexe", "gnp.\\u{202e}exe"],
      ["a\u200bb\ufeff", "a\\u{200b}b\\u{feff}"],
      ["\u2066x\u2069", "\\u{2066}x\\u{2069}"],
      ["\0\x1b[31m", "\\u{0}\\u{1b}[31m"],
      ["tag\u{e0041}", "tag\\u{e0041}"],
      ["lone \ud800", "lone \\u{d800}"],
      ["a\tb\nc", "a\tb\nc"],
      ["<script>", "<script>"],
      ["zoë 日本 עברית 😀", "zoë 日本 עברית 😀"],
    ] as const
  ) {
    assertEquals(visible(text), expected);
  }
});

Deno.test("pretty indents whole JSON, and leaves what was cut", () => {
  assertEquals(pretty('{"a":[1]}', true), '{\n  "a": [\n    1\n  ]\n}');
  assertEquals(pretty('{"a":[1', false), '{"a":[1');
  assertEquals(pretty("no JSON", true), "no JSON");
});

Deno.test("figures are short, and say their unit", () => {
  assertEquals([0, 999, 1_024, 150_000, 5e9].map(bytes), [
    ...["0 B", "999 B", "1 KiB", "146 KiB", "4.7 GiB"],
  ]);
  assertEquals([0, 59_999, 60_000, 3_725_000, 90_061_000].map(age), [
    ...["0 s", "59 s", "1 min", "1 h 2 min", "1 d 1 h"],
  ]);
  assertEquals(grouped(1_234_567), "1\u202f234\u202f567");
  assertEquals(plural(1, "event"), "1 event");
  assertEquals(plural(2, "event"), "2 events");
  assertEquals([0, 3, 7, 11, 49, 51, 1_000, 1_001].map(niceMax), [
    ...[4, 4, 10, 20, 50, 100, 1_000, 2_000],
  ]);
});

Deno.test("EventLog has the latest first, and a bounded number", () => {
  const log = new EventLog();
  log.add([event(1), event(2)], 0);
  log.add([event(3)], 5);
  assertEquals(log.shown.map(({ n }) => n), [3, 2, 1]);
  assertEquals(log.skipped, 5);
  for (let n = 0; n < MAX_SHOWN; n++) log.add([event(n)], 0);
  assertEquals(log.shown.length, MAX_SHOWN);
});

Deno.test("EventLog holds events back while it is paused, the last of them", () => {
  const log = new EventLog();
  log.add([event(1)], 0);
  log.pause(true);
  for (let n = 2; n < MAX_SHOWN + 10; n++) log.add([event(n)], 0);
  assertEquals([log.shown.length, log.waiting], [1, MAX_SHOWN]);
  log.pause(false);
  assertEquals([log.shown.length, log.waiting], [MAX_SHOWN, 0]);
  assertEquals(log.shown[0]?.n, MAX_SHOWN + 9);
  log.clear();
  assertEquals([log.shown.length, log.skipped], [0, 0]);
});

Deno.test("linePath begins a new line after a gap, and leaves out what is too old", () => {
  const now = SHOWN_MS * 2;
  const samples = [
    sample(now - SHOWN_MS - 1, 9),
    ...[sample(now - 60_000, 5), sample(now - 59_000, 10)],
    ...[sample(now - 1_000, 0), sample(now, 5)],
  ];
  const path = linePath(samples, (one) => one.connections, 10, now);
  assertEquals(path, "M240.0 50.0L241.0 0.0M299.0 100.0L300.0 50.0");
});

Deno.test("withSample keeps five minutes, each sample once", () => {
  const old = [sample(0), sample(1_000), sample(SHOWN_MS)];
  const next = withSample(old, sample(SHOWN_MS + 500));
  assertEquals(next.map(({ at }) => at), [1_000, SHOWN_MS, SHOWN_MS + 500]);
  assertEquals(withSample(next, sample(SHOWN_MS)).length, 2);
});

Deno.test("readEvents reads a stream however it is cut into pieces", async () => {
  const text = 'event: hello\ndata: {"samples":[]}\n\n' +
    'event: events\ndata: {"events":[{"event":"ë 😀 \\n\\n"}],"skipped":1}\n\n' +
    ": a comment\n\n" +
    "event: cut off";
  const all = new TextEncoder().encode(text);
  for (const size of [1, 7, 1_000]) {
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
      start(controller) {
        for (let at = 0; at < all.length; at += size) {
          controller.enqueue(all.slice(at, at + size));
        }
        controller.close();
      },
    });
    const heard: unknown[] = [];
    await readEvents(body, (name, update) => void heard.push([name, update]));
    assertEquals(heard, [
      ["hello", { samples: [] }],
      ["events", { events: [{ event: "ë 😀 \n\n" }], skipped: 1 }],
    ]);
  }
});
