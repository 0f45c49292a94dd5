/**
 * The client with servers that extend the protocol: batches, positions and recovery,
 * one authorization request for several channels. First against a fake server that
 * each test scripts, then against our own.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";

import type {
  Channel,
  ConnectionError,
  Frame,
  Position,
  PusherOptions,
} from "@glitz/pusher/client";
import { encryption } from "@glitz/pusher/encryption";
import nacl from "npm:tweetnacl@1.0.3";
import {
  Client,
  heard,
  joinReal,
  open,
  type Peer,
  RealServer,
  reconnect,
  record,
  Server,
  settled,
  subscription,
  until,
} from "../support/client.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { Queue } from "../support/queue.ts";

/** A server that grants every extension. */
function generous(): Server {
  const server = new Server();
  server.extensions = ["batch", "recover", "auth"];
  return server;
}

const at = (offset: number, epoch = "e"): Position => ({ epoch, offset });

/** Confirms a subscription. */
function confirm(peer: Peer, channel: string, rest: Partial<Frame> = {}): void {
  peer.send("pusher_internal:subscription_succeeded", {}, { channel, ...rest });
}

/** Subscribes; the server confirms it with a position. */
async function joinAt(
  { client, peer }: { client: Client; peer: Peer },
  name: string,
  position: Position,
): Promise<Channel> {
  const channel = client.pusher.subscribe(name);
  await peer.next();
  confirm(peer, name, { position });
  await settled(peer);
  assertEquals(channel.subscribed, true);
  return channel;
}

// ---- Asking -----------------------------------------------------------------

Deno.test("the URL asks for extensions, and names the last ten connections", async () => {
  await using server = new Server();
  using client = new Client(server);
  const ids: string[] = [];
  for (let i = 1; i <= 12; i++) {
    const peer = await server.accept();
    const { searchParams } = new URL(peer.request.url);
    assertEquals(searchParams.get("batch"), "1");
    assertEquals(searchParams.get("recover"), "1");
    const was = ids.slice(0, 10).join();
    assertEquals(searchParams.get("was"), i === 1 ? null : was);
    const id = `${i}.${i}`;
    const connected = client.heard("connected");
    peer.establish(id);
    await connected;
    ids.unshift(id);
    client.pusher.disconnect();
    client.pusher.connect();
  }
});

Deno.test("connection.extensions has the extensions that this connection's server grants", async () => {
  await using server = new Server();
  server.extensions = ["batch", "new"];
  using connection = await open(server);
  const { client } = connection;
  assertEquals([...client.pusher.connection.extensions], ["batch", "new"]);
  for (const odd of [undefined, null, 7, {}]) {
    // Whatever a server sends here, it grants no extension that the client knows.
    // deno-lint-ignore no-explicit-any -- no server of ours sends this
    server.extensions = odd as any;
    client.pusher.disconnect();
    client.pusher.connect();
    const connected = client.heard("connected");
    await server.establish();
    await connected;
    const { extensions } = client.pusher.connection;
    assert(!extensions.has("batch") && !extensions.has("recover"));
  }
});

Deno.test("a server without extensions gets only frames of the protocol", async () => {
  await using server = new Server();
  const asked: string[] = [];
  server.onRequest = async (request) => {
    asked.push(await request.text());
    return Response.json({ auth: "app-key:signature" });
  };
  using connection = await open(server, { authEndpoint: server.url("/auth") });
  const { client: { pusher }, peer } = connection;
  const channel = pusher.subscribe("a", { rewind: 3 });
  assertEquals(await peer.next(), subscription("a"));
  confirm(peer, "a");
  const events = record(channel);
  peer.send("x", 1, { channel: "a" });
  peer.send("x", 1, { channel: "a" });
  await settled(peer);
  assertEquals(events, [
    ["pusher:subscription_succeeded", {}],
    ["x", 1],
    ["x", 1],
  ]);
  pusher.subscribe("private-a");
  pusher.subscribe("private-b");
  for (const name of ["private-a", "private-b"]) {
    assertEquals((await peer.next()).data.channel, name);
  }
  assertEquals(asked, [
    "socket_id=1.1&channel_name=private-a",
    "socket_id=1.1&channel_name=private-b",
  ]);
  const next = await reconnect(server, connection);
  assertEquals(await next.next(), subscription("a"));
});

// ---- Batches ----------------------------------------------------------------

Deno.test("a batch is its frames in order", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client, peer } = connection;
  const frames = record(client.pusher);
  client.pusher.subscribe("a");
  await peer.next();
  peer.sendText(JSON.stringify([
    { event: "pusher_internal:subscription_succeeded", channel: "a" },
    { event: "x", channel: "a", data: '{"y":1}' },
    { event: "x", channel: "a", data: "plain" },
    { event: "x", channel: "b", data: { y: 2 } },
  ]));
  peer.sendText("[]");
  peer.send("x", 3);
  await settled(peer);
  assertEquals(frames.slice(0, 4), [
    ["x", { y: 1 }],
    ["x", "plain"],
    ["x", { y: 2 }],
    ["x", 3],
  ]);
  assertEquals(client.dataOf("error"), []);
});

