/**
 * Sign-ins that fail or come late, and sign-ins on which presence channels depend.
 */
import {
  assertEquals,
  assertInstanceOf,
  assertStringIncludes,
} from "@std/assert";
import { PresenceChannel, type PusherOptions } from "@glitz/pusher/client";
import {
  ANN,
  asAnn,
  asUser,
  AUTH,
  expectSignin,
  heard,
  open,
  reconnect,
  record,
  Server,
  settled,
  signIn,
  subscription,
} from "../support/client.ts";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { Queue } from "../support/queue.ts";

// ---- Answers ----------------------------------------------------------------

/** Data of a confirmation that names no user. */
const NO_USERS = [
  { user_data: '{"id":7}' },
  { user_data: '{"id":""}' },
  { user_data: '{"user_info":{}}' },
  { user_data: "null" },
  { user_data: "{" },
  { user_data: 7 },
  {},
  null,
  undefined,
  "text",
];

for (const data of NO_USERS) {
  Deno.test(`pusher:signin_success with ${JSON.stringify(data)} signs nobody in`, async () => {
    await using server = new Server();
    using connection = await open(server, asAnn());
    const { client: { pusher }, peer } = connection;
    await signIn(connection);
    peer.send("pusher:signin_success", data);
    await settled(peer);
    assertEquals(pusher.user.user_data, null);
    await within(DEADLINE_MS, "sign-in", pusher.user.signinDonePromise!);
    const heardByUser = record(pusher.user);
    for (const channel of ["#server-to-user-ann", ""]) {
      peer.send("hi", 1, { channel });
    }
    await settled(peer);
    assertEquals(heardByUser, []);
  });
}

Deno.test("answers that come late neither sign in nor sign out", async () => {
  await using server = new Server();
  type Answer = (error: unknown, auth?: string) => void;
  const requests = new Queue<[string, Answer]>();
  using connection = await open(server, {
    userAuthentication: {
      customHandler({ socketId }, callback) {
        requests.push([
          socketId,
          (error, auth = "") => callback(error, { auth, user_data: ANN }),
        ]);
      },
    },
  });
  const { client: { pusher } } = connection;
  const events = record(pusher.user);
  pusher.signin();
  const done = pusher.user.signinDonePromise!;
  const [firstId, answerFirst] = await requests.next("request");
  const peer = await reconnect(server, connection);
  await within(DEADLINE_MS, "end of the sign-in", done);
  const [secondId, answerSecond] = await requests.next("request");
  assertEquals([firstId, secondId], ["1.1", "2.2"]);
  answerFirst(null, "late");
  await settled(peer);
  answerSecond(null, AUTH);
  await expectSignin(peer);
  peer.send("pusher:signin_success", { user_data: ANN });
  await peer.next();

  const again = await reconnect(server, { ...connection, peer }, "3.3");
  const [, refuseThird] = await requests.next("request");
  const last = await reconnect(server, { ...connection, peer: again }, "4.4");
  const [, answerLast] = await requests.next("request");
  answerLast(null, AUTH);
  await expectSignin(last);
  last.send("pusher:signin_success", { user_data: ANN });
  await last.next();
  refuseThird(new Error("late"));
  await settled(last);
  assertEquals(pusher.user.user_data?.id, "ann");
  assertEquals(events, []);
});

// ---- Presence channels ------------------------------------------------------

/** Options that authorize every channel, without `channel_data`. */
const AUTHORIZED: PusherOptions = {
  channelAuthorization: {
    customHandler: (_request, callback) => callback(null, { auth: AUTH }),
  },
};

Deno.test("presence channels take the user who is signed in, once that is so", async () => {
  await using server = new Server();
  using connection = await open(server, { ...AUTHORIZED, ...asAnn() });
  const { client: { pusher }, peer } = connection;
  pusher.signin();
  await expectSignin(peer);
  const channel = pusher.subscribe("presence-a");
  assertInstanceOf(channel, PresenceChannel);
  await settled(peer);
  peer.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await peer.next(), subscription("#server-to-user-ann"));
  assertEquals(await peer.next(), subscription("presence-a", { auth: AUTH }));
  assertEquals(channel.members.myID, "ann");
});

Deno.test("presence channels follow the permission rather than the sign-in", async () => {
  await using server = new Server();
  using connection = await open(server, { ...asUser("bob"), ...asAnn() });
  const { client: { pusher }, peer } = connection;
  pusher.signin();
  await expectSignin(peer);
  const channel = pusher.subscribe("presence-a");
  assertInstanceOf(channel, PresenceChannel);
  assertEquals((await peer.next()).event, "pusher:subscribe");
  peer.send("pusher:signin_success", { user_data: ANN });
  assertEquals(await peer.next(), subscription("#server-to-user-ann"));
  assertEquals(channel.members.myID, "bob");
});

Deno.test("presence channels are refused if the sign-in names no user", async () => {
  await using server = new Server();
  const userData = ['{"id":7}', "no JSON", "null", undefined];
  for (const user_data of userData) {
    using connection = await open(server, { ...AUTHORIZED, ...asAnn() });
    const { client: { pusher }, peer } = connection;
    pusher.signin();
    await expectSignin(peer);
    const channel = pusher.subscribe("presence-a");
    const refused = heard(channel, "pusher:subscription_error");
    await settled(peer);
    peer.send("pusher:signin_success", { user_data });
    const { type, error } = await refused;
    assertEquals(type, "AuthError");
    assertStringIncludes(error, "no channel_data in answer");
    assertEquals(channel.subscriptionPending, false);
  }
});

Deno.test("presence channels that wait for a sign-in wait again after a reconnect", async () => {
  await using server = new Server();
  using connection = await open(server, { ...AUTHORIZED, ...asAnn() });
  const { client: { pusher }, peer } = connection;
  pusher.signin();
  await expectSignin(peer);
  const errors: unknown[] = [];
  const channel = pusher.subscribe("presence-a");
  channel.bind("pusher:subscription_error", (error) => errors.push(error));
  await settled(peer);
  const next = await reconnect(server, connection);
  await expectSignin(next);
  await settled(next);
  next.send("pusher:signin_success", { user_data: ANN });
  await next.next();
  assertEquals(await next.next(), subscription("presence-a", { auth: AUTH }));
  assertEquals(errors, []);
});
