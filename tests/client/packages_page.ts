/**
 * Programs that use packages made for pusher-js, run in a page by
 * `packages_test.ts`. The class is the page's `Pusher`, stock or served. Each
 * program does one thing after the other, and returns what it saw.
 *
 * @module
 */
import * as echoReact from "npm:@laravel/echo-react@2.5.0";
import * as echoVue from "npm:@laravel/echo-vue@2.5.0";
import Echo1 from "npm:laravel-echo@1.19.0";
import Echo2 from "npm:laravel-echo@2.5.0";
import React from "npm:react@16.14.0";
import OldReactDOM from "npm:react-dom@16.14.0";
import * as reactPusher from "npm:react-pusher@0.2.0";
import * as Vue from "npm:vue@3.5.45";

// Every class here is of two libraries, or of packages without types.
// deno-lint-ignore no-explicit-any
type Any = any;

const page = globalThis as Any;

/** Deno takes the types of a newer version, which other tests use. */
const ReactDOM = OldReactDOM as Any;

// Some of the packages import pusher-js, which makes itself the page's `Pusher`.
page.Pusher = page.Client;

/** Ample on a busy machine. */
const DEADLINE_MS = 20_000;

/** The options of pusher-js that name the server and the user. */
const optionsOf = (user: string) => ({
  cluster: "none",
  wsHost: page.location.hostname,
  wsPort: Number(page.location.port),
  forceTLS: false,
  enabledTransports: ["ws"],
  authEndpoint: "/pusher/auth",
  auth: { headers: { "x-user": user } },
});

/** What a program saw, in order. */
class Log {
  readonly lines: unknown[][] = [];
  readonly #waiting = new Set<() => void>();

  readonly add = (...line: unknown[]): void => {
    // A copy, as the objects of a client change later.
    this.lines.push(JSON.parse(JSON.stringify(line)));
    this.#waiting.forEach((look) => look());
  };

  /** A handler that notes its first argument. */
  readonly as = (what: string) => (data: unknown) => this.add(what, data);

  /** Waits until something has been noted, and the last note is so, if given. */
  until(what: string, last?: unknown): Promise<void> {
    const text = JSON.stringify(last);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () =>
          reject(
            new Error(`no ${what} ${text}: ${JSON.stringify(this.lines)}`),
          ),
        DEADLINE_MS,
      );
      const look = () => {
        const notes = this.lines.filter(([name]) => name === what);
        const note = JSON.stringify(notes.at(-1)?.[1]);
        if (notes.length === 0 || (text !== undefined && note !== text)) return;
        clearTimeout(timer);
        this.#waiting.delete(look);
        resolve();
      };
      this.#waiting.add(look);
      look();
    });
  }
}

/** Has the server publish an event. */
async function publish(
  channel: string,
  event: string,
  data: unknown,
): Promise<void> {
  const body = JSON.stringify([channel, event, data]);
  await (await fetch("/publish", { method: "POST", body })).text();
}

/** Waits for an event of an emitter. */
function heard(emitter: Any, event: string): Promise<Any> {
  return new Promise((resolve) => emitter.bind(event, resolve));
}

/** Another user, who joins a presence channel by the class alone. */
async function visitor(user: string, channel: string): Promise<Any> {
  const pusher = new page.Pusher("app-key", optionsOf(user));
  const room = pusher.subscribe(channel);
  await heard(room, "pusher:subscription_succeeded");
  return Object.assign(pusher, { room });
}

/** A place in the page. */
function place(): Any {
  const { document } = page;
  return document.body.appendChild(document.createElement("div"));
}

// ---- Laravel Echo -----------------------------------------------------------

