/**
 * Who may see the console: browsers of this machine, passwords, and what a program says.
 */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { HERE, type Init, Stage } from "../../tests/support/console.ts";

const PASSWORD = "correct horse battery";

Deno.test("without an option only a browser on the same machine gets in", async () => {
  await using stage = new Stage();
  const cases: [Init, number, string][] = [
    [{}, 200, ""],
    [{ from: "127.8.8.8", headers: { host: "127.0.0.1:80" } }, 200, ""],
    [{ from: "::1", headers: { host: "[::1]:8000" } }, 200, ""],
    [{ from: "::ffff:127.0.0.1" }, 200, ""],
    [{ headers: { host: "app.localhost:1" } }, 200, ""],
    [{ from: null }, 403, "was not given where"],
    [{ from: "10.0.0.7" }, 403, "comes from another one"],
    [{ from: "1270.0.0.1" }, 403, "comes from another one"],
    [{ headers: { "x-forwarded-for": "1.2.3.4" } }, 403, "x-forwarded-for"],
    [{ headers: { forwarded: "for=1.2.3.4" } }, 403, "forwarded"],
    [{ headers: { via: "1.1 proxy" } }, 403, "via"],
    [{ headers: { host: "evil.example" } }, 403, "not localhost"],
    [{ headers: { host: "127.0.0.1.evil.example" } }, 403, "not localhost"],
    [{ headers: { host: "localhost.evil.example" } }, 403, "not localhost"],
    [{ headers: { host: "" } }, 403, "not localhost"],
  ];
  for (const [init, status, reason] of cases) {
    const label = JSON.stringify(init);
    const answer = await stage.get("session", init);
    assertEquals(answer.status, status, label);
    const page = await stage.ask("/console/", init);
    assertEquals(page.status, status, label);
    if (status === 200) continue;
    assertStringIncludes(answer.body.error, reason, label);
    assertStringIncludes(answer.body.error, "Give the console a `password`");
    assertStringIncludes(page.text, reason.replaceAll("'", "&#39;"), label);
  }
});

Deno.test("authorize lets in with true and nothing else; if it fails, nobody gets in", async () => {
  let answer: unknown = true;
  const authorize = () => {
    if (answer instanceof Error) throw answer;
    return answer as boolean;
  };
  await using stage = new Stage({ authorize });
  const far = { from: "8.8.8.8", headers: { host: "example.com" } };
  const status = async () => (await stage.get("session", far)).status;
  assertEquals(await status(), 200);
  answer = Promise.resolve(true);
  assertEquals(await status(), 200);
  for (const refusal of [false, "yes", 1, null, Promise.resolve(1)]) {
    answer = refusal;
    assertEquals(await status(), 403);
  }
  const { error } = console;
  const printed: unknown[] = [];
  console.error = (...args) => void printed.push(...args);
  try {
    answer = new Error("the database is away");
    assertEquals(await status(), 500);
    assertEquals((await stage.ask("/console/", far)).status, 500);
  } finally {
    console.error = error;
  }
  assertEquals(printed.length, 4);
});

Deno.test("a password opens the console for 12 hours, on all servers that have the same", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const far = { from: "8.8.8.8", headers: { host: "example.com" } };
  assertEquals((await stage.ask("/console/", far)).status, 200);
  const before = await stage.get("session", far);
  assertEquals([before.status, before.body.takesPassword], [401, true]);
  const wrongs = ["", "wrong", null, 7, `${PASSWORD} `, "\ud800".repeat(12)];
  for (const password of wrongs.slice(0, 4)) {
    const wrong = await stage.post("login", { password }, far);
    assertEquals(wrong.status, 401);
    assertEquals(wrong.headers.get("set-cookie"), null);
  }
  const right = await stage.post("login", { password: PASSWORD }, far);
  const cookie = right.headers.get("set-cookie") ?? "";
  assertMatch(cookie, /; Path=\/console\/; .*HttpOnly; SameSite=Strict$/);
  const headers = { host: "example.com", cookie: `a=b; ${cookie}` };
  const inside = { from: "8.8.8.8", headers };
  assertEquals((await stage.get("session", inside)).status, 200);
  await using other = new Stage({ password: PASSWORD });
  assertEquals((await other.get("session", inside)).status, 200);
  await using foreign = new Stage({ password: `another ${PASSWORD}` });
  assertEquals((await foreign.get("session", inside)).status, 401);
  const [, expires = "", signature = ""] =
    /=(\d+)\.([0-9a-f]+);/.exec(cookie) ?? [];
  for (
    const forged of [`${expires}9.${signature}`, `.${signature}`, expires, "x"]
  ) {
    const cookie = `pusher_console=${forged}`;
    const headers = { host: "example.com", cookie };
    assertEquals((await stage.get("session", { headers })).status, 401);
  }
  const out = await stage.post("logout", {}, inside);
  assertStringIncludes(out.headers.get("set-cookie") ?? "", "Max-Age=0");
  stage.clock.pass(12 * 3_600_000);
  assertEquals((await stage.get("session", inside)).status, 401);
});

