import { assert, assertEquals } from "@std/assert";
import { createHash } from "node:crypto";
import { DEADLINE_MS, within } from "../../tests/support/deadline.ts";
import { RedisServer, testWithRedis } from "../../tests/support/redis.ts";
import { type Connection, Network, type Script } from "./network.ts";

const TAGS = Array.from({ length: 64 }, (_, i) => `{test:${i}}`);

function script(name: string, text: string): Script {
  return { name, text, digest: createHash("sha1").update(text).digest("hex") };
}

const COUNT = script(
  "count",
  "local n = redis.call('INCR', KEYS[1]) redis.call('SPUBLISH', KEYS[2], ARGV[1]) return n",
);

testWithRedis(
  "Network calls scripts and hears topics over one connection",
  async () => {
    await using server = await RedisServer.start();
    const heard: string[] = [];
    const restored: Connection[] = [];
    const network = new Network({
      url: server.url,
      tags: TAGS,
      scripts: [COUNT],
    }, {
      restore: (_buckets, connection) => {
        restored.push(connection);
        return Promise.resolve();
      },
      message: (topic, text) => heard.push(`${topic} ${text}`),
      health: () => {},
    });
    await network.start();
    const connection = network.connection(3);
    const topic = `${TAGS[3]}:t:news`;
    const answers = within(
      DEADLINE_MS,
      "answers",
      Promise.all([
        connection.subscribe([topic]),
        connection.call(COUNT, [`${TAGS[3]}:n`, topic], ["hello"]),
      ]),
    );
    assertEquals((await answers)[1], 1);
    assertEquals(heard, [`${topic} hello`]);
    assertEquals(restored.length, 1);
    assert(/^[0-9a-f]{40}$/.test(connection.runId));
    await network.close();
  },
);
