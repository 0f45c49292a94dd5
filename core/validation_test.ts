import { assert, assertEquals, assertFalse, assertThrows } from "@std/assert";
import type { Encryption } from "./calls.ts";
import {
  DEFAULT_LIMITS,
  isRefusal,
  type Limits,
  quote,
  type Refusal,
} from "./limits.ts";
import { parseChannelName } from "./protocol.ts";
import {
  checkChannelName,
  checkClientEvent,
  checkMember,
  checkPresenceName,
  checkSocketId,
  checkUser,
  checkUserId,
  checkUserInfoSize,
  encodeClientData,
  encodeMember,
  encodeUser,
  parseBatch,
  parsePublish,
  type Publish,
  type Seal,
  sharedSecretOf,
} from "./validation.ts";

const LIMITS = DEFAULT_LIMITS;

/** What a check says: a value, or the status, limit and text of a refusal. */
function verdict<T>(value: T | Refusal): T | [number, string | null, string] {
  if (!isRefusal(value)) return value;
  return [value.status, value.limit ?? null, value.error];
}

/** The status and the limit of a refusal; null for a value. */
function refusal(value: unknown): [number, string | null] | null {
  if (!isRefusal(value)) return null;
  return [value.status, value.limit ?? null];
}

// ---- Limits at N and N + 1 --------------------------------------------------

const publishing = { name: "a", channel: "news", data: "" };

/** A check of each limit, of something of a size. */
const LIMIT_CASES: [
  limit: keyof Limits,
  figure: number,
  check: (size: number, limits: Limits) => unknown,
  status: number,
][] = [
  [
    "channelNameLength",
    200,
    (size, limits) => checkChannelName("c".repeat(size), limits),
    400,
  ],
  [
    "channelNameLength",
    200,
    (size, limits) =>
      parsePublish({ ...publishing, channel: "c".repeat(size) }, limits),
    400,
  ],
  [
    "userIdLength",
    128,
    (size, limits) => checkUserId("ü".repeat(size), limits),
    400,
  ],
  [
    "userIdLength",
    128,
    (size, limits) => checkMember({ user_id: "u".repeat(size) }, limits),
    413,
  ],
  [
    "userIdLength",
    128,
    (size, limits) => checkUser({ id: "u".repeat(size) }, limits),
    400,
  ],
  [
    "userIdLength",
    128,
    (size, limits) =>
      parsePublish({
        ...publishing,
        channel: `#server-to-user-${"u".repeat(size)}`,
      }, limits),
    400,
  ],
  [
    "userInfoBytes",
    1_024,
    // {"a":""} has 8 bytes, and each ü two.
    (size, limits) =>
      checkMember({
        user_id: "1",
        user_info: { a: "ü".repeat((size - 8) / 2) + "u".repeat(size % 2) },
      }, limits),
    413,
  ],
  [
    "eventNameLength",
    200,
    (size, limits) =>
      parsePublish({ ...publishing, name: "n".repeat(size) }, limits),
    400,
  ],
  [
    "eventDataBytes",
    10_240,
    (size, limits) =>
      parsePublish({
        ...publishing,
        data: "ü".repeat(size / 2) + "u".repeat(size % 2),
      }, limits),
    413,
  ],
  [
    "eventDataBytes",
    10_240,
    // The quotation marks count, as this is what goes out.
    (size, limits) =>
      parsePublish({ ...publishing, data: ["d".repeat(size - 4)] }, limits),
    413,
  ],
  [
    "channelsPerEvent",
    100,
    (size, limits) => {
      const channels = Array.from({ length: size }, (_, i) => `c${i}`);
      return parsePublish({ ...publishing, channels }, limits);
    },
    400,
  ],
  [
    "eventsPerBatch",
    10,
    (size, limits) => parseBatch(Array(size).fill(publishing), limits),
    400,
  ],
];

Deno.test("each limit holds at its figure, and not one above it", () => {
  for (const [limit, figure, check, status] of LIMIT_CASES) {
    assertEquals(LIMITS[limit], figure, limit);
    const at = `${limit} ${check}`;
    assertEquals(refusal(check(figure, LIMITS)), null, at);
    assertEquals(refusal(check(figure + 1, LIMITS)), [status, limit], at);
    const lower = { ...LIMITS, [limit]: figure - 1 };
    assertEquals(refusal(check(figure, lower)), [status, limit], at);
    const none = { ...LIMITS, [limit]: Infinity };
    assertEquals(refusal(check(figure + 1, none)), null, at);
  }
});

