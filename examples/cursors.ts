/**
 * The cursors of all visitors, live. Run `deno run --allow-net examples/cursors.ts`,
 * open the address that it prints in two windows, and move the mouse or a finger.
 * The pages send client events to each other; the server only checks them.
 *
 * @module
 */
import { Pusher } from "../mod.ts";

type Events = {
  "presence-board": {
    "pusher:user_info": { name: string; hue: number };
    /** From 0, left and top, to 1, right and bottom. */
    "client-moved": { x: number; y: number };
  };
};

const isPart = (value: unknown) =>
  typeof value === "number" && value >= 0 && value <= 1;

let visitors = 0;

const pusher = new Pusher<Events>({
  // Users may have changed their page, so what it sends may have any shape.
  clientEvents({ event, data }) {
    const { x, y } = Object(data);
    return event === "client-moved" && isPart(x) && isPart(y);
  },
  authorize(_request, { channel }) {
    if (channel !== "presence-board") return false;
    const id = ++visitors;
    // The golden angle: colours that follow each other differ most.
    const hue = Math.round(id * 137.5) % 360;
    return { user_id: id, user_info: { name: `Guest ${id}`, hue } };
  },
});

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Live cursors</title>
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
  #board { position: relative; height: 60vh; border: 1px solid var(--line); border-radius: .6rem; background: var(--card); overflow: hidden; touch-action: none }
  #board span { position: absolute; padding: .1rem .6rem; border-radius: 0 1rem 1rem 1rem; font-size: .85rem; white-space: nowrap; color: #fff; transition: left .1s linear, top .1s linear }
</style>
<main>
<h1>Live cursors</h1>
<p>Open this page in two windows. Move in the box, or with the arrow keys.</p>
<div id="board" tabindex="0" role="application" aria-label="Board"></div>
<p role="status">Connecting …</p>
</main>
<script src="/pusher.js"></script>
<script>
  const place = document.querySelector("#board");
  const say = (text) => document.querySelector("[role=status]").textContent = text;
  const board = pusher.subscribe("presence-board");
  const cursors = new Map();

  board.bind("client-moved", ({ x, y }, { user_id }) => {
    const member = board.members.get(user_id);
    if (!member) return;
    if (!cursors.has(user_id)) {
      const cursor = place.appendChild(document.createElement("span"));
      cursor.textContent = member.info.name;
      cursor.style.background = "hsl(" + member.info.hue + " 70% 35%)";
      cursors.set(user_id, cursor);
    }
    const { style } = cursors.get(user_id);
    style.left = x * 100 + "%";
    style.top = y * 100 + "%";
  });

  function show() {
    const { members, subscribed } = board;
    if (!subscribed) return say("Connecting …");
    say("You are " + members.me.info.name + ". Others here: " + (members.count - 1));
    for (const [id, cursor] of cursors) {
      if (members.get(id)) continue;
      cursor.remove();
      cursors.delete(id);
    }
  }
  for (const event of ["subscription_succeeded", "member_added", "member_removed"]) {
    board.bind("pusher:" + event, show);
  }
  pusher.connection.bind("state_change", show);
  board.bind("pusher:subscription_error", () => say("You cannot join: the board is full."));

  // A client may send ten events in a second. Between two of them only the last
  // position counts.
  let position = { x: .5, y: .5 }, timer;
  function moveTo(x, y) {
    const part = (value) => Math.min(1, Math.max(0, value));
    position = { x: part(x), y: part(y) };
    timer ??= setTimeout(() => {
      timer = undefined;
      if (board.subscribed) board.trigger("client-moved", position);
    }, 110);
  }
  place.onpointermove = place.onpointerdown = ({ clientX, clientY }) => {
    const { left, top, width, height } = place.getBoundingClientRect();
    moveTo((clientX - left) / width, (clientY - top) / height);
  };
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  place.onkeydown = (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault(); // It would scroll the page.
    moveTo(position.x + step[0] * .05, position.y + step[1] * .05);
  };
</script>`;

function app(request: Request): Response {
  if (new URL(request.url).pathname !== "/") return reply(404, "not found");
  if (!/^(GET|HEAD)$/.test(request.method)) {
    return reply(405, "use GET, HEAD", { allow: "GET, HEAD" });
  }
  return reply(200, page, { "content-type": "text/html" });
}

const reply = (status: number, text: string, headers = {}) =>
  new Response(text, { status, headers });

const flag = Deno.args.indexOf("--port");
const port = flag < 0 ? 9297 : Number(Deno.args[flag + 1]);
const onListen = ({ port }: Deno.NetAddr) =>
  console.log(`Cursors on http://localhost:${port}/`);
Deno.serve({ port, onListen }, Pusher.cascade(pusher.handler, app));
