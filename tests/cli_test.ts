/**
 * The standalone server, started as a user starts it: flags, environment, what
 * it prints, how it stops.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Webhook } from "@glitz/pusher";
import {
  ask,
  type Cli,
  command,
  LOCAL,
  NET,
  open,
  publish,
  run,
  start,
} from "./support/cli.ts";
import { DEADLINE_MS, within } from "./support/deadline.ts";
import { RawClient } from "./support/wire.ts";

// ---- Arguments --------------------------------------------------------------

Deno.test("cli.ts --help names every flag and its variable, and exits 0", async () => {
  const { code, stdout } = await run([...NET, "cli.ts", "--help"]);
  assertEquals(code, 0);
  for (
    const [flag, variable] of [
      ["--port", "PUSHER_PORT"],
      ["--app-id", "PUSHER_APP_ID"],
      ["--key", "PUSHER_APP_KEY"],
      ["--secret", "PUSHER_APP_SECRET"],
      ["--apps", "PUSHER_APPS"],
      ["--client-events", "PUSHER_CLIENT_EVENTS"],
      ["--history-events", "PUSHER_HISTORY_EVENTS"],
      ["--history-seconds", "PUSHER_HISTORY_SECONDS"],
      ["--history-bytes", "PUSHER_HISTORY_BYTES"],
      ["--no-history", "PUSHER_NO_HISTORY"],
      ["--path", "PUSHER_PATH"],
      ["--origin", "PUSHER_ORIGINS"],
      ["--max-sockets", "PUSHER_MAX_SOCKETS"],
      ["--max-unauthorized", "PUSHER_MAX_UNAUTHORIZED"],
      ["--drain", "PUSHER_DRAIN"],
      ["--console", "PUSHER_CONSOLE"],
      ["--console-password", "PUSHER_CONSOLE_PASSWORD"],
    ]
  ) {
    assertStringIncludes(stdout, `${flag}`);
    assertStringIncludes(stdout, `[${variable}]`);
  }
  const longest = Math.max(...stdout.split("\n").map((line) => line.length));
  assert(longest <= 80, `a line of ${longest} characters`);
});

for (
  const [args, said] of [
    [["--prot", "1"], "--prot"],
    [["--port", "many"], `--port is "many"`],
    [["--port", "65536"], "--port is 65536"],
    [["--key", "a/b"], `key is "a/b"`],
    [["--path", "x"], `path is "x"`],
    [["--origin", "no origin"], `origins is "no origin"`],
    [["--drain", "-1"], `--drain is "-1"`],
    [["--reuse-port"], "deno run --unstable-net"],
    [["--max-sockets", "few"], `--max-sockets is "few"`],
    [["--max-unauthorized", "few"], `--max-unauthorized is "few"`],
    [["--history-events", "few"], `--history-events is "few"`],
    [["--history-seconds", "0"], "history.ageMs is 0"],
    [["--history-bytes", "-1"], `--history-bytes is "-1"`],
    [["--webhook", "http://127.0.0.1:1/"], "--webhook needs a --secret"],
    [["--activity-timeout", "0"], "activityTimeoutMs is 0"],
    [["--ping-after", "0"], "pingAfterMs is 0"],
    [["--console-password", "x"], "--console-password needs --console"],
    [["stray"], "stray"],
  ] as const
) {
  Deno.test(`cli.ts ${args.join(" ")} is refused by name`, async () => {
    // With "=", as "-1" of its own would be taken for a flag.
    const { code, stderr, stdout } = await run([
      ...NET,
      "cli.ts",
      args.join("="),
    ]);
    assertEquals({ code, stdout }, { code: 2, stdout: "" });
    assertStringIncludes(stderr, said);
    assertStringIncludes(stderr, "--help");
    assert(!stderr.includes("    at "), "no stack for a mistake of the user's");
  });
}

Deno.test("cli.ts names the variable that is wrong, where no flag is given", async () => {
  const args = [...NET, "--allow-env", "cli.ts"];
  const { code, stderr } = await run(args, { PUSHER_PORT: "many" });
  assertEquals(code, 2);
  assertStringIncludes(stderr, `PUSHER_PORT is "many", and must be a number`);
});

/** Runs the program to its end, which is an error in one line. */
async function failure(args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(args);
  const lines = stderr.trimEnd().split("\n");
  assertEquals({ code, stdout, lines: lines.length }, {
    code: 1,
    stdout: "",
    lines: 1,
  }, stderr);
  return lines[0] ?? "";
}

