/**
 * The page of the debug console in Chromium: what it shows, what it does by keyboard,
 * on a phone and in the dark, and that hostile texts stay texts. Accessibility is
 * checked with axe in every view.
 */
import { Pusher, type PusherOptions, type Transport } from "@glitz/pusher";
import { type ConsoleOptions, debugConsole } from "@glitz/pusher/console";
import { assert, assertEquals } from "@std/assert";
import axe from "axe-core";
import type { BrowserContext, Page } from "puppeteer-core";
import {
  browserTest,
  openPage,
  type Window,
} from "../../tests/support/browser.ts";
import { HAS_REDIS, RedisServer } from "../../tests/support/redis.ts";
import { redis } from "../redis.ts";

const HOSTILE = "<script>window.broken=1</script>\u202egnp.exe";
const VIEWS = [
  ...["overview", "connections", "channels", "events", "problems", "trigger"],
];

/** A server with a console on a port of its own, and clients in memory. */
class Stage implements AsyncDisposable {
  readonly pusher: Pusher;
  readonly url: string;
  readonly published: string[] = [];
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor(options: ConsoleOptions = {}, settings: PusherOptions = {}) {
    this.pusher = new Pusher({ key: "k", secret: "s", ...settings });
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      this.pusher.cascade(
        this.pusher.handler,
        debugConsole(this.pusher, options),
      ),
    );
    this.url = `http://127.0.0.1:${this.#server.addr.port}/console`;
    this.pusher.on("published", ({ channel, event, data }) => {
      this.published.push(`${channel} ${event} ${data}`);
    });
  }

  /** Connects a client that is on some channels. */
  connect(userId: string, ...channels: string[]): void {
    const transport: Transport = {
      bufferedAmount: 0,
      send() {},
      close: (code) => peer.closed(code),
    };
    const query = "protocol=7&client=js&version=8.6.0";
    const request = new Request(`http://localhost/app/k?${query}`);
    const peer = this.pusher.open(transport, "k", request);
    const socketId = [...this.pusher.inspect().connections()].at(-1)!.socketId;
    for (const channel of channels) {
      const auth = channel.startsWith("presence-")
        ? this.pusher.authorizeChannel(socketId, channel, { user_id: userId })
        : {};
      const data = { channel, ...auth };
      peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
    }
  }

  /** Is refused, as its key is unknown. */
  mistake(): void {
    const request = new Request("http://localhost/app/other?protocol=7");
    const transport = { bufferedAmount: 0, send() {}, close() {} };
    this.pusher.open(transport, "other", request).closed(1000);
  }

  get users(): (string | undefined)[] {
    const { pusher } = this;
    return Array.from(pusher.inspect().connections(), ({ userId }) => userId);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pusher.close();
    await this.#server.shutdown();
  }
}

/** Opens the console, and fails on anything that is blocked or comes from elsewhere. */
async function open(
  context: BrowserContext,
  url: string,
  prepare: (page: Page) => Promise<void> = async () => {},
): Promise<Window & { faults: string[] }> {
  const window = await openPage(context, "about:blank") as Window;
  const faults: string[] = [];
  window.page.on("console", (message) => {
    // What the browser itself says of refusals is no fault.
    const isRefusal = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !isRefusal) faults.push(message.text());
  });
  window.page.on("request", (request) => {
    const { origin } = new URL(url);
    const asked = request.url();
    if (!asked.startsWith(origin) && !asked.startsWith("data:")) {
      faults.push(asked);
    }
  });
  await prepare(window.page);
  await window.page.goto(url);
  return Object.assign(window, { faults });
}

/**
 * Waits until the page shows a text. It looks again and again: where only a text
 * changes, no element does.
 */
async function shows(page: Page, text: string): Promise<void> {
  const shown = `document.body.innerText.includes(${JSON.stringify(text)})`;
  await page.waitForFunction(shown, { polling: 100 });
}

/** Goes to a view, and waits until its heading is there. */
async function goTo(page: Page, view: string): Promise<void> {
  await page.click(`nav a[href="#/${view}"]`);
  await page.waitForSelector(`nav a[href="#/${view}"][aria-current=page]`);
}

