/**
 * Bodies that do not arrive, programs that do not answer, and answers that come
 * before the body: how long the server waits, and what becomes of the connection.
 */
import type { AuthorizeContext, PusherOptions } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertFalse,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { ManualClock, turn } from "../support/clock.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { APP, read, serve, type TestServer } from "../support/server.ts";
import { type RawClient, sign } from "../support/wire.ts";

const FORM = "socket_id=1.1&channel_name=private-a";
const EVENT = { name: "create", channel: "news", data: "{}" };

/** A server whose time stands still, and which asks the program. */
function serveTimed(options: PusherOptions = {}) {
  const clock = new ManualClock();
  const server = serve({
    clock,
    authorize: () => true,
    authenticate: () => ({ id: "ann" }),
    ...options,
  });
  return { clock, server, idle: clock.waiting };
}

/** Waits until so many timers run: the server has begun to wait. */
async function untilWaiting(clock: ManualClock, timers: number): Promise<void> {
  const wait = async () => {
    while (clock.waiting !== timers) await turn();
  };
  await within(DEADLINE_MS, `${timers} timers`, wait());
}

/** The head of a request by hand, and the body that should follow. */
function handmade(route: string): { head: string; body: string } {
  const { path, search, body } = route === "/events"
    ? signedEvent()
    : { path: route, search: "", body: FORM };
  const head = `POST ${path}${search} HTTP/1.1\r\nHost: a\r\n`;
  return { head, body };
}

function signedEvent() {
  const path = `/apps/${APP.id}/events`;
  const { params, body } = sign(APP, "POST", path, { body: EVENT });
  const search = `?${new URLSearchParams(params)}`;
  return { path, search, body: new TextDecoder().decode(body) };
}

const NEXT = "GET /pusher.js HTTP/1.1\r\nHost: a\r\n\r\n";

const ROUTES = ["/events", "/pusher/auth", "/pusher/user-auth"];

// ---- Bodies -----------------------------------------------------------------

for (const route of ROUTES) {
  Deno.test(`half a body of ${route} is waited for ten seconds, and its connection closed`, async () => {
    const { clock, server, idle } = serveTimed();
    await using _ = server;
    const { head, body } = handmade(route);
    const declared = `Content-Length: ${body.length}\r\n\r\n`;
    // What comes first, and the rest of it after the answer.
    for (
      const [half, rest] of [
        [`${declared}${body.slice(0, 9)}`, body.slice(9)],
        [declared, body],
        ["Content-Length: 20000\r\n\r\n", "x"],
        [
          `Transfer-Encoding: chunked\r\n\r\n9\r\n${body.slice(0, 9)}\r\n`,
          "1\r\nx\r\n",
        ],
      ] as const
    ) {
      using raw = await server.raw();
      await raw.write(`${head}${half}`);
      await untilWaiting(clock, idle + 1);
      clock.pass(9_999);
      await turn();
      assertEquals(clock.waiting, idle + 1);
      clock.pass(1);
      const answer = await raw.readHead();
      assertMatch(answer, /^HTTP\/1.1 408 /);
      assertMatch(answer, /^connection: close$/mi);
      assertEquals(clock.waiting, idle);
      // What follows is neither a body nor another request.
      await raw.write(`${rest}${NEXT}`);
      const last = await raw.readAll();
      assertStringIncludes(last, "bodyTimeoutMs is 10000");
      assertFalse(last.includes("HTTP/1.1"), last);
    }
  });

  Deno.test(`a body of ${route} that trickles in wins no time`, async () => {
    const { clock, server, idle } = serveTimed({ bodyTimeoutMs: 5_000 });
    await using _ = server;
    const { head, body } = handmade(route);
    using raw = await server.raw();
    await raw.write(`${head}Content-Length: ${body.length}\r\n\r\n`);
    await untilWaiting(clock, idle + 1);
    for (const char of body.slice(0, 4)) {
      await raw.write(char);
      await clock.passInSteps(1_000);
    }
    assertEquals(clock.waiting, idle + 1);
    clock.pass(1_000);
    assertMatch(await raw.readHead(), /^HTTP\/1.1 408 /);
  });
}

