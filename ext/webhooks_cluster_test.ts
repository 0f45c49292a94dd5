/**
 * Webhooks of several servers on one Redis. Every webhook that a receiver gets is
 * checked with the official SDK and with our own reader. Servers are in this process,
 * with clients in memory; those that are killed or frozen are processes of their own.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
import { redis } from "@glitz/pusher/redis";
import {
  type OutgoingEvent,
  type WebhookError,
  type WebhookName,
  type WebhookOptions,
  type Webhooks,
  webhooks,
} from "@glitz/pusher/webhooks";
import { assert, assertEquals } from "@std/assert";
import { DEADLINE_MS, within } from "../tests/support/deadline.ts";
import { Gate } from "../tests/support/gate.ts";
import { Queue } from "../tests/support/queue.ts";
import { APP, inShort, Receiver } from "../tests/support/receiver.ts";
import { RedisServer, testWithRedis } from "../tests/support/redis.ts";
import { RedisCluster } from "../tests/support/redis_groups.ts";
import { WebhookNode } from "../tests/support/webhook_node.ts";
import { Socket } from "../tests/support/wire.ts";

/** Long enough that nobody is taken for dead on a busy machine. */
const LEASE_MS = 3_000;

/** A client in memory. */
class Client {
  readonly frames: Queue<{ event: string; channel?: string }> = new Queue();
  readonly #pusher: Pusher;
  readonly #peer: ReturnType<Pusher["open"]>;
  socketId = "";

  constructor(pusher: Pusher, key = APP.key) {
    this.#pusher = pusher;
    const transport = {
      bufferedAmount: 0,
      send: (frame: string) => {
        const parsed = JSON.parse(frame);
        if (parsed.event === "pusher:connection_established") {
          this.socketId = JSON.parse(parsed.data).socket_id;
        }
        this.frames.push(parsed);
      },
      close: () => queueMicrotask(() => this.close()),
    };
    const request = new Request(`http://localhost/app/${key}?protocol=7`);
    this.#peer = pusher.open(transport, key, request);
  }

  send(event: string, data: unknown, channel?: string): void {
    this.#peer.receive(JSON.stringify({ event, channel, data }));
  }

  /** Joins, and waits until the server says so. */
  async join(channel: string, user_id?: string): Promise<this> {
    const member = user_id === undefined ? undefined : { user_id };
    const auth = /^(private|presence)-/.test(channel)
      ? this.#pusher.authorizeChannel(this.socketId, channel, member)
      : {};
    this.send("pusher:subscribe", { channel, ...auth });
    await this.upTo("pusher_internal:subscription_succeeded", channel);
    return this;
  }

  async upTo(event: string, channel: string): Promise<void> {
    await this.frames.upTo(
      (frame) => frame.event === event && frame.channel === channel,
      `${event} of ${channel}`,
      DEADLINE_MS,
    );
  }

  leave(channel: string): void {
    this.send("pusher:unsubscribe", { channel });
  }

  close(): void {
    this.#peer.closed(1000);
  }
}

/** What {@linkcode Cluster.start} takes. */
interface Options extends Partial<WebhookOptions> {
  pusher?: PusherOptions;
  /** Filters of the one endpoint. */
  events?: readonly WebhookName[];
  channelPrefix?: string;
  leaseMs?: number;
}

/** One server of this process. */
class Node implements AsyncDisposable {
  readonly errors = new Queue<WebhookError>();
  readonly pusher: Pusher;
  readonly hooks: Webhooks;
  readonly #gate: Gate;

  constructor(store: RedisServer, url: string, options: Options) {
    const { pusher, events, channelPrefix, leaseMs, ...rest } = options;
    this.#gate = new Gate(store.port);
    this.pusher = new Pusher({
      ...APP,
      clientEvents: true,
      backplane: redis(`redis://127.0.0.1:${this.#gate.port}`, {
        leaseMs: leaseMs ?? LEASE_MS,
      }),
      ...pusher,
    });
    this.hooks = webhooks(this.pusher, {
      ...{ key: APP.key, secret: APP.secret, onError: this.errors.push },
      endpoints: [{ url, events, channelPrefix }],
      // One by one, so that each event can be awaited.
      batch: false,
      ...rest,
    });
  }

  /** Cuts it off from Redis, as if it had died. */
  cut(): void {
    this.#gate.shut();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await within(DEADLINE_MS, "end of webhooks", this.hooks.close());
    await within(DEADLINE_MS, "end of the server", this.pusher.close());
    await this.#gate[Symbol.asyncDispose]();
  }
}

