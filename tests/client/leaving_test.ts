/**
 * Our client in real browsers, in pages that the user leaves and comes back to.
 */
import { assertEquals } from "@std/assert";
import { RealServer } from "../support/client.ts";
import {
  type AnyWindow,
  BROWSERS,
  browserTest,
  EVERY_BROWSER,
  openPage,
} from "../support/browser.ts";

/** A page that keeps what its connection says, and what it said before. */
const page = (transport: string) =>
  `<!doctype html><title>page</title><script src="/pusher.js"></script><script>
    const before = JSON.parse(sessionStorage.heard ?? "null");
    const heard = [];
    const client = new Pusher("app-key", {
      enabledTransports: ["${transport}"],
    });
    client.connection.bind_global((event) => {
      if (event !== "message") heard.push(event);
      sessionStorage.heard = JSON.stringify(heard);
    });
    addEventListener("pageshow", ({ persisted }) => {
      if (persisted) heard.push("back");
    });
  </script>`;

async function connected({ page }: AnyWindow): Promise<void> {
  await page.waitForFunction(`client.connection.state === "connected"`);
}

for (const transport of ["ws", "xhr_streaming", "xhr_polling"]) {
  browserTest(
    `a page that is being left hears nothing of it over ${transport}`,
    async (browser) => {
      await using server = new RealServer();
      server.page = page(transport);
      const url = `http://127.0.0.1:${server.port}/`;
      const window = await openPage(browser, url);
      await connected(window);
      // The same page: it reports what the handlers of the page before it heard.
      await window.page.goto(`${url}?again`);
      assertEquals(await window.page.evaluate("before"), [
        "state_change",
        "connected",
      ]);
    },
    // On a busy machine WebKit fails requests before it says that a page is left.
    transport === "ws" ? EVERY_BROWSER : BROWSERS,
  );
}

browserTest(
  "a page that comes back from the back/forward cache connects without a delay",
  async (browser) => {
    await using server = new RealServer();
    server.page = page("ws");
    const url = `http://127.0.0.1:${server.port}/`;
    const window = await openPage(browser, url);
    await connected(window);
    for (let i = 0; i < 2; i++) {
      await window.page.goto(`http://localhost:${server.port}/`);
      await window.page.goBack();
      await window.page.waitForFunction(
        `heard.filter((event) => event === "connected").length > ${i + 1}`,
      );
    }
    const again = [
      "back",
      "error",
      "state_change",
      "connecting",
      "state_change",
      "connected",
    ];
    assertEquals(await window.page.evaluate("heard"), [
      "state_change",
      "connected",
      ...again,
      ...again,
    ]);
  },
);
