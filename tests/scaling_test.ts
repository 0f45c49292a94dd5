/**
 * The recipe for several servers, `docs/scaling.md`, put to work: its programs and
 * commands, and its proxies in front of real servers with a real Redis.
 */
import { fileURLToPath } from "node:url";
import { Pusher as ServedClient } from "@glitz/pusher/client";
import {
  assert,
  assertEquals,
  assertFalse,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import StockServerSdk from "pusher";
import { DEADLINE_MS, within } from "./support/deadline.ts";
import { findInstalled } from "./support/installed.ts";
import { freePort } from "./support/ports.ts";
import { Inbox } from "./support/queue.ts";
import {
  blocks,
  commandLines,
  copyImage,
  eventually,
  Node,
  PROXIES,
  type Proxy,
  readCompose,
  RECIPE_PORTS,
} from "./support/recipe.ts";
import { HAS_REDIS, RedisServer, testWithRedis } from "./support/redis.ts";
import { APP } from "./support/server.ts";
import { authorizedBy, sdk, StockClient } from "./support/stock.ts";
import { type Frame, Socket } from "./support/wire.ts";

const ROOT = new URL("..", import.meta.url);

// ---- Programs ---------------------------------------------------------------

const BASH = findInstalled("bash");
const ONE = "docs/scaling.md starts a Redis and three servers that are one";
if (BASH === null || !HAS_REDIS) {
  Deno.test.ignore(`${ONE} (no bash or redis-server)`, () => {});
} else {
  Deno.test(ONE, async () => {
    const [start = ""] = blocks("sh");
    const ports = RECIPE_PORTS.map(() => freePort());
    const redis = freePort();
    const script = RECIPE_PORTS.reduce(
      (text, port, i) => text.replaceAll(String(port), String(ports[i])),
      start.replaceAll("6379", String(redis)),
    );
    const folder = await Deno.makeTempDir({ prefix: "scaling_" });
    const child = new Deno.Command(BASH, {
      // The background processes are the programs, and end with the shell.
      args: [
        "-c",
        `redis-server() { exec redis-server --dir ${folder} "$@"; }
        deno() { exec ${Deno.execPath()} "$@"; }
        trap 'kill $(jobs -p); wait' EXIT; trap exit TERM
        ${script}
        wait`,
      ],
      cwd: ROOT,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    try {
      await areOne(ports, "/readyz");
    } finally {
      child.kill("SIGTERM");
      await child.status;
      await Deno.remove(folder, { recursive: true });
    }
  });
}

testWithRedis(
  "docs/scaling/Dockerfile copies all that a server with Redis needs",
  async () => {
    await using stack = new AsyncDisposableStack();
    const redis = stack.use(await RedisServer.start());
    const folder = await Deno.makeTempDir({ prefix: "image_" });
    stack.defer(() => Deno.remove(folder, { recursive: true }));
    await copyImage(folder);
    const [line] = commandLines().filter(({ file }) => file === "Dockerfile");
    const node = stack.use(await Node.start({ ...line!, folder }, redis.url));
    assertEquals(await node.readiness(), 200);
  },
);

testWithRedis(
  "docs/scaling/server.ts is one of several servers, has metrics, and drains",
  async () => {
    await using redis = await RedisServer.start();
    const metrics = freePort();
    const line = {
      file: "server.ts",
      args: [
        ...["run", "--no-prompt", "--allow-net", "--allow-env"],
        "docs/scaling/server.ts",
      ],
    };
    await using own = await Node.start(line, redis.url, {
      METRICS_PORT: String(metrics),
    });
    await using cli = await Node.start(commandLines()[1]!, redis.url);
    const socket = await connect(own);
    await socket.join("news");
    await (await sdk(cli).trigger("news", "goal", { minute: 90 })).text();
    assertEquals((await socket.next("goal")).channel, "news");
    const answer = await fetch(`http://127.0.0.1:${metrics}/metrics`);
    assertMatch(
      await answer.text(),
      /^pusher_connections\{app="[^"]+",transport="ws"\} 1$/m,
    );
    const ended = own.end("SIGTERM");
    assertEquals((await socket.closed).code, 4200);
    const { code, errors } = await ended;
    assertEquals(code, 0);
    assertMatch(errors, /^(?:Listening on .*\n)*$/);
  },
);

/** Opens a socket to a server, past any proxy. */
async function connect({ port }: Node): Promise<Socket> {
  const url = `ws://127.0.0.1:${port}/app/${APP.key}?protocol=7`;
  const socket = new Socket(url, APP);
  await socket.established();
  return socket;
}

/** The official SDK for a server with the app of the documents. */
function sdkOf({ port }: { readonly port: number }): StockServerSdk {
  return new StockServerSdk({
    ...{ appId: "1", key: "app-key", secret: "app-secret" },
    ...{ host: "127.0.0.1", port: String(port), useTLS: false },
  });
}

/** The status that a server answers with; 0 if there is none. */
async function statusOf(port: number, path: string): Promise<number> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`);
    await answer.body?.cancel();
    return answer.status;
  } catch {
    return 0;
  }
}

/** Expects that an event which is published on one reaches the client of another. */
async function areOne(ports: readonly number[], path: string): Promise<void> {
  for (const port of ports) {
    await eventually(
      async () => await statusOf(port, path) === 200,
      `server on ${port}`,
    );
  }
  const [first = 0, last = 0] = [ports[0], ports.at(-1)];
  using client = new StockClient({ port: last }, {}, "app-key");
  const inbox = await client.join("news");
  const signer = sdkOf({ port: first });
  await (await signer.trigger("news", "goal", { minute: 90 })).text();
  assertEquals(await inbox.data("goal"), { minute: 90 });
}

testWithRedis(
  "README.md has a program whose copies are one server",
  async () => {
    const readme = await Deno.readTextFile(new URL("README.md", ROOT));
    const programs = readme.match(/(?<=```ts ignore\n).*?(?=```)/gs) ?? [];
    const program = programs.find((text) => text.includes("redis(")) ?? "";
    await using redis = await RedisServer.start();
    const text = program.replace("redis://localhost:6379", redis.url);
    assert(text !== program);
    await using stack = new AsyncDisposableStack();
    const ports = [freePort(), freePort()];
    for (const port of ports) {
      const child = new Deno.Command(Deno.execPath(), {
        args: ["run", "--no-prompt", "--no-check", "--allow-net", "-"],
        cwd: ROOT,
        env: { DENO_SERVE_ADDRESS: `tcp:127.0.0.1:${port}`, NO_COLOR: "1" },
        stdin: "piped",
        stdout: "null",
        stderr: "null",
      }).spawn();
      stack.defer(async () => {
        child.kill("SIGKILL");
        await child.status;
      });
      const input = child.stdin.getWriter();
      await input.write(new TextEncoder().encode(text));
      await input.close();
    }
    await areOne(ports, "/pusher.js");
  },
);

testWithRedis(
  "docs/scaling.md has a program whose threads are one server",
  async () => {
    await using redis = await RedisServer.start();
    const [program = ""] = blocks("ts ignore").filter((text) =>
      text.includes("deno serve --parallel")
    );
    const text = program.replace("redis://localhost:6379", redis.url);
    assert(text !== program);
    await using stack = new AsyncDisposableStack();
    const folder = await Deno.makeTempDir({ prefix: "threads_" });
    stack.defer(() => Deno.remove(folder, { recursive: true }));
    await Deno.writeTextFile(`${folder}/main.ts`, text);
    const imports = {
      "@glitz/pusher": new URL("mod.ts", ROOT).href,
      "@glitz/pusher/redis": new URL("ext/redis.ts", ROOT).href,
    };
    await Deno.writeTextFile(
      ...[`${folder}/deno.json`, JSON.stringify({ imports })] as const,
    );
    const port = freePort();
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["serve", "--parallel", "--no-prompt", "--no-check", "--allow-net"],
        ...["--allow-env", "--port", String(port), `${folder}/main.ts`],
      ],
      cwd: folder,
      env: { PUSHER_APP_SECRET: "app-secret", DENO_JOBS: "2" },
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    stack.defer(async () => {
      child.kill("SIGKILL");
      await child.status;
    });
    await eventually(
      async () => await statusOf(port, "/pusher.js") === 200,
      `server on ${port}`,
    );
    // The kernel chooses the thread of each.
    await using clients = new AsyncDisposableStack();
    const inboxes = await Promise.all(Array.from({ length: 16 }, () => {
      const client = new StockClient({ port }, {}, "app-key");
      clients.defer(() => client[Symbol.dispose]());
      return client.join("news");
    }));
    await (await sdkOf({ port }).trigger("news", "goal", {})).text();
    for (const inbox of inboxes) assertEquals(await inbox.data("goal"), {});
  },
);

// ---- Servers behind a proxy -------------------------------------------------

const REDIS_CONF = "docs/scaling/redis.conf";

/** A Redis with the settings of the recipe. */
function startRedis(): Promise<RedisServer> {
  const file = fileURLToPath(new URL(REDIS_CONF, ROOT));
  return RedisServer.start({ args: ["--include", file] });
}

/** A Redis, three servers as three files start them, and a proxy. */
class Deployment implements AsyncDisposable {
  readonly redis: RedisServer;
  readonly nodes: Node[];
  readonly proxy: Proxy;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    redis: RedisServer,
    nodes: Node[],
    proxy: Proxy,
    stack: AsyncDisposableStack,
  ) {
    this.redis = redis;
    this.nodes = nodes;
    this.proxy = proxy;
    this.#stack = stack;
  }

  static async start(
    startProxy: (ports: readonly number[]) => Promise<Proxy>,
  ): Promise<Deployment> {
    await using stack = new AsyncDisposableStack();
    const redis = stack.use(await startRedis());
    const url = redis.url.replace("//", "//pusher:change-me@");
    const nodes = await Promise.all(
      commandLines().map((line) => Node.start(line, url)),
    );
    for (const node of nodes) stack.use(node);
    const proxy = stack.use(await startProxy(nodes.map(({ port }) => port)));
    return new Deployment(redis, nodes, proxy, stack.move());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }
}

testWithRedis(
  "docs/scaling/redis.conf lets in nobody without a password, and docs/scaling.md asks such a Redis",
  async () => {
    await using redis = await startRedis();
    await assertRejects(() => redis.command("PING"), Error, "NOAUTH");
    const cli = (login: string, ...words: string[]) => {
      const args = ["-u", redis.url.replace("//", `//${login}@`), ...words];
      return run(findInstalled("redis-cli", "valkey-cli") ?? "", args);
    };
    // With it, Redis would refuse other machines.
    const initial = await cli(
      "admin:change-me-too",
      "acl",
      "getuser",
      "default",
    );
    assertStringIncludes(initial, "off");
    assertFalse(initial.includes("nopass"), initial);

    const servers = 2;
    const url = redis.url.replace("//", "//pusher:change-me@");
    await using stack = new AsyncDisposableStack();
    for (let i = 0; i < servers; i++) {
      stack.use(await Node.start(commandLines()[1]!, url));
    }
    const questions = blocks("sh").at(-1)!.matchAll(
      /^redis-cli -u \$PUSHER_REDIS_URL (.+)$/gm,
    );
    const answers = await Promise.all(
      Array.from(
        questions,
        ([, words = ""]) =>
          cli("pusher:change-me", ...words.replaceAll("'", "").split(" ")),
      ),
    );
    assertEquals(answers.slice(0, 2), ["PONG", String(servers + 1)]);
    assertStringIncludes(answers[2]!, "used_memory:");
  },
);

