/**
 * What a hostile peer can send: odd values as tables, then random bytes. The
 * server stays up, says nothing outside its tables, tells no secret, reports no
 * fault of the program, and two other clients notice nothing.
 *
 * `support/server.ts` checks every frame and every refusal against the tables of the
 * protocol; a hook that says `error` fails the test.
 *
 * @module
 */
import type { PusherOptions, ReviewClientEvent } from "@glitz/pusher";
import { assert, assertEquals, assertFalse, assertMatch } from "@std/assert";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { Random } from "../support/random.ts";
import {
  APP,
  checked,
  cleanUp,
  type Client,
  read,
  serve,
  signedRequest,
  type TestServer,
} from "../support/server.ts";
import {
  channelAuth,
  dataOf,
  type Frame,
  type RawClient,
  userAuth,
  wireFrame,
} from "../support/wire.ts";

/** A server and two well-behaved clients of it, who have to notice nothing. */
class Stage implements AsyncDisposable {
  readonly server: TestServer;
  readonly #ann: Client;
  readonly #bob: Client;
  #said = 0;

  private constructor(server: TestServer, ann: Client, bob: Client) {
    this.server = server;
    this.#ann = ann;
    this.#bob = bob;
  }

  static async set(options: PusherOptions = {}): Promise<Stage> {
    const server = serve({
      clientEvents: true,
      authorize: (_request, { channel }) =>
        !channel.startsWith("presence-") || { user_id: "somebody" },
      ...options,
      limits: { framesPerSecond: Infinity, ...options.limits },
    });
    const [ann, bob] = [await server.connect(), await server.connect()];
    for (const client of [ann, bob]) {
      await client.join("witness");
      const user_id = client === ann ? "ann" : "bob";
      await client.join("presence-witness", { member: { user_id } });
    }
    await ann.next("pusher_internal:member_added");
    return new Stage(server, ann, bob);
  }

