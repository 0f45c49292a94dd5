/**
 * Servers that do everything at random, beside a model of what has to come of it.
 *
 * @module
 */
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { turn } from "../clock.ts";
import { Random } from "../random.ts";
import { type FakeServer, SOME_APP } from "./server.ts";
import {
  assertAscending,
  countsOf,
  membersOf,
  type Register,
  type Stage,
} from "./stage.ts";

const STEPS = 400;
const SERVERS = 3;
const CHANNELS = ["a", "b", "presence-a", "presence-b"];
const USERS = ["ann", "bob", "a\nb"];

/** The server that watches, and does nothing else. */
const OBSERVER = "observer";

/** Registers the randomised test. */
export function testAtRandom(
  test: Register,
  canDie: boolean,
  givenSeed?: number,
): void {
  test("whatever servers do, figures, members, announcements and history agree", async (stage) => {
    const seed = givenSeed ?? Math.floor(Math.random() * 2 ** 31);
    try {
      await new Play(stage, new Random(seed), canDie).run();
    } catch (error) {
      const { message } = error as Error;
      throw new Error(`With seed ${seed}: ${message}`, { cause: error });
    }
  });
}

class Play {
  readonly #stage: Stage;
  readonly #random: Random;
  readonly #canDie: boolean;
  /** Servers that live. */
  #servers: FakeServer[] = [];
  /** All that there have been. */
  readonly #all: FakeServer[] = [];
  #observer!: FakeServer; // Set by run, before anything else.
  /** Calls that have not been answered, by server. */
  readonly #calls = new Map<FakeServer, Set<Promise<unknown>>>();
  /** Data of messages that were accepted, by channel and then by publisher. */
  readonly #accepted = new Map<string, Map<FakeServer, string[]>>();
  /** Data of messages whose publisher died before the answer. */
  readonly #uncertain = new Set<string>();
  #published = 0;
  #deaths = 0;

  constructor(stage: Stage, random: Random, canDie: boolean) {
    this.#stage = stage;
    this.#random = random;
    this.#canDie = canDie;
  }

  async run(): Promise<void> {
    this.#observer = await this.#start();
    // It has connections of its own, so its channels are never vacated for it.
    for (const channel of CHANNELS) {
      const user = channel.startsWith("presence-") && { user: OBSERVER };
      await this.#observer.enter(channel, { recovers: true, ...user });
    }
    for (let n = 0; n < SERVERS; n++) this.#servers.push(await this.#start());
    for (let step = 0; step < STEPS; step++) {
      await this.#step();
      if (this.#random.chance(0.2)) await turn();
    }
    await this.#settle();
    await this.#checkFigures();
    await this.#checkMessages();
    await this.#checkTransitions();
  }

  async #start(): Promise<FakeServer> {
    const server = await this.#stage.server({ ageMs: 600_000 });
    this.#all.push(server);
    this.#calls.set(server, new Set());
    return server;
  }

  // ---- Steps

  async #step(): Promise<void> {
    const random = this.#random;
    const server = random.of(this.#servers);
    // Some channels are only the servers', and are vacated now and then.
    const channel = random.of([...CHANNELS, "c", "presence-c"]);
    const isPresence = channel.startsWith("presence-");
    const user = isPresence ? random.of(USERS) : undefined;
    const init = user === undefined ? {} : { user };
    const held = server.holds(channel).get(user ?? "") ?? 0;
    const what = random.weighted(
      [
        [30, "join"],
        [held > 0 ? 30 : 0, "leave"],
        [30, "publish"],
        [15, "repeat"],
        [8, "settle"],
        [2, "close"],
        [this.#canDie ? 3 : 0, "die"],
      ] as const,
    );
    if (what === "join") return this.#call(server, server.join(channel, init));
    if (what === "leave") {
      return this.#call(server, server.leave(channel, init));
    }
    if (what === "repeat") {
      return this.#call(server, server.repeat(channel, init));
    }
    if (what === "publish") return this.#publish(server, channel);
    if (what === "settle") return await this.#settleCalls(server);
    await this.#replace(server, what);
  }

  #call(server: FakeServer, answer: Promise<unknown>): void {
    const calls = this.#calls.get(server);
    calls?.add(answer);
    answer.finally(() => calls?.delete(answer)).catch(() => {});
  }

  #publish(server: FakeServer, channel: string): void {
    const data = `${++this.#published}`;
    const logged = this.#random.chance(0.7);
    const answer = server.publish(channel, data, { logged });
    const byServer = this.#accepted.get(channel) ?? new Map();
    this.#accepted.set(channel, byServer);
    const list = byServer.get(server) ?? [];
    byServer.set(server, list);
    list.push(data);
    this.#uncertain.add(data);
    const accept = () => {
      // The dead get no answers.
      if (this.#servers.includes(server)) this.#uncertain.delete(data);
    };
    this.#call(server, answer.then(accept));
  }

