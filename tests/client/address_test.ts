/**
 * Where our client goes: the server that its script came from, also behind a proxy that
 * strips a prefix, the options for the address, the auth endpoints and their cookies.
 */
import { Pusher } from "@glitz/pusher/client";
import { assertEquals, assertThrows } from "@std/assert";
import { Client, heard, open, RealServer, Server } from "../support/client.ts";
import {
  BROWSERS,
  browserTest,
  openPage,
  type Window,
} from "../support/browser.ts";
import { DEADLINE_MS } from "../support/deadline.ts";
import { findInstalled } from "../support/installed.ts";
import { strip, stripByNginx } from "../support/reverse_proxy.ts";

const authorize = () => true;
const authenticate = () => ({ id: "ann" });

// ---- url --------------------------------------------------------------------

Deno.test("url stands for host, ports, path and TLS, and other options override it", () => {
  const config = (url: string, options = {}) => {
    const all = { url, ...options, enabledTransports: [] };
    const { wsHost, wsPort, wssPort, wsPath, useTLS } =
      new Pusher("app-key", all).config;
    return [wsHost, useTLS ? wssPort : wsPort, wsPath, useTLS];
  };
  const a = "a.example";
  assertEquals(config("https://a.example"), [a, 443, "", true]);
  assertEquals(config("https://a.example/"), [a, 443, "", true]);
  assertEquals(config("http://a.example/x/y/"), [a, 80, "/x/y", false]);
  assertEquals(config("https://a.example:81/x"), [a, 81, "/x", true]);
  assertEquals(config("http://[::1]:81"), ["[::1]", 81, "", false]);
  // Stock clients need a cluster beside a host.
  assertEquals(config("http://a.example", { cluster: "mt1" })[0], a);
  assertEquals(
    config("https://a.example:81/x", {
      wsHost: "b.example",
      wssPort: 82,
      wsPath: "/y",
    }),
    ["b.example", 82, "/y", true],
  );
  assertEquals(config("https://a.example", { forceTLS: false })[1], 80);
  for (const empty of [null, undefined, "", 0]) {
    const names = ["wsHost", "wsPort", "wssPort", "wsPath"];
    const options: object = Object.fromEntries(
      names.map((name) => [name, empty]),
    );
    const given = config("http://a.example:81/x", options);
    assertEquals(given, [a, 81, "/x", false]);
  }
  for (const forceTLS of [null, undefined]) {
    const given = config("http://a.example:81", { forceTLS });
    assertEquals(given, [a, 81, "", false]);
  }
  for (
    const url of ["a.example", "localhost:8000", "/x", "ftp://a", "blob:x"]
  ) {
    assertThrows(() => config(url), TypeError, '"url" is no HTTP URL');
  }
});

Deno.test("url is where sockets, HTTP and the auth endpoints are", async () => {
  await using server = new RealServer({ authorize, authenticate });
  await using proxy = await strip("/x", server.port);
  for (const transport of ["ws", "xhr_streaming", "xhr_polling"]) {
    const pusher = new Pusher("app-key", {
      url: `http://127.0.0.1:${proxy.port}/x`,
      enabledTransports: [transport],
    });
    const channel = pusher.subscribe("private-a");
    await heard(channel, "pusher:subscription_succeeded");
    pusher.signin();
    await pusher.user.signinDonePromise;
    assertEquals(pusher.user.user_data?.id, "ann");
    pusher.disconnect();
  }
});

// ---- Auth endpoints ---------------------------------------------------------

Deno.test("without options for the auth endpoints, or with null, they are the server's", async () => {
  await using server = new RealServer({ authorize, authenticate });
  for (const empty of [null, undefined]) {
    // The types leave null out; stock clients accept it.
    const options: object = {
      channelAuthorization: empty,
      userAuthentication: empty,
    };
    using client = new Client(server, options);
    const { pusher } = client;
    const channel = pusher.subscribe("private-a");
    await heard(channel, "pusher:subscription_succeeded");
    pusher.signin();
    await pusher.user.signinDonePromise;
    assertEquals(pusher.user.user_data?.id, "ann");
  }
});

