import { assertEquals, assertThrows } from "@std/assert";
import {
  compileOrigins,
  corsHeaders,
  decodeUtf8,
  lowerCaseNames,
  type OriginRule,
  readBody,
  refuse,
  serveScript,
} from "./http.ts";
import { Refusal } from "./limits.ts";
import { ManualClock, turn } from "../tests/support/clock.ts";

/** A request to `http://example.com`, by way of a page of some origin. */
function requestFrom(origin: string | null, init: RequestInit = {}): Request {
  const request = new Request("http://example.com/", init);
  if (origin !== null) request.headers.set("origin", origin);
  return request;
}

// ---- Origins ----------------------------------------------------------------

Deno.test("an origin rule allows the origins that it describes, and no others", () => {
  const cases: [rule: OriginRule, allowed: string[], refused: string[]][] = [
    [
      "https://a.example",
      ["https://a.example", "HTTPS://A.EXAMPLE"],
      [
        "http://a.example",
        "https://a.example:8443",
        "https://b.a.example",
        "https://a.example.evil.test",
        "https://aXexample",
        "null",
      ],
    ],
    [
      "https://*.a.example",
      ["https://b.a.example", "https://c.b.a.example"],
      [
        "https://a.example",
        "https://evil.test/.a.example",
        "http://b.a.example",
      ],
    ],
    ["*.a.example", ["http://b.a.example", "https://b.a.example"], [
      "https://a.example",
    ]],
    ["a.example:8080", ["http://a.example:8080", "https://a.example:8080"], [
      "http://a.example",
    ]],
    // Browsers leave out the default port of the scheme, and only that.
    ["https://a.example:443", ["https://a.example"], ["http://a.example"]],
    ["http://a.example:443", ["http://a.example:443"], ["http://a.example"]],
    ["http://a.example:80", ["http://a.example"], ["http://a.example:80"]],
    ["a.example:443", ["https://a.example", "http://a.example:443"], [
      "http://a.example",
      "https://a.example:443",
    ]],
    ["a.example:80", ["http://a.example", "https://a.example:80"], [
      "https://a.example",
    ]],
    ["HTTPS://A.Example", ["https://a.example"], ["http://a.example"]],
    ["https://my_app.a.example", ["https://my_app.a.example"], []],
    ["*.a.example:8080", ["http://my_app.a.example:8080"], [
      "http://b.a.example",
      "http://a.example:8080",
      "http://-evil.test/b.a.example:8080",
    ]],
    ["http://[::1]:5173", ["http://[::1]:5173"], ["http://[::1]"]],
    [/^https:\/\/pr-\d+\.a\.example$/, ["https://pr-7.a.example"], [
      "https://pr-x.a.example",
    ]],
    // A pattern is for the whole origin, with anchors or without them.
    [/https:\/\/a\.example/, ["https://a.example"], [
      "https://a.example.evil.test",
      "https://a.example:8443",
      "http://evil.test/https://a.example",
    ]],
    [/a\.example/, [], ["https://a.example", "https://a.example.evil.test"]],
    [/https:\/\/a\.example|https:\/\/b\.example/, ["https://b.example"], [
      "https://a.example.evil.test",
      "https://evil.test?https://b.example",
    ]],
    [/^https:\/\/a\.example/m, ["https://a.example"], ["https://a.example.b"]],
    [/HTTPS:\/\/A\.EXAMPLE/i, ["https://a.example"], ["https://b.example"]],
    [/https:\/\/(a)\.\1\.example/u, ["https://a.a.example"], []],
    [(origin) => origin.endsWith(".test"), ["https://a.test"], [
      "https://a.example",
    ]],
  ];
  for (const [rule, allowed, refused] of cases) {
    const check = compileOrigins(rule);
    for (const origin of allowed) {
      assertEquals(check(requestFrom(origin)), "listed", `${rule} ${origin}`);
    }
    for (const origin of refused) {
      assertEquals(check(requestFrom(origin)), false, `${rule} ${origin}`);
    }
  }
});

Deno.test("a request without an origin, or from the server's own host, is allowed without a rule", () => {
  const check = compileOrigins();
  assertEquals(check(requestFrom(null)), "own");
  // The scheme may differ: a proxy may end TLS.
  assertEquals(check(requestFrom("https://EXAMPLE.com")), "own");
  const atPort = requestFrom("http://example.com:8080");
  atPort.headers.set("host", "example.com:80");
  assertEquals(check(atPort), false);
  assertEquals(check(requestFrom("null")), false);
  const behindProxy = requestFrom("https://a.example");
  behindProxy.headers.set("host", "a.example");
  assertEquals(check(behindProxy), "own");
});

