/**
 * Items 17-62: channels of every class, and the events of clients.
 *
 * @module
 */
import { type Bench, openTcp, type Sections } from "./bench.ts";
import { Inbox, LaravelEcho, nacl, sdkFor, type StockClient } from "./stock.ts";
import {
  channelAuth,
  dataOf,
  DEADLINE_MS,
  type Frame,
  hmac,
  hold,
  inTime,
  pause,
  same,
  type Socket,
} from "./wire.ts";

/** Every character that a channel name may have. */
const NAME_CHARACTERS =
  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-=@,.;";

/** The secret of the vectors for signatures, and of theirs for webhooks. */
const VECTOR_SECRET = "7ad3773142a6692b25b8";

const CLIENT_EVENTS = { "client-events": true };
const COUNTS = { "subscription-counts": true };

/** Above this many subscribers, counts are told no more than … */
const COUNT_THROTTLE_FROM = 100;
/** … once in this time, by a timer that may be a little early. */
const COUNT_INTERVAL_MS = 5_000;
const JITTER_MS = 100;

/** Client events that one connection may send at once, and in a second. */
const CLIENT_EVENT_BURST = 10;
/** So many take less than the seconds in which all of them may be sent. */
const CLIENT_EVENTS_TOO_MANY = 100;

/** A member who has gone is reported within so many answers to pings. */
const ANSWERS_AT_ONCE = 1_000;

/** Data of an event may have this many bytes. */
const DATA_BYTES = 10_240;

/** A member without anything else. */
const member = (user_id: unknown, user_info?: unknown) =>
  user_info === undefined ? { user_id } : { user_id, user_info };

/** Events of frames, in order. */
const events = (frames: Frame[]) => frames.map(({ event }) => event);

/** A client of Laravel Echo over a pusher-js. */
function echo({ pusher }: StockClient): LaravelEcho<"pusher"> {
  return new LaravelEcho({
    broadcaster: "pusher",
    key: "in-the-client",
    client: pusher as never,
  });
}

/** Resolves with what a callback is given first. */
function first<T>(): [promise: Promise<T>, callback: (value: T) => void] {
  const { promise, resolve } = Promise.withResolvers<T>();
  return [promise, resolve];
}

// ---- Public channels --------------------------------------------------------

const PUBLIC: Sections[number] = ["Public channels", [
  {
    number: 17,
    title: 'Subscribe: subscription_succeeded with channel and data "{}"',
    async run(t) {
      const channel = t.name();
      const frame = await (await t.open()).subscribe(channel);
      const event = "pusher_internal:subscription_succeeded";
      same(frame, { event, channel, data: "{}" }, "answer");
      return `${event} "{}"`;
    },
  },
  {
    number: 18,
    title: "Subscribe with string-encoded data works",
    async run(t) {
      const [socket, channel] = [await t.open(), t.name()];
      const data = JSON.stringify({ auth: "", channel });
      socket.send({ event: "pusher:subscribe", data });
      await socket.next("pusher_internal:subscription_succeeded");
      return "subscribed";
    },
  },
  {
    number: 19,
    title: "A published event arrives as event, channel, data; stock clients " +
      "emit it",
    async run(t) {
      const channel = t.name();
      const socket = await t.joined(channel);
      const clients = t.stocks();
      const inboxes = await Promise.all(
        clients.map(async (client) => (await client.join(channel)).inbox),
      );
      const [listened, listener] = first<unknown>();
      echo(clients[1]!).channel(channel).listen(".made", listener);
      const value = { text: "zoë ✓" };
      const data = JSON.stringify(value);
      await t.api.publish(channel, "made", data);
      same(await socket.next(), { event: "made", channel, data }, "frame");
      for (const inbox of inboxes) {
        same(await inbox.data("made"), value, "data in pusher-js");
      }
      same(await listened, value, "data in Echo");
      return "same string; same value in pusher-js 7, 8 and Echo";
    },
  },
  {
    number: 20,
    title: "Data that is not JSON, or empty, arrives unchanged",
    async run(t) {
      const channel = t.name();
      const socket = await t.joined(channel);
      for (const data of ["plain text", "{not json", ""]) {
        await t.api.publish(channel, "made", data);
        same((await socket.next("made")).data, data, "data");
      }
      return "3 texts unchanged";
    },
  },
  {
    number: 21,
    title: "After unsubscribe nothing more arrives",
    async run(t) {
      const [channel, other] = [t.name(), t.name()];
      const socket = await t.joined(channel);
      await socket.join(other);
      await socket.leave(channel);
      await t.api.publish(channel, "late", "{}");
      same(await t.before(other, socket), [[]], "frames after leaving");
      return "nothing";
    },
  },
  {
    number: 22,
    title: "Unsubscribe of an unknown channel: no frame, no close",
    async run(t) {
      const socket = await t.open();
      const data = { channel: t.name() };
      socket.send({ event: "pusher:unsubscribe", data });
      await socket.silence("frames after unsubscribe");
      return "silence, still open";
    },
  },
  {
    number: 23,
    title: "A second subscribe: success again, each event still once",
    async run(t) {
      const channel = t.name();
      const socket = await t.joined(channel);
      await socket.join(channel);
      await t.api.publish(channel, "made", "{}");
      const [frames] = await t.before(channel, socket);
      same(events(frames!), ["made"], "events");
      return "2 successes, 1 event";
    },
  },
  {
    number: 24,
    title: "Every allowed character accepted; space / : # non-ASCII refused",
    async run(t) {
      const socket = await t.open();
      await socket.join(NAME_CHARACTERS + t.name());
      for (const character of [" ", "/", ":", "#", "ä", "✓"]) {
        await socket.refused(`a${character}${t.name()}`);
      }
      return "6 refused, naming the channel";
    },
  },
  {
    number: 25,
    title: "Name of 164 characters accepted, of 201 refused",
    async run(t) {
      const socket = await t.open();
      await socket.join(t.name().padEnd(164, "x"));
      const answer = await socket.refused(t.name().padEnd(201, "x"));
      return `accepted; ${answer}`;
    },
  },
  {
    number: 26,
    title: "The same channel in two apps never crosses",
    needs: { apps: true },
    async run(t) {
      const [one, two] = t.host.apps.filter((app) => app.enabled !== false);
      hold(one !== undefined && two !== undefined, "fewer than two apps");
      const [channel, last] = [t.name("private-"), t.name()];
      const sockets = [await t.open(), await t.open({ app: two })];
      for (const socket of sockets) {
        await socket.join(channel);
        await socket.join(last);
      }
      await t.apiOf(one).publish(channel, "of-one", "{}");
      await t.apiOf(two).publish(channel, "of-two", "{}");
      for (const app of [one, two]) {
        await t.apiOf(app).publish(last, "last", "{}");
      }
      const [ofOne, ofTwo] = await Promise.all(
        sockets.map((socket) => socket.upTo("last")),
      );
      same(events(ofOne!), ["of-one", "last"], "events in the first app");
      same(events(ofTwo!), ["of-two", "last"], "events in the second app");
      return "each its own";
    },
  },
  {
    number: 27,
    title: "Subscribe without channel: error, still open",
    async run(t) {
      const socket = await t.open();
      socket.send({ event: "pusher:subscribe", data: { auth: "" } });
      await socket.error();
      await socket.silence("frames after the error");
      return "error, still open";
    },
  },
]];

