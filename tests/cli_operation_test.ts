/**
 * What the standalone server tells those who run it: metrics, the log, what it says on
 * a terminal, warnings, and what it says of a mistyped flag.
 */
import { type BackplaneNode, MemoryBackplane, Pusher } from "@glitz/pusher";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { announce, details, warningsOf } from "../cli/announce.ts";
import { FLAGS, helpText } from "../cli/flags.ts";
import { Bulk, follow, Log } from "../cli/log.ts";
import { readSettings } from "../cli/settings.ts";
import { nearest } from "../cli/suggest.ts";
import { command, LOCAL, NET, open, run, start } from "./support/cli.ts";
import { ManualClock, turn } from "./support/clock.ts";
import { DEADLINE_MS, within } from "./support/deadline.ts";
import { parseMetrics } from "./support/prometheus.ts";
import { APP, MemoryTransport, SlowTransport } from "./support/server.ts";

const SECRET = "a-secret-of-many-characters";

const CREDENTIALS = ["--key", "app-key", "--secret", SECRET];

// ---- Metrics ----------------------------------------------------------------

Deno.test("cli.ts --metrics serves metrics to this machine, beside the other routes", async () => {
  await using cli = await start([
    ...[...NET, "cli.ts", "--metrics", ...LOCAL, ...CREDENTIALS],
  ]);
  const socket = open(`${cli.url}/app/app-key`);
  await socket.established;
  const text = async (init: RequestInit = {}) => {
    const answer = await fetch(`${cli.url}/metrics`, init);
    return [answer.status, await answer.text()] as const;
  };
  const [status, metrics] = await text();
  assertEquals(status, 200);
  const families = parseMetrics(metrics);
  const connections = families.get("pusher_connections")?.samples;
  assertEquals(
    connections?.get('pusher_connections{app="1",transport="ws"}'),
    1,
  );
  const headers = { "x-forwarded-for": "192.0.2.1" };
  assertEquals((await text({ headers }))[0], 403);
  assertEquals(await cli.stop("SIGTERM"), 0);
});

Deno.test("cli.ts has no metrics without the flag, and takes path and token from the environment", async () => {
  const env = {
    PUSHER_METRICS: "/internal/metrics",
    PUSHER_METRICS_TOKEN: "a-long-random-token",
  };
  for (const [allow, own] of [[[], false], [["--allow-env"], true]] as const) {
    const args = [...NET, ...allow, "cli.ts", ...LOCAL, ...CREDENTIALS];
    await using cli = await start(args, env);
    const ask = async (path: string, headers: Record<string, string> = {}) => {
      const answer = await fetch(cli.url + path, { headers });
      await answer.body?.cancel();
      return answer.status;
    };
    assertEquals(await ask("/metrics"), 404);
    assertEquals(await ask("/internal/metrics"), own ? 401 : 404);
    const authorization = "Bearer a-long-random-token";
    const status = await ask("/internal/metrics", { authorization });
    assertEquals(status, own ? 200 : 404);
  }
});

Deno.test("readSettings takes --metrics with a path, without, and before another flag", () => {
  for (
    const [args, expected] of [
      [[], undefined],
      [["--metrics"], "/metrics"],
      [["--metrics", "/m"], "/m"],
      [["--metrics=/m"], "/m"],
      [["--metrics", "--port", "1"], "/metrics"],
    ] as [string[], string | undefined][]
  ) {
    assertEquals(readSettings(args)?.metrics?.path, expected, args.join(" "));
  }
});

// ---- The log ----------------------------------------------------------------

/** The lines of a log, without what differs from run to run. */
function linesOf(text: string): Record<string, unknown>[] {
  return text.trimEnd().split("\n").map((line) => {
    const { time, pid: _pid, ...rest } = JSON.parse(line);
    assert(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(time), line);
    return rest;
  });
}

