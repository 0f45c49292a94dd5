/**
 * The server in other runtimes than Deno: they can load it, and its first use says
 * what to run instead. In the memory of a test it runs there. The client runs there,
 * too, see `tests/client/`.
 */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { findInstalled } from "./support/installed.ts";
import { deno, OwnProject } from "./support/own_project.ts";
import { NpmProject } from "./support/npm_package.ts";

/** A module as one script, as a package for npm has it. */
async function bundle(file: string): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--no-config", "--no-lock", "--no-remote"],
      // The command line imports these only where they are asked for.
      ...["--no-npm", "--external", "../ext/redis.ts"],
      ...["--external", "../ext/metrics.ts"],
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

// ---- Tests in memory --------------------------------------------------------

/** Tests as a user writes them, for a runner that the first lines import. */
const TESTS = `
import { Pusher as Client } from "@glitz/pusher/client";
import { RefusedError, testPusher } from "@glitz/pusher/testing";

const options = {
  clientEvents: true,
  authorize(request, { channel }) {
    const user = request.headers.get("cookie")?.replace("user=", "");
    if (user === undefined) return false;
    return channel.startsWith("presence-") ? { user_id: user } : true;
  },
};

const as = (user) => ({ headers: { cookie: "user=" + user } });

test("clients of a test, and what was published", async () => {
  const t = testPusher(options, { deadlineMs: 20_000 });
  const ann = await t.connect(as("ann"));
  const bob = await t.connect(as("bob"));
  const room = await ann.subscribe("presence-room");
  const his = await bob.subscribe("presence-room");
  equal(await room.next("pusher:member_added"), { id: "bob", info: {} });
  his.trigger("client-typing", { since: 1 });
  equal(await room.next("client-typing"), { since: 1 });
  await t.pusher.trigger("presence-room", "create", { text: "hello" });
  equal(await room.next("create"), { text: "hello" });
  await t.expectPublished("presence-room", "create", { text: "hello" });
  const stranger = await t.connect();
  const refused = await stranger.subscribe("private-notes").catch((e) => e);
  equal(refused instanceof RefusedError, true);
  stranger.network.drop();
  await t.clock.tickAsync(80_000);
  equal(t.pusher.stats().connections, 2);
  await t.close();
});

test("an unmodified client, over a reset", async () => {
  const t = testPusher(options, { deadlineMs: 20_000 });
  t.stubGlobals();
  const client = new Client("app-key", {
    url: "http://localhost",
    channelAuthorization: as("ann"),
  });
  const heard = (emitter, event) =>
    new Promise((resolve) => emitter.bind(event, resolve));
  const notes = client.subscribe("private-notes");
  await heard(notes, "pusher:subscription_succeeded");
  const created = heard(notes, "create");
  const lost = heard(client.connection, "connecting");
  t.network.reset();
  await lost;
  await t.pusher.trigger("private-notes", "create", 1);
  client.connect();
  equal(await created, 1);
  client.disconnect();
  await t.close();
});
`;

/** How to run a file of tests, and the lines with which it imports the runner. */
const RUNNERS: Record<string, { args: string[]; imports: string }> = {
  node: {
    args: ["--test"],
    imports: `import test from "node:test";
      import { deepStrictEqual as equal } from "node:assert";`,
  },
  bun: {
    args: ["test"],
    imports: `import { expect, test } from "bun:test";
      const equal = (actual, wanted) => expect(actual).toEqual(wanted);`,
  },
};

/** Runs files of tests that import the package from npm. */
async function runTests(
  program: string,
  args: string[],
  tests: string,
): Promise<{ code: number; text: string }> {
  await using project = await NpmProject.make();
  await Deno.writeTextFile(`${project.folder}/a.test.mjs`, tests);
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args: [...args, "./a.test.mjs"],
    cwd: project.folder,
    env: { NO_COLOR: "1" },
  }).output();
  const [out = "", errors = ""] = [stdout, stderr].map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  return { code, text: out + errors };
}

for (const [name, { args, imports }] of Object.entries(RUNNERS)) {
  const program = findInstalled(name);
  Deno.test({
    name: `testing runs in the test runner of ${name}, and lets it exit`,
    ignore: program === null,
    async fn() {
      const { code, text } = await runTests(program!, args, imports + TESTS);
      assertEquals(code, 0, text);
      assertMatch(text, /\b(?:pass 2|2 pass)\b/);
    },
  });
}

/** The test in docs/testing.md with `describe` and `it`. */
async function documentedTest(): Promise<string> {
  const guide = await Deno.readTextFile(
    new URL("../docs/testing.md", import.meta.url),
  );
  const blocks = guide.matchAll(/^```js ignore\n(.*?)^```/gms);
  const [example = ""] = Array.from(blocks, ([, text = ""]) => text)
    .filter((text) => text.includes("node:test"));
  return example;
}

Deno.test({
  name: "docs/testing.md has a test for Node that runs as it stands",
  ignore: NODE === null,
  async fn() {
    const example = await documentedTest();
    const { code, text } = await runTests(NODE!, ["--test"], example);
    assertEquals(code, 0, text);
    assertMatch(text, /\bpass [1-9]/);
  },
});

Deno.test("docs/testing.md has a test with describe and it that runs in Deno, with its leak checks", async () => {
  await using own = await OwnProject.make();
  await Deno.writeTextFile(`${own.path}/a_test.mjs`, await documentedTest());
  const checks = ["--sanitize-ops", "--sanitize-resources"];
  const { code, out, error } = await deno(
    own.command("test", "--no-check", ...checks, "a_test.mjs"),
    own.path,
  );
  assertEquals(code, 0, out + error);
  assertMatch(out, /1 passed \(1 step\)/);
});
