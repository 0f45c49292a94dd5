/**
 * The project of `docs/react.md` as a reader gets it: its files in a folder, the
 * server and Vite started by its commands, open in Chromium. Only ports differ.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Page } from "puppeteer-core";
import { openPage } from "./support/browser.ts";
import { freePort } from "./support/ports.ts";
import { start } from "./support/program.ts";
import { Project, viteTest } from "./support/vite.ts";

const ROOT = new URL("../", import.meta.url);

const DOCUMENT = await Deno.readTextFile(new URL("docs/react.md", ROOT));

/** The blocks that begin with the name of a file. */
function filesOf(document: string): Record<string, string> {
  const block = /^```[^\n]*\n(?:\/\/|<!--) (\S+\.\w+)(?: -->)?\n(.*?)^```/gms;
  return Object.fromEntries(
    Array.from(document.matchAll(block), ([, name, text]) => [name, text]),
  );
}

/** What `npm create vite` with the template react-ts has written before. */
const TEMPLATE: Record<string, string> = {
  "index.html": `<!doctype html>
    <html lang="en">
      <body>
        <div id="root"></div>
        <script type="module" src="/src/main.tsx"></script>
      </body>
    </html>`,
  "src/main.tsx": `import { StrictMode } from 'react'
    import { createRoot } from 'react-dom/client'
    import App from './App.tsx'

    createRoot(document.getElementById('root')!).render(
      <StrictMode>
        <App />
      </StrictMode>,
    )`,
  "tsconfig.json": JSON.stringify({
    compilerOptions: {
      target: "es2023",
      lib: ["ES2023", "DOM"],
      module: "esnext",
      types: ["vite/client"],
      moduleResolution: "bundler",
      allowImportingTsExtensions: true,
      verbatimModuleSyntax: true,
      moduleDetection: "force",
      noEmit: true,
      jsx: "react-jsx",
      noUnusedLocals: true,
      noUnusedParameters: true,
      erasableSyntaxOnly: true,
    },
    include: ["src"],
  }),
};

/** What the template installs, besides React and Vite. */
const INSTALLED = {
  typescript: "7.0.2",
  "@types/react": "19.3.0",
  "@types/react-dom": "19.3.0",
  "@types/node": "24.19.2",
};

/** What the page has sent about a channel, noted before its own code runs. */
const NOTE_FRAMES = `
  globalThis.frames_ = [];
  const { send } = WebSocket.prototype;
  WebSocket.prototype.send = function (text) {
    frames_.push(text);
    return send.call(this, text);
  };`;

/** The subscriptions of a page to the channel of messages, and their ends. */
async function framesOf(page: Page): Promise<string[]> {
  return await page.evaluate(`frames_
    .flatMap((text) => { try { return [JSON.parse(text)]; } catch { return []; } })
    .filter(({ data }) => data?.channel === "messages")
    .map(({ event }) => event)`) as string[];
}

const SUBSCRIBE = "pusher:subscribe";

viteTest(
  "docs/react.md has a project that runs, and that an edit changes without a second subscription",
  async (browser) => {
    assertStringIncludes(DOCUMENT, "--template react-ts ");
    const files = { ...TEMPLATE, ...filesOf(DOCUMENT) };
    const port = `${freePort()}`;
    const vitePort = freePort();
    files["server.ts"] = files["server.ts"]!
      .replace("jsr:@glitz/pusher", new URL("mod.ts", ROOT).href)
      .replace("8000", port);
    files["vite.config.ts"] = files["vite.config.ts"]!.replace("8000", port);
    await using project = await Project.make("19.3.1", files, INSTALLED);
    await project.check();
    await using _server = await start(
      [
        ...["run", "--no-lock", "--no-check", "--no-config", "--allow-net"],
        `${project.folder}/server.ts`,
      ],
      new RegExp(`:${port}`),
      {},
      // With what it prints as errors, where Deno says that it listens.
      4_096,
    );
    await using _vite = await project.serve(vitePort);

    const url = `http://localhost:${vitePort}/`;
    const first = await openPage(browser, "about:blank");
    await first.page.evaluateOnNewDocument(NOTE_FRAMES);
    await first.page.goto(url);
    await first.shows("1 here, you are Guest");
    const second = await openPage(browser, url);
    await second.shows("2 here, you are Guest");
    await first.shows("2 here");

    const say = async (text: string) => {
      await second.page.bringToFront();
      await second.page.type("input", text);
      await second.page.keyboard.press("Enter");
    };
    await say("before");
    await first.shows("before");

    // An edit of the component: its state stays, and so does its subscription.
    const component = files["src/App.tsx"]!;
    await project.write("src/App.tsx", component.replace("Send", "Send it"));
    await first.shows("Send it");
    await first.shows("before");
    await say("after");
    await first.shows("after");
    assertEquals(await framesOf(first.page), [SUBSCRIBE]);
    const items =
      `[...document.querySelectorAll("li")].map((li) => li.innerText)`;
    assertEquals(await first.page.evaluate(items), ["before", "after"]);

    // An edit of the hooks' module: the page has another client, and only that.
    const realtime = files["src/realtime.ts"]!;
    await project.write(
      "src/realtime.ts",
      `${realtime}\nexport const x = 1;\n`,
    );
    await first.page.waitForFunction(
      `frames_.filter((text) => text.includes('"messages"')).length > 1`,
      // A page behind another is not painted, but it has timers.
      { polling: 100 },
    );
    await first.shows("2 here");
    await say("at last");
    await first.shows("at last");
    const shown = await first.page.evaluate(items) as string[];
    assertEquals(shown.filter((text) => text === "at last").length, 1);
    const frames = await framesOf(first.page);
    assertEquals(frames.filter((event) => event === SUBSCRIBE).length, 2);
    assert(frames.length <= 3, `${frames}`);
    assertEquals([first.errors, second.errors], [[], []]);
    await first.page.close();
    await second.page.close();
  },
);
