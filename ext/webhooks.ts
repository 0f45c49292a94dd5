/**
 * Webhooks: reports what happens on the channels of an app to other programs, over
 * HTTP, and signed so that every official server SDK can verify it.
 *
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { webhooks } from "@glitz/pusher/webhooks";
 *
 * const app = { key: "app-key", secret: "app-secret" };
 * const pusher = new Pusher(app);
 * const hooks = webhooks(pusher, {
 *   ...app,
 *   endpoints: [{
 *     url: "https://example.com/pusher",
 *     events: ["channel_occupied", "channel_vacated"],
 *     channelPrefix: "presence-",
 *   }],
 * });
 * console.assert(hooks.status[0]?.queued === 0);
 * ```
 *
 * What is promised:
 * - An endpoint gets its webhooks one after the other, and the events of each channel
 *   in their order. An endpoint that is slow or down delays no other.
 * - Events that wait take turns: between channels that need authorization and public
 *   channels, then between the connections that caused the events, then between
 *   channels. So a client that causes any number of events, on any number of
 *   channels, delays another client's event by one event per turn. Where several
 *   servers share channels, some events cannot be assigned to a connection, and these
 *   share one turn.
 * - Any 2xx is a success. After any other result the server retries 1, 2, 4, … 128
 *   and at last 45 seconds later, with the same body and signature. A redirect is such
 *   a result: the server does not send a signed body to another address. After the last
 *   retry it gives the webhook up, reports that, and sends the next. An endpoint that
 *   was down for less than that, five minutes, misses nothing, as long as there is room
 *   in its queue.
 * - Of an answer the server reads 65,536 bytes at most, within the timeout of the try.
 *   A longer or slower answer counts by its status.
 * - Delivery is at least once: an answer can be lost on its way. The header
 *   `X-Pusher-Webhook-Id` is the same on each try of a webhook and differs between
 *   webhooks, so a receiver can drop duplicates.
 * - `channel_vacated` and `member_removed` are held back for 3 seconds. If the
 *   channel or the user comes back in that time, the server sends neither that
 *   event nor its opposite. Nor does it send the two events if the first still waits
 *   in the queue when the second happens, unless a client event or a cache miss of
 *   the channel waits behind it. Of several `subscription_count` of a channel that
 *   wait, only the last is sent.
 * - The queue of an endpoint is bounded, see {@linkcode WebhookOptions.queueBytes} and
 *   {@linkcode WebhookOptions.queueEvents}. In one process it is in memory, and ends
 *   with the process.
 *
 * Where the servers share a backplane that keeps a journal, as `@glitz/pusher/redis`
 * does, all of this holds for all of them together. Call `webhooks` on each server, with
 * the same options:
 * - Each event is reported once, whichever server it happens on. A client that moves to
 *   another server within 3 seconds is neither gone nor come.
 * - For each endpoint one server at a time delivers. If it dies, another one goes on
 *   within the lease of the backplane, 10 seconds by default; if it closes, at once.
 * - What waits is kept in Redis, so it survives the death of any server and a restart of
 *   all servers: with its order, the id of the webhook under way and the time of its next
 *   retry. If no server runs for 24 hours, it is lost. If Redis loses its
 *   data, the server that delivers stores again what it knows.
 * - An endpoint is known by its URL. If the URL changes, what waits for the former URL
 *   is not delivered any more, and expires.
 * - About 10,000 events in each of 64 parts may wait to be read. If all servers with
 *   webhooks are away for so long that there are more, the oldest are dropped, and that
 *   is reported and counted.
 * - `cache_miss` and `subscription_count` are written just after the change that they
 *   report: a server that dies between the two reports neither. The next change has the
 *   right count.
 *
 * With a backplane that shares channels and keeps no journal, each server reports what
 * happens on itself: a client that moves from one to another is not settled, and the
 * `channel_vacated` of the first may follow the `channel_occupied` of the second.
 *
 * Webhooks cost a listener on each hook that some endpoint wants, and one JSON
 * encoding per event, however many endpoints get it. With Redis, the server that
 * delivers reads 32 to 64 parts of the journal every 250 milliseconds for each
 * endpoint, writes each event that waits once more, and two notes per webhook.
 *
 * @module
 */

import { optionOf } from "../core/checks.ts";
import type { Pusher } from "../mod.ts";
import { Dispatcher, prove, type Webhooks } from "./webhooks/dispatcher.ts";
import {
  checkPusher,
  OPTIONS,
  parseOptions,
  type WebhookOptions,
} from "./webhooks/options.ts";
import { Relays } from "./webhooks/relay.ts";

export type { Webhooks } from "./webhooks/dispatcher.ts";
export type { WebhookStatus } from "./webhooks/endpoint.ts";
export type { OutgoingEvent, WebhookName } from "./webhooks/events.ts";
export type { WebhookEndpoint, WebhookOptions } from "./webhooks/options.ts";
export { WebhookError, type WebhookFailure } from "./webhooks/reports.ts";

/**
 * Reports to the endpoints what happens in one app, from now on. On a server with
 * several apps, each app has its own webhooks: `webhooks(server.app("shop"), …)`.
 *
 * @example With a receiver
 * ```ts
 * import { Pusher } from "@glitz/pusher";
 * import { webhooks } from "@glitz/pusher/webhooks";
 * import { assertEquals } from "@std/assert";
 *
 * const app = { key: "app-key", secret: "app-secret" };
 * await using pusher = new Pusher(app);
 *
 * const received = Promise.withResolvers<unknown>();
 * await using receiver = Deno.serve({ port: 0 }, async (request) => {
 *   const { headers } = request;
 *   const webhook = pusher.webhook({ headers, rawBody: await request.text() });
 *   if (!webhook.isValid()) return new Response(null, { status: 401 });
 *   received.resolve(webhook.getEvents());
 *   return new Response();
 * });
 *
 * await using _hooks = webhooks(pusher, {
 *   ...app,
 *   endpoints: [{ url: `http://localhost:${receiver.addr.port}` }],
 * });
 *
 * const client = pusher.open(
 *   { bufferedAmount: 0, send() {}, close() {} },
 *   "app-key",
 *   new Request("http://localhost/app/app-key?protocol=7"),
 * );
 * const data = { channel: "news" };
 * client.receive(JSON.stringify({ event: "pusher:subscribe", data }));
 * assertEquals(await received.promise, [
 *   { name: "channel_occupied", channel: "news" },
 * ]);
 * client.closed(1000);
 * ```
 *
 * @param pusher The app.
 * @param options Its credentials and the endpoints; checked at once.
 * @returns The running webhooks; close them before the program ends.
 * @throws {TypeError} If an option is unknown or of the wrong type, or the
 * credentials are not those of the app.
 * @throws {RangeError} If a number is outside its range.
 */
export function webhooks<Events extends object>(
  pusher: Pusher<Events>,
  options: WebhookOptions,
): Webhooks {
  checkPusher(pusher, optionOf(OPTIONS, "pusher"));
  const settings = parseOptions(options);
  const { journal } = pusher;
  if (journal === null) return new Dispatcher(pusher, settings);
  prove(pusher, settings);
  return new Relays(journal, settings, pusher.clock);
}
