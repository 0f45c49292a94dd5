/**
 * What each operation costs, with one subscriber and with a thousand: how often
 * something is encoded, signed, matched, awaited, timed, asked of the backplane and
 * written. A time would say that on a quiet machine only.
 *
 * What grows with the subscribers is what each of them gets, and nothing else.
 */
import { assertThrows } from "@std/assert";
import {
  assertCosts,
  type Costs,
  measure,
  type MeteredClient,
  MeteredServer,
} from "../support/costs.ts";

/** An operation, and what it has to cost; all other costs have to be 0. */
interface Operation {
  operate: () => unknown;
  costs: () => Partial<Costs>;
  /** Turns of the event loop until all is done. @default {1} */
  turns?: number;
}

/** Makes everything ready that is not measured. */
type Prepare = (
  server: MeteredServer,
  subscribers: number,
) => Operation | Promise<Operation>;

function sizeOf(frame: object): number {
  return JSON.stringify(frame).length;
}

/** The frame of an event on a channel. */
function eventOn(channel: string, data: string): object {
  return { event: "create", channel, data };
}

function succeededOn(channel: string, data = "{}"): object {
  return {
    event: "pusher_internal:subscription_succeeded",
    ...{ channel, data },
  };
}

/** Frames of the same size, one for each of several clients. */
function toEach(clients: number, frame: object): Partial<Costs> {
  return { frames: clients, writes: 1, bytes: clients * sizeOf(frame) };
}

// A publish of the program resolves, and reports a failure that nobody awaits.
const ANSWER = { promises: 3 };

/** The digests that an HMAC is made of. */
const HMAC = 2;

const DATA = JSON.stringify({ text: "hello" });

/** In how many turns of the event loop so many clients get their batches. */
function turnsOfBatches(clients: number): number {
  return clients > 64 ? 4 : 1;
}

/** Registers an operation with one subscriber, and with a thousand. */
function test(what: string, channel: string, prepare: Prepare): void {
  for (const subscribers of [1, 1_000]) {
    const title =
      `${what}, with ${subscribers} subscribers, does nothing twice`;
    Deno.test(title, async () => {
      await using server = new MeteredServer({
        clientEvents: true,
        limits: { presenceMembers: 2_000 },
      });
      const { operate, costs, turns } = await prepare(server, subscribers);
      const found = await measure(channel, operate, turns);
      assertCosts(`${what}, with ${subscribers}`, found, costs());
    });
  }
}

// ---- Publishing -------------------------------------------------------------

test("trigger", "news", (server, subscribers) => {
  server.join("news", subscribers);

  return {
    operate: () => server.pusher.trigger("news", "create", { text: "hello" }),
    costs: () => ({
      // The data, and the frame.
      encodings: 2,
      matches: 1,
      calls: 1,
      ...ANSWER,
      ...toEach(subscribers, eventOn("news", DATA)),
    }),
  };
});

test("trigger with data that is text", "news", (server, subscribers) => {
  server.join("news", subscribers);

  return {
    operate: () => server.pusher.trigger("news", "create", "hello"),
    costs: () => ({
      encodings: 1,
      matches: 1,
      calls: 1,
      ...ANSWER,
      ...toEach(subscribers, eventOn("news", "hello")),
    }),
  };
});

test("trigger on a cache channel", "cache-news", (server, subscribers) => {
  server.join("cache-news", subscribers);

  return {
    operate: () => server.pusher.trigger("cache-news", "create", "hello"),
    costs: () => ({
      encodings: 1,
      matches: 1,
      calls: 1,
      ...ANSWER,
      ...toEach(subscribers, eventOn("cache-news", "hello")),
    }),
  };
});

test(
  "trigger on a channel that nobody is on",
  "nobody",
  (server, subscribers) => {
    server.join("news", subscribers);

    return {
      operate: () => server.pusher.trigger("nobody", "create", "hello"),
      costs: () => ({ matches: 1, calls: 1, ...ANSWER }),
    };
  },
);

test("trigger for clients of every kind", "news", (server, subscribers) => {
  for (const query of ["", "&recover=1", "&batch=1", "&batch=1&recover=1"]) {
    server.join("news", subscribers, query);
  }

  return {
    operate: () => server.pusher.trigger("news", "create", "hello"),
    costs() {
      const plain = eventOn("news", "hello");
      const positioned = { ...plain, offset: 1 };
      return {
        encodings: 1,
        matches: 1,
        calls: 1,
        // The ends of the turns, at which batches are sent.
        timers: turnsOfBatches(2 * subscribers),
        ...ANSWER,
        frames: 4 * subscribers,
        writes: 1,
        bytes: 2 * subscribers * (sizeOf(plain) + sizeOf(positioned)),
      };
    },
    turns: turnsOfBatches(2 * subscribers),
  };
});

