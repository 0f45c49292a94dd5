/**
 * The examples that show one case each, started as their first lines say: each test
 * checks what all examples have in common, and then what the example is about.
 * `examples_test.ts` has the examples with more to test.
 */
import { Pusher } from "@glitz/pusher";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { BrowserContext } from "puppeteer-core";
import echo from "npm:laravel-echo@2.5.0/iife" with { type: "text" };
import stock from "npm:pusher-js@8.6.0/dist/web/pusher.min.js" with {
  type: "text",
};
import nacl from "npm:tweetnacl@1.0.3/nacl-fast.min.js" with { type: "text" };
import manifest from "../deno.json" with { type: "json" };
import { browserTest, Window } from "./support/browser.ts";
import {
  checkMethods,
  checkParts,
  lists,
  plainUrl,
  post,
} from "./support/example_pages.ts";
import { findInstalled } from "./support/installed.ts";
import { start } from "./support/program.ts";

const ROOT = new URL("..", import.meta.url);

/** What the pages load from other hosts; a browser checks that it is unchanged. */
const CDN: Record<string, string> = {
  "laravel-echo@2.5.0/dist/echo.iife.js": echo,
  "pusher-js@8.6.0/dist/web/pusher.min.js": stock,
  "tweetnacl@1.0.3/nacl-fast.min.js": nacl,
};

/** Starts an example on any port, with the net permission and its own files only. */
async function run(name: string): Promise<AsyncDisposable & { url: string }> {
  const flags = ["--no-prompt", "--no-remote", "--no-npm", "--allow-net"];
  const program = await start(
    ["run", ...flags, `examples/${name}.ts`, "--port", "0"],
    /^[A-Z]\w* on (http:\/\/localhost:\d+\/)\n/m,
  );
  return {
    url: program.ready[1]!,
    [Symbol.asyncDispose]: () => program[Symbol.asyncDispose](),
  };
}

/** Opens a page on a phone, with what it takes from a CDN. */
async function open(context: BrowserContext, url: string): Promise<Window> {
  const page = await context.newPage();
  await page.setRequestInterception(true);
  page.on("request", async (request) => {
    const [, file = ""] = request.url().split("cdn.jsdelivr.net/npm/");
    if (!Object.hasOwn(CDN, file)) return await request.continue();
    await request.respond({
      body: CDN[file]!,
      contentType: "text/javascript",
      headers: { "access-control-allow-origin": "*" },
    });
  });
  await page.setViewport({ width: 320, height: 568 });
  const window = new Window(page);
  await page.goto(url);
  await checkParts(page);
  return window;
}

/** Opens a page where the CDN cannot be reached, and waits until it says so. */
async function openWithoutCdn(
  context: BrowserContext,
  url: string,
): Promise<void> {
  const page = await context.newPage();
  await page.setRequestInterception(true);
  page.on("request", async (request) => {
    if (request.url().startsWith(url)) await request.continue();
    else await request.abort();
  });
  await page.goto(url);
  await page.waitForFunction(
    `document.querySelector("[role=status]").textContent.includes("cannot be loaded")`,
  );
  await page.close();
}

/** Keeps what a page looks like, light and dark. */
async function screenshot({ page }: Window, name: string): Promise<void> {
  await Deno.mkdir(".artifacts", { recursive: true });
  // Chromium paints the page in front only.
  await page.bringToFront();
  for (const scheme of ["light", "dark"]) {
    const features = [{ name: "prefers-color-scheme", value: scheme }];
    await page.emulateMediaFeatures(features);
    await page.screenshot({ path: `.artifacts/${name}_${scheme}.png` });
  }
}

/** Waits until an expression is true in a page. */
const waitFor = ({ page }: Window, condition: string) =>
  page.waitForFunction(condition, { polling: "mutation" });

const click = async ({ page }: Window, selector: string) => {
  await page.bringToFront();
  await page.click(selector);
};

// ---- All of them ------------------------------------------------------------

const EXAMPLES = [...Deno.readDirSync(new URL("examples", ROOT))]
  .flatMap(({ name }) => name.endsWith(".ts") ? [name] : []).sort();

const read = (name: string) =>
  Deno.readTextFile(new URL(`examples/${name}`, ROOT));

