/** Names under which Chromium and Chrome install themselves. */
const NAMES = [
  "chromium",
  "chromium-browser",
  "google-chrome-stable",
  "google-chrome",
];

/** The path of the first Chromium on `PATH`, or null. */
export function findChromium(): string | null {
  const directories = (Deno.env.get("PATH") ?? "").split(":").filter(Boolean);
  const paths = NAMES.flatMap((name) =>
    directories.map((directory) => `${directory}/${name}`)
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
