/**
 * The HTTP side of the servers on Node.
 *
 * @module
 */
import { createServer } from "node:http";
import { EVENTS, readPublish } from "./minimal.mjs";

export const { port } = JSON.parse(process.argv[2]);

/**
 * A server that publishes what is posted to it.
 *
 * @param {(publish: ReturnType<typeof readPublish>) => unknown} publish
 */
export function publisher(publish) {
  const server = createServer((request, response) => {
    if (!request.url?.startsWith(EVENTS)) {
      response.writeHead(404, { "content-length": 0 }).end();
      return;
    }
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", async () => {
      await publish(readPublish(Buffer.concat(chunks).toString()));
      response.writeHead(200, {
        "content-type": "application/json",
        "content-length": 2,
      }).end("{}");
    });
  });
  // A publisher may pause between two measurements.
  server.keepAliveTimeout = 0;
  return server;
}

/** Tells the bench that the server listens, once it does. */
export function listen(server) {
  server.listen(port, "127.0.0.1", () => console.log("ready"));
}
