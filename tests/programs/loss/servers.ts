/**
 * What clients connect to in a run: one server, or several behind a balancer, which
 * share memory or a Redis.
 *
 * @module
 */
import {
  type Backplane,
  type History,
  MemoryBackplane,
  Pusher,
} from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { redis } from "@glitz/pusher/redis";
import { Balancer } from "../../support/balancer.ts";
import { within } from "../../support/deadline.ts";
import { APP } from "../../support/server.ts";

/** For all of it to end. */
const END_MS = 10_000;

/** What {@linkcode Servers.open} takes. */
export interface ServersOptions {
  /** How many. @default {1} */
  readonly nodes?: number | undefined;
  /** The Redis by which several are one. @default {memory that they share} */
  readonly redis?: string | undefined;
  readonly history: Partial<History>;
  /** Is told of what fails in a server. */
  readonly onError: (problem: string) => void;
}

/** One server, or several that are one. */
export class Servers {
  readonly all: readonly Pusher[];
  /** Where clients find them. */
  readonly port: number;
  /** Where a client finds one of them, with nothing in between. */
  readonly ownPort: number;
  readonly #listeners: readonly Deno.HttpServer<Deno.NetAddr>[];
  readonly #balancer: Balancer | null;
  readonly #abort: AbortController;

  private constructor(
    all: readonly Pusher[],
    listeners: readonly Deno.HttpServer<Deno.NetAddr>[],
    balancer: Balancer | null,
    abort: AbortController,
  ) {
    this.all = all;
    this.#listeners = listeners;
    this.#balancer = balancer;
    this.#abort = abort;
    // There is at least one.
    this.ownPort = listeners[0]!.addr.port;
    this.port = balancer?.port ?? this.ownPort;
  }

  static async open(options: ServersOptions): Promise<Servers> {
    const { nodes = 1, history, onError } = options;
    const abort = new AbortController();
    const { signal } = abort;
    const all = backplanes(nodes, options.redis).map((backplane) =>
      makeServer(backplane, history)
    );
    const listeners = all.map((server) =>
      Deno.serve(
        { port: 0, hostname: "127.0.0.1", signal, onListen() {} },
        Pusher.cascade(server.handler, fallback(server)),
      )
    );
    for (const server of all) {
      server.on("error", ({ error, during }) => {
        onError(`the server failed during ${during}: ${error}`);
      });
    }
    const ports = listeners.map(({ addr }) => addr.port);
    const balancer = nodes > 1 ? await Balancer.open(ports) : null;
    return new Servers(all, listeners, balancer, abort);
  }

  async close(): Promise<void> {
    const closed = Promise.all(this.all.map((server) => server.close()));
    await within(END_MS, "end of the servers", closed);
    // Not shutdown(), which may wait for what a proxy has left half done.
    this.#abort.abort();
    const ended = Promise.all(this.#listeners.map(({ finished }) => finished));
    await within(END_MS, "end of the listeners", ended);
    await this.#balancer?.[Symbol.asyncDispose]();
  }
}

function backplanes(nodes: number, url: string | undefined): Backplane[] {
  const memory = new MemoryBackplane();
  const prefix = `loss-${crypto.randomUUID()}`;
  return Array.from(
    { length: nodes },
    () => url === undefined ? memory.peer() : redis(url, { prefix }),
  );
}

function makeServer(
  backplane: Backplane,
  history: ServersOptions["history"],
): Pusher {
  return new Pusher({
    appId: APP.id,
    key: APP.key,
    secret: APP.secret,
    clientEvents: true,
    backplane,
    history,
    // Clients say with their form who they are: nobody else is here.
    authorize: (_request, { params }) => {
      const name = params.get("name");
      return name === null ? false : { user_id: name };
    },
    authenticate: (_request, { params }) => {
      const id = params.get("user");
      return id === null ? null : { id };
    },
  });
}
