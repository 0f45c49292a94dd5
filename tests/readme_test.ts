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
import type {
  AuthOptions,
  AuthRequest,
  ChannelAuth,
  IgnoredOptions,
  PusherOptions as ClientOptions,
} from "@glitz/pusher/client";
import type { RedisOptions } from "@glitz/pusher/redis";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { stripTypeScriptTypes } from "node:module";
import { FLAGS } from "../cli/flags.ts";
import manifest from "../deno.json" with { type: "json" };
import { within } from "./support/deadline.ts";
import { findInstalled } from "./support/installed.ts";
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

/** The options of the client, and the interface that has them. */
const CLIENT = Object.keys(
  {
    url: true,
    wsHost: true,
    wsPort: true,
    wssPort: true,
    wsPath: true,
    cluster: true,
    forceTLS: true,
    httpHost: true,
    httpPort: true,
    httpsPort: true,
    httpPath: true,
    httpCredentials: true,
    enabledTransports: true,
    disabledTransports: true,
    activityTimeout: true,
    pongTimeout: true,
    unavailableTimeout: true,
    channelAuthorization: true,
    userAuthentication: true,
    nacl: true,
    authEndpoint: true,
    auth: true,
    authorizer: true,
  } satisfies Record<Exclude<keyof ClientOptions, keyof IgnoredOptions>, true>,
);

