/**
 * One server for several apps, each with its own key, secret and limits. Run
 * `deno run --allow-net examples/tenants.ts` and open the address that it prints. Both
 * apps have a channel "news", and neither hears of the other's.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

type Events = { news: { posted: { text: string } } };

const tenants = new Map([
  ["shop", { id: "1", key: "shop-key", secret: "shop-secret" }],
  ["blog", { id: "2", key: "blog-key", secret: "blog-secret" }],
]);

const pusher = new Pusher<Events>({
  apps: [
    // Each app may have limits of its own.
    { ...tenants.get("shop")!, limits: { connections: 1_000 } },
    { ...tenants.get("blog")!, limits: { connections: 100 } },
  ],
});

// With several apps, an event of the server says whose it is.
pusher.on("channel_occupied", ({ app, channel }) => {
  console.log(`app ${app}: somebody reads ${channel}`);
});

const page = (name: string, key: string) =>
  `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>News of the ${name}</title>
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
<h1>News of the ${name}</h1>
<p><a href="/shop">shop</a> · <a href="/blog">blog</a></p>
<form><button>Post news of the ${name}</button></form>
<p role="status">Connecting …</p>
<ul aria-live="polite" data-empty="No news yet."></ul>
</main>
<script src="/pusher.js"></script>
<script>
  // The script is configured for the first app; this page takes its own.
  const client = new Pusher("${key}", { url: location.origin });
  client.subscribe("news", { rewind: 5 }).bind("posted", ({ text }) => {
    const item = document.createElement("li");
    item.textContent = text;
    document.querySelector("ul").prepend(item);
  });
  const say = (text) => document.querySelector("[role=status]").textContent = text;
  const showState = () => say(client.connection.state === "connected" ? "" : "Connecting …");
  client.connection.bind("state_change", showState);
  showState();
  document.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const answer = await fetch("", { method: "POST" }).catch(() => null);
    if (!answer?.ok) say("Not posted: no connection");
  };
</script>`;

let posts = 0;

async function app(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/") return reply(302, "", { location: "/shop" });
  const name = pathname.slice(1);
  const tenant = tenants.get(name);
  if (tenant === undefined) return reply(404, "not found");
  switch (request.method) {
    case "GET":
    case "HEAD":
      return reply(200, page(name, tenant.key), {
        "content-type": "text/html",
      });
    case "POST": {
      const text = `News ${++posts}, for readers of the ${name} only`;
      await pusher.app(tenant.id).trigger("news", "posted", { text });
      return reply(201, "posted");
    }
    default:
      return reply(405, "use GET, HEAD, POST", { allow: "GET, HEAD, POST" });
  }
}

const reply = (status: number, text: string, headers = {}) =>
  new Response(text, { status, headers });

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9301 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`News on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
