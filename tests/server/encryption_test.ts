/**
 * What the server does with an `encryption` option, whatever cipher is behind
 * it: clear text never leaves the program, and clients get the secret with the
 * signature.
 */
import { type Encryption, Pusher } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { eachBackplane } from "../support/backplanes.ts";
import { APP, read, serve, type TestServer } from "../support/server.ts";
import { type App, channelAuth, dataOf } from "../support/wire.ts";

const CHANNELS = ["private-encrypted-a", "private-encrypted-cache-a"];

/** What no frame and no hook may contain. */
const CLEAR = "clear text";

/** A cipher that can be undone by hand, and counts what it is asked for. */
class FakeCipher implements Encryption {
  readonly asked: [channel: string, json: string][] = [];
  readonly #key: string;

  constructor(key = "key") {
    this.#key = key;
  }

  encrypt(channel: string, json: string): string {
    this.asked.push([channel, json]);
    const nonce = String(this.asked.length).padStart(24, "0");
    const bytes = new TextEncoder().encode(`${this.#key} ${channel} ${json}`);
    return JSON.stringify({
      nonce: btoa(nonce),
      ciphertext: btoa(String.fromCharCode(...bytes)),
    });
  }

  sharedSecret(channel: string): string {
    return btoa(`${this.#key} of ${channel}`);
  }
}

/** What {@linkcode FakeCipher} made, undone. */
function decrypted(wire: string): string {
  const { nonce, ciphertext, ...rest } = JSON.parse(wire);
  assertEquals([typeof nonce, rest], ["string", {}]);
  const bytes = Uint8Array.from(atob(ciphertext), (c) => c.charCodeAt(0));
  return new TextDecoder().decode(bytes);
}

eachBackplane(
  "trigger on an encrypted channel sends what encryption makes of it",
  async (start) => {
    const encryption = new FakeCipher();
    await using server = start({ encryption });
    for (const channel of CHANNELS) {
      await using client = await server.connect();
      await client.join(channel);
      if (channel.includes("cache")) await client.next("pusher:cache_miss");
      for (
        const data of [
          { text: `${CLEAR} zoë ✓` },
          // A string is JSON like all else, or it could not be told from one.
          CLEAR,
          '{"text":"clear text"}',
          "",
          [CLEAR],
          12,
          null,
        ]
      ) {
        const sent = [
          (name: string) => server.pusher.trigger(channel, name, data),
          (name: string) => server.pusher.trigger([channel], name, data),
          (name: string) =>
            server.pusher.triggerBatch([{ channel, name, data }]),
        ];
        for (const send of sent) {
          const response = await send("e");
          assertEquals(response.status, 200);
          const frame = await client.next("e");
          assertEquals(Object.keys(frame).sort(), ["channel", "data", "event"]);
          assertEquals(
            decrypted(frame.data as string),
            `key ${channel} ${JSON.stringify(data)}`,
          );
          assertEquals(encryption.asked.at(-1), [
            channel,
            JSON.stringify(data),
          ]);
          assert(!JSON.stringify(frame).includes(CLEAR));
        }
      }
      await client.silence();
    }
    assert(!JSON.stringify(server.journal.entries).includes(CLEAR));
  },
);

eachBackplane(
  "what an encrypted cache channel keeps is encrypted",
  async (start) => {
    await using server = start({ encryption: new FakeCipher() });
    const channel = "private-encrypted-cache-a";
    await server.pusher.trigger(channel, "e", CLEAR);
    await using client = await server.connect();
    await client.join(channel);
    const { data } = await client.next("e");
    assertEquals(decrypted(data as string), `key ${channel} "${CLEAR}"`);
    const { body } = await server.api("GET", `/channels/${channel}`, {
      query: { info: "cache" },
    });
    assertEquals(body.cache.data, data);
  },
);

