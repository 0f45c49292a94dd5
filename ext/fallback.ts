/**
 * HTTP streaming and polling, as stock `pusher-js` speaks them: a way to the server
 * for clients whose network blocks WebSockets.
 *
 * ```ts ignore
 * import { Pusher } from "@glitz/pusher";
 * import { fallback } from "@glitz/pusher/fallback";
 *
 * const pusher = new Pusher();
 * Deno.serve(pusher.cascade(pusher.handler, fallback(pusher), app));
 * ```
 *
 * The routes are `{path}/app/{key}/…`, where `path` is `/pusher` behind the
 * server's own path. Stock clients need to know the host:
 * `{ httpHost: "example.com", httpPath: "/pusher" }`.
 *
 * A client has a connection like any other: the same frames, limits, `origins`,
 * hooks and close codes. It differs from a socket in this:
 * - A *session* takes the place of the socket. It ends with code 1006 when the
 *   client has not asked for frames for 5 seconds.
 * - An answer ends when it has reached a certain size, and the client asks for the
 *   next. Frames that wait meanwhile count as unread: more than
 *   `limits.bufferedBytes` of them close the session with 4100, as with sockets.
 * - Clients send frames in requests of their own. The server serves the frames in
 *   the order in which these requests have arrived.
 * - Browsers and Deno retry a request on their own when a connection that they
 *   reuse breaks without an answer. Clients number their requests, as `n` in the
 *   query, so the server recognizes a retry: it serves no frames twice, and gives
 *   a poll the same answer as before. It keeps no copy of a stream: a stream that
 *   has lost lines ends with 1006, or opens a new session if the lost lines had
 *   opened this one.
 * - Any page may send the requests, as sessions need no cookies.
 *
 * A session lives in one process, so several servers behind one address need
 * sticky sessions: balance by client address or by the two path segments after the
 * key, or give each server a name of its own, see
 * {@linkcode FallbackOptions.hostname}. Proxies must have response buffering off;
 * the answers ask for that, in headers that nginx and most others understand.
 *
 * Requests that cannot be served are answered in JSON, `{ "error": "…" }`:
 *
 * | Status | When |
 * |---|---|
 * | 400 | the body of `xhr_send` is not a JSON array of strings, or has over 1,000 |
 * | 404 | no session has this id, or no route this path; a cascade goes on |
 * | 408 | the body of `xhr_send` has not arrived within {@linkcode FallbackOptions.bodyTimeoutMs} |
 * | 413 | the body of `xhr_send` is larger than {@linkcode FallbackOptions.sendBytes} |
 * | 429 | the server is reading over 256 requests of this session at once |
 *
 * Connection refusals, such as for an unknown key or by a full server, are sent in
 * a 200 response, as clients do not read a refusal in any other. Requests for other
 * routes are answered with 404, their body unread.
 *
 * The fallback costs one request per message of a client, one per answer, and
 * memory for the frames that wait. All sessions share one timer; without sessions
 * there is none.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import {
  checkDuration,
  checkPath,
  checkSize,
  copyOptions,
  having,
  matching,
  objectOf,
} from "../core/checks.ts";
import { readBody, refuseBody } from "../core/bodies.ts";
import { decodeUtf8, escapePattern, parseUrl, refuse } from "../core/http.ts";
import { isRefusal, quote, Refusal } from "../core/limits.ts";
import { AUTH_NOT_SERVED, parseJson } from "../core/protocol.ts";
import { mergeSlashes } from "../core/routes.ts";
import { decodePart } from "../core/signatures.ts";
import {
  type Clock,
  SYSTEM_CLOCK,
  type Ticking,
  TickWheel,
} from "../core/time.ts";
import { type Awaitable, type Peer, Pusher, type Transport } from "../mod.ts";

// ---- Public types -----------------------------------------------------------

/** The server: a {@linkcode Pusher}, or the class for its default instance. */
export type FallbackServer =
  & Pick<Pusher, "open" | "path">
  & Partial<Pick<Pusher, "clock">>;

