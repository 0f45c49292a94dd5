/**
 * What the bench measures: each scenario for each peer that can do it.
 *
 * @module
 */
import type { Phase } from "./load.ts";
import type { Ability, Peer, PeerOptions, Turn } from "./peer.ts";
import {
  NoResult,
  requireAll,
  type Settings,
  Stage,
  type Subject,
  type Variant,
} from "./stage.ts";

/** A kind of figure, and which of two is the better. */
export interface Metric {
  title: string;
  unit: "/s" | "ms" | "µs" | "KiB" | "%";
  better: "more" | "less";
}

/** What a run has found for one metric. */
export interface Figure {
  value: number;
  /** The share of a core that the load generator took meanwhile. */
  loadShare?: number;
  /** That of the server, where it had all that it could do. */
  serverShare?: number;
}

/** By the names of metrics. */
export type Figures = Record<string, Figure>;

/** Something to measure. */
export interface Scenario {
  title: string;
  /** At most so many rounds by default, where a figure hardly varies. */
  rounds?: number;
  metrics: Record<string, Metric>;
  /** Who takes part. */
  subjects(peers: readonly Peer[]): Subject[];
  /** @throws {NoResult} If something was lost. */
  measure(subject: Subject, settings: Settings): Promise<Figures>;
}

/** Of an event's data, as in chats and tickers. */
const BYTES = 200;
const SUBSCRIBERS = 1_000;
const PUBLISHERS = [1, 4, 16, 64];
/** More than any peer publishes in the seconds of a run. */
const REQUESTS_A_SECOND = 5_000;

// ---- Who takes part ---------------------------------------------------------

/** The peers with an ability, and ours in other ways besides. */
function those(
  peers: readonly Peer[],
  ability: Ability,
  ...ways: Variant[][]
): Subject[] {
  return peers.filter(({ can }) => can.has(ability)).flatMap((peer) => {
    const plain = { peer, variants: [] };
    if (peer.role !== "ours") return [plain];
    return [plain, ...ways.map((variants) => ({ peer, variants }))];
  });
}

function ours(peers: readonly Peer[], ...ways: Variant[][]): Subject[] {
  return peers.filter(({ role }) => role === "ours").flatMap((peer) =>
    ways.map((variants) => ({ peer, variants }))
  );
}

// ---- Figures ----------------------------------------------------------------

/** Deliveries a second, and what each costs the server. */
function rates(metric: string, phase: Phase): Figures {
  const { received, ms, serverMs, loadShare } = requireAll(phase);
  return {
    [metric]: {
      value: received / (ms / 1_000),
      loadShare,
      serverShare: serverMs / ms,
    },
    [`${metric} cpu`]: { value: serverMs * 1_000 / received },
  };
}

function rateMetrics(metric: string, title: string): Record<string, Metric> {
  return {
    [metric]: { title, unit: "/s", better: "more" },
    [`${metric} cpu`]: {
      title: `${title}: server CPU for each`,
      unit: "µs",
      better: "less",
    },
  };
}

/** How many requests to sign for that many seconds. */
function requestsFor(settings: Settings, phases: number, rate: number): number {
  const seconds = settings.seconds + settings.warmUpSeconds;
  return Math.ceil(phases * seconds * rate) + 1;
}

// ---- Fan-out ----------------------------------------------------------------

const fanout: Scenario = {
  title: "1,000 subscribers of one channel, 200 B, publishers over signed HTTP",
  metrics: Object.assign(
    {},
    ...PUBLISHERS.map((count) =>
      rateMetrics(
        `fanout ${count}`,
        `Deliveries, ${count} publisher${count > 1 ? "s" : ""}`,
      )
    ),
  ),
  subjects: (peers) =>
    those(peers, "fanout", ["batch"], ["recover"], ["session"]),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    requireAll(await stage.connect(stage.scaled(SUBSCRIBERS)));
    await stage.prepare({
      count: requestsFor(settings, PUBLISHERS.length, REQUESTS_A_SECOND),
      channels: 1,
      bytes: BYTES,
    });
    await stage.warmUp(16);
    const figures = {};
    for (const count of PUBLISHERS) {
      Object.assign(
        figures,
        rates(`fanout ${count}`, await stage.publish(count)),
      );
    }
    return figures;
  },
};

