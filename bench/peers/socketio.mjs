/**
 * Socket.IO, with its own protocol and its own rooms.
 *
 * @module
 */
import { createRequire } from "node:module";
import { listen, publisher } from "./node.mjs";

const require = createRequire(new URL("../.peers/socketio/", import.meta.url));
const { Server } = require("socket.io");

const server = publisher(({ channel, data }) => io.to(channel).emit("m", data));
const io = new Server(server, {
  serveClient: false,
  transports: ["websocket"],
});

io.on("connection", (socket) => {
  socket.on("subscribe", async (channel, acknowledge) => {
    await socket.join(channel);
    acknowledge();
  });
});

listen(server);