test(
  "16 triggers in one turn for clients that take batches",
  "news",
  (server, subscribers) => {
    server.join("news", subscribers, "&batch=1");

    return {
      operate: () => {
        for (let i = 0; i < 16; i++) {
          server.pusher.trigger("news", "create", "hello");
        }
      },
      costs: () => ({
        encodings: 16,
        matches: 16,
        calls: 16,
        promises: 16 * ANSWER.promises,
        timers: turnsOfBatches(subscribers),
        ...toEach(subscribers, Array(16).fill(eventOn("news", "hello"))),
      }),
      turns: turnsOfBatches(subscribers),
    };
  },
);

test("triggerBatch with two events", "news", (server, subscribers) => {
  server.join("news", subscribers);
  const event = { channel: "news", name: "create", data: "hello" };

  return {
    operate: () => server.pusher.triggerBatch([event, event]),
    costs: () => ({
      encodings: 2,
      matches: 2,
      calls: 2,
      ...ANSWER,
      ...toEach(2 * subscribers, eventOn("news", "hello")),
      writes: 2,
    }),
  };
});

test("sendToUser", "#server-to-user-ann", (server, subscribers) => {
  for (const client of server.connect(subscribers)) client.signIn("ann");

  return {
    operate: () => server.pusher.sendToUser("ann", "create", "hello"),
    costs: () => ({
      encodings: 1,
      calls: 1,
      ...ANSWER,
      ...toEach(subscribers, eventOn("#server-to-user-ann", "hello")),
    }),
  };
});

/** How many promises a handler makes that reads the body of a request, and no more. */
async function promisesOfReading(request: Request): Promise<number> {
  const read = async () => {
    // No stream: to make and read one takes more time than all that is signed.
    await request.arrayBuffer();
    return Response.json({});
  };
  return (await measure("", read)).promises;
}

// Those of the functions from the route to the body that wait.
const CALL_PROMISES = 7;

test("POST /events", "news", async (server, subscribers) => {
  server.join("news", subscribers);
  const event = { channel: "news", name: "create", data: "hello" };
  const request = server.request("/events", event);
  const reading = await promisesOfReading(server.request("/events", event));

  return {
    operate: () => server.pusher.handler(request),
    costs: () => ({
      encodings: 1,
      // The signature, and the body.
      digests: HMAC + 1,
      matches: 1,
      calls: 1,
      promises: reading + CALL_PROMISES,
      // Whether the body is there at the end of the turn.
      timers: 1,
      ...toEach(subscribers, eventOn("news", "hello")),
    }),
  };
});

test("POST /batch_events", "news", async (server, subscribers) => {
  server.join("news", subscribers);
  const event = { channel: "news", name: "create", data: "hello" };
  const body = { batch: [event, event] };
  const request = server.request("/batch_events", body);
  const reading = await promisesOfReading(server.request("/events", body));

  return {
    operate: () => server.pusher.handler(request),
    costs: () => ({
      encodings: 2,
      // The signature, and the body.
      digests: HMAC + 1,
      matches: 2,
      calls: 2,
      promises: reading + CALL_PROMISES,
      timers: 1,
      ...toEach(2 * subscribers, eventOn("news", "hello")),
      writes: 2,
    }),
  };
});

// ---- Client events ----------------------------------------------------------

test("a client event", "private-news", (server, subscribers) => {
  server.join("private-news", subscribers);
  const [sender] = server.join("private-news", 1);

  return {
    operate: () => sender?.say("client-create", "hello", "private-news"),
    costs: () => ({
      encodings: 1,
      calls: 1,
      ...toEach(subscribers, {
        ...eventOn("private-news", "hello"),
        event: "client-create",
      }),
    }),
  };
});

test(
  "a client event on a presence channel",
  "presence-news",
  (server, subscribers) => {
    const [sender] = server.join("presence-news", subscribers + 1);

    return {
      operate: () => sender?.say("client-create", "hello", "presence-news"),
      costs: () => ({
        encodings: 1,
        calls: 1,
        ...toEach(subscribers, {
          ...eventOn("presence-news", "hello"),
          event: "client-create",
          user_id: "user-0",
        }),
      }),
    };
  },
);

// ---- Connecting -------------------------------------------------------------

test("connecting each client", "news", (server, subscribers) => {
  let clients: MeteredClient[] = [];
  return {
    operate: () => clients = server.connect(subscribers),
    costs: () => ({
      // The data and the frame.
      encodings: 2 * subscribers,
      // One wheel visits all of them.
      timers: 1,
      frames: subscribers,
      writes: 1,
      bytes: clients.reduce((sum, { last }) => sum + last.length, 0),
    }),
  };
});

