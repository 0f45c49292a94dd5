/**
 * A server on a port of its own and clients that speak to it in the raw: what
 * the tests of the server are written with.
 *
 * Signatures are made here from the text of the protocol, never by the server's
 * own code, so that they can find it wrong. Rules that hold for every frame and
 * every hook are checked here, for every test.
 *
 * @module
 */
import { createHash, createHmac } from "node:crypto";
import {
  type Backplane,
  type BackplaneNode,
  type Handler,
  MemoryBackplane,
  type Message,
  Pusher,
  type PusherOptions,
  type Transport,
} from "@glitz/pusher";
import { assert, assertEquals, assertFalse } from "@std/assert";
import { within } from "./deadline.ts";

/** For everything that is waited for; what passes takes milliseconds. */
export const DEADLINE_MS = 20_000;

/** Who an app is, as the server's options name it. */
export interface App {
  id: string;
  key: string;
  secret: string;
}

/** The app that {@linkcode serve} sets up when the options name none. */
export const APP: App = {
  id: "app-id",
  key: "app-key",
  secret: "the-app-secret",
};

const faults: unknown[] = [];

/**
 * Cleans up after a test. What goes wrong is told when the test has ended, so
 * that it does not hide the test's own failure.
 */
export async function cleanUp(steps: () => Promise<unknown>): Promise<void> {
  try {
    await steps();
  } catch (fault) {
    faults.push(fault);
  }
}

Deno.test.afterEach(() => {
  const [first] = faults.splice(0);
  if (first !== undefined) throw first;
});

// ---- Signatures -------------------------------------------------------------

/** Lower-case hex HMAC-SHA256. */
export function hmac(secret: string, text: string): string {
  return createHmac("sha256", secret).update(text, "utf8").digest("hex");
}

/** The auth string with which a socket may subscribe to a channel. */
export function channelAuth(
  app: App,
  socketId: string,
  channel: string,
  channelData?: string,
): string {
  const parts = [socketId, channel];
  if (channelData !== undefined) parts.push(channelData);
  return `${app.key}:${hmac(app.secret, parts.join(":"))}`;
}

/** What a signed request may have besides method and path. */
export interface ApiInit {
  /**
   * Query parameters, which are signed. They may override the `auth_…` ones;
   * `null` leaves one out and a list repeats one.
   */
  query?: Record<string, string | string[] | null>;
  /** A string or bytes are sent as they are, anything else as JSON. */
  body?: unknown;
  /** Replaces query parameters after signing; `null` removes one. */
  tamper?: Record<string, string | null>;
  /** Replaces the body after signing. */
  tamperedBody?: string;
  /** The path to sign, where it differs from the one that is sent. */
  signedPath?: string;
  /** The app that signs. */
  app?: App;
  headers?: Record<string, string>;
}

/** An HTTP API request to `{base}/apps/{id}{path}`, signed. */
export function signedRequest(
  base: string,
  method: string,
  path: string,
  init: ApiInit = {},
): Request {
  const { app = APP, query = {}, body, tamper = {} } = init;
  const bytes = body instanceof Uint8Array ? body : new TextEncoder().encode(
    body === undefined
      ? ""
      : typeof body === "string"
      ? body
      : JSON.stringify(body),
  );
  const params: Record<string, string | string[] | null> = {
    auth_key: app.key,
    auth_timestamp: String(Math.floor(Date.now() / 1000)),
    auth_version: "1.0",
    body_md5: bytes.length > 0
      ? createHash("md5").update(bytes).digest("hex")
      : null,
    ...query,
  };
  const pairs = Object.entries(params).flatMap(([name, value]) =>
    (value === null ? [] : [value].flat()).map((one) => [name, one] as const)
  );
  const fullPath = `${new URL(base).pathname.replace(/\/$/, "")}/apps/${
    encodeURIComponent(app.id)
  }${path}`;
  const signed = pairs
    .map(([name, value]) => [name.toLowerCase(), value] as const)
    .sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
    .map(([name, value]) => `${name}=${value}`).join("&");
  const signature = hmac(
    app.secret,
    [method, init.signedPath ?? fullPath, signed].join("\n"),
  );
  const search = new URLSearchParams(pairs.map(([name, value]) => [
    name,
    value,
  ]));
  search.set("auth_signature", signature);
  for (const [name, value] of Object.entries(tamper)) {
    if (value === null) search.delete(name);
    else search.set(name, value);
  }
  const sent = init.tamperedBody ?? bytes as Uint8Array<ArrayBuffer>;
  return new Request(`${new URL(base).origin}${fullPath}?${search}`, {
    method,
    headers: { "content-type": "application/json", ...init.headers },
    body: method === "GET" || method === "HEAD" || sent.length === 0
      ? null
      : sent,
  });
}

/** An HTTP response, read. */
export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  /** The body, where the content type says JSON. */
  // deno-lint-ignore no-explicit-any -- every test knows what it asked for
  body: any;
}

