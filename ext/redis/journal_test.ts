/**
 * The journal on a real Redis: what is written to it, who may read it, and what is
 * known of its readers.
 */
import {
  type Backplane,
  type Journal,
  type JournalEntry,
  type JournalReader,
  Pusher,
  type ReadEntry,
} from "@glitz/pusher";
import { redis } from "@glitz/pusher/redis";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { Gate } from "../../tests/support/gate.ts";
import { RedisServer, testWithRedis } from "../../tests/support/redis.ts";

const LEASE_MS = 1_500;

/** A server with a journal, and what belongs to it. */
class Server implements AsyncDisposable {
  readonly journal: Journal;
  readonly #backplane: Backplane;
  readonly #pusher: Pusher;
  readonly #gate: Gate;
  readonly #unwant: (() => void) | undefined;

  private constructor(store: RedisServer, wants: boolean, leaseMs: number) {
    this.#gate = new Gate(store.port);
    const url = `redis://127.0.0.1:${this.#gate.port}`;
    this.#backplane = redis(url, { leaseMs });
    this.#pusher = new Pusher({ backplane: this.#backplane });
    this.journal = this.#backplane.journal!;
    this.#unwant = wants ? this.journal.want() : undefined;
  }

  static async start(
    store: RedisServer,
    { wants = true, leaseMs = LEASE_MS } = {},
  ): Promise<Server> {
    const server = new Server(store, wants, leaseMs);
    await server.#pusher.channels();
    return server;
  }

  async join(channel: string, connections = 1): Promise<void> {
    const options = { connections, recovering: 0 };
    await this.#backplane.join("app", channel, options);
  }

  async leave(channel: string): Promise<void> {
    const options = { connections: 0, recovering: 0 };
    await this.#backplane.leave("app", channel, options);
  }

  async publish(channel: string, message: object): Promise<void> {
    const event = { event: "x", data: "{}", ...message };
    await this.#backplane.publish("app", channel, event);
  }

