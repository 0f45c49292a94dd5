/**
 * HTTP streaming and polling: a server whose cascade ends with them, clients that
 * speak them line by line, and a server that does nothing but be driven.
 *
 * @module
 */
import type {
  Clock,
  Handler,
  Peer,
  PusherOptions,
  Transport,
} from "@glitz/pusher";
import {
  fallback,
  type FallbackOptions,
  type FallbackServer,
} from "@glitz/pusher/fallback";
import { assert, assertEquals } from "@std/assert";
import { GLOBAL_CLOCK } from "./clock.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { APP, cleanUp, parseFrame, serve, type TestServer } from "./server.ts";
import { channelAuth, dataOf, type Frame } from "./wire.ts";

/** Starts a server that clients reach over HTTP, too. */
export function serveHttp(
  options: PusherOptions = {},
  fallbackOptions?: FallbackOptions,
  before: Handler[] = [],
): TestServer {
  // The fallback needs the server, and the server its handlers.
  let handler: Handler = () => null;
  const late: Handler = (request, info) => handler(request, info);
  const server = serve(options, { before, after: [late] });
  handler = fallback(server.pusher, fallbackOptions);
  return server;
}

// ---- Raw clients ------------------------------------------------------------

export const STREAM_UNITS = 262_144;
export const POLL_UNITS = 65_536;
export const PRELUDE = "h".repeat(2048);
export const KINDS = ["xhr_streaming", "xhr"] as const;
export type Kind = typeof KINDS[number];

/** Answers requests: over the network, or a handler itself. */
type Fetch = (request: Request) => Response | Promise<Response>;

/** Numbers that make each session another one. */
let sessions = 0;

export interface ClientInit {
  key?: string;
  /** What precedes `/app/…`. */
  path?: string;
  query?: string;
  headers?: Record<string, string>;
  /** @default {another one each time} */
  session?: string;
}

/** A client that speaks the transport line by line. */
export class HttpClient implements AsyncDisposable {
  socketId = "";
  /** Units of the current answer so far. */
  units = 0;
  readonly #fetch: Fetch;
  readonly #base: string;
  readonly #query: string;
  readonly #headers: Record<string, string>;
  #reader: ReadableStreamDefaultReader<string> | null = null;
  #text = "";
  readonly #frames: Frame[] = [];

  constructor(
    fetch: Fetch,
    origin: string,
    {
      key = APP.key,
      path = "/pusher",
      query = "?protocol=7",
      headers = {},
      session = `7/session-${++sessions}`,
    }: ClientInit = {},
  ) {
    this.#fetch = fetch;
    this.#base = `${origin}${path}/app/${key}/${session}`;
    this.#query = query;
    this.#headers = headers;
  }

