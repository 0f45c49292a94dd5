/**
 * Fixtures for tests of the client: a fake server that a test scripts, over real
 * sockets, our own server, and clients of both.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import {
  type Handler,
  Pusher as RealPusher,
  type PusherOptions as RealOptions,
} from "@glitz/pusher";
import {
  type Channel,
  type Emitter,
  type Frame,
  Pusher,
  type PusherOptions,
  type SubscribeOptions,
} from "@glitz/pusher/client";
import { fallback } from "../../ext/fallback.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { Queue } from "./queue.ts";

/** The server's end of one socket. */
export class Peer {
  readonly #frames = new Queue<Frame>();
  readonly #socket: WebSocket;
  readonly request: Request;
  readonly closed: Promise<CloseEvent>;

  constructor(socket: WebSocket, request: Request) {
    this.#socket = socket;
    this.request = request;
    socket.onmessage = ({ data }) => this.#frames.push(JSON.parse(data));
    this.closed = new Promise((resolve) => {
      socket.onclose = resolve;
    });
  }

  /** The next frame of the client. */
  next(): Promise<Frame> {
    return this.#frames.next("frame");
  }

  send(event: string, data?: unknown, rest?: Partial<Frame>): void {
    const text = data === undefined ? undefined : JSON.stringify(data);
    this.sendText(JSON.stringify({ event, data: text, ...rest }));
  }

  sendText(text: string): void {
    this.#socket.send(text);
  }

  establish(
    socket_id = "1.1",
    activity_timeout = 120,
    extensions?: string[],
  ): void {
    const data = { socket_id, activity_timeout, extensions };
    this.send("pusher:connection_established", data);
  }

  close(code: number, reason = ""): void {
    this.#socket.close(code, reason);
  }

  /** Sends a ping; returns the frames that the client sent before its pong. */
  async framesUntilPong(): Promise<Frame[]> {
    this.send("pusher:ping", {});
    const frames = [];
    for (;;) {
      const frame = await this.next();
      if (frame.event === "pusher:pong") return frames;
      frames.push(frame);
    }
  }
}

/** A server on a port of its own. */
export class Server implements AsyncDisposable {
  readonly #peers = new Queue<Peer>();
  readonly #http: Deno.HttpServer<Deno.NetAddr>;
  /** Answers a request that is no WebSocket. */
  onRequest: (request: Request) => Response | Promise<Response> = () =>
    new Response("not found", { status: 404 });
  /** Whether to refuse WebSockets. */
  isDown = false;
  /** Extensions that the greeting grants. */
  extensions: string[] | undefined;

  constructor() {
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request) => this.#handle(request),
    );
  }

  get port(): number {
    return this.#http.addr.port;
  }

  url(path: string): string {
    return `http://127.0.0.1:${this.port}${path}`;
  }

  /** The next socket, open. */
  accept(): Promise<Peer> {
    return this.#peers.next("connection");
  }

  /** The next socket, greeted. */
  async establish(socketId?: string): Promise<Peer> {
    const peer = await this.accept();
    peer.establish(socketId, 120, this.extensions);
    return peer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#http.shutdown();
  }

  #handle(request: Request): Response | Promise<Response> {
    if (request.headers.get("upgrade") !== "websocket") {
      return this.onRequest(request);
    }
    if (this.isDown) return new Response("down", { status: 503 });
    const { socket, response } = Deno.upgradeWebSocket(request, {
      idleTimeout: 0,
    });
    const peer = new Peer(socket, request);
    socket.onopen = () => this.#peers.push(peer);
    return response;
  }
}

/** A client of a server; disposal disconnects it. */
export class Client implements Disposable {
  readonly pusher: Pusher;
  /** Events that the connection emitted, except messages. */
  readonly events: [event: string, data: unknown][] = [];

  constructor(server: { port: number }, options: PusherOptions = {}) {
    this.pusher = new Pusher("app-key", optionsFor(server, options));
    this.pusher.connection.bind_global((event, data) => {
      if (event !== "message") this.events.push([event, data]);
    });
  }

  /** Waits for the next event of the connection. */
  heard(event: string): Promise<unknown> {
    return heard(this.pusher.connection, event);
  }

  /** The data of all events of the connection with a name. */
  dataOf(event: string): unknown[] {
    return this.events.filter(([name]) => name === event)
      .map(([, data]) => data);
  }

  [Symbol.dispose](): void {
    this.pusher.disconnect();
  }
}

export function optionsFor(
  { port }: { port: number },
  options: PusherOptions = {},
): PusherOptions {
  return { wsHost: "127.0.0.1", wsPort: port, forceTLS: false, ...options };
}

