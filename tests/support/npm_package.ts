/**
 * The package as JSR's layer for npm makes it: modules of plain JavaScript with the
 * imports of npm, in a `node_modules` of a project of its own.
 *
 * @module
 */
import { stripTypeScriptTypes } from "node:module";
import { dirname } from "node:path";
import manifest from "../../deno.json" with { type: "json" };

const ROOT = new URL("../..", import.meta.url);

/** A specifier of an npm package: its name, and its version. */
const NPM = /npm:((?:@[^/"]+\/)?[^@/"]+)@([^/"]+)/;

/** A project that has the package, and that is removed at the end of a test. */
export class NpmProject implements AsyncDisposable {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async make(): Promise<NpmProject> {
    const folder = await Deno.makeTempDir({ prefix: "npm_" });
    const home = `${folder}/node_modules/@glitz/pusher`;
    const { files, dependencies } = await inspectPackage();
    for (const file of files) {
      const source = await Deno.readTextFile(new URL(file, ROOT));
      const target = `${home}/${toJs(file)}`;
      await Deno.mkdir(dirname(target), { recursive: true });
      await Deno.writeTextFile(target, toNpm(source));
    }
    const exports = Object.entries(manifest.exports)
      .map(([name, file]) => [name, toJs(file)]);
    await Deno.writeTextFile(
      `${home}/package.json`,
      JSON.stringify({
        name: "@glitz/pusher",
        version: manifest.version,
        type: "module",
        exports: Object.fromEntries(exports),
        dependencies,
      }),
    );
    return new NpmProject(folder);
  }

  /** Runs a module in the project; returns the exit code and what it printed. */
  async run(
    program: string,
    source: string,
    args: string[] = [],
  ): Promise<{ code: number; text: string }> {
    const file = `${this.folder}/main.mjs`;
    await Deno.writeTextFile(file, source);
    const { code, stdout, stderr } = await new Deno.Command(program, {
      args: [file, ...args],
      cwd: this.folder,
    }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    return { code, text: `${decode(stdout)}${decode(stderr)}`.trim() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}

const toJs = (file: string) => file.replace(/\.tsx?$/, ".js");

/** A module without types, with the specifiers that npm has. */
function toNpm(source: string): string {
  return stripTypeScriptTypes(source)
    .replaceAll(/(from |import |import\()"(\.[^"]+)\.tsx?"/g, '$1"$2.js"')
    .replaceAll(
      RegExp(`(from |import |import\\()"${NPM.source}`, "g"),
      '$1"$2',
    );
}

/** What the exports of the package import, directly or indirectly. */
export interface PackageContents {
  /** The files of the package, as paths. */
  readonly files: string[];
  /** Packages from npm, by name, with their version as the imports name it. */
  readonly dependencies: Record<string, string>;
  /** All other specifiers that are no path. */
  readonly others: string[];
}

export async function inspectPackage(): Promise<PackageContents> {
  const files = new Set<string>();
  const dependencies: Record<string, string> = {};
  const others = new Set<string>();
  for (const file of Object.values(manifest.exports)) {
    for (const { specifier, dependencies: imports } of await modulesOf(file)) {
      if (!specifier.startsWith(ROOT.href)) continue;
      files.add(specifier.slice(ROOT.href.length));
      for (const { specifier } of imports ?? []) {
        const [, name, version = ""] = NPM.exec(specifier) ?? [];
        if (name !== undefined) dependencies[name] = version;
        else if (!specifier.startsWith(".")) others.add(specifier);
      }
    }
  }
  return { files: [...files].sort(), dependencies, others: [...others].sort() };
}

/** The part of the output of `deno info --json` that matters here. */
interface Module {
  specifier: string;
  dependencies?: { specifier: string }[];
}

async function modulesOf(file: string): Promise<Module[]> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", "--no-lock", file],
    cwd: ROOT,
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout)).modules;
}
