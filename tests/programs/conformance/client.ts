/**
 * Items 98-100: what clients do, this repository's own and pusher-js, against a
 * server that does as it is told.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { Pusher as OwnPusher } from "../../../client.ts";
import type { Bench, Sections } from "./bench.ts";
import { RELEASES } from "./stock.ts";
import {
  dataOf,
  DEADLINE_MS,
  type Frame,
  hold,
  inTime,
  pause,
  Queue,
  same,
  show,
  type Watch,
} from "./wire.ts";

/** Clients come back at once before this, and after a second otherwise. */
const AT_ONCE_MS = 900;
/** A client that has not come back by then does not. */
const NEVER_MS = 2_500;

// ---- A server that does as it is told ---------------------------------------
// It accepts sockets by hand, as a WebSocket of the runtime cannot end without a
// close frame or with one that says nothing.

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** The first byte of a connection with TLS. */
const TLS_HANDSHAKE = 0x16;

/** One connection of a client. */
class Visit {
  /** When it came, in ms. */
  readonly at = performance.now();
  /** Whether it asked for TLS, of which there is none. */
  isTls = false;
  readonly frames = new Queue<Frame>();
  readonly #tcp: Deno.TcpConn;
  #bytes: Uint8Array = new Uint8Array();
  static #count = 0;

  constructor(tcp: Deno.TcpConn) {
    this.#tcp = tcp;
  }

  /** Answers the upgrade, or finds out that it is none. */
  async accept(): Promise<void> {
    await this.#read(1);
    this.isTls = this.#bytes[0] === TLS_HANDSHAKE;
    if (this.isTls) return this.drop();
    let end;
    while (
      (end = new TextDecoder().decode(this.#bytes).indexOf("\r\n\r\n")) < 0
    ) {
      await this.#read(this.#bytes.length + 1);
    }
    const head = new TextDecoder().decode(this.#take(end + 4));
    const key = /^sec-websocket-key: *(\S+)/im.exec(head)?.[1] ?? "";
    const accept = createHash("sha1").update(key + GUID).digest("base64");
    await this.#write(new TextEncoder().encode(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n" +
        `Connection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    ));
    this.#listen().catch(() => this.frames.end("connection ended"));
  }

  /** Greets the client. */
  async establish(): Promise<void> {
    await this.send("pusher:connection_established", {
      data: JSON.stringify({
        socket_id: `${++Visit.#count}.1`,
        activity_timeout: 120,
      }),
    });
  }

  async send(event: string, more: Partial<Frame> = {}): Promise<void> {
    await this.#frame(1, JSON.stringify({ event, ...more }));
  }

  /** Confirms the next subscription, and returns the channel. */
  async confirm(data: unknown = {}): Promise<string> {
    const asked = await this.frames.upTo(
      ({ event }) => event === "pusher:subscribe",
      "pusher:subscribe",
    );
    // It is the last of them, and there is one.
    const { channel } = dataOf(asked.at(-1)!);
    const event = "pusher_internal:subscription_succeeded";
    await this.send(event, { channel, data: JSON.stringify(data) });
    return channel;
  }

  /** Closes with a code, or with none. */
  async close(code: number | null): Promise<void> {
    const bytes = code === null ? [] : [code >> 8, code & 255];
    await this.#frame(8, new Uint8Array(bytes));
  }

  /** Ends the connection without a word. */
  drop(): void {
    try {
      this.#tcp.close();
    } catch {
      // The client was faster.
    }
  }

