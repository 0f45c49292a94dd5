/**
 * The examples as a user meets them: started from the command line, open in
 * browser windows.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { BrowserContext } from "puppeteer-core";
import { handler, pusher } from "../examples/compose.ts";
import * as hono from "../examples/hono.ts";
import { BROWSERS, browserTest, openPage, Window } from "./support/browser.ts";
import {
  checkMethods,
  checkParts,
  itemsOf,
  lists,
  plainUrl,
  post,
} from "./support/example_pages.ts";
import { type Program, start } from "./support/program.ts";

/** What each of them prints once it listens. */
const READY = {
  chat: /^Chat on (http:\/\/localhost:\d+\/)\n/m,
  presence: /^Who is here on (http:\/\/localhost:\d+\/)\n/m,
  history: /^Chat with history on (http:\/\/localhost:\d+\/)\n/m,
  typed: /^Polls on (http:\/\/localhost:\d+\/)\n/m,
};

type Example = keyof typeof READY;

/** Starts an example as its first line says, on any port unless one is given. */
function run(
  name: Example,
  { port = "0", flags = [], env = {} }: {
    port?: string;
    flags?: string[];
    env?: Record<string, string>;
  } = {},
): Promise<Program> {
  const command = ["--allow-net", `examples/${name}.ts`, "--port", port];
  const args = ["run", "--no-prompt", ...flags, ...command];
  return start(args, READY[name], env);
}

/** Keeps what a page looks like. */
const screenshot = async ({ page }: Window, name: Example) => {
  // Chromium paints the page in front only.
  await page.bringToFront();
  await Deno.mkdir(".artifacts", { recursive: true });
  await page.screenshot({ path: `.artifacts/${name}.png` });
};

// The keys of an object literal are known; the type of Object.keys is not.
for (const name of Object.keys(READY) as Example[]) {
  // chat_test.ts has it, since it can test copies of the chat.
  if (name === "chat") continue;
  Deno.test(`examples/${name}.ts needs the net permission and its own files only`, async () => {
    const cache = await Deno.makeTempDir({ prefix: "deno_dir_" });
    try {
      await using program = await run(name, {
        flags: ["--no-remote", "--no-npm"],
        env: { DENO_DIR: cache },
      });
      const url = program.ready[1]!;
      const script = await fetch(new URL("pusher.js", url));
      assertEquals(script.status, 200);
      await script.body?.cancel();
      const page = await fetch(url);
      assertEquals(page.status, 200);
      const text = await page.text();
      assertStringIncludes(text, "<!doctype html>");
      // The first page of presence only asks for a name.
      const isForm = name === "presence";
      assertStringIncludes(text, isForm ? "Come in" : `src="/pusher.js"`);
      const missing = await fetch(new URL("missing", url));
      assertEquals(missing.status, 404);
      await missing.body?.cancel();
    } finally {
      await Deno.remove(cache, { recursive: true });
    }
  });
}

// ---- All of them ------------------------------------------------------------

/** The examples that a program of the reader's own mounts. */
const MOUNTED = { compose: handler, hono: hono.app.fetch };

const NAMES = [...Object.keys(READY), ...Object.keys(MOUNTED)] as (
  | Example
  | keyof typeof MOUNTED
)[];