/** What a program prints. */
async function run(program: string, args: readonly string[]): Promise<string> {
  const { stdout, stderr, success } = await new Deno.Command(program, {
    args: [...args],
    stdin: "null",
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (success) return decode(stdout);
  throw new Error(`Cannot run ${program}: ${decode(stderr)}`);
}

/** Defines a test behind each proxy. Where one is missing it is ignored. */
function testBehindProxies(
  name: (proxy: string) => string,
  run: (deployment: Deployment) => Promise<void>,
): void {
  for (const { name: proxy, path, start } of PROXIES) {
    const title = name(proxy);
    if (path !== null && HAS_REDIS) {
      Deno.test(title, async () => {
        await using deployment = await Deployment.start((ports) =>
          start(path, ports)
        );
        await run(deployment);
      });
    } else {
      const missing = HAS_REDIS ? proxy : "redis-server";
      Deno.test.ignore(`${title} (no ${missing})`, () => {});
    }
  }
}

/** Options of pusher-js for streaming, with a recovery session if it has an id. */
function streaming({ port }: { readonly port: number }, session?: string) {
  return {
    enabledTransports: ["xhr_streaming" as const],
    httpHost: "127.0.0.1",
    httpPort: port,
    ...session !== undefined && { httpPath: `/r/${session}/pusher` },
  };
}

/** Runs the check of the compose file on a server. */
async function isHealthy(port: number): Promise<boolean> {
  const check: string[] = readCompose().services["pusher-1"].healthcheck.test;
  const [type, program, ...args] = check;
  assertEquals([type, program], ["CMD", "deno"]);
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: args.map((text) => text.replace(":6001/", `:${port}/`)),
    stdout: "null",
    stderr: "null",
  }).output();
  return code === 0;
}

