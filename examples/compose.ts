/**
 * Pusher beside the other routes of a program, below the path /realtime. Run
 * `deno run --allow-net examples/compose.ts` and open http://localhost:8000/.
 *
 * @module
 */
import { Pusher } from "../mod.ts";
import { route } from "@std/http/unstable-route";

type Events = { "private-orders": { paid: { id: number } } };

/** A client may join with the cookie that the page sets. */
export const pusher = new Pusher<Events>({
  path: "/realtime",
  authorize: (request) =>
    /(^|; )role=clerk(;|$)/.test(request.headers.get("cookie") ?? ""),
});

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Orders</title>
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
<h1>Orders</h1>
<button>Pay</button> <output>nothing paid yet</output>
<p role="status"></p>
</main>
<script src="/realtime/pusher.js"></script>
<script>
  const orders = pusher.subscribe("private-orders", { rewind: 1 });
  orders.bind("paid", ({ id }) => {
    document.querySelector("output").textContent = "order " + id + " is paid";
  });
  const say = (text) => document.querySelector("[role=status]").textContent = text;
  const showState = () => say(pusher.connection.state === "connected" ? "" : "Connecting …");
  pusher.connection.bind("state_change", showState);
  showState();
  orders.bind("pusher:subscription_error", () => say("You cannot see orders: please reload the page."));
  document.querySelector("button").onclick = async ({ detail }) => {
    if (detail > 1) return; // The second click of a double click pays nothing.
    const answer = await fetch("/orders", { method: "POST" }).catch(() => null);
    if (answer?.ok) showState();
    else say("Not paid: no connection");
  };
</script>`;

let orders = 0;

/** Pusher gets all other requests, and answers 404 if the path is not its own. */
export const handler = route([
  {
    pattern: new URLPattern({ pathname: "/" }),
    method: ["GET", "HEAD"],
    handler: () =>
      new Response(page, {
        headers: {
          "content-type": "text/html",
          "set-cookie": "role=clerk; HttpOnly; SameSite=Lax",
        },
      }),
  },
  {
    pattern: new URLPattern({ pathname: "/orders" }),
    method: "POST",
    handler: async () => {
      const id = ++orders;
      await pusher.trigger("private-orders", "paid", { id });
      return Response.json({ id }, { status: 201 });
    },
  },
  {
    // All other methods.
    pattern: new URLPattern({ pathname: "(/|/orders)" }),
    handler: ({ url }) => {
      const allow = new URL(url).pathname === "/orders" ? "POST" : "GET, HEAD";
      return new Response(`use ${allow}`, { status: 405, headers: { allow } });
    },
  },
], pusher.handler);

if (import.meta.main) Deno.serve(handler);
