/**
 * One connection to one Redis server, from its making to its end. It always answers:
 * a command is done, refused, or given up after a time, and nothing is sent twice. A
 * connection that is late, or on which something is not as it must be, ends, and
 * whoever made it makes another one.
 *
 * @module
 */

import { showAddress } from "./address.ts";
import { Client, type ClientOptions } from "./client.ts";
import { Fault, judge, RedisUnavailable, slotOf } from "./failures.ts";
import { checkServer, parseInfo, type ServerKind } from "./server.ts";

/** A script of Redis. */
export interface Script {
  /** What it is called in errors. */
  readonly name: string;
  readonly text: string;
  /** SHA-1 of the text, by which Redis knows it. */
  readonly digest: string;
  /**
   * Whether its callers bound how many calls wait for an answer. Then none is refused
   * because too many do.
   */
  readonly isPaced?: boolean | undefined;
}

/**
 * One connection to one Redis server. Commands and topics share it, so Redis does
 * everything in the order in which it was asked for.
 */
export interface Connection {
  /** Grows with each connection that this process makes. */
  readonly generation: number;
  /** Names the run of the server. Another one may not know what this one knew. */
  readonly runId: string;
  /**
   * Runs a script, which the server has known since the connection was made.
   *
   * @throws {RedisUnavailable} If the connection has ended, or ends before the answer.
   * @throws {Error} If the script answers with an error; the connection goes on.
   */
  call(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
  ): Promise<unknown>;
  /** Subscribes to topics. */
  subscribe(topics: readonly string[]): Promise<void>;
  /** Ends subscriptions. */
  unsubscribe(topics: readonly string[]): Promise<void>;
}

/** What {@linkcode Link.open} needs to know. */
export interface LinkOptions extends ClientOptions {
  readonly kind: ServerKind;
  readonly scripts: readonly Script[];
  /** How long Redis may take to answer a command. */
  readonly answerMs: number;
  /** How long a connection may take to be made, with all that it begins with. */
  readonly connectMs: number;
  /** Whether settings that would lose data later are refused. */
  readonly isStrict: boolean;
  /** The slot of the key or topic; NaN where there are no slots. */
  slotOf(key: string): number;
}

/** What happens to a link that has been made. */
export interface LinkEvents {
  message(topic: string, text: string): void;
  /** It has ended after it was open; comes once. */
  lost(link: Link, cause: unknown): void;
  /** The slot of a key is on its way to another server. */
  migrating(link: Link, key: string, cause: unknown): void;
}

/**
 * Commands that may wait for their answers. Redis answers some 30,000 a second, so
 * what waits here is 0.2 s of its work, or it does not work.
 */
export const MAX_PENDING = 4_096;

/** Topics of one command: it takes Redis a millisecond. */
const TOPICS_PER_COMMAND = 500;

/** How often each connection asks whether Redis still answers. */
const BEAT_MS = 1_000;

/** Of the connection made last in this process. */
let lastGeneration = 0;

/** What a command is like. */
interface CommandKind {
  /** Whether it is no subscription, and so has an answer of its own. */
  readonly isScript: boolean;
  /** See {@linkcode Script.isPaced}. */
  readonly isPaced?: boolean | undefined;
}

// Refused, it would leave a channel deaf. Whoever joins bounds how many there are.
const SUBSCRIPTION: CommandKind = Object.freeze({
  isScript: false,
  isPaced: true,
});

/** A command without its answer. */
interface Pending {
  readonly sinceMs: number;
  reject(reason: Error): void;
}

/** The part of a key or topic that decides on its slot, braces included. */
export function tagOf(key: string): string {
  return key.slice(0, key.indexOf("}") + 1);
}

/** A connection; it is used after {@linkcode open} has resolved. */
export class Link implements Connection {
  readonly generation: number = ++lastGeneration;
  /** Host and port, for errors. */
  readonly where: string;
  readonly #options: LinkOptions;
  readonly #events: LinkEvents;
  readonly #client: Client;
  readonly #pending = new Set<Pending>();
  readonly #topics = new Set<string>();
  #runId = "";
  #isOpen = false;
  #isOver = false;
  #timer: ReturnType<typeof setInterval> | undefined;
  #lastTickMs = 0;
  #isBeating = false;
  #endOpening: (cause: unknown) => void = () => {};