Deno.test("cli.ts says in one line that its port is in use, and exits 1", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  const own = ["--hostname", "127.0.0.1", "--port", String(port)];
  const error = await failure([...NET, "cli.ts", ...own]);
  assertStringIncludes(error, `Pusher: cannot listen on 127.0.0.1:${port}: `);
  assertStringIncludes(error, "in use");
  assertStringIncludes(error, "--port");
});

Deno.test("cli.ts under deno serve says in one line that the port is in use, and exits 1", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  const own = ["--host", "127.0.0.1", "--port", String(port)];
  const args = ["serve", "--no-prompt", ...own, "cli.ts"];
  const error = await failure(args);
  const where = "Pusher: cannot listen on the port of deno serve: ";
  assertStringIncludes(error, where);
  assertStringIncludes(error, "in use");
});

Deno.test("cli.ts says in one line which permission it lacks, and exits 1", async () => {
  const error = await failure(["run", "--no-prompt", "cli.ts", ...LOCAL]);
  assertStringIncludes(error, "Pusher: cannot listen on 127.0.0.1:0: ");
  assertStringIncludes(error, "--allow-net");
});

for (const hostname of ["no_host!", "http://localhost", "192.0.2.1"]) {
  Deno.test(`cli.ts --hostname ${hostname} is refused in one line, with exit code 1`, async () => {
    const own = ["--hostname", hostname, "--port", "0"];
    const error = await failure([...NET, "cli.ts", ...own]);
    assertStringIncludes(error, `Pusher: cannot listen on `);
    assertStringIncludes(error, hostname);
    assertStringIncludes(error, "--hostname");
  });
}