  /** Reads what the client sends, all of it masked. */
  async #listen(): Promise<void> {
    for (;;) {
      await this.#read(2);
      const size = this.#bytes[1]! & 127;
      const wide = size === 126 ? 2 : 0;
      hold(size < 127, "a frame that is longer than a client's has to be");
      await this.#read(2 + wide);
      const length = wide === 0 ? size : this.#bytes[2]! << 8 | this.#bytes[3]!;
      await this.#read(2 + wide + 4 + length);
      const frame = this.#take(2 + wide + 4 + length);
      const mask = frame.subarray(2 + wide, 6 + wide);
      const body = frame.subarray(6 + wide).map((byte, i) =>
        byte ^ mask[i % 4]!
      );
      const opcode = frame[0]! & 15;
      if (opcode === 1) {
        this.frames.push(JSON.parse(new TextDecoder().decode(body)));
      }
      // The answer to ours, or the client's own, which is answered by the end.
      if (opcode === 8) return this.drop();
    }
  }

  async #frame(opcode: number, payload: string | Uint8Array): Promise<void> {
    const body = typeof payload === "string"
      ? new TextEncoder().encode(payload)
      : payload;
    const size = body.length < 126
      ? [body.length]
      : [126, body.length >> 8, body.length & 255];
    await this.#write(new Uint8Array([0x80 | opcode, ...size, ...body]));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      at += await this.#tcp.write(bytes.subarray(at));
    }
  }

  /** Has at least so many bytes at hand. */
  async #read(count: number): Promise<void> {
    const buffer = new Uint8Array(4096);
    while (this.#bytes.length < count) {
      const read = await this.#tcp.read(buffer);
      hold(read !== null, "connection ended");
      const more = buffer.subarray(0, read);
      this.#bytes = new Uint8Array([...this.#bytes, ...more]);
    }
  }

  #take(count: number): Uint8Array {
    const taken = this.#bytes.slice(0, count);
    this.#bytes = this.#bytes.slice(count);
    return taken;
  }
}

