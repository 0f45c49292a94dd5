/**
 * The pages that users have open: clients of every kind over every transport, which
 * come and go. A user has several of them, on whichever node the balancer chose.
 *
 * @module
 */
import { Random } from "../../support/random.ts";
import { type Kind, Subject, type Transport } from "../loss/clients.ts";
import { Account, add, noTally, type Tally } from "../loss/ledger.ts";
import { entry, type Truth } from "./truth.ts";

/** How often a page is closed or opened. */
const CHURN_MS = 700;
/** What a page is told so soon after it has joined is about the time before. */
const JOIN_MS = 1_000;
/** After how long a page that lacks a subscription is loaded again. */
const RELOAD_AFTER_MS = 8_000;
/** Users of pages, so that each has several. */
const USERS_PER_TABS = 3;
/** How much of what a client is told is kept, for people. */
const MAX_TRAIL = 40;
/** Of so many pages, what they are; repeated for more. */
const MIX: readonly (readonly [Kind, Transport])[] = [
  ["ours", "ws"],
  ["stock-session", "ws"],
  ["ours", "xhr_streaming"],
  ["stock", "ws"],
  ["ours", "ws"],
  ["stock-session", "xhr_polling"],
  ["ours", "xhr_polling"],
  ["stock-session", "ws"],
  ["ours", "ws"],
  ["stock-session", "xhr_streaming"],
  ["ours", "ws"],
  ["stock", "xhr_polling"],
];

/** A place for one page at a time. */
interface Slot {
  readonly index: number;
  readonly kind: Kind;
  readonly transport: Transport;
  /** Who it is on presence channels. */
  readonly member: string;
  /** As whom it signs in. */
  readonly user: string;
  page: Subject | null;
  visits: number;
}

/** What {@linkcode Tabs} takes. */
export interface TabsOptions {
  readonly seed: number;
  readonly count: number;
  readonly port: number;
  readonly channels: readonly string[];
  readonly users: readonly string[];
  readonly truth: Truth;
  /** For how long messages are kept. */
  readonly historyMs: number;
  readonly onChange: () => void;
}

/** What became of the messages of all pages of a kind. */
export interface KindTally {
  readonly kind: Kind;
  readonly tally: Tally;
  /** How often a page was told of a gap. */
  reports: number;
}

/** All pages. */
export class Tabs {
  readonly #options: TabsOptions;
  readonly #random: Random;
  readonly #slots: Slot[];
  /** What has been counted of pages that are closed. */
  readonly #past = new Map<Kind, KindTally>();
  #left: { subject: Subject; kind: Kind }[] = [];
  readonly #trails = new Map<string, string[]>();
  #timer: ReturnType<typeof setInterval> | undefined;
  /** When pages were loaded again. */
  readonly #loadedAt = new WeakMap<Subject, number>();
  readonly problems: string[] = [];
  /** Gaps that pages were told of, though they were not away for longer than the history. */
  readonly gaps: string[] = [];
  /**
   * Gaps that pages were told of on their first connection: while Redis is away, and
   * for as long as the history after it has forgotten everything, a server cannot know
   * whether there was such a session before.
   */
  readonly firstGaps: { gap: string; toldAt: number }[] = [];
  /** By page and channel, since when it has not been there; null if it is there. */
  readonly #lostAt = new Map<string, Map<string, number | null>>();
  /** Pages with such gaps. */
  readonly #doubtful = new Set<string>();
  readonly #told = new Set<string>();
  /** Connections after the first of each page. */
  #reconnects = 0;

