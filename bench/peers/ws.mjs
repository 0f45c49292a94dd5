/**
 * The smallest server with the package `ws`: a set of sockets for each channel.
 *
 * @module
 */
import { createRequire } from "node:module";
import { established, PONG, SOCKETS, succeeded } from "./minimal.mjs";
import { listen, publisher } from "./node.mjs";

const require = createRequire(new URL("../.peers/ws/", import.meta.url));
const { WebSocketServer } = require("ws");

const channels = new Map();

const server = publisher(({ channel, frame }) => {
  // Text would be encoded for each socket.
  const bytes = Buffer.from(frame);
  for (const socket of channels.get(channel) ?? []) {
    socket.send(bytes, { binary: false });
  }
});

const sockets = new WebSocketServer({ noServer: true });

sockets.on("connection", (socket) => {
  const joined = [];
  socket.on("message", (text) => {
    const { event, data } = JSON.parse(text);
    if (event === "pusher:ping") return socket.send(PONG);
    if (event !== "pusher:subscribe") return;
    const { channel } = data;
    const members = channels.get(channel) ?? new Set();
    channels.set(channel, members.add(socket));
    joined.push(channel);
    socket.send(succeeded(channel));
  });
  socket.on("close", () => {
    for (const channel of joined) {
      const members = channels.get(channel);
      members.delete(socket);
      if (members.size === 0) channels.delete(channel);
    }
  });
  // The close that follows says all that there is to do.
  socket.on("error", () => {});
  socket.send(established());
});

server.on("upgrade", (request, socket, head) => {
  if (!request.url.startsWith(SOCKETS)) return socket.destroy();
  sockets.handleUpgrade(request, socket, head, (client) => {
    sockets.emit("connection", client);
  });
});

listen(server);
