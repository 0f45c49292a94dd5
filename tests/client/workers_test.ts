/**
 * The served client where the browser does not let it load code later: in service
 * workers, and under a content security policy that names one script. The scripts
 * with `?full` have all code from the start; the others say that it is missing.
 */
import { Pusher } from "@glitz/pusher";
import { encryption } from "@glitz/pusher/encryption";
import { fallback } from "@glitz/pusher/fallback";
import { assertEquals, assertStringIncludes } from "@std/assert";
import nacl from "npm:tweetnacl@1.0.3/nacl-fast.min.js" with { type: "text" };
import {
  type AnyWindow,
  browserTest,
  EVERY_BROWSER,
  openPage,
} from "../support/browser.ts";
import { Queue } from "../support/queue.ts";

const KEY = "app-key";
const CHANNEL = "private-encrypted-room";

type TransportName = "ws" | "xhr_streaming";

/** Serves a client, and scripts that report what the client does. */
class Site implements AsyncDisposable {
  readonly reports = new Queue<string[]>();
  readonly #pusher = new Pusher({
    key: KEY,
    authorize: () => true,
    encryption: encryption({ masterKeyBase64: btoa("k".repeat(32)) }),
  });
  readonly #http = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    Pusher.cascade(
      this.#pusher.handler,
      fallback(this.#pusher),
      (request) => this.#serve(request),
    ),
  );

  get origin(): string {
    return `http://127.0.0.1:${this.#http.addr.port}`;
  }

  /** Publishes an event that only subscribers can read. */
  async say(text: string): Promise<void> {
    await this.#pusher.trigger(CHANNEL, "said", text);
  }

  async #serve(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname === "/report") {
      this.reports.push(await request.json());
      return new Response();
    }
    const script = searchParams.get("script");
    if (pathname === "/page") {
      const policy = searchParams.get("policy");
      return new Response(`<!doctype html>${script ?? ""}`, {
        headers: {
          "content-type": "text/html",
          ...policy && { "content-security-policy": policy },
        },
      });
    }
    const body = pathname === "/nacl.js" ? nacl : script ?? "";
    return new Response(body, {
      headers: { "content-type": "text/javascript" },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pusher.close();
    await this.#http.shutdown();
  }
}

/** What a client does with an encrypted channel, reported to the server. */
const follow = (transport: TransportName) => `
  const report = (...items) =>
    fetch("/report", { method: "POST", body: JSON.stringify(items) });
  const client = new Pusher("${KEY}", {
    ...pusher.options,
    nacl: globalThis.nacl,
    enabledTransports: ["${transport}"],
  });
  client.subscribe("${CHANNEL}")
    .bind("pusher:subscription_succeeded", () => {
      report("joined", client.connection.transport.name);
    })
    .bind("pusher:subscription_error", ({ error }) => report("error", error))
    .bind("said", (text) => report("said", text));
  client.connection.bind("error", ({ error }) => {
    report("error", error.data.message);
    client.disconnect();
  });`;

const LOADERS = {
  classic: (path: string) => `importScripts("/nacl.js", "${path}");`,
  module: (path: string) =>
    `import "/nacl.js"; import { Pusher, pusher } from "${path}";`,
};

/** Registers a service worker from a page, and waits until it is active. */
async function register(
  { page }: AnyWindow,
  kind: keyof typeof LOADERS,
  script: string,
): Promise<void> {
  const url = `/worker.js?script=${encodeURIComponent(script)}`;
  await page.evaluate(`(async () => {
    const registration = await navigator.serviceWorker.register(
      ${JSON.stringify(url)},
      { type: "${kind}", scope: "/" + Math.random() },
    );
    const worker = registration.installing ?? registration.active;
    await new Promise((resolve) => {
      const look = () => worker.state === "activated" && resolve();
      worker.onstatechange = look;
      look();
    });
  })()`);
}

for (const kind of ["classic", "module"] as const) {
  const path = kind === "classic" ? "/pusher.js" : "/pusher.mjs";

  browserTest(
    `a ${kind} service worker with ${path}?full decrypts, over WebSocket and HTTP`,
    async (browser) => {
      await using site = new Site();
      const window = await openPage(browser, `${site.origin}/page`);
      for (const transport of ["ws", "xhr_streaming"] as const) {
        const script = LOADERS[kind](`${path}?full`) + follow(transport);
        await register(window, kind, script);
        assertEquals(await site.reports.next("report"), ["joined", transport]);
        await site.say(`over ${transport}`);
        const said = ["said", `over ${transport}`];
        assertEquals(await site.reports.next("report"), said);
      }
    },
    EVERY_BROWSER,
  );

  browserTest(
    `a ${kind} service worker with ${path} says that it needs ?full`,
    async (browser) => {
      await using site = new Site();
      const window = await openPage(browser, `${site.origin}/page`);
      for (const transport of ["ws", "xhr_streaming"] as const) {
        await register(window, kind, LOADERS[kind](path) + follow(transport));
        const [what, message = ""] = await site.reports.next("report");
        assertEquals(what, "error", message);
        assertStringIncludes(message, "/pusher.js?full");
      }
    },
  );
}

browserTest(
  "a page whose policy names one script decrypts with /pusher.js?full, and says that it needs it",
  async (browser) => {
    await using site = new Site();
    for (const path of ["/pusher.js?full", "/pusher.js"]) {
      const script = `<script src="/nacl.js"></script>
        <script src="${path}"></script><script>${follow("ws")}</script>`;
      const { origin } = site;
      const policy =
        `script-src ${origin}/nacl.js ${origin}/pusher.js 'unsafe-inline'`;
      const url = new URL("/page", origin);
      url.search = `${new URLSearchParams({ script, policy })}`;
      const { page } = await openPage(browser, url.href);
      const [what, message = ""] = await site.reports.next("report");
      if (path.endsWith("full")) {
        assertEquals([what, message], ["joined", "ws"]);
      } else assertStringIncludes(message, "/pusher.js?full");
      await page.close();
    }
  },
);
