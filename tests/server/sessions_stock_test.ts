/**
 * Sessions of stock clients: pusher-js and Laravel Echo, unmodified, behind a
 * proxy that cuts.
 */
import { assert, assertEquals, assertGreater, assertLess } from "@std/assert";
import LaravelEcho from "npm:laravel-echo@2.5.0";
import pusherJs from "pusher-js";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { APP, serve, type TestServer } from "../support/server.ts";
import { FaultProxy } from "../support/proxy.ts";
import { publish, range } from "../support/recovering.ts";
import {
  authorizedBy,
  sdk,
  StockClient,
  type StockOptions,
} from "../support/stock.ts";

const FAILED = "pusher:recovery_failed";

/** The path of a session that nobody has had before. */
const newPath = (): string => `/r/${crypto.randomUUID()}`;

// ---- Stock clients ----------------------------------------------------------

/** A stall of a connection, for longer than a test takes. */
const STALL = {
  fault: "stall",
  pick: 0,
  forMs: 60_000,
  delayMs: 0,
  share: 1,
} as const;

/** Numbers as they arrive. */
class Numbers {
  readonly all: number[] = [];
  #wake = () => {};

  readonly add = (n: unknown): void => {
    this.all.push(n as number);
    this.#wake();
  };

  /** Waits until so many more have arrived. */
  async more(count: number): Promise<void> {
    const wanted = this.all.length + count;
    while (this.all.length < wanted) await this.#next();
  }

  /** Waits until a number has arrived. */
  async until(n: number): Promise<void> {
    while (!this.all.includes(n)) await this.#next();
  }

  /** The order in which they arrived first. */
  get first(): number[] {
    return [...new Set(this.all)];
  }

  async #next(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await within(DEADLINE_MS, "number", promise);
  }
}

/** Publishes ascending numbers until it is told to stop. */
function publisher(publishOne: (n: number) => Promise<unknown>) {
  let n = 0;
  let isRunning = true;
  const done = (async () => {
    while (isRunning) {
      await publishOne(++n);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return n;
  })();
  return () => {
    isRunning = false;
    return done;
  };
}

/** pusher-js, signed in, on a channel of each kind. */
async function follow(
  server: TestServer,
  proxy: FaultProxy,
  options: StockOptions,
): Promise<{ client: StockClient; channels: Map<string, Numbers> }> {
  const signer = sdk(server);
  const client = new StockClient(proxy, {
    ...authorizedBy(signer, { user_id: "7" }),
    userAuthentication: {
      customHandler: ({ socketId }, callback) =>
        callback(null, signer.authenticateUser(socketId, { id: "7" })),
      // Its types ask for what it does not need beside a handler.
    } as NonNullable<StockOptions["userAuthentication"]>,
    // So that it finds out soon that a connection is dead.
    activityTimeout: 400,
    pongTimeout: 400,
    ...options,
  });
  const channels = new Map<string, Numbers>();
  for (const name of ["news", "private-a", "presence-a"]) {
    const numbers = new Numbers();
    channels.set(name, numbers);
    (await client.join(name), client.pusher.channel(name))
      .bind("n", numbers.add);
  }
  const own = new Numbers();
  channels.set("user", own);
  client.pusher.user.bind("n", own.add);
  const signedIn = Promise.withResolvers<void>();
  client.pusher.connection.bind(
    "message",
    ({ event }: { event: string }) => {
      if (event === "pusher:signin_success") signedIn.resolve();
    },
  );
  client.pusher.signin();
  await within(DEADLINE_MS, "sign-in", signedIn.promise);
  return { client, channels };
}

/** Publishes through several cuts; what arrived, and how much there was. */
async function throughCuts(
  server: TestServer,
  options: StockOptions,
): Promise<{ channels: Map<string, Numbers>; last: number }> {
  await using proxy = await FaultProxy.open(server);
  const { client, channels } = await follow(server, proxy, options);
  using _ = client;
  const news = channels.get("news") as Numbers;
  const names = ["news", "private-a", "presence-a"];
  const stop = publisher(async (n) => {
    await server.pusher.trigger(names, "n", n);
    await server.pusher.sendToUser("7", "n", n);
  });
  await client.connection.until("connected");
  for (const cut of ["cut", "cut", "stall", "cut"] as const) {
    await news.more(50);
    if (cut === "cut") await proxy.clear("close");
    else assert(proxy.strike(STALL));
    await client.connection.until("connected");
  }
  await news.more(50);
  const last = await stop();
  for (const numbers of channels.values()) await numbers.until(last);
  return { channels, last };
}

Deno.test("pusher-js with a session in its path loses nothing over cuts and stalls", async () => {
  await using server = serve();
  const { channels, last } = await throughCuts(server, { wsPath: newPath() });
  assertGreater(last, 300);
  for (const [name, numbers] of channels) {
    assertEquals(numbers.first, range(1, last), name);
  }
});

Deno.test("pusher-js without a session loses what comes while it is away", async () => {
  await using server = serve();
  const { channels, last } = await throughCuts(server, {});
  for (const [name, numbers] of channels) {
    assertLess(numbers.first.length, last, name);
    assertEquals(numbers.first, numbers.all, name);
  }
});

Deno.test("pusher-js is told on its channel when something is gone", async () => {
  await using server = serve({ history: { events: 2 } });
  await using proxy = await FaultProxy.open(server);
  using client = new StockClient(proxy, { wsPath: newPath() });
  const news = await client.join("news");
  await client.connection.until("connected");
  await proxy.clear("close");
  await server.journal.next("disconnected");
  await publish(server, "news", 1, 3);
  const events = await news.until(FAILED);
  assertEquals(events.at(-1), [FAILED, { channel: "news" }]);
  await publish(server, "news", 4);
  await news.until("n");
});

Deno.test("Laravel Echo passes a session on, and loses nothing over a cut", async () => {
  await using server = serve();
  await using proxy = await FaultProxy.open(server);
  const echo = new LaravelEcho({
    broadcaster: "pusher",
    Pusher: pusherJs,
    key: APP.key,
    cluster: "none",
    wsHost: "127.0.0.1",
    wsPort: proxy.port,
    wsPath: newPath(),
    forceTLS: false,
    enabledTransports: ["ws"],
  });
  const numbers = new Numbers();
  const subscribed = Promise.withResolvers<void>();
  echo.channel("orders").subscribed(subscribed.resolve)
    .listen(".n", numbers.add);
  await within(DEADLINE_MS, "subscription", subscribed.promise);
  const stop = publisher((n) => server.pusher.trigger("orders", "n", n));
  for (let cuts = 0; cuts < 2; cuts++) {
    await numbers.more(50);
    await proxy.clear("close");
    await server.journal.next("connected");
    await server.journal.next("disconnected");
  }
  await numbers.more(50);
  const last = await stop();
  await numbers.until(last);
  echo.disconnect();
  assertEquals(numbers.first, range(1, last));
});
