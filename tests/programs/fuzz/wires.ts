/**
 * The connections of the fuzzer: the runtime's own WebSocket, or a TCP connection
 * that writes frames by hand, and can break them up and break off.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import {
  type Client,
  parseFrame,
  type TestServer,
} from "../../support/server.ts";
import {
  type App,
  type Frame,
  type RawClient,
  wireFrame,
} from "../../support/wire.ts";

export interface Wire {
  readonly socketId: string;
  send(text: string): void;
  sendBinary(): void;
  /** The next frame, or null once there are no more. */
  next(): Promise<Frame | null>;
  /** Ends it in good order. */
  close(): Promise<unknown>;
  /** The code that the server closed with. */
  code(): Promise<number | null>;
}

export class SocketWire implements Wire {
  readonly socketId: string;
  readonly #client: Client;
  #isClosed = false;

  constructor(client: Client) {
    this.#client = client;
    this.socketId = client.socketId;
    client.closed.then(() => this.#isClosed = true);
  }

  send(text: string): void {
    this.#client.send(text);
  }

  sendBinary(): void {
    this.#client.send(new Uint8Array([1, 2, 3]));
  }

  async next(): Promise<Frame | null> {
    try {
      return await this.#client.next();
    } catch (error) {
      const isEnd = error instanceof Error &&
        error.message.startsWith("Cannot take") && this.#isClosed;
      if (isEnd) return null;
      throw error;
    }
  }

  close(): Promise<unknown> {
    return this.#client.close();
  }

  async code(): Promise<number> {
    return (await this.#client.closed).code;
  }
}

export class RawWire implements Wire {
  readonly socketId: string;
  readonly #raw: RawClient;
  /** Into how many fragments to break the next text. */
  fragments = 1;
  readonly #unsent: number[] = [];
  #code: number | null = null;

  private constructor(raw: RawClient, socketId: string) {
    this.#raw = raw;
    this.socketId = socketId;
  }

  static async open(server: TestServer, app: App): Promise<RawWire> {
    const raw = await server.raw();
    const path = `${new URL(server.url).pathname.replace(/\/$/, "")}/app/`;
    const head = await raw.upgrade(`${path}${app.key}?protocol=7&client=js`);
    assert(head.startsWith("HTTP/1.1 101 "), head);
    const frame = await raw.readText();
    assertEquals(frame.event, "pusher:connection_established");
    return new RawWire(raw, JSON.parse(String(frame.data)).socket_id);
  }

  send(text: string): void {
    const bytes = new TextEncoder().encode(text);
    const count = Math.min(this.fragments, bytes.length || 1);
    this.fragments = 1;
    for (let i = 0; i < count; i++) {
      const part = bytes.subarray(
        Math.floor(i * bytes.length / count),
        Math.floor((i + 1) * bytes.length / count),
      );
      // The first one says text, the last one that it is the last.
      const first = (i === 0 ? 1 : 0) | (i === count - 1 ? 0x80 : 0);
      this.#put(wireFrame(part, { first }));
    }
  }

  /** Small writes one by one would wait for each other in the network. */
  #put(bytes: Uint8Array): void {
    this.#unsent.push(...bytes);
  }

  /** False when the server has hung up. */
  #flush(): Promise<boolean> {
    const bytes = Uint8Array.from(this.#unsent.splice(0));
    return this.#raw.write(bytes);
  }

  sendBinary(): void {
    this.#put(wireFrame(new Uint8Array([1]), { first: 0x82 }));
  }

  async next(): Promise<Frame | null> {
    if (this.#unsent.length > 0) await this.#flush();
    for (;;) {
      const frame = await this.#raw.readFrame();
      if (frame === null) {
        this.#raw.drop();
        return null;
      }
      if (frame.opcode === 1) {
        return parseFrame(new TextDecoder().decode(frame.body));
      }
      if (frame.opcode !== 8) continue;
      const [high = 0, low = 0] = frame.body;
      this.#code = high * 256 + low;
      // It is answered, as the protocol of sockets asks for.
      await this.#raw.write(wireFrame(frame.body, { first: 0x88 }));
      this.#raw.drop();
      return null;
    }
  }

  async close(): Promise<void> {
    const body = new Uint8Array([3, 232]); // 1000
    this.#put(wireFrame(body, { first: 0x88 }));
    await this.#flush();
    // What was on its way is of no interest any more.
    for (let frame; (frame = await this.#raw.readFrame()) !== null;) {
      if (frame.opcode === 8) break;
    }
    this.#raw.drop();
  }

  code(): Promise<number | null> {
    return Promise.resolve(this.#code);
  }

  /** Breaks off, after some bytes that may be no frame. */
  async breakOff(bytes: Uint8Array): Promise<void> {
    this.#put(bytes);
    await this.#flush();
    this.#raw.drop();
  }
}