/** What axe finds wrong in the page as it is. */
async function findings(page: Page): Promise<string[]> {
  await page.evaluate(`${axe.source}; undefined`);
  const found = await page.evaluate(`axe.run().then(({ violations }) =>
    violations.map(({ id, nodes }) =>
      id + ": " + nodes.map(({ html }) => html.slice(0, 150)).join(" | ")))`);
  // The expression returns texts.
  return found as string[];
}

/** How far the page is wider than the screen. */
async function overflow(page: Page): Promise<unknown> {
  const root = "document.documentElement";
  return await page.evaluate(`${root}.scrollWidth - ${root}.clientWidth`);
}

browserTest(
  "the console shows what happens, and acts by keyboard",
  async (context) => {
    await using stage = new Stage();
    stage.connect("ann", "news", "presence-room");
    stage.connect("bob", "presence-room");
    for (let n = 0; n < 58; n++) stage.connect("", "news");
    stage.mistake();
    const window = await open(context, stage.url);
    const { page } = window;
    await shows(page, "live");
    await shows(page, "No app has this key");
    await shows(page, "compare key of the client");
    await page.waitForFunction("document.title.startsWith('Overview')");
    await stage.pusher.trigger("news", HOSTILE, `<img src=x onerror=broken=1>`);
    await stage.pusher.trigger("news", "long", "x".repeat(10_000));

    await goTo(page, "events");
    await shows(page, "<script>window.broken=1</script>\\u{202e}gnp.exe");
    await shows(page, "<img src=x onerror=broken=1>");
    assertEquals(await page.evaluate("window.broken"), undefined);
    // By keyboard: the first event's data opens, and says that it was cut.
    await page.focus(".events details summary");
    await page.keyboard.press("Enter");
    await shows(page, "Cut: the data has 10\u202f000 characters");
    await page.type(".tools input[placeholder=any]", "prices");
    await page.waitForFunction("document.activeElement.value === 'prices'");
    assertEquals(await findings(page), []);

    await goTo(page, "connections");
    await shows(page, "1–50 of 60");
    await page.type("input", "BOB");
    await shows(page, "1–1 of 1");
    assertEquals(await findings(page), []);
    await page.focus("tbody button");
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog[open]");
    assertEquals(await findings(page), []);
    await page.keyboard.press("Escape");
    await page.waitForSelector("dialog", { hidden: true });
    assert(
      await page.evaluate("document.activeElement.matches('tbody button')"),
    );
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog[open]");
    await page.focus("dialog .danger");
    await page.keyboard.press("Enter");
    await shows(page, "is closed");
    assertEquals(stage.users.includes("bob"), false);

    await goTo(page, "channels");
    await shows(page, "presence-room");
    await page.type("input", "presence");
    await shows(page, "1–1 of 1 (of 2)");
    await page.click("tbody button");
    await shows(page, "Users (1)");
    assertEquals(await findings(page), []);
    await page.keyboard.press("Escape");
    await page.waitForSelector("dialog", { hidden: true });

    await goTo(page, "trigger");
    await page.type("form input", "news");
    await page.keyboard.press("Tab");
    await page.keyboard.type("created");
    await page.keyboard.press("Enter");
    await shows(page, "Triggered created");
    assert(stage.published.includes('news created { "text": "hello" }'));
    await page.click("form input", { count: 3 });
    await page.keyboard.type("a b");
    await page.keyboard.press("Enter");
    await page.waitForSelector("[role=alert]:not([hidden])");
    await shows(page, "Cannot trigger");
    assertEquals(await findings(page), []);
    assertEquals(window.faults, []);
    assertEquals(window.errors, []);
  },
);

