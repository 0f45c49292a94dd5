/**
 * Encrypted channels of the client, against a fake server that each test scripts.
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { type Channel, Pusher } from "@glitz/pusher/client";
import nacl from "npm:tweetnacl@1.0.3";
import {
  AUTH,
  type Client,
  heard,
  open,
  type Peer,
  reconnect,
  record,
  Server,
  settled,
  subscription,
} from "../support/client.ts";
import { Queue } from "../support/queue.ts";

/** Vector E1 of the protocol. */
const E1 = {
  channel: "private-encrypted-foobar",
  shared_secret: "g3Au6SZ+UCU+IMfFsFva0rq+Gi4tzSHR6WCcWZbS9sY=",
  box: {
    nonce: "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZX",
    ciphertext: "3px9F2rmDj9/a0O15483opw5S9pIl2OLUKMD1kF3Ye8D4hsgyAt8F08=",
  },
  data: { message: "hello world" },
};

/** Another secret for that channel. */
const NEW_SECRET = toBase64(new Uint8Array(32).fill(7));

function toBase64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}

/** Encrypts a text as a server does. */
function encrypted(text: string, secret = E1.shared_secret): typeof E1.box {
  const nonce = nacl.randomBytes(nacl.secretbox.nonceLength);
  const box = nacl.secretbox(
    new TextEncoder().encode(text),
    nonce,
    Uint8Array.from(atob(secret), (char) => char.charCodeAt(0)),
  );
  return { nonce: toBase64(nonce), ciphertext: toBase64(box) };
}

/** Flips one bit. */
function tampered({ nonce, ciphertext }: typeof E1.box): typeof E1.box {
  const first = ciphertext.startsWith("3") ? "2" : "3";
  return { nonce, ciphertext: first + ciphertext.slice(1) };
}

/** A client on the channel of the vector, and the requests for its secret. */
class Encrypted implements AsyncDisposable {
  readonly server = new Server();
  readonly questions = new Queue<AuthCallbackOf>();
  /** Names of the channels in those requests. */
  readonly asked: string[] = [];
  readonly events: [event: string, data: unknown][] = [];
  client!: Client;
  peer!: Peer;
  channel!: Channel;

  static async join(): Promise<Encrypted> {
    const self = new Encrypted();
    const { client, peer } = await open(self.server, {
      nacl,
      channelAuthorization: {
        customHandler({ channelName }, callback) {
          self.asked.push(channelName);
          self.questions.push((shared_secret, error = null) =>
            callback(error, { auth: AUTH, shared_secret })
          );
        },
      },
    });
    Object.assign(self, { client, peer });
    self.channel = client.pusher.subscribe(E1.channel);
    await self.admit();
    self.channel.bind_global((event, data) => self.events.push([event, data]));
    return self;
  }

  /** Authorizes with a secret; the server confirms the subscription. */
  async admit(peer = this.peer, secret = E1.shared_secret): Promise<void> {
    const answer = await this.questions.next("question");
    answer(secret);
    assertEquals(await peer.next(), subscription(E1.channel, { auth: AUTH }));
    const { channel } = E1;
    peer.send("pusher_internal:subscription_succeeded", {}, { channel });
    await settled(peer);
  }

  send(event: string, data: unknown): void {
    this.peer.send(event, data, { channel: E1.channel });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.pusher.disconnect();
    await this.server[Symbol.asyncDispose]();
  }
}

type AuthCallbackOf = (secret: string, error?: unknown) => void;

Deno.test("encrypted channels keep the secret from the server, and decrypt", async () => {
  await using joined = await Encrypted.join();
  const { channel, client, events, peer } = joined;
  const [calls, ofAll] = [[] as unknown[][], record(client.pusher)];
  channel.bind("e1", (...args: unknown[]) => calls.push(args));
  joined.send("e1", E1.box);
  const texts = ['"text"', "no JSON", "0", "null", '"\u00fc \u{1f600}"', ""];
  for (const text of texts) joined.send("x", encrypted(text));
  await settled(peer);
  assertEquals(calls, [[E1.data, {}]]);
  assertEquals(events, [
    ["e1", E1.data],
    ["x", "text"],
    ["x", "no JSON"],
    ["x", 0],
    ["x", null],
    ["x", "\u00fc \u{1f600}"],
    ["x", ""],
  ]);
  assertEquals(ofAll[0], ["e1", E1.box]);
  assertEquals(joined.asked, [E1.channel]);
});

Deno.test("encrypted channels pass the protocol's own events as they are", async () => {
  await using joined = await Encrypted.join();
  const { events, peer } = joined;
  joined.send("pusher:cache_miss", undefined);
  joined.send("pusher:any", E1.box);
  joined.send("pusher_internal:any", E1.box);
  await settled(peer);
  assertEquals(events, [["pusher:cache_miss", undefined], [
    "pusher:any",
    E1.box,
  ]]);
});

