/**
 * The error of what a client of a test may not do.
 *
 * @module
 */

/** Something that the program or the server has refused to a client of a test. */
export class RefusedError extends Error {
  /** Names the class. */
  override readonly name: string = "RefusedError";
  /** What was asked for. */
  readonly what: "connection" | "subscription" | "signin";
  /** The HTTP status, the close code or the error code that says the same. */
  readonly code: number;
  /** Why it was refused, in the words that the client gets. */
  readonly reason: string;

  /** Made where something is refused. */
  constructor(
    message: string,
    { what, code, reason, cause }: Pick<RefusedError, "what" | "code"> & {
      reason: string;
      cause?: unknown;
    },
  ) {
    super(`${message}: ${reason}`, cause === undefined ? {} : { cause });
    this.what = what;
    this.code = code;
    this.reason = reason;
  }
}
