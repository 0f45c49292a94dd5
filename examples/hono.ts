// Pusher in a program of Hono, below the path /realtime. Run
// `deno run --allow-net examples/hono.ts` and open http://localhost:8000/.
import { Pusher } from "@glitz/pusher";
import { Hono } from "hono";

export const pusher = new Pusher({ path: "/realtime" });

const page = `<!doctype html>
<meta charset="utf-8"><title>Counter</title>
<script src="/realtime/pusher.js"></script>
<button>Count</button> <output>0</output>
<script>
  pusher.subscribe("counter").bind("changed", ({ count }) => {
    document.querySelector("output").textContent = count;
  });
  document.querySelector("button").onclick = () => fetch("/count", { method: "POST" });
</script>`;

let count = 0;

export const app = new Hono();
app.get("/", (c) => c.html(page));
app.post("/count", async (c) => {
  await pusher.trigger("counter", "changed", { count: ++count });
  return c.json({ count }, 201);
});

// `c.req.raw` is the request of Deno.serve. A WebSocket opens for no copy of it.
app.all("/realtime/*", (c) => pusher.handler(c.req.raw));

// This does the same for all requests that no other route takes:
// app.mount("/", pusher.handler, { replaceRequest: false });

if (import.meta.main) Deno.serve(app.fetch);