Deno.test("cli.ts --log json says in a line each that it started, is ready, drains and has closed", async () => {
  const child = command([
    ...[...NET, "cli.ts", ...LOCAL, ...CREDENTIALS],
    ...["--log", "json", "--drain", "0.1", "--console"],
  ], {}).spawn();
  const errors = new Response(child.stderr).text();
  const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  const read = async (until: string) => {
    while (!text.includes(until)) {
      const { value, done } = await output.read();
      if (done) throw new Error(`Cannot find ${until}: ${await errors}`);
      text += value;
    }
  };
  await within(DEADLINE_MS, "ready", read('"ready"'));
  const [{ url = "" } = {}] = linesOf(text) as { url?: string }[];
  const origin = url.replace("ws", "http");
  const socket = open(`${origin}/app/app-key`);
  await socket.established;
  child.kill("SIGTERM");
  await within(DEADLINE_MS, "end", read('"closed"'));
  while (!(await output.read()).done);
  assertEquals(await errors, "");
  assertEquals((await child.status).code, 0);
  assertEquals(linesOf(text), [
    { level: "info", event: "started", url, keys: ["app-key"] },
    {
      ...{ level: "info", event: "console" },
      ...{ url: `${origin}/console`, for: "loopback" },
    },
    { level: "info", event: "ready" },
    { level: "info", event: "draining", connections: 1, overSeconds: 0.1 },
    { level: "info", event: "closed" },
  ]);
  assert(!text.includes(SECRET), text);
});

Deno.test("cli.ts --log json says as a line that its port is in use, and exits 1", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  const { code, stdout, stderr } = await run([
    ...[...NET, "cli.ts", "--hostname", "127.0.0.1", "--port", `${port}`],
    ...["--log=json", ...CREDENTIALS],
  ]);
  assertEquals([code, stderr], [1, ""]);
  const [{ event, during, message } = {}, ...more] = linesOf(stdout);
  assertEquals([event, during, more], ["error", "listening", []]);
  assertStringIncludes(String(message), "--port");
});

/** A server whose log a test reads. */
function followed(options = {}) {
  const clock = new ManualClock();
  const { key, secret } = APP;
  const pusher = new Pusher({ key, secret, clock, ...options });
  const said: Record<string, unknown>[] = [];
  const log = new Log("json");
  log.say = (event, fields) => said.push({ event, ...fields });
  follow(pusher, log, new Bulk(clock));
  return { pusher, clock, said, take: () => said.splice(0) };
}

const request = (key = APP.key) =>
  new Request(`http://localhost/app/${key}?protocol=7`);

Deno.test("the log says the same refusal at once, and then once in ten seconds with how many there were", async () => {
  const { pusher, clock, take } = followed();
  const refuse = async (count: number, key = "unknown") => {
    for (let i = 0; i < count; i++) {
      pusher.open(new MemoryTransport(), key, request(key)).closed(4001);
    }
    await turn();
  };
  const line = (count: number) => ({
    ...{ event: "refused", app: undefined, what: "connection", code: 4001 },
    reason: "No app has this key: is it the option `key` of the server?",
    count,
  });
  await refuse(500);
  assertEquals(take(), [line(1)]);
  await clock.pass(10_000);
  assertEquals(take(), [line(499)]);
  await refuse(3);
  assertEquals(take(), []);
  await clock.pass(10_000);
  assertEquals(take(), [line(3)]);
  await clock.pass(10_000);
  assertEquals(take(), []);
  await refuse(1);
  assertEquals(take(), [line(1)]);
});

Deno.test("the log says which clients were slow, what failed, and that the backplane was away", async () => {
  let node: BackplaneNode | undefined;
  const backplane = new MemoryBackplane();
  const start = backplane.start.bind(backplane);
  backplane.start = (own) => start(node = own);
  const limits = { bufferedBytes: 5_000 };
  const { pusher, clock, take } = followed({ limits, backplane });
  const transport = new SlowTransport();
  const peer = pusher.open(transport, APP.key, request());
  const data = { channel: "news" };
  peer.receive(JSON.stringify({ event: "pusher:subscribe", data }));
  for (let i = 0; i < 10; i++) pusher.trigger("news", "tick", "x".repeat(1000));
  pusher.on("disconnected", () => {
    throw new Error("broken");
  });
  await clock.pass(1_000);
  await turn();
  assertEquals(transport.closing?.[0], 4100);
  const during = 'running a "disconnected" listener';
  assertEquals(take(), [
    { event: "slow_client", count: 1 },
    { event: "error", app: "1", during, message: "broken", count: 1 },
  ]);
  peer.closed(1006);
  node?.health(false, new Error("no route"));
  await turn();
  node?.health(true);
  await turn();
  assertEquals(take(), [
    { event: "backplane_away", reason: "no route" },
    { event: "backplane_back" },
    { event: "ready" },
  ]);
});

