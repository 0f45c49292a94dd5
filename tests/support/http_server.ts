/**
 * A server for the client's HTTP transports whose responses a test writes, line by
 * line.
 *
 * @module
 */
import type { Frame } from "@glitz/pusher/client";
import { Server } from "./client.ts";
import { Queue } from "./queue.ts";

/** Padding at the start of a streaming response, as of stock servers. */
export const PRELUDE = `${"h".repeat(2048)}\n`;

/** One request over HTTP; the test writes the response. */
export class Exchange {
  readonly request: Request;
  readonly body: string;
  readonly response: Promise<Response>;
  /** Resolves when the client cancels a response that has not ended. */
  readonly givenUp: Promise<void>;
  #respond!: (response: Response) => void;
  #giveUp!: () => void;
  #stream: ReadableStreamDefaultController<Uint8Array> | undefined;
  #isOver = false;

  constructor(request: Request, body: string) {
    this.request = request;
    this.body = body;
    this.response = new Promise((resolve) => this.#respond = resolve);
    this.givenUp = new Promise((resolve) => this.#giveUp = resolve);
    // The client may be gone before the runtime has begun to send the response.
    request.signal.addEventListener("abort", () => {
      if (!this.#isOver) this.#giveUp();
    });
  }

  get url(): URL {
    return new URL(this.request.url);
  }

  /** The query fields that distinguish requests. */
  get number(): string {
    const { searchParams } = this.url;
    return `${searchParams.get("t")} ${searchParams.get("n")}`;
  }

  /** The query without those fields. */
  get query(): string {
    const { searchParams } = this.url;
    for (const name of ["t", "n"]) searchParams.delete(name);
    return String(searchParams);
  }

  /** The frames in the request. */
  get frames(): Frame[] {
    return JSON.parse(this.body).map((text: string) => JSON.parse(text));
  }

  /** Sends a complete response. */
  answer(text: string | null, status = 200): void {
    this.#isOver = true;
    this.#respond(new Response(text, { status }));
  }

  /** Writes to the response, which begins with the first call. */
  write(text: string | Uint8Array): void {
    if (!this.#stream) {
      const body = new ReadableStream<Uint8Array>({
        start: (controller) => {
          this.#stream = controller;
        },
        cancel: () => {
          this.#isOver = true;
          this.#giveUp();
        },
      });
      this.#respond(new Response(body));
    }
    const bytes = typeof text === "string"
      ? new TextEncoder().encode(text)
      : text;
    this.#stream?.enqueue(bytes);
  }

  /** Ends the response. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.#stream) this.#stream.close();
    else this.#respond(new Response(null, { status: 204 }));
  }
}

/** A server for the HTTP transports; it accepts WebSockets unless it is down. */
export class HttpServer implements AsyncDisposable {
  readonly server = new Server();
  readonly #exchanges: Exchange[] = [];
  readonly #receiving = new Queue<Exchange>();
  readonly #sending = new Queue<Exchange>();

  constructor() {
    this.server.onRequest = async (request) => {
      const exchange = new Exchange(request, await request.text());
      this.#exchanges.push(exchange);
      const isSend = exchange.url.pathname.endsWith("/xhr_send");
      (isSend ? this.#sending : this.#receiving).push(exchange);
      return await exchange.response;
    };
  }

  get port(): number {
    return this.server.port;
  }

  get wsUrl(): string {
    return `ws://127.0.0.1:${this.port}/x/app/a%20b?protocol=7&batch=1`;
  }

  /** The next request that receives frames. */
  receive(): Promise<Exchange> {
    return this.#receiving.next("request for frames");
  }

  /** The next request that sends frames. */
  sent(): Promise<Exchange> {
    return this.#sending.next("request with frames");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const exchange of this.#exchanges) exchange.end();
    await this.server[Symbol.asyncDispose]();
  }
}

/** Frames as a line of a response. */
export const line = (...frames: string[]) => `a${JSON.stringify(frames)}\n`;

/** The greeting of the server. */
export const greeting = (socket_id: string, extensions?: string[]) =>
  JSON.stringify({
    event: "pusher:connection_established",
    data: { socket_id, activity_timeout: 120, extensions },
  });
