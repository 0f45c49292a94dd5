/**
 * A server with a debug console, in memory, on a clock that a test turns.
 *
 * @module
 */
import { Pusher, type PusherOptions, type Transport } from "@glitz/pusher";
import {
  type ConsoleOptions,
  type ConsoleServer,
  type DebugConsole,
  debugConsole,
} from "@glitz/pusher/console";
import { assert, assertEquals, assertFalse } from "@std/assert";
import { ManualClock, turn } from "./clock.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { APP } from "./server.ts";

/** Where requests come from. */
export const HERE = "127.0.0.1";

/** How a request is sent. */
export interface Init {
  method?: string;
  body?: unknown;
  headers?: Record<string, string>;
  /** Where it comes from; null for a handler that is not told. */
  from?: string | null;
}

/** An answer, read. */
export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  // deno-lint-ignore no-explicit-any -- each test knows what it asked for
  body: any;
}

/** A server with a console, in memory, on a clock that the test turns. */
export class Stage implements AsyncDisposable {
  readonly clock: ManualClock;
  readonly pusher: Pusher;
  readonly console: DebugConsole;
  /** Listeners that the console has at this moment. */
  listeners = 0;

  /** @param app The app that the console is of, without which it is of all. */
  constructor(
    options: ConsoleOptions = {},
    settings: PusherOptions = {},
    app?: string,
  ) {
    const clock = settings.clock;
    this.clock = clock instanceof ManualClock ? clock : new ManualClock();
    const own = settings.apps === undefined
      ? { appId: APP.id, key: APP.key, secret: APP.secret }
      : {};
    const pusher = new Pusher({ ...own, ...settings, clock: this.clock });
    this.pusher = pusher;
    const seen = app === undefined ? pusher : pusher.app(app);
    const server: ConsoleServer = {
      path: pusher.path,
      clock: this.clock,
      inspect: () => seen.inspect(),
      stats: () => pusher.stats(),
      channels: (filter) => pusher.channels(filter),
      channel: (name, params) => pusher.channel(name, params),
      users: (name) => pusher.users(name),
      trigger: (...given) => pusher.trigger(...given),
      terminateUserConnections: (id) => pusher.terminateUserConnections(id),
      app: (id) => pusher.app(id),
      meter: pusher.meter,
      on: (name, listener) => {
        this.listeners++;
        const unlisten = seen.on(name, listener);
        return () => {
          this.listeners--;
          unlisten();
        };
      },
    };
    this.console = debugConsole(server, options);
  }

  async send(path: string, init: Init = {}): Promise<Response> {
    const { method = "GET", body, headers, from = HERE } = init;
    const request = new Request(`http://localhost${path}`, {
      method,
      headers: {
        host: "localhost",
        ...(body !== undefined && { "content-type": "application/json" }),
        ...headers,
      },
      body: body === undefined
        ? null
        : typeof body === "string"
        ? body
        : JSON.stringify(body),
    });
    if (from === null) return await this.console(request);
    const remoteAddr = { transport: "tcp", hostname: from, port: 1 } as const;
    const completed = Promise.resolve();
    return await this.console(request, { remoteAddr, completed });
  }

  async ask(path: string, init: Init = {}): Promise<Answer> {
    const response = await this.send(path, init);
    const { status, headers } = response;
    const text = await response.text();
    assertFalse(text.includes(APP.secret), text);
    const isJson = headers.get("content-type")?.includes("json");
    return { status, headers, text, body: isJson ? JSON.parse(text) : null };
  }

  get(name: string, init: Init = {}): Promise<Answer> {
    return this.ask(`/console/api/${name}`, init);
  }

  post(name: string, body: unknown, init: Init = {}): Promise<Answer> {
    return this.get(name, { method: "POST", body, ...init });
  }

  /** Opens a page's stream. */
  async open(query = ""): Promise<Stream> {
    const response = await this.send(`/console/api/stream?${query}`);
    assertEquals(response.status, 200);
    const stream = new Stream(response);
    await stream.next("hello");
    return stream;
  }

  /** Lets the next update come. */
  async pass(ms = 500): Promise<void> {
    await turn();
    this.clock.pass(ms);
    await turn();
  }

  /** Connects a client in memory. */
  connect(query = "", key = APP.key): MemoryClient {
    return new MemoryClient(this.pusher, key, query);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.console.close();
    const closed = this.pusher.close();
    this.clock.pass(10_000);
    await closed;
    assertEquals(this.listeners, 0);
  }
}

/** A client of which only the frames matter. */
export class MemoryClient implements Transport {
  bufferedAmount = 0;
  closing: number | undefined;
  readonly socketId: string;
  readonly #peer;
  readonly #pusher: Pusher;

  constructor(pusher: Pusher, key: string, query: string) {
    this.#pusher = pusher;
    const url = `http://localhost/app/${key}?protocol=7${query}`;
    this.#peer = pusher.open(this, key, new Request(url));
    const all = [...pusher.inspect().connections()];
    this.socketId = all.at(-1)?.socketId ?? "";
  }

  send(): void {}

  close(code: number): void {
    this.closing = code;
    this.#peer.closed(code);
  }

  leave(): void {
    this.#peer.closed(1000);
  }

  emit(event: string, data: object, channel?: string): void {
    this.#peer.receive(JSON.stringify({ event, data, channel }));
  }

  subscribe(channel: string, userId?: string): void {
    const member = userId === undefined ? undefined : { user_id: userId };
    const auth = /^(private|presence)-/.test(channel)
      ? this.#pusher.authorizeChannel(this.socketId, channel, member)
      : {};
    this.emit("pusher:subscribe", { channel, ...auth });
  }

  signIn(id: string): void {
    const auth = this.#pusher.authenticateUser(this.socketId, { id });
    this.emit("pusher:signin", auth);
  }
}

/** What a page reads. */
export class Stream {
  readonly #reader: ReadableStreamDefaultReader<string>;
  #text = "";

  constructor({ body }: Response) {
    assert(body !== null);
    this.#reader = body.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** The next update of a name; others are passed over. */
  // deno-lint-ignore no-explicit-any -- each test knows what it waits for
  async next(name: string): Promise<any> {
    for (;;) {
      const [event, rest] = this.#text.split("\n\n", 2);
      if (rest !== undefined) {
        this.#text = this.#text.slice((event?.length ?? 0) + 2);
        const [, found, data = ""] =
          /^event: (\w+)\ndata: (.*)$/s.exec(event ?? "") ?? [];
        if (found === name) return JSON.parse(data);
        continue;
      }
      const read = this.#reader.read();
      const { value, done } = await within(DEADLINE_MS, name, read);
      if (done) throw new Error(`Cannot read "${name}": the stream has ended`);
      this.#text += value;
    }
  }

  /** Whether the server has ended it. */
  async ended(): Promise<boolean> {
    for (;;) {
      const { done } = await within(DEADLINE_MS, "end", this.#reader.read());
      if (done) return true;
    }
  }

  async close(): Promise<void> {
    await this.#reader.cancel();
  }
}
