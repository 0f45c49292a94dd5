/**
 * What a scenario acts on: servers of one peer, and the clients and publishers of a
 * load generator in front of them.
 *
 * @module
 */
import { type Fields, Load, type Phase } from "./load.ts";
import { APP, type Dialect, type Peer, type PeerOptions } from "./peer.ts";
import { type RequestSet, signRequests } from "./requests.ts";
import { Server } from "./server.ts";

/** How clients, or the program, use a peer besides the plain way. */
export type Variant =
  | "batch"
  | "recover"
  | "session"
  | "in-process"
  | "no history";

/** A peer in one of the ways to use it. */
export interface Subject {
  peer: Peer;
  variants: readonly Variant[];
}

/** The name of a subject in results, such as `ours+batch`. */
export function nameOf({ peer, variants }: Subject): string {
  return [peer.name, ...variants].join("+");
}

/** How a bench runs. */
export interface Settings {
  /** How long a rate is measured, and a server warmed up. */
  seconds: number;
  warmUpSeconds: number;
  /** What numbers of clients are multiplied with. */
  scale: number;
  /** The compiled load generator. */
  program: string;
  /** Commands that keep the server, and the load generator, on a core. */
  pin: { server: string[]; load: string[] };
  /** The first of the ports that servers listen on. */
  port: number;
}

/** Each server listens on another port, as the last one's sockets linger. */
const PORTS = 900;
let started = 0;

function nextPort(first: number): number {
  for (;;) {
    const port = first + started++ % PORTS;
    try {
      using _listener = Deno.listen({ hostname: "127.0.0.1", port });
      return port;
    } catch (error) {
      // Another program's.
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

const PATHS: Record<Dialect, string> = {
  pusher: `/app/${APP.key}?protocol=7&client=js&version=8.4.0`,
  faye: "/bayeux",
  socketio: "/socket.io/?EIO=4&transport=websocket",
};

/** Servers, and their load generator. */
export class Stage implements AsyncDisposable {
  readonly servers: readonly Server[];
  readonly load: Load;
  readonly #subject: Subject;
  readonly #settings: Settings;

  private constructor(
    subject: Subject,
    settings: Settings,
    servers: Server[],
    load: Load,
  ) {
    this.#subject = subject;
    this.#settings = settings;
    this.servers = servers;
    this.load = load;
  }

  /** Starts a server, or several that share a Redis. */
  static async open(
    subject: Subject,
    settings: Settings,
    options: Omit<PeerOptions, "port"> = {},
    nodes = 1,
  ): Promise<Stage> {
    const { peer, variants } = subject;
    const history = variants.includes("no history") ? { history: false } : {};
    await using stack = new AsyncDisposableStack();
    const servers: Server[] = [];
    for (let i = 0; i < nodes; i++) {
      const port = nextPort(settings.port);
      const all = { ...options, ...history, port };
      // Several servers need more than the one core.
      const prefix = nodes === 1 ? settings.pin.server : [];
      servers.push(stack.use(await Server.start(peer, all, prefix)));
    }
    const prefix = nodes === 1 ? settings.pin.load : [];
    const load = stack.use(new Load(settings.program, prefix));
    const stage = new Stage(subject, settings, servers, load);
    stage.#stack = stack.move();
    return stage;
  }

  #stack: AsyncDisposableStack | undefined;

  /** A number of clients, of channels or of users as the settings scale it. */
  scaled(count: number): number {
    return Math.max(1, Math.round(count * this.#settings.scale));
  }

  /** Connects clients, and waits until all are on their channels. */
  async connect(count: number, fields: Fields = {}): Promise<Phase> {
    return await this.#run("open", {
      count,
      dialect: this.#subject.peer.dialect,
      path: this.#path(),
      ...fields,
    });
  }

  /** Has the load generator read what it will publish; after `connect`. */
  async prepare(set: RequestSet): Promise<void> {
    await this.load.run("requests", { file: await signRequests(set), ...set });
  }

  /**
   * Publishes for the seconds of the settings, or as many as `count` says, and waits
   * for the deliveries.
   */
  async publish(publishers: number, fields: Fields = {}): Promise<Phase> {
    const seconds = this.#settings.seconds;
    return await this.#run("publish", { publishers, seconds, ...fields });
  }

  /** Publishes until the server runs at its full speed. */
  async warmUp(publishers: number): Promise<void> {
    const seconds = this.#settings.warmUpSeconds;
    requireAll(await this.publish(publishers, { seconds }));
  }

  /** Runs another command of the load generator. */
  async run(name: string, fields: Fields = {}): Promise<Phase> {
    return await this.#run(name, fields);
  }

  async #run(name: string, fields: Fields): Promise<Phase> {
    return await this.load.run(name, {
      ports: this.servers.map(({ port }) => port).join(),
      pids: this.servers.map(({ pid }) => pid).join(),
      ...fields,
    });
  }

  #path(): string {
    const { peer, variants } = this.#subject;
    const session = variants.includes("session") ? "/r/bench-session-{i}" : "";
    const query = (["batch", "recover"] as const)
      .filter((name) => variants.includes(name)).map((name) => `&${name}=1`);
    return `${session}${PATHS[peer.dialect]}${query.join("")}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack?.disposeAsync();
  }
}

/** A run in which something was lost, or came twice: it is no result. */
export class NoResult extends Error {
  override name = "NoResult";
}

/**
 * Returns the phase, if every message came to every client once.
 *
 * @throws {NoResult} If not. The message has the numbers.
 */
export function requireAll(phase: Phase): Phase {
  const { lost, expected, duplicates, strays, refused, status, closed } = phase;
  const faults = [
    lost > 0 && `lost ${lost} of ${expected} deliveries`,
    duplicates > 0 && `${duplicates} of ${expected} deliveries came twice`,
    strays > 0 && `${strays} deliveries came that nobody had sent`,
    refused > 0 && `${refused} publishes were answered with ${status}`,
    closed > 0 && `the server closed ${closed} clients (${phase.closeCode})`,
  ].filter(Boolean);
  if (faults.length > 0) throw new NoResult(faults.join(", "));
  return phase;
}
