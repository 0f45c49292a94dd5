/**
 * The "Single file" gate of `.ci/run` compiles this program against
 * `dist/pusher.d.ts` and runs it with `dist/pusher.js`. It fails if a correct use does
 * not compile, or if a use that is marked as an error compiles.
 *
 * @module
 */
import {
  type ChannelDescription,
  type Hooks,
  MemoryBackplane,
  Pusher,
  type PusherOptions,
  Webhook,
} from "@glitz/pusher";

type Events = {
  messages: { create: { text: string } };
  [room: `presence-room-${string}`]: {
    "pusher:user_info": { name: string };
    said: { text: string };
  };
};

const options: PusherOptions<Events> = {
  key: "app-key",
  backplane: new MemoryBackplane(),
  authorize: () => ({ user_id: 1, user_info: { name: "Ann" } }),
};
await using pusher = new Pusher<Events>(options);
pusher.on("published", ({ channel }: Hooks["published"]) => channel.trim());
await pusher.trigger("messages", "create", { text: "hello" });
await pusher.trigger("presence-room-1", "said", { text: "hello" });
// @ts-expect-error There is no such channel.
pusher.trigger("massages", "create", { text: "hello" }).catch(() => {});
// @ts-expect-error The text is missing.
pusher.trigger("messages", "create", {}).catch(() => {});
const { occupied }: ChannelDescription = await pusher.channel("messages");
const { status }: Response = await Pusher.cascade(pusher.handler)(
  new Request("http://localhost/pusher.js"),
);
const webhook = new Webhook({ key: "app-key", secret: "secret" }, {
  headers: {},
  rawBody: "",
});
console.log(occupied, status, webhook.isValid());
