/**
 * From requests to sessions: the index of sessions, the wheel that visits them, and
 * the farewells of closed sessions. Which lines a client gets is up to its session.
 *
 * @module
 */

import { readBody, refuseBody } from "../../core/bodies.ts";
import { refuse } from "../../core/http.ts";
import { isRefusal, Refusal } from "../../core/limits.ts";
import { type Clock, SYSTEM_CLOCK, TickWheel } from "../../core/time.ts";
import type { Awaitable } from "../../mod.ts";
import { PRELUDE } from "./answer.ts";
import { type Farewell, Farewells } from "./farewells.ts";
import type { FallbackServer, Settings } from "./options.ts";
import {
  emptyResponse,
  HEADERS,
  lineResponse,
  preflightResponse,
} from "./responses.ts";
import { type Route, Routes, unknownRoute } from "./routes.ts";
import { Session, type SessionServices } from "./session.ts";
import { MAX_UPLOADS, parseFrames, REFUSAL } from "./uploads.ts";

/** Precise enough for the defaults; shorter times get a tenth of their own. */
const MAX_TICK_MS = 500;

/** The sessions of one fallback. */
export class Sessions implements SessionServices {
  readonly settings: Settings;
  readonly wheel: TickWheel;
  readonly absenceTicks: number;
  readonly heartbeatTicks: number;
  /** The less of the two: nothing is due earlier after any change. */
  readonly shortestTicks: number;
  readonly #pusher: FallbackServer;
  readonly #routes: Routes;
  readonly #sessions = new Map<string, Session>();
  readonly #farewells: Farewells;
  readonly #clock: Clock;

  constructor(pusher: FallbackServer, settings: Settings) {
    const { absenceMs, heartbeatMs } = settings;
    const { clock = SYSTEM_CLOCK } = pusher;
    this.#pusher = pusher;
    this.#routes = new Routes(pusher, settings.path);
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

  /** Serves a request, or refuses it if it is for none of the routes. */
  handle(
    request: Request,
    info?: Deno.ServeHandlerInfo,
  ): Awaitable<Response> {
    const route = this.#routes.find(request);
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
