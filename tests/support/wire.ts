/**
 * The protocol as it is on the wire: signatures, and clients that speak it frame
 * by frame, over the runtime's WebSocket or over TCP.
 *
 * All of it is made from the text of the protocol, never by the server's own
 * code, so that it can find the server wrong. It knows no server in particular
 * and imports no package that has to be downloaded.
 *
 * @module
 */
import { createHash, createHmac } from "node:crypto";
import { DEADLINE_MS, within } from "./deadline.ts";
import { hold, Queue, show } from "./queue.ts";

/** Who an app is. */
export interface App {
  id: string;
  key: string;
  secret: string;
}

/** The app that the published examples of signatures are made with. */
export const DOCS: App = {
  id: "3",
  key: "278d425bdf160c739803",
  secret: "7ad3773142a6692b25b8",
};

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

/** The auth string with which a socket may sign in. */
export function userAuth(app: App, socketId: string, userData: string): string {
  return `${app.key}:${hmac(app.secret, `${socketId}::user::${userData}`)}`;
}

/** Query parameters; a list repeats a parameter, and `null` leaves it out. */
export type Query = Record<string, string | string[] | null>;

/** What a signed request may have besides method and path. */
export interface SignInit {
  /** Query parameters, which are signed. They may override the `auth_…` ones. */
  query?: Query;
  /** A string or bytes are sent as they are, anything else as JSON. */
  body?: unknown;
  /** The path to sign, where it differs from the path that is sent. */
  signedPath?: string;
}

/** A request to the HTTP API, with its signature among the parameters. */
export interface Signed {
  readonly method: string;
  readonly path: string;
  readonly params: [name: string, value: string][];
  readonly body: Uint8Array<ArrayBuffer>;
}

/** Signs a request to the HTTP API. */
export function sign(
  app: App,
  method: string,
  path: string,
  { query = {}, body, signedPath = path }: SignInit = {},
): Signed {
  const bytes = bodyBytes(body);
  const all: Query = {
    auth_key: app.key,
    auth_timestamp: `${Math.floor(Date.now() / 1000)}`,
    auth_version: "1.0",
    body_md5: bytes.length > 0
      ? createHash("md5").update(bytes).digest("hex")
      : null,
    ...query,
  };
  const params = Object.entries(all).flatMap(([name, value]) =>
    (value === null ? [] : [value].flat())
      .map((one): [string, string] => [name, one])
  );
  const text = params
    .map(([name, value]): [string, string] => [name.toLowerCase(), value])
    .sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
    .map((pair) => pair.join("="))
    .join("&");
  const signature = hmac(app.secret, [method, signedPath, text].join("\n"));
  params.push(["auth_signature", signature]);
  return { method, path, params, body: bytes };
}

function bodyBytes(body: unknown): Uint8Array<ArrayBuffer> {
  if (body instanceof Uint8Array) return body as Uint8Array<ArrayBuffer>;
  if (body === undefined) return new Uint8Array(0);
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return new TextEncoder().encode(text);
}

// ---- Frames -----------------------------------------------------------------

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

/** The decoded `data` of a frame. */
// deno-lint-ignore no-explicit-any -- every test knows what it waits for
export function dataOf({ data }: Frame): any {
  if (typeof data !== "string") return data;
  try {
    return JSON.parse(data);
  } catch {
    hold(false, `Data is not JSON: ${show(data)}`);
  }
}

/** Parses a frame, and checks no more than that it has an event. */
export function decodeFrame(text: unknown): Frame {
  const frame = JSON.parse(String(text));
  hold(typeof frame?.event === "string", `Frame has no event: ${show(text)}`);
  return frame;
}

// ---- WebSocket --------------------------------------------------------------

/** How a subscription is signed, and what else it asks for. */
export interface SubscribeInit {
  /** The member, on a presence channel. */
  member?: unknown;
  /** The text of `channel_data`, where it is not the JSON of a member. */
  channelData?: string;
  /** Replaces the right signature; `null` sends none. */
  auth?: string | null;
  /** The position after which everything is wanted. */
  recover?: unknown;
  /** How many of the last events are wanted. */
  rewind?: unknown;
}

