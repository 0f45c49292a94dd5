/**
 * A round: one server, two witnesses, and batches of steps. A batch is made first,
 * then done by all at once, then compared.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import type { Random } from "../../support/random.ts";
import type {
  Answer,
  ApiInit,
  Entry,
  TestServer,
} from "../../support/server.ts";
import {
  type App,
  channelAuth,
  type Frame,
  hmac,
  wireFrame,
} from "../../support/wire.ts";
import {
  AMBIGUOUS,
  type Expected,
  infoOf,
  isName,
  isUserId,
  judgePublish,
  keyOf,
  kindOf,
  type Model,
  parse,
  Peer,
  type Publication,
  type Verdict,
} from "./model.ts";
import {
  type Added,
  follow,
  isSame,
  type Joined,
  listed,
  type Span,
  type State,
  Story,
} from "./story.ts";
import { BESIEGED, type Chronicle, type Siege } from "./siege.ts";
import { RawWire, SocketWire } from "./wires.ts";
import {
  APPS,
  AUTH,
  BATCHES_PER_ROUND,
  BATCHES_PER_SIEGE,
  INFOS,
  INTERNAL,
  LIMITS,
  MAX_PEERS,
  MISS,
  ODD_CHANNELS,
  ODD_VALUES,
  otherThan,
  PING,
  POOL,
  SPICE,
  USER_CHANNEL,
  USERS,
  WATCHED,
  WATCHLIST,
} from "./world.ts";

/** What came of it. */
export interface FuzzReport {
  seed: number;
  rounds: number;
  steps: number;
  checks: number;
  /** A digest of all steps: the same for the same seed. */
  trace: string;
  /** What the server did wrong, as text to be printed. */
  finding?: string;
}

export class Round implements Chronicle {
  readonly #random: Random;
  readonly #server: TestServer;
  readonly #model: Model;
  readonly #report: FuzzReport;
  readonly #steps: string[];
  readonly #states = new Map<string, State>();
  /** What each sender of requests is to do in this batch. */
  #lanes: (() => Promise<unknown>)[][] = [];
  #peerCount = 0;
  #mark = 0;
  #opened: string[] = [];
  /** What happens meanwhile on an app of its own. */
  #siege: Siege | null = null;

  constructor(
    server: TestServer,
    model: Model,
    random: Random,
    report: FuzzReport,
    steps: string[],
  ) {
    this.#server = server;
    this.#model = model;
    this.#random = random;
    this.#report = report;
    this.#steps = steps;
  }

  async run(siege: Siege | null = null): Promise<void> {
    this.#siege = siege;
    await this.#batch(0);
    const batches = siege === null ? BATCHES_PER_ROUND : BATCHES_PER_SIEGE;
    for (let i = 0; i < batches; i++) {
      const isSingle = this.#random.chance(0.4);
      await this.#batch(isSingle ? 1 : 5 + this.#random.below(90));
    }
    await this.#end();
  }

  /** Everybody goes, and nothing is left. */
  async #end(): Promise<void> {
    this.#startBatch(false);
    for (const peer of this.#model.open) this.#closes(peer);
    await this.#act();
    await this.#compare();
    for (const app of APPS) {
      const { body } = await this.#api(app, "GET", "/channels");
      this.equal(body, { channels: {} }, "channels in the end");
    }
    await this.#siege?.end();
    await this.#server.journal.settled();
    await this.#siege?.settle();
  }

  async #batch(size: number): Promise<void> {
    this.#startBatch(size === 1);
    if (size === 0) await this.#openWitnesses();
    if (size > 1) {
      while (
        this.#model.open.length < 4 ||
        (this.#model.open.length < MAX_PEERS && this.#random.chance(0.6))
      ) await this.#open();
    }
    for (let i = 0; i < size; i++) this.#step();
    await this.#act();
    await this.#compare();
  }

