import { assert, assertEquals, assertFalse, assertThrows } from "@std/assert";
import { turn } from "../tests/support/clock.ts";
import type { Hooks } from "./calls.ts";
import { ManualClock } from "../tests/support/clock.ts";
import { HookQueue, onlooker } from "./hooks.ts";

/** A queue, and what its listeners have heard since the last look. */
function startQueue() {
  const hooks = new HookQueue();
  const heard: string[] = [];
  return {
    hooks,
    /** A listener that writes down its name and the event's app. */
    note: (name: string) => ({ app = "all" }: { app?: string | undefined }) =>
      void heard.push(`${name} ${app}`),
    heardNow: () => [...heard],
    /** Waits for the listeners, and takes what they have heard. */
    async heard(): Promise<string[]> {
      await turn();
      return heard.splice(0);
    },
  };
}

/** Runs something with the errors of the console caught. */
async function withConsole(run: () => Promise<void>): Promise<unknown[][]> {
  const printed: unknown[][] = [];
  const { error } = console;
  console.error = (...args: unknown[]) => void printed.push(args);
  try {
    await run();
  } finally {
    console.error = error;
  }
  return printed;
}

const CONNECTED = { app: "a", socketId: "1.2" };

Deno.test("listeners hear an event after the call that caused it, in the order in which they were added", async () => {
  const { hooks, note, heard, heardNow } = startQueue();
  hooks.add("connected", note("first"), null);
  hooks.add("connected", note("second"), null);
  hooks.add("disconnected", note("third"), null);
  hooks.emit("connected", CONNECTED);
  hooks.emit("disconnected", { ...CONNECTED, code: 1000 });
  assertEquals(heardNow(), []);
  assertEquals(await heard(), ["first a", "second a", "third a"]);
});

Deno.test("an event that a listener causes comes after those that wait already", async () => {
  const { hooks, note, heard } = startQueue();
  hooks.add("connected", () => hooks.emit("cache_miss", CACHE_MISS), null);
  hooks.add("disconnected", note("disconnected"), null);
  hooks.add("cache_miss", note("cache_miss"), null);
  hooks.emit("connected", CONNECTED);
  hooks.emit("disconnected", { ...CONNECTED, code: 1000 });
  assertEquals(await heard(), ["disconnected a", "cache_miss a"]);
  // The queue is empty again, and goes on.
  hooks.emit("disconnected", { ...CONNECTED, code: 1000 });
  assertEquals(await heard(), ["disconnected a"]);
});

const CACHE_MISS = { app: "a", channel: "cache-a" };

Deno.test("a listener of one app hears the events of that app only", async () => {
  const { hooks, note, heard } = startQueue();
  hooks.add("connected", note("any"), null);
  hooks.add("connected", note("own"), "a");
  hooks.add("backplane", note("any"), null);
  hooks.add("backplane", note("own"), "a");
  hooks.emit("connected", { ...CONNECTED, app: "b" });
  hooks.emit("connected", CONNECTED);
  // An event of no app is for those who listen to all.
  hooks.emit("backplane", { up: false });
  assertEquals(await heard(), ["any b", "any a", "own a", "any all"]);
});

Deno.test("a listener that was removed hears nothing, not even what waits already", async () => {
  const { hooks, note, heard } = startQueue();
  const remove = hooks.add("connected", note("removed"), null);
  const listener = note("twice");
  const removeOne = hooks.add("connected", listener, null);
  hooks.add("connected", listener, null);
  assert(hooks.has("connected"));
  hooks.emit("connected", CONNECTED);
  remove();
  remove();
  // The same function was added twice: this is one of the two.
  removeOne();
  assertEquals(await heard(), ["twice a"]);
});

Deno.test("has says whether anybody listens", () => {
  const { hooks, note } = startQueue();
  assertFalse(hooks.has("connected"));
  const remove = hooks.add("connected", note("a"), "a");
  assert(hooks.has("connected"));
  assertFalse(hooks.has("disconnected"));
  remove();
  assertFalse(hooks.has("connected"));
});

