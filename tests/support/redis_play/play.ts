/**
 * Servers on one Redis that do everything at random while everything fails at random,
 * and what must be true nevertheless.
 *
 * @module
 */
import type { Awaitable, Backplane, SessionState } from "@glitz/pusher";
import { RedisUnavailable } from "@glitz/pusher/redis";
import { Keys } from "../../../ext/redis/keys.ts";
import { SOME_APP, USER, WATCHERS } from "../contract/server.ts";
import { DEADLINE_MS } from "../deadline.ts";
import { Random } from "../random.ts";
import { Strait } from "../strait.ts";
import { Client, Count } from "./client.ts";
import { PlayServer } from "./server.ts";

export const LEASE_MS = 1_500;
/** Less than the lease: what is given up may arrive while the server still lives. */
export const ANSWER_MS = 700;

const SMALL = "presence-small";
const MAX_MEMBERS = 2;
const USERS = ["ann", "bob", "a\nb", "__proto__"];
const WATCHED = ["ann", "x\n:{}"];
const CHANNELS = [
  ...["a", "b", "__proto__", "presence-a", "presence-b", SMALL],
  ...WATCHED.flatMap((user) => [USER + user, WATCHERS + user]),
];
const SESSIONS = ["session-0123456789", "session-abcdefghij"];

/** What a play is played on. */
export interface Ground {
  /** The ports that a server must reach, each through a strait of its own. */
  readonly port: number;
  /** Makes a backplane that reaches Redis through a port. */
  connect(port: number): Backplane;
  /** Has the server of a key do a command. */
  command(key: string, ...words: (string | number)[]): Promise<unknown>;
  /** Has every server that has keys do a command. */
  everywhere(...words: (string | number)[]): Promise<unknown[]>;
  /** What can happen to Redis itself, each with a weight. */
  readonly disasters: readonly (readonly [number, Disaster])[];
}

/** Something that happens to Redis. */
export interface Disaster {
  readonly name: string;
  /** Whether Redis forgets all, or some of, what it has said that it knows. */
  readonly forgets: boolean;
  /**
   * Whether it may take back what it has said was done, so that nobody can know what
   * there was.
   */
  readonly takesBack?: boolean;
  run(size: number): Promise<void>;
}

export interface PlayOptions {
  readonly seed: number;
  readonly steps: number;
  readonly prefix: string;
}

/** A message that was published. */
interface Published {
  readonly channel: string;
  readonly startedAt: number;
  outcome: "accepted" | "not sent" | "unknown";
}

/** One play. */
export class Play {
  readonly #ground: Ground;
  readonly #options: PlayOptions;
  readonly #random: Random;
  readonly #keys: Keys;
  readonly #count = new Count();
  #servers: PlayServer[] = [];
  readonly #all: PlayServer[] = [];
  readonly #published = new Map<string, Published>();
  /** Clients that are away, and may come back anywhere. */
  readonly #away: Client[] = [];
  readonly #faults = new Set<Promise<unknown>>();
  readonly violations: string[] = [];
  readonly tally: Record<string, number> = {};
  /** How many servers are about to come. */
  #starting = 0;
  /** What happens to Redis, one thing after the other. */
  #disasters: Promise<void> = Promise.resolve();
  /** When Redis last forgot something. */
  #forgotAt = -1;
  /** When Redis last took something back. */
  #tookBackAt = -1;
  readonly #sessions = new Map<string, SessionModel>();

  constructor(ground: Ground, options: PlayOptions) {
    this.#ground = ground;
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#keys = new Keys(options.prefix);
  }

  /** Plays; returns what was wrong. */
  async run(): Promise<readonly string[]> {
    for (let i = 0; i < 4; i++) await this.#boot();
    for (const id of SESSIONS) this.#sessions.set(id, new SessionModel());
    for (let step = 0; step < this.#options.steps; step++) {
      await this.#step();
      await wait(this.#random.next() * 25);
    }
    await this.#calm();
    await this.#audit();
    await this.#clear();
    return this.violations;
  }

  async dispose(): Promise<void> {
    for (const server of this.#all) {
      server.strait.open();
      server.strait.release();
      await server.backplane.close();
      await server.strait[Symbol.asyncDispose]();
    }
  }

  #complain = (what: string): void => {
    this.violations.push(what);
  };

  /** Has one more server come, which may take a while. */
  #boot(): Promise<void> {
    this.#starting++;
    const started = this.#start().finally(() => this.#starting--);
    this.#faults.add(started);
    return started.finally(() => this.#faults.delete(started));
  }

