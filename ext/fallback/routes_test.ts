/** Which requests the fallback serves, and which it leaves to the next handler. */
import { assertEquals, assertObjectMatch } from "@std/assert";
import { Pusher } from "@glitz/pusher";
import { fallback, type FallbackOptions } from "@glitz/pusher/fallback";
import { clientOf, Puppet, serveHttp } from "../../tests/support/fallback.ts";
import { APP } from "../../tests/support/server.ts";

const ORIGIN = "https://example.com";

/** Pages may send the cookies of a load balancer. */
const CORS = {
  "access-control-allow-origin": ORIGIN,
  "access-control-allow-credentials": "true",
  "vary": "origin",
  "access-control-allow-methods": "POST, OPTIONS",
  "access-control-allow-headers": "Content-Type",
  "access-control-max-age": "86400",
};

for (const action of ["xhr_streaming", "xhr", "xhr_send"]) {
  Deno.test(`OPTIONS of ${action} lets pages of any origin post JSON, and send cookies`, async () => {
    await using server = serveHttp();
    const response = await fetch(
      `${server.url}/pusher/app/app-key/0/abcdefgh/${action}?protocol=7`,
      {
        method: "OPTIONS",
        headers: {
          "origin": ORIGIN,
          "access-control-request-method": "POST",
          "access-control-request-headers": "content-type",
        },
      },
    );
    assertEquals([response.status, await response.text()], [204, ""]);
    assertObjectMatch(Object.fromEntries(response.headers), CORS);
    await using client = clientOf(server, { headers: { origin: ORIGIN } });
    const { headers } = await client.receive("xhr");
    for (const [name, value] of Object.entries(CORS).slice(0, 3)) {
      assertEquals(headers.get(name), value);
    }
    await client.rest();
    const post = await client.post("[]", { headers: { origin: ORIGIN } });
    assertEquals(post.headers.get("access-control-allow-origin"), ORIGIN);
    await post.body?.cancel();
    assertEquals(server.journal.calls("connected").length, 1);
  });
}

const R = "/r/0123456789abcdef";
const LONG = "a".repeat(64);

for (
  const [method, path, options, isOwn] of [
    ["POST", "/pusher/app/k/0/abcdefgh/xhr", {}, true],
    ["POST", "/pusher/app/k/999/ABC_de-9/xhr", {}, true],
    ["POST", `/pusher/app/k/000/${LONG}/xhr_streaming`, {}, true],
    ["POST", `${R}/pusher/app/k/0/abcdefgh/xhr`, {}, true],
    ["POST", `${R}/pusher/app/k/0/abcdefgh/xhr`, { path: "/a/pusher" }, false],
    ["POST", "/a/b/app/k/0/abcdefgh/xhr", { path: "/a/b" }, true],
    ["POST", `${R}/a/b/app/k/0/abcdefgh/xhr`, { path: "/a/b" }, true],
    ["POST", `/a${R}/b/app/k/0/abcdefgh/xhr`, { path: "/a/b" }, false],
    ["POST", "/app/k/0/abcdefgh/xhr", { path: "" }, true],
    ["GET", "/pusher/app/k/0/abcdefgh/xhr", {}, false],
    ["PUT", "/pusher/app/k/0/abcdefgh/xhr_send", {}, false],
    ["OPTIONS", "/pusher/app/k/0/abcdefgh", {}, false],
    ["POST", "/pusher/app/k/0/abcdefgh", {}, false],
    ["POST", "/pusher/app/k/0/abcdefgh/xhr/", {}, false],
    ["POST", "/pusher/app/k/0/abcdefgh/eventsource", {}, false],
    ["POST", "/pusher/app/k/1000/abcdefgh/xhr", {}, false],
    ["POST", "/pusher/app/k/-1/abcdefgh/xhr", {}, false],
    ["POST", "/pusher/app/k/0/abcdefg/xhr", {}, false],
    ["POST", `/pusher/app/k/0/${LONG}a/xhr`, {}, false],
    ["POST", "/pusher/app/k/0/abc.efgh/xhr", {}, false],
    ["POST", "/pusher/app//0/abcdefgh/xhr", {}, false],
    ["POST", "/app/k/0/abcdefgh/xhr", {}, false],
    ["POST", "/other/pusher/app/k/0/abcdefgh/xhr", {}, false],
    ["POST", "/r/too-short/pusher/app/k/0/abcdefgh/xhr", {}, false],
    ["GET", "/pusher/info", {}, false],
    ["POST", "/pusher/auth", {}, false],
  ] as [string, string, FallbackOptions, boolean][]
) {
  const what = `${method} ${path} ${JSON.stringify(options)}`;
  Deno.test(`fallback ${isOwn ? "serves" : "passes on"} ${what}`, async () => {
    const puppet = new Puppet();
    const handler = Pusher.cascade(
      fallback(puppet, options),
      async (request) => new Response(await request.text(), { status: 418 }),
    );
    const request = new Request(`http://localhost${path}`, {
      method,
      body: method === "GET" ? null : "unread",
    });
    const response = await handler(request);
    if (isOwn) {
      assertEquals(response.status, 200);
      assertEquals(puppet.opened, [["k", request.url]]);
      await response.body?.cancel();
      puppet.transport.close(1000, "");
      await puppet.closed();
    } else {
      assertEquals(response.status, 418);
      assertEquals(await response.text(), method === "GET" ? "" : "unread");
      assertEquals(puppet.opened, []);
    }
  });
}

Deno.test("a server's own path precedes /pusher and what names a stock session", async () => {
  await using server = serveHttp({ path: "/realtime" });
  for (const path of ["/realtime/pusher", `/realtime${R}/pusher`]) {
    await using client = clientOf(server, { path });
    await client.open("xhr_streaming");
  }
  const response = await clientOf(server).post("[]");
  assertEquals(response.status, 404);
  await response.body?.cancel();
});

Deno.test("sessions of one name under two keys, or behind two paths, are two", async () => {
  const other = { id: "other-id", key: "other-✓", secret: "other" };
  await using server = serveHttp({ apps: [APP, other] });
  const session = "7/same-name";
  const key = encodeURIComponent(other.key);
  const ids = new Set<string>();
  for (const init of [{}, { key }, { path: `${R}/pusher` }]) {
    await using client = clientOf(server, { session, ...init });
    ids.add((await client.open("xhr_streaming")).socketId);
  }
  assertEquals(ids.size, 3);
  const apps = server.journal.drain("connected").map(({ app }) => app);
  assertEquals(apps, [APP.id, other.id, APP.id]);
});

Deno.test("fallback passes on a request whose URL names no host", async () => {
  const handler = fallback(new Puppet());
  const request = new Request("http://localhost/");
  Object.defineProperty(request, "url", { value: "http:///" });
  Object.defineProperty(request, "method", { value: "POST" });
  assertEquals((await handler(request)).status, 404);
});