const inProcess: Scenario = {
  title: "1,000 subscribers of one channel, 200 B: the program publishes",
  metrics: rateMetrics("in-process", "Deliveries, 16 loops or publishers"),
  subjects: (peers) =>
    ours(peers, [], ["in-process"], ["batch"], ["batch", "in-process"]),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    requireAll(await stage.connect(stage.scaled(SUBSCRIBERS)));
    const count = requestsFor(settings, 2, REQUESTS_A_SECOND);
    await stage.prepare({ count, channels: 1, bytes: BYTES });
    if (!subject.variants.includes("in-process")) {
      await stage.warmUp(16);
      return rates("in-process", await stage.publish(16));
    }
    const trigger = (count: number) =>
      stage.run("trigger", { count: Math.ceil(count), concurrency: 16 });
    // How long these take says how many the measured seconds have room for.
    const tried = 100;
    requireAll(await trigger(tried));
    const each = requireAll(await trigger(tried)).ms / tried;
    return rates("in-process", await trigger(settings.seconds * 1_000 / each));
  },
};

const history: Scenario = {
  title: "1,000 subscribers of one channel that recover: history on and off",
  metrics: rateMetrics("history", "Deliveries, 16 publishers"),
  subjects: (peers) => ours(peers, [], ["no history"], ["recover"]),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    requireAll(await stage.connect(stage.scaled(SUBSCRIBERS)));
    const count = requestsFor(settings, 1, REQUESTS_A_SECOND);
    await stage.prepare({ count, channels: 1, bytes: BYTES });
    await stage.warmUp(16);
    return rates("history", await stage.publish(16));
  },
};

// ---- Channels and publishes -------------------------------------------------

const channels: Scenario = {
  title: "2,000 subscribers on 1,000 channels, 16 publishers",
  metrics: rateMetrics("channels", "Deliveries on many channels"),
  subjects: (peers) => those(peers, "fanout", ["batch"]),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    const count = stage.scaled(1_000);
    requireAll(await stage.connect(2 * count, { channels: count }));
    await stage.prepare({
      count: requestsFor(settings, 1, 12_000),
      channels: count,
      bytes: BYTES,
    });
    await stage.warmUp(16);
    return rates("channels", await stage.publish(16));
  },
};

const publishes: Scenario = {
  title: "One subscriber, 16 publishers over signed HTTP",
  metrics: rateMetrics("publishes", "HTTP publishes"),
  subjects: (peers) => those(peers, "fanout"),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    requireAll(await stage.connect(1));
    const count = requestsFor(settings, 1, 20_000);
    await stage.prepare({ count, channels: 1, bytes: BYTES });
    await stage.warmUp(16);
    return rates("publishes", await stage.publish(16));
  },
};

const latency: Scenario = {
  title: "20 messages a second to 1,000 subscribers",
  metrics: {
    "latency p50": { title: "Latency, median", unit: "ms", better: "less" },
    "latency p99": {
      title: "Latency, 99th percentile",
      unit: "ms",
      better: "less",
    },
    "latency cpu": {
      title: "Server CPU for each delivery at that rate",
      unit: "µs",
      better: "less",
    },
  },
  subjects: (peers) => those(peers, "connections", ["batch"], ["recover"]),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    requireAll(await stage.connect(stage.scaled(SUBSCRIBERS)));
    const seconds = settings.seconds * 1.5;
    const count = requestsFor(settings, 2, REQUESTS_A_SECOND);
    await stage.prepare({ count, channels: 1, bytes: BYTES });
    await stage.warmUp(4);
    const phase = requireAll(await stage.publish(4, { rate: 20, seconds }));
    const { p50, p99, serverMs, received, loadShare } = phase;
    return {
      "latency p50": { value: p50, loadShare },
      "latency p99": { value: p99, loadShare },
      "latency cpu": { value: serverMs * 1_000 / received },
    };
  },
};

// ---- Connections ------------------------------------------------------------

/** Connects clients twice, as the first time is the slower one. */
async function connectTwice(
  metric: string,
  stage: Stage,
  fields: Record<string, string | number>,
): Promise<Figures> {
  const count = stage.scaled(3_000);
  let phase: Phase | undefined;
  for (let i = 0; i < 2; i++) {
    await stage.run("close", { abort: 1 });
    // The server needs a moment to see that they have gone.
    await stage.run("idle", { seconds: 0.3 });
    phase = requireAll(
      await stage.connect(count, { channels: stage.scaled(300), ...fields }),
    );
  }
  const { ms, serverMs, loadShare } = phase!;
  return {
    [metric]: { value: ms, loadShare },
    [`${metric} cpu`]: { value: serverMs * 1_000 / count },
  };
}

