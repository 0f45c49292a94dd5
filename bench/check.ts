/**
 * Tries a server under test with a few clients before anybody measures it: a peer
 * that does not do its work makes a fine figure.
 *
 * @module
 */
import { Pusher } from "../mod.ts";
import {
  type Ability,
  APP,
  type Dialect,
  type Peer,
  type PeerOptions,
  type TriggerRequest,
} from "./peer.ts";

/** Ample on a busy machine: what passes takes milliseconds. */
const DEADLINE_MS = 20_000;

/** Above the members that every peer takes by default. */
const MEMBERS = 101;

const DATA = "@t00000042 xxxx";

const EVENT = Object.freeze({ name: "m", channel: "c0", data: DATA });

/** Signs as the app that every peer serves. */
const signer = new Pusher({ appId: APP.id, key: APP.key, secret: APP.secret });

/** What shows that a running peer can do something. */
const CHECKS: Partial<Record<Ability, (running: Running) => Promise<void>>> = {
  async fanout({ port, dialect }) {
    await using client = await Client.join(dialect, port);
    await post(port, "events", EVENT);
    await client.next(DATA);
  },
  async signatures({ port }) {
    const query = new URLSearchParams(signedQuery("events", EVENT));
    for (const name of ["auth_signature", "body_md5"]) {
      const wrong = new URLSearchParams(query);
      wrong.set(name, "0".repeat(wrong.get(name)?.length ?? 0));
      const path = `/apps/${APP.id}/events?${wrong}`;
      const { status } = await send(port, path, JSON.stringify(EVENT));
      expect(`a 401 for a wrong ${name}, not ${status}`, status === 401);
    }
  },
  async batch({ port, dialect }) {
    await using client = await Client.join(dialect, port, { query: "batch=1" });
    await post(port, "batch_events", { batch: [EVENT, EVENT] });
    await client.next(/^\[.*@t00000042.*@t00000042/);
  },
  async recover({ port, dialect }) {
    await using client = await Client.join(dialect, port, {
      query: "recover=1",
    });
    await post(port, "events", EVENT);
    await client.next(/@t00000042.*"offset":\d/);
  },
  async session({ port, dialect }) {
    const path = `/r/${crypto.randomUUID()}`;
    await using client = await Client.join(dialect, port, { path });
    await post(port, "events", EVENT);
    await client.next(DATA);
  },
  async "in-process"({ port, dialect }) {
    await using client = await Client.join(dialect, port);
    const asked: TriggerRequest = {
      ...{ first: 6, count: 2, channels: 1, bytes: 20, concurrency: 2 },
    };
    const { ms } = await ask(port, "/bench/trigger", JSON.stringify(asked));
    expect("the duration of the publishes", Number.isFinite(ms));
    await client.next("@t00000006 xxxxxxxxx");
    await client.next("@t00000007 xxxxxxxxx");
  },
  async presence({ port, dialect }) {
    await using room = new AsyncDisposableStack();
    for (let i = 0; i < MEMBERS; i++) {
      const channel = "presence-room";
      room.use(await Client.join(dialect, port, { channel, user: `u${i}` }));
    }
  },
  async turns({ port }) {
    const { longestMs } = await ask(port, "/bench/turn");
    expect("the longest turn", Number.isFinite(longestMs));
  },
};

/** A peer that has been started. */
interface Running {
  dialect: Dialect;
  port: number;
}

/**
 * Starts a peer that is installed, and tries what it can do.
 *
 * @throws {Error} If it cannot. The message says what did not come.
 */
export async function checkPeer(peer: Peer, port: number): Promise<void> {
  await using _server = await start(peer, {
    port,
    presenceMembers: MEMBERS,
    turns: true,
  });
  for (const ability of peer.can) {
    try {
      await CHECKS[ability]?.({ port, dialect: peer.dialect });
    } catch (cause) {
      throw new Error(`Cannot measure ${peer.name} for ${ability}`, { cause });
    }
  }
}

// ---- The server -------------------------------------------------------------

/** Starts a peer and waits until it says that it listens. */
async function start(
  peer: Peer,
  options: PeerOptions,
): Promise<AsyncDisposable> {
  const { command, ...how } = peer.command(options);
  const child = new Deno.Command(command, { ...how, stdout: "piped" }).spawn();
  const server = {
    async [Symbol.asyncDispose]() {
      try {
        child.kill("SIGKILL");
      } catch (error) {
        // It has ended by itself.
        if (!(error instanceof TypeError)) throw error;
      }
      await child.status;
      await printed.catch(() => {});
    },
  };
  const isReady = Promise.withResolvers<void>();
  const printed = (async () => {
    let text = "";
    for await (
      const part of child.stdout.pipeThrough(new TextDecoderStream())
    ) {
      text += part;
      if (/^ready$/m.test(text)) isReady.resolve();
    }
    isReady.reject(new Error(`${peer.name} ended, after ${quote(text)}`));
  })();
  try {
    await within("a line that says ready", isReady.promise);
    return server;
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
}

/** Sends a signed request to the HTTP API. */
async function post(port: number, what: string, fields: object): Promise<void> {
  const path = `/apps/${APP.id}/${what}?${signedQuery(what, fields)}`;
  await ask(port, path, JSON.stringify(fields));
}

function signedQuery(what: string, fields: object): string {
  const body = JSON.stringify(fields), path = `/apps/${APP.id}/${what}`;
  return signer.createSignedQueryString({ method: "POST", path, body });
}

/** Asks a peer over HTTP, which has to answer in JSON and say how long it is. */
async function ask(port: number, path: string, body?: string) {
  const { status, headers, text } = await send(port, path, body);
  expect(`a 200, not ${status} ${quote(text)}`, status === 200);
  expect("a content-length", headers.has("content-length"));
  return JSON.parse(text);
}

/** Sends a request, and returns the answer, whatever it is. */
async function send(port: number, path: string, body?: string) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    method: body === undefined ? "GET" : "POST",
    headers: { "content-type": "application/json" },
    body: body ?? null,
    signal: AbortSignal.timeout(DEADLINE_MS),
  });
  const { status, headers } = response;
  return { status, headers, text: await response.text() };
}

