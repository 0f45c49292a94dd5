/**
 * Our client in real browsers, on networks that fail: the offline switch of Chromium,
 * a proxy that refuses `Upgrade`, and a proxy that cuts connections at random times,
 * from a seed. The stock client's web build is tested, too, because each browser
 * treats requests in its own way.
 *
 * While Chromium is offline it refuses new requests and sockets. An open WebSocket
 * stays open and silent in both directions, and afterwards Chromium passes on the
 * held-up frames, unless the client has closed it; a response that has begun
 * continues. Only a client that gives up the connection meets the same conditions as
 * on an offline machine. Ours gives up 5 seconds after the page's `offline` event.
 * LOSS_OFFLINE_SECONDS=30 makes it as long as a walk through a tunnel. The switch of
 * Firefox does not reach open sockets.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { assert, assertEquals, assertMatch } from "@std/assert";
import type { BrowserContext } from "puppeteer-core";
import {
  BROWSERS,
  browserTest,
  openPage,
  type Window,
} from "../support/browser.ts";
import { APP } from "../support/server.ts";
import { type Transport, TRANSPORTS } from "../programs/loss/clients.ts";
import { FaultProxy, planStorm } from "../support/proxy.ts";

const offlineSeconds = Number(Deno.env.get("LOSS_OFFLINE_SECONDS") || 7);
const seed = Number(Deno.env.get("LOSS_SEED") || Date.now() >>> 0);

/** Interval of publishing: the test is about time, not about load. */
const INTERVAL_MS = 50;

/** Polls, because pages in the background draw no frames to wait for. */
const POLLING_MS = 50;

const CHANNELS = ["news", "presence-room"];

/** The web build of the stock client, as a page loads it. */
const webBuild = await Deno.readTextFile(
  new URL("../web/pusher.js", import.meta.resolve("pusher-js")),
);

/** A server with pages that record the events of a client. */
class Site implements AsyncDisposable {
  readonly pusher: Pusher;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;
  /** Number of connections so far. */
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

  /** Publishes at intervals. Returns a function that stops and returns the count. */
  startPublishing(): () => number {
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
 * Serves the page. Its URL chooses the client and the options. pusher-js gives up a
 * transport after two short-lived connections; then the page makes a new client.
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

/** URL of a page, whose client is in its variable `client`. */
function pageUrl(port: number, options?: object, script?: string): string {
  const url = new URL(`http://127.0.0.1:${port}/`);
  if (options) url.searchParams.set("options", JSON.stringify(options));
  if (script) url.searchParams.set("script", script);
  return url.href;
}

/** Waits until a condition is true in the page, also in the background. */
async function until({ page }: Window, truth: string): Promise<void> {
  await page.waitForFunction(truth, { polling: POLLING_MS });
}

async function joined(window: Window): Promise<void> {
  await until(
    window,
    "client.allChannels().every(({ subscribed }) => subscribed)",
  );
}

/** The numbers that the page has received on each channel. */
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

/** Turns the network off, and makes sure that it is off. */
async function goOffline({ page }: Window): Promise<void> {
  await page.setOfflineMode(true);
  const request = `fetch("/").then(() => "arrived", () => "failed")`;
  assertEquals(await page.evaluate(request), "failed");
  assertEquals(await page.evaluate("navigator.onLine"), false);
  // The browser fires the event a moment before the network is off, and a pong may
  // arrive meanwhile. After this second event no pong arrives.
  await page.evaluate(`dispatchEvent(new Event("offline"))`);
}

browserTest(
  `a page that was offline for ${offlineSeconds} s shows every message once, in order`,
  async (browser) => {
    await using site = new Site();
    const window = await openPage(browser, pageUrl(site.port));
    const { page } = window;
    await joined(window);
    const stop = site.startPublishing();
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
  "a page that was offline for a moment receives the held-up events",
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
    const stop = site.startPublishing();
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
  BROWSERS,
);

// ---- Cuts -------------------------------------------------------------------

/** Each page has a storm of its own, whose cuts all hit its client. */
const STORM = { cuts: 10, seconds: 4, longestMs: 800 };

/** Interval of `online` events in a page that is not connected. */
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
    client.isExact ? BROWSERS : ["Chromium"],
  );
}

/** Runs a page through a storm of its own, and checks what it received. */
async function weather(
  browser: BrowserContext,
  { script, prefix, isExact }: typeof CLIENTS[number],
  transport: Transport,
  stormSeed: number,
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
  // The page itself is loaded over a good network.
  const url = pageUrl(site.port, options, script);
  const window = await openPage(browser, url);
  await joined(window);
  // As on a phone, where `online` events end the delay between attempts.
  await window.page.evaluate(`setInterval(() => {
    if (client.connection.state !== "connected") {
      dispatchEvent(new Event("online"));
    }
  }, ${ONLINE_MS})`);
  const stop = site.startPublishing();
  await proxy.storm(planStorm({ seed: stormSeed, ...STORM }));
  // A page that polls has no connection at times: none is made until it knows.
  await proxy.clear("close", Infinity);
  await until(window, `client.connection.state !== "connected"`);
  proxy.admit();
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
