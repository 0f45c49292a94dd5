/**
 * The history that recovery is served from: which channels have it, and its bounds.
 */
import { type History, Pusher, type PusherOptions } from "@glitz/pusher";
import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  type Lane,
  missed,
  PATIENT,
  PLAIN,
  publish,
  range,
  RECOVER,
  recoveryTest,
  rest,
  rewound,
  take,
  visit,
} from "../support/recovering.ts";
import { serveInMemory, type TestServer, TWO_APPS } from "../support/server.ts";
import type { App, Position } from "../support/wire.ts";

// ---- What is kept -----------------------------------------------------------

recoveryTest(
  "nothing is kept of a channel that only plain clients use",
  async (lane) => {
    await using server = lane.start();
    await using plain = await server.connect();
    await plain.join("news");
    await publish(server, "news", 1, 3);
    await publish(server, "other", 1, 3);
    assertEquals(await rewound(lane, server, "other"), []);
    // This subscription is the first that is one of a client that recovers.
    assertEquals(await rewound(lane, server, "news"), []);
    await publish(server, "news", 4, 5);
    assertEquals(await rewound(lane, server, "news"), [4, 5]);
    await plain.close();
    await publish(server, "news", 6);
    assertEquals(await rewound(lane, server, "news"), [4, 5, 6]);
    assertEquals(await rest(await lane.connect(server)), []);
  },
);

recoveryTest(
  "apps with the same channel do not share its log",
  async (lane) => {
    const [a, b] = TWO_APPS;
    await using server = lane.start({ apps: TWO_APPS });
    const comeTo = async (app: App, init: { recover?: Position }) => {
      await using client = await lane.connect(server, { app });
      const { recovered } = await client.enter("news", { rewind: 9, ...init });
      const numbers = await rest(client);
      return { recovered, numbers, position: client.positionOn("news") };
    };
    const { position: atA } = await comeTo(a, {});
    await publish({ pusher: server.pusher.app("a") }, "news", 1, 2);
    await publish({ pusher: server.pusher.app("b") }, "news", 11, 12);
    assertEquals((await comeTo(b, {})).numbers, []);
    await publish({ pusher: server.pusher.app("b") }, "news", 13);
    assertEquals((await comeTo(b, {})).numbers, [13]);
    assertEquals((await comeTo(a, { recover: atA })).numbers, [1, 2]);
  },
);

recoveryTest(
  "a channel that lives in its log only is not told of",
  async (lane) => {
    await using server = lane.start();
    await using client = await lane.connect(server);
    await client.enter("news");
    await client.enter("presence-a", { member: { user_id: "ann" } });
    await client.signIn({ id: "7" });
    await client.close();
    await server.journal.next("channel_vacated");
    await server.journal.next("channel_vacated");
    await publish(server, "news", 1);
    await publish(server, "presence-a", 1);
    await server.pusher.sendToUser("7", "n", 1);
    assertEquals(await server.pusher.channels(), { channels: {} });
    const { body } = await server.api("GET", "/channels");
    assertEquals(body, { channels: {} });
    assertEquals(await server.pusher.channel("news"), { occupied: false });
    assertEquals(await server.pusher.users("presence-a"), { users: [] });
    const info = "subscription_count";
    const params = { body: { name: "n", channel: "news", data: "2", info } };
    const published = await server.api("POST", "/events", params);
    const none = { channels: { news: { subscription_count: 0 } } };
    assertEquals(published.body, none);
    const told = server.journal.calls("channel_occupied", "channel_vacated");
    assertEquals(told.toSorted(), [
      "channel_occupied news",
      "channel_occupied presence-a",
      "channel_vacated news",
      "channel_vacated presence-a",
    ]);
    assertEquals(await rewound(lane, server, "news"), [1, 2]);
  },
);

// ---- Bounds -----------------------------------------------------------------

recoveryTest(
  "history.events bounds what is kept of a channel",
  async (lane) => {
    await using server = lane.start({ history: { events: 5 } });
    const [news, other] = await visit(lane, server, "news", "other") as [
      Position,
      Position,
    ];
    await publish(server, "news", 1, 5);
    assertEquals(await missed(lane, server, "news", news), range(1, 5));
    await publish(server, "news", 6);
    assertEquals(await missed(lane, server, "news", news), null);
    assertEquals(await rewound(lane, server, "news"), range(2, 6));
    // Each channel has its own.
    await publish(server, "other", 1, 5);
    assertEquals(await missed(lane, server, "other", other), range(1, 5));
  },
);