  constructor(options: TabsOptions) {
    this.#options = options;
    this.#random = new Random(options.seed, 5);
    const { count, users } = options;
    const members = Math.ceil(count / USERS_PER_TABS);
    this.#slots = Array.from({ length: count }, (_, index) => {
      const [kind, transport] = MIX[index % MIX.length]!; // Below its length.
      return {
        ...{ index, kind, transport },
        member: `m${index % members}`,
        user: users[index % users.length]!, // Below its length.
        page: null,
        visits: 0,
      };
    });
  }

  /** The pages that are open. */
  get open(): Subject[] {
    return this.#slots.flatMap(({ page }) => page ?? []);
  }

  /** Users with at least one open page. */
  get members(): Set<string> {
    return new Set(
      this.#slots.flatMap(({ page, member }) => page === null ? [] : member),
    );
  }

  get reconnects(): number {
    return this.open.reduce(
      (sum, { connections }) => sum + Math.max(0, connections - 1),
      this.#reconnects,
    );
  }

  /** Opens all. */
  openAll(): void {
    for (const slot of this.#slots) this.#open(slot);
  }

  /** Closes all, for good. */
  closeAll(): void {
    for (const slot of this.#slots) this.#close(slot);
  }

  /** Closes and opens pages from now on, until the function that is returned is called. */
  churn(): () => void {
    this.#timer = setInterval(() => {
      const slot = this.#random.of(this.#slots);
      if (slot.page === null) this.#open(slot);
      // Most pages stay open for long.
      else if (this.#random.chance(0.4)) this.#close(slot);
    }, CHURN_MS);
    return () => clearInterval(this.#timer);
  }

  /**
   * Loads pages again that lack a subscription: pusher-js never repeats a request of
   * the HTTP transports, or for a signature, that has failed.
   */
  reloadStuck(): void {
    for (const { kind, page } of this.#slots) {
      if (page === null || page.isSettled() || kind === "ours") continue;
      const now = performance.now();
      if (now - (this.#loadedAt.get(page) ?? 0) < RELOAD_AFTER_MS) continue;
      this.#loadedAt.set(page, now);
      this.#note(page.name, "is loaded again");
      page.stop();
      page.start();
    }
  }

  /** The last that happened to a page. */
  trail(name: string): string {
    return (this.#trails.get(name) ?? []).join("; ");
  }

  /** Counts what has become of all messages, by kind of page. */
  count(): KindTally[] {
    for (const { subject, kind } of this.#left) {
      this.#add(this.#past, kind, subject);
      this.#reconnects += Math.max(0, subject.connections - 1);
      this.#trails.delete(subject.name);
      this.#lostAt.delete(subject.name);
      this.#doubtful.delete(subject.name);
    }
    this.#left = [];
    const total = new Map<Kind, KindTally>(
      [...this.#past].map(([kind, { tally, reports }]) => [
        kind,
        { kind, tally: { ...tally }, reports },
      ]),
    );
    for (const { page, kind } of this.#slots) {
      if (page !== null) this.#add(total, kind, page);
    }
    return [...total.values()];
  }

  #add(
    totals: Map<Kind, KindTally>,
    kind: Kind,
    { name, account, problems }: Subject,
  ) {
    const total = totals.get(kind) ?? { kind, tally: noTally(), reports: 0 };
    totals.set(kind, total);
    add(total.tally, account.tally());
    total.reports += account.reports;
    this.problems.push(...problems.splice(0));
    if (kind === "stock") return;
    const examples = account.examples().filter((example) =>
      !this.#told.has(`${name} ${example}`) &&
      // A session promises at least once.
      (kind === "ours" || !example.startsWith("twice"))
    );
    if (examples.length === 0) return;
    for (const example of examples) this.#told.add(`${name} ${example}`);
    const more = examples.length > 5 ? ` and ${examples.length - 5} more` : "";
    this.problems.push(
      `${kind} ${name}: ${examples.slice(0, 5).join(", ")}${more}` +
        ` (${this.#around(account, examples[0] ?? "")})` +
        ` [${this.trail(name)}]`,
    );
  }

  /** What a page heard around the first message that went wrong, and where it came. */
  #around(account: Account, example: string): string {
    const { truth } = this.#options;
    const [, channel = "", n] = example.split(" ");
    const heard = account.heardOn(channel);
    const at = heard.findIndex((message) => message >= Number(n));
    return heard.slice(Math.max(0, at - 4), at + 4)
      .map((message) => `${message} at ${truth.place(channel, message)}`)
      .join(", ");
  }

  #open(slot: Slot): void {
    if (slot.page !== null) return;
    const { kind, transport, member, user, index } = slot;
    const { port, channels, truth, onChange } = this.#options;
    const name = `${member}.${index}-${slot.visits++}`;
    slot.page = new Subject({
      ...{ kind, transport, port, name, user, channels, onChange },
      account: new Account(name, truth),
      trace: (line) => this.#note(name, line),
    });
    slot.page.start();
  }

  #close(slot: Slot): void {
    const { page, kind } = slot;
    if (page === null) return;
    slot.page = null;
    page.account.leave();
    page.stop();
    this.#left.push({ subject: page, kind });
  }

  /** Knows since when a page has not been on a channel that it is told of a gap on. */
  #track(name: string, line: string): void {
    const now = performance.now();
    const lostAt = entry(this.#lostAt, name, () => new Map());
    const [event, channel = ""] = line.split(" ");
    switch (event) {
      case "connecting":
      case "unavailable":
      case "disconnected":
        for (const [one, at] of lostAt) if (at === null) lostAt.set(one, now);
        break;
      case "pusher_internal:subscription_succeeded":
        // Whether there was a gap is said after it.
        lostAt.set(`joining ${channel}`, lostAt.get(channel) ?? -Infinity);
        lostAt.set(`joined ${channel}`, now);
        lostAt.set(channel, null);
        break;
      case "pusher:recovery_failed": {
        const known = lostAt.get(channel);
        const joinedAt = lostAt.get(`joined ${channel}`) ?? now;
        const before = now - joinedAt > JOIN_MS
          ? now
          : lostAt.get(`joining ${channel}`);
        const since = (known === null ? before : known) ?? -Infinity;
        const gap = `${name}: ${line} [${this.trail(name)}]`;
        // Until a client has acknowledged it, its session says so again.
        if (since === -Infinity || this.#doubtful.has(name)) {
          this.#doubtful.add(name);
          this.firstGaps.push({ gap, toldAt: now });
        } else if (now - since < this.#options.historyMs / 2) {
          this.gaps.push(gap);
        }
      }
    }
  }

  #note(name: string, line: string): void {
    this.#track(name, line);
    const trail = this.#trails.get(name) ?? [];
    this.#trails.set(name, trail);
    if (/^pusher:p[io]ng /.test(line)) return;
    // Messages are many, and the ledger has them.
    if (/^(client-)?message /.test(line)) {
      const last = trail.at(-1) ?? "";
      const [, , n] = line.split(" ");
      if (/ … \d+$/.test(last)) trail.pop();
      trail.push(`${Math.round(performance.now())} … ${n}`);
      return;
    }
    const brief = line.trim().replace(/^pusher(_internal)?:(\w+)/, "$2");
    trail.push(`${Math.round(performance.now())} ${brief}`);
    if (trail.length > MAX_TRAIL) trail.shift();
  }
}
