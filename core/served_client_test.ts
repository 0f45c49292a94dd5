import {
  assert,
  assertEquals,
  assertFalse,
  assertMatch,
  assertNotEquals,
} from "@std/assert";
import { serveClient, serveFallback } from "./served_client.ts";

const CONFIG = { key: "app-key", host: "localhost:9292", path: "/realtime" };

function get(headers: Record<string, string> = {}): Request {
  return new Request("http://localhost/pusher.js", { headers });
}

/** What the client gets of it. */
const HANDED = { key: "app-key", host: "localhost:9292/realtime" };

/** The configuration that a script hands to the client. */
async function configOf(response: Response): Promise<unknown> {
  const [, json = ""] = /preset\((\{.*?\}),/.exec(await response.text()) ?? [];
  return JSON.parse(json);
}

Deno.test("the client is served with its configuration, as a script and as a module", async () => {
  for (const asModule of [false, true]) {
    const response = serveClient(get(), CONFIG, asModule);
    assertEquals(response.status, 200);
    assertMatch(response.headers.get("content-type") ?? "", /javascript/);
    const text = await response.clone().text();
    const exports = "export{Served as Pusher,Served as default};";
    assertEquals(text.includes(exports), asModule);
    assertEquals(text.includes("globalThis.Pusher="), !asModule);
    assertEquals(await configOf(response), HANDED);
  }
});

Deno.test("nothing of the host, the key or the path can end the script or its element", async () => {
  const hostile = [
    '"});alert(1)//',
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\u2028alert(1)\u2029",
    "\\",
    "${alert(1)}`",
  ];
  for (const text of hostile) {
    const config = { key: text, host: text, path: text };
    for (const asModule of [false, true]) {
      const response = serveClient(get(), config, asModule);
      const script = await response.text();
      const start = script.lastIndexOf("preset({");
      const end = script.indexOf("},", start) + 1;
      const json = script.slice(start + "preset(".length, end);
      assertFalse(/[<>\u2028\u2029]/.test(json), json);
      assertEquals(JSON.parse(json), { key: text, host: text + text });
    }
  }
});

Deno.test("the ETag changes with each part of the configuration, and with the kind of script", () => {
  const etag = (config: typeof CONFIG, asModule: boolean) =>
    serveClient(get(), config, asModule).headers.get("etag");
  const etags = [
    etag(CONFIG, false),
    etag(CONFIG, true),
    etag({ ...CONFIG, key: "other" }, false),
    etag({ ...CONFIG, host: "other" }, false),
    etag({ ...CONFIG, path: "/other" }, false),
  ];
  assertEquals(new Set(etags).size, etags.length);
  assertEquals(etag({ ...CONFIG }, false), etags[0]);
  const [known = ""] = etags;
  const headers = { "if-none-match": known ?? "" };
  assertEquals(serveClient(get(headers), CONFIG, false).status, 304);
  assertEquals(serveClient(get(headers), CONFIG, true).status, 200);
});

Deno.test("with ?full a script contains the lazy module, and has another ETag", async () => {
  const full = new Request("http://localhost/pusher.js?full");
  const lazy = await serveFallback(get()).text();
  const [, body = ""] = /=(\(\(\)=>.*\(\));$/.exec(lazy) ?? [];
  assert(body.length > 1_000);
  for (const asModule of [false, true]) {
    const response = serveClient(full, CONFIG, asModule);
    const plain = serveClient(get(), CONFIG, asModule);
    const etag = response.headers.get("etag");
    assertNotEquals(etag, plain.headers.get("etag"));
    const text = await response.text();
    assert(text.includes(body));
    assertFalse((await plain.text()).includes(body));
    // It is a script that can be parsed, and its client has what it would load.
    assertMatch(text, /preset\(\{[^}]*\},[\w.()]+,Lazy\)/);
    new Function(asModule ? text.replace(/export const.*$/s, "") : text);
    const known = new Request(full, {
      headers: { "if-none-match": `${etag}` },
    });
    assertEquals(serveClient(known, CONFIG, asModule).status, 304);
  }
});

Deno.test("the fallback is a script of its own, without a configuration", async () => {
  const response = serveFallback(get());
  assertEquals(response.status, 200);
  assertNotEquals(
    response.headers.get("etag"),
    serveClient(get(), CONFIG, true).headers.get("etag"),
  );
  const text = await response.text();
  assert(text.length > 1_000);
  assertFalse(text.includes("preset("));
});
