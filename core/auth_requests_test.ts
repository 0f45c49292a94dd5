import { assert, assertEquals, assertThrows } from "@std/assert";
import { ManualClock } from "../tests/support/clock.ts";
import {
  type AuthApps,
  checkAuthenticated,
  checkDecision,
  parseAuthChannels,
  readAuthForm,
} from "./auth_requests.ts";
import { DEFAULT_LIMITS, isRefusal, Refusal } from "./limits.ts";
import { kindOf } from "./protocol.ts";

interface TestApp {
  readonly id: string;
}

const A: TestApp = { id: "a" };
const B: TestApp = { id: "b" };

/** Some apps, of which `A` has the connection 1.1. */
function appsOf(...apps: TestApp[]): AuthApps<TestApp> {
  return {
    appsById: new Map(apps.map((app) => [app.id, app])),
    appsByKey: new Map(apps.map((app) => [`key-${app.id}`, app])),
    connections: new Map([["1.1", { app: A }]]),
    defaultApp: A,
    clock: new ManualClock(),
    bodyTimeoutMs: 10_000,
    ended: new AbortController().signal,
  };
}

/** What an auth endpoint makes of a form: the id of the app, or a status. */
async function judge(
  form: Record<string, string>,
  { apps = appsOf(A, B), appName = undefined as string | undefined } = {},
): Promise<string | number> {
  const request = new Request("http://localhost/pusher/auth", {
    method: "POST",
    body: new URLSearchParams(form),
  });
  const read = await readAuthForm(apps, request, appName);
  return isRefusal(read) ? read.status : read.app.id;
}

// ---- Forms ------------------------------------------------------------------

Deno.test("readAuthForm finds the app by path, key, id, or socket, in this order", async () => {
  const socket_id = "1.1";
  assertEquals(await judge({ socket_id }), "a");
  assertEquals(await judge({ socket_id, app_id: "b" }), "b");
  assertEquals(await judge({ socket_id, app_key: "key-b" }), "b");
  assertEquals(await judge({ socket_id, app_key: "key-b", app_id: "a" }), "b");
  assertEquals(await judge({ socket_id, app_key: "a" }, { appName: "b" }), "b");
  assertEquals(await judge({ socket_id }, { appName: "key-b" }), "b");
});

Deno.test("readAuthForm needs no connection where there is one app", async () => {
  const form = { socket_id: "2.2" };
  assertEquals(await judge(form, { apps: appsOf(A) }), "a");
  assertEquals(await judge(form), 403);
});

Deno.test("readAuthForm refuses an unknown app and a form without a socket id", async () => {
  assertEquals(await judge({ socket_id: "1.1", app_id: "c" }), 404);
  assertEquals(await judge({ socket_id: "1.1" }, { appName: "c" }), 404);
  assertEquals(await judge({}), 400);
  assertEquals(await judge({ socket_id: "1" }), 400);
});

Deno.test("parseAuthChannels returns one channel, a list, or why there is neither", () => {
  const parse = (...pairs: [string, string][]) =>
    parseAuthChannels(new URLSearchParams(pairs), {
      ...DEFAULT_LIMITS,
      channelsPerConnection: 2,
    });
  assertEquals(parse(["channel_name", "a"]), "a");
  assertEquals(parse(["channel_name[]", "a"]), ["a"]);
  assertEquals(parse(["channel_name[]", "a"], ["channel_name[]", "b"]), [
    "a",
    "b",
  ]);
  const many = parse(
    ["channel_name[]", "a"],
    ["channel_name[]", "b"],
    ["channel_name[]", "c"],
  );
  assert(isRefusal(many));
  assertEquals(many.limit, "channelsPerConnection");
  assert(isRefusal(parse(["socket_id", "1.1"])));
});

// ---- Answers of the program -------------------------------------------------

/** What a decision about a channel means: the member, or a status. */
function decide(decision: unknown, name: string, acceptsUsers = false) {
  const channel = { name, kind: kindOf(name) };
  const member = checkDecision(decision, channel, acceptsUsers, DEFAULT_LIMITS);
  return isRefusal(member) ? member.status : member;
}

Deno.test("checkDecision permits by true or a member alone", () => {
  const member = { user_id: "ann" };
  assertEquals(decide(true, "private-a"), undefined);
  assertEquals(decide(member, "private-a"), undefined);
  assertEquals(decide(member, "presence-a"), JSON.stringify(member));
  const disguised = { user_id: "bob", toJSON: () => member };
  assertEquals(decide(disguised, "presence-a"), JSON.stringify(member));
  assertEquals(decide(true, "presence-a", true), undefined);
  for (const no of [false, null, undefined, 1, "true"]) {
    assertEquals(decide(no, "private-a"), 403);
    assertEquals(decide(no, "presence-a"), 403);
  }
});

Deno.test("checkDecision throws at what is no member, and says what to return", () => {
  const returned = 'Cannot authorize "presence-a": authorize returned';
  for (const wrong of [{}, { user_id: "" }, { user_id: 1.5 }]) {
    assertThrows(
      () => decide(wrong, "presence-a"),
      TypeError,
      `${returned} a member that is not valid: user_id is `,
    );
  }
  assertThrows(
    () => decide(true, "presence-a"),
    TypeError,
    `${returned} true, and on a presence channel must return the member who ` +
      'joins, such as { user_id: "1" }, unless users sign in by authenticate',
  );
});

Deno.test("a refusal says what the program returned where it has hardly meant to, never the value", () => {
  const returned: [value: unknown, shown: string | null][] = [
    [false, null],
    [null, null],
    [undefined, "undefined"],
    [1, "a number"],
    ["secret", "a string"],
  ];
  for (const [value, shown] of returned) {
    for (const name of ["private-a", "presence-a"]) {
      const channel = { name, kind: kindOf(name) };
      const rule = channel.kind.presence
        ? "only a member permits"
        : "only true permits";
      const said = shown ? `: authorize returned ${shown}, and ${rule}` : "";
      assertEquals(
        checkDecision(value, channel, false, DEFAULT_LIMITS),
        new Refusal(403, `Joining "${name}" is not allowed${said}`),
      );
    }
  }
  const rule = 'and only a user such as { id: "1" } signs in';
  for (const [value, shown] of [...returned, [true, "true"] as const]) {
    const no = shown === null || value === false;
    const said = no ? "" : `: authenticate returned ${shown}, ${rule}`;
    assertEquals(
      checkAuthenticated(value, DEFAULT_LIMITS),
      new Refusal(403, `The request is not that of a user${said}`),
    );
  }
});

Deno.test("checkAuthenticated returns a user, refuses nobody and throws at the rest", () => {
  const user = { id: "ann" };
  const json = JSON.stringify(user);
  assertEquals(checkAuthenticated(user, DEFAULT_LIMITS), json);
  const disguised = { id: "bob", toJSON: () => user };
  assertEquals(checkAuthenticated(disguised, DEFAULT_LIMITS), json);
  for (const nobody of [null, undefined, false, true, "ann"]) {
    assert(isRefusal(checkAuthenticated(nobody, DEFAULT_LIMITS)));
  }
  const check = () => checkAuthenticated({ id: 1 }, DEFAULT_LIMITS);
  const error =
    "Cannot authenticate: authenticate returned a user that is not valid: ";
  assertThrows(check, TypeError, error);
});
