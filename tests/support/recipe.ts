/**
 * The files of `docs/scaling/` put to work: servers started by the command lines that
 * they have, and the proxies with their settings. Only ports differ.
 *
 * @module
 */
import { parse } from "npm:yaml@2.9.1";
import { DEADLINE_MS, within } from "./deadline.ts";
import { findInstalled } from "./installed.ts";
import { freePort } from "./ports.ts";
import { APP } from "./server.ts";

const ROOT = new URL("../../", import.meta.url);

/** Reads a file of the recipe. */
export function readRecipe(file: string): string {
  return Deno.readTextFileSync(new URL(`docs/scaling/${file}`, ROOT));
}

/** The document itself. */
export const DOCUMENT: string = Deno.readTextFileSync(
  new URL("docs/scaling.md", ROOT),
);

/** The blocks of the document in a language. */
export function blocks(language: string): string[] {
  const pattern = new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, "gms");
  return Array.from(DOCUMENT.matchAll(pattern), ([, text = ""]) => text);
}

// deno-lint-ignore no-explicit-any -- each service has a shape of its own
export function readCompose(): { services: any } {
  return parse(readRecipe("compose.yaml"));
}

// ---- Command lines ----------------------------------------------------------

/** What a file has Deno do: `run`, its flags, `cli.ts`, and the flags of that. */
export interface CommandLine {
  readonly file: string;
  readonly args: readonly string[];
  /** Where it is run. @default {the repository} */
  readonly folder?: string;
}

/** The parts of the manifest that say how to run a server. */
export interface Container {
  args: string[];
  env: { name: string; value: string }[];
  ports: { name: string; containerPort: number }[];
  readinessProbe: { httpGet: { path: string; port: string } };
  livenessProbe: { httpGet: { path: string; port: string } };
  lifecycle: { preStop: { exec: { command: string[] } } };
}

/** The documents of the manifest, by kind. */
// deno-lint-ignore no-explicit-any -- each kind has a shape of its own
export function readManifest(): Map<string, any> {
  const documents = readRecipe("kubernetes.yaml").split(/^---$/m).map((text) =>
    parse(text)
  );
  return new Map(documents.map((document) => [document.kind, document]));
}

/** The container of the manifest. */
export function readContainer(): Container {
  return readManifest().get("Deployment").spec.template.spec.containers[0];
}

/** The command line of a server in each file that has one. */
export function commandLines(): CommandLine[] {
  const unit = "pusher@.service";
  const [, command = ""] =
    /^ExecStart=(?:\S+\/)?deno (.*)$/m.exec(readRecipe(unit)) ??
      [];
  const [, image = ""] = /^CMD (\[.*\])$/m.exec(readRecipe("Dockerfile")) ?? [];
  return [
    { file: unit, args: command.split(" ") },
    { file: "Dockerfile", args: JSON.parse(image) },
    { file: "kubernetes.yaml", args: readContainer().args },
  ];
}

/** The flags of the standalone server in a command line, one each. */
export function flagsOf({ args }: CommandLine): string[] {
  return args.slice(args.indexOf("cli.ts") + 1);
}

/** Copies into a folder what the Dockerfile copies into the image. */
export async function copyImage(folder: string): Promise<void> {
  const lines = readRecipe("Dockerfile").matchAll(/^COPY (.*) (\S+)$/gm);
  for (const [, from = "", to = ""] of lines) {
    for (const file of from.split(" ")) {
      const target = to.endsWith("/") ? `${to}${file}` : to;
      await copy(new URL(file, ROOT), `${folder}/${target}`);
    }
  }
}

async function copy(from: URL, to: string): Promise<void> {
  if ((await Deno.stat(from)).isFile) return await Deno.copyFile(from, to);
  await Deno.mkdir(to);
  for await (const { name } of Deno.readDir(from)) {
    await copy(new URL(`${from}/${name}`), `${to}/${name}`);
  }
}

