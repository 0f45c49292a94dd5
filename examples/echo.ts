/**
 * Pages with Laravel Echo and with pusher-js, both unmodified. Run
 * `deno run --allow-net examples/echo.ts`, open the address that it prints, and open
 * both pages side by side. They load their clients from a CDN.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

const pusher = new Pusher({
  key: "app-key",
  // Both clients ask "/pusher/auth" by default, or are given it. A real program
  // looks at the cookie of the request.
  authorize: (_request, { channel }) => channel === "private-orders",
});

/** A page; `connect` is a script that returns a function to bind an event. */
const page = (title: string, scripts: string, connect: string) =>
  `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${title}</title>
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
<h1>${title}</h1>
<p><a href="/">Laravel Echo</a> · <a href="/pusher-js">pusher-js</a></p>
<form><button>Order</button></form>
<p role="status">Connecting …</p>
<ul aria-live="polite" data-empty="No order yet."></ul>
</main>
${scripts}
<script>
  const say = (text) => document.querySelector("[role=status]").textContent = text;
  if (!globalThis.Pusher) say("The client cannot be loaded from the CDN: is there a network?");
  // With an id of its own in this path, a stock client misses nothing when it
  // reconnects. The id is a secret of this page.
  const wsPath = "/r/" + crypto.getRandomValues(new Uint32Array(4)).join("-");
  const options = {
    cluster: "",
    wsHost: location.hostname,
    wsPort: location.port || 80,
    wssPort: location.port || 443,
    forceTLS: location.protocol === "https:",
    enabledTransports: ["ws", "wss"],
    wsPath,
  };
  const onOrder = ({ id }) => {
    const item = document.createElement("li");
    item.textContent = "Order " + id;
    document.querySelector("ul").prepend(item);
  };
  ${connect}
  document.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const answer = await fetch("/orders", { method: "POST" }).catch(() => null);
    if (!answer?.ok) say("Not ordered: no connection");
  };
</script>`;

const cdn = (file: string, hash: string) =>
  `<script src="https://cdn.jsdelivr.net/npm/${file}" crossorigin integrity="sha384-${hash}"></script>`;

const pusherJs = cdn(
  "pusher-js@8.6.0/dist/web/pusher.min.js",
  "yz6oLe92Sren05O3WPhu8DK05E9PEkh7kTQJ819acmwKwcCMwJXGu9Kta5wYhfaJ",
);
const echo = cdn(
  "laravel-echo@2.5.0/dist/echo.iife.js",
  "Kq9euGu5WTcvbilq3ziOV6gkliaI5dp7hOs78B8gl6HYlBeerOZlIaE9KfALmAs0",
);

const pages: Record<string, string> = {
  "/": page(
    "Laravel Echo",
    pusherJs + echo,
    `const echo = new Echo.default({
    broadcaster: "pusher",
    key: "app-key",
    authEndpoint: "/pusher/auth",
    ...options,
  });
  // The dot: the name of the event is not that of a class of Laravel.
  echo.private("orders").listen(".created", onOrder)
    .subscribed(() => say(""))
    .error(() => say("You cannot see orders."));`,
  ),
  "/pusher-js": page(
    "pusher-js",
    pusherJs,
    `const pusher = new Pusher("app-key", options);
  const orders = pusher.subscribe("private-orders");
  orders.bind("created", onOrder);
  orders.bind("pusher:subscription_succeeded", () => say(""));
  orders.bind("pusher:subscription_error", () => say("You cannot see orders."));`,
  ),
};

let orders = 0;

async function app(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/orders") {
    if (request.method !== "POST") return refuseMethod("POST");
    await pusher.trigger("private-orders", "created", { id: ++orders });
    return reply(201, "created");
  }
  if (!Object.hasOwn(pages, pathname)) return reply(404, "not found");
  if (!/^(GET|HEAD)$/.test(request.method)) return refuseMethod("GET, HEAD");
  return reply(200, pages[pathname]!, { "content-type": "text/html" });
}

const reply = (status: number, text: string, headers = {}) =>
  new Response(text, { status, headers });
const refuseMethod = (allow: string) => reply(405, `use ${allow}`, { allow });

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9300 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Orders on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
