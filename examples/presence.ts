// A list of who is here. Run `deno run --allow-net examples/presence.ts`, open the
// address that it prints in a normal window and in a private window, and come in
// under two names.
import { Pusher } from "@glitz/pusher";

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
  body { font: 1.1em system-ui; max-width: 30em; margin: auto; padding: 1em; overflow-wrap: anywhere }
  input, button { font: inherit; padding: .3em; max-width: 100%; box-sizing: border-box }
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
