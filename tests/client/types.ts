/**
 * Uses of the client's types that the compiler must accept or refuse. Nothing here
 * runs: `deno check .` is the test. It fails if a correct use does not compile, or if
 * a use that is marked as an error compiles.
 *
 * @module
 */
import DefaultPusher, {
  type Channel,
  type ChannelName,
  type ChannelOf,
  type ClientEventName,
  type DataArgs,
  type DataIn,
  type EventName,
  type EventsOf,
  type Handler,
  type Members,
  type PresenceChannel,
  type ProgramEvents,
  Pusher,
  type PusherOptions,
} from "@glitz/pusher/client";

/** Every kind of channel that a program may declare. */
type Events = {
  messages: { create: { text: string }; remove: { id: number } };
  other: { create: { id: number }; cleared: undefined };
  [channel: `private-user-${string}`]: {
    paid: { order: number };
    "client-seen": { order: number };
    "client-bye": undefined;
  };
  [room: `presence-room-${string}`]: {
    "pusher:user_info": { name: string };
    said: { text: string };
    "client-typing": { since: number };
  };
  /** Any event of a client, all with the same data. */
  "private-game": { [move: `client-${string}`]: { x: number; y: number } };
  /** Without a declaration of `user_info`. */
  "presence-hall": { opened: { by: string } };
};

/** The same as an interface, which has no implicit index signature. */
interface EventsInterface {
  messages: { create: { text: string } };
  [room: `presence-${string}`]: { "pusher:user_info": { name: string } };
}

// ---- Subscribe --------------------------------------------------------------

export function subscribe(pusher: Pusher<Events>, id: string): void {
  const messages: Channel<Events["messages"]> = pusher.subscribe("messages");
  messages.name.trim();
  const user = pusher.subscribe(`private-user-${id}`);
  user.bind("paid", ({ order }) => order.toFixed());
  const hall: PresenceChannel<Events["presence-hall"]> = pusher.subscribe(
    "presence-hall",
  );
  hall.members.count.toFixed();
  pusher.channel("messages")?.bind("create", ({ text }) => text.trim());
  pusher.unsubscribe("messages");
  // @ts-expect-error There is no such channel.
  pusher.subscribe("massages");
  // @ts-expect-error No channel has this prefix.
  pusher.subscribe(`private-${id}`);
  // @ts-expect-error A text may be the name of any channel.
  pusher.subscribe(id);
  // @ts-expect-error The channel may be undefined.
  pusher.channel("messages").bind("create", () => {});
  // @ts-expect-error There is no such channel.
  pusher.unsubscribe("massages");
  // @ts-expect-error Only presence channels have members.
  messages.members;
}

export function subscribeWithRewind(pusher: Pusher<Events>): void {
  pusher.subscribe("messages", { rewind: 10 }).bind("create", () => {});
  pusher.subscribe("messages", {});
  // @ts-expect-error It is a number of events.
  pusher.subscribe("messages", { rewind: "10" });
  // @ts-expect-error There is no such option.
  pusher.subscribe("messages", { last: 10 });
}

// ---- Bind -------------------------------------------------------------------

export function bind(pusher: Pusher<Events>): void {
  const messages = pusher.subscribe("messages");
  messages.bind("create", ({ text }) => text.trim())
    .bind("remove", ({ id }) => id.toFixed());
  messages.bind("pusher:subscription_succeeded", () => {});
  messages.bind("pusher:subscription_error", ({ status }) => status?.toFixed());
  messages.bind("pusher:recovery_failed", ({ channel }) => channel.trim());
  messages.unbind("create").unbind().unbind(null, () => {});
  pusher.subscribe("other").bind("cleared", (data: undefined) => data);
  // @ts-expect-error There is no such event.
  messages.bind("crate", () => {});
  // @ts-expect-error The event is another channel's.
  messages.bind("cleared", () => {});
  // @ts-expect-error There is no such field.
  messages.bind("create", ({ txt }) => txt);
  // @ts-expect-error The data is of another type.
  messages.bind("create", (data: number) => data);
  // @ts-expect-error A public channel has no members.
  messages.bind("pusher:member_added", () => {});
  // @ts-expect-error There is no such event.
  messages.unbind("crate");
}

