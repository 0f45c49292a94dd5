import { assertEquals } from "@std/assert";
import { ManualClock } from "../tests/support/clock.ts";
import { closeCodeOf, isClosing, Liveness, Pulse } from "./liveness.ts";
import type { PusherOptions } from "./options.ts";
import { CLOSE, type Close } from "./protocol.ts";

/** A server's clients, by a clock that the test turns. */
class Ward {
  readonly clock = new ManualClock();
  readonly liveness: Liveness;
  readonly authorizationTimeoutMs: number | undefined;
  readonly #start = this.clock.elapsed();

  constructor(options: PusherOptions = {}) {
    this.liveness = new Liveness(this.clock, options);
    this.authorizationTimeoutMs = options.authorizationTimeoutMs;
  }

  /** A client that is watched from now on, and that is known to answer or not. */
  admit(
    answers = true,
    authorizationTimeoutMs = this.authorizationTimeoutMs,
  ): Client {
    const client = new Client(this, answers, authorizationTimeoutMs);
    this.liveness.watch(client.pulse);
    return client;
  }

  /** Milliseconds since the start. */
  get now(): number {
    return this.clock.elapsed() - this.#start;
  }
}

/** A client, and when it was pinged and closed. */
class Client {
  readonly pulse: Pulse;
  readonly pings: number[] = [];
  readonly closes: [code: number, at: number][] = [];
  unreadBytes = 0;
  isClosing = false;
  isBusy = false;
  readonly #ward: Ward;

  constructor(ward: Ward, answers: boolean, timeoutMs?: number) {
    this.#ward = ward;
    this.pulse = new Pulse(ward.liveness, this, answers, timeoutMs);
  }

