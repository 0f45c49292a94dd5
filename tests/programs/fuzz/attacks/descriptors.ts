/**
 * Descriptors: attackers take all file descriptors of a standalone server, a process
 * of its own. Clients that are connected miss nothing, and when the attackers have
 * gone, the server takes new clients.
 *
 * @module
 */
import { DEADLINE_MS } from "../../../support/deadline.ts";
import { type Program, start } from "../../../support/program.ts";
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
const CLI = "run -A --no-check cli.ts --port 0 --drain 0 --hostname";

export const DESCRIPTORS: AttackKind = {
  turnMs: 10,
  async begin(stage) {
    const { id, key, secret } = BESIEGED;
    const args = [...CLI.split(" "), HOST, "--app-id", id, "--key", key]
      .concat("--secret", secret, "--max-sockets", "1000");
    const program = await start(args, /ws:\/\/.*?:(\d+)/, {}, OPEN_FILES);
    const port = Number(program.ready[1]);
    const witness = await connect(port);
    // Open from the start: later there may be no descriptor left for it.
    const backend = await RawClient.connect(port);
    const descriptors = new Descriptors(stage, program, port, witness, backend);
    await witness.join("plaza");
    return descriptors;
  },
};

async function connect(port: number): Promise<Socket> {
  const url = `ws://${HOST}:${port}/app/${BESIEGED.key}?protocol=7&client=js`;
  const socket = new Socket(url, BESIEGED);
  await socket.established();
  return socket;
}

class Descriptors implements Attack {
  readonly #stage: Stage;
  readonly #program: Program;
  readonly #port: number;
  readonly #witness: Socket;
  readonly #backend: RawClient;
  readonly #taken: Deno.TcpConn[] = [];
  #count = 0;

  constructor(
    stage: Stage,
    program: Program,
    port: number,
    witness: Socket,
    backend: RawClient,
  ) {
    this.#stage = stage;
    this.#program = program;
    this.#port = port;
    this.#witness = witness;
    this.#backend = backend;
  }

  async act(): Promise<void> {
    const { random, chronicle } = this.#stage;
    const head = `POST /apps/${BESIEGED.id}/events HTTP/1.1\r\nHost: a\r\n`;
    for (let i = 20 + random.below(30); i > 0; i--) {
      const text = random.of([
        "",
        "G",
        head,
        `${head}Content-Length: 9\r\n\r\n{`,
      ]);
      chronicle.note(`a connection is taken, with ${text.length} bytes`);
      await this.#take(text);
    }
    const left = this.#taken.splice(0, random.below(10));
    chronicle.note(`${left.length} connections are let go`);
    for (const one of left) one.close();
    await this.#exchange();
  }

  /** Takes one connection; there may be nobody to accept it. */
  async #take(text: string): Promise<void> {
    try {
      const one = await Deno.connect({ hostname: HOST, port: this.#port });
      this.#taken.push(one);
      await one.write(new TextEncoder().encode(text));
    } catch (error) {
      const isRefused = error instanceof Deno.errors.ConnectionRefused ||
        error instanceof Deno.errors.ConnectionReset ||
        error instanceof Deno.errors.BrokenPipe;
      if (!isRefused) throw error;
    }
  }

  /** An event that a backend sends reaches a client, both of them connected before. */
  async #exchange(): Promise<void> {
    const { chronicle } = this.#stage;
    const data = `${this.#count++}`;
    const path = `/apps/${BESIEGED.id}/events`;
    const event = { name: "tick", channel: "plaza", data };
    const { params, body } = sign(BESIEGED, "POST", path, { body: event });
    const query = new URLSearchParams(params);
    await this.#backend.write(
      `POST ${path}?${query} HTTP/1.1\r\nHost: a\r\n` +
        `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`,
    );
    await this.#backend.write(body);
    const head = await this.#backend.readHead();
    chronicle.sure(/^HTTP\/1.1 200 /.test(head), () => `Not 200: ${head}`);
    await this.#backend.readBody(head);
    const frame = await this.#witness.next("tick");
    chronicle.equal(dataOf(frame), Number(data), "what the witness sees");
  }

  async end(): Promise<void> {
    for (const one of this.#taken.splice(0)) one.close();
    const until = performance.now() + DEADLINE_MS;
    for (;;) {
      try {
        const late = await connect(this.#port);
        await late.close();
        break;
      } catch (error) {
        if (performance.now() > until) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await this.#exchange();
    await this.#witness.close();
    this.#backend.drop();
    await this.#program[Symbol.asyncDispose]();
  }
}
