import { assertEquals, assertThrows } from "@std/assert";
import {
  compileOrigins,
  corsHeaders,
  decodeUtf8,
  escapePattern,
  type OriginRule,
  parseUrl,
  refuse,
} from "./http.ts";
import { Refusal } from "./limits.ts";

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

// ---- Requests ---------------------------------------------------------------

Deno.test("decodeUtf8 refuses bytes that are not UTF-8", () => {
  assertEquals(decodeUtf8(new TextEncoder().encode("ü✓")), "ü✓");
  assertEquals(decodeUtf8(Uint8Array.of(0xff)), null);
  assertEquals(decodeUtf8(Uint8Array.of(0xc3)), null);
});

// ---- Answers ----------------------------------------------------------------

Deno.test("refuse answers in JSON, with the status of the refusal", async () => {
  const response = refuse(new Refusal(413, "Too much"), { vary: "origin" });
  assertEquals(response.status, 413);
  assertEquals(response.headers.get("vary"), "origin");
  assertEquals(await response.json(), { error: "Too much" });
});

// ---- Node before version 24 -------------------------------------------------

Deno.test("parseUrl returns what URL.parse returns", () => {
  for (
    const text of [
      "http://example.com/a?b#c",
      "ws://[::1]:80/",
      "http://",
      "/a",
      "",
      "http://a b/",
    ]
  ) {
    assertEquals(parseUrl(text)?.href, URL.parse(text)?.href, text);
  }
});

Deno.test("escapePattern makes a pattern that finds the text, and no other", () => {
  for (const text of ["/a.b/c-d_e~", "[::1]:80", "^$\\|?*+(){}", "ü"]) {
    const pattern = new RegExp(`^${escapePattern(text)}$`);
    assertEquals([pattern.test(text), pattern.test(`${text}x`)], [true, false]);
    assertEquals(pattern.test(text.replaceAll(/\W/g, "x")), false, text);
  }
});
