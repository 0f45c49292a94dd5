/**
 * Pages that evaluate the served script more than once, as libraries do that
 * replace parts of a page, and tools that reload modules.
 */
import { Pusher } from "@glitz/pusher";
import { assert, assertEquals } from "@std/assert";
import {
  BROWSERS,
  browserTest,
  EVERY_BROWSER,
  openPage,
} from "../support/browser.ts";

/** What the page runs at first, and what it can do later. */
const PAGE = `<!doctype html><body><script src="/pusher.js"></script><script>
const first = pusher;
const received = [];
pusher.subscribe("news").bind("created", (data) => received.push(data));
const succeeded = (channel) => channel.subscribed || new Promise((resolve) =>
  channel.bind("pusher:subscription_succeeded", resolve));
const evaluate = (src) => new Promise((resolve, reject) => {
  const script = document.createElement("script");
  Object.assign(script, { src, onload: resolve, onerror: reject });
  document.body.replaceChildren(script);
});
</script>`;

browserTest(
  "a page that evaluates its script again keeps its connection and its handlers",
  async (browser) => {
    await using server = await serve();
    const { page } = await openPage(browser, server.url);
    const run = (body: string) => page.evaluate(`(async () => {${body}})()`);
    await run(`await succeeded(pusher.channel("news"));
      const { Pusher: Class } = globalThis;
      await evaluate("/pusher.js");
      await evaluate("/pusher.js?version=2");
      await evaluate("/pusher.js?full");
      globalThis.found = [pusher === first, Pusher === Class];
      for (const url of ["/pusher.mjs", "/pusher.mjs?version=2"]) {
        const module = await import(url);
        found.push(module.pusher === first, module.default === Class);
      }`);
    assertEquals(await run("return found"), Array(6).fill(true));
    // A script for the server under another name has an instance of its own, which
    // connects when it is used, and so does an instance that the program makes.
    const other = `http://localhost:${new URL(server.url).port}`;
    await run(`await evaluate("${other}/pusher.js");
      globalThis.isOther = pusher !== first;
      await evaluate("/pusher.js");
      globalThis.found = [isOther, pusher === first];
      await succeeded(pusher.subscribe("other"));`);
    assertEquals(await run("return found"), [true, true]);
    assertEquals(server.pusher.stats().connections, 1);
    await run(`const own = new Pusher(pusher.key, pusher.options);
      await succeeded(own.subscribe("own"));`);
    assertEquals(server.pusher.stats().connections, 2);

    server.pusher.trigger("news", "created", 1);
    // The connection keeps the order: this channel is answered after the event.
    await run(`await succeeded(pusher.subscribe("fence"))`);
    assertEquals(await run("return received"), [1]);
    assertEquals(await run("return Pusher.instances.length"), 2);
  },
  EVERY_BROWSER,
);

browserTest(
  "a script that is evaluated after disconnect() makes an instance that connects",
  async (browser) => {
    await using server = await serve();
    const { page } = await openPage(browser, server.url);
    const run = (body: string) => page.evaluate(`(async () => {${body}})()`);
    await run(`await succeeded(pusher.channel("news"));
      pusher.disconnect();
      await evaluate("/pusher.js");
      globalThis.found = [pusher !== first, pusher.channel("news")];
      pusher.subscribe("news").bind("created", (data) => received.push(data));
      await succeeded(pusher.channel("news"));`);
    assertEquals(await run("return found.map(String)"), ["true", "undefined"]);
    server.pusher.trigger("news", "created", 1);
    await run(`await succeeded(pusher.subscribe("fence"))`);
    assertEquals(await run("return received"), [1]);
    assertEquals(server.pusher.stats().connections, 1);
  },
);

browserTest(
  "a browser gets pusher.js in a third of its size, and asks for it again by its ETag",
  async (browser) => {
    await using server = await serve();
    const { page } = await openPage(browser, server.url);
    const run = (body: string) => page.evaluate(`(async () => {${body}})()`);
    await run(`await succeeded(pusher.channel("news"));
      const [{ encodedBodySize, decodedBodySize }] =
        performance.getEntriesByName(location.origin + "/pusher.js");
      globalThis.sizes = [encodedBodySize, decodedBodySize];`);
    const [encoded, decoded] = await run("return sizes") as number[];
    const script = await (await fetch(`${server.url}/pusher.js`)).text();
    assertEquals(decoded, new TextEncoder().encode(script).length);
    assert(encoded! > 0 && encoded! < decoded! * 0.4, `${encoded}`);
    const again = await run(`
      const response = await fetch("/pusher.js", { cache: "no-cache" });
      return [response.status, await response.text()];`);
    assertEquals(again, [200, script]);
    // The page's, the test's own, and what the browser revalidated.
    assertEquals(server.statuses, [200, 200, 304]);
  },
  BROWSERS,
);

/** Our server, with the page, and the statuses of `/pusher.js`. */
function serve(): Promise<
  { pusher: Pusher; url: string; statuses: number[] } & AsyncDisposable
> {
  const pusher = new Pusher({ key: "app-key" });
  const statuses: number[] = [];
  const http = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    Pusher.cascade(
      async (request) => {
        const response = await pusher.handler(request);
        if (new URL(request.url).pathname === "/pusher.js") {
          statuses.push(response.status);
        }
        return response;
      },
      () => new Response(PAGE, { headers: { "content-type": "text/html" } }),
    ),
  );
  return Promise.resolve({
    pusher,
    statuses,
    url: `http://127.0.0.1:${http.addr.port}`,
    async [Symbol.asyncDispose]() {
      await pusher.close();
      await http.shutdown();
    },
  });
}
