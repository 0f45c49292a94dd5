/**
 * Says what the bench is doing, and how far it is.
 *
 * @module
 */

/** Where progress is written. */
export interface Output {
  /** Whether a line can be written over. */
  isTerminal: boolean;
  write(text: string): void;
}

const STDERR: Output = {
  isTerminal: Deno.stderr.isTerminal(),
  write: (text) => void Deno.stderr.writeSync(new TextEncoder().encode(text)),
};

const DIM = "\x1b[2m", RED = "\x1b[31m", PLAIN = "\x1b[0m", ERASE = "\r\x1b[K";

/** One run of one subject. */
export interface Step {
  scenario: string;
  subject: string;
  /** From 1. */
  round: number;
  rounds: number;
}

/** The steps of a bench: on a terminal in one line, elsewhere a line for each. */
export class Progress {
  readonly #total: number;
  readonly #output: Output;
  #done = 0;

  constructor(total: number, output: Output = STDERR) {
    this.#total = total;
    this.#output = output;
  }

  /** Says what runs now. */
  begin({ scenario, subject, round, rounds }: Step): void {
    const share = `[${this.#done + 1}/${this.#total}]`;
    const text =
      `${share} ${scenario}, round ${round} of ${rounds}: ${subject}`;
    const { isTerminal } = this.#output;
    this.#output.write(isTerminal ? `${ERASE}${DIM}${text}${PLAIN}` : text);
  }

  /** Says how it ended; `fault` is why it is no result. */
  end(seconds: number, fault?: string): void {
    this.#done++;
    const took = ` took ${seconds.toFixed(1)} s`;
    const { isTerminal } = this.#output;
    if (fault === undefined) {
      if (!isTerminal) this.#output.write(`${took}\n`);
      else if (this.#done === this.#total) this.#output.write(ERASE);
      return;
    }
    // A fault stays to be read.
    const text = `: no result: ${fault}`;
    this.#output.write(
      isTerminal ? `${RED}${text}${PLAIN}\n` : `${text},${took}\n`,
    );
  }
}