Deno.test("an item of a batch that is no frame is reported, and the rest is heard", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client, peer } = connection;
  const frames = record(client.pusher);
  const text = '[{"event":"x"},null,7,{"event":7},{"event":"y"}]';
  peer.sendText(text);
  await settled(peer);
  assertEquals(frames.map(([event]) => event).slice(0, 2), ["x", "y"]);
  const errors = client.dataOf("error") as ConnectionError[];
  assertEquals(
    errors.map((error) => error.type === "MessageParseError" && error.data),
    [text, text, text],
  );
});

Deno.test("a batch ends when a handler disconnects, and the rest is recovered later", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const channel = await joinAt(connection, "a", at(4));
  const events: unknown[] = [];
  channel.bind("x", (data) => {
    events.push(data);
    pusher.disconnect();
  });
  peer.sendText(JSON.stringify([
    { event: "x", channel: "a", data: "1", offset: 5 },
    { event: "x", channel: "a", data: "2", offset: 6 },
  ]));
  await within(DEADLINE_MS, "close", peer.closed);
  assertEquals(events, [1]);
  pusher.connect();
  const next = await server.establish("2.2");
  assertEquals(await next.next(), subscription("a", { recover: at(5) }));
});

// ---- Positions --------------------------------------------------------------

Deno.test("a subscription is recovered from the last event, and nothing is delivered twice", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const channel = await joinAt(connection, "a", at(10));
  const events = record(channel);
  const all = record(pusher);
  const send = (to: Peer, data: unknown, offset?: number) =>
    to.send("x", data, { channel: "a", ...offset && { offset } });
  send(peer, "old", 10);
  send(peer, "b", 12);
  send(peer, "again", 12);
  send(peer, "older", 3);
  send(peer, "unnumbered");
  send(peer, "c", 15);
  await settled(peer);
  const texts: [string, unknown][] = [["x", "b"], ["x", "unnumbered"], [
    "x",
    "c",
  ]];
  assertEquals(events, texts);
  assertEquals(all.filter(([event]) => event === "x"), texts);

  const next = await reconnect(server, connection);
  assertEquals(await next.next(), subscription("a", { recover: at(15) }));
  events.length = 0;
  confirm(next, "a", { position: at(15), recovered: true });
  for (const offset of [15, 16, 16, 18]) send(next, offset, offset);
  await settled(next);
  assertEquals(events, [
    ["pusher:subscription_succeeded", {}],
    ["x", 16],
    ["x", 18],
  ]);
});

Deno.test("pusher:recovery_failed is heard, and later offsets count from the new position", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client: { pusher } } = connection;
  const channel = await joinAt(connection, "a", at(900));
  const next = await reconnect(server, connection);
  assertEquals(await next.next(), subscription("a", { recover: at(900) }));
  const failed = [channel, pusher].map((emitter) =>
    heard(emitter, "pusher:recovery_failed")
  );
  const events = record(channel);
  confirm(next, "a", { position: at(2, "f"), recovered: false });
  next.send("pusher:recovery_failed", { channel: "a" }, { channel: "a" });
  next.send("x", 1, { channel: "a", offset: 3 });
  assertEquals(await Promise.all(failed), [{ channel: "a" }, { channel: "a" }]);
  await settled(next);
  assertEquals(events.map(([event]) => event), [
    "pusher:subscription_succeeded",
    "pusher:recovery_failed",
    "x",
  ]);
  assertEquals(pusher.positions.get("a"), at(3, "f"));
});

Deno.test("pusher:recovery_failed on a live connection moves the position, also to lower offsets", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  const channel = await joinAt(connection, "a", at(900));
  const position = at(17, "f");
  const positionsThen: unknown[] = [];
  channel.bind("pusher:recovery_failed", () => {
    positionsThen.push(pusher.positions.get("a"));
  });
  const events = record(channel);
  const all = record(pusher);
  const send = (to: Peer, offset: number) =>
    to.send("x", offset, { channel: "a", offset });
  send(peer, 901);
  peer.send("pusher:recovery_failed", { channel: "a" }, {
    channel: "a",
    position,
  });
  for (const offset of [16, 17, 18, 18, 20]) send(peer, offset);
  await settled(peer);
  const expected: [string, unknown][] = [
    ["x", 901],
    ["pusher:recovery_failed", { channel: "a" }],
    ["x", 18],
    ["x", 20],
  ];
  assertEquals(events, expected);
  assertEquals(all.filter(([event]) => event !== "pusher:ping"), expected);
  assertEquals(positionsThen, [position]);

  const next = await reconnect(server, connection);
  const recover = at(20, "f");
  assertEquals(await next.next(), subscription("a", { recover }));
  confirm(next, "a", { position: recover, recovered: true });
  for (const offset of [20, 21]) send(next, offset);
  await settled(next);
  assertEquals(events.at(-2), ["pusher:subscription_succeeded", {}]);
  assertEquals(events.at(-1), ["x", 21]);
});

