/**
 * Who owns which session, as scripts; see `script.ts` for what holds of all of them.
 *
 * @module
 */

import { type Script, script, TIME } from "./script.ts";

/**
 * Makes a server the owner of a session. A call that was long on its way gives way to
 * one that was made after it, and an older connection to a newer one: its client has
 * gone on elsewhere.
 *
 * KEYS state, known, away, meta. ARGV 1 server; 2 start of the topics of servers;
 * 3 name of the session; 4 its digest; 5 life of a session with an owner; 6 how long
 * after a flush an unknown session counts as forgotten; 7 how long it is known that
 * there was a session; 8 when the call was made; 9 after how long it gives way; 10 for
 * how long the client's connection has been there; 11 by how much it is older than
 * another to which it gives way.
 * Returns the term of the owner, which grows from owner to owner; then 1 and the
 * state, 2 if it was forgotten, 0 if it is new, 3 if another server has it.
 */
export const TAKE: Script = script(
  "take",
  TIME,
  `
local x, known, away = KEYS[1], KEYS[2], KEYS[3]
local v = redis.call('HMGET', x, 's', 'o', 'n', 'c', 'b')
local t = now()
local calledAt = math.min(t, tonumber(ARGV[8]))
local begunAt = calledAt - tonumber(ARGV[10])
local term = text(math.max(t, (tonumber(v[3]) or 0) + 1))
if v[2] and v[2] ~= ARGV[1] then
  local isLate = t - calledAt > tonumber(ARGV[9])
  if isLate and (tonumber(v[4]) or 0) > calledAt then return { v[3], 3 } end
  if (tonumber(v[5]) or 0) - begunAt > tonumber(ARGV[11]) then return { v[3], 3 } end
  redis.call('SPUBLISH', ARGV[2] .. v[2], term .. ' ' .. ARGV[3])
end
redis.call('HSET', x, 'o', ARGV[1], 'n', term, 'c', text(calledAt), 'b', text(begunAt))
redis.call('PEXPIRE', x, ARGV[5])
redis.call('ZREM', away, ARGV[3])
if v[1] then return { term, 1, v[1] } end
local keptAt = tonumber(redis.call('ZSCORE', known, ARGV[4]) or nil)
if keptAt and t - keptAt < tonumber(ARGV[7]) then return { term, 2 } end
-- Also with an owner, which may have been told the same, and has kept nothing yet.
local flushed = tonumber(redis.call('HGET', KEYS[4], 'flushed') or nil)
if flushed and t - flushed < tonumber(ARGV[6]) then return { term, 2 } end
return { term, 0 }
`,
);

/**
 * Keeps the state of a session.
 *
 * KEYS state, known, away. ARGV 1 server; 2 state; 3 whether its client is away;
 * 4 age; 5 life of a session with an owner; 6 how long it is known that there was a
 * session; 7 its name; 8 its digest; 9 most sessions that are known; 10 most whose
 * clients are away.
 * Returns the names of those that have been away for longest, above the most.
 */
export const KEEP: Script = script(
  "keep",
  TIME,
  `
local x, known, away = KEYS[1], KEYS[2], KEYS[3]
local owner = redis.call('HGET', x, 'o')
if owner ~= ARGV[1] and (owner or redis.call('EXISTS', x) == 1) then return {} end
local t = now()
local function above(key, most) return redis.call('ZCARD', key) - tonumber(most) end
if redis.call('ZADD', known, text(t), ARGV[8]) == 1 then
  redis.call('ZREMRANGEBYSCORE', known, '-inf', text(t - tonumber(ARGV[6])))
  local more = above(known, ARGV[9])
  if more > 0 then redis.call('ZPOPMIN', known, more) end
end
redis.call('PEXPIRE', known, ARGV[6])
if ARGV[3] == '0' then
  redis.call('HSET', x, 's', ARGV[2], 'o', ARGV[1])
  redis.call('PEXPIRE', x, ARGV[5])
  return {}
end
redis.call('HSET', x, 's', ARGV[2])
redis.call('HDEL', x, 'o')
redis.call('PEXPIRE', x, ARGV[4])
redis.call('ZADD', away, text(t), ARGV[7])
redis.call('ZREMRANGEBYSCORE', away, '-inf', text(t - tonumber(ARGV[4])))
redis.call('PEXPIRE', away, ARGV[4])
local more = above(away, ARGV[10])
if more <= 0 then return {} end
local names = {}
for i, item in ipairs(redis.call('ZPOPMIN', away, math.min(more, 100))) do
  if i % 2 == 1 then names[#names + 1] = item end
end
return names
`,
);

/** Drops sessions whose clients are away. KEYS states. */
export const DROP: Script = script(
  "drop",
  `
for _, x in ipairs(KEYS) do
  if not redis.call('HGET', x, 'o') then redis.call('DEL', x) end
end
return 1
`,
);

/** Forgets a session. KEYS state, known. ARGV server, digest. */
export const FORGET: Script = script(
  "forget",
  `
if redis.call('HGET', KEYS[1], 'o') ~= ARGV[1] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[2])
return redis.call('DEL', KEYS[1])
`,
);

/**
 * Has sessions live on that a server owns. KEYS states. ARGV server, life, and
 * whether their clients are away from now on, for the age in the last argument.
 */
export const TOUCH: Script = script(
  "touch",
  `
for _, x in ipairs(KEYS) do
  if redis.call('HGET', x, 'o') == ARGV[1] then
    redis.call('PEXPIRE', x, ARGV[2])
    if ARGV[3] == '1' then redis.call('HDEL', x, 'o') end
  end
end
return 1
`,
);

/** All scripts of sessions, for a connection to load. */
export const SESSION_SCRIPTS: readonly Script[] = [
  TAKE,
  KEEP,
  DROP,
  FORGET,
  TOUCH,
];
