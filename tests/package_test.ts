/**
 * The package as others get it: from a folder of their own, and from npm as JSR's
 * layer makes it for Node.js, Bun and bundlers.
 */
import { Pusher } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import manifest from "../deno.json" with { type: "json" };
import offline from "./offline/import_map.json" with { type: "json" };
import { findInstalled } from "./support/installed.ts";
import { inspectPackage, NpmProject } from "./support/npm_package.ts";

const ROOT = new URL("..", import.meta.url);

/** Exports that are programs: importing them would run them. */
const isProgram = (name: string) => /^\.\/(cli|init|examples\/.*)$/.test(name);

Deno.test("the tests import the package by the names that it exports", () => {
  const mapped = Object.entries(offline.imports)
    .filter(([name]) => name.startsWith("@glitz/pusher"));
  const exported = Object.entries(manifest.exports)
    .map(([name, file]) => [`@glitz/pusher${name.slice(1)}`, `../.${file}`]);
  assertEquals(Object.fromEntries(mapped), Object.fromEntries(exported));
});

Deno.test("the package imports built-in modules and pinned packages only", async () => {
  const { others, dependencies } = await inspectPackage();
  // A package may not import itself by its name, and JSR finds that out only when
  // it is published: the version does not exist yet.
  for (const name of others) assert(name.startsWith("node:"), name);
  for (const [name, version] of Object.entries(dependencies)) {
    assert(/^\d+\.\d+\.\d+$/.test(version), `${name}@${version}`);
  }
});

/** A file that a user copies, so that it has the names of a user. */
const FOR_COPYING = ["examples/react/main.tsx"];

Deno.test("no file of the package imports the package by its name, except one for copying", async () => {
  const { files } = await inspectPackage();
  const others: string[] = [];
  // Published, too, though no export leads there.
  const folders = ["", "examples/", "examples/react/", "examples/publish/"];
  for (const folder of folders) {
    for await (const { name } of Deno.readDir(new URL(folder, ROOT))) {
      const isCode = /\.(ts|tsx|js|mjs)$/.test(name) &&
        !name.includes("_test.");
      if (isCode && !files.includes(folder + name)) others.push(folder + name);
    }
  }
  assert(others.includes("examples/hono.ts"), others.join());
  const texts = await Promise.all(
    others.map((file) => Deno.readTextFile(new URL(file, ROOT))),
  );
  const importing = others.filter((_, i) =>
    /(?:from|import) *\(?"@glitz\/pusher/.test(texts[i]!)
  );
  assertEquals(importing.sort(), FOR_COPYING);
});

Deno.test("the types hold in a project of another folder, with Deno's default options", async () => {
  const folder = await Deno.makeTempDir({ prefix: "project_" });
  try {
    const imports = Object.entries(manifest.exports).map(([name, file]) => [
      `@glitz/pusher${name.slice(1)}`,
      new URL(file, ROOT).href,
    ]);
    await Deno.writeTextFile(
      `${folder}/deno.json`,
      JSON.stringify({ imports: Object.fromEntries(imports) }),
    );
    const lines = imports.map(([name], index) =>
      isProgram(`.${name!.slice("@glitz/pusher".length)}`)
        ? `import type {} from "${name}";`
        : `export * as m${index} from "${name}";`
    );
    await Deno.writeTextFile(`${folder}/main.ts`, lines.join("\n"));
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["check", "--no-lock", "main.ts"],
      cwd: folder,
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

/** A program for any runtime: its first argument is the address of a server. */
const PROGRAM = `
import { Pusher } from "@glitz/pusher/client";
import * as server from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { webhooks } from "@glitz/pusher/webhooks";

for (const part of [server.Pusher, fallback, webhooks]) {
  if (typeof part !== "function") throw new Error("a part is missing");
}
try {
  server.Pusher.handler;
  console.log("server: works");
} catch (error) {
  console.log("server:", error.message);
}
const pusher = new Pusher("app-key", { url: process.argv[2] });
// Over HTTP where there is no WebSocket: the client loads that part by itself.
pusher.connection.bind("error", () => {});
pusher.subscribe("news").bind("create", ({ text }) => {
  console.log("client:", text);
  pusher.disconnect();
});
`;

for (const name of ["node", "bun"]) {
  const program = findInstalled(name);
  Deno.test({
    name: `the package from npm loads in ${name}, and the client gets events`,
    ignore: program === null,
    async fn() {
      await using pusher = new Pusher({ key: "app-key" });
      await using server = Deno.serve(
        { hostname: "127.0.0.1", port: 0, onListen() {} },
        pusher.cascade(pusher.handler, fallback(pusher)),
      );
      pusher.on("subscribed", async ({ channel }) => {
        await pusher.trigger(channel, "create", { text: "hello" });
      });
      await using project = await NpmProject.make();
      const url = `http://127.0.0.1:${server.addr.port}`;
      const { code, text } = await project.run(program!, PROGRAM, [url]);
      assertEquals(code, 0, text);
      assertStringIncludes(text, "client: hello");
      assertStringIncludes(text, "needs Deno, and this is ");
    },
  });
}
