import { assert, assertEquals, assertFalse, assertThrows } from "@std/assert";
import {
  channelText,
  decodePart,
  equalsInConstantTime,
  hmac,
  requestTexts,
  sentText,
  Signer,
  signWith,
  userText,
} from "./signatures.ts";

/** The secret that the protocol's documentation signs its examples with. */
const SECRET = "7ad3773142a6692b25b8";

// Name of the vector, signed text, signature: section 5.2 of the protocol's reference.
const VECTORS: [name: string, text: string, hex: string][] = [
  [
    "A1",
    channelText("1234.1234", "private-foobar", undefined),
    "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
  ],
  [
    "A2",
    userText("1234.1234", '{"id":"12345"}'),
    "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
  ],
  [
    "A3",
    channelText(
      "1234.1234",
      "presence-foobar",
      '{"user_id":10,"user_info":{"name":"Mr. Channels"}}',
    ),
    "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
  ],
  [
    "A4",
    channelText(
      "1234.1234",
      "presence-foobar",
      '{"user_id":10,"user_info":{"name":"Mr. Pusher"}}',
    ),
    "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c",
  ],
  [
    "A5",
    channelText("1234.1234", "presence-foobar", undefined),
    "71506e66e7fdca106571b8999a849ad34245bc653772e51e0026c1a2475b92ba",
  ],
  [
    "A6",
    channelText("1234.1234", "private-foobar", '{"user_id":"10"}'),
    "bf9f2eda99b88b670aedd071792d41c2796fda040476f39b46f89a28ccc69a9c",
  ],
  [
    "A7",
    channelText("1234.1234", "private-encrypted-foobar", undefined),
    "e6a18892d037c5d5e76a2265df4f086ffc38631605530dfd214aa5bff495f533",
  ],
  [
    "A8",
    channelText("1234.1234", "private-cache-foobar", undefined),
    "395f4a03f06e17b74af8d9c58386cf386e70176f58452420f042b6e1bddefa43",
  ],
  [
    "A9",
    userText("1234.1234", '{"id":"zoë","user_info":{"name":"Zoë ✓"}}'),
    "92bf549edd4942eebac85d148fcc9e2746a1be2af20e737ec51653e9d85eafd4",
  ],
];

Deno.test("signatures are those of the protocol's documentation", () => {
  for (const [name, text, hex] of VECTORS) {
    assertEquals(hmac(SECRET, text), hex, name);
  }
  // A10 is signed with another secret.
  assertEquals(
    hmac("tofu", channelText("123.456", "private-encrypted-bla", '"foo"')),
    "962c48b78bf93d98ff4c92ee7dff04865821455b7b401e9d60a9e0a90af2c105",
  );
});

Deno.test("signWith signs as hmac does, whatever the length of the secret", () => {
  const secrets = [0, 1, 20, 63, 64, 65, 200].map((n) => "s".repeat(n));
  for (const secret of [...secrets, SECRET, "sécret ✓"]) {
    const credentials = { key: "k", secret };
    for (const text of ["", "a", "Zoë ✓", "x".repeat(1_000)]) {
      assertEquals(signWith(credentials, text), hmac(secret, text), secret);
    }
  }
  for (
    const [secret, text] of [["\ud800", "a"], ["a", "\udc00"]] as const
  ) {
    assertThrows(
      () => signWith({ key: "k", secret }, text),
      TypeError,
      "not well-formed Unicode",
    );
  }
});

Deno.test("a channel's permission, a member's and a user's cannot pass for each other", () => {
  assertEquals(channelText("1.2", "private-a", undefined), "1.2:private-a");
  assertEquals(channelText("1.2", "presence-a", "{}"), "1.2:presence-a:{}");
  assertEquals(userText("1.2", "{}"), "1.2::user::{}");
});

Deno.test("signatures are equal if all their characters are, whatever their length", () => {
  assert(equalsInConstantTime("ab", "ab"));
  assert(equalsInConstantTime("", ""));
  for (const given of ["", "a", "aB", "abc", "ä", "äb"]) {
    assertFalse(equalsInConstantTime("ab", given), given);
  }
});

Deno.test("a request is signed over its sorted parameters, without the signature", () => {
  const sent = new URLSearchParams(
    "b=2&auth_signature=x&a=1%2B1&Auth_Signature=y",
  );
  assertEquals(
    [...requestTexts("POST", ["/apps/3/events"], sent)],
    ["POST\n/apps/3/events\na=1+1&b=2"],
  );
});

Deno.test("a request may be signed with each of its paths, and names as sent or in lower case", () => {
  const sent = new URLSearchParams("Info=x");
  const path = "/apps/3/channels/presence-a";
  assertEquals(
    [...requestTexts("GET", [`${path}%40b`, `${path}@b`], sent)],
    [
      `GET\n${path}%40b\ninfo=x`,
      `GET\n${path}@b\ninfo=x`,
      `GET\n${path}%40b\nInfo=x`,
      `GET\n${path}@b\nInfo=x`,
    ],
  );
});