Deno.test("pusher:recovery_failed leaves other channels and channels that were left alone", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  for (const name of ["a", "b", "left"]) {
    await joinAt(connection, name, at(7));
  }
  pusher.unsubscribe("left");
  for (const channel of ["b", "left", "never", "#server-to-user-ann"]) {
    const position = at(1, "f");
    peer.send("pusher:recovery_failed", { channel }, { channel, position });
  }
  await peer.framesUntilPong();
  assertEquals([...pusher.positions], [["a", at(7)], ["b", at(1, "f")]]);
});

Deno.test("a repeated confirmation without a position changes nothing", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  await joinAt(connection, "a", at(4));
  peer.send("x", 1, { channel: "a", offset: 5 });
  confirm(peer, "a");
  await settled(peer);
  assertEquals(pusher.positions.get("a"), at(5));
});

Deno.test("positions survive disconnect(), and end with unsubscribe()", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client: { pusher }, peer } = connection;
  for (const name of ["kept", "left", "left-away"]) {
    await joinAt(connection, name, at(7));
  }
  pusher.unsubscribe("left");
  await peer.framesUntilPong();
  pusher.disconnect();
  pusher.unsubscribe("left-away");
  assertEquals([...pusher.positions.keys()], ["kept"]);
  pusher.subscribe("left");
  pusher.connect();
  const next = await server.establish("2.2");
  assertEquals(await next.framesUntilPong(), [
    subscription("kept", { recover: at(7) }),
    subscription("left"),
  ]);
  // Unsubscribed before the server has answered.
  pusher.unsubscribe("kept");
  confirm(next, "kept", { position: at(7), recovered: true });
  assertEquals(await next.framesUntilPong(), [
    { event: "pusher:unsubscribe", data: { channel: "kept" } },
  ]);
  // Unsubscribed before the connection is lost.
  pusher.unsubscribe("left");
  pusher.disconnect();
  assertEquals([...pusher.positions.keys()], []);
  assertEquals(pusher.allChannels(), []);
});

Deno.test("positions are forgotten with a server that keeps no history", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client, client: { pusher } } = connection;
  await joinAt(connection, "a", at(7));
  server.extensions = ["batch"];
  const next = await reconnect(server, connection);
  assertEquals(await next.next(), subscription("a"));
  confirm(next, "a");
  await settled(next);
  server.extensions = ["recover"];
  const last = await reconnect(server, { client, peer: next }, "3.3");
  assertEquals(await last.next(), subscription("a"));
  assertEquals(pusher.positions.size, 0);
});

Deno.test("private and presence channels are recovered with their permission", async () => {
  await using server = generous();
  const channel_data = '{"user_id":"ann"}';
  using connection = await open(server, {
    channelAuthorization: {
      customHandler: ({ socketId }, callback) =>
        callback(null, { auth: `app-key:${socketId}`, channel_data }),
    },
  });
  const names = ["private-a", "presence-a", "private-cache-a"];
  for (const name of names) await joinAt(connection, name, at(3));
  const next = await reconnect(server, connection);
  const frames = [];
  for (const _ of names) frames.push(await next.next());
  assertEquals(
    frames,
    names.map((channel) => ({
      event: "pusher:subscribe",
      data: {
        auth: "app-key:2.2",
        channel_data,
        channel,
        recover: at(3),
      },
    })),
  );
});

Deno.test("subscribe() asks for the last events, and for them again if recovery fails", async () => {
  await using server = generous();
  using connection = await open(server);
  const { client, client: { pusher }, peer } = connection;
  const channel = pusher.subscribe("a", { rewind: 5 });
  assertEquals(await peer.next(), subscription("a", { rewind: 5 }));
  confirm(peer, "a", { position: at(2) });
  const events = record(channel);
  for (const offset of [3, 4]) {
    peer.send("x", offset, { channel: "a", offset });
  }
  await settled(peer);
  assertEquals(events.slice(-2), [["x", 3], ["x", 4]]);
  // Without the option `rewind` stays as it is.
  pusher.subscribe("a");
  const next = await reconnect(server, connection);
  assertEquals(
    await next.next(),
    subscription("a", { recover: at(4), rewind: 5 }),
  );
  pusher.subscribe("a", { rewind: 1 });
  const last = await reconnect(server, { client, peer: next }, "3.3");
  assertEquals(
    await last.next(),
    subscription("a", { recover: at(4), rewind: 1 }),
  );
});

// ---- User -------------------------------------------------------------------

/** Options that authenticate the user as the first user in the list. */
const asFirst = (ids: string[]): PusherOptions => ({
  userAuthentication: {
    customHandler: (_request, callback) => {
      const user_data = JSON.stringify({ id: ids[0] });
      callback(null, { auth: "app-key:signature", user_data });
    },
  },
});

