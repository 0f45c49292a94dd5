/**
 * Standalone servers that are one by Redis, started as a user starts them: how they
 * begin, what they say when Redis goes, and several of them on one port.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  ask,
  type Cli,
  LOCAL,
  NET,
  open,
  publish,
  run,
  start,
} from "./support/cli.ts";
import { DEADLINE_MS, within } from "./support/deadline.ts";
import { freePort } from "./support/ports.ts";
import { RedisServer, testWithRedis } from "./support/redis.ts";

const PASSWORD = "tofu/ä@b";
const CLI = [...NET, "cli.ts", ...LOCAL, "--secret", "s", "--drain", "0"];

/** Opens a socket that is on `news`; resolves when it is. */
async function subscribed(cli: Cli) {
  const socket = new WebSocket(`${cli.url.replace("http", "ws")}/app/app-key`);
  const frames: { event: string; data: string }[] = [];
  let wake = () => {};
  socket.onmessage = ({ data }) => {
    frames.push(JSON.parse(data));
    wake();
  };
  const closed = new Promise<number>((resolve) => {
    socket.onclose = ({ code }) => resolve(code);
  });
  const next = async (event: string) => {
    const found = () => frames.find((frame) => frame.event === event);
    while (found() === undefined) {
      await within(
        DEADLINE_MS,
        event,
        new Promise<void>((resolve) => wake = resolve),
      );
    }
    return found();
  };
  await next("pusher:connection_established");
  const data = { channel: "news" };
  socket.send(JSON.stringify({ event: "pusher:subscribe", data }));
  await next("pusher_internal:subscription_succeeded");
  const close = async () => {
    socket.close();
    await within(DEADLINE_MS, "close", closed);
  };
  return { next, closed, [Symbol.asyncDispose]: close };
}