Deno.test("a body that arrives in time is served, and leaves no timer", async () => {
  const { clock, server, idle } = serveTimed();
  await using _ = server;
  for (const route of ROUTES) {
    const { head, body } = handmade(route);
    using raw = await server.raw();
    await raw.write(
      `${head}Content-Length: ${body.length}\r\n\r\n${body.slice(0, 9)}`,
    );
    await untilWaiting(clock, idle + 1);
    clock.pass(9_000);
    await raw.write(body.slice(9));
    const answer = await raw.readHead();
    assertMatch(answer, /^HTTP\/1.1 200 /);
    assertEquals(clock.waiting, idle);
  }
});

Deno.test("a client that goes in the middle of its body leaves no timer", async () => {
  const { clock, server, idle } = serveTimed();
  await using _ = server;
  for (const route of ROUTES) {
    const { head, body } = handmade(route);
    using raw = await server.raw();
    await raw.write(`${head}Content-Length: ${body.length}\r\n\r\n`);
    await untilWaiting(clock, idle + 1);
    raw.drop();
    await untilWaiting(clock, idle);
  }
});

Deno.test("a body without end is refused with 413, and not read for longer than ten seconds", async () => {
  const { clock, server, idle } = serveTimed();
  await using _ = server;
  const { head } = handmade("/pusher/auth");
  using raw = await server.raw();
  await raw.write(`${head}Transfer-Encoding: chunked\r\n\r\n`);
  await raw.write(`11170\r\n${"x".repeat(0x11170)}\r\n`);
  const answer = await raw.readHead();
  assertMatch(answer, /^HTTP\/1.1 413 /);
  assertMatch(answer, /^connection: close$/mi);
  // Some clients read no answer before they have sent everything.
  for (let i = 0; i < 20; i++) {
    assert(await raw.write(`10000\r\n${"x".repeat(65_536)}\r\n`));
  }
  await untilWaiting(clock, idle + 1);
  clock.pass(10_000);
  await turn();
  await raw.write("1\r\nx\r\n");
  await raw.readAll();
});

Deno.test("close answers the senders of half a body, and does not wait for them", async () => {
  const { clock, server, idle } = serveTimed();
  await using _ = server;
  const raws = new DisposableStack();
  using __ = raws;
  const waiting: RawClient[] = [];
  for (const route of ROUTES) {
    const { head, body } = handmade(route);
    const raw = raws.use(await server.raw());
    await raw.write(`${head}Content-Length: ${body.length}\r\n\r\n`);
    waiting.push(raw);
    await untilWaiting(clock, idle + waiting.length);
  }
  await within(DEADLINE_MS, "close", server.pusher.close());
  for (const raw of waiting) {
    const answer = await raw.readHead();
    assertMatch(answer, /^HTTP\/1.1 503 /);
  }
});

// ---- Answers before the body ------------------------------------------------

Deno.test("an answer before the end of the body lets no request follow it", async () => {
  await using server = serve({ authorize: () => true });
  const { head, body } = handmade("/events");
  const early = [
    [401, head.replace(/auth_signature=./, "auth_signature=x")],
    [404, head.replace(/app-id/, "other-app")],
    [413, handmade("/pusher/auth").head],
  ] as const;
  for (const [status, start] of early) {
    const length = status === 413 ? 70_000 : body.length;
    using raw = await server.raw();
    await raw.write(`${start}Content-Length: ${length}\r\n\r\nx`);
    const answer = await raw.readHead();
    assertMatch(answer, new RegExp(`^HTTP/1.1 ${status} `));
    assertMatch(answer, /^connection: close$/mi);
    await raw.write(`${"x".repeat(length - 1)}${NEXT}`);
    assertFalse((await raw.readAll()).includes("HTTP/1.1"));
  }
});

