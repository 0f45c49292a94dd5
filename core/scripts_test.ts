import { assert, assertEquals } from "@std/assert";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import {
  chooseCoding,
  type Coding,
  type Script,
  ScriptStart,
  serveScript,
} from "./scripts.ts";

const SCRIPT: Script = { start: new ScriptStart("f"), end: "();", tag: "v1" };

/** A request for a script. */
function get(init: RequestInit = {}): Request {
  return new Request("http://example.com/", init);
}

function accept(codings: string, init: RequestInit = {}): Request {
  return get({ ...init, headers: { "accept-encoding": codings } });
}

function decode(bytes: Uint8Array, coding: Coding): string {
  const plain = coding === "br"
    ? brotliDecompressSync(bytes)
    : coding === "gzip"
    ? gunzipSync(bytes)
    : bytes;
  return new TextDecoder().decode(plain);
}

// ---- Codings ----------------------------------------------------------------

Deno.test("the coding that a client likes best is chosen, of equals the smallest", () => {
  const cases: [header: string | null, coding: Coding | null][] = [
    [null, "identity"],
    ["", "identity"],
    ["gzip", "gzip"],
    ["br", "br"],
    ["gzip, deflate, br, zstd", "br"],
    ["gzip,br", "br"],
    ["GZip", "gzip"],
    ["x-gzip", "gzip"],
    ["deflate, zstd", "identity"],
    ["xbr, brx, gzip2", "identity"],
    // Weights.
    ["br;q=0.5, gzip;q=0.8", "gzip"],
    ["br ; q=0.5 , gzip\t;\tQ=0.8", "gzip"],
    ["br;q=0.001", "br"],
    ["br;q=1.000, gzip;q=1", "br"],
    ["gzip;q=0", "identity"],
    ["gzip;q=0.0, br;q=0.000", "identity"],
    ["identity, gzip;q=0.5", "identity"],
    ["identity;q=0.5, gzip;q=0.5", "gzip"],
    // All others.
    ["*", "br"],
    ["*;q=0.1, gzip", "gzip"],
    ["br;q=0, *", "gzip"],
    ["br;q=0, gzip;q=0, *", "identity"],
    ["gzip, *;q=0", "gzip"],
    ["identity, *;q=0", "identity"],
    ["identity;q=0, *;q=0.1", "br"],
    // None.
    ["*;q=0", null],
    ["identity;q=0", null],
    ["identity;q=0, gzip;q=0", null],
    ["br;q=0, *;q=0", null],
    // Malformed items.
    ["gzip;q=2", "identity"],
    ["gzip;q=-1, br;q=0.1234", "identity"],
    ["gzip;q=nonsense, identity;q=", "identity"],
    [",;,=,q=1, gzip", "gzip"],
    ["br;level=1", "identity"],
  ];
  for (const [header, coding] of cases) {
    assertEquals(chooseCoding(header), coding, `${header}`);
  }
});

Deno.test("a script is the same in each coding, whatever its end", () => {
  const start = new ScriptStart("const ü = '\u2028';".repeat(100));
  const plain = new TextDecoder().decode(start.encode("identity", ""));
  const ends = ["", "f", "ü\u{1f600}"].concat(
    [65_535, 65_536, 65_537, 131_072, 200_000].map((bytes) =>
      "0123456789abcdef".repeat(bytes / 16 + 1).slice(0, bytes)
    ),
  );
  for (const coding of ["br", "gzip", "identity"] as const) {
    for (const end of ends) {
      const decoded = decode(start.encode(coding, end), coding);
      assert(decoded === plain + end, `${coding}, ${end.length}`);
    }
  }
});

Deno.test("a script without any text can be decoded", () => {
  for (const coding of ["br", "gzip", "identity"] as const) {
    assertEquals(decode(new ScriptStart("").encode(coding, ""), coding), "");
  }
});

Deno.test("scripts with one start share its bytes, so an end costs no compression", () => {
  const text = Array.from({ length: 1_000 }, (_, i) => i * i).join();
  const start = new ScriptStart(text);
  for (const coding of ["br", "gzip"] as const) {
    const [a, b] = ["a".repeat(9), "b".repeat(5_000)].map((end) =>
      start.encode(coding, end)
    );
    assert(a !== undefined && b !== undefined);
    const shared = a.findIndex((byte, i) => byte !== b[i]);
    assert(shared > a.length - 40, `${coding}: ${shared} of ${a.length}`);
    assert(a.length < text.length * 0.7, `${a.length} of ${text.length}`);
  }
});

