/**
 * Every signature that has a published example: of channels, of users, of
 * requests and of webhooks.
 */
import { Pusher, type UserData } from "@glitz/pusher";
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  type Answer,
  APP,
  read,
  serve,
  signedRequest,
} from "../support/server.ts";
import { sdk } from "../support/stock.ts";
import { signIn } from "../support/users.ts";
import { DOCS, hmac, userAuth } from "../support/wire.ts";

// ---- Channels ---------------------------------------------------------------

/** Published examples of channel signatures. */
const VECTORS: [
  socketId: string,
  channel: string,
  data: unknown,
  hex: string,
][] = [
  [
    "1234.1234",
    "private-foobar",
    undefined,
    "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
  ],
  ["1234.1234", "presence-foobar", {
    user_id: 10,
    user_info: { name: "Mr. Channels" },
  }, "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"],
  ["1234.1234", "presence-foobar", {
    user_id: 10,
    user_info: { name: "Mr. Pusher" },
  }, "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c"],
  [
    "1234.1234",
    "private-foobar",
    { user_id: "10" },
    "bf9f2eda99b88b670aedd071792d41c2796fda040476f39b46f89a28ccc69a9c",
  ],
  [
    "1234.1234",
    "private-encrypted-foobar",
    undefined,
    "e6a18892d037c5d5e76a2265df4f086ffc38631605530dfd214aa5bff495f533",
  ],
  [
    "1234.1234",
    "private-cache-foobar",
    undefined,
    "395f4a03f06e17b74af8d9c58386cf386e70176f58452420f042b6e1bddefa43",
  ],
];

Deno.test("authorizeChannel reproduces the published signatures", async () => {
  await using pusher = new Pusher({
    appId: DOCS.id,
    key: DOCS.key,
    secret: DOCS.secret,
  });
  for (const [socketId, channel, data, hex] of VECTORS) {
    assertEquals(
      pusher.authorizeChannel(socketId, channel, data as never),
      {
        auth: `${DOCS.key}:${hex}`,
        ...(data === undefined ? {} : { channel_data: JSON.stringify(data) }),
      },
      channel,
    );
  }
});

Deno.test("authorizeChannel signs a presence channel for a user who has signed in", async () => {
  await using pusher = new Pusher({ key: DOCS.key, secret: DOCS.secret });
  assertEquals(pusher.authorizeChannel("1234.1234", "presence-foobar"), {
    auth:
      `${DOCS.key}:71506e66e7fdca106571b8999a849ad34245bc653772e51e0026c1a2475b92ba`,
  });
});

Deno.test("authorizeChannel signs whatever data it is given", async () => {
  await using pusher = new Pusher({ key: "12345", secret: "tofu" });
  assertEquals(
    pusher.authorizeChannel("123.456", "private-encrypted-bla", "foo" as never),
    {
      auth:
        "12345:962c48b78bf93d98ff4c92ee7dff04865821455b7b401e9d60a9e0a90af2c105",
      channel_data: '"foo"',
    },
  );
});

Deno.test("authorizeChannel refuses socket ids and channels that could be anything else", async () => {
  await using pusher = new Pusher();
  for (
    const [socketId, channel] of [
      ["1234", "private-a"],
      ["", "private-a"],
      ["1.1:private-b", "private-a"],
      ["1.1\n", "private-a"],
      [" 1.1", "private-a"],
      ["a.b", "private-a"],
      [1.1, "private-a"],
      [undefined, "private-a"],
      ["1.1", ""],
      ["1.1", "private-a:b"],
      ["1.1", "private-a b"],
      ["1.1", `private-${"a".repeat(200)}`],
      ["1.1", undefined],
    ] as [string, string][]
  ) {
    assertThrows(
      () => pusher.authorizeChannel(socketId, channel),
      Error,
      undefined,
      `${socketId} ${channel}`,
    );
  }
});

// ---- Users ------------------------------------------------------------------