/** A Redis, a receiver, and what else a test needs. */
class Stage implements AsyncDisposable {
  readonly receiver = new Receiver();
  readonly #nodes: Node[] = [];

  private constructor(readonly store: RedisServer) {}

  static async open(): Promise<Stage> {
    return new Stage(await RedisServer.start());
  }

  /** Starts one more server. */
  node(options: Options = {}): Node {
    const node = new Node(this.store, this.receiver.url, options);
    this.#nodes.push(node);
    return node;
  }

  /** What a process of its own is made of. */
  process(options: Partial<WebhookOptions> = {}): Promise<WebhookNode> {
    return WebhookNode.start({
      redisUrl: this.store.url,
      leaseMs: LEASE_MS,
      pusher: { ...APP, clientEvents: true },
      webhooks: {
        ...{ key: APP.key, secret: APP.secret, batch: false },
        endpoints: [{ url: this.receiver.url }],
        ...options,
      },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.#nodes) await node[Symbol.asyncDispose]();
    await this.receiver[Symbol.asyncDispose]();
    await this.store[Symbol.asyncDispose]();
  }
}

/** Connects to a process. */
async function dial({ port }: WebhookNode): Promise<Socket> {
  const app = { id: APP.appId, key: APP.key, secret: APP.secret };
  const url = `ws://127.0.0.1:${port}/app/${APP.key}?protocol=7`;
  const client = new Socket(url, app);
  await client.established();
  return client;
}

/** Waits until servers have taken in so many events, at least, that wait now. */
async function untilQueued(nodes: Node[], count: number): Promise<void> {
  const queued = () =>
    nodes.reduce((sum, { hooks }) => sum + hooks.status[0]!.queued, 0);
  const deadline = performance.now() + DEADLINE_MS;
  while (count === 0 ? queued() > 0 : queued() < count) {
    assert(
      performance.now() < deadline,
      `Queued are ${queued()}, not ${count}`,
    );
    await turn();
  }
}

/** Starts a server, again where Redis is not ready in time on a busy machine. */
async function started(url: string): Promise<Pusher> {
  for (;;) {
    const pusher = new Pusher({
      ...APP,
      backplane: redis(url, { leaseMs: LEASE_MS }),
    });
    // It is said below, or it does not matter.
    const unlisten = pusher.on("error", () => {});
    try {
      await pusher.channels();
      unlisten();
      return pusher;
    } catch {
      await pusher.close();
    }
  }
}

/** Waits until a note is stored in Redis. */
async function untilNoted(store: RedisServer, name: string): Promise<void> {
  const stored = async () => {
    for (;;) {
      const [key] = await store.command("KEYS", "*:r:*") as string[];
      const found = key && await store.command("HEXISTS", key, name);
      if (found === 1) return;
      await turn();
    }
  };
  await within(DEADLINE_MS, `note ${name}`, stored());
}

function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 5));
}

/** Answers 503 until it is told otherwise. */
function refuse(receiver: Receiver): void {
  receiver.answer = () => new Response(null, { status: 503 });
}

function accept(receiver: Receiver): void {
  receiver.answer = () => new Response();
}

/** Takes events until as many different webhooks were accepted, by their ids. */
async function distinct(
  receiver: Receiver,
  count: number,
): Promise<[id: string, event: string][]> {
  const seen = new Map<string, string>();
  while (seen.size < count) {
    const { id, events } = await receiver.take();
    const text = events.map(inShort).join();
    // A repeat is the same.
    assertEquals(seen.get(id) ?? text, text);
    seen.set(id, text);
  }
  return [...seen];
}

const OCCUPANCY = ["channel_occupied", "channel_vacated"] as const;

// ---- What is reported -------------------------------------------------------

