/**
 * Many tabs of one browser where only HTTP passes: a browser opens six connections to
 * a host, and the tabs have to leave some of them to each other.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { assert, assertEquals } from "@std/assert";
import type { BrowserContext } from "puppeteer-core";
import { BROWSERS, browserTest, openPage, Window } from "../support/browser.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";

/** Connections that a browser opens to a host over HTTP/1.1. */
const BROWSER_LIMIT = 6;

/** Tabs that stay connected. */
const CONNECTED_TABS = 4;

/** Hidden pages draw no frames that a wait could follow. */
const POLLING_MS = 50;

/** Serves a page of the client, over HTTP only. */
class Site implements AsyncDisposable {
  readonly pusher: Pusher;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  constructor(options: PusherOptions = {}) {
    let members = 0;
    this.pusher = new Pusher({
      clientEvents: true,
      authorize: () => ({ user_id: `${members++}` }),
      ...options,
    });
    const refuseUpgrade = (request: Request) =>
      request.headers.has("upgrade")
        ? new Response("no upgrade here", { status: 403 })
        : null;
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      Pusher.cascade(
        refuseUpgrade,
        this.pusher.handler,
        fallback(this.pusher),
        () => new Response(PAGE, { headers: { "content-type": "text/html" } }),
      ),
    );
  }

  get url(): string {
    return `http://127.0.0.1:${this.#http.addr.port}/`;
  }

  get connections(): number {
    return this.pusher.stats().connections;
  }

  /** Resolves when the server has that many connections. */
  async has(connections: number): Promise<void> {
    await within(
      DEADLINE_MS,
      `${connections} connections`,
      new Promise<void>((resolve) => {
        const look = () => this.connections === connections && resolve();
        this.pusher.on("connected", look);
        this.pusher.on("disconnected", look);
        look();
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pusher.close();
    await this.#http.shutdown();
  }
}

const PAGE = `<!doctype html><script src="/pusher.js"></script><script>
  const heard = [];
  const states = [];
  pusher.connection.bind("state_change", ({ current }) => states.push(current));
  pusher.subscribe("news")
    .bind("next", (n) => heard.push(n))
    .bind("pusher:recovery_failed", () => heard.push("lost"));
  const room = pusher.subscribe("presence-room");
</script>`;

const JOINED = `states.at(-1) === "connected" &&
  pusher.allChannels().every(({ subscribed }) => subscribed)`;

async function until({ page }: Window, truth: string): Promise<void> {
  await page.waitForFunction(truth, { polling: POLLING_MS });
}

/** Opens tabs one after the other; each is shown until the next is. */
async function openTabs(
  browser: BrowserContext,
  { url }: Site,
  count: number,
): Promise<Window[]> {
  const tabs: Window[] = [];
  for (let n = 0; n < count; n++) {
    const tab = await openPage(browser, url);
    await until(tab, JOINED);
    tabs.push(tab);
  }
  return tabs;
}

browserTest(
  "nine tabs over HTTP all load, and a tab that is shown again has missed nothing",
  async (browser) => {
    await using site = new Site();
    const tabs = await openTabs(browser, site, BROWSER_LIMIT + 3);
    const [first, last] = [tabs[0]!, tabs.at(-1)!];
    await site.has(CONNECTED_TABS);
    await until(last, `room.members.count === ${CONNECTED_TABS}`);

    // Nothing tells the handlers of a hidden tab, and it can send nothing.
    assertEquals(await first.page.evaluate("document.hidden"), true);
    assertEquals(
      await first.page.evaluate("pusher.connection.state"),
      "connected",
    );
    assertEquals(
      await first.page.evaluate(`room.trigger("client-typing", {})`),
      false,
    );

    const numbers = [0, 1, 2, 3, 4];
    for (const n of numbers) await site.pusher.trigger("news", "next", n);
    await until(last, `heard.length === ${numbers.length}`);
    assertEquals(await first.page.evaluate("heard"), []);
    for (const tab of tabs) {
      await tab.page.bringToFront();
      await until(tab, `heard.length === ${numbers.length} && ${JOINED}`);
      assertEquals(await tab.page.evaluate("heard"), numbers);
      await until(tab, "room.members.me !== null");
    }
    for (const { page } of tabs) {
      const states = await page.evaluate("[...new Set(states)].sort()");
      assertEquals(states, ["connected", "connecting"]);
    }
  },
  BROWSERS,
);

browserTest(
  "hidden tabs stay connected to a server that keeps no history",
  async (browser) => {
    await using site = new Site({ history: false });
    const tabs = await openTabs(browser, site, CONNECTED_TABS + 1);
    await site.pusher.trigger("news", "next", 1);
    for (const tab of tabs) await until(tab, "heard.length === 1");
    assertEquals(site.connections, tabs.length);
  },
);

browserTest(
  "a hidden tab over HTTP that Chrome freezes leaves its connection, until it is shown",
  async (browser) => {
    await using site = new Site();
    const tabs = await openTabs(browser, site, 2);
    const [hidden] = tabs;
    assert(hidden);
    const session = await hidden.page.createCDPSession();
    await session.send("Page.setWebLifecycleState", { state: "frozen" });
    await site.has(1);
    await site.pusher.trigger("news", "next", 1);
    await session.send("Page.setWebLifecycleState", { state: "active" });
    await hidden.page.bringToFront();
    await until(hidden, `heard.length === 1 && ${JOINED}`);
    await site.has(2);
  },
);

browserTest(
  "a tab over HTTP works in a browser without BroadcastChannel",
  async (browser) => {
    await using site = new Site();
    const page = await browser.newPage();
    await page.evaluateOnNewDocument("delete globalThis.BroadcastChannel");
    const tab = new Window(page);
    await page.goto(site.url);
    await until(tab, JOINED);
    assertEquals(await page.evaluate("typeof BroadcastChannel"), "undefined");
    await site.pusher.trigger("news", "next", 1);
    await until(tab, "heard.length === 1");
    assertEquals(tab.errors, []);
  },
);
