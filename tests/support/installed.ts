/**
 * Programs of this machine that tests run, where they are installed.
 *
 * @module
 */

/** The path of the first of these programs that is installed, or null. */
export function findInstalled(...names: string[]): string | null {
  // Where a user's PATH lacks it, too: Debian installs servers there.
  const directories = [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin"]
    .filter(Boolean);
  const paths = names.flatMap((name) =>
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
