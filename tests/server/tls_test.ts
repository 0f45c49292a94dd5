/**
 * Apps that want TLS: who is refused without it, and whose word on it counts.
 */
import { Pusher, type PusherOptions } from "@glitz/pusher";
import { assertEquals, assertMatch } from "@std/assert";
import { serveHttp } from "../support/fallback.ts";
import {
  APP,
  read,
  serve,
  signedRequest,
  type TestServer,
  TWO_APPS,
} from "../support/server.ts";
import { sdk, StockClient } from "../support/stock.ts";

/** What a server says to one who asks in every way, with these headers. */
async function answers(
  server: TestServer,
  headers: Record<string, string> = {},
  app = server.app,
): Promise<{ socket: number; api: number; auth: number; userAuth: number }> {
  const request = signedRequest(server.url, "GET", "/channels", {
    app,
    headers,
  });
  const api = await read(await fetch(request));
  const ask = async (endpoint: string) => {
    const body = new URLSearchParams({
      socket_id: "1.2",
      channel_name: "private-a",
      app_key: app.key,
    });
    const init = { method: "POST", body, headers };
    return await read(await fetch(`${server.url}/pusher/${endpoint}`, init));
  };
  const auth = await ask("auth");
  const userAuth = await ask("user-auth");
  for (const { status, body } of [api, auth, userAuth]) {
    if (status === 403) assertMatch(body.error, /over TLS only: use https:/);
  }
  const client = server.dial({ app, headers });
  await using _ = client;
  const { event } = await client.next();
  const socket = event === "pusher:error" ? (await client.closed).code : 0;
  return {
    socket,
    api: api.status,
    auth: auth.status,
    userAuth: userAuth.status,
  };
}

const SERVED = { socket: 0, api: 200, auth: 200, userAuth: 200 };
const REFUSED = { socket: 4000, api: 403, auth: 403, userAuth: 403 };

const NAMED = { appId: APP.id, key: APP.key, secret: APP.secret };

const PROGRAM: PusherOptions = {
  authorize: () => true,
  authenticate: () => ({ id: "ann" }),
};

Deno.test("without forceTLS nobody has to use TLS", async () => {
  await using server = serve({ ...PROGRAM, trustProxy: true });
  assertEquals(await answers(server, { "x-forwarded-proto": "http" }), SERVED);
});

Deno.test("an app with forceTLS refuses sockets with 4000, and requests with 403", async () => {
  await using server = serve({ ...PROGRAM, forceTLS: true });
  assertEquals(await answers(server), REFUSED);
  // Anybody can send these.
  for (const name of ["x-forwarded-proto", "x-forwarded-ssl", "forwarded"]) {
    const headers = { [name]: "https" };
    assertEquals(await answers(server, headers), REFUSED, name);
  }
});

Deno.test("with trustProxy the first value of x-forwarded-proto decides", async () => {
  const options = { ...PROGRAM, forceTLS: true, trustProxy: true };
  await using server = serve(options);
  const table: [value: string | null, expected: typeof SERVED][] = [
    [null, REFUSED],
    ["", REFUSED],
    ["http", REFUSED],
    ["https", SERVED],
    ["HTTPS", SERVED],
    ["wss", SERVED],
    [" https , http", SERVED],
    ["http, https", REFUSED],
    ["https2", REFUSED],
    ["ftp", REFUSED],
  ];
  for (const [value, expected] of table) {
    const headers = value === null ? {} : { "x-forwarded-proto": value };
    assertEquals(await answers(server, headers as never), expected, `${value}`);
  }
});

Deno.test("an app overrides forceTLS of its server", async () => {
  const [a, b] = TWO_APPS;
  await using server = serve({
    ...PROGRAM,
    apps: [{ ...a, forceTLS: false }, b],
    forceTLS: true,
  });
  assertEquals(await answers(server, {}, a), SERVED);
  assertEquals(await answers(server, {}, b), REFUSED);
});

Deno.test("a refused socket is not counted, and the refused hook has the reason", async () => {
  await using server = serve({ forceTLS: true });
  assertEquals(await server.turnsAway(), {
    code: 4000,
    reason: "The app accepts connections over TLS only",
  });
  assertEquals(server.pusher.stats().connections, 0);
  await fetch(signedRequest(server.url, "GET", "/channels")).then(read);
  const refusals = server.journal.drain("refused");
  assertEquals(
    refusals.map(({ what, code }) => [what, code]),
    [["connection", 4000], ["request", 403]],
  );
});

Deno.test("HTTP streaming and polling without TLS end with 4000", async () => {
  await using server = serveHttp({ forceTLS: true });
  for (const transport of ["xhr_streaming", "xhr"]) {
    const path = `/pusher/app/${APP.key}/0/session-${transport}/${transport}`;
    const response = await fetch(`${server.url}${path}?protocol=7`, {
      method: "POST",
    });
    assertMatch(await response.text(), /4000/, transport);
  }
});

Deno.test("pusher-js comes back over TLS, and the official SDK hears why it is refused", async () => {
  await using server = serve({ forceTLS: true });
  using client = new StockClient(server);
  await client.connection.until("error");
  assertEquals(client.pusher.connection.usingTLS, true);
  const error = await sdk(server).get({ path: "/channels" }).then(
    () => null,
    (reason) => reason,
  );
  assertEquals(error?.status, 403);
});

Deno.test("a request over TLS is served, also where the server ends TLS itself", async () => {
  await using pusher = new Pusher({ ...NAMED, forceTLS: true });
  const url = "https://example.com";
  const request = signedRequest(url, "GET", "/channels");
  assertEquals((await pusher.handler(request)).status, 200);
  const plain = signedRequest("http://example.com", "GET", "/channels");
  assertEquals((await pusher.handler(plain)).status, 403);
});

Deno.test("calls of the program itself need no TLS", async () => {
  await using server = serve({ forceTLS: true });
  const response = await server.pusher.get({ path: "/channels" });
  assertEquals(await response.json(), { channels: {} });
});
