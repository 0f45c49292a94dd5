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
}

/** Runs Deno in the repository and waits until its output matches `ready`. */
export async function start(
  args: string[],
  ready: RegExp,
  env: Record<string, string> = {},
): Promise<Program> {
  const child = new Deno.Command(Deno.execPath(), {
    args,
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
    while (!(await output.read()).done);
    await child.status;
  };
  try {
    return {
      ready: await within(START_DEADLINE_MS, `${ready}`, match(output, ready)),
      [Symbol.asyncDispose]: stop,
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