  /** Becomes the reader of a name, as soon as nobody else is. */
  async claim(
    name = "reader",
    yieldReader = () => Promise.resolve(),
  ): Promise<JournalReader> {
    const options = { ageMs: 60_000, yield: yieldReader };
    const claimed = async () => {
      for (;;) {
        const reader = await this.journal.claim(name, options);
        if (reader !== null) return reader;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    return await within(DEADLINE_MS, "claim", claimed());
  }

  /** Cuts it off from Redis. */
  cut(): void {
    this.#gate.shut();
  }

  async close(): Promise<void> {
    await within(DEADLINE_MS, "end of the server", this.#pusher.close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#unwant?.();
    await this.close();
    await this.#gate[Symbol.asyncDispose]();
  }
}

/** All that is in the journal after some positions, which move on. */
async function readAll(
  server: Server,
  reader: JournalReader,
  positions = new Map<number, string>(),
): Promise<{ entries: ReadEntry[]; pages: number; dropped: number }> {
  const entries: ReadEntry[] = [];
  let [pages, dropped] = [0, 0];
  for (let part = 0; part < server.journal.parts; part++) {
    for (let hasMore = true; hasMore;) {
      const page = await reader.read(part, positions.get(part));
      positions.set(part, page.position);
      entries.push(...page.entries);
      dropped += page.dropped;
      hasMore = page.hasMore;
      if (page.entries.length > 0) pages++;
    }
  }
  return { entries, pages, dropped };
}

/** Entries as `kind channel user`. */
function inShort(entries: readonly JournalEntry[]): string[] {
  return entries.map(({ kind, channel, userId }) =>
    [kind, channel, userId].filter(Boolean).join(" ")
  );
}

testWithRedis(
  "the journal has transitions, client events and what a server appends, in order",
  async () => {
    await using store = await RedisServer.start();
    await using server = await Server.start(store);
    const reader = await server.claim();
    await server.join("cache-a");
    await server.join("#server-to-user-ann");
    await server.journal.append({
      ...{ kind: "cache_miss", app: "app", channel: "cache-a" },
    });
    await server.publish("cache-a", { cacheMs: 60_000 });
    await server.publish("cache-a", { cacheMs: 60_000 });
    const sender = { exceptSocketId: "1.2", fromClient: true, userId: "ann" };
    await server.publish("cache-a", { ...sender, data: "1" });
    await server.journal.append({
      ...{ kind: "subscription_count", app: "app", channel: "cache-a" },
      subscriptionCount: 1,
    });
    await server.leave("cache-a");
    const { entries } = await readAll(server, reader);
    assertEquals(inShort(entries), [
      "channel_occupied cache-a",
      "cache_miss cache-a",
      // Only the first one since the cache miss.
      "published cache-a",
      "client_event cache-a",
      "subscription_count cache-a",
      "channel_vacated cache-a",
    ]);
    assertEquals(entries[3]?.clientEvent, {
      ...{ event: "x", data: "1", socketId: "1.2", userId: "ann" },
    });
    assertEquals(entries[4]?.subscriptionCount, 1);
    const times = entries.map(({ timeMs }) => timeMs);
    assertEquals(times, times.toSorted((a, b) => a - b));
  },
);

testWithRedis(
  "the journal is read in pages, from where the notes say",
  async () => {
    await using store = await RedisServer.start();
    await using server = await Server.start(store);
    const reader = await server.claim();
    for (let i = 0; i < 130; i++) {
      await server.join("a");
      await server.leave("a");
    }
    const positions = new Map<number, string>();
    const { entries, pages } = await readAll(server, reader, positions);
    assertEquals([entries.length, pages], [260, 3]);
    await server.join("a");
    const { entries: later } = await readAll(server, reader, positions);
    assertEquals(inShort(later), ["channel_occupied a"]);
    assertEquals((await readAll(server, reader, positions)).entries, []);
  },
);

testWithRedis(
  "entries that were dropped before they were read are counted, once",
  async () => {
    await using store = await RedisServer.start();
    await using server = await Server.start(store);
    const reader = await server.claim();
    const positions = new Map<number, string>();
    await server.join("a");
    assertEquals((await readAll(server, reader, positions)).dropped, 0);
    for (let i = 0; i < 10; i++) {
      await server.leave("a");
      await server.join("a");
    }
    const [key] = await store.command("KEYS", "*}:w") as string[];
    await store.command("XTRIM", key!, "MAXLEN", 4);
    const { entries, dropped } = await readAll(server, reader, positions);
    assertEquals([entries.length, dropped], [4, 16]);
    await server.leave("a");
    const after = await readAll(server, reader, positions);
    assertEquals([after.entries.length, after.dropped], [1, 0]);
    // A stream that has expired begins again.
    await store.command("DEL", key!);
    await server.join("a");
    const again = await readAll(server, reader, positions);
    assertEquals([again.entries.length, again.dropped], [1, 0]);
  },
);

testWithRedis(
  "a reader begins with what was written since it was wanted",
  async () => {
    await using store = await RedisServer.start();
    await using server = await Server.start(store);
    // Somebody else has read for a long time.
    const old = ["t", 1_000, "c", "app old", "e", "o", "u", "", "n", 1];
    for (let bucket = 0; bucket < server.journal.parts; bucket++) {
      await store.command("XADD", `{pusher:${bucket}}:w`, "1000-1", ...old);
    }
    const wantedMs = performance.now();
    await server.join("a");
    // Redis gets the claim late.
    store.pause();
    const claimed = server.journal.claim("reader", {
      ageMs: performance.now() - wantedMs,
      yield: () => Promise.resolve(),
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    store.resume();
    const reader = await claimed;
    assert(reader !== null);
    const { entries } = await readAll(server, reader);
    assertEquals(inShort(entries), ["channel_occupied a"]);
  },
);

testWithRedis(
  "one server at a time is the reader, and its successor has its notes",
  async () => {
    await using store = await RedisServer.start();
    await using one = await Server.start(store, { leaseMs: 60_000 });
    await using two = await Server.start(store, { leaseMs: 60_000 });
    const reader = await one.claim();
    const options = { ageMs: 0, yield: () => Promise.resolve() };
    assertEquals(await two.journal.claim("reader", options), null);
    assert((await two.journal.claim("another", options)) !== null);
    const notes = new Map(
      Array.from({ length: 1_000 }, (_, i) => [`note-${i}`, `${i}`] as const),
    );
    assert((await reader.commit(notes)) !== null);
    assert((await reader.commit(new Map([["note-0", null]]))) !== null);
    notes.delete("note-0");
    await reader.release();
    const successor = await two.claim();
    const found = await successor.notes();
    assertEquals(
      [...found].toSorted(),
      [...notes].toSorted(),
    );
    // What was released cannot be used any more.
    assertEquals(await reader.commit(new Map([["late", "x"]])), null);
    assert(!(await successor.notes()).has("late"));
  },
);

testWithRedis(
  "when the lease of a reader has ended, nothing of it is stored any more",
  async () => {
    await using store = await RedisServer.start();
    await using one = await Server.start(store);
    await using two = await Server.start(store);
    const reader = await one.claim();
    assert((await reader.commit(new Map([["a", "1"]]))) !== null);
    // It does nothing, as if it were frozen, until the other one is the reader.
    const successor = await two.claim();
    assertEquals(await reader.commit(new Map([["a", "2"]])), null);
    await reader.release();
    assertEquals([...await successor.notes()], [["a", "1"]]);
    assert((await successor.commit(new Map([["a", "3"]]))) !== null);
    assertEquals([...await successor.notes()], [["a", "3"]]);
  },
);

testWithRedis(
  "a reader whose Redis is away says so at once, and goes on with the notes",
  async () => {
    await using store = await RedisServer.start();
    await using server = await Server.start(store, { leaseMs: 60_000 });
    const reader = await server.claim();
    assert((await reader.commit(new Map([["a", "1"]]))) !== null);
    await store.stop();
    await assertRejects(() => reader.commit(new Map([["a", "2"]])));
    await store.restart();
    const back = async () => {
      for (;;) {
        try {
          return await server.claim();
        } catch {
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }
    };
    const again = await within(DEADLINE_MS, "claim", back());
    assertEquals([...await again.notes()], [["a", "1"]]);
  },
);

testWithRedis(
  "a server that closes has its readers released first",
  async () => {
    await using store = await RedisServer.start();
    const one = await Server.start(store, { leaseMs: 3_600_000 });
    await using two = await Server.start(store, { leaseMs: 3_600_000 });
    let isAsked = false;
    const reader: JournalReader = await one.claim("reader", async () => {
      isAsked = true;
      assert((await reader.commit(new Map([["a", "1"]]))) !== null);
      await reader.release();
    });
    await one[Symbol.asyncDispose]();
    assert(isAsked);
    assertEquals([...await (await two.claim()).notes()], [["a", "1"]]);
  },
);

testWithRedis(
  "without a reader nothing is written, and a server asks seldom",
  async () => {
    await using store = await RedisServer.start();
    await using server = await Server.start(store, { wants: false });
    const entry = {
      kind: "cache_miss",
      app: "app",
      channel: "cache-a",
    } as const;
    await server.join("cache-a");
    const calls = async () => {
      const info = await store.command("INFO", "commandstats") as string;
      return Number(/cmdstat_evalsha:calls=(\d+)/.exec(info)?.[1] ?? 0);
    };
    await server.journal.append(entry);
    const before = await calls();
    for (let i = 0; i < 200; i++) await server.journal.append(entry);
    const asked = await calls() - before;
    // The lease is renewed meanwhile.
    assert(asked < 50, `${asked}`);
    await server.leave("cache-a");
    const keys = await store.command("KEYS", "*") as string[];
    assertEquals(keys.filter((key) => /\}:(w|r)\b/.test(key)), []);
  },
);