testWithRedis(
  "webhooks of a cluster report each event once, whichever server it happens on",
  async () => {
    await using stage = await Stage.open();
    const nodes = [stage.node(), stage.node(), stage.node()];
    const clients = nodes.map(({ pusher }) => new Client(pusher));
    for (const [i, client] of clients.entries()) {
      await client.join("presence-room", `user-${i}`);
      await client.join("presence-room-2", "ann");
    }
    clients[1]!.send("client-x", { a: 1 }, "presence-room");
    const told: OutgoingEvent[] = [];
    while (told.length < 7) told.push(...(await stage.receiver.take()).events);
    assertEquals(told.map(inShort).sort(), [
      "channel_occupied presence-room",
      "channel_occupied presence-room-2",
      "client_event presence-room user-1",
      "member_added presence-room user-0",
      "member_added presence-room user-1",
      "member_added presence-room user-2",
      "member_added presence-room-2 ann",
    ]);
    assertEquals(told.find(({ name }) => name === "client_event"), {
      name: "client_event",
      channel: "presence-room",
      event: "client-x",
      data: '{"a":1}',
      socket_id: clients[1]!.socketId,
      user_id: "user-1",
    });
    for (const client of clients) client.close();
    for (let i = 0; i < 6; i++) {
      told.push(...(await stage.receiver.take()).events);
    }
    assertEquals(told.slice(7).map(inShort).sort(), [
      "channel_vacated presence-room",
      "channel_vacated presence-room-2",
      "member_removed presence-room user-0",
      "member_removed presence-room user-1",
      "member_removed presence-room user-2",
      "member_removed presence-room-2 ann",
    ]);
    // Nothing else waits, and one server did it all or they shared it.
    await untilQueued(nodes, 0);
    assertEquals(stage.receiver.deliveries.size, 0);
  },
);

testWithRedis(
  "a client that moves to another server within settleMs is neither gone nor come",
  async () => {
    await using stage = await Stage.open();
    const [one, two] = [stage.node(), stage.node()];
    const before = await new Client(one.pusher).join("presence-a", "ann");
    assertEquals(await stage.receiver.toldAll(2), [
      "channel_occupied presence-a",
      "member_added presence-a ann",
    ]);
    const fence = await new Client(one.pusher).join("fence");
    assertEquals(await stage.receiver.told(), "channel_occupied fence");
    before.close();
    const after = await new Client(two.pusher).join("presence-a", "ann");
    // Later than the client, so it is reported after all that is reported of it.
    fence.close();
    assertEquals(await stage.receiver.told(), "channel_vacated fence");
    await new Client(two.pusher).join("fence-2");
    assertEquals(await stage.receiver.told(), "channel_occupied fence-2");
    after.close();
    assertEquals(await stage.receiver.toldAll(2), [
      "member_removed presence-a ann",
      "channel_vacated presence-a",
    ]);
  },
);

testWithRedis(
  "cache_miss is told once in a cluster, until some server publishes",
  async () => {
    await using stage = await Stage.open();
    const nodes = [stage.node({ events: ["cache_miss"] })];
    nodes.push(stage.node({ events: ["cache_miss"] }));
    const [one, two] = nodes.map(({ pusher }) => pusher);
    const miss = async (pusher: Pusher, channel: string) => {
      const client = await new Client(pusher).join(channel);
      await client.upTo("pusher:cache_miss", channel);
      return client;
    };
    await miss(one!, "cache-a");
    assertEquals(await stage.receiver.told(), "cache_miss cache-a");
    await miss(two!, "cache-a");
    await miss(one!, "cache-a");
    await miss(two!, "cache-fence");
    assertEquals(await stage.receiver.told(), "cache_miss cache-fence");
    await two!.trigger("cache-fence", "create", {});
    await two!.trigger("cache-a", "create", {});
    // Such an event may expire; here the cache is emptied.
    const [key] = await stage.store.command(
      "KEYS",
      "*:l:* cache-a",
    ) as string[];
    await stage.store.command("DEL", key!);
    await miss(one!, "cache-a");
    assertEquals(await stage.receiver.told(), "cache_miss cache-a");
  },
);

testWithRedis(
  "subscription_count of a channel is told in order, from each server",
  async () => {
    await using stage = await Stage.open();
    const options: Options = {
      events: ["subscription_count"],
      pusher: { subscriptionCounts: true },
    };
    const nodes = [stage.node(options), stage.node(options)];
    for (let i = 1; i <= 4; i++) {
      await new Client(nodes[i % 2]!.pusher).join("news");
      const { events: [event] } = await stage.receiver.take();
      assertEquals(event, {
        name: "subscription_count",
        channel: "news",
        subscription_count: i,
      });
    }
  },
);

