/**
 * A peer as a running process, and what the kernel knows of it.
 *
 * @module
 */
import type { Peer, PeerOptions } from "./peer.ts";

/** Ample for a start on a busy machine. */
const START_MS = 30_000;

/** A peer that listens. */
export class Server implements AsyncDisposable {
  readonly pid: number;
  readonly port: number;
  readonly #child: Deno.ChildProcess;
  readonly #outputs: Promise<void>[];

  private constructor(
    child: Deno.ChildProcess,
    port: number,
    outputs: Promise<void>[],
  ) {
    this.pid = child.pid;
    this.port = port;
    this.#child = child;
    this.#outputs = outputs;
  }

  /**
   * Starts a peer, and waits until it listens.
   *
   * @param prefix A command that becomes another, such as `taskset`.
   * @throws {Error} If it ends or takes too long, with what it has printed.
   */
  static async start(
    peer: Peer,
    options: PeerOptions,
    prefix: string[] = [],
  ): Promise<Server> {
    const { command, args, ...how } = peer.command(options);
    const [first, ...rest] = [...prefix, command, ...args];
    const child = new Deno.Command(first!, {
      ...how,
      args: rest,
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const ready = Promise.withResolvers<void>();
    let printed = "";
    const read = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
      for await (const part of stream.pipeThrough(new TextDecoderStream())) {
        printed = (printed + part).slice(-4_000);
        if (/^ready$/m.test(printed)) ready.resolve();
      }
    };
    const outputs = [read(child.stdout), read(child.stderr)];
    const server = new Server(child, options.port, outputs);
    const fail = (what: string) =>
      ready.reject(new Error(`Cannot start ${peer.name}: ${what}\n${printed}`));
    Promise.all(outputs).then(() => fail("it has ended"));
    const timer = setTimeout(fail, START_MS, `not ready in ${START_MS} ms`);
    try {
      await ready.promise;
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The memory of the process that is in use, in KiB. */
  memoryKiB(): number {
    const status = Deno.readTextFileSync(`/proc/${this.pid}/status`);
    return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]);
  }

  /** Asks one of the paths that {@linkcode PeerOptions} switches on. */
  async ask(path: string): Promise<unknown> {
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`);
    return await response.json();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      // It has ended by itself.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#child.status;
    await Promise.all(this.#outputs);
  }
}