Deno.test("a page is the server's own by host and port, as far as the request knows them", () => {
  const cases: [host: string, own: string[], foreign: string[]][] = [
    // A proxy has left the port out.
    ["a.example", [
      "http://a.example",
      "https://a.example",
      "http://a.example:8080",
      "https://a.example:8443",
    ], ["http://b.example", "http://b.a.example:8080", "null"]],
    ["A.example:8080", ["http://a.EXAMPLE:8080", "https://a.example:8080"], [
      "http://a.example",
      "http://a.example:8081",
    ]],
    ["a.example:443", ["https://a.example"], [
      "http://a.example",
      "https://a.example:8443",
    ]],
    ["a.example:80", ["http://a.example"], ["https://a.example"]],
    ["[::1]", ["http://[::1]:8080", "http://[::1]"], ["http://[::2]"]],
    ["[::1]:8080", ["http://[::1]:8080"], ["http://[::1]"]],
    // An app that is no page of a server, or no origin at all.
    ["localhost", ["http://localhost:3000"], [
      "capacitor://localhost",
      "file://localhost",
      "localhost",
      "://localhost",
      "http://localhost/",
      "http://localhost:",
      "http://x@localhost",
      "http://localhost:80:80",
      "",
    ]],
    ["", [], ["http://", "http://a.example", "null"]],
  ];
  const check = compileOrigins();
  for (const [host, own, foreign] of cases) {
    for (const origin of [...own, ...foreign]) {
      const request = requestFrom(origin);
      request.headers.set("host", host);
      // Any client can send these.
      request.headers.set("x-forwarded-host", "b.example");
      request.headers.set("x-forwarded-port", "8081");
      request.headers.set("forwarded", "host=b.example");
      const verdict = own.includes(origin) && "own";
      assertEquals(check(request), verdict, `${host} ${origin}`);
    }
  }
});

Deno.test("a listed page is listed on the server's own host, too, where its port or scheme may differ", () => {
  const check = compileOrigins(["http://example.com:5173", "example.com"]);
  for (const origin of ["http://example.com:5173", "http://example.com"]) {
    const request = requestFrom(origin);
    request.headers.set("host", "example.com");
    assertEquals(check(request), "listed");
  }
});

Deno.test("no function judges a page of the server's own host", () => {
  const check = compileOrigins(() => {
    throw new Error("asked");
  });
  assertEquals(check(requestFrom("http://example.com")), "own");
});

Deno.test("the rule * allows any origin, and a listed one keeps its cookies", () => {
  const check = compileOrigins([
    "https://a.example",
    (origin) => origin === "https://b.example",
    "*",
  ]);
  for (const origin of ["https://evil.test", "null"]) {
    assertEquals(check(requestFrom(origin)), "any");
  }
  for (const origin of ["https://a.example", "https://b.example"]) {
    assertEquals(check(requestFrom(origin)), "listed");
  }
  assertEquals(check(requestFrom("http://example.com")), "own");
});

Deno.test("a pattern with a memory matches the same origin every time", () => {
  for (const flags of ["g", "y", "gy"]) {
    const rule = new RegExp("https://a\\.example", flags);
    const check = compileOrigins(rule);
    const verdicts = [1, 2, 3].map(() =>
      check(requestFrom("https://a.example"))
    );
    assertEquals(verdicts, ["listed", "listed", "listed"]);
    assertEquals(rule.lastIndex, 0);
  }
});

Deno.test("a rule allows by returning true, and not by a promise", async () => {
  const answering = (value: unknown) =>
    compileOrigins((() => value) as () => boolean);
  const request = requestFrom("https://a.example");
  for (const value of [1, "yes", {}, undefined]) {
    assertEquals(answering(value)(request), false);
  }
  const promises = [Promise.resolve(true), Promise.reject(new Error("late"))];
  for (const promise of promises) {
    assertThrows(() => answering(promise)(request), TypeError, "a promise");
  }
  await Promise.allSettled(promises);
});