Deno.test("the auth endpoints are those of the server, wherever wsHost and wsPath point", async () => {
  for (const path of ["", "/x"]) {
    await using server = new RealServer({ authorize, authenticate, path });
    for (const session of ["", `/r/${crypto.randomUUID()}`]) {
      using client = new Client(server, { wsPath: path + session });
      const { pusher } = client;
      const names = ["private-a", "private-b"];
      await Promise.all(
        names.map((name) =>
          heard(pusher.subscribe(name), "pusher:subscription_succeeded")
        ),
      );
      pusher.signin();
      await pusher.user.signinDonePromise;
      assertEquals(pusher.user.user_data?.id, "ann");
    }
  }
});

/** What the requests of a client to auth endpoints were. */
async function asked(
  extensions: string[],
  options: ConstructorParameters<typeof Client>[1],
  page?: string,
): Promise<[url: string, credentials: string][]> {
  await using server = new Server();
  server.extensions = extensions;
  const { fetch, location } = globalThis;
  const requests: [string, string][] = [];
  Object.defineProperty(globalThis, "location", {
    value: page && { origin: page, href: page },
    configurable: true,
  });
  globalThis.fetch = (input, init) => {
    const url = String(input).replace(`127.0.0.1:${server.port}`, "server");
    requests.push([url, init?.credentials ?? "same-origin"]);
    return Promise.resolve(new Response("no", { status: 403 }));
  };
  try {
    using connection = await open(server, options);
    const { pusher } = connection.client;
    await heard(pusher.subscribe("private-a"), "pusher:subscription_error");
    pusher.signin();
    await pusher.user.signinDonePromise;
  } finally {
    globalThis.fetch = fetch;
    Object.defineProperty(globalThis, "location", {
      value: location,
      configurable: true,
      writable: true,
    });
  }
  return requests;
}

const PAGE = "http://page.example";
const OURS = ["batch", "/pusher/auth", "/pusher/user-auth"];

Deno.test("the auth endpoints are the page's where the server does not answer the page", async () => {
  const own = ["http://server/pusher/auth", "http://server/pusher/user-auth"];
  const pages = ["/pusher/auth", "/pusher/user-auth"];
  const urls = async (...args: Parameters<typeof asked>) =>
    (await asked(...args)).map(([url]) => url);
  assertEquals(await urls(OURS, {}, PAGE), own);
  // As with pusher-js: any other server, and one with endpoints of the program.
  assertEquals(await urls([], {}, PAGE), pages);
  assertEquals(await urls(["batch", "auth"], {}, PAGE), pages);
  assertEquals(await urls(OURS.slice(0, 2), {}, PAGE), [own[0], pages[1]]);
  // Without a page there is nothing that a path could be relative to.
  assertEquals(await urls([], {}), own);
  assertEquals(await urls([], {}, "file://"), own);
  const endpoint = "/mine";
  const named = { channelAuthorization: { endpoint } };
  assertEquals(await urls(OURS, named, PAGE), [endpoint, own[1]]);
  const old = { authEndpoint: endpoint };
  assertEquals(await urls(OURS, old, PAGE), [endpoint, own[1]]);
});

Deno.test("only endpoints of the server get cookies, or endpoints with the option", async () => {
  const credentials = async (...args: Parameters<typeof asked>) =>
    (await asked(...args)).map(([, credentials]) => credentials);
  const both = [...OURS, "credentials"];
  assertEquals(await credentials(both, {}, PAGE), ["include", "include"]);
  assertEquals(await credentials(OURS, {}, PAGE), [
    "same-origin",
    "same-origin",
  ]);
  // Such an endpoint may allow any origin, and then no cookies.
  const endpoint = "https://other.example/auth";
  const named = { channelAuthorization: { endpoint } };
  assertEquals(await credentials(both, named, PAGE), [
    "same-origin",
    "include",
  ]);
  assertEquals(
    await credentials(both, {
      channelAuthorization: { endpoint, credentials: "include" },
      userAuthentication: { credentials: "omit" },
    }, PAGE),
    ["include", "omit"],
  );
});