/** Confirms a sign-in with a position; returns the position that was asked for. */
async function welcome(peer: Peer, position?: Position): Promise<unknown> {
  const { event, data } = await peer.next();
  assertEquals(event, "pusher:signin");
  const { user_data } = data;
  const rest = position && { position, recovered: true };
  peer.send("pusher:signin_success", { user_data }, rest);
  const channel = `#server-to-user-${JSON.parse(user_data).id}`;
  assertEquals(await peer.next(), subscription(channel));
  return data.recover;
}

Deno.test("events of the user are recovered, and not delivered twice", async () => {
  await using server = generous();
  const ids = ["ann"];
  using connection = await open(server, asFirst(ids));
  const { client, client: { pusher }, peer } = connection;
  const events = record(pusher.user);
  const send = (to: Peer, offset: number) =>
    to.send("x", offset, { channel: "#server-to-user-ann", offset });
  pusher.signin();
  assertEquals(await welcome(peer, at(10)), undefined);
  for (const offset of [11, 11, 13]) send(peer, offset);
  await settled(peer);

  const next = await reconnect(server, connection);
  assertEquals(await welcome(next, at(13)), at(13));
  for (const offset of [13, 14]) send(next, offset);
  await settled(next);
  assertEquals(events, [["x", 11], ["x", 13], ["x", 14]]);

  // The position belongs to the former user.
  ids[0] = "bob";
  const other = await reconnect(server, { client, peer: next }, "3.3");
  assertEquals(await welcome(other, at(2)), undefined);
  const failed = heard(pusher, "pusher:recovery_failed");
  const channel = "#server-to-user-bob";
  other.send("pusher:recovery_failed", { channel }, { channel });
  assertEquals(await failed, { channel });
});

Deno.test("pusher:recovery_failed on a live connection moves the position of the user", async () => {
  await using server = generous();
  using connection = await open(server, asFirst(["ann"]));
  const { client: { pusher }, peer } = connection;
  const events = record(pusher.user);
  const channel = "#server-to-user-ann";
  const send = (to: Peer, offset: number) =>
    to.send("x", offset, { channel, offset });
  pusher.signin();
  await welcome(peer, at(900));
  send(peer, 901);
  const failed = heard(pusher, "pusher:recovery_failed");
  const position = at(17, "f");
  peer.send("pusher:recovery_failed", { channel }, { channel, position });
  assertEquals(await failed, { channel });
  // A position of another user changes nothing.
  const other = { channel: "#server-to-user-bob", position: at(50, "f") };
  peer.send("pusher:recovery_failed", { channel: other.channel }, other);
  for (const offset of [16, 17, 18, 18, 20]) send(peer, offset);
  await settled(peer);
  assertEquals(events, [["x", 901], ["x", 18], ["x", 20]]);

  const next = await reconnect(server, connection);
  assertEquals(await welcome(next, at(20, "f")), at(20, "f"));
  for (const offset of [20, 21]) send(next, offset);
  await settled(next);
  assertEquals(events.slice(3), [["x", 21]]);
});

// ---- Encrypted channels -----------------------------------------------------

const ENCRYPTED = "private-encrypted-a";

/** Two secrets; the client first has the first. */
const SECRETS = [1, 2].map((byte) => new Uint8Array(32).fill(byte));
const [OLD_SECRET = "", NEW_SECRET = ""] = SECRETS.map(toBase64);

function toBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}

/** Options by which the test answers each authorization request with a secret. */
function askingFor(asked: Queue<(secret: string) => void>): PusherOptions {
  return {
    nacl,
    channelAuthorization: {
      customHandler: (_request, callback) =>
        asked.push((shared_secret) =>
          callback(null, { auth: "app-key:signature", shared_secret })
        ),
    },
  };
}

/** Sends an encrypted event whose data is its offset. */
function sendEncrypted(peer: Peer, offset: number, secret: number): void {
  const nonce = new Uint8Array(24).fill(offset);
  const content = new TextEncoder().encode(String(offset));
  const box = nacl.secretbox(content, nonce, SECRETS[secret]!);
  const data = { ciphertext: toBase64(box), nonce: toBase64(nonce) };
  peer.send("x", data, { channel: ENCRYPTED, offset });
}

Deno.test("encrypted events that wait for a secret are recovered after a reconnect", async () => {
  await using server = generous();
  const asked = new Queue<(secret: string) => void>();
  using connection = await open(server, askingFor(asked));
  const { client: { pusher }, peer } = connection;
  const name = ENCRYPTED;
  const channel = pusher.subscribe(name);
  const events = record(channel);
  (await asked.next("request"))(OLD_SECRET);
  await peer.next();
  confirm(peer, name, { position: at(4) });
  sendEncrypted(peer, 5, 0);
  sendEncrypted(peer, 7, 1);
  sendEncrypted(peer, 8, 1);
  // The connection is lost before the new secret comes.
  await asked.next("request");
  await settled(peer);
  const next = await reconnect(server, connection);
  (await asked.next("request"))(NEW_SECRET);
  const { data } = await next.next();
  assertEquals(data.recover, at(6));
  confirm(next, name, { position: data.recover, recovered: true });
  for (const offset of [7, 8]) sendEncrypted(next, offset, 1);
  await settled(next);
  assertEquals(
    events.filter(([event]) => event === "x").map(([, offset]) => offset),
    [5, 7, 8],
  );
});

