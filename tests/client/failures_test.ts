/**
 * Failures that no handler of a program hears: the console names them once, with what
 * to do, and the debug log has all that the log of pusher-js has.
 */
import { Pusher as Server, type PusherOptions } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { Pusher } from "@glitz/pusher/client";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { BROWSERS, browserTest, openPage } from "../support/browser.ts";
import { heard } from "../support/client.ts";
import { DEADLINE_MS } from "../support/deadline.ts";
import { findInstalled } from "../support/installed.ts";
import { PusherJs } from "../support/stock.ts";

/** A program of the page, with our client or with the stock client. */
const PAGE = `<!doctype html><link rel="icon" href="data:,"><body>
<script src="/stock.js"></script><script>
const Stock = Pusher;
const options = { cluster: "x", wsHost: location.hostname, wsPort: +location.port,
  forceTLS: false, enabledTransports: ["ws"] };
</script><script src="/pusher.js"></script><script>
const heard = (emitter, event) => new Promise((resolve) =>
  emitter.bind(event, resolve));
</script>`;

const STOCK = await Deno.readTextFile(
  new URL(
    import.meta.resolve("pusher-js").replace(/node\/.*/, "web/pusher.js"),
  ),
);

/** A server with the page. */
class Site implements AsyncDisposable {
  readonly server: Server;
  readonly #http: Deno.HttpServer<Deno.NetAddr>;
  /** The content security policy of the page. */
  policy = "";

  constructor(options: PusherOptions = {}) {
    this.server = new Server({ key: "app-key", ...options });
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      Server.cascade(this.server.handler, fallback(this.server), (request) => {
        const { pathname } = new URL(request.url);
        if (pathname === "/") return this.#page();
        if (pathname !== "/stock.js") return null;
        const headers = { "content-type": "text/javascript" };
        return new Response(STOCK, { headers });
      }),
    );
  }

  get port(): number {
    return this.#http.addr.port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  #page(): Response {
    const headers = new Headers({ "content-type": "text/html" });
    if (this.policy) headers.set("content-security-policy", this.policy);
    return new Response(PAGE, { headers });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.#http.shutdown();
  }
}

/**
 * Failures: options of the server, what a page does, the event that tells it when its
 * time is over, and what the warning has to say.
 */
const FAILURES: [
  title: string,
  options: PusherOptions,
  act: string,
  over: string,
  said: string[],
][] = [
  [
    "a private channel without authorize",
    {},
    `globalThis.client = new Class("app-key", options);
     globalThis.emitter = client.subscribe("private-a");`,
    "pusher:subscription_error",
    [
      "private-a",
      "/pusher/auth",
      'does the server have "authorize"?',
      'option "authorize"',
    ],
  ],
  [
    "a channel that authorize refuses",
    { authorize: () => false },
    `globalThis.client = new Class("app-key", options);
     globalThis.emitter = client.subscribe("private-a");`,
    "pusher:subscription_error",
    ["private-a", "not allowed"],
  ],
  [
    "a client event that the server does not allow",
    { authorize: () => true },
    `globalThis.client = new Class("app-key", options);
     globalThis.emitter = client.subscribe("private-a");
     emitter.bind("pusher:subscription_succeeded", () =>
       emitter.trigger("client-a", 1));`,
    "pusher:error",
    ["private-a", "`clientEvents: true`"],
  ],
  [
    "a key that no app has",
    {},
    `globalThis.client = new Class("wrong", options);
     globalThis.emitter = client.connection;`,
    "disconnected",
    ["disconnected", "4001", "No app has this key", "`key`"],
  ],
  [
    "a sign-in without authenticate",
    {},
    `globalThis.client = new Class("app-key", options);
     client.signin();
     globalThis.emitter = client.user;`,
    "pusher:signin_error",
    [
      "/pusher/user-auth",
      'does the server have "authenticate"?',
      'option "authenticate"',
    ],
  ],
];