/** Reads a response. */
export async function read(response: Response): Promise<Answer> {
  const { status, headers } = response;
  const text = await response.text();
  assertFalse(text.includes(APP.secret), text);
  const isJson = headers.get("content-type")?.startsWith("application/json");
  const body = isJson && text !== "" ? JSON.parse(text) : undefined;
  return { status, headers, text, body };
}

/** Checks that a refusal of ours is told as JSON with one sentence. */
export function checked(answer: Answer): Answer {
  const { status, headers, text, body } = answer;
  assertEquals(headers.get("content-type"), "application/json", text);
  if (status >= 400) {
    assertEquals(Object.keys(body), ["error"], text);
    assert(typeof body.error === "string" && body.error !== "", text);
  }
  return answer;
}

// ---- Clients ----------------------------------------------------------------

/** A place in the events of a channel. */
export interface Position {
  epoch: string;
  offset: number;
}

/** One frame from the server. */
export interface Frame {
  event: string;
  channel?: string;
  data?: unknown;
  user_id?: string;
  /** On events, for clients that recover. */
  offset?: number;
  /** On confirmations, for clients that recover. */
  position?: Position;
  /** On confirmations, for clients that asked for what they have missed. */
  recovered?: boolean;
}

/** Statuses that go with each type of a refused subscription. */
const REFUSALS: Record<string, number[]> = {
  AuthError: [401],
  InvalidChannel: [400],
  InvalidChannelData: [400],
  LimitReached: [400, 403, 413],
  ServerError: [500],
};

/** The codes that `pusher:error` may carry. */
const ERROR_CODES = new Set(
  [4000, 4001, 4003, 4004, 4005, 4006, 4007, 4008, 4009]
    .concat([4100, 4200, 4201, 4300, 4301, 4302]),
);

const ESTABLISHED = "pusher:connection_established";
const SUCCEEDED = "pusher_internal:subscription_succeeded";
const SIGNED_IN = "pusher:signin_success";
const RECOVERY_FAILED = "pusher:recovery_failed";
const OWN_CHANNEL = "#server-to-user-";
const PROTOCOL_EVENT = /^pusher(_internal)?:/;
const CACHE_CHANNEL = /^(private-encrypted-|private-|presence-)?cache-/;
const SESSION_PATH = /\/r\/[\w-]{16,128}\/(pusher\/)?app\//;

/**
 * Parses what the server sends on one connection, and checks what holds for
 * every frame. Whatever goes beyond the plain protocol has to have been asked
 * for, and granted.
 */
export class FrameReader {
  readonly #asked: ReadonlySet<string>;
  readonly #isSession: boolean;
  #granted: ReadonlySet<string> = new Set();
  /** What each channel has come to, on a connection that recovers. */
  readonly #offsets = new Map<string, number>();
  /** Channels on which the next frame has to tell of a failure. */
  readonly #failing = new Set<string>();
  /** Channels on which an event may follow that was kept, not published. */
  readonly #cached = new Set<string>();