/** Offsets after pusher:recovery_failed, and the position that the client asks for. */
const HELD_EPOCHS: [after: number[], recover: Position][] = [
  [[], at(17, "f")],
  [[18, 19], at(17, "f")],
  [[30, 31], at(29, "f")],
];

for (const [after, recover] of HELD_EPOCHS) {
  Deno.test(`encrypted events that wait for a secret across pusher:recovery_failed, then ${after.length ? after : "nothing"}, are recovered from ${recover.offset}`, async () => {
    await using server = generous();
    const asked = new Queue<(secret: string) => void>();
    using connection = await open(server, askingFor(asked));
    const { client: { pusher }, peer } = connection;
    pusher.subscribe(ENCRYPTED);
    (await asked.next("request"))(OLD_SECRET);
    await peer.next();
    confirm(peer, ENCRYPTED, { position: at(100) });
    sendEncrypted(peer, 101, 1);
    await asked.next("request");
    peer.send("pusher:recovery_failed", { channel: ENCRYPTED }, {
      channel: ENCRYPTED,
      position: at(17, "f"),
    });
    for (const offset of after) sendEncrypted(peer, offset, 1);
    await settled(peer);
    const next = await reconnect(server, connection);
    (await asked.next("request"))(NEW_SECRET);
    assertEquals((await next.next()).data.recover, recover);
  });
}

// ---- Authorization of several channels --------------------------------------

/** An auth endpoint that records its requests. */
class Endpoint {
  readonly asked: URLSearchParams[] = [];
  answer: (names: string[], form: URLSearchParams) => Response = (names) =>
    Response.json({
      channels: Object.fromEntries(names.map((name) => [name, permit(name)])),
    });

  constructor(server: Server) {
    server.onRequest = async (request) => {
      const form = new URLSearchParams(await request.text());
      this.asked.push(form);
      const names = form.getAll("channel_name[]");
      if (names.length > 0) return this.answer(names, form);
      return Response.json(permit(form.get("channel_name") ?? ""));
    };
  }

  /** The channels of each request: a name, or several. */
  get requested(): (string | string[] | null)[] {
    return this.asked.map((form) => {
      const names = form.getAll("channel_name[]");
      return names.length > 0 ? names : form.get("channel_name");
    });
  }
}

const permit = (name: string) => ({
  auth: `app-key:${name}`,
  ...name.startsWith("presence-") && { channel_data: '{"user_id":"ann"}' },
});

/** The channels of the next subscriptions, which must be authorized. */
async function subscriptions(peer: Peer, count: number): Promise<string[]> {
  const names = [];
  for (let i = 0; i < count; i++) {
    const { data: { channel, auth } } = await peer.next();
    assertEquals(auth, `app-key:${channel}`);
    names.push(channel);
  }
  return names;
}

const NAMES = ["private-a", "presence-b", "private-c"];

Deno.test("channels of one turn, and all after a reconnect, share an authorization request", async () => {
  await using server = generous();
  const endpoint = new Endpoint(server);
  using connection = await open(server, {
    channelAuthorization: {
      endpoint: server.url("/auth"),
      batch: true,
      params: { token: "t" },
    },
  });
  const { client: { pusher }, peer } = connection;
  for (const name of NAMES) pusher.subscribe(name);
  pusher.subscribe("public");
  assertEquals(await peer.next(), subscription("public"));
  assertEquals(await subscriptions(peer, 3), NAMES);
  pusher.subscribe("private-d");
  assertEquals(await subscriptions(peer, 1), ["private-d"]);
  assertEquals(endpoint.requested, [NAMES, "private-d"]);
  const [several, single] = endpoint.asked;
  assertEquals(several?.get("socket_id"), "1.1");
  assertEquals(several?.get("token"), "t");
  assertEquals(several?.get("channel_name"), null);
  assertEquals(String(single), "socket_id=1.1&channel_name=private-d&token=t");

  const next = await reconnect(server, connection);
  assertEquals((await next.next()).data.channel, "public");
  assertEquals(await subscriptions(next, 4), [...NAMES, "private-d"]);
  assertEquals(endpoint.requested.slice(2), [[...NAMES, "private-d"]]);
  assertEquals(endpoint.asked.at(-1)?.get("socket_id"), "2.2");
});

/** An endpoint of the program's own that can authorize several channels. */
function together(server: Server): PusherOptions {
  const endpoint = server.url("/auth");
  return { channelAuthorization: { endpoint, batch: true } };
}

