import { assert, assertEquals, assertFalse, assertMatch } from "@std/assert";
import { isRefusal, Refusal } from "./limits.ts";
import {
  announceUser,
  type ChannelKind,
  checkVersion,
  clipReason,
  CLOSE,
  decodeData,
  decodeFrame,
  encodeError,
  encodeFrame,
  encodeMessage,
  encodeRecoveryFailed,
  encodeSubscribed,
  encodeWatchlist,
  ERROR,
  INBOUND,
  isOwnChannel,
  isSocketId,
  kindOf,
  memberAddedMessage,
  memberRemovedMessage,
  OUTBOUND,
  OWN_CHANNEL,
  parseChannelName,
  parseJson,
  PING_FRAME,
  PONG_FRAME,
  randomSocketId,
  REFUSAL,
  RESERVED_EVENT,
} from "./protocol.ts";

// ---- Names and codes --------------------------------------------------------

Deno.test("no event is both the client's and the server's, and each of them is reserved", () => {
  const names = [...Object.values(INBOUND), ...Object.values(OUTBOUND)];
  assertEquals(new Set(names).size, names.length);
  for (const name of names) assertMatch(name, RESERVED_EVENT);
  for (const name of ["pusher", "pusherx:a", "xpusher:a", "client-pusher:a"]) {
    assertFalse(RESERVED_EVENT.test(name), name);
  }
});

Deno.test("each close has a code that clients know, and a reason that fits its frame", () => {
  for (const { code, message } of Object.values(CLOSE)) {
    assertMatch(String(code), /^(1003|1011|40\d\d|41\d\d|42\d\d)$/);
    assert(new TextEncoder().encode(message).length <= 123, message);
    assertMatch(message, /^[A-Z].*[^.]$/);
  }
});

Deno.test("a client stays away after a refusal, and comes back after anything that passes", () => {
  const closes = Object.entries(CLOSE);
  const within = (from: number, to: number) =>
    closes.filter(([, { code }]) => code >= from && code <= to)
      .map(([name]) => name);
  const overTls = within(4000, 4000);
  const forGood = within(4001, 4099);
  const afterASecond = [...within(1000, 3999), ...within(4100, 4199)];
  const atOnce = within(4200, 4299);
  assertEquals(overTls, ["TlsOnly"]);
  assertEquals(forGood, [
    "UnknownApp",
    "AppDisabled",
    "AppFull",
    "VersionMalformed",
    "VersionUnsupported",
    "VersionMissing",
    "OriginRefused",
    "Terminated",
    "NotAuthorized",
  ]);
  assertEquals(afterASecond, [
    "SendFailed",
    "BinaryFrame",
    "ServerFull",
    "ShuttingDown",
    "SlowPeer",
    "BackplaneAway",
    "Flood",
  ]);
  assertEquals(atOnce, ["Reconnect", "NoPong"]);
  const codes = Object.fromEntries(
    closes.map(([name, { code }]) => [name, code]),
  );
  const { UnknownApp, AppDisabled, AppFull, VersionMalformed } = codes;
  assertEquals([UnknownApp, AppDisabled, AppFull], [4001, 4003, 4004]);
  const { VersionUnsupported, VersionMissing, Reconnect, NoPong } = codes;
  assertEquals(
    [VersionMalformed, VersionUnsupported, VersionMissing],
    [4006, 4007, 4008],
  );
  assertEquals([Reconnect, NoPong], [4200, 4201]);
});

Deno.test("errors that leave a connection open have the codes of the protocol", () => {
  assertEquals({ ...ERROR }, {
    SignIn: 4009,
    Generic: 4300,
    ClientEvent: 4301,
    Watchlist: 4302,
  });
});

Deno.test("each refusal has an HTTP status, and a sentence without a full stop", () => {
  for (const [name, refusal] of Object.entries(REFUSAL)) {
    assert(refusal.status >= 400 && refusal.status < 600, name);
    assertMatch(refusal.error, /^[A-Z].*[^.]$/);
  }
});

Deno.test("clipReason cuts a reason to the 123 bytes of a close frame, at a whole character", () => {
  const cases: [reason: string, clipped: string][] = [
    ["", ""],
    ["a".repeat(123), "a".repeat(123)],
    ["a".repeat(124), "a".repeat(123)],
    ["é".repeat(62), "é".repeat(61)],
    [`${"a".repeat(120)}😀`, "a".repeat(120)],
  ];
  for (const [reason, clipped] of cases) {
    assertEquals(clipReason(reason), clipped);
  }
});

