/**
 * The browsers that tests run in, where they are installed.
 *
 * @module
 */

import { DEADLINE_MS } from "./deadline.ts";
import { findInstalled } from "./installed.ts";

/** A browser that tests can run in. */
export type BrowserName = "Chromium" | "Firefox" | "WebKit";

/** Those that Puppeteer drives. */
export const BROWSERS = ["Chromium", "Firefox"] as const;

/** For tests that need no more than an {@linkcode AnyPage}. */
export const EVERY_BROWSER: readonly BrowserName[] = [...BROWSERS, "WebKit"];

/** The programs of each browser: of each, the names under which it is installed. */
const COMMANDS: Record<BrowserName, string[][]> = {
  Chromium: [[
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
  ]],
  Firefox: [["firefox-esr", "firefox"]],
  // WebKit does not run without a screen.
  WebKit: [["WebKitWebDriver"], ["Xvfb"]],
};

/** The paths of a browser's programs, or null where one is missing. */
export function findBrowser(name: BrowserName): string[] | null {
  const paths = COMMANDS[name].map((names) => findInstalled(...names));
  return paths.every((path) => path !== null) ? paths : null;
}

/**
 * Removes a folder that a browser has written to. Helper processes may write for a
 * moment after the browser has exited, and nothing says when they have ended.
 */
export async function removeWritten(folder: string): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  for (;;) {
    try {
      return await Deno.remove(folder, { recursive: true });
    } catch (error) {
      if (performance.now() > deadline) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