Deno.test("an endpoint of the program's own is asked for each channel, unless an option says otherwise", async () => {
  await using server = generous();
  const endpoint = new Endpoint(server);
  const options: PusherOptions[] = [
    { authEndpoint: server.url("/auth") },
    { channelAuthorization: { endpoint: server.url("/auth") } },
    { channelAuthorization: { endpoint: server.url("/auth"), batch: false } },
  ];
  for (const given of options) {
    endpoint.asked.length = 0;
    using connection = await open(server, given);
    const { client: { pusher }, peer } = connection;
    assert(pusher.connection.extensions.has("auth"));
    for (const name of NAMES) pusher.subscribe(name);
    assertEquals(await subscriptions(peer, 3), NAMES);
    const next = await reconnect(server, connection);
    assertEquals(await subscriptions(next, 3), NAMES);
    assertEquals(endpoint.requested, [...NAMES, ...NAMES]);
  }
});

/** Answers of endpoints that cannot authorize several channels. */
const FOREIGN: [title: string, answer: () => Response][] = [
  ["a permission", () => Response.json({ auth: "app-key:x" })],
  ["nothing", () => Response.json(null)],
  ["no JSON", () => new Response("ok")],
  ["a refusal", () => new Response("no", { status: 403 })],
  ["a failure", () => new Response("no", { status: 500 })],
];

for (const [title, answer] of FOREIGN) {
  Deno.test(`an endpoint that answers with ${title} is asked for each, also after a reconnect`, async () => {
    await using server = generous();
    const endpoint = new Endpoint(server);
    endpoint.answer = answer;
    using connection = await open(server, together(server));
    const { client: { pusher }, peer } = connection;
    for (const name of NAMES) pusher.subscribe(name);
    assertEquals((await subscriptions(peer, 3)).sort(), [...NAMES].sort());
    for (const name of ["private-d", "private-e"]) pusher.subscribe(name);
    await subscriptions(peer, 2);
    const [first, ...rest] = endpoint.requested;
    assertEquals(first, NAMES);
    assertEquals(rest.sort(), [...NAMES, "private-d", "private-e"].sort());
    endpoint.asked.length = 0;
    const next = await reconnect(server, connection);
    await subscriptions(next, 5);
    const all = [...NAMES, "private-d", "private-e"];
    assertEquals(endpoint.requested.sort(), all.sort());
  });
}

Deno.test("each channel has its own answer, be it an error", async () => {
  await using server = generous();
  const endpoint = new Endpoint(server);
  endpoint.answer = () =>
    Response.json({
      channels: {
        "private-a": permit("private-a"),
        "presence-b": { error: "not you", status: 403 },
        "private-c": {},
      },
    });
  using connection = await open(server, together(server));
  const { client: { pusher }, peer } = connection;
  pusher.subscribe("private-a");
  const refused = ["presence-b", "private-c", "private-d"];
  const errors = refused.map((name) =>
    heard(pusher.subscribe(name), "pusher:subscription_error")
  );
  assertEquals(await subscriptions(peer, 1), ["private-a"]);
  const type = "AuthError";
  assertEquals(await Promise.all(errors), [
    { type, error: "not you", status: 403 },
    { type, error: "no auth in answer" },
    { type, error: "no auth in answer" },
  ]);
  assertEquals(pusher.channel("presence-b")?.subscriptionPending, false);
  assertEquals(endpoint.asked.length, 1);
  await settled(peer);
});

Deno.test("channels that share an authorization request fail together", async () => {
  await using server = generous();
  // Without a page the relative URL of the endpoint is invalid.
  using connection = await open(server, {
    channelAuthorization: { endpoint: "/auth", batch: true },
  });
  const { client: { pusher } } = connection;
  const errors = await Promise.all(
    NAMES.map((name) =>
      heard(pusher.subscribe(name), "pusher:subscription_error")
    ),
  );
  for (const { type, error, status } of errors) {
    assertEquals([type, status], ["AuthError", 0]);
    assertStringIncludes(error, "Cannot be authorized by /auth");
  }
});

Deno.test("functions of the program are asked for each channel", async () => {
  await using server = generous();
  for (const isDeprecated of [false, true]) {
    const asked: string[] = [];
    const options: PusherOptions = isDeprecated
      ? {
        authorizer: ({ name }) => ({
          authorize: (_socketId, callback) => {
            asked.push(name);
            callback(null, permit(name));
          },
        }),
      }
      : {
        channelAuthorization: {
          customHandler: ({ channelName }, callback) => {
            asked.push(channelName);
            callback(null, permit(channelName));
          },
        },
      };
    using connection = await open(server, options);
    const { client: { pusher }, peer } = connection;
    for (const name of NAMES) pusher.subscribe(name);
    assertEquals(await subscriptions(peer, 3), NAMES);
    assertEquals(asked, NAMES);
  }
});

