/**
 * Where an item finds a server with the settings it needs, clients of all kinds,
 * and names that no other item uses.
 *
 * @module
 */
import { type Program, start } from "../../support/program.ts";
import {
  type Identity,
  type Release,
  RELEASES,
  type Sdk,
  sdkFor,
  StockClient,
} from "./stock.ts";
import {
  Api,
  type App,
  dataOf,
  hold,
  Queue,
  RawClient,
  same,
  show,
  Socket,
} from "./wire.ts";

/**
 * What a server has to be started with: flags of cli.ts and their values. `true`
 * is a flag without one, `false` says that it must not be set.
 */
export type Settings = Readonly<Record<string, string | boolean>>;

/** One line of the checklist. */
export interface Item {
  readonly number: number;
  readonly title: string;
  /** Settings without which it cannot be run. */
  readonly needs?: Settings;
  /** Settings that let it see more. */
  readonly wants?: Settings;
  /** Disturbs other items, or is disturbed by them. */
  readonly isAlone?: boolean;
  /** Stops servers, which only a tool that started them may do. */
  readonly isDestructive?: boolean;
  /** Looks back on the others. */
  readonly isLast?: boolean;
  /** Takes seconds, because the protocol does. */
  readonly isSlow?: boolean;
  /** Tries it; says what was seen, or throws. */
  run(t: Bench): Promise<string>;
}

/** The checklist by its sections. */
export type Sections = readonly (readonly [name: string, items: Item[]])[];

// ---- Servers ----------------------------------------------------------------

/** A server, and all that has to be known to use it. */
export interface Host {
  /** Such as `http://127.0.0.1:6001`. */
  readonly origin: string;
  /** The first one is the app of every item that names none. */
  readonly apps: readonly App[];
  readonly settings: Settings;
  /** What it delivers to, where it delivers. */
  readonly hooks?: Receiver;
}

/** Finds servers for items. */
export interface Hosts extends AsyncDisposable {
  /** Why an item cannot be run, or `null`. */
  refuse(item: Item): string | null;
  /** Whether items that must be alone may run beside others. */
  readonly separates: boolean;
  open(item: Item): Promise<Host>;
}

/** Where `apps` are needed: two that work and one that does not. */
function someApps(first: App): App[] {
  const other = { id: "2", key: "other-key", secret: secret() };
  const closed = { id: "3", key: "closed-key", secret: secret() };
  return [first, other, { ...closed, enabled: false }];
}

function secret(): string {
  return crypto.randomUUID();
}

/** How many servers one host has, and by which Redis they are one. */
export interface Cluster {
  readonly nodes: number;
  readonly redis: string;
}

/**
 * Servers of this repository, one for each combination of settings: or as many as a
 * cluster has, behind a balancer.
 */
export class OwnHosts implements Hosts {
  readonly separates = true;
  readonly #cluster: Cluster | null;
  readonly #hosts = new Map<string, Promise<Host>>();
  readonly #stack = new AsyncDisposableStack();
  readonly #starting = new Set<Promise<void>>();

  constructor(cluster: Cluster | null = null) {
    this.#cluster = cluster;
  }

  refuse(): null {
    return null;
  }

  open({ number, isAlone, needs, wants }: Item): Promise<Host> {
    const settings = { ...wants, ...needs };
    const owner = isAlone ? number : "anyone";
    const key = JSON.stringify([owner, Object.entries(settings).sort()]);
    const host = this.#hosts.get(key) ?? this.start(settings);
    this.#hosts.set(key, host);
    return host;
  }

  /** Starts a server of its own, which ends with all others. */
  async start(settings: Settings): Promise<Host> {
    const app = { id: "1", key: "app-key", secret: secret() };
    const apps = settings.apps === true ? someApps(app) : [app];
    const hooks = settings.webhook === true
      ? this.#stack.use(new Receiver())
      : undefined;
    const { origin } = await this.program(apps, settings, hooks);
    return { origin, apps, settings, ...(hooks ? { hooks } : {}) };
  }