/** How a sign-in is signed, and what else it asks for. */
export interface SignInInit {
  /** Replaces the right signature. */
  auth?: unknown;
  /** The position after which everything is wanted. */
  recover?: unknown;
}

/** Who signs in: the fields of a user, or the exact text of `user_data`. */
export type SignInUser = object | string;

/** How a connection was closed. */
export interface Closing {
  code: number;
  reason: string;
}

/**
 * A connection that speaks the protocol frame by frame. It answers nothing by
 * itself.
 */
export class Socket {
  /** Awaited before a fence, where the server itself has to hear something first. */
  beforeFence: () => Promise<void> = () => Promise.resolve();
  /** Resolves when the connection has closed, whichever side closed it. */
  readonly closed: Promise<Closing>;
  /** Set once the server has established the connection. */
  socketId = "";
  readonly app: App;
  /** Frames that have come and have not been taken yet. */
  protected readonly frames: Queue<Frame> = new Queue<Frame>();
  /** How long the server may take to answer. */
  protected readonly deadlineMs: number = DEADLINE_MS;
  readonly #socket: WebSocket;

  /** @param SocketClass The runtime's own, or one that connects in another way. */
  constructor(
    url: string,
    app: App,
    headers?: Record<string, string>,
    SocketClass: typeof WebSocket = WebSocket,
  ) {
    this.app = app;
    this.#socket = headers
      ? new SocketClass(url, { headers })
      : new SocketClass(url);
    this.#socket.onmessage = ({ data }) => {
      try {
        for (const frame of this.decode(data)) this.frames.push(frame);
      } catch (error) {
        this.frames.fail(error);
      }
    };
    this.closed = new Promise((resolve) => {
      this.#socket.onclose = ({ code, reason }) => {
        this.frames.end(`closed with ${code}`);
        resolve({ code, reason });
      };
    });
  }

  /** The frames of one text; whatever throws here fails the next call. */
  protected decode(text: unknown): Frame[] {
    return [decodeFrame(text)];
  }

  /** Takes the first frame, which has to establish the connection. */
  async established(): Promise<Frame> {
    const frame = await this.next("pusher:connection_established");
    this.socketId = dataOf(frame).socket_id;
    return frame;
  }

  /** Sends text and bytes as they are, anything else as JSON. */
  send(frame: unknown): void {
    const isRaw = typeof frame === "string" || frame instanceof Uint8Array;
    this.#socket.send(isRaw ? frame as string : JSON.stringify(frame));
  }

  /** Takes the next frame, which has to be the named event. */
  async next(event?: string, ms = this.deadlineMs): Promise<Frame> {
    const frame = await this.frames.next(event ?? "frame", ms);
    hold(
      event === undefined || frame.event === event,
      `Expected ${event}, saw ${show(frame)}`,
    );
    return frame;
  }

  /** Takes all frames up to the named event, which is the last of them. */
  upTo(event: string, ms = this.deadlineMs): Promise<Frame[]> {
    return this.frames.upTo((frame) => frame.event === event, event, ms);
  }

  /** Takes the frames that have come so far. */
  drain(): Frame[] {
    return this.frames.drain();
  }

  /** Sends a ping. */
  ping(): void {
    this.send({ event: "pusher:ping", data: {} });
  }

  /**
   * Takes every frame up to the answer of a ping that is sent now: all that
   * the server had to say so far, without a pause.
   */
  async framesUntilPong(): Promise<Frame[]> {
    await this.beforeFence();
    this.ping();
    const frames: Frame[] = [];
    for (;;) {
      const frame = await this.next();
      if (frame.event === "pusher:pong") return frames;
      frames.push(frame);
    }
  }

  /** Expects that the server has nothing to say. */
  async silence(what = "nothing"): Promise<void> {
    const frames = await this.framesUntilPong();
    hold(frames.length === 0, `Expected ${what}, saw ${show(frames)}`);
  }

  /** Asks for a channel, signed where that is needed. */
  requestSubscribe(channel: string, init: SubscribeInit = {}): void {
    const channelData = init.channelData ??
      (init.member === undefined ? undefined : JSON.stringify(init.member));
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
    hold(
      /:subscription_(succeeded|error)$/.test(frame.event) &&
        frame.channel === channel,
      `Expected an answer for ${channel}, saw ${show(frame)}`,
    );
    return frame;
  }

  /** Subscribes, which has to succeed, and returns the confirmation. */
  async enter(channel: string, init?: SubscribeInit): Promise<Frame> {
    const frame = await this.subscribe(channel, init);
    const event = "pusher_internal:subscription_succeeded";
    hold(frame.event === event, `Expected ${event}, saw ${show(frame)}`);
    return frame;
  }

  /** Subscribes, which has to succeed, and returns the confirmation's data. */
  // deno-lint-ignore no-explicit-any -- every test knows what it asked for
  async join(channel: string, init?: SubscribeInit): Promise<any> {
    return dataOf(await this.enter(channel, init));
  }

  /** Subscribes, which has to fail, and returns why, as `type status`. */
  async refused(channel: string, init?: SubscribeInit): Promise<string> {
    const frame = await this.subscribe(channel, init);
    const event = "pusher:subscription_error";
    hold(frame.event === event, `Expected ${event}, saw ${show(frame)}`);
    const { type, status } = dataOf(frame);
    return `${type} ${status}`;
  }

  /** Unsubscribes; the server does not answer. */
  unsubscribe(channel: string): void {
    this.send({ event: "pusher:unsubscribe", data: { channel } });
  }

  /** Asks to sign in. */
  requestSignIn(user: SignInUser, { auth, recover }: SignInInit = {}): void {
    const user_data = typeof user === "string" ? user : JSON.stringify(user);
    auth ??= userAuth(this.app, this.socketId, user_data);
    this.send({ event: "pusher:signin", data: { auth, user_data, recover } });
  }

  /** Signs in, which has to succeed, and returns the confirmation. */
  async signIn(user: SignInUser, init?: SignInInit): Promise<Frame> {
    this.requestSignIn(user, init);
    return await this.next("pusher:signin_success");
  }

  /** Closes the connection and waits until that is done. */
  async close(): Promise<Closing> {
    this.#socket.close();
    return await within(this.deadlineMs, "close", this.closed);
  }
}