// ---- Answers ----------------------------------------------------------------

Deno.test("a script has an ETag for each coding, and caches tell them apart", async () => {
  const cases: [header: string, coding: string | null, etag: string][] = [
    ["gzip", "gzip", '"v1-gzip"'],
    ["gzip, br", "br", '"v1-br"'],
    ["identity", null, '"v1"'],
  ];
  for (const [header, coding, etag] of cases) {
    const response = serveScript(accept(header), SCRIPT);
    assertEquals(response.status, 200);
    assertEquals(response.headers.get("content-encoding"), coding);
    assertEquals(response.headers.get("etag"), etag);
    assertEquals(response.headers.get("vary"), "accept-encoding");
    const body = new Uint8Array(await response.arrayBuffer());
    const length = response.headers.get("content-length");
    assertEquals(length, String(body.length));
    const name = (coding ?? "identity") as Coding;
    assertEquals(decode(body, name), "f();");
  }
});

Deno.test("a script that a browser holds already is not sent again", async () => {
  const cases: [header: string | null, status: number][] = [
    [null, 200],
    ['"v1"', 304],
    ['W/"v1"', 304],
    ['"v0", W/"v1"', 304],
    ['"v1-gzip" , "v1"', 304],
    ["*", 304],
    ['"v10"', 200],
    ['"v1-gzip"', 200],
    ['W/"v1-br"', 200],
    ["v1", 200],
    ["", 200],
  ];
  for (const [header, status] of cases) {
    const request = get();
    if (header !== null) request.headers.set("if-none-match", header);
    const response = serveScript(request, SCRIPT);
    assertEquals(response.status, status, `${header}`);
    assertEquals(response.headers.get("etag"), '"v1"');
    assertEquals(response.headers.get("vary"), "accept-encoding");
    assertEquals(await response.text(), status === 200 ? "f();" : "");
  }
});

Deno.test("a browser that holds a script in another coding gets it in the coding that it accepts", () => {
  const cases: [header: string, status: number][] = [
    ['"v1-gzip"', 304],
    ['W/"v1-gzip"', 304],
    ['"v1-br", W/"v1-gzip"', 304],
    ["*", 304],
    ['"v1"', 200],
    ['"v1-br"', 200],
    ['"v1-gzip-gzip"', 200],
  ];
  for (const [header, status] of cases) {
    const request = accept("gzip");
    request.headers.set("if-none-match", header);
    const response = serveScript(request, SCRIPT);
    assertEquals(response.status, status, header);
    assertEquals(response.headers.get("etag"), '"v1-gzip"');
    // No body has no coding.
    const coding = status === 200 ? "gzip" : null;
    assertEquals(response.headers.get("content-encoding"), coding);
  }
});

Deno.test("a script answers HEAD with the headers of GET, and other methods with 405", async () => {
  const umlaut = { ...SCRIPT, end: "ü" };
  for (const codings of ["identity", "gzip", "br"]) {
    const head = serveScript(accept(codings, { method: "HEAD" }), umlaut);
    const whole = serveScript(accept(codings), umlaut);
    assertEquals([...head.headers], [...whole.headers]);
    assertEquals(await head.text(), "");
    const { length } = new Uint8Array(await whole.arrayBuffer());
    assertEquals(head.headers.get("content-length"), String(length));
  }
  const post = serveScript(get({ method: "POST" }), SCRIPT);
  assertEquals(post.status, 405);
  assertEquals(post.headers.get("allow"), "GET, HEAD");
});

Deno.test("a request for a range gets the whole script, without a promise of ranges", async () => {
  for (const range of ["bytes=0-0", "bytes=9-", "lines=1"]) {
    const headers = { range, "if-range": '"v1"' };
    const response = serveScript(get({ headers }), SCRIPT);
    assertEquals(response.status, 200);
    assertEquals(response.headers.get("accept-ranges"), null);
    assertEquals(await response.text(), "f();");
  }
});

Deno.test("a client that refuses every coding is told which there are", async () => {
  const response = serveScript(accept("*;q=0"), SCRIPT);
  assertEquals(response.status, 406);
  assertEquals(response.headers.get("vary"), "accept-encoding");
  assertEquals(await response.json(), {
    error: "The script is served with the codings br, gzip and identity, and " +
      "accept-encoding refuses all of them",
  });
});
