/**
 * Descriptors: attackers take all file descriptors of a standalone server, a process
 * of its own. Clients that are connected miss nothing, and when the attackers have
 * gone, the server takes new clients.
 *
 * How many connections the server accepts depends on how fast it is, and so does how
 * long it listens to nobody. What the attackers do depends on neither.
 *
 * @module
 */
import { DEADLINE_MS } from "../../../support/deadline.ts";
import { freePort } from "../../../support/ports.ts";
import { type Program, start } from "../../../support/program.ts";
import { NotHeld } from "../../../support/queue.ts";
import { dataOf, RawClient, sign, Socket } from "../../../support/wire.ts";
import {
  type Attack,
  type AttackKind,
  BESIEGED,
  type Stage,
} from "../siege.ts";

/** How many files the server may open; the runtime needs about 30. */
const OPEN_FILES = 120;
const HOST = "127.0.0.1";
const CLI = "run -A --no-check cli.ts --drain 0 --max-sockets 1000";

export const DESCRIPTORS: AttackKind = {
  turnMs: 10,
  async begin(stage) {
    const { id, key, secret } = BESIEGED;
    const port = freePort();
    const args = [...CLI.split(" "), "--hostname", HOST, "--port", `${port}`]
      .concat("--app-id", id, "--key", key, "--secret", secret);
    const program = stage.scope.use(
      await start(args, /Pusher server on /, {}, OPEN_FILES),
    );
    const witness = await connect(port);
    stage.scope.defer(async () => void await witness.close());
    await witness.join("plaza");
    // Open from the start: later there may be no descriptor left for it.
    const backend = stage.scope.use(await RawClient.connect(port));
    return new Descriptors(stage, { program, port, witness, backend });
  },
};

async function connect(port: number): Promise<Socket> {
  const url = `ws://${HOST}:${port}/app/${BESIEGED.key}?protocol=7&client=js`;
  const socket = new Socket(url, BESIEGED);
  try {
    await socket.established();
    return socket;
  } catch (error) {
    await socket.close();
    throw error;
  }
}

/** A server, and those who are connected before it has no descriptor left. */
interface Standalone {
  readonly program: Program;
  readonly port: number;
  readonly witness: Socket;
  readonly backend: RawClient;
}

class Descriptors implements Attack {
  readonly #stage: Stage;
  readonly #server: Standalone;
  /** Connections that the attackers hold, whether they are accepted or not. */
  readonly #taken: RawClient[] = [];
  #events = 0;

  constructor(stage: Stage, server: Standalone) {
    this.#stage = stage;
    this.#server = server;
    stage.scope.defer(() => this.#letGo(Infinity));
  }

  async act(): Promise<void> {
    const { random, chronicle } = this.#stage;
    // The first time they take all.
    const least = this.#events === 0 ? OPEN_FILES : 5;
    const head = `POST /apps/${BESIEGED.id}/events HTTP/1.1\r\nHost: a\r\n`;
    const body = `${head}Content-Length: 9\r\n\r\n{`;
    for (let i = least + random.below(15); i > 0; i--) {
      const text = random.of(["", "G", head, body]);
      chronicle.note(`a connection is taken, with ${text.length} bytes`);
      await this.#take(text);
    }
    const count = random.below(10);
    chronicle.note(`${count} connections are let go, if there are so many`);
    this.#letGo(count);
    await this.#exchange();
  }

  /** Takes one connection; there may be nobody to accept it. */
  async #take(text: string): Promise<void> {
    try {
      const raw = await RawClient.connect(this.#server.port);
      this.#taken.push(raw);
      await raw.write(text);
    } catch (error) {
      // Not connected: it was accepted, and reset at once.
      const isRefused = error instanceof Deno.errors.ConnectionRefused ||
        error instanceof Deno.errors.ConnectionReset ||
        error instanceof Deno.errors.NotConnected;
      if (!isRefused) throw error;
    }
  }

  #letGo(count: number): void {
    for (const raw of this.#taken.splice(0, count)) raw.drop();
  }

  /** An event that a backend sends reaches a client, both of them connected before. */
  async #exchange(): Promise<void> {
    const { chronicle } = this.#stage;
    const { backend, witness } = this.#server;
    const data = `${this.#events++}`;
    const path = `/apps/${BESIEGED.id}/events`;
    const event = { name: "tick", channel: "plaza", data };
    const { params, body } = sign(BESIEGED, "POST", path, { body: event });
    const query = new URLSearchParams(params);
    await backend.write(
      `POST ${path}?${query} HTTP/1.1\r\nHost: a\r\n` +
        `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`,
    );
    await backend.write(body);
    const head = await backend.readHead();
    chronicle.sure(/^HTTP\/1.1 200 /.test(head), () => `Not 200: ${head}`);
    await backend.readBody(head);
    const frame = await witness.next("tick");
    chronicle.equal(dataOf(frame), Number(data), "what the witness sees");
  }

  async end(): Promise<void> {
    this.#letGo(Infinity);
    const late = await this.#connectAgain();
    await late.close();
    await this.#exchange();
    const printed = await this.#server.program.stop();
    this.#stage.chronicle.sure(
      /accepting connections.*open files/.test(printed),
      () => `The server had descriptors left, and printed: ${printed}`,
    );
  }

  /** Tries until the server listens again, which only another attempt shows. */
  async #connectAgain(): Promise<Socket> {
    const until = performance.now() + DEADLINE_MS;
    for (;;) {
      try {
        return await connect(this.#server.port);
      } catch (error) {
        const isRefused = error instanceof NotHeld;
        if (!isRefused || performance.now() > until) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
