import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { createHash } from "node:crypto";
import { ManualClock } from "../tests/support/clock.ts";
import { checkRequestSignature, readApiBody } from "./api_requests.ts";
import { DEFAULT_LIMITS, isRefusal } from "./limits.ts";
import { lowerCaseNames } from "./parameters.ts";
import { hmac } from "./signatures.ts";

/** The credentials and the time that the protocol's documentation signs with. */
const APP = {
  key: "278d425bdf160c739803",
  secret: "7ad3773142a6692b25b8",
};
const TIMESTAMP = 1_353_088_179;
const SIGNED_AT = TIMESTAMP * 1_000;
const T = `auth_key=${APP.key}&auth_timestamp=${TIMESTAMP}&auth_version=1.0`;

/** Says why a request is refused; null if it is not. */
function judge(
  method: string,
  target: string,
  { nowMs = SIGNED_AT, app = APP, prefix = "" } = {},
): string | null {
  const url = new URL(`http://example.com${target}`);
  const query = lowerCaseNames(url);
  const refusal = checkRequestSignature(
    ...[[app], method, url, prefix, query, nowMs] as const,
  );
  if (refusal !== null) assertEquals(refusal.status, 401);
  return refusal?.error ?? null;
}

// ---- Signatures -------------------------------------------------------------

// Name of the vector, request, signature: section 5.2 of the protocol's reference.
const VECTORS: [name: string, method: string, target: string, hex: string][] = [
  [
    "B1",
    "POST",
    `/apps/3/events?${T}&body_md5=ec365a775a4cd0599faeb73354201b6f`,
    "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c",
  ],
  [
    "B2",
    "GET",
    `/apps/3/channels?${T}&filter_by_prefix=presence-&info=user_count`,
    "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
  ],
  [
    "B3",
    "GET",
    `/apps/3/channels/presence-foobar/users?${T}`,
    "5567dd30e7f8575e66be615d2aac3f608a0c311c31ddab8513a278b022e9597e",
  ],
  [
    "B4",
    "POST",
    `/apps/3/batch_events?${T}&body_md5=39e691c1f6a83daf77df2397111bfd98`,
    "9df3472fb01f5d693bc9bd922118eb51e8268ac59841d3c6e3c37d488a837534",
  ],
  [
    "B5",
    "POST",
    `/apps/3/users/12345/terminate_connections?${T}&body_md5=99914b932bd37a50b983c5e7c90ae93b`,
    "01fa634edeb0cae84115307cad5c23f65a46cd286461b1c89637a3b5871a8f0e",
  ],
  [
    "B6",
    "GET",
    `/apps/3/channels/project-3?Info=subscription_count,cache&${T}`,
    "ba39a9abed534249e41fc501b533868469875035b1f64187c2b010a76f54d0c9",
  ],
  [
    "B7",
    "POST",
    `/apps/3/events?body_md5=b0b4b56df6f085784dc45076c4e15121&${T}`,
    "7fe5453ea1ccb94fd6f8d9badede69d136452e4f285ce0d40b643c83dfe34a2e",
  ],
  [
    "B8",
    "POST",
    `/apps/3/users/a%20b/terminate_connections?${T}&body_md5=99914b932bd37a50b983c5e7c90ae93b`,
    "018c597f71190b3e4f5381914f679b0f7d94ae5ea73ac404395bbf4ab6507989",
  ],
  [
    "B9",
    "POST",
    `/apps/3/users/a%20b/terminate_connections?${T}&body_md5=99914b932bd37a50b983c5e7c90ae93b`,
    "a5b7d417f5f468b138e97c20e3c36da6f4f738f40dfa0a63523c968046baa9a5",
  ],
  [
    "B10",
    "POST",
    `/apps/3/events?name=foo&channel=project-3&data=${
      encodeURIComponent('{"some":"data"}')
    }&${T}`,
    "b8e8339118f4f0727e88cab8876ae94418f1074a8cb162c3f7496be079aaf4e5",
  ],
];

