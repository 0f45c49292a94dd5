/**
 * Faye, with its own protocol and its engine in memory.
 *
 * @module
 */
import { createRequire } from "node:module";
import { listen, publisher } from "./node.mjs";

const require = createRequire(new URL("../.peers/faye/", import.meta.url));
const { NodeAdapter } = require("faye");

const bayeux = new NodeAdapter({ mount: "/bayeux" });
const client = bayeux.getClient();

const server = publisher(({ channel, data }) =>
  client.publish(`/${channel}`, data)
);
bayeux.attach(server);
listen(server);
