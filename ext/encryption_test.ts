import { Pusher, type PusherOptions } from "@glitz/pusher";
import { encryption, type EncryptionOptions } from "@glitz/pusher/encryption";
import {
  assert,
  assertEquals,
  assertFalse,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import nacl from "npm:tweetnacl@1.0.3";
import StockServerSdk from "pusher";
import pusherJs from "pusher-js";
import { within } from "../tests/support/deadline.ts";

// The package's types describe an ES module, but under Deno it is CommonJS.
const PusherJs = pusherJs as unknown as typeof pusherJs.default;

/** For everything that is waited for; what passes takes milliseconds. */
const DEADLINE_MS = 10_000;

const APP = {
  appId: "3",
  key: "278d425bdf160c739803",
  secret: "7ad3773142a6692b25b8",
};

/** The published examples. */
const E1 = {
  channel: "private-encrypted-foobar",
  masterKeyBase64: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
  sharedSecret: "g3Au6SZ+UCU+IMfFsFva0rq+Gi4tzSHR6WCcWZbS9sY=",
  nonce: "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZX",
  plain: '{"message":"hello world"}',
  ciphertext: "3px9F2rmDj9/a0O15483opw5S9pIl2OLUKMD1kF3Ye8D4hsgyAt8F08=",
};
const E2 = {
  channel: "private-encrypted-bla",
  masterKeyBase64: "zyrm8pvV2C9fJcBfhyXzvxbJVN/H7QLmbe0xJi1GhPU=",
  sharedSecret: "nlr49ISQHz91yS3cy/yWmW8wFMNeTnNL5tNHnbPJcLQ=",
};

const sdk = new StockServerSdk({
  ...APP,
  cluster: "none",
  encryptionMasterKeyBase64: E1.masterKeyBase64,
});

function bytes(base64: string): Uint8Array {
  return Uint8Array.fromBase64(base64);
}

/** Opens what was encrypted with the library that stock clients have. */
function open(wire: string, sharedSecret: string): string | null {
  const { nonce, ciphertext } = JSON.parse(wire);
  const opened = nacl.secretbox.open(
    bytes(ciphertext),
    bytes(nonce),
    bytes(sharedSecret),
  );
  return opened && new TextDecoder().decode(opened);
}

/** The secret that the official SDK gives to clients of a channel. */
function stockSecret(channel: string): string {
  return sdk.authorizeChannel("1234.1234", channel).shared_secret ?? "";
}

// ---- Vectors ----------------------------------------------------------------

Deno.test("encryption derives the secrets of E1 and E2", () => {
  for (const { channel, masterKeyBase64, sharedSecret } of [E1, E2]) {
    assertEquals(
      encryption({ masterKeyBase64 }).sharedSecret(channel),
      sharedSecret,
    );
  }
});

Deno.test("encryption reproduces E1, byte for byte", () => {
  const original = crypto.getRandomValues;
  // A nonce must not be anybody's to choose, so the example's comes in here.
  crypto.getRandomValues = ((target: Uint8Array) => {
    target.set(bytes(E1.nonce));
    return target;
  }) as typeof original;
  try {
    const { encrypt } = encryption(E1options());
    assertEquals(JSON.parse(encrypt(E1.channel, E1.plain)), {
      nonce: E1.nonce,
      ciphertext: E1.ciphertext,
    });
  } finally {
    crypto.getRandomValues = original;
  }
});

function E1options(): EncryptionOptions {
  return { masterKeyBase64: E1.masterKeyBase64 };
}

// ---- Sealing ----------------------------------------------------------------

Deno.test("encrypt seals for the library and the SDK that stock programs use", () => {
  const { encrypt, sharedSecret } = encryption(E1options());
  for (
    const plain of [
      E1.plain,
      '""',
      "null",
      '"zoë ✓ 😀"',
      JSON.stringify("x".repeat(7_000)),
    ]
  ) {
    for (const name of ["a", "a;b,c.d=e@f", "cache-a", "x".repeat(180)]) {
      const channel = `private-encrypted-${name}`;
      const wire = encrypt(channel, plain);
      assertEquals(sharedSecret(channel), stockSecret(channel));
      assertEquals(open(wire, stockSecret(channel)), plain);
      const { nonce, ciphertext, ...rest } = JSON.parse(wire);
      assertEquals(rest, {});
      assertEquals(bytes(nonce).length, 24);
      assertEquals(
        bytes(ciphertext).length,
        new TextEncoder().encode(plain).length + 16,
      );
    }
  }
});

Deno.test("encrypt takes a new nonce each time", () => {
  const { encrypt } = encryption(E1options());
  const nonces = Array.from(
    { length: 1_000 },
    () => JSON.parse(encrypt(E1.channel, E1.plain)).nonce,
  );
  assertEquals(new Set(nonces).size, nonces.length);
});

Deno.test("encrypt makes what opens with no other secret, nor with any bit changed", () => {
  const { encrypt, sharedSecret } = encryption(E1options());
  const wire = encrypt(E1.channel, E1.plain);
  assertEquals(open(wire, sharedSecret(E1.channel)), E1.plain);
  assertEquals(open(wire, sharedSecret("private-encrypted-other")), null);
  assertEquals(open(wire, E2.sharedSecret), null);
  const { nonce, ciphertext } = JSON.parse(wire);
  const box = bytes(ciphertext);
  for (let bit = 0; bit < box.length * 8; bit++) {
    const changed = box.with(bit >> 3, box[bit >> 3]! ^ (1 << (bit & 7)));
    const other = JSON.stringify({ nonce, ciphertext: changed.toBase64() });
    assertEquals(open(other, sharedSecret(E1.channel)), null);
  }
});

Deno.test("sharedSecret stays right over more channels than are remembered", () => {
  const { sharedSecret, encrypt } = encryption(E1options());
  const channels = Array.from(
    { length: 1_500 },
    (_, i) => `${E1.channel}-${i}`,
  );
  const before = channels.map(sharedSecret);
  assertEquals(new Set(before).size, channels.length);
  assertEquals(channels.map(sharedSecret), before);
  assertEquals(sharedSecret(E1.channel), E1.sharedSecret);
  assertEquals(open(encrypt(E1.channel, "1"), E1.sharedSecret), "1");
});

Deno.test("encryption refuses texts with a lone surrogate, without repeating them", () => {
  const { masterKeyBase64 } = E1;
  const { encrypt, sharedSecret } = encryption({ masterKeyBase64 });
  for (const text of ["\ud800", "tofu\udc00", 5, undefined]) {
    for (
      const call of [
        () => sharedSecret(text as string),
        () => encrypt(text as string, "1"),
        () => encrypt("private-encrypted-a", text as string),
      ]
    ) {
      const { message } = assertThrows(call, TypeError, "Cannot encrypt");
      assertFalse(/tofu|AAEC/.test(message), message);
    }
  }
});

Deno.test("encryption uses the key that it has checked", () => {
  let reads = 0;
  const { sharedSecret } = encryption({
    get masterKeyBase64() {
      return ++reads === 1 ? E1.masterKeyBase64 : "another";
    },
  });
  assertEquals(
    sharedSecret("private-encrypted-foobar"),
    E1.sharedSecret,
  );
});

// ---- Options ----------------------------------------------------------------

Deno.test("encryption refuses what is not 32 bytes in base64, without repeating it", () => {
  const good = E1.masterKeyBase64;
  const cases: [unknown, string][] = [
    [undefined, "of type undefined"],
    [null, "null"],
    [42, "of type number"],
    [new Uint8Array(32), "of type object"],
    ["", "a string of 0 characters"],
    [good.slice(0, -1), "a string of 43 characters"],
    [` ${good}`, "a string of 45 characters"],
    [`${good}\n`, "a string of 45 characters"],
    [good.replace("A", "-"), "a string of 44 characters"],
    [btoa("x".repeat(31)), "a string of 44 characters"],
    [btoa("x".repeat(33)), "a string of 44 characters"],
    [btoa("x".repeat(64)), "a string of 88 characters"],
  ];
  for (const [masterKeyBase64, found] of cases) {
    const { message } = assertThrows(
      () => encryption({ masterKeyBase64 } as EncryptionOptions),
      TypeError,
      `Cannot create an encryption: masterKeyBase64 is ${found}, and must be`,
    );
    if (typeof masterKeyBase64 === "string" && masterKeyBase64 !== "") {
      assertFalse(message.includes(masterKeyBase64.slice(0, 16)));
    }
  }
});

Deno.test("encryption refuses unknown options, and none", () => {
  for (
    const [options, expected] of [
      [{ masterKeyBase64: E1.masterKeyBase64, nonce: "" }, 'option "nonce"'],
      [{ encryptionMasterKeyBase64: E2.masterKeyBase64 }, "known is masterKey"],
      [{}, "masterKeyBase64 is of type undefined"],
      [undefined, "options is undefined, and must be an object"],
      [null, "options is null, and must be an object"],
      [E2.masterKeyBase64, "options is a string of 44 characters, and must"],
    ] as const
  ) {
    const { message } = assertThrows(
      () => encryption(options as unknown as EncryptionOptions),
      TypeError,
      expected,
    );
    assertFalse(message.includes(E2.masterKeyBase64));
  }
});

// ---- Pusher -----------------------------------------------------------------

/** A server on a port of its own, and pusher-js on it. */
function setUp(options: PusherOptions = {}) {
  const pusher = new Pusher({
    ...APP,
    encryption: encryption(E1options()),
    authorize: () => true,
    ...options,
  });
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    pusher.handler,
  );
  const { port } = server.addr;
  const client = new PusherJs(APP.key, {
    cluster: "none",
    wsHost: "127.0.0.1",
    wsPort: port,
    forceTLS: false,
    enabledTransports: ["ws"],
    channelAuthorization: {
      endpoint: `http://127.0.0.1:${port}/pusher/auth`,
      transport: "ajax",
      customHandler: async ({ socketId, channelName }, callback) => {
        const response = await fetch(`http://127.0.0.1:${port}/pusher/auth`, {
          method: "POST",
          body: new URLSearchParams({
            socket_id: socketId,
            channel_name: channelName,
          }),
        });
        callback(null, await response.json());
      },
    },
  });
  return {
    pusher,
    client,
    port,
    async [Symbol.asyncDispose]() {
      client.disconnect();
      await within(DEADLINE_MS, "end of the server", pusher.close());
      await within(DEADLINE_MS, "end of shutdown", server.shutdown());
    },
  };
}

