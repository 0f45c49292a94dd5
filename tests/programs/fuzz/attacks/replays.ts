/**
 * Unread replays: clients that come back for a long history, and then read nothing.
 * They are disconnected after a while, and what waits for them has a bound.
 *
 * @module
 */
import type { RawClient } from "../../../support/wire.ts";
import {
  type Attack,
  type AttackKind,
  BESIEGED,
  type Stage,
} from "../siege.ts";

const MAX_READERS = 4;
const BUFFERED_BYTES = 262_144;
/** More than the network takes by itself. */
const EVENTS = 1_500;
const EVENT_BYTES = 10_000;

export const REPLAYS: AttackKind = {
  limits: { eventDataBytes: EVENT_BYTES, bufferedBytes: BUFFERED_BYTES },
  turnMs: 3_000,
  async begin(stage) {
    const { server } = stage;
    // A history is kept from the first client that can recover.
    const query = "?protocol=7&client=js&recover=1";
    const keeper = await server.connect({ app: BESIEGED, query });
    await keeper.join("log");
    await keeper.close();
    const pusher = server.pusher.app(BESIEGED.id);
    for (let n = 0; n < EVENTS; n++) {
      await pusher.trigger("log", "e", "x".repeat(EVENT_BYTES));
    }
    return new Replays(stage);
  },
};

class Replays implements Attack {
  readonly #stage: Stage;
  readonly #readers: RawClient[] = [];

  readonly #codes: number[] = [];
  readonly #stopListening: () => void;

  constructor(stage: Stage) {
    this.#stage = stage;
    const pusher = stage.server.pusher.app(BESIEGED.id);
    const take = ({ code }: { code: number }) => void this.#codes.push(code);
    this.#stopListening = pusher.on("disconnected", take);
  }

  async act(): Promise<void> {
    const { random, server } = this.#stage;
    if (this.#readers.length < MAX_READERS) {
      const rewind = EVENTS - random.below(100);
      this.#stage.chronicle.note(
        `a client asks for ${rewind} events and reads nothing`,
      );
      const { pathname } = new URL(server.url);
      const prefix = pathname.replace(/\/$/, "");
      const query = "?protocol=7&client=js&recover=1&batch=1";
      const raw = await server.raw();
      await raw.upgrade(`${prefix}/app/${BESIEGED.key}${query}`);
      await raw.send({
        event: "pusher:subscribe",
        data: { channel: "log", rewind },
      });
      this.#readers.push(raw);
    }
    const { bufferedBytes } = server.pusher.stats();
    const bound = this.#readers.length * (BUFFERED_BYTES + 2 * EVENT_BYTES);
    this.#stage.chronicle.sure(
      bufferedBytes <= bound,
      () => `${bufferedBytes} bytes wait, more than ${bound}`,
    );
  }

  async end(): Promise<void> {
    const { clock } = this.#stage;
    await clock.passInSteps(20_000, 500);
    this.#stopListening();
    const codes = this.#readers.map(() => 4100);
    this.#stage.chronicle.equal(
      this.#codes,
      codes,
      "how the readers were closed",
    );
    for (const raw of this.#readers) raw.drop();
  }
}
