/**
 * Items 88-91 and 105: what the server tells the app's own server.
 *
 * @module
 */
import type { Bench, Delivery, Sections } from "./bench.ts";
import { type Sdk, sdkFor } from "./stock.ts";
import { DEADLINE_MS, hmac, hold, inTime, pause, same, show } from "./wire.ts";

/** How long the end of something is held back. */
const SETTLE_MS = 3_000;
/** Beyond that, on a busy machine. */
const SLACK_MS = DEADLINE_MS;
/** After this long nothing comes any more. */
const QUIET_MS = SETTLE_MS + 1_500;

/** How long a receiver may take to answer. */
const TRY_MS = 5_000;

/** The most events of a delivery. */
const BATCH = 20;
/** Events of the same moment, of which any server makes several deliveries. */
const BATCHED = 50;

const WEBHOOK = { webhook: true };

const VECTORS = [
  {
    key: "278d425bdf160c739803",
    secret: "7ad3773142a6692b25b8",
    body:
      '{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"presence-foobar"},{"name":"member_added","channel":"presence-foobar","user_id":"10"}]}',
    signature:
      "25af8e638a8074c9d01c99baa709a42a5de62c3629a78a9fee6181a5b3873655",
  },
  {
    key: "123456789",
    secret: "tofu",
    body:
      '{"time_ms":1403175510755,"events":[{"channel":"test_channel","name":"channel_vacated"}]}',
    signature:
      "c17257e92037cd7de407ebc1ed174ceb7b2e518db127f44411b9ffc4f5b28cc5",
  },
];

/** Expects the SDK to take a delivery. */
function verify(sdk: Sdk, { headers, body }: Delivery): void {
  same(headers["content-type"], "application/json", "content type");
  hold(sdk.webhook({ headers, rawBody: body }).isValid(), "SDK: not valid");
  const time = JSON.parse(body).time_ms;
  hold(Number.isInteger(time), `time_ms is ${show(time)}`);
}

/** Takes the events of a channel, in order, and returns them. */
async function takeEvents(t: Bench, channel: string, names: string[]) {
  const events = [];
  for (const name of names) {
    events.push(await t.hooks.next(channel, name, SETTLE_MS + SLACK_MS));
  }
  return events;
}

