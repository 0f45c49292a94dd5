/**
 * What happens to the leases of servers, and to what servers hold, as scripts; see
 * `script.ts` for what holds of all of them.
 *
 * @module
 */

import { FENCE, type Script, script, TIME } from "./script.ts";

/**
 * The first call of a connection in a bucket. Older connections are stale from then
 * on, so that what waits in them cannot happen later.
 *
 * KEYS meta, holdings. ARGV generation, run id, fresh token, deadline, the birth that
 * the server has found here before or nothing, life.
 * Returns OK, DEAD, LATE or STALE; for how long Redis has known nothing of what was
 * there before, -1 if it knows; the birth of what it knows; and the time.
 */
export const HELLO: Script = script(
  "hello",
  TIME,
  `
local meta, n = KEYS[1], KEYS[2]
local t = now()
if t > tonumber(ARGV[4]) then return { 'LATE' } end
local own = redis.call('HGET', n, '')
if own == 'dead' then return { 'DEAD' } end
if own and tonumber(own) > tonumber(ARGV[1]) then return { 'STALE' } end
local v = redis.call('HMGET', meta, 'run', 'tok', 'flushed', 'born', 'at')
local flushed, born, at = tonumber(v[3]), v[4], tonumber(v[5])
if v[1] ~= ARGV[2] then redis.call('HSET', meta, 'run', ARGV[2], 'tok', ARGV[3]) end
if not born then
  born, at = ARGV[3], t
  redis.call('HSET', meta, 'born', born, 'at', text(at))
end
-- Perhaps a new server came first, which cannot know that there was something.
if ARGV[5] ~= '' and ARGV[5] ~= born and not flushed then
  flushed = at
  redis.call('HSET', meta, 'flushed', text(at))
end
redis.call('HSET', n, '', ARGV[1])
redis.call('PEXPIRE', meta, ARGV[6])
redis.call('PEXPIRE', n, ARGV[6])
return { 'OK', flushed and t - flushed or -1, born, text(t) }
`,
);

/**
 * Renews a lease, and finds the leases that have ended. If nobody has renewed one for
 * a while, Redis was away for all servers: then each gets some time to come back.
 *
 * KEYS leases, lapsed. ARGV incarnation, lease, whether it is the first time, life, and
 * incarnations that nobody is any more.
 * Returns whether the incarnation lives, the time, and the incarnations whose
 * holdings are to be released.
 */
export const BEAT: Script = script(
  "beat",
  TIME,
  `
local nodes, dead = KEYS[1], KEYS[2]
local t, lease = now(), tonumber(ARGV[2])
local RETURN_MS = 3000
-- The member without a name is the last renewal.
local last = tonumber(redis.call('ZSCORE', nodes, ''))
if last and t - last > lease / 2 then
  local ends = text(t + math.min(lease, RETURN_MS))
  for _, one in ipairs(redis.call('ZRANGEBYSCORE', nodes, '-inf', '(' .. ends)) do
    redis.call('ZADD', nodes, ends, one)
  end
end
redis.call('ZADD', nodes, text(t), '')
redis.call('PEXPIRE', nodes, ARGV[4])
for _, one in ipairs(redis.call('ZRANGEBYSCORE', nodes, '-inf', '(' .. text(t), 'LIMIT', 0, 100)) do
  redis.call('ZREM', nodes, one)
  redis.call('ZADD', dead, text(t), one)
  redis.call('PEXPIRE', dead, ARGV[4])
end
for i = 5, #ARGV do
  redis.call('ZREM', nodes, ARGV[i])
  redis.call('ZADD', dead, text(t), ARGV[i])
  redis.call('PEXPIRE', dead, ARGV[4])
end
local alive = 0
if ARGV[3] == '1' or redis.call('ZSCORE', nodes, ARGV[1]) then
  alive = 1
  redis.call('ZADD', nodes, text(t + lease), ARGV[1])
end
return { alive, text(t), unpack(redis.call('ZRANGE', dead, 0, 99)) }
`,
);

/**
 * Finds out whether Redis still knows an incarnation: of several masters, one may have
 * been flushed.
 *
 * KEYS meta, holdings. ARGV generation. Returns OK, DEAD or STALE, and the time.
 */
export const PROBE: Script = script(
  "probe",
  TIME,
  FENCE,
  `
local own, token = redis.call('HGET', KEYS[2], ''), redis.call('HGET', KEYS[1], 'tok')
return { refusal(own, token, ARGV[1]) or 'OK', text((now())) }
`,
);

/** Ends a lease that is needed no more. KEYS leases, lapsed. ARGV incarnation. */
export const QUIT: Script = script(
  "quit",
  `
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('ZCARD', KEYS[1]) == 1 then redis.call('ZREM', KEYS[1], '') end
return 1
`,
);

/**
 * Reads some of what an incarnation holds of a bucket. KEYS holdings. ARGV cursor, how
 * many. Returns the next cursor, and fields.
 */
export const HOLDINGS: Script = script(
  "holdings",
  `
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local fields = {}
for i = 1, #page[2], 2 do
  if page[2][i] ~= '' then fields[#fields + 1] = page[2][i] end
end
return { page[1], fields }
`,
);

/**
 * Forbids an incarnation to change a bucket from now on, and reads some of what it
 * holds.
 *
 * KEYS holdings. ARGV how long that is remembered, how many to read, life of holdings
 * that are yet to be released.
 * Returns fields; none when nothing is held any more.
 */
export const FENCE_OFF: Script = script(
  "fence",
  `
local n = KEYS[1]
local fields, cursor = {}, '0'
-- What was released leaves a long way without fields at the beginning.
repeat
  local page = redis.call('HSCAN', n, cursor, 'COUNT', ARGV[2])
  cursor = page[1]
  for i = 1, #page[2], 2 do
    if page[2][i] ~= '' then fields[#fields + 1] = page[2][i] end
  end
until #fields > 0 or cursor == '0'
redis.call('HSET', n, '', 'dead')
redis.call('PEXPIRE', n, #fields > 0 and ARGV[3] or ARGV[1])
return fields
`,
);

/** Drops what an incarnation held of a bucket, if that is nothing. KEYS holdings. */
export const RELEASE: Script = script(
  "release",
  `
if redis.call('HLEN', KEYS[1]) <= 1 then redis.call('DEL', KEYS[1]) end
return 1
`,
);

/** All scripts of leases, for a connection to load. */
export const LEASE_SCRIPTS: readonly Script[] = [
  HELLO,
  BEAT,
  PROBE,
  QUIT,
  HOLDINGS,
  FENCE_OFF,
  RELEASE,
];
