/**
 * HTTP streaming and polling: a way to the server for clients whose network lets
 * no WebSocket through, as stock `pusher-js` speaks it.
 *
 * ```ts ignore
 * import { Pusher } from "@glitz/pusher";
 * import { fallback } from "@glitz/pusher/fallback";
 *
 * const pusher = new Pusher();
 * Deno.serve(pusher.cascade(pusher.handler, fallback(pusher), app));
 * ```
 *
 * Clients find it at `{path}/app/{key}/…`, where `path` is `/pusher` behind the
 * server's own path. Stock clients have to be told the host:
 * `{ httpHost: "example.com", httpPath: "/pusher" }`.
 *
 * What a client gets is a connection like any other: the same frames, limits,
 * `origins`, hooks and close codes. What is special about it:
 * - A *session* takes the place of a socket. It ends when the client has not
 *   asked for frames for 5 seconds, then with code 1006.
 * - An answer is filled up to a measure, and the client asks again; what waits
 *   for it meanwhile counts as unread. More than `limits.bufferedBytes` of it
 *   closes the session with 4100, as with sockets.
 * - Frames of a client come in requests of their own, and are served in the
 *   order in which these have arrived.
 * - Browsers and Deno send a request again by themselves when a connection that
 *   they have used before breaks without an answer. Clients number theirs, as `n`
 *   in the query: so frames that come again are not served twice, and a poll that
 *   does is answered as before. Of a stream no copy is kept: one that has lost
 *   lines on its way ends with 1006, or begins anew if these had opened it.
 * - Any page may send the requests, as sessions need no cookies.
 *
 * Several servers behind one address need sticky routing, as a session lives in
 * one process: balance by client address, by the two path segments behind the
 * key, or give each server a name of its own, see
 * {@linkcode FallbackOptions.hostname}. A proxy must not gather answers; that is
 * said to it in headers which nginx and most others understand.
 *
 * Requests that cannot be served are answered in JSON, `{ "error": "…" }`:
 *
 * | Status | When |
 * |---|---|
 * | 400 | the body of `xhr_send` is not a JSON array of strings, or has over 1,000 |
 * | 404 | there is no such session to send in, or no such route; a cascade goes on |
 * | 413 | the body of `xhr_send` is larger than {@linkcode FallbackOptions.sendBytes} |
 * | 429 | over 256 requests of one session are being read at once |
 *
 * Whatever speaks against a connection, an unknown key or a server that is full,
 * is told within an answer of status 200, as clients take no other for a
 * refusal. A request that is not its own is answered with 404, its body unread.
 *
 * It costs a request per message of a client, one per answer, and as much memory
 * as is waiting. All sessions share one timer; without a session there is none.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  checkDuration,
  checkPath,
  checkSize,
  matching,
  objectOf,
} from "../core/checks.ts";
import { type Awaitable, type Peer, Pusher, type Transport } from "../mod.ts";

// ---- Public types -----------------------------------------------------------

/** Whose clients are served: a {@linkcode Pusher}, or the class for its default instance. */
export type FallbackServer = Pick<Pusher, "open" | "path">;

/** Options of {@linkcode fallback}. */
export interface FallbackOptions {
  /**
   * Prefix of the routes, which clients name as `httpPath`. One that begins with
   * the server's own path also serves sessions of stock clients, whose `/r/{id}`
   * stands between the two. @default {`${pusher.path}/pusher`}
   */
  path?: string | undefined;
  /**
   * A name under which clients reach this very server, without a port. They use
   * it for all further requests of a session. @default {the one they used}
   */
  hostname?: string | undefined;
  /**
   * Bytes of one body of frames. In it each quotation mark takes two, so it is
   * to be twice `limits.frameBytes` at least. @default {262144}
   */
  sendBytes?: number | undefined;
  /**
   * Silence after which the server says that it is still there, in milliseconds.
   * Proxies must allow for longer. @default {25000}
   */
  heartbeatMs?: number | undefined;
  /**
   * How long a client may take to ask again before it is gone, in milliseconds.
   * @default {5000}
   */
  absenceMs?: number | undefined;
}

