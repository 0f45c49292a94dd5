/**
 * The ceiling: Bun's native `publish`, which fans out without JavaScript and sends
 * the frames of one turn of the event loop together.
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

const server = Bun.serve({
  port: JSON.parse(process.argv[2]).port,
  hostname: "127.0.0.1",
  // A publisher may pause between two measurements.
  idleTimeout: 0,
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === SOCKETS) {
      return server.upgrade(request)
        ? undefined
        : new Response(null, { status: 400 });
    }
    if (pathname !== EVENTS) return new Response(null, { status: 404 });
    const { channel, frame } = readPublish(await request.text());
    server.publish(channel, frame);
    return new Response("{}");
  },
  websocket: {
    idleTimeout: 0,
    open(socket) {
      socket.send(established());
    },
    message(socket, text) {
      const { event, data } = JSON.parse(text);
      if (event === "pusher:ping") return socket.send(PONG);
      if (event !== "pusher:subscribe") return;
      socket.subscribe(data.channel);
      socket.send(succeeded(data.channel));
    },
  },
});

console.log("ready");