async function useEcho(Echo: Any, optionsOfEcho: Any): Promise<unknown[]> {
  const log = new Log();
  const echo = new Echo({ namespace: "", ...optionsOfEcho });
  const room = echo.join("room");
  room.here(log.as("here")).joining(log.as("joining"))
    .leaving(log.as("leaving")).listen(".said", log.as("said"))
    .listenForWhisper("typing", log.as("typing"));
  await log.until("here");

  const bob = await visitor("bob", "presence-room");
  await log.until("joining");
  bob.room.bind("client-typing", log.as("typing to bob"));
  room.whisper("typing", { by: "ann" });
  await log.until("typing to bob");
  bob.room.trigger("client-typing", { by: "bob" });
  await log.until("typing");
  await publish("presence-room", "said", { text: "hi" });
  await log.until("said");
  bob.disconnect();
  await log.until("leaving");

  const secret = echo.private("secret");
  secret.subscribed(log.as("subscribed")).listenToAll((
    event: string,
    data: unknown,
  ) => log.add("all", event, data));
  await log.until("subscribed");
  secret.whisper("unheard", {});
  await publish("private-secret", "created", { id: 1 });
  await log.until("all");
  secret.stopListeningToAll();
  const refused = echo.private("refused");
  refused.error(({ type, status }: Any) => log.add("error", [type, status]));
  await log.until("error");
  secret.notification(log.as("notification"));
  const notified =
    "Illuminate\\Notifications\\Events\\BroadcastNotificationCreated";
  await publish("private-secret", notified, { type: "paid" });
  await log.until("notification");
  const news = echo.channel("news").listen(".created", log.as("created"));
  await heard(news.subscription, "pusher:subscription_succeeded");
  const { pusher } = echo.connector;
  await publish("news", "created", { id: 2 });
  await log.until("created");

  log.add("socket", echo.socketId() === pusher.connection.socket_id);
  log.add("channels", Object.keys(pusher.channels.channels));
  echo.leaveChannel("private-secret");
  echo.leave("room");
  log.add("channels", pusher.channels.all().map(({ name }: Any) => name));
  log.add("status", echo.connectionStatus?.());
  const stop = echo.connector.onConnectionChange?.(log.as("status"));
  echo.disconnect();
  stop?.();
  log.add("status", echo.connectionStatus?.());
  return log.lines;
}

/** Handed an instance. */
const withClient = () => ({
  broadcaster: "pusher",
  client: new page.Pusher("app-key", optionsOf("ann")),
});

/** Makes an instance of the page's class. */
const withGlobal = () => ({
  broadcaster: "pusher",
  key: "app-key",
  ...optionsOf("ann"),
});

// ---- Laravel Echo's hooks ---------------------------------------------------

/** Shows a component in which hooks are used; gives a function that removes it. */
type Show = (setup: () => void) => Promise<() => void>;

async function useEchoHooks(hooks: Any, show: Show): Promise<unknown[]> {
  const log = new Log();
  hooks.configureEcho({
    broadcaster: "reverb",
    key: "app-key",
    namespace: "",
    Pusher: page.Pusher,
    ...optionsOf("ann"),
  });
  const remove = await show(() => {
    const room = hooks.useEchoPresence("room", ".said", log.as("said"));
    hooks.useEchoPublic("news", [".created", ".removed"], log.as("news"));
    hooks.useEcho("secret", ".created", log.as("secret"));
    hooks.useEchoNotification("secret", log.as("notification"));
    page.room = room;
  });
  const { pusher } = hooks.echo().connector;
  const joined = ["presence-room", "news", "private-secret"].map((name) =>
    heard(pusher.channel(name), "pusher:subscription_succeeded")
  );
  page.room.channel().here(log.as("here")).joining(log.as("joining"))
    .listenForWhisper("typing", log.as("typing"));
  await Promise.all(joined);
  await log.until("here");
  const bob = await visitor("bob", "presence-room");
  await log.until("joining");
  bob.room.bind("client-typing", log.as("typing to bob"));
  page.room.channel().whisper("typing", { by: "ann" });
  await log.until("typing to bob");
  bob.room.trigger("client-typing", { by: "bob" });
  await log.until("typing");
  await publish("presence-room", "said", { text: "hi" });
  await log.until("said");
  await publish("news", "removed", { id: 1 });
  await log.until("news");
  await publish("private-secret", "created", { id: 2 });
  await log.until("secret");
  const notified =
    "Illuminate\\Notifications\\Events\\BroadcastNotificationCreated";
  await publish("private-secret", notified, { type: "paid" });
  await log.until("notification");
  bob.disconnect();
  log.add("channels", pusher.allChannels().map(({ name }: Any) => name));
  remove();
  log.add("channels", pusher.allChannels().map(({ name }: Any) => name));
  hooks.echo().disconnect();
  log.add("state", pusher.connection.state);
  return log.lines;
}