/** An example that serves on a port of its own. */
async function serve(
  name: typeof NAMES[number],
): Promise<AsyncDisposable & { url: string }> {
  if (name !== "compose" && name !== "hono") {
    const program = await run(name);
    const [, url = ""] = program.ready;
    return { url, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
  }
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    MOUNTED[name],
  );
  return {
    url: `http://localhost:${server.addr.port}/`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** The paths of an example, and the methods that it serves there. */
const PATHS: Record<typeof NAMES[number], Record<string, string>> = {
  chat: { "": "GET, HEAD", messages: "POST" },
  compose: { "": "GET, HEAD", orders: "POST" },
  history: { "": "GET, HEAD", messages: "POST" },
  hono: { "": "GET, HEAD", count: "POST" },
  presence: { "": "GET, HEAD, POST" },
  typed: { lunch: "GET, HEAD, POST" },
};

for (const name of NAMES) {
  Deno.test(`examples/${name}.ts answers HEAD, and refuses other methods and paths`, async () => {
    await using example = await serve(name);
    await checkMethods(example.url, PATHS[name]);
  });

  browserTest(
    `examples/${name}.ts fits a phone of 320 px without https, and names its parts`,
    async (browser) => {
      await using example = await serve(name);
      const window = new Window(await browser.newPage());
      const { page, errors } = window;
      const faults: string[] = [];
      page.on("console", (message) => {
        if (message.type() === "error") faults.push(message.text());
      });
      page.on("response", (response) => {
        if (response.status() >= 400) faults.push(response.url());
      });
      await page.setViewport({ width: 320, height: 568 });
      await page.goto(plainUrl(example.url));
      await checkParts(page);
      if (name === "presence") {
        await page.type("[name=name]", "M".repeat(40));
        await page.keyboard.press("Enter");
        await page.waitForFunction("globalThis.pusher");
      }
      await page.waitForFunction(
        "pusher.allChannels().every((channel) => channel.subscribed)",
      );
      if (name === "chat" || name === "history") {
        const message = "M".repeat(1_000);
        const url = new URL("messages", example.url);
        await (await post(url, { message })).body?.cancel();
        await window.shows(message);
      }
      await checkParts(page);
      assertEquals([faults, errors], [[], []]);
      await page.close();
    },
    BROWSERS,
  );
}

// ---- Compose ----------------------------------------------------------------

const call = (path: string, init?: RequestInit) =>
  handler(new Request(`http://localhost${path}`, init));

Deno.test("examples/compose.ts leaves the program its own routes", async () => {
  const page = await call("/");
  assertEquals(page.status, 200);
  assertStringIncludes(await page.text(), `src="/realtime/pusher.js"`);
  const order = await call("/orders", { method: "POST" });
  assertEquals([order.status, Object.keys(await order.json())], [201, ["id"]]);
  assertEquals((await call("/pusher.js")).status, 404);
});

Deno.test("examples/compose.ts serves Pusher below /realtime", async () => {
  const script = await call("/realtime/pusher.js");
  assertEquals(script.status, 200);
  assertStringIncludes(await script.text(), `"host":"localhost/realtime"`);
  const join = (cookie: string) =>
    call("/realtime/pusher/auth", {
      method: "POST",
      headers: { cookie },
      body: new URLSearchParams({
        socket_id: "1.2",
        channel_name: "private-orders",
      }),
    });
  assertEquals((await join("role=clerk")).status, 200);
  assertEquals((await join("role=guest")).status, 403);
});

browserTest(
  "examples/compose.ts pays once for a double click, and shows the last order",
  async (browser) => {
    await using example = await serve("compose");
    const { page } = await openPage(browser, example.url);
    await page.waitForFunction(`pusher.channel("private-orders")?.subscribed`);
    await page.evaluate(`{
      const { fetch } = globalThis;
      globalThis.asked = 0;
      globalThis.fetch = (...request) => (asked++, fetch(...request));
    }`);
    await page.click("button", { count: 2 });
    assertEquals(await page.evaluate("asked"), 1);
    const paid =
      `/^order \\d+ is paid$/.test(document.querySelector("output").textContent)`;
    await page.waitForFunction(paid);
    await page.reload();
    await page.waitForFunction(paid);
    await page.close();
  },
);

browserTest(
  "examples/compose.ts tells a page with the cookie of a private event",
  async (browser) => {
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      handler,
    );
    try {
      const { page } = await openPage(
        browser,
        `http://127.0.0.1:${server.addr.port}/`,
      );
      await page.waitForFunction(
        `pusher.channel("private-orders")?.subscribed`,
      );
      await page.click("button");
      await page.waitForFunction(
        `/^order \\d+ is paid$/.test(document.querySelector("output").textContent)`,
      );
      await page.close();
    } finally {
      await pusher.close();
      await server.shutdown();
    }
  },
);

// ---- Hono -------------------------------------------------------------------

browserTest(
  "examples/hono.ts counts clicks on every page, beside Hono's own routes",
  async (browser) => {
    const server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      hono.app.fetch,
    );
    const url = `http://127.0.0.1:${server.addr.port}/`;
    try {
      const one = await openPage(browser, url);
      const two = await openPage(browser, url);
      for (const { page } of [one, two]) {
        await page.waitForFunction(`pusher.channel("counter")?.subscribed`);
        const transport = await page.evaluate(
          `pusher.connection.transport.name`,
        );
        assertEquals(transport, "ws");
      }
      // Chromium clicks on the page in front only.
      await one.page.bringToFront();
      await one.page.click("button");
      for (const { page } of [one, two]) {
        await page.waitForFunction(
          `document.querySelector("output").textContent === "1"`,
          { polling: "mutation" },
        );
      }
      await two.page.reload();
      assertEquals(
        await two.page.evaluate(`document.querySelector("output").textContent`),
        "1",
      );
      const missing = await fetch(new URL("missing", url));
      assertEquals([missing.status, await missing.text()], [
        404,
        "404 Not Found",
      ]);
      for (const { page } of [one, two]) await page.close();
    } finally {
      await hono.pusher.close();
      await server.shutdown();
    }
  },
);

