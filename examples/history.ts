// A chat that remembers: `deno run --allow-net examples/history.ts`, then open the
// address that it prints, say something, and open it once more. Who comes late
// sees the last messages, and who was away for a while gets what it missed, once.
import { Pusher } from "@glitz/pusher";

// What is kept is in memory, and begins with the first page that subscribes. By
// default it is five minutes; `events` and `bytes` bound it as well.
const pusher = new Pusher({ history: { ageMs: 3_600_000 } });

const page = `<!doctype html>
<meta charset="utf-8"><title>Chat with history</title>
<style>
  body { font: 1.1em system-ui; max-width: 30em; margin: 2em auto }
  [title]::before { content: attr(title) " "; color: gray }
</style>
<h1>Chat with history</h1>
<p>connecting</p>
<ul></ul>
<form><input name="message" autofocus autocomplete="off"> <button>Say</button></form>
<script src="/pusher.js"></script>
<script>
  const messages = pusher.subscribe("messages", { rewind: 20 });
  messages.bind("create", ({ at, text }) => {
    add("span", text).title = new Date(at).toLocaleTimeString();
  });
  // The page was away for longer than the server remembers, or the server is new.
  messages.bind("pusher:recovery_failed", () => {
    add("em", "Some messages may be missing here.");
  });
  function add(tag, text) {
    const item = document.querySelector("ul").appendChild(document.createElement("li"));
    const content = item.appendChild(document.createElement(tag));
    content.textContent = text;
    return content;
  }
  pusher.connection.bind("state_change", ({ current }) => {
    document.querySelector("p").textContent = current;
  });
  document.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const form = event.target;
    const body = new URLSearchParams(new FormData(form));
    const { ok } = await fetch("/messages", { method: "POST", body });
    if (ok) form.reset();
  };
</script>`;

async function app(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (request.method === "GET" && pathname === "/") {
    return new Response(page, { headers: { "content-type": "text/html" } });
  }
  if (request.method === "POST" && pathname === "/messages") {
    const text = new URLSearchParams(await request.text()).get("message");
    if (!text) return new Response("message is missing", { status: 400 });
    await pusher.trigger("messages", "create", { at: Date.now(), text });
    return new Response("message created", { status: 201 });
  }
  return new Response("not found", { status: 404 });
}

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9294 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Chat with history on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
