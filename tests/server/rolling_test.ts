/**
 * Rolling restarts: three servers behind a balancer are closed and replaced one
 * after the other, while clients are connected and events are published.
 */
import { MemoryBackplane } from "@glitz/pusher";
import { assert, assertEquals } from "@std/assert";
import { Balancer } from "../support/balancer.ts";
import { start as startCli } from "../support/cli.ts";
import { Client as ServedClient } from "../support/client.ts";
import { ManualClock, turn } from "../support/clock.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { range } from "../support/recovering.ts";
import { RedisServer, testWithRedis } from "../support/redis.ts";
import { APP, Client, Journal, serve } from "../support/server.ts";
import { sdk, StockClient } from "../support/stock.ts";

const NODES = 3;

// ---- Pace -------------------------------------------------------------------

const CLIENTS = 120;
const OVER_MS = 4_000;
const TICK_MS = 50;

/** A stock client with a session, at its fastest: it reconnects without a delay. */
class Eager implements AsyncDisposable {
  readonly #balancer: Balancer;
  readonly #path = `/r/${crypto.randomUUID()}`;
  readonly #onBack: () => void;
  #client: Client | null = null;
  #isOver = false;
  #loop: Promise<void> = Promise.resolve();

  constructor(balancer: Balancer, onBack: () => void) {
    this.#balancer = balancer;
    this.#onBack = onBack;
  }

  async start(): Promise<void> {
    const client = await this.#connect();
    this.#loop = this.#stay(client);
  }

  async #connect(): Promise<Client> {
    const { port } = this.#balancer;
    const url = `ws://127.0.0.1:${port}${this.#path}/app/${APP.key}?protocol=7`;
    const client = this.#client = new Client(url, APP);
    await client.established();
    await client.join("news");
    return client;
  }

  async #stay(client: Client): Promise<void> {
    for (;;) {
      const { code } = await client.closed;
      if (this.#isOver) return;
      assertEquals(code, 4200);
      client = await this.#connect();
      this.#onBack();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    await this.#client?.close();
    await this.#loop;
  }
}

Deno.test("a rolling restart of three servers has clients reconnect at an even pace", async () => {
  const clock = new ManualClock();
  const memory = new MemoryBackplane();
  const limits = { framesPerSecond: Infinity };
  const journal = new Journal({ isShared: true });
  const startOne = () =>
    serve({ backplane: memory.peer(), clock, limits }, { journal });
  await using stack = new AsyncDisposableStack();
  let servers = Array.from({ length: NODES }, startOne);
  const balancer = stack.use(
    await Balancer.open(servers.map(({ port }) => port)),
  );
  let back = 0;
  let wake = () => {};
  for (let i = 0; i < CLIENTS; i++) {
    const client = stack.use(
      new Eager(balancer, () => {
        back++;
        wake();
      }),
    );
    await client.start();
  }
  /** Waits until so many clients have come back to a server. */
  const returned = async (count: number) => {
    while (back < count) {
      const next = new Promise<void>((resolve) => wake = resolve);
      await within(DEADLINE_MS, "client that is back", next);
    }
  };
  for (const server of [...servers]) {
    const before = server.pusher.stats().connections;
    assert(before >= CLIENTS / NODES, `${before} are too few`);
    balancer.remove(server.port);
    const from = back;
    let isClosed = false;
    const closed = server.pusher.close({ over: OVER_MS })
      .then(() => isClosed = true);
    const perTick: number[] = [];
    while (!isClosed) {
      const left = server.pusher.stats().connections;
      await returned(from + before - left);
      const counted = perTick.reduce((sum, count) => sum + count, 0);
      perTick.push(before - left - counted);
      clock.pass(TICK_MS);
      await turn();
    }
    await closed;
    await returned(from + before);
    assertEquals(back - from, before);
    // The server may have closed before those of the last tick were counted.
    perTick.push(before - perTick.reduce((sum, count) => sum + count, 0));
    // In any second of the drain.
    const ticks = 1_000 / TICK_MS;
    const peak = Math.max(
      ...perTick.map((_, i) =>
        perTick.slice(i, i + ticks).reduce((sum, count) => sum + count, 0)
      ),
    );
    const even = before * 1_000 / OVER_MS;
    assert(peak <= 1.3 * even, `${peak} in a second, and ${even} are even`);
    await server[Symbol.asyncDispose]();
    const fresh = startOne();
    balancer.add(fresh.port);
    servers = [...servers.filter((one) => one !== server), fresh];
  }
  await stack.disposeAsync();
  for (const server of servers) await server[Symbol.asyncDispose]();
  await journal.settled();
});

// ---- Loss -------------------------------------------------------------------

/** A server that can be closed as in a deploy. */
interface Node {
  readonly port: number;
  close(): Promise<void>;
}

