/**
 * Programs that run out of file descriptors: the standalone server, the program in
 * docs/deployment.md, and the default of `limits.sockets`.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { DEADLINE_MS, within } from "./support/deadline.ts";
import { freePort } from "./support/ports.ts";
import { APP, Client } from "./support/server.ts";

const ROOT = new URL("..", import.meta.url);

/** How many files a program of these tests may open; the runtime needs about 30. */
const OPEN_FILES = 200;

/** A program, and what it prints. */
class Program implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #output: Promise<void>;
  readonly #lines = { stdout: [] as string[], stderr: [] as string[] };
  #wake = () => {};

  constructor(args: string[], openFiles: number) {
    const command = `ulimit -n ${openFiles}; exec "$0" "$@"`;
    this.#child = new Deno.Command("bash", {
      args: ["-c", command, Deno.execPath(), ...args],
      cwd: ROOT,
      env: { NO_COLOR: "1" },
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#output = Promise.all([this.#read("stdout"), this.#read("stderr")])
      .then(() => {});
  }

  async #read(name: "stdout" | "stderr"): Promise<void> {
    let rest = "";
    const text = this.#child[name].pipeThrough(new TextDecoderStream());
    for await (const chunk of text) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      this.#lines[name].push(...lines);
      this.#wake();
    }
  }

  /** The lines of errors and warnings so far. */
  get errors(): string[] {
    return this.#lines.stderr;
  }

  /** Waits for a line, and returns the match. */
  async line(
    name: "stdout" | "stderr",
    pattern: RegExp,
  ): Promise<RegExpMatchArray> {
    for (;;) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const match = this.#lines[name].join("\n").match(pattern);
      if (match) return match;
      const ended = this.#output.then(() => {
        throw new Error(`Cannot find ${pattern}: ${this.errors.join("\n")}`);
      });
      await within(DEADLINE_MS, `${pattern}`, Promise.race([promise, ended]));
    }
  }

  /** Ends it, and returns its exit code. */
  async stop(signal: Deno.Signal): Promise<number> {
    try {
      this.#child.kill(signal);
    } catch {
      // It has ended already, and its status says how.
    }
    await within(DEADLINE_MS, "exit", this.#output);
    return (await this.#child.status).code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}

/** Connects a client; null if the server does not accept the connection. */
async function connect(port: number): Promise<Client | null> {
  const url = `ws://127.0.0.1:${port}/app/${APP.key}?protocol=7`;
  const client = new Client(url, APP);
  try {
    await client.established();
    return client;
  } catch (error) {
    const { code } = await client.closed;
    // No close code: there was no WebSocket.
    if (code !== 0 && code !== 1006) throw error;
    return null;
  }
}

/** Connects clients until the server accepts no more. */
async function fill(port: number): Promise<Client[]> {
  const clients: Client[] = [];
  for (;;) {
    const client = await connect(port);
    if (client === null) return clients;
    clients.push(client);
  }
}

/** Tries until it works. Only another attempt shows that a server listens again. */
async function eventually<T>(
  what: string,
  attempt: () => Promise<T | null>,
): Promise<T> {
  const end = performance.now() + DEADLINE_MS;
  while (performance.now() < end) {
    const result = await attempt();
    if (result !== null) return result;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`Cannot wait longer: no ${what}`);
}

/** Waits until a server listens again, and fails again for lack of descriptors. */
function failsAgain(port: number): Promise<true> {
  return eventually("listening server", async () => {
    try {
      using connection = await Deno.connect({ hostname: "127.0.0.1", port });
      // The runtime closes what it has not accepted.
      return await connection.read(new Uint8Array(1)) === null ? true : null;
    } catch (error) {
      if (error instanceof Deno.errors.ConnectionReset) return true;
      // It was reset before the runtime had asked where it leads.
      if (error instanceof Deno.errors.NotConnected) return true;
      if (error instanceof Deno.errors.ConnectionRefused) return null;
      throw error;
    }
  });
}

/** A client's event reaches all others. */
async function exchange([first, ...others]: Client[]): Promise<void> {
  first?.send({ event: "client-hello", channel: "private-room", data: "{}" });
  for (const client of others) await client.next("client-hello");
}

const isWindows = Deno.build.os === "windows";

// ---- The standalone server --------------------------------------------------

const CLI = ["cli.ts", "--key", APP.key, "--secret", APP.secret]
  .concat("--client-events", "--drain", "0");

const RUN = ["run", "--no-prompt", "--allow-net"];

const HOST = ["--hostname", "127.0.0.1"];

for (
  const [command, argsFor] of [
    ["deno run", (port: string) => [...RUN, ...CLI, "--port", port, ...HOST]],
    // It may listen on this port only, and without a flag.
    ["deno serve", (port: string) => ["serve", "--port", port, ...CLI]],
  ] as const
) {
  Deno.test({
    name:
      `${command} cli.ts survives when it has no file descriptor left, and accepts again`,
    ignore: isWindows,
    async fn() {
      const port = freePort();
      await using program = new Program(argsFor(`${port}`), OPEN_FILES);
      await program.line("stdout", /^Pusher server on /);
      const clients = await fill(port);
      const count = clients.length;
      assert(count > 100 && count < OPEN_FILES, `${count} clients`);
      await program.line("stderr", /too many open files/i);
      for (const client of clients) await client.join("private-room");
      await exchange(clients);
      for (let i = 0; i < 2; i++) await failsAgain(port);
      await exchange(clients);
      for (const client of clients.splice(0, 20)) await client.close();
      const late = await eventually("connection", () => connect(port));
      await late.join("private-room");
      await exchange([late, ...clients]);
      // On all addresses the short secret is worth a warning.
      const [error, ...more] = program.errors
        .filter((line) => !line.startsWith("--secret has less than"));
      assertMatch(error ?? "", /accepting connections.*--max-sockets/);
      assertEquals(more, []);
      assertEquals(await program.stop("SIGTERM"), 0);
      for (const client of [late, ...clients]) await client.closed;
    },
  });
}

Deno.test({
  name: "cli.ts refuses sockets above the default of limits.sockets with 4100",
  ignore: Deno.build.os !== "linux",
  async fn() {
    // Only with all permissions may a program read how many files it may open.
    const args = [
      "run",
      "-A",
      ...CLI,
      "--port",
      "0",
      "--hostname",
      "127.0.0.1",
    ];
    await using program = new Program(args, OPEN_FILES);
    const [, text] = await program.line("stdout", /ws:\/\/.*?:(\d+)/);
    const url = `ws://127.0.0.1:${text}/app/${APP.key}?protocol=7`;
    const clients: Client[] = [];
    for (let i = 0; i < OPEN_FILES - 64; i++) {
      const client = new Client(url, APP);
      await client.established();
      clients.push(client);
    }
    for (let i = 0; i < 100; i++) {
      await using client = new Client(url, APP);
      assertEquals((await client.turnedAway()).code, 4100);
    }
    for (const client of clients) await client.join("private-room");
    await exchange(clients);
    assertEquals(program.errors, []);
    assertEquals(await program.stop("SIGTERM"), 0);
    for (const client of clients) await client.closed;
  },
});

// ---- Other programs ---------------------------------------------------------

Deno.test({
  name:
    "the lines of docs/deployment.md survive when no file descriptor is left",
  ignore: isWindows,
  async fn() {
    const document = await Deno.readTextFile(
      new URL("docs/deployment.md", ROOT),
    );
    const programs = document.matchAll(/```ts ignore\n(.*?)```/gs);
    const [lines, ...others] = Array.from(programs, ([, code = ""]) => code)
      .filter((code) => code.includes("finished.catch"));
    assert(lines !== undefined && others.length === 0);
    const port = freePort();
    const code = lines.replace("port: 8000", `port: ${port}`) +
      `setInterval(() => pusher.trigger("news", "tick", {}), 100);`;
    assert(code.includes(`port: ${port}`));
    const file = await Deno.makeTempFile({ suffix: ".ts" });
    try {
      await Deno.writeTextFile(file, code);
      const map = "--import-map=tests/offline/import_map.json";
      const args = [...RUN, "--no-lock", map, file];
      await using program = new Program(args, OPEN_FILES);
      await eventually("server", async () => {
        const client = await connect(port);
        await client?.close();
        return client;
      });
      const clients = await fill(port);
      await program.line("stderr", /too many open files/i);
      for (const client of clients) await client.join("news");
      for (let i = 0; i < 2; i++) await failsAgain(port);
      await Promise.all(clients.map(async (client) => {
        client.drain();
        await client.next("tick");
      }));
      for (const client of clients.splice(0, 20)) await client.close();
      const late = await eventually("connection", () => connect(port));
      const errors = program.errors.filter((line) => /Failed/.test(line));
      assertEquals(errors.length, 1, errors.join("\n"));
      assertEquals(await program.stop("SIGTERM"), 0);
      for (const client of [late, ...clients]) await client.closed;
    } finally {
      await Deno.remove(file);
    }
  },
});