/** A port whose visitors are handed out one by one. */
class Script implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #visits = new Queue<Visit>();
  readonly #all: Visit[] = [];
  readonly #done: Promise<void>;

  constructor() {
    this.#done = this.#accept();
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  async #accept(): Promise<void> {
    for await (const tcp of this.#listener) {
      const visit = new Visit(tcp);
      this.#all.push(visit);
      visit.accept().then(() => this.#visits.push(visit), () => visit.drop());
    }
  }

  /** The next connection of the client. */
  async next(what: string, ms = DEADLINE_MS): Promise<Visit> {
    return (await this.#visits.upTo(() => true, what, ms))[0]!;
  }

  /** The next connection, greeted. */
  async greeted(what: string): Promise<Visit> {
    const visit = await this.next(what);
    await visit.establish();
    return visit;
  }

  /** Connections that nobody has taken. */
  drain(): Visit[] {
    return this.#visits.drain();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#done;
    for (const visit of this.#all) visit.drop();
  }
}

// ---- Clients ----------------------------------------------------------------

// deno-lint-ignore no-explicit-any -- handlers are told what the item has sent
type Handler = (...given: any[]) => void;

/** What emitters of all clients have in common. */
interface Emitter {
  bind(event: string, handler: Handler, context?: unknown): unknown;
  unbind(
    event?: string | null,
    handler?: Handler | null,
    context?: unknown,
  ): unknown;
  bind_global(handler: Handler): unknown;
  unbind_global(handler?: Handler): unknown;
  unbind_all(): unknown;
}

/** The members of a presence channel. */
interface Members {
  readonly count: number;
  readonly me: { id: string; info: unknown };
  get(id: string): { id: string; info: unknown } | null;
  each(visit: (member: { id: string }) => void): void;
}

interface AnyPusher extends Emitter {
  readonly connection: Emitter & { readonly state: string };
  subscribe(channel: string): Emitter & { readonly members: Members };
  channel(name: string): unknown;
  disconnect(): void;
}

/** A client and the server it is connecting to. */
interface Pair {
  readonly name: string;
  readonly script: Script;
  readonly pusher: AnyPusher;
}

const ME = "ann";

const OWN = "client.ts";

/** Each connects a client to a server of its own. */
const CLIENTS: readonly ((t: Bench) => Pair)[] = [
  (t) => {
    const script = t.use(new Script());
    return { name: OWN, script, pusher: ownClient(t, script) };
  },
  ...RELEASES.map((release) => (t: Bench) => {
    const script = t.use(new Script());
    // Sockets of Node.js begin no TLS with an address.
    const origin = `http://localhost:${script.port}`;
    const member = { user_id: ME };
    // What is common to all clients is of the same shape in its types.
    const pusher = t.stock(release, { origin, member }).pusher as unknown;
    return {
      name: `pusher-js ${release}`,
      script,
      pusher: pusher as AnyPusher,
    };
  }),
];

function ownClient(t: Bench, { port }: Script): AnyPusher {
  const pusher = new OwnPusher("app-key", {
    wsHost: "127.0.0.1",
    wsPort: port,
    wssPort: port,
    forceTLS: false,
    enabledTransports: ["ws"],
    // On a busy machine a client may take longer than usual to connect.
    unavailableTimeout: 2 * DEADLINE_MS,
    channelAuthorization: {
      customHandler: (_request, callback) =>
        callback(null, {
          auth: "app-key:signature",
          channel_data: JSON.stringify({ user_id: ME }),
        }),
    },
  });
  t.use({ [Symbol.dispose]: () => pusher.disconnect() });
  // As above.
  return pusher as unknown as AnyPusher;
}

/** Waits until a connection is in a state. */
async function reaches(
  { pusher, name }: Pair,
  state: string,
  ms = DEADLINE_MS,
): Promise<void> {
  const reached = new Queue<string>();
  const { connection } = pusher;
  const listen = () => reached.push(state);
  connection.bind(state, listen);
  if (connection.state === state) listen();
  await reached.upTo(() => true, `${state} at ${name}`, ms);
  connection.unbind(state, listen);
}

/** Tries the same with every client. */
function each(t: Bench, run: (pair: Pair) => Promise<void>): Promise<unknown> {
  return Promise.all(CLIENTS.map((connect) => run(connect(t))));
}

// ---- Close codes ------------------------------------------------------------

/** What a client does next. */
type Next = "at once" | "later" | "never" | "with TLS at once";

/** The table of close codes: one or two of each class. */
const CLOSES: [code: number | null | "dropped", next: Next, told: boolean][] = [
  [1000, "later", false],
  [1001, "later", false],
  [1002, "later", true],
  [1003, "later", true],
  [null, "later", true],
  ["dropped", "later", true],
  [1011, "later", true],
  [3000, "later", true],
  [4000, "with TLS at once", true],
  [4001, "never", true],
  [4099, "never", true],
  [4100, "later", true],
  [4199, "later", true],
  [4200, "at once", true],
  [4299, "at once", true],
  [4300, "never", true],
];

/** Closes a client's connection, and expects what the table says. */
async function closeAndSee(
  pair: Pair,
  [code, next, told]: typeof CLOSES[number],
  isGreeted: boolean,
  watch: Watch,
): Promise<void> {
  const { name, script, pusher } = pair;
  // The sockets of pusher-js in Node.js take that for 1000.
  if (code === null && pair.name !== OWN) return pusher.disconnect();
  const when = isGreeted ? "after" : "before";
  const what = `${code ?? "no code"} ${when} the handshake at ${name}`;
  const errors: unknown[] = [];
  pusher.connection.bind("error", (error) => errors.push(error));
  const visit = await script.next(`connection of ${name}`);
  if (isGreeted) {
    await visit.establish();
    await reaches(pair, "connected");
  }
  watch.begin();
  const closedAt = performance.now();
  if (code === "dropped") visit.drop();
  else await visit.close(code);

  if (next === "never") {
    await reaches(pair, "disconnected");
    await pause(NEVER_MS);
    same(script.drain().length, 0, `connections after ${what}`);
    same(pusher.connection.state, "disconnected", `state after ${what}`);
  } else {
    const again = await script.next(`connection after ${what}`);
    const ms = Math.round(again.at - closedAt);
    watch.end();
    hold(next !== "later" || ms >= AT_ONCE_MS, `${what}: back after ${ms} ms`);
    same(again.isTls, next === "with TLS at once", `TLS after ${what}`);
    same(pusher.connection.state, "connecting", `state after ${what}`);
    if (!again.isTls) {
      await again.establish();
      await reaches(pair, "connected");
    }
  }
  same(errors.length > 0, told, `errors after ${what}: ${show(errors)}`);
  pusher.disconnect();
}

// ---- Emitters ---------------------------------------------------------------

/** Handlers that are bound, and a way to take them off. */
interface Bound {
  readonly f: Handler;
  readonly context: object;
  readonly global: Handler;
}

/**
 * `first` is heard by every event, by f twice and by g with a context; `second`
 * by every event and by f with a context.
 */
const UNBINDS: [
  form: string,
  unbind: (emitter: Emitter, bound: Bound) => unknown,
  first: string,
  second: string,
][] = [
  ["nothing", () => {}, "* f f g", "* f"],
  ["unbind(ev, fn)", (e, { f }) => e.unbind("first", f), "* g", "* f"],
  ["unbind(ev)", (e) => e.unbind("first"), "*", "* f"],
  ["unbind(null, fn)", (e, { f }) => e.unbind(null, f), "* g", "*"],
  [
    "unbind(null, null, ctx)",
    (e, { context }) => e.unbind(null, null, context),
    "* f f",
    "*",
  ],
  [
    "unbind(ev, null, ctx)",
    (e, { context }) => e.unbind("first", null, context),
    "* f f",
    "* f",
  ],
  [
    "unbind(ev, fn, ctx)",
    (e, { f, context }) => e.unbind("first", f, context),
    "* f f g",
    "* f",
  ],
  ["unbind()", (e) => e.unbind(), "*", "*"],
  [
    "unbind_global(fn)",
    (e, { global }) => e.unbind_global(global),
    "f f g",
    "f",
  ],
  ["unbind_global()", (e) => e.unbind_global(), "f f g", "f"],
  ["unbind_all()", (e) => e.unbind_all(), "", ""],
];

/** Sends frames, and waits until the client has heard of all of them. */
async function tell(
  { pusher }: Pair,
  visit: Visit,
  ...frames: (Partial<Frame> & { event: string })[]
): Promise<void> {
  const marks = new Queue<Frame>();
  const listen = (frame: Frame) => marks.push(frame);
  pusher.connection.bind("message", listen);
  for (const { event, ...more } of frames) await visit.send(event, more);
  await visit.send("mark");
  await marks.upTo(({ event }) => event === "mark", "mark");
  pusher.connection.unbind("message", listen);
}

/** Tries every form of unbind on an emitter that hears of a channel. */
async function tryUnbinds(
  pair: Pair,
  visit: Visit,
  emitter: Emitter,
  channel: string,
): Promise<void> {
  for (const [form, unbind, first, second] of UNBINDS) {
    let heard: string[] = [];
    const context = {};
    const f: Handler = () => heard.push("f");
    const g = function (this: unknown) {
      heard.push(this === context ? "g" : "g without its context");
    };
    const global: Handler = (event) => {
      if (event !== "mark") heard.push("*");
    };
    emitter.bind("first", f);
    emitter.bind("first", f);
    emitter.bind("first", g, context);
    emitter.bind("second", f, context);
    emitter.bind_global(global);
    unbind(emitter, { f, context, global });
    for (const [event, expected] of [["first", first], ["second", second]]) {
      heard = [];
      await tell(pair, visit, { event: event!, channel, data: "1" });
      same(heard.join(" "), expected, `${event} after ${form} at ${pair.name}`);
    }
    emitter.unbind_all();
  }
}

/** What handlers of a channel and of the client are called with. */
const ARGUMENTS: [
  frame: Partial<Frame>,
  ofChannel: unknown[],
  ofClient: unknown[],
][] = [
  [{ data: `{"n":1}` }, [{ n: 1 }, {}], [{ n: 1 }]],
  [{ data: "text" }, ["text", {}], ["text"]],
  [{ data: "12", user_id: "bob" }, [12, { user_id: "bob" }], [12]],
  [{ data: "0" }, [0, {}], []],
  [{}, [undefined, {}], []],
];

async function tryArguments(
  pair: Pair,
  visit: Visit,
  channelObject: Emitter,
  channel: string,
): Promise<void> {
  const given: unknown[][] = [];
  const record: Handler = (...args) => given.push(args);
  channelObject.bind("client-e", record);
  pair.pusher.bind("client-e", record);
  for (const [frame, ofChannel, ofClient] of ARGUMENTS) {
    await tell(pair, visit, { event: "client-e", channel, ...frame });
    const expected = [ofChannel, ofClient];
    const what = `arguments for ${show(frame)} at ${pair.name}`;
    same(
      given.splice(0).map((args) => [args.length, args]),
      expected.map(
        (args) => [args.length, args],
      ),
      what,
    );
  }
}

/** Presence data with some users. */
function presence(...ids: string[]) {
  const hash = Object.fromEntries(
    ids.map((id) => [id, { name: `I am ${id}` }]),
  );
  return { presence: { ids, hash, count: ids.length } };
}

/** Expects a channel to have certain members, oneself among them. */
function hasMembers(
  { name }: Pair,
  { members }: { members: Members },
  ids: string[],
  when: string,
): void {
  const seen: string[] = [];
  members.each(({ id }) => seen.push(id));
  same(seen.sort(), ids, `members ${when} at ${name}`);
  same(members.count, ids.length, `count ${when} at ${name}`);
  const infos = ids.map((id) => members.get(id));
  const expected = ids.map((id) => ({ id, info: { name: `I am ${id}` } }));
  same(infos, expected, `infos ${when} at ${name}`);
  if (ids.length === 0) return;
  same(members.me, expected[0], `me ${when} at ${name}`);
}

async function tryMembers(pair: Pair): Promise<void> {
  const { script, pusher } = pair;
  const room = pusher.subscribe("presence-room");
  const visit = await script.greeted(`connection of ${pair.name}`);
  const channel = await visit.confirm(presence(ME, "bob"));
  await tell(pair, visit);
  hasMembers(pair, room, [ME, "bob"], "at first");

  const told: unknown[] = [];
  for (const event of ["member_added", "member_removed"]) {
    room.bind(`pusher:${event}`, (member) => told.push([event, member]));
  }
  const user = (user_id: string, more = {}) => ({
    channel,
    data: JSON.stringify({ user_id, ...more }),
  });
  const user_info = { name: "I am cid" };
  await tell(
    pair,
    visit,
    { event: "pusher_internal:member_added", ...user("cid", { user_info }) },
    { event: "pusher_internal:member_removed", ...user("bob") },
    { event: "pusher_internal:member_removed", ...user("nobody") },
  );
  same(told, [
    ["member_added", { id: "cid", info: user_info }],
    ["member_removed", { id: "bob", info: { name: "I am bob" } }],
  ], `told at ${pair.name}`);
  hasMembers(pair, room, [ME, "cid"], "after add and remove");
  same(room.members.get("bob"), null, `who has left at ${pair.name}`);

  await visit.close(4200);
  await reaches(pair, "connecting");
  hasMembers(pair, room, [], "without a connection");
  const again = await script.greeted(`reconnection of ${pair.name}`);
  await again.confirm(presence(ME, "dan"));
  await tell(pair, again);
  hasMembers(pair, room, [ME, "dan"], "after the reconnect");
}

// ---- Items ------------------------------------------------------------------

export const CLIENT: Sections = [["Client", [
  {
    number: 98,
    title: "subscribe().bind() before connect; chains; bindings survive",
    async run(t) {
      await each(t, async (pair) => {
        const { name, script, pusher } = pair;
        const got: unknown[] = [];
        const channel = pusher.subscribe("news");
        const chained = channel.bind("create", (data) => got.push(data));
        same(chained === channel, true, `bind returns the channel at ${name}`);
        same(pusher.channel("news") === channel, true, `same channel, ${name}`);
        hold(pusher.connection.state !== "connected", `${name} is connected`);
        for (const [n, when] of ["first", "second"].entries()) {
          const visit = await script.greeted(`${when} connection of ${name}`);
          same(await visit.confirm(), "news", `channel at ${name}`);
          const create = { event: "create", channel: "news", data: `${n}` };
          await tell(pair, visit, create);
          same(got.splice(0), [n], `events of the ${when} at ${name}`);
          await visit.close(4200);
        }
      });
      return `over 2 connections: client.ts, pusher-js ${RELEASES.join(", ")}`;
    },
  },
  {
    number: 99,
    title: "Each class of close code leads to its state and delay",
    isSlow: true,
    async run(t) {
      const tries = CLOSES.flatMap((row) =>
        [true, false].flatMap((isGreeted) =>
          CLIENTS.map((connect) =>
            // Only those that are back at once may be late.
            inTime(
              row[1].endsWith("at once") ? AT_ONCE_MS : Infinity,
              (watch) => closeAndSee(connect(t), row, isGreeted, watch),
            )
          )
        )
      );
      await Promise.all(tries);
      return `${CLOSES.length} ends, before and after the handshake: ` +
        `client.ts, pusher-js ${RELEASES.join(", ")}`;
    },
  },
  {
    number: 100,
    title: "All forms of unbind, order, arguments, members",
    async run(t) {
      await each(t, async (pair) => {
        const { name, script, pusher } = pair;
        const channelObject = pusher.subscribe("presence-room");
        const visit = await script.greeted(`connection of ${name}`);
        const channel = await visit.confirm(presence(ME));
        await tell(pair, visit);
        await tryUnbinds(pair, visit, channelObject, channel);
        await tryUnbinds(pair, visit, pusher, channel);
        await tryArguments(pair, visit, channelObject, channel);
      });
      await each(t, tryMembers);
      return `${UNBINDS.length} forms on channel and client: ` +
        `client.ts, pusher-js ${RELEASES.join(", ")}`;
    },
  },
]]];
