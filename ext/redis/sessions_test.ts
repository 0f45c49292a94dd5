/**
 * Sessions in Redis: whose they are, and how much of Redis clients can take with names
 * that they choose.
 */
import { assert, assertEquals, assertLessOrEqual } from "@std/assert";
import { Gate } from "../../tests/support/gate.ts";
import { testWithRedis } from "../../tests/support/redis.ts";
import { RedisStage, sessionsOf } from "../../tests/support/redis_stage.ts";
import { Strait } from "../../tests/support/strait.ts";

const STATE = {
  formerIds: ["1.1"],
  positions: new Map([["news", { epoch: "e", offset: 1 }]]),
};

testWithRedis(
  "Above history.sessions those are forgotten that have been away for longest",
  async () => {
    await using stage = await RedisStage.open();
    // Two of each of the 64 buckets.
    const history = { sessions: 128 };
    const one = await stage.server({ history });
    const two = await stage.server({ history });
    const ids = sessionsOf(5, 5);
    for (const [i, id] of ids.entries()) {
      const { sessions } = (i % 2 === 0 ? one : two).backplane;
      assertEquals(await sessions.take("app", id), null);
      await sessions.keep("app", id, STATE, true);
    }
    const kept = async (id: string) =>
      await one.backplane.sessions.take("app", id);
    const states: unknown[] = [];
    for (const id of ids) states.push(await kept(id));
    const forgotten = "forgotten";
    assertEquals(states, [forgotten, forgotten, forgotten, STATE, STATE]);
  },
);

testWithRedis(
  "A session whose client is back takes nobody's place",
  async () => {
    await using stage = await RedisStage.open();
    const { backplane: { sessions } } = await stage.server({
      history: { sessions: 64 },
    });
    const [first = "", second = ""] = sessionsOf(5, 2);
    await sessions.take("app", first);
    await sessions.keep("app", first, STATE, true);
    await sessions.take("app", first);
    await sessions.keep("app", first, STATE, false);
    await sessions.take("app", second);
    await sessions.keep("app", second, STATE, true);
    assertEquals(await sessions.take("app", first), STATE);
    assertEquals(await sessions.take("app", second), STATE);
  },
);

testWithRedis(
  "A client that is back is not taken away by what was said before it came",
  async () => {
    await using stage = await RedisStage.open();
    const [one, two] = [await stage.server(), await stage.server()];
    for (const id of sessionsOf(5, 50)) {
      await one.backplane.sessions.take("app", id);
      await two.backplane.sessions.take("app", id);
      // The word that the session is the other's is still on its way.
      const before = one.lostSessions.length;
      await one.backplane.sessions.take("app", id);
      assertEquals(one.lostSessions.slice(before), []);
      await stage.bell.until(() => two.lostSessions.includes(id));
    }
  },
);

testWithRedis(
  "A call that was long on its way does not take a client from where it has gone on",
  async () => {
    await using stage = await RedisStage.open();
    await using strait = new Strait(stage.redis.port);
    const url = `redis://127.0.0.1:${strait.port}`;
    const [one, two] = [await stage.server({ url }), await stage.server()];
    const [gone = "", away = "", back = ""] = sessionsOf(5, 3);
    const [first, second] = [one.backplane.sessions, two.backplane.sessions];
    const now = async () => {
      const [seconds, micros] = await stage.redis.command("TIME") as string[];
      return Number(seconds) * 1_000 + Number(micros) / 1_000;
    };
    strait.hold();
    const late = [gone, away].map((id) => first.take("app", id));
    // By the clock of Redis, which the servers know to some milliseconds.
    const calledAt = await now();
    while (await now() < calledAt + 50);
    for (const id of [gone, away, back]) await second.take("app", id);
    await second.keep("app", away, STATE, true);
    while (await now() < calledAt + 300);
    strait.release();
    assertEquals(await Promise.all(late), [null, STATE]);
    assertEquals(one.lostSessions, [gone]);
    assertEquals(two.lostSessions, []);
    // A call that is late gives way to later ones only.
    strait.hold();
    const last = first.take("app", back);
    const calledLast = await now();
    while (await now() < calledLast + 300);
    strait.release();
    assertEquals(await last, null);
    await stage.bell.until(() => two.lostSessions.includes(back));
    assertEquals(one.lostSessions, [gone]);
  },
);

