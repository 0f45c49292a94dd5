/**
 * Fails if a file of the package imports a file or module that it may not import,
 * or if imports form a circle. An `import type` counts as an import.
 *
 * @module
 */
import { relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/**
 * The files and folders that each file, or each file of a folder, may import;
 * `node:` are the built-in modules.
 */
const ALLOWED: Record<string, string[]> = {
  "mod.ts": ["core/", "client_bundle.ts", "node:"],
  "core/": ["core/", "client_bundle.ts", "node:"],
  // For pages: they know the client, and nothing of the server.
  "ext/shared/": ["client.ts", "ext/shared/"],
  "ext/react.ts": ["client.ts", "ext/shared/"],
  "ext/svelte.ts": ["client.ts", "ext/shared/"],
  "ext/vue.ts": ["client.ts", "ext/shared/"],
  "ext/": ["mod.ts", "core/", "node:"],
  "cli.ts": ["cli/", "mod.ts", "core/", "ext/", "node:"],
  "init.ts": ["init/", "node:"],
  "init/": [],
  "cli/": ["cli/", "mod.ts", "core/", "ext/", "node:"],
  "client.ts": ["client/"],
  "client/": ["client/"],
  "client_bundle.ts": [],
};

/** The only library that an extension, or each file of a folder, may import. */
const LIBRARIES: Record<string, string> = {
  "ext/console/page/": "npm:preact@",
  "ext/encryption.ts": "npm:@noble/ciphers@",
  "ext/metrics/registry.ts": "npm:prom-client@",
  "ext/redis/client.ts": "npm:@redis/client@",
};

/** The imports of each file, as paths in the repository. */
type Graph = Map<string, string[]>;

/** The part of the output of `deno info --json` that matters here. */
interface Info {
  modules: { specifier: string; error?: string; dependencies?: Dependency[] }[];
}

/** One import; where only types are imported there is no code. */
interface Dependency {
  code?: { specifier: string };
  type?: { specifier: string };
}

/** The files of the package, without tests and tools. */
function packageFiles(folder = ""): string[] {
  return [...Deno.readDirSync(root + folder)].flatMap(
    ({ name, isDirectory }) => {
      const path = folder + name;
      if (isDirectory) {
        return `${path}/` in ALLOWED || folder ? packageFiles(`${path}/`) : [];
      }
      const isSource = /\.tsx?$/.test(name) && !/_test\.tsx?$/.test(name);
      return isSource ? [path] : [];
    },
  ).sort();
}

async function importGraph(files: string[]): Promise<Graph> {
  const graph: Graph = new Map();
  for (const file of files) {
    if (graph.has(file)) continue;
    for (const { specifier, error, dependencies } of await modules(file)) {
      if (error !== undefined) throw new Error(error);
      const targets = (dependencies ?? []).flatMap(({ code, type }) =>
        [code, type].flatMap((target) => target?.specifier ?? [])
      );
      graph.set(toPath(specifier), [...new Set(targets.map(toPath))].sort());
    }
  }
  return graph;
}

/** A file and all files that it imports, directly or indirectly. */
async function modules(file: string): Promise<Info["modules"]> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", file],
    cwd: root,
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  const info: Info = JSON.parse(new TextDecoder().decode(stdout));
  return info.modules;
}

function toPath(specifier: string): string {
  return specifier.startsWith("file:")
    ? relative(root, fileURLToPath(specifier))
    : specifier;
}

/** A message for each import of a file that is not allowed. */
function forbiddenImports(file: string, imports: string[]): string[] {
  const entry = Object.entries(ALLOWED).find(([name]) => covers(name, file));
  if (!entry) return [`Cannot accept ${file}: no rule says what it may import`];
  const library = Object.entries(LIBRARIES)
    .find(([name]) => covers(name, file))?.[1];
  // An extension may have a folder of its own, with its name.
  const own = file.match(/^ext\/\w+/)?.map((name) => `${name}/`) ?? [];
  const allowed = [...entry[1], ...own, ...library ? [library] : []];
  return imports
    .filter((target) => !allowed.some((name) => covers(name, target)))
    .map((target) =>
      `Cannot accept the imports of ${file}: ${target} is among them, and ` +
      `allowed are ${allowed.join(", ") || "none"}`
    );
}

/** Whether a file has a name, or starts with that of a folder or package. */
function covers(name: string, file: string): boolean {
  return /[/:@]$/.test(name) ? file.startsWith(name) : file === name;
}

/** A circle of imports, its first file repeated at the end; or undefined. */
function findCircle(graph: Graph): string[] | undefined {
  const done = new Set<string>();
  const visit = (file: string, path: string[]): string[] | undefined => {
    const start = path.indexOf(file);
    if (start >= 0) return [...path.slice(start), file];
    if (done.has(file)) return;
    for (const target of graph.get(file) ?? []) {
      const circle = visit(target, [...path, file]);
      if (circle) return circle;
    }
    done.add(file);
  };
  for (const file of graph.keys()) {
    const circle = visit(file, []);
    if (circle) return circle;
  }
}

/** Prints the imports or the problems; returns whether there are no problems. */
async function checkImports(): Promise<boolean> {
  const files = packageFiles();
  const graph = await importGraph(files);
  const problems = files.flatMap((file) =>
    forbiddenImports(file, graph.get(file) ?? [])
  );
  const circle = findCircle(graph);
  if (circle) {
    problems.push(`Cannot accept a circle of imports: ${circle.join(" -> ")}`);
  }
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) return false;
  for (const file of files) {
    console.log(`${file}: ${graph.get(file)?.join(", ") || "nothing"}`);
  }
  return true;
}

if (!await checkImports()) Deno.exit(1);
