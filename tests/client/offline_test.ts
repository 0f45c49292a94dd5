/**
 * Our client in a real Chromium, on networks that fail: the browser's own offline
 * switch, a proxy that refuses `Upgrade`, and one that cuts connections on a seed.
 * The stock client's web build is there, too, as browsers treat requests in ways
 * of their own.
 *
 * While Chromium is offline it refuses new requests and sockets. It keeps an open
 * WebSocket open and silent both ways, and afterwards passes on what has been held
 * up, unless the client has given it up; an answer that has begun goes on. So only
 * a client that gives up gets into what an offline machine does to it. Ours does,
 * 5 seconds after the page's `offline` event. LOSS_OFFLINE_SECONDS=30 makes it as
 * long as a walk through a tunnel.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Browser } from "puppeteer-core";
import { browserTest, openPage, type Window } from "../browser.ts";
import { APP } from "../harness.ts";
import { type Transport, TRANSPORTS } from "../loss/clients.ts";
import { FaultProxy, planStorm } from "../proxy.ts";

const offlineSeconds = Number(Deno.env.get("LOSS_OFFLINE_SECONDS") || 7);
const seed = Number(Deno.env.get("LOSS_SEED") || Date.now() >>> 0);

/** Publishers are not in a hurry: what matters is when they publish. */
const INTERVAL_MS = 50;

/** Pages in the background are not drawn, so that is nothing to wait for. */
const POLLING_MS = 50;

const CHANNELS = ["news", "presence-room"];

/** The web build of the stock client, as a page loads it. */
const webBuild = await Deno.readTextFile(
  new URL("../web/pusher.js", import.meta.resolve("pusher-js")),
);

/** A server with pages that show what they hear. */
class Site implements AsyncDisposable {
  readonly pusher: Pusher;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;
  /** How often a client has connected. */
  connections = 0;
  #published = 0;

  constructor(options: PusherOptions = {}) {
    let members = 0;
    this.pusher = new Pusher({
      appId: APP.id,
      key: APP.key,
      secret: APP.secret,
      clientEvents: true,
      authorize: () => ({ user_id: `${members++}` }),
      ...options,
    });
    this.pusher.on("connected", () => this.connections++);
    this.#http = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen() {} },
      Pusher.cascade(this.pusher.handler, fallback(this.pusher), servePage),
    );
  }

  get port(): number {
    return this.#http.addr.port;
  }

  /** Publishes the next number on every channel. */
  async publish(): Promise<void> {
    const n = this.#published++;
    await this.pusher.trigger(CHANNELS, "message", n);
  }

  /** Publishes one by one until it is told to stop. */
  publishing(): () => number {
    const timer = setInterval(() => this.publish(), INTERVAL_MS);
    return () => {
      clearInterval(timer);
      return this.#published;
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.pusher.close();
    await this.#http.shutdown();
  }
}

/**
 * The page: which client, and with which options, its address says. pusher-js
 * gives a transport up after two short-lived connections; then it is begun anew.
 */
function servePage(request: Request): Response {
  const { pathname, searchParams } = new URL(request.url);
  if (pathname === "/stock.js") return answer("text/javascript", webBuild);
  if (pathname !== "/") return new Response(null, { status: 404 });
  const script = searchParams.get("script") ?? "/pusher.js";
  const options = searchParams.get("options");
  return answer(
    "text/html",
    `<!doctype html><script src="${script}"></script><ul></ul><script>
      const heard = ${JSON.stringify(upTo(0))};
      let client;
      function start() {
        client = ${
      options === null ? "pusher" : `new Pusher("${APP.key}", ${options})`
    };
        for (const name of Object.keys(heard)) {
          client.subscribe(name)
            .bind("message", (n) => heard[name].push(n))
            .bind("pusher:recovery_failed", () => heard[name].push("gap"))
            .bind("client-said", (text) => {
              document.querySelector("ul").append(text);
            });
        }
        client.connection.bind("failed", start);
      }
      start();
    </script>`,
  );
}

function answer(type: string, text: string): Response {
  return new Response(text, { headers: { "content-type": type } });
}

/** Options of a client in a page, which then is in the variable `client`. */
function pageUrl(port: number, options?: object, script?: string): string {
  const url = new URL(`http://127.0.0.1:${port}/`);
  if (options) url.searchParams.set("options", JSON.stringify(options));
  if (script) url.searchParams.set("script", script);
  return url.href;
}

/** Waits for something to be true of the page, be it in front or not. */
async function until({ page }: Window, truth: string): Promise<void> {
  await page.waitForFunction(truth, { polling: POLLING_MS });
}

async function joined(window: Window): Promise<void> {
  await until(
    window,
    "client.allChannels().every(({ subscribed }) => subscribed)",
  );
}

/** What the page has heard on each channel. */
async function heard({ page }: Window): Promise<Record<string, number[]>> {
  return await page.evaluate("heard") as Record<string, number[]>;
}

/** Waits for the last number on each channel. */
async function caughtUp(window: Window, count: number): Promise<void> {
  await until(
    window,
    `Object.values(heard).every((numbers) => numbers.includes(${count - 1}))`,
  );
}

function upTo(count: number): Record<string, number[]> {
  const numbers = Array.from({ length: count }, (_, n) => n);
  return Object.fromEntries(CHANNELS.map((channel) => [channel, numbers]));
}

function seconds(count: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, count * 1_000));
}

// ---- Offline ----------------------------------------------------------------

/** Throws the switch, and makes sure that it has worked. */
async function goOffline({ page }: Window): Promise<void> {
  await page.setOfflineMode(true);
  const request = `fetch("/").then(() => "arrived", () => "failed")`;
  assertEquals(await page.evaluate(request), "failed");
  assertEquals(await page.evaluate("navigator.onLine"), false);
  // The page hears of it a moment before it is so, and a pong may come through
  // meanwhile. Now none does.
  await page.evaluate(`dispatchEvent(new Event("offline"))`);
}