Deno.test("a connection goes on after an early answer where the body has arrived", async () => {
  await using server = serve();
  const { head, body } = handmade("/events");
  const tampered = head.replace(/auth_signature=./, "auth_signature=x");
  using raw = await server.raw();
  await raw.write(`${tampered}Content-Length: ${body.length}\r\n\r\n${body}`);
  assertMatch(await raw.readHead(), /^HTTP\/1.1 401 /);
  await raw.write(NEXT.replace("Host: a", "Host: a\r\nConnection: close"));
  const rest = await raw.readHead();
  assertStringIncludes(rest, "HTTP/1.1 200 OK");
});

// ---- Answers of the program -------------------------------------------------

/** Posts a form to an auth endpoint. */
async function ask(server: TestServer, route: string, form = FORM) {
  const body = new URLSearchParams(form);
  const init = { method: "POST", body };
  return await read(await fetch(`${server.url}${route}`, init));
}

/** A program that answers when the test says so. */
function slowProgram() {
  const contexts: Omit<AuthorizeContext, "channel">[] = [];
  const answer = Promise.withResolvers<never>();
  const never = (_request: Request, context: AuthorizeContext) => {
    contexts.push(context);
    return answer.promise;
  };
  const options = { authorize: never, authenticate: never as never };
  return { options, contexts, answer };
}

for (const route of ["/pusher/auth", "/pusher/user-auth"]) {
  Deno.test(`POST ${route} answers 503 where the program does not answer in time`, async () => {
    const { options, contexts, answer } = slowProgram();
    for (const answerTimeoutMs of [undefined, 3_000]) {
      const { clock, server, idle } = serveTimed({
        ...options,
        answerTimeoutMs,
      });
      await using _ = server;
      const asked = ask(server, route);
      await untilWaiting(clock, idle + 1);
      const ms = answerTimeoutMs ?? 10_000;
      clock.pass(ms - 1);
      await turn();
      const { signal } = contexts.at(-1) ?? {};
      assertEquals(signal?.aborted, false);
      clock.pass(1);
      const { status, body } = await asked;
      assertEquals(status, 503);
      assertEquals(body, { error: "The program has not answered in time" });
      assertEquals(signal?.aborted, true);
      assertEquals(signal?.reason.name, "TimeoutError");
      const { error, during } = await server.journal.next("error");
      assertStringIncludes(`${error}`, `answerTimeoutMs is ${ms}`);
      assertMatch(during, /^auth/);
      assertEquals(clock.waiting, idle);
    }
    // Nobody waits for it any more, so nobody handles it either.
    answer.reject(new Error("too late"));
    await turn();
  });

  Deno.test(`close ends POST ${route} where the program has not answered`, async () => {
    const { options, contexts } = slowProgram();
    const { clock, server, idle } = serveTimed(options);
    await using _ = server;
    const asked = ask(server, route);
    await untilWaiting(clock, idle + 1);
    await within(DEADLINE_MS, "close", server.pusher.close());
    const { status, body } = await asked;
    assertEquals([status, body.error], [503, "The server is shutting down"]);
    assertEquals(contexts[0]?.signal.aborted, true);
    const late = await ask(server, route);
    assertEquals(late.status, 503);
    assertEquals(contexts.length, 1);
  });
}

Deno.test("POST /pusher/auth answers for the channels that the program has decided in time", async () => {
  const { promise } = Promise.withResolvers<boolean>();
  const { clock, server, idle } = serveTimed({
    authorize: (_request, { channel }) =>
      channel === "private-slow" ? promise : true,
  });
  await using _ = server;
  const form =
    "socket_id=1.1&channel_name[]=private-slow&channel_name[]=private-a";
  const asked = ask(server, "/pusher/auth", form);
  await untilWaiting(clock, idle + 1);
  clock.pass(10_000);
  const { status, body } = await asked;
  assertEquals(status, 200);
  assertEquals(body.channels["private-slow"].status, 503);
  assertMatch(body.channels["private-a"].auth, /^app-key:/);
  await server.journal.next("error");
});