  async #start(): Promise<void> {
    const strait = new Strait(this.#ground.port);
    const name = `server ${this.#all.length + 1}`;
    const backplane = this.#ground.connect(strait.port);
    const server = new PlayServer(name, backplane, strait);
    this.#all.push(server);
    try {
      const started = backplane.start(server);
      backplane.journal?.want();
      await started;
    } catch {
      // Redis is away at the moment.
      server.isDead = true;
      return;
    }
    this.#servers.push(server);
    // Clients that stay notice what others have left too early for.
    for (const channel of CHANNELS) {
      if (this.#random.chance(0.3)) this.#join(server, channel, true);
    }
  }

  // ---- Steps

  async #step(): Promise<void> {
    const random = this.#random;
    if (this.#servers.length + this.#starting < 3) this.#boot();
    if (this.#servers.length === 0) return await wait(50);
    const server = random.of(this.#servers);
    const canLose = this.#servers.length > 2;
    const what = random.weighted(
      [
        [40, "join"],
        [12, "return"],
        [36, "leave"],
        [100, "publish"],
        [16, "repeat"],
        [10, "session"],
        [canLose ? 2 : 0, "kill"],
        [canLose ? 1 : 0, "close"],
        [2, "cut"],
        [3, "hold"],
        [2, "disaster"],
        [this.#servers.length + this.#starting < 5 ? 4 : 0, "boot"],
      ] as const,
    );
    this.tally[what] = (this.tally[what] ?? 0) + 1;
    if (what === "join") this.#join(server, random.of(CHANNELS));
    else if (what === "return") this.#return(server);
    else if (what === "leave") this.#leave(server);
    else if (what === "publish") this.#publish(server);
    else if (what === "repeat") this.#repeat(server);
    else if (what === "session") this.#session(server);
    else if (what === "kill") await this.#kill(server);
    else if (what === "close") this.#later(0, () => this.#close(server));
    else if (what === "cut") this.#cut(server);
    else if (what === "hold") this.#hold(server);
    else if (what === "disaster") this.#strike();
    else this.#boot();
  }

  #join(server: PlayServer, channel: string, stays = false): void {
    const random = this.#random;
    const isPresence = channel.startsWith("presence-");
    const client = new Client(
      {
        channel,
        user: isPresence ? random.of(USERS) : undefined,
        recovers: !channel.startsWith("#") && random.chance(0.5),
        stays,
      },
      this.#count,
      (what) => this.#complain(`${server.name}: ${what}`),
    );
    this.#admit(server, client);
  }

  #admit(server: PlayServer, client: Client): void {
    const most = client.channel === SMALL ? MAX_MEMBERS : Infinity;
    server.start(server.admit(client, most));
  }

  #return(server: PlayServer): void {
    const client = this.#away.shift();
    if (client !== undefined) this.#admit(server, client);
  }

  #leave(server: PlayServer): void {
    const clients = [...server.clients].filter(({ stays }) => !stays);
    if (clients.length === 0) return;
    const client = this.#random.of(clients);
    server.start(server.dismiss(client));
    if (client.recovers) this.#away.push(client);
  }

