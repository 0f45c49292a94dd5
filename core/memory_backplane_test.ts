import { assertEquals } from "@std/assert";
import { ManualClock } from "../tests/support/clock.ts";
import type { BackplaneNode, History, Message } from "./backplane.ts";
import { MemoryBackplane } from "./memory_backplane.ts";
import { DEFAULT_HISTORY } from "./options.ts";

// The contract of all backplanes is tested elsewhere; this is what is left behind
// in the memory of the process.

const MESSAGE: Message = { event: "a", data: "{}", logged: true };

/** A server at a door to the memory. */
function startServer(
  clock: ManualClock,
  backplane: MemoryBackplane,
  history: Partial<History> = {},
): MemoryBackplane {
  const node: BackplaneNode = {
    id: crypto.randomUUID(),
    history: { ...DEFAULT_HISTORY, ...history },
    clock,
    deliver() {},
    changed() {},
    lost() {},
    taken() {},
    held: () => [],
    departure: () => ({}),
    arrival: () => ({ event: "added" }),
    failed: () => {},
    health() {},
  };
  backplane.start(node);
  return backplane;
}

const JOINED = { connections: 1, recovering: 1, history: { rewind: 0 } };

Deno.test("a channel's history ends when the server is gone whose clients could recover", () => {
  const clock = new ManualClock();
  const bounds = { ageMs: 1_000 };
  const first = startServer(clock, new MemoryBackplane(), bounds);
  const second = startServer(clock, first.peer(), bounds);
  first.join("a", "c", { connections: 1, recovering: 0 });
  second.join("a", "c", JOINED);
  for (const userId of ["1", "2"]) {
    const member = { userId, userInfo: "{}", maxMembers: 9, added: MESSAGE };
    const recovering = Number(userId);
    second.join("a", "presence-c", { ...JOINED, recovering, member });
  }
  const publish = () => {
    for (const channel of ["c", "presence-c"]) {
      first.publish("a", channel, MESSAGE);
    }
    return first.usage().historyBytes > 0;
  };
  second.close();
  // The clients may be back within that time.
  clock.pass(1_000);
  assertEquals(publish(), true);
  clock.pass(1);
  assertEquals(publish(), false);
});

Deno.test("the last server that closes leaves nothing, and no position that would be used again", () => {
  const clock = new ManualClock();
  const first = startServer(clock, new MemoryBackplane());
  const door = first.peer();
  const { position } = first.join("a", "c", JOINED)!;
  for (let i = 0; i < 5; i++) first.publish("a", "c", MESSAGE);
  first.sessions.take("a", "s");
  const positions = new Map([["c", position]]);
  first.sessions.keep("a", "s", { formerIds: [], positions }, true);
  first.close();
  assertEquals(first.usage(), {
    historyBytes: 0,
    historyEvents: 0,
    sessionsAway: 0,
  });
  const next = startServer(clock, door);
  const since = { epoch: position.epoch, offset: 5 };
  const joined = next.join("a", "c", {
    ...JOINED,
    history: { since, rewind: 0 },
  });
  assertEquals(joined?.replay?.recovered, false);
  for (let i = 0; i < 9; i++) next.publish("a", "c", MESSAGE);
  const again = next.join("a", "c", {
    ...{ connections: 2, recovering: 2 },
    history: { since, rewind: 0 },
  });
  assertEquals(again?.replay?.recovered, false);
});

Deno.test("last events are kept up to maxCached and maxCachedBytes, and the oldest go first", () => {
  const clock = new ManualClock();
  const kept = (options: { maxCached?: number; maxCachedBytes?: number }) => {
    const backplane = startServer(clock, new MemoryBackplane(options));
    const event = { ...MESSAGE, data: "é".repeat(500), cacheMs: 1_000 };
    const names = ["cache-1", "cache-2", "cache-3", "cache-1", "cache-4"];
    // Once more after they have expired: then nothing of them counts.
    for (let round = 0; round < 2; round++) {
      clock.pass(2_000);
      for (const name of names) backplane.publish("a", name, event);
    }
    return ["1", "2", "3", "4"].filter((n) =>
      backplane.cached("a", `cache-${n}`) !== null
    ).join(" ");
  };
  assertEquals(kept({}), "1 2 3 4");
  assertEquals(kept({ maxCached: 3 }), "1 3 4");
  assertEquals(kept({ maxCachedBytes: 6_000 }), "1 2 3 4");
  assertEquals(kept({ maxCachedBytes: 4_000 }), "1 3 4");
  assertEquals(kept({ maxCachedBytes: 3_000 }), "1 4");
  // Too large by itself.
  assertEquals(kept({ maxCachedBytes: 1_000 }), "");
});
