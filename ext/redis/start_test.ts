/**
 * Starts that cannot work: each says at once what is wrong, and where, and what to do.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { makeCertificate, OPENSSL } from "../../tests/support/certificate.ts";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { freePort } from "../../tests/support/ports.ts";
import { RedisServer, testWithRedis } from "../../tests/support/redis.ts";
import { RedisCluster, until } from "../../tests/support/redis_groups.ts";
import { TAGS, TestNetwork } from "../../tests/support/redis_network.ts";
import { type NetworkOptions, RedisUnavailable } from "./network.ts";

const SECRET = "s3cret";

/** Starts a network, which must fail; returns the message. */
async function refusal(
  options: Partial<NetworkOptions> & { url: string },
  where: number | string,
): Promise<string> {
  await using made = new TestNetwork(options);
  const error = await within(
    DEADLINE_MS,
    "an error",
    assertRejects(() => made.network.start(), RedisUnavailable),
  );
  assertEquals(error.wasSent, false);
  const host = typeof where === "number" ? `127.0.0.1:${where}` : where;
  assertStringIncludes(error.message, `Cannot connect to Redis at ${host}: `);
  const shown = `${error.message} ${error.stack}`;
  assert(!shown.includes(SECRET), shown);
  assertEquals(made.changes, []);
  return error.message;
}

// ---- Where nobody, or somebody else, is -------------------------------------

Deno.test("Network.start says that nobody listens", async () => {
  const port = freePort();
  const url = `redis://:${SECRET}@127.0.0.1:${port}`;
  assertStringIncludes(await refusal({ url }, port), "nobody listens there");
  const other = freePort();
  assertStringIncludes(
    await refusal(
      { url: `redis+sentinel://127.0.0.1:${port},127.0.0.1:${other}/main` },
      `127.0.0.1:${port}, 127.0.0.1:${other}`,
    ),
    "nobody listens there",
  );
  assertStringIncludes(
    await refusal({ url: `redis+cluster://127.0.0.1:${port}` }, port),
    "nobody listens there",
  );
});

Deno.test("Network.start says that it is not Redis that answers", async () => {
  await using server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    () => new Response("hello"),
  );
  const { port } = server.addr;
  assertStringIncludes(
    await refusal({ url: `redis://127.0.0.1:${port}` }, port),
    "what answers there is not Redis: correct host and port",
  );
});

Deno.test("Network.start says that there is no answer", async () => {
  await using server = new FakeServer(() => "");
  const { port } = server;
  assertStringIncludes(
    await refusal({ url: `redis://:${SECRET}@127.0.0.1:${port}` }, port),
    "it did not answer in 3000 ms: correct host and port",
  );
});

Deno.test("Network.start says that the other side hangs up", async () => {
  await using server = new FakeServer(() => null);
  const { port } = server;
  assertStringIncludes(
    await refusal({ url: `redis://127.0.0.1:${port}` }, port),
    "it closed the connection: use rediss:// if the port is one with TLS",
  );
});

Deno.test("Network.start says that Redis is too old", async () => {
  // What Redis 5 says to a command that came later, and what Redis 6 says of itself.
  await using five = new FakeServer(() => "-ERR unknown command `HELLO`\r\n");
  assertStringIncludes(
    await refusal({ url: `redis://127.0.0.1:${five.port}` }, five.port),
    "its version is too old: use Redis 7 or later, or Valkey",
  );
  const info = "# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n";
  await using six = new FakeServer((command) =>
    command.includes("HELLO") ? "%0\r\n" : `$${info.length}\r\n${info}\r\n`
  );
  assertStringIncludes(
    await refusal({ url: `redis://127.0.0.1:${six.port}` }, six.port),
    "its version is 6.2.14: use Redis 7 or later, or Valkey",
  );
});

// ---- Who may not ------------------------------------------------------------

testWithRedis(
  "Network.start says that the password is wrong or missing",
  async () => {
    await using server = await RedisServer.start({ password: "right" });
    const { port } = server;
    for (
      const login of [
        `:${SECRET}`,
        `somebody:${SECRET}`,
        `default:${SECRET}%40`,
      ]
    ) {
      assertStringIncludes(
        await refusal({ url: `redis://${login}@127.0.0.1:${port}` }, port),
        "it refuses the user or the password: correct them in the URL",
      );
    }
    assertStringIncludes(
      await refusal({ url: `redis://127.0.0.1:${port}` }, port),
      "it wants a password: add it to the URL",
    );
    await using made = await TestNetwork.start({ url: server.url });
    assertEquals(await made.count("hello"), 1);
  },
);