Deno.test("authenticateUser reproduces the published signatures", async () => {
  const { id: appId, key, secret } = DOCS;
  await using pusher = new Pusher({ appId, key, secret });
  for (
    const [user, digest] of [
      [
        { id: "12345" },
        "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
      ],
      [
        { id: "zoë", user_info: { name: "Zoë ✓" } },
        "92bf549edd4942eebac85d148fcc9e2746a1be2af20e737ec51653e9d85eafd4",
      ],
    ] as const
  ) {
    assertEquals(pusher.authenticateUser("1234.1234", user), {
      auth: `${key}:${digest}`,
      user_data: JSON.stringify(user),
    });
  }
});

Deno.test("authenticateUser signs all of the user as it is given", async () => {
  await using server = serve();
  const user = {
    id: "7",
    roles: ["admin"],
    user_info: { name: "Änn" },
    watchlist: Array.from({ length: 101 }, (_, index) => `${index}`),
  };
  const { auth, user_data } = server.pusher.authenticateUser("1.1", user);
  assertEquals(user_data, JSON.stringify(user));
  assertEquals(auth, userAuth(APP, "1.1", user_data));
  const official = sdk(server).authenticateUser("1.1", user);
  assertEquals({ auth, user_data }, official);
});

Deno.test("authenticateUser refuses socket ids and users that could be anything else", async () => {
  await using pusher = new Pusher();
  const user = { id: "7" };
  for (
    const id of ["", "1", "1.", ".1", "1.1:x", "1.1::user", "1.1\n", 1.1, null]
  ) {
    assertThrows(
      () => pusher.authenticateUser(id as string, user),
      TypeError,
      undefined,
      JSON.stringify(id),
    );
  }
  for (
    const wrong of [
      null,
      undefined,
      "7",
      7,
      [],
      {},
      { id: "" },
      { id: 7 },
      { id: null },
      { id: "x".repeat(129) },
      { id: "7", n: 1n },
    ]
  ) {
    const error = assertThrows(
      () => pusher.authenticateUser("1.1", wrong as UserData),
      Error,
    );
    assert(error instanceof TypeError || error instanceof RangeError);
  }
});

Deno.test("authorizeChannel and authenticateUser sign what they have checked", async () => {
  await using pusher = new Pusher();
  const disguised = (value: object) => ({
    user_id: "ann",
    id: "ann",
    toJSON: () => value,
  });
  const { channel_data } = pusher.authorizeChannel(
    "1.1",
    "presence-a",
    disguised({ user_id: "bob" }),
  );
  assertEquals(channel_data, '{"user_id":"bob"}');
  const { user_data } = pusher.authenticateUser(
    "1.1",
    disguised({ id: "bob" }),
  );
  assertEquals(user_data, '{"id":"bob"}');
  assertThrows(
    () => pusher.authorizeChannel("1.1", "presence-a", disguised({})),
    TypeError,
    "user_id",
  );
  assertThrows(
    () => pusher.authenticateUser("1.1", disguised({ user_id: "bob" })),
    TypeError,
    "user id",
  );
  // The JSON of a lone surrogate is an escape, which is well-formed.
  const member = { user_id: "ann", user_info: { name: "\ud800" } };
  const signed = pusher.authorizeChannel("1.1", "presence-a", member);
  assertEquals(
    signed.channel_data,
    String.raw`{"user_id":"ann","user_info":{"name":"\ud800"}}`,
  );
});

// ---- Requests ---------------------------------------------------------------

/** A handler for the published examples, at the time they were made. */
function pusherOf2012(at = 1_353_088_179_000): Pusher {
  const { id: appId, key, secret } = DOCS;
  return new Pusher({ appId, key, secret, now: () => at });
}

const T =
  "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0";

