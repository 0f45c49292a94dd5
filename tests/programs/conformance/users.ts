/**
 * Items 63-72: who is signed in, what reaches them, and who watches them.
 *
 * @module
 */
import type { Bench, Sections } from "./bench.ts";
import { Inbox } from "./stock.ts";
import { dataOf, hold, same, type Socket, userAuth } from "./wire.ts";

/** Ids that one connection may watch. */
const WATCHED = 100;

const WATCHLIST = "pusher_internal:watchlist_events";
const SUCCEEDED = "pusher_internal:subscription_succeeded";

/** Signs a new socket in. */
async function signedIn(t: Bench, id: string, more = {}): Promise<Socket> {
  const socket = await t.open();
  await socket.signIn({ id, ...more });
  return socket;
}

/** Takes the next frame, which has to be about watched users, by its lists. */
async function watched(socket: Socket): Promise<Record<string, string[]>> {
  const frame = await socket.next(WATCHLIST);
  same(frame.channel, undefined, "channel of watchlist events");
  const { events } = dataOf(frame) as {
    events: { name: string; user_ids: string[] }[];
  };
  return Object.fromEntries(
    events.map(({ name, user_ids }) => [name, user_ids.sort()]),
  );
}

/** Expects a sign-in to be refused without closing. */
async function refusesSignin(
  socket: Socket,
  user: object | string,
  auth?: string,
) {
  socket.requestSignIn(user, { auth });
  const { channel } = await socket.error(4009);
  same(channel, undefined, "channel of the error");
}