Deno.test("what is past a limit is counted in its refusal", () => {
  const cases: [refused: unknown, error: string][] = [
    [
      checkChannelName("c".repeat(201), LIMITS),
      "Channel name has 201 characters: the limit channelNameLength is 200",
    ],
    [
      checkUserId("u".repeat(129), LIMITS),
      "The user id has 129 characters: the limit userIdLength is 128",
    ],
    [
      checkUserInfoSize(`"${"ü".repeat(600)}"`, LIMITS),
      "user_info has 1202 bytes: the limit userInfoBytes is 1024",
    ],
    [
      parsePublish({ ...publishing, data: "ü".repeat(6_000) }, LIMITS),
      "Data has 12000 bytes: the limit eventDataBytes is 10240",
    ],
    [
      parseBatch(Array(11).fill(publishing), LIMITS),
      "The batch has 11 events: the limit eventsPerBatch is 10",
    ],
  ];
  for (const [refused, error] of cases) {
    assertEquals(isRefusal(refused) && refused.error, error);
  }
});

// ---- Names and ids ----------------------------------------------------------

Deno.test("checkChannelName says the kind of a name, or why it is none", () => {
  for (const name of ["news", "private-a", "presence-cache-=@,.;"]) {
    assertEquals(checkChannelName(name, LIMITS), parseChannelName(name)!);
  }
  const rule = "may only have the characters A-Z a-z 0-9 _ - = @ , . ;";
  const cases: [name: unknown, shown: string][] = [
    ["", '""'],
    ["a b", '"a b"'],
    ["#server-to-user-7", '"#server-to-user-7"'],
    ["ü", '"ü"'],
    [1, "1"],
    [null, "null"],
    [undefined, "undefined"],
    [["news"], "an object"],
  ];
  for (const [name, shown] of cases) {
    assertEquals(
      verdict(checkChannelName(name, LIMITS)),
      [400, null, `Channel name is ${shown}, and ${rule}`],
    );
  }
});

Deno.test("checkPresenceName takes presence channels only", () => {
  for (const name of ["presence-a", "presence-cache-a"]) {
    assertEquals(refusal(checkPresenceName(name, LIMITS)), null);
  }
  assertEquals(
    verdict(checkPresenceName("private-a", LIMITS)),
    [400, null, "Only presence channels have users"],
  );
  assertEquals(refusal(checkPresenceName("presence-ü", LIMITS)), [400, null]);
});

Deno.test("checkUserId takes any string with characters", () => {
  for (const id of ["1", " ", "ü✓", "a\nb", "__proto__", "#"]) {
    assertEquals(checkUserId(id, LIMITS), id);
  }
  const rule = "and must be a string that is not empty";
  for (const id of ["", 1, null, undefined, ["1"], {}]) {
    assertEquals(
      verdict(checkUserId(id, LIMITS)),
      [400, null, `The user id is ${quote(id)}, ${rule}`],
    );
  }
});

Deno.test("checkSocketId takes two numbers joined by a dot, and shows anything else in short", () => {
  assertEquals(checkSocketId("12.34"), "12.34");
  assertEquals(
    verdict(checkSocketId("1.2:a")),
    [
      400,
      null,
      'socket_id is "1.2:a", and must be two numbers joined by a dot',
    ],
  );
  assertEquals(
    verdict(checkSocketId({ a: 1 })),
    [
      400,
      null,
      "socket_id is an object, and must be two numbers joined by a dot",
    ],
  );
});

// ---- Members and users ------------------------------------------------------

Deno.test("checkMember makes a text of an integer, and an object of no user_info", () => {
  const cases: [member: unknown, userId: string, userInfo: string][] = [
    [{ user_id: "10" }, "10", "{}"],
    [{ user_id: 10 }, "10", "{}"],
    [{ user_id: 0 }, "0", "{}"],
    [{ user_id: -5 }, "-5", "{}"],
    [{ user_id: 2 ** 53 - 1 }, "9007199254740991", "{}"],
    [{ user_id: "1", user_info: null }, "1", "{}"],
    // PHP encodes an object without fields as an empty array.
    [{ user_id: "1", user_info: [] }, "1", "{}"],
    [{ user_id: "1", user_info: {} }, "1", "{}"],
    [
      { user_id: "1", user_info: { n: [1, null], "ü": "\u2028" } },
      "1",
      '{"n":[1,null],"ü":"\u2028"}',
    ],
    [{ user_id: "1", admin: true }, "1", "{}"],
  ];
  for (const [member, userId, userInfo] of cases) {
    assertEquals(checkMember(member, LIMITS), { userId, userInfo });
  }
});