eachBackplane(
  "a batch encrypts the items that go to encrypted channels",
  async (start) => {
    const encryption = new FakeCipher();
    await using server = start({ encryption });
    await using client = await server.connect();
    await client.join("news");
    for (const channel of ["private-encrypted-a", "private-encrypted-b"]) {
      await client.join(channel);
    }
    const batch = [
      { channel: "private-encrypted-a", name: "1", data: CLEAR },
      { channel: "news", name: "2", data: "as it is" },
      { channel: "private-encrypted-b", name: "3", data: { n: 1 } },
    ];
    const given = structuredClone(batch);
    await server.pusher.triggerBatch(batch);
    // Unlike the SDK's, which encrypts twice what is triggered twice.
    assertEquals(batch, given);
    const frames = await client.framesUntilPong();
    assertEquals(frames.map(({ event }) => event), ["1", "2", "3"]);
    const [first, second, third] = frames.map(({ data }) => data as string);
    assertEquals(decrypted(first!), `key private-encrypted-a "${CLEAR}"`);
    assertEquals(second, "as it is");
    assertEquals(decrypted(third!), 'key private-encrypted-b {"n":1}');
    assertEquals(encryption.asked.length, 2);
  },
);

eachBackplane(
  "trigger refuses an encrypted channel among several",
  async (start) => {
    const encryption = new FakeCipher();
    await using server = start({ encryption });
    await using client = await server.connect();
    await client.join("news");
    for (const channel of CHANNELS) await client.join(channel);
    await client.framesUntilPong();
    for (
      const channels of [
        ["news", CHANNELS[0]],
        [CHANNELS[0], "news"],
        [CHANNELS[0], CHANNELS[1]],
        ["news", "private-a", CHANNELS[1]],
      ] as string[][]
    ) {
      const { message } = assertThrows(
        () => server.pusher.trigger(channels, "e", CLEAR),
        TypeError,
      );
      assert(!message.includes(CLEAR), message);
    }
    await client.silence();
    assertEquals(encryption.asked, []);
    assertEquals(server.journal.calls("published"), []);
  },
);

Deno.test("what is encrypted and published is what was checked, whatever arguments read like later", async () => {
  const encryption = new FakeCipher();
  await using server = serve({ encryption });
  await using client = await server.connect();
  await client.join("news");
  await client.join("private-encrypted-a");
  await client.framesUntilPong();
  const { pusher } = server;
  const channel = "private-encrypted-a";
  /** Answers as given, and once it was asked about the data, otherwise. */
  const item = () => {
    let wasRead = false;
    return new Proxy({ channel, name: "e", data: CLEAR }, {
      get(target, name) {
        const value = Reflect.get(target, name);
        const answer = wasRead && name === "channel" ? "news" : value;
        wasRead ||= name === "data";
        return answer;
      },
    });
  };
  const names = [channel];
  // Encoding the data changes the list of channels.
  const data = {
    toJSON() {
      names[0] = "news";
      return CLEAR;
    },
  };
  const calls = [
    () => pusher.triggerBatch([item()]),
    () => pusher.trigger(names, "e", data),
  ];
  for (const call of calls) {
    await call();
    const frames = await client.framesUntilPong();
    assertEquals(frames.map((frame) => frame.channel), [channel]);
    assertEquals(
      decrypted(frames[0]?.data as string),
      `key ${channel} "${CLEAR}"`,
    );
  }
  assert(!JSON.stringify(server.journal.entries).includes(CLEAR));
  // A second channel, event or data is refused.
  const both = { channel, channels: ["news"], name: "e", data: CLEAR };
  assertThrows(
    () => pusher.triggerBatch([both]),
    TypeError,
    '"batch[0].channels"',
  );
  const second = { channel: "news", channels: ["news"], name: "n", data: 1 };
  for (const [name, value] of Object.entries(second)) {
    const params = { [name]: value } as object;
    for (const channels of [channel, undefined as unknown as string]) {
      const call = () => pusher.trigger(channels, "e", CLEAR, params);
      assertThrows(call, TypeError, `"params.${name}"`);
    }
  }
  await client.silence();
});

