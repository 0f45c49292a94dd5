/**
 * The stock clients of Pusher, unmodified: pusher-js 7 and 8, Laravel Echo and
 * the official server SDK.
 *
 * @module
 */
import Sdk from "npm:pusher@5.3.4";
import LaravelEcho from "npm:laravel-echo@2.5.0";
import nacl from "npm:tweetnacl@1.0.3";
import { Inbox as SupportInbox } from "../../support/queue.ts";
import { type App, DEADLINE_MS } from "./wire.ts";

export { LaravelEcho, nacl, Sdk };

/** The releases of pusher-js. */
const VERSIONS = { 7: "7.6.0", 8: "8.6.0" };
export type Release = keyof typeof VERSIONS;

/**
 * The class of each release. The names are put together, or else types of Node.js
 * that release 7 depends on would become those of the whole program.
 */
const CLASSES = new Map<Release, PusherClass>();
for (const [release, version] of Object.entries(VERSIONS)) {
  const { default: PusherJs } = await import(`npm:pusher-js@${version}`);
  CLASSES.set(Number(release) as Release, PusherJs);
}

export const RELEASES: readonly Release[] = [...CLASSES.keys()];

/** Encrypts end to end: known to the SDK only. */
export const MASTER_KEY = btoa("0123456789abcdef0123456789abcdef");

/** The SDK, pointed at a server. */
export function sdkFor(
  origin: string,
  app: App,
  encryptionMasterKeyBase64 = MASTER_KEY,
): Sdk {
  const { hostname, port, protocol } = new URL(origin);
  return new Sdk({
    appId: app.id,
    key: app.key,
    secret: app.secret,
    host: hostname,
    ...(port === "" ? {} : { port }),
    useTLS: protocol === "https:",
    encryptionMasterKeyBase64,
  });
}

/** What emits events in pusher-js. */
export interface Emitter {
  bind(event: string, callback: (...given: unknown[]) => void): this;
  bind_global(callback: (event: string, data: unknown) => void): this;
}

/** A channel of pusher-js. */
export interface StockChannel extends Emitter {
  readonly members: { me: { id: string; info: unknown }; count: number };
  trigger(event: string, data: unknown): boolean;
}

/** The client object of pusher-js. */
export interface StockPusher extends Emitter {
  readonly connection: Emitter & { state: string; socket_id: string };
  readonly user: Emitter & {
    user_data: { id: string } | null;
    watchlist: Emitter;
  };
  subscribe(channel: string): StockChannel;
  signin(): void;
  disconnect(): void;
}

type PusherClass = new (key: string, options: unknown) => StockPusher;

/** What an emitter emits from now on. */
export class Inbox extends SupportInbox {
  constructor(emitter: Emitter) {
    super(emitter, DEADLINE_MS);
  }
}

/** What a stock client connects with, unless it is a WebSocket. */
export type HttpTransport = "xhr_streaming" | "xhr_polling";

/** Who a stock client is, where it has to be somebody. */
export interface Identity {
  /** Its only transport, and further options. */
  transport?: HttpTransport;
  activityTimeout?: number;
  /** Signs for it. @default {the app's own SDK} */
  signer?: Sdk;
  /** The member on presence channels. */
  member?: { user_id: unknown; user_info?: unknown };
  /** The user it signs in as. */
  user?: { id: string; [field: string]: unknown };
}

/** A pusher-js that connects at once. */
export class StockClient {
  readonly pusher: StockPusher;
  readonly connection: Inbox;

  constructor(
    release: Release,
    origin: string,
    key: string,
    signer: Sdk,
    { member, user, transport, activityTimeout }: Identity,
  ) {
    const { hostname, port, protocol } = new URL(origin);
    const isTls = protocol === "https:";
    const Pusher = CLASSES.get(release) as PusherClass;
    this.pusher = new Pusher(key, {
      // Required, and without effect next to a host.
      cluster: "none",
      wsHost: hostname,
      wsPort: Number(port || 80),
      wssPort: Number(port || 443),
      httpHost: hostname,
      httpPort: Number(port || 80),
      httpsPort: Number(port || 443),
      forceTLS: isTls,
      enabledTransports: transport
        ? [transport]
        : isTls
        ? ["ws", "wss"]
        : ["ws"],
      // On a busy machine a client may take longer than usual to connect.
      unavailableTimeout: 2 * DEADLINE_MS,
      ...(activityTimeout === undefined ? {} : { activityTimeout }),
      disableStats: true,
      nacl,
      channelAuthorization: {
        customHandler: (
          { socketId, channelName }: Record<string, string>,
          callback: (error: null, auth: unknown) => void,
        ) => {
          const named = channelName!.startsWith("presence-") ? member : null;
          callback(
            null,
            signer.authorizeChannel(
              socketId!,
              channelName!,
              // Its types leave out that ids may be numbers.
              (named ?? undefined) as Sdk.PresenceChannelData | undefined,
            ),
          );
        },
      },
      userAuthentication: {
        customHandler: (
          { socketId }: Record<string, string>,
          callback: (error: null, auth: unknown) => void,
        ) => callback(null, signer.authenticateUser(socketId!, user as never)),
      },
    });
    this.connection = new Inbox(this.pusher.connection);
  }

  /** Subscribes, waits until that has succeeded, and listens. */
  async join(name: string): Promise<{ channel: StockChannel; inbox: Inbox }> {
    const channel = this.pusher.subscribe(name);
    const inbox = new Inbox(channel);
    await inbox.data("pusher:subscription_succeeded");
    return { channel, inbox };
  }

  close(): void {
    this.pusher.disconnect();
  }
}