// ---- Presence ---------------------------------------------------------------

/** Comes in under a name, as one who was not there before. */
async function comeIn(
  context: BrowserContext,
  url: string,
  name: string,
): Promise<Window> {
  const window = new Window(await context.newPage());
  await window.page.goto(url);
  await window.page.type("form [name=name]", name);
  await window.page.keyboard.press("Enter");
  await window.page.waitForFunction("globalThis.pusher");
  return window;
}

/** Waits until the server has served all that a page has asked of it. */
async function settled({ page }: Window): Promise<void> {
  await page.evaluate(`pusher.subscribe("fence-" + Math.random())`);
  await page.waitForFunction(
    "pusher.allChannels().every((channel) => channel.subscribed)",
  );
}

browserTest(
  "examples/presence.ts lists each user once, live, and names as text",
  async (browser) => {
    await using program = await run("presence");
    const url = program.ready[1]!;
    const ann = await comeIn(browser, url, "Ann");
    await lists(ann, ["Ann (you)"]);
    const secondTab = await openPage(browser, url);
    await lists(secondTab, ["Ann (you)"]);

    const markup = `<img src=x onerror="document.title=1">`;
    const bob = await comeIn(
      await browser.browser().createBrowserContext(),
      url,
      markup,
    );
    await lists(bob, ["Ann", `${markup} (you)`]);
    for (const window of [ann, secondTab]) {
      await lists(window, ["Ann (you)", markup]);
      await window.shows("2 here");
      assertEquals(await window.page.$$("img"), []);
    }
    const impostor = await browser.browser().createBrowserContext();
    const other = await comeIn(impostor, url, "Ann");
    await lists(other, ["Ann", markup, "Ann (you)"]);
    await lists(ann, ["Ann (you)", markup, "Ann"]);
    await screenshot(ann, "presence");
    await impostor.close();
    await lists(bob, ["Ann", `${markup} (you)`]);

    await secondTab.page.evaluate(`pusher.unsubscribe("presence-lobby")`);
    await settled(secondTab);
    await settled(bob);
    await lists(bob, ["Ann", `${markup} (you)`]);
    await ann.page.close();
    await lists(bob, [`${markup} (you)`]);
    await bob.shows("1 here");
  },
  BROWSERS,
);

browserTest(
  "examples/presence.ts takes a secret cookie for a user, and not the user's id",
  async (browser) => {
    await using program = await run("presence");
    const url = program.ready[1]!;
    const window = await comeIn(browser, url, "Ann");
    await lists(window, ["Ann (you)"]);
    const cookies = await browser.cookies();
    assertEquals(
      cookies.map(({ name, httpOnly, sameSite }) => [name, httpOnly, sameSite]),
      [["session", true, "Lax"]],
    );
    const [id, socketId] = await window.page.evaluate(
      `[pusher.channel("presence-lobby").members.myID, pusher.connection.socket_id]`,
    ) as string[];
    const join = async (session: string, channel = "presence-lobby") => {
      const response = await fetch(new URL("pusher/auth", url), {
        method: "POST",
        headers: { cookie: `session=${session}` },
        body: new URLSearchParams({
          socket_id: `${socketId}`,
          channel_name: channel,
        }),
      });
      await response.body?.cancel();
      return response.status;
    };
    const session = cookies[0]!.value;
    assertEquals(await join(session), 200);
    assertEquals(await join(`${id}`), 403);
    assertEquals(await join(""), 403);
    assertEquals(await join(session, "presence-cellar"), 403);
  },
);

Deno.test("examples/presence.ts refuses a name of no or too many characters", async () => {
  await using program = await run("presence");
  const url = program.ready[1]!;
  const table: [name: string, status: number][] = [
    ["", 400],
    ["  ", 400],
    ["x".repeat(40), 303],
    ["x".repeat(41), 400],
    ["x".repeat(20_000), 413],
  ];
  for (const [name, status] of table) {
    const response = await post(url, { name });
    const text = await response.text();
    assertEquals(response.status, status, JSON.stringify(name));
    // The person can correct the name on the same page.
    if (status >= 400) {
      assertStringIncludes(text, "<form");
      assertStringIncludes(text, `role="alert">`);
    }
  }
});

