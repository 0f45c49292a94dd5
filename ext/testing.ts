/**
 * Tests of your own program without a port: the server runs in the memory of the
 * test, and clients speak the real protocol with it, over the handler of the program.
 *
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * // Your program.
 * const pusher = new Pusher();
 * const handler = Pusher.cascade(pusher.handler, async (request: Request) => {
 *   await pusher.trigger("messages", "create", await request.json());
 *   return new Response("message created");
 * });
 *
 * Deno.test("a message that is posted reaches every subscriber", async () => {
 *   await using test = testPusher(pusher, { handler });
 *   const messages = await (await test.connect()).subscribe("messages");
 *   await test.fetch("/", { method: "POST", body: '{"text":"hello"}' });
 *   assertEquals(await messages.next("create"), { text: "hello" });
 * });
 * ```
 *
 * - {@linkcode TestPusher.connect} makes a client. It subscribes, takes events in
 *   any order of names, and asks the program for permission as clients do: through
 *   the handler.
 * - {@linkcode TestPusher.expectPublished} looks at what the program has published,
 *   whoever is subscribed.
 * - {@linkcode TestClock} turns time, {@linkcode TestPusher.network} and the
 *   `network` of each client have faults, and {@linkcode TestBackplane} goes away.
 * - {@linkcode TestPusher.stubGlobals} and {@linkcode TestPusher.WebSocket} connect
 *   unmodified clients, our own and `pusher-js`, for tests of a page's code.
 *
 * What a test waits for has a deadline in real time, and an error that says what
 * came instead. Disposal closes all connections: the leak checks of `deno test` find
 * nothing. No port is opened, so no permission is needed.
 *
 * In Node (20 or later) and Bun, where the server cannot run otherwise, `testPusher`
 * makes it of its options: `testPusher({ authorize })`. Runtimes without `await using`
 * call {@linkcode TestPusher.close}.
 *
 * @module
 */

import { parseUrl } from "../core/http.ts";
import { inMemory } from "../core/runtime.ts";
import {
  type AnyEvents,
  type ChannelName,
  type Clock,
  type EventData,
  type EventName,
  Pusher,
  type PusherOptions,
} from "../mod.ts";
import { isStaged, TestBackplane } from "./testing/backplane.ts";
import type { TestChannel, TestSubscribeOptions } from "./testing/channel.ts";
import { type ClientHost, TestClient } from "./testing/client.ts";
import { TestClock, turn } from "./testing/clock.ts";
import { decode, describeEvent } from "./testing/events.ts";
import { INFO, shakeHands, socketClass, toWs } from "./testing/handshake.ts";
import type { Closing } from "./testing/lane.ts";
import { ExpectationError, list, Mailbox, show } from "./testing/mailbox.ts";
import { type Faults, type Network, Wires } from "./testing/network.ts";
import {
  checkPusher,
  readSettings,
  type Settings,
  SUBJECT,
  type TestConnectOptions,
  type TestedPusher,
  type TestOptions,
} from "./testing/options.ts";
import { fitting, type TestPublished } from "./testing/published.ts";
import { RefusedError } from "./testing/refused.ts";
import { Line, SocketEnd } from "./testing/sockets.ts";

export { ExpectationError, RefusedError, TestBackplane, TestClient, TestClock };
export type {
  AllEvents,
  DataIn,
  Declared,
  InfoOf,
  NameIn,
  ProtocolEvents,
  ProtocolName,
  ReceivedEvents,
  ReceivedName,
  SentName,
  TestEvent,
} from "./testing/events.ts";
export type { Closing, Faults, Network, TestChannel, TestSubscribeOptions };
export type { TestConnectOptions, TestedPusher, TestOptions, TestPublished };

// ---- The test ---------------------------------------------------------------

/** An error of the program or the server, as the `error` hook has it. */
export interface TestFailure {
  /** What was thrown. */
  error: unknown;
  /** What the server was doing. */
  during: string;
}

