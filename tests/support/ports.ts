/**
 * Ports for programs that have to be told which one to listen on.
 *
 * @module
 */

/**
 * A port that nothing listens on. The system does not hand it out by itself, so
 * nobody else gets it before the program listens, or while it does not listen.
 */
export function freePort(): number {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    try {
      using _listener = Deno.listen({ hostname: "0.0.0.0", port });
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}
