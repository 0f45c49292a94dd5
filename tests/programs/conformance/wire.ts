/**
 * What the conformance items are written with: raw sockets that speak frame by
 * frame, the HTTP API, and signatures made from the text of the protocol. It
 * knows no server in particular.
 *
 * @module
 */
import { createHash, createHmac } from "node:crypto";
import { within } from "../../support/deadline.ts";

/** For everything that is awaited; what passes takes milliseconds. */
export const DEADLINE_MS = 8_000;

/** Who an app is. */
export interface App {
  readonly id: string;
  readonly key: string;
  readonly secret: string;
  readonly enabled?: boolean;
}

// ---- Expectations -----------------------------------------------------------

/** Something the protocol asks for and the server does not do. */
export class NotHeld extends Error {
  override name = "NotHeld";
}

/** How much of a value fits into a message. */
const SHOWN_LENGTH = 160;

/** A value as short text. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > SHOWN_LENGTH ? `${text.slice(0, SHOWN_LENGTH)}…` : text;
}

/** Expects a value equal to another, whatever the order of its keys. */
export function same(seen: unknown, expected: unknown, what: string): void {
  if (canonical(seen) === canonical(expected)) return;
  throw new NotHeld(`${what}: expected ${show(expected)}, saw ${show(seen)}`);
}

/** Expects a condition. */
export function hold(condition: boolean, what: string): asserts condition {
  if (!condition) throw new NotHeld(what);
}

function canonical(value: unknown): string | undefined {
  return JSON.stringify(
    value,
    (_key, part) =>
      typeof part === "object" && part !== null && !Array.isArray(part)
        ? Object.fromEntries(Object.entries(part).sort())
        : part,
  );
}

/** Waits; only for what the protocol measures in time. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Values that arrive one by one and are taken in order. */
export class Queue<T> {
  readonly #values: T[] = [];
  #end: string | undefined;
  #wake = () => {};

  push(value: T): void {
    this.#values.push(value);
    this.#wake();
  }

  /** Nothing comes any more, for the reason given. */
  end(reason: string): void {
    this.#end = reason;
    this.#wake();
  }

  /** Takes what is there. */
  drain(): T[] {
    return this.#values.splice(0);
  }

