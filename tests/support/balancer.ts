/**
 * A load balancer in front of several servers of this machine, as nginx or Caddy
 * would be set up: sockets in turn, sessions over HTTP always to the same server,
 * and another server where one does not answer.
 *
 * @module
 */
import { once } from "node:events";
import {
  createServer,
  type IncomingMessage,
  request,
  type ServerResponse,
} from "node:http";
import { connect, type Socket } from "node:net";
import { DEADLINE_MS, within } from "./deadline.ts";

const HOST = "127.0.0.1";

/** A socket that has been passed on. */
export interface Arrival {
  /** The port of the server. */
  readonly port: number;
  /** When, see `performance.now()`. */
  readonly at: number;
}

/** The session of a client over HTTP, which one server has. */
const SESSION = /\/app\/[^/]+\/\d{1,3}\/[\w-]{8,64}(?=\/xhr)/;

/** Ample for a request to the API. */
const MAX_BODY_BYTES = 4_194_304;

/** A balancer; disposal ends it and all connections through it. */
export class Balancer implements AsyncDisposable {
  readonly #server = createServer();
  /** The servers that get new clients. */
  #ports: number[] = [];
  #turn = 0;
  /** By session, the port of its server. */
  readonly #sessions = new Map<string, number>();
  /** The two ends of each socket, and the server's port. */
  readonly #links = new Map<Socket, [upstream: Socket, port: number]>();
  /** Requests that are being answered, and the server's port. */
  readonly #requests = new Map<ServerResponse, number>();
  readonly #checks = new Set<ReturnType<typeof setInterval>>();
  /** Sockets that were passed on so far. */
  readonly arrivals: Arrival[] = [];
  /** Is told of each of them. */
  onArrival: (arrival: Arrival) => void = () => {};