/** Options of {@linkcode fallback}. */
export interface FallbackOptions {
  /**
   * The prefix of the routes, which clients call `httpPath`. If it begins with the
   * server's own path, the routes also serve stock clients with a recovery
   * session, whose `/r/{id}` stands after that path.
   * @default {`${pusher.path}/pusher`}
   */
  path?: string | undefined;
  /**
   * A name, without a port, under which clients reach this server and no other.
   * They use it for all further requests of a session.
   * @default {the name that the client used}
   */
  hostname?: string | undefined;
  /**
   * Bytes of one body of frames. Quotation marks take two bytes there, so it
   * should be at least twice `limits.frameBytes`. @default {262144}
   */
  sendBytes?: number | undefined;
  /**
   * How long a whole body of frames may take to arrive, in milliseconds. Then the
   * client gets a 408 and the connection of the request is closed.
   * @default {10000}
   */
  bodyTimeoutMs?: number | undefined;
  /**
   * Silence after which the server sends a heartbeat, in milliseconds. Proxies
   * must allow more. @default {25000}
   */
  heartbeatMs?: number | undefined;
  /**
   * How long a client may take to ask for the next answer, in milliseconds; then
   * its session ends. @default {5000}
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
 * @param pusher The server; by default the default instance, which is made when
 * the first request arrives.
 * @param options See {@linkcode FallbackOptions}; checked at once.
 * @returns Serves its own routes, and answers 404 to all others. It uses the `info`
 * that `Deno.serve` and cascades pass on.
 * @throws {TypeError} If an option is unknown or of the wrong type, or `pusher` is
 * no Pusher.
 * @throws {RangeError} If a number is outside its range.
 */
export function fallback(
  pusher: FallbackServer = Pusher,
  options: FallbackOptions = {},
): (request: Request, info?: Deno.ServeHandlerInfo) => Awaitable<Response> {
  checkServer(pusher, { subject: SUBJECT, name: "pusher" });
  const settings = parseOptions(options);
  // The default instance must not be made before the first request.
  let sessions: Sessions | undefined;
  return (request, info) => {
    sessions ??= new Sessions(pusher, settings);
    const response = sessions.handle(request, info);
    return response instanceof Promise
      ? response.then((late) => openTo(request, late))
      : openTo(request, response);
  };
}

// ---- Routes -----------------------------------------------------------------
// From requests to sessions. Owns the index of sessions, the wheel that visits them
// and the farewells of closed sessions. Which lines a client gets is up to its
// session.

/** What a request wants of which session. */
interface Route {
  /** The session: the path without its last segment. */
  readonly id: string;
  /** The app's key, or "" if it is not escaped properly. */
  readonly key: string;
  readonly action: string;
  /** The client's number of the request; a retry has the same. */
  readonly number: number | null;
}

// Clients make up three digits and eight characters. Fewer characters could be
// guessed, and would give the session away; more do no harm.
const SESSION = "/[0-9]{1,3}/[A-Za-z0-9_-]{8,64}";
const ACTION = "/(xhr_streaming|xhr|xhr_send)";
/** The recovery session of a stock client, in front of the route. */
const STOCK_SESSION = "(?:/r/[A-Za-z0-9_-]{16,128})?";

/** Precise enough for the defaults; shorter times get a tenth of their own. */
const MAX_TICK_MS = 500;

class Sessions {
  readonly settings: Settings;
  readonly wheel: TickWheel;
  readonly absenceTicks: number;
  readonly heartbeatTicks: number;
  /** The less of the two: nothing is due earlier after any change. */
  readonly shortestTicks: number;
  readonly #pusher: FallbackServer;
  readonly #sessions = new Map<string, Session>();
  readonly #farewells: Farewells;
  readonly #clock: Clock;
  #pattern: RegExp | undefined;