testWithRedis(
  "Network logs in with a user and a password of any characters",
  async () => {
    await using server = await RedisServer.start();
    const password = "p:a@s/s?w#o%r d🦕";
    const rights = ["~{test:*", "&{test:*", "+@all", "-@dangerous", "+info"];
    await server.command(
      "ACL",
      "SETUSER",
      "us:er",
      "on",
      `>${password}`,
      ...rights,
    );
    await using made = await TestNetwork.start({
      url: `redis://${encodeURIComponent("us:er")}:${
        encodeURIComponent(password)
      }@127.0.0.1:${server.port}/0`,
    });
    await made.subscribe(0, "news");
    await made.count("hello");
    await made.hears("hello");
  },
);

testWithRedis(
  "Network needs few rights, and says that one is missing",
  async () => {
    await using server = await RedisServer.start();
    const { port } = server;
    const url = `redis://few:${SECRET}@127.0.0.1:${port}`;
    const rights = [
      ...["~{test:*", "&{test:*", "+hello", "+info", "+ping", "+evalsha"],
      ...[
        "+script|load",
        "+ssubscribe",
        "+sunsubscribe",
        "+hincrby",
        "+spublish",
      ],
      "+set",
    ];
    await server.command(
      "ACL",
      "SETUSER",
      "few",
      "on",
      `>${SECRET}`,
      ...rights,
    );
    {
      await using made = await TestNetwork.start({ url });
      await made.subscribe(0, "news");
      await made.count("hello");
      await made.hears("hello");
      await made.connection().unsubscribe([`${TAGS[0]}:t:news`]);
    }
    for (const missing of ["-info", "-script|load", "-evalsha", "-set"]) {
      await server.command("ACL", "SETUSER", "few", missing);
      assertStringIncludes(await refusal({ url }, port), "lacks a right");
      await server.command("ACL", "SETUSER", "few", `+${missing.slice(1)}`);
    }
  },
);

// ---- What will not do -------------------------------------------------------

testWithRedis(
  "Network.start refuses a policy that would throw keys away",
  async () => {
    await using server = await RedisServer.start({
      args: ["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"],
    });
    const { port, url } = server;
    const message = await refusal({ url }, port);
    assertStringIncludes(message, "its maxmemory-policy is volatile-lru");
    assertStringIncludes(message, "set it to noeviction");
    await server.command("CONFIG", "SET", "maxmemory-policy", "noeviction");
    await using made = await TestNetwork.start({ url });
    // Later it is too late to refuse: a server that works goes on.
    await server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
    made.network.reset("try it");
    await made.becomes("down");
    await made.becomes("up");
    // Without a limit nothing is thrown away.
    await server.command("CONFIG", "SET", "maxmemory", 0);
    await using other = await TestNetwork.start({ url });
    assertEquals(await other.count("hello"), 1);
  },
);

testWithRedis("Network.start refuses a replica", async () => {
  await using server = await RedisServer.start();
  await server.command("REPLICAOF", "127.0.0.1", 1);
  assertStringIncludes(
    await refusal({ url: server.url }, server.port),
    "it is a read-only replica: connect to its master",
  );
});

testWithRedis(
  "Network.start says that Redis is still loading its data",
  async () => {
    await using server = await RedisServer.start();
    const { port, url } = server;
    await server.command(
      ...["EVAL", "for i = 1, 20000 do redis.call('SET', 'k' .. i, i) end", 0],
    );
    await server.command("BGREWRITEAOF");
    await until(
      "a file to load",
      async () =>
        /aof_rewrite_in_progress:0[^]*aof_last_bgrewrite_status:ok/.test(
          String(await server.command("INFO", "persistence")),
        ),
    );
    // 20,000 keys, and 2 ms for each.
    server.args = ["--key-load-delay", "2000"].concat(
      ["--loading-process-events-interval-bytes", "1024"],
    );
    const restarted = server.restart().catch(() => {});
    await until(
      "Redis loading",
      async () =>
        await server.command("INFO", "persistence").then(
          (info) => String(info).includes("loading:1"),
          () => false,
        ),
    );
    assertStringIncludes(
      await refusal({ url }, port),
      "still loading its data",
    );
    await server.kill();
    await restarted;
  },
);

testWithRedis(
  "Network.start says which URL a cluster, a Sentinel and a single server want",
  async () => {
    await using server = await RedisServer.start();
    const address = `127.0.0.1:${server.port}`;
    assertStringIncludes(
      await refusal({ url: `redis+cluster://${address}` }, server.port),
      "it is no node of a cluster: begin the URL with redis://",
    );
    assertStringIncludes(
      await refusal({ url: `redis+sentinel://${address}/main` }, server.port),
      "it is no Sentinel: begin the URL with redis://",
    );
    await using node = await RedisServer.start({
      args: ["--cluster-enabled", "yes"],
    });
    assertStringIncludes(
      await refusal({ url: node.url }, node.port),
      "it is a node of a cluster: begin the URL with redis+cluster://",
    );
    assertStringIncludes(
      await refusal(
        { url: `redis+cluster://127.0.0.1:${node.port}` },
        node.port,
      ),
      "the cluster is down: see CLUSTER INFO",
    );
    await using sentinel = await RedisServer.start({
      config: (port, directory) =>
        `port ${port}\nbind 127.0.0.1\ndir ${directory}\n` +
        `sentinel monitor main 127.0.0.1 ${server.port} 1\n`,
      args: ["--sentinel"],
      ready: /\+monitor master/,
    });
    const { port } = sentinel;
    assertStringIncludes(
      await refusal({ url: `redis://127.0.0.1:${port}` }, port),
      "it is a Sentinel: begin the URL with redis+sentinel://",
    );
    assertStringIncludes(
      await refusal({ url: `redis+sentinel://127.0.0.1:${port}/other` }, port),
      "it knows no master of that name: correct the name at the end of the URL",
    );
    await using made = await TestNetwork.start({
      url: `redis+sentinel://127.0.0.1:${port}/main`,
    });
    assertEquals(await made.count("hello"), 1);
  },
);

