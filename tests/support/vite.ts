/**
 * Vite projects as a user has them: packages from npm, and ours as JSR makes it for
 * npm.
 *
 * @module
 */
import type { BrowserContext } from "puppeteer-core";
import manifest from "../../deno.json" with { type: "json" };
import { browserTest } from "./browser.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { findInstalled } from "./installed.ts";

const ROOT = new URL("../../", import.meta.url);

const NPM = findInstalled("npm");
const NODE = findInstalled("node");

/**
 * Registers a test of a project in Chromium. Where a program is missing, the test is
 * ignored and says so.
 */
export function viteTest(
  name: string,
  fn: (context: BrowserContext) => Promise<void>,
): void {
  if (NPM && NODE) return browserTest(name, fn);
  const missing = NPM ? "Node.js" : "npm";
  Deno.test.ignore(`${name} (no ${missing} on PATH)`, () => {});
}

/** The exports that a page may use. */
const FOR_PAGES = ["./client", "./react", "./svelte", "./vue"] as const;

/** The packages of a project besides ours. The plugin says which Vite it needs. */
const PACKAGES = { vite: "8.3.8", "@vitejs/plugin-react": "6.3.0" };

/** Runs a program to its end; returns what it prints. */
async function run(
  program: string,
  args: string[],
  cwd: string | URL,
  env: Record<string, string> = {},
): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args,
    cwd,
    env,
    stdin: "null",
  }).output();
  const text = [stdout, stderr].map((part) => new TextDecoder().decode(part))
    .join("");
  if (!success) throw new Error(`Cannot run ${program} ${args}: ${text}`);
  return text;
}

let archive: Promise<Uint8Array<ArrayBuffer>> | undefined;

/** What a page may use of our package, as an archive of npm; made once. */
function pack(): Promise<Uint8Array<ArrayBuffer>> {
  return archive ??= (async () => {
    const folder = await Deno.makeTempDir({ prefix: "package_" });
    try {
      const exports = Object.fromEntries(
        FOR_PAGES.map((name) => [name, manifest.exports[name]]),
      );
      const { name, version, license } = manifest;
      const own = JSON.stringify({ name, version, license, exports });
      await Deno.writeTextFile(`${folder}/deno.json`, own);
      for (const path of ["client", "ext", "ext/shared"]) {
        await Deno.mkdir(`${folder}/${path}`);
        for await (
          const { name, isFile } of Deno.readDir(new URL(path, ROOT))
        ) {
          const file = `${path}/${name}`;
          const isNeeded = path !== "ext" ||
            FOR_PAGES.some((name) => manifest.exports[name] === `./${file}`);
          if (!isFile || !isNeeded || name.includes("_test.")) continue;
          await Deno.copyFile(new URL(file, ROOT), `${folder}/${file}`);
        }
      }
      await Deno.copyFile(new URL("client.ts", ROOT), `${folder}/client.ts`);
      await run(Deno.execPath(), [
        ...["pack", "--allow-dirty", "--output", "package.tgz"],
      ], folder);
      return await Deno.readFile(`${folder}/package.tgz`);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  })();
}

/** A project in a folder of its own. */
export class Project implements AsyncDisposable {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** Installs React in a version, Vite, our package, and others. */
  static async make(
    react: string,
    files: Record<string, string>,
    others: Record<string, string> = {},
  ): Promise<Project> {
    const folder = await Deno.makeTempDir({ prefix: "vite_" });
    const project = new Project(folder);
    try {
      await Deno.writeFile(`${folder}/glitz-pusher.tgz`, await pack());
      const own = {
        private: true,
        type: "module",
        dependencies: {
          ...{ react, "react-dom": react, ...PACKAGES, ...others },
          "@glitz/pusher": "file:glitz-pusher.tgz",
        },
      };
      await project.write("package.json", JSON.stringify(own));
      for (const [name, text] of Object.entries(files)) {
        await project.write(name, text);
      }
      const flags = ["--no-audit", "--no-fund", "--prefer-offline"];
      await run(NPM ?? "", ["install", ...flags], folder);
      return project;
    } catch (error) {
      await project[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Writes a file, and its folder if it is missing. */
  async write(name: string, text: string): Promise<void> {
    const path = `${this.folder}/${name}`;
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(path, text);
  }

  /** The versions of a package that are installed, in all places. */
  async versionsOf(name: string): Promise<string[]> {
    const list = await run(NPM ?? "", [
      ...["ls", name, "--all", "--parseable", "--long"],
    ], this.folder);
    const pattern = new RegExp(`:${name}@([^:\\n]+)`, "g");
    return [...new Set(Array.from(list.matchAll(pattern), ([, v]) => v!))];
  }

  /** Builds the pages, with the checks of React's development. */
  async build(): Promise<void> {
    const args = [this.#vite, "build", "--mode", "development"];
    await run(NODE ?? "", args, this.folder, { NODE_ENV: "development" });
  }

  /** Checks the types, as an editor does. */
  async check(): Promise<void> {
    const tsc = `${this.folder}/node_modules/typescript/bin/tsc`;
    await run(NODE ?? "", [tsc], this.folder);
  }

  /** Starts the server for development. */
  async serve(port: number): Promise<AsyncDisposable> {
    const child = new Deno.Command(NODE ?? "", {
      args: [
        ...[this.#vite, "--host", "127.0.0.1"],
        ...["--port", `${port}`, "--strictPort"],
      ],
      cwd: this.folder,
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const output = child.stdout.pipeThrough(new TextDecoderStream());
    const ready = Promise.withResolvers<void>();
    const read = (async () => {
      let text = "";
      for await (const part of output) {
        text += part;
        if (text.includes(`${port}`)) ready.resolve();
      }
      ready.reject(new Error(`Cannot start Vite: ${text}`));
    })();
    const stop = async () => {
      child.kill("SIGTERM");
      await child.status;
      await read;
    };
    try {
      await within(DEADLINE_MS, "server of Vite", ready.promise);
    } catch (error) {
      await stop();
      throw error;
    }
    return { [Symbol.asyncDispose]: stop };
  }

  get #vite(): string {
    return `${this.folder}/node_modules/vite/bin/vite.js`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}
