/**
 * Pusher in a program of Hono, below the path /realtime. Run
 * `deno run --allow-net examples/hono.ts` and open http://localhost:8000/.
 *
 * @module
 */
import { Pusher } from "../mod.ts";
import { Hono } from "npm:hono@4.13.19";

export const pusher = new Pusher({ path: "/realtime" });

let count = 0;

const page = () =>
  `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Counter</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<style>
  :root { --ink: light-dark(#1b2232, #e6eaf2); --paper: light-dark(#f3f5fa, #13161c); --card: light-dark(#fff, #1d222c); --line: light-dark(#cbd3e1, #465062); --accent: light-dark(#3f3cbb, #b4bcff) }
  body { font: 1.05rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: auto; padding: 1rem; overflow-wrap: anywhere; color: var(--ink); background: var(--paper) }
  h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 1rem }
  a { color: var(--accent) }
  form { display: flex; flex-wrap: wrap; gap: .6rem; align-items: end; margin: 1rem 0 }
  label { flex: 1 1 12rem; display: grid; gap: .2rem }
  input, button { font: inherit; padding: .5rem .9rem; min-width: 0; max-width: 100%; box-sizing: border-box; border: 1px solid var(--line); border-radius: .6rem; color: var(--ink); background: var(--card) }
  button { font-weight: 600; border-color: var(--accent); color: var(--paper); background: var(--accent); cursor: pointer }
  :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
  ul { list-style: none; padding: 0 } ul:empty::after { content: attr(data-empty); font-style: italic }
  li { padding: .5rem .9rem; margin: .5rem 0; border: 1px solid var(--line); border-radius: .6rem; background: var(--card) }
  output { align-self: center; margin-inline-start: .3rem; font-weight: 600 }
  p[role=status], p[role=alert] { min-height: 1.5em; margin: .6rem 0 }
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