Deno.test("checkVersion speaks protocol 4 to 7, and missing ones unless it is strict", () => {
  const cases: [version: string | null, code: number | undefined][] = [
    [null, undefined],
    // Pusher ended the support of 1, 2 and 3.
    ["1", 4007],
    ["2", 4007],
    ["3", 4007],
    ["4", undefined],
    ["5", undefined],
    ["6", undefined],
    ["7", undefined],
    ["8", 4007],
    ["0", 4007],
    ["-7", 4007],
    ["99999999999999999999", 4007],
    ["abc", 4006],
    ["", 4006],
    ["7.0", 4006],
    ["7 ", 4006],
    ["7\n", 4006],
    ["0x7", 4006],
    ["NaN", 4006],
  ];
  for (const [version, code] of cases) {
    assertEquals(checkVersion(version, false)?.code, code, `${version}`);
    const strict = version === null ? 4008 : code;
    assertEquals(checkVersion(version, true)?.code, strict, `${version}`);
  }
  assertEquals(
    checkVersion("9".repeat(1_000), false)?.message,
    `Protocol version "${"9".repeat(20)}" is not supported, use 7`,
  );
});

// ---- Channels ---------------------------------------------------------------

Deno.test("a channel's kind follows from the longest prefix at the start of its name", () => {
  const cases: [name: string, prefix: string, traits: string][] = [
    ["news", "", ""],
    ["mycache-x", "", ""],
    ["Private-a", "", ""],
    ["private", "", ""],
    ["x-private-a", "", ""],
    ["cache-a", "cache-", "cache"],
    ["private-a", "private-", "auth"],
    ["private-", "private-", "auth"],
    ["private-cache", "private-", "auth"],
    ["private-cache-a", "private-cache-", "auth cache"],
    ["private-encrypted-a", "private-encrypted-", "auth encrypted"],
    [
      "private-encrypted-cache-a",
      "private-encrypted-cache-",
      "auth encrypted cache",
    ],
    ["presence-a", "presence-", "auth presence"],
    ["presence-cache-a", "presence-cache-", "auth presence cache"],
    // No such class: it is a presence channel with an odd name.
    ["presence-encrypted-a", "presence-", "auth presence"],
  ];
  const traits = ["auth", "presence", "encrypted", "cache"] as const;
  const describe = (kind: ChannelKind | null) => [
    kind?.prefix,
    traits.filter((trait) => kind?.[trait]).join(" "),
  ];
  for (const [name, prefix, found] of cases) {
    assertEquals(describe(parseChannelName(name)), [prefix, found], name);
    assertEquals(kindOf(name), parseChannelName(name), name);
  }
});

Deno.test("a channel name has the characters of the protocol, and no others", () => {
  const alphabet = "ABCXYZabcxyz0189_-=@,.;";
  assert(parseChannelName(alphabet));
  for (const char of alphabet) assert(parseChannelName(char), char);
  for (const char of " !\"#$%&'()*+/:<>?[\\]^`{|}~\t\n\0é✓") {
    assertEquals(parseChannelName(char), null, char);
    assertEquals(parseChannelName(`a${char}`), null, char);
    assertEquals(parseChannelName(`${char}a`), null, char);
  }
  assertEquals(parseChannelName(""), null);
});

Deno.test("a channel between servers is no client's, whatever follows its first character", () => {
  for (const name of Object.values(OWN_CHANNEL).map((own) => `${own}7`)) {
    assert(isOwnChannel(name));
    assertEquals(parseChannelName(name), null);
    const { auth, presence, encrypted, cache } = kindOf(name);
    assertEquals([auth, presence, encrypted, cache], Array(4).fill(false));
  }
  assertEquals(kindOf("#private-cache-a").auth, false);
  assertFalse(isOwnChannel("a#"));
});

Deno.test("a socket id is two numbers joined by a dot, and nothing else", () => {
  for (const id of ["1.2", "123456.7654321", "0.0", "00.01"]) {
    assert(isSocketId(id), id);
  }
  const wrong = ["", "1", "1.", ".2", "1.2.3", "1.2:a", "-1.2", "1,2", "a.b"];
  for (const id of [...wrong, "1.2\n", " 1.2", 1.2, null, ["1.2"]]) {
    assertFalse(isSocketId(id), `${id}`);
  }
});

Deno.test("a random socket id is one, differs from the last and is in the range of signed integers", () => {
  const ids = Array.from({ length: 1_000 }, () => randomSocketId());
  assertEquals(new Set(ids).size, ids.length);
  for (const id of ids) {
    assert(isSocketId(id));
    for (const half of id.split(".")) {
      assert(Number(half) >= 1 && Number(half) <= 0x7fff_ffff, id);
    }
  }
});

Deno.test("a user's first and last connection is announced to the watchers, and nothing else is", () => {
  assertEquals(announceUser(`${OWN_CHANNEL.User}a b`, "online"), {
    channel: `${OWN_CHANNEL.Watchers}a b`,
    message: { event: "online", control: "online" },
  });
  for (const channel of ["news", `${OWN_CHANNEL.Watchers}7`]) {
    assertEquals(announceUser(channel, "offline"), undefined);
  }
});

