/**
 * The stock clients of Pusher, unmodified, and the servers they are run
 * against.
 *
 * @module
 */
import type { UserData } from "@glitz/pusher";
import StockServerSdk from "pusher";
import pusherJs, { type PresenceChannel } from "pusher-js";
import { DEADLINE_MS, within } from "./deadline.ts";
import { APP } from "./server.ts";
import { start } from "./program.ts";
import { Inbox } from "./queue.ts";

/** The package's types describe an ES module, but under Deno it is CommonJS. */
export const PusherJs = pusherJs as unknown as typeof pusherJs.default;

/** Encrypts end to end: 32 bytes, known to the SDK only. */
export const MASTER_KEY = btoa("0123456789abcdef0123456789abcdef");

/** Options of pusher-js besides those that name the server. */
export type StockOptions = Partial<
  ConstructorParameters<typeof PusherJs>[1]
>;

/** The member that a signature names. */
export type StockMember = NonNullable<
  Parameters<StockServerSdk["authorizeChannel"]>[2]
>;

/** A server under test. */
export interface Host extends AsyncDisposable {
  readonly port: number;
}

/** The standalone server, as a program of its own. */
export async function runCli(): Promise<Host> {
  const program = await start([
    "run",
    "--no-prompt",
    "--allow-net",
    "--allow-env",
    "cli.ts",
    ...["--port", "0", "--hostname", "127.0.0.1"],
    ...["--app-id", APP.id, "--key", APP.key, "--secret", APP.secret],
    "--client-events",
  ], /:(\d+).*\n/);
  return {
    port: Number(program.ready[1]),
    [Symbol.asyncDispose]: () => program[Symbol.asyncDispose](),
  };
}

/** The official server SDK, pointed at a host. */
export function sdk(
  { port }: Pick<Host, "port">,
  secret = APP.secret,
): StockServerSdk {
  return new StockServerSdk({
    appId: APP.id,
    key: APP.key,
    secret,
    host: "127.0.0.1",
    port: String(port),
    useTLS: false,
    encryptionMasterKeyBase64: MASTER_KEY,
  });
}

/** pusher-js, connecting; disposal disconnects it. */
export class StockClient implements Disposable {
  readonly pusher: InstanceType<typeof PusherJs>;
  /** What `pusher.connection` says. */
  readonly connection: Inbox;

  readonly #server: { drained?(): Promise<void> };

  constructor(
    server: Pick<Host, "port"> & { drained?(): Promise<void> },
    options: StockOptions = {},
    key = APP.key,
  ) {
    this.#server = server;
    this.pusher = new PusherJs(key, {
      // Required, and without effect next to a host.
      cluster: "none",
      wsHost: "127.0.0.1",
      wsPort: server.port,
      forceTLS: false,
      enabledTransports: ["ws"],
      ...options,
    });
    this.connection = new Inbox(this.pusher.connection);
  }

  get socketId(): string {
    return this.pusher.connection.socket_id;
  }

  /** How long it has decided to wait before each further try, by its own notes. */
  get retryDelays(): unknown[] {
    return this.pusher.timeline.events
      .flatMap(({ action, delay }) => action === "retry" ? [delay] : []);
  }

  /** A presence channel, with its members. */
  presence(channel: string): PresenceChannel {
    return this.pusher.channel(channel) as PresenceChannel;
  }

  /** Collects the metadata that handlers of an event get beside its data. */
  sendersOf(channel: string, event: string): unknown[] {
    const senders: unknown[] = [];
    this.pusher.channel(channel).bind(
      event,
      (_data: unknown, metadata: unknown) => senders.push(metadata),
    );
    return senders;
  }

  /** Resolves when the server has processed everything sent so far. */
  async fence(): Promise<void> {
    await this.#server.drained?.();
    const pong = Promise.withResolvers<void>();
    const listen = ({ event }: { event: string }) => {
      if (event === "pusher:pong") pong.resolve();
    };
    this.pusher.connection.bind("message", listen);
    this.pusher.send_event("pusher:ping", {});
    await within(DEADLINE_MS, "pusher:pong", pong.promise);
    this.pusher.connection.unbind("message", listen);
  }

  /** Subscribes and returns what the channel says from the beginning. */
  subscribe(channel: string): Inbox {
    return new Inbox(this.pusher.subscribe(channel));
  }

  /** Subscribes and waits until that has succeeded. */
  async join(channel: string): Promise<Inbox> {
    const inbox = this.subscribe(channel);
    await inbox.until("pusher:subscription_succeeded");
    return inbox;
  }

  [Symbol.dispose](): void {
    this.pusher.disconnect();
  }
}

/** The option with which pusher-js asks the SDK for its signatures. */
export function authorizedBy(
  signer: StockServerSdk,
  member?: StockMember,
): StockOptions {
  return {
    channelAuthorization: {
      customHandler({ socketId, channelName }, callback) {
        const named = channelName.startsWith("presence-") ? member : undefined;
        callback(
          null,
          signer.authorizeChannel(socketId, channelName, named),
        );
      },
    },
  };
}

/** The option with which pusher-js signs in as a user whom the SDK names. */
export function authenticatedBy(
  server: Pick<Host, "port">,
  user: UserData,
  member = authorizedBy(sdk(server)),
): StockOptions {
  return {
    ...member,
    userAuthentication: {
      endpoint: "",
      transport: "ajax",
      customHandler({ socketId }, callback) {
        callback(null, sdk(server).authenticateUser(socketId, user));
      },
    },
  };
}

/** Resolves when pusher-js has signed in, and subscribed to what is the user's. */
export function signedIn(client: StockClient): Promise<void> {
  const done = new Promise<void>((resolve) =>
    client.pusher.connection.bind("message", ({ event }: { event: string }) => {
      if (event === "pusher_internal:subscription_succeeded") resolve();
    })
  );
  return within(DEADLINE_MS, "sign-in", done);
}

/** Signs pusher-js in. */
export async function stockSignIn(client: StockClient): Promise<void> {
  const done = signedIn(client);
  client.pusher.signin();
  await done;
}
