/**
 * What the compiler has to accept and to refuse of the server's typed interface.
 * Nothing here runs: `deno check .` is the test. It fails where a right use does
 * not compile, and where a use that is marked as wrong does.
 *
 * @module
 */
import { type ChannelAuth, Pusher } from "@glitz/pusher";
import { Pusher as Client } from "@glitz/pusher/client";

/** Every kind of channel that a program may declare. */
type Events = {
  messages: { create: { text: string }; remove: { id: number } };
  news: { create: { text: string; urgent: boolean }; flash: string };
  [channel: `private-user-${string}`]: { paid: { order: number } };
  [room: `presence-room-${string}`]: {
    "pusher:user_info": { name: string };
    said: { text: string };
    "client-typing": { since: number };
  };
  /** Another declaration of what members say of themselves. */
  "presence-desk": { "pusher:user_info": { phone: number }; rang: null };
  /** None. */
  "presence-hall": { opened: { by: string } };
};

/** The same as an interface, which has no implicit index signature. */
interface EventsInterface {
  messages: { create: { text: string } };
  [room: `presence-${string}`]: { "pusher:user_info": { name: string } };
}

// ---- Trigger ----------------------------------------------------------------

/** A channel, one of its events, and the data of that. */
export async function trigger(pusher: Pusher<Events>): Promise<void> {
  await pusher.trigger("messages", "create", { text: "hello" });
  await pusher.trigger("news", "flash", "hello");
  await pusher.trigger("presence-desk", "rang", null);
  await pusher.trigger("messages", "remove", { id: 1 }, { socket_id: "1.2" });
  // @ts-expect-error There is no such channel.
  await pusher.trigger("massages", "create", { text: "hello" });
  // @ts-expect-error There is no such event.
  await pusher.trigger("messages", "crate", { text: "hello" });
  // @ts-expect-error The event is another channel's.
  await pusher.trigger("messages", "flash", "hello");
  // @ts-expect-error The data is another event's.
  await pusher.trigger("messages", "create", { id: 1 });
  // @ts-expect-error The data is of another type.
  await pusher.trigger("messages", "create", { text: 1 });
  // @ts-expect-error Part of the data is missing.
  await pusher.trigger("news", "create", { text: "hello" });
  // @ts-expect-error There is too much data.
  await pusher.trigger("messages", "create", { text: "hello", html: "" });
  // @ts-expect-error The data is missing.
  await pusher.trigger("messages", "create");
  // @ts-expect-error There is no such parameter.
  await pusher.trigger("messages", "remove", { id: 1 }, { socketId: "1.2" });
}

/** Names that are template literals, written out or put together. */
export async function triggerTemplate(
  pusher: Pusher<Events>,
  id: string,
): Promise<void> {
  await pusher.trigger("private-user-7", "paid", { order: 1 });
  await pusher.trigger(`private-user-${id}`, "paid", { order: 1 });
  await pusher.trigger(`presence-room-${id}`, "said", { text: "hello" });
  // The server may send what clients send each other.
  await pusher.trigger("presence-room-a", "client-typing", { since: 1 });
  // @ts-expect-error No channel begins so.
  await pusher.trigger(`private-${id}`, "paid", { order: 1 });
  // @ts-expect-error The event is another channel's.
  await pusher.trigger(`private-user-${id}`, "said", { text: "hello" });
  // @ts-expect-error The data is of another type.
  await pusher.trigger(`private-user-${id}`, "paid", { order: "1" });
  // @ts-expect-error Any text might be the name of any channel.
  await pusher.trigger(id, "paid", { order: 1 });
}

/** Several channels: the event is one of each, and its data suits all of them. */
export async function triggerSeveral(
  pusher: Pusher<Events>,
  ids: `private-user-${string}`[],
): Promise<void> {
  await pusher.trigger(["messages", "news"], "create", {
    text: "hello",
    urgent: true,
  });
  await pusher.trigger(["private-user-7", "private-user-8"], "paid", {
    order: 1,
  });
  await pusher.trigger(ids, "paid", { order: 1 });
  // @ts-expect-error One of the channels has no such event.
  await pusher.trigger(["messages", "news"], "remove", { id: 1 });
  // @ts-expect-error One of the channels wants to know whether it is urgent.
  await pusher.trigger(["messages", "news"], "create", { text: "hello" });
  // @ts-expect-error There is no such channel.
  await pusher.trigger(["messages", "old"], "create", { text: "hello" });
}