/** Waits for the next event of an emitter. */
// deno-lint-ignore no-explicit-any -- tests know what they wait for
export function heard(emitter: Emitter<any>, event: string): Promise<any> {
  const promise = within(
    DEADLINE_MS,
    event,
    new Promise((resolve) => emitter.bind(event, resolve)),
  );
  // A test that fails earlier never awaits the promise.
  promise.catch(() => {});
  return promise;
}

/** Connects a client; the server greets it. */
export async function open(
  server: Server,
  options?: PusherOptions,
): Promise<{ client: Client; peer: Peer } & Disposable> {
  const client = new Client(server, options);
  const connected = client.heard("connected");
  const peer = await server.establish();
  await connected;
  return { client, peer, [Symbol.dispose]: () => client[Symbol.dispose]() };
}

/** Subscribes; the server confirms it. */
export async function join(
  { client, peer }: { client: Client; peer: Peer },
  name: string,
  data: unknown = {},
): Promise<Channel> {
  const channel = client.pusher.subscribe(name);
  const succeeded = heard(channel, "pusher:subscription_succeeded");
  await peer.next();
  peer.send("pusher_internal:subscription_succeeded", data, { channel: name });
  await succeeded;
  return channel;
}

/** Waits until the client has handled all frames, and has sent none but a pong. */
export async function settled(peer: Peer): Promise<void> {
  assertEquals(await peer.framesUntilPong(), []);
}

/** Subscribes at our own server, and waits for the confirmation. */
export async function joinReal(
  { pusher }: Client,
  name: string,
  options?: SubscribeOptions,
): Promise<Channel> {
  const channel = pusher.subscribe(name, options);
  await heard(channel, "pusher:subscription_succeeded");
  return channel;
}

/** Collects errors thrown by handlers, which would end the program. */
export class Uncaught implements Disposable {
  readonly errors: unknown[] = [];
  constructor() {
    globalThis.addEventListener("error", this.#handle);
  }
  readonly #handle = (event: ErrorEvent): void => {
    event.preventDefault();
    this.errors.push(event.error);
  };
  [Symbol.dispose](): void {
    globalThis.removeEventListener("error", this.#handle);
  }
}

/** Ends the connection; returns the next connection, greeted. */
export async function reconnect(
  server: Server,
  { client, peer }: { client: Client; peer: Peer },
  socketId = "2.2",
): Promise<Peer> {
  const lost = client.heard("connecting");
  peer.close(4200);
  await lost;
  client.pusher.connect();
  return await server.establish(socketId);
}

/** Records all events of an emitter from now on. */
export function record(
  // deno-lint-ignore no-explicit-any -- tests know what they wait for
  emitter: Emitter<any>,
): [event: string, data: unknown][] {
  const events: [string, unknown][] = [];
  emitter.bind_global((event, data) => events.push([event, data]));
  return events;
}

/** Waits for a condition that no event announces. */
export async function until(isTrue: () => boolean): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  await within(
    DEADLINE_MS,
    String(isTrue),
    (async () => {
      while (!isTrue()) {
        const turned = new Promise((resolve) => port2.onmessage = resolve);
        port1.postMessage(null);
        await turned;
      }
    })(),
  );
  port1.close();
  port2.close();
}

/** Records the listeners of the global object. */
export class Listeners implements Disposable {
  readonly names = new Map<unknown, string>();
  readonly #add = globalThis.addEventListener;
  readonly #remove = globalThis.removeEventListener;

  constructor() {
    globalThis.addEventListener = (name: string, listener: unknown) => {
      this.names.set(listener, name);
    };
    globalThis.removeEventListener = (_name: string, listener: unknown) => {
      this.names.delete(listener);
    };
  }

  [Symbol.dispose](): void {
    globalThis.addEventListener = this.#add;
    globalThis.removeEventListener = this.#remove;
  }
}

/** Records the WebSockets that the client opens, and their ends. */
export class Sockets implements Disposable {
  readonly urls: string[] = [];
  readonly #original = globalThis.WebSocket;
  readonly #messages = new Queue<void>();
  readonly #closes = new Queue<void>();

  constructor() {
    const { urls } = this;
    const heardMessage = () => this.#messages.push();
    const heardClose = () => this.#closes.push();
    globalThis.WebSocket = class extends this.#original {
      constructor(url: string | URL) {
        super(url);
        urls.push(String(url));
        this.addEventListener("message", heardMessage);
        this.addEventListener("close", heardClose);
      }
    };
  }

  /** Waits until any of them receives a message. */
  async message(): Promise<void> {
    await this.#messages.next("message of a WebSocket");
  }

  /** Waits until any of them is closed. */
  async close(): Promise<void> {
    await this.#closes.next("close of a WebSocket");
  }

  [Symbol.dispose](): void {
    globalThis.WebSocket = this.#original;
  }
}

