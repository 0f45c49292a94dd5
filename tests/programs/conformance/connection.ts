/**
 * Items 1-16, 101, 104 and 106: how connections begin, live and end.
 *
 * @module
 */
import { type Bench, Forwarder, openTcp, type Sections } from "./bench.ts";
import { within } from "../../support/deadline.ts";
import {
  dataOf,
  DEADLINE_MS,
  hold,
  inTime,
  NotHeld,
  same,
  show,
  type Socket,
  traffic,
} from "./wire.ts";

/** What a socket id looks like to the server SDKs. */
const SOCKET_ID = /^\d+\.\d+$/;

/** Enough to see an id twice, were they not random. */
const MANY_CONNECTIONS = 1000;
/** Connections that are opened at a time. */
const AT_ONCE = 50;

/**
 * Short, so that liveness can be watched, and still longer than anything takes on
 * a busy machine.
 */
const LIVELY = { "activity-timeout": "2", "pong-timeout": "5" };

/** So many times two sockets are pinged. */
const PERIODS = 3;

/** Beyond what is said in seconds, on a busy machine. */
const SLACK_MS = DEADLINE_MS;

/** After how long pusher-js retries where a close code does not say "now". */
const STOCK_RETRY_MS = 1_000;

/** Expects a connection to be turned away: an error, then the same code. */
async function turnedAway(t: Bench, query: string, code: number) {
  const socket = t.dial({ query });
  await socket.error(code);
  same(await socket.closing(), code, `close code for ${query}`);
}

/** Opens a socket as soon as the server knows that another one has gone. */
async function openOnceThereIsRoom(t: Bench): Promise<Socket> {
  const deadline = performance.now() + DEADLINE_MS;
  for (;;) {
    const socket = t.dial();
    try {
      await socket.established();
      return socket;
    } catch (error) {
      const isFull = error instanceof NotHeld && performance.now() < deadline;
      if (!isFull) throw error;
    }
  }
}

/** Both releases of pusher-js with a key. */
async function stockEndsDisconnected(t: Bench, key: string) {
  for (const client of t.stocks({ key })) {
    await client.connection.data("disconnected");
    same(client.pusher.connection.state, "disconnected", "state of pusher-js");
  }
}