/** A batch: each item has the data of its own event. */
export async function triggerBatch(pusher: Pusher<Events>): Promise<void> {
  await pusher.triggerBatch([
    { channel: "messages", name: "remove", data: { id: 1 } },
    { channel: "news", name: "flash", data: "hello", socket_id: "1.2" },
    { channel: "private-user-7", name: "paid", data: { order: 1 } },
    { channel: "presence-room-a", name: "said", data: { text: "hello" } },
  ]);
  await pusher.triggerBatch([
    { channel: "messages", name: "remove", data: { id: 1 } },
    // @ts-expect-error There is no such channel.
    { channel: "massages", name: "remove", data: { id: 1 } },
  ]);
  await pusher.triggerBatch([
    // @ts-expect-error There is no such event.
    { channel: "messages", name: "crate", data: { text: "hello" } },
  ]);
  await pusher.triggerBatch([
    // @ts-expect-error The data is another event's.
    { channel: "messages", name: "remove", data: { text: "hello" } },
  ]);
  await pusher.triggerBatch([
    // @ts-expect-error The event is another channel's.
    { channel: "private-user-7", name: "said", data: { text: "hello" } },
  ]);
  await pusher.triggerBatch([
    // @ts-expect-error What members say of themselves is no event.
    { channel: "presence-desk", name: "pusher:user_info", data: { phone: 1 } },
  ]);
}

/** Names of the protocol are no events, the reserved one included. */
export async function triggerReserved(pusher: Pusher<Events>): Promise<void> {
  // @ts-expect-error What members say of themselves is no event.
  await pusher.trigger("presence-room-a", "pusher:user_info", { name: "Ann" });
  // @ts-expect-error It is none on several channels either.
  await pusher.trigger(["presence-desk"], "pusher:user_info", { phone: 1 });
  const careless = new Pusher<{ a: { "pusher:error": { code: number } } }>();
  // @ts-expect-error A declaration does not make it one.
  await careless.trigger("a", "pusher:error", { code: 1 });
}

/** Users' events are not declared. */
export async function sendToUser(pusher: Pusher<Events>): Promise<void> {
  await pusher.sendToUser("ann", "whatever", { a: ["b"] });
  await pusher.sendToUser("ann", "whatever", null);
  // @ts-expect-error A user has an id.
  await pusher.sendToUser(7, "whatever", null);
}

// ---- Members ----------------------------------------------------------------

/** What `authorize` may answer: a member as some presence channel declares it. */
export function authorize(): void {
  new Pusher<Events>({ authorize: () => true });
  new Pusher<Events>({ authorize: () => Promise.resolve(false) });
  new Pusher<Events>({
    authorize: (request, { app, channel, params, socketId }) => {
      const name = request.headers.get("x-name") ?? params.get("name");
      if (channel === "presence-desk") {
        return { user_id: socketId, user_info: { phone: 1 } };
      }
      return name !== null && { user_id: app, user_info: { name } };
    },
  });
  new Pusher<Events>({
    authorize: async (request) => {
      const name = await request.text();
      if (name === "") return false;
      return { user_id: 7, user_info: { name } };
    },
  });
  new Pusher<Events>({
    // @ts-expect-error No channel has such members.
    authorize: () => ({ user_id: 7, user_info: { nom: "Ann" } }),
  });
  new Pusher<Events>({
    // @ts-expect-error The name is of another type.
    authorize: () => ({ user_id: 7, user_info: { name: 7 } }),
  });
  new Pusher<Events>({
    // @ts-expect-error Nor may a promise hold a wrong one.
    authorize: () => Promise.resolve({ user_id: 7, user_info: { name: 7 } }),
  });
  new Pusher<Events>({
    // @ts-expect-error A member has an id.
    authorize: () => ({ user_info: { name: "Ann" } }),
  });
  new Pusher<Events>({
    // @ts-expect-error Nothing is no answer.
    authorize: () => null,
  });
}