Deno.test("checkMember refuses what is no object, a user_id of another kind and a user_info that is no object", () => {
  const badData = 'channel_data must be a JSON object such as {"user_id":"1"}';
  const badId = "and must be a string that is not empty, or an integer";
  const badInfo = "and must be an object";
  const cases: [members: unknown[], error: string][] = [
    [[undefined, null, "{}", 1, [], [{ user_id: "1" }]], badData],
    [
      [
        {},
        ...["", null, true, 1.5, NaN, 2 ** 53, {}, ["1"]]
          .map((user_id) => ({ user_id })),
      ],
      badId,
    ],
    [
      [true, "a", 1, ["a"]].map((user_info) => ({ user_id: "1", user_info })),
      badInfo,
    ],
  ];
  for (const [members, rule] of cases) {
    for (const member of members) {
      const { user_id, user_info } = Object(member);
      const error = rule === badId
        ? `user_id is ${quote(user_id)}, ${rule}`
        : rule === badInfo
        ? `user_info is ${quote(user_info)}, ${rule}`
        : rule;
      assertEquals(verdict(checkMember(member, LIMITS)), [400, null, error]);
    }
  }
});

/** An object whose fields read differently the second time. */
function fickle(first: object, then: object): object {
  let reads = 0;
  return new Proxy(first, {
    ownKeys: () => Reflect.ownKeys(reads++ === 0 ? first : then),
    get: (_, name) => Reflect.get(reads <= 1 ? first : then, name),
    getOwnPropertyDescriptor: (_, name) =>
      Reflect.getOwnPropertyDescriptor(first, name),
  });
}

Deno.test("encodeMember and encodeUser return the text that they have checked", () => {
  const member = fickle({ user_id: "ann" }, { user_id: "root" });
  assertEquals(encodeMember(member, LIMITS), '{"user_id":"ann"}');
  const user = fickle({ id: "ann" }, { id: "root" });
  assertEquals(encodeUser(user, LIMITS), '{"id":"ann"}');
  // What a `toJSON` returns is what counts.
  const disguised = (value: unknown) => ({
    user_id: "ann",
    id: "ann",
    toJSON: () => value,
  });
  const root = disguised({ user_id: "root" });
  assertEquals(encodeMember(root, LIMITS), '{"user_id":"root"}');
  const rootUser = disguised({ user_id: "root", id: "root" });
  assertEquals(encodeUser(rootUser, LIMITS), '{"user_id":"root","id":"root"}');
  for (const value of [undefined, null, "ann", 1, ["ann"], { user_id: "" }]) {
    assert(isRefusal(encodeMember(disguised(value), LIMITS)), `${value}`);
    assert(isRefusal(encodeUser(disguised(value), LIMITS)), `${value}`);
  }
});

Deno.test("encodeMember refuses a field that other members would never see", () => {
  for (const name of ["userInfo", "user_Info", "name", "id"]) {
    const refusal = encodeMember({ user_id: "1", [name]: {} }, LIMITS);
    assertEquals(verdict(refusal), [
      400,
      null,
      `Unknown field "${name}", a member has user_id and user_info only`,
    ]);
  }
  // Another backend may sign what it likes.
  const signed = { user_id: "1", name: "Ann" };
  assertEquals(checkMember(signed, LIMITS), { userId: "1", userInfo: "{}" });
});

Deno.test("a user_info whose toJSON returns no object is refused", () => {
  for (const value of [undefined, null, 5, "a", ["a"], true]) {
    const user_info = { toJSON: () => value };
    for (
      const checked of [
        checkMember({ user_id: "1", user_info }, LIMITS),
        checkUser({ id: "1", user_info }, LIMITS),
      ]
    ) {
      assertEquals(verdict(checked), [
        400,
        null,
        `user_info is ${quote(user_info.toJSON())}, and must be an object`,
      ]);
    }
  }
  const user_info = { toJSON: () => ({ name: "Ann" }) };
  assertEquals(checkMember({ user_id: "1", user_info }, LIMITS), {
    userId: "1",
    userInfo: '{"name":"Ann"}',
  });
});