/** So many that some requests would go to a wrong server if they could. */
const CLIENTS = 6;

testBehindProxies(
  (proxy) =>
    `behind ${proxy}, pusher-js has WebSockets, and streams whose requests find their server`,
  async ({ proxy, nodes }) => {
    assert(await isHealthy(nodes[0]!.port));
    assert(!await isHealthy(freePort()));
    const signed = authorizedBy(sdk(proxy));
    using listener = new StockClient(proxy, signed);
    const heard = await listener.join("private-room");
    using stack = new DisposableStack();
    const joined: { client: StockClient; inbox: Inbox }[] = [];
    for (let i = 0; i < CLIENTS; i++) {
      for (const options of [{}, streaming(proxy)]) {
        const client = new StockClient(proxy, { ...signed, ...options });
        stack.use(client);
        joined.push({ client, inbox: await client.join("private-room") });
      }
    }
    await (await sdk(proxy).trigger("private-room", "news", { n: 1 })).text();
    for (const { inbox } of joined) {
      assertEquals(await inbox.data("news"), { n: 1 });
    }
    // What a client sends over HTTP is a request of its own.
    for (const { client } of joined) {
      client.pusher.channel("private-room").trigger("client-hello", {
        id: client.socketId,
      });
    }
    const senders: string[] = [];
    for (const _ of joined) senders.push((await heard.data("client-hello")).id);
    const ids = joined.map(({ client }) => client.socketId);
    assertEquals(senders.sort(), ids.sort());
  },
);

