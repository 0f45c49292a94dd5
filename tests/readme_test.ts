/**
 * What the README promises a newcomer. Its other snippets run by themselves,
 * as documentation tests.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { within } from "./support/deadline.ts";

const README = await Deno.readTextFile(
  new URL("../README.md", import.meta.url),
);

/** A screen, and the lines that a reader gives a project. */
const FIRST_SCREEN_LINES = 40;

Deno.test("README.md has both commands on its first screen", () => {
  const screen = README.split("\n").slice(0, FIRST_SCREEN_LINES);
  assert(
    screen.includes("npx --yes deno run --allow-net examples/chat.ts"),
  );
  assert(screen.includes("npx --yes deno task test"));
});

Deno.test("README.md has a server that runs as it stands", async () => {
  const [, program = ""] = README.match(/```ts ignore\n(.*?)```/s) ?? [];
  assertStringIncludes(program, "Deno.serve(");
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--allow-net", "-"],
    cwd: new URL("..", import.meta.url),
    // Any port that is free, instead of the default one.
    env: { DENO_SERVE_ADDRESS: "tcp:127.0.0.1:0", NO_COLOR: "1" },
    stdin: "piped",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const input = child.stdin.getWriter();
  await input.write(new TextEncoder().encode(program));
  await input.close();
  const output = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
  try {
    let text = "";
    const address = /http:\/\/127\.0\.0\.1:\d+/;
    const listening = async () => {
      while (!address.test(text)) {
        const { value, done } = await output.read();
        if (done) throw new Error(`Cannot run the snippet: ${text}`);
        text += value;
      }
    };
    await within(20_000, "address", listening());
    const url = text.match(address)?.[0] ?? "";
    const script = await fetch(`${url}/pusher.js`);
    assertEquals(script.status, 200);
    assertStringIncludes(await script.text(), "app-key");
    const posted = await fetch(url, { method: "POST", body: "hello" });
    assertEquals(await posted.text(), "message created");
  } finally {
    child.kill("SIGTERM");
    while (!(await output.read()).done);
    await child.status;
  }
});