  private constructor(ports: readonly number[]) {
    this.#ports = [...ports];
    this.#server.on(
      "request",
      (incoming, outgoing) =>
        this.#serve(incoming, outgoing).catch(() => outgoing.destroy()),
    );
    this.#server.on(
      "upgrade",
      (incoming, client, head) =>
        this.#upgrade(incoming, client as Socket, head).catch(() =>
          client.destroy()
        ),
    );
  }

  /** Starts one on a free port, in front of servers. */
  static async open(ports: readonly number[] = []): Promise<Balancer> {
    const balancer = new Balancer(ports);
    balancer.#server.listen(0, HOST);
    await once(balancer.#server, "listening");
    return balancer;
  }

  /** Where it listens. */
  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === "string") {
      throw new Error("Cannot tell the port: the balancer does not listen");
    }
    return address.port;
  }

  /** Such as `http://127.0.0.1:8080`. */
  get origin(): string {
    return `http://${HOST}:${this.port}`;
  }

  /** How many sockets there are, through it to a server or to all. */
  links(port?: number): number {
    const ports = [...this.#links.values()].map(([, of]) => of);
    return ports.filter((of) => of === (port ?? of)).length;
  }

  /** Has a server get new clients. */
  add(port: number): void {
    if (!this.#ports.includes(port)) this.#ports.push(port);
  }

  /** Has a server get no new clients. Its sessions go on there. */
  remove(port: number): void {
    this.#ports = this.#ports.filter((one) => one !== port);
  }

  /**
   * Has a server get new clients as long as it says that it is ready, which it is
   * asked again and again. Resolves when it has said so.
   */
  async check(port: number, everyMs = 100): Promise<void> {
    const ready = Promise.withResolvers<void>();
    const timer = setInterval(async () => {
      const answer = await fetch(`http://${HOST}:${port}/readyz`)
        .catch(() => null);
      await answer?.body?.cancel();
      if (!this.#checks.has(timer)) return;
      if (!answer?.ok) return this.remove(port);
      this.add(port);
      ready.resolve();
    }, everyMs);
    this.#checks.add(timer);
    await within(DEADLINE_MS, `ready server on ${port}`, ready.promise);
  }

  /** Cuts the sockets and requests of one server, or all. */
  cut(how: "reset" | "close", port?: number): void {
    for (const [outgoing, of] of this.#requests) {
      if (of === (port ?? of)) outgoing.destroy();
    }
    for (const [client, [upstream, of]] of this.#links) {
      if (of !== (port ?? of)) continue;
      for (const socket of [client, upstream]) {
        if (how === "reset") socket.resetAndDestroy();
        else socket.destroy();
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const timer of this.#checks) clearInterval(timer);
    this.#checks.clear();
    this.cut("close");
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  /** The servers to try, in order: that of the session, then all in turn. */
  #targets(session: string | undefined): number[] {
    const all = this.#ports;
    const from = this.#turn++ % Math.max(1, all.length);
    const ports = [...all.slice(from), ...all.slice(0, from)];
    const own = this.#sessions.get(session ?? "");
    return own === undefined
      ? ports
      : [own, ...ports.filter((port) => port !== own)];
  }

  /** Connects to the first server that answers. */
  async #connect(session?: string): Promise<[Socket, port: number]> {
    for (const port of this.#targets(session)) {
      const upstream = connect({ host: HOST, port, noDelay: true });
      const isOpen = await new Promise<boolean>((resolve) => {
        upstream.once("connect", () => resolve(true));
        upstream.once("error", () => resolve(false));
      });
      if (!isOpen) continue;
      if (session !== undefined) this.#sessions.set(session, port);
      return [upstream, port];
    }
    throw new Error("Cannot connect: no server answers");
  }

  async #serve(
    incoming: IncomingMessage,
    outgoing: ServerResponse,
  ): Promise<void> {
    const [session] = SESSION.exec(incoming.url ?? "") ?? [];
    const { method, headers, url: path } = incoming;
    const body = await read(incoming);
    const [upstream, port] = await this.#connect(session);
    this.#requests.set(outgoing, port);
    const passed = request({
      ...{ method, headers: { ...headers, connection: "close" }, path },
      createConnection: () => upstream,
    }, (answer) => {
      const { connection: _, ...rest } = answer.headers;
      outgoing.writeHead(answer.statusCode ?? 502, rest);
      // The head of a stream must not wait for its first line.
      outgoing.flushHeaders();
      answer.on("error", () => outgoing.destroy());
      answer.pipe(outgoing);
    });
    passed.on("error", () => outgoing.destroy());
    outgoing.on("close", () => {
      this.#requests.delete(outgoing);
      passed.destroy();
    });
    passed.end(body);
  }

  async #upgrade(
    { method, url, headers }: IncomingMessage,
    client: Socket,
    head: Uint8Array,
  ): Promise<void> {
    client.on("error", () => {});
    const [upstream, port] = await this.#connect();
    upstream.on("error", () => {});
    this.#links.set(client, [upstream, port]);
    const lines = Object.entries(headers).map((field) => field.join(": "));
    upstream.write(
      [`${method} ${url} HTTP/1.1`, ...lines, "", ""].join("\r\n"),
    );
    upstream.write(head);
    for (
      const [one, other] of [[client, upstream], [upstream, client]] as const
    ) {
      one.pipe(other);
      one.on("close", (hasFailed) => {
        // What has been written has to arrive: a close says why.
        if (hasFailed) other.destroy();
        else other.end();
        // Nobody else reads what still comes, and its end.
        other.resume();
      });
    }
    client.on("close", () => this.#links.delete(client));
    const arrival = { port, at: performance.now() };
    this.arrivals.push(arrival);
    this.onArrival(arrival);
  }
}

async function read(incoming: IncomingMessage): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of incoming) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) throw new Error("Cannot pass on: too long");
    chunks.push(chunk);
  }
  return new Uint8Array(await new Blob(chunks as BlobPart[]).arrayBuffer());
}
