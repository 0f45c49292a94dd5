/** @jsxImportSource npm:react@19.3.1 */
/** @jsxImportSourceTypes npm:@types/react@19.3.0 */
/**
 * Components that use the hooks, run in a page by `react_test.ts`, in a Vite project
 * with React 18 and with React 19. Each case does one thing after the other, and
 * returns what it saw.
 *
 * @module
 */
import { Pusher } from "@glitz/pusher/client";
import { pusherHooks } from "@glitz/pusher/react";
// @ts-types="npm:@types/react@19.3.0"
import * as React from "npm:react@19.3.1";
// @ts-types="npm:@types/react-dom@19.3.0"
import { flushSync } from "npm:react-dom@19.3.1";
// @ts-types="npm:@types/react-dom@19.3.0/client"
import { createRoot, hydrateRoot } from "npm:react-dom@19.3.1/client";
// @ts-types="npm:@types/react-dom@19.3.0/server"
import { renderToString } from "npm:react-dom@19.3.1/server.browser";

// deno-lint-ignore no-explicit-any -- Deno has no types of a page
const page = globalThis as any;

type Events = {
  fence: { passed: string };
  [room: `room-${string}`]: { said: string };
  "private-mine": { said: string };
  "private-refused": { said: string };
  "presence-lobby": { "pusher:user_info": { name: string } };
};

const DEADLINE_MS = 20_000;

// ---- What the page does -----------------------------------------------------

/** The sockets of all clients, and what they have sent. */
const sockets: WebSocket[] = [];
const frames: { event: string; data: { channel?: string } }[] = [];

page.WebSocket = class extends WebSocket {
  constructor(url: string) {
    super(url);
    // The server of Vite has sockets of its own.
    if (url.includes("/app/")) sockets.push(this);
  }
  override send(text: string): void {
    frames.push(JSON.parse(text));
    super.send(text);
  }
};

/** What React has complained of. */
const complaints: string[] = [];
page.console.error = (...items: unknown[]) =>
  complaints.push(items.map(String).join(" "));

/** A client of a user. */
const connect = (user = "ann") =>
  new Pusher<Events>("app-key", {
    channelAuthorization: {
      endpoint: "/pusher/auth",
      headers: { "x-user": user },
    },
  });

const client = connect();

const {
  PusherProvider,
  useChannel,
  useConnectionState,
  useEvent,
  usePresence,
  usePusher,
  useSubscription,
} = pusherHooks(React, client);

/** The subscriptions to a channel and their ends, in order. */
const framesOf = (channel: string) =>
  frames.filter(({ data }) => data.channel === channel)
    .map(({ event }) => event.replace("pusher:", ""));

