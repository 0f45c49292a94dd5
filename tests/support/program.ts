/**
 * Programs of this repository, started as a user starts them.
 *
 * @module
 */
import { within } from "./deadline.ts";

/** Ample for a start with type checking off, on a busy machine. */
const START_DEADLINE_MS = 20_000;

/** A running program; disposal ends it with SIGTERM. */
export interface Program extends AsyncDisposable {
  /** What the awaited output matched. */
  readonly ready: RegExpExecArray;
  /** Sends it a signal, also while it is frozen. */
  signal(name: Deno.Signal): void;
  /** Ends it with SIGTERM, and returns what it has printed since then. */
  stop(): Promise<string>;
}

/**
 * Runs Deno in the repository and waits until its output matches `ready`.
 *
 * @param openFiles How many files the program may open; its output then includes
 * what it prints as errors. Windows has no such limit.
 */
export async function start(
  args: string[],
  ready: RegExp,
  env: Record<string, string> = {},
  openFiles?: number,
  deadlineMs: number = START_DEADLINE_MS,
): Promise<Program> {
  const limited = `ulimit -n ${openFiles}; exec "$0" "$@" 2>&1`;
  const [command, ...before] = openFiles === undefined
    ? [Deno.execPath()]
    : ["bash", "-c", limited, Deno.execPath()];
  const child = new Deno.Command(command, {
    args: [...before, ...args],
    cwd: new URL("../..", import.meta.url),
    env,
    stdout: "piped",
  }).spawn();
  const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const stop = async () => {
    try {
      child.kill("SIGTERM");
    } catch (error) {
      // It has ended by itself.
      if (!(error instanceof TypeError)) throw error;
    }
    let printed = "";
    for (let part; !(part = await output.read()).done;) printed += part.value;
    await child.status;
    return printed;
  };
  try {
    return {
      ready: await within(deadlineMs, `${ready}`, match(output, ready)),
      signal: (name) => child.kill(name),
      stop,
      async [Symbol.asyncDispose]() {
        await stop();
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function match(
  output: ReadableStreamDefaultReader<string>,
  pattern: RegExp,
): Promise<RegExpExecArray> {
  let text = "";
  for (;;) {
    const found = pattern.exec(text);
    if (found) return found;
    const { value, done } = await output.read();
    if (done) {
      throw new Error(`Cannot find ${pattern} in ${JSON.stringify(text)}`);
    }
    text += value;
  }
}