function connectMetrics(metric: string, title: string): Record<string, Metric> {
  return {
    [metric]: { title, unit: "ms", better: "less" },
    [`${metric} cpu`]: {
      title: `${title}: server CPU for each`,
      unit: "µs",
      better: "less",
    },
  };
}

const connect: Scenario = {
  title: "3,000 clients connect and subscribe, on 300 channels",
  metrics: {
    ...connectMetrics("connect", "Connect and subscribe 3,000"),
    ...connectMetrics("connect presence", "The same on presence channels"),
  },
  subjects: (peers) => those(peers, "connections"),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    const figures = await connectTwice("connect", stage, {});
    if (!subject.peer.can.has("presence")) return figures;
    const fields = { channel: "presence-c", presence: 1 };
    return {
      ...figures,
      ...await connectTwice("connect presence", stage, fields),
    };
  },
};

const STORM = 1_000;

function stormMetrics(users: number): Record<string, Metric> {
  const metric = `storm ${users}`;
  const joined = `${thousands(users)} users join one presence channel`;
  const left = `${thousands(users / 2)} of them leave`;
  const cpu = { unit: "µs", better: "less" } as const;
  return {
    [metric]: { title: joined, unit: "ms", better: "less" },
    [`${metric} each`]: {
      title: `${joined}: server CPU for each of them`,
      ...cpu,
    },
    [`${metric} frame`]: {
      title: `${joined}: server CPU for each frame that it sends`,
      ...cpu,
    },
    [`${metric} leave`]: { title: left, unit: "ms", better: "less" },
    [`${metric} leave frame`]: {
      title: `${left}: server CPU for each frame that it sends`,
      ...cpu,
    },
  };
}

/** So many users join one presence channel, and then half of them leave. */
async function measureStorm(
  subject: Subject,
  settings: Settings,
  users: number,
): Promise<Figures> {
  const options = { presenceMembers: users };
  await using stage = await Stage.open(subject, settings, options);
  const count = stage.scaled(users);
  const fields = { channel: "presence-c", presence: 1 };
  const join = requireAll(await stage.connect(count, fields));
  const leave = requireAll(
    await stage.run("leave", { count: count / 2, abort: 1 }),
  );
  // Each user hears of those who come later, and each of the rest of all others.
  const joined = count * (count - 1) / 2, left = (count / 2) ** 2;
  const metric = `storm ${users}`;
  return {
    [metric]: { value: join.ms, loadShare: join.loadShare },
    [`${metric} each`]: { value: join.serverMs * 1_000 / count },
    [`${metric} frame`]: { value: join.serverMs * 1_000 / joined },
    [`${metric} leave`]: { value: leave.ms, loadShare: leave.loadShare },
    [`${metric} leave frame`]: { value: leave.serverMs * 1_000 / left },
  };
}

const storm: Scenario = {
  title: `${thousands(STORM)} users join one presence channel, and half of ` +
    `them leave; with batches also ${thousands(2 * STORM)}`,
  rounds: 3,
  metrics: { ...stormMetrics(STORM), ...stormMetrics(2 * STORM) },
  subjects: (peers) => those(peers, "presence", ["batch"]),
  async measure(subject, settings) {
    const figures = await measureStorm(subject, settings, STORM);
    // Twice the users cause four times the frames. Batches merge most of them, which
    // leaves the cost of the users to be seen.
    if (!subject.variants.includes("batch")) return figures;
    const twice = await measureStorm(subject, settings, 2 * STORM);
    return { ...figures, ...twice };
  },
};

function thousands(count: number): string {
  return count.toLocaleString("en");
}

// ---- Memory -----------------------------------------------------------------

/** How long a server gets to come to rest. */
const REST = { seconds: 1.5 };