export const USERS: Sections = [["Users", [
  {
    number: 63,
    title: "Sign-in signed by the SDK: success echoes user_data exactly",
    async run(t) {
      const socket = await t.open();
      const user = { id: t.name(), user_info: { name: "Zoë ✓" } };
      const { auth, user_data } = t.sdk.authenticateUser(socket.socketId, user);
      socket.requestSignIn(user_data, { auth });
      const frame = await socket.next("pusher:signin_success");
      same(dataOf(frame).user_data, user_data, "user_data");
      const odd = `{ "id" : "${t.name()}", "n": 1.0 }`;
      const echo = dataOf(await (await t.open()).signIn(odd));
      same(echo.user_data, odd, "unusual user_data");
      for (const { pusher, connection } of t.stocks({ user })) {
        await connection.data("connected");
        const succeeded = connection.data("message");
        pusher.signin();
        await succeeded;
        same(pusher.user.user_data?.id, user.id, "user in pusher-js");
      }
      return "the same text; pusher-js 7 and 8 signed in";
    },
  },
  {
    number: 64,
    title: "Bad signature, no id, numeric id: 4009, open, not signed in",
    async run(t) {
      const socket = await t.open();
      const user = JSON.stringify({ id: t.name() });
      const forOther = userAuth(t.app, "1.1", user);
      await refusesSignin(socket, user, forOther);
      await refusesSignin(socket, {});
      await refusesSignin(socket, { id: 10 });
      const answer = await socket.refused(t.name("presence-"));
      same(answer, "AuthError 401", "joining as nobody");
      return "3 times 4009, still nobody";
    },
  },
  {
    number: 65,
    title: "Same id again: success; another id: error, first identity kept",
    async run(t) {
      const id = t.name();
      const socket = await signedIn(t, id);
      await socket.signIn({ id });
      await refusesSignin(socket, { id: t.name() });
      await t.sdk.sendToUser(id, "hello", {});
      await socket.next("hello");
      return "success; 4009; still the first";
    },
  },
  {
    number: 66,
    title: "sendToUser reaches every socket of the id once, others never",
    async run(t) {
      const [id, news] = [t.name(), t.name()];
      const [one, two] = [await signedIn(t, id), await signedIn(t, id)];
      const other = await signedIn(t, t.name());
      await one.join(`#server-to-user-${id}`);
      for (const socket of [one, two, other]) await socket.join(news);
      const client = t.stock(8, { user: { id } });
      const inbox = new Inbox(client.pusher.user);
      client.pusher.signin();
      const old = t.stock(7, { user: { id } });
      const oldInbox = new Inbox(old.pusher.user);
      old.pusher.signin();
      for (const { pusher, connection } of [client, old]) {
        while (!pusher.user.user_data) await connection.data("message");
      }
      await t.sdk.sendToUser(id, "hello", { n: 1 });
      const seen = (await t.before(news, one, two, other)).map((frames) =>
        frames.map(({ event, channel, data }) => [event, channel, data])
      );
      const hello = ["hello", `#server-to-user-${id}`, '{"n":1}'];
      same(seen, [[hello], [hello], []], "events");
      same(await inbox.data("hello"), { n: 1 }, "event in pusher-js 8");
      same(await oldInbox.data("hello"), { n: 1 }, "event in pusher-js 7");
      return "1, 1, 0; and pusher-js 7 and 8";
    },
  },
  {
    number: 67,
    title: "Subscribing to another's user channel: AuthError, no events",
    async run(t) {
      const [id, news] = [t.name(), t.name()];
      const other = await signedIn(t, t.name());
      const nobody = await t.open();
      for (const socket of [other, nobody]) {
        const answer = await socket.refused(`#server-to-user-${id}`);
        same(answer, "AuthError 401", "refusal");
        await socket.join(news);
      }
      await t.sdk.sendToUser(id, "hello", {});
      same(await t.before(news, other, nobody), [[], []], "events");
      return "AuthError twice, no events";
    },
  },
  {
    number: 68,
    title: "User channels are absent from GET /channels and webhooks",
    wants: { webhook: true },
    async run(t) {
      const [id, news] = [t.name(), t.name()];
      const socket = await signedIn(t, id);
      await socket.join(`#server-to-user-${id}`);
      await socket.join(news);
      const { body } = await t.api.get("/channels");
      const isUser = (name: string) => name.startsWith("#");
      hold(news in body.channels, "an occupied channel is not listed");
      same(Object.keys(body.channels).filter(isUser), [], "listed");
      if (!t.host.hooks) return "not listed (webhooks not looked at)";
      await t.hooks.next(news, "channel_occupied");
      same(t.hooks.channels.filter(isUser), [], "webhooks");
      return "not listed, no webhook";
    },
  },
  {
    number: 69,
    title:
      "terminate: signed-in sockets close 4009, presence-only ones stay; " +
      "unknown user 200",
    async run(t) {
      const id = t.name();
      const sockets = [await signedIn(t, id), await signedIn(t, id)];
      const present = await t.joined(t.name("presence-"), { user_id: id });
      const [client] = t.stocks({ user: { id } });
      await client!.connection.data("connected");
      client!.pusher.signin();
      // Then it subscribes to the user's channel. A frame that it sends while the
      // server closes would make its runtime report 1006, not 4009.
      for (let event = ""; event !== SUCCEEDED;) {
        ({ event } = await client!.connection.data("message"));
      }
      const { status } = await t.sdk.terminateUserConnections(id);
      same(status, 200, "status");
      for (const socket of sockets) {
        await socket.error(4009);
        same(await socket.closing(), 4009, "close code");
      }
      await client!.connection.data("disconnected");
      await present.silence("frames to the presence-only socket");
      const unknown = await t.sdk.terminateUserConnections(t.name());
      same(unknown.status, 200, "status for an unknown user");
      return "4009, 4009, pusher-js disconnected; the other stays; 200";
    },
  },
  {
    number: 70,
    title: "Watchlist: one channel-less frame after success, both lists right",
    async run(t) {
      const [on, off] = [t.name(), t.name()];
      await signedIn(t, on);
      const watcher = await signedIn(t, t.name(), { watchlist: [on, off] });
      const lists = await watched(watcher);
      same(lists, { online: [on], offline: [off] }, "lists");
      await watcher.silence("frames after the lists");
      const all = await signedIn(t, t.name(), { watchlist: [off] });
      same(await watched(all), { offline: [off] }, "list without online");
      const none = await signedIn(t, t.name(), { watchlist: [] });
      await none.silence("frames for an empty watchlist");
      return "online and offline; offline only; nothing for none";
    },
  },
  {
    number: 71,
    title: "First sign-in: one online; last close: one offline; between: none",
    async run(t) {
      const id = t.name();
      const watchlist = [id];
      const watcher = await signedIn(t, t.name(), { watchlist });
      same(await watched(watcher), { offline: [id] }, "at first");
      const client = t.stock(8, { user: { id: t.name(), watchlist } });
      const inbox = new Inbox(client.pusher.user.watchlist);
      client.pusher.signin();
      await inbox.data("offline");
      const one = await signedIn(t, id);
      same(await watched(watcher), { online: [id] }, "first sign-in");
      const { user_ids } = await inbox.data("online");
      same(user_ids, [id], "online in pusher-js");
      const two = await signedIn(t, id);
      await one.close();
      await two.framesUntilPong();
      await watcher.silence("second socket, and the first one's end");
      await two.close();
      same(await watched(watcher), { offline: [id] }, "last close");
      await inbox.data("offline");
      await watcher.silence("frames after that");
      return "online once, offline once, in pusher-js 8 too";
    },
  },
  {
    number: 72,
    title: "101 watched ids: success and 4302; the 101st is never reported",
    async run(t) {
      const watchlist = Array.from({ length: WATCHED + 1 }, () => t.name());
      const extra = watchlist.at(-1) as string;
      const watcher = await signedIn(t, t.name(), { watchlist });
      const frames = await watcher.framesUntilPong();
      const error = frames.find(({ event }) => event === "pusher:error");
      hold(error !== undefined, "no error");
      same(dataOf(error).code, 4302, "code");
      const snapshot = frames.find(({ event }) => event === WATCHLIST);
      hold(snapshot !== undefined, "no snapshot");
      const [{ user_ids }] = dataOf(snapshot).events;
      same(user_ids.length, WATCHED, "ids in the snapshot");
      hold(!user_ids.includes(extra), "the 101st is in the snapshot");
      await signedIn(t, extra);
      await watcher.silence("frames about the 101st");
      return "success, 4302, 100 ids";
    },
  },
]]];