/**
 * Makes a handler for a cascade, behind the server's own handler.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { fallback } from "@glitz/pusher/fallback";
 * import { assertStringIncludes } from "@std/assert";
 *
 * await using pusher = new Pusher({ key: "app-key" });
 * const handler = pusher.cascade(pusher.handler, fallback(pusher));
 *
 * const poll = await handler(
 *   new Request("http://localhost/pusher/app/app-key/7/abcdefgh/xhr", {
 *     method: "POST",
 *   }),
 * );
 * assertStringIncludes(await poll.text(), "pusher:connection_established");
 * ```
 *
 * @param pusher Whose clients are served; by default those of the default
 * instance, which is not made before the first request.
 * @param options See {@linkcode FallbackOptions}; checked at once.
 * @returns Answers its own requests, and all others with 404. It makes use of the
 * `info` that `Deno.serve` and cascades pass on.
 * @throws {TypeError} If an option is unknown or of the wrong kind.
 * @throws {RangeError} If a figure is outside its range.
 */
export function fallback(
  pusher: FallbackServer = Pusher,
  options: FallbackOptions = {},
): (request: Request, info?: Deno.ServeHandlerInfo) => Awaitable<Response> {
  const sessions = new Sessions(pusher, parseOptions(options));
  return (request, info) => sessions.handle(request, info);
}

// ---- Routes -----------------------------------------------------------------
// From requests to sessions: which of them there are, and the one timer that
// they have in common. What a session says to its client is its own affair.

/** What a request asks of which session. */
interface Route {
  /** Names the session: the path without its last segment. */
  readonly id: string;
  /** The app's key, or "" if it is not escaped properly. */
  readonly key: string;
  readonly action: string;
  /** The client's own number of the request; the same if it comes again. */
  readonly number: number | null;
}

// Clients make up three digits and eight characters. Fewer characters could be
// guessed, and who knows them has the session; more do no harm.
const SESSION = "/[0-9]{1,3}/[A-Za-z0-9_-]{8,64}";
const ACTION = "/(xhr_streaming|xhr|xhr_send)";
/** In front of the route, what stock clients find their history by. */
const STOCK_SESSION = "(?:/r/[A-Za-z0-9_-]{16,128})?";

/** Sessions are looked after this often, or ten times in the shortest time. */
const MAX_TICK_MS = 500;

class Sessions {
  readonly settings: Settings;
  /** Ticks so far. It stands still while there is no session. */
  tick = 0;
  readonly absenceTicks: number;
  readonly heartbeatTicks: number;
  readonly #pusher: FallbackServer;
  readonly #sessions = new Map<string, Session>();
  readonly #farewells: Farewells;
  readonly #tickMs: number;
  #pattern: RegExp | undefined;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(pusher: FallbackServer, settings: Settings) {
    const { absenceMs, heartbeatMs } = settings;
    this.#pusher = pusher;
    this.settings = settings;
    this.#farewells = new Farewells(absenceMs);
    const shortestMs = Math.min(absenceMs, heartbeatMs);
    this.#tickMs = Math.max(1, Math.min(MAX_TICK_MS, shortestMs / 10));
    // Something happens during a tick, and the rest of that one does not count.
    this.absenceTicks = Math.ceil(absenceMs / this.#tickMs) + 1;
    this.heartbeatTicks = Math.ceil(heartbeatMs / this.#tickMs);
  }

  handle(
    request: Request,
    info?: Deno.ServeHandlerInfo,
  ): Awaitable<Response> {
    const route = this.#route(request);
    if (route === null) return refuse(404, "There is no such route");
    if (request.method === "OPTIONS") return preflight();
    return route.action === "xhr_send"
      ? this.#send(route, request)
      : this.#receive(route, request, info?.completed);
  }

  /** Takes a session that is over out of the index. */
  forget(session: Session, farewell: Farewell | null): void {
    this.#sessions.delete(session.id);
    if (farewell !== null) this.#farewells.add(session.id, farewell);
    if (this.#sessions.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #route({ method, url }: Request): Route | null {
    if (method !== "POST" && method !== "OPTIONS") return null;
    // The host in it is the client's word, and may be none.
    const parsed = URL.parse(url);
    if (parsed === null) return null;
    this.#pattern ??= this.#compile();
    const match = this.#pattern.exec(parsed.pathname);
    const [, id = "", key = "", action] = match ?? [];
    if (action === undefined) return null;
    const number = parseNumber(parsed.searchParams.get("n"));
    return { id, key: decodePart(key), action, number };
  }

  #compile(): RegExp {
    const own = this.#pusher.path;
    const { path = `${own}/pusher` } = this.settings;
    const prefix = path.startsWith(`${own}/`)
      ? RegExp.escape(own) + STOCK_SESSION +
        RegExp.escape(path.slice(own.length))
      : RegExp.escape(path);
    return new RegExp(`^(${prefix}/app/([^/]+)${SESSION})${ACTION}$`);
  }

  /** `POST …/xhr_streaming` and `…/xhr`: what the client is to be told. */
  #receive(
    { id, key, action, number }: Route,
    request: Request,
    delivered: Promise<void> | undefined,
  ): Response {
    const isStreaming = action === "xhr_streaming";
    const farewell = this.#farewells.get(id, number);
    if (farewell !== undefined) {
      return receivable(isStreaming ? PRELUDE + farewell : farewell);
    }
    let session = this.#sessions.get(id);
    if (session?.isUnheard(number)) {
      session.abandon();
      session = undefined;
    }
    session ??= this.#open(id, key, request);
    return receivable(session.answer(isStreaming, number, delivered));
  }