  /** Starts cli.ts; disposal stops it as a deployment does. */
  async program(
    apps: App[],
    settings: Settings,
    hooks?: Receiver,
  ): Promise<{ origin: string; program: Program }> {
    const [{ id, key, secret }] = apps as [App];
    const flags = settings.apps === true
      ? ["--apps", await this.#file(apps)]
      : ["--app-id", id, "--key", key, "--secret", secret];
    for (const [name, value] of Object.entries(settings)) {
      if (name === "apps" || value === false) continue;
      flags.push(`--${name}`);
      if (name === "webhook" && hooks) flags.push(hooks.url);
      else if (value !== true) flags.push(`${value}`);
    }
    // A limit of each server: all clients have to reach the same one.
    const nodes = "max-connections" in settings ? 1 : this.#cluster?.nodes ?? 1;
    const cluster = this.#cluster && { ...this.#cluster, nodes };
    const program = await this.#start(flags, cluster);
    this.#stack.use(program);
    return { origin: `http://127.0.0.1:${program.ready[1]}`, program };
  }

  /** Starts one server, or the servers of a cluster, a few programs at a time. */
  async #start(flags: string[], cluster: Cluster | null): Promise<Program> {
    while (this.#starting.size >= MAX_STARTING) {
      await Promise.race(this.#starting);
    }
    const starting = startCli(flags, cluster);
    const settled = starting.then(() => {}, () => {});
    this.#starting.add(settled);
    settled.then(() => this.#starting.delete(settled));
    return await starting;
  }

  async #file(apps: App[]): Promise<string> {
    const path = await Deno.makeTempFile({ suffix: ".json" });
    this.#stack.defer(() => Deno.remove(path));
    await Deno.writeTextFile(path, JSON.stringify(apps));
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** A machine that starts twenty programs at once starts none of them in time. */
const MAX_STARTING = 4;
/** How long a program may take to start beside the others. */
const STARTING_MS = 60_000;

function startCli(flags: string[], cluster: Cluster | null): Promise<Program> {
  const permitted = ["--allow-net", "--allow-env", "--allow-read"];
  const program = cluster === null ? ["cli.ts"] : [
    ...["tests/support/nodes.ts", `${cluster.nodes}`],
    ...["--redis", cluster.redis, "--redis-prefix", crypto.randomUUID()],
  ];
  return start(
    [
      ...["run", "--no-prompt", ...permitted, ...program],
      ...["--hostname", "127.0.0.1", "--port", "0", "--drain", "0", ...flags],
    ],
    /:(\d+)\/app.*\n/,
    {},
    undefined,
    STARTING_MS,
  );
}

/** A server that somebody else has started, and what it is said to be. */
export class ForeignHost implements Hosts {
  readonly separates = false;
  readonly #host: Host;
  readonly #stack = new AsyncDisposableStack();

  constructor(origin: string, apps: App[], settings: Settings) {
    const { webhook } = settings;
    const hooks = typeof webhook === "string"
      ? this.#stack.use(new Receiver(new URL(webhook)))
      : undefined;
    this.#host = { origin, apps, settings, ...(hooks ? { hooks } : {}) };
  }

  refuse({ needs = {}, isDestructive }: Item): string | null {
    if (isDestructive) return "stops the server";
    const { settings } = this.#host;
    const missing = Object.entries(needs)
      .filter(([name, value]) => (value === false) === (name in settings))
      .map(([name, value]) =>
        value === false
          ? `no ${name}`
          : value === true
          ? name
          : `${name}=${value}`
      );
    return missing.length > 0 ? `needs ${missing.join(", ")}` : null;
  }

  open(): Promise<Host> {
    return Promise.resolve(this.#host);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

// ---- Webhooks ---------------------------------------------------------------

/** One request of the server's webhooks. */
export interface Delivery {
  readonly headers: Record<string, string>;
  readonly body: string;
  readonly events: HookEvent[];
  /** When it came, in ms. */
  readonly at: number;
}

/** One event in a delivery. */
export interface HookEvent {
  readonly name: string;
  readonly channel: string;
  readonly [field: string]: unknown;
}

/** What answers a delivery; the standard is 200. */
export type Answering = (delivery: Delivery) => Promise<Response> | Response;

/** Receives webhooks. */
export class Receiver implements AsyncDisposable {
  readonly url: string;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #deliveries: Delivery[] = [];
  readonly #queues = new Map<string, Queue<HookEvent>>();
  /** Answers deliveries for a channel in another way. */
  readonly answering = new Map<string, Answering>();

  constructor(url = new URL("http://127.0.0.1:0/hooks")) {
    const { hostname, pathname } = url;
    this.#server = Deno.serve(
      { hostname, port: Number(url.port || 80), onListen() {} },
      (request) => this.#receive(request),
    );
    this.url = `http://${hostname}:${this.#server.addr.port}${pathname}`;
  }

  async #receive(request: Request): Promise<Response> {
    const body = await request.text();
    const { events } = JSON.parse(body) as { events: HookEvent[] };
    const headers = Object.fromEntries(request.headers);
    const delivery = { headers, body, events, at: performance.now() };
    this.#deliveries.push(delivery);
    for (const event of events) this.#queue(event.channel).push(event);
    const channels = events.map(({ channel }) => channel);
    const answering = channels.map((name) => this.answering.get(name))
      .find((one) => one !== undefined);
    return await answering?.(delivery) ?? new Response();
  }

  #queue(channel: string): Queue<HookEvent> {
    const queue = this.#queues.get(channel) ?? new Queue<HookEvent>();
    this.#queues.set(channel, queue);
    return queue;
  }

  /** Takes the next event of a channel, which has to be the named one. */
  async next(channel: string, name: string, ms?: number): Promise<HookEvent> {
    const [event] = await this.#queue(channel).upTo(
      () => true,
      `webhook ${name} of ${channel}`,
      ms,
    );
    same(event?.name, name, `webhook of ${channel}`);
    return event as HookEvent;
  }

  /** Takes some events of a channel, whichever they are. */
  async some(channel: string, count: number, ms?: number) {
    const events: HookEvent[] = [];
    while (events.length < count) {
      const what = `${count} webhooks of ${channel}`;
      events.push(...await this.#queue(channel).upTo(() => true, what, ms));
    }
    return events;
  }

  /** Takes the events of a channel that have come. */
  drain(channel: string): HookEvent[] {
    return this.#queue(channel).drain();
  }

  /** All requests that had an event of a channel. */
  deliveries(channel: string): Delivery[] {
    return this.#deliveries.filter(({ events }) =>
      events.some((event) => event.channel === channel)
    );
  }

  /** All channels that were named so far. */
  get channels(): string[] {
    return [...this.#queues.keys()];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

// ---- Bench ------------------------------------------------------------------

/** How to open a socket. */
export interface OpenInit {
  /** @default {"?protocol=7"} */
  query?: string;
  app?: App;
  /** @default {the path of the app} */
  path?: string;
  /** @default {the server of the item} */
  origin?: string;
}

/** What an item works with; everything ends with it. */
export class Bench implements AsyncDisposable {
  readonly host: Host;
  readonly #number: number;
  readonly #hosts: Hosts;
  readonly #stack = new AsyncDisposableStack();

  constructor(number: number, host: Host, hosts: Hosts) {
    this.#number = number;
    this.host = host;
    this.#hosts = hosts;
  }

  get app(): App {
    return this.host.apps[0] as App;
  }

  get api(): Api {
    return this.apiOf(this.app);
  }

  apiOf(app: App): Api {
    return new Api(this.host.origin, app);
  }

  get sdk(): Sdk {
    return sdkFor(this.host.origin, this.app);
  }

  /** The receiver of webhooks, for items that need it. */
  get hooks(): Receiver {
    hold(this.host.hooks !== undefined, "no receiver of webhooks");
    return this.host.hooks;
  }

  /** The value of a setting in seconds, in ms; 0 where it is not set. */
  milliseconds(setting: string): number {
    return Number(this.host.settings[setting] ?? 0) * 1000;
  }

  /** A name that nobody else uses. */
  name(prefix = ""): string {
    const random = crypto.randomUUID().slice(0, 8);
    return `${prefix}item${this.#number}-${random}`;
  }

  /** Opens a socket without waiting for anything. */
  dial(
    {
      query = "?protocol=7",
      app = this.app,
      path = `/app/${encodeURIComponent(app.key)}`,
      origin = this.host.origin,
    }: OpenInit = {},
  ): Socket {
    const url = origin.replace(/^http/, "ws") + path + query;
    const socket = new Socket(url, app);
    this.#stack.defer(async () => void await socket.close());
    return socket;
  }

  /** Connects a socket. */
  async open(init?: OpenInit): Promise<Socket> {
    const socket = this.dial(init);
    await socket.established();
    return socket;
  }

  /** Connects several sockets at once. */
  openAll(count: number, init?: OpenInit): Promise<Socket[]> {
    return Promise.all(Array.from({ length: count }, () => this.open(init)));
  }

  /** Connects a socket and subscribes it. */
  async joined(channel: string, member?: unknown): Promise<Socket> {
    const socket = await this.open();
    await socket.join(channel, { member });
    return socket;
  }

  /** A pusher-js, connecting. */
  stock(
    release: Release,
    { key = this.app.key, origin = this.host.origin, ...identity }:
      & Identity
      & { key?: string; origin?: string } = {},
  ): StockClient {
    const signer = identity.signer ?? this.sdk;
    const client = new StockClient(release, origin, key, signer, identity);
    this.#stack.defer(() => client.close());
    return client;
  }

  /** One pusher-js of each release, connecting. */
  stocks(identity?: Identity & { key?: string }): StockClient[] {
    return RELEASES.map((release) => this.stock(release, identity));
  }

  /**
   * Publishes a mark on a channel that the sockets are on, and returns what
   * each was told before it: all there is, since a channel has one order.
   */
  async before(channel: string, ...sockets: Socket[]) {
    const mark = this.name("mark-");
    await this.api.publish(channel, mark, "{}");
    return await Promise.all(
      sockets.map(async (socket) => (await socket.upTo(mark)).slice(0, -1)),
    );
  }

  /** The same server with other settings, or `null` where there is none. */
  async elsewhere(settings: Settings): Promise<Bench | null> {
    const item = { number: this.#number, title: "", needs: settings };
    const asked = { ...item, run: () => Promise.resolve("") };
    if (this.#hosts.refuse(asked) !== null) return null;
    const host = await this.#hosts.open(asked);
    return this.#stack.use(new Bench(this.#number, host, this.#hosts));
  }

  /** A server that the item may stop, for the items that do. */
  async ownProgram(): Promise<
    { origin: string; program: Program }
  > {
    const { apps, settings } = this.host;
    hold(this.#hosts instanceof OwnHosts, "no server of the item's own");
    return await this.#hosts.program([...apps], settings);
  }

  /** Releases something with the item. */
  use<T extends Disposable | AsyncDisposable>(resource: T): T {
    return this.#stack.use(resource);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

// ---- Networks ---------------------------------------------------------------

/** A TCP port whose connections lead to a server that can be exchanged. */
export class Forwarder implements AsyncDisposable {
  target: URL;
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #done: Promise<void>;

  constructor(origin: string) {
    this.target = new URL(origin);
    this.#done = this.#accept();
  }

  get origin(): string {
    const { port } = this.#listener.addr as Deno.NetAddr;
    return `http://127.0.0.1:${port}`;
  }

  async #accept(): Promise<void> {
    for await (const client of this.#listener) {
      const { hostname, port } = this.target;
      const server = await Deno.connect({ hostname, port: Number(port) });
      // An end that is not clean is the end of both ways, too.
      const ignore = () => {};
      client.readable.pipeTo(server.writable).catch(ignore);
      server.readable.pipeTo(client.writable).catch(ignore);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    await this.#done;
  }
}

/** A proxy that knows nothing of upgrades, and counts. */
export class HttpFront implements AsyncDisposable {
  /** Paths of all requests so far. */
  readonly requests: string[] = [];
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor(target: string) {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request) => {
        const { pathname, search } = new URL(request.url);
        this.requests.push(pathname);
        const { method, headers, body } = request;
        return fetch(target + pathname + search, { method, headers, body });
      },
    );
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#server.addr.port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}

/** Opens a WebSocket by hand, to be lost without a closing handshake. */
export async function openTcp(
  origin: string,
  key: string,
): Promise<{ id: string; client: RawClient }> {
  const { host, hostname, port } = new URL(origin);
  const client = await RawClient.connect(Number(port || 80), { hostname });
  const head = await client.upgrade(`/app/${key}?protocol=7`, { Host: host });
  hold(head.startsWith("HTTP/1.1 101 "), `upgrade is answered ${show(head)}`);
  return { id: dataOf(await client.readText()).socket_id, client };
}
