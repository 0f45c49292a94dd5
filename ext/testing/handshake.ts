/**
 * The class `WebSocket` of a test, and how its sockets get to the handler.
 *
 * @module
 */

import { type Upgrade, upgradeInMemory } from "../../core/upgrade.ts";
import type { Handler } from "../../mod.ts";
import { type Line, SocketEnd } from "./sockets.ts";

/** Dials for a socket of a client. */
type Dial = (near: SocketEnd, protocols: string[], headers: Headers) => void;

/** What the class takes besides the URL; Deno has more than browsers. */
type SocketInit = ConstructorParameters<typeof WebSocket>[1];

/** Makes the class `WebSocket`; `other` may connect some URLs in another way. */
export function socketClass(
  dial: Dial,
  other: (url: string | URL, init?: SocketInit) => WebSocket | undefined = () =>
    undefined,
): typeof WebSocket {
  class TestWebSocket extends SocketEnd {
    constructor(url: string | URL, init: SocketInit = {}) {
      super(toWs(new URL(url).href));
      const elsewhere = other(url, init);
      if (elsewhere !== undefined) return elsewhere as unknown as this;
      const isList = typeof init === "string" || Array.isArray(init);
      const { protocols = [], headers } = isList ? { protocols: init } : init;
      dial(this, [protocols].flat(), new Headers(headers));
    }

    override close(code?: number, reason?: string): void {
      if (
        code !== undefined && code !== 1000 && !(code >= 3000 && code < 5000)
      ) {
        const message =
          `Cannot close: code is ${code}, and must be 1000 or from 3000 to 4999`;
        throw new DOMException(message, "InvalidAccessError");
      }
      super.close(code, reason);
    }
  }
  // It has what clients use; the types of its events are wider.
  return TestWebSocket as unknown as typeof WebSocket;
}

export const toWs = (url: string) => url.replace(/^http/, "ws");

// ---- Handshakes -------------------------------------------------------------

/** What `Deno.serve` tells a handler of a request. */
export const INFO: Deno.ServeHandlerInfo = Object.freeze({
  remoteAddr: Object.freeze(
    { transport: "tcp", hostname: "127.0.0.1", port: 50_000 } as const,
  ),
  completed: Promise.resolve(),
});

/** Sends the request of a socket to the handler, as the runtime does. */
export async function shakeHands(
  handler: Handler,
  line: Line,
  protocols: string[],
  given: Headers,
): Promise<void> {
  const headers = new Headers(given);
  headers.set("connection", "Upgrade");
  headers.set("upgrade", "websocket");
  headers.set("sec-websocket-version", "13");
  headers.set("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
  if (protocols.length > 0) {
    headers.set("sec-websocket-protocol", protocols.join(", "));
  }
  const request = new Request(toHttp(line.near.url), { headers });
  const response = switchingProtocols();
  let isUpgraded = false;
  upgradeInMemory(request, (): Upgrade => {
    if (isUpgraded) throw new TypeError("Cannot upgrade a request twice");
    isUpgraded = true;
    // It has all that the server uses.
    return { socket: line.far as unknown as WebSocket, response };
  });
  let answer;
  try {
    answer = await handler(request, INFO);
  } catch (error) {
    return line.fail("the handler has thrown", error);
  }
  if (answer === response) {
    return line.open(response.headers.get("sec-websocket-protocol") ?? "");
  }
  line.fail(
    isUpgraded
      ? "the handler returned another answer than that of pusher.handler"
      : await describeAnswer(answer ?? new Response(null, { status: 404 })),
  );
}

const toHttp = (url: string) => url.replace(/^ws/, "http");

/** The answer to an upgrade. No runtime lets a program make one with its status. */
function switchingProtocols(): Response {
  return Object.defineProperty(new Response(null), "status", { value: 101 });
}

const NO_UPGRADE =
  "The server must get the original request, and be of the same copy of @glitz/pusher as @glitz/pusher/testing";

async function describeAnswer(answer: Response): Promise<string> {
  const text = (await answer.text()).slice(0, 200);
  const said = `the handler answered ${answer.status}${text && `: ${text}`}`;
  // The runtime may upgrade a copy, whose socket never opens.
  const isFailed = answer.status === 101 || answer.status === 400;
  return isFailed ? `${said}. ${NO_UPGRADE}` : said;
}
