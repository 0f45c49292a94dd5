import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backplane, CachedMessage, Occupancy } from "./backplane.ts";
import { isRefusal } from "./limits.ts";
import { kindOf } from "./protocol.ts";
import {
  type Asking,
  checkChannelInfo,
  checkInfo,
  checkListInfo,
  countChannels,
  countsOf,
  describeChannel,
  type InfoName,
  joinInfo,
  listChannels,
  listUsers,
} from "./queries.ts";

// ---- The info parameter -----------------------------------------------------

/** What a check finds: the names in their order, or its error. */
function found(info: unknown): string {
  return isRefusal(info) ? info.error : (info as string[]).join(" ");
}

Deno.test("checkInfo takes a comma list of known names, each once and in one order", () => {
  const cases: [value: unknown, names: string][] = [
    [undefined, ""],
    [null, ""],
    ["", ""],
    ["user_count", "user_count"],
    ["user_count,subscription_count", "subscription_count user_count"],
    ["user_count,user_count", "user_count"],
    [[], ""],
    [["user_count"], "user_count"],
    [["user_count", "subscription_count"], "subscription_count user_count"],
    [["user_count,subscription_count"], "subscription_count user_count"],
    ["user_count, subscription_count", "subscription_count user_count"],
    [" user_count\t,user_count ", "user_count"],
    [[" user_count", "subscription_count "], "subscription_count user_count"],
  ];
  for (const [value, names] of cases) {
    assertEquals(found(checkInfo(value)), names);
  }
});

Deno.test("joinInfo makes one parameter of a list that PHP has written, and leaves others alone", () => {
  const cases: [query: string, joined: string][] = [
    ["", ""],
    ["info=user_count&a[]=1&a[]=2", "info=user_count&a[]=1&a[]=2"],
    ["info[0]=a&info[1]=b&z=1", "z=1&info=a,b"],
    ["info[]=a&info[]=b", "info=a,b"],
    ["info=a&info[0]=b", "info=a,b"],
    ["info[x]=a&infos[0]=b", "info[x]=a&infos[0]=b"],
  ];
  for (const [query, joined] of cases) {
    const params = joinInfo(new URLSearchParams(query));
    assertEquals(decodeURIComponent(`${params}`), joined);
  }
});

Deno.test("checkInfo refuses a name that is not known, and anything that is no list", () => {
  const rule = "must be a comma list of subscription_count, user_count";
  const cases: [value: unknown, shown: string][] = [
    ["cache", '"cache"'],
    ["user_count,cache", '"user_count,cache"'],
    ["user_count, cache", '"user_count, cache"'],
    ["user_count subscription_count", '"user_count subscription_count"'],
    [",", '","'],
    ["user_count,", '"user_count,"'],
    ["constructor", '"constructor"'],
    [1, "1"],
    [{ 0: "user_count" }, "an object"],
    [["user_count", 1], "an object"],
    [["user_count", ""], '"user_count,"'],
    [true, "true"],
  ];
  for (const [value, shown] of cases) {
    const refusal = checkInfo(value);
    assert(isRefusal(refusal));
    assertEquals([refusal.status, refusal.error], [
      400,
      `info is ${shown}, and ${rule}`,
    ]);
  }
});

Deno.test("checkListInfo takes user_count for presence channels only", () => {
  const needs =
    "user_count needs a filter_by_prefix that starts with presence-";
  const cases: [prefix: unknown, info: string | null, found: string][] = [
    [5, null, "filter_by_prefix is 5, and must be a string"],
    [null, "user_count", "filter_by_prefix is null, and must be a string"],
    ["", null, ""],
    ["", "subscription_count", "subscription_count"],
    ["presence-", "user_count", "user_count"],
    ["presence-a", "user_count", "user_count"],
    ["", "user_count", needs],
    ["presence", "user_count", needs],
    ["private-", "user_count,subscription_count", needs],
  ];
  for (const [prefix, info, names] of cases) {
    assertEquals(found(checkListInfo(prefix, info)), names, `${prefix}`);
  }
  assert(isRefusal(checkListInfo("cache-", "cache")));
});

Deno.test("checkChannelInfo takes what a channel of the kind has", () => {
  const noUsers = "Only presence channels have a user_count";
  const noCache = "Only cache channels have a cache";
  const cases: [channel: string, info: string | null, found: string][] = [
    ["news", null, ""],
    ["news", "subscription_count", "subscription_count"],
    ["news", "user_count", noUsers],
    ["news", "cache", noCache],
    ["cache-a", "cache,subscription_count", "subscription_count cache"],
    ["cache-a", "cache,user_count", noUsers],
    [
      "presence-a",
      "user_count,subscription_count",
      "subscription_count user_count",
    ],
    ["presence-a", "cache", noCache],
    ["presence-cache-a", "cache,user_count", "user_count cache"],
    [
      "news",
      "x",
      'info is "x", and must be a comma list of subscription_count, user_count, cache',
    ],
  ];
  for (const [channel, info, names] of cases) {
    assertEquals(found(checkChannelInfo(kindOf(channel), info)), names);
  }
});

