/**
 * Private channels and notifications behind a log-in. Run
 * `deno run --allow-net examples/login.ts`, open the address that it prints in a
 * normal window as ann and in a private window as bob, and send each other money.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

// A real program has users and sessions already, and keeps no passwords, only their
// hashes. The key of a session is the cookie, which is a secret.
const passwords = new Map([["ann", "apple"], ["bob", "banana"]]);
const balances = new Map([["ann", 100], ["bob", 100]]);
const sessions = new Map<string, string>();

const pusher = new Pusher({
  /** Who may join: each user has a channel, and nobody else gets its events. */
  authorize: (request, { channel }) =>
    channel === `private-account-${userOf(request) ?? ""}`,
  /** Who is signing in: `sendToUser` then reaches all pages of that user. */
  authenticate(request) {
    const id = userOf(request);
    return id === undefined ? null : { id };
  },
});

function userOf(request: Request): string | undefined {
  const cookies = request.headers.get("cookie") ?? "";
  return sessions.get(/(?:^|; )session=([^;]+)/.exec(cookies)?.[1] ?? "");
}

const head = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Accounts</title>
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
<main>`;

const door = (fault = "") =>
  `${head}
<h1>Log in</h1>
<form method="post" action="/login">
  <label>Name <input name="name" required autofocus autocomplete="username"></label>
  <label>Password <input name="password" type="password" required autocomplete="current-password"></label>
  <button>Log in</button>
</form>
<p role="alert">${fault}</p>
<p>There are <b>ann</b> with the password <b>apple</b>, and <b>bob</b> with <b>banana</b>.</p>
</main>`;

const account = (user: string) =>
  `${head}
<h1>Account of ${user}</h1>
<p>Balance: <output>${balances.get(user)}</output></p>
<form method="post" action="/payments"><button>Send 5 to ${
    other(user)
  }</button></form>
<form method="post" action="/logout"><button>Log out everywhere</button></form>
<p role="status">Connecting …</p>
<ul aria-live="polite" aria-label="Notifications" data-empty="No notification yet. Log in as the other user in another browser."></ul>
</main>
<script src="/pusher.js"></script>
<script>
  const say = (text) => document.querySelector("[role=status]").textContent = text;
  const account = pusher.subscribe("private-account-${user}");
  account.bind("changed", ({ balance }) => document.querySelector("output").textContent = balance);
  account.bind("pusher:subscription_succeeded", () => say(""));
  account.bind("pusher:subscription_error", () => location.reload());
  pusher.signin();
  pusher.user.bind("notified", ({ text }) => {
    const item = document.createElement("li");
    item.textContent = text;
    document.querySelector("ul").prepend(item);
  });
  // The server closes the connections of a user who logs out, with 4009.
  pusher.connection.bind("disconnected", () => location.reload());
  pusher.connection.bind("connecting", () => say("Connecting …"));
  document.querySelector("[action='/payments']").onsubmit = async (event) => {
    event.preventDefault();
    const answer = await fetch("/payments", { method: "POST" }).catch(() => null);
    if (!answer?.ok) say("Not sent: " + (await answer?.text() ?? "no connection"));
  };
</script>`;

const other = (user: string) => user === "ann" ? "bob" : "ann";

async function app(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  const user = userOf(request);
  if (pathname === "/") {
    if (!/^(GET|HEAD)$/.test(request.method)) return refuseMethod("GET, HEAD");
    return reply(200, user === undefined ? door() : account(user), HTML);
  }
  if (!["/login", "/payments", "/logout"].includes(pathname)) {
    return reply(404, "not found");
  }
  if (request.method !== "POST") return refuseMethod("POST");
  if (pathname === "/login") return logIn(await readText(request, 1_000));
  if (user === undefined) return reply(401, "log in first");
  return pathname === "/payments" ? await pay(user) : await logOut(user);
}

function logIn(form: string): Response {
  const fields = new URLSearchParams(form);
  const name = fields.get("name") ?? "";
  if (form.length > 1_000 || !passwords.has(name)) {
    return reply(401, door("There is no such user."), HTML);
  }
  if (passwords.get(name) !== fields.get("password")) {
    return reply(401, door("The password is another one."), HTML);
  }
  const session = crypto.randomUUID();
  sessions.set(session, name);
  // Each log-in makes a session: the oldest of 10,000 has to log in again.
  if (sessions.size > 10_000) sessions.delete(sessions.keys().next().value!);
  // With TLS, add `Secure`. `SameSite` keeps the forms of other sites out.
  const cookie = `session=${session}; HttpOnly; SameSite=Lax`;
  return reply(303, "", { location: "/", "set-cookie": cookie });
}

async function pay(from: string): Promise<Response> {
  const to = other(from);
  if (balances.get(from)! < 5) return reply(409, "not enough money");
  for (const [user, amount] of [[from, -5], [to, 5]] as const) {
    const balance = balances.get(user)! + amount;
    balances.set(user, balance);
    await pusher.trigger(`private-account-${user}`, "changed", { balance });
  }
  await pusher.sendToUser(to, "notified", { text: `${from} has sent you 5` });
  return reply(201, "sent");
}

async function logOut(user: string): Promise<Response> {
  for (const [session, name] of sessions) {
    if (name === user) sessions.delete(session);
  }
  // A connection that has joined a private channel stays there until it ends.
  await pusher.terminateUserConnections(user);
  return reply(303, "", { location: "/" });
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
const refuseMethod = (allow: string) => reply(405, `use ${allow}`, { allow });

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9296 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Accounts on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
