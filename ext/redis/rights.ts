/**
 * What the user of Redis must be allowed to do. It is found out when a connection is
 * made, so that no script stops half-way for want of a right.
 *
 * @module
 */

import { Fault } from "./failures.ts";
import type { Keys } from "./keys.ts";
import type { Connection, Script } from "./network.ts";
import { script } from "./script.ts";

/**
 * All commands that are sent, or that scripts call, each in a form that could be
 * executed: Redis 7.0 crashes where it is asked about a command without all of its
 * arguments. `K` stands for a key, which serves as a topic as well.
 */
const COMMANDS = [
  ...["del K", "exists K", "get K", "hdel K f", "hexists K f", "hget K f"],
  ...["hgetall K", "hlen K", "hmget K f", "hscan K 0", "hset K f v"],
  ...["hsetnx K f v", "info", "pexpire K 1", "ping", "pttl K", "script|load s"],
  ...["set K v", "spublish K m", "ssubscribe K", "sunsubscribe K", "time"],
  ...["xadd K * f v", "xinfo|stream K", "xrange K - +", "xrevrange K + -"],
  ...["xtrim K MAXLEN 1", "zadd K 0 m", "zrange K 0 0", "zrangebyscore K 0 0"],
  ...["zcard K", "zpopmin K", "zrem K m"],
  ...["zremrangebyscore K 0 0", "zscore K m"],
];

/** What is sent to the nodes of a cluster besides. */
const COMMANDS_IN_CLUSTER = [
  ...["client|info", "cluster|info", "cluster|keyslot K", "cluster|slots"],
];

/** Commands that name a topic, which needs a right of its own. */
const OF_TOPICS = ["spublish", "ssubscribe"];

/** The commands that a user must be allowed, by their names in rules. */
export function commandNames(isCluster: boolean): string[] {
  const names = samplesOf(isCluster).map((sample) => sample.split(" ")[0]!);
  // The check itself needs it.
  return [...names, "evalsha"].sort();
}

function samplesOf(isCluster: boolean): string[] {
  return isCluster ? [...COMMANDS, ...COMMANDS_IN_CLUSTER] : COMMANDS;
}

/**
 * Finds out which rights a user lacks. KEYS any key. ARGV commands as above. Returns
 * those that the user may not use.
 */
const RIGHTS: Script = script(
  "rights",
  `
local missing = {}
-- Not all that speak the protocol can say it.
if not redis.acl_check_cmd then return missing end
for _, command in ipairs(ARGV) do
  local words = {}
  for word in command:gsub('|', ' '):gmatch('%S+') do
    words[#words + 1] = word == 'K' and KEYS[1] or word
  end
  if not redis.acl_check_cmd(unpack(words)) then
    missing[#missing + 1] = command:match('^%S+')
  end
end
return missing
`,
);

/** Checks the rights of a user before anything is done with them. */
export class Rights {
  readonly #keys: Keys;
  readonly #isCluster: boolean;

  constructor(keys: Keys, isCluster: boolean) {
    this.#keys = keys;
    this.#isCluster = isCluster;
  }

  /** What a connection has to know for it. */
  readonly scripts: readonly Script[] = [RIGHTS];

  /**
   * Throws if the user of a connection lacks a right.
   *
   * @param bucket Any that is reached over the connection.
   */
  async check(bucket: number, connection: Connection): Promise<void> {
    const missing = await connection.call(
      ...[RIGHTS, [this.#keys.meta(bucket)]] as const,
      samplesOf(this.#isCluster),
    ) as string[];
    if (missing.length === 0) return;
    const rights = missing.map((command) => `+${command}`);
    // One rule for the topics denies all of these commands.
    if (OF_TOPICS.every((command) => missing.includes(command))) {
      rights.push(...this.#keys.patterns.map((pattern) => `&${pattern}`));
    }
    throw new Fault(
      `its user lacks rights: give it ${rights.join(" ")} with ACL SETUSER`,
      { isLasting: true },
    );
  }
}
