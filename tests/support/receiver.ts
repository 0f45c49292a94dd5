/**
 * A program that receives webhooks. Each of them is checked with the official SDK and
 * with our own reader.
 *
 * @module
 */
import { Pusher } from "@glitz/pusher";
import type { OutgoingEvent } from "@glitz/pusher/webhooks";
import { assert, assertEquals } from "@std/assert";
import StockServerSdk from "pusher";
import { DEADLINE_MS, within } from "./deadline.ts";
import { Queue } from "./queue.ts";

/** The credentials that the published examples of signatures are made with. */
export const APP = {
  appId: "3",
  key: "278d425bdf160c739803",
  secret: "7ad3773142a6692b25b8",
};

const sdk = new StockServerSdk({ ...APP, cluster: "none" });

/** Reads what came in; it serves nothing. */
const reader = new Pusher(APP);

/** A webhook as a receiver got it. */
export interface Delivery {
  rawBody: string;
  headers: Headers;
  id: string;
  timeMs: number;
  events: OutgoingEvent[];
}

/** Reads a request, which has to be a webhook that every verifier accepts. */
async function readDelivery(request: Request): Promise<Delivery> {
  const { headers } = request;
  const rawBody = await request.text();
  assertEquals(request.method, "POST");
  assertEquals(headers.get("content-type"), "application/json");
  const stock = sdk.webhook({ headers: Object.fromEntries(headers), rawBody });
  assert(stock.isValid(), rawBody);
  const own = reader.webhook({ headers, rawBody });
  assert(own.isValid(), rawBody);
  assertEquals(own.getEvents(), stock.getEvents() as unknown[]);
  return {
    rawBody,
    headers,
    id: headers.get("x-pusher-webhook-id") ?? "",
    timeMs: own.getData().time_ms,
    events: own.getEvents() as OutgoingEvent[],
  };
}

/** A program that receives webhooks, and can be killed and started again. */
export class Receiver implements AsyncDisposable {
  readonly deliveries = new Queue<Delivery>();
  /** How the requests are answered. */
  answer: (delivery: Delivery) => Response | Promise<Response>;
  /** Most requests there have been at one time. */
  mostAtOnce = 0;
  #atOnce = 0;
  #server!: Deno.HttpServer<Deno.NetAddr>;
  #killer!: AbortController;
  #fault: unknown;

  constructor(answer: Receiver["answer"] = () => new Response()) {
    this.answer = answer;
    this.start(0);
  }

  get port(): number {
    return this.#server.addr.port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/hook`;
  }

  start(port = this.port): void {
    this.#killer = new AbortController();
    const { signal } = this.#killer;
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port, signal, onListen() {} },
      async (request) => {
        this.mostAtOnce = Math.max(this.mostAtOnce, ++this.#atOnce);
        try {
          const delivery = await readDelivery(request);
          this.deliveries.push(delivery);
          return await this.answer(delivery);
        } catch (fault) {
          this.#fault ??= fault;
          return new Response(null, { status: 500 });
        } finally {
          this.#atOnce--;
        }
      },
    );
  }

  /** Ends at once: what is under way gets no answer. */
  async kill(): Promise<void> {
    this.#killer.abort();
    await within(DEADLINE_MS, "end of the receiver", this.#server.finished);
  }

  /** Takes the next webhook. */
  take(): Promise<Delivery> {
    return this.deliveries.next("webhook");
  }

  /** Takes the next webhook, of one event, as `name channel user`. */
  async told(): Promise<string> {
    const { events } = await this.take();
    assertEquals(events.length, 1);
    return inShort(events[0]!);
  }

  async toldAll(count: number): Promise<string[]> {
    const all = [];
    for (let i = 0; i < count; i++) all.push(await this.told());
    return all;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    if (this.#fault !== undefined) throw this.#fault;
  }
}

/** An event as `name channel user`. */
export function inShort({ name, channel, user_id }: OutgoingEvent): string {
  return [name, channel, user_id].filter(Boolean).join(" ");
}
