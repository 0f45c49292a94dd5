// A chat in one file. Run `deno run --allow-net examples/chat.ts` and open the
// address that it prints in two windows. Or send a message from a terminal:
//   curl localhost:9292/messages -d "message=hello"
// A page that is reloaded begins empty; history.ts shows the last messages.
import { Pusher } from "@glitz/pusher";

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Chat</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<style>
  body { font: 1.1em system-ui; max-width: 30em; margin: auto; padding: 1em; overflow-wrap: anywhere }
  input, button { font: inherit; padding: .3em; max-width: 100%; box-sizing: border-box }
</style>
<main>
<h1>Chat</h1>
<form><label>Message <input name="message" autofocus autocomplete="off"></label> <button>Send</button></form>
<p role="status"></p>
<ul aria-live="polite"></ul>
</main>
<script src="/pusher.js"></script>
<script>
  pusher.subscribe("messages").bind("create", ({ text }) => {
    console.log(text);
    document.querySelector("ul").prepend(document.createElement("li"));
    document.querySelector("li").textContent = text;
  });
  const say = (text) => document.querySelector("[role=status]").textContent = text;
  const showState = () => say(pusher.connection.state === "connected" ? "" : "Connecting …");
  pusher.connection.bind("state_change", showState);
  showState();
  document.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const input = event.target.message, message = input.value.trim();
    if (message === "") return;
    input.value = "";
    const body = new URLSearchParams({ message });
    const answer = await fetch("/messages", { method: "POST", body })
      .catch(() => new Response("no connection", { status: 503 }));
    if (answer.ok) return showState();
    say("Not sent: " + await answer.text());
    input.value = (message + " " + input.value).trim();
  };
</script>`;

async function app(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/") {
    if (!/^(GET|HEAD)$/.test(request.method)) return refuseMethod("GET, HEAD");
    return reply(200, page, { "content-type": "text/html" });
  }
  if (pathname === "/messages") {
    if (request.method !== "POST") return refuseMethod("POST");
    const body = await readText(request, 10_000);
    const text = new URLSearchParams(body).get("message")?.trim() ?? "";
    if (body.length > 10_000 || text.length > 1_000) {
      return reply(413, "a message has at most 1,000 characters");
    }
    if (text === "") return reply(400, "the message is missing");
    await Pusher.trigger("messages", "create", { text });
    return reply(201, "message created");
  }
  return reply(404, "not found");
}

/** Reads a text, or the beginning of a text that has more than `max` characters. */
async function readText({ body }: Request, max: number): Promise<string> {
  let text = "";
  for await (const part of body?.pipeThrough(new TextDecoderStream()) ?? []) {
    text += part;
    if (text.length > max) break;
  }
  return text;
}

const reply = (status: number, text: string, headers = {}) =>
  new Response(text, { status, headers });
const refuseMethod = (allow: string) => reply(405, `use ${allow}`, { allow });

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9292 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Chat on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(Pusher.handler, app));