testWithRedis(
  "each app and each endpoint of a cluster gets its own events, also those with one URL",
  async () => {
    await using stage = await Stage.open();
    const apps = [
      { id: APP.appId, key: APP.key, secret: APP.secret },
      { id: "other", key: "other", secret: "secret" },
    ];
    const { receiver } = stage;
    const endpoints = [
      { url: receiver.url, channelPrefix: "a" },
      { url: receiver.url, channelPrefix: "b" },
    ];
    const own = { appId: undefined, key: undefined, secret: undefined };
    const nodes = [0, 1].map(() =>
      stage.node({ pusher: { ...own, apps }, endpoints, events: OCCUPANCY })
    );
    // A second one of the same app, with the same URL as well.
    await using _more = webhooks(nodes[1]!.pusher, {
      ...{ key: APP.key, secret: APP.secret, batch: false },
      endpoints: [{ url: receiver.url, channelPrefix: "c" }],
    });
    const other = new Client(nodes[0]!.pusher, "other");
    await other.join("a-of-another-app");
    for (const name of ["a", "b", "c", "d"]) {
      await new Client(nodes[0]!.pusher).join(name);
    }
    assertEquals((await receiver.toldAll(3)).sort(), [
      "channel_occupied a",
      "channel_occupied b",
      "channel_occupied c",
    ]);
    await new Client(nodes[1]!.pusher).join("a-fence");
    assertEquals(await receiver.told(), "channel_occupied a-fence");
  },
);

// ---- Who delivers -----------------------------------------------------------

testWithRedis(
  "a server that closes hands over at once what it has not delivered",
  async () => {
    await using stage = await Stage.open();
    refuse(stage.receiver);
    // Nobody waits for so long a lease.
    const options: Options = {
      leaseMs: 3_600_000,
      retryDelaysMs: Array(99).fill(50),
    };
    const one = stage.node(options);
    await new Client(one.pusher).join("a");
    const first = await stage.receiver.take();
    await new Client(one.pusher).join("b");
    await untilQueued([one], 2);
    stage.node(options);
    await within(DEADLINE_MS, "end of webhooks", one.hooks.close());
    accept(stage.receiver);
    const told = await distinct(stage.receiver, 2);
    assertEquals(told[0], [first.id, "channel_occupied a"]);
    assertEquals(told[1]![1], "channel_occupied b");
  },
);

testWithRedis(
  "webhooks outlive all servers, with their ids, and so do departures",
  async () => {
    await using stage = await Stage.open();
    refuse(stage.receiver);
    const retryDelaysMs = Array(999).fill(50);
    await using one = await stage.process({ retryDelaysMs });
    await using two = await stage.process({ retryDelaysMs });
    const ann = await dial(one);
    const bob = await dial(two);
    await ann.join("a");
    const first = await stage.receiver.take();
    for (const client of [ann, bob]) {
      const channel = client === ann ? "private-ann" : "private-bob";
      await client.join(channel);
      for (const event of ["client-1", "client-2"]) {
        client.send({ event, channel, data: 1 });
      }
      await client.framesUntilPong();
    }
    await Promise.all([one.kill(), two.kill()]);
    stage.receiver.deliveries.drain();
    accept(stage.receiver);
    // What the dead held is released, and that is reported, too.
    await using _three = await stage.process({ retryDelaysMs });
    const told = await distinct(stage.receiver, 10);
    assertEquals(told[0], [first.id, "channel_occupied a"]);
    const events = told.map(([, event]) => event);
    assertEquals(
      events.filter((event) => event.endsWith(" a")),
      ["channel_occupied a", "channel_vacated a"],
    );
    for (const channel of ["private-ann", "private-bob"]) {
      assertEquals(events.filter((event) => event.endsWith(channel)), [
        `channel_occupied ${channel}`,
        `client_event ${channel}`,
        `client_event ${channel}`,
        `channel_vacated ${channel}`,
      ]);
    }
  },
);

testWithRedis(
  "when the server that delivers is killed, another repeats its webhook under the same id",
  async () => {
    await using stage = await Stage.open();
    const { promise: never, resolve } = Promise.withResolvers<Response>();
    stage.receiver.answer = () => never;
    await using one = await stage.process();
    const client = await dial(one);
    await client.join("a");
    const first = await stage.receiver.take();
    await using two = await stage.process();
    const other = await dial(two);
    await other.join("b");
    await one.kill();
    resolve(new Response());
    accept(stage.receiver);
    const told = await distinct(stage.receiver, 2);
    assertEquals(told[0], [first.id, "channel_occupied a"]);
    assertEquals(told[1]![1], "channel_occupied b");
    assertEquals(await stage.receiver.told(), "channel_vacated a");
  },
);

