/**
 * The server in other runtimes than Deno: they can load it, and its first use says
 * what to run instead. The client runs there, see `tests/client/`.
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { findInstalled } from "./support/installed.ts";

/** A module of the repository as one script, as a package for npm has it. */
async function bundle(file: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--no-config", "--no-lock", "--no-remote"],
      // The command line imports it only where Redis is asked for.
      ...["--no-npm", "--external", "../ext/redis.ts"],
      ...["--platform", "deno", "--format", "esm", file],
    ],
    cwd: new URL("..", import.meta.url),
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/** Runs a script in Node; returns its exit code and what it prints. */
async function runInNode(
  node: string,
  script: string,
): Promise<{ code: number; lines: string[] }> {
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/script.mjs`;
    await Deno.writeTextFile(file, script);
    const { code, stdout, stderr } = await new Deno.Command(node, {
      args: [file],
    }).output();
    const text = [stdout, stderr].map((bytes) =>
      new TextDecoder().decode(bytes)
    )
      .join("");
    return { code, lines: text.trimEnd().split("\n") };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const NODE = findInstalled("node");

Deno.test({
  name: "the server can be loaded in Node, and its first use says what to run",
  ignore: NODE === null,
  async fn() {
    const module = await bundle("mod.ts");
    const script = `${module}
      for (const use of [
        () => new Pusher({ key: "key" }),
        () => Pusher.handler,
        () => Pusher.trigger("news", "create", 1),
      ]) {
        try {
          use();
          console.log("no error");
        } catch (error) {
          console.log(error.message);
        }
      }`;
    const { code, lines } = await runInNode(NODE ?? "", script);
    assertEquals([code, lines.length], [0, 3], lines.join("\n"));
    for (const line of lines) {
      assertStringIncludes(line, "Cannot create a Pusher: ");
      assertStringIncludes(line, "needs Deno, and this is Node.js ");
    }
  },
});

Deno.test({
  name: "cli.ts in Node says in one line what to run, and exits 1",
  ignore: NODE === null,
  async fn() {
    const { code, lines } = await runInNode(NODE ?? "", await bundle("cli.ts"));
    assertEquals([code, lines.length], [1, 1], lines.join("\n"));
    assertStringIncludes(lines[0] ?? "", "Cannot start the server: ");
    assertStringIncludes(lines[0] ?? "", "jsr:@glitz/pusher/cli");
  },
});
