/**
 * A standalone server out of its settings, without a port.
 *
 * @module
 */

import { STARTING } from "../core/hooks.ts";
import { type WebhookError, type Webhooks, webhooks } from "../ext/webhooks.ts";
import type { DebugConsole } from "../ext/console.ts";
import type { Metrics } from "../ext/metrics.ts";
import { type Backplane, Pusher } from "../mod.ts";
import { newestOf } from "./announce.ts";
import { Bulk, follow, Log, messageOf } from "./log.ts";
import { type Settings, UsageError } from "./settings.ts";

/** A server with its settings and its webhooks, one per app. */
export interface Standalone {
  readonly pusher: Pusher;
  /** Resolves when the backplane can be used; null if it can already. */
  readonly up: Promise<void> | null;
  readonly settings: Settings;
  /** The debug console, where it is asked for. */
  readonly debug: DebugConsole | null;
  readonly senders: readonly Webhooks[];
  /** Serves the metrics; null if nobody wants them. */
  readonly metrics: Metrics | null;
  readonly log: Log;
}

/**
 * Makes the server of settings. It may still have to connect to Redis; if it cannot,
 * it says why and exits.
 *
 * @throws {Error} If the settings are wrong.
 */
export async function standUp(settings: Settings): Promise<Standalone> {
  const backplane = settings.redis && await connect(settings.redis);
  const pusher = new Pusher({
    ...settings.pusher,
    ...(backplane && { backplane }),
  });
  const log = new Log(settings.log);
  const up = backplane && whenUp(pusher, log);
  follow(pusher, log);
  const senders = startWebhooks(pusher, settings, log);
  const metrics = await startMetrics(pusher, settings, senders);
  const debug = await makeConsole(pusher, settings);
  return { pusher, up, settings, debug, senders, metrics, log };
}

/** The debug console. Its page is large, so only who wants it loads it. */
async function makeConsole(
  pusher: Pusher,
  { console: options }: Settings,
): Promise<DebugConsole | null> {
  if (options === null) return null;
  const { debugConsole } = await import("../ext/console.ts");
  return debugConsole(pusher, options);
}

/** The backplane on Redis. Its library is large, so only who wants it loads it. */
async function connect(
  { url, ...options }: NonNullable<Settings["redis"]>,
): Promise<Backplane> {
  const { redis } = await import("../ext/redis.ts");
  return redis(url, options);
}

/** The metrics. Their library is for those who want them. */
async function startMetrics(
  pusher: Pusher,
  { metrics: options }: Settings,
  senders: readonly Webhooks[],
): Promise<Metrics | null> {
  if (options === null) return null;
  const { metrics } = await import("../ext/metrics.ts");
  return metrics(pusher, { ...options, webhooks: senders });
}

/** Resolves when the backplane has started. If it cannot, says why and exits. */
function whenUp(pusher: Pusher, log: Log): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  // From then on errors are printed as without a listener.
  const stop = [
    pusher.on("backplane", () => resolve()),
    pusher.on("error", ({ during, error }) => {
      // It has been told to stop, and so does not start any more.
      if (during === STARTING && pusher.meter.isClosing) return;
      const what = during === STARTING
        ? "cannot start"
        : `failed while ${during}`;
      const message = messageOf(error);
      // Afterwards `follow` says it.
      if (!log.isJson || during === STARTING) {
        log.say("error", { during, message }, `Pusher: ${what}: ${message}`);
      }
      if (during === STARTING) Deno.exit(1);
    }),
  ];
  return promise.then(() => stop.forEach((unlisten) => unlisten()));
}

/** Reports each app to the URLs of `--webhook`. */
function startWebhooks(
  pusher: Pusher,
  { webhooks: urls, pusher: options }: Settings,
  log: Log,
): Webhooks[] {
  if (urls.length === 0) return [];
  const bulk = new Bulk(pusher.clock);
  const onError = log.isJson && ((error: WebhookError) => {
    const { message, failure, events } = error;
    const fields = { failure, message, events: events.length };
    bulk.note(
      `${failure} ${message}`,
      (count) => log.say("webhook_failed", { ...fields, count }, null),
    );
  });
  const more = onError ? { onError } : {};
  const endpoints = urls.map((url) => ({ url }));
  if (options.apps !== undefined) {
    return options.apps.map((app) =>
      webhooks(pusher.app(app.id), {
        ...newestOf(app),
        endpoints,
        ...more,
      })
    );
  }
  const { key = "app-key", secret } = options;
  if (secret === undefined) {
    throw new UsageError("--webhook needs a --secret to sign with");
  }
  return [webhooks(pusher, { key, secret, endpoints, ...more })];
}
