/**
 * The promises of the README to a newcomer, and the tables of the guides in docs/.
 * Their other snippets run by themselves, as documentation tests.
 */
import {
  type History,
  type Hooks,
  type Limits,
  Pusher,
  type PusherOptions,
} from "@glitz/pusher";
import type { RedisOptions } from "@glitz/pusher/redis";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import manifest from "../deno.json" with { type: "json" };
import { within } from "./support/deadline.ts";
import { inspectPackage } from "./support/npm_package.ts";

const ROOT = new URL("..", import.meta.url);

const read = (file: string) => Deno.readTextFile(new URL(file, ROOT));

const README = await read("README.md");

const GUIDES = Array.from(
  Deno.readDirSync(new URL("docs/", ROOT)),
  ({ name }) => `docs/${name}`,
).filter((name) => name.endsWith(".md")).sort();

/** The documents of the repository. */
const DOCUMENTS = [
  "README.md",
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "SECURITY.md",
  ...GUIDES,
];

const TEXTS = await Promise.all(DOCUMENTS.map(read));

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
    cwd: ROOT,
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
    const page = await fetch(url);
    assertStringIncludes(await page.text(), `src="/pusher.js"`);
    const posted = await fetch(url, { method: "POST", body: "hello" });
    assertEquals(await posted.text(), "message created");
    const body = "x".repeat(20_000);
    const long = await fetch(url, { method: "POST", body });
    assertEquals([long.status, await long.text()], [413, "too long"]);
  } finally {
    child.kill("SIGTERM");
    while (!(await output.read()).done);
    await child.status;
  }
});

Deno.test("README.md names every guide", () => {
  for (const guide of GUIDES) {
    assertStringIncludes(README, `](${guide})`);
  }
});

Deno.test("no snippet closes the reader's server at its end", () => {
  // A reader who adds `Deno.serve` below it would refuse every client.
  const texts = TEXTS.join("\n");
  const found = texts.match(/^await using (?:pusher|hooks)\b.*/gm) ?? [];
  assertEquals(found, []);
});

// ---- Tables -----------------------------------------------------------------
// The compiler finds a name that is missing here, and the test finds it in the
// documents.

/** Accepted for the official SDK, and ignored. */
type IgnoredOption =
  | "cluster"
  | "host"
  | "port"
  | "scheme"
  | "useTLS"
  | "encrypted"
  | "timeout"
  | "agent"
  | "proxy";

const OPTIONS = Object.keys(
  {
    appId: true,
    key: true,
    secret: true,
    keys: true,
    apps: true,
    path: true,
    clientEvents: true,
    authorize: true,
    authenticate: true,
    encryption: true,
    subscriptionCounts: true,
    forceTLS: true,
    trustProxy: true,
    cacheTtlMs: true,
    authorizationTimeoutMs: true,
    answerTimeoutMs: true,
    bodyTimeoutMs: true,
    origins: true,
    limits: true,
    activityTimeoutMs: true,
    pingAfterMs: true,
    pongTimeoutMs: true,
    strictProtocol: true,
    history: true,
    backplane: true,
    clock: true,
    now: true,
  } satisfies Record<Exclude<keyof PusherOptions, IgnoredOption>, true>,
);

const LIMITS = Object.keys(
  {
    connections: true,
    unauthorizedConnections: true,
    sockets: true,
    channelsPerConnection: true,
    bufferedBytes: true,
    frameBytes: true,
    framesPerSecond: true,
    framesBurst: true,
    channelNameLength: true,
    eventNameLength: true,
    eventDataBytes: true,
    channelsPerEvent: true,
    eventsPerBatch: true,
    bodyBytes: true,
    presenceMembers: true,
    userIdLength: true,
    userInfoBytes: true,
    clientEventsPerSecond: true,
    pendingClientEvents: true,
    watchedUsers: true,
    rewindEvents: true,
    urlLength: true,
  } satisfies Record<keyof Limits, true>,
);

const HISTORY = Object.keys(
  {
    events: true,
    ageMs: true,
    bytes: true,
    sessions: true,
  } satisfies Record<keyof History, true>,
);

const REDIS = Object.keys(
  {
    prefix: true,
    leaseMs: true,
    answerTimeoutMs: true,
    tls: true,
    sentinel: true,
  } satisfies Record<keyof RedisOptions, true>,
);

