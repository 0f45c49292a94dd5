/**
 * Signing in, and what users are then sent.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { Client, TestServer } from "./server.ts";
import { dataOf, type Frame, type SignInUser } from "./wire.ts";

const SIGNED_IN = "pusher:signin_success";
const WATCHLIST = "pusher_internal:watchlist_events";

/** Signs in, which has to succeed and to be answered with the same text. */
export async function signIn(client: Client, user: SignInUser): Promise<void> {
  const frame = await client.signIn(user);
  const user_data = typeof user === "string" ? user : JSON.stringify(user);
  assertEquals(frame, {
    event: SIGNED_IN,
    data: JSON.stringify({ user_data }),
  });
}

/** Takes the refusal of a sign-in. */
export async function notSignedIn(
  client: Client,
  label?: string,
): Promise<void> {
  const frame = await client.next("pusher:error");
  assertEquals(Object.keys(frame).sort(), ["data", "event"], label);
  assertEquals(dataOf(frame).code, 4009, label);
}

/** Checks which clients a user's events reach, each once. */
export async function assertReached(
  { pusher }: Pick<TestServer, "pusher">,
  userId: string,
  reached: Client[],
  others: Client[] = [],
): Promise<void> {
  await pusher.sendToUser(userId, "are you there", {});
  for (const [clients, count] of [[reached, 1], [others, 0]] as const) {
    for (const client of clients) {
      const frames = await client.framesUntilPong();
      const events = frames.map(({ event }) => event);
      const expected = Array(count).fill("are you there");
      assertEquals(events, expected, `${userId} ${client.socketId}`);
    }
  }
}

/** Takes one watchlist frame: who it says is online and who is offline. */
export async function watched(
  client: Client,
): Promise<{ online?: string[]; offline?: string[] }> {
  const frame = await client.next(WATCHLIST);
  return listsOf(frame);
}

export function listsOf(
  frame: Frame,
): { online?: string[]; offline?: string[] } {
  // Without a channel, or stock clients overlook it.
  assertEquals(Object.keys(frame).sort(), ["data", "event"]);
  const { events, ...rest } = dataOf(frame);
  assertEquals(rest, {});
  const lists: Record<string, string[]> = {};
  for (const { name, user_ids, ...more } of events) {
    assertEquals(more, {});
    assert(name === "online" || name === "offline", name);
    assert(user_ids.length > 0 && !(name in lists), JSON.stringify(events));
    lists[name] = user_ids.toSorted();
  }
  return lists;
}