  constructor(pusher: FallbackServer, settings: Settings) {
    const { absenceMs, heartbeatMs } = settings;
    const { clock = SYSTEM_CLOCK } = pusher;
    this.#pusher = pusher;
    this.settings = settings;
    this.#clock = clock;
    this.#farewells = new Farewells(clock, absenceMs);
    const shortestMs = Math.min(absenceMs, heartbeatMs);
    this.wheel = new TickWheel(clock, shortestMs, MAX_TICK_MS);
    // A client leaves during a tick, and the rest of that tick does not count.
    this.absenceTicks = this.wheel.ticks(absenceMs) + 1;
    this.heartbeatTicks = this.wheel.ticks(heartbeatMs);
    this.shortestTicks = Math.min(this.absenceTicks, this.heartbeatTicks);
  }

  handle(
    request: Request,
    info?: Deno.ServeHandlerInfo,
  ): Awaitable<Response> {
    const route = this.#route(request);
    if (route === null) return refuse(unknownRoute(request), HEADERS);
    if (request.method === "OPTIONS") return preflightResponse();
    return route.action === "xhr_send"
      ? this.#serveUpload(route, request)
      : this.#serveAnswer(route, request, info?.completed);
  }

  /** Takes a session that is over out of the index. */
  forget(session: Session, farewell: Farewell | null): void {
    this.#sessions.delete(session.id);
    this.wheel.remove(session);
    if (farewell !== null) this.#farewells.add(session.id, farewell);
  }

  #route({ method, url }: Request): Route | null {
    if (method !== "POST" && method !== "OPTIONS") return null;
    // The host in it is the word of the client, and may not be a host.
    const parsed = parseUrl(url);
    if (parsed === null) return null;
    this.#pattern ??= this.#compile();
    const match = this.#pattern.exec(mergeSlashes(parsed.pathname));
    const [, id = "", key = "", action] = match ?? [];
    if (action === undefined) return null;
    const number = parseNumber(parsed.searchParams.get("n"));
    return { id, key: decodePart(key) ?? "", action, number };
  }

  #compile(): RegExp {
    const own = this.#pusher.path;
    const { path = `${own}/pusher` } = this.settings;
    const prefix = path.startsWith(`${own}/`)
      ? escapePattern(own) + STOCK_SESSION +
        escapePattern(path.slice(own.length))
      : escapePattern(path);
    return new RegExp(`^(${prefix}/app/([^/]+)${SESSION})${ACTION}$`);
  }

  /** Serves `POST …/xhr_streaming` and `…/xhr`, which ask for lines. */
  #serveAnswer(
    { id, key, action, number }: Route,
    request: Request,
    delivered: Promise<void> | undefined,
  ): Response {
    const isStreaming = action === "xhr_streaming";
    const farewell = this.#farewells.get(id, number);
    if (farewell !== undefined) {
      return lineResponse(isStreaming ? PRELUDE + farewell : farewell);
    }
    let session = this.#sessions.get(id);
    if (session?.isGreetingLost(number)) {
      session.abandon();
      session = undefined;
    }
    session ??= this.#open(id, key, request);
    return lineResponse(session.startAnswer(isStreaming, number, delivered));
  }

  #open(id: string, key: string, request: Request): Session {
    this.#farewells.delete(id);
    const session = new Session(id, this);
    // Before the server accepts or refuses it: a refused session, too, ends by a
    // visit if the client does not read the refusal.
    this.#sessions.set(id, session);
    this.wheel.add(session, this.shortestTicks);
    session.connect(this.#pusher.open(session, key, request));
    return session;
  }

  /**
   * Serves `POST …/xhr_send`, whose body is a JSON array of frames, each a string.
   * An empty array is a ping.
   */
  async #serveUpload(
    { id, number }: Route,
    request: Request,
  ): Promise<Response> {
    const session = this.#sessions.get(id);
    if (!session?.isOpen) return this.#answerLateUpload(id);
    if (session.uploads >= MAX_UPLOADS) {
      return refuse(REFUSAL.TooManyUploads, HEADERS);
    }
    const { sendBytes, bodyTimeoutMs } = this.settings;
    const { ended } = session;
    const rules = { clock: this.#clock, bodyTimeoutMs, ended };
    session.uploads++;
    const body = await readBody(request, sendBytes, rules);
    session.uploads--;
    // The session may have ended meanwhile.
    if (!session.isOpen) return this.#answerLateUpload(id);
    if (body === "too large") {
      const error = `The body is larger than ${sendBytes} bytes`;
      return refuse(new Refusal(413, error), HEADERS);
    }
    if (typeof body === "string") {
      return refuse(refuseBody(body, rules), HEADERS);
    }
    const frames = parseFrames(body);
    if (isRefusal(frames)) return refuse(frames, HEADERS);
    session.receive(frames, number);
    return emptyResponse();
  }

  /**
   * Drops frames that arrive after the close, as a socket does. The client reads
   * that its session is closed, and why, in an answer: a failure here might reach
   * it earlier.
   */
  #answerLateUpload(id: string): Response {
    const isKnown = this.#sessions.has(id) || this.#farewells.has(id);
    return isKnown ? emptyResponse() : refuse(REFUSAL.UnknownSession, HEADERS);
  }
}