/** The lines of the console of a page that hold no other word, by their kind. */
function warningsOf(page: {
  on(
    name: "console",
    handler: (message: { type(): string; text(): string }) => void,
  ): unknown;
}): string[] {
  const warnings: string[] = [];
  page.on("console", (message) => {
    const text = message.text();
    const isOurs = text.startsWith("Pusher: ");
    if (isOurs && /^warn/.test(message.type())) warnings.push(text);
  });
  return warnings;
}

for (const [title, options, act, over, said] of FAILURES) {
  browserTest(
    `${title}: the console says once what to do, unless a handler hears of it`,
    async (browser) => {
      await using site = new Site(options);
      const window = await openPage(browser, site.url);
      const warnings = warningsOf(window.page);
      const run = (body: string) =>
        window.page.evaluate(`(async () => {
          const Class = Pusher;
          ${body}
        })()`);
      // With a handler of its own the program knows.
      await run(`${act} await heard(emitter, "${over}"); client.disconnect();`);
      await run(`console.log("fence")`);
      await window.logs("fence");
      assertEquals(warnings, []);
      // Without it the log tells when it is over, and a second time is no news.
      const line = over === "disconnected" ? "-> disconnected" : `for ${over}`;
      await run(`globalThis.seen = 0;
        Pusher.log = (line) => seen += line.includes("${line}") ? 1 : 0;`);
      for (const times of [1, 2]) {
        await run(act);
        await window.page.waitForFunction(`seen === ${times}`);
        if (over !== "disconnected") await run("client.disconnect()");
      }
      await run(`console.log("last fence")`);
      await window.logs("last fence");
      assertEquals(warnings.length, 1, JSON.stringify(warnings));
      for (const text of said) assertStringIncludes(warnings[0] ?? "", text);
    },
    BROWSERS,
  );
}

/** The kinds of lines of a log, each with what the clients may say differently. */
function linesOf(log: string[]): string[] {
  const lines = log.map((line) => line.replace("Pusher :  : ", ""));
  return lines.flatMap((line) => {
    const [first, second] = JSON.parse(line);
    if (first === "State changed") {
      return [`${first} ${second.replace(/ with new.*/, "")}`];
    }
    if (first === "Connecting") return [`${first} ${second.transport}`];
    if (first === "Event sent" || first === "Event recd") {
      return [`${first} ${second.event} ${second.channel ?? ""}`];
    }
    if (typeof first !== "string") return [JSON.stringify(first)];
    // Texts about failures are the client's own.
    return [first.startsWith("No callbacks") ? first : "failure"];
  }).sort();
}

Deno.test("the debug log has all that pusher-js logs of the same run", async () => {
  await using site = new Site({
    authorize: (_request, { channel }) => channel === "private-a",
  });
  const logs = [];
  for (const Class of [PusherJs, Pusher]) {
    const log: string[] = [];
    Class.log = (line: string) => log.push(line);
    const options = {
      cluster: "x",
      wsHost: "127.0.0.1",
      wsPort: site.port,
      forceTLS: false,
      enabledTransports: ["ws"],
      channelAuthorization: { endpoint: `${site.url}/pusher/auth` },
      userAuthentication: { endpoint: `${site.url}/pusher/user-auth` },
    };
    // deno-lint-ignore no-explicit-any -- the types of two libraries
    const client = new (Class as any)("app-key", options);
    const open = client.subscribe("a");
    const joined = client.subscribe("private-a");
    await Promise.all([
      heard(joined, "pusher:subscription_succeeded"),
      heard(client.subscribe("private-b"), "pusher:subscription_error"),
    ]);
    const received = heard(open, "x");
    await site.server.trigger("a", "y", 1);
    await site.server.trigger("a", "x", 1);
    await received;
    joined.trigger("client-a", 1);
    await heard(client.connection, "error");
    client.signin();
    await heard(client.user, "pusher:signin_error");
    client.unsubscribe("a");
    client.disconnect();
    // A key that no app has.
    // deno-lint-ignore no-explicit-any -- as above
    const refused = new (Class as any)("wrong", options);
    await heard(refused.connection, "disconnected");
    Class.log = null as unknown as typeof Class.log;
    logs.push(linesOf(log));
  }
  const [stock = [], ours = []] = logs;
  const rest = [...ours];
  for (const line of stock) {
    const at = rest.indexOf(line);
    assert(at >= 0, `${line}, in ${JSON.stringify(ours)}`);
    rest.splice(at, 1);
  }
});

