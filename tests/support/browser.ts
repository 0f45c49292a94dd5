/**
 * Tests in a real Chromium.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import puppeteer, {
  type BrowserContext,
  type ConnectionTransport,
  type Page,
} from "puppeteer-core";
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
 * Chromium as a process, started once for a file and spoken to by each test over
 * a connection of the test's own, so that the sanitizers of a test see all that
 * the test has opened.
 */
class Chromium {
  readonly #profile: string;
  readonly #process: Deno.ChildProcess;

  private constructor(profile: string, process: Deno.ChildProcess) {
    this.#profile = profile;
    this.#process = process;
  }

  /** Starts it, and does not wait until it listens. */
  static async start(path: string): Promise<Chromium> {
    const userDataDir = await Deno.makeTempDir({ prefix: "chromium_" });
    const args = await puppeteer.defaultArgs({ args: FLAGS, userDataDir });
    const process = new Deno.Command(path, {
      args: [...args, "--remote-debugging-port=0"],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    return new Chromium(userDataDir, process);
  }

  /** Connects to it, once it listens. */
  async connect(): Promise<Transport> {
    const endpoint = await within(
      BROWSER_DEADLINE_MS,
      "Chromium that listens",
      this.#endpoint(),
    );
    return await Transport.open(endpoint);
  }

  /** Where it listens: it says so in a file of its profile. */
  async #endpoint(): Promise<string> {
    const watcher = Deno.watchFs(this.#profile, { recursive: false });
    try {
      let endpoint = this.#portFile();
      if (endpoint !== null) return endpoint;
      for await (const _ of watcher) {
        endpoint = this.#portFile();
        if (endpoint !== null) return endpoint;
      }
      throw new Error("Cannot watch the profile of Chromium");
    } finally {
      watcher.close();
    }
  }

  #portFile(): string | null {
    try {
      const text = Deno.readTextFileSync(`${this.#profile}/DevToolsActivePort`);
      const [port, path] = text.split("\n");
      return port && path ? `ws://127.0.0.1:${port}${path}` : null;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw error;
    }
  }

  /** Ends it, and removes all that it has written. */
  async stop(): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#process.status;
    const deadline = performance.now() + BROWSER_DEADLINE_MS;
    while (!await this.#removeProfile(performance.now() < deadline)) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /**
   * Removes the profile. Helper processes of Chromium may write for a moment after
   * it has exited, and nothing says when they have ended: then this returns false.
   */
  async #removeProfile(mayFail: boolean): Promise<boolean> {
    try {
      await Deno.remove(this.#profile, { recursive: true });
      return true;
    } catch (error) {
      if (mayFail) return false;
      throw error;
    }
  }
}

/** Messages to and from Chromium, over a socket whose end can be awaited. */
class Transport implements ConnectionTransport {
  onmessage?: (message: string) => void;
  onclose?: () => void;
  readonly #socket: WebSocket;
  /** Resolves once the socket has closed. */
  readonly closed: Promise<unknown>;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.onmessage?.(data);
    this.closed = new Promise((resolve) => {
      socket.onclose = (event) => {
        this.onclose?.();
        resolve(event);
      };
    });
  }

  static async open(url: string): Promise<Transport> {
    const socket = new WebSocket(url);
    const opened = new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = reject;
    });
    await within(BROWSER_DEADLINE_MS, "connection to Chromium", opened);
    return new Transport(socket);
  }

  send(message: string): void {
    this.#socket.send(message);
  }

  close(): void {
    this.#socket.close();
  }
}

/** The browser of this file, while its tests run. */
let chromium: Chromium | null = null;
let isAwaited = false;

/**
 * Registers a test that is handed a browser context of its own: nothing that
 * another test has stored is there. Without a Chromium on this machine the test
 * is ignored, and says so.
 */
export function browserTest(
  name: string,
  fn: (context: BrowserContext) => Promise<void>,
): void {
  if (executablePath === null) {
    Deno.test.ignore(`${name} (no Chromium on PATH)`, () => {});
    return;
  }
  if (!isAwaited) {
    isAwaited = true;
    Deno.test.beforeAll(async () => {
      chromium = await Chromium.start(executablePath);
    });
    Deno.test.afterAll(async () => await chromium?.stop());
  }
  Deno.test(name, async () => {
    assert(chromium !== null);
    const transport = await chromium.connect();
    const browser = await puppeteer.connect({ transport });
    try {
      await fn(await browser.createBrowserContext());
    } finally {
      const [standard, ...contexts] = browser.browserContexts();
      assertEquals(standard, browser.defaultBrowserContext());
      await Promise.all(contexts.map((context) => context.close()));
      await browser.disconnect();
      await within(BROWSER_DEADLINE_MS, "end of Chromium", transport.closed);
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
export async function openPage(
  context: BrowserContext,
  url: string,
): Promise<Window> {
  const window = new Window(await context.newPage());
  await window.page.goto(url);
  return window;
}