  #publish(server: PlayServer): void {
    const channel = this.#random.of(CHANNELS);
    const data = `m${this.#published.size + 1}`;
    const published: Published = {
      channel,
      startedAt: this.#count.next(),
      outcome: "unknown",
    };
    this.#published.set(data, published);
    const call = server.publish(channel, data).then(() => {
      published.outcome = "accepted";
    }, (error) => {
      if (!(error instanceof RedisUnavailable)) {
        if (!server.isDead) this.#complain(`publishing failed: ${error}`);
      } else if (!error.wasSent) published.outcome = "not sent";
    });
    server.start(call);
  }

  /** Says again what is held: a repeat changes nothing. */
  #repeat(server: PlayServer): void {
    const channel = this.#random.of(CHANNELS);
    const [user] = [...server.holds(channel).keys()];
    if (user === undefined) return;
    const init = user === "" ? {} : { user };
    server.start(server.repeat(channel, init));
  }

  #session(server: PlayServer): void {
    const id = this.#random.of(SESSIONS);
    const model = this.#sessions.get(id)!;
    const call = model.next(async () => {
      const { sessions } = server.backplane;
      if (model.owner !== server) {
        const former = model.owner;
        // Whoever has lost it cannot keep anything.
        // Without an answer nobody knows who has it.
        model.owner = model.former = null;
        const state = await sessions.take(SOME_APP, id);
        this.#checkSession(id, model, state);
        model.former = former;
        model.owner = server;
        model.takenAt = this.#count.next();
        return;
      }
      const former = model.former;
      if (former?.isDead === false && this.#forgotAt < model.takenAt) {
        try {
          const stolen = former.backplane.sessions;
          await stolen.keep(SOME_APP, id, stateOf(-1), false);
        } catch {
          // Redis is away.
        }
      }
      const n = ++model.attempted;
      const isAway = this.#random.chance(0.3);
      const { owner } = model;
      model.owner = null;
      await sessions.keep(SOME_APP, id, stateOf(n), isAway);
      model.owner = owner;
      model.kept = n;
      model.keptAt = this.#count.next();
      if (isAway) model.owner = model.former = null;
    });
    server.start(call);
  }

  #checkSession(
    id: string,
    model: SessionModel,
    state: SessionState | "forgotten" | null,
  ): void {
    const hasForgotten = this.#forgotAt > model.keptAt;
    if (state === null || state === "forgotten") {
      if (model.kept > 0 && !hasForgotten) {
        this.#complain(`${id}: ${model.kept} was kept, and ${state} was found`);
      }
      return;
    }
    const n = Number(state.formerIds[0]);
    const isKnown = n <= model.attempted && (n >= model.kept || hasForgotten);
    if (!isKnown || n < 0) {
      this.#complain(
        `${id}: ${model.kept} to ${model.attempted} was kept, ${n} was found`,
      );
    }
  }

  // ---- Faults

  /** Has a server die, and perhaps another one while it releases what that held. */
  async #kill(server: PlayServer): Promise<void> {
    await this.#end(server);
    if (!this.#random.chance(0.5)) return;
    const delayMs = LEASE_MS + this.#random.next() * 400;
    this.#later(delayMs, async () => {
      if (this.#servers.length <= 2) return;
      this.tally["kill while releasing"] =
        (this.tally["kill while releasing"] ?? 0) + 1;
      await this.#end(this.#servers[0]!);
    });
  }

  async #end(server: PlayServer): Promise<void> {
    server.isDead = true;
    this.#servers = this.#servers.filter((one) => one !== server);
    server.strait.shut();
    await server.backplane.close();
    this.#forgetClients(server);
  }

  async #close(server: PlayServer): Promise<void> {
    if (server.isDead) return;
    server.isDead = true;
    this.#servers = this.#servers.filter((one) => one !== server);
    await Promise.all(server.calls);
    await server.backplane.close();
    this.#forgetClients(server);
  }

  #forgetClients(server: PlayServer): void {
    for (const client of server.clients) {
      if (client.recovers) this.#away.push(client);
    }
    server.clients.clear();
  }

  #cut(server: PlayServer): void {
    server.strait.shut();
    const forMs = LEASE_MS * (0.1 + 2.5 * this.#random.next());
    this.#later(forMs, () => {
      if (!server.isDead) server.strait.open();
    });
  }

  /** What is sent arrives later, perhaps when others have taken the server for dead. */
  #hold(server: PlayServer): void {
    server.strait.hold(this.#random.chance(0.3));
    const forMs = LEASE_MS * (0.1 + 3 * this.#random.next());
    this.#later(forMs, () => server.strait.release());
  }

  #strike(): void {
    if (this.#ground.disasters.length === 0) return;
    const { name, forgets, takesBack = false, run } = this.#random.weighted(
      this.#ground.disasters,
    );
    this.tally[name] = (this.tally[name] ?? 0) + 1;
    const size = this.#random.next();
    const done = this.#disasters = this.#disasters.then(async () => {
      if (forgets) this.#forgotAt = this.#count.next();
      await run(size);
      if (forgets) this.#forgotAt = this.#count.next();
      if (takesBack) this.#tookBackAt = this.#forgotAt;
    });
    this.#faults.add(done);
    done.finally(() => this.#faults.delete(done));
  }

  #later(ms: number, run: () => Promise<void> | void): void {
    const done = wait(ms).then(run);
    this.#faults.add(done);
    done.finally(() => this.#faults.delete(done));
  }

  // ---- The end

  /** Waits until nothing fails any more, and nothing is left to release. */
  async #calm(): Promise<void> {
    while (this.#faults.size > 0) await Promise.all(this.#faults);
    for (const server of this.#servers) {
      server.strait.open();
      server.strait.release();
    }
    if (this.#servers.length === 0) await this.#boot();
    for (const server of this.#servers) {
      await until(
        `${server.name} being up`,
        () => server.isUp,
      );
      await Promise.all(server.calls);
    }
    const { leases, lapsed } = this.#keys;
    await until("nothing to be released", async () => {
      const command = (...words: (string | number)[]) =>
        this.#ground.command(leases, ...words);
      // One has no name: it is when a lease was renewed last.
      const alive = (await command("ZRANGE", leases, 0, -1) as string[])
        .filter((name) => name !== "").length;
      const dead = await command("ZCARD", lapsed);
      return alive === this.#servers.length && dead === 0;
    });
    // After a flush it takes so long until everybody is taken for registered.
    if (this.#forgotAt >= 0) await wait(3 * LEASE_MS);
    for (const channel of CHANNELS) await this.#fence(channel);
  }

  /** Publishes until all clients of a channel have got it. */
  async #fence(channel: string): Promise<void> {
    const clients = this.#servers.flatMap((server) =>
      [...server.clients].filter((client) => client.channel === channel)
    );
    for (const [i, server] of this.#servers.entries()) {
      const data = `fence ${channel} ${i}`;
      await calmly(() => server.publish(channel, data, { logged: false }));
      await until(
        `${data} reaching ${clients.length} clients`,
        () => clients.every(({ heard }) => heard.has(data)),
      ).catch((error) => this.#complain(String(error)));
    }
  }

  async #audit(): Promise<void> {
    for (const server of this.#all) {
      for (const failure of server.failures) {
        this.#complain(`${server.name} reported: ${failure}`);
      }
    }
    for (const channel of CHANNELS) {
      await this.#auditFigures(channel);
      await this.#auditJournal(channel);
    }
    this.#auditMessages();
  }

  async #auditFigures(channel: string): Promise<void> {
    const isPresence = channel.startsWith("presence-");
    const truth = new Map<string, number>();
    for (const server of this.#servers) {
      for (const [user, connections] of server.holds(channel)) {
        truth.set(user, (truth.get(user) ?? 0) + connections);
      }
    }
    const sum = [...truth.values()].reduce((a, b) => a + b, 0);
    const users = isPresence ? [...truth.keys()].sort() : [];
    const check = (what: string, found: unknown, expected: unknown) => {
      const [a, b] = [JSON.stringify(found), JSON.stringify(expected)];
      if (a !== b) this.#complain(`${channel}: ${what} ${a} instead of ${b}`);
    };
    for (const { name, backplane, clients } of this.#servers) {
      const counts = await calmly(() => backplane.occupancy(SOME_APP, channel));
      const expected = { subscriptions: sum, users: users.length };
      check(`${name} counts`, counts, expected);
      const occupied = await calmly(() =>
        backplane.occupied(SOME_APP, channel)
      );
      check(`${name} lists`, occupied.get(channel), sum ? counts : undefined);
      if (!isPresence) continue;
      const members = await calmly(() => backplane.members(SOME_APP, channel));
      check(`${name} has members`, [...members.keys()].sort(), users);
      for (const client of clients) {
        if (client.channel !== channel) continue;
        const known = [...client.members ?? []].sort();
        check(`client ${client.user} of ${name} knows`, known, users);
      }
    }
    const keys = this.#keys.channel(SOME_APP, channel);
    const held = await this.#ground.command(keys.users, "HGETALL", keys.users);
    const byUser = Object.entries(held as Record<string, string>)
      .map(([user, count]) => [user, Number(count)]).sort();
    const expected = isPresence ? [...truth].sort() : [];
    check("Redis has", byUser, expected);
    if (channel.startsWith(WATCHERS)) this.#auditWatchers(channel);
  }

  #auditWatchers(channel: string): void {
    const user = channel.slice(WATCHERS.length);
    const isOnline = this.#servers.some((server) =>
      (server.holds(USER + user).get("") ?? 0) > 0
    );
    for (const server of this.#servers) {
      for (const client of server.clients) {
        if (client.channel !== channel || client.online === null) continue;
        if (client.online === isOnline) continue;
        this.#complain(
          `${channel}: a client of ${server.name} takes the user for ` +
            (client.online ? "online" : "offline"),
        );
      }
    }
  }

  /** In the journal each comes and goes by turns. */
  async #auditJournal(channel: string): Promise<void> {
    const { name, bucket } = this.#keys.channel(SOME_APP, channel);
    const journal = this.#keys.journal(bucket);
    const entries = await this.#ground.command(
      ...[journal, "XRANGE", journal, "-", "+"] as const,
    ) as [string, string[]][];
    const last = new Map<string, string>();
    for (const [, list] of entries) {
      const fields: Record<string, string> = {};
      for (let i = 0; i < list.length; i += 2) fields[list[i]!] = list[i + 1]!;
      if (fields["c"] !== name) continue;
      const kind = fields["e"] ?? "";
      if (!"ov+-".includes(kind)) continue;
      const who = "ov".includes(kind) ? "" : ` ${fields["u"]}`;
      if (last.get(who) === kind) {
        this.#complain(`${channel}${who}: the journal has ${kind} twice`);
      }
      last.set(who, kind);
    }
  }

  #auditMessages(): void {
    const places = new Map<string, string>();
    for (const server of this.#all) {
      for (const { channel, message, position } of server.deliveries) {
        if (message.event !== "e" || message.data === undefined) continue;
        const { epoch, offset } = position;
        const place = `${channel} ${epoch} ${offset}`;
        const other = places.get(place) ?? message.data;
        places.set(place, message.data);
        if (other !== message.data) {
          this.#complain(`${place} is ${other} and ${message.data}`);
        }
        if (this.#published.get(message.data)?.outcome === "not sent") {
          this.#complain(
            `${message.data} was delivered, though it was not sent`,
          );
        }
      }
    }
    for (const server of this.#servers) {
      for (const client of server.clients) this.#auditClient(server, client);
    }
  }

  #auditClient(server: PlayServer, client: Client): void {
    const { channel, heard, joinedAt, lostAt } = client;
    for (const [data, published] of this.#published) {
      const { startedAt, outcome } = published;
      if (published.channel !== channel || outcome !== "accepted") continue;
      const since = Math.max(joinedAt, lostAt, this.#tookBackAt);
      if (startedAt < since || heard.has(data)) continue;
      this.#complain(
        `${channel}: a client of ${server.name} has missed ${data}`,
      );
    }
  }

  /** Everybody leaves, and Redis keeps nothing for good. */
  async #clear(): Promise<void> {
    for (const { key, ttlMs } of await this.#keysLeft()) {
      if (ttlMs === -1) this.#complain(`${key} never expires`);
    }
    for (const server of [...this.#servers]) await this.#close(server);
    const kinds = new Set(["meta", "w", "gone", "y", "x", "z", "l"]);
    for (const { key, fields } of await this.#keysLeft()) {
      const [kind = "", ...rest] = key.slice(key.indexOf("}") + 2).split(":");
      if (kinds.has(kind)) continue;
      if (kind === "n" && fields === '["","dead"]') continue;
      if (kind === "h" || kind === "s") {
        // The history is kept for clients that come back.
        if (!rest.join(":").includes("#")) continue;
      }
      this.#complain(`${key} is left over`);
    }
  }

  async #keysLeft(): Promise<KeyLeft[]> {
    const lists = await this.#ground.everywhere("EVAL", KEYS_LEFT, 0);
    return (lists as [string, number, string][][]).flat()
      .map(([key, ttlMs, fields]) => ({ key, ttlMs, fields }));
  }
}

