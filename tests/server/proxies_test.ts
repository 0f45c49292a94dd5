/**
 * Behind a proxy: what it makes of paths, hosts and ports, and which requests the
 * server still takes for what they were. The last tests run a real nginx.
 */
import type { PusherOptions } from "@glitz/pusher";
import { assertEquals } from "@std/assert";
import { DEADLINE_MS, within } from "../support/deadline.ts";
import { clientOf, serveHttp } from "../support/fallback.ts";
import { findInstalled } from "../support/installed.ts";
import { freePort } from "../support/ports.ts";
import {
  APP,
  cleanUp,
  Client,
  read,
  serve,
  signedRequest,
} from "../support/server.ts";
import { channelAuth } from "../support/wire.ts";

const EVENTS = `/apps/${APP.id}/events`;
const EVENT = { name: "create", channel: "news", data: "{}" };
const SESSION = "/r/0123456789abcdef";

// ---- Doubled slashes --------------------------------------------------------

for (const path of ["", "/rt"]) {
  Deno.test(`routes ${path && `below ${path} `}are found behind doubled slashes`, async () => {
    await using server = serveHttp({ path, authorize: () => true });
    const origin = `http://127.0.0.1:${server.port}`;
    for (const prefix of [`/${path}`, `${path}/`, `/${path}//`]) {
      for (const app of [`/app/${APP.key}`, `//app//${APP.key}`]) {
        for (const session of ["", SESSION, `/${SESSION}/`]) {
          const url = `${origin}${prefix}${session}${app}?protocol=7`;
          await using socket = new Client(url.replace("http", "ws"), APP);
          await socket.established();
        }
      }
      for (const script of ["/pusher.js", "//pusher.mjs"]) {
        const { status } = await read(await fetch(origin + prefix + script));
        assertEquals(status, 200, script);
      }
      const form = { socket_id: "1.1", channel_name: "private-a" };
      const auth = await read(
        await fetch(`${origin}${prefix}/pusher//auth`, {
          method: "POST",
          body: new URLSearchParams(form),
        }),
      );
      assertEquals(auth.status, 200);
      await using client = clientOf(server, { path: `${prefix}//pusher` });
      await client.open("xhr");
    }
    assertEquals(await asked(origin, "//elsewhere"), 404);
    assertEquals(await asked(origin, "/"), 404);
  });
}

async function asked(origin: string, path: string): Promise<number> {
  return (await read(await fetch(origin + path))).status;
}

Deno.test("a name that is missing in the HTTP API stays missing", async () => {
  await using server = serve();
  for (
    const [method, path, status] of [
      ["GET", "/channels//users", 400],
      ["POST", "/users//terminate_connections", 400],
      ["POST", "//events", 404],
    ] as const
  ) {
    const answer = await server.api(method, path);
    assertEquals(answer.status, status, path);
  }
});

// ---- Signed paths -----------------------------------------------------------

/** Sends a signed event to one path, of which another was signed. */
async function publish(
  port: number,
  sent: string,
  signedPath: string,
): Promise<number> {
  const base = `http://127.0.0.1:${port}`;
  const signed = signedRequest(base, "POST", "/events", {
    body: EVENT,
    signedPath,
  });
  const url = `${base}${sent}${new URL(signed.url).search}`;
  return (await read(await fetch(new Request(url, signed)))).status;
}

Deno.test("a request below the server's path may be signed with or without it", async () => {
  await using server = serve({ path: "/realtime" });
  const { port } = server;
  const sent = `/realtime${EVENTS}`;
  // The SDK for PHP, and with it Laravel, signs what follows its `path`.
  assertEquals(await publish(port, sent, EVENTS), 200);
  assertEquals(await publish(port, sent, sent), 200);
  assertEquals(await publish(port, `/realtime/${EVENTS}`, EVENTS), 200);
  assertEquals(await publish(port, `/${sent}`, `/${sent}`), 200);
  assertEquals(await publish(port, `/${sent}`, sent), 200);
  for (
    const other of [
      `/real${EVENTS}`,
      `/realtime/realtime${EVENTS}`,
      "/apps/other/events",
      "/events",
      "/",
      "",
    ]
  ) {
    assertEquals(await publish(port, sent, other), 401, other);
  }
});

Deno.test("a path that the server does not have is in no signature", async () => {
  await using server = serve();
  const { port } = server;
  assertEquals(await publish(port, EVENTS, EVENTS), 200);
  // The proxy has taken off a path that the server does not know.
  assertEquals(await publish(port, EVENTS, `/realtime${EVENTS}`), 401);
});

