/**
 * WebKit as Debian has it, in a browser of a few lines. Puppeteer does not speak its
 * protocol: this is the part of WebDriver that the tests need.
 *
 * @module
 */
import { removeWritten } from "./browsers.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { freePort } from "./ports.ts";

/** How often to look whether something has come true in a page. */
const POLL_MS = 50;

/** How long a script of a test may run in a page. */
const SCRIPT_DEADLINE_MS = 60_000;

/** The driver itself reports a script that runs for too long. */
const COMMAND_DEADLINE_MS = SCRIPT_DEADLINE_MS + DEADLINE_MS;

/** How long a browser may take to start, on a busy machine. */
const START_DEADLINE_MS = 40_000;

/** Now and then a browser does not start, and the driver waits for it. */
const MAX_STARTS = 3;

/** A screen, on which each test has a browser. */
export class WebKit {
  readonly #driver: string;
  readonly #home: string;
  readonly #screen: Deno.ChildProcess;
  readonly #display: string;

  private constructor(
    driver: string,
    home: string,
    screen: Deno.ChildProcess,
    display: string,
  ) {
    this.#driver = driver;
    this.#home = home;
    this.#screen = screen;
    this.#display = display;
  }

  /** Starts the screen, without which WebKit does not run. */
  static async start(driver: string, screenPath: string): Promise<WebKit> {
    const screen = new Deno.Command(screenPath, {
      // It says on its output which display it has chosen.
      args: ["-displayfd", "1", "-nolisten", "tcp"],
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const display = await within(DEADLINE_MS, "display", firstLine(screen));
    const home = await Deno.makeTempDir({ prefix: "webkit_" });
    return new WebKit(driver, home, screen, display);
  }

  /** Starts a browser, in which nothing is stored, and ends it afterwards. */
  async run(fn: (browser: WebKitBrowser) => Promise<void>): Promise<void> {
    await using session = await this.#startBrowser();
    await fn(await WebKitBrowser.open(session.url));
  }

  async #startBrowser(): Promise<Session> {
    for (let start = 1;; start++) {
      const session = this.#startDriver();
      try {
        await within(START_DEADLINE_MS, "browser", session.begin());
        return session;
      } catch (error) {
        await session.stop();
        if (start === MAX_STARTS) throw error;
        console.warn("WebKit is started again:", error);
      }
    }
  }

  #startDriver(): Session {
    const port = freePort();
    const driver = new Deno.Command(this.#driver, {
      args: [`--port=${port}`],
      env: {
        HOME: this.#home,
        DISPLAY: `:${this.#display}`,
        GDK_BACKEND: "x11",
      },
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    return new Session(driver, `http://127.0.0.1:${port}`);
  }

  /** Ends it, and removes all that was written. */
  async stop(): Promise<void> {
    this.#screen.kill("SIGTERM");
    await this.#screen.status;
    await removeWritten(this.#home);
  }
}

/** A driver with its browser. */
class Session implements AsyncDisposable {
  readonly #driver: Deno.ChildProcess;
  readonly #driverUrl: string;
  #isStopped = false;
  /** Where its commands go, once it has begun. */
  url = "";

  constructor(driver: Deno.ChildProcess, driverUrl: string) {
    this.#driver = driver;
    this.#driverUrl = driverUrl;
  }

  async begin(): Promise<void> {
    await this.#listening();
    const capabilities = {
      alwaysMatch: { timeouts: { script: SCRIPT_DEADLINE_MS } },
    };
    const { sessionId } = await command(this.#driverUrl, "POST", "/session", {
      capabilities,
    });
    this.url = `${this.#driverUrl}/session/${sessionId}`;
  }

  async #listening(): Promise<void> {
    while (!this.#isStopped) {
      try {
        return await command(this.#driverUrl, "GET", "/status");
      } catch (error) {
        // What fetch throws when nothing listens.
        if (!(error instanceof TypeError)) throw error;
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
    }
  }

  /** Ends the driver; a browser that it has started ends with it. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#driver.kill("SIGKILL");
    await this.#driver.status;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await command(this.url, "DELETE", "");
    } finally {
      await this.stop();
    }
  }
}

/** A browser, and its windows. */
export class WebKitBrowser {
  readonly #session: string;
  /** Windows without a page. They stay: without any window the session ends. */
  readonly #free: string[];
  /** The window that commands go to. */
  #current: string;
  /** Commands wait for each other: each goes to the window that is current. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(session: string, handle: string) {
    this.#session = session;
    this.#free = [handle];
    this.#current = handle;
  }

  static async open(session: string): Promise<WebKitBrowser> {
    return new WebKitBrowser(session, await command(session, "GET", "/window"));
  }

  async newPage(): Promise<WebKitPage> {
    const handle = this.#free.pop() ?? await this.#newWindow();
    const send = (...args: CommandArgs) => this.#send(handle, ...args);
    return new WebKitPage(send, () => void this.#free.push(handle));
  }

  async #newWindow(): Promise<string> {
    const init = { type: "window" };
    const { handle } = await this.#send(
      this.#current,
      "POST",
      "/window/new",
      init,
    );
    return handle;
  }

  #send(
    handle: string,
    ...args: CommandArgs
    // deno-lint-ignore no-explicit-any -- every caller knows what it asked for
  ): Promise<any> {
    const sent = this.#last.then(async () => {
      if (handle !== this.#current) {
        await command(this.#session, "POST", "/window", { handle });
        this.#current = handle;
      }
      return await command(this.#session, ...args);
    });
    this.#last = sent.catch(() => {});
    return sent;
  }
}

type CommandArgs = [method: string, path: string, body?: unknown];

/** A page, with those methods of Puppeteer's that tests in every browser need. */
export class WebKitPage {
  // deno-lint-ignore no-explicit-any -- every caller knows what it asked for
  readonly #send: (...args: CommandArgs) => Promise<any>;
  #deadlineMs = DEADLINE_MS;

  readonly #onClose: () => void;

  constructor(
    send: (...args: CommandArgs) => Promise<unknown>,
    onClose: () => void,
  ) {
    this.#send = send;
    this.#onClose = onClose;
  }

  setDefaultTimeout(ms: number): void {
    this.#deadlineMs = ms;
  }

  /** Opens a page and waits until it is loaded. */
  async goto(url: string): Promise<void> {
    await this.#send("POST", "/url", { url });
  }

  /** The value of an expression, or of the promise that it returns. */
  async evaluate(expression: string): Promise<unknown> {
    const { value, error } = await this.#send("POST", "/execute/async", {
      script: `const done = arguments[0];
        (async () => (${expression}))().then(
          (value) => done({ value }),
          (error) => done({ error: String(error) }),
        );`,
      args: [],
    });
    if (error !== undefined) throw new Error(error);
    return value;
  }

  /** Waits until an expression is true. */
  async waitForFunction(expression: string): Promise<void> {
    const until = performance.now() + this.#deadlineMs;
    while (!await this.evaluate(expression)) {
      if (performance.now() > until) {
        throw new Error(`Cannot wait longer: not ${expression}`);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** Leaves the page. */
  async close(): Promise<void> {
    await this.goto("about:blank");
    this.#onClose();
  }
}

/** Sends a command, and returns the value of the answer. */
async function command(
  url: string,
  method: string,
  path: string,
  body?: unknown,
  // deno-lint-ignore no-explicit-any -- every caller knows what it asked for
): Promise<any> {
  const request = fetch(url + path, {
    method,
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const what = `answer of WebKit to ${method} ${path}`;
  const response = await within(COMMAND_DEADLINE_MS, what, request);
  const { value } = await response.json();
  if (response.ok) return value;
  throw new Error(`${value.error}: ${value.message} (${method} ${path})`);
}

async function firstLine(process: Deno.ChildProcess): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of process.stdout) {
    text += decoder.decode(chunk);
    const [line = "", ...more] = text.split("\n");
    if (more.length > 0) return line;
  }
  throw new Error(`Cannot start the screen: ${text}`);
}
