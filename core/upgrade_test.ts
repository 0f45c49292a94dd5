import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { ManualClock } from "../tests/support/clock.ts";
import type { Peer } from "./transport.ts";
import {
  connectSocket,
  type Opening,
  Openings,
  type Upgrade,
  upgradeInMemory,
  upgradeSocket,
} from "./upgrade.ts";

/** A request as a handler gets it from a copy: the runtime can upgrade it again. */
function copied(): Opening {
  const headers = {
    upgrade: "websocket",
    connection: "upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
  };
  return { request: new Request("http://localhost/", { headers }) };
}

/** A request that the runtime cannot upgrade again. */
function original(): Opening {
  return { request: new Request("http://localhost/") };
}

/** Sockets that open, by a clock of the test's own. */
function stage() {
  const clock = new ManualClock();
  const reports: [message: string, item: Opening][] = [];
  const openings = new Openings<Opening>(
    clock,
    ({ message }, item) => reports.push([message, item]),
  );
  return { clock, reports, openings };
}

Deno.test("Openings reports each copy after 5 seconds, with one timer for all", () => {
  const { clock, reports, openings } = stage();
  const items = [0, 1_000, 1_000, 4_999].map((at, i, all) => {
    clock.pass(at - (all[i - 1] ?? 0));
    const item = copied();
    openings.add(item);
    return item;
  });
  assertEquals([clock.waiting, openings.size], [1, 4]);
  clock.pass(1);
  assertEquals(reports.map(([, item]) => item), items.slice(0, 1));
  clock.pass(999);
  assertEquals(reports.length, 1);
  clock.pass(1);
  assertEquals(reports.map(([, item]) => item), items.slice(0, 3));
  clock.pass(3_998);
  assertEquals(reports.length, 3);
  clock.pass(1);
  assertEquals(reports.map(([, item]) => item), items);
  for (const [message] of reports) {
    assertMatch(message, /a copy of the request/);
  }
  assertEquals([clock.waiting, openings.size], [0, 0]);
});

Deno.test("Openings reports no socket that opens, and has no timer without sockets", () => {
  const { clock, reports, openings } = stage();
  const [slow, ...others] = Array.from({ length: 1_000 }, copied);
  for (const item of [slow!, ...others]) openings.add(item);
  for (const item of others) openings.delete(item);
  assertEquals([clock.waiting, openings.size], [1, 1]);
  openings.delete(slow!);
  assertEquals([clock.waiting, openings.size], [0, 0]);
  clock.pass(60_000);
  // A socket that has been reported may still open.
  openings.add(slow!);
  clock.pass(5_000);
  openings.delete(slow!);
  assertEquals(reports.map(([, item]) => item), [slow]);
});

Deno.test("Openings reports originals at most once a minute, as clients may cause them", () => {
  const { clock, reports, openings } = stage();
  const wait = (item: Opening) => {
    openings.add(item);
    clock.pass(5_000);
  };
  wait(original());
  wait(original());
  wait(copied());
  wait(original());
  assertEquals(reports.length, 2);
  assertMatch(reports[0]?.[0] ?? "", /client had gone.*another answer/);
  assertMatch(reports[1]?.[0] ?? "", /a copy of the request/);
  clock.pass(60_000);
  wait(original());
  assertEquals(reports.length, 3);
});

Deno.test("Openings watches nothing after its end", () => {
  const { clock, reports, openings } = stage();
  openings.add(copied());
  openings.end();
  openings.add(copied());
  assertEquals([clock.waiting, openings.size], [0, 0]);
  clock.pass(60_000);
  assertEquals(reports, []);
});

// Deleting a field would make each socket a hash table, for as long as it is open.
Deno.test("connectSocket deletes no field of a socket that opens and closes", () => {
  const heard: unknown[] = [];
  const peer: Peer = {
    receive: (frame) => heard.push(frame),
    heard: () => {},
    closed: (code) => heard.push(code),
  };
  // It has the events of a socket, and nothing else is used here.
  const socket = new EventTarget() as WebSocket;
  connectSocket(socket, { ...original(), appId: "1", open: () => peer });
  const fields = Reflect.ownKeys(socket);
  for (
    const event of [
      new Event("open"),
      new MessageEvent("message", { data: "frame" }),
      new CloseEvent("close", { code: 4200 }),
      new CloseEvent("close", { code: 1006 }),
    ]
  ) {
    socket.dispatchEvent(event);
    const left = Reflect.ownKeys(socket);
    assertEquals(left.slice(0, fields.length), fields, event.type);
  }
  assertEquals(heard, ["frame", 4200]);
});

Deno.test("upgradeSocket upgrades a request in memory as that says, and no copy of it", () => {
  const { request } = copied();
  const upgrade = { response: new Response() } as Upgrade;
  upgradeInMemory(request, () => upgrade);
  assertEquals(upgradeSocket(request, 60) === upgrade, true);
  assertThrows(() => upgradeSocket(original().request, 60), Error);
});
