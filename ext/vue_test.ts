import { Pusher } from "@glitz/pusher/client";
import { pusherComposables } from "@glitz/pusher/vue";
import { assertEquals } from "@std/assert";
import * as vue from "npm:vue@3.5.45";
import { renderToString } from "npm:vue@3.5.45/server-renderer";
import {
  optionsFor,
  RealServer,
  Sockets,
  until,
} from "../tests/support/client.ts";

type Events = {
  news: { create: number };
  other: { create: number };
  "presence-lobby": { "pusher:user_info": { name: string } };
};

/** A server, and the composables of a program with a client of it. */
function serve() {
  const server = new RealServer({
    authorize: () => ({ user_id: "1", user_info: { name: "Ann" } }),
  });
  let made: Pusher<Events> | undefined;
  const authEndpoint = `http://127.0.0.1:${server.port}/pusher/auth`;
  const composables = pusherComposables(vue, () =>
    made = new Pusher<Events>(
      "app-key",
      optionsFor(server, { authEndpoint }),
    ));
  return {
    ...composables,
    server,
    /** Whether the client has made a channel, and the server confirmed it. */
    isSubscribed: (name: "news" | "other" | "presence-lobby") =>
      made?.channel(name)?.subscribed === true,
    state: () => made?.connection.state,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

Deno.test("composables subscribe until their scope ends, and disconnect with the last", async () => {
  await using page = serve();
  const seen: number[] = [];
  const scopes = [vue.effectScope(), vue.effectScope()] as const;
  const parts = scopes.map((scope) =>
    scope.run(() => {
      page.useEvent("news", "create", (data) => seen.push(data));
      return {
        channel: page.useChannel("news"),
        lobby: page.usePresence("presence-lobby"),
        state: page.useConnectionState(),
        subscription: page.useSubscription("news"),
      };
    })!
  );
  await until(() => page.isSubscribed("news"));
  await until(() => parts.every(({ lobby }) => lobby.value.count === 1));
  await until(() =>
    parts.every(({ subscription }) => subscription.value.state === "subscribed")
  );
  assertEquals(parts[1]?.lobby.value.me, { id: "1", info: { name: "Ann" } });
  assertEquals(
    parts.map(({ channel, state }) => [channel.value?.name, state.value]),
    [["news", "connected"], ["news", "connected"]],
  );
  await page.server.pusher.trigger("news", "create", 1);
  await until(() => seen.length === 2);
  scopes[0].stop();
  await page.server.pusher.trigger("news", "create", 2);
  await until(() => seen.length === 3);
  assertEquals([seen, page.state()], [[1, 1, 2], "connected"]);
  scopes[1].stop();
  await null;
  assertEquals(page.state(), "disconnected");
  await until(() => page.server.connections === 0);
});

Deno.test("a composable follows the name of its channel, and leaves it without a name", async () => {
  await using page = serve();
  const seen: number[] = [];
  const name = vue.ref<"news" | "other" | null>("news");
  const scope = vue.effectScope();
  const channel = scope.run(() => {
    page.useConnectionState();
    page.useEvent(name, "create", (data) => seen.push(data));
    return page.useChannel(() => name.value);
  })!;
  await until(() => page.isSubscribed("news"));
  name.value = "other";
  await until(() => page.isSubscribed("other"));
  assertEquals(page.isSubscribed("news"), false);
  assertEquals(channel.value?.name, "other");
  await page.server.pusher.trigger(["news", "other"], "create", 1);
  await until(() => seen.length === 1);
  name.value = null;
  await until(() => !page.isSubscribed("other"));
  assertEquals([channel.value, seen], [undefined, [1]]);
  scope.stop();
  await null;
});

/** A component that shows all values. */
const component = (page: ReturnType<typeof serve>) => ({
  setup() {
    page.useEvent("news", "create", () => {});
    const state = page.useConnectionState();
    const { value: channel } = page.useChannel("news");
    const lobby = page.usePresence("presence-lobby");
    return () => vue.h("p", [state.value, channel?.name, lobby.value.count]);
  },
});

Deno.test("on a server the composables have their initial values, and open no socket", async () => {
  await using page = serve();
  using sockets = new Sockets();
  const html = await renderToString(vue.createSSRApp(component(page)));
  assertEquals(html, "<p>initialized<!---->0</p>");
  assertEquals(sockets.urls, []);
});

Deno.test("in a component the subscriptions begin when it is mounted and end with it", async () => {
  await using page = serve();
  // A page without elements: what is shown does not matter here.
  const ignore = () => ({});
  const { createApp } = vue.createRenderer<object, object>({
    patchProp: ignore,
    insert: ignore,
    remove: ignore,
    createElement: ignore,
    createText: ignore,
    createComment: ignore,
    setText: ignore,
    setElementText: ignore,
    parentNode: ignore,
    nextSibling: ignore,
  });
  const app = createApp(component(page));
  app.mount({});
  await until(() => page.isSubscribed("news"));
  await until(() => page.isSubscribed("presence-lobby"));
  app.unmount();
  await null;
  assertEquals(page.state(), "disconnected");
  await until(() => page.server.connections === 0);
});