Deno.test("encrypted channels drop events that cannot have been encrypted", async () => {
  await using joined = await Encrypted.join();
  const { nonce, ciphertext } = E1.box;
  const lines: string[] = [];
  Pusher.log = (line) => lines.push(line);
  const bad = [
    { nonce },
    { ciphertext },
    { nonce, ciphertext: null },
    { nonce: 7, ciphertext: {} },
    { nonce: "AAAA", ciphertext },
    { nonce, ciphertext: "AAAA" },
    { nonce, ciphertext: "" },
    { nonce, ciphertext: "*" },
    {},
    [],
    null,
    undefined,
    "text",
    7,
  ];
  try {
    for (const data of bad) joined.send("x", data);
    await settled(joined.peer);
  } finally {
    Pusher.log = null;
  }
  assertEquals(joined.events, []);
  assertEquals(joined.asked.length, 1);
  const dropped = lines.filter((line) => line.includes("Event dropped"));
  assertEquals(dropped.length, bad.length);
});

Deno.test("an event that cannot be decrypted is tried once more with a new secret", async () => {
  await using joined = await Encrypted.join();
  const { events, peer, questions } = joined;
  joined.send("a", encrypted("1", NEW_SECRET));
  const answer = await questions.next("question");
  assertEquals(joined.asked, [E1.channel, E1.channel]);
  joined.send("b", encrypted("2", NEW_SECRET));
  joined.send("c", encrypted("3"));
  await settled(peer);
  assertEquals(events, [["c", 3]]);
  answer(NEW_SECRET);
  await settled(peer);
  assertEquals(events, [["c", 3], ["a", 1], ["b", 2]]);

  joined.send("d", encrypted("4", NEW_SECRET));
  await settled(peer);
  assertEquals(events.at(-1), ["d", 4]);
  assertEquals(joined.asked.length, 2);
});

Deno.test("an event that the new secret cannot decrypt either is dropped", async () => {
  await using joined = await Encrypted.join();
  const { events, peer, questions } = joined;
  const answers: ((answer: AuthCallbackOf) => void)[] = [
    (answer) => answer(E1.shared_secret),
    (answer) => answer(E1.shared_secret, new Error("no")),
    (answer) => answer(""),
    (answer) => answer("AAAA"),
  ];
  for (const reply of answers) {
    joined.send("a", tampered(E1.box));
    reply(await questions.next("question"));
    await settled(peer);
    assertEquals(events, []);
  }
  joined.send("b", E1.box);
  await settled(peer);
  assertEquals(events, [["b", E1.data]]);
  assertEquals(joined.asked.length, 1 + answers.length);
});

Deno.test("events that wait for a secret go with the channel, and do not outlive it", async () => {
  for (const leave of ["before", "within"] as const) {
    await using joined = await Encrypted.join();
    const { client: { pusher }, events, peer, questions } = joined;
    joined.send("a", encrypted("1", NEW_SECRET));
    joined.send("b", encrypted("2", NEW_SECRET));
    const answer = await questions.next("question");
    await settled(peer);
    if (leave === "before") pusher.unsubscribe(E1.channel);
    else joined.channel.bind("a", () => pusher.unsubscribe(E1.channel));
    answer(NEW_SECRET);
    assertEquals((await peer.next()).event, "pusher:unsubscribe");
    await settled(peer);
    assertEquals(events, leave === "before" ? [] : [["a", 1]]);
  }
});

Deno.test("events that wait for a secret are not heard on the next connection", async () => {
  await using joined = await Encrypted.join();
  const { events, peer, questions, server } = joined;
  joined.send("a", encrypted("1", NEW_SECRET));
  const answer = await questions.next("question");
  await settled(peer);
  const next = await reconnect(server, joined);
  await joined.admit(next, NEW_SECRET);
  const named = { channel: E1.channel };
  next.send("b", encrypted("2"), named);
  const answerNext = await questions.next("question");
  // A late answer for an earlier connection changes nothing.
  answer("AAAA");
  await settled(next);
  next.send("c", encrypted("3", NEW_SECRET), named);
  await settled(next);
  answerNext(E1.shared_secret);
  await settled(next);
  assertEquals(events, [
    ["pusher:subscription_succeeded", {}],
    ["c", 3],
    ["b", 2],
  ]);
});

Deno.test("events that wait for a secret are limited in number", async () => {
  await using joined = await Encrypted.join();
  const { events, peer, questions } = joined;
  const sent = encrypted("1", NEW_SECRET);
  for (let count = 0; count < 1_001; count++) joined.send("a", sent);
  await settled(peer);
  const answer = await questions.next("question");
  answer(NEW_SECRET);
  await settled(peer);
  assertEquals(events.length, 1_000);
});

Deno.test("encrypted channels are refused without their secret", async () => {
  await using server = new Server();
  for (const shared_secret of [undefined, null, 7, "", "*", "AAAA"]) {
    using connection = await open(server, {
      nacl,
      authEndpoint: server.url("/auth"),
    });
    let requests = 0;
    server.onRequest = () => {
      requests++;
      return Response.json({ auth: AUTH, shared_secret });
    };
    const { client: { pusher }, peer } = connection;
    const channel = pusher.subscribe(E1.channel);
    const error = await heard(channel, "pusher:subscription_error");
    assertEquals(error.type, "AuthError");
    assertStringIncludes(error.error, "no shared_secret in answer");
    await settled(peer);
    peer.send("a", E1.box, { channel: E1.channel });
    await settled(peer);
    assertEquals(requests, 1);
  }
});