const KINDS = ["ours", "stock"] as const;
const PER_KIND = 8;
/** At least so long after each publish comes the next. */
const PUBLISH_MS = 5;

/** A client that remembers the numbers that it got. */
interface Listener extends Disposable {
  readonly kind: typeof KINDS[number];
  readonly numbers: number[];
  /** How often it was told that it has lost something. */
  losses: number;
}

function listen(
  kind: Listener["kind"],
  { port }: Balancer,
  onNumber: () => void,
): { listener: Listener; joined: Promise<void> } {
  const client = kind === "ours"
    ? new ServedClient({ port })
    : new StockClient({ port }, { wsPath: `/r/${crypto.randomUUID()}` });
  const listener: Listener = {
    kind,
    numbers: [],
    losses: 0,
    [Symbol.dispose]: () => client[Symbol.dispose](),
  };
  const channel = client.pusher.subscribe("news");
  const joined = within(
    DEADLINE_MS,
    "subscription",
    new Promise<void>((resolve) =>
      channel.bind("pusher:subscription_succeeded", () => resolve())
    ),
  );
  channel.bind("n", (n: number) => {
    listener.numbers.push(n);
    onNumber();
  });
  channel.bind("pusher:recovery_failed", () => listener.losses++);
  return { listener, joined };
}

/** Restarts all nodes in turn under load. Nobody loses anything. */
async function restartAll(
  startOne: () => Promise<Node>,
  isReady: (balancer: Balancer, node: Node) => Promise<void>,
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const balancer = stack.use(await Balancer.open());
  const nodes: Node[] = [];
  stack.defer(async () => {
    for (const node of nodes) await node.close();
  });
  const add = async () => {
    const node = await startOne();
    nodes.push(node);
    await isReady(balancer, node);
  };
  for (let i = 0; i < NODES; i++) await add();
  let wake = () => {};
  const listeners: Listener[] = [];
  for (const kind of KINDS) {
    for (let i = 0; i < PER_KIND; i++) {
      const { listener, joined } = listen(kind, balancer, () => wake());
      listeners.push(stack.use(listener));
      await joined;
    }
  }
  let published = 0;
  let isOver = false;
  const publisher = sdk(balancer);
  const publishing = (async () => {
    while (!isOver) {
      // It must not fail, whichever server is closing.
      await publisher.trigger("news", "n", ++published);
      // Below the 5,000 events of the history while a client is away.
      await new Promise((resolve) => setTimeout(resolve, PUBLISH_MS));
    }
  })();
  for (let i = 0; i < NODES; i++) {
    const from = published;
    const [oldest] = nodes.splice(0, 1);
    await within(3 * DEADLINE_MS, "end of a server", oldest!.close());
    await add();
    assert(published > from, "nothing was published meanwhile");
  }
  isOver = true;
  await within(DEADLINE_MS, "end of the publisher", publishing);
  const complete = () =>
    listeners.every(({ numbers }) => numbers.at(-1) === published);
  while (!complete()) {
    const next = new Promise<void>((resolve) => wake = resolve);
    await within(3 * DEADLINE_MS, `number ${published}`, next);
  }
  assert(balancer.arrivals.length >= 2 * listeners.length);
  for (const { kind, numbers, losses } of listeners) {
    assertEquals(losses, 0);
    // A stock client gets again what it has not acknowledged.
    const got = kind === "ours" ? numbers : [...new Set(numbers)];
    assertEquals(got, range(1, published), kind);
  }
}

Deno.test("a rolling restart of three servers loses nothing for recovering clients and stock sessions", async () => {
  const memory = new MemoryBackplane();
  const journal = new Journal({ isShared: true });
  await restartAll(
    () => {
      const server = serve({ backplane: memory.peer() }, { journal });
      return Promise.resolve({
        port: server.port,
        close: async () => {
          await server.pusher.close({ over: 500 });
          await server[Symbol.asyncDispose]();
        },
      });
    },
    (balancer, { port }) => {
      balancer.add(port);
      return Promise.resolve();
    },
  );
  await journal.settled();
});

testWithRedis(
  "a rolling restart of three processes on Redis loses nothing either, and each exits 0",
  async () => {
    await using redis = await RedisServer.start();
    const app = ["--app-id", APP.id, "--key", APP.key, "--secret", APP.secret];
    await restartAll(
      async () => {
        const cli = await startCli([
          ...["run", "--no-prompt", "--allow-net", "cli.ts", ...app],
          ...["--hostname", "127.0.0.1", "--port", "0", "--drain", "0.5"],
          ...["--redis", redis.url],
        ]);
        return {
          port: Number(new URL(cli.url).port),
          close: async () => assertEquals(await cli.stop("SIGTERM"), 0),
        };
      },
      async (balancer, { port }) => await balancer.check(port),
    );
  },
);