Deno.test("a lone surrogate is refused in a user id, and is escaped elsewhere", () => {
  for (const id of ["\ud800", "a\udc00"]) {
    const error = "The user id has a lone surrogate";
    assertEquals(verdict(checkUserId(id, LIMITS)), [400, null, error]);
    assertEquals(verdict(checkUser({ id }, LIMITS)), [400, null, error]);
    const channel = `#server-to-user-${id}`;
    const publish = parsePublish({ ...publishing, channel }, LIMITS);
    assertEquals(verdict(publish), [400, null, error]);
    assert(isRefusal(checkChannelName(`news${id}`, LIMITS)));
    assert(isRefusal(checkSocketId(`1.2${id}`)));
    const texts = [
      encodeMember({ user_id: id, user_info: { [id]: id } }, LIMITS),
      encodeUser({ id: "1", more: [id] }, LIMITS),
    ];
    for (const text of texts) {
      assert(typeof text === "string" && text.isWellFormed(), `${text}`);
    }
    const event = parsePublish({ ...publishing, data: { a: id } }, LIMITS);
    assert(!isRefusal(event) && event.message.data.isWellFormed());
  }
});

Deno.test("checkUser takes an id, user_info and a watchlist of distinct ids", () => {
  assertEquals(checkUser({ id: "7" }, LIMITS), {
    id: "7",
    userInfo: "{}",
    watchlist: [],
  });
  assertEquals(
    checkUser(
      {
        id: "ü",
        user_info: { n: 1 },
        watchlist: ["a", 1, "b", "", null, "a", "u".repeat(129), "ü"],
        more: true,
      },
      LIMITS,
    ),
    { id: "ü", userInfo: '{"n":1}', watchlist: ["a", "b", "ü"] },
  );
  // How many of them are watched is for the watchlist to say.
  const watchlist = Array.from({ length: 500 }, (_, i) => `${i}`);
  const user = checkUser({ id: "7", watchlist }, LIMITS);
  assertFalse(isRefusal(user) || user.watchlist.length !== 500);
});

Deno.test("checkUser refuses an id that is no string, and other fields of the wrong kind", () => {
  const badId = (id: string) =>
    `The user id is ${id}, and must be a string that is not empty`;
  const cases: [users: unknown[], error: string][] = [
    [
      [null, "{}", 1, []],
      'user_data must be a JSON object such as {"id":"1"}',
    ],
    [[{}, { user_id: "7" }], badId("undefined")],
    [[{ id: 7 }], badId("7")],
    [[{ id: "" }], badId('""')],
    [[{ id: "7", user_info: "a" }], 'user_info is "a", and must be an object'],
    [[{ id: "7", watchlist: "a" }], 'watchlist is "a", and must be an array'],
    [
      [{ id: "7", watchlist: { 0: "a" } }],
      "watchlist is an object, and must be an array",
    ],
  ];
  for (const [users, error] of cases) {
    for (const user of users) {
      assertEquals(verdict(checkUser(user, LIMITS)), [400, null, error]);
    }
  }
  const user = checkUser({ id: "7", watchlist: null }, LIMITS);
  assertEquals(refusal(user), null);
});

Deno.test("the user_info of a user is limited only where a presence channel tells of it", () => {
  const user_info = { a: "a".repeat(2_000) };
  const user = checkUser({ id: "7", user_info }, LIMITS);
  assert(!isRefusal(user));
  assertEquals(refusal(checkUserInfoSize(user.userInfo, LIMITS)), [
    413,
    "userInfoBytes",
  ]);
});

// ---- Publishes --------------------------------------------------------------

/** What a publish says of its channels and its message. */
function published(fields: Record<string, unknown>) {
  const publish = parsePublish(fields, LIMITS);
  if (isRefusal(publish)) return publish.error;
  const { channels, message, info } = publish;
  return { channels: channels.map(({ name }) => name), message, info };
}

Deno.test("parsePublish takes channels before channel, each name once", () => {
  const message = { event: "a", data: "d", logged: true };
  const cases: [fields: Record<string, unknown>, channels: string[]][] = [
    [{ channel: "a" }, ["a"]],
    [{ channels: ["a", "b", "a"] }, ["a", "b"]],
    [{ channels: ["a"], channel: "b" }, ["a"]],
    [{ channels: null, channel: "b" }, ["b"]],
    [{ channels: ["#server-to-user-a b"] }, ["#server-to-user-a b"]],
  ];
  for (const [fields, channels] of cases) {
    const found = published({ name: "a", data: "d", ...fields });
    assertEquals(found, { channels, message, info: [] });
  }
});

