/**
 * Fails when a module of the package imports what it should not: anything but
 * files of this repository and what the runtime has built in.
 *
 * @module
 */
import { relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The files each entry point is made of. */
const FILES: Record<string, string[]> = {
  "mod.ts": ["client_bundle.ts", "mod.ts"],
  "client.ts": [
    "client.ts",
    // Loaded when they are needed.
    "client/encrypted.ts",
    "client/http.ts",
  ],
  "cli.ts": [
    "cli.ts",
    "client_bundle.ts",
    "ext/fallback.ts",
    "ext/webhooks.ts",
    "mod.ts",
  ],
  "ext/fallback.ts": ["client_bundle.ts", "ext/fallback.ts", "mod.ts"],
  "ext/webhooks.ts": ["client_bundle.ts", "ext/webhooks.ts", "mod.ts"],
};

/** What `deno info --json` says of a module graph, as far as it matters. */
interface Info {
  modules: { specifier: string; kind?: string; error?: string }[];
}

async function imports(entry: string): Promise<string[]> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", entry],
    cwd: root,
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  const { modules }: Info = JSON.parse(new TextDecoder().decode(stdout));
  return modules.map(({ specifier, error }) => {
    if (error !== undefined) throw new Error(error);
    return specifier.startsWith("file:")
      ? relative(root, fileURLToPath(specifier))
      : specifier;
  });
}

for (const [entry, expected] of Object.entries(FILES)) {
  const found = await imports(entry);
  const others = found.filter((name) => !name.startsWith("node:")).sort();
  if (others.join() !== expected.join()) {
    console.error(
      `Cannot accept the imports of ${entry}: ${others.join(", ")}, and must ` +
        `be ${expected.join(", ")} and built-in modules`,
    );
    Deno.exit(1);
  }
  console.log(`${entry}: ${found.sort().join(", ")}`);
}
