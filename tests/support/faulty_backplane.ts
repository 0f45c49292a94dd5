/**
 * Memory that several servers share, with the faults of a database behind a
 * network: it can be flushed, a server can die without a word, and a server can
 * be deaf for a time.
 *
 * @module
 */
import {
  type Backplane,
  type BackplaneNode,
  type Held,
  type Intercom,
  MemoryBackplane,
  type Message,
  type Position,
  type SessionStore,
} from "@glitz/pusher";

/** How long it takes until the others see that a server is dead. */
const LEASE_MS = 5;

/** What the servers share. */
export class FaultyMemory {
  #memory = new MemoryBackplane();
  readonly #backplanes = new Set<FaultyBackplane>();

  /** Makes the backplane of one more server. */
  connect(): FaultyBackplane {
    const backplane = new FaultyBackplane(this.#memory.peer());
    this.#backplanes.add(backplane);
    return backplane;
  }

  /** Forgets everything. The servers register what they hold. */
  flush(): void {
    this.#memory = new MemoryBackplane();
    const alive = [...this.#backplanes].filter(({ isAlive }) => isAlive);
    for (const one of alive) one.moveTo(this.#memory.peer());
    for (const one of alive) one.register();
    for (const one of alive) one.goOn();
  }
}

/** The backplane of one server. */
export class FaultyBackplane implements Backplane {
  #memory: MemoryBackplane;
  #node: BackplaneNode | null = null;
  #isDead = false;
  /** Whether nothing is told, as the servers know it all. */
  #isRegistering = false;
  /** While the server is deaf: the last message of each channel. */
  #missed: Map<string, [string, string, Position]> | null = null;
  /** What listens, in which memory ever; each returns what ends it there. */
  readonly #listening = new Map<() => () => void, () => void>();
  readonly intercom: Intercom = {
    listen: (label, hear) => {
      const listen = () =>
        this.#memory.intercom.listen(label, (text) => {
          if (!this.#isDead && this.#missed === null) hear(text);
        });
      this.#listening.set(listen, listen());
      return () => {
        this.#listening.get(listen)?.();
        this.#listening.delete(listen);
      };
    },
    say: (...given) => {
      if (this.#isDead) throw new Error("Cannot say it: the server is dead");
      return this.#memory.intercom.say(...given);
    },
  };
  readonly sessions: SessionStore = {
    take: (app, id) => this.#memory.sessions.take(app, id),
    keep: (...given) => {
      if (!this.#isDead) return this.#memory.sessions.keep(...given);
    },
    forget: (...given) => {
      if (!this.#isDead) return this.#memory.sessions.forget(...given);
    },
  };

  constructor(memory: MemoryBackplane) {
    this.#memory = memory;
  }

  /** Whether it serves a server that lives. */
  get isAlive(): boolean {
    return this.#node !== null && !this.#isDead;
  }

  /** The server that it serves. */
  get node(): BackplaneNode {
    if (this.#node === null) throw new TypeError("Cannot tell: not started");
    return this.#node;
  }

  start(node: BackplaneNode): void {
    this.#node = node;
    this.#start(node);
  }

  #start(node: BackplaneNode): void {
    const tell = (call: () => void) => {
      if (!this.#isDead && !this.#isRegistering) call();
    };
    this.#memory.start({
      id: node.id,
      history: node.history,
      clock: node.clock,
      deliver: (app, channel, message, position) =>
        tell(() => {
          if (this.#missed === null) {
            return node.deliver(app, channel, message, position);
          }
          const key = `${app}\n${channel}`;
          this.#missed.set(key, [app, channel, position]);
        }),
      changed: (...given) => tell(() => node.changed(...given)),
      lost: (...given) => tell(() => node.lost(...given)),
      taken: (...given) => tell(() => node.taken(...given)),
      held: () => node.held(),
      departure: (...given) => node.departure(...given),
      arrival: (...given) => node.arrival(...given),
      failed: (...given) => node.failed(...given),
      health: (...given) => tell(() => node.health(...given)),
    });
  }

  // ---- Faults

  /** Goes on with another memory, which knows nothing. No server hears of that. */
  moveTo(memory: MemoryBackplane): void {
    this.#isRegistering = true;
    this.#memory = memory;
    this.#start(this.node);
    for (const listen of this.#listening.keys()) {
      this.#listening.set(listen, listen());
    }
  }

  /** Registers what the server holds. */
  register(): void {
    for (const held of this.node.held()) this.#hold(held);
  }

  /** Tells the server that all messages are lost which it has not got by now. */
  goOn(): void {
    this.#isRegistering = false;
    const losses = new Map<string, [string, string, Position | undefined]>();
    for (const held of this.node.held()) {
      const { app, channel } = held;
      losses.set(`${app}\n${channel}`, [app, channel, this.#hold(held)]);
    }
    for (const [app, channel, position] of losses.values()) {
      if (position !== undefined) this.node.lost(app, channel, position);
    }
  }

  #hold({ app, channel, ...options }: Held): Position | undefined {
    return this.#memory.join(app, channel, options)?.position;
  }

  /** Has the server die without a word. */
  die(): void {
    this.#isDead = true;
    const memory = this.#memory;
    setTimeout(() => memory.close(), LEASE_MS);
  }

  /** Has nothing reach the server until {@linkcode hear}. */
  deafen(): void {
    this.#missed = new Map();
  }

  /**
   * Has messages reach the server again, which hears of those it has missed.
   *
   * @param goesOnEarly Whether subscribers might hear yet what is said at the offset
   * of the last of them.
   */
  hear(goesOnEarly = false): void {
    const missed = [...this.#missed?.values() ?? []];
    this.#missed = null;
    for (const [app, channel, { epoch, offset }] of missed) {
      const now = { epoch, offset: goesOnEarly ? offset - 1 : offset };
      this.node.lost(app, channel, now, offset);
    }
  }

  // ---- Calls

  publish(...given: [string, string, Message]): void {
    if (!this.#isDead) this.#memory.publish(...given);
  }
  join(...given: Parameters<MemoryBackplane["join"]>) {
    if (this.#isDead) throw new Error("Cannot join: the server is dead");
    return this.#memory.join(...given);
  }
  leave(...given: Parameters<MemoryBackplane["leave"]>): void {
    if (!this.#isDead) this.#memory.leave(...given);
  }
  read(...given: Parameters<MemoryBackplane["read"]>) {
    return this.#memory.read(...given);
  }
  members(...given: Parameters<MemoryBackplane["members"]>) {
    return this.#memory.members(...given);
  }
  cached(...given: Parameters<MemoryBackplane["cached"]>) {
    return this.#memory.cached(...given);
  }
  occupancy(...given: Parameters<MemoryBackplane["occupancy"]>) {
    return this.#memory.occupancy(...given);
  }
  occupied(...given: Parameters<MemoryBackplane["occupied"]>) {
    return this.#memory.occupied(...given);
  }
  usage() {
    return this.#memory.usage();
  }
  close(): void {
    if (!this.#isDead) this.#memory.close();
    this.#isDead = true;
  }
}
