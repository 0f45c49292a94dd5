/**
 * A list of who is here. Run `deno run --allow-net examples/presence.ts`, open the
 * address that it prints in a normal window and in a private window, and come in
 * under two names.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

// A real program has sessions and users already; this map replaces them. Its key is
// the cookie, which is a secret. All members see the id of a user, so the id is
// different from the cookie.
const users = new Map<string, Member>();

type Member = { user_id: string; user_info: { name: string } };

const pusher = new Pusher({
  authorize: (request, { channel }) =>
    channel === "presence-lobby" && (userOf(request) ?? false),
});

function userOf(request: Request): Member | undefined {
  const cookies = request.headers.get("cookie") ?? "";
  return users.get(/(?:^|; )session=([^;]+)/.exec(cookies)?.[1] ?? "");
}

const head = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Who is here</title>
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
<h1>Who is here</h1>`;

const door = (fault = "") =>
  `${head}
<form method="post">
  <label>Your name <input name="name" required maxlength="40" autofocus></label>
  <button>Come in</button>
</form>
<p role="alert">${fault}</p>
</main>`;

const lobby = `${head}
<p role="status">Connecting …</p>
<ul></ul>
</main>
<script src="/pusher.js"></script>
<script>
  const lobby = pusher.subscribe("presence-lobby");
  function show() {
    const { members, subscribed } = lobby;
    say(subscribed ? members.count + " here" : "Connecting …");
    const list = document.querySelector("ul");
    list.replaceChildren();
    members.each(({ id, info }) => {
      const item = list.appendChild(document.createElement("li"));
      item.textContent = info.name;
      if (id === members.myID) item.appendChild(document.createElement("em")).textContent = " (you)";
    });
  }
  function say(text) {
    document.querySelector("p").textContent = text;
  }
  lobby.bind("pusher:subscription_succeeded", show);
  lobby.bind("pusher:member_added", show);
  lobby.bind("pusher:member_removed", show);
  lobby.bind("pusher:subscription_error", () => {
    say("You cannot join: the lobby is full, or the server does not know you. Please reload the page.");
  });
  pusher.connection.bind("state_change", show);
</script>`;

async function app(request: Request): Promise<Response> {
  if (new URL(request.url).pathname !== "/") return reply(404, "not found");
  switch (request.method) {
    case "GET":
    case "HEAD":
      return reply(200, userOf(request) ? lobby : door(), HTML);
    case "POST":
      return comeIn(await readText(request, 1_000));
    default:
      return reply(405, "use GET, HEAD, POST", { allow: "GET, HEAD, POST" });
  }
}

function comeIn(form: string): Response {
  const name = new URLSearchParams(form).get("name")?.trim() ?? "";
  if (form.length > 1_000) {
    return reply(413, door("The name is too long."), HTML);
  }
  if (name === "" || name.length > 40) {
    return reply(400, door("A name has 1 to 40 characters."), HTML);
  }
  const session = crypto.randomUUID();
  users.set(session, { user_id: crypto.randomUUID(), user_info: { name } });
  // Anybody can come in often: the oldest of 10,000 has to come in again.
  if (users.size > 10_000) users.delete(users.keys().next().value ?? "");
  // With TLS, add `Secure`.
  const cookie = `session=${session}; HttpOnly; SameSite=Lax`;
  return reply(303, "", { location: "/", "set-cookie": cookie });
}

const HTML = { "content-type": "text/html", "cache-control": "no-store" };

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

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9293 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Who is here on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
