/**
 * Uses of the types for React, Vue and Svelte that the compiler must accept or
 * refuse. Nothing here runs: `deno check .` is the test.
 *
 * @module
 */
import { Pusher } from "@glitz/pusher/client";
import {
  type PusherHooks,
  pusherHooks,
  type ReactFunctions,
} from "@glitz/pusher/react";
import {
  channel,
  connectionState,
  onEvent,
  presence,
  subscription,
} from "@glitz/pusher/svelte";
import { pusherComposables } from "@glitz/pusher/vue";
import type * as React18 from "npm:@types/react@18.3.32";
import type * as React19 from "npm:@types/react@19.3.0";
import * as vue from "npm:vue@3.5.45";

/** Presence and other channels, as in every program. */
type Events = {
  messages: { create: { text: string }; remove: { id: number } };
  other: { create: { id: number } };
  [room: `presence-room-${string}`]: {
    "pusher:user_info": { name: string };
    said: { text: string };
  };
};

const make = () => new Pusher<Events>("app-key");

// ---- React ------------------------------------------------------------------

/** Both versions have what is needed, and take the provider as a component. */
export function versions(
  react18: typeof React18,
  react19: typeof React19,
): ReactFunctions[] {
  const { PusherProvider } = pusherHooks<Events>(react18);
  const client = make();
  react18.createElement(PusherProvider, { client }, "text");
  react18.createElement(PusherProvider, { client: make, children: [] });
  react19.createElement(PusherProvider, { client }, null);
  // @ts-expect-error The client is missing.
  react19.createElement(PusherProvider, {});
  // @ts-expect-error The client has other channels.
  react19.createElement(PusherProvider, { client: new Pusher<{ a: 1 }>("") });
  return [react18, react19];
}

/** The declaration follows from the client, or from the type argument. */
export function declared(react: typeof React19): PusherHooks<Events>[] {
  return [
    pusherHooks(react, make),
    pusherHooks(react, make()),
    pusherHooks<Events>(react),
  ];
}

export function useHooks(
  hooks: PusherHooks<Events>,
  id: string,
  maybe: "messages" | null | undefined,
): void {
  hooks.useEvent("messages", "create", ({ text }) => text.trim());
  hooks.useEvent(maybe, "remove", ({ id }) => id.toFixed(), { rewind: 1 });
  hooks.useEvent(`presence-room-${id}`, "said", ({ text }, { user_id }) => [
    text.trim(),
    user_id?.trim(),
  ]);
  hooks.useEvent(
    "messages",
    "pusher:subscription_error",
    ({ status }) => status?.toFixed(),
  );
  hooks.useChannel("messages")?.bind("create", ({ text }) => text.trim());
  hooks.useChannel(`presence-room-${id}`)?.members.me?.info.name.trim();
  const { members, me, count } = hooks.usePresence(`presence-room-${id}`);
  members.map(({ id, info }) => [id.trim(), info.name.trim(), count.toFixed()]);
  me?.info.name.trim();
  const orders = hooks.useSubscription("messages", { rewind: 1 });
  // Only a refusal has an error.
  orders.state === "refused"
    ? orders.error.error.trim()
    : orders.error === null;
  hooks.useConnectionState() === "connected";
  const pusher = hooks.usePusher();
  hooks.useEvent(pusher, "remove", ({ id }) => id.toFixed());
  hooks.useEvent(pusher?.connection, "connecting_in", (s) => s.toFixed());
  hooks.useEvent(pusher?.user, "hi", (data) => data.anything.at.all);
  // @ts-expect-error There is no such channel.
  hooks.useEvent("massages", "create", () => {});
  // @ts-expect-error There is no such event.
  hooks.useEvent("messages", "crate", () => {});
  // @ts-expect-error The event is another channel's.
  hooks.useEvent("messages", "said", () => {});
  // @ts-expect-error There is no such field.
  hooks.useEvent("messages", "create", ({ txt }) => txt);
  // @ts-expect-error There is no such channel.
  hooks.useSubscription("massages");
  // @ts-expect-error There is no such state.
  orders.state === "failed";
  // @ts-expect-error There is no such option.
  hooks.useEvent("messages", "create", () => {}, { last: 1 });
  // @ts-expect-error It declares `user_info`, and is no event.
  hooks.useEvent("presence-room-a", "pusher:user_info", () => {});
  // @ts-expect-error The channel may be undefined.
  hooks.useChannel("messages").unbind();
  // @ts-expect-error It is no presence channel.
  hooks.usePresence("messages");
  // @ts-expect-error `user_info` has no age.
  me?.info.age;
  // @ts-expect-error The members cannot be changed.
  members.push({ id: "1", info: { name: "" } });
  // @ts-expect-error There is no such state.
  hooks.useConnectionState() === "conected";
}

/** Without a declaration everything is allowed. */
export function useUntyped(react: typeof React18, id: string): void {
  const hooks = pusherHooks(react);
  hooks.useEvent(id, "at all", (data) => data.anything.at.all);
  hooks.useChannel("presence-a")?.members.me?.info.anything;
  hooks.usePresence("presence-a").members[0]?.info.anything.at.all;
  // @ts-expect-error It is no presence channel.
  hooks.usePresence("room");
}

// ---- Vue --------------------------------------------------------------------

export function useComposables(id: string): void {
  const {
    useChannel,
    useConnectionState,
    useEvent,
    usePresence,
    useSubscription,
  } = pusherComposables(vue, make);
  const name = vue.shallowRef<"messages" | null>(null);
  useEvent("messages", "create", ({ text }) => text.trim());
  useEvent(name, "create", ({ text }) => text.trim());
  useEvent(() => `presence-room-${id}` as const, "said", ({ text }) => text);
  useChannel(name).value?.bind("remove", ({ id }) => id.toFixed());
  usePresence(`presence-room-${id}`).value.me?.info.name.trim();
  useSubscription(name).value.error?.error.trim();
  useConnectionState().value === "connected";
  // @ts-expect-error There is no such channel.
  useEvent("massages", "create", () => {});
  // @ts-expect-error There is no such event.
  useEvent(name, "said", () => {});
  // @ts-expect-error It is no presence channel.
  usePresence("messages");
  // @ts-expect-error The value cannot be changed.
  useConnectionState().value = "connected";
}

// ---- Svelte -----------------------------------------------------------------

export function subscribeToStores(pusher: Pusher<Events> | undefined): void {
  onEvent(pusher, "messages", "create", ({ text }) => text.trim());
  channel(pusher, "messages").subscribe((messages) => {
    messages?.bind("remove", ({ id }) => id.toFixed());
  });
  presence(pusher, "presence-room-a").subscribe(({ members }) => {
    members.map(({ info }) => info.name.trim());
  });
  subscription(pusher, "messages").subscribe(({ error }) =>
    error?.error.trim()
  );
  // @ts-expect-error There is no such channel.
  subscription(pusher, "massages");
  connectionState(pusher).subscribe((state) => state === "failed");
  // @ts-expect-error There is no such event.
  onEvent(pusher, "messages", "crate", () => {});
  // @ts-expect-error There is no such channel.
  channel(pusher, "massages");
  // @ts-expect-error It is no presence channel.
  presence(pusher, "messages");
}
