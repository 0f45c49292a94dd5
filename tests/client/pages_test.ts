/**
 * Our client in a page of every browser: what most programs do, over WebSocket and
 * over HTTP.
 */
import { encryption } from "@glitz/pusher/encryption";
import { assert, assertEquals } from "@std/assert";
import nacl from "npm:tweetnacl@1.0.3/nacl-fast.min.js" with { type: "text" };
import {
  type AnyContext,
  type AnyPage,
  browserTest,
  EVERY_BROWSER,
  openPage,
} from "../support/browser.ts";
import { RealServer } from "../support/client.ts";
import { FaultProxy } from "../support/proxy.ts";

const TRANSPORTS = ["ws", "xhr_streaming"];

/** A page whose client keeps what it hears on the channels that it subscribes to. */
const page = (transport: string) =>
  `<!doctype html><title>page</title>
  <script>${nacl}</script>
  <script src="/pusher.js"></script><script>
    const client = new Pusher("app-key", {
      enabledTransports: ["${transport}"],
      nacl: globalThis.nacl,
    });
    const heard = [];
    const join = (name) => new Promise((resolve, reject) => {
      const channel = client.subscribe(name);
      channel.bind("pusher:subscription_succeeded", () =>
        resolve(channel.members?.count));
      channel.bind("pusher:subscription_error", ({ error }) => reject(error));
      channel.bind_global((event, data) => {
        if (event.startsWith("pusher:")) return;
        heard.push([name, event, data]);
      });
    });
  </script>`;

/** Opens the page of a server. */
async function open(
  browser: AnyContext,
  { port }: { port: number },
): Promise<AnyPage> {
  return (await openPage(browser, `http://127.0.0.1:${port}/`)).page;
}

/** Takes what the page has heard, once there is so much. */
async function heard(page: AnyPage, count: number): Promise<unknown> {
  await page.waitForFunction(`heard.length >= ${count}`);
  return await page.evaluate("heard.splice(0)");
}

for (const transport of TRANSPORTS) {
  browserTest(
    `two pages exchange events on channels of all kinds over ${transport}`,
    async (browser) => {
      await using server = new RealServer({
        clientEvents: true,
        authorize: (_, { channel, socketId }) =>
          channel.startsWith("presence-") ? { user_id: socketId } : true,
        encryption: encryption({ masterKeyBase64: btoa("k".repeat(32)) }),
      });
      server.page = page(transport);
      const first = await open(browser, server);
      const second = await open(browser, server);
      for (const [i, each] of [first, second].entries()) {
        await each.evaluate(`Promise.all([
          join("news"), join("private-room"), join("private-encrypted-room"),
        ])`);
        assertEquals(await each.evaluate(`join("presence-room")`), i + 1);
        const name = "client.connection.transport.name";
        assertEquals(await each.evaluate(name), transport);
      }

      await first.evaluate(
        `client.channel("private-room").trigger("client-typing", { n: 1 })`,
      );
      assertEquals(await heard(second, 1), [
        ["private-room", "client-typing", { n: 1 }],
      ]);
      const members = `client.channel("presence-room").members.count`;
      await first.waitForFunction(`${members} === 2`);
      for (const channel of ["news", "private-encrypted-room"]) {
        await server.pusher.trigger(channel, "said", { text: "grüß Gott" });
        for (const each of [first, second]) {
          assertEquals(await heard(each, 1), [
            [channel, "said", { text: "grüß Gott" }],
          ]);
        }
      }
      await second.close();
      await first.waitForFunction(`${members} === 1`);
    },
    EVERY_BROWSER,
  );

  browserTest(
    `a page that is cut off comes back over ${transport}, and has missed nothing`,
    async (browser) => {
      await using server = new RealServer();
      server.page = page(transport);
      await using proxy = await FaultProxy.open({ port: server.port });
      const each = await open(browser, proxy);
      await each.evaluate(`join("news").then(() => {})`);
      for (let round = 0; round < 2; round++) {
        const { accepted } = proxy;
        await proxy.clear("reset");
        const texts = Array.from({ length: 5 }, (_, n) => `${round} ${n}`);
        for (const text of texts) {
          await server.pusher.trigger("news", "said", text);
        }
        assertEquals(
          await heard(each, texts.length),
          texts.map((text) => ["news", "said", text]),
        );
        assert(proxy.accepted > accepted);
      }
    },
    EVERY_BROWSER,
  );
}
