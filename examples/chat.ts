/**
 * A chat in one file. Run `deno run --allow-net examples/chat.ts` and open the
 * address that it prints in two windows. Or send a message from a terminal:
 * `curl localhost:9292/messages -d "message=hello"`.
 *
 * A page that is reloaded begins empty; history.ts shows the last messages.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Chat</title>
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
<h1>Chat</h1>
<form><label>Message <input name="message" autofocus autocomplete="off"></label> <button>Send</button></form>
<p role="status"></p>
<ul aria-live="polite" data-empty="No message yet. Open this page in a second window."></ul>
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