/** Waits for a condition of the page. */
async function until(isTrue: () => unknown): Promise<void> {
  const end = performance.now() + DEADLINE_MS;
  while (!isTrue()) {
    if (performance.now() > end) throw new Error(`Not so: ${isTrue}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const isSubscribed = (name: keyof Events & string) =>
  until(() => client.channel(name as "fence")?.subscribed);

/** Has the server publish an event. */
async function publish(
  channel: string,
  event: string,
  data: unknown,
): Promise<void> {
  const body = JSON.stringify([channel, event, data]);
  await (await fetch("/publish", { method: "POST", body })).text();
}

/** Publishes an event, and waits for another that follows. */
async function say(channel: string, text: string): Promise<void> {
  const fence = client.subscribe("fence");
  await isSubscribed("fence");
  const mark = crypto.randomUUID();
  const passed = new Promise<void>((resolve) =>
    fence.bind("passed", (seen) => seen === mark && resolve())
  );
  await publish(channel, "said", text);
  await publish("fence", "passed", mark);
  await passed;
}

/** Shows an element; its effects have run when this returns. */
function show(element: React.ReactNode) {
  const place = page.document.body.appendChild(
    page.document.createElement("div"),
  );
  const root = createRoot(place);
  const render = (next: React.ReactNode) => flushSync(() => root.render(next));
  render(element);
  return {
    render,
    text: () => place.textContent as string,
    unmount: () => flushSync(() => root.unmount()),
  };
}

/** Notes what a room says. */
function Listener({ room, note, as = "" }: {
  room: `room-${string}` | null;
  note: string[];
  as?: string;
}) {
  useEvent(room, "said", (text) => note.push(as + text));
  return null;
}

// ---- Cases ------------------------------------------------------------------

async function share() {
  const note: string[] = [];
  const a = <Listener key="a" room="room-shared" note={note} as="a" />;
  const b = <Listener key="b" room="room-shared" note={note} as="b" />;
  const view = show([a, b]);
  await isSubscribed("room-shared");
  await say("room-shared", "1");
  view.render([b]);
  await say("room-shared", "2");
  view.render([a, b]);
  await say("room-shared", "3");
  const before = framesOf("room-shared");
  view.unmount();
  await say("room-shared", "4");
  return [note, before, framesOf("room-shared")];
}

async function shareWithProgram() {
  const note: string[] = [];
  const own = client.subscribe("room-first");
  own.bind("said", (text) => note.push("own" + text));
  let view = show(<Listener room="room-first" note={note} />);
  await isSubscribed("room-first");
  await say("room-first", "1");
  view.unmount();
  await say("room-first", "2");
  client.unsubscribe("room-first");

  view = show(<Listener room="room-second" note={note} />);
  await isSubscribed("room-second");
  client.subscribe("room-second");
  client.unsubscribe("room-second");
  await say("room-second", "3");
  view.unmount();
  await say("room-second", "4");
  return [note, framesOf("room-first"), framesOf("room-second")];
}

async function mountTwice() {
  const note: string[] = [];
  const others = sockets.length;
  let mounts = 0;
  const hooks = pusherHooks(React, connect);
  let channel: ReturnType<typeof hooks.useChannel<"room-strict">>;
  function Strict() {
    hooks.useEvent("room-strict", "said", (text) => note.push(text));
    channel = hooks.useChannel("room-strict");
    React.useEffect(() => void mounts++, []);
    return <>{channel?.name}</>;
  }
  const view = show(
    <React.StrictMode>
      <Strict />
    </React.StrictMode>,
  );
  await until(() => view.text() === "room-strict");
  await until(() => channel?.subscribed);
  const [socket] = sockets.slice(others);
  // Subscribed by another client, the fence says nothing of this one.
  await publish("room-strict", "said", "hi");
  await until(() => note.length > 0);
  const before = framesOf("room-strict");
  view.unmount();
  await until(() => (socket?.readyState ?? 0) >= WebSocket.CLOSING);
  return [mounts, note, sockets.length - others, before];
}

async function changeName() {
  const note: string[] = [];
  const listener = (room: `room-${string}` | null) => (
    <Listener room={room} note={note} />
  );
  const view = show(listener(null));
  view.render(listener("room-from"));
  await isSubscribed("room-from");
  await say("room-from", "1");
  view.render(listener("room-to"));
  await isSubscribed("room-to");
  await say("room-from", "2");
  await say("room-to", "3");
  view.render(listener(null));
  await say("room-to", "4");
  view.unmount();
  return [note, framesOf("room-from"), framesOf("room-to")];
}

async function changeHandler() {
  const note: string[] = [];
  const listener = (as: string) => (
    <Listener room="room-handler" note={note} as={as} />
  );
  const view = show(listener("a"));
  await isSubscribed("room-handler");
  await say("room-handler", "1");
  view.render(listener("b"));
  await say("room-handler", "2");
  view.render(listener("c"));
  view.render(listener("d"));
  await say("room-handler", "3");
  const before = framesOf("room-handler");
  view.unmount();
  return [note, before];
}

async function meet() {
  const shown: string[] = [];
  function Lobby({ as }: { as: string }) {
    const { members, count, me } = usePresence("presence-lobby");
    const names = members.map(({ info }) => info.name);
    const text = `${as} ${count} ${names} ${me?.info.name}`;
    if (shown.at(-1) !== text) shown.push(text);
    return <>{text}</>;
  }
  const view = show(<Lobby key="a" as="a" />);
  await until(() => view.text() === "a 1 ANN ANN");
  const bob = connect("bob");
  bob.subscribe("presence-lobby");
  await until(() => view.text() === "a 2 ANN,BOB ANN");
  shown.length = 0;
  // A component that is shown later knows the members from the start.
  view.render([<Lobby key="a" as="a" />, <Lobby key="b" as="b" />]);
  const later = shown.filter((text) => text.startsWith("b"));
  bob.disconnect();
  await until(() => view.text() === "a 1 ANN ANNb 1 ANN ANN");
  view.unmount();
  await say("fence", "");
  return [later, framesOf("presence-lobby")];
}

async function askLeave() {
  const note: unknown[] = [];
  function Private() {
    useEvent("private-mine", "said", (text) => note.push(text));
    useEvent(
      "private-refused",
      "pusher:subscription_error",
      ({ status }) => note.push(status),
    );
    return null;
  }
  const view = show(<Private />);
  await isSubscribed("private-mine");
  await until(() => note.length > 0);
  await say("private-mine", "hi");
  view.unmount();
  return note;
}

async function showRefusal() {
  const shown: string[] = [];
  function Orders(
    { name }: { name: "private-mine" | "private-refused" | null },
  ) {
    const { state, error } = useSubscription(name);
    const text = error ? `${state} ${error.status}` : state;
    if (shown.at(-1) !== text) shown.push(text);
    return <>{text}</>;
  }
  const view = show(<Orders name={null} />);
  view.render(<Orders name="private-refused" />);
  await until(() => view.text() === "refused 403");
  view.render(<Orders name="private-mine" />);
  await until(() => view.text() === "subscribed");
  await cut();
  await until(() => view.text() === "pending");
  await until(() => view.text() === "subscribed");
  view.unmount();
  return shown;
}

/** Ends the connection, as a network does; the client connects again. */
async function cut(): Promise<void> {
  const socket = sockets.find(({ url, readyState }) =>
    readyState === WebSocket.OPEN && url.includes("/app/")
  );
  let isLost = false;
  const lose = () => isLost = true;
  client.connection.bind("connecting", lose);
  socket?.close();
  await until(() => isLost);
  client.connection.unbind("connecting", lose);
}

async function followState() {
  const states: string[] = [];
  function State() {
    const state = useConnectionState();
    React.useEffect(() => void states.push(state), [state]);
    return <>{state}</>;
  }
  const view = show(<State />);
  await until(() => view.text() === "connected");
  await cut();
  await until(() => states.includes("connecting"));
  await until(() => view.text() === "connected");
  view.unmount();
  return states;
}

async function recover() {
  const note: string[] = [];
  function Room() {
    const [texts, setTexts] = React.useState<string[]>([]);
    useEvent("room-lossy", "said", (text) => {
      note.push(text);
      setTexts((all) => [...all, text]);
    });
    return <>{texts.join()}</>;
  }
  const view = show(<Room />);
  await isSubscribed("room-lossy");
  await say("room-lossy", "1");
  for (const round of ["a", "b"]) {
    await cut();
    for (let i = 0; i < 5; i++) await publish("room-lossy", "said", round + i);
    await isSubscribed("room-lossy");
  }
  await say("room-lossy", "2");
  await until(() => view.text().endsWith(",2"));
  const text = view.text();
  view.unmount();
  return [note.join(), text];
}

async function hydrate() {
  const before = sockets.length;
  const errors: unknown[] = [];
  const hooks = pusherHooks(React, connect);
  function Everything() {
    const state = hooks.useConnectionState();
    const channel = hooks.useChannel("room-hydrated");
    const { count } = hooks.usePresence("presence-lobby");
    hooks.useEvent("room-hydrated", "said", () => {});
    return <p>{state} {channel?.name} {count} {typeof hooks.usePusher()}</p>;
  }
  const place = page.document.body.appendChild(
    page.document.createElement("div"),
  );
  place.innerHTML = renderToString(<Everything />);
  const initial = place.textContent;
  const opened = sockets.length - before;
  const root = hydrateRoot(place, <Everything />, {
    onRecoverableError: (error) => errors.push(String(error)),
  });
  await until(() => place.textContent === "connected room-hydrated 1 object");
  root.unmount();
  return [initial, opened, errors];
}

async function provide() {
  const made: Pusher<Events>[] = [];
  const note: string[] = [];
  const element = (isShown: boolean) => (
    <PusherProvider
      client={() => {
        const pusher = connect();
        made.push(pusher);
        return pusher;
      }}
    >
      {isShown && <Listener room="room-provided" note={note} />}
    </PusherProvider>
  );
  const view = show(element(true));
  await until(() => made[0]?.channel("room-provided")?.subscribed);
  await publish("room-provided", "said", "1");
  await until(() => note.length > 0);
  view.render(element(false));
  await until(() => !made[0]?.channel("room-provided"));
  const kept = made.map(({ connection }) => connection.state);
  view.unmount();
  await null;
  const ended = made.map(({ connection }) => connection.state);

  const other = connect();
  const state: string[] = [];
  function State() {
    state.push(useConnectionState());
    return null;
  }
  const second = show(
    <PusherProvider client={other}>
      <State />
    </PusherProvider>,
  );
  await until(() => state.at(-1) === "connected");
  second.unmount();
  await null;
  const { state: after } = other.connection;
  other.disconnect();
  return [kept, ended, after];
}

async function listenToAll() {
  const note: string[] = [];
  function All() {
    const pusher = usePusher();
    useChannel("room-one");
    useChannel("room-two");
    useEvent(pusher, "said", (text) => note.push(text));
    useEvent(pusher?.connection, "error", () => {});
    return null;
  }
  const view = show(<All />);
  await isSubscribed("room-one");
  await isSubscribed("room-two");
  await say("room-one", "one");
  await say("room-two", "two");
  view.unmount();
  client.subscribe("room-one");
  await isSubscribed("room-one");
  await say("room-one", "three");
  client.unsubscribe("room-one");
  return note;
}

/** A component without a client. */
function orphan() {
  const { useConnectionState } = pusherHooks<Events>(React);
  function Orphan() {
    return <>{useConnectionState()}</>;
  }
  try {
    return renderToString(<Orphan />);
  } catch (error) {
    return String(error);
  }
}

const CASES: Record<string, () => unknown> = {
  "two components share a channel": share,
  "code outside React shares a channel with a component": shareWithProgram,
  "strict mode mounts twice, and subscribes once": mountTwice,
  "the name of a channel changes": changeName,
  "the handler of the last render is called": changeHandler,
  "members come and go": meet,
  "private channels are authorized or refused": askLeave,
  "a refusal is shown, and gone with the next name": showRefusal,
  "the state follows a reconnect": followState,
  "nothing is lost over reconnects": recover,
  "a page from the server opens no socket there, and hydrates": hydrate,
  "a provider disconnects only a client that it has made": provide,
  "events of the client itself": listenToAll,
  "without a client a hook throws": orphan,
};

/** Runs all cases; gives what they saw, by their names. */
page.run = async () => {
  const results: Record<string, unknown> = {};
  for (const [name, run] of Object.entries(CASES)) {
    try {
      results[name] = await run();
    } catch (error) {
      results[name] = String(error);
    }
  }
  return { version: React.version, complaints, results };
};