Deno.test("trigger refuses what encrypt returns if that is no string", async () => {
  for (
    const answer of [undefined, null, 5, { ciphertext: 1 }, async () => {}]
  ) {
    const encryption = {
      encrypt: () => answer,
      sharedSecret: () => "",
    } as unknown as Encryption;
    await using server = serve({ encryption });
    const { message } = assertThrows(
      () => server.pusher.trigger("private-encrypted-a", "e", CLEAR),
      TypeError,
      "did not return a string",
    );
    assert(!message.includes(CLEAR), message);
    assertEquals(server.journal.calls("published"), []);
  }
});

Deno.test("trigger refuses encrypted channels at once when there is no encryption", async () => {
  await using server = serve();
  await using client = await server.connect();
  for (const channel of CHANNELS) {
    await client.join(channel);
    await client.framesUntilPong();
    for (
      const call of [
        () => server.pusher.trigger(channel, "e", CLEAR),
        () => server.pusher.trigger(["news", channel], "e", CLEAR),
        () =>
          server.pusher.triggerBatch([
            { channel: "news", name: "e", data: CLEAR },
            { channel, name: "e", data: CLEAR },
          ]),
      ]
    ) {
      const { message } = assertThrows(call, TypeError);
      assertStringIncludes(message, "encrypt");
    }
    await client.silence();
    const signed = server.pusher.authorizeChannel("1.1", channel);
    assertEquals(signed, { auth: channelAuth(APP, "1.1", channel) });
  }
  assertEquals(server.journal.calls("published"), []);
});

eachBackplane(
  "names that only look encrypted are sent as they are",
  async (start) => {
    const encryption = new FakeCipher();
    await using server = start({ encryption });
    await using client = await server.connect();
    for (
      const channel of [
        "encrypted-a",
        "private-encrypted",
        "private-a-private-encrypted-",
        "private-Encrypted-a",
      ]
    ) {
      await client.join(channel);
      await server.pusher.trigger(channel, "e", "as it is");
      assertEquals((await client.next("e")).data, "as it is");
      assertEquals(
        Object.keys(server.pusher.authorizeChannel("1.1", channel)),
        ["auth"],
      );
    }
    await server.pusher.sendToUser("private-encrypted-a", "e", "as it is");
    assertEquals(encryption.asked, []);
  },
);

eachBackplane(
  "the HTTP API passes on what was encrypted elsewhere, unchanged",
  async (start) => {
    const encryption = new FakeCipher();
    await using server = start({ encryption });
    const data = '{"nonce":"AA==", "ciphertext":"AAAA"}';
    const [channel] = CHANNELS as [string, string];
    await using client = await server.connect();
    await client.join(channel);
    await client.join("news");
    // Several channels are for who encrypts to decide.
    for (const channels of [[channel], [channel, "news"]]) {
      const body = { name: "e", channels, data };
      const { status } = await server.api("POST", "/events", { body });
      assertEquals(status, 200);
      for (const name of channels) {
        assertEquals(await client.next(), { event: "e", channel: name, data });
      }
    }
    const batch = [{ name: "e", channel, data }];
    await server.api("POST", "/batch_events", { body: { batch } });
    assertEquals((await client.next("e")).data, data);
    assertEquals(encryption.asked, []);
  },
);

Deno.test("the size limit is that of what goes on the wire", async () => {
  const encryption: Encryption = {
    encrypt: (_channel, json) => json.padEnd(json.length + 100, "="),
    sharedSecret: () => "",
  };
  await using pusher = new Pusher({ encryption });
  const [channel] = CHANNELS as [string, string];
  const data = (bytes: number) => "x".repeat(bytes - '""'.length);
  await pusher.trigger(channel, "e", data(10_140));
  assertThrows(() => pusher.trigger(channel, "e", data(10_141)), RangeError);
  assertThrows(
    () => pusher.triggerBatch([{ channel, name: "e", data: data(10_141) }]),
    RangeError,
  );
});