test("closing each client", "news", (server, subscribers) => {
  const clients = server.join("news", subscribers);

  return {
    operate: () => clients.forEach((client) => client.close()),
    costs: () => ({ calls: subscribers }),
  };
});

test("a ping", "news", (server, subscribers) => {
  const [client] = server.join("news", subscribers);

  return {
    operate: () => client?.say("pusher:ping"),
    costs: () => toEach(1, { event: "pusher:pong", data: "{}" }),
  };
});

test("a pong", "news", (server, subscribers) => {
  const [client] = server.join("news", subscribers);

  return { operate: () => client?.say("pusher:pong"), costs: () => ({}) };
});

test("signing in", "#server-to-user-ann", (server, subscribers) => {
  const [client, ...others] = server.connect(subscribers + 1);
  for (const other of others) other.signIn("ann");

  return {
    operate: () => client?.signIn("ann"),
    costs: () => ({
      // The data and the frame.
      encodings: 2,
      digests: HMAC,
      calls: 1,
      ...toEach(1, {
        event: "pusher:signin_success",
        data: JSON.stringify({ user_data: '{"id":"ann"}' }),
      }),
    }),
  };
});

// ---- Subscribing ------------------------------------------------------------

test("subscribing", "news", (server, subscribers) => {
  server.join("news", subscribers);
  const [client] = server.connect(1);

  return {
    operate: () => client?.subscribe("news"),
    costs: () => ({
      encodings: 1,
      matches: 1,
      calls: 1,
      ...toEach(1, succeededOn("news")),
    }),
  };
});

test("subscribing again", "news", (server, subscribers) => {
  const [client] = server.join("news", subscribers);

  return {
    operate: () => client?.subscribe("news"),
    costs: () => ({
      encodings: 1,
      matches: 1,
      ...toEach(1, succeededOn("news")),
    }),
  };
});

test(
  "subscribing to a private channel",
  "private-news",
  (server, subscribers) => {
    server.join("private-news", subscribers);
    const [client] = server.connect(1);

    return {
      operate: () => client?.subscribe("private-news"),
      costs: () => ({
        encodings: 1,
        digests: HMAC,
        matches: 1,
        calls: 1,
        ...toEach(1, succeededOn("private-news")),
      }),
    };
  },
);

test("subscribing to a cache channel", "cache-news", (server, subscribers) => {
  server.join("cache-news", subscribers);
  server.pusher.trigger("cache-news", "create", "hello");
  const [client] = server.connect(1);

  return {
    operate: () => client?.subscribe("cache-news"),
    costs: () => ({
      // The confirmation, and the last event.
      encodings: 2,
      matches: 1,
      calls: 1,
      frames: 2,
      writes: 2,
      bytes: sizeOf(succeededOn("cache-news")) +
        sizeOf(eventOn("cache-news", "hello")),
    }),
  };
});

test("unsubscribing", "news", (server, subscribers) => {
  server.join("news", subscribers);
  const [client] = server.join("news", 1);

  return {
    operate: () => client?.unsubscribe("news"),
    costs: () => ({ calls: 1 }),
  };
});

// ---- Members ----------------------------------------------------------------

/** What tells the members of a channel about another one. */
function memberOf(event: "added" | "removed", id: string): object {
  const info = event === "added" ? { user_info: {} } : {};
  return {
    event: `pusher_internal:member_${event}`,
    channel: "presence-news",
    data: JSON.stringify({ user_id: id, ...info }),
  };
}

/** What tells a new member who is there. */
function rosterOf(ids: string[]): object {
  const hash = Object.fromEntries(ids.map((id) => [id, {}]));
  const presence = { ids, hash, count: ids.length };
  return succeededOn("presence-news", JSON.stringify({ presence }));
}

/** The ids that {@linkcode MeteredServer.join} gives. */
function usersOf(count: number): string[] {
  return Array.from({ length: count }, (_, i) => `user-${i}`);
}

test(
  "the first connection of a member",
  "presence-news",
  (server, subscribers) => {
    server.join("presence-news", subscribers);
    const [client] = server.connect(1);

    return {
      operate: () => client?.subscribe("presence-news", "new"),
      costs() {
        const roster = rosterOf([...usersOf(subscribers), "new"]);
        const added = memberOf("added", "new");
        return {
          // The new member for the others: the id, and the frame. The list: its frame,
          // and the new member's id and info.
          encodings: 6,
          digests: HMAC,
          matches: 1,
          calls: 1,
          frames: subscribers + 1,
          writes: 1,
          bytes: sizeOf(roster) + subscribers * sizeOf(added),
        };
      },
    };
  },
);