Deno.test("a signature for an escaped path is none for the path that is escaped twice", async () => {
  await using server = serve();
  const users = `/apps/${APP.id}/users`;
  const terminate = async (sent: string, signed: string) => {
    const { status } = await server.api(
      "POST",
      `/users/${sent}/terminate_connections`,
      { signedPath: `${users}/${signed}/terminate_connections` },
    );
    return status;
  };
  assertEquals(await terminate("a%20b", "a%20b"), 200);
  assertEquals(await terminate("a%20b", "a b"), 200);
  assertEquals(await terminate("100%25", "100%"), 200);
  assertEquals(await terminate("a%2520b", "a%2520b"), 200);
  assertEquals(await terminate("a%2520b", "a%20b"), 401);
  assertEquals(await terminate("a%2520b", "a b"), 401);
  assertEquals(await terminate("a%20b", "a%2520b"), 401);
});

// ---- nginx ------------------------------------------------------------------

/** The path of nginx; the last tests are left out without it. */
const NGINX = findInstalled("nginx");

const UPGRADE = `
  proxy_http_version 1.1;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $connection_upgrade;`;

/** Runs nginx in front of a server, with what stands in its `server` block. */
async function nginx(locations: (port: number) => string, port: number) {
  const folder = await Deno.makeTempDir();
  const front = freePort();
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${folder}/${name};`).join("\n");
  await Deno.writeTextFile(
    `${folder}/nginx.conf`,
    `daemon off; master_process off; pid ${folder}/pid;
error_log ${folder}/error.log;
events {}
http {
  access_log off; ${temporary}
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server { listen 127.0.0.1:${front}; ${locations(port)} }
}`,
  );
  const child = new Deno.Command(NGINX!, {
    args: ["-p", folder, "-e", `${folder}/error.log`, "-c", "nginx.conf"],
    stdout: "null",
    stderr: "null",
  }).spawn();
  const ready = async () => {
    for (;;) {
      try {
        return (await Deno.connect({ port: front })).close();
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  };
  await within(DEADLINE_MS, "nginx", ready());
  return {
    port: front,
    async [Symbol.asyncDispose]() {
      await cleanUp(async () => {
        child.kill("SIGTERM");
        await within(DEADLINE_MS, "end of nginx", child.status);
        await Deno.remove(folder, { recursive: true });
      });
    },
  };
}

/** A page of the proxy's own origin connects, and joins by the auth endpoint. */
async function joinsThrough(port: number, path: string): Promise<void> {
  const base = `127.0.0.1:${port}${path}`;
  const origin = `http://127.0.0.1:${port}`;
  await using socket = new Client(
    `ws://${base}/app/${APP.key}?protocol=7`,
    APP,
    { origin },
  );
  await socket.established();
  const { socketId: socket_id } = socket;
  const answer = await read(
    await fetch(`http://${base}/pusher/auth`, {
      method: "POST",
      headers: { origin },
      body: new URLSearchParams({ socket_id, channel_name: "private-a" }),
    }),
  );
  const auth = channelAuth(APP, socket_id, "private-a");
  assertEquals([answer.status, answer.body], [200, { auth }]);
}

const OPTIONS: PusherOptions = { authorize: () => true, origins: [] };

Deno.test({
  name:
    "behind nginx with the usual `Host $host` pages of the proxy are the server's own",
  ignore: NGINX === null,
  async fn() {
    await using server = serve(OPTIONS);
    await using proxy = await nginx(
      (port) =>
        `location / { proxy_pass http://127.0.0.1:${port}; proxy_set_header Host $host; ${UPGRADE} }`,
      server.port,
    );
    await joinsThrough(proxy.port, "");
    const foreign = await fetch(`http://127.0.0.1:${proxy.port}/pusher/auth`, {
      method: "POST",
      headers: { origin: "http://evil.test" },
      body: new URLSearchParams({ socket_id: "1.1" }),
    });
    assertEquals((await read(foreign)).status, 403);
  },
});

Deno.test({
  name:
    "behind nginx that passes a path on, or takes it off, an SDK that signs without the path is served",
  ignore: NGINX === null,
  async fn() {
    for (const isKept of [true, false]) {
      await using server = serve({
        ...OPTIONS,
        path: isKept ? "/realtime" : "",
      });
      await using proxy = await nginx(
        (port) =>
          `location /realtime/ { proxy_pass http://127.0.0.1:${port}${
            isKept ? "" : "/"
          }; proxy_set_header Host $http_host; ${UPGRADE} }`,
        server.port,
      );
      await joinsThrough(proxy.port, "/realtime");
      const sent = `/realtime${EVENTS}`;
      assertEquals(await publish(proxy.port, sent, EVENTS), 200);
      assertEquals(await publish(proxy.port, sent, sent), isKept ? 200 : 401);
    }
  },
});
