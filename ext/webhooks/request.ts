/**
 * The request that carries a webhook: its body, and one try to deliver it.
 *
 * @module
 */

import { hmac } from "../../core/signatures.ts";
import type { Clock } from "../../mod.ts";
import type { EndpointSettings, Settings } from "./options.ts";
import type { Item } from "./queue.ts";
import type { Failure, Reporter } from "./reports.ts";

/** The body. Its time is that of the newest event. */
export function encodeBody(
  items: readonly Pick<Item, "json" | "timeMs">[],
): string {
  const timeMs = items.reduce((max, item) => Math.max(max, item.timeMs), 0);
  const events = items.map(({ json }) => json).join();
  return `{"time_ms":${timeMs},"events":[${events}]}`;
}

/** Sends webhooks to one endpoint, one at a time. */
export class Sender {
  readonly #url: string;
  readonly #headers: Headers;
  readonly #settings: Settings;
  readonly #clock: Clock;
  readonly #reporter: Reporter;
  /** Aborts the current try. */
  #abort: (() => void) | null = null;

  constructor(
    endpoint: EndpointSettings,
    settings: Settings,
    clock: Clock,
    reporter: Reporter,
  ) {
    this.#url = endpoint.url;
    this.#headers = endpoint.headers;
    this.#settings = settings;
    this.#clock = clock;
    this.#reporter = reporter;
  }

  /** Ends the try that is under way. */
  abort(): void {
    this.#abort?.();
  }

  /** One try; null if the endpoint has accepted the webhook. */
  async post(id: string, body: string): Promise<Failure | null> {
    const headers = new Headers(this.#headers);
    headers.set("x-pusher-signature", hmac(this.#settings.secret, body));
    headers.set("x-pusher-webhook-id", id);
    const { timeoutMs } = this.#settings;
    const controller = new AbortController();
    let isLate = false;
    const cancel = this.#clock.after(timeoutMs, () => {
      isLate = true;
      controller.abort();
    });
    this.#abort = () => controller.abort();
    try {
      const { signal } = controller;
      const init = { method: "POST", redirect: "manual", signal } as const;
      const response = await fetch(this.#url, { ...init, headers, body });
      await drain(response);
      if (response.ok) return null;
      return { reason: `it answered ${response.status}` };
    } catch (cause) {
      if (isLate) return { reason: `no answer in ${timeoutMs} ms`, cause };
      return { reason: this.#reporter.explain(cause), cause };
    } finally {
      cancel();
      this.#abort = null;
    }
  }
}

/** What is read of an answer. */
const MAX_ANSWER_BYTES = 65_536;

/**
 * Reads an answer, so that its connection can be reused. A longer answer is cancelled,
 * which closes the connection.
 */
async function drain(response: Response): Promise<void> {
  let bytes = 0;
  try {
    for await (const chunk of response.body ?? []) {
      bytes += chunk.byteLength;
      if (bytes > MAX_ANSWER_BYTES) break;
    }
  } catch {
    // The status is all that matters.
  }
}