  /** The two clients talk, and hear each other and nothing else. */
  async check(): Promise<void> {
    const said = `${this.#said++}`;
    const channel = "presence-witness";
    this.#ann.send({ event: "client-said", channel, data: said });
    assertEquals(await this.#bob.next(), {
      event: "client-said",
      channel,
      data: said,
      user_id: "ann",
    });
    await this.server.pusher.trigger("witness", "said", said);
    for (const client of [this.#ann, this.#bob]) {
      assertEquals(await client.framesUntilPong(), [
        { event: "said", channel: "witness", data: said },
      ]);
    }
    assertEquals(await this.server.pusher.users(channel), {
      users: [{ id: "ann" }, { id: "bob" }],
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await cleanUp(() => this.check());
    for (const part of [this.#ann, this.#bob, this.server]) {
      await part[Symbol.asyncDispose]();
    }
  }
}

/** JSON of arrays in arrays. */
function nested(depth: number): string {
  return "[".repeat(depth) + "]".repeat(depth);
}

/** Names that mean something to objects; legal for channels all the same. */
const OBJECT_NAMES = [
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "hasOwnProperty",
  "__defineGetter__",
];

// ---- Frames -----------------------------------------------------------------

Deno.test("a frame that is no event is answered with one 4300, and the connection goes on", async () => {
  await using stage = await Stage.set();
  await using client = await stage.server.connect();
  const frames = [
    "",
    " ",
    "\0",
    "\ufeff",
    "x",
    "null",
    "true",
    "0",
    "1e999",
    '""',
    '"pusher:ping"',
    "[]",
    "[{}]",
    '["pusher:ping"]',
    '[{"event":"pusher:ping"}]',
    "{}",
    "{",
    "{{}}",
    "{'event':'pusher:ping'}",
    '{"event":"pusher:ping"',
    '{"event":"pusher:ping"}{"event":"pusher:ping"}',
    '{"event":"pusher:ping",}',
    '{"event":null}',
    '{"event":1}',
    '{"event":["pusher:ping"]}',
    '{"event":{"toString":"pusher:ping"}}',
    '{"event":""}',
    '{"event":"pusher:ping "}',
    '{"event":" pusher:ping"}',
    '{"event":"PUSHER:PING"}',
    '{"event":"pusher:ping\\u0000"}',
    '{"event":"\\ud800"}',
    '{"Event":"pusher:ping"}',
    '{"__proto__":{"event":"pusher:ping"}}',
    '{"constructor":{"prototype":{"event":"pusher:ping"}}}',
    '{"event":"pusher:"}',
    '{"event":"pusher:nonsense"}',
    '{"event":"pusher:connection_established","data":"{}"}',
    '{"event":"pusher:error","data":{"code":4000,"message":"x"}}',
    '{"event":"pusher_internal:subscription_succeeded","channel":"witness"}',
    '{"event":"pusher_internal:member_added","channel":"presence-witness","data":"{\\"user_id\\":\\"eve\\"}"}',
    '{"event":"said","channel":"witness","data":"forged"}',
    '{"event":"xclient-said","channel":"presence-witness"}',
    '{"event":"Client-said","channel":"presence-witness"}',
    '{"event":"client","channel":"presence-witness"}',
    '{"event":"client-x"}',
    '{"event":"client-x","channel":null}',
    '{"event":"client-x","channel":["presence-witness"]}',
    '{"event":"client-x","channel":{"toString":"presence-witness"}}',
    '{"event":"pusher:subscribe"}',
    '{"event":"pusher:subscribe","data":null}',
    '{"event":"pusher:subscribe","data":5}',
    '{"event":"pusher:subscribe","data":[]}',
    '{"event":"pusher:subscribe","data":"x"}',
    '{"event":"pusher:subscribe","data":"null"}',
    '{"event":"pusher:subscribe","data":"\\"witness\\""}',
    '{"event":"pusher:subscribe","data":{}}',
    '{"event":"pusher:subscribe","data":{"channel":null}}',
    '{"event":"pusher:subscribe","data":{"channel":5}}',
    '{"event":"pusher:subscribe","data":{"channel":["a"]}}',
    '{"event":"pusher:subscribe","data":{"channel":{"a":1}}}',
    '{"event":"pusher:subscribe","data":{"__proto__":{"channel":"a"}}}',
    '{"event":"pusher:subscribe","channel":"a","data":{}}',
    nested(32_000),
    "[".repeat(65_536),
    '{"a":'.repeat(13_000),
    `{"event":${nested(32_000)}}`,
    `{"event":"pusher:subscribe","data":{"channel":${nested(32_000)}}}`,
    `{"event":"${"x".repeat(60_000)}"}`,
    "x".repeat(65_536),
    "x".repeat(65_537),
    "✓".repeat(30_000),
    "x".repeat(1_000_000),
    ...OBJECT_NAMES.map((name) => JSON.stringify({ event: name })),
  ];
  for (const frame of frames) {
    client.send(frame);
    const answers = await client.framesUntilPong();
    const label = frame.slice(0, 99);
    assertEquals(answers.length, 1, label);
    const { event, channel, data } = answers[0] as Frame;
    assertEquals([event, channel], ["pusher:error", undefined], label);
    assertEquals((data as { code: number }).code, 4300, label);
  }
  await client.join("news");
  assertEquals(await stage.server.pusher.channels({ filter_by_prefix: "n" }), {
    channels: { news: {} },
  });
});

Deno.test("a frame that is odd but legal does what it says", async () => {
  await using stage = await Stage.set();
  await using client = await stage.server.connect();
  const pings = [
    ' \n{"event" : "pusher:ping"}\t',
    '{"event":"pusher:\\u0070ing","event":"pusher:ping"}',
    `{"event":"pusher:ping","data":${nested(30_000)}}`,
    '{"event":"pusher:ping","data":"{","channel":5,"__proto__":5}',
    '{"event":"pusher:ping","data":1e999}',
  ];
  for (const ping of pings) {
    client.send(ping);
    await client.next("pusher:pong");
  }
  for (
    const frame of [
      { event: "pusher:pong" },
      { event: "pusher:pong", data: [[]] },
      { event: "pusher:unsubscribe", data: { channel: "witness" } },
      { event: "pusher:unsubscribe", data: { channel: "__proto__" } },
      { event: "pusher:unsubscribe", data: { channel: "a b" } },
    ]
  ) {
    client.send(frame);
    await client.silence();
  }
});

Deno.test("a name with a character that is not allowed is refused by name", async () => {
  await using stage = await Stage.set();
  await using client = await stage.server.connect();
  const bad = [
    "",
    " ",
    "\0",
    "\n",
    "a b",
    " a",
    "a ",
    "a\n",
    "a\0b",
    "a/b",
    "../a",
    "a:b",
    "a::user::{}",
    "#a",
    "a#",
    "#watchers-of-1",
    "a?b",
    "a%20b",
    "a+b",
    "a*",
    "a'b",
    'a"b',
    "a\\b",
    "a&b",
    "a<b>",
    "a|b",
    "(a)",
    "[a]",
    "{a}",
    "~a",
    "`a`",
    "$a",
    "a!",
    "ä",
    "é",
    "ａ",
    "аdmin",
    "😀",
    "\ud800",
    "a\udc00",
    "\u202ea",
    "\ufeffa",
    "\u00a0",
  ];
  for (const name of bad) {
    for (const channel of name === "" ? [""] : [name, `private-${name}`]) {
      const label = JSON.stringify(channel);
      assertEquals(await client.refused(channel), "InvalidChannel 400", label);
    }
    const body = { name: "e", channel: name, data: "1" };
    const answer = await stage.server.api("POST", "/events", { body });
    // A user's channel is a target, though not one to subscribe to.
    if (!name.startsWith("#server-to-user-")) {
      assertEquals(answer.status, 400, name);
    }
  }
  for (const length of [201, 1_000]) {
    assertEquals(await client.refused("a".repeat(length)), "LimitReached 400");
  }
  // What is larger still is not sent back.
  client.requestSubscribe("a".repeat(60_000));
  const { channel, data } = await client.next("pusher:subscription_error");
  assertMatch(channel ?? "", /^a{201,1000}$/);
  assertEquals((data as { status: number }).status, 400);
});

Deno.test("names that mean something to objects are names like all others", async () => {
  await using stage = await Stage.set();
  const { server } = stage;
  await using client = await server.connect();
  const channels = OBJECT_NAMES.flatMap((name) => [name, `presence-${name}`]);
  for (const user_id of OBJECT_NAMES) {
    await using member = await server.connect();
    for (const channel of channels) {
      const presence = channel.startsWith("presence-");
      const init = presence
        ? { member: { user_id, user_info: JSON.parse('{"__proto__":1}') } }
        : {};
      const told = await member.join(channel, init);
      if (!presence) continue;
      assertEquals(told.presence.ids, [user_id]);
      assert(Object.hasOwn(told.presence.hash, user_id), user_id);
      assertEquals(
        JSON.stringify(told.presence.hash[user_id]),
        '{"__proto__":1}',
      );
    }
    const { body } = await server.api("POST", "/events", {
      body: { name: user_id, channels, data: "1", info: "subscription_count" },
    });
    for (const channel of channels) {
      assert(Object.hasOwn(body.channels, channel), channel);
      assertEquals(body.channels[channel], { subscription_count: 1 });
    }
    assertEquals((await member.framesUntilPong()).length, channels.length);
    const listed = await server.api("GET", "/channels");
    for (const channel of channels) {
      assert(Object.hasOwn(listed.body.channels, channel), channel);
    }
    const users = await server.api("GET", "/channels/presence-__proto__/users");
    assertEquals(users.body, { users: [{ id: user_id }] });
    // They have to be gone before the next one counts.
    await member.close();
    await server.journal.next("disconnected");
  }
  assertEquals(({} as Record<string, unknown>).event, undefined);
  await client.silence();
});

Deno.test("channel_data of any kind is accepted as a member or refused as data", async () => {
  await using stage = await Stage.set();
  await using client = await stage.server.connect();
  const deep = nested(5_000);
  const table: [channelData: string, answer: string][] = [
    ["", "InvalidChannelData 400"],
    ["\0", "InvalidChannelData 400"],
    ["undefined", "InvalidChannelData 400"],
    ["{user_id:1}", "InvalidChannelData 400"],
    ['{"user_id":"a"}}', "InvalidChannelData 400"],
    ['[{"user_id":"a"}]', "InvalidChannelData 400"],
    ['{"__proto__":{"user_id":"a"}}', "InvalidChannelData 400"],
    ['{"user_id":1e999}', "InvalidChannelData 400"],
    ['{"user_id":-1e999}', "InvalidChannelData 400"],
    [`{"user_id":${"9".repeat(400)}}`, "InvalidChannelData 400"],
    ['{"user_id":9007199254740993}', "InvalidChannelData 400"],
    ['{"user_id":0.1}', "InvalidChannelData 400"],
    ['{"user_id":false}', "InvalidChannelData 400"],
    ['{"user_id":{"toString":"a"}}', "InvalidChannelData 400"],
    [`{"user_id":${deep}}`, "InvalidChannelData 400"],
    [`{"user_id":"a","user_info":${deep}}`, "InvalidChannelData 400"],
    ['{"user_id":"a","user_info":[null]}', "InvalidChannelData 400"],
    ['{"user_id":"a","user_info":false}', "InvalidChannelData 400"],
    ['{"user_id":"a","user_info":0}', "InvalidChannelData 400"],
    ['{"user_id":"a","user_info":""}', "InvalidChannelData 400"],
    [`{"user_id":"a","user_info":{"x":${deep}}}`, "LimitReached 413"],
    [
      `{"user_id":"a","user_info":{"x":${nested(20_000)}}}`,
      "LimitReached 413",
    ],
    [`{"user_id":"${"a".repeat(20_000)}"}`, "LimitReached 413"],
    [
      `{"user_id":"a","user_info":{"x":"${"a".repeat(20_000)}"}}`,
      "LimitReached 413",
    ],
    ['{"user_id":"\\ud800"}', "joined"],
    ['{"user_id":"\\u0000"}', "joined"],
    ['{"user_id":-0}', "joined"],
    ['{"user_id":"a","user_id":"b"}', "joined"],
    [' {"user_id" : "a"} ', "joined"],
    ['{"user_id":"<script>alert(1)</script>"}', "joined"],
  ];
  for (const [channelData, answer] of table) {
    const label = channelData.slice(0, 99);
    const frame = await client.subscribe("presence-a", { channelData });
    const { type, status, presence } = dataOf(frame);
    if (answer === "joined") assertEquals(presence?.count, 1, label);
    else assertEquals(`${type} ${status}`, answer, label);
    client.unsubscribe("presence-a");
  }
  // What is not text is not signed either.
  for (const channel_data of [null, 5, {}, [], { user_id: "a" }]) {
    const auth = channelAuth(APP, client.socketId, "presence-a");
    const data = { channel: "presence-a", auth, channel_data };
    client.send({ event: "pusher:subscribe", data });
    const { status } = dataOf(await client.next("pusher:subscription_error"));
    assert(status === 400 || status === 401, JSON.stringify(channel_data));
  }
});

Deno.test("a signature for one text is none for a text with a lone surrogate", async () => {
  await using stage = await Stage.set();
  await using client = await stage.server.connect();
  // As bytes, both texts are the same.
  const member = (id: string) => `{"user_id":"${id}"}`;
  const user = (id: string) => `{"id":"${id}"}`;
  const channel = "presence-a";
  for (const id of ["\ud800", "\udc00"]) {
    const ids = [APP, client.socketId] as const;
    const auth = channelAuth(...ids, channel, member("\ufffd"));
    const data = { channel, auth, channel_data: member(id) };
    client.send({ event: "pusher:subscribe", data });
    const refused = dataOf(await client.next("pusher:subscription_error"));
    assertEquals([refused.type, refused.status], ["AuthError", 401]);
    assertMatch(refused.error, /^The channel_data is not well-formed Unicode/);
    assert(!refused.error.includes(id));
    const signed = userAuth(...ids, user("\ufffd"));
    const signin = { auth: signed, user_data: user(id) };
    client.send({ event: "pusher:signin", data: signin });
    const { code, message } = dataOf(await client.next("pusher:error"));
    assertEquals(code, 4009);
    assertMatch(message, /user_data is not well-formed Unicode/);
    assert(!message.includes(id));
  }
  const { server } = stage;
  const path = "/channels/presence-witness/users";
  const wrong = await server.api("GET", path, { query: { info: "\ufffd" } });
  assertEquals(wrong.status, 200);
  const request = signedRequest(server.url, "GET", path, {
    query: { info: "\ufffd" },
  });
  // The same signature, over other bytes that stand for no character.
  const url = request.url.replace("%EF%BF%BD", "%FF");
  assert(url !== request.url);
  const { status, text } = await read(await fetch(url));
  assertEquals(status, 401);
  assertMatch(text, /The query is not well-formed UTF-8/);
});

/** Reviews that let everything through, and what to call them. */
const LENIENT: [how: string, clientEvents: true | ReviewClientEvent][] = [
  ["", true],
  [" after a review", async () => await true],
  [" as a review has written them again", ({ data }) => ({ data })],
];

for (const [how, clientEvents] of LENIENT) {
  Deno.test(`client events of any depth are relayed or refused with 4301${how}`, async () => {
    await using stage = await Stage.set({
      clientEvents,
      limits: { clientEventsPerSecond: Infinity },
    });
    await using ann = await stage.server.connect();
    await using bob = await stage.server.connect();
    for (const client of [ann, bob]) await client.join("private-a");
    const table: [data: string, isRelayed: boolean][] = [
      [nested(100), true],
      [nested(5_120), true],
      [nested(5_121), false],
      [nested(30_000), false],
      ['{"a":'.repeat(9_000) + "1" + "}".repeat(9_000), false],
      ['{"toJSON":1,"__proto__":{"a":1}}', true],
      ['"\\ud800"', true],
      ["1e999", true],
      [`"${"\\u0000".repeat(1_000)}"`, true],
      [`"${"\\u0000".repeat(10_000)}"`, true],
      [`["${"\\u0000".repeat(2_000)}"]`, false],
    ];
    for (const [data, isRelayed] of table) {
      ann.send(`{"event":"client-x","channel":"private-a","data":${data}}`);
      const label = data.slice(0, 99);
      const told = await ann.framesUntilPong();
      assertEquals(
        told.map(({ event }) => event),
        isRelayed ? [] : ["pusher:error"],
        label,
      );
      for (const { channel, data } of told) {
        assertEquals(channel, "private-a");
        assertEquals((data as { code: number }).code, 4301);
      }
      const events = (await bob.framesUntilPong()).map(({ event }) => event);
      assertEquals(events, isRelayed ? ["client-x"] : [], label);
    }
  });
}

Deno.test("client events that wait for a review for ever are few, and disturb nobody", async () => {
  let asked = 0;
  await using stage = await Stage.set({
    answerTimeoutMs: 3_600_000,
    clientEvents({ channel }) {
      if (channel !== "private-a") return true;
      asked++;
      return new Promise(() => {});
    },
    limits: { clientEventsPerSecond: Infinity },
  });
  await using client = await stage.server.connect();
  await client.join("private-a");
  for (let n = 0; n < 500; n++) {
    client.send({ event: "client-x", channel: "private-a", data: n });
  }
  await stage.check();
  const told = await client.framesUntilPong();
  assertEquals([asked, told.length], [20, 480]);
  for (const frame of told) {
    const { code, message } = dataOf(frame);
    assertEquals(code, 4301);
    assertMatch(message, /the limit pendingClientEvents is 20/);
  }
});

Deno.test("a flood of frames ends its own connection and disturbs nobody", async () => {
  await using stage = await Stage.set({ limits: { framesPerSecond: 1 } });
  await using client = await stage.server.connect();
  for (let i = 0; i < 5_000; i++) client.send({ event: "pusher:ping" });
  await stage.check();
  await within(DEADLINE_MS, "close", client.closed);
  const code = (await stage.server.journal.next("disconnected")).code;
  assertEquals(code, 4100);
});

Deno.test("strangers who come and go, however they go, keep no place of a user", async () => {
  const random = new Random(7);
  await using server = serve({
    authorizationTimeoutMs: 3_600_000,
    limits: { connections: 3, unauthorizedConnections: 8 },
  });
  const visit = async (n: number) => {
    await using client = server.dial();
    const { event, data } = await client.next();
    if (event === "pusher:error") {
      return assertEquals(dataOf({ event, data }).code, 4100);
    }
    client.socketId = dataOf({ event, data }).socket_id;
    const way = random.below(6);
    if (way === 0) client.requestSubscribe("private-a");
    if (way === 1) client.requestSignIn({ id: `user-${n}` });
    if (way === 2) client.requestSubscribe("private-a", { auth: "x" });
    if (way === 3) client.requestSubscribe("news");
    if (way === 4) client.send(new Uint8Array(1));
    // An answer, the end of the connection, or nothing at all.
    if (way < 4) await client.next();
    else if (way === 4) await client.closed;
  };
  for (let round = 0; round < 20; round++) {
    await Promise.all(Array.from({ length: 15 }, (_, n) => visit(n)));
  }
  await server.journal.settled();
  const { connections, unauthorizedConnections } = server.pusher.stats();
  assertEquals([connections, unauthorizedConnections], [0, 0]);
  await using users = await server.connectAll(4);
  const [late, ...early] = users;
  for (const user of early) await user.join("private-a");
  late!.requestSubscribe("private-a");
  assertEquals((await late!.turnedAway()).code, 4100);
});

// ---- WebSocket frames -------------------------------------------------------

/** Opens a socket by hand and takes the server's greeting. */
async function openRaw(server: TestServer): Promise<RawClient> {
  const raw = await server.raw();
  assertMatch(await raw.upgrade("/app/app-key?protocol=7"), /^HTTP\/1.1 101 /);
  assertEquals(
    (await raw.readText()).event,
    "pusher:connection_established",
  );
  return raw;
}

Deno.test("WebSocket frames that break the rules end their own connection at most", async () => {
  await using stage = await Stage.set();
  const ping = '{"event":"pusher:ping"}';
  const table: [what: string, ...frames: Uint8Array[]][] = [
    ["not masked", wireFrame(ping, { masked: false })],
    ["reserved bit 1", wireFrame(ping, { first: 0xc1 })],
    ["reserved bits", wireFrame(ping, { first: 0xf1 })],
    ["reserved opcode", wireFrame(ping, { first: 0x83 })],
    ["reserved control opcode", wireFrame("", { first: 0x8f })],
    ["continuation of nothing", wireFrame(ping, { first: 0x80 })],
    [
      "text within a message",
      wireFrame('{"event":', { first: 0x01 }),
      wireFrame(ping),
    ],
    ["fragmented control frame", wireFrame("", { first: 0x09 })],
    ["long control frame", wireFrame("x".repeat(200), { first: 0x89 })],
    ["invalid UTF-8", wireFrame(new Uint8Array([0xff, 0xfe, 0x80]))],
    ["surrogates in UTF-8", wireFrame(new Uint8Array([0xed, 0xa0, 0x80]))],
    ["binary", wireFrame(ping, { first: 0x82 })],
    ["empty binary", wireFrame("", { first: 0x82 })],
    ["close without a code", wireFrame("", { first: 0x88 })],
    ["close with half a code", wireFrame("x", { first: 0x88 })],
    ["close with code 0", wireFrame("\0\0", { first: 0x88 })],
    ["close with code 1005", wireFrame("\x03\xed", { first: 0x88 })],
    [
      "close with a bad reason",
      wireFrame(new Uint8Array([3, 232, 255]), { first: 0x88 }),
    ],
    ["length that is negative", wireFrame("", { length: 2 ** 63 })],
    ["length of 1 TiB", wireFrame("x", { length: 2 ** 40 })],
    ["100 MB in one frame", wireFrame("x", { length: 100_000_000 })],
    ["nothing but noise", new Uint8Array(1000).fill(0xa5)],
    ["HTTP again", new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n")],
  ];
  for (const [what, ...frames] of table) {
    using raw = await openRaw(stage.server);
    for (const frame of frames) await raw.write(frame);
    // What promises more than there is waits for it; the rest is answered.
    if (!/length|MB|noise|HTTP/.test(what)) {
      await raw.write(wireFrame("\x03\xe8", { first: 0x88 }));
      const code = await raw.readClose();
      assert(
        code === null || code >= 1000 && code <= 1011,
        `${what}: closed with ${code}`,
      );
    }
    raw.drop();
    await stage.server.journal.next("disconnected");
  }
});

Deno.test("a message in pieces counts as one frame", async () => {
  await using stage = await Stage.set();
  using raw = await openRaw(stage.server);
  const bytes = new TextEncoder().encode(
    '{"event":"pusher:ping","data":"zoë ✓ 😀"}',
  );
  for (const [index, byte] of bytes.entries()) {
    const isLast = index === bytes.length - 1;
    const first = (isLast ? 0x80 : 0) | (index === 0 ? 1 : 0);
    await raw.write(wireFrame(new Uint8Array([byte]), { first }));
    // The runtime's own pings and pongs may come in between.
    if (index % 10 === 0) await raw.write(wireFrame("", { first: 0x8a }));
  }
  assertEquals((await raw.readText()).event, "pusher:pong");
  const piece = "x".repeat(10_000);
  for (let i = 0; i < 7; i++) {
    const first = (i === 6 ? 0x80 : 0) | (i === 0 ? 1 : 0);
    await raw.write(wireFrame(piece, { first }));
  }
  assertEquals(dataOf(await raw.readText()).code, 4300);
});

Deno.test("an upgrade is judged by its headers and by nothing else", async () => {
  await using stage = await Stage.set();
  const path = "/app/app-key?protocol=7";
  const table: [
    what: string,
    answer: RegExp,
    headers: Record<string, string>,
    path?: string,
    method?: string,
  ][] = [
    ["upper case", /^HTTP\/1.1 101 /, { Upgrade: "WebSocket" }],
    ["a list of options", /^HTTP\/1.1 101 /, {
      Connection: "keep-alive, Upgrade",
    }],
    ["a subprotocol", /^HTTP\/1.1 101 (?!.*sec-websocket-protocol)/is, {
      "Sec-WebSocket-Protocol": "one, two",
    }],
    ["an extension", /^HTTP\/1.1 101 (?!.*sec-websocket-extensions)/is, {
      "Sec-WebSocket-Extensions": "permessage-deflate; x=1",
    }],
    ["a cookie", /^HTTP\/1.1 101 (?!.*cookie)/is, { Cookie: "a=b; c" }],
    ["an odd host", /^HTTP\/1.1 (101|40[04]) /, { Host: 'a"</script>' }],
    ["no host", /^HTTP\/1.1 (101|400) /, { Host: "" }],
    ["an odd query", /^HTTP\/1.1 101 /, {}, `${path}&&=&%ff=%00&client=%`],
    ["another upgrade", /^HTTP\/1.1 4\d\d /, { Upgrade: "h2c" }],
    ["no upgrade", /^HTTP\/1.1 426 /, { Upgrade: "" }],
    ["no connection", /^HTTP\/1.1 4\d\d /, { Connection: "" }],
    ["no key", /^HTTP\/1.1 4\d\d /, { "Sec-WebSocket-Key": "" }],
    ["no version", /^HTTP\/1.1 (101|4\d\d) /, { "Sec-WebSocket-Version": "" }],
    ["another version", /^HTTP\/1.1 (101|4\d\d) /, {
      "Sec-WebSocket-Version": "8",
    }],
    ["POST", /^HTTP\/1.1 (101|4\d\d) /, {}, path, "POST"],
    ["DELETE", /^HTTP\/1.1 (101|4\d\d) /, {}, path, "DELETE"],
    ["a bad escape", /^HTTP\/1.1 (101|404) /, {}, "/app/%ff"],
    ["half an escape", /^HTTP\/1.1 (101|404) /, {}, "/app/%"],
    ["two slashes", /^HTTP\/1.1 101 /, {}, "//app/app-key?protocol=7"],
    ["dots", /^HTTP\/1.1 (101|404) /, {}, "/x/../app/app-key?protocol=7"],
  ];
  for (const [what, answer, headers, where = path, method] of table) {
    using raw = await stage.server.raw();
    const head = await raw.upgrade(where, headers, method);
    assertMatch(head, answer, what);
    assertFalse(head.includes(APP.secret));
    if (head.startsWith("HTTP/1.1 101")) {
      // Accepted or turned away, it is told in a frame.
      await raw.readText();
    }
  }
});

Deno.test("TCP that is no HTTP, or half of it, disturbs nobody", async () => {
  await using stage = await Stage.set();
  const host = "Host: a\r\n";
  const requests = [
    "",
    "\0",
    "\r\n\r\n",
    "G",
    "GET",
    "GET / HTTP/1.1",
    `GET / HTTP/1.1\r\n${host}`,
    `GET /pusher.js HTTP/0.9\r\n${host}\r\n`,
    `GET /pusher.js HTTP/9.9\r\n${host}\r\n`,
    `GET http://[::1/pusher.js HTTP/1.1\r\n${host}\r\n`,
    `GET //// HTTP/1.1\r\n${host}\r\n`,
    `GET /app/%ff%00 HTTP/1.1\r\n${host}\r\n`,
    `NONSENSE /apps/app-id/events HTTP/1.1\r\n${host}\r\n`,
    `CONNECT a:1 HTTP/1.1\r\n${host}\r\n`,
    `OPTIONS * HTTP/1.1\r\n${host}\r\n`,
    `GET / HTTP/1.1\r\n${host}X: ${"x".repeat(300_000)}\r\n\r\n`,
    `GET / HTTP/1.1\r\n${host}${"X: x\r\n".repeat(5_000)}\r\n`,
    `GET /${"x".repeat(300_000)} HTTP/1.1\r\n${host}\r\n`,
    `GET /pusher.js HTTP/1.1\r\n${host}If-None-Match: ${
      'W/"'.repeat(9_000)
    }\r\n\r\n`,
    `POST /apps/app-id/events HTTP/1.1\r\n${host}Content-Length: 99\r\n\r\n{}`,
    `POST /apps/app-id/events HTTP/1.1\r\n${host}Content-Length: -1\r\n\r\n`,
    `POST /apps/app-id/events HTTP/1.1\r\n${host}Content-Length: 9e9\r\n\r\n`,
    `POST /apps/app-id/events HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n`,
    `POST /apps/app-id/events HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\nzz\r\n`,
    `POST /pusher/auth HTTP/1.1\r\n${host}Content-Length: 99\r\n\r\nsocket_id=1.1`,
    `GET /app/app-key HTTP/1.1\r\n${host}Upgrade: websocket\r\nConnection: Upgrade\r\n`,
    `GET /app/app-key HTTP/1.1\r\n${host}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${
      "x".repeat(60_000)
    }\r\n\r\n`,
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  ];
  for (const request of requests) {
    using raw = await stage.server.raw();
    await raw.write(Uint8Array.from(request, (char) => char.charCodeAt(0)));
  }
});

// ---- HTTP API ---------------------------------------------------------------

Deno.test("signed bodies of any kind are refused in the table's terms and publish nothing", async () => {
  await using stage = await Stage.set();
  const { server } = stage;
  const event = { name: "e", channel: "witness", data: "1" };
  const bytes = (...values: number[]) => new Uint8Array(values);
  const table: [body: unknown, status?: number][] = [
    [" "],
    ["x"],
    ["null"],
    ["true"],
    ["5"],
    ['"x"'],
    ["[]"],
    ["[{}]"],
    ["{}"],
    ["{"],
    ['{"a":1}}'],
    ["\ufeff{}"],
    [bytes(0xff, 0xfe, 0x00)],
    [bytes(0, 0, 0, 0)],
    [nested(100_000)],
    [`{"name":${nested(100_000)}}`],
    ["[".repeat(1_000_000)],
    ['{"__proto__":{"name":"e","channel":"witness","data":"1"}}'],
    ['{"name":"e","channel":"witness","__proto__":{"data":"1"}}'],
    [{ ...event, name: null }],
    [{ ...event, name: ["e"] }],
    [{ ...event, name: { toString: "e" } }],
    [{ ...event, name: "e".repeat(500_000) }],
    [{ ...event, name: "pusher:subscription_succeeded" }],
    [{ ...event, name: "pusher_internal:member_removed" }],
    [{ ...event, channel: null }],
    [{ ...event, channel: 5 }],
    [{ ...event, channel: ["witness"] }],
    [{ ...event, channel: { length: 1, 0: "witness" } }],
    [{ ...event, channel: "witness\0" }],
    [{ ...event, channel: "witness\ud800" }],
    [{ ...event, channels: {} }],
    [{ ...event, channels: 5 }],
    [{ ...event, channels: { length: 1, 0: "witness" } }],
    [{ ...event, channels: [["witness"]] }],
    [{ ...event, channels: ["witness", null] }],
    [{ ...event, channels: Array(101).fill("witness") }],
    [{ ...event, channels: Array(100_000).fill("witness") }],
    [{ ...event, data: undefined }],
    [`{"name":"e","channel":"witness","data":${nested(400_000)}}`, 413],
    [`{"name":"e","channel":"witness","data":${nested(8_000)}}`, 413],
    [{ ...event, data: "\0".repeat(10_241) }, 413],
    [{ ...event, data: { a: "\u0001".repeat(5_000) } }, 413],
    [{ ...event, socket_id: null, info: 5 }],
    [{ ...event, socket_id: 1.5 }],
    [{ ...event, socket_id: "1.1\n" }],
    [{ ...event, socket_id: "１.１" }],
    [{ ...event, socket_id: ["1.1"] }],
    [{ ...event, info: "__proto__" }],
    [{ ...event, info: "user_count;drop" }],
    [{ ...event, info: [["user_count"]] }],
    [{ ...event, info: { user_count: 1 } }],
    [" ".repeat(1_048_577), 413],
  ];
  for (const [body, status = 400] of table) {
    const label = String(body).slice(0, 60) +
      JSON.stringify(body)?.slice(0, 99);
    const single = await server.api("POST", "/events", { body });
    assertEquals(single.status, status, label);
    const item = typeof body === "string" || body instanceof Uint8Array
      ? null
      : body as typeof event;
    // The items of a batch know of one channel only.
    if (item !== null && !("channels" in item)) {
      const batch = await server.api("POST", "/batch_events", {
        body: { batch: [event, item] },
      });
      assertEquals(batch.status, status, label);
    }
    const raw = await server.api("POST", "/batch_events", { body });
    assert(raw.status === 400 || raw.status === 413, label);
  }
  for (const batch of [{}, { length: 1, 0: event }, "x", 5, nested(1000)]) {
    const answer = await server.api("POST", "/batch_events", {
      body: { batch },
    });
    assertEquals(answer.status, 400);
  }
  const published = server.journal.calls("published");
  assertEquals(published, []);
});

Deno.test("a request that is not signed rightly is refused, whatever it is", async () => {
  await using stage = await Stage.set();
  const { server } = stage;
  const body = { name: "e", channel: "news", data: "1" };
  const stamps = [
    "",
    " ",
    "0",
    "-1",
    "x",
    "NaN",
    "Infinity",
    "1e9",
    "0x1",
    "9".repeat(400),
    "１",
    "\0",
    "null",
  ];
  const seconds = Math.floor(Date.now() / 1000);
  stamps.push(
    `${seconds} `,
    ` ${seconds}`,
    `+${seconds}`,
    `${seconds}.0`,
    `0${seconds}x`,
  );
  for (const auth_timestamp of stamps) {
    const query = { auth_timestamp };
    const answer = await server.api("POST", "/events", { body, query });
    assertEquals(answer.status, 401, JSON.stringify(auth_timestamp));
  }
  const signatures = [
    "",
    "x",
    "0".repeat(63),
    "0".repeat(65),
    "\0".repeat(64),
    "ü".repeat(64),
    "😀".repeat(32),
    "0".repeat(100_00),
    "__proto__",
  ];
  for (const auth_signature of signatures) {
    const tamper = { auth_signature };
    const answer = await server.api("POST", "/events", { body, tamper });
    assertEquals(answer.status, 401, auth_signature);
  }
  for (
    const body_md5 of [
      "",
      "x",
      "d41d8cd98f00b204e9800998ecf8427e",
      "0".repeat(32),
      "ü".repeat(32),
    ]
  ) {
    const query = { body_md5 };
    const answer = await server.api("POST", "/events", { body, query });
    assertEquals(answer.status, 401, body_md5);
  }
  for (const auth_key of ["", "x", "__proto__", "app-key ", "APP-KEY", "\0"]) {
    const query = { auth_key };
    const answer = await server.api("POST", "/events", { body, query });
    assertEquals(answer.status, 401, auth_key);
  }
  // Said twice, it must not be checked as one and used as the other.
  const { url } = signedRequest(server.url, "POST", "/events", { body });
  const text = JSON.stringify(body);
  for (
    const more of [
      "auth_signature=",
      `auth_signature=${"0".repeat(64)}`,
      "auth_key=x",
      "auth_timestamp=0",
      `auth_timestamp=${seconds + 300}`,
      "auth_version=2",
      "body_md5=x",
      "AUTH_KEY=x",
      "__proto__=x",
      "x",
      "=",
      "%",
      "%ff=%ff",
    ]
  ) {
    for (const query of [`${url}&${more}`, url.replace("?", `?${more}&`)]) {
      const request = new Request(query, { method: "POST", body: text });
      const { status } = checked(await read(await fetch(request)));
      assert(status === 401 || status === 200, `${more}: ${status}`);
      // Of two signatures one is looked at, and everything else is signed.
      if (!more.startsWith("auth_signature")) assertEquals(status, 401, more);
    }
  }
});

Deno.test("paths of any kind are answered inside the tables", async () => {
  await using stage = await Stage.set();
  const { server } = stage;
  const paths = [
    "/channels/%",
    "/channels/%zz",
    "/channels/%ff",
    "/channels/%00",
    "/channels/a%2Fb",
    "/channels/..%2f..",
    "/channels/%23server-to-user-1",
    "/channels/__proto__",
    "/channels/" + "a".repeat(201),
    "/channels/" + "a".repeat(20_000),
    "/channels/presence-%ff/users",
    "/channels//users",
    "/channels/a;b",
    "/",
    "//",
    "/__proto__",
    "/constructor",
    "/events%2F",
    "/%65vents",
    "/users/1/terminate_connections",
  ];
  for (const path of paths) {
    for (const method of ["GET", "POST", "HEAD", "OPTIONS", "PATCH"]) {
      const request = signedRequest(server.url, method, path);
      const answer = await read(await fetch(request));
      const told = `${method} ${path.slice(0, 99)}: ${answer.status}`;
      assert([200, 400, 401, 404, 405].includes(answer.status), told);
      // What is a page's method or nobody's path need not be told as JSON.
      if (answer.body !== undefined) checked(answer);
    }
  }
  for (
    const id of [
      "",
      "%ff",
      "%00",
      "..",
      "__proto__",
      "app-id%2F",
      "a".repeat(9_000),
    ]
  ) {
    const url = `${server.url}/apps/${id}/events?auth_key=app-key`;
    const response = await fetch(url, { method: "POST", body: "{}" });
    await response.body?.cancel();
    assertEquals(response.status, 404, id);
  }
});

// ---- Auth endpoint ----------------------------------------------------------

Deno.test("POST /pusher/auth takes a form of a reasonable size, and no fields of another shape", async () => {
  const asked: string[] = [];
  await using stage = await Stage.set({
    authorize: (_request, { channel }) => asked.push(channel) > 0,
  });
  const form = "socket_id=1.1&channel_name=private-a";
  const encoded = { "content-type": "application/x-www-form-urlencoded" };
  const post = async (
    body: RequestInit["body"],
    headers: Record<string, string> = encoded,
  ) => {
    const url = `${stage.server.url}/pusher/auth`;
    const init = { method: "POST", headers, body: body ?? null };
    return checked(await read(await fetch(url, init)));
  };
  const multipart = new FormData();
  multipart.set("socket_id", "1.1:private-b");
  multipart.set("channel_name", "private-a");
  const table: [body: RequestInit["body"], headers?: Record<string, string>][] =
    [
      [null],
      [""],
      ["&&&==="],
      ["%"],
      ["%ff=%ff"],
      [new Uint8Array([0, 255, 254])],
      ["socket_id=1.1&channel_name=%00"],
      ["socket_id=1.1&channel_name=private-%ff"],
      ["socket_id=1.1&channel_name=private-a%0a"],
      ["socket_id=1.1%3Aprivate-b&channel_name=private-a"],
      ["socket_id=1.1:private-b&channel_name[]=private-a"],
      ["socket_id=%F0%9F%98%80.1&channel_name=private-a"],
      ["socket_id=1.1%0A&channel_name=private-a"],
      [`socket_id=${"1".repeat(100_000)}&channel_name=private-a`],
      [`socket_id=1.1&channel_name=private-${"a".repeat(100_000)}`],
      ["socket_id[]=1.1&channel_name=private-a"],
      ["__proto__=1&constructor=1"],
      [`${form}&x=${"x".repeat(5_000_000)}`],
      [`socket_id=1.1${"&channel_name[]=private-a".repeat(100_000)}`],
      [JSON.stringify({ socket_id: "1.1:x", channel_name: "private-a" }), {
        "content-type": "application/json",
      }],
      [multipart, {}],
      ["<xml/>", { "content-type": "text/xml" }],
      ["--x\r\n\r\n", { "content-type": "multipart/form-data; boundary=x" }],
      ["--x", { "content-type": "multipart/form-data" }],
    ];
  for (const [body, headers] of table) {
    const { status } = await post(body, headers);
    const label = String(body).slice(0, 99);
    assert(status >= 400 && status < 500, `${status}: ${label}`);
  }
  assertEquals(asked, []);
  // Said twice, the first or the second is meant, but one and the same.
  const twice = await post(
    "socket_id=1.1&socket_id=2.2&channel_name=private-a",
  );
  const signatures = ["1.1", "2.2"].map((id) =>
    channelAuth(APP, id, "private-a")
  );
  assert(twice.status >= 400 || signatures.includes(twice.body.auth));
  assertEquals((await post(form)).body, { auth: signatures[0] });
});

// ---- Random -----------------------------------------------------------------

/** Any value of JSON. */
function randomValue(random: Random, depth = 3): unknown {
  const kinds = depth > 0 ? 9 : 7;
  switch (random.below(kinds)) {
    case 0:
      return null;
    case 1:
      return random.next() < 0.5;
    case 2:
      return random.of([0, -1, 1.5, 1e300, 2 ** 53, NaN]);
    case 3:
      return random.of(SPICE);
    case 4:
      return random.of(CHANNELS);
    case 5:
      return random.of(EVENTS);
    case 6:
      return JSON.stringify(randomValue(random, depth - 1));
    case 7:
      return Array.from(
        { length: random.below(4) },
        () => randomValue(random, depth - 1),
      );
    default:
      return Object.fromEntries(
        Array.from({ length: random.below(4) }, () => [
          random.of(FIELDS),
          randomValue(random, depth - 1),
        ]),
      );
  }
}

const SPICE = [
  '"',
  "\\",
  "\0",
  "\n",
  "{",
  "}",
  "[",
  "]",
  ":",
  ",",
  "null",
  "\ud800",
  "😀",
  "\u2028",
  "e999",
  "-",
  "%",
  "&",
  "=",
  "#",
  "__proto__",
  "constructor",
  "x".repeat(300),
];
const CHANNELS = [
  "a",
  "b",
  "cache-a",
  "private-a",
  "presence-a",
  "presence-b",
  "private-encrypted-a",
  "presence-cache-a",
  "#server-to-user-1",
  "a b",
  "",
  "__proto__",
  "x".repeat(201),
];
const EVENTS = [
  "pusher:subscribe",
  "pusher:unsubscribe",
  "pusher:ping",
  "pusher:pong",
  "pusher:signin",
  "client-a",
  "client-b",
  "e",
  "pusher:error",
  "",
];
const FIELDS = [
  "event",
  "channel",
  "data",
  "auth",
  "channel_data",
  "user_id",
  "user_info",
  "name",
  "channels",
  "socket_id",
  "info",
  "batch",
  "__proto__",
  "toString",
];

/** Runs a test with a seed, which a failure tells. */
function fuzz(
  title: string,
  run: (random: Random, stage: Stage) => Promise<void>,
): void {
  Deno.test(title, async () => {
    const given = Deno.env.get("FUZZ_SEED");
    const seed = given ? Number(given) : Date.now() >>> 0;
    console.info(`FUZZ_SEED=${seed}`);
    await using stage = await Stage.set({
      limits: { clientEventsPerSecond: Infinity },
    });
    await run(new Random(seed), stage);
  });
}

/** A random frame for a client, often nearly right. */
function randomFrame(random: Random, client: Client): string {
  const channel = random.of(CHANNELS);
  const member = {
    user_id: random.of(["u", 1, "__proto__", randomValue(random)]),
  };
  const channelData = random.next() < 0.5 ? JSON.stringify(member) : undefined;
  const auth = channelAuth(APP, client.socketId, channel, channelData);
  const data = random.of<unknown>([
    { channel, auth, channel_data: channelData },
    { channel },
    randomValue(random),
  ]);
  const frame = {
    event: random.of(EVENTS),
    data: random.next() < 0.2 ? JSON.stringify(data) : data,
    ...(random.next() < 0.5 ? { channel } : {}),
    ...(random.next() < 0.2
      ? { [random.of(FIELDS)]: randomValue(random) }
      : {}),
  };
  const text = JSON.stringify(frame);
  return random.next() < 0.3 ? random.damage(text, SPICE) : text;
}

fuzz("random frames are answered inside the tables", async (random, stage) => {
  await using listener = await stage.server.connect();
  for (const channel of ["a", "private-a"]) await listener.join(channel);
  for (let round = 0; round < 12; round++) {
    await using client = await stage.server.connect();
    for (let i = 0; i < 200; i++) {
      client.send(randomFrame(random, client));
    }
    // Frames are looked at as they are taken.
    await client.framesUntilPong();
    await listener.framesUntilPong();
    if (round % 4 === 0) {
      client.send(random.bytes(random.below(200)));
      const { code } = await within(DEADLINE_MS, "close", client.closed);
      assertEquals(code, 1003);
    }
  }
  await stage.check();
});

fuzz(
  "random and truncated WebSocket bytes end their own connection at most",
  async (random, stage) => {
    for (let round = 0; round < 60; round++) {
      using raw = await openRaw(stage.server);
      const frame = wireFrame(
        random.damage(
          '{"event":"pusher:subscribe","data":{"channel":"a"}}',
          SPICE,
        ),
        {
          first: random.next() < 0.7 ? 0x81 : random.below(256),
          masked: random.next() < 0.8,
        },
      );
      await raw.write(
        random.next() < 0.5
          ? frame.subarray(0, random.below(frame.length))
          : frame,
      );
      if (random.next() < 0.5) await raw.write(random.bytes(random.below(300)));
      raw.drop();
      await stage.server.journal.next("disconnected");
    }
  },
);

fuzz(
  "random requests are answered inside the tables",
  async (random, stage) => {
    const { server } = stage;
    const statuses = new Set([200, 400, 401, 403, 404, 405, 413, 426]);
    for (let round = 0; round < 300; round++) {
      const channel = encodeURIComponent(random.of(CHANNELS).toWellFormed());
      const path = random.of([
        "/events",
        "/events",
        "/batch_events",
        "/channels",
        `/channels/${channel}`,
        `/channels/${channel}/users`,
        `/${encodeURIComponent(random.of(SPICE).toWellFormed())}`,
      ]);
      const method = random.of(["GET", "POST", "POST", "PUT"]);
      const event = {
        name: random.of(EVENTS),
        channel: random.of(CHANNELS),
        data: randomValue(random),
        [random.of(FIELDS)]: randomValue(random),
      };
      const body = JSON.stringify(
        path === "/batch_events"
          ? { batch: [event, randomValue(random)] }
          : event,
      );
      const request = signedRequest(server.url, method, path, {
        ...(method === "GET"
          ? { query: { info: random.of(["user_count", "", "x", "cache"]) } }
          : { body: random.next() < 0.3 ? random.damage(body, SPICE) : body }),
        ...(random.next() < 0.2
          ? { tamper: { [random.of(FIELDS)]: random.of(SPICE) } }
          : {}),
      });
      const answer = await read(await fetch(request));
      const told = `${method} ${path}: ${answer.status} ${answer.text}`;
      assert(statuses.has(answer.status), told);
      if (answer.status !== 404) checked(answer);
      const form = new URLSearchParams({
        socket_id: random.of(["1.1", random.of(SPICE)]),
        [random.of(["channel_name", "channel_name[]"])]: random.of(CHANNELS),
      });
      const auth = await read(
        await fetch(`${server.url}/pusher/auth`, {
          method: "POST",
          body: random.next() < 0.3 ? random.damage(`${form}`, SPICE) : form,
        }),
      );
      assert(statuses.has(auth.status), `${form}: ${auth.status} ${auth.text}`);
      checked(auth);
    }
  },
);

fuzz("random TCP disturbs nobody", async (random, stage) => {
  const valid = [
    "GET /app/app-key?protocol=7 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "GET /pusher.js HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /apps/app-id/events?auth_key=app-key HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    "POST /pusher/auth HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 13\r\n\r\nsocket_id=1.1",
  ];
  for (let round = 0; round < 150; round++) {
    using raw = await stage.server.raw();
    const text = random.damage(random.of(valid), SPICE).toWellFormed();
    await raw.write(
      random.next() < 0.2 ? random.bytes(random.below(2_000)) : text,
    );
  }
});
