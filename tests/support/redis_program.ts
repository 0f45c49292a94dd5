/**
 * A program that has a network of connections to Redis and says when it is up and down.
 *
 * @module
 */
import { Network } from "../../ext/redis/network.ts";

const network = new Network({
  url: Deno.args[0] ?? "",
  tags: ["{test:0}"],
  scripts: [],
}, {
  restore: () => Promise.resolve(),
  message: () => {},
  health: (isUp) => console.log(isUp ? "up" : "down"),
  stays: () => {},
});
await network.start();
console.log("up");