browserTest(
  "a page of a listed origin sends its cookies to the server, over all transports",
  async (browser) => {
    const cookies: (string | null)[] = [];
    await using pages = new RealServer();
    const origin = `http://localhost:${pages.port}`;
    await using server = new RealServer({
      origins: origin,
      authorize(request) {
        cookies.push(request.headers.get("cookie"));
        return true;
      },
    });
    // Cookies are of a host, whatever the port.
    pages.page = `<script>document.cookie = "session=s1"</script>
      <script src="http://localhost:${server.port}/pusher.js"></script>
      <script>globalThis.client = pusher</script>`;
    for (const isBlocking of [false, true]) {
      server.isBlocking = isBlocking;
      const window = await openPage(browser, origin);
      await joins(window);
      await window.page.close();
    }
    assertEquals(cookies, ["session=s1", "session=s1"]);
  },
);

browserTest(
  "a page of any origin joins where any origin is allowed, without cookies",
  async (browser) => {
    const cookies: (string | null)[] = [];
    await using pages = new RealServer();
    await using server = new RealServer({
      origins: "*",
      authorize(request) {
        cookies.push(request.headers.get("cookie"));
        return true;
      },
    });
    pages.page = `<script>document.cookie = "session=s1"</script>
      <script src="http://localhost:${server.port}/pusher.js"></script>
      <script>globalThis.client = pusher</script>`;
    const window = await openPage(browser, `http://localhost:${pages.port}`);
    await joins(window);
    assertEquals(cookies, [null]);
  },
);

// ---- Behind a proxy ---------------------------------------------------------

/** Ways in which a page loads the script, each of which sets `client`. */
const LOADS: Record<string, string> = {
  "a script": `<script src="/x/pusher.js"></script>
    <script>globalThis.client = pusher</script>`,
  "an async script": `<script async src="/x/pusher.js"
    onload="globalThis.client = pusher"></script>`,
  "a deferred script": `<script defer src="/x/pusher.js"
    onload="globalThis.client = pusher"></script>`,
  "a script beside an element that is called currentScript":
    `<img name="currentScript" src="/y/pusher.js">
    <script src="/x/pusher.js"></script>
    <script>globalThis.client = pusher</script>`,
  "a module": `<script type="module">
    import { pusher } from "/x/pusher.mjs";
    globalThis.client = pusher;
  </script>`,
};

/** Scripts of a worker, in which `client` answers the page. */
const WORKER = `client.subscribe("private-a")
  .bind("pusher:subscription_succeeded", () => postMessage("joined"))
  .bind("pusher:subscription_error", ({ error }) => postMessage(error));`;

/** A page whose worker loads the script. */
const inWorker = (code: string, type: string) =>
  `<script>
  const code = ${JSON.stringify(code + WORKER)}
    .replaceAll("ORIGIN", location.origin);
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "${type}" });
  worker.onmessage = ({ data }) => console.log(data);
</script>`;

const WORKERS: Record<string, string> = {
  "a worker": inWorker(
    'importScripts("ORIGIN/x/pusher.js"); const client = pusher;',
    "classic",
  ),
  "a module of a worker": inWorker(
    'import { pusher as client } from "ORIGIN/x/pusher.mjs";',
    "module",
  ),
};

async function joins(window: Window): Promise<void> {
  await window.page.waitForFunction("globalThis.client");
  await window.page.evaluate(`client.subscribe("private-a")
    .bind("pusher:subscription_succeeded", () => console.log("joined"))
    .bind("pusher:subscription_error", ({ error }) => console.log(error))`);
  await window.logs("joined");
}