Deno.test("nothing is published that cannot be encrypted", async () => {
  const encryption: Encryption = {
    encrypt() {
      throw new Error("no key today");
    },
    sharedSecret() {
      throw new Error("no key today");
    },
  };
  await using server = serve({ encryption, authorize: () => true });
  await using client = await server.connect();
  const [channel] = CHANNELS as [string, string];
  await client.join(channel);
  await client.join("news");
  const { pusher } = server;
  const calls = [
    () => pusher.trigger(channel, "e", CLEAR),
    () =>
      pusher.triggerBatch([
        { channel: "news", name: "e", data: 1 },
        { channel, name: "e", data: CLEAR },
      ]),
  ];
  for (const call of calls) {
    const { message } = assertThrows(call, Error);
    assert(!message.includes(CLEAR), message);
  }
  assertThrows(() => pusher.authorizeChannel("1.1", channel), Error);
  const { status, text } = await askAuth(server, {
    socket_id: "1.1",
    channel_name: channel,
  });
  assertEquals(status, 500, text);
  assert(!text.includes("no key today"), text);
  await server.journal.next("error");
  await client.silence();
  await pusher.trigger("news", "e", 1);
  await client.next("e");
});

Deno.test("data that has no JSON is refused on encrypted channels, too", async () => {
  const encryption = new FakeCipher();
  await using pusher = new Pusher({ encryption });
  const [channel] = CHANNELS as [string, string];
  for (const data of [undefined, () => {}, Symbol("x"), 1n]) {
    assertThrows(() => pusher.trigger(channel, "e", data), TypeError);
  }
  for (
    const call of [
      () => pusher.trigger(channel, "", 1),
      () => pusher.trigger(channel, "pusher:e", 1),
      () => pusher.trigger("private-encrypted-a b", "e", 1),
      () => pusher.trigger([], "e", 1),
      () => pusher.trigger(5 as unknown as string, "e", 1),
      () => pusher.trigger([5] as unknown as string, "e", 1),
      () =>
        pusher.triggerBatch(
          [5] as unknown as Parameters<
            typeof pusher.triggerBatch
          >[0],
        ),
      () =>
        pusher.triggerBatch(
          5 as unknown as Parameters<
            typeof pusher.triggerBatch
          >[0],
        ),
    ]
  ) {
    const error = assertThrows(call, Error);
    assert(
      error instanceof TypeError || error instanceof RangeError,
      String(error),
    );
  }
});

// ---- Shared secrets ---------------------------------------------------------

/** Asks the auth endpoint as clients do. */
async function askAuth(
  { url }: TestServer,
  form: Record<string, string> | [string, string][],
) {
  return await read(
    await fetch(`${url}/pusher/auth`, {
      method: "POST",
      body: new URLSearchParams(form),
    }),
  );
}

Deno.test("authorizeChannel adds the shared secret on encrypted channels only", async () => {
  const encryption = new FakeCipher();
  await using pusher = new Pusher({
    appId: "3",
    key: "278d425bdf160c739803",
    secret: "7ad3773142a6692b25b8",
    encryption,
  });
  const channel = "private-encrypted-foobar";
  assertEquals(pusher.authorizeChannel("1234.1234", channel), {
    // The secret is no part of what is signed.
    auth: "278d425bdf160c739803:" +
      "e6a18892d037c5d5e76a2265df4f086ffc38631605530dfd214aa5bff495f533",
    shared_secret: encryption.sharedSecret(channel),
  });
  const cache = "private-encrypted-cache-a";
  assertEquals(
    pusher.authorizeChannel("1.1", cache).shared_secret,
    encryption.sharedSecret(cache),
  );
  for (
    const other of ["private-a", "private-cache-a", "private-encrypted", "news"]
  ) {
    const keys = (() => {
      try {
        return Object.keys(pusher.authorizeChannel("1.1", other));
      } catch {
        return ["auth"];
      }
    })();
    assertEquals(keys, ["auth"], other);
  }
  const member = { user_id: "ann" };
  assertEquals(
    Object.keys(pusher.authorizeChannel("1.1", "presence-a", member)).sort(),
    ["auth", "channel_data"],
  );
});