test(
  "the last connection of a member leaving",
  "presence-news",
  (server, subscribers) => {
    const [client] = server.join("presence-news", subscribers + 1);

    return {
      operate: () => client?.close(),
      costs: () => ({
        // The data and the frame.
        encodings: 2,
        calls: 1,
        ...toEach(subscribers, memberOf("removed", "user-0")),
      }),
    };
  },
);

test(
  "another connection of a member",
  "presence-news",
  (server, subscribers) => {
    server.join("presence-news", subscribers);
    const [client] = server.connect(1);

    return {
      operate: () => client?.subscribe("presence-news", "user-0"),
      costs: () => ({
        // The id, in case that the member is new, and the frame: the list is known.
        encodings: 2,
        digests: HMAC,
        matches: 1,
        calls: 1,
        ...toEach(1, rosterOf(usersOf(subscribers))),
      }),
    };
  },
);

test(
  "another connection of a member leaving",
  "presence-news",
  (server, subscribers) => {
    server.join("presence-news", subscribers);
    const [client] = server.connect(1);
    client?.subscribe("presence-news", "user-0");

    return { operate: () => client?.close(), costs: () => ({ calls: 1 }) };
  },
);

// ---- Replays and sessions ---------------------------------------------------

const MISSED = 10;

test("a replay of 10 events to each", "news", (server, subscribers) => {
  const recover = positionOf(server);
  publishMany(server, MISSED);
  const clients = server.connect(subscribers, "&recover=1");
  const bytes = sizeOfReplay(recover, MISSED);
  return {
    operate: () => {
      clients.forEach((client) => client.subscribe("news", "", { recover }));
      server.passTurns(20);
    },
    costs: () => ({
      // A confirmation for each client, and each event once for all.
      encodings: subscribers + MISSED,
      matches: subscribers,
      // A join and a page.
      calls: 2 * subscribers,
      // Clients that return are sent about 750 frames in a turn, all together.
      timers: subscribers === 1 ? 0 : 13,
      frames: (1 + MISSED) * subscribers,
      writes: 1 + MISSED,
      bytes: bytes * subscribers,
    }),
  };
});

for (const missed of [100, 1_000]) {
  Deno.test(`a replay of ${missed} events asks for pages of 100`, async () => {
    await using server = new MeteredServer();
    const recover = positionOf(server);
    publishMany(server, missed);
    const [client] = server.connect(1, "&recover=1");
    const costs = await measure(
      "news",
      () => {
        client?.subscribe("news", "", { recover });
        server.passTurns(20);
      },
    );
    assertCosts(`a replay of ${missed}`, costs, {
      encodings: 1 + missed,
      matches: 1,
      calls: 1 + missed / 100,
      timers: missed < 1_000 ? 0 : 1,
      frames: 1 + missed,
      writes: 1 + missed,
      bytes: sizeOfReplay(recover, missed),
    });
  });
}

/** The bytes of a confirmation, and of all events that follow. */
function sizeOfReplay(position: object, events: number): number {
  let bytes = sizeOf({ ...succeededOn("news"), position, recovered: true });
  for (let offset = 1; offset <= events; offset++) {
    bytes += sizeOf({ ...eventOn("news", "hello"), offset });
  }
  return bytes;
}

/** Where a client stands that keeps the history of the channel. */
function positionOf(server: MeteredServer): object {
  const [keeper] = server.join("news", 1, "&recover=1");
  return JSON.parse(keeper?.last ?? "").position;
}

function publishMany(server: MeteredServer, events: number): void {
  for (let i = 0; i < events; i++) {
    server.pusher.trigger("news", "create", "hello");
  }
}

test(
  "trigger for stock clients with sessions",
  "news",
  (server, subscribers) => {
    const path = (i: number) => `/r/session-of-a-stock-client-${i}`;
    for (const client of server.connect(subscribers, "", path)) {
      client.subscribe("news");
    }

    return {
      operate: () => server.pusher.trigger("news", "create", "hello"),
      costs: () => ({
        encodings: 1,
        matches: 1,
        calls: 1,
        // When the sessions are asked what has arrived.
        timers: 1,
        ...ANSWER,
        ...toEach(subscribers, eventOn("news", "hello")),
      }),
    };
  },
);

// ---- The counts themselves --------------------------------------------------

Deno.test("costs that differ are named, with what was expected", async () => {
  await using server = new MeteredServer();
  const [client] = server.join("news", 1);
  const costs = await measure("news", () => client?.say("pusher:ping"));
  assertThrows(
    () => assertCosts("a ping", costs, { calls: 1, frames: 1, writes: 1 }),
    Error,
    "Cannot accept the costs of a ping: 0 calls, expected 1; 35 bytes, expected 0",
  );
});
