/**
 * The deliberate differences that docs/protocol.md lists: each row has a test here, and
 * each test a row.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
import { Pusher as ClientPusher } from "@glitz/pusher/client";
import { fallback } from "@glitz/pusher/fallback";
import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import StockServerSdk from "pusher";
import { read, serve, type TestServer } from "../support/server.ts";
import { sdk } from "../support/stock.ts";
import { dataOf } from "../support/wire.ts";

/** What a row says, tried on a server; null where there is nothing to try. */
const ROWS: Record<string, ((server: TestServer) => Promise<void>) | null> = {
  async "A subscription is refused"(server) {
    await using client = await server.connect();
    client.requestSubscribe("private-a", { auth: "" });
    const frames = await client.framesUntilPong();
    assertEquals(frames.map(({ event, channel }) => [event, channel]), [
      ["pusher:subscription_error", "private-a"],
    ]);
  },

  async "`pusher:error`"(server) {
    await using client = await server.connect();
    const wrong = [
      "no json",
      { event: "pusher:no-such-event" },
      { event: "client-a", channel: "news", data: {} },
      { event: "pusher:signin", data: {} },
    ];
    for (const frame of wrong) {
      client.send(frame);
      const { code } = dataOf(await client.next("pusher:error"));
      assert(Number.isInteger(code), `code ${code}`);
    }
  },

  async "A second subscription to a channel"(server) {
    await using client = await server.connect();
    await client.join("news");
    await client.join("news");
  },

  async "A client leaves a channel that it is not on"(server) {
    await using client = await server.connect();
    client.unsubscribe("news");
    await client.silence();
  },

  async "A sign-in is refused"(server) {
    await using client = await server.connect();
    client.requestSignIn({ id: "ann" }, { auth: "wrong" });
    assertEquals(dataOf(await client.next("pusher:error")).code, 4009);
    await client.join("news");
  },

  async "An app is full, with `authorizationTimeoutMs`"() {
    const limits = { connections: 0 };
    await using server = serve({ authorizationTimeoutMs: 60_000, limits });
    await using client = await server.connect();
    client.requestSubscribe("private-a");
    await client.next("pusher:error");
    assertEquals((await client.closed).code, 4100);
  },

  async "A handshake for an unknown path"(server) {
    const response = await fetch(`${server.url}/nowhere`, {
      headers: {
        "upgrade": "websocket",
        "connection": "upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
      },
    });
    await response.body?.cancel();
    assertEquals(response.status, 404);
  },

  async "Names of channels"(server) {
    await using client = await server.connect();
    await client.join("x".repeat(200));
    await client.refused("x".repeat(201));
  },

  async "Deprecated endpoints"(server) {
    const init = { body: { name: "e", data: "{}" } };
    const event = await server.api("POST", "/channels/news/events", init);
    const stats = await server.api("GET", "/channels/news/stats");
    assertEquals([event.status, stats.status], [404, 404]);
  },

  async "Unknown parameters of the HTTP API"(server) {
    const query = { nonsense: "1" };
    const { status } = await server.api("GET", "/channels", { query });
    assertEquals(status, 200);
  },

  async "Errors of the HTTP API"(server) {
    const { status, body } = await server.api("GET", "/channels/a%20b");
    assertEquals(status, 400);
    assertEquals(Object.keys(body), ["error"]);
  },

  async "`subscription_count` in the HTTP API"(server) {
    await using client = await server.connect();
    await client.join("presence-a", { member: { user_id: "ann" } });
    const query = { info: "subscription_count" };
    const { body } = await server.api("GET", "/channels/presence-a", { query });
    assertEquals(body, { occupied: true, subscription_count: 1 });
  },

  async "Authorization by JSONP"(server) {
    const query = "?callback=f&socket_id=1.1&channel_name=private-a";
    const answer = await read(await fetch(`${server.url}/pusher/auth${query}`));
    assertEquals([answer.status, answer.headers.get("allow")], [405, "POST"]);
  },

  async "SockJS"() {
    await using pusher = new Pusher();
    const handler = pusher.cascade(fallback(pusher), pusher.handler);
    for (const path of ["/pusher/info", "/pusher/0/session/xhr", "/info"]) {
      const response = await handler(new Request(`http://localhost${path}`));
      assertEquals(response.status, 404, path);
    }
  },

  async "Clusters, `switchCluster`"() {
    await using pusher = new Pusher({ cluster: "eu" });
    assertEquals((await pusher.get({ path: "/channels" })).status, 200);
    const client = new ClientPusher("key", {
      wsHost: "localhost",
      cluster: "eu",
    });
    client.disconnect();
    assert(!("switchCluster" in client));
  },

  "Message quota": null,

  "Dashboard, Pusher Functions": null,

  async "`encryptionMasterKeyBase64`"() {
    const options = { encryptionMasterKeyBase64: btoa("x".repeat(32)) };
    const { message } = assertThrows(
      () => new Pusher(options as PusherOptions),
      TypeError,
    );
    assertStringIncludes(message, "encryption(");
    await Promise.resolve();
  },

  async "An unknown field of a call"(server) {
    const params = { socketId: "1.1" } as object;
    const call = () => server.pusher.trigger("news", "e", {}, params);
    assertThrows(call, TypeError, '"params.socketId"');
    const response = await sdk(server).trigger("news", "e", {}, params);
    assertEquals(response.status, 200);
    await response.text();
  },

  async "A call is refused"(server) {
    const data = "x".repeat(10_241);
    assertThrows(() => server.pusher.trigger("news", "e", data), RangeError);
    const error = await assertRejects(() =>
      sdk(server).trigger("news", "e", data)
    );
    assertEquals((error as Pick<Response, "status"> & Error).status, 413);
  },

  async "The response of a publish"(server) {
    const response = await server.pusher.trigger("news", "e", {});
    assertEquals(Object.keys(response).sort(), [
      "json",
      "ok",
      "status",
      "text",
    ]);
  },

  async "`Pusher.Token`"(server) {
    assert("Token" in StockServerSdk && !("Token" in Pusher));
    const webhook = server.pusher.webhook({ headers: {}, rawBody: "{}" });
    assertEquals(webhook.isValid([{ key: "k", secret: "s" }]), false);
    await Promise.resolve();
  },
};

const PROTOCOL = await Deno.readTextFile(
  new URL("../../docs/protocol.md", import.meta.url),
);

Deno.test("docs/protocol.md lists each deliberate difference, and a test tries it", () => {
  const [, section = ""] = PROTOCOL.split("\n## Deliberate differences\n");
  const [table = ""] = /^\|.*\n(?:\|.*\n)+/m.exec(section) ?? [];
  const rows = table.trimEnd().split("\n").slice(2);
  const subjects = rows.map((row) => row.split("|")[1]?.trim());
  assertEquals(subjects, Object.keys(ROWS));
});

for (const [subject, run] of Object.entries(ROWS)) {
  if (run === null) continue;
  Deno.test(`deliberate difference: ${subject}`, async () => {
    await using server = serve({
      authorize: () => true,
      authenticate: () => null,
    });
    await run(server);
  });
}