Deno.test("parsePublish sends a string as it is, and anything else as JSON", () => {
  const cases: [data: unknown, sent: string][] = [
    ["", ""],
    ["text", "text"],
    ['{"a":1}', '{"a":1}'],
    [{ a: 1 }, '{"a":1}'],
    [[], "[]"],
    [null, "null"],
    [0, "0"],
    [false, "false"],
    ["\u2028\ud83d", "\u2028\ud83d"],
  ];
  for (const [data, sent] of cases) {
    const found = published({ name: "a", channel: "news", data });
    assertEquals(typeof found === "object" && found.message.data, sent);
  }
});

Deno.test("parsePublish takes a socket_id, and a list of what to be told", () => {
  assertEquals(
    published({
      ...publishing,
      socket_id: "1.2",
      info: "user_count,subscription_count",
    }),
    {
      channels: ["news"],
      message: { event: "a", data: "", exceptSocketId: "1.2", logged: true },
      info: ["subscription_count", "user_count"],
    },
  );
  const none = published({ ...publishing, socket_id: null, info: "" });
  assertEquals(none, published(publishing));
});

Deno.test("parsePublish takes any name that is not reserved", () => {
  for (const name of ["a.b\\c", "ü ", "client-a", "pusher", "Pusher:a"]) {
    assertEquals(typeof published({ ...publishing, name }), "object", name);
  }
  for (const name of ["pusher:a", "pusher_internal:", "pusher:"]) {
    assertEquals(
      published({ ...publishing, name }),
      `Event name "${name}" is reserved: no name may start with pusher: or pusher_internal:`,
    );
  }
});

Deno.test("parsePublish refuses a field that is missing or wrong, and says which", () => {
  const noName = (name: string) =>
    `The event's name is ${name}, and must be a string that is not empty`;
  const noChannels = (channels: string) =>
    `channels is ${channels}, and must be an array with at least one channel name`;
  const noData = (data: string) =>
    `The event's data is ${data}, and must be a string, or a value that JSON can hold`;
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;
  const badName = /^Channel name is .*, and may only have/;
  const cases: [fields: Record<string, unknown>, error: string | RegExp][] = [
    [{ name: undefined }, noName("undefined")],
    [{ name: "" }, noName('""')],
    [{ name: ["a"] }, noName("an object")],
    [{ data: undefined }, noData("undefined")],
    [{ data: () => {} }, noData("a function")],
    [{ data: Symbol("d") }, noData("Symbol(d)")],
    [{ data: 1n }, `${noData("1")}: Do not know how to serialize a BigInt`],
    [
      { data: cyclic },
      `${noData("an object")}: Converting circular structure to JSON`,
    ],
    [{ channel: undefined }, "The event has no channel"],
    [{ channels: [] }, noChannels("an empty array")],
    [{ channels: "news" }, noChannels('"news"')],
    [{ channels: { 0: "news", length: 1 } }, noChannels("an object")],
    [{ channel: null }, badName],
    [{ channel: ["news"] }, badName],
    [{ channels: ["news", "a b"] }, badName],
    [{ channels: ["news", 1] }, badName],
    [{ channel: "#watchers-of-7" }, badName],
    [
      { channel: "#server-to-user-" },
      /^The user id is "", and must be a string/,
    ],
    [{ socket_id: "1" }, /^socket_id is "1", and must be/],
    [{ socket_id: 1.2 }, /^socket_id is 1.2, and must be/],
    [{ info: "cache" }, /^info is "cache", and must be/],
    [{ info: 1 }, /^info is 1, and must be/],
  ];
  for (const [fields, error] of cases) {
    const refused = parsePublish({ ...publishing, ...fields }, LIMITS);
    assert(isRefusal(refused));
    assertEquals(refused.status, 400);
    const isRight = error instanceof RegExp
      ? error.test(refused.error)
      : error === refused.error;
    assert(isRight, `${refused.error} for ${error}`);
  }
});

