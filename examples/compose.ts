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
<meta charset="utf-8"><title>Orders</title>
<script src="/realtime/pusher.js"></script>
<button>Pay</button> <output>nothing paid</output>
<script>
  pusher.subscribe("private-orders").bind("paid", ({ id }) => {
    document.querySelector("output").textContent = "order " + id + " is paid";
  });
  document.querySelector("button").onclick = () => fetch("/orders", { method: "POST" });
</script>`;

let orders = 0;

/** Pusher gets all other requests, and answers 404 if the path is not its own. */
export const handler = route([
  {
    pattern: new URLPattern({ pathname: "/" }),
    method: "GET",
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
], pusher.handler);

if (import.meta.main) Deno.serve(handler);
