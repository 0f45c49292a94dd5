/**
 * A chart that the server feeds. Run `deno run --allow-net examples/chart.ts` and
 * open the address that it prints. A window that is opened later begins with the
 * last minute, and a window that was offline gets what it missed.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

type Events = { memory: { measured: { mib: number; clients: number } } };

const pusher = new Pusher<Events>({ history: { events: 60 } });

setInterval(() => {
  const mib = Math.round(Deno.memoryUsage().rss / 1024 ** 2 * 10) / 10;
  const { connections } = pusher.stats();
  pusher.trigger("memory", "measured", { mib, clients: connections })
    .catch(console.error);
}, 1_000);

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Live chart</title>
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
  svg { display: block; width: 100%; height: 40vh; border: 1px solid var(--line); border-radius: .6rem; background: var(--card) }
  polyline { fill: none; stroke: var(--accent); stroke-width: 2.5; stroke-linejoin: round; vector-effect: non-scaling-stroke }
  dl { display: flex; gap: 2rem } dd { margin: 0; font-size: 1.7rem; font-weight: 600; font-variant-numeric: tabular-nums }
</style>
<main>
<h1>Memory of this server</h1>
<svg viewBox="0 0 59 100" preserveAspectRatio="none" role="img" aria-label="The last minute"><polyline/></svg>
<dl><div><dt>MiB</dt><dd id="mib">–</dd></div><div><dt>clients</dt><dd id="clients">–</dd></div></dl>
<p role="status">Connecting …</p>
</main>
<script src="/pusher.js"></script>
<script>
  let values = [];
  const memory = pusher.subscribe("memory", { rewind: 60 });
  memory.bind("measured", ({ mib, clients }) => {
    values = [...values, mib].slice(-60);
    document.querySelector("#mib").textContent = mib.toFixed(1);
    document.querySelector("#clients").textContent = clients;
    // The scale has room above and below, so that small changes stay small.
    const low = Math.min(...values) - 1, high = Math.max(...values) + 1;
    const points = values.map((value, index) =>
      (60 - values.length + index) + "," + (100 - (value - low) / (high - low) * 100)
    );
    document.querySelector("polyline").setAttribute("points", points.join(" "));
  });
  // The server was restarted, or the page was offline for more than a minute.
  memory.bind("pusher:recovery_failed", () => values = []);
  const showState = () => document.querySelector("[role=status]").textContent =
    pusher.connection.state === "connected" ? "" : "Connecting …";
  pusher.connection.bind("state_change", showState);
  showState();
</script>`;

function app(request: Request): Response {
  if (new URL(request.url).pathname !== "/") return reply(404, "not found");
  if (!/^(GET|HEAD)$/.test(request.method)) {
    return reply(405, "use GET, HEAD", { allow: "GET, HEAD" });
  }
  return reply(200, page, { "content-type": "text/html" });
}

const reply = (status: number, text: string, headers = {}) =>
  new Response(text, { status, headers });

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9298 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Chart on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
