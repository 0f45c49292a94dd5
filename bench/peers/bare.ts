/**
 * The least that a server on Deno can do: a loop over the sockets of a channel.
 *
 * @module
 */
import {
  established,
  EVENTS,
  PONG,
  readPublish,
  SOCKETS,
  succeeded,
} from "./minimal.mjs";
import type { PeerOptions } from "../peer.ts";
import { isSigned } from "./signatures.ts";

const { port, signed }: PeerOptions = JSON.parse(Deno.args[0] ?? "{}");

const channels = new Map<string, Set<WebSocket>>();
const joined = new Map<WebSocket, string[]>();

// One listener for all sockets: a closure for each would cost memory.
function greet(this: WebSocket): void {
  this.send(established());
}

function receive(this: WebSocket, { data }: MessageEvent<string>): void {
  const { event, data: { channel } } = JSON.parse(data);
  if (event === "pusher:ping") return this.send(PONG);
  if (event !== "pusher:subscribe") return;
  const sockets = channels.get(channel) ?? new Set();
  channels.set(channel, sockets.add(this));
  const names = joined.get(this) ?? [];
  names.push(channel);
  joined.set(this, names);
  this.send(succeeded(channel));
}

function leave(this: WebSocket): void {
  for (const channel of joined.get(this) ?? []) {
    const sockets = channels.get(channel);
    sockets?.delete(this);
    if (sockets?.size === 0) channels.delete(channel);
  }
  joined.delete(this);
}

function upgrade(request: Request): Response {
  // The clients of the bench answer no pings of the runtime.
  const { socket, response } = Deno.upgradeWebSocket(request, {
    idleTimeout: 0,
  });
  socket.onopen = greet;
  socket.onmessage = receive;
  socket.onclose = leave;
  return response;
}

async function publish(request: Request): Promise<Response> {
  const body = await request.text();
  if (signed && !isSigned(new URL(request.url), body)) {
    return new Response("{}", { status: 401 });
  }
  const { channel, frame } = readPublish(body);
  for (const socket of channels.get(channel) ?? []) socket.send(frame);
  return new Response("{}");
}

Deno.serve({
  port,
  hostname: "127.0.0.1",
  onListen: () => console.log("ready"),
}, (request) => {
  const { pathname } = new URL(request.url);
  if (pathname === SOCKETS) return upgrade(request);
  if (pathname === EVENTS) return publish(request);
  return new Response(null, { status: 404 });
});