Deno.test("parsePublish checks the name, then the data, then the channels, then the rest", () => {
  const wrong: Record<string, unknown> = {
    name: "pusher:a",
    data: "d".repeat(10_241),
    channel: "a b",
    socket_id: "1",
    info: "x",
  };
  const order = [
    "Event name",
    "Data has",
    "Channel name",
    "socket_id is",
    "info is",
  ];
  for (
    const [field, start] of Object.keys(wrong).map((f, i) => [f, order[i]])
  ) {
    const refused = parsePublish(wrong, LIMITS);
    assert(isRefusal(refused) && refused.error.startsWith(start!), start);
    wrong[field!] = { ...publishing, socket_id: null, info: null }[field!];
  }
  assertEquals(refusal(parsePublish(wrong, LIMITS)), null);
});

Deno.test("parsePublish has data sealed for the channels that were checked, and measures what comes of it", () => {
  const sealed: unknown[] = [];
  const seal: Seal = (channels, data, event) => {
    sealed.push([channels.map(({ name }) => name), data, event]);
    return "s".repeat(10_241);
  };
  const fields = {
    name: "a",
    channels: ["private-encrypted-a"],
    data: { a: 1 },
  };
  assertEquals(refusal(parsePublish(fields, LIMITS, seal)), [
    413,
    "eventDataBytes",
  ]);
  assertEquals(sealed, [[["private-encrypted-a"], { a: 1 }, "a"]]);
  // Nothing is sealed for a channel that is refused, or without data.
  parsePublish({ ...fields, channels: ["a b"] }, LIMITS, seal);
  parsePublish({ ...fields, data: undefined }, LIMITS, seal);
  assertEquals(sealed.length, 1);
});

Deno.test("parsePublish and parseBatch read each field once, and publish what they have checked", () => {
  const seal: Seal = (channels, data) =>
    channels.some(({ kind }) => kind.encrypted) ? "sealed" : data;
  /** An event whose fields each answer once as given, then with others. */
  const fields = (first: object) => {
    const read = new Set<PropertyKey>();
    return new Proxy({ name: "a", data: "clear", ...first }, {
      get(target, name) {
        const again = { name: "a", channel: "news", channels: ["news"] };
        const source = read.has(name) ? again : target;
        read.add(name);
        return Reflect.get(source, name);
      },
    });
  };
  const encrypted = "private-encrypted-a";
  const cases: [publish: unknown, channel: string, data: string][] = [
    [
      parsePublish(fields({ channels: [encrypted] }), LIMITS, seal),
      encrypted,
      "sealed",
    ],
    [
      parsePublish(fields({ channel: encrypted }), LIMITS, seal),
      encrypted,
      "sealed",
    ],
    [
      parsePublish(
        { ...publishing, channel: "news", channels: [encrypted] },
        LIMITS,
        seal,
      ),
      encrypted,
      "sealed",
    ],
    [
      parsePublish(
        {
          ...publishing,
          data: "clear",
          channel: encrypted,
          channels: ["news"],
        },
        LIMITS,
        seal,
      ),
      "news",
      "clear",
    ],
    [
      [parseBatch([fields({ channel: encrypted })], LIMITS, seal)].flat()[0],
      encrypted,
      "sealed",
    ],
    [
      [
        parseBatch(
          [{ ...publishing, channel: encrypted, channels: ["news"] }],
          LIMITS,
          seal,
        ),
      ].flat()[0],
      encrypted,
      "sealed",
    ],
  ];
  for (const [publish, channel, data] of cases) {
    assert(!isRefusal(publish));
    const { channels, message } = publish as Publish;
    assertEquals(channels.map(({ name }) => name), [channel]);
    assertEquals(message.data, data);
  }
  // A list is copied before it is counted.
  const names = Object.assign(["news"], {
    *[Symbol.iterator]() {
      for (let i = 0; i < 101; i++) yield `news${i}`;
    },
  });
  assertEquals(
    refusal(parsePublish({ ...publishing, channels: names }, LIMITS)),
    [400, "channelsPerEvent"],
  );
});

// ---- Batches ----------------------------------------------------------------

Deno.test("parseBatch takes events in their order, with one channel each", () => {
  const batch = ["a", "b", "a"].map((name) => ({ ...publishing, name }));
  const publishes = parseBatch(batch, LIMITS);
  assert(!isRefusal(publishes));
  assertEquals(publishes.map(({ message }) => message.event), ["a", "b", "a"]);
});

