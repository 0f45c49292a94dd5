/**
 * The recipes of the README as a newcomer follows them: each file is copied into an
 * empty folder, and each command is run.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { browserTest, openPage } from "./support/browser.ts";
import { deno, OwnProject } from "./support/own_project.ts";
import { start } from "./support/program.ts";

const README = await Deno.readTextFile(
  new URL("../README.md", import.meta.url),
);

/** The programs of a section. */
function programsOf(title: string): string[] {
  const [, section = ""] = README.split(`\n${title}\n`);
  const [own = ""] = section.split(/^#+ /m);
  return Array.from(
    own.matchAll(/^```ts ignore\n(.*?)^```/gms),
    ([, program]) => program!,
  );
}

/** Puts what a snippet declares in the place of a declaration of the same name. */
function insert(program: string, snippet: string): string {
  const [, name = ""] = /^export const (\w+)/m.exec(snippet) ?? [];
  const declaration = new RegExp(`^export const ${name} = .*;$`, "m");
  assert(declaration.test(program), `nothing declares ${name}`);
  const imports = snippet.match(/^import .*\n/gm)?.join("") ?? "";
  return imports + program.replace(
    declaration,
    snippet.replaceAll(/^import .*\n/gm, "").trim(),
  );
}

browserTest(
  "README.md leads from an empty folder to a private channel, its test, and the console",
  async (browser) => {
    const [program = ""] = programsOf("### Hono");
    const [test = ""] = programsOf("### Testing");
    const [snippet = ""] = programsOf("## See what happens");
    await using own = await OwnProject.make();
    await Deno.mkdir(own.project);
    const write = (name: string, text: string) =>
      Deno.writeTextFile(`${own.project}/${name}`, text);
    await write("main.ts", insert(program, snippet));
    await write("main_test.ts", test);
    const tested = await deno(own.command("test"), own.project);
    assertEquals(tested.code, 0, tested.out + tested.error);
    assertStringIncludes(tested.out, "1 passed");

    await using server = await start(
      own.command("run", "--no-check", "--allow-net", `${own.project}/main.ts`),
      /http:\/\/127\.0\.0\.1:(\d+)/,
      { DENO_SERVE_ADDRESS: "tcp:127.0.0.1:0", NO_COLOR: "1" },
      // With what it prints as errors, where Deno says that it listens.
      4_096,
    );
    const url = `http://localhost:${server.ready[1]}/`;
    const ann = await openPage(browser, url);
    await ann.page.waitForFunction(
      `pusher.channel("private-orders").subscribed`,
    );
    const paid = await fetch(`${url}orders/7/paid`, { method: "POST" });
    assertEquals([paid.status, await paid.text()], [200, "paid\n"]);
    await ann.shows("Order 7 is paid.");

    const admin = await openPage(browser, `${url}console`);
    await admin.shows("Pusher console");
    const connections =
      `document.body.innerText.match(/Connections\\s+(\\d+)/)`;
    await admin.page.waitForFunction(`${connections}?.[1] === "1"`);
    assertEquals(admin.errors, []);
  },
);