Deno.test("countsOf says the counts that were asked for and that a channel has", () => {
  const occupancy: Occupancy = { subscriptions: 3, users: 2 };
  const both: InfoName[] = ["subscription_count", "user_count"];
  const cases: [name: string, info: InfoName[], counts: object][] = [
    ["news", [], {}],
    ["news", both, { subscription_count: 3 }],
    ["presence-a", both, { subscription_count: 3, user_count: 2 }],
    ["presence-a", ["user_count"], { user_count: 2 }],
    ["#server-to-user-7", both, {}],
  ];
  for (const [name, info, counts] of cases) {
    const channel = { name, kind: kindOf(name) };
    assertEquals(countsOf(channel, occupancy, info), counts, name);
  }
});

// ---- Answers ----------------------------------------------------------------

const OCCUPANCIES = new Map<string, Occupancy>([
  ["news", { subscriptions: 3, users: 0 }],
  ["__proto__", { subscriptions: 1, users: 0 }],
  ["presence-a", { subscriptions: 3, users: 2 }],
  ["#server-to-user-7", { subscriptions: 1, users: 0 }],
]);

const NOBODY: Occupancy = { subscriptions: 0, users: 0 };

/** A backplane that knows these channels, and answers at once or later. */
function asking(isLate: boolean, cached: CachedMessage | null = null): Asking {
  const backplane: Partial<Backplane> = {
    occupancy: (_, channel) => OCCUPANCIES.get(channel) ?? NOBODY,
    occupied: (_, prefix) =>
      new Map([...OCCUPANCIES].filter(([name]) => name.startsWith(prefix))),
    members: (_, channel) =>
      new Map(channel === "presence-a" ? [["10", "{}"], ["x", '{"a":1}']] : []),
    cached: () => cached,
  };
  return (question) => {
    // The queries ask for nothing else.
    const answer = question(backplane as Backplane, "app");
    return isLate ? Promise.resolve(answer) : answer;
  };
}

function named(name: string) {
  return { name, kind: kindOf(name) };
}

for (const isLate of [false, true]) {
  const when = isLate ? "later" : "at once";

  Deno.test(`the answers to queries are those of the protocol, with a backplane that answers ${when}`, async () => {
    const ask = asking(isLate);
    const both: InfoName[] = ["subscription_count", "user_count"];
    const answers = [
      countChannels(ask, ["presence-a", "news", "nobody"].map(named), both),
      countChannels(ask, [named("__proto__")], both),
      listChannels(ask, "", []),
      listChannels(ask, "presence-", ["user_count"]),
      listChannels(ask, "nothing-", both),
      describeChannel(ask, named("presence-a"), both),
      describeChannel(ask, named("nobody"), ["subscription_count"]),
      describeChannel(ask, named("presence-nobody"), both),
      listUsers(ask, "presence-a"),
      listUsers(ask, "presence-nobody"),
    ];
    for (const answer of answers) {
      assertEquals(answer instanceof Promise, isLate);
    }
    const bodies = await Promise.all(answers);
    assertEquals(bodies.map((body) => JSON.stringify(body)), [
      '{"channels":{"presence-a":{"subscription_count":3,"user_count":2},"news":{"subscription_count":3},"nobody":{"subscription_count":0}}}',
      '{"channels":{"__proto__":{"subscription_count":1}}}',
      '{"channels":{"news":{},"__proto__":{},"presence-a":{}}}',
      '{"channels":{"presence-a":{"user_count":2}}}',
      '{"channels":{}}',
      '{"occupied":true,"subscription_count":3,"user_count":2}',
      '{"occupied":false,"subscription_count":0}',
      '{"occupied":false,"subscription_count":0,"user_count":0}',
      '{"users":[{"id":"10"},{"id":"x"}]}',
      '{"users":[]}',
    ]);
  });

  Deno.test(`the last event of a channel has its data and whole seconds, with a backplane that answers ${when}`, async () => {
    const cases: [cached: CachedMessage | null, cache: unknown][] = [
      [null, null],
      [{ message: { event: "a", data: "{}" }, ttlMs: 1_999 }, {
        data: "{}",
        ttl: 1,
      }],
      [{ message: { event: "a" }, ttlMs: 999 }, { data: "", ttl: 0 }],
    ];
    for (const [cached, cache] of cases) {
      const ask = asking(isLate, cached);
      const channel = named("cache-a");
      const described = await describeChannel(ask, channel, ["cache"]);
      assertEquals(described, { occupied: false, cache } as typeof described);
      const without = await describeChannel(ask, channel, []);
      assertEquals(without, { occupied: false });
    }
  });
}

Deno.test("a backplane that fails rejects each query, and leaves no rejection unhandled", async () => {
  const ask: Asking = () => Promise.reject(new Error("The backplane is down"));
  const queries = [
    () => countChannels(ask, ["a", "b"].map(named), []),
    () => listChannels(ask, "", []),
    () => describeChannel(ask, named("cache-a"), ["cache"]),
    () => listUsers(ask, "presence-a"),
  ];
  for (const query of queries) {
    await assertRejects(async () => await query(), Error, "is down");
  }
});