/** The lease, a quarter of it, and time for a busy machine. */
const REAP_DEADLINE_MS = 12_500 + DEADLINE_MS;

/** What the lease has left at least when a server dies. */
const LEASE_LEFT_MS = 7_500;

/** Who came or left, in the frames of a presence channel. */
function transitions(frames: Frame[]): { event: string; user: string }[] {
  return frames
    .filter(({ event }) => event.startsWith("pusher_internal:member_"))
    .map(({ event, data }) => ({
      event: event.replace("pusher_internal:", ""),
      user: JSON.parse(String(data)).user_id,
    }));
}

testBehindProxies(
  (proxy) =>
    `behind ${proxy}, the members of a server that is killed leave once, and its clients return elsewhere`,
  async ({ proxy, nodes }) => {
    const signer = sdk(proxy);
    const watcher = await connect(nodes[0]!);
    await watcher.join("presence-room", { member: { user_id: "watcher" } });

    // A proxy that keeps the stream of a client that is gone makes a ghost.
    const leaver = new StockClient(proxy, {
      ...authorizedBy(signer, { user_id: "leaver" }),
      ...streaming(proxy),
    });
    await leaver.join("presence-room");
    await watcher.upTo("pusher_internal:member_added");
    leaver[Symbol.dispose]();
    await watcher.upTo("pusher_internal:member_removed");

    const victim = await connect(nodes[1]!);
    await victim.join("presence-room", { member: { user_id: "victim" } });
    using stack = new DisposableStack();
    const clients: { client: StockClient; inbox: Inbox }[] = [];
    /** When users subscribed for the last time. */
    const subscribedAt = new Map<string, number>();
    for (let i = 0; i < CLIENTS; i++) {
      const user = `user-${i}`;
      const client = new StockClient(
        proxy,
        authorizedBy(signer, { user_id: user }),
      );
      stack.use(client);
      const inbox = await client.join("presence-room");
      client.presence("presence-room").bind(
        "pusher:subscription_succeeded",
        () => subscribedAt.set(user, performance.now()),
      );
      clients.push({ client, inbox });
    }
    const users = [
      ...clients.map((_, i) => `user-${i}`),
      ...["victim", "watcher"],
    ];
    const rooms = clients.map(({ client }) => client.presence("presence-room"));
    await eventually(
      () => rooms.every(({ members }) => members.count === users.length),
      "members",
    );
    // The watcher may hear of the last of them later than they do.
    const others = users.filter((user) => user !== "watcher");
    for (const _ of others) await watcher.upTo("pusher_internal:member_added");

    const killedAt = performance.now();
    await nodes[1]!.end("SIGKILL");
    const frames: Frame[] = [];
    do {
      frames.push(
        ...await watcher.upTo(
          "pusher_internal:member_removed",
          REAP_DEADLINE_MS,
        ),
      );
    } while (!transitions(frames).some(({ user }) => user === "victim"));
    await eventually(
      () => rooms.every(({ subscribed }) => subscribed),
      "clients that are back",
    );
    const answer = await signer.get({ path: "/channels/presence-room/users" });
    const { users: listed } = await answer.json();
    const ids = listed.map(({ id }: { id: string }) => id).sort();
    assertEquals(ids, users.filter((id) => id !== "victim").sort());
    await (await signer.trigger("presence-room", "news", {})).text();
    for (const { inbox } of clients) await inbox.until("news");
    frames.push(...await watcher.framesUntilPong());
    // Nobody flickered who was back in time: even a busy machine leaves most of it.
    const isBackInTime = (user: string) =>
      (subscribedAt.get(user) ?? 0) < killedAt + LEASE_LEFT_MS;
    assertEquals(
      transitions(frames).filter(({ user }) => isBackInTime(user)),
      [{ event: "member_removed", user: "victim" }],
    );
    assert(subscribedAt.size > 0, "no client had to return");
    await watcher.close();
  },
);

