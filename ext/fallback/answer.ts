/**
 * One answer to a client that asks for lines: a stream, or a poll.
 *
 * @module
 */

import { Buffer } from "node:buffer";

/** Fills the buffers of proxies that hold back the beginning of a response. */
export const PRELUDE = `${"h".repeat(2048)}\n`;

/**
 * UTF-16 units after which a stream ends and the client asks for the next one, as
 * an answer may not grow for ever. No line begins after them: the client would lose
 * it without an error.
 */
export const STREAM_UNITS = 262_144;
/**
 * Less for a poll: on a slow line, the client must read all of it and ask again
 * within `absenceMs`.
 */
const POLL_UNITS = 65_536;

/** The body of an answer. */
export class Answer {
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
