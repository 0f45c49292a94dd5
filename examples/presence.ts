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
<meta charset="utf-8"><title>Who is here</title>
<style>body { font: 1.1em system-ui; max-width: 30em; margin: 2em auto }</style>
<h1>Who is here</h1>`;

const door = `${head}
<form method="post">
  <input name="name" placeholder="Your name" required maxlength="40" autofocus>
  <button>Come in</button>
</form>`;

const lobby = `${head}
<p>Connecting …</p>
<ul></ul>
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
  lobby.bind("pusher:subscription_error", () => say("You may not join: reload the page."));
  pusher.connection.bind("state_change", show);
</script>`;

async function app(request: Request): Promise<Response> {
  if (new URL(request.url).pathname !== "/") {
    return new Response("not found", { status: 404 });
  }
  if (request.method === "POST") {
    const form = new URLSearchParams(await request.text());
    return comeIn(form.get("name")?.trim() ?? "");
  }
  const page = userOf(request) ? lobby : door;
  return new Response(page, {
    headers: { "content-type": "text/html", "cache-control": "no-store" },
  });
}

function comeIn(name: string): Response {
  if (name === "" || name.length > 40) {
    return new Response("a name has 1 to 40 characters", { status: 400 });
  }
  const session = crypto.randomUUID();
  users.set(session, { user_id: crypto.randomUUID(), user_info: { name } });
  // With TLS, add `Secure`.
  const cookie = `session=${session}; HttpOnly; SameSite=Lax`;
  return new Response(null, {
    status: 303,
    headers: { location: "/", "set-cookie": cookie },
  });
}

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9293 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Who is here on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