recoveryTest(
  "a channel whose log has lost its beginning can be recovered from later on",
  async (lane) => {
    await using server = lane.start({ history: { events: 5 } });
    await using ann = await lane.connect(server);
    await ann.enter("news");
    await publish(server, "news", 1, 20);
    await take(ann, 1, 20);
    const recover = ann.positionOn("news");
    await ann.close();
    await publish(server, "news", 21, 25);
    assertEquals(await missed(lane, server, "news", recover), range(21, 25));
    await publish(server, "news", 26);
    assertEquals(await missed(lane, server, "news", recover), null);
  },
);

recoveryTest(
  "five thousand events of a channel are kept unless history says otherwise",
  async (lane) => {
    await using server = lane.start();
    const [position] = await visit(lane, server, "news") as [Position];
    await publish(server, "news", 1, 5_000);
    await using back = await lane.connect(server);
    await back.enter("news", { recover: position });
    await take(back, 1, 5_000);
    await back.close();
    await publish(server, "news", 5_001);
    assertEquals(await missed(lane, server, "news", position), null);
  },
);

/** Moves time on under a server that keeps events for a minute. */
async function aged(
  fn: (lane: Lane, server: TestServer, time: FakeTime) => Promise<void>,
): Promise<void> {
  using time = new FakeTime();
  const lane = PLAIN;
  const history = { ageMs: 60_000 };
  await using server = lane.start({ ...PATIENT, history });
  await fn(lane, server, time);
}

Deno.test("history.ageMs says how long an event is kept, whoever is there", async () => {
  for (const isOccupied of [false, true]) {
    for (const [ms, expected] of [[59_999, [1]], [60_001, null]] as const) {
      await aged(async (lane, server, time) => {
        await using bob = await lane.connect(server);
        if (isOccupied) await bob.enter("news");
        const [position] = await visit(lane, server, "news") as [Position];
        await publish(server, "news", 1);
        time.tick(ms);
        const label = `${ms} ${isOccupied}`;
        const found = await missed(lane, server, "news", position);
        assertEquals<unknown>(found, expected, label);
      });
    }
  }
});

Deno.test("of what is kept the older part grows too old first", async () => {
  await aged(async (lane, server, time) => {
    await visit(lane, server, "news");
    await publish(server, "news", 1);
    await using ann = await lane.connect(server);
    await ann.enter("news");
    const recover = ann.positionOn("news");
    await ann.close();
    time.tick(40_000);
    await publish(server, "news", 2);
    assertEquals(await rewound(lane, server, "news"), [1, 2]);
    time.tick(30_000);
    assertEquals(await rewound(lane, server, "news"), [2]);
    // What is gone now is what it had.
    assertEquals(await missed(lane, server, "news", recover), [2]);
    time.tick(40_000);
    assertEquals(await missed(lane, server, "news", recover), null);
  });
});

Deno.test("a log goes on for history.ageMs after everybody has left, and no longer", async () => {
  await aged(async (lane, server, time) => {
    await visit(lane, server, "news");
    time.tick(59_000);
    await publish(server, "news", 1);
    assertEquals(await rewound(lane, server, "news"), [1]);
    // That was a visit, too.
    time.tick(59_000);
    await publish(server, "news", 2);
    assertEquals(await rewound(lane, server, "news"), [1, 2]);
    // Publishing alone does not keep it up.
    for (const n of range(3, 15)) {
      time.tick(10_000);
      await publish(server, "news", n);
    }
    assertEquals(await rewound(lane, server, "news"), []);
  });
});

Deno.test("a log goes on while a client that recovers is there", async () => {
  await aged(async (lane, server, time) => {
    await using ann = await lane.connect(server);
    await ann.enter("news");
    for (const n of range(1, 10)) {
      time.tick(50_000);
      await publish(server, "news", n);
      await take(ann, n);
    }
    time.tick(500_000);
    // It was there all the time, so it has missed nothing.
    const recover = ann.positionOn("news");
    await ann.close();
    assertEquals(await missed(lane, server, "news", recover), []);
    await publish(server, "news", 11);
    assertEquals(await missed(lane, server, "news", recover), [11]);
  });
});

