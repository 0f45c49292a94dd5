/**
 * One run: a server or several, clients of one kind that reach it over one transport, a
 * proxy between them, publishers, and at the end the count.
 *
 * @module
 */
import { within } from "../../support/deadline.ts";
import {
  type Fault,
  FaultProxy,
  FAULTS,
  planStorm,
} from "../../support/proxy.ts";
import { Random } from "../../support/random.ts";
import { sdk, StockClient } from "../../support/stock.ts";
import {
  CLIENT_EVENT,
  EVENT,
  type Kind,
  nudge,
  Subject,
  type Transport,
  userChannel,
} from "./clients.ts";
import { Account, add, Ledger, noTally, type Tally } from "./ledger.ts";
import { Servers } from "./servers.ts";
import { Traffic } from "./traffic.ts";

/** Of each class that has rules of its own. */
const CHANNELS = ["news", "private-desk", "presence-room", "cache-board"];

/** Users, over which the clients are spread. */
const USERS = 4;

/** How many of the clients come later, while all is in full swing. */
const LATE_SHARE = 0.25;

/** How many of what went wrong are told, of each kind. */
const MAX_EXAMPLES = 10;

/** For everybody to be back, past what a client waits between its attempts. */
const SETTLING_MS = 45_000;
/** For all that takes part to end. */
const END_MS = 10_000;
/** For the last messages to be there. */
const MARK_MS = 20_000;

/** Logs that are too small for an absence of a second. */
const SMALL = {
  events: { events: 10 },
  age: { ageMs: 300 },
  bytes: { bytes: 10_000 },
  sessions: { sessions: 1 },
};

/** What a log may have too little of. */
export type Beyond = keyof typeof SMALL;
/** All of it. */
// The keys of an object literal are its type's.
export const BEYOND = Object.keys(SMALL) as Beyond[];

/** What {@linkcode run} takes. */
export interface RunOptions {
  readonly seed: number;
  readonly kind: Kind;
  readonly transport: Transport;
  readonly clients: number;
  /** Messages a second. */
  readonly rate: number;
  readonly seconds: number;
  readonly cuts: number;
  /** How many servers, behind a balancer. @default {1} */
  readonly nodes?: number | undefined;
  /** The Redis by which several servers are one. @default {memory} */
  readonly redis?: string | undefined;
  /** Kinds of faults. @default {FAULTS} */
  readonly faults?: readonly Fault[];
  /** The longest that a fault may last. @default {3000} */
  readonly longestMs?: number;
  /** What there is too little of in the server's log. By default there is enough. */
  readonly beyond?: Beyond | undefined;
  /** The client whose events are printed as they come, or `all`. */
  readonly trace?: string | undefined;
  /** Is told how far the run is. */
  readonly log?: (line: string) => void;
  /** Whether all connections are cut once more before the count. @default {true} */
  readonly lastCut?: boolean;
}

/** What came of a run. */
export interface Row extends Tally {
  readonly kind: Kind;
  readonly transport: Transport;
  readonly seed: number;
  readonly clients: number;
  readonly nodes: number;
  /** How often what happened. */
  readonly faults: Partial<Record<Fault, number>>;
  /** Messages, counted once for each channel. */
  readonly published: number;
  /** How often a client was told of a gap. */
  readonly reports: number;
  readonly reconnects: number;
  readonly restarts: number;
  /** Subscriptions that were refused. */
  readonly refusals: number;
  readonly seconds: number;
  /** The name of the log that is too small, if it is. */
  readonly beyond?: Beyond | undefined;
  /** What is wrong besides the numbers. */
  readonly problems: string[];
  /** Some of the messages that went wrong, by client, channel and number. */
  readonly examples: string[];
}

/** Runs once. */
export async function run(options: RunOptions): Promise<Row> {
  const startedAt = performance.now();
  const stage = await Stage.open(options);
  try {
    const faults = await stage.play();
    return { ...stage.count(), faults, seconds: since(startedAt) };
  } finally {
    await stage.close();
  }
}

function since(start: number): number {
  return Math.round((performance.now() - start) / 100) / 10;
}

/** All that takes part in a run. */
class Stage {
  readonly #options: RunOptions;
  readonly #ledger = new Ledger();
  readonly #servers: Servers;
  readonly #proxy: FaultProxy;
  readonly #witnesses: StockClient[] = [];
  readonly #subjects: Subject[];
  readonly #traffic: Traffic;
  readonly #random: Random;
  readonly #problems: string[];
  #changed = () => {};

