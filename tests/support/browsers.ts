/**
 * The browsers that tests run in, where they are installed.
 *
 * @module
 */

import { findInstalled } from "./installed.ts";

/** A browser that tests can run in. */
export type BrowserName = "Chromium" | "Firefox";

/** Names under which each browser installs itself. */
const COMMANDS: Record<BrowserName, string[]> = {
  Chromium: [
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
  ],
  Firefox: ["firefox-esr", "firefox"],
};

// The keys of an object literal are known; the type of Object.keys is not.
export const BROWSERS = Object.keys(COMMANDS) as BrowserName[];

/** The path of a browser, or null. */
export function findBrowser(name: BrowserName): string | null {
  return findInstalled(...COMMANDS[name]);
}