/** On all channels at once. */
export function bindAll(pusher: Pusher<Events>): void {
  pusher.bind("remove", ({ id }) => id.toFixed());
  // The data may be that of any channel.
  pusher.bind("create", (data) => "text" in data ? data.text : data.id);
  pusher.bind("paid", ({ order }) => order.toFixed());
  pusher.bind("pusher:error", ({ message }) => message.trim());
  pusher.bind("pusher:recovery_failed", ({ channel }) => channel.trim());
  pusher.bind_global((event) => event.trim());
  // @ts-expect-error There is no such event on any channel.
  pusher.bind("removed", () => {});
  // @ts-expect-error Not every channel has this field in its data.
  pusher.bind("create", ({ text }) => text);
  // @ts-expect-error It declares `user_info`, and is no event.
  pusher.bind("pusher:user_info", () => {});
}

/** The second argument of handlers. */
export function metadata(pusher: Pusher<Events>): void {
  const room = pusher.subscribe("presence-room-a");
  room.bind("client-typing", ({ since }, { user_id }) => [since, user_id]);
  room.bind("client-typing", (_data, { user_id }) => user_id?.trim());
  // @ts-expect-error The sender may be undefined.
  room.bind("said", (_data, { user_id }) => user_id.trim());
  // @ts-expect-error There is no such metadata.
  room.bind("said", (_data, { sender }) => sender);
}

// ---- Trigger ----------------------------------------------------------------

export function trigger(pusher: Pusher<Events>, id: string): void {
  const user = pusher.subscribe(`private-user-${id}`);
  const isSent: boolean = user.trigger("client-seen", { order: 1 });
  user.trigger("client-bye", undefined) === isSent;
  user.trigger("client-bye");
  pusher.subscribe("private-game").trigger(`client-${id}`, { x: 1, y: 2 });
  pusher.subscribe("presence-room-a").trigger("client-typing", { since: 1 });
  // @ts-expect-error There is no such event.
  user.trigger("client-see", { order: 1 });
  // @ts-expect-error Only the server sends this event.
  user.trigger("paid", { order: 1 });
  // @ts-expect-error The event is another channel's.
  user.trigger("client-typing", { since: 1 });
  // @ts-expect-error The data is of another type.
  user.trigger("client-seen", { order: "1" });
  // @ts-expect-error The data is missing.
  user.trigger("client-seen");
  // @ts-expect-error There is no data.
  user.trigger("client-bye", { order: 1 });
  // @ts-expect-error Part of the data is missing.
  pusher.subscribe("private-game").trigger("client-move", { x: 1 });
  // @ts-expect-error No client events are declared here.
  pusher.subscribe("messages").trigger("client-create", { text: "" });
  // @ts-expect-error It declares `user_info`, and is no event.
  pusher.subscribe("presence-room-a").trigger("pusher:user_info", { name: "" });
}

// ---- Presence ---------------------------------------------------------------

export function members(pusher: Pusher<Events>): void {
  const room = pusher.subscribe("presence-room-a");
  room.members.each(({ id, info }) => [id.trim(), info.name.trim()]);
  room.members.get("ann")?.info.name.trim();
  room.members.me?.info.name.trim();
  room.bind("pusher:subscription_succeeded", (present) => {
    const same: Members<{ name: string }> = present;
    same.me?.info.name.trim();
  });
  room.bind("pusher:member_added", ({ info }) => info.name.trim());
  room.bind("pusher:member_removed", ({ id, info }) => [id, info.name.trim()]);
  room.bind("said", ({ text }) => text.trim());
  // @ts-expect-error `user_info` has no age.
  room.members.each(({ info }) => info.age);
  // @ts-expect-error The member may be undefined.
  room.members.get("ann").info;
  // @ts-expect-error `user_info` has no age.
  room.members.me?.info.age;
  // @ts-expect-error `user_info` has no age.
  room.bind("pusher:subscription_succeeded", ({ me }) => me?.info.age);
  // @ts-expect-error `user_info` has no age.
  room.bind("pusher:member_added", ({ info }) => info.age);
  // @ts-expect-error `user_info` has no age.
  room.bind("pusher:member_removed", ({ info }) => info.age);
  // @ts-expect-error It declares `user_info`, and is no event.
  room.bind("pusher:user_info", () => {});
}