browserTest(
  "examples/presence.ts asks to come in again where the server knows nobody",
  async (browser) => {
    let port = "";
    let window;
    {
      await using program = await run("presence");
      port = new URL(program.ready[1]!).port;
      window = await comeIn(browser, program.ready[1]!, "Ann");
      await lists(window, ["Ann (you)"]);
    }
    await lists(window, []);
    await using _program = await run("presence", { port });
    await window.shows("reload the page");
    await window.page.reload();
    await window.page.waitForSelector("form");
  },
);

// ---- Messages -------------------------------------------------------------
// What the two chats have in common.

/** The messages that a page shows, and nothing else, the oldest first. */
async function showsMessages(
  name: "chat" | "history",
  window: Window,
  messages: string[],
): Promise<void> {
  // The chat without a history has the newest at the top.
  await lists(window, name === "chat" ? messages.toReversed() : messages);
}

/** Waits until the field for the message has this text. */
const fieldHas = ({ page }: Window, text: string) =>
  page.waitForFunction(
    `document.querySelector("[name=message]").value === ${
      JSON.stringify(text)
    }`,
    { polling: 50 },
  );

for (const name of ["chat", "history"] as const) {
  browserTest(
    `examples/${name}.ts keeps a message that cannot be sent, and says why`,
    async (browser) => {
      let port = "";
      let window;
      {
        await using program = await run(name);
        port = new URL(program.ready[1]!).port;
        window = await openChat(browser, program.ready[1]!);
        const { page } = window;
        await page.type("[name=message]", " ");
        await page.keyboard.press("Enter");
        const long = "x".repeat(20_000);
        await page.evaluate(
          `document.querySelector("[name=message]").value = "${long}"`,
        );
        await page.keyboard.press("Enter");
        await window.shows("Not sent: a message has at most 1,000 characters");
        await fieldHas(window, long);
        await page.evaluate(
          `document.querySelector("[name=message]").value = ""`,
        );
        await page.type("[name=message]", "the first");
        await page.keyboard.press("Enter");
        await showsMessages(name, window, ["the first"]);
      }
      await window.shows("Connecting …");
      await window.page.type("[name=message]", "hello");
      await window.page.keyboard.press("Enter");
      await window.shows("Not sent: no connection");
      await fieldHas(window, "hello");
      await using _program = await run(name, { port });
      await window.page.waitForFunction(
        `document.querySelector("[role=status]").textContent === ""`,
      );
      await window.page.keyboard.press("Enter");
      await window.shows("hello");
      await fieldHas(window, "");
      // Firefox reports as an error of the page that the server was away.
      const errors = window.errors.filter((error) =>
        !`${error}`.includes("establish a connection to the server")
      );
      assertEquals(errors, []);
    },
    BROWSERS,
  );

  browserTest(
    `examples/${name}.ts keeps what is typed while a message is under way`,
    async (browser) => {
      await using program = await run(name);
      const window = await openChat(browser, program.ready[1]!);
      const { page } = window;
      // Holds requests back until `release` is called.
      await page.evaluate(`{
        const { fetch } = globalThis;
        const released = new Promise((resolve) => globalThis.release = resolve);
        globalThis.fetch = async (...request) => {
          await released;
          return await fetch(...request);
        };
      }`);
      await page.type("[name=message]", "one");
      await page.click("button", { count: 2 });
      await page.type("[name=message]", "and more");
      await page.evaluate("release()");
      await showsMessages(name, window, ["one"]);
      await page.keyboard.press("Enter");
      await showsMessages(name, window, ["one", "and more"]);
    },
    BROWSERS,
  );

  Deno.test(`examples/${name}.ts takes messages of up to 1,000 characters`, async () => {
    await using program = await run(name);
    const url = new URL("messages", program.ready[1]!);
    const table: [body: BodyInit, status: number, text: string][] = [
      ["message=hello", 201, "message created"],
      // As large as they get: in the form, and in the event.
      [`message=${"%E2%82%AC".repeat(1_000)}`, 201, "message created"],
      [`message=${"%00".repeat(1_000)}`, 201, "message created"],
      [`message=${"x".repeat(1_001)}`, 413, "at most 1,000 characters"],
      [`message=${"x".repeat(20_000)}`, 413, "at most 1,000 characters"],
      ["x".repeat(200_000), 413, "at most 1,000 characters"],
      ["", 400, "the message is missing"],
      ["message=", 400, "the message is missing"],
      ["message=%20", 400, "the message is missing"],
      [`{"message":"hello"}`, 400, "the message is missing"],
    ];
    for (const [body, status, text] of table) {
      const response = await fetch(url, { method: "POST", body });
      assertStringIncludes(await response.text(), text);
      assertEquals(response.status, status, text);
    }
  });
}