  private constructor(
    options: RunOptions,
    servers: Servers,
    proxy: FaultProxy,
    problems: string[],
  ) {
    this.#options = options;
    this.#servers = servers;
    this.#proxy = proxy;
    this.#problems = problems;
    this.#random = new Random(options.seed, 1);
    this.#subjects = this.#makeSubjects();
    this.#traffic = new Traffic({
      seed: this.#random.below(2 ** 31),
      servers: servers.all,
      sdk: sdk({ port: servers.port }),
      ledger: this.#ledger,
      channels: CHANNELS,
      users: users(),
      subjects: this.#subjects,
      rate: options.rate,
    });
  }

  static async open(options: RunOptions): Promise<Stage> {
    const problems: string[] = [];
    const servers = await Servers.open({
      nodes: options.nodes,
      redis: options.redis,
      history: options.beyond === undefined
        // Twice what there can be, were all of it on one channel.
        ? { events: Math.ceil(options.rate * options.seconds * 2) + 10_000 }
        : SMALL[options.beyond],
      onError: (problem) => problems.push(problem),
    });
    const proxy = await FaultProxy.open({ port: servers.port });
    const stage = new Stage(options, servers, proxy, problems);
    await stage.#openWitnesses();
    return stage;
  }

  /** From the first message to the last; resolves with the faults there were. */
  async play(): Promise<Partial<Record<Fault, number>>> {
    const { cuts, seconds, faults = FAULTS, longestMs } = this.#options;
    const { log = () => {} } = this.#options;
    log("the storm begins");
    const stopTraffic = this.#traffic.start();
    using _nudge = nudge(() => this.#subjects);
    const stopArrivals = this.#arrive(seconds);
    const plan = planStorm({
      seed: this.#random.below(2 ** 31),
      cuts,
      seconds,
      faults,
      ...(longestMs === undefined ? {} : { longestMs }),
    });
    const tally = await this.#proxy.storm(plan);
    stopArrivals();
    log("the storm is over");
    this.#traffic.hushClients();
    await this.#calm();
    log("everybody is back");
    await within(MARK_MS, "answer to the publishers", stopTraffic());
    log("the publishers have ended");
    // The second says that nothing came after the first either.
    for (let i = 0; i < 2; i++) await this.#mark();
    log("everybody has the last messages");
    return tally;
  }

  /** Counts what is there by now. */
  count(): Omit<Row, "faults" | "seconds"> {
    const { kind, transport, seed, clients, beyond, nodes = 1 } = this.#options;
    const total = noTally();
    const sum = (of: (subject: Subject) => number) =>
      this.#subjects.reduce((sum, subject) => sum + of(subject), 0);
    for (const { account } of this.#subjects) add(total, account.tally());
    const wanted = [...CHANNELS];
    const absent = this.#subjects.flatMap(({ name, account }) =>
      wanted.filter((channel) => !account.has(channel))
        .map((channel) => `${name} was never on ${channel}`)
    );
    return {
      kind,
      transport,
      seed,
      clients,
      nodes,
      beyond,
      published: this.#ledger.size,
      ...total,
      reports: sum(({ account }) => account.reports),
      reconnects: sum(({ connections }) => Math.max(0, connections - 1)),
      restarts: sum(({ restarts }) => restarts),
      refusals: sum(({ refusals }) => refusals),
      problems: unique([
        ...this.#problems,
        ...this.#traffic.problems,
        ...this.#ledger.problems,
        ...this.#subjects.flatMap(({ problems }) => problems),
        ...absent,
      ]),
      examples: sample(
        this.#subjects.flatMap(({ name, account }) =>
          account.examples().map((what) => `${name} ${what}`)
        ),
      ),
    };
  }

  async close(): Promise<void> {
    for (const subject of this.#subjects) subject.stop();
    for (const witness of this.#witnesses) witness[Symbol.dispose]();
    const proxy = this.#proxy[Symbol.asyncDispose]();
    await within(END_MS, "end of the proxy", proxy);
    await this.#servers.close();
  }

  #makeSubjects(): Subject[] {
    const { kind, transport, clients, trace } = this.#options;
    const start = performance.now();
    return Array.from({ length: clients }, (_, i) => {
      const name = `c${i}`;
      return new Subject({
        kind,
        transport,
        port: this.#proxy.port,
        name,
        user: users()[i % USERS]!, // Below the length.
        channels: CHANNELS,
        account: new Account(name, this.#ledger),
        onChange: () => this.#changed(),
        trace: trace === name || trace === "all"
          ? (line) => {
            const ms = Math.round(performance.now() - start);
            console.error(`${ms} ${name} ${line}`);
          }
          : undefined,
      });
    });
  }

  /** One witness for each user; the first one is on the channels, too. */
  async #openWitnesses(): Promise<void> {
    const port = this.#servers.ownPort;
    for (const [i, user] of users().entries()) {
      const base = `http://127.0.0.1:${port}/pusher`;
      const witness = new StockClient({ port }, {
        channelAuthorization: {
          endpoint: `${base}/auth`,
          transport: "ajax",
          params: { name: "witness" },
        },
        userAuthentication: {
          endpoint: `${base}/user-auth`,
          transport: "ajax",
          params: { user },
        },
      });
      this.#witnesses.push(witness);
      const { pusher } = witness;
      const hear = (channel: string) => ({ n }: { n: number }) =>
        this.#ledger.witnessed(channel, n);
      pusher.user.bind(EVENT, hear(userChannel(user)));
      pusher.signin();
      await within(
        MARK_MS,
        "sign-in of a witness",
        new Promise<void>((resolve) => {
          pusher.connection.bind("message", ({ event }: { event: string }) => {
            if (event === "pusher:signin_success") resolve();
          });
        }),
      );
      if (i > 0) continue;
      for (const channel of CHANNELS) {
        const inbox = witness.subscribe(channel);
        for (const event of [EVENT, CLIENT_EVENT]) {
          pusher.channel(channel).bind(event, hear(channel));
        }
        await inbox.until("pusher:subscription_succeeded");
      }
    }
  }

  /** Most clients come at once, the others in the first half of the time. */
  #arrive(seconds: number): () => void {
    const late = Math.floor(this.#subjects.length * LATE_SHARE);
    const waiting = new Map<Subject, ReturnType<typeof setTimeout>>();
    for (const [i, subject] of this.#subjects.entries()) {
      if (i >= late) subject.start();
      else {
        const ms = this.#random.next() * seconds * 500;
        const come = () => {
          waiting.delete(subject);
          subject.start();
        };
        waiting.set(subject, setTimeout(come, ms));
      }
    }
    return () => {
      for (const [subject, timer] of waiting) {
        clearTimeout(timer);
        subject.start();
      }
    };
  }

  /** Ends the faults, and waits until everybody is back. */
  async #calm(): Promise<void> {
    const before = this.#subjects.map(({ socketId }) => socketId);
    const { lastCut = true } = this.#options;
    if (lastCut) await this.#cutAll(before);
    const isBack = (subject: Subject, i: number) =>
      subject.isSettled(lastCut ? before[i] : undefined);
    await this.#until(
      SETTLING_MS,
      "client that is back",
      () => this.#subjects.every(isBack),
      () => this.#subjects.filter((s, i) => !isBack(s, i)).map((s) => s.wants),
    );
  }

  /**
   * Cuts all connections, and refuses new ones until everybody knows: a client that
   * polls has none at times, and HTTP clients send a request again by themselves
   * when a connection ends before it is answered.
   */
  async #cutAll(before: (string | undefined)[]): Promise<void> {
    const cleared = this.#proxy.clear("close", Infinity);
    await within(END_MS, "end of all connections", cleared);
    const isCut = (subject: Subject, i: number) =>
      !subject.isConnected || subject.socketId !== before[i];
    await this.#until(
      SETTLING_MS,
      "client that knows that it was cut",
      () => this.#subjects.every(isCut),
      () => this.#subjects.filter((s, i) => !isCut(s, i)).map((s) => s.wants),
    );
    this.#proxy.admit();
  }

  /** Publishes a last message everywhere, and waits until everybody has it. */
  async #mark(): Promise<void> {
    const marks = await this.#traffic.mark();
    const missing = (subject: Subject) =>
      subject.wanted.filter((channel) =>
        !subject.account.hasHeard(channel, marks.get(channel) ?? -1)
      );
    await this.#until(
      MARK_MS,
      "last message",
      () => this.#subjects.every((subject) => missing(subject).length === 0),
      () =>
        this.#subjects.filter((subject) => missing(subject).length > 0)
          .map((subject) => `${subject.name} lacks [${missing(subject)}]`),
    );
  }

  /** Waits; what does not come in time is a problem, and the count goes on. */
  async #until(
    ms: number,
    what: string,
    isDone: () => boolean,
    explain: () => string[],
  ): Promise<void> {
    const done = Promise.withResolvers<void>();
    this.#changed = () => {
      if (isDone()) done.resolve();
    };
    this.#changed();
    try {
      await within(ms, what, done.promise);
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      this.#problems.push(error.message, ...explain());
    } finally {
      this.#changed = () => {};
    }
  }
}

/** What was said, each once and with how often. */
function unique(lines: string[]): string[] {
  const counts = new Map<string, number>();
  for (const line of lines) counts.set(line, (counts.get(line) ?? 0) + 1);
  return [...counts].map(([line, count]) =>
    count === 1 ? line : `${line} (${count} times)`
  );
}

/** A few of many, the first word after the client's name being what matters. */
function sample(examples: string[]): string[] {
  const counts = new Map<string | undefined, number>();
  return examples.filter((example) => {
    const what = example.split(" ")[1];
    const count = (counts.get(what) ?? 0) + 1;
    counts.set(what, count);
    return count <= MAX_EXAMPLES;
  });
}

function users(): string[] {
  return Array.from({ length: USERS }, (_, i) => `u${i}`);
}
