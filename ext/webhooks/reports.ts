/**
 * What is said of events that an endpoint did not get.
 *
 * @module
 */

import type { OutgoingEvent } from "./events.ts";

/** What has failed, in a {@linkcode WebhookError}. */
export type WebhookFailure =
  /** A try failed, and a retry follows. */
  | "retrying"
  /** The last try failed. */
  | "gave_up"
  /** The queue was full, or events waited in the journal for too long. */
  | "dropped"
  /** The events were not delivered before the close. */
  | "closed";

/**
 * An endpoint did not get its events. Only after `retrying` it still may.
 *
 * @example
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { type WebhookError, webhooks } from "@glitz/pusher/webhooks";
 *
 * const app = { key: "app-key", secret: "app-secret" };
 * webhooks(new Pusher(app), {
 *   ...app,
 *   endpoints: [{ url: "https://example.com/pusher" }],
 *   onError(error: WebhookError) {
 *     if (error.failure !== "retrying") console.error(error.message, error.events);
 *   },
 * });
 * ```
 */
export class WebhookError extends Error {
  /** What has failed. */
  readonly failure: WebhookFailure;
  /** The endpoint's URL with its query, which the message leaves out. */
  readonly url: string;
  /** The events; none where the journal has dropped them, or cannot be reached. */
  readonly events: readonly OutgoingEvent[];

  /** Made by {@linkcode webhooks}, for {@linkcode WebhookOptions.onError}. */
  constructor(
    message: string,
    options: ErrorOptions & {
      failure: WebhookFailure;
      url: string;
      events: readonly OutgoingEvent[];
    },
  ) {
    super(message, options);
    this.name = "WebhookError";
    this.failure = options.failure;
    this.url = options.url;
    this.events = options.events;
  }
}

/** Why a try failed, or events were dropped. */
export interface Failure {
  readonly reason: string;
  readonly cause?: unknown;
}

/** What becomes of the webhook, for messages. */
const OUTCOME: Readonly<Record<WebhookFailure, string>> = Object.freeze({
  retrying: "and will try again",
  gave_up: "and gave up",
  dropped: "and dropped it",
  closed: "and lost it",
});

/** Reports the failures of one endpoint to the program, or prints them. */
export class Reporter {
  readonly #url: string;
  readonly #onError: ((error: WebhookError) => unknown) | undefined;
  /** The kinds of errors that were printed since the endpoint last caught up. */
  readonly #printed = new Set<WebhookFailure>();

  constructor(
    url: string,
    onError: ((error: WebhookError) => unknown) | undefined,
  ) {
    this.#url = url;
    this.#onError = onError;
  }

  /** Says that the endpoint has caught up. */
  reset(): void {
    this.#printed.clear();
  }

  /** @param events The events as JSON texts. */
  report(
    failure: WebhookFailure,
    events: readonly string[],
    { reason, cause }: Failure,
  ): void {
    const onError = this.#onError;
    if (onError === undefined && this.#printed.has(failure)) return;
    const error = new WebhookError(
      `Cannot deliver a webhook to "${this.#shownUrl()}", ${
        OUTCOME[failure]
      }: ` +
        reason,
      {
        failure,
        url: this.#url,
        events: events.map((json) => JSON.parse(json)),
        cause,
      },
    );
    if (onError === undefined) {
      this.#printed.add(failure);
      return console.error(`Pusher: ${error.message}`);
    }
    const failed = (fault: unknown) =>
      console.error("Pusher: failed while running onError of webhooks:", fault);
    try {
      const result = onError(error);
      if (result instanceof Promise) result.catch(failed);
    } catch (fault) {
      failed(fault);
    }
  }

  /** Why a request failed, by the runtime. */
  explain(error: unknown): string {
    // Often only the cause of fetch's error says more than that it failed.
    const { cause = error } = Object(error);
    const text = cause instanceof Error ? cause.message : String(cause);
    // Errors quote the whole URL, and its query is often a secret.
    return text.replaceAll(this.#url, this.#shownUrl());
  }

  /** The URL without its query. */
  #shownUrl(): string {
    const { origin, pathname } = new URL(this.#url);
    return origin + pathname;
  }
}