  /** Asks for frames, in a request that may have a number. */
  async receive(kind: Kind, number?: number | string): Promise<Response> {
    this.#reader = null;
    this.#text = "";
    this.units = 0;
    const query = this.#query + (number === undefined ? "" : `&n=${number}`);
    const response = await this.#fetch(
      new Request(`${this.#base}/${kind}${query}`, {
        method: "POST",
        headers: this.#headers,
      }),
    );
    assertEquals(response.status, 200);
    this.#reader = response.body!.pipeThrough(new TextDecoderStream())
      .getReader();
    return response;
  }

  /** The next line of the answer; null at its end. */
  async line(): Promise<string | null> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return line;
      }
      const { value, done } = await this.#within(this.#reader!.read());
      if (done) return null;
      this.#text += value;
      this.units += value.length;
    }
  }

  /** Without a network, where time may be faked, what comes comes at once. */
  #within<T>(promise: Promise<T>): Promise<T> {
    return this.#fetch === fetch
      ? within(DEADLINE_MS, "line", promise)
      : promise;
  }

  /** Whether no line has begun after the last one that was taken. */
  get isAtEnd(): boolean {
    return this.#text === "";
  }

  /** All further lines of the answer, which has to end. */
  async rest(): Promise<string[]> {
    const lines: string[] = [];
    for (let line; (line = await this.line()) !== null;) lines.push(line);
    return lines;
  }

  /** The next frame of the answer. */
  async frame(event?: string): Promise<Frame> {
    while (this.#frames.length === 0) {
      const line = await this.line();
      const isFrames = line !== null && line.startsWith("a[");
      assert(isFrames, `no frames in ${line?.slice(0, 80)}`);
      for (const text of JSON.parse(line.slice(1))) {
        this.#frames.push(parseFrame(text));
      }
    }
    // The loop has seen to it.
    const frame = this.#frames.shift()!;
    if (event !== undefined) assertEquals(frame.event, event);
    return frame;
  }

  /** Opens the session, and takes what establishes it. */
  async open(kind: Kind): Promise<this> {
    await this.receive(kind);
    if (kind === "xhr_streaming") assertEquals(await this.line(), PRELUDE);
    assertEquals(await this.line(), "o");
    const frame = await this.frame("pusher:connection_established");
    this.socketId = dataOf(frame).socket_id;
    if (kind === "xhr") assertEquals(await this.rest(), []);
    return this;
  }

  /** Sends a body as it is. */
  async post(
    body: BodyInit | null,
    init: RequestInit = {},
    number?: number | string,
  ): Promise<Response> {
    const query = number === undefined ? "" : `?n=${number}`;
    const url = `${this.#base}/xhr_send${query}`;
    return await this.#fetch(
      new Request(url, { method: "POST", body, ...init }),
    );
  }

  /** Sends frames in one request, which has to be taken. */
  async send(...frames: object[]): Promise<void> {
    const texts = frames.map((frame) => JSON.stringify(frame));
    const response = await this.post(JSON.stringify(texts));
    assertEquals([response.status, await response.text()], [204, ""]);
  }

  /** Sends an empty request. */
  async beat(): Promise<void> {
    await this.send();
  }

  /** Asks for a channel, signed where that is needed. */
  async subscribe(channel: string, member?: object): Promise<void> {
    const channelData = member && JSON.stringify(member);
    const auth = /^(private|presence)-/.test(channel)
      ? channelAuth(APP, this.socketId, channel, channelData)
      : "";
    await this.send({
      event: "pusher:subscribe",
      data: {
        channel,
        auth,
        ...(channelData !== undefined && { channel_data: channelData }),
      },
    });
  }

  /** Subscribes to a channel, in the answer at hand. */
  async join(channel: string, member?: object): Promise<void> {
    await this.subscribe(channel, member);
    await this.frame("pusher_internal:subscription_succeeded");
  }

  /** Breaks the answer off. */
  async abort(): Promise<void> {
    await this.#reader?.cancel();
    this.#reader = null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(() => this.abort());
  }
}

/** A client over the network. */
export function clientOf(
  { port }: Pick<TestServer, "port">,
  init?: ClientInit,
): HttpClient {
  return new HttpClient(fetch, `http://127.0.0.1:${port}`, init);
}

/** A client whose requests are handed to a handler, without a network. */
export function clientIn(handler: Fetch, init?: ClientInit): HttpClient {
  return new HttpClient(handler, "http://localhost", init);
}

/** A server that does nothing, to see and drive what is behind it. */
export class Puppet implements FallbackServer {
  readonly clock: Clock = GLOBAL_CLOCK;
  readonly path: string = "";
  transport!: Transport;
  readonly received: unknown[] = [];
  /** How often `heard` was called, which says that the client is alive. */
  heards = 0;
  readonly closes: number[] = [];
  readonly opened: [key: string, url: string][] = [];
  #onClosed = () => {};

  open(transport: Transport, key: string, { url }: Request): Peer {
    this.transport = transport;
    this.opened.push([key, url]);
    return {
      receive: (frame) => this.received.push(frame),
      heard: () => void this.heards++,
      closed: (code) => {
        this.closes.push(code);
        this.#onClosed();
      },
    };
  }

  /** Resolves when the transport has ended. */
  async closed(): Promise<number[]> {
    if (this.closes.length === 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#onClosed = resolve;
      await within(DEADLINE_MS, "end", promise);
    }
    return this.closes;
  }

  /** Ends what is still open. */
  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(async () => {
      this.transport?.close(1000, "");
      await this.closed();
    });
  }
}

/** Opens a session with a puppet, which sends nothing by itself. */
export async function openPuppet(kind: Kind, options: FallbackOptions = {}) {
  const puppet = new Puppet();
  const client = clientIn(fallback(puppet, options));
  await client.receive(kind);
  if (kind === "xhr_streaming") assertEquals(await client.line(), PRELUDE);
  assertEquals(await client.line(), "o");
  return { puppet, client };
}
