/**
 * Reverse proxies that put a prefix in front of a server's routes and take it off
 * again: one of our own, and nginx where it is installed.
 *
 * @module
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, request } from "node:http";
import { connect } from "node:net";
import type { Duplex } from "node:stream";
import { DEADLINE_MS, within } from "./deadline.ts";
import { freePort } from "./ports.ts";

/** A proxy in front of a server. */
export interface ReverseProxy extends AsyncDisposable {
  readonly port: number;
}

const HOST = "127.0.0.1";

/** Starts a proxy whose `{prefix}/…` is `/…` of the server with a port. */
export async function strip(
  prefix: string,
  port: number,
): Promise<ReverseProxy> {
  const sockets = new Set<Duplex>();
  const isOwn = (url = "") => url.startsWith(`${prefix}/`);
  const target = ({ method, headers, url = "" }: IncomingMessage) => ({
    ...{ host: HOST, port, method, headers },
    path: url.slice(prefix.length),
  });
  const server = createServer((incoming, outgoing) => {
    if (!isOwn(incoming.url)) return void outgoing.writeHead(404).end();
    const passed = request({ ...target(incoming), agent: false }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(outgoing);
    });
    passed.on("error", () => outgoing.destroy());
    outgoing.on("close", () => passed.destroy());
    incoming.pipe(passed);
  });
  server.on("upgrade", (incoming, client: Duplex, head) => {
    if (!isOwn(incoming.url)) return client.destroy();
    const { method, path, headers } = target(incoming);
    const upstream = connect({ host: HOST, port });
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    const lines = Object.entries(headers).map((field) => field.join(": "));
    upstream.write(
      [`${method} ${path} HTTP/1.1`, ...lines, "", ""].join("\r\n"),
    );
    upstream.write(head);
    client.pipe(upstream).pipe(client);
  });
  server.listen(0, HOST);
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") {
    throw new Error("Cannot tell the port: the proxy does not listen");
  }
  return {
    port: address.port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

/** Starts nginx with the same task, configured as its manual says. */
export async function stripByNginx(
  path: string,
  prefix: string,
  target: number,
): Promise<ReverseProxy> {
  const directory = await Deno.makeTempDir({ prefix: "nginx_" });
  // nginx cannot say which port it has chosen.
  const port = freePort();
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${directory}/${name};`);
  await Deno.writeTextFile(
    `${directory}/nginx.conf`,
    `daemon off; master_process off; pid ${directory}/pid;
    error_log ${directory}/error.log;
    events {}
    http {
      access_log off; ${temporary.join(" ")}
      map $http_upgrade $connection_upgrade { default upgrade; '' close; }
      server {
        listen ${HOST}:${port};
        location ${prefix}/ {
          proxy_pass http://${HOST}:${target}/;
          proxy_http_version 1.1;
          proxy_set_header Host $http_host;
          proxy_set_header Upgrade $http_upgrade;
          proxy_set_header Connection $connection_upgrade;
        }
      }
    }`,
  );
  const child = new Deno.Command(path, {
    args: ["-p", directory, "-c", `${directory}/nginx.conf`],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  await within(DEADLINE_MS, "nginx that listens", listening(port));
  return {
    port,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await child.status;
      await Deno.remove(directory, { recursive: true });
    },
  };
}

async function listening(port: number): Promise<void> {
  for (;;) {
    try {
      (await Deno.connect({ hostname: HOST, port })).close();
      return;
    } catch (error) {
      if (!(error instanceof Deno.errors.ConnectionRefused)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
