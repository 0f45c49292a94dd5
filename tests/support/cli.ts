/**
 * The standalone server, started as a user starts it.
 *
 * @module
 */
import { Pusher } from "@glitz/pusher";
import { DEADLINE_MS, within } from "./deadline.ts";

/** Runs a program that may use the network only. */
export const NET = ["run", "--no-prompt", "--allow-net"];
/** Listens on a free port of this machine. */
export const LOCAL = ["--port", "0", "--hostname", "127.0.0.1"];

/** Runs the program to its end. */
export async function run(
  args: string[],
  env: Record<string, string> = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await command(args, env).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

export function command(
  args: string[],
  env: Record<string, string>,
): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args,
    cwd: new URL("../..", import.meta.url),
    env: { NO_COLOR: "1", ...env },
    stdout: "piped",
    stderr: "piped",
  });
}

/** A running server; disposal ends it. */
export interface Cli extends AsyncDisposable {
  /** Its first line. */
  readonly line: string;
  readonly url: string;
  /** What it prints as errors, until it ends. */
  readonly errors: Promise<string>;
  /** Sends a signal. */
  signal(signal: Deno.Signal): void;
  /** Sends a signal and returns the exit code. */
  stop(signal: Deno.Signal): Promise<number>;
}

/** Starts the program and waits for the line that says where it is. */
export async function start(
  args: string[],
  env: Record<string, string> = {},
): Promise<Cli> {
  const child = command(args, env).spawn();
  const errors = new Response(child.stderr).text();
  const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const stop = async (signal: Deno.Signal) => {
    try {
      child.kill(signal);
    } catch {
      // It has ended already, and its status says how.
    }
    while (!(await output.read()).done);
    await errors;
    return (await child.status).code;
  };
  let line = "";
  const readLine = async () => {
    while (!line.includes("\n")) {
      const { value, done } = await output.read();
      if (done) throw new Error(`Cannot start: ${await errors}`);
      line += value;
    }
  };
  await within(DEADLINE_MS, "first line", readLine());
  const url = line.match(/ws(:\/\/[^/]+)/)?.[1];
  return {
    line: line.trim(),
    url: `http${url}`,
    errors,
    signal: (signal) => child.kill(signal),
    stop: (signal) => within(DEADLINE_MS, "exit", stop(signal)),
    [Symbol.asyncDispose]: async () => void await stop("SIGKILL"),
  };
}

/** Opens a socket and collects what it gets until it is closed. */
export function open(url: string): {
  frames: Record<string, unknown>[];
  established: Promise<void>;
  closed: Promise<CloseEvent>;
} {
  const socket = new WebSocket(url.replace("http", "ws"));
  const frames: Record<string, unknown>[] = [];
  const established = Promise.withResolvers<void>();
  const closed = Promise.withResolvers<CloseEvent>();
  socket.onmessage = ({ data }) => {
    frames.push(JSON.parse(data));
    established.resolve();
  };
  socket.onclose = closed.resolve;
  return {
    frames,
    established: within(DEADLINE_MS, "first frame", established.promise),
    closed: within(DEADLINE_MS, "close", closed.promise),
  };
}

/** Asks for a URL; returns the status and the text of the answer. */
export async function ask(
  url: string,
  method = "GET",
): Promise<[number, string]> {
  const response = await fetch(url, { method });
  return [response.status, await response.text()];
}

/** Asks the standalone server to publish on `news`. */
export async function publish(cli: Cli): Promise<Response> {
  const pusher = new Pusher({ appId: "1", key: "app-key", secret: "s" });
  const body = { name: "e", channel: "news", data: "1" };
  const options = { method: "POST", path: "/apps/1/events" };
  const query = pusher.createSignedQueryString({
    ...options,
    body: JSON.stringify(body),
  });
  return await fetch(`${cli.url}/apps/1/events?${query}`, {
    method: "POST",
    body: JSON.stringify(body),
  });
}