// ---- Servers ----------------------------------------------------------------

/** Ample for the start of several servers on a busy machine. */
const START_MS = 60_000;

/** How long the servers take to close their connections here. */
const DRAIN_SECONDS = 2;

/** A server of the recipe, which can be ended and started again on its port. */
export class Node implements AsyncDisposable {
  readonly port: number = freePort();
  readonly #args: readonly string[];
  readonly #env: Record<string, string>;
  readonly #folder: string | URL;
  #child: Deno.ChildProcess | null = null;
  #output: Promise<string> = Promise.resolve("");

  private constructor(
    command: CommandLine,
    redisUrl: string,
    env: Record<string, string>,
  ) {
    const replaced = new Set(["port", "hostname", "drain"]);
    this.#folder = command.folder ?? ROOT;
    const isOwn = !command.args.includes("cli.ts");
    const before = command.args.slice(0, command.args.indexOf("cli.ts") + 1);
    const flags = flagsOf(command).join("=").split(/=?--/).slice(1)
      .filter((flag) => !replaced.has(flag.split("=")[0] ?? ""))
      .map((flag) => `--${flag}`);
    this.#args = isOwn ? command.args : [
      ...[...before, ...flags, `--port=${this.port}`, "--hostname=127.0.0.1"],
      `--drain=${DRAIN_SECONDS}`,
    ];
    this.#env = {
      PUSHER_APP_ID: APP.id,
      PUSHER_APP_KEY: APP.key,
      PUSHER_APP_SECRET: APP.secret,
      PUSHER_REDIS_URL: redisUrl,
      PUSHER_CLIENT_EVENTS: "true",
      NO_COLOR: "1",
      ...isOwn && {
        PUSHER_PORT: String(this.port),
        DRAIN_SECONDS: String(DRAIN_SECONDS),
      },
      ...env,
    };
  }

  /** Starts a server as a file says. */
  static async start(
    command: CommandLine,
    redisUrl: string,
    env: Record<string, string> = {},
  ): Promise<Node> {
    const node = new Node(command, redisUrl, env);
    await node.run();
    return node;
  }

  /** Starts it, and waits until it is ready. */
  async run(): Promise<void> {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: [...this.#args],
      cwd: this.#folder,
      env: this.#env,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#output = new Response(this.#child.stderr).text();
    await within(START_MS, "server that is ready", this.#ready());
  }

  /** What `/readyz` answers. */
  async readiness(): Promise<number> {
    const answer = await fetch(`http://127.0.0.1:${this.port}/readyz`);
    await answer.body?.cancel();
    return answer.status;
  }

  /** Ends it; returns its status, and what it has printed as errors. */
  async end(signal: Deno.Signal): Promise<{ code: number; errors: string }> {
    const child = this.#child;
    if (child === null) return { code: 0, errors: "" };
    this.#child = null;
    child.kill(signal);
    const { code } = await within(DEADLINE_MS, "end", child.status);
    return { code, errors: await this.#output };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("SIGKILL");
  }

  async #ready(): Promise<void> {
    let hasEnded = false;
    this.#child?.status.then(() => hasEnded = true);
    while (!hasEnded) {
      if (await this.readiness().catch(() => 0) === 200) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`Cannot start ${this.#args}: ${await this.#output}`);
  }
}

// ---- Proxies ----------------------------------------------------------------

/** A proxy of the recipe; disposal ends it. */
export interface Proxy extends AsyncDisposable {
  readonly port: number;
  /** Has new clients go to the servers on these ports only. */
  use(ports: readonly number[]): Promise<void>;
}

/** A proxy that a test may need. */
export interface ProxyKind {
  readonly name: string;
  /** The program, or null where it is not installed. */
  readonly path: string | null;
  start(path: string, ports: readonly number[]): Promise<Proxy>;
}

/** The ports of the files. */
export const RECIPE_PORTS = [6001, 6002, 6003];

export const PROXIES: readonly ProxyKind[] = [
  { name: "nginx", path: findInstalled("nginx"), start: startNginx },
  { name: "Caddy", path: findInstalled("caddy"), start: startCaddy },
];

/** The settings with other ports. */
function portsReplaced(text: string, ports: readonly number[]): string {
  return RECIPE_PORTS.reduce(
    (replaced, port, i) =>
      replaced.replaceAll(`127.0.0.1:${port}`, `127.0.0.1:${ports[i]}`),
    text,
  );
}

/** How nginx says that the workers of the settings before have stopped listening. */
const NGINX_RELOADED = /gracefully shutting down/g;

/** Starts nginx with the settings of the recipe, and others beside it. */
export async function startNginx(
  path: string,
  ports: readonly number[],
  beside: (port: number) => string = () => "",
): Promise<Proxy> {
  const directory = await Deno.makeTempDir({ prefix: "nginx_" });
  const port = freePort();
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${directory}/${name};`);
  const settings = portsReplaced(readRecipe("nginx.conf"), ports)
    .replace("listen 80;", `listen 127.0.0.1:${port};`);
  const write = (text: string) =>
    Deno.writeTextFile(`${directory}/pusher.conf`, text);
  await write(settings);
  await Deno.writeTextFile(
    `${directory}/nginx.conf`,
    `daemon off; worker_processes 1; pid ${directory}/pid;
    error_log ${directory}/error.log notice;
    events { worker_connections 1000; }
    http {
      access_log off; ${temporary.join(" ")}
      include ${directory}/pusher.conf;
      ${beside(port)}
    }`,
  );
  const child = new Deno.Command(path, {
    args: ["-p", directory, "-c", `${directory}/nginx.conf`],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  await within(DEADLINE_MS, "nginx that listens", listening(port));
  let reloads = 0;
  return {
    port,
    async use(wanted) {
      const text = ports.filter((own) => !wanted.includes(own)).reduce(
        (marked, own) =>
          marked.replaceAll(
            new RegExp(`(server 127.0.0.1:${own} .*);`, "g"),
            "$1 down;",
          ),
        settings,
      );
      await write(text);
      child.kill("SIGHUP");
      reloads++;
      await eventually(async () => {
        const log = await Deno.readTextFile(`${directory}/error.log`);
        return (log.match(NGINX_RELOADED)?.length ?? 0) >= reloads;
      }, "reloaded nginx");
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await child.status;
      await Deno.remove(directory, { recursive: true });
    },
  };
}

async function startCaddy(
  path: string,
  ports: readonly number[],
): Promise<Proxy> {
  const directory = await Deno.makeTempDir({ prefix: "caddy_" });
  const port = freePort();
  const settings = portsReplaced(readRecipe("Caddyfile"), ports)
    .replace(/^:80 \{$/m, `http://127.0.0.1:${port} {`);
  const file = `${directory}/Caddyfile`;
  await Deno.writeTextFile(file, `{\n\tadmin off\n}\n${settings}`);
  const child = new Deno.Command(path, {
    args: ["run", "--config", file, "--adapter", "caddyfile"],
    env: { HOME: directory, XDG_DATA_HOME: directory },
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  await within(DEADLINE_MS, "Caddy that listens", listening(port));
  return {
    port,
    // It asks for /readyz by itself.
    use: () => Promise.resolve(),
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await child.status;
      await Deno.remove(directory, { recursive: true });
    },
  };
}

async function listening(port: number): Promise<void> {
  for (;;) {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      return;
    } catch (error) {
      if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** Asks until it is so, where nothing announces that. */
export async function eventually(
  ask: () => boolean | Promise<boolean>,
  what: string,
): Promise<void> {
  const settle = async () => {
    // Also where nobody waits any more.
    const end = performance.now() + START_MS;
    while (!await ask() && performance.now() < end) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await within(START_MS, what, settle());
}
