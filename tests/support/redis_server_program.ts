/**
 * A server on Redis as a process of its own, which a test can freeze. Its arguments are
 * the URL of Redis and the length of a lease.
 *
 * @module
 */
import { Pusher } from "../../mod.ts";
import { redis } from "../../ext/redis.ts";

const [url = "", leaseMs, appId = "", key = "", secret = ""] = Deno.args;
const backplane = redis(url, { leaseMs: Number(leaseMs) });
const pusher = new Pusher({ appId, key, secret, backplane });
await pusher.channels();
Deno.serve({
  hostname: "127.0.0.1",
  port: 0,
  onListen: ({ port }) => console.log(`port ${port}`),
}, pusher.handler);