  #startBatch(isSingle: boolean): void {
    const { peers } = this.#model;
    const open = this.#model.open;
    peers.splice(0, peers.length, ...open);
    for (const peer of peers) peer.startBatch();
    this.#model.startBatch(isSingle);
    this.#lanes = [[], [], []];
    this.#opened = [];
    // Nobody else takes them, and they would pile up.
    const { journal } = this.#server;
    this.#mark = 0;
    journal.entries.splice(0);
    for (const hook of [...STORY_HOOKS, ...OTHER_HOOKS]) journal.drain(hook);
  }

  note(what: string): void {
    this.#report.steps++;
    // What differs from run to run are socket ids, times and signatures.
    const same = what.replaceAll(/[0-9a-fA-F]{64}|\d{6,}(\.\d+)?/g, "*");
    this.#report.trace = createHash("md5")
      .update(this.#report.trace + same).digest("hex");
    this.#steps.push(`${this.#report.steps} ${what.slice(0, 400)}`);
    if (this.#steps.length > 400) this.#steps.shift();
  }

  equal(actual: unknown, expected: unknown, what: string): void {
    this.#report.checks++;
    assertEquals(actual, expected, `Differs: ${what}`);
  }

  sure(condition: boolean, what: () => string): asserts condition {
    this.#report.checks++;
    if (!condition) throw new Error(what());
  }

  async #open(app = this.#random.of([APPS[0], ...APPS]), isWitness = false) {
    const name = `c${this.#peerCount++}`;
    const isRaw = !isWitness && this.#random.chance(0.5);
    this.note(`${name} connects to ${app.id}${isRaw ? ", by hand" : ""}`);
    const wire = isRaw
      ? await RawWire.open(this.#server, app)
      : new SocketWire(await this.#server.connect({ app }));
    const peer = new Peer(name, app, wire, isWitness);
    this.#model.peers.push(peer);
    this.#opened.push(wire.socketId);
    return peer;
  }

  async #openWitnesses(): Promise<void> {
    for (const id of ["w1", "w2"]) {
      const peer = await this.#open(APPS[0], true);
      const user = JSON.stringify({ id, watchlist: ["u1", "u2", "w2"] });
      this.#signs(peer, user);
      for (const channel of WATCHED) {
        const data = kindOf(channel).presence
          ? JSON.stringify({ user_id: id, user_info: { witness: true } })
          : undefined;
        this.#subscribes(peer, channel, data);
      }
    }
  }

  #signs(peer: Peer, userData: string): void {
    const { app, wire: { socketId } } = peer;
    const signature = hmac(app.secret, `${socketId}::user::${userData}`);
    const data = { auth: `${app.key}:${signature}`, user_data: userData };
    this.#sends(peer, JSON.stringify({ event: "pusher:signin", data }));
  }

  #subscribes(peer: Peer, channel: string, channelData?: string): void {
    const { app, wire: { socketId } } = peer;
    const auth = channelAuth(app, socketId, channel, channelData);
    const data = {
      channel,
      auth,
      ...(channelData !== undefined && { channel_data: channelData }),
    };
    this.#sends(peer, JSON.stringify({ event: "pusher:subscribe", data }));
  }

  /** Has a text sent, unless the order of connections decides what comes of it. */
  #sends(peer: Peer, text: string): void {
    // Sockets cannot send lone surrogates, and would replace them like this.
    const sent = text.toWellFormed();
    try {
      this.#model.receives(peer, sent);
    } catch (error) {
      if (error !== AMBIGUOUS) throw error;
      return this.note(`${peer.name} does nothing`);
    }
    this.note(`${peer.name} ${sent}`);
    peer.script.push(() => peer.wire.send(sent));
  }

  #closes(peer: Peer): void {
    this.note(`${peer.name} closes`);
    this.#model.ends(peer, { by: "client" });
    peer.script.push(() => peer.wire.close());
  }

  #step(): void {
    const random = this.#random;
    const peers = this.#model.open.filter(({ isWitness }) => !isWitness);
    const peer = peers.length > 0 ? random.of(peers) : undefined;
    if (peer === undefined || random.chance(0.22)) return this.#request();
    const { wire } = peer;
    if (wire instanceof RawWire && random.chance(0.2)) {
      const fragments = 2 + random.below(3);
      this.note(`${peer.name} sends the next in ${fragments} fragments`);
      peer.script.push(() => void (wire.fragments = fragments));
    }
    random.weighted<(peer: Peer) => void>([
      [30, (peer) => this.#stepSubscribe(peer)],
      [14, (peer) => this.#stepUnsubscribe(peer)],
      [7, (peer) => this.#stepSignIn(peer)],
      [24, (peer) => this.#stepClientEvent(peer)],
      [6, (peer) => this.#sends(peer, PING)],
      [3, (peer) => this.#stepWait(peer)],
      [5, (peer) => this.#stepOdd(peer)],
      [2.5, (peer) => this.#stepEnd(peer)],
    ])(peer);
  }

  #channel(): string {
    return this.#random.chance(0.06)
      ? this.#random.of(ODD_CHANNELS)
      : this.#random.of(POOL);
  }

  /** A frame, with its signature put in last, and sometimes damaged. */
  #frame(peer: Peer, frame: unknown, auth = ""): void {
    const text = JSON.stringify(frame);
    const damaged = this.#random.chance(0.07)
      ? this.#random.damage(text, SPICE)
      : text;
    this.#sends(peer, damaged.replaceAll(AUTH, auth));
  }

  /** The signature of a text, or one of the wrong ones. */
  #auth({ app }: Peer, text: string): { auth: string; token: unknown } {
    const { key, secret } = app;
    const right = `${key}:${hmac(secret, text)}`;
    if (!this.#random.chance(0.12)) return { auth: right, token: AUTH };
    const other = otherThan(app);
    return {
      auth: this.#random.of([
        `${key}:${hmac(other.secret, text)}`,
        `${other.key}:${hmac(secret, text)}`,
        `${key}:${hmac(secret, text).toUpperCase()}`,
        `${key}:${hmac(secret, `1${text}`)}`,
        hmac(secret, text),
        `${right} `,
        `${right}:`,
        "",
      ]),
      token: this.#random.weighted([
        [9, AUTH],
        [1, undefined],
        [1, this.#random.of(ODD_VALUES)],
      ]),
    };
  }

  #stepSubscribe(peer: Peer): void {
    const random = this.#random;
    const channel = this.#channel();
    const withData = random.chance(kindOf(channel).presence ? 0.9 : 0.1);
    const user = random.of(USERS);
    const member: Record<string, unknown> = {
      user_id: user === "10" && random.chance(0.5) ? 10 : user,
      user_info: random.of(INFOS),
    };
    if (random.chance(0.08)) {
      member[random.of(["user_id", "user_info"])] = random.of(ODD_VALUES);
    }
    const channelData = random.chance(0.03)
      ? random.damage(JSON.stringify(member), SPICE)
      : JSON.stringify(member);
    const { auth, token } = this.#auth(
      peer,
      [
        peer.wire.socketId,
        channel,
        ...(withData ? [channelData] : []),
      ].join(":"),
    );
    const data = {
      auth: token,
      channel,
      ...(withData && { channel_data: channelData }),
    };
    this.#frame(peer, {
      event: "pusher:subscribe",
      data: random.chance(0.2) ? JSON.stringify(data) : data,
    }, auth);
  }

  #stepUnsubscribe(peer: Peer): void {
    const random = this.#random;
    const own = [...peer.channels.keys()];
    const channel = own.length > 0 && random.chance(0.85)
      ? random.of(own)
      : this.#channel();
    const data = { channel };
    this.#frame(peer, {
      event: "pusher:unsubscribe",
      data: random.chance(0.2) ? JSON.stringify(data) : data,
    });
    if (random.chance(0.5)) this.#sends(peer, PING);
  }

  #stepSignIn(peer: Peer): void {
    const random = this.#random;
    const user: Record<string, unknown> = {
      id: peer.user !== null && random.chance(0.7)
        ? peer.user.id
        : random.of(USERS),
      user_info: random.of([undefined, { n: 3 }]),
      watchlist: random.of<unknown>([
        undefined,
        [],
        ["u1", "u2"],
        ["u1", "u1", 7, "w1"],
        ["u1", "u2", "u3", "w2", "10"],
      ]),
    };
    if (random.chance(0.1)) {
      user[random.of(["id", "user_info", "watchlist"])] = random.of(ODD_VALUES);
    }
    const text = random.chance(0.04)
      ? random.damage(JSON.stringify(user), SPICE)
      : JSON.stringify(user);
    const { auth, token } = this.#auth(
      peer,
      `${peer.wire.socketId}::user::${text}`,
    );
    this.#frame(peer, {
      event: "pusher:signin",
      data: { auth: token, user_data: text },
    }, auth);
  }

  #stepClientEvent(peer: Peer): void {
    const random = this.#random;
    const own = [...peer.channels.keys()];
    const channel = own.length > 0 && random.chance(0.8)
      ? random.of(own)
      : this.#channel();
    const event = random.chance(0.05)
      ? random.of(["client-", "xclient-a", "client-" + "n".repeat(40)])
      : `client-${this.#report.steps}`;
    this.#frame(peer, {
      event,
      channel: random.chance(0.02) ? random.of(ODD_VALUES) : channel,
      data: this.#data(),
      ...(random.chance(0.1) && { user_id: "forged" }),
    });
  }

  #data(): unknown {
    return this.#random.weighted<unknown>([
      [10, `text ${this.#report.steps}`],
      [10, { step: this.#report.steps }],
      [1, undefined],
      [1, "x".repeat(300)],
      [1, "x".repeat(301)],
      [1, "ü".repeat(150)],
      [1, "ü".repeat(151)],
      [2, this.#random.of(ODD_VALUES)],
    ]);
  }

  #stepOdd(peer: Peer): void {
    const random = this.#random;
    this.#sends(
      peer,
      random.of([
        "",
        "null",
        "[]",
        '"pusher:ping"',
        '{"event":7}',
        '{"event":"pusher:pong"}',
        '{"event":"pusher:ping"}',
        '{"event":"pusher:subscribe"}',
        '{"event":"pusher:unsubscribe","data":{"channel":7}}',
        '{"event":"pusher:subscription_succeeded","channel":"news"}',
        '{"event":"pusher_internal:member_added","channel":"presence-x"}',
        '{"event":"news","channel":"news","data":"{}"}',
        JSON.stringify({ event: "pusher:ping", data: "x".repeat(4_000) }),
        JSON.stringify({ event: "pusher:ping", data: "x".repeat(3_900) }),
      ]),
    );
  }

  /** Waits for what was asked so far, which lets the others go ahead. */
  #stepWait(peer: Peer): void {
    this.#sends(peer, PING);
    const { pings } = peer;
    peer.script.push(() => peer.readTo(pings));
  }

  #stepEnd(peer: Peer): void {
    const { wire } = peer;
    const random = this.#random;
    if (random.chance(0.2)) {
      this.note(`${peer.name} sends bytes`);
      const isCut = random.chance(0.5);
      this.#model.ends(peer, { by: "server", code: 1003, isCut });
      peer.script.push(() => wire.sendBinary());
      if (!isCut) return;
      // Whatever follows is not served.
      for (const channel of ["news", "side"]) this.#subscribes(peer, channel);
      return;
    }
    if (!(wire instanceof RawWire) || random.chance(0.3)) {
      return this.#closes(peer);
    }
    const frame = wireFrame('{"event":"pusher:ping"}');
    const [what, bytes] = random.of<[string, Uint8Array]>([
      ["breaks off", new Uint8Array()],
      ["breaks off in a frame", frame.subarray(0, 1 + random.below(20))],
      ["breaks off in a message", wireFrame("{", { first: 0x01 })],
      ["sends a frame of no kind", wireFrame("{}", { first: 0x83 })],
      ["sends reserved bits", wireFrame("{}", { first: 0xf1 })],
      ["sends no UTF-8", wireFrame(new Uint8Array([0xc3, 0x28]))],
    ]);
    this.note(`${peer.name} ${what}`);
    this.#model.ends(peer, { by: "network" });
    peer.script.push(() => wire.breakOff(bytes));
  }

  #request(): void {
    const random = this.#random;
    const lane = random.below(this.#lanes.length);
    const app = random.of([APPS[0], ...APPS]);
    random.weighted<(lane: number, app: App) => void>([
      [20, (lane, app) => this.#requestEvents(lane, app)],
      [8, (lane, app) => this.#requestBatch(lane, app)],
      [6, (lane, app) => this.#requestTrigger(lane, app)],
      [8, (lane, app) => this.#requestChannel(lane, app)],
      [6, (lane, app) => this.#requestChannels(lane, app)],
      [
        this.#model.isSingle ? 8 : 0,
        (lane, app) => this.#requestTerminate(lane, app),
      ],
      [5, (lane, app) => this.#requestUnsigned(lane, app)],
      [3, (lane, app) => this.#requestNowhere(lane, app)],
      [2, (lane, app) => this.#requestRefusedSocket(lane, app)],
      [2, (lane, app) => this.#requestBroken(lane, app)],
    ])(lane, app);
  }

  /** Has a lane ask for something and look at the answer. */
  #asks(
    lane: number,
    app: App,
    method: string,
    path: string,
    init: ApiInit,
    look: (answer: Answer, told: string) => void,
  ): void {
    const body = typeof init.body === "string" ? init.body : "";
    const query = JSON.stringify(init.query ?? {});
    this.note(`http${lane} ${app.id} ${method} ${path} ${query} ${body}`);
    const what = `${method} ${path} ${query} ${body}`.slice(0, 500);
    this.#lanes[lane]!.push(async () => {
      const answer = await this.#api(app, method, path, init);
      look(answer, `${what}: ${answer.status} ${answer.text.slice(0, 300)}`);
    });
  }

  async #api(app: App, method: string, path: string, init: ApiInit = {}) {
    this.#report.checks++;
    return await this.#server.api(method, path, { app, ...init });
  }

  #refusedWith(statuses: number[]) {
    return ({ status }: Answer, told: string) =>
      this.sure(
        statuses.includes(status),
        () => `Not ${statuses.join(" or ")}: ${told}`,
      );
  }

  #event(): Record<string, unknown> {
    const random = this.#random;
    const open = this.#model.open;
    const except = open.length > 0 && random.chance(0.4)
      ? `@@${random.of(open).name}@@`
      : undefined;
    const event: Record<string, unknown> = {
      name: random.chance(0.05)
        ? random.of([
          "",
          "pusher:x",
          "pusher_internal:x",
          "n".repeat(41),
          "a.b\\C",
        ])
        : `e${this.#report.steps}`,
      data: this.#data() ?? "",
      socket_id: except ?? random.of([undefined, undefined, "1.1"]),
      info: random.weighted([
        [6, undefined],
        [1, "subscription_count"],
        [1, "user_count,subscription_count"],
        [0.3, "cache"],
      ]),
    };
    if (random.chance(0.08)) {
      event[random.of(["name", "data", "socket_id", "info"])] = random.of(
        ODD_VALUES,
      );
    }
    return event;
  }

  #target(): string {
    return this.#random.chance(0.15)
      ? USER_CHANNEL + this.#random.of([...USERS, "w1", "w2"])
      : this.#channel();
  }

  /** Body of a request, signed as it is: sometimes damaged before. */
  #body(body: unknown): string {
    const text = JSON.stringify(body);
    const damaged = this.#random.chance(0.06)
      ? this.#random.damage(text, SPICE).toWellFormed()
      : text;
    return damaged.replaceAll(
      /@@(c\d+)@@/g,
      (token, name) =>
        this.#model.peers.find((peer) => peer.name === name)?.wire.socketId ??
          token,
    );
  }

  #publishes(
    lane: string,
    app: App,
    { channels, publication, statuses }: Verdict,
  ): void {
    if (statuses[0] !== 200) return;
    for (const channel of channels) {
      this.#model.outbox.add(keyOf(app, channel), lane, publication);
    }
  }

  /** The counts that an answer has to have: how many is known only alone. */
  #checkCounts(app: App, channel: string, info: string[], told: string) {
    const wanted = this.#counts(app, channel, info);
    const { isSingle } = this.#model;
    return (counts: Record<string, unknown>) => {
      this.equal(
        Object.keys(counts).sort(),
        Object.keys(wanted).sort(),
        `counts of ${channel} in ${told}`,
      );
      if (isSingle) {
        this.equal(counts, wanted, `counts of ${channel}: ${told}`);
      }
    };
  }

  #counts(app: App, channel: string, info: string[]): Record<string, number> {
    if (channel.startsWith("#")) return {};
    const subscribers = this.#model.subscribers(app, channel).length;
    return {
      ...(info.includes("subscription_count") &&
        { subscription_count: subscribers }),
      ...(info.includes("user_count") && kindOf(channel).presence &&
        { user_count: this.#model.members(app, channel).size }),
    };
  }

  #requestEvents(lane: number, app: App): void {
    const random = this.#random;
    const event = this.#event();
    if (random.chance(0.4)) event.channel = this.#target();
    else {
      event.channels = Array.from(
        { length: random.weighted([[20, 1], [10, 2], [5, 4], [1, 5], [1, 6]]) },
        () => this.#target(),
      );
    }
    if (random.chance(0.04)) {
      event[random.of(["channel", "channels"])] = random.of(ODD_VALUES);
    }
    const body = this.#body(event);
    const value = parse(body);
    const verdict = judgePublish(
      value,
      ({ channels, channel }) =>
        channels ?? (channel === undefined ? undefined : [channel]),
    );
    this.#publishes(`http${lane}`, app, verdict);
    const checks = verdict.channels.map((channel) =>
      [
        channel,
        this.#checkCounts(app, channel, verdict.info, body),
      ] as const
    );
    this.#asks(lane, app, "POST", "/events", { body }, (answer, told) => {
      this.#refusedWith(verdict.statuses)(answer, told);
      if (answer.status !== 200) return;
      if (verdict.info.length === 0) return this.equal(answer.body, {}, told);
      const { channels } = answer.body;
      this.equal(
        Object.keys(channels).sort(),
        [...verdict.channels].sort(),
        told,
      );
      for (const [channel, check] of checks) check(channels[channel]);
    });
  }

  #requestBatch(lane: number, app: App): void {
    const random = this.#random;
    const length = random.weighted([[6, 1], [6, 2], [6, 4], [1, 5], [0.5, 0]]);
    const batch: unknown[] = Array.from(
      { length },
      (_, i) => {
        const { data, ...event } = this.#event();
        const channel = random.chance(0.1)
          ? random.of(ODD_VALUES)
          : this.#target();
        // Equal events would hide that two have changed places.
        return { ...event, data: data === "" ? "" : [data, i], channel };
      },
    );
    if (random.chance(0.04)) batch.push(random.of(ODD_VALUES));
    const body = this.#body({ batch });
    const list = parse(body)?.batch;
    const verdicts = !Array.isArray(list)
      ? []
      : list.map((item) =>
        judgePublish(
          item,
          ({ channel }) => channel === undefined ? undefined : [channel],
        )
      );
    const isSized = verdicts.length > 0 &&
      verdicts.length <= LIMITS.eventsPerBatch;
    const faults = [
      ...(isSized ? [] : [400]),
      ...verdicts.flatMap(({ statuses }) => statuses).filter((s) => s !== 200),
    ];
    if (faults.length === 0) {
      for (const verdict of verdicts) {
        this.#publishes(`http${lane}`, app, verdict);
      }
    }
    const checks = verdicts.map(({ channels, info }) =>
      this.#checkCounts(app, channels[0] ?? "", info, body)
    );
    const statuses = faults.length > 0 ? faults : [200];
    this.#asks(lane, app, "POST", "/batch_events", { body }, (answer, told) => {
      this.#refusedWith(statuses)(answer, told);
      if (answer.status !== 200) return;
      if (verdicts.every(({ info }) => info.length === 0)) {
        return this.equal(answer.body, {}, told);
      }
      this.equal(answer.body.batch.length, verdicts.length, told);
      checks.forEach((check, i) => check(answer.body.batch[i]));
    });
  }

  /** The same from within the program. */
  #requestTrigger(lane: number, app: App): void {
    const random = this.#random;
    const pusher = this.#server.pusher.app(app.id);
    const plain = POOL.filter((name) => !name.includes("encrypted"));
    const name = `t${this.#report.steps}`;
    const data = { step: this.#report.steps };
    const text = JSON.stringify(data);
    const id = `http${lane}`;
    if (random.chance(0.3)) {
      const user = random.of([...USERS, "w1"]);
      this.note(`${id} ${app.id} sends ${name} to user ${user}`);
      this.#model.outbox.add(keyOf(app, USER_CHANNEL + user), id, {
        event: name,
        data: text,
      });
      this.#lanes[lane]!.push(() => pusher.sendToUser(user, name, data));
      return;
    }
    const channel = random.of(plain);
    const open = this.#model.open;
    const except = open.length > 0 && random.chance(0.5)
      ? random.of(open).wire.socketId
      : undefined;
    this.note(`${id} ${app.id} triggers ${name} on ${channel}`);
    const publication = { event: name, data: text, except };
    this.#model.outbox.add(keyOf(app, channel), id, publication);
    this.#lanes[lane]!.push(() =>
      pusher.trigger(channel, name, data, { socket_id: except })
    );
  }

  #requestChannel(lane: number, app: App): void {
    const random = this.#random;
    const name = this.#channel();
    const path = `/channels/${encodeURIComponent(name)}`;
    const isLegal = isName(name) && name.length <= LIMITS.channelNameLength;
    const kind = kindOf(name);
    if (name === "") return this.#requestNowhere(lane, app);
    if (random.chance(0.3)) {
      const isRight = isLegal && kind.presence;
      const wanted = [...this.#model.members(app, name)].sort();
      const { isSingle } = this.#model;
      return this.#asks(
        lane,
        app,
        "GET",
        `${path}/users`,
        {},
        (answer, told) => {
          this.#refusedWith([isRight ? 200 : 400])(answer, told);
          if (!isRight) return;
          const ids = answer.body.users.map(({ id }: { id: unknown }) => id);
          this.sure(
            ids.every((id: unknown) => typeof id === "string") &&
              new Set(ids).size === ids.length,
            () => `Not distinct strings: ${told}`,
          );
          if (isSingle) this.equal(ids.sort(), wanted, told);
        },
      );
    }
    const info = random.of([
      null,
      "",
      "subscription_count",
      "user_count",
      "cache",
      "cache,subscription_count",
      "user_count,cache",
      "x",
      "subscription_count,",
    ]);
    const asked = infoOf(info, ["subscription_count", "user_count", "cache"]);
    const isRight = isLegal && asked !== null &&
      (kind.presence || !asked.includes("user_count")) &&
      (kind.cache || !asked.includes("cache"));
    const check = this.#checkCounts(app, name, asked ?? [], path);
    this.#asks(lane, app, "GET", path, { query: { info } }, (answer, told) => {
      this.#refusedWith([isRight ? 200 : 400])(answer, told);
      if (!isRight) return;
      const { occupied, cache, ...counts } = answer.body;
      this.sure(typeof occupied === "boolean", () => told);
      this.equal(cache !== undefined, asked?.includes("cache"), told);
      check(counts);
    });
  }

  #requestChannels(lane: number, app: App): void {
    const random = this.#random;
    const prefix = random.of([null, "", "presence-", "pr", "presence-x", "#"]);
    const info = random.of([
      null,
      "subscription_count",
      "user_count",
      "user_count,subscription_count",
      "cache",
    ]);
    const asked = infoOf(info, ["subscription_count", "user_count"]);
    const isRight = asked !== null &&
      (!asked.includes("user_count") || prefix?.startsWith("presence-"));
    const wanted = Object.fromEntries(
      [...this.#model.occupied(app).keys()]
        .filter((name) => name.startsWith(prefix ?? ""))
        .map((name) => [name, this.#counts(app, name, asked ?? [])]),
    );
    const { isSingle } = this.#model;
    const query = { info, filter_by_prefix: prefix };
    this.#asks(lane, app, "GET", "/channels", { query }, (answer, told) => {
      this.#refusedWith([isRight ? 200 : 400])(answer, told);
      if (!isRight) return;
      if (isSingle) return this.equal(answer.body, { channels: wanted }, told);
      for (const name of Object.keys(answer.body.channels)) {
        this.sure(name.startsWith(prefix ?? "") && isName(name), () => told);
      }
    });
  }

  #requestTerminate(lane: number, app: App): void {
    const random = this.#random;
    const online = this.#model.open.filter((peer) =>
      peer.app === app && peer.user !== null && !peer.isWitness
    );
    const id = online.length > 0 && random.chance(0.7)
      ? random.of(online).user!.id // It was filtered by having one.
      : random.of([...USERS, "nobody", "n".repeat(20), "n".repeat(21)]);
    const path = `/users/${encodeURIComponent(id)}/terminate_connections`;
    for (const peer of online.filter(({ user }) => user!.id === id)) {
      peer.expected.push({ is: "error", code: 4009 });
      this.#model.ends(peer, { by: "server", code: 4009, isCut: false });
    }
    this.#asks(lane, app, "POST", path, { body: "{}" }, (answer, told) => {
      this.#refusedWith([isUserId(id) ? 200 : 400])(answer, told);
      if (isUserId(id)) this.equal(answer.body, {}, told);
    });
  }

  /** What is not signed as it should be does nothing. */
  #requestUnsigned(lane: number, app: App): void {
    const random = this.#random;
    const body = JSON.stringify({
      name: "unsigned",
      channel: "news",
      data: "",
    });
    const other = otherThan(app);
    const now = Math.floor(Date.now() / 1000);
    const init = random.of<ApiInit>([
      { tamper: { auth_signature: null } },
      { tamper: { auth_signature: "0".repeat(64) } },
      { tamper: { auth_key: other.key } },
      { tamper: { body_md5: null } },
      { tamper: { extra: "1" } },
      { tamper: { auth_version: "2.0" } },
      { tamperedBody: body.replace("news", "side") },
      { query: { auth_timestamp: String(now - 700) } },
      { query: { auth_timestamp: String(now + 700) } },
      { query: { auth_timestamp: "now" } },
      { query: { auth_version: "1.1" } },
      { query: { auth_key: other.key } },
      { query: { body_md5: null } },
      { signedPath: `/apps/${app.id}/batch_events` },
      { app: { ...app, secret: other.secret } },
    ]);
    const path = random.of(["/events", "/batch_events"]);
    if (init.signedPath?.endsWith(path)) delete init.signedPath;
    else {
      this.#asks(
        lane,
        app,
        "POST",
        path,
        { body, ...init },
        this.#refusedWith([401]),
      );
    }
  }

  #requestNowhere(lane: number, app: App): void {
    const [method, path, id, status] = this.#random.of<
      [string, string, string, number]
    >([
      ["GET", "/nowhere", app.id, 404],
      ["GET", "/channels/news/stats", app.id, 404],
      ["POST", "/channels/news/events", app.id, 404],
      ["POST", "/events", "three", 404],
      ["GET", "/channels", "__proto__", 404],
      ["GET", "/events", app.id, 405],
      ["POST", "/channels", app.id, 405],
      ["PUT", "/batch_events", app.id, 405],
      ["DELETE", "/channels/news", app.id, 405],
    ]);
    const init: ApiInit = {
      app: { ...app, id },
      ...(method !== "GET" && { body: "{}" }),
    };
    this.#asks(lane, app, method, path, init, this.#refusedWith([status]));
  }

  #requestRefusedSocket(lane: number, app: App): void {
    const [query, key, code] = this.#random.of<[string, string, number]>([
      ["?protocol=7", "no-key", 4001],
      ["?protocol=3", app.key, 4007],
      ["?protocol=8", app.key, 4007],
      ["?protocol=abc", app.key, 4006],
    ]);
    this.note(`http${lane} connects to ${key} with ${query}`);
    this.#lanes[lane]!.push(async () => {
      const closing = await this.#server.turnsAway({
        query,
        app: { ...app, key },
      });
      this.equal(closing.code, code, `close code for ${key}${query}`);
    });
  }

  /** A request that breaks off publishes nothing. */
  #requestBroken(lane: number, app: App): void {
    const random = this.#random;
    const body = JSON.stringify({ name: "broken", channel: "news", data: "" });
    const text =
      `POST /apps/${app.id}/events?auth_key=${app.key} HTTP/1.1\r\n` +
      `Host: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const sent = random.chance(0.5)
      ? text.slice(0, random.below(text.length))
      : random.damage(text, SPICE).toWellFormed();
    this.note(`http${lane} breaks off: ${sent}`);
    this.#lanes[lane]!.push(async () => {
      using raw = await this.#server.raw();
      await raw.write(sent);
    });
  }

  /** Everybody does what is in the scripts, all at once. */
  async #act(): Promise<void> {
    const { peers } = this.#model;
    await Promise.all([
      ...peers.map(async (peer) => {
        for (const act of peer.script) await act();
        if (peer.isOpen) await this.#fence(peer);
      }),
      ...this.#lanes.map(async (lane) => {
        for (const act of lane) await act();
      }),
      this.#siege?.act(),
    ]);
    for (const peer of peers) {
      // It is read to its end; whoever has hung up reads no more.
      if (peer.end?.by === "server") await peer.readTo(Infinity);
    }
    const gone = new Set(
      peers.filter(({ isOpen }) => !isOpen).map(({ wire }) => wire.socketId),
    );
    while (gone.size > 0) {
      const { socketId = "", app } = await this.#server.journal.next(
        "disconnected",
      );
      if (app === BESIEGED.id) continue;
      this.sure(
        gone.delete(socketId),
        () => `Connection ${socketId} is gone, of ${[...gone]}`,
      );
    }
    // Everything has happened; now everybody has been told.
    await Promise.all(this.#model.open.map((peer) => this.#fence(peer)));
  }

  async #fence(peer: Peer): Promise<void> {
    this.#model.receives(peer, PING);
    peer.wire.send(PING);
    await peer.readTo(peer.pings);
    this.sure(!peer.hasEnded, () => `Connection of ${peer.name} has ended`);
  }

  async #compare(): Promise<void> {
    const others: ReadonlySet<string> = new Set(OTHER_HOOKS);
    const entries = this.#server.journal.entries.slice(this.#mark)
      .filter(({ hook, app }) =>
        !others.has(hook) && (hook === "error" || app !== BESIEGED.id)
      );
    const stories = this.#readHooks(entries);
    this.#compareOutbox(stories);
    // Those who were there all the time know best what everybody was told.
    const peers = [...this.#model.peers].sort((a, b) =>
      Number(b.isWitness) - Number(a.isWitness)
    );
    for (const peer of peers) await this.#comparePeer(peer, stories);
    for (const [key, story] of stories) {
      this.#states.set(key, story.state);
      const all = peers.every(({ isWhole }) => isWhole);
      this.sure(
        all ? story.misses === story.missesSeen : story.misses >=
          story.missesSeen,
        () =>
          `cache_miss hooks of ${key}: ${story.misses}, frames: ${story.missesSeen}`,
      );
    }
    for (const app of APPS) await this.#compareApi(app);
  }

  #story(stories: Map<string, Story>, key: string): Story {
    const found = stories.get(key);
    if (found) return found;
    const state = this.#states.get(key) ?? { members: new Map(), last: null };
    const story = new Story(state);
    stories.set(key, story);
    return story;
  }

  /** Reads what happened on each channel, and whether it can have. */
  #readHooks(entries: Entry[]): Map<string, Story> {
    const model = this.#model;
    const stories = new Map<string, Story>();
    const counts = new Map<string, number>();
    const appOf = (id = "") => APPS.find((app) => app.id === id)!;
    const before = (key: string) => {
      const known = counts.get(key);
      if (known !== undefined) return known;
      return model.peers.filter((peer) =>
        [...peer.before.keys()].some((name) => keyOf(peer.app, name) === key)
      ).length;
    };
    const opened: string[] = [];
    const closed = new Map<string, number>();
    const countHooks = new Map<string, number>();
    const moves = new Map<string, number>();
    for (const entry of entries) {
      const { hook, app, channel = "", userId = "" } = entry;
      const key = `${app} ${channel}`;
      const told = `hook ${JSON.stringify(entry)}`;
      if (hook === "error") {
        throw new Error(`The error hook was called: ${entry.during}`, {
          cause: entry.error,
        });
      } else if (hook === "connected") opened.push(entry.socketId ?? "");
      else if (hook === "disconnected") {
        closed.set(entry.socketId ?? "", entry.code);
      } else {
        this.sure(isName(channel) && appOf(app) !== undefined, () => told);
        const story = this.#story(stories, key);
        const { members } = story.state;
        if (hook === "channel_occupied") story.occupied++;
        else if (hook === "channel_vacated") {
          story.vacated++;
          this.equal(members.size, 0, `members at ${told}`);
        } else if (hook === "cache_miss") {
          story.misses++;
          this.equal(story.state.last, null, `last event at ${told}`);
        } else if (hook === "member_added") {
          const infos = model.joins.get(`${key} ${userId}`)?.infos ?? new Set();
          const info = infos.size === 1 ? [...infos][0] : undefined;
          const added: Added = { is: "added", userId, info, infos };
          this.sure(!members.has(userId), () => `Added twice: ${told}`);
          const changed = new Map(members).set(userId, added);
          this.sure(changed.size <= LIMITS.presenceMembers, () => told);
          story.add(added, { members: changed });
        } else if (hook === "member_removed") {
          const changed = new Map(members);
          this.sure(changed.delete(userId), () => `Removed twice: ${told}`);
          story.add({ is: "removed", userId }, { members: changed });
        } else if (hook === "subscription_count") {
          const count = entry.subscriptionCount;
          this.sure(model.counts && !kindOf(channel).presence, () => told);
          this.equal(
            Math.abs(count - before(key)),
            1,
            `change of the count at ${told}, which was ${before(key)}`,
          );
          counts.set(key, count);
          countHooks.set(key, (countHooks.get(key) ?? 0) + 1);
          story.add({ is: "count", count });
        } else {
          const publication: Publication = {
            event: entry.event,
            data: entry.data,
            userId: entry.userId,
            except: entry.socketId,
          };
          const isKept = hook === "published" && kindOf(channel).cache;
          story.add(
            { is: "event", publication },
            isKept ? { last: publication } : {},
          );
        }
        if (hook === "member_added" || hook === "member_removed") {
          const move = `${hook} ${key} ${userId}`;
          moves.set(move, (moves.get(move) ?? 0) + 1);
        }
      }
    }
    this.equal(opened.sort(), this.#opened.sort(), "connected hooks");
    const ended = model.peers.filter(({ isOpen }) => !isOpen);
    this.equal(
      [...closed.keys()].sort(),
      ended.map(({ wire }) => wire.socketId).sort(),
      "disconnected hooks",
    );
    for (const { end, wire: { socketId }, name } of ended) {
      if (end?.by !== "server") continue;
      this.equal(closed.get(socketId), end.code, `code of hook for ${name}`);
    }
    this.#compareStories(stories, countHooks, moves);
    return stories;
  }

  /** Where the stories end is where the model is, and without detours. */
  #compareStories(
    stories: Map<string, Story>,
    countHooks: Map<string, number>,
    moves: Map<string, number>,
  ): void {
    const model = this.#model;
    const isCertain = model.peers.every(({ end }) => end?.by !== "network");
    for (const app of APPS) {
      for (const channel of this.#names(app, stories)) {
        const key = keyOf(app, channel);
        const story = this.#story(stories, key);
        this.equal(
          [...story.state.members.keys()].sort(),
          [...model.members(app, channel)].sort(),
          `members of ${key} by the hooks`,
        );
        const was = model.peers.some((peer) =>
          peer.app === app && peer.before.has(channel)
        );
        const is = model.subscribers(app, channel).length > 0;
        const changes = model.changes.get(key) ?? 0;
        this.equal(
          Number(was) + story.occupied - story.vacated,
          Number(is),
          `occupied and vacated hooks of ${key}`,
        );
        this.sure(
          story.occupied + story.vacated <= changes,
          () => `More hooks than changes of ${key}`,
        );
        if (model.counts && isCertain && !kindOf(channel).presence) {
          this.equal(
            countHooks.get(key) ?? 0,
            changes,
            `subscription_count hooks of ${key}`,
          );
        }
      }
    }
    for (const [move, count] of moves) {
      const [hook, ...which] = move.split(" ");
      const joins = model.joins.get(which.join(" "))?.count ?? 0;
      // Whoever leaves was there or has joined.
      const allowed = hook === "member_added" ? joins : joins + 1;
      this.sure(count <= allowed, () => `${count} times ${move}`);
    }
  }

  #names(app: App, stories: Map<string, Story>): Set<string> {
    const names = new Set(this.#model.occupied(app).keys());
    for (const peer of this.#model.peers) {
      if (peer.app !== app) continue;
      for (const name of peer.before.keys()) names.add(name);
    }
    const prefix = `${app.id} `;
    for (const key of stories.keys()) {
      if (key.startsWith(prefix)) names.add(key.slice(prefix.length));
    }
    return names;
  }

  /** Nothing was published that nobody sent, all that was sent, in order. */
  #compareOutbox(stories: Map<string, Story>): void {
    const { outbox, peers } = this.#model;
    for (const key of outbox.keys) {
      if (!key.includes(" #")) this.#story(stories, key);
    }
    for (const [key, story] of stories) {
      const lanes = outbox.to(key);
      for (const told of story.told) {
        if (told.is !== "event") continue;
        const lane = [...lanes.values()].find(([first]) =>
          first !== undefined && isEqual(first, told.publication)
        );
        this.sure(
          lane !== undefined,
          () =>
            `Published out of order or by nobody on ${key}: ${
              JSON.stringify(told.publication)
            }`,
        );
        lane.shift();
      }
      for (const [name, left] of lanes) {
        const sender = peers.find((peer) => peer.name === name);
        if (sender?.end?.by === "network") continue;
        this.equal(left, [], `what ${name} sent to ${key} and is missing`);
      }
    }
  }

  /** What a connection was sent, against what it asked for and what happened. */
  async #comparePeer(
    peer: Peer,
    stories: Map<string, Story>,
  ): Promise<void> {
    const { app, wire: { socketId }, expected, name, isWhole } = peer;
    const spans: Span[] = [];
    const current = new Map<string, Span>();
    const begin = (channel: string, fromStart: boolean) => {
      const isCounted = !fromStart && this.#model.counts &&
        !kindOf(channel).presence;
      const span = { channel, fromStart, isCounted, toEnd: false, parts: [] };
      spans.push(span);
      current.set(channel, span);
    };
    for (const channel of peer.before.keys()) begin(channel, true);
    const forUser: Frame[] = [];
    let signedIn = peer.userBefore !== null;
    /** A confirmation whose last event is the next frame. */
    let waiting: { channel: string; joined: Joined } | null = null;
    let next = 0;
    const fail = (what: string, frame?: Frame): never => {
      const shown = JSON.stringify(frame)?.slice(0, 500);
      const wanted = JSON.stringify(expected[next]);
      throw new Error(
        `${name} of ${app.id} (${socketId}): ${what}: ${shown}, expected ${wanted}`,
      );
    };
    const leave = () => {
      for (;; next++) {
        const left = expected[next];
        if (left?.is !== "left") return;
        current.delete(left.channel);
      }
    };
    for (const frame of peer.frames) {
      this.#report.checks++;
      const { event, channel = "" } = frame;
      if (waiting !== null) {
        if (channel !== waiting.channel) fail("no last event", frame);
        const isMiss = event === MISS;
        if (isMiss) {
          this.equal(frame, { event: MISS, channel }, "a cache miss");
          this.#story(stories, keyOf(app, channel)).missesSeen++;
        }
        waiting.joined.cached = isMiss ? null : frame;
        waiting = null;
        continue;
      }
      if (event === WATCHLIST) {
        const wanted = expected[next];
        if (wanted?.is === "watched") next++;
        this.#compareWatched(
          peer,
          frame,
          wanted?.is === "watched" ? wanted.ids : null,
        );
        continue;
      }
      const isAnswer = event.startsWith("pusher:") ||
        event === `${INTERNAL}subscription_succeeded`;
      if (!isAnswer) {
        if (channel.startsWith(USER_CHANNEL)) {
          if (!signedIn) fail("not signed in", frame);
          forUser.push(frame);
          continue;
        }
        const span = current.get(channel);
        if (span === undefined) fail("not subscribed", frame);
        else span.parts.push({ frame });
        continue;
      }
      leave();
      const wanted = expected[next];
      if (wanted === undefined || !answers(wanted, frame)) {
        fail("wrong answer", frame);
      } else if (wanted.is === "signed in") {
        signedIn = true;
        peer.known = new Map();
      } else if (
        wanted.is === "joined" && !wanted.channel.startsWith(USER_CHANNEL)
      ) {
        if (wanted.isNew) begin(channel, false);
        const { presence, cache } = kindOf(channel);
        if (!presence && frame.data !== "{}") fail("odd data", frame);
        const members = presence ? listed(frame) : null;
        if (
          wanted.userId !== undefined &&
          !members?.some(([id]) => id === wanted.userId)
        ) fail("not in the list itself", frame);
        const joined: Joined = { members };
        current.get(channel)?.parts.push({ joined });
        if (cache) waiting = { channel, joined };
      }
      next++;
    }
    if (isWhole) {
      if (waiting !== null) fail("no last event");
      leave();
      if (next < expected.length) fail("no answer");
    }
    if (peer.isOpen) {
      this.equal(
        [...current.keys()].sort(),
        [...peer.channels.keys()].sort(),
        `channels of ${name}`,
      );
      for (const span of current.values()) span.toEnd = true;
      for (const [id, isOnline] of peer.known) {
        this.equal(
          isOnline,
          this.#model.isOnline(app, id),
          `what ${name} was told of user ${id}`,
        );
      }
    }
    if (peer.end?.by === "server" && !peer.end.isCut) {
      const code = await peer.wire.code();
      this.equal(code, peer.end.code, `close code of ${name}`);
    }
    this.#compareSpans(peer, spans, stories);
    this.#compareUser(peer, forUser);
  }

  #compareSpans(
    { app, wire: { socketId }, name }: Peer,
    spans: Span[],
    stories: Map<string, Story>,
  ): void {
    const reached = new Map<string, number>();
    for (const span of spans) {
      this.#report.checks++;
      const story = this.#story(stories, keyOf(app, span.channel));
      const from = reached.get(span.channel) ?? 0;
      let end: number | null = null;
      const last = span.fromStart ? from : story.told.length;
      for (let at = from; at <= last && end === null; at++) {
        // Whoever joins is told of the number that includes it.
        if (span.isCounted && span.toEnd && story.told[at]?.is !== "count") {
          continue;
        }
        end = follow(span, at, story, socketId);
      }
      this.sure(
        end !== null,
        () =>
          [
            `${name} of ${app.id} (${socketId}) saw something else on ${span.channel}`,
            `from ${span.fromStart ? "the start" : "joining"} to ${
              span.toEnd ? "the end" : "leaving"
            }:`,
            ...span.parts.map((part) => `  ${JSON.stringify(part)}`),
            "The hooks tell, beginning with " +
            JSON.stringify({
              last: story.states[0]!.last,
              members: [...story.states[0]!.members.values()],
            }),
            ...story.told.map((told) => `  ${JSON.stringify(told)}`),
          ].join("\n"),
      );
      reached.set(span.channel, end);
    }
  }

  /** Events for a user: each once, in the order of each sender. */
  #compareUser(peer: Peer, frames: Frame[]): void {
    const { app, user, userBefore, wire: { socketId }, name, isWhole } = peer;
    const id = user?.id ?? userBefore?.id;
    if (id === undefined) return;
    const lanes = [...this.#model.outbox.to(keyOf(app, USER_CHANNEL + id))]
      .map(([, list]) => list.filter(({ except }) => except !== socketId));
    // One that signed in meanwhile has the end of what each sender sent; one that
    // was also closed meanwhile has some middle of it.
    const isOpenEnded = isWhole && peer.end === null;
    if (!isOpenEnded && userBefore === null) return;
    const fromEnd = userBefore === null;
    const list = fromEnd ? frames.toReversed() : frames;
    for (const frame of list) {
      const lane = lanes.find((list) => {
        const publication = fromEnd ? list.at(-1) : list[0];
        return publication !== undefined &&
          isSame(frame, { is: "event", publication });
      });
      this.sure(
        lane !== undefined && frame.channel === USER_CHANNEL + id,
        () =>
          `${name}, user ${id}, got out of order, twice or wrongly: ${
            JSON.stringify(frame)
          }`,
      );
      if (fromEnd) lane.pop();
      else lane.shift();
    }
    if (fromEnd || !isWhole || peer.end !== null) return;
    this.equal(lanes.flat(), [], `what user ${id} has not got on ${name}`);
  }

  #compareWatched(peer: Peer, frame: Frame, all: string[] | null): void {
    const told = `${peer.name} ${JSON.stringify(frame)}`;
    this.equal(frame.channel, undefined, told);
    const { events, ...rest } = parse(frame.data);
    this.equal(rest, {}, told);
    const seen: string[] = [];
    for (const { name, user_ids, ...more } of events) {
      this.equal(more, {}, told);
      this.sure(["online", "offline"].includes(name), () => told);
      this.sure(user_ids.length > 0, () => `An empty list: ${told}`);
      for (const id of user_ids) {
        seen.push(id);
        const isOnline = name === "online";
        this.sure(
          all !== null || peer.known.get(id) === !isOnline,
          () => `Told twice, or not watched: ${told}`,
        );
        peer.known.set(id, isOnline);
      }
    }
    if (all === null) this.equal(seen.length, 1, told);
    else this.equal(seen.sort(), [...all].sort(), told);
  }

  /** What the HTTP API says, against the model. */
  async #compareApi(app: App): Promise<void> {
    const model = this.#model;
    const random = this.#random;
    const occupied = [...model.occupied(app)];
    const all = await this.#api(app, "GET", "/channels", {
      query: { info: "subscription_count" },
    });
    this.equal(
      all.body,
      {
        channels: Object.fromEntries(
          occupied.map((
            [name, count],
          ) => [name, { subscription_count: count }]),
        ),
      },
      `channels of ${app.id}`,
    );
    const presence = await this.#api(app, "GET", "/channels", {
      query: { info: "user_count", filter_by_prefix: "presence-" },
    });
    this.equal(
      presence.body,
      {
        channels: Object.fromEntries(
          occupied.filter(([name]) => kindOf(name).presence).map(([name]) => [
            name,
            { user_count: model.members(app, name).size },
          ]),
        ),
      },
      `presence channels of ${app.id}`,
    );
    const name = random.of(POOL.filter((name) => kindOf(name).presence));
    const users = await this.#api(app, "GET", `/channels/${name}/users`);
    this.equal(
      users.body.users.map(({ id }: { id: string }) => id).sort(),
      [...model.members(app, name)].sort(),
      `users of ${app.id} ${name}`,
    );
    const cacheName = random.of(POOL.filter((name) => kindOf(name).cache));
    const { body } = await this.#api(app, "GET", `/channels/${cacheName}`, {
      query: { info: "cache,subscription_count" },
    });
    const last = this.#states.get(keyOf(app, cacheName))?.last ?? null;
    const count = model.subscribers(app, cacheName).length;
    const { ttl, ...cache } = body.cache ?? {};
    this.equal(
      { ...body, cache: body.cache && cache },
      {
        occupied: count > 0,
        subscription_count: count,
        cache: last && { data: last.data },
      },
      `${app.id} ${cacheName}`,
    );
    if (last) this.sure(Number.isInteger(ttl) && ttl > 0, () => `ttl ${ttl}`);
  }
}

function isEqual(a: Publication, b: Publication): boolean {
  return a.event === b.event && a.data === b.data && a.userId === b.userId &&
    a.except === b.except;
}

/** Whether a frame is the answer that is expected. */
function answers(wanted: Expected, frame: Frame): boolean {
  const { event, channel, data } = frame;
  // deno-lint-ignore no-explicit-any -- parseFrame has looked at it
  const error = data as any;
  switch (wanted.is) {
    case "pong":
      return event === "pusher:pong" && channel === undefined && data === "{}";
    case "error":
      return event === "pusher:error" && error.code === wanted.code &&
        channel === wanted.channel;
    case "refused":
      return event === "pusher:subscription_error" &&
        channel === wanted.channel &&
        `${error.type} ${error.status}` === wanted.why;
    case "joined":
      return event === `${INTERNAL}subscription_succeeded` &&
        channel === wanted.channel;
    case "signed in":
      return event === "pusher:signin_success" && channel === undefined &&
        data === JSON.stringify({ user_data: wanted.userData });
    case "watched":
    case "left":
      return false;
  }
}

/** Hooks that tell the story of a channel, which the model has to agree with. */
const STORY_HOOKS = [
  "connected",
  "channel_occupied",
  "channel_vacated",
  "member_added",
  "member_removed",
  "client_event",
  "published",
  "cache_miss",
  "subscription_count",
] as const;

/** Hooks of single subscriptions. The journal checks that they come in turns. */
const OTHER_HOOKS = [
  "subscribed",
  "unsubscribed",
  "recovered",
  "refused",
] as const;