const memory: Scenario = {
  title: "Memory of idle connections, each subscribed to one of 100 channels",
  rounds: 1,
  metrics: {
    "memory empty": {
      title: "Memory of the server without connections",
      unit: "KiB",
      better: "less",
    },
    ...Object.assign(
      {},
      ...[1_000, 5_000, 10_000].map((count) => ({
        [`memory ${count}`]: {
          title: `Memory of an idle connection, ${thousands(count)}`,
          unit: "KiB",
          better: "less",
        },
      })),
    ),
    "memory gone": {
      title: "What stays of each when 10,000 have gone",
      unit: "KiB",
      better: "less",
    },
  },
  subjects: (peers) => those(peers, "connections"),
  async measure(subject, settings) {
    const figures: Figures = {};
    // A server each, as none gives back all memory that it has once had.
    for (const size of [1_000, 5_000, 10_000]) {
      await using stage = await Stage.open(subject, settings);
      const [server] = stage.servers;
      // What a server loads with its first connections is not theirs.
      requireAll(await stage.connect(50));
      await stage.run("close");
      await stage.run("idle", REST);
      const empty = server!.memoryKiB();
      const count = stage.scaled(size);
      requireAll(await stage.connect(count, { channels: 100 }));
      requireAll(await stage.run("idle", REST));
      const value = (server!.memoryKiB() - empty) / count;
      figures[`memory ${size}`] = { value };
      figures["memory empty"] = { value: empty };
      if (size < 10_000) continue;
      await stage.run("close");
      await stage.run("idle", REST);
      const gone = (server!.memoryKiB() - empty) / count;
      figures["memory gone"] = { value: gone };
    }
    return figures;
  },
};

const CYCLES = 10;

const cycles: Scenario = {
  title: "5,000 clients come and go ten times",
  rounds: 1,
  metrics: {
    "cycles growth": {
      title: "Memory in the tenth cycle, over that in the third",
      unit: "%",
      better: "less",
    },
    "cycles gone": {
      title: "Memory after the tenth cycle, over that after the third",
      unit: "%",
      better: "less",
    },
  },
  subjects: (peers) =>
    those(peers.filter(({ role }) => role !== "ceiling"), "connections"),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    const [server] = stage.servers;
    const held: number[] = [], gone: number[] = [];
    for (let i = 0; i < CYCLES; i++) {
      requireAll(await stage.connect(stage.scaled(5_000), { channels: 100 }));
      requireAll(await stage.run("idle", REST));
      held.push(server!.memoryKiB());
      await stage.run("close");
      await stage.run("idle", REST);
      gone.push(server!.memoryKiB());
    }
    const growth = (list: number[]) => ({
      value: 100 * list.at(-1)! / list[2]!,
    });
    return { "cycles growth": growth(held), "cycles gone": growth(gone) };
  },
};

// ---- Clients that do not read, or that return -------------------------------

const unread: Scenario = {
  title: "20 messages of 6,000 B a second to 1,000 subscribers, of which 50 " +
    "do not read",
  rounds: 3,
  metrics: {
    "unread p99": {
      title: "Latency of the others, 99th percentile",
      unit: "ms",
      better: "less",
    },
    "unread p99 before": {
      title: "The same while all read",
      unit: "ms",
      better: "less",
    },
    "unread memory": {
      title: "Memory for each that does not read",
      unit: "KiB",
      better: "less",
    },
  },
  subjects: (peers) => those(peers, "connections", ["batch"]),
  async measure(subject, settings) {
    await using stage = await Stage.open(subject, settings);
    const rate = 20, muted = stage.scaled(50);
    // Long enough to fill a client's limit, 1 MiB, as well as the kernel's buffers.
    const seconds = 10 * settings.seconds;
    const count = 1 +
      Math.ceil(rate * (seconds * 1.5 + settings.warmUpSeconds));
    requireAll(
      await stage.connect(stage.scaled(SUBSCRIBERS), { small: muted }),
    );
    await stage.prepare({ count, channels: 1, bytes: 6_000 });
    const publish = (seconds: number) =>
      stage.publish(4, { rate, seconds }).then(requireAll);
    await publish(settings.warmUpSeconds);
    const before = await publish(seconds / 2);
    const [server] = stage.servers;
    const memory = server!.memoryKiB();
    await stage.run("mute", { count: muted });
    const during = await publish(seconds);
    const value = (server!.memoryKiB() - memory) / muted;
    return {
      "unread p99": { value: during.p99, loadShare: during.loadShare },
      "unread p99 before": { value: before.p99, loadShare: before.loadShare },
      "unread memory": { value },
    };
  },
};

const MISSED = [250, 500, 1_000];