/**
 * Puts a server into the memory of a test.
 *
 * @example Private channels behind a cookie
 * ```ts
 * import { RefusedError, testPusher } from "@glitz/pusher/testing";
 * import { assertRejects } from "@std/assert";
 *
 * await using test = testPusher({
 *   authorize: (request) => request.headers.get("cookie") === "user=ann",
 * });
 * const ann = await test.connect({ headers: { cookie: "user=ann" } });
 * await ann.subscribe("private-notes");
 * const stranger = await test.connect();
 * await assertRejects(() => stranger.subscribe("private-notes"), RefusedError);
 * ```
 *
 * @param pusher The class `Pusher`, for its default instance. The server stays open
 * when the test ends.
 * @param options See {@linkcode TestOptions}; checked at once.
 * @throws {TypeError} If an option is unknown or of the wrong kind.
 */
export function testPusher(
  pusher: typeof Pusher,
  options?: TestOptions<typeof Pusher>,
): TestPusher<AnyEvents, typeof Pusher>;
/**
 * Puts a server into the memory of a test.
 *
 * @param pusher A server, which stays open when the test ends; or the options of a
 * server, which closes then. Such a server has a {@linkcode TestClock} unless
 * `clock` says otherwise, and its backplane is a {@linkcode TestBackplane}.
 * @param options See {@linkcode TestOptions}; checked at once.
 * @throws {TypeError} If an option is unknown or of the wrong kind.
 */
export function testPusher<Events extends object = AnyEvents>(
  pusher?: Pusher<Events> | PusherOptions<Events>,
  options?: TestOptions<Pusher<Events>>,
): TestPusher<Events>;
export function testPusher(
  pusher: Pusher | PusherOptions | typeof Pusher = {},
  options: TestOptions<never> = {},
): TestPusher<AnyEvents, Pusher | typeof Pusher> {
  if (!isPusher(pusher)) {
    const clock = pusher.clock ?? new TestClock();
    const backplane = pusher.backplane instanceof TestBackplane
      ? pusher.backplane
      : new TestBackplane(pusher.backplane);
    const given = { ...pusher, clock, backplane };
    const made = inMemory(() => new Pusher(given));
    return new TestPusher(made, options, backplane);
  }
  return new TestPusher(pusher, options);
}

/** Whether it is a server, of whatever copy of the package, and not its options. */
function isPusher<Server extends Pusher | typeof Pusher>(
  value: Server | PusherOptions,
): value is Server {
  const isOptions = typeof value === "object" && value !== null &&
    !("on" in value);
  if (!isOptions) checkPusher(value, { subject: SUBJECT, name: "pusher" });
  return !isOptions;
}

/**
 * A server in the memory of a test, and what is around it.
 *
 * @example
 * ```ts
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher({ history: false });
 * const client = await test.connect();
 * assertEquals(test.pusher.stats().connections, 1);
 * client.network.reset();
 * await client.closed;
 * assertEquals(test.pusher.stats().connections, 0);
 * ```
 *
 * @typeParam Events As for {@linkcode Pusher}.
 * @typeParam Tested The server: an instance of {@linkcode Pusher}, or the class.
 */
export class TestPusher<
  Events extends object = AnyEvents,
  Tested extends TestedPusher = Pusher<Events>,