/** Asserts that a request is refused for its signature, and that no secret is told. */
function assertBadSignature(error: string | null, secrets: string[]): void {
  assertMatch(
    error ?? "",
    /^auth_signature must be the HMAC-SHA256, in lower-case hex, of "/,
  );
  for (const secret of secrets) assert(!error?.includes(secret), secret);
}

for (const [name, method, target, hex] of VECTORS) {
  Deno.test(`vector ${name} of the protocol's documentation is accepted, and unchanged only`, () => {
    const signed = `${target}&auth_signature=${hex}`;
    assertEquals(judge(method, signed), null);
    const changed = [
      `${signed}&more=1`,
      `${target}&auth_signature=${hex.toUpperCase()}`,
      `${target}&auth_signature=${hex.slice(0, -1)}`,
      signed.replace("/apps/3", "/apps/4"),
    ];
    const secrets = [APP.secret, hex, hex.toUpperCase()];
    for (const other of changed) {
      assertBadSignature(judge(method, other), secrets);
    }
    assertEquals(
      judge(method, target),
      "auth_signature is missing, and must sign the request",
    );
    assertBadSignature(judge("PUT", signed), secrets);
    const app = { ...APP, secret: "7ad3773142a6692b25b9" };
    const error = judge(method, signed, { app });
    assertBadSignature(error, [...secrets, app.secret]);
  });
}

Deno.test("a wrong signature is answered with the text that is to be signed, and nothing secret", () => {
  const other = { ...APP, secret: "the secret of another app" };
  const vector = VECTORS.find(([name]) => name === "B8");
  const [, method = "", target = "", hex] = vector ?? [];
  const signed = `${target}&auth_signature=${hex}`;
  assertEquals(
    judge(method, signed, { app: other }),
    "auth_signature must be the HMAC-SHA256, in lower-case hex, of " +
      `"POST\\n/apps/3/users/a%20b/terminate_connections\\n${T}` +
      "&body_md5=99914b932bd37a50b983c5e7c90ae93b\" with the app's secret: " +
      "compare the secret and this text with the backend's",
  );
  const long = judge(method, `${signed}&more=${"x".repeat(100_000)}`) ?? "";
  assertStringIncludes(long, "…\" with the app's secret");
  assert(long.length < 2_000, `${long.length} characters`);
});

/** The query of a request that says these things, signed for `GET /apps/3/x`. */
function sign(params: Record<string, string>): string {
  const sorted = Object.entries(params).sort(([a], [b]) => a < b ? -1 : 1);
  const text = sorted.map(([name, value]) => `${name}=${value}`).join("&");
  const auth_signature = hmac(APP.secret, `GET\n/apps/3/x\n${text}`);
  return `/apps/3/x?${new URLSearchParams({ ...params, auth_signature })}`;
}

Deno.test("a request is signed by the order of its names, whatever the order in the URL", () => {
  const target = `/apps/3/x?${
    new URL(`http://a${
      sign({
        b: "2",
        auth_version: "1.0",
        a: "x y+z&=ü",
        auth_timestamp: `${TIMESTAMP}`,
        auth_key: APP.key,
      })
    }`).search.slice(1).split("&").reverse().join("&")
  }`;
  assertEquals(judge("GET", target), null);
  // A space may be sent as + or %20.
  assertEquals(judge("GET", target.replace("x+y", "x%20y")), null);
});

Deno.test("a timestamp may be 600 seconds off in both directions, and no more", () => {
  const right = { auth_key: APP.key, auth_version: "1.0" };
  const target = sign({ ...right, auth_timestamp: `${TIMESTAMP}` });
  const cases: [offsetMs: number, isRight: boolean][] = [
    [0, true],
    [590_000, true],
    [-590_000, true],
    [600_000, true],
    [-600_000, true],
    // Whole seconds count.
    [600_999, true],
    [601_000, false],
    [-600_001, false],
    [610_000, false],
  ];
  for (const [offsetMs, isRight] of cases) {
    const nowMs = SIGNED_AT + offsetMs;
    const now = Math.floor(nowMs / 1_000);
    const off = TIMESTAMP - now;
    const error = isRight
      ? null
      : `auth_timestamp is "${TIMESTAMP}", and must be in seconds, and within ` +
        `600 s of the server's time, ${now}: the clock of the backend, or the ` +
        `server's, is ${Math.abs(off)} s ${off < 0 ? "behind" : "ahead"}`;
    assertEquals(judge("GET", target, { nowMs }), error, `${offsetMs}`);
  }
});

