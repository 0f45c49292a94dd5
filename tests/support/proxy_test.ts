/**
 * The proxy that drops connections does to them what it says.
 */
import { assert, assertEquals } from "@std/assert";
import { DEADLINE_MS, within } from "./deadline.ts";
import { type Fault, FaultProxy, planStorm } from "./proxy.ts";
import { Queue } from "./queue.ts";

/** How long a fault of these tests lasts, and how late it makes things. */
const FAULT_MS = 200;
const DELAY_MS = 50;

/** A server that sends back what it gets, and says how its connections end. */
class Echo implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #served = this.#serve();
  readonly #ends = new Queue<string>();

  get port(): number {
    return this.#listener.addr.port;
  }

  /** How the next connection ends. */
  end(): Promise<string> {
    return this.#ends.next("end of a connection");
  }

  /** Whether the server still has all of its connections. */
  get isQuiet(): boolean {
    return this.#ends.size === 0;
  }

  async #serve(): Promise<void> {
    const connections: Promise<void>[] = [];
    for await (const connection of this.#listener) {
      connections.push(this.#echo(connection));
    }
    await Promise.all(connections);
  }

  async #echo(connection: Deno.Conn): Promise<void> {
    const end = await readAll(
      connection,
      async (chunk) => void await connection.write(chunk),
    );
    connection.close();
    this.#ends.push(end);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#served;
  }
}

/** Reads to the end, and returns which end it is. */
async function readAll(
  connection: Deno.Conn,
  take: (chunk: Uint8Array) => Promise<void>,
): Promise<string> {
  const buffer = new Uint8Array(65_536);
  try {
    for (;;) {
      const bytes = await connection.read(buffer);
      if (bytes === null) return "close";
      await take(buffer.subarray(0, bytes));
    }
  } catch (error) {
    return error instanceof Deno.errors.ConnectionReset ? "reset" : `${error}`;
  }
}

/** The client's end of a link. */
class End implements Disposable {
  #text = "";
  #heard = () => {};
  /** How it ends. */
  readonly ended: Promise<string>;

  constructor(readonly connection: Deno.TcpConn) {
    this.ended = readAll(connection, (chunk) => {
      this.#text += new TextDecoder().decode(chunk);
      this.#heard();
      return Promise.resolve();
    });
  }

  static async open({ port }: { port: number }): Promise<End> {
    return new End(await Deno.connect({ hostname: "127.0.0.1", port }));
  }

  async say(text: string): Promise<void> {
    await this.connection.write(new TextEncoder().encode(text));
  }

  /** Waits for a text, and returns how many milliseconds it took. */
  async hears(text: string): Promise<number> {
    const start = performance.now();
    while (!this.#text.endsWith(text)) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#heard = resolve;
      await within(DEADLINE_MS, `"${text}"`, promise);
    }
    return performance.now() - start;
  }

  get text(): string {
    return this.#text;
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}

/** A link over which "hello" has gone and come back. */
async function withLink(
  play: (end: End, proxy: FaultProxy, echo: Echo) => Promise<void>,
): Promise<void> {
  await using echo = new Echo();
  await using proxy = await FaultProxy.open(echo);
  using end = await End.open(proxy);
  await end.say("hello");
  await end.hears("hello");
  await play(end, proxy, echo);
}

/** Whether a new link comes about and carries something there and back. */
async function isAccepted(proxy: FaultProxy): Promise<boolean> {
  try {
    using end = await End.open(proxy);
    await end.say("again");
    const isHeard = end.hears("again").then(() => true);
    return await Promise.race([end.ended.then(() => false), isHeard]);
  } catch {
    // The reset was there before the connection was.
    return false;
  }
}

function strike(proxy: FaultProxy, fault: Fault, share = 0): void {
  const gust = { fault, pick: 0, share, forMs: FAULT_MS, delayMs: DELAY_MS };
  assert(proxy.strike(gust));
}

Deno.test("FaultProxy resets both ends, or closes them", async () => {
  for (const fault of ["reset", "close"] as const) {
    await withLink(async (end, proxy, echo) => {
      strike(proxy, fault);
      assertEquals([await end.ended, await echo.end()], [fault, fault]);
      assertEquals(proxy.links, 0);
    });
  }
});

Deno.test("FaultProxy stalls without an end of either side, and goes on", async () => {
  await withLink(async (end, proxy) => {
    strike(proxy, "stall");
    await end.say("late");
    assert(await end.hears("late") >= FAULT_MS / 2);
    assertEquals(end.text, "hellolate");
  });
});

Deno.test("FaultProxy stalls and then cuts, and what was said is lost", async () => {
  await withLink(async (end, proxy, echo) => {
    strike(proxy, "stall", 0.4);
    await end.say("late");
    assert(echo.isQuiet);
    assertEquals([await end.ended, await echo.end()], ["reset", "reset"]);
    assertEquals(end.text, "hello");
  });
});

Deno.test("FaultProxy leaves the server alone with a client that is gone", async () => {
  await withLink(async (end, proxy, echo) => {
    strike(proxy, "ghost");
    assertEquals(await end.ended, "reset");
    assert(echo.isQuiet);
    assertEquals(await echo.end(), "reset");
  });
});

Deno.test("FaultProxy makes what passes late, and keeps its order", async () => {
  await withLink(async (end, proxy) => {
    strike(proxy, "slow");
    await end.say("1");
    assert(await end.hears("1") >= DELAY_MS);
    await end.say("2");
    await end.hears("12");
  });
});

Deno.test("FaultProxy lets a part of a chunk through, and ends", async () => {
  await withLink(async (end, proxy, echo) => {
    strike(proxy, "truncate", 0.5);
    await end.say("12345678");
    assertEquals([await end.ended, await echo.end()], ["close", "reset"]);
    assertEquals(end.text, "hello1234");
  });
});

Deno.test("FaultProxy refuses connections for a time", async () => {
  await withLink(async (end, proxy) => {
    strike(proxy, "refuse");
    assertEquals(await end.ended, "reset");
    while (!await isAccepted(proxy));
    assert(proxy.refused > 0);
  });
});

Deno.test("planStorm plans the same for the same seed", () => {
  const options = { seed: 7, cuts: 50, seconds: 3 };
  assertEquals(planStorm(options), planStorm(options));
  assert(planStorm(options).every(({ atMs }) => atMs >= 0 && atMs < 3_000));
});
