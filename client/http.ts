/**
 * The HTTP transports, for networks where no WebSocket can open, such as behind a
 * proxy that refuses `Upgrade`: streaming and polling, as in `pusher-js`. The client
 * loads this module when a page first needs it.
 *
 * While HTTP is in use the client probes WebSocket in the background, and switches
 * to it when the network allows it.
 *
 * @module
 */

import { Tab } from "./tabs.ts";

/** The transports over HTTP. */
export type HttpTransport = "xhr_streaming" | "xhr_polling";

/** All transports. */
export type Transport = "ws" | HttpTransport;

/** Logs a message. */
export type Log = (...message: unknown[]) => void;

/** The part of a `WebSocket` that a connection needs, whatever carries it. */
export interface Socket {
  /** Receives each message, as `data`. */
  // deno-lint-ignore no-explicit-any -- handlers of a WebSocket want all of its event
  onmessage?: ((event: any) => void) | null;
  /** Receives the end, as `code` and `reason`, unless `close` was called. */
  // deno-lint-ignore no-explicit-any -- as above
  onclose?: ((event: any) => void) | null;
  /** Sends a message. */
  send(text: string): void;
  /** Ends the connection. */
  close(): void;
  /** The transport over HTTP that was greeted. */
  readonly transport?: HttpTransport | undefined;
}

/** Address of HTTP where it is not that of WebSocket: options of the client. */
export interface HttpOptions {
  httpHost?: string;
  httpPort?: number;
  httpsPort?: number;
  httpPath?: string;
  httpCredentials?: "omit" | "same-origin" | "include";
}

/**
 * Takes over a WebSocket that a probe has opened. The greeting is its first message,
 * which has already arrived.
 */
export type Switch = (socket: WebSocket, greeting: string) => void;

/**
 * Patience with a transport before the next is tried beside it. A proxy with response
 * buffering may never pass on a streaming response; without buffering it begins at
 * once.
 */
const PATIENCE_MS = 4_000;

/**
 * Deadline for the first bytes of a streaming response. Browsers open few connections
 * to one host, for all tabs together: a response that does not begin must not keep
 * the connection that polling waits for.
 */
const OPENING_TIMEOUT_MS = 8_000;

/**
 * The client cancels a response longer than this at the end of a line and requests
 * the next. Stock clients do the same, so servers expect it. In UTF-16 units of
 * everything that has arrived in the response.
 */
const MAX_RESPONSE_UNITS = 262_144;

/**
 * Limits of one request, in UTF-16 units and in frames; a single frame always fits.
 * Servers limit both, ours to 262,144 bytes and 1,000 frames.
 */
const MAX_BODY_UNITS = 65_536;
const MAX_BODY_FRAMES = 500;

/** Delay of the first probe: soon, as the server may just have been restarted. */
const PROBE_MIN_MS = 5_000;

/** Longest delay between probes before jitter, which adds up to half. */
const PROBE_MAX_MS = 200_000;

/** Deadline for a probe to open and to receive the server's greeting. */
const PROBE_TIMEOUT_MS = 15_000;

/**
 * How much later a page hears that a request has failed. Firefox ends the requests of
 * a page that is being left while its handlers still run; they shall hear nothing of
 * it, and a moment later they do not run any more.
 */
const LEAVING_MS = 100;

/** Close code of a connection that ended without a close frame. */
const ABNORMAL_CLOSURE = 1006;

/**
 * No close code, and not 0, which Deno reports for a WebSocket that did not open: the
 * tab gives way to others, and is to reconnect when it is shown.
 */
const PAUSED = -1;

// ---- Race -------------------------------------------------------------------
// One attempt to connect: the transports start one after the other, and the first
// that the server greets wins. The server never learns of the others more than that
// they came and went: they subscribe to nothing.

/**
 * A connection over the first transport that is greeted, in the shape of a
 * `WebSocket`. A transport starts when the one before it has failed or takes long.
 * The race ends, as the last of them did, if all of them fail.
 */
export class HttpRace implements Socket {
  onmessage: Required<Socket>["onmessage"] = null;
  onclose: Required<Socket>["onclose"] = null;
  transport: HttpTransport | undefined;

  readonly #waiting: Transport[];
  readonly #start: (transport: HttpTransport) => HttpSocket;
  readonly #rival: WebSocket | undefined;
  readonly #url: () => string;
  readonly #log: Log;
  readonly #onSwitch: Switch;
  /** The transports that may still win; in the end the winner alone. */
  readonly #running = new Set<Socket>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #tab: Tab | undefined;