  #open(id: string, key: string, request: Request): Session {
    this.#farewells.delete(id);
    const session = new Session(id, this);
    // Before it is known whether it is refused: even then somebody has to look
    // after it until that has been told.
    this.#sessions.set(id, session);
    this.#timer ??= setInterval(() => this.#advance(), this.#tickMs);
    session.open(this.#pusher.open(session, key, request));
    return session;
  }

  /** `POST …/xhr_send`: a JSON array of frames, each a string; none is a ping. */
  async #send({ id, number }: Route, request: Request): Promise<Response> {
    const session = this.#sessions.get(id);
    if (!session?.isOpen) return this.#refuseFrames(id);
    if (session.uploads.size >= MAX_UPLOADS) {
      const error = `The session is sending ${MAX_UPLOADS} requests already`;
      return refuse(429, error);
    }
    const { sendBytes } = this.settings;
    const body = await readBody(request, sendBytes, session.uploads);
    // It may have ended meanwhile.
    if (!session.isOpen) return this.#refuseFrames(id);
    if (body === "too large") {
      return refuse(413, `The body is larger than ${sendBytes} bytes`);
    }
    if (body === "broken off") return refuse(400, "The body breaks off");
    const frames = parseFrames(body);
    if (typeof frames === "string") return refuse(400, frames);
    session.receive(frames, number);
    return accepted();
  }

  /**
   * What comes after the close is dropped, as on a socket. That it is closed, and
   * why, the client hears where it asks: a failure here might be heard before.
   */
  #refuseFrames(id: string): Response {
    const isKnown = this.#sessions.has(id) || this.#farewells.has(id);
    return isKnown ? accepted() : refuse(404, "There is no such session");
  }

  #advance(): void {
    this.tick++;
    for (const session of this.#sessions.values()) session.check();
  }
}

// A client that joins as many channels as it may at once sends 200 requests.
const MAX_UPLOADS = 256;
// As many as may be on their way, and so may come again.
const MAX_REMEMBERED = MAX_UPLOADS;
// As many as the server takes at once; see `limits.framesBurst`.
const MAX_FRAMES = 1_000;

/** What may be read by pages of any origin, and kept by nobody. */
const HEADERS = Object.freeze({
  "access-control-allow-origin": "*",
  "cache-control": "no-store, no-transform",
});

/** An answer to a receive request, passed on by proxies as it comes. */
function receivable(body: BodyInit): Response {
  return new Response(body, {
    headers: {
      ...HEADERS,
      "content-type": "application/javascript; charset=UTF-8",
      "x-accel-buffering": "no",
    },
  });
}

function accepted(): Response {
  return new Response(null, { status: 204, headers: HEADERS });
}

/** What browsers ask before a page of another origin may send requests. */
function preflight(): Response {
  return new Response(null, {
    status: 204,
    headers: {
      ...HEADERS,
      "access-control-allow-methods": "POST, OPTIONS",
      "access-control-allow-headers": "Content-Type",
      "access-control-max-age": "86400",
    },
  });
}

function refuse(status: number, error: string): Response {
  return Response.json({ error }, { status, headers: HEADERS });
}

