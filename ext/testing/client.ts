/**
 * A client of a test: it speaks the protocol frame by frame, and keeps what comes
 * until the test takes it.
 *
 * @module
 */

import type {
  AnyEvents,
  Awaitable,
  ChannelAuth,
  ChannelName,
  MemberOf,
  Pusher,
  UserAuth,
  UserData,
} from "../../mod.ts";
import { TestChannel, type TestSubscribeOptions } from "./channel.ts";
import {
  type AllEvents,
  decode,
  describeEvent,
  type InfoOf,
  type ReceivedEvents,
  type ReceivedName,
  type TestEvent,
} from "./events.ts";
import type { Closing } from "./lane.ts";
import { ExpectationError, list, Mailbox } from "./mailbox.ts";
import { type Faults, Wires } from "./network.ts";
import { RefusedError } from "./refused.ts";
import type { Line } from "./sockets.ts";

/** What a client needs of the test. */
export interface ClientHost<Events extends object> {
  readonly pusher: Pick<
    Pusher<Events>,
    "authorizeChannel" | "authenticateUser"
  >;
  readonly deadlineMs: number;
  readonly authEndpoint: string;
  readonly userAuthEndpoint: string;
  fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>;
  /** The latest error of the program, as a cause of what went wrong. */
  cause(): { cause?: unknown };
}

/** A frame, its data decoded. */
interface Frame {
  event: string;
  channel?: string;
  // deno-lint-ignore no-explicit-any -- each event has data of its own
  data?: any;
  user_id?: string;
}

/** An answer that somebody waits for. */
type Answered = (frame: Frame) => void;

const OWN_ANSWERS =
  /^pusher(?:_internal:subscription_succeeded|:subscription_error)$/;

// ---- The client -------------------------------------------------------------

/**
 * A client in memory, connected over the handler of the test. It answers the pings
 * of the server.
 *
 * Made by {@linkcode TestPusher.connect}. Its events wait until the test takes them,
 * each once, in any order of names.
 *
 * @example
 * ```ts
 * import { testPusher } from "@glitz/pusher/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using test = testPusher({
 *   authorize: (request) => request.headers.get("cookie") === "user=ann",
 * });
 * const ann = await test.connect({ headers: { cookie: "user=ann" } });
 * const notes = await ann.subscribe("private-notes");
 * assertEquals(notes.name, "private-notes");
 * await ann.close();
 * ```
 */