Deno.test("a new secret has an authorization request of its own", async () => {
  await using server = generous();
  const endpoint = new Endpoint(server);
  const shared_secret = btoa("a".repeat(32));
  const names = ["private-encrypted-a", "private-encrypted-b"];
  endpoint.answer = (requested) =>
    Response.json({
      channels: Object.fromEntries(
        requested.map((name) => [name, { ...permit(name), shared_secret }]),
      ),
    });
  using connection = await open(server, {
    nacl,
    ...together(server),
  });
  const { client: { pusher }, peer } = connection;
  for (const name of names) pusher.subscribe(name);
  await subscriptions(peer, 2);
  for (const name of names) confirm(peer, name);
  const box = { nonce: btoa("n".repeat(24)), ciphertext: btoa("c".repeat(32)) };
  peer.sendText(
    JSON.stringify(
      names.map((channel) => ({ event: "x", channel, data: box })),
    ),
  );
  await until(() => endpoint.asked.length === 3);
  assertEquals(endpoint.requested, [names, ...names]);
});

Deno.test("disconnect() aborts an authorization request", async () => {
  using time = new FakeTime();
  await using server = generous();
  const arrived = new Queue<void>();
  const givenUp = new Queue<void>();
  server.onRequest = () => {
    arrived.push();
    return new Response(new ReadableStream({ cancel: () => givenUp.push() }));
  };
  using connection = await open(server, {
    authEndpoint: server.url("/auth"),
    userAuthentication: { endpoint: server.url("/user-auth") },
  });
  const { client: { pusher } } = connection;
  pusher.signin();
  const events = [record(pusher.user)];
  for (const name of NAMES) events.push(record(pusher.subscribe(name)));
  await arrived.next("question about the user");
  await arrived.next("question about the channels");
  pusher.disconnect();
  await givenUp.next("end of a request");
  await givenUp.next("end of the other request");
  assertEquals(events.flat(), []);
  assertEquals(time.next(), false);
});

// ---- Our own server ---------------------------------------------------------

/** Disconnects, runs a function and connects again. */
async function comeBack(client: Client, meanwhile: () => void): Promise<void> {
  const { pusher } = client;
  pusher.disconnect();
  meanwhile();
  pusher.connect();
  await client.heard("connected");
}

/** The data of all events with a name. */
const dataOf = (events: [event: string, data: unknown][], event: string) =>
  events.filter(([name]) => name === event).map(([, data]) => data);

Deno.test("events that a client missed come in order and once, from our own server", async () => {
  await using server = new RealServer();
  using client = await server.connect();
  using other = await server.connect();
  const { extensions } = client.pusher.connection;
  for (const name of ["batch", "recover"]) assert(extensions.has(name), name);
  assert(!extensions.has("auth"));
  const channel = await joinReal(client, "a");
  await joinReal(other, "a");
  const events = record(channel);
  const publish = (data: number) => server.pusher.trigger("a", "x", data);
  const expected: number[] = [];
  for (let round = 0; round < 5; round++) {
    const first = expected.length;
    for (let i = 0; i < 10; i++) expected.push(first + i);
    publish(first);
    publish(first + 1);
    await until(() => dataOf(events, "x").length === first + 2);
    await comeBack(client, () => {
      for (let i = 2; i < 7; i++) publish(first + i);
    });
    for (let i = 7; i < 10; i++) publish(first + i);
    await until(() => dataOf(events, "x").length === first + 10);
  }
  assertEquals(dataOf(events, "x"), expected);
  assertEquals(dataOf(events, "pusher:recovery_failed"), []);
});

Deno.test("pusher:recovery_failed of our own server, if its history does not reach back", async () => {
  await using server = new RealServer({ history: { events: 3 } });
  using client = await server.connect();
  using other = await server.connect();
  await joinReal(other, "a");
  const channel = await joinReal(client, "a", { rewind: 2 });
  const events = record(channel);
  const failed = heard(client.pusher, "pusher:recovery_failed");
  await comeBack(client, () => {
    for (let i = 0; i < 10; i++) server.pusher.trigger("a", "x", i);
  });
  assertEquals(await failed, { channel: "a" });
  server.pusher.trigger("a", "x", 10);
  await until(() => dataOf(events, "x").includes(10));
  assertEquals(dataOf(events, "x"), [8, 9, 10]);
});

Deno.test("rewind brings the last events of our own server first", async () => {
  await using server = new RealServer();
  using client = await server.connect();
  const early = await joinReal(client, "a");
  const heardEarly = record(early);
  for (let i = 0; i < 5; i++) server.pusher.trigger("a", "x", i);
  await until(() => heardEarly.length === 5);
  using late = await server.connect();
  const channel = late.pusher.subscribe("a", { rewind: 3 });
  const events = record(channel);
  await until(() => dataOf(events, "x").length === 3);
  server.pusher.trigger("a", "x", 5);
  await until(() => dataOf(events, "x").length === 4);
  assertEquals(events, [
    ["pusher:subscription_succeeded", {}],
    ["x", 2],
    ["x", 3],
    ["x", 4],
    ["x", 5],
  ]);
});

