/**
 * Signs the user in. The client loads this module when a page first signs in.
 *
 * @module
 */

import { decodeJson, PROTOCOL_NAME } from "./encrypted.ts";

/** The part of a frame that matters here. */
interface UserFrame {
  event: string;
  channel?: string;
  // deno-lint-ignore no-explicit-any -- peers send any JSON
  data?: any;
}

/** The part of a channel that matters here. */
interface UserChannel {
  readonly name: string;
  handleEvent(frame: UserFrame): void;
}

/** The part of a client that matters here. */
interface Sender {
  readonly positions: Map<string, unknown>;
  send_event(event: string, data: unknown): boolean;
}

/** The part of a user that matters here. */
interface User<Pusher extends Sender, Channel extends UserChannel> {
  readonly pusher: Pusher;
  readonly watchlist: { emit(event: string, data: unknown): unknown };
  serverToUserChannel: Channel | null;
  handleEvent?: (frame: UserFrame) => void;
  emit(event: string, data: unknown): unknown;
  endSignin(data: { id: string } | null, channel: Channel | null): void;
}

/** Makes the user's own channel. */
type ChannelClass<Pusher, Channel> = new (
  name: string,
  pusher: Pusher,
) => Channel;

/**
 * Signs a user in, and from then on handles the frames that are for the user. After
 * the answer the client subscribes to the user's own channel.
 */
export function signIn<Pusher extends Sender, Channel extends UserChannel>(
  user: User<Pusher, Channel>,
  { auth, user_data }: { auth: string; user_data: string },
  Channel: ChannelClass<Pusher, Channel>,
): void {
  const { pusher } = user;
  user.handleEvent = (frame) => handleEvent(user, frame, Channel);
  const recover = pusher.positions.get(nameOf(readUser(user_data)?.id));
  pusher.send_event("pusher:signin", { auth, user_data, recover });
}

function handleEvent<Pusher extends Sender, Channel extends UserChannel>(
  user: User<Pusher, Channel>,
  frame: UserFrame,
  Channel: ChannelClass<Pusher, Channel>,
): void {
  const { event, channel, data } = frame;
  const isAnswer = event === "pusher:signin_success";
  if (isAnswer) setUser(user, readUser(data?.user_data), Channel);
  const own = user.serverToUserChannel;
  // The answer to a sign-in names no channel.
  if (own && (isAnswer || channel === own.name)) {
    own.handleEvent(frame);
    if (!PROTOCOL_NAME.test(event)) user.emit(event, data);
  }
  if (event === "pusher_internal:watchlist_events") {
    data?.events?.forEach?.((change: { name?: string } | null) =>
      user.watchlist.emit(change?.name ?? "", change)
    );
  }
}

/** Ends the sign-in, and subscribes to the user's channel. */
function setUser<Pusher extends Sender, Channel extends UserChannel>(
  user: User<Pusher, Channel>,
  // deno-lint-ignore no-explicit-any -- peers send any JSON
  data: any,
  Channel: ChannelClass<Pusher, Channel>,
): void {
  const { id } = Object(data);
  if (typeof id !== "string" || !id) return user.endSignin(null, null);
  const { pusher, serverToUserChannel } = user;
  const name = nameOf(id);
  const channel = serverToUserChannel?.name === name
    ? serverToUserChannel
    : new Channel(name, pusher);
  if (channel !== serverToUserChannel) {
    pusher.send_event("pusher:subscribe", { auth: "", channel: name });
  }
  user.endSignin(data, channel);
}

// deno-lint-ignore no-explicit-any -- peers send any JSON
function readUser(text: unknown): any {
  return typeof text === "string" ? decodeJson(text) : text;
}

function nameOf(id: unknown): string {
  return `#server-to-user-${id}`;
}
