/**
 * What `pusher.inspect()` shows of a server, for extensions such as the console.
 */
import { assert, assertEquals } from "@std/assert";
import { APP, leave, serve, TWO_APPS } from "../support/server.ts";
import { signIn } from "../support/users.ts";

Deno.test("inspect lists live connections with client, address, user, channels and age, until they are gone", async () => {
  await using server = serve();
  const { pusher } = server;
  const query = "?protocol=7&client=js&version=8.6.0";
  await using ann = await server.connect({ query });
  await using bob = await server.connect();
  await signIn(ann, '{"id":"ann"}');
  await ann.subscribe("news");
  await bob.subscribe("presence-room", { member: { user_id: "bob" } });
  const [first, second, ...more] = [...pusher.inspect().connections()];
  assertEquals(more, []);
  assert(first !== undefined && second !== undefined);
  const { app, socketId, transport, library, version, address } = first;
  assertEquals({ app, socketId, transport, library, version, address }, {
    app: APP.id,
    socketId: ann.socketId,
    transport: "ws",
    library: "js",
    version: "8.6.0",
    address: "127.0.0.1",
  });
  assertEquals([first.userId, first.channels], ["ann", ["news"]]);
  assert(first.ageMs >= 0 && first.bufferedBytes >= 0);
  assertEquals([second.userId, second.library], ["bob", undefined]);
  assertEquals(second.channels, ["presence-room"]);
  await leave(server, bob);
  await leave(server, ann);
  assertEquals([...pusher.inspect().connections()], []);
  assertEquals(pusher.inspect().connection(ann.socketId), undefined);
});

Deno.test("inspect cuts what a client says of itself", async () => {
  await using server = serve();
  const name = "x".repeat(1_000);
  const query = `?protocol=7&client=${name}&version=${name}`;
  await using client = await server.connect({ query });
  const one = server.pusher.inspect().connection(client.socketId);
  assertEquals([one?.library?.length, one?.version?.length], [45, 45]);
});

Deno.test("inspect shows the view of one app its own connections", async () => {
  await using server = serve({ apps: TWO_APPS });
  const [a, b] = TWO_APPS;
  await using ann = await server.connect({ app: a });
  await using bob = await server.connect({ app: b });
  const view = server.pusher.app(a.id).inspect();
  assertEquals(view.apps, ["a"]);
  assertEquals(server.pusher.inspect().apps, ["a", "b"]);
  const ids = Array.from(view.connections(), ({ socketId }) => socketId);
  assertEquals(ids, [ann.socketId]);
  assertEquals(view.connection(bob.socketId), undefined);
});

Deno.test("inspect: close ends a connection with 4009, or with 4200 if it may come back", async () => {
  await using server = serve();
  for (const [reconnects, code] of [[false, 4009], [true, 4200]] as const) {
    await using client = await server.connect();
    const one = server.pusher.inspect().connection(client.socketId);
    one?.close(reconnects);
    assertEquals((await client.turnedAway()).code, code);
    // It is gone: nothing happens.
    one?.close();
  }
});

Deno.test("inspect shows the forwarded address only with trustProxy, and of it what the nearest proxy says", async () => {
  const headers = { "x-forwarded-for": "6.6.6.6, 10.0.0.7" };
  for (const trustProxy of [false, true]) {
    await using server = serve({ trustProxy });
    await using client = await server.connect({ headers });
    const one = server.pusher.inspect().connection(client.socketId);
    assertEquals(one?.address, trustProxy ? "10.0.0.7" : "127.0.0.1");
  }
});