Deno.test("whoever is on a quiet channel has missed nothing of it, however busy others are", async () => {
  for (const channel of ["news", "presence-a"]) {
    await aged(async (lane, server, time) => {
      const as = (user_id: string) =>
        channel.startsWith("presence-") ? { member: { user_id } } : {};
      await using busy = await lane.connect(server);
      await busy.enter("busy");
      await using ann = await lane.connect(server);
      await ann.enter(channel, as("ann"));
      await publish(server, channel, 1);
      await take(ann, 1);
      for (const n of range(1, 10)) {
        time.tick(20_000);
        await publish(server, "busy", n);
      }
      // What the log does not hold is told to members, and no event.
      await using bob = await server.connect();
      await bob.subscribe(channel, as("bob"));
      await ann.framesUntilPong();
      const recover = ann.positionOn(channel);
      await ann.close();
      await server.journal.next("disconnected");
      await using back = await lane.connect(server);
      const init = { ...as("ann"), recover };
      const { recovered } = await back.enter(channel, init);
      assertEquals(recovered, true, channel);
      await back.silence();
    });
  }
});

Deno.test("a log that has begun anew is not taken for the old one", async () => {
  await aged(async (lane, server, time) => {
    await using ann = await lane.connect(server);
    await ann.enter("news");
    await publish(server, "news", 1, 3);
    await take(ann, 1, 3);
    const recover = ann.positionOn("news");
    await ann.close();
    await publish(server, "news", 4);
    time.tick(1_000_000);
    await publish(server, "news", 5);
    await visit(lane, server, "news");
    await publish(server, "news", 6, 20);
    assertEquals(await missed(lane, server, "news", recover), null);
  });
});

Deno.test("events are kept for five minutes unless history says otherwise", async () => {
  for (const [ms, expected] of [[299_999, [1]], [300_001, null]] as const) {
    using time = new FakeTime();
    const lane = PLAIN;
    await using server = lane.start(PATIENT);
    const [position] = await visit(lane, server, "news") as [Position];
    await publish(server, "news", 1);
    time.tick(ms);
    const found = await missed(lane, server, "news", position);
    assertEquals<unknown>(found, expected, String(ms));
  }
});

// Of so many bytes nine fit into the bound below, whatever else is counted.
const LARGE = 10_000;
const BYTES = 100_000;

recoveryTest(
  "history.bytes bounds what is kept of all channels together",
  async (lane) => {
    await using server = lane.start({ history: { bytes: BYTES } });
    const [a, b] = await visit(lane, server, "a", "b") as [Position, Position];
    await publish(server, "a", 1, 4, LARGE);
    await publish(server, "b", 1, 5, LARGE);
    assertEquals(await missed(lane, server, "a", a), range(1, 4));
    assertEquals(await missed(lane, server, "b", b), range(1, 5));
    await publish(server, "b", 6, 7, LARGE);
    const [ofA, ofB] = [
      await missed(lane, server, "a", a),
      await missed(lane, server, "b", b),
    ];
    // Which of the two it is depends on what counts as use.
    assert(ofA === null || ofB === null);
  },
);

recoveryTest(
  "past history.bytes the channel that was not used for longest goes first",
  async (lane) => {
    await using server = lane.start({ history: { bytes: BYTES } });
    const [a, b, c] = await visit(lane, server, "a", "b", "c") as [
      Position,
      Position,
      Position,
    ];
    await publish(server, "b", 1, 4, LARGE);
    await publish(server, "a", 1, 4, LARGE);
    await publish(server, "c", 1, 4, LARGE);
    assertEquals(await missed(lane, server, "b", b), null);
    assertEquals(await missed(lane, server, "a", a), range(1, 4));
    assertEquals(await missed(lane, server, "c", c), range(1, 4));
    await publish(server, "b", 5);
    assertEquals(await missed(lane, server, "b", b), null);
  },
);

