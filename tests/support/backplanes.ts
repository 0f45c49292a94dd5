/**
 * The backplanes under test, and a way to run a test against each of them.
 *
 * @module
 */
import {
  type Backplane,
  type BackplaneNode,
  MemoryBackplane,
  type Message,
  type PusherOptions,
} from "@glitz/pusher";
import { DEADLINE_MS, within } from "./deadline.ts";
import { serve, type TestServer } from "./server.ts";

/** A backplane as behind a network: every answer comes later. */
export class SlowBackplane implements Backplane {
  readonly #memory = new MemoryBackplane();
  /** Methods that were called when it had been closed. */
  readonly afterClose: string[] = [];
  /** How often it has been closed. */
  closes = 0;
  readonly #pending = new Set<Promise<unknown>>();
  /** Awaited before and after each call, with its name. */
  turn: (method: keyof Backplane, isAfter: boolean) => Promise<void> = () =>
    new Promise((resolve) => setTimeout(resolve, 1));

  start(node: BackplaneNode): void {
    this.#memory.start(node);
  }
  publish(...given: [string, string, Message]): Promise<void> {
    return this.#later("publish", () => this.#memory.publish(...given));
  }
  join(...given: Parameters<MemoryBackplane["join"]>) {
    return this.#later("join", () => {
      const joined = this.#memory.join(...given);
      // What has come over a network does not change any more.
      return joined && { ...joined, members: new Map(joined.members) };
    });
  }
  leave(...given: Parameters<MemoryBackplane["leave"]>) {
    return this.#later("leave", () => this.#memory.leave(...given));
  }
  members(...given: Parameters<MemoryBackplane["members"]>) {
    return this.#later(
      "members",
      () => new Map(this.#memory.members(...given)),
    );
  }
  cached(...given: Parameters<MemoryBackplane["cached"]>) {
    return this.#later("cached", () => this.#memory.cached(...given));
  }
  occupancy(...given: Parameters<MemoryBackplane["occupancy"]>) {
    return this.#later("occupancy", () => this.#memory.occupancy(...given));
  }
  occupied(...given: Parameters<MemoryBackplane["occupied"]>) {
    return this.#later("occupied", () => this.#memory.occupied(...given));
  }
  async close(): Promise<void> {
    this.closes++;
    while (this.#pending.size > 0) await Promise.allSettled(this.#pending);
    this.#memory.close();
  }

  #later<T>(method: keyof Backplane, call: () => T): Promise<T> {
    if (this.closes > 0) this.afterClose.push(method);
    const answer = (async () => {
      await this.turn(method, false);
      const result = call();
      await this.turn(method, true);
      return result;
    })();
    this.#pending.add(answer);
    const done = () => this.#pending.delete(answer);
    answer.then(done, done);
    return answer;
  }
}

/** A backplane whose first answer to a join waits for `answer`. */
export function lateJoin() {
  const backplane = new SlowBackplane();
  const joined = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  let isFirst = true;
  backplane.turn = async (method, isAfter) => {
    if (method !== "join" || !isAfter || !isFirst) return;
    isFirst = false;
    joined.resolve();
    await answer.promise;
  };
  const joining = () => within(DEADLINE_MS, "join", joined.promise);
  return { backplane, joining, answer: answer.resolve };
}

// ---- Kinds ------------------------------------------------------------------

/** A kind of backplane that a server may have. */
export interface BackplaneKind {
  /** What it adds to the title of a test. */
  readonly suffix: string;
  /** Makes a backplane; undefined is the server's own. */
  readonly create: () => Backplane | undefined;
}

/** Every kind of backplane under test; the first is what a server has by default. */
export const BACKPLANES: readonly BackplaneKind[] = [
  { suffix: "", create: () => undefined },
  {
    suffix: ", behind a backplane that answers later",
    create: () => new SlowBackplane(),
  },
];

/** Starts a server with a backplane of a kind, unless the options have another. */
export function serveWith(
  { create }: BackplaneKind,
  options: PusherOptions = {},
): TestServer {
  const backplane = create();
  return serve({ ...(backplane && { backplane }), ...options });
}

/** Registers a test against each kind of backplane. */
export function eachBackplane(
  title: string,
  run: (start: (options?: PusherOptions) => TestServer) => Promise<void>,
): void {
  for (const kind of BACKPLANES) {
    Deno.test(
      title + kind.suffix,
      () => run((options) => serveWith(kind, options)),
    );
  }
}