/** As a component of React. */
async function showInReact(setup: () => void): Promise<() => void> {
  const root = place();
  await new Promise<void>((resolve) => {
    const Component = () => {
      setup();
      // Effects run in their order: the last is after those of the hooks.
      React.useEffect(resolve, []);
      return null;
    };
    const component = React.createElement(Component);
    ReactDOM.render(
      React.createElement(React.StrictMode, null, component),
      root,
    );
  });
  return () => ReactDOM.unmountComponentAtNode(root);
}

/** As a component of Vue. */
function showInVue(setup: () => void): Promise<() => void> {
  const app = Vue.createApp({
    setup() {
      setup();
      return () => null;
    },
  });
  app.mount(place());
  return Promise.resolve(() => app.unmount());
}

// ---- use-pusher -------------------------------------------------------------

async function useUsePusher(): Promise<unknown[]> {
  const {
    PusherProvider,
    useChannel,
    useClientTrigger,
    useEvent,
    usePresenceChannel,
    usePusher,
  } = page.packages.usePusher;
  const log = new Log();
  const { createElement } = React as Any;
  const seen: Any = {};
  function Room(): null {
    const { channel, members, count, me, myID } = usePresenceChannel(
      "presence-room",
    );
    const news = useChannel("news");
    useEvent(news, "created", seen.onCreated ??= log.as("created"));
    useEvent(channel, "client-typing", seen.onTyping ??= log.as("typing"));
    const typing = useClientTrigger(channel);
    Object.assign(seen, usePusher(), { typing, channel, news });
    React.useEffect(() => log.add("room", { members, count, me, myID }), [
      members,
      count,
    ]);
    return null;
  }
  const root = place();
  const props = {
    clientKey: "app-key",
    _PusherRuntime: page.Pusher,
    ...optionsOf("ann"),
  };
  ReactDOM.render(
    createElement(PusherProvider, props, createElement(Room)),
    root,
  );
  const ann = { name: "ANN" };
  const me = { id: "ann", info: ann };
  const alone = { members: { ann }, count: 1, me, myID: "ann" };
  await log.until("room", alone);
  const bob = await visitor("bob", "presence-room");
  const members = { ann, bob: { name: "BOB" } };
  await log.until("room", { members, count: 2, me, myID: "ann" });
  bob.room.bind("client-typing", log.as("typing to bob"));
  seen.typing("client-typing", { by: "ann" });
  await log.until("typing to bob");
  bob.room.trigger("client-typing", { by: "bob" });
  await log.until("typing");
  await publish("news", "created", { id: 1 });
  await log.until("created");
  bob.disconnect();
  await log.until("room", alone);
  const { client } = seen;
  ReactDOM.unmountComponentAtNode(root);
  log.add("channels", client.allChannels().length);
  client.disconnect();
  return log.lines;
}

// ---- react-pusher and others ------------------------------------------------