Deno.test("Bulk counts more than fifty different things together", async () => {
  const clock = new ManualClock();
  const bulk = new Bulk(clock);
  const said: string[] = [];
  for (let i = 0; i < 1_000; i++) {
    bulk.note(`${i}`, (count) => said.push(`${i} ${count}`));
  }
  assertEquals(said.length, 51);
  await clock.pass(10_000);
  assertEquals(said.slice(51), ["999 949"]);
});

// ---- On a terminal ----------------------------------------------------------

const settingsOf = (...args: string[]) => readSettings(args)!;

const PUBLIC = { hostname: "0.0.0.0", port: 6001 };

Deno.test("details lists URLs that a terminal lets one click, and is coloured only where that is wanted", () => {
  const settings = settingsOf("--path", "/rt", "--metrics", "--drain", "3");
  const plain = details(PUBLIC, settings, false);
  assertEquals(
    plain.split("\n").map((line) => line.trim().split(/\s{2,}| /)[0]),
    [
      "Client",
      "Health",
      "Metrics",
      "Stop",
    ],
  );
  for (const path of ["/rt/pusher.js", "/readyz", "/metrics"]) {
    assertStringIncludes(plain, `http://localhost:6001${path}`);
  }
  assert(!plain.includes("\x1b"));
  const coloured = details(PUBLIC, settings, true);
  assertStringIncludes(coloured, "\x1b[2mClient");
  // No escape touches a URL, so all of it is taken for one.
  const urls = coloured.split(/\s/).filter((word) => word.includes("http"));
  assertEquals([urls.length, urls.join().includes("\x1b")], [3, false]);
  const six = details({ hostname: "::1", port: 1 }, settings, false);
  assertStringIncludes(six, "http://[::1]:1/readyz");
});

Deno.test("cli.ts says no more than one line where its output is no terminal", async () => {
  const cli = await start([...NET, "cli.ts", ...LOCAL, ...CREDENTIALS]);
  assert(/^Pusher server on ws:\S+$/.test(cli.line), cli.line);
  assertEquals(await cli.stop("SIGTERM"), 0);
  assertEquals(await cli.errors, "");
});

Deno.test("helpText has every flag in one group, in 80 columns, and says what the exit codes are", () => {
  const text = helpText();
  for (const [name, flag] of Object.entries(FLAGS)) {
    assertEquals(text.split(`--${name} `).length > 1, true, name);
    assertStringIncludes(text, `${flag.group}:\n`);
  }
  const groups = text.match(/^[A-Z][\w ]*:$/gm);
  assertEquals(groups?.length, new Set(groups).size);
  const [, codes = ""] = text.split("Exit codes:\n");
  assertEquals(codes.match(/^ {2}\d/gm), ["  0", "  1", "  2"]);
  assert(!text.includes("\x1b"));
  const widths = text.split("\n").map((line) => line.length);
  assert(Math.max(...widths) <= 80);
  assertStringIncludes(helpText(true), "\x1b[1mExit codes:\x1b[22m");
});

// ---- Warnings ---------------------------------------------------------------

