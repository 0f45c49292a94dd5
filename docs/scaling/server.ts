/**
 * A server of your own, of which any number are one: with Redis, HTTP for networks
 * without WebSocket, health checks, metrics on a port of their own, and a drain.
 */
import { Pusher } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
import { health, metrics } from "@glitz/pusher/metrics";
import { redis } from "@glitz/pusher/redis";

const {
  PUSHER_APP_ID: appId = "1",
  PUSHER_APP_KEY: key = "app-key",
  PUSHER_APP_SECRET: secret,
  PUSHER_REDIS_URL: url = "redis://localhost:6379",
  PUSHER_PORT: port = "6001",
  METRICS_PORT: metricsPort = "9000",
  DRAIN_SECONDS: drainSeconds = "30",
} = Deno.env.toObject();

// A random one would differ from server to server.
if (!secret) throw new Error("PUSHER_APP_SECRET is missing");

const pusher = new Pusher({ appId, key, secret, backplane: redis(url) });

Deno.serve(
  { port: Number(port) },
  pusher.cascade(pusher.handler, fallback(pusher), health(pusher)),
);
// Only the monitoring should reach this port, at /metrics.
Deno.serve(
  { port: Number(metricsPort) },
  pusher.cascade(metrics(pusher, { from: "private" })),
);

Deno.addSignalListener("SIGTERM", async () => {
  await pusher.close({ over: Number(drainSeconds) * 1000 });
  Deno.exit();
});