testWithRedis(
  "Network.start names the master that one cannot reach, not the node that was asked",
  async () => {
    await using cluster = await RedisCluster.start();
    const [first, second] = cluster.masters;
    assert(first && second);
    await second.kill();
    await refusal({ url: cluster.url([first]) }, second.port);
  },
);

// ---- TLS --------------------------------------------------------------------

/** Defines a test that needs Redis and OpenSSL. */
function testWithTls(name: string, run: () => Promise<void>): void {
  if (OPENSSL) testWithRedis(name, run);
  else Deno.test.ignore(`${name} (no openssl)`, () => {});
}

testWithTls(
  "Network connects with TLS, and again after a restart",
  async () => {
    await using certificate = await makeCertificate("IP:127.0.0.1");
    await using server = await RedisServer.start({
      tls: certificate,
      password: SECRET,
    });
    assert(server.url.startsWith("rediss://"));
    await using made = await TestNetwork.start({
      url: server.url,
      tls: { ca: certificate.ca },
    });
    await made.subscribe(0, "news");
    await made.count("hello");
    await made.hears("hello");
    await server.restart();
    await made.becomes("down");
    await made.becomes("up");
    await made.count("again");
    await made.hears("again");
  },
);

testWithTls(
  "Network.start refuses certificates that nobody it trusts has signed, or of another name",
  async () => {
    await using certificate = await makeCertificate("DNS:redis.test");
    await using server = await RedisServer.start({ tls: certificate });
    const { port, url } = server;
    const { ca } = certificate;
    const unknown = await refusal({ url }, port);
    assertStringIncludes(unknown, "its certificate is not accepted");
    assertStringIncludes(unknown, "tls.ca");
    const misnamed = await refusal({ url, tls: { ca } }, port);
    assertStringIncludes(misnamed, "its certificate is not accepted");
    assertStringIncludes(misnamed, "tls.servername");
    await using made = await TestNetwork.start({
      url,
      tls: { ca: [ca], servername: "redis.test" },
    });
    assertEquals(await made.count("hello"), 1);
  },
);

testWithTls(
  "Network.start says that a port is one with TLS, or without",
  async () => {
    await using certificate = await makeCertificate("IP:127.0.0.1");
    await using secure = await RedisServer.start({ tls: certificate });
    assertStringIncludes(
      await refusal({ url: `redis://127.0.0.1:${secure.port}` }, secure.port),
      "use rediss:// if the port is one with TLS",
    );
    await using plain = await RedisServer.start();
    assertStringIncludes(
      await refusal(
        {
          url: `rediss://127.0.0.1:${plain.port}`,
          tls: { ca: certificate.ca },
        },
        plain.port,
      ),
      "use redis:// if the port is one without TLS",
    );
  },
);

// ---- Somebody else ----------------------------------------------------------

/** Answers everything that it reads with a text, or hangs up. */
class FakeServer implements AsyncDisposable {
  readonly #listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  readonly #connections = new Set<Deno.Conn>();
  readonly #running: Promise<void>;

  constructor(answer: (command: string) => string | null) {
    this.#running = this.#run(answer);
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const connection of this.#connections) close(connection);
    await this.#running;
  }

  async #run(answer: (command: string) => string | null): Promise<void> {
    const served: Promise<void>[] = [];
    for await (const connection of this.#listener) {
      this.#connections.add(connection);
      served.push(this.#serve(connection, answer).catch(() => {}));
    }
    await Promise.all(served);
  }

  async #serve(
    connection: Deno.TcpConn,
    answer: (command: string) => string | null,
  ): Promise<void> {
    const buffer = new Uint8Array(10_000);
    for (let length; (length = await connection.read(buffer)) !== null;) {
      const command = new TextDecoder().decode(buffer.subarray(0, length));
      const text = answer(command);
      if (text === null) break;
      await connection.write(new TextEncoder().encode(text));
    }
    close(connection);
  }
}

function close(connection: Deno.Conn): void {
  try {
    connection.close();
  } catch {
    // It is closed already.
  }
}
