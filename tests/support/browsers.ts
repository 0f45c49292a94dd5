/**
 * The browsers that tests run in, where they are installed.
 *
 * @module
 */

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

/** The path of a browser on `PATH`, or null. */
export function findBrowser(name: BrowserName): string | null {
  const directories = (Deno.env.get("PATH") ?? "").split(":").filter(Boolean);
  const paths = COMMANDS[name].flatMap((command) =>
    directories.map((directory) => `${directory}/${command}`)
  );
  return paths.find(isFile) ?? null;
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