browserTest(
  `a page that was offline for ${offlineSeconds} s shows every message once, in order`,
  async (browser) => {
    await using site = new Site();
    const window = await openPage(browser, pageUrl(site.port));
    const { page } = window;
    await joined(window);
    const stop = site.publishing();
    await caughtUp(window, 5);

    await goOffline(window);
    const before = await page.evaluate("client.connection.socket_id");
    const known = await heard(window);
    await seconds(offlineSeconds);
    assertEquals(await heard(window), known);
    assertMatch(
      String(await page.evaluate("client.connection.state")),
      /connecting|unavailable/,
    );

    await page.setOfflineMode(false);
    await joined(window);
    await site.publish();
    const count = stop();
    assert(
      count > known.news!.length + offlineSeconds * 1_000 / INTERVAL_MS / 2,
    );
    await caughtUp(window, count);
    assertEquals(await heard(window), upTo(count));
    assert(before !== await page.evaluate("client.connection.socket_id"));
    assertEquals(site.connections, 2);
  },
);

browserTest(
  "a page that was offline for a moment goes on with what was held up",
  async (browser) => {
    await using site = new Site();
    const window = await openPage(browser, pageUrl(site.port));
    const { page } = window;
    await joined(window);
    await site.publish();
    await caughtUp(window, 1);

    await goOffline(window);
    for (let n = 0; n < 20; n++) await site.publish();
    assertEquals(await heard(window), upTo(1));

    await page.setOfflineMode(false);
    await caughtUp(window, 21);
    assertEquals(await heard(window), upTo(21));
    assertEquals(site.connections, 1);
  },
);

// ---- No Upgrade -------------------------------------------------------------

browserTest(
  "pages behind a proxy that refuses Upgrade chat over HTTP, and over WebSocket once it lets it pass",
  async (browser) => {
    await using site = new Site();
    await using proxy = await FaultProxy.open({
      port: site.port,
      upgradeStatus: 403,
    });
    const [ann, bob] = [
      await openPage(browser, pageUrl(proxy.port)),
      await openPage(browser, pageUrl(proxy.port)),
    ];
    const windows = [ann, bob];
    for (const window of windows) {
      await joined(window);
      assertEquals(
        await window.page.evaluate("client.connection.transport.name"),
        "xhr_streaming",
      );
    }
    const say = ({ page }: Window, text: string) =>
      page.evaluate(
        `client.channel("presence-room").trigger("client-said", "${text}")`,
      );
    assertEquals(await say(ann, "hello bob"), true);
    await bob.shows("hello bob");
    assertEquals(await say(bob, "hello ann"), true);
    await ann.shows("hello ann");
    const stop = site.publishing();
    for (const window of windows) await caughtUp(window, 5);

    proxy.upgradeStatus = null;
    for (const window of windows) {
      await until(window, `client.connection.transport.name === "ws"`);
    }
    for (const window of windows) await joined(window);
    const count = stop();
    for (const window of windows) {
      await caughtUp(window, count);
      assertEquals(await heard(window), upTo(count));
    }
    await say(ann, "over the socket");
    await bob.shows("over the socket");
  },
);

// ---- Cuts -------------------------------------------------------------------

/** In a page one client alone is hit by all of them. */
const STORM = { cuts: 10, seconds: 4, longestMs: 800 };

/** How often a page that is not connected is told that it is online. */
const ONLINE_MS = 1_500;

const CLIENTS = [
  { name: "our client", script: undefined, prefix: "", isExact: true },
  {
    name: "pusher-js with a session",
    script: "/stock.js",
    prefix: `/r/${crypto.randomUUID()}`,
    isExact: false,
  },
];

for (const client of CLIENTS) {
  browserTest(
    `pages with ${client.name} miss nothing over cuts, whatever the transport`,
    async (browser) => {
      console.info(`LOSS_SEED=${seed}`);
      const pages = TRANSPORTS.map((transport, i) =>
        weather(browser, client, transport, seed + i)
      );
      await Promise.all(pages);
    },
  );
}

/** Has one page go through a storm of its own. */
async function weather(
  browser: Browser,
  { script, prefix, isExact }: typeof CLIENTS[number],
  transport: Transport,
  seed: number,
): Promise<void> {
  await using site = new Site();
  await using proxy = await FaultProxy.open({ port: site.port });
  const options = {
    cluster: "none",
    wsHost: "127.0.0.1",
    wsPort: proxy.port,
    wsPath: prefix,
    httpHost: "127.0.0.1",
    httpPort: proxy.port,
    httpPath: `${prefix}/pusher`,
    forceTLS: false,
    enabledTransports: [transport],
    activityTimeout: 500,
    pongTimeout: 500,
  };
  // The page itself comes over a good network.
  const url = pageUrl(site.port, options, script);
  const window = await openPage(browser, url);
  await joined(window);
  // As on a phone: the waiting between attempts is ended now and then.
  await window.page.evaluate(`setInterval(() => {
    if (client.connection.state !== "connected") {
      dispatchEvent(new Event("online"));
    }
  }, ${ONLINE_MS})`);
  const stop = site.publishing();
  await proxy.storm(planStorm({ seed, ...STORM }));
  await proxy.clear("close", 100);
  await site.publish();
  const count = stop();
  await caughtUp(window, count);
  const numbers = Object.entries(await heard(window)).map(([channel, all]) => [
    channel,
    isExact ? all : [...new Set(all)],
  ]);
  assertEquals(Object.fromEntries(numbers), upTo(count), transport);
  assert(site.connections > 1);
}
