/**
 * A server of a cluster with webhooks, as a process of its own that can be killed and
 * frozen. Run as a program, its argument is a {@linkcode NodeOptions} as JSON.
 *
 * @module
 */
import { redis } from "../../ext/redis.ts";
import { type WebhookOptions, webhooks } from "../../ext/webhooks.ts";
import { Pusher, type PusherOptions } from "../../mod.ts";
import { DEADLINE_MS, within } from "./deadline.ts";

/** What a node is made of. */
export interface NodeOptions {
  redisUrl: string;
  leaseMs: number;
  pusher: PusherOptions;
  webhooks: Omit<WebhookOptions, "onError">;
}

/** A node in a process of its own; disposal ends it at once. */
export class WebhookNode implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #ended: Promise<unknown>;
  /** Where it serves. */
  readonly port: number;

  private constructor(
    child: Deno.ChildProcess,
    ended: Promise<unknown>,
    port: number,
  ) {
    this.#child = child;
    this.#ended = ended;
    this.port = port;
  }

  static async start(options: NodeOptions): Promise<WebhookNode> {
    const file = new URL("webhook_node.ts", import.meta.url).pathname;
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--no-check", "--no-lock", "--no-prompt", "--allow-net"],
        ...[file, JSON.stringify(options)],
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const port = Promise.withResolvers<number>();
    const ended = (async () => {
      const text = child.stdout.pipeThrough(new TextDecoderStream());
      for await (const part of text) {
        if (/^\d+\n$/.test(part)) port.resolve(Number(part));
      }
      await child.status;
      port.reject(new Error("Cannot serve: the node has ended"));
    })();
    port.promise.catch(() => {});
    try {
      const found = await within(DEADLINE_MS, "port of a node", port.promise);
      return new WebhookNode(child, ended, found);
    } catch (error) {
      child.kill("SIGKILL");
      await ended;
      throw error;
    }
  }

  /** Freezes it: its connections stay, and it does nothing. */
  freeze(): void {
    this.#child.kill("SIGSTOP");
  }

  /** Lets it go on. */
  thaw(): void {
    this.#child.kill("SIGCONT");
  }

  /** Ends it at once. */
  async kill(): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      // It was killed before.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

if (import.meta.main) {
  const options: NodeOptions = JSON.parse(Deno.args[0]!);
  const { redisUrl, leaseMs } = options;
  const pusher = new Pusher({
    ...options.pusher,
    backplane: redis(redisUrl, { leaseMs }),
  });
  // That a try fails is what the tests want.
  webhooks(pusher, { ...options.webhooks, onError() {} });
  Deno.serve(
    {
      hostname: "127.0.0.1",
      port: 0,
      onListen: ({ port }) => console.log(`${port}`),
    },
    pusher.handler,
  );
}