/** Asks until a check has a status. */
async function checked(cli: Cli, check: string, status: number) {
  const asking = async () => {
    while ((await ask(`${cli.url}/${check}`))[0] !== status) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  await within(DEADLINE_MS, `${check} ${status}`, asking());
}

testWithRedis(
  "cli.ts --redis makes several servers one, and a prefix parts them",
  async () => {
    await using redis = await RedisServer.start({ password: PASSWORD });
    const flag = ["--redis", redis.url];
    await using one = await start([...CLI, ...flag]);
    // The variable, for which the program needs --allow-env.
    const [first = "", ...rest] = CLI;
    await using two = await start([first, "--allow-env", ...rest], {
      PUSHER_REDIS_URL: redis.url,
    });
    const prefix = ["--redis-prefix", "other"];
    await using other = await start([...CLI, ...flag, ...prefix]);
    {
      await using ann = await subscribed(one);
      await using bob = await subscribed(two);
      await using eve = await subscribed(other);
      for (const publisher of [one, two]) {
        const response = await publish(publisher);
        assertEquals([response.status, await response.json()], [200, {}]);
      }
      for (const client of [ann, bob]) await client.next("e");
      const response = await publish(other);
      assertEquals([response.status, await response.json()], [200, {}]);
      await eve.next("e");
    }
    for (const cli of [one, two, other]) {
      assertEquals(await cli.stop("SIGTERM"), 0);
      assertEquals(await cli.errors, "");
    }
  },
);

testWithRedis(
  "cli.ts --redis says in one line why it cannot start, never with the password",
  async () => {
    await using redis = await RedisServer.start({ password: "another" });
    const login = `:${encodeURIComponent(PASSWORD)}@`;
    const cases: [url: string, code: number, said: string][] = [
      [`redis://${login}127.0.0.1:${redis.port}`, 1, "the password"],
      [`redis://127.0.0.1:${redis.port}`, 1, "wants a password"],
      [`redis://${login}127.0.0.1:${freePort()}`, 1, "start Redis"],
      [`redis://${login}nowhere.invalid`, 1, "correct the host"],
      [`http://${login}127.0.0.1`, 2, "redis://user:password@host"],
      ["", 2, "redis://user:password@host"],
    ];
    for (const [url, code, said] of cases) {
      const ended = await run([...CLI, `--redis=${url}`]);
      assertEquals([ended.code, ended.stdout], [code, ""], ended.stderr);
      assertStringIncludes(ended.stderr, said);
      const lines = ended.stderr.trim().split("\n");
      assertEquals(lines.length, code, ended.stderr);
      for (const part of [PASSWORD, "tofu", encodeURIComponent(PASSWORD)]) {
        assert(!ended.stderr.includes(part), ended.stderr);
      }
    }
  },
);

Deno.test("cli.ts never quotes a password that stands where none belongs", async () => {
  const url = "redis://ann:tofu@127.0.0.1";
  for (const args of [[url], [`--redsi=${url}`], ["--no-history", url]]) {
    const { code, stdout, stderr } = await run([...CLI, ...args]);
    assertEquals([code, stdout], [2, ""], stderr);
    assert(!stderr.includes("tofu"), stderr);
  }
  const alone = await run([...CLI, "--redis-prefix", "x"]);
  assertEquals(alone.code, 2);
  assertStringIncludes(alone.stderr, "--redis-prefix needs --redis");
});

testWithRedis(
  "cli.ts says once that Redis has gone and once that it is back, and refuses meanwhile",
  async () => {
    await using redis = await RedisServer.start();
    await using cli = await start([...CLI, "--redis", redis.url]);
    assertEquals(await ask(`${cli.url}/readyz`), [200, "ready\n"]);
    {
      await using ann = await subscribed(cli);
      await redis.kill();
      await checked(cli, "readyz", 503);
      assertEquals(await ask(`${cli.url}/readyz`), [
        503,
        "the backplane is away\n",
      ]);
      assertEquals(await ask(`${cli.url}/healthz`), [200, "ok\n"]);
      for (let i = 0; i < 5; i++) {
        const refused = await publish(cli);
        assertEquals(refused.status, 503);
        assertEquals(refused.headers.get("retry-after"), "1");
        await refused.body?.cancel();
      }
      await redis.restart();
      await checked(cli, "readyz", 200);
      const published = await publish(cli);
      assertEquals([published.status, await published.json()], [200, {}]);
      await ann.next("e");
    }
    assertEquals(await cli.stop("SIGTERM"), 0);
    const lines = (await cli.errors).trim().split("\n");
    assertEquals(lines.length, 2, lines.join("\n"));
    assertStringIncludes(
      lines[0]!,
      "Pusher: failed while reaching the backplane",
    );
    assertStringIncludes(lines[0]!, `Redis at 127.0.0.1:${redis.port}`);
    assertEquals(lines[1], "Pusher: the backplane is back");
  },
);

testWithRedis(
  "cli.ts exits 0 within its deadline while Redis does not answer",
  async () => {
    await using redis = await RedisServer.start();
    await using cli = await start([...CLI, "--redis", redis.url]);
    const socket = open(`${cli.url}/app/app-key`);
    await socket.established;
    redis.pause();
    assertEquals(await cli.stop("SIGTERM"), 0);
    assertEquals((await socket.closed).code, 4200);
  },
);

testWithRedis(
  "cli.ts --redis serves clients from all threads of deno serve --parallel, and drains all of them at SIGQUIT",
  async () => {
    await using redis = await RedisServer.start();
    await using cli = await start([
      ...["serve", "--parallel", "--no-prompt", "--allow-net"],
      ...["--host", "127.0.0.1", "--port", "0"],
      ...["cli.ts", "--secret", "s", "--drain", "0.2"],
      ...["--no-listen", "--redis", redis.url],
    ], { DENO_JOBS: "2" });
    await checked(cli, "readyz", 200);
    const clients = await Promise.all(
      Array.from({ length: 16 }, () => subscribed(cli)),
    );
    const response = await publish(cli);
    assertEquals([response.status, await response.json()], [200, {}]);
    for (const client of clients) await client.next("e");
    assertEquals(await cli.stop("SIGQUIT"), 0, await cli.errors);
    for (const { closed } of clients) assertEquals(await closed, 4200);
  },
);
