/**
 * The proof that a dropped connection costs no message, in its short form; the
 * long one is `deno run -A tests/programs/loss.ts`. After it come ways to lose a
 * message that only a certain order of events has.
 */
import { assert, assertEquals } from "@std/assert";
import { serveHttp } from "../support/fallback.ts";
import { RedisServer, testWithRedis } from "../support/redis.ts";
import { APP, Client, type TestServer } from "../support/server.ts";
import { channelAuth, type Frame } from "../support/wire.ts";
import { KINDS, TRANSPORTS } from "./loss/clients.ts";
import { BEYOND, run, type RunOptions } from "./loss/run.ts";
import { faultsOf, table } from "./loss/verdict.ts";

// ---- Loss -------------------------------------------------------------------

const seed = Number(Deno.env.get("LOSS_SEED") || Date.now() >>> 0);

const SHORT: Omit<RunOptions, "kind" | "transport"> = {
  seed,
  clients: 8,
  rate: 100,
  seconds: 4,
  cuts: 24,
  longestMs: 1_500,
};

/** Runs all of it at once, as they mostly wait, and checks each row. */
async function prove(plans: RunOptions[]): Promise<void> {
  console.info(`LOSS_SEED=${seed}`);
  const rows = await Promise.all(plans.map(run));
  console.info(table(rows));
  const faults = rows.flatMap(faultsOf);
  const examples = rows.filter((row) => faultsOf(row).length > 0)
    .flatMap(({ examples }) => examples);
  assertEquals(faults, [], [...faults, ...examples].join("\n"));
}

for (const transport of TRANSPORTS) {
  Deno.test(`nothing is lost over ${transport} by our client, nor by pusher-js with a session`, async () => {
    // What stock clients lose without a session is there to see that the faults
    // bite. Over HTTP they take long to connect: in so short a time that says little.
    const kinds = KINDS.filter((kind) =>
      kind !== "stock" || transport === "ws"
    );
    await prove(kinds.map((kind) => ({ ...SHORT, kind, transport })));
  });
}

testWithRedis(
  "nothing is lost where Redis makes three servers behind a balancer one",
  async () => {
    await using server = await RedisServer.start();
    const cluster = { nodes: 3, redis: server.url, clients: 4, rate: 50 };
    // One after the other: three servers and a Redis have enough to do with one run.
    for (const kind of ["ours", "stock-session"] as const) {
      await prove([{ ...SHORT, ...cluster, kind, transport: "ws" }]);
    }
  },
);

Deno.test("pusher:recovery_failed covers whatever a small log has lost", async () => {
  const kinds = KINDS.filter((kind) => kind !== "stock");
  await prove(
    kinds.flatMap((kind) =>
      BEYOND.map((beyond) => ({ ...SHORT, kind, transport: "ws", beyond }))
    ),
  );
});

// ---- Traps ------------------------------------------------------------------
// Browsers and Deno send a request again by themselves when the connection that it
// went out on, one used before, ends without an answer: what it has done already
// is done twice, and what its answer held is gone. The second request has the
// address of the first one, in which stock clients number their requests.

const STOCK = "protocol=7&client=js&version=8.6.0";
const SESSION = "0123456789abcdef0123";

/** A client that answers pings as a stock client does. */
class Stock extends Client {
  protected override decode(text: string): Frame[] {
    const frames = super.decode(text);
    if (frames.some(({ event }) => event === "pusher:ping")) this.pong();
    return frames;
  }

  /** How often an event with some data has come by now. */
  async count(data: string): Promise<number> {
    await this.framesUntilPong();
    return this.log.filter((frame) => frame.data === data).length;
  }
}

/** Connects a stock client. */
async function connect(
  { wsUrl }: TestServer,
  path = `/r/${SESSION}`,
  query = STOCK,
): Promise<Stock> {
  const client = new Stock(`${wsUrl}${path}/app/${APP.key}?${query}`);
  await client.established();
  return client;
}

/** A stock client over polling; every request can be sent again. */
class Polls {
  readonly #base: string;
  #requests = 0;

  constructor({ url }: TestServer, name: string, path = `/r/${SESSION}`) {
    this.#base = `${url}${path}/pusher/app/${APP.key}/1/${name}`;
  }

  /** Asks for an answer, as often as said, and returns the last one. */
  async poll(times = 1): Promise<string> {
    return await this.#post(`xhr?${STOCK}&`, null, times);
  }

  /** Polls until a text has come, and returns all that came. */
  async until(text: string): Promise<string> {
    let all = "";
    while (!all.includes(text)) all += await this.poll();
    return all;
  }