const HOOKS = Object.keys(
  {
    connected: true,
    disconnected: true,
    channel_occupied: true,
    channel_vacated: true,
    member_added: true,
    member_removed: true,
    subscribed: true,
    unsubscribed: true,
    recovered: true,
    refused: true,
    backplane: true,
    client_event: true,
    published: true,
    cache_miss: true,
    subscription_count: true,
    error: true,
  } satisfies Record<keyof Hooks, true>,
);

/** The names in the first column of the table with such a first heading. */
function firstColumn(heading: string): string[] {
  const tables = TEXTS.join("\n").match(/^\|.*\n(?:\|.*\n)+/gm) ?? [];
  const [table, ...others] = tables
    .filter((text) => text.split("|")[1]?.trim() === heading);
  assert(others.length === 0, `two tables begin with ${heading}`);
  const [, , ...rows] = table?.trimEnd().split("\n") ?? [];
  return rows.flatMap((row) => {
    const [, cell = ""] = row.split("|");
    return Array.from(cell.matchAll(/`(\w+)`/g), ([, name = ""]) => name);
  });
}

Deno.test("the documents have a row for every option, limit, event and figure", () => {
  const tables: [heading: string, names: string[]][] = [
    ["Option", OPTIONS],
    ["Limit", LIMITS],
    ["`history`", HISTORY],
    ["`redis(url, options)`", REDIS],
    ["Event", HOOKS],
    ["Field", Object.keys(new Pusher().stats())],
  ];
  for (const [heading, names] of tables) {
    assertEquals(firstColumn(heading).sort(), names.sort(), heading);
  }
});

Deno.test("SECURITY.md lists the packages that the package imports, with their versions", async () => {
  const rows = (await read("SECURITY.md")).matchAll(
    /^\| `@glitz\/pusher[^|]*\| `([^`]+)` *\| ([\d.]+) /gm,
  );
  const listed = Array.from(rows, ([, name, version]) => [name, version]);
  const { dependencies } = await inspectPackage();
  assertEquals(Object.fromEntries(listed), dependencies);
});

// ---- Commands and links -----------------------------------------------------

/** The headings of a document, as links name them. */
function anchorsOf(text: string): string[] {
  return Array.from(
    text.matchAll(/^#+ (.*)$/gm),
    ([, heading = ""]) =>
      heading.toLowerCase().replaceAll(/[^\w -]/g, "").replaceAll(" ", "-"),
  );
}

Deno.test("the documents name files, headings and tasks that exist", async () => {
  for (const document of DOCUMENTS) {
    const text = await read(document);
    const home = new URL(document, ROOT);
    for (
      const [, file = "", anchor] of text.matchAll(
        /\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)/g,
      )
    ) {
      const target = file === "" ? home : new URL(file, home);
      const stat = await Deno.stat(target).catch(() => null);
      assert(stat !== null, `${document} names ${file}`);
      if (anchor === undefined) continue;
      const anchors = anchorsOf(await Deno.readTextFile(target));
      assert(anchors.includes(anchor), `${document} names ${file}#${anchor}`);
    }
    const shell = Array.from(text.matchAll(/^```sh\n(.*?)^```/gms)).join("\n");
    const commands = shell.matchAll(
      /(?<=\s)(?:[\w./]+\.(?:ts|md)|docs\/[\w./@-]+)(?=\s)/g,
    );
    for (const [file] of commands) {
      // A command is for the root, or for a folder with the files of the document.
      const files = [ROOT, new URL(`${document.replace(/\.md$/, "")}/`, ROOT)];
      const stats = await Promise.all(
        files.map((base) => Deno.stat(new URL(file, base)).catch(() => null)),
      );
      // Or for a file that the document itself has.
      const isThere = text.includes(`\n// ${file}\n`) ||
        stats.some((stat) => stat?.isFile);
      assert(isThere, `${document} names ${file}`);
    }
    for (const [, task = ""] of shell.matchAll(/deno task ([\w-]+)/g)) {
      assert(task in manifest.tasks, `${document} names the task ${task}`);
    }
  }
});

Deno.test("CHANGELOG.md begins with the version of the package", async () => {
  const [, version] = (await read("CHANGELOG.md")).match(/^## (\S+)/m) ?? [];
  assertEquals(version, manifest.version);
});
