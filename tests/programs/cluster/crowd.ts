/**
 * Many idle clients, which connect again as stock clients do: at once where they are
 * asked to, else after a second.
 *
 * @module
 */
import { APP } from "../../support/server.ts";

const RECONNECT_MS = 1_000;

/** Idle clients. */
export class Crowd {
  readonly #port: number;
  readonly #sockets = new Set<WebSocket>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  #isStopped = false;
  #connected = 0;
  onChange: () => void = () => {};

  constructor(port: number) {
    this.#port = port;
  }

  get connected(): number {
    return this.#connected;
  }

  /** Connects so many. */
  start(count: number): void {
    for (let i = 0; i < count; i++) this.#connect();
  }

  stop(): void {
    this.#isStopped = true;
    for (const timer of this.#timers) clearTimeout(timer);
    for (const socket of this.#sockets) socket.close();
  }

  #connect(): void {
    const socket = new WebSocket(
      `ws://127.0.0.1:${this.#port}/app/${APP.key}?protocol=7&client=crowd`,
    );
    this.#sockets.add(socket);
    let isOpen = false;
    socket.onopen = () => {
      isOpen = true;
      this.#connected++;
      this.onChange();
    };
    socket.onmessage = ({ data }) => {
      if (!String(data).includes('"pusher:ping"')) return;
      socket.send('{"event":"pusher:pong","data":{}}');
    };
    // A close follows.
    socket.onerror = () => {};
    socket.onclose = ({ code }) => {
      this.#sockets.delete(socket);
      if (isOpen) this.#connected--;
      this.onChange();
      if (this.#isStopped) return;
      const isAsked = code >= 4200 && code < 4300;
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        this.#connect();
      }, isAsked ? 0 : RECONNECT_MS);
      this.#timers.add(timer);
    };
  }
}
