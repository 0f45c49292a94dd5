/**
 * A server on a port of its own, or in memory, and raw clients of it: what the tests of the
 * server are written with. Rules that hold for every frame and every hook are
 * checked here, for every test.
 *
 * @module
 */
import {
  type Handler,
  Pusher,
  type PusherOptions,
  type Transport,
} from "@glitz/pusher";
import { type TestPusher, testPusher } from "@glitz/pusher/testing";
import { assert, assertEquals, assertFalse } from "@std/assert";
import type { LaggingBackplane } from "./backplanes.ts";
import { clockOption } from "./clock.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import {
  type App,
  type Closing,
  dataOf,
  type Frame,
  type Position,
  RawClient,
  sign,
  type SignInit,
  Socket,
} from "./wire.ts";

/** The app that {@linkcode serve} sets up when the options name none. */
export const APP: App = {
  id: "app-id",
  key: "app-key",
  secret: "the-app-secret",
};

/** Two apps, for tests in which they must not meet. */
export const TWO_APPS: [App, App] = [
  { id: "a", key: "key-a", secret: "secret-a" },
  { id: "b", key: "key-b", secret: "secret-b" },
];

const faults: unknown[] = [];

/**
 * Cleans up after a test. A failure of the clean-up is thrown when the test has
 * ended, so that it does not hide the test's own failure.
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

// ---- HTTP API ---------------------------------------------------------------

/** How to send a request that is signed. */
export interface ApiInit extends SignInit {
  /** Replaces query parameters after signing; `null` removes one. */
  tamper?: Record<string, string | null>;
  /** Replaces the body after signing. */
  tamperedBody?: string;
  /** The app that signs. */
  app?: App;
  headers?: Record<string, string>;
}