// ---- Private and encrypted channels -----------------------------------------

const PRIVATE: Sections[number] = ["Private and encrypted channels", [
  {
    number: 28,
    title: "A1, A7, A8: the tool's own signer makes them; what it and the " +
      "SDK sign is accepted",
    async run(t) {
      const vectors = {
        "private-foobar":
          "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
        "private-encrypted-foobar":
          "e6a18892d037c5d5e76a2265df4f086ffc38631605530dfd214aa5bff495f533",
        "private-cache-foobar":
          "395f4a03f06e17b74af8d9c58386cf386e70176f58452420f042b6e1bddefa43",
      };
      const app = { id: "3", key: "k", secret: VECTOR_SECRET };
      for (const [channel, digest] of Object.entries(vectors)) {
        const made = channelAuth(app, "1234.1234", channel);
        same(made, `k:${digest}`, channel);
      }
      const socket = await t.open();
      for (const prefix of ["private-", "private-encrypted-"]) {
        await socket.join(t.name(prefix));
        const channel = t.name(prefix);
        const { auth } = t.sdk.authorizeChannel(socket.socketId, channel);
        await socket.join(channel, { auth });
      }
      const cached = t.name("private-cache-");
      const { auth } = t.sdk.authorizeChannel(socket.socketId, cached);
      await socket.join(cached, { auth });
      return "3 digests, 5 channels joined";
    },
  },
  {
    number: 29,
    title: "Wrong digest: AuthError 401 with channel, open, no events",
    async run(t) {
      const [channel, other] = [t.name("private-"), t.name()];
      const socket = await t.joined(other);
      const auth = `${t.app.key}:${"0".repeat(64)}`;
      const answer = await socket.refused(channel, { auth });
      same(answer, "AuthError 401", "refusal");
      await t.api.publish(channel, "secret", "{}");
      same(await t.before(other, socket), [[]], "events");
      return `${answer}, no events`;
    },
  },
  {
    number: 30,
    title: "No auth, other key, other socket, other channel: AuthError",
    async run(t) {
      const socket = await t.open();
      const channel = t.name("private-");
      const right = channelAuth(t.app, socket.socketId, channel);
      const wrong = [
        null,
        right.replace(/^.*:/, "other-key:"),
        channelAuth(t.app, "1.1", channel),
        channelAuth(t.app, socket.socketId, t.name("private-")),
      ];
      for (const auth of wrong) {
        same(
          await socket.refused(channel, { auth }),
          "AuthError 401",
          `${auth}`,
        );
      }
      return "4 AuthErrors";
    },
  },
  {
    number: 31,
    title: "Private subscribe with signed channel_data (A6): accepted",
    async run(t) {
      const socket = await t.open();
      const channel = t.name("private-");
      await socket.join(channel, { channelData: '{"user_id":"10"}' });
      return "accepted";
    },
  },
  {
    number: 32,
    title: "Upper-case hex digest: refused",
    async run(t) {
      const socket = await t.open();
      const channel = t.name("private-");
      const [key, digest] = channelAuth(t.app, socket.socketId, channel).split(
        ":",
      );
      const auth = `${key}:${digest!.toUpperCase()}`;
      const answer = await socket.refused(channel, { auth });
      same(answer, "AuthError 401", "refusal");
      return answer;
    },
  },
  {
    number: 33,
    title: "Encrypted: ciphertext relayed unchanged; pusher-js decrypts what " +
      "the SDK sent",
    async run(t) {
      const channel = t.name("private-encrypted-");
      const socket = await t.joined(channel);
      const inboxes = await Promise.all(
        t.stocks().map(async (client) => (await client.join(channel)).inbox),
      );
      const value = { message: "zoë ✓" };
      await t.sdk.trigger(channel, "made", value);
      const { data } = await socket.next("made");
      for (const inbox of inboxes) {
        same(await inbox.data("made"), value, "data in pusher-js");
      }
      await t.api.publish(channel, "again", data as string);
      same((await socket.next("again")).data, data, "relayed data");
      return "same string; clear data in pusher-js 7 and 8";
    },
  },
  {
    number: 34,
    title: "E1, E2: SDK and the tool make them; pusher-js opens E1 from the " +
      "server",
    async run(t) {
      const keys = {
        e1: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        e2: "zyrm8pvV2C9fJcBfhyXzvxbJVN/H7QLmbe0xJi1GhPU=",
      };
      const shared = (masterKey: string, channel: string) =>
        sdkFor(t.host.origin, t.app, masterKey)
          .authorizeChannel("1.1", channel).shared_secret;
      const e1 = "g3Au6SZ+UCU+IMfFsFva0rq+Gi4tzSHR6WCcWZbS9sY=";
      const e2 = "nlr49ISQHz91yS3cy/yWmW8wFMNeTnNL5tNHnbPJcLQ=";
      const channel = "private-encrypted-foobar";
      same(shared(keys.e1, channel), e1, "secret E1");
      same(shared(keys.e2, "private-encrypted-bla"), e2, "secret E2");
      const nonce = "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZX";
      const ciphertext =
        "3px9F2rmDj9/a0O15483opw5S9pIl2OLUKMD1kF3Ye8D4hsgyAt8F08=";
      const value = { message: "hello world" };
      const box = nacl.secretbox(
        new TextEncoder().encode(JSON.stringify(value)),
        bytes(nonce),
        bytes(e1),
      );
      same(btoa(String.fromCharCode(...box)), ciphertext, "ciphertext E1");
      const signer = sdkFor(t.host.origin, t.app, keys.e1);
      const inboxes = await Promise.all(
        t.stocks({ signer }).map(async (client) =>
          (await client.join(channel)).inbox
        ),
      );
      const event = t.name();
      const data = JSON.stringify({ nonce, ciphertext });
      await t.api.publish(channel, event, data);
      for (const inbox of inboxes) {
        same(await inbox.data(event), value, "data in pusher-js");
      }
      return "2 secrets, 1 ciphertext, opened by pusher-js 7 and 8";
    },
  },
]];