Deno.test("all examples begin with what to run, and look alike", async () => {
  const styles = new Map<string, string>();
  for (const name of EXAMPLES) {
    const text = await read(name);
    const [, comment = ""] = /^\/\*\*(.*?)@module\n/s.exec(text) ?? [];
    assertStringIncludes(
      comment.replaceAll(/\n \* /g, " "),
      `\`deno run --allow-net examples/${name}\``,
    );
    // After these lines an example may have some of its own.
    const [style = ""] = /<style>\n(?: {2}.*\n){12}/.exec(text) ?? [];
    styles.set(name, style);
  }
  const [first] = styles.values();
  assert(first !== "");
  for (const [name, style] of styles) assertEquals(style, first, name);
});

Deno.test("examples that need no package can run from the registry", async () => {
  const exported: Record<string, string> = {};
  for (const name of EXAMPLES) {
    const text = await read(name);
    const imports = [...text.matchAll(/^import .* from "(.*)"/gms)];
    // An export with a package would make it a dependency of everybody.
    if (!imports.every(([, target = ""]) => target.startsWith("../"))) continue;
    exported[`./examples/${name.replace(/\.ts$/, "")}`] = `./examples/${name}`;
  }
  const entries = Object.entries(manifest.exports)
    .filter(([name]) => name.startsWith("./examples/"));
  assertEquals(Object.fromEntries(entries), exported);
  // JSR refuses a package that imports itself by its name.
  for (const name of EXAMPLES) {
    assert(!/from "@glitz/.test(await read(name)), name);
  }
});

// ---- One test each ----------------------------------------------------------

browserTest(
  "examples/login.ts pays and notifies, and logs out everywhere",
  async (browser) => {
    await using example = await run("login");
    const { url } = example;
    const methods = { "": "GET, HEAD", login: "POST", payments: "POST" };
    await checkMethods(url, { ...methods, logout: "POST" });
    const ann = await open(browser, plainUrl(url));
    const logIn = async (window: Window, name: string, password: string) => {
      const { page } = window;
      await page.bringToFront();
      await page.type("[name=name]", name);
      await page.type("[name=password]", password);
      await page.keyboard.press("Enter");
    };
    await logIn(ann, "ann", "banana");
    await ann.shows("The password is another one.");
    await screenshot(ann, "login_door");
    await logIn(ann, "ann", "apple");
    // The other user needs another cookie: localhost is another site.
    const bob = await open(browser, url);
    await logIn(bob, "bob", "banana");
    for (const window of [ann, bob]) {
      const joined =
        `globalThis.pusher?.allChannels()[0].subscribed && pusher.user.user_data`;
      await window.page.waitForFunction(joined);
      await checkParts(window.page);
    }
    await click(ann, "[action='/payments'] button");
    await waitFor(ann, `document.querySelector("output").textContent === "95"`);
    await waitFor(
      bob,
      `document.querySelector("output").textContent === "105"`,
    );
    await lists(bob, ["ann has sent you 5"]);
    await lists(ann, []);
    await screenshot(bob, "login");

    // A second page of ann's: it has to leave with the first.
    const second = await open(browser, plainUrl(url));
    await second.page.waitForFunction(`pusher.allChannels()[0].subscribed`);
    await click(ann, "[action='/logout'] button");
    for (const window of [ann, second]) await window.shows("Log in");
    await bob.page.evaluate(`pusher.subscribe("private-account-ann")
    .bind("pusher:subscription_error", ({ status }) => console.log("refused", status))`);
    await bob.logs("403");
    const payment = await post(`${url}payments`, {});
    assertEquals([payment.status, await payment.text()], [401, "log in first"]);
    assertEquals([ann.errors, bob.errors, second.errors], [[], [], []]);
  },
);

browserTest(
  "examples/cursors.ts shows where the others point, until they leave",
  async (browser) => {
    await using example = await run("cursors");
    await checkMethods(example.url, { "": "GET, HEAD" });
    const ann = await open(browser, plainUrl(example.url));
    await ann.shows("You are Guest 1. Others here: 0");
    const bob = await open(browser, plainUrl(example.url));
    await ann.shows("Others here: 1");
    await bob.shows("Others here: 1");
    await bob.page.bringToFront();
    const box = (await (await bob.page.$("#board"))!.boundingBox())!;
    await bob.page.mouse.move(box.x + box.width / 2, box.y + box.height / 4);
    await waitFor(
      ann,
      `document.querySelector("#board span")?.textContent === "Guest 2"`,
    );
    const style = `document.querySelector("#board span").style`;
    await waitFor(
      ann,
      `Math.abs(parseFloat(${style}.left) - 50) < 2 && Math.abs(parseFloat(${style}.top) - 25) < 2`,
    );
    // With the keyboard, too.
    await bob.page.focus("#board");
    await bob.page.keyboard.press("ArrowRight");
    await waitFor(ann, `Math.abs(parseFloat(${style}.left) - 55) < 2`);
    // A changed page can send anything: the server refuses what is no position.
    const bad = `{ x: 2, y: 0 }`;
    await bob.page.evaluate(`new Promise((resolve) => {
    pusher.bind("pusher:error", resolve);
    pusher.connection.bind("error", resolve);
    pusher.channel("presence-board").trigger("client-moved", ${bad});
  })`);
    await screenshot(ann, "cursors");
    await bob.page.close();
    await ann.shows("Others here: 0");
    assertEquals((await ann.page.$$("#board span")).length, 0);
    assertEquals(ann.errors, []);
  },
);

browserTest(
  "examples/chart.ts draws what the server measures, also for who comes late",
  async (browser) => {
    await using example = await run("chart");
    await checkMethods(example.url, { "": "GET, HEAD" });
    const ann = await open(browser, plainUrl(example.url));
    const points =
      `(document.querySelector("polyline").getAttribute("points") ?? "")
    .split(" ").filter(Boolean)`;
    await waitFor(ann, `${points}.length >= 3`);
    const bob = await open(browser, plainUrl(example.url));
    // At once, and not one a second.
    await waitFor(bob, `${points}.length >= 3`);
    await waitFor(
      bob,
      `document.querySelector("#clients").textContent === "2"`,
    );
    const last = await bob.page.evaluate(`${points}.at(-1)`) as string;
    assertEquals(last.split(",")[0], "59");
    await screenshot(ann, "chart");
    assertEquals([ann.errors, bob.errors], [[], []]);
  },
);

browserTest(
  "examples/notes.ts lets pages with the key read, and nobody else",
  async (browser) => {
    await using example = await run("notes");
    const { url } = example;
    await checkMethods(url, { "": "GET, HEAD", notes: "POST" });
    await openWithoutCdn(browser, url);
    const ann = await open(browser, plainUrl(url));
    await waitFor(
      ann,
      `document.querySelector("[role=status]").textContent === ""`,
    );
    const sent: string[] = [];
    const session = await ann.page.createCDPSession();
    await session.send("Network.enable");
    for (const event of ["Sent", "Received"] as const) {
      session.on(`Network.webSocketFrame${event}`, ({ response }) => {
        sent.push(response.payloadData);
      });
    }
    ann.page.on("request", (request) => sent.push(request.postData() ?? ""));
    await ann.page.bringToFront();
    await ann.page.type("[name=note]", "the cat is out <b>");
    await ann.page.keyboard.press("Enter");
    await lists(ann, ["the cat is out <b>"]);
    await screenshot(ann, "notes");

    const bob = await open(browser, ann.page.url());
    await lists(bob, ["the cat is out <b>"]);
    const key = await ann.page.evaluate("location.hash.slice(1)") as string;
    assert(
      key.length === 43 && sent.some((text) => text.includes("ciphertext")),
    );
    for (const text of sent) {
      assert(!text.includes("cat") && !text.includes(key.slice(0, 12)), text);
    }
    // Another notebook, and what is no encrypted note.
    const carol = await open(browser, plainUrl(url));
    await waitFor(
      carol,
      `document.querySelector("[role=status]").textContent === ""`,
    );
    await lists(carol, []);
    const channel = await ann.page.evaluate("name");
    const box = JSON.stringify({
      nonce: "A".repeat(32),
      ciphertext: "A".repeat(24),
    });
    const table: [string, string, number][] = [
      [`${channel}`, `{"note":"plain"}`, 400],
      [`${channel}`, "plain", 400],
      [`${channel}`, "null", 400],
      [`${channel}`, "x".repeat(9_000), 413],
      ["messages", box, 400],
      [`${channel}`, box, 201],
    ];
    for (const [channel, body, status] of table) {
      const address = `${url}notes?channel=${channel}`;
      const response = await fetch(address, { method: "POST", body });
      await response.body?.cancel();
      assertEquals(response.status, status, `${channel} ${body.slice(0, 50)}`);
    }
    assertEquals([ann.errors, bob.errors, carol.errors], [[], [], []]);
  },
);

browserTest(
  "examples/echo.ts serves Laravel Echo and pusher-js, unmodified",
  async (browser) => {
    await using example = await run("echo");
    const { url } = example;
    const methods = { "": "GET, HEAD", "pusher-js": "GET, HEAD" };
    await checkMethods(url, { ...methods, orders: "POST" });
    await openWithoutCdn(browser, url);
    const pages = [
      await open(browser, plainUrl(url)),
      await open(browser, `${plainUrl(url)}pusher-js`),
    ];
    const ready = `document.querySelector("[role=status]").textContent === ""`;
    for (const page of pages) await waitFor(page, ready);
    for (const page of pages) await click(page, "button");
    for (const page of pages) await lists(page, ["Order 2", "Order 1"]);
    await screenshot(pages[0]!, "echo");
    for (const page of pages) {
      // Only pusher-js has this method.
      assert(await page.page.evaluate(`"switchCluster" in Pusher.prototype`));
      assertEquals(page.errors, []);
    }
  },
);

browserTest(
  "examples/tenants.ts keeps the channels of two apps apart",
  async (browser) => {
    await using example = await run("tenants");
    const { url } = example;
    await checkMethods(url, {
      shop: "GET, HEAD, POST",
      blog: "GET, HEAD, POST",
    });
    const shop = await open(browser, `${plainUrl(url)}shop`);
    const blog = await open(browser, `${plainUrl(url)}blog`);
    for (const { page } of [shop, blog]) {
      await page.waitForFunction(`client.channel("news").subscribed`);
    }
    await click(shop, "button");
    await click(blog, "button");
    await lists(blog, ["News 2, for readers of the blog only"]);
    await lists(shop, ["News 1, for readers of the shop only"]);
    await screenshot(shop, "tenants");
    assertEquals([shop.errors, blog.errors], [[], []]);
  },
);

browserTest(
  "examples/fresh.ts serves Pusher before the routes of a project",
  async (browser) => {
    await using example = await run("fresh");
    await checkMethods(example.url, { "": "GET, HEAD, POST" });
    const ann = await open(browser, plainUrl(example.url));
    await ann.page.waitForFunction(`pusher.channel("likes").subscribed`);
    await click(ann, "button");
    await waitFor(ann, `document.querySelector("output").textContent === "1"`);
    const transport = `pusher.connection.transport.name`;
    assertEquals(await ann.page.evaluate(transport), "ws");
    await screenshot(ann, "fresh");
    assertEquals(ann.errors, []);
  },
);

// ---- Publishing -------------------------------------------------------------

const PUBLISHERS: [program: string, file: string][] = [
  ["bash", "publish.sh"],
  ["python3", "publish.py"],
  ["node", "publish.mjs"],
];

for (const [name, file] of PUBLISHERS) {
  const program = findInstalled(name);
  Deno.test({
    name: `examples/publish/${file} publishes, and says what is wrong`,
    ignore: program === null ||
      file.endsWith(".sh") &&
        !(findInstalled("curl") && findInstalled("openssl")),
    async fn() {
      await using pusher = new Pusher({
        appId: "7",
        key: "a-key",
        secret: "a-secret",
      });
      await using server = Deno.serve(
        { hostname: "127.0.0.1", port: 0, onListen() {} },
        pusher.handler,
      );
      const published: unknown[] = [];
      pusher.on("published", ({ channel, event, data }) => {
        published.push([channel, event, JSON.parse(`${data}`)]);
      });
      const publish = async (secret: string, data: unknown) => {
        const path = new URL(`examples/publish/${file}`, ROOT).pathname;
        const { code, stdout, stderr } = await new Deno.Command(program!, {
          args: [path, "messages", "create", JSON.stringify(data)],
          env: {
            PUSHER_URL: `http://127.0.0.1:${server.addr.port}`,
            PUSHER_APP_ID: "7",
            PUSHER_APP_KEY: "a-key",
            PUSHER_APP_SECRET: secret,
          },
        }).output();
        const text = [stdout, stderr].map((bytes) =>
          new TextDecoder().decode(bytes)
        );
        return { code, text: text.join("").trim() };
      };
      const data = { text: `"quoted" \\ and 'more' $HOME € \u{1F600} %s` };
      assertEquals(await publish("a-secret", data), { code: 0, text: "{}" });
      assertEquals(published, [["messages", "create", data]]);
      const refused = await publish("another-secret", data);
      assert(refused.code !== 0);
      assertStringIncludes(refused.text, "auth_signature must be");
      assertEquals(published.length, 1);
    },
  });
}