Deno.test("a client does not receive events that it caused on an earlier connection", async () => {
  await using server = new RealServer({
    clientEvents: true,
    authorize: () => true,
  });
  using client = await server.connect();
  using other = await server.connect();
  const channel = await joinReal(client, "private-a");
  const events = record(channel);
  const otherEvents = record(await joinReal(other, "private-a"));
  channel.trigger("client-x", "mine");
  await until(() => dataOf(otherEvents, "client-x").length === 1);
  const { socket_id } = client.pusher.connection;
  await comeBack(client, () => {
    server.pusher.trigger("private-a", "x", "caused", { socket_id });
    other.pusher.channel("private-a")?.trigger("client-x", "theirs");
  });
  await until(() => dataOf(events, "client-x").length === 1);
  server.pusher.trigger("private-a", "x", "last");
  await until(() => dataOf(events, "x").includes("last"));
  assertEquals(dataOf(events, "client-x"), ["theirs"]);
  assertEquals(dataOf(events, "x"), ["last"]);
});

Deno.test("events to the user are recovered from our own server", async () => {
  await using server = new RealServer({ authenticate: () => ({ id: "ann" }) });
  using client = await server.connect();
  const { user } = client.pusher;
  const events = record(user);
  client.pusher.signin();
  await user.signinDonePromise;
  server.pusher.sendToUser("ann", "x", 1);
  await until(() => events.length === 1);
  await comeBack(client, () => {
    for (const i of [2, 3]) server.pusher.sendToUser("ann", "x", i);
  });
  await until(() => events.length === 3);
  server.pusher.sendToUser("ann", "x", 4);
  await until(() => events.length === 4);
  assertEquals(dataOf(events, "x"), [1, 2, 3, 4]);
});

Deno.test("our own server is asked once for the channels of a turn", async () => {
  let ids = 0;
  await using server = new RealServer({
    authorize(_request, { channel }) {
      if (channel.endsWith("closed")) return false;
      return channel.startsWith("presence-") ? { user_id: ++ids } : true;
    },
  });
  using client = await server.connect();
  assert(client.pusher.connection.extensions.has("auth"));
  const names = ["private-a", "presence-b", "private-c"];
  const { pusher } = client;
  const joined = names.map((name) => joinReal(client, name));
  const refused = heard(
    pusher.subscribe("private-closed"),
    "pusher:subscription_error",
  );
  await Promise.all(joined);
  const { type, status } = await refused;
  assertEquals([type, status], ["AuthError", 403]);
  assertEquals(server.asked, ["/pusher/auth"]);
  const again = names.map((name) =>
    heard(pusher.channel(name)!, "pusher:subscription_succeeded")
  );
  pusher.unsubscribe("private-closed");
  await comeBack(client, () => server.pusher.trigger("private-a", "x", 1));
  await Promise.all(again);
  assertEquals(server.asked, ["/pusher/auth", "/pusher/auth"]);
});

Deno.test("encrypted events are recovered from our own server", async () => {
  await using server = new RealServer({
    encryption: encryption({ masterKeyBase64: btoa("k".repeat(32)) }),
    authorize: () => true,
  });
  using client = await server.connect({ nacl });
  using other = await server.connect({ nacl });
  const name = "private-encrypted-a";
  await joinReal(other, name);
  const events = record(await joinReal(client, name));
  await comeBack(client, () => {
    for (const i of [1, 2]) server.pusher.trigger(name, "x", { i });
  });
  await until(() => dataOf(events, "x").length === 2);
  assertEquals(dataOf(events, "x"), [{ i: 1 }, { i: 2 }]);
});

Deno.test("our own server without a history grants no recovery", async () => {
  await using server = new RealServer({ history: false });
  using client = await server.connect();
  assertEquals([...client.pusher.connection.extensions], ["batch"]);
  const events = record(await joinReal(client, "a", { rewind: 5 }));
  await comeBack(client, () => server.pusher.trigger("a", "x", 1));
  await heard(client.pusher.channel("a")!, "pusher:subscription_succeeded");
  server.pusher.trigger("a", "x", 2);
  await until(() => dataOf(events, "x").length > 0);
  assertEquals(dataOf(events, "x"), [2]);
  assertEquals(client.pusher.positions.size, 0);
});

Deno.test("the cached event of a cache channel comes once, from our own server", async () => {
  await using server = new RealServer();
  using client = await server.connect();
  const events = record(client.pusher.subscribe("cache-a"));
  await until(() => dataOf(events, "pusher:cache_miss").length === 1);
  for (const i of [1, 2]) server.pusher.trigger("cache-a", "x", i);
  await until(() => dataOf(events, "x").length === 2);
  using late = await server.connect();
  const lateEvents = record(late.pusher.subscribe("cache-a"));
  await until(() => dataOf(lateEvents, "x").length === 1);
  await comeBack(client, () => server.pusher.trigger("cache-a", "x", 3));
  await until(() => dataOf(events, "x").length === 3);
  server.pusher.trigger("cache-a", "x", 4);
  await until(() => dataOf(events, "x").length === 4);
  assertEquals(dataOf(events, "x"), [1, 2, 3, 4]);
  assertEquals(dataOf(lateEvents, "x"), [2, 3, 4]);
  assertEquals(dataOf(events, "pusher:cache_miss").length, 1);
});