testWithRedis(
  "a server that was frozen stores nothing after another has taken over",
  async () => {
    await using stage = await Stage.open();
    await using one = await stage.process({ settleMs: 0 });
    const client = await dial(one);
    const gate = Promise.withResolvers<Response>();
    stage.receiver.answer = () => gate.promise;
    await client.join("a");
    const first = await stage.receiver.take();
    await using two = await stage.process({ settleMs: 0 });
    const other = await dial(two);
    one.freeze();
    accept(stage.receiver);
    gate.resolve(new Response());
    await other.join("b");
    const told = await distinct(stage.receiver, 2);
    assertEquals(told[0], [first.id, "channel_occupied a"]);
    one.thaw();
    // It still has the answer to the first webhook, and nothing of what follows.
    const all = new Map(told);
    for (let i = 0; i < 20; i++) {
      await other.join(`c-${i}`);
    }
    for (const [id, event] of await distinct(stage.receiver, 21)) {
      assertEquals(all.get(id) ?? event, event);
      all.set(id, event);
    }
    const events = [...all.values()].filter((event) => event.includes(" c-"));
    assertEquals(new Set(events).size, events.length);
  },
);

testWithRedis(
  "retries keep their schedule when another server takes over",
  async () => {
    await using stage = await Stage.open();
    refuse(stage.receiver);
    await using second = new Receiver();
    const options: Options = {
      retryDelaysMs: [3_600_000],
      endpoints: [{ url: stage.receiver.url }, { url: second.url }],
    };
    const one = stage.node(options);
    await new Client(one.pusher).join("a");
    await stage.receiver.take();
    await one.errors.next("error", DEADLINE_MS);
    assertEquals(await second.told(), "channel_occupied a");
    await within(DEADLINE_MS, "end of webhooks", one.hooks.close());
    const two = stage.node(options);
    await new Client(two.pusher).join("b");
    await untilQueued([two], 2);
    assertEquals(await second.told(), "channel_occupied b");
    assertEquals(stage.receiver.deliveries.size, 0);
  },
);

testWithRedis(
  "a server that Redis takes for dead leaves the webhooks to another",
  async () => {
    await using stage = await Stage.open();
    refuse(stage.receiver);
    const options: Options = {
      retryDelaysMs: Array(999).fill(100),
      settleMs: 0,
    };
    const one = stage.node({ ...options, leaseMs: 1_000 });
    await new Client(one.pusher).join("a");
    const first = await stage.receiver.take();
    const two = stage.node(options);
    one.cut();
    await new Client(two.pusher).join("b");
    await untilQueued([two], 2);
    accept(stage.receiver);
    const told = await distinct(stage.receiver, 2);
    assertEquals(told[0], [first.id, "channel_occupied a"]);
  },
);

testWithRedis(
  "what waits survives a flush of Redis, with its id, while the server lives",
  async () => {
    await using stage = await Stage.open();
    refuse(stage.receiver);
    const node = stage.node({ retryDelaysMs: Array(999).fill(100) });
    const client = await new Client(node.pusher).join("a");
    const first = await stage.receiver.take();
    await client.join("b");
    await untilQueued([node], 2);
    await stage.store.command("FLUSHALL");
    // Everything is noted again, so another server could go on, too.
    await untilNoted(stage.store, "n:b");
    accept(stage.receiver);
    const told = await distinct(stage.receiver, 2);
    assertEquals(told[0], [first.id, "channel_occupied a"]);
    assertEquals(told[1]![1], "channel_occupied b");
  },
);

testWithRedis(
  "webhooks work on Redis Cluster",
  async () => {
    await using cluster = await RedisCluster.start();
    await using receiver = new Receiver();
    await using pusher = await within(
      2 * DEADLINE_MS,
      "start on the cluster",
      started(cluster.url()),
    );
    await using _hooks = webhooks(pusher, {
      ...{ key: APP.key, secret: APP.secret, batch: false, settleMs: 0 },
      endpoints: [{ url: receiver.url }],
    });
    const client = new Client(pusher);
    const channels = Array.from({ length: 20 }, (_, i) => `cache-${i}`);
    for (const channel of channels) {
      await client.join(channel);
      await pusher.trigger(channel, "create", {});
    }
    assertEquals(
      (await receiver.toldAll(40)).sort(),
      [
        ...channels.map((channel) => `cache_miss ${channel}`),
        ...channels.map((channel) => `channel_occupied ${channel}`),
      ].sort(),
    );
    client.close();
    assertEquals(
      (await receiver.toldAll(20)).sort(),
      channels.map((channel) => `channel_vacated ${channel}`).sort(),
    );
  },
);

