/**
 * A way to another port that can be shut: connections through it are cut, and none is
 * made until it opens again.
 *
 * @module
 */

/** Listens on a port of its own, and passes on to another one. */
export class Gate implements AsyncDisposable {
  #target: number;
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #connections = new Set<Deno.Conn>();
  readonly #passages = new Set<Promise<unknown>>();
  readonly #accepting: Promise<void>;
  #isShut = false;

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
    try {
      if (this.#isShut) return;
      const to = await Deno.connect({ port: this.#target });
      this.#connections.add(to);
      try {
        if (this.#isShut) return;
        await Promise.race([
          from.readable.pipeTo(to.writable),
          to.readable.pipeTo(from.writable),
        ]);
      } finally {
        this.#close(to);
      }
    } finally {
      this.#close(from);
    }
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
  }

  /**
   * Lets connections through again.
   *
   * @param target Where to from now on, if it is another port.
   */
  open(target = this.#target): void {
    this.#target = target;
    this.#isShut = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.shut();
    this.#listener.close();
    await this.#accepting;
    await Promise.all(this.#passages);
  }
}
