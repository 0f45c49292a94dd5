/**
 * Writes `client_bundle.ts`, the script that the server serves, from
 * `client.ts`: this is `deno task bundle`. With `--check` it writes nothing, and
 * fails when the file is stale. Either way it fails when the script is too large.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const SOURCE = "client.ts";
const TARGET = "client_bundle.ts";

/** What a page may have to load; pusher-js is three times as large. */
const MAX_GZIP_BYTES = 6 * 1024;

/** What the server puts around the script: globals and its configuration. */
const SERVER_TAIL_BYTES = 150;

/** The server's tails use these names. */
const DECLARED = ["Pusher", "preset"];

/** Enough of a hash to tell two versions of one script apart. */
const ETAG_CHARACTERS = 16;

const root = fileURLToPath(new URL("..", import.meta.url));

/** The minified ES module that Deno makes of the client. */
async function minify(): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    // Neither configuration nor lock file may change what comes out.
    args: [
      ...["bundle", "--no-config", "--no-lock", "--platform", "browser"],
      ...["--format", "esm", "--minify", SOURCE],
    ],
    cwd: root,
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).trim();
}

/**
 * Replaces the export statement, which only a module may have, by declarations
 * of the exports that the server uses.
 */
function toStatements(module: string): string {
  const [, code, list] = /^(.*?;?)export\{([^{}]*)\};?$/s.exec(module) ?? [];
  if (code === undefined || list === undefined) {
    throw new Error(
      `Cannot bundle ${SOURCE}: the bundle does not end with its exports`,
    );
  }
  if (/\b(?:export|import)\b/.test(code)) {
    throw new Error(
      `Cannot bundle ${SOURCE}: there are further imports or exports`,
    );
  }
  const locals = new Map(
    list.split(",").map((item) => {
      const [local, exported = local] = item.split(" as ");
      return [exported, local];
    }),
  );
  const declarations = DECLARED.map((name) => {
    const local = locals.get(name);
    if (!local) throw new Error(`Cannot bundle ${SOURCE}: no export ${name}`);
    return local === name ? "" : `const ${name}=${local};`;
  });
  const statements = [code.replace(/;?$/, ";"), ...declarations].join("");
  // Throws unless it is what the server needs it to be: plain statements.
  new Function(`"use strict";${statements}`);
  return statements;
}

function toModule(statements: string): string {
  const hash = createHash("sha256").update(statements).digest("hex");
  return `/**
 * The browser client as text. Generated from \`${SOURCE}\` by \`deno task bundle\`;
 * never edited by hand.
 *
 * @module
 */

/** Plain statements, minified, that declare \`Pusher\` and \`preset\`. */
export const CLIENT_BUNDLE: string = ${JSON.stringify(statements)};

/** Changes with every change of the text. */
export const CLIENT_ETAG: string = "${hash.slice(0, ETAG_CHARACTERS)}";
`;
}

/** Returns whether the script is small enough, and says how large it is. */
function checkSize(statements: string): boolean {
  const bytes = gzipSync(`(()=>{${statements}})();`).length +
    SERVER_TAIL_BYTES;
  console.log(`${TARGET}: ${bytes} of ${MAX_GZIP_BYTES} bytes with gzip`);
  if (bytes <= MAX_GZIP_BYTES) return true;
  console.error(
    `Cannot serve ${SOURCE}: its bundle has ${bytes} bytes with gzip, and may have ${MAX_GZIP_BYTES}`,
  );
  return false;
}

/** Returns whether the file is what it would be if it were written now. */
async function checkFreshness(path: string, text: string): Promise<boolean> {
  if (await Deno.readTextFile(path) === text) return true;
  console.error(
    `Cannot serve ${TARGET}: it is not what ${SOURCE} gives with Deno ${Deno.version.deno}; run "deno task bundle"`,
  );
  return false;
}

const path = `${root}${TARGET}`;
const statements = toStatements(await minify());
const text = toModule(statements);
const isSmall = checkSize(statements);
if (Deno.args.includes("--check")) {
  const isFresh = await checkFreshness(path, text);
  if (!isSmall || !isFresh) Deno.exit(1);
} else {
  await Deno.writeTextFile(path, text);
  if (!isSmall) Deno.exit(1);
}
