import { assertEquals } from "@std/assert";
import { readBody } from "./bodies.ts";
import { decodeUtf8 } from "./http.ts";
import { ManualClock, turn } from "../tests/support/clock.ts";

/** Longer than a body that is read as a whole. */
const LONG = 20_000;

interface BodyOptions {
  /** The length that the request declares, if any. */
  length?: number | undefined;
  isEndless?: boolean;
}

/** A request whose body comes in chunks, and what becomes of the body. */
function chunked(
  chunks: string[],
  { length, isEndless = false }: BodyOptions = {},
) {
  let isCancelled = false;
  const emptied = Promise.withResolvers<void>();
  // Set by the constructor of the stream.
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  const send = (chunk: string) =>
    controller.enqueue(new TextEncoder().encode(chunk));
  const body = new ReadableStream<Uint8Array>({
    start(made) {
      controller = made;
      for (const chunk of chunks) send(chunk);
      if (!isEndless) controller.close();
    },
    pull() {
      emptied.resolve();
    },
    cancel() {
      isCancelled = true;
    },
  });
  const headers = new Headers();
  if (length !== undefined) headers.set("content-length", `${length}`);
  const init = { method: "POST", headers, body };
  return {
    request: new Request("http://example.com/", init),
    /** Resolves when somebody has read all chunks, and wants another. */
    emptied: emptied.promise,
    isCancelled: () => isCancelled,
    send,
    end: () => controller.close(),
  };
}

/** The text of a body, or why there is none. */
async function read(
  request: Request,
  maxBytes: number,
  clock = new ManualClock(),
  ended = new AbortController().signal,
): Promise<string | null> {
  const rules = { clock, bodyTimeoutMs: 10_000, ended };
  const body = await readBody(request, maxBytes, rules);
  return typeof body === "string" ? `(${body})` : decodeUtf8(body);
}

Deno.test("readBody takes as many bytes as are allowed, and no more", async () => {
  const clock = new ManualClock();
  assertEquals(await read(chunked(["ab", "ü"]).request, 4, clock), "abü");
  assertEquals(
    await read(chunked(["abcd"], { length: 4 }).request, 4, clock),
    "abcd",
  );
  assertEquals(await read(chunked(["abcd"]).request, Infinity, clock), "abcd");
  assertEquals(await read(chunked([]).request, 0, clock), "");
  assertEquals(await read(new Request("http://example.com/"), 0, clock), "");
  const { request } = chunked(["ab", "cde"]);
  assertEquals(await read(request, 4, clock), "(too large)");
  await turn();
  assertEquals(clock.waiting, 0);
});

Deno.test("readBody reads nothing of a body that declares too much", async () => {
  const { request } = chunked(["abcde"], { length: 5 });
  assertEquals(await read(request, 4), "(too large)");
  assertEquals(request.bodyUsed, false);
});

Deno.test("readBody reports a body that breaks off, or that somebody has read", async () => {
  const clock = new ManualClock();
  const broken = new ReadableStream({
    start: (controller) =>
      controller.error(new Error("The connection is gone")),
  });
  const init = { method: "POST", body: broken };
  assertEquals(
    await read(new Request("http://example.com/", init), 4, clock),
    "(broken off)",
  );
  const { request } = chunked(["ab"]);
  await request.text();
  assertEquals(await read(request, 4, clock), "(broken off)");
  const locked = chunked(["ab"]);
  locked.request.body?.getReader();
  assertEquals(await read(locked.request, 4, clock), "(broken off)");
  assertEquals(clock.waiting, 0);
});

Deno.test("readBody waits for the whole body only until the deadline", async () => {
  for (const length of [undefined, LONG]) {
    const clock = new ManualClock();
    const body = chunked(["a"], { length, isEndless: true });
    const reading = read(body.request, LONG, clock);
    await body.emptied;
    await turn();
    // Bytes on the way win no time.
    for (let second = 0; second < 9; second++) {
      clock.pass(1_000);
      body.send("b");
      await turn();
    }
    clock.pass(999);
    body.send("c");
    await turn();
    clock.pass(1);
    assertEquals(await reading, "(too late)");
    assertEquals(clock.waiting, 0);
    assertEquals(body.isCancelled(), false);
    body.send("d");
    await turn();
    assertEquals(body.isCancelled(), true);
  }
});

Deno.test("readBody takes a small body of a declared length as a whole, or not at all", async () => {
  const clock = new ManualClock();
  const body = chunked(["a"], { length: 3, isEndless: true });
  const reading = read(body.request, 3, clock);
  await body.emptied;
  body.send("bc");
  await turn();
  assertEquals(clock.waiting, 1);
  body.end();
  assertEquals(await reading, "abc");
  assertEquals(clock.waiting, 0);
  const late = chunked(["a"], { length: 3, isEndless: true });
  const waiting = read(late.request, 3, clock);
  await late.emptied;
  await turn();
  clock.pass(10_000);
  assertEquals(await waiting, "(too late)");
  late.end();
  await turn();
  assertEquals(clock.waiting, 0);
  // Its declaration was not true, which no request over the network can be.
  const long = chunked(["abcd", "ef"], { length: 3 });
  assertEquals(await read(long.request, 5, clock), "(too large)");
});

Deno.test("readBody discards the rest of a body that is too large, until the deadline", async () => {
  const clock = new ManualClock();
  const body = chunked(["ab", "cde"], { isEndless: true });
  assertEquals(await read(body.request, 4, clock), "(too large)");
  for (let second = 0; second < 10; second++) {
    body.send("f");
    await turn();
    assertEquals(body.isCancelled(), false);
    clock.pass(1_000);
  }
  body.send("f");
  await turn();
  assertEquals(body.isCancelled(), true);
  assertEquals(clock.waiting, 0);
});

Deno.test("readBody ends when its signal is aborted, and lets go of the body", async () => {
  for (const length of [undefined, LONG]) {
    const clock = new ManualClock();
    const controller = new AbortController();
    const body = chunked(["ab"], { length, isEndless: true });
    const reading = read(body.request, LONG, clock, controller.signal);
    await body.emptied;
    controller.abort();
    assertEquals(await reading, "(ended)");
    body.end();
    const late = chunked(["ab"], { length, isEndless: true });
    const text = await read(late.request, LONG, clock, controller.signal);
    assertEquals(text, "(ended)");
    clock.pass(10_000);
    late.send("c");
    await turn();
    assertEquals(late.isCancelled(), true);
    assertEquals(clock.waiting, 0);
  }
});