Deno.test("the text of a request as it was sent is one of those that may be signed, or none", () => {
  const end = "&auth_signature=x";
  const cases: [query: string, isPlain: boolean][] = [
    [`a=1&b=2${end}`, true],
    [`a=1&a=0&ab=2&b=${end}`, true],
    [`A=1&b=2=3${end}`, true],
    [`b=2&a=1${end}`, false],
    [`a-b=1&a=2${end}`, false],
    [`a=1&b${end}`, false],
    [`a=1&&b=2${end}`, false],
    [`a=%31${end}`, false],
    [`a=1+1${end}`, false],
    [`Auth_Signature=y&b=1${end}`, false],
    [`a=1${end}&b=2`, false],
    ["auth_signature=x&b=2", false],
    ["a=1", false],
    ["", false],
  ];
  for (const [query, isPlain] of cases) {
    const url = new URL(`http://example.com/apps/3/events?${query}`);
    const text = sentText("POST", url);
    const { pathname, searchParams } = url;
    const texts = [...requestTexts("POST", [pathname], searchParams)];
    assertEquals(text !== null, isPlain, query);
    if (text !== null) assert(texts.includes(text), query);
  }
  const escaped = new URL(`http://example.com/apps/3%20/events?a=1${end}`);
  assertEquals(sentText("POST", escaped), null);
});

Deno.test("a part of a path is unescaped once, and properly or not at all", () => {
  assertEquals(decodePart("%ff"), null);
  assertEquals(decodePart("a%40b"), "a@b");
  assertEquals(decodePart("a%2540b"), "a%40b");
});

// ---- The signer -------------------------------------------------------------

const KEY = "278d425bdf160c739803";

Deno.test("a Signer permits what is signed by its app for this text, and nothing else", () => {
  const signer = new Signer([{ key: KEY, secret: SECRET }]);
  for (const [name, text, hex] of VECTORS) {
    assert(signer.permits(`${KEY}:${hex}`, text), name);
    const wrong = [
      hex,
      `:${hex}`,
      `${KEY}:`,
      `${KEY}:${hex.toUpperCase()}`,
      `${KEY}:${hex} `,
      `${KEY}::${hex}`,
      `other:${hex}`,
      `${KEY}0:${hex}`,
      "",
      undefined,
      null,
      1,
      [`${KEY}:${hex}`],
    ];
    for (const auth of wrong) {
      assertFalse(signer.permits(auth, text), `${auth}`);
    }
    assertFalse(signer.permits(`${KEY}:${hex}`, `${text} `), name);
  }
});

Deno.test("no signature is made or accepted for a text with a lone surrogate", () => {
  const signer = new Signer([{ key: KEY, secret: SECRET }]);
  const text = (id: string) =>
    channelText("1.2", "presence-a", `{"user_id":"${id}"}`);
  const auth = `${KEY}:${hmac(SECRET, text("\ufffd"))}`;
  assert(signer.permits(auth, text("\ufffd")));
  for (const id of ["\ud800", "\udc00", "\udc00\ud800"]) {
    assertFalse(signer.permits(auth, text(id)), JSON.stringify(id));
    assertThrows(() => hmac(SECRET, text(id)), TypeError, "text is not");
    const { message } = assertThrows(() => hmac(`tofu${id}`, "a"), TypeError);
    assertFalse(message.includes("tofu"), message);
  }
  // A pair of surrogates is a character like any other.
  assert(
    signer.permits(`${KEY}:${hmac(SECRET, text("\ud83d\ude00"))}`, text("😀")),
  );
});

Deno.test("a Signer signs what clients expect from an auth endpoint, and permits it", () => {
  const signer = new Signer([{ key: KEY, secret: SECRET }]);
  const hex = (name: string) =>
    VECTORS.find(([vector]) => vector === name)?.[2];
  assertEquals(signer.authorize("1234.1234", "private-foobar"), {
    auth: `${KEY}:${hex("A1")}`,
  });
  const member = { user_id: 10, user_info: { name: "Mr. Channels" } };
  const channel_data = JSON.stringify(member);
  assertEquals(
    signer.authorize("1234.1234", "presence-foobar", JSON.stringify(member)),
    {
      auth: `${KEY}:${hex("A3")}`,
      channel_data,
    },
  );
  const user = { id: "12345" };
  assertEquals(signer.authenticate("1234.1234", JSON.stringify(user)), {
    auth: `${KEY}:${hex("A2")}`,
    user_data: '{"id":"12345"}',
  });
});
