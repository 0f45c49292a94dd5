/**
 * A connection made of requests: which answer gets the next lines, which requests are
 * retries, and when a client that is away is gone.
 *
 * @module
 */

import type { Ticking, TickWheel } from "../../core/time.ts";
import type { Peer, Transport } from "../../mod.ts";
import { Answer, PRELUDE, STREAM_UNITS } from "./answer.ts";
import type { Farewell } from "./farewells.ts";
import { Lines } from "./lines.ts";
import type { Settings } from "./options.ts";
import { SeenUploads } from "./uploads.ts";

/**
 * Frames beyond this are not kept for a client whose session is closed. Escaped as
 * text, they fit into one answer, whatever they hold.
 */
const FAREWELL_BYTES = STREAM_UNITS / 2 - PRELUDE.length;

/** What a session needs of the index of sessions. */
export interface SessionServices {
  readonly settings: Settings;
  readonly wheel: TickWheel;
  readonly absenceTicks: number;
  readonly heartbeatTicks: number;
  /** The less of the two: nothing is due earlier after any change. */
  readonly shortestTicks: number;
  /** Takes a session that is over out of the index. */
  forget(session: Session, farewell: Farewell | null): void;
}

/**
 * One client.
 *
 * ```text
 * open ──> closing ──> over      the server closes it, then the client has read so
 *   └──────────────────^         the client has been away for too long
 * ```
 */
export class Session implements Transport, Ticking {
  readonly id: string;
  slot: Ticking["slot"] = null;
  /** Requests with frames that are being read. */
  uploads = 0;
  readonly #sessions: SessionServices;
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
  readonly #seen = new SeenUploads();
  readonly #lines: Lines;
  /** Whether a flush is due at the end of this turn. */
  #isFlushing = false;
  /** The code of the close: the client's absence, unless the server has closed. */
  #code = 1006;
  /** Whether the server has refused the connection. */
  #isRefused = false;
  /** The ticks of the last answer's end, of the last output, and of the close. */
  #awayAt: number;
  #quietAt: number;
  #closedAt = 0;

  constructor(id: string, sessions: SessionServices) {
    this.id = id;
    this.#sessions = sessions;
    this.#lines = new Lines(sessions.settings.hostname);
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
    return this.#lines.frameBytes;
  }

  send(frame: string): void {
    if (this.#state !== "open") return;
    this.#lines.add(frame);
    this.#flushSoon();
  }

  close(code: number, reason: string): void {
    if (this.#state !== "open") return;
    this.#state = "closing";
    this.#code = code;
    this.#lines.close(code, reason);
    this.#closedAt = this.#sessions.wheel.tick;
    if (this.#lines.frameBytes > FAREWELL_BYTES) this.#lines.dropFrames();
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
    if (number !== null && !this.#seen.add(number)) return;
    if (frames.length === 0) return this.#receivePing();
    for (const frame of frames) this.#peer?.receive(frame);
  }

  /**
   * An empty upload answers the heartbeat of a stream. Otherwise it is a ping, and
   * asks for a line; that line is never a heartbeat, which the client would answer
   * in turn. The client answers the heartbeat of a poll with its next poll.
   */
  #receivePing(): void {
    this.#peer?.heard();
    const isAnswer = this.#lines.isEchoDue && this.#isStreaming;
    this.#lines.isEchoDue = false;
    if (isAnswer) return;
    this.#lines.isPinged = true;
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
    this.#peer?.closed(this.#code);
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
    this.#lines.isEchoDue = this.#lines.isBeating = false;
    this.#quietAt = this.#sessions.wheel.tick;
    this.#peer?.heard();
    if (!isStreaming) answer.retriedLines = this.#written;
    else if (this.#written !== "") this.#breakOff();
    return answer.body;
  }

  /** Closes, as lines were lost: later lines must not seem to be next. */
  #breakOff(): void {
    this.#lines.dropFrames();
    this.close(1006, "An answer was lost");
  }

  /** Ends the session, or sends a heartbeat, if that is due. */
  visit(): number {
    if (this.#ticksLeft() <= 0) {
      if (this.#state === "closing" || this.#answer === null) {
        this.#finish();
        return 0;
      }
      this.#lines.isBeating = true;
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
    if (prelude !== "" && this.#lines.isGreeted) this.#lines.isEchoDue = true;
    const lines = retriedLines ||
      this.#lines.take(answer.roomUnits - prelude.length);
    const text = prelude + lines;
    if (text === "") return;
    // Without a number, a retry cannot be recognized.
    if (this.#number !== null) {
      this.#written ||= answer.isStreaming ? lines.charAt(0) : lines;
    }
    this.#quietAt = this.#sessions.wheel.tick;
    answer.write(text);
    if (this.#lines.isCloseTaken) this.#finish();
    else if (!answer.isStreaming) {
      answer.whenDelivered(() => this.#endAnswer(answer));
    }
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
    const code = this.#code;
    // A client whose connection was refused may as well try again.
    const hasFarewell = this.#state === "closing" && !this.#isRefused;
    const farewell = hasFarewell ? this.#makeFarewell() : null;
    this.#state = "over";
    this.#lines.dropFrames();
    const answer = this.#answer;
    this.#answer = null;
    answer?.end();
    // Frames of bodies that are still being read have no session any more.
    this.#ending?.abort();
    this.#sessions.forget(this, farewell);
    const release = () => this.#peer?.closed(code);
    // Once the client has the closing line, if it is there to read it; and never
    // within a call of the server's own.
    if (this.#lines.isCloseTaken && answer !== null) {
      answer.whenDelivered(release);
    } else queueMicrotask(release);
  }

  #makeFarewell(): Farewell {
    const number = this.#number;
    const text = this.#lines.take(Infinity);
    const written = this.#written;
    if (written === "") return { text, number: null, retriedText: null };
    if (!this.#isStreaming) return { text, number, retriedText: written };
    // After lost lines of a stream no frames may follow.
    const retriedText = written === "o" ? null : this.#lines.closingLine;
    return { text, number, retriedText };
  }
}