Deno.test("the cookie is for TLS alone where the request came over TLS", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const headers = { "x-forwarded-proto": "https" };
  const { headers: answer } = await stage.post(
    "login",
    { password: PASSWORD },
    { headers },
  );
  assertStringIncludes(answer.get("set-cookie") ?? "", "; Secure");
});

Deno.test("an address has five tries at the password, and then one each 12 seconds", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const log = async (password: string, from: string) =>
    (await stage.post("login", { password }, { from })).status;
  for (let n = 0; n < 5; n++) {
    assertEquals(await log("wrong password", "1.1.1.1"), 401);
  }
  // Even the right one, as a guess must not be told from a try.
  const answer = await stage.post("login", { password: PASSWORD }, {
    from: "1.1.1.1",
  });
  assertEquals([answer.status, answer.headers.get("retry-after")], [429, "12"]);
  assertEquals(await log(PASSWORD, "2.2.2.2"), 200);
  stage.clock.pass(12_000);
  assertEquals(await log(PASSWORD, "1.1.1.1"), 200);
  assertEquals(await log(PASSWORD, "1.1.1.1"), 429);
});

Deno.test("strangers use up nothing that operators need, and send little", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const { headers } = await stage.post("login", { password: PASSWORD });
  const cookie = headers.get("set-cookie") ?? "";
  for (let n = 0; n < 200; n++) {
    assertEquals((await stage.get("session")).status, 401);
  }
  const inside = await stage.get("session", { headers: { cookie } });
  assertEquals(inside.status, 200);
  const long = { password: "x".repeat(5_000) };
  const refused = await stage.post("login", long, { from: "3.3.3.3" });
  assertEquals(refused.status, 413);
});

Deno.test("all addresses together have a hundred tries a minute", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const log = async (n: number) => {
    const from = `10.0.${n >> 8}.${n & 255}`;
    return (await stage.post("login", { password: "wrong" }, { from })).status;
  };
  for (let n = 0; n < 100; n++) assertEquals(await log(n), 401);
  let refused = 0;
  for (let n = 100; n < 110; n++) if (await log(n) === 429) refused++;
  assert(refused >= 5, `${refused} of 10 tries were refused`);
});

/** Uses up all tries that strangers have together. */
async function exhaust(stage: Stage): Promise<void> {
  for (let n = 0; n < 120; n++) {
    const from = `10.0.${n >> 8}.${n & 255}`;
    await stage.post("login", { password: "wrong" }, { from });
  }
  const { status } = await stage.post("login", { password: PASSWORD }, {
    from: "9.9.9.9",
  });
  assertEquals(status, 429);
}

/** The cookies that an answer sets, by name. */
function cookiesOf({ headers }: { headers: Headers }): Map<string, string> {
  return new Map(
    headers.getSetCookie().map((cookie) => {
      const [name = "", value = ""] = cookie.split(";")[0]?.split("=") ?? [];
      return [name, value];
    }),
  );
}

