/**
 * Tests in real browsers: Chromium and, where it makes a difference, Firefox and
 * WebKit.
 *
 * @module
 */
import puppeteer, {
  type BrowserContext,
  type ConnectionTransport,
  type Page,
} from "puppeteer-core";
import {
  type BrowserName,
  type BROWSERS,
  findBrowser,
  removeWritten,
} from "./browsers.ts";
import { within } from "./deadline.ts";
import { WebKit, WebKitPage } from "./webkit.ts";

export { BROWSERS, EVERY_BROWSER } from "./browsers.ts";

/** For the start and for every wait in a page. */
const BROWSER_DEADLINE_MS = 20_000;

/**
 * A name of this machine whose pages are no secure context over plain http, unlike
 * those of `localhost` and `127.0.0.1`.
 */
export const PLAIN_HOST = "plain.test";

const CHROMIUM_FLAGS = [
  `--host-resolver-rules=MAP ${PLAIN_HOST} 127.0.0.1`,
  // The sandbox does not start for root, as which containers usually run.
  "--no-sandbox",
  // There is no screen.
  "--disable-gpu",
  // Otherwise each page and each context starts a process more, for a page to come.
  "--disable-features=SpareRendererForSitePerProcess",
  // The rest stops traffic that is not the test's own.
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Firefox itself adds what automation needs, and stops most other traffic. */
const FIREFOX_SETTINGS = {
  "network.dns.localDomains": PLAIN_HOST,
  // Otherwise Puppeteer cannot click in pages of other processes.
  "fission.webContentIsolationStrategy": 0,
  // No processes and pages ahead of what a test opens.
  "dom.ipc.processPrelaunch.enabled": false,
  "browser.newtab.preload": false,
  "browser.newtabpage.enabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
};

/** The name of a browser that Puppeteer drives. */
type DrivenName = typeof BROWSERS[number];

/** How to start a browser, and how to find out where it listens. */
interface Kind {
  protocol: "cdp" | "webDriverBiDi";
  /** Prepares a profile; returns the arguments. */
  prepare(profile: string): Promise<string[]>;
  /** The file of the profile in which the browser says where it listens. */
  endpointFile: string;
  /** Reads that file; null if it is not complete. */
  readEndpoint(text: string): string | null;
}

const KINDS: Record<DrivenName, Kind> = {
  Chromium: {
    protocol: "cdp",
    async prepare(userDataDir) {
      const args = await puppeteer.defaultArgs({
        args: CHROMIUM_FLAGS,
        userDataDir,
      });
      return [...args, "--remote-debugging-port=0"];
    },
    endpointFile: "DevToolsActivePort",
    readEndpoint(text) {
      const [port, path] = text.split("\n");
      return port && path ? `ws://127.0.0.1:${port}${path}` : null;
    },
  },
  Firefox: {
    protocol: "webDriverBiDi",
    async prepare(profile) {
      const settings = Object.entries(FIREFOX_SETTINGS).map(([name, value]) =>
        `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`
      );
      await Deno.writeTextFile(`${profile}/user.js`, settings.join(""));
      const flags = ["--headless", "--no-remote", "--profile", profile];
      return [...flags, "--remote-debugging-port=0", "about:blank"];
    },
    endpointFile: "WebDriverBiDiServer.json",
    readEndpoint(text) {
      const [, port] = /"ws_port": *(\d+)/.exec(text) ?? [];
      return port ? `ws://127.0.0.1:${port}/session` : null;
    },
  },
};

/**
 * A browser as a process, started once for a file and spoken to by each test over
 * a connection of the test's own, so that the sanitizers of a test see all that
 * the test has opened.
 */
class Browser {
  readonly #name: DrivenName;
  readonly #profile: string;
  readonly #process: Deno.ChildProcess;

  private constructor(
    name: DrivenName,
    profile: string,
    process: Deno.ChildProcess,
  ) {
    this.#name = name;
    this.#profile = profile;
    this.#process = process;
  }

  /** Starts it, and does not wait until it listens. */
  static async start(name: DrivenName, path: string): Promise<Browser> {
    const prefix = `${name.toLowerCase()}_`;
    const profile = await Deno.makeTempDir({ prefix });
    const process = new Deno.Command(path, {
      args: await KINDS[name].prepare(profile),
      // Firefox refuses to run in the home of another user.
      env: { HOME: profile },
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    return new Browser(name, profile, process);
  }

  /** Connects to it, once it listens. */
  async connect(): Promise<Transport> {
    const endpoint = await within(
      BROWSER_DEADLINE_MS,
      `${this.#name} that listens`,
      this.#endpoint(),
    );
    return await Transport.open(endpoint);
  }

  /** Where it listens: it says so in a file of its profile. */
  async #endpoint(): Promise<string> {
    const watcher = Deno.watchFs(this.#profile, { recursive: false });
    try {
      let endpoint = this.#readEndpoint();
      if (endpoint !== null) return endpoint;
      for await (const _ of watcher) {
        endpoint = this.#readEndpoint();
        if (endpoint !== null) return endpoint;
      }
      throw new Error(`Cannot watch the profile of ${this.#name}`);
    } finally {
      watcher.close();
    }
  }

  #readEndpoint(): string | null {
    const { endpointFile, readEndpoint } = KINDS[this.#name];
    try {
      const path = `${this.#profile}/${endpointFile}`;
      return readEndpoint(Deno.readTextFileSync(path));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw error;
    }
  }

  /** Runs a test in a context of its own. */
  async run(fn: (context: BrowserContext) => Promise<void>): Promise<void> {
    const transport = await this.connect();
    const { protocol } = KINDS[this.#name];
    const browser = await puppeteer.connect({ transport, protocol });
    try {
      await fn(await browser.createBrowserContext());
    } finally {
      const standard = browser.defaultBrowserContext();
      const contexts = browser.browserContexts().filter((context) =>
        context !== standard
      );
      await Promise.all(contexts.map((context) => context.close()));
      await browser.disconnect();
      const what = `end of ${this.#name}`;
      await within(BROWSER_DEADLINE_MS, what, transport.closed);
    }
  }

  /** Ends it, and removes all that it has written. */
  async stop(): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.#process.status;
    await removeWritten(this.#profile);
  }
}

/** Messages to and from a browser, over a socket whose end can be awaited. */
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
    await within(BROWSER_DEADLINE_MS, "connection to the browser", opened);
    return new Transport(socket);
  }

  send(message: string): void {
    this.#socket.send(message);
  }

  close(): void {
    this.#socket.close();
  }
}

/** The browsers of this file, while its tests run. */
const running = new Map<BrowserName, Browser | WebKit>();
const awaited = new Set<BrowserName>();

/** What every browser has. */
export interface AnyContext {
  newPage(): Promise<AnyPage>;
}

/** What a page has in every browser. Code is an expression, or returns a promise. */
export interface AnyPage {
  setDefaultTimeout(ms: number): void;
  goto(url: string): Promise<unknown>;
  evaluate(code: string): Promise<unknown>;
  waitForFunction(code: string): Promise<unknown>;
  close(): Promise<void>;
}

/** A page in any browser. WebDriver does not say what it has thrown and logged. */
export interface AnyWindow {
  readonly page: AnyPage;
}

/**
 * Registers a test that is handed a browser context of its own: nothing that
 * another test has stored is there. It runs once in each browser; without that
 * browser on this machine the test is ignored, and says so.
 */
export function browserTest(
  name: string,
  fn: (context: BrowserContext) => Promise<void>,
  browsers?: readonly DrivenName[],
): void;
/** The same in browsers that Puppeteer does not drive. */
export function browserTest(
  name: string,
  fn: (context: AnyContext) => Promise<void>,
  browsers: readonly BrowserName[],
): void;
export function browserTest(
  name: string,
  // deno-lint-ignore no-explicit-any -- what every browser has, or more
  fn: (context: any) => Promise<void>,
  browsers: readonly BrowserName[] = ["Chromium"],
): void {
  for (const browser of browsers) {
    const title = browsers.length > 1 ? `${name} (${browser})` : name;
    const paths = findBrowser(browser);
    if (paths === null) {
      Deno.test.ignore(`${title} (no ${browser} on PATH)`, () => {});
      continue;
    }
    startOnce(browser, paths);
    Deno.test(title, async () => await running.get(browser)!.run(fn));
  }
}

/** Starts a browser before the tests of this file, and stops it after them. */
function startOnce(name: BrowserName, [path, screen]: string[]): void {
  if (awaited.has(name)) return;
  awaited.add(name);
  Deno.test.beforeAll(async () => {
    const browser = name === "WebKit"
      ? await WebKit.start(path!, screen!)
      : await Browser.start(name, path!);
    running.set(name, browser);
  });
  Deno.test.afterAll(async () => await running.get(name)?.stop());
}

/** A page, and what it has shown and said. */
export class Window implements AnyWindow {
  readonly page: Page;
  /** What the page has thrown and not caught. */
  readonly errors: unknown[] = [];
  readonly #log: string[] = [];
  readonly #logged = new EventTarget();

  constructor(page: Page) {
    this.page = page;
    page.setDefaultTimeout(BROWSER_DEADLINE_MS);
    // Shown, because what a test then waits for in vain does not name the cause.
    page.on("pageerror", (error) => {
      console.error(error);
      this.errors.push(error);
    });
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
export function openPage(context: BrowserContext, url: string): Promise<Window>;
export function openPage(context: AnyContext, url: string): Promise<AnyWindow>;
export async function openPage(
  context: BrowserContext | AnyContext,
  url: string,
): Promise<AnyWindow> {
  const page = await context.newPage();
  const window = page instanceof WebKitPage
    ? { page }
    : new Window(page as Page);
  await page.goto(url);
  return window;
}
