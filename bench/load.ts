/**
 * The load generator, `load.c`: compiled on first use, and driven as a process.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { FOLDER } from "./peer.ts";

/** What the load generator has measured while it ran one command. */
export interface Phase {
  /** From the first message that was sent to the last that came. */
  ms: number;
  /** Publishes that were answered with success, and with something else. */
  messages: number;
  refused: number;
  /** The status of the last answer. */
  status: number;
  /** Deliveries that had to come, those that came, and those that did not. */
  expected: number;
  received: number;
  lost: number;
  /** Deliveries that came again, and those that nobody had sent. */
  duplicates: number;
  strays: number;
  frames: number;
  /** `member_added` and `member_removed` in them. */
  memberEvents: number;
  /** Clients that are connected, and those that the server has closed. */
  joined: number;
  closed: number;
  closeCode: number;
  /** Latencies in milliseconds, from the publish to the delivery. */
  p50: number;
  p90: number;
  p99: number;
  max: number;
  /** Processor time of the servers, and of the load generator. */
  serverMs: number;
  loadMs: number;
  /** The share of a core that the load generator took. */
  loadShare: number;
}

/** Fields of a command, as `load.c` lists them. */
export type Fields = Record<string, string | number>;

const SOURCE = new URL("load.c", import.meta.url);

/**
 * Compiles the load generator unless it is there, and newer than its source.
 *
 * @throws {Error} If there is no C compiler, or if it fails.
 */
export async function compileLoad(): Promise<string> {
  const program = fileURLToPath(new URL("load", FOLDER));
  const [source, made] = await Promise.all([changed(SOURCE), changed(program)]);
  if (made > source) return program;
  await Deno.mkdir(FOLDER, { recursive: true });
  const fresh = `${program}.${Deno.pid}`;
  let result;
  try {
    result = await new Deno.Command("cc", {
      args: ["-O2", "-o", fresh, fileURLToPath(SOURCE)],
    }).output();
  } catch (cause) {
    throw new Error(
      "Cannot compile the load generator: there is no C compiler `cc`; " +
        "on Debian `apt-get install gcc libc6-dev` installs one",
      { cause },
    );
  }
  if (!result.success) {
    const reason = new TextDecoder().decode(result.stderr);
    throw new Error(`Cannot compile the load generator: ${reason}`);
  }
  await Deno.rename(fresh, program);
  return program;
}

async function changed(file: string | URL): Promise<number> {
  try {
    return (await Deno.stat(file)).mtime?.getTime() ?? 0;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
}

/** A running load generator. */
export class Load implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #answers: ReadableStreamDefaultReader<string>;
  readonly #commands: WritableStreamDefaultWriter<Uint8Array>;
  #text = "";

  /** Starts it; `prefix` is a command that runs another, such as `taskset`. */
  constructor(program: string, prefix: string[] = []) {
    const [command, ...args] = [...prefix, program];
    this.#child = new Deno.Command(command!, {
      args,
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#answers = this.#child.stdout.pipeThrough(new TextDecoderStream())
      .getReader();
    this.#commands = this.#child.stdin.getWriter();
  }

  /**
   * Runs a command.
   *
   * @throws {Error} If the load generator cannot go on. It has ended then.
   */
  async run(name: string, fields: Fields = {}): Promise<Phase> {
    const parts = Object.entries(fields).map(([key, value]) => {
      if (/\s/.test(String(value))) {
        throw new Error(`Cannot send ${key}: it has a blank: "${value}"`);
      }
      return ` ${key}=${value}`;
    });
    const line = `${name}${parts.join("")}\n`;
    await this.#commands.write(new TextEncoder().encode(line));
    const answer = JSON.parse(await this.#readLine());
    if (answer.error) throw new Error(`Cannot ${name}: ${answer.error}`);
    return answer;
  }

  async #readLine(): Promise<string> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return line;
      }
      const { value, done } = await this.#answers.read();
      if (done) throw new Error("The load generator has ended");
      this.#text += value;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      // It has ended by itself.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#child.status;
    await this.#answers.cancel();
    await this.#commands.abort().catch(() => {});
  }
}