Deno.test("strangers keep nobody out who has logged in with the browser before", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const first = await stage.post("login", { password: PASSWORD });
  const known = cookiesOf(first).get("pusher_console_known") ?? "";
  const session = cookiesOf(first).get("pusher_console") ?? "";
  await exhaust(stage);
  const inside = { headers: { cookie: `pusher_console=${session}` } };
  assertEquals((await stage.get("session", inside)).status, 200);

  // The log-in has ended long ago, and the strangers go on.
  stage.clock.pass(89 * 86_400_000);
  await exhaust(stage);
  const log = async (password: string, value = known) => {
    const headers = { cookie: `pusher_console_known=${value}` };
    return await stage.post("login", { password }, {
      headers,
      from: "9.9.9.9",
    });
  };
  for (let n = 0; n < 3; n++) assertEquals((await log("wrong")).status, 401);
  const again = await log(PASSWORD);
  assertEquals(again.status, 200);
  // It goes on to be the same browser, with the tries of one.
  const renewed = cookiesOf(again).get("pusher_console_known") ?? "";
  assertEquals((await log(PASSWORD, renewed)).status, 200);
  assertEquals((await log(PASSWORD, renewed)).status, 429);

  const [expires = "", id = "", signature = ""] = renewed.split(".");
  const other = new Stage({ password: `another ${PASSWORD}` });
  await using _other = other;
  const foreign = cookiesOf(
    await other.post("login", { password: `another ${PASSWORD}` }),
  ).get("pusher_console_known");
  const forged = [
    `${expires}.${crypto.randomUUID()}.${signature}`,
    `${Number(expires) + 1}.${id}.${signature}`,
    ...[`${expires}.${signature}`, session, "x", "", foreign ?? ""],
  ];
  for (const value of forged) {
    assertEquals((await log(PASSWORD, value)).status, 429, value);
  }
  // It is no log-in.
  const headers = { cookie: `pusher_console=${renewed}` };
  assertEquals((await stage.get("session", { headers })).status, 401);
});

Deno.test("tries are counted by the address that is known, and by half of an IPv6 address", async () => {
  const log = async (
    stage: Stage,
    from: string,
    headers: Record<string, string> = {},
  ) =>
    (await stage.post("login", { password: "wrong" }, { from, headers }))
      .status;
  await using direct = new Stage({ password: PASSWORD });
  for (let n = 0; n < 5; n++) {
    assertEquals(await log(direct, `2001:db8:0:1::${n}`), 401);
  }
  assertEquals(await log(direct, "2001:db8:0:1:2:3:4:5"), 429);
  assertEquals(await log(direct, "2001:db8:0:2::1"), 401);

  await using trusting = new Stage({ password: PASSWORD }, {
    trustProxy: true,
  });
  const via = (address: string) => ({
    "x-forwarded-for": `6.6.6.6, ${address}`,
  });
  for (let n = 0; n < 5; n++) {
    assertEquals(await log(trusting, HERE, via("1.1.1.1")), 401);
  }
  assertEquals(await log(trusting, HERE, via("1.1.1.1")), 429);
  assertEquals(await log(trusting, HERE, via("2.2.2.2")), 401);
});

Deno.test("a proxy that is not trusted has fifty tries, so a stranger who seems to be one leaves half", async () => {
  await using stage = new Stage({ password: PASSWORD });
  const log = async (n: number) => {
    const headers = { "x-forwarded-for": `1.1.1.${n}` };
    const from = "7.7.7.7";
    const answer = await stage.post("login", { password: "wrong" }, {
      ...{ from, headers },
    });
    return answer.status;
  };
  for (let n = 0; n < 50; n++) assertEquals(await log(n), 401);
  assertEquals(await log(50), 429);
  const owner = await stage.post("login", { password: PASSWORD }, {
    from: "8.8.8.8",
  });
  assertEquals(owner.status, 200);
});

Deno.test("other pages can neither read nor act, whatever cookies go with them", async () => {
  await using stage = new Stage();
  const body = { channel: "news", event: "x", data: "1" };
  const foreign: Record<string, string>[] = [
    { "sec-fetch-site": "cross-site" },
    { "sec-fetch-site": "same-site" },
    { origin: "http://evil.example" },
    { origin: "null" },
  ];
  for (const headers of foreign) {
    const label = JSON.stringify(headers);
    assertEquals((await stage.post("trigger", body, { headers })).status, 403);
    assertEquals((await stage.get("session", { headers })).status, 403, label);
    assertEquals((await stage.post("login", {}, { headers })).status, 403);
  }
  // A form of another page, in a browser that sends neither header.
  for (
    const type of ["text/plain", "application/x-www-form-urlencoded", ""]
  ) {
    const headers = { "content-type": type };
    const answer = await stage.post("trigger", body, { headers });
    assertEquals(answer.status, 415, type);
  }
  const own = { "sec-fetch-site": "same-origin", origin: "http://localhost" };
  const answer = await stage.post("trigger", body, { headers: own });
  assertEquals(answer.status, 200);
  assertEquals(answer.headers.get("access-control-allow-origin"), null);
  // A proxy that ends TLS may name another host than the browser has asked.
  const proxied = { ...own, origin: "https://console.example" };
  const late = await stage.post("trigger", body, { headers: proxied });
  assertEquals(late.status, 200);
});