recoveryTest(
  "one channel alone cannot be larger than history.bytes",
  async (lane) => {
    await using server = lane.start({ history: { bytes: BYTES } });
    await using ann = await lane.connect(server);
    await ann.enter("a");
    const recover = ann.positionOn("a");
    await publish(server, "a", 1, 30, LARGE);
    await take(ann, 1, 30);
    assertEquals(await missed(lane, server, "a", recover), null);
    const kept = await rewound(lane, server, "a");
    assertLess(kept.length, 11);
    assertGreater(kept.length, 4, "It loses its oldest events and no more");
    assertEquals(kept, range(31 - kept.length, 30));
    // Whoever is there goes on, whatever was dropped meanwhile.
    await publish(server, "a", 31, 32);
    await take(ann, 31, 32);
    const here = ann.positionOn("a");
    await ann.close();
    await publish(server, "a", 33);
    assertEquals(await missed(lane, server, "a", here), [33]);
  },
);

recoveryTest(
  "an event larger than history.bytes is delivered, and told to be missed",
  async (lane) => {
    await using server = lane.start({ history: { bytes: 1_000 } });
    await using ann = await lane.connect(server);
    await ann.enter("a");
    const recover = ann.positionOn("a");
    await publish(server, "a", 1, 1, LARGE);
    await take(ann, 1);
    assertEquals(await missed(lane, server, "a", recover), null);
    await publish(server, "a", 2);
    await take(ann, 2);
    assertEquals(await missed(lane, server, "a", recover), null);
  },
);

recoveryTest(
  "whoever is on a channel whose log is dropped goes on, and can come back",
  async (lane) => {
    await using server = lane.start({ history: { bytes: BYTES } });
    await using ann = await lane.connect(server);
    await ann.enter("a");
    await publish(server, "a", 1, 3);
    await visit(lane, server, "b");
    await publish(server, "b", 1, 30, LARGE);
    await publish(server, "a", 4, 5);
    await take(ann, 1, 5);
    const recover = ann.positionOn("a");
    await ann.close();
    await publish(server, "a", 6);
    const found = await missed(lane, server, "a", recover);
    // It is given, or told to be gone; nothing in between.
    if (found !== null) assertEquals(found, [6]);
  },
);

recoveryTest("history.bytes counts all apps together", async (lane) => {
  const [a, b] = TWO_APPS;
  const history = { bytes: BYTES };
  await using server = lane.start({ apps: TWO_APPS, history });
  for (const app of [a, b]) {
    await using client = await lane.connect(server, { app });
    await client.enter("news");
  }
  await publish({ pusher: server.pusher.app("a") }, "news", 1, 6, LARGE);
  await publish({ pusher: server.pusher.app("b") }, "news", 1, 6, LARGE);
  let kept = 0;
  for (const app of [a, b]) {
    await using client = await lane.connect(server, { app });
    await client.enter("news", { rewind: 100 });
    kept += (await rest(client)).length;
  }
  assertLess(kept, 11);
  assertGreater(kept, 4);
});

Deno.test("history is checked by name", () => {
  const cases: [history: unknown, name: string][] = [
    [null, "history"],
    [0, "history"],
    ["5", "history"],
    [[], "history"],
    [() => {}, "history"],
    [{ event: 5 }, "history.event"],
    [{ ageS: 5 }, "history.ageS"],
    ...["events", "bytes", "sessions"].flatMap((field) =>
      [-1, 1.5, NaN, -Infinity, "5", null, {}].map((value) =>
        [{ [field]: value }, `history.${field}`] satisfies [unknown, string]
      )
    ),
    ...[-1, 0, NaN, 2 ** 31, "5", null, {}].map((value) =>
      [{ ageMs: value }, "history.ageMs"] satisfies [unknown, string]
    ),
  ];
  for (const [history, name] of cases) {
    const options = { history } as PusherOptions;
    const error = assertThrows(() => new Pusher(options), Error);
    assert(error instanceof TypeError || error instanceof RangeError);
    assertStringIncludes(error.message, name, JSON.stringify(history));
  }
});

Deno.test("history may leave out any of its bounds", async () => {
  for (
    const history of [
      undefined,
      {},
      { events: 1 },
      { ageMs: 1 },
      { bytes: 1 },
      { sessions: 1 },
      { events: 1, ageMs: 2 ** 31 - 1, bytes: 1, sessions: 1 },
      { events: undefined } as Partial<Record<keyof History, undefined>>,
    ]
  ) {
    // Only its type forbids to say `undefined`.
    await using server = serveInMemory({ history } as PusherOptions);
    await using client = await server.connect({ query: RECOVER });
    await client.enter("news");
    await publish(server, "news", 1, 3);
    await take(client, 1, 3);
  }
});