// ---- Clients ----------------------------------------------------------------

/** Where a client goes, besides channel `c0` of the peer. */
interface Place {
  path?: string;
  query?: string;
  channel?: string;
  /** The id of the member, on presence channels. */
  user?: string;
}

/** A client that has joined a channel, whatever it speaks. */
class Client implements AsyncDisposable {
  readonly #socket: WebSocket;
  readonly #opened: Promise<unknown>;
  readonly #closed: Promise<unknown>;
  readonly #frames: string[] = [];
  #wake = () => {};

  constructor(url: string) {
    this.#socket = new WebSocket(url);
    const event = (name: string) =>
      new Promise((resolve) => this.#socket.addEventListener(name, resolve));
    this.#opened = event("open");
    this.#closed = event("close");
    this.#socket.onmessage = ({ data }) => {
      this.#frames.push(data);
      this.#wake();
    };
  }

  /** Connects to a peer, and waits until the client is on the channel. */
  static async join(
    dialect: Dialect,
    port: number,
    { path = "", query = "", channel = "c0", user }: Place = {},
  ): Promise<Client> {
    const { url, converse } = DIALECTS[dialect];
    const client = new Client(`ws://127.0.0.1:${port}${path}${url}&${query}`);
    try {
      await within("connection", client.#opened);
      await converse(client, channel, user);
      return client;
    } catch (error) {
      await client[Symbol.asyncDispose]();
      throw error;
    }
  }

  send(frame: unknown): void {
    this.#socket.send(
      typeof frame === "string" ? frame : JSON.stringify(frame),
    );
  }

  /** Takes all frames up to the first that has a text in it, and returns that. */
  async next(what: string | RegExp): Promise<string> {
    const isIt = (frame: string) =>
      typeof what === "string" ? frame.includes(what) : what.test(frame);
    const found = async () => {
      for (;;) {
        const frame = this.#frames.shift();
        if (frame === undefined) {
          await new Promise<void>((resolve) => this.#wake = resolve);
        } else if (isIt(frame)) return frame;
      }
    };
    return await within(`frame with ${what}`, found());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.close();
    await within("close", this.#closed);
  }
}

/** The address of each dialect, and how a client joins a channel in it. */
const DIALECTS: Record<Dialect, {
  url: string;
  converse(client: Client, channel: string, user?: string): Promise<void>;
}> = {
  pusher: {
    url: `/app/${APP.key}?protocol=7&client=js&version=8.4.0`,
    async converse(client, channel, user) {
      const established = await client.next("connection_established");
      const { socket_id } = JSON.parse(JSON.parse(established).data);
      const permission = user === undefined
        ? {}
        : signer.authorizeChannel(socket_id, channel, { user_id: user });
      const data = { channel, ...permission };
      client.send({ event: "pusher:subscribe", data });
      await client.next("subscription_succeeded");
      client.send({ event: "pusher:ping", data: {} });
      await client.next("pusher:pong");
    },
  },
  faye: {
    url: "/bayeux?",
    async converse(client, channel) {
      const connectionType = "websocket";
      client.send([{
        channel: "/meta/handshake",
        version: "1.0",
        supportedConnectionTypes: [connectionType],
      }]);
      const [{ clientId }] = JSON.parse(await client.next("clientId"));
      const subscription = `/${channel}`;
      // Faye answers all that one frame asks at once, and a connect late.
      client.send([{ channel: "/meta/connect", clientId, connectionType }]);
      client.send([{ channel: "/meta/subscribe", clientId, subscription }]);
      await client.next(/meta.subscribe.*"successful":true/);
    },
  },
  socketio: {
    url: "/socket.io/?EIO=4&transport=websocket",
    async converse(client, channel) {
      await client.next(/^0/);
      client.send("40");
      await client.next(/^40/);
      client.send(`420["subscribe",${JSON.stringify(channel)}]`);
      await client.next(/^430/);
    },
  },
};

// ---- Expectations -----------------------------------------------------------

function expect(what: string, isSo: boolean): void {
  if (!isSo) throw new Error(`Cannot go on without ${what}`);
}

/** Rejects, naming what was awaited, when it takes longer than it may. */
async function within<T>(what: string, promise: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const fail = () => late.reject(new Error(`No ${what} in ${DEADLINE_MS} ms`));
  const timer = setTimeout(fail, DEADLINE_MS);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 300));
}