/** What packages for pusher-js look into. */
export function insides(pusher: Pusher<Events>): void {
  const room = pusher.subscribe("presence-room-a");
  const { members, count } = room.members;
  for (const id of Object.keys(members)) members[id]?.name.trim();
  count.toFixed();
  pusher.channels.channels["messages"]?.trigger("client-x");
  pusher.channels.find("messages")?.name.trim();
  pusher.channels.all().map(({ name }) => name.trim());
  room.authorize("1.1", (error, answer) => error ?? answer?.auth.trim());
  const request = { socketId: "1.1", channelName: "messages" };
  pusher.config.channelAuthorizer(request, (_error, answer) => answer?.auth);
  pusher.config.userAuthenticator(
    { socketId: "1.1" },
    (_error, answer) => answer?.user_data.trim(),
  );
  pusher.config.enabledTransports?.includes("ws");
  pusher.connection.options.pongTimeout.toFixed();
  pusher.connection.transport.name === "wss";
  const isTls: boolean = pusher.shouldUseTLS() && pusher.connection.usingTLS;
  const isSent: boolean = pusher.connection.send(`${isTls}`);
  pusher.user.serverToUserChannel?.name.trim().concat(`${isSent}`);
  pusher.subscribeAll();
  // @ts-expect-error `user_info` has no age.
  members["ann"]?.age;
  // @ts-expect-error The channel may be undefined.
  pusher.channels.find("messages").name;
  // @ts-expect-error There may be no transport.
  pusher.connection.transport.name.trim();
  // @ts-expect-error There is no answer if there is an error.
  room.authorize("1.1", (_error, answer) => answer.auth);
  // @ts-expect-error The text is missing.
  pusher.connection.send();
}

/** The class is the default export, too. */
export const isSameClass: boolean = DefaultPusher === Pusher;

/** Without a declaration `user_info` may be anything. */
export function membersUndeclared(pusher: Pusher<Events>): void {
  const hall = pusher.subscribe("presence-hall");
  hall.members.each(({ info }) => info.anything.at.all);
  hall.bind("pusher:member_added", ({ info }) => info.anything.at.all);
  // @ts-expect-error The id is a text.
  hall.bind("pusher:member_added", ({ id }) => id.toFixed());
}

// ---- Generic code -----------------------------------------------------------
// Here the compiler does not know the channel, or does not know a single channel.

/** For any channel and event of these. */
export function bindGeneric<
  C extends ChannelName<Events>,
  N extends EventName<EventsOf<Events, C>>,
>(
  pusher: Pusher<Events>,
  name: C,
  event: N,
  handler: Handler<EventsOf<Events, C>[N]>,
): void {
  const channel = pusher.subscribe(name);
  channel.bind(event, handler).unbind(event, handler);
  pusher.channel(name)?.bind(event, handler);
  channel.bind("pusher:subscription_error", ({ error }) => error.trim());
  channel.bind("pusher:recovery_failed", ({ channel }) => channel.trim());
  const same: ChannelOf<Events, C> = channel;
  same.subscriptionCount?.toFixed();
  // @ts-expect-error Not every channel has this event.
  channel.bind("create", () => {});
  // @ts-expect-error Not every channel has this event.
  channel.bind("pusher:member_added", () => {});
  // @ts-expect-error Not every channel has members.
  channel.members;
  // @ts-expect-error The data may be of another type.
  channel.bind(event, (data: number) => data);
}

/** For any declaration. */
export function bindDeclared<
  Declared,
  C extends ChannelName<Declared>,
  N extends EventName<EventsOf<Declared, C>>,
  P extends EventName<ProgramEvents<Declared[C]>>,
>(
  pusher: Pusher<Declared>,
  name: C,
  [event, handler]: [N, Handler<EventsOf<Declared, C>[N]>],
  [own, ownHandler]: [P, Handler<ProgramEvents<Declared[C]>[P]>],
): void {
  pusher.subscribe(name).bind(event, handler).unbind(event, handler);
  pusher.subscribe(name).bind(own, ownHandler);
  pusher.subscribe(name).bind("pusher:error", ({ code }) => code?.toFixed());
  // @ts-expect-error The handler is another event's.
  pusher.subscribe(name).bind("pusher:error", handler);
}