/** The first data of an event on a channel of pusher-js. */
function heard(
  channel: { bind(event: string, callback: (data: unknown) => void): unknown },
  event: string,
): Promise<unknown> {
  return within(
    DEADLINE_MS,
    event,
    new Promise((resolve) => channel.bind(event, resolve)),
  );
}

Deno.test("pusher-js decrypts what Pusher.trigger encrypts, and nobody else can read it", async () => {
  await using server = setUp();
  const channel = server.client.subscribe(E1.channel);
  await heard(channel, "pusher:subscription_succeeded");
  const frames: string[] = [];
  server.client.connection.bind("message", (frame: unknown) => {
    frames.push(JSON.stringify(frame));
  });
  for (
    const data of [
      { message: "hello world" },
      "plain text",
      [1, { a: null }],
      "zoë ✓",
    ]
  ) {
    const arrived = heard(channel, "create");
    await server.pusher.trigger(E1.channel, "create", data);
    assertEquals(await arrived, data);
    channel.unbind("create");
  }
  assertEquals(frames.length, 4);
  // Words that random base64 does not contain by chance.
  assertFalse(/hello|plain|zoë/.test(frames.join()), frames.join());
});

Deno.test("pusher-js decrypts what the SDK triggers on a server with the same key", async () => {
  await using server = setUp();
  const channel = server.client.subscribe(E1.channel);
  await heard(channel, "pusher:subscription_succeeded");
  const sender = new StockServerSdk({
    ...APP,
    host: "127.0.0.1",
    port: String(server.port),
    useTLS: false,
    encryptionMasterKeyBase64: E1.masterKeyBase64,
  });
  const arrived = heard(channel, "create");
  await sender.trigger(E1.channel, "create", { text: "zoë" });
  assertEquals(await arrived, { text: "zoë" });
});

Deno.test("Pusher.authorizeChannel gives out the secret of encrypted channels only", async () => {
  await using pusher = new Pusher({
    ...APP,
    encryption: encryption(E1options()),
  });
  assertEquals(
    { ...pusher.authorizeChannel("1234.1234", E1.channel) },
    { ...sdk.authorizeChannel("1234.1234", E1.channel) },
  );
  const plain = pusher.authorizeChannel("1234.1234", "private-foobar");
  assertEquals(Object.keys(plain), ["auth"]);
});

Deno.test("Pusher.trigger keeps the limit of event data for what is encrypted", async () => {
  await using pusher = new Pusher({
    ...APP,
    encryption: encryption(E1options()),
  });
  // Of 10,240 bytes on the wire, 60 are around nonce and ciphertext; of the
  // other 3/4, 16 are the box and 2 the quotes.
  const fits = (10_240 - 60) * 3 / 4 - 16 - 2;
  await pusher.trigger(E1.channel, "create", "x".repeat(fits));
  const error = assertThrows(
    () => void pusher.trigger(E1.channel, "create", "x".repeat(fits + 1)),
    RangeError,
  );
  assertStringIncludes(error.message, "bytes");
  assert(!error.message.includes("xxx"));
});
