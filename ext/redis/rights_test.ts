/**
 * The rights that a user of Redis needs: with the rule at the head of `ext/redis.ts`
 * everything works, and without any part of it a server says at its start what is
 * missing.
 */
import type { Backplane } from "@glitz/pusher";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { RedisUnavailable } from "@glitz/pusher/redis";
import type { FakeServer } from "../../tests/support/contract/server.ts";
import { Gate } from "../../tests/support/gate.ts";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisStage, sessionsOf } from "../../tests/support/redis_stage.ts";
import { Keys } from "./keys.ts";
import { commandNames } from "./rights.ts";
import type { Script } from "./script.ts";
import { SCRIPTS } from "./scripts.ts";

const PASSWORD = "a-password-that-nobody-may-see";
const SESSION = "0123456789abcdef";
const AGE_MS = 1_000;

/** The rule of the documentation, for a prefix. */
async function ruleFor(prefix: string): Promise<string[]> {
  const head = await Deno.readTextFile(new URL("../redis.ts", import.meta.url));
  const rule = /ACL SETUSER (pusher on >password[^`]*)```/.exec(head)?.[1];
  assert(rule !== undefined, "There is no rule");
  const escaped = prefix.replace(/[*?[\]\\]/g, "\\$&");
  return rule.replace(/^ \*/gm, "").trim().split(/\s+/).map((word) =>
    word.replace(">password", `>${PASSWORD}`).replace("prefix", () => escaped)
  );
}

async function grant(stage: RedisStage, prefix: string): Promise<string> {
  await stage.redis.command("ACL", "SETUSER", ...await ruleFor(prefix));
  return `redis://pusher:${PASSWORD}@127.0.0.1:${stage.redis.port}`;
}

const CALL = /redis\.call\('([A-Z]+)'(?:, '([A-Z]+)')?/g;

/** What scripts call, by names in rules. */
function commandsIn(scripts: readonly Script[]): string[] {
  return scripts.flatMap(({ text }) =>
    [...text.matchAll(CALL)].map(([, command = "", part]) =>
      (command === "XINFO" ? `${command}|${part}` : command).toLowerCase()
    )
  );
}

Deno.test("The rule of the documentation lists what is used", async () => {
  const rule = await ruleFor("pusher");
  const commands = commandNames(false);
  assertEquals(
    rule.filter((word) => word.startsWith("+")),
    commands.map((command) => `+${command}`),
  );
  const { patterns } = new Keys("pusher");
  assertEquals(
    rule.filter((word) => /^[~&]/.test(word)),
    ["~", "&"].flatMap((sign) => patterns.map((pattern) => sign + pattern)),
  );
  const more = commandNames(true).filter((name) => !commands.includes(name));
  const head = await Deno.readTextFile(new URL("../redis.ts", import.meta.url));
  assert(head.includes(more.map((command) => `+${command}`).join(" ")));

  const sent = ["evalsha", "info", "ping", "script|load"];
  const topics = ["ssubscribe", "sunsubscribe"];
  const inScripts = commandsIn(SCRIPTS);
  const used = new Set([...sent, ...topics, ...inScripts]);
  assertEquals(commands, [...used].sort());
});

// ---- All of it --------------------------------------------------------------

testWithRedis(
  "With the rule everything works, and all of it is used",
  async () => {
    await using stage = await RedisStage.open();
    const url = await grant(stage, "shop");
    await using gate = new Gate(stage.redis.port);
    const options = { prefix: "shop", url, leaseMs: 3_000 };
    const history = { ageMs: AGE_MS, sessions: 1 };
    const dying = await stage.server({
      ...options,
      url: url.replace(`${stage.redis.port}`, `${gate.port}`),
    });
    const one = await stage.server({ ...options, history });
    const two = await stage.server({ ...options, history });

    await readJournal(one);
    await messages(stage, one, two);
    one.backplane.intercom?.listen("a", () => {});
    assertEquals(await one.backplane.intercom?.say("a", "x"), 1);
    await sessions(one, two);
    // A server dies, and what it held is released.
    await dying.enter("presence-room", { user: "gone" });
    gate.shut();
    await stage.bell.until(() =>
      [...one.told("presence-room"), ...two.told("presence-room")]
        .some((told) => told.endsWith("-gone"))
    );
    await flush(stage, one, two);
    await stage.close(one);
    await stage.close(two);
    for (const right of await ruleFor("shop")) {
      const isCommand = right.startsWith("+");
      if (isCommand) assert(await isUsed(stage, right.slice(1)), right);
    }
    assertEquals(await stage.redis.command("ACL", "LOG"), []);
  },
);

/** Whether a command has been done, by a script or not. */
async function isUsed(stage: RedisStage, command: string): Promise<boolean> {
  const stats = String(await stage.redis.command("INFO", "commandstats"));
  return stats.includes(`cmdstat_${command}:`);
}

/** Joins, publishes, reads, asks and leaves. */
async function messages(
  stage: RedisStage,
  one: FakeServer,
  two: FakeServer,
): Promise<void> {
  const { position } = await one.enter("news", { recovers: true });
  await two.enter("news", { recovers: true });
  await one.publish("news", "1", { cacheMs: 60_000 });
  await two.publish("news", "2", { fromClient: true, exceptSocketId: "1.1" });
  await stage.bell.until(() => one.heard("news").length === 2);
  await two.leave("news", { recovers: true });
  const back = await two.enter("news", { since: position });
  assertEquals(await two.replay("news", back), ["1", "2"]);
  assertEquals(back.cached?.message.data, "1");
  // Entries that are too old are taken out, where later ones are kept.
  for (let i = 0; !(await isUsed(stage, "xtrim")); i++) {
    assert(i < 100, "No entry becomes too old");
    await one.publish("news", "3");
    await new Promise((resolve) => setTimeout(resolve, AGE_MS / 4));
    await two.enter("news", { rewind: 1 });
    await two.leave("news", { recovers: true });
  }
  for (const server of [one, two]) {
    const user = { user: server === one ? "ann" : "bob" };
    await server.enter("presence-room", user);
    await server.enter("#server-to-user-ann");
    await server.enter("#watchers-of-ann");
  }
  const { backplane } = two;
  const users = await backplane.members("app", "presence-room");
  assertEquals([...users.keys()].sort(), ["ann", "bob"]);
  assertEquals((await backplane.occupancy("app", "news")).subscriptions, 2);
  assertEquals((await backplane.cached("app", "news"))?.message.data, "1");
  const names = (await backplane.occupied("app", "p")).keys();
  assertEquals([...names], ["presence-room"]);
  await one.leave("#server-to-user-ann");
  await two.leave("#server-to-user-ann");
}

async function sessions(one: FakeServer, two: FakeServer): Promise<void> {
  const state = { formerIds: ["1.1"], positions: new Map() };
  const [a, b] = [one.backplane.sessions, two.backplane.sessions];
  await a.take("app", SESSION);
  await a.keep("app", SESSION, state, false);
  assertEquals(await b.take("app", SESSION), state);
  await b.keep("app", SESSION, state, true);
  await a.take("app", SESSION);
  await a.forget("app", SESSION);
  // There is room for one of a bucket.
  for (const id of sessionsOf(3, 2)) {
    await a.take("app", id);
    await a.keep("app", id, state, true);
  }
}

/** Writes and reads the journal. */
async function readJournal({ backplane }: FakeServer): Promise<void> {
  const { journal } = backplane as Backplane;
  assert(journal !== undefined);
  journal.want();
  const kept = { ageMs: 60_000, yield: () => Promise.resolve() };
  const reader = await journal.claim("reader", kept);
  assert(reader !== null);
  await journal.append({ kind: "cache_miss", app: "app", channel: "news" });
  let entries = 0;
  for (let part = 0; part < journal.parts; part++) {
    const page = await reader.read(part, undefined);
    await reader.read(part, page.position);
    entries += page.entries.length;
  }
  assertEquals(entries, 1);
  await reader.commit(new Map([["a", "1"], ["b", null]]));
  await reader.notes();
  await reader.release();
}

/** Everything is forgotten, with a user who leaves while Redis is away. */
async function flush(
  stage: RedisStage,
  one: FakeServer,
  two: FakeServer,
): Promise<void> {
  await stage.redis.command("FLUSHALL");
  const gone = one.leave("presence-room", { user: "ann" });
  // The lease is noticed to be gone with its next renewal.
  await stage.bell.until(() =>
    [one, two].some((server) =>
      server.texts("presence-room").some((text) => text === "removed ann")
    )
  );
  await gone;
}

// ---- Less than that ---------------------------------------------------------

testWithRedis(
  "Each right of the rule is missed by name at the start",
  async () => {
    await using stage = await RedisStage.open();
    const url = await grant(stage, "shop");
    const rule = await ruleFor("shop");
    for (const right of rule.filter((word) => word.startsWith("+"))) {
      const command = right.slice(1);
      await stage.redis.command("ACL", "SETUSER", "pusher", `-${command}`);
      const message = await refusalOf(stage, url, "shop");
      const named = message.match(/\+[\w|]+/g);
      assertEquals(named, [right], message);
      await stage.redis.command("ACL", "SETUSER", "pusher", right);
    }
    for (const [reset, sign] of [["resetkeys", "~"], ["resetchannels", "&"]]) {
      await stage.redis.command("ACL", "SETUSER", "pusher", reset!);
      const message = await refusalOf(stage, url, "shop");
      assert(message.includes(` ${sign}{`), message);
      const patterns = rule.filter((word) => word.startsWith(sign!));
      await stage.redis.command("ACL", "SETUSER", "pusher", ...patterns);
    }
    const server = await stage.server({ url, prefix: "shop" });
    await server.enter("news");
  },
);

/** Why a server cannot start. */
async function refusalOf(
  stage: RedisStage,
  url: string,
  prefix: string,
): Promise<string> {
  const { message, cause } = await assertRejects(
    () => stage.server({ url, prefix }),
    Error,
  );
  const all = `${message} ${Deno.inspect(cause)}`;
  assert(!all.includes(PASSWORD), all);
  assertMatch(message, /^Cannot connect to Redis at .*: its user lacks /);
  return message;
}

testWithRedis("The rights to a prefix are none to another one", async () => {
  await using stage = await RedisStage.open();
  for (const prefix of ["app", "a*", "[ab]", "a\\b", "a?"]) {
    const url = await grant(stage, prefix);
    const server = await stage.server({ url, prefix });
    await server.enter("news");
    for (const other of ["app2", "app:1", "ap", "ab", "a", "a\\", "abb"]) {
      await refusalOf(stage, url, other);
    }
  }
});

testWithRedis(
  "A right that is taken away is missed until it is back",
  async () => {
    await using stage = await RedisStage.open();
    const url = await grant(stage, "shop");
    const causes: unknown[] = [];
    const server = await stage.server({ url, prefix: "shop" });
    await server.enter("news");
    const { health } = server;
    server.health = (isUp: boolean, cause?: unknown) => {
      causes.push(cause);
      health.call(server, isUp);
    };
    await stage.redis.command("ACL", "SETUSER", "pusher", "-spublish");
    const error = await assertRejects(() => server.publish("news", "x"));
    assert(error instanceof RedisUnavailable);
    await stage.bell.until(() => server.healths.length > 0);
    assertMatch(String(causes[0]), /its user lacks a right/);
    await stage.redis.command("ACL", "SETUSER", "pusher", "+spublish");
    await stage.bell.until(() => server.healths.at(-1) === true);
    await server.publish("news", "y");
    await stage.bell.until(() => server.texts("news").includes("e y"));
  },
);