// A client that joins as many channels as it may at once sends 200 requests.
const MAX_UPLOADS = 256;
// As many as may be on their way, and may come again.
const MAX_REMEMBERED = MAX_UPLOADS;
// As many as the server takes at once; see `limits.framesBurst`.
const MAX_FRAMES = 1_000;

/** Refuses a request that is for none of the routes. */
function unknownRoute({ method, url }: Request): Refusal {
  const path = parseUrl(url)?.pathname ?? url;
  // The last answer of a cascade is what a client reads.
  const [, name] = /\/pusher\/(auth|user-auth)(?:\/|$)/.exec(path) ?? [];
  return AUTH_NOT_SERVED.get(name) ??
    new Refusal(404, `There is no route for ${method} ${quote(path)}`);
}

const REFUSAL = Object.freeze({
  NotJson: new Refusal(400, "The body is not JSON"),
  NotStrings: new Refusal(400, "The body is not an array of strings"),
  UnknownSession: new Refusal(404, "There is no such session"),
  TooManyUploads: new Refusal(
    429,
    `The session is sending ${MAX_UPLOADS} requests already`,
  ),
});

/** Pages of any origin may read an answer, and no cache may keep it. */
const HEADERS = Object.freeze({
  "access-control-allow-origin": "*",
  "cache-control": "no-store, no-transform",
});

/**
 * Lets the page that sent a request read the answer, even if the request had cookies:
 * a load balancer may need its cookie to find the server of a session. Nothing here
 * depends on cookies, and a WebSocket sends them wherever its page is from.
 */
function openTo(request: Request, response: Response): Response {
  const origin = request.headers.get("origin");
  if (origin === null) return response;
  const { headers } = response;
  headers.set("access-control-allow-origin", origin);
  headers.set("access-control-allow-credentials", "true");
  headers.append("vary", "origin");
  return response;
}

/** An answer of lines, which proxies must pass on as they come. */
function lineResponse(body: BodyInit): Response {
  return new Response(body, {
    headers: {
      ...HEADERS,
      "content-type": "application/javascript; charset=UTF-8",
      "x-accel-buffering": "no",
    },
  });
}

function emptyResponse(): Response {
  return new Response(null, { status: 204, headers: HEADERS });
}

/** Permits a page of another origin to send requests. */
function preflightResponse(): Response {
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

function parseFrames(body: Uint8Array): string[] | Refusal {
  const frames = parseJson(decodeUtf8(body) ?? "");
  if (frames === undefined) return REFUSAL.NotJson;
  if (!isStrings(frames)) return REFUSAL.NotStrings;
  if (frames.length <= MAX_FRAMES) return frames;
  const error =
    `The body has ${frames.length} frames, at most ${MAX_FRAMES} fit`;
  return new Refusal(400, error);
}

function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) &&
    value.every((item) => typeof item === "string");
}

