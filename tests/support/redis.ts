/**
 * Real Redis servers, which a test starts, stops, freezes and starts again.
 *
 * @module
 */
import { DEADLINE_MS, within } from "./deadline.ts";
import { findInstalled } from "./installed.ts";
import { freePort } from "./ports.ts";

/** The programs, or null where they are not installed. */
const SERVER = findInstalled("redis-server", "valkey-server");
const CLIENT = findInstalled("redis-cli", "valkey-cli");

/** Whether this machine has Redis. */
export const HAS_REDIS = SERVER !== null && CLIENT !== null;

/** Somebody else may get a free port first. */
const MAX_STARTS = 5;

const READY = /Ready to accept connections/;
const IN_USE = /Address already in use|Could not create server TCP listening/;

/** Defines a test that needs Redis. Without it the test is ignored, and says why. */
export function testWithRedis(name: string, run: () => Promise<void>): void {
  if (HAS_REDIS) Deno.test(name, run);
  else Deno.test.ignore(`${name} (no redis-server)`, () => {});
}

/** What {@linkcode RedisServer.start} takes. */
export interface RedisOptions {
  /** More of what `redis-server` takes on its command line. A function chooses ports. */
  readonly args?: readonly string[] | (() => readonly string[]);
  /** Logs in with it, and makes it the password of the default user. */
  readonly password?: string;
  /** Files in PEM; there is no port without TLS then. */
  readonly tls?: { readonly cert: string; readonly key: string };
  /**
   * Makes the file with all of its settings; there are no others then than `args`.
   */
  readonly config?: (port: number, directory: string) => string;
  /** What it prints when it can be used. */
  readonly ready?: RegExp;
}

/** A server of its own on 127.0.0.1; disposal ends it and deletes its data. */
export class RedisServer implements AsyncDisposable {
  readonly #options: RedisOptions;
  readonly #directory: string;
  #child: Deno.ChildProcess | null = null;
  #output: Promise<unknown> = Promise.resolve();
  /** More of its command line, from the next start on. */
  args: readonly string[] = [];
  /** What `url` and `command` log in with, where that is needed. */
  password: string | undefined;
  #isPaused = false;
  #hasConfig = false;
  #port = 0;

  private constructor(options: RedisOptions, directory: string) {
    this.#options = options;
    this.password = options.password;
    this.#directory = directory;
  }

  /** Starts one on a free port. It keeps its data in an append-only file. */
  static async start(options: RedisOptions = {}): Promise<RedisServer> {
    const directory = await Deno.makeTempDir({ prefix: "redis_" });
    const server = new RedisServer(options, directory);
    for (let tries = 1;; tries++) {
      server.#port = freePort();
      const { args = [] } = options;
      server.args = typeof args === "function" ? args() : args;
      try {
        await server.#run();
        return server;
      } catch (error) {
        await server[Symbol.asyncDispose]();
        if (tries === MAX_STARTS || !IN_USE.test(String(error))) throw error;
        server.#hasConfig = false;
        await Deno.mkdir(directory, { recursive: true });
      }
    }
  }

  /** Where it listens, also after a restart. */
  get port(): number {
    return this.#port;
  }

  /** Its URL, with the password if it has one. */
  get url(): string {
    const { password } = this;
    const { tls } = this.#options;
    const login = password === undefined
      ? ""
      : `:${encodeURIComponent(password)}@`;
    return `${tls ? "rediss" : "redis"}://${login}127.0.0.1:${this.#port}`;
  }