browserTest(
  "a blocked part of the client is named with its address, and is no AuthError",
  async (browser) => {
    await using site = new Site();
    site.policy =
      `script-src ${site.url}/pusher.js ${site.url}/stock.js 'unsafe-inline' 'unsafe-eval'`;
    const window = await openPage(browser, site.url);
    const warnings = warningsOf(window.page);
    const address = `${site.url}/pusher-fallback.mjs`;
    const [type, error] = await window.page.evaluate(`(async () => {
      globalThis.client = new Pusher("app-key", {
        url: location.origin, enabledTransports: ["xhr_streaming"] });
      const { type, error } = await heard(client.connection, "error");
      client.disconnect();
      return [type, error.data.message];
    })()`) as [string, string];
    assertEquals(type, "WebSocketError");
    assertStringIncludes(error, address);
    assertStringIncludes(error, "content security policy");
    const rest = await window.page.evaluate(`(async () => {
      globalThis.client = new Pusher("app-key", {
        url: location.origin, nacl: {},
        channelAuthorization: { customHandler: (_request, callback) =>
          callback(null, { auth: "a:b", shared_secret: "" }) } });
      const refused = await heard(
        client.subscribe("private-encrypted-a"), "pusher:subscription_error");
      client.disconnect();
      return [refused.type, refused.error];
    })()`) as [string, string];
    assertEquals(rest[0], "LoadError");
    assertStringIncludes(rest[1], address);
    assertEquals(warnings, []);
    // Without a handler.
    await window.page.evaluate(`(() => {
      globalThis.client = new Pusher("app-key", {
        url: location.origin, enabledTransports: ["xhr_streaming"] });
    })()`);
    await window.logs("Pusher: connecting");
    assertEquals(warnings.length, 1);
    assertStringIncludes(warnings[0]!, address);
    await window.page.evaluate("client.disconnect()");
  },
  BROWSERS,
);

/** Runs a program in Node.js without WebSocket; returns all that it prints. */
async function runInNode(node: string, program: string): Promise<string> {
  const signal = AbortSignal.timeout(DEADLINE_MS);
  const { stdout, stderr } = await new Deno.Command(node, {
    args: ["--input-type=module", "--eval", program],
    signal,
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return decode(stdout) + decode(stderr);
}

const node = findInstalled("node");

Deno.test({
  name: "Node.js without WebSocket: the client says so, and uses HTTP" +
    (node === null ? " (no node)" : ""),
  ignore: node === null,
  async fn() {
    await using site = new Site();
    const text = await (await fetch(`${site.url}/pusher.mjs?full`)).text();
    const program = await Deno.makeTempFile({ suffix: ".mjs" });
    try {
      // Node.js 22 has WebSocket.
      await Deno.writeTextFile(program, `delete globalThis.WebSocket;${text}`);
      const load = `const { Pusher } = await import(${
        JSON.stringify(program)
      });`;
      const said = await runInNode(
        node!,
        `${load}
        const client = new Pusher("app-key", { url: "${site.url}" });
        client.connection.bind("connected", () => {
          console.log(client.connection.transport.name);
          client.disconnect();
        });`,
      );
      assertStringIncludes(said, "xhr_streaming");
      assertStringIncludes(said, "WebSocket is not defined, Node.js 22 has it");
      const alone = await runInNode(
        node!,
        `${load}
        try { new Pusher("app-key"); } catch (error) { console.log(error.message); }`,
      );
      assertStringIncludes(
        alone,
        '"url", "wsHost" or "cluster" is missing outside a page',
      );
    } finally {
      await Deno.remove(program);
    }
  },
});
