/**
 * Writes `ext/console/bundle.ts`, the page of the debug console, from
 * `ext/console/page/`: this is `deno task console`. With `--check` it writes nothing,
 * and fails if the file is stale.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";

const SOURCE = "ext/console/page/main.tsx";
const STYLE = "ext/console/page/style.css";
const TARGET = "ext/console/bundle.ts";

/** The licence of the library in the script asks for this. */
const NOTICE = "/*! Preact 11.2.0, https://preactjs.com, MIT License, " +
  "Copyright (c) 2015-present Jason Miller */";

/** Enough of a hash to tell two versions of the page apart. */
const ETAG_CHARACTERS = 16;

/** A page that takes longer to load is not opened to have a quick look. */
const MAX_BYTES = 90_000;

const root = fileURLToPath(new URL("..", import.meta.url));

async function bundleScript(): Promise<string> {
  // Neither configuration nor lock file may change the bundle: versions are pinned
  // where they are imported.
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--no-config", "--no-lock", "--platform", "browser"],
      ...["--format", "esm", "--minify", SOURCE],
    ],
    cwd: root,
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return `${NOTICE}\n${new TextDecoder().decode(stdout).trim()}\n`;
}

/** The style sheet without comments, indents and line ends. */
async function compactStyle(): Promise<string> {
  const text = await Deno.readTextFile(root + STYLE);
  return text.replace(/\/\*.*?\*\//gs, "").replace(/\s*\n\s*/g, " ").trim();
}

async function makeModule(): Promise<string> {
  const page = { script: await bundleScript(), style: await compactStyle() };
  const bytes = new TextEncoder().encode(page.script + page.style).length;
  console.log(`${TARGET}: ${bytes} of ${MAX_BYTES} bytes`);
  if (bytes > MAX_BYTES) throw new Error(`Cannot serve ${TARGET}: too large`);
  const hash = createHash("sha256").update(page.script + page.style);
  const etag = hash.digest("hex").slice(0, ETAG_CHARACTERS);
  return `/**
 * The page of the debug console as text. Generated from \`ext/console/page/\` by
 * \`deno task console\`; never edited by hand. The script contains Preact.
 *
 * @module
 */

/** The module and the style sheet, minified. */
export const CONSOLE_PAGE: { readonly script: string; readonly style: string } =
  ${JSON.stringify(page)};

/** Changes with every change of either. */
export const PAGE_ETAG: string = "${etag}";
`;
}

const text = await makeModule();
if (!Deno.args.includes("--check")) {
  await Deno.writeTextFile(root + TARGET, text);
} else if (await Deno.readTextFile(root + TARGET) !== text) {
  console.error(
    `Cannot serve ${TARGET}: it is not what ${SOURCE} gives with Deno ${Deno.version.deno}; run "deno task console"`,
  );
  Deno.exit(1);
}