async function useReactPusher(): Promise<unknown[]> {
  const log = new Log();
  const client = new page.Pusher("app-key", optionsOf("ann"));
  // A module whose exports have been compiled for CommonJS.
  const module: Any = reactPusher;
  const { default: Listener, setPusherClient } = module.default;
  setPusherClient(client);
  const { createElement } = React as Any;
  const listen = (event: string) =>
    createElement(Listener, {
      key: event,
      channel: "news",
      event,
      onUpdate: log.as(event),
    });
  const root = place();
  ReactDOM.render(
    createElement("div", null, listen("created"), listen("removed")),
    root,
  );
  await heard(client.channels.find("news"), "pusher:subscription_succeeded");
  for (const event of ["created", "removed"]) {
    await publish("news", event, { id: 1 });
    await log.until(event);
  }
  log.add("channels", client.channels.all().length);
  ReactDOM.unmountComponentAtNode(root);
  log.add("channels", client.channels.all().length);
  client.disconnect();
  return log.lines;
}

/** As ngx-pusher does it, which needs Angular. */
async function useAuthorizer(): Promise<unknown[]> {
  const log = new Log();
  const { auth, authEndpoint, ...rest } = optionsOf("ann");
  const pusher = new page.Pusher("app-key", {
    ...rest,
    authorizer: (channel: Any) => ({
      async authorize(socketId: string, callback: Any) {
        log.add("authorizes", [
          channel.name,
          socketId === pusher.connection.socket_id,
        ]);
        const response = await fetch(authEndpoint, {
          method: "POST",
          headers: auth.headers,
          body: new URLSearchParams({
            socket_id: socketId,
            channel_name: channel.name,
          }),
        });
        if (response.ok) callback(null, await response.json());
        else callback(new Error("refused"), { auth: "" });
      },
    }),
  });
  const channelOf = (name: string) =>
    pusher.channel(name) || pusher.subscribe(name);
  channelOf("private-secret").bind("created", log.as("created"));
  log.add("same", channelOf("private-secret") === channelOf("private-secret"));
  await heard(channelOf("private-secret"), "pusher:subscription_succeeded");
  await publish("private-secret", "created", { id: 1 });
  await log.until("created");
  channelOf("private-refused").bind(
    "pusher:subscription_error",
    log.as("error"),
  );
  await log.until("error");
  // What a program can ask a channel for by itself.
  for (const name of ["news", "private-secret", "private-refused"]) {
    const { socket_id } = pusher.connection;
    const channel = channelOf(name);
    const [error, answer] = await new Promise<Any[]>((resolve) =>
      channel.authorize(socket_id, (...args: unknown[]) => resolve(args))
    );
    log.add("authorized", [name, String(error), typeof answer?.auth]);
  }
  pusher.disconnect();
  return log.lines;
}

/** What programs change in an instance, and read of it, while it runs. */
async function useInsides(): Promise<unknown[]> {
  const log = new Log();
  const pusher = new page.Pusher("app-key", optionsOf("ann"));
  const room = pusher.subscribe("presence-room");
  room.bind("pusher:subscription_succeeded", (members: Any) => {
    log.add("members", members);
    log.add(
      "names",
      Object.keys(members),
      // deno-lint-ignore no-prototype-builtins -- programs do it
      members.members.hasOwnProperty("ann"),
    );
    members.each((member: Any) => log.add("each", member));
  });
  await log.until("members");
  const { members } = room.members;
  const bob = await visitor("bob", "presence-room");
  log.add("live", members, members === room.members.members);
  bob.disconnect();
  await heard(room, "pusher:member_removed");
  log.add("live", members, room.members.count);

  const { connection } = pusher;
  // The served client has the transport one object further out.
  const { transport } = connection.connection ?? connection;
  log.add("transport", transport.name);
  log.add("tls", [
    connection.usingTLS,
    pusher.shouldUseTLS(),
  ]);
  log.add("keys", [pusher.key]);
  const { pongTimeout, activityTimeout, useTLS } = connection.options;
  log.add("options", [pongTimeout, activityTimeout, useTLS]);
  connection.bind("message", ({ event }: Any) => {
    if (event === "pusher:pong") log.add("pong");
  });
  log.add(
    "sent",
    connection.send(JSON.stringify({ event: "pusher:ping", data: {} })),
  );
  await log.until("pong");
  for (const name in pusher.channels.channels) {
    // deno-lint-ignore no-prototype-builtins -- programs do it
    if (pusher.channels.channels.hasOwnProperty(name)) log.add("channel", name);
  }

  // Functions that a program puts in place of others are asked.
  const ask = pusher.config.channelAuthorizer;
  pusher.config.channelAuthorizer = (request: Any, callback: Any) => {
    log.add("asked", request.channelName);
    ask(request, callback);
  };
  const secret = pusher.subscribe("private-secret");
  await heard(secret, "pusher:subscription_succeeded");
  const other = pusher.subscribe("private-other");
  pusher.unsubscribe("private-other");
  pusher.subscribe("private-other");
  await heard(other, "pusher:subscription_succeeded");
  pusher.subscribeAll();
  pusher.disconnect();
  log.add("ended", [members, room.members.members, room.members.count]);
  log.add("sent", connection.send("{}"));
  return log.lines;
}