eachBackplane(
  "POST /pusher/auth gives the shared secret with the signature",
  async (start) => {
    const encryption = new FakeCipher();
    await using server = start({
      encryption,
      authorize: (_request, { channel }) => !channel.endsWith("-no"),
    });
    await using client = await server.connect();
    const { socketId } = client;
    for (const channel of CHANNELS) {
      const { status, body } = await askAuth(server, {
        socket_id: socketId,
        channel_name: channel,
      });
      assertEquals([status, body], [200, {
        auth: channelAuth(APP, socketId, channel),
        shared_secret: encryption.sharedSecret(channel),
      }]);
      await client.join(channel, { auth: body.auth });
    }
    const refused = await askAuth(server, {
      socket_id: socketId,
      channel_name: "private-encrypted-no",
    });
    assertEquals(
      [refused.status, Object.keys(refused.body)],
      [403, ["error"]],
    );
    const names = ["private-encrypted-a", "private-a", "private-encrypted-no"];
    const { body } = await askAuth(server, [
      ["socket_id", socketId],
      ...names.map((name): [string, string] => ["channel_name[]", name]),
    ]);
    const [secret, plain, no] = names.map((name) => body.channels[name]);
    assertEquals(secret, {
      auth: channelAuth(APP, socketId, "private-encrypted-a"),
      shared_secret: encryption.sharedSecret("private-encrypted-a"),
    });
    assertEquals(plain, { auth: channelAuth(APP, socketId, "private-a") });
    assertEquals(Object.keys(no).sort(), ["error", "status"]);
    // The secret is for the client; the server has nothing to say of it.
    assert(
      !JSON.stringify(server.journal.entries).includes(
        encryption.sharedSecret("private-encrypted-a"),
      ),
    );
  },
);

// ---- Apps -------------------------------------------------------------------

eachBackplane("apps encrypt with what is their own", async (start) => {
  const apps: App[] = ["a", "b", "c"].map((id) => ({
    id,
    key: `key-${id}`,
    secret: `secret-${id}`,
  }));
  const [a, b, c] = apps as [App, App, App];
  const shared = new FakeCipher("shared");
  const own = new FakeCipher("own");
  await using server = start({
    encryption: shared,
    apps: [{ ...a, encryption: own }, b, c],
  });
  const [channel] = CHANNELS as [string, string];
  for (const [app, key] of [[a, "own"], [b, "shared"]] as const) {
    const pusher = server.pusher.app(app.id);
    await using client = await server.connect({ app });
    await using other = await server.connect({ app: c });
    await client.join(channel);
    await other.join(channel);
    await pusher.trigger(channel, "e", CLEAR);
    const { data } = await client.next("e");
    assertEquals(decrypted(data as string), `${key} ${channel} "${CLEAR}"`);
    await other.silence();
    assertEquals(
      pusher.authorizeChannel("1.1", channel).shared_secret,
      btoa(`${key} of ${channel}`),
    );
  }
  await using mixed = start({ apps: [{ ...a, encryption: own }, b] });
  assertThrows(
    () => mixed.pusher.app("b").trigger(channel, "e", CLEAR),
    TypeError,
  );
  await using client = await mixed.connect({ app: a });
  await client.join(channel);
  await mixed.pusher.app("a").trigger(channel, "e", 1);
  assert(typeof dataOf(await client.next("e")).ciphertext === "string");
});
