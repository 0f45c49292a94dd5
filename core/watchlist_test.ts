import { assertEquals, assertRejects } from "@std/assert";
import { turn } from "../tests/support/clock.ts";
import { DEFAULT_LIMITS, type Limits } from "./limits.ts";
import { ERROR, OUTBOUND } from "./protocol.ts";
import type { Awaitable } from "./time.ts";
import { Watchlist } from "./watchlist.ts";

/** A client that watches users, with a server around it. */
class Watcher {
  readonly app: { limits: Limits };
  readonly outbox = { send: (frame: string) => this.#receive(frame) };
  readonly watchlist = new Watchlist(this);
  /** Users who are online. */
  readonly online = new Set<string>();
  /** Users of whom the client hears. */
  readonly joined = new Set<string>();
  /** Joins, leaves and questions in order, and what the client has heard. */
  readonly log: string[] = [];
  /** Answers joins and questions; overridden by tests. */
  answer: <T>(value: () => T) => Awaitable<T> = (value) => value();

  constructor(limits: Partial<Limits> = {}) {
    this.app = { limits: { ...DEFAULT_LIMITS, ...limits } };
  }

  joinWatchers(userId: string): Awaitable<void> {
    this.log.push(`join ${userId}`);
    this.joined.add(userId);
    return this.answer(() => {});
  }

  leaveWatchers(userId: string): void {
    this.log.push(`leave ${userId}`);
    this.joined.delete(userId);
  }

  isOnline(userId: string): Awaitable<boolean> {
    this.log.push(`ask ${userId}`);
    return this.answer(() => this.online.has(userId));
  }

  #receive(text: string): void {
    const { event, data } = JSON.parse(text);
    if (event === OUTBOUND.Error) {
      this.log.push(`error ${data.code}: ${data.message}`);
      return;
    }
    assertEquals(event, OUTBOUND.Watchlist);
    for (const { name, user_ids } of JSON.parse(data).events) {
      this.log.push(`${name} ${user_ids.join(" ")}`);
    }
  }

  /** A user comes or goes, and the watchlist hears of it. */
  change(userId: string, isOnline: boolean): void {
    if (isOnline) this.online.add(userId);
    else this.online.delete(userId);
    this.watchlist.change(userId, isOnline);
  }

  /** Takes what the client has heard since the last look. */
  heard(): string[] {
    return this.log.splice(0)
      .filter((line) => !/^(join|leave|ask) /.test(line));
  }
}

Deno.test("watch tells the client in one frame who is online and who is not, once it would hear of changes", () => {
  const watcher = new Watcher();
  watcher.online.add("b");
  watcher.watchlist.watch(["a", "b", "c"]);
  assertEquals(watcher.log, [
    ...["a", "b", "c"].map((id) => `join ${id}`),
    ...["a", "b", "c"].map((id) => `ask ${id}`),
    "online b",
    "offline a c",
  ]);
});

Deno.test("watch leaves an empty list out of the frame, and sends no frame of nobody", () => {
  const watcher = new Watcher();
  const frames: string[] = [];
  watcher.outbox.send = (frame) => void frames.push(JSON.parse(frame).data);
  watcher.watchlist.watch([]);
  assertEquals(frames, []);
  watcher.watchlist.watch(["a"]);
  watcher.online.add("a");
  watcher.watchlist.watch(["a"]);
  assertEquals(frames, [
    '{"events":[{"name":"offline","user_ids":["a"]}]}',
    '{"events":[{"name":"online","user_ids":["a"]}]}',
  ]);
});

Deno.test("change tells the client of a user who is watched, once for each transition", () => {
  const watcher = new Watcher();
  watcher.watchlist.watch(["a", "b"]);
  watcher.heard();
  watcher.change("a", true);
  watcher.change("a", true);
  watcher.change("c", true);
  watcher.change("b", false);
  watcher.change("a", false);
  watcher.change("a", true);
  assertEquals(watcher.heard(), ["online a", "offline a", "online a"]);
});

Deno.test("watch with another list leaves the users who are not on it", () => {
  const watcher = new Watcher();
  watcher.watchlist.watch(["a", "b"]);
  watcher.log.length = 0;
  watcher.watchlist.watch(["b", "c"]);
  assertEquals([...watcher.joined], ["b", "c"]);
  assertEquals(watcher.heard(), ["offline b c"]);
  watcher.change("a", true);
  watcher.change("c", true);
  assertEquals(watcher.heard(), ["online c"]);
});

Deno.test("watchedUsers holds at its figure, and more users are not watched", () => {
  for (const extra of [0, 1]) {
    const watcher = new Watcher({ watchedUsers: 3 });
    const ids = ["a", "b", "c", "d"].slice(0, 3 + extra);
    watcher.watchlist.watch(ids);
    assertEquals([...watcher.joined], ["a", "b", "c"]);
    const error =
      `error ${ERROR.Watchlist}: The watchlist has 4 users: the limit watchedUsers is 3, watched are a, b, c`;
    assertEquals(watcher.heard(), [
      "offline a b c",
      ...(extra === 0 ? [] : [error]),
    ]);
    watcher.change("d", true);
    assertEquals(watcher.heard(), []);
  }
  assertEquals(DEFAULT_LIMITS.watchedUsers, 100);
  const all = new Watcher({ watchedUsers: Infinity });
  const ids = Array.from({ length: 300 }, (_, i) => `${i}`);
  all.watchlist.watch(ids);
  assertEquals(all.heard(), [`offline ${ids.join(" ")}`]);
});

/** A watcher whose server answers by hand. */
function slowWatcher() {
  const watcher = new Watcher();
  const gates: (() => void)[] = [];
  watcher.answer = async (value) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    gates.push(resolve);
    await promise;
    return value();
  };
  return {
    watcher,
    /** Answers all that has been asked. */
    async answer() {
      for (const resolve of gates.splice(0)) resolve();
      await turn();
    },
  };
}

Deno.test("a change that comes while the backplane is asked is told after the answer, if it is newer", async () => {
  const { watcher, answer } = slowWatcher();
  watcher.online.add("b");
  const watched = watcher.watchlist.watch(["a", "b", "c"]);
  watcher.change("c", true);
  assertEquals(watcher.heard(), []);
  await answer();
  watcher.change("a", true);
  watcher.change("b", false);
  watcher.change("b", true);
  assertEquals(watcher.heard(), []);
  // The answers say what is so by now: the client hears it once.
  await answer();
  await watched;
  assertEquals(watcher.heard(), ["online a b c"]);
  watcher.change("b", false);
  assertEquals(watcher.heard(), ["offline b"]);
});

Deno.test("a change that is newer than the answer of the backplane corrects it", async () => {
  const { watcher, answer } = slowWatcher();
  const watched = watcher.watchlist.watch(["a", "b"]);
  await answer();
  // The backplane has counted by now, and its answer is on its way.
  watcher.watchlist.change("a", true);
  await answer();
  await watched;
  assertEquals(watcher.heard(), ["offline a b", "online a"]);
});

Deno.test("a watchlist goes on when the backplane fails, with the changes that it hears of", async () => {
  const watcher = new Watcher();
  watcher.answer = () => Promise.reject(new Error("The backplane is down"));
  const watched = async () => await watcher.watchlist.watch(["a", "b"]);
  const failed = assertRejects(watched, Error, "is down");
  watcher.change("a", true);
  await failed;
  assertEquals(watcher.heard(), ["online a"]);
  watcher.change("b", true);
  watcher.change("a", false);
  assertEquals(watcher.heard(), ["online b", "offline a"]);
});
