/**
 * An endpoint of one process: one queue, and one request at a time that empties it.
 * Nothing here throws: errors are reported.
 *
 * @module
 */

import type { Place } from "../../core/fair_queue.ts";
import type { Clock } from "../../mod.ts";
import type { OutgoingEvent, WebhookName } from "./events.ts";
import { type EndpointSettings, type Settings, wants } from "./options.ts";
import { Pauses } from "./pauses.ts";
import { EndpointQueue, type Item } from "./queue.ts";
import { Reporter, type WebhookFailure } from "./reports.ts";
import { encodeBody, Sender } from "./request.ts";

/**
 * The state of an endpoint. All numbers count events. Where several servers share a
 * journal, they count what this server has done since its start, and `queued` is 0
 * while another one delivers.
 */
export interface WebhookStatus {
  /** The endpoint's URL. */
  url: string;
  /** Events that wait, including those of the request under way. */
  queued: number;
  /** Events that the endpoint has accepted. */
  delivered: number;
  /** Events that were dropped, because the queue was full or the journal too long. */
  dropped: number;
  /** Events that were lost after the last retry, or at the close. */
  lost: number;
}

/** How long a batch may take to fill, as with the hosted service. */
export const BATCH_MS = 250;

/** The queue of an endpoint, and what empties it. */
export class Endpoint {
  readonly names: ReadonlySet<WebhookName>;
  readonly #endpoint: EndpointSettings;
  readonly #settings: Settings;
  readonly #clock: Clock;
  readonly #reporter: Reporter;
  readonly #sender: Sender;
  readonly #queue: EndpointQueue;
  #delivered = 0;
  #dropped = 0;
  #lost = 0;
  /** Empties the queue; null while the queue is empty. */
  #worker: Promise<void> | null = null;
  /** Whether it waits for a batch to fill. */
  #isGathering = false;
  readonly #pauses: Pauses;
  #state: "open" | "closing" | "closed" = "open";

  constructor(
    endpoint: EndpointSettings,
    settings: Settings,
    clock: Clock,
  ) {
    this.names = endpoint.names;
    this.#endpoint = endpoint;
    this.#settings = settings;
    this.#clock = clock;
    this.#pauses = new Pauses(clock);
    this.#reporter = new Reporter(endpoint.url, settings.onError);
    this.#sender = new Sender(endpoint, settings, clock, this.#reporter);
    this.#queue = new EndpointQueue(settings, {
      dropped: (item, reason) => {
        this.#dropped++;
        this.#report("dropped", [item], reason);
      },
    });
  }

  get status(): WebhookStatus {
    return {
      url: this.#endpoint.url,
      queued: this.#queue.queued,
      delivered: this.#delivered,
      dropped: this.#dropped,
      lost: this.#lost,
    };
  }

  wants(event: OutgoingEvent): boolean {
    return wants(this.#endpoint, event);
  }

  push(item: Item, place: Place): void {
    if (!this.#queue.push(item, place)) return;
    if (this.#isGathering && this.#queue.isBatchFull) this.#pauses.end();
    this.#worker ??= this.#work();
  }

  /** See {@linkcode EndpointQueue.claim}. */
  claim(channel: string, socketId: string): void {
    this.#queue.claim(channel, socketId);
  }

  /** See {@linkcode EndpointQueue.withdraw}. */
  withdraw(key: string, names: ReadonlySet<string>): boolean {
    return this.#queue.withdraw(key, names);
  }

  get #isClosed(): boolean {
    return this.#state === "closed";
  }

  async close(timeoutMs: number): Promise<void> {
    this.#state = "closing";
    this.#pauses.end();
    const cancel = this.#clock.after(timeoutMs, () => {
      this.#state = "closed";
      this.#sender.abort();
      this.#pauses.end();
    });
    await this.#worker;
    cancel();
  }

  async #work(): Promise<void> {
    while (this.#queue.size > 0) {
      await this.#gather();
      const items = this.#queue.takeBatch();
      // Everything may have been withdrawn in the meantime.
      if (items.length === 0) break;
      this.#queue.sending = items;
      const isDelivered = await this.#deliver(items);
      if (this.#isClosed && !isDelivered) break;
      this.#queue.sending = [];
      if (isDelivered) this.#delivered += items.length;
      else this.#lost += items.length;
    }
    const left = [...this.#queue.sending, ...this.#queue.takeAll()];
    this.#queue.sending = [];
    if (left.length > 0) {
      this.#report("closed", left, "it was not delivered before the close");
      this.#lost += left.length;
    }
    this.#reporter.reset();
    this.#worker = null;
  }

  /** Waits until a batch is full, or its time is up. */
  async #gather(): Promise<void> {
    const { batch } = this.#settings;
    if (!batch || this.#queue.isBatchFull || this.#state !== "open") return;
    this.#isGathering = true;
    await this.#pauses.wait(BATCH_MS);
    this.#isGathering = false;
  }

  /** Tries until success, the last retry or the close. */
  async #deliver(items: Item[]): Promise<boolean> {
    const body = encodeBody(items);
    const id = crypto.randomUUID();
    for (const delayMs of [...this.#settings.retryDelaysMs, null]) {
      if (this.#isClosed) return false;
      const failure = await this.#sender.post(id, body);
      if (failure === null) return true;
      // The close reports all events that are left, these included.
      if (this.#isClosed) return false;
      const { reason, cause } = failure;
      if (delayMs === null) this.#report("gave_up", items, reason, cause);
      else {
        this.#report("retrying", items, reason, cause);
        await this.#pauses.wait(delayMs);
      }
    }
    return false;
  }

  #report(
    failure: WebhookFailure,
    items: readonly Item[],
    reason: string,
    cause?: unknown,
  ): void {
    const events = items.map(({ json }) => json);
    this.#reporter.report(failure, events, { reason, cause });
  }
}
