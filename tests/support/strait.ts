/**
 * A way to another port that can be shut or long, and that can hold back what passes:
 * what a client has sent still arrives when it has long given up.
 *
 * @module
 */

/** Listens on a port of its own, and passes on to another one. */
export class Strait implements AsyncDisposable {
  readonly #target: number;
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #connections = new Set<Deno.Conn>();
  readonly #passages = new Set<Promise<unknown>>();
  readonly #accepting: Promise<void>;
  #isShut = false;
  /** How late everything passes, in milliseconds. */
  delayMs = 0;
  /** Resolves when nothing is held back any more. */
  #released: PromiseWithResolvers<void> = Promise.withResolvers();
  /** Connections on which everything is held back. */
  readonly #held = new Set<Deno.Conn>();
  #holdsNew = false;

  constructor(target: number) {
    this.#target = target;
    this.#accepting = this.#accept();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  async #accept(): Promise<void> {
    for await (const connection of this.#listener) {
      const passage = this.#pass(connection).catch(() => {});
      this.#passages.add(passage);
      passage.finally(() => this.#passages.delete(passage));
    }
  }

  async #pass(from: Deno.Conn): Promise<void> {
    this.#connections.add(from);
    if (this.#holdsNew) this.#held.add(from);
    try {
      if (this.#isShut) return;
      const to = await Deno.connect({ port: this.#target });
      this.#connections.add(to);
      try {
        if (this.#isShut) return;
        // What a client has sent arrives, also if it takes no answers any more.
        await Promise.all([
          this.#copy(from, to, from).finally(() => this.#close(to)),
          this.#copy(to, from, from).finally(() => this.#close(from)),
        ]);
      } finally {
        this.#close(to);
      }
    } finally {
      this.#close(from);
    }
  }

  /** Reads at once, as an end that closes would take back what was not read. */
  async #copy(
    from: Deno.Conn,
    to: Deno.Conn,
    client: Deno.Conn,
  ): Promise<void> {
    let written: Promise<unknown> = Promise.resolve();
    const buffer = new Uint8Array(65_536);
    for (;;) {
      const count = await from.read(buffer).catch(() => null);
      if (count === null) break;
      const part = buffer.slice(0, count);
      const late = after(this.delayMs);
      written = written.then(async () => {
        await late;
        while (this.#held.has(client)) await this.#released.promise;
        for (let at = 0; at < part.length;) {
          at += await to.write(part.subarray(at));
        }
      });
      // It is awaited in the end.
      written.catch(() => {});
    }
    await written;
  }

  #close(connection: Deno.Conn): void {
    this.#connections.delete(connection);
    try {
      connection.close();
    } catch {
      // The other side has closed it.
    }
  }

  /** Cuts all connections, without a word to either side. */
  shut(): void {
    this.#isShut = true;
    for (const connection of this.#connections) this.#close(connection);
    this.release();
  }

  /** Lets connections through again. */
  open(): void {
    this.#isShut = false;
  }

  /**
   * Holds back what passes, in both directions.
   *
   * @param alsoNew Whether that goes for connections that are made from now on.
   */
  hold(alsoNew = false): void {
    this.#holdsNew = alsoNew;
    for (const connection of this.#connections) this.#held.add(connection);
  }

  /** Lets pass what was held back. */
  release(): void {
    this.#holdsNew = false;
    this.#held.clear();
    this.#released.resolve();
    this.#released = Promise.withResolvers();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.shut();
    this.#listener.close();
    await this.#accepting;
    await Promise.all(this.#passages);
  }
}

function after(delayMs: number): Promise<void> {
  if (delayMs === 0) return Promise.resolve();
  return new Promise((resolve) => setTimeout(resolve, delayMs));
}