/** Where every presence channel says it, what members say cannot be left out. */
export function authorizeDeclared(): void {
  type Rooms = {
    messages: { create: string };
    [room: `presence-${string}`]: { "pusher:user_info": { name: string } };
  };
  new Pusher<Rooms>({
    authorize: () => ({ user_id: 7, user_info: { name: "Ann" } }),
  });
  new Pusher<Rooms>({
    // @ts-expect-error The name is missing.
    authorize: () => ({ user_id: 7 }),
  });
  new Pusher<Rooms>({
    // @ts-expect-error The name is missing.
    authorize: () => ({ user_id: 7, user_info: {} }),
  });
}

/** Where none says it, members say what they like, or nothing. */
export function authorizeUndeclared(): void {
  type Halls = { "presence-hall": { opened: { by: string } } };
  new Pusher<Halls>({ authorize: () => ({ user_id: 7 }) });
  new Pusher<Halls>({
    authorize: () => ({ user_id: 7, user_info: { whatever: true } }),
  });
  new Pusher<Halls>({
    // @ts-expect-error It is an object all the same.
    authorize: () => ({ user_id: 7, user_info: "Ann" }),
  });
}

// ---- Client events ----------------------------------------------------------

/** What a program may make of a client event: data as some channel declares it. */
export function clientEvents(): void {
  new Pusher<Events>({ clientEvents: true });
  new Pusher<Events>({
    clientEvents: ({ app, channel, event, socketId, userId, signal }) => {
      if (signal.aborted || userId === undefined) return null;
      if (event !== "client-typing") return `${app} knows no ${event}`;
      if (channel.startsWith(socketId)) return false;
      return { data: { since: 1 } };
    },
  });
  new Pusher<Events>({ clientEvents: () => Promise.resolve("Not now") });
  new Pusher<Events>({
    clientEvents: async ({ data }) => {
      await Promise.resolve();
      return typeof data === "object";
    },
  });
  new Pusher<Events>({
    // @ts-expect-error A client may send anything, whatever is declared.
    clientEvents: ({ data }) => data.since > 1,
  });
  new Pusher<Events>({
    // @ts-expect-error The data is of another type.
    clientEvents: () => ({ data: { since: "now" } }),
  });
  new Pusher<Events>({
    // @ts-expect-error It is that of an event that clients do not send.
    clientEvents: () => Promise.resolve({ data: { text: "hello" } }),
  });
  new Pusher<Events>({
    // @ts-expect-error Nothing is no answer.
    clientEvents: () => {},
  });
  new Pusher<{ messages: { create: string } }>({
    // @ts-expect-error No channel has client events.
    clientEvents: () => ({ data: "hello" }),
  });
  new Pusher({ clientEvents: () => ({ data: { whatever: [1] } }) });
  new Pusher({ clientEvents: ({ data }) => ({ data }) });
}

/** The member of the one channel that is named. */
export function authorizeChannel(
  pusher: Pusher<Events>,
  id: string,
): ChannelAuth {
  pusher.authorizeChannel("1.2", "presence-room-a", {
    user_id: 7,
    user_info: { name: "Ann" },
  });
  pusher.authorizeChannel("1.2", `presence-room-${id}`, {
    user_id: 7,
    user_info: { name: "Ann" },
  });
  pusher.authorizeChannel("1.2", "presence-desk", {
    user_id: "ann",
    user_info: { phone: 1 },
  });
  pusher.authorizeChannel("1.2", "presence-hall", { user_id: 7 });
  pusher.authorizeChannel("1.2", "presence-hall", {
    user_id: 7,
    user_info: { whatever: true },
  });
  pusher.authorizeChannel("1.2", "private-user-7");
  // Who has signed in needs no member.
  pusher.authorizeChannel("1.2", "presence-room-a");
  // The name comes from a form: any channel's member will do.
  pusher.authorizeChannel("1.2", id, { user_id: 7, user_info: { phone: 1 } });
  pusher.authorizeChannel("1.2", "presence-room-a", {
    user_id: 7,
    // @ts-expect-error These are the members of another channel.
    user_info: { phone: 1 },
  });
  pusher.authorizeChannel("1.2", `presence-room-${id}`, {
    user_id: 7,
    // @ts-expect-error The name is of another type.
    user_info: { name: 7 },
  });
  pusher.authorizeChannel("1.2", "presence-room-a", {
    user_id: 7,
    // @ts-expect-error Nobody declares an age.
    user_info: { name: "Ann", age: 7 },
  });
  // @ts-expect-error The name is missing.
  pusher.authorizeChannel("1.2", "presence-room-a", { user_id: 7 });
  // @ts-expect-error A member has an id.
  pusher.authorizeChannel("1.2", "presence-hall", { user_info: {} });
  return pusher.authorizeChannel("1.2", "private-user-7");
}