const massReturn: Scenario = {
  title: "1,000 clients return, each of which has missed so many messages",
  rounds: 3,
  metrics: Object.assign(
    {},
    ...MISSED.map((missed) => ({
      [`return ${missed}`]: {
        title: `${thousands(missed)} missed: until all have all`,
        unit: "ms",
        better: "less",
      },
      [`return ${missed} turn`]: {
        title: `${thousands(missed)} missed: longest turn of the event loop`,
        unit: "ms",
        better: "less",
      },
    })),
  ),
  subjects: (peers) =>
    ours(peers, ["recover"], ["batch", "recover"], ["session"]),
  async measure(subject, settings) {
    const figures: Figures = {};
    for (const missed of MISSED) {
      await using stage = await Stage.open(subject, settings, { turns: true });
      const count = stage.scaled(missed);
      requireAll(await stage.connect(stage.scaled(SUBSCRIBERS)));
      await stage.prepare({ count: count + 1, channels: 1, bytes: BYTES });
      // A session begins to count with its first event that was acknowledged.
      requireAll(await stage.publish(1, { count: 1, seconds: 60 }));
      await stage.run("idle", { seconds: 0.5 });
      await stage.run("close", { abort: 1 });
      await stage.run("idle", { seconds: 0.5 });
      const missing = { count, seconds: 60, wait: 0 };
      const { messages, refused } = await stage.publish(4, missing);
      if (messages < count) throw new NoResult(`${refused} publishes failed`);
      const [server] = stage.servers;
      await server!.ask("/bench/turn");
      const phase = requireAll(await stage.run("reopen"));
      const turn = await server!.ask("/bench/turn") as Turn;
      const { ms: value, loadShare } = phase;
      figures[`return ${missed}`] = { value, loadShare };
      figures[`return ${missed} turn`] = { value: turn.longestMs };
    }
    return figures;
  },
};

// ---- Several servers --------------------------------------------------------

const redis: Scenario = {
  title: "1,000 subscribers of one channel, on one and on three servers that " +
    "share a Redis",
  metrics: {
    ...rateMetrics("redis 1", "Deliveries with Redis, one server"),
    ...rateMetrics("redis 3", "Deliveries with Redis, three servers"),
  },
  subjects: (peers) => those(peers, "redis", ["batch"]),
  async measure(subject, settings) {
    await using store = await Redis.start(settings.port + 950);
    const options: Omit<PeerOptions, "port"> = { redis: store.url };
    const figures = {};
    for (const nodes of [1, 3]) {
      await using stage = await Stage.open(subject, settings, options, nodes);
      requireAll(await stage.connect(stage.scaled(SUBSCRIBERS)));
      const count = requestsFor(settings, 1, REQUESTS_A_SECOND);
      await stage.prepare({ count, channels: 1, bytes: BYTES });
      await stage.warmUp(16);
      Object.assign(figures, rates(`redis ${nodes}`, await stage.publish(16)));
    }
    return figures;
  },
};

/** An empty Redis of its own. */
class Redis implements AsyncDisposable {
  readonly url: string;
  readonly #child: Deno.ChildProcess;

  private constructor(url: string, child: Deno.ChildProcess) {
    this.url = url;
    this.#child = child;
  }

  static async start(port: number): Promise<Redis> {
    const args = ["--port", String(port), "--bind", "127.0.0.1"];
    const child = new Deno.Command("redis-server", {
      args: [...args, "--save", "", "--appendonly", "no"],
      stdout: "piped",
    }).spawn();
    const store = new Redis(`redis://127.0.0.1:${port}`, child);
    let printed = "";
    const isReady = Promise.withResolvers<void>();
    const read = async () => {
      const text = child.stdout.pipeThrough(new TextDecoderStream());
      for await (const part of text) {
        printed = (printed + part).slice(-4_000);
        if (/Ready to accept connections/.test(printed)) isReady.resolve();
      }
      isReady.reject(new Error(`Cannot start redis-server:\n${printed}`));
    };
    read();
    await isReady.promise;
    return store;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch (error) {
      // It has ended by itself.
      if (!(error instanceof TypeError)) throw error;
    }
    await this.#child.status;
  }
}

/** Every scenario, by its name on the command line. */
export const SCENARIOS: Readonly<Record<string, Scenario>> = Object.freeze({
  fanout,
  "in-process": inProcess,
  channels,
  publishes,
  latency,
  connect,
  memory,
  storm,
  unread,
  history,
  return: massReturn,
  redis,
  cycles,
});
