/**
 * Tests in a real Chromium.
 *
 * @module
 */
import { rm } from "node:fs/promises";
import puppeteer, { type Browser, type Page } from "puppeteer-core";
import { findChromium } from "./chromium.ts";
import { within } from "./deadline.ts";

/** For the start and for every wait in a page. */
const BROWSER_DEADLINE_MS = 20_000;

const FLAGS = [
  // The sandbox does not start for root, as which containers usually run.
  "--no-sandbox",
  // There is no screen.
  "--disable-gpu",
  // The rest stops traffic that is not the test's own.
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const executablePath = findChromium();

/**
 * Registers a test that is handed a browser of its own, with an empty profile.
 * Without a Chromium on this machine the test is ignored, and says so.
 */
export function browserTest(
  name: string,
  fn: (browser: Browser) => Promise<void>,
): void {
  if (executablePath === null) {
    Deno.test.ignore(`${name} (no Chromium on PATH)`, () => {});
    return;
  }
  Deno.test(name, async () => {
    const userDataDir = await Deno.makeTempDir({ prefix: "chromium_" });
    try {
      const browser = await puppeteer.launch({
        executablePath,
        args: FLAGS,
        userDataDir,
        timeout: BROWSER_DEADLINE_MS,
      });
      try {
        await fn(browser);
      } finally {
        await browser.close();
      }
    } finally {
      // Chromium's helper processes may write for a moment after it has exited.
      await rm(userDataDir, { recursive: true, maxRetries: 10 });
    }
  });
}

/** A page, and what it has shown and said. */
export class Window {
  readonly page: Page;
  readonly #log: string[] = [];
  readonly #logged = new EventTarget();

  constructor(page: Page) {
    this.page = page;
    page.setDefaultTimeout(BROWSER_DEADLINE_MS);
    // Shown, because what a test then waits for in vain does not name the cause.
    page.on("pageerror", (error) => console.error(error));
    page.on("console", async (message) => {
      const values = message.args().map((value) => value.jsonValue());
      try {
        this.#log.push(JSON.stringify(await Promise.all(values)));
        this.#logged.dispatchEvent(new Event("line"));
      } catch {
        // The page was closed meanwhile: nobody waits for this line any more.
      }
    });
  }

  /** Waits until the page shows a text. */
  async shows(text: string): Promise<void> {
    const shown = `document.body.innerText.includes(${JSON.stringify(text)})`;
    await this.page.waitForFunction(shown, { polling: "mutation" });
  }

  /** Waits until a line of the console, in JSON, holds a text. */
  logs(text: string): Promise<void> {
    return within(
      BROWSER_DEADLINE_MS,
      `"${text}" in the console`,
      new Promise((resolve) => {
        const look = () => {
          if (!this.#log.some((line) => line.includes(text))) return;
          this.#logged.removeEventListener("line", look);
          resolve();
        };
        this.#logged.addEventListener("line", look);
        look();
      }),
    );
  }
}

/** Opens a page and waits until it is loaded. */
export async function openPage(browser: Browser, url: string): Promise<Window> {
  const window = new Window(await browser.newPage());
  await window.page.goto(url);
  return window;
}
