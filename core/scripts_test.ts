import { assertEquals } from "@std/assert";
import { serveScript } from "./scripts.ts";

/** A request for a script. */
function get(init: RequestInit = {}): Request {
  return new Request("http://example.com/", init);
}

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
    const request = get();
    if (header !== null) request.headers.set("if-none-match", header);
    const response = serveScript(request, "f();", "v1");
    assertEquals(response.status, status, `${header}`);
    assertEquals(response.headers.get("etag"), '"v1"');
    assertEquals(await response.text(), status === 200 ? "f();" : "");
  }
});

Deno.test("a script answers HEAD with its length in bytes, and other methods with 405", async () => {
  const head = serveScript(get({ method: "HEAD" }), "ü", "v1");
  assertEquals(head.headers.get("content-length"), "2");
  assertEquals(await head.text(), "");
  const post = serveScript(get({ method: "POST" }), "ü", "v1");
  assertEquals(post.status, 405);
  assertEquals(post.headers.get("allow"), "GET, HEAD");
});