  /** @param url Where the client has connected; without one it is a plain one. */
  constructor(url = "") {
    const [path = "", query] = url.split("?");
    const params = new URLSearchParams(query);
    this.#isSession = SESSION_PATH.test(path);
    this.#asked = new Set(
      ["batch", "recover"].filter((name) => params.get(name) === "1"),
    );
  }

  /** The frames of one text: one, unless they may come in batches. */
  read(text: unknown): Frame[] {
    assert(typeof text === "string", `Frame is not text: ${text}`);
    assertFalse(text.includes(APP.secret), text);
    const whole = JSON.parse(text);
    const told = `in ${text.slice(0, 300)}`;
    if (!Array.isArray(whole)) return [this.#check(whole, told)];
    assert(this.#granted.has("batch"), `Batch unasked ${told}`);
    assert(whole.length > 0, `Nothing ${told}`);
    return whole.map((frame) =>
      this.#check(frame, `in ${JSON.stringify(frame).slice(0, 300)}`)
    );
  }

  #check(frame: Frame, told: string): Frame {
    const { event, channel, data, user_id, ...rest } = frame;
    assert(typeof event === "string", `No event ${told}`);
    if (this.#granted.has("recover")) this.#checkPosition(frame, told);
    else assertEquals(rest, {}, `Unknown fields ${told}`);
    if (channel !== undefined) assert(typeof channel === "string", told);
    if (user_id !== undefined) assert(typeof user_id === "string", told);
    if (event === "pusher:error") {
      // The assertions are what finds out whether it is such an object.
      const { code, message, ...more } = data as Record<string, unknown>;
      assertEquals(more, {}, told);
      assert(ERROR_CODES.has(code as number), `Code not in the table ${told}`);
      assert(typeof message === "string" && message !== "", told);
    } else if (event === "pusher:subscription_error") {
      assert(typeof channel === "string", `No channel ${told}`);
      const { type, status, error, ...more } = data as Record<string, unknown>;
      assertEquals(more, {}, told);
      const isKnown = REFUSALS[type as string]?.includes(status as number);
      assert(isKnown, `Not in table ${told}`);
      assert(typeof error === "string" && error !== "", told);
    } else {
      assert(data === undefined || typeof data === "string", told);
    }
    if (event === ESTABLISHED) this.#grant(dataOf(frame).extensions, told);
    if (event === RECOVERY_FAILED) {
      assert(this.#isSession || this.#granted.has("recover"), told);
      assertEquals(data, JSON.stringify({ channel }), told);
    }
    return frame;
  }

  /** A client that asked for nothing is told nothing of extensions. */
  #grant(extensions: unknown, told: string): void {
    if (extensions === undefined) return;
    assert(this.#asked.size > 0, `Extensions unasked ${told}`);
    assert(Array.isArray(extensions), told);
    this.#granted = new Set(extensions);
    assertEquals(this.#granted.size, extensions.length, told);
    for (const extension of extensions) {
      const isFit = extension === "auth" || this.#asked.has(extension);
      assert(isFit, `Extension unasked ${told}`);
    }
  }

  /** Offsets of a channel grow from the position that it began with. */
  #checkPosition(frame: Frame, told: string): void {
    const { event, channel = "", offset, position, recovered } = frame;
    const { event: _, channel: __, data: ___, user_id: ____, ...rest } = frame;
    for (const field of Object.keys(rest)) {
      const isKnown = ["offset", "position", "recovered"].includes(field);
      assert(isKnown, `Unknown field ${field} ${told}`);
    }
    assertEquals(
      this.#failing.delete(channel),
      event === RECOVERY_FAILED,
      `A failure has to be told after its confirmation, and only then ${told}`,
    );
    if (event === SUCCEEDED || event === SIGNED_IN) {
      const what = event === SUCCEEDED ? channel : userChannelOf(frame);
      assertEquals(offset, undefined, told);
      this.#confirm(what, position, recovered, told);
      return;
    }
    assertEquals([position, recovered], [undefined, undefined], told);
    if (PROTOCOL_EVENT.test(event)) {
      assertEquals(offset, undefined, `Offset of a protocol frame ${told}`);
      return;
    }
    const isKept = this.#cached.delete(channel);
    if (offset !== undefined || !isKept) {
      assert(Number.isSafeInteger(offset), `No offset ${told}`);
      const before = this.#offsets.get(channel);
      assert(before !== undefined, `No position before ${told}`);
      assert((offset ?? 0) > before, `Not above ${before} ${told}`);
      this.#offsets.set(channel, offset ?? 0);
    }
  }

  #confirm(
    channel: string,
    position: Position | undefined,
    recovered: boolean | undefined,
    told: string,
  ): void {
    if (CACHE_CHANNEL.test(channel)) this.#cached.add(channel);
    if (position === undefined) {
      // Only a repeated one says nothing of where it begins.
      assert(this.#offsets.has(channel), `No position ${told}`);
      assertEquals(recovered, undefined, told);
      return;
    }
    const { epoch, offset, ...more } = position;
    assertEquals(more, {}, told);
    assert(typeof epoch === "string" && epoch !== "", told);
    assert(Number.isSafeInteger(offset) && offset >= 0, told);
    this.#offsets.set(channel, offset);
    if (recovered === undefined) return;
    assert(typeof recovered === "boolean", told);
    if (!recovered) this.#failing.add(channel);
  }
}

/** The channel of the user who has signed in. */
function userChannelOf(frame: Frame): string {
  return OWN_CHANNEL + JSON.parse(dataOf(frame).user_data).id;
}

/** Parses a frame for a plain client and checks what holds for every such frame. */
export function parseFrame(text: unknown): Frame {
  // A plain client gets no batches.
  return new FrameReader().read(text)[0] as Frame;
}

/** The decoded `data` of a frame. */
// deno-lint-ignore no-explicit-any -- every test knows what it waits for
export function dataOf(frame: Frame): any {
  return typeof frame.data === "string" ? JSON.parse(frame.data) : frame.data;
}

/** How {@linkcode Client.subscribe} signs. */
export interface SubscribeInit {
  /** The member, on a presence channel. */
  member?: { user_id?: unknown; user_info?: unknown };
  /** The text of `channel_data`, where it is not the JSON of a member. */
  channelData?: string;
  /** Replaces the right signature; `null` sends none. */
  auth?: string | null;
  /** The position after which everything is wanted. */
  recover?: unknown;
  /** How many of the last events are wanted. */
  rewind?: unknown;
}

/** How a connection was closed. */
export interface Closing {
  code: number;
  reason: string;
}

/**
 * A client that speaks the protocol, frame by frame. It answers nothing by
 * itself. With a session in its path it is pinged now and then: only
 * `next("pusher:ping")` and {@linkcode acknowledge} take notice of that.
 */
export class Client implements AsyncDisposable {
  /** Resolves when the connection has closed, whoever closed it. */
  readonly closed: Promise<Closing>;
  /** Set once the server has said it. */
  socketId = "";
  readonly app: App;
  /** Everything that has come, as it came: a batch is one text. */
  readonly texts: string[] = [];
  /** All frames that have come, taken or not. */
  readonly log: Frame[] = [];
  readonly #socket: WebSocket;
  readonly #isSession: boolean;
  /** How many frames had come when a ping was answered. */
  #answered = 0;
  readonly #frames: Frame[] = [];
  #closing: Closing | undefined;
  #fault: unknown;
  #wake = () => {};

  constructor(url: string, app = APP, headers?: Record<string, string>) {
    this.app = app;
    this.#isSession = SESSION_PATH.test(url);
    const reader = new FrameReader(url);
    this.#socket = headers
      ? new WebSocket(url, { headers })
      : new WebSocket(url);
    this.#socket.addEventListener("message", ({ data }) => {
      this.texts.push(data);
      try {
        const frames = reader.read(data);
        this.log.push(...frames);
        this.#frames.push(...frames);
      } catch (fault) {
        this.#fault ??= fault;
      }
      this.#wake();
    });
    const { promise, resolve } = Promise.withResolvers<Closing>();
    this.closed = promise;
    this.#socket.addEventListener("close", ({ code, reason }) => {
      this.#closing = { code, reason };
      this.#wake();
      resolve(this.#closing);
    });
  }

  /** Takes the first frame, which has to establish the connection. */
  async established(): Promise<Frame> {
    const frame = await this.next("pusher:connection_established");
    this.socketId = dataOf(frame).socket_id;
    return frame;
  }

  /** Sends text and bytes as they are, anything else as JSON. */
  send(frame: unknown): void {
    this.#socket.send(
      typeof frame === "string" || frame instanceof Uint8Array
        ? frame as string
        : JSON.stringify(frame),
    );
  }

  /** Takes the next frame, which has to be the named event. */
  async next(event?: string): Promise<Frame> {
    for (;;) {
      if (this.#fault !== undefined) throw this.#fault;
      const frame = this.#frames.shift();
      if (frame !== undefined) {
        const isPing = frame.event === "pusher:ping";
        if (this.#isSession && isPing && event !== frame.event) continue;
        if (event !== undefined) {
          assertEquals(frame.event, event, JSON.stringify(frame).slice(0, 300));
        }
        return frame;
      }
      const what = event ?? "frame";
      if (this.#closing) {
        throw new Error(
          `Cannot take ${what}: closed with ${this.#closing.code}`,
        );
      }
      await this.#more(what);
    }
  }

  async #more(what: string): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await within(DEADLINE_MS, what, promise);
  }

  /**
   * Answers pings until one of them came after all events so far, so that the
   * server knows that all of them have arrived.
   */
  async acknowledge(): Promise<void> {
    for (;;) {
      const ping = this.log.findLastIndex(({ event }) =>
        event === "pusher:ping"
      );
      const event = this.log.findLastIndex(({ event }) =>
        !PROTOCOL_EVENT.test(event)
      );
      if (ping >= this.#answered) this.pong();
      if (ping > event) return;
      if (this.#fault !== undefined) throw this.#fault;
      if (this.#closing) throw new Error("Cannot be pinged: closed");
      await this.#more("pusher:ping");
    }
  }

  /** Where the client is on a channel, by all that it was sent. */
  positionOn(channel: string): Position {
    let position: Position | undefined;
    for (const frame of this.log) {
      const on = frame.event === SIGNED_IN
        ? userChannelOf(frame)
        : frame.channel;
      if (on !== channel) continue;
      if (frame.position !== undefined) position = frame.position;
      if (frame.offset === undefined || position === undefined) continue;
      position = { ...position, offset: frame.offset };
    }
    assert(position !== undefined, `No position on ${channel}`);
    return position;
  }

  /** Answers the pings so far. */
  pong(): void {
    this.#answered = this.log.length;
    this.send({ event: "pusher:pong", data: {} });
  }

  /**
   * Takes every frame up to the answer of a ping that is sent now: all that
   * the server had to say so far, without a pause.
   */
  async framesUntilPong(): Promise<Frame[]> {
    this.send({ event: "pusher:ping", data: {} });
    const frames: Frame[] = [];
    for (;;) {
      const frame = await this.next();
      if (frame.event === "pusher:pong") return frames;
      frames.push(frame);
    }
  }

  /** Expects that the server has nothing to say. */
  async silence(): Promise<void> {
    assertEquals(await this.framesUntilPong(), []);
  }

  /** Asks for a channel, signed where that is needed. */
  requestSubscribe(channel: string, init: SubscribeInit = {}): void {
    const channelData = init.channelData ??
      (init.member && JSON.stringify(init.member));
    const auth = init.auth !== undefined
      ? init.auth
      : /^(private|presence)-/.test(channel)
      ? channelAuth(this.app, this.socketId, channel, channelData)
      : "";
    this.send({
      event: "pusher:subscribe",
      data: {
        channel,
        ...(auth === null ? {} : { auth }),
        ...(channelData === undefined ? {} : { channel_data: channelData }),
        ...("recover" in init && { recover: init.recover }),
        ...("rewind" in init && { rewind: init.rewind }),
      },
    });
  }

  /** Asks for a channel and takes the answer, whichever it is. */
  async subscribe(channel: string, init?: SubscribeInit): Promise<Frame> {
    this.requestSubscribe(channel, init);
    const frame = await this.next();
    assert(/subscription_(succeeded|error)$/.test(frame.event), frame.event);
    assertEquals(frame.channel, channel);
    return frame;
  }

  /** Subscribes, which has to succeed, and returns the confirmation. */
  async enter(channel: string, init?: SubscribeInit): Promise<Frame> {
    const frame = await this.subscribe(channel, init);
    assertEquals(frame.event, SUCCEEDED, JSON.stringify(frame));
    return frame;
  }

  /** Subscribes, which has to succeed, and returns what the server says. */
  // deno-lint-ignore no-explicit-any -- every test knows what it asked for
  async join(channel: string, init?: SubscribeInit): Promise<any> {
    return dataOf(await this.enter(channel, init));
  }

  /** Signs in, which has to succeed, and returns the confirmation. */
  async signIn(
    user: { id: string; [field: string]: unknown },
    more: { recover?: unknown } = {},
  ): Promise<Frame> {
    const user_data = JSON.stringify(user);
    const text = `${this.socketId}::user::${user_data}`;
    const auth = `${this.app.key}:${hmac(this.app.secret, text)}`;
    this.send({ event: "pusher:signin", data: { auth, user_data, ...more } });
    return await this.next(SIGNED_IN);
  }

  /** Subscribes, which has to fail, and returns why, as `type status`. */
  async refused(channel: string, init?: SubscribeInit): Promise<string> {
    const frame = await this.subscribe(channel, init);
    assertEquals(frame.event, "pusher:subscription_error");
    const { type, status } = dataOf(frame);
    return `${type} ${status}`;
  }

  /** Unsubscribes; the server does not answer. */
  unsubscribe(channel: string): void {
    this.send({ event: "pusher:unsubscribe", data: { channel } });
  }

  /** Takes the refusal of the connection, which says one thing in two ways. */
  async turnedAway(): Promise<Closing> {
    const { code, message } = dataOf(await this.next("pusher:error"));
    const closing = await within(DEADLINE_MS, "close", this.closed);
    assertEquals(closing, { code, reason: message });
    return closing;
  }

  /** Closes the connection and waits until that is done. */
  async close(): Promise<Closing> {
    this.#socket.close();
    return await within(DEADLINE_MS, "close", this.closed);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(async () => {
      await this.close();
      if (this.#fault !== undefined) throw this.#fault;
    });
  }
}

/** Whether to mask, and what else to get wrong in a frame on purpose. */
export interface WireFrame {
  /** First byte; @default {0x81} for a whole text frame. */
  first?: number;
  masked?: boolean;
  /** What the frame says of its length. */
  length?: number;
}

/** The bytes of one WebSocket frame from a client. */
export function wireFrame(
  payload: string | Uint8Array,
  { first = 0x81, masked = true, length }: WireFrame = {},
): Uint8Array {
  const body = typeof payload === "string"
    ? new TextEncoder().encode(payload)
    : payload;
  const said = length ?? body.length;
  const flag = masked ? 0x80 : 0;
  const size = said < 126 ? 0 : said < 65_536 ? 2 : 8;
  const head = new DataView(new ArrayBuffer(2 + size));
  head.setUint8(0, first);
  head.setUint8(1, flag | (size === 0 ? said : size === 2 ? 126 : 127));
  if (size === 2) head.setUint16(2, said);
  if (size === 8) head.setBigUint64(2, BigInt(said));
  // A mask of zeros is a mask, and leaves the payload readable.
  const mask = masked ? ZEROS : EMPTY;
  return concat([new Uint8Array(head.buffer), mask, body]);
}

const ZEROS = new Uint8Array(4);
const EMPTY = new Uint8Array(0);

function concat(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

/** A TCP connection, for what no well-behaved client can send. */
export class RawClient implements Disposable {
  readonly #connection: Deno.TcpConn;
  #pending = EMPTY as Uint8Array;
  #isOpen = true;

  private constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
  }

  static async connect(port: number): Promise<RawClient> {
    return new RawClient(await Deno.connect({ hostname: "127.0.0.1", port }));
  }

  /** Sends; false when the server has hung up. */
  async write(data: string | Uint8Array): Promise<boolean> {
    let rest = typeof data === "string" ? new TextEncoder().encode(data) : data;
    try {
      while (rest.length > 0) {
        const written = await within(
          DEADLINE_MS,
          "room to write",
          this.#connection.write(rest),
        );
        rest = rest.subarray(written);
      }
      return true;
    } catch (error) {
      if (isHangUp(error)) return false;
      throw error;
    }
  }

  /** Opens a WebSocket by hand and returns the head of the answer. */
  async upgrade(
    path: string,
    headers: Record<string, string> = {},
    method = "GET",
  ): Promise<string> {
    const all = {
      Host: "127.0.0.1",
      Upgrade: "websocket",
      Connection: "Upgrade",
      "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
      ...headers,
    };
    const lines = Object.entries(all)
      .filter(([, value]) => value !== "")
      .map(([name, value]) => `${name}: ${value}\r\n`).join("");
    await this.write(`${method} ${path} HTTP/1.1\r\n${lines}\r\n`);
    return await this.readHead();
  }

  /** Reads the head of a response; "" when the server hangs up instead. */
  async readHead(): Promise<string> {
    for (;;) {
      const text = new TextDecoder("latin1").decode(this.#pending);
      const end = text.indexOf("\r\n\r\n");
      if (end >= 0) {
        this.#pending = this.#pending.slice(end + 4);
        return text.slice(0, end);
      }
      if (!await this.#more()) return "";
    }
  }

  /** Reads one WebSocket frame; `null` when the server hangs up. */
  async readFrame(): Promise<{ opcode: number; body: Uint8Array } | null> {
    for (;;) {
      const [first = 0, second = 0] = this.#pending;
      const wide = second === 126 ? 2 : second === 127 ? 8 : 0;
      if (this.#pending.length >= 2 + wide) {
        const length = wide === 0
          ? second
          : this.#pending.subarray(2, 2 + wide).reduce((n, b) => n * 256 + b);
        const end = 2 + wide + length;
        if (this.#pending.length >= end) {
          const body = this.#pending.slice(2 + wide, end);
          this.#pending = this.#pending.slice(end);
          return { opcode: first & 15, body };
        }
      }
      if (!await this.#more()) return null;
    }
  }

  /** Reads one WebSocket frame of text, as the protocol has it. */
  async readText(): Promise<Frame> {
    const frame = await this.readFrame();
    assertEquals(frame?.opcode, 1);
    return parseFrame(new TextDecoder().decode(frame?.body));
  }

  /** Reads frames until the server closes: the code, or `null` without one. */
  async readClose(): Promise<number | null> {
    for (;;) {
      const frame = await this.readFrame();
      if (frame === null) return null;
      if (frame.opcode === 1) parseFrame(new TextDecoder().decode(frame.body));
      if (frame.opcode === 8) {
        const [high, low = 0] = frame.body;
        return high === undefined ? null : high * 256 + low;
      }
    }
  }

  /** Reads until the server hangs up. */
  async readAll(): Promise<string> {
    while (await this.#more());
    const text = new TextDecoder("latin1").decode(this.#pending);
    this.#pending = EMPTY;
    return text;
  }

  /** Ends the connection without a word, as a network does that breaks. */
  drop(): void {
    if (this.#isOpen) this.#connection.close();
    this.#isOpen = false;
  }

  [Symbol.dispose](): void {
    this.drop();
  }

  async #more(): Promise<boolean> {
    const buffer = new Uint8Array(65_536);
    try {
      const count = await within(
        DEADLINE_MS,
        "bytes to read",
        this.#connection.read(buffer),
      );
      if (count === null) return false;
      this.#pending = concat([this.#pending, buffer.subarray(0, count)]);
      return true;
    } catch (error) {
      if (isHangUp(error)) return false;
      throw error;
    }
  }
}

function isHangUp(error: unknown): boolean {
  return error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.ConnectionAborted;
}

// ---- Hooks ------------------------------------------------------------------

const HOOKS = [
  "connected",
  "disconnected",
  "channel_occupied",
  "channel_vacated",
  "member_added",
  "member_removed",
  "client_event",
  "published",
  "cache_miss",
  "subscription_count",
  "error",
] as const;

/** One call of a hook. */
export interface Entry {
  hook: (typeof HOOKS)[number];
  app?: string;
  socketId?: string;
  channel?: string;
  userId?: string;
  // deno-lint-ignore no-explicit-any -- the rest depends on the hook
  [field: string]: any;
}

/**
 * Everything that the hooks of a server say. Whatever begins has to end, once
 * each, and not begin again before that.
 */
export class Journal {
  /** All calls so far, in order. */
  readonly entries: Entry[] = [];
  readonly #untaken: Entry[] = [];
  readonly #present = new Set<string>();
  #fault: unknown;
  #wake = () => {};

  /** Listens to the hooks of all apps. */
  listen(pusher: Pusher): void {
    for (const hook of HOOKS) {
      pusher.on(hook, (event: object) => {
        const entry = { hook, ...event } as Entry;
        this.entries.push(entry);
        this.#untaken.push(entry);
        this.#count(entry);
        this.#wake();
      });
    }
  }

  /** Takes the first call of a hook that has not been taken yet. */
  async next(hook: Entry["hook"]): Promise<Entry> {
    const find = () => this.#untaken.findIndex((entry) => entry.hook === hook);
    await this.#until(hook, () => find() >= 0);
    return this.#untaken.splice(find(), 1)[0] as Entry;
  }

  /** Takes all calls of a hook that have not been taken yet. */
  drain(hook: Entry["hook"]): Entry[] {
    const taken = this.#untaken.filter((entry) => entry.hook === hook);
    for (const entry of taken) {
      this.#untaken.splice(this.#untaken.indexOf(entry), 1);
    }
    return taken;
  }

  /** The calls so far of some hooks, each as short text. */
  told(...hooks: Entry["hook"][]): string[] {
    return this.entries
      .filter(({ hook }) => hooks.length === 0 || hooks.includes(hook))
      .map(({ hook, channel, userId }) =>
        [hook, channel, userId].filter((part) => part !== undefined).join(" ")
      );
  }

  /** Waits until everything has ended, and fails on errors nobody took. */
  async settled(): Promise<void> {
    await this.#until("end of everything", () => this.#present.size === 0);
    if (this.#fault !== undefined) throw this.#fault;
    const error = this.#untaken.find(({ hook }) => hook === "error");
    if (error) {
      throw new Error(`Cannot overlook an error during ${error.during}`, {
        cause: error.error,
      });
    }
  }

  #count({ hook, app, socketId, channel, userId }: Entry): void {
    const turn = TURNS[hook];
    if (turn === undefined) return;
    const [what, begins] = turn;
    const which = what === "connection" ? [socketId] : [channel, userId];
    const thing = [app, what, ...which].join(" ");
    if (this.#present.has(thing) === begins) {
      this.#fault ??= new Error(`Hook ${hook} called twice: ${thing}`);
    }
    if (begins) this.#present.add(thing);
    else this.#present.delete(thing);
  }

  async #until(what: string, isDone: () => boolean): Promise<void> {
    while (!isDone()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const left = () => [...this.#present].join(", ");
      await within(DEADLINE_MS, what, promise).catch((error) => {
        throw new Error(`${error.message}; still present: ${left()}`);
      });
    }
  }
}

/** What begins and what ends with which hook. */
const TURNS: Partial<Record<Entry["hook"], [what: string, begins: boolean]>> = {
  connected: ["connection", true],
  disconnected: ["connection", false],
  channel_occupied: ["channel", true],
  channel_vacated: ["channel", false],
  member_added: ["member", true],
  member_removed: ["member", false],
};

// ---- Joints -----------------------------------------------------------------

/** A transport in memory that takes as much as it is told to. */
export class MemoryTransport implements Transport {
  bufferedAmount = 0;
  readonly frames: Frame[] = [];
  closing: [code: number, reason: string] | undefined;
  readonly #reader: FrameReader;

  /** @param url Where the client would have connected, see {@linkcode FrameReader}. */
  constructor(url?: string) {
    this.#reader = new FrameReader(url);
  }

  send(frame: string): void {
    this.frames.push(...this.#reader.read(frame));
  }

  close(code: number, reason: string): void {
    this.closing ??= [code, reason];
  }
}

/** The backplane in memory, as one behind a network: every answer comes later. */
export class SlowBackplane implements Backplane {
  readonly #memory = new MemoryBackplane();
  /** Methods that were called when it had been closed. */
  readonly afterClose: string[] = [];
  /** How often it has been closed. */
  closes = 0;
  readonly #pending = new Set<Promise<unknown>>();
  /** Awaited before and after each call, with its name. */
  turn: (method: keyof Backplane, isAfter: boolean) => Promise<void> = () =>
    new Promise((resolve) => setTimeout(resolve, 1));

  start(node: BackplaneNode): void {
    this.#memory.start(node);
  }
  publish(...given: [string, string, Message]): Promise<void> {
    return this.#later("publish", () => this.#memory.publish(...given));
  }
  join(...given: Parameters<MemoryBackplane["join"]>) {
    return this.#later("join", () => {
      const joined = this.#memory.join(...given);
      // What has come over a network does not change any more.
      return joined && { ...joined, members: new Map(joined.members) };
    });
  }
  leave(...given: Parameters<MemoryBackplane["leave"]>) {
    return this.#later("leave", () => this.#memory.leave(...given));
  }
  members(...given: Parameters<MemoryBackplane["members"]>) {
    return this.#later(
      "members",
      () => new Map(this.#memory.members(...given)),
    );
  }
  cached(...given: Parameters<MemoryBackplane["cached"]>) {
    return this.#later("cached", () => this.#memory.cached(...given));
  }
  occupancy(...given: Parameters<MemoryBackplane["occupancy"]>) {
    return this.#later("occupancy", () => this.#memory.occupancy(...given));
  }
  occupied(...given: Parameters<MemoryBackplane["occupied"]>) {
    return this.#later("occupied", () => this.#memory.occupied(...given));
  }
  async close(): Promise<void> {
    this.closes++;
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    this.#memory.close();
  }

  #later<T>(method: keyof Backplane, call: () => T): Promise<T> {
    if (this.closes > 0) this.afterClose.push(method);
    const answer = (async () => {
      await this.turn(method, false);
      const result = call();
      await this.turn(method, true);
      return result;
    })();
    this.#pending.add(answer);
    const done = () => this.#pending.delete(answer);
    answer.then(done, done);
    return answer;
  }
}

/** Registers a test against each kind of backplane. */
export function backplaneTest(
  name: string,
  fn: (start: (options?: PusherOptions) => TestServer) => Promise<void>,
): void {
  Deno.test(name, () => fn(serve));
  Deno.test(
    `${name}, behind a backplane that answers later`,
    () =>
      fn((options) => serve({ backplane: new SlowBackplane(), ...options })),
  );
}

/** A backplane whose first answer to a join waits for `answer`. */
export function lateJoin() {
  const backplane = new SlowBackplane();
  const joined = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  let isFirst = true;
  backplane.turn = async (method, isAfter) => {
    if (method !== "join" || !isAfter || !isFirst) return;
    isFirst = false;
    joined.resolve();
    await answer.promise;
  };
  const joining = () => within(DEADLINE_MS, "join", joined.promise);
  return { backplane, joining, answer: answer.resolve };
}

// ---- Server -----------------------------------------------------------------

/** Handlers around the server's own in a cascade. */
export interface Around {
  before?: Handler[];
  after?: Handler[];
}

/** How to connect a client. */
export interface ConnectInit {
  /** @default {"?protocol=7"} */
  query?: string;
  /** What stands before `/app/`, such as `/r/{session}`. */
  path?: string;
  app?: App;
  headers?: Record<string, string>;
}

/** A server on a port of its own. */
export class TestServer implements AsyncDisposable {
  readonly pusher: Pusher;
  readonly journal = new Journal();
  /** The app that clients and requests belong to unless they name another. */
  readonly app: App;
  readonly port: number;
  /** Where it is, the configured path included and no slash at the end. */
  readonly url: string;
  readonly wsUrl: string;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor(options: PusherOptions, { before = [], after = [] }: Around) {
    const isNamed = options.apps !== undefined;
    this.pusher = new Pusher({
      ...(isNamed ? {} : { appId: APP.id, key: APP.key, secret: APP.secret }),
      ...options,
    });
    this.app = options.apps?.[0] ?? {
      id: options.appId ?? APP.id,
      key: options.key ?? APP.key,
      secret: options.secret ?? APP.secret,
    };
    this.journal.listen(this.pusher);
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      this.pusher.cascade(...before, this.pusher.handler, ...after),
    );
    this.port = this.#server.addr.port;
    this.url = `http://127.0.0.1:${this.port}${options.path ?? ""}`;
    this.wsUrl = this.url.replace("http", "ws");
  }

  /** Opens a socket without waiting for anything. */
  dial(init: ConnectInit = {}): Client {
    const { query = "?protocol=7", path = "", app = this.app, headers } = init;
    const key = encodeURIComponent(app.key);
    const url = `${this.wsUrl}${path}/app/${key}${query}`;
    return new Client(url, app, headers);
  }

  /** Connects a client. */
  async connect(init?: ConnectInit): Promise<Client> {
    const client = this.dial(init);
    await client.established();
    return client;
  }

  /** Connects several clients, one after the other. */
  async connectAll(count: number): Promise<Clients> {
    const clients = new Clients();
    for (let i = 0; i < count; i++) clients.push(await this.connect());
    return clients;
  }

  /** Opens a socket that has to be refused; how it was. */
  async turnsAway(init?: ConnectInit): Promise<Closing> {
    await using client = this.dial(init);
    return await client.turnedAway();
  }

  /** A TCP connection to the server. */
  async raw(): Promise<RawClient> {
    return await RawClient.connect(this.port);
  }

  /** Sends a signed request to the HTTP API; `path` follows the app's id. */
  async api(
    method: string,
    path: string,
    init: ApiInit = {},
  ): Promise<Answer> {
    const request = signedRequest(this.url, method, path, {
      app: this.app,
      ...init,
    });
    return checked(await read(await fetch(request)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(async () => {
      await within(DEADLINE_MS, "end of close", this.pusher.close());
      await within(DEADLINE_MS, "end of shutdown", this.#server.shutdown());
      await this.journal.settled();
    });
  }
}

/** Several clients that are released together. */
export class Clients extends Array<Client> implements AsyncDisposable {
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.map((client) => client.close()));
  }
}

/** Starts a server; everything about it is released with it. */
export function serve(
  options: PusherOptions = {},
  around: Around = {},
): TestServer {
  return new TestServer(options, around);
}