  askForLife(): void {
    this.pings.push(this.#ward.now);
  }

  close({ code }: Close): void {
    this.closes.push([code, this.#ward.now]);
    // As the server does, which forgets a connection that is gone.
    this.#ward.liveness.wheel.remove(this.pulse);
  }
}

Deno.test("a silent client is pinged after 60 seconds, and closed after 15 more", () => {
  const ward = new Ward();
  const client = ward.admit();
  ward.clock.pass(200_000);
  assertEquals(client.pings, [60_000]);
  assertEquals(client.closes, [[CLOSE.NoPong.code, 75_000]]);
  assertEquals(ward.clock.waiting, 0);
});

Deno.test("pingAfterMs is not above activityTimeoutMs unless it is said", () => {
  const cases: [options: PusherOptions, pingedAt: number][] = [
    [{ activityTimeoutMs: 30_000 }, 30_000],
    [{ activityTimeoutMs: 600_000 }, 60_000],
    [{ activityTimeoutMs: 30_000, pingAfterMs: 40_000 }, 40_000],
  ];
  for (const [options, pingedAt] of cases) {
    const ward = new Ward(options);
    const client = ward.admit();
    ward.clock.pass(50_000);
    ward.clock.pass(20_000);
    assertEquals(client.pings[0], pingedAt);
  }
});

Deno.test("a client that is heard in time is not pinged, and one that answers stays", () => {
  const ward = new Ward({ pingAfterMs: 10_000, pongTimeoutMs: 5_000 });
  const lively = ward.admit();
  const answering = ward.admit();
  const silent = ward.admit();
  for (let i = 0; i < 20; i++) {
    ward.clock.pass(4_000);
    lively.pulse.heard();
    if (answering.pings.length > 0) answering.pulse.heard();
  }
  assertEquals([lively.pings, lively.closes], [[], []]);
  assertEquals(answering.closes, []);
  assertEquals(silent.closes, [[CLOSE.NoPong.code, 15_000]]);
});

Deno.test("a client that answers each ping is pinged again after the same silence", () => {
  const ward = new Ward({ pingAfterMs: 10_000, pongTimeoutMs: 5_000 });
  const client = ward.admit();
  for (let second = 1; second <= 60; second++) {
    ward.clock.pass(1_000);
    // It takes 2 seconds to answer.
    if (client.pings.includes(ward.now - 2_000)) client.pulse.heard();
  }
  assertEquals(client.pings, [10_000, 22_000, 34_000, 46_000, 58_000]);
  assertEquals(client.closes, []);
});

Deno.test("an answer counts until the last moment, and not after it", () => {
  for (const isLate of [false, true]) {
    const ward = new Ward({ pingAfterMs: 10_000, pongTimeoutMs: 5_000 });
    const client = ward.admit();
    ward.clock.pass(14_999);
    if (!isLate) client.pulse.heard();
    ward.clock.pass(1);
    assertEquals(client.closes.length, isLate ? 1 : 0);
  }
});

Deno.test("an answer may take longer than the silence before a ping", () => {
  const ward = new Ward({ pingAfterMs: 2_000, pongTimeoutMs: 10_000 });
  const answering = ward.admit();
  const silent = ward.admit();
  ward.clock.pass(11_000);
  assertEquals([answering.pings, silent.pings], [[2_000], [2_000]]);
  answering.pulse.heard();
  ward.clock.pass(2_000);
  assertEquals(answering.closes, []);
  assertEquals(answering.pings, [2_000, 13_000]);
  assertEquals(silent.closes, [[CLOSE.NoPong.code, 12_000]]);
});

Deno.test("the time to authorize is not cut short by the tick in which a client comes", () => {
  const ward = new Ward({ authorizationTimeoutMs: 1_000 });
  const first = ward.admit();
  ward.clock.pass(150);
  // The wheel turns each tenth of a second.
  const second = ward.admit();
  ward.clock.pass(5_000);
  assertEquals(first.closes, [[CLOSE.NotAuthorized.code, 1_100]]);
  assertEquals(second.closes, [[CLOSE.NotAuthorized.code, 1_200]]);
});

Deno.test("a client that has authorized stays, however lively one that has not is", () => {
  const ward = new Ward({ authorizationTimeoutMs: 30_000 });
  const authorized = ward.admit();
  const lively = ward.admit();
  for (let second = 0; second < 100; second++) {
    ward.clock.pass(1_000);
    authorized.pulse.heard();
    lively.pulse.heard();
    if (second === 29) authorized.pulse.authorize();
  }
  assertEquals(authorized.closes, []);
  assertEquals(lively.closes, [[CLOSE.NotAuthorized.code, 31_000]]);
});

Deno.test("the time to authorize ends while a ping waits for its answer", () => {
  const ward = new Ward({
    pingAfterMs: 1_000,
    pongTimeoutMs: 10_000,
    authorizationTimeoutMs: 3_000,
  });
  const client = ward.admit();
  ward.clock.pass(60_000);
  assertEquals(client.pings, [1_000]);
  assertEquals(client.closes, [[CLOSE.NotAuthorized.code, 3_100]]);
});

Deno.test("no client is pinged or closed for the time in which the process was frozen", () => {
  const ward = new Ward();
  const client = ward.admit();
  ward.clock.pass(59_000);
  ward.clock.freeze(3_600_000);
  assertEquals([client.pings.length, client.closes], [1, []]);
  ward.clock.pass(1_000);
  client.pulse.heard();
  ward.clock.pass(30_000);
  assertEquals(client.closes, []);
});

Deno.test("a thousand clients take one timer", () => {
  const ward = new Ward();
  const clients = Array.from({ length: 1_000 }, () => ward.admit());
  assertEquals(ward.clock.waiting, 1);
  ward.clock.pass(60_000);
  assertEquals(ward.clock.waiting, 1);
  for (const { pings } of clients) assertEquals(pings, [60_000]);
  ward.clock.pass(15_000);
  assertEquals(ward.clock.waiting, 0);
});

// ---- Clients that may not answer ---------------------------------------------

Deno.test("the runtime gives up after the same time, unless the client is known to answer", () => {
  const cases: [options: PusherOptions, client: string | null, s: number][] = [
    [{}, "js", 0],
    [{}, "js-glitz", 0],
    [{}, "glitz", 0],
    [{}, "pusher-websocket-swift", 75],
    [{}, "java-client", 75],
    [{}, "", 75],
    [{}, null, 75],
    [{ pingAfterMs: 100, pongTimeoutMs: 50 }, null, 0.15],
    [{ activityTimeoutMs: 30_000, pongTimeoutMs: 5_000 }, null, 35],
  ];
  for (const [options, client, seconds] of cases) {
    const { liveness } = new Ward(options);
    assertEquals(liveness.idleTimeoutS(client), seconds);
  }
});

Deno.test("a client that has never answered is pinged, and not closed while it reads", () => {
  const ward = new Ward();
  const client = ward.admit(false);
  ward.clock.pass(600_000);
  assertEquals(client.closes, []);
  assertEquals(client.pings.length >= 9, true);
  assertEquals(client.pings.length <= 10, true);
});

Deno.test("a client that has never answered is closed when it reads nothing any more", () => {
  const ward = new Ward();
  const reading = ward.admit(false);
  const slow = ward.admit(false);
  const stuck = ward.admit(false);
  const filling = ward.admit(false);
  for (let second = 0; second < 200; second++) {
    reading.unreadBytes = second % 2 === 0 ? 0 : 900;
    slow.unreadBytes = 9_000 - second;
    stuck.unreadBytes = 900;
    filling.unreadBytes = 900 + second;
    ward.clock.pass(1_000);
  }
  assertEquals([reading.closes, slow.closes], [[], []]);
  const gone = [[CLOSE.NoPong.code, 75_000]];
  assertEquals([stuck.closes, filling.closes], [gone, gone]);
});

Deno.test("a client whose socket the runtime cannot close is closed soon after", () => {
  const ward = new Ward();
  const client = ward.admit(false);
  ward.clock.pass(75_000);
  // Its close waits behind what is unread, of which a closing socket knows nothing.
  client.isClosing = true;
  ward.clock.pass(15_000);
  assertEquals(client.closes, [[CLOSE.NoPong.code, 76_000]]);
});

Deno.test("a client that goes on sending is heard, whatever it leaves unread", () => {
  const ward = new Ward();
  const client = ward.admit(false);
  client.unreadBytes = 900;
  for (let second = 0; second < 300; second += 70) {
    ward.clock.pass(70_000);
    client.pulse.heard();
  }
  assertEquals(client.closes, []);
});

Deno.test("a client that has answered once has to go on answering", () => {
  const ward = new Ward();
  const client = ward.admit(false);
  ward.clock.pass(60_000);
  client.pulse.heard();
  client.pulse.answers = true;
  ward.clock.pass(200_000);
  assertEquals(client.pings, [60_000, 120_000]);
  assertEquals(client.closes, [[CLOSE.NoPong.code, 135_000]]);
});

Deno.test("the time to authorize is that of every client", () => {
  const ward = new Ward({ authorizationTimeoutMs: 100_000 });
  const client = ward.admit(false);
  ward.clock.pass(200_000);
  assertEquals(client.closes, [[CLOSE.NotAuthorized.code, 101_000]]);
});

Deno.test("the clients of each app have that app's time to authorize", () => {
  const app = { id: "a", key: "a", secret: "a" };
  const ward = new Ward({
    authorizationTimeoutMs: 30_000,
    apps: [{ ...app, authorizationTimeoutMs: 500 }, app],
  });
  const [hasty, ordinary, free] = [500, 30_000, Infinity].map((timeoutMs) =>
    ward.admit(true, timeoutMs)
  );
  for (let second = 0; second < 100; second++) {
    ward.clock.pass(1_000);
    for (const client of [hasty, ordinary, free]) client?.pulse.heard();
  }
  // The wheel turns as often as the shortest of these times asks for.
  assertEquals(hasty?.closes, [[CLOSE.NotAuthorized.code, 550]]);
  assertEquals(ordinary?.closes, [[CLOSE.NotAuthorized.code, 30_050]]);
  assertEquals(free?.closes, []);
});

Deno.test("isClosing knows a socket by its state, and other transports are open", () => {
  const states = [0, 1, 2, 3].map((readyState) => isClosing({ readyState }));
  assertEquals(states, [false, false, true, true]);
  assertEquals(isClosing({ send() {} }), false);
});

Deno.test("a client that the runtime has given up counts as one without a pong", () => {
  const cases: [code: number, wasClean: boolean, told: number][] = [
    [1001, false, CLOSE.NoPong.code],
    [1001, true, 1001],
    [4201, true, 4201],
    [1005, true, 1005],
    [0, false, 1006],
  ];
  for (const [code, wasClean, told] of cases) {
    const event = new CloseEvent("close", { code, wasClean });
    assertEquals(closeCodeOf(event), told);
  }
});
