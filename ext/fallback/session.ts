/**
 * A connection made of requests. Its lines are those of SockJS: `o` opens it,
 * `a[…]` brings frames, `h` is a heartbeat and `c[code,reason]` closes it.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Ticking, TickWheel } from "../../core/time.ts";
import type { Peer, Transport } from "../../mod.ts";
import { Answer, PRELUDE, STREAM_UNITS } from "./answer.ts";
import type { Farewell } from "./farewells.ts";
import type { Settings } from "./options.ts";
import { MAX_REMEMBERED } from "./uploads.ts";

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

  constructor(id: string, sessions: SessionServices) {
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