  /**
   * Starts with one of the transports.
   *
   * @param transports The transports that the client may use.
   * @param first Index of the transport that starts; not of WebSocket, which may
   * have started before.
   * @param url The URL for WebSocket, now or at the next probe.
   * @param options The address of HTTP where it differs.
   * @param onSwitch Takes over when WebSocket opens.
   * @param rival A WebSocket that is being opened, and may still win.
   * @param log Logs each transport that starts.
   */
  constructor(
    transports: readonly Transport[],
    first: number,
    url: () => string,
    options: HttpOptions,
    onSwitch: Switch,
    rival: WebSocket | undefined,
    log: Log,
  ) {
    this.#url = url;
    this.#log = log;
    this.#waiting = transports.slice(first);
    // Older runtimes have no WebSocket.
    const canProbe = transports[0] === "ws" && "WebSocket" in globalThis;
    const probing = canProbe ? onSwitch : null;
    this.#start = (transport) =>
      new HttpSocket(transport, url, options, probing);
    this.#onSwitch = onSwitch;
    this.#rival = rival;
    if (rival) this.#admit(rival, ({ data }) => this.#leaveTo(rival, data));
    this.#startNext();
  }

  send(text: string): void {
    for (const winner of this.#running) winner.send(text);
  }

  close(): void {
    this.#keepOnly(undefined);
    this.#tab?.close();
    this.#tab = undefined;
  }

  #admit(
    socket: Socket,
    onmessage: Required<Socket>["onmessage"],
  ): void {
    this.#running.add(socket);
    socket.onmessage = onmessage;
    socket.onclose = ({ code, reason }) => {
      this.#running.delete(socket);
      if (socket !== this.#rival) this.#startNext();
      // A server that refuses has decided the race.
      const isOver = code >= 4000 || this.#running.size === 0;
      if (!isOver) return;
      this.close();
      this.onclose?.({ code, reason });
    };
  }

  #startNext(): void {
    clearTimeout(this.#timer);
    const transport = this.#waiting.shift();
    // WebSocket comes first, and the race begins after it.
    if (!transport || transport === "ws") return;
    // Without the session, which is a secret.
    const url = this.#url().replace("ws", "http");
    this.#log("Connecting", { transport, url });
    const socket = this.#start(transport);
    this.#admit(socket, (event) => {
      if (!this.transport) {
        this.#keepOnly(socket);
        // Without `recover` the server would not replay what it sends meanwhile.
        this.#tab = Tab.join(
          socket.host,
          isRecovering(event.data) ? () => this.#pause(socket) : undefined,
        );
      }
      this.transport = transport;
      this.onmessage?.(event);
    });
    this.#timer = setTimeout(() => this.#startNext(), PATIENCE_MS);
  }

  /** Ends until the page is shown; false while frames could get lost. */
  #pause(socket: HttpSocket): boolean {
    if (socket.isSending) return false;
    this.close();
    this.onclose?.({ code: PAUSED, reason: "" });
    return true;
  }

  /** Hands over a WebSocket that was greeted first. */
  #leaveTo(rival: WebSocket, greeting: string): void {
    this.#running.delete(rival);
    rival.onmessage = rival.onclose = null;
    this.#onSwitch(rival, greeting);
  }

  /** Closes all other sockets, and starts no more. */
  #keepOnly(winner: Socket | undefined): void {
    clearTimeout(this.#timer);
    this.#waiting.length = 0;
    for (const socket of this.#running) {
      if (socket === winner) continue;
      this.#running.delete(socket);
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }
}

// ---- Socket -----------------------------------------------------------------
// A connection over a series of requests: one request receives the frames of the
// server, and at most one at a time sends frames of the client.

/**
 * A connection over HTTP in the shape of a `WebSocket`.
 *
 * - Frames arrive in order: one request at a time carries the frames that were
 *   queued meanwhile. If a request fails the connection ends, so that no frame is
 *   lost silently.
 * - `close()` aborts all requests and timers, and calls no handler.
 */
export class HttpSocket implements Socket {
  onmessage: Required<Socket>["onmessage"] = null;
  onclose: Required<Socket>["onclose"] = null;

  readonly #isStreaming: boolean;
  /** URL up to and including the session. The server may change its host. */
  readonly #base: URL;
  readonly #query: string;
  readonly #credentials: "omit" | "same-origin" | "include";
  readonly #probe: Probe;
  readonly #requests = new AbortController();
  /** Reads the response that is being streamed. */
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  /** The deadline of the opening, then the delay of the end. */
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #queue: string[] = [];
  #requestCount = 0;
  #isSending = false;
  #isOpen = false;