// ---- Frames in --------------------------------------------------------------

Deno.test("decodeFrame takes an object with an event, and leaves the rest unchecked", () => {
  const cases: [
    text: string,
    event: string,
    channel: unknown,
    data: unknown,
  ][] = [
    ['{"event":"a"}', "a", undefined, undefined],
    ['{"event":"","channel":1,"data":[1]}', "", 1, [1]],
    [' {"event":"a","x":1,"data":"{}"} ', "a", undefined, "{}"],
    ['{"event":"a","event":"b"}', "b", undefined, undefined],
    ['{"__proto__":{"channel":"a"},"event":"a"}', "a", undefined, undefined],
  ];
  for (const [text, event, channel, data] of cases) {
    assertEquals(decodeFrame(text), { event, channel, data }, text);
  }
});

Deno.test("decodeFrame refuses a text that is no JSON object, and an object without an event", () => {
  const cases: [texts: string[], error: string][] = [
    [
      ["", "a", "{", "null", "1", '"a"', "[]", '[{"event":"a"}]', "\0"],
      "Frame is not a JSON object",
    ],
    [
      ["{}", '{"event":1}', '{"event":null}', '{"Event":"a"}'],
      "Frame has no event that is a string",
    ],
    [['{"event":["a"]}'], "Frame has no event that is a string"],
  ];
  for (const [texts, error] of cases) {
    for (const text of texts) {
      assertEquals(decodeFrame(text), new Refusal(400, error), text);
    }
  }
});

Deno.test("decodeFrame takes a frame of any depth without an exception", () => {
  const deep = "[".repeat(30_000) + "]".repeat(30_000);
  const frame = decodeFrame(`{"event":"a","data":${deep}}`);
  // The runtime's parser may refuse such a depth, but it must not throw.
  assert(isRefusal(frame) || frame.event === "a");
});

Deno.test("decodeData takes an object, or one as JSON text", () => {
  const cases: [data: unknown, decoded: Record<string, unknown> | null][] = [
    [{ a: 1 }, { a: 1 }],
    ['{"a":1}', { a: 1 }],
    ["{}", {}],
    ["", null],
    ["a", null],
    ["[]", null],
    ["null", null],
    ['"{}"', null],
    [[], null],
    [null, null],
    [undefined, null],
    [1, null],
  ];
  for (const [data, decoded] of cases) assertEquals(decodeData(data), decoded);
});

Deno.test("parseJson tells null from a text that is not JSON", () => {
  assertEquals(parseJson("null"), null);
  assertEquals(parseJson("nul"), undefined);
  assertEquals(parseJson("0"), 0);
});

// ---- Frames out -------------------------------------------------------------