  /** Takes all values up to the first one that fits, that one included. */
  async upTo(
    fits: (value: T) => boolean,
    what: string,
    ms = DEADLINE_MS,
  ): Promise<T[]> {
    const deadline = performance.now() + ms;
    for (;;) {
      const index = this.#values.findIndex(fits);
      if (index >= 0) return this.#values.splice(0, index + 1);
      const end = this.#end && `${this.#end} before ${what}`;
      hold(this.#end === undefined, `${end}; saw ${show(this.#values)}`);
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await within(Math.max(1, deadline - performance.now()), what, promise)
        .catch(() => {
          const seen = show(this.#values);
          throw new NotHeld(`no ${what} in ${ms} ms; saw ${seen}`);
        });
    }
  }
}

// ---- Signatures -------------------------------------------------------------

/** Lower-case hex HMAC-SHA256. */
export function hmac(secret: string, text: string): string {
  return createHmac("sha256", secret).update(text, "utf8").digest("hex");
}

/** The auth string of a subscription. */
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

/** The auth string of a sign-in. */
export function userAuth(
  app: App,
  socketId: string,
  userData: string,
): string {
  return `${app.key}:${hmac(app.secret, `${socketId}::user::${userData}`)}`;
}

/** Query parameters; a list repeats one, and `null` leaves one out. */
export type Query = Record<string, string | string[] | null>;

/** A request to the HTTP API with its signature among the parameters. */
export interface Signed {
  readonly method: string;
  /** As it is sent. */
  readonly path: string;
  readonly params: [name: string, value: string][];
  readonly body: string;
}

/** What to sign differently. */
export interface SignInit {
  query?: Query;
  body?: unknown;
  /** The path to sign, where it is not the one that is sent. */
  signedPath?: string;
}

/** Signs a request; the path follows `/apps/{id}`. */
export function signed(
  app: App,
  method: string,
  path: string,
  { query = {}, body, signedPath = path }: SignInit = {},
): Signed {
  const text = body === undefined || typeof body === "string"
    ? body ?? ""
    : JSON.stringify(body);
  const all: Query = {
    auth_key: app.key,
    auth_timestamp: `${Math.floor(Date.now() / 1000)}`,
    auth_version: "1.0",
    body_md5: text === "" ? null : createHash("md5").update(text).digest("hex"),
    ...query,
  };
  const params = Object.entries(all).flatMap(([name, value]) =>
    (value === null ? [] : [value].flat())
      .map((one): [string, string] => [name, one])
  );
  const toSign = params
    .map(([name, value]): [string, string] => [name.toLowerCase(), value])
    .sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
    .map((pair) => pair.join("="))
    .join("&");
  const base = `/apps/${app.id}`;
  const lines = [method, base + signedPath, toSign];
  params.push(["auth_signature", hmac(app.secret, lines.join("\n"))]);
  return { method, path: base + path, params, body: text };
}

// ---- HTTP API ---------------------------------------------------------------

/** A response, read. */
export interface Answer {
  readonly status: number;
  readonly text: string;
  /** The body, where it is JSON. */
  // deno-lint-ignore no-explicit-any -- every item knows what it asked for
  readonly body: any;
}

/** The HTTP API of an app. */
export class Api {
  readonly #origin: string;
  readonly app: App;

  constructor(origin: string, app: App) {
    this.#origin = origin;
    this.app = app;
  }

  /** Sends a signed request, with its query written as given. */
  async send(
    { method, path, params, body }: Signed,
    search = `${new URLSearchParams(params)}`,
  ): Promise<Answer> {
    const response = await within(
      DEADLINE_MS,
      `answer to ${method} ${path}`,
      fetch(`${this.#origin}${path}?${search}`, {
        method,
        headers: { "content-type": "application/json" },
        body: body === "" ? null : body,
      }),
    );
    const text = await response.text();
    return { status: response.status, text, body: parseJson(text) };
  }

  get(path: string, query: Query = {}): Promise<Answer> {
    return this.send(signed(this.app, "GET", path, { query }));
  }

  post(path: string, body: unknown): Promise<Answer> {
    return this.send(signed(this.app, "POST", path, { body }));
  }

  /** Publishes one event, which has to be accepted. */
  async publish(
    channel: string | string[],
    name: string,
    data: string,
    more: Record<string, unknown> = {},
  ): Promise<Answer> {
    const channels = [channel].flat();
    const answer = await this.post("/events", {
      name,
      channels,
      data,
      ...more,
    });
    same(answer.status, 200, `publish answers ${answer.text.slice(0, 80)}`);
    return answer;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// ---- Sockets ----------------------------------------------------------------

/** One frame from the server. */
export interface Frame {
  event: string;
  channel?: string;
  data?: unknown;
  user_id?: string;
}

/** The decoded `data` of a frame. */
// deno-lint-ignore no-explicit-any -- every item knows what it waits for
export function dataOf({ data }: Frame): any {
  if (typeof data !== "string") return data;
  const value = parseJson(data);
  hold(value !== undefined, `data is not JSON: ${show(data)}`);
  return value;
}

/** All frames that came to any socket, and those of them without an event. */
export const traffic = { frames: 0, faults: [] as string[] };

/** How a subscription is signed. */
export interface SubscribeInit {
  /** The member, on a presence channel. */
  member?: unknown;
  /** The text of `channel_data`, where it is not the JSON of a member. */
  channelData?: string;
  /** Replaces the right signature; `null` sends none. */
  auth?: string | null;
}

/** A connection that speaks the protocol frame by frame. */
export class Socket {
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<{ code: number; reason: string }>;
  /** Set once the server has said it. */
  id = "";
  readonly app: App;
  readonly #socket: WebSocket;
  readonly #frames = new Queue<Frame>();

  constructor(url: string, app: App) {
    this.app = app;
    this.#socket = new WebSocket(url);
    this.#socket.onmessage = ({ data }) => {
      traffic.frames++;
      const frame = parseJson(data) as Frame | undefined;
      if (typeof frame?.event === "string") this.#frames.push(frame);
      else traffic.faults.push(String(data));
    };
    this.closed = new Promise((resolve) => {
      this.#socket.onclose = ({ code, reason }) => {
        this.#frames.end(`closed with ${code}`);
        resolve({ code, reason });
      };
    });
  }

  /** Takes the first frame, which has to establish the connection. */
  async established(): Promise<Frame> {
    const frame = await this.next("pusher:connection_established");
    this.id = dataOf(frame).socket_id;
    return frame;
  }

  /** Sends text and bytes as they are, anything else as JSON. */
  send(frame: unknown): void {
    const isRaw = typeof frame === "string" || frame instanceof Uint8Array;
    this.#socket.send(isRaw ? frame as string : JSON.stringify(frame));
  }

  /** Takes the next frame, which has to be the named event. */
  async next(event?: string, ms?: number): Promise<Frame> {
    const what = event ?? "frame";
    const [frame] = await this.#frames.upTo(() => true, what, ms);
    hold(
      event === undefined || frame?.event === event,
      `expected ${event}, saw ${show(frame)}`,
    );
    return frame as Frame;
  }

  /** Takes all frames up to the named event; that one is the last. */
  upTo(event: string, ms?: number): Promise<Frame[]> {
    return this.#frames.upTo((frame) => frame.event === event, event, ms);
  }

  /** Takes what has come so far. */
  drain(): Frame[] {
    return this.#frames.drain();
  }

  /** Takes all that comes before the answer to a ping that is sent now. */
  async fence(): Promise<Frame[]> {
    this.ping();
    return (await this.upTo("pusher:pong")).slice(0, -1);
  }

  /** Expects that the server has had nothing to say. */
  async silence(what: string): Promise<void> {
    same(await this.fence(), [], what);
  }

  ping(): void {
    this.send({ event: "pusher:ping", data: {} });
  }

  /** Expects `pusher:error` with a code, and returns the frame. */
  async error(code?: number): Promise<Frame> {
    const frame = await this.next("pusher:error");
    const seen = dataOf(frame)?.code;
    if (code !== undefined) same(seen, code, `code of ${show(frame)}`);
    return frame;
  }

  /** Asks for a channel, signed where that is needed. */
  request(channel: string, init: SubscribeInit = {}): void {
    const channelData = init.channelData ??
      (init.member === undefined ? undefined : JSON.stringify(init.member));
    const needsAuth = /^(private|presence)-/.test(channel);
    const auth = init.auth !== undefined
      ? init.auth
      : needsAuth
      ? channelAuth(this.app, this.id, channel, channelData)
      : "";
    this.send({
      event: "pusher:subscribe",
      data: {
        channel,
        ...(auth === null ? {} : { auth }),
        ...(channelData === undefined ? {} : { channel_data: channelData }),
      },
    });
  }

  /** Asks for a channel and takes the answer. */
  async subscribe(channel: string, init?: SubscribeInit): Promise<Frame> {
    this.request(channel, init);
    const frame = await this.next();
    hold(
      /:subscription_(succeeded|error)$/.test(frame.event),
      `expected an answer to subscribe, saw ${show(frame)}`,
    );
    same(frame.channel, channel, "channel of the answer");
    return frame;
  }

  /** Subscribes, which has to succeed, and returns what the answer says. */
  // deno-lint-ignore no-explicit-any -- every item knows what it asked for
  async join(channel: string, init?: SubscribeInit): Promise<any> {
    const frame = await this.subscribe(channel, init);
    const event = "pusher_internal:subscription_succeeded";
    hold(frame.event === event, `expected ${event}, saw ${show(frame)}`);
    return frame.data === undefined ? undefined : dataOf(frame);
  }

  /** Subscribes, which has to fail, and returns why, as `type status`. */
  async refused(channel: string, init?: SubscribeInit): Promise<string> {
    const frame = await this.subscribe(channel, init);
    const event = "pusher:subscription_error";
    hold(frame.event === event, `expected ${event}, saw ${show(frame)}`);
    const { type, status } = dataOf(frame);
    return `${type} ${status}`;
  }

  /** Leaves a channel, and waits until the server knows. */
  async leave(channel: string): Promise<void> {
    this.send({ event: "pusher:unsubscribe", data: { channel } });
    await this.fence();
  }

  /** Sends a client event. */
  trigger(channel: string, event: string, data?: unknown): void {
    this.send({ event, channel, data });
  }

  /** Asks to sign in; what is not text is sent as JSON. */
  requestSignin(user: unknown, auth?: string): void {
    const user_data = typeof user === "string" ? user : JSON.stringify(user);
    auth ??= userAuth(this.app, this.id, user_data);
    this.send({ event: "pusher:signin", data: { auth, user_data } });
  }

  /** Signs in, which has to succeed, and returns the echoed `user_data`. */
  async signin(user: unknown): Promise<string> {
    this.requestSignin(user);
    return dataOf(await this.next("pusher:signin_success")).user_data;
  }

  /** Expects the server to close, and returns the code. */
  async closing(ms = DEADLINE_MS): Promise<number> {
    const { code } = await within(ms, "close", this.closed).catch(() => {
      throw new NotHeld(`not closed in ${ms} ms; saw ${show(this.drain())}`);
    });
    return code;
  }

  /** Closes the connection and waits until that is done. */
  async close(): Promise<void> {
    this.#socket.close();
    await within(DEADLINE_MS, "close", this.closed);
  }
}
