/**
 * Notes that the server cannot read. Run `deno run --allow-net examples/notes.ts`,
 * open the address that it prints, and give the address that the page then has to
 * somebody else. The part behind # is the key, and browsers do not send that part:
 * the pages encrypt and decrypt, and server, proxies and Redis see boxes only.
 *
 * If your program itself writes the events, take `@glitz/pusher/encryption`. Then the
 * program has the keys, and only what is between it and the pages cannot read them.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

const pusher = new Pusher({
  encryption: {
    // The pages have done it.
    encrypt: (_channel, box) => box,
    // The pages know the secret, and the server does not.
    sharedSecret: () => "",
  },
  // Whoever knows the name of a notebook may have its boxes.
  authorize: (_request, { channel }) =>
    /^private-encrypted-notes-[\w-]{22}$/.test(channel),
  history: { ageMs: 3_600_000 },
});

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Secret notes</title>
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
<h1>Secret notes</h1>
<p>Whoever has the address of this page can read and write here. The server cannot read.</p>
<form><label>Note <input name="note" autofocus autocomplete="off" maxlength="1000"></label> <button>Add</button></form>
<p role="status">Connecting …</p>
<ul aria-live="polite" data-empty="No note yet."></ul>
</main>
<script src="https://cdn.jsdelivr.net/npm/tweetnacl@1.0.3/nacl-fast.min.js" crossorigin
  integrity="sha384-05+sicyRJQ56XpL4U9HJ8YbtSzFDvAg7apPKOGV6A0JsAJKFM68jp5oLnUjG5mEp"></script>
<script src="/pusher.js"></script>
<script>
  const encode = (bytes) => btoa(String.fromCharCode(...bytes));
  const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt());
  const forUrl = (text) => text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

  const say = (text) => document.querySelector("[role=status]").textContent = text;
  if (!globalThis.nacl) say("The library that encrypts cannot be loaded: is there a network?");

  // The address has the key. Its hash names the notebook, and does not give it away.
  if (!/^#[\\w-]{43}$/.test(location.hash)) location.hash = forUrl(encode(nacl.randomBytes(32)));
  addEventListener("hashchange", () => location.reload());
  const secret = location.hash.slice(1).replaceAll("-", "+").replaceAll("_", "/") + "=";
  const key = decode(secret);
  const name = "private-encrypted-notes-" + forUrl(encode(nacl.hash(key).slice(0, 16)));

  const client = new Pusher(pusher.key, {
    url: location.origin,
    nacl,
    channelAuthorization: {
      async customHandler({ socketId, channelName }, callback) {
        const body = new URLSearchParams({ socket_id: socketId, channel_name: channelName });
        try {
          const answer = await fetch("/pusher/auth", { method: "POST", body });
          const { auth } = await answer.json();
          callback(null, { auth, shared_secret: secret });
        } catch (error) {
          callback(error);
        }
      },
    },
  });

  const notes = client.subscribe(name, { rewind: 50 });
  notes.bind("added", ({ note }) => {
    const item = document.createElement("li");
    item.textContent = note;
    document.querySelector("ul").prepend(item);
  });
  const showState = () => say(notes.subscribed ? "" : "Connecting …");
  notes.bind("pusher:subscription_succeeded", showState);
  client.connection.bind("state_change", showState);

  document.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const input = event.target.note, note = input.value.trim();
    if (note === "") return;
    const nonce = nacl.randomBytes(24);
    const text = new TextEncoder().encode(JSON.stringify({ note }));
    const box = { nonce: encode(nonce), ciphertext: encode(nacl.secretbox(text, nonce, key)) };
    const answer = await fetch("/notes?channel=" + name, { method: "POST", body: JSON.stringify(box) })
      .catch(() => new Response("no connection", { status: 503 }));
    if (!answer.ok) return say("Not added: " + await answer.text());
    input.value = "";
    showState();
  };
</script>`;

async function app(request: Request): Promise<Response> {
  const { pathname, searchParams } = new URL(request.url);
  if (pathname === "/") {
    if (!/^(GET|HEAD)$/.test(request.method)) return refuseMethod("GET, HEAD");
    return reply(200, page, { "content-type": "text/html" });
  }
  if (pathname !== "/notes") return reply(404, "not found");
  if (request.method !== "POST") return refuseMethod("POST");
  const channel = searchParams.get("channel") ?? "";
  const text = await readText(request, 8_000);
  if (text.length > 8_000) return reply(413, "a note has at most 8,000 bytes");
  const box = parseBox(text);
  if (!/^private-encrypted-notes-[\w-]{22}$/.test(channel) || box === null) {
    return reply(400, "this is no encrypted note");
  }
  await pusher.trigger(channel, "added", box);
  return reply(201, "added");
}

/** A box as clients decrypt it; null for anything else, such as plain text. */
function parseBox(text: string): { nonce: string; ciphertext: string } | null {
  try {
    const { nonce, ciphertext } = Object(JSON.parse(text));
    const isBox = /^[\w+/]{32}$/.test(nonce) &&
      /^[\w+/]{22,}={0,2}$/.test(ciphertext);
    return isBox ? { nonce, ciphertext } : null;
  } catch {
    // It is no JSON.
    return null;
  }
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
const port = flag < 0 ? 9299 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Notes on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
