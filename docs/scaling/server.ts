/**
 * A server of your own, of which any number are one: with Redis, HTTP for networks
 * without WebSocket, health checks, metrics on a port of their own, and a drain.
 */
import { Pusher } from "@glitz/pusher";
import { fallback } from "@glitz/pusher/fallback";
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

/** Answers health checks. */
function health(request: Request): Response | null {
  const { pathname } = new URL(request.url);
  // Alive, also without Redis: a new process would lose its clients for nothing.
  if (pathname === "/healthz") return new Response("ok\n");
  if (pathname !== "/readyz") return null;
  const { ready } = pusher.stats();
  return new Response(`${ready}\n`, { status: ready ? 200 : 503 });
}

/** Answers with the figures of this server, as Prometheus reads them. */
function metrics(): Response {
  const { connections, channels, bufferedBytes, ready } = pusher.stats();
  return new Response(
    `pusher_connections ${connections}\n` +
      `pusher_channels ${channels}\n` +
      `pusher_buffered_bytes ${bufferedBytes}\n` +
      `pusher_ready ${Number(ready)}\n`,
    { headers: { "content-type": "text/plain; version=0.0.4" } },
  );
}

Deno.serve(
  { port: Number(port) },
  pusher.cascade(pusher.handler, fallback(pusher), health),
);
// Only the monitoring should reach this port.
Deno.serve({ port: Number(metricsPort) }, metrics);

Deno.addSignalListener("SIGTERM", async () => {
  await pusher.close({ over: Number(drainSeconds) * 1000 });
  Deno.exit();
});