  /**
   * Connects.
   *
   * @param transport Whether to stream or to poll.
   * @param url The URL for WebSocket, now or at the next probe.
   * @param options The address of HTTP where it differs.
   * @param onSwitch Takes over when WebSocket opens. Without it nothing is probed.
   */
  constructor(
    transport: HttpTransport,
    url: () => string,
    options: HttpOptions = {},
    onSwitch?: Switch | null,
  ) {
    this.#isStreaming = transport === "xhr_streaming";
    this.#base = sessionUrl(url(), options);
    this.#query = this.#base.search;
    this.#credentials = options.httpCredentials ?? "same-origin";
    this.#probe = new Probe(url, () => this.#switchIfIdle(), onSwitch);
    if (this.#isStreaming) {
      this.#timer = setTimeout(() => {
        const message = `Nothing streamed in ${OPENING_TIMEOUT_MS} ms`;
        this.#end(ABNORMAL_CLOSURE, message);
      }, OPENING_TIMEOUT_MS);
    }
    this.#receive();
  }

  /** The host of the requests. */
  get host(): string {
    return this.#base.host;
  }

  /** Whether frames are on their way to the server. */
  get isSending(): boolean {
    return this.#isSending;
  }

  send(text: string): void {
    this.#queue.push(text);
    this.#flush();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#probe.close();
    this.#requests.abort();
    // Deno forgets the signal of a response that has been collected as garbage, though
    // its body is being read: the response would never end.
    this.#reader?.cancel().catch(() => {});
  }

  #fail(what: string, error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    const end = () => this.#end(ABNORMAL_CLOSURE, `${what}: ${message}`);
    if (!this.#isOpen || !("document" in globalThis)) return end();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(end, LEAVING_MS);
  }

  #end(code: number, reason: string): void {
    if (this.#requests.signal.aborted) return;
    this.close();
    this.onclose?.({ code, reason });
  }

  // ---- Receiving

  async #receive(): Promise<void> {
    const { signal } = this.#requests;
    try {
      while (!signal.aborted) {
        await (this.#isStreaming ? this.#stream() : this.#poll());
      }
    } catch (error) {
      if (!signal.aborted) this.#fail("Cannot receive", error);
    }
  }

  /** Reads one response until it is too long. */
  async #stream(): Promise<void> {
    const { body } = await this.#post("xhr_streaming", this.#query);
    const reader = body!.getReader();
    this.#reader = reader;
    const decoder = new TextDecoder();
    let units = 0;
    let rest = "";
    do {
      const { value, done } = await reader.read();
      if (done) throw new Error("the answer has ended");
      const text = decoder.decode(value, { stream: true });
      units += text.length;
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#take(line);
    } while (units <= MAX_RESPONSE_UNITS || rest !== "");
    await reader.cancel();
  }

  /** Reads one response, which arrives when the server has frames to send. */
  async #poll(): Promise<void> {
    const response = await this.#post("xhr", this.#query);
    const lines = (await response.text()).split("\n");
    // An empty response would be requested again at once, endlessly.
    if (lines.length < 2) throw new Error("the answer is empty");
    for (const line of lines) this.#take(line);
    if (!this.#isOpen) throw new Error("the answer opens nothing");
  }

  /**
   * Accepts `o`, frames as `a[…]` and `m"…"`, `h`, and `c[code,"reason"]`. Other
   * lines are ignored: padding before `o` makes browsers pass on the rest.
   */
  #take(line: string): void {
    if (this.#requests.signal.aborted) return;
    const type = line[0];
    const content = line.slice(1);
    if (type === "o") {
      this.#open(content);
    } else if (type === "c") {
      const [code, reason] = JSON.parse(content);
      this.#end(code, reason);
    } else if (type === "a" || type === "m") {
      for (const data of [JSON.parse(content)].flat()) {
        // A handler may have closed the socket.
        if (!this.#requests.signal.aborted) this.onmessage?.({ data });
      }
    } else if (line === "h" && this.#isOpen && this.#isStreaming) {
      // With polling the next request answers the heartbeat.
      this.#flush();
    }
  }

  #open(content: string): void {
    // The server has forgotten the session and opened a new connection.
    if (this.#isOpen) return this.#end(ABNORMAL_CLOSURE, "Server lost session");
    this.#isOpen = true;
    clearTimeout(this.#timer);
    const { hostname } = JSON.parse(content || "{}");
    if (hostname) this.#base.hostname = hostname;
    this.#probe.plan();
  }

  // ---- Sending

  /** Sends the queued frames, or an empty list to answer a heartbeat. */
  async #flush(): Promise<void> {
    if (this.#isSending) return;
    this.#isSending = true;
    try {
      do {
        // Frames that are queued later in this turn go into the same request.
        await null;
        const frames = JSON.stringify(this.#dequeue());
        const { body } = await this.#post("xhr_send", "", frames);
        await body?.cancel();
      } while (this.#queue.length > 0);
    } catch (error) {
      this.#fail("Cannot send", error);
    }
    this.#isSending = false;
    this.#switchIfIdle();
  }

  /** Removes from the queue the frames that fit into one request. */
  #dequeue(): string[] {
    let units = 0;
    const isFull = (frame: string, index: number) =>
      (units += frame.length) > MAX_BODY_UNITS || index >= MAX_BODY_FRAMES;
    const rest = this.#queue.findIndex(isFull);
    const count = rest < 0 ? this.#queue.length : Math.max(rest, 1);
    return this.#queue.splice(0, count);
  }

  /** Switches to WebSocket, unless frames that are being sent could get lost. */
  #switchIfIdle(): void {
    if (!this.#isSending) this.#probe.handOver();
  }

  /**
   * Posts, with no header but `content-type`, which servers allow other origins to
   * send. Requests are numbered as in stock clients: a runtime may repeat a request
   * by itself when its connection breaks, and the server sees that by the number.
   */
  async #post(
    purpose: string,
    query: string,
    body: string | null = null,
  ): Promise<Response> {
    const url = new URL(this.#base);
    url.pathname += `/${purpose}`;
    url.search = query;
    url.searchParams.set("t", String(Date.now()));
    url.searchParams.set("n", String(++this.#requestCount));
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body,
      credentials: this.#credentials,
      signal: this.#requests.signal,
    });
    if (response.ok) return response;
    await response.body?.cancel();
    throw new Error(`status is ${response.status}, and must be 200`);
  }
}

/** The URL for HTTP, with a new session, made of the URL for WebSocket. */
function sessionUrl(wsUrl: string, options: HttpOptions): URL {
  const { httpHost, httpPort, httpsPort, httpPath } = options;
  const url = new URL(wsUrl.replace("ws", "http"));
  const port = url.protocol === "https:" ? httpsPort : httpPort;
  if (httpHost) url.hostname = httpHost;
  if (port) url.port = String(port);
  const path = url.pathname;
  const app = path.lastIndexOf("/app/");
  const server = Math.floor(Math.random() * 1_000);
  url.pathname = (httpPath ?? `${path.slice(0, app)}/pusher`) +
    `${path.slice(app)}/${server}/${randomSession()}`;
  return url;
}

/** Eight random characters of `0-9a-v`: a secret, as it gives access to frames. */
function randomSession(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return [...bytes].map((byte) => (byte & 31).toString(32)).join("");
}

// ---- Probe ------------------------------------------------------------------
// Tries WebSocket from time to time while HTTP is in use. After the greeting the
// socket is kept until HTTP is idle and hands over to it.

class Probe {
  readonly #url: () => string;
  readonly #onReady: () => void;
  readonly #onSwitch: Switch | null | undefined;
  #delayMs = PROBE_MIN_MS;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #socket: WebSocket | undefined;
  #greeting: string | undefined;

  constructor(
    url: () => string,
    onReady: () => void,
    onSwitch: Switch | null | undefined,
  ) {
    this.#url = url;
    this.#onReady = onReady;
    this.#onSwitch = onSwitch;
  }

  /** Plans the next try. The delay doubles each time. */
  plan(): void {
    this.close();
    if (!this.#onSwitch) return;
    const jitter = 1 + Math.random() / 2;
    this.#timer = setTimeout(() => this.#try(), this.#delayMs * jitter);
    this.#delayMs = Math.min(this.#delayMs * 2, PROBE_MAX_MS);
  }

  /** Hands over the WebSocket if the server has greeted it. */
  handOver(): void {
    const socket = this.#socket;
    const greeting = this.#greeting;
    if (!socket || greeting === undefined) return;
    socket.onmessage = socket.onclose = null;
    this.#socket = undefined;
    this.#onSwitch?.(socket, greeting);
  }

  close(): void {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = this.#greeting = undefined;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #try(): void {
    const socket = new WebSocket(this.#url());
    this.#socket = socket;
    this.#timer = setTimeout(() => this.plan(), PROBE_TIMEOUT_MS);
    socket.onclose = () => this.plan();
    socket.onmessage = ({ data }) => {
      if (!isGreeting(data)) return this.plan();
      clearTimeout(this.#timer);
      this.#greeting = data;
      this.#onReady();
    };
  }
}

function isGreeting(text: unknown): boolean {
  try {
    return JSON.parse(String(text)).event === "pusher:connection_established";
  } catch {
    return false;
  }
}

/** Whether the server grants `recover` in its greeting. */
function isRecovering(greeting: string): boolean {
  try {
    const { extensions } = JSON.parse(JSON.parse(greeting).data);
    return [extensions].flat().includes("recover");
  } catch {
    return false;
  }
}
