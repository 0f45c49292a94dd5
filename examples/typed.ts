// One type for the server and the page. Run `deno run --allow-net examples/typed.ts`
// and open the address that it prints in two windows. `deno check examples/typed.ts`
// finds events and data of the wrong type; the end of this file has examples.
import { Pusher } from "@glitz/pusher";
import type { Pusher as Client } from "@glitz/pusher/client";

type Drink = "tea" | "coffee";

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
  clientEvents: true,
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
  show: (id: Drink | "here" | "leaning", text: string) => void,
) {
  const channel = pusher.subscribe(`presence-poll-${poll}`);
  channel.bind("counted", ({ tea, coffee }) => {
    show("tea", `${tea}`);
    show("coffee", `${coffee}`);
    show("leaning", "");
  });
  channel.bind("client-leaning", ({ to }, { user_id = "" }) => {
    const name = channel.members.get(user_id)?.info.name ?? "Somebody";
    show("leaning", `${name} leans towards ${to}`);
  });
  const showMembers = () => {
    const names: string[] = [];
    channel.members.each(({ info }) => names.push(info.name));
    show("here", names.join(", "));
  };
  channel.bind("pusher:subscription_succeeded", showMembers);
  channel.bind("pusher:member_added", showMembers);
  channel.bind("pusher:member_removed", showMembers);
  return (to: Drink) => channel.trigger("client-leaning", { to });
}

const page = (poll: string, { tea, coffee }: Record<Drink, number>) =>
  `<!doctype html>
<meta charset="utf-8"><title>Poll</title>
<style>body { font: 1.1em system-ui; max-width: 30em; margin: 2em auto }</style>
<h1>What is for ${poll}?</h1>
<p><button value="tea">Tea</button> <b id="tea">${tea}</b>
<p><button value="coffee">Coffee</button> <b id="coffee">${coffee}</b>
<p id="leaning">
<p>Here: <span id="here"></span>
<script src="/pusher.js"></script>
<script>
  const lean = (${follow})(pusher, "${poll}", (id, text) => {
    document.getElementById(id).textContent = text;
  });
  for (const button of document.querySelectorAll("button")) {
    button.onpointerenter = () => lean(button.value);
    button.onclick = () => fetch("", { method: "POST", body: button.value });
  }
</script>`;

async function app(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/") {
    return Response.redirect(new URL("/lunch", request.url));
  }
  const poll = pathname.slice(1);
  const votes = polls.get(poll);
  if (!votes) return new Response("not found", { status: 404 });
  if (request.method !== "POST") {
    return new Response(page(poll, votes), {
      headers: { "content-type": "text/html" },
    });
  }
  const drink = await request.text();
  if (drink !== "tea" && drink !== "coffee") {
    return new Response("no such drink", { status: 400 });
  }
  votes[drink]++;
  await pusher.trigger(`presence-poll-${poll}`, "counted", votes);
  return new Response("counted", { status: 201 });
}

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9295 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Polls on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));

/** Never called: each line is an error for the compiler, with the reason above it. */
export function refused(page: Client<Events>): void {
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