export function triggerGeneric<
  C extends ChannelName<Events>,
  N extends ClientEventName<Events[C]>,
>(
  pusher: Pusher<Events>,
  name: C,
  event: N,
  ...data: DataArgs<DataIn<ProgramEvents<Events[C]>, N>>
): boolean {
  // @ts-expect-error The data may be missing.
  pusher.subscribe(name).trigger(event);
  return pusher.subscribe(name).trigger(event, ...data);
}

/** With a prefix, the names are of presence channels. */
export function bindRoom<C extends `presence-room-${string}`>(
  pusher: Pusher<Events>,
  name: C,
): void {
  const room = pusher.subscribe(name);
  room.bind("said", ({ text }) => text.trim());
  room.bind("pusher:member_added", ({ info }) => info.name.trim());
  room.members.me?.info.name.trim();
  // @ts-expect-error There is no such event.
  room.bind("create", () => {});
}

/** A name that is one of several. */
export function bindSeveral(
  pusher: Pusher<Events>,
  name: "messages" | "other",
  any: ChannelName<Events>,
): Channel {
  const channel = pusher.subscribe(name);
  channel.bind("create", (data) => "text" in data ? data.text : data.id);
  channel.bind("pusher:subscription_error", ({ error }) => error.trim());
  pusher.subscribe(any).bind("pusher:error", ({ message }) => message.trim());
  // @ts-expect-error Only the other channel has this event.
  channel.bind("remove", () => {});
  // @ts-expect-error Not every channel has members.
  pusher.subscribe(any).members;
  return channel;
}

// ---- Others -----------------------------------------------------------------

export function declaredAsInterface(pusher: Pusher<EventsInterface>): void {
  pusher.subscribe("messages").bind("create", ({ text }) => text.trim());
  pusher.subscribe("presence-a").members.me?.info.name.trim();
  // @ts-expect-error There is no such event.
  pusher.subscribe("presence-a").bind("said", () => {});
  // @ts-expect-error No client events are declared here.
  pusher.subscribe("presence-a").trigger("client-said");
}

export function connection(pusher: Pusher<Events>): void {
  pusher.connection.bind("connecting_in", (seconds) => seconds.toFixed());
  pusher.connection.bind("state_change", ({ current }) => current === "failed");
  pusher.connection.transport.name === "xhr_streaming";
  pusher.user.bind("hi", (data) => data.anything.at.all);
  pusher.user.watchlist.bind("online", ({ user_ids }) => user_ids.length);
  // @ts-expect-error There is no such state.
  pusher.connection.bind("connectd", () => {});
  // @ts-expect-error There is no such transport.
  pusher.connection.transport.name === "sockjs";
  // @ts-expect-error There is no such event.
  pusher.user.watchlist.bind("onlin", () => {});
}

export function options(): PusherOptions[] {
  return [
    {
      wsHost: "localhost",
      httpPort: 80,
      httpPath: "/x",
      authTransport: "ajax",
    },
    // @ts-expect-error There is no such option.
    { wssHost: "localhost" },
    // @ts-expect-error It is a number.
    { httpPort: "80" },
  ];
}

/** Without a declaration everything is allowed. */
export function untyped(id: string): void {
  const pusher = new Pusher("app-key");
  const channel = pusher.subscribe(id, { rewind: 1 });
  channel.bind("at all", (data) => data.anything.at.all);
  channel.bind("x", (data: string) => data.trim());
  channel.trigger("client-x");
  channel.trigger("client-x", { y: 1 });
  const room = pusher.subscribe("presence-x");
  room.members.each(({ info }) => info.anything.at.all);
  room.bind("pusher:member_added", ({ info }) => info.anything.at.all);
  room.trigger("client-x", 1);
  pusher.bind("at all", (data) => data.anything.at.all);
  // @ts-expect-error Only presence channels have members.
  channel.members;
}

/** A declared client or channel fits where any client or channel does. */
export function declaredAsUntyped(
  pusher: Pusher<Events>,
  channel: Channel<Events["messages"]>,
  room: PresenceChannel<Events["presence-room-a"]>,
): [Pusher, Channel, PresenceChannel] {
  return [pusher, channel, room];
}