const CLIENT_AUTH = Object.keys(
  {
    endpoint: true,
    credentials: true,
    batch: true,
    transport: true,
    params: true,
    headers: true,
    paramsProvider: true,
    headersProvider: true,
    customHandler: true,
  } satisfies Record<keyof AuthOptions<AuthRequest, ChannelAuth>, true>,
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

/** The cells of the table with such a first heading, row by row. */
function rowsOf(heading: string): string[][] {
  const tables = TEXTS.join("\n").match(/^\|.*\n(?:\|.*\n)+/gm) ?? [];
  const [table, ...others] = tables
    .filter((text) => text.split("|")[1]?.trim() === heading);
  assert(others.length === 0, `two tables begin with ${heading}`);
  const [, , ...rows] = table?.trimEnd().split("\n") ?? [];
  return rows.map((row) => row.split("|").slice(1).map((cell) => cell.trim()));
}

/** The names in the first column of the table with such a first heading. */
function firstColumn(heading: string): string[] {
  return rowsOf(heading).flatMap(([cell = ""]) =>
    Array.from(cell.matchAll(/`(\w+)`/g), ([, name = ""]) => name)
  );
}

Deno.test("the documents have a row for every option, limit, event and figure", () => {
  const tables: [heading: string, names: string[]][] = [
    ["Option", OPTIONS],
    ["Limit", LIMITS],
    ["`history`", HISTORY],
    ["`redis(url, options)`", REDIS],
    ["Event", HOOKS],
    ["Option of the client", CLIENT],
    ["Field of both", CLIENT_AUTH],
    ["Field", Object.keys(new Pusher().stats())],
  ];
  for (const [heading, names] of tables) {
    assertEquals(firstColumn(heading).sort(), names.sort(), heading);
  }
});

/** The optional fields of an interface in a source: types and comments by names. */
function fieldsIn(source: string, name: string) {
  const [, rest = ""] = source.split(`export interface ${name}`);
  const fields = rest.split("\n}\n")[0]!.matchAll(
    /\/\*\*((?:(?!\*\/).)*)\*\/\n {2}(\w+)\?: ([^;{]*)/gs,
  );
  return Array.from(fields, ([, comment = "", name = "", type = ""]) => ({
    name,
    type: type.replace(" | undefined", ""),
    ends: /@default \{[^}]*?(\d+)\}/.exec(comment)?.[1] ?? "",
  }));
}

Deno.test("docs/client.md gives the options of the client the types and defaults of client.ts", async () => {
  const source = await read("client.ts");
  const plain = ["string", "number", "boolean", "string[]"];
  for (
    const [heading, type, count] of [
      ["Option of the client", "PusherOptions", CLIENT.length],
      ["Field of both", "AuthOptions", CLIENT_AUTH.length],
    ] as const
  ) {
    const fields = fieldsIn(source, type);
    assertEquals(fields.length, count);
    for (const { name, type, ends } of fields) {
      const row = rowsOf(heading).find(([cell]) => cell === `\`${name}\``);
      const [, typeCell = "", defaultCell = ""] = row ?? [];
      const isPlain = plain.includes(type);
      const text = type === "Credentials" ? "string" : type;
      const types = isPlain || text !== type
        ? [`\`${text}\``]
        : ["an object", "a function"];
      assert(types.includes(typeCell), `${name} is ${type}`);
      assert(defaultCell.endsWith(ends), `${name} is ${ends} by default`);
    }
  }
  const guide = TEXTS[DOCUMENTS.indexOf("docs/client.md")]!;
  const [, ignored = ""] = /IgnoredOptions = (.*?);/s.exec(source) ?? [];
  const names = Array.from(ignored.matchAll(/"(\w+)"/g), ([, name]) => name);
  assert(names.length > 3, names.join());
  for (const name of names) assertStringIncludes(guide, `\`${name}\``);
});

Deno.test("SECURITY.md lists the packages that the package imports, with their versions", async () => {
  const rows = (await read("SECURITY.md")).matchAll(
    /^\| `@glitz\/pusher[^|]*\| `([^`]+)` *\| ([\d.]+) /gm,
  );
  const listed = Array.from(rows, ([, name, version]) => [name, version]);
  const { dependencies } = await inspectPackage();
  assertEquals(Object.fromEntries(listed), dependencies);
});

// ---- The tree ---------------------------------------------------------------

/** The names in a folder, those of folders with a slash; without what Git ignores. */
function entriesOf(folder: string, ignored: readonly string[]): string[] {
  return Array.from(
    Deno.readDirSync(new URL(folder, ROOT)),
    ({ name, isDirectory }) => folder + name + (isDirectory ? "/" : ""),
  ).filter((path) => !ignored.includes(path) && !path.endsWith(".log")).sort();
}

Deno.test("CONTRIBUTING.md says of every folder and source file where it is, and of no other", async () => {
  const ignored = (await read(".gitignore")).split("\n");
  const isSource = (path: string) =>
    path.endsWith("/") || /(?<!_test)\.ts$/.test(path);
  const tree = ["", "ext/", "tests/"]
    .flatMap((folder) => entriesOf(folder, [...ignored, ".git/"]))
    .filter(isSource)
    // Each of their parts has a row.
    .filter((path) => !["ext/", "tests/"].includes(path));
  const named = rowsOf("Path").flatMap(([cell = ""]) =>
    Array.from(cell.matchAll(/`([^`]+)`/g), ([, path = ""]) => path)
  );
  assertEquals(tree.filter((path) => !named.includes(path)), []);
  for (const path of named) {
    const [folder = "", rest] = path.split("*");
    const found = rest === undefined
      ? await Deno.stat(new URL(path, ROOT)).catch(() => null)
      : entriesOf(folder, []).some((name) => name.endsWith(rest)) || null;
    assert(found !== null, `CONTRIBUTING.md names ${path}`);
  }
});

Deno.test("CONTRIBUTING.md has every file of core/, once", () => {
  const files = entriesOf("core/", [])
    .filter((path) => /(?<!_test)\.ts$/.test(path))
    .map((path) => path.replace(/^core\/(.*)\.ts$/, "$1"));
  const listed = rowsOf("Idea").flatMap(([, cell = ""]) =>
    Array.from(cell.matchAll(/`(\w+)`/g), ([, name = ""]) => name)
  );
  assertEquals(listed.sort(), files.sort());
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
    const shell = snippetsOf(text)
      .flatMap(({ kind, code }) => kind === "sh" ? [`\n${code}`] : []).join("");
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

// ---- Snippets ---------------------------------------------------------------
// Those in TypeScript run as documentation tests, except for `ts ignore`.

interface Snippet {
  readonly kind: string;
  readonly code: string;
}

/** The snippets of a document, also those in lists. */
function snippetsOf(text: string): Snippet[] {
  return Array.from(
    text.matchAll(/^( *)```([\w ]+)\n(.*?)^\1```$/gms),
    ([, indent = "", kind = "", code = ""]) => ({
      kind,
      code: code.replaceAll(RegExp(`^${indent}`, "gm"), ""),
    }),
  );
}

/** What is wrong with the shape of a snippet; null if nothing is. */
async function faultOf({ kind, code }: Snippet): Promise<string | null> {
  try {
    switch (kind) {
      case "json":
        JSON.parse(code);
        return null;
      case "js ignore":
      case "ts ignore":
        stripTypeScriptTypes(code);
        return null;
      case "html": {
        const scripts = code.matchAll(
          /<script(?: type="module")?>(.*?)<\/script>/gs,
        );
        for (const [, script = ""] of scripts) stripTypeScriptTypes(script);
        return null;
      }
      case "sh":
        return await faultOfShell(code);
      default:
        return null;
    }
  } catch (error) {
    return `${error}`;
  }
}

const BASH = findInstalled("bash");

async function faultOfShell(code: string): Promise<string | null> {
  for (const [, name = ""] of code.matchAll(/jsr:@glitz\/pusher([\w/]*)/g)) {
    if (!(`.${name}` in manifest.exports)) return `no export ".${name}"`;
  }
  // Options of Deno stand before the program, and its own behind it.
  for (const [, options = ""] of code.matchAll(/pusher\/cli( [^\n]*)/g)) {
    for (const [, flag = ""] of options.matchAll(/ --([\w-]+)/g)) {
      if (!(flag in FLAGS)) return `the command line has no --${flag}`;
    }
  }
  if (BASH === null) return null;
  const { success, stderr } = await new Deno.Command(BASH, {
    args: ["-n", "-c", code],
  }).output();
  return success ? null : new TextDecoder().decode(stderr);
}

Deno.test("the snippets of the documents have no error of syntax, and name what exists", async () => {
  let checked = 0;
  for (const [index, text] of TEXTS.entries()) {
    for (const snippet of snippetsOf(text)) {
      const fault = await faultOf(snippet);
      assertEquals(fault, null, `${DOCUMENTS[index]}: ${snippet.code}`);
      checked++;
    }
    // A reader would wait for a server that is not there, or read by plain text.
    for (const [url] of text.matchAll(/\]\(http:[^)]*\)/g)) {
      throw new Error(`${DOCUMENTS[index]} links to ${url}`);
    }
  }
  assert(checked > 70, `${checked} snippets`);
});

/** The names in code spans, also those in tables. */
const spansOf = (text: string) =>
  Array.from(
    text.replaceAll(/^ *```.*?^ *```/gms, "").matchAll(/`([^`\n]+)`/g),
    ([, span = ""]) => span,
  );

/** Flags of Deno and of the programs that test, and settings of Laravel. */
const OF_OTHERS =
  /^(--(allow-|url$|nodes$|assume )|PUSHER_(HOST|PORT|SCHEME)$)/;

Deno.test("the documents name flags and variables of the command line that exist", () => {
  const variables: string[] = Object.values(FLAGS).map((flag) =>
    "variable" in flag ? flag.variable : ""
  );
  let checked = 0;
  // A contributor's guide is about other programs.
  for (const document of ["README.md", "SECURITY.md", ...GUIDES]) {
    for (const span of spansOf(TEXTS[DOCUMENTS.indexOf(document)]!)) {
      if (OF_OTHERS.test(span)) continue;
      const [, flag] = /^--([a-z-]+)/.exec(span) ?? [];
      const [variable] = /^PUSHER_\w+/.exec(span) ?? [];
      if (flag !== undefined) assert(flag in FLAGS, `${document}: ${span}`);
      if (variable !== undefined) {
        assert(variables.includes(variable), `${document}: ${span}`);
      }
      if (flag ?? variable) checked++;
    }
  }
  assert(checked > 40, `${checked} names`);
});

Deno.test("docs/troubleshooting.md quotes what the server and the client say", async () => {
  const sources = await Promise.all(
    ["mod.ts", "client.ts", "core/", "ext/", "cli/"].flatMap((path) =>
      path.endsWith("/")
        ? Array.from(
          Deno.readDirSync(new URL(path, ROOT)),
          ({ name }) => path + name,
        ).filter((name) => name.endsWith(".ts") && !name.endsWith("_test.ts"))
        : [path]
    ).map(read),
  );
  // Long texts go over several lines of the source.
  const said = sources.join("\n").replaceAll(/" \+\s+"/g, "")
    .replaceAll("\\'", "'");
  const text = TEXTS[DOCUMENTS.indexOf("docs/troubleshooting.md")]!
    .replaceAll(/^ *```.*?^ *```/gms, "").replaceAll(/\s+/g, " ");
  const prose = text.replaceAll(/`[^`]+`/g, "");
  const quoted = Array.from(prose.matchAll(/"([^"]+)"/g), ([, said]) => said!);
  const spans = Array.from(
    text.matchAll(/\| \d{4} *\| `([^`]+)`/g),
    ([, span]) => span!,
  );
  // What the browser says, not we.
  const others = ["Mixed Content"];
  const ours = [...quoted, ...spans].filter((quote) => !others.includes(quote));
  assert(ours.length > 20, `${ours.length} quotations`);
  for (const quote of ours) {
    // An ellipsis stands for a value.
    const parts = quote.split("…").map((part) => part.trim());
    const [returned, value] = quote.split(" returned ");
    const isSaid = value !== undefined
      ? said.includes(`"${returned}"`) && said.includes(" returned ${")
      : parts.every((part) => said.includes(part.replace(/\.$/, "")));
    assert(isSaid, quote);
  }
});

Deno.test("CHANGELOG.md begins with the version of the package", async () => {
  const [, version] = (await read("CHANGELOG.md")).match(/^## (\S+)/m) ?? [];
  assertEquals(version, manifest.version);
});