/** Reads a body, until its end or until somebody cancels the reader. */
async function readBody(
  request: Request,
  maxBytes: number,
  readers: Set<ReadableStreamDefaultReader>,
): Promise<Uint8Array | "too large" | "broken off"> {
  const declared = request.headers.get("content-length");
  if (Number(declared) > maxBytes) return "too large";
  const reader = request.body?.getReader();
  if (reader === undefined) return new Uint8Array();
  readers.add(reader);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      bytes += value.length;
      if (bytes > maxBytes) {
        reader.cancel().catch(() => {});
        return "too large";
      }
      chunks.push(value);
    }
  } catch {
    // The client has gone in the middle of it.
    return "broken off";
  } finally {
    readers.delete(reader);
  }
  return Buffer.concat(chunks);
}

/** The frames of a body, or what is wrong with it. */
function parseFrames(body: Uint8Array): string[] | string {
  let frames: unknown;
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true });
    frames = JSON.parse(decoder.decode(body));
  } catch {
    return "The body is not JSON";
  }
  if (!isStrings(frames)) return "The body is not an array of strings";
  if (frames.length <= MAX_FRAMES) return frames;
  return `The body has ${frames.length} frames, at most ${MAX_FRAMES} fit`;
}

function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) &&
    value.every((item) => typeof item === "string");
}

/** Reads the number of a request; anything else is none. */
function parseNumber(text: string | null): number | null {
  return text !== null && /^[0-9]{1,15}$/.test(text) ? Number(text) : null;
}