/** Reads the number of a request; null for anything else. */
function parseNumber(text: string | null): number | null {
  return text !== null && /^[0-9]{1,15}$/.test(text) ? Number(text) : null;
}

// ---- Session ----------------------------------------------------------------
// A connection made of requests. Its lines are those of SockJS: `o` opens it,
// `a[…]` brings frames, `h` is a heartbeat and `c[code,reason]` closes it.

/** Fills the buffers of proxies that hold back the beginning of a response. */
const PRELUDE = `${"h".repeat(2048)}\n`;

/**
 * UTF-16 units after which a stream ends and the client asks for the next one, as
 * an answer may not grow for ever. No line begins after them: the client would lose
 * it without an error.
 */
const STREAM_UNITS = 262_144;
/**
 * Less for a poll: on a slow line, the client must read all of it and ask again
 * within `absenceMs`.
 */
const POLL_UNITS = 65_536;

/**
 * Frames beyond this are not kept for a client whose session is closed. Escaped as
 * text, they fit into one answer, whatever they hold.
 */
const FAREWELL_BYTES = STREAM_UNITS / 2 - PRELUDE.length;

/**
 * One client.
 *
 * ```text
 * open ──> closing ──> over      the server closes it, then the client has read so
 *   └──────────────────^         the client has been away for too long
 * ```
 */
class Session implements Transport, Ticking {
  readonly id: string;
  slot: Ticking["slot"] = null;
  /** Requests with frames that are being read. */
  uploads = 0;
  readonly #sessions: Sessions;
  /** Made when it is first needed: a client that only listens never uploads. */
  #ending: AbortController | undefined;
  #state: "open" | "closing" | "over" = "open";
  /** Missing until the server has accepted or refused the connection. */
  #peer: Peer | undefined;
  /** The answer that takes lines; null while the client is away. */
  #answer: Answer | null = null;
  /** Whether the last answer is a stream. */
  #isStreaming = false;
  /** The number of the request for the last answer. */
  #number: number | null = null;
  /**
   * The lines of the last answer, for a retry of its request. Of a stream only the
   * first unit, which says whether there was a line, and whether it was the
   * greeting.
   */
  #written = "";
  /** The numbers of the last uploads. */
  readonly #uploaded = new Set<number>();
  /** Frames that no answer has taken. */
  readonly #queue: string[] = [];
  #queuedBytes = 0;
  /** Whether a flush is due at the end of this turn. */
  #isFlushing = false;
  #isGreeted = false;
  /** Whether the client waits for a line, even without frames. */
  #isPinged = false;
  /** Whether a heartbeat is due. */
  #isBeating = false;
  /** Whether the next empty upload is the client's answer to a heartbeat. */
  #isAnswering = false;
  #closing = { code: 1006, line: "" };
  /** Whether an answer has taken the closing line. */
  #isClosingSent = false;
  /** Whether the server has refused the connection. */
  #isRefused = false;
  /** The ticks of the last answer's end, of the last output, and of the close. */
  #awayAt: number;
  #quietAt: number;
  #closedAt = 0;

