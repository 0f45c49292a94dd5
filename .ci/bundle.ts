/**
 * Writes `client_bundle.ts`, the scripts that the server serves, from `client.ts`
 * and its lazy module: this is `deno task bundle`. With `--check` it writes nothing,
 * and fails if the file is stale. Both ways it fails if the main script is too large.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const SOURCE = "client.ts";
const LAZY_SOURCE = "client/lazy.ts";
const TARGET = "client_bundle.ts";

/** Limit of the script that every page loads; pusher-js has 2.7 times as much. */
const MAX_GZIP_BYTES = 6_656;

/** What the server adds to a module, measured with the default key and path. */
const SERVER_TAIL_BYTES = 80;

/** The server's tails use these names. */
const DECLARED = ["Pusher", "preset"];

/** How the client imports its lazy module; a served script does it otherwise. */
const LAZY_IMPORT = `import("./${LAZY_SOURCE}")`;

/**
 * Not a relative URL, which would be relative to the page in a classic script. And
 * browsers never again load a module that once failed, so each try has another URL.
 */
const SERVED_LAZY_IMPORT = 'import(Pusher.fallbackUrl+"?"+Date.now())';

/** Minifies the output of the bundler further. Pinned, as it decides the result. */
const MINIFIER = "npm:terser@5.51.4";

/** Passes of the minifier that make the bundle smaller before gzip and larger after. */
const COMPRESSION = "ecma=2020,hoist_funs,if_return=false,lhs_constants=false";

/** Methods that no program calls or overrides, and that have no name of pusher-js. */
const INTERNAL = [
  ...["routeUrl", "onState", "onFrame", "wake"],
  ...["getAuth", "acceptAuth", "confirm"],
];

/** Enough of a hash to tell two versions of one script apart. */
const ETAG_CHARACTERS = 16;

const root = fileURLToPath(new URL("..", import.meta.url));

/** Bundles and minifies a file to an ES module, without some of its imports. */
async function minify(source: string, without: string[] = []): Promise<string> {
  const external = without.map((file) => `--external=./${file}`);
  // Neither configuration nor lock file may change the bundle.
  const bundle = await runDeno([
    ...["bundle", "--no-config", "--no-lock", "--platform", "browser"],
    ...["--format", "esm", "--minify", ...external, source],
  ]);
  // It chooses shorter and more similar names than the bundler.
  const minified = await runDeno([
    ...["run", "--no-config", "--no-lock", "--allow-read", "--allow-env"],
    ...[MINIFIER, "--module", "--compress", COMPRESSION, "--mangle"],
    ...["--mangle-props", `regex=/^(${INTERNAL.join("|")})$/`],
  ], bundle);
  // Called as functions they make the same.
  return minified.replace(/\bnew ((?:Type)?Error\()/g, "$1");
}

/** Runs Deno on a text; returns the output. */
async function runDeno(args: string[], input = ""): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args,
    cwd: root,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  const { success, stdout, stderr } = await child.output();
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
  const [before, after, ...more] = code.split(LAZY_IMPORT);
  const others = /\b(?:export|import)\b/;
  if (after === undefined || more.length > 0 || others.test(before + after)) {
    throw new Error(
      `Cannot bundle ${SOURCE}: there must be one import, of ${LAZY_SOURCE}, and no other exports`,
    );
  }
  const locals = new Map(parseExports(list));
  const declarations = DECLARED.map((name) => {
    const local = locals.get(name);
    if (local && local !== name) return `${name}=${local}`;
    throw new Error(`Cannot bundle ${SOURCE}: no minified export ${name}`);
  });
  const served = `${before}${SERVED_LAZY_IMPORT}${after.replace(/;?$/, ";")}`;
  const statements = `${served}const ${declarations.join()};`;
  // Throws unless the script is plain statements, as the server needs them.
  new Function(`"use strict";${statements}`);
  return statements;
}

