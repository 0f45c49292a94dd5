/**
 * Sockets in memory: both ends of a WebSocket, and the line between them.
 *
 * @module
 */

import type { Clock } from "../../core/time.ts";
import { type Closing, type Item, Lane } from "./lane.ts";

// ---- Sockets ----------------------------------------------------------------

/** The event `close`, which Node 20 has no class for. */
class ClosedEvent extends Event implements Closing {
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;

  constructor({ code, reason }: Closing, wasClean: boolean) {
    super("close");
    this.code = code;
    this.reason = reason;
    this.wasClean = wasClean;
  }
}

const [CONNECTING, OPEN, CLOSING, CLOSED] = [0, 1, 2, 3];

/** The handler of an attribute such as `onopen`. */
// deno-lint-ignore no-explicit-any -- each event has a type of its own
type SocketHandler = ((event: any) => unknown) | null;

// deno-lint-ignore no-explicit-any -- packages bring event types of their own along
type Listener = (event: any) => void;

/** One end of a WebSocket, with the interface that a browser's has. */
export class SocketEnd extends EventTarget {
  static readonly CONNECTING: number = CONNECTING;
  static readonly OPEN: number = OPEN;
  static readonly CLOSING: number = CLOSING;
  static readonly CLOSED: number = CLOSED;
  readonly CONNECTING: number = CONNECTING;
  readonly OPEN: number = OPEN;
  readonly CLOSING: number = CLOSING;
  readonly CLOSED: number = CLOSED;
  readonly url: string;
  readonly extensions: string = "";
  protocol = "";
  binaryType = "blob";
  readyState: number = CONNECTING;
  #line: Line | null = null;
  readonly #handlers = new Map<string, [SocketHandler, Listener]>();

  constructor(url: string) {
    super();
    this.url = url;
  }

  /** Ties this end to its line; called by {@linkcode Line}. */
  tie(line: Line): void {
    this.#line = line;
  }

  get bufferedAmount(): number {
    return this.#line?.laneFrom(this).unsent ?? 0;
  }

  get onopen(): SocketHandler {
    return this.#handler("open");
  }
  set onopen(handler: SocketHandler) {
    this.#setHandler("open", handler);
  }
  get onmessage(): SocketHandler {
    return this.#handler("message");
  }
  set onmessage(handler: SocketHandler) {
    this.#setHandler("message", handler);
  }
  get onerror(): SocketHandler {
    return this.#handler("error");
  }
  set onerror(handler: SocketHandler) {
    this.#setHandler("error", handler);
  }
  get onclose(): SocketHandler {
    return this.#handler("close");
  }
  set onclose(handler: SocketHandler) {
    this.#setHandler("close", handler);
  }

  send(data: unknown): void {
    if (this.readyState === CONNECTING) {
      const message = "Cannot send: the socket is connecting";
      throw new DOMException(message, "InvalidStateError");
    }
    if (this.readyState === OPEN) this.#line?.laneFrom(this).push({ data });
  }

  close(code?: number, reason = ""): void {
    if (this.readyState >= CLOSING) return;
    if (this.readyState === CONNECTING) return this.#line?.abandon();
    this.readyState = CLOSING;
    this.#line?.close(this, { code: code ?? 1005, reason });
  }

  /** Opens this end; called by {@linkcode Line}. */
  open(): void {
    if (this.readyState !== CONNECTING) return;
    this.readyState = OPEN;
    this.dispatchEvent(new Event("open"));
  }

  /** Takes what has arrived; called by {@linkcode Line}. */
  receive(data: unknown): void {
    if (this.readyState !== OPEN) return;
    this.dispatchEvent(new MessageEvent("message", { data }));
  }

  /** Ends this end for good; called by {@linkcode Line}. */
  finish(closing: Closing, wasClean: boolean): void {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSED;
    if (!wasClean) this.dispatchEvent(new Event("error"));
    this.dispatchEvent(new ClosedEvent(closing, wasClean));
  }

  #handler(type: string): SocketHandler {
    return this.#handlers.get(type)?.[0] ?? null;
  }

  /** As an attribute of HTML: an error of the handler is reported as uncaught. */
  #setHandler(type: string, handler: SocketHandler): void {
    const [, before] = this.#handlers.get(type) ?? [];
    if (before !== undefined) this.removeEventListener(type, before);
    this.#handlers.delete(type);
    if (typeof handler !== "function") return;
    const listener: Listener = (event) => void handler.call(this, event);
    this.#handlers.set(type, [handler, listener]);
    this.addEventListener(type, listener);
  }
}