  /** Sends a frame, and calls between two times that it does. */
  async send(
    event: string,
    data: unknown,
    channel?: string,
    between: (() => Promise<unknown>)[] = [],
  ): Promise<void> {
    const body = JSON.stringify([JSON.stringify({ event, data, channel })]);
    await this.#post("xhr_send?", body, between.length + 1, between);
  }

  async #post(
    purpose: string,
    body: string | null,
    times: number,
    between: (() => Promise<unknown>)[] = [],
  ): Promise<string> {
    const url = `${this.#base}/${purpose}t=1700000000000&n=${++this.#requests}`;
    let text = "";
    for (let i = 0; i < times; i++) {
      text = await (await fetch(url, { method: "POST", body })).text();
      await between[i]?.();
    }
    return text;
  }
}

Deno.test("a session stays with the connection in use when another attempt comes later", async () => {
  await using server = serveHttp();
  {
    await using used = await connect(server);
    // pusher-js tries its transports side by side and takes what is there first.
    const slower = new Polls(server, "slowslow");
    await slower.until("pusher:connection_established");
    await used.join("news");
    await server.pusher.trigger("news", "m", "first");
    assertEquals((await used.next("m")).data, "first");
  }
  await server.pusher.trigger("news", "m", "missed");
  await using next = await connect(server);
  await next.join("news");
  // What was not acknowledged comes again before it.
  while ((await next.next("m")).data !== "missed");
});

Deno.test("what an answer to xhr held comes again, or the session ends, when the request does", async () => {
  await using server = serveHttp();
  const client = new Polls(server, "abcdefgh", "");
  await client.until("pusher:connection_established");
  await client.send("pusher:subscribe", { auth: "", channel: "news" });
  await client.until("subscription_succeeded");
  await server.pusher.trigger("news", "m", "answered");
  const again = setTimeout(
    () => server.pusher.trigger("news", "m", "later"),
    500,
  );
  const text = await client.poll(2);
  clearTimeout(again);
  assert(/answered|^[oc]/.test(text), text);
});

Deno.test("an xhr_send that comes again is served once", async () => {
  await using server = serveHttp({ clientEvents: true });
  await using other = await connect(server, "");
  await other.join("private-a");
  const client = new Polls(server, "abcdefgh", "");
  const text = await client.until("pusher:connection_established");
  const id = /\d+\.\d+/.exec(text.slice(text.indexOf("socket_id")))?.[0] ?? "";
  const auth = channelAuth(APP, id, "private-a");
  await client.send("pusher:subscribe", { auth, channel: "private-a" });
  await client.until("subscription_succeeded");
  await client.send("client-a", "once", "private-a", [
    () => other.framesUntilPong(),
  ]);
  assertEquals(await other.count("once"), 1);
});

Deno.test("a pusher:pong that comes again acknowledges nothing more", async () => {
  await using server = serveHttp();
  const client = new Polls(server, "abcdefgh");
  await client.until("pusher:connection_established");
  await client.send("pusher:subscribe", { auth: "", channel: "news" });
  await client.until("subscription_succeeded");
  await server.pusher.trigger("news", "m", "first");
  await client.until("pusher:ping");
  await client.send("pusher:pong", {}, undefined, [async () => {
    await server.pusher.trigger("news", "m", "missed");
    // Longer than it takes the server to ask again, in an answer that gets lost.
    await new Promise((resolve) => setTimeout(resolve, 500));
  }]);
  const next = new Polls(server, "ijklmnop");
  await next.until("pusher:connection_established");
  await next.send("pusher:subscribe", { auth: "", channel: "news" });
  await server.pusher.trigger("news", "m", "later");
  assert((await next.until("later")).includes("missed"));
});

Deno.test("a client is left out under each of its ids, of what it missed and of what comes", async () => {
  for (const [path, query] of [[`/r/${SESSION}`, STOCK], ["", "recover=1"]]) {
    await using server = serveHttp();
    let former: string;
    {
      await using first = await connect(server, path, query);
      former = first.socketId;
      await first.join("news");
    }
    await using next = await connect(server, path, `${query}&was=${former}`);
    // Before it has joined again, and after.
    for (let i = 0; i < 2; i++) {
      for (const socket_id of [former, next.socketId]) {
        await server.pusher.trigger("news", "m", "own", { socket_id });
      }
      await next.join("news");
    }
    assertEquals(await next.count("own"), 0, query);
  }
});