Deno.test("an event that nobody listens to leaves nothing behind", async () => {
  const { hooks, note, heard } = startQueue();
  hooks.emit("connected", CONNECTED);
  hooks.add("connected", note("late"), null);
  assertEquals(await heard(), []);
});

Deno.test("add refuses an event that does not exist, and a listener that is no function", () => {
  const { hooks, note } = startQueue();
  for (const name of ["conected", "constructor", "__proto__", ""]) {
    assertThrows(
      () => hooks.add(name as keyof Hooks, note("a"), null),
      TypeError,
      `Cannot listen: there is no event ${
        JSON.stringify(name)
      }, only connected,`,
    );
  }
  for (
    const [listener, shown] of [
      [undefined, "undefined"],
      [null, "null"],
      [{}, "an object"],
      ["a", '"a"'],
    ]
  ) {
    assertThrows(
      () => hooks.add("connected", listener as unknown as () => void, null),
      TypeError,
      `Cannot listen to "connected": listener is ${shown}, and must be a function`,
    );
  }
});

Deno.test("a listener that throws or rejects is reported, and disturbs no other", async () => {
  const { hooks, note, heard } = startQueue();
  const errors: string[] = [];
  hooks.add("error", ({ error, during, app }) => {
    errors.push(`${(error as Error).message} while ${during}, ${app}`);
  }, null);
  hooks.add("connected", () => {
    throw new Error("thrown");
  }, null);
  hooks.add("connected", () => Promise.reject(new Error("rejected")), null);
  hooks.add("connected", note("other"), null);
  hooks.emit("connected", CONNECTED);
  assertEquals(await heard(), ["other a"]);
  assertEquals(errors, [
    'thrown while running a "connected" listener, a',
    'rejected while running a "connected" listener, a',
  ]);
});

Deno.test("fail tells those who listen to the app, and prints where nobody does", async () => {
  const { hooks, note, heard } = startQueue();
  const fault = new Error("fault");
  const printed = await withConsole(async () => {
    hooks.fail(fault, "testing", "a");
    const remove = hooks.add("error", note("error"), "a");
    hooks.fail(fault, "testing", "a");
    // Of another app, or of none.
    hooks.fail(fault, "testing another", "b");
    hooks.fail(fault, "testing none");
    assertEquals(await heard(), ["error a"]);
    remove();
    hooks.add("error", note("any"), null);
    hooks.fail(fault, "testing", "b");
    hooks.fail(fault, "testing");
    assertEquals(await heard(), ["any b", "any all"]);
  });
  assertEquals(printed, [
    ["Pusher: failed while testing:", fault],
    ["Pusher: failed while testing another:", fault],
    ["Pusher: failed while testing none:", fault],
  ]);
});

Deno.test("an error whose listener is removed before its turn is printed", async () => {
  const { hooks, note, heard } = startQueue();
  const fault = new Error("fault");
  const printed = await withConsole(async () => {
    const remove = hooks.add("error", note("error"), null);
    hooks.fail(fault, "testing", "a");
    remove();
    assertEquals(await heard(), []);
    // A listener of another app does not make it heard.
    const others = hooks.add("error", note("other"), "b");
    const own = hooks.add("error", note("own"), "a");
    hooks.fail(fault, "testing two", "a");
    own();
    assertEquals(await heard(), []);
    hooks.fail(fault, "testing three", "b");
    assertEquals(await heard(), ["other b"]);
    others();
  });
  assertEquals(printed, [
    ["Pusher: failed while testing:", fault],
    ["Pusher: failed while testing two:", fault],
  ]);
});

Deno.test("an error listener that fails is printed, and does not run for its own failure", async () => {
  const { hooks } = startQueue();
  let runs = 0;
  const fault = new Error("in the listener");
  const printed = await withConsole(async () => {
    hooks.add("error", () => {
      runs++;
      throw fault;
    }, null);
    hooks.add("error", () => Promise.reject(fault), null);
    hooks.fail(new Error("fault"), "testing");
    await turn();
  });
  assertEquals(runs, 1);
  const line = ['Pusher: failed while running an "error" listener:', fault];
  assertEquals(printed, [line, line]);
});