  /** Its process id, or null while it does not run. */
  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /**
   * Has a command done, over a connection of its own. Returns the answer as JSON has
   * it.
   *
   * @throws {Error} If the answer is an error.
   */
  async command(...words: (string | number)[]): Promise<unknown> {
    const { password } = this;
    const { tls } = this.#options;
    const output = await new Deno.Command(CLIENT ?? "", {
      args: [
        ...["-h", "127.0.0.1", "-p", String(this.#port), "--json", "-e"],
        ...tls ? ["--tls", "--insecure"] : [],
        ...words.map(String),
      ],
      env: password === undefined ? {} : { REDISCLI_AUTH: password },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).output();
    const decoder = new TextDecoder();
    const answer = decoder.decode(output.stdout).trim();
    if (output.success) return parseAnswer(answer);
    throw new Error(
      `Cannot do ${words[0]}: ${answer}${decoder.decode(output.stderr)}`.trim(),
    );
  }

  /** Ends it in an orderly way. It has its data when it is started again. */
  async stop(): Promise<void> {
    await this.#end("SIGTERM");
  }

  /** Ends it at once. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /** Freezes it: connections stay, and nothing is answered. */
  pause(): void {
    this.#child?.kill("SIGSTOP");
    this.#isPaused = true;
  }

  /** Lets it go on. */
  resume(): void {
    this.#isPaused = false;
    this.#child?.kill("SIGCONT");
  }

  /** Starts it on the same port, after it was ended if it still runs. */
  async restart({ keepsData = true } = {}): Promise<void> {
    await this.stop();
    if (!keepsData) {
      this.#hasConfig = false;
      await Deno.remove(this.#directory, { recursive: true });
      await Deno.mkdir(this.#directory);
    }
    await this.#run();
  }

  /**
   * Remembers its data as they are now.
   *
   * @returns Kills it and starts it with these data, as if it had lost all writes
   * since then.
   */
  async remember(): Promise<() => Promise<void>> {
    const copy = `${this.#directory}_copy`;
    await copyAll(this.#directory, copy);
    return async () => {
      await this.kill();
      await Deno.remove(this.#directory, { recursive: true });
      await Deno.rename(copy, this.#directory);
      await this.#run();
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await Deno.remove(this.#directory, { recursive: true });
  }

  async #run(): Promise<void> {
    const child = new Deno.Command(SERVER ?? "", {
      args: await this.#args(),
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    this.#child = child;
    this.#isPaused = false;
    const ready = this.#options.ready ?? READY;
    const { found, ended } = watch(child.stdout, ready);
    this.#output = ended;
    await within(DEADLINE_MS, `${ready}`, found);
  }

  async #args(): Promise<string[]> {
    const { config, password, tls } = this.#options;
    const port = String(this.#port);
    if (config) {
      const file = `${this.#directory}/redis.conf`;
      // It belongs to the server from then on, which writes to it.
      if (!this.#hasConfig) {
        await Deno.writeTextFile(file, config(this.#port, this.#directory));
      }
      this.#hasConfig = true;
      return [file, ...this.args];
    }
    return [
      ...["--bind", "127.0.0.1", "--dir", this.#directory, "--save", ""],
      // While it flushes to the disk it would hold back what it has answered already.
      ...["--appendonly", "yes", "--appendfsync", "no"],
      // Otherwise a replica waits 5 s, in case there are more of them.
      ...["--repl-diskless-sync-delay", "0"],
      ...tls ? ["--port", "0", "--tls-port", port] : ["--port", port],
      ...tls
        ? [
          ...["--tls-cert-file", tls.cert, "--tls-key-file", tls.key],
          ...["--tls-ca-cert-file", tls.cert, "--tls-auth-clients", "no"],
        ]
        : [],
      ...password === undefined ? [] : ["--requirepass", password],
      ...this.args,
    ];
  }

  async #end(signal: Deno.Signal): Promise<void> {
    const child = this.#child;
    if (child === null) return;
    this.#child = null;
    try {
      if (this.#isPaused) child.kill("SIGCONT");
      child.kill(signal);
    } catch (error) {
      // It has ended by itself.
      if (!(error instanceof TypeError)) throw error;
    }
    await child.status;
    await this.#output;
  }
}

/** Copies a directory, with what it holds. */
async function copyAll(from: string, to: string): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for await (const { name, isDirectory } of Deno.readDir(from)) {
    const copy = isDirectory ? copyAll : Deno.copyFile;
    await copy(`${from}/${name}`, `${to}/${name}`);
  }
}

/** Reads to the end; `found` resolves when the pattern has come. */
function watch(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  pattern: RegExp,
): { found: Promise<void>; ended: Promise<void> } {
  const { promise: found, resolve, reject } = Promise.withResolvers<void>();
  let text = "";
  let isFound = false;
  const ended = (async () => {
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
      if (isFound) continue;
      text += part;
      isFound = pattern.test(text);
      if (isFound) resolve();
    }
    reject(new Error(`Cannot find ${pattern} in ${JSON.stringify(text)}`));
  })();
  return { found, ended };
}

function parseAnswer(answer: string): unknown {
  try {
    return JSON.parse(answer);
  } catch {
    // Not all that the program prints is JSON.
    return answer;
  }
}