/** How many numbers are on their way at the same time. */
const PUBLISHERS = 3;

testBehindProxies(
  (proxy) =>
    `behind ${proxy}, a restart of one server after the other loses nothing, and fails no publish`,
  async ({ proxy, nodes }) => {
    const signer = sdk(proxy);
    const session = () => crypto.randomUUID();
    using stack = new DisposableStack();
    const got: { kind: string; numbers: number[] }[] = [];
    const channelOf = {
      "pusher-js": () => {
        const options = { wsPath: `/r/${session()}` };
        return stack.use(new StockClient(proxy, options)).pusher;
      },
      "pusher-js over streaming": () => {
        const options = streaming(proxy, session());
        return stack.use(new StockClient(proxy, options)).pusher;
      },
      "the served client": () => {
        const url = `http://127.0.0.1:${proxy.port}`;
        const client = new ServedClient(APP.key, { url });
        stack.defer(() => client.disconnect());
        return client;
      },
    };
    for (const [kind, make] of Object.entries(channelOf)) {
      for (let i = 0; i < PUBLISHERS; i++) {
        const client = make();
        const channel = client.subscribe("news");
        const inbox = new Inbox(channel);
        const numbers: number[] = [];
        channel.bind("tick", ({ n }: { n: number }) => numbers.push(n));
        channel.bind("pusher:recovery_failed", () => numbers.push(-1));
        await inbox.until("pusher:subscription_succeeded");
        got.push({ kind, numbers });
      }
    }

    const failures: unknown[] = [];
    let sent = 0;
    let isOver = false;
    const publish = async () => {
      while (!isOver) {
        const n = ++sent;
        await signer.trigger("news", "tick", { n }).then(
          (response) => response.text(),
          (error) => failures.push(error),
        );
      }
    };
    const publishing = Array.from({ length: PUBLISHERS }, publish);
    const ports = nodes.map(({ port }) => port);
    for (const node of nodes) {
      await proxy.use(ports.filter((port) => port !== node.port));
      const { code, errors } = await node.end("SIGTERM");
      assertEquals({ code, errors }, { code: 0, errors: "" });
      await node.run();
      await proxy.use(ports);
    }
    isOver = true;
    await within(DEADLINE_MS, "end of publishing", Promise.all(publishing));
    assertEquals(failures, []);

    const all = Array.from({ length: sent }, (_, i) => i + 1);
    for (const { kind, numbers } of got) {
      await eventually(() => new Set(numbers).size >= sent, `all of ${kind}`);
      const first = [...new Set(numbers)];
      assertEquals(first.toSorted((a, b) => a - b), all, kind);
      if (kind === "the served client") assertEquals(numbers.length, sent);
    }
    // One order for all of them.
    const [{ numbers }] = got as [typeof got[0]];
    for (const other of got) {
      assertEquals([...new Set(other.numbers)], [...new Set(numbers)]);
    }
  },
);