/** Our own server on a port of its own. */
export class RealServer implements AsyncDisposable {
  readonly pusher: RealPusher;
  /** Paths of the requests, without WebSockets. */
  readonly asked: string[] = [];
  /** Whether to refuse WebSockets, as a proxy may do. */
  isBlocking = false;
  /** Whether to leave WebSockets without an answer, as a proxy may do. */
  isSwallowing = false;
  /** Whether to hold back streaming responses, as a proxy with a buffer does. */
  isBuffering = false;
  /** How often requests for a path will still fail. */
  readonly failures = new Map<string, number>();
  /** The page at `/`. */
  page = "";
  readonly #http: Deno.HttpServer<Deno.NetAddr>;
  readonly #fallback: Handler;
  readonly #end = Promise.withResolvers<void>();

  constructor(options: RealOptions = {}) {
    this.pusher = new RealPusher({ key: "app-key", ...options });
    this.#fallback = fallback(this.pusher);
    this.#http = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      this.pusher.cascade(
        (request) => this.#pass(request),
        this.pusher.handler,
        this.#fallback,
      ),
    );
  }

  get port(): number {
    return this.#http.addr.port;
  }

  /** Number of open connections. */
  get connections(): number {
    return this.pusher.stats().connections;
  }

  /** Makes a client and waits until it is connected. */
  async connect(options: PusherOptions = {}): Promise<Client> {
    const client = new Client(this, {
      authEndpoint: `http://127.0.0.1:${this.port}/pusher/auth`,
      userAuthentication: {
        endpoint: `http://127.0.0.1:${this.port}/pusher/user-auth`,
      },
      ...options,
    });
    await client.heard("connected");
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.resolve();
    await this.pusher.close();
    await this.#http.shutdown();
  }

  async #pass(request: Request): Promise<Response> {
    const isSocket = request.headers.has("upgrade");
    if (isSocket && this.isSwallowing) await this.#end.promise;
    const isRefused = this.isSwallowing || this.isBlocking;
    if (isSocket && isRefused) return new Response("no", { status: 403 });
    if (isSocket) return new Response(null, { status: 404 });
    const { pathname } = new URL(request.url);
    if (this.isBuffering && pathname.endsWith("/xhr_streaming")) {
      return await this.#holdBack(request);
    }
    this.asked.push(pathname);
    const failures = this.failures.get(pathname) ?? 0;
    this.failures.set(pathname, failures - 1);
    if (failures > 0) return new Response("down", { status: 503 });
    if (pathname !== "/") return new Response(null, { status: 404 });
    return new Response(this.page, {
      headers: { "content-type": "text/html; charset=utf-8" },
    });
  }

  /** Reads a response, and passes nothing of it on. */
  async #holdBack(request: Request): Promise<Response> {
    const response = await this.#fallback(request, {});
    const reader = response?.body?.getReader();
    const read = async () => {
      while (!(await reader?.read())?.done);
    };
    const done = Promise.race([read(), this.#end.promise]);
    const body = new ReadableStream({
      pull: async (controller) => {
        await done;
        controller.close();
      },
      cancel: (reason) => reader?.cancel(reason),
    });
    return new Response(body, { headers: response?.headers ?? {} });
  }
}

// ---- Users ------------------------------------------------------------------

/** The signature in answers of auth endpoints; the fake server accepts any. */
export const AUTH = "app-key:signature";

/** The `user_data` of Ann. */
export const ANN = '{"id":"ann","user_info":{"name":"Ann"}}';

/** Options that authenticate the user as Ann. */
export const asAnn = (): PusherOptions => ({
  userAuthentication: {
    customHandler: (_request, callback) =>
      callback(null, { auth: AUTH, user_data: ANN }),
  },
});

/** The frame by which a client subscribes to a channel. */
export const subscription = (channel: string, data: object = {}): Frame => ({
  event: "pusher:subscribe",
  data: { auth: "", channel, ...data },
});

/** Expects the sign-in of Ann. */
export async function expectSignin(peer: Peer): Promise<void> {
  assertEquals(await peer.next(), {
    event: "pusher:signin",
    data: { auth: AUTH, user_data: ANN },
  });
}

/** Signs in as Ann; the server confirms it. */
export async function signIn(
  { client: { pusher }, peer }: { client: Client; peer: Peer },
): Promise<void> {
  pusher.signin();
  await expectSignin(peer);
  peer.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await peer.next(), subscription("#server-to-user-ann"));
}

/** Options that authorize presence channels as a user. */
export const asUser = (user_id: unknown): PusherOptions => ({
  channelAuthorization: {
    customHandler: (_request, callback) =>
      callback(null, {
        auth: AUTH,
        channel_data: JSON.stringify({ user_id }),
      }),
  },
});