> implements AsyncDisposable {
  /** The server. */
  readonly pusher: Tested;
  /** The network between all clients and the server, and its faults. */
  readonly network: Network;
  /**
   * The class `WebSocket`, for clients that take one: `pusher-js` does as
   * `Pusher.Runtime.getWebSocketAPI = () => test.WebSocket`. It connects in memory,
   * whatever the host of the URL.
   */
  readonly WebSocket: typeof WebSocket;
  /** Everything that the program has published so far, expected or not. */
  readonly published: readonly TestPublished[];
  readonly #published: TestPublished[] = [];
  readonly #unexpected: Mailbox<TestPublished>;
  readonly #wires: Wires = new Wires();
  readonly #settings: Settings;
  readonly #clock: Clock;
  readonly #backplane: TestBackplane | undefined;
  readonly #errors: TestFailure[] = [];
  /** How many of the errors the test has seen. */
  #seenErrors = 0;
  #unlisten: (() => void)[] = [];
  #unstub: () => void = () => {};
  #closing: Promise<void> | null = null;

  /** Made by {@linkcode testPusher}. */
  constructor(
    pusher: Tested,
    options: TestOptions<never>,
    own?: TestBackplane,
  ) {
    this.pusher = pusher;
    this.#backplane = own;
    this.#settings = readSettings(pusher, options);
    this.#clock = pusher.clock;
    this.network = this.#wires;
    this.published = this.#published;
    this.#unexpected = new Mailbox(this.#settings.deadlineMs);
    this.WebSocket = socketClass((...given) => this.#dial(...given));
    this.#unlisten = [
      pusher.on("published", ({ channel, event, data, socketId }) => {
        const except = socketId === undefined ? {} : { socketId };
        const item = { channel, event, data: decode(data), ...except };
        this.#published.push(item);
        this.#unexpected.push(item);
      }),
      pusher.on("error", ({ error, during }) => {
        this.#errors.push({ error, during });
      }),
    ];
  }

  /**
   * The clock of the server.
   *
   * @throws {TypeError} If it is no {@linkcode TestClock}.
   */
  get clock(): TestClock {
    if (this.#clock instanceof TestClock) return this.#clock;
    throw new TypeError(
      "Cannot turn the clock: the server goes by real time. Make it with the option clock: new TestClock()",
    );
  }

  /**
   * The backplane of the server, if {@linkcode testPusher} has made the server.
   *
   * @throws {TypeError} If it was made by the program.
   */
  get backplane(): TestBackplane {
    if (this.#backplane !== undefined) return this.#backplane;
    throw new TypeError(
      "Cannot reach the backplane: make the server with the option backplane: new TestBackplane(), and keep that",
    );
  }

  /** The errors of the program and the server so far. */
  get errors(): readonly TestFailure[] {
    this.#seenErrors = this.#errors.length;
    return [...this.#errors];
  }

  /**
   * Connects a client.
   *
   * @param options See {@linkcode TestConnectOptions}.
   * @returns The client, once the server has greeted it.
   * @throws {RefusedError} If the program or the server refuses the connection.
   */
  async connect(
    options: TestConnectOptions = {},
  ): Promise<TestClient<Events>> {
    const { key = this.#settings.key } = options;
    const { origin, path } = this.#settings;
    const route = `${path}/app/${encodeURIComponent(key)}`;
    // It answers pings, as pusher-js does. Only clients that recover may rewind.
    const query = "protocol=7&client=js&version=testing&recover=1";
    const near = new SocketEnd(`${toWs(origin)}${route}?${query}`);
    const headers = new Headers(options.headers);
    const client = new TestClient<Events>(
      this.#host(),
      this.#dial(near, [], headers),
      headers,
    );
    await client.established();
    return client;
  }

  /**
   * Sends a request to the handler.
   *
   * @param input A path, a URL or a request.
   * @param init As for `fetch`.
   */
  async fetch(
    input: string | URL | Request,
    init?: RequestInit,
  ): Promise<Response> {
    const target = input instanceof Request
      ? input
      : new URL(input, this.#settings.origin);
    const request = input instanceof Request && init === undefined
      ? input
      : new Request(target, init);
    const answer = await this.#settings.handler(request, INFO);
    return answer ?? new Response("Not found", { status: 404 });
  }

  /**
   * Replaces `WebSocket` and `fetch` of the runtime: what goes to the origin of the
   * test gets to the handler, everything else where it went before. So the code of a
   * page, with an unmodified client, runs in the test. Disconnect such clients before
   * the test ends.
   *
   * @returns Puts the originals back, which the end of the test does as well.
   */
  stubGlobals(): Disposable {
    this.#unstub();
    const { WebSocket: socket, fetch: fetchBefore } = globalThis;
    const { host } = new URL(this.#settings.origin);
    const isOwn = (url: string | URL) =>
      parseUrl(new URL(url, this.#settings.origin).href)?.host === host;
    globalThis.WebSocket = socketClass(
      (...given) => this.#dial(...given),
      (url, protocols) => isOwn(url) ? undefined : new socket(url, protocols),
    );
    globalThis.fetch = async (input, init) => {
      const url = input instanceof Request ? input.url : input;
      if (!isOwn(url)) return await fetchBefore(input, init);
      await this.#wires.pass(this.#clock);
      return await this.fetch(input, init);
    };
    this.#unstub = () => {
      globalThis.WebSocket = socket;
      globalThis.fetch = fetchBefore;
      this.#unstub = () => {};
    };
    return { [Symbol.dispose]: () => this.#unstub() };
  }

  /**
   * Expects that the program publishes an event, or has done so: with `trigger`,
   * `triggerBatch` or the HTTP API. Each event meets one expectation.
   *
   * @param channel The channel.
   * @param event The name of the event.
   * @param data Its data, which must be equal, or a function that says whether it
   * fits. Without it any data fits.
   * @returns The data.
   * @throws {ExpectationError} If it does not; the message says what was published.
   */
  async expectPublished<
    C extends ChannelName<Events>,
    N extends EventName<Events, C>,
  >(
    channel: C,
    event: N,
    data?:
      | EventData<Events, C, N>
      | ((data: EventData<Events, C, N>) => boolean),
  ): Promise<EventData<Events, C, N>> {
    const fits = fitting(data);
    const wanted = `"${event}" on "${channel}"` +
      (data === undefined || typeof data === "function"
        ? ""
        : ` with ${show(data)}`);
    const found = await this.#unexpected.take(
      (one) => one.channel === channel && one.event === event && fits(one.data),
      (why) => {
        const rest = this.#unexpected.items.map(describeEvent);
        const instead = rest.length === 0
          ? "Nothing else was published"
          : `Instead there is${list(rest)}`;
        return this.#failure(
          `Cannot find a published ${wanted}: ${why}. ${instead}`,
        );
      },
    );
    return found.data;
  }

  /**
   * Expects that the program has published nothing so far, except what the test has
   * expected already.
   *
   * @param channel Only events of that channel.
   * @param event Only events of that name.
   * @throws {ExpectationError} If there is such an event.
   */
  async expectNothingPublished(
    channel?: ChannelName<Events>,
    event?: string,
  ): Promise<void> {
    await turn();
    const found = this.#unexpected.items.filter((one) =>
      (channel === undefined || one.channel === channel) &&
      (event === undefined || one.event === event)
    );
    if (found.length === 0) return;
    throw this.#failure(
      `Cannot expect nothing: the program has published${
        list(found.map(describeEvent))
      }`,
    );
  }

  /**
   * Ends the test: closes all connections, puts globals back, and closes the server
   * if {@linkcode testPusher} has made it. Errors that the test has neither looked
   * at nor caused are printed.
   */
  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }

  /** See {@linkcode close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#unstub();
    this.#unexpected.end("the test has ended");
    await this.#wires.end();
    this.#backplane?.comeBack();
    await turn();
    if (this.#backplane !== undefined) await this.pusher.close();
    for (const unlisten of this.#unlisten.splice(0)) unlisten();
    for (const { error, during } of this.#errors.slice(this.#seenErrors)) {
      if (isStaged(error)) continue;
      console.error(`Pusher: failed while ${during}:`, error);
    }
  }

  #host(): ClientHost<Events> {
    const { deadlineMs, authEndpoint, userAuthEndpoint } = this.#settings;
    return {
      // The class has the same methods, without the types of events.
      pusher: this.pusher as ClientHost<Events>["pusher"],
      deadlineMs,
      authEndpoint,
      userAuthEndpoint,
      fetch: (input, init) => this.fetch(input, init),
      cause: () => this.#cause(),
    };
  }

  #cause(): { cause?: unknown } {
    const last = this.errors.at(-1);
    return last === undefined ? {} : { cause: last.error };
  }

  #failure(message: string): Error {
    return new ExpectationError(message, this.#cause());
  }

  // ---- Sockets

  #dial(near: SocketEnd, protocols: string[], headers: Headers): Line {
    const line = new Line(this.#clock, near);
    this.#wires.add(line);
    const { handler } = this.#settings;
    line.request(() => shakeHands(handler, line, protocols, headers));
    return line;
  }
}