Deno.test("frames have the bytes of the protocol's documentation", () => {
  const frames: [frame: string, expected: string][] = [
    [PING_FRAME, '{"event":"pusher:ping","data":"{}"}'],
    [PONG_FRAME, '{"event":"pusher:pong","data":"{}"}'],
    [
      encodeFrame({
        event: OUTBOUND.Established,
        data: JSON.stringify({
          socket_id: "123456.7654321",
          activity_timeout: 120,
        }),
      }),
      '{"event":"pusher:connection_established","data":"{\\"socket_id\\":\\"123456.7654321\\",\\"activity_timeout\\":120}"}',
    ],
    [
      encodeError(4001, "No app has this key"),
      '{"event":"pusher:error","data":{"code":4001,"message":"No app has this key"}}',
    ],
    [
      encodeError(ERROR.ClientEvent, "Too fast", "private-a"),
      '{"event":"pusher:error","channel":"private-a","data":{"code":4301,"message":"Too fast"}}',
    ],
    [
      encodeSubscribed("news", null),
      '{"event":"pusher_internal:subscription_succeeded","channel":"news","data":"{}"}',
    ],
    [
      encodeSubscribed("presence-b", new Map([["10", '{"n":1}'], ["x", "{}"]])),
      '{"event":"pusher_internal:subscription_succeeded","channel":"presence-b","data":"{\\"presence\\":{\\"ids\\":[\\"10\\",\\"x\\"],\\"hash\\":{\\"10\\":{\\"n\\":1},\\"x\\":{}},\\"count\\":2}}"}',
    ],
    [
      encodeMessage(
        "presence-b",
        memberAddedMessage({ userId: "10", userInfo: '{"n":1}' }, "1.2"),
      ),
      '{"event":"pusher_internal:member_added","channel":"presence-b","data":"{\\"user_id\\":\\"10\\",\\"user_info\\":{\\"n\\":1}}"}',
    ],
    [
      encodeMessage("presence-b", memberRemovedMessage("10")),
      '{"event":"pusher_internal:member_removed","channel":"presence-b","data":"{\\"user_id\\":\\"10\\"}"}',
    ],
    [
      encodeMessage("presence-b", {
        event: "client-x",
        data: '{"a":1}',
        userId: "10",
        exceptSocketId: "1.2",
      }),
      '{"event":"client-x","channel":"presence-b","data":"{\\"a\\":1}","user_id":"10"}',
    ],
    [
      encodeMessage("private-a", { event: "client-x", logged: true }),
      '{"event":"client-x","channel":"private-a"}',
    ],
    [
      encodeMessage("news", { event: "a", data: "" }),
      '{"event":"a","channel":"news","data":""}',
    ],
    [
      encodeFrame({ event: OUTBOUND.CacheMiss, channel: "cache-x" }),
      '{"event":"pusher:cache_miss","channel":"cache-x"}',
    ],
    [
      encodeMessage("news", {
        event: OUTBOUND.SubscriptionCount,
        data: JSON.stringify({ subscription_count: 3 }),
      }),
      '{"event":"pusher_internal:subscription_count","channel":"news","data":"{\\"subscription_count\\":3}"}',
    ],
    [
      encodeFrame({
        event: OUTBOUND.SignedIn,
        data: JSON.stringify({ user_data: '{"id":"12345"}' }),
      }),
      '{"event":"pusher:signin_success","data":"{\\"user_data\\":\\"{\\\\\\"id\\\\\\":\\\\\\"12345\\\\\\"}\\"}"}',
    ],
    [
      encodeWatchlist([
        { name: "online", user_ids: ["7"] },
        { name: "offline", user_ids: ["8", "9"] },
      ]),
      '{"event":"pusher_internal:watchlist_events","data":"{\\"events\\":[{\\"name\\":\\"online\\",\\"user_ids\\":[\\"7\\"]},{\\"name\\":\\"offline\\",\\"user_ids\\":[\\"8\\",\\"9\\"]}]}"}',
    ],
    [
      encodeRecoveryFailed("news", undefined),
      '{"event":"pusher:recovery_failed","channel":"news","data":"{\\"channel\\":\\"news\\"}"}',
    ],
  ];
  for (const [frame, expected] of frames) assertEquals(frame, expected);
});

Deno.test("a client that recovers gets positions, outside of the data", () => {
  const position = { epoch: "e", offset: 7 };
  assertEquals(
    JSON.parse(encodeSubscribed("news", null, { position, recovered: true })),
    {
      event: OUTBOUND.Subscribed,
      channel: "news",
      data: "{}",
      position,
      recovered: true,
    },
  );
  const members = new Map([["1", "{}"]]);
  const frame = JSON.parse(
    encodeSubscribed("presence-a", members, { position }),
  );
  assertEquals(frame.position, position);
  assertEquals(JSON.parse(frame.data).presence.count, 1);
  assertEquals(
    JSON.parse(encodeRecoveryFailed("news", position)).position,
    position,
  );
});

Deno.test("a member list keeps any user id and info, and lists each user by an own name", () => {
  const ids = ["__proto__", "constructor", 'a"\n', "ü✓😀", "\u2028", "0"];
  const info = '{"name":"\u2028\\u0000 \\"quoted\\""}';
  const members = new Map(ids.map((id) => [id, info]));
  const frame = JSON.parse(encodeSubscribed("presence-a", members));
  const { presence } = JSON.parse(frame.data);
  assertEquals(presence.ids, ids);
  assertEquals(presence.count, ids.length);
  for (const id of ids) {
    assertEquals(Object.hasOwn(presence.hash, id), true, id);
    const found = Object.getOwnPropertyDescriptor(presence.hash, id)?.value;
    assertEquals(found, JSON.parse(info), id);
  }
  const none = JSON.parse(encodeSubscribed("presence-a", new Map()));
  assertEquals(none.data, '{"presence":{"ids":[],"hash":{},"count":0}}');
});

Deno.test("a member list is encoded once, for all clients that get it", () => {
  let reads = 0;
  class Members extends Map<string, string> {
    override keys() {
      reads++;
      return super.keys();
    }
  }
  const members = new Members([["1", "{}"]]);
  const frames = ["presence-a", "presence-a"].map((channel) =>
    encodeSubscribed(channel, members)
  );
  assertEquals(frames[0], frames[1]);
  assertEquals(reads, 1);
});

Deno.test("a new member is announced to all but its own connection, a leaving one to all", () => {
  const added = memberAddedMessage({ userId: 'a"', userInfo: "{}" }, "1.2");
  assertEquals(added, {
    event: OUTBOUND.MemberAdded,
    data: '{"user_id":"a\\"","user_info":{}}',
    exceptSocketId: "1.2",
  });
  assertEquals(memberRemovedMessage('a"'), {
    event: OUTBOUND.MemberRemoved,
    data: '{"user_id":"a\\""}',
  });
});
