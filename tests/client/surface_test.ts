/**
 * The client beside pusher-js: what programs find when they look into its objects,
 * and what becomes of options and addresses that are wrong.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type ConnectionError, Pusher } from "@glitz/pusher/client";
import nacl from "npm:tweetnacl@1.0.3";
import { heard } from "../support/client.ts";
import { APP, serve } from "../support/server.ts";
import {
  authenticatedBy,
  authorizedBy,
  PusherJs,
  sdk,
  type StockOptions,
} from "../support/stock.ts";

// ---- Names ------------------------------------------------------------------

// deno-lint-ignore no-explicit-any -- tests look into objects of two libraries
type Any = any;

const BEGIN = "<!-- names that are left out -->";

const DOCUMENT = await Deno.readTextFile(
  new URL("../../docs/client.md", import.meta.url),
);

/** The names that docs/client.md lists as left out, by what they are members of. */
function namesLeftOut(): Map<string, Set<string>> {
  const [, rest = ""] = DOCUMENT.split(BEGIN);
  const [list = ""] = rest.trimStart().split("\n\n");
  const items = list.split(/^- /m).slice(1);
  return new Map(items.map((item) => {
    const [owner = "", names = ""] = item.split(/:\s/);
    const quoted = [...names.matchAll(/`([^`]+)`/g)];
    return [owner.trim(), new Set(quoted.map(([, name]) => name!))];
  }));
}

/** Names of an object and its prototypes, except those of every object. */
function namesOf(object: object): string[] {
  const names = new Set<string>();
  for (
    let part = object;
    part !== Object.prototype && part !== Function.prototype;
    part = Object.getPrototypeOf(part)
  ) Object.getOwnPropertyNames(part).forEach((name) => names.add(name));
  names.delete("constructor");
  return [...names];
}

/** The objects of a client that a program can reach, by their names in docs/client.md. */
function objectsOf(pusher: Any, PusherClass: Any): Record<string, Any> {
  return {
    "`Pusher`": PusherClass,
    "`pusher`": pusher,
    "`pusher.config`": pusher.config,
    "`pusher.channels`": pusher.channels,
    "`pusher.connection`": pusher.connection,
    "`pusher.connection.options`": pusher.connection.options,
    "`pusher.user`": pusher.user,
    "`pusher.user.watchlist`": pusher.user.watchlist,
    "`pusher.global_emitter`": pusher.global_emitter,
    "public channels": pusher.channel("a"),
    "private channels": pusher.channel("private-a"),
    "presence channels": pusher.channel("presence-a"),
    "encrypted channels": pusher.channel("private-encrypted-a"),
    "the user's channel": pusher.user.serverToUserChannel,
    "`members`": pusher.channel("presence-a").members,
  };
}

/** Connects a client, signs in and joins channels of every kind. */
async function useEverything(pusher: Any): Promise<void> {
  const events = [heard(pusher.connection, "connected")];
  for (const name of ["a", "private-a", "presence-a", "private-encrypted-a"]) {
    const channel = pusher.subscribe(name);
    events.push(heard(channel, "pusher:subscription_succeeded"));
  }
  pusher.signin();
  await Promise.all(events);
  await pusher.user.signinDonePromise;
}

Deno.test("the objects have all names that those of pusher-js have, except names that docs/client.md lists", async () => {
  await using server = await serve({ encryption: undefined });
  const options = {
    ...authenticatedBy(
      server,
      { id: "ann" },
      authorizedBy(sdk(server), { user_id: "ann", user_info: { name: "Ann" } }),
    ),
    cluster: "none",
    wsHost: "127.0.0.1",
    wsPort: server.port,
    httpHost: "127.0.0.1",
    httpPort: server.port,
    httpsPort: server.port,
    httpPath: "/pusher",
    forceTLS: false,
    enabledTransports: ["ws"],
    disabledTransports: [],
    nacl,
  } as StockOptions & { cluster: string };
  const stock = new PusherJs(APP.key, options);
  // The types of options differ where pusher-js allows fewer texts.
  const ours = new Pusher(APP.key, options as Any);
  try {
    await Promise.all([useEverything(stock), useEverything(ours)]);
    const left = namesLeftOut();
    const [found, missing] = [new Set<string>(), [] as string[]];
    const oursByName = objectsOf(ours, Pusher);
    for (const [owner, object] of Object.entries(objectsOf(stock, PusherJs))) {
      const mine = oursByName[owner];
      const groups = [owner, "every channel", "every emitter"];
      for (const name of namesOf(object)) {
        const group = groups.find((group) => left.get(group)?.has(name));
        if (name in mine) {
          const isMethod = typeof object[name] === "function";
          const what = `${owner}: ${name}`;
          assertEquals(typeof mine[name] === "function", isMethod, what);
        } else if (group) {
          found.add(`${group} ${name}`);
        } else {
          missing.push(`${owner} ${name}`);
        }
      }
    }
    assertEquals(missing, []);
    // The list has no name that is there, or that pusher-js does not have.
    const listed = [...left].flatMap(([owner, names]) =>
      [...names].map((name) => `${owner} ${name}`)
    );
    assertEquals(listed.filter((name) => !found.has(name)), []);
  } finally {
    stock.disconnect();
    ours.disconnect();
  }
});

Deno.test("members and channels are plain objects that keep names of object properties apart", () => {
  const pusher = idle();
  const names = ["__proto__", "constructor", "hasOwnProperty", "a"];
  for (const name of names) assertEquals(pusher.channel(name), undefined);
  const channels = names.map((name) => pusher.subscribe(name));
  assertEquals(Object.keys(pusher.channels.channels), names);
  assertEquals(pusher.channels.all(), channels);
  assertEquals(names.map((name) => pusher.channels.find(name)), channels);
  assert(pusher.channels.channels instanceof Object);
  for (const name of names) pusher.unsubscribe(name);
  assertEquals(pusher.channels.all(), []);
  assertEquals(Object.keys(pusher.channels.channels), []);
});

// ---- Options and addresses --------------------------------------------------

/** A client that does not connect. */
function idle(options: Any = {}): Pusher {
  const pusher = new Pusher("app-key", { wsHost: "127.0.0.1", ...options });
  pusher.disconnect();
  return pusher;
}

/** All options of pusher-js, besides the address. */
const OPTIONS = [
  ...["activityTimeout", "pongTimeout", "unavailableTimeout"],
  ...["auth", "authEndpoint", "authTransport", "authorizer"],
  ...["channelAuthorization", "userAuthentication", "nacl"],
  ...["enableStats", "disableStats", "statsHost", "timelineParams"],
  ...["enabledTransports", "disabledTransports", "ignoreNullOrigin"],
  ...["forceTLS", "httpHost", "httpPath", "httpPort", "httpsPort"],
  ...["wsPath", "wsPort", "wssPort"],
];

for (const empty of [null, undefined]) {
  Deno.test(`every option may be ${empty}, and then has its default`, async () => {
    await using server = await serve({
      authorize: () => true,
      authenticate: () => ({ id: "ann" }),
    });
    // Without TLS and the default port no connection is possible here.
    const needed: Any = {
      wsHost: "127.0.0.1",
      wsPort: server.port,
      forceTLS: false,
      channelAuthorization: { endpoint: `${server.url}/pusher/auth` },
      userAuthentication: { endpoint: `${server.url}/pusher/user-auth` },
    };
    const withDefaults = idle().config;
    for (const name of OPTIONS) {
      const { config } = idle({ [name]: empty });
      for (const [key, value] of Object.entries(withDefaults)) {
        if (key === name || typeof value === "function") continue;
        assertEquals(config[key as keyof typeof config], value, name);
      }
      if (name in needed) continue;
      const pusher = new Pusher(APP.key, { ...needed, [name]: empty });
      try {
        pusher.signin();
        const channel = pusher.subscribe("private-a");
        await heard(channel, "pusher:subscription_succeeded");
        await pusher.user.signinDonePromise;
        assertEquals(pusher.user.user_data?.id, "ann", name);
      } finally {
        pusher.disconnect();
      }
    }
    for (const name of Object.keys(needed)) {
      const options = { ...needed, [name]: empty, cluster: "eu" };
      assertEquals(
        idle(options).config.wsHost,
        name === "wsHost" ? "ws-eu.pusher.com" : "127.0.0.1",
      );
    }
    // Within an option, too.
    const auth = Object.fromEntries(
      ["params", "headers", "paramsProvider", "headersProvider"]
        .concat("customHandler", "transport").map((name) => [name, empty]),
    );
    const pusher = new Pusher(APP.key, {
      ...needed,
      channelAuthorization: { ...auth, ...needed.channelAuthorization },
      userAuthentication: { ...auth, ...needed.userAuthentication },
    });
    try {
      pusher.signin();
      const channel = pusher.subscribe("private-a");
      await heard(channel, "pusher:subscription_succeeded");
      await pusher.user.signinDonePromise;
      assertEquals(pusher.user.user_data?.id, "ann");
    } finally {
      pusher.disconnect();
    }
  });
}

Deno.test("options that are zero, empty or no number have their defaults, as with pusher-js", () => {
  for (const empty of [0, NaN, ""]) {
    const names = ["activityTimeout", "pongTimeout", "unavailableTimeout"]
      .concat("wsPort", "wssPort");
    const given = Object.fromEntries(names.map((name) => [name, empty]));
    const options = {
      ...given,
      wsHost: "x",
      cluster: "",
      enabledTransports: [],
    };
    const stock = new PusherJs("app-key", options as Any);
    const config: Any = idle(options).config;
    for (const name of names) {
      assertEquals(config[name], stock.config[name as "wsPort"], name);
    }
    assertEquals(idle({ wsPath: empty }).config.wsPath, "");
    // Only false switches TLS off.
    assertEquals(idle({ forceTLS: empty }).shouldUseTLS(), true);
  }
});

/**
 * Keys and addresses, each wrong in one way, and whether a URL cannot have it. A
 * name that has to be looked up may take long to fail.
 */
const MALFORMED: [
  what: string,
  key: unknown,
  options: Any,
  isMalformed: boolean | "looked up",
][] = [
  ["a host with a space", "app-key", { wsHost: "exam ple.com" }, true],
  ["a host with a path", "app-key", { wsHost: "127.0.0.1/x" }, false],
  [
    "a host with a scheme",
    "app-key",
    { wsHost: "ws://127.0.0.1" },
    "looked up",
  ],
  ["an empty host and cluster", "app-key", { wsHost: "", cluster: "" }, true],
  ["a port that is no number", "app-key", { wsPort: "http" }, true],
  ["a port that is too high", "app-key", { wsPort: 65_536 }, true],
  ["a port that is negative", "app-key", { wsPort: -1 }, true],
  ["a path without a slash", "app-key", { wsPath: "x" }, true],
  ["an empty key", "", {}, false],
  ["a key that is a number", 7, {}, false],
  ["a key with a slash", "a/b", {}, false],
];

/** Calls a function with the options of a malformed address, of a port without a listener. */
async function withMalformed<T>(
  options: Any,
  use: (options: Any) => T | Promise<T>,
): Promise<T> {
  const refusing = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = refusing.addr;
  refusing.close();
  return await use({
    cluster: "none",
    wsHost: "127.0.0.1",
    wsPort: port,
    forceTLS: false,
    enabledTransports: ["ws"],
    ...options,
  });
}

for (const [what, key, malformed, isMalformed] of MALFORMED) {
  Deno.test(`${what} is an error of the connection, and throws nothing`, () =>
    withMalformed(malformed, async (options) => {
      const pusher = new Pusher(key as string, options);
      try {
        assertEquals(pusher.connection.state, "connecting");
        if (isMalformed === "looked up") return;
        const error: ConnectionError = await heard(pusher.connection, "error");
        assert(error.type === "WebSocketError", error.type);
        const { message } = error.error.data;
        assertEquals(message.includes("SyntaxError"), isMalformed, message);
        assertEquals(pusher.connection.state, "connecting");
      } finally {
        pusher.disconnect();
      }
    }));
}

Deno.test("a missing key and a missing host throw, as with pusher-js", () => {
  for (const key of [null, undefined]) {
    const options = { cluster: "none", wsHost: "127.0.0.1" };
    assert(throws(() => new PusherJs(key as Any, options)));
    assertThrows(() => new Pusher(key as Any, options), TypeError, '"key"');
  }
  for (const cluster of [null, undefined]) {
    const options: Any = { cluster };
    assert(throws(() => new PusherJs("app-key", options)));
    assertThrows(() => new Pusher("app-key", options), TypeError, '"cluster"');
  }
});

/** Whether a function throws; pusher-js throws texts. */
function throws(run: () => unknown): boolean {
  try {
    run();
    return false;
  } catch {
    return true;
  }
}

// Last in this file: a look-up of a name goes on after pusher-js has disconnected.
Deno.test({
  name: "pusher-js begins to connect with each of these addresses, too",
  sanitizeOps: false,
  async fn() {
    for (const [what, key, malformed] of MALFORMED) {
      await withMalformed(malformed, (options) => {
        const pusher = new PusherJs(key as string, options);
        assertEquals(pusher.connection.state, "connecting", what);
        pusher.disconnect();
      });
    }
  },
});
