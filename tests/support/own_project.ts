/**
 * A project of a user's own, in a folder of its own: the packages of the registry are
 * replaced by those of this repository.
 *
 * @module
 */
import offline from "../offline/import_map.json" with { type: "json" };

const BASE = new URL("../offline/", import.meta.url);

/** A folder for one test, with an import map beside the project. */
export class OwnProject implements AsyncDisposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  static async make(): Promise<OwnProject> {
    const own = new OwnProject(await Deno.makeTempDir({ prefix: "own_" }));
    const imports = Object.entries(offline.imports).map(([name, target]) => [
      name,
      target.startsWith(".") ? `${new URL(target, BASE)}` : target,
    ]);
    await Deno.writeTextFile(
      own.map,
      JSON.stringify({ imports: Object.fromEntries(imports) }),
    );
    return own;
  }

  get map(): string {
    return `${this.path}/import_map.json`;
  }

  get project(): string {
    return `${this.path}/app`;
  }

  /** A command of Deno, with the packages of this repository. */
  command(name: string, ...rest: string[]): string[] {
    return [name, `--import-map=${this.map}`, "--no-lock", ...rest];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

/** Runs Deno to its end, as a user does in a terminal. */
export async function deno(
  args: string[],
  cwd: string,
): Promise<{ code: number; out: string; error: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd,
    env: { NO_COLOR: "1" },
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, out: decode(stdout), error: decode(stderr) };
}