// ---- TCP --------------------------------------------------------------------

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
  readonly #decode: (text: string) => Frame;
  #pending = EMPTY as Uint8Array;
  #isOpen = true;

  private constructor(
    connection: Deno.TcpConn,
    decode: (text: string) => Frame,
  ) {
    this.#connection = connection;
    this.#decode = decode;
  }

  static async connect(
    port: number,
    { hostname = "127.0.0.1", decode = decodeFrame }: {
      hostname?: string;
      decode?: (text: string) => Frame;
    } = {},
  ): Promise<RawClient> {
    return new RawClient(await Deno.connect({ hostname, port }), decode);
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

  /** Sends a frame of the protocol; false when the server has hung up. */
  async send(frame: unknown): Promise<boolean> {
    return await this.write(wireFrame(JSON.stringify(frame)));
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

  /** Reads the body that belongs to a head, which says how long it is. */
  async readBody(head: string): Promise<string> {
    const length = Number(/^content-length: (\d+)/im.exec(head)?.[1] ?? 0);
    while (this.#pending.length < length && await this.#more());
    const body = this.#pending.slice(0, length);
    this.#pending = this.#pending.slice(length);
    return new TextDecoder().decode(body);
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
    hold(frame?.opcode === 1, `Expected text, saw ${show(frame)}`);
    return this.#decode(new TextDecoder().decode(frame.body));
  }

  /** Reads frames until the server closes: the code, or `null` without one. */
  async readClose(): Promise<number | null> {
    for (;;) {
      const frame = await this.readFrame();
      if (frame === null) return null;
      if (frame.opcode === 1) {
        this.#decode(new TextDecoder().decode(frame.body));
      }
      if (frame.opcode === 8) {
        const [high, low = 0] = frame.body;
        return high === undefined ? null : high * 256 + low;
      }
    }
  }

  /** Reads until the server hangs up. */
  async readAll(): Promise<string> {
    return new TextDecoder("latin1").decode(await this.readBytes());
  }

  /** Reads until the server hangs up. */
  async readBytes(): Promise<Uint8Array> {
    while (await this.#more());
    const bytes = this.#pending;
    this.#pending = EMPTY;
    return bytes;
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