Deno.test("key, version, time and signature are checked in this order", () => {
  const bad = {
    auth_key: "key",
    auth_version: "2.0",
    auth_timestamp: "never",
  };
  const right = {
    auth_key: APP.key,
    auth_version: "1.0",
    auth_timestamp: `${TIMESTAMP}`,
  };
  const keyRule = "and must be the key of the app";
  const cases: [params: Record<string, string>, error: string][] = [
    [bad, `auth_key is "key", ${keyRule}`],
    [{ ...bad, auth_key: "" }, `auth_key is "", ${keyRule}`],
    [{ ...bad, auth_key: APP.key }, 'auth_version is "2.0", and must be "1.0"'],
    [
      { ...right, auth_timestamp: "never" },
      'auth_timestamp is "never", and must be in seconds, and within 600 s ' +
      `of the server's time, ${TIMESTAMP}`,
    ],
    [
      { ...right, auth_timestamp: `${SIGNED_AT}` },
      `auth_timestamp is "${SIGNED_AT}", and must be in seconds, and within ` +
      `600 s of the server's time, ${TIMESTAMP}`,
    ],
    [right, "auth_signature is missing, and must sign the request"],
  ];
  for (const [params, error] of cases) {
    assertEquals(
      judge("GET", `/apps/3/x?${new URLSearchParams(params)}`),
      error,
    );
  }
  assertEquals(judge("GET", "/apps/3/x"), `auth_key is missing, ${keyRule}`);
});

Deno.test("a timestamp is a whole number of seconds", () => {
  const wrong = ["", "-1", "1353088179.0", "1353088179 ", "0x50a6abb3", "1e9"];
  for (const auth_timestamp of [...wrong, "9".repeat(16), "NaN", "Infinity"]) {
    const params = { auth_key: APP.key, auth_version: "1.0", auth_timestamp };
    const error = judge("GET", sign(params));
    const shown = JSON.stringify(auth_timestamp);
    const said =
      `auth_timestamp is ${shown}, and must be in seconds, and within `;
    assert(error?.startsWith(said), error ?? auth_timestamp);
  }
});

// ---- Bodies -----------------------------------------------------------------

/** What a body says: its fields, or the status and text of a refusal. */
async function read(
  body: string | Uint8Array<ArrayBuffer> | ReadableStream | null,
  params: string | Record<string, string> = {},
  bodyBytes = 1_048_576,
) {
  const init = { method: "POST", body };
  const request = new Request("http://example.com/apps/3/events", init);
  const query = new URLSearchParams(params);
  const limits = { ...DEFAULT_LIMITS, bodyBytes };
  const ended = new AbortController().signal;
  const rules = { clock: new ManualClock(), bodyTimeoutMs: 10_000, ended };
  const found = await readApiBody(request, query, limits, rules);
  return isRefusal(found) ? [found.status, found.error] : found;
}

function md5(body: string | Uint8Array): string {
  return createHash("md5").update(body).digest("hex");
}

Deno.test("a body is read if its digest is the signed one", async () => {
  const bodies: [body: string, digest: string][] = [
    [
      '{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}',
      "ec365a775a4cd0599faeb73354201b6f",
    ],
    [
      '{"batch":[{"channel":"project-3","name":"foo","data":"{\\"some\\":\\"data\\"}"}]}',
      "39e691c1f6a83daf77df2397111bfd98",
    ],
    [
      '{"name":"foo","channel":"project-3","data":"{\\"text\\":\\"zoë ✓\\"}","socket_id":"1234.1234","info":"subscription_count"}',
      "b0b4b56df6f085784dc45076c4e15121",
    ],
    ["{}", "99914b932bd37a50b983c5e7c90ae93b"],
  ];
  for (const [body, body_md5] of bodies) {
    assertEquals(await read(body, { body_md5 }), JSON.parse(body));
  }
});

