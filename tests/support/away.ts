/**
 * A backplane that goes away and comes back when the test says so.
 *
 * @module
 */
import {
  type Awaitable,
  type Backplane,
  type BackplaneNode,
  BackplaneUnavailable,
  MemoryBackplane,
} from "@glitz/pusher";
import { turn } from "./clock.ts";
import { DEADLINE_MS, within } from "./deadline.ts";
import { SlowBackplane } from "./backplanes.ts";

/** Memory behind a way that can be cut. */
export class AwayBackplane extends SlowBackplane {
  #node: BackplaneNode | null = null;
  #error: BackplaneUnavailable | null = null;
  /** Methods that were called while it was away. */
  readonly refused: string[] = [];
  #heard = () => {};
  readonly #done = new Map<string, () => void>();
  /** Which methods fail while it is away. */
  fails: (method: string) => boolean = () => true;
  /** How many calls are under way, and the most that were. */
  pending = 0;
  mostPending = 0;

  constructor(inner: Backplane = new MemoryBackplane()) {
    super(inner);
    this.turn = async (method, isAfter) => {
      if (isAfter) {
        this.pending--;
        this.#done.get(method)?.();
        return;
      }
      if (this.#error !== null && this.fails(method)) {
        this.refused.push(method);
        this.#heard();
        throw this.#error;
      }
      this.pending++;
      this.mostPending = Math.max(this.mostPending, this.pending);
      await new Promise((resolve) => setTimeout(resolve, 0));
    };
  }

  override start(node: BackplaneNode): Awaitable<void> {
    this.#node = node;
    return super.start(node);
  }

  /** Has every call fail from now on. */
  goAway(wasSent = false): BackplaneUnavailable {
    const error = new BackplaneUnavailable("Nobody is there", { wasSent });
    this.#error = error;
    this.#node?.health(false, error);
    return error;
  }

  /** Waits until a method was called so often in vain. */
  async asked(method: string, times = 1): Promise<void> {
    while (this.refused.filter((one) => one === method).length < times) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#heard = resolve;
      await within(DEADLINE_MS, `${times} of ${method}`, promise);
    }
    // Its failure reaches the server in this turn.
    await turn();
  }

  /** Waits until a method has been carried out. */
  async succeeded(method: string): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#done.set(method, resolve);
    await within(DEADLINE_MS, method, promise);
  }

  /** Has calls fail though it is up, as if there were too many of them. */
  choke(): void {
    this.#error = new BackplaneUnavailable("Too many", { wasSent: false });
  }

  /** Has every call succeed again, without a word. */
  clear(): void {
    this.#error = null;
  }

  /** Comes back. */
  comeBack(): void {
    this.#error = null;
    this.#node?.health(true);
  }
}