  constructor(id: string, sessions: Sessions) {
    this.id = id;
    this.#sessions = sessions;
    this.#awayAt = this.#quietAt = sessions.wheel.tick;
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** Aborted when the session is over. */
  get ended(): AbortSignal {
    return (this.#ending ??= new AbortController()).signal;
  }

  get name(): string {
    return this.#isStreaming ? "xhr_streaming" : "xhr_polling";
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
    this.#closedAt = this.#sessions.wheel.tick;
    if (this.#queuedBytes > FAREWELL_BYTES) this.#dropQueue();
    this.#isRefused = this.#peer === undefined;
    // The request of a refused connection is about to get its answer.
    if (this.#answer === null && !this.#isRefused) this.#finish();
    else this.#flushSoon();
  }

  /** Connects the server's end. */
  connect(peer: Peer): void {
    this.#peer = peer;
  }

  /** Takes the frames of one upload, unless it is a retry. */
  receive(frames: readonly string[], number: number | null): void {
    if (number !== null && !this.#rememberUpload(number)) return;
    if (frames.length === 0) return this.#receivePing();
    for (const frame of frames) this.#peer?.receive(frame);
  }

  /** Whether an upload is new. */
  #rememberUpload(number: number): boolean {
    if (this.#uploaded.has(number)) return false;
    this.#uploaded.add(number);
    if (this.#uploaded.size > MAX_REMEMBERED) {
      const [oldest = number] = this.#uploaded;
      this.#uploaded.delete(oldest);
    }
    return true;
  }

  /**
   * An empty upload answers the heartbeat of a stream. Otherwise it is a ping, and
   * asks for a line; that line is never a heartbeat, which the client would answer
   * in turn. The client answers the heartbeat of a poll with its next poll.
   */
  #receivePing(): void {
    this.#peer?.heard();
    const isAnswer = this.#isAnswering && this.#isStreaming;
    this.#isAnswering = false;
    if (isAnswer) return;
    this.#isPinged = true;
    this.#flushSoon();
  }

  /**
   * Whether a request retries a stream that had opened this session, and whose
   * lines were lost: then the client knows of no session.
   */
  isGreetingLost(number: number | null): boolean {
    return this.#isStreaming && this.#written === "o" &&
      number === this.#number;
  }

  /** Ends without a closing line. Not for use while the server calls the session. */
  abandon(): void {
    this.#finish();
    // In this turn: the next session may need its place.
    this.#peer?.closed(this.#closing.code);
  }

  /** Starts an answer, and ends the one before it. */
  startAnswer(
    isStreaming: boolean,
    number: number | null,
    delivered: Promise<void> | undefined,
  ): ReadableStream<Uint8Array> {
    this.#answer?.end();
    if (number !== this.#number || isStreaming !== this.#isStreaming) {
      this.#written = "";
    }
    const answer = new Answer(isStreaming, delivered, {
      onPull: () => this.#flush(),
      onCancel: () => this.#endAnswer(answer),
    });
    this.#answer = answer;
    this.#number = number;
    this.#isStreaming = isStreaming;
    this.#isAnswering = this.#isBeating = false;
    this.#quietAt = this.#sessions.wheel.tick;
    this.#peer?.heard();
    if (!isStreaming) answer.retriedLines = this.#written;
    else if (this.#written !== "") this.#breakOff();
    return answer.body;
  }

  /** Closes, as lines were lost: later lines must not seem to be next. */
  #breakOff(): void {
    this.#dropQueue();
    this.close(1006, "An answer was lost");
  }

  #dropQueue(): void {
    this.#queue.length = this.#queuedBytes = 0;
  }

  /** Ends the session, or sends a heartbeat, if that is due. */
  visit(): number {
    if (this.#ticksLeft() <= 0) {
      if (this.#state === "closing" || this.#answer === null) {
        this.#finish();
        return 0;
      }
      this.#isBeating = true;
      this.#flush();
    }
    // What is due may change before then, but not to earlier than that.
    const ticks = Math.min(this.#ticksLeft(), this.#sessions.shortestTicks);
    // A heartbeat that the client has no room for is due in the next tick again.
    return Math.max(ticks, 1);
  }

  /** Ticks until the session ends, or sends a heartbeat, if nothing happens. */
  #ticksLeft(): number {
    const { wheel, absenceTicks, heartbeatTicks } = this.#sessions;
    const dueAt = this.#state === "closing"
      ? this.#closedAt + absenceTicks
      : this.#answer === null
      ? this.#awayAt + absenceTicks
      : this.#quietAt + heartbeatTicks;
    return dueAt - wheel.tick;
  }

  /** Flushes at the end of this turn, so that all frames of the turn are one line. */
  #flushSoon(): void {
    if (this.#isFlushing || this.#answer === null) return;
    this.#isFlushing = true;
    queueMicrotask(() => {
      this.#isFlushing = false;
      this.#flush();
    });
  }

  /** Writes the lines that are due, as far as the answer takes them. */
  #flush(): void {
    const answer = this.#answer;
    if (answer === null || !answer.isWanted) return;
    const { prelude, retriedLines } = answer;
    // The prelude is a heartbeat, which a client ignores before the greeting.
    if (prelude !== "" && this.#isGreeted) this.#isAnswering = true;
    const lines = retriedLines ||
      this.#takeLines(answer.roomUnits - prelude.length);
    const text = prelude + lines;
    if (text === "") return;
    // Without a number, a retry cannot be recognized.
    if (this.#number !== null) {
      this.#written ||= answer.isStreaming ? lines.charAt(0) : lines;
    }
    this.#quietAt = this.#sessions.wheel.tick;
    answer.write(text);
    if (this.#isClosingSent) this.#finish();
    else if (!answer.isStreaming) {
      answer.whenDelivered(() => this.#endAnswer(answer));
    }
  }

  /**
   * Takes lines off the queue, up to a number of units. The last frame may exceed
   * them.
   */
  #takeLines(roomUnits: number): string {
    let text = this.#isGreeted ? "" : this.#greet();
    const frames: string[] = [];
    let units = text.length;
    while (this.#queue.length > 0 && units <= roomUnits) {
      // The loop has just checked the length.
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
    // A client that ends its request after this line would not read another.
    if (text.length > roomUnits) return text;
    this.#isClosingSent = true;
    return text + this.#closing.line;
  }

  #greet(): string {
    this.#isGreeted = true;
    const { hostname } = this.#sessions.settings;
    return hostname === undefined
      ? "o\n"
      : `o${JSON.stringify({ hostname })}\n`;
  }

  /** Handles the end of an answer, which the client has read or broken off. */
  #endAnswer(answer: Answer): void {
    if (answer !== this.#answer) return;
    this.#answer = null;
    this.#awayAt = this.#sessions.wheel.tick;
    if (this.#state === "closing") this.#finish();
  }

  /** Ends for good. The client may still ask for what it has missed. */
  #finish(): void {
    if (this.#state === "over") return;
    const { code } = this.#closing;
    // A client whose connection was refused may as well try again.
    const hasFarewell = this.#state === "closing" && !this.#isRefused;
    const farewell = hasFarewell ? this.#makeFarewell() : null;
    this.#state = "over";
    this.#dropQueue();
    const answer = this.#answer;
    this.#answer = null;
    answer?.end();
    // Frames of bodies that are still being read have no session any more.
    this.#ending?.abort();
    this.#sessions.forget(this, farewell);
    const release = () => this.#peer?.closed(code);
    // Once the client has the closing line, if it is there to read it; and never
    // within a call of the server's own.
    if (this.#isClosingSent && answer !== null) answer.whenDelivered(release);
    else queueMicrotask(release);
  }

  #makeFarewell(): Farewell {
    const number = this.#number;
    const text = this.#takeLines(Infinity);
    const written = this.#written;
    if (written === "") return { text, number: null, retriedText: null };
    if (!this.#isStreaming) return { text, number, retriedText: written };
    // After lost lines of a stream no frames may follow.
    const retriedText = written === "o" ? null : this.#closing.line;
    return { text, number, retriedText };
  }
}

/** The last lines of a closed session, for a client that has not read them. */
interface Farewell {
  readonly text: string;
  /** The number of the last request, if it was answered. */
  readonly number: number | null;
  /** The lines for a retry of that request; null if the retry opens a session. */
  readonly retriedText: string | null;
}

/** The body of an answer. */
class Answer {
  readonly isStreaming: boolean;
  readonly body: ReadableStream<Uint8Array>;
  /** Units within which a line may begin; below 0 the client must ask again. */
  roomUnits: number;
  /** Text in front of the first line. */
  prelude: string;
  /** The lines for a retry, in place of any others; "" for none. */
  retriedLines = "";
  /** Whether the client has taken everything that was written. */
  #isPulled = false;
  #isEnded = false;
  /** Settles when the runtime has sent the answer; not every caller knows. */
  readonly #delivered: Promise<void>;
  // Set by the constructor of the stream.
  #controller!: ReadableStreamDefaultController<Uint8Array>;

  constructor(
    isStreaming: boolean,
    delivered: Promise<void> = Promise.resolve(),
    { onPull, onCancel }: { onPull(): void; onCancel(): void },
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
        onPull();
      },
      cancel: () => {
        this.#isEnded = true;
        onCancel();
      },
      // The stream holds nothing back, so all unread frames are in the queue.
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

  /** Calls when the runtime has sent the ended answer, or failed to. */
  whenDelivered(call: () => void): void {
    this.#delivered.then(call, call);
  }
}

/** The farewells of closed sessions, for as long as clients may ask for them. */
class Farewells {
  readonly #keptMs: number;
  readonly #clock: Clock;
  /** In the order in which they expire. */
  readonly #entries = new Map<string, Farewell & { readonly until: number }>();
  #units = 0;

  constructor(clock: Clock, keptMs: number) {
    this.#clock = clock;
    this.#keptMs = keptMs;
  }

  add(id: string, farewell: Farewell): void {
    this.#expire();
    this.delete(id);
    const until = this.#clock.elapsed() + this.#keptMs;
    this.#entries.set(id, { ...farewell, until });
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

  /** The lines for a request with this number; undefined if there are none. */
  get(id: string, number: number | null): string | undefined {
    this.#expire();
    const entry = this.#entries.get(id);
    const isRetry = number !== null && number === entry?.number;
    return isRetry ? entry?.retriedText ?? undefined : entry?.text;
  }

  delete(id: string): void {
    const entry = this.#entries.get(id);
    if (entry === undefined) return;
    this.#entries.delete(id);
    this.#units -= unitsOf(id, entry);
  }

  /** Drops old entries. A timer for it would keep an idle program from exiting. */
  #expire(): void {
    const now = this.#clock.elapsed();
    for (const [id, { until }] of this.#entries) {
      if (until > now) return;
      this.delete(id);
    }
  }
}

function unitsOf(id: string, { text, retriedText }: Farewell): number {
  return id.length + text.length + (retriedText?.length ?? 0);
}

// Enough for 80,000 sessions that are closed at once. A client whose farewell was
// dropped finds no session, and opens a new one.
const MAX_FAREWELL_UNITS = 33_554_432;

// ---- Options ----------------------------------------------------------------
// Checked once, by name.

/** Options, checked. */
interface Settings {
  readonly path: string | undefined;
  readonly hostname: string | undefined;
  readonly sendBytes: number;
  readonly bodyTimeoutMs: number;
  readonly heartbeatMs: number;
  readonly absenceMs: number;
}

const CHECKS = {
  path: checkPath,
  hostname: matching(/^[A-Za-z0-9.-]+$/, "be a host without a port"),
  sendBytes: checkSize,
  bodyTimeoutMs: checkDuration,
  heartbeatMs: checkDuration,
  absenceMs: checkDuration,
};
const checkOptions = objectOf<FallbackOptions>(CHECKS);
// The keys of an object literal are known; the type of Object.keys is not.
const OPTION_NAMES = Object.keys(CHECKS) as (keyof FallbackOptions)[];

const SUBJECT = "Cannot create a fallback";

/** Such as a handler in its place, which would fail at the first request. */
const checkServer = having(["open", "clock"], "be a Pusher");

function parseOptions(given: FallbackOptions): Settings {
  const options = copyOptions(given, OPTION_NAMES);
  checkOptions(options, { subject: SUBJECT, name: "" });
  const {
    path,
    hostname,
    sendBytes = 262_144,
    bodyTimeoutMs = 10_000,
    heartbeatMs = 25_000,
    absenceMs = 5_000,
  } = options;
  return { path, hostname, sendBytes, bodyTimeoutMs, heartbeatMs, absenceMs };
}