// ---- Other views ------------------------------------------------------------

/** Each app of a server has events of its own. */
export async function app(pusher: Pusher<Events>): Promise<void> {
  const other = pusher.app<{ log: { line: string } }>("other");
  await other.trigger("log", "line", "hello");
  // @ts-expect-error That channel is of the first app.
  await other.trigger("messages", "create", { text: "hello" });
  const open = pusher.app("third");
  await open.trigger("anything", "at all", [1, "two", { three: null }]);
}

/** Without a declaration everything is allowed. */
export async function untyped(id: string): Promise<void> {
  const pusher = new Pusher({
    authorize: () => ({ user_id: 7, user_info: { whatever: [1] } }),
  });
  await pusher.trigger(id, id, { whatever: [1] });
  await pusher.trigger([id, "messages"], id, undefined);
  await pusher.triggerBatch([{ channel: id, name: id, data: 1 }]);
  pusher.authorizeChannel(id, id, { user_id: 7, user_info: { a: 1 } });
  pusher.authorizeChannel(id, "presence-room-a", { user_id: 7 });
  await Pusher.trigger(id, id, { whatever: [1] });
  await Pusher.triggerBatch([{ channel: id, name: id, data: 1 }]);
  Pusher.authorizeChannel(id, id, { user_id: 7, user_info: { a: 1 } });
  // @ts-expect-error An event has a name.
  await pusher.trigger(id);
  new Pusher({
    // @ts-expect-error A member has an id, whatever else is open.
    authorize: () => ({ user_info: {} }),
  });
}

/** Options are those there are. */
export function options(): void {
  new Pusher<Events>({ history: false });
  new Pusher<Events>({ history: {} });
  new Pusher<Events>({
    history: { events: 10, ageMs: 1_000, bytes: 1_000, sessions: 10 },
  });
  // @ts-expect-error It is on already.
  new Pusher<Events>({ history: true });
  // @ts-expect-error There is no such bound.
  new Pusher<Events>({ history: { age: 1_000 } });
  // @ts-expect-error There is no such option.
  new Pusher<Events>({ historie: false });
}

/** The very same declaration is taken by the client. */
export function client(): void {
  const pusher = new Client<Events>("key");
  pusher.subscribe("messages").bind("create", ({ text }) => text.trim());
  pusher.subscribe(`private-user-${"7"}`)
    .bind("paid", ({ order }) => order.toFixed());
  const room = pusher.subscribe("presence-room-a", { rewind: 20 });
  room.bind("said", ({ text }) => text.trim());
  room.trigger("client-typing", { since: 1 });
  room.members.each(({ info }) => info.name.trim());
  pusher.subscribe("presence-desk").members.me?.info.phone.toFixed();
  // @ts-expect-error The data is of another type.
  pusher.subscribe("messages").bind("create", ({ text }) => text.toFixed());
  // @ts-expect-error These are the members of another channel.
  room.members.each(({ info }) => info.phone);
}

/** An interface declares as well as a type. */
export async function declaredByInterface(
  pusher: Pusher<EventsInterface>,
  client: Client<EventsInterface>,
): Promise<void> {
  await pusher.trigger("messages", "create", { text: "hello" });
  client.subscribe("messages").bind("create", ({ text }) => text.trim());
  pusher.authorizeChannel("1.2", "presence-a", {
    user_id: 7,
    user_info: { name: "Ann" },
  });
  // @ts-expect-error There is no such channel.
  await pusher.trigger("massages", "create", { text: "hello" });
  // @ts-expect-error The name is missing.
  pusher.authorizeChannel("1.2", "presence-a", { user_id: 7 });
}