Deno.test("only a page of a listed origin may send cookies", () => {
  const request = requestFrom("https://a.example");
  const allowed = (verdict: "own" | "listed" | "any" | false) => {
    const headers = new Headers(corsHeaders(request, verdict));
    assertEquals(headers.get("vary"), "origin");
    const names = ["origin", "credentials"].map((name) =>
      `access-control-allow-${name}`
    );
    return names.map((name) => headers.get(name));
  };
  assertEquals(allowed("listed"), ["https://a.example", "true"]);
  assertEquals(allowed("any"), ["*", null]);
  assertEquals(allowed("own"), [null, null]);
  assertEquals(allowed(false), [null, null]);
});

Deno.test("a preflight is allowed the headers that it asks for", () => {
  const request = requestFrom("https://a.example", { method: "OPTIONS" });
  request.headers.set("access-control-request-headers", "x-csrf-token");
  const headers = new Headers(corsHeaders(request, "listed"));
  assertEquals(headers.get("access-control-allow-headers"), "x-csrf-token");
  assertEquals(headers.get("access-control-allow-methods"), "POST");
  assertEquals(
    corsHeaders(
      requestFrom("https://a.example"),
      "listed",
    )["access-control-allow-methods"],
    undefined,
  );
});

// ---- Bodies -----------------------------------------------------------------

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
  assertEquals(await read(requestFrom(null), 0, clock), "");
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
  for (const length of [undefined, 100]) {
    const clock = new ManualClock();
    const body = chunked(["a"], { length, isEndless: true });
    const reading = read(body.request, 100, clock);
    await body.emptied;
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
  for (const length of [undefined, 100]) {
    const clock = new ManualClock();
    const controller = new AbortController();
    const body = chunked(["ab"], { length, isEndless: true });
    const reading = read(body.request, 100, clock, controller.signal);
    await body.emptied;
    controller.abort();
    assertEquals(await reading, "(ended)");
    body.end();
    const late = chunked(["ab"], { length, isEndless: true });
    const text = await read(late.request, 100, clock, controller.signal);
    assertEquals(text, "(ended)");
    clock.pass(10_000);
    late.send("c");
    await turn();
    assertEquals(late.isCancelled(), true);
    assertEquals(clock.waiting, 0);
  }
});

Deno.test("decodeUtf8 refuses bytes that are not UTF-8", () => {
  assertEquals(decodeUtf8(new TextEncoder().encode("ü✓")), "ü✓");
  assertEquals(decodeUtf8(Uint8Array.of(0xff)), null);
  assertEquals(decodeUtf8(Uint8Array.of(0xc3)), null);
});

Deno.test("lowerCaseNames keeps values, their order and repeated names", () => {
  const params = new URLSearchParams("Auth_Key=A&b=B&auth_key=a");
  assertEquals([...lowerCaseNames(params)], [["auth_key", "A"], ["b", "B"], [
    "auth_key",
    "a",
  ]]);
});

// ---- Answers ----------------------------------------------------------------

Deno.test("refuse answers in JSON, with the status of the refusal", async () => {
  const response = refuse(new Refusal(413, "Too much"), { vary: "origin" });
  assertEquals(response.status, 413);
  assertEquals(response.headers.get("vary"), "origin");
  assertEquals(await response.json(), { error: "Too much" });
});

Deno.test("a script that a browser holds already is not sent again", async () => {
  const cases: [header: string | null, status: number][] = [
    [null, 200],
    ['"v1"', 304],
    ['W/"v1"', 304],
    ['"v0", W/"v1"', 304],
    ["*", 304],
    ['"v10"', 200],
    ["v1", 200],
    ["", 200],
  ];
  for (const [header, status] of cases) {
    const request = requestFrom(null);
    if (header !== null) request.headers.set("if-none-match", header);
    const response = serveScript(request, "f();", "v1");
    assertEquals(response.status, status, `${header}`);
    assertEquals(response.headers.get("etag"), '"v1"');
    assertEquals(await response.text(), status === 200 ? "f();" : "");
  }
});

Deno.test("a script answers HEAD with its length in bytes, and other methods with 405", async () => {
  const head = serveScript(requestFrom(null, { method: "HEAD" }), "ü", "v1");
  assertEquals(head.headers.get("content-length"), "2");
  assertEquals(await head.text(), "");
  const post = serveScript(requestFrom(null, { method: "POST" }), "ü", "v1");
  assertEquals(post.status, 405);
  assertEquals(post.headers.get("allow"), "GET, HEAD");
});