Deno.test("parseBatch refuses the batch for one event that is wrong", () => {
  const rule = "and must be an array with at least one event";
  const cases: [batch: unknown, error: string][] = [
    [undefined, `The batch is undefined, ${rule}`],
    [{}, `The batch is an object, ${rule}`],
    [[], `The batch is an empty array, ${rule}`],
    [[publishing, null], "batch[1]: The event is null, and must be an object"],
    [["a", publishing], 'batch[0]: The event is "a", and must be an object'],
    [
      [publishing, {}],
      "batch[1]: The event's name is undefined, and must be a string that is not empty",
    ],
    // Several channels are for a single event.
    [
      [{ name: "a", data: "", channels: ["news"] }],
      "batch[0]: The event has no channel",
    ],
  ];
  for (const [batch, error] of cases) {
    assertEquals(verdict(parseBatch(batch, LIMITS)), [400, null, error]);
  }
  const large = { ...publishing, data: "d".repeat(10_241) };
  const refused = parseBatch([publishing, large], LIMITS);
  assert(isRefusal(refused));
  assertEquals([refused.status, refused.limit], [413, "eventDataBytes"]);
});

Deno.test("parseBatch does not change the events that it is given", () => {
  const event = Object.freeze({ ...publishing, channels: ["ignored"] });
  const publishes = parseBatch([event], LIMITS);
  assert(!isRefusal(publishes));
  assertEquals(publishes[0]?.channels.map(({ name }) => name), ["news"]);
});

// ---- Client events ----------------------------------------------------------

Deno.test("checkClientEvent judges the app, the channel, the subscription and the name in this order", () => {
  const app = { clientEvents: true, limits: LIMITS };
  const check = (
    { name = "client-a", isSubscribed = true },
    channel = "private-a",
    changes: Partial<typeof app> = {},
  ) => checkClientEvent(name, channel, isSubscribed, { ...app, ...changes });
  const long = { name: "n".repeat(201) };
  const wrong = { ...long, isSubscribed: false };
  const onlyFor = "Client events are for private and presence channels";
  const cases: [found: string | null, expected: string | null][] = [
    [check({}), null],
    [check({}, "presence-cache-a"), null],
    [check({}, "private-encrypted-a"), null],
    [
      check(wrong, "news", { clientEvents: false }),
      "Client events are not enabled: give the server the option `clientEvents: true`",
    ],
    [check(wrong, "news"), onlyFor],
    [check(long, "news"), onlyFor],
    [check(wrong, "cache-a"), onlyFor],
    [check(wrong, "#server-to-user-7"), onlyFor],
    [check(long, "#server-to-user-7"), onlyFor],
    [check(wrong, "a b"), onlyFor],
    [check(wrong), "Client events are for subscribers of the channel"],
    [
      check(long),
      "Event name has 201 characters: the limit eventNameLength is 200",
    ],
    [check({ name: "n".repeat(200) }), null],
  ];
  for (const [found, expected] of cases) assertEquals(found, expected);
});

Deno.test("encodeClientData takes data of any kind, up to the limit", () => {
  const encode = (data: unknown) => {
    const found = encodeClientData(data, LIMITS);
    return isRefusal(found) ? found.error : found;
  };
  assertEquals(encode(undefined), undefined);
  assertEquals(encode("text"), "text");
  assertEquals(encode({ a: [1, null] }), '{"a":[1,null]}');
  assertEquals(encode(null), "null");
  assertEquals(encode("d".repeat(10_240)), "d".repeat(10_240));
  const error = "Data has 10241 bytes: the limit eventDataBytes is 10240";
  assertEquals(encode("d".repeat(10_241)), error);
  assertEquals(encode(["d".repeat(10_237)]), error);
});

Deno.test("sharedSecretOf takes a string alone from the encryption option", () => {
  const channel = "private-encrypted-a";
  const optionOf = (secret: unknown) =>
    ({
      encrypt: () => "",
      sharedSecret: () => secret,
    }) as unknown as Encryption;
  assertEquals(sharedSecretOf(undefined, channel), undefined);
  assertEquals(sharedSecretOf(optionOf("c2VjcmV0"), channel), "c2VjcmV0");
  for (const secret of [undefined, null, 7, {}, Promise.resolve("tofu")]) {
    const { message } = assertThrows(
      () => sharedSecretOf(optionOf(secret), channel),
      TypeError,
      "did not return a string",
    );
    assertFalse(message.includes("tofu"), message);
  }
});