for (
  const [what, args, said, hostname] of [
    ["a short secret", ["--secret", "app-secret"], "--secret has less", "::"],
    ["no short secret on this machine", ["--secret", "tofu"], "", "127.0.0.1"],
    ["no long secret", ["--secret", SECRET], "", "0.0.0.0"],
    [
      "a short secret of an old key",
      ["--key", "k2", "--secret", SECRET, "--old-key", "k1:tofu"],
      "--old-key has a secret of less",
      "0.0.0.0",
    ],
    [
      "no long secret of an old key",
      ["--key", "k2", "--secret", SECRET, "--old-key", `k1:${SECRET}`],
      "",
      "0.0.0.0",
    ],
    [
      "a Redis elsewhere without a password",
      ["--redis", "redis://redis.example:6379"],
      "--redis has no password",
      "0.0.0.0",
    ],
    [
      "no Redis with a password",
      ["--redis", "redis://:tofu@redis.example:6379"],
      "",
      "0.0.0.0",
    ],
    ["no Redis here", ["--redis", "redis://localhost"], "", "0.0.0.0"],
    [
      "a webhook without TLS",
      ["--secret", SECRET, "--webhook", "http://example.com/tofu"],
      "--webhook has an address without TLS",
      "0.0.0.0",
    ],
    [
      "no webhook in a private network",
      ["--secret", SECRET, "--webhook", "http://10.0.0.1/,https://a.example"],
      "",
      "0.0.0.0",
    ],
  ] as const
) {
  Deno.test(`cli.ts warns of ${what}`, () => {
    const warnings = warningsOf({ hostname, port: 1 }, settingsOf(...args));
    assertEquals(warnings.length, said === "" ? 0 : 1, warnings.join());
    assertStringIncludes(warnings.join(), said);
    assert(!warnings.join().includes("tofu"), warnings.join());
  });
}

Deno.test("cli.ts prints its warnings, and never a secret", async () => {
  const cli = await start([
    ...[...NET, "cli.ts", "--port", "0", "--hostname", "0.0.0.0"],
    ...["--key", "app-key", "--secret", "tofu"],
  ]);
  await (await fetch(`${cli.url}/readyz`)).body?.cancel();
  assertEquals(await cli.stop("SIGTERM"), 0);
  const errors = await cli.errors;
  assertStringIncludes(errors, "--secret has less than 16 characters");
  assert(!errors.includes("tofu"), errors);
});

Deno.test("announce writes each warning as a line of JSON, before the server is ready", () => {
  const { log: print } = console;
  const lines: string[] = [];
  console.log = (line) => void lines.push(`${line}\n`);
  try {
    const flags = ["--secret", "tofu", "--redis", "redis://10.0.0.1"];
    const settings = settingsOf(...flags, "--log", "json");
    announce({ hostname: "0.0.0.0", port: 1 }, settings, new Log("json"));
  } finally {
    console.log = print;
  }
  const said = linesOf(lines.join(""));
  assertEquals(
    said.map(({ level, event }) => [level, event]),
    [
      ["info", "started"],
      ["warn", "warning"],
      ["warn", "warning"],
      ["info", "ready"],
    ],
  );
  assert(!lines.join("").includes("tofu"), lines.join(""));
});

// ---- Mistyped flags ---------------------------------------------------------

for (
  const [args, said] of [
    [["--prot", "1"], "Did you mean --port?"],
    [["--secert=tofu"], "Did you mean --secret?"],
    [["--origins", "x"], "Did you mean --origin?"],
    [["--metric"], "Did you mean --metrics?"],
    [["--log", "jsn"], "Did you mean json?"],
    [["--metrics-token", "a-long-random-token"], "needs --metrics"],
    [["--metrics", "--metrics-token=tofu"], "a string of 4 characters"],
    [["--metrics=metrics"], 'path is "metrics"'],
    [["--metrics-from=lan", "--metrics"], 'is "lan", and must be loopback or'],
  ] as const
) {
  Deno.test(`cli.ts ${args.join(" ")} is refused, with what to write instead`, async () => {
    const { code, stderr, stdout } = await run([...NET, "cli.ts", ...args]);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, said);
    assert(!stderr.includes("tofu"), stderr);
  });
}

Deno.test("nearest finds a name with a letter more, less, changed or swapped, and no other word", () => {
  const known = ["port", "path", "origin", "history-events", "help"];
  for (
    const [name, expected] of [
      ["prot", "port"],
      ["pth", "path"],
      ["origins", "origin"],
      ["hist", "history-events"],
      ["history-event", "history-events"],
      ["hlep", "help"],
      ["verbose", undefined],
      ["x", undefined],
      ["", undefined],
    ]
  ) {
    assertEquals(nearest(name!, known), expected, name);
  }
});