/** All events of an instance, except frames and ids of connections. */
async function useEvents(): Promise<unknown[]> {
  const log = new Log();
  const pusher = new page.Pusher("app-key", optionsOf("ann"));
  const note = (who: string) => (event: string, data: Any) => {
    const isOfOne = event === "message" || event === "connected";
    log.add(who, event, isOfOne ? null : data);
  };
  // With pusher-js such a handler gets frames before the channel's handlers do.
  pusher.connection.bind_global((event: string, data: Any) => {
    if (event !== "message") note("connection")(event, data);
  });
  pusher.bind_global(note("pusher"));
  await heard(pusher.connection, "connected");
  const room = pusher.subscribe("presence-room");
  room.bind_global(note("room"));
  await heard(room, "pusher:subscription_succeeded");
  const refused = pusher.subscribe("private-refused");
  await heard(refused, "pusher:subscription_error");
  const states = () => [
    pusher.connection.state,
    ...[room.subscribed, room.subscriptionPending, room.members.count],
  ];
  log.add("connected", states());
  pusher.disconnect();
  log.add("disconnected", states());
  log.add("unsent", room.trigger("client-x", {}), pusher.send_event("x", {}));
  pusher.connect();
  await heard(room, "pusher:subscription_succeeded");
  log.add("again", states());
  pusher.unsubscribe("presence-room");
  pusher.unsubscribe("presence-room");
  log.add("left", states(), pusher.channel("presence-room") === undefined);
  const pending = pusher.subscribe("presence-hall");
  pusher.unsubscribe("presence-hall");
  log.add("pending", [
    pending.subscriptionPending,
    pending.subscriptionCancelled,
    pusher.channel("presence-hall") === pending,
  ]);
  log.add("same", [
    pusher.bind("x", log.add) === pusher,
    pusher.unbind("x") === pusher,
    pusher.unbind_all() === pusher,
    room.bind("x", log.add) === room,
    room.unbind() === room,
    room.emit("x") === room,
    pusher.connection.bind("x", log.add) === pusher.connection,
    pusher.subscribe("news") === pusher.channel("news"),
  ]);
  pusher.disconnect();
  return log.lines;
}

page.programs = {
  "laravel-echo 1, handed an instance": () => useEcho(Echo1, withClient()),
  "laravel-echo 1, with the page's class": () => useEcho(Echo1, withGlobal()),
  "laravel-echo 2, handed an instance": () => useEcho(Echo2, withClient()),
  "laravel-echo 2, with the page's class": () => useEcho(Echo2, withGlobal()),
  "@laravel/echo-react": () => useEchoHooks(echoReact, showInReact),
  "@laravel/echo-vue": () => useEchoHooks(echoVue, showInVue),
  "@harelpls/use-pusher": useUsePusher,
  "react-pusher": useReactPusher,
  "a program with an authorizer": useAuthorizer,
  "a program that looks inside": useInsides,
  "a program that notes all events": useEvents,
};
