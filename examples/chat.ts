// A chat in one file. Run `deno run --allow-net examples/chat.ts` and open the
// address that it prints in two windows. Or send a message from a terminal:
//   curl localhost:9292/messages -d "message=hello"
import { Pusher } from "@glitz/pusher";

const page = `<!doctype html>
<meta charset="utf-8"><title>Chat</title>
<script src="/pusher.js"></script>
<form><input name="message" autofocus autocomplete="off"> <button>Send</button></form>
<ul></ul>
<script>
  pusher.subscribe("messages").bind("create", ({ text }) => {
    console.log(text);
    document.querySelector("ul").appendChild(document.createElement("li")).textContent = text;
  });
  document.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    fetch("/messages", { method: "POST", body: new URLSearchParams(new FormData(event.target)) });
    event.target.reset();
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
    await Pusher.trigger("messages", "create", { text });
    return new Response("message created", { status: 201 });
  }
  return new Response("not found", { status: 404 });
}

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9292 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Chat on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(Pusher.handler, app));