/** An HTTP API request to `{base}/apps/{id}{path}`, signed. */
export function signedRequest(
  base: string,
  method: string,
  path: string,
  { app = APP, tamper = {}, tamperedBody, headers, ...init }: ApiInit = {},
): Request {
  const { origin, pathname } = new URL(base);
  const id = encodeURIComponent(app.id);
  const fullPath = `${pathname.replace(/\/$/, "")}/apps/${id}${path}`;
  const { params, body } = sign(app, method, fullPath, init);
  const search = new URLSearchParams(params);
  for (const [name, value] of Object.entries(tamper)) {
    if (value === null) search.delete(name);
    else search.set(name, value);
  }
  const sent = tamperedBody ?? body;
  const hasBody = method !== "GET" && method !== "HEAD" && sent.length > 0;
  return new Request(`${origin}${fullPath}?${search}`, {
    method,
    headers: { "content-type": "application/json", ...headers },
    body: hasBody ? sent : null,
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

/** Checks that the answer is JSON, and that a refusal is one sentence. */
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

/** Extensions that depend on the server and the page, and not on a question. */
const PAGE_EXTENSIONS = new Set([
  "auth",
  "/pusher/auth",
  "/pusher/user-auth",
  "credentials",
]);

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
 * every frame. The client must have asked for each extension of the protocol, and
 * the server must have granted it.
 */
export class FrameReader {
  readonly #asked: ReadonlySet<string>;
  /** Whether the server may lose messages of a client that cannot recover. */
  allowsLoss = false;
  readonly #isSession: boolean;
  #granted: ReadonlySet<string> = new Set();
  /** The last offset of each channel, on a connection that recovers. */
  readonly #offsets = new Map<string, number>();
  /** Channels whose next frame has to be `pusher:recovery_failed`. */
  readonly #failing = new Set<string>();
  /** Channels on which the cached event may follow, which has no offset. */
  readonly #cached = new Set<string>();

  /** @param url Where the client has connected; without it the client is plain. */
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
    const label = `in ${text.slice(0, 300)}`;
    if (!Array.isArray(whole)) return [this.#check(whole, label)];
    assert(this.#granted.has("batch"), `Batch unasked ${label}`);
    assert(whole.length > 0, `Nothing ${label}`);
    return whole.map((frame) =>
      this.#check(frame, `in ${JSON.stringify(frame).slice(0, 300)}`)
    );
  }

  #check(frame: Frame, label: string): Frame {
    const { event, channel, data, user_id, ...rest } = frame;
    assert(typeof event === "string", `No event ${label}`);
    if (this.#granted.has("recover")) this.#checkPosition(frame, label);
    else assertEquals(rest, {}, `Unknown fields ${label}`);
    if (channel !== undefined) assert(typeof channel === "string", label);
    if (user_id !== undefined) assert(typeof user_id === "string", label);
    if (event === "pusher:error") {
      // The assertions are what finds out whether it is such an object.
      const { code, message, ...more } = data as Record<string, unknown>;
      assertEquals(more, {}, label);
      assert(ERROR_CODES.has(code as number), `Code not in the table ${label}`);
      assert(typeof message === "string" && message !== "", label);
    } else if (event === "pusher:subscription_error") {
      assert(typeof channel === "string", `No channel ${label}`);
      const { type, status, error, ...more } = data as Record<string, unknown>;
      assertEquals(more, {}, label);
      const isKnown = REFUSALS[type as string]?.includes(status as number);
      assert(isKnown, `Not in table ${label}`);
      assert(typeof error === "string" && error !== "", label);
    } else {
      assert(data === undefined || typeof data === "string", label);
    }
    if (event === ESTABLISHED) this.#grant(dataOf(frame).extensions, label);
    if (event === RECOVERY_FAILED) {
      const canRecover = this.#isSession || this.#granted.has("recover");
      assert(canRecover || this.allowsLoss, label);
      assertEquals(data, JSON.stringify({ channel }), label);
    }
    return frame;
  }

  /** The server names no extension to a client that asked for none. */
  #grant(extensions: unknown, label: string): void {
    if (extensions === undefined) return;
    assert(this.#asked.size > 0, `Extensions unasked ${label}`);
    assert(Array.isArray(extensions), label);
    this.#granted = new Set(extensions);
    assertEquals(this.#granted.size, extensions.length, label);
    for (const extension of extensions) {
      const isFit = PAGE_EXTENSIONS.has(extension) ||
        this.#asked.has(extension);
      assert(isFit, `Extension unasked ${label}`);
    }
  }

  /** Offsets of a channel grow from the position that it began with. */
  #checkPosition(frame: Frame, label: string): void {
    const { event, channel = "", offset, position, recovered } = frame;
    const { event: _, channel: __, data: ___, user_id: ____, ...rest } = frame;
    for (const field of Object.keys(rest)) {
      const isKnown = ["offset", "position", "recovered"].includes(field);
      assert(isKnown, `Unknown field ${field} ${label}`);
    }
    const isAwaited = this.#failing.delete(channel);
    if (event === RECOVERY_FAILED) {
      // It may come at any time, and says where the channel goes on.
      assertEquals([offset, recovered], [undefined, undefined], label);
      assert(position !== undefined, `No position ${label}`);
      this.#offsets.set(channel, checkedOffset(position, label));
      return;
    }
    assert(!isAwaited, `A failure has to follow its confirmation ${label}`);
    if (event === SUCCEEDED || event === SIGNED_IN) {
      const what = event === SUCCEEDED ? channel : userChannelOf(frame);
      assertEquals(offset, undefined, label);
      this.#confirm(what, position, recovered, label);
      return;
    }
    assertEquals([position, recovered], [undefined, undefined], label);
    if (PROTOCOL_EVENT.test(event)) {
      assertEquals(offset, undefined, `Offset of a protocol frame ${label}`);
      return;
    }
    const isKept = this.#cached.delete(channel);
    if (offset !== undefined || !isKept) {
      assert(Number.isSafeInteger(offset), `No offset ${label}`);
      const before = this.#offsets.get(channel);
      assert(before !== undefined, `No position before ${label}`);
      assert((offset ?? 0) > before, `Not above ${before} ${label}`);
      this.#offsets.set(channel, offset ?? 0);
    }
  }

  #confirm(
    channel: string,
    position: Position | undefined,
    recovered: boolean | undefined,
    label: string,
  ): void {
    if (CACHE_CHANNEL.test(channel)) this.#cached.add(channel);
    if (position === undefined) {
      // Only a repeated one says nothing of where it begins.
      assert(this.#offsets.has(channel), `No position ${label}`);
      assertEquals(recovered, undefined, label);
      return;
    }
    this.#offsets.set(channel, checkedOffset(position, label));
    if (recovered === undefined) return;
    assert(typeof recovered === "boolean", label);
    if (!recovered) this.#failing.add(channel);
  }
}

function checkedOffset(position: Position, label: string): number {
  const { epoch, offset, ...more } = position;
  assertEquals(more, {}, label);
  assert(typeof epoch === "string" && epoch !== "", label);
  assert(Number.isSafeInteger(offset) && offset >= 0, label);
  return offset;
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

/**
 * A client that speaks the protocol, frame by frame. It answers nothing by
 * itself. The server pings a client with a session in its path now and then: only
 * `next("pusher:ping")` and {@linkcode acknowledge} see these pings.
 */
export class Client extends Socket implements AsyncDisposable {
  /** All texts that have arrived: a batch is one text. */
  readonly texts: string[] = [];
  /** All frames that have arrived, taken or not. */
  readonly log: Frame[] = [];
  readonly #reader: FrameReader;
  readonly #isSession: boolean;
  /** How many frames had arrived when the client last answered a ping. */
  #answered = 0;

  constructor(
    url: string,
    app = APP,
    headers?: Record<string, string>,
    SocketClass?: typeof WebSocket,
  ) {
    super(url, app, headers, SocketClass);
    this.#isSession = SESSION_PATH.test(url);
    this.#reader = new FrameReader(url);
  }

  /** From now on the server itself may lose messages, and says so. */
  allowLoss(): void {
    this.#reader.allowsLoss = true;
  }

  protected override decode(text: string): Frame[] {
    this.texts.push(text);
    const frames = this.#reader.read(text);
    this.log.push(...frames);
    return frames;
  }

  /** Takes the next frame, which has to be the named event. */
  override async next(event?: string, ms?: number): Promise<Frame> {
    for (;;) {
      const frame = await this.frames.next(event ?? "frame", ms);
      const isPing = frame.event === "pusher:ping";
      if (this.#isSession && isPing && event !== frame.event) continue;
      if (event !== undefined) {
        assertEquals(frame.event, event, JSON.stringify(frame).slice(0, 300));
      }
      return frame;
    }
  }

  /** Expects that the server has nothing to say. */
  override async silence(): Promise<void> {
    assertEquals(await this.framesUntilPong(), []);
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
      this.frames.check();
      await this.frames.arrival("pusher:ping");
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

  /** Takes the refusal of the connection, which says one thing in two ways. */
  async turnedAway(): Promise<Closing> {
    const { code, message } = dataOf(await this.next("pusher:error"));
    const closing = await within(DEADLINE_MS, "close", this.closed);
    assertEquals(closing, { code, reason: message });
    return closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(async () => {
      await this.close();
      this.frames.check();
    });
  }
}

// ---- Hooks ------------------------------------------------------------------

const HOOKS = [
  "connected",
  "disconnected",
  "channel_occupied",
  "channel_vacated",
  "member_added",
  "member_removed",
  "subscribed",
  "unsubscribed",
  "recovered",
  "refused",
  "backplane",
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
 * All calls of a server's hooks, or of several servers that share a backplane.
 * Each connection, channel, member and subscription has to begin and to end in
 * turns.
 */
export class Journal {
  /** All calls so far, in order. */
  readonly entries: Entry[] = [];
  readonly #untaken: Entry[] = [];
  /** What has begun more often than it has ended, or less often, and by how much. */
  readonly #present = new Map<string, number>();
  /** Whether two servers may tell of changes in the wrong order. */
  readonly #isShared: boolean;
  #fault: unknown;
  #wake = () => {};

  constructor({ isShared = false } = {}) {
    this.#isShared = isShared;
  }

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
  calls(...hooks: Entry["hook"][]): string[] {
    return this.entries
      .filter(({ hook }) => hooks.length === 0 || hooks.includes(hook))
      .map(({ hook, channel, userId }) =>
        [hook, channel, userId].filter((part) => part !== undefined).join(" ")
      );
  }

  /** Waits until everything has ended, and fails on errors that no test took. */
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
    const which = {
      connection: [socketId],
      channel: [channel],
      member: [channel, userId],
      subscription: [channel, socketId],
    }[what];
    const thing = [app, what, ...which].join(" ");
    const count = (this.#present.get(thing) ?? 0) + (begins ? 1 : -1);
    const slack = this.#isShared ? 1 : 0;
    if (count > 1 + slack || count < -slack) {
      this.#fault ??= new Error(`Hook ${hook} called twice: ${thing}`);
    }
    if (count === 0) this.#present.delete(thing);
    else this.#present.set(thing, count);
  }

  async #until(what: string, isDone: () => boolean): Promise<void> {
    while (!isDone()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const left = () => [...this.#present.keys()].join(", ");
      await within(DEADLINE_MS, what, promise).catch((error) => {
        throw new Error(`${error.message}; still present: ${left()}`);
      });
    }
  }
}

/** What begins and what ends with which hook. */
const TURNS: Partial<
  Record<
    Entry["hook"],
    [
      what: "connection" | "channel" | "member" | "subscription",
      begins: boolean,
    ]
  >
> = {
  connected: ["connection", true],
  disconnected: ["connection", false],
  channel_occupied: ["channel", true],
  channel_vacated: ["channel", false],
  member_added: ["member", true],
  member_removed: ["member", false],
  subscribed: ["subscription", true],
  unsubscribed: ["subscription", false],
};

// ---- Joints -----------------------------------------------------------------

/** A transport in memory; the test sets how much of it is buffered. */
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

/** A transport whose peer takes what it is sent when the test says so. */
export class SlowTransport extends MemoryTransport {
  override send(frame: string): void {
    super.send(frame);
    this.bufferedAmount += frame.length;
  }
}

// ---- Server -----------------------------------------------------------------

/** What is around a server. */
export interface Around {
  /** Handlers before the server's own in a cascade. */
  before?: Handler[];
  /** Handlers after it. */
  after?: Handler[];
  /** The journal of several servers, which the test settles. */
  journal?: Journal;
  /** Whether it needs no port: clients and requests come in memory. */
  inMemory?: boolean;
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

/** A server on a port of its own, or in memory. */
export class TestServer implements AsyncDisposable {
  readonly pusher: Pusher;
  readonly journal: Journal;
  /** The app that clients and requests belong to unless they name another. */
  readonly app: App;
  /** 0 in memory. */
  readonly port: number;
  /** Where it is, the configured path included and no slash at the end. */
  readonly url: string;
  readonly wsUrl: string;
  readonly #server: Deno.HttpServer<Deno.NetAddr> | undefined;
  readonly #memory: TestPusher | undefined;
  readonly #backplane: { drained?(): Promise<void> } | undefined;
  readonly #isAlone: boolean;

  constructor(
    options: PusherOptions,
    { before = [], after = [], journal, inMemory = false }: Around,
  ) {
    const isNamed = options.apps !== undefined;
    this.pusher = new Pusher({
      ...(isNamed ? {} : { appId: APP.id }),
      ...(isNamed || options.keys !== undefined
        ? {}
        : { key: APP.key, secret: APP.secret }),
      ...options,
    });
    const [{ id, ...own } = { id: options.appId, ...options }] = options.apps ??
      [];
    const { key, secret } = { ...own.keys?.[0], ...own };
    this.app = {
      id: id ?? APP.id,
      key: key ?? APP.key,
      secret: secret ?? APP.secret,
    };
    // Only one that lags has the method.
    this.#backplane = options.backplane as Partial<LaggingBackplane>;
    this.journal = journal ?? new Journal();
    this.#isAlone = journal === undefined;
    this.journal.listen(this.pusher);
    const handler = this.pusher.cascade(
      ...before,
      this.pusher.handler,
      ...after,
    );
    if (inMemory) {
      this.#memory = testPusher(this.pusher, { handler });
    } else {
      const at = { hostname: "127.0.0.1", port: 0, onListen() {} };
      this.#server = Deno.serve(at, handler);
    }
    this.port = this.#server?.addr.port ?? 0;
    const host = inMemory ? "localhost" : `127.0.0.1:${this.port}`;
    this.url = `http://${host}${options.path ?? ""}`;
    this.wsUrl = this.url.replace("http", "ws");
  }

  /** Opens a socket without waiting for anything. */
  dial(init: ConnectInit = {}): Client {
    const { query = "?protocol=7", path = "", app = this.app, headers } = init;
    const key = encodeURIComponent(app.key);
    const url = `${this.wsUrl}${path}/app/${key}${query}`;
    const client = new Client(url, app, headers, this.#memory?.WebSocket);
    client.beforeFence = () => this.drained();
    return client;
  }

  /** Waits until the backplane has delivered all that it has accepted. */
  async drained(): Promise<void> {
    await this.#backplane?.drained?.();
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

  /** Opens a socket that the server has to refuse; returns how. */
  async turnsAway(init?: ConnectInit): Promise<Closing> {
    await using client = this.dial(init);
    return await client.turnedAway();
  }

  /** A TCP connection to the server. */
  async raw(): Promise<RawClient> {
    return await RawClient.connect(this.port, { decode: parseFrame });
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
    return checked(await read(await this.fetch(request)));
  }

  /** Sends any request. */
  fetch(
    input: string | URL | Request,
    init?: RequestInit,
  ): Promise<Response> {
    return this.#memory?.fetch(input, init) ?? fetch(input, init);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(async () => {
      await within(DEADLINE_MS, "end of close", this.pusher.close());
      // The journal has all errors, so that nothing need print them.
      void this.#memory?.errors;
      const end = this.#server?.shutdown() ?? this.#memory?.close();
      await within(DEADLINE_MS, "end of shutdown", Promise.resolve(end));
      if (this.#isAlone) await this.journal.settled();
    });
  }
}

/** Several clients that are released together. */
export class Clients extends Array<Client> implements AsyncDisposable {
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.map((client) => client.close()));
  }
}

/** Starts a server; its disposal releases all of it. */
export function serve(
  options: PusherOptions = {},
  around: Around = {},
): TestServer {
  return new TestServer({ ...clockOption(), ...options }, around);
}

/**
 * The same in memory, for tests in which a socket of the network adds nothing. With
 * `TEST_ON_SOCKETS` in the environment it has a port all the same.
 */
export function serveInMemory(
  options: PusherOptions = {},
  around: Around = {},
): TestServer {
  const inMemory = !Deno.env.has("TEST_ON_SOCKETS");
  return serve(options, { ...around, inMemory });
}

/** Closes a client's connection and waits until the server has seen it. */
export async function leave(server: TestServer, client: Client): Promise<void> {
  await client.close();
  for (;;) {
    const { socketId } = await server.journal.next("disconnected");
    if (socketId === client.socketId) return;
  }
}

/** An object whose JSON has so many bytes. */
export function objectOf(bytes: number): { x: string } {
  return { x: "x".repeat(bytes - '{"x":""}'.length) };
}