for (const [what, page] of Object.entries({ ...LOADS, ...WORKERS })) {
  browserTest(
    `${what} finds its server behind a proxy that strips a prefix`,
    async (browser) => {
      await using server = new RealServer({ authorize });
      server.page = `<!doctype html><body>${page}`;
      await using proxy = await strip("/x", server.port);
      const url = `http://127.0.0.1:${proxy.port}/x/`;
      const window = await openPage(browser, url);
      if (what in WORKERS) await window.logs("joined");
      else await joins(window);
    },
    what === "a script" || what === "a worker" ? BROWSERS : ["Chromium"],
  );
}

const nginx = findInstalled("nginx");
const name = "pages find their server, over all transports, behind nginx";
if (nginx === null) Deno.test.ignore(`${name} (no nginx)`, () => {});
else {
  browserTest(name, async (browser) => {
    await using server = new RealServer({ authorize });
    await using proxy = await stripByNginx(nginx, "/x", server.port);
    for (const isBlocking of [false, true]) {
      server.isBlocking = isBlocking;
      server.page = `<!doctype html><body>${LOADS["a script"]}`;
      const url = `http://127.0.0.1:${proxy.port}/x/`;
      const window = await openPage(browser, url);
      await joins(window);
      assertEquals(
        await window.page.evaluate("client.connection.transport.name"),
        isBlocking ? "xhr_streaming" : "ws",
      );
      await window.page.close();
    }
  });
}

/** A program that imports a file, and joins a private channel. */
const PROGRAM = `const { pusher } = await import(process.argv.at(-1));
  pusher.subscribe("private-a")
    .bind("pusher:subscription_error", ({ error }) => {
      console.log(error);
      pusher.disconnect();
    })
    .bind("pusher:subscription_succeeded", () => {
      console.log("joined");
      pusher.disconnect();
    });`;

/** Runs a program in a runtime, and returns what it prints. */
async function run(command: string, args: string[]): Promise<string> {
  const signal = AbortSignal.timeout(DEADLINE_MS);
  const { stdout, stderr } = await new Deno.Command(command, { args, signal })
    .output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return decode(stdout).trim() || decode(stderr);
}

async function joinsIn(
  runtime: string,
  args: string[],
  url: string,
): Promise<void> {
  const file = await Deno.makeTempFile({ suffix: ".mjs" });
  const script = await Deno.makeTempFile({ suffix: ".mjs" });
  try {
    await Deno.writeTextFile(file, PROGRAM);
    // Only Deno imports from URLs. The text alone knows where it was fetched from.
    const text = await (await fetch(url)).text();
    await Deno.writeTextFile(script, text);
    const source = runtime === Deno.execPath() ? url : script;
    const said = await run(runtime, [...args, file, source]);
    assertEquals(said, "joined", runtime);
  } finally {
    await Promise.all([file, script].map((path) => Deno.remove(path)));
  }
}

const RUNTIMES = {
  deno: ["run", "--allow-all", "--no-config", "--no-lock", "--reload"],
  // Node.js 20 has WebSocket behind a flag.
  node: ["--experimental-websocket"],
  bun: ["run"],
};

for (const [runtime, args] of Object.entries(RUNTIMES)) {
  const isDeno = runtime === "deno";
  const path = isDeno ? Deno.execPath() : findInstalled(runtime);
  Deno.test({
    name: `the served module finds its server in ${runtime}` +
      (path === null ? ` (no ${runtime})` : ""),
    ignore: path === null,
    async fn() {
      await using server = new RealServer({ authorize });
      await using stripping = await strip("/x", server.port);
      // Only Deno imports from URLs, and can tell where a proxy has added a prefix.
      const url = isDeno
        ? `http://127.0.0.1:${stripping.port}/x/pusher.mjs`
        : `http://127.0.0.1:${server.port}/pusher.mjs`;
      await joinsIn(path!, args, url);
    },
  });
}