export const WEBHOOKS: Sections = [["Webhooks", [
  {
    number: 88,
    title: "Occupied and vacated once each; the SDK verifies body and type; " +
      "W1, W2 by the tool's own signer",
    needs: WEBHOOK,
    isSlow: true,
    async run(t) {
      for (const { key, secret, body, signature } of VECTORS) {
        same(hmac(secret, body), signature, "signature of a vector");
        const headers = {
          "content-type": "application/json",
          "x-pusher-key": key,
          "x-pusher-signature": signature,
        };
        const sdk = sdkFor(t.host.origin, { id: "1", key, secret });
        verify(sdk, { headers, body, events: [], at: 0 });
      }
      const [news, room] = [t.name(), t.name("presence-")];
      const sockets = [await t.joined(news), await t.joined(news)];
      await sockets[0]!.join(room, { member: { user_id: "ann" } });
      await takeEvents(t, news, ["channel_occupied"]);
      const entered = ["channel_occupied", "member_added"];
      const [, added] = await takeEvents(t, room, entered);
      same(added?.user_id, "ann", "user_id");
      for (const socket of sockets) await socket.close();
      await takeEvents(t, news, ["channel_vacated"]);
      const left = ["member_removed", "channel_vacated"];
      const ends = [
        ...await t.hooks.some(room, 2, SETTLE_MS + SLACK_MS),
      ].map(({ name }) => name).sort();
      same(ends, left.toSorted(), "ends");
      await pause(QUIET_MS - SETTLE_MS);
      const more = [...t.hooks.drain(news), ...t.hooks.drain(room)];
      same(more, [], "further events");
      for (const delivery of t.hooks.deliveries(news)) verify(t.sdk, delivery);
      return "once each, signed as the SDK expects";
    },
  },
  {
    number: 89,
    title: "Leave and rejoin within 3 s: neither vacated nor occupied; same " +
      "for members",
    needs: WEBHOOK,
    isSlow: true,
    async run(t) {
      const ann = { member: { user_id: "ann" } };
      const socket = await t.open();
      const [news, room] = await inTime(SETTLE_MS, async (watch) => {
        const [news, room] = [t.name(), t.name("presence-")];
        await socket.join(news);
        await socket.join(room, ann);
        await takeEvents(t, news, ["channel_occupied"]);
        await takeEvents(t, room, ["channel_occupied", "member_added"]);
        watch.begin();
        await socket.leave(news);
        await socket.leave(room);
        await pause(SETTLE_MS / 3);
        await socket.join(news);
        await socket.join(room, ann);
        return [news, room] as const;
      });
      await pause(QUIET_MS);
      const more = [...t.hooks.drain(news), ...t.hooks.drain(room)];
      same(more, [], "events");
      return "none";
    },
  },
  {
    number: 90,
    title: "Non-2xx and timeouts: retried with growing gaps, same body; 2xx " +
      "stops",
    needs: WEBHOOK,
    isAlone: true,
    isSlow: true,
    async run(t) {
      const channel = t.name();
      const late = Promise.withResolvers<Response>();
      const answers = [
        () => new Response(null, { status: 500 }),
        () => new Response(null, { status: 302, headers: { location: "/" } }),
        () => late.promise,
        () => new Response(null, { status: 204 }),
      ];
      const accepted = Promise.withResolvers<void>();
      t.hooks.answering.set(channel, () => {
        const answer = answers.shift() ?? (() => new Response());
        if (answers.length === 0) accepted.resolve();
        return answer();
      });
      await t.joined(channel);
      const names = Array(4).fill("channel_occupied");
      try {
        for (const name of names) {
          await t.hooks.next(channel, name, 2 * TRY_MS + SLACK_MS);
        }
        await accepted.promise;
      } finally {
        late.resolve(new Response());
      }
      await pause(SETTLE_MS);
      const tries = t.hooks.deliveries(channel);
      same(tries.length, names.length, "tries");
      same(new Set(tries.map(({ body }) => body)).size, 1, "distinct bodies");
      for (const delivery of tries) verify(t.sdk, delivery);
      const gaps = tries.slice(1)
        .map(({ at }, n) => Math.round(at - tries[n]!.at));
      // Neighbours are too close to each other for a busy machine.
      const isGrowing = gaps.at(-1)! - TRY_MS > gaps[0]!;
      hold(isGrowing, `gaps of ${gaps} ms`);
      return `500, 302, no answer, 204: gaps of ${gaps} ms, same body`;
    },
  },
  {
    number: 91,
    title: "client_event has socket_id, user_id on presence only; cache_miss " +
      "once",
    needs: { ...WEBHOOK, "client-events": true },
    isSlow: true,
    async run(t) {
      const seen = [];
      for (const prefix of ["private-", "presence-"]) {
        const channel = t.name(prefix);
        const member = prefix === "presence-" ? { user_id: "ann" } : undefined;
        const socket = await t.joined(channel, member);
        socket.trigger(channel, "client-a", { n: 1 });
        const begins = member ? ["member_added"] : [];
        const names = ["channel_occupied", ...begins, "client_event"];
        const { event, data, socket_id, user_id } =
          (await takeEvents(t, channel, names)).at(-1)!;
        same([event, data], ["client-a", '{"n":1}'], "event and data");
        same(socket_id, socket.socketId, "socket_id");
        seen.push(user_id);
      }
      same(seen, [undefined, "ann"], "user_id");
      const cache = t.name("cache-");
      await t.joined(cache);
      await t.joined(cache);
      const begins = await t.hooks.some(cache, 2);
      const names = begins.map(({ name }) => name).sort();
      same(names, ["cache_miss", "channel_occupied"], "events of the cache");
      await pause(QUIET_MS - SETTLE_MS);
      same(t.hooks.drain(cache), [], "further events");
      return "socket_id; user_id on presence; 1 cache_miss for 2 misses";
    },
  },
  {
    number: 105,
    title: "Events of the same moment share deliveries, at most 20 in each",
    needs: WEBHOOK,
    isSlow: true,
    async run(t) {
      const socket = await t.open();
      const channels = Array.from({ length: BATCHED }, () => t.name());
      for (const channel of channels) socket.requestSubscribe(channel);
      for (const channel of channels) {
        await takeEvents(t, channel, ["channel_occupied"]);
      }
      const deliveries = new Set(
        channels.flatMap((channel) => t.hooks.deliveries(channel)),
      );
      for (const delivery of deliveries) {
        verify(t.sdk, delivery);
        const { length } = delivery.events;
        hold(length <= BATCH, `${length} events in a delivery`);
      }
      const { size } = deliveries;
      hold(size < BATCHED / 2, `${BATCHED} events in ${size} deliveries`);
      return `${BATCHED} events in ${size} deliveries`;
    },
  },
]]];
