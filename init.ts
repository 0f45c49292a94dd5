/**
 * Writes a small project of your own: a server, its page, its tests, and files to
 * deploy it.
 *
 * ```sh
 * deno run --allow-write=my-app jsr:@glitz/pusher/init my-app
 * ```
 *
 * It asks nothing, overwrites nothing, and needs no permission but to write to that
 * folder. Without a folder it writes to the current one.
 *
 * The exit code is 0 if the project is there, 1 if it could not be written, and 2 if
 * the command line was wrong. In both cases nothing is left behind.
 *
 * @module
 */

import process from "node:process";
import { parseArgs } from "node:util";
import { FILES } from "./init/files.ts";

const HELP = `Writes a small project with a Pusher server of your own.

Usage: deno run --allow-write=<folder> jsr:@glitz/pusher/init [folder]

The folder is the current one by default, and is made if it does not exist. No
file is overwritten: if one of these is there, nothing is written.

${Object.keys(FILES).map((name) => `  ${name}\n`).join("")}
  -h, --help   show this help`;

/** Why the project could not be written, and with which code to exit. */
class Failure extends Error {
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** The folder that the command line names; null if it asks for help. */
function readFolder(args: string[]): string | null {
  const hint = "see --help";
  try {
    const { values, positionals } = parseArgs({
      args,
      options: { help: { type: "boolean", short: "h" } },
      allowPositionals: true,
    });
    if (values.help) return null;
    const [folder = ".", ...rest] = positionals;
    if (rest.length > 0) {
      throw new Failure(
        2,
        `there is one folder, and not "${rest[0]}"; ${hint}`,
      );
    }
    if (folder === "") throw new Failure(2, `the folder has no name; ${hint}`);
    return folder.replace(/(?<=.)\/+$/, "");
  } catch (error) {
    if (error instanceof Failure) throw error;
    // parseArgs says which flag it does not know, and adds advice for programmers.
    const [message] = `${Object(error).message}`.split(". ");
    throw new Failure(2, `${message}; ${hint}`);
  }
}

/** Writes the files, or none of them. */
function write(folder: string): void {
  // Deno would ask, once for each file.
  const { state } = Deno.permissions.querySync({ name: "write", path: folder });
  if (state !== "granted") {
    const command = `deno run --allow-write=${folder} jsr:@glitz/pusher/init`;
    const name = folder === "." ? "" : ` ${folder}`;
    throw new Failure(1, `it needs the permission: run ${command}${name}`);
  }
  const written: string[] = [];
  const isNew = makeFolder(folder);
  try {
    for (const [name, content] of Object.entries(FILES)) {
      const path = `${folder}/${name}`;
      Deno.writeTextFileSync(path, content, { createNew: true });
      written.push(path);
    }
  } catch (error) {
    for (const path of written) Deno.removeSync(path);
    if (isNew) Deno.removeSync(folder);
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    const name = Object.keys(FILES)[written.length];
    throw new Failure(1, `${folder}/${name} exists, and is not overwritten`);
  }
}

/** Makes a folder, with those above it; returns whether it was not there. */
function makeFolder(folder: string): boolean {
  try {
    Deno.mkdirSync(folder);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return false;
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    Deno.mkdirSync(folder, { recursive: true });
    return true;
  }
}

/** What to do with the new project. */
function nextSteps(folder: string): string {
  const cd = folder === "." ? [] : [`  cd ${folder}`];
  return [
    `Wrote ${Object.keys(FILES).join(", ")}. Next:`,
    "",
    ...cd,
    "  deno task test",
    "  deno task dev     # then open http://localhost:8000/ in two windows",
    "",
    "README.md says what each file is for, and how to deploy the server.",
  ].join("\n");
}

function main(): void {
  if (!("Deno" in globalThis)) {
    throw new Failure(
      1,
      "it needs Deno: run npx deno run --allow-write=my-app jsr:@glitz/pusher/init my-app",
    );
  }
  const folder = readFolder(process.argv.slice(2));
  if (folder === null) return console.log(HELP);
  write(folder);
  console.log(nextSteps(folder));
}

try {
  main();
} catch (error) {
  console.error(`Cannot write a project: ${Object(error).message ?? error}`);
  process.exitCode = error instanceof Failure ? error.code : 1;
}
