/**
 * The servers of a cluster as processes that can be killed, frozen, stopped and
 * started again, each with a way to Redis of its own that can be cut.
 *
 * @module
 */
import { within } from "../../support/deadline.ts";
import { freePort } from "../../support/ports.ts";
import { FaultProxy } from "../../support/proxy.ts";
import {
  type NodeLine,
  type NodeSettings,
  type NodeStats,
  START_FAILED,
} from "./node.ts";

const PROGRAM = "tests/programs/cluster/node.ts";
const ROOT = new URL("../../..", import.meta.url);

/** How many of the last lines of a server are kept, for people. */
const MAX_LINES = 200;
/** How often a node may fail to reach Redis in time when it starts. */
const MAX_STARTS = 5;
/** For a start on a busy machine. */
const START_MS = 60_000;

/** How a way to Redis is cut: with an end that both sides hear, or without. */
export type Severance = "reset" | "silence";

/** A server's settings besides those that differ between servers. */
export type CommonSettings = Omit<NodeSettings, "port" | "redis">;

/** A server and its way to Redis. */
export class ClusterNode implements AsyncDisposable {
  readonly index: number;
  readonly port = freePort();
  readonly #settings: CommonSettings;
  #link: FaultProxy | null = null;
  #child: Deno.ChildProcess | null = null;
  #isExpectedToEnd = false;
  #exitCode = 0;
  #ended: Promise<unknown> = Promise.resolve();
  /** What it has printed lately. */
  readonly lines: string[] = [];
  /** What happened to it that must not happen. */
  readonly problems: string[] = [];
  /** How often its backplane went down or came back. */
  readonly changes: { up: boolean; at: number }[] = [];
  isFrozen = false;

  constructor(index: number, settings: CommonSettings) {
    this.index = index;
    this.#settings = settings;
  }

  /** Starts it, with everything in memory where there is no port of a Redis. */
  async open(redisPort: number | null): Promise<void> {
    if (redisPort !== null) {
      this.#link = await FaultProxy.open({ port: redisPort });
    }
    await this.start();
  }

  /** Such as `http://127.0.0.1:8080`. */
  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get isRunning(): boolean {
    return this.#child !== null;
  }

  /** Starts it, after it has ended. On a busy machine it may take several attempts. */
  async start(): Promise<void> {
    for (let tries = 1;; tries++) {
      try {
        return await this.#run();
      } catch (error) {
        const code = this.#exitCode;
        if (tries === MAX_STARTS || code !== START_FAILED) throw error;
      }
    }
  }

  async #run(): Promise<void> {
    const { port } = this;
    const redis = this.#link && `redis://127.0.0.1:${this.#link.port}`;
    const settings: NodeSettings = { ...this.#settings, port, redis };
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--no-prompt", "--allow-net"],
        ...[PROGRAM, JSON.stringify(settings)],
      ],
      cwd: ROOT,
      // It ends when this ends, and nobody has to look for it then.
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#child = child;
    this.#isExpectedToEnd = false;
    const ready = Promise.withResolvers<void>();
    const out = this.#read(child.stdout, (text) => {
      const line = parseLine(text);
      if (line === null) return;
      if ("ready" in line) ready.resolve();
      if ("up" in line) {
        this.changes.push({ up: line.up, at: performance.now() });
      }
    });
    const err = this.#read(child.stderr, () => {});
    this.#ended = Promise.all([child.status, out, err]).then(([status]) => {
      // Its end may have closed the pipe already.
      child.stdin.close().catch(() => {});
      this.#exitCode = status.code;
      ready.reject(new Error(`It ended: ${this.lines.slice(-5).join("\n")}`));
      if (this.#child === child) this.#child = null;
      if (this.#isExpectedToEnd || status.code === START_FAILED) return;
      this.problems.push(
        `node ${this.index} has ended with ${status.code}: ` +
          this.lines.slice(-12).join(" | "),
      );
    });
    ready.promise.catch(() => {});
    await within(START_MS, `start of node ${this.index}`, ready.promise);
  }

  /** Ends it at once. */
  async kill(): Promise<void> {
    this.#isExpectedToEnd = true;
    this.#signal("SIGKILL");
    await this.#ended;
    this.isFrozen = false;
  }

  /** Has it end by itself, and returns after how long. */
  async stop(deadlineMs: number): Promise<number> {
    const child = this.#child;
    if (child === null) return 0;
    const start = performance.now();
    this.#isExpectedToEnd = true;
    this.#signal("SIGTERM");
    try {
      await within(deadlineMs, `end of node ${this.index}`, this.#ended);
      const { code } = await child.status;
      if (code !== 0) {
        this.problems.push(`node ${this.index} ended with ${code}`);
      }
    } catch (error) {
      this.problems.push(String(error));
      await this.kill();
    }
    return performance.now() - start;
  }

  /** Freezes it: its connections stay, and nothing is answered. */
  freeze(): void {
    this.isFrozen = true;
    this.#signal("SIGSTOP");
  }

  /** Lets it go on. */
  thaw(): void {
    this.#signal("SIGCONT");
    this.isFrozen = false;
  }

  /** Cuts its way to Redis for a time. */
  async sever(how: Severance, forMs: number): Promise<void> {
    const link = this.#link;
    if (link === null) return;
    if (how === "reset") await link.clear("reset", forMs);
    else {
      link.refuse(forMs);
      const count = link.links;
      for (let i = 0; i < count; i++) {
        const pick = (i + 0.5) / count;
        link.strike({ fault: "stall", pick, forMs, delayMs: 0, share: 0.4 });
      }
    }
  }

  /** Whether it says that it is ready; null if it says nothing. */
  async readiness(ms: number): Promise<boolean | null> {
    try {
      const response = await fetch(`${this.origin}/readyz`, {
        signal: AbortSignal.timeout(ms),
      });
      await response.body?.cancel();
      return response.ok;
    } catch {
      return null;
    }
  }

  /** What it says of itself. */
  async stats(): Promise<NodeStats> {
    return await (await fetch(`${this.origin}/control/stats`)).json();
  }

  /** How many messages a second it publishes, to nobody. */
  async bench(ms: number, inFlight: number): Promise<number> {
    const search = new URLSearchParams({
      ms: `${ms}`,
      inFlight: `${inFlight}`,
    });
    const response = await fetch(`${this.origin}/control/bench?${search}`);
    return (await response.json()).perSecond;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await this.#link?.[Symbol.asyncDispose]();
  }

  #signal(signal: Deno.Signal): void {
    try {
      this.#child?.kill(signal);
    } catch (error) {
      // It has ended by itself.
      if (!(error instanceof TypeError)) throw error;
    }
  }

  async #read(
    stream: ReadableStream<Uint8Array<ArrayBuffer>>,
    hear: (line: string) => void,
  ): Promise<void> {
    let rest = "";
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + part).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        this.lines.push(line);
        if (this.lines.length > MAX_LINES) this.lines.shift();
        hear(line);
      }
    }
  }
}

function parseLine(text: string): NodeLine | null {
  try {
    return JSON.parse(text);
  } catch {
    return null; // Not all that a runtime prints is JSON.
  }
}