/** Unescapes a part of a path; what is not escaped properly names nothing. */
function decodePart(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

// ---- Session ----------------------------------------------------------------
// A connection that is made of requests. Its lines are those of SockJS: `o` opens
// it, `a[…]` brings frames, `h` is a heartbeat and `c[code,reason]` closes it.

/** Defeats whoever waits for some text before passing it on. */
const PRELUDE = `${"h".repeat(2048)}\n`;

/**
 * UTF-16 units after which a streaming client asks anew, as its answers would
 * grow for ever. What comes after them in an answer is lost without an error.
 */
const STREAM_UNITS = 262_144;
/** A client on a slow line has to have read an answer before it counts as gone. */
const POLL_UNITS = 65_536;

/**
 * More than this is not kept for a client that is closed. Escaped as text it fits
 * into one answer, whatever it holds.
 */
const FAREWELL_BYTES = STREAM_UNITS / 2 - PRELUDE.length;

/**
 * One client.
 *
 * ```text
 * open ──> closing ──> over      closed by the server: until the client knows
 *   └──────────────────^         the client has not asked for too long
 * ```
 */
class Session implements Transport {
  readonly id: string;
  /** Bodies that are being read. */
  readonly uploads = new Set<ReadableStreamDefaultReader>();
  readonly #sessions: Sessions;
  #state: "open" | "closing" | "over" = "open";
  /** Missing until the server has let it in, or refused it. */
  #peer: Peer | undefined;
  /** Where what is sent can be written to; null while the client is away. */
  #answer: Answer | null = null;
  #isStreaming = false;
  /** Number of the last request for frames. */
  #number: number | null = null;
  /**
   * What that was answered, as it may come again. Of a stream it is the first unit
   * only, which says whether there was a line, and whether that was the greeting.
   */
  #answered = "";
  /** Numbers of the last requests whose frames were taken. */
  readonly #received = new Set<number>();
  /** Frames that no answer has taken. */
  readonly #queue: string[] = [];
  #queuedBytes = 0;
  /** Whether the queue is looked at as soon as this turn allows. */
  #isFlushing = false;
  #isGreeted = false;
  /** Whether the client has asked for any line at all. */
  #isPinged = false;
  /** Whether it has been quiet for so long that a heartbeat is due. */
  #isBeating = false;
  /** Whether the client is about to answer a heartbeat. */
  #isAnswering = false;
  #closing = { code: 1006, line: "" };
  /** Whether an answer has taken that. */
  #isTold = false;
  #isRefused = false;
  /** Ticks of the last answer's end, of the last output, and of the close. */
  #awayAt: number;
  #quietAt: number;
  #closedAt = 0;

  constructor(id: string, sessions: Sessions) {
    this.id = id;
    this.#sessions = sessions;
    this.#awayAt = this.#quietAt = sessions.tick;
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  get bufferedAmount(): number {
    return this.#queuedBytes;
  }

  send(frame: string): void {
    if (this.#state !== "open") return;
    this.#queue.push(frame);
    this.#queuedBytes += Buffer.byteLength(frame);
    this.#flushSoon();
  }

  close(code: number, reason: string): void {
    if (this.#state !== "open") return;
    this.#state = "closing";
    const line = `c${JSON.stringify([code, reason])}\n`;
    this.#closing = { code, line };
    this.#closedAt = this.#sessions.tick;
    if (this.#queuedBytes > FAREWELL_BYTES) {
      this.#queue.length = this.#queuedBytes = 0;
    }
    this.#isRefused = this.#peer === undefined;
    // Who is refused has a request that is about to be answered.
    if (this.#answer === null && !this.#isRefused) this.#end();
    else this.#flushSoon();
  }

  /** Takes the server's end of the connection. */
  open(peer: Peer): void {
    this.#peer = peer;
  }

  /** Takes the frames of one request, unless it has taken them before. */
  receive(frames: readonly string[], number: number | null): void {
    if (!this.#isNew(number)) return;
    if (frames.length === 0) return this.#receivePing();
    for (const frame of frames) this.#peer?.receive(frame);
  }

  #isNew(number: number | null): boolean {
    if (number === null) return true;
    if (this.#received.has(number)) return false;
    this.#received.add(number);
    if (this.#received.size > MAX_REMEMBERED) {
      const [oldest = number] = this.#received;
      this.#received.delete(oldest);
    }
    return true;
  }

  /**
   * An empty request answers a heartbeat, which a polling client does by asking
   * again; otherwise it asks for a line. That is never a heartbeat, which would
   * be answered again.
   */
  #receivePing(): void {
    this.#peer?.heard();
    const isPing = !this.#isAnswering || !this.#isStreaming;
    this.#isAnswering = false;
    if (!isPing) return;
    this.#isPinged = true;
    this.#flushSoon();
  }

  /**
   * Whether this request has come before, and its answer opened the session, but
   * got lost: then the client knows of no session.
   */
  isUnheard(number: number | null): boolean {
    return this.#isStreaming && this.#answered === "o" &&
      number === this.#number;
  }

  /** Ends without a word. Not to be called from within a call of the server. */
  abandon(): void {
    this.#end();
    // At once: the next session may need its place.
    this.#peer?.closed(this.#closing.code);
  }

  /** Begins an answer, in place of one that may be there. */
  answer(
    isStreaming: boolean,
    number: number | null,
    delivered: Promise<void> | undefined,
  ): ReadableStream<Uint8Array> {
    this.#answer?.end();
    if (number !== this.#number || isStreaming !== this.#isStreaming) {
      this.#answered = "";
    }
    const answer = new Answer(isStreaming, delivered, {
      onWanted: () => this.#flush(),
      onLost: () => this.#lose(answer),
    });
    this.#answer = answer;
    this.#number = number;
    this.#isStreaming = isStreaming;
    this.#isAnswering = this.#isBeating = false;
    this.#quietAt = this.#sessions.tick;
    this.#peer?.heard();
    if (!isStreaming) answer.repeated = this.#answered;
    else if (this.#answered !== "") this.#breakOff();
    return answer.body;
  }

  /** Ends, as lines were lost: what comes after them must not seem to be next. */
  #breakOff(): void {
    this.#queue.length = this.#queuedBytes = 0;
    this.close(1006, "An answer was lost");
  }

  /** Does what is due with the time. */
  check(): void {
    const { tick, absenceTicks, heartbeatTicks } = this.#sessions;
    if (this.#state === "closing") {
      if (tick - this.#closedAt >= absenceTicks) this.#end();
    } else if (this.#answer === null) {
      if (tick - this.#awayAt >= absenceTicks) this.#end();
    } else if (tick - this.#quietAt >= heartbeatTicks) {
      this.#isBeating = true;
      this.#flush();
    }
  }

  /** Has all frames of this turn in one line. */
  #flushSoon(): void {
    if (this.#isFlushing || this.#answer === null) return;
    this.#isFlushing = true;
    queueMicrotask(() => {
      this.#isFlushing = false;
      this.#flush();
    });
  }

  /** Writes what there is, as far as the answer takes it. */
  #flush(): void {
    const answer = this.#answer;
    if (answer === null || !answer.isWanted) return;
    const { prelude, repeated } = answer;
    // Before it is greeted, a client takes no notice of heartbeats.
    if (prelude !== "" && this.#isGreeted) this.#isAnswering = true;
    const lines = repeated || this.#take(answer.roomUnits - prelude.length);
    const text = prelude + lines;
    if (text === "") return;
    // Without a number, nobody can tell whether a request comes again.
    if (this.#number !== null) {
      this.#answered ||= answer.isStreaming ? lines.charAt(0) : lines;
    }
    this.#quietAt = this.#sessions.tick;
    answer.write(text);
    if (this.#isTold) this.#end();
    else if (!answer.isStreaming) {
      answer.whenDelivered(() => this.#lose(answer));
    }
  }

  /** Takes lines off the queue: as many units as said, and what exceeds them. */
  #take(roomUnits: number): string {
    let text = this.#isGreeted ? "" : this.#greet();
    const frames: string[] = [];
    let units = text.length;
    while (this.#queue.length > 0 && units <= roomUnits) {
      // The length has just been looked at.
      const frame = this.#queue.shift()!;
      this.#queuedBytes -= Buffer.byteLength(frame);
      const quoted = JSON.stringify(frame);
      frames.push(quoted);
      units += quoted.length + ",".length;
    }
    if (frames.length > 0 || this.#isPinged) text += `a[${frames}]\n`;
    else if (this.#isBeating) {
      text += "h\n";
      this.#isAnswering = true;
    }
    this.#isPinged = this.#isBeating = false;
    if (this.#state !== "closing" || this.#queue.length > 0) return text;
    // A client that asks anew at the end of this line would not see another.
    if (text.length > roomUnits) return text;
    this.#isTold = true;
    return text + this.#closing.line;
  }

  /** What a client has missed that does not know of the end. */
  #farewell(): Farewell {
    const number = this.#number;
    const text = this.#take(Infinity);
    if (this.#answered === "") return { text, number: null, repeated: null };
    if (!this.#isStreaming) return { text, number, repeated: this.#answered };
    const isUnheard = this.#answered === "o";
    // No frames may follow the ones that were lost.
    return { text, number, repeated: isUnheard ? null : this.#closing.line };
  }

  #greet(): string {
    this.#isGreeted = true;
    const { hostname } = this.#sessions.settings;
    return hostname === undefined
      ? "o\n"
      : `o${JSON.stringify({ hostname })}\n`;
  }

  /** An answer has come to its end, with the client still there or not. */
  #lose(answer: Answer): void {
    if (answer !== this.#answer) return;
    this.#answer = null;
    this.#awayAt = this.#sessions.tick;
    if (this.#state === "closing") this.#end();
  }

  /** Ends for good. A client that was closed and does not know may ask later. */
  #end(): void {
    if (this.#state === "over") return;
    const { code } = this.#closing;
    // Who was refused may as well ask again.
    const isMissed = this.#state === "closing" && !this.#isRefused;
    const farewell = isMissed ? this.#farewell() : null;
    this.#state = "over";
    this.#queue.length = this.#queuedBytes = 0;
    const answer = this.#answer;
    this.#answer = null;
    answer?.end();
    // What is broken off here has no session to be served in any more.
    for (const reader of this.uploads) reader.cancel().catch(() => {});
    this.#sessions.forget(this, farewell);
    const release = () => this.#peer?.closed(code);
    // Not before the client has been told, if there is a client to be told; and
    // never from within a call of the server's own.
    if (this.#isTold && answer !== null) answer.whenDelivered(release);
    else queueMicrotask(release);
  }
}

/** What a client is told that asks after its session has been closed. */
interface Farewell {
  readonly text: string;
  /** Of the last request, if it has been answered. */
  readonly number: number | null;
  /** What that is told instead if it comes again; null if it opens a session. */
  readonly repeated: string | null;
}

/** The body of an answer to a receive request. */
class Answer {
  readonly isStreaming: boolean;
  readonly body: ReadableStream<Uint8Array>;
  /** Units that may still be begun; below 0 the client has to ask anew. */
  roomUnits: number;
  /** What is to precede the first line. */
  prelude: string;
  /** Lines to be written in place of any other, unless empty. */
  repeated = "";
  /** Whether the client has taken what was written so far. */
  #isPulled = false;
  #isEnded = false;
  /** Settles when the runtime has written all of it; not every caller knows. */
  readonly #delivered: Promise<void>;
  // Set by the constructor of the stream.
  #controller!: ReadableStreamDefaultController<Uint8Array>;

  constructor(
    isStreaming: boolean,
    delivered: Promise<void> = Promise.resolve(),
    { onWanted, onLost }: { onWanted(): void; onLost(): void },
  ) {
    this.isStreaming = isStreaming;
    this.#delivered = delivered;
    this.roomUnits = isStreaming ? STREAM_UNITS : POLL_UNITS;
    this.prelude = isStreaming ? PRELUDE : "";
    this.body = new ReadableStream({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => {
        this.#isPulled = true;
        onWanted();
      },
      cancel: () => {
        this.#isEnded = true;
        onLost();
      },
      // It holds nothing back, so that all that is unread is in the queue.
    }, { highWaterMark: 0 });
  }

  get isWanted(): boolean {
    return this.#isPulled && !this.#isEnded && this.roomUnits >= 0;
  }

  write(text: string): void {
    this.prelude = "";
    this.roomUnits -= text.length;
    this.#isPulled = false;
    this.#controller.enqueue(Buffer.from(text));
    if (!this.isStreaming) this.end();
  }

  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#controller.close();
  }

  /** Calls when an answer that has ended is on its way, or has failed. */
  whenDelivered(call: () => void): void {
    this.#delivered.then(call, call);
  }
}

/** What clients are told that ask after their session has been closed. */
class Farewells {
  readonly #keptMs: number;
  /** In the order in which they expire. */
  readonly #entries = new Map<string, Farewell & { readonly until: number }>();
  #units = 0;

  constructor(keptMs: number) {
    this.#keptMs = keptMs;
  }

  add(id: string, farewell: Farewell): void {
    this.#expire();
    this.delete(id);
    this.#entries.set(id, { ...farewell, until: Date.now() + this.#keptMs });
    this.#units += unitsOf(id, farewell);
    for (const oldest of this.#entries.keys()) {
      if (this.#units <= MAX_FAREWELL_UNITS) break;
      this.delete(oldest);
    }
  }

  has(id: string): boolean {
    this.#expire();
    return this.#entries.has(id);
  }

  /** What a request is told, by the session and the number that it has. */
  get(id: string, number: number | null): string | undefined {
    this.#expire();
    const entry = this.#entries.get(id);
    const isRepeated = number !== null && number === entry?.number;
    return isRepeated ? entry?.repeated ?? undefined : entry?.text;
  }

  delete(id: string): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#entries.delete(id);
    this.#units -= unitsOf(id, entry);
  }

  /** A timer would keep the program waiting for what nobody may ever ask for. */
  #expire(): void {
    const now = Date.now();
    for (const [id, { until }] of this.#entries) {
      if (until > now) return;
      this.delete(id);
    }
  }
}

function unitsOf(id: string, { text, repeated }: Farewell): number {
  return id.length + text.length + (repeated?.length ?? 0);
}

// What is left of 80,000 sessions that are closed at once. Who is forgotten too
// early finds an unknown session, and begins a new one.
const MAX_FAREWELL_UNITS = 33_554_432;

// ---- Options ----------------------------------------------------------------
// Checked once, by name.

/** Options, checked. */
interface Settings {
  readonly path: string | undefined;
  readonly hostname: string | undefined;
  readonly sendBytes: number;
  readonly heartbeatMs: number;
  readonly absenceMs: number;
}

const checkOptions = objectOf<FallbackOptions>({
  path: checkPath,
  hostname: matching(/^[A-Za-z0-9.-]+$/, "be a host without a port"),
  sendBytes: checkSize,
  heartbeatMs: checkDuration,
  absenceMs: checkDuration,
});

function parseOptions(options: FallbackOptions): Settings {
  checkOptions(options, { subject: "Cannot create a fallback", name: "" });
  const {
    path,
    hostname,
    sendBytes = 262_144,
    heartbeatMs = 25_000,
    absenceMs = 5_000,
  } = options;
  return { path, hostname, sendBytes, heartbeatMs, absenceMs };
}