/** Published examples of signed requests. */
const REQUESTS: [
  path: string,
  query: string,
  signature: string,
  body?: string,
][] = [
  [
    "POST /apps/3/events",
    "body_md5=ec365a775a4cd0599faeb73354201b6f",
    "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c",
    String
      .raw`{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`,
  ],
  [
    "GET /apps/3/channels",
    "filter_by_prefix=presence-&info=user_count",
    "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
  ],
  [
    "GET /apps/3/channels/presence-foobar/users",
    "",
    "5567dd30e7f8575e66be615d2aac3f608a0c311c31ddab8513a278b022e9597e",
  ],
  [
    "POST /apps/3/batch_events",
    "body_md5=39e691c1f6a83daf77df2397111bfd98",
    "9df3472fb01f5d693bc9bd922118eb51e8268ac59841d3c6e3c37d488a837534",
    String
      .raw`{"batch":[{"channel":"project-3","name":"foo","data":"{\"some\":\"data\"}"}]}`,
  ],
  [
    "POST /apps/3/events",
    "body_md5=b0b4b56df6f085784dc45076c4e15121",
    "7fe5453ea1ccb94fd6f8d9badede69d136452e4f285ce0d40b643c83dfe34a2e",
    String
      .raw`{"name":"foo","channel":"project-3","data":"{\"text\":\"zoë ✓\"}","socket_id":"1234.1234","info":"subscription_count"}`,
  ],
  [
    "POST /apps/3/events",
    `name=foo&channel=project-3&data=${encodeURIComponent('{"some":"data"}')}`,
    "b8e8339118f4f0727e88cab8876ae94418f1074a8cb162c3f7496be079aaf4e5",
  ],
];

/** Sends one of them. */
async function replay(
  pusher: Pusher,
  [call, query, signature, body]: (typeof REQUESTS)[number],
  order: (parameters: string[]) => string[] = (same) => same,
): Promise<Answer> {
  const [method, path] = call.split(" ") as [string, string];
  const parameters = [
    ...T.split("&"),
    ...query.split("&"),
    `auth_signature=${signature}`,
  ];
  const search = order(parameters.filter(Boolean)).join("&");
  const url = `http://localhost${path}?${search}`;
  return await read(
    await pusher.handler(new Request(url, { method, body: body ?? null })),
  );
}

Deno.test("the published signed requests are accepted, in their time and unchanged", async () => {
  await using pusher = pusherOf2012();
  await using last = pusherOf2012(1_353_088_779_000);
  await using late = pusherOf2012(1_353_088_780_000);
  await using today = new Pusher({
    appId: DOCS.id,
    key: DOCS.key,
    secret: DOCS.secret,
  });
  for (const request of REQUESTS) {
    assertEquals((await replay(pusher, request)).status, 200, request[0]);
    assertEquals((await replay(last, request)).status, 200);
    assertEquals((await replay(late, request)).status, 401);
    assertEquals((await replay(today, request)).status, 401);
    // Order and spelling of the parameters do not matter.
    const respelled = await replay(
      pusher,
      request,
      (parameters) =>
        parameters.reverse().map((parameter) =>
          parameter.replace("_version=1.0", "_version=%31%2E0")
            .replace("presence-", "pre%73ence%2D")
        ),
    );
    assertEquals(respelled.status, 200, request[0]);
    const [call, query, signature, body] = request;
    const changed = signature.replace(
      /^./,
      (digit) => digit === "0" ? "1" : "0",
    );
    const forged = await replay(
      pusher,
      body === undefined
        ? [call, query, changed]
        : [call, query, changed, body],
    );
    assertEquals(forged.status, 401);
  }
});

Deno.test("a published request with no body means its query", async () => {
  await using pusher = pusherOf2012();
  const published: unknown[] = [];
  pusher.on("published", (event) => published.push(event));
  await replay(pusher, REQUESTS.at(-1) as (typeof REQUESTS)[number]);
  await replay(pusher, REQUESTS[0] as (typeof REQUESTS)[number]);
  assertEquals(
    published,
    [1, 2].map(() => ({
      app: "3",
      channel: "project-3",
      event: "foo",
      data: '{"some":"data"}',
    })),
  );
});

Deno.test("a published request with a parameter in capitals is accepted in both spellings", async () => {
  await using pusher = pusherOf2012();
  const info = "subscription_count,cache";
  const path = "/apps/3/channels/project-3";
  const asSent = hmac(DOCS.secret, `GET\n${path}\nInfo=${info}&${T}`);
  for (
    const signature of [
      "ba39a9abed534249e41fc501b533868469875035b1f64187c2b010a76f54d0c9",
      asSent,
    ]
  ) {
    const call = [`GET ${path}`, `Info=${info}`, signature] as const;
    // The signature is right; the channel is none that caches.
    assertEquals((await replay(pusher, [...call])).status, 400);
  }
});