// ---- History ----------------------------------------------------------------

/** Says something, once for each text. */
async function say(url: string, texts: string[]): Promise<void> {
  for (const message of texts) {
    const response = await post(new URL("messages", url), { message });
    assertEquals(await response.text(), "message created");
  }
}

const numbered = (from: number, to: number) =>
  Array.from(
    { length: to - from + 1 },
    (_, index) => `message ${from + index}`,
  );

async function openChat(
  browser: BrowserContext,
  url: string,
): Promise<Window> {
  const window = await openPage(browser, url);
  await window.page.waitForFunction(`pusher.channel("messages")?.subscribed`);
  return window;
}

browserTest(
  "examples/history.ts begins with the last twenty messages for who comes late",
  async (browser) => {
    await using program = await run("history");
    const url = program.ready[1]!;
    const ann = await openChat(browser, url);
    const markup = `<img src=x onerror="document.title = 'run'">`;
    await say(url, [...numbered(1, 24), markup]);
    await lists(ann, [...numbered(1, 24), markup]);

    const bob = await openChat(browser, url);
    await lists(bob, [...numbered(6, 24), markup]);
    await bob.page.bringToFront();
    await bob.page.type("form [name=message]", "from the form");
    await bob.page.keyboard.press("Enter");
    await lists(bob, [...numbered(6, 24), markup, "from the form"]);
    await lists(ann, [...numbered(1, 24), markup, "from the form"]);
    for (const { page } of [ann, bob]) assertEquals(await page.$$("img"), []);
    await bob.page.waitForFunction(
      `document.querySelector("[name=message]").value === ""`,
    );
    await screenshot(bob, "history");

    // Everybody has left, and the messages are still there.
    await ann.page.close();
    await bob.page.close();
    const carol = await openChat(browser, url);
    await lists(carol, [...numbered(7, 24), markup, "from the form"]);
  },
  BROWSERS,
);

browserTest(
  "examples/history.ts shows what was said while a page was offline, once",
  async (browser) => {
    await using program = await run("history");
    const url = program.ready[1]!;
    const ann = await openChat(browser, url);
    const bob = await openChat(browser, url);
    await say(url, numbered(1, 3));
    for (const window of [ann, bob]) await lists(window, numbered(1, 3));

    // The browser's switch stalls sockets, and keeps them.
    await bob.page.setOfflineMode(true);
    await say(url, numbered(4, 30));
    await lists(ann, numbered(1, 30));
    // The switch does not stop what is on its way.
    const seen = await itemsOf(bob);
    assertEquals(seen, numbered(1, seen.length));
    assert(seen.length < 30, `${seen.length} messages came`);
    await bob.page.setOfflineMode(false);
    await lists(bob, numbered(1, 30));

    // Here the socket is gone, and a new one takes its place.
    await bob.page.evaluate("pusher.disconnect()");
    await say(url, numbered(31, 60));
    await lists(ann, numbered(1, 60));
    await lists(bob, numbered(1, 30));
    await bob.page.evaluate("pusher.connect()");
    await lists(bob, numbered(1, 60));
    await say(url, ["the last"]);
    for (const window of [ann, bob]) {
      await lists(window, [...numbered(1, 60), "the last"]);
    }
  },
);

browserTest(
  "examples/history.ts says that messages may be missing where the server is new",
  async (browser) => {
    let port = "";
    let window;
    {
      await using program = await run("history");
      port = new URL(program.ready[1]!).port;
      window = await openChat(browser, program.ready[1]!);
      await say(program.ready[1]!, ["before"]);
      await lists(window, ["before"]);
    }
    await using program = await run("history", { port });
    const notice = "Some messages may be missing here.";
    await lists(window, ["before", notice]);
    await say(program.ready[1]!, ["after"]);
    await lists(window, ["before", notice, "after"]);
  },
);

// ---- Typed ------------------------------------------------------------------

