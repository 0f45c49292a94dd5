/**
 * Items 73-87, 102, 103, 107 and 108: the HTTP API.
 *
 * @module
 */
import type { Sections } from "./bench.ts";
import {
  type Answer,
  channelAuth,
  hmac,
  hold,
  same,
  show,
  type Signed,
} from "./wire.ts";

/** The app of the vectors. */
const VECTORS = {
  id: "3",
  key: "278d425bdf160c739803",
  secret: "7ad3773142a6692b25b8",
};

/** When they were signed. */
const VECTOR_TIME = { auth_timestamp: "1353088179" };

/** Data of an event may have this many bytes. */
const DATA_BYTES = 10_240;
/** Channels of one event, events of one batch. */
const CHANNELS_PER_EVENT = 100;
const EVENTS_PER_BATCH = 10;

/** How far a clock may be off, and what is inside and outside of that. */
const CLOCK = { inside: 590, outside: 610 };

/** Vectors B1-B10: method, path, query, body, digest; path to sign. */
const B: [string, string, Record<string, string>, string, string, string?][] = [
  [
    "POST",
    "/events",
    {},
    '{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}',
    "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c",
  ],
  [
    "GET",
    "/channels",
    { filter_by_prefix: "presence-", info: "user_count" },
    "",
    "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
  ],
  [
    "GET",
    "/channels/presence-foobar/users",
    {},
    "",
    "5567dd30e7f8575e66be615d2aac3f608a0c311c31ddab8513a278b022e9597e",
  ],
  [
    "POST",
    "/batch_events",
    {},
    '{"batch":[{"channel":"project-3","name":"foo","data":"{\\"some\\":\\"data\\"}"}]}',
    "9df3472fb01f5d693bc9bd922118eb51e8268ac59841d3c6e3c37d488a837534",
  ],
  [
    "POST",
    "/users/12345/terminate_connections",
    {},
    "{}",
    "01fa634edeb0cae84115307cad5c23f65a46cd286461b1c89637a3b5871a8f0e",
  ],
  [
    "GET",
    "/channels/project-3",
    { Info: "subscription_count,cache" },
    "",
    "ba39a9abed534249e41fc501b533868469875035b1f64187c2b010a76f54d0c9",
  ],
  [
    "POST",
    "/events",
    {},
    '{"name":"foo","channel":"project-3","data":"{\\"text\\":\\"zoë ✓\\"}","socket_id":"1234.1234","info":"subscription_count"}',
    "7fe5453ea1ccb94fd6f8d9badede69d136452e4f285ce0d40b643c83dfe34a2e",
  ],
  [
    "POST",
    "/users/a%20b/terminate_connections",
    {},
    "{}",
    "018c597f71190b3e4f5381914f679b0f7d94ae5ea73ac404395bbf4ab6507989",
    "/users/a b/terminate_connections",
  ],
  [
    "POST",
    "/users/a%20b/terminate_connections",
    {},
    "{}",
    "a5b7d417f5f468b138e97c20e3c36da6f4f738f40dfa0a63523c968046baa9a5",
  ],
  [
    "POST",
    "/events",
    { channel: "project-3", data: '{"some":"data"}', name: "foo" },
    "",
    "b8e8339118f4f0727e88cab8876ae94418f1074a8cb162c3f7496be079aaf4e5",
  ],
];

/** Expects an error with a status and a body that says why. */
function refuses(answer: Answer, status: number, what: string): void {
  same(answer.status, status, `status for ${what} (${answer.text})`);
  const error = answer.body?.error;
  hold(
    typeof error === "string" && error !== "",
    `no error in the body for ${what}: ${show(answer.text)}`,
  );
}

/** Expects success, and returns the body. */
// deno-lint-ignore no-explicit-any -- every item knows what it asked for
function accepts(answer: Answer, what: string): any {
  same(answer.status, 200, `status for ${what} (${answer.text})`);
  return answer.body;
}

/** A request with some of its parameters exchanged after signing. */
function altered(
  request: Signed,
  changes: Record<string, string | null>,
): Signed {
  const params = request.params.flatMap(([name, value]) => {
    const change = changes[name];
    if (change === null) return [];
    return [[name, change ?? value] as [string, string]];
  });
  return { ...request, params };
}