export class TestClient<Events extends object = AnyEvents>
  implements AsyncDisposable {
  /** The faults of this connection alone. */
  readonly network: Faults;
  /** Resolves when the connection has closed, whichever side closed it. */
  readonly closed: Promise<Closing>;
  /** All events so far, taken or not. */
  readonly received: readonly TestEvent[];
  readonly #received: TestEvent[] = [];
  readonly #host: ClientHost<Events>;
  readonly #line: Line;
  readonly #headers: Headers;
  readonly #mailbox: Mailbox<TestEvent>;
  /** Answers that are no events: of subscriptions, pings, the sign-in. */
  readonly #answers: Mailbox<Frame>;
  /** Members by channel. */
  readonly #members = new Map<string, Map<string, unknown>>();
  #socketId = "";
  #userId: string | null = null;
  #isSigningIn = false;
  /** How the connection was closed. */
  #end: string | null = null;

  /** Made by {@linkcode TestPusher.connect}. */
  constructor(host: ClientHost<Events>, line: Line, headers: Headers) {
    this.received = this.#received;
    this.#host = host;
    this.#line = line;
    this.#headers = headers;
    this.#mailbox = new Mailbox(host.deadlineMs);
    this.#answers = new Mailbox(host.deadlineMs);
    const wires = new Wires();
    wires.add(line);
    this.network = wires;
    line.near.onmessage = ({ data }) => this.#receive(data);
    this.closed = new Promise((resolve) => {
      line.near.onclose = ({ code, reason }: Closing) => {
        const why = `the connection was closed with ${code} ${reason}`.trim();
        this.#end = why;
        this.#mailbox.end(why);
        this.#answers.end(why);
        resolve({ code, reason });
      };
    });
  }

  /** Id of the connection. */
  get socketId(): string {
    return this.#socketId;
  }

  /** The user who has signed in. */
  get userId(): string | null {
    return this.#userId;
  }

  /** Waits for the first frame; called by {@linkcode TestPusher.connect}. */
  async established(): Promise<void> {
    const { data } = await this.#answer(
      ({ event }) => event === "pusher:connection_established",
      (why) => this.#notConnected(why),
    );
    this.#socketId = data.socket_id;
  }

  /**
   * Subscribes to a channel. For private and presence channels it asks the auth
   * endpoint of the program, through the handler, with the headers of this client.
   *
   * @param name The channel.
   * @param options See {@linkcode TestSubscribeOptions}.
   * @returns The channel, once the server has confirmed.
   * @throws {RefusedError} If the program or the server refuses.
   */
  async subscribe<C extends ChannelName<Events>>(
    name: C,
    options: TestSubscribeOptions<MemberOf<Events, C>> = {},
  ): Promise<TestChannel<Events[C]>> {
    const { authorized, rewind } = options;
    const auth = /^(?:private|presence)-/.test(name)
      ? await this.#authorize(name, authorized)
      : {};
    const more = rewind === undefined ? {} : { rewind };
    const data = { channel: name, ...auth, ...more };
    this.#send({ event: "pusher:subscribe", data });
    const what = `Cannot subscribe to "${name}"`;
    const answer = await this.#answer(
      ({ event, channel }) => OWN_ANSWERS.test(event) && channel === name,
      (why) => this.#failure(`${what}: ${why}`),
    );
    if (answer.event === "pusher:subscription_error") {
      throw this.#refused(what, "subscription", answer.data);
    }
    // The class is what the frames make of it; the type is what the program declares.
    const members = this.#membersOf(name) as Map<string, InfoOf<Events[C]>>;
    return new TestChannel(name, members, {
      take: (event, channel) => this.#take(event, channel),
      expectNothing: (event, channel) => this.#expectNothing(event, channel),
      send: (frame) => this.#send(frame),
      fence: () => this.#fence(),
      left: (channel) => void this.#members.delete(channel),
    });
  }

  /**
   * Signs in. Events of {@linkcode Pusher.sendToUser} then come like others.
   *
   * @param user The user. Without it the client asks the auth endpoint of the
   * program, through the handler.
   * @throws {RefusedError} If the program or the server refuses.
   */
  async signin(user?: UserData): Promise<void> {
    const what = "Cannot sign in";
    const { auth, user_data } = user === undefined
      ? await this.#ask<UserAuth>(
        this.#host.userAuthEndpoint,
        {},
        what,
        "signin",
      )
      : this.#host.pusher.authenticateUser(this.#socketId, user);
    this.#isSigningIn = true;
    this.#send({ event: "pusher:signin", data: { auth, user_data } });
    try {
      const answer = await this.#answer(
        ({ event }) => /^pusher:(?:signin_success|error)$/.test(event),
        (why) => this.#failure(`${what}: ${why}`),
      );
      if (answer.event === "pusher:error") {
        throw this.#refused(what, "signin", answer.data);
      }
      this.#userId = JSON.parse(answer.data.user_data).id;
    } finally {
      this.#isSigningIn = false;
    }
  }

  /** Takes the next event, or waits for it. */
  next(): Promise<TestEvent>;
  /**
   * Takes the next event of that name on any channel, or waits for it. Events of
   * other names stay.
   *
   * @returns Its data.
   * @throws {ExpectationError} If it does not come; the message says what came.
   */
  next<N extends ReceivedName<AllEvents<Events>>>(
    event: N,
  ): Promise<ReceivedEvents<AllEvents<Events>>[N]>;
  async next(event?: string): Promise<unknown> {
    const taken = await this.#take(event);
    return event === undefined ? taken : taken.data;
  }

  /**
   * Expects that no event is left that the test has not taken.
   *
   * @param event Only events of that name.
   * @throws {ExpectationError} If there is one.
   */
  expectNothing(event?: ReceivedName<AllEvents<Events>>): Promise<void> {
    return this.#expectNothing(event);
  }

  /**
   * Sends a request to the handler, with the headers of this client.
   *
   * @param input A path, a URL or a request.
   * @param init As for `fetch`.
   */
  fetch(
    input: string | URL | Request,
    init: RequestInit = {},
  ): Promise<Response> {
    const given = input instanceof Request ? input.headers : undefined;
    const headers = new Headers(this.#headers);
    for (const more of [given, new Headers(init.headers)]) {
      more?.forEach((value, name) => headers.set(name, value));
    }
    return this.#host.fetch(input, { ...init, headers });
  }

  /**
   * Sends a frame of the protocol.
   *
   * @param frame Text as it is, anything else as JSON.
   */
  send(frame: string | object): void {
    this.#send(frame);
  }

  /** Closes the connection, and waits until the server has seen that. */
  async close(): Promise<void> {
    this.network.restore();
    this.#line.near.close(1000);
    await this.#line.over;
  }

  /** See {@linkcode close}. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- Frames

  #receive(text: string): void {
    const frame: Frame = JSON.parse(text);
    frame.data = decode(frame.data);
    const { event, channel, data } = frame;
    switch (event) {
      case "pusher:ping":
        return this.#send({ event: "pusher:pong", data: {} });
      case "pusher_internal:subscription_succeeded":
        this.#enter(channel ?? "", data);
        return this.#answers.push(frame);
      case "pusher:pong":
      case "pusher:connection_established":
      case "pusher:subscription_error":
      case "pusher:signin_success":
        return this.#answers.push(frame);
      case "pusher:error":
        if (!this.#isSigningIn) break;
        return this.#answers.push(frame);
      case "pusher_internal:watchlist_events":
        for (const { name, user_ids } of data.events) {
          this.#keep({ event: name, data: { user_ids } });
        }
        return;
    }
    this.#keep(this.#toEvent(frame));
  }

  #toEvent({ event, channel, data, user_id }: Frame): TestEvent {
    const members = this.#members.get(channel ?? "");
    const name = event.replace(/^pusher_internal:/, "pusher:");
    const on = channel === undefined ? {} : { channel };
    if (name === "pusher:member_added") {
      const { user_id: id, user_info: info } = data;
      members?.set(id, info);
      return { event: name, ...on, data: { id, info } };
    }
    if (name === "pusher:member_removed") {
      const { user_id: id } = data;
      const info = members?.get(id);
      members?.delete(id);
      return { event: name, ...on, data: { id, info } };
    }
    const sender = user_id === undefined ? {} : { userId: user_id };
    return { event: name, ...on, data, ...sender };
  }

  #keep(event: TestEvent): void {
    this.#received.push(event);
    this.#mailbox.push(event);
  }

  #enter(channel: string, data: { presence?: { hash: object } }): void {
    const members = this.#membersOf(channel);
    members.clear();
    for (const [id, info] of Object.entries(data?.presence?.hash ?? {})) {
      members.set(id, info);
    }
  }

  #membersOf(channel: string): Map<string, unknown> {
    const members = this.#members.get(channel) ?? new Map<string, unknown>();
    this.#members.set(channel, members);
    return members;
  }

  #send(frame: string | object): void {
    const text = typeof frame === "string" ? frame : JSON.stringify(frame);
    if (this.#end !== null) throw this.#failure(`Cannot send: ${this.#end}`);
    this.#line.near.send(text);
  }

  /** Waits until the server has served everything that was sent so far. */
  async #fence(): Promise<void> {
    this.#send({ event: "pusher:ping", data: {} });
    await this.#answer(
      ({ event }) => event === "pusher:pong",
      (why) => this.#failure(`Cannot wait for the server: ${why}`),
    );
  }

  #answer(
    fits: Parameters<Mailbox<Frame>["take"]>[0],
    describe: (why: string) => Error,
  ): Promise<Frame> {
    return this.#answers.take(fits, describe);
  }

  // ---- Authorization

  #authorize(
    name: string,
    authorized: true | MemberOf<Events> | undefined,
  ): Awaitable<ChannelAuth> {
    const what = `Cannot subscribe to "${name}"`;
    if (authorized === undefined) {
      const { authEndpoint } = this.#host;
      const form = { channel_name: name };
      return this.#ask<ChannelAuth>(authEndpoint, form, what, "subscription");
    }
    const member = authorized === true ? undefined : authorized;
    return this.#host.pusher
      .authorizeChannel<string>(this.#socketId, name, member);
  }

  /** Asks an auth endpoint of the program. */
  async #ask<Answer extends { auth: string }>(
    endpoint: string,
    form: Record<string, string>,
    message: string,
    what: "subscription" | "signin",
  ): Promise<Answer> {
    const fields = { socket_id: this.#socketId, ...form };
    const response = await this.fetch(endpoint, {
      method: "POST",
      body: new URLSearchParams(fields),
    });
    const text = await response.text();
    const body = decode(text);
    if (response.status === 200 && typeof body?.auth === "string") return body;
    const said = typeof body?.error === "string" ? body.error : text;
    const reason = `${endpoint} answered ${response.status}: ${said}`;
    const { status: code } = response;
    const cause = code >= 500 ? this.#host.cause() : {};
    throw new RefusedError(message, { what, code, reason, ...cause });
  }

  // ---- Expectations

  async #take(
    event: string | undefined,
    channel?: string,
  ): Promise<TestEvent> {
    const on = channel === undefined ? "" : ` on "${channel}"`;
    const wanted = (event === undefined ? "an event" : `"${event}"`) + on;
    return await this.#mailbox.take(
      (one) => fits(one, event, channel),
      (why) => this.#missing(`Cannot take ${wanted}: ${why}`),
    );
  }

  async #expectNothing(
    event: string | undefined,
    channel?: string,
  ): Promise<void> {
    if (this.#line.near.readyState === 1) await this.#fence();
    const found = this.#mailbox.items
      .filter((one) => fits(one, event, channel))
      .map(describeEvent);
    if (found.length === 0) return;
    throw this.#failure(
      `Cannot expect nothing: the client has got${list(found)}`,
    );
  }

  #missing(what: string): Error {
    const rest = this.#mailbox.items.map(describeEvent);
    const channels = [...this.#members.keys()].map((name) => `"${name}"`);
    const place = channels.length === 0
      ? "The client is subscribed to no channel"
      : `The client is subscribed to ${channels.join(", ")}`;
    const came = rest.length === 0
      ? "Nothing else came"
      : `Instead there is${list(rest)}`;
    return this.#failure(`${what}. ${came}\n${place}`);
  }

  #failure(message: string): Error {
    return new ExpectationError(message, this.#host.cause());
  }

  #refused(
    message: string,
    what: "subscription" | "signin",
    // deno-lint-ignore no-explicit-any -- of an error or a refused subscription
    { status, code, error, message: said }: any,
  ): Error {
    const reason = String(error ?? said);
    return new RefusedError(message, { what, code: status ?? code, reason });
  }

  /** Why the client has not been greeted. */
  #notConnected(why: string): Error {
    const { failure } = this.#line;
    const error = this.#received.find(({ event }) => event === "pusher:error");
    if (failure === null && error === undefined) {
      return this.#failure(`Cannot connect: ${why}`);
    }
    const { code = 1006, message } = error?.data ?? {};
    const reason = failure?.reason ?? message;
    const { cause } = failure ?? {};
    const what = "connection";
    return new RefusedError("Cannot connect", { what, code, reason, cause });
  }
}

function fits(
  one: TestEvent,
  event: string | undefined,
  channel: string | undefined,
): boolean {
  return (event === undefined || one.event === event) &&
    (channel === undefined || one.channel === channel);
}
