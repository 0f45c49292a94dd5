/**
 * Flapping: clients that join and leave fresh channels all the time, while an
 * endpoint of webhooks answers slowly and its queue is small. The webhooks of an
 * honest client arrive all the same, each once.
 *
 * @module
 */
import { type Webhooks, webhooks } from "@glitz/pusher/webhooks";
import { DEADLINE_MS } from "../../../support/deadline.ts";
import type { Client } from "../../../support/server.ts";
import {
  type Attack,
  type AttackKind,
  BESIEGED,
  type Stage,
} from "../siege.ts";

const FLAPPERS = 2;
/** About 60 bytes of JSON for each channel: the flappers would need some more. */
const QUEUE_BYTES = 4_000;

export const FLAPPING: AttackKind = {
  limits: { channelsPerConnection: 1_000 },
  turnMs: 500,
  async begin(stage) {
    const { server } = stage;
    const query = "?protocol=7&client=js";
    const connect = () => server.connect({ app: BESIEGED, query });
    const flappers: Client[] = [];
    for (let i = 0; i < FLAPPERS; i++) flappers.push(await connect());
    return new Flapping(
      stage,
      new Receiver(
        server.pusher.app(BESIEGED.id),
      ),
      flappers,
      await connect(),
    );
  },
};

class Flapping implements Attack {
  readonly #stage: Stage;
  readonly #receiver: Receiver;
  readonly #hooks: Webhooks;
  readonly #flappers: Client[];
  readonly #honest: Client;
  /** Channels so far. */
  #count = 0;
  readonly #wanted: string[] = [];

  constructor(
    stage: Stage,
    receiver: Receiver,
    flappers: Client[],
    honest: Client,
  ) {
    this.#stage = stage;
    this.#receiver = receiver;
    this.#flappers = flappers;
    this.#honest = honest;
    this.#hooks = webhooks(stage.server.pusher.app(BESIEGED.id), {
      key: BESIEGED.key,
      secret: BESIEGED.secret,
      endpoints: [{ url: receiver.url, events: ["channel_occupied"] }],
      queueBytes: QUEUE_BYTES,
      timeoutMs: 600_000,
      // Events of the flappers are dropped, which is right.
      onError() {},
    });
  }

  async act(): Promise<void> {
    const { random, chronicle } = this.#stage;
    this.#receiver.hold();
    for (const [i, flapper] of this.#flappers.entries()) {
      const count = 20 + random.below(60);
      const stays = random.chance(0.7);
      chronicle.note(`flapper ${i} joins ${count} channels, stays: ${stays}`);
      for (let n = 0; n < count; n++) {
        const name = `flap-${this.#count++}`;
        flapper.requestSubscribe(name);
        if (!stays) flapper.unsubscribe(name);
      }
      await flapper.framesUntilPong();
    }
    const channel = random.of(["honest-", "private-honest-"]) + this.#count;
    chronicle.note(`somebody joins ${channel}`);
    await this.#honest.enter(channel);
    this.#wanted.push(channel);
    this.#receiver.release();
  }

  async end(): Promise<void> {
    const { clock, chronicle } = this.#stage;
    const { channels } = this.#receiver;
    const missing = () => this.#wanted.filter((one) => !channels.includes(one));
    const until = performance.now() + DEADLINE_MS;
    while (missing().length > 0 && performance.now() < until) {
      await clock.passInSteps(1_000, 100);
    }
    const honest = channels.filter((channel) => channel.includes("honest"));
    chronicle.equal(
      honest.sort(),
      this.#wanted.sort(),
      "webhooks of the honest",
    );
    await this.#hooks[Symbol.asyncDispose]();
    await this.#receiver[Symbol.asyncDispose]();
    for (const one of [...this.#flappers, this.#honest]) await one.close();
  }
}

/** Takes webhooks, and answers when it likes. */
class Receiver implements AsyncDisposable {
  readonly url: string;
  /** The channels of all events, in the order in which they came. */
  readonly channels: string[] = [];
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  #held: Promise<void> = Promise.resolve();
  #release = () => {};

  constructor(pusher: Stage["server"]["pusher"]) {
    const options = { hostname: "127.0.0.1", port: 0, onListen() {} };
    this.#server = Deno.serve(options, async (request) => {
      const { headers } = request;
      const webhook = pusher.webhook({
        headers,
        rawBody: await request.text(),
      });
      // What is not signed is not taken, and then missing.
      if (!webhook.isValid()) return new Response(null, { status: 401 });
      for (const { channel } of webhook.getEvents()) {
        this.channels.push(String(channel));
      }
      await this.#held;
      return new Response();
    });
    this.url = `http://127.0.0.1:${this.#server.addr.port}`;
  }

  /** Answers nothing from now on. */
  hold(): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#held = promise;
    this.#release = resolve;
  }

  /** Answers again, also what has come meanwhile. */
  release(): void {
    this.#release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}
