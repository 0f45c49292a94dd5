// Pusher in a program of Hono, below the path /realtime. Run
// `deno run --allow-net examples/hono.ts` and open http://localhost:8000/.
import { Pusher } from "@glitz/pusher";
import { Hono } from "hono";

export const pusher = new Pusher({ path: "/realtime" });

let count = 0;

const page = () =>
  `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Counter</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<style>
  body { font: 1.1em system-ui; max-width: 30em; margin: auto; padding: 1em; overflow-wrap: anywhere }
  input, button { font: inherit; padding: .3em; max-width: 100%; box-sizing: border-box }
</style>
<main>
<h1>Counter</h1>
<button>Count</button> <output>${count}</output>
<p role="status"></p>
</main>
<script src="/realtime/pusher.js"></script>
<script>
  pusher.subscribe("counter", { rewind: 1 }).bind("changed", ({ count }) => {
    document.querySelector("output").textContent = count;
  });
  const say = (text) => document.querySelector("[role=status]").textContent = text;
  const showState = () => say(pusher.connection.state === "connected" ? "" : "Connecting …");
  pusher.connection.bind("state_change", showState);
  showState();
  document.querySelector("button").onclick = async () => {
    const answer = await fetch("/count", { method: "POST" }).catch(() => null);
    if (answer?.ok) showState();
    else say("Not counted: no connection");
  };
</script>`;

export const app = new Hono();
app.get("/", (c) => c.html(page(), 200, { "cache-control": "no-store" }));
app.all("/", (c) => c.text("use GET", 405, { allow: "GET, HEAD" }));
app.post("/count", async (c) => {
  await pusher.trigger("counter", "changed", { count: ++count });
  return c.json({ count }, 201);
});
app.all("/count", (c) => c.text("use POST", 405, { allow: "POST" }));

// `c.req.raw` is the request of Deno.serve. A WebSocket opens for no copy of it.
app.all("/realtime/*", (c) => pusher.handler(c.req.raw));

// This does the same for all requests that no other route takes:
// app.mount("/", pusher.handler, { replaceRequest: false });

if (import.meta.main) Deno.serve(app.fetch);
