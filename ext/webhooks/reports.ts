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
  /** The queue was full. */
  | "dropped"
  /** The events were not delivered before the close. */
  | "closed";

/** An endpoint did not get its events. Only after `retrying` it still may. */
export class WebhookError extends Error {
  /** What has failed. */
  readonly failure: WebhookFailure;
  /** The endpoint's URL with its query, which the message leaves out. */
  readonly url: string;
  /** The events. */
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
