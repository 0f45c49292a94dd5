/**
 * Native clients: those that answer WebSocket pings alone stay, and those that
 * answer nothing leave, for everybody who looks on.
 *
 * @module
 */
import { NativeClient } from "../../../support/native.ts";
import type { Client } from "../../../support/server.ts";
import {
  type Attack,
  type AttackKind,
  BESIEGED,
  type Stage,
} from "../siege.ts";

const MAX_NATIVES = 6;

/** The runtime pings after 400 ms of real time. The server's time hardly passes. */
export const NATIVES: AttackKind = {
  options: { pingAfterMs: 400, pongTimeoutMs: 400 },
  limits: { presenceMembers: 50 },
  turnMs: 10,
  async begin(stage) {
    const query = "?protocol=7&client=js";
    const watcher = await stage.server.connect({ app: BESIEGED, query });
    await watcher.join("presence-plaza", { member: { user_id: "watcher" } });
    return new Natives(stage, watcher);
  },
};

class Natives implements Attack {
  readonly #stage: Stage;
  readonly #watcher: Client;
  readonly #answering: NativeClient[] = [];
  readonly #silent: NativeClient[] = [];
  /** Each lasts until its client is closed, or until the end. */
  readonly #lives: Promise<void>[] = [];
  #isEnding = false;
  readonly #left: string[] = [];

  constructor(stage: Stage, watcher: Client) {
    this.#stage = stage;
    this.#watcher = watcher;
  }

  async act(): Promise<void> {
    const { random, server } = this.#stage;
    const all = [...this.#answering, ...this.#silent];
    if (all.length < MAX_NATIVES) {
      const answers = random.chance(0.5);
      const list = answers ? this.#answering : this.#silent;
      const name = `${answers ? "answering" : "silent"}-${list.length}`;
      const client = random.of(["pusher-websocket-swift", "java-client", ""]);
      const path = random.of(["", "/r/session-of-a-native-client"]);
      this.#stage.chronicle.note(
        `native ${name} comes as ${client} by ${path}`,
      );
      const asks = random.chance(0.3);
      const init = { client, path, answers, app: BESIEGED };
      const native = await NativeClient.connect(server, init);
      list.push(native);
      await native.join("presence-plaza", { user_id: name });
      if (asks) await native.raw.send({ event: "pusher:ping" });
      const isDone = () => answers && this.#isEnding && native.pings >= 3;
      this.#lives.push(native.until(isDone));
    }
    await this.#watch();
  }

  async #watch(): Promise<void> {
    for (const { event, data } of await this.#watcher.framesUntilPong()) {
      if (event !== "pusher_internal:member_removed") continue;
      this.#left.push(JSON.parse(String(data)).user_id);
    }
  }

  async end(): Promise<void> {
    // Two WebSocket pings take as long as the server waits for an answer.
    this.#isEnding = true;
    await Promise.all(this.#lives);
    for (const { code } of this.#silent) {
      this.#stage.chronicle.equal(code, 1001, "close code of a silent client");
    }
    for (const native of this.#answering) {
      await native.raw.send({ event: "pusher:ping" });
      await native.next("pusher:pong");
    }
    await this.#watch();
    const silent = this.#silent.map((_, i) => `silent-${i}`);
    this.#stage.chronicle.equal(
      this.#left.sort(),
      silent.sort(),
      "who has left",
    );
    const all = [...this.#answering, ...this.#silent];
    for (const native of all) native.raw.drop();
    await this.#watcher.close();
  }
}