Deno.test("a listener that a listener adds hears the next event, and not the same", async () => {
  const { hooks, heard, note } = startQueue();
  // Listens for one event at a time, as code does that waits for each in turn.
  const rearm = () => {
    const remove = hooks.add("connected", (event) => {
      note("once")(event);
      remove();
      rearm();
    }, null);
  };
  rearm();
  hooks.emit("connected", CONNECTED);
  assertEquals(await heard(), ["once a"]);
  hooks.emit("connected", CONNECTED);
  assertEquals(await heard(), ["once a"]);
});

Deno.test("a listener that an earlier one removes does not hear the event", async () => {
  const { hooks, heard, note } = startQueue();
  hooks.add("connected", () => remove(), null);
  const remove = hooks.add("connected", note("removed"), null);
  hooks.emit("connected", CONNECTED);
  assertEquals(await heard(), []);
});

Deno.test("without listeners, a backplane that goes and comes back is printed, and not each call that fails for it", async () => {
  const away = Object.assign(new Error("Nobody answers"), { wasSent: false });
  const printed = await withConsole(async () => {
    const hooks = new HookQueue();
    hooks.notStarted(away);
    hooks.fail(away, "publishing an event", "app-id");
    hooks.backplane(true);
    for (let i = 0; i < 2; i++) {
      hooks.backplane(false, away);
      for (let call = 0; call < 3; call++) {
        hooks.fail(away, "publishing an event", "app-id");
      }
      hooks.backplane(true);
    }
    await Promise.resolve();
  });
  const change = [
    ["Pusher: failed while reaching the backplane: Nobody answers"],
    ["Pusher: the backplane is back"],
  ];
  assertEquals(printed, [
    ["Pusher: failed while starting the backplane: Nobody answers"],
    ["Pusher: the backplane is back"],
    ...change,
    ...change,
  ]);
});

Deno.test("error listeners hear once that the backplane is away, and not of each call that fails for it", async () => {
  const away = Object.assign(new Error("Nobody answers"), { wasSent: true });
  const told: string[] = [];
  const printed = await withConsole(async () => {
    const hooks = new HookQueue();
    hooks.add("error", ({ during }) => told.push(during), null);
    hooks.add("backplane", ({ up }) => told.push(`${up}`), null);
    hooks.backplane(false, away);
    hooks.fail(away, "publishing an event");
    hooks.fail(new Error("its own"), "joining a channel");
    hooks.fail(away, "publishing an event");
    hooks.backplane(true);
    await Promise.resolve();
  });
  assertEquals(told, [
    "reaching the backplane",
    "false",
    "joining a channel",
    "true",
  ]);
  assertEquals(printed, []);
});

Deno.test("of calls that fail though the backplane is up, one is told in ten seconds", async () => {
  const clock = new ManualClock();
  const hooks = new HookQueue(clock);
  const told: string[] = [];
  hooks.add("error", ({ during }) => told.push(during), null);
  const away = Object.assign(new Error("Too many"), { wasSent: false });
  for (let second = 0; second < 20; second++) {
    for (let i = 0; i < 3; i++) hooks.fail(away, `second ${second}`);
    clock.pass(1_000);
  }
  await Promise.resolve();
  assertEquals(told, ["second 0", "second 10"]);
});

Deno.test("an error that only onlookers hear is printed, and so is the return of the backplane", async () => {
  const { hooks, note, heard } = startQueue();
  const look = onlooker(note("looked"));
  hooks.add("error", look, null);
  const printed = await withConsole(async () => {
    hooks.fail(new Error("first"), "testing", "a");
    assertEquals(await heard(), ["looked a"]);
    hooks.backplane(false, new Error("away"));
    hooks.backplane(true);
    assertEquals(await heard(), ["looked all"]);
    hooks.add("error", note("heard"), null);
    hooks.fail(new Error("second"), "testing", "a");
    assertEquals(await heard(), ["looked a", "heard a"]);
  });
  assertEquals(printed.length, 3);
  assert(printed.some(([text]) => String(text).includes("is back")));
});
