/**
 * `init.ts` as a user meets it: the project that it writes runs and passes its tests
 * at once. The registry's packages are replaced by those of this repository.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import manifest from "../deno.json" with { type: "json" };
import { FILES } from "../init/files.ts";
import { browserTest, openPage } from "./support/browser.ts";
import { checkParts, lists } from "./support/example_pages.ts";
import { deno, OwnProject } from "./support/own_project.ts";
import { start } from "./support/program.ts";

const ROOT = new URL("..", import.meta.url);

const path = (file: string) => new URL(file, ROOT).pathname;

/** The arguments of a task of the project, with the packages of this repository. */
function taskOf(own: OwnProject, name: string): string[] {
  const { tasks } = JSON.parse(FILES["deno.json"]!);
  const [, command, ...rest] = tasks[name].split(" ");
  return own.command(command, ...rest);
}

/** Runs `init.ts` with the permission to write to one folder. */
const init = (cwd: string, folder: string, ...args: string[]) =>
  deno([
    ...["run", "--no-prompt", "--no-remote", "--no-npm"],
    ...[`--allow-write=${folder}`, path("init.ts"), ...args],
  ], cwd);

/** The names in a folder, and in those below it. */
const namesIn = (folder: string) =>
  [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

Deno.test("init.ts writes a project that passes its own tests, and the format and lint of Deno", async () => {
  await using folder = await OwnProject.make();
  const { code, out, error } = await init(folder.path, "app", "app");
  assertEquals([code, error], [0, ""]);
  assertStringIncludes(out, "cd app\n");
  assertEquals(namesIn(folder.project), Object.keys(FILES).sort());
  for (
    const command of [["fmt", "--check"], ["lint"], taskOf(folder, "test")]
  ) {
    const { code, out, error } = await deno(command, folder.project);
    assertEquals(code, 0, `deno ${command.join(" ")}: ${out}${error}`);
  }
});

browserTest(
  "init.ts writes a server whose page carries messages",
  async (browser) => {
    await using folder = await OwnProject.make();
    await init(folder.path, "app", "app");
    const args = taskOf(folder, "start").map((arg) =>
      arg === "main.ts" ? `${folder.project}/main.ts` : arg
    );
    await using server = await start(
      [args[0]!, "--no-prompt", "--no-check", ...args.slice(1)],
      /^(http:\/\/localhost:\d+\/)\n/m,
      { PORT: "0" },
    );
    const url = server.ready[1]!;
    const [ann, bob] = [
      await openPage(browser, url),
      await openPage(browser, url),
    ];
    await ann.page.setViewport({ width: 320, height: 568 });
    await checkParts(ann.page);
    for (const { page } of [ann, bob]) {
      await page.waitForFunction(`pusher.channel("messages").subscribed`);
    }
    await ann.page.bringToFront();
    await ann.page.type("[name=text]", "<b>hello");
    await ann.page.keyboard.press("Enter");
    for (const window of [ann, bob]) await lists(window, ["<b>hello"]);
    await Deno.mkdir(".artifacts", { recursive: true });
    await ann.page.screenshot({ path: ".artifacts/init.png" });
    const health = await fetch(`${url}healthz`);
    assertEquals([health.status, await health.text()], [200, "ok"]);
    assertEquals([ann.errors, bob.errors], [[], []]);
  },
);

Deno.test("init.ts overwrites nothing, asks nothing, and says what to do", async () => {
  await using folder = await OwnProject.make();
  await Deno.mkdir(folder.project);
  await Deno.writeTextFile(`${folder.project}/Dockerfile`, "mine");
  await Deno.writeTextFile(`${folder.path}/file`, "mine");
  const table: [allowed: string, args: string[], code: number, text: string][] =
    [
      ["app", ["app"], 1, "app/Dockerfile exists, and is not overwritten"],
      ["app/sub/new", ["app/sub/new/"], 0, ""],
      ["app/sub/new", ["app/sub/new"], 1, "app/sub/new/main.ts exists"],
      ["app", ["other"], 1, "--allow-write=other jsr:@glitz/pusher/init other"],
      ["app", [], 1, "--allow-write=. jsr:@glitz/pusher/init\n"],
      ["file", ["file"], 1, "Cannot write a project: "],
      ["app", ["app", "more"], 2, '"more"'],
      ["app", [""], 2, "the folder has no name"],
      ["app", ["--force", "app"], 2, "'--force'"],
    ];
  for (const [allowed, args, code, text] of table) {
    const result = await init(folder.path, allowed, ...args);
    assertEquals(result.code, code, `${args}: ${result.error}`);
    assertStringIncludes(result.error, text);
    // One line, and no stack.
    assertEquals(result.error.split("\n").length, code === 0 ? 1 : 2);
  }
  assertEquals(namesIn(folder.project), ["Dockerfile", "sub"]);
  const kept = await Deno.readTextFile(`${folder.project}/Dockerfile`);
  assertEquals(kept, "mine");
  const help = await init(folder.path, "app", "--help");
  assertEquals([help.code, help.error], [0, ""]);
  for (const name of Object.keys(FILES)) assert(help.out.includes(name), name);
});

Deno.test("init.ts names the versions of the package and of Deno that are tested", async () => {
  const { imports } = JSON.parse(FILES["deno.json"]!);
  assertEquals(
    imports["@glitz/pusher"],
    `jsr:@glitz/pusher@^${manifest.version}`,
  );
  assertEquals(imports["@std/assert"], manifest.imports["@std/assert"]);
  const from = (text: string) => /^FROM .*$/m.exec(text)?.[0];
  const ours = await Deno.readTextFile(path("docs/scaling/Dockerfile"));
  assertEquals(from(FILES.Dockerfile!), from(ours));
});