// ---- Lines ------------------------------------------------------------------

const LOST: Closing = Object.freeze({ code: 1006, reason: "" });

/** A connection of two ends. */
export class Line {
  /** The client's end. */
  readonly near: SocketEnd;
  /** The server's end. */
  readonly far: SocketEnd;
  /** Resolves when both ends have closed. */
  readonly over: Promise<void>;
  /** What the client is not told: why the handshake has failed. */
  failure: { readonly reason: string; readonly cause?: unknown } | null = null;
  readonly #toServer: Lane;
  readonly #toClient: Lane;
  #resolveOver: () => void = () => {};
  #isOver = false;

  constructor(clock: Clock, near: SocketEnd) {
    this.near = near;
    this.far = new SocketEnd(near.url);
    this.over = new Promise((resolve) => this.#resolveOver = resolve);
    this.#toServer = new Lane(clock, (item) => this.#arrive(this.far, item));
    this.#toClient = new Lane(clock, (item) => this.#arrive(this.near, item));
    near.tie(this);
    this.far.tie(this);
    // What does not open is of no interest to anybody.
    this.far.readyState = CLOSED;
  }

  /** The lane that an end sends on. */
  laneFrom(end: SocketEnd): Lane {
    return end === this.near ? this.#toServer : this.#toClient;
  }

  /** Takes a step once the client's request has arrived, if the client still waits. */
  request(step: () => void): void {
    this.#toServer.push({
      step: () => this.near.readyState === CONNECTING && step(),
    });
  }

  /** Opens both ends. The server's may send before the client's has opened. */
  open(protocol: string): void {
    this.far.readyState = CONNECTING;
    this.near.protocol = this.far.protocol = protocol;
    this.#toClient.push({ step: () => this.near.open() });
    this.far.open();
    // The client may have given up meanwhile.
    if (this.near.readyState === CLOSED) this.reset();
  }

  /** Ends a line that has not opened. */
  fail(reason: string, cause?: unknown): void {
    this.failure = { reason, cause };
    this.#toClient.push({ step: () => this.#finish(this.near, LOST, false) });
  }

  /** The client gives up while it connects. */
  abandon(): void {
    this.near.readyState = CLOSING;
    queueMicrotask(() => this.#finish(this.near, LOST, false));
  }

  /** An end has sent a close frame. */
  close(from: SocketEnd, closing: Closing): void {
    this.laneFrom(from).push({ closing });
    this.#giveUp();
  }

  // ---- Faults

  delay(ms: number): void {
    this.#toServer.delay(ms);
    this.#toClient.delay(ms);
  }

  kill(): void {
    this.#toServer.kill();
    this.#toClient.kill();
    this.#giveUp();
  }

  restore(): void {
    if (this.#toServer.isDead) return this.reset();
    this.#toServer.restore();
    this.#toClient.restore();
  }

  reset(): void {
    this.#toServer.kill();
    this.#toClient.kill();
    // As on a network, no end hears of it within a call of its own.
    queueMicrotask(() => {
      this.#finish(this.far, LOST, false);
      this.#finish(this.near, LOST, false);
    });
  }

  #arrive(end: SocketEnd, item: Item): void {
    if ("step" in item) return void item.step();
    if ("data" in item) return end.receive(item.data);
    // An end answers a close frame with another, unless it has sent its own.
    if (end.readyState === OPEN) {
      this.laneFrom(end).push({ closing: item.closing });
    }
    this.#finish(end, item.closing, true);
    this.#giveUp();
  }

  /** Ends the ends that wait for a close frame which cannot arrive. */
  #giveUp(): void {
    if (!this.#toServer.isDead) return;
    queueMicrotask(() => {
      for (const end of [this.near, this.far]) {
        if (end.readyState === CLOSING) this.#finish(end, LOST, false);
      }
    });
  }

  #finish(end: SocketEnd, closing: Closing, wasClean: boolean): void {
    end.finish(closing, wasClean);
    if (this.near.readyState !== CLOSED || this.far.readyState !== CLOSED) {
      return;
    }
    if (this.#isOver) return;
    this.#isOver = true;
    this.#resolveOver();
  }
}