Deno.test("the published requests to terminate connections are accepted in their time", async () => {
  const at = 1_353_088_179;
  const T = `auth_key=${DOCS.key}&auth_timestamp=${at}&auth_version=1.0`;
  const md5 = "99914b932bd37a50b983c5e7c90ae93b";
  await using server = serve({
    appId: DOCS.id,
    key: DOCS.key,
    secret: DOCS.secret,
    now: () => at * 1000,
  });
  const replay = async (id: string, signature: string) => {
    const path = `/apps/3/users/${id}/terminate_connections`;
    const query = `${T}&body_md5=${md5}&auth_signature=${signature}`;
    const request = new Request(`${server.url}${path}?${query}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    return await read(await server.pusher.handler(request));
  };
  for (
    const [id, escaped, signature] of [
      [
        "12345",
        "12345",
        "01fa634edeb0cae84115307cad5c23f65a46cd286461b1c89637a3b5871a8f0e",
      ],
      // As the SDK signs it, over the path before it is escaped.
      [
        "a b",
        "a%20b",
        "018c597f71190b3e4f5381914f679b0f7d94ae5ea73ac404395bbf4ab6507989",
      ],
      [
        "a b",
        "a%20b",
        "a5b7d417f5f468b138e97c20e3c36da6f4f738f40dfa0a63523c968046baa9a5",
      ],
    ] as const
  ) {
    await using client = await server.connect();
    await signIn(client, { id });
    const forged = signature.replace(/.$/, (d) => d === "0" ? "1" : "0");
    assertEquals((await replay(escaped, forged)).status, 401);
    assertEquals((await replay("other", signature)).status, 401);
    await client.silence();
    const { status, body } = await replay(escaped, signature);
    assertEquals([status, body], [200, {}]);
    assertEquals((await client.turnedAway()).code, 4009);
  }
});

Deno.test("requests with an info list are accepted as the PHP SDK signs and sends them", async () => {
  await using server = serve();
  await using client = await server.connect();
  await client.join("presence-a", { member: { user_id: "ann" } });
  const both = { subscription_count: 1, user_count: 1 };
  /** Signs `info` with commas, and sends it as PHP writes an array. */
  const ask = async (path: string, query: Record<string, string>) => {
    const request = signedRequest(server.url, "GET", path, { query });
    const url = new URL(request.url);
    const names = query.info?.split(",") ?? [];
    url.searchParams.delete("info");
    for (const [i, name] of names.entries()) {
      url.searchParams.set(`info[${i}]`, name);
    }
    assertEquals(
      url.searchParams.size,
      new URL(request.url).searchParams.size + 1,
    );
    return await read(await fetch(url));
  };
  const info = "user_count,subscription_count";
  const channel = await ask("/channels/presence-a", { info });
  assertEquals(channel.body, { occupied: true, ...both });
  const filter_by_prefix = "presence-";
  const channels = await ask("/channels", { filter_by_prefix, info });
  assertEquals(channels.body, { channels: { "presence-a": both } });
  // In a body, the array is passed on as it is.
  const event = { name: "e", channel: "presence-a", data: "1" };
  const list = info.split(",");
  const single = await server.api("POST", "/events", {
    body: { ...event, info: list },
  });
  assertEquals(single.body, { channels: { "presence-a": both } });
  const batch = await server.api("POST", "/batch_events", {
    body: { batch: [{ ...event, info: list }, event] },
  });
  assertEquals(batch.body, { batch: [both, {}] });
  for (const wrong of [["nonsense"], ["user_count", 1], { 0: "user_count" }]) {
    const { status } = await server.api("POST", "/events", {
      body: { ...event, info: wrong },
    });
    assertEquals(status, 400, JSON.stringify(wrong));
  }
});

// ---- Webhooks ---------------------------------------------------------------

Deno.test("webhook verifies and reads what was signed", async () => {
  await using pusher = new Pusher({ key: DOCS.key, secret: DOCS.secret });
  const rawBody =
    '{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"presence-foobar"},{"name":"member_added","channel":"presence-foobar","user_id":"10"}]}';
  const headers = {
    "content-type": "application/json",
    "x-pusher-key": DOCS.key,
    "x-pusher-signature":
      "25af8e638a8074c9d01c99baa709a42a5de62c3629a78a9fee6181a5b3873655",
  };
  for (const given of [headers, new Headers(headers)]) {
    const webhook = pusher.webhook({ headers: given, rawBody });
    assert(webhook.isValid());
    assert(webhook.isContentTypeValid() && webhook.isBodyValid());
    assertEquals(webhook.getTime(), new Date(1_327_078_148_132));
    assertEquals(webhook.getEvents(), [
      { name: "channel_occupied", channel: "presence-foobar" },
      { name: "member_added", channel: "presence-foobar", user_id: "10" },
    ]);
    assertEquals(webhook.getData(), JSON.parse(rawBody));
  }
  // Signed by another app, whose credentials are at hand.
  const tofu = {
    headers: {
      "content-type": "application/json",
      "x-pusher-key": "123456789",
      "x-pusher-signature":
        "c17257e92037cd7de407ebc1ed174ceb7b2e518db127f44411b9ffc4f5b28cc5",
    },
    rawBody:
      '{"time_ms":1403175510755,"events":[{"channel":"test_channel","name":"channel_vacated"}]}',
  };
  const extra = { key: "123456789", secret: "tofu" };
  assertEquals(pusher.webhook(tofu).isValid(), false);
  assertEquals(pusher.webhook(tofu).isValid(extra), true);
  assertEquals(pusher.webhook(tofu).isValid([extra]), true);
  assertEquals(
    pusher.webhook(tofu).isValid({ ...extra, secret: "x" }),
    false,
  );
  await using own = new Pusher(extra);
  assert(own.webhook(tofu).isValid());
  const type = "application/json; charset=utf-8";
  for (
    const [changed, body = rawBody] of [
      [{ "content-type": type }],
      [{ "content-type": undefined }],
      [{ "x-pusher-key": "other" }],
      [{ "x-pusher-key": undefined }],
      [{ "x-pusher-signature": undefined }],
      [{ "x-pusher-signature": "" }],
      [{ "x-pusher-signature": headers["x-pusher-signature"].toUpperCase() }],
      [{}, rawBody + " "],
      [{ "x-pusher-signature": hmac(DOCS.secret, "[]") }, "[]"],
      [{ "x-pusher-signature": hmac(DOCS.secret, "not json") }, "not json"],
    ] as [Record<string, string>, string?][]
  ) {
    const webhook = pusher.webhook({
      headers: { ...headers, ...changed },
      rawBody: body,
    });
    assertEquals(webhook.isValid(), false, JSON.stringify(changed));
  }
  const broken = pusher.webhook({ headers, rawBody: "not json" });
  assertEquals(broken.isBodyValid(), false);
  assertThrows(() => broken.getData(), Error);
  assertThrows(() => broken.getEvents(), Error);
  assertThrows(() => broken.getTime(), Error);
});

Deno.test("a webhook is read once, and is not valid with a lone surrogate", async () => {
  await using pusher = new Pusher({ key: DOCS.key, secret: DOCS.secret });
  const body = (name: string) => `{"time_ms":1,"events":[{"name":"${name}"}]}`;
  const headers = {
    "content-type": "application/json",
    "x-pusher-key": DOCS.key,
    "x-pusher-signature": hmac(DOCS.secret, body("\ufffd")),
  };
  assert(pusher.webhook({ headers, rawBody: body("\ufffd") }).isValid());
  const other = pusher.webhook({ headers, rawBody: body("\ud800") });
  assertEquals([other.isValid(), other.isBodyValid()], [false, false]);
  assertThrows(() => other.getEvents(), TypeError);
  let reads = 0;
  const webhook = pusher.webhook({
    headers,
    get rawBody() {
      return body(++reads === 1 ? "\ufffd" : "forged");
    },
  });
  assert(webhook.isValid());
  assertEquals(webhook.getEvents(), [{ name: "\ufffd" }]);
});