Deno.test("a body of another digest, or without one, is refused before it is parsed", async () => {
  const refused = (found: string, bytes: number) => [
    401,
    `body_md5 ${found}, and must be the MD5 digest of the body, which has ${bytes} bytes`,
  ];
  assertEquals(await read("{"), refused("is missing", 1));
  for (const body_md5 of ["", md5("{}"), md5("{").toUpperCase()]) {
    const found = `is "${body_md5}"`;
    assertEquals(await read("{", { body_md5 }), refused(found, 1));
  }
  const upper = md5("{}").toUpperCase();
  assertEquals(
    await read("{}", { body_md5: upper }),
    refused(`is "${upper}"`, 2),
  );
  assertEquals(await read("{", { body_md5: md5("{") }), [
    400,
    "The body is not a JSON object",
  ]);
});

Deno.test("a body is a JSON object in UTF-8", async () => {
  const refused = [400, "The body is not a JSON object"];
  for (const body of ["[]", "null", '"a"', "1", "\ufeff{", "a=1"]) {
    assertEquals(await read(body, { body_md5: md5(body) }), refused, body);
  }
  const bytes = new Uint8Array([...new TextEncoder().encode('{"a":"'), 0xff]);
  assertEquals(await read(bytes, { body_md5: md5(bytes) }), refused);
});

Deno.test("a body has at most as many bytes as are allowed", async () => {
  const body = '{"ü":1}';
  const params = { body_md5: md5(body) };
  assertEquals(await read(body, params, 8), { "ü": 1 });
  assertEquals(await read(body, params, 7), [
    413,
    "The body is too large: the limit bodyBytes is 7",
  ]);
  assertEquals(await read(body, params, Infinity), { "ü": 1 });
});

Deno.test("a body that breaks off is refused", async () => {
  const broken = new ReadableStream({
    start: (controller) => controller.error(new Error("gone")),
  });
  assertEquals(await read(broken), [400, "The body did not arrive whole"]);
});

Deno.test("the fields of an event may come in the query beside a body that lacks them", async () => {
  const query = "name=a&data=b&channel=c&socket_id=1.2&info=user_count";
  const named = Object.fromEntries(new URLSearchParams(query));
  const cases: [body: string, more: string, fields: object][] = [
    ["{}", query, named],
    ['{"data":"d"}', query, { ...named, data: "d" }],
    ["{}", "name=a&channels[]=a&channels[]=b", {
      name: "a",
      channels: ["a", "b"],
    }],
    ["{}", "info[0]=a&info[1]=b", { info: "a,b" }],
    // A body that names channels names all of them.
    ['{"channel":"a"}', "channels[]=b&channel=c", { channel: "a" }],
    ['{"channels":["a"]}', "channel=c", { channels: ["a"] }],
    // What is no field of an event stays where it is.
    ["{}", "auth_key=key&other=1&__proto__=2&constructor=3", {}],
  ];
  for (const [body, more, fields] of cases) {
    const params = `${more}&body_md5=${md5(body)}`;
    assertEquals(await read(body, params), fields, `${body} ${more}`);
  }
});

Deno.test("without a body, its fields may come in the query", async () => {
  const empty = md5("");
  const none = { channels: undefined };
  assertEquals(await read(null), none);
  assertEquals(await read("", { body_md5: empty }), {
    ...none,
    body_md5: empty,
  });
  assertEquals(await read(null, { body_md5: md5("{}") }), [
    401,
    `body_md5 is "${md5("{}")}", and must be missing: the body is empty`,
  ]);
  assertEquals(await read(null, { name: "a", data: "{}", channel: "b" }), {
    ...none,
    name: "a",
    data: "{}",
    channel: "b",
  });
  const several = await read(null, "channels[]=a&channels[]=b&channels[]=a");
  assert(!Array.isArray(several));
  assertEquals(several.channels, ["a", "b", "a"]);
});