  /** Does nothing until {@linkcode open}. */
  constructor(options: LinkOptions, events: LinkEvents) {
    this.#options = options;
    this.#events = events;
    this.where = showAddress(options);
    this.#client = new Client(options, {
      message: (topic, text) => {
        // The rest of what was read before the end.
        if (!this.#isOver) events.message(topic, text);
      },
      moved: () => this.end(new Fault("the slots of some topics have moved")),
      failed: (cause) => this.end(cause),
    });
  }

  get runId(): string {
    return this.#runId;
  }

  /** Whether it has ended. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Connects, and finds out whether the server will do. Rejects with the reason. */
  async open(): Promise<void> {
    const { connectMs } = this.#options;
    const { promise, reject } = Promise.withResolvers<never>();
    this.#endOpening = reject;
    const timer = setTimeout(
      () => this.end(silence(connectMs, this.#options)),
      connectMs,
    );
    try {
      await Promise.race([this.#greet(), promise]);
      this.#isOpen = true;
    } catch (error) {
      this.end(error);
      throw error;
    } finally {
      clearTimeout(timer);
    }
    this.#lastTickMs = performance.now();
    const beatMs = Math.min(BEAT_MS, this.#options.answerMs / 2);
    this.#timer = setInterval(() => this.#tick(beatMs), beatMs);
  }

  async #greet(): Promise<void> {
    const { kind, scripts, isStrict } = this.#options;
    await this.#client.open();
    const info = parseInfo(await this.#client.send(["INFO"]));
    checkServer(info, kind, isStrict);
    this.#runId = info.get("run_id") ?? "";
    // Needed each second: see #beat.
    if (kind === "node") await this.#client.send(["CLIENT", "INFO"]);
    await Promise.all(
      scripts.map(({ text }) => this.#client.send(["SCRIPT", "LOAD", text])),
    );
  }

  call(
    script: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
  ): Promise<unknown> {
    const count = String(keys.length);
    const command = [
      "EVALSHA",
      script.digest,
      count,
      ...keys,
      ...args.map(String),
    ];
    const { isPaced } = script;
    return this.#send(keys[0] ?? "", () => this.#client.send(command), {
      isScript: true,
      isPaced,
    });
  }

  /** Asks the server something that is no script. */
  ask(...command: string[]): Promise<unknown> {
    return this.#send("", () => this.#client.send(command), {
      isScript: true,
    });
  }

  async subscribe(topics: readonly string[]): Promise<void> {
    await Promise.all(
      this.#chunks(topics).map((chunk) => {
        for (const topic of chunk) this.#topics.add(topic);
        return this.#send(
          chunk[0],
          () => this.#client.subscribe(chunk),
          SUBSCRIPTION,
        );
      }),
    );
  }

  async unsubscribe(topics: readonly string[]): Promise<void> {
    await Promise.all(
      this.#chunks(topics).map((chunk) => {
        for (const topic of chunk) this.#topics.delete(topic);
        return this.#send(
          chunk[0],
          () => this.#client.unsubscribe(chunk),
          SUBSCRIPTION,
        );
      }),
    );
  }

  /** The topics of some tags that are subscribed to. */
  topicsOf(tags: readonly string[]): string[] {
    const wanted = new Set(tags);
    return [...this.#topics].filter((topic) => wanted.has(tagOf(topic)));
  }

  /** Ends it. Whatever waits for an answer may have been executed. */
  end(cause: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#client.destroy();
    if (this.#isOpen) this.#events.lost(this, cause);
    else this.#endOpening(cause);
    const reason = `Redis at ${this.where} has not answered: the command may ` +
      "have been executed, and to repeat it may execute it twice";
    for (const { reject } of this.#pending) {
      reject(new RedisUnavailable(reason, { wasSent: true, cause }));
    }
    this.#pending.clear();
  }

  /** Topics of one slot each, in lists that are short enough. */
  #chunks(topics: readonly string[]): [string, ...string[]][] {
    const chunks: [string, ...string[]][] = [];
    const bySlot = new Map<number, [string, ...string[]]>();
    for (const topic of topics) {
      const slot = this.#options.slotOf(topic);
      const chunk = bySlot.get(slot);
      if (chunk && chunk.length < TOPICS_PER_COMMAND) {
        chunk.push(topic);
        continue;
      }
      const first: [string] = [topic];
      bySlot.set(slot, first);
      chunks.push(first);
    }
    return chunks;
  }

  /**
   * Sends a command, and settles with its answer or with the end of the link.
   *
   * The library pairs answers with commands by their order alone. It loses count when
   * subscriptions end that nobody has ended, because their slot has moved: then a
   * script gets no answer, and later commands get those of others. Handlers run in the
   * order of the commands, so the first of these ends the link before another is used.
   *
   * @param key Decides on the slot; "" if the command has none.
   */
  #send<T>(
    key: string,
    send: () => Promise<T>,
    { isScript, isPaced = false }: CommandKind,
  ): Promise<T> {
    const isFull = !isPaced && this.#pending.size >= MAX_PENDING;
    if (this.#isOver || isFull) {
      const reason = this.#isOver
        ? `The connection to Redis at ${this.where} has ended: try again later`
        : `Redis at ${this.where} has not answered ${MAX_PENDING} commands yet: ` +
          "try again later";
      return Promise.reject(new RedisUnavailable(reason, { wasSent: false }));
    }
    return new Promise<T>((resolve, reject) => {
      const pending = { sinceMs: performance.now(), reject };
      this.#pending.add(pending);
      send().then((answer) => {
        if (isScript && answer === undefined) {
          this.end(new Fault("one of its answers belongs to no command"));
        }
        if (this.#pending.delete(pending)) resolve(answer);
      }, (error) => {
        // If it is not there, the end of the link has settled it.
        if (!this.#pending.delete(pending)) return;
        reject(this.#judge(key, error, isScript));
      });
    });
  }

  /** Draws the consequences of an error; returns what the caller gets. */
  #judge(key: string, error: Error, isScript: boolean): Error {
    const refuse = (wasSent: boolean) =>
      new RedisUnavailable(
        `Redis at ${this.where} cannot do it now: ` + (wasSent
          ? "it may have begun to, and to repeat it may do it twice"
          : "try again later"),
        { wasSent, cause: error },
      );
    const verdict = judge(error);
    switch (verdict) {
      case "migrating":
        this.#events.migrating(this, key, error);
        return refuse(false);
      case "moved":
        this.end(error);
        // Of another slot it is the answer to another command: see #send.
        return refuse(slotOf(error) !== this.#options.slotOf(key));
      case "away":
        this.end(error);
        return refuse(false);
      case "command":
        if (isScript) return toForeign(key, error);
        // falls through: without its subscriptions a connection is of no use.
      case "broken":
        this.end(error);
        return refuse(true);
    }
  }

  /** Notices silence, and makes sure that there is something to hear. */
  #tick(beatMs: number): void {
    const nowMs = performance.now();
    const wasAsleep = nowMs - this.#lastTickMs > 2 * beatMs;
    this.#lastTickMs = nowMs;
    const [oldest] = this.#pending;
    if (oldest && nowMs - oldest.sinceMs > this.#options.answerMs) {
      // If this process has slept, the answer may be here and not be read yet.
      if (wasAsleep) return;
      this.end(
        new Fault(`it did not answer in ${this.#options.answerMs} ms`),
      );
      return;
    }
    if (!this.#isBeating && this.#pending.size < MAX_PENDING) this.#beat();
  }

  async #beat(): Promise<void> {
    this.#isBeating = true;
    const topics = this.#topics.size;
    try {
      if (this.#options.kind !== "node") return void await this.ask("PING");
      // A cluster may end subscriptions by itself, which the library can overlook.
      const info = String(await this.ask("CLIENT", "INFO"));
      const count = / ssub=(\d+)/.exec(info)?.[1];
      if (count === undefined || Number(count) === topics) return;
      this.end(
        new Fault(`it serves ${count} of ${topics} subscriptions`),
      );
    } catch (error) {
      this.end(error);
    } finally {
      this.#isBeating = false;
    }
  }
}

/**
 * Says what is to be done where a key has been taken by something else. The keys
 * themselves may hold what nobody is to read.
 */
function toForeign(key: string, error: Error): Error {
  if (!error.message.startsWith("WRONGTYPE ")) return error;
  return new Fault(
    `Redis has something else under a key that begins with ${
      tagOf(key)
    }: delete ` +
      "it there, or use another prefix",
    { isLasting: true, cause: error },
  );
}

/** Why a connection was given up that was never made. */
function silence(ms: number, { tls }: ClientOptions): Fault {
  return new Fault(
    `it did not answer in ${ms} ms: correct host and port` +
      (tls === null ? "" : ", or use redis:// if the port is one without TLS"),
  );
}
