// Pusher beside the other routes of a program, below the path /realtime. Run
// `deno run --allow-net examples/compose.ts` and open http://localhost:8000/.
import { Pusher } from "@glitz/pusher";
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
  body { font: 1.1em system-ui; max-width: 30em; margin: auto; padding: 1em; overflow-wrap: anywhere }
  input, button { font: inherit; padding: .3em; max-width: 100%; box-sizing: border-box }
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