/** A key that Redis still has, with the fields of holdings. */
interface KeyLeft {
  readonly key: string;
  readonly ttlMs: number;
  readonly fields: string;
}

const KEYS_LEFT = `
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local fields = ''
  if key:find('}:n:', 1, true) then
    fields = cjson.encode(redis.call('HGETALL', key))
  end
  found[#found + 1] = { key, redis.call('PTTL', key), fields }
end
return found
`;

/** What a session must be like. */
class SessionModel {
  owner: PlayServer | null = null;
  /** Who had it before. */
  former: PlayServer | null = null;
  /** What was kept last, and is known to be. */
  kept = 0;
  keptAt = -1;
  takenAt = -1;
  /** What was kept last, or may have been. */
  attempted = 0;
  #last: Promise<unknown> = Promise.resolve();

  /** Does something when what came before is done. */
  next(run: () => Promise<void>): Promise<void> {
    const done = this.#last.then(run);
    this.#last = done.catch(() => {});
    return done;
  }
}

function stateOf(n: number): SessionState {
  return { formerIds: [`${n}`], positions: new Map() };
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Asks until Redis answers: a busy machine may be late, also in the end. */
async function calmly<T>(ask: () => Awaitable<T>): Promise<T> {
  const end = performance.now() + DEADLINE_MS;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      const isAway = error instanceof RedisUnavailable;
      if (!isAway || performance.now() > end) throw error;
      await wait(50);
    }
  }
}

/** Resolves when a condition holds; what is looked at has no events. */
async function until(
  what: string,
  holds: () => Promise<boolean> | boolean,
): Promise<void> {
  const end = performance.now() + DEADLINE_MS;
  while (!await holds()) {
    if (performance.now() > end) throw new Error(`No ${what}`);
    await wait(20);
  }
}