/** What a page of a poll shows by now. */
async function showsPoll(
  { page }: Window,
  expected: { tea: string; coffee: string; status: string; here: string },
): Promise<void> {
  const ids = Object.keys(expected);
  const shown = `Object.fromEntries(${JSON.stringify(ids)}
    .map((id) => [id, document.getElementById(id).textContent.trim()]))`;
  const wanted = JSON.stringify(JSON.stringify(expected));
  try {
    const isThere = `JSON.stringify(${shown}) === ${wanted}`;
    await page.waitForFunction(isThere, { polling: "mutation" });
  } catch (error) {
    assertEquals(await page.evaluate(shown), expected, `${error}`);
  }
}

browserTest(
  "examples/typed.ts shows members, counts and what other pages tell",
  async (browser) => {
    await using program = await run("typed");
    const url = program.ready[1]!;
    const ann = await openPage(browser, url);
    assertEquals(ann.page.url(), `${url}lunch`);
    const state = { tea: "0", coffee: "0", status: "", here: "Guest 1" };
    await showsPoll(ann, state);
    const bob = await openPage(browser, url);
    state.here = "Guest 1, Guest 2";
    for (const window of [ann, bob]) await showsPoll(window, state);

    await ann.page.bringToFront();
    await ann.page.hover("button[value=coffee]");
    await showsPoll(bob, { ...state, status: "Guest 1 leans towards coffee" });
    await screenshot(bob, "typed");
    await showsPoll(ann, state);
    await ann.page.bringToFront();
    await ann.page.click("button[value=coffee]");
    state.coffee = "1";
    for (const window of [ann, bob]) await showsPoll(window, state);

    const other = await openPage(browser, `${url}breakfast`);
    await showsPoll(other, { ...state, coffee: "0", here: "Guest 3" });
    const late = await openPage(browser, url);
    state.here = "Guest 1, Guest 2, Guest 4";
    for (const window of [ann, bob, late]) await showsPoll(window, state);
    await late.page.close();
    state.here = "Guest 1, Guest 2";
    for (const window of [ann, bob]) await showsPoll(window, state);
  },
  BROWSERS,
);

Deno.test("examples/typed.ts counts tea and coffee, and nothing else", async () => {
  await using program = await run("typed");
  const url = new URL("lunch", program.ready[1]!);
  const vote = async (body: string) => {
    const response = await fetch(url, { method: "POST", body });
    await response.body?.cancel();
    return response.status;
  };
  assertEquals(await vote("tea"), 201);
  assertEquals(await vote("milk"), 400);
  assertEquals(await vote("toString"), 400);
  assertEquals(await vote("tea".repeat(10_000)), 413);
  assertStringIncludes(await (await fetch(url)).text(), `<b id="tea">1</b>`);
});

browserTest(
  "examples/typed.ts ignores a client event of any other shape",
  async (browser) => {
    await using program = await run("typed");
    const url = program.ready[1]!;
    const ann = await openPage(browser, url);
    const mallory = await openPage(browser, url);
    const state = { tea: "0", coffee: "0", here: "Guest 1, Guest 2" };
    for (const window of [ann, mallory]) {
      await showsPoll(window, { ...state, status: "" });
    }
    const shapes = [
      "null",
      "1",
      `"tea"`,
      "[]",
      "{}",
      `{ to: "<b>" }`,
      `{ to: {} }`,
    ];
    for (const data of shapes) {
      await mallory.page.evaluate(
        `pusher.allChannels()[0].trigger("client-leaning", ${data})`,
      );
    }
    await mallory.page.evaluate(
      `pusher.allChannels()[0].trigger("client-leaning", { to: "tea" })`,
    );
    await showsPoll(ann, { ...state, status: "Guest 2 leans towards tea" });
    assertEquals(ann.errors, []);
  },
);

browserTest(
  "examples/typed.ts can be used with the keyboard alone",
  async (browser) => {
    await using program = await run("typed");
    const url = program.ready[1]!;
    const ann = await openPage(browser, url);
    const bob = await openPage(browser, url);
    const state = {
      tea: "0",
      coffee: "0",
      status: "",
      here: "Guest 1, Guest 2",
    };
    for (const window of [ann, bob]) await showsPoll(window, state);
    await ann.page.bringToFront();
    await ann.page.keyboard.press("Tab");
    await ann.page.keyboard.press("Tab");
    await showsPoll(bob, { ...state, status: "Guest 1 leans towards coffee" });
    await ann.page.keyboard.press("Enter");
    for (const window of [ann, bob]) {
      await showsPoll(window, { ...state, coffee: "1" });
    }
  },
  BROWSERS,
);
