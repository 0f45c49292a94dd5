/**
 * The chat of `examples/chat.ts`, as a user meets it: started from the command
 * line, open in two browser windows. `CHAT_PROGRAM` names a copy of it to test in
 * its place, such as a copy that imports the server as a single file.
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { BROWSERS, browserTest, openPage } from "./support/browser.ts";
import { start } from "./support/program.ts";

const program = Deno.env.get("CHAT_PROGRAM") ?? "examples/chat.ts";
const CHAT = ["--allow-net", program, "--port", "0"];

/** What the chat prints once it listens. */
const READY = /^Chat on (http:\/\/localhost:\d+\/)\n/m;

Deno.test("examples/chat.ts needs the net permission and its own files only", async () => {
  const cache = await Deno.makeTempDir({ prefix: "deno_dir_" });
  try {
    const flags = ["--no-prompt", "--no-remote", "--no-npm"];
    await using chat = await start(["run", ...flags, ...CHAT], READY, {
      DENO_DIR: cache,
    });
    const response = await fetch(chat.ready[1]!);
    assertEquals(response.status, 200);
    assertStringIncludes(await response.text(), `src="/pusher.js"`);
  } finally {
    await Deno.remove(cache, { recursive: true });
  }
});

browserTest(
  "examples/chat.ts carries messages between two windows",
  async (browser) => {
    await using chat = await start(["run", "--no-prompt", ...CHAT], READY);
    const url = chat.ready[1]!;
    const [ann, bob] = [
      await openPage(browser, url),
      await openPage(browser, url),
    ];
    const windows = [ann, bob];
    for (const { page } of windows) {
      await page.waitForFunction(`pusher.channel("messages")?.subscribed`);
    }

    const post = (message: string) =>
      fetch(new URL("messages", url), {
        method: "POST",
        body: new URLSearchParams({ message }),
      });
    assertEquals(await (await post("hello")).text(), "message created");
    for (const window of windows) {
      await window.shows("hello");
      await window.logs("hello");
    }

    await ann.page.bringToFront();
    await ann.page.type("form [name=message]", "from the form");
    await ann.page.keyboard.press("Enter");
    for (const window of windows) await window.shows("from the form");

    const markup = `<img src=x onerror="document.title = 'run'">`;
    await (await post(markup)).body?.cancel();
    for (const window of windows) {
      await window.shows(markup);
      assertEquals(await window.page.$$("img"), []);
    }

    await Deno.mkdir(".artifacts", { recursive: true });
    await ann.page.screenshot({ path: ".artifacts/chat.png" });
  },
  BROWSERS,
);