/** The names that a list exports, each with the local name. */
function parseExports(list: string): [exported: string, local: string][] {
  return list.split(",").map((item) => {
    const [local = "", exported = local] = item.split(" as ");
    return [exported, local];
  });
}

/**
 * Makes an expression of the lazy module, whose value is the exports: a script that
 * may not import it later can contain it.
 */
function toExpression(module: string): { expression: string; names: string } {
  const [, code, list] = /^(.*?)export\{([^{}]*)\};?$/s.exec(module) ?? [];
  if (code === undefined || list === undefined) {
    throw new Error(
      `Cannot bundle ${LAZY_SOURCE}: the bundle does not end with its exports`,
    );
  }
  const exported = parseExports(list);
  const members = exported.map(([name, local]) => `${name}:${local}`);
  return {
    expression: `(()=>{${code}return{${members}}})()`,
    names: exported.map(([name]) => name).join(),
  };
}

function etag(script: string): string {
  const hash = createHash("sha256").update(script).digest("hex");
  return hash.slice(0, ETAG_CHARACTERS);
}

function toModule(statements: string, lazy: string): string {
  const { expression, names } = toExpression(lazy);
  return `/**
 * The browser client as text. Generated from \`${SOURCE}\` and
 * \`${LAZY_SOURCE}\` by \`deno task bundle\`; never edited by hand.
 *
 * @module
 */

/** Plain statements, minified, that declare \`Pusher\` and \`preset\`. */
export const CLIENT_BUNDLE: string = ${JSON.stringify(statements)};

/** Changes with every change of the text. */
export const CLIENT_ETAG: string = "${etag(statements)}";

/**
 * An expression, minified: the lazy module as an object of its exports. The statements
 * import it from \`pusher-fallback.mjs\` beside the script that they are in, with a
 * query that means nothing, unless they get it as the last argument of \`preset\`.
 */
export const CLIENT_FALLBACK_BUNDLE: string = ${JSON.stringify(expression)};

/** The names of these exports, as a list. */
export const CLIENT_FALLBACK_NAMES: string = "${names}";

/** Changes with every change of the expression. */
export const CLIENT_FALLBACK_ETAG: string = "${etag(expression)}";
`;
}

/** Prints the sizes; returns whether the main script is small enough. */
function checkSizes(statements: string, lazy: string): boolean {
  const bytes = gzipSync(`(()=>{${statements}})();`).length +
    SERVER_TAIL_BYTES;
  console.log(`${SOURCE}: ${bytes} of ${MAX_GZIP_BYTES} bytes with gzip`);
  console.log(
    `${LAZY_SOURCE}: ${gzipSync(lazy).length} bytes with gzip`,
  );
  if (bytes <= MAX_GZIP_BYTES) return true;
  console.error(
    `Cannot serve ${SOURCE}: its bundle has ${bytes} bytes with gzip, and may have ${MAX_GZIP_BYTES}`,
  );
  return false;
}

/** Returns whether the file has the text that would be written now. */
async function checkFreshness(path: string, text: string): Promise<boolean> {
  if (await Deno.readTextFile(path) === text) return true;
  console.error(
    `Cannot serve ${TARGET}: it is not what ${SOURCE} gives with Deno ${Deno.version.deno}; run "deno task bundle"`,
  );
  return false;
}

/** Writes the file, or checks it; returns whether all is well. */
async function makeBundle(isCheck: boolean): Promise<boolean> {
  const path = `${root}${TARGET}`;
  const statements = toStatements(await minify(SOURCE, [LAZY_SOURCE]));
  const lazy = await minify(LAZY_SOURCE);
  const text = toModule(statements, lazy);
  const isSmall = checkSizes(statements, lazy);
  if (isCheck) return await checkFreshness(path, text) && isSmall;
  await Deno.writeTextFile(path, text);
  return isSmall;
}

if (!await makeBundle(Deno.args.includes("--check"))) Deno.exit(1);
