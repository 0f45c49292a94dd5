/**
 * Pusher in the shape of a Fresh project. Run `deno run --allow-net examples/fresh.ts`
 * and open the address that it prints. The first two parts are what you write in such
 * a project; the last part stands for Fresh, which this file does not need.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

// ---- utils.ts: one instance, which all routes import ------------------------

const pusher = new Pusher();

/** What Fresh passes to handlers, as far as they need it here. */
interface Context {
  req: Request;
  info: Deno.ServeHandlerInfo;
  next(): Promise<Response>;
}

// ---- routes/_middleware.ts --------------------------------------------------

/** Pusher answers its own routes, and all others go on to the files in `routes`. */
const middleware = (ctx: Context) =>
  Pusher.cascade(pusher.handler, () => ctx.next())(ctx.req, ctx.info);

// ---- routes/index.tsx -------------------------------------------------------

let likes = 0;

const index = {
  GET: () => {
    const headers = {
      "content-type": "text/html",
      "cache-control": "no-store",
    };
    return new Response(page(), { headers });
  },
  // Any handler can publish.
  async POST(_ctx: Context) {
    await pusher.trigger("likes", "changed", { likes: ++likes });
    return new Response("liked", { status: 201 });
  },
};

const page = () =>
  `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Likes</title>
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
<h1>Likes</h1>
<form><button>Like</button> <output>${likes}</output></form>
<p role="status">Connecting …</p>
</main>
<script src="/pusher.js"></script>
<script>
  pusher.subscribe("likes", { rewind: 1 }).bind("changed", ({ likes }) => {
    document.querySelector("output").textContent = likes;
  });
  const say = (text) => document.querySelector("[role=status]").textContent = text;
  const showState = () => say(pusher.connection.state === "connected" ? "" : "Connecting …");
  pusher.connection.bind("state_change", showState);
  showState();
  document.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const answer = await fetch("/", { method: "POST" }).catch(() => null);
    if (!answer?.ok) say("Not liked: no connection");
  };
</script>`;

// ---- main.ts: in a Fresh project, new App().fsRoutes() ----------------------

const routes = new Map<string, Record<string, (ctx: Context) => unknown>>([
  ["/", index],
]);

async function serve(ctx: Context): Promise<Response> {
  const handlers = routes.get(new URL(ctx.req.url).pathname);
  if (handlers === undefined) return new Response("not found", { status: 404 });
  const { method } = ctx.req;
  const handle = handlers[method === "HEAD" ? "GET" : method];
  if (handle) return await handle(ctx) as Response;
  const headers = { allow: "GET, HEAD, POST" };
  return new Response("use GET, HEAD, POST", { status: 405, headers });
}

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9302 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Likes on http://localhost:${port}/`);
Deno.serve({ port, onListen }, (req, info) => {
  const ctx = { req, info, next: () => serve(ctx) };
  return middleware(ctx);
});
