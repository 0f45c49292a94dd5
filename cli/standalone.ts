/**
 * A standalone server out of its settings, without a port.
 *
 * @module
 */

import { STARTING } from "../core/hooks.ts";
import { credentialsOf } from "../core/keys.ts";
import type { DebugConsole } from "../ext/console.ts";
import { type Webhooks, webhooks } from "../ext/webhooks.ts";
import {
  type AppOptions,
  type Backplane,
  type Credentials,
  Pusher,
} from "../mod.ts";
import { messageOf, type Settings, UsageError } from "./settings.ts";

/** A server with its settings and its webhooks, one per app. */
export interface Standalone {
  readonly pusher: Pusher;
  /** Resolves when the backplane can be used; null if it can already. */
  readonly up: Promise<void> | null;
  readonly settings: Settings;
  /** The debug console, where it is asked for. */
  readonly debug: DebugConsole | null;
  readonly senders: readonly Webhooks[];
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
  const up = backplane && whenUp(pusher);
  const senders = startWebhooks(pusher, settings);
  const debug = await makeConsole(pusher, settings);
  return { pusher, up, settings, debug, senders };
}

/** The key that signs, of an app that has been checked. */
export function newestOf(app: AppOptions): Credentials {
  return credentialsOf(app)[0]!;
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

/** Resolves when the backplane has started. If it cannot, says why and exits. */
function whenUp(pusher: Pusher): Promise<void> {
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
      console.error(`Pusher: ${what}: ${messageOf(error)}`);
      if (during === STARTING) Deno.exit(1);
    }),
  ];
  return promise.then(() => stop.forEach((unlisten) => unlisten()));
}

/** Reports each app to the URLs of `--webhook`. */
function startWebhooks(
  pusher: Pusher,
  { webhooks: urls, pusher: options }: Settings,
): Webhooks[] {
  if (urls.length === 0) return [];
  const endpoints = urls.map((url) => ({ url }));
  if (options.apps !== undefined) {
    return options.apps.map((app) =>
      webhooks(pusher.app(app.id), { ...newestOf(app), endpoints })
    );
  }
  const { key = "app-key", secret } = options;
  if (secret === undefined) {
    throw new UsageError("--webhook needs a --secret to sign with");
  }
  return [webhooks(pusher, { key, secret, endpoints })];
}