testWithRedis(
  "A connection does not take its client from one that came a second later, however late it asks",
  async () => {
    await using stage = await RedisStage.open();
    const [one, two] = [await stage.server(), await stage.server()];
    const [first, second] = [one.backplane.sessions, two.backplane.sessions];
    const [left = "", together = "", new_ = ""] = sessionsOf(5, 3);
    await second.take("app", left, 100);
    await second.keep("app", left, STATE, false);
    // It waited until Redis was back, and its client has gone on meanwhile.
    assertEquals(await first.take("app", left, 3_000), null);
    assertEquals([one.lostSessions, two.lostSessions], [[left], []]);
    // Clocks differ, so of two at about the same time the one that asks last has it.
    await second.take("app", together, 100);
    await first.take("app", together, 600);
    await stage.bell.until(() => two.lostSessions.includes(together));
    // A client may take its time with its first subscription.
    assertEquals(await first.take("app", new_, 60_000), null);
    await second.take("app", new_, 0);
    await stage.bell.until(() => one.lostSessions.includes(new_));
    assertEquals(one.lostSessions, [left, new_]);
    assertEquals(two.lostSessions, [together]);
  },
);

testWithRedis(
  "After a flush a session is lost for each server that takes it, until it is kept again",
  async () => {
    await using stage = await RedisStage.open();
    const [one, two] = [await stage.server(), await stage.server()];
    const [first, second] = [one.backplane.sessions, two.backplane.sessions];
    const [id = ""] = sessionsOf(5, 1);
    await first.take("app", id);
    await first.keep("app", id, STATE, false);
    await stage.redis.command("FLUSHALL");
    // Only now do they find out.
    for (const server of [one, two]) await server.publish("news", "1");
    assertEquals(await first.take("app", id), "forgotten");
    // The first has told nobody yet: its connection may be gone.
    assertEquals(await second.take("app", id), "forgotten");
    await second.keep("app", id, STATE, false);
    assertEquals(await first.take("app", id), STATE);
  },
);

testWithRedis(
  "A session lives while its server does, and about as long as one away without it",
  async () => {
    await using stage = await RedisStage.open();
    await using gate = new Gate(stage.redis.port);
    const history = { ageMs: 2_000 };
    const one = await stage.server({ history });
    const url = `redis://127.0.0.1:${gate.port}`;
    const gone = await stage.server({ history, url });
    const [kept = "", lost = ""] = sessionsOf(5, 2);
    for (const [server, id] of [[one, kept], [gone, lost]] as const) {
      const { sessions } = server.backplane;
      await sessions.take("app", id);
      await sessions.keep("app", id, STATE, false);
    }
    gate.shut();
    const states = async () => {
      const keys = await stage.keys();
      return [...keys.keys()].filter((key) => key.includes("}:x:"));
    };
    while ((await states()).length > 1) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assertEquals(await one.backplane.sessions.take("app", kept), STATE);
    assertEquals(await one.backplane.sessions.take("app", lost), "forgotten");
  },
);

testWithRedis(
  "Sessions of random names leave behind what is bounded, whatever their number",
  async () => {
    await using stage = await RedisStage.open();
    const { backplane: { sessions } } = await stage.server({
      history: { sessions: 128 },
    });
    const ids = sessionsOf(5, 4_200);
    for (let i = 0; i < ids.length; i += 100) {
      await Promise.all(
        ids.slice(i, i + 100).map(async (id) => {
          await sessions.take("app", id);
          await sessions.keep("app", id, STATE, true);
        }),
      );
    }
    const keys = await stage.keys();
    const states = [...keys.keys()].filter((key) => key.includes("}:x:"));
    assertLessOrEqual(states.length, 2);
    assertEquals(
      [...keys.keys()].filter((key) => /}:[yz]/.test(key)).sort(),
      ["{pusher:5}:y", "{pusher:5}:z"],
    );
    assertEquals(await stage.redis.command("ZCARD", "{pusher:5}:y"), 4_096);
    for (const [key, ttlMs] of keys) assert(ttlMs > 0, key);
    // The latest are known, and the first are not any more.
    assertEquals(await sessions.take("app", ids.at(-100)!), "forgotten");
    assertEquals(await sessions.take("app", ids[0]!), null);
  },
);
