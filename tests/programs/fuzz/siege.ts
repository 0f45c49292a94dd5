/**
 * A siege: while a round goes on, attackers who know one more app do their worst to
 * the same server. The clients of the round, and a bystander on the attackers' own
 * app, must see nothing of it; afterwards nothing of it may be left.
 *
 * The server's time stands still but for what a siege lets pass, so deadlines of
 * seconds are reached in no time.
 *
 * @module
 */
import type { PusherOptions, Stats } from "@glitz/pusher";
import type { ManualClock } from "../../support/clock.ts";
import { NativeClient } from "../../support/native.ts";
import type { Random } from "../../support/random.ts";
import type { Client, TestServer } from "../../support/server.ts";
import type { App, Frame } from "../../support/wire.ts";
import { LIMITS } from "./world.ts";

/** The app whose key, and sometimes whose secret, the attackers know. */
export const BESIEGED: App = {
  id: "besieged",
  key: "key-besieged",
  secret: "secret-of-besieged",
};

/** How a siege tells what it does, and counts what it checks. */
export interface Chronicle {
  note(what: string): void;
  equal(actual: unknown, expected: unknown, what: string): void;
  sure(condition: boolean, what: () => string): void;
}

/** What the attackers have to deal with. */
export interface Stage {
  readonly chronicle: Chronicle;
  readonly server: TestServer;
  readonly clock: ManualClock;
  readonly random: Random;
  /** Ends with the round, even where something is found in it. */
  readonly scope: AsyncDisposableStack;
}

/** Attackers at work. */
export interface Attack {
  /** Does a part of it, while everybody else goes on. */
  act(): Promise<void>;
  /** Ends it. Every connection of it has to end. */
  end(): Promise<void>;
}

/** One way to attack. */
export interface AttackKind {
  /** Options of the server, if it needs some. */
  readonly options?: PusherOptions;
  /** Limits of the app under attack that differ from those of the others. */
  readonly limits?: PusherOptions["limits"];
  /** Milliseconds of the server's time that pass in each act. */
  readonly turnMs: number;
  begin(stage: Stage): Attack | Promise<Attack>;
}

/** Options of a server that is besieged in one way. */
export function siegeOptions(
  apps: App[],
  { options = {}, limits = {} }: AttackKind,
  clock: ManualClock,
): PusherOptions {
  const besieged = {
    ...BESIEGED,
    limits: { ...LIMITS, ...limits },
    subscriptionCounts: false,
  };
  const authorize = () => true;
  return { authorize, clock, ...options, apps: [...apps, besieged] };
}

/** Long enough for everything that a server remembers of clients that are gone. */
const MEMORY_MS = 700_000;

const CHANNEL = "plaza";

/** One attack on one server. */
export class Siege {
  readonly #stage: Stage;
  readonly #turnMs: number;
  readonly #attack: Attack;
  readonly #bystander: Client;
  readonly #base: Rest;
  #ticks = 0;

  private constructor(
    stage: Stage,
    turnMs: number,
    attack: Attack,
    bystander: Client,
    base: Rest,
  ) {
    this.#stage = stage;
    this.#turnMs = turnMs;
    this.#attack = attack;
    this.#bystander = bystander;
    this.#base = base;
  }

  static async begin(kind: AttackKind, stage: Stage): Promise<Siege> {
    const { server } = stage;
    const base = await rest(stage);
    const query = "?protocol=7&client=js";
    const bystander = await server.connect({ app: BESIEGED, query });
    await bystander.join(CHANNEL);
    const attack = await kind.begin(stage);
    return new Siege(stage, kind.turnMs, attack, bystander, base);
  }

  /** A part of the attack, and of the bystander's day. */
  async act(): Promise<void> {
    const { server, clock, random } = this.#stage;
    const count = 1 + random.below(5);
    const wanted = Array.from({ length: count }, () => `tick ${this.#ticks++}`);
    const pusher = server.pusher.app(BESIEGED.id);
    await Promise.all([
      this.#attack.act(),
      clock.passInSteps(this.#turnMs, Math.max(1, this.#turnMs / 20)),
      (async () => {
        for (const data of wanted) await pusher.trigger(CHANNEL, "tick", data);
      })(),
    ]);
    const frames = await this.#bystander.framesUntilPong();
    this.#stage.chronicle.equal(
      frames.map(({ event, data }: Frame) => [event, data]),
      wanted.map((data) => ["tick", data]),
      "what the bystander sees",
    );
  }

  /** Ends the attack and what the bystander does. */
  async end(): Promise<void> {
    await this.#attack.end();
    await this.#bystander.close();
  }

  /** Once every connection has ended: the server is what it was. */
  async settle(): Promise<void> {
    const { clock, chronicle } = this.#stage;
    await clock.passInSteps(MEMORY_MS, 10_000);
    chronicle.equal(await rest(this.#stage), this.#base, "the server at rest");
  }
}

/** What a server has when nobody is connected. */
interface Rest {
  readonly stats: Partial<Stats>;
  /** Timers that have not been due yet. */
  readonly timers: number;
}

/**
 * What a server has at rest. A client comes and goes first: only then the server
 * forgets what is too old.
 */
async function rest({ server, clock }: Stage): Promise<Rest> {
  const path = `/r/${crypto.randomUUID()}`;
  const init = { app: BESIEGED, path, client: "js" };
  const client = await NativeClient.connect(server, init);
  await client.join("rest");
  await server.pusher.app(BESIEGED.id).trigger("rest", "e", "");
  await client.next("e");
  client.raw.drop();
  for (;;) {
    const { socketId } = await server.journal.next("disconnected");
    if (socketId === client.socketId) break;
  }
  await clock.passInSteps(5_000);
  const { droppedFrames: _, ...stats } = server.pusher.stats();
  return { stats, timers: clock.waiting };
}
