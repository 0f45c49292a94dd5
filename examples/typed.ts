/**
 * One type for the server and the page. Run `deno run --allow-net examples/typed.ts`
 * and open the address that it prints in two windows. `deno check examples/typed.ts`
 * finds events and data of the wrong type; the end of this file has examples.
 *
 * @module
 */
import { Pusher } from "../mod.ts";
import type { Pusher as Client } from "../client.ts";

type Drink = "tea" | "coffee";

const isDrink = (value: unknown): value is Drink =>
  value === "tea" || value === "coffee";

/** Maps channels to events, and events to their data. */
type Events = {
  [poll: `presence-poll-${string}`]: {
    /** The `user_info` of the members. */
    "pusher:user_info": { name: string };
    /** The server sends this to all pages. */
    counted: Record<Drink, number>;
    /** A page sends this to the other pages. */
    "client-leaning": { to: Drink };
  };
};

const polls = new Map([
  ["breakfast", { tea: 0, coffee: 0 }],
  ["lunch", { tea: 0, coffee: 0 }],
]);

let guests = 0;

const pusher = new Pusher<Events>({
  // Users may have changed their page, so what it sends may have any shape. The
  // other pages get only what `Events` promises them.
  clientEvents: ({ event, data }) =>
    event === "client-leaning" && isDrink(Object(data).to),
  authorize(_request, { channel }) {
    if (!polls.has(channel.replace(/^presence-poll-/, ""))) return false;
    const id = ++guests;
    return { user_id: id, user_info: { name: `Guest ${id}` } };
  },
});

/**
 * Runs in the page: Deno removes the types, and the page contains the function as
 * text. So it must not use anything else from this file.
 */
function follow(
  pusher: Client<Events>,
  poll: string,
  show: (id: Drink | "here" | "status", text: string) => void,
) {
  const say = (text: string) => show("status", text);
  const channel = pusher.subscribe(`presence-poll-${poll}`);
  channel.bind("counted", ({ tea, coffee }) => {
    show("tea", `${tea}`);
    show("coffee", `${coffee}`);
    say("");
  });
  channel.bind("client-leaning", ({ to }, { user_id = "" }) => {
    const name = channel.members.get(user_id)?.info.name ?? "Somebody";
    say(`${name} leans towards ${to}`);
  });
  const showMembers = () => {
    const names: string[] = [];
    channel.members.each(({ info }) => names.push(info.name));
    show("here", names.join(", "));
  };
  channel.bind("pusher:subscription_succeeded", showMembers);
  channel.bind("pusher:member_added", showMembers);
  channel.bind("pusher:member_removed", showMembers);
  channel.bind("pusher:subscription_error", () => {
    say("You cannot join: the poll is full. Please reload the page.");
  });
  const showState = () =>
    say(pusher.connection.state === "connected" ? "" : "Connecting …");
  pusher.connection.bind("state_change", showState);
  showState();
  return (to: Drink) => {
    if (channel.subscribed) channel.trigger("client-leaning", { to });
  };
}

const page = (poll: string, { tea, coffee }: Record<Drink, number>) =>
  `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Poll</title>
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
<h1>What is for ${poll}?</h1>
<p aria-live="polite"><button value="tea">Tea</button> <b id="tea">${tea}</b>
<p aria-live="polite"><button value="coffee">Coffee</button> <b id="coffee">${coffee}</b>
<p id="status" role="status"></p>
<p>Here: <span id="here"></span>
</main>
<script src="/pusher.js"></script>
<script>
  const show = (id, text) => document.getElementById(id).textContent = text;
  const lean = (${follow})(pusher, "${poll}", show);
  for (const button of document.querySelectorAll("button")) {
    button.onpointerenter = button.onfocus = () => lean(button.value);
    button.onclick = async () => {
      const answer = await fetch("", { method: "POST", body: button.value }).catch(() => null);
      if (!answer?.ok) show("status", "Not counted: no connection");
    };
  }
</script>`;

async function app(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/") return reply(302, "", { location: "/lunch" });
  const poll = pathname.slice(1);
  const votes = polls.get(poll);
  if (!votes) return reply(404, "not found");
  switch (request.method) {
    case "GET":
    case "HEAD":
      return reply(200, page(poll, votes), {
        "content-type": "text/html",
        "cache-control": "no-store",
      });
    case "POST":
      return await count(poll, votes, await readText(request, 100));
    default:
      return reply(405, "use GET, HEAD, POST", { allow: "GET, HEAD, POST" });
  }
}

async function count(
  poll: string,
  votes: Record<Drink, number>,
  drink: string,
): Promise<Response> {
  if (drink.length > 100) return reply(413, "the name of a drink is shorter");
  if (!isDrink(drink)) return reply(400, "no such drink");
  votes[drink]++;
  await pusher.trigger(`presence-poll-${poll}`, "counted", votes);
  return reply(201, "counted");
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

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9295 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Polls on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));

/** Never called: each line is an error for the compiler, with the reason above it. */
function _refused(page: Client<Events>): void {
  const channel = page.subscribe("presence-poll-lunch");
  // @ts-expect-error There is no such channel.
  pusher.trigger("presence-lunch", "counted", { tea: 1, coffee: 0 });
  // @ts-expect-error There is no such event.
  channel.bind("count", () => {});
  // @ts-expect-error The count of coffee is missing.
  pusher.trigger("presence-poll-lunch", "counted", { tea: 1 });
  // @ts-expect-error There is no such drink.
  channel.trigger("client-leaning", { to: "tee" });
  // @ts-expect-error The user_info of members has no age.
  channel.members.each(({ info }) => info.age);
  // @ts-expect-error The user_info of a member needs a name.
  new Pusher<Events>({ authorize: () => ({ user_id: 1, user_info: {} }) });
}
