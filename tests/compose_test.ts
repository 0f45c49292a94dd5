/**
 * `examples/compose.ts`: the handler behind the routes of `@std/http`, under a
 * path of its own.
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { handler, pusher } from "../examples/compose.ts";
import { browserTest, openPage } from "./support/browser.ts";

const call = (path: string, init?: RequestInit) =>
  handler(new Request(`http://localhost${path}`, init));

Deno.test("examples/compose.ts leaves the program its own routes", async () => {
  const page = await call("/");
  assertEquals(page.status, 200);
  assertStringIncludes(await page.text(), `src="/realtime/pusher.js"`);
  const order = await call("/orders", { method: "POST" });
  assertEquals([order.status, Object.keys(await order.json())], [201, ["id"]]);
  assertEquals((await call("/pusher.js")).status, 404);
});

Deno.test("examples/compose.ts serves Pusher below /realtime", async () => {
  const script = await call("/realtime/pusher.js");
  assertEquals(script.status, 200);
  assertStringIncludes(await script.text(), `"path":"/realtime"`);
  const join = (cookie: string) =>
    call("/realtime/pusher/auth", {
      method: "POST",
      headers: { cookie },
      body: new URLSearchParams({
        socket_id: "1.2",
        channel_name: "private-orders",
      }),
    });
  assertEquals((await join("role=clerk")).status, 200);
  assertEquals((await join("role=guest")).status, 403);
});

browserTest(
  "examples/compose.ts tells a page with the cookie of a private event",
  async (browser) => {
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      handler,
    );
    try {
      const { page } = await openPage(
        browser,
        `http://127.0.0.1:${server.addr.port}/`,
      );
      await page.waitForFunction(
        `pusher.channel("private-orders")?.subscribed`,
      );
      await page.click("button");
      await page.waitForFunction(
        `/^order \\d+ is paid$/.test(document.querySelector("output").textContent)`,
      );
      await page.close();
    } finally {
      await pusher.close();
      await server.shutdown();
    }
  },
);
