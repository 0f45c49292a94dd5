/**
 * How far a long command is: on a terminal one line that changes, elsewhere a line
 * from time to time. It goes to the standard error, so that results stay clean.
 *
 * @module
 */

/** Where progress is written: the standard error, or what a test has in its place. */
export interface Screen {
  writeSync(bytes: Uint8Array): number;
  isTerminal(): boolean;
  /** Characters in a line of the terminal. */
  columns(): number;
}

const STDERR: Screen = {
  writeSync: (bytes) => Deno.stderr.writeSync(bytes),
  isTerminal: () => Deno.stderr.isTerminal(),
  columns: () => {
    try {
      // A terminal that does not know says 0.
      return Deno.consoleSize().columns || 80;
    } catch {
      // The size is that of the standard output, which may be a file.
      return 80;
    }
  },
};

/** Where lines stay: a log of a long run must not become a long log. */
const QUIET_MS = 10_000;

/** Goes to the start of the line, and empties it. */
const ERASE = "\r\x1b[K";

/** The progress of one command. */
export class Progress implements Disposable {
  readonly #total: number;
  readonly #screen: Screen;
  readonly #elapsed: () => number;
  readonly #isTerminal: boolean;
  #shownAt = -Infinity;

  /** @param total How many steps there are. */
  constructor(
    total: number,
    screen: Screen = STDERR,
    elapsed: () => number = () => performance.now(),
  ) {
    this.#total = total;
    this.#screen = screen;
    this.#elapsed = elapsed;
    this.#isTerminal = screen.isTerminal();
  }

  /**
   * Says how far the command is.
   *
   * @param done The number of the step.
   * @param what What the step does, in a few words.
   */
  show(done: number, what: string): void {
    const text = `${done} of ${this.#total}: ${what}`;
    if (this.#isTerminal) {
      // A line that is broken in two could not be erased.
      return this.#write(ERASE + text.slice(0, this.#screen.columns() - 1));
    }
    const now = this.#elapsed();
    if (now - this.#shownAt < QUIET_MS) return;
    this.#shownAt = now;
    this.#write(`${text}\n`);
  }

  /** Makes room for results, on a terminal that shows both. */
  clear(): void {
    if (this.#isTerminal) this.#write(ERASE);
  }

  [Symbol.dispose](): void {
    this.clear();
  }

  #write(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.#screen.writeSync(bytes);
  }
}
