/**
 * A server in a process of its own, whose memory a test measures.
 *
 * `GET /publish?bytes=…` publishes to `news` until all of its clients are gone, and
 * answers with the bytes that the process has grown by.
 *
 * @module
 */
import { delay, SYSTEM_CLOCK } from "../../core/time.ts";
import { Pusher } from "../../mod.ts";

const pusher = new Pusher({ key: "app-key" });

async function publish(bytes: number): Promise<number> {
  const before = Deno.memoryUsage().rss;
  const data = "x".repeat(bytes);
  while (pusher.stats().connections > 0) {
    for (let n = 0; n < 10; n++) pusher.trigger("news", "e", data);
    await delay(SYSTEM_CLOCK, 0);
  }
  return Deno.memoryUsage().rss - before;
}

Deno.serve({
  port: 0,
  onListen: ({ port }) => console.log(`port ${port}`),
}, async (request) => {
  const url = new URL(request.url);
  if (url.pathname !== "/publish") return await pusher.handler(request);
  const grown = await publish(Number(url.searchParams.get("bytes")));
  return Response.json({ grown, gone: pusher.stats().connections });
});
