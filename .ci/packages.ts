/**
 * Finds out where the packages of the tests come from: from JSR, as deno.json
 * says, or, where JSR does not answer, from the stand-ins in `tests/offline/`.
 * Run as a program it prints the flags with which Deno finds them.
 *
 * @module
 */
import manifest from "../deno.json" with { type: "json" };
import offline from "../tests/offline/import_map.json" with { type: "json" };

/** How soon JSR has to begin an answer; a closed network often never does. */
const ANSWER_DEADLINE_MS = 1_500;

/** Ample for three small packages on a slow line, once JSR has answered. */
const DOWNLOAD_DEADLINE_MS = 60_000;

const root = new URL("..", import.meta.url);

/** Where the packages come from. */
export interface Packages {
  /** Whether it is JSR. */
  isOnline: boolean;
  /** The same in words. */
  source: string;
  /** Flags for a Deno whose working directory is the repository. */
  flags: string[];
}

/** Decides for the machine it runs on. */
export async function findPackages(): Promise<Packages> {
  const isOnline = await jsrAnswers();
  return isOnline
    ? { isOnline, source: "JSR answers: using @std", flags: [] }
    : {
      isOnline,
      source: "JSR does not answer: using the stand-ins in tests/offline",
      flags: ["--import-map=tests/offline/import_map.json"],
    };
}

/**
 * Makes Deno check against a copy of deno.lock. A run may add entries that are no
 * change to commit: the latest `@std`, modules that a test itself serves.
 */
export async function scratchLock(): Promise<string> {
  const lock = ".artifacts/deno.lock";
  await Deno.mkdir(new URL(".artifacts", root), { recursive: true });
  await Deno.copyFile(new URL("deno.lock", root), new URL(lock, root));
  return `--lock=${lock}`;
}

/** Whether Deno can load the modules, from its cache or the network. */
async function jsrAnswers(): Promise<boolean> {
  if (await loads("--cached-only")) return true;
  return await isReachable() && await loads();
}

/** Whether JSR begins an answer, whatever the answer is and however slow. */
async function isReachable(): Promise<boolean> {
  try {
    const response = await fetch(Deno.env.get("JSR_URL") ?? "https://jsr.io/", {
      method: "HEAD",
      signal: AbortSignal.timeout(ANSWER_DEADLINE_MS),
    });
    await response.body?.cancel();
    return true;
  } catch {
    // No network, no such name and no answer in time all mean the same here.
    return false;
  }
}

/**
 * Has Deno load the modules. A child process does it, because it can be ended
 * when the network leaves it waiting.
 */
async function loads(...flags: string[]): Promise<boolean> {
  const imports = jsrModules().map((name) => `import "${name}";`).join("\n");
  const program = `data:application/typescript,${encodeURIComponent(imports)}`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-config", "--no-lock", ...flags, program],
    signal: AbortSignal.timeout(DOWNLOAD_DEADLINE_MS),
    stdout: "null",
    stderr: "null",
  });
  return (await child.output()).success;
}

/** The modules that have a stand-in, by their names on JSR. */
function jsrModules(): string[] {
  const packages = Object.entries(manifest.imports)
    .filter(([, target]) => target.startsWith("jsr:"));
  return packages.flatMap(([name, target]) =>
    Object.keys(offline.imports)
      .filter((module) => `${module}/`.startsWith(`${name}/`))
      .map((module) => module.replace(name, target))
  );
}

if (import.meta.main) {
  const { flags, isOnline } = await findPackages();
  // Without JSR, deno.lock itself has all that a run can meet.
  if (isOnline) flags.push(await scratchLock());
  console.log(flags.join("\n"));
}
