/**
 * `examples/react/`: its files as they stand in a Vite project, with our package as
 * JSR makes it for npm. `gallery_test.ts` has the examples of one file.
 */
import { assertEquals } from "@std/assert";
import offline from "./offline/import_map.json" with { type: "json" };
import example from "../examples/react/package.json" with { type: "json" };
import { handler, pusher } from "../examples/react/server.ts";
import { openPage } from "./support/browser.ts";
import { checkMethods, checkParts, lists } from "./support/example_pages.ts";
import { Project, viteTest } from "./support/vite.ts";

const read = (file: string) =>
  Deno.readTextFile(new URL(`../examples/react/${file}`, import.meta.url));

viteTest(
  "examples/react carries messages between pages of Vite's own server, and lists who is there",
  async (browser) => {
    await using server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      handler,
    );
    await using _closing = { [Symbol.asyncDispose]: () => pusher.close() };
    const { port } = server.addr;
    await checkMethods(`http://127.0.0.1:${port}/`, { messages: "POST" });
    const version = example.dependencies.react.replace("^", "");
    await using project = await Project.make(version, {
      "index.html": await read("index.html"),
      "main.tsx": await read("main.tsx"),
      "vite.config.js": (await read("vite.config.js"))
        .replace("http://localhost:8000", `http://127.0.0.1:${port}`),
    });
    const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const free = taken.addr.port;
    taken.close();
    await using _vite = await project.serve(free);
    const url = `http://127.0.0.1:${free}/`;
    const ann = await openPage(browser, url);
    await ann.shows("Here: Guest 1");
    await ann.page.setViewport({ width: 320, height: 568 });
    await checkParts(ann.page);
    const bob = await openPage(browser, url);
    for (const window of [ann, bob]) {
      await window.shows("Here: Guest 1, Guest 2");
    }
    await ann.page.bringToFront();
    await ann.page.type("[name=text]", "<b>hello");
    await ann.page.keyboard.press("Enter");
    for (const window of [ann, bob]) await lists(window, ["<b>hello"]);
    await Deno.mkdir(".artifacts", { recursive: true });
    await ann.page.screenshot({ path: ".artifacts/react.png" });
    assertEquals([ann.errors, bob.errors], [[], []]);
    await bob.page.close();
    await ann.shows("Here: Guest 1");
    await ann.page.waitForFunction(
      `!document.body.innerText.includes("Guest 2")`,
    );
  },
);

// Deno itself leaves this file out, since its packages are in a package.json.
Deno.test("examples/react/main.tsx has no error of type", async () => {
  const base = new URL("offline/", import.meta.url);
  const { react, "react-dom": dom } = example.dependencies;
  const version = (range: string) => range.replace("^", "");
  const imports: Record<string, string> = {
    "react": `npm:react@${version(react)}`,
    "react/jsx-runtime": `npm:react@${version(react)}/jsx-runtime`,
    "react-dom/client": `npm:react-dom@${version(dom)}/client`,
  };
  for (const [name, target] of Object.entries(offline.imports)) {
    if (name.startsWith("@glitz/")) imports[name] = `${new URL(target, base)}`;
  }
  const folder = await Deno.makeTempDir({ prefix: "types_" });
  try {
    await Deno.writeTextFile(
      `${folder}/deno.json`,
      JSON.stringify({ imports }),
    );
    await Deno.writeTextFile(`${folder}/main.tsx`, await read("main.tsx"));
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["check", "--no-lock", "main.tsx"],
      cwd: folder,
      env: { NO_COLOR: "1" },
    }).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
