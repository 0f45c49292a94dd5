/**
 * What a client reads of its session, in the lines of SockJS: `o` opens it, `a[…]`
 * brings frames, `h` is a heartbeat and `c[code,reason]` closes it.
 *
 * @module
 */

import { Buffer } from "node:buffer";

/** The lines that no answer has taken. */
export class Lines {
  /** Whether the client waits for a line, even without frames. */
  isPinged = false;
  /** Whether a heartbeat is due. */
  isBeating = false;
  /** Whether the next empty upload is the client's answer to a heartbeat. */
  isEchoDue = false;
  readonly #hostname: string | undefined;
  readonly #frames: string[] = [];
  #frameBytes = 0;
  #isGreeted = false;
  /** Empty until the session is closed. */
  #closingLine = "";
  #isCloseTaken = false;

  /** The host name is for the greeting; see `FallbackOptions.hostname`. */
  constructor(hostname: string | undefined) {
    this.#hostname = hostname;
  }

  get frameBytes(): number {
    return this.#frameBytes;
  }

  /** Whether an answer has taken the greeting. */
  get isGreeted(): boolean {
    return this.#isGreeted;
  }

  get closingLine(): string {
    return this.#closingLine;
  }

  /** Whether an answer has taken the closing line. */
  get isCloseTaken(): boolean {
    return this.#isCloseTaken;
  }

  add(frame: string): void {
    this.#frames.push(frame);
    this.#frameBytes += Buffer.byteLength(frame);
  }

  dropFrames(): void {
    this.#frames.length = this.#frameBytes = 0;
  }

  /** Adds the closing line, behind all frames. */
  close(code: number, reason: string): void {
    this.#closingLine = `c${JSON.stringify([code, reason])}\n`;
  }

  /** Takes lines, up to a number of units. The last frame may exceed them. */
  take(roomUnits: number): string {
    let text = this.#isGreeted ? "" : this.#greet();
    const frames: string[] = [];
    let units = text.length;
    while (this.#frames.length > 0 && units <= roomUnits) {
      // The loop has just checked the length.
      const frame = this.#frames.shift()!;
      this.#frameBytes -= Buffer.byteLength(frame);
      const quoted = JSON.stringify(frame);
      frames.push(quoted);
      units += quoted.length + ",".length;
    }
    if (frames.length > 0 || this.isPinged) text += `a[${frames}]\n`;
    else if (this.isBeating) {
      text += "h\n";
      this.isEchoDue = true;
    }
    this.isPinged = this.isBeating = false;
    if (this.#closingLine === "" || this.#frames.length > 0) return text;
    // A client that ends its request after this line would not read another.
    if (text.length > roomUnits) return text;
    this.#isCloseTaken = true;
    return text + this.#closingLine;
  }

  #greet(): string {
    this.#isGreeted = true;
    return this.#hostname === undefined
      ? "o\n"
      : `o${JSON.stringify({ hostname: this.#hostname })}\n`;
  }
}
