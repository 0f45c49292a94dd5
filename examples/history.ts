// A chat with a history. Run `deno run --allow-net examples/history.ts`, open the
// address that it prints, send some messages, and open it in another window. A new
// window shows the last messages. A window that was offline for a while gets the
// messages that it missed, each of them once.
import { Pusher } from "@glitz/pusher";

// The history is in memory and begins when the first page subscribes. By default the
// server keeps an event for five minutes, here for an hour. `events` and `bytes` are
// further limits.
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
<form><input name="message" autofocus autocomplete="off"> <button>Send</button></form>
<script src="/pusher.js"></script>
<script>
  const messages = pusher.subscribe("messages", { rewind: 20 });
  messages.bind("create", ({ at, text }) => {
    add("span", text).title = new Date(at).toLocaleTimeString();
  });
  // The history does not reach back to the last message on this page: the page was
  // offline for too long, or the server was restarted.
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