browserTest(
  "the console is for phones and for the dark, too, behind its password",
  async (context) => {
    const password = "correct horse battery";
    await using stage = new Stage({ password });
    const long = `presence-${"very-long-".repeat(15)}name`;
    stage.connect("w".repeat(100), "news", "presence-room", long);
    stage.mistake();
    const window = await open(context, stage.url, async (page) => {
      await page.setViewport({ width: 360, height: 740, isMobile: true });
      await page.emulateMediaFeatures([
        { name: "prefers-color-scheme", value: "dark" },
      ]);
    });
    const { page } = window;
    await page.waitForSelector("input[type=password]");
    assertEquals(await findings(page), []);
    await page.type("input", "not the password");
    await page.keyboard.press("Enter");
    await shows(page, "This is not the console's password");
    await page.click("input", { count: 3 });
    await page.keyboard.type(password);
    await page.keyboard.press("Enter");
    await shows(page, "live");
    for (const view of VIEWS) {
      await goTo(page, view);
      // Without an event there is nothing to check in the list.
      await stage.pusher.trigger(
        long.slice(0, 100),
        HOSTILE,
        "x".repeat(5_000),
      );
      if (view === "events") await shows(page, "gnp.exe");
      if (view === "connections") await shows(page, "wwwwww");
      if (view === "channels") await shows(page, "very-long-");
      assertEquals(await findings(page), [], view);
      assertEquals(await overflow(page), 0, view);
    }
    const back = "getComputedStyle(document.body).backgroundColor";
    assertEquals(await page.evaluate(back), "rgb(18, 18, 26)");
    await page.evaluate(
      "document.querySelector('.top button:last-child').click()",
    );
    await page.waitForSelector("input[type=password]");
    assertEquals(window.faults, []);
    assertEquals(window.errors, []);
  },
);

const CLUSTER = "the console shows the servers of a cluster, and acts on each";

async function showCluster(context: BrowserContext): Promise<void> {
  await using store = await RedisServer.start();
  const backplane = () => redis(store.url);
  await using one = new Stage({}, { backplane: backplane() });
  await using two = new Stage({}, { backplane: backplane() });
  one.connect("ann", "presence-room");
  for (const user of ["bob", "cyd"]) two.connect(user, "presence-room");
  two.mistake();
  const short = (stage: Stage) => stage.pusher.inspect().node.slice(0, 8);
  const [here, there] = [short(one), short(two)];
  const window = await open(context, one.url, async (page) => {
    await page.setViewport({ width: 360, height: 740, isMobile: true });
  });
  const { page } = window;
  await shows(page, "Connections, all 2 servers");
  await shows(page, "No app has this key");
  await page.waitForFunction(
    "document.querySelector('.tile dd').textContent === '3'",
    { polling: 100 },
  );
  assertEquals(await findings(page), []);
  assertEquals(await overflow(page), 0);
  await goTo(page, "connections");
  for (const text of ["ann", "bob", "cyd", here, there]) {
    await shows(page, text);
  }
  assertEquals(await findings(page), []);
  assertEquals(await overflow(page), 0);

  // It is loaded again as that of another device.
  await page.setViewport({ width: 1_200, height: 800 });
  await page.waitForSelector(".top select");
  await page.select(".top select", two.pusher.inspect().node);
  await shows(page, "1–2 of 2");
  await page.type("main input", "bob");
  await shows(page, "1–1 of 1");
  await page.click("tbody button");
  await page.waitForSelector("dialog[open]");
  await page.click("dialog .danger");
  await shows(page, "is closed");
  await shows(page, "No connection fits");
  assertEquals(two.users, ["cyd"]);

  await goTo(page, "events");
  // The stream is opened again when the server is chosen, and hears what comes then.
  const publishes = async ({ pusher }: Stage, event: string) => {
    const timer = setInterval(() => pusher.trigger("news", event, 1), 250);
    await shows(page, event).finally(() => clearInterval(timer));
  };
  await one.pusher.trigger("news", "from-here", 1);
  await publishes(two, "from-there");
  await page.select(".top select", "");
  await publishes(one, "from-both");
  const events = String(
    await page.evaluate("document.querySelector('.events').innerText"),
  );
  assert(!events.includes("from-here"), events);
  assertEquals(await findings(page), []);

  // A server that ends is left out, and the page goes on.
  await goTo(page, "overview");
  await two.pusher.close();
  await shows(page, `server ${here}`);
  assertEquals(window.faults, []);
  assertEquals(window.errors, []);
}

if (HAS_REDIS) browserTest(CLUSTER, showCluster);
else Deno.test.ignore(`${CLUSTER} (no redis-server)`, () => {});