function bytes(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

// ---- Presence channels ------------------------------------------------------

/** Takes the next frame, a member frame, and returns its data. */
async function memberFrame(socket: Socket, what: "added" | "removed") {
  return dataOf(await socket.next(`pusher_internal:member_${what}`));
}

const PRESENCE: Sections[number] = ["Presence channels", [
  {
    number: 35,
    title: "First member: success lists itself, count 1",
    async run(t) {
      const socket = await t.open();
      const info = { name: "Ann" };
      const channel = t.name("presence-");
      const data = await socket.join(channel, { member: member("ann", info) });
      const { presence } = data;
      const expected = { ids: ["ann"], hash: { ann: info }, count: 1 };
      same(presence, expected, "presence");
      return JSON.stringify(presence);
    },
  },
  {
    number: 36,
    title:
      "Second user: member_added once to the first, none to itself; Echo " +
      "and pusher-js agree",
    async run(t) {
      const channel = t.name("presence-");
      const [ann, bob] = await t.openAll(2);
      await ann!.join(channel, { member: member("ann", { n: 0 }) });
      await bob!.join(channel, { member: member("bob", { n: 1 }) });
      const [toAnn, toBob] = await t.before(channel, ann!, bob!);
      const added = { user_id: "bob", user_info: { n: 1 } };
      same(toAnn!.map(dataOf), [added], "to the first");
      same(toBob, [], "to the second");
      const client = t.stock(8, { member: member("cy", { name: "Cy" }) });
      const [here, onHere] = first<unknown[]>();
      const [joining, onJoining] = first<unknown>();
      const [leaving, onLeaving] = first<unknown>();
      echo(client).join(channel.replace("presence-", ""))
        .here(onHere).joining(onJoining).leaving(onLeaving);
      same((await here).length, 3, "members in Echo");
      const dan = t.stock(7, { member: member("dan", { name: "Dan" }) });
      const { channel: room } = await dan.join(channel);
      same(room.members.me, { id: "dan", info: { name: "Dan" } }, "me");
      same(room.members.count, 4, "members in pusher-js");
      same(await joining, { name: "Dan" }, "joining in Echo");
      dan.close();
      same(await leaving, { name: "Dan" }, "leaving in Echo");
      return "1 member_added, 0 to itself; Echo told of joining and leaving";
    },
  },
  {
    number: 37,
    title: "Same user, second socket: no member frames, count stays",
    async run(t) {
      const channel = t.name("presence-");
      const [ann, bob, tab] = await t.openAll(3);
      await ann!.join(channel, { member: member("ann") });
      await bob!.join(channel, { member: member("bob") });
      await ann!.next("pusher_internal:member_added");
      const data = await tab!.join(channel, { member: member("bob") });
      same(data.presence.count, 2, "count");
      same(await t.before(channel, ann!, bob!, tab!), [[], [], []], "frames");
      return "no frames, count 2";
    },
  },
  {
    number: 38,
    title: "One of two sockets leaves: nothing; the last: member_removed at " +
      "once",
    async run(t) {
      const channel = t.name("presence-");
      const [ann, bob, tab] = await t.openAll(3);
      await ann!.join(channel, { member: member("ann") });
      await bob!.join(channel, { member: member("bob") });
      await tab!.join(channel, { member: member("bob") });
      await ann!.next("pusher_internal:member_added");
      await tab!.leave(channel);
      same(await t.before(channel, ann!), [[]], "after the first");
      await bob!.close();
      // Counted by what the server does meanwhile, as a busy machine is slow.
      const frames: Frame[] = [];
      for (let answers = 0; frames.length === 0; answers++) {
        hold(answers < ANSWERS_AT_ONCE, `none after ${answers} answers`);
        frames.push(...await ann!.framesUntilPong());
      }
      same(events(frames), ["pusher_internal:member_removed"], "events");
      same(dataOf(frames[0]!), { user_id: "bob" }, "removed");
      same(await t.before(channel, ann!), [[]], "after the last");
      return "0, then 1 at once";
    },
  },
  {
    number: 39,
    title: "A lost TCP connection, and one gone silent: member_removed " +
      "within the liveness limit",
    needs: { "activity-timeout": "2", "pong-timeout": "5" },
    isSlow: true,
    async run(t) {
      const channel = t.name("presence-");
      const liveness = t.milliseconds("activity-timeout") +
        t.milliseconds("pong-timeout");
      const limit = liveness + DEADLINE_MS;
      const watcher = await t.open();
      await watcher.join(channel, { member: member("ann") });
      const alive = setInterval(() => watcher.ping(), liveness / 8);
      try {
        const removed = async (user_id: string) => {
          const frames = await watcher.upTo(
            "pusher_internal:member_removed",
            limit,
          );
          same(dataOf(frames.at(-1)!), { user_id }, "removed");
        };
        const enter = async (name: string) => {
          const { id, client } = await openTcp(t.host.origin, t.app.key);
          const channel_data = JSON.stringify(member(name));
          const auth = channelAuth(t.app, id, channel, channel_data);
          const data = { channel, auth, channel_data };
          await client.send({ event: "pusher:subscribe", data });
          await watcher.upTo("pusher_internal:member_added");
          return client;
        };
        (await enter("lost")).drop();
        await removed("lost");
        const silent = await enter("silent");
        const silentAt = performance.now();
        // It answers no ping of either kind, as after a broken network.
        await removed("silent").finally(() => silent.drop());
        const ms = performance.now() - silentAt;
        return `lost: at once; silent: after ${(ms / 1000).toFixed(1)} s`;
      } finally {
        clearInterval(alive);
      }
    },
  },
  {
    number: 40,
    title: 'Numeric user_id 10 is "10" in lists, frames, HTTP and webhooks; ' +
      "pusher-js has members.me",
    wants: { webhook: true },
    isSlow: true,
    async run(t) {
      const channel = t.name("presence-");
      const [ann, ten] = await t.openAll(2);
      const info = { n: 1 };
      await ann!.join(channel, { member: member("ann", info) });
      const data = await ten!.join(channel, { member: member(10, info) });
      const { ids, hash } = data.presence;
      same([ids, hash], [["ann", "10"], { ann: info, 10: info }], "list");
      const added = await memberFrame(ann!, "added");
      same(added, { user_id: "10", user_info: info }, "added");
      for (const client of t.stocks({ member: member(10, info) })) {
        const room = (await client.join(channel)).channel;
        // pusher-js looks its own id up as the app spelled it.
        const { me } = room.members;
        same([`${me?.id}`, me?.info], ["10", info], "members.me in pusher-js");
        client.close();
      }
      const { body } = await t.api.get(`/channels/${channel}/users`);
      same(body, { users: [{ id: "ann" }, { id: "10" }] }, "HTTP");
      const hooks = [];
      if (t.host.hooks) {
        // Before the member leaves: what comes and goes at once is not reported.
        await t.hooks.next(channel, "channel_occupied");
        await t.hooks.next(channel, "member_added");
        hooks.push(await t.hooks.next(channel, "member_added"));
      }
      await ten!.close();
      same(await memberFrame(ann!, "removed"), { user_id: "10" }, "removed");
      if (!t.host.hooks) return 'always "10" (webhooks not looked at)';
      hooks.push(await t.hooks.next(channel, "member_removed"));
      same(hooks.map(({ user_id }) => user_id), ["10", "10"], "webhooks");
      return 'always "10"';
    },
  },
  {
    number: 41,
    title: "user_info absent or []: {}; true or a string: refused",
    async run(t) {
      const channel = t.name("presence-");
      const [ann, bob, cy] = await t.openAll(3);
      const list = await ann!.join(channel, { member: member("ann") });
      same(list.presence.hash, { ann: {} }, "hash");
      await bob!.join(channel, { member: member("bob", []) });
      const added = await memberFrame(ann!, "added");
      same(added, { user_id: "bob", user_info: {} }, "added");
      const answers = [
        await cy!.refused(channel, { member: member("cy", true) }),
        await cy!.refused(channel, { member: member("cy", "Cy") }),
      ];
      const expected = Array(2).fill("InvalidChannelData 400");
      same(answers, expected, "refusals");
      return "{}, {}; InvalidChannelData twice";
    },
  },
  {
    number: 42,
    title: "user_info over 1 KiB, user_id over 128: LimitReached",
    async run(t) {
      const socket = await t.open();
      const info = (size: number) => ({
        x: "x".repeat(size - '{"x":""}'.length),
      });
      const join = (...given: Parameters<typeof member>) =>
        socket.subscribe(t.name("presence-"), { member: member(...given) });
      const fits = [
        await join("ann", info(1024)),
        await join("x".repeat(128)),
      ];
      const over = [
        await join("ann", info(1025)),
        await join("x".repeat(129)),
      ];
      const isIn = fits.map(({ event }) => event.endsWith("succeeded"));
      same(isIn, [true, true], "at the limit");
      const types = over.map((frame) => dataOf(frame).type);
      same(types, ["LimitReached", "LimitReached"], "over the limit");
      return "1024 and 128 fit; 1025 and 129 are LimitReached";
    },
  },
  {
    number: 43,
    title: "101st user: LimitReached; 101st socket of a present user: accepted",
    isSlow: true,
    async run(t) {
      const channel = t.name("presence-");
      const sockets = await t.openAll(102);
      const [late, tab] = sockets.splice(100);
      await Promise.all(
        sockets.map((socket, n) =>
          socket.requestSubscribe(channel, { member: member(`user-${n}`) })
        ),
      );
      for (const socket of sockets) {
        await socket.upTo("pusher_internal:subscription_succeeded");
      }
      const answer = await late!.refused(channel, { member: member("late") });
      same(answer.split(" ")[0], "LimitReached", "101st user");
      await tab!.join(channel, { member: member("user-0") });
      return `${answer}; accepted`;
    },
  },
  {
    number: 44,
    title: "channel_data not JSON, or without user_id: InvalidChannelData",
    async run(t) {
      const socket = await t.open();
      for (const channelData of ["not json", "{}", "[]", '{"user_id":null}']) {
        const channel = t.name("presence-");
        const answer = await socket.refused(channel, { channelData });
        same(answer, "InvalidChannelData 400", channelData);
      }
      return "4 InvalidChannelData";
    },
  },
  {
    number: 45,
    title: "A3, A4: the tool's own signer makes them; a digest holds for its " +
      "own text only",
    async run(t) {
      const text = (name: string) =>
        `{"user_id":10,"user_info":{"name":"${name}"}}`;
      const digest = (name: string) =>
        hmac(VECTOR_SECRET, `1234.1234:presence-foobar:${text(name)}`);
      same(
        [digest("Mr. Channels"), digest("Mr. Pusher")],
        [
          "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
          "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c",
        ],
        "digests",
      );
      const socket = await t.open();
      const channel = t.name("presence-");
      const channelData = text("Mr. Channels");
      const other = text("Mr. Pusher");
      const auth = channelAuth(t.app, socket.socketId, channel, other);
      const answer = await socket.refused(channel, { channelData, auth });
      same(answer, "AuthError 401", "digest of another text");
      await socket.join(channel, { channelData });
      return "2 digests; own accepted, other refused";
    },
  },
  {
    number: 46,
    title: "Signed in: joins with auth only (A5) as that user; else AuthError",
    async run(t) {
      const channel = t.name("presence-");
      const socket = await t.open();
      same(await socket.refused(channel), "AuthError 401", "not signed in");
      const id = t.name();
      await socket.signIn({ id, user_info: { name: "Ann" } });
      const { presence } = await socket.join(channel);
      same(presence.hash, { [id]: { name: "Ann" } }, "hash");
      return "AuthError; then joined as the user";
    },
  },
]];

// ---- Cache channels ---------------------------------------------------------

/** Joins a cache channel, and returns the frame that follows the success. */
async function afterJoin(t: Bench, channel: string): Promise<Frame> {
  const isPresence = channel.startsWith("presence-");
  const joined = t.joined(channel, isPresence ? member("ann") : undefined);
  return await (await joined).next();
}

/** Expects a cache to be empty, then to replay the last event only. */
async function caches(t: Bench, channel: string): Promise<void> {
  const miss = { event: "pusher:cache_miss", channel };
  same(await afterJoin(t, channel), miss, "empty cache");
  await t.api.publish(channel, "first", '"1"');
  await t.api.publish(channel, "last", '"2"');
  const replayed = { event: "last", channel, data: '"2"' };
  same(await afterJoin(t, channel), replayed, "replayed");
}

const CACHE: Sections[number] = ["Cache channels", [
  {
    number: 47,
    title: "Empty: success, then pusher:cache_miss",
    async run(t) {
      const channel = t.name("cache-");
      const miss = { event: "pusher:cache_miss", channel };
      same(await afterJoin(t, channel), miss, "frame after success");
      for (const client of t.stocks()) {
        const inbox = new Inbox(client.pusher.subscribe(channel));
        await inbox.data("pusher:cache_miss");
      }
      return "success, cache_miss, in pusher-js 7 and 8 too";
    },
  },
  {
    number: 48,
    title: "A new subscriber gets success, then the last event only",
    async run(t) {
      const channel = t.name("cache-");
      await caches(t, channel);
      const socket = await t.joined(channel);
      same(
        events(await socket.framesUntilPong()),
        ["last"],
        "events after success",
      );
      return "last event only";
    },
  },
  {
    number: 49,
    title: "Cached with nobody subscribed; client events are not",
    needs: CLIENT_EVENTS,
    async run(t) {
      const channel = t.name("private-cache-");
      await t.api.publish(channel, "made", "{}");
      const [one, two] = await t.openAll(2);
      for (const socket of [one!, two!]) {
        await socket.join(channel);
        await socket.next("made");
      }
      one!.trigger(channel, "client-a", {});
      await two!.next("client-a");
      same((await afterJoin(t, channel)).event, "made", "cached event");
      return "published event only";
    },
  },
  {
    number: 50,
    title: "The value expires after its time",
    needs: { "cache-ttl": "2" },
    isSlow: true,
    async run(t) {
      const ms = t.milliseconds("cache-ttl");
      hold(ms <= 20_000, `would take ${ms} ms`);
      const channel = await inTime(ms, async () => {
        const channel = t.name("cache-");
        await t.api.publish(channel, "made", "{}");
        same((await afterJoin(t, channel)).event, "made", "before");
        return channel;
      });
      await pause(ms + 200);
      same((await afterJoin(t, channel)).event, "pusher:cache_miss", "after");
      return `gone after ${ms / 1000} s`;
    },
  },
  {
    number: 51,
    title: "private-, presence-, private-encrypted-cache- alike; mycache- not",
    async run(t) {
      for (const prefix of ["private-", "presence-", "private-encrypted-"]) {
        await caches(t, t.name(`${prefix}cache-`));
      }
      const channel = t.name("mycache-");
      await t.api.publish(channel, "made", "{}");
      await (await t.joined(channel)).silence("frames on mycache-");
      return "3 cache, mycache- does not";
    },
  },
]];

// ---- Subscription counts ----------------------------------------------------

/** Takes the next frame, which has to be a count of a channel. */
async function countOf(socket: Socket, channel: string, ms?: number) {
  const frame = await socket.next("pusher_internal:subscription_count", ms);
  same(frame.channel, channel, "channel of the count");
  hold(typeof frame.data === "string", "data of the count is no string");
  return dataOf(frame).subscription_count as number;
}

const SUBSCRIPTION_COUNT: Sections[number] = ["Subscription count", [
  {
    number: 52,
    title: "Off: no frames. On: joiner and others get the new number",
    needs: COUNTS,
    async run(t) {
      const channel = t.name();
      const one = await t.joined(channel);
      same(await countOf(one, channel), 1, "count");
      const two = await t.joined(channel);
      same(await countOf(one, channel), 2, "count to the first");
      same(await countOf(two, channel), 2, "count to the joiner");
      for (const client of t.stocks()) {
        const inbox = new Inbox(client.pusher.subscribe(channel));
        const { subscription_count } = await inbox.data(
          "pusher:subscription_count",
        );
        hold(subscription_count >= 3, "count in pusher-js");
      }
      const off = await t.elsewhere({ "subscription-counts": false });
      if (off === null) return "1, 2 when on (off not looked at)";
      const without = await off.joined(off.name());
      await without.silence("frames when off");
      return "1, 2 when on, nothing when off";
    },
  },
  {
    number: 53,
    title: "Leaving sends the lower number; presence never sends it",
    needs: COUNTS,
    async run(t) {
      const channel = t.name();
      const [one, two] = await t.openAll(2);
      for (const socket of [one!, two!]) {
        await socket.join(channel);
        await countOf(socket, channel);
      }
      same(await countOf(one!, channel), 2, "count");
      await two!.leave(channel);
      same(await countOf(one!, channel), 1, "count after leaving");
      const room = t.name("presence-");
      await one!.join(room, { member: member("ann") });
      await one!.silence("frames on presence");
      return "2, 1; nothing on presence";
    },
  },
  {
    number: 54,
    title: "Over 100 subscribers: at most one frame in 5 s, final value right",
    needs: COUNTS,
    isSlow: true,
    async run(t) {
      const channel = t.name();
      const sockets = await t.openAll(COUNT_THROTTLE_FROM + 10);
      const final = sockets.length - 3;
      const watcher = sockets.shift() as Socket;
      await watcher.join(channel);
      const seen: [count: number, at: number][] = [];
      const watching = (async () => {
        for (let wasMore = false;;) {
          const count = await countOf(watcher, channel);
          seen.push([count, performance.now()]);
          wasMore ||= count > final;
          if (wasMore && count === final) return;
        }
      })();
      const startedAt = performance.now();
      for (const socket of sockets) await socket.join(channel);
      const all = sockets.length + 1;
      // The number is not the final one before some have left again.
      const told = async () => {
        while (!seen.some(([count]) => count === all)) await pause(100);
      };
      await Promise.race([told(), watching]);
      for (const socket of sockets.slice(-3)) await socket.leave(channel);
      await watching;
      const throttled = seen.filter(([n]) => n > COUNT_THROTTLE_FROM);
      const gaps = throttled.slice(1)
        .map(([, at], n) => Math.round(at - throttled[n]![1]));
      // Those on a busy machine may be shorter than at the server, but never all.
      const ms = Math.round(seen.at(-1)![1] - startedAt);
      const least = gaps.length * (COUNT_INTERVAL_MS - JITTER_MS);
      hold(least <= ms, `gaps of ${gaps} ms within ${ms} ms`);
      return `${throttled.map(([n]) => n)} with gaps of ${gaps} ms`;
    },
  },
]];

// ---- Client events ----------------------------------------------------------

/** Expects the next frame to refuse a client event on a channel. */
async function refusesEvent(socket: Socket, channel: string): Promise<void> {
  const { channel: named } = await socket.error(4301);
  same(named, channel, "channel of the refusal");
}

/** Two sockets on a channel. */
async function pair(t: Bench, channel: string): Promise<[Socket, Socket]> {
  const isPresence = channel.startsWith("presence-");
  const [one, two] = await t.openAll(2) as [Socket, Socket];
  await one.join(channel, { member: isPresence ? member("ann") : undefined });
  await two.join(channel, { member: isPresence ? member("bob") : undefined });
  if (isPresence) await one.next("pusher_internal:member_added");
  return [one, two];
}

const CLIENT: Sections[number] = ["Client events", [
  {
    number: 55,
    title: "Not enabled: 4301 with channel, nothing relayed",
    needs: { "client-events": false },
    async run(t) {
      const channel = t.name("private-");
      const [one, two] = await pair(t, channel);
      one.trigger(channel, "client-a", {});
      await refusesEvent(one, channel);
      same(await t.before(channel, two), [[]], "relayed");
      return "4301, nothing relayed";
    },
  },
  {
    number: 56,
    title: "Enabled: relayed to the others on private and presence only",
    needs: CLIENT_EVENTS,
    async run(t) {
      for (const prefix of ["private-", "presence-"]) {
        const channel = t.name(prefix);
        const [one, two] = await pair(t, channel);
        one.trigger(channel, "client-a", { n: 1 });
        await one.silence("frames to the sender");
        const [toOne, toTwo] = await t.before(channel, one, two);
        same([events(toOne!), events(toTwo!)], [[], ["client-a"]], prefix);
      }
      return "to the other, not to the sender";
    },
  },
  {
    number: 57,
    title: "Public, cache and user channels, or not subscribed: 4301",
    needs: CLIENT_EVENTS,
    async run(t) {
      const id = t.name();
      const channels = [t.name(), t.name("cache-"), `#server-to-user-${id}`];
      const socket = await t.open();
      await socket.signIn({ id });
      for (const channel of channels) {
        await socket.join(channel);
        // The cache channel says that it is empty.
        await socket.framesUntilPong();
      }
      for (const channel of [...channels, t.name("private-")]) {
        socket.trigger(channel, "client-a", {});
        await refusesEvent(socket, channel);
      }
      return "4 times 4301";
    },
  },
  {
    number: 58,
    title: "Presence: the sender's user_id, never a forged one; private: none",
    needs: CLIENT_EVENTS,
    async run(t) {
      const seen = [];
      for (const prefix of ["presence-", "private-"]) {
        const channel = t.name(prefix);
        const [one, two] = await pair(t, channel);
        const user_id = "forged";
        one.send({ event: "client-a", channel, data: "{}", user_id });
        seen.push((await two.next("client-a")).user_id);
      }
      same(seen, ["ann", undefined], "user_id");
      return "ann; none";
    },
  },
  {
    number: 59,
    title: "10 at once pass, more in a second get 4301; after 1 s they pass " +
      "again",
    needs: CLIENT_EVENTS,
    isSlow: true,
    async run(t) {
      const channel = t.name("private-");
      const [one, two] = await pair(t, channel);
      const startedAt = performance.now();
      for (let n = 0; n < CLIENT_EVENTS_TOO_MANY; n++) {
        one.trigger(channel, "client-a", n);
      }
      const refused = await one.framesUntilPong();
      const [relayed] = await t.before(channel, two);
      const seconds = (performance.now() - startedAt) / 1000;
      for (const frame of refused) {
        same([frame.channel, dataOf(frame).code], [channel, 4301], "refusal");
      }
      const count = relayed!.length;
      same(refused.length, CLIENT_EVENTS_TOO_MANY - count, "refusals");
      // More than that at once, if the machine is too busy to send them at once.
      const most = Math.ceil((1 + seconds) * CLIENT_EVENT_BURST);
      hold(count >= CLIENT_EVENT_BURST, `only ${count} relayed`);
      hold(count <= most, `${count} relayed in ${seconds} s`);
      hold(refused.length > 0, "none refused");
      const sent = relayed!.map(dataOf);
      same(sent, sent.toSorted((a, b) => a - b), "order");
      await pause(1000);
      one.trigger(channel, "client-b", {});
      await two.next("client-b");
      return `${count} relayed, ${
        refused!.length
      } times 4301, then relayed again`;
    },
  },
  {
    number: 60,
    title: "Data of 10,241 bytes: 4301; of 10,240: relayed",
    needs: CLIENT_EVENTS,
    async run(t) {
      const channel = t.name("private-");
      const [one, two] = await pair(t, channel);
      const sized = (size: number) => ({
        x: "x".repeat(size - '{"x":""}'.length),
      });
      one.trigger(channel, "client-a", sized(DATA_BYTES));
      await two.next("client-a");
      one.trigger(channel, "client-a", sized(DATA_BYTES + 1));
      await refusesEvent(one, channel);
      return "relayed; 4301";
    },
  },
  {
    number: 61,
    title: "String, object, number and no data arrive equal in pusher-js; " +
      "Echo whispers",
    needs: CLIENT_EVENTS,
    async run(t) {
      const channel = t.name("private-");
      const [seven, eight] = t.stocks() as [StockClient, StockClient];
      const [one, two] = [await seven.join(channel), await eight.join(channel)];
      for (const value of ["text", { a: [1, "ä"] }, 12, undefined]) {
        one.channel.trigger("client-a", value);
        same(await two.inbox.data("client-a"), value, "from 7 to 8");
        two.channel.trigger("client-b", value);
        same(await one.inbox.data("client-b"), value, "from 8 to 7");
      }
      const name = channel.replace("private-", "");
      const [heard, hear] = first<unknown>();
      echo(seven).private(name).listenForWhisper("typing", hear);
      echo(eight).private(name).whisper("typing", { name: "Ann" });
      same(await heard, { name: "Ann" }, "whispered");
      return "4 values both ways, 1 whisper";
    },
  },
  {
    number: 62,
    title: "xclient-a is not a client event",
    needs: CLIENT_EVENTS,
    async run(t) {
      const channel = t.name("private-");
      const [one, two] = await pair(t, channel);
      one.trigger(channel, "xclient-a", {});
      await one.error();
      same(await t.before(channel, two), [[]], "relayed");
      return "error, nothing relayed";
    },
  },
]];

export const CHANNELS: Sections = [
  PUBLIC,
  PRIVATE,
  PRESENCE,
  CACHE,
  SUBSCRIPTION_COUNT,
  CLIENT,
];