// ---- Delivery ---------------------------------------------------------------

testWithRedis(
  "an endpoint of a cluster that is down delays no other, and gets all in order when it is back",
  async () => {
    await using stage = await Stage.open();
    refuse(stage.receiver);
    await using healthy = new Receiver();
    const options: Options = {
      endpoints: [{ url: stage.receiver.url }, { url: healthy.url }],
      retryDelaysMs: Array(9_999).fill(20),
      pusher: { limits: { clientEventsPerSecond: Infinity } },
    };
    const nodes = [stage.node(options), stage.node(options)];
    const clients = [];
    for (const { pusher } of nodes) {
      clients.push(await new Client(pusher).join("private-a"));
    }
    for (let i = 0; i < 50; i++) {
      const client = clients[i % 2]!;
      client.send("client-x", `${i}`, "private-a");
      // The other one has it, so the next one is later.
      await clients[(i + 1) % 2]!.upTo("client-x", "private-a");
    }
    const order = async (receiver: Receiver) => {
      const told = new Map<string, string>();
      while (told.size < 51) {
        const { id, events: [event] } = await receiver.take();
        told.set(id, event!.data ?? event!.name);
      }
      return [...told.values()];
    };
    const expected = [
      "channel_occupied",
      ...Array.from({ length: 50 }, (_, i) => `${i}`),
    ];
    assertEquals(await order(healthy), expected);
    stage.receiver.deliveries.drain();
    accept(stage.receiver);
    assertEquals(await order(stage.receiver), expected);
  },
);

testWithRedis(
  "the queue of an endpoint of a cluster is bounded, and what is dropped is counted",
  async () => {
    await using stage = await Stage.open();
    refuse(stage.receiver);
    const node = stage.node({
      queueEvents: 5,
      retryDelaysMs: [3_600_000],
      events: ["channel_occupied"],
    });
    const client = new Client(node.pusher);
    await client.join("first");
    await stage.receiver.take();
    for (let i = 0; i < 10; i++) await client.join(`news-${i}`);
    const dropped = async () => {
      let error;
      do error = await node.errors.next("error", DEADLINE_MS); while (
        error.failure === "retrying"
      );
      assertEquals(error.failure, "dropped");
    };
    for (let i = 0; i < 6; i++) await dropped();
    await untilQueued([node], 5);
    assertEquals(node.hooks.status[0]?.dropped, 6);
    const [key] = await stage.store.command("KEYS", "*:r:*") as string[];
    const notes = await stage.store.command("HKEYS", key!) as string[];
    assertEquals(notes.filter((name) => name.startsWith("n:q")).length, 4);
  },
);

testWithRedis("everything that webhooks keep in Redis expires", async () => {
  await using stage = await Stage.open();
  refuse(stage.receiver);
  const node = stage.node({ retryDelaysMs: [3_600_000] });
  const client = await new Client(node.pusher).join("cache-a");
  await client.upTo("pusher:cache_miss", "cache-a");
  await stage.receiver.take();
  await untilQueued([node], 2);
  const keys = await stage.store.command("KEYS", "*") as string[];
  const kinds = new Set<string>();
  for (const key of keys) {
    const ttlMs = await stage.store.command("PTTL", key) as number;
    assert(ttlMs > 0 && ttlMs <= 86_400_000, `${key} ${ttlMs}`);
    kinds.add(/\}:(\w+)/.exec(key)?.[1] ?? "");
  }
  for (const kind of ["w", "r"]) assert(kinds.has(kind), kind);
});

testWithRedis("without webhooks nothing is written for them", async () => {
  await using stage = await Stage.open();
  const gone = stage.node({ events: ["channel_occupied"] });
  await gone.hooks.close();
  await stage.store.command("FLUSHALL");
  await using pusher = new Pusher({
    ...APP,
    subscriptionCounts: true,
    backplane: redis(stage.store.url),
  });
  const client = await new Client(pusher).join("cache-a");
  await client.upTo("pusher:cache_miss", "cache-a");
  await pusher.trigger("cache-a", "create", {});
  const keys = await stage.store.command("KEYS", "*") as string[];
  assertEquals(keys.filter((key) => /\}:(w|r)\b/.test(key)), []);
});