  async #settleCalls(server: FakeServer): Promise<void> {
    await Promise.all(this.#calls.get(server) ?? []);
  }

  /** Has a server go, in good order or not, and another one come. */
  async #replace(server: FakeServer, what: "close" | "die"): Promise<void> {
    if (what === "close") await this.#settleCalls(server);
    this.#servers = this.#servers.filter((one) => one !== server);
    if (what === "close") await this.#stage.close(server);
    else {
      this.#deaths++;
      this.#calls.delete(server);
      await this.#stage.kill(server);
    }
    this.#servers.push(await this.#start());
  }

  async #settle(): Promise<void> {
    for (const server of this.#servers) await this.#settleCalls(server);
  }

  // ---- Checks

  /** Figures and members are those that the living servers state. */
  async #checkFigures(): Promise<void> {
    const servers = [this.#observer, ...this.#servers];
    for (const channel of [...CHANNELS, "c", "presence-c"]) {
      const users = new Map<string, number>();
      for (const server of servers) {
        for (const [user, connections] of server.holds(channel)) {
          users.set(user, (users.get(user) ?? 0) + connections);
        }
      }
      const isPresence = channel.startsWith("presence-");
      const subscriptions = [...users.values()].reduce((a, b) => a + b, 0);
      const counts = [subscriptions, isPresence ? users.size : 0];
      for (const server of servers) {
        const ask = () => countsOf(server, channel);
        await this.#stage.eventually<number[]>(ask, counts);
        if (!isPresence) continue;
        const members = [...users.keys()].sort().map((user) => [user, "{}"]);
        assertEquals<string[][]>(await membersOf(server, channel), members);
      }
      const occupied = await this.#observer.backplane.occupied(SOME_APP, "");
      assertEquals(occupied.has(channel), subscriptions > 0);
    }
  }

  /** The observer has heard all messages in order, and members by turns. */
  async #checkMessages(): Promise<void> {
    const observer = this.#observer;
    for (const channel of CHANNELS) {
      await this.#stage.heardAll(channel, observer);
      const heard = observer.heard(channel);
      assertAscending(heard);
      const events = heard.filter(({ message }) => message.event === "e")
        .map(({ message }) => message.data ?? "");
      assertEquals(events.length, new Set(events).size, "Something came twice");
      for (const own of this.#accepted.get(channel)?.values() ?? []) {
        const isKnown = (data: string) =>
          !this.#uncertain.has(data) || events.includes(data);
        const ofOwn = new Set(own);
        assertEquals(
          events.filter((data) => ofOwn.has(data)),
          own.filter(isKnown),
        );
      }
      const present = new Set([OBSERVER]);
      for (const { message: { event, data = "" } } of heard) {
        if (event === "added" && data !== OBSERVER) {
          assert(!present.has(data), `${data} is added twice`);
          present.add(data);
        } else if (event === "removed") {
          assert(present.delete(data), `${data} is removed twice`);
        }
      }
      if (channel.startsWith("presence-")) {
        const members = await membersOf(observer, channel);
        assertEquals([...present].sort(), members.map(([user]) => user));
      }
      // What the history has is what was delivered.
      const [first] = heard;
      if (first === undefined) continue;
      const logged = heard.filter(({ message, position }) =>
        message.logged && position.offset > first.position.offset
      );
      const read = await observer.read(channel, {
        after: first.position,
        until: heard.at(-1)!.position.offset,
      });
      assertEquals(
        read?.map(({ offset }) => offset),
        logged.map(({ position }) => position.offset),
      );
    }
  }

  /** Each transition was told once, by the servers together. */
  async #checkTransitions(): Promise<void> {
    const stage = this.#stage;
    await stage.toldAll(this.#observer, ...this.#servers);
    for (const channel of [...CHANNELS, "c", "presence-c"]) {
      const told = this.#all.flatMap((server) => server.told(channel));
      const count = (part: string) =>
        told.filter((text) => ` ${text} `.includes(` ${part} `)).length;
      const [subscriptions] = await countsOf(this.#observer, channel);
      // A server may have died before the word of a change reached it.
      const balance = (come: string, go: string, isThere: boolean) => {
        const off = Math.abs(count(come) - count(go) - Number(isThere));
        assertLessOrEqual(off, this.#deaths, `${come} on ${channel}`);
      };
      balance("occupied", "vacated", subscriptions > 0);
      const members = new Map(await membersOf(this.#observer, channel));
      for (const user of [...USERS, OBSERVER]) {
        balance(`+${user}`, `-${user}`, members.has(user));
      }
    }
  }
}