export const CONNECTION: Sections = [["Connection", [
  {
    number: 1,
    title: "First frame is connection_established with string data",
    async run(t) {
      const { event, channel, data, ...rest } = await t.dial().established();
      hold(typeof data === "string", `data is ${show(data)}`);
      same([channel, rest], [undefined, {}], "other fields");
      await Promise.all(
        t.stocks().map(({ connection }) => connection.data("connected")),
      );
      return `${event} ${data}; pusher-js 7 and 8 connect`;
    },
  },
  {
    number: 2,
    title: "socket_id is two integers, distinct over 1000 connections",
    isAlone: true,
    isSlow: true,
    async run(t) {
      const ids = new Set<string>();
      for (let n = 0; n < MANY_CONNECTIONS; n += AT_ONCE) {
        for (const { socketId } of await t.openAll(AT_ONCE)) ids.add(socketId);
      }
      const odd = [...ids].find((id) => !SOCKET_ID.test(id));
      same(odd, undefined, "an id of another form");
      same(ids.size, MANY_CONNECTIONS, "distinct ids");
      return `${ids.size} ids, such as ${[...ids][0]}`;
    },
  },
  {
    number: 3,
    title: "activity_timeout is a positive number",
    async run(t) {
      const { activity_timeout } = dataOf(await t.dial().established());
      const isNumber = typeof activity_timeout === "number";
      hold(isNumber && activity_timeout > 0, show(activity_timeout));
      return `${activity_timeout} s`;
    },
  },
  {
    number: 4,
    title: "No protocol, and 4, 5, 6, 7: accepted",
    async run(t) {
      for (const version of [4, 5, 6, 7]) {
        await t.open({ query: `?protocol=${version}` });
      }
      await t.open({ query: "" });
      return "5 accepted";
    },
  },
  {
    number: 5,
    title: "protocol=3 and 8 close with 4007, protocol=abc with 4006",
    async run(t) {
      await turnedAway(t, "?protocol=3", 4007);
      await turnedAway(t, "?protocol=8", 4007);
      await turnedAway(t, "?protocol=abc", 4006);
      return "4007, 4007, 4006";
    },
  },
  {
    number: 6,
    title: "Unknown key: error and close 4001; pusher-js ends disconnected",
    async run(t) {
      const key = t.name("no-such-key-");
      const socket = t.dial({ app: { ...t.app, key } });
      await socket.error(4001);
      same(await socket.closing(), 4001, "close code");
      await stockEndsDisconnected(t, key);
      return "error 4001, close 4001, disconnected";
    },
  },
  {
    number: 7,
    title: "Disabled app: 4003",
    needs: { apps: true },
    async run(t) {
      const app = t.host.apps.find(({ enabled }) => enabled === false);
      hold(app !== undefined, "no app is disabled");
      const socket = t.dial({ app });
      await socket.error(4003);
      same(await socket.closing(), 4003, "close code");
      return "error 4003, close 4003";
    },
  },
  {
    number: 8,
    title: "Connection limit: one more gets 4004; one less makes room",
    needs: { "max-connections": "3" },
    isAlone: true,
    async run(t) {
      const limit = Number(t.host.settings["max-connections"]);
      const [first] = await t.openAll(limit);
      await turnedAway(t, "?protocol=7", 4004);
      await first?.close();
      await openOnceThereIsRoom(t);
      return `${limit} fit, then 4004, then one again`;
    },
  },
  {
    number: 9,
    title:
      "Unknown path: close 4005 where the server owns its port, or HTTP 404",
    async run(t) {
      const path = `/${t.name()}`;
      const code = await t.dial({ path }).closing();
      if (code === 4005) return "close 4005";
      const headers = {
        "upgrade": "websocket",
        "connection": "upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
      };
      const response = await fetch(t.host.origin + path, { headers });
      await response.body?.cancel();
      same(response.status, 404, `closed with ${code}; status`);
      return "HTTP 404";
    },
  },
  {
    number: 10,
    title: "ping gets pong, with data object, string or absent",
    async run(t) {
      const socket = await t.open();
      for (const rest of [{ data: {} }, { data: "{}" }, {}]) {
        socket.send({ event: "pusher:ping", ...rest });
        await socket.next("pusher:pong");
      }
      return "3 pongs";
    },
  },
  {
    number: 11,
    title: "Silence: ping after activity_timeout, then close 4201; WebSocket " +
      "pongs alone keep a socket open, nothing at all does not",
    needs: LIVELY,
    isSlow: true,
    async run(t) {
      const { client: dead } = await openTcp(t.host.origin, t.app.key);
      // The runtime answers WebSocket pings by itself.
      const [silent, native] = await t.openAll(2);
      const activity = t.milliseconds("activity-timeout") + SLACK_MS;
      const pong = t.milliseconds("pong-timeout") + SLACK_MS;
      const openedAt = performance.now();
      const gone = within(
        activity + pong,
        "end of a dead socket",
        dead.readAll(),
      )
        .finally(() => dead.drop());
      await silent!.next("pusher:ping", activity);
      silent!.send({ event: "pusher:pong", data: {} });
      await silent!.next("pusher:ping", activity);
      const pingedAt = performance.now();
      same(await silent!.closing(pong), 4201, "close code");
      const spent = (from: number, to: number) =>
        `${((to - from) / 1000).toFixed(1)} s`;
      const closedAt = performance.now();
      await gone;
      await native!.framesUntilPong();
      return `close 4201 ${
        spent(pingedAt, closedAt)
      } after a ping; open with ` +
        `WebSocket pongs alone after ${spent(openedAt, performance.now())}`;
    },
  },
  {
    number: 12,
    title: "Pongs keep a socket open; one that only receives is pinged still",
    needs: LIVELY,
    isSlow: true,
    async run(t) {
      const [answering, receiving] = await t.openAll(2);
      const activity = t.milliseconds("activity-timeout");
      const ms = activity + SLACK_MS;
      const channel = t.name();
      await receiving!.join(channel);
      const ticking = setInterval(() => {
        t.api.publish(channel, "tick", "{}");
      }, activity / 4);
      const answer = async () => {
        for (let period = 0; period < PERIODS; period++) {
          await answering!.next("pusher:ping", ms);
          answering!.send({ event: "pusher:pong", data: {} });
        }
        await answering!.silence("frames after three periods");
      };
      // On a busy machine a first event may come after the first ping.
      const receive = async () => {
        for (let period = 0; period < PERIODS; period++) {
          const ticks = (await receiving!.upTo("pusher:ping", ms)).length - 1;
          if (ticks > 0) return ticks;
          receiving!.send({ event: "pusher:pong", data: {} });
        }
        hold(false, "nothing was received before a ping");
      };
      const [ticks] = await Promise.all([receive(), answer()])
        .finally(() => clearInterval(ticking));
      return `open after ${PERIODS} periods; pinged after ${ticks} events`;
    },
  },
  {
    number: 13,
    title: "Not JSON, null, array, no event: error, connection usable",
    async run(t) {
      const socket = await t.open();
      for (const text of ["not json", "null", "[]", "{}", '{"event":1}']) {
        socket.send(text);
        await socket.error();
      }
      await socket.join(t.name());
      return "5 errors, then subscribed";
    },
  },
  {
    number: 14,
    title: "Unknown pusher: event: error, open; binary frame: close 1003",
    async run(t) {
      const socket = await t.open();
      socket.send({ event: "pusher:no-such-event", data: {} });
      await socket.error();
      await socket.silence("frames after the error");
      socket.send(new Uint8Array([1, 2, 3]));
      same(await socket.closing(), 1003, "close code");
      return "error, then close 1003";
    },
  },
  {
    number: 15,
    title: "Shutdown: sockets close 4200; pusher-js is back at once",
    isDestructive: true,
    async run(t) {
      const ms = await inTime(STOCK_RETRY_MS, async (watch) => {
        const old = await t.ownProgram();
        const network = t.use(new Forwarder(old.origin));
        const sockets = await t.openAll(3, { origin: network.origin });
        const clients = ([7, 8] as const).map((release) =>
          t.stock(release, { origin: network.origin })
        );
        for (const { connection } of clients) {
          await connection.data("connected");
        }
        network.target = new URL(t.host.origin);
        watch.begin();
        const closedAt = performance.now();
        const stopped = old.program[Symbol.asyncDispose]();
        await Promise.all(
          clients.map(({ connection }) => connection.data("connected")),
        );
        watch.end();
        const ms = Math.round(performance.now() - closedAt);
        for (const socket of sockets) {
          same(await socket.closing(), 4200, "close code");
        }
        await stopped;
        return ms;
      });
      return `4200 for all; pusher-js 7 and 8 back after ${ms} ms at most`;
    },
  },
  {
    number: 16,
    title: "No frame of this run lacked event",
    isLast: true,
    async run(t) {
      const socket = await t.joined(t.name("presence-"), { user_id: "ann" });
      await socket.refused(t.name("private-"), { auth: "" });
      await socket.join(t.name("cache-"));
      socket.send("{}");
      socket.send({ event: "pusher:signin", data: {} });
      socket.requestSignIn({ id: t.name() });
      // Whether it is closed for that is another item's question.
      await socket.framesUntilPong().catch(() => []);
      same(traffic.faults, [], "frames without an event");
      return `${traffic.frames} frames`;
    },
  },
  {
    number: 101,
    title:
      "Not authorized in time: 4009; signed in, or on a private channel: " +
      "stays",
    needs: { "authorization-timeout": "5" },
    isSlow: true,
    async run(t) {
      const ms = t.milliseconds("authorization-timeout");
      hold(ms <= 30_000, `would take ${ms} ms`);
      const [idle, ...authorized] = await inTime(ms, async () => {
        const sockets = await t.openAll(4);
        const [idle, signedIn, joined, member] = sockets;
        await idle!.join(t.name());
        await signedIn!.signIn({ id: t.name() });
        await joined!.join(t.name("private-"));
        await member!.join(t.name("presence-"), { member: { user_id: "ann" } });
        return sockets;
      });
      await idle!.error(4009);
      same(await idle!.closing(), 4009, "close code");
      for (const socket of authorized) {
        await socket.silence("frames to an authorized socket");
      }
      return "4009 on a public channel; 3 ways to stay";
    },
  },
  {
    number: 104,
    title: "Not authorized yet: takes no place of the app; one too many of " +
      "either kind: 4100",
    needs: {
      "max-connections": "2",
      "max-unauthorized": "3",
      "authorization-timeout": "60",
    },
    isAlone: true,
    isSlow: true,
    async run(t) {
      const most = Number(t.host.settings["max-connections"]);
      const waiting = Number(t.host.settings["max-unauthorized"]);
      await inTime(t.milliseconds("authorization-timeout"), async () => {
        const sockets = await t.openAll(waiting - 1);
        for (let n = 0; n < most; n++) {
          const user = await openOnceThereIsRoom(t);
          await user.join(t.name("private-"));
          sockets.push(user);
        }
        const late = await t.open();
        late.requestSubscribe(t.name("private-"));
        await late.error(4100);
        same(await late.closing(), 4100, "close code of one user too many");
        sockets.push(await openOnceThereIsRoom(t));
        await turnedAway(t, "?protocol=7", 4100);
        for (const socket of sockets) await socket.silence();
        // The next try needs all of the places.
        for (const socket of sockets) await socket.close();
      });
      return `${most} in beside ${waiting} that wait; then 4100 for both`;
    },
  },
  {
    number: 106,
    title: "Without TLS, in an app that demands it: 4000, and 403 on the API",
    needs: { "force-tls": true },
    async run(t) {
      await turnedAway(t, "?protocol=7", 4000);
      // The version does not matter any more.
      await turnedAway(t, "?protocol=3", 4000);
      const { status } = await t.api.get("/channels");
      same(status, 403, "status of a request");
      for (const client of t.stocks()) {
        const error = await client.connection.data("error");
        same(error.data?.code ?? error.error?.data?.code, 4000, "stock's code");
      }
      return "4000, 403";
    },
  },
]]];