export const HTTP_API: Sections = [["HTTP API", [
  {
    number: 73,
    title: "B1-B10: the tool's own signer makes them; such requests, signed " +
      "now, are accepted",
    async run(t) {
      for (const [n, given] of B.entries()) {
        const [method, path, query, body, digest, signedPath = path] = given;
        const init = { query: { ...VECTOR_TIME, ...query }, body, signedPath };
        const { params } = t.apiOf(VECTORS).sign(method, path, init);
        same(params.at(-1)?.[1], digest, `digest of B${n + 1}`);
        const asked = query.Info
          ? { query: { Info: "subscription_count" } }
          : { query };
        const live = t.api.sign(method, path, {
          ...asked,
          body,
          signedPath,
        });
        accepts(await t.api.send(live), `B${n + 1}`);
      }
      return "10 digests, 10 times 200";
    },
  },
  {
    number: 74,
    title: "Changed body, wrong or no body_md5, wrong key or version, no " +
      "signature: 401",
    async run(t) {
      const body = { name: "made", channel: t.name(), data: "{}" };
      const right = t.api.sign("POST", "/events", { body });
      const other = t.api.sign("POST", "/events", {
        body,
        query: { auth_key: "other-key" },
      });
      const noMd5 = t.api.sign("POST", "/events", {
        body,
        query: { body_md5: null },
      });
      const badMd5 = t.api.sign("POST", "/events", {
        body,
        query: { body_md5: "0".repeat(32) },
      });
      const oldVersion = t.api.sign("POST", "/events", {
        body,
        query: { auth_version: "0.9" },
      });
      const { body: changed } = t.api.sign("POST", "/events", {
        body: { ...body, data: "[]" },
      });
      const wrong: Record<string, Signed> = {
        "a changed body": { ...right, body: changed },
        "no body_md5": noMd5,
        "a wrong body_md5": badMd5,
        "another key": other,
        "another version": oldVersion,
        "no signature": altered(right, { auth_signature: null }),
        "a wrong signature": altered(right, {
          auth_signature: hmac("other", "text"),
        }),
      };
      for (const [what, request] of Object.entries(wrong)) {
        refuses(await t.api.send(request), 401, what);
      }
      accepts(await t.api.send(right), "the right one");
      return "7 times 401";
    },
  },
  {
    number: 75,
    title: "Timestamp 590 s off accepted, 610 s off refused, both directions",
    async run(t) {
      const at = (offset: number) => {
        const auth_timestamp = `${Math.floor(Date.now() / 1000) + offset}`;
        return t.api.get("/channels", { auth_timestamp });
      };
      for (const sign of [1, -1]) {
        const [inside, outside] = [sign * CLOCK.inside, sign * CLOCK.outside];
        accepts(await at(inside), `${inside} s`);
        refuses(await at(outside), 401, `${outside} s`);
      }
      return "200, 401, 200, 401";
    },
  },
  {
    number: 76,
    title: "Order and percent-encoding of parameters do not matter",
    async run(t) {
      const channel = t.name("presence-");
      await t.joined(channel, { user_id: "ann" });
      const query = { info: "user_count", filter_by_prefix: channel };
      const request = t.api.sign("GET", "/channels", { query });
      const everything = (text: string) =>
        Array.from(new TextEncoder().encode(text))
          .map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
      const searches = [
        (pairs: [string, string][]) => new URLSearchParams(pairs.toReversed()),
        (pairs: [string, string][]) =>
          pairs.map(([name, value]) => `${name}=${everything(value)}`).join(
            "&",
          ),
      ];
      for (const search of searches) {
        const answer = await t.api.send(request, `${search(request.params)}`);
        const { channels } = accepts(answer, "the query");
        same(Object.keys(channels), [channel], "channels in the answer");
      }
      return "reversed and escaped: 200";
    },
  },
  {
    number: 77,
    title: "Unknown app 404; every error has its status and a JSON error",
    async run(t) {
      const nowhere = t.apiOf({ ...t.app, id: t.name() });
      refuses(await nowhere.get("/channels"), 404, "an unknown app");
      refuses(await t.api.get("/no-such-path"), 404, "an unknown path");
      refuses(await t.api.post("/events", "not json"), 400, "no JSON");
      refuses(await t.api.post("/events", "[]"), 400, "an array");
      const thief = t.apiOf({ ...t.app, secret: "other" });
      refuses(await thief.get("/channels"), 401, "another secret");
      refuses(await t.api.get("/events"), 405, "another method");
      return "404, 404, 400, 400, 401, 405";
    },
  },
  {
    number: 78,
    title: "Events answer {}; what is missing, too many or malformed: 400, " +
      "nothing published",
    async run(t) {
      const channel = t.name();
      const socket = await t.joined(channel);
      const event = { name: "bad", channels: [channel], data: "{}" };
      const many = Array.from(
        { length: CHANNELS_PER_EVENT },
        (_, n) => `${channel}-${n}`,
      );
      const wrong = {
        "no name": { ...event, name: undefined },
        "no data": { ...event, data: undefined },
        "no channels": { ...event, channels: undefined },
        "101 channels": { ...event, channels: [channel, ...many] },
        "empty channels": { ...event, channels: [] },
        "a bad name": { ...event, channels: [channel, "a b"] },
        "a bad socket_id": { ...event, socket_id: "1234" },
      };
      for (const [what, body] of Object.entries(wrong)) {
        refuses(await t.api.post("/events", body), 400, what);
      }
      const right = await t.api.post("/events", { ...event, name: "good" });
      same(accepts(right, "an event"), {}, "answer");
      await socket.next("good");
      accepts(
        await t.api.post("/events", { ...event, channels: many }),
        "100 channels",
      );
      return "{}; 7 times 400, nothing published";
    },
  },
  {
    number: 79,
    title: "Data of 10,240 bytes accepted, of 10,241 refused with 413",
    async run(t) {
      const event = { name: "made", channel: t.name() };
      // A character of two bytes shows that bytes are counted.
      const data = "ä".padEnd(DATA_BYTES - 1, "x");
      accepts(await t.api.post("/events", { ...event, data }), "10,240 bytes");
      const over = await t.api.post("/events", { ...event, data: `${data}x` });
      refuses(over, 413, "10,241 bytes");
      return "200, 413";
    },
  },
  {
    number: 80,
    title: "socket_id leaves out that socket only; an unknown one is ignored",
    async run(t) {
      const channel = t.name();
      const [one, two] = [await t.joined(channel), await t.joined(channel)];
      await t.api.publish(channel, "made", "{}", { socket_id: one.socketId });
      await t.api.publish(channel, "more", "{}", { socket_id: "1.1" });
      const seen = (await t.before(channel, one, two))
        .map((frames) => frames.map(({ event }) => event));
      same(seen, [["more"], ["made", "more"]], "events");
      return "left out once; ignored";
    },
  },
  {
    number: 81,
    title: "info returns counts per distinct channel, fitting ones only",
    async run(t) {
      const [news, room] = [t.name(), t.name("presence-")];
      await t.joined(news);
      await t.joined(room, { user_id: "ann" });
      await t.joined(room, { user_id: "ann" });
      const { body } = await t.api.publish([news, room, news], "made", "{}", {
        info: "user_count,subscription_count",
      });
      const expected = {
        [news]: { subscription_count: 1 },
        [room]: { user_count: 1, subscription_count: 2 },
      };
      same(body, { channels: expected }, "answer");
      return "1; 1 user, 2 subscriptions";
    },
  },
  {
    number: 82,
    title: "Event names pusher: and pusher_internal: are refused with 400",
    async run(t) {
      const event = { channel: t.name(), data: "{}" };
      for (const name of ["pusher:made", "pusher_internal:made"]) {
        refuses(await t.api.post("/events", { ...event, name }), 400, name);
      }
      return "400, 400";
    },
  },
  {
    number: 83,
    title: "Batch of 10 in order, of 11 400; one bad item: nothing; info by " +
      "index",
    async run(t) {
      const channel = t.name();
      const socket = await t.joined(channel);
      const batch = Array.from(
        { length: EVENTS_PER_BATCH },
        (_, n) => ({ channel, name: `event-${n}`, data: "{}" }),
      );
      const post = (batch: unknown[]) => t.api.post("/batch_events", { batch });
      refuses(await post([...batch, batch[0]]), 400, "11 events");
      const [first, ...others] = batch;
      const { data: _, ...bad } = first!;
      refuses(await post([...others, bad]), 400, "an item without data");
      same(accepts(await post(batch), "10 events"), {}, "answer");
      const [frames] = await t.before(channel, socket);
      const names = frames!.map(({ event }) => event);
      same(names, batch.map(({ name }) => name), "events");
      const info = { ...first, info: "subscription_count" };
      const answer = accepts(await post([first, info]), "info");
      same(answer, { batch: [{}, { subscription_count: 1 }] }, "info");
      return "in order; 400, 400, nothing published; info aligned";
    },
  },
  {
    number: 84,
    title: "GET /channels: occupied ones, prefix, {} values; user_count " +
      "without presence prefix 400",
    async run(t) {
      const [room, news] = [t.name("presence-"), t.name()];
      const left = t.name("presence-");
      await t.joined(room, { user_id: "ann" });
      await t.joined(news);
      await (await t.joined(left, { user_id: "ann" })).leave(left);
      const listed = async (query: Record<string, string>) =>
        accepts(await t.api.get("/channels", query), show(query)).channels;
      const all = await listed({});
      same(all[room], {}, "value of an occupied channel");
      same([news in all, left in all], [true, false], "occupied");
      const filter_by_prefix = room;
      same(await listed({ filter_by_prefix }), { [room]: {} }, "filtered");
      const counted = await listed({ filter_by_prefix, info: "user_count" });
      same(counted, { [room]: { user_count: 1 } }, "counted");
      const info = "user_count";
      refuses(await t.api.get("/channels", { info }), 400, "user_count of all");
      const none = await t.api.get("/channels", { filter_by_prefix: t.name() });
      same(none.text, '{"channels":{}}', "empty answer");
      return "listed, filtered, counted; 400; empty object";
    },
  },
  {
    number: 85,
    title: "GET /channels/{c}: unoccupied 200 false; user_count on public " +
      "400; cache object, null, 400",
    async run(t) {
      const [news, cache] = [t.name(), t.name("cache-")];
      const get = (channel: string, info?: string) =>
        t.api.get(`/channels/${channel}`, { info: info ?? null });
      same(accepts(await get(news), "none"), { occupied: false }, "nobody");
      await t.joined(news);
      same(accepts(await get(news), "one"), { occupied: true }, "somebody");
      refuses(await get(news, "user_count"), 400, "user_count on public");
      refuses(await get(news, "cache"), 400, "cache on public");
      const empty = accepts(await get(cache, "cache"), "an empty cache");
      same(empty, { occupied: false, cache: null }, "empty cache");
      await t.api.publish(cache, "made", '"1"');
      const full = accepts(await get(cache, "cache"), "a full cache").cache;
      same(full?.data, '"1"', "cached data");
      const { ttl } = full;
      hold(Number.isInteger(ttl) && ttl > 0, `ttl is ${show(ttl)}`);
      return `false, true; 400; null, then ${show(full)}`;
    },
  },
  {
    number: 86,
    title: "GET users: distinct string ids; public 400; empty presence 200",
    async run(t) {
      const room = t.name("presence-");
      const get = (channel: string) => t.api.get(`/channels/${channel}/users`);
      same(accepts(await get(room), "empty"), { users: [] }, "empty channel");
      for (const user_id of ["ann", "ann", 7]) {
        await t.joined(room, { user_id });
      }
      const { users } = accepts(await get(room), "users");
      same(users, [{ id: "ann" }, { id: "7" }], "users");
      refuses(await get(t.name()), 400, "a public channel");
      return "[], then ann and 7; 400";
    },
  },
  {
    number: 87,
    title: "Every call of the SDK succeeds unmodified",
    async run(t) {
      const { sdk } = t;
      const [news, room] = [t.name(), t.name("presence-")];
      const [id, info] = [t.name(), "subscription_count"];
      const socket = await t.joined(news);
      await t.joined(room, { user_id: "ann" });
      const { socketId: socket_id } = socket;
      const item = { channel: news, name: "made", data: { n: 1 } };
      const path = `/channels/${room}`;
      const encrypted = t.name("private-encrypted-");
      const calls = {
        trigger: () => sdk.trigger(news, "made", { n: 1 }),
        "trigger to several": () =>
          sdk.trigger([news, room], "made", "text", { socket_id, info }),
        "trigger encrypted": () => sdk.trigger(encrypted, "made", {}),
        triggerBatch: () => sdk.triggerBatch([item, { ...item, info }]),
        "get channels": () => sdk.get({ path: "/channels" }),
        "get channel": () => sdk.get({ path, params: { info } }),
        "get users": () => sdk.get({ path: `${path}/users` }),
        sendToUser: () => sdk.sendToUser(id, "made", {}),
        terminateUserConnections: () => sdk.terminateUserConnections(id),
        "terminate with spaces": () => sdk.terminateUserConnections("a b"),
      };
      for (const [name, call] of Object.entries(calls)) {
        const response = await call().catch((error: Error) => {
          hold(false, `${name}: ${error.message}`);
        });
        same(response?.status, 200, name);
        await response?.json();
      }
      return `${Object.keys(calls).length} calls`;
    },
  },
  {
    number: 102,
    title:
      "socket_id of an item in a batch leaves out that socket of that item",
    async run(t) {
      const channel = t.name();
      const [one, two] = [await t.joined(channel), await t.joined(channel)];
      const item = (name: string, socket_id?: string) => ({
        channel,
        name,
        data: "{}",
        socket_id,
      });
      const batch = [
        item("to-two", one.socketId),
        item("to-one", two.socketId),
        item("to-both"),
      ];
      accepts(await t.api.post("/batch_events", { batch }), "the batch");
      const seen = (await t.before(channel, one, two))
        .map((frames) => frames.map(({ event }) => event));
      same(seen, [["to-one", "to-both"], ["to-two", "to-both"]], "events");
      return "each left out of its own item";
    },
  },
  {
    number: 103,
    title: "info as the PHP SDK sends it: items, signed as a list with commas",
    async run(t) {
      const room = t.name("presence-");
      await t.joined(room, { user_id: "ann" });
      const list = "subscription_count,user_count";
      const { params, ...request } = t.api.sign("GET", `/channels/${room}`, {
        query: { info: list },
      });
      const items = list.split(",")
        .map((name, n): [string, string] => [`info[${n}]`, name]);
      const sent = params.flatMap((pair): [string, string][] =>
        pair[0] === "info" ? items : [pair as [string, string]]
      );
      const answer = await t.api.send({ ...request, params: sent });
      const expected = { occupied: true, subscription_count: 1, user_count: 1 };
      same(accepts(answer, "the query"), expected, "answer");
      return "info[0], info[1]: both counts";
    },
  },
  {
    number: 107,
    title: "Several keys of one app: each connects, signs and permits",
    needs: { "old-key": "older-key:older-secret" },
    async run(t) {
      const [key, secret] = `${t.host.settings["old-key"]}`.split(":");
      hold(key !== undefined && secret !== undefined, "no key:secret");
      const older = { ...t.app, key, secret };
      const apps = [t.app, older];
      for (const app of apps) {
        const socket = await t.open({ app });
        const channel = t.name("private-");
        await socket.join(channel);
        for (const signing of apps) {
          const event = t.name("by-");
          const body = { name: event, channel, data: "{}" };
          accepts(await t.apiOf(signing).post("/events", body), signing.key);
          await socket.upTo(event);
        }
        // A permission may be signed with the other key.
        const other = app === older ? t.app : older;
        const next = t.name("private-");
        const auth = channelAuth(other, socket.socketId, next);
        await socket.join(next, { auth });
      }
      const crossed = { ...older, secret: t.app.secret };
      const { status } = await t.apiOf(crossed).get("/channels");
      same(status, 401, "status of a key with the other secret");
      return "2 keys";
    },
  },
  {
    number: 108,
    title: "info with blanks; fields of an event in the query beside {}",
    async run(t) {
      const room = t.name("presence-");
      const socket = await t.joined(room, { user_id: "ann" });
      const info = "subscription_count, user_count";
      const counts = accepts(
        await t.api.get(`/channels/${room}`, { info }),
        "info with a blank",
      );
      const expected = { occupied: true, subscription_count: 1, user_count: 1 };
      same(counts, expected, "counts");
      const event = t.name("made-");
      const query = { name: event, channel: room, data: "{}" };
      const request = t.api.sign("POST", "/events", { query, body: {} });
      accepts(await t.api.send(request), "fields in the query");
      await socket.upTo(event);
      return "both are read";
    },
  },
]]];