Deno.test("cli.ts --apps says which permission it lacks, or where the file is no JSON", async () => {
  const file = await Deno.makeTempFile();
  try {
    const apps = ["cli.ts", `--apps=${file}`];
    const unread = await run([...NET, ...apps]);
    assertEquals(unread.code, 2);
    assertStringIncludes(unread.stderr, "--allow-read");
    await Deno.writeTextFile(file, '[\n  { "secret": "s3cret", }\n]');
    const broken = await run([...NET, "--allow-read", ...apps]);
    assertEquals(broken.code, 2);
    assertStringIncludes(broken.stderr, "it is not JSON, see line 2 column 25");
    assert(!broken.stderr.includes("s3cret"), broken.stderr);
    const missing = `--apps=${file}/nothing`;
    const lost = await run([...NET, "--allow-read", "cli.ts", missing]);
    assertEquals(lost.code, 2);
    assertStringIncludes(
      lost.stderr,
      `--apps "${file}/nothing" cannot be used`,
    );
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("cli.ts --apps with a broken file says so and quotes none of it", async () => {
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, `[{ "secret": "tofu" ]`);
    const { code, stderr } = await run([
      ...NET,
      `--allow-read=${file}`,
      "cli.ts",
      "--apps",
      file,
    ]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "it is not JSON");
    assert(!stderr.includes("tofu"));
  } finally {
    await Deno.remove(file);
  }
});

// ---- Start ------------------------------------------------------------------

Deno.test("cli.ts says where to connect and with which key, never the secret", async () => {
  await using cli = await start([
    ...NET,
    "cli.ts",
    ...LOCAL,
    ...["--key", "my-key", "--secret", "tofu", "--path", "/x"],
  ]);
  const port = new URL(cli.url).port;
  assertEquals(
    cli.line,
    `Pusher server on ws://127.0.0.1:${port}/x/app/my-key`,
  );
  const socket = open(`${cli.url}/x/app/my-key`);
  await socket.established;
  assertEquals(socket.frames[0]?.event, "pusher:connection_established");
  assertEquals(await cli.stop("SIGTERM"), 0);
});

Deno.test("cli.ts without a secret says so, and why it has not read the variable", async () => {
  const env = { PUSHER_APP_SECRET: "s3cret" };
  const warning = "No --secret is given, so nobody can publish or authorize";
  for (
    const [allow, said] of [
      [[], `${warning}; PUSHER_APP_SECRET is not read without --allow-env\n`],
      [["--allow-env=PUSHER_APP_KEY,PUSHER_APP_SECRET"], ""],
    ] as const
  ) {
    const cli = await start([...NET, ...allow, "cli.ts", ...LOCAL], env);
    // Once it answers, it has said everything and takes signals.
    await (await fetch(cli.url)).body?.cancel();
    assertEquals(await cli.stop("SIGTERM"), 0);
    assertEquals(await cli.errors, said);
  }
});

Deno.test("cli.ts takes its settings from the environment, flags first", async () => {
  await using cli = await start(
    [...NET, "--allow-env", "cli.ts", ...LOCAL, "--key", "from-flag"],
    {
      PUSHER_APP_KEY: "from-env",
      PUSHER_APP_SECRET: "tofu",
      PUSHER_PATH: "/env",
      PUSHER_ORIGINS: "https://a.example,https://*.b.example",
    },
  );
  assertStringIncludes(cli.line, "/env/app/from-flag");
  const upgrade = (origin: string) =>
    within(
      DEADLINE_MS,
      "close",
      new Promise<number | string>((resolve) => {
        const socket = new WebSocket(
          `${cli.url.replace("http", "ws")}/env/app/from-flag`,
          { headers: { origin } },
        );
        socket.onmessage = ({ data }) => {
          const { event } = JSON.parse(data);
          if (event !== "pusher:connection_established") return;
          socket.onclose = () => resolve(event);
          socket.close();
        };
        socket.onclose = ({ code }) => resolve(code);
      }),
    );
  assertEquals(
    await upgrade("https://x.b.example"),
    "pusher:connection_established",
  );
  assertEquals(await upgrade("https://evil.example"), 4009);
});

Deno.test("cli.ts --apps serves the apps of a file", async () => {
  const file = await Deno.makeTempFile();
  try {
    const apps = ["one", "two"].map((id) => ({
      id,
      key: `key-${id}`,
      secret: `secret-${id}`,
    }));
    await Deno.writeTextFile(file, JSON.stringify(apps));
    await using cli = await start([
      ...NET,
      `--allow-read=${file}`,
      "cli.ts",
      ...LOCAL,
      "--apps",
      file,
    ]);
    assertStringIncludes(cli.line, "key-one, key-two");
    for (const { key } of apps) {
      const socket = open(`${cli.url}/app/${key}`);
      await socket.established;
      assertEquals(socket.frames[0]?.event, "pusher:connection_established");
    }
    assertEquals(await cli.stop("SIGINT"), 0);
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("cli.ts --old-key keeps a key that --key replaces", async () => {
  await using cli = await start([
    ...[...NET, "cli.ts", ...LOCAL, "--key", "new", "--secret", "tofu-new"],
    ...["--old-key", "old:tofu:old", "--old-key", "oldest:tofu-oldest"],
  ]);
  assert(cli.line.endsWith("/app/new"), cli.line);
  for (const key of ["new", "old", "oldest"]) {
    const socket = open(`${cli.url}/app/${key}`);
    await socket.established;
    assertEquals(socket.frames[0]?.event, "pusher:connection_established");
  }
  assertEquals(await cli.stop("SIGINT"), 0);
  for (const given of ["tofu-old", ":tofu-old", "old:", "new:tofu-old"]) {
    const { code, stderr } = await run([
      ...[...NET, "cli.ts", ...LOCAL, "--key", "new", "--secret", "tofu-new"],
      ...["--old-key", given],
    ]);
    assertEquals(code, 2, given);
    assert(!stderr.includes("tofu"), stderr);
  }
});

Deno.test("cli.ts --old-key is refused where no newer key signs", async () => {
  const old = [...NET, "cli.ts", ...LOCAL, "--old-key", "old:tofu"];
  for (const more of [[], ["--key", "new"], ["--secret", "tofu-new"]]) {
    const { code, stderr } = await run([...old, ...more]);
    assertEquals(code, 2, stderr);
    assertStringIncludes(stderr, "--old-key needs --key and --secret");
    assert(!stderr.includes("tofu"), stderr);
  }
});

Deno.test("cli.ts warns where apps force TLS and no proxy can say who uses it", async () => {
  const file = await Deno.makeTempFile();
  const app = { id: "1", key: "k", secret: "s", forceTLS: true };
  await Deno.writeTextFile(file, JSON.stringify([app]));
  const apps = ["--allow-read", "cli.ts", ...LOCAL, "--apps", file];
  const forced = ["cli.ts", ...LOCAL, "--force-tls"];
  try {
    for (const args of [apps, forced]) {
      for (const proxy of [[], ["--trust-proxy"]]) {
        const cli = command([...NET, ...args, ...proxy], {}).spawn();
        const errors = new Response(cli.stderr).text();
        const output = cli.stdout.getReader();
        await within(DEADLINE_MS, "first line", output.read());
        cli.kill("SIGINT");
        while (!(await output.read()).done);
        const warns = /No --trust-proxy is given/.test(await errors);
        assertEquals(warns, proxy.length === 0, args.join(" "));
        await cli.status;
      }
    }
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("cli.ts --force-tls serves clients of a proxy that ended TLS, with --trust-proxy", async () => {
  const plain = [...NET, "cli.ts", ...LOCAL, "--force-tls"];
  for (const flags of [[], ["--trust-proxy"]]) {
    await using cli = await start([...plain, ...flags]);
    const headers = { "x-forwarded-proto": "https" };
    // The route is there, and wants a signature; or TLS first.
    const response = await fetch(`${cli.url}/apps/1/channels`, { headers });
    assertEquals(response.status, flags.length === 0 ? 403 : 401);
    await response.body?.cancel();
    assertEquals(await cli.stop("SIGINT"), 0);
  }
});

Deno.test("cli.ts bounds the connections that have not authorized yet, by flags and by app", async () => {
  const file = await Deno.makeTempFile();
  try {
    const app = (id: string) => ({ id, key: `key-${id}`, secret: "tofu" });
    const apps = [
      { ...app("own"), authorizationTimeoutMs: 3_600_000 },
      { ...app("open"), limits: { unauthorizedConnections: 0 } },
    ];
    await Deno.writeTextFile(file, JSON.stringify(apps));
    const one = ["--max-unauthorized", "1", "--max-connections", "1"];
    await using several = await start([
      ...[...NET, `--allow-read=${file}`, "cli.ts", ...LOCAL],
      ...["--apps", file, ...one],
    ]);
    const timeout = ["--authorization-timeout", "3600"];
    await using single = await start([
      ...[...NET, "cli.ts", ...LOCAL, "--secret", "tofu", ...timeout],
      ...one,
    ]);
    const cases: [cli: Cli, key: string, code: number][] = [
      [several, "key-own", 4100],
      [several, "key-open", 4004],
      [single, "app-key", 4100],
    ];
    for (const [cli, key, code] of cases) {
      const first = open(`${cli.url}/app/${key}`);
      await first.established;
      assertEquals(first.frames[0]?.event, "pusher:connection_established");
      const second = open(`${cli.url}/app/${key}`);
      await second.established;
      assertEquals((await second.closed).code, code, key);
    }
    for (const cli of [several, single]) {
      assertEquals(await cli.stop("SIGINT"), 0);
    }
  } finally {
    await Deno.remove(file);
  }
});

Deno.test("cli.ts runs under deno serve, which stops it in its own way", async () => {
  await using cli = await start([
    "serve",
    "--no-prompt",
    ...["--host", "127.0.0.1", "--port", "0"],
    "cli.ts",
    ...["--key", "served", "--secret", "tofu"],
  ]);
  assertStringIncludes(cli.line, "/app/served");
  const socket = open(`${cli.url}/app/served`);
  await socket.established;
  assertEquals(await cli.stop("SIGTERM"), 0);
  assertEquals((await socket.closed).code, 1001);
});

Deno.test("cli.ts --webhook tells an address what happens, signed", async () => {
  const told = Promise.withResolvers<Request>();
  const bodies: string[] = [];
  await using receiver = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    async (request) => {
      bodies.push(await request.clone().text());
      told.resolve(request);
      return new Response();
    },
  );
  await using cli = await start([
    ...NET,
    "cli.ts",
    ...LOCAL,
    ...["--secret", "tofu"],
    `--webhook=http://127.0.0.1:${receiver.addr.port}/hooks`,
  ]);
  const socket = new WebSocket(
    `${cli.url.replace("http", "ws")}/app/app-key?protocol=7`,
  );
  const closed = new Promise((resolve) => socket.onclose = resolve);
  socket.onopen = () => {
    const data = { channel: "news" };
    socket.send(JSON.stringify({ event: "pusher:subscribe", data }));
  };
  const { url, headers } = await within(DEADLINE_MS, "webhook", told.promise);
  assertEquals(new URL(url).pathname, "/hooks");
  const webhook = new Webhook(
    { key: "app-key", secret: "tofu" },
    { headers, rawBody: bodies[0] ?? "" },
  );
  assert(webhook.isValid());
  assertEquals(webhook.getEvents(), [
    { name: "channel_occupied", channel: "news" },
  ]);
  socket.close();
  await within(DEADLINE_MS, "close", closed);
  assertEquals(await cli.stop("SIGTERM"), 0);
});

/** What a server grants to a client that asks for all extensions. */
async function extensionsOf(cli: Cli): Promise<string[]> {
  const socket = open(`${cli.url}/app/app-key?protocol=7&batch=1&recover=1`);
  await socket.established;
  const { extensions } = JSON.parse(String(socket.frames[0]?.data));
  return extensions;
}

Deno.test("cli.ts keeps events for clients that were away, unless --no-history", async () => {
  const secret = ["--secret", "tofu"];
  const all = { PUSHER_HISTORY_EVENTS: "10", PUSHER_HISTORY_SECONDS: "5" };
  const env = [...NET, "--allow-env", "cli.ts", ...LOCAL, ...secret];
  await using keeping = await start([...env, "--history-bytes", "1000"], all);
  assertEquals(await extensionsOf(keeping), ["batch", "recover"]);
  await using flag = await start([...env, "--no-history"], all);
  assertEquals(await extensionsOf(flag), ["batch"]);
  await using variable = await start(env, { PUSHER_NO_HISTORY: "1" });
  assertEquals(await extensionsOf(variable), ["batch"]);
});

// ---- Port of its own --------------------------------------------------------

Deno.test("cli.ts closes a socket on an unknown path with 4005", async () => {
  await using cli = await start([...NET, "cli.ts", ...LOCAL, "--secret", "s"]);
  const socket = open(`${cli.url}/nowhere`);
  assertEquals((await socket.closed).code, 4005);
  assertEquals(
    socket.frames.map(({ event, data }) => [event, data]),
    [["pusher:error", { code: 4005, message: "There is no such path" }]],
  );
  // A browser that has offered a subprotocol needs its name in the answer.
  const name = "pusher-channels-protocol-7";
  const offering = new WebSocket(
    `${cli.url.replace("http", "ws")}/nowhere`,
    ["chat", name],
  );
  const offered = Promise.withResolvers<[protocol: string, code: number]>();
  offering.onclose = ({ code }) => offered.resolve([offering.protocol, code]);
  assertEquals(
    await within(DEADLINE_MS, "close", offered.promise),
    [name, 4005],
  );
  const response = await fetch(`${cli.url}/nowhere`);
  assertEquals(response.status, 404);
  assertEquals(Object.keys(await response.json()), ["error"]);
});

/** Posts to a session over HTTP. */
function post(cli: Cli, action: string, body = ""): Promise<Response> {
  const url = `${cli.url}/x/pusher/app/app-key/7/abcdefgh/${action}`;
  return fetch(url, { method: "POST", body });
}

Deno.test("cli.ts serves clients over HTTP, until SIGTERM closes them with 4200", async () => {
  await using cli = await start([
    ...NET,
    "cli.ts",
    ...LOCAL,
    ...["--secret", "s", "--path", "/x", "--drain", "0"],
  ]);
  const opened = await (await post(cli, "xhr")).text();
  assertStringIncludes(opened, "pusher:connection_established");
  const subscribe = { event: "pusher:subscribe", data: { channel: "news" } };
  const body = JSON.stringify([JSON.stringify(subscribe)]);
  assertEquals((await post(cli, "xhr_send", body)).status, 204);
  const joined = await (await post(cli, "xhr")).text();
  assertStringIncludes(joined, "pusher_internal:subscription_succeeded");
  const last = post(cli, "xhr_streaming");
  const text = (await last).text();
  assertEquals(await cli.stop("SIGTERM"), 0);
  assertStringIncludes(await text, "\nc[4200,");
});

Deno.test("cli.ts names the app id and the path that it does not have", async () => {
  await using cli = await start([...NET, "cli.ts", ...LOCAL]);
  const told = async (path: string) => {
    const response = await fetch(`${cli.url}${path}`);
    assertEquals(response.status, 404);
    return (await response.json()).error;
  };
  const call = "/apps/app-id/channels?auth_key=app-key";
  assertStringIncludes(await told(call), 'No app has the id "app-id"');
  assertEquals(await told("/"), 'There is no route for GET "/"');
});

Deno.test("cli.ts answers 404 in JSON for a session that there is not", async () => {
  await using cli = await start([...NET, "cli.ts", ...LOCAL, "--path", "/x"]);
  const response = await post(cli, "xhr_send", "[]");
  assertEquals(response.status, 404);
  assertEquals(await response.json(), { error: "There is no such session" });
  assertEquals(response.headers.get("access-control-allow-origin"), "*");
});

Deno.test("cli.ts drains on SIGTERM: every client gets 4200, and it exits 0", async () => {
  await using cli = await start([
    ...NET,
    "cli.ts",
    ...LOCAL,
    ...["--secret", "s", "--drain", "0.3"],
  ]);
  const sockets = Array.from(
    { length: 10 },
    () => open(`${cli.url}/app/app-key`),
  );
  await Promise.all(sockets.map(({ established }) => established));
  assertEquals(await cli.stop("SIGTERM"), 0);
  for (const { closed, frames } of sockets) {
    assertEquals((await closed).code, 4200);
    assertEquals(frames.at(-1)?.event, "pusher:error");
  }
});

// ---- Console ----------------------------------------------------------------

Deno.test("cli.ts --console serves the console below its path, behind its password, until it stops", async () => {
  const args = ["--console", "--path", "/x", "--secret", "s"];
  const variable = { PUSHER_CONSOLE_PASSWORD: "correct horse battery" };
  await using cli = await start(
    [...NET, "--allow-env", "cli.ts", ...LOCAL, ...args],
    variable,
  );
  const api = `${cli.url}/x/console/api`;
  const [status, page] = await ask(`${cli.url}/x/console`);
  assertEquals([status, page.includes("Pusher console")], [200, true]);
  assertEquals((await ask(`${api}/session`))[0], 401);
  const login = await fetch(`${api}/login`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ password: variable.PUSHER_CONSOLE_PASSWORD }),
  });
  await login.body?.cancel();
  const cookie = login.headers.get("set-cookie") ?? "";
  const { body } = await fetch(`${api}/stream`, { headers: { cookie } });
  const stream = body!.pipeThrough(new TextDecoderStream()).getReader();
  assertStringIncludes((await stream.read()).value ?? "", "event: hello");
  // A page that is open does not hold up the end.
  assertEquals(await cli.stop("SIGTERM"), 0);
  while (!(await stream.read()).done);
});

Deno.test("cli.ts serves no console unless it is asked for, and refuses a short password", async () => {
  await using cli = await start([...NET, "cli.ts", ...LOCAL]);
  assertEquals((await ask(`${cli.url}/console/`))[0], 404);
  const args = ["--console", "--console-password=short"];
  const { code, stderr } = await run([...NET, "cli.ts", ...args]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, "password is a string of 5 characters");
});

// ---- Health and the end -----------------------------------------------------

Deno.test("cli.ts answers health checks beside its path, to GET and HEAD only", async () => {
  const path = ["--path", "/x", "--secret", "s"];
  await using cli = await start([...NET, "cli.ts", ...LOCAL, ...path]);
  assertEquals(await ask(`${cli.url}/healthz`), [200, "ok\n"]);
  assertEquals(await ask(`${cli.url}/readyz`), [200, "ready\n"]);
  for (const check of ["healthz", "readyz"]) {
    assertEquals(await ask(`${cli.url}/${check}`, "HEAD"), [200, ""]);
    assertEquals((await ask(`${cli.url}/${check}`, "POST"))[0], 404);
    assertEquals((await ask(`${cli.url}/x/${check}`))[0], 404);
  }
});

Deno.test("cli.ts is alive, not ready and serves publishers while it closes", async () => {
  await using cli = await start([
    ...[...NET, "cli.ts", ...LOCAL, "--secret", "s", "--drain", "3600"],
  ]);
  const sockets = [1, 2].map(() => open(`${cli.url}/app/app-key`));
  await Promise.all(sockets.map(({ established }) => established));
  cli.signal("SIGTERM");
  const isClosing = async () => {
    while ((await ask(`${cli.url}/readyz`))[0] !== 503);
  };
  await within(DEADLINE_MS, "not ready", isClosing());
  assertEquals(await ask(`${cli.url}/readyz`), [503, "closing\n"]);
  assertEquals(await ask(`${cli.url}/healthz`), [200, "ok\n"]);
  const published = await publish(cli);
  assertEquals([published.status, await published.json()], [200, {}]);
  // A proxy that keeps connections open has to open another one elsewhere.
  assertEquals(published.headers.get("connection"), "close");
  assertEquals((await open(`${cli.url}/app/app-key`).closed).code, 4100);
  // The second signal.
  assertEquals(await cli.stop("SIGTERM"), 1);
  for (const { closed } of sockets) await closed;
});

Deno.test("cli.ts exits 0 although a client neither reads nor answers the close", async () => {
  await using cli = await start([
    ...[...NET, "cli.ts", ...LOCAL, "--secret", "s", "--drain", "0.1"],
  ]);
  using client = await RawClient.connect(Number(new URL(cli.url).port));
  const head = await client.upgrade("/app/app-key?protocol=7");
  assertStringIncludes(head, "101");
  assertEquals(await cli.stop("SIGTERM"), 0);
});

Deno.test("cli.ts exits 0 although a request never ends", async () => {
  await using cli = await start([
    ...[...NET, "cli.ts", ...LOCAL, "--secret", "s", "--drain", "0.1"],
  ]);
  using client = await RawClient.connect(Number(new URL(cli.url).port));
  await client.write(
    "POST /pusher/app/app-key/1/abcdefgh/xhr_send HTTP/1.1\r\n",
  );
  assertEquals(await cli.stop("SIGTERM"), 0);
});

Deno.test({
  name: "cli.ts under deno serve closes the connections bit by bit at SIGQUIT",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using cli = await start([
      ...["serve", "--no-prompt", "--host", "127.0.0.1", "--port", "0"],
      ...["cli.ts", "--secret", "s", "--drain", "0.3"],
    ]);
    const sockets = [1, 2, 3].map(() => open(`${cli.url}/app/app-key`));
    await Promise.all(sockets.map(({ established }) => established));
    assertEquals(await cli.stop("SIGQUIT"), 0);
    for (const { closed } of sockets) assertEquals((await closed).code, 4200);
  },
});

Deno.test({
  name: "cli.ts --reuse-port shares its port with other processes",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const flags = ["--hostname", "127.0.0.1", "--secret", "s", "--reuse-port"];
    const shared = [
      ...NET,
      "--unstable-net",
      "cli.ts",
      ...flags,
      "--drain",
      "0",
    ];
    await using one = await start([...shared, "--port", "0"]);
    const { port } = new URL(one.url);
    await using two = await start([...shared, "--port", port]);
    assertEquals(two.line, one.line);
    // The one that is left gets all connections.
    assertEquals(await one.stop("SIGTERM"), 0);
    for (let i = 0; i < 5; i++) {
      const socket = open(`${two.url}/app/app-key`);
      await socket.established;
      assertEquals(socket.frames[0]?.event, "pusher:connection_established");
    }
    assertEquals(await two.stop("SIGTERM"), 0);
  },
});
